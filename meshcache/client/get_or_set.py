"""``get_or_set``: one computation of a missing value in the whole cluster.

A caller that misses asks the key's first owner for the value *or* the lease (core/fills.py), and is parked there while
another one computes. With the lease the caller runs its loader, while the driver renews the lease, and then sends the
value (the fill). If the lease was voided meanwhile, for example by a delete, the value is returned to this caller alone
and is not stored.

*Stale* values: an entry that is written with ``stale_ttl`` is kept that much longer than its ttl, and says in its
extras when it becomes stale. A caller that finds a stale value asks for the lease without being parked: one caller
refreshes the value, and all others get the stale one. *Early* refresh (XFetch; Vattani, Chierichetti and Lowenstein
2015): a caller that finds a value acts as if the time were later by a random amount, in proportion to the time that the
value took to compute. So some caller refreshes a popular value before it expires, and it is never missed.

Callers of one process that miss a key share one question to the owner, and what is computed after it (flights.py). They
share a record, as with callers in other processes: each decodes the record itself, also the caller that computed it, so
that no two callers get the same object. The lifetimes and tags that count are those of the caller that computes.

A load that fails, is cancelled or is interrupted gives its lease up at once. A load is cancelled when nobody waits for
it any more. A question that nobody waits for is withdrawn; else the lease could be granted to a caller that is gone.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from meshcache.client.arguments import MISSING, Key, Ttl, bare, early_factor, is_kept, milliseconds, raw_key
from meshcache.client.asking import Asking
from meshcache.client.delivery import Apart, Board, Compute, Flow, Halt, Wait
from meshcache.client.fallbacks import OUTAGES
from meshcache.client.flights import Flight, Flights, Seat
from meshcache.client.near_cache import is_unchangeable
from meshcache.client.values import decoded, is_stale
from meshcache.errors import ClientClosed, MeshcacheError, OperationError, OperationTimeout, ProtocolError
from meshcache.protocol.messages import LEASE_ALWAYS, LEASE_S, TOKEN_BYTES, TTL_DEFAULT, TTL_NEVER, Change
from meshcache.protocol.record import (
    HEADER_BYTES,
    NEVER_MS,
    VERSION_BYTES,
    Extras,
    expires_ms_of,
    expiry_bytes,
    extras_of,
    version_of,
    with_extras,
)

PARK_S: Final = 2.0
"""How long one question is parked; then it is asked again, so that the silence of an owner is noticed."""
REASK_S: Final = 0.05
"""How long a caller pauses if it has too little time left to be parked."""
RELEASE_S: Final = 1.0
WITHDRAW_S: Final = 0.1
"""How long a caller whose time is over may still take to withdraw the question of its flight."""
RENEW_S: Final = LEASE_S / 3
FILL_S_MIN: Final = 0.25
PROBE_S: Final = 0.25
NO_LEASE: Final = b""
"""Stands for the lease, and for the token, of a load that the cache does not know of."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a value is stored and refreshed, read and checked from the arguments of a call."""

    ttl_ms: int
    """The lifetime, in the form that messages carry."""
    stale_ms: int
    """How much longer the value is kept, and may be served while a new one is computed."""
    early: float
    """The factor beta of XFetch: 0 never refreshes early, 1 is the optimum of the paper, more refreshes earlier."""
    tags: tuple[bytes, ...] = ()

    @property
    def kept_ms(self) -> int:
        """How long the nodes keep the value."""
        return min(self.ttl_ms + self.stale_ms, NEVER_MS) if self.ttl_ms > 0 else self.ttl_ms


def terms(ttl_ms: int, stale_ttl: Ttl, early: float, tags: tuple[bytes, ...]) -> Terms:
    """Check the arguments. ``stale_ttl`` and ``early`` count from the expiry, so there must be one."""
    stale_ms = 0
    if stale_ttl is not None:
        try:
            stale_ms = milliseconds(stale_ttl)
        except (TypeError, ValueError) as error:
            raise type(error)(f"stale_{error}") from None
    if stale_ms and ttl_ms in {TTL_DEFAULT, TTL_NEVER}:
        raise ValueError("stale_ttl needs a ttl: give the call or the client one that is not None")
    with_extras(b"\0\0", Extras(tags, NEVER_MS, NEVER_MS))  # raises now any error that would come when all is computed
    return Terms(ttl_ms, stale_ms, early_factor(early), tags)


