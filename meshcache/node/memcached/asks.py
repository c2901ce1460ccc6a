"""Requests that the door makes of the node's own core, as if a client's frame had brought them.

Most are answered before ``begin`` returns. Others wait for nodes elsewhere: their answers are in the outbox at the end
of a later turn, where ``collect`` takes them out before the outbox is sent.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

from meshcache.core.node import NodeCore
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Code, EventKind
from meshcache.protocol.wire import encode_frame

OVERLOADED: Final = b"SERVER_ERROR overloaded: too much is under way\r\n"
NOT_READY: Final = b"SERVER_ERROR the node does not serve yet, or no more\r\n"
NO_QUORUM: Final = b"SERVER_ERROR too few of the nodes that have this key answered\r\n"
TOO_LARGE: Final = b"SERVER_ERROR object too large for cache\r\n"
FAILED: Final = b"SERVER_ERROR internal error\r\n"
NO_ANSWER: Final = b"SERVER_ERROR no answer in time\r\n"
CONTENDED: Final = b"SERVER_ERROR too many change this key at once\r\n"

_LINES: Final[dict[int, bytes]] = {
    Code.QUORUM: NO_QUORUM,
    Code.OVERLOADED: OVERLOADED,
    Code.NOT_READY: NOT_READY,
    Code.TOO_LARGE: TOO_LARGE,
}
WAITING: Final = object()
"""Stands for an answer that is still to come."""


class Refused(Exception):
    """A command cannot be done. ``line``: what its client is told."""

    def __init__(self, line: bytes) -> None:
        super().__init__(line)
        self.line = line


def check(result: Any) -> Any:
    """Return the result of one key. Raises Refused if it is an error."""
    if type(result) is list:
        raise Refused(_LINES.get(result[0] if result else 0, FAILED))
    return result


class Asks:
    """The way from the door to the core."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._handlers: dict[type[Any], Callable[[bytes, Any], None]] = core.requests.handlers()
        self._timeout_ms = int(core.config.limits.operation_timeout_s * 1000)
        self._secret = secrets.token_bytes(16)
        """Begins the names of the door's connections: no peer of the ROUTER can have called itself so."""
        self._number = 0
        self.value_bytes_max = core.config.limits.value_bytes_max
        self.instant = core.coordinator.instant
        self.read_here = core.requests.read_here
        self._usual = core.requests.usual
        self.disturbs = False
        """Whether the core has more to do, now, than to tell of what was stored; see NodeCore.disturbed."""

    def name(self, number: int) -> bytes:
        """Return what the core calls a connection."""
        return self._secret + number.to_bytes(8, "big")

    # -- requests ------------------------------------------------------------------------------------------

    def _head(self) -> tuple[int, int, int, bytes]:
        self._number += 1
        core = self._core
        return self._number, core.boot, self.instant.wall_ms + self._timeout_ms, core.view.digest

    def get(self, keys: list[bytes], level: int = m.DEFAULT_LEVEL) -> m.Get:
        """Return the request for some keys."""
        return m.Get(*self._head(), level, m.DEFAULT_LEVEL, False, keys)

    def set(self, keys: list[bytes], contents: list[bytes], ttl_ms: int) -> m.Set:
        """Return the request that stores something."""
        return m.Set(*self._head(), m.DEFAULT_LEVEL, ttl_ms, keys, contents)

    def delete(self, keys: list[bytes]) -> m.Delete:
        """Return the request that deletes some keys."""
        return m.Delete(*self._head(), m.DEFAULT_LEVEL, EventKind.DELETE, keys)

    def update(self, keys: list[bytes], changes: list[list[Any]]) -> m.Update:
        """Return the request that changes some keys at their first owners."""
        return m.Update(*self._head(), m.DEFAULT_LEVEL, m.DEFAULT_LEVEL, 0, keys, changes)

    def clear(self) -> m.Clear:
        """Return the request that deletes everything."""
        return m.Clear(*self._head(), b"")

    # -- answers -------------------------------------------------------------------------------------------

    def begin(self, origin: bytes, request: Any) -> Any:
        """Have a request executed: return its results, or WAITING. Raises Refused."""
        core = self._core
        served: bool | None = False
        try:
            if type(request) is m.Set and self._usual is not None:
                # Natively. If that did all (True), it has one answer only: everything was stored.
                served = self._usual.serve(origin, encode_frame(0, [request]))
            if served is False:
                self._handlers[type(request)](origin, request)
        except Exception as error:  # noqa: BLE001  (of whatever kind: it concerns this request)
            core.fail(type(request).__name__, origin, error)
            raise Refused(FAILED) from None
        outbox = core.outbox
        told = outbox.replies.pop(origin, None)
        if served:
            return None
        if outbox.sends or outbox.replies or told is None:  # perhaps another connection of the door is answered, too
            self.disturbs = True
        return WAITING if told is None else self.answer(told, request.request)

    def answer(self, told: list[Any], number: int) -> Any:
        """Return the results of a request, from what its connection was told. Raises Refused."""
        for message in told:
            if type(message) is m.Reply and message.request == number:
                return message.results
            if type(message) is m.Reject and message.request == number:
                raise Refused(_LINES.get(message.error[0], FAILED))
        return WAITING

    def collect(self, waiting: dict[bytes, Any]) -> list[tuple[bytes, list[Any]]]:
        """Take out of the outbox what the connections that wait were told."""
        replies = self._core.outbox.replies
        return [(origin, replies.pop(origin)) for origin in [name for name in replies if name in waiting]]

    def fail(self, origin: bytes, error: Exception) -> None:
        """Count an error that concerns one command only."""
        self._core.fail("memcached", origin, error)
