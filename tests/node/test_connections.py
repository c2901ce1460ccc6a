"""Who is owed what, and how a connection is cut: on real sockets, since it is the kernel that tells."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import zmq
from timing import eventually

from meshcache.core import handshake
from meshcache.keys import ALL_RIGHTS, NOBODY, AllowedKey, Rights
from meshcache.node import connections as c
from meshcache.node import memory, strangers
from meshcache.node.connections import Connections, open_connections, shut_down, traffic_of
from meshcache.node.intake import RequestInlet
from meshcache.node.memory import Watch
from meshcache.protocol import messages as m
from meshcache.protocol.wire import encode_frame

WAIT_S = 20.0
RETRY_S = 0.3
TRIES = 50
LARGE = bytes(1 << 20)
FACT = m.Fact("n1", "127.0.0.1:1", "127.0.0.1:2", "", "host", "", 1.0, 1, 0, 0)
NODES_HELLO = encode_frame(0, [m.Hello(m.PROTOCOL, "mesh", FACT, b"")])
LONG_HELLO = encode_frame(0, [m.Hello(m.PROTOCOL, "mesh", FACT, b"") for _ in range(200)])
CLIENTS_HELLO = encode_frame(0, [m.Hello(m.PROTOCOL, "mesh", None, b"")])


class Hub:
    """A ROUTER and what it knows of who is connected."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.sndhwm = 10_000
        self.port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.origins: list[bytes] = []
        self.limit(c.DESCRIPTORS_MAX)
        self.dealers: list[zmq.Socket[bytes]] = []

    def limit(self, connections_max: int) -> None:
        """Have no more connections than that, from now on."""
        self.connections = Connections(self.port, connections_max=connections_max)
        self.inlet = RequestInlet(
            self.router,
            self.connections,
            self.take,
            lambda: None,
            lambda: lambda _: None,
            lambda *_: None,
            handshake.is_from_node,
        )

    def take(self, origin: bytes, _frame: object, _now: float) -> bool:
        self.origins.append(origin)
        return False

    def connect(self, hello: bytes = b"hello") -> tuple[zmq.Socket[bytes], bytes]:
        """Return a new connection and its name."""
        dealer = self.context.socket(zmq.DEALER)
        dealer.rcvhwm = 1
        dealer.connect(f"tcp://127.0.0.1:{self.port}")
        self.dealers.append(dealer)
        dealer.send(hello)
        known = len(self.origins)
        eventually(lambda: self.inlet.drain(0.0) or len(self.origins) > known)
        return dealer, self.origins[-1]

    def send(self, origin: bytes, size: int = len(LARGE)) -> None:
        self.router.send_multipart([origin, LARGE[:size]], zmq.DONTWAIT)
        self.connections.hand(origin, size)

    def owed(self, origin: bytes) -> int:
        self.connections.review()
        connection = self.connections.known.get(origin)
        return -1 if connection is None else connection.owed_bytes


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.context.destroy(linger=0)


def test_a_connection_is_known_by_what_it_sends(hub: Hub) -> None:
    _, origin = hub.connect()
    connection = hub.connections.known[origin]
    traffic = traffic_of(connection.fd)
    assert traffic is not None
    assert traffic.peer == connection.peer
    assert traffic.port == hub.port
    assert connection.taken_bytes == len(b"hello") + 2


def test_who_reads_is_owed_nothing(hub: Hub) -> None:
    dealer, origin = hub.connect()
    for _ in range(100):
        hub.send(origin)
        assert dealer.poll(int(WAIT_S * 1000))
        dealer.recv()
        assert origin not in hub.connections.deaf
    eventually(lambda: hub.owed(origin) == 0)


def fill(hub: Hub, origin: bytes, until: Callable[[], bool]) -> int:
    """Send until something is so; return how many megabytes that took."""
    for sent in range(200):
        if until():
            return sent
        hub.send(origin)
    raise AssertionError("it takes everything")


