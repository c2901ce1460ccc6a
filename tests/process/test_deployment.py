"""Nodes as a supervisor runs them: what systemd is told, names whose addresses change, and pods that roll."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

import private_names
import pytest
from test_node_http import ask
from test_server import free_port
from timing import DELAY_S_MAX, eventually

from meshcache import Client

pytestmark = pytest.mark.process

WATCHDOG_S: Final = 0.4
GRACE_S: Final = 40.0
"""terminationGracePeriodSeconds of a pod."""
BLOCKED_NODE: Final = """
import sys, threading, time
from meshcache.config import Config
from meshcache.node.node import Node
from meshcache.node.notify import Notifier
import os

notifier = Notifier.of_environment(os.environ)
node = Node(Config.from_tables(node={"id": "n1", "listen": f"127.0.0.1:{sys.argv[1]}"}))

def look():
    notifier.beat()
    if os.path.exists(sys.argv[2]):
        time.sleep(3600)

threading.Thread(target=lambda: [time.sleep(0.01) for _ in iter(int, 1)], daemon=True).start()
node.run(notifier.ready, look)
"""


class Supervisor:
    """The other side of the notify protocol."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10 + DELAY_S_MAX)

    @property
    def environment(self) -> dict[str, str]:
        watchdog = str(int(WATCHDOG_S * 1_000_000))
        return dict(os.environ, NOTIFY_SOCKET=str(self.path), WATCHDOG_USEC=watchdog)

    def wait(self, line: str) -> list[str]:
        """Return what is told until a message with this line comes, that one included."""
        told: list[str] = []
        while not told or line not in told[-1].splitlines():
            told.append(self.socket.recv(4096).decode())
        return told

    def hears_nothing(self, for_s: float = 3 * WATCHDOG_S) -> bool:
        """Tell whether nothing comes for so long, after what is queued."""
        self.socket.settimeout(for_s)
        with contextlib.suppress(TimeoutError):
            for _ in range(3):  # two beats may have been under way
                self.socket.recv(4096)
            return False
        self.socket.settimeout(10 + DELAY_S_MAX)
        return True


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path / "notify")
    yield made
    made.socket.close()


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def node_command(port: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "meshcache", "node", "--id", "n1", "--listen", f"127.0.0.1:{port}", *more]


