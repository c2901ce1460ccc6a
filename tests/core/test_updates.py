"""Atomic updates: what each computes, and that each runs once, at the key's first owner."""

from __future__ import annotations

from typing import Any

import pytest
from story import DEFAULT, LOOSE, STRICT, Story

from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.updates import UpdateBatch, compute
from meshcache.errors import KeyMissing, MeshcacheError, NotANumber
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Change, Code
from meshcache.protocol.record import NEVER_MS, stamp
from meshcache.protocol.wire import decode_frame, encode_frame

VERSION = bytes(range(16))
TEXT = b"\0\1text"
EXPIRES_MS = 1_800_000_100_000


@pytest.fixture(scope="module")
def coordinator() -> Coordinator:
    core = Story(1, {**DEFAULT, "write_quorum": 1}).node("n1").core
    assert core is not None
    return core.coordinator


def record(content: bytes = TEXT) -> bytes:
    return stamp(VERSION, EXPIRES_MS) + content


@pytest.mark.parametrize(
    ("change", "held", "answer", "content"),
    [
        ([Change.ADD, b"\0\0new", 0], None, True, b"\0\0new"),
        ([Change.ADD, b"\0\0new", 0], record(), False, None),
        ([Change.REPLACE, b"\0\0new", 0], None, False, None),
        ([Change.REPLACE, b"\0\0new", 0], record(), True, b"\0\0new"),
        ([Change.CAS, b"\0\0new", 0, VERSION], record(), True, b"\0\0new"),
        ([Change.CAS, b"\0\0new", 0, bytes(16)], record(), False, None),
        ([Change.CAS, b"\0\0new", 0, VERSION], None, False, None),
        ([Change.TOUCH, 0], record(), True, TEXT),
        ([Change.TOUCH, 0], None, False, None),
        ([Change.INCR, 5, 10, 0], None, 15, b"\0\x0215"),
        ([Change.INCR, 5, None, 0], record(b"\0\x02-7"), -2, b"\0\x02-2"),
        ([Change.INCR, 5, None, 0], None, [Code.KEY_MISSING], None),
    ],
)
def test_what_an_update_makes_of_what_is_there(
    change: list[Any], held: bytes | None, answer: Any, content: bytes | None, coordinator: Coordinator
) -> None:
    assert compute(change, held, coordinator)[:2] == (answer, content)


@pytest.mark.parametrize(
    ("content", "delta"),
    [
        (TEXT, 1),
        (b"\0\x02", 1),
        (b"\0\x02abc", 1),
        (b"\0\x02" + b"9" * 21, 1),
        (b"\0\x02%d" % ((1 << 63) - 1), 1),
        (b"\0\x02%d" % -(1 << 63), -1),
    ],
)
def test_only_integers_of_64_bits_are_counted(content: bytes, delta: int, coordinator: Coordinator) -> None:
    answer, stored, _ = compute([Change.INCR, delta, 0, 0], record(content), coordinator)
    assert answer[0] == Code.NOT_A_NUMBER
    assert stored is None


def test_a_counter_keeps_its_expiry_and_the_others_get_a_new_one(coordinator: Coordinator) -> None:
    assert compute([Change.INCR, 1, None, 500], record(b"\0\x021"), coordinator)[2] == EXPIRES_MS
    assert compute([Change.INCR, 1, 0, 500], None, coordinator)[2] == coordinator.instant.wall_ms + 500
    assert compute([Change.TOUCH, 0], record(), coordinator)[2] == NEVER_MS
    assert compute([Change.REPLACE, TEXT, 700], record(), coordinator)[2] == coordinator.instant.wall_ms + 700


def test_errors_of_an_update_reach_the_caller() -> None:
    story = Story(3)
    story.set("text", "text")
    session = story.client.session
    with pytest.raises(NotANumber):
        story.call(session.incr("text", 1, 0, None, None))
    with pytest.raises(KeyMissing):
        story.call(session.incr("nothing", 1, None, None, None))


def test_an_update_runs_at_the_first_owner_whoever_is_asked() -> None:
    story = Story(4)
    first = story.owners("key")[0]
    core = first.core
    assert core is not None
    for number, host in enumerate(story.mesh.nodes.values()):
        client = story.at(host)
        assert story.mesh.call(client, client.session.incr("key", 1, 0, None, None)) == number + 1
        item = story.mesh.call(client, client.session.gets("key", None))
        assert item.version[8:] == core.boot.to_bytes(8, "big"), "the first owner stamped it"


