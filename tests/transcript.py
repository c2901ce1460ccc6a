"""The messages of nodes and clients in a story, for people to read.

A line is a message when it arrives, after milliseconds since the beginning. Names of messages and fields are those of
meshcache/protocol/messages.py. A transcript leaves out what only tells one request or moment from another (numbers of
requests, deadlines, boots, digests), fields that are empty or zero, and rumours that the receiver has heard before.
Versions are named v1, v2, … and tokens t1, t2, … in the order in which they appear. ``n3+1`` is n3 in the incarnation
after the one that it had in the beginning; ``synced``: it has pulled what it gained by the new ring.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection
from typing import Any

from meshcache.client.delivery import Flow
from meshcache.core.membership.members import State
from meshcache.protocol.messages import (
    LEASE_ALWAYS,
    LEVEL_ALL,
    LEVEL_ONE,
    LEVEL_QUORUM,
    Ack,
    Change,
    Code,
    Event,
    EventKind,
    Fact,
    Gossip,
    Hello,
    Invalidations,
    Ping,
    Rumour,
    Welcome,
)
from meshcache.protocol.record import HEADER_BYTES, VERSION_BYTES, is_tombstone, split_content, stamp, tags_of
from meshcache.protocol.wire import decode_frame
from meshcache.simulation.clients import ClientHost
from meshcache.simulation.mesh import Mesh
from meshcache.simulation.network import Weather

EVEN = Weather(delay_s=0.0, delay_min_s=0.001)
"""Every message takes a millisecond: so the order of messages does not depend on chance."""
LEFT_OUT = {"request", "boot", "deadline_ms", "view", "settings", "wall_ms", "facts", "sequence", "digests", "protocol"}
ALWAYS = {"results"}
LEVELS = {LEVEL_ONE: "ONE", LEVEL_QUORUM: "QUORUM", LEVEL_ALL: "ALL"}
WIDTH = 120

Wanted = Callable[[str, str, Any], bool]


class Transcript:
    """The messages of some kinds that arrive in a mesh from now on, and the remarks between them."""

    def __init__(self, mesh: Mesh, shown: Collection[type[Any]], wanted: Wanted = lambda *_: True) -> None:
        self.lines: list[str] = []
        self._shown = tuple(shown)
        self._wanted = wanted
        self._versions: dict[bytes, str] = {}
        self._tokens: dict[bytes, str] = {}
        self._first = {host.name: host.core.membership.own for host in mesh.nodes.values() if host.core is not None}
        self._heard: dict[tuple[str, str], None] = {}
        """What each host has heard or told before, as (host, text)."""
        self._mesh = mesh
        self._world = mesh.world
        self._begin = mesh.world.now
        mesh.world.note_frame = self._on_frame  # type: ignore[method-assign]  # the trace, before it is text

    def tell(self, text: str) -> None:
        """Write a remark beside the messages."""
        self._line(f"-- {text}")

    def begin(self, client: ClientHost, does: str, flow: Flow[Any]) -> list[Any]:
        """Let a client begin an operation; write that down, and later the result, which also goes into the list."""
        ended: list[Any] = []

        def end(result: Any, error: Exception | None, _: bool) -> None:
            self.tell(f"{client.name}: {does} -> {result!r}" if error is None else f"{client.name}: {does}: {error}")
            ended.append(result)

        self.tell(f"{client.name}: {does}")
        client.run(flow, end)
        return ended

    def call(self, client: ClientHost, does: str, flow: Flow[Any]) -> Any:
        """Let a client run an operation to its end."""
        ended = self.begin(client, does, flow)
        self._mesh.wait_for(lambda: bool(ended))
        return ended[0]

    def _line(self, text: str) -> None:
        milliseconds = 1000 * (self._world.now - self._begin)
        self.lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent=f"{milliseconds:6.0f}  ",
            subsequent_indent=" " * 12,
            break_long_words=False,
            break_on_hyphens=False,
        )

    def _on_frame(self, what: str, frame: bytes) -> None:
        source, _, target = what.split(" ")
        for message in decode_frame(frame)[1]:
            shown = isinstance(message, self._shown) and self._is_new(what, message)
            if shown and self._wanted(source, target, message):
                self._line(f"{what}  {self.message(message)}")

    def _is_new(self, way: str, message: Any) -> bool:
        """Tell whether the receiver of a probe or rumour hears something new; all other messages count as new."""
        source, arrow, target = way.split(" ")
        match message:
            case Hello(member=fact) if fact is not None:
                told = [self._fact(fact)]
            case Welcome():
                told = [self._fact(fact) for fact in message.members]
            case Gossip() | Ping() | Ack():
                told = [self._rumour(rumour) for rumour in message.rumours] or [f"{way}  {type(message).__name__}"]
            case _:
                return True
        new = [text for text in told if (target, text) not in self._heard]
        self._heard |= dict.fromkeys((source, text) for text in told)
        if arrow == "->":
            self._heard |= dict.fromkeys((target, text) for text in told)
        return bool(new) or isinstance(message, Hello | Welcome)

    # ---- parts of messages

    def message(self, message: Any) -> str:
        """Return a message as Python would write it, with less."""
        always = ALWAYS | {"sequence"} if isinstance(message, Invalidations) else ALWAYS
        fields = [
            f"{name}={self._field(name, value)}"
            for name, value in zip(message._fields, message, strict=True)
            if name in always or (name not in LEFT_OUT and value)
        ]
        return f"{type(message).__name__}({', '.join(fields)})"

    def _field(self, name: str, value: Any) -> str:
        match name:
            case "kind":
                return EventKind(value).name
            case "contents":
                return _list(map(self._content, value))
            case "changes":
                return _list(map(self._change, value))
            case "rumours":
                return _list(self._rumour(rumour) for rumour in value)
            case "events":
                return _list(self.message(Event(*event)) for event in value)
            case "r" | "w":
                return LEVELS.get(value, str(value))
            case "member":
                return self._fact(value)
            case "members":
                return _list(map(self._fact, value))
            case "slots":
                return f"{len(value)} of them" if len(value) > 8 else str(value)
            case "results" if value and isinstance(value[0], list):
                return _list(f"{Code(code).name} {' '.join(map(repr, details))}" for code, *details in value)
        return self._value(value)

    def _value(self, value: Any) -> str:
        if isinstance(value, list):
            return _list(map(self._value, value))
        if not isinstance(value, bytes):
            return repr(value)
        if len(value) == VERSION_BYTES and not value.isascii():
            return self._version(value)
        if len(value) >= HEADER_BYTES and not value.isascii():
            version = self._version(value[:VERSION_BYTES])
            return f"<{version} deleted>" if is_tombstone(value) else f"<{version} {self._content(value[22:])}>"
        return repr(value.decode())

    def _version(self, version: bytes) -> str:
        if version == LEASE_ALWAYS:
            return "any"
        return self._versions.setdefault(version, f"v{len(self._versions) + 1}") if version else "none"

    def _content(self, content: bytes) -> str:
        tags = tags_of(stamp(bytes(VERSION_BYTES), 0) + content)
        return repr(split_content(content)[1].decode()) + "".join(f" #{tag.decode()}" for tag in tags)

    def _change(self, change: list[Any]) -> str:
        kind, *arguments = change
        match Change(kind), arguments:
            case Change.LEASE, [park_ms, above, token]:
                token = self._tokens.setdefault(token, f"t{len(self._tokens) + 1}")
                return f"LEASE park_ms={park_ms} above={self._version(above)} token={token}"
            case Change.FILL, [content, _, lease]:
                return f"FILL {self._content(content)} lease={self._version(lease)}"
            case Change.HOLD, [keep, lease, *_]:
                return f"HOLD keep={keep} lease={self._version(lease)}"
        return " ".join([Change(kind).name, *map(self._value, arguments)])

    def _fact(self, fact: Fact) -> str:
        """Return the state of a member, and what has changed since the first fact about it."""
        fact = Fact(*fact)
        first = self._first.setdefault(fact.node_id, fact)
        later = f"+{fact.incarnation - first.incarnation}" if fact.incarnation != first.incarnation else ""
        weight = "" if fact.weight else " weight=0"
        synced = " synced" if fact.synced != first.synced else ""
        return f"{fact.node_id}{later} {State(fact.state).name.lower()}{weight}{synced}"

    def _rumour(self, rumour: Rumour) -> str:
        fact, accusers = rumour
        return self._fact(fact) + (f" accused by {' '.join(accusers)}" if accusers else "")


def _list(parts: Any) -> str:
    return f"[{', '.join(parts)}]"