def refuse_awaitable(value: Any) -> None:
    """Refuse a result that must still be awaited: it was never run, and cannot be stored."""
    if not inspect.isawaitable(value):
        return
    if inspect.iscoroutine(value):
        value.close()  # else Python would warn that it was never awaited
    raise TypeError(
        f"the loader returned something to be awaited ({type(value).__qualname__}), not a value: "
        "a coroutine function needs an AsyncClient, and has to await what it returns"
    )


def _is_lease(answer: bytes) -> bool:
    return len(answer) == VERSION_BYTES


def _halt(flights: Flights, key: Hashable) -> Flow[None]:
    """End loads that were kept for callers that came while they ran, when none of these callers waits any more."""
    for flight in flights.forsaken(key):
        yield Halt(flight, 0.0)


class Loaded(NamedTuple):
    """The outcome of a load."""

    value: Any
    error: BaseException | None = None


class Stopped(NamedTuple):
    """Returned as a value if the loader raised StopIteration, which no generator can raise."""

    error: StopIteration


def result(found: Any) -> Any:
    """Return what a flow of ``Fill`` returned, or raise what it stands for."""
    if type(found) is Stopped:
        raise found.error
    return found


class Fill:
    """One call of ``get_or_set``."""

    def __init__(self, asking: Asking, name: str, key: Key, load: Any, terms: Terms, timeout_s: float) -> None:
        """``name`` is what the user called, for errors."""
        self._asking = asking
        self._name = name
        self._key = key
        self._raw = raw_key(asking.options.prefix, key)
        self._load = load
        self._terms = terms
        self._timeout_s = timeout_s
        self._now = asking.routing.clock
        self._started = self._now()
        self._seat = self._seat_with(asking.rng.randbytes(TOKEN_BYTES))
        self._heard_at = self._started
        """When a node last said that another caller computes the value; at first the beginning of the call."""
        self.has_loaded = False
        """Whether this caller's loader was called. Then it is not called again, and its error is no failure of the
        cache."""
        self.outwaited = False
        """Whether the time was over while this caller waited for others."""

    def _seat_with(self, token: bytes) -> Seat:
        # The seat must not refer to this object: it is held weakly, and must be gone as soon as its caller is.
        return Seat(token, functools.partial(_hold, self._asking, self._name, self._key, 0))

    def run(self) -> Flow[Any]:
        """Return the value: the cached one, or the one that a caller in the cluster computes now."""
        value, record = yield from self._asking.look(self._key, self._timeout_s, self._name)
        if value is not MISSING and (record is None or not self._is_early(record)):
            return value
        if value is MISSING:
            value = self._stale_value(record)
        # Consistency levels are promises: only callers with the same levels share an answer.
        question = (self._raw, self._asking.options.w, self._asking.options.r, value is MISSING)
        above = b"" if record is None else version_of(record)
        if value is MISSING:
            return (yield from self._seated(question, lambda flights: self._miss(flights, question, above)))
        return (yield from self._seated(question, lambda _: self._refresh(above, value)))

    def run_anew(self) -> Flow[Any]:
        """Compute the value and store it, whatever is cached.

        A computation that is under way elsewhere is not stored any more.
        """
        return (yield from self._seated(self._seat.token, lambda _: self._anew()))

    def run_alone(self) -> Flow[Any]:
        """Compute the value without the cache, because the cache fails; nothing is stored.

        In this process one caller at a time does this. Callers that come meanwhile wait, for ``timeout`` at most, and
        share the next computation, which is not older than their calls.
        """
        self._started = self._now()
        self._seat = self._seat_with(NO_LEASE)
        return (yield from self._seated((self._raw, "alone"), lambda _: self._alone()))

    def is_let_down(self) -> Flow[bool]:
        """Tell whether this caller, whose time is over, waited for a node that fails, and not for a long computation.

        A caller in a flight cannot see whether its question is parked or lost. So it asks one more, short question.
        """
        routing = self._asking.routing
        try:
            if routing.failed_at <= self._heard_at:
                yield from self._asking.look(self._key, PROBE_S, self._name)
        except OUTAGES:
            return True
        return routing.failed_at > self._heard_at

    # ---- what was found

    def _is_early(self, record: bytes) -> bool:
        """Tell whether this caller should refresh the value before it expires."""
        if not self._terms.early:
            return False
        extras = extras_of(record)
        expires_ms = extras.soft_expires_ms or expires_ms_of(record)
        wall_ms = self._asking.routing.wall_ms(self._now())
        if extras.load_ms is None or expires_ms >= NEVER_MS or wall_ms is None:
            return False
        ahead_ms = -extras.load_ms * self._terms.early * math.log(1.0 - self._asking.rng.random())
        return wall_ms + ahead_ms >= expires_ms

    def _stale_value(self, record: bytes | None) -> Any:
        """Return the value of a stale record, if this caller accepts it."""
        wall_ms = self._asking.routing.wall_ms(self._now())
        if record is None or not self._terms.stale_ms or wall_ms is None:
            return MISSING
        soft_expires_ms = extras_of(record).soft_expires_ms
        if soft_expires_ms is None or wall_ms >= soft_expires_ms + self._terms.stale_ms:
            return MISSING
        return self._value_of(record)

    def _value_of(self, record: bytes) -> Any:
        return decoded(self._asking.options.codec, record, self._key)

    # ---- with other callers

    def _seated(self, key: Hashable, flow: Callable[[Flights], Flow[Any]]) -> Flow[Any]:
        """Run a flow with a seat in the flight for a key, and leave the seat however it ends."""
        seat, flights = self._seat, None
        try:
            flights = yield Board(seat, key)
            found = yield from flow(flights)
            seat.leave()
            yield from _halt(flights, key)
        except GeneratorExit:
            raise
        except BaseException as error:
            if flights is not None:
                yield from self._abandon(flights, key, in_time=not isinstance(error, OperationError))
            raise
        finally:
            seat.leave()
        return found

    def _abandon(self, flights: Flights, key: Hashable, *, in_time: bool) -> Flow[None]:
        """Leave the seat without a value, and end what nobody waits for any more.

        ``in_time``: this may take a while.
        """
        seat, flight = self._seat, self._seat.flight
        if flight is not None:
            flight.unheard |= in_time  # if this caller asked, the answer may still grant it the lease
        last = flight is not None and seat.leave()
        yield from _halt(flights, key)
        if flight is None or not last:
            return
        if flight.load is not None:
            yield Halt(flight, RELEASE_S if in_time else 0.0)
        if not flight.over and (in_time or flight.unheard):
            left_s = RELEASE_S if in_time else WITHDRAW_S
            yield from _hold(self._asking, self._name, self._key, 0, flight.token, left_s)

    def _miss(self, flights: Flights, question: Hashable, above: bytes) -> Flow[Any]:
        while True:
            record = yield from self._wait()
            if record is not None:
                if version_of(record) > above:
                    return self._value_of(record)
                yield Board(self._seat, question)
                continue
            answer = yield from self._ask(above, park=True)
            if _is_lease(answer):
                self._flight.close()
                yield from _halt(flights, question)  # what was voided: nobody gets what it fills
                return (yield from self._compute(answer))
            if not is_stale(answer, self._asking.routing):
                self._flight.answer(answer)
                return self._value_of(answer)
            above = version_of(answer)

    def _refresh(self, above: bytes, value: Any) -> Flow[Any]:
        if not self._seat.leads:
            return value
        answer = yield from self._ask(above, park=False)
        if answer is None:
            return value
        return (yield from self._compute(answer)) if _is_lease(answer) else self._value_of(answer)

    def _anew(self) -> Flow[Any]:
        lease = yield from self._ask(LEASE_ALWAYS, park=True)
        return (yield from self._compute(lease))

    def _alone(self) -> Flow[Any]:
        seat = self._seat
        while not seat.told and self._left_s() > 0:
            yield Wait(seat, min(PARK_S, self._left_s()))
            seat.check()
        if seat.found is not None:
            return self._value_of(seat.found)
        if not seat.leads:
            seat.leave()
            yield Board(seat, object())  # a flight that no other caller can share
        self._flight.asked += 1
        return (yield from self._compute(NO_LEASE))

    def _wait(self) -> Flow[bytes | None]:
        """Return the record that another caller of the flight got, or None if this caller leads now."""
        seat = self._seat
        while not seat.told:
            left_s = self._left_s()
            if left_s <= 0:
                raise self._out_of_time()
            yield Wait(seat, min(PARK_S, left_s))
            seat.check()
        return seat.found

    @property
    def _flight(self) -> Flight:
        flight = self._seat.flight
        assert flight is not None, "only who sits in one leads it"
        return flight

    def _left_s(self) -> float:
        return self._started + self._timeout_s - self._now()

    def _out_of_time(self) -> OperationTimeout:
        self.outwaited = True
        waited = f"others have been asking for it or computing it for {self._timeout_s:.3g} s"
        return OperationTimeout(f"{self._name} {self._key!r:.80}: {waited}, which is this call's timeout")

    # ---- with the owner

    def _ask(self, above: bytes, *, park: bool) -> Flow[Any]:
        """Return the lease, a record above this version, or None if another caller computes it (never if parked)."""
        asking, flight = self._asking, self._flight
        while True:
            left_s = self._left_s()
            if left_s <= REASK_S:  # too little time for a question
                raise self._out_of_time()
            if flight.ending:
                raise ClientClosed
            park_s = min(PARK_S, max(0.0, left_s - FILL_S_MIN)) if park else 0.0
            change = [int(Change.LEASE), int(park_s * 1000), above, flight.token]
            flight.asked += 1
            answer = yield from asking.ask_parked(self._name, self._key, change, left_s, park_s)
            if answer is not None:
                if type(answer) is not bytes or not (_is_lease(answer) or len(answer) >= HEADER_BYTES):
                    raise ProtocolError(
                        f"{self._name} {self._key!r:.80}: the node answered {answer!r:.80}, not a record"
                    )
                return answer
            self._heard_at = self._now()
            if not park:
                return None
            if not park_s:
                yield min(REASK_S, left_s)

    def _compute(self, lease: bytes) -> Flow[Any]:
        """Return what the loader returns. An error of the loader is raised, and gives the lease up."""
        flight = self._flight
        self.has_loaded = True
        loading = self._load_and_fill(flight, lease)
        loaded = yield Apart(loading, flight)
        # The driver's caller cannot be cancelled, and so few frames of Python lie between nested loaders.
        if loaded is None:
            with flight.loading():
                loaded = yield from loading
        if isinstance(loaded.error, StopIteration):
            return Stopped(loaded.error)
        if loaded.error is not None:
            raise loaded.error
        return loaded.value

    def _load_and_fill(self, flight: Flight, lease: bytes) -> Flow[Loaded]:
        """Run the loader under the lease, fill, and give the flight the outcome. An error is returned, not raised."""
        began = self._now()
        try:
            value = yield Compute(self._load, lambda: self._hold(1, lease), RENEW_S)
            if not is_kept(value):
                flight.fail()
                yield from self._hold(0, lease)
                return Loaded(bare(value))
            refuse_awaitable(value)
            content = self._content(value, self._now() - began)
            record = (lease or bytes(VERSION_BYTES)) + expiry_bytes(NEVER_MS) + content
            # The loader may keep what it returned, and its caller may change it.
            value = value if is_unchangeable(value, record) else self._value_of(record)
            if lease == NO_LEASE:
                self._asking.check_size(len(content))
                flight.answer(record)
                flight.fail()  # callers that came since need a computation of their own
            elif (yield from self._fill(lease, content, began)):
                flight.land(record)
            else:
                flight.fail()
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is the caller's)
            flight.fail()
            yield from self._hold(0, lease)
            return Loaded(None, error)
        return Loaded(value)

    def _fill(self, lease: bytes, content: bytes, began: float) -> Flow[bool]:
        """Store what was computed; return False if it may be out of date. A failure of the nodes is ignored."""
        left_s = max(FILL_S_MIN, self._started + self._timeout_s - began)
        change = [int(Change.FILL), content, self._terms.kept_ms, lease]
        try:
            flow = self._asking.update(self._name, self._key, change, len(content), left_s, repeatable=True)
            return bool((yield from flow))
        except (ValueError, TypeError):  # too large, or of a type that cannot be stored
            raise
        except MeshcacheError:
            return True  # all that waited have the value all the same

    def _content(self, value: Any, load_s: float) -> bytes:
        content = self._asking.options.codec.encode(value)
        terms, wall_ms = self._terms, self._asking.routing.wall_ms(self._now())
        soft_expires_ms = None
        if terms.stale_ms and wall_ms is not None:
            soft_expires_ms = min(int(wall_ms) + terms.ttl_ms, NEVER_MS)
        load_ms = max(1, round(load_s * 1000)) if terms.early else None
        return with_extras(content, Extras(terms.tags, soft_expires_ms, load_ms))

    def _hold(self, keep: int, lease: bytes) -> Flow[bool]:
        return _hold(self._asking, self._name, self._key, keep, lease, RELEASE_S)


def _hold(asking: Asking, name: str, key: Key, keep: int, lease: bytes, timeout_s: float) -> Flow[bool]:
    """Renew a lease, or give it up; return False if it is lost. If the message does not arrive, that is ignored."""
    if lease == NO_LEASE:
        return False
    change = [int(Change.HOLD), keep, lease]
    try:
        return bool((yield from asking.update(name, key, change, 0, timeout_s, repeatable=True)))
    except MeshcacheError:
        return True
