"""``/cache/{key}``: one key, read, written and deleted.

What a body is follows from its content type. ``application/json`` is ``{"value": …, "ttl": …}``: the value is stored as
programs in Python store it, and they read it as such. Any other type is the value itself, byte for byte, and comes back
under the same type: it is stored as plain bytes if the type is ``application/octet-stream`` or none, and else as the
dict ``{"$content-type": "image/png", "$body": b"…"}``, which programs in Python can read and write, too.

A GET of bytes, or of such a dict, answers with the bytes; of anything else with ``{"key", "value"}``. Bytes can be a
web page with scripts, which would run as one of the gateway's own and so could read and write everything: hence
``Content-Security-Policy: sandbox`` and ``nosniff``, which make such a page a stranger here and leave images alone.

Nothing here says that a write was done unless the mesh has said so.
"""

from __future__ import annotations

import re
from typing import Any, Final

from starlette.requests import Request

from meshcache.client.aio.client import AsyncClient
from meshcache.client.arguments import LEVELS, Item, Ttl
from meshcache.gateway import requests as asked
from meshcache.gateway.answers import json_answer, json_bytes, shown_key
from meshcache.gateway.asgi import Answer
from meshcache.gateway.cluster import Cluster
from meshcache.gateway.conditions import ANY, Conditions, cache_headers, conditions_of, etag, holds, version_in
from meshcache.gateway.refusals import Refusal

OCTETS: Final = "application/octet-stream"
TYPE_FIELD: Final = "$content-type"
BODY_FIELD: Final = "$body"
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
"""What a web page, or curl without a word about it, sends: hardly ever what is meant."""
_CONTENT_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+(\s*;[\x20-\x7e]*)?", re.ASCII)
_CONTENT_TYPE_BYTES_MAX: Final = 255


class Entries:
    """The keys of the mesh, one at a time."""

    def __init__(self, client: AsyncClient, cluster: Cluster, bodies: asked.Bodies) -> None:
        self._clients = {name: client.with_options(consistency=name) for name in LEVELS}
        self._client = client
        self._cluster = cluster
        self._bodies = bodies

    async def answer(self, request: Request) -> Answer:
        """Answer a request for one key."""
        key = asked.key_of(request.path_params["key"])
        match request.method:
            case "PUT":
                return await self._put(request, key)
            case "DELETE":
                return await self._delete(request, key)
        return await self._get(request, key)

    def _client_of(self, consistency: str | None) -> AsyncClient:
        return self._client if consistency is None else self._clients[consistency]

    async def _get(self, request: Request, key: bytes) -> Answer:
        consistency = asked.consistency_of(asked.options_of(request, ("consistency",)))
        item = await self._client_of(consistency).gets(key, near=True)
        conditions = conditions_of(request)
        if item is None or item.stale:
            if conditions.match is not None:
                raise Refusal(412, "Condition not met", "there is no such key")
            raise Refusal(404, "Key not found")
        tag = etag(item.version)
        if conditions.match is not None and not holds(conditions.match, tag):
            raise Refusal(412, "Condition not met", "the key has another version", headers={"ETag": f'"{tag}"'})
        headers = cache_headers(item)
        if conditions.none_match is not None and holds(conditions.none_match, tag):
            return Answer(b"", 304, [(name.encode(), text.encode()) for name, text in headers.items()])
        return _shown(key, item, headers)

    async def _put(self, request: Request, key: bytes) -> Answer:
        conditions = conditions_of(request)
        if conditions.match is not None and conditions.none_match is not None:
            raise Refusal(400, "Invalid condition", "give If-Match or If-None-Match, not both")
        if conditions.none_match not in (None, ANY):
            raise Refusal(400, "Invalid condition", "a PUT takes If-None-Match: * only, which stores a new key")
        options = asked.options_of(request, ("consistency", "ttl", "ttl_s"))
        consistency = asked.consistency_of(options)
        tags = asked.tags_in_header(request)
        facts = await self._cluster.facts()
        value, ttl = await self._content(request, options, facts.value_bytes_max)
        if not await _store(self._client_of(consistency), key, value, ttl, tags, conditions):
            what = "the key is there already" if conditions.none_match else "the key is gone, or has another version"
            raise Refusal(412, "Condition not met", what)
        copies = facts.copies(consistency)
        return json_answer({**shown_key(key), "stored": True, "replicas": copies, "quorum": copies}, 201)

    async def _content(self, request: Request, options: dict[str, str], value_bytes_max: int) -> tuple[Any, Ttl]:
        """Return the value of a PUT, and its lifetime."""
        kind = asked.media_type(request)
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "Encoded body", "send the value as it is, without Content-Encoding")
        if kind == "application/json":
            if options.keys() & {"ttl", "ttl_s"}:
                raise Refusal(400, "Invalid ttl", "with a JSON body, ttl and ttl_s belong into the body")
            body = await self._bodies.read_json(request, value_bytes_max + asked.ENVELOPE_BYTES)
            asked.checked_fields(body, ("value", "ttl", "ttl_s"))
            if "value" not in body:
                raise Refusal(400, "Value is required", 'the body must be {"value": any JSON, "ttl": milliseconds}')
            return body["value"], asked.lifetime_of(body)
        if kind in _FORMS:
            how = 'Content-Type: application/json for {"value": …}, or the type of the value that the body is'
            raise Refusal(415, "Form refused", f"forms are no values: say {how}")
        full = request.headers.get("content-type", OCTETS).strip()
        if len(full) > _CONTENT_TYPE_BYTES_MAX or not _CONTENT_TYPE.fullmatch(full):
            detail = f"must be a type as image/png, of at most {_CONTENT_TYPE_BYTES_MAX} characters of ASCII"
            raise Refusal(400, "Invalid content type", f"Content-Type {detail}")
        ttl = asked.lifetime_in_options(options)
        raw = await self._bodies.read(request, value_bytes_max)
        return raw if full == OCTETS else {TYPE_FIELD: full, BODY_FIELD: raw}, ttl

    async def _delete(self, request: Request, key: bytes) -> Answer:
        consistency = asked.consistency_of(asked.options_of(request, ("consistency",)))
        if conditions_of(request) != (None, None):
            detail = "a DELETE takes no condition: it could not keep it while others write"
            raise Refusal(400, "Invalid condition", detail)
        facts = await self._cluster.facts()
        deleted = await self._client_of(consistency).delete(key)
        answer = {**shown_key(key), "deleted": deleted, "nodesUpdated": facts.copies(consistency)}
        return json_answer(answer)


