"""A node on real sockets: what it does with friends, strangers and vandals."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from timing import eventually

from meshcache.config import Config
from meshcache.errors import ConfigError
from meshcache.node.node import Node
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Code
from meshcache.protocol.wire import decode_frame, encode_frame

pytestmark = pytest.mark.process


def free_port() -> int:
    """Return a port below the ephemeral range whose neighbours for publish and http are free too."""
    for port in range(21_000 + time.monotonic_ns() % 5000, 32_000, 7):
        with contextlib.ExitStack() as stack:
            try:
                for offset in (0, 100, 200):
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def config(port: int, *, seeds: list[int] | None = None, **tables: dict[str, Any]) -> Config:
    node = {"id": f"n{port}", "listen": f"127.0.0.1:{port}", "seeds": [f"127.0.0.1:{p}" for p in seeds or []]}
    tables["node"] = node | tables.get("node", {})
    return Config.from_tables(**tables)


class Caller:
    """A client made of one bare DEALER."""

    def __init__(self, address: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(f"tcp://{address}")
        self.number = 0
        self.welcome: Any = self.exchange(m.Hello(m.PROTOCOL, "", None, b""))

    def exchange(self, message: m.Message, timeout_s: float = 5.0) -> Any:
        self.socket.send(encode_frame(0, [message]))
        return self.receive(timeout_s)

    def receive(self, timeout_s: float = 5.0) -> Any:
        if not self.socket.poll(int(timeout_s * 1000)):
            return None
        return decode_frame(self.socket.recv())[1][0]

    def head(self, **changes: Any) -> tuple[int, int, int, bytes]:
        self.number += 1
        boot = changes.get("boot", self.welcome.boot)
        deadline_ms = changes.get("deadline_ms", time.time_ns() // 1_000_000 + 5000)
        return self.number, boot, deadline_ms, b""

    def get(self, *keys: bytes, **changes: Any) -> Any:
        r = changes.pop("r", m.DEFAULT_LEVEL)
        return self.exchange(m.Get(*self.head(**changes), r, m.DEFAULT_LEVEL, False, list(keys)))

    def set(self, pairs: dict[bytes, bytes], **changes: Any) -> Any:
        w = changes.pop("w", m.DEFAULT_LEVEL)
        contents = [b"\0\0" + value for value in pairs.values()]
        return self.exchange(m.Set(*self.head(**changes), w, m.TTL_DEFAULT, list(pairs), contents))

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def node() -> Iterator[Node]:
    with Node(config(free_port())) as running:
        yield running


@pytest.fixture
def caller(node: Node) -> Iterator[Caller]:
    connected = Caller(node.config.node.listen)
    yield connected
    connected.close()


def counters(caller: Caller) -> dict[str, Any]:
    reply = caller.exchange(m.Inspect(*caller.head(), "stats", b""))
    stats: dict[str, Any] = reply.results[0]["node"]
    return stats


def test_what_is_set_is_read(caller: Caller) -> None:
    assert caller.set({b"a": b"1", b"b": b"2"}).results is None
    values = [record and record[24:] for record in caller.get(b"a", b"b", b"c").results]
    assert values == [b"1", b"2", None]


def test_a_key_twice_in_one_batch_keeps_the_later_value(caller: Caller) -> None:
    request = m.Set(*caller.head(), 0, m.TTL_DEFAULT, [b"k", b"k"], [b"\0\0old", b"\0\0new"])
    assert caller.exchange(request).results is None
    assert caller.get(b"k").results[0][24:] == b"new"


def test_a_request_for_a_former_process_is_refused_unexecuted(caller: Caller) -> None:
    reply = caller.set({b"k": b"v"}, boot=1)
    assert reply.error == [Code.STALE_BOOT]
    assert caller.get(b"k").results == [None]


def test_a_request_after_its_deadline_is_dropped_unexecuted(caller: Caller) -> None:
    caller.socket.send(encode_frame(0, [m.Set(*caller.head(deadline_ms=1), 0, 0, [b"k"], [b"\0\0v"])]))
    assert caller.get(b"k").results == [None]
    assert counters(caller)["late"] == 1


def test_more_replicas_than_there_are_is_refused_by_name(caller: Caller) -> None:
    code, text = caller.get(b"k", r=3).error
    assert code == Code.INVALID
    assert "cluster.replicas is 2" in text


def test_a_value_over_the_limit_is_refused_and_nothing_evicted(caller: Caller) -> None:
    caller.set({b"kept": b"v"})
    limit = caller.welcome.settings["value_bytes_max"]
    reply = caller.set({b"big": bytes(limit + 1)})
    assert reply.error == [Code.TOO_LARGE, limit + 1, limit]
    assert caller.get(b"kept").results[0][24:] == b"v"


def test_a_reply_over_its_budget_says_which_keys_to_ask_for_again(caller: Caller) -> None:
    budget = caller.welcome.settings["reply_bytes_max"]
    keys = [b"a", b"b", b"c"]
    for key in keys:
        assert caller.set({key: bytes(budget // 2 + 1)}).results is None
    first = caller.get(*keys).results
    assert len(first[0]) > budget // 2
    assert first[1:] == [[Code.MORE], [Code.MORE]]


@pytest.mark.parametrize(
    "frames",
    [
        [b"\xff" * 100],
        [b""],
        [b"\xdd\xff\xff\xff\xff"],
        [b"\x91" * 2000],
        [encode_frame(0, [m.Hello(m.PROTOCOL, "", None, b"")]), b"second part"],
        [b"part"] * 500,
        [encode_frame(0, [m.ReadReply(1, b"", [], [])])],
        [encode_frame(0, [m.Get(1, 2, 3, b"", 0, 0, False, [b"k"])])[:-3]],
        [encode_frame(1 << 63, [m.Ping(1, "x", b"", False, [])])],
    ],
)
def test_frames_that_are_no_request_are_counted_and_dropped(caller: Caller, frames: list[bytes]) -> None:
    caller.set({b"kept": b"v"})
    before = counters(caller)
    caller.socket.send_multipart(frames)
    after = counters(caller)
    assert after["malformed"] + after["clock_refused"] == before["malformed"] + before["clock_refused"] + 1
    assert caller.get(b"kept").results[0][24:] == b"v"


@pytest.mark.parametrize(
    "update",
    [
        [99, 1],
        [4, "one", None, 0],
        [1, b"", 0],
        [5, True],
        [3, b"\0\0v", 0],
        [4, 1.5, 0, 0],
        [],
        [1, b"\1\0tomb", 0],
    ],
)
def test_changes_of_the_wrong_shape_are_counted_and_dropped(caller: Caller, update: list[Any]) -> None:
    before = counters(caller)["malformed"]
    caller.socket.send(encode_frame(0, [m.Update(*caller.head(), 0, 0, 0, [b"k"], [update])]))
    assert counters(caller)["malformed"] == before + 1


def greeting() -> bytes:
    """Return the ZMTP 3.1 greeting and READY of a NULL DEALER, for hand-made frames behind it."""
    signature = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
    ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    return signature + b"\x04" + bytes((len(ready),)) + ready


@pytest.mark.parametrize(
    "payload",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
        bytes(range(256)) * 200,
        greeting() + b"\x02" + struct.pack(">Q", 8 << 30) + b"x" * 1000,
        greeting() + b"\x03" + struct.pack(">Q", 1 << 62),
        greeting() + b"\x04\x05BOGUS" * 50,
    ],
    ids=["http", "noise", "8 GiB frame", "endless frame with more", "unknown commands"],
)
def test_hostile_bytes_on_the_port_do_no_harm(caller: Caller, node: Node, payload: bytes) -> None:
    caller.set({b"kept": b"v"})
    host, port = node.config.node.listen.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as vandal:
        with contextlib.suppress(OSError):
            vandal.sendall(payload)
        assert caller.get(b"kept").results[0][24:] == b"v"
    assert caller.get(b"kept").results[0][24:] == b"v"


def send_until_cut_off(vandal: socket.socket, part: bytes, parts_max: int) -> None:
    deadline = time.monotonic() + 20
    for _ in range(parts_max):
        vandal.sendall(part)
        assert time.monotonic() < deadline


def test_an_endless_message_is_cut_off_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshcache.node.memory.EXCESS_BYTES_MAX", 48 * 1024 * 1024)
    with Node(config(free_port())) as node:
        caller = Caller(node.config.node.listen)
        caller.set({b"kept": b"v"})
        host, port = node.config.node.listen.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as vandal:
            vandal.sendall(greeting())
            part = b"\x03" + struct.pack(">Q", 1 << 20) + bytes(1 << 20)

            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                send_until_cut_off(vandal, part, parts_max=4096)
        assert eventually(lambda: caller.get(b"kept", timeout_s=1) is not None)
        assert caller.get(b"kept").results[0][24:] == b"v"
        caller.close()


def test_a_port_in_use_is_named() -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port}: the port is in use"):
            Node(config(port)).start()


def is_complete(caller: Caller, size: int) -> bool:
    status = caller.exchange(m.Inspect(*caller.head(), "status", b""))
    return bool(status) and sum(member["state"] == "alive" for member in status.results[0]["members"]) == size


def test_a_second_node_with_the_same_id_is_refused_and_the_first_serves_on(caller: Caller, node: Node) -> None:
    port, first = free_port(), int(node.config.node.listen.split(":")[1])
    twin = config(port, seeds=[first], node={"id": node.config.node.node_id})
    with pytest.raises(ConfigError, match="is in use by this node"):
        Node(twin).run()
    assert is_complete(caller, 1)


def test_a_node_of_another_cluster_is_refused(node: Node) -> None:
    first = int(node.config.node.listen.split(":")[1])
    with pytest.raises(ConfigError, match="belongs to cluster 'meshcache', not 'other'"):
        Node(config(free_port(), seeds=[first], cluster={"name": "other"})).run()


def test_nodes_that_disagree_about_the_ring_do_not_join(node: Node) -> None:
    first = int(node.config.node.listen.split(":")[1])
    with pytest.raises(ConfigError, match=r"cluster\.replicas is 3 here and 2 at"):
        Node(config(free_port(), seeds=[first], cluster={"replicas": 3})).run()


def test_nodes_find_each_other_from_one_seed_in_any_order() -> None:
    seed, second, third = free_port(), free_port(), free_port()
    nodes = [Node(config(port, seeds=[seed])) for port in (third, second, seed)]  # the seed itself comes last
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.enter_context(node)
        for node in nodes:
            caller = Caller(node.config.node.listen)
            eventually(lambda caller=caller: is_complete(caller, 3))  # type: ignore[misc]  # mypy cannot infer it
            caller.close()


def test_a_node_that_stops_leaves_the_others_ring_at_once() -> None:
    first, second = free_port(), free_port()
    with Node(config(first)) as stays:
        caller = Caller(stays.config.node.listen)
        with Node(config(second, seeds=[first])):
            eventually(lambda: is_complete(caller, 2))
        eventually(lambda: is_complete(caller, 1), timeout_s=1.0)
        states = [m["state"] for m in caller.exchange(m.Inspect(*caller.head(), "status", b"")).results[0]["members"]]
        assert sorted(states) == ["alive", "left"]
        caller.close()


def test_a_program_that_ends_with_its_node_running_has_it_leave() -> None:
    first, second = free_port(), free_port()
    program = (
        "import meshcache\nconfig = meshcache.Config.from_tables(node={"
        f"'id': 'app', 'listen': '127.0.0.1:{second}', 'seeds': ['127.0.0.1:{first}']" + "})\n"
        "node = meshcache.Node(config).start()\ncache = node.client()\ncache.set('k', 'v')\n"
    )
    with Node(config(first)) as stays, stays.client() as client:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")

        def state() -> str | None:
            members = {m["node_id"]: m["state"] for m in client.inspect("status")["members"]}
            return members.get("app") if members.get("app") != "alive" else None

        assert eventually(state) == "left"
        client.forget("app")
        assert len(client.inspect("status")["members"]) == 1
        with pytest.raises(ValueError, match=r"forget: n\d+ is alive: have it leave first"):
            client.forget(stays.config.node.node_id)


def test_the_stream_carries_every_set_delete_and_invalidate_without_gaps(caller: Caller, node: Node) -> None:
    context = zmq.Context()
    subscriber = context.socket(zmq.SUB)
    subscriber.connect(f"tcp://{node.config.node.publish_address}")
    subscriber.subscribe(b"")
    assert subscriber.poll(5000)  # the idle repetition: the subscription stands
    caller.set({b"a": b"1"})
    caller.exchange(m.Delete(*caller.head(), 0, int(m.EventKind.DELETE), [b"a"]))
    caller.exchange(m.Delete(*caller.head(), 0, int(m.EventKind.INVALIDATE), [b"b"]))
    seen: list[tuple[int, int, list[bytes]]] = []
    while len(seen) < 3:
        assert subscriber.poll(5000)
        stream = decode_frame(subscriber.recv())[1][0]
        assert isinstance(stream, m.Invalidations)
        seen += [(stream.sequence, event.kind, event.keys) for event in stream.events]
    first = seen[0][0]
    assert seen == [(first, 1, [b"a"]), (first + 1, 2, [b"a"]), (first + 2, 3, [b"b"])]
    context.destroy(linger=0)


def test_a_node_that_does_not_own_a_hot_key_keeps_copies_of_it() -> None:
    first = free_port()
    tables: dict[str, Any] = {
        "hot_keys": {"threshold_reads": 20, "copy_ttl_s": 60.0},
        "cluster": {"replicas": 1, "write_quorum": 1},
        "membership": {"join_wait_s": 0.3},
    }
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(Node(config(first, **tables)))
        two = stack.enter_context(Node(config(free_port(), seeds=[first], **tables)))
        callers = [Caller(node.config.node.listen) for node in (one, two)]
        for caller in callers:
            stack.callback(caller.close)
        eventually(lambda: all(map(settled_in_two, callers)))
        key = next(key for i in range(1000) if stored_at_second_only(callers, key := b"k%d" % i))
        stranger, owner = callers

        def value() -> bytes:
            stranger.socket.send(
                encode_frame(0, [m.Get(*stranger.head(), m.DEFAULT_LEVEL, m.DEFAULT_LEVEL, False, [key])])
            )
            assert stranger.socket.poll(5000)
            reply = decode_frame(stranger.socket.recv())[1][-1]
            assert isinstance(reply, m.Reply)
            assert reply.results is not None
            return bytes(reply.results[0][24:])

        def copy_hits() -> int:
            assert value() == b"v"
            return int(of_hot_keys(stranger)["copy_hits"])

        assert of_hot_keys(stranger)["streams_followed"] == 0
        eventually(copy_hits)
        assert of_hot_keys(stranger)["streams_followed"] == 1
        asked = statistics_of(owner)["store"]["hits"]
        hits = of_hot_keys(stranger)["copy_hits"]
        for _ in range(100):
            assert value() == b"v"
        hits = of_hot_keys(stranger)["copy_hits"] - hits
        assert hits > 50
        assert statistics_of(owner)["store"]["hits"] - asked == 100 - hits
        known = stranger.exchange(m.Inspect(*stranger.head(), "status", b"")).results[0]["ring_digest"]
        hits = of_hot_keys(stranger)["copy_hits"]
        for _ in range(5):
            stranger.exchange(
                m.Get(*stranger.head()[:3], bytes.fromhex(known), m.DEFAULT_LEVEL, m.DEFAULT_LEVEL, False, [key])
            )
        assert of_hot_keys(stranger)["copy_hits"] == hits, "who works with the same ring may keep a copy of its own"
        stranger.set({key: b"by itself"})
        assert value() == b"by itself", "what it coordinates itself it hears of at once"
        eventually(lambda: value() and of_hot_keys(stranger)["copies"])
        owner.set({key: b"elsewhere"})
        eventually(lambda: value() == b"elsewhere")


def settled_in_two(caller: Caller) -> bool:
    told = caller.exchange(m.Inspect(*caller.head(), "status", b"")).results[0]
    return len(told["members"]) == 2 and not told["changing"] and not told["slots_missing"]


def stored_at_second_only(callers: list[Caller], key: bytes) -> bool:
    callers[0].set({key: b"v"})
    return held_by(callers[1], key) and not held_by(callers[0], key)


def held_by(caller: Caller, key: bytes) -> bool:
    reply = caller.exchange(m.Inspect(*caller.head(), "replica", key))
    return reply.results[0]["version"] is not None


def statistics_of(caller: Caller) -> dict[str, Any]:
    found: dict[str, Any] = caller.exchange(m.Inspect(*caller.head(), "stats", b"")).results[0]
    return found


def of_hot_keys(caller: Caller) -> dict[str, Any]:
    found: dict[str, Any] = statistics_of(caller)["hot_keys"]
    return found


def test_a_node_that_cannot_listen_anew_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with Node(config(port)) as node:
        server = node._server
        assert server is not None
        listen_at = server._listen
        refused: list[int] = []

        def refusing(kind: int, wait_s: float) -> Any:
            if len(refused) < 2:
                refused.append(kind)
                raise ConfigError("planted")
            return listen_at(kind, wait_s)

        look, excess = server.watch.run, [1 << 30]
        monkeypatch.setattr(server, "_listen", refusing)
        monkeypatch.setattr(server.watch, "run", lambda now: look(now) or (excess.pop() if excess else 0))
        eventually(lambda: len(refused) == 2 and not server.entrance.router.closed)
        assert server.core.counters.router_resets == 1
        with node.client() as client:
            client.set("k", 1)
            assert client.get("k") == 1


def test_a_node_that_cannot_be_made_leaves_its_ports_free(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("planted")

    with monkeypatch.context() as for_now:
        for_now.setattr("meshcache.node.server.NodeCore", broken)
        with pytest.raises(RuntimeError, match="planted"):
            Node(config(port)).start()
    with Node(config(port)) as node, node.client() as client:
        client.set("k", 1)
        assert client.get("k") == 1
