"""What travels between a client and one node: calls, how they share messages, and what arrived frames mean.

Pure. A driver owns the socket; here is everything it would have to know about the protocol to use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from meshcache.core.messages import (
    BATCH_OPS_MAX,
    PROTOCOL,
    Change,
    ClientOp,
    Code,
    Get,
    Hello,
    Hot,
    Refused,
    Reject,
    Reply,
    Set,
    Update,
    Welcome,
)
from meshcache.core.wire import Frame, decode_frame, encode_frame
from meshcache.errors import ProtocolError
from meshcache.failure import Failure
from meshcache.routing import Routing

Kind = type[ClientOp]

GREETING: Final = 0
"""The number under which the answer to HELLO is reported; requests count from 1."""


Outcome = list[Any] | Reject | Failure
"""Results aligned with the keys of the call, or why there are none."""


class Call:
    """One request to one node, for some keys. Calls of equal kind, options and allowance may share a message."""

    __slots__ = ("address", "allowance_s", "deadline", "keys", "kind", "options", "payloads", "size")

    def __init__(
        self,
        address: str,
        kind: Kind,
        options: tuple[Any, ...],
        keys: list[bytes],
        payloads: list[Any] | None,
        deadline: float,
        allowance_s: float,
        size: int,
    ) -> None:
        self.address = address
        self.kind = kind
        self.options = options
        """The fields of the message before its keys, or instead of them."""
        self.keys = keys
        self.payloads = payloads
        """Aligned with the keys: contents or changes; None where the message has only keys."""
        self.deadline = deadline
        """Of this attempt, by the session's clock; it travels, so that a node never executes a late attempt."""
        self.allowance_s = allowance_s
        """How long the attempt may take from its start."""
        self.size = size
        """Bytes of the keys and payloads."""


class Batch:
    """Calls that travel as one message. To a Link it looks like a Call."""

    __slots__ = ("_counts", "_unique", "deadline", "keys", "kind", "options", "payloads", "size")

    def __init__(self, call: Call) -> None:
        self.kind = call.kind
        self.options = call.options
        self.keys = call.keys
        self.payloads = call.payloads
        self.deadline = call.deadline
        self.size = call.size
        self._counts = [len(call.keys)]
        # Of one stamp, or one turn, only one change of a key can win: the others go in a message of their own.
        self._unique = None if call.kind is Get else set(call.keys)

    def join(self, call: Call, size_max: int) -> bool:
        """Take the call in, if it fits; the first call's deadline is the earliest and stands for all."""
        size = self.size + call.size
        keys = call.keys
        if not keys or size > size_max or len(self.keys) + len(keys) > BATCH_OPS_MAX:
            return False
        if self.kind is Update and (_may_be_parked(self.payloads) or _may_be_parked(call.payloads)):
            return False
        unique = self._unique
        if unique is not None:
            if not unique.isdisjoint(keys):
                return False
            unique.update(keys)
        counts = self._counts
        if len(counts) == 1:
            self.keys = self.keys.copy()
            self.payloads = None if self.payloads is None else self.payloads.copy()
        self.keys += keys
        if self.payloads is not None and call.payloads is not None:
            self.payloads += call.payloads
        self.size = size
        counts.append(len(keys))
        return True

    def split(self, outcome: Outcome) -> list[Outcome]:
        """Give each call what is its own."""
        counts = self._counts
        if type(outcome) is not list:
            return [outcome] * len(counts)
        if len(counts) == 1:
            return [outcome]
        if len(counts) == len(outcome):
            return [[result] for result in outcome]
        parts: list[Outcome] = []
        start = 0
        for count in counts:
            parts.append(outcome[start : start + count])
            start += count
        return parts


def _may_be_parked(changes: list[Any] | None) -> bool:
    """Tell whether the answer may take long, for which no other call should wait."""
    return changes is not None and changes[0][0] == Change.LEASE


class Link:
    """One connection to one node: greeted once, then requests by number.

    A driver sends ``hello()`` first and whenever ``ready`` is false, feeds every frame to ``accept``, and drops the
    link for a new one when its connection breaks: a link never outlives the process at its other end.
    """

    __slots__ = ("_asked_at", "_boot", "_cluster", "_expected", "_number", "_routing", "_wall_ms", "address", "ready")

    def __init__(self, address: str, cluster: str, routing: Routing) -> None:
        self.address = address
        self.ready = False
        self._cluster = cluster
        self._routing = routing
        self._number = GREETING
        self._expected: dict[int, Call | Batch] = {}
        self._boot = 0
        self._wall_ms = 0.0
        self._asked_at = 0.0

    def hello(self) -> bytes:
        """Return the frame that opens the link, or sets its clock again."""
        self._asked_at = self._routing.clock()
        return encode_frame(0, [Hello(PROTOCOL, self._cluster, None, b"")])

    def encode(self, call: Call | Batch) -> tuple[int, bytes]:
        """Return the request's number, and its frame."""
        self._number = number = self._number + 1
        keys = call.keys
        if call.payloads is not None:
            lists: tuple[list[Any], ...] = (keys, call.payloads)
        else:
            lists = (keys,) if keys else ()
        deadline_ms = int(call.deadline * 1000 + self._wall_ms)
        make: Callable[..., Any] = call.kind
        message = make(number, self._boot, deadline_ms, self._routing.digest, *call.options, *lists)
        self._expected[number] = call
        return number, encode_frame(0, [message])

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more: it was late, so the node's clock may not be what we think."""
        self._expected.pop(number, None)
        self.ready = False

    def accept(self, frame: Frame) -> list[tuple[int, Outcome | Welcome]]:
        """Return what the frame answers, by number. Raises ProtocolError: the link is then no good."""
        _clock, messages = decode_frame(frame)
        found: list[tuple[int, Outcome | Welcome]] = []
        for message in messages:
            if type(message) is Reply:
                call = self._expected.pop(message.request, None)
                if call is None:
                    continue
                if message.view != self._routing.digest:
                    self._routing.note_view(self.address, message.view)
                results = message.results
                if results is None or len(results) != (len(call.keys) or 1):
                    results = _aligned(results, call)
                found.append((message.request, results))
            elif type(message) is Reject:
                if self._expected.pop(message.request, None) is not None:
                    found.append((message.request, self._rejected(message)))
            elif type(message) is Hot:
                self._routing.note_hot(message.keys, message.copy_ttl_ms / 1000)
            elif type(message) is Welcome:
                self._wall_ms = self._routing.welcome(self.address, message, self._asked_at, self._routing.clock())
                self._boot = message.boot
                self.ready = True
                found.append((GREETING, message))
            elif type(message) is Refused:
                why = f"refused ({message.code}): {message.text}"
                found.append((GREETING, Failure(sent=False, late=False, why=why, shut=True, code=message.code)))
            else:
                raise ProtocolError(f"{type(message).__name__} is nothing that a client receives")
        return found

    def _rejected(self, reject: Reject) -> Reject:
        if not reject.error or type(reject.error[0]) is not int:
            raise ProtocolError(f"REJECT without a code: {reject.error!r}")
        if reject.error[0] == Code.STALE_BOOT:
            self.ready = False
        elif reject.view != self._routing.digest:
            self._routing.note_view(self.address, reject.view)
        return reject


def _aligned(results: list[Any] | None, call: Call | Batch) -> list[Any]:
    """Return one result for each key; of a SET, none at all stands for success."""
    expected = len(call.keys) or 1
    if results is None and call.kind is Set:
        return [None] * expected
    if results is None or len(results) != expected:
        raise ProtocolError(f"{len(results or ())} results for {expected} keys")
    return results
