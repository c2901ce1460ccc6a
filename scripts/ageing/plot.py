"""A picture of a soak: the memory, the descriptors and some tables of the processes that live all the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from .allocations import RESIDENT
from .samples import Lives
from .slopes import MIB

PANELS: Final = (
    ("resident memory, MiB", (RESIDENT,), MIB),
    ("descriptors", ("descriptors",), 1),
    ("entries of a node", ("store.entries", "store.tombstones", "store.bookings", "drops.floors"), 1),
)


def draw(lives: Lives, file: Path, names: tuple[str, ...], warmup_s: float) -> None:
    """Draw the processes with these names; what is not judged is shaded. Imports matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415  (it costs most of a second, and is optional)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(len(PANELS), 1, sharex=True, figsize=(10, 8))
    for axis, (title, quantities, unit) in zip(axes, PANELS, strict=True):
        for life in [life for life in lives.all if life.name in names]:
            _draw_life(axis, life.name, life.series(0.0), quantities, unit)
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        axis.axvspan(0, warmup_s, color="#bdc3c7", alpha=0.3, linewidth=0)
        axis.legend(loc="lower right", fontsize=7, frameon=False)
    axes[-1].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _draw_life(axis: Any, name: str, taken: tuple[list[float], Any], quantities: tuple[str, ...], unit: float) -> None:
    times_s, series = taken
    for quantity in quantities:
        known = [(at, value / unit) for at, value in zip(times_s, series.get(quantity, []), strict=False) if value]
        if known:
            label = name if len(quantities) == 1 else f"{name}, {quantity}"
            axis.plot([at for at, _ in known], [value for _, value in known], linewidth=1, label=label)
