"""Every order in which messages can arrive, for one slow loader against one change of what it loads.

The nodes are real ones, from a mesh that has settled. The network is a set of messages, of which any may be delivered
next, or be lost (as often as the case allows). Two orders that differ only between events of different nodes lead to
the same state. So a state is identified by what has happened at each node, in that node's order, and by the order of
the versions, which the nodes compare; each state is visited once. A path is run from its beginning, on a key of its own
with the same owners, so that no earlier path has an effect on it.

::

    loader    asks for the lease; reads the source; fills
    changer   changes the source; deletes, sets or clears
    late      asks for the value, once the change was acknowledged
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from story import Story

from meshcache.core.node import NodeCore
from meshcache.core.storage.drop_floors import Floors
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Change, EventKind
from meshcache.protocol.record import VERSION_BYTES, is_live
from meshcache.protocol.wire import decode_frame, encode_frame

STEP_S = 0.001
"""The time between two events. Versions of different events differ by it, as those of clocks that agree do."""
CALL_S = 0.6
OLD, NEW = b"\0\1old", b"\0\1new"


@dataclass(frozen=True)
class Case:
    """What is explored, and the limits of it."""

    nodes: int
    cluster: dict[str, Any]
    change: str
    changed_at: int
    """Which owner of the key coordinates the change."""
    losses: int
    late: bool = True
    granted: bool = False
    """Begin when the loader has its lease; there is only one way to get there."""


@dataclass
class Message:
    """A message under way."""

    name: tuple[Any, ...]
    """Its sender, the sender's event that sent it, and its number among the messages of that event."""
    to: str
    origin: str
    """Its sender, a node or an actor."""
    is_answer: bool
    clock: int
    content: m.Message


@dataclass
class Path:
    """A run along the choices made so far."""

    key: bytes
    now: float
    history: dict[str, list[Any]] = field(default_factory=dict)
    stamps: list[str] = field(default_factory=list)
    messages: dict[tuple[Any, ...], Message] = field(default_factory=dict)
    lost: list[tuple[Any, ...]] = field(default_factory=list)
    source: bytes = OLD
    lease: bytes = b""
    loaded: bytes = b""
    asked: bool = False
    changed: bool = False
    acknowledged: bool = False
    late_asked: bool = False
    late_got: Any = None


