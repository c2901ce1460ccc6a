"""What the command line shows of a mesh: plain text for people, made from the dicts that nodes answer with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from meshcache.core.record import NEVER_MS
from meshcache.subscription import Invalidation, InvalidationKind

RED: Final = 31
GREEN: Final = 32
YELLOW: Final = 33
_STATE_COLOURS: Final = {"alive": GREEN, "suspect": YELLOW, "dead": RED}
_KIND_COLOURS: Final = {
    InvalidationKind.SET: GREEN,
    InvalidationKind.DELETE: RED,
    InvalidationKind.INVALIDATE: RED,
    InvalidationKind.CLEAR: RED,
    InvalidationKind.GAP: YELLOW,
}
_BAR_WIDTH: Final = 30


class Paint:
    """Colours text, or leaves it as it is."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    def __call__(self, text: str, colour: int | None) -> str:
        """Return ``text`` in a colour of the terminal."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self._enabled and colour is not None else text

    def bold(self, text: str) -> str:
        """Return a heading."""
        return self(text, 1)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], paint: Paint, colour_of: Mapping[str, int]) -> str:
    """Align columns: numbers to the right, text to the left. ``colour_of`` colours cells by their text."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [
        bool(cells)
        and all(row[i].replace(",", "").replace(".", "").rstrip("%").isdigit() or row[i] == "-" for row in cells)
        for i in range(len(headings))
    ]
    widths = [max(len(heading), *(len(row[i]) for row in cells), 0) for i, heading in enumerate(headings)]

    def line(row: Sequence[str], colours: Sequence[int | None]) -> str:
        aligned = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        aligned[-1] = aligned[-1].rstrip()
        return "  ".join(paint(cell, colour) for cell, colour in zip(aligned, colours, strict=True))

    return "\n".join(
        [line(list(headings), [1] * len(headings))]
        + [line(row, [colour_of.get(cell) for cell in row]) for row in cells]
    )


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def status_text(members: Sequence[Mapping[str, Any]], paint: Paint) -> str:
    """Show members and their health; what each says of itself is in ``commands.status``'s own columns and ``error``."""
    headings = ["NODE", "ADDRESS", "STATE", "READY", "RING", "PULLING", "HINTS", "COMPARED", "INCARNATION"]
    headings += ["HOST", "ZONE", "WEIGHT", "PROBLEM"]
    columns = ["node_id", "address", "state", "ready", "ring_digest", "slots_missing", "hints", "compared", "life"]
    columns += ["host", "zone", "weight", "error"]
    if not any(member.get("error") for member in members):
        columns, headings = columns[:-1], headings[:-1]
    told = [{**member, "compared": _age(member), "life": f"{member.get('incarnation', 0):016x}"} for member in members]
    rows = [[member.get(column) for column in columns] for member in told]
    return table(headings, rows, paint, _STATE_COLOURS) + "\n\n" + health_of(members, paint)


def _age(member: Mapping[str, Any]) -> str | None:
    """Return how long ago a node had compared all its slots with their other owners."""
    seconds = member.get("compared_s_ago")
    return None if seconds is None else f"{seconds:.0f}s"


def health_of(members: Sequence[Mapping[str, Any]], paint: Paint) -> str:
    """Sum up in a sentence."""
    alive = [member for member in members if member["state"] == "alive"]
    expected = [member for member in members if member["state"] != "left"]
    if len(alive) < len(expected):
        return paint(f"{len(expected) - len(alive)} of {len(expected)} nodes can not be reached", RED)
    if any(not member.get("ready") for member in alive):
        return paint("some nodes do not serve yet", YELLOW)
    if len({member.get("ring_digest") for member in alive}) > 1:
        return paint("the nodes do not agree on the ring yet", YELLOW)
    moving = sum(member.get("slots_missing") or 0 for member in alive)
    if moving:
        return paint(f"all {len(alive)} nodes serve; copies are on the move, {moving:,} slots to go", YELLOW)
    return paint(f"all {len(alive)} nodes serve, agree on the ring and hold what they own", GREEN)


