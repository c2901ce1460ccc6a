"""A SET with copies is natively what it is in Python: frames between nodes, replies, statistics, what is stored."""

from __future__ import annotations

import random
import sys
from collections import Counter, deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Final
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_serve import BOOT, ORIGINS, START, Callers, mutated, some_content, state_of

from meshcache import _native
from meshcache.config import Config
from meshcache.core.node import NodeCore
from meshcache.core.operations import usual
from meshcache.core.operations.pending import KINDS
from meshcache.core.operations.usual_writes import UsualWrite
from meshcache.core.storage import choice
from meshcache.core.view import Former
from meshcache.protocol import messages as m
from meshcache.protocol.breaker import CALLS_MIN
from meshcache.protocol.clock import LEAD_MS_MAX
from meshcache.protocol.messages import EventKind, Message
from meshcache.protocol.record import NEVER_MS, expiry_bytes, tombstone, version_of
from meshcache.protocol.wire import decode_frame, encode_frame
from meshcache.simulation.hosts import EPOCH_MS

if _native.absent_because:
    pytest.skip(_native.describe(), allow_module_level=True)

IDS: Final = ("n1", "n2", "n3")
ADDRESSES: Final = {node_id: f"127.0.0.1:710{place}" for place, node_id in enumerate(IDS)}
KEYS: Final = [b"key-%d" % number for number in range(20)]

WORLDS: Final[dict[str, dict[str, Any]]] = {
    "two copies": {},
    "three copies": {"cluster": {"replicas": 3, "write_quorum": 3}},
    "two of three copies": {"cluster": {"replicas": 3, "write_quorum": 2}},
    "one of two copies": {"cluster": {"write_quorum": 1}},
    "one copy": {"cluster": {"replicas": 1, "write_quorum": 1}},
    "few entries": {"store": {"max_entries": 5}},
    "small limits": {"limits": {"value_bytes_max": 4000, "pending_max": 3}},
    "all is slow": {"log": {"slow_operation_s": 0.1}},
    "by majority": {"cluster": {"partition_policy": "strict"}},
    "with keys": {"security": {"key_file": "node.secret", "allowed_keys_dir": "keys"}},
}


class Spy:
    """Counts what becomes of frames, and sees that a frame which is left to Python has changed nothing."""

    def __init__(self, core: NodeCore, outcomes: Counter[tuple[str, bool | None]]) -> None:
        self._core = core
        self._usual: Any = core._usual
        self._outcomes = outcomes

    def serve(self, origin: bytes, frame: bytes) -> bool | None:
        return self._watched("serve", origin, frame)

    def take(self, address: str, frame: bytes) -> bool | None:
        return self._watched("take", address, frame)

    def _watched(self, way: str, sender: bytes | str, frame: bytes) -> bool | None:
        before = all_of(self._core)
        done: bool | None = getattr(self._usual, way)(sender, frame)
        self._outcomes[way, done] += 1
        assert done is not False or all_of(self._core) == before
        return done


def all_of(core: NodeCore) -> Any:
    """Return what a SET with copies can change, in a form that can be compared."""
    pending, outbox = core.coordinator.pending, core.outbox
    waiting = {number: (node_id, kind) for number, (_, _, node_id, kind) in pending.waiting.items()}
    timers = [(at, number) for at, number, _ in pending.timers]
    hints = core._pending.background["hints"].statistics()
    return (
        state_of(core),
        list(pending.running.values()),
        list(pending.lingering.values()),
        waiting,
        timers,
        pending.number,
        dict(pending.breakers.unanswered),
        pending.breakers.looked_at,
        {node_id: (boot, breaker.buckets) for node_id, (boot, breaker) in pending.breakers.by_node.items()},
        [(KINDS[name], began, ended) for name, began, ended in pending.latencies.ended],
        {address: len(messages) for address, messages in outbox.sends.items()},
        hints,
    )


