"""What is served natively is served as the Python path serves it: replies, effects, statistics and what is stored."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_bugs import RESTART_TRAPS, TRAPS

from meshcache import _native
from meshcache.config import Config
from meshcache.core.membership.majority import Majority
from meshcache.core.membership.members import State
from meshcache.core.node import NodeCore
from meshcache.core.operations import usual
from meshcache.core.operations.surroundings import Readers
from meshcache.core.storage import choice
from meshcache.core.storage.recency import RINGS
from meshcache.core.storage.store import Store
from meshcache.core.view import Former
from meshcache.keys import ANYBODY, NOBODY, AllowedKey, Rights
from meshcache.protocol import messages as m
from meshcache.protocol.record import NEVER_MS, Extras, with_extras
from meshcache.protocol.wire import decode_frame, encode_frame
from meshcache.simulation.hosts import EPOCH_MS

if _native.absent_because:
    pytest.skip(_native.describe(), allow_module_level=True)

START: Final = 1000.0
BOOT: Final = EPOCH_MS << 16 | 7
KEYS: Final = [b"k%d" % number for number in range(12)]
ORIGINS: Final = (b"reader", b"writer")

WORLDS: Final[dict[str, dict[str, Any]]] = {
    "one copy": {},
    "two copies": {"cluster": {"replicas": 2, "write_quorum": 2, "read_quorum": 1}},
    "reads of two": {"cluster": {"replicas": 2, "write_quorum": 1, "read_quorum": 2}},
    "few entries": {"store": {"max_entries": 5}},
    "few entries by S3-FIFO": {"store": {"max_entries": 5, "eviction": "s3fifo"}},
    "few bytes": {"store": {"max_bytes": 3000}},
    "hot at once": {"hot_keys": {"threshold_reads": 3}},
    "hot by sampling": {"hot_keys": {"threshold_reads": 600}},
    "no hot keys": {"hot_keys": {"enabled": False}},
    "small limits": {"limits": {"value_bytes_max": 64, "reply_bytes_max": 100_000}},
    "by majority": {"cluster": {"partition_policy": "strict"}},
    "with keys": {"security": {"key_file": "node.secret", "allowed_keys_dir": "keys"}},
}


class Callers(Readers):
    """Two connections, of which the second may be confined or deaf."""

    def __init__(self) -> None:
        self.deaf: set[bytes] = set()
        self.key: AllowedKey = ANYBODY

    def who(self, origin: bytes) -> AllowedKey:
        return ANYBODY if origin == ORIGINS[0] else self.key


class Spy:
    """Counts what becomes of frames, and sees that a frame which is left to Python has changed nothing."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._usual: Any = core._usual
        self.outcomes: Counter[bool | None] = Counter()

    def serve(self, origin: bytes, frame: bytes) -> bool | None:
        before = state_of(self._core)
        served: bool | None = self._usual.serve(origin, frame)
        self.outcomes[served] += 1
        assert served is not False or state_of(self._core) == before
        return served


def state_of(core: NodeCore) -> Any:
    """Return all of a node that requests can change, in a form that can be compared."""
    store, outbox, hot = core.store, core.outbox, core.requests.hot
    held = [{key: store.peek(key) for key in store.keys_of_slot(slot)} for slot in range(core.view.ring.slots)]
    summary = {name: getattr(hot, name) for name in type(hot).__slots__ if name != "_random"}
    backlog = core.requests._admission.backlog.bytes
    replies = {origin: len(messages) for origin, messages in outbox.replies.items()}
    effects = replies, list(outbox.events), outbox.reply_bytes, list(outbox.notes)
    order = [store.keys_of_ring(ring) for ring in range(RINGS)]
    return (
        held,
        order,
        list(store.floors),
        repr(summary),
        core.requests.statistics(),
        core.clock.latest,
        backlog,
        effects,
    )


