"""What always holds of a node's own state, looked at when something has failed in the midst of it.

What a message breaks off may be half done. That is no harm where every step leaves the state whole; here it is found
out. The look takes a fraction of a millisecond whatever the node holds.
"""

from __future__ import annotations

from meshcache.core.membership.membership import Membership
from meshcache.core.storage.store import Store
from meshcache.core.view import View
from meshcache.protocol.clock import HybridClock


class InvariantBroken(AssertionError):
    """This node's own state contradicts itself: nothing that it says can be trusted any more."""


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
