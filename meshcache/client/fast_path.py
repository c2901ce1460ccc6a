"""The fast path: what a usual GET or SET is to its driver, without a flow, a request or a call.

An operation is usual if all its keys have a node that is asked first, nothing is due in the routing, no key is hot, no
other copy of a key could have been kept or read, and it is small enough for one message that gets no more time for its
size. Then a driver makes one *attempt* at each node at once: it has the connection write the frame, sends it, and has
it read what comes back (frames.py). If anything is not as expected, a node that is not connected or an answer that
does not make it in time, the attempts become calls like any other, and the operation's flow goes on with them
(delivery.py). So what can go wrong is dealt with in one place, and what is counted is the same either way.

A value that was written on the fast path is encoded anew if the flow has to go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from meshcache.client.arguments import DEFAULT, MISSING, Ttl, milliseconds
from meshcache.client.connection import Attempt, Operation
from meshcache.client.frames import PURE, frames
from meshcache.client.options import Options
from meshcache.client.parts import EXPECTED_REPLY_BYTES
from meshcache.client.routing import SMALL_BYTES, Routing
from meshcache.protocol.messages import DEFAULT_LEVEL, TTL_NEVER, Get, Set
from meshcache.protocol.near_store import NearStore

SMALL_KEYS: Final = (SMALL_BYTES - 1) // EXPECTED_REPLY_BYTES
"""Up to this number of keys, an attempt gets no more time for its size."""
_TTL_S_MAX: Final = 1 << 31
"""Longer lifetimes are not usual."""


GET: Final = Operation("get", Get, frames.encode_get, frames.decode_value)
GET_MANY: Final = Operation("get_many", Get, frames.encode_get, frames.decode_values)
SET: Final = Operation("set", Set, frames.encode_set, frames.decode_done)


class FastPath:
    """The fast path under one set of options."""

    def __init__(self, routing: Routing, options: Options, near: NearStore | None, allowance_s: float) -> None:
        self._routing = routing
        self._timeout_s = options.timeout_s
        self._allowance_s = allowance_s
        self.is_open = False
        self._clock = routing.clock
        self._prefix = options.prefix
        self._levels = (options.r, options.w)
        self._w = options.w
        self._ttl_ms = options.ttl_ms
        self._encode = options.codec.encode
        self._encodes_all = options.codec.encodes_all
        self._near = near
        may_copy = near is not None and near.only is None and options.r == DEFAULT_LEVEL
        self._reads = not (may_copy or options.hedge)
        """Whether reads can be usual: not where copies of all keys are kept, or a second node may be asked."""

    def open(self) -> None:
        """Begin, since the levels of these options are known to be ones that the cluster can reach.

        Without the native module it stays shut: made of the functions that the flows use, it would save little.
        """
        self.is_open = frames is not PURE

    def get(self, key: Any) -> list[Attempt] | None:
        """Return the attempt to read a key of which no copy is kept; None: it is not usual."""
        routing = self._routing
        started = self._clock()
        if not (self.is_open and self._reads and started < routing.due):
            return None
        address = frames.owner_of(self._prefix, key, routing.first, routing.hot)
        if address is None:
            return None
        keys = [key]
        fields = (*self._levels, self._prefix, keys, routing.settings.small_bytes)
        until = started + self._timeout_s
        return [_made(Attempt, (GET, address, started, until, self._allowance_s, keys, _ONE, fields, _MISSING))]

    def get_of_any(self) -> Attempt | None:
        """Return what attempts to read single keys have in common; None: they are never usual.

        It has no key, no address and no time yet, and ``until`` is how long an operation may take.
        """
        if not self._reads:
            return None
        fields: tuple[Any, ...] = (*self._levels, self._prefix, [], 0)
        return Attempt(GET, "", 0.0, self._timeout_s, self._allowance_s, [], _ONE, fields, _MISSING)

    def get_many(self, keys: list[Any]) -> list[Attempt] | None:
        """Return the attempts to read keys, one for each node."""
        near, routing = self._near, self._routing
        if routing.value_bytes * len(keys) > routing.settings.small_bytes:
            return None  # it takes several requests
        usual = self._reads and (near is None or not near.entries)
        shares = self._shares(keys, routing.first, routing.hot) if usual else None
        if shares is None:
            return None
        started = self._clock()
        times = started, started + self._timeout_s, self._allowance_s
        attempts = []
        for address, places in shares.items():
            share = keys if len(shares) == 1 else [keys[i] for i in places]
            fields = (*self._levels, self._prefix, share, self._routing.settings.small_bytes)
            attempts.append(Attempt(GET_MANY, address, *times, share, places, fields, (share,)))
        return attempts

    def set(self, key: Any, value: Any, ttl: Ttl) -> list[Attempt] | None:
        """Return the attempt to write a key."""
        routing, near = self._routing, self._near
        started = self._clock()
        ttl_ms = self._ttl_ms if ttl is DEFAULT else _usual_ttl_ms(ttl)
        if not (self.is_open and started < routing.due) or ttl_ms is None or (near is not None and near.used):
            return None
        address = frames.owner_of(self._prefix, key, routing.first, _NONE_HOT)
        if address is None:
            return None
        keys = [key]
        fields = (self._w, ttl_ms, self._prefix, keys, [value], *self._contents())
        until = started + self._timeout_s
        return [_made(Attempt, (SET, address, started, until, self._allowance_s, keys, _ONE, fields, ()))]

    def set_many(self, keys: list[Any], values: list[Any], ttl: Ttl) -> list[Attempt] | None:
        """Return the attempts to write different keys, one for each node."""
        near = self._near
        ttl_ms = self._ttl_ms if ttl is DEFAULT else _usual_ttl_ms(ttl)
        first = self._routing.first_of_batch(self._w)
        shares = self._shares(keys, first, _NONE_HOT) if near is None or not near.used else None
        if shares is None or ttl_ms is None:
            return None
        started = self._clock()
        times = started, started + self._timeout_s, self._allowance_s
        attempts = []
        for address, places in shares.items():
            share, its = keys, values
            if len(shares) > 1:
                share, its = [keys[i] for i in places], [values[i] for i in places]
            fields = (self._w, ttl_ms, self._prefix, share, its, *self._contents())
            attempts.append(Attempt(SET, address, *times, share, places, fields, ()))
        return attempts

    def _contents(self) -> tuple[Any, ...]:
        """Return how values are encoded, and the limits for them."""
        settings = self._routing.settings
        return self._encode, self._encodes_all, settings.value_bytes_max, settings.small_bytes

    def _shares(
        self, keys: list[Any], first: list[str | None], hot: dict[bytes, float]
    ) -> dict[str, Sequence[int]] | None:
        """Return by address the places of the keys to ask for there."""
        routing = self._routing
        if not (self.is_open and 0 < len(keys) <= SMALL_KEYS and self._clock() < routing.due):
            return None
        only = routing.only
        if only is not None and not hot:
            return {only: range(len(keys))}
        shares: dict[str, Sequence[int]] | None = frames.share_out(self._prefix, keys, first, hot)
        return shares


_made: Final = tuple.__new__
"""Makes an attempt; calling its class takes twice as long."""
_NONE_HOT: Final[dict[bytes, float]] = {}
_ONE: Final = range(1)
_MISSING: Final = (MISSING,)


def _usual_ttl_ms(ttl: Ttl) -> int | None:
    """Return a lifetime in milliseconds; None for one that may be wrong."""
    if ttl is None:
        return TTL_NEVER
    return milliseconds(ttl) if type(ttl) in {int, float} and 0 < ttl < _TTL_S_MAX else None  # type: ignore[operator]  # a number
