"""Hold a run against the last release: ``scripts/bench --gate``.

What is compared are ratios: how many times the keys a second of a peer, or how much less memory, in one run, then and
now. A machine that is slower today is so for the peers, too. Where a row has several peers, its loss is the median over
those that both runs had, as one peer may have a bad moment or a new version. Rows against our own other kinds of
server do not count: they would fall when the other becomes faster.

The release's ratios are in ``release.json`` beside this file, which ``scripts/bench --keep-as-release`` writes.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .servers import OURS

if TYPE_CHECKING:
    from collections.abc import Collection

    from .results import Results

RELEASE: Final = Path(__file__).with_name("release.json")
LOSS_MAX: Final = 0.10
MEMORY_ROW: Final = "memory"

Ratios = dict[str, dict[str, float]]
"""By row and peer: above 1, meshcache is the better one."""


class GateError(Exception):
    """There is nothing that a run could be held against."""


class Release(NamedTuple):
    """What is stored of a release."""

    header: dict[str, str]
    settings: dict[str, Any]
    ratios: Ratios


class Judgement(NamedTuple):
    """What has become of the rows since the release."""

    losses: dict[str, float]
    """By row; below 0 it has gained."""
    missing: list[str]
    """Rows of the release that this run should have had."""
    new: list[str]

    @property
    def lost(self) -> list[str]:
        """The rows that have lost too much."""
        return [row for row, loss in self.losses.items() if loss > LOSS_MAX]

    @property
    def passed(self) -> bool:
        """Nothing lost too much, and something was compared."""
        return bool(self.losses) and not self.lost


def ratios_of(results: Results) -> Ratios:
    """Return the ratios to the peers that a run has found."""
    found: Ratios = {}
    for name, row in results.rows.items():
        peers = {peer: row.ratio(peer) for peer in row.blocks if peer.split()[0] not in OURS}
        found[name] = {peer: round(ratio.value, 3) for peer, ratio in peers.items() if ratio is not None}
    ours = results.memory.get("meshcache")
    if ours is not None:
        theirs = {kind: memory.resident for kind, memory in results.memory.items() if kind not in OURS}
        found[MEMORY_ROW] = {kind: round(resident / ours.resident, 3) for kind, resident in theirs.items()}
    return {name: peers for name, peers in found.items() if peers}


def read(path: Path = RELEASE) -> Release:
    """Read what is stored of the last release."""
    try:
        stored = json.loads(path.read_text())
        return Release(stored["header"], stored["settings"], stored["ratios"])
    except FileNotFoundError:
        raise GateError(f"{path} is not there: scripts/bench --keep-as-release makes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise GateError(f"{path} is not what --keep-as-release writes: {type(error).__name__}: {error}") from None


def keep(results: Results, path: Path = RELEASE) -> None:
    """Store the ratios of a run as those of a release."""
    release = Release(results.header, results.settings, ratios_of(results))
    path.write_text(json.dumps(release._asdict(), indent=1) + "\n")


def judge(then: Ratios, now: Ratios, measured: Collection[str]) -> Judgement:
    """Compare; ``measured`` are the rows that the run was to have."""
    losses, missing = {}, []
    for row, before in then.items():
        shared = [1 - now[row][peer] / ratio for peer, ratio in before.items() if peer in now.get(row, {})]
        if shared:
            losses[row] = statistics.median(shared)
        elif row in measured:
            missing.append(row)
    return Judgement(losses, missing, [row for row in now if row not in then])


def text(release: Release, results: Results, judgement: Judgement) -> str:
    """Say which row lost how much, and what could not be compared."""
    now = ratios_of(results)
    version, machine = release.header.get("server meshcache", "?"), release.header.get("machine")
    lines = [f"against {version} of commit {release.header.get('commit', '?')}, {release.header.get('date', '?')}"]
    if machine != results.header.get("machine"):
        lines.append(f"note: that was on another machine ({machine}): ratios may differ by more than the program does")
    if release.settings != results.settings:
        lines.append(f"note: that was measured with {release.settings}, this with {results.settings}")
    for row, loss in sorted(judgement.losses.items(), key=lambda item: -item[1]):
        peers = [
            f"{peer} {ratio:.2f} -> {now[row][peer]:.2f}"
            for peer, ratio in release.ratios[row].items()
            if peer in now[row]
        ]
        change = f"{'lost' if loss > 0 else 'gained'} {abs(loss):.1%}"
        lines.append(f"{'LOST' if loss > LOSS_MAX else 'ok':5} {row:26} {change:14} {', '.join(peers)}")
    lines += [
        f"missing: {row}: the release has it, this run has no ratio to the same peer" for row in judgement.missing
    ]
    lines += [f"new: {row}: the release does not have it" for row in judgement.new]
    if not judgement.losses:
        lines.append("FAILED: there was nothing to compare")
    elif judgement.lost:
        lines.append(f"FAILED: {len(judgement.lost)} of {len(judgement.losses)} rows lost over {LOSS_MAX:.0%}")
    else:
        lines.append(f"passed: none of {len(judgement.losses)} rows lost over {LOSS_MAX:.0%}")
    return "\n".join(lines)