class Twins:
    """Two nodes that are told the same, one of which serves natively."""

    def __init__(self, **tables: Any) -> None:
        tables = {"cluster": {}, **tables}
        tables["cluster"] = {"slots": 64, "vnodes": 8, "replicas": 1, "write_quorum": 1, **tables["cluster"]}
        config = Config.from_tables(node={"id": "n1", "listen": "127.0.0.1:7101"}, **tables)
        self.now = START
        self.rngs = [random.Random(1), random.Random(1)]
        native = NodeCore(config, boot=BOOT, rng=self.rngs[0], now=START, wall_ms=EPOCH_MS)
        with pytest.MonkeyPatch.context() as patch:
            for module in (choice, usual):
                patch.setattr(module, "compiled", None)
            charges = native.store.charges
            pure = NodeCore(config, boot=BOOT, rng=self.rngs[1], now=START, wall_ms=EPOCH_MS, charges=charges)
        assert type(pure.store) is Store
        assert pure._usual is None
        self.cores = [native, pure]
        self.spy = Spy(native)
        native._usual = self.spy  # type: ignore[assignment]  # does as it does
        self.callers = Callers()
        for core in self.cores:
            core.heed(self.callers)
        self.turn()
        assert native.ready

    @property
    def wall_ms(self) -> int:
        return EPOCH_MS + int((self.now - START) * 1000)

    def receive(self, origin: bytes, frame: bytes | memoryview) -> None:
        ends = [core.receive_request(origin, frame, self.now) for core in self.cores]
        assert ends[0] == ends[1]
        self.compare()

    def turn(self, pass_s: float = 0.0) -> list[tuple[bytes, bytes]]:
        self.now += pass_s
        for core in self.cores:
            core.tick(self.now)
        effects = [core.drain() for core in self.cores]
        assert effects[0] == effects[1]
        self.compare()
        return effects[0].replies

    def compare(self) -> None:
        native, pure = map(state_of, self.cores)
        assert native == pure
        assert self.rngs[0].getstate() == self.rngs[1].getstate()

    def change(self, rng: random.Random) -> None:
        """Change what requests depend on beside themselves."""
        what, slot, heals = rng.randrange(6), rng.randrange(64), rng.random() < 0.7
        if what == 0:
            self.callers.deaf = set() if heals else {ORIGINS[1]}
        if what == 1:
            self.callers.bytes_left = 1 << 62 if heals else rng.choice([40 << 20, 33 << 20, 1000, -5])
        if what == 2 and heals:
            self.callers.key = ANYBODY
        elif what == 2:
            rights = rng.choice([Rights.READ, Rights.WRITE, Rights.READ | Rights.WRITE])
            confined = AllowedKey("client", "c", "public", rights, rng.choice([b"", b"k1"]))
            self.callers.key = rng.choice([ANYBODY, NOBODY, confined])
        for core in self.cores:
            view = core.view
            if what == 3:
                view.held[:] = b"\1" * 64
                view.held[slot] = heals
                view.note_held()
            if what == 4:
                view.owned[:] = b"\1" * 64
                view.owned[slot] = heals
                view.note_held()
            if what == 5:
                view.former = [] if heals else [Former(view.ring, self.now)]


def some_int(rng: random.Random, usual: int) -> Any:
    """Return mostly the usual number."""
    return (
        usual if rng.random() < 0.9 else rng.choice([-1, 0, 1, 200, 70_000, 1 << 33, (1 << 64) - 1, -(1 << 63), True])
    )


def some_content(rng: random.Random) -> Any:
    content = bytes((0, rng.randrange(4))) + rng.randbytes(rng.choice([0, 1, 5, 63, 300, 5000]))
    kind = rng.random()
    if kind < 0.97:
        return content
    tagged = with_extras(content, Extras(tags=(b"t",)))
    return rng.choice([tagged, b"\x01\0", b"\xff" + content, b"", b"\0", "text", None])


def some_keys(rng: random.Random) -> list[Any]:
    keys: list[Any] = rng.sample(KEYS, rng.choice([0] + [1] * 10 + [2, 5, 12]))
    if rng.random() < 0.05:
        keys += rng.choice(
            [keys[:1], [b""], [b"x" * 1024], [b"x" * 1025], ["text"], [3], [b"k%d" % i for i in range(1200)]]
        )
    return keys


def some_message(rng: random.Random, wall_ms: int) -> Any:
    deadline_ms = wall_ms + rng.choice([5000] * 10 + [0, -1])
    head = (
        some_int(rng, rng.randrange(300)),
        some_int(rng, BOOT),
        some_int(rng, deadline_ms),
        rng.choice([bytes(8), b""]),
    )
    level = some_int(rng, rng.choice([0] * 20 + [-1, -1, 1, 1, 2, -3, -4]))
    other = some_int(rng, rng.choice([0] * 20 + [-2, 1, 3, -5]))
    keys = some_keys(rng)
    kind = rng.random()
    if kind < 0.5:
        return m.Get(*head, level, other, rng.random() < 0.05, keys)
    if kind < 0.9:
        contents = [some_content(rng) for _ in keys]
        ttl_ms = some_int(rng, rng.choice([-1, 0, 1, 300, 60_000]))
        return m.Set(*head, level, ttl_ms, keys, contents[: rng.choice([None] * 15 + [1])])
    if kind < 0.95:
        return m.Delete(*head, level, 2, keys)
    return m.Update(*head, level, other, 0, keys, [[m.Change.INCR, 1, 0, 1000]] * len(keys))


