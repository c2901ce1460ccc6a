"""meshcache/patterns/GUIDE.md is true, as README.md is: see test_readme.py for how claims are written.

Its Python blocks share their names, from the first to the last. A block marked ``py`` runs for ever, or needs what a
test has not, and is only checked by mypy, as if it were a module of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from test_readme import PATTERNS, ROOT, blocks, checked, code_spans, raised, shown

from meshcache import LocalMesh, patterns
from meshcache.local.processes import HOST
from meshcache.patterns import Limits, QueueStatistics

GUIDE: Final = PATTERNS.text
PROSE: Final = PATTERNS.prose


@pytest.fixture
def addresses() -> Iterator[dict[str, str]]:
    with LocalMesh(nodes=2) as mesh:
        yield {f"{HOST}:7101": mesh.addresses[0]}


@pytest.mark.process
def test_the_examples_do_what_they_say(
    addresses: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "guide", "_shown": shown, "_raised": raised}
    claims = 0
    for block in blocks("python", document=PATTERNS):
        code, count = checked(block, addresses)
        exec(code, names)
        claims += count
    assert claims > 10


def test_the_examples_are_typed(tmp_path: Path) -> None:
    together = "".join(block.text for block in blocks("python", document=PATTERNS))
    files = [tmp_path / "guide.py"]
    files[0].write_text(together)
    for number, block in enumerate(blocks("py", document=PATTERNS)):
        files.append(tmp_path / f"guide{number}.py")
        files[-1].write_text(block.text)
    assert len(files) > 1
    command = [sys.executable, "-m", "mypy", "--strict", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_diagrams_name_who_takes_part() -> None:
    diagrams = blocks("mermaid", document=PATTERNS)
    assert len(diagrams) >= 6
    for diagram in diagrams:
        first, *lines = [line.strip() for line in diagram.text.splitlines()]
        assert first == "sequenceDiagram"
        known = [match[1] for line in lines if (match := re.fullmatch(r"participant (\w) as [\w -]+", line))]
        for line in lines[len(known) :]:
            step = re.fullmatch(r"(?:(\w)->>(\w)|Note over (\w)(?:,(\w))?): .+", line)
            assert step, line
            assert {name for name in step.groups() if name} <= set(known), line


def test_what_is_named_exists() -> None:
    for name in code_spans(PROSE):
        if match := re.fullmatch(r"(scripts/\w+)( .*)?", name):
            assert (ROOT / match[1]).exists(), name
    for pattern in ("CacheAside", "InvalidateOnWrite", "ReadThrough", "WriteBehind", "WriteThrough"):
        assert hasattr(patterns, f"Async{pattern}")
        assert f"import {pattern}" in GUIDE
    for counter in re.findall(r"`statistics\(\)\.(\w+)`", PROSE):
        assert counter in QueueStatistics.__dataclass_fields__
    assert f"`Limits.attempts` ({Limits().attempts})" in GUIDE
