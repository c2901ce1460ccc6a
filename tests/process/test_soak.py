"""A soak of a minute: nothing that is counted grows, and a leak that is planted is found."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

SOAK = Path(__file__).parents[2] / "scripts" / "soak"
MINUTE = ("--minutes", "1", "--rate", "120", "--memory", "2000")
"""Within a minute no memory has settled: so much an hour is one that is lost at every call."""
SEEDS = (1, 2)
LEAKS = {"floors": "drops.floors", "descriptors": "descriptors", "memory": "resident_bytes"}


Soaked = tuple[int, dict[str, Any], str]
"""Its exit code, its findings and what it printed."""


def soak(file: Path, *options: str) -> Soaked:
    finished = subprocess.run(
        [sys.executable, str(SOAK), *options, "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert file.exists(), finished.stderr
    return finished.returncode, json.loads(file.read_text()), finished.stdout


def planted(folder: Path, leak: str) -> Soaked:
    memory = "100" if leak == "memory" else "2000"
    options = ("--minutes", "0.7", "--rate", "60", "--memory", memory, "--plant", leak)
    return soak(folder / f"{leak}.json", *options)


def test_within_a_minute_nothing_grows_and_no_answer_is_wrong(tmp_path: Path) -> None:
    """In a minute one table or another grows by chance: what really grows does so in both of two runs."""
    with ThreadPoolExecutor(len(SEEDS)) as pool:
        soaks = list(pool.map(lambda seed: soak(tmp_path / f"{seed}.json", *MINUTE, "--seed", str(seed)), SEEDS))
    grows = [{problem for problem in told["problems"] if problem.endswith(" grows")} for _, told, _ in soaks]
    assert not set.intersection(*grows), [shown for _, _, shown in soaks]
    for (code, told, shown), grown in zip(soaks, grows, strict=True):
        assert set(told["problems"]) == grown, shown
        assert code == bool(grown)
        judged = {finding["process"] for finding in told["findings"] if finding["decides"]}
        assert judged == {"node1", "threads", "asyncio"}
        assert sum(told["done"].values()) > 8
        for seen in told["answers"].values():
            assert seen["calls"] > 300
            assert seen["near_reads"] > 100
            assert seen["near_hits"] > 0
            assert seen["events"] > 100


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Soaked]:
    """One soak for each leak, at the same time: each takes most of a minute, and little of a processor."""
    folder = tmp_path_factory.mktemp("soaks")
    with ThreadPoolExecutor(len(LEAKS)) as pool:
        return dict(zip(LEAKS, pool.map(lambda leak: planted(folder, leak), LEAKS), strict=True))


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_that_is_planted_is_found(leaking: dict[str, Soaked], leak: str) -> None:
    code, told, shown = leaking[leak]
    assert code == 1
    assert f"node1: {LEAKS[leak]} grows" in told["problems"], shown
