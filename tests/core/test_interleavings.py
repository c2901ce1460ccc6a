"""In no order of arrival is what a slow loader read before a change stored or given to others after it."""

from __future__ import annotations

from typing import Any

import pytest
from interleavings import OLD, Case, Explorer
from planted_bugs import Plant, lease_not_voided

from meshcache.core.operations.fill_leases import FillLeases
from meshcache.protocol.messages import Change

ONE = {"replicas": 1, "write_quorum": 1, "read_quorum": 1, "slots": 16, "vnodes": 8}
TWO = {"replicas": 2, "write_quorum": 2, "read_quorum": 1, "slots": 16, "vnodes": 8}
THREE = {"replicas": 3, "write_quorum": 2, "read_quorum": 2, "slots": 16, "vnodes": 8}

CASES = [
    *[Case(1, ONE, change, changed_at=0, losses=2) for change in ("delete", "set", "clear")],
    *[Case(2, TWO, "delete", changed_at=owner, losses=0) for owner in (0, 1)],
    *[Case(2, TWO, change, changed_at=1, losses=1, late=False) for change in ("delete", "set", "clear")],
    Case(3, THREE, "delete", changed_at=1, losses=0, late=False, granted=True),
]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.nodes} {case.change} at {case.changed_at} losing {case.losses}"
)
def test_the_old_value_is_never_stored_after_the_change(case: Case) -> None:
    explorer = Explorer(case)
    loaded_before = acknowledged = 0
    for path in explorer.explore():
        problem = explorer.problem(path)
        assert not problem, f"{problem}: {path.history}, lost {path.lost}"
        loaded_before += path.acknowledged and path.loaded == OLD
        acknowledged += path.acknowledged
    assert acknowledged > 10
    assert loaded_before > 5


def fill_stamped_late(patch: pytest.MonkeyPatch) -> None:
    """A fill gets its version when it is stored, not when the lease was granted."""
    held = FillLeases._held

    def late(self: Any, batch: Any, index: int) -> Any:
        lease = held(self, batch, index)
        if lease is not None and batch.request.changes[index][0] == Change.FILL:
            lease.version = self._coordinator.clock.tick(self._coordinator.instant.wall_ms)
        return lease

    patch.setattr(FillLeases, "_held", late)


@pytest.mark.parametrize(
    ("plant", "case"),
    [
        (lease_not_voided, Case(1, ONE, "delete", changed_at=0, losses=0)),
        (fill_stamped_late, Case(3, THREE, "delete", changed_at=1, losses=1, late=False, granted=True)),
    ],
    ids=["lease_not_voided", "fill_stamped_late"],
)
def test_a_planted_bug_is_found(plant: Plant, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    explorer = Explorer(case)
    assert any(explorer.problem(path) for path in explorer.explore())
