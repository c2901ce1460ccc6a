"""Versions: a hybrid logical clock (Kulkarni et al. 2014) and the coordinator's boot id.

A version is 16 bytes that compare as bytes: 48 bits of wall milliseconds, 16 bits of counter, and the 64-bit boot id
of the node that assigned it. The order is total: equal clocks are told apart by the boot id. Every frame between
nodes carries the sender's clock and the receiver merges it, so that a write that causally follows another gets the
greater version, whatever the wall clocks say.

Invariants: a clock never goes backwards; ``tick`` never returns the same value twice; no peer can move it more than
``LEAD_MS_MAX`` ahead of the local wall clock (one broken clock must not spoil all others).
"""

from __future__ import annotations

from typing import Final

LEAD_MS_MAX: Final = 5_000
"""How far ahead of the local wall clock a peer's clock may be; a clock beyond that is refused."""

SUSPENDED_S: Final = 0.25
"""If the wall clock gains less than this on the monotonic clock, it is only being adjusted."""

_COUNTER_BITS: Final = 16
_VERSION_MAX: Final = (1 << 128) - 1


class HybridClock:
    """One node's hybrid clock. The wall time is an argument: the node reads it once per event."""

    __slots__ = (
        "_suffix",
        "latest",
    )

    def __init__(self, boot: int) -> None:
        self.latest = 0
        """The greatest clock value seen or given out: (wall ms << 16) | counter."""
        self._suffix = boot.to_bytes(8, "big")

    def tick(self, wall_ms: int) -> bytes:
        """Return a new version, greater than every one seen so far. A full counter carries into the milliseconds."""
        self.latest = max(self.latest + 1, wall_ms << _COUNTER_BITS)
        return self.latest.to_bytes(8, "big") + self._suffix

    def tick_past(self, wall_ms: int) -> bytes:
        """Return a version greater than all that were seen so far and than all others with its clock value.

        Two nodes whose clocks have come to the same value make versions that differ only in their boot ids. A drop that
        must overrule everything written before it must not lose to one of these.
        """
        return past_revisions(self.tick(wall_ms))

    def revise(self, version: bytes) -> bytes:
        """Return a version for a change that keeps the content of ``version`` and must not count as a later write.

        It is greater than ``version`` and less than every version with a greater clock: a write of the key that came
        meanwhile, even one not seen here, stays the last write. The low bits of a boot id are random, so that two nodes
        that revise one version, on the two sides of a partition, do not make the same one.
        """
        step = 1 + int.from_bytes(self._suffix[-2:])
        return min(int.from_bytes(version) + step, _VERSION_MAX).to_bytes(16)

    def go_past(self, clock: int) -> None:
        """Give out only what is greater than this from now on: what this node itself has seen before it started."""
        self.latest = max(self.latest, clock)

    def merge(self, clock: int, wall_ms: int) -> bool:
        """Take a peer's clock into account; return False if it was refused as too far ahead."""
        if clock <= self.latest:
            return True
        if (clock >> _COUNTER_BITS) > wall_ms + LEAD_MS_MAX:
            return False
        self.latest = clock
        return True


class LocalClock:
    """A node's monotonic time: the system's monotonic clock, plus the time for which the machine was suspended.

    The monotonic clock of a suspended machine may not show that time (that of a paused virtual machine cannot). The
    node would then go on as if nothing had happened: with a wall clock that stays behind, and as a member that the
    others have declared dead. So when the system's wall clock has gained on its monotonic clock, that time is added,
    and the node notices that it was stalled. A wall clock that is set back changes nothing.
    """

    __slots__ = ("_ahead_s", "ahead_s_max", "stood_still_s")

    def __init__(self, monotonic: float, wall: float) -> None:
        self._ahead_s = wall - monotonic
        self.ahead_s_max = self._ahead_s + SUSPENDED_S
        """By more than this the wall clock is ahead of ``read`` only if the machine was suspended."""
        self.stood_still_s = 0.0
        """The time to add to the system's monotonic clock."""

    def read(self, monotonic: float, wall: float) -> float:
        """Return the time in seconds, from what both system clocks show. Called every turn; it takes 0.1 µs."""
        now = monotonic + self.stood_still_s
        if wall - now > self.ahead_s_max:
            self.stood_still_s = wall - self._ahead_s - monotonic
            return monotonic + self.stood_still_s
        return now


def past_revisions(version: bytes) -> bytes:
    """Return the greatest version with the clock value of this one: above all its revisions, below all later writes."""
    return version[:8] + b"\xff" * 8


def clock_of(version: bytes) -> int:
    """Return the clock value inside a version."""
    return int.from_bytes(version[:8], "big")


def wall_ms_of(version: bytes) -> int:
    """Return the milliseconds inside a version: when it was assigned, by the coordinator's clock."""
    return int.from_bytes(version[:6], "big")
