"""The memcached door of real nodes: what clients of memcached see, and what strangers cannot do to it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from web_files import certificate, write_privately

from meshcache import Client, LocalMesh, Node
from meshcache.config import Config
from meshcache.errors import ConfigError
from meshcache.local.processes import find_base_port, is_free

WAIT_S = 10.0


class Caller:
    """A connection to a door, which is asked and read line by line."""

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.socket: socket.socket = socket.create_connection((host, int(port)), WAIT_S)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=host)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()
        self.socket.close()

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, data: bytes, lines: int = 1) -> bytes:
        """Say something and return so many lines of the answer."""
        self.say(data)
        return b"".join(self.file.readline() for _ in range(lines))

    def rest(self) -> bytes:
        """Return all until the other side closes."""
        try:
            return self.file.read()
        except ConnectionResetError:
            return b""


def free_port() -> int:
    port = find_base_port(1) + 50
    while not is_free(port):
        port += 1
    return port


def node_with_door(**tables: Any) -> Node:
    door = {"listen": f"127.0.0.1:{free_port()}", **tables.pop("memcached", {})}
    node = {"id": "n1", "listen": f"127.0.0.1:{find_base_port(1)}", "http": "off"}
    return Node(Config.from_tables(node=node, memcached=door, cluster={"replicas": 1, "write_quorum": 1}, **tables))


def told(node: Node) -> dict[str, Any]:
    """Return the door's counters."""
    with node.client() as client:
        found: dict[str, Any] = client.inspect("stats")["memcached"]
        return found


def wait_for(node: Node, name: str, count: int = 1) -> None:
    """Return when a counter of the door has come to this."""
    deadline = time.monotonic() + WAIT_S
    with node.client() as client:
        while client.inspect("stats")["memcached"][name] < count:
            assert time.monotonic() < deadline, f"{name} did not come to {count}"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    limits = {"value_bytes_max": 1_000_000}
    with node_with_door(limits=limits, memcached={"stall_s": 1.0, "connections_max": 20}) as node:
        yield node


@pytest.fixture
def caller(node: Node) -> Iterator[Caller]:
    with Caller(node.config.memcached.listen) as caller:
        caller.ask(b"flush_all\r\n")
        yield caller


def test_the_classic_commands(caller: Caller) -> None:
    assert caller.ask(b"set k 7 0 3\r\nabc\r\nappend k 0 0 1\r\nd\r\nprepend k 0 0 1\r\n-\r\nget k\r\n", 6) == (
        b"STORED\r\nSTORED\r\nSTORED\r\nVALUE k 7 5\r\n-abcd\r\nEND\r\n"
    )
    value, _, end = (caller.ask(b"gets k\r\n", 1), caller.file.readline(), caller.file.readline())
    unique = value.split()[-1]
    assert end == b"END\r\n"
    assert caller.ask(
        b"cas k 0 0 1 1\r\nx\r\ncas k 0 0 1 %b\r\ny\r\ncas k 0 0 1 %b\r\nz\r\n" % (unique, unique), 3
    ) == (b"EXISTS\r\nSTORED\r\nEXISTS\r\n")
    assert caller.ask(
        b"add k 0 0 1\r\n1\r\nreplace k 0 0 2\r\n10\r\ndecr k 1\r\nincr k 18446744073709551615\r\n", 4
    ) == (b"NOT_STORED\r\nSTORED\r\n9\r\n8\r\n")
    assert caller.ask(b"touch k 5\r\ngat 0 k\r\ndelete k\r\ndelete k\r\n", 6) == (
        b"TOUCHED\r\nVALUE k 0 2\r\n8 \r\nEND\r\nDELETED\r\nNOT_FOUND\r\n"
    )