def some_frame(rng: random.Random, wall_ms: int) -> bytes:
    """Return a frame of a client: mostly one message, mostly as it should be."""
    messages = [some_message(rng, wall_ms) for _ in range(rng.choice([1] * 10 + [2, 3]))]
    frame = encode_frame(rng.choice([0] * 20 + [5, EPOCH_MS << 16, 1 << 63]), messages)
    if rng.random() < 0.1:
        frame = mutated(frame, rng)
    return frame


def mutated(frame: bytes, rng: random.Random) -> bytes:
    """Return a frame with a few bytes changed, cut out, or put in."""
    changed = bytearray(frame)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(min(len(changed), 80)) if rng.random() < 0.8 else rng.randrange(len(changed))
        way = rng.randrange(4)
        if way == 0:
            changed[at] = rng.randrange(256)
        elif way == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif way == 2:
            del changed[at : at + rng.choice([1, 1, 2, 9])]
        else:
            changed[at:at] = rng.choice([b"\0", b"\xc4\0", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xcf"])
        changed = changed or bytearray(1)
    return bytes(changed)


def run(rng: random.Random, twins: Twins, steps: int) -> None:
    for _ in range(steps):
        action = rng.random()
        if action < 0.75:
            frame = some_frame(rng, twins.wall_ms)
            twins.receive(rng.choice(ORIGINS), frame if rng.random() < 0.9 else memoryview(frame))
        elif action < 0.98:
            twins.turn(rng.choice([0.0, 0.0, 0.001, 0.3, 2.0]))
        else:
            twins.change(rng)
    twins.turn()


@pytest.mark.parametrize("world", WORLDS)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=20, deadline=None)
def test_random_traffic_leaves_both_in_the_same_state(world: str, seed: int) -> None:
    run(random.Random(seed), Twins(**WORLDS[world]), 40)


def test_random_traffic_comes_to_all_ends() -> None:
    """Or the test above would show nothing."""
    outcomes: Counter[bool | None] = Counter()
    for number, tables in enumerate(WORLDS.values()):
        twins = Twins(**tables)
        run(random.Random(number), twins, 150)
        outcomes += twins.spy.outcomes
    assert min(outcomes[True], outcomes[False], outcomes[None]) > 40, outcomes


def request(twins: Twins, kind: type[Any], *fields: Any) -> bytes:
    return encode_frame(0, [kind(9, BOOT, twins.wall_ms + 5000, bytes(8), *fields)])


def usual_frames(twins: Twins) -> Iterator[bytes]:
    for count in (1, 15, 16, 100):
        keys = [b"key-%d" % number for number in range(count)]
        yield request(twins, m.Set, 0, 60_000, keys, [b"\0\1" + b"v" * 30] * count)
        yield request(twins, m.Get, 0, 0, False, keys)


@pytest.mark.parametrize("tables", [{}, WORLDS["two copies"], WORLDS["no hot keys"], WORLDS["with keys"]])
def test_what_is_usual_is_served_natively(tables: dict[str, Any]) -> None:
    twins = Twins(**tables)
    for frame in usual_frames(twins):
        twins.receive(ORIGINS[0], frame)
        assert len(twins.turn(0.001)) == 1
    assert twins.spy.outcomes == {True: 8}


LONG: Final = [b"long-%d" % number for number in range(6)]


@pytest.mark.parametrize(
    ("reply_bytes_max", "value_bytes", "count"),
    [(1024, 10_000, 6), (1024, 20_000, 1), (1 << 20, 20_000, 6), (100_000, 20_000, 4), (100_000, 99_970, 1)],
)
def test_of_a_large_read_as_much_as_a_reply_may_have_is_given_natively(
    reply_bytes_max: int, value_bytes: int, count: int
) -> None:
    twins = Twins(limits={"reply_bytes_max": reply_bytes_max})
    for number, key in enumerate(LONG):
        content = b"\0\0" + bytes([number]) * value_bytes
        twins.receive(ORIGINS[0], request(twins, m.Set, 0, 60_000, [key], [content]))
        twins.turn(0.001)
    twins.receive(ORIGINS[0], request(twins, m.Get, 0, 0, False, LONG))
    ((_, frame),) = twins.turn(0.001)
    _, (reply,) = decode_frame(frame)
    assert isinstance(reply, m.Reply)
    assert reply.results is not None
    records = [result for result in reply.results if type(result) is bytes]
    assert [record[-1] for record in records] == list(range(count))
    assert reply.results[count:] == [[m.Code.MORE]] * (len(LONG) - count)
    assert twins.spy.outcomes == {True: 7}


def test_a_large_read_is_left_to_python_while_clients_have_much_to_read() -> None:
    twins = Twins()
    twins.receive(ORIGINS[0], request(twins, m.Set, 0, 60_000, [b"k"], [b"\0\0" + bytes(100_000)]))
    twins.turn(0.001)
    get = request(twins, m.Get, 0, 0, False, [b"k"])
    served: dict[int, bool | None] = {40 << 20: True, 32 << 20: True, (32 << 20) - 1: None, 0: None}
    for bytes_left, outcome in served.items():
        twins.callers.bytes_left = bytes_left
        twins.spy.outcomes.clear()
        twins.receive(ORIGINS[0], get)
        assert twins.spy.outcomes == {outcome: 1}
        assert len(twins.turn(0.001)) == 1


def test_a_turn_with_nothing_unusual_needs_no_tick() -> None:
    twins = Twins()
    native, pure = twins.cores
    native.next_deadline()
    for frame in usual_frames(twins):
        twins.receive(ORIGINS[0], frame)
        assert not native.disturbed
        assert native.outbox.events or native.replies() == pure.replies()
        twins.turn()
        native.next_deadline()
    twins.receive(ORIGINS[0], request(twins, m.Get, 0, 0, False, [b"missing"]))
    assert native.disturbed


def test_replies_to_one_connection_travel_in_one_frame_with_the_latest_clock() -> None:
    twins = Twins()
    get = request(twins, m.Get, 0, 0, False, [b"k"])
    for frame in [
        request(twins, m.Set, 0, 0, [b"k"], [b"\0\0a"]),
        get,
        get,
        request(twins, m.Set, 0, 0, [b"j"], [b"\0\0b"]),
    ]:
        twins.receive(ORIGINS[0], frame)
    twins.receive(ORIGINS[1], get)
    assert [origin for origin, _ in twins.turn()] == list(ORIGINS)
    assert twins.spy.outcomes == {True: 5}


def test_a_frame_that_is_cut_anywhere_is_left_to_python() -> None:
    twins = Twins()
    for frame in usual_frames(twins):
        for end in range(min(len(frame), 400)):
            assert twins.spy.serve(ORIGINS[0], frame[:end]) is False
        assert twins.spy.serve(ORIGINS[0], frame + b"\0") is False


def be_in_state(core: NodeCore, state: State) -> None:
    member = core.membership.members[core.membership.own_id]
    member.fact = member.fact._replace(state=int(state))


def lose_majority(core: NodeCore) -> None:
    core.membership.majority = Majority(1.0, START)
    core.membership.in_majority = lambda now: False  # type: ignore[method-assign]  # alone a node has a majority


@pytest.mark.parametrize(
    "hinder",
    [
        lambda core: setattr(core.handshake, "joined", False),
        lambda core: setattr(core, "doubt", 1),
        lambda core: setattr(core.membership, "removed", True),
        lambda core: be_in_state(core, State.DEAD),
        lose_majority,
    ],
)
def test_a_node_that_is_not_ready_serves_nobody(hinder: Callable[[NodeCore], None]) -> None:
    twins = Twins()
    for core in twins.cores:
        hinder(core)
        assert not core.ready
    for frame in usual_frames(twins):
        twins.receive(ORIGINS[0], frame)
    assert set(twins.spy.outcomes) == {False}


def test_a_suspect_and_one_with_a_majority_serve() -> None:
    twins = Twins()
    for core in twins.cores:
        be_in_state(core, State.SUSPECT)
        core.membership.majority = Majority(1.0, START)
        assert core.ready
    for frame in usual_frames(twins):
        twins.receive(ORIGINS[0], frame)
    assert set(twins.spy.outcomes) == {True}


def test_copies_of_hot_keys_hear_of_what_is_written_here(monkeypatch: pytest.MonkeyPatch) -> None:
    twins = Twins()
    heard: list[list[Any]] = [[], []]
    for core, events in zip(twins.cores, heard, strict=True):
        copies = core.requests.copies
        monkeypatch.setattr(copies._near, "on_event", lambda *event, events=events: events.append(event))
    for followed in ([], ["127.0.0.1:1"]):
        for core in twins.cores:
            core.requests.copies.followed = followed
        twins.receive(ORIGINS[0], request(twins, m.Set, 0, 0, [b"k"], [b"\0\0v"]))
    assert len(heard[0]) == 1
    assert heard[0] == heard[1]
    assert twins.spy.outcomes == {True: 2}


@pytest.mark.parametrize("default_ttl_s", [math.inf, 0.0004, 7.0025])
def test_what_has_no_ttl_of_its_own_gets_that_of_the_node(default_ttl_s: float) -> None:
    twins = Twins(store={"default_ttl_s": default_ttl_s})
    for ttl_ms in (m.TTL_DEFAULT, m.TTL_NEVER, 1, NEVER_MS, (1 << 63) - 1):
        twins.receive(ORIGINS[0], request(twins, m.Set, 0, ttl_ms, [b"k"], [b"\0\0v"]))
        twins.turn()
    assert twins.spy.outcomes == {True: 5}


def test_what_a_part_raises_concerns_one_frame() -> None:
    twins = Twins()

    def broken(*_: object) -> None:
        raise ValueError("broken")

    for core in twins.cores:
        core.coordinator.replica.remember(broken)
    twins.receive(ORIGINS[0], request(twins, m.Set, 0, 0, [b"k"], [b"\0\0v"]))
    assert [core.counters.failed for core in twins.cores] == [{"Set": 1}] * 2
    assert not twins.turn()


def hostile_frames(count: int, seed: int) -> int:
    """Let both nodes take so many mutated frames, and compare them now and then; return how many were served at all.

    With a module that was built with ``CFLAGS="-fsanitize=address,undefined"``, 100,000 of these show that no frame has
    it read or write where it must not.
    """
    rng, twins = random.Random(seed), Twins()
    twins.cores[0]._usual = twins.spy._usual
    good = list(usual_frames(twins))
    for number in range(count):
        frame = mutated(rng.choice(good), rng)
        for core in twins.cores:
            core.receive_request(ORIGINS[0], frame, twins.now)
        if number % 50 == 0:
            twins.turn()
    twins.turn()
    return sum(twins.cores[0].counters.requests_by_kind.answered.values())


def test_hostile_frames_leave_both_in_the_same_state() -> None:
    assert hostile_frames(2000, 1) > 20


STOOD_IN_FOR: Final = {
    "Requests": ("_on_get", "_answer_get", "_held", "_holds", "_reads_one", "_reply_records", "_on_set", "_change"),
    "Admission": ("admit", "reply"),
    "HotKeys": ("note",),
    "wire": ("decode_frame", "encode_frame"),
    "ReplicaRequests": ("_on_write",),
    "QuorumWrite": ("start", "_start_group", "_ask_missing", "on_answer", "_note_ack", "_settle", "_finish"),
    "Pending": ("ask", "ask_for_caller", "on_answer"),
    "HybridClock": ("merge",),
    "Early": ("merge",),
    "claims": ("_write", "_write_reply", "GATES", "limits"),
    "Claims": ("admitted", "gated"),
    "Replica": ("merge",),
}
"""What is done natively instead of calling it, by class or module. (The store has its own way: plant_in_store.)"""


def test_no_planted_bug_is_where_native_code_passes_it_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that is planted in one of these would go unseen, unless its nodes are told to serve all in Python."""
    touched: list[tuple[Any, str]] = []
    patch_it = pytest.MonkeyPatch.setattr

    def note(patch: pytest.MonkeyPatch, target: Any, name: str, value: object, *more: Any) -> None:
        touched.append((target, name))
        patch_it(patch, target, name, value, *more)

    for plant in [*TRAPS, *RESTART_TRAPS]:
        touched.clear()
        with monkeypatch.context() as patch, monkeypatch.context() as watched:
            watched.setattr(pytest.MonkeyPatch, "setattr", note)
            plant(patch)
        passed_by = [name for target, name in touched if name in STOOD_IN_FOR.get(target.__name__.split(".")[-1], ())]
        assert not passed_by or (usual, "compiled") in touched, plant.__name__
