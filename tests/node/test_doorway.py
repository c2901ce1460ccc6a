"""The door of a node that changes over to keys: who encrypts and who does not, by one port."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from timing import DELAY_S_MAX, eventually

from meshcache.keys import SecretKey
from meshcache.node import doorway
from meshcache.node.doorway import GREETING_BEGINS, GREETING_BYTES, Doorway
from meshcache.sockets.curve import dialling, listening, new_pair
from meshcache.sockets.listener import bind_again
from meshcache.sockets.options import set_options

MESH, OWN = new_pair(), new_pair()
KEY = SecretKey("node", "n1", OWN.public, OWN.secret, MESH.public, MESH.secret)
WAIT_MS = 10_000


class House:
    """A ROUTER behind a door, in front of which there is one port."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.opened: list[Any] = []
        self.zap = self.context.socket(zmq.REP)
        self.zap.bind("inproc://zeromq.zap.01")
        self.router = self.context.socket(zmq.ROUTER)
        plain = bind_again(self.router, {zmq.ZAP_DOMAIN: b"test"})
        encrypted = bind_again(self.router, {**listening(KEY)})
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.door = Doorway(listener, plain, encrypted, "door")

    def close(self) -> None:
        self.door.close()
        for opened in self.opened:
            opened.close()
        self.context.destroy(linger=0)

    def dial(self, key: SecretKey | None) -> zmq.Socket[bytes]:
        dealer = self.context.socket(zmq.DEALER)
        self.opened.append(dealer)
        set_options(dealer, dialling(key))
        dealer.connect(f"tcp://127.0.0.1:{self.port}")
        return dealer

    def connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_MS / 1000)
        self.opened.append(made)
        return made

    def stranger(self) -> socket.socket:
        made = self.connect()
        assert made.recv(len(GREETING_BEGINS), socket.MSG_WAITALL) == GREETING_BEGINS
        return made

    def let_in(self) -> bool:
        """Let in who asks; tell whether something came."""
        if self.zap.poll(0):
            asked = self.zap.recv_multipart()
            user = b"known" if asked[5] == b"CURVE" else b""
            self.zap.send_multipart([b"1.0", asked[1], b"200", b"", user, b""])
        return bool(self.router.poll(0))

    def said(self, dealer: zmq.Socket[bytes], content: bytes) -> tuple[bytes, str]:
        """Have a peer say something, and be answered; return what came, and as who it was let in."""
        dealer.send(content)

        eventually(self.let_in)
        origin = self.router.recv()
        part = self.router.recv(copy=False)
        self.router.send_multipart([origin, b"answer to " + part.bytes[:10]])
        assert dealer.poll(WAIT_MS)
        assert dealer.recv() == b"answer to " + content[:10]
        try:
            return part.bytes, str(part.get("User-Id"))
        except zmq.ZMQError:
            return part.bytes, ""


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(doorway, "GREETING_S", 0.3)
    made = House()
    yield made
    made.close()


def is_dismissed(stranger: socket.socket) -> bool:
    try:
        while stranger.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def tasks(house: House) -> set[Any]:
    return house.door._connections


@pytest.mark.parametrize("size", [0, 1, 100, 3_000_000])
def test_with_and_without_a_key_peers_reach_the_node_by_one_port(house: House, size: int) -> None:
    plain, encrypted = house.dial(None), house.dial(KEY)
    for _ in range(2):
        assert house.said(plain, bytes(size)) == (bytes(size), "")
        assert house.said(encrypted, bytes(size)) == (bytes(size), "known")


def test_what_a_peer_with_a_key_says_is_not_readable_at_the_door(house: House) -> None:
    """Who only says that it encrypts comes to the socket where everybody must."""
    stranger = house.stranger()
    stranger.sendall(GREETING_BEGINS + b"\0" + b"CURVE".ljust(20, b"\0") + bytes(32) + b"\x04\x06\x05READY\0\x02hi")
    assert is_dismissed(stranger)
    assert not house.router.poll(0)


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\n" * 8, b"\xff" * 64, bytes(64), b"\x01\0" * 100])
def test_garbage_is_dismissed_and_others_are_served(house: House, greeting: bytes) -> None:
    strangers = [house.stranger() for _ in range(5)]
    for stranger in strangers:
        stranger.sendall(greeting)
        with contextlib.suppress(OSError):  # it may have been dismissed already
            stranger.shutdown(socket.SHUT_WR)
    assert house.said(house.dial(None), b"a") == (b"a", "")
    assert all(is_dismissed(stranger) for stranger in strangers)
    eventually(lambda: len(tasks(house)) == 1)


@pytest.mark.parametrize("said", [0, 1, GREETING_BYTES - 1])
def test_who_does_not_finish_its_greeting_is_dismissed(house: House, said: int) -> None:
    began = time.monotonic()
    strangers = [house.stranger() for _ in range(20)]
    for stranger in strangers:
        stranger.sendall((GREETING_BEGINS + bytes(64))[:said])
    assert house.said(house.dial(KEY), b"a") == (b"a", "known")
    assert all(is_dismissed(stranger) for stranger in strangers)
    assert doorway.GREETING_S * 0.9 < time.monotonic() - began < doorway.GREETING_S + 1 + DELAY_S_MAX
    eventually(lambda: len(tasks(house)) == 1)


def test_who_leaves_in_the_middle_leaves_nothing_behind(house: House) -> None:
    for key in (None, KEY, None):
        dealer = house.dial(key)
        house.said(dealer, b"a")
        dealer.close(0)
    eventually(lambda: not tasks(house))


def test_more_connections_than_there_may_be_are_turned_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorway, "CONNECTIONS_MAX", 1)
    dealer = house.dial(None)
    house.said(dealer, b"a")
    late = house.connect()
    assert late.recv(1) == b""
    assert house.said(dealer, b"b") == (b"b", "")


def test_close_ends_the_thread_and_every_connection(house: House) -> None:
    stranger, dealer = house.stranger(), house.dial(None)
    house.said(dealer, b"a")
    house.door.close()
    assert not house.door._thread.is_alive()
    assert is_dismissed(stranger)
    with pytest.raises(ConnectionRefusedError):
        house.connect()
    house.door.close()
