"""Large batches and reads from other nodes: they wait for their turn, and keep nobody else waiting."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from meshcache.config import Config
from meshcache.core.node import NodeCore
from meshcache.core.operations import portions
from meshcache.core.operations.portions import PORTION_KEYS
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Code
from meshcache.protocol.wire import decode_frame, encode_frame

WALL_MS = 1_700_000_000_000
HEAVY, LIGHT, OTHER = b"heavy", b"light", b"other"
COUNT = [int(m.Change.INCR), 1, 0, m.TTL_NEVER]


class Alone:
    """A node without others, and who asks it."""

    def __init__(self) -> None:
        config = Config.from_tables(node={"id": "n"}, cluster={"replicas": 1, "write_quorum": 1})
        self.now = 0.0
        self.core = NodeCore(config, boot=1, rng=random.Random(1), now=0.0, wall_ms=WALL_MS)
        self.number = 0

    def ask(self, origin: bytes, kind: Callable[..., Any], *fields: Any, deadline_ms: int = 5000) -> int:
        self.number += 1
        deadline_ms += WALL_MS + int(self.now * 1000)
        self.core.receive_request(origin, encode_frame(0, [kind(self.number, 1, deadline_ms, b"", *fields)]), self.now)
        return self.number

    def turn(self) -> dict[int, tuple[bytes, Any]]:
        """Return by number what was answered in a turn, and to whom."""
        self.now += 0.001
        self.core.tick(self.now)
        answers = {}
        for origin, frame in self.core.drain().replies:
            for message in decode_frame(frame)[1]:
                assert isinstance(message, m.Reply | m.Reject)
                answers[message.request] = origin, message
        return answers

    def turns(self, number: int) -> tuple[int, Any]:
        """Return how many turns it took until this was answered, and the answer."""
        for turn in range(1, 1000):
            answers = self.turn()
            if number in answers:
                return turn, answers[number][1]
        raise AssertionError("it is never answered")


def keys(count: int, name: str = "k") -> list[bytes]:
    return [b"%s:%d" % (name.encode(), i) for i in range(count)]


def test_a_large_batch_of_counts_takes_many_turns_and_a_get_none_of_them() -> None:
    node = Alone()
    many = node.ask(HEAVY, m.Update, 0, 0, 0, keys(4096), [COUNT] * 4096)
    assert node.core.next_deadline() <= node.now, "the node must not sleep over what is left"
    for _ in range(5):
        single = node.ask(LIGHT, m.Get, 0, 0, False, [b"none"])
        answers = node.turn()
        assert set(answers) == {single}
    turns, answer = node.turns(many)
    assert turns > 10
    assert answer.results == [1] * 4096
    assert node.core.store.statistics().entries == 4096


@pytest.mark.parametrize("kind", [m.Get, m.Set, m.Delete, m.Update])
def test_what_a_batch_comes_to_is_in_the_order_of_its_keys(kind: Any) -> None:
    node = Alone()
    count = 4096
    half = keys(count)[::2]
    stored = node.ask(LIGHT, m.Set, 0, m.TTL_NEVER, half, [b"\0\2%d" % i for i in range(len(half))])
    assert node.turns(stored)[1].results is None
    fields: dict[Any, tuple[Any, ...]] = {
        m.Get: (0, 0, False, keys(count)),
        m.Set: (0, m.TTL_NEVER, keys(count), [b"\0\0v"] * count),
        m.Delete: (0, int(m.EventKind.DELETE), keys(count)),
        m.Update: (0, 0, 0, keys(count), [COUNT] * count),
    }
    turns, answer = node.turns(node.ask(HEAVY, kind, *fields[kind]))
    assert turns > 1
    results = answer.results
    if kind is m.Get:
        assert [r and int(r[24:]) for r in results] == [i // 2 if i % 2 == 0 else None for i in range(count)]
    elif kind is m.Set:
        assert results is None
    elif kind is m.Delete:
        assert results == [i % 2 == 0 for i in range(count)]
    else:
        assert results == [i // 2 + 1 if i % 2 == 0 else 1 for i in range(count)]


@pytest.mark.parametrize("kind", [m.Set, m.Update])
def test_a_turn_runs_one_portion(kind: Any) -> None:
    node = Alone()
    fields = (m.TTL_NEVER, keys(4096), [b"\0\0v"] * 4096) if kind is m.Set else (0, 0, keys(4096), [COUNT] * 4096)
    node.ask(HEAVY, kind, 0, *fields)
    stored = []
    for _ in range(4):
        node.turn()
        stored.append(node.core.store.statistics().entries)
    assert stored == [PORTION_KEYS[kind] * turn for turn in range(1, 5)]


def test_connections_take_turns() -> None:
    node = Alone()
    first = [node.ask(HEAVY, m.Set, 0, 0, keys(4096), [b"\0\0v"] * 4096) for _ in range(8)]
    second = node.ask(OTHER, m.Set, 0, 0, keys(4096, "o"), [b"\0\0v"] * 4096)
    turns, _ = node.turns(second)
    last, _ = node.turns(first[-1])
    assert last > turns, "who came last with one batch waited for all of another's"


def test_beyond_its_share_a_connection_is_refused_with_nothing_done_and_others_are_not() -> None:
    node = Alone()
    batch = (0, 0, 0, keys(4096), [COUNT] * 4096)
    numbers = [node.ask(HEAVY, m.Update, *batch) for _ in range(20)]
    other = node.ask(OTHER, m.Update, 0, 0, 0, keys(100, "o"), [COUNT] * 100)
    answers = node.turn()
    refused = [number for number in numbers if number in answers]
    assert 0 < len(refused) < 20
    waiting_ms = (20 - len(refused)) * 4096 * portions.COST_US[m.Update] / 1000
    assert all(answers[number][1].error == [Code.OVERLOADED, int(waiting_ms)] for number in refused)
    assert node.turns(other)[1].results == [1] * 100
    served = [number for number in numbers if number not in refused]
    assert node.turns(served[-1])[1].results == [len(served)] * 4096


def test_what_waits_is_bounded_over_all_connections() -> None:
    node = Alone()
    for i in range(60):
        node.ask(b"origin %d" % i, m.Update, 0, 0, 0, keys(4096, f"{i}"), [COUNT] * 4096)
    refused = [answer for _, answer in node.turn().values() if isinstance(answer, m.Reject)]
    in_us = (60 - len(refused)) * 4096 * portions.COST_US[m.Update]
    assert in_us <= portions.WAITING_US_MAX + portions.LINE_US_MAX


def test_a_portion_whose_turn_comes_after_the_deadline_is_not_executed() -> None:
    node = Alone()
    number = node.ask(HEAVY, m.Update, 0, 0, 0, keys(4096), [COUNT] * 4096, deadline_ms=10)
    results = node.turns(number)[1].results
    done = results.count(1)
    assert 0 < done < 4096
    assert results[done:] == [[Code.OVERLOADED]] * (4096 - done)
    assert node.core.store.statistics().entries == done


def test_a_small_batch_is_answered_at_once() -> None:
    node = Alone()
    size = PORTION_KEYS[m.Set]
    number = node.ask(LIGHT, m.Set, 0, 0, keys(size), [b"\0\0v"] * size)
    assert number in node.turn()


def test_a_portion_that_fails_ends_its_batch_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Alone()
    run = alone.core.requests._update

    def failing(request: Any, done: Any) -> None:
        if request.keys[0].startswith(b"bad"):
            raise RuntimeError("planted")
        run(request, done)

    monkeypatch.setattr(alone.core.requests, "_update", failing)
    count = 3 * PORTION_KEYS[m.Update]
    bad = alone.ask(HEAVY, m.Update, 0, 0, 0, [b"bad%d" % i for i in range(count)], [COUNT] * count)
    good = alone.ask(HEAVY, m.Update, 0, 0, 0, [b"k%d" % i for i in range(count)], [COUNT] * count)
    answered: dict[int, Any] = {}
    for _ in range(20):
        answered |= alone.turn()
    assert good in answered
    assert bad not in answered
    assert alone.core.counters.failed == {"Update": 1}
    assert not alone.core.requests.portions.lines
    assert not alone.core.requests.portions._waiting_us


def test_no_portion_begins_while_other_owners_lag_behind_and_the_node_does_not_spin_meanwhile() -> None:
    node = Alone()
    coordinator = node.core.coordinator
    coordinator.pending.lingering_bytes = portions.KEPT_BYTES_MAX
    number = node.ask(HEAVY, m.Set, 0, 0, keys(4096), [b"\0\0v"] * 4096)
    assert not node.turn()
    assert node.core.next_deadline() > node.now
    coordinator.pending.lingering_bytes = 0
    assert node.core.next_deadline() <= node.now
    assert node.turns(number)[1].results is None


class Ended:
    """An operation that does nothing."""

    def on_timer(self) -> None:
        raise AssertionError("it has ended")


def test_what_has_ended_is_not_kept_until_its_deadline() -> None:
    coordinator = Alone().core.coordinator
    operation: Any = Ended()
    coordinator.pending.begin(operation, 5.0)
    coordinator.pending.linger(operation, 1000, 6.0)
    assert coordinator.pending.lingering_bytes == 1000
    coordinator.pending.end(operation)
    assert coordinator.pending.lingering_bytes == 0
    gone = weakref.ref(operation)
    del operation
    assert gone() is None
    coordinator.instant.move(7.0)
    coordinator.pending.tick()
    assert coordinator.pending.next_deadline() is None
