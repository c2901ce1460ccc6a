# ruff: noqa: D102  (the operations are described where users see them, in client.py)
"""The client's operations, written once: each one is a flow that both drivers run.

Pure: no socket and no thread, and time and randomness are given. ``delivery.py`` gets keys to nodes and ``routing.py``
knows the nodes; this module says what an operation means: how its arguments are read and what its answer says.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from meshcache.client.arguments import (
    DEFAULT,
    MISSING,
    Item,
    Key,
    Tags,
    Ttl,
    key_list,
    levels,
    milliseconds,
    namespace_bytes,
    raw_key,
    raw_keys,
    raw_tags,
)
from meshcache.client.asking import Asking
from meshcache.client.codec import ValueCodec, succeeds
from meshcache.client.compression import Compress
from meshcache.client.connection import Read, Request, Tried
from meshcache.client.delivery import Flow
from meshcache.client.fallbacks import OUTAGES, OnError, OnReadError, loads_on_error, misses_on_error
from meshcache.client.get_or_set import Fill, terms
from meshcache.client.near_cache import Copies, near_store
from meshcache.client.options import Options, codec_of, hedge_of, options_of
from meshcache.client.routing import Routing
from meshcache.client.seeds import parse_seeds
from meshcache.client.values import decoded, is_hit, is_stale, seconds_left
from meshcache.durations import Timeout, seconds
from meshcache.errors import AuthFailed, ProtocolError
from meshcache.keys import read_secret_key
from meshcache.protocol.messages import (
    BATCH_OPS_MAX,
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
)
from meshcache.protocol.near_store import NearCache
from meshcache.protocol.record import VERSION_BYTES, Extras, version_of, with_extras

T = TypeVar("T")


class Session(Asking):
    """The operations under one set of options. Sessions derived from each other share what they know of the mesh."""

    def derive(
        self,
        *,
        prefix: str | bytes | None = None,
        consistency: object = DEFAULT,
        timeout: Timeout | None = None,
        ttl: Ttl = DEFAULT,
        codec: str | ValueCodec | None = None,
        compress: Compress | None = None,
        compress_min_bytes: int | None = None,
        on_error: OnReadError | None = None,
        hedge: bool | None = None,
    ) -> Session:
        """Return a session with some options changed; ``prefix`` is added to the present one."""
        old = self.options
        w, r = (old.w, old.r) if consistency is DEFAULT else levels(consistency)
        options = Options(
            prefix=old.prefix + namespace_bytes(prefix or b""),
            timeout_s=old.timeout_s if timeout is None else seconds(timeout),
            ttl_ms=old.ttl_ms if ttl is DEFAULT else milliseconds(ttl),
            w=w,
            r=r,
            codec=codec_of(old.codec, codec, compress, compress_min_bytes),
            misses_on_error=old.misses_on_error if on_error is None else misses_on_error(on_error),
            hedge=old.hedge if hedge is None else hedge_of(hedge),
            key_file=old.key_file,
        )
        session = Session(self.routing, self.rng, options, self.cluster, self.near, self.fallbacks)
        session._check_levels()
        return session

    # ---- operations

    def get(self, key: Key, default: Any, timeout: Timeout | None, fast: Tried | None = None) -> Flow[Any]:
        """Ask nodes for a value. The caller has looked into ``copies`` before, and tried the fast path."""
        copies, raw = self.copies, raw_key(self._prefix, key)
        request = Request("get", Get, self._read, [raw], [key])
        reading = None if copies is None else copies.begin(request.keys)
        try:
            record = yield from self._one(request, timeout, fast)
            value = self._value(record, MISSING, key)
        except OUTAGES as error:
            if not self._misses(error):
                raise
            return default
        if value is MISSING:
            return default
        if reading is not None and copies is not None:
            copies.keep(raw, record, value, reading)
        return value

    def gets(self, key: Key, timeout: Timeout | None, *, near: bool = False) -> Flow[Item | None]:
        copies, raw = self.copies if near else None, raw_key(self._prefix, key)
        reading = None
        if copies is not None:
            copy = copies.item(key)
            if copy is not None:
                return copy
            reading = copies.begin([raw])
        try:
            record = yield from self._one(Request("gets", Get, self._read, [raw], [key]), timeout)
        except OUTAGES as error:
            if not self._misses(error):
                raise
            return None
        if not is_hit(record):
            return None
        value = decoded(self.options.codec, record, key)
        stale = is_stale(record, self.routing)
        if copies is not None and not stale:
            copies.keep(raw, record, value, reading)
        return Item(value, version_of(record), seconds_left(record, self.routing), stale)

    def get_many(self, keys: Iterable[Key], timeout: Timeout | None, fast: Tried | None = None) -> Flow[dict[Any, Any]]:
        given = key_list(keys)
        raws = raw_keys(self._prefix, given)
        was_asked = fast is not None and fast.made
        # Batches alone make no key one that copies are kept of.
        if self.copies is not None and self.copies.near.used and not was_asked:
            return (yield from self._get_many_near(self.copies, given, raws, timeout))
        request = Request("get_many", Get, self._read, raws, given, reads_values=True)
        results = yield from self._get_results(request, timeout, fast)
        if Read not in set(map(type, results)):
            return self._values(given, results)
        found = {key: result.value for key, result in zip(given, results, strict=True) if type(result) is Read}
        others = [i for i, key in enumerate(given) if key not in found]
        found.update(self._values([given[i] for i in others], [results[i] for i in others]))
        return {key: found[key] for key in given if key in found}

    def _get_many_near(
        self, copies: Copies, given: list[Any], raws: list[bytes], timeout: Timeout | None
    ) -> Flow[dict[Any, Any]]:
        found = {key: value for key in given if (value := copies.value(key)) is not MISSING}
        wanted = [i for i, key in enumerate(given) if key not in found]
        if not wanted:
            return found
        asked = [given[i] for i in wanted]
        reading = copies.begin([raws[i] for i in wanted])
        request = Request("get_many", Get, self._read, [raws[i] for i in wanted], asked)
        records = yield from self._get_results(request, timeout)
        fetched = self._values(asked, records)
        for i, record in zip(wanted, records, strict=True):
            if given[i] in fetched:
                copies.keep(raws[i], record, fetched[given[i]], reading)
        return {key: found[key] if key in found else fetched[key] for key in given if key in found or key in fetched}

    def _get_results(self, request: Request, timeout: Timeout | None, fast: Tried | None = None) -> Flow[list[Any]]:
        try:
            results, errors = yield from self._many(request, timeout, fast)
        except OUTAGES as error:
            if not self._misses(error, len(request.keys)):
                raise
            return [None] * len(request.keys)
        for i in sorted(errors):
            if not self._misses(errors[i]):
                raise errors.pop(i)  # not kept here, since its traceback leads to this frame
        return results

    def _values(self, given: list[Any], records: list[Any]) -> dict[Any, Any]:
        """Return the values of the hits."""
        codec = self.options.codec
        try:
            return codec.hits(given, records, self._is_visible)
        except Exception:
            if succeeds(codec.hits, given, records, self._is_visible):
                raise
            # The slow way finds out which key fails and why.
            values = {key: self._value(record, MISSING, key) for key, record in zip(given, records, strict=False)}
            return {key: value for key, value in values.items() if value is not MISSING}

    def set(
        self, key: Key, value: Any, ttl: Ttl, timeout: Timeout | None, tags: Tags = (), fast: Tried | None = None
    ) -> Flow[None]:
        raw = raw_key(self._prefix, key)
        content = self._tagged(self._encode(value), tags) if tags else self.options.codec.content(value)
        options = (self.options.w, self._ttl_ms(ttl))
        request = Request("set", Set, options, [raw], [key], [content], len(content))
        yield from self._writing([raw], self._one(request, timeout, fast))

    def set_many(
        self,
        items: Mapping[Any, Any],
        ttl: Ttl,
        timeout: Timeout | None,
        tags: Tags = (),
        fast: Tried | None = None,
    ) -> Flow[list[Any]]:
        given = list(items)
        latest = dict(zip(raw_keys(self._prefix, given), given, strict=True))
        names = list(latest.values())
        contents: list[Any]
        if tags:
            said = Extras(raw_tags(self._prefix, tags))
            contents = [with_extras(self._encode(items[name]), said) for name in names]
        else:
            contents = [self.options.codec.content(items[name]) for name in names]
        options = (self.options.w, self._ttl_ms(ttl))
        raws = list(latest)
        request = Request("set_many", Set, options, raws, names, contents, sum(map(len, contents)))
        _, errors = yield from self._writing(raws, self._many(request, timeout, fast))
        for error in errors.values():
            if isinstance(error, AuthFailed):  # to write these keys once more would never help
                raise error
        return [names[i] for i in sorted(errors)]

    def delete(self, key: Key, timeout: Timeout | None) -> Flow[bool]:
        raw = raw_key(self._prefix, key)
        request = Request("delete", Delete, (self.options.w, int(EventKind.DELETE)), [raw], [key])
        return bool((yield from self._writing([raw], self._one(request, timeout))))

    def delete_many(self, keys: Iterable[Key], timeout: Timeout | None, kind: int = EventKind.DELETE) -> Flow[int]:
        given = key_list(keys)
        named = dict(zip(raw_keys(self._prefix, given), given, strict=True))
        raws, name = list(named), "invalidate" if kind == EventKind.INVALIDATE else "delete_many"
        request = Request(name, Delete, (self.options.w, int(kind)), raws, list(named.values()))
        existed, errors = yield from self._writing(raws, self._many(request, timeout))
        if errors:
            raise errors.pop(min(errors))
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
        try:
            record = yield from self._one(Request("exists", Get, self._read_meta, [raw], [key]), timeout)
        except OUTAGES as error:
            if not self._misses(error):
                raise
            return False
        return self._is_visible(record)

    def ttl(self, key: Key, timeout: Timeout | None) -> Flow[float | None]:
        raw = raw_key(self._prefix, key)
        try:
            record = yield from self._one(Request("ttl", Get, self._read_meta, [raw], [key]), timeout)
        except OUTAGES as error:
            if not self._misses(error):
                raise
            return None
        return seconds_left(record, self.routing) if self._is_visible(record) else None

    def get_or_set(
        self, key: Key, load: Any, ttl: Ttl, timeout: Timeout | None, *, on_error: OnError = "raise", **how: Any
    ) -> Flow[Any]:
        loads = loads_on_error(on_error)
        fill = self._fill("get_or_set", key, load, ttl, timeout, **how)
        try:
            return (yield from fill.run())
        except OUTAGES as error:
            if not loads or fill.has_loaded:
                raise
            failure = error
        if fill.outwaited and not (yield from fill.is_let_down()):
            raise failure
        self.fallbacks.count(failure, loads=1)
        return (yield from fill.run_alone())

    def refresh(self, key: Key, load: Any, ttl: Ttl, timeout: Timeout | None, **how: Any) -> Flow[Any]:
        return (yield from self._fill("refresh", key, load, ttl, timeout, **how).run_anew())

    def _fill(
        self,
        name: str,
        key: Key,
        load: Any,
        ttl: Ttl,
        timeout: Timeout | None,
        *,
        stale_ttl: Ttl = None,
        early: float = 0.0,
        tags: Tags = (),
    ) -> Fill:
        kept = terms(self._ttl_ms(ttl), stale_ttl, early, raw_tags(self._prefix, tags))
        return Fill(self, name, key, load, kept, self.timeout_s(timeout))

    def check_terms(self, ttl: Ttl, stale_ttl: Ttl, early: float, tags: Tags) -> None:
        terms(self._ttl_ms(ttl), stale_ttl, early, raw_tags(self._prefix, tags))

    def clear(self, timeout: Timeout | None, prefix: Key = b"") -> Flow[int]:
        name = f"invalidate_prefix {prefix!r:.80}" if prefix else "clear"
        prefix = self._prefix + namespace_bytes(prefix)
        with contextlib.nullcontext() if self._copies is None else self._copies.clearing(prefix):
            dropped = yield from self._ask(Request(name, Clear, (prefix,), [], []), None, timeout)
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
            dropped = yield from self._ask(Request("invalidate_tags", InvalidateTags, (raws,), [], []), None, timeout)
        if type(dropped) is not int:
            raise ProtocolError(f"invalidate_tags: the node answered {dropped!r:.200}")
        return dropped

    def inspect(self, what: str, key: Key, node: str | None, timeout: Timeout | None) -> Flow[dict[str, Any]]:
        options = (what, raw_key(self._prefix, key) if key else b"")
        answer = yield from self._ask(Request(f"inspect {what}", Inspect, options, [], []), node, timeout)
        if not isinstance(answer, dict):
            raise ProtocolError(f"inspect {what}: the node answered {answer!r:.200}")
        return answer

    def leave(self, node: str, timeout: Timeout | None) -> Flow[None]:
        yield from self._ask(Request(f"leave {node}", Leave, (), [], []), node, timeout)

    def forget(self, node: str, timeout: Timeout | None) -> Flow[None]:
        yield from self._ask(Request("forget", Forget, (node,), [], []), None, timeout)

    # ---- reading

    def value_of(self, record: bytes, key: Key) -> Any:
        """Return the value of a record that an attempt to read a key came to; MISSING if it counts as none."""
        return self._value(record, MISSING, key)

    def hits_of(self, keys: list[Any], values: list[Any]) -> tuple[dict[Any, Any], list[Any]]:
        """Return the values that a reply had for keys as ``values_of`` takes them."""
        found = {key: value for key, value in zip(keys, values, strict=True) if value is not MISSING}
        return found, [key for key, value in found.items() if type(value) is tuple]

    def values_of(self, answers: list[tuple[dict[Any, Any], list[Any]]], keys: list[Any]) -> dict[Any, Any]:
        """Return the values that attempts to read keys came to, in the order of the keys."""
        found, rest = answers[0]
        if len(answers) > 1:
            for more, others in answers[1:]:
                found.update(more)
                rest += others
            found = {key: found[key] for key in keys if key in found}
            rest = [key for key in found if type(found[key]) is tuple] if rest else []
        if rest:
            hits = self._values(rest, [found[key][0] for key in rest])
            if len(hits) < len(set(rest)):
                for key in [key for key in rest if key not in hits]:
                    found.pop(key, None)
            found.update(hits)
        return found

    def _misses(self, error: Exception, keys: int = 1) -> bool:
        """Tell whether the keys of a read count as missing, because the cache fails and the user wants that."""
        if not (self.options.misses_on_error and self._caller is None and isinstance(error, OUTAGES)):
            return False
        self.fallbacks.count(error, misses=keys)
        return True

    def _tagged(self, content: bytes, tags: Tags) -> bytes:
        """Return a content with these tags. Raises TypeError and ValueError if the tags make no sense."""
        return with_extras(content, Extras(raw_tags(self._prefix, tags)))

    def _ttl_ms(self, ttl: Ttl) -> int:
        if ttl is DEFAULT:
            return self.options.ttl_ms
        return milliseconds(ttl)


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
    key = read_secret_key(options.key_file, "client", "node") if options.key_file else None
    routing = Routing(found.addresses, clock, key)
    near = near_store(near_cache, options.r, lock, routing)
    return Session(routing, random.SystemRandom(), options, cluster or found.options.get("cluster", ""), near)
