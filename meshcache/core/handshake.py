"""HELLO, WELCOME and REFUSED: how links begin, and how a node becomes part of a mesh.

A node says HELLO on every link that it dials. WELCOME tells which process answers there, what the mesh has agreed on
and who its members are. A node *joins* with the first WELCOME of a seed: it takes over the members that the seed names,
without trying them, because the operator has named that seed. What any other node says only makes newcomers
(newcomers.py), and while these are on trial the joining node does not know yet which node owns which slot. So where no
seed answers, the node joins when the trials are over, with the newcomers that answered, or alone if none did.

For the same reason only a seed can stop a node that has not joined: by a refusal, or by settings that contradict the
node's own. What other nodes say is logged and ignored. A seed may be slow to refuse, and the node serve alone by then:
so a refusal stops it, too, while it knows of no other member and has served for less than ``SLOW_SEED_S``. Otherwise
it would remain a mesh of its own beside the one that its operator meant. Later ones do not: then it is the seed that is
new, and it may be the one that is set up wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from meshcache.config import Config
from meshcache.core.membership.membership import Membership
from meshcache.core.operations.instant import Instant
from meshcache.core.outbox import Outbox
from meshcache.core.peers import Peers
from meshcache.errors import ProtocolError
from meshcache.keys import AllowedKey
from meshcache.protocol import messages as m
from meshcache.protocol import versions
from meshcache.protocol.messages import Fact
from meshcache.protocol.wire import Frame, decode_frame

_MUST_AGREE: Final = ("slots", "vnodes", "replicas")
SLOW_SEED_S: Final = 30.0
"""A seed that was there when this node began alone has answered after so long: to connect, to prove who they are and to
say HELLO, with what the seed has to do besides."""
HELLO_BYTES_MAX: Final = 4096
"""No node's HELLO is longer."""


def is_from_node(frame: Frame) -> bool:
    """Tell of the first frame of a connection whether a node dialled: its HELLO has a fact, that of a client none."""
    if len(frame) > HELLO_BYTES_MAX:
        return False
    try:
        messages = decode_frame(frame)[1]
    except ProtocolError:
        return False
    return any(isinstance(message, m.Hello) and message.member is not None for message in messages)


