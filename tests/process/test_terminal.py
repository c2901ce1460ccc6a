"""The command line as people see it: a real mesh, a real pseudo-terminal, and a screen that a test can read."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pyte
import pytest

import meshcache
from meshcache.cli.counters import told_of
from meshcache.cli.report import flatten
from meshcache.local.processes import find_base_port
from meshcache.node import server

pytestmark = pytest.mark.process

DEADLINE_S = 60.0
COLUMNS = 9
MESHCACHE = (sys.executable, "-m", "meshcache")
LEAVES_SCREEN = b"\x1b[?1049l"
SHOWS_CURSOR = b"\x1b[?25h"


class Terminal:
    """A program in a pseudo-terminal of its own."""

    def __init__(self, command: Sequence[str], columns: int = 80, rows: int = 24) -> None:
        self.written = b""
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.execve(command[0], [*command], os.environ | {"TERM": "xterm-256color"})
        self.settings = termios.tcgetattr(self._fd)
        self._status: int | None = None

    def resize(self, columns: int, rows: int) -> None:
        self._screen.resize(rows, columns)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    def row(self, first: str) -> list[str]:
        """The cells of a node in the table, which has a figure or a dash in each column."""
        rows = [line.split() for line in self.lines if line.startswith(f"{first} ")]
        return next((row for row in rows if len(row) >= COLUMNS and row[1] != "is"), [])

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"not in time: {what}\n" + "\n".join(self.lines)
            if not self._read(min(left_s, 0.1)) and self._ended():
                assert condition(), f"the program has ended, and never: {what}\n" + "\n".join(self.lines)
                return

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return False
        try:
            found = os.read(self._fd, 65_536)
        except OSError:  # nobody has it open any more
            return False
        self.written += found
        self._stream.feed(found)
        return bool(found)

    def _ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None

    def exit_code(self) -> int:
        self.until(lambda: self._ended() and not self._read(0.0), "the end")
        assert self._status is not None
        return self._status

    def close(self) -> None:
        if not self._ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
def terminals() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(*command: str, **options: int) -> Terminal:
        opened.append(Terminal(command, **options))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


@pytest.fixture(scope="module")
def mesh() -> Iterator[meshcache.LocalMesh]:
    with meshcache.LocalMesh(nodes=3, snapshot={"enabled": True}) as mesh:  # so that there is something to count
        yield mesh


def at(mesh: meshcache.LocalMesh) -> tuple[str, str]:
    return "--at", ",".join(mesh.addresses)


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [*MESHCACHE, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr


def test_top_is_live_follows_keys_and_the_size_and_leaves_the_terminal_as_it_was(
    mesh: meshcache.LocalMesh, terminals: Callable[..., Terminal]
) -> None:
    with mesh.client() as client:
        client.set_many({f"k{i}": i for i in range(200)}, ttl=60)
        terminal = terminals(*MESHCACHE, "top", *at(mesh), "--every", "0.2")
        terminal.until(lambda: all(terminal.row(f"node{n}")[1:2] == ["alive"] for n in (1, 2, 3)), "three nodes")
        terminal.until(lambda: terminal.lines[-1].startswith("q quit"), "the last line")
        assert "PULLING" not in "\n".join(terminal.lines)

        def reads_are_shown() -> bool:
            client.get_many([f"k{i}" for i in range(200)])  # nodes look at a sample of the reads only
            return any(line.startswith("HOT KEY") for line in terminal.lines)

        terminal.until(reads_are_shown, "the keys read most")
    terminal.press("e")
    terminal.until(lambda: any("ENTRIES▼" in line for line in terminal.lines), "sorted by entries")
    terminal.press("r")
    terminal.until(lambda: any("ENTRIES▲" in line for line in terminal.lines), "the other way round")
    terminal.resize(140, 40)
    terminal.until(lambda: any("PULLING" in line for line in terminal.lines), "more columns")
    terminal.until(lambda: terminal.lines[39].startswith("q quit"), "the last line in its place")
    terminal.press("q")
    assert terminal.exit_code() == 0
    assert termios.tcgetattr(terminal._fd) == terminal.settings
    assert terminal.written.rindex(LEAVES_SCREEN) > 0
    assert terminal.written.rindex(SHOWS_CURSOR) > 0


BROKEN = """
import sys
from meshcache.cli import top
from meshcache.cli.main import main
def fail(*_):
    raise RuntimeError("planted")
