"""What one program can do to a node by connections and by messages that are all in order: little."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import zmq
from faults.attacker import KEYS, Stranger
from faults.hostile import ATTACKER, LEFT_MIB_MAX, PEAK_MIB_MAX, resident_bytes
from timing import eventually

import meshcache
from meshcache.local.processes import HOST, find_base_port
from meshcache.node.strangers import STRANGERS_MAX
from meshcache.protocol import messages as m
from meshcache.protocol.wire import decode_frame, encode_frame

pytestmark = pytest.mark.process

WAIT_S = 30.0
ALONE = {"replicas": 1, "write_quorum": 1}


@pytest.fixture
def mesh() -> Iterator[meshcache.LocalMesh]:
    store = {"max_entries": 100_000, "max_bytes": 400_000_000}
    with meshcache.LocalMesh(nodes=1, cluster=ALONE, store=store) as running:
        with running.client() as cache:
            cache.set("witness", "here", ttl=None)
            cache.set_many({key: os.urandom(1_000_000) for key in KEYS}, ttl=None)
        yield running


def publish_address(mesh: meshcache.LocalMesh) -> str:
    with mesh.client() as cache:
        return str(cache.inspect("view")["members"][0][2])


def counters(mesh: meshcache.LocalMesh) -> dict[str, Any]:
    with mesh.client() as cache:
        found: dict[str, Any] = cache.inspect("stats")["node"]
        return found


class Attack:
    """One of attacker.py, in a process of its own, and how much memory the node takes meanwhile."""

    def __init__(self, mesh: meshcache.LocalMesh, name: str, seconds: float) -> None:
        self.pid = mesh.pids["node1"]
        before = resident_bytes(self.pid)
        command = [sys.executable, str(ATTACKER), mesh.addresses[0], publish_address(mesh), name, str(seconds)]
        peak, self.served = before, 0
        with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker, mesh.client(timeout=WAIT_S) as cache:
            while attacker.poll() is None:
                assert cache.get("witness") == "here"
                self.served += 1
                peak = max(peak, resident_bytes(self.pid))
            assert attacker.returncode == 0
        self.peak_mib = (peak - before) / 2**20
        self._before = before

    def left_mib(self) -> float:
        return (resident_bytes(self.pid) - self._before) / 2**20


@pytest.mark.parametrize("name", ["unread-replies", "huge-subscription", "many-subscriptions", "half-messages"])
def test_memory_stays_bounded_and_comes_back_and_others_are_served(mesh: meshcache.LocalMesh, name: str) -> None:
    pid = mesh.pids["node1"]
    attack = Attack(mesh, name, 2.0)
    assert mesh.pids == {"node1": pid}
    assert attack.served > 10
    # Twice the goal of ``scripts/chaos hostile``: here the machine may be busy, and who watches wakes late.
    assert attack.peak_mib < 2 * PEAK_MIB_MAX
    eventually(lambda: attack.left_mib() < LEFT_MIB_MAX)


def test_who_subscribes_to_too_much_is_cut(mesh: meshcache.LocalMesh) -> None:
    before = counters(mesh)["connections_cut"]
    Attack(mesh, "many-subscriptions", 1.0)
    assert counters(mesh)["connections_cut"] > before


def test_a_connection_with_an_id_that_is_in_use_does_not_take_it_over(mesh: meshcache.LocalMesh) -> None:
    name = b"\x02" + b"same" * 4
    first = Stranger(mesh.addresses[0], name)
    first.hello()
    second = Stranger(mesh.addresses[0], name)
    with first.socket, second.socket:
        second.socket.send(encode_frame(0, [m.Hello(m.PROTOCOL, "", None, b"")]))
        assert not second.socket.poll(300), "the second was heard"
        first.post(first.request(m.Get, 0, 0, False, [b"witness"]))
        assert first.socket.poll(int(WAIT_S * 1000))
        (reply,) = decode_frame(first.socket.recv())[1]
        assert isinstance(reply, m.Reply)


def test_other_nodes_are_known_by_no_name_that_could_be_guessed(mesh: meshcache.LocalMesh) -> None:
    """The name of a connection is chosen by the ROUTER that it leads to, unless its dialler chooses one."""
    listen = f"{HOST}:{find_base_port(1)}"
    config = meshcache.Config.from_tables(
        node={"id": "late", "listen": listen, "seeds": list(mesh.addresses)}, cluster=ALONE
    )
    with meshcache.Node(config) as node:
        server = node._server
        assert server is not None
        dealers = eventually(lambda: list(server.links.dealers.values()))
        assert all(dealer.socket.getsockopt(zmq.ROUTING_ID) == b"" for dealer in dealers)


GREETING_BEGINS = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03"
GREETING = GREETING_BEGINS + b"\0NULL" + bytes(16) + bytes(32)
_READY = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
READY = b"\x04" + bytes([len(_READY)]) + _READY
STRANGER_BYTES_MAX = 40 << 10
"""What one may take of the node's memory, for which it pays in pages."""


def descriptors(mesh: meshcache.LocalMesh) -> int:
    return len(os.listdir(f"/proc/{mesh.pids['node1']}/fd"))  # noqa: PTH208  (numbers, not paths)


def strangers_of(mesh: meshcache.LocalMesh, count: int, said: bytes) -> ExitStack:
    """Open so many connections that say this and nothing more, while honest clients come and are served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * count)), hard))
    host, port = mesh.addresses[0].split(":")
    opened = ExitStack()
    for number in range(count):
        connection = opened.enter_context(socket.create_connection((host, int(port)), WAIT_S))
        with suppress(OSError):  # it may be cut by now
            connection.sendall(said)
        if number % (count // 10) == 0:
            with mesh.client(timeout=WAIT_S) as cache:
                assert cache.get("witness") == "here"
    return opened


@pytest.mark.parametrize("said", [b"", GREETING_BEGINS, GREETING])
def test_handshakes_that_stall_take_little_and_end(mesh: meshcache.LocalMesh, said: bytes) -> None:
    count, pid = 600, mesh.pids["node1"]
    before, before_bytes = descriptors(mesh), resident_bytes(pid)
    with strangers_of(mesh, count, said):
        assert resident_bytes(pid) - before_bytes < count * STRANGER_BYTES_MAX
        eventually(lambda: descriptors(mesh) < before + 20)


def test_of_those_that_are_silent_after_the_handshake_only_so_many_stay(mesh: meshcache.LocalMesh) -> None:
    before, count = descriptors(mesh), STRANGERS_MAX + 600
    with strangers_of(mesh, count, GREETING + READY):
        eventually(lambda: descriptors(mesh) < before + STRANGERS_MAX + 20)
        assert descriptors(mesh) > before + STRANGERS_MAX // 2, "these do not end by themselves"
        with mesh.client(timeout=WAIT_S) as cache:
            assert cache.get("witness") == "here"
        assert counters(mesh)["connections_cut"] >= 600 - 20


def test_idle_connections_do_not_keep_a_new_client_out(mesh: meshcache.LocalMesh) -> None:
    limit = 128
    resource.prlimit(mesh.pids["node1"], resource.RLIMIT_NOFILE, (limit, limit))
    host, port = mesh.addresses[0].split(":")
    idle = []
    for _ in range(2 * limit):
        connection = socket.socket()
        connection.settimeout(0.2)
        idle.append(connection)
        if connection.connect_ex((host, int(port))):
            break  # the kernel's queue for them is full, too
    for _ in range(5):
        with mesh.client(timeout=WAIT_S) as cache:
            assert cache.get("witness") == "here"
    assert counters(mesh)["connections_cut"] > 0
    for connection in idle:
        connection.close()
