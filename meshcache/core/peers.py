"""The links that this node dials: one per address, with a handshake on each, and what the handshake taught.

Nodes dial each other, both ways: a node asks on the link that it dialled, and is answered there. A link is
*established* when WELCOME came back: only then is it known which node and which process answers at the address, and by
how much its clock differs. When the connection breaks, the link must be established anew, because another process may
answer.

This node dials the seeds, always, so that clusters that started apart find each other; every member that is not known
to have left; and newcomers on trial. It dials at most ``links_max`` addresses in all, in this order, and dead members
after the others. The link to a node declared dead is closed and opened again, so that ZeroMQ cannot deliver what was
queued for the dead process to the process that takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from meshcache.core.membership.members import State
from meshcache.core.operations.instant import Instant
from meshcache.core.outbox import Outbox
from meshcache.protocol import versions
from meshcache.protocol.messages import PROTOCOL, Fact, Hello, Welcome

_OFFSET_DECAY_MS: Final = 1
"""How much the estimate shrinks per sample, to follow clocks that drift apart: 5 ms a second by default."""


LINKS_MAX: Final = 1024


@dataclass(slots=True)
class Link:
    """The link to one dialled address."""

    address: str
    up: bool = False
    """Whether the connection stands."""
    node_id: str = ""
    """The id of the node that answered HELLO; empty until then."""
    boot: int = 0
    is_own: bool = False
    """This address is one more of this node itself: a name for many nodes stands for this one, too."""
    protocol: int = 0
    """The newest version of the protocol that both sides speak, by WELCOME."""
    redialled_for: int = 0
    """The boot of the process whose HELLO made this node dial anew."""
    offset_ms: int = 0
    """The peer's wall clock minus ours, never overestimated by more than its drift: the sample with the least
    delay is the greatest, and so the greatest wins. A deadline made with it may be early, by the delay, never late."""
    changed_at: float = 0.0
    """Since when the connection stands, or does not."""
    heard_ms: int | None = None
    """By this node's wall clock, when the peer last told its own; None: not yet."""

    @property
    def established(self) -> bool:
        """Tell whether requests can be sent on this link."""
        return self.node_id != ""

    def sample_offset(self, peer_wall_ms: int, wall_ms: int) -> None:
        """Take another reading of the peer's clock into account."""
        self.heard_ms = wall_ms
        self.offset_ms = max(peer_wall_ms - wall_ms, self.offset_ms - _OFFSET_DECAY_MS)


