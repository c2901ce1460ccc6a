"""Following the invalidation streams: what nodes announce, and when nothing that was announced before may be trusted.

Every node publishes what it changed as coordinator (`Invalidations`): turns with events are numbered without gaps
within a boot, and the number is repeated every quarter of a second when nothing happens. PUB/SUB loses messages without
a word (late joiners, full queues, broken connections); the numbers are what tells. A follower keeps per node the last
(boot, number), and hears from it that something **may have been missed** when

- a number is not the one that must come next, or the boot is another one
- a node was not heard of for ``SILENCE_S``: cut off, paused, dead, or the loss of its last message would go unnoticed
- the member table changed: who is new was not followed until now, who is gone may have had a last word

A connection that broke and came back is no case of its own: what was lost meanwhile shows in the next number, and
nothing was lost if that is the one expected.

A gap concerns every key, not only those that the node owns: any node may coordinate a write of any key. So "what is
concerned" is everything, and what is remembered per node is two numbers.

The streams are *live* until ``live_until``: until then every member was heard of within ``SILENCE_S``, and all work
with the very ring that the follower knows; a member that the follower has not heard of yet shows as another ring.

Sources: the ZeroMQ Guide, ch. 5 (Clone: do not ask for what was missed, start over);
Hazelcast's near cache keeps (uuid, sequence) pairs likewise, but tolerates ten missed invalidations: here it is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from meshcache.protocol.messages import Event, Invalidations

SILENCE_S: Final = 0.75
"""A node not heard of for so long may have said something: three times the pause between two signs of life."""

REVIEW_S: Final = 0.1
"""How often silence is looked for; so it is noticed at most this much later."""


class Listener(Protocol):
    """Who wants to know what the streams say."""

    def on_event(self, node_id: str, event: Event, now: float) -> None:
        """Take what a node announced; each node's events come in its order."""

    def on_gap(self, node_id: str, now: float) -> None:
        """Something that this node announced may have been missed before now."""


class Stream:
    """What was last heard of one member."""

    __slots__ = ("address", "boot", "heard_at", "node_id", "sequence", "silent", "view")

    def __init__(self, node_id: str, address: str) -> None:
        self.node_id = node_id
        self.address = address
        """Where it publishes."""
        self.boot = 0
        """0: nothing was heard yet, the stream does not stand."""
        self.sequence = 0
        self.view = b""
        self.heard_at = -math.inf
        self.silent = False
        """It stood, and was given up for its silence; listeners know."""


class Streams:
    """The streams of all members. ``now`` is monotonic seconds throughout."""

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self.listeners: tuple[Listener, ...] = ()
        self.live_until = -math.inf
        """Nothing was missed that was announced ``SILENCE_S`` before this, and no stream is in doubt until then."""
        self.gaps = 0
        """How often a number or boot showed that something was missed."""
        self.silences = 0
        self._digest = b""
        self._review_at = -math.inf

    def tell(self, *listeners: Listener) -> None:
        """From now on these hear what is announced and what was missed, and no others."""
        self.listeners = listeners

    def follow(self, members: Mapping[str, str], digest: bytes, now: float) -> None:
        """Follow these members, node id to publish address, of the ring with this digest."""
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
        """Take a message of a stream; one of a node that is not followed is none of ours."""
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
        """Look for silence, and work out until when all streams are live."""
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
        """Something arrived that cannot be read: it may have been of any stream."""
        self.gaps += 1
        for stream in self.streams.values():
            if stream.boot:
                self._tell_gap(stream, now)

    def not_live(self, now: float) -> Iterable[str]:
        """Return which nodes are to be heard of before the streams are live."""
        return [
            stream.node_id
            for stream in self.streams.values()
            if now - stream.heard_at > SILENCE_S or stream.silent or stream.view != self._digest
        ]

    def _tell_gap(self, stream: Stream, now: float) -> None:
        for listener in self.listeners:
            listener.on_gap(stream.node_id, now)
