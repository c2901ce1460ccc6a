"""Launching and supervising processes: first with small programs in the place of nodes, then with nodes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from meshcache.cli import main as cli
from meshcache.errors import ConfigError, MeshcacheError
from meshcache.local import launcher, supervisor
from meshcache.local.launcher import LocalMesh
from meshcache.local.log_lines import LogLines
from meshcache.local.processes import HOST, NodeProcess, ending_of, find_base_port, is_free, ports_of, why_divided
from meshcache.local.supervisor import RESTART_DELAY_MAX_S, Supervisor, restart_delay_s

DEADLINE_S = 60.0


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        pause.wait(0.02)
    return found


def wait_gone(pid: int) -> None:
    with suppress(ProcessLookupError):
        watched = os.pidfd_open(pid)
        try:
            assert select.select([watched], [], [], DEADLINE_S)[0], f"process {pid} is still there"
        finally:
            os.close(watched)


class StubNode(NodeProcess):
    """Runs a Python program in the place of a node."""

    def __init__(self, node_id: str, program: str) -> None:
        super().__init__(node_id, 1, [])
        self._program = program

    def _command(self, seeds: Sequence[str]) -> list[str]:
        return [sys.executable, "-S", "-c", self._program]


QUIETLY = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
FOREVER = QUIETLY + "print('here', flush=True); signal.pause()"


def supervise(
    monkeypatch: pytest.MonkeyPatch,
    programs: Sequence[str],
    until: Callable[[str], bool],
    *,
    settled: bool = False,
    readable: bool = True,
) -> tuple[int, str, str]:
    """Supervise programs until their output is as wanted, then send SIGTERM to ourselves."""
    out, log = io.StringIO(), io.StringIO()
    monkeypatch.setattr(supervisor, "why_unsettled", lambda *_: None if settled else "never")
    nodes = [StubNode(f"node{index + 1}", program) for index, program in enumerate(programs)]
    lines = LogLines(readable=readable, coloured=False)
    under_test = Supervisor(nodes, out=out, log=log, lines=lines, advice="advice")
    done = threading.Event()

    def stop() -> None:
        while not done.wait(0.01):
            if until(out.getvalue() + log.getvalue()):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        exit_code = under_test.run()
    finally:
        done.set()
        stopper.join()
    assert not any(node.running for node in nodes)
    return exit_code, out.getvalue(), log.getvalue()


def test_lines_of_nodes_get_their_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = tmp_path / "written"
    say = "print('one\\ntwo\\n' + 'x' * 200_000, end='', flush=True)"
    long = f"{QUIETLY}{say}; open({str(written)!r}, 'w').close(); signal.pause()"
    exit_code, out, log = supervise(
        monkeypatch, [FOREVER, long], lambda text: "node1  here" in text and "node2  two" in text and written.exists()
    )
    assert (exit_code, out) == (0, "")
    said = {line.partition("  ")[2] for line in log.splitlines()}
    assert {"node1  here", "node2  one", "node2  two", "node2  " + "x" * 200_000} <= said


def test_for_programs_all_but_the_advice_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    die = "import sys; print('last words'); sys.exit(3)"
    wanted = ("advice", "here", "exited with code 3")
    exit_code, out, log = supervise(
        monkeypatch, [FOREVER, die], lambda text: all(word in text for word in wanted), settled=True, readable=False
    )
    assert (exit_code, out) == (0, "ready\n")
    told = [json.loads(line) for line in log.splitlines() if line != "advice"]
    assert {("node1", "here"), ("node2", "last words")} <= {(each["node_id"], each["event"]) for each in told}
    assert any(each["level"] == "error" and "exited with code 3" in each["event"] for each in told)


def test_up_ends_when_all_nodes_have_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go = tmp_path / "go"
    leave = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"

    def until(text: str) -> bool:
        if "advice" in text:
            go.touch()
        return False

    exit_code, _, log = supervise(monkeypatch, [leave, leave], until, settled=True)
    assert exit_code == 0
    assert "node1 has left the mesh" in log
    assert "all nodes have left" in log


def test_ready_stands_alone_on_its_line_once_the_mesh_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, log = supervise(monkeypatch, [FOREVER], lambda text: "advice" in text, settled=True)
    assert out == "ready\n"
    assert "advice" in log.splitlines()


def test_a_node_that_aborts_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flag = tmp_path / "was here"
    abort_once = (
        f"import os, pathlib\nflag = pathlib.Path({str(flag)!r})\n"
        f"if not flag.exists():\n    flag.touch()\n    os.abort()\n{FOREVER}"
    )
    begin = time.monotonic()
    exit_code, _, log = supervise(monkeypatch, [abort_once], lambda text: "node1  here" in text)
    assert exit_code == 0
    assert re.search(r"node1 \(pid \d+\) was ended by SIGABRT; starting it again in 0\.1 s", log)
    assert time.monotonic() - begin < DEADLINE_S


def test_a_configuration_error_stops_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = [FOREVER, "import sys; print('meshcache: bad port'); sys.exit(2)"]
    exit_code, out, log = supervise(monkeypatch, programs, lambda _: False)
    assert (exit_code, out) == (2, "")
    assert log.index("node2  meshcache: bad port") < log.index("node2 can not start, for the reason above")


def test_a_settled_mesh_outlives_a_configuration_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go = tmp_path / "go"
    fail = f"import os, sys\nwhile not os.path.exists({str(go)!r}): pass\nsys.exit(2)"

    def until(text: str) -> bool:
        if "advice" in text:
            go.touch()
        return "exited with code 2; starting it again" in text

    assert supervise(monkeypatch, [fail], until, settled=True)[0] == 0


def test_a_node_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_GRACE_S", 0.2)
    stubborn = FOREVER.replace("SIG_DFL", "SIG_IGN")
    exit_code, _, log = supervise(monkeypatch, [stubborn], lambda text: "here" in text)
    assert exit_code == 0
    assert "node1 did not stop within 0 s and was killed" in log


def test_signal_handlers_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)]
    supervise(monkeypatch, [FOREVER], lambda text: "here" in text)
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)]
    assert after == before
    assert signal.set_wakeup_fd(-1) == -1


def test_restarts_slow_down() -> None:
    delays = [restart_delay_s(deaths) for deaths in range(12)]
    assert delays[:5] == [0.1, 0.1, 0.2, 0.4, 0.8]
    assert delays == sorted(delays)
    assert delays[-1] == restart_delay_s(10**6) == RESTART_DELAY_MAX_S


@pytest.mark.parametrize("paused", [False, True])
def test_a_child_ends_with_its_parent(paused: bool) -> None:
    child = (
        "import os, signal; from meshcache.local.lifeline import watch_parent; "
        "watch_parent(os.getppid(), lambda: os._exit(0)); print('up', flush=True); signal.pause()"
    )
    parent_program = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent_program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child_pid = int(parent.stdout.readline())
        if paused:
            os.kill(child_pid, signal.SIGSTOP)
        parent.kill()
        parent.wait()
        wait_gone(child_pid)


def test_a_child_whose_parent_is_gone_already_ends() -> None:
    program = (
        "import os, signal; from meshcache.local.lifeline import watch_parent; "
        "watch_parent(1 << 22, lambda: os._exit(7)); signal.pause()"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=DEADLINE_S, check=False).returncode == 7


def test_ports() -> None:
    assert ports_of(7101) == (7101, 7201, 7301)
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)
    base = find_base_port(3)
    assert base >= 10_000
    assert ports_of(base + 2)[-1] < 32_768


def test_how_a_process_ended() -> None:
    assert ending_of(3) == "exited with code 3"
    assert ending_of(-6) == "was ended by SIGABRT"
    assert ending_of(-99) == "was ended by signal 99"


def statuses(**changes: Any) -> dict[str, dict[str, Any]]:
    """Return what two nodes say that see each other; ``node1`` is what the first has wrong about the second."""
    second = {"node_id": "node2", "boot": 20, "state": "alive"} | changes
    members = [{"node_id": "node1", "boot": 10, "state": "alive"}, second]
    return {
        "node1": {"node_id": "node1", "boot": 10, "ready": True, "ring_digest": "aa", "members": members},
        "node2": {
            "node_id": "node2",
            "boot": 20,
            "ready": True,
            "ring_digest": "aa",
            "members": [members[0], {"node_id": "node2", "boot": 20, "state": "alive"}],
        },
    }


def test_a_mesh_is_settled_when_everybody_sees_everybody() -> None:
    assert why_divided(statuses()) is None
    assert why_divided(statuses(state="suspect")) == "node1 takes node2 for suspect"
    assert why_divided(statuses(boot=19)) == "node1 does not know node2 yet"
    assert why_divided(statuses(node_id="other")) == "node1 does not know node2 yet"
    not_ready = statuses()
    not_ready["node2"]["ready"] = False
    assert why_divided(not_ready) == "node2 is not ready"
    other_ring = statuses()
    other_ring["node2"]["ring_digest"] = "bb"
    assert why_divided(other_ring) == "the nodes' rings differ"
    assert why_divided({"node3": statuses()["node1"]}) == "node1 answers in the place of node3"


def test_a_mesh_is_settled_only_when_nobody_counts_on_who_is_gone() -> None:
    only_first = {"node1": statuses()["node1"]}
    assert why_divided(only_first, ["node2"]) == "node1 takes node2 for alive"
    for state, settled in (("suspect", False), ("dead", True), ("left", True)):
        assert (why_divided({"node1": statuses(state=state)["node1"]}, ["node2"]) is None) == settled


def test_mistakes_show_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="--nodes must be from 1 to 100, is 0"):
        launcher.up(0)
    with pytest.raises(ConfigError, match="--base-port must be from 1 to 65333 for 3 nodes, is 65400"):
        launcher.up(3, base_port=65_400)
    with pytest.raises(ConfigError, match=r"cluster\.replica: no such setting"):
        launcher.up(3, overrides=["cluster.replica=3"])
    with pytest.raises(ConfigError, match="nodes must be from 1 to 100, is 101"):
        LocalMesh(101)
    with pytest.raises(ConfigError, match=r"store\.max_entrys: no such setting; did you mean store\.max_entries"):
        LocalMesh(store={"max_entrys": 1})
    with pytest.raises(MeshcacheError, match="no node 'node1' in this mesh; there are: none yet"):
        LocalMesh().kill("node1")


# What follows starts nodes.


class Up:
    """A `meshcache up` in a process of its own; its output is collected line by line."""

    def __init__(self, base_port: int, *arguments: str, nodes: int = 3) -> None:
        self.base_port = base_port
        command = [sys.executable, "-m", "meshcache", "up", "--nodes", str(nodes), "--base-port", str(base_port)]
        self.process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._collect, args=(self.process.stdout, self.out)),
            threading.Thread(target=self._collect, args=(self.process.stderr, self.err)),
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _collect(stream: Any, lines: list[str]) -> None:
        # One by one: others look at them while they come in.
        for line in stream:
            lines += [line.rstrip("\n")]

    def wait_ready(self) -> None:
        wait_for(lambda: "ready" in self.out or self.process.poll() is not None, f"ready; so far: {self.err}")
        assert "ready" in self.out, self.err

    def children(self) -> dict[str, int]:
        """Return the process id of each node."""
        found = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            arguments: list[str] = []
            with contextlib.suppress(OSError):  # it has just ended
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if "--id" in arguments:
                found[arguments[arguments.index("--id") + 1]] = int(pid)
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def running_up(*arguments: str, nodes: int = 3) -> Iterator[Up]:
    up = Up(find_base_port(nodes), *arguments, nodes=nodes)
    try:
        up.wait_ready()
        yield up
    finally:
        up.close()


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_prints_ready_and_stops_all_on_a_signal(number: int) -> None:
    with running_up() as up:
        children = up.children()
        assert sorted(children) == ["node1", "node2", "node3"]
        assert up.out == ["ready"]
        up.process.send_signal(number)
        assert up.process.wait(DEADLINE_S) == 0
        for pid in children.values():
            wait_gone(pid)


@pytest.mark.process
def test_up_starts_a_killed_node_again_at_once() -> None:
    with running_up() as up:
        killed = up.children()["node2"]
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: up.children().get("node2", killed) != killed, "node2 is there again")
        ending = f"node2 (pid {killed}) was ended by SIGKILL; starting it again in 0.1 s"
        assert any(ending in line for line in up.err)


@pytest.mark.process
def test_no_node_outlives_a_killed_launcher() -> None:
    with running_up() as up:
        children = up.children()
        os.kill(children["node3"], signal.SIGSTOP)
        up.process.kill()
        for pid in children.values():
            wait_gone(pid)


@pytest.mark.process
def test_a_port_in_use_is_a_clear_error() -> None:
    base_port = find_base_port(2)
    with socket.socket() as taken:
        taken.bind((HOST, base_port + 1))
        taken.listen()
        command = [sys.executable, "-m", "meshcache", "up", "--nodes", "2", "--base-port", str(base_port)]
        up = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert (up.returncode, up.stdout) == (2, "")
        assert up.stderr.startswith(
            f"meshcache: in use by another program: port {base_port + 1} of 127.0.0.1; "
            "stop it or choose another --base-port: "
        )
        assert up.stderr.count("\n") == 1
        proposed = int(up.stderr.split()[-3])
        assert all(is_free(port) for index in range(2) for port in ports_of(proposed + index))
        command = [sys.executable, "-m", "meshcache", "node", "--id", "n", "--listen", f"{HOST}:{base_port + 1}"]
        node = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert (node.returncode, node.stdout) == (2, "")
        assert f"{base_port + 1}" in node.stderr
        with pytest.raises(ConfigError, match=str(base_port + 1)), LocalMesh(2, base_port=base_port):
            pass


@pytest.mark.process
def test_a_port_taken_by_a_mesh_of_ones_own_tells_of_it() -> None:
    with running_up("--set", "cluster.name=mine", nodes=2) as running:
        first = running.base_port
        for offset in (0, 1, -1, 100):  # the same, overlapping, and where the first one publishes
            with pytest.raises(ConfigError) as caught:
                launcher.up(2, base_port=first + offset)
            (text,) = caught.value.problems
            assert f"cluster 'mine' with 2 nodes at {HOST}:{first}, {HOST}:{first + 1}" in text
            assert f"`kill {running.process.pid}`" in text
            assert re.search(r"meshcache status --at 127\.0\.0\.1:\d+`", text)
            found = re.search(r"--base-port (\d+), which is free", text)
            assert found is not None
            assert all(is_free(port) for index in range(2) for port in ports_of(int(found[1]) + index))


@pytest.mark.process
def test_what_up_writes_into_a_pipe_is_json_but_for_the_banner() -> None:
    with running_up("--config", "configs/local.toml", nodes=2) as up:
        wait_for(lambda: any("Ctrl-C" in line for line in up.err), "the banner")
        os.kill(up.children()["node2"], signal.SIGKILL)
        wait_for(lambda: any("was ended by SIGKILL" in line for line in up.err), "the end of node2")
        told = [json.loads(line) for line in list(up.err) if line.startswith("{")]
        assert {each.get("node_id") for each in told} == {"node1", "node2"}
        banner = [line for line in list(up.err) if not line.startswith("{")]
        assert banner[0] == f"2 nodes at {HOST}:{up.base_port}, {HOST}:{up.base_port + 1}."
        assert banner[-1] == "Ctrl-C stops all nodes."
        typed = next(line.strip() for line in banner if " set " in line)
        done = subprocess.run(
            typed, shell=True, cwd="/", capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.process
def test_a_local_mesh_tries_other_ports_when_somebody_was_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    unlucky = find_base_port(2)
    bases = [unlucky, find_base_port(2)]
    monkeypatch.setattr(launcher, "find_base_port", lambda _: bases.pop(0))
    with socket.socket() as taken:
        taken.bind((HOST, unlucky + 1))
        taken.listen()
        with LocalMesh(2) as mesh:
            assert not bases
            assert f"{HOST}:{unlucky}" not in mesh.addresses


@pytest.mark.process
def test_one_node_in_the_foreground() -> None:
    port = find_base_port(1)
    command = [sys.executable, "-m", "meshcache", "node", "--id", "solo", "--listen", f"{HOST}:{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "ready\n"
        node.send_signal(signal.SIGTERM)
        assert node.wait(DEADLINE_S) == 0


@pytest.mark.process
def test_a_mesh_through_the_command_line(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        exit_code = cli.main(["--at", ",".join(mesh.addresses), *arguments])
        out, err = capsysbinary.readouterr()
        return exit_code, out.decode(), err.decode()

    with LocalMesh(nodes=3, cluster={"replicas": 3}, store={"max_entries": 1000}) as mesh:
        command = [
            sys.executable,
            "-m",
            "meshcache",
            "--at",
            mesh.addresses[0],
            "set",
            "greeting",
            "hello",
            "--ttl",
            "60",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert run("get", "greeting") == (0, "hello\n", "")
        assert run("get", "absent") == (1, "", "")
        assert run("add", "greeting", "other") == (1, "", "")
        assert run("incr", "visits", "5") == (0, "5\n", "")
        assert 0 < float(run("ttl", "greeting")[1]) <= 60
        assert run("touch", "greeting", "--ttl", "never") == (0, "", "")
        assert run("ttl", "greeting") == (0, "never\n", "")
        wait_for(lambda: run("status")[0] == 0, "all is well")
        assert len(run("ring")[1].splitlines()) == 4
        assert run("explain", "greeting")[1].count("bytes") == 3
        assert run("stats")[1].splitlines()[0].split() == ["REQUESTS", "node1", "node2", "node3", "all"]
        assert run("delete", "greeting") == (0, "", "")
        assert run("delete", "greeting") == (1, "", "")
        exit_code, out, err = run("bench", "--duration", "0.5", "--concurrency", "4", "--keys", "10")
        assert (exit_code, err) == (0, "")
        assert "operations a second" in out
        assert run("clear", "visits") == (0, "3 copies went, on all nodes together\n", "")
        mesh.kill("node3")
        wait_for(lambda: "node3 is dead: start it again" in run("status")[1], "node3 is declared dead")
        assert run("status")[0] == 1
        assert "node3 is dead: it can hand nothing over" in run("leave", "node3")[2]
        assert run("forget", "node2")[0] == 2
        assert run("forget", "node3")[0] == 0
        wait_for(lambda: run("status")[0] == 0, "all is well without node3")
        assert "node3" not in run("status")[1]
        mesh.start("node3")
        mesh.wait_ready()
        wait_for(lambda: run("status")[0] == 0 and "node3" in run("status")[1], "node3 is back, as new")


@pytest.mark.process
def test_a_local_mesh_does_what_a_test_asks_and_nothing_else() -> None:
    with LocalMesh(nodes=3) as mesh, ExitStack() as stack:
        cache = stack.enter_context(mesh.client())
        cache.set("k", "v")
        before = mesh.pids
        assert sorted(before) == ["node1", "node2", "node3"]
        mesh.kill("node2")
        assert sorted(mesh.pids) == ["node1", "node3"]
        mesh.wait_ready()
        assert cache.get("k") == "v"
        assert sorted(mesh.pids) == ["node1", "node3"]
        mesh.start("node2")
        mesh.wait_ready()
        assert mesh.pids["node2"] != before["node2"]
        mesh.pause("node3")
        assert Path(f"/proc/{mesh.pids['node3']}/stat").read_text().split()[2] == "T"
        mesh.resume("node3")
        mesh.restart("node1")
        assert mesh.add() == "node4"
        mesh.wait_ready()
        assert len(mesh.addresses) == 4
        cache.set("k", "w")
        assert cache.get("k") == "w"
        pids = mesh.pids
    for pid in pids.values():
        wait_gone(pid)


@pytest.mark.process
def test_a_node_that_ends_at_its_start_is_quoted() -> None:
    with LocalMesh(nodes=1) as mesh:
        with pytest.raises(MeshcacheError, match="node1 is running already"):
            mesh.start("node1")
        os.kill(mesh.pids["node1"], signal.SIGKILL)
        wait_for(lambda: not mesh.pids, "node1 is gone")
        with pytest.raises(MeshcacheError, match=r"node1 was ended by SIGKILL; the end of its log:\nready"):
            mesh.wait_ready()
