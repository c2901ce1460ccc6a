"""What a client tells of what it did: counts that are kept where the thing happens, and put together when asked for."""

from __future__ import annotations

from dataclasses import dataclass

from meshcache.client.routing import Routing
from meshcache.protocol.near_store import NearStatistics


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """What one node did for a client."""

    node_id: str
    address: str
    breaker: str
    """"closed"; "open": it failed so often that it is asked last; "half-open": one request may show that it is back."""
    answered: int
    """Requests that it answered; a request has one key or many."""
    failed: int
    """Requests that it did not answer in time, or that could not be sent to it."""


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What a client did since it was made, together with all that are derived from it."""

    operations: int
    """Requests that nodes answered. What the near cache answered is not among them."""
    errors: int
    """Operations that failed in the end, wholly or for some of their keys."""
    retries: int
    """Rounds of requests after the first of an operation; those for the rest of a large batch are among them."""
    failed: int
    """Requests that were not answered: most were answered by another node."""
    nodes: dict[str, NodeStatistics]
    """By node id, the members that this client knows."""
    near: NearStatistics | None
    """The near cache; None if there is none, and no key is hot."""
    hedged: int = 0
    """Reads for which a second node was asked, because the first took long; see ``hedge=True``."""
    hedges_won: int = 0
    """Those of them that the second node answered first."""


def statistics_of(routing: Routing, near: NearStatistics | None) -> ClientStatistics:
    """Return the counts as they are now."""
    peers = list(routing.peers.values())
    nodes = [
        NodeStatistics(peer.node_id, peer.address, peer.breaker.state, peer.answered, peer.failed) for peer in peers
    ]
    return ClientStatistics(
        operations=routing.answered,
        errors=routing.errors,
        retries=routing.retries,
        failed=routing.gone_failed + sum(node.failed for node in nodes),
        nodes={node.node_id: node for node in nodes},
        near=near,
        hedged=routing.hedging.hedged,
        hedges_won=routing.hedging.won,
    )