if {drawn}:
    drawn = top.rich_frame
    top.rich_frame = lambda frame, height: drawn(frame, height) if not frame.rows else fail()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("end", "exit_code"),
    [("ctrl-c", 0), ("SIGTERM", 128 + signal.SIGTERM), ("SIGHUP", 128 + signal.SIGHUP), ("exception", 1)],
)
def test_top_restores_the_terminal_however_it_ends(
    mesh: meshcache.LocalMesh, terminals: Callable[..., Terminal], end: str, exit_code: int
) -> None:
    program = BROKEN.format(drawn=end == "exception")
    terminal = terminals(sys.executable, "-c", program, "top", *at(mesh), "--every", "0.2")
    if end != "exception":
        terminal.until(lambda: terminal.row("node1"), "the nodes")
        assert termios.tcgetattr(terminal._fd) != terminal.settings, "keys are read one by one"
    if end == "ctrl-c":
        terminal.press("\x03")
    elif end.startswith("SIG"):
        os.kill(terminal.pid, getattr(signal, end))
    assert terminal.exit_code() == exit_code
    assert termios.tcgetattr(terminal._fd) == terminal.settings
    assert LEAVES_SCREEN in terminal.written
    assert terminal.written.rindex(SHOWS_CURSOR) > terminal.written.index(b"\x1b[?25l")


def test_top_shows_a_silent_and_a_dead_node_at_once_and_without_figures(terminals: Callable[..., Terminal]) -> None:
    with meshcache.LocalMesh(nodes=3, snapshot={"enabled": True}) as mesh:  # so that there is something to count
        terminal = terminals(*MESHCACHE, "top", *at(mesh), "--every", "0.2")
        terminal.until(lambda: terminal.row("node2")[1:2] == ["alive"], "node2 alive")
        mesh.pause("node2")
        paused_at = time.monotonic()
        terminal.until(lambda: terminal.row("node2")[1:2] in [["silent"], ["suspect"], ["dead"]], "node2 silent")
        assert set(terminal.row("node2")[2:]) == {"-"}
        assert time.monotonic() - paused_at < 10.0
        assert terminal.row("node1")[1] == "alive"
        mesh.resume("node2")
        terminal.until(lambda: terminal.row("node2")[1:2] == ["alive"], "node2 is back")
        mesh.kill("node3")
        terminal.until(lambda: terminal.row("node3")[1:2] == ["dead"], "node3 dead")
        terminal.until(lambda: any("node3 is dead" in line[8:] for line in terminal.lines), "told as a change")
        for name in ("node1", "node2"):
            mesh.kill(name)
        terminal.until(lambda: any("no node answers since" in line for line in terminal.lines), "nobody answers")
        for name in ("node1", "node2", "node3"):
            assert set(terminal.row(name)[2:]) == {"-"}
        terminal.press("q")
        assert terminal.exit_code() == 0


def test_top_in_a_pipe_is_one_plain_table(mesh: meshcache.LocalMesh) -> None:
    code, out, err = run("top", *at(mesh), "--every", "0.1")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert out.count("NODE▲") == 1
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("node")] == [
        [f"node{n}", "alive"] for n in (1, 2, 3)
    ]
    code, out, err = run("top", *at(mesh), "--every", "0.1", "--once", "--json", "--sort", "ops")
    told = json.loads(out)
    assert sorted(node["node_id"] for node in told["nodes"]) == ["node1", "node2", "node3"]
    assert all(node["operations_per_s"] is not None for node in told["nodes"])


def test_without_rich_top_prints_plain_tables(mesh: meshcache.LocalMesh, terminals: Callable[..., Terminal]) -> None:
    program = "import sys; sys.modules['rich'] = None\n" + BROKEN.format(drawn=False).replace("from rich", "#")
    terminal = terminals(sys.executable, "-c", program, "top", *at(mesh), "--every", "0.1")
    terminal.until(lambda: terminal.written.count("NODE▲".encode()) >= 2, "two tables")
    assert b'pip install "meshcache[cli]"' in terminal.written
    terminal.press("\x03")
    assert terminal.exit_code() == 0