def test_an_update_is_passed_on_once_only() -> None:
    story = Story(3)
    first, second = story.owners("key")
    core = second.core
    assert core is not None
    deadline_ms = core.coordinator.instant.wall_ms + 1000
    update = m.Update(7, core.boot, deadline_ms, b"", 0, 0, 1, [b"key"], [[int(Change.INCR), 1, 0, 0]])
    core.receive_request(b"peer", encode_frame(0, [update]), second.clock())
    core.tick(second.clock())
    ((origin, frame),) = core.drain().replies
    assert origin == b"peer"
    assert decode_frame(frame)[1] == [m.Reply(7, core.view.digest, [[int(Code.NOT_READY)]])]
    assert story.held("key")[first.name] is None


def test_an_update_whose_answer_is_lost_is_an_error_and_not_repeated() -> None:
    story = Story(4)
    first, second = story.owners("n")
    outsider = next(host for host in story.mesh.nodes.values() if host not in (first, second))
    client = story.at(outsider)
    assert story.mesh.call(client, client.session.incr("n", 1, 0, None, None)) == 1
    story.mesh.network.cut(first.name, outsider.name)
    with pytest.raises(MeshcacheError):
        story.mesh.call(client, client.session.incr("n", 1, 0, None, 0.5))
    story.mesh.network.heal()
    story.mesh.run(0.5)
    assert story.get("n", story.at(first)) == 2


def test_a_touch_keeps_the_value_and_sets_when_it_expires() -> None:
    story = Story(3)
    story.set("k", "value")
    session = story.client.session
    before = story.call(session.gets("k", None))
    assert story.call(session.touch("k", 30.0, None)) is True
    after = story.call(session.gets("k", None))
    assert (after.value, after.version > before.version) == ("value", True)
    assert 29 < after.ttl <= 30
    assert story.call(session.touch("missing", 30.0, None)) is False


@pytest.mark.parametrize("written", ["new", None], ids=["set", "delete"])
def test_a_touch_does_not_undo_what_it_has_not_seen(written: str | None) -> None:
    story = Story(2, LOOSE)
    story.set("k", "old")
    story.mesh.run(2.0)
    first, second = story.owners("k")
    story.mesh.cut([first.name])
    here, there = story.at(first), story.at(second)
    if written is None:
        story.mesh.call(there, there.session.delete("k", None))
    else:
        story.set("k", written, there)
    story.mesh.run(0.1)
    assert story.mesh.call(here, here.session.touch("k", 100.0, None)) is True, "it sees the old value only"
    story.mesh.network.heal()
    story.mesh.settle()
    story.mesh.wait_for(lambda: story.get("k", here) == written and story.get("k", there) == written)
    story.mesh.run(3.0)
    assert (story.get("k", here), story.get("k", there)) == (written, written)


def test_when_all_nodes_are_leaving_nothing_is_acknowledged_that_nobody_keeps() -> None:
    story = Story(2)
    story.set("k", "old")
    session = story.client.session
    ends: list[Any] = []
    for host in story.mesh.nodes.values():
        host.retire()
    story.mesh.run(0.01)
    assert all(host.core is not None and not host.core.gone for host in story.mesh.nodes.values())
    for flow in (session.incr("n", 1, 0, None, 0.3), session.set("k", "new", None, 0.3), session.get("k", None, 0.3)):
        story.client.run(flow, lambda result, error, _: ends.append(error or result))
    story.mesh.wait_for(lambda: len(ends) == 3)
    assert all(isinstance(end, MeshcacheError) for end in ends), ends


def test_updates_of_a_key_that_must_be_read_first_wait_for_each_other() -> None:
    story = Story(4, STRICT)
    client = story.at(story.owners("n")[0])
    results: list[Any] = []
    for _ in range(20):
        client.run(client.session.incr("n", 1, 0, None, 5.0), lambda result, error, _: results.append(result or error))
    story.mesh.wait_for(lambda: len(results) == 20)
    assert sorted(results) == list(range(1, 21))


def test_a_batch_answers_each_key_by_itself() -> None:
    story = Story(4)
    story.set("text", "text")
    for host in story.mesh.nodes.values():
        core = host.core
        assert core is not None
        keys = [b"text", f"n {host.name}".encode(), b"missing"]
        changes: list[list[Any]] = [[int(Change.INCR), 1, initial, 0] for initial in (0, 41, None)]
        deadline_ms = core.coordinator.instant.wall_ms + 1000
        update = m.Update(7, core.boot, deadline_ms, b"", 0, 0, 0, keys, changes)
        answers: list[list[Any]] = []
        updates = core.requests._updates
        UpdateBatch(updates, update, core.coordinator.instant.now + 1.0, answers.append).start()
        story.mesh.wait_for(lambda answers=answers: bool(answers))  # type: ignore[misc]  # bound at once
        (results,) = answers
        assert results[0][0] == Code.NOT_A_NUMBER
        assert results[1] == 42
        assert results[2] == [Code.KEY_MISSING]
