"""Counters for people: in words and with units, zero rows hidden, with sums, and as rates."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_client import FakeClient
from surveys import answer

from meshcache.cli import commands
from meshcache.cli.counters import TOLD, bytes_text, counters_text, told_of
from meshcache.cli.main import main
from meshcache.cli.survey import NodeAnswer
from meshcache.local.terminal import Paint

PLAIN = Paint(enabled=False)
WORDS_MAX = 38
"""With four columns of figures, longer words would be cut at 80 columns."""


def node(node_id: str, at_s: float = 10.0, boot: int = 1, **sections: dict[str, Any]) -> NodeAnswer:
    return NodeAnswer({"node_id": node_id, "state": "alive"}, {"boot": boot}, sections, at_s=at_s)


def cells(text: str, words: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(words)]
    return [cell.strip() for cell in line[len(words) :].split("  ") if cell.strip()]


def test_words_units_sums_and_no_zero_rows() -> None:
    nodes = [
        node("node1", store={"hits": 1000, "misses": 0, "bytes": 1_500_000}, node={"longest_turn_ms": 3.25}),
        node("node2", store={"hits": 500, "misses": 0, "bytes": 500}, node={"longest_turn_ms": 12.0}),
    ]
    text = counters_text(nodes, None, PLAIN, 80)
    assert cells(text, "STORE") == ["node1", "node2", "all"]
    assert cells(text, "keys found") == ["1,000", "500", "1,500"]
    assert cells(text, "memory charged") == ["1.5 MB", "500 B", "1.5 MB"]
    assert cells(text, "longest turn of the loop") == ["3.2 ms", "12.0 ms", "12.0 ms"]
    assert "keys not found" not in text
    assert cells(counters_text(nodes, None, PLAIN, 80, everything=True), "keys not found") == ["0", "0", "0"]


def test_rates_of_what_grows_and_levels_as_they_are() -> None:
    before = [node("node1", 10.0, store={"hits": 100, "entries": 5, "misses": 7})]
    now = [node("node1", 12.0, store={"hits": 150, "entries": 9, "misses": 7})]
    text = counters_text(now, before, PLAIN, 80)
    assert cells(text, "keys found") == ["25/s"]
    assert cells(text, "entries") == ["9"]
    assert "keys not found" not in text
    started_anew = [node("node1", 12.0, boot=2, store={"hits": 3, "entries": 1})]
    assert "keys found" not in counters_text(started_anew, before, PLAIN, 80)


def test_a_counter_that_is_not_known_is_shown_under_its_name() -> None:
    text = counters_text([node("node1", fusion={"plasmas": 4})], None, PLAIN, 80)
    assert cells(text, "OTHERS") == ["node1"]
    assert cells(text, "fusion.plasmas") == ["4"]


def test_what_counts_nothing_is_not_among_the_counters() -> None:
    found = answer("node1")
    text = counters_text([found], None, PLAIN, 80, everything=True)
    assert "host" not in text
    assert "settings" not in text


def test_words_are_short_enough_and_told_apart() -> None:
    assert max(len(told.words) for told in TOLD.values()) <= WORDS_MAX
    told = [(told.group, told.words) for told in TOLD.values()]
    assert len(set(told)) == len(told)
    assert told_of("node.longest_work_ms.page_sent").words == "longest page sent"
    assert told_of("hints.waiting.node2").words == "writes kept for node2"
    assert told_of("breakers.open.node.2").words == "not asked now: node.2"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (448, "448 B"), (1_344, "1,344 B"), (1_000_000, "1 MB"), (12_500_000, "12.5 MB"), (8e9, "8 GB")],
)
def test_bytes_in_words(number: float, text: str) -> None:
    assert bytes_text(number) == text


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(commands, "open_client", lambda _: fake)
    return fake


def test_rates_are_shown_as_often_as_asked_for(client: FakeClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--every", "10ms", "--count", "3"]) == 0
    assert capsys.readouterr().out.count("in a second, over the last 0.01 s") == 3
    assert main(["stats", "--every", "10ms", "--count", "2", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["node1"]["store"]["hits"] for line in lines] == [1000, 1000]


def test_rates_of_hot_keys_are_refused(client: FakeClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--every", "1", "--hot"]) == 2
    assert "--every can not go with it" in capsys.readouterr().err
