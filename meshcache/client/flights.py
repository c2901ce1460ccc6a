"""Callers of one process who miss the same key share one question to its owner, and what comes of it.

Pure: a table, and who is told what. Every caller has a *seat* in a *flight*. One of them leads: it asks
(get_or_set.py), and the others wait, each for as long as it likes. What they share is the question and its answer as it
is stored, and neither the leader's deadline nor an object: each decodes for itself.

::

    open     the leader asks; whoever comes takes a seat
    closed   the leader has the lease and its loader runs: who comes now may have seen a change that the loader has
             not, and begins a flight of its own
    over     the load has come to its end, and all who waited are told, or sit in another flight

A leader that fails, is cancelled, or runs out of time hands the lead to who has waited longest; nobody else fails with
it. One leads at a time, so of many whose loaders raise, one after the other computes.

Nobody is given what may be older than the beginning of its call:

- an answer of the owner is for those who sat there before the question was sent. Who came later could have seen a
  change that the answer, on its way already, has not. They stay, and one of them asks once more for all.
- what was loaded is for all who sat there when the flight was closed, since it was read after they came.

Seats are held weakly, and the lead of a flight that nobody carries any more is handed on by who notices. So a caller
whose thread was interrupted in the middle of anything leaves no flight behind in which all others wait.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


class Seat:
    """What one caller waits with."""

    __slots__ = ("__weakref__", "flight", "found", "give_up", "leads", "since", "token", "wake")

    def __init__(self, token: bytes, give_up: Callable[[bytes, float], Any]) -> None:
        self.token = token
        """By which the owner knows a flight that this caller begins."""
        self.give_up = give_up
        """Of a token and some seconds: the flow that tells the owner, within these, that nobody asks any more."""
        self.flight: Flight | None = None
        self.leads = False
        self.found: bytes | None = None
        """The record that the leader got, for all."""
        self.since = 0
        """How many questions had been sent when this caller came."""
        self.wake: Callable[[], object] | None = None
        """The driver's, while the caller waits; called once."""

    @property
    def told(self) -> bool:
        """Whether there is something to do."""
        return self.leads or self.found is not None

    def leave(self) -> bool:
        """Wait no more; True if nobody is left who wants what is under way. It may be repeated."""
        return self.flight is not None and self.flight.leave(self)

    def check(self) -> None:
        """See that somebody leads."""
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
    """One question and its answer."""

    __slots__ = ("_leader", "_seats", "_table", "asked", "closed", "give_up", "key", "load", "over", "token", "unheard")

    def __init__(self, table: Flights, key: Hashable, seat: Seat) -> None:
        self._table = table
        self._leader: Callable[[], Seat | None] = _nobody
        self._seats: dict[weakref.ref[Seat], None] = {}
        """Who waits, in the order of coming; never the leader."""
        self.key = key
        self.token = seat.token
        self.give_up = seat.give_up
        self.asked = 0
        """How many questions were sent."""
        self.closed = self.over = False
        self.unheard = False
        """A caller went before it heard what its question came to."""
        self.load: Any = None
        """What the driver runs the loader in, if that goes on without the leader."""

    @property
    def ending(self) -> bool:
        """Whether the client is being closed, so that nothing more is to be asked."""
        return self._table.ending

    def close(self) -> None:
        """Let nobody else in: the loader begins."""
        with self._table.lock:
            self.closed = True
            self._table.forget(self)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Be known as one whose loader runs, until this ends."""
        self._table.loads[self] = self
        try:
            yield
        finally:
            self._table.loads.pop(self, None)

    def answer(self, record: bytes) -> None:
        """Give the owner's answer to all who came before the question was sent."""
        with self._table.lock:
            self._tell(record, self.asked)

    def land(self, record: bytes) -> None:
        """Give what was loaded to all."""
        with self._table.lock:
            self._tell(record, self.asked + 1)
            self._table.forget(self)
            self.over = True

    def fail(self) -> None:
        """Nothing came of the load: the next one leads."""
        with self._table.lock:
            self._leader, self.load = _nobody, None
            self._pass_on()
            self.over = self._leader() is None

    def leave(self, seat: Seat) -> bool:
        """See Seat."""
        with self._table.lock:
            self._seats.pop(weakref.ref(seat), None)
            if self._leader() is seat:
                self._leader = _nobody
                self.check()
            seat.leads, seat.flight = False, None
            return not self.over and not self.wanted and not self._table.keep(self)

    @property
    def wanted(self) -> bool:
        """Whether anybody sits here."""
        return self._leader() is not None or any(place() for place in self._seats)

    def check(self) -> None:
        """See that somebody leads."""
        with self._table.lock:
            if self._leader() is None and self.load is None:
                self._pass_on()

    def take_in(self, seat: Seat) -> None:
        """Give a seat to who comes; the first one leads."""
        seat.flight, seat.found, seat.leads, seat.since = self, None, False, self.asked
        self._seats[weakref.ref(seat)] = None
        self.check()

    # What is done to a seat comes before what says that it is done: so an interrupt in between loses none.

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
        """Have who has waited longest lead, or all wait with those who came after the loader had begun."""
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
        if self.closed:  # the owner knows the load that failed by the token there was
            self.closed, self.token = False, seat.token
        self._table.open[self.key] = self
        self._leader, seat.leads = weakref.ref(seat), True


class Flights:
    """The flights of one process, or of one event loop in it."""

    def __init__(self, lock: AbstractContextManager[Any], pid: int = 0) -> None:
        """``lock``: one that a thread may take again, since a signal's handler may ask for a key, too."""
        self.lock = lock
        self.pid = pid
        self.open: dict[Hashable, Flight] = {}
        self.loads: dict[Any, Flight] = {}
        """Whose loaders run, by what the driver runs them in; it keeps this."""
        self.ending = False
        self._kept: dict[Hashable, list[Flight]] = {}
        """By key, loads that nobody waits for here; but those in an open flight do so at the owner."""

    def board(self, seat: Seat, key: Hashable) -> Flights:
        """Take a seat in the flight for a key; without one, begin one and lead it. Returns itself."""
        with self.lock:
            flight = self.open.get(key)
            if flight is None:
                flight = self.open[key] = Flight(self, key, seat)
            flight.take_in(seat)
        return self

    def keep(self, flight: Flight) -> bool:
        """Keep a load that nobody sits by if others of this process, who came while it ran, want what it fills."""
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
        """Let nobody else into a flight."""
        if self.open.get(flight.key) is flight:
            del self.open[flight.key]

    def begin_anew(self, lock: AbstractContextManager[Any], pid: int) -> None:
        """After a fork: nobody here carries the parent's flights, and another thread may have held the lock."""
        self.lock, self.open, self.loads = lock, {}, {}
        self.pid = pid
