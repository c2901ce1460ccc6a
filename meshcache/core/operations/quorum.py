"""How many owners are enough: what a consistency level asks for, and what the owners' answers prove. Pure arithmetic.

Sources: Gifford 1979 for W + R > N; Dynamo (DeCandia et al. 2007).
"""

from __future__ import annotations

from meshcache.config import ClusterSettings
from meshcache.core.view import View
from meshcache.protocol import messages as m


def level(asked: int, configured: int, owners: int) -> int:
    """Return how many owners a level means. A number is taken as it is; a name adapts to the number of owners.

    The result is at least one: where all nodes are leaving, no node owns anything, and nothing can be done.
    """
    if asked > 0:
        return asked
    if asked == m.LEVEL_ONE:
        return 1
    if asked == m.LEVEL_QUORUM:
        return owners // 2 + 1
    return max(1, owners if asked == m.LEVEL_ALL else min(configured, owners))


def holders_only(needed_to_read: int, needed_to_write: int, owners: int) -> bool:
    """Tell whether W + R > N. Then an owner without the key has no vote, since a cache forgets."""
    return needed_to_read + needed_to_write > owners


def answers_alone(view: View, cluster: ClusterSettings, key: bytes, record: bytes | None, r: int, w: int) -> bool:
    """Tell whether this owner need ask no other about a key: R is 1, and it holds the key or absence needs no proof."""
    slot = view.ring.slot_of(key)
    owners = len(view.ring.owners[slot])
    needed = level(r, cluster.read_quorum, owners)
    if needed > 1 or view.former_owners(slot) or not view.held[slot]:
        return False
    return record is not None or owners <= 1 or not holders_only(needed, level(w, cluster.write_quorum, owners), owners)