class Trio:
    """Three nodes and what is under way between them, which arrives in order."""

    def __init__(self, config: dict[str, Any], charges: Any = None) -> None:
        self.rngs = [random.Random(place) for place in range(3)]
        self.callers = Callers()
        self.cores: list[NodeCore] = []
        for place, node_id in enumerate(IDS):
            node = {"id": node_id, "listen": ADDRESSES[node_id], "seeds": list(ADDRESSES.values())}
            core = NodeCore(
                Config.from_tables(node=node, **config),
                boot=BOOT + place,
                rng=self.rngs[place],
                now=START,
                wall_ms=EPOCH_MS,
                charges=charges,
            )
            core.heed(self.callers)
            self.cores.append(core)
        self.under_way: deque[tuple[int, bytes | str, bytes]] = deque()
        """To which node, from which connection or address, and the frame."""
        self.log: list[Any] = []
        """All that nodes have sent."""

    def turn(self, now: float) -> None:
        for place, core in enumerate(self.cores):
            core.tick(now)
            effects = core.drain()
            self.log.append((place, effects))
            for address in effects.connect:
                core.link_up(address, now)
            for address, frame in [*effects.sends, *core.drain().sends]:
                self.under_way.append((list(ADDRESSES.values()).index(address), IDS[place].encode(), frame))
            for origin, frame in effects.replies:
                if origin.decode() in IDS:
                    self.under_way.append((IDS.index(origin.decode()), ADDRESSES[IDS[place]], frame))

    def deliver(self, now: float) -> None:
        place, sender, frame = self.under_way.popleft()
        core = self.cores[place]
        if isinstance(sender, bytes):
            core.receive_request(sender, frame, now)
        else:
            core.receive_answer(sender, frame, now)


class Twins:
    """Two such meshes that are told the same, one of which serves natively."""

    def __init__(self, **tables: Any) -> None:
        cluster = {"slots": 16, "vnodes": 8, "replicas": 2, "write_quorum": 2, "read_quorum": 1}
        tables = {**tables, "cluster": {**cluster, **tables.get("cluster", {})}}
        self.now = START
        native = Trio(tables)
        with pytest.MonkeyPatch.context() as patch:
            for module in (choice, usual):
                patch.setattr(module, "compiled", None)
            pure = Trio(tables, native.cores[0].store.charges)
        self.trios = native, pure
        self.outcomes: Counter[tuple[str, bool | None]] = Counter()
        while not all(core.ready and not core.view.former and core.settled for core in native.cores):
            self.now += 0.1
            for trio in self.trios:
                trio.turn(self.now)
                while trio.under_way:
                    trio.deliver(self.now)
            assert self.now < START + 20
        for core in native.cores:
            core._usual = Spy(core, self.outcomes)  # type: ignore[assignment]  # does as it does
        self.compare()

    @property
    def wall_ms(self) -> int:
        return EPOCH_MS + int((self.now - START) * 1000)

    @property
    def native(self) -> list[NodeCore]:
        return self.trios[0].cores

    def compare(self) -> None:
        native, pure = self.trios
        assert native.under_way == pure.under_way
        assert native.log == pure.log
        native.log.clear()
        pure.log.clear()
        for one, other in zip(native.cores, pure.cores, strict=True):
            assert all_of(one) == all_of(other)
        assert [rng.getstate() for rng in native.rngs] == [rng.getstate() for rng in pure.rngs]

    def turn(self, pass_s: float = 0.0) -> None:
        self.now += pass_s
        for trio in self.trios:
            trio.turn(self.now)
        self.compare()

    def deliver(self) -> None:
        for trio in self.trios:
            trio.deliver(self.now)
        self.compare()

    def deliver_all(self) -> None:
        while self.trios[0].under_way:
            self.deliver()

    def settle(self) -> None:
        for _ in range(4):
            self.turn()
            self.deliver_all()

    def ask(self, place: int, frame: bytes, origin: bytes = ORIGINS[0]) -> None:
        for trio in self.trios:
            trio.cores[place].receive_request(origin, frame, self.now)
        self.compare()

    def answer(self, place: int, address: str, frame: bytes) -> None:
        for trio in self.trios:
            trio.cores[place].receive_answer(address, frame, self.now)
        self.compare()

    def change(self, rng: random.Random) -> None:
        """Let happen what makes writes unusual."""
        what, place, heals, slot = rng.randrange(9), rng.randrange(3), rng.random() < 0.6, rng.randrange(16)
        other = ADDRESSES[rng.choice([node_id for node_id in IDS if node_id != IDS[place]])]
        for trio in self.trios:
            core = trio.cores[place]
            if what == 0:
                core.link_down(other, self.now)
                core.link_up(other, self.now)
            if what == 1:
                core.undeliverable(other, self.now)
            if what == 2:
                core.view.former = [] if heals else [Former(core.view.without_us(core.view.ring), self.now)]
            if what == 3:
                core.coordinator.pending.replan()
            if what == 4:
                core.coordinator.replica.remember(None if heals else lambda *_: None)
            if what == 5:
                core.view.owned[:] = [IDS[place] in owners for owners in core.view.ring.owners]
                core.view.owned[slot] &= heals
            if what == 6:
                trio.callers.deaf = set() if heals else {ORIGINS[1]}
            if what == 8:
                breakers, peer = core.coordinator.pending.breakers, IDS[place - 1]
                breakers.sent(0, peer, core.peers.by_node[peer].boot if peer in core.peers.by_node else 0, self.now + 1)
                for _ in range(0 if heals else CALLS_MIN):
                    breakers._fail(peer)
            if what == 7 and trio.under_way:
                trio.under_way.popleft()  # lost
        self.compare()


