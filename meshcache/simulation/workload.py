"""What the clients of a simulation do: endless operations on a few hot keys, drawn at random.

There are three kinds of keys, so that each can be checked: *values* (set, delete, reads, batches), *counters* (incr
and reads), and *guards* (add, cas, delete, reads).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from meshcache.delivery import Flow
from meshcache.simulation.clients import ClientHost
from meshcache.simulation.history import History, Operation
from meshcache.simulation.world import World

OPERATIONS: Final = ("get", "get_many", "set", "set_many", "delete", "incr", "count", "add", "gets_cas", "drop")


@dataclass(frozen=True, slots=True)
class Mix:
    """What is drawn from."""

    values: int = 4
    counters: int = 2
    guards: int = 2
    weights: tuple[float, ...] = (8, 2, 6, 1, 2, 3, 2, 1, 2, 0.5)
    """Of OPERATIONS."""
    think_s: float = 0.1
    """Mean time from the end of an operation to the next of the same client."""
    short_lived: float = 0.3
    """How many sets of the last value key have a short time to live; those of the others have none."""
    padding: int = 0
    """Bytes added to values."""


class Workload:
    """Clients that go on until they are stopped."""

    def __init__(self, world: World, history: History, mix: Mix) -> None:
        self.world = world
        self.history = history
        self.mix = mix
        self.stopped = False
        self._value_keys = [f"v{i}" for i in range(mix.values)]
        self._counter_keys = [f"c{i}" for i in range(mix.counters)]
        self._guard_keys = [f"g{i}" for i in range(mix.guards)]
        self._number = 0

    def drive(self, client: ClientHost, timeout_s: float) -> None:
        """Have a client do one operation after the other."""
        self.world.after(self.world.rng.expovariate(1.0) * self.mix.think_s, self._next, client, timeout_s)

    def reread(self, client: ClientHost, timeout_s: float) -> None:
        """Read every key of values and guards once."""
        keys = self._value_keys + self._guard_keys
        operation = self._operation(client, "get_many", keys, timeout_s)
        self._run(client, operation, client.session.get_many(keys, timeout_s), again=False)

    def _next(self, client: ClientHost, timeout_s: float) -> None:
        if self.stopped:
            return
        name = self.world.rng.choices(OPERATIONS, self.mix.weights)[0]
        getattr(self, f"_begin_{name}")(client, timeout_s)

    def _operation(self, client: ClientHost, name: str, keys: list[str], timeout_s: float) -> Operation:
        self._number += 1
        return Operation(self._number, client.name, name, tuple(keys), self.world.now, timeout_s)

    def _value(self, key: str) -> str:
        return f"{key}={self._number}{'.' * self.mix.padding}"

    def _run(self, client: ClientHost, operation: Operation, flow: Flow[Any], *, again: bool = True) -> None:
        self.world.note(f"begin {operation.number} {operation.client} {operation.name} {' '.join(operation.keys)}")
        self.history.begin(operation)

        def done(result: Any, error: Exception | None, is_open: bool) -> None:
            outcome = type(error).__name__ if error is not None else repr(result)
            self.world.note(f"end {operation.number} {outcome}{' open' if is_open else ''}")
            self.history.end(operation, self.world.now, result, error, is_open)
            if operation.name == "gets" and error is None and result is not None and not self.stopped:
                self._begin_cas(client, operation.timeout_s, operation.keys[0], result.version)
            elif again:
                self.drive(client, operation.timeout_s)

        client.run(flow, done)

    # One method for each of OPERATIONS

    def _begin_get(self, client: ClientHost, timeout_s: float) -> None:
        key = self.world.rng.choice(self._value_keys)
        self._run(client, self._operation(client, "get", [key], timeout_s), client.session.get(key, None, timeout_s))

    def _begin_get_many(self, client: ClientHost, timeout_s: float) -> None:
        keys = self.world.rng.sample(self._value_keys, min(3, len(self._value_keys)))
        operation = self._operation(client, "get_many", keys, timeout_s)
        self._run(client, operation, client.session.get_many(keys, timeout_s))

    def _begin_set(self, client: ClientHost, timeout_s: float) -> None:
        rng = self.world.rng
        key = rng.choice(self._value_keys)
        operation = self._operation(client, "set", [key], timeout_s)
        operation.written = self._value(key)
        ttl_s = None
        if key == self._value_keys[-1] and len(self._value_keys) > 1 and rng.random() < self.mix.short_lived:
            ttl_s = operation.ttl_s = round(rng.uniform(0.2, 3.0), 3)
        self._run(client, operation, client.session.set(key, operation.written, ttl_s, timeout_s))

    def _begin_set_many(self, client: ClientHost, timeout_s: float) -> None:
        keys = self.world.rng.sample(self._value_keys, min(3, len(self._value_keys)))
        operation = self._operation(client, "set_many", keys, timeout_s)
        operation.written = {key: self._value(key) for key in keys}
        self._run(client, operation, client.session.set_many(operation.written, None, timeout_s))

    def _begin_delete(self, client: ClientHost, timeout_s: float) -> None:
        self._delete(client, timeout_s, self.world.rng.choice(self._value_keys))

    def _begin_drop(self, client: ClientHost, timeout_s: float) -> None:
        self._delete(client, timeout_s, self.world.rng.choice(self._guard_keys))

    def _delete(self, client: ClientHost, timeout_s: float, key: str) -> None:
        self._run(client, self._operation(client, "delete", [key], timeout_s), client.session.delete(key, timeout_s))

    def _begin_incr(self, client: ClientHost, timeout_s: float) -> None:
        key = self.world.rng.choice(self._counter_keys)
        operation = self._operation(client, "incr", [key], timeout_s)
        self._run(client, operation, client.session.incr(key, 1, 0, None, timeout_s))

    def _begin_count(self, client: ClientHost, timeout_s: float) -> None:
        key = self.world.rng.choice(self._counter_keys)
        self._run(client, self._operation(client, "count", [key], timeout_s), client.session.get(key, None, timeout_s))

    def _begin_add(self, client: ClientHost, timeout_s: float) -> None:
        key = self.world.rng.choice(self._guard_keys)
        operation = self._operation(client, "add", [key], timeout_s)
        operation.written = self._value(key)
        self._run(client, operation, client.session.add(key, operation.written, None, timeout_s))

    def _begin_gets_cas(self, client: ClientHost, timeout_s: float) -> None:
        key = self.world.rng.choice(self._guard_keys)
        self._run(client, self._operation(client, "gets", [key], timeout_s), client.session.gets(key, timeout_s))

    def _begin_cas(self, client: ClientHost, timeout_s: float, key: str, version: bytes) -> None:
        operation = self._operation(client, "cas", [key], timeout_s)
        operation.written, operation.expected = self._value(key), version
        self._run(client, operation, client.session.cas(key, operation.written, version, None, timeout_s))
