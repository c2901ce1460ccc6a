"""What a node's loop does natively: turns that serve what is usual, and the sleep before them; see turns.c.

Its twin is in Python, and serves where this is None: ``Server._serve_until`` and what that calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import zmq

from meshcache._native import compiled
from meshcache.core.counters import SLOW_TURN_S
from meshcache.core.node import NodeCore
from meshcache.node.connections import ASK_AFTER_BYTES, Connections
from meshcache.node.intake import RequestInlet
from meshcache.node.pulse import Pulse
from meshcache.sockets.allocator import LARGE_FRAME_BYTES, expect_large_blocks
from meshcache.sockets.libzmq import addresses

if TYPE_CHECKING:
    from meshcache._native._compiled import UsualTurns

_FUNCTIONS: Final = (
    "zmq_errno",
    "zmq_getsockopt",
    "zmq_msg_close",
    "zmq_msg_data",
    "zmq_msg_init",
    "zmq_msg_more",
    "zmq_msg_recv",
    "zmq_msg_size",
    "zmq_send",
)


def usual_turns(
    router: zmq.Socket[bytes],
    epoll_fd: int,
    core: NodeCore,
    connections: Connections,
    inlet: RequestInlet,
    pulse: Pulse,
    slow: Callable[[float], None],
    undelivered: Callable[[bytes, int], None],
) -> UsualTurns | None:
    """Return what takes such turns; None if Python is to take all.

    ``slow`` takes the seconds of a turn that was long, ``undelivered`` the origin and the error of a reply not sent.
    """
    usual, instant = core.requests.usual, core.coordinator.instant
    functions = None if usual is None else addresses(*_FUNCTIONS)
    if functions is None:
        return None

    def number_events() -> None:
        """See to the events of a turn that nobody subscribes to, as ``NodeCore.drain`` does."""
        core.counters.published += 1
        core.frames.stream(core.outbox.take_events(), core.view.digest, subscribed=False)

    return compiled.UsualTurns(
        connections=connections,
        core=core,
        counters=core.counters,
        expect_large=expect_large_blocks,
        inlet=inlet,
        instant=instant,
        latencies=core.coordinator.pending.latencies,
        loop=core.counters.loop,
        number_events=number_events,
        outbox=core.outbox,
        pulse=pulse,
        slow=slow,
        undelivered=undelivered,
        usual=usual,
        functions=functions,
        socket=router.underlying,
        router_fd=inlet.fd,
        epoll_fd=epoll_fd,
        ask_after_bytes=ASK_AFTER_BYTES,
        large_bytes=LARGE_FRAME_BYTES,
        slow_turn_s=SLOW_TURN_S,
        stall_s=core.config.membership.link_dead_after_s,
        started=instant.started,
        wall_ms_at_start=instant.wall_ms_at_start,
    )
