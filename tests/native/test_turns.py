"""Turns that are taken natively do what the loop does in Python: replies, counts, announcements, what is left alone."""

from __future__ import annotations

import ctypes
import select
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
import zmq
from timing import eventually

from meshcache import _native
from meshcache.config import Config
from meshcache.core import node as node_module
from meshcache.core.frames import EVENTS_PER_FRAME
from meshcache.core.node import NodeCore
from meshcache.local.processes import HOST, find_base_port
from meshcache.node import server as server_module
from meshcache.node import usual_turns
from meshcache.node.connections import ASK_AFTER_BYTES, Connection
from meshcache.node.node import Node
from meshcache.node.server import Asked, Server
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Message
from meshcache.protocol.wire import DeadlinePeek, Frame, decode_frame, encode_frame
from meshcache.sockets import allocator
from meshcache.sockets.allocator import LARGE_FRAME_BYTES
from meshcache.sockets.libzmq import addresses
from meshcache.sockets.wakeup import Wakeup

if _native.absent_because:
    pytest.skip(_native.describe(), allow_module_level=True)

WAIT_MS: Final = 20_000
FLAG: Final = b"\0\0"
LEVEL: Final = m.DEFAULT_LEVEL
LONG_AGO_S: Final = -1e6
SETS: Final = 300

Make = Callable[..., Message]
"""Makes a request, given its first fields."""


def config() -> Config:
    node = {"id": "n1", "listen": f"{HOST}:{find_base_port(1)}"}
    limits = {"value_bytes_max": VALUE_BYTES_MAX}
    return Config.from_tables(node=node, cluster={"replicas": 1, "write_quorum": 1}, limits=limits)


def without_turns(*_: object) -> None:
    """Stand for ``usual_turns`` where Python takes all turns."""


def frame_of(core: NodeCore, make: Make, number: int) -> bytes:
    deadline_ms = int(time.time() * 1000) + WAIT_MS
    return encode_frame(0, [make(request=number, boot=core.boot, deadline_ms=deadline_ms, view=core.view.digest)])


def messages_in(frame: bytes) -> list[Any]:
    return list(decode_frame(frame)[1])


class Calls:
    """Two connections to a node, which ask and are answered one at a time."""

    def __init__(self, node: Node) -> None:
        server = node._server
        assert server is not None
        self.server = server
        self.core = server.core
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets = [self.context.socket(zmq.DEALER) for _ in range(2)]
        for socket in self.sockets:
            socket.rcvtimeo = WAIT_MS
            socket.connect(f"tcp://{node.config.node.address}")
        self.number = 0

    def close(self) -> None:
        self.context.destroy(linger=0)

    def frame(self, make: Make) -> bytes:
        self.number += 1
        return frame_of(self.core, make, self.number)

    def ask(self, by: int, make: Make) -> list[Any]:
        self.sockets[by].send(self.frame(make))
        return self.answers(by)

    def answers(self, by: int) -> list[Any]:
        """Return what a connection is told, without what differs between any two nodes."""
        found = []
        for message in messages_in(self.sockets[by].recv()):
            results = getattr(message, "results", None)
            told = results if results is None else [each[22:] if type(each) is bytes else each for each in results]
            found.append((type(message).__name__, getattr(message, "request", 0), told))
        return found


def get(*keys: bytes) -> Make:
    return partial(m.Get, r=LEVEL, w=LEVEL, meta=False, keys=list(keys))


def put(*items: tuple[bytes, bytes]) -> Make:
    keys, contents = [key for key, _ in items], [FLAG + value for _, value in items]
    return partial(m.Set, w=LEVEL, ttl_ms=60_000, keys=keys, contents=contents)


def delete(*keys: bytes) -> Make:
    return partial(m.Delete, w=LEVEL, kind=m.EventKind.DELETE, keys=list(keys))


USUAL: Final = (put((b"a", b"1")), get(b"a"), put((b"a", b"2"), (b"b", b"3")), get(b"a", b"b"), get(b"b"))
LARGE: Final = bytes(2 * LARGE_FRAME_BYTES)
VALUE_BYTES_MAX: Final = 1_000_000
TOO_LARGE: Final = bytes(VALUE_BYTES_MAX + 1)


