"""The plugin for pytest, in runs of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURES = """
    import meshcache
    import pytest

    @pytest.fixture(scope="session")
    def mesh_options():
        return {"cluster": {"name": "tests"}}

    def test_first(cache, mesh):
        assert isinstance(mesh, meshcache.LocalMesh)
        assert len(mesh.pids) == 2
        assert cache.get("a") is None
        cache.set("a", 1)
        assert mesh.client().get("a") is None

    def test_second(cache, mesh):
        assert cache.get("a") is None
        cache.set("a", 2)
        assert cache.get("a") == 2
        cache.clear()

    class TestMesh:
        pids = None

        def test_it_begins(self, mesh):
            TestMesh.pids = mesh.pids

        def test_it_stays(self, mesh):
            assert mesh.pids == TestMesh.pids

    def test_it_has_its_options(mesh):
        assert mesh.client(cluster="tests").get("a") is None
"""
FAULTS = """
    def test_first(cache, mesh):
        cache.set("a", 1)
        assert cache.get("a") == 1
        assert DOWN("node1", mesh)

    def test_second(cache, mesh):
        cache.set("a", 1)
        assert cache.get("a") == 1
        assert not DOWN("node1", mesh)
        assert DOWN("node2", mesh)
"""
KILLED = """
    def DOWN(name, mesh):
        return name not in mesh.pids
"""
PAUSED = """
    from pathlib import Path

    def DOWN(name, mesh):
        return Path(f"/proc/{mesh.pids[name]}/stat").read_text().rpartition(")")[2].split()[0] == "T"
"""
UNUSED = """
    import sys

    import pytest

    @pytest.fixture
    def cache():
        return "its own"

    def test_the_fixture_of_a_project_comes_first(cache):
        assert cache == "its own"

    def test_nothing_is_imported():
        heavy = {"zmq", "msgpack", "structlog", "meshcache.client", "meshcache.local", "meshcache.config"}
        assert "meshcache.integrations.pytest_plugin" in sys.modules
        assert not heavy & set(sys.modules)
"""


def run(folder: Path, *texts: str, options: tuple[str, ...] = (), by_entry_point: bool = False) -> str:
    """Run a file of tests; return what pytest printed, and how it ended."""
    lines = [line.removeprefix("    ") for text in texts for line in text.splitlines()]
    (folder / "test_it.py").write_text("\n".join(lines))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    if not by_entry_point:  # the plugins of others take their time
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        command += ["-p", "meshcache.integrations.pytest_plugin"]
    command += [*options, "test_it.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return f"{done.stdout}{done.stderr}\nexit {done.returncode}"


@pytest.mark.process
def test_the_mesh_is_for_the_run_and_the_cache_for_the_test(tmp_path: Path) -> None:
    printed = run(tmp_path, FIXTURES, options=("--mesh-nodes=2",))
    assert "5 passed" in printed, printed


@pytest.mark.process
@pytest.mark.parametrize(("fault", "down"), [("kill", KILLED), ("pause", PAUSED)], ids=["kill", "pause"])
def test_a_fault_meets_one_node_after_the_other(tmp_path: Path, fault: str, down: str) -> None:
    printed = run(tmp_path, down, FAULTS, options=(f"--mesh-fault={fault}",))
    assert "2 passed" in printed, printed


def test_who_does_not_use_it_does_not_notice_it(tmp_path: Path) -> None:
    printed = run(tmp_path, UNUSED, by_entry_point=True)
    assert "2 passed" in printed, printed


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--mesh-nodes=1", "--mesh-fault=kill"), "needs a node that goes on: --mesh-nodes=2 at least"),
        (("--mesh-fault=explode",), "invalid choice: 'explode'"),
    ],
)
def test_what_makes_no_sense_is_said(tmp_path: Path, options: tuple[str, ...], error: str) -> None:
    printed = run(tmp_path, "    def test_it(cache): pass", options=options)
    assert error in printed
    assert not printed.endswith("exit 0")
