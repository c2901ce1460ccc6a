"""Large batches, in portions: nobody waits for longer than a portion of another's batch takes.

A request may carry thousands of keys, and a count of one key costs a node forty times what a read of it does. Run
whole, a batch of 4,096 counts would keep every other request waiting for a tenth of a second. So a batch beyond
``PORTION_KEYS`` of its kind is cut into requests for some of its keys each, which a turn of the node runs up to
``TURN_US`` of. Connections take turns: who sends many batches waits for them by itself. Its results go back together.

What waits here is bounded by the work that it means, not by its number: for one connection, and for all. Beyond that a
batch is refused as overloaded, with nothing done. A portion whose turn comes after its deadline is not executed. If one
fails, its batch ends there and is not answered: nobody else's waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from meshcache.protocol import messages as m
from meshcache.protocol.messages import Code

COST_US: Final[dict[type[Any], float]] = {m.Get: 0.5, m.Set: 2.0, m.Delete: 3.0, m.Update: 20.0}
"""About what one key costs a node; only what these costs are to each other matters much."""
PORTION_KEYS: Final = {kind: int(1000 / cost_us) for kind, cost_us in COST_US.items()}
"""Keys that are run at once: about a millisecond."""
TURN_US: Final = 1500.0
"""What one turn runs of them."""
LINE_US_MAX: Final = 400_000.0
"""What one connection may have waiting: five full batches of counts, fifty of writes."""
WAITING_US_MAX: Final = 1_000_000.0
"""What may be waiting in all."""
KEPT_BYTES_MAX: Final = 8 << 20
"""No portion begins while so much is kept for owners that have not stored it yet."""

Done = Callable[[list[Any] | None], None]
"""Takes one result for each key; None: each is None."""
Run = Callable[[Any, Done], None]
"""Runs a request."""


class Batch:
    """A request that is run in portions, and the results so far."""

    def __init__(self, request: Any, run: Run, done: Done) -> None:
        self.request = request
        self.cost_us = COST_US[type(request)] * len(request.keys)
        self._run = run
        self._done = done
        self._results: list[Any] = [None] * len(request.keys)
        self._plain = True
        """Every portion so far came to nothing but None."""
        self._next = 0
        self._open = len(request.keys)

    def step(self, wall_ms: int) -> float:
        """Run the next portion; return what it cost."""
        request, start = self.request, self._next
        self._next = end = min(start + PORTION_KEYS[type(request)], len(request.keys))
        if request.deadline_ms < wall_ms:
            self._take(start, end, [[int(Code.OVERLOADED)]] * (end - start))
        else:
            # What is aligned with the keys is the last field, if there is such a field.
            lists = {name: getattr(request, name)[start:end] for name in ("keys", *request._fields[-1:])}
            self._run(request._replace(**lists), lambda results: self._take(start, end, results))
        return COST_US[type(request)] * (end - start)

    @property
    def left_us(self) -> float:
        """What is not run yet costs so much."""
        return COST_US[type(self.request)] * (len(self.request.keys) - self._next)

    @property
    def is_begun(self) -> bool:
        """Tell whether every portion was run; some may not be done."""
        return self._next == len(self.request.keys)

    def _take(self, start: int, end: int, results: list[Any] | None) -> None:
        if results is not None:
            self._plain = False
            self._results[start:end] = results
        self._open -= end - start
        if not self._open:
            self._done(None if self._plain else self._results)


class Portions:
    """The batches of one node that are not yet run to their ends, by the connection that they came on."""

    def __init__(self, fail: Callable[[str, object, Exception], None], kept_bytes: Callable[[], int]) -> None:
        """``fail`` takes what a portion raised, of which kind of request and from whom.

        ``kept_bytes`` tells how much this node keeps for owners that have not stored what it has.
        """
        self._fail = fail
        self._kept_bytes = kept_bytes
        self.lines: dict[bytes, deque[Batch]] = {}
        """In the order of whose turn it is."""
        self._waiting_us: dict[bytes, float] = {}

    def add(self, origin: bytes, request: Any, run: Run, done: Done) -> bool:
        """Take a batch in; False if there is too much waiting already."""
        batch = Batch(request, run, done)
        waiting_us = self._waiting_us.get(origin, 0.0)
        if waiting_us + batch.cost_us > LINE_US_MAX or sum(self._waiting_us.values()) > WAITING_US_MAX:
            return False
        self._waiting_us[origin] = waiting_us + batch.cost_us
        self.lines.setdefault(origin, deque()).append(batch)
        return True

    def may_run(self) -> bool:
        """Tell whether the other owners keep up: what is stored here faster than there has to be kept for them."""
        return self._kept_bytes() < KEPT_BYTES_MAX

    def run(self, wall_ms: int) -> None:
        """Do one turn's share."""
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
                self.lines[origin] = line  # behind the others
                self._waiting_us[origin] -= before_us if failure is not None else before_us - batch.left_us
            else:
                del self._waiting_us[origin]
            if failure is not None:
                self._fail(type(batch.request).__name__, origin, failure)
