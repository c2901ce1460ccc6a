"""Whom to probe next, how a probe goes, and how far this node may trust its own judgement.

Each ``probe_interval_s`` one member is probed, whatever the size of the cluster, in the order of a shuffled list, so
that nobody waits for its turn longer than two rounds::

    begin --ack_timeout_s--> ask k others to ping it --ack_timeout_s--> failed       any sign of life: answered

A probe may last longer than the interval: several are under way then.

Asked for help, a member pings on behalf of the prober and answers VOUCH, or NACK when it heard nothing in half the
acknowledgement timeout: a missing NACK tells that the trouble is on the prober's side.

That is what *local health* counts, from 0 (well) to 7: failed probes without the NACKs they should have brought,
accusations that this node had to refute, and its own stalls. All its times are longer by (health + 1), so an
overloaded node is slow to accuse others of what it suffers from itself.

Sources: SWIM, section 4.3 (round robin); Lifeguard's local health awareness. Lifeguard does not count stalls: an event
loop sees them for itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from meshcache.config import MembershipSettings

HEALTH_WORST: Final = 7

NACK_AFTER: Final = 0.5
"""Share of the acknowledgement timeout after which a helper says that it heard nothing."""

RELAYS_MAX: Final = 64
"""Probes made for others at one time; more requests are ignored."""


@dataclass(slots=True)
class Probe:
    """One probe of a member."""

    target: str
    ask_at: float
    """When others are asked to help."""
    ends_at: float
    helpers: int = -1
    """How many were asked; -1: not yet."""
    nacks: int = 0


@dataclass(slots=True)
class Relay:
    """A probe made for another member."""

    origin: bytes
    sequence: int
    """The asker's number."""
    nack_at: float
    forget_at: float
    nacked: bool = False


class Prober:
    """The order of the probes, the one under way, and this node's health. Decides; sends nothing."""

    def __init__(self, settings: MembershipSettings, rng: random.Random, now: float) -> None:
        self.health = 0
        self.failed = 0
        """Probes that ended without an answer."""
        self.probes: dict[int, Probe] = {}
        """Those without an answer so far, by number of the ping."""
        self.relays: dict[int, Relay] = {}
        """By our number of the ping."""
        self._settings = settings
        self._rng = rng
        self._round: list[str] = []
        self._next_at = now

    def due(self, now: float) -> bool:
        """Tell whether the next period begins."""
        return now >= self._next_at

    def next_target(self, peers: list[str], now: float) -> str | None:
        """Return whom to probe now; None if there is nobody."""
        self._next_at = max(now, self._next_at + self._settings.probe_interval_s * (self.health + 1))
        present = dict.fromkeys(peers)
        for _ in range(2):
            while self._round:
                target = self._round.pop()
                if target in present:
                    return target
            self._round = sorted(peers)
            self._rng.shuffle(self._round)
        return None

    def begin(self, number: int, target: str, now: float) -> None:
        """Wait for what the ping with this number brings."""
        timeout_s = self._settings.ack_timeout_s * (self.health + 1)
        self.probes[number] = Probe(target, now + timeout_s, now + 2 * timeout_s)

    def hasten(self, node_id: str) -> None:
        """Make a member the next to be probed."""
        self._round.append(node_id)

    def helpers(self, probe: Probe, peers: list[str]) -> list[str]:
        """Choose who is asked to ping the target as well."""
        others = [node_id for node_id in peers if node_id != probe.target]
        chosen = self._rng.sample(others, min(self._settings.indirect_probes, len(others)))
        probe.helpers = len(chosen)
        return chosen

    def heard(self, node_id: str) -> None:
        """A member gave a sign of life, and so answered its probes."""
        for number, probe in list(self.probes.items()):
            if probe.target == node_id:
                del self.probes[number]
                self.judge(-1)

    def fail(self, number: int, *, expected: bool) -> None:
        """A probe ended without an answer. What the helpers said tells whose fault that may be.

        ``expected``: the target was suspect already, so that this is no news of our own health.
        """
        probe = self.probes.pop(number)
        self.failed += 1
        if not expected:
            self.judge(probe.helpers - probe.nacks if probe.helpers > 0 else 1)

    def on_nack(self, number: int) -> None:
        """A helper heard nothing of the target of a probe either."""
        probe = self.probes.get(number)
        if probe is not None:
            probe.nacks += 1

    def judge(self, change: int) -> None:
        """Note what speaks for (less than 0) or against (more than 0) this node's own health."""
        self.health = max(0, min(HEALTH_WORST, self.health + change))

    def postpone(self, by_s: float) -> None:
        """This node did not listen for so long: no silence of that time counts."""
        for probe in self.probes.values():
            probe.ask_at += by_s
            probe.ends_at += by_s

    # Probes for others

    def relay(self, number: int, origin: bytes, sequence: int, now: float) -> bool:
        """Note a probe made for another member under our ``number``; False if there are too many."""
        if len(self.relays) >= RELAYS_MAX:
            return False
        nack_at = now + NACK_AFTER * self._settings.ack_timeout_s
        self.relays[number] = Relay(origin, sequence, nack_at, now + 2 * self._settings.ack_timeout_s)
        return True

    def overdue(self, now: float) -> list[Relay]:
        """Return the relays that have to be answered with NACK now, and forget the old ones."""
        if not self.relays:
            return []
        late = [relay for relay in self.relays.values() if not relay.nacked and now >= relay.nack_at]
        for relay in late:
            relay.nacked = True
        self.relays = {number: relay for number, relay in self.relays.items() if now < relay.forget_at}
        return late
