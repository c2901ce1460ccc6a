"""The effects of one turn: everything that the node wants done outside of the core, in one place.

The parts of the core append here; the driver drains the outbox once a turn. All messages of a turn for one destination
leave in one frame, because ZeroMQ costs per frame and not per byte: so the writes of many clients travel to a replica
together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from meshcache.protocol.messages import Event, Message

REPLY_BYTES_PER_TURN: Final = 1 << 19
"""When one turn has replied more bytes of values, what else asks for some waits for the next. Less than the largest
reply: else two of those may come in one turn, which to join in one frame would copy twice more, and who asks for them
counts as light (intake.py)."""


@dataclass(slots=True)
class Effects:
    """What the driver must do, in this order: disconnect, connect, send, reply, publish."""

    disconnect: list[str] = field(default_factory=list)
    """Addresses whose DEALER socket is to be closed; what it has queued is lost on purpose."""
    connect: list[str] = field(default_factory=list)
    """Addresses to open a DEALER socket to; from then on the driver calls link_up and link_down for each."""
    sends: list[tuple[str, bytes]] = field(default_factory=list)
    """Frames for dialled addresses."""
    replies: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Frames for the ROUTER socket, each with the routing id of the process that asked."""
    publish: list[bytes] = field(default_factory=list)
    """Frames for the PUB socket."""
    notes: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    """Lines for the log: an event and its fields."""
    follow: list[str] | None = None
    """Publish addresses whose streams this node is to receive, and no others; None: no change."""


class Outbox:
    """The effects of the current turn, by destination."""

    __slots__ = (
        "connect",
        "disconnect",
        "events",
        "follow",
        "idle",
        "notes",
        "replies",
        "reply_bytes",
        "sends",
        "subscribed",
    )

    def __init__(self) -> None:
        self.sends: dict[str, list[Message]] = {}
        self.replies: dict[bytes, list[Any]] = {}
        """Messages; or bytes, a message that was encoded natively, as a frame of its own: see wire.encode_frame."""
        self.reply_bytes = 0
        """Bytes of the values in the replies to clients of this turn."""
        self.events: list[Event] = []
        self.connect: list[str] = []
        self.disconnect: list[str] = []
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.follow: list[str] | None = None
        self.subscribed = True
        """Whether somebody may receive the invalidation stream. If not, it is numbered but not encoded."""
        self.idle = False
        """Whether the last number of the invalidation stream is to be repeated, although nothing happened."""

    def send(self, address: str, message: Message) -> None:
        """Send on the link that this node dialled to ``address``."""
        waiting = self.sends.get(address)
        if waiting is None:
            self.sends[address] = [message]
        else:
            waiting.append(message)

    def reply(self, origin: bytes, message: Message) -> None:
        """Answer on the connection on which ``origin`` asked."""
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
        """Note whether anybody subscribes to the invalidation stream. A new subscriber must be told its number."""
        self.subscribed = present
        self.idle = self.idle or present

    def repeat_number(self) -> None:
        """Have the last number of the invalidation stream published again, although nothing happened."""
        self.idle = True

    def count_values(self, size: int) -> int:
        """Add the size of the values in a reply to a client; return the sum of this turn."""
        self.reply_bytes += size
        return self.reply_bytes

    def has_enough_to_reply(self) -> bool:
        """Tell whether there are so many bytes of values that no further large reply should join them in this turn."""
        return self.reply_bytes > REPLY_BYTES_PER_TURN

    def take_replies(self) -> dict[bytes, list[Any]]:
        """Return the replies, and begin a new turn as to them."""
        replies, self.replies, self.reply_bytes = self.replies, {}, 0
        return replies

    def take_events(self) -> list[Event]:
        """Return the events, and begin a new turn as to them."""
        events, self.events = self.events, []
        return events

    def clear(self) -> None:
        """Begin a new turn. The Effects that were handed out are not touched."""
        self.sends, self.replies, self.events, self.reply_bytes = {}, {}, [], 0
        self.connect, self.disconnect, self.notes, self.idle = [], [], [], False
        self.follow = None