def set_message(rng: random.Random, twins: Twins, place: int) -> m.Set:
    own = [key for key in KEYS if IDS[place] in owners_of(twins, key)]
    keys = (
        rng.sample(KEYS, 8) if rng.random() < 0.1 else rng.sample(own, min(len(own), rng.choice([1, 1, 1, 2, 8, 20])))
    )
    contents = [
        some_content(rng) if rng.random() < 0.02 else b"\0\1" + rng.randbytes(rng.choice([1, 60])) for _ in keys
    ]
    deadline_ms = twins.wall_ms + rng.choice([5000] * 8 + [250, 150, 70_000, 0, -1])
    level = rng.choice([0] * 12 + [-1, -2, -3, 1, 2, 3, 4])
    ttl_ms = rng.choice([-1, 0, 1, 300, 60_000])
    view = twins.native[place].view.digest
    return m.Set(rng.randrange(300), BOOT + place, deadline_ms, view, level, ttl_ms, keys, contents)


def write_message(rng: random.Random, twins: Twins, place: int) -> m.Write:
    keys = rng.sample(KEYS, rng.choice([1, 1, 3]))
    records = []
    for _ in keys:
        ahead_ms = rng.choice([0] * 10 + [-5000, 4900, 4900, 4900, LEAD_MS_MAX + 1, 9000])
        version = ((twins.wall_ms + ahead_ms) << 16 | rng.randrange(9)).to_bytes(8, "big") + rng.randbytes(8)
        content = some_content(rng) if rng.random() < 0.02 else b"\0\1v"
        expires_ms = rng.choice([NEVER_MS, twins.wall_ms + 500, twins.wall_ms - 1])
        record = version + expiry_bytes(expires_ms) + (content if isinstance(content, bytes) else b"")
        records.append(record if rng.random() < 0.9 else tombstone(version_of(record), twins.wall_ms + 60_000))
    deadline_ms = twins.wall_ms + rng.choice([5000] * 8 + [0, -1])
    view = twins.native[place].view.digest if rng.random() < 0.9 else rng.choice([b"", b"8 bytes.", b"more than 8"])
    number = rng.choice([0, 5, 5, 5])
    return m.Write(number, BOOT + place, deadline_ms, view, rng.random() < 0.1, keys, records)


def usual_write(rng: random.Random, twins: Twins) -> m.Write:
    record = (twins.wall_ms << 16).to_bytes(8, "big") + rng.randbytes(8) + expiry_bytes(NEVER_MS) + b"\0\1v"
    view = twins.native[0].view.digest
    return m.Write(5, BOOT, twins.wall_ms + 5000, view, False, [rng.choice(KEYS)], [record])


def clock_of_peer(rng: random.Random, twins: Twins) -> int:
    ahead_ms = rng.choice([0] * 8 + [-1000, 3000, LEAD_MS_MAX + 1, LEAD_MS_MAX + 50, 60_000])
    return rng.choice([(twins.wall_ms + ahead_ms) << 16] * 9 + [0])


def frame_of(rng: random.Random, clock: int, messages: list[Message]) -> bytes:
    try:
        frame = encode_frame(clock, messages)
    except (TypeError, AttributeError):  # some content is none
        return b""
    return mutated(frame, rng) if rng.random() < 0.1 else frame


