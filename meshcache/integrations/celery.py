"""A result backend for Celery: ``result_backend = "meshcache://127.0.0.1:7101,127.0.0.1:7102/results:?timeout=2"``.

What follows ``meshcache://`` is what follows ``mesh://`` in a URL for ``meshcache.Client``. A result lives for
``result_expires``. Chords work: nodes count their parts.

Results are in a cache, which may forget them early: size the mesh for them, and keep what can not be computed again
elsewhere. A chord whose counter is lost does not go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from celery.backends.base import KeyValueStoreBackend

from meshcache.client.fallbacks import OUTAGES
from meshcache.integrations.clients import shared_client
from meshcache.integrations.shared import client_arguments


class MeshcacheBackend(KeyValueStoreBackend):  # type: ignore[misc]  # Celery has no types
    """A result backend in a mesh."""

    implements_incr = True
    supports_autoexpire = True

    def __init__(self, app: Any, *, url: str | None = None, **options: Any) -> None:
        super().__init__(app, url=url, **options)
        _, _, rest = (url or "").partition("://")
        self.client = shared_client(client_arguments(f"mesh://{rest}" if rest else None, {}))

    def get(self, key: str | bytes) -> Any:
        """Return what is stored for a result."""
        return self.client.get(key)

    def mget(self, keys: Iterable[str | bytes]) -> list[Any]:
        """Return what is stored for several results, with one message to each node."""
        keys = list(keys)
        found = self.client.get_many(keys)
        return [found.get(key) for key in keys]

    def set(self, key: str | bytes, value: Any) -> None:
        """Store a result."""
        self.client.set(key, value, self._ttl(self.expires))

    def delete(self, key: str | bytes) -> None:
        """Delete a result."""
        self.client.delete(key)

    def incr(self, key: str | bytes) -> int:
        """Count a part of a chord that is done."""
        return self.client.incr(key, ttl=self._ttl(self.expires))

    def expire(self, key: str | bytes, value: float | timedelta) -> None:
        """Let something expire this many seconds from now; 0 is for ever."""
        self.client.touch(key, self._ttl(value))

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Tell Celery, where ``result_backend_always_retry`` is on, that an outage may pass."""
        return isinstance(exc, OUTAGES)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires, "url": self.url})

    @staticmethod
    def _ttl(expires: float | timedelta | None) -> float | timedelta | None:
        return expires or None
