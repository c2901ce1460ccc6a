"""What ``meshcache top`` shows: made of surveys as plain cells, and then drawn with rich, or as text without it.

Every figure is of the survey that is shown. A node that did not answer this time has a state and no figures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from meshcache.cli.health import health_of
from meshcache.cli.rates import Figures, figures_of
from meshcache.cli.report import printable, table
from meshcache.cli.survey import NodeAnswer, Survey
from meshcache.local.terminal import GREEN, RED, YELLOW, Paint, quantity

if TYPE_CHECKING:
    from rich.console import RenderableType

EVENTS_MAX: Final = 8
BAR_MIN: Final = 4
BAR_MAX: Final = 20
WIDE: Final = 104
"""From so many columns on, more is shown of each node."""
NAME_MAX: Final = 24
HOT_MAX: Final = 10
KEYS: Final = {"n": "node", "e": "entries", "m": "memory", "o": "ops", "h": "hits", "v": "evictions"}
"""By key, the column that it sorts by."""
FOOTER: Final = "q quit  sort: n node  e entries  m memory  o ops  h hits  v evictions  r reverse"
_STATES: Final = {"alive": GREEN, "suspect": YELLOW, "silent": RED, "dead": RED, "left": None}
_FULL_SHARE: Final = 0.9
_FILLING_SHARE: Final = 0.7


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and its colour."""

    text: str
    colour: int | None = None


@dataclass(slots=True)
class Order:
    """How the nodes are sorted."""

    column: str = "node"
    reverse: bool = False

    def press(self, key: str) -> None:
        """Follow a key."""
        if key == "r":
            self.reverse = not self.reverse
        elif key in KEYS:
            self.column, self.reverse = KEYS[key], False

    def sorted(self, figures: Sequence[Figures]) -> list[Figures]:
        """Sort: by name upwards, by figures downwards; what is not known comes last."""
        if self.column == "node":
            return sorted(figures, key=lambda each: each.node.node_id, reverse=self.reverse)
        value = _SORTED_BY[self.column]
        known = [each for each in figures if value(each) is not None]
        known.sort(key=lambda each: value(each) or 0.0, reverse=not self.reverse)
        return known + [each for each in figures if value(each) is None]


_SORTED_BY: Final[dict[str, Callable[[Figures], float | None]]] = {
    "entries": lambda each: each.entries,
    "memory": lambda each: each.memory_share,
    "ops": lambda each: each.operations_per_s,
    "hits": lambda each: each.hit_rate,
    "evictions": lambda each: each.evictions_per_s,
}


@dataclass(slots=True)
class History:
    """What has changed from survey to survey: members that came and went, and new rings."""

    events: deque[str] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))
    _states: dict[str, str] = field(default_factory=dict)
    _ring: str | None = None

    def note(self, found: Survey) -> None:
        """Compare a survey with the ones before it."""
        clock = clock_text(found.wall_s)
        states = {node.node_id: state_of(node) for node in found.nodes}
        if self._states:
            for node_id, state in states.items():
                if self._states.get(node_id) != state:
                    self.events.appendleft(f"{clock}  {node_id} is {state}")
            self.events.extendleft(f"{clock}  {gone} is forgotten" for gone in self._states.keys() - states.keys())
        self._states = states
        rings = {node.status["ring_digest"] for node in found.answering if "ring_digest" in node.status}
        if len(rings) == 1:
            ring = rings.pop()
            if self._ring not in {None, ring}:
                self.events.appendleft(f"{clock}  the ring has changed")
            self._ring = ring


@dataclass(frozen=True, slots=True)
class Frame:
    """All that is shown at one time."""

    title: Cell
    said: Sequence[Cell]
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    hot: Sequence[Sequence[Cell]] = ()
    events: Sequence[str] = ()
    footer: str = ""


def clock_text(wall_s: float) -> str:
    """Return a time of the day here."""
    return datetime.fromtimestamp(wall_s, UTC).astimezone().strftime("%H:%M:%S")


def state_of(node: NodeAnswer) -> str:
    """Return what is to be said of a node: that it does not answer counts more than what others think."""
    return "silent" if node.error and node.state == "alive" else node.state


