"""Values that callers who miss them compute from a source, and that are deleted when the source changes.

Each value names the change of the source that it was read after. So a read shows whether its value was read from the
source before a change whose delete was acknowledged before the read began; that must not be, however slow the loader
was.
"""

from __future__ import annotations

from typing import Any, Final

from meshcache.client.delivery import Flow
from meshcache.simulation.clients import Cancelled, ClientHost, Loader
from meshcache.simulation.history import History, Operation
from meshcache.simulation.world import World

WAIT_S: Final = 8.0
"""How much longer than for other operations a client waits for a value that others compute."""
OPERATIONS: Final = ("change", "get_or_set", "get")
WEIGHTS: Final = (1, 3, 1)
CALLERS: Final = 3
"""How many callers of a client do this at once, and share their questions (flights.py)."""
CANCELLED: Final = 0.1
"""How often a caller gives up before it has its value."""
NUMBERS_FROM: Final = 1_000_000
"""The numbers of these operations begin here, above those of the workload."""


class Loads:
    """Clients that load, read and change until they are stopped."""

    def __init__(
        self, world: World, history: History, *, keys: int, load_s: float, think_s: float, timeout_s: float
    ) -> None:
        self.world = world
        self.history = history
        self.load_s = load_s
        """The mean time that a loader takes."""
        self.think_s = think_s
        self.timeout_s = timeout_s
        self.stopped = False
        self.patient = False
        """Whether no caller gives up any more."""
        self._keys = [f"s{i}" for i in range(keys)]
        self._source = dict.fromkeys(self._keys, "")
        self._number = NUMBERS_FROM

    def drive(self, client: ClientHost) -> None:
        """Let each caller of a client do one operation after the other."""
        for _ in range(CALLERS):
            self._think(client)

    def _think(self, client: ClientHost) -> None:
        self.world.after(self.world.rng.expovariate(1.0) * self.think_s, self._next, client)

    def _next(self, client: ClientHost) -> None:
        if not self.stopped:
            rng = self.world.rng
            getattr(self, f"_begin_{rng.choices(OPERATIONS, WEIGHTS)[0]}")(client, rng.choice(self._keys))

    def _operation(self, client: ClientHost, name: str, key: str) -> Operation:
        self._number += 1
        return Operation(self._number, client.name, name, (key,), self.world.now, self.timeout_s)

    def _run(self, client: ClientHost, operation: Operation, flow: Flow[Any], patience_s: float | None = None) -> None:
        """Run a flow; a caller that has not finished after ``patience_s`` is cancelled."""
        self.world.note(f"begin {operation.number} {operation.client} {operation.name} {operation.keys[0]}")
        self.history.begin(operation)

        def done(result: Any, error: BaseException | None, is_open: bool) -> None:
            outcome = type(error).__name__ if error is not None else repr(result)
            self.world.note(f"end {operation.number} {outcome}{' open' if is_open else ''}")
            if isinstance(error, Cancelled):
                self.history.abandon(operation, self.world.now)
            else:
                assert error is None or isinstance(error, Exception)
                self.history.end(operation, self.world.now, result, error, is_open)
            self._think(client)

        def cancel() -> None:
            if operation in self.history.pending and not self.patient:
                interrupt(Cancelled())

        interrupt = client.run(flow, done)
        if patience_s is not None:
            self.world.after(patience_s, cancel)

    # One method for each of the operations

    def _begin_get(self, client: ClientHost, key: str) -> None:
        self._run(client, self._operation(client, "get", key), client.get(key, self.timeout_s))

    def _begin_change(self, client: ClientHost, key: str) -> None:
        operation = self._operation(client, "delete", key)
        self._source[key] = f"{key}={operation.number}"
        self._run(client, operation, client.session.delete(key, self.timeout_s))

    def _begin_get_or_set(self, client: ClientHost, key: str) -> None:
        operation = self._operation(client, "get_or_set", key)
        load_s = min(self.world.rng.expovariate(1.0), 3.0) * self.load_s
        operation.load_s = load_s + WAIT_S + self.timeout_s  # the wait for others, the loader, and the fill

        def read() -> str:
            self._source[key] = self._source[key] or f"{key}={operation.number}"
            self.history.load(operation, self._source[key], self.world.now)
            return self._source[key]

        flow = client.session.get_or_set(key, Loader(read, load_s), None, self.timeout_s + WAIT_S)
        cancelled = self.world.rng.random() < CANCELLED
        self._run(client, operation, flow, self.world.rng.random() * 2 * load_s if cancelled else None)
