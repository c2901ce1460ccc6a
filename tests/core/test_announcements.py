"""What nodes publish: every change with the version that it has, also where nobody acknowledged it."""

from __future__ import annotations

import pytest
from story import DEFAULT, STRICT, Story

from meshcache.core import frames
from meshcache.protocol.messages import EventKind, Invalidations
from meshcache.protocol.wire import decode_frame


class Ear:
    """Hears every stream, and checks the numbers."""

    name = "ear"

    def __init__(self, story: Story) -> None:
        self.events: list[tuple[str, EventKind, bytes, list[bytes]]] = []
        self.numbers: dict[str, int] = {}
        network = story.mesh.network
        network.subscribe(self, [host.config.node.publish_address for host in story.mesh.nodes.values()])

    def on_stream(self, frame: bytes) -> None:
        for message in decode_frame(frame)[1]:
            assert isinstance(message, Invalidations)
            before = self.numbers.get(message.node_id, message.sequence - bool(message.events))
            assert message.sequence == before + bool(message.events)
            self.numbers[message.node_id] = message.sequence
            self.events += [(message.node_id, EventKind(e.kind), e.version, e.keys) for e in message.events]

    def of(self, key: str) -> list[tuple[EventKind, bytes]]:
        return [(kind, version) for _, kind, version, keys in self.events if key.encode() in keys]


def versions(story: Story, key: str) -> set[bytes]:
    records = [host.core.store.peek(key.encode()) for host in story.owners(key) if host.core is not None]
    return {record[:16] for record in records if record is not None}


def test_each_change_is_announced_with_the_version_that_it_has() -> None:
    story = Story(cluster=DEFAULT)
    ear = Ear(story)
    session = story.client.session
    changes = [
        (session.set("k", 1, None, None), EventKind.SET),
        (session.set_many({"k": 2, "l": 2}, None, None), EventKind.SET),
        (session.incr("k", 1, 0, None, None), EventKind.SET),
        (session.touch("k", 60, None), EventKind.SET),
        (session.replace("k", 5, None, None), EventKind.SET),
        (session.delete("k", None), EventKind.DELETE),
        (session.add("k", 5, None, None), EventKind.SET),
        (session.delete_many(["k"], None, EventKind.INVALIDATE), EventKind.INVALIDATE),
    ]
    for flow, kind in changes:
        del ear.events[:]
        story.call(flow)
        story.mesh.run(0.1)
        (version,) = versions(story, "k")
        assert ear.of("k") == [(kind, version)]
    del ear.events[:]
    story.call(session.clear(None, "pre"))
    story.mesh.run(0.1)
    assert [(kind, keys) for _, kind, _, keys in ear.events] == [(EventKind.CLEAR, [b"pre"])]


def test_a_write_that_was_stamped_once_more_is_announced_with_its_last_stamp() -> None:
    story = Story(cluster={**STRICT, "write_quorum": 3, "read_quorum": 1})
    story.set("other", 1)
    newer = story.put(story.owners("k")[1], "k", "ahead", clock_ms=9_000)
    ear = Ear(story)
    story.call(story.client.session.set_many({"k": "v", "other": 2}, None, None))
    story.mesh.run(1.5)
    (version,) = versions(story, "k")
    assert version > newer
    assert ear.of("k")[0] == (EventKind.SET, version)
    assert ear.of("other")[0] == (EventKind.SET, next(iter(versions(story, "other"))))


@pytest.mark.parametrize(("value", "kind"), [("new", EventKind.SET), (None, EventKind.DELETE)])
def test_what_a_repair_replaces_is_announced_by_the_replica(value: str | None, kind: EventKind) -> None:
    """As when a coordinator dies in the middle of a write: one replica has it, and nobody said so."""
    story = Story(cluster=STRICT)
    story.set("k", "old")
    ear = Ear(story)
    version = story.put(story.owners("k")[0], "k", value, clock_ms=9_000)
    assert story.get("k") == value
    story.mesh.run(1.0)
    announced = [(node_id, found) for node_id, found, at, keys in ear.events if at == version and keys == [b"k"]]
    assert announced
    assert {node_id for node_id, _ in announced} <= {host.name for host in story.owners("k")[1:]}
    assert {found for _, found in announced} == {kind}


def test_without_subscribers_the_numbers_go_on_and_nothing_is_encoded() -> None:
    story = Story()
    core = story.owners("k")[0].core
    assert core is not None
    core.note_subscribers(present=False)
    ear = Ear(story)
    for i in range(3):
        story.set("k", i)
    story.mesh.run(1.0)
    assert core.membership.own_id not in ear.numbers
    core.drain()
    core.note_subscribers(present=True)
    (frame,) = core.drain().publish  # told at once, and not when the next idle moment comes
    ear.on_stream(frame)
    assert ear.numbers[core.membership.own_id] >= 1


def test_a_turn_with_many_events_is_published_in_frames_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "EVENTS_PER_FRAME", 2)
    story = Story(nodes=1)
    ear = Ear(story)
    core = story.node("n1").core
    assert core is not None
    for i in range(5):
        core.coordinator.replica.publish(EventKind.SET, bytes(16), [b"k%d" % i])
    story.mesh.run(1.0)
    assert [keys for *_, keys in ear.events] == [[b"k%d" % i] for i in range(5)]
