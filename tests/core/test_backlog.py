"""How much a node takes on, and when whoever it refuses had better come back."""

from __future__ import annotations

import random
from typing import Any

import pytest

from meshcache.config import Config, LimitSettings
from meshcache.core.node import NodeCore
from meshcache.core.operations import backlog as b
from meshcache.core.operations.backlog import Backlog
from meshcache.core.operations.instant import Instant
from meshcache.core.operations.portions import PORTION_KEYS
from meshcache.core.operations.reply_room import PRESSED_BYTES_LEFT, PRESSED_REPLY_BYTES
from meshcache.core.operations.surroundings import Readers
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Code
from meshcache.protocol.wire import decode_frame, encode_frame

WALL_MS = 1_700_000_000_000
MIB = 1 << 20
FLOOD, OTHER = b"flood", b"other"


class Work:
    """A backlog, and the figures that it asks for."""

    def __init__(self) -> None:
        self.instant = Instant(0.0, WALL_MS)
        self.running = 0
        self.ended = 0
        limits = LimitSettings(in_flight_bytes_max=10 * MIB, client_in_flight_bytes_max=4 * MIB)
        self.backlog = Backlog(limits, self.instant, lambda: self.running, lambda: self.ended)

    def pass_time(self, seconds: float, ended_per_s: float = 0.0) -> None:
        for _ in range(round(seconds / b.MEASURE_S)):
            self.instant.move(self.instant.now + b.MEASURE_S)
            self.ended += int(ended_per_s * b.MEASURE_S)
            self.backlog.run()


def test_the_hint_is_how_long_the_work_at_hand_takes_at_the_rate_of_late() -> None:
    work = Work()
    work.pass_time(10.0, ended_per_s=10_000)
    work.running = 5000
    assert work.backlog.retry_after_ms() == pytest.approx(500, rel=0.05)
    assert work.backlog.retry_after_ms(waiting_us=300_000) == pytest.approx(800, rel=0.05)
    work.pass_time(10.0, ended_per_s=50_000)
    assert work.backlog.retry_after_ms() == pytest.approx(100, rel=0.05)


def test_the_hint_is_neither_nothing_nor_for_ever() -> None:
    work = Work()
    work.running = 1_000_000
    assert work.backlog.retry_after_ms() == b.RETRY_AFTER_MS_MAX
    work.running = 0
    assert work.backlog.retry_after_ms() == b.RETRY_AFTER_MS_MIN


def test_one_connection_has_its_share_of_the_bytes_and_all_together_have_theirs() -> None:
    work = Work()
    begin, end = work.backlog.begin, work.backlog.end
    numbers = [begin(FLOOD, MIB, 1.0) for _ in range(4)]
    assert all(numbers)
    assert not begin(FLOOD, 1, 1.0)
    others = [begin(b"%d" % i, 2 * MIB, 1.0) for i in range(3)]
    assert all(others)
    assert not begin(b"one more", 1, 1.0)
    end(numbers[0])
    assert not begin(FLOOD, MIB + 1, 1.0)
    assert begin(FLOOD, MIB, 1.0)


def test_a_request_of_any_size_is_taken_on_if_it_is_the_only_one() -> None:
    work = Work()
    number = work.backlog.begin(FLOOD, 60 * MIB, 1.0)
    assert number
    assert not work.backlog.begin(OTHER, 1, 1.0)
    work.backlog.end(number)
    work.backlog.end(number)
    assert not work.backlog.bytes
    assert work.backlog.begin(OTHER, MIB, 1.0)


def test_what_is_never_answered_is_forgotten_after_its_time() -> None:
    work = Work()
    assert work.backlog.begin(FLOOD, 4 * MIB, 3.0)
    work.pass_time(2.0)
    assert not work.backlog.begin(FLOOD, 4 * MIB, 5.0)
    work.pass_time(3.0)
    assert work.backlog.bytes == 0
    assert work.backlog.begin(FLOOD, 4 * MIB, 9.0)


class Waiting:
    """A node without others, where batches can be made to wait."""

    def __init__(self, **limits: Any) -> None:
        self.now = 0.0
        config = Config.from_tables(node={"id": "n"}, cluster={"replicas": 1, "write_quorum": 1}, limits=limits)
        self.core = NodeCore(config, boot=1, rng=random.Random(1), now=0.0, wall_ms=WALL_MS)
        self.number = 0

    @property
    def in_flight_bytes(self) -> int:
        return self.core.requests._backlog.bytes

    def ask(self, origin: bytes, kind: Any, *fields: Any) -> int:
        self.number += 1
        deadline_ms = WALL_MS + int(self.now * 1000) + 5000
        self.core.receive_request(origin, encode_frame(0, [kind(self.number, 1, deadline_ms, b"", *fields)]), self.now)
        return self.number

    def turn(self, *, run: bool = True) -> dict[int, Any]:
        self.now += 0.001
        if run:
            self.core.tick(self.now)
        return {
            message.request: message
            for _, frame in self.core.drain().replies
            for message in decode_frame(frame)[1]
            if isinstance(message, m.Reply | m.Reject)
        }


