"""What `up` writes of the logs of its nodes."""

from __future__ import annotations

import json

import pytest

from meshcache.local.log_lines import LogLines

FOR_PROGRAMS = LogLines(readable=False, coloured=False)
FOR_PEOPLE = LogLines(readable=True, coloured=False)

DEATH = json.dumps(
    {
        "event": "declared_dead",
        "level": "warning",
        "node_id": "node1",
        "member": "node2",
        "accusers": ["node1", "node3"],
        "link_lost": True,
        "timestamp": "2026-01-31T12:00:00.123456Z",
    }
)


def test_for_programs_every_line_is_json_with_the_node_in_it() -> None:
    told = json.loads(FOR_PROGRAMS.of_node("node1", DEATH))
    assert told == json.loads(DEATH)
    assert list(told)[:4] == ["timestamp", "level", "node_id", "event"]
    for text in (
        "Traceback (most recent call last):",
        "",
        "{",
        '{"no": "event"}',
        "[1]",
        "Assertion failed: ok (x.cpp:1)",
    ):
        line = FOR_PROGRAMS.of_node("node3", text)
        told = json.loads(line)
        assert (told["node_id"], told["event"], told["level"]) == ("node3", text, "error")
        assert "\n" not in line
        assert told["timestamp"].endswith("Z")
    told = json.loads(FOR_PROGRAMS.of_node("node3", "ready"))
    assert (told["event"], told["level"]) == ("ready", "info")
    told = json.loads(FOR_PROGRAMS.of_launcher("node2 has ended", node_id="node2", level="error"))
    assert (told["event"], told["node_id"], told["level"]) == ("node2 has ended", "node2", "error")
    assert "node_id" not in json.loads(FOR_PROGRAMS.of_launcher("all nodes have left"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"event": "member", "member": "node2", "state": "alive", "address": "h:1"}, "sees node2 at h:1"),
        ({"event": "member", "member": "node2", "state": "dead", "address": "h:1"}, "knows that node2 is dead"),
        ({"event": "ring", "members": ["node1", "node2"]}, "shares the keys with node2"),
        ({"event": "ring", "members": ["node1"]}, "shares the keys with nobody"),
        (
            {"event": "evicting", "entries": 2288, "limit": "store.max_entries", "limit_is": 10_000, "advice": "x"},
            "is full and dropped 2,288 entries: raise store.max_entries (now 10,000)",
        ),
        ({"event": "too_few_nodes", "nodes": 2, "replicas": 3}, "sees 2 of the 3 nodes that cluster.replicas wants"),
        ({"event": "something_new", "a": 1, "b": ["x"]}, "something_new a=1 b=['x']"),
        ({"event": "evicting"}, "evicting"),
        ({"event": "member", "member": "n", "state": "odd"}, "member member=n state=odd"),
    ],
)
def test_for_people_an_event_is_a_sentence(fields: dict[str, object], says: str) -> None:
    text = json.dumps({"level": "info", "timestamp": "2026-01-31T12:00:00Z", **fields})
    line = FOR_PEOPLE.of_node("node1", text)
    assert line[2:6:3] == "::"
    assert line[8:] == f"  node1  {says}"


def test_what_is_no_event_is_shown_as_it_is() -> None:
    assert FOR_PEOPLE.of_node("node2", "Assertion failed").endswith("  node2  Assertion failed")
    fails = json.dumps({"event": "node_failed", "level": "error", "exception": "Traceback\n  line", "timestamp": "?"})
    assert FOR_PEOPLE.of_node("node2", fails).splitlines() == [
        "--:--:--  node2  node_failed",
        "    Traceback",
        "      line",
    ]


def test_a_death_stands_out_and_nodes_have_colours_of_their_own() -> None:
    coloured = LogLines(readable=True, coloured=True)
    assert "\x1b[1;31mdeclares node2 dead\x1b[0m" in coloured.of_node("node1", DEATH)
    ended = coloured.of_launcher("node2 was ended by SIGKILL", node_id="node2", level="error")
    assert "\x1b[1;31mnode2 was ended by SIGKILL\x1b[0m" in ended
    calm = json.dumps({"event": "leaving", "level": "info", "timestamp": "2026-01-31T12:00:00Z"})
    first, second = (coloured.of_node(node_id, calm) for node_id in ("node1", "node2"))
    assert "\x1b[36mnode1\x1b[0m" in first
    assert "\x1b[35mnode2\x1b[0m" in second
    assert first.count("\x1b[") == 2, "the name alone is coloured"
    assert "\x1b" not in FOR_PEOPLE.of_node("node1", DEATH)
