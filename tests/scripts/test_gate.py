"""scripts/bench --gate, with made-up results: what was lost since the release, and that nothing is written."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from benchmark import against_peers, gate
from benchmark.measure import Summary
from benchmark.memory import Memory
from benchmark.results import Results, RowResult
from benchmark.rows import ROWS

ROW = {row.name: row for row in ROWS}
SETTINGS = {"rounds": 7, "seconds": 0.2, "entries": 200_000}


def block(keys_per_s: float) -> Summary:
    return Summary(p50_us=1, p99_us=1, keys_per_s=keys_per_s, server_us_per_key=1, client_us_per_key=1)


def results(rates: dict[str, dict[str, float]], machine: str = "this one") -> Results:
    found = Results({"machine": machine}, dict(SETTINGS))
    for name, by_contestant in rates.items():
        blocks = {contestant: [block(rate)] * 3 for contestant, rate in by_contestant.items()}
        found.rows[name] = RowResult(ROW[name], blocks)
    return found


def release(**ratios: dict[str, float]) -> gate.Release:
    return gate.Release({"machine": "this one"}, dict(SETTINGS), ratios)


@pytest.mark.parametrize(("ours", "passes"), [(890, False), (910, True), (1200, True)])
def test_a_row_may_lose_a_tenth_and_no_more(ours: float, passes: bool) -> None:
    now = results({"get": {"meshcache": ours, "redis": 2000}})
    judgement = gate.judge({"get": {"redis": 0.5}}, gate.ratios_of(now), {"get"})
    assert judgement.passed is passes
    assert judgement.losses == {"get": pytest.approx(1 - ours / 1000)}


def test_it_says_which_row_lost_how_much() -> None:
    then = release(get={"redis": 0.5}, set={"redis": 0.4, "memcached": 0.2})
    now = results({"get": {"meshcache": 445, "redis": 1000}, "set": {"meshcache": 100, "redis": 250, "memcached": 500}})
    judgement = gate.judge(then.ratios, gate.ratios_of(now), {"get", "set"})
    text = gate.text(then, now, judgement)
    assert "LOST  get                        lost 11.0%     redis 0.50 -> 0.45" in text
    assert "ok    set " in text
    assert text.endswith("FAILED: 1 of 2 rows lost over 10%")


def test_a_machine_that_is_slower_has_lost_nothing() -> None:
    now = results({"get": {"meshcache": 100, "redis": 200}})
    assert gate.judge({"get": {"redis": 0.5}}, gate.ratios_of(now), {"get"}).losses == {"get": 0}


def test_one_peer_that_became_faster_does_not_decide_alone() -> None:
    peers = {"redis": 1000.0, "redis glide": 1000.0, "memcached": 1000.0}
    then = gate.ratios_of(results({"set": {"meshcache": 500, **peers}}))
    now = gate.ratios_of(results({"set": {"meshcache": 500, **peers, "redis glide": 4000}}))
    assert gate.judge(then, now, {"set"}).losses == {"set": 0}


def test_our_own_other_servers_are_no_peers() -> None:
    now = results({"mesh-get": {"mesh3": 500, "meshcache": 5000, "redis": 1000}})
    assert gate.ratios_of(now) == {"mesh-get": {"redis": 0.5}}


def test_memory_is_held_against_that_of_the_peers() -> None:
    now = results({})
    now.memory = {"meshcache": Memory(1000, 250.0, None), "redis": Memory(1000, 125.0, None)}
    judgement = gate.judge({"memory": {"redis": 0.6}}, gate.ratios_of(now), {"memory"})
    assert judgement.losses == {"memory": pytest.approx(1 / 6)}
    assert not judgement.passed


def test_a_row_that_is_missing_is_told() -> None:
    then = release(get={"redis": 0.5}, set={"redis": 0.4}, threads={"redis": 1.0})
    now = results({"get": {"meshcache": 500, "redis": 1000}, "async-64": {"meshcache": 1, "redis": 1}})
    judgement = gate.judge(then.ratios, gate.ratios_of(now), {"get", "set", "async-64"})
    assert judgement.missing == ["set"]  # nobody asked for "threads"
    assert judgement.new == ["async-64"]
    assert "missing: set: " in gate.text(then, now, judgement)
    assert "new: async-64: " in gate.text(then, now, judgement)


def test_to_have_compared_nothing_is_no_success() -> None:
    then = release(get={"redis": 0.5})
    judgement = gate.judge(then.ratios, {}, {"get"})
    assert not judgement.passed
    assert gate.text(then, results({}), judgement).endswith("FAILED: there was nothing to compare")


def test_another_machine_is_told() -> None:
    now = results({"get": {"meshcache": 500, "redis": 1000}}, machine="another one")
    then = release(get={"redis": 0.5})
    assert "on another machine (this one)" in gate.text(then, now, gate.judge(then.ratios, gate.ratios_of(now), ()))


@pytest.mark.parametrize("stored", [None, "{", '{"header": {}}', "[]"])
def test_without_figures_of_a_release_it_says_so(stored: str | None, tmp_path: Path) -> None:
    path = tmp_path / "release.json"
    if stored is not None:
        path.write_text(stored)
    with pytest.raises(gate.GateError, match="--keep-as-release"):
        gate.read(path)


class Bench:
    """The program, with rates that are made up instead of measured."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.rates: dict[str, dict[str, float]] = {}
        self.again: dict[str, dict[str, float]] = {}
        self.failed: list[str] = []
        monkeypatch.setattr(gate.read, "__defaults__", (folder / "release.json",))
        monkeypatch.setattr(gate.keep, "__defaults__", (folder / "release.json",))
        monkeypatch.setattr(against_peers, "run_all", self.run_all)
        monkeypatch.setattr(against_peers, "prepare_process", lambda: None)
        monkeypatch.setattr(against_peers, "measure_row", self.measure_row)

    def run_all(self, found: Results, rows: Any, options: Namespace, then: gate.Release | None = None) -> None:
        found.rows = results(self.rates).rows
        found.failed += self.failed
        if then is not None:
            against_peers.measure_again(found, against_peers.Fleet({}), then, options)

    def measure_row(self, row: Any, *_: Any) -> RowResult:
        once_more = {contestant: [block(rate)] * 3 for contestant, rate in self.again[row.name].items()}
        return RowResult(row, once_more)

    def __call__(self, *arguments: str) -> int:
        return against_peers.main([*arguments, "--out", str(self.folder / "out")])

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_the_gate_writes_nothing_and_fails_by_its_exit(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (bench.folder / "release.json").write_text(json.dumps(release(get={"redis": 0.5})._asdict()))
    before = bench.files()
    bench.rates = bench.again = {"get": {"meshcache": 440, "redis": 1000}}
    assert bench("--gate") == 1
    assert "LOST  get " in capsys.readouterr().out
    bench.rates = {"get": {"meshcache": 460, "redis": 1000}}
    assert bench("--gate") == 0
    assert bench.files() == before


def test_bad_luck_is_measured_again(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (bench.folder / "release.json").write_text(json.dumps(release(get={"redis": 0.5})._asdict()))
    bench.rates = {"get": {"meshcache": 300, "redis": 1000}}
    bench.again = {"get": {"meshcache": 500, "redis": 1000}}
    assert bench("--gate") == 0
    assert "once more, as it seems to have lost: get" in capsys.readouterr().err


def test_a_contestant_that_failed_does_not_pass_the_gate(bench: Bench) -> None:
    (bench.folder / "release.json").write_text(json.dumps(release(get={"redis": 0.5})._asdict()))
    bench.rates, bench.failed = {"get": {"meshcache": 500, "redis": 1000}}, ["set, redis: WrongValue"]
    assert bench("--gate") == 1


def test_without_a_release_nothing_is_measured(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--gate") == 2
    assert "--keep-as-release makes it" in capsys.readouterr().err


def test_what_is_kept_is_what_the_next_run_is_held_against(bench: Bench) -> None:
    bench.rates = {"get": {"meshcache": 500, "redis": 1000}}
    assert bench("--keep-as-release", "--json-only") == 0
    assert bench("--gate") == 0
    bench.rates = bench.again = {"get": {"meshcache": 445, "redis": 1000}}
    assert bench("--gate") == 1


def test_a_part_is_not_kept_as_a_release(bench: Bench) -> None:
    for part in (["--quick"], ["--only", "get"]):
        with pytest.raises(SystemExit):
            bench("--keep-as-release", *part)
    bench.failed = ["get, redis: WrongValue"]
    assert bench("--keep-as-release", "--json-only") == 1
    assert bench.files() == {}


def test_the_release_has_rows_that_are_measured() -> None:
    known = {*ROW, gate.MEMORY_ROW}
    assert gate.read().ratios.keys() <= known
    assert len(gate.read().ratios) > 20
