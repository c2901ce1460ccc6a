"""Who may connect to a node: the directory of allowed keys, and the handler of ZAP that answers libzmq from it.

libzmq asks for each connection, in the middle of its handshake, by ZAP (ZeroMQ RFC 27): a message on a socket within
the process. The answer comes from the node's own loop, as everything else does, so nobody can starve it while the node
serves. It fails closed. No answer, an error, a domain or a mechanism that is not ours: the connection is refused; and
while nobody listens for the questions, ZAP_ENFORCE_DOMAIN has libzmq refuse by itself.

There are two domains, one for each listening socket, because what a client may read decides whether it may hear of all
keys: who is confined to a prefix may not follow the stream of announcements.

The directory is looked at again every ``LOOK_S``. Whose key is gone from it is cut off; where its rights have changed,
they hold from the next message on. If the directory cannot be read any more, what was read last stays in force.

With ``security.permissive`` those who bring no key are let in, too: so a mesh can change over while it serves. They
come through a door that knows who they are, and they are counted there: see doorway.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import zmq
from zmq.utils import z85

from meshcache.config import Config
from meshcache.errors import ConfigError
from meshcache.keys import (
    ANYBODY,
    NOBODY,
    AllowedKey,
    AllowedKeys,
    read_allowed_keys,
    read_secret_key,
    signature_of,
)
from meshcache.node.poller import DONTWAIT, FRAMES_PER_TURN, Inlet
from meshcache.sockets.context import Context
from meshcache.sockets.curve import require_curve
from meshcache.sockets.options import REQUESTS_DOMAIN, STREAM_DOMAIN

LOOK_S: Final = 1.0
ENDPOINT: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
_FRAMES: Final = 9
"""Of a question by CURVE: origin, empty, version, request, domain, address, identity, mechanism, key."""
_REFUSED: Final = b"400"
_FAILED: Final = b"500"
_ALLOWED: Final = b"200"


class Authentication:
    """Knows who may connect to one node. Raises ConfigError where its own key or the directory is wrong."""

    def __init__(self, config: Config, tell: Callable[..., None]) -> None:
        """``tell`` takes events for the log."""
        security = config.security
        self.permissive = security.permissive
        path = config.key_path
        self.key = read_secret_key(path, "node")
        require_curve(self.key, path)
        self._directory = security.allowed_keys_dir
        self._signature = signature_of(self._directory)
        self.allowed = read_allowed_keys(self._directory)
        self._tell = tell
        self._look_at = 0.0
        self.refused = 0
        """Handshakes that were refused."""
        self._check_own(config.node.node_id, path)
        self._tell_problems(self.allowed)

    def _check_own(self, node_id: str, path: str) -> None:
        """Find out now what others would only say by refusing this node."""
        if self.key.name != node_id:
            raise ConfigError(
                f"{path}: is the key of node {self.key.name!r}, and this is {node_id!r}: set node.id, or take its key"
            )
        listed = self.allowed.keys.get(self.key.public)
        if listed is None or not listed.is_node or listed.name != node_id:
            raise ConfigError(
                f"{self._directory}: does not allow the key of {path} as that of node {node_id}; "
                f"add this line to a file there: node {node_id} {self.key.public}"
            )

    @property
    def nodes(self) -> frozenset[str] | None:
        """The ids of those who may be members; None: anybody may."""
        return None if self.permissive else self.allowed.nodes

    def judge(self, domain: bytes, address: str, mechanism: bytes, key: str) -> tuple[bytes, str, str]:
        """Return status, text and user id of an answer to libzmq."""
        if domain not in {REQUESTS_DOMAIN, STREAM_DOMAIN}:
            return self._refuse("an unknown domain", address, key)
        if mechanism == b"NULL" and self.permissive:
            return _ALLOWED, "", ""
        if mechanism != b"CURVE":
            return self._refuse("it brought no key", address, key)
        found = self.allowed.keys.get(key)
        if found is None:
            return self._refuse("its key is not among those allowed", address, key)
        if domain == STREAM_DOMAIN and not found.may_follow:
            return self._refuse(f"client {found.name} may not hear of all keys", address, key)
        return _ALLOWED, "", key

    def _refuse(self, why: str, address: str, key: str) -> tuple[bytes, str, str]:
        self.refused += 1
        self._tell("key_refused", peer=address, why=why, key=key)
        return _REFUSED, "refused", ""

    def who(self, user: str) -> AllowedKey:
        """Return by which key a connection was let in; ``user``: what libzmq tells of it, empty if it brought none."""
        if not user:
            return ANYBODY if self.permissive else NOBODY
        return self.allowed.keys.get(user, NOBODY)

    def look(self, now: float) -> bool:
        """Read the directory again if it has changed and it is time; return whether it has."""
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_S
        signature = signature_of(self._directory)
        if signature == self._signature:
            return False
        self._signature = signature
        try:
            allowed = read_allowed_keys(self._directory)
        except ConfigError as error:
            self._tell("allow_list_unreadable", error=str(error))
            return False
        before, self.allowed = self.allowed, allowed
        gone = [key for public, key in before.keys.items() if allowed.keys.get(public) != key]
        new = [key for public, key in allowed.keys.items() if before.keys.get(public) != key]
        self._tell("allow_list_read", keys=len(allowed.keys), new=_names(new), gone=_names(gone))
        self._tell_problems(allowed)
        return bool(gone or new)

    def _tell_problems(self, allowed: AllowedKeys) -> None:
        for problem in allowed.problems:
            self._tell("allow_line_refused", error=problem)


class ZapInlet(Inlet):
    """The questions of libzmq whether to let somebody in."""

    def __init__(self, context: Context, authentication: Authentication) -> None:
        """Listen for them; this must be done before any socket is bound whose connections are to be judged."""
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.socket.bind(ENDPOINT)
        super().__init__(self.socket, lambda: None, lambda: None)
        self._admission = authentication

    def drain(self, now: float) -> bool:  # noqa: ARG002  (as every inlet)
        """See Inlet."""
        try:
            for _ in range(FRAMES_PER_TURN):
                parts = self.socket.recv_multipart(DONTWAIT)
                self.socket.send_multipart(self._answer(parts), DONTWAIT)
        except zmq.Again:
            return False
        return True

    def _answer(self, parts: list[bytes]) -> list[bytes]:
        """Answer one question. Whatever goes wrong with it, the connection is refused."""
        head, request = parts[:2], parts[3] if len(parts) > 3 else b""
        try:
            domain, address, mechanism = parts[4], parts[5].decode(errors="replace"), parts[7]
            key = z85.encode(parts[8]).decode() if mechanism == b"CURVE" and len(parts) == _FRAMES else ""
            status, text, user = self._admission.judge(domain, address, mechanism, key)
        except Exception:  # noqa: BLE001  (of whatever kind: nobody comes in by an error)
            self._admission.refused += 1
            status, text, user = _FAILED, "failed", ""
        return [*head, _VERSION, request, status, text.encode(), user.encode(), b""]


def _names(keys: list[AllowedKey]) -> list[str]:
    return [f"{key.kind} {key.name}" for key in keys[:20]]