def batch(kind: Any, name: bytes, value_bytes: int) -> tuple[Any, ...]:
    keys = [b"%s:%0200d" % (name, i) for i in range(PORTION_KEYS[kind] + 1)]
    count = len(keys)
    return {
        m.Get: (0, 0, False, keys),
        m.Set: (0, m.TTL_NEVER, keys, [bytes(2 + value_bytes)] * count),
        m.Delete: (0, int(m.EventKind.DELETE), keys),
        m.Update: (0, 0, 0, keys, [[int(m.Change.ADD), bytes(2 + value_bytes), -1]] * count),
    }[kind]


@pytest.mark.parametrize("kind", [m.Get, m.Set, m.Delete, m.Update])
def test_batches_that_wait_are_bounded_by_their_bytes_and_the_next_is_told_when_to_come(kind: Any) -> None:
    node = Waiting(client_in_flight_bytes_max=MIB)
    refused: dict[int, Any] = {}
    asked = 0
    while not refused and asked < 100:
        node.ask(FLOOD, kind, *batch(kind, b"%d" % asked, 1000))
        refused = {number: answer for number, answer in node.turn(run=False).items() if type(answer) is m.Reject}
        asked += 1
    (reject,) = refused.values()
    code, retry_after_ms = reject.error
    assert code == Code.OVERLOADED
    assert b.RETRY_AFTER_MS_MIN <= retry_after_ms <= b.RETRY_AFTER_MS_MAX
    assert node.in_flight_bytes <= 2 * MIB
    other = node.ask(OTHER, m.Get, 0, 0, False, [b"k"])
    assert type(node.turn(run=False)[other]) is m.Reply
    answered: dict[int, Any] = {}
    while len(answered) < asked - 1 and node.now < 5.0:
        answered |= node.turn()
    assert len(answered) == asked - 1
    assert node.in_flight_bytes == 0, "what is answered is not under way any more"


def test_a_large_set_that_is_answered_at_once_leaves_nothing_behind() -> None:
    node = Waiting()
    for i in range(100):
        number = node.ask(FLOOD, m.Set, 0, m.TTL_NEVER, [b"k%d" % i], [bytes(MIB)])
        assert type(node.turn()[number]) is m.Reply
    assert node.in_flight_bytes == 0


def test_housekeeping_measures_the_rate() -> None:
    node = Waiting()
    for _ in range(1000):
        node.ask(OTHER, m.Get, 0, 0, False, [b"k"])
        node.turn()
    rate_per_s = node.core.requests._backlog.rate_per_s
    assert 100 < rate_per_s <= 1000, "one for each of the turns, which take a millisecond"


def test_too_many_operations_are_refused_with_a_hint() -> None:
    node = Waiting(pending_max=1)
    node.core.coordinator.pending.begin(Never(), 1e9)
    number = node.ask(FLOOD, m.Get, 0, 0, False, [b"k"])
    assert node.turn()[number].error == [int(Code.OVERLOADED), 1000], "one operation, at one in a second"


class Never:
    """An operation that does not end."""

    def on_answer(self, group: Any, node_id: str, answer: Any) -> None: ...
    def on_lost(self, group: Any, node_id: str) -> None: ...
    def on_reject(self, group: Any, node_id: str) -> None: ...
    def on_timer(self) -> None: ...
    def replan(self) -> None: ...


def given(answer: Any) -> int:
    """Return how many records a reply has; the other keys must be asked for again."""
    kinds = [type(record) for record in answer.results]
    assert answer.results[kinds.count(bytes) :] == [[int(Code.MORE)]] * kinds.count(list)
    return kinds.count(bytes)


def test_while_clients_have_much_to_read_a_reply_gives_them_little_more() -> None:
    node, readers = Waiting(reply_bytes_max=8 * MIB), Readers()
    node.core.heed(readers)
    keys, value_bytes = [b"k%d" % i for i in range(8)], 300_000
    node.ask(OTHER, m.Set, 0, m.TTL_NEVER, keys, [bytes(2 + value_bytes)] * len(keys))
    node.turn()
    few = PRESSED_REPLY_BYTES // value_bytes
    for bytes_left, number in ((PRESSED_BYTES_LEFT, len(keys)), (PRESSED_BYTES_LEFT - 1, few)):
        readers.bytes_left = bytes_left
        asked = node.ask(FLOOD, m.Get, 0, 0, False, keys)
        assert given(node.turn()[asked]) == number
    readers.bytes_left = PRESSED_BYTES_LEFT
    both = [node.ask(origin, m.Get, 0, 0, False, keys) for origin in (FLOOD, OTHER)]
    answers = node.turn()
    assert [given(answers[number]) for number in both] == [len(keys), few], "what this turn gives counts at once"
