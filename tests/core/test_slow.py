"""Requests that took long are told once of a kind, with how many were left out."""

from __future__ import annotations

from typing import Any

import pytest
from story import STRICT, Story

from meshcache.core.operations.instant import Instant
from meshcache.core.operations.slow import KEYS_TOLD, TELL_AGAIN_S, SlowOperations
from meshcache.core.outbox import Outbox
from meshcache.errors import MeshcacheError
from meshcache.protocol import messages as m

ORIGIN = b"\x01\x02"


class Node:
    """What tells of slow requests, and its log."""

    def __init__(self, threshold_s: float = 1.0) -> None:
        self.instant = Instant(100.0, 0)
        self.outbox = Outbox()
        self.slow = SlowOperations(threshold_s, self.outbox, self.instant)

    def take(self, request: Any, seconds: float) -> list[tuple[str, dict[str, object]]]:
        """Answer a request that took so long; return what the log hears of it."""
        began = self.instant.now
        self.instant.move(began + seconds)
        self.outbox.clear()
        self.slow.look(ORIGIN, request, began)
        return self.outbox.notes


def get(number: int = 7, keys: int = 2) -> m.Get:
    return m.Get(number, 0, 0, b"", 0, 0, False, [b"key%d" % i for i in range(keys)])


def test_a_slow_request_is_told_with_its_number_and_without_its_keys() -> None:
    told, keys = Node().take(get(), 1.5)
    assert told == (
        "slow_operation",
        {"kind": "get", "seconds": 1.5, "keys": 2, "request": 7, "origin": "0102", "left_out": 0},
    )
    assert keys == ("slow_operation_keys", {"request": 7, "origin": "0102", "keys": ["key0", "key1"]})


def test_a_quick_request_is_not_told() -> None:
    node = Node()
    assert node.take(get(), 0.99) == []
    assert len(node.take(get(), 1.0)) == 2
    assert Node(float("inf")).take(get(), 60.0) == []


def test_repeats_are_counted_until_it_is_time_to_tell_again() -> None:
    node = Node()
    node.take(get(), 1.0)
    assert node.take(get(), 3.0) == []
    assert node.take(get(), 2.0) == []
    assert node.take(m.Clear(1, 0, 0, b"", b"p"), 1.0)[0][1]["kind"] == "clear", "another kind is told at once"
    node.instant.move(node.instant.now + TELL_AGAIN_S)
    (_, told), _ = node.take(get(), 1.0)
    assert (told["left_out"], told["longest_left_out_s"]) == (2, 3.0)


def test_no_more_than_some_keys_are_told() -> None:
    _, (_, told) = Node().take(get(keys=100), 1.0)
    assert isinstance(told["keys"], list)
    assert len(told["keys"]) == KEYS_TOLD


def test_a_caller_that_waits_for_another_to_compute_is_not_slow() -> None:
    parked = m.Update(1, 0, 0, b"", 0, 0, 0, [b"k"], [[int(m.Change.LEASE), 5000, b"", b"t"]])
    assert Node().take(parked, 3.0) == []
    added = m.Update(1, 0, 0, b"", 0, 0, 0, [b"k"], [[int(m.Change.ADD), b"v", 0]])
    assert len(Node().take(added, 3.0)) == 2


@pytest.mark.parametrize("operation", ["get", "set"])
def test_a_node_tells_of_operations_that_waited_for_silent_owners(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(Outbox, "note", lambda _, event, **fields: notes.append((event, fields)))
    story = Story(3, STRICT, log={"slow_operation_s": 0.2})
    first, *others = story.owners("key")
    client = story.at(first)
    story.get("key", client)
    for owner in others:
        owner.pause()
    call = (
        (lambda: story.get("key", client, timeout=0.5))
        if operation == "get"
        else (lambda: story.set("key", "value", client, timeout=0.5))
    )
    with pytest.raises(MeshcacheError):
        call()
    story.mesh.run(1.0)
    told = [fields for event, fields in notes if event == "slow_operation"]
    assert [(fields["kind"], fields["keys"]) for fields in told] == [(operation, 1)]
    assert 0.2 <= told[0]["seconds"] <= 0.5