def flatten(counters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested counters into one level of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in counters.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def stats_text(stats: Mapping[str, Mapping[str, Any]], paint: Paint) -> str:
    """Show counters by name, one column for each node."""
    by_node = {
        node_id: {name: value for name, value in flatten(counters).items() if isinstance(value, int | float)}
        for node_id, counters in stats.items()
    }
    names = list(dict.fromkeys(name for counters in by_node.values() for name in counters))
    rows = [[name, *(counters.get(name) for counters in by_node.values())] for name in names]
    return table(["COUNTER", *by_node], rows, paint, {})


def hot_text(hot: Mapping[str, Mapping[str, Any]], paint: Paint) -> str:
    """Show the keys read most, at which node, and about how often in the last window."""
    found = [(row["reads"], node_id, row) for node_id, answer in hot.items() for row in answer["keys"]]
    found.sort(key=lambda entry: -entry[0])
    rows = [(row["key"], node_id, reads, "hot" if row["hot"] else "") for reads, node_id, row in found]
    return table(["KEY", "NODE", "READS", "STATE"], rows, paint, {"hot": RED}) if rows else "no reads to speak of"


def ring_text(members: Sequence[Mapping[str, Any]], paint: Paint) -> str:
    """Show which share of the keys each node is the first owner of, and how many slots it holds in all."""
    owning = [member for member in members if member["primary_slots"] or member["copy_slots"]]
    slots = sum(member["primary_slots"] for member in owning) or 1
    widest = max((member["primary_slots"] for member in owning), default=0) or 1
    rows = [
        (
            member["node_id"],
            member["primary_slots"],
            f"{100 * member['primary_slots'] / slots:.1f}%",
            member["copy_slots"],
            "█" * max(1, round(_BAR_WIDTH * member["primary_slots"] / widest)),
        )
        for member in owning
    ]
    return table(["NODE", "PRIMARY SLOTS", "SHARE", "HOLDS", ""], rows, paint, {})


def preference_text(explained: Mapping[str, Any], paint: Paint) -> str:
    """Show the owners of a key in the order of preference."""
    roles = ["primary", *["copy"] * len(explained["owners"])]
    rows = [(role, owner) for role, owner in zip(roles, explained["owners"], strict=False)]
    return f"slot {explained['slot']}\n" + table(["ROLE", "NODE"], rows, paint, {"primary": GREEN})


def event_text(event: Invalidation, key: str, now_s: float, paint: Paint) -> str:
    """Show one invalidation in a line."""
    at = datetime.fromtimestamp(now_s, UTC).strftime("%H:%M:%S.%f")[:-3]
    if event.kind is InvalidationKind.GAP:
        key = "something may be missing here"
    elif event.kind is InvalidationKind.CLEAR:
        key += "*"
    kind = paint(event.kind.ljust(10), _KIND_COLOURS.get(event.kind))
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in key)
    return f"{at}  {kind}  {event.node or '-':<10}  {shown}"


def explain_text(key: str, explained: Mapping[str, Any], now_s: float, paint: Paint) -> str:
    """Show what each replica of a key holds of it."""
    rows = []
    for replica in explained["replicas"]:
        if replica.get("error"):
            held = f"no answer: {replica['error']}"
        elif replica["version"] is None:
            held = "nothing"
        else:
            held = "a delete" if replica["tombstone"] else f"{replica['value_bytes']:,} bytes"
        rows.append((replica["node_id"], replica["state"], held, *_when(replica, now_s)))
    text = table(["NODE", "STATE", "HOLDS", "WRITTEN", "EXPIRES", "VERSION"], rows, paint, _STATE_COLOURS)
    return f"{key}: slot {explained['slot']}, owners {', '.join(explained['owners']) or 'none'}\n\n{text}"


def _when(replica: Mapping[str, Any], now_s: float) -> tuple[str, str, str]:
    """Return when a replica's record was written and expires, and its version in short."""
    version = replica.get("version")
    if version is None:
        return "", "", ""
    written = datetime.fromtimestamp(int(version[:12], 16) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    expires_ms = replica.get("expires_ms")
    expires = "never" if expires_ms in {None, NEVER_MS} else f"in {expires_ms / 1000 - now_s:,.1f} s"
    return written, expires, version[:16]
