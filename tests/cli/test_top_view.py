"""What `top` shows of surveys: figures of this survey only, at every width; and how it is sorted."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from surveys import answer, silent, survey_of

from meshcache.cli.rates import figures_of
from meshcache.cli.survey import Survey
from meshcache.cli.top_view import (
    EVENTS_MAX,
    KEYS,
    Frame,
    History,
    Order,
    frame_of,
    lost_frame,
    rich_frame,
    text_of_frame,
)


def counted(**counters: int) -> dict[str, Any]:
    return {"stats": {"node": {"keys": counters.pop("keys", 1000)}, "store": counters}}


def drawn(frame: Frame, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height, force_terminal=False)
    console.print(rich_frame(frame, height))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def frame(found: Survey, before: Survey | None = None, width: int = 80) -> Frame:
    return frame_of(found, before, Order(), History(), width)


def row(shown: Frame, node_id: str) -> dict[str, str]:
    (cells,) = [cells for cells in shown.rows if cells[0].text == node_id]
    return {name.rstrip("▲▼"): cell.text for name, cell in zip(shown.headings, cells, strict=True)}


def test_rates_are_of_the_time_between_two_answers() -> None:
    before = survey_of(answer("node1", at_s=10.0, **counted(keys=1000, hits=100, misses=100, evictions=5, refused=1)))
    now = survey_of(answer("node1", at_s=12.0, **counted(keys=1500, hits=130, misses=110, evictions=9, refused=3)))
    (found,) = figures_of(now, before)
    assert (found.operations_per_s, found.hit_rate, found.evictions_per_s) == (250.0, 0.75, 3.0)
    assert found.memory_share == 0.5


def test_a_node_that_was_started_again_has_no_rates_yet() -> None:
    before = survey_of(answer("node1", at_s=10.0, **counted(keys=1000)))
    now = survey_of(answer("node1", at_s=12.0, status={"boot": 2}, **counted(keys=1500)))
    (found,) = figures_of(now, before)
    assert (found.operations_per_s, found.evictions_per_s) == (None, None)
    assert figures_of(now, None)[0].operations_per_s is None


def test_a_node_that_does_not_answer_has_a_state_and_no_figures() -> None:
    before = survey_of()
    now = survey_of(answer("node1", at_s=12.0), silent("node2"), silent("node3", "dead"))
    shown = frame(now, before)
    assert row(shown, "node1")["OPS/S"] == "0"
    for node_id, state in (("node2", "silent"), ("node3", "dead")):
        cells = row(shown, node_id)
        assert cells.pop("STATE") == state
        assert {text for name, text in cells.items() if name != "NODE"} == {"-"}
    said = [cell.text for cell in shown.said]
    assert "node2 does not answer: no answer in time" in said
    assert any(text.startswith("node3 is dead") for text in said)


def test_when_nobody_answers_no_figure_is_left_on_the_screen() -> None:
    shown = lost_frame(frame(survey_of(), survey_of()), "connection refused", 1_700_000_000.0)
    assert [row(shown, name)["STATE"] for name in ("node1", "node2", "node3")] == ["silent"] * 3
    text = text_of_frame(shown, 80)
    assert "no node answers since" in text
    assert not [word for word in text.split() if word.endswith("%")]
    assert text_of_frame(lost_frame(None, "refused", 0.0), 80)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_frame_fits_the_terminal(width: int) -> None:
    hot = [{"key": "user:" + "x" * 200, "reads": 5000, "hot": True}]
    names = ["node1", "node2", "node3"]
    now = survey_of(*(answer(name, at_s=12.0, hot=hot, stats={"node": {"longest_turn_ms": 12345.0}}) for name in names))
    shown = frame(now, survey_of(), width)
    for lines in (drawn(shown, width), text_of_frame(shown, width).splitlines()):
        assert max(map(len, lines)) <= width
        assert len(lines) <= 24
        text = "\n".join(lines)
        assert ("PULLING" in text) == (width >= 104)
        assert "…" in text
        assert " 50%" in text
    assert "q quit" in drawn(shown, width)[-1]


@pytest.mark.parametrize("height", [8, 10, 24])
def test_what_is_wrong_and_the_nodes_are_shown_first_where_there_is_little_room(height: int) -> None:
    hot = [{"key": f"k{i}", "reads": 100 - i, "hot": False} for i in range(20)]
    history = History()
    history.events.extend(f"event {i}" for i in range(EVENTS_MAX))
    now = survey_of(answer("node1", hot=hot), silent("node2"))
    lines = drawn(frame_of(now, None, Order(), history, 80), 80, height)
    assert len(lines) <= height
    assert "node2 does not answer" in "\n".join(lines)
    assert ("event 0" in "\n".join(lines)) == (height == 24)


def test_keys_sort_and_reverse() -> None:
    now = survey_of(
        answer("node1", stats={"store": {"entries": 5}}),
        answer("node2", stats={"store": {"entries": 9}}),
        silent("node3"),
    )
    order = Order()

    def names() -> list[str]:
        return [cells[0].text for cells in frame_of(now, None, order, History(), 80).rows]

    assert names() == ["node1", "node2", "node3"]
    order.press("e")
    assert names() == ["node2", "node1", "node3"]
    order.press("r")
    assert names() == ["node1", "node2", "node3"]
    for key in KEYS:
        order.press(key)
        assert names()[-1] == "node3"
    order.press("x")
    assert order.column == "evictions"


def test_what_changed_is_told_newest_first() -> None:
    history = History()
    history.note(survey_of())
    assert list(history.events) == []
    history.note(survey_of(answer("node1", status={"ring_digest": "bb"}), silent("node2", "dead")))
    told = [event.partition("  ")[2] for event in history.events]
    assert told == ["the ring has changed", "node3 is forgotten", "node2 is dead"]


def test_a_key_cannot_move_the_cursor() -> None:
    now = survey_of(answer("node1", hot=[{"key": "\x1b[2J\n", "reads": 9, "hot": False}]))
    assert "\x1b" not in "".join(drawn(frame(now)))
