"""A node for tests of the client: one thread, one ROUTER, one dict.

It follows the protocol, and breaks it on request.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from meshcache.protocol.messages import (
    PROTOCOL,
    Change,
    Clear,
    Code,
    Delete,
    Fact,
    Get,
    Hello,
    Inspect,
    InvalidateTags,
    Message,
    Refused,
    Reject,
    Reply,
    Set,
    Update,
    Welcome,
)
from meshcache.protocol.record import (
    HEADER_BYTES,
    content_of,
    expires_ms_of,
    expiry_bytes,
    is_live,
    stamp,
    tags_of,
    tombstone,
)
from meshcache.protocol.ring import Ring, RingMember
from meshcache.protocol.wire import decode_frame, encode_frame

SETTINGS: dict[str, int | float | str] = {
    "slots": 64,
    "vnodes": 8,
    "replicas": 2,
    "value_bytes_max": 1 << 20,
    "reply_bytes_max": 1 << 20,
    "request_bytes_max": 4 << 20,
}
DEFAULT_TTL_MS = 300_000

Answer = Message | bytes | None
Hook = Callable[[Any], Any]


class FakeNode:
    """``hook(request)`` may return a message or bytes to send instead, or None for silence; PASS serves the request."""

    PASS = object()

    def __init__(
        self, node_id: str = "n1", port: int = 0, data: dict[bytes, bytes] | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.node_id = node_id
        self.data = {} if data is None else data
        self.requests: list[Any] = []
        self.hellos = 0
        self.settings = dict(SETTINGS)
        self.members: list[Fact] = []
        self.hook: Hook | None = None
        self.boot = 1000
        self.wall_skew_ms = 0
        self.wanted_boot: int | None = None
        self._versions = 0
        self.leases: dict[bytes, bytes] = {}
        """By key, the name of its fill lease, which is the holder's token here; no caller is parked."""
        self.released: set[bytes] = set()
        """Tokens of locks that acquire nothing any more."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._stop = threading.Event()
        self._paused = threading.Event()
        socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.IPV6, int(":" in host))
        host = f"[{host}]" if ":" in host else host
        if port:
            socket.bind(f"tcp://{host}:{port}")
        else:
            port = socket.bind_to_random_port(f"tcp://{host}", min_port=20000, max_port=32000)
        self.port = port
        self.address = f"{host}:{port}"
        self.members = [self.fact()]
        self._thread = threading.Thread(target=self._serve, args=(socket,), daemon=True)
        self._thread.start()

    def fact(self, state: int = 0) -> Fact:
        return Fact(self.node_id, self.address, "", "", self.node_id, "", 1.0, self.boot, 0, state)

    def wall_ms(self) -> int:
        return int(time.time() * 1000) + self.wall_skew_ms

    def view(self) -> bytes:
        members = [RingMember(f.node_id, f.weight, f.host, f.zone) for f in self.members if f.state <= 1]
        s = self.settings
        return Ring.build(members, slots=int(s["slots"]), vnodes=int(s["vnodes"]), replicas=int(s["replicas"])).digest

    def of(self, kind: type) -> list[Any]:
        return [request for request in self.requests if type(request) is kind]

    def pause(self) -> None:
        self._paused.set()

    def resume(self) -> None:
        self._paused.clear()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._context.destroy(0)

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        while not self._stop.is_set():
            if self._paused.is_set():
                self._stop.wait(0.005)
                continue
            if not socket.poll(10) or self._paused.is_set():
                continue
            origin, frame = socket.recv_multipart()
            _, messages = decode_frame(frame)
            answers: list[Message] = []
            for message in messages:
                answer = self._answer(message)
                if isinstance(answer, bytes):
                    self._send(socket, origin, answer)
                elif answer is not None:
                    answers.append(answer)
            if answers:
                self._send(socket, origin, encode_frame(7, answers))
        socket.close(0)

    def _send(self, socket: zmq.Socket[bytes], origin: bytes, frame: bytes) -> None:
        with contextlib.suppress(zmq.ZMQError):
            socket.send_multipart([origin, frame], zmq.NOBLOCK)

    def _answer(self, message: Any) -> Answer:
        self.requests.append(message)
        if self.hook is not None:
            answer = self.hook(message)
            if answer is not self.PASS:
                return answer  # type: ignore[no-any-return]  # whatever the test wants to be sent
        if isinstance(message, Hello):
            self.hellos += 1
            if message.protocol != PROTOCOL or message.cluster not in {"", "test"}:
                return Refused("cluster", f"this node belongs to cluster 'test', not {message.cluster!r}")
            return Welcome(self.boot, self.wall_ms(), self.node_id, self.settings, self.members)
        if message.boot != self.boot:
            return Reject(message.request, self.view(), [int(Code.STALE_BOOT)])
        if message.deadline_ms < self.wall_ms():
            return None
        return Reply(message.request, self.view(), self._execute(message))

    def _execute(self, message: Any) -> list[Any] | None:
        match message:
            case Get():
                return self._get(message)
            case Set():
                for key, content in zip(message.keys, message.contents, strict=True):
                    self._put(key, content, message.ttl_ms)
                return None
            case Delete():
                return [self._delete(key) for key in message.keys]
            case Update():
                return [self._change(key, change) for key, change in zip(message.keys, message.changes, strict=True)]
            case Clear():
                gone = [key for key in self.data if key.startswith(message.prefix) and self._live(key) is not None]
                for key in gone:
                    del self.data[key]
                return [len(gone)]
            case InvalidateTags():
                tagged = [key for key, record in self.data.items() if not set(tags_of(record)).isdisjoint(message.tags)]
                gone = [key for key in tagged if self._live(key) is not None]
                for key in gone:
                    del self.data[key]
                return [len(gone)]
            case Inspect(what="view"):
                return [{"members": [list(fact) for fact in self.members]}]
            case Inspect():
                return [{"what": message.what, "key": message.key, "node": self.node_id}]
        return []

    def _get(self, message: Get) -> list[Any]:
        results: list[Any] = []
        size = 0
        for key in message.keys:
            record = self.data.get(key)
            if record is not None and not is_live(record, expiry_bytes(self.wall_ms())) and not record[22] & 1:
                record = None
            if record is not None and results and size + len(record) > int(self.settings["reply_bytes_max"]):
                results.append([int(Code.MORE)])
                continue
            size += len(record or b"")
            results.append(record[:HEADER_BYTES] if record is not None and message.meta else record)
        return results

    def _live(self, key: bytes) -> bytes | None:
        record = self.data.get(key)
        return record if record is not None and is_live(record, expiry_bytes(self.wall_ms())) else None

    def _put(self, key: bytes, content: bytes, ttl_ms: int) -> None:
        ttl_ms = DEFAULT_TTL_MS if ttl_ms == -1 else ttl_ms
        expires_ms = self.wall_ms() + ttl_ms if ttl_ms else (1 << 48) - 1
        self.data[key] = stamp(self._version(), expires_ms) + content

    def _version(self) -> bytes:
        self._versions += 1
        return self._versions.to_bytes(8, "big") + bytes(8)

    def _delete(self, key: bytes) -> bool:
        was_there = self._live(key) is not None
        self.data[key] = tombstone(self._version(), self.wall_ms() + 60_000)
        return was_there

    def _change(self, key: bytes, change: list[Any]) -> Any:
        record = self._live(key)
        match change:
            case [Change.ADD, content, ttl_ms]:
                if record is None:
                    self._put(key, content, ttl_ms)
                return record is None
            case [Change.REPLACE, content, ttl_ms]:
                if record is not None:
                    self._put(key, content, ttl_ms)
                return record is not None
            case [Change.CAS, content, ttl_ms, version]:
                if record is None or record[:16] != version:
                    return False
                self._put(key, content, ttl_ms)
                return True
            case [Change.INCR, delta, initial, ttl_ms]:
                return self._incr(key, record, delta, initial, ttl_ms)
            case [Change.LEASE, _, above, token]:
                if record is not None and record[:16] > above:
                    return record
                return token if self.leases.setdefault(key, token) == token else None
            case [Change.FILL, content, ttl_ms, token]:
                held = self.leases.get(key) == token
                if held:
                    del self.leases[key]
                    self._put(key, content, ttl_ms)
                return held
            case [Change.HOLD, keep, token]:
                held = self.leases.get(key) == token
                if held and not keep:
                    del self.leases[key]
                return held
            case [Change.DROP, version]:
                return record is not None and record[:16] == version and self._delete(key)
            case [Change.ACQUIRE, token, ttl_ms]:
                if record is None and token not in self.released:
                    self._put(key, b"\0\0" + token, ttl_ms)
                return self.data[key][:16] if self._holds(key, token) else None
            case [Change.EXTEND, token, ttl_ms]:
                if self._holds(key, token):
                    self._put(key, b"\0\0" + token, ttl_ms)
                return self.data[key][:16] if self._holds(key, token) else None
            case [Change.RELEASE, token]:
                self.released.add(token)
                return self._holds(key, token) and self._delete(key)
            case [Change.TOUCH, ttl_ms]:
                if record is not None:
                    self._put(key, content_of(record), ttl_ms)
                return record is not None
        raise AssertionError(change)

    def _holds(self, key: bytes, token: bytes) -> bool:
        record = self._live(key)
        return record is not None and content_of(record) == b"\0\0" + token

    def _incr(self, key: bytes, record: bytes | None, delta: int, initial: int | None, ttl_ms: int) -> Any:
        if record is None:
            if initial is None:
                return [int(Code.KEY_MISSING)]
            number = initial + delta
        else:
            if record[23] != 2:
                return [int(Code.NOT_A_NUMBER), "the value is no integer"]
            number = int(record[HEADER_BYTES:]) + delta
            left = expires_ms_of(record) - self.wall_ms()
            ttl_ms = left if left < 1 << 47 else 0
        self._put(key, b"\0\2%d" % number, ttl_ms)
        return number


@contextlib.contextmanager
def fake_mesh(count: int = 1) -> Iterator[list[FakeNode]]:
    """Nodes that share one dict and know each other, as if each replicated everything to all at once."""
    data: dict[bytes, bytes] = {}
    nodes = [FakeNode(f"n{i + 1}", data=data) for i in range(count)]
    everyone = [node.fact() for node in nodes]
    for node in nodes:
        node.members = everyone
    try:
        yield nodes
    finally:
        for node in nodes:
            node.stop()
