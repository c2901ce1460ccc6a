"""Real processes that are stopped, killed and started again with their snapshots."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import meshcache
from meshcache.cli import main as cli
from meshcache.config import Config
from meshcache.errors import ConfigError, MeshcacheError
from meshcache.local.processes import find_base_port
from meshcache.node import snapshots

pytestmark = pytest.mark.process

DEADLINE_S = 60.0
COUNT = 2000
SNAPSHOT = {"enabled": True, "interval_s": 3600.0}
STORE = {"default_ttl_s": 600.0, "max_entries": 100_000}


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        pause.wait(0.02)
    return found


def counts(mesh: meshcache.LocalMesh, client: meshcache.Client, place: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = client.inspect("stats", node=mesh.addresses[place])["snapshots"]
    return told


def stop_all(mesh: meshcache.LocalMesh, number: int = signal.SIGTERM) -> None:
    for pid in mesh.pids.values():
        os.kill(pid, number)
    wait_for(lambda: not mesh.pids, "all nodes to end")


def start_all(mesh: meshcache.LocalMesh, client: meshcache.Client) -> None:
    """Start all, and wait until each has taken in what it found, or dropped it."""
    mesh.start()
    mesh.wait_ready(DEADLINE_S)
    places = range(len(mesh.addresses))
    wait_for(lambda: all(counts(mesh, client, place)["recall"] == "done" for place in places), "the recall")


class Load:
    """A client that writes and deletes until it is stopped, and knows what was acknowledged."""

    def __init__(self, mesh: meshcache.LocalMesh) -> None:
        self.last: dict[str, set[int | None]] = {}
        """By key what may be its value: of an acknowledged write that alone, after a failed one also that before."""
        self._stopped = threading.Event()
        self._client = mesh.client(timeout=1.0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopped.is_set():
            number += 1
            key, value = f"load{number % 50}", None if number % 7 == 0 else number
            before = self.last.get(key, {None})
            self.last[key] = before | {value}
            with suppress(MeshcacheError):
                if value is None:
                    self._client.delete(key)
                else:
                    self._client.set(key, value)
                self.last[key] = {value}

    def stop(self) -> dict[str, set[int | None]]:
        self._stopped.set()
        self._thread.join()
        return self.last


def test_a_mesh_that_is_stopped_under_load_comes_back_with_all_that_lives(tmp_path: Path) -> None:
    with meshcache.LocalMesh(3, data_dir=tmp_path, snapshot=SNAPSHOT, store=STORE) as mesh, mesh.client() as client:
        kept = {f"kept{i}": i for i in range(COUNT)}
        client.set_many(kept)
        client.set_many({f"page:{i}": i for i in range(100)})
        client.set_many({f"deleted{i}": i for i in range(100)})
        for i in range(20):
            client.set(f"tagged{i}", i, tags=["t"])
        client.set("short", 1, ttl=1.0)
        load = Load(mesh)
        client.delete_many([f"deleted{i}" for i in range(100)])
        client.namespace("page:").clear()
        client.invalidate_tags("t")
        wait_for(lambda: len(load.last) == 50, "the load")
        stop_all(mesh)
        last = load.stop()
        start_all(mesh, client)
        assert client.get_many(list(kept)) == kept
        assert list(tmp_path.rglob("*.snapshot"))
        assert not list(tmp_path.rglob("*.final.snapshot")), "these nodes have acknowledged more since"
        gone = [f"page:{i}" for i in range(100)] + [f"deleted{i}" for i in range(100)]
        assert client.get_many([*gone, *[f"tagged{i}" for i in range(20)]]) == {}
        found = client.get_many(list(last))
        wrong = {key: (found.get(key), may) for key, may in last.items() if found.get(key) not in may}
        assert not wrong
        assert sum(counts(mesh, client, place)["taken_in"] for place in range(3)) >= 2 * COUNT


def test_what_expired_while_all_were_down_is_gone(tmp_path: Path) -> None:
    with meshcache.LocalMesh(2, data_dir=tmp_path, snapshot=SNAPSHOT, store=STORE) as mesh, mesh.client() as client:
        client.set("short", 1, ttl=1.0)
        client.set("long", 1)
        ends_at = time.monotonic() + 1.3
        stop_all(mesh)
        wait_for(lambda: time.monotonic() > ends_at, "the end of a lifetime")
        start_all(mesh, client)
        assert client.get_many(["short", "long"]) == {"long": 1}
        assert sum(counts(mesh, client, place)["expired"] for place in range(2)) == 2


def test_one_node_that_is_killed_comes_back_with_what_the_others_have_by_then(tmp_path: Path) -> None:
    with meshcache.LocalMesh(3, data_dir=tmp_path, snapshot=SNAPSHOT, store=STORE) as mesh, mesh.client() as client:
        client.set_many({f"k{i}": "old" for i in range(COUNT)})
        for address in mesh.addresses:
            client.inspect("snapshot", node=address)
        wait_for(lambda: all(counts(mesh, client, place)["written"] for place in range(3)), "snapshots")
        # The three have just started: only after the time in which others may come back is it a mesh with a life.
        mesh.kill("node2")
        mesh.wait_ready()
        client.set_many({f"k{i}": "new" for i in range(0, COUNT, 2)})
        client.delete_many([f"k{i}" for i in range(1, COUNT, 2)])
        start_all(mesh, client)
        found = client.get_many([f"k{i}" for i in range(COUNT)])
        assert found == {f"k{i}": "new" for i in range(0, COUNT, 2)}


def test_a_node_killed_while_it_writes_uses_the_snapshot_before(tmp_path: Path) -> None:
    with meshcache.LocalMesh(1, data_dir=tmp_path, snapshot=SNAPSHOT, store=STORE) as mesh, mesh.client() as client:
        client.set_many({f"k{i}": i for i in range(COUNT)})
        client.inspect("snapshot", node=mesh.addresses[0])
        wait_for(lambda: counts(mesh, client)["written"] == 1, "a snapshot")
        new = tmp_path / "node1" / "0000000002.new"
        client.set_many({f"more{i}": bytes(1000) for i in range(20_000)})
        client.inspect("snapshot", node=mesh.addresses[0])
        wait_for(lambda: new.exists() and new.stat().st_size > 0, "the next one to be under way")
        mesh.kill("node1")
        assert new.exists(), "it was killed too late"
        start_all(mesh, client)
        assert len(client.get_many([f"k{i}" for i in range(COUNT)])) == COUNT
        assert not new.exists()


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "corrupt":
        data[len(data) // 2] ^= 0xFF
    elif how == "truncated":
        del data[-len(data) // 3 :]
    elif how == "foreign":
        data[:200] = os.urandom(200)
        del data[200:]
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(("how", "least"), [("corrupt", COUNT - 1001), ("truncated", COUNT // 2), ("foreign", 0)])
def test_a_damaged_file_loses_what_is_damaged_and_the_node_says_so(tmp_path: Path, how: str, least: int) -> None:
    one = {**SNAPSHOT, "keep": 1}
    with meshcache.LocalMesh(1, data_dir=tmp_path, snapshot=one, store=STORE) as mesh, mesh.client() as client:
        client.set_many({f"k{i}": i for i in range(COUNT)})
        stop_all(mesh, signal.SIGINT)
        (path,) = (tmp_path / "node1").glob("*.final.snapshot")
        damage(path, how)
        if how == "foreign":  # nothing is found, and nothing to be waited for
            mesh.start()
            mesh.wait_ready(DEADLINE_S)
        else:
            start_all(mesh, client)
        found = client.get_many([f"k{i}" for i in range(COUNT)])
        assert least <= len(found) < COUNT
        assert all(found[f"k{i}"] == i for i in range(COUNT) if f"k{i}" in found)
        log = mesh.log("node1")
        assert "snapshot_refused" in log if how == "foreign" else "snapshot_damaged" in log
        assert path.stem.partition(".")[0] in log


def config_of(directory: Path, port: int, **node: Any) -> Config:
    return Config.from_tables(
        node={"id": "n1", "listen": f"127.0.0.1:{port}", "data_dir": str(directory), **node}, snapshot=SNAPSHOT
    )


def test_two_processes_do_not_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "LOCK_WAIT_S", 0.1)
    port = find_base_port(2)
    with meshcache.Node(config_of(tmp_path, port)):
        second = meshcache.Node(config_of(tmp_path, port + 1, id="n2"))
        with pytest.raises(ConfigError, match=f"in use by another process .pid {os.getpid()}"):
            second.start()
    with meshcache.Node(config_of(tmp_path, port)):
        pass  # the lock went with the node


def test_a_node_serves_on_where_its_directory_can_not_be_used(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no directory")
    with meshcache.Node(config_of(in_the_way / "data", find_base_port(1))) as node, node.client() as client:
        client.set("k", 1)
        assert client.get("k") == 1
        told = wait_for(lambda: client.inspect("stats")["snapshots"], "counts")
        assert wait_for(lambda: client.inspect("stats")["snapshots"]["failures"], "a failure")
        client.inspect("snapshot")
        wait_for(lambda: "Not a directory" in client.inspect("stats")["snapshots"]["reason"], "the reason")
        assert told["written"] == 0


def test_a_directory_that_goes_away_is_made_again(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with meshcache.Node(config_of(directory, find_base_port(1))) as node, node.client() as client:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        client.inspect("snapshot")
        wait_for(lambda: client.inspect("stats")["snapshots"]["written"] == 1, "a snapshot")
        assert len(list(directory.glob("*.snapshot"))) == 1


def has_written(client: meshcache.Client, number: int) -> bool:
    return bool(client.inspect("stats")["snapshots"]["written"] == number)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    with meshcache.Node(config_of(tmp_path, find_base_port(1))) as node, node.client() as client:
        for number in range(1, 5):
            client.inspect("snapshot")
            wait_for(partial(has_written, client, number), "a snapshot")
        assert sorted(path.name for path in tmp_path.glob("*.snapshot")) == [
            "0000000003.snapshot",
            "0000000004.snapshot",
        ]


def test_the_command_has_a_snapshot_written_and_says_why_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with meshcache.Node(config_of(tmp_path, find_base_port(1))) as node:
        with node.client() as client:
            client.set("k", 1)
        assert cli.main(["snapshot", "--at", node.config.node.listen]) == 0
        assert "n1: 1 entries" in capsys.readouterr().out
        assert len(list(tmp_path.glob("*.snapshot"))) == 1
    off = Config.from_tables(node={"id": "n1", "listen": f"127.0.0.1:{find_base_port(1)}"})
    with meshcache.Node(off):
        assert cli.main(["snapshot", "n1", "--at", off.node.listen]) == 2
        assert "snapshot.enabled is false on n1" in capsys.readouterr().err
