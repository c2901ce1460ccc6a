"""Flights: callers of one process that miss the same key share one question to its owner, and the answer.

Pure: a table of flights, and the rules that say which caller is told what. Every caller has a *seat* in a *flight*. One
of them leads: it asks (get_or_set.py), and the others wait, each for as long as it likes. They share the question and
the record that answers it, but neither the leader's deadline nor an object: each caller decodes the record itself.

::

    open     the leader asks; a caller that comes now takes a seat
    closed   the leader has the lease and its loader runs: a caller that comes now may have seen a change that the
             loader has not seen, and begins a flight of its own
    over     the load has ended, and all that waited are told, or sit in another flight

A leader that fails, is cancelled, or runs out of time hands the lead to the caller that has waited longest; no other
caller fails because of it. One caller leads at a time, so if many loaders raise errors, they do so one after the other.

No caller is given anything that may be older than the beginning of its call:

- An answer of the owner is for callers that had a seat before the question was sent. A caller that came later could
  have seen a change that the answer, already under way, does not have. These callers stay, and one of them asks once
  more for all.
- A loaded value is for all callers that had a seat when the flight was closed, since it was read after they came.

Seats are held weakly, and if the leader of a flight is gone, the caller that notices it hands the lead on. So a caller
whose thread was interrupted, wherever that was, leaves no flight behind in which all others wait for ever.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


class Seat:
    """The place of one caller in a flight."""

    __slots__ = ("__weakref__", "flight", "found", "give_up", "leads", "since", "token", "wake")

    def __init__(self, token: bytes, give_up: Callable[[bytes, float], Any]) -> None:
        self.token = token
        """The token by which the owner knows a flight that this caller begins."""
        self.give_up = give_up
        """Given a token and a time in seconds: the flow that tells the owner, within it, that nobody asks any more."""
        self.flight: Flight | None = None
        self.leads = False
        self.found: bytes | None = None
        """The record that the leader got, for all seats."""
        self.since = 0
        """How many questions had been sent when this caller came."""
        self.wake: Callable[[], object] | None = None
        """The driver's function to wake the caller while it waits; called once."""

    @property
    def told(self) -> bool:
        """Whether there is something to do for the caller."""
        return self.leads or self.found is not None

    def leave(self) -> bool:
        """Leave the seat; return True if no caller is left that wants what is under way. Repeating it does no harm."""
        return self.flight is not None and self.flight.leave(self)

    def check(self) -> None:
        """Make sure that a caller leads."""
        if self.flight is not None:
            self.flight.check()

    def tell(self) -> None:
        """Wake the caller."""
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()


def _nobody() -> None:
    return None


