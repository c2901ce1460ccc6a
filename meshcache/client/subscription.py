"""What a subscriber gets: invalidations, in a bounded queue.

Pure: how to wait for them is the drivers' (blocking/streams.py for threads, aio/streams.py for asyncio). The stream is
never held up: when a queue is full, what follows is left out and one GAP stands in its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

from meshcache.client.arguments import Key
from meshcache.protocol.messages import Event, EventKind

QUEUE_EVENTS_MAX: Final = 10_000
"""Events that wait for a subscriber; beyond, it is told of a gap instead."""


class InvalidationKind(StrEnum):
    """What happened. Members compare equal to their text."""

    SET = "set"
    """A value was stored: by set, add, replace, cas, incr or touch."""
    DELETE = "delete"
    INVALIDATE = "invalidate"
    """It was dropped because its source changed."""
    CLEAR = "clear"
    """Every key that begins with ``key`` was dropped; "" stands for all."""
    TAG = "tag"
    """Every key that bears the tag ``key`` was dropped. Told of every tag of the namespace, whatever prefix of keys."""
    GAP = "gap"
    """Something may have been missed here: take everything that you derived from earlier events for void."""


class Invalidation(NamedTuple):
    """One thing that happened to one key, as a node announced it.

    Those of one node come in its order; of two nodes, ``version`` tells which change of a key was later, and events
    of one change may come more than once. A write that failed is announced too, since it may take effect.
    """

    key: Key
    """Without the client's namespace; str where it is valid UTF-8, else bytes. Of a TAG it is the tag, of a GAP ""."""
    kind: InvalidationKind
    version: bytes
    """16 bytes that compare as bytes. Of a GAP it is empty."""
    node: str
    """The id of the node that announced it; of a GAP, whose events may be missing ("": of any)."""


_KINDS: Final = {
    int(EventKind.SET): InvalidationKind.SET,
    int(EventKind.DELETE): InvalidationKind.DELETE,
    int(EventKind.INVALIDATE): InvalidationKind.INVALIDATE,
    int(EventKind.CLEAR): InvalidationKind.CLEAR,
    int(EventKind.TAG): InvalidationKind.TAG,
}


class Feed:
    """The events of one subscription that nobody has read yet; a ``Listener`` of the streams."""

    def __init__(self, namespace: bytes, prefix: bytes, wake: Callable[[], None]) -> None:
        self.queue: deque[Invalidation] = deque()
        self.closed = False
        self.standing = False
        """The subscription has been returned: from here on, what is missed is told."""
        self._namespace_bytes = len(namespace)
        self._prefix = namespace + prefix
        self._wake = wake
        self._full = False

    def on_event(self, node_id: str, event: Event, now: float) -> None:
        """Queue what of this event is under the prefix, or of a tag that keys under it may bear."""
        kind = _KINDS.get(event.kind)
        if kind is None:
            self.on_gap(node_id, now)  # of a newer version of meshcache: something happened, to who knows what
            return
        prefix = self._prefix
        if kind is InvalidationKind.TAG:
            prefix = prefix[: self._namespace_bytes]  # a tag is borne by keys of any name
        for key in event.keys:
            if key.startswith(prefix) or (kind is InvalidationKind.CLEAR and prefix.startswith(key)):
                self._put(Invalidation(_readable(key[self._namespace_bytes :]), kind, event.version, node_id))

    def on_gap(self, node_id: str, now: float) -> None:  # noqa: ARG002  (as told to every listener)
        """Queue that something may be missing."""
        if self.standing:
            self._put(Invalidation("", InvalidationKind.GAP, b"", node_id))

    def close(self) -> None:
        """Take no more; what is queued can still be read."""
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
