# ruff: noqa: ASYNC109  (a timeout of ours is total and travels to the node, which asyncio.timeout does not)
"""The client for asyncio: the same flows as the client for threads, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from meshcache.client.aio.hub import Hub, halted, told
from meshcache.client.aio.messages import rest_of
from meshcache.client.aio.pending import Pending
from meshcache.client.aio.streams import AsyncStreamReception, AsyncSubscription
from meshcache.client.arguments import (
    DEFAULT,
    MISSING,
    Consistency,
    Item,
    Key,
    Sentinel,
    Tags,
    Ttl,
    key_list,
    namespace_bytes,
    raw_tags,
)
from meshcache.client.codec import ValueCodec
from meshcache.client.compression import Compress
from meshcache.client.connection import Tried
from meshcache.client.decorator import AsyncCachedBy as CachedBy
from meshcache.client.decorator import refuse_function
from meshcache.client.delivery import Apart, Board, Compute, Flow, Halt, Hedged, Parking, Step, Wait
from meshcache.client.fallbacks import Fallbacks, OnError, OnReadError, loads_on_error
from meshcache.client.get_or_set import RELEASE_S, result
from meshcache.client.locks import AsyncLock as Lock
from meshcache.client.naming import Names
from meshcache.client.options import arguments_of
from meshcache.client.session import Session, begin
from meshcache.client.statistics import ClientStatistics, statistics_of
from meshcache.client.streams import StreamIntake
from meshcache.client.subscription import Invalidation
from meshcache.durations import Timeout
from meshcache.errors import MeshcacheError
from meshcache.protocol.messages import EventKind
from meshcache.protocol.near_store import NearCache, NearStatistics
from meshcache.sockets.curve import require_curve

T = TypeVar("T")


_PLAIN: Final = frozenset({bytes, str, int})
"""Types of values that can always be encoded: among others in a message, one that can not would fail the others."""


class AsyncClient:
    """A cache client for asyncio. All calls of one turn of the loop travel in one message to each node.

    It belongs to the event loop that uses it first, until that loop is closed. It has the arguments and operations of
    Client, and can be pickled and copied in the same way.
    """

    def __init__(
        self,
        seeds: str | Iterable[str] | None = None,
        *,
        timeout: Timeout | None = None,
        ttl: Ttl = DEFAULT,
        consistency: Consistency = None,
        codec: str | ValueCodec | None = None,
        compress: Compress | None = None,
        compress_min_bytes: int | None = None,
        namespace: str | bytes = "",
        cluster: str = "",
        near_cache: NearCache | bool | None = None,
        on_error: OnReadError | None = None,
        hedge: bool | None = None,
        key_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._session = begin(
            seeds,
            timeout=timeout,
            ttl=ttl,
            consistency=consistency,
            codec=codec,
            compress=compress,
            compress_min_bytes=compress_min_bytes,
            namespace=namespace,
            cluster=cluster,
            near_cache=near_cache,
            on_error=on_error,
            hedge=hedge,
            key_file=key_file,
        )
        if (key := self._session.routing.key) is not None:
            require_curve(key, self._session.options.key_file)
        self._hub = Hub(self._session.connection, self._session.routing)
        self._reception = AsyncStreamReception(StreamIntake(self._session.routing, self._session.near), self._hub)
        self._ask = self._hub.gets(self._session)
        self._names = Names()
        self._near_cache = near_cache
        self._owner = True

    async def get(self, key: Key, default: Any = None, *, timeout: Timeout | None = None) -> Any:
        """Return the value of a key, or ``default`` if there is none.

        Pass ``default=meshcache.MISSING`` to tell a cached None from a miss.
        """
        session, tried = self._session, None
        answer = self._ask(key) if timeout is None else session.copy_of(key)
        if type(answer) is Pending:
            answer = await answer
            if type(answer) is Tried:
                tried, answer = answer, MISSING
            elif answer is MISSING:
                return default
            elif type(answer) is tuple:
                answer = session.value_of(answer[0], key)
                return default if answer is MISSING else answer
        if answer is not MISSING:
            return answer
        return await self._run(session.get(key, default, timeout, tried))

    async def gets(self, key: Key, *, near: bool = False, timeout: Timeout | None = None) -> Item | None:
        """Return a key's value with its version, for ``cas``, and its lifetime; None if there is no value.

        ``near=True``: a copy in this process will do, as it does for ``get``; the item then says ``near``.
        """
        return await self._run(self._session.gets(key, timeout, near=near))

    async def get_many(self, keys: Iterable[Key], *, timeout: Timeout | None = None) -> dict[Any, Any]:
        """Return the values of those keys that are there, under the keys as given."""
        session, given = self._session, key_list(keys)
        attempts = session.fast.get_many(given) if timeout is None else None
        futures = None if attempts is None else self._hub.ask(attempts)
        if attempts is None or futures is None:
            return await self._run(session.get_many(given, timeout))
        answers = [await future for future in futures]
        parts = [
            session.hits_of(attempt.keys, answer)
            for attempt, answer in zip(attempts, answers, strict=True)
            if not isinstance(answer, Tried)
        ]
        if len(parts) < len(attempts):
            left, tried = rest_of(attempts, answers)
            parts.append((await self._run(session.get_many(left, None, tried)), []))
        return session.values_of(parts, given)

    async def set(
        self, key: Key, value: Any, ttl: Ttl = DEFAULT, *, tags: Tags = (), timeout: Timeout | None = None
    ) -> None:
        """Store a value.

        ``ttl`` is in seconds (int, float, timedelta); None: it never expires; left out: the client's default, else the
        cluster's. ``invalidate_tags`` finds it by each of its ``tags`` (str or bytes, at most 32).
        """
        session = self._session
        tried: Tried | None = None
        if timeout is None and tags == () and type(value) in _PLAIN:
            attempts = session.fast.set(key, value, ttl)
            futures = None if attempts is None else self._hub.ask(attempts)
            if futures is not None:
                tried = await futures[0]
                if not isinstance(tried, Tried):
                    return
        await self._run(session.set(key, value, ttl, timeout, tags, tried))

    async def set_many(
        self, items: Mapping[Any, Any], ttl: Ttl = DEFAULT, *, tags: Tags = (), timeout: Timeout | None = None
    ) -> list[Any]:
        """Store several values, all with the same ``tags``; returns the keys for which that failed.

        Raises AuthFailed if this client's key may not write one of them: the others may be stored.
        """
        session = self._session
        attempts = None
        if timeout is None and tags == () and type(items) is dict and _PLAIN.issuperset(map(type, items.values())):
            attempts = session.fast.set_many(list(items), list(items.values()), ttl)
        futures = None if attempts is None else self._hub.ask(attempts)
        if attempts is None or futures is None:
            return await self._run(session.set_many(items, ttl, timeout, tags))
        left, tried = rest_of(attempts, [await future for future in futures])
        if not left:
            return []
        failed = set(await self._run(session.set_many({key: items[key] for key in left}, ttl, None, (), tried)))
        return [key for key in items if key in failed]

    async def delete(self, key: Key, *, timeout: Timeout | None = None) -> bool:
        """Delete a key; True if it was there."""
        return await self._run(self._session.delete(key, timeout))

    async def delete_many(self, keys: Iterable[Key], *, timeout: Timeout | None = None) -> int:
        """Delete several keys; returns how many were there."""
        return await self._run(self._session.delete_many(keys, timeout))

    async def invalidate(self, *keys: Key, timeout: Timeout | None = None) -> int:
        """Drop keys because their source changed; returns how many were there."""
        return await self._run(self._session.delete_many(keys, timeout, EventKind.INVALIDATE))

    async def invalidate_tags(self, *tags: str | bytes, timeout: Timeout | None = None) -> int:
        """Drop every key stored with one of these tags; returns how many copies were dropped, on all nodes.

        Tags belong to their namespace as keys do. A value has the tags with which it was stored last; ``incr`` and
        ``touch`` keep them. When the call returns, no node holds any such value, and no node takes in a late copy of
        one.
        """
        return await self._run(self._session.invalidate_tags(tags, timeout))

    async def add(
        self, key: Key, value: Any, ttl: Ttl = DEFAULT, *, tags: Tags = (), timeout: Timeout | None = None
    ) -> bool:
        """Store a value if the key has none; True if it was stored."""
        return await self._run(self._session.add(key, value, ttl, timeout, tags))

    async def replace(
        self, key: Key, value: Any, ttl: Ttl = DEFAULT, *, tags: Tags = (), timeout: Timeout | None = None
    ) -> bool:
        """Store a value if the key has one; True if it was stored."""
        return await self._run(self._session.replace(key, value, ttl, timeout, tags))

    async def cas(
        self,
        key: Key,
        value: Any,
        version: bytes,
        ttl: Ttl = DEFAULT,
        *,
        tags: Tags = (),
        timeout: Timeout | None = None,
    ) -> bool:
        """Store a value if the key's version is still the one that ``gets`` returned; True if it was stored."""
        return await self._run(self._session.cas(key, value, version, ttl, timeout, tags))

    async def incr(
        self, key: Key, delta: int = 1, *, initial: int | None = 0, ttl: Ttl = DEFAULT, timeout: Timeout | None = None
    ) -> int:
        """Add to a number and return the new one; not repeated if it may have been applied.

        A missing key counts from ``initial`` and gets ``ttl``; ``initial=None`` raises KeyMissing instead.
        """
        return await self._run(self._session.incr(key, delta, initial, ttl, timeout))

    async def decr(
        self, key: Key, delta: int = 1, *, initial: int | None = 0, ttl: Ttl = DEFAULT, timeout: Timeout | None = None
    ) -> int:
        """Subtract from a number and return the new one; in all else like ``incr``."""
        return await self._run(self._session.incr(key, -delta, initial, ttl, timeout, "decr"))

    async def touch(self, key: Key, ttl: Ttl = DEFAULT, *, timeout: Timeout | None = None) -> bool:
        """Set a key's lifetime anew, counted from now; True if it was there."""
        return await self._run(self._session.touch(key, ttl, timeout))

    async def exists(self, key: Key, *, timeout: Timeout | None = None) -> bool:
        """Tell whether a key has a value, without fetching it."""
        return await self._run(self._session.exists(key, timeout))

    async def ttl(self, key: Key, *, timeout: Timeout | None = None) -> float | None:
        """Return the seconds that a key has left; ``math.inf``: it never expires; None: there is no such key."""
        return await self._run(self._session.ttl(key, timeout))

    async def get_or_set(
        self,
        key: Key,
        load: Any,
        ttl: Ttl = DEFAULT,
        *,
        stale_ttl: float | timedelta | None = None,
        early: float = 0.0,
        tags: Tags = (),
        on_error: OnError = "load",
        timeout: Timeout | None = None,
    ) -> Any:
        """Return the value of a key; if there is none, have it computed, once in the whole cluster, and stored.

        ``load`` is the value, or a function of no argument that returns it (in AsyncClient also a coroutine function).
        Of all callers, in all processes, that miss the key at once, one runs its ``load``; the others wait for it, for
        ``timeout`` at most. If that caller fails or dies, the next one runs its own ``load``. A value that was loaded
        before the key was deleted or written is returned to its caller, but not stored; nor is a value that ``load``
        returns as ``DO_NOT_CACHE(value)``. ``timeout`` bounds the cache, not ``load``. Every caller gets an object of
        its own, made from what is stored; also the caller whose ``load`` ran.

        Client runs ``load`` in the thread of the call; AsyncClient runs it in a task of its own, in a copy of the
        caller's context; the task is cancelled when the last caller that waits for it is cancelled.

        ``stale_ttl``: for so many seconds after ``ttl`` the value is kept, and returned at once to all callers but one,
        which computes it anew. ``early``: above 0, one caller computes it anew some time before the value expires, the
        earlier the longer that takes; 1 suits most programs. ``tags`` are as for ``set``; a value that was loaded
        before one of them was invalidated is not stored.

        ``on_error="load"``: while the cache fails, ``load`` runs nevertheless, for one caller of this process at a
        time, and its result is returned, but not stored; ``fallbacks`` counts that. ``"raise"``: the cache's error is
        raised.

        Raises what ``load`` raises; TypeError if it returns something that is still to be awaited; OperationTimeout if
        others compute for longer than ``timeout``; and what ``set`` raises for a key or a value that can not be stored.
        A value that the nodes fail to store is returned.
        """
        flow = self._session.get_or_set(
            key, load, ttl, timeout, stale_ttl=stale_ttl, early=early, tags=tags, on_error=on_error
        )
        return result(await self._run(flow))

    async def refresh(
        self,
        key: Key,
        load: Any,
        ttl: Ttl = DEFAULT,
        *,
        stale_ttl: float | timedelta | None = None,
        early: float = 0.0,
        tags: Tags = (),
        timeout: Timeout | None = None,
    ) -> Any:
        """Compute the value of a key now, store it and return it; the arguments are as for ``get_or_set``.

        A computation that is under way elsewhere is not stored any more. If the cache fails, this raises its error
        before anything is computed: like a write, it must not seem done while others go on reading the old value.
        """
        flow = self._session.refresh(key, load, ttl, timeout, stale_ttl=stale_ttl, early=early, tags=tags)
        return result(await self._run(flow))

    def cached(
        self,
        ttl: Ttl = DEFAULT,
        *,
        stale_ttl: float | timedelta | None = None,
        early: float = 0.0,
        key: Callable[..., Key] | None = None,
        tags: Tags = (),
        on_error: OnError = "load",
        timeout: Timeout | None = None,
    ) -> CachedBy:
        """Return a decorator for functions whose results are to be cached, as by ``get_or_set``.

        Client takes plain functions, AsyncClient coroutine functions; both take methods, of which ``self`` counts by
        its class. ``key``: a function of the same arguments that returns a str or bytes which differs from call to
        call; without it calls differ by their arguments: meshcache/client/decorator.py says what these may be. The
        decorated function has ``invalidate``, ``refresh`` and ``cache_key``, which take the same arguments.
        ``on_error`` is as for ``get_or_set``: while the cache fails, the function is called. Raises TypeError if it is
        given a function: write it with parentheses, ``@cache.cached()``.
        """
        refuse_function(ttl)
        tags = raw_tags(b"", tags)  # an iterator would be empty after one call
        self._session.check_terms(ttl, stale_ttl, early, tags)
        self._session.timeout_s(timeout)
        loads_on_error(on_error)
        options: dict[str, Any] = {"ttl": ttl, "stale_ttl": stale_ttl, "early": early, "tags": tags}
        options |= {"timeout": timeout, "on_error": on_error}
        return CachedBy(self, key, options, self._names, self._session.options.prefix)

    def lock(self, name: str, ttl: float | timedelta = 10.0, *, timeout: Timeout | None = None) -> Lock:
        """Return a lock: a context manager with ``acquire``, ``extend``, ``release`` and the fencing number ``token``.

        The lock is lost ``ttl`` seconds after it was acquired or extended; the next method of its former holder then
        raises LockNotOwned. ``timeout`` is how long to wait for the lock; then the context manager raises
        OperationTimeout. A caller that is interrupted while acquiring holds nothing. In a network partition two callers
        can hold the lock: see meshcache/client/locks.py.
        """
        return Lock(self._run, self._run_to_end, self._session, name, ttl, timeout)

    async def clear(self, *, timeout: Timeout | None = None) -> int:
        """Drop every key of this namespace (if there is none, all keys); returns how many copies went, on all nodes."""
        return await self._run(self._session.clear(timeout))

    async def invalidate_prefix(self, prefix: Key, *, timeout: Timeout | None = None) -> int:
        """Drop every key of this namespace that begins with ``prefix``; returns how many copies went, on all nodes."""
        return await self._run(self._session.clear(timeout, prefix))

    def subscribe(
        self,
        prefix: Key = "",
        callback: Callable[[Invalidation], object] | None = None,
        *,
        timeout: Timeout | None = None,
    ) -> AsyncSubscription:
        """Subscribe to what happens to the keys of this namespace that begin with ``prefix``; for ``async with``.

        In the body of ``async with`` the subscription is active: for every write that begins from then on the event
        arrives, or a GAP that says that events may be missing. Iterate over it with ``async for``, or give
        ``callback``, a function or coroutine function, which a task then calls with each event. An error of the
        callback goes to the event loop's exception handler, and the next event still goes to the callback. Entering
        raises OperationTimeout if some node was not heard of in time.
        """
        session = self._session

        async def prepare() -> float:
            await self._run(session.prepare(timeout))
            return session.timeout_s(timeout)

        return AsyncSubscription(self._reception, session.options.prefix, namespace_bytes(prefix), prepare, callback)

    @property
    def fallbacks(self) -> Fallbacks:
        """Counts of what was done without the cache because it failed: ``loads``, ``misses``; and ``last_error``."""
        return self._session.fallbacks

    def statistics(self) -> ClientStatistics:
        """Return what this client, and those derived from it, did so far: requests, errors, each node's breaker."""
        return statistics_of(self._session.routing, self.near_statistics())

    def near_statistics(self) -> NearStatistics | None:
        """Return the counts of the near cache; None if there is none, and no key is hot."""
        near = self._session.near
        if near is None or not near.used:
            return None
        return near.statistics(self._reception.intake.streams.gaps, time.monotonic())

    async def inspect(
        self, what: str, key: Key = b"", *, node: str | None = None, timeout: Timeout | None = None
    ) -> dict[str, Any]:
        """Ask a node about itself or the mesh: "view", "status", "stats", "explain" or "replica" (of ``key``).

        ``node`` is an id or an address; without it the client chooses.
        """
        return await self._run(self._session.inspect(what, key, node, timeout))

    async def leave(self, node: str, *, timeout: Timeout | None = None) -> None:
        """Have a node, given by id or address, hand over what it owns and stop. Returns when it has begun."""
        await self._run(self._session.leave(node, timeout))

    async def forget(self, node: str, *, timeout: Timeout | None = None) -> None:
        """Have the mesh forget a dead node or one that has left, given by id or address: show it and dial it no longer.

        If it comes back, it joins as a new node. Raises ValueError if it is up, or not known. Under the strict
        partition policy a forgotten node no longer counts for the majority: do not forget a node that is only cut off.
        """
        await self._run(self._session.forget(node, timeout))

    def namespace(self, prefix: str | bytes) -> Self:
        """Return the same client for a namespace: it puts ``prefix`` before every key.

        It shares this client's connections; only closing this client closes them.
        """
        return self._derive(self._session.derive(prefix=prefix))

    def with_options(
        self,
        *,
        consistency: Consistency | Literal[Sentinel.DEFAULT] = DEFAULT,
        timeout: Timeout | None = None,
        ttl: Ttl = DEFAULT,
        codec: str | ValueCodec | None = None,
        compress: Compress | None = None,
        compress_min_bytes: int | None = None,
        on_error: OnReadError | None = None,
        hedge: bool | None = None,
    ) -> Self:
        """Return the same client with other options; options that are left out stay as they are.

        ``consistency`` is "one", "quorum", "all", two numbers (w, r), or None for the cluster's configured levels. It
        shares this client's connections; only closing this client closes them.
        """
        session = self._session.derive(
            consistency=consistency,
            timeout=timeout,
            ttl=ttl,
            codec=codec,
            compress=compress,
            compress_min_bytes=compress_min_bytes,
            on_error=on_error,
            hedge=hedge,
        )
        return self._derive(session)

    async def close(self) -> None:
        """Close the connections. On a client made by ``namespace`` or ``with_options`` this does nothing.

        Loaders that run go on, and their results are returned to their callers, but not stored. This may take a second:
        the nodes are told, so that other callers need not wait for these results.
        """
        if self._owner:
            try:
                await self._end_flights()
            finally:
                self._reception.close()
                self._hub.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        """Carry out the steps of a flow; an error in a step is raised in the flow."""
        go_on: Callable[[Any], Any] = flow.send
        answer: Any = None
        while True:
            try:
                step = go_on(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]  # what the flow returns
            except BaseException:
                answer = None  # an error with a traceback that leads back to it would wait for the garbage collector
                raise
            go_on = flow.send
            try:
                if type(step) is list or type(step) is Parking:
                    post = self._hub.post
                    if len(step) == 1:
                        answer = [await post(step[0])]
                    else:
                        posted = [post(call) for call in step]
                        answer = [await outcome for outcome in posted]
                elif type(step) is float:
                    await asyncio.sleep(step)
                    answer = None
                else:
                    answer = await self._carry_out(step)
            except GeneratorExit:  # the loop is gone, and nothing can be waited for
                flow.close()
                raise
            except BaseException as error:  # noqa: BLE001  (the flow raises it again, when it has put things in order)
                go_on, answer = flow.throw, error

    async def _carry_out(self, step: Step) -> Any:
        """Carry out one of the rare steps."""
        match step:
            case Hedged():
                return await self._hub.hedge(step)
            case Board():
                return self._hub.here().flights.board(step.seat, step.key)
            case Wait():
                return await told(step)
            case Apart():
                return await self._apart(step)
            case Halt():
                return await halted(step)
            case Compute():
                return await self._compute(step)
        raise TypeError(step)

    async def _apart(self, step: Apart) -> Any:
        """Run a flow in a task, in a copy of the caller's context; cancelling the caller does not stop it."""
        flight, loads = step.flight, self._hub.here().flights.loads
        flight.load = load = asyncio.create_task(self._run(step.flow))
        loads[load] = flight
        load.add_done_callback(loads.pop)
        return await asyncio.shield(load)

    async def _end_flights(self) -> None:
        """Let other processes compute what is asked for and computed here, and wait for what was cancelled."""
        flights = self._hub.flights
        if flights is not None:
            ends = [
                asyncio.ensure_future(self._run(flight.give_up(flight.token, RELEASE_S))) for flight in flights.end()
            ]
            ends += [load for load in flights.loads if load.cancelling()]
            if ends:
                await asyncio.wait(ends, timeout=RELEASE_S)

    async def _compute(self, step: Compute) -> Any:
        """Run the caller's loader."""
        renewing = asyncio.create_task(self._renew(step))
        try:
            value = step.load() if callable(step.load) else step.load
            return await value if inspect.isawaitable(value) else value
        finally:
            renewing.cancel()

    async def _renew(self, step: Compute) -> None:
        keep = True
        # The client was closed, for example: the lease ends by itself.
        with contextlib.suppress(MeshcacheError, RuntimeError):
            while keep:
                await asyncio.sleep(step.every_s)
                keep = await self._run(step.renew())

    async def _run_to_end(self, flow: Flow[T]) -> T:
        """Carry out a flow to its end, even if the caller is cancelled while it waits."""
        task = asyncio.create_task(self._run(flow))
        _unattended.add(task)
        task.add_done_callback(_unattended.discard)
        return await asyncio.shield(task)

    def _derive(self, session: Session) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _session=session, _ask=self._hub.gets(session), _owner=False)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        session = self._session
        found = arguments_of(session.options, session.routing.seeds, session.cluster, self._near_cache)
        return partial(type(self), **found), ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self._session.routing.seeds)}>"


_unattended: set[asyncio.Task[Any]] = set()
"""Tasks that go on when nobody waits for them any more; an event loop itself keeps no task alive."""