def test_the_meta_commands(caller: Caller) -> None:
    assert caller.ask(b"ms k 2 T30 F5\r\nhi\r\nmg k v f s t k O7\r\n", 3) == b"HD\r\nVA 2 f5 s2 t30 kk O7\r\nhi\r\n"
    assert caller.ask(b"md k I\r\nmg k v\r\nmg k v\r\n", 5) == b"HD\r\nVA 2 X W\r\nhi\r\nVA 2 Z X\r\nhi\r\n"
    assert caller.ask(b"ms k 2\r\nho\r\nmg k\r\nmg n N30\r\nmg n\r\n", 4) == b"HD\r\nHD\r\nHD W\r\nHD Z\r\n"
    assert caller.ask(b"ma c N0 J5 v\r\nma c D2 v\r\nma c MD D99 v\r\nmg c q\r\nmg - q\r\nmn\r\n", 8) == (
        b"VA 1\r\n5\r\nVA 1\r\n7\r\nVA 1\r\n0\r\nHD\r\nMN\r\n"
    )


def test_who_wins_a_lease_can_store_by_the_number_that_it_was_told(caller: Caller) -> None:
    caller.ask(b"set k 0 0 3\r\nold\r\nmd k I\r\n", 2)
    number = caller.ask(b"mg k c\r\n").split()[1]
    assert caller.ask(b"mg k\r\n") == b"HD Z X\r\n"
    assert caller.ask(b"ms k 3 C%b\r\nnew\r\nmg k v\r\n" % number[1:], 3) == b"HD\r\nVA 3\r\nnew\r\n"
    number = caller.ask(b"mg fresh N30 c\r\n").split()[1]
    assert caller.ask(b"ms fresh 1 c C%b\r\nx\r\n" % number[1:]).startswith(b"HD c")


def test_a_number_that_is_told_after_storing_is_the_present_one(caller: Caller) -> None:
    for command in (b"ms k 1 c\r\n1\r\n", b"ms k 1 c MA\r\n2\r\n", b"ma k c\r\n"):
        number = caller.ask(command).split()[1][1:]
        assert caller.ask(b"mg k c\r\n") == b"HD c%b\r\n" % number


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (b"set k 0 0 3\r\nabc\r\n", b"STORED\r\n"),
        (b"set k 0 99999 0\r\n\r\n", b"STORED\r\n"),
        (b"set k 0 0 3\r\nabcd\r\n", b"CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
        (b"set k 0 0 3\nabc\r\n", b"STORED\r\n"),
        (b"set k 0 0 x\r\nabc\r\n", b"CLIENT_ERROR bad command line format\r\nERROR\r\n"),
        (b"set k 0 -1 3\r\nabc\r\n", b"STORED\r\n"),
        (b"set " + b"k" * 251 + b" 0 0 3\r\nabc\r\n", b"CLIENT_ERROR bad command line format\r\nERROR\r\n"),
        (b"set  0 0 3\r\nabc\r\n", b"ERROR\r\nERROR\r\n"),
        (b"set k\0 0 0 3\r\nabc\r\n", b"ERROR\r\nERROR\r\n"),
        (b"get k\r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n"),
        (b"get  k \r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n"),
        (b"get k\0z\r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n"),
        (b"get k " + b"k" * 251 + b"\r\n", b"CLIENT_ERROR bad command line format\r\n"),
        (b"get \r\n", b"ERROR\r\n"),
        (b"get k\r\nget k\r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n" * 2),
    ],
)
def test_it_does_not_matter_whether_a_command_comes_alone(caller: Caller, command: bytes, answer: bytes) -> None:
    lines = answer.count(b"\n")
    assert caller.ask(b"set k 0 0 1\r\n1\r\n") == b"STORED\r\n"
    assert caller.ask(command, lines) == answer
    after = caller.ask(b"mg k v\r\nmn\r\n", 1)
    rest = b"".join(iter(caller.file.readline, b"MN\r\n"))
    caller.ask(b"set k 0 0 1\r\n1\r\n")
    assert caller.ask(b"mn\r\n" + command + b"mg k v\r\nmn\r\n", 1 + lines) == b"MN\r\n" + answer
    assert caller.file.readline() == after
    assert b"".join(iter(caller.file.readline, b"MN\r\n")) == rest


def test_pipelines_are_answered_in_order(caller: Caller) -> None:
    count = 3000
    caller.say(b"".join(b"set k%d 0 0 %d\r\n%d\r\nget k%d\r\n" % (i, len(str(i)), i, i) for i in range(count)))
    for i in range(count):
        assert [caller.file.readline() for _ in range(4)] == [
            b"STORED\r\n", b"VALUE k%d 0 %d\r\n" % (i, len(str(i))), b"%d\r\n" % i, b"END\r\n",
        ]  # fmt: skip


