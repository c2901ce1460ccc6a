"""The races of writing to a database and a cache, played through: every order of steps, and a crash after each.

A process is the flow that the real patterns run. It is advanced one step at a time against a cache and a database in
memory, so that two writers and a reader can be interleaved at will. What must hold in the end: once fences have
expired, the cache has nothing or what the database has. That the mesh keeps what this cache assumes of it (one order
for each key; a load that a write overtook is not stored) is for the tests of the mesh.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import pytest

from meshcache import MISSING, Item, NodeUnavailable
from meshcache.patterns.fences import EXCHANGES_MAX, SETTLE_ATTEMPTS, Fences
from meshcache.patterns.marks import ABSENT, WRITERS_MAX, Fence, is_mark
from meshcache.patterns.steps import Flow, run

KEY = "key"
LONG_S = 60.0


class Memory:
    """A cache of one key that never expires anything by itself, and can fail."""

    def __init__(self) -> None:
        self.value: Any = MISSING
        self.ttl = LONG_S
        self.version = 0
        self.down: Callable[[str], bool] = lambda operation: False

    def _change(self, value: Any, ttl: Any = None) -> None:
        self.version += 1
        self.value = value
        self.ttl = LONG_S if ttl is None else ttl

    def _check(self, operation: str) -> None:
        if self.down(operation):
            raise NodeUnavailable("down")

    def gets(self, key: str) -> Item | None:
        self._check("gets")
        if self.value is MISSING:
            return None
        return Item(self.value, str(self.version).encode(), self.ttl, stale=False)

    def add(self, key: str, value: Any, ttl: Any) -> bool:
        self._check("add")
        if self.value is not MISSING:
            return False
        self._change(value, ttl)
        return True

    def cas(self, key: str, value: Any, version: bytes, ttl: Any) -> bool:
        self._check("cas")
        if self.value is MISSING or version != str(self.version).encode():
            return False
        self._change(value, ttl)
        return True

    def set(self, key: str, value: Any, ttl: Any) -> None:
        self._check("set")
        self._change(value, ttl)

    def invalidate(self, key: str) -> None:
        self._check("invalidate")
        self._change(MISSING)

    def expire(self) -> None:
        """Let time pass: what was to live shortly is gone."""
        if self.ttl < LONG_S:
            self._change(MISSING)

    def pass_time(self, seconds: float) -> None:
        """Let some time pass."""
        self.ttl -= seconds
        if self.ttl <= 0:
            self._change(MISSING)


class World:
    def __init__(self) -> None:
        self.cache = Memory()
        self.row: Any = "old"
        self.counts: list[Any] = []

    def writer(self, value: Any, *, publish: bool = True, fails: bool = False) -> Flow[None]:
        fences = Fences(self.cache, 5.0, "raise", random.Random(1))  # type: ignore[arg-type]  # the cache in memory
        self.counts.append(fences.counts)

        def store() -> None:
            self.row = value
            if fails:
                raise OSError("the connection was lost after the commit")

        return fences.write({KEY: value}, store, (lambda _: LONG_S) if publish else None)

    def reader(self) -> Flow[Any]:
        """What get_or_set does: load on a miss, and store unless the key was written since the miss."""
        value, version = yield lambda: (self.cache.value, self.cache.version)
        if value is not MISSING and not is_mark(value):
            return value
        row = yield lambda: self.row

        def fill() -> None:
            if self.cache.version == version:
                self.cache.set(KEY, row, LONG_S)

        if value is MISSING:
            yield fill
        return row

    def check(self) -> None:
        self.cache.expire()
        assert self.cache.value is MISSING or self.cache.value == self.row, (self.cache.value, self.row)


def advance(flow: Generator[Any, Any, Any], answers: dict[int, Any]) -> bool:
    """Carry out one step of a process; False: it is at its end, or died of an error."""
    answer = answers.pop(id(flow), None)
    try:
        step = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
    except (StopIteration, OSError):
        return False
    try:
        answers[id(flow)] = step() if callable(step) else None
    except Exception as error:  # noqa: BLE001  (thrown into the flow)
        answers[id(flow)] = error
    return True


def play(flows: Sequence[Flow[Any]], order: Sequence[int], crash: dict[int, int] | None = None) -> None:
    """Run the flows in an order of turns, then to the end. ``crash``: after how many steps a flow dies."""
    answers: dict[int, Any] = {}
    left = dict.fromkeys(range(len(flows)), 0)
    turns: Iterator[int] = itertools.chain(order, itertools.cycle(range(len(flows))))
    while left:
        index = next(turns)
        if index not in left:
            continue
        if crash is not None and crash.get(index) == left[index]:
            del left[index]  # as after kill -9: nothing is tidied up
        elif advance(flows[index], answers):
            left[index] += 1
        else:
            del left[index]


def orders(*lengths: int) -> Iterator[tuple[int, ...]]:
    """Every way to interleave so many turns of each."""
    if not any(lengths):
        yield ()
        return
    for index, length in enumerate(lengths):
        if length:
            rest = [*lengths[:index], length - 1, *lengths[index + 1 :]]
            for order in orders(*rest):
                yield (index, *order)


WRITER_STEPS = 5
"""gets, add or cas; store; gets, cas."""
READER_STEPS = 3


@pytest.mark.parametrize("cached", ["old", MISSING, ABSENT])
@pytest.mark.parametrize("publish", [True, False])
def test_a_reader_and_a_writer_that_may_die(cached: Any, publish: bool) -> None:
    for order in orders(WRITER_STEPS, READER_STEPS):
        for steps in range(WRITER_STEPS + 2):
            world = World()
            world.cache.value = cached
            if cached == ABSENT:
                world.row = ABSENT
            play([world.writer("new", publish=publish), world.reader()], order, {0: steps})
            world.check()


def test_two_writers_one_of_which_may_die() -> None:
    for order in orders(WRITER_STEPS, WRITER_STEPS):
        for steps in range(WRITER_STEPS + 2):
            world = World()
            play([world.writer("one"), world.writer("two")], order, {0: steps})
            world.check()


def test_many_processes_in_any_order_with_crashes_and_lost_answers() -> None:
    for seed in range(4000):
        rng = random.Random(seed)
        world = World()
        world.cache.value = rng.choice(["old", MISSING])
        flows = [world.writer(f"v{index}", fails=rng.random() < 0.2) for index in range(rng.randint(1, 3))]
        writers = len(flows)
        flows += [world.reader() for _ in range(rng.randint(0, 3))]
        order = [rng.randrange(len(flows)) for _ in range(60)]
        crash = {index: rng.randrange(7) for index in range(writers) if rng.random() < 0.4}
        play(flows, order, crash)
        world.check()


def test_a_single_writer_publishes_its_value() -> None:
    for cached in ("old", MISSING):
        world = World()
        world.cache.value = cached
        play([world.writer("new")], ())
        assert world.cache.value == world.row == "new"
        assert world.counts[0].published == 1


def test_writers_at_the_same_time_publish_nothing() -> None:
    world = World()
    play([world.writer("one"), world.writer("two")], [0, 1] * 9)
    assert Fence.of(world.cache.value, 0.001) == Fence((), "spent")
    assert sum(counts.published for counts in world.counts) == 0
    assert sum(counts.dropped for counts in world.counts) == 2


def test_a_value_is_not_published_when_the_database_may_not_have_it() -> None:
    world = World()
    play([world.writer("new", fails=True)], ())
    world.cache.expire()
    assert world.cache.value is MISSING


@pytest.mark.parametrize("operation", ["gets", "add", "cas"])
def test_nothing_is_stored_when_no_fence_can_be_raised(operation: str) -> None:
    world = World()
    world.cache.value = MISSING if operation == "add" else "old"
    world.cache.down = lambda name: name == operation
    with pytest.raises(NodeUnavailable):
        run(world.writer("new"))
    assert world.row == "old"


def test_a_cache_that_fails_after_the_commit_leaves_the_fence() -> None:
    world = World()
    world.cache.value = "old"
    world.cache.down = lambda name: world.row == "new"
    play([world.writer("new")], ())
    assert world.row == "new"
    assert Fence.of(world.cache.value, 1.0) is not None
    assert world.counts[0].unsettled == 1
    world.check()


def test_a_cache_that_fails_for_a_moment_after_the_commit_gets_the_value() -> None:
    world = World()
    failures = iter([True] * (SETTLE_ATTEMPTS - 1))
    world.cache.down = lambda name: world.row == "new" and next(failures, False)
    play([world.writer("new")], ())
    assert world.cache.value == "new"


def test_a_fence_that_went_early_costs_the_value() -> None:
    world = World()
    flow = world.writer("new")
    answers: dict[int, Any] = {}
    for _ in range(3):
        advance(flow, answers)
    world.cache.set(KEY, "old", LONG_S)  # the fence was evicted, and a reader came
    while advance(flow, answers):
        pass
    assert world.cache.value is MISSING
    assert world.counts[0].lost == 1


def test_a_fence_that_changes_all_the_time_is_overwritten_by_one_that_nobody_ends() -> None:
    world = World()
    world.cache.value = "old"
    attempts = itertools.count()
    cas = world.cache.cas

    def contested(key: str, value: Any, version: bytes, ttl: Any) -> bool:
        return next(attempts) >= EXCHANGES_MAX and cas(key, value, version, ttl)

    world.cache.cas = contested  # type: ignore[method-assign]  # others are quicker, each time
    play([world.writer("new"), world.writer("newer")], [0] * 40)
    assert Fence.of(world.cache.value, world.cache.ttl) == Fence((), "untracked", 5000)
    world.check()


def test_a_writer_that_died_is_forgotten_however_often_others_write() -> None:
    world = World()
    dead = world.writer("dead")
    answers: dict[int, Any] = {}
    for _ in range(4):
        advance(dead, answers)
    for number in range(4):
        world.cache.pass_time(1.0)
        run(world.writer(f"v{number}"))
        assert is_mark(world.cache.value), "it may still be at it"
    world.cache.pass_time(0.5)
    run(world.writer("before"))
    world.cache.pass_time(0.5)
    run(world.writer("after"))
    assert world.cache.value == "after", "five seconds are over"


def test_the_fence_of_a_dead_writer_is_not_prolonged_by_those_who_leave() -> None:
    world = World()
    dead = world.writer("dead")
    answers: dict[int, Any] = {}
    for _ in range(4):
        advance(dead, answers)
    world.cache.pass_time(4.0)
    run(world.writer("new"))
    assert is_mark(world.cache.value)
    world.cache.pass_time(1.0)
    assert world.cache.value is MISSING


def test_fences_are_bounded_and_survive_the_codec() -> None:
    fence = Fence((("a", 500),))
    for index in range(WRITERS_MAX - 1):
        fence = fence.joined(f"w{index}", 1000)
        assert Fence.of(str(fence), 1.0) == fence
    assert len(fence.writers) == WRITERS_MAX
    full = fence.joined("one more", 2000)
    assert full == Fence((), "untracked", 2000) == Fence.of(str(full), 2.0)
    assert full.left("a") is full
    assert full.joined("b", 100).ttl_ms == 2000
    assert Fence((), "spent").joined("b", 100) == Fence((("b", 100),))
    assert Fence.of(str(fence), 0.5) == Fence(tuple((name, 500) for name, _ in fence.writers[1:]))
    for other in ("a string of the user", ABSENT, str(fence).replace("plain", "plain x"), str(fence) + " b"):
        assert Fence.of(other, 1.0) is None