def test_who_does_not_read_is_served_no_more_and_then_cut(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "DEAF_S", 0.1)
    _, deaf = hub.connect()
    other, honest = hub.connect()
    fill(hub, deaf, lambda: hub.owed(deaf) > c.OWED_BYTES_MAX + (8 << 20))  # the kernel may take some of it yet
    assert deaf in hub.connections.deaf
    eventually(lambda: hub.owed(deaf) == -1)
    assert hub.connections.cut == 1
    assert deaf in hub.connections.deaf, "what it asked for must not be done"
    hub.send(honest)
    assert other.poll(int(WAIT_S * 1000))


def test_many_who_do_not_read_are_deaf_when_no_room_for_a_reply_is_left(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would exceed the total is not sent, so it is not exceeded; and they would keep all others from it."""
    monkeypatch.setattr(c, "OWED_BYTES_TOTAL", 24 << 20)
    monkeypatch.setattr(c, "DEAF_S", 1e9)
    origins = {hub.connect()[1] for _ in range(3)}
    for _ in range(200):
        least = min(origins, key=hub.owed)  # the kernel may take some of it at any time
        if hub.connections.deaf == origins:
            break
        if hub.connections.bytes_left >= c.ROOM_BYTES_MIN:
            assert not hub.connections.deaf, "each is owed less than one may be"
        hub.send(least)
    assert hub.connections.deaf == origins
    assert hub.connections.bytes_left > 0


def test_who_has_closed_is_served_no_more_although_its_requests_go_on_to_arrive(hub: Hub) -> None:
    """libzmq hands them over; each may ask for megabytes that nobody will read."""
    dealer, gone = hub.connect()
    _, stays = hub.connect()
    hub.send(gone, 1000)
    dealer.close(0)
    eventually(lambda: hub.owed(gone) == -1)
    hub.connections.meet(gone, 0)
    assert gone in hub.connections.deaf
    assert stays not in hub.connections.deaf
    hub.send(stays, 1000)
    hub.connections.lose(stays)
    hub.connections.meet(stays, 0)
    assert stays in hub.connections.deaf, "a reply could not be sent: there is no such connection"
    assert hub.connections.bytes_left == c.OWED_BYTES_TOTAL, "who is gone is owed nothing"


def test_a_name_of_its_own_choice_may_come_back(hub: Hub) -> None:
    hub.connections.meet(b"named", 0)
    hub.connections.lose(b"named")
    hub.connections.meet(b"named", 0)
    assert b"named" not in hub.connections.deaf


def test_one_connection_too_many_is_refused_until_another_has_closed(hub: Hub) -> None:
    hub.limit(3)
    dealers = [hub.connect() for _ in range(3)]
    _, fourth = hub.connect()
    assert hub.connections.refused == 1
    assert fourth in hub.connections.deaf
    assert all(origin in hub.connections.known for _, origin in dealers), "it is the newest that goes"
    closed = dealers[0][1]
    dealers[0][0].close(0)
    eventually(lambda: not hub.connections.is_still(hub.connections.known[closed]))
    _, fifth = hub.connect()
    assert fifth in hub.connections.known
    assert hub.connections.refused == 1
    assert closed not in hub.connections.known


def test_a_node_is_never_one_too_many(hub: Hub) -> None:
    hub.limit(1)
    hub.connect()
    _, node = hub.connect(hello=NODES_HELLO)
    assert node in hub.connections.known
    assert not hub.connections.refused
    _, client = hub.connect(hello=CLIENTS_HELLO)
    assert client not in hub.connections.known


@pytest.mark.parametrize("frame", [b"", b"hello", LONG_HELLO, CLIENTS_HELLO])
def test_only_a_hello_with_a_fact_is_a_nodes(frame: bytes) -> None:
    assert handshake.is_from_node(NODES_HELLO)
    assert not handshake.is_from_node(frame)


def has_closed(hub: Hub, origin: bytes) -> bool:
    return not hub.connections.is_still(hub.connections.known[origin])


def test_who_came_and_went_is_not_remembered_for_ever(hub: Hub) -> None:
    for _ in range(30):
        dealer, origin = hub.connect()
        dealer.close(0)
        eventually(partial(has_closed, hub, origin))
    hub.connect()
    assert len(hub.connections.known) <= 3


def test_who_reads_again_is_served_again(hub: Hub) -> None:
    dealer, origin = hub.connect()
    fill(hub, origin, lambda: hub.owed(origin) > c.OWED_BYTES_MAX + (8 << 20))
    assert origin in hub.connections.deaf

    def catch_up() -> bool:
        while dealer.poll(0):
            dealer.recv()
        return hub.owed(origin) == 0

    eventually(catch_up)
    assert origin not in hub.connections.deaf
    assert not hub.connections.cut


def test_many_that_are_owed_little_each_are_owed_too_much_together(hub: Hub) -> None:
    origins = [hub.connect()[1] for _ in range(12)]
    sent = 0
    while hub.connections.bytes_left > 0:
        hub.send(origins[sent % len(origins)])
        sent += 1
        hub.connections.review()
        assert sent < 500
    hub.send(origins[0])
    hub.connections.review()
    assert hub.connections.deaf
    assert all(hub.connections.known[origin].owed_bytes < c.OWED_BYTES_MAX for origin in hub.connections.deaf)


def test_what_libzmq_dropped_is_not_owed_for_ever(hub: Hub) -> None:
    _, origin = hub.connect()
    hub.connections.hand(origin, 1000)  # and never sent
    eventually(lambda: hub.owed(origin) == 0)


def test_a_descriptor_that_leads_elsewhere_is_left_alone(hub: Hub) -> None:
    _, origin = hub.connect()
    connection = hub.connections.known[origin]
    assert not shut_down(connection.fd, ("127.0.0.1", 1))
    assert not shut_down(hub.router.getsockopt(zmq.FD), connection.peer)  # type: ignore[arg-type]  # a number
    assert not shut_down(-1, connection.peer)
    assert traffic_of(hub.router.getsockopt(zmq.FD)) is None  # type: ignore[arg-type]  # a number
    assert hub.owed(origin) == 0


# ---- the watch over memory and descriptors


def watch(hub: Hub) -> tuple[Watch, int]:
    spare = os.eventfd(0)
    return Watch(lambda: [hub.connections], int, spare), spare


def silent(hub: Hub) -> socket.socket:
    return socket.create_connection(("127.0.0.1", hub.port))


def is_cut(connection: socket.socket) -> bool:
    """Tell whether the other side has closed; what it said before is read away."""
    connection.settimeout(0.01)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_when_descriptors_are_short_those_go_first_that_never_said_anything(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    dealer, origin = hub.connect()
    strangers = [silent(hub) for _ in range(8)]
    eventually(lambda: len(list(open_connections(hub.port))) == 9)
    looking, spare = watch(hub)
    looking.run(0.0)
    assert not any(map(is_cut, strangers))
    used = os.dup(spare)
    os.close(used)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + used // 8, 1 << 20))
    looking.run(1.0)
    os.close(spare)
    assert hub.connections.cut == 2  # one in four
    eventually(lambda: sum(map(is_cut, strangers)) == 2)
    hub.send(origin, 10)
    assert dealer.poll(int(WAIT_S * 1000)), "one that is in use was cut"
    for stranger in strangers:
        stranger.close()


def test_of_too_many_that_never_said_anything_some_go_and_nobody_else(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "STRANGERS_MAX", 5)
    monkeypatch.setattr(strangers, "SILENT_MS_MIN", 0)
    monkeypatch.setattr(strangers, "STEP", 16)
    dealer, origin = hub.connect()
    looking, spare = watch(hub)

    def look_often() -> int:
        for _ in range(200):
            looking.run(0.0)
        return hub.connections.cut

    look_often()
    few = [silent(hub) for _ in range(5)]
    eventually(lambda: len(list(open_connections(hub.port))) == 6)
    assert look_often() == 0, "what else is open was counted"
    more = [silent(hub) for _ in range(20)]
    eventually(lambda: len(list(open_connections(hub.port))) == 26)
    eventually(lambda: look_often() >= 20)
    eventually(lambda: sum(map(is_cut, few + more)) == 20)
    assert look_often() == 20
    hub.send(origin, 10)
    assert dealer.poll(int(WAIT_S * 1000)), "one that is in use was cut"
    os.close(spare)
    for stranger in few + more:
        stranger.close()


def test_who_is_not_silent_is_not_cut_however_many_there_are(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "STRANGERS_MAX", 5)
    monkeypatch.setattr(strangers, "SILENT_MS_MIN", 1 << 30)
    arrivals = [silent(hub) for _ in range(20)]
    eventually(lambda: len(list(open_connections(hub.port))) == 20)
    looking, spare = watch(hub)
    for _ in range(200):
        looking.run(0.0)
    assert hub.connections.cut == 0
    os.close(spare)
    for arrival in arrivals:
        arrival.close()


def vandal_of(hub: Hub, megabytes: int) -> socket.socket:
    """Send the beginning of a message that never ends; all of it has arrived."""
    vandal = silent(hub)
    vandal.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + bytes(48))
    vandal.sendall(b"\x04\x26\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"[:1])
    ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
    vandal.sendall(bytes([len(ready)]) + ready)
    vandal.settimeout(WAIT_S)
    for _ in range(megabytes):
        vandal.sendall(b"\x03" + (1 << 20).to_bytes(8, "big") + LARGE)
    eventually(lambda: any(traffic.received_bytes >= megabytes << 20 for _, traffic in open_connections(hub.port)))
    return vandal


def test_what_others_need_memory_for_is_no_connections_fault(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may be part of a program, which grows as it likes; a large message may arrive meanwhile."""
    looking, spare = watch(hub)
    busy = vandal_of(hub, 16)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 300 << 20)
    assert looking.run(10.0) == 0
    os.close(spare)
    assert hub.connections.cut == 0
    assert not is_cut(busy)
    busy.close()


