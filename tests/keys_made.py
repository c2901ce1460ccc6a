"""Keys for tests: as the command makes them, in a directory of the test."""

from __future__ import annotations

from pathlib import Path

from meshcache.cli.main import main


def make_keys(directory: Path, *nodes: str, **clients: str) -> Path:
    """Make keys for nodes, and for clients with these rights (and, after a colon, a prefix); return their directory."""
    keys = directory / "keys"
    for node in nodes:
        assert main(["keygen", node, "--node", "--dir", str(keys)]) == 0
    for name, wanted in clients.items():
        rights, _, prefix = wanted.partition(" ")
        confined = ["--prefix", prefix] if prefix else []
        assert main(["keygen", name, "--rights", rights, "--dir", str(keys), *confined]) == 0
    return keys


def security(keys: Path, **settings: object) -> dict[str, object]:
    """Return the settings of nodes that use these keys."""
    return {"key_file": str(keys / "{id}.secret"), "allowed_keys_dir": str(keys / "allowed"), **settings}