def hostile(rng: random.Random, twins: Twins) -> None:
    """Send what no honest node does: a write, or an answer that nobody waits for, or one that is changed."""
    place = rng.randrange(3)
    other = rng.choice([node_id for node_id in IDS if node_id != IDS[place]])
    if rng.random() < 0.5:
        messages: list[Message] = [write_message(rng, twins, place) for _ in range(rng.choice([1, 1, 1, 2]))]
        twins.ask(place, frame_of(rng, clock_of_peer(rng, twins), messages), other.encode())
        return
    waiting = list(twins.native[place].coordinator.pending.waiting) or [1]
    number, view = rng.choice([*waiting, 0, 1 << 62]), rng.choice([bytes(8), b"", b"more than 8"])
    newer = rng.choice(
        [[]] * 6 + [[[0, bytes(16)]], [[0, b"\xff" * 16]], [[9, (twins.wall_ms << 16).to_bytes(8, "big") + bytes(8)]]]
    )
    live = rng.choice([[]] * 6 + [[0], [77], [-1]])
    kind = rng.choice([m.WriteReply] * 8 + [None])
    message: Message = m.Reject(number, view, [2, 1]) if kind is None else m.WriteReply(number, view, newer, live)
    twins.answer(place, ADDRESSES[other], frame_of(rng, clock_of_peer(rng, twins), [message]))


def run(rng: random.Random, twins: Twins, steps: int) -> None:
    for _ in range(steps):
        action = rng.random()
        if action < 0.3:
            place = rng.randrange(3)
            messages: list[Message] = [set_message(rng, twins, place) for _ in range(rng.choice([1] * 8 + [2]))]
            twins.ask(place, frame_of(rng, 0, messages), rng.choice(ORIGINS))
            if rng.random() < 0.6:  # each message in a frame of its own
                twins.settle()
        elif action < 0.4:
            hostile(rng, twins)
        elif action < 0.75:
            twins.turn(rng.choice([0.0, 0.0, 0.001, 0.001, 0.01]))
        elif action < 0.78:
            twins.turn(rng.choice([0.05, 0.3, 1.5]))
            twins.settle()
        elif action < 0.98:
            for _ in range(rng.choice([1, 3, 100])):
                if twins.trios[0].under_way:
                    twins.deliver()
        else:
            twins.change(rng)
    twins.settle()


@pytest.mark.parametrize("world", WORLDS)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=6, deadline=None)
def test_random_writes_leave_both_meshes_in_the_same_state(world: str, seed: int) -> None:
    run(random.Random(seed), Twins(**WORLDS[world]), 60)


def test_random_writes_come_to_all_ends() -> None:
    """Or the test above would show nothing."""
    outcomes: Counter[tuple[str, bool | None]] = Counter()
    for number, tables in enumerate(WORLDS.values()):
        twins = Twins(**tables)
        twins.outcomes.clear()
        run(random.Random(number), twins, 120)
        outcomes += twins.outcomes
    assert min(outcomes[way, done] for way in ("serve", "take") for done in (True, False)) > 50, outcomes
    assert outcomes["serve", None] > 0, outcomes


def sets_of(twins: Twins, place: int, count: int) -> bytes:
    keys = [b"new-%d" % number for number in range(1000) if owners_of(twins, b"new-%d" % number)[0] == IDS[place]][
        :count
    ]
    view = twins.native[place].view.digest
    return encode_frame(
        0, [m.Set(7, BOOT + place, twins.wall_ms + 5000, view, 0, 60_000, keys, [b"\0\1" + b"v" * 60] * count)]
    )


def owners_of(twins: Twins, key: bytes) -> tuple[str, ...]:
    return twins.native[0].view.ring.owners[crc32(key) % 16]


