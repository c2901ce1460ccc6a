"""Checks what must always be true of a node's state, after something failed while a message was handled.

When the handling of a message breaks off, a change may be half done. That is harmless where every step leaves the state
consistent; this check finds the cases where a step did not. It takes a fraction of a millisecond, however much the node
holds.
"""

from __future__ import annotations

from meshcache.core.membership.membership import Membership
from meshcache.core.storage.store import Store
from meshcache.core.view import View
from meshcache.protocol.clock import HybridClock


class InvariantBroken(AssertionError):
    """The state of this node contradicts itself: nothing that the node says can be trusted any more."""


def check(slots: int, store: Store, view: View, membership: Membership, clock: HybridClock) -> None:
    """Raise InvariantBroken if a part of the node contradicts itself or another part."""
    problems = [
        *store.contradictions(),
        *membership.contradictions(),
        *(["the ring has another number of slots"] if view.ring.slots != slots else []),
        *(["slots are held or owned that there are not"] if {len(view.held), len(view.owned)} != {slots} else []),
        *(["there is no clock value to go on from"] if not 0 <= clock.latest < 1 << 63 else []),
    ]
    if problems:
        raise InvariantBroken("; ".join(problems))
