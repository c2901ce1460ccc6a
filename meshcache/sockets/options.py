"""All socket options that are set anywhere, in one table: those of all sockets, and those of each kind.

The reasons (measured with libzmq 4.3.5): ZMTP heartbeats abort the process under back-pressure, so there are none, and
TCP keepalive finds hosts that are gone. Without IMMEDIATE, requests queue for a process that is gone and are executed
by the next one. Without ROUTER_MANDATORY, a full pipe drops silently. With a ZAP domain, even an unauthenticated ROUTER
refuses what is not ZMTP 3. Every queue and every message has a limit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import zmq

Options = Mapping[int, int | bytes]

_ALL: Final[Options] = {
    zmq.LINGER: 0, zmq.HANDSHAKE_IVL: 3000, zmq.HEARTBEAT_IVL: 0,
    zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 10, zmq.TCP_KEEPALIVE_INTVL: 3, zmq.TCP_KEEPALIVE_CNT: 3,
}  # fmt: skip
"""Silence for 3 s after connecting, or for 10 s and then 3 times 3 s at any time, ends a connection."""
_DIALLING: Final[Options] = {zmq.CONNECT_TIMEOUT: 2000}
_AGAIN: Final[Options] = {zmq.RECONNECT_IVL: 100, zmq.RECONNECT_IVL_MAX: 1000}
"""Connect again by itself, in these intervals."""
_UNREAD_MAX: Final[Options] = {zmq.TCP_MAXRT: 5000}
"""For how long the other side may acknowledge nothing of what was sent."""

REPLY_BYTES_MAX: Final = 1 << 30
"""No reply is that long; the limit keeps a program at a wrong port from filling a client's memory."""
REPLIES_QUEUED_MAX: Final = 2000
STREAM_BYTES_MAX: Final = 1 << 26
STREAM_QUEUED_MAX: Final = 1000
"""Frames of one node's invalidation stream that may be queued; further ones are lost, and show as a gap."""
REQUESTS_QUEUED_MAX: Final = 1000
ANSWERS_QUEUED_MAX: Final = 100
"""Frames of another node that may be queued here: they may be large, but a node sends only one in a turn."""
SUBSCRIPTION_BYTES_MAX: Final = 1024
"""Our subscriptions have one byte; the kernel's queue for them is short, too, so that reading them is always quick."""
SUBSCRIPTIONS_QUEUED_MAX: Final = 16
REQUESTS_DOMAIN: Final = b"meshcache"
STREAM_DOMAIN: Final = b"meshcache-stream"
"""The domains of ZAP: by these, who lets connections in tells the sockets apart."""


def _family(host: str) -> Options:
    return {zmq.IPV6: int(":" in host)}


def client_dealer(host: str) -> Options:
    """The options of a client's link: it lives as long as one connection, and nobody can guess its identity."""
    return {
        **_ALL, **_DIALLING, **_UNREAD_MAX, **_family(host), zmq.IMMEDIATE: 1, zmq.RECONNECT_IVL: -1,
        zmq.SNDHWM: REPLIES_QUEUED_MAX, zmq.RCVHWM: REPLIES_QUEUED_MAX, zmq.MAXMSGSIZE: REPLY_BYTES_MAX,
        zmq.ROUTING_ID: b"\x02" + os.urandom(16),
    }  # fmt: skip


def node_dealer(host: str, queue_max: int, message_bytes_max: int) -> Options:
    """The options of a node's link to another: it connects again by itself, and has no identity of its own choice."""
    return {
        **_ALL, **_DIALLING, **_AGAIN, **_UNREAD_MAX, **_family(host), zmq.IMMEDIATE: 1,
        zmq.SNDHWM: queue_max, zmq.RCVHWM: ANSWERS_QUEUED_MAX, zmq.MAXMSGSIZE: message_bytes_max,
    }  # fmt: skip


def subscriber() -> Options:
    """The options of a socket that receives all invalidation streams."""
    return {
        **_ALL, **_DIALLING, **_AGAIN, zmq.IPV6: 1, zmq.RCVHWM: STREAM_QUEUED_MAX, zmq.MAXMSGSIZE: STREAM_BYTES_MAX,
        zmq.SUBSCRIBE: b"",
    }  # fmt: skip


def router(host: str, queue_max: int, message_bytes_max: int) -> Options:
    """The options of the socket at which a node takes requests."""
    return {
        **_ALL, **_UNREAD_MAX, **_family(host), zmq.BACKLOG: 512, zmq.ZAP_DOMAIN: REQUESTS_DOMAIN,
        zmq.ROUTER_MANDATORY: 1, zmq.SNDHWM: queue_max, zmq.RCVHWM: REQUESTS_QUEUED_MAX,
        zmq.MAXMSGSIZE: message_bytes_max,
    }  # fmt: skip


def publisher(host: str, queue_max: int) -> Options:
    """The options of the socket at which a node announces.

    It is told of every subscriber, not only of each topic's first.
    """
    return {
        **_ALL, **_UNREAD_MAX, **_family(host), zmq.BACKLOG: 512, zmq.ZAP_DOMAIN: STREAM_DOMAIN,
        zmq.XPUB_VERBOSER: 1, zmq.SNDHWM: queue_max, zmq.RCVHWM: SUBSCRIPTIONS_QUEUED_MAX,
        zmq.MAXMSGSIZE: SUBSCRIPTION_BYTES_MAX,
    }  # fmt: skip


def set_options(socket: zmq.Socket[bytes], options: Options) -> None:
    """Set these options; this must be done before the socket is connected or bound."""
    for option, value in options.items():
        socket.setsockopt(option, value)
