"""The counters of nodes in words: what each is called, in which group it stands, and what it counts.

``TOLD`` has every counter by the name that programs use (``meshcache stats --json``). A counter that is not in it, of a
newer node say, is shown under that name, so that nothing is hidden. Rows in which all nodes have zero are left out
unless all are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from meshcache.cli.rates import rate
from meshcache.cli.report import flatten, table
from meshcache.cli.survey import NodeAnswer
from meshcache.durations import text_of
from meshcache.local.terminal import Paint, quantity


class Kind(Enum):
    """How a number behaves: what its sum over the nodes is, and whether a rate of it means something."""

    COUNT = "grows"
    """Since the process began: has a sum and a rate."""
    LEVEL = "now"
    """What there is now: has a sum."""
    OWN = "own"
    """Has no sum: the nodes count the same things."""
    LONGEST = "longest"
    """The sum is the greatest."""


@dataclass(frozen=True, slots=True)
class Told:
    """How a counter is told."""

    group: str
    words: str
    kind: Kind = Kind.COUNT
    unit: str = ""
    """``bytes``, ``ms`` or ``s``; empty: a number of things."""


_IGNORED: Final = ("settings.", "host.", "links.", "clock.")
"""Sections of the statistics that count nothing."""


def _group(group: str, **counters: str | tuple[str, Kind] | tuple[str, Kind, str]) -> dict[str, Told]:
    told = {}
    for name, words in counters.items():
        told[name.replace("__", ".")] = Told(group, words) if isinstance(words, str) else Told(group, *words)
    return told


_BYTES: Final = "bytes"
TOLD: Final[dict[str, Told]] = {
    **_group(
        "requests",
        node__requests="requests of clients",
        node__keys="keys in them",
        node__late="dropped: their time was over",
        node__refused="refused: overload, not ready, invalid",
        node__stale_boot="meant for a former process",
        node__malformed="malformed messages",
        node__unknown="messages that only later versions know",
        node__clock_refused="from clocks that are too far ahead",
        node__forbidden="not allowed by the sender's key",
        node__keys_refused="connections that were not let in",
        node__without_key="connections let in without a key",
        node__http_refused="by HTTP, without a valid token",
        node__undeliverable="messages that could not be sent",
        coordinator__pending=("waiting for other nodes now", Kind.LEVEL),
        breakers__opened="times a breaker opened",
        coordinator__lingering=("answered, slower owners still at it", Kind.LEVEL),
        coordinator__asked=("questions to other nodes now", Kind.LEVEL),
        coordinator__timers=("deadlines that are set", Kind.LEVEL),
        operations__batch_keys__sum="keys in batches",
        node__requests_in_bytes=("received from those who ask", Kind.COUNT, _BYTES),
        node__answers_out_bytes=("sent to those who ask", Kind.COUNT, _BYTES),
        node__requests_out_bytes=("sent to other nodes", Kind.COUNT, _BYTES),
        node__answers_in_bytes=("received from other nodes", Kind.COUNT, _BYTES),
        node__published_bytes=("announced", Kind.COUNT, _BYTES),
    ),
    **_group(
        "store",
        store__entries=("entries", Kind.LEVEL),
        store__bytes=("memory charged", Kind.LEVEL, _BYTES),
        store__hits="keys found",
        store__misses="keys not found",
        store__evictions="entries dropped for a limit",
        store__refused="entries larger than the store",
        store__expirations="entries whose lifetime ended",
        store__tombstones=("deletes remembered", Kind.LEVEL),
        store__tombstone_bytes=("memory of those", Kind.LEVEL, _BYTES),
        store__tombstones_reaped="deletes forgotten in time",
        store__tombstones_dropped="deletes forgotten too early",
        store__bookings=("entries in the calendar of expiries", Kind.LEVEL),
        store__covers=("entries that leave a trace at expiry", Kind.LEVEL),
        store__tags=("tags, in every slot where they are", Kind.LEVEL),
        store__bearers=("tags of entries", Kind.LEVEL),
        store__small_entries=("entries in the small queue", Kind.LEVEL),
        store__small_evictions="dropped from the small queue",
        store__promotions="went on to the main queue",
        store__ghost_hits="came back soon after they were dropped",
        store__ghost_bytes=("memory of what was dropped", Kind.LEVEL, _BYTES),
        drops__floors=("clears and dropped tags remembered", Kind.LEVEL),
    ),
    **_group(
        "hot keys",
        hot_keys__hot=("hot now", Kind.LEVEL),
        hot_keys__found="times that a key became hot",
        hot_keys__counters=("keys whose reads are counted", Kind.LEVEL),
        hot_keys__copies=("copies of other nodes' hot keys", Kind.LEVEL),
        hot_keys__copy_hits="reads answered from copies",
        hot_keys__copy_misses="reads with no copy",
        hot_keys__copies_refused="copies that came too late",
        hot_keys__streams_followed=("streams of other nodes followed", Kind.LEVEL),
    ),
    **_group(
        "copies of keys",
        coordinator__repairs="copies repaired by reads",
        coordinator__restamps="writes stamped once more",
        movement__slots_missing=("slots to be pulled", Kind.LEVEL),
        movement__pulled_keys="keys pulled",
        movement__pulled_bytes=("pulled", Kind.COUNT, _BYTES),
        hints__kept="writes kept for absent owners",
        hints__delivered="of them delivered",
        hints__dropped="of them dropped",
        anti_entropy__compared_slots="slots compared with other owners",
        anti_entropy__differing_slots="slots that differed",
        anti_entropy__fetched="keys fetched for that",
        anti_entropy__sent="keys sent for that",
        anti_entropy__pass_age_s=("since all slots were compared", Kind.OWN, "s"),
        node__slots_voided="slots dropped: owners were lost",
    ),
    **_group(
        "memcached",
        memcached__connections=("connections now", Kind.LEVEL),
        memcached__accepted="connections accepted",
        memcached__refused="of them too many",
        memcached__unauthenticated="wrong passwords",
        memcached__commands="commands",
        memcached__errors="of them answered with an error",
        memcached__in_bytes=("received", Kind.COUNT, _BYTES),
        memcached__out_bytes=("sent", Kind.COUNT, _BYTES),
        memcached__closed_slow="closed: answers were not read",
        memcached__closed_half="closed: a command did not end",
        memcached__closed_malformed="closed: not the protocol",
    ),
    **_group(
        "snapshots",
        snapshots__written="snapshots written",
        snapshots__failures="snapshots that could not be",
        snapshots__age_s=("since the last one", Kind.OWN, "s"),
        snapshots__bytes=("size of the last one", Kind.LEVEL, _BYTES),
        snapshots__entries=("entries in it", Kind.LEVEL),
        snapshots__seconds=("time that it took", Kind.LONGEST, "s"),
        snapshots__longest_step_ms=("longest step of one", Kind.LONGEST, "ms"),
        snapshots__loaded=("entries found at the start", Kind.LEVEL),
        snapshots__taken_in="of them taken in",
        snapshots__expired="of them expired",
        snapshots__damaged_blocks="damaged blocks in what was found",
    ),
    **_group(
        "loading once",
        fills__leases=("keys being loaded", Kind.LEVEL),
        fills__parked=("callers that wait for it", Kind.LEVEL),
        fills__granted="leases granted",
        fills__filled="of them filled",
        fills__refused="of them refused",
        fills__voided="of them voided by a write",
        fills__lapsed="of them lapsed",
        fills__overloaded="callers turned away",
    ),
    **_group(
        "mesh",
        membership__members=("members known", Kind.OWN),
        membership__newcomers=("newcomers on trial", Kind.OWN),
        membership__newcomers_given_up="newcomers that did not answer",
        membership__facts_refused="news not believed",
        membership__rumours=("news that is still being passed on", Kind.OWN),
        membership__probes_open=("probes without an answer yet", Kind.OWN),
        membership__suspects=("members that are suspect now", Kind.OWN),
        membership__suspicions="times a member became suspect",
        membership__probes="probes of members",
        membership__probes_failed="of them without an answer",
        node__links_up="connections to members made",
        node__links_down="connections to members broken",
        node__ring_changes=("changes of the ring", Kind.OWN),
        node__rejoins="times taken for dead",
        node__published="announcements published",
        node__connections=("connections from clients and nodes", Kind.LEVEL),
        node__connections_cut="connections cut",
        node__connections_refused="of them because there were too many",
        node__router_resets="times all connections were cut",
    ),
    **_group(
        "time",
        node__longest_turn_ms=("longest turn of the loop", Kind.LONGEST, "ms"),
        loop__turns="turns of the loop",
        loop__turn_s__sum=("time in turns", Kind.COUNT, "s"),
        loop__lag_s=("lateness of the loop, lately", Kind.LONGEST, "s"),
    ),
}
"""Every counter by its dotted name, in the order in which they are shown."""


def told_of(name: str) -> Told:
    """Return how a counter is told, also one that is not known here."""
    return TOLD.get(name) or _told_of_one_of_many(name.split(".")) or Told("others", name)


def _told_of_one_of_many(parts: list[str]) -> Told | None:
    """Tell a counter of which there is one for each kind, or for each node."""
    words = parts[-1].replace("_", " ")
    match parts:
        case ["node", "longest_work_ms", _]:
            found = Told("time", f"longest {words}", Kind.LONGEST, "ms")
        case ["node", "failed", _]:
            found = Told("requests", f"failed: {parts[-1]}")
        case ["hints", "waiting", *node_id]:
            found = Told("copies of keys", f"writes kept for {'.'.join(node_id)}", Kind.LEVEL)
        case ["breakers", "open", *node_id]:
            found = Told("requests", f"not asked now: {'.'.join(node_id)}", Kind.LEVEL)
        case ["operations", "requests", kind, _]:
            found = Told("requests", f"{kind.replace('_', ' ')}, {words}")
        case ["operations", "refused_for", _]:
            found = Told("requests", f"refused: {words}")
        case ["operations", "duration_s", kind, "sum"]:
            found = Told("time", f"coordinating: {kind}", Kind.COUNT, "s")
        case ["operations", "waiting_s", _]:
            found = Told("time", f"waiting for others: {words}", Kind.COUNT, "s")
        case _:
            return None
    return found


def counters_text(
    nodes: Sequence[NodeAnswer],
    before: Sequence[NodeAnswer] | None,
    paint: Paint,
    width: int | None,
    *,
    everything: bool = False,
) -> str:
    """Show the counters of all nodes by groups; with ``before``, how fast they grow in a second."""
    flat = [_numbers(node.stats) for node in nodes]
    known = dict.fromkeys(name for numbers in flat for name in numbers)
    names = [name for name in TOLD if name in known] + [name for name in known if name not in TOLD]
    groups: dict[str, list[list[str]]] = {}
    for name in names:
        told = told_of(name)
        if before is not None and told.kind is Kind.COUNT:
            values = _rates(nodes, before, name)
        else:
            values = [numbers.get(name) for numbers in flat]
        if everything or any(values):
            suffix = "/s" if before is not None and told.kind is Kind.COUNT else ""
            cells = [_text(value, told, suffix) for value in (*values, _sum(values, told))]
            groups.setdefault(told.group, []).append([told.words, *(cells if len(nodes) > 1 else cells[:-1])])
    headings = [node.node_id for node in nodes] + (["all"] if len(nodes) > 1 else [])
    return _tables(groups, headings, paint, width)


def _tables(groups: Mapping[str, list[list[str]]], nodes: list[str], paint: Paint, width: int | None) -> str:
    """Put the groups under each other, with columns that are equally wide in all."""
    rows = [row for group in groups.values() for row in group]
    words = max((len(row[0]) for row in rows), default=0)
    widths = [max(len(name), *(len(row[i + 1]) for row in rows)) for i, name in enumerate(nodes)] if rows else []

    def aligned(first: str, cells: Iterable[str]) -> list[str]:
        return [first.ljust(words), *(cell.rjust(size) for cell, size in zip(cells, widths, strict=True))]

    order = dict.fromkeys(told.group for told in TOLD.values())
    blocks = []
    for group in [each for each in (*order, "others") if each in groups]:
        lines = [aligned(row[0], row[1:]) for row in groups[group]]
        blocks.append(table(aligned(group.upper(), nodes), lines, paint, {}, width=width))
    return "\n\n".join(blocks)


def _numbers(stats: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in flatten(stats).items()
        if isinstance(value, int | float) and not name.startswith(_IGNORED)
    }


def _rates(nodes: Sequence[NodeAnswer], before: Sequence[NodeAnswer], name: str) -> list[float | None]:
    by_id = {node.node_id: node for node in before}
    section, _, counter = name.partition(".")
    return [rate(node, by_id.get(node.node_id), section, counter) for node in nodes]


def _sum(values: Iterable[float | None], told: Told) -> float | None:
    known = [value for value in values if value is not None]
    if not known or told.kind is Kind.OWN:
        return None
    return max(known) if told.kind is Kind.LONGEST else sum(known)


def _text(value: float | None, told: Told, suffix: str) -> str:
    if value is None:
        return "-"
    if told.unit == "bytes":
        return f"{bytes_text(value)}{suffix}"
    if told.unit == "s":
        return text_of(value)
    number = f"{value:,.0f}" if value >= 1000 or (value == int(value) and told.unit != "ms") else f"{value:,.1f}"
    return f"{number}{' ms' if told.unit == 'ms' else suffix}"


def bytes_text(number: float) -> str:
    """Return a number of bytes in words: 448 B, 12.5 MB."""
    short = quantity(round(number))
    return f"{short} B" if short[-1].isdigit() else f"{short[:-1]} {short[-1]}B"
