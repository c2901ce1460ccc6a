"""The code of other commits, so that processes of two versions can be started beside each other."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
_GIT_TIMEOUT_S: Final = 60.0


class NoSuchCommit(Exception):
    """The commit is not in this copy of the repository; the text says how to get it."""


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """Yield a folder with the package as it was at a commit, for ``running``; it is gone afterwards."""
    packed = _git("archive", "--format=tar", f"{commit}^{{commit}}", "meshcache")
    if packed.returncode:
        why = packed.stderr.decode(errors="replace").strip()
        raise NoSuchCommit(
            f"there is no code of {commit} here ({why}): git fetch --unshallow, in a clone of the whole repository"
        )
    with tempfile.TemporaryDirectory(prefix="meshcache-tree-") as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
            files.extractall(folder, filter="data")
        tree = Path(folder).resolve()
        with running(tree):
            found = subprocess.run(
                [sys.executable, "-c", "import meshcache; print(meshcache.__file__)"],
                capture_output=True,
                text=True,
                timeout=_GIT_TIMEOUT_S,
                check=True,
            )
        if not Path(found.stdout.strip()).is_relative_to(tree):
            raise RuntimeError(f"the code of {commit} is in {tree}, but {found.stdout.strip()} would run")
        yield tree


@contextmanager
def running(tree: Path | None) -> Iterator[None]:
    """Let processes that are started meanwhile run the code in this folder; None: that of this process."""
    if tree is None:
        yield
        return
    # PYTHONSAFEPATH keeps the folder that a process starts in out of its path: it may have the package, too.
    changed = {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    sys.path.insert(0, str(tree))  # what multiprocessing starts has the path of this process
    try:
        yield
    finally:
        sys.path.remove(str(tree))
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=_GIT_TIMEOUT_S, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 1, b"", b"git is not installed")
