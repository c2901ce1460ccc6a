"""Large batches are run in portions, so that no request waits longer than one portion of another batch takes.

A request may carry thousands of keys, and a count of one key costs a node forty times what a read of it does. Run in
one piece, a batch of 4,096 counts would make every other request wait for a tenth of a second. So a batch of more than
``PORTION_KEYS`` of its kind is cut into requests for some of its keys each. A turn of the node runs portions for up to
``TURN_US``. Connections take turns, so a client that sends many batches makes only itself wait. The results of a batch
go back together.

The work that waits here is bounded by the time it will take, not by the number of batches: for one connection, and for
all. Beyond that a batch is refused as overloaded, with nothing done. A portion whose turn comes after its deadline is
not executed. If a portion fails, its batch ends there and is not answered; no other batch is affected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from meshcache.protocol import messages as m
from meshcache.protocol.messages import Code

COST_US: Final[dict[type[Any], float]] = {m.Get: 1.0, m.Set: 2.0, m.Delete: 3.0, m.Update: 20.0}
"""About what one key costs a node, in microseconds; mainly the proportions matter. A read costs half of this
where the node holds the key itself."""
PORTION_KEYS: Final = {kind: int(1000 / cost_us) for kind, cost_us in COST_US.items()}
"""How many keys of each kind are run at once: about a millisecond of work."""
TURN_US: Final = 1000.0
"""How much portion work one turn runs: one full portion. A request that arrives meanwhile waits for it."""
LINE_US_MAX: Final = 400_000.0
"""How much work of one connection may wait: five full batches of counts, fifty of writes."""
WAITING_US_MAX: Final = 1_000_000.0
"""How much work of all connections together may wait."""
KEPT_BYTES_MAX: Final = 8 << 20
"""No portion begins while this many bytes are kept for owners that have not stored them yet."""

Done = Callable[[list[Any] | None], None]
"""Takes one result for each key; None: the result of every key is None."""
Run = Callable[[Any, Done], None]
"""Runs a request."""


class Batch:
    """A request that is run in portions, and its results so far."""

    def __init__(self, request: Any, run: Run, done: Done) -> None:
        self.request = request
        self.cost_us = COST_US[type(request)] * len(request.keys)
        self._run = run
        self._done = done
        self._results: list[Any] = [None] * len(request.keys)
        self._plain = True
        """Whether every result so far is None."""
        self._next = 0
        self._open = len(request.keys)

    def step(self, wall_ms: int) -> float:
        """Run the next portion; return what it cost, in microseconds."""
        request, start = self.request, self._next
        self._next = end = min(start + PORTION_KEYS[type(request)], len(request.keys))
        if request.deadline_ms < wall_ms:
            self._take(start, end, [[int(Code.OVERLOADED)]] * (end - start))
        else:
            # The values that belong to the keys are in the last field, if there is such a field.
            lists = {name: getattr(request, name)[start:end] for name in ("keys", *request._fields[-1:])}
            self._run(request._replace(**lists), lambda results: self._take(start, end, results))
        return COST_US[type(request)] * (end - start)

    @property
    def left_us(self) -> float:
        """What the keys that are not run yet will cost, in microseconds."""
        return COST_US[type(self.request)] * (len(self.request.keys) - self._next)

    @property
    def is_begun(self) -> bool:
        """Tell whether every portion has been started; some may not be finished."""
        return self._next == len(self.request.keys)

    def _take(self, start: int, end: int, results: list[Any] | None) -> None:
        if results is not None:
            self._plain = False
            self._results[start:end] = results
        self._open -= end - start
        if not self._open:
            self._done(None if self._plain else self._results)


class Portions:
    """The batches of one node that are not finished, by the connection on which they came."""

    def __init__(self, fail: Callable[[str, object, Exception], None], kept_bytes: Callable[[], int]) -> None:
        """``fail`` is told what a portion raised, with the kind of request and its connection.

        ``kept_bytes`` returns how much this node keeps for owners that have not stored it yet.
        """
        self._fail = fail
        self._kept_bytes = kept_bytes
        self.lines: dict[bytes, deque[Batch]] = {}
        """By connection; the first is next."""
        self._waiting_us: dict[bytes, float] = {}

    def add(self, origin: bytes, request: Any, run: Run, done: Done) -> bool:
        """Take a batch in; return False if too much work waits already."""
        batch = Batch(request, run, done)
        waiting_us = self._waiting_us.get(origin, 0.0)
        if waiting_us + batch.cost_us > LINE_US_MAX or self.waiting_us > WAITING_US_MAX:
            return False
        self._waiting_us[origin] = waiting_us + batch.cost_us
        self.lines.setdefault(origin, deque()).append(batch)
        return True

    @property
    def waiting_us(self) -> float:
        """How much work waits, in microseconds."""
        return sum(self._waiting_us.values())

    def may_run(self) -> bool:
        """Tell whether the other owners keep up. If they do not, all that is stored here must be kept for them."""
        return self._kept_bytes() < KEPT_BYTES_MAX

    def run(self, wall_ms: int) -> None:
        """Run as many portions as one turn allows."""
        spent_us = 0.0
        while self.lines and spent_us < TURN_US and self.may_run():
            origin = next(iter(self.lines))
            line = self.lines.pop(origin)
            batch, failure = line[0], None
            before_us = batch.left_us
            try:
                spent_us += batch.step(wall_ms)
            except Exception as error:  # noqa: BLE001  (of whatever kind: it concerns this batch)
                failure = error
            if failure is not None or batch.is_begun:
                line.popleft()
            if line:
                self.lines[origin] = line  # behind the other connections
                self._waiting_us[origin] -= before_us if failure is not None else before_us - batch.left_us
            else:
                del self._waiting_us[origin]
            if failure is not None:
                self._fail(type(batch.request).__name__, origin, failure)
