"""What the operations of one node work with.

The node that a client asked coordinates: it runs the request against the owners of the keys, from its own copy of the
ring. A request is a batch of keys, split into *groups* with the same owners, because everything that follows (who is
asked, who has answered, whether it is enough) is the same for all keys of a group. A group is run by ``QuorumRead``
(reads.py) or ``QuorumWrite`` (writes.py); updates.py and drops.py have the other operations.
"""

from __future__ import annotations

from collections.abc import Callable

from meshcache.config import Config
from meshcache.core.membership.membership import Membership
from meshcache.core.operations.instant import Instant
from meshcache.core.operations.pending import Pending
from meshcache.core.operations.replica import Replica
from meshcache.core.outbox import Outbox
from meshcache.core.view import View
from meshcache.protocol.clock import HybridClock


class Coordinator:
    """The parts of a node that its operations use. It has no state of its own, and its parts are never replaced."""

    __slots__ = (
        "clock",
        "config",
        "fail",
        "instant",
        "keep_hint",
        "membership",
        "outbox",
        "own_id",
        "pending",
        "replica",
        "store",
        "view",
    )

    def __init__(
        self,
        config: Config,
        replica: Replica,
        view: View,
        membership: Membership,
        clock: HybridClock,
        outbox: Outbox,
        instant: Instant,
        pending: Pending,
        *,
        keep_hint: Callable[[str, list[bytes], list[bytes]], None],
        fail: Callable[[str, object, Exception], None],
    ) -> None:
        """``keep_hint`` keeps a write that a node missed; ``fail`` logs what an operation raised, or raises it anew."""
        self.config = config
        self.own_id = membership.own_id
        self.replica = replica
        self.store = replica.store
        self.view = view
        self.membership = membership
        self.clock = clock
        self.outbox = outbox
        self.instant = instant
        self.pending = pending
        self.keep_hint = keep_hint
        self.fail = fail
