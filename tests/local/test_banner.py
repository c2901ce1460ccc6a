"""What `up` prints when the mesh is ready."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meshcache.config import Config
from meshcache.local import banner as under_test
from meshcache.local.banner import banner, typed_command

ADDRESSES = [f"127.0.0.1:{port}" for port in (7101, 7102, 7103)]


def told(nodes: int = 3, **tables: dict[str, object]) -> str:
    return " ".join(banner(ADDRESSES[:nodes], Config.from_tables(**tables)).split())


def test_the_limits_are_told() -> None:
    text = told()
    assert "A node holds up to 10,000 entries and 100MB (store.max_entries, store.max_bytes)" in text
    assert "so the mesh holds up to 15,000 keys, each on 2 nodes." in text
    assert "Keys live for 300 s, unless a write says otherwise" in text
    text = told(1, cluster={"replicas": 1}, store={"max_entries": 5, "default_ttl_s": float("inf")})
    assert "holds up to 5 keys." in text
    assert "Keys live for ever, unless" in text
    assert "warning" not in text


def test_too_few_nodes_are_told_at_once() -> None:
    text = told(2, cluster={"replicas": 3})
    assert "warning: cluster.replicas is 3, but the mesh has 2 nodes" in text
    assert "up to 10,000 keys, each on 2 nodes" in text


def test_it_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "typed_command", lambda: "meshcache")
    lines = banner(ADDRESSES, Config.from_tables(store={"max_entries": 10**9, "max_bytes": 10**12})).splitlines()
    assert max(map(len, lines)) <= 80


def test_an_address_is_named_where_it_is_not_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "typed_command", lambda: "meshcache")
    monkeypatch.delenv("MESHCACHE_SEEDS", raising=False)
    assert "\n    meshcache status\n" in banner(ADDRESSES, Config())
    assert "\n    meshcache status --at 127.0.0.1:7102\n" in banner(ADDRESSES[1:], Config())
    monkeypatch.setenv("MESHCACHE_SEEDS", "elsewhere:1")
    assert "\n    meshcache status --at 127.0.0.1:7101\n" in banner(ADDRESSES, Config())


def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, virtual: bool, script: bool = True) -> Path:
    """Pretend to run from an environment; return its directory of programs."""
    programs = tmp_path / "an env" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", *(["meshcache"] if script else [])):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setattr(sys, "prefix", str(programs.parent))
    monkeypatch.setattr(sys, "base_prefix", "/usr" if virtual else str(programs.parent))
    return programs


def test_from_a_virtual_environment_the_whole_path_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = environment(tmp_path, monkeypatch, virtual=True)
    for path in ("/usr/bin", str(programs)):  # activated or not: another terminal is not
        monkeypatch.setenv("PATH", path)
        assert typed_command() == f"'{programs}/meshcache'"


def test_the_plain_name_will_do_where_it_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = environment(tmp_path, monkeypatch, virtual=False)
    monkeypatch.setenv("PATH", str(programs))
    assert typed_command() == "meshcache"
    monkeypatch.setenv("PATH", "/usr/bin")
    assert typed_command() == f"'{programs}/meshcache'"


def test_a_link_to_a_virtual_environment_is_the_plain_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = environment(tmp_path, monkeypatch, virtual=True)
    local = tmp_path / "local"
    local.mkdir()
    (local / "meshcache").symlink_to(programs / "meshcache")
    monkeypatch.setenv("PATH", f"{local}:{programs}")
    assert typed_command() == "meshcache"


def test_without_a_script_python_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = environment(tmp_path, monkeypatch, virtual=True, script=False)
    assert typed_command() == f"'{programs}/python' -m meshcache"


def test_what_is_to_be_typed_works_anywhere(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{typed_command()} --version",
        shell=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("meshcache ")