def test_systemd_is_told_of_the_start_the_life_and_the_end(supervisor: Supervisor) -> None:
    port = free_port()
    with started(node_command(port), supervisor.environment) as process:
        told = supervisor.wait("READY=1")
        assert ask(port + 200, "/ready")[0] == 200
        assert set(told[:-1]) <= {"WATCHDOG=1"}
        for _ in range(5):
            supervisor.wait("WATCHDOG=1")
        process.send_signal(signal.SIGSTOP)
        assert supervisor.hears_nothing(), "a process that stands still does not live"
        process.send_signal(signal.SIGCONT)
        supervisor.wait("WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        assert supervisor.wait("STOPPING=1")[-1] == "STOPPING=1\nSTATUS=hands over what it holds"
        assert process.wait(20) == 0


def test_a_node_that_has_not_joined_is_not_ready(supervisor: Supervisor) -> None:
    port, seed = free_port(), "127.0.0.1:1"
    command = node_command(port, "--seed", seed, "--set", "membership.join_wait_s=3600")
    with started(command, supervisor.environment):
        told = [line for _ in range(4) for line in supervisor.wait("WATCHDOG=1")]
        assert told == ["WATCHDOG=1"] * 4


def test_a_loop_that_is_stuck_does_not_beat_though_other_threads_run(supervisor: Supervisor, tmp_path: Path) -> None:
    block = tmp_path / "block"
    port = free_port()
    with started([sys.executable, "-c", BLOCKED_NODE, str(port), str(block)], supervisor.environment):
        supervisor.wait("READY=1")
        supervisor.wait("WATCHDOG=1")
        block.touch()
        assert supervisor.hears_nothing()
        assert ask(port + 200, "/nothing")[0] == 404, "the thread of HTTP runs"


def test_a_node_of_a_launch_tells_its_launcher_and_not_systemd(supervisor: Supervisor) -> None:
    port = free_port()
    with started(node_command(port, "--parent-pid", str(os.getpid())), supervisor.environment):
        eventually(lambda: reached(port + 200, "127.0.0.1"))
        assert supervisor.hears_nothing()


def reached(port: int, host: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


# -- names -------------------------------------------------------------------------------------------------


class Pods:
    """The pods of a StatefulSet: ids and names that stay, addresses that change, and a name for all of them."""

    SERVICE: Final = "meshcache.test"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._names_file = folder / "names.json"
        self._log = (folder / "log").open("wb")
        self._addresses = (f"127.7.0.{number}" for number in itertools.count(1))
        self.at: dict[str, str] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        private_names.write(self._names_file, {self.SERVICE: []})
        self._environment = private_names.environment(self._names_file, folder)

    @property
    def service(self) -> str:
        return f"{self.SERVICE}:{self.port}"

    def resolve_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        private_names.install(self._names_file, monkeypatch)

    def _publish(self) -> None:
        names = {f"{pod}.{self.SERVICE}": [ip] for pod, ip in self.at.items()}
        private_names.write(self._names_file, {self.SERVICE: list(self.at.values()), **names})

    def start(self, pod: str) -> None:
        """Start a pod at an address that none had before."""
        ip = next(self._addresses)
        self.at[pod] = ip
        self._publish()
        command = [sys.executable, "-m", "meshcache", "node", "--id", pod, "--seed", self.service]
        command += ["--listen", f"{ip}:{self.port}", "--set", f"node.advertise={pod}.{self.SERVICE}:{self.port}"]
        self.processes[pod] = subprocess.Popen(command, env=self._environment, stdout=self._log, stderr=self._log)

    def wait_ready(self, pod: str) -> None:
        eventually(lambda: self._answers_ready(self.at[pod]), 30)

    def _answers_ready(self, ip: str) -> bool:
        with contextlib.suppress(OSError):
            return ask(self.port + 200, "/ready", host=ip)[0] == 200
        return False

    def end(self, pod: str, how: int = signal.SIGTERM) -> int:
        """End a pod; return the exit code of its process."""
        process = self.processes.pop(pod)
        process.send_signal(how)
        code = process.wait(GRACE_S)
        del self.at[pod]
        self._publish()
        return code

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._log.close()


@pytest.fixture
def pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pods]:
    made = Pods(tmp_path)
    made.resolve_here(monkeypatch)
    try:
        for number in range(3):
            made.start(f"pod-{number}")
        for pod in made.at:
            made.wait_ready(pod)
        yield made
    finally:
        made.close()


def members(cache: Client) -> dict[str, tuple[str, str]]:
    return {member["node_id"]: (member["state"], member["address"]) for member in cache.inspect("status")["members"]}


def all_alive(pods: Pods) -> dict[str, tuple[str, str]]:
    return {pod: ("alive", f"{pod}.{pods.SERVICE}:{pods.port}") for pod in pods.at}


def told_links(cache: Client, pod: str) -> dict[str, Any]:
    found: dict[str, Any] = cache.inspect("stats", node=pod)["links"]
    return found


def test_one_name_stands_for_all_seeds(pods: Pods) -> None:
    """Each started with the same seed, and they found each other."""
    with Client(pods.service) as cache:
        eventually(lambda: members(cache) == all_alive(pods))
        cache.set("key", "value")
        assert cache.get("key") == "value"
        addresses = {f"{ip}:{pods.port}" for ip in pods.at.values()}
        for pod in pods.at:
            eventually(lambda pod=pod: addresses <= set(told_links(cache, pod)))  # type: ignore[misc]


def test_a_node_that_was_killed_comes_back_at_another_address_under_its_id(pods: Pods) -> None:
    with Client(pods.service, timeout=20) as cache:
        cache.set_many({f"k{n}": n for n in range(100)}, ttl=None)
        before = pods.at["pod-1"]
        pods.end("pod-1", signal.SIGKILL)
        pods.start("pod-1")
        assert pods.at["pod-1"] != before
        pods.wait_ready("pod-1")
        eventually(lambda: members(cache) == all_alive(pods), 20)
        assert cache.get_many([f"k{n}" for n in range(100)]) == {f"k{n}": n for n in range(100)}


def test_a_node_that_binds_all_addresses_is_known_by_the_one_that_it_advertises(supervisor: Supervisor) -> None:
    port = free_port()
    command = [sys.executable, "-m", "meshcache", "node", "--id", "n1", "--listen", f"0.0.0.0:{port}"]
    command += ["--set", f"node.advertise=localhost:{port}", "--set", "security.insecure=true"]
    with started(command, supervisor.environment):
        supervisor.wait("READY=1")
        assert ask(port + 200, "/ready", host="127.9.9.9")[0] == 200
        with Client(f"127.7.7.7:{port}") as cache:
            cache.set("key", "value")
            assert cache.get("key") == "value"
            assert members(cache) == {"n1": ("alive", f"localhost:{port}")}


class Load:
    """Clients that write and read all the time, each its own keys, and note what fails and what is lost."""

    def __init__(self, address: str, clients: int = 3) -> None:
        self.calls = 0
        self.problems: list[str] = []
        self.written: dict[str, int] = {}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(address, number)) for number in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, address: str, number: int) -> None:
        with Client(address) as cache:
            for count in itertools.count():
                if self._over.wait(0.002):
                    return
                key = f"{number}/{count % 200}"
                self._try(lambda key=key: self._read(cache, key))  # type: ignore[misc]
                self._try(lambda key=key, count=count: self._write(cache, key, count))  # type: ignore[misc]

    def _try(self, call: Callable[[], Any]) -> None:
        self.calls += 1
        try:
            call()
        except Exception as error:  # noqa: BLE001  (whatever it is, it must not happen)
            self.problems.append(repr(error))

    def _write(self, cache: Client, key: str, count: int) -> None:
        cache.set(key, count, ttl=None)
        self.written[key] = count

    def _read(self, cache: Client, key: str) -> None:
        expected = self.written.get(key)
        if expected is not None and (found := cache.get(key)) != expected:
            self.problems.append(f"{key} is {found}, and {expected} was written")


def test_a_rolling_restart_of_pods_fails_no_call_and_loses_nothing(pods: Pods) -> None:
    with Load(pods.service) as load:
        eventually(lambda: load.calls > 200)
        for pod in sorted(pods.at, reverse=True):  # as a StatefulSet does it
            assert pods.end(pod) == 0
            pods.start(pod)
            pods.wait_ready(pod)
        calls = load.calls
        eventually(lambda: load.calls > calls + 200)
    assert load.problems == []
    with Client(pods.service) as cache:
        assert members(cache) == all_alive(pods)
        assert cache.get_many(list(load.written)) == load.written
