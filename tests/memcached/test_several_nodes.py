"""The doors of a mesh of several nodes, where most commands wait for another node."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from meshcache import LocalMesh
from meshcache.local.processes import HOST, find_base_port

pytestmark = pytest.mark.process

ROUNDS = 150
ANSWER_S_MAX = 5.0


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=3, memcached={"listen": f"{HOST}:{find_base_port(3)}"}) as running:
        yield running


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=ANSWER_S_MAX)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def test_what_comes_while_a_command_waits_for_other_nodes_is_answered(mesh: LocalMesh) -> None:
    """It arrives by itself, at any moment of that wait."""
    for number in range(ROUNDS):
        key = b"turn:%d" % number
        with connected(mesh.memcached_addresses[number % 3]) as connection, connection.makefile("rb") as answers:
            connection.sendall(b"add %s 0 0 1 noreply\r\n1\r\n" % key)
            connection.sendall(b"incr %s 41\r\n" % key)
            connection.sendall(b"append %s 0 0 1\r\n5\r\nget %s\r\n" % (key, key))
            told = [answers.readline() for _ in range(5)]
        assert told == [b"42\r\n", b"STORED\r\n", b"VALUE %s 0 3\r\n" % key, b"425\r\n", b"END\r\n"]


def test_any_door_takes_any_key_and_sees_what_another_did(mesh: LocalMesh) -> None:
    for number in range(ROUNDS):
        key = b"any:%d" % number
        addresses = [mesh.memcached_addresses[(number + shift) % 3] for shift in range(3)]
        commands = (b"set %s 7 0 2\r\n41\r\n" % key, b"incr %s 1\r\n" % key, b"get %s\r\n" % key)
        ends = (b"STORED\r\n", b"42\r\n", b"VALUE %s 7 2\r\n" % key)
        for address, command, end in zip(addresses, commands, ends, strict=True):
            with connected(address) as connection, connection.makefile("rb") as answers:
                connection.sendall(command)
                assert answers.readline() == end
