"""Newcomers: nodes that others tell of, and that have not yet answered at their own address.

Any node can say that some node is a member. So a node that is told of, and that is not known here, or is known as gone
or at another address, becomes a *newcomer* only: it is in no table, no ring and no rumour, and nobody waits for it.
This node dials it and greets it. Once it answers there under its own name, it becomes a member, and only then is it
passed on. Each node makes this trial for itself. It does no harm that one node learns of a newcomer later than others:
they keep its former ring until it is in sync with theirs (core/view.py).

What newcomers can cost is bounded: WAITING_MAX are known, TRIALS_MAX are dialled at a time, each for TRIAL_S or until
the connection is refused, and then forgotten; a node that really exists is told of again. Newcomers that have
introduced themselves, one for each connection, go before those that others tell of. A newcomer that answers while
others are on trial waits for them for GATHER_S, so that many that come at once make one new ring and not as many.

The one exception is in handshake.py: a node that joins takes over all members that its seed names. If it served while
it lacked a member that the others count on, its writes would miss that member's copies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from meshcache.core.membership.members import supersedes
from meshcache.protocol.facts import FACTS_MAX
from meshcache.protocol.messages import Fact

WAITING_MAX: Final = FACTS_MAX
TRIALS_MAX: Final = 16
TRIAL_S: Final = 2.0
"""As long as ZeroMQ tries to connect; a node that is up answers within milliseconds."""
GATHER_S: Final = 0.25


@dataclass(slots=True)
class Newcomer:
    """One node that is said to exist, and its trial."""

    fact: Fact
    origin: bytes = b""
    """The connection on which the node introduced itself; empty: others tell of it."""
    until: float | None = None
    """When the trial ends; None: the node is not dialled yet."""
    answered_at: float | None = None


class Newcomers:
    """The newcomers of one node. It decides which of them to try, and dials none itself."""

    def __init__(self, answers: Callable[[Fact], bool]) -> None:
        """``answers`` tells whether the node of a fact has answered at the address in it, and is still there."""
        self.given_up = 0
        """How many newcomers did not answer, or were too many to be tried."""
        self._known: dict[tuple[str, str], Newcomer] = {}
        """By node id and address: two nodes may claim one id, and both are tried."""
        self._introduced: dict[bytes, tuple[str, str]] = {}
        """By connection, the node that introduced itself there last."""
        self._answers = answers

    def __len__(self) -> int:
        return len(self._known)

    def add(self, fact: Fact, now: float, origin: bytes = b"") -> None:
        """Note that a node is said to exist, or newer news of a newcomer."""
        place = (fact.node_id, fact.address)
        held = self._known.get(place)
        if origin:
            self._introduce(place, origin)
        if held is None:
            if len(self._known) >= WAITING_MAX and not (origin and self._drop_hearsay()):
                self.given_up += 1
                return
            held = self._known[place] = Newcomer(fact)
        elif supersedes(fact, held.fact):
            held.fact = fact
        held.origin = origin or held.origin
        if held.answered_at is None and self._answers(held.fact):
            held.answered_at = now

    def _introduce(self, place: tuple[str, str], origin: bytes) -> None:
        """Note which node a connection speaks for. It is only one: an earlier introduction on it is dropped."""
        former = self._introduced.pop(origin, place)
        self._introduced[origin] = place
        if former != place and former in self._known and self._known[former].answered_at is None:
            del self._known[former]
            self.given_up += 1
        if len(self._introduced) > WAITING_MAX:
            del self._introduced[next(iter(self._introduced))]

    def _drop_hearsay(self) -> bool:
        for place, newcomer in self._known.items():
            if not newcomer.origin and newcomer.until is None and newcomer.answered_at is None:
                del self._known[place]
                self.given_up += 1
                return True
        return False

    def overrule(self, gone: Fact) -> None:
        """Forget a newcomer that is said to be gone."""
        for place, newcomer in list(self._known.items()) if self._known else ():
            if place[0] == gone.node_id and supersedes(gone, newcomer.fact):
                del self._known[place]

    def on_answer(self, address: str, node_id: str, now: float) -> None:
        """Note which node answers at an address; other newcomers with this address are not there."""
        for place, newcomer in list(self._known.items()) if self._known else ():
            if place[1] == address and place[0] != node_id:
                del self._known[place]
                self.given_up += 1
            elif place == (node_id, address) and newcomer.answered_at is None:
                newcomer.answered_at = now

    def on_refused(self, address: str) -> bool:
        """Note that an address refused the connection; return True if that ended a trial."""
        silent = [
            place
            for place, newcomer in self._known.items()
            if place[1] == address and newcomer.until is not None and newcomer.answered_at is None
        ]
        for place in silent:
            del self._known[place]
        self.given_up += len(silent)
        return bool(silent)

    def step(self, now: float) -> bool:
        """End trials whose time is over, and begin others in their place; return True if that changed ``dialled``."""
        late = [
            place
            for place, newcomer in self._known.items()
            if newcomer.until is not None and newcomer.answered_at is None and now >= newcomer.until
        ]
        for place in late:
            del self._known[place]
        self.given_up += len(late)
        waiting = [n for n in self._known.values() if n.until is None and n.answered_at is None]
        under_way = sum(n.until is not None and n.answered_at is None for n in self._known.values())
        chosen = sorted(waiting, key=_is_hearsay)[: max(0, TRIALS_MAX - under_way)]
        for newcomer in chosen:
            newcomer.until = now + TRIAL_S
        return bool(late or chosen)

    def dialled(self) -> list[str]:
        """Return the addresses to be dialled."""
        return [n.fact.address for n in self._known.values() if n.until is not None or n.answered_at is not None]

    def take_answered(self, now: float) -> list[Fact]:
        """Return and forget the newcomers that have answered, unless it is worth waiting for more of them."""
        answered = [n for n in self._known.values() if n.answered_at is not None]
        if not answered:
            return []
        first = min(n.answered_at for n in answered if n.answered_at is not None)
        if len(answered) < len(self._known) and now < first + GATHER_S:
            return []
        for newcomer in answered:
            del self._known[newcomer.fact.node_id, newcomer.fact.address]
        return [newcomer.fact for newcomer in answered]


def _is_hearsay(newcomer: Newcomer) -> bool:
    return not newcomer.origin
