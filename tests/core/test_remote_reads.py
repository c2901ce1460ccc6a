"""Reads from other nodes: so many at a time, and the large ones apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from meshcache.core.operations import remote_reads
from meshcache.core.operations.remote_reads import BEGUN_PER_TURN, RemoteReads


class Reads:
    """Reads that end when told to."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.gate = RemoteReads(lambda: self.held_bytes)
        self.begun: list[tuple[bytes, int]] = []
        self._expected: list[float] = []

    def start(self, origin: bytes, count: int = 1) -> bool:
        def begin(expected_bytes: float) -> None:
            self.begun.append((origin, count))
            self._expected.append(expected_bytes)

        self.gate.run()  # each in a turn of its own
        return self.gate.start(origin, count, begin)

    def end(self, read_bytes: int = 0) -> None:
        """The read that began first is over."""
        self.gate.run()
        origin, count = self.begun.pop(0)
        self.gate.ended(origin, count, count, self._expected.pop(0), read_bytes)

    def drop(self) -> None:
        """The read that began first is over, with nothing read."""
        origin, count = self.begun.pop(0)
        self.gate.ended(origin, count, 0, self._expected.pop(0), 0)

    def learn(self, origin: bytes, key_bytes: int) -> None:
        """Have some reads of one key bring so much."""
        for _ in range(20):
            assert not self.begun
            self.start(origin)
            self.end(key_bytes)


def test_reads_of_one_connection_are_bounded_and_go_on_in_order() -> None:
    reads = Reads()
    reads.learn(b"a", 100)
    assert all(reads.start(b"a") for _ in range(remote_reads.READ_KEYS_OF_ONE_MAX + 5))
    assert len(reads.begun) == remote_reads.READ_KEYS_OF_ONE_MAX
    reads.start(b"b")
    assert reads.begun[-1] == (b"b", 1), "another connection has room of its own"
    reads.end()
    assert len(reads.begun) == remote_reads.READ_KEYS_OF_ONE_MAX + 1


def test_reads_of_all_connections_are_bounded_by_their_keys() -> None:
    reads = Reads()
    for i in range(100):
        reads.start(b"%d" % i, 4096)
    assert sum(min(count, remote_reads.KEYS_COUNTED_MAX) for _, count in reads.begun) <= remote_reads.READ_KEYS_MAX
    total = 0
    while reads.begun:
        reads.end()
        total += 1
    assert total == 100


def test_no_large_read_begins_while_much_is_held_but_one() -> None:
    reads = Reads()
    reads.learn(b"a", 1 << 20)
    reads.held_bytes = remote_reads.READ_BYTES_MAX
    reads.start(b"a")
    reads.start(b"b")
    assert reads.begun == [(b"a", 1)]
    reads.held_bytes = 0
    reads.end()
    assert reads.begun == [(b"b", 1)]


def test_too_many_waiting_reads_are_refused() -> None:
    reads = Reads()
    started = [reads.start(b"a") for _ in range(remote_reads.READS_WAITING_MAX + 100)]
    assert not all(started)
    assert reads.start(b"b")


def test_no_more_waits_of_a_connection_than_can_be_read_while_its_callers_wait() -> None:
    reads = Reads()
    assert all(reads.start(b"new", 8) for _ in range(remote_reads.WAITING_BYTES_MAX >> 20)), (
        "nobody knows what it reads"
    )
    while reads.begun:
        reads.end(8 << 20)
    reads.start(b"new", 8)
    fit = remote_reads.WAITING_BYTES_MAX // (8 << 20)
    assert [reads.start(b"new", 8) for _ in range(fit + 1)] == [True] * fit + [False]
    assert reads.gate.refused == 1
    reads.end(8 << 20)
    assert reads.start(b"new", 8), "one has begun"
    assert not reads.start(b"new", 8)
    while reads.begun:
        reads.end(8 << 20)
    reads.start(b"new", 8)
    assert reads.start(b"new", 1000), "one may always wait"


def test_of_a_read_that_was_dropped_nothing_is_learnt() -> None:
    reads = Reads()
    reads.learn(b"a", 1 << 20)
    for _ in range(20):
        reads.start(b"a")
        reads.drop()
    for _ in range(20):
        reads.start(b"a")
    assert len(reads.begun) == remote_reads.LARGE_BYTES_MAX >> 20


