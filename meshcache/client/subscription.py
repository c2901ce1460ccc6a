"""What a subscriber gets: invalidations, in a bounded queue.

Pure: the drivers do the waiting (blocking/streams.py for threads, aio/streams.py for asyncio). A slow subscriber never
delays the stream: when its queue is full, further events are left out, and one GAP stands in their place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

from meshcache.client.arguments import Key
from meshcache.protocol.messages import Event, EventKind

QUEUE_EVENTS_MAX: Final = 10_000
"""How many events may wait for a subscriber; then it is told of a gap instead."""


class InvalidationKind(StrEnum):
    """What happened. Members compare equal to their text."""

    SET = "set"
    """A value was stored: by set, add, replace, cas, incr or touch."""
    DELETE = "delete"
    INVALIDATE = "invalidate"
    """The value was dropped because its source changed."""
    CLEAR = "clear"
    """Every key that begins with ``key`` was dropped; an empty ``key`` means all keys."""
    TAG = "tag"
    """Every key with the tag ``key`` was dropped. A subscriber is told of all tags of its namespace, whatever its
    prefix."""
    GAP = "gap"
    """Events may have been missed here: everything that you derived from earlier events may be out of date."""


class Invalidation(NamedTuple):
    """One thing that happened to one key, as a node announced it.

    The events of one node come in its order. For two nodes, ``version`` tells which change of a key was later, and
    events of one change may come more than once. A write that failed is announced, too, since it may take effect.
    """

    key: Key
    """The key without the client's namespace; str if it is valid UTF-8, else bytes. For a TAG it is the tag, for a GAP
    ""."""
    kind: InvalidationKind
    version: bytes
    """16 bytes that compare as bytes; empty for a GAP."""
    node: str
    """The id of the node that announced it. For a GAP, the node whose events may be missing ("": any node)."""


_KINDS: Final = {
    int(EventKind.SET): InvalidationKind.SET,
    int(EventKind.DELETE): InvalidationKind.DELETE,
    int(EventKind.INVALIDATE): InvalidationKind.INVALIDATE,
    int(EventKind.CLEAR): InvalidationKind.CLEAR,
    int(EventKind.TAG): InvalidationKind.TAG,
}


class Feed:
    """The events of one subscription that were not read yet; a ``Listener`` of the streams."""

    def __init__(self, namespace: bytes, prefix: bytes, wake: Callable[[], None]) -> None:
        self.queue: deque[Invalidation] = deque()
        self.closed = False
        self.standing = False
        """Whether the subscription was returned to its user: from then on, gaps are reported."""
        self._namespace_bytes = len(namespace)
        self._prefix = namespace + prefix
        self._wake = wake
        self._full = False

    def on_event(self, node_id: str, event: Event, now: float) -> None:
        """Queue the keys of this event that are under the prefix, or its tags if they are of the namespace."""
        kind = _KINDS.get(event.kind)
        if kind is None:
            self.on_gap(node_id, now)  # a kind that only newer versions of meshcache know: any key may have changed
            return
        prefix = self._prefix
        if kind is InvalidationKind.TAG:
            prefix = prefix[: self._namespace_bytes]  # a key of any name may have the tag
        for key in event.keys:
            if key.startswith(prefix) or (kind is InvalidationKind.CLEAR and prefix.startswith(key)):
                self._put(Invalidation(_readable(key[self._namespace_bytes :]), kind, event.version, node_id))

    def on_gap(self, node_id: str, now: float) -> None:  # noqa: ARG002  (as told to every listener)
        """Queue a gap: events may be missing here."""
        if self.standing:
            self._put(Invalidation("", InvalidationKind.GAP, b"", node_id))

    def close(self) -> None:
        """Accept no more events; those in the queue can still be read."""
        self.closed = True
        self._wake()

    def _put(self, invalidation: Invalidation) -> None:
        queue = self.queue
        if len(queue) < QUEUE_EVENTS_MAX:
            self._full = False
            queue.append(invalidation)
        elif not self._full:
            self._full = True
            queue.append(Invalidation("", InvalidationKind.GAP, b"", ""))
        self._wake()


def _readable(key: bytes) -> Key:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key
