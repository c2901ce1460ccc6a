"""A timeline of a scenario: throughput, faults, hit rate and p99, with what was done to the mesh marked on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .scenario import Result
from .tally import BUCKET_S, FAULTS


def draw(result: Result, stem: Path) -> list[Path]:
    """Draw one scenario as SVG and PNG; returns the files, none if there is nothing to draw. Imports matplotlib."""
    if not result.tally.buckets:
        return []
    import matplotlib as mpl  # noqa: PLC0415  (it costs most of a second, and is optional)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    rows = result.as_json()["timeline"]
    at_s = [row["at_s"] for row in rows]
    figure, axes = plt.subplots(4, 1, sharex=True, figsize=(11, 8), height_ratios=(2, 1, 1, 2))
    axes[0].plot(at_s, [row["calls"] / BUCKET_S for row in rows], color="#27ae60", linewidth=1)
    axes[0].set_ylabel("calls/s")
    axes[0].set_ylim(bottom=0)
    axes[0].set_title(result.title, pad=14)
    for name in FAULTS:
        axes[1].plot(at_s, [row[name] for row in rows], label=name, linewidth=1)
    axes[1].set_ylabel("faults")
    axes[1].legend(loc="upper right", ncols=len(FAULTS), fontsize=7, frameon=False)
    _draw_known(axes[2], at_s, [row["hit_rate_percent"] for row in rows], "#2e86c1")
    axes[2].set_ylabel("hit rate, %")
    axes[2].set_ylim(top=100.5)
    _draw_known(axes[3], at_s, [row["p99_ms"] for row in rows], "#8e44ad")
    axes[3].set_ylabel("p99, ms")
    axes[3].set_yscale("log")
    axes[3].set_xlabel("seconds")
    _mark(axes, result.marks)
    figure.tight_layout()
    files = [stem.with_suffix(suffix) for suffix in (".svg", ".png")]
    for file in files:
        figure.savefig(file, dpi=110)
    plt.close(figure)
    return files


def _draw_known(axis: Any, at_s: list[float], values: list[float | None], colour: str) -> None:
    known = [(x, y) for x, y in zip(at_s, values, strict=True) if y is not None]
    axis.plot([x for x, _ in known], [y for _, y in known], color=colour, linewidth=1)


def _mark(axes: Any, marks: list[tuple[float, str]]) -> None:
    for at_s, _ in marks:
        for axis in axes:
            axis.axvline(at_s, color="#c0392b", linewidth=0.6, alpha=0.6)
    if len(marks) <= 24:
        top = axes[3]
        for number, (at_s, what) in enumerate(marks):
            top.annotate(
                what,
                (at_s, 0.98 - 0.08 * (number % 3)),
                xycoords=("data", "axes fraction"),
                fontsize=6,
                color="#c0392b",
                rotation=0,
                va="top",
            )
