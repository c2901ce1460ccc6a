"""How an operation gets to nodes: the shortest way where all is as usual, ``delivery.py`` where anything is not.

Here is what all operations under one set of options share, beside what they mean (session.py): the mesh as it is known,
copies near the reader, what the user called and with which key, for errors. Pure, as session.py is.
"""

from __future__ import annotations

import random
from copy import copy
from typing import Any, Final, Self, TypeVar
from zlib import crc32

from meshcache.client.arguments import MISSING, Key, raw_key
from meshcache.client.connection import Call, Kind, Link
from meshcache.client.delivery import VIEW, Delivery, Flow, allowance_s
from meshcache.client.fallbacks import Fallbacks
from meshcache.client.near_cache import Copies
from meshcache.client.options import Options
from meshcache.client.routing import Routing
from meshcache.client.values import FLAGS_AT, is_hit, is_stale
from meshcache.durations import Timeout, seconds
from meshcache.errors import NodeUnavailable, SerializationError, ValueTooLarge
from meshcache.protocol.messages import DEFAULT_LEVEL, Get, Inspect, Update
from meshcache.protocol.near_store import NearStore
from meshcache.protocol.record import CONTENT_FLAG_BYTES, HEADER_BYTES

SMALL_KEYS: Final = 512
SMALL_BYTES: Final = 1 << 20
"""Below this, size does not add to what an attempt may take."""

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
        self.copies = self._copies if options.r == DEFAULT_LEVEL and (near is None or near.only is None) else None
        """For reads: None too where an explicit read level asks for more than a copy can promise, and until a node
        says that some key is hot, if there are only copies of such keys."""
        self.options = options
        self.cluster = cluster
        self._clock = routing.clock
        self.rng = rng
        self._prefix = options.prefix
        self._timeout_s = options.timeout_s
        self._allowance_s = allowance_s(options.timeout_s, 0)
        self._encode = options.codec.encode
        self._decode = options.codec.decode
        self._read = (options.r, options.w, False)
        self._read_meta = (options.r, options.w, True)
        self._unchecked = options.w > 0 or options.r > 0
        self._caller: str | None = None
        """What errors name instead of the operation at hand: what the user called is made of several."""

    def on_behalf_of(self, caller: str) -> Self:
        """Return the same, whose errors name what the user called: ``lock 'job'``, say."""
        other = copy(self)
        other._caller = caller  # noqa: SLF001  (of its kind)
        return other

    def link(self, address: str) -> Link:
        """Return the protocol's side of a new connection to ``address``."""
        return Link(address, self.cluster, self.routing)

    def _one(
        self,
        name: str,
        given: Key,
        kind: Kind,
        options: tuple[Any, ...],
        key: bytes,
        payload: Any,
        content_bytes: int,
        timeout: Timeout | None,
        repeatable: bool = True,
    ) -> Flow[Any]:
        """Deliver one key: straight to its owner, and by the long way only if anything is unusual.

        ``name`` and ``given`` are what the caller called, and with which key: for errors.
        """
        routing = self.routing
        started = self._clock()
        timeout_s = self._timeout_s if timeout is None else seconds(timeout)
        if self._unchecked or not routing.known:
            yield from self._prepare(name, [given], started, timeout_s)
        if content_bytes:
            self.check_size(content_bytes)
        keys = [key]
        payloads = None if payload is None else [payload]
        first = routing.first
        address = first[crc32(key) & (len(first) - 1)] if started < routing.due else None
        tried: tuple[Call, Any] | None = None
        if address is not None:
            if kind is Get and key in routing.hot:
                address = routing.spread(key, started, self.rng.random()) or address
                self._use_copies()
            size = len(key) + content_bytes
            if not repeatable:
                allowance = timeout_s
            elif timeout is None and size < SMALL_BYTES:
                allowance = self._allowance_s
            else:
                allowance = allowance_s(timeout_s, size)
            call = Call(address, kind, options, keys, payloads, started + timeout_s, allowance, size)
            (outcome,) = yield [call]
            if type(outcome) is list and type(outcome[0]) is not list:
                routing.succeeded(address, started)
                return outcome[0]
            tried = call, outcome
        delivery = self._delivery(name, [given], kind, options, keys, payloads, started, timeout_s, repeatable)
        if tried is not None:
            delivery.resume(*tried)
        yield from delivery.run()
        delivery.check()
        return delivery.results[0]

    def update(
        self,
        name: str,
        key: Key,
        change: list[Any],
        content_bytes: int,
        timeout: Timeout | None,
        repeatable: bool = False,
    ) -> Flow[Any]:
        """Have the key's first owner run a change; ``name`` is the operation that needs it."""
        options = (self.options.w, self.options.r, 0)
        raw = raw_key(self._prefix, key)
        flow = self._one(name, key, Update, options, raw, change, content_bytes, timeout, repeatable)
        return self._writing([raw], flow)

    def _many(
        self,
        name: str,
        given: list[Any],
        kind: Kind,
        options: tuple[Any, ...],
        keys: list[bytes],
        payloads: list[Any] | None,
        timeout: Timeout | None,
    ) -> Flow[tuple[list[Any], dict[int, Exception]]]:
        """Deliver many keys, all of which may be asked for again; returns their results, and by index what failed."""
        if not keys:
            return [], {}
        started = self._clock()
        timeout_s = self._timeout_s if timeout is None else seconds(timeout)
        if self._unchecked or not self.routing.known:
            yield from self._prepare(name, given, started, timeout_s)
        routing = self.routing
        size = sum(map(len, keys))
        if payloads:
            lengths = list(map(len, payloads))
            self.check_size(max(lengths))
            size += sum(lengths)
        tried: tuple[Call, Any] | None = None
        small = len(keys) <= SMALL_KEYS and size < min(SMALL_BYTES, routing.settings.request_bytes_max // 2)
        if small and routing.only is not None and started < routing.due:
            # Everything for one node, in one message: no need to sort the keys.
            allowance = allowance_s(timeout_s, size)
            call = Call(routing.only, kind, options, keys, payloads, started + timeout_s, allowance, size)
            (outcome,) = yield [call]
            if type(outcome) is list and list not in set(map(type, outcome)):
                routing.succeeded(call.address, started)
                return outcome, {}
            tried = call, outcome
        delivery = self._delivery(name, given, kind, options, keys, payloads, started, timeout_s, repeatable=True)
        if tried is not None:
            delivery.resume(*tried)
        yield from delivery.run()
        routing.errors += bool(delivery.errors)
        return delivery.results, delivery.errors

    def _ask(
        self, name: str, kind: Kind, options: tuple[Any, ...], node: str | None, timeout: Timeout | None
    ) -> Flow[Any]:
        """Ask something that is of no one key: any node, or the one named by id or address."""
        started = self._clock()
        timeout_s = self._timeout_s if timeout is None else seconds(timeout)
        if not self.routing.known:
            yield from self._prepare(name, [], started, timeout_s)
        address = None
        if node is not None:
            address = self.routing.address_of(node)
            if address is None:
                names = ", ".join(f"{peer.node_id} ({peer.address})" for peer in self.routing.peers.values())
                raise NodeUnavailable(f"{name}: there is no node {node!r}; the mesh has {names or 'no member'}")
        delivery = self._delivery(name, [], kind, options, [], None, started, timeout_s, repeatable=True, node=address)
        yield from delivery.run()
        delivery.check()
        return delivery.results[0]

    def _delivery(
        self,
        name: str,
        given: list[Any],
        kind: Kind,
        options: tuple[Any, ...],
        keys: list[bytes],
        payloads: list[Any] | None,
        started: float,
        timeout_s: float,
        repeatable: bool,
        **how: Any,
    ) -> Delivery:
        if self._caller is not None:
            name, given = self._caller, []
        return Delivery(
            self.routing,
            self.rng,
            name,
            given,
            kind,
            options,
            keys,
            payloads,
            deadline=started + timeout_s,
            timeout_s=timeout_s,
            repeatable=repeatable,
            **how,
        )

    def _prepare(self, name: str, given: list[Any], started: float, timeout_s: float) -> Flow[None]:
        """Before the first operation: have a seed greet us, so that settings and ring are known."""
        routing = self.routing
        if not routing.known:
            # Thousands may do this at once, and all but the first want no more than that it is done.
            address = routing.pick(None, routing.rests.current(started), started)
            tried: tuple[Call, Any] | None = None
            if address is not None:
                routing.rests.ask([address], started)
                call = Call(address, Inspect, VIEW, [], None, started + timeout_s, allowance_s(timeout_s, 0), 0)
                (outcome,) = yield [call]
                tried = call, outcome
            if not routing.known:
                given = given if len(given) == 1 else []
                greeting = self._delivery(name, given, Inspect, VIEW, [], None, started, timeout_s, repeatable=True)
                if tried is not None:
                    greeting.resume(*tried)
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
        """Refuse levels that the cluster can never reach; not before it is known."""
        replicas = self.routing.settings.replicas
        if not self._unchecked or not self.routing.known:
            return
        for name, level in (("write", self.options.w), ("read", self.options.r)):
            if level > replicas:
                raise ValueError(f"consistency: {name} level {level} is more than the cluster's {replicas} replicas")
        self._unchecked = False

    def ask_parked(self, name: str, key: Key, change: list[Any], timeout_s: float, park_s: float) -> Flow[Any]:
        """Have the key's first owner run a change that it may answer only after ``park_s``."""
        started = self._clock()
        raw = raw_key(self._prefix, key)
        if self._unchecked or not self.routing.known:
            yield from self._prepare(name, [key], started, timeout_s)
        options = (self.options.w, self.options.r, 0)
        delivery = self._delivery(
            name, [key], Update, options, [raw], [change], started, timeout_s, repeatable=True, park_s=park_s
        )
        flow = delivery.run()
        yield from self._writing([raw], flow)
        delivery.check()
        return delivery.results[0]

    def _writing(self, keys: list[bytes], flow: Flow[T]) -> Flow[T]:
        """Write so that this client does not read from its copies what it has overwritten."""
        if self._copies is None or not self._copies.near.used:
            return flow
        return self._copies.while_writing(keys, flow)

    def _use_copies(self) -> None:
        """A key is hot: from now on look for copies first."""
        wanted = self.options.r == DEFAULT_LEVEL and self.routing.hot_copy_s
        if self.copies is None and self._copies is not None and wanted:
            self._copies.near.used = True
            self.copies = self._copies

    def prepare(self, timeout: Timeout | None) -> Flow[None]:
        """Learn who is in the mesh, if that is not known yet."""
        yield from self._prepare("subscribe", [], self._clock(), self.timeout_s(timeout))

    def timeout_s(self, timeout: Timeout | None) -> float:
        """Return the total time of a call that was given this ``timeout``."""
        return self._timeout_s if timeout is None else seconds(timeout)

    # ---- reading

    def look(self, key: Key, timeout: Timeout | None, name: str = "get") -> Flow[tuple[Any, bytes | None]]:
        """Return the value or MISSING, and the live record, from which the value is or which is too old for one.

        A value from the near cache comes without a record.
        """
        copies, raw = self.copies, raw_key(self._prefix, key)
        reading = None
        if copies is not None:
            value = copies.value(key)
            if value is not MISSING:
                return value, None
            reading = copies.begin([raw])
        record = yield from self._one(name, key, Get, self._read, raw, None, 0, timeout)
        value = self._value(record, MISSING, key)
        if copies is not None and value is not MISSING:
            copies.keep(raw, record, value, reading)
        return value, record if is_hit(record) else None

    def _value(self, record: Any, default: Any, key: Key) -> Any:
        """Return the value of a record, or the default for a miss."""
        if record is None:
            return default
        try:
            plain = type(record) is bytes and len(record) >= HEADER_BYTES and not record[FLAGS_AT]
            return self._decode(record) if plain or self._is_visible(record) else default
        except SerializationError as error:
            raise SerializationError(f"{key!r:.80}: {error}") from error

    def _is_visible(self, record: Any) -> bool:
        return is_hit(record) and not is_stale(record, self.routing)