class Handshake:
    """The handshakes of one node."""

    __slots__ = (
        "_alone_at",
        "_boot",
        "_config",
        "_follow",
        "_instant",
        "_link_made",
        "_membership",
        "_outbox",
        "_peers",
        "_slow_until",
        "_who",
        "fatal",
        "joined",
        "served",
    )

    def __init__(
        self,
        config: Config,
        membership: Membership,
        peers: Peers,
        outbox: Outbox,
        instant: Instant,
        boot: int,
        who: Callable[[bytes], AllowedKey],
        *,
        follow: Callable[[], None],
        link_made: Callable[[str], None],
    ) -> None:
        """``follow`` applies a change of the members to rings and links; ``link_made`` is told to whom a link is new.

        ``who`` returns the key by which a connection was let in.
        """
        node = config.node
        self.joined = not [seed for seed in node.seeds if seed != node.address]
        self.served = self.joined
        """Whether this node was part of a ring before. If so, that ring becomes a former one at the next change."""
        self.fatal: str | None = None
        """Why this node cannot be part of the cluster, for example because its id is taken. The driver stops with this
        text."""
        self._config = config
        self._membership = membership
        self._peers = peers
        self._outbox = outbox
        self._instant = instant
        self._boot = boot
        self._alone_at = instant.now + config.membership.join_wait_s
        self._slow_until = 0.0
        """Until when a seed may still refuse a node that has begun alone."""
        self._who = who
        self._follow = follow
        self._link_made = link_made

    def greet(self) -> None:
        """Say HELLO again on every link whose connection stands and where nobody has answered yet."""
        for link in self._peers.links.values():
            if link.up and not link.established and not link.is_own:
                self._peers.hello(link, self._membership.own, self._membership.digest())

    def join_without_seeds(self, now: float) -> bool:
        """Join where no seed answers: with the nodes that are known by now, or alone. The seeds are still dialled."""
        waits = len(self._membership.newcomers) or not self._membership.peers()
        if self.joined or (waits and now < self._alone_at):
            return False
        self.joined = True
        self._slow_until = now + SLOW_SEED_S
        self._follow()
        self.served = True
        return True

    def on_hello(self, origin: bytes, hello: m.Hello) -> None:
        """Answer a client, or a node that introduces itself."""
        refusal = self._refusal(hello)
        if refusal is not None:
            self._outbox.reply(origin, refusal)
            return
        membership = self._membership
        if hello.member is not None:
            membership.on_hello(hello.member, self._instant.now, origin)
            self._peers.on_hello(hello.member)
        cluster, limits = self._config.cluster, self._config.limits
        settings: dict[str, int | float | str] = {
            "cluster": cluster.name,
            "slots": cluster.slots,
            "vnodes": cluster.vnodes,
            "replicas": cluster.replicas,
            "write_quorum": cluster.write_quorum,
            "read_quorum": cluster.read_quorum,
            "value_bytes_max": limits.value_bytes_max,
            "request_bytes_max": limits.request_bytes_max,
            "reply_bytes_max": limits.reply_bytes_max,
            **versions.as_settings(),
        }
        key = self._who(origin)
        if key.kind == "client":
            settings["stream"] = int(key.may_follow)
        known = hello.member is not None and hello.facts == membership.digest()
        members: list[Fact] = [] if known else membership.facts()
        self._outbox.reply(origin, m.Welcome(self._boot, self._instant.wall_ms, membership.own_id, settings, members))

    def _refusal(self, hello: m.Hello) -> m.Refused | None:
        name = self._config.cluster.name
        apart = versions.why_not(hello.protocol)
        if apart is not None:
            return m.Refused("protocol", apart)
        if hello.cluster not in {"", name} or (hello.member is not None and not hello.cluster):
            return m.Refused("cluster", f"this node belongs to cluster {name!r}, not {hello.cluster!r}")
        if hello.member is not None:
            conflict = self._membership.conflict(hello.member)
            if conflict is not None:
                return m.Refused("id", f"{conflict}: give each node its own [node] id")
        return None

    def on_welcome(self, address: str, welcome: m.Welcome) -> None:
        """Take in that the node at ``address`` accepted this node's HELLO."""
        if welcome.boot == self._boot:
            self._peers.note_own(address)
            return
        if not versions.of_link(welcome.settings):
            self._refuse_to_run(address, f"{address}: {versions.why_apart(welcome.settings)}")
            return
        cluster = self._config.cluster
        for name in _MUST_AGREE:
            ours, theirs = getattr(cluster, name), welcome.settings.get(name)
            if theirs != ours:
                self._refuse_to_run(
                    address, f"cluster.{name} is {ours} here and {theirs!r:.40} at {address}: they must agree"
                )
                return
        news = self._peers.on_welcome(address, welcome, self._instant.wall_ms)
        vouched = not self.joined and self._is_seed(address)
        self._membership.on_welcome(address, welcome.node_id, welcome.members, self._instant.now, vouched=vouched)
        self.joined = self.joined or vouched
        self._follow()
        self.served = self.joined
        if news:
            self._link_made(welcome.node_id)

    def on_refused(self, address: str, refused: m.Refused) -> None:
        """Take in that the node at ``address`` refused this node's HELLO."""
        self._refuse_to_run(address, f"the node at {address} refused this one: {refused.text}")

    def on_denied(self, address: str, why: str) -> None:
        """Take in that the node at ``address`` does not even listen to this one."""
        if self._can_be_stopped_by(address):
            self.fatal = f"the handshake with {address} failed: {why}"

    def _refuse_to_run(self, address: str, text: str) -> None:
        """Stop a node that was never part of the cluster, if a seed refuses it; a node that is part of it goes on."""
        self._outbox.note("refused", reason=text)
        if self._can_be_stopped_by(address):
            self.fatal = text

    def _can_be_stopped_by(self, address: str) -> bool:
        alone = self._instant.now < self._slow_until and not self._membership.peers()
        return self._is_seed(address) and (alone or not self.joined)

    def _is_seed(self, address: str) -> bool:
        return self._peers.is_seed(address)