def test_ten_thousand_keys_in_a_get(caller: Caller) -> None:
    caller.ask(b"set last 0 0 1\r\n1\r\n")
    assert caller.ask(b"get " + b" ".join(b"key%d" % i for i in range(10_000)) + b" last\r\n", 3) == (
        b"VALUE last 0 1\r\n1\r\nEND\r\n"
    )


def test_a_large_answer_comes_in_portions(caller: Caller) -> None:
    value = bytes(range(256)) * 3000
    for i in range(12):
        assert caller.ask(b"set v%d 0 0 %d\r\n%b\r\n" % (i, len(value), value)) == b"STORED\r\n"
    caller.say(b"get " + b" ".join(b"v%d" % (i % 12) for i in range(60)) + b"\r\n")
    for i in range(60):
        assert caller.file.readline() == b"VALUE v%d 0 %d\r\n" % (i % 12, len(value))
        assert caller.file.read(len(value) + 2) == value + b"\r\n"
    assert caller.file.readline() == b"END\r\n"


def test_a_value_that_is_too_large_is_swallowed_and_what_it_replaces_goes(caller: Caller) -> None:
    caller.ask(b"set k 0 0 1\r\n1\r\n")
    assert caller.ask(b"set k 0 0 1000001\r\n" + b"get a\r\n" * 142_858 + b"\r\nget k\r\n", 1) == (
        b"SERVER_ERROR object too large for cache\r\n"
    )
    # 142,858 times 7 bytes are 1,000,006: five too many, which are a line.
    assert caller.file.readline() == b"ERROR\r\n"
    assert caller.file.readline() == b"ERROR\r\n"
    assert caller.file.readline() == b"END\r\n"


def test_both_doors_read_what_the_other_wrote(node: Node, caller: Caller) -> None:
    caller.ask(
        b"set b 0 0 2\r\n\xff\x00\r\nset t 16 0 4\r\n\xc3\xa4bc\r\nset i 2 0 2\r\n42\r\nset p 1 0 3\r\n\x80\x04.\r\n", 4
    )
    with node.client() as client:
        assert client.get_many(["b", "t", "i", "p"]) == {"b": b"\xff\x00", "t": "äbc", "i": 42, "p": b"\x80\x04."}
        client.set_many({"b": b"\x00", "t": "ö", "i": -7})
        client.set("m", {"a": 1}, tags=["tag"])
        assert caller.ask(b"get b t i\r\n", 7) == (
            b"VALUE b 0 1\r\n\x00\r\nVALUE t 16 2\r\n\xc3\xb6\r\nVALUE i 2 2\r\n-7\r\nEND\r\n"
        )
        assert caller.ask(b"get m\r\n", 1).startswith(b"VALUE m 0 ")
        caller.file.readline()
        caller.file.readline()
        caller.ask(b"set n 2 0 2\r\n10\r\n")
        caller.ask(b"decr n 1\r\n")
        assert client.incr("n", 5) == 14
        caller.ask(b"md i I\r\n")
        item = client.gets("i")
        assert item is not None
        assert item.stale


def test_what_is_over_is_not_found(caller: Caller) -> None:
    for command in (b"set k 0 -1 1\r\n1\r\n", b"set k 0 1500000000 1\r\n1\r\n", b"add k 0 -1 1\r\n1\r\n"):
        assert caller.ask(command + b"get k\r\n", 2) == b"STORED\r\nEND\r\n"
    caller.ask(b"set k 0 0 1\r\n1\r\n")
    assert caller.ask(b"replace k 0 -1 1\r\n2\r\nget k\r\nadd k 0 0 1\r\n1\r\ntouch k -1\r\nget k\r\n", 5) == (
        b"STORED\r\nEND\r\nSTORED\r\nTOUCHED\r\nEND\r\n"
    )


