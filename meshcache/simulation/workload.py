"""What the clients of a simulation do: endless operations on a few keys, drawn at random.

There are three kinds of keys, so that each can be checked: *values* (set, delete, touch, reads, batches), *counters*
(incr and reads), and *guards* (add, replace, cas, set, delete, touch, reads). Values may have tags, which are then
invalidated now and then.

Some callers behave badly: they have a deadline that can hardly be met, or they go away before they are answered, with
everything that they had under way. And sometimes a caller stores many keys at once, for which a small store must make
room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from meshcache.client.arguments import Item
from meshcache.client.delivery import Flow
from meshcache.simulation.clients import ClientHost
from meshcache.simulation.history import History, Operation
from meshcache.simulation.world import World

WEIGHTS: Final = {
    "get": 8.0,
    "get_many": 2.0,
    "set": 6.0,
    "set_many": 1.0,
    "delete": 2.0,
    "incr": 3.0,
    "count": 2.0,
    "add": 1.0,
    "gets_cas": 2.0,
    "drop": 0.5,
    "touch": 1.0,
    "replace": 0.5,
    "put": 0.5,
}
"""The operations, and how often each is drawn."""

HASTE_S: Final = (0.001, 0.003, 0.01)
"""The timeouts of a caller with a deadline that can hardly be met."""

ABANDONED_S: Final = 0.005
"""The mean time after which a caller that goes away does so."""

FLOOD_KEYS: Final = 40

TAGS: Final = ("t1", "t2")


@dataclass(frozen=True, slots=True)
class Mix:
    """What operations are drawn from, and how often."""

    values: int = 4
    counters: int = 2
    guards: int = 2
    operations: tuple[str, ...] = tuple(WEIGHTS)
    weights: tuple[float, ...] = tuple(WEIGHTS.values())
    """The weights of the operations."""
    think_s: float = 0.1
    """The mean time from the end of an operation to the next one of the same client."""
    short_lived: float = 0.3
    """Which share of the sets of the last value key has a short time to live; those of the others have none."""
    padding: int = 0
    """How many bytes are added to values."""
    hot: float = 0.0
    """Which share of the operations on one key takes the first key of its kind."""
    hasty: float = 0.0
    """Which share of the operations has a deadline that can hardly be met."""
    abandoned: float = 0.0
    """How often the caller goes away while an operation is under way."""
    floods: float = 0.0
    """How often FLOOD_KEYS keys are stored at once."""
    tagged: float = 0.0
    """Which share of the sets of values has one of TAGS."""
    invalidations: float = 0.0
    """Which share of the operations invalidates one of TAGS."""


class Workload:
    """Clients that do operations until they are stopped."""

    def __init__(self, world: World, history: History, mix: Mix, timeout_s: float, first_number: int = 0) -> None:
        self.world = world
        self.history = history
        self.mix = mix
        self.timeout_s = timeout_s
        self.stopped = False
        self.patient = False
        """Whether no caller is in a hurry or goes away any more, and none floods the stores."""
        self._value_keys = [f"v{i}" for i in range(mix.values)]
        self._counter_keys = [f"c{i}" for i in range(mix.counters)]
        self._guard_keys = [f"g{i}" for i in range(mix.guards)]
        self._number = first_number

    def drive(self, client: ClientHost) -> None:
        """Let a client do one operation after the other."""
        self.world.after(self.world.rng.expovariate(1.0) * self.mix.think_s, self._next, client)

    def reread(self, client: ClientHost) -> None:
        """Read every key of values and guards once."""
        keys = self._value_keys + self._guard_keys
        operation = self._operation(client, "get_many", keys, client.session.options.timeout_s)
        self._run(client, operation, client.session.get_many(keys, None), again=False)

    def _next(self, client: ClientHost) -> None:
        if self.stopped:
            return
        rng, mix = self.world.rng, self.mix
        timeout_s = self.timeout_s
        if not self.patient:
            if mix.floods and rng.random() < mix.floods:
                self._flood(client)
                return
            if mix.hasty and rng.random() < mix.hasty:
                self.world.tally("hasty call")
                timeout_s = rng.choice(HASTE_S)
        if mix.invalidations and rng.random() < mix.invalidations:
            self._invalidate(client, timeout_s)
            return
        name = rng.choices(mix.operations, mix.weights)[0]
        getattr(self, f"_begin_{name}")(client, timeout_s)

    def _pick(self, keys: list[str]) -> str:
        if self.mix.hot and self.world.rng.random() < self.mix.hot:
            self.world.tally("hot key")
            return keys[0]
        return self.world.rng.choice(keys)

    def _operation(self, client: ClientHost, name: str, keys: list[str], timeout_s: float) -> Operation:
        self._number += 1
        return Operation(self._number, client.name, name, tuple(keys), self.world.now, timeout_s)

    def _value(self, key: str) -> str:
        return f"{key}={self._number}{'.' * self.mix.padding}"

    def _run(self, client: ClientHost, operation: Operation, flow: Flow[Any], *, again: bool = True) -> None:
        self.world.note(f"begin {operation.number} {operation.client} {operation.name} {' '.join(operation.keys)}")
        self.history.begin(operation)
        if self.mix.abandoned and again and not self.patient and self.world.rng.random() < self.mix.abandoned:
            self.world.after(self.world.rng.expovariate(1.0) * ABANDONED_S, self._abandon, client, operation)

        def done(result: Any, error: Exception | None, is_open: bool) -> None:
            outcome = type(error).__name__ if error is not None else repr(result)
            self.world.note(f"end {operation.number} {outcome}{' open' if is_open else ''}")
            self.history.end(operation, self.world.now, result, error, is_open)
            if operation.name == "gets" and error is None and result is not None and not self.stopped:
                self._begin_cas(client, operation.timeout_s, operation.keys[0], result)
            elif again:
                self.drive(client)

        client.run(flow, done)

    def _abandon(self, client: ClientHost, operation: Operation) -> None:
        """Let the caller of an operation go away, with everything that its client has under way; another takes over."""
        if operation not in self.history.pending or self.patient:
            return
        self.world.strike("abandoned call", f"{client.name} is gone")
        client.abandon()
        for other in [other for other in self.history.pending if other.client == client.name]:
            self.history.abandon(other, self.world.now)
            self.drive(client)

    def _flood(self, client: ClientHost) -> None:
        self.world.strike("flood", f"{client.name} stores {FLOOD_KEYS} keys")
        keys = [f"f{i}" for i in range(FLOOD_KEYS)]
        self._set_many(client, self.timeout_s, keys)

    # One method for each of the operations

    def _begin_get(self, client: ClientHost, timeout_s: float) -> None:
        key = self._pick(self._value_keys)
        self._run(client, self._operation(client, "get", [key], timeout_s), client.get(key, timeout_s))

    def _begin_get_many(self, client: ClientHost, timeout_s: float) -> None:
        keys = self.world.rng.sample(self._value_keys, min(3, len(self._value_keys)))
        operation = self._operation(client, "get_many", keys, timeout_s)
        self._run(client, operation, client.session.get_many(keys, timeout_s))

    def _begin_set(self, client: ClientHost, timeout_s: float) -> None:
        key = self._pick(self._value_keys)
        operation = self._operation(client, "set", [key], timeout_s)
        operation.written = self._value(key)
        ttl_s = self._short_life(operation, self.mix.short_lived)
        if self.mix.tagged and self.world.rng.random() < self.mix.tagged:
            operation.tags = (self.world.rng.choice(TAGS),)
        self._run(client, operation, client.session.set(key, operation.written, ttl_s, timeout_s, operation.tags))

    def _invalidate(self, client: ClientHost, timeout_s: float) -> None:
        operation = self._operation(client, "invalidate", [], timeout_s)
        operation.tags = (self.world.rng.choice(TAGS),)
        self._run(client, operation, client.session.invalidate_tags(operation.tags, timeout_s))

    def _short_life(self, operation: Operation, often: float) -> float | None:
        """Draw how long the key is to live: for ever, unless it is the last of several value keys."""
        rng = self.world.rng
        if operation.keys[0] == self._value_keys[-1] and len(self._value_keys) > 1 and rng.random() < often:
            operation.ttl_s = round(rng.uniform(0.2, 3.0), 3)
            return operation.ttl_s
        return None

    def _begin_set_many(self, client: ClientHost, timeout_s: float) -> None:
        self._set_many(client, timeout_s, self.world.rng.sample(self._value_keys, min(3, len(self._value_keys))))

    def _set_many(self, client: ClientHost, timeout_s: float, keys: list[str]) -> None:
        operation = self._operation(client, "set_many", keys, timeout_s)
        operation.written = {key: self._value(key) for key in keys}
        self._run(client, operation, client.session.set_many(operation.written, None, timeout_s))

    def _begin_delete(self, client: ClientHost, timeout_s: float) -> None:
        self._delete(client, timeout_s, self._pick(self._value_keys))

    def _begin_drop(self, client: ClientHost, timeout_s: float) -> None:
        self._delete(client, timeout_s, self._pick(self._guard_keys))

    def _delete(self, client: ClientHost, timeout_s: float, key: str) -> None:
        self._run(client, self._operation(client, "delete", [key], timeout_s), client.session.delete(key, timeout_s))

    def _begin_incr(self, client: ClientHost, timeout_s: float) -> None:
        key = self._pick(self._counter_keys)
        operation = self._operation(client, "incr", [key], timeout_s)
        self._run(client, operation, client.session.incr(key, 1, 0, None, timeout_s))

    def _begin_count(self, client: ClientHost, timeout_s: float) -> None:
        key = self._pick(self._counter_keys)
        self._run(client, self._operation(client, "count", [key], timeout_s), client.get(key, timeout_s))

    def _begin_add(self, client: ClientHost, timeout_s: float) -> None:
        key = self._pick(self._guard_keys)
        operation = self._operation(client, "add", [key], timeout_s)
        operation.written = self._value(key)
        self._run(client, operation, client.session.add(key, operation.written, None, timeout_s))

    def _begin_gets_cas(self, client: ClientHost, timeout_s: float) -> None:
        key = self._pick(self._guard_keys)
        self._run(client, self._operation(client, "gets", [key], timeout_s), client.session.gets(key, timeout_s))

    def _begin_cas(self, client: ClientHost, timeout_s: float, key: str, found: Item) -> None:
        operation = self._operation(client, "cas", [key], timeout_s)
        operation.written, operation.expected, operation.replaced = self._value(key), found.version, found.value
        flow = client.session.cas(key, operation.written, found.version, None, timeout_s)
        self._run(client, operation, flow)

    def _begin_touch(self, client: ClientHost, timeout_s: float) -> None:
        key = self._pick(self._value_keys + self._guard_keys)
        operation = self._operation(client, "touch", [key], timeout_s)
        often = 0.9 if self.mix.short_lived else 0.0
        self._run(client, operation, client.session.touch(key, self._short_life(operation, often), timeout_s))

    def _begin_replace(self, client: ClientHost, timeout_s: float) -> None:
        key = self._pick(self._guard_keys)
        operation = self._operation(client, "replace", [key], timeout_s)
        operation.written = self._value(key)
        self._run(client, operation, client.session.replace(key, operation.written, None, timeout_s))

    def _begin_put(self, client: ClientHost, timeout_s: float) -> None:
        key = self._pick(self._guard_keys)
        operation = self._operation(client, "set", [key], timeout_s)
        operation.written = self._value(key)
        self._run(client, operation, client.session.set(key, operation.written, None, timeout_s))
