"""Following the invalidation streams: what nodes announce, and when announcements may have been missed.

Every node publishes what it changed as coordinator (`Invalidations`): turns with events are numbered without gaps
within a boot, and the number is repeated every quarter of a second when nothing happens. PUB/SUB loses messages
silently (late joiners, full queues, broken connections); only the numbers show it. A process that follows the streams
keeps the last (boot, number) of each node. Something **may have been missed** when

- a number is not the one that must come next, or the boot has changed
- a node was not heard of for ``SILENCE_S``: it is cut off, paused or dead, or its last message was lost
- the member table changed: a new member was not followed before, and a member that is gone may have announced more

A connection that broke and came back needs no rule of its own: the next number shows whether anything was lost.

A gap concerns every key, not only those that the node owns: any node may coordinate a write of any key. So after a gap
all copies are void, and no more than two numbers per node need to be kept.

The streams are *live* until ``live_until``: until then every member was heard of within ``SILENCE_S``, and all work
with the same ring as this process. A member that this process does not know yet shows as another ring.

Sources: the ZeroMQ Guide, ch. 5 (Clone: do not ask for what was missed, start over);
Hazelcast's near cache keeps (uuid, sequence) pairs likewise, but tolerates ten missed invalidations: here it is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from meshcache.protocol.messages import Event, Invalidations

SILENCE_S: Final = 0.75
"""The silence after which announcements may have been missed: three times the time between two repeated numbers."""

REVIEW_S: Final = 0.1
"""How often streams are checked for silence, which is therefore noticed at most this much later."""


class Listener(Protocol):
    """An object that is told what the streams announce: a near store or a subscription."""

    def on_event(self, node_id: str, event: Event, now: float) -> None:
        """Take what a node announced; each node's events come in its order."""

    def on_gap(self, node_id: str, now: float) -> None:
        """Note that announcements of this node may have been missed before now."""


class Stream:
    """The invalidation stream of one member, and what was last received of it."""

    __slots__ = ("address", "boot", "heard_at", "node_id", "sequence", "silent", "view")

    def __init__(self, node_id: str, address: str) -> None:
        self.node_id = node_id
        self.address = address
        """The address where the member publishes."""
        self.boot = 0
        """The boot of its process; 0: nothing was received yet."""
        self.sequence = 0
        self.view = b""
        self.heard_at = -math.inf
        self.silent = False
        """Whether the stream was given up for its silence, and listeners were told of a gap."""


class Streams:
    """The invalidation streams of all members. ``now`` is monotonic seconds throughout."""

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self.listeners: tuple[Listener, ...] = ()
        self.live_until = -math.inf
        """Until then all streams are live: nothing was missed that was announced at least ``SILENCE_S`` before."""
        self.gaps = 0
        """How often a number or boot showed that announcements were missed."""
        self.silences = 0
        self._digest = b""
        self._review_at = -math.inf

    def tell(self, *listeners: Listener) -> None:
        """Tell these listeners, and no others, from now on what is announced and what may have been missed."""
        self.listeners = listeners

    def follow(self, members: Mapping[str, str], digest: bytes, now: float) -> None:
        """Follow these members (publish address by node id) of the ring with this digest."""
        self._digest = digest
        streams: dict[str, Stream] = {}
        for node_id, address in members.items():
            known = self.streams.get(node_id)
            streams[node_id] = known if known is not None and known.address == address else Stream(node_id, address)
        gone = [stream for node_id, stream in self.streams.items() if streams.get(node_id) is not stream]
        self.streams = streams
        for stream in gone:
            if stream.boot and not stream.silent:
                self._tell_gap(stream, now)
        self.review(now)

    def receive(self, message: Invalidations, now: float) -> None:
        """Take in a message of a stream; ignore it if its node is not followed."""
        stream = self.streams.get(message.node_id)
        if stream is None:
            return
        expected = stream.sequence + 1 if message.events else stream.sequence
        stream.heard_at = now
        if message.sequence != expected or message.boot != stream.boot:
            self.gaps += bool(stream.boot)
            stream.boot = message.boot
            self._tell_gap(stream, now)
            self._review_at = now
        stream.sequence = message.sequence
        if stream.silent or message.view != stream.view:
            stream.silent = False
            stream.view = message.view
            self._review_at = now
        for event in message.events:
            for listener in self.listeners:
                listener.on_event(stream.node_id, event, now)
        if now >= self._review_at:
            self.review(now)

    def review(self, now: float) -> None:
        """Notice silent streams, and compute until when all streams are live."""
        self._review_at = now + REVIEW_S
        heard_at = math.inf
        for stream in self.streams.values():
            if stream.boot and not stream.silent and now - stream.heard_at > SILENCE_S:
                stream.silent = True
                self.silences += 1
                self._tell_gap(stream, now)
            doubtful = stream.silent or stream.view != self._digest
            heard_at = min(heard_at, -math.inf if doubtful else stream.heard_at)
        self.live_until = heard_at + SILENCE_S if self.streams else -math.inf

    def lose_all(self, now: float) -> None:
        """Note a gap in every stream, because a frame cannot be read that may have come from any of them."""
        self.gaps += 1
        for stream in self.streams.values():
            if stream.boot:
                self._tell_gap(stream, now)

    def not_live(self, now: float) -> Iterable[str]:
        """Return the nodes that must be heard before the streams are live."""
        return [
            stream.node_id
            for stream in self.streams.values()
            if now - stream.heard_at > SILENCE_S or stream.silent or stream.view != self._digest
        ]

    def _tell_gap(self, stream: Stream, now: float) -> None:
        for listener in self.listeners:
            listener.on_gap(stream.node_id, now)
