"""A connection that is cut at any byte: what was whole is done, nothing is done by half, and the node serves on."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from itertools import accumulate

import pytest
from fuzzing.memcached import Door
from timing import eventually

pytestmark = pytest.mark.process

KEYS = (b"cut:1", b"cut:2", b"cut:3")
DIALOGUE = (
    b"set cut:1 5 0 5\r\nfirst\r\n",
    b"get cut:1 cut:2\r\n",
    b"add cut:2 0 0 12\r\nget cut:1\r\n\r\n\r\n",
    b"incr cut:1 1\r\n",
    b"set cut:3 0 0 2 noreply\r\n10\r\n",
    b"decr cut:3 1\r\n",
    b"append cut:1 0 0 7\r\n second\r\n",
    b"ms cut:2 4 T100 k Oabc\r\nmeta\r\n",
    b"mg cut:1 v f k\r\n",
    b"ma cut:3 N0 D10 v\r\n",
    b"delete cut:2\r\n",
    b"ms cut:2 3 MA q\r\nnew\r\n",
    b"md cut:3 q\r\n",
    b"touch cut:1 100\r\n",
    b"cas cut:1 0 0 5 1\r\nnever\r\n",
    b"replace cut:1 7 0 4\r\nlast\r\n",
)
ENDS = [0, *accumulate(map(len, DIALOGUE))]
WHOLE = b"".join(DIALOGUE)


class Caller:
    """Another connection, which tells what is stored."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.where = (host, int(port))
        self.socket = socket.create_connection(self.where, timeout=10)
        self.file = self.socket.makefile("rb")

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def ask(self, command: bytes, end: bytes = b"END\r\n") -> bytes:
        self.socket.sendall(command)
        lines = [self.file.readline()]
        while lines[-1] != end:
            assert lines[-1], "the node has closed the connection of another"
            lines.append(self.file.readline())
        return b"".join(lines)

    def clean(self) -> None:
        self.ask(b"".join(b"md %s q\r\n" % key for key in KEYS) + b"mn\r\n", b"MN\r\n")

    def stored(self) -> bytes:
        return self.ask(b"get %s\r\n" % b" ".join(KEYS))

    def statistics(self) -> dict[str, int]:
        told = self.ask(b"stats\r\n").decode()
        return {name: int(value) for name, value in re.findall(r"STAT (\S+) (\d+)\r\n", told)}

    def is_alone(self) -> bool:
        return self.statistics()["curr_connections"] == 1

    def say(self, text: bytes, *, reset: bool) -> None:
        """Say this on a connection of its own, and end it: with all answers read, or in their midst."""
        with socket.create_connection(self.where, timeout=10) as cut:
            cut.sendall(text)
            if reset:
                cut.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            cut.shutdown(socket.SHUT_WR)
            while cut.recv(1 << 16):
                pass


@pytest.fixture(scope="module")
def caller(door: Door) -> Iterator[Caller]:
    with closing(Caller(door.address)) as caller:
        yield caller


@pytest.fixture(scope="module")
def states(caller: Caller) -> list[bytes]:
    """What is stored after the first so many commands, each sent and answered by itself."""
    found = []
    for count in range(len(DIALOGUE) + 1):
        caller.clean()
        for command in DIALOGUE[:count]:
            caller.say(command, reset=False)
        found.append(caller.stored())
    assert found[0] == b"END\r\n"
    assert found[-1] == b"VALUE cut:1 7 4\r\nlast\r\nEND\r\n"
    return found


def test_what_was_whole_is_done_and_nothing_by_half(caller: Caller, states: list[bytes]) -> None:
    for at in range(len(WHOLE) + 1):
        caller.clean()
        caller.say(WHOLE[:at], reset=False)
        whole = sum(at >= end for end in ENDS) - 1
        assert caller.stored() == states[whole], WHOLE[:at]


def test_a_lost_connection_leaves_nothing_half_done(caller: Caller, states: list[bytes]) -> None:
    """Who sends and is gone does not know how far the node has read: but it is to be a whole number of commands."""
    for at in range(len(WHOLE) + 1):
        caller.clean()
        caller.say(WHOLE[:at], reset=True)
        eventually(caller.is_alone)
        whole = sum(at >= end for end in ENDS) - 1
        assert caller.stored() in states[: whole + 1], WHOLE[:at]


def test_the_node_forgets_connections_that_were_cut(caller: Caller) -> None:
    before = caller.statistics()
    for at in range(0, len(WHOLE), 7):
        caller.say(WHOLE[:at], reset=at % 2 == 0)
    eventually(caller.is_alone)
    after = caller.statistics()
    assert after["total_connections"] - before["total_connections"] == len(range(0, len(WHOLE), 7))
    assert after["rejected_connections"] == before["rejected_connections"]
