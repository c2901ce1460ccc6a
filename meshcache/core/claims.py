"""Checks what a message claims about time against this node's clock: the second check, after that of wire.py.

A version from the far future would be greater than every write to come: its key could neither be overwritten nor
deleted. So no version is taken whose time is more than ``LEAD_MS_MAX`` ahead of the wall clock here. The clocks of
frames must keep the same bound (clock.py), and an honest node keeps it for versions, too, since its clock is past every
version that it passes on.

A record that breaks the bound is taken out of its message where the rest of the message makes sense without it: an
answer, a repair, a page. A write or a sweep is dropped as a whole and not answered, because it was not done. A version
from the past is no false claim: it only means an old value.

A value may live for ever, if its writer wants that. A tombstone may not: it is kept for this node's grace period at
most.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeVar

from meshcache.core.counters import Counters
from meshcache.protocol import messages as m
from meshcache.protocol.clock import LEAD_MS_MAX
from meshcache.protocol.record import TOMBSTONE, expiry_bytes, tombstone, version_of


class Limits(NamedTuple):
    """The limits that nothing which arrives now may exceed."""

    end: bytes
    """Every version must be below this one."""
    reap_ms: int
    """No tombstone may be kept beyond this wall time."""


Gate = Callable[[Any, Limits], Any]
"""Returns the message, the part of it that is true, or None if no part is."""

_From = TypeVar("_From")
"""Where a message came from: a connection, or an address that this node dialled."""

_flags_of: Final = itemgetter(22)
_EXPIRY: Final = slice(16, 22)


def limits(wall_ms: int, grace_ms: int) -> Limits:
    """Return the limits at a wall time, on a node that keeps tombstones for ``grace_ms``."""
    return Limits((wall_ms + LEAD_MS_MAX + 1).to_bytes(6, "big"), wall_ms + LEAD_MS_MAX + grace_ms)


def _write(write: m.Write, now: Limits) -> m.Write | None:
    records = write.records
    if not records or (max(records) < now.end and not max(map(_flags_of, records))):  # the usual case
        return write
    if max(records) >= now.end and not write.repair:
        return None
    return _records(write, now)  # type: ignore[no-any-return]  # of the kind that it was given


def _records(message: Any, now: Limits) -> Any:
    """Check a message that ends with keys and their records."""
    records = message.records
    if records and max(map(_flags_of, records)):
        records = [_kept_for_grace(record, now) for record in records]
        message = message._replace(records=records)
    return _pairs(message, now)


def _kept_for_grace(record: bytes, now: Limits) -> bytes:
    if record[22] & TOMBSTONE and record[_EXPIRY] > expiry_bytes(now.reap_ms):
        return tombstone(version_of(record), now.reap_ms)
    return record


def _pairs(message: Any, now: Limits) -> Any:
    """Take out the untrue keys of a message whose last two fields are keys and what is said of them."""
    *head, keys, said = message
    if not said or max(said) < now.end:
        return message
    kept = [i for i, one in enumerate(said) if one < now.end]
    return type(message)(*head, [keys[i] for i in kept], [said[i] for i in kept])


def _read_reply(reply: m.ReadReply, now: Limits) -> m.ReadReply:
    held = list(filter(None, reply.records))
    if not held or (max(held) < now.end and not max(map(_flags_of, held))):
        return reply
    records: list[bytes | None] = [record and _kept_for_grace(record, now) for record in reply.records]
    late = [i for i, record in enumerate(records) if record is not None and record >= now.end]
    for i in late:
        records[i] = None
    # This answer proves nothing about these keys.
    return reply._replace(records=records, voteless=[*reply.voteless, *late])


def _sweep(sweep: m.Sweep | m.SweepTags, now: Limits) -> m.Sweep | m.SweepTags | None:
    return sweep if sweep.version < now.end else None


def _write_reply(reply: m.WriteReply, now: Limits) -> m.WriteReply:
    newer = [pair for pair in reply.newer if pair[1] < now.end]
    return reply if len(newer) == len(reply.newer) else reply._replace(newer=newer)


def _floors_reply(reply: m.FloorsReply, now: Limits) -> m.FloorsReply:
    floors = [floor for floor in reply.floors if floor.version < now.end]
    return reply if len(floors) == len(reply.floors) else reply._replace(floors=floors)


def _stream(stream: m.Invalidations, now: Limits) -> m.Invalidations | None:
    return stream if all(event.version < now.end for event in stream.events) else None


GATES: Final[dict[type[Any], Gate]] = {
    m.Write: _write,
    m.Sweep: _sweep,
    m.SweepTags: _sweep,
    m.ReadReply: _read_reply,
    m.WriteReply: _write_reply,
    m.PullReply: _records,
    m.CompareReply: _pairs,
    m.FloorsReply: _floors_reply,
    m.Invalidations: _stream,
}
"""Every kind of message whose versions are stored, or void copies. Versions from clients (cas, fill) need no check:
they are only compared with those that are held."""


class Claims:
    """The checks of one node."""

    def __init__(self, wall_ms: Callable[[], int], grace_ms: int, counters: Counters) -> None:
        self._counters = counters
        self._wall_ms = wall_ms
        self._grace_ms = grace_ms
        self._now_ms = -1
        self._limits = limits(0, grace_ms)
        """The limits at the wall time ``_now_ms``."""

    def admitted(self, message: Any) -> Any:
        """Return the part of a message that can be true by now; None if no part can."""
        now_ms = self._wall_ms()
        if now_ms != self._now_ms:
            self._now_ms, self._limits = now_ms, limits(now_ms, self._grace_ms)
        admitted = GATES[type(message)](message, self._limits)
        if admitted is not message:
            self._counters.clock_refused += 1
        return admitted

    def gated(self, kind: type[Any], handle: Callable[[_From, Any], None]) -> Callable[[_From, Any], None]:
        """Return the handler of a kind of message with its check put before it, if the kind has one."""
        if kind not in GATES:
            return handle

        def gated(origin: _From, message: Any) -> None:
            admitted = self.admitted(message)
            if admitted is not None:
                handle(origin, admitted)

        return gated
