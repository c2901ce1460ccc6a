"""The same few operations on every contestant, each in the way that its own users would write them for speed.

- redis-py: ``mget`` for many keys, an untransacted pipeline of ``set(…, ex=…)`` to store many with a lifetime (MSET
  takes none), parsed by hiredis where that is installed; ``redis.asyncio`` twice: as it comes, and tuned.
- valkey-glide, on the same redis-server: the same commands, and a batch that is no transaction as the pipeline.
- pymemcache: ``get_many`` and ``set_many`` that wait for the answers; it has no asyncio client.
- meshcache: the client as it comes, but for a timeout that leaves room for 100 MB in one call.
- zmq: a DEALER that sends 100 bytes and blocks for their return: the floor for a single operation.

Values are ``bytes`` everywhere, and none is compressed, so that codecs do not enter the comparison.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import meshcache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from .servers import Server

TTL_S: Final = 3_600
TIMEOUT_S: Final = 60.0
ECHO_BYTES: Final = 100
THREADS_MAX: Final = 8
TUNED_CONNECTIONS: Final = 32
"""More connections than this make redis.asyncio slower where more tasks than that wait."""


class NotOffered(Exception):
    """This client library does not have what the row needs."""


def _unknown() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Calls:
    """One blocking client. Its functions are the library's own wherever the arguments allow."""

    get: Callable[[str], Any]
    set: Callable[[str, bytes], Any]
    get_many: Callable[[list[str]], Any]
    set_many: Callable[[dict[str, bytes]], Any]
    clear: Callable[[], Any]
    close: Callable[[], Any]
    accounted_bytes: Callable[[], int | None] = _unknown
    """What the server's own books say that its entries take, keys and values included."""


@dataclass(frozen=True, slots=True)
class AsyncCalls:
    """One asyncio client."""

    get: Callable[[str], Awaitable[Any]]
    close: Callable[[], Coroutine[Any, Any, Any]]


def values_of(answer: Any, keys: list[str]) -> list[Any]:
    """Return the values of a ``get_many`` in the order of its keys: some libraries answer a dict, some a list."""
    return [answer.get(key) for key in keys] if isinstance(answer, dict) else list(answer)


def connect(server: Server, variant: str | None = None, *, shared: bool = False) -> Calls:
    """Return a blocking client of this variant, else the usual one; ``shared``: one that threads may use together."""
    try:
        connector = _CONNECT[variant or server.kind]
    except KeyError:
        raise NotOffered(f"{variant} has no blocking client") from None
    return connector(server.address, shared=shared)


async def connect_async(server: Server, variant: str, concurrent: int) -> AsyncCalls:
    """Return an asyncio client for as many gets at a time as ``concurrent`` says."""
    try:
        connector = _CONNECT_ASYNC[variant]
    except KeyError:
        raise NotOffered(f"{server.kind} has no asyncio client") from None
    return await connector(server.address, concurrent)


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _connect_redis(address: str, *, shared: bool) -> Calls:
    del shared  # every redis-py client may be shared: each call borrows a connection from its pool
    redis = importlib.import_module("redis")
    host, port = _host_port(address)
    client = redis.Redis(host=host, port=port, socket_timeout=TIMEOUT_S)

    def store(key: str, value: bytes) -> Any:
        return client.set(key, value, ex=TTL_S)

    def store_many(mapping: dict[str, bytes]) -> Any:
        with client.pipeline(transaction=False) as pipeline:
            for key, value in mapping.items():
                pipeline.set(key, value, ex=TTL_S)
            return pipeline.execute()

    return Calls(client.get, store, client.mget, store_many, client.flushall, client.close)