def test_where_many_wait_each_connection_has_only_a_small_share() -> None:
    reads = Reads()
    reads.start(b"first", 64)
    for name in (b"a", b"b"):
        assert all(reads.start(name, 64) for _ in range(remote_reads.READS_WAITING_MANY // 2))
    assert not reads.start(b"a", 64)
    started = [reads.start(b"c", 64) for _ in range(remote_reads.READS_WAITING_SHARE + 1)]
    assert started == [True] * remote_reads.READS_WAITING_SHARE + [False]
    while reads.begun:
        reads.end()
    assert all(reads.start(b"a", 64) for _ in range(remote_reads.READS_WAITING_SHARE + 1))


def test_reads_that_end_at_once_do_not_pile_up_on_the_stack() -> None:
    gate = RemoteReads(lambda: remote_reads.READ_BYTES_MAX)
    ended = 0

    def begin(expected_bytes: float) -> None:
        nonlocal ended
        ended += 1
        gate.ended(b"a", 1, 1, expected_bytes, 0)

    held: list[Callable[[], None]] = []
    gate.start(b"b", 1, lambda expected: held.append(lambda: gate.ended(b"b", 1, 1, expected, 0)))
    for _ in range(1000):
        gate.start(b"a", 1, begin)
    gate.run()
    assert ended == 0
    held[0]()
    for turn in range(1, 1000 // BEGUN_PER_TURN + 1):
        assert ended == turn * BEGUN_PER_TURN
        assert gate.is_more
        gate.run()
    assert ended == 1000
    assert not gate.is_more


def test_one_turn_begins_so_many_reads_in_all_whoever_asks_for_them() -> None:
    gate, ended = RemoteReads(lambda: 0), Counter[bytes]()

    def start(name: bytes) -> None:
        def begin(expected_bytes: float) -> None:
            ended[name] += 1
            gate.ended(name, 1, 1, expected_bytes, 0)

        assert gate.start(name, 1, begin)

    for _ in range(BEGUN_PER_TURN):
        start(b"a")
    for name in (b"a", b"b", b"c"):
        for _ in range(50):
            start(name)
    assert ended == {b"a": BEGUN_PER_TURN}
    gate.run()
    assert ended.total() == 2 * BEGUN_PER_TURN
    assert set(ended) == {b"a", b"b", b"c"}
    gate.run()
    assert ended.total() == BEGUN_PER_TURN + 150


def test_large_reads_are_bounded_by_their_bytes_and_small_ones_do_not_wait_for_them() -> None:
    reads = Reads()
    reads.learn(b"small", 100)
    reads.learn(b"large", 1 << 20)
    for _ in range(20):
        reads.start(b"large")
    assert len(reads.begun) == remote_reads.LARGE_BYTES_MAX >> 20
    assert all(reads.start(b"small") for _ in range(5))
    assert reads.begun[-5:] == [(b"small", 1)] * 5
    reads.end(1 << 20)
    assert reads.begun[-1] == (b"large", 1)


def test_of_a_new_connection_as_much_is_expected_as_of_the_others() -> None:
    reads = Reads()
    reads.learn(b"a", 1 << 20)
    for i in range(20):
        reads.start(b"new %d" % i)
    assert len(reads.begun) == remote_reads.LARGE_BYTES_MAX >> 20


def test_a_read_larger_than_all_may_bring_runs_alone() -> None:
    reads = Reads()
    reads.learn(b"a", 4 << 20)
    reads.start(b"a", 16)
    reads.start(b"a", 16)
    assert reads.begun == [(b"a", 16)]
    reads.end(64 << 20)
    assert reads.begun == [(b"a", 16)]


def test_connections_take_turns() -> None:
    reads = Reads()
    for name in (b"a", b"b", b"c"):
        reads.learn(name, remote_reads.LARGE_BYTES_MAX)
    for _ in range(3):
        for name in (b"a", b"b", b"c"):
            reads.start(name)
    order = []
    while reads.begun:
        order.append(reads.begun[0][0])
        reads.end(remote_reads.LARGE_BYTES_MAX)
    assert order == [b"a", b"b", b"c"] * 3


def test_what_is_remembered_of_connections_is_bounded() -> None:
    reads = Reads()
    for i in range(remote_reads.GUESSES_MAX + 50):
        reads.start(b"%d" % i)
        reads.end(1)
    assert len(reads.gate._guesses) == remote_reads.GUESSES_MAX


def test_large_reads_leave_room_for_the_keys_of_small_ones() -> None:
    reads = Reads()
    reads.learn(b"small", 100)
    for i in range(10):
        reads.learn(b"large %d" % i, 1 + remote_reads.SMALL_BYTES // 8)
    for i in range(10):
        reads.start(b"large %d" % i, 8)
    assert len(reads.begun) == remote_reads.LARGE_KEYS_MAX // 8
    reads.start(b"small", 8)
    assert reads.begun[-1] == (b"small", 8)
