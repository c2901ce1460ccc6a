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


def soak(file: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    finished = subprocess.run(
        [sys.executable, str(SOAK), *options, "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert file.exists(), finished.stderr
    return finished.returncode, json.loads(file.read_text()), finished.stdout


def test_within_a_minute_nothing_grows_and_no_answer_is_wrong(tmp_path: Path) -> None:
    code, told, shown = soak(tmp_path / "soak.json", *MINUTE)
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


def planted(folder: Path, leak: str) -> tuple[int, dict[str, Any], str]:
    memory = "100" if leak == "memory" else "2000"
    options = ("--minutes", "0.7", "--rate", "60", "--memory", memory, "--plant", leak)
    return soak(folder / f"{leak}.json", *options)


def test_leaks_that_are_planted_are_found(tmp_path: Path) -> None:
    """They are looked for at the same time: each takes most of a minute, and little of a processor."""
    with ThreadPoolExecutor(len(LEAKS)) as pool:
        found = dict(zip(LEAKS, pool.map(lambda leak: planted(tmp_path, leak), LEAKS), strict=True))
    for leak, (code, told, shown) in found.items():
        assert code == 1, leak
        assert f"node1: {LEAKS[leak]} grows" in told["problems"], shown