def frame_of(found: Survey, before: Survey | None, order: Order, history: History, width: int) -> Frame:
    """Return what is to be shown of a survey, and of what changed since the one before."""
    figures = order.sorted(figures_of(found, before))
    columns = [column for column in _COLUMNS if width >= WIDE or not column.wide]
    rows = [[column.cell(each) for column in columns] for each in figures]
    headings = [f"{column.heading}{_mark(column, order)}" for column in columns]
    at = [column.heading for column in columns].index("MEMORY")
    _draw_bars(figures, headings, rows, at, width)
    answering = f"{len(found.answering)} of {len(found.nodes)} nodes answer"
    title = f"mesh {found.cluster}: {answering}, as of {clock_text(found.wall_s)}"
    return Frame(Cell(title), _said(found), headings, rows, _hot_rows(found, width), list(history.events), FOOTER)


def _hot_rows(found: Survey, width: int) -> list[list[Cell]]:
    """Return the keys read most, at whatever node; hot ones in colour."""
    hot = sorted([(row, node.node_id) for node in found.nodes for row in node.hot], key=lambda each: -each[0]["reads"])
    return [
        [
            Cell(_short(printable(row["key"]), width - 30), RED if row["hot"] else None),
            Cell(f"{row['reads']:,}"),
            Cell(node_id),
        ]
        for row, node_id in hot[:HOT_MAX]
    ]


def lost_frame(shown: Frame | None, why: str, since_s: float) -> Frame:
    """Return what is to be shown while no node answers: who was there, and no figures."""
    said = [Cell(f"no node answers since {clock_text(since_s)}: {why}", RED)]
    if shown is None:
        return Frame(Cell("meshcache"), said, [], [], footer=FOOTER)
    rows = [[row[0], Cell("silent", RED), *[Cell("-") for _ in row[2:]]] for row in shown.rows]
    return Frame(Cell("meshcache"), said, shown.headings, rows, (), shown.events, FOOTER)


def _said(found: Survey) -> list[Cell]:
    members = [{**node.member, **node.status, "state": node.state, "error": node.error} for node in found.nodes]
    for member, node in zip(members, found.nodes, strict=True):
        member.update({name: node.member.get(name) for name in ("node_id", "address", "weight", "synced")})
    health = health_of(members)
    said = [Cell(problem, RED) for problem in health.problems]
    said = said or [Cell("all is well: the nodes agree on the ring and hold what they own", GREEN)]
    return said + [Cell(f"warning: {text}", YELLOW) for text in health.warnings]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(1, width - 1)]}…"


# -- columns -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table of nodes."""

    heading: str
    cell: Callable[[Figures], Cell]
    sort: str = ""
    wide: bool = False


def _mark(column: Column, order: Order) -> str:
    if column.sort != order.column:
        return ""
    return "▲" if (order.column == "node") != order.reverse else "▼"


def _number(value: float | None, unit: str = "") -> Cell:
    return Cell("-" if value is None else f"{quantity(round(value))}{unit}")


def _state_cell(each: Figures) -> Cell:
    state = state_of(each.node)
    return Cell(state, _STATES.get(state))


def _evictions_cell(each: Figures) -> Cell:
    value = each.evictions_per_s
    return Cell(_number(value).text, YELLOW if value else None)


def _hits_cell(each: Figures) -> Cell:
    return Cell("-" if each.hit_rate is None else f"{100 * each.hit_rate:.1f}%")