@pytest.mark.parametrize(
    ("tables", "count"), [({}, 1), ({}, 20), ({}, 100), (WORLDS["three copies"], 1), (WORLDS["few entries"], 20)]
)
def test_what_is_usual_is_done_natively_from_the_request_to_the_reply(tables: dict[str, Any], count: int) -> None:
    twins = Twins(**tables)
    for place in range(3):
        twins.turn()
        twins.deliver_all()
        twins.outcomes.clear()
        twins.ask(place, sets_of(twins, place, count))
        assert twins.outcomes == {("serve", True): 1}
        assert isinstance(next(iter(twins.native[place].coordinator.pending.running)), UsualWrite)
        for trio in twins.trios:
            trio.turn(twins.now)
        twins.deliver_all()
        for trio in twins.trios:
            trio.turn(twins.now)
        twins.deliver_all()
        assert {done for _, done in twins.outcomes} == {True}
        assert twins.native[place].coordinator.pending.running == {}
        answers = [frame for origin, frame in twins.native[place].drain().replies if origin == ORIGINS[0]]
        assert [decode_frame(frame)[1] for frame in answers] == [[m.Reply(7, twins.native[place].view.digest, None)]]
        twins.trios[1].cores[place].drain()


def test_keys_of_the_same_owners_in_another_order_are_one_group() -> None:
    twins = Twins()
    node_id = IDS[0]
    names = [b"new-%d" % number for number in range(1000)]
    keys = [key for key in names if set(owners_of(twins, key)) == {node_id, IDS[1]}][:40]
    assert {owners_of(twins, key)[0] for key in keys} == {node_id, IDS[1]}
    twins.turn()
    twins.deliver_all()
    twins.outcomes.clear()
    view = twins.native[0].view.digest
    content = b"\0\1" + b"v" * 60
    asked = m.Set(7, BOOT, twins.wall_ms + 5000, view, 0, 60_000, keys, [content] * len(keys))
    twins.ask(0, encode_frame(0, [asked]))
    for trio in twins.trios:
        effects = trio.cores[0].drain()
        written = [one for _, frame in effects.sends for one in decode_frame(frame)[1] if isinstance(one, m.Write)]
        assert [write.keys for write in written] == [keys]
    assert twins.outcomes == {("serve", True): 1}


class Called:
    """Stands for a node's usual requests, and lists the functions of Python that are called in them."""

    def __init__(self, usual: Any) -> None:
        self._usual = usual
        self.names: list[str] = []

    def serve(self, origin: bytes, frame: bytes) -> bool | None:
        return self._listed(self._usual.serve, origin, frame)

    def take(self, address: str, frame: bytes) -> bool | None:
        return self._listed(self._usual.take, address, frame)

    def _listed(self, do: Callable[..., bool | None], sender: bytes | str, frame: bytes) -> bool | None:
        def note(at: FrameType, event: str, _: object) -> None:
            if event == "call":
                self.names.append(at.f_code.co_qualname)

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            return do(sender, frame)
        finally:
            sys.setprofile(before)


@pytest.mark.parametrize("count", [1, 20])
def test_what_is_usual_calls_no_function_of_python(count: int) -> None:
    twins = Twins()
    called = [Called(core.requests.usual) for core in twins.native]
    for core, each in zip(twins.native, called, strict=True):
        core._usual = each  # type: ignore[assignment]  # does as it does
    for _ in range(2):
        for each in called:
            each.names.clear()  # the first time, breakers get to know the nodes
        twins.turn()
        twins.deliver_all()
        for place in range(3):
            twins.ask(place, sets_of(twins, place, count))
        for _ in range(2):
            twins.turn()
            twins.deliver_all()
    assert twins.native[0].counters.requests_by_kind.answered["Set"] == 2
    assert [each.names for each in called] == [[], [], []]


def test_a_wait_begins_when_it_is_asked_and_not_at_the_last_look() -> None:
    twins = Twins()
    for _ in range(2):  # the first time, breakers get to know the nodes
        twins.turn()
        twins.deliver_all()
        twins.now += 0.3
        twins.ask(0, sets_of(twins, 0, 1))
        assert twins.native[0].coordinator.pending.breakers.looked_at == twins.now
        for _ in range(2):
            twins.turn()
            twins.deliver_all()


def test_an_answer_closes_the_breaker_that_opened_while_it_was_waited_for() -> None:
    twins = Twins()
    for _ in range(2):  # the first time, breakers get to know the nodes
        twins.turn()
        twins.deliver_all()
        twins.ask(0, sets_of(twins, 0, 1))
        for trio in twins.trios:
            breakers = trio.cores[0].coordinator.pending.breakers
            for node_id in breakers.by_node:
                for _ in range(CALLS_MIN):
                    breakers._fail(node_id)
            assert breakers.open
            trio.turn(twins.now)
        twins.deliver_all()
        twins.turn()
        twins.deliver_all()
        assert len(twins.native[0].coordinator.pending.breakers.open) < len(IDS) - 1
    assert set(twins.outcomes) >= {("serve", True), ("take", True)}


