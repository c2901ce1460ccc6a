"""``POST /cache:batch``: many keys in one request, which take one message for each node concerned.

A batch says which keys to get, which to set and which to delete. What it does to different keys happens in no order,
and so no key may stand in it twice. Each key is on its own: of a batch of which something failed, the rest is done, and
the answer says which is which.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

from starlette.requests import Request

from meshcache.client.aio.client import AsyncClient
from meshcache.client.arguments import LEVELS, Ttl
from meshcache.errors import MeshcacheError
from meshcache.gateway import requests as asked
from meshcache.gateway.answers import json_answer, json_bytes
from meshcache.gateway.asgi import Answer
from meshcache.gateway.refusals import Refusal, retry_after

KEYS_MAX: Final = 1000
"""In one batch."""
VALUES_BYTES_MAX: Final = 16 << 20
"""Of the JSON of all values that a batch gets."""
_PORTION_KEYS: Final = 16
_PORTION_BYTES: Final = 1 << 20
"""Below this the next portion is twice as large."""

Failures = dict[str, str | MeshcacheError]
"""By key, what went wrong."""


class Entry(NamedTuple):
    """A key that is to be set."""

    key: str
    value: Any
    ttl: Ttl
    tags: tuple[bytes, ...]


class Batches:
    """Many keys at a time."""

    def __init__(self, client: AsyncClient, bodies: asked.Bodies) -> None:
        self._clients = {None: client} | {name: client.with_options(consistency=name) for name in LEVELS}
        self._bodies = bodies

    async def answer(self, request: Request) -> Answer:
        """Answer a batch."""
        consistency = asked.consistency_of(asked.options_of(request, ("consistency",)))
        body = await self._bodies.read_json(request, asked.JSON_BYTES_MAX)
        asked.checked_fields(body, ("get", "set", "delete"))
        gets = asked.listed(body, "get", KEYS_MAX, asked.key_in_body)
        sets = asked.listed(body, "set", KEYS_MAX, _entry)
        deletes = asked.listed(body, "delete", KEYS_MAX, asked.key_in_body)
        keys = [*gets, *[entry.key for entry in sets], *deletes]
        _check_keys(keys)
        client = self._clients[consistency]
        found, failed_sets, deleted = await asyncio.gather(
            _get_all(client, gets), _set_all(client, sets), _delete_all(client, deletes)
        )
        failed = {**failed_sets, **{key: each for key, each in deleted.items() if isinstance(each, Exception)}}
        answer = {
            "values": found,
            "missing": [key for key in gets if key not in found],
            "stored": [entry.key for entry in sets if entry.key not in failed_sets],
            "deleted": {key: each for key, each in deleted.items() if not isinstance(each, Exception)},
            "failed": {key: str(each) for key, each in failed.items()},
        }
        if failed:
            text = f"{len(failed)} of {len(keys)} keys: the others are done"
            answer = {"error": "Too few nodes answered", "detail": text, **answer}
            return json_answer(answer, 503, retry_after(*failed.values()))
        return json_answer(answer)


def _entry(content: Any, name: str) -> Entry:
    if not isinstance(content, dict):
        raise Refusal(400, "Invalid body", f'{name} must be an object as {{"key": …, "value": …}}')
    asked.checked_fields(content, ("key", "value", "ttl", "ttl_s", "tags"), name)
    if "value" not in content:
        raise Refusal(400, "Value is required", f"{name} has no value; null is one")
    key = asked.key_in_body(content.get("key"), f"{name}.key")
    return Entry(key, content["value"], asked.lifetime_of(content), asked.tags_of(content.get("tags", []), name))


def _check_keys(keys: list[str]) -> None:
    if not keys:
        raise Refusal(400, "Invalid body", 'nothing to do: say which keys to "get", "set" or "delete"')
    if len(keys) > KEYS_MAX:
        raise Refusal(400, "Invalid body", f"a batch has at most {KEYS_MAX:,} keys, not {len(keys):,}")
    if len(set(keys)) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise Refusal(400, "Invalid body", f"the key {twice[:80]!r} stands in the batch twice")


async def _get_all(client: AsyncClient, keys: list[str]) -> dict[str, Any]:
    """Get keys, in portions: how long their values are is not known before, and must not be more than there is room."""
    found: dict[str, Any] = {}
    at, count, total_bytes = 0, _PORTION_KEYS, 0
    while at < len(keys):
        portion = await client.get_many(keys[at : at + count])
        portion_bytes = len(json_bytes(portion))
        total_bytes += portion_bytes
        if total_bytes > VALUES_BYTES_MAX:
            raise Refusal(
                413, "Values too large", f"together they take more than {VALUES_BYTES_MAX:,} bytes: get fewer"
            )
        found |= portion
        at += count
        count = count * 2 if portion_bytes < _PORTION_BYTES else _PORTION_KEYS
    return found


async def _set_all(client: AsyncClient, entries: list[Entry]) -> Failures:
    """Set keys; returns those that failed, and why. Those with the same lifetime and tags go together."""
    alike: dict[tuple[Ttl, tuple[bytes, ...]], dict[str, Any]] = {}
    for entry in entries:
        alike.setdefault((entry.ttl, entry.tags), {})[entry.key] = entry.value
    done = await asyncio.gather(*[_set_alike(client, values, *how) for how, values in alike.items()])
    return {key: why for failed in done for key, why in failed.items()}


async def _set_alike(client: AsyncClient, values: dict[str, Any], ttl: Ttl, tags: tuple[bytes, ...]) -> Failures:
    why: str | MeshcacheError = "too few nodes stored it in time, or none can be reached"
    try:
        failed = await client.set_many(values, ttl, tags=tags)
    except MeshcacheError as error:
        failed, why = list(values), error
    return dict.fromkeys(failed, why)


async def _delete_all(client: AsyncClient, keys: list[str]) -> dict[str, bool | MeshcacheError]:
    """Delete keys; returns of each whether it was there, or what went wrong."""

    async def delete(key: str) -> bool | MeshcacheError:
        try:
            return await client.delete(key)
        except MeshcacheError as error:
            return error

    return dict(zip(keys, await asyncio.gather(*map(delete, keys)), strict=True))