def _glide(name: str) -> Any:
    """Import one of the two packages of valkey-glide, whose wheels are not there for every Python and machine."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = "valkey-glide-sync" if name == "glide_sync" else "valkey-glide"
        raise NotOffered(f"the Python package {package} is not installed (pip install '.[bench]')") from None


def _glide_configuration(glide: Any, address: str) -> Any:
    host, port = _host_port(address)
    addresses = [glide.NodeAddress(host, port)]
    return glide.GlideClientConfiguration(addresses, request_timeout=int(TIMEOUT_S * 1e3))


def _connect_glide(address: str, *, shared: bool) -> Calls:
    del shared  # every client may be shared
    glide = _glide("glide_sync")
    client = glide.GlideClient.create(_glide_configuration(glide, address))
    expiry = glide.ExpirySet(glide.ExpiryType.SEC, TTL_S)

    def store(key: str, value: bytes) -> Any:
        return client.set(key, value, expiry=expiry)

    def store_many(mapping: dict[str, bytes]) -> Any:
        batch = glide.Batch(is_atomic=False)
        for key, value in mapping.items():
            batch.set(key, value, expiry=expiry)
        return client.exec(batch, raise_on_error=True)

    return Calls(client.get, store, client.mget, store_many, client.flushall, client.close)


def _connect_memcached(address: str, *, shared: bool) -> Calls:
    base = importlib.import_module("pymemcache.client.base")
    options = {"no_delay": True, "default_noreply": False, "timeout": TIMEOUT_S}
    if shared:
        client = base.PooledClient(_host_port(address), max_pool_size=THREADS_MAX, **options)
    else:
        client = base.Client(_host_port(address), **options)

    def store(key: str, value: bytes) -> Any:
        return client.set(key, value, TTL_S)

    def store_many(mapping: dict[str, bytes]) -> Any:
        return client.set_many(mapping, TTL_S)

    return Calls(client.get, store, client.get_many, store_many, client.flush_all, client.close)


def _connect_meshcache(address: str, *, shared: bool) -> Calls:
    del shared  # every client may be shared
    client = meshcache.Client(address, timeout=TIMEOUT_S, near_cache=False)

    def store(key: str, value: bytes) -> Any:
        return client.set(key, value, TTL_S)

    def store_many(mapping: dict[str, bytes]) -> Any:
        return client.set_many(mapping, TTL_S)

    def accounted_bytes() -> int:
        return int(client.inspect("stats")["store"]["bytes"])

    return Calls(client.get, store, client.get_many, store_many, client.clear, client.close, accounted_bytes)


def _connect_zmq(address: str, *, shared: bool) -> Calls:
    if shared:
        raise NotOffered("threads can not share a ZeroMQ socket")
    zmq = importlib.import_module("zmq")
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.rcvtimeo = int(TIMEOUT_S * 1e3)
    dealer.connect(f"tcp://{address}")
    payload = bytes(ECHO_BYTES)

    def ping(key: str, value: bytes = b"") -> bytes:
        del key, value
        dealer.send(payload)
        return bytes(dealer.recv())

    def no_batches(_: Any) -> Any:
        raise NotOffered("the echo has no batches")

    def close() -> None:
        dealer.close()
        context.term()

    return Calls(ping, ping, no_batches, no_batches, lambda: None, close)


async def _connect_redis_async(address: str, concurrent: int) -> AsyncCalls:
    """As it comes, with room in the pool for every task: by default the 101st would be refused."""
    redis = importlib.import_module("redis.asyncio")
    host, port = _host_port(address)
    client = redis.Redis(host=host, port=port, max_connections=max(100, concurrent))
    return AsyncCalls(client.get, client.aclose)


async def _connect_redis_tuned(address: str, concurrent: int) -> AsyncCalls:
    """The fastest of those tried: no timer for each answer, and tasks wait for one of a few connections."""
    redis = importlib.import_module("redis.asyncio")
    host, port = _host_port(address)
    if concurrent <= 100:
        client = redis.Redis(host=host, port=port, max_connections=100, socket_timeout=None)
    else:
        pool = redis.BlockingConnectionPool(
            host=host, port=port, max_connections=TUNED_CONNECTIONS, timeout=None, socket_timeout=None
        )
        client = redis.Redis.from_pool(pool)
    return AsyncCalls(client.get, client.aclose)


async def _connect_glide_async(address: str, concurrent: int) -> AsyncCalls:
    del concurrent  # one connection carries them all; it refuses more than 1,000 at a time
    glide = _glide("glide")
    client = await glide.GlideClient.create(_glide_configuration(glide, address))
    return AsyncCalls(client.get, client.close)


async def _connect_meshcache_async(address: str, concurrent: int) -> AsyncCalls:
    del concurrent  # one connection carries them all
    client = meshcache.AsyncClient(address, timeout=TIMEOUT_S, near_cache=False)
    return AsyncCalls(client.get, client.close)


_CONNECT: Final[dict[str, Callable[..., Calls]]] = {
    "redis": _connect_redis,
    "redis glide": _connect_glide,
    "memcached": _connect_memcached,
    "meshcache": _connect_meshcache,
    "mesh3": _connect_meshcache,
    "pure": _connect_meshcache,
    "pure3": _connect_meshcache,
    "zmq": _connect_zmq,
}
_CONNECT_ASYNC: Final[dict[str, Callable[[str, int], Awaitable[AsyncCalls]]]] = {
    "redis": _connect_redis_async,
    "redis tuned": _connect_redis_tuned,
    "redis glide": _connect_glide_async,
    "meshcache": _connect_meshcache_async,
    "mesh3": _connect_meshcache_async,
    "pure": _connect_meshcache_async,
    "pure3": _connect_meshcache_async,
}