def test_a_flush_may_be_for_later(caller: Caller) -> None:
    assert caller.ask(b"set k 0 0 1\r\n1\r\nflush_all 1\r\nget k\r\n", 5).startswith(b"STORED\r\nOK\r\nVALUE")
    deadline = time.monotonic() + WAIT_S
    while caller.ask(b"mg k\r\n") != b"EN\r\n":
        assert time.monotonic() < deadline
    assert caller.ask(b"set k 0 0 1\r\n1\r\nflush_all 1 noreply\r\nflush_all 3000\r\n", 2) == b"STORED\r\nOK\r\n"
    assert caller.ask(b"mg k\r\n") == b"HD\r\n"


def test_stats_are_told_by_memcacheds_names(caller: Caller) -> None:
    caller.say(b"stats\r\nstats settings\r\nstats items\r\nstats nonsense\r\n")
    lines = list(iter(caller.file.readline, b"ERROR\r\n"))
    assert lines.count(b"END\r\n") == 3
    names = {line.split()[1] for line in lines if line.startswith(b"STAT")}
    assert {b"curr_items", b"get_hits", b"item_size_max", b"uptime", b"cmd_set"} <= names


def test_the_binary_protocol_is_closed(node: Node) -> None:
    with Caller(node.config.memcached.listen) as caller:
        before = told(node)["closed_malformed"]
        caller.say(b"\x80\x00" + bytes(22))
        assert caller.rest() == b""
        wait_for(node, "closed_malformed", before + 1)


@pytest.mark.parametrize("data", [b"x" * 5_000_000, b"get " + b"x " * 3_000_000, b"set k " + b"0" * 100_000])
def test_an_endless_line_is_closed(node: Node, data: bytes) -> None:
    before = told(node)["closed_malformed"]
    with Caller(node.config.memcached.listen) as caller:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            caller.say(data)
        assert caller.rest() == b""
    wait_for(node, "closed_malformed", before + 1)


@pytest.mark.parametrize("data", [b"get half", b"set k 0 0 10\r\nhalf", b"set k 0 0 1000001\r\nhalf"])
def test_half_a_command_and_silence_is_closed(node: Node, data: bytes) -> None:
    before = told(node)["closed_half"]
    with Caller(node.config.memcached.listen) as caller, Caller(node.config.memcached.listen) as other:
        caller.say(data)
        assert b"VALUE" not in caller.rest()
        assert other.ask(b"mn\r\n") == b"MN\r\n"
    wait_for(node, "closed_half", before + 1)


def test_who_does_not_read_is_read_no_more_and_closed(node: Node) -> None:
    with Caller(node.config.memcached.listen) as caller, Caller(node.config.memcached.listen) as other:
        before = told(node)["closed_slow"]
        value = b"x" * 900_000
        assert other.ask(b"set large 0 0 900000\r\n" + value + b"\r\n") == b"STORED\r\n"
        caller.socket.settimeout(WAIT_S)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(1000):
                caller.say(b"get large\r\n" * 100)
        assert other.ask(b"mn\r\n") == b"MN\r\n"
        wait_for(node, "closed_slow", before + 1)


def test_connections_are_bounded(node: Node) -> None:
    callers = [Caller(node.config.memcached.listen) for _ in range(20)]
    try:
        assert all(caller.ask(b"mn\r\n") == b"MN\r\n" for caller in callers[:15])
        with Caller(node.config.memcached.listen) as one_more:
            assert one_more.rest() == b"ERROR Too many open connections\r\n"
        assert callers[0].ask(b"mn\r\n") == b"MN\r\n"
    finally:
        for caller in callers:
            caller.__exit__()


def test_bytes_on_their_way_in_are_bounded() -> None:
    limits = {"in_flight_bytes_max": 1 << 20}
    with node_with_door(memcached=limits) as node, Caller(node.config.memcached.listen) as first:
        first.say(b"set a 0 0 900000\r\nhalf")
        with Caller(node.config.memcached.listen) as second:
            wait_for(node, "accepted", 2)
            answer = second.ask(b"set b 0 0 900000\r\n" + b"x" * 900_000 + b"\r\nmn\r\n", 2)
            assert answer == b"SERVER_ERROR out of memory storing object\r\nMN\r\n"
            quiet = b"set b 0 0 900000 noreply\r\n" + b"x" * 900_000 + b"\r\nmn\r\n"
            assert second.ask(quiet) == b"MN\r\n"
        first.say(b"x" * (900_000 - 4) + b"\r\n")
        assert first.file.readline() == b"STORED\r\n"