def test_another_process_of_a_node_has_a_breaker_of_its_own() -> None:
    twins = Twins()
    for former in (0, 1):
        twins.turn()
        twins.deliver_all()
        for trio in twins.trios:
            breakers = trio.cores[0].coordinator.pending.breakers
            for node_id, (boot, breaker) in breakers.by_node.items():
                breakers.by_node[node_id] = boot - former, breaker
        twins.ask(0, sets_of(twins, 0, 20))
        for _ in range(2):
            twins.turn()
            twins.deliver_all()
    boots = {boot for boot, _ in twins.native[0].coordinator.pending.breakers.by_node.values()}
    assert boots == {BOOT + 1, BOOT + 2}


def test_what_is_newer_is_told_of_by_its_place_in_a_large_batch() -> None:
    twins = Twins()
    twins.turn()
    view, keys = twins.native[0].view.digest, [b"key-%d" % number for number in range(200)]
    old, new = [
        (twins.wall_ms + ms << 16).to_bytes(8, "big") + bytes(8) + expiry_bytes(NEVER_MS) + b"\0\0" for ms in (0, 9)
    ]
    for trio in twins.trios:
        trio.cores[0].store.merge([keys[3], keys[150]], [new, new], twins.wall_ms)
    write = m.Write(5, BOOT, twins.wall_ms + 5000, view, False, keys, [old] * len(keys))
    twins.ask(0, encode_frame(twins.wall_ms << 16, [write]), b"n2")
    assert twins.outcomes["serve", True] == 1
    twins.turn()
    replies = [decode_frame(frame)[1][0] for place, _, frame in twins.trios[0].under_way if place == 1]
    assert [[place for place, _ in each.newer] for each in replies if isinstance(each, m.WriteReply)] == [[3, 150]]


@pytest.mark.parametrize("lead_ms", [-10, 10, 1000])
def test_what_was_dropped_stays_out(lead_ms: int) -> None:
    twins = Twins()
    twins.turn()
    version = (twins.wall_ms + lead_ms << 16).to_bytes(8, "big") + bytes(8)
    for trio in twins.trios:
        for core in trio.cores:
            assert core.coordinator.replica.floors.set(EventKind.CLEAR, b"new-", version, twins.wall_ms)
    for place in range(3):
        twins.ask(place, sets_of(twins, place, 20))
        for _ in range(3):
            twins.turn()
            twins.deliver_all()
    held = [record for number in range(1000) if (record := twins.native[0].store.peek(b"new-%d" % number))]
    assert held
    assert min(held) > version


def hostile_frames(count: int, seed: int) -> Counter[tuple[str, bool | None]]:
    """Let both meshes take so many mutated frames of nodes; return what natively became of them.

    See its namesake in test_serve.py.
    """
    rng, twins, looks_every = random.Random(seed), Twins(), max(100, count // 50)
    cores = [trio.cores[0] for trio in twins.trios]
    twins.outcomes.clear()
    for number in range(count):
        if number % looks_every == 0:
            assert all_of(cores[0]) == all_of(cores[1])
            assert cores[0].drain() == cores[1].drain()
            for core in cores:
                core.receive_request(ORIGINS[0], sets_of(twins, 0, 1), twins.now)
        native, clock = cores[0]._usual, twins.wall_ms << 16
        last = cores[0].coordinator.pending.number - 1
        stored = m.WriteReply(last, bytes(8), [], [])
        frame = mutated(encode_frame(clock, [usual_write(rng, twins) if rng.random() < 0.5 else stored]), rng)
        if number % looks_every:  # mostly without the looks before and after, which take long
            cores[0]._usual = native._usual  # type: ignore[union-attr]  # of the spy
        for core in cores:
            core.receive_request(b"n2", frame, twins.now)
            core.receive_answer(ADDRESSES["n2"], frame, twins.now)
        cores[0]._usual = native
    return twins.outcomes


def test_hostile_frames_leave_both_meshes_in_the_same_state() -> None:
    assert hostile_frames(2000, 1)["serve", False] > 10