async def _store(
    client: AsyncClient, key: bytes, value: Any, ttl: Ttl, tags: tuple[bytes, ...], conditions: Conditions
) -> bool:
    """Store a value if the conditions hold; False if they do not."""
    if conditions.none_match is not None:
        return await client.add(key, value, ttl, tags=tags)
    if conditions.match is None:
        await client.set(key, value, ttl, tags=tags)
        return True
    if isinstance(conditions.match, str):
        return await client.replace(key, value, ttl, tags=tags)
    versions = version_in(conditions.match)
    if len(versions) > 1:
        present = await client.gets(key)
        versions = [] if present is None else [version for version in versions if version == present.version]
    return bool(versions) and await client.cas(key, value, versions[0], ttl, tags=tags)


def _shown(key: bytes, item: Item, headers: dict[str, str]) -> Answer:
    """Return the answer that shows a value."""
    value, kind = item.value, OCTETS
    if type(value) is dict and value.keys() == {TYPE_FIELD, BODY_FIELD}:
        full, raw = value[TYPE_FIELD], value[BODY_FIELD]
        if isinstance(full, str) and isinstance(raw, bytes) and _CONTENT_TYPE.fullmatch(full):
            value, kind = raw, full
    if type(value) is bytes:
        headers |= {"Content-Type": kind, "Content-Security-Policy": "sandbox"}
        return Answer(value, 200, _fields(headers, len(value)))
    shown = {**shown_key(key), "value": value}
    if item.near:
        shown["source"] = "hot-key-cache"
    try:
        body = json_bytes(shown)
    except RecursionError:
        detail = "the value has too many levels of containers in each other"
        raise Refusal(406, "No form for this value", detail) from None
    headers["Content-Type"] = "application/json"
    return Answer(body, 200, _fields(headers, len(body)))


def _fields(headers: dict[str, str], body_bytes: int) -> list[tuple[bytes, bytes]]:
    fields = [(name.encode(), text.encode()) for name, text in headers.items()]
    fields.append((b"content-length", b"%d" % body_bytes))
    return fields