@pytest.fixture
def taken_by_python(monkeypatch: pytest.MonkeyPatch) -> Counter[NodeCore]:
    """Count by node the requests that Python receives."""
    counts: Counter[NodeCore] = Counter()
    receive = NodeCore.receive_request

    def receive_request(self: NodeCore, *arguments: Any, **options: Any) -> bool:
        counts[self] += 1
        return receive(self, *arguments, **options)

    monkeypatch.setattr(NodeCore, "receive_request", receive_request)
    return counts


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch, taken_by_python: Counter[NodeCore]) -> Iterator[list[Calls]]:
    """Two nodes, the first with native turns."""
    assert taken_by_python == {}
    with Node(config()) as native, monkeypatch.context() as patch:
        patch.setattr(server_module, "usual_turns", without_turns)
        with Node(config()) as pure:
            calls = [Calls(native), Calls(pure)]
            assert calls[0].server.entrance.turns is not None
            assert calls[1].server.entrance.turns is None
            yield calls
            for each in calls:
                each.close()


def counts_of(calls: Calls) -> dict[str, Any]:
    """Return what a node has counted of requests and of its connections."""
    counters, connections = calls.core.counters, calls.server.entrance.connections
    names = "requests", "keys", "requests_in_bytes", "answers_out_bytes", "published", "malformed", "undeliverable"
    known: list[Connection] = list(connections.known.values())
    return {
        **{name: getattr(counters, name) for name in names},
        "by kind": counters.requests_by_kind.answered,
        "batches": counters.requests_by_kind.batches,
        "failed": counters.failed,
        "taken": sorted(connection.taken_bytes for connection in known),
        "handed": sorted(connection.owed_bytes for connection in known),
        "left": connections.bytes_left,
        "replies": (calls.core.outbox.replies, calls.core.outbox.reply_bytes, calls.core.outbox.events),
    }


def compare(twins: list[Calls]) -> None:
    """Hold the two against each other, once the turn of the last answer has ended and its counts are added up."""
    eventually(lambda: counts_of(twins[0]) == counts_of(twins[1]))


