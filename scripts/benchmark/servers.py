"""What is measured: server processes on private loopback ports, which end with this program however it ends."""

from __future__ import annotations

import ctypes
import getpass
import importlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import meshcache
from meshcache._native import PURE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

START_S_MAX: Final = 20.0
STOP_S_MAX: Final = 5.0
SETTLE_S_MAX: Final = 30.0
PORTS: Final = range(20_000, 32_000)
"""Below the range that the kernel gives to outgoing connections: a port found free stays free."""

MEMORY_MB: Final = 6_144
"""What every store may hold: more than any row stores, so that nothing is evicted while it is measured."""


class Unavailable(Exception):
    """A contestant that is not installed here, with the reason as text."""


@dataclass(frozen=True, slots=True)
class Server:
    """Something that runs: where it answers, and the processes whose CPU time and memory are its cost."""

    kind: str
    address: str
    pids: list[int]
    version: str


def free_port() -> int:
    """Return a loopback port on which nothing listens."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port found on 127.0.0.1")


_LIBC: Final = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Ask the kernel to kill this child when the benchmark dies, even of SIGKILL (PR_SET_PDEATHSIG is 1)."""
    _LIBC.prctl(1, signal.SIGKILL)


@contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command for the length of a ``with`` block, in a process group that Ctrl-C does not reach."""
    child = subprocess.Popen(
        command,
        text=True,
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  (a single system call)
        **options,
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def _listening(kind: str, command: list[str], port: int, version: str) -> Iterator[Server]:
    with process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        _wait_for_listener(child, port)
        yield Server(kind, f"127.0.0.1:{port}", [child.pid], version)


def _wait_for_listener(child: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + START_S_MAX
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as error:
            if child.poll() is not None:
                raise Unavailable(f"{child.args!r} ended with status {child.returncode}") from error
            if time.monotonic() > deadline:
                raise Unavailable(f"{child.args!r} does not listen") from error
            time.sleep(0.02)
        else:
            return


def _program(*names: str) -> str:
    """Return the path of the first of these that is installed."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise Unavailable(f"{' or '.join(names)} is not installed")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"the Python package {name} is not installed (pip install '.[bench]')") from error


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@contextmanager
def redis_server() -> Iterator[Server]:
    """A redis-server, or a valkey-server where there is none, that keeps everything in memory and saves nothing."""
    redis, path, port = _library("redis"), _program("redis-server", "valkey-server"), free_port()
    version = _output(path, "--version").partition("v=")[2].split()[0]
    if Path(path).name == "valkey-server":
        version = f"(valkey) {version}"
    hiredis = importlib.util.find_spec("hiredis") is not None
    with tempfile.TemporaryDirectory(prefix="meshcache-bench-") as folder:
        command = [path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--dir", folder, "--maxmemory", f"{MEMORY_MB}mb"]
        parser = "with hiredis" if hiredis else "WITHOUT hiredis"
        with _listening("redis", command, port, f"{version}, redis-py {redis.__version__} {parser}") as server:
            yield server


@contextmanager
def memcached_server() -> Iterator[Server]:
    """A memcached that takes values of a megabyte."""
    pymemcache, path, port = _library("pymemcache"), _program("memcached"), free_port()
    version = _output(path, "--version").split()[-1]
    command = [path, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", str(MEMORY_MB), "-I", "2m", "-c", "4096"]
    if os.geteuid() == 0:
        command += ["-u", getpass.getuser()]
    with _listening("memcached", command, port, f"{version}, pymemcache {pymemcache.__version__}") as server:
        yield server


@contextmanager
def zmq_server() -> Iterator[Server]:
    """A ROUTER that sends every message back: what a round trip over ZeroMQ costs when nobody does anything."""
    zmq, port = _library("zmq"), free_port()
    command = [sys.executable, "-m", "benchmark.echo", str(port)]
    with _listening_module("zmq", command, port, f"libzmq {zmq.zmq_version()}, pyzmq {zmq.__version__}") as server:
        yield server


@contextmanager
def _listening_module(kind: str, command: list[str], port: int, version: str) -> Iterator[Server]:
    with process(command, env=module_environment()) as child:
        _wait_for_listener(child, port)
        yield Server(kind, f"127.0.0.1:{port}", [child.pid], version)


def module_environment() -> dict[str, str]:
    """Return the environment in which ``python -m benchmark.…`` finds itself."""
    paths = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


ONE_COPY: Final = {"replicas": 1, "write_quorum": 1, "read_quorum": 1}
TWO_COPIES: Final = {"replicas": 2, "write_quorum": 2, "read_quorum": 1}


def mesh_server() -> AbstractContextManager[Server]:
    """A mesh of one node and one copy: the like-for-like comparison with a redis-server or a memcached."""
    return mesh("meshcache", nodes=1, cluster=ONE_COPY)


def mesh3_server() -> AbstractContextManager[Server]:
    """Three nodes, two copies of every key, a write waits for both, a read for one: N=2 W=2 R=1."""
    return mesh("mesh3", nodes=3, cluster=TWO_COPIES)


def pure_server() -> AbstractContextManager[Server]:
    """The mesh of one node with the native module off."""
    return mesh("pure", nodes=1, cluster=ONE_COPY)


def pure3_server() -> AbstractContextManager[Server]:
    """The mesh of three nodes with the native module off."""
    return mesh("pure3", nodes=3, cluster=TWO_COPIES)


def is_pure(kind: str) -> bool:
    """Tell whether this server, and whoever calls it, run with the native module off."""
    return kind in {"pure", "pure3"}


def of_this_kind(kind: str, environment: dict[str, str]) -> dict[str, str]:
    """Return the environment with the native module off or on, as this kind of server has it."""
    return {**environment, PURE_VARIABLE: "1" if is_pure(kind) else environment.get(PURE_VARIABLE, "0")}


@contextmanager
def _environment_of(kind: str) -> Iterator[None]:
    """Start processes in the environment of this kind: those of a LocalMesh have that of their parent."""
    before = dict(os.environ)
    os.environ.update(of_this_kind(kind, before))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def door_server() -> Iterator[Server]:
    """A mesh of one node and one copy that serves clients of memcached; its address is where these connect."""
    address = f"127.0.0.1:{free_port()}"
    with mesh("door", nodes=1, cluster=ONE_COPY, memcached={"listen": address}) as server:
        yield replace(server, address=address)


@contextmanager
def mesh(
    kind: str, *, nodes: int, cluster: dict[str, Any], memcached: dict[str, Any] | None = None
) -> Iterator[Server]:
    """Run a mesh that holds all that is stored, and that has come to rest."""
    store = {"max_entries": 4_000_000, "max_bytes": MEMORY_MB * 1_000_000}
    with ExitStack() as stack:
        with _environment_of(kind):
            running = stack.enter_context(
                meshcache.LocalMesh(nodes=nodes, cluster=cluster, store=store, memcached=memcached or {})
            )
        _wait_until_settled(running.addresses)
        yield Server(kind, ",".join(running.addresses), list(running.pids.values()), meshcache.__version__)


def _is_settled(status: dict[str, Any], nodes: int) -> bool:
    return len(status["members"]) == nodes and not status["changing"]


def _wait_until_settled(addresses: list[str]) -> None:
    """Wait for the end of the ring changes of the start: meanwhile writes go to the owners of all rings."""
    deadline = time.monotonic() + SETTLE_S_MAX
    with meshcache.Client(addresses) as client:
        for address in addresses:
            while not _is_settled(client.inspect("status", node=address), len(addresses)):
                if time.monotonic() > deadline:
                    raise Unavailable(f"the ring of {address} still changes after {SETTLE_S_MAX:g} s")
                time.sleep(0.05)


SERVERS: Final = {
    "meshcache": mesh_server,
    "redis": redis_server,
    "memcached": memcached_server,
    "zmq": zmq_server,
    "mesh3": mesh3_server,
    "pure": pure_server,
    "pure3": pure3_server,
}
OURS: Final = frozenset({"meshcache", "mesh3", "pure", "pure3"})
"""The others are the peers."""
