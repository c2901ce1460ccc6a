"""scripts/bench targets, with made-up results: every target finds its figure, and knows whether it is reached."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from benchmark import against_peers, near, target_table
from benchmark.gate import MEMORY_ROW
from benchmark.measure import Summary
from benchmark.memory import Memory
from benchmark.results import Results, RowResult
from benchmark.rows import ROWS
from benchmark.targets import HIT_RATIOS, NEAR, TARGETS, lines, verdicts

ROW = {row.name: row for row in ROWS}
NOT_ROWS = {NEAR, HIT_RATIOS, MEMORY_ROW}


def block(keys_per_s: float, us: float = 1.0) -> Summary:
    return Summary(p50_us=us, p99_us=us, keys_per_s=keys_per_s, server_us_per_key=us, client_us_per_key=us)


def made_up(ours: float, us: float = 0.1) -> Results:
    """All peers serve a thousand keys a second, and take 100 µs."""
    found = Results({"machine": "this one"}, {})
    for name in {target.row for target in TARGETS} - NOT_ROWS:
        first, *others = ROW[name].contestants
        blocks = {first: [block(ours, us)], **{other: [block(1000.0, 100.0)] for other in others}}
        found.rows[name] = RowResult(ROW[name], blocks)
    found.memory = {"meshcache": Memory(1000, us, None)}
    hits = {"meshcache near cache": us, "cachetools.LRUCache.get": 100.0}
    found.near_hit_ns = {"a str": hits, "a dict, same handling": hits}
    found.hit_ratios = [{"lru": 0.5, "s3fifo": 0.5 + ours / 1e6}, {"lru": 0.5, "s3fifo": 0.499}]
    return found


def test_targets_name_rows_that_there_are() -> None:
    assert {target.row for target in TARGETS} <= {*ROW, *NOT_ROWS}
    assert len({target.text for target in TARGETS}) == len(TARGETS)


def test_every_target_can_be_reached() -> None:
    assert [verdict.text for verdict in verdicts(made_up(1e6)) if verdict.passed is not True] == []


def test_every_target_can_be_missed() -> None:
    slow = made_up(0.001, 1e4)
    slow.hit_ratios = [{"lru": 0.5, "s3fifo": 0.49}]
    assert [verdict.text for verdict in verdicts(slow) if verdict.passed is not False] == []


def test_without_figures_there_are_no_verdicts() -> None:
    nothing = Results({}, {})
    assert {verdict.passed for verdict in verdicts(nothing)} == {None}
    assert lines(nothing) == []
    assert len(lines(nothing, also_unmeasured=True)) == len(TARGETS)


@pytest.mark.parametrize(("rate", "mark"), [(800, "ok"), (799, "missed")])
def test_a_line_says_what_was_measured_the_target_and_whether(rate: float, mark: str) -> None:
    found = Results({}, {})
    found.rows["get"] = RowResult(ROW["get"], {"meshcache": [block(rate)], "redis": [block(1000)]})
    line = next(line for line in lines(found) if "one get, rate against redis-py" in line)
    assert line.split() == [mark, *["one", "get,", "rate", "against", "redis-py", "0.80x", ">=", "0.8x"]]


def test_beside_several_peers_the_fastest_counts() -> None:
    found = Results({}, {})
    blocks = {"meshcache": [block(6000)], "redis": [block(1000)], "redis tuned": [block(2000)]}
    found.rows["async-64"] = RowResult(ROW["async-64"], blocks)
    (line,) = lines(found)
    assert "3.00x" in line


class Bench:
    """The program, with results that are made up instead of measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.results = made_up(1e6)
        self.selected: list[str] = []
        monkeypatch.setattr(against_peers, "run_all", self.run_all)
        monkeypatch.setattr(against_peers, "prepare_process", lambda: None)
        monkeypatch.setattr(near, "hits", lambda _: self.results.near_hit_ns)

    def run_all(self, found: Results, rows: Any, options: Namespace) -> None:
        self.selected = [row.name for row in rows]
        found.rows, found.memory, found.failed = self.results.rows, self.results.memory, self.results.failed


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_it_measures_what_the_targets_need(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert target_table.main([]) == 0
    assert set(bench.selected) == {target.row for target in TARGETS} - NOT_ROWS
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last == f"{len(TARGETS) - 2} reached, 0 missed, 2 without a figure"


def test_a_target_that_is_missed_fails(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.results.rows["get"].blocks["meshcache"] = [block(500)]
    assert target_table.main(["--only", "get"]) == 1
    assert bench.selected == ["get"]
    assert "missed  one get, rate against redis-py " in capsys.readouterr().out


def test_a_contestant_that_fails_fails(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.results.failed = ["get, redis: WrongValue"]
    assert target_table.main([]) == 1
    assert "failed: get, redis: WrongValue" in capsys.readouterr().err


def test_a_peer_that_is_left_out_is_told(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench.results.rows["async-64-tasks"]
    del result.blocks["redis glide"]
    result.skipped["redis glide"] = "not installed"
    assert target_table.main([]) == 0
    told = capsys.readouterr().out
    assert "left out redis glide of async-64-tasks: not installed" in told
    assert "-       64 asyncio tasks, rate against valkey-glide " in told


def test_hit_ratios_are_read(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "eviction.json"
    path.write_text(json.dumps([{"lru": 0.5, "s3fifo": 0.6}, {"lru": 0.5, "s3fifo": 0.49}]))
    assert target_table.main(["--hit-ratios", str(path)]) == 1
    told = capsys.readouterr().out
    assert "missed  s3fifo against lru at worst, points " in told
    path.write_text('[{"lru": 0.5}]')
    with pytest.raises(SystemExit, match="s3fifo"):
        target_table.main(["--hit-ratios", str(path)])


def test_a_name_that_no_target_needs(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert target_table.main(["--only", "no-such"]) == 2
    assert "no target needs a row of this name: no-such" in capsys.readouterr().err
