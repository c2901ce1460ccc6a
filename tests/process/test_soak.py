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


@pytest.fixture(scope="module")
def soaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Soaked]:
    """One honest soak, and one for each leak, at the same time: each takes a minute, and little of a processor."""
    folder = tmp_path_factory.mktemp("soaks")
    with ThreadPoolExecutor(1 + len(LEAKS)) as pool:
        honest = pool.submit(soak, folder / "honest.json", *MINUTE)
        found = dict(zip(LEAKS, pool.map(lambda leak: planted(folder, leak), LEAKS), strict=True))
        return found | {"": honest.result()}


def test_within_a_minute_nothing_grows_and_no_answer_is_wrong(soaks: dict[str, Soaked]) -> None:
    code, told, shown = soaks[""]
    assert told["problems"] == [], shown
    assert code == 0
    judged = {finding["process"] for finding in told["findings"] if finding["decides"]}
    assert judged == {"node1", "threads", "asyncio"}
    assert sum(told["done"].values()) > 8
    for seen in told["answers"].values():
        assert seen["calls"] > 300
        assert seen["near_reads"] > 100
        assert seen["near_hits"] > 0
        assert seen["events"] > 100


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_that_is_planted_is_found(soaks: dict[str, Soaked], leak: str) -> None:
    code, told, shown = soaks[leak]
    assert code == 1
    assert f"node1: {LEAKS[leak]} grows" in told["problems"], shown
