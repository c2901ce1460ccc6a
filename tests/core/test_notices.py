"""What a node tells whoever runs it: entries that went for a limit, and too few nodes for the copies wanted."""

from __future__ import annotations

import random
from typing import Any

import pytest
from story import Story

from meshcache.config import Config
from meshcache.core.node import NodeCore
from meshcache.core.operations import inspection
from meshcache.core.operations.notices import TELL_AGAIN_S, TOO_FEW_AFTER_S
from meshcache.core.outbox import Outbox
from meshcache.protocol.record import NEVER_MS, stamp

WALL_MS = 1_800_000_000_000
ONE_NODE = {"replicas": 1, "slots": 16, "vnodes": 8}


class Clocked:
    """A node without a network, on a clock that the test moves."""

    def __init__(self, **tables: Any) -> None:
        config = Config.from_tables(**{"cluster": ONE_NODE, **tables})
        self.now = 100.0
        self.core = NodeCore(config, boot=1, rng=random.Random(1), now=self.now, wall_ms=WALL_MS)
        self._written = 0

    def write(self, count: int, value_bytes: int = 10) -> None:
        for _ in range(count):
            self._written += 1
            version = (WALL_MS << 16 | self._written).to_bytes(8, "big") + bytes(8)
            record = stamp(version, NEVER_MS) + bytes(2 + value_bytes)
            self.core.store.merge([b"key %d" % self._written], [record], WALL_MS)

    def heard(self, event: str, seconds: float = 0.2) -> list[dict[str, object]]:
        """Let time pass; return what the log heard of an event."""
        found = []
        until = self.now + seconds
        while self.now < until:
            self.now += 0.05
            self.core.tick(self.now)
            found += [fields for name, fields in self.core.drain().notes if name == event]
        return found

    @property
    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = inspection.status(self.core.coordinator, self.core.requests.notices, ready=True)
        store: dict[str, Any] = told["store"]
        return store


def test_the_first_eviction_is_told_at_once_with_the_limit_and_what_to_set() -> None:
    node = Clocked(store={"max_entries": 100})
    node.write(100)
    assert node.heard("evicting") == []
    assert node.status["evicted_s_ago"] is None
    node.write(1)
    (told,) = node.heard("evicting")
    assert told["entries"] == 1
    assert (told["limit"], told["limit_is"]) == ("store.max_entries", 100)
    assert "raise it" in str(told["advice"])


def test_the_byte_limit_is_named_where_it_is_the_one() -> None:
    node = Clocked(store={"max_entries": 1000, "max_bytes": 100_000})
    node.write(12, value_bytes=10_000)
    (told,) = node.heard("evicting")
    assert (told["limit"], told["limit_is"]) == ("store.max_bytes", 100_000)


def test_a_value_that_no_store_can_hold_is_told_as_well() -> None:
    node = Clocked(store={"max_bytes": 10_000})
    node.write(1, value_bytes=9_990)
    (told,) = node.heard("evicting")
    assert (told["entries"], told["limit"]) == (1, "store.max_bytes")


def test_it_is_told_once_a_minute_at_most_and_nothing_is_left_out() -> None:
    node = Clocked(store={"max_entries": 100})
    told = []
    node.write(100)
    for _ in range(round(3 * TELL_AGAIN_S)):
        node.write(7)
        told += node.heard("evicting", 1.0)
    told += node.heard("evicting", TELL_AGAIN_S + 1)
    assert 3 <= len(told) <= 5
    assert sum(int(str(fields["entries"])) for fields in told) == 7 * round(3 * TELL_AGAIN_S)
    assert node.heard("evicting", 3 * TELL_AGAIN_S) == [], "and nothing more when it is over"


def test_status_says_how_full_the_store_is_and_when_it_evicted_last() -> None:
    node = Clocked(store={"max_entries": 100, "max_bytes": 1_000_000})
    node.write(130)
    node.heard("evicting", 9.0)
    status = node.status
    assert (status["entries"], status["max_entries"], status["evictions"]) == (100, 100, 30)
    assert (status["bytes"], status["max_bytes"]) == (node.core.store.statistics().bytes, 1_000_000)
    assert 8.5 < status["evicted_s_ago"] < 9.5


def test_too_few_nodes_are_told_when_that_lasts_and_so_is_the_end_of_it() -> None:
    node = Clocked(cluster={"replicas": 2})
    assert node.heard("too_few_nodes", TOO_FEW_AFTER_S - 0.5) == []
    (told,) = node.heard("too_few_nodes", 60.0)
    assert (told["nodes"], told["replicas"]) == (1, 2)
    assert Clocked(cluster={"replicas": 1}).heard("too_few_nodes", 60.0) == []


def notes(story: Story, event: str, seconds: float) -> list[str]:
    """Run a mesh; return which nodes noted an event."""
    heard: list[str] = []
    outboxes = {host.name: host.core.outbox for host in story.mesh.nodes.values() if host.core is not None}
    really = Outbox.note

    def note(outbox: Outbox, what: str, **fields: Any) -> None:
        heard.extend(name for name, one in outboxes.items() if one is outbox and what == event)
        really(outbox, what, **fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outbox, "note", note)
        story.mesh.run(seconds)
    return heard


def test_a_normal_start_tells_nothing_of_too_few_nodes() -> None:
    story = Story(3)
    notices = [host.core.requests.notices for host in story.mesh.nodes.values() if host.core is not None]
    assert not any(each._too_few for each in notices)
    assert notes(story, "too_few_nodes", 2 * TOO_FEW_AFTER_S) == []


def test_enough_nodes_end_the_complaint_at_every_node() -> None:
    story = Story(2, {**ONE_NODE, "replicas": 3, "write_quorum": 1})
    assert all(host.core is not None and host.core.requests.notices._too_few for host in story.mesh.nodes.values())
    story.mesh.add().start()
    heard = notes(story, "enough_nodes", 5.0)
    assert sorted(heard) == ["n1", "n2"], "the third was never without the others"