def _turn_cell(each: Figures) -> Cell:
    ms = each.longest_turn_ms
    return Cell("-" if ms is None else f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s")


def _clock_cell(each: Figures) -> Cell:
    ahead_s = each.node.clock_ahead_s
    if ahead_s is None:
        return Cell("-")
    if abs(ahead_s) < 1:
        return Cell(f"{1000 * ahead_s:+.0f} ms")
    return Cell(f"{ahead_s:+.1f} s", YELLOW if abs(ahead_s) < 5 else RED)


def _links_cell(each: Figures) -> Cell:
    links = each.node.stats.get("links")
    if links is None:
        return Cell("-")
    up = sum(link["up"] for link in links.values())
    return Cell(f"{up}/{len(links)}", None if up == len(links) else YELLOW)


def _status_cell(name: str) -> Callable[[Figures], Cell]:
    return lambda each: _number(each.node.status.get(name))


_COLUMNS: Final = (
    Column("NODE", lambda each: Cell(_short(each.node.node_id, NAME_MAX)), "node"),
    Column("STATE", _state_cell),
    Column("ENTRIES", lambda each: _number(each.entries), "entries"),
    Column("MEMORY", lambda _: Cell("-"), "memory"),
    Column("OPS/S", lambda each: _number(each.operations_per_s), "ops"),
    Column("HITS", _hits_cell, "hits"),
    Column("EVICT/S", _evictions_cell, "evictions"),
    Column("TURN", _turn_cell),
    Column("CLOCK", _clock_cell),
    Column("LINKS", _links_cell, wide=True),
    Column("PULLING", _status_cell("slots_missing"), wide=True),
    Column("HINTS", _status_cell("hints"), wide=True),
)


def _draw_bars(
    figures: Sequence[Figures], headings: Sequence[str], rows: Sequence[list[Cell]], at: int, width: int
) -> None:
    """Put into the column of memory bars as long as there is room."""
    others = [max(len(heading), *(len(row[i].text) for row in rows), 0) for i, heading in enumerate(headings)]
    taken = sum(size for i, size in enumerate(others) if i != at) + 2 * (len(headings) - 1)
    length = max(BAR_MIN, min(BAR_MAX, width - taken - len(" 100%")))
    for each, row in zip(figures, rows, strict=True):
        share = each.memory_share
        if share is not None:
            full = max(0, min(length, round(share * length)))
            colour = RED if share >= _FULL_SHARE else YELLOW if share >= _FILLING_SHARE else GREEN
            row[at] = Cell(f"{'█' * full}{'░' * (length - full)} {100 * share:3.0f}%", colour)


# -- drawing -----------------------------------------------------------------------------------------------


def text_of_frame(frame: Frame, width: int) -> str:
    """Return a frame as plain text."""
    plain = Paint(enabled=False)
    rows = [[cell.text for cell in row] for row in frame.rows]
    parts = [frame.title.text, "\n".join(cell.text for cell in frame.said)]
    if rows:
        parts.append(table(frame.headings, _right_aligned(rows), plain, {}, width=width, gives_way=0))
    if frame.hot:
        hot = [[cell.text for cell in row] for row in frame.hot]
        parts.append(table(["HOT KEY", "READS", "NODE"], hot, plain, {}, width=width, gives_way=0))
    return "\n\n".join(parts)


def _right_aligned(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [[cell if i < 2 else cell.rjust(widths[i]) for i, cell in enumerate(row)] for row in rows]


_STYLES: Final = {GREEN: "green", YELLOW: "yellow", RED: "bold red", None: ""}


def rich_frame(frame: Frame, height: int) -> RenderableType:
    """Return a frame for rich to draw: first what is wrong, then the nodes, then as much else as there is room for."""
    from rich.console import Group  # noqa: PLC0415  (an extra)
    from rich.text import Text  # noqa: PLC0415

    parts: list[RenderableType] = [Text(frame.title.text, "bold", no_wrap=True)]
    parts += [Text(cell.text, _STYLES[cell.colour]) for cell in frame.said]
    parts.append(Text(""))
    left = height - len(parts) - 2
    if frame.rows:
        rows = frame.rows[: max(1, left - 1)]
        parts.append(_rich_table(frame.headings, rows))
        left -= len(rows) + 1
    if left > 3 and frame.hot:
        share = (left - 2) if not frame.events else (left - 2) * 2 // 3
        hot = frame.hot[: max(1, share - 1)]
        parts += [Text(""), _rich_table(["HOT KEY", "READS", "NODE"], hot, numbers=range(1, 2))]
        left -= len(hot) + 2
    if left > 2 and frame.events:
        events = list(frame.events)[: left - 2]
        parts += [Text(""), Text("CHANGES", "bold"), *[Text(event, no_wrap=True) for event in events]]
        left -= len(events) + 2
    parts += [Text("")] * max(0, left + 1)
    parts.append(Text(frame.footer, "dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _rich_table(headings: Sequence[str], rows: Sequence[Sequence[Cell]], numbers: range | None = None) -> Any:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for i, heading in enumerate(headings):
        right = i in numbers if numbers is not None else i > 1
        drawn.add_column(heading, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        drawn.add_row(*[Text(cell.text, _STYLES[cell.colour]) for cell in row])
    return drawn
