"""Node processes on this machine: ports for them, starting one, and knowing when all of them form one mesh.

Processes are always started afresh (``python -m meshcache node``) and never forked: a fork would share ZeroMQ's sockets
and threads. Each is in a process group of its own, so that Ctrl-C reaches its supervisor and not the node.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, Self

from meshcache.address import join_address, split_address
from meshcache.contradictions import HTTP_OFF, HTTP_PORT_OFFSET, PUBLISH_PORT_OFFSET
from meshcache.errors import ConfigError, MeshcacheError

if TYPE_CHECKING:
    from pathlib import Path

    from meshcache.client.blocking.client import Client

HOST: Final = "127.0.0.1"

NODES_MAX: Final = PUBLISH_PORT_OFFSET
"""The most nodes of one launch: their ports are consecutive, and the next range begins this much higher."""

EXIT_CONFIG: Final = 2
"""The exit code of a node whose configuration (with its port and id) cannot work: a restart would not help."""

STOP_GRACE_S: Final = 10.0
"""How long a node may take to stop in good order, before it is killed."""

ASK_INTERVAL_S: Final = 0.05
"""The time between two checks of whether the mesh is settled."""

_ASK_TIMEOUT_S: Final = 1.0
_SEEDS_MAX: Final = 8
EPHEMERAL_PORTS_FROM: Final = 32_768
"""From here on, the client's side of some connection may use a port that a node needs."""
_RANDOM_PORTS_FROM: Final = 10_000


MEMCACHED_PORTS_TRIED: Final = 200


def ports_of(port: int) -> tuple[int, int, int]:
    """Return all ports of a node that listens on ``port``."""
    return port, port + PUBLISH_PORT_OFFSET, port + HTTP_PORT_OFFSET


def is_free(port: int) -> bool:
    """Tell whether no program listens on ``port`` of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def find_base_port(nodes: int) -> int:
    """Return a first port such that ``nodes`` nodes find all their ports free; another process may still be quicker."""
    top = EPHEMERAL_PORTS_FROM - HTTP_PORT_OFFSET - NODES_MAX
    for _ in range(100):
        base = random.randrange(_RANDOM_PORTS_FROM, top)
        if all(is_free(port) for index in range(nodes) for port in ports_of(base + index)):
            return base
    raise MeshcacheError(f"found no {nodes} free ports in a row between {_RANDOM_PORTS_FROM} and {top}")


def memcached_addresses(listen: str, nodes: int) -> list[str]:
    """Return the addresses of the doors of so many nodes: a row of free ports from that of ``listen`` on.

    The first that is free, together with those that follow: another program may well have memcached's own. Without
    ``listen`` they are empty. Raises ConfigError if there is no such row.
    """
    if not listen:
        return [""] * nodes
    host, first = split_address(listen)
    for port in range(first, min(first + MEMCACHED_PORTS_TRIED, 65536 - nodes)):
        if all(is_free(port + index) for index in range(nodes)):
            return [join_address(host, port + index) for index in range(nodes)]
    raise ConfigError(f"memcached.listen: found no {nodes} free ports in a row from {first} on")


def ending_of(returncode: int) -> str:
    """Say how a process ended."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"was ended by signal {-returncode}"


