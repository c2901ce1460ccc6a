# ruff: noqa: D102  (the operations are described where users see them, in client.py)
"""The client's operations, written once: every one is a flow that both drivers run.

Pure: no socket and no thread here, and the time and chance that it is given. ``delivery.py`` gets keys to nodes,
``routing.py`` knows the nodes; here is what an operation means: how its arguments are read and what its answer says.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from copy import copy
from typing import Any, Final, TypeVar
from zlib import crc32

from meshcache.arguments import (
    DEFAULT,
    MISSING,
    Item,
    Key,
    Tags,
    Timeout,
    Ttl,
    key_list,
    levels,
    milliseconds,
    namespace_bytes,
    raw_key,
    raw_keys,
    raw_tags,
    seconds,
)
from meshcache.codec import Codec, ValueCodec
from meshcache.copies import Copies, near_store
from meshcache.core.messages import (
    BATCH_OPS_MAX,
    DEFAULT_LEVEL,
    Change,
    Clear,
    Delete,
    EventKind,
    Forget,
    Get,
    Inspect,
    InvalidateTags,
    Leave,
    Set,
    Update,
)
from meshcache.core.near import NearCache, NearStore
from meshcache.core.record import (
    CONTENT_FLAG_BYTES,
    HEADER_BYTES,
    NEVER_MS,
    STAMP_BYTES,
    TOMBSTONE,
    VERSION_BYTES,
    Extras,
    expires_ms_of,
    extras_of,
    version_of,
    with_extras,
)
from meshcache.delivery import Delivery, Flow, allowance_s
from meshcache.errors import NodeUnavailable, ProtocolError, SerializationError, ValueTooLarge
from meshcache.filling import Fill, decoded, is_stale, terms
from meshcache.link import Call, Kind, Link
from meshcache.options import Options, options_of
from meshcache.routing import Routing
from meshcache.seeds import parse_seeds

FLAGS_AT: Final = STAMP_BYTES
CODEC_AT: Final = STAMP_BYTES + 1
"""Where in a record the nodes' flags are, and the codec's tag."""
SMALL_KEYS: Final = 512
SMALL_BYTES: Final = 1 << 20
"""Below this, size does not add to what an attempt may take."""


T = TypeVar("T")


class Session:
    """The operations under one set of options. Sessions derived from each other share what they know of the mesh."""

    def __init__(
        self,
        routing: Routing,
        rng: random.Random,
        options: Options,
        cluster: str = "",
        near: NearStore | None = None,
    ) -> None:
        self.routing = routing
        self.near = near
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

    def derive(
        self,
        *,
        prefix: str | bytes | None = None,
        consistency: object = DEFAULT,
        timeout: Timeout | None = None,
        ttl: Ttl = DEFAULT,
        codec: str | ValueCodec | None = None,
    ) -> Session:
        """Return a session with some options changed; ``prefix`` is put behind the one there is."""
        old = self.options
        w, r = (old.w, old.r) if consistency is DEFAULT else levels(consistency)
        options = Options(
            prefix=old.prefix + namespace_bytes(prefix or b""),
            timeout_s=old.timeout_s if timeout is None else seconds(timeout),
            ttl_ms=old.ttl_ms if ttl is DEFAULT else milliseconds(ttl),
            w=w,
            r=r,
            codec=old.codec if codec is None else Codec(codec),
        )
        session = Session(self.routing, self.rng, options, self.cluster, self.near)
        session._check_levels()
        return session

    def on_behalf_of(self, caller: str) -> Session:
        """Return the same session, whose errors name what the user called: ``lock 'job'``, say."""
        session = copy(self)
        session._caller = caller  # noqa: SLF001  (its own)
        return session

    def link(self, address: str) -> Link:
        """Return the protocol's side of a new connection to ``address``."""
        return Link(address, self.cluster, self.routing)

    # ---- operations

    def get(self, key: Key, default: Any, timeout: Timeout | None) -> Flow[Any]:
        if self.copies is not None:
            value, _ = yield from self.look(key, timeout)
            return default if value is MISSING else value
        record = yield from self._one("get", key, Get, self._read, raw_key(self._prefix, key), None, 0, timeout)
        return self._value(record, default, key)

    def gets(self, key: Key, timeout: Timeout | None) -> Flow[Item | None]:
        record = yield from self._one("gets", key, Get, self._read, raw_key(self._prefix, key), None, 0, timeout)
        if not _is_hit(record):
            return None
        value = decoded(self.options.codec, record, key)
        return Item(value, version_of(record), self._seconds_left(record), is_stale(record, self.routing))

    def get_many(self, keys: Iterable[Key], timeout: Timeout | None) -> Flow[dict[Any, Any]]:
        given = key_list(keys)
        raws = raw_keys(self._prefix, given)
        if self.copies is not None:
            return (yield from self._get_many_near(self.copies, given, raws, timeout))
        return self._values(given, (yield from self._get_records(given, raws, timeout)))

    def _get_many_near(
        self, copies: Copies, given: list[Any], raws: list[bytes], timeout: Timeout | None
    ) -> Flow[dict[Any, Any]]:
        found = {key: value for key in given if (value := copies.value(key)) is not MISSING}
        wanted = [i for i, key in enumerate(given) if key not in found]
        if not wanted:
            return found
        asked = [given[i] for i in wanted]
        reading = copies.begin([raws[i] for i in wanted])
        records = yield from self._get_records(asked, [raws[i] for i in wanted], timeout)
        fetched = self._values(asked, records)
        for i, record in zip(wanted, records, strict=True):
            if given[i] in fetched:
                copies.keep(raws[i], record, fetched[given[i]], reading)
        return {key: found[key] if key in found else fetched[key] for key in given if key in found or key in fetched}

    def _get_records(self, given: list[Any], raws: list[bytes], timeout: Timeout | None) -> Flow[list[Any]]:
        records, errors = yield from self._many("get_many", given, Get, self._read, raws, None, timeout)
        if errors:
            raise next(iter(errors.values()))
        return records

    def _values(self, given: list[Any], records: list[Any]) -> dict[Any, Any]:
        """Return the values of the hits."""
        readers = self.options.codec.readers
        try:
            return {
                key: readers[flags][record[CODEC_AT]](record)
                for key, record in zip(given, records, strict=False)
                if record is not None and (not (flags := record[FLAGS_AT]) or self._is_visible(record))
            }
        except Exception:  # noqa: BLE001  (whatever it is, the slow way says which key and why)
            values = {key: self._value(record, MISSING, key) for key, record in zip(given, records, strict=False)}
            return {key: value for key, value in values.items() if value is not MISSING}

    def set(self, key: Key, value: Any, ttl: Ttl, timeout: Timeout | None, tags: Tags = ()) -> Flow[None]:
        raw = raw_key(self._prefix, key)
        content = self._tagged(self._encode(value), tags) if tags else self._encode(value)
        flow = self._one("set", key, Set, (self.options.w, self._ttl_ms(ttl)), raw, content, len(content), timeout)
        yield from self._writing([raw], flow)

    def set_many(self, items: Mapping[Any, Any], ttl: Ttl, timeout: Timeout | None, tags: Tags = ()) -> Flow[list[Any]]:
        given = list(items)
        latest = dict(zip(raw_keys(self._prefix, given), given, strict=True))
        names = list(latest.values())
        encode = self._encode
        contents = [encode(items[name]) for name in names]
        if tags:
            said = Extras(raw_tags(self._prefix, tags))
            contents = [with_extras(content, said) for content in contents]
        options = (self.options.w, self._ttl_ms(ttl))
        raws = list(latest)
        flow = self._many("set_many", names, Set, options, raws, contents, timeout)
        _, errors = yield from self._writing(raws, flow)
        return [names[i] for i in sorted(errors)]

    def delete(self, key: Key, timeout: Timeout | None) -> Flow[bool]:
        raw = raw_key(self._prefix, key)
        flow = self._one("delete", key, Delete, (self.options.w, int(EventKind.DELETE)), raw, None, 0, timeout)
        return bool((yield from self._writing([raw], flow)))

    def delete_many(self, keys: Iterable[Key], timeout: Timeout | None, kind: int = EventKind.DELETE) -> Flow[int]:
        given = key_list(keys)
        named = dict(zip(raw_keys(self._prefix, given), given, strict=True))
        raws, name = list(named), "invalidate" if kind == EventKind.INVALIDATE else "delete_many"
        flow = self._many(name, list(named.values()), Delete, (self.options.w, int(kind)), raws, None, timeout)
        existed, errors = yield from self._writing(raws, flow)
        if errors:
            raise next(iter(errors.values()))
        return sum(map(bool, existed))

    def add(self, key: Key, value: Any, ttl: Ttl, timeout: Timeout | None, tags: Tags = ()) -> Flow[bool]:
        content = self._tagged(self._encode(value), tags)
        change = [int(Change.ADD), content, self._ttl_ms(ttl)]
        return bool((yield from self.update("add", key, change, len(content), timeout)))

    def replace(self, key: Key, value: Any, ttl: Ttl, timeout: Timeout | None, tags: Tags = ()) -> Flow[bool]:
        content = self._tagged(self._encode(value), tags)
        change = [int(Change.REPLACE), content, self._ttl_ms(ttl)]
        return bool((yield from self.update("replace", key, change, len(content), timeout)))

    def cas(
        self, key: Key, value: Any, version: bytes, ttl: Ttl, timeout: Timeout | None, tags: Tags = ()
    ) -> Flow[bool]:
        if type(version) is not bytes or len(version) != VERSION_BYTES:
            raise TypeError(f"version must be the .version of an Item from gets(), is {version!r}")
        content = self._tagged(self._encode(value), tags)
        change = [int(Change.CAS), content, self._ttl_ms(ttl), version]
        return bool((yield from self.update("cas", key, change, len(content), timeout)))

    def incr(
        self, key: Key, delta: int, initial: int | None, ttl: Ttl, timeout: Timeout | None, name: str = "incr"
    ) -> Flow[int]:
        for field, number in (("delta", delta), ("initial", 0 if initial is None else initial)):
            if type(number) is not int:
                raise TypeError(f"{field} must be an int, is {number!r}")
            if not -(1 << 63) <= number < 1 << 63:
                raise ValueError(f"{field} must be within 64 bits, is {number}")
        result = yield from self.update(name, key, [int(Change.INCR), delta, initial, self._ttl_ms(ttl)], 0, timeout)
        if type(result) is not int:
            raise ProtocolError(f"{name} {key!r:.80}: the node answered {result!r:.200}")
        return result

    def touch(self, key: Key, ttl: Ttl, timeout: Timeout | None) -> Flow[bool]:
        change = [int(Change.TOUCH), self._ttl_ms(ttl)]
        return bool((yield from self.update("touch", key, change, 0, timeout, repeatable=True)))

    def exists(self, key: Key, timeout: Timeout | None) -> Flow[bool]:
        raw = raw_key(self._prefix, key)
        return self._is_visible((yield from self._one("exists", key, Get, self._read_meta, raw, None, 0, timeout)))

    def ttl(self, key: Key, timeout: Timeout | None) -> Flow[float | None]:
        raw = raw_key(self._prefix, key)
        record = yield from self._one("ttl", key, Get, self._read_meta, raw, None, 0, timeout)
        return self._seconds_left(record) if self._is_visible(record) else None

    def get_or_set(self, key: Key, load: Any, ttl: Ttl, timeout: Timeout | None, **how: Any) -> Flow[Any]:
        return (yield from self._fill("get_or_set", key, load, ttl, timeout, **how).run())

    def refresh(self, key: Key, load: Any, ttl: Ttl, timeout: Timeout | None, **how: Any) -> Flow[Any]:
        return (yield from self._fill("refresh", key, load, ttl, timeout, **how).run_anew())

    def _fill(
        self, name: str, key: Key, load: Any, ttl: Ttl, timeout: Timeout | None,
        *, stale_ttl: Ttl = None, early: float = 0.0, tags: Tags = (),
    ) -> Fill:  # fmt: skip
        kept = terms(self._ttl_ms(ttl), stale_ttl, early, raw_tags(self._prefix, tags))
        return Fill(self, name, key, load, kept, self.timeout_s(timeout))

    def check_terms(self, ttl: Ttl, stale_ttl: Ttl, early: float, tags: Tags) -> None:
        terms(self._ttl_ms(ttl), stale_ttl, early, raw_tags(self._prefix, tags))

    def clear(self, timeout: Timeout | None, prefix: Key = b"") -> Flow[int]:
        name = f"invalidate_prefix {prefix!r:.80}" if prefix else "clear"
        prefix = self._prefix + namespace_bytes(prefix)
        with contextlib.nullcontext() if self._copies is None else self._copies.clearing(prefix):
            dropped = yield from self._ask(name, Clear, (prefix,), None, timeout)
        if type(dropped) is not int:
            raise ProtocolError(f"{name}: the node answered {dropped!r:.200}")
        return dropped

    def invalidate_tags(self, tags: Tags, timeout: Timeout | None) -> Flow[int]:
        raws = raw_tags(self._prefix, tags)
        if not raws:
            return 0
        if len(raws) > BATCH_OPS_MAX:
            raise ValueError(f"tags: one call invalidates at most {BATCH_OPS_MAX:,}, not {len(raws):,}")
        with contextlib.nullcontext() if self._copies is None else self._copies.invalidating(raws):
            dropped = yield from self._ask("invalidate_tags", InvalidateTags, (raws,), None, timeout)
        if type(dropped) is not int:
            raise ProtocolError(f"invalidate_tags: the node answered {dropped!r:.200}")
        return dropped

    def inspect(self, what: str, key: Key, node: str | None, timeout: Timeout | None) -> Flow[dict[str, Any]]:
        options = (what, raw_key(self._prefix, key) if key else b"")
        answer = yield from self._ask(f"inspect {what}", Inspect, options, node, timeout)
        if not isinstance(answer, dict):
            raise ProtocolError(f"inspect {what}: the node answered {answer!r:.200}")
        return answer

    def leave(self, node: str, timeout: Timeout | None) -> Flow[None]:
        yield from self._ask(f"leave {node}", Leave, (), node, timeout)

    def forget(self, node: str, timeout: Timeout | None) -> Flow[None]:
        yield from self._ask("forget", Forget, (node,), None, timeout)

    # ---- ways to nodes

    def _one(
        self, name: str, given: Key, kind: Kind, options: tuple[Any, ...], key: bytes, payload: Any,
        content_bytes: int, timeout: Timeout | None, repeatable: bool = True,
    ) -> Flow[Any]:  # fmt: skip
        """Deliver one key: straight to its owner, and by the long way only if anything is unusual.

        ``name`` and ``given`` are what the caller called, and with which key: for errors.
        """
        routing = self.routing
        started = self._clock()
        timeout_s = self._timeout_s if timeout is None else seconds(timeout)
        if self._unchecked or not routing.known:
            yield from self._prepare(name, [given], started, timeout_s)
        if content_bytes - CONTENT_FLAG_BYTES > routing.settings.value_bytes_max:
            raise ValueTooLarge(content_bytes - CONTENT_FLAG_BYTES, routing.settings.value_bytes_max)
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
            call = Call(address, kind, options, keys, payloads, started + allowance, allowance, size)
            (outcome,) = yield [call]
            if type(outcome) is list and type(outcome[0]) is not list:
                routing.succeeded(address, started)
                return outcome[0]
            tried = call, outcome
        delivery = self._delivery(name, [given], kind, options, keys, payloads, started, timeout_s, repeatable)
        if tried is not None:
            delivery.resume(*tried)
        yield from delivery.run()
        if delivery.errors:
            raise delivery.errors[0]
        return delivery.results[0]

    def update(
        self, name: str, key: Key, change: list[Any], content_bytes: int, timeout: Timeout | None,
        repeatable: bool = False,
    ) -> Flow[Any]:  # fmt: skip
        """Have the key's first owner run a change; ``name`` is the operation that needs it."""
        options = (self.options.w, self.options.r, 0)
        raw = raw_key(self._prefix, key)
        flow = self._one(name, key, Update, options, raw, change, content_bytes, timeout, repeatable)
        return self._writing([raw], flow)

    def _many(
        self, name: str, given: list[Any], kind: Kind, options: tuple[Any, ...], keys: list[bytes],
        payloads: list[Any] | None, timeout: Timeout | None,
    ) -> Flow[tuple[list[Any], dict[int, Exception]]]:  # fmt: skip
        """Deliver many keys, all of which may be asked for again; returns their results, and by index what failed."""
        if not keys:
            return [], {}
        started = self._clock()
        timeout_s = self._timeout_s if timeout is None else seconds(timeout)
        if self._unchecked or not self.routing.known:
            yield from self._prepare(name, given, started, timeout_s)
        routing = self.routing
        limit = routing.settings.value_bytes_max
        size = sum(map(len, keys))
        if payloads:
            lengths = list(map(len, payloads))
            if max(lengths) - CONTENT_FLAG_BYTES > limit:
                raise ValueTooLarge(max(lengths) - CONTENT_FLAG_BYTES, limit)
            size += sum(lengths)
        tried: tuple[Call, Any] | None = None
        small = len(keys) <= SMALL_KEYS and size < min(SMALL_BYTES, routing.settings.request_bytes_max // 2)
        if small and routing.only is not None and started < routing.due:
            # Everything for one node, in one message: no need to sort the keys.
            allowance = allowance_s(timeout_s, size)
            call = Call(routing.only, kind, options, keys, payloads, started + allowance, allowance, size)
            (outcome,) = yield [call]
            if type(outcome) is list and list not in set(map(type, outcome)):
                routing.succeeded(call.address, started)
                return outcome, {}
            tried = call, outcome
        delivery = self._delivery(name, given, kind, options, keys, payloads, started, timeout_s, repeatable=True)
        if tried is not None:
            delivery.resume(*tried)
        yield from delivery.run()
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
        if delivery.errors:
            raise delivery.errors[0]
        return delivery.results[0]

    def _delivery(
        self, name: str, given: list[Any], kind: Kind, options: tuple[Any, ...], keys: list[bytes],
        payloads: list[Any] | None, started: float, timeout_s: float, repeatable: bool, **how: Any,
    ) -> Delivery:  # fmt: skip
        if self._caller is not None:
            name, given = self._caller, []
        return Delivery(
            self.routing, self.rng, name, given, kind, options, keys, payloads,
            deadline=started + timeout_s, timeout_s=timeout_s, repeatable=repeatable, **how,
        )  # fmt: skip

    def _prepare(self, name: str, given: list[Any], started: float, timeout_s: float) -> Flow[None]:
        """Before the first operation: have a seed greet us, so that settings and ring are known."""
        routing = self.routing
        if not routing.known:
            given = given if len(given) == 1 else []
            greeting = self._delivery(
                name, given, Inspect, ("view", b""), [], None, started, timeout_s, repeatable=True
            )
            yield from greeting.run_until(lambda: routing.known)
            if not routing.known:
                raise greeting.errors[0]
        self._check_levels()

    def _check_levels(self) -> None:
        """Refuse levels that the cluster can never reach; not before it is known."""
        replicas = self.routing.settings.replicas
        if not self._unchecked or not self.routing.known:
            return
        for name, level in (("write", self.options.w), ("read", self.options.r)):
            if level > replicas:
                raise ValueError(f"consistency: {name} level {level} is more than the cluster's {replicas} replicas")
        self._unchecked = False

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
        return value, record if _is_hit(record) else None

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
        if delivery.errors:
            raise delivery.errors[0]
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

    # ---- keys, values, times

    def _tagged(self, content: bytes, tags: Tags) -> bytes:
        """Return a content that carries these tags. Raises TypeError and ValueError on tags that make no sense."""
        return with_extras(content, Extras(raw_tags(self._prefix, tags)))

    def _ttl_ms(self, ttl: Ttl) -> int:
        if ttl is DEFAULT:
            return self.options.ttl_ms
        return milliseconds(ttl)

    def _value(self, record: Any, default: Any, key: Key) -> Any:
        """Return the value of a record, or the default for a miss."""
        if record is None:
            return default
        try:
            return self._decode(record) if self._is_visible(record) else default
        except SerializationError as error:
            raise SerializationError(f"{key!r:.80}: {error}") from error

    def _is_visible(self, record: Any) -> bool:
        return _is_hit(record) and not is_stale(record, self.routing)

    def _seconds_left(self, record: bytes) -> float:
        expires_ms = extras_of(record).soft_expires_ms or expires_ms_of(record)
        if expires_ms >= NEVER_MS:
            return math.inf
        wall_ms = self.routing.wall_ms(self._clock())
        return 0.0 if wall_ms is None else max(0.0, (expires_ms - wall_ms) / 1000)


def _is_hit(record: Any) -> bool:
    if record is None:
        return False
    if type(record) is bytes and len(record) >= HEADER_BYTES:
        return not record[FLAGS_AT] & TOMBSTONE
    raise ProtocolError(f"the node answered {record!r:.80} instead of a record")


def begin(
    seeds: str | Iterable[str] | None,
    *,
    cluster: str,
    near_cache: NearCache | bool | None = None,
    lock: AbstractContextManager[Any] | None = None,
    clock: Callable[[], float] = time.monotonic,
    **arguments: Any,
) -> Session:
    """Return the session of a new client; ``arguments`` are those of options.py."""
    found = parse_seeds(seeds)
    options = options_of(found, **arguments)
    routing = Routing(found.addresses, clock)
    near = near_store(near_cache, options.r, lock, routing)
    return Session(routing, random.SystemRandom(), options, cluster or found.options.get("cluster", ""), near)