class Explorer:
    """Runs paths of one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        story = Story(case.nodes, case.cluster)
        self.keys = (key for i in range(10_000_000) if story.mesh.owners(key := f"k{i}")[0] == "n1")
        self.owners = story.mesh.owners(next(self.keys))
        self.keys = (key for key in self.keys if story.mesh.owners(key) == self.owners)
        self.cores: dict[str, NodeCore] = {}
        for host in story.mesh.nodes.values():
            assert host.core is not None
            self.cores[host.name] = host.core
            host.core.drain()
        self.names = {host.address: host.name for host in story.mesh.nodes.values()}
        self.now = max(host.clock() for host in story.mesh.nodes.values())
        self.states = self.paths = 0

    def explore(self) -> Iterator[Path]:
        """Yield every path that has come to its end."""
        first = self._until_granted() if self.case.granted else ()
        seen: set[Any] = set()
        stack: list[tuple[Any, ...]] = [first]
        while stack:
            choices = stack.pop()
            path = self._run(choices)
            self.states += 1
            enabled = self._enabled(path)
            if not enabled:
                self.paths += 1
                yield path
            for choice in enabled:
                state = self._state(path, choice)
                if state not in seen:
                    seen.add(state)
                    stack.append((*choices, choice))
            self._clean_up()

    def _until_granted(self) -> tuple[Any, ...]:
        choices: tuple[Any, ...] = (("act", "ask"),)
        while not (path := self._run(choices)).lease:
            choices = (*choices, ("deliver", next(iter(path.messages))))
            self._clean_up()
        self._clean_up()
        return choices

    # ---- states and choices

    def _start(self) -> Path:
        return Path(key=next(self.keys).encode(), now=self.now)

    def _enabled(self, path: Path) -> list[tuple[Any, ...]]:
        choices: list[tuple[Any, ...]] = [("deliver", name) for name in path.messages]
        if not path.asked:
            choices.append(("act", "ask"))
        if self.case.late and path.acknowledged and not path.late_asked:
            choices.append(("act", "late"))
        if not path.changed:
            choices.append(("act", "change"))
        if len(path.lost) < self.case.losses:
            choices += [("lose", name) for name, message in path.messages.items() if self._may_be_lost(message)]
        if path.lease and not path.loaded:
            choices.append(("act", "load"))
        return choices

    def _state(self, path: Path, choice: tuple[Any, ...] | None) -> Any:
        """Return the state of a path after a choice: enough to know what can follow, without running it."""
        histories = {who: tuple(events) for who, events in path.history.items()}
        lost, stamps = frozenset(path.lost), tuple(path.stamps)
        if choice is not None and choice[0] == "lose":
            lost |= {choice[1]}
        elif choice is not None:
            histories[_who(path, choice)] = (*histories.get(_who(path, choice), ()), choice[1])
            stamps += self._order(path, choice)
        return frozenset(histories.items()), lost, stamps

    def _may_be_lost(self, message: Message) -> bool:
        """With three nodes, only messages that tell the owner of the change may be lost: else states are too many."""
        return self.case.nodes < 3 or (message.to == self.owners[0] and isinstance(message.content, m.Write | m.Sweep))

    def _order(self, path: Path, choice: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the part of the order between nodes that counts: which of read, grant and change came before which.

        The clocks order the version of the change and those of the leases, which the owner gives at its own events.
        """
        if choice == ("act", "change"):
            return (("loaded", bool(path.loaded)),)
        if choice[0] == "deliver" and isinstance(path.messages[choice[1]].content, m.Delete | m.Set | m.Clear):
            return (("stamped", len(path.history.get(self.owners[0], ()))),)
        return ()

    # ---- running

    def _run(self, choices: tuple[Any, ...]) -> Path:
        path = self._start()
        for choice in choices:
            self.now += STEP_S
            path.now = self.now
            state = self._state(path, choice)
            if choice[0] == "lose":
                path.lost.append(choice[1])
                del path.messages[choice[1]]
                continue
            who = _who(path, choice)
            message = path.messages.pop(choice[1]) if choice[0] == "deliver" else None
            path.history.setdefault(who, []).append(choice[1])
            path.stamps = list(state[2])
            if message is None:
                getattr(self, f"_{choice[1]}")(path)
            elif who in self.cores:
                self._deliver(path, message)
            else:
                self._answer(path, who, message.content)
        return path

    def _deliver(self, path: Path, message: Message) -> None:
        core = self.cores[message.to]
        frame = encode_frame(message.clock, [message.content])
        if message.is_answer:
            address = next(address for address, name in self.names.items() if name == message.origin)
            core.receive_answer(address, frame, self.now)
        else:
            core.receive_request(message.origin.encode(), frame, self.now)
        self._settle(core)
        self._collect(path, core)

    def _settle(self, core: NodeCore) -> None:
        core.coordinator.pending.tick()
        while core._drops.jobs:
            core._drops.run()
        core.coordinator.pending.tick()

    def _collect(self, path: Path | None, core: NodeCore) -> None:
        """Put what a node sends on its way; without a path it is lost."""
        own = core.coordinator.own_id
        effects = core.drain()
        sent = [(self.names[address], False, frame) for address, frame in effects.sends]
        sent += [(origin.decode(), True, frame) for origin, frame in effects.replies]
        if path is None:
            return
        count = 0
        for to, is_answer, frame in sent:
            clock, contents = decode_frame(frame)
            for content in contents:
                if isinstance(content, m.Ping | m.Ack | m.Gossip):
                    continue
                name = (own, len(path.history.get(own, ())), count)
                path.messages[name] = Message(name, to, own, is_answer, clock, content)
                count += 1

    def _clean_up(self) -> None:
        """Let everything that is pending reach its deadline, and lose what that sends."""
        for _ in range(2):
            self.now += CALL_S * 0.6
            for core in self.cores.values():
                core.set_time(self.now)
                core.coordinator.pending.background["fills"].run()
                self._settle(core)
                self._collect(None, core)
        for core in self.cores.values():
            assert not core.coordinator.pending.running
            core.fills.table.clear()
            core.fills._ended.clear()
            breakers = core.coordinator.pending.breakers  # what was lost on one path must not bar the next
            breakers.by_node.clear()
            breakers.open.clear()
            core.coordinator.replica.floors = Floors(core.coordinator.replica.floors.grace_ms)
            core.coordinator.pending.background["hints"].hints.__init__()  # type: ignore[attr-defined]  # and forget the hints

    # ---- the actors

    def _send(self, path: Path, actor: str, to: str, make: Any) -> None:
        core = self.cores[to]
        deadline_ms = core.coordinator.instant.wall_ms + int((self.now - core.coordinator.instant.now + CALL_S) * 1000)
        name = (actor, len(path.history[actor]), 0)
        path.messages[name] = Message(name, to, actor, False, 0, make(len(path.history[actor]), core.boot, deadline_ms))

    def _update(self, path: Path, actor: str, change: list[Any]) -> None:
        self._send(
            path,
            actor,
            self.owners[0],
            lambda request, boot, deadline_ms: m.Update(request, boot, deadline_ms, b"", 0, 0, 0, [path.key], [change]),
        )

    def _ask(self, path: Path) -> None:
        path.asked = True
        self._update(path, "loader", [int(Change.LEASE), 0, b"", b"L" * VERSION_BYTES])

    def _load(self, path: Path) -> None:
        path.loaded = path.source
        self._update(path, "loader", [int(Change.FILL), path.loaded, 0, path.lease])

    def _late(self, path: Path) -> None:
        path.late_asked = True
        self._update(path, "late", [int(Change.LEASE), 400, b"", b"P" * VERSION_BYTES])

    def _change(self, path: Path) -> None:
        path.changed = True
        path.source = NEW
        key, change = path.key, self.case.change

        def make(request: int, boot: int, deadline_ms: int) -> m.Message:
            if change == "set":
                return m.Set(request, boot, deadline_ms, b"", 0, 0, [key], [NEW])
            if change == "clear":
                return m.Clear(request, boot, deadline_ms, b"", key)
            return m.Delete(request, boot, deadline_ms, b"", 0, int(EventKind.DELETE), [key])

        self._send(path, "changer", self.owners[self.case.changed_at], make)

    def _answer(self, path: Path, who: str, content: m.Message) -> None:
        result = content.results[0] if isinstance(content, m.Reply) and content.results else None
        good = isinstance(content, m.Reply) and not isinstance(result, list)
        if who == "changer":
            path.acknowledged = good
        elif who == "late":
            path.late_got = result
        elif good and type(result) is bytes and len(result) == VERSION_BYTES and not path.lease:
            path.lease = result

    # ---- what must hold

    def problem(self, path: Path) -> str:
        """Say what is wrong at the end of a path."""
        if not path.acknowledged:
            return ""
        if type(path.late_got) is bytes and path.late_got[22:] == OLD:
            return f"who asked after the {self.case.change} was given the old value"
        held = [self.cores[owner].store.peek(path.key) for owner in self.owners]
        now_bytes = self.cores[self.owners[0]].coordinator.instant.now_bytes
        for answers in combinations(held, self.case.cluster["read_quorum"]):
            newest = max(filter(None, answers), default=None)
            if newest is not None and is_live(newest, now_bytes) and newest[22:] == OLD:
                return f"after the {self.case.change} a read can find the old value"
        return ""


def _who(path: Path, choice: tuple[Any, ...]) -> str:
    """Return at which node or actor a choice happens."""
    if choice[0] == "deliver":
        return path.messages[choice[1]].to
    return {"ask": "loader", "load": "loader", "change": "changer", "late": "late"}[choice[1]]
