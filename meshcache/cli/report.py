"""What the command line shows of a mesh: plain text for people, made from the dicts that nodes answer with."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from meshcache.cli.health import health_of
from meshcache.client.subscription import Invalidation, InvalidationKind
from meshcache.local.terminal import GREEN, RED, YELLOW, Paint, quantity
from meshcache.protocol.record import NEVER_MS

_STATE_COLOURS: Final = {"alive": GREEN, "suspect": YELLOW, "dead": RED}
_KIND_COLOURS: Final = {
    InvalidationKind.SET: GREEN,
    InvalidationKind.DELETE: RED,
    InvalidationKind.INVALIDATE: RED,
    InvalidationKind.CLEAR: RED,
    InvalidationKind.GAP: YELLOW,
}
_BAR_WIDTH: Final = 30
_BAR_WIDTH_MIN: Final = 8
_CUT_MIN: Final = 12
"""No column of a table is cut to less than this."""


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    paint: Paint,
    colour_of: Mapping[str, int],
    *,
    width: int | None = None,
    gives_way: int | None = None,
) -> str:
    """Align columns: numbers to the right, text to the left. ``colour_of`` colours cells by their text.

    Where the lines would be longer than ``width``, column ``gives_way`` is cut first. What is still too wide is folded:
    further columns follow below, beside the first one again.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(headings))]
    widths = [max(len(heading), *(len(row[i]) for row in cells), 0) for i, heading in enumerate(headings)]
    folds = [list(range(len(headings)))]
    if width is not None and gives_way is not None:
        widths[gives_way] -= min(max(0, _length(widths) - width), max(0, widths[gives_way] - _CUT_MIN))
    if width is not None and _length(widths) > width:
        first = min(widths[0], max(_CUT_MIN, width // 2))
        widths = [first, *[min(each, max(_CUT_MIN, width - first - 2)) for each in widths[1:]]]
        folds = _folds(widths, width)

    def line(row: Sequence[str], colours: Sequence[int | None], columns: Sequence[int]) -> str:
        aligned = [
            _cut(row[i], widths[i]).rjust(widths[i]) if numeric[i] else _cut(row[i], widths[i]).ljust(widths[i])
            for i in columns
        ]
        aligned[-1] = aligned[-1].rstrip()
        return "  ".join(paint(cell, colours[i]) for cell, i in zip(aligned, columns, strict=True))

    blocks = [
        "\n".join(
            [line(headings, [1] * len(headings), columns)]
            + [line(row, [colour_of.get(cell) for cell in row], columns) for row in cells]
        )
        for columns in folds
    ]
    return "\n\n".join(blocks)


def _length(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _folds(widths: Sequence[int], width: int) -> list[list[int]]:
    """Share columns out among blocks that are narrow enough; each begins with the first column."""
    folds: list[list[int]] = [[0]]
    for i in range(1, len(widths)):
        if len(folds[-1]) > 1 and _length([widths[j] for j in [*folds[-1], i]]) > width:
            folds.append([0])
        folds[-1].append(i)
    return folds


def _cut(text: str, width: int) -> str:
    """Take something out of the middle of what is too long: ends tell more."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").rstrip("%").isdigit() or cell == "-"


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def status_text(
    members: Sequence[Mapping[str, Any]], paint: Paint, width: int | None = None, *, everything: bool = False
) -> str:
    """Show members and their health; what each says of itself is in ``mesh_commands``' own columns and ``error``."""
    columns = _STATUS_COLUMNS + (_MORE_STATUS_COLUMNS if everything else ())
    rows = [[value(member) for _, value in columns] for member in members]
    text = table([name for name, _ in columns], rows, paint, _STATE_COLOURS, width=width)
    return f"{text}\n\n{health_text(members, paint, width)}"


def _share(part: str) -> Callable[[Mapping[str, Any]], str | None]:
    """Return what tells how much a node holds, and how much it may hold."""

    def shown(member: Mapping[str, Any]) -> str | None:
        store = member.get("store")
        return f"{quantity(store[part])}/{quantity(store[f'max_{part}'])}" if store else None

    return shown


def _compared(member: Mapping[str, Any]) -> str | None:
    """Return how long ago a node had compared all its slots with their other owners."""
    seconds = member.get("compared_s_ago")
    return None if seconds is None else f"{seconds:.0f}s"


_Column = tuple[str, Callable[[Mapping[str, Any]], Any]]
_STATUS_COLUMNS: Final[tuple[_Column, ...]] = (
    ("NODE", lambda member: member["node_id"]),
    ("ADDRESS", lambda member: member["address"]),
    ("STATE", lambda member: member["state"]),
    ("READY", lambda member: member.get("ready")),
    ("ENTRIES", _share("entries")),
    ("BYTES", _share("bytes")),
    ("PULLING", lambda member: member.get("slots_missing")),
)
_MORE_STATUS_COLUMNS: Final[tuple[_Column, ...]] = (
    ("EVICTED", lambda member: (member.get("store") or {}).get("evictions")),
    ("HINTS", lambda member: member.get("hints")),
    ("NOT ASKED", lambda member: " ".join(member.get("breakers_open") or ())),
    ("COMPARED", _compared),
    ("RING", lambda member: member.get("ring_digest")),
    ("INCARNATION", lambda member: f"{member.get('incarnation', 0):016x}"),
    ("HOST", lambda member: member.get("host")),
    ("ZONE", lambda member: member.get("zone")),
    ("WEIGHT", lambda member: member.get("weight")),
)


def health_text(members: Sequence[Mapping[str, Any]], paint: Paint, width: int | None = None) -> str:
    """Say whether a mesh is well, and what is wrong if it is not."""
    health = health_of(members)
    up = sum(member["state"] == "alive" for member in members)
    said = [(problem, RED) for problem in health.problems]
    said = said or [(f"all {up} nodes serve, agree on the ring and hold what they own", GREEN)]
    said += [(f"warning: {warning}", YELLOW) for warning in health.warnings]
    return "\n".join(paint(wrapped(text, width), colour) for text, colour in said)


def wrapped(text: str, width: int | None, *, first: str = "", indent: str = "  ") -> str:
    """Break a sentence into lines; the first begins with ``first``, all others with ``indent``."""
    if width is None:
        return first + text
    lines = textwrap.TextWrapper(max(width, 20), first, indent, break_long_words=False, break_on_hyphens=False)
    return lines.fill(text)


def flatten(counters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested counters into one level of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in counters.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def stats_text(stats: Mapping[str, Mapping[str, Any]], paint: Paint, width: int | None = None) -> str:
    """Show counters by name, one column for each node."""
    by_node = {
        node_id: {name: value for name, value in flatten(counters).items() if isinstance(value, int | float)}
        for node_id, counters in stats.items()
    }
    names = list(dict.fromkeys(name for counters in by_node.values() for name in counters))
    rows = [[name, *(counters.get(name) for counters in by_node.values())] for name in names]
    return table(["COUNTER", *by_node], rows, paint, {}, width=width)


def hot_text(hot: Mapping[str, Mapping[str, Any]], paint: Paint, limit: int, width: int | None = None) -> str:
    """Show the ``limit`` keys read most, at which node, and about how often in the last window."""
    found = [(row["reads"], node_id, row) for node_id, answer in hot.items() for row in answer["keys"]]
    found.sort(key=lambda entry: -entry[0])
    if not found:
        return "no reads to speak of"
    rows = [
        (printable(row["key"]), node_id, reads, "hot" if row["hot"] else "") for reads, node_id, row in found[:limit]
    ]
    text = table(["KEY", "NODE", "READS", "STATE"], rows, paint, {"hot": RED}, width=width, gives_way=0)
    more = len(found) - len(rows)
    return f"{text}\n\n{more:,} more are shown with --limit {len(found)}" if more > 0 else text


def ring_text(members: Sequence[Mapping[str, Any]], paint: Paint, width: int | None = None) -> str:
    """Show which share of the keys each node is the first owner of, and how many slots it holds in all."""
    owning = [member for member in members if member["primary_slots"] or member["copy_slots"]]
    slots = sum(member["primary_slots"] for member in owning) or 1
    widest = max((member["primary_slots"] for member in owning), default=0) or 1
    bar_width = _BAR_WIDTH
    if width is not None:
        besides = len("  PRIMARY SLOTS  100.0%  HOLDS  ") + max(
            [len(member["node_id"]) for member in owning], default=0
        )
        bar_width = max(_BAR_WIDTH_MIN, min(_BAR_WIDTH, width - besides))
    rows = [
        (
            member["node_id"],
            member["primary_slots"],
            f"{100 * member['primary_slots'] / slots:.1f}%",
            member["copy_slots"],
            "█" * max(1, round(bar_width * member["primary_slots"] / widest)),
        )
        for member in owning
    ]
    return table(["NODE", "PRIMARY SLOTS", "SHARE", "HOLDS", ""], rows, paint, {}, width=width)


def preference_text(explained: Mapping[str, Any], paint: Paint, width: int | None = None) -> str:
    """Show the owners of a key in the order of preference."""
    roles = ["primary", *["copy"] * len(explained["owners"])]
    rows = [(role, owner) for role, owner in zip(roles, explained["owners"], strict=False)]
    return f"slot {explained['slot']}\n" + table(["ROLE", "NODE"], rows, paint, {"primary": GREEN}, width=width)


def event_text(event: Invalidation, key: str, now_s: float, paint: Paint) -> str:
    """Show one invalidation in a line."""
    at = datetime.fromtimestamp(now_s, UTC).strftime("%H:%M:%S.%f")[:-3]
    if event.kind is InvalidationKind.GAP:
        key = "something may be missing here"
    elif event.kind is InvalidationKind.CLEAR:
        key += "*"
    kind = paint(event.kind.ljust(10), _KIND_COLOURS.get(event.kind))
    return f"{at}  {kind}  {event.node or '-':<10}  {printable(key)}"


def printable(key: str) -> str:
    """Return a key with escapes in place of what would move the cursor or change colours."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in key)


def explain_text(key: str, explained: Mapping[str, Any], now_s: float, paint: Paint, width: int | None = None) -> str:
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
    text = table(["NODE", "STATE", "HOLDS", "WRITTEN", "EXPIRES", "VERSION"], rows, paint, _STATE_COLOURS, width=width)
    return f"{printable(key)}: slot {explained['slot']}, owners {', '.join(explained['owners']) or 'none'}\n\n{text}"


def _when(replica: Mapping[str, Any], now_s: float) -> tuple[str, str, str]:
    """Return when a replica's record was written and expires, and its version in short."""
    version = replica.get("version")
    if version is None:
        return "", "", ""
    written = datetime.fromtimestamp(int(version[:12], 16) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    expires_ms = replica.get("expires_ms")
    expires = "never" if expires_ms in {None, NEVER_MS} else f"in {expires_ms / 1000 - now_s:,.1f} s"
    return written, expires, version[:16]
