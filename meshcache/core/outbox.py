"""Everything that a turn of the node wants done outside, gathered in one place.

The parts of the core append here; the driver drains it once a turn. All messages of a turn for one destination leave
in one frame: the cost of a message over ZeroMQ is per frame, not per byte, and so replication for many clients rides
together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshcache.protocol.messages import Event, Message


@dataclass(slots=True)
class Effects:
    """What the driver must do, in this order: disconnect, connect, send, reply, publish."""

    disconnect: list[str] = field(default_factory=list)
    """Addresses whose DEALER is to be closed; what it has queued is lost on purpose."""
    connect: list[str] = field(default_factory=list)
    """Addresses to open a DEALER to; it reports link_up and link_down from then on."""
    sends: list[tuple[str, bytes]] = field(default_factory=list)
    """Frames for dialled addresses."""
    replies: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Frames for the ROUTER, with the routing id of who asked."""
    publish: list[bytes] = field(default_factory=list)
    """Frames for the PUB socket."""
    notes: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    """What is worth a line in the log: an event and its fields."""
    follow: list[str] | None = None
    """Publish addresses whose streams this node is to receive, and no others; None: as before."""


class Outbox:
    """The effects of the current turn, by destination."""

    def __init__(self) -> None:
        self.sends: dict[str, list[Message]] = {}
        self.replies: dict[bytes, list[Message]] = {}
        self.reply_bytes = 0
        """Of the values in the replies to clients."""
        self.events: list[Event] = []
        self.connect: list[str] = []
        self.disconnect: list[str] = []
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.follow: list[str] | None = None
        self.subscribed = True
        """Somebody may receive the invalidation stream. False spares its encoding; its numbers go on all the same."""
        self.idle = False
        """The number of the invalidation stream is to be repeated, though nothing happened."""

    def send(self, address: str, message: Message) -> None:
        """Send on the link that this node dialled to ``address``."""
        waiting = self.sends.get(address)
        if waiting is None:
            self.sends[address] = [message]
        else:
            waiting.append(message)

    def reply(self, origin: bytes, message: Message) -> None:
        """Answer on the link on which ``origin`` asked."""
        waiting = self.replies.get(origin)
        if waiting is None:
            self.replies[origin] = [message]
        else:
            waiting.append(message)

    def note(self, event: str, **fields: object) -> None:
        """Have the driver log an event."""
        self.notes.append((event, fields))

    def follow_streams(self, addresses: list[str]) -> None:
        """Have the driver receive these invalidation streams, and no others."""
        self.follow = addresses

    def note_subscribers(self, *, present: bool) -> None:
        """Somebody subscribed to the invalidation stream, or nobody is left. A new subscriber is told the number."""
        self.subscribed = present
        self.idle = self.idle or present

    def repeat_number(self) -> None:
        """Tell how far the invalidation stream is, though nothing happened."""
        self.idle = True

    def count_values(self, size: int) -> int:
        """Count the values in a reply to a client; return what there is of them in this turn."""
        self.reply_bytes += size
        return self.reply_bytes

    def clear(self) -> None:
        """Begin a new turn. What was handed out in Effects is not touched."""
        self.sends, self.replies, self.events, self.reply_bytes = {}, {}, [], 0
        self.connect, self.disconnect, self.notes, self.idle = [], [], [], False
        self.follow = None
