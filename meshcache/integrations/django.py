# ruff: noqa: ASYNC109  (the timeout of Django's methods is how long a key is kept)
"""A backend for Django's cache: ``"BACKEND": "meshcache.integrations.django.MeshCache"``.

Every method is written once, as a flow of calls to a client (``patterns/steps.py``). Django's methods run it with the
client for threads, and those that begin with ``a`` with the client of the running event loop, so nothing waits in a
thread there.

What Django means, and how it is said to the mesh:

- The timeout ``None`` is a key that never expires; 0 and less is one that is not kept: ``set`` deletes it, ``touch``
  too, and ``add`` tells whether it would have been stored.
- Values are pickled unless ``OPTIONS`` has another ``codec``. Integers are not: the nodes count with them.
- ``incr`` of a missing key raises ValueError. Of a value that is no integer it raises NotANumber, a TypeError.
- ``get_or_set`` computes a missing value once in the whole mesh. Who has waited for another caller for as long as the
  client's ``timeout`` computes it, too: Django's ``get_or_set`` never fails because others are slow.
- A key that no node takes, because it has more than 1,024 bytes once it is made, raises Django's InvalidCacheKey.

``OPTIONS={"on_error": "miss"}``: while the mesh fails, reads find nothing and ``get_or_set`` computes; ``set``,
``set_many``, ``touch``, ``delete`` and ``delete_many`` are given up. All this is counted in ``fallbacks`` of the client
that was used, and logged. ``add``, ``incr``, ``decr`` and ``clear`` raise nevertheless: their callers act on the
answer, and there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache as once
from functools import partial
from pickle import PickleError
from typing import Any, Final

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, InvalidCacheKey
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from meshcache.client.aio.client import AsyncClient
from meshcache.client.arguments import MISSING
from meshcache.client.blocking.client import Client
from meshcache.client.fallbacks import OUTAGES
from meshcache.durations import in_seconds
from meshcache.errors import InvalidKey, KeyMissing, OperationTimeout, SerializationError
from meshcache.integrations.clients import shared_client, shared_loop_clients
from meshcache.integrations.shared import client_arguments
from meshcache.patterns.steps import Flow, run, run_async

OPTIONS: Final = (
    "timeout",
    "consistency",
    "codec",
    "compress",
    "compress_min_bytes",
    "namespace",
    "cluster",
    "near_cache",
    "on_error",
    "hedge",
    "key_file",
)
"""What OPTIONS may have: the arguments of Client, but for those that Django has settings for."""
_INSTEAD: Final = {
    "ttl": "Django's TIMEOUT is for that",
    "MAX_ENTRIES": "nodes are limited by their own store.max_entries and store.max_bytes",
    "CULL_FREQUENCY": "nodes choose by themselves what goes when they are full",
}
"""What could be expected in OPTIONS, and where it is."""


class NotPickled(SerializationError, PickleError):
    """A value that can not be pickled: for who catches pickle's error, as with Django's other backends."""


class MeshCache(BaseCache):
    """Django's cache on a mesh.

    ``LOCATION`` is what Client takes as seeds: "host:port", several with commas or as a list, or a URL
    "mesh://host:port,host:port/namespace?timeout=0.5"; empty: the environment variable MESHCACHE_SEEDS, else
    127.0.0.1:7101. Backends with the same LOCATION and OPTIONS share one client in a process, and one in each event
    loop. It may be made before a fork.
    """

    def __init__(self, location: str | Iterable[str], params: dict[str, Any]) -> None:
        super().__init__(params)
        arguments = _arguments(location, params.get("OPTIONS", {}))
        self.client: Client = shared_client(arguments)
        """The client itself, for what Django's cache has no methods for: tags, locks, near copies. Do not close it."""
        self._loop_clients = shared_loop_clients(arguments)
        self._goes_on = arguments["on_error"] == "miss"

    @property
    def async_client(self) -> AsyncClient:
        """The client of the running event loop. Raises RuntimeError if none runs."""
        return self._loop_clients.here()

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float | None:
        """Return the seconds that a key is kept; None: for ever, 0: not at all."""
        seconds = in_seconds(self.default_timeout if timeout == DEFAULT_TIMEOUT else timeout)
        if seconds is not None and seconds <= 0:
            return 0
        return seconds  # type: ignore[no-any-return]  # a number, else the client refuses it

    # ---- Django's methods; those for asyncio differ in the client and in who runs the flow

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return the value of a key, or ``default``."""
        return run(self._get(self.client, key, default, version))

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """See get()."""
        return await run_async(self._get(self.async_client, key, default, version))

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Return the values of those keys that are there, asked for together."""
        return run(self._get_many(self.client, keys, version))

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """See get_many()."""
        return await run_async(self._get_many(self.async_client, keys, version))

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Tell whether a key has a value, without fetching it."""
        return run(self._has_key(self.client, key, version))

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        """See has_key()."""
        return await run_async(self._has_key(self.async_client, key, version))

    def get_or_set(self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """Return the value of a key; if there is none, store ``default``, or what it returns if it can be called."""
        return run(self._get_or_set(self.client, key, default, timeout, version))

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """See get_or_set(); ``default`` may also be a coroutine function."""
        return await run_async(self._get_or_set(self.async_client, key, default, timeout, version))

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a value."""
        run(self._set(self.client, key, value, timeout, version))

    async def aset(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """See set()."""
        await run_async(self._set(self.async_client, key, value, timeout, version))

    def set_many(self, data: dict[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> list[Any]:
        """Store several values together; return the keys for which that failed."""
        return run(self._set_many(self.client, data, timeout, version))

    async def aset_many(
        self, data: dict[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """See set_many()."""
        return await run_async(self._set_many(self.async_client, data, timeout, version))

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a value if the key has none; True if it was stored."""
        return run(self._add(self.client, key, value, timeout, version))

    async def aadd(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """See add()."""
        return await run_async(self._add(self.async_client, key, value, timeout, version))

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Set a key's lifetime anew; True if it was there."""
        return run(self._touch(self.client, key, timeout, version))

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """See touch()."""
        return await run_async(self._touch(self.async_client, key, timeout, version))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to a number and return the new one. Raises ValueError if there is none."""
        return run(self._incr(self.client, key, delta, version))

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """See incr()."""
        return await run_async(self._incr(self.async_client, key, delta, version))

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Delete a key; True if it was there."""
        return run(self._delete(self.client, key, version))

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        """See delete()."""
        return await run_async(self._delete(self.async_client, key, version))

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Delete several keys together."""
        run(self._delete_many(self.client, keys, version))

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """See delete_many()."""
        await run_async(self._delete_many(self.async_client, keys, version))

    def clear(self) -> None:
        """Drop every key of the namespace in LOCATION or OPTIONS; without one, all keys of the mesh."""
        self.client.clear()

    async def aclear(self) -> None:
        """See clear()."""
        await self.async_client.clear()

    def close(self, **kwargs: Any) -> None:
        """Keep the connections: Django calls this after each request."""

    async def aclose(self, **kwargs: Any) -> None:
        """See close(). Newer versions of Django would have a thread call it."""

    # ---- what they do; ``client`` is a Client or an AsyncClient

    def _get(self, client: Any, key: Any, default: Any, version: int | None) -> Flow[Any]:
        made = self.make_and_validate_key(key, version)
        return (yield from _called(partial(client.get, made, default)))

    def _get_many(self, client: Any, keys: Iterable[Any], version: int | None) -> Flow[dict[Any, Any]]:
        made = {self.make_and_validate_key(key, version): key for key in keys}
        found = yield from _called(partial(client.get_many, made))
        return {made[name]: value for name, value in found.items()}

    def _has_key(self, client: Any, key: Any, version: int | None) -> Flow[bool]:
        made = self.make_and_validate_key(key, version)
        return bool((yield from _called(partial(client.exists, made))))

    def _get_or_set(self, client: Any, key: Any, default: Any, timeout: Any, version: int | None) -> Flow[Any]:
        made, ttl = self.make_and_validate_key(key, version), self.get_backend_timeout(timeout)
        loader = _Loader(default)
        if ttl != 0:
            on_error = "load" if self._goes_on else "raise"
            try:
                return (yield from _called(partial(client.get_or_set, made, loader, ttl, on_error=on_error)))
            except OperationTimeout:
                if loader.has_begun:
                    raise
        # It is not to be kept, or other callers have been computing it for too long.
        value = yield from _called(partial(client.get, made, MISSING))
        if value is MISSING:
            value = yield loader
            yield from self._set(client, key, value, timeout, version)
        return value

    def _set(self, client: Any, key: Any, value: Any, timeout: Any, version: int | None) -> Flow[None]:
        made, ttl = self.make_and_validate_key(key, version), self.get_backend_timeout(timeout)
        call = partial(client.delete, made) if ttl == 0 else partial(client.set, made, value, ttl)
        yield from self._write(client, call, otherwise=None)

    def _set_many(self, client: Any, data: dict[Any, Any], timeout: Any, version: int | None) -> Flow[list[Any]]:
        made = {self.make_and_validate_key(key, version): key for key in data}
        ttl = self.get_backend_timeout(timeout)
        if ttl == 0:
            yield from self._write(client, partial(client.delete_many, made), otherwise=0, keys=len(made))
            return []
        values = {name: data[key] for name, key in made.items()}
        call = partial(client.set_many, values, ttl)
        failed = yield from self._write(client, call, otherwise=list(made), keys=len(made))
        return [made[name] for name in failed]

    def _add(self, client: Any, key: Any, value: Any, timeout: Any, version: int | None) -> Flow[bool]:
        made, ttl = self.make_and_validate_key(key, version), self.get_backend_timeout(timeout)
        if ttl == 0:
            return not (yield from _called(partial(client.exists, made)))
        return bool((yield from _called(partial(client.add, made, value, ttl))))

    def _touch(self, client: Any, key: Any, timeout: Any, version: int | None) -> Flow[bool]:
        made, ttl = self.make_and_validate_key(key, version), self.get_backend_timeout(timeout)
        call = partial(client.delete, made) if ttl == 0 else partial(client.touch, made, ttl)
        return bool((yield from self._write(client, call, otherwise=False)))

    def _incr(self, client: Any, key: Any, delta: int, version: int | None) -> Flow[int]:
        made = self.make_and_validate_key(key, version)
        try:
            return int((yield from _called(partial(client.incr, made, delta, initial=None))))
        except KeyMissing:
            raise ValueError(f"Key {key!r} not found") from None

    def _delete(self, client: Any, key: Any, version: int | None) -> Flow[bool]:
        made = self.make_and_validate_key(key, version)
        return bool((yield from self._write(client, partial(client.delete, made), otherwise=False)))

    def _delete_many(self, client: Any, keys: Iterable[Any], version: int | None) -> Flow[None]:
        made = [self.make_and_validate_key(key, version) for key in keys]
        yield from self._write(client, partial(client.delete_many, made), otherwise=0, keys=len(made))

    def _write(self, client: Any, call: Callable[[], Any], otherwise: Any, keys: int = 1) -> Flow[Any]:
        """Make a call that may be given up, if the settings say so; then ``otherwise`` is its result."""
        try:
            return (yield from _called(call))
        except OUTAGES as error:
            if not self._goes_on:
                raise
            client.fallbacks.count(error, writes=keys)
            return otherwise


class _Loader:
    """What makes the value for ``get_or_set``, and knows whether it was asked."""

    def __init__(self, default: Any) -> None:
        self._default = default
        self.has_begun = False

    def __call__(self) -> Any:
        self.has_begun = True
        return self._default() if callable(self._default) else self._default


def _called(call: Callable[[], Any]) -> Flow[Any]:
    """Make a call of a client; what Django has errors for is raised as those."""
    try:
        return (yield call)
    except InvalidKey as error:
        raise InvalidCacheKey(str(error)) from error
    except SerializationError as error:
        if isinstance(error.__cause__, PickleError):
            raise NotPickled(str(error)) from error.__cause__
        raise


def _arguments(location: str | Iterable[str], options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the client. Raises ImproperlyConfigured for an option that there is not."""
    for name in options:
        if name not in OPTIONS:
            instead = _INSTEAD.get(name) or f"there are {', '.join(OPTIONS)}"
            raise ImproperlyConfigured(f"CACHES: OPTIONS: unknown option {name!r}: {instead}")
    # Django's backends for memcached and redis take semicolons as well.
    seeds = location.replace(";", ",") if isinstance(location, str) else tuple(location)
    return client_arguments(seeds or None, options | {"codec": _codec(options.get("codec"))}, codec="pickle")


def _codec(codec: Any) -> Any:
    """Return a codec as the client takes it; a text with a dot says where it is."""
    return _imported(codec) if isinstance(codec, str) and "." in codec else codec


@once
def _imported(path: str) -> Any:
    found = import_string(path)
    return found() if isinstance(found, type) else found