class Peers:
    """All dialled links of one node."""

    __slots__ = (
        "_cluster",
        "_dialled_for",
        "_instant",
        "_links_max",
        "_outbox",
        "_seeds",
        "by_node",
        "links",
    )

    def __init__(
        self, cluster: str, seeds: tuple[str, ...], outbox: Outbox, instant: Instant, links_max: int = LINKS_MAX
    ) -> None:
        """``links_max``: how many links the driver can open."""
        self.links: dict[str, Link] = {}
        self.by_node: dict[str, Link] = {}
        """Established links by node id."""
        self._links_max = links_max
        self._cluster = cluster
        self._seeds: dict[str, tuple[str, ...]] = {seed: (seed,) for seed in seeds}
        """By seed as it is set, the addresses that are dialled for it."""
        self._dialled_for: tuple[Fact, list[Fact], list[str]] | None = None
        """Whom ``dial`` was told of last."""
        self._outbox = outbox
        self._instant = instant

    def is_seed(self, address: str) -> bool:
        """Tell whether the operator has named this address, or a name that stands for it."""
        return address in self._seeds or any(address in hosts for hosts in self._seeds.values())

    def spread(self, seed: str, hosts: list[str]) -> None:
        """Dial each of the hosts for which a seed's name stands now, and no longer those for which it stood before.

        With one host, or none, the seed is dialled by its name, so that its host may change. Those that are dialled
        one by one may be the addresses of members, too, which have names of their own: a second link costs little.
        """
        addresses = tuple(hosts) if len(hosts) > 1 else (seed,)
        if self._seeds.get(seed, addresses) == addresses:
            return
        self._seeds[seed] = addresses
        if self._dialled_for is not None:
            self.dial(*self._dialled_for)

    def dial(self, own: Fact, members: list[Fact], newcomers: list[str] | None = None) -> None:
        """Open the links that are wanted and missing, and close those that are no longer wanted."""
        self._dialled_for = own, members, newcomers or []
        wanted = dict.fromkeys(address for addresses in self._seeds.values() for address in addresses)
        wanted.update(dict.fromkeys(fact.address for fact in sorted(members, key=_is_dead)))
        wanted.update(dict.fromkeys(newcomers or ()))
        wanted.pop(own.address, None)
        wanted = dict.fromkeys(islice(wanted, self._links_max))
        for address in wanted:
            if address not in self.links:
                self.links[address] = Link(address, changed_at=self._instant.now)
                self._outbox.connect.append(address)
        for address in [address for address in self.links if address not in wanted]:
            self.drop(address)

    def redial(self, address: str) -> None:
        """Close a link and open it anew, so that everything queued on it is lost."""
        if address in self.links:
            self.drop(address)
            self.links[address] = Link(address, changed_at=self._instant.now)
            self._outbox.connect.append(address)

    def on_hello(self, member: Fact) -> None:
        """Dial at once a process that introduced itself and has no link: ZeroMQ waits up to a second between tries."""
        link = self.links.get(member.address)
        if link is not None and not link.up and link.redialled_for != member.boot:
            self.redial(member.address)
            self.links[member.address].redialled_for = member.boot

    def drop(self, address: str) -> None:
        """Close a link."""
        self.on_down(address)
        self.links.pop(address, None)
        self._outbox.sends.pop(address, None)
        # Opened in this very turn: a second socket would compete with it for the same identity.
        if address in self._outbox.connect:
            self._outbox.connect.remove(address)
        self._outbox.disconnect.append(address)

    def answers(self, fact: Fact) -> bool:
        """Tell whether the node of a fact has answered at the address in it, on the connection that stands now."""
        link = self.links.get(fact.address)
        return link is not None and link.node_id == fact.node_id

    def stands(self, address: str) -> bool:
        """Tell whether the connection to ``address`` stands."""
        link = self.links.get(address)
        return link is not None and link.up

    def on_up(self, address: str, own: Fact, facts: bytes) -> None:
        """Introduce this node on a connection that has just been made."""
        link = self.links.get(address)
        if link is not None:
            link.up, link.changed_at = True, self._instant.now
            self.hello(link, own, facts)

    def hello(self, link: Link, own: Fact, facts: bytes) -> None:
        """Say HELLO, with the digest of the member table; repeated until it is answered."""
        self._outbox.send(link.address, Hello(PROTOCOL, self._cluster, own, facts))

    def on_down(self, address: str) -> str:
        """Note that a connection broke; return the id of the node that was there, or an empty string."""
        link = self.links.get(address)
        if link is None:
            return ""
        node_id, link.node_id = link.node_id, ""
        link.is_own = False
        link.up, link.changed_at = False, self._instant.now
        if node_id and self.by_node.get(node_id) is link:
            del self.by_node[node_id]
            for other in self.links.values():  # two processes had this id, or the node has moved
                if other.node_id == node_id:
                    self.by_node[node_id] = other
        return node_id

    def note_own(self, address: str) -> None:
        """Note that this node itself answers at an address: there is nobody to greet."""
        if address in self.links:
            self.links[address].is_own = True

    def on_welcome(self, address: str, welcome: Welcome, wall_ms: int) -> bool:
        """Note which node answers at an address; return True if that is news."""
        link = self.links.get(address)
        if link is None or (link.node_id == welcome.node_id and link.boot == welcome.boot):
            return False
        link.up = True
        link.node_id, link.boot = welcome.node_id, welcome.boot
        link.protocol = versions.of_link(welcome.settings)
        link.offset_ms, link.heard_ms = welcome.wall_ms - wall_ms, wall_ms
        self.by_node[welcome.node_id] = link
        return True

    def statistics(self) -> dict[str, Any]:
        """Return by address how each link stands: what this node sees of the others."""
        now, wall_ms = self._instant.now, self._instant.wall_ms
        return {
            address: {
                "node_id": link.node_id,
                "up": link.established,
                "protocol": link.protocol if link.established else None,
                "since_s": round(now - link.changed_at, 1),
                "heard_s_ago": None if link.heard_ms is None else round((wall_ms - link.heard_ms) / 1000, 1),
                "offset_ms": link.offset_ms if link.established else None,
            }
            for address, link in self.links.items()
        }


def _is_dead(fact: Fact) -> bool:
    return fact.state > State.SUSPECT
