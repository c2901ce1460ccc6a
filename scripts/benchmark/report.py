"""What people and programs read: a table, JSON, and a plot drawn from the same numbers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from . import targets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .results import Results, RowResult

LABELS: Final = {
    "meshcache": "meshcache, 1 node",
    "mesh3": "meshcache, 3 nodes",
    "redis": "redis",
    "redis tuned": "redis, tuned client",
    "redis glide": "redis, valkey-glide",
    "pure": "1 node, native off",
    "pure3": "3 nodes, native off",
    "memcached": "memcached",
    "zmq": "ZeroMQ ping-pong",
}
COLOURS: Final = {
    "redis": "#c0392b",
    "redis tuned": "#e59866",
    "redis glide": "#8e44ad",
    "memcached": "#2e86c1",
    "zmq": "#7f8c8d",
    "meshcache": "#27ae60",
    "mesh3": "#1e8449",
}
COLUMNS: Final = f"{'':24}{'p50':>11}{'p99':>11}{'keys/s':>12}{'server us/key':>15}{'client us/key':>15}   speed ratio"


def table(results: Results) -> str:
    """Return the whole report as text."""
    lines = [f"{name}: {text}" for name, text in results.header.items()]
    lines += [f"skipped {name}: {reason}" for name, reason in results.unavailable.items()]
    if results.rows:
        lines += [
            "",
            "Medians over the blocks. The ratio says how many times the keys a second the first line of a row",
        ]
        lines += [
            "serves, beside each peer, with the quartiles of the rounds; above 1 meshcache is the faster.",
            "",
            COLUMNS,
        ]
    for result in results.rows.values():
        lines += _row_lines(result)
    lines += _memory_lines(results)
    lines += _profile_lines(results)
    lines += _target_lines(results)
    return "\n".join(lines) + "\n"


def _row_lines(result: RowResult) -> Iterator[str]:
    yield f"{result.row.name}  ({result.row.title}; p50 and p99 of one {result.row.call})"
    for name in result.row.contestants:
        median = result.median(name)
        label = f"  {LABELS[name]}"
        if name in result.failed:
            yield f"{label:24} FAILED: {result.failed[name]}"
        elif median is None:
            if name in result.skipped:
                yield f"{label:24} n/a: {result.skipped[name]}"
        else:
            ratio = result.ratio(name)
            tail = f"   {ratio.value:5.2f}x ({ratio.low:.2f} - {ratio.high:.2f})" if ratio else ""
            yield (
                f"{label:24}{_time(median.p50_us):>11}{_time(median.p99_us):>11}{median.keys_per_s:>12,.0f}"
                f"{median.server_us_per_key:>15.2f}{median.client_us_per_key:>15.2f}{tail}"
            )
    yield ""


def _time(microseconds: float) -> str:
    return f"{microseconds:,.0f} us" if microseconds < 10_000 else f"{microseconds / 1e3:,.1f} ms"


def _memory_lines(results: Results) -> Iterator[str]:
    if not results.memory:
        return
    entries = next(iter(results.memory.values())).entries
    yield f"memory  (bytes per entry over its 16-byte key and 100-byte value, with a TTL; {entries:,} entries)"
    for name, memory in results.memory.items():
        accounted = "" if memory.accounted is None else f"   by its own account {memory.accounted:,.0f} B"
        yield f"  {LABELS[name]:22}{memory.resident:>9,.0f} B{accounted}"
    yield ""


def _profile_lines(results: Results) -> Iterator[str]:
    if not results.profile:
        return
    yield f"{'profile  (microseconds per key)':42}" + "".join(f"{name:>18}" for name in results.profile)
    stages = dict.fromkeys(stage for column in results.profile.values() for stage in column)
    for stage in stages:
        cells = [column.get(stage) for column in results.profile.values()]
        yield f"  {stage:40}" + "".join(f"{'' if cell is None else f'{cell:,.2f} us':>18}" for cell in cells)
    yield ""


def _target_lines(results: Results) -> Iterator[str]:
    if shown := targets.lines(results):
        yield from ["targets", *shown, ""]


def as_json(results: Results) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "header": results.header,
        "settings": results.settings,
        "unavailable": results.unavailable,
        "failed": results.failed,
        "rows": [row.as_json() for row in results.rows.values()],
        "memory_bytes_per_entry": {name: asdict(memory) for name, memory in results.memory.items()},
        "profile_us": results.profile,
        "near_hit_ns": results.near_hit_ns,
        "targets": targets.as_json(results),
    }


def plot(results: Results, paths: list[Path]) -> bool:
    """Draw the ratios as bars, row by row; False where there is nothing to draw. Imports matplotlib."""
    bars = [
        (result.row, name, ratio)
        for result in results.rows.values()
        for name in result.row.contestants
        if (ratio := result.ratio(name)) is not None
    ]
    if not bars:
        return False
    import matplotlib as mpl  # noqa: PLC0415  (it costs most of a second, and is optional)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(10, 1.6 + 0.19 * len(bars) + 0.1 * len(results.rows)))
    position, ticks, labels, seen = 0.0, [], [], set()
    for index, (row, name, ratio) in enumerate(bars):
        if index and row.name != bars[index - 1][0].name:
            position += 0.6
        if not index or row.name != bars[index - 1][0].name:
            members = sum(1 for bar in bars if bar[0].name == row.name)
            ticks.append(position + (members - 1) / 2)
            labels.append(row.name)
        label = None if name in seen else f"beside {LABELS[name]}"
        seen.add(name)
        errors = [[max(0.0, ratio.value - ratio.low)], [max(0.0, ratio.high - ratio.value)]]
        # On a logarithmic axis a bar starts at 1, where both are equally fast.
        axes.barh(
            position,
            ratio.value - 1,
            left=1,
            height=0.85,
            color=COLOURS[name],
            label=label,
            xerr=errors,
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
        edge = max(ratio.value, ratio.high, 1.0) if ratio.value >= 1 else 1.0
        axes.text(edge * 1.03, position, f"{ratio.value:.2f}", va="center", fontsize=7)
        position += 1
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("keys a second of meshcache, the peer being 1 (logarithmic; right of the line meshcache is faster)")
    axes.set_title(f"meshcache beside its peers: {results.header.get('machine', '')}", fontsize=9)
    axes.legend(fontsize=7, loc="best")
    axes.margins(y=0.01, x=0.12)
    figure.tight_layout()
    for path in paths:
        figure.savefig(path, dpi=130)
    plt.close(figure)
    return True
