"""What backends share: the arguments of their clients, outages that count as misses, long keys.

``on_error="miss"`` means for all of them: while the mesh fails, reads find nothing and writes are given up; django.py
says which of Django's are not. The client counts both in ``fallbacks``, and says so in the log once a minute. The
default is ``"raise"``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from meshcache.client.arguments import Ttl
from meshcache.client.blocking.client import Client
from meshcache.client.fallbacks import OUTAGES
from meshcache.client.seeds import SEEDS_VARIABLE, parse_seeds

T = TypeVar("T")

KEY_BYTES_MAX: Final = 512
"""Longer keys are replaced by a digest: half of what a key may take is left to prefixes and namespaces."""


def client_arguments(
    seeds: str | Sequence[str] | None, options: dict[str, Any], *, codec: str | None = None
) -> dict[str, Any]:
    """Return the arguments of a client, by which backends of a process find the same one.

    What is not among the options is as the URL in ``seeds`` says; else ``on_error`` is "raise", and ``codec`` this one.
    """
    found = parse_seeds(seeds)
    text = os.environ.get(SEEDS_VARIABLE) if seeds is None else seeds  # which may be another one later
    return {
        **options,
        "seeds": text if isinstance(text, str) and "://" in text else found.addresses,
        "codec": options.get("codec") or found.options.get("codec", codec),
        "on_error": options.get("on_error") or found.options.get("on_error", "raise"),
    }


def write_or_skip(client: Client, *, skip: bool, write: Callable[[], T], instead: T) -> T:
    """Return what a write returns; if ``skip`` and the mesh fails, count a write that was given up, and go on."""
    try:
        return write()
    except OUTAGES as error:
        if not skip:
            raise
        client.fallbacks.count(error, writes=1)
        return instead


def set_each(client: Client, items: Mapping[Any, Any], ttl: Ttl, *, skip: bool) -> list[Any]:
    """Store values, with one message to each node; return the keys that were given up, if that is allowed.

    Else this raises, as ``set`` does: ``set_many`` of a client only tells which keys failed, so one is tried again.
    """
    failed = list(items)
    try:
        failed = client.set_many(items, ttl)
        while failed:
            client.set(failed[0], items[failed[0]], ttl)
            failed = failed[1:]
    except OUTAGES as error:
        if not skip:
            raise
        client.fallbacks.count(error, writes=len(failed))
    return failed


def fitting(key: Any) -> Any:
    """Return a key that is short enough for the mesh: a long one is replaced by its digest."""
    if not isinstance(key, str) or len(key) * 4 <= KEY_BYTES_MAX:
        return key
    raw = key.encode("utf-8", "surrogatepass")
    return key if len(raw) <= KEY_BYTES_MAX else f"sha256:{hashlib.sha256(raw).hexdigest()}"