# Doctor


def findings(mesh: meshcache.LocalMesh) -> tuple[int, list[dict[str, str]]]:
    code, out, err = run("doctor", *at(mesh), "--json", "--timeout", "2")
    told = json.loads(out)
    assert told["verdict"] == ("ok", "warnings", "errors")[code], err
    return code, [finding for finding in told["findings"] if finding["severity"] in {"warning", "error"}]


def found(told: list[dict[str, str]], check: str, says: str) -> list[dict[str, str]]:
    return [finding for finding in told if finding["check"] == check and says in finding["what"]]


def wait_for_finding(mesh: meshcache.LocalMesh, check: str, says: str, code: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        exit_code, told = findings(mesh)
        if found(told, check, says) and exit_code == code:
            return
        assert time.monotonic() < deadline, (exit_code, told)


def test_doctor_of_a_mesh_that_is_well(mesh: meshcache.LocalMesh) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (told := findings(mesh)) != (0, []):
        assert time.monotonic() < deadline, told
    code, out, _ = run("doctor", *at(mesh))
    assert code == 0
    assert out.endswith("nothing is wrong\n")
    assert "6 connections from node to node are up" in out


def test_doctor_finds_a_low_limit_of_descriptors(mesh: meshcache.LocalMesh) -> None:
    before = resource.prlimit(mesh.pids["node2"], resource.RLIMIT_NOFILE)
    resource.prlimit(mesh.pids["node2"], resource.RLIMIT_NOFILE, (300, before[1]))
    try:
        wait_for_finding(mesh, "descriptors", "node2 may open 300 descriptors only", 1)
    finally:
        resource.prlimit(mesh.pids["node2"], resource.RLIMIT_NOFILE, before)


def test_doctor_finds_a_node_of_other_settings_and_with_another_clock(
    mesh: meshcache.LocalMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = SimpleNamespace(time=lambda: time.time() - 2, monotonic=time.monotonic, thread_time=time.thread_time)
    monkeypatch.setattr(server, "time", late)
    config = meshcache.Config.from_tables(
        node={"id": "node9", "listen": f"127.0.0.1:{find_base_port(1)}", "seeds": mesh.addresses},
        cluster={"name": cluster_of(mesh)},
        store={"max_entries": 77},
    )
    with meshcache.Node(config):
        wait_for_finding(mesh, "configuration", "store.max_entries differs: 10000 on node1", 1)
        _, told = findings(mesh)
        assert found(told, "clock", "the clock of node9 is 2.0 s behind the one here")
        assert found(told, "clock", "the clock of node9's machine was set by 2.0 s while it ran")


def cluster_of(mesh: meshcache.LocalMesh) -> str:
    with mesh.client() as client:
        return str(client.inspect("status")["cluster"])


def test_doctor_finds_a_node_that_was_killed_and_one_that_is_silent() -> None:
    with meshcache.LocalMesh(nodes=2) as mesh:
        mesh.kill("node2")
        wait_for_finding(mesh, "members", "node2 is dead", 2)
        wait_for_finding(mesh, "members", "cluster.replicas is 2, but 1 node is there", 2)
        mesh.start("node2")
        mesh.wait_ready()
        mesh.pause("node2")
        wait_for_finding(mesh, "members", "node2", 2)


# Counters


def test_every_counter_of_a_node_is_told_in_words(mesh: meshcache.LocalMesh) -> None:
    with mesh.client() as client:
        names = flatten(client.inspect("stats"))
    counted = [name for name, value in names.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    counted = [name for name in counted if not name.startswith(("settings.", "host.", "links.", "clock."))]
    assert len(counted) > 40
    assert [name for name in counted if told_of(name).group == "others"] == []


def test_stats_show_how_fast_counters_grow(mesh: meshcache.LocalMesh) -> None:
    process = subprocess.Popen(
        [*MESHCACHE, "stats", *at(mesh), "--every", "0.3", "--count", "100"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        with mesh.client() as client:
            lines = iter(process.stdout.readline, "")
            deadline = time.monotonic() + DEADLINE_S
            while True:
                client.set("k", 1)
                if any(line.startswith("requests of clients") and "/s" in line for line in (next(lines),)):
                    break
                assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
