"""Targets for frames, what is done to them, and what must not come of it.

An *episode* is a list of steps, drawn from a seed against a fresh target and played as it is drawn. Played again, the
same steps do the same. A *finding* is any of these:

- something is raised: a broken invariant, or work of the node's own that fails (which ends the process)
- a message, an operation or an encoding fails: the node serves on, but the gates have let something through
- the node's own state contradicts itself, or a store or a table has grown beyond its limits
- a frame leaves that the other side would refuse
- one step takes longer than STEP_S_MAX of processor time
- in a mesh: it is not one mesh again within RECOVERY_S after the last step, or does not serve
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from fuzzing.frames import ADDRESSES, SETTINGS, Draw, Scene
from meshcache.config import Config
from meshcache.core.membership.newcomers import TRIALS_MAX, WAITING_MAX
from meshcache.core.node import NodeCore
from meshcache.core.outbox import Effects
from meshcache.errors import ProtocolError
from meshcache.protocol import messages as m
from meshcache.protocol.clock import LEAD_MS_MAX, wall_ms_of
from meshcache.protocol.facts import FACTS_MAX
from meshcache.protocol.messages import Fact, Message
from meshcache.protocol.wire import decode_frame, encode_frame
from meshcache.simulation.hosts import EPOCH_MS, NodeHost
from meshcache.simulation.mesh import Mesh

STEPS: Final = 400
STEP_S_MAX: Final = 0.5
RECOVERY_S: Final = 40.0
TIME_PASSES: Final = 0.12
"""How often a step is that time passes."""
PEER_EVENT: Final = 0.1
"""How often a step is that a peer behaves, or a connection comes or goes."""
ORIGINS: Final = (b"\1client", b"\2client", b"\3peer")

REQUESTS: Final[list[type[Message]]] = [
    m.Hello,
    m.Ping,
    m.PingReq,
    m.Gossip,
    m.Get,
    m.Set,
    m.Delete,
    m.Update,
    m.Clear,
    m.InvalidateTags,
    m.Inspect,
    m.Read,
    m.Write,
    m.Sweep,
    m.SweepTags,
    m.Pull,
    m.Floors,
    m.Compare,
]
"""What is sent to a ROUTER, but for what has a node leave."""
ANSWERS: Final[list[type[Message]]] = [
    m.Welcome,
    m.Refused,
    m.Ack,
    m.Vouch,
    m.Nack,
    m.Gossip,
    m.Reply,
    m.Reject,
    m.ReadReply,
    m.WriteReply,
    m.SweepReply,
    m.PullReply,
    m.FloorsReply,
    m.CompareReply,
]

Step = tuple[Any, ...]
"""What is done, and with what."""


class Finding(Exception):
    """Something that must not be."""


class Target(NamedTuple):
    """How to make a target, and how to draw its next step."""

    make: Callable[[], Any]
    draw: Callable[[Any, Draw], Step]


class Lone:
    """One node core; its peers, connections and clock are steps."""

    def __init__(self) -> None:
        config = Config.from_tables(
            node={"id": "n1", "listen": "127.0.0.1:7001", "seeds": [ADDRESSES[0]]},
            cluster={"slots": 64, "vnodes": 8, "replicas": 2, "write_quorum": 1},
            store={"max_entries": 50, "max_bytes": 1_000_000, "tombstone_grace_s": 30.0},
        )
        self.now = 1000.0
        self.core = NodeCore(config, boot=EPOCH_MS << 16, rng=random.Random(1), now=self.now, wall_ms=EPOCH_MS)
        self.scene = Scene(EPOCH_MS, self.core.boot)
        self.dialled: dict[str, None] = {}
        self.gone = False
        self._turn()
        self._pass(config.membership.join_wait_s + 0.1)  # nobody answers: it serves by itself
        self._turn()

    # Steps

    def play(self, step: Step) -> None:
        """Do one step, and look at what came of it."""
        began_s = time.process_time()
        what, *arguments = step
        getattr(self, f"_{what}")(*arguments)
        self._turn()
        if time.process_time() - began_s > STEP_S_MAX:
            raise Finding(f"slow: a step took {time.process_time() - began_s:.2f} s")
        self._check()

    def _request(self, origin: bytes, frame: bytes) -> None:
        self.core.receive_request(origin, frame, self.now)

    def _answer(self, address: str, frame: bytes) -> None:
        self.core.receive_answer(address, frame, self.now)

    def _stream(self, frame: bytes) -> None:
        self.core.receive_stream(frame, self.now)

    def _up(self, address: str) -> None:
        self.core.link_up(address, self.now)

    def _down(self, address: str) -> None:
        self.core.link_down(address, self.now)

    def _refused(self, address: str) -> None:
        self.core.link_refused(address, self.now)

    def _full(self, address: str) -> None:
        self.core.undeliverable(address, self.now)

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def _turn(self) -> None:
        self.core.tick(self.now)
        effects = self.core.drain()
        for address in effects.disconnect:
            self.dialled.pop(address, None)
        self.dialled.update(dict.fromkeys(effects.connect))
        self._note(effects)

    def _note(self, effects: Effects) -> None:
        """See that what leaves is well formed, and note what the node waits for."""
        scene, core = self.scene, self.core
        for frame in [*[frame for _, frame in effects.replies], *effects.publish]:
            _well_formed(frame)
        for address, frame in effects.sends:
            for message in _well_formed(frame):
                if type(message) in m.ANSWERS:
                    scene.waiting.append((address, message.request, m.ANSWERS[type(message)]))
                elif isinstance(message, m.Ping):
                    scene.pinged.append(message.sequence)
        del scene.waiting[:-50], scene.pinged[:-50]
        scene.wall_ms = core.coordinator.instant.wall_ms
        scene.view = core.view.digest
        scene.facts = core.membership.facts()[:20]
        self.gone = core.gone or core.fatal is not None

    def _check(self) -> None:
        check_core(self.core)
        if len(self.dialled) > 1 + FACTS_MAX + TRIALS_MAX:
            raise Finding(f"limits: {len(self.dialled)} addresses are dialled")

    # Drawing

    @staticmethod
    def draw(target: Lone, draw: Draw) -> Step:
        """Draw the next step."""
        rng, scene = draw.rng, target.scene
        chance = rng.random()
        addresses = list(target.dialled)
        if chance < TIME_PASSES:
            return "pass", rng.choice((1.0, 5.0)) if rng.random() < 0.03 else rng.choice((0.001, 0.05, 0.05, 0.1, 0.3))
        if chance < TIME_PASSES + PEER_EVENT and addresses:
            return target._draw_peer(draw, rng.choice(addresses))
        if chance < 0.65 or not addresses:
            return "request", rng.choice(ORIGINS), draw.frame(REQUESTS, scene)
        if chance < 0.95:
            address, number, kind = rng.choice(scene.waiting or [(rng.choice(addresses), 0, rng.choice(ANSWERS))])
            if rng.random() < 0.5:
                message = draw.message(kind, scene)
                if len(message) > 1:
                    message[1] = number if rng.random() < 0.9 else message[1]
                return "answer", address, draw.encoded(0, [message])
            return "answer", rng.choice(addresses), draw.frame(ANSWERS, scene)
        return "stream", draw.frame([m.Invalidations], scene)

    def _draw_peer(self, draw: Draw, address: str) -> Step:
        """Draw what happens to a connection, or a peer that answers as it should."""
        rng = draw.rng
        chance = rng.random()
        if chance < 0.3:
            return "up", address
        if chance < 0.8:
            return "answer", address, self._welcome(address)
        return rng.choice(("down", "refused", "full")), address

    def _welcome(self, address: str) -> bytes:
        number = 2 + ADDRESSES.index(address) if address in ADDRESSES else 99
        boot = (EPOCH_MS << 16) + number
        said = Fact(f"n{number}", address, "", "", f"h{number}", "", 1.0, boot, EPOCH_MS << 8, 0)
        return encode_frame(0, [m.Welcome(boot, self.scene.wall_ms, said.node_id, dict(SETTINGS), [said])])


class Trio:
    """Three nodes in the simulator, and a stranger who sends frames to each, and says that they come from a peer."""

    def __init__(self) -> None:
        self.mesh = Mesh(
            nodes=3,
            cluster={"slots": 64, "vnodes": 8, "replicas": 2},
            store={"max_entries": 200, "tombstone_grace_s": 30.0},
        ).start()
        self.mesh.run(0.5)
        self.gone = False
        self.boots = {name: host.starts for name, host in self.mesh.nodes.items()}

    def play(self, step: Step) -> None:
        """Do one step, and look at what came of it."""
        what, *arguments = step
        if what == "pass":
            self.mesh.run(arguments[0])
        elif what == "end":
            self._must_recover()
        else:
            name, event, *rest = arguments
            self._host(name)._arrive(event, *rest)  # noqa: SLF001  (as the network does)
            self.mesh.run(0.001)
        for host in self.mesh.nodes.values():
            if host.core is None or host.starts != self.boots[host.name]:
                raise Finding(f"exit: {host.name} ended")
            check_core(host.core)

    def _host(self, name: str) -> NodeHost:
        return self.mesh.nodes[name]

    def _must_recover(self) -> None:
        mesh = self.mesh
        if not mesh.world.run_until_true(lambda: not mesh.disagreements(), within_s=RECOVERY_S, step_s=0.25):
            raise Finding(f"recovery: not within {RECOVERY_S} s: {'; '.join(mesh.disagreements())}")
        client = mesh.client("honest")
        for i in range(20):
            key = f"k{i}"
            mesh.call(client, client.session.set(key, f"mine {i}", None, 5.0))
            if mesh.call(client, client.session.get(key, None, 5.0)) != f"mine {i}":
                raise Finding(f"service: {key} does not hold what was written last")
            if not mesh.call(client, client.session.delete(key, 5.0)):
                raise Finding(f"service: {key} was there, and could not be deleted")

    @staticmethod
    def draw(target: Trio, draw: Draw) -> Step:
        """Draw the next step."""
        rng = draw.rng
        if rng.random() < TIME_PASSES:
            return "pass", rng.choice((0.001, 0.05, 0.3, 1.0))
        host = rng.choice(list(target.mesh.nodes.values()))
        assert host.core is not None
        core = host.core
        scene = Scene(core.coordinator.instant.wall_ms, core.boot, core.view.digest, facts=core.membership.facts()[:20])
        return "to", host.name, "receive_request", rng.choice(ORIGINS), draw.frame(REQUESTS, scene)


TARGETS: Final = {"one": Target(Lone, Lone.draw), "three": Target(Trio, Trio.draw)}


def check_core(core: NodeCore) -> None:
    """Raise Finding, or what broke, if a node is not as it must be."""
    core.check()
    if core.counters.failed:
        fields = [said for event, said in core.outbox.notes if event == "failed"]
        raise Finding(f"failed: {core.counters.failed} {fields}")
    store = core.store.statistics()
    if store.entries > core.store.max_entries or store.bytes > core.store.max_bytes:
        raise Finding(f"limits: {store.entries} entries, {store.bytes} bytes")
    newcomers = core.membership.newcomers
    if len(core.membership.members) > FACTS_MAX or len(newcomers) > WAITING_MAX:
        raise Finding(f"limits: {len(core.membership.members)} members, {len(newcomers)} newcomers")
    end = core.coordinator.instant.wall_ms + LEAD_MS_MAX + 1
    if core.clock.latest >> 16 > end:
        raise Finding("clock: it was moved beyond the allowed lead")
    for slot in range(core.view.ring.slots):
        for key in core.store.keys_of_slot(slot):
            record = core.store.peek(key)
            if record is not None and wall_ms_of(record) > end:
                raise Finding(f"immortal: {key!r} is held at a version that no write can overrule")
    owners = {member.node_id for member in core.view.ring.members}
    if not owners <= core.membership.members.keys():
        raise Finding(f"ring: {owners - core.membership.members.keys()} own slots and are no members")


def _well_formed(frame: bytes) -> list[Any]:
    try:
        return list(decode_frame(frame)[1])
    except ProtocolError as error:
        raise Finding(f"output: a frame leaves that would be refused: {error}") from None


class Episode(NamedTuple):
    """Steps that were played, and what they led to."""

    steps: list[Step]
    finding: str
    """Empty if there is none."""
    frames: int


def play(target: Target, steps: list[Step]) -> str:
    """Play steps to a fresh target; return what was found, or an empty text."""
    played = target.make()
    for step in steps:
        found = _found(played, step)
        if found or played.gone:
            return found
    return ""


def run(target: Target, seed: int, steps: int = STEPS) -> Episode:
    """Draw and play an episode."""
    draw = Draw(random.Random(f"fuzz {seed}"))
    played, done = target.make(), []
    for _ in range(steps):
        step = target.draw(played, draw)
        done.append(step)
        found = _found(played, step)
        if found or played.gone:
            return Episode(done, found, _count(done))
    if isinstance(played, Trio):
        done.append(("end",))
        return Episode(done, _found(played, done[-1]), _count(done))
    return Episode(done, "", _count(done))


def _found(played: Any, step: Step) -> str:
    try:
        played.play(step)
    except Exception as error:  # noqa: BLE001  (whatever it is: it is what is looked for)
        return f"{type(error).__name__}: {error}"
    return ""


def _count(steps: list[Step]) -> int:
    return sum(isinstance(step[-1], bytes) for step in steps)