def test_what_is_asked_is_answered_and_counted_as_in_python(
    twins: list[Calls], taken_by_python: Counter[NodeCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    for by in (0, 1):
        assert all(each.ask(by, get(b"nothing")) == [("Reply", by + 1, [None])] for each in twins)
    before = taken_by_python.copy()
    for turn in range(20):
        for make in USUAL:
            answers = [each.ask(turn % 2, make) for each in twins]
            assert answers[0] == answers[1]
            assert answers[0][0][0] == "Reply"
    compare(twins)
    by_python = taken_by_python - before
    assert by_python[twins[1].core] == 20 * len(USUAL)
    assert by_python[twins[0].core] < 20 * len(USUAL), "one of them comes after each turn that had more to do"
    for each in twins:
        monkeypatch.setattr(each.core.coordinator.replica, "memory", lambda *_: 1 / 0)
    for _ in range(5):
        for each in twins:
            each.ask(0, get(b"b"))  # after this the turn may be taken natively
            each.sockets[0].send(each.frame(put((b"a", b"fails"))))
        assert twins[0].ask(0, get(b"a")) == twins[1].ask(0, get(b"a"))
    compare(twins)
    assert twins[0].core.counters.failed == {"Set": 5}


def test_what_is_not_usual_is_served_in_python(twins: list[Calls], taken_by_python: Counter[NodeCore]) -> None:
    received = 1  # of who is new
    usual = [(make, 0) for make in USUAL]
    unusual = (delete(b"a"), 1), (put((b"a", b"1"), (b"a", b"2")), 1), (put((b"big", TOO_LARGE)), 1), (get(b"none"), 0)
    for make, more in (*usual, *unusual, *usual):
        answers = [each.ask(0, make) for each in twins]
        assert answers[0] == answers[1]
        received += more
        assert taken_by_python[twins[0].core] >= received
    compare(twins)
    assert taken_by_python[twins[0].core] < taken_by_python[twins[1].core]
    for each in twins:
        for parts in ([b"\xc1"], [each.frame(get(b"a")), b"one part too many"]) * 5:
            each.ask(0, get(b"b"))  # after this the turn may be taken natively
            each.sockets[0].send_multipart(parts)
            assert each.ask(0, get(b"b")) == [("Reply", each.number, [FLAG + b"3"])]
    eventually(lambda: twins[0].core.counters.malformed == 10)
    compare(twins)


def test_large_values_are_served_natively_and_their_memory_is_kept(
    twins: list[Calls], taken_by_python: Counter[NodeCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    for make in USUAL:
        assert twins[0].ask(0, make) == twins[1].ask(0, make)
    told: list[bool] = []
    monkeypatch.setattr(allocator, "_told", told)
    twins[0].ask(0, put((b"large", LARGE)))
    assert told == [True]
    twins[1].ask(0, put((b"large", LARGE)))
    for make in (*USUAL, put((b"large", LARGE)), get(b"large"), get(b"a"), put((b"large", LARGE)), get(b"large")):
        answers = [each.ask(0, make) for each in twins]
        assert answers[0] == answers[1]
    compare(twins)
    assert taken_by_python[twins[0].core] < taken_by_python[twins[1].core]
    assert twins[0].core.counters.answers_out_bytes > 2 * len(LARGE)


def test_writes_are_numbered_without_subscribers_and_announced_with_them(twins: list[Calls]) -> None:
    for each in twins:
        for make in USUAL:
            each.ask(0, make)
        subscriber = each.context.socket(zmq.SUB)
        subscriber.rcvtimeo = WAIT_MS
        subscriber.connect(f"tcp://{each.server._config.node.publish_address}")
        subscriber.subscribe(b"")
        first = messages_in(subscriber.recv())[0]
        assert first.sequence == 2
        for _ in range(10):
            each.ask(0, get(b"a"))  # after this the turn may be taken natively
            each.ask(0, put((b"c", b"4")))
        found: list[Any] = []
        while len(found) < 10:
            found += [message for message in messages_in(subscriber.recv()) if message.events]
        assert [message.sequence for message in found] == list(range(3, 13))
        assert found[0].events[0][-1] == [b"c"]
        assert each.ask(0, get(b"c")) == [("Reply", each.number, [FLAG + b"4"])]
        subscriber.close(0)
    compare(twins)


def test_requests_that_come_at_once_are_all_answered(twins: list[Calls]) -> None:
    for each in twins:
        each.ask(0, put((b"a", b"1")))
        for _ in range(100):
            each.sockets[0].send(each.frame(get(b"a")))
        told: list[Any] = []
        while len(told) < 100:
            told += each.answers(0)
        assert told == [("Reply", number, [FLAG + b"1"]) for number in range(2, 102)]


# -- by hand ---------------------------------------------------------------------------------------------------


READ: Final = get(b"a")


def waits_in_the_kernel(thread_id: int) -> bool:
    """Tell whether a thread sleeps in epoll_wait(); where the kernel does not say, soon it will have begun to."""
    try:
        where = Path(f"/proc/self/task/{thread_id}/wchan").read_text()
    except OSError:
        where = "0"
    if where == "0":
        time.sleep(0.1)
        return True
    return "poll" in where


class ByHand:
    """A node whose loop does not run, with one connection that it knows."""

    def __init__(self) -> None:
        self.wakeup = Wakeup()
        asked = Asked(threading.Event(), threading.Event())
        self.server = Server(config(), asked, self.wakeup.fd, self.wakeup, supervised=False)
        self.core, self.entrance = self.server.core, self.server.entrance
        eventually(lambda: self.turn().ready)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.rcvtimeo = WAIT_MS
        self.socket.connect(f"tcp://{self.server._config.node.address}")
        self.send(put((b"a", b"1")))
        eventually(lambda: self.turn().counters.requests == 1)
        self.socket.recv()
        (self.connection,) = self.connections.known.values()

    @property
    def connections(self) -> Any:
        return self.entrance.connections

    def turn(self) -> NodeCore:
        self.core.next_deadline()
        self.core.tick(self.server._serve_until(time.monotonic() + 0.01))
        self.server._perform(self.core.drain())
        return self.core

    def send(self, make: Make) -> None:
        self.socket.send(frame_of(self.core, make, 1))

    def serve(
        self, make: Make = READ, *, within_s: float = 20.0, ahead_s_max: float = 1e12, profile: Any = None
    ) -> list[int]:
        """Take native turns until a request was answered, which comes while they sleep, or is left to others.

        Returns the descriptors that woke it for something else.
        """
        turns, before, ended = self.entrance.turns, sys.getprofile(), threading.Event()
        assert turns is not None
        self.server._inlets.woken(turns.serve(time.monotonic(), 0.0, 1e12, ()), [])
        asking = threading.Thread(target=self._ask, args=(make, threading.get_native_id(), ended))
        asking.start()
        deadline = time.monotonic() + within_s
        sys.setprofile(profile)
        try:
            woken = turns.serve(deadline, 0.0, ahead_s_max, ())
        finally:
            sys.setprofile(before)
            ended.set()
            asking.join()
        self.wakeup.clear()
        return [fd for fd, _ in woken if fd != self.wakeup.fd]

    def _ask(self, make: Make, thread_id: int, ended: threading.Event) -> None:
        """Send a request once this thread sleeps in its turns, and end them when it is served."""
        counters = self.core.counters
        before = counters.requests
        eventually(lambda: ended.is_set() or waits_in_the_kernel(thread_id))
        self.send(make)
        eventually(lambda: ended.is_set() or counters.requests > before)
        self.wakeup()

    def close(self) -> None:
        self.context.destroy(linger=0)
        self.server.close()
        self.wakeup.close()


@pytest.fixture
def by_hand() -> Iterator[ByHand]:
    made = ByHand()
    yield made
    made.close()


def test_a_turn_is_counted_and_its_end_is_told(by_hand: ByHand) -> None:
    loop, pulse = by_hand.core.counters.loop, by_hand.server.pulse
    turns, busy_s, pulse.turned_at = loop.turns, loop.busy_s, 0.0
    by_hand.core.counters.longest_turn_ms = 0.0
    assert by_hand.serve() == []
    assert by_hand.socket.recv()
    assert loop.turns == turns + 1
    assert 0 < loop.busy_s - busy_s < 0.5
    assert 0 < time.monotonic() - pulse.turned_at < 20.0
    assert by_hand.core.counters.longest_turn_ms == pytest.approx((loop.busy_s - busy_s) * 1000)


@pytest.mark.parametrize("make", [put((b"a", b"2")), get(b"a"), get(b"a", b"a")])
def test_a_usual_turn_calls_no_function_of_python(by_hand: ByHand, make: Make) -> None:
    core, latencies, called = by_hand.core, by_hand.core.coordinator.pending.latencies, list[str]()
    core.counters.longest_turn_ms = 1e9  # a longer one would be told of

    def note(at: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.append(at.f_code.co_qualname)

    def is_served_natively() -> bool:
        """Tell whether the request came while the node slept; one that came before is for Python."""
        called.clear()
        latencies.ended = [("UsualWrite", time.monotonic(), time.monotonic())]
        requests = core.counters.requests
        by_hand.serve(make, profile=note)
        left = core.counters.requests == requests or latencies.ended or core.outbox.events
        eventually(lambda: by_hand.turn().counters.requests == requests + 1)
        by_hand.socket.recv()
        return not left

    eventually(is_served_natively)
    assert [name for name in called if "slow" not in name] == []


def test_operations_that_ended_are_counted_at_the_end_of_a_turn(by_hand: ByHand) -> None:
    latencies, now = by_hand.core.coordinator.pending.latencies, time.monotonic()
    for kind in latencies.taken:
        latencies.taken[kind].bounds = (10.0, 1000.0)
        latencies.taken[kind].counts = [0, 0, 0]
    latencies.ended = [
        ("UsualWrite", now - 500, now - 499),
        ("UsualWrite", now - 5000, now - 4900),
        ("QuorumRead", now, now + 0.5),
        ("Unknown", now, now),
    ]
    by_hand.serve()
    assert by_hand.socket.recv()
    assert latencies.ended == []
    assert {kind: taken.counts for kind, taken in latencies.taken.items() if any(taken.counts)} == {
        "read": [1, 0, 0],
        "write": [0, 1, 1],
    }
    assert latencies.taken["write"].total == pytest.approx(5500, abs=2 * WAIT_MS / 1000)
    waited_s = {kind: s for kind, s in latencies.waited_s.items() if s}
    assert waited_s == pytest.approx({"read": 0.5, "write": 101.0})


def test_events_of_a_turn_are_numbered_by_frame(by_hand: ByHand) -> None:
    core = by_hand.core
    published, sequence = core.counters.published, core.frames.sequence
    event = m.Event(int(m.EventKind.SET), bytes(16), [b"a"])
    for count, frames in ((1, 1), (EVENTS_PER_FRAME, 1), (EVENTS_PER_FRAME + 1, 2)):
        core.outbox.events = [event] * count
        by_hand.serve()
        assert by_hand.socket.recv()
        published, sequence = published + 1, sequence + frames
        assert core.outbox.events == []
        assert (core.counters.published, core.frames.sequence) == (published, sequence)


def test_nothing_is_taken_after_the_deadline_nor_while_more_is_waiting(by_hand: ByHand) -> None:
    turns, inlet = by_hand.entrance.turns, by_hand.entrance.inlet
    assert turns is not None
    by_hand.send(get(b"a"))
    eventually(inlet.has_input)
    for within_s in (-1.0, 20.0):
        assert [fd for fd, _ in turns.serve(time.monotonic() + within_s, 0.0, 1e12, ())] == [inlet.fd]
        assert inlet.in_hand is None
    assert by_hand.core.counters.requests == 1


def test_while_a_queue_is_not_empty_there_are_no_native_turns(by_hand: ByHand) -> None:
    inlet = by_hand.entrance.inlet
    assert inlet.is_at_ease()
    inlet._standing_since = 1.0
    assert not inlet.is_at_ease()


def test_after_a_suspension_the_core_has_the_first_word(by_hand: ByHand) -> None:
    inlet = by_hand.entrance.inlet
    assert by_hand.serve(ahead_s_max=LONG_AGO_S, within_s=20.0) == [inlet.fd]
    assert inlet.in_hand is None
    assert inlet.has_input()


def test_after_a_stall_the_core_has_the_first_word(by_hand: ByHand) -> None:
    inlet = by_hand.entrance.inlet
    by_hand.core.coordinator.instant.move(time.monotonic() - 60.0)
    assert by_hand.serve(within_s=20.0) == [inlet.fd]
    assert inlet.in_hand is not None
    assert by_hand.core.counters.requests == 1
    inlet.drain(time.monotonic())
    assert by_hand.core.counters.requests == 2
    assert inlet.in_hand is None


def test_another_descriptor_ends_it(by_hand: ByHand) -> None:
    turns, inlets, fd = by_hand.entrance.turns, by_hand.server._inlets, by_hand.wakeup.fd
    assert turns is not None
    by_hand.wakeup()
    woken = turns.serve(time.monotonic() + 20.0, 0.0, 1e12, ())
    assert woken == [(fd, select.EPOLLIN)]
    assert inlets.woken(woken, []) == []
    assert inlets.called


def test_who_may_not_read_is_looked_at(by_hand: ByHand) -> None:
    by_hand.connection.unasked_bytes = ASK_AFTER_BYTES
    assert by_hand.serve() == []
    assert by_hand.connection.unasked_bytes == 0, "the kernel was asked what it has read"
    by_hand.connections.bytes_left = by_hand.connections.review_at_bytes
    assert by_hand.serve() == []
    assert by_hand.connections.bytes_left > by_hand.connections.review_at_bytes, "all were looked at"


# -- many at once ----------------------------------------------------------------------------------------------


def shed(by_hand: ByHand) -> None:
    """Have the inlet shed, as when its queue does not empty, until nothing is left."""
    inlet = by_hand.entrance.inlet
    while inlet.has_input():
        inlet._shedding = True
        inlet.drain(time.monotonic())
        by_hand.server._perform(by_hand.core.drain())


def answers_to(by_hand: ByHand, numbers: set[int]) -> Counter[str]:
    """Shed until these requests have an answer each; return how many there were of each kind."""
    kinds: Counter[str] = Counter()
    while numbers:
        shed(by_hand)
        if by_hand.socket.poll(10):
            for answer in messages_in(by_hand.socket.recv()):
                told = set(answer.requests) if isinstance(answer, m.TurnedAway) else {answer.request}
                assert told <= numbers, "each is answered once"
                numbers -= told
                kinds[type(answer).__name__] += len(told)
    return kinds


@pytest.mark.parametrize("natively", [True, False])
def test_of_a_flood_each_request_is_answered_or_turned_away_once(by_hand: ByHand, *, natively: bool) -> None:
    inlet, core = by_hand.entrance.inlet, by_hand.core
    assert inlet.gather is not None
    if not natively:
        inlet.gather = None
    inlet._waiting_max, received = 16, 0
    recv_large = inlet._recv_large

    def receive(flags: int) -> Any:
        nonlocal received
        received += 1
        return recv_large(flags)

    inlet._recv_large = receive
    count = 3000
    frames = [frame_of(core, get(b"a"), number) for number in range(2, count + 2)]
    for frame in frames:
        by_hand.socket.send(frame)
    kinds = answers_to(by_hand, set(range(2, count + 2)))
    assert kinds["Reply"] > 0
    assert kinds["Reply"] + kinds["TurnedAway"] + kinds["Reject"] == count
    assert core.counters.requests == count + 1
    assert by_hand.connection.taken_bytes >= sum(map(len, frames)) + 2 * count
    assert received < count // 10 if natively else received == count


def test_what_is_gathered_ends_with_what_is_something_else(by_hand: ByHand) -> None:
    gather, head = by_hand.entrance.inlet.gather, DeadlinePeek.HEAD
    assert gather is not None
    (origin,) = by_hand.connections.known
    small, large = frame_of(by_hand.core, get(b"a"), 1), frame_of(by_hand.core, get(bytes(3000)), 2)
    hello = encode_frame(0, [m.Hello(1, "hello", None, b"")] * 2)

    def gathered(most: int = 100) -> Any:
        assert by_hand.entrance.router.poll(WAIT_MS)
        eventually(by_hand.entrance.inlet.has_input)
        return gather(most, 2048, head)

    for frame in (small, small, large):
        by_hand.socket.send(frame)
    frames, other = gathered()
    while other is None:  # libzmq hands over what has come so far
        more, other = gathered()
        frames = {origin: frames.get(origin, []) + more.get(origin, [])}
    assert (frames, other) == ({origin: [small, small]}, (origin, large))
    by_hand.socket.send(hello)
    assert gathered() == ({}, (origin, hello))
    by_hand.socket.send_multipart([small, b"more"])
    assert gathered() == ({}, (origin, small))
    assert by_hand.entrance.router.recv(zmq.DONTWAIT) == b"more"
    by_hand.socket.send(small)
    assert gathered(1) == ({origin: [small]}, None)
    by_hand.connections.known.clear()
    by_hand.socket.send(small)
    assert gathered() == ({}, (origin,))
    assert by_hand.entrance.router.recv(zmq.DONTWAIT) == small
    assert gather(100, 2048, head) == ({}, None)


# -- what fails ------------------------------------------------------------------------------------------------


def answering(result: int, *types: Any) -> tuple[Any, int]:
    """Return a function of C that returns this, to be kept alive, and its address."""
    made = ctypes.CFUNCTYPE(ctypes.c_int, *types)(lambda *_: result)
    return made, ctypes.cast(made, ctypes.c_void_p).value or 0


@pytest.mark.parametrize(("error", "stays"), [(zmq.EAGAIN, True), (zmq.EHOSTUNREACH, False)])
def test_a_reply_that_cannot_be_sent_is_counted(
    monkeypatch: pytest.MonkeyPatch, by_hand: ByHand, error: int, stays: bool
) -> None:
    found = dict(zip(usual_turns._FUNCTIONS, addresses(*usual_turns._FUNCTIONS) or (), strict=True))
    fails, found["zmq_send"] = answering(-1, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    tells, found["zmq_errno"] = answering(int(error))
    monkeypatch.setattr(usual_turns, "addresses", lambda *_: tuple(found.values()))
    server, entrance, counters = by_hand.server, by_hand.entrance, by_hand.core.counters
    callbacks = server._note_slow_turn, server._note_undelivered
    turns = usual_turns.usual_turns(
        entrance.router, server._inlets.fd, server.core, by_hand.connections, entrance.inlet, server.pulse, *callbacks
    )
    server.entrance = by_hand.entrance = replace(entrance, turns=turns)
    sent_bytes = counters.answers_out_bytes
    by_hand.serve()
    assert counters.requests == 2
    assert counters.undeliverable == 1
    assert counters.answers_out_bytes == sent_bytes
    assert bool(by_hand.connections.known) is stays
    assert fails
    assert tells


def test_where_libzmq_is_out_of_reach_python_takes_all_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usual_turns, "_FUNCTIONS", ("no_such_function",))
    assert addresses(*usual_turns._FUNCTIONS) is None
    with Node(config()) as node:
        assert node._server is not None
        assert node._server.entrance.turns is None
        with node.client() as client:
            client.set("a", "1")
            assert client.get("a") == "1"


# -- nodes with peers ------------------------------------------------------------------------------------------


@pytest.fixture
def frames_in_python(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the frames that Python receives, and the kinds of messages that it decodes."""
    counts: Counter[str] = Counter()
    decode, request, answer = decode_frame, NodeCore.receive_request, NodeCore.receive_answer

    def decode_counted(frame: Frame) -> tuple[int, list[Message]]:
        clock, messages = decode(frame)
        counts.update(type(message).__name__ for message in messages)
        return clock, messages

    def request_counted(self: NodeCore, *arguments: Any, **options: Any) -> bool:
        counts["frames"] += 1
        return request(self, *arguments, **options)

    def answer_counted(self: NodeCore, *arguments: Any) -> None:
        counts["frames"] += 1
        answer(self, *arguments)

    monkeypatch.setattr(node_module, "decode_frame", decode_counted)
    monkeypatch.setattr(NodeCore, "receive_request", request_counted)
    monkeypatch.setattr(NodeCore, "receive_answer", answer_counted)
    return counts


@pytest.fixture
def mesh(frames_in_python: Counter[str]) -> Iterator[list[Node]]:
    """Three nodes with two copies of each key."""
    assert frames_in_python == {}
    base, cluster = find_base_port(3), {"replicas": 2, "write_quorum": 2, "slots": 64, "vnodes": 8}
    addresses = [f"{HOST}:{base + number}" for number in range(3)]
    with ExitStack() as stack:
        nodes = []
        for number, address in enumerate(addresses):
            tables = {"id": f"n{number}", "listen": address, "seeds": addresses}
            nodes.append(Node(Config.from_tables(node=tables, cluster=cluster)).start())
            stack.callback(nodes[-1].stop)
        eventually(lambda: all(len(core_of(node).view.ring.members) == 3 for node in nodes))
        eventually(lambda: all(core_of(node).settled and not core_of(node).view.former for node in nodes))
        yield nodes


def core_of(node: Node) -> NodeCore:
    assert node._server is not None
    return node._server.core


def test_a_set_with_copies_takes_native_turns_at_all_nodes(mesh: list[Node], frames_in_python: Counter[str]) -> None:
    cores = [core_of(node) for node in mesh]
    with mesh[0].client(near_cache=False) as client:
        client.set("first", "1")
        before = [core.counters.requests_by_kind.answered["Set"] for core in cores]
        frames_in_python.clear()
        for number in range(SETS):
            client.set(f"key-{number}", f"value-{number}")
        answered = [core.counters.requests_by_kind.answered["Set"] for core in cores]
        assert sum(answered) == sum(before) + SETS
        by_python = [frames_in_python[kind] for kind in ("Set", "Write", "WriteReply")]
        assert max(by_python) < SETS / 2, "those that come in one frame with something else"
        assert frames_in_python["frames"] < 3 * SETS / 2, "those that come with a probe of another node, or after it"
        for number in range(SETS):
            assert client.get(f"key-{number}") == f"value-{number}"
    for number in range(SETS):
        key = b"key-%d" % number
        held = [core.store.peek(key) for core in cores]
        owners = cores[0].view.ring.owners[cores[0].view.ring.slot_of(key)]
        assert [record is not None for record in held] == [core.membership.own_id in owners for core in cores]
        assert len(set(held) - {None}) == 1
    waits = [core.coordinator.pending.latencies.statistics()["duration_s"]["write"] for core in cores]
    assert sum(sum(each["counts"]) for each in waits) >= SETS
    assert all(core.coordinator.pending.running == {} for core in cores)


def test_sets_with_copies_end_when_a_node_is_gone(mesh: list[Node]) -> None:
    with mesh[0].client(near_cache=False) as client:
        for number in range(SETS):
            client.set(f"key-{number}", "1")
        mesh[2].stop()
        for number in range(SETS):
            client.set(f"key-{number}", "2")
        assert client.get_many([f"key-{number}" for number in range(SETS)]) == {
            f"key-{number}": "2" for number in range(SETS)
        }