def test_who_holds_the_memory_is_cut_and_nobody_else(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    dealer, origin = hub.connect()
    looking, spare = watch(hub)
    vandal = vandal_of(hub, 40)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 1 << 30)
    looking.run(10.0)
    os.close(spare)
    assert hub.connections.cut == 1
    eventually(lambda: is_cut(vandal))
    hub.send(origin, 10)
    assert dealer.poll(int(WAIT_S * 1000))
    vandal.close()


def test_if_nobody_is_to_blame_the_sockets_are_to_be_bound_anew(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.connect()
    looking, spare = watch(hub)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 10 << 30)
    assert looking.run(10.0) > memory.RESET_BYTES
    looking.was_reset()
    assert not looking.run(20.0), "for what a reset did not free there must not be another"
    os.close(spare)


# -- keys --------------------------------------------------------------------------------------------------

ADMIN = AllowedKey("client", "admin", "a" * 40, ALL_RIGHTS, b"")
READER = AllowedKey("client", "reader", "r" * 40, Rights.READ, b"")
NAME = b"chosen by who connects"


class Guarded(Hub):
    """A ROUTER that lets connections in as whoever a handler of ZAP says."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        zap = self.context.socket(zmq.ROUTER)
        zap.bind("inproc://zeromq.zap.01")
        self.user = ADMIN.public
        """As who the next connection is let in."""
        self.allowed = {ADMIN.public: ADMIN, READER.public: READER}
        self.connections = Connections(0, let_in=lambda user: self.allowed.get(user, NOBODY))
        self.zap = zap
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.ZAP_DOMAIN, b"test")
        self.port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.origins: list[bytes] = []
        self.rights: list[str] = []
        self.dealers = []
        self.inlet = RequestInlet(
            self.router, self.connections, self.take, lambda: None, lambda: lambda _: None, lambda *_: None
        )

    def take(self, origin: bytes, _frame: object, _now: float) -> bool:
        self.rights.append(self.connections.who(origin).name)
        return super().take(origin, _frame, _now)

    def said(self, dealer: zmq.Socket[bytes]) -> str:
        """Have a connection say something; return by which key it was taken."""
        dealer.send(b"hello")
        known = len(self.rights)
        eventually(lambda: self.serve() > known)
        return self.rights[-1]

    def serve(self) -> int:
        """Let in who comes, take what there is, and return how much was taken in all."""
        if self.zap.poll(0):
            parts = self.zap.recv_multipart()
            self.zap.send_multipart([*parts[:2], b"1.0", parts[3], b"200", b"", self.user.encode(), b""])
        self.inlet.drain(0.0)
        return len(self.rights)

    def dial(self, user: str, name: bytes = NAME) -> zmq.Socket[bytes]:
        self.user = user
        dealer = self.context.socket(zmq.DEALER)
        self.dealers.append(dealer)
        dealer.routing_id = name
        dealer.connect(f"tcp://127.0.0.1:{self.port}")
        return dealer

    def follow(self, former: zmq.Socket[bytes], user: str) -> tuple[zmq.Socket[bytes], str]:
        """Close a connection, and try to be heard under its name until that works; return by which key it was."""
        former.close(0)
        known = len(self.rights)
        for _ in range(TRIES):
            dealer = self.dial(user)
            dealer.send(b"hello")
            deadline = time.monotonic() + RETRY_S  # while the first is there, a second with its name is never heard
            while time.monotonic() < deadline:
                if self.serve() > known:
                    return dealer, self.rights[-1]
            dealer.close(0)
        raise AssertionError("its name is never free")


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    made = Guarded()
    yield made
    made.context.destroy(linger=0)


def test_a_connection_has_the_rights_of_the_key_by_which_it_was_let_in(guarded: Guarded) -> None:
    admin = guarded.dial(ADMIN.public, b"one")
    assert guarded.said(admin) == "admin"
    reader = guarded.dial(READER.public, b"two")
    assert guarded.said(reader) == "reader"
    assert guarded.said(admin) == "admin"


def test_who_takes_the_name_of_a_connection_that_is_closed_does_not_get_its_rights(guarded: Guarded) -> None:
    """The node may not have noticed that the first is closed, and the second may have the same descriptor."""
    last = guarded.dial(ADMIN.public)
    assert guarded.said(last) == "admin"
    for key in (READER, ADMIN, READER, ADMIN, READER):
        last, name = guarded.follow(last, key.public)
        assert name == key.name


def test_of_two_connections_with_one_name_the_second_is_not_heard(guarded: Guarded) -> None:
    admin = guarded.dial(ADMIN.public)
    assert guarded.said(admin) == "admin"
    attacker = guarded.dial(READER.public)
    attacker.send(b"planted")
    for _ in range(20):
        assert guarded.said(admin) == "admin"
    assert set(guarded.rights) == {"admin"}


def test_whose_key_is_taken_back_is_cut_and_others_have_their_new_rights(guarded: Guarded) -> None:
    admin = guarded.dial(ADMIN.public, b"one")
    guarded.said(admin)
    reader = guarded.dial(READER.public, b"two")
    guarded.said(reader)
    monitor = admin.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    guarded.allowed = {READER.public: replace(READER, name="renamed")}
    guarded.connections.follow_keys()
    assert monitor.poll(int(WAIT_S * 1000))
    assert guarded.connections.cut == 1
    assert guarded.connections.who(b"one") is NOBODY
    assert b"one" in guarded.connections.deaf
    assert guarded.said(reader) == "renamed"
