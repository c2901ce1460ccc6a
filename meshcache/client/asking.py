"""How an operation gets to nodes: the short way in the usual case, and ``delivery.py`` in all others.

This class has what all operations under one set of options share, apart from what they mean (session.py): what is known
of the mesh, the near cache, and, for errors, what the user called and with which key. It is as pure as session.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import copy
from typing import Any, Self, TypeVar
from zlib import crc32

from meshcache.client.arguments import MISSING, Key, raw_key
from meshcache.client.connection import Call, Connection, Request, Tried
from meshcache.client.delivery import VIEW, Delivery, Flow, Hedged, allowance_s, within
from meshcache.client.fallbacks import Fallbacks
from meshcache.client.fast_path import SMALL_KEYS, FastPath
from meshcache.client.near_cache import Copies
from meshcache.client.options import Options
from meshcache.client.routing import SMALL_BYTES, Routing
from meshcache.client.values import FLAGS_AT, is_hit, is_stale
from meshcache.durations import Timeout, seconds
from meshcache.errors import AuthFailed, NodeUnavailable, SerializationError, ValueTooLarge
from meshcache.protocol.messages import DEFAULT_LEVEL, LEVEL_ONE, Get, Inspect, Update
from meshcache.protocol.near_store import NearStore
from meshcache.protocol.record import CONTENT_FLAG_BYTES, HEADER_BYTES

T = TypeVar("T")


class Asking:
    """The ways of a session to nodes."""

    def __init__(
        self,
        routing: Routing,
        rng: random.Random,
        options: Options,
        cluster: str = "",
        near: NearStore | None = None,
        fallbacks: Fallbacks | None = None,
    ) -> None:
        self.routing = routing
        self.near = near
        self.fallbacks = Fallbacks(routing.clock) if fallbacks is None else fallbacks
        self._copies = None if near is None else Copies(near, routing, options.prefix, options.codec.decode)
        """The near cache for writes, which void copies at any consistency level."""
        self.copies = self._copies if options.r == DEFAULT_LEVEL else None
        """The near cache for reads; None also where an explicit read level asks for more than a copy can promise. A
        driver looks here before it asks for the flow of a ``get``: a hit is then a single call."""
        self.copy_of: Callable[[Any], Any] = _none if self.copies is None else self.copies.value
        """Returns the value of a key of which there is a copy, else MISSING."""
        self.options = options
        self.cluster = cluster
        self._clock = routing.clock
        self.rng = rng
        self._prefix = options.prefix
        self._timeout_s = options.timeout_s
        self._allowance_s = allowance_s(options.timeout_s, 0)
        options.codec.limit_by(lambda: routing.settings.value_bytes_max)
        self._encode = options.codec.encode
        self._decode = options.codec.decode
        self._read = (options.r, options.w, False)
        self._read_meta = (options.r, options.w, True)
        self._may_hedge = options.hedge and options.r in {DEFAULT_LEVEL, LEVEL_ONE, 1}
        self._unchecked = options.w > 0 or options.r > 0
        self.fast = FastPath(routing, options, near, self._allowance_s)
        """The fast path of reads and writes. Drivers try it before they ask for the flow of an operation."""
        if not self._unchecked:
            self.fast.open()
        self._caller: str | None = None
        """What the user called, if that is made of several operations; errors name it."""

    def on_behalf_of(self, caller: str) -> Self:
        """Return the same session, whose errors name what the user called, for example ``lock 'job'``."""
        other = copy(self)
        other._caller = caller  # noqa: SLF001  (of its kind)
        return other

    def connection(self, address: str) -> Connection:
        """Return the protocol's side of a new connection to ``address``."""
        return Connection(address, self.cluster, self.routing)

    def _one(self, request: Request, timeout: Timeout | None, fast: Tried | None = None) -> Flow[Any]:
        """Deliver a request for one key: straight to its owner, and through ``delivery.py`` if anything is unusual."""
        if fast is not None and fast.made:
            delivery = self._go_on(request, fast)
            yield from delivery.run()
            delivery.check()
            return delivery.results[0]
        routing = self.routing
        started = self._clock()
        timeout_s = self._timeout_s if timeout is None else seconds(timeout)
        if self._unchecked or not routing.known:
            yield from self._prepare(request, started, timeout_s)
        if request.content_bytes:
            self.check_size(request.content_bytes)
        key = request.keys[0]
        first = routing.first
        address = first[crc32(key) & (len(first) - 1)] if started < routing.due else None
        tried: tuple[Call, Any] | None = None
        if address is not None:
            if request.kind is Get and key in routing.hot:
                address = routing.spread(key, started, self.rng.random()) or address
            size = len(key) + request.content_bytes
            if not request.repeatable:
                allowance = timeout_s
            elif timeout is None and size < SMALL_BYTES:
                allowance = self._allowance_s
            else:
                allowance = allowance_s(timeout_s, size)
            if routing.windows.narrow and request.repeatable:
                allowance = within(allowance * routing.patience(address, started), timeout_s)
            call = Call(address, request, started + timeout_s, allowance, size)
            if self._may_hedge and request.kind is Get and (self.options.r or routing.settings.read_quorum == 1):
                call, outcome = yield from self._hedged(call, started)
            else:
                (outcome,) = yield [call]
            if type(outcome) is list and type(outcome[0]) is not list:
                routing.succeeded(call.address, started)
                return outcome[0]
            tried = call, outcome
        delivery = self._delivery(request, started, timeout_s, tried)
        yield from delivery.run()
        delivery.check()
        return delivery.results[0]

    def _hedged(self, call: Call, started: float) -> Flow[tuple[Call, Any]]:
        """Read a key; ask another owner, too, if the first takes long. Return the call that counts, and its outcome."""
        routing = self.routing

        def other(is_ready: Callable[[str], bool]) -> Call | None:
            address = routing.other_owner(call.request.keys[0], call.address, self._clock())
            if address is None or not is_ready(address) or not routing.hedging.takes():
                return None
            return Call(address, call.request, call.until, call.allowance_s, call.size)

        step = Hedged(call, other, routing.hedging.delay_s)
        (outcome,) = yield step
        routing.hedging.note(self._clock() - started, won=step.winner is not call)
        return step.winner, outcome

    def update(
        self,
        name: str,
        key: Key,
        change: list[Any],
        content_bytes: int,
        timeout: Timeout | None,
        repeatable: bool = False,
    ) -> Flow[Any]:
        """Have the key's first owner run a change; ``name`` is the operation that needs it, for errors."""
        options = (self.options.w, self.options.r, 0)
        raw = raw_key(self._prefix, key)
        request = Request(name, Update, options, [raw], [key], [change], content_bytes, repeatable)
        return self._writing([raw], self._one(request, timeout))

    def _many(
        self, request: Request, timeout: Timeout | None, fast: Tried | None = None
    ) -> Flow[tuple[list[Any], dict[int, Exception]]]:
        """Deliver many keys, all safe to ask for again; return their results, and the errors by index."""
        if fast is not None and fast.made:
            delivery = self._go_on(request, fast)
            yield from delivery.run()
            self.routing.errors += bool(delivery.errors)
            return delivery.results, delivery.errors
        keys = request.keys
        if not keys:
            return [], {}
        started = self._clock()
        timeout_s = self._timeout_s if timeout is None else seconds(timeout)
        if self._unchecked or not self.routing.known:
            yield from self._prepare(request, started, timeout_s)
        routing = self.routing
        size = sum(map(len, keys))
        if request.payloads:
            self.check_size(max(map(len, request.payloads)))
            size += request.content_bytes
        tried: tuple[Call, Any] | None = None
        expected = routing.value_bytes * len(keys) if request.kind is Get else 0
        small = len(keys) <= SMALL_KEYS and size + expected < routing.settings.small_bytes
        if small and routing.only is not None and started < routing.due:
            # Everything is for one node, and goes in one message: no need to sort the keys.
            allowance = allowance_s(timeout_s, size) * routing.patience(routing.only, started)
            call = Call(routing.only, request, started + timeout_s, within(allowance, timeout_s), size)
            (outcome,) = yield [call]
            if type(outcome) is list and list not in set(map(type, outcome)):
                routing.succeeded(call.address, started)
                return outcome, {}
            tried = call, outcome
        delivery = self._delivery(request, started, timeout_s, tried)
        yield from delivery.run()
        routing.errors += bool(delivery.errors)
        return delivery.results, delivery.errors

    def _ask(self, request: Request, node: str | None, timeout: Timeout | None) -> Flow[Any]:
        """Ask something that is about no key: any node, or the one with the id or address ``node``."""
        started = self._clock()
        timeout_s = self._timeout_s if timeout is None else seconds(timeout)
        if not self.routing.known:
            yield from self._prepare(request, started, timeout_s)
        address = None
        if node is not None:
            address = self.routing.address_of(node)
            if address is None:
                names = ", ".join(f"{peer.node_id} ({peer.address})" for peer in self.routing.peers.values())
                raise NodeUnavailable(f"{request.name}: there is no node {node!r}; the mesh has {names or 'no member'}")
        delivery = self._delivery(request, started, timeout_s, node=address)
        yield from delivery.run()
        delivery.check()
        return delivery.results[0]

    def _delivery(
        self,
        request: Request,
        started: float,
        timeout_s: float,
        tried: tuple[Call, Any] | None = None,
        *,
        node: str | None = None,
        park_s: float = 0.0,
    ) -> Delivery:
        """Return the delivery of a request; ``tried`` is an attempt that was made before, and its outcome."""
        if self._caller is not None:
            request = request.on_behalf_of(self._caller)
        delivery = Delivery(self.routing, self.rng, request, started, timeout_s, node, park_s)
        if tried is not None:
            call, outcome = tried
            delivery.resume(call, range(len(delivery.results)), outcome)
        return delivery

    def _go_on(self, request: Request, fast: Tried) -> Delivery:
        """Return the delivery of a request of which attempts were made on the fast path."""
        delivery = self._delivery(request, fast.started, self._timeout_s)
        for call, places, outcome in fast.made:
            delivery.resume(call, places, outcome)
        return delivery

    def _prepare(self, request: Request, started: float, timeout_s: float) -> Flow[None]:
        """Before the first operation, have a seed greet this client, so that settings and ring are known."""
        routing = self.routing
        if not routing.known:
            given = request.given if len(request.given) == 1 else []
            question = Request(request.name, Inspect, VIEW, [], given)
            # Thousands of calls may do this at once; all but the first need only that it was done.
            address = routing.pick(None, routing.rests.current(started), started)
            tried: tuple[Call, Any] | None = None
            if address is not None:
                routing.rests.ask([address], started)
                call = Call(address, question, started + timeout_s, allowance_s(timeout_s, 0))
                (outcome,) = yield [call]
                tried = call, outcome
            if not routing.known:
                greeting = self._delivery(question, started, timeout_s, tried)
                yield from greeting.run_until(lambda: routing.known)
                if not routing.known:
                    greeting.check()
        self._check_levels()

    def check_size(self, content_bytes: int) -> None:
        """Raise ValueTooLarge for a content that is longer than nodes take."""
        limit = self.routing.settings.value_bytes_max
        if content_bytes - CONTENT_FLAG_BYTES > limit:
            raise ValueTooLarge(content_bytes - CONTENT_FLAG_BYTES, limit)

    def _check_levels(self) -> None:
        """Refuse levels that the cluster can never reach, as soon as its settings are known."""
        replicas = self.routing.settings.replicas
        if not self._unchecked or not self.routing.known:
            return
        for name, level in (("write", self.options.w), ("read", self.options.r)):
            if level > replicas:
                raise ValueError(f"consistency: {name} level {level} is more than the cluster's {replicas} replicas")
        self._unchecked = False
        self.fast.open()

    def ask_parked(self, name: str, key: Key, change: list[Any], timeout_s: float, park_s: float) -> Flow[Any]:
        """Have the key's first owner run a change that it may answer only after ``park_s``."""
        started = self._clock()
        options = (self.options.w, self.options.r, 0)
        request = Request(name, Update, options, [raw_key(self._prefix, key)], [key], [change])
        if self._unchecked or not self.routing.known:
            yield from self._prepare(request, started, timeout_s)
        delivery = self._delivery(request, started, timeout_s, park_s=park_s)
        yield from self._writing(request.keys, delivery.run())
        delivery.check()
        return delivery.results[0]

    def _writing(self, keys: list[bytes], flow: Flow[T]) -> Flow[T]:
        """Run a write such that this client reads no copy of what it has overwritten."""
        if self._copies is None or not self._copies.near.used:
            return flow
        return self._copies.while_writing(keys, flow)

    def prepare(self, timeout: Timeout | None) -> Flow[None]:
        """Learn who is in the mesh, if that is not known yet."""
        yield from self._prepare(Request("subscribe", Inspect, VIEW, [], []), self._clock(), self.timeout_s(timeout))
        if not self.routing.settings.stream:
            raise AuthFailed("subscribe: this client's key is confined to a prefix, or may not read: no stream for it")

    def timeout_s(self, timeout: Timeout | None) -> float:
        """Return the total time of a call that was given this ``timeout``."""
        return self._timeout_s if timeout is None else seconds(timeout)

    # ---- reading

    def look(self, key: Key, timeout: Timeout | None, name: str) -> Flow[tuple[Any, bytes | None]]:
        """Return the value or MISSING, and the live record, which has the value or is too old to be one.

        A value from the near cache comes without a record.
        """
        copies, raw = self.copies, raw_key(self._prefix, key)
        value = MISSING if copies is None else copies.value(key)
        if value is not MISSING:
            return value, None
        reading = None if copies is None else copies.begin([raw])
        record = yield from self._one(Request(name, Get, self._read, [raw], [key]), timeout)
        value = self._value(record, MISSING, key)
        if reading is not None and copies is not None and value is not MISSING:
            copies.keep(raw, record, value, reading)
        return value, record if is_hit(record) else None

    def _value(self, record: Any, default: Any, key: Key) -> Any:
        """Return the value of a record, or the default if it is a miss."""
        if record is None:
            return default
        try:
            plain = type(record) is bytes and len(record) >= HEADER_BYTES and not record[FLAGS_AT]
            return self._decode(record) if plain or self._is_visible(record) else default
        except SerializationError as error:
            raise SerializationError(f"{key!r:.80}: {error}") from error

    def _is_visible(self, record: Any) -> bool:
        return is_hit(record) and not is_stale(record, self.routing)


def _none(_: Any) -> Any:
    """There is no copy of any key."""
    return MISSING
