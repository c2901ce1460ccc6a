"""Which member to probe next, how a probe goes, and how far this node may trust its own judgement.

Each ``probe_interval_s`` one member is probed, whatever the size of the cluster, in the order of a shuffled list, so
that no member waits longer than two rounds::

    begin --ack_timeout_s--> ask k others to ping it --ack_timeout_s--> failed       any sign of life: answered

A probe may last longer than the interval; then several are under way.

A member that is asked to help pings the target on behalf of the prober. It answers VOUCH if the target answers, or NACK
if the target is silent for half the acknowledgement timeout. A missing NACK tells that the trouble is on the prober's
side.

*Local health* counts such signs of trouble, from 0 (well) to 7: failed probes without the NACKs they should have
brought, accusations that this node had to refute, and its own stalls. All its times are longer by (health + 1), so an
overloaded node is slow to take its own trouble for that of others.

Sources: SWIM, section 4.3 (round robin); Lifeguard's local health awareness. Stalls are our addition: an event loop can
see its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from meshcache.config import MembershipSettings

HEALTH_WORST: Final = 7

NACK_AFTER: Final = 0.5
"""The share of the acknowledgement timeout after which a helper answers NACK."""

RELAYS_MAX: Final = 64
"""How many probes a node makes for others at one time; it ignores further requests."""


@dataclass(slots=True)
class Probe:
    """One probe of a member."""

    target: str
    ask_at: float
    """When other members are asked to help."""
    ends_at: float
    helpers: int = -1
    """How many members were asked to help; -1: none was asked yet."""
    nacks: int = 0


@dataclass(slots=True)
class Relay:
    """A probe that this node makes for another member."""

    origin: bytes
    sequence: int
    """The number by which the other member asked."""
    nack_at: float
    forget_at: float
    nacked: bool = False


class Prober:
    """The order of the probes, those under way, and this node's local health. It decides, and sends nothing."""

    def __init__(self, settings: MembershipSettings, rng: random.Random, now: float) -> None:
        self.health = 0
        self.failed = 0
        """Probes that ended without an answer."""
        self.probes: dict[int, Probe] = {}
        """Probes without an answer so far, by the number of the ping."""
        self.relays: dict[int, Relay] = {}
        """Probes for other members, by the number of this node's own ping."""
        self._settings = settings
        self._rng = rng
        self._round: list[str] = []
        self._next_at = now

    def due(self, now: float) -> bool:
        """Tell whether it is time for the next probe."""
        return now >= self._next_at

    def next_target(self, peers: list[str], now: float) -> str | None:
        """Return the member to probe now; None if there is none."""
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
        """Note that a ping with this number was sent to the target, and wait for the answer."""
        timeout_s = self._settings.ack_timeout_s * (self.health + 1)
        self.probes[number] = Probe(target, now + timeout_s, now + 2 * timeout_s)

    def hasten(self, node_id: str) -> None:
        """Make a member the next to be probed."""
        self._round.append(node_id)

    def helpers(self, probe: Probe, peers: list[str]) -> list[str]:
        """Choose the members that are asked to ping the target as well."""
        others = [node_id for node_id in peers if node_id != probe.target]
        chosen = self._rng.sample(others, min(self._settings.indirect_probes, len(others)))
        probe.helpers = len(chosen)
        return chosen

    def heard(self, node_id: str) -> None:
        """Note a sign of life of a member: its probes are answered."""
        for number, probe in list(self.probes.items()):
            if probe.target == node_id:
                del self.probes[number]
                self.judge(-1)

    def fail(self, number: int, *, expected: bool) -> None:
        """End a probe that got no answer. The NACKs that came, or did not come, tell on which side the trouble may be.

        ``expected``: the target was suspect already, so that this says nothing new of our own health.
        """
        probe = self.probes.pop(number)
        self.failed += 1
        if not expected:
            self.judge(probe.helpers - probe.nacks if probe.helpers > 0 else 1)

    def on_nack(self, number: int) -> None:
        """Note that a helper heard nothing from the target of a probe either."""
        probe = self.probes.get(number)
        if probe is not None:
            probe.nacks += 1

    def judge(self, change: int) -> None:
        """Change the count of local health: less than 0 speaks for this node's health, more than 0 against it."""
        self.health = max(0, min(HEALTH_WORST, self.health + change))

    def postpone(self, by_s: float) -> None:
        """Leave out a time in which this node itself did not run: no silence of that time counts."""
        for probe in self.probes.values():
            probe.ask_at += by_s
            probe.ends_at += by_s

    # Probes for others

    def relay(self, number: int, origin: bytes, sequence: int, now: float) -> bool:
        """Note a probe for another member, under our own ``number``; return False if there are too many."""
        if len(self.relays) >= RELAYS_MAX:
            return False
        nack_at = now + NACK_AFTER * self._settings.ack_timeout_s
        self.relays[number] = Relay(origin, sequence, nack_at, now + 2 * self._settings.ack_timeout_s)
        return True

    def overdue(self, now: float) -> list[Relay]:
        """Return the probes for others that must be answered with NACK now, and forget the old ones."""
        if not self.relays:
            return []
        late = [relay for relay in self.relays.values() if not relay.nacked and now >= relay.nack_at]
        for relay in late:
            relay.nacked = True
        self.relays = {number: relay for number, relay in self.relays.items() if now < relay.forget_at}
        return late
