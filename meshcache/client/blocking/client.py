"""The client for threads: every operation is a flow of session.py, run in the caller's thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

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
from meshcache.client.blocking.connections import Channels
from meshcache.client.blocking.lease_renewals import Renewals
from meshcache.client.blocking.streams import StreamReception, Subscription
from meshcache.client.codec import ValueCodec
from meshcache.client.compression import Compress
from meshcache.client.connection import Tried
from meshcache.client.decorator import CachedBy, refuse_function
from meshcache.client.delivery import Apart, Board, Compute, Flow, Hedged, Parking, Step, Wait
from meshcache.client.fallbacks import Fallbacks, OnError, OnReadError, loads_on_error
from meshcache.client.flights import Flights
from meshcache.client.get_or_set import RELEASE_S, result
from meshcache.client.locks import Lock
from meshcache.client.naming import Names
from meshcache.client.options import arguments_of
from meshcache.client.session import Session, begin
from meshcache.client.statistics import ClientStatistics, statistics_of
from meshcache.client.streams import StreamIntake
from meshcache.client.subscription import Invalidation
from meshcache.durations import Timeout
from meshcache.protocol.messages import EventKind
from meshcache.protocol.near_store import NearCache, NearStatistics
from meshcache.sockets.curve import require_curve
from meshcache.sockets.waiting import pause, wait_open

T = TypeVar("T")


class Client:
    """A cache client; safe to share between threads, and to use after a fork.

    ``seeds`` has the addresses to begin with: "host:port", several with commas or as a list, a URL
    "mesh://host:port,host:port/namespace?timeout=0.5&consistency=quorum", or None for the environment variable
    MESHCACHE_SEEDS, else 127.0.0.1:7101. Every ``timeout`` is the total time of a call in seconds (5 by default),
    connecting, retries and failover included. ``near_cache`` is True or a NearCache to keep copies of all values that
    are read, None to keep copies of keys that the nodes call hot, False for no copies at all. ``on_error="miss"``: when
    the cache fails, ``get``, ``gets``, ``get_many``, ``exists`` and ``ttl`` find nothing, instead of raising the error
    ("raise", the default); all other operations raise it. ``hedge=True``: a read that takes longer than nearly all
    others is sent to another owner of the key, too, and the first answer counts; it is done where a read asks one owner
    only, and at most for every twentieth. ``compress="zstd"``: values that take ``compress_min_bytes`` (1,024) or more
    are stored compressed, if that makes them smaller. ``key_file`` names the file of the key by which the client proves
    who it is, made by `meshcache keygen`; None: the environment variable MESHCACHE_KEY_FILE does, if it is set.
    README.md describes all of this.

    It can be pickled and copied: that makes a client with the same arguments and its own connections.
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
            lock=threading.RLock(),
        )
        if (key := self._session.routing.key) is not None:
            require_curve(key, self._session.options.key_file)
        self._channels = Channels(self._session.connection, self._session.routing)
        self._reception = StreamReception(StreamIntake(self._session.routing, self._session.near), self._channels)
        self._flights = Flights(threading.RLock(), os.getpid())
        self._renewals = Renewals()
        self._names = Names()
        self._near_cache = near_cache
        self._owner = True

    def get(self, key: Key, default: Any = None, *, timeout: Timeout | None = None) -> Any:
        """Return the value of a key, or ``default`` if there is none.

        Pass ``default=meshcache.MISSING`` to tell a cached None from a miss.
        """
        session = self._session
        copies = session.copies
        if copies is not None:
            value = copies.value(key)
            if value is not MISSING:
                return value
        tried: Tried | None = None
        if timeout is None and (attempts := session.fast.get(key)) is not None:
            answers = self._channels.ask(attempts)
            if not isinstance(answers, Tried):
                value = answers[0]
                if type(value) is tuple:
                    value = session.value_of(value[0], key)
                return default if value is MISSING else value
            tried = answers
        return self._run(session.get(key, default, timeout, tried))

    def gets(self, key: Key, *, near: bool = False, timeout: Timeout | None = None) -> Item | None:
        """Return a key's value with its version, for ``cas``, and its lifetime; None if there is no value.

        ``near=True``: a copy in this process will do, as it does for ``get``; the item then says ``near``.
        """
        return self._run(self._session.gets(key, timeout, near=near))

    def get_many(self, keys: Iterable[Key], *, timeout: Timeout | None = None) -> dict[Any, Any]:
        """Return the values of those keys that are there, under the keys as given."""
        session, given = self._session, key_list(keys)
        tried: Tried | None = None
        if timeout is None and (attempts := session.fast.get_many(given)) is not None:
            answers = self._channels.ask(attempts)
            if not isinstance(answers, Tried):
                return session.values_of(answers, given)
            tried = answers
        return self._run(session.get_many(given, timeout, tried))

    def set(self, key: Key, value: Any, ttl: Ttl = DEFAULT, *, tags: Tags = (), timeout: Timeout | None = None) -> None:
        """Store a value.

        ``ttl`` is in seconds (int, float, timedelta); None: it never expires; left out: the client's default, else the
        cluster's. ``invalidate_tags`` finds it by each of its ``tags`` (str or bytes, at most 32).
        """
        session = self._session
        tried: Tried | None = None
        if timeout is None and tags == () and (attempts := session.fast.set(key, value, ttl)) is not None:
            answers = self._channels.ask(attempts)
            if not isinstance(answers, Tried):
                return
            tried = answers
        self._run(session.set(key, value, ttl, timeout, tags, tried))

    def set_many(
        self, items: Mapping[Any, Any], ttl: Ttl = DEFAULT, *, tags: Tags = (), timeout: Timeout | None = None
    ) -> list[Any]:
        """Store several values, all with the same ``tags``; returns the keys for which that failed.

        Raises AuthFailed if this client's key may not write one of them: the others may be stored.
        """
        session = self._session
        tried: Tried | None = None
        if timeout is None and tags == () and type(items) is dict:
            attempts = session.fast.set_many(list(items), list(items.values()), ttl)
            if attempts is not None:
                answers = self._channels.ask(attempts)
                if not isinstance(answers, Tried):
                    return []
                tried = answers
        return self._run(session.set_many(items, ttl, timeout, tags, tried))

    def delete(self, key: Key, *, timeout: Timeout | None = None) -> bool:
        """Delete a key; True if it was there."""
        return self._run(self._session.delete(key, timeout))

    def delete_many(self, keys: Iterable[Key], *, timeout: Timeout | None = None) -> int:
        """Delete several keys; returns how many were there."""
        return self._run(self._session.delete_many(keys, timeout))

    def invalidate(self, *keys: Key, timeout: Timeout | None = None) -> int:
        """Drop keys because their source changed; returns how many were there."""
        return self._run(self._session.delete_many(keys, timeout, EventKind.INVALIDATE))

    def invalidate_tags(self, *tags: str | bytes, timeout: Timeout | None = None) -> int:
        """Drop every key stored with one of these tags; returns how many copies were dropped, on all nodes.

        Tags belong to their namespace as keys do. A value has the tags with which it was stored last; ``incr`` and
        ``touch`` keep them. When the call returns, no node holds any such value, and no node takes in a late copy of
        one.
        """
        return self._run(self._session.invalidate_tags(tags, timeout))

    def add(self, key: Key, value: Any, ttl: Ttl = DEFAULT, *, tags: Tags = (), timeout: Timeout | None = None) -> bool:
        """Store a value if the key has none; True if it was stored."""
        return self._run(self._session.add(key, value, ttl, timeout, tags))

    def replace(
        self, key: Key, value: Any, ttl: Ttl = DEFAULT, *, tags: Tags = (), timeout: Timeout | None = None
    ) -> bool:
        """Store a value if the key has one; True if it was stored."""
        return self._run(self._session.replace(key, value, ttl, timeout, tags))

    def cas(
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
        return self._run(self._session.cas(key, value, version, ttl, timeout, tags))

    def incr(
        self, key: Key, delta: int = 1, *, initial: int | None = 0, ttl: Ttl = DEFAULT, timeout: Timeout | None = None
    ) -> int:
        """Add to a number and return the new one; not repeated if it may have been applied.

        A missing key counts from ``initial`` and gets ``ttl``; ``initial=None`` raises KeyMissing instead.
        """
        return self._run(self._session.incr(key, delta, initial, ttl, timeout))

    def decr(
        self, key: Key, delta: int = 1, *, initial: int | None = 0, ttl: Ttl = DEFAULT, timeout: Timeout | None = None
    ) -> int:
        """Subtract from a number and return the new one; in all else like ``incr``."""
        return self._run(self._session.incr(key, -delta, initial, ttl, timeout, "decr"))

    def touch(self, key: Key, ttl: Ttl = DEFAULT, *, timeout: Timeout | None = None) -> bool:
        """Set a key's lifetime anew, counted from now; True if it was there."""
        return self._run(self._session.touch(key, ttl, timeout))

    def exists(self, key: Key, *, timeout: Timeout | None = None) -> bool:
        """Tell whether a key has a value, without fetching it."""
        return self._run(self._session.exists(key, timeout))

    def ttl(self, key: Key, *, timeout: Timeout | None = None) -> float | None:
        """Return the seconds that a key has left; ``math.inf``: it never expires; None: there is no such key."""
        return self._run(self._session.ttl(key, timeout))

    def get_or_set(
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
        return result(self._run(flow))

    def refresh(
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
        return result(self._run(flow))

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
        return CachedBy(
            self, key, options, self._names, self._session.options.prefix, self._run, self._session.get_or_set
        )

    def lock(self, name: str, ttl: float | timedelta = 10.0, *, timeout: Timeout | None = None) -> Lock:
        """Return a lock: a context manager with ``acquire``, ``extend``, ``release`` and the fencing number ``token``.

        The lock is lost ``ttl`` seconds after it was acquired or extended; the next method of its former holder then
        raises LockNotOwned. ``timeout`` is how long to wait for the lock; then the context manager raises
        OperationTimeout. A caller that is interrupted while acquiring holds nothing. In a network partition two callers
        can hold the lock: see meshcache/client/locks.py.
        """
        return Lock(self._run, self._session, name, ttl, timeout)

    def clear(self, *, timeout: Timeout | None = None) -> int:
        """Drop every key of this namespace (if there is none, all keys); returns how many copies went, on all nodes."""
        return self._run(self._session.clear(timeout))

    def invalidate_prefix(self, prefix: Key, *, timeout: Timeout | None = None) -> int:
        """Drop every key of this namespace that begins with ``prefix``; returns how many copies went, on all nodes."""
        return self._run(self._session.clear(timeout, prefix))

    def subscribe(
        self,
        prefix: Key = "",
        callback: Callable[[Invalidation], object] | None = None,
        *,
        timeout: Timeout | None = None,
    ) -> Subscription:
        """Subscribe to what happens to the keys of this namespace that begin with ``prefix``.

        When this returns, the subscription is active: for every write that begins from then on the event arrives, or a
        GAP that says that events may be missing. Iterate over it, or give ``callback``, which a thread of its own then
        calls with each event. An error of the callback goes to ``threading.excepthook``, and the next event still goes
        to the callback. Use it in a ``with`` statement, or close it. Raises OperationTimeout if some node was not heard
        of in time.
        """
        self._run(self._session.prepare(timeout))
        namespace, prefix_bytes = self._session.options.prefix, namespace_bytes(prefix)
        subscription = self._reception.subscribe(namespace, prefix_bytes, self._session.timeout_s(timeout))
        if callback is not None:
            subscription.call(callback)
        return subscription

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

    def inspect(
        self, what: str, key: Key = b"", *, node: str | None = None, timeout: Timeout | None = None
    ) -> dict[str, Any]:
        """Ask a node about itself or the mesh: "view", "status", "stats", "explain" or "replica" (of ``key``).

        ``node`` is an id or an address; without it the client chooses.
        """
        return self._run(self._session.inspect(what, key, node, timeout))

    def leave(self, node: str, *, timeout: Timeout | None = None) -> None:
        """Have a node, given by id or address, hand over what it owns and stop. Returns when it has begun."""
        self._run(self._session.leave(node, timeout))

    def forget(self, node: str, *, timeout: Timeout | None = None) -> None:
        """Have the mesh forget a dead node or one that has left, given by id or address: show it and dial it no longer.

        If it comes back, it joins as a new node. Raises ValueError if it is up, or not known. Under the strict
        partition policy a forgotten node no longer counts for the majority: do not forget a node that is only cut off.
        """
        self._run(self._session.forget(node, timeout))

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

    def close(self) -> None:
        """Close the connections. On a client made by ``namespace`` or ``with_options`` this does nothing.

        Loaders that run go on, and their results are returned to their callers, but not stored. This may take a second:
        the nodes are told, so that other callers need not wait for these results.
        """
        if self._owner:
            self._end_flights()
            self._reception.close()
            self._channels.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        """Carry out the steps of a flow; an error in a step is raised in the flow."""
        exchange = self._channels.exchange
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
                if type(step) is list:
                    answer = exchange(step)
                elif type(step) is float:
                    pause(step)
                    answer = None
                # Here, so that nested loaders (a loader that asks for other keys) take few frames.
                elif type(step) is Compute:
                    with self._renewals.during(step, self._run):
                        answer = step.load() if callable(step.load) else step.load
                else:
                    answer = self._carry_out(step)
            except BaseException as error:  # noqa: BLE001  (the flow raises it again, when it has put things in order)
                go_on, answer = flow.throw, error

    def _carry_out(self, step: Step) -> Any:
        """Carry out one of the rare steps."""
        match step:
            case Parking():
                return self._channels.exchange(step, parked=True)
            case Hedged():
                return self._channels.exchange(step)
            case Board():
                if self._flights.pid != os.getpid():
                    self._flights.begin_anew(threading.RLock(), os.getpid())
                return self._flights.board(step.seat, step.key)
            case Wait():
                return _wait(step)
            case Apart():
                return None
        raise TypeError(step)

    def _end_flights(self) -> None:
        """Let other processes compute what is asked for and computed here."""
        deadline = time.monotonic() + RELEASE_S
        for flight in self._flights.end() if self._flights.pid == os.getpid() else ():
            left_s = deadline - time.monotonic()
            if left_s > 0:
                self._run(flight.give_up(flight.token, left_s))

    def _derive(self, session: Session) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _session=session, _owner=False)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        session = self._session
        found = arguments_of(session.options, session.routing.seeds, session.cluster, self._near_cache)
        return partial(type(self), **found), ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self._session.routing.seeds)}>"


def _wait(step: Wait) -> None:
    """Wait for a lock that is released when the seat is told: only a lock can be interrupted safely at any time."""
    gate = threading.Lock()
    gate.acquire()
    step.seat.wake = gate.release
    if not step.seat.told:
        wait_open(gate, step.seconds)