def test_a_password_is_asked_for_first(tmp_path: Path) -> None:
    users = write_privately(tmp_path / "users", b"# people\nada:love\nbob:builder\n")
    with node_with_door(memcached={"password_file": str(users)}) as node:
        with Caller(node.config.memcached.listen) as caller:
            assert caller.ask(b"get a\r\n") == b"CLIENT_ERROR unauthenticated\r\n"
            assert caller.ask(b"set x 0 0 8\r\nada hate\r\n") == b"CLIENT_ERROR authentication failure\r\n"
            assert caller.ask(b"get a\r\n") == b"CLIENT_ERROR unauthenticated\r\n"
            assert caller.ask(b"set x 0 0 8\r\nada love\r\nget a\r\n", 2) == b"STORED\r\nEND\r\n"
        wait_for(node, "unauthenticated")
    write_privately(users, b"no colon\n")
    with pytest.raises(ConfigError, match="line 1 is not user:password"):
        node_with_door(memcached={"password_file": str(users)}).start()


def test_tls(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    files = {"tls_cert_file": str(made.cert_file), "tls_key_file": str(made.key_file)}
    with node_with_door(memcached=files) as node:
        with Caller(node.config.memcached.listen, made.trusting) as caller:
            value = b"x" * 300_000
            assert (
                caller.ask(b"set k 0 0 300000\r\n" + value + b"\r\nget k\r\n", 2) == b"STORED\r\nVALUE k 0 300000\r\n"
            )
            assert caller.file.read(300_002) == value + b"\r\n"
            assert caller.file.readline() == b"END\r\n"
        with Caller(node.config.memcached.listen) as caller:
            caller.say(b"get k\r\n")
            assert b"VALUE" not in caller.rest()
        with Caller(node.config.memcached.listen, made.trusting) as caller:
            assert caller.ask(b"mn\r\n") == b"MN\r\n"


def test_beyond_this_machine_it_needs_a_password_or_trust() -> None:
    with pytest.raises(
        ConfigError, match=r"memcached\.listen: 192\.0\.2\.1 can be reached .* memcached\.password_file"
    ):
        Config.from_tables(memcached={"listen": "192.0.2.1:11211"})
    Config.from_tables(memcached={"listen": "192.0.2.1:11211", "password_file": "users"})
    Config.from_tables(memcached={"listen": "192.0.2.1:11211"}, security={"insecure": True})
    with pytest.raises(ConfigError, match=r"the same address as node\.listen"):
        Config.from_tables(memcached={"listen": "127.0.0.1:7101"}, node={"listen": "127.0.0.1:7101"})


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        node = node_with_door(memcached={"listen": f"127.0.0.1:{other.getsockname()[1]}"})
        with pytest.raises(ConfigError, match=r"memcached\.listen: cannot listen on"):
            node.start()


# ---- several nodes


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    door, copies = {"listen": "127.0.0.1:21211"}, {"replicas": 2, "write_quorum": 2}
    with LocalMesh(nodes=3, cluster=copies, memcached=door) as mesh:
        yield mesh


def test_any_node_takes_any_key(mesh: LocalMesh) -> None:
    doors = [Caller(address) for address in mesh.memcached_addresses]
    try:
        for i in range(30):
            writer, reader, third = (doors[(i + shift) % 3] for shift in range(3))
            key = b"key%d" % i
            assert writer.ask(b"set %b 5 0 1\r\n1\r\nset %b 5 0 2\r\n10\r\n" % (key, key), 2) == b"STORED\r\nSTORED\r\n"
            assert reader.ask(b"get %b\r\n" % key, 3) == b"VALUE %b 5 2\r\n10\r\nEND\r\n" % key
            assert reader.ask(b"incr %b 1\r\n" % key) == b"11\r\n"
            assert (
                third.ask(b"append %b 0 0 1\r\n!\r\nmg %b v f\r\n" % (key, key), 3) == b"STORED\r\nVA 3 f5\r\n11!\r\n"
            )
            assert third.ask(b"delete %b\r\n" % key) == b"DELETED\r\n"
            assert writer.ask(b"get %b\r\n" % key) == b"END\r\n"
            assert writer.ask(b"touch %b 5\r\n" % key) == b"NOT_FOUND\r\n"
        assert (
            doors[0].ask(b"set k 0 0 1\r\n1\r\nset l 0 0 1\r\n1\r\nflush_all\r\n", 3) == b"STORED\r\nSTORED\r\nOK\r\n"
        )
        assert [door.ask(b"get k l\r\n") for door in doors] == [b"END\r\n"] * 3
    finally:
        for door in doors:
            door.__exit__()


def test_a_later_flush_clears_the_mesh_each_time(mesh: LocalMesh) -> None:
    with Caller(mesh.memcached_addresses[0]) as door, Caller(mesh.memcached_addresses[1]) as other:
        for _ in range(2):
            assert other.ask(b"set k 0 0 1\r\n1\r\nset l 0 0 1\r\n1\r\n", 2) == b"STORED\r\nSTORED\r\n"
            assert door.ask(b"flush_all 1\r\n") == b"OK\r\n"
            deadline = time.monotonic() + WAIT_S
            while other.ask(b"mg k\r\nmg l\r\n", 2) != b"EN\r\nEN\r\n":
                assert time.monotonic() < deadline


def test_counting_at_all_nodes_loses_nothing(mesh: LocalMesh) -> None:
    doors = [Caller(address) for address in mesh.memcached_addresses]
    try:
        assert doors[0].ask(b"set n 2 0 1\r\n0\r\n") == b"STORED\r\n"
        for door in doors:
            door.say(b"incr n 1\r\n" * 20)
        counted = sorted(int(door.file.readline()) for door in doors for _ in range(20))
        assert counted == list(range(1, 61))
    finally:
        for door in doors:
            door.__exit__()


def test_a_lease_is_won_once_in_the_whole_mesh(mesh: LocalMesh) -> None:
    doors = [Caller(address) for address in mesh.memcached_addresses]
    try:
        for round_ in range(10):
            for door in doors:
                door.say(b"mg lease%d N30\r\n" % round_)
            answers = sorted(door.file.readline() for door in doors)
            assert answers == [b"HD W\r\n", b"HD Z\r\n", b"HD Z\r\n"]
            value = b"x" * 100
            assert doors[0].ask(b"set stale%d 0 0 100\r\n%b\r\n" % (round_, value)) == b"STORED\r\n"
            assert doors[1].ask(b"md stale%d I\r\n" % round_) == b"HD\r\n"
            for door in doors:
                door.say(b"mg stale%d\r\n" % round_)
            assert sorted(door.file.readline() for door in doors) == [b"HD X W\r\n", b"HD Z X\r\n", b"HD Z X\r\n"]
    finally:
        for door in doors:
            door.__exit__()


def test_a_client_beside_it(mesh: LocalMesh) -> None:
    with Caller(mesh.memcached_addresses[1]) as door, mesh.client() as client:
        client.set("shared", "text")
        assert door.ask(b"get shared\r\n", 3) == b"VALUE shared 16 4\r\ntext\r\nEND\r\n"
        door.ask(b"set shared 2 0 1\r\n5\r\n")
        assert client.incr("shared", 1) == 6
        assert isinstance(client, Client)


def test_a_node_without_the_door_does_not_even_load_it() -> None:
    program = (
        "import sys, meshcache\n"
        f"node = {{'id': 'n1', 'listen': '127.0.0.1:{find_base_port(1)}', 'http': 'off'}}\n"
        "with meshcache.Node(meshcache.Config.from_tables(node=node, memcached={'listen': sys.argv[1]})):\n"
        "    print(len([name for name in sys.modules if 'memcached' in name]))\n"
    )
    command = [sys.executable, "-c", program]
    off, on = (
        subprocess.run([*command, listen], capture_output=True, text=True, timeout=60, check=True).stdout
        for listen in ("", f"127.0.0.1:{free_port()}")
    )
    assert int(off) == 0
    assert int(on) > 5
