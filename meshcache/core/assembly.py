"""How parts of a node are made of its configuration and of each other."""

from __future__ import annotations

import random
from collections.abc import Callable

from meshcache.config import Config
from meshcache.core.membership.majority import Majority
from meshcache.core.membership.members import State, first_incarnation
from meshcache.core.membership.membership import Membership
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.instant import Instant
from meshcache.core.operations.pending import Pending
from meshcache.core.operations.replica import Replica
from meshcache.core.outbox import Outbox
from meshcache.core.peers import Peers
from meshcache.core.storage.store import Store
from meshcache.core.view import View
from meshcache.protocol.clock import HybridClock
from meshcache.protocol.messages import Event, Fact


def membership_of(
    config: Config, boot: int, peers: Peers, outbox: Outbox, instant: Instant, rng: random.Random
) -> Membership:
    """Return the membership of a node that has just begun, and knows of nobody else."""
    node, settings = config.node, config.membership
    own = Fact(
        node.node_id,
        node.address,
        node.publish_dialled,
        node.http_dialled,
        node.host_label,
        node.zone,
        node.weight,
        boot,
        first_incarnation(instant.wall_ms),
        int(State.ALIVE),
        b"",
    )
    strict = config.cluster.partition_policy == "strict"
    return Membership(
        settings,
        own,
        outbox,
        rng,
        instant.now,
        linked=peers.stands,
        answers=peers.answers,
        wall_ms=lambda: instant.wall_ms,
        majority=Majority(settings.link_dead_after_s, instant.now) if strict else None,
    )


def coordinator_of(
    config: Config,
    store: Store,
    view: View,
    membership: Membership,
    clock: HybridClock,
    outbox: Outbox,
    instant: Instant,
    pending: Pending,
    on_announced: Callable[[Event], None],
    keep_hint: Callable[[str, list[bytes], list[bytes]], None],
    fail: Callable[[str, object, Exception], None],
) -> Coordinator:
    """Return what the operations of a node work with."""
    replica = Replica(config.store, store, clock, outbox, instant, on_announced)
    parts = config, replica, view, membership, clock, outbox, instant, pending
    return Coordinator(*parts, keep_hint=keep_hint, fail=fail)