class NodeProcess:
    """One node of a launch, through all starts of its process."""

    def __init__(self, node_id: str, port: int, options: Sequence[str], memcached: str = "") -> None:
        """``options``: further arguments of ``meshcache node``, the same at each start.

        ``memcached``: the address of its door for clients of memcached; empty: it has none.
        """
        self.node_id = node_id
        self.port = port
        self.address = f"{HOST}:{port}"
        self.memcached = memcached
        self._options = list(options)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seeds: Iterable[str], *, log_path: Path | None = None) -> IO[bytes] | None:
        """Start the process. Its output goes to ``log_path``, or else into the pipe that this returns."""
        if self.running:
            raise MeshcacheError(f"{self.node_id} is running already, with pid {self.pid}")
        command = self._command([seed for seed in seeds if seed != self.address][:_SEEDS_MAX])
        if log_path is None:
            self._process = _spawn(command, subprocess.PIPE)
            return self._process.stdout
        with log_path.open("ab") as log:
            self._process = _spawn(command, log)
        return None

    def _command(self, seeds: Sequence[str]) -> list[str]:
        command = [sys.executable, "-m", "meshcache", "node", *self._options]
        # The addresses beside ours follow from it, whatever the file or the environment has for a single node.
        http_off = f"node.http={HTTP_OFF}"  # which is no address
        command += ["--set", "node.publish=", "--set", http_off if http_off in self._options else "node.http="]
        if self.memcached:
            command += ["--set", f"memcached.listen={self.memcached}"]
        command += ["--id", self.node_id, "--listen", self.address, "--parent-pid", str(os.getpid())]
        return command + [part for seed in seeds for part in ("--seed", seed)]

    @property
    def running(self) -> bool:
        """Whether there is a process; a paused one counts."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id of the latest start."""
        return self._process.pid if self._process else None

    @property
    def returncode(self) -> int | None:
        """The exit code of the latest process, as subprocess has it; None if it runs or was never started."""
        return self._process.poll() if self._process else None

    def signal(self, number: int) -> None:
        """Send a signal, if there is a process."""
        if self._process is not None:
            self._process.send_signal(number)

    def pause(self) -> None:
        """Pause the process as SIGSTOP does, and return when it stands still."""
        if not self.running:
            raise MeshcacheError(f"{self.node_id} is not running")
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid or 0, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def terminate(self, *, hand_over: bool = False) -> None:
        """Ask the process to stop, even if it is paused; with ``hand_over``, to hand over first what it owns."""
        self.signal(signal.SIGTERM if hand_over else signal.SIGINT)
        self.signal(signal.SIGCONT)

    def wait(self, timeout: float) -> bool:
        """Wait until there is no process; kill it after ``timeout`` seconds, and then return False."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def kill(self) -> None:
        """End the process at once; return when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _spawn(command: list[str], output: int | IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, process_group=0
    )


class Survey:
    """Asks nodes how each sees itself and the mesh, every node through a client of its own.

    A single client would ask the nodes that it knows as members, and so depend on what one node has told it.
    """

    def __init__(self, key_file: str = "") -> None:
        """``key_file``: of the key by which it asks, where nodes have keys."""
        self._key_file = key_file
        self._clients: dict[str, Client] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        for client in self._clients.values():
            client.close()

    def status(self, address: str) -> dict[str, Any]:
        """Ask the node at ``address``. Raises MeshcacheError if it does not answer."""
        from meshcache.client.blocking.client import Client  # noqa: PLC0415  (starting processes need not wait for it)

        if address not in self._clients:
            self._clients[address] = Client([address], timeout=_ASK_TIMEOUT_S, key_file=self._key_file)
        status: dict[str, Any] = self._clients[address].inspect("status", node=address)
        return status


def why_unsettled(survey: Survey, present: Mapping[str, str], absent: Collection[str] = ()) -> str | None:
    """Say what is still missing until every node of ``present`` (id: address) sees every other; None: nothing.

    A restarted node is another process, and the others must have noticed it: they must see its boot id. No node may
    still count on the nodes of ``absent``.
    """
    statuses = {}
    for node_id, address in present.items():
        try:
            statuses[node_id] = survey.status(address)
        except MeshcacheError as error:
            return f"{node_id} does not answer at {address}: {error}"
    return why_divided(statuses, absent)


def why_divided(statuses: Mapping[str, Mapping[str, Any]], absent: Collection[str] = ()) -> str | None:
    """Say which node does not see which, from what each node says of itself; None if all agree."""
    for node_id, status in statuses.items():
        if status["node_id"] != node_id:
            return f"{status['node_id']} answers in the place of {node_id}"
        if not status["ready"]:
            return f"{node_id} is not ready"
    boots = {node_id: status["boot"] for node_id, status in statuses.items()}
    for node_id, status in statuses.items():
        if wrong := _wrong_view(status["members"], boots, absent):
            return f"{node_id} {wrong}"
    if len({status["ring_digest"] for status in statuses.values()}) > 1:
        return "the nodes' rings differ"
    return None


def _wrong_view(members: Iterable[Mapping[str, Any]], boots: Mapping[str, Any], absent: Collection[str]) -> str | None:
    """Say what one node has wrong about the others, whose boot ids we know."""
    by_id = {member["node_id"]: member for member in members}
    for node_id, boot in boots.items():
        member = by_id.get(node_id)
        if member is None or member["boot"] != boot:
            return f"does not know {node_id} yet"
        if member["state"] != "alive":
            return f"takes {node_id} for {member['state']}"
    for node_id in sorted(absent):
        if node_id in by_id and by_id[node_id]["state"] in {"alive", "suspect"}:
            return f"takes {node_id} for {by_id[node_id]['state']}"
    return None
