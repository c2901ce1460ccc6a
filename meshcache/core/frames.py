"""Turns the messages of one turn into frames: one per destination, or several where one would be too long to accept.

A message that cannot be encoded is left out; the others are still sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from meshcache.protocol import messages as m
from meshcache.protocol.clock import HybridClock
from meshcache.protocol.messages import Event, Message
from meshcache.protocol.wire import LARGE_BYTES, encode_frame, weight_of

EVENTS_PER_FRAME: Final = m.BATCH_OPS_MAX
"""The other side accepts no more events in one frame."""

_To = TypeVar("_To")
"""A destination: an address, or the routing id of the process that asked."""


class Frames:
    """Makes the frames of one node. ``fail`` is called with the error when a message cannot be encoded."""

    __slots__ = (
        "_boot",
        "_bytes_max",
        "_clock",
        "_fail",
        "_node_id",
        "sequence",
    )

    def __init__(
        self,
        clock: HybridClock,
        node_id: str,
        boot: int,
        bytes_max: int,
        fail: Callable[[str, object, Exception], None],
    ) -> None:
        self._clock = clock
        self._node_id = node_id
        self._boot = boot
        self._bytes_max = bytes_max
        self._fail = fail
        self.sequence = 0
        """The number of the last frame of the invalidation stream."""

    def of(self, waiting: Mapping[_To, Sequence[Message | bytes]]) -> list[tuple[_To, bytes]]:
        """Return the frames for all destinations."""
        clock = self._clock.latest
        try:
            return [
                (to, encode_frame(clock, part))
                for to, messages in waiting.items()
                for part in ([messages] if len(messages) == 1 else self._parts(messages))
            ]
        except Exception:  # noqa: BLE001  (of whatever kind: one by one shows whose it is)
            singles = [(to, message) for to, messages in waiting.items() for message in messages]
            return [(to, frame) for to, message in singles for frame in self._single(to, message)]

    def _single(self, to: object, message: Message | bytes) -> list[bytes]:
        """Return the frame of one message; none if it cannot be encoded."""
        try:
            return [encode_frame(self._clock.latest, [message])]
        except Exception as error:  # noqa: BLE001  (of whatever kind: it concerns this message)
            self._fail(f"encoding {type(message).__name__}", to, error)
            return []

    def stream(self, events: list[Event], view: bytes, *, subscribed: bool) -> list[bytes]:
        """Return the frames that announce this turn's events. They are numbered even when nobody subscribed."""
        frames = []
        while True:
            part = events[:EVENTS_PER_FRAME]
            self.sequence += bool(part)
            if subscribed:
                frames += self._single("", m.Invalidations(self._node_id, self._boot, self.sequence, view, part))
            events = events[EVENTS_PER_FRAME:]
            if not events:
                return frames

    def _parts(self, messages: Sequence[Message | bytes]) -> list[list[Message | bytes]]:
        """Split a turn's messages for one destination so that no frame exceeds what the other side accepts.

        A large message is in a frame of its own: to put another beside it would copy it once more.
        """
        limit = min(self._bytes_max // 2, LARGE_BYTES)
        parts: list[list[Message | bytes]] = [[]]
        size = 0
        for message in messages:
            weight = weight_of(message)
            if parts[-1] and (size + weight > limit or len(parts[-1]) == m.BATCH_OPS_MAX):
                parts.append([])
                size = 0
            parts[-1].append(message)
            size += weight
        return parts
