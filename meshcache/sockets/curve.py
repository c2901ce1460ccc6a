"""CURVE, ZeroMQ's encryption and authentication: the options of sockets, new keys, and why a handshake failed.

CURVE (ZeroMQ RFC 26, after CurveCP) proves to both sides that the other has the secret key of a public one, and
encrypts what they say. What the listening side thinks of a public key is its own affair: see node/authentication.py.
libzmq tells the side that dials why a handshake failed only by its socket monitor.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import zmq

from meshcache.errors import ConfigError
from meshcache.keys import SecretKey
from meshcache.sockets.options import Options

LIBZMQ_MIN: Final = (4, 3, 5)
"""Earlier ones have faults that an attacker can use before he is authenticated (CVE-2019-13132, CVE-2020-15166)."""
HANDSHAKE_DESCRIPTORS: Final = 2
"""How many descriptors it takes to watch a handshake."""

FAILURES: Final = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "the node refuses this key: it is not among its allowed keys",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "one side has a key file, and the other has none",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): (
        "the node ended the handshake: it asks for a key, or has another mesh key than this key file"
    ),
}
"""By the monitor's event, why a handshake failed."""
HANDSHAKE_FAILED: Final = sum(FAILURES)
"""All of these events."""


class KeyPair(NamedTuple):
    """A public and a secret key, in Z85."""

    public: str
    secret: str


def new_pair() -> KeyPair:
    """Return a new key pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def require_curve(key: SecretKey, path: str) -> None:
    """Raise ConfigError if this libzmq must not be used for CURVE, or a secret key is not that of its public one."""
    if not zmq.has("curve"):
        raise ConfigError("this libzmq has no CURVE: install pyzmq from its wheel")
    if zmq.zmq_version_info() < LIBZMQ_MIN:
        least = ".".join(map(str, LIBZMQ_MIN))
        raise ConfigError(f"libzmq {zmq.zmq_version()} has known faults with CURVE: {least} is needed")
    pairs = [("public", key.public, key.secret)]
    if key.mesh_secret:
        pairs.append(("mesh_public", key.mesh_public, key.mesh_secret))
    for name, public, secret in pairs:
        try:
            made = zmq.curve_public(secret.encode()).decode()
        except (zmq.ZMQError, ValueError) as error:
            raise ConfigError(f"{path}: the secret key of {name} is none: {error}") from None
        if made != public:
            raise ConfigError(f"{path}: {name} is not the public key of the secret one beside it")


def dialling(key: SecretKey | None) -> Options:
    """Return the options by which a socket that dials proves who it is; none without a key."""
    if key is None:
        return {}
    return {
        zmq.CURVE_SERVERKEY: key.mesh_public.encode(),
        zmq.CURVE_PUBLICKEY: key.public.encode(),
        zmq.CURVE_SECRETKEY: key.secret.encode(),
    }


def listening(key: SecretKey | None) -> Options:
    """Return the options of a socket that listens: nobody comes in whom no handler of ZAP lets in."""
    if key is None:
        return {}
    return {zmq.CURVE_SERVER: 1, zmq.CURVE_SECRETKEY: key.mesh_secret.encode(), zmq.ZAP_ENFORCE_DOMAIN: 1}


class HandshakeWatch:
    """Watches a socket that dials until its handshake has succeeded or failed. Use from the socket's thread."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        """Begin before the socket is connected."""
        self._socket: zmq.Socket[bytes] | None = socket
        self._monitor = socket.get_monitor_socket(HANDSHAKE_FAILED)

    def failure(self) -> str | None:
        """Return why the handshake failed; None if it has not."""
        if self._socket is None:
            return None
        try:
            event = self._monitor.recv_multipart(zmq.DONTWAIT)[0]
        except zmq.ZMQError:
            return None
        return FAILURES.get(int.from_bytes(event[:2], "little"), "the handshake failed")

    def end(self) -> None:
        """Watch no longer. To be called before the socket is closed."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.disable_monitor()
            self._monitor.close(0)
