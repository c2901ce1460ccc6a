"""How parts of a node are made of its configuration: those that need nothing of the node but that."""

from __future__ import annotations

import random

from meshcache.config import Config
from meshcache.core.membership.majority import Majority
from meshcache.core.membership.members import State, first_incarnation
from meshcache.core.membership.membership import Membership
from meshcache.core.operations.instant import Instant
from meshcache.core.outbox import Outbox
from meshcache.core.peers import Peers
from meshcache.protocol.messages import Fact


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
