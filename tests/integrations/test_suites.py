"""Our backends pass the tests that their frameworks have for backends.

Each suite runs in a process of its own, with the configuration of its project. They all begin at once: what they mostly
do is wait for values to expire.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from sdists import NoSdist, fetched

from meshcache import LocalMesh

SUITES: Final = Path(__file__).parent / "suites"
TIMEOUT_S: Final = 100.0
SLOW: Final = "time_intensive"
"""dogpile's mark of tests that sleep. Two of its suites are run with them; with a serializer they show no more."""


class Suite(NamedTuple):
    file: str
    project: str = ""
    """The package whose source distribution has the tests; empty: they are in the package itself."""
    only: str = ""
    tests_min: int = 1
    slow: bool = True

    def command(self, folder: Path | None) -> list[str]:
        config = (
            ["-c", str(folder / "pyproject.toml"), "-p", "conftest"]
            if folder
            else ["-c", os.devnull, "-o", f"markers={SLOW}"]
        )
        own = [f"--confcutdir={SUITES}", "--import-mode=importlib", "-p", "no:cacheprovider"]
        classes = [f"-k={self.only}"] if self.only else []
        classes += [] if self.slow else [f"-m=not {SLOW}"]
        return [sys.executable, "-m", "pytest", "-q", "-ra", *config, *own, *classes, str(SUITES / self.file)]


ALL: Final = {
    "cachelib": Suite("cachelib_suite.py", "cachelib", only="not SerializedCache", tests_min=40),
    "cachelib_serialized": Suite("cachelib_suite.py", "cachelib", only="SerializedCache", tests_min=40),
    "flask_caching": Suite("flask_caching_suite.py", "Flask-Caching", tests_min=13),
    "dogpile_generic": Suite("dogpile_suite.py", only="TestGeneric and not TestGenericWithLock", tests_min=24),
    "dogpile_with_lock": Suite("dogpile_suite.py", only="TestGenericWithLock or TestMutex", tests_min=34),
    "dogpile_serializer": Suite("dogpile_suite.py", only="TestSerializer", tests_min=24, slow=False),
}

Finished = Callable[[str], str]


@pytest.fixture(scope="module")
def finished() -> Iterator[Finished]:
    """Yield a function that returns what a suite printed."""
    with ExitStack() as stack:
        mesh = stack.enter_context(LocalMesh(2))
        running: dict[str, subprocess.Popen[str] | NoSdist] = {}
        for name, suite in ALL.items():
            try:
                folder = fetched(suite.project) if suite.project else None
            except NoSdist as error:
                running[name] = error
                continue
            seeds = f"mesh://{','.join(mesh.addresses)}/{name}:"
            environment = {**os.environ, "MESHCACHE_SEEDS": seeds, "PYTHONPATH": str(folder and folder / "tests")}
            running[name] = process = stack.enter_context(
                subprocess.Popen(
                    suite.command(folder),
                    cwd=folder or SUITES,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            stack.callback(process.kill)

        def wait(name: str) -> str:
            process = running[name]
            if isinstance(process, NoSdist):
                pytest.skip(str(process))
            return process.communicate(timeout=TIMEOUT_S)[0]

        yield wait


@pytest.mark.process
@pytest.mark.parametrize("name", ALL)
def test_the_suite_passes(name: str, finished: Finished) -> None:
    printed = finished(name)
    last = printed.strip().splitlines()[-1]
    counted = {what: int(count) for count, what in re.findall(r"(\d+) (\w+)", last.partition(" in ")[0])}
    passed = counted.pop("passed", 0)
    counted.pop("deselected", None)
    assert not counted, printed
    assert passed >= ALL[name].tests_min, printed
