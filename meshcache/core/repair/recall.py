"""What a node found in its snapshot: held back until nobody can be ahead of it, and then taken in.

While a node was down the others may have written, deleted and cleared what it has in its snapshot. So what it found is
kept apart from its store: no read sees it, it counts for no quorum, and nobody pulls it. The node begins like any that
comes with nothing: it serves at once, pulls its slots from who holds them, and misses what they lack. What was found is
taken in only where the *whole mesh* has started anew, by these steps::

    WAITING --all who may be ahead are back, and nobody has gone on meanwhile--> GATHERING --all is here--> DONE
       |                                                                           |
       '--somebody has gone on without this node; or it takes too long: what was found is dropped--------> DONE

- A node that goes on in a mesh is DONE. Who finds such a node when it comes is late: the mesh has a life that this
  node has missed, it has pulled that, and it drops what it found, as a node without a snapshot would have none.
- Who may be ahead: the members that the snapshots name. Once all of them are here and WAITING, or after
  ``RETURN_WAIT_S``, a node commits itself to those that are here, the *participants*, and to nobody who comes later.
  Who finds itself among the participants of another one commits itself to the same, but not before it has met all of
  them that are not gone: nodes come to know each other one by one, and whom it has not met may be ahead of all. And
  nobody is the first to commit itself while one of those knows of other members than it does: each of the two might
  commit itself without the other's choice. Only where they differ for ``DIFFER_S``, being cut off from some, does one
  that knows of all, and after twice as long another.
- GATHERING: from each participant it takes all that this one found of the slots that this node owns now (RECALL,
  answered as PULL is), and then what was dropped by name. The greatest version of each key stays. So every owner comes
  to the same, by itself; and what it then takes in is the newest there is in all snapshots.
- What was written since the start overrules all of that, even if the clock of who wrote it was behind those of nodes
  that were not back yet. It may be gone again, or lie where nobody looks: evicted, expired, lost while the mesh was
  forming. So of every write that came to it a node keeps a *mark*, a version without a value, and when it
  commits itself it raises the marks above all that the participants have found. It does so with what was cleared and
  invalidated. Only then does it let others gather, and they gather the marks, too. What a mark overrules nobody takes
  in.
- What this node had evicted before it was stopped it takes from nobody: see the floors in store.py.

So what is taken in is stale only where W owners of a key have lost the last write of it at the same time: killed nodes
have, since their snapshots are older. So has the node that stopped last, if its disk is lost: there was no other owner
left for what it acknowledged alone, W was one, and no snapshot tells of it. Under the partition policy "available" this
may happen, as without snapshots. Under "strict" it must not: there, something is taken in only if all members of the
last ring come back in time, each with a snapshot that it took in good order, when it had stopped to serve; else all is
dropped.

A node that loads nothing, because it is new or its disk was lost, is WAITING all the same: it has no life either.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.drops import Drops
from meshcache.core.repair.saving import Saving
from meshcache.core.storage.choice import store_of
from meshcache.core.storage.pages import SLOTS_PER_PAGE
from meshcache.core.storage.snapshot import Saved, is_mark, mark
from meshcache.core.storage.store import Store
from meshcache.protocol import messages as m
from meshcache.protocol.facts import FACTS_MAX
from meshcache.protocol.record import version_of

WAITING: Final = "waiting"
GATHERING: Final = "gathering"
DONE: Final = "done"

RETURN_WAIT_S: Final = 60.0
"""How long a node waits for the members that it knew to come back."""
DIFFER_S: Final = 5.0
"""How long a node waits, when it could be the first to commit itself, for others to know of the same members: much
longer than nodes take to hear of each other."""
RECALL_S_MAX: Final = 120.0
"""When it drops what it has not taken in."""
ASK_INTERVAL_S: Final = 0.25
ANSWER_WAIT_S: Final = 1.0
ENTRIES_PER_TURN: Final = 1000
"""Taken in, or raised as marks, per turn: about three milliseconds."""
BREATH_S: Final = 0.001
"""From one such turn to the next."""
MARK_PARTS: Final = 4096
"""Into so many parts marks are divided: to grow, to raise or to forget one takes little of a turn."""
MARK_PARTS_PER_TURN: Final = 64
"""So many are forgotten at a time."""
DROPS_MAX: Final = 100_000
"""Names that are dropped while it waits."""
SLOTS_DROPPED_PER_TURN: Final = 4
KEPT_S: Final = 30.0
"""For so long after this node is through, others may still gather from it."""

PASSED: Final[dict[str, Any]] = {
    "state": DONE, "members": [], "participants": [], "complete": False, "clock": 0
}  # fmt: skip
"""What a node answers that takes no part in this."""


@dataclass(slots=True)
class _Source:
    """A participant to gather from, and what."""

    node_id: str
    slots: deque[int]
    cursor: bytes = b""
    floors_from: bytes = b""
    """Where to go on asking for what was dropped, once there are no more slots."""
    asked_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Status:
    """What a node says of its recall."""

    state: str
    members: list[str]
    participants: list[int]
    complete: bool
    clock: int
    met: list[int] | None = None
    """The boots of those that it knows to be here; None: it does not say, being of a former version."""

    @classmethod
    def of(cls, told: Any) -> _Status:
        """Take what a node answered; what makes no sense comes from one that takes no part."""
        if not isinstance(told, dict) or not told.keys() >= PASSED.keys():
            told = PASSED
        status = cls(**{name: told[name] for name in PASSED}, met=told.get("met"))
        bounded = all(len(names or ()) <= FACTS_MAX for names in (status.members, status.participants, status.met))
        return status if bounded and status.state in {WAITING, GATHERING, DONE} else cls(**PASSED)


@dataclass(slots=True)
class _Round:
    """One round of questions to all peers."""

    boots: dict[str, int]
    """Whom they went to."""
    ends_at: float
    answers: dict[str, _Status] = field(default_factory=dict)


class Recall:
    """What one node found when it started, and how far it is with that."""

    def __init__(
        self,
        coordinator: Coordinator,
        drops: Drops,
        saving: Saving,
        saved: Saved | None,
        joined: Callable[[], bool],
    ) -> None:
        self.state = WAITING
        self._coordinator = coordinator
        self._drops = drops
        self._saving = saving
        self._boot = coordinator.membership.own.boot
        self._joined = joined
        self._started = coordinator.instant.now
        self._head = None if saved is None else saved.head
        self._complete = saved is not None and saved.complete
        config = coordinator.config
        self._found = saved.store if saved is not None else self._empty_store()
        self._loaded = self._found.statistics().entries
        self._expired = 0 if saved is None else saved.expired
        self._damaged = 0 if saved is None else saved.damaged_blocks
        self._own_floors = list(self._found.floors)
        """What this node had evicted before it was stopped."""
        self._participants: dict[str, int] = {}
        self._round: _Round | None = None
        self._ask_at = self._started
        self._first_at: float | None = None
        """Since when it might be the first to commit itself."""
        self._sources: dict[str, _Source] = {}
        self._gathered_for = b""
        """The ring for which it gathers."""
        self._left: Iterator[int] | None = None
        """The slots that are yet to be taken in."""
        self._rest: list[bytes] = []
        """Keys of the slot at hand that are yet to be taken in."""
        self._slot = 0
        self._taken = 0
        self._slots_kept = config.cluster.slots
        """Those of which it has not let go yet, when it is through."""
        self._drop_at = 0.0
        self._step_at = 0.0
        """When it takes in some more."""
        self._marks: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)
        """Of what was stored here while it waits: by key the version, in parts by the hash of the key."""
        self._dropped: list[tuple[int, bytes]] = []
        """Kinds and names that were dropped meanwhile."""
        self._beyond = b""
        """A version beyond all that the participants have found."""
        self._grace_s = config.store.tombstone_grace_s
        if saved is not None:
            coordinator.clock.go_past(saved.clock)
            drops.learn(saved.floors)
        coordinator.replica.remember(self._remember)
        drops.remember(self._remember_drop)

    def _empty_store(self) -> Store:
        return store_of(self._coordinator.config, self._coordinator.store.charges)

    def _remember(self, keys: list[bytes], records: list[bytes]) -> None:
        """Keep marks of what is written here."""
        if self.state == WAITING:
            for key, record in zip(keys, records, strict=True):
                self._marks[crc32(key) % MARK_PARTS][key] = version_of(record)
        else:
            self._put_marks(keys, list(map(version_of, records)))

    def _put_marks(self, keys: list[bytes], versions: list[bytes]) -> None:
        """Have marks overrule what was found, here and at others."""
        wall_ms = self._coordinator.instant.wall_ms
        until_ms = wall_ms + int(self._grace_s * 1000)
        self._found.merge(keys, [mark(max(version, self._beyond), until_ms) for version in versions], wall_ms)

    def _remember_drop(self, kind: int, names: list[bytes]) -> None:
        """Somebody cleared or invalidated these names."""
        self._dropped += [(kind, name) for name in names]
        if self.state == GATHERING:
            self._raise_drops()

    def _raise_drops(self) -> None:
        dropped, self._dropped = self._dropped, []
        self._drops.learn([m.Floor(kind, name, self._beyond) for kind, name in dict.fromkeys(dropped)])

    def save(self) -> dict[str, Any]:
        """Have a snapshot taken as soon as it can be; return the counts up to now."""
        self._saving.ask()
        return self.statistics()

    # -- what others ask -----------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Say how far this node is, who may be ahead of what it found, and what it has forgotten since it started."""
        return {
            "state": self.state,
            "members": [] if self._head is None else list(self._head.members),
            "participants": self._participants_here(),
            "complete": self._complete,
            "clock": 0 if self._head is None else self._head.clock,
            "met": sorted(self._met()),
        }

    def _met(self) -> set[int]:
        """Return the boots of this node and of those that it knows to be here."""
        return {self._boot, *[fact.boot for fact in self._coordinator.membership.peers()]}

    def _participants_here(self) -> list[int]:
        """Return the boots of the participants that are not gone: nobody need wait to meet the others."""
        present = self._met()
        return [boot for boot in self._participants.values() if boot in present]

    @property
    def found(self) -> Store | None:
        """What there is for others to gather; None while it may still be changed by what is written."""
        return self._found if self._participants and not (self.state == GATHERING and self._marks) else None

    @property
    def held_bytes(self) -> int:
        """Return what is held back; a part of it may be in the store, too."""
        return self._found.statistics().bytes

    def statistics(self) -> dict[str, Any]:
        """Return what was found and what became of it, and how the snapshots went."""
        return {
            "recall": self.state,
            "loaded": self._loaded,
            "taken_in": self._taken,
            "expired": self._expired,
            "damaged_blocks": self._damaged,
            **self._saving.statistics(),
        }

    # -- going on ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Go on. Called by housekeeping."""
        now = self._coordinator.instant.now
        if self.state == DONE:
            self._forget_some_marks()
            if self._slots_kept and now >= self._drop_at:
                self._drop_some()
            return
        if now - self._started >= RECALL_S_MAX or self._is_too_old():
            self._end("it took too long")
        elif self._is_too_much():
            self._end("more has been written since than there is room for")
        elif self.state == WAITING:
            self._ask_all()
        elif self._marks:
            self._raise_some_marks()
        elif self._gathered_for != self._coordinator.view.digest:
            self._gather()
        elif self._sources:
            for source in list(self._sources.values()):
                if source.asked_at is None or now - source.asked_at > ANSWER_WAIT_S:
                    self._ask(source)
        else:
            self._take_in()

    def _is_too_much(self) -> bool:
        marks = sum(map(len, self._marks.values()))
        return marks > self._coordinator.store.max_entries or len(self._dropped) > DROPS_MAX

    def _is_too_old(self) -> bool:
        if self._head is None:
            return False
        return (self._coordinator.instant.wall_ms - self._head.wall_ms) / 1000 >= self._grace_s

    def _end(self, reason: str) -> None:
        """Go on as a node that has found nothing, or that has taken it in."""
        self._coordinator.outbox.note(
            "recalled", reason=reason, found=self._loaded, taken_in=self._taken, expired=self._expired
        )
        self.state = DONE
        self._coordinator.replica.remember(None)
        self._drops.remember(None)
        self._dropped = []
        self._drop_at = self._coordinator.instant.now + (KEPT_S if self._participants else 0.0)
        self._sources, self._round, self._left = {}, None, None
        self._saving.forget_former()

    def _forget_some_marks(self) -> None:
        """Forget some of the marks that are of no use any more: to forget a million would be felt."""
        for _ in range(min(MARK_PARTS_PER_TURN, len(self._marks))):
            self._marks.popitem()

    def _drop_some(self) -> None:
        """Let go of what was found, a few slots a turn: all at once would be felt."""
        for _ in range(min(SLOTS_DROPPED_PER_TURN, self._slots_kept)):
            self._slots_kept -= 1
            self._found.drop_slot(self._slots_kept)
        if not self._slots_kept:
            self._found = self._empty_store()

    # -- waiting -------------------------------------------------------------------------------------------

    def _ask_all(self) -> None:
        """Ask all peers how far they are, when this node has all that they hold; and judge by the answers."""
        coordinator = self._coordinator
        now, view = coordinator.instant.now, coordinator.view
        if self._round is not None and now < self._round.ends_at:
            return
        if now < self._ask_at or not self._joined() or any(map(_is_missing, view.owned, view.held)):
            return
        self._ask_at = now + ASK_INTERVAL_S
        peers = {fact.node_id: fact.boot for fact in coordinator.membership.peers()}
        self._round = _Round(peers, now + ANSWER_WAIT_S)
        for node_id in peers:
            coordinator.pending.ask(
                self,
                self._round,
                node_id,
                now + ANSWER_WAIT_S,
                lambda request, boot, deadline_ms, digest: m.Inspect(request, boot, deadline_ms, digest, "recall", b""),
            )
        self._judge(self._round)

    def _judge(self, asked: _Round) -> None:
        """Decide, if all have answered."""
        if self._round is not asked or len(asked.answers) < len(asked.boots):
            return
        self._round = None
        peers = {fact.node_id: fact.boot for fact in self._coordinator.membership.peers()}
        if peers != asked.boots:
            return
        committed = [status for status in asked.answers.values() if status.state != WAITING]
        ours = [status for status in committed if self._boot in status.participants]
        if committed and not ours:
            self._end("others have gone on without this node")
            return
        if ours:  # whoever came too late for them, and went on, is none of those
            participants = {boot for status in ours for boot in status.participants}
            if not self._has_met(participants):
                return
            peers = {node_id: boot for node_id, boot in peers.items() if boot in participants}
        own = _Status(**self.status())
        statuses = {self._coordinator.own_id: own} | {node_id: asked.answers[node_id] for node_id in peers}
        wanted = {node_id for status in statuses.values() for node_id in status.members}
        is_late = self._coordinator.instant.now - self._started >= RETURN_WAIT_S
        if ours or ((is_late or (wanted and wanted <= statuses.keys())) and self._may_be_first(statuses)):
            self._commit(peers, statuses)

    def _may_be_first(self, statuses: dict[str, _Status]) -> bool:
        """Tell whether all know of the same members; or whether they have differed for long."""
        now, met = self._coordinator.instant.now, self._met()
        if self._first_at is None:
            self._first_at = now
        theirs = [set(status.met) for status in statuses.values() if status.met is not None]
        if all(known == met for known in theirs):
            return True
        knows_all = all(known <= met for known in theirs)
        return now - self._first_at >= (DIFFER_S if knows_all else 2 * DIFFER_S)

    def _has_met(self, participants: set[int]) -> bool:
        """Tell whether all of these processes are members by this node's own table, too."""
        return participants <= self._met()

    def _commit(self, peers: dict[str, int], statuses: dict[str, _Status]) -> None:
        coordinator = self._coordinator
        if coordinator.config.cluster.partition_policy == "strict":
            last = max(statuses.values(), key=lambda status: status.clock).members
            if not all(node_id in statuses and statuses[node_id].complete for node_id in last):
                self._end("the last of what was written may be lost, which the strict policy forbids")
                return
            if coordinator.own_id not in last:
                self._found = self._empty_store()
            peers = {node_id: boot for node_id, boot in peers.items() if node_id in last}
        self._participants = {**peers, coordinator.own_id: self._boot}
        self._beyond = (max(status.clock for status in statuses.values()) + 1).to_bytes(8, "big") + bytes(8)
        self.state = GATHERING
        self._raise_drops()
        coordinator.outbox.note("recalling", found=self._loaded, participants=sorted(self._participants))
        self._raise_some_marks()

    def _raise_some_marks(self) -> None:
        """Raise some marks above all that the participants have found. When all are, begin to gather."""
        now, budget = self._coordinator.instant.now, ENTRIES_PER_TURN
        if now < self._step_at:  # as in _take_in
            return
        while self._marks and budget > 0:
            _, part = self._marks.popitem()
            self._put_marks(list(part), list(part.values()))
            budget -= len(part)
        if not self._marks:
            self._gather()
            return
        self._step_at = now + BREATH_S
        self._coordinator.pending.wake(self, self._step_at)

    # -- gathering -----------------------------------------------------------------------------------------

    def _gather(self) -> None:
        """Begin, or begin anew for another ring, to gather from all participants that are here."""
        coordinator = self._coordinator
        self._gathered_for = coordinator.view.digest
        self._left, self._rest = None, []
        owned = [slot for slot, owns in enumerate(coordinator.view.owned) if owns]
        present = {fact.node_id: fact.boot for fact in coordinator.membership.peers()}
        self._sources = {
            node_id: _Source(node_id, deque(owned))
            for node_id, boot in self._participants.items()
            if owned and present.get(node_id) == boot
        }
        for source in self._sources.values():
            self._ask(source)

    def _ask(self, source: _Source) -> None:
        coordinator = self._coordinator
        if not any(fact.node_id == source.node_id for fact in coordinator.membership.peers()):
            self._sources.pop(source.node_id, None)  # it is gone, with what it had
            return
        begin, slots, cursor = source.floors_from, list(source.slots)[:SLOTS_PER_PAGE], source.cursor
        asked = coordinator.pending.ask(
            self,
            (source, slots, cursor),
            source.node_id,
            coordinator.instant.now + ANSWER_WAIT_S,
            lambda request, boot, deadline_ms, view: (
                m.Recall(request, boot, deadline_ms, view, slots, cursor)
                if slots
                else m.Floors(request, boot, deadline_ms, view, begin)
            ),
        )
        source.asked_at = coordinator.instant.now if asked else None

    def on_answer(self, group: Any, node_id: str, answer: m.Reply | m.FloorsReply | m.PullReply) -> None:
        """A peer says how far it is, what was dropped, or what it found."""
        if isinstance(group, _Round):
            if isinstance(answer, m.Reply):
                group.answers[node_id] = _Status.of((answer.results or [None])[0])
                self._judge(group)
            return
        source: _Source
        source, slots, cursor = group
        if not self._waits_for(source) or source.asked_at is None:
            return
        source.asked_at = None
        if isinstance(answer, m.FloorsReply):
            self._drops.learn(answer.floors)
            source.floors_from = answer.cursor
            if not answer.floors:
                del self._sources[node_id]
                return
        elif isinstance(answer, m.PullReply) and list(source.slots)[: len(slots)] == slots and source.cursor == cursor:
            self._take_page(source, slots, answer)
        self._ask(source)

    def _waits_for(self, source: _Source) -> bool:
        """Tell whether a source is not of a gathering that was given up."""
        return self._sources.get(source.node_id) is source

    def _take_page(self, source: _Source, slots: list[int], page: m.PullReply) -> None:
        """Keep the newest, but nothing as old as what this node had evicted."""
        keys, records = self._found.above_floor(page.keys, page.records)
        self._found.merge(keys, records, self._coordinator.instant.wall_ms)
        finished = max(0, min(page.finished, len(slots)))
        for _ in range(finished):
            source.slots.popleft()
        source.cursor = page.cursor if finished < len(slots) else b""

    def on_lost(self, group: Any, node_id: str) -> None:  # noqa: ARG002  (its source says)
        """Ask again; who is gone for good is a source no more."""
        if not isinstance(group, _Round):
            group[0].asked_at = None

    def on_reject(self, group: Any, node_id: str) -> None:
        """A node that knows nothing of this goes on without it."""
        if isinstance(group, _Round):
            group.answers[node_id] = _Status.of(PASSED)
            self._judge(group)
        else:
            self.on_lost(group, node_id)

    # -- taking in -----------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        """Put some of what was gathered into the store, under all that holds for what a repair brings."""
        coordinator = self._coordinator
        if coordinator.instant.now < self._step_at:  # housekeeping comes by between two steps
            return
        if self._left is None:
            self._left = iter([slot for slot, owns in enumerate(coordinator.view.owned) if owns])
        budget = ENTRIES_PER_TURN
        while budget > 0:
            if not self._rest:
                following = next(self._left, None)
                if following is None:
                    self._end("the mesh has started anew")
                    return
                self._slot = following
                self._rest = self._found.keys_of_slot(following)
            if not coordinator.view.held[self._slot]:
                return  # it is being pulled; or the ring changes, and all is gathered anew
            keys, self._rest = self._rest[-budget:], self._rest[:-budget]
            budget -= len(keys) + 1
            self._take_in_keys(keys)
            if not self._rest:
                floors = coordinator.store.floors
                floors[self._slot] = max(floors[self._slot], self._own_floors[self._slot])
        self._step_at = coordinator.instant.now + BREATH_S
        coordinator.pending.wake(self, self._step_at)

    def _take_in_keys(self, keys: list[bytes]) -> None:
        coordinator, view = self._coordinator, self._coordinator.view
        pairs = [(key, record) for key in keys if (record := self._found.peek(key)) is not None]
        pairs = [(key, record) for key, record in pairs if not is_mark(record) and view.counts(key, record)]
        kept, records = coordinator.store.above_floor([key for key, _ in pairs], [record for _, record in pairs])
        coordinator.replica.merge(kept, records)
        self._taken += len(kept)

    def on_timer(self) -> None:
        """Raise or take in some more, in the next turn."""
        if self.state == GATHERING and (self._marks or (not self._sources and self._left is not None)):
            self.run()

    def replan(self) -> None:
        """Nothing: housekeeping calls ``run``."""


def _is_missing(owned: int, held: int) -> bool:
    return owned > held
