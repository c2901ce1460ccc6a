"""Keys for tests, benchmarks and fuzzing: as the command makes them, in a directory of the caller."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from meshcache.cli.main import main


def make_keys(directory: Path, *nodes: str, **clients: str) -> Path:
    """Make keys for nodes, and for clients with these rights (and, after a space, a prefix); return their directory.

    Raises RuntimeError if the command fails.
    """
    keys = directory / "keys"
    for node in nodes:
        _keygen(node, "--node", "--dir", str(keys))
    for name, wanted in clients.items():
        rights, _, prefix = wanted.partition(" ")
        confined = ["--prefix", prefix] if prefix else []
        _keygen(name, "--rights", rights, "--dir", str(keys), *confined)
    return keys


def security(keys: Path, **settings: object) -> dict[str, object]:
    """Return the settings of nodes that use these keys."""
    return {"key_file": str(keys / "{id}.secret"), "allowed_keys_dir": str(keys / "allowed"), **settings}


def _keygen(*arguments: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(["keygen", *arguments])
    if code:
        raise RuntimeError(f"keygen {' '.join(arguments)}: exit code {code}")