class Flight:
    """One question, its answer, and the callers that share them."""

    __slots__ = ("_leader", "_seats", "_table", "asked", "closed", "give_up", "key", "load", "over", "token", "unheard")

    def __init__(self, table: Flights, key: Hashable, seat: Seat) -> None:
        self._table = table
        self._leader: Callable[[], Seat | None] = _nobody
        self._seats: dict[weakref.ref[Seat], None] = {}
        """The callers that wait, in the order in which they came; the leader is not among them."""
        self.key = key
        self.token = seat.token
        self.give_up = seat.give_up
        self.asked = 0
        """How many questions were sent."""
        self.closed = self.over = False
        self.unheard = False
        """Whether a caller left before it had the outcome of its question."""
        self.load: Any = None
        """What the driver runs the loader in, if the loader can go on without the leader."""

    @property
    def ending(self) -> bool:
        """Whether the client is being closed, so that nothing more is to be asked."""
        return self._table.ending

    def close(self) -> None:
        """Close the flight to new callers, since the loader begins."""
        with self._table.lock:
            self.closed = True
            self._table.forget(self)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """List the flight among those whose loader runs, until this ends."""
        self._table.loads[self] = self
        try:
            yield
        finally:
            self._table.loads.pop(self, None)

    def answer(self, record: bytes) -> None:
        """Give the owner's answer to all callers that came before the question was sent."""
        with self._table.lock:
            self._tell(record, self.asked)

    def land(self, record: bytes) -> None:
        """Give what was loaded to all callers."""
        with self._table.lock:
            self._tell(record, self.asked + 1)
            self._table.forget(self)
            self.over = True

    def fail(self) -> None:
        """Note that the load failed: the next caller leads."""
        with self._table.lock:
            self._leader, self.load = _nobody, None
            self._pass_on()
            self.over = self._leader() is None

    def leave(self, seat: Seat) -> bool:
        """Leave a seat; see ``Seat.leave``."""
        with self._table.lock:
            self._seats.pop(weakref.ref(seat), None)
            if self._leader() is seat:
                self._leader = _nobody
                self.check()
            seat.leads, seat.flight = False, None
            return not self.over and not self.wanted and not self._table.keep(self)

    @property
    def wanted(self) -> bool:
        """Whether any caller has a seat here."""
        return self._leader() is not None or any(place() for place in self._seats)

    def check(self) -> None:
        """Make sure that a caller leads."""
        with self._table.lock:
            if self._leader() is None and self.load is None:
                self._pass_on()

    def take_in(self, seat: Seat) -> None:
        """Give a caller a seat; the first one leads."""
        seat.flight, seat.found, seat.leads, seat.since = self, None, False, self.asked
        self._seats[weakref.ref(seat)] = None
        self.check()

    # A seat is changed before the flight says so: an interrupt in between then loses no caller.

    def _tell(self, record: bytes, asked: int) -> None:
        for place in list(self._seats):
            seat = place()
            if seat is not None and seat.since >= asked:
                continue
            if seat is not None:
                seat.found, seat.flight = record, None
            self._seats.pop(place, None)
            if seat is not None:
                seat.tell()

    def _pass_on(self) -> None:
        """Let the caller that has waited longest lead, or all wait with those that came after the loader had begun."""
        other = self._table.open.get(self.key)
        if other is not None and other is not self:
            for waiting in filter(None, (place() for place in self._seats)):
                waiting.flight, waiting.since = other, other.asked
                other._seats[weakref.ref(waiting)] = None  # noqa: SLF001  (of its kind)
            self._seats.clear()
        while self._seats:
            place = next(iter(self._seats))
            seat = place()
            if seat is not None:
                self._lead(seat)
            del self._seats[place]
            if seat is not None:
                seat.tell()
                return
        self._table.forget(self)

    def _lead(self, seat: Seat) -> None:
        if self.closed:  # the owner knows the load that failed by its token
            self.closed, self.token = False, seat.token
        self._table.open[self.key] = self
        self._leader, seat.leads = weakref.ref(seat), True


class Flights:
    """The flights of one process, or of one event loop in it."""

    def __init__(self, lock: AbstractContextManager[Any], pid: int = 0) -> None:
        """``lock``: a thread may take it twice, since a signal handler may ask for a key, too."""
        self.lock = lock
        self.pid = pid
        self.open: dict[Hashable, Flight] = {}
        self.loads: dict[Any, Flight] = {}
        """Flights whose loaders run, by what the driver runs them in; this keeps that alive."""
        self.ending = False
        self._kept: dict[Hashable, list[Flight]] = {}
        """By key, loads that no seat waits for, but callers in an open flight do, through the owner."""

    def board(self, seat: Seat, key: Hashable) -> Flights:
        """Take a seat in the flight for a key; if there is none, begin one and lead it. Returns this table."""
        with self.lock:
            flight = self.open.get(key)
            if flight is None:
                flight = self.open[key] = Flight(self, key, seat)
            flight.take_in(seat)
        return self

    def keep(self, flight: Flight) -> bool:
        """Keep a load that has no seats if callers of this process, which came while it ran, want what it fills."""
        other = self.open.get(flight.key)
        if flight.load is None or other is None or other is flight:
            return False
        self._kept.setdefault(flight.key, []).append(flight)
        return True

    def forsaken(self, key: Hashable) -> list[Flight]:
        """Return the loads that were kept for others, and that nobody waits for any more."""
        with self.lock:
            other = self.open.get(key)
            if other is not None and other.wanted:
                return []
            return [flight for flight in self._kept.pop(key, ()) if flight.load is not None and not flight.over]

    def end(self) -> list[Flight]:
        """Ask nothing more, since the client is being closed; return the flights that the owners are to forget."""
        self.ending = True
        with self.lock:
            return [*self.open.values(), *self.loads.values()]

    def forget(self, flight: Flight) -> None:
        """Close a flight to new callers."""
        if self.open.get(flight.key) is flight:
            del self.open[flight.key]

    def begin_anew(self, lock: AbstractContextManager[Any], pid: int) -> None:
        """Begin anew after a fork: nobody leads the parent's flights here, and the lock may have been held."""
        self.lock, self.open, self.loads = lock, {}, {}
        self.pid = pid
