"""The programs in scripts/: each teaches how to use it, from any directory and without an activated environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark.program import SUBCOMMANDS, main
from faults.program import SCENARIOS, WRITE_BEHIND

ROOT = Path(__file__).parents[2]
DOORS = ["bench", "chaos", "fuzz", "simulate", "soak"]
COMMANDS = [*DOORS, *(f"bench {name}" for name in SUBCOMMANDS), f"chaos {WRITE_BEHIND}"]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("meshcache/**/*.md"),
    *ROOT.glob("scripts/**/*.md"),
    *ROOT.glob("meshcache/**/*.py"),
]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """As whoever has activated nothing: with the Python that the environment was made with."""
    door, *arguments = command.split()
    python = Path(sys.base_prefix) / "bin" / "python3"
    environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    return subprocess.run(
        [python, ROOT / "scripts" / door, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_there_are_no_other_doors() -> None:
    found = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and os.access(path, os.X_OK)}
    assert found == {*DOORS, "run", "test", "wheels"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_teaches_by_examples(command: str, tmp_path: Path) -> None:
    if command == f"chaos {WRITE_BEHIND}":
        pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    done = run(f"{command} --help", tmp_path)
    assert done.returncode == 0, done.stderr
    examples = done.stdout.partition("\nexamples:\n")[2].partition("\n\n")[0]
    words = command if command != "bench against-peers" else "bench"
    assert len(re.findall(rf"^ +scripts/{words}\b", examples, re.MULTILINE)) >= 2, done.stdout


def test_a_measurement_runs_from_elsewhere(tmp_path: Path) -> None:
    done = run("bench ring --keys 100 --sets 10", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| 3 | meshcache |" in done.stdout


def test_without_a_subcommand_it_is_against_peers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    plain = capsys.readouterr().out
    assert main(["against-peers", "--list"]) == 0
    assert capsys.readouterr().out == plain
    assert "get_many" in plain


def test_an_unknown_subcommand_is_told_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hotkey"]) == 2
    told = capsys.readouterr().err
    assert "hotkey;" in told
    assert all(name in told for name in SUBCOMMANDS)


def test_commands_that_are_named_exist() -> None:
    known = {"bench": {*SUBCOMMANDS}, "chaos": {*SCENARIOS, WRITE_BEHIND}}
    found = [
        (path, *match)
        for path in DOCUMENTS
        for match in re.findall(r"`(?:\./)?scripts/(bench|chaos) ([a-z][\w-]*)", path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 8
    for path, door, name in found:
        assert name in known[door], f"{path}: scripts/{door} {name}"
