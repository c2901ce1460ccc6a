"""What ``up`` prints of its nodes' logs: for people a sentence per line, for programs a JSON object per line.

Nodes write JSON into a pipe, whatever format is wanted, so that the format is chosen here alone. What a node writes
beside its log (a traceback, the last message of a library) is passed on as an event, too: so every line for a program
can be parsed, and names its node.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from meshcache.local.terminal import RED, YELLOW, Paint

_NODE_COLOURS: Final = (36, 35, 32, 34, 96, 95, 92, 94)
_BOLD_RED: Final = f"1;{RED}"
_LEVEL_COLOURS: Final = {"warning": str(YELLOW), "error": str(RED), "critical": str(RED)}

_SENTENCES: Final = {
    "alone": "reaches no other node, and serves alone",
    "declared_dead": "declares {member} dead",
    "enough_nodes": "sees {nodes} nodes: enough for {replicas} copies of each key",
    "evicting": "is full and dropped {entries:,} entries: raise {limit} (now {limit_is:,})",
    "leaving": "hands its slots over, to leave",
    "left": "has left",
    "member alive": "sees {member} at {address}",
    "member dead": "knows that {member} is dead",
    "member forgotten": "forgets {member}",
    "member left": "knows that {member} has left",
    "member suspect": "suspects {member}, which is silent",
    "ready": "is ready",
    "recalled": "has taken in {taken_in:,} of {found:,} entries of its snapshot: {reason}",
    "recalling": "compares its snapshot of {found:,} entries with those of the others",
    "refused": "is refused: {reason}",
    "rejoined": "was taken for dead, and is back after {away_s} s",
    "ring": "shares the keys with {others}",
    "snapshot_failed": "could not write a snapshot: {reason}",
    "snapshot_loaded": "found {entries:,} entries in its snapshot of {age_s} s ago",
    "snapshot_refused": "does not load {file}: {reason}",
    "snapshot_written": "wrote a snapshot of {bytes:,} bytes",
    "stalled": "stood still for {seconds} s",
    "too_few_nodes": "sees {nodes} of the {replicas} nodes that cluster.replicas wants",
    "voided": "forgets {slots} slots, of which a write may be lost",
}
"""The sentence for an event, after the name of the node. Other events are shown by their name and fields."""

_DEATHS: Final = frozenset({"declared_dead", "member dead"})
_ENVELOPE: Final = ("timestamp", "level", "node_id", "event")


class LogLines:
    """Makes lines, for people or for programs."""

    def __init__(self, *, readable: bool, coloured: bool) -> None:
        self._readable = readable
        self._paint = Paint(enabled=coloured)
        self._colours: dict[str, int] = {}

    def of_node(self, node_id: str, text: str) -> str:
        """Return the line to print for a line that a node has written."""
        fields = _parsed(text)
        fields = {"timestamp": _now(), "level": "info", **fields, "node_id": node_id}
        return self._text(node_id, fields) if self._readable else _json(fields)

    def of_launcher(self, text: str, *, node_id: str = "", level: str = "info") -> str:
        """Return the line for a text of the launcher itself, perhaps about a node: an error is the death of a node."""
        fields = {"timestamp": _now(), "level": level, "event": text} | ({"node_id": node_id} if node_id else {})
        if not self._readable:
            return _json(fields)
        colour = _BOLD_RED if level == "error" else _LEVEL_COLOURS.get(level)
        return f"{_clock(fields)}  {self._paint(text, colour)}"

    def _text(self, node_id: str, fields: Mapping[str, Any]) -> str:
        event = str(fields.get("event"))
        kind = f"member {fields.get('state')}" if event == "member" else event
        colour = _BOLD_RED if kind in _DEATHS else _LEVEL_COLOURS.get(str(fields["level"]))
        name = self._paint(node_id, self._colours.setdefault(node_id, _NODE_COLOURS[len(self._colours) % 8]))
        return f"{_clock(fields)}  {name}  {self._paint(_sentence(kind, fields), colour)}"


def _parsed(text: str) -> dict[str, Any]:
    """Return the fields of a line of a node's log; any other line becomes the event itself."""
    try:
        fields = json.loads(text) if text.startswith("{") else None
    except ValueError:
        fields = None
    if isinstance(fields, dict) and "event" in fields:
        return fields
    return {"event": text} if text == "ready" else {"event": text, "level": "error"}


def _sentence(kind: str, fields: Mapping[str, Any]) -> str:
    told = {**fields, "others": ", ".join(name for name in _names(fields) if name != fields["node_id"]) or "nobody"}
    try:
        return _SENTENCES[kind].format_map(told)
    except (KeyError, ValueError):
        rest = [f"{name}={value}" for name, value in fields.items() if name not in _ENVELOPE and name != "exception"]
        lines = [" ".join([str(fields.get("event")), *rest]), *str(fields.get("exception", "")).splitlines()]
        return "\n    ".join(lines)


def _names(fields: Mapping[str, Any]) -> list[str]:
    members = fields.get("members")
    return [str(name) for name in members] if isinstance(members, list) else []


def _json(fields: Mapping[str, Any]) -> str:
    ordered = {name: fields[name] for name in _ENVELOPE if name in fields}
    return json.dumps({**ordered, **fields}, ensure_ascii=False, default=repr)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _clock(fields: Mapping[str, Any]) -> str:
    """Return the time of day, in the reader's time zone."""
    try:
        return datetime.fromisoformat(str(fields["timestamp"])).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return "--:--:--"
