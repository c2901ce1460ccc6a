"""A backend for cachelib, and so for all that takes a cache of cachelib: Flask-Caching, Flask-Session.

::

    from meshcache.integrations.cachelib import MeshCache

    cache = MeshCache("127.0.0.1:7101", key_prefix="shop:")
    cache.set("user:1", {"name": "Ada"}, timeout=60)

Timeouts mean what they mean in cachelib: None is the default, 0 is for ever. What has a negative timeout has expired
already, as in ``SimpleCache`` and ``MemcachedCache``: it replaces what was there, and is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import cachelib

from meshcache.integrations.clients import shared_client
from meshcache.integrations.shared import client_arguments, fitting, set_each, write_or_skip

T = TypeVar("T")


class Serializer(Protocol):
    """What cachelib calls a serializer."""

    def dumps(self, value: Any) -> Any:
        """Return what is stored for a value."""
        ...

    def loads(self, bvalue: Any) -> Any:
        """Return the value of what is stored."""
        ...


class MeshCache(cachelib.BaseCache):
    """A cache of cachelib in a mesh.

    ``seeds`` and all further ``options`` are those of ``meshcache.Client``: ``timeout``, for example, is how long a
    call may take. Values are pickled, as cachelib's users expect, but for bytes, str and int, which any client can
    read; ``codec="msgpack"`` stores no pickles. ``on_error="miss"``: while the mesh fails, reads find nothing and
    writes are given up; they return False or None, as cachelib has it.

    ``client`` is the client within ``key_prefix``, for what cachelib has no words for: tags, ``get_or_set``, locks. All
    caches of a process with the same settings share its connections.
    """

    serializer: Serializer | None = None
    """If this is set, it makes the bytes that are stored, but for integers."""

    def __init__(
        self,
        seeds: str | Sequence[str] | None = None,
        default_timeout: int | timedelta = 300,
        key_prefix: str = "",
        *,
        ignore_delete_many_errors: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(default_timeout)
        self.ignore_delete_many_errors = ignore_delete_many_errors  # which cachelib before 0.16 does not know
        if (default_s := self._normalize_timeout(None)) < 0:
            raise ValueError(f"default_timeout must be 0 (never expires) or more, is {default_s}")
        self.key_prefix = key_prefix
        arguments = client_arguments(seeds, options, codec="pickle")
        self._skip = arguments["on_error"] == "miss"
        self.client = shared_client(arguments).namespace(key_prefix)

    # ---- reads

    def get(self, key: str) -> Any:
        """Return the value of a key; None if there is none."""
        return self._loaded(self.client.get(fitting(key)))

    def get_many(self, *keys: str) -> list[Any]:
        """Return the values of these keys, None for those that are not there; it takes one message to each node."""
        names = [fitting(key) for key in keys]
        found = self.client.get_many(names)
        return [self._loaded(found.get(name)) for name in names]

    def has(self, key: str) -> bool:
        """Tell whether a key is there."""
        return self.client.exists(fitting(key))

    # ---- writes

    def set(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store a value; tell whether it was stored."""
        ttl = self._ttl(timeout)
        if ttl is not None and ttl < 0:
            return bool(self._delete([key]))
        stored = self._dumped(value)

        def store() -> bool:
            self.client.set(fitting(key), stored, ttl)
            return True

        return self._write(store, instead=False)

    def set_many(self, mapping: Mapping[str, Any], timeout: int | timedelta | None = None) -> list[Any]:
        """Store values, with one message to each node; return the keys that were stored."""
        ttl = self._ttl(timeout)
        if ttl is not None and ttl < 0:
            return self._delete(list(mapping))
        names = {fitting(key): key for key in mapping}
        items = {name: self._dumped(mapping[key]) for name, key in names.items()}
        failed = set_each(self.client, items, ttl, skip=self._skip)
        return [key for name, key in names.items() if name not in failed]

    def add(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store a value if the key has none; tell whether it was stored."""
        ttl = self._ttl(timeout)
        if ttl is not None and ttl < 0:
            return not self.has(key)
        stored = self._dumped(value)
        return self._write(lambda: self.client.add(fitting(key), stored, ttl), instead=False)

    def delete(self, key: str) -> bool:
        """Delete a key; tell whether it was there."""
        return self._write(lambda: self.client.delete(fitting(key)), instead=False)

    def delete_many(self, *keys: str) -> list[Any]:
        """Delete keys, with one message to each node; return those that are gone now, also if they were not there."""
        deleted = self._delete(list(keys))
        if len(deleted) < len(keys) and not self.ignore_delete_many_errors:
            raise RuntimeError(f"Failed to delete keys: {list(keys)}")
        return deleted

    def inc(self, key: str, delta: int = 1) -> int | None:
        """Add to a number, atomically; a missing one counts from 0 and gets the default timeout."""
        return self._write(lambda: self.client.incr(fitting(key), delta, ttl=self._ttl(None)), None)

    def dec(self, key: str, delta: int = 1) -> int | None:
        """Subtract from a number, atomically."""
        return self.inc(key, -delta)

    def clear(self) -> bool:
        """Drop all keys with this prefix; without a prefix, all keys of the mesh."""
        return self._write(lambda: self.client.clear() >= 0, instead=False)

    # ---- how

    def _delete(self, keys: list[str]) -> list[Any]:
        names = [fitting(key) for key in keys]
        return keys if self._write(lambda: self.client.delete_many(names) >= 0, instead=False) else []

    def _write(self, write: Callable[[], T], instead: T) -> T:
        return write_or_skip(self.client, skip=self._skip, write=write, instead=instead)

    def _ttl(self, timeout: int | timedelta | None) -> int | None:
        """Return a timeout in seconds, None for ever."""
        return self._normalize_timeout(timeout) or None

    def _dumped(self, value: Any) -> Any:
        """Return what the client is to store. An integer stays one, so that nodes can count."""
        return value if self.serializer is None or type(value) is int else self.serializer.dumps(value)

    def _loaded(self, stored: Any) -> Any:
        if self.serializer is None or stored is None or type(stored) is int:
            return stored
        return self.serializer.loads(stored)
