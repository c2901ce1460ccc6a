"""Quorum reads: a batch of keys is read from R of their owners, first from this node if it is one of them.

Where W + R > N only owners that *hold* the key vote: a cache forgets, and with eviction and restarts the textbook
quorum returns old values. If fewer than R of all owners hold the key, it is a miss. Where W + R <= N any R answers are
enough. The greatest version wins, tombstones included, and is written back to the owners that answered with an older
one or none. An owner that does not answer within HEDGE_S is not waited for if another owner can be asked.

During a ring change each owner set, the current one and each former one, must have R holders among the nodes that
answered, or must have answered completely. For nodes that do not know of the change yet write to the former owners
only, and nodes that never knew the former ring write to the current ones only: R owners of the two sets taken together
may have seen neither write.

Sources: Dynamo (DeCandia et al. 2007) for R, W and read repair; Dean & Barroso 2013 for the hedge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from meshcache.core.membership.members import State
from meshcache.core.operations import quorum
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.view import Owners
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Code
from meshcache.protocol.record import is_live

HEDGE_S: Final = 0.05
"""How long a read waits for an answer before it asks further owners."""


class ReadGroup:
    """Keys with the same owners that are not resolved yet, and what the nodes answered."""

    __slots__ = ("answers", "asked", "former", "indices", "keys", "needed", "owners", "strict", "voteless")

    def __init__(self, owners: Owners, former: tuple[Owners, ...], keys: list[bytes], indices: list[int]) -> None:
        self.owners = owners
        self.former = former
        self.keys = keys
        self.indices = indices
        """The positions of these keys in the batch."""
        self.needed = 0
        self.strict = False
        """Whether W + R > N, so that only owners that hold a key vote."""
        self.answers: dict[str, dict[bytes, bytes | None]] = {}
        """By node and key: the record held, or None. A key that is missing here was not answered."""
        self.voteless: dict[str, dict[bytes, None]] = {}
        """By node, the keys of which its answer proves nothing, because the node is still pulling their slots."""
        self.asked: dict[str, None] = {}

    def sets(self) -> list[Owners]:
        """Return the owner sets; each of them must give enough answers."""
        return [self.owners, *self.former]

    def targets(self) -> list[str]:
        """Return all nodes that may hold the keys, the current owners first."""
        return list(dict.fromkeys([*self.owners, *[node_id for owners in self.former for node_id in owners]]))

    def to_ask(self) -> list[str]:
        """Return the targets that have not been asked for all the keys yet."""
        return [node_id for node_id in self.targets() if node_id not in self.asked and self.unanswered(node_id)]

    def unanswered(self, node_id: str) -> list[bytes]:
        """Return the keys of which this node has not said yet what it holds."""
        answered = self.answers.get(node_id)
        return self.keys if answered is None else [key for key in self.keys if key not in answered]


class QuorumRead:
    """Read a batch of keys from R of their owners.

    ``done(results)`` is called once; per key the winning record (tombstones included), None, or [Code.QUORUM, needed,
    received]. ``ended`` is called once, before ``done`` and also if the read fails, with the bytes that other nodes
    answered.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        keys: list[bytes],
        read_level: int,
        write_level: int,
        deadline: float,
        done: Callable[[list[Any]], None],
        ended: Callable[[int], None] | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.deadline = deadline
        self.read_level = read_level
        self.write_level = write_level
        self.done = done
        self.results: list[Any] = [None] * len(keys)
        self.groups: list[ReadGroup] = []
        self._keys = keys
        self._held_bytes = 0
        """The bytes that other nodes answered so far."""
        self._ended = ended

    def start(self) -> None:
        """Read from this node's store, and ask other nodes where that is not enough."""
        for (owners, former), indices in self.coordinator.view.group_by_owners(self._keys).items():
            self._start_group(ReadGroup(owners, former, [self._keys[i] for i in indices], indices))
        if not self.groups:
            self.release()
            self.done(self.results)
            return
        self.coordinator.pending.begin(self, self.deadline, self.release)
        self.coordinator.pending.wake(self, min(self.deadline, self.coordinator.instant.now + HEDGE_S))

    def _start_group(self, group: ReadGroup) -> None:
        coordinator, cluster = self.coordinator, self.coordinator.config.cluster
        owners = len(group.owners)
        group.needed = quorum.level(self.read_level, cluster.read_quorum, owners)
        needed_to_write = quorum.level(self.write_level, cluster.write_quorum, owners)
        group.strict = quorum.holders_only(group.needed, needed_to_write, owners)
        if group.needed > owners:
            self._fail(group)
            return
        if coordinator.own_id in group.targets():
            records = coordinator.store.read(group.keys, coordinator.instant.now_bytes)
            group.answers[coordinator.own_id] = dict(zip(group.keys, records, strict=True))
            view = coordinator.view
            if not view.holds_all:
                voteless = [key for key in group.keys if not view.held[view.ring.slot_of(key)]]
                group.voteless[coordinator.own_id] = dict.fromkeys(voteless)
        self._advance(group)

    def _advance(self, group: ReadGroup) -> None:
        """Resolve the keys of which enough is known; ask further nodes for the others."""
        self._resolve(group)
        if not group.keys:
            if group in self.groups:
                self.groups.remove(group)
            return
        if group not in self.groups:
            self.groups.append(group)
        candidates = self._by_promise(group)
        known = group.answers.keys() | group.asked.keys()
        for owners in group.sets():
            missing = min(group.needed, len(owners)) - len(known.intersection(owners))
            for node_id in candidates:
                if missing <= 0:
                    break
                if node_id in owners and node_id not in known and self._ask(group, node_id):
                    known.add(node_id)
                    missing -= 1
        if not group.asked:  # R nodes answered, but too few of them hold the keys: ask all the others
            for node_id in self._by_promise(group):
                self._ask(group, node_id)
        if not group.asked and self.coordinator.pending.are_barred(group.to_ask()):
            self.groups.remove(group)
            self._fail(group)

    def _ask(self, group: ReadGroup, node_id: str) -> bool:
        keys = group.unanswered(node_id)
        asked = self.coordinator.pending.ask_for_caller(
            self,
            (group, keys),
            node_id,
            self.deadline,
            lambda request, boot, deadline_ms, view: m.Read(request, boot, deadline_ms, view, keys),
        )
        if asked:
            group.asked[node_id] = None
        return asked

    def _by_promise(self, group: ReadGroup) -> list[str]:
        state_of = self.coordinator.membership.state_of
        return sorted(group.to_ask(), key=lambda node_id: state_of(node_id) != State.ALIVE)

    def _resolve(self, group: ReadGroup) -> None:
        """Note the results that are certain, repair their owners, and leave the other keys in the group."""
        if len(group.answers) < group.needed:
            return
        resolved, open_keys, open_indices = [], [], []
        sole = self._sole_answer(group)
        for key, index in zip(group.keys, group.indices, strict=True):
            record = sole.get(key)
            if record is not None:
                self.results[index] = record
                continue
            certain, winner = self._judge(group, key)
            if certain:
                self.results[index] = winner
                if winner is not None and len(group.answers) > 1:
                    resolved.append((key, winner))
            else:
                open_keys.append(key)
                open_indices.append(index)
        group.keys, group.indices = open_keys, open_indices
        if resolved:
            self._repair(group, resolved)

    def _sole_answer(self, group: ReadGroup) -> dict[bytes, bytes | None]:
        """Return the records that need no judgement, in the usual case: one owner is enough, and one has answered.

        To judge each key takes three times as long as all else that a large read does here.
        """
        if len(group.answers) != 1 or group.needed != 1 or group.former or self.coordinator.view.void:
            return {}
        ((node_id, records),) = group.answers.items()
        return records if node_id in group.owners and not group.voteless.get(node_id) else {}

    def _judge(self, group: ReadGroup, key: bytes) -> tuple[bool, bytes | None]:
        """Tell whether enough is known of a key, and if so return the winning record or None."""
        certain, reached_anywhere, voteless_anywhere = True, False, False
        void = self.coordinator.view.void
        winner: bytes | None = None
        for owners in group.sets():
            answered = voters = holders = 0
            for node_id in owners:
                records = group.answers.get(node_id)
                if records is None or key not in records:
                    continue
                record = records[key]
                if void and not self.coordinator.view.counts(key, record):
                    record = None
                answered += 1
                if record is not None and (winner is None or record > winner):
                    winner = record
                if key in group.voteless.get(node_id, ()):
                    voteless_anywhere = True
                else:
                    voters += 1
                    holders += record is not None
            reached = (holders if group.strict else voters) >= min(group.needed, len(owners))
            reached_anywhere = reached_anywhere or reached
            certain = certain and (reached or answered >= len(owners))
        # Everybody answered, and too few hold the key: by the strict rule a miss. But while slots move, the newest
        # record of all owners is certainly the newest.
        enough = reached_anywhere or voteless_anywhere or not group.strict
        return certain, winner if enough else None

    def _repair(self, group: ReadGroup, resolved: list[tuple[bytes, bytes]]) -> None:
        """Write the winning records back to the owners that answered with an older one or none."""
        coordinator = self.coordinator
        for node_id, answered in group.answers.items():
            if node_id not in group.owners:
                continue
            keys, winners = [], []
            for key, winner in resolved:
                held = answered.get(key, winner)
                if held == winner:
                    continue
                if not held and not is_live(winner, coordinator.instant.now_bytes):
                    continue
                # May be asked for, but only a node that does not keep the rules can hold it.
                if not 1 <= len(key) <= m.KEY_BYTES_MAX:
                    continue
                keys.append(key)
                winners.append(winner)
            if not keys:
                continue
            coordinator.pending.note_repairs(len(keys))
            if node_id == coordinator.own_id:
                coordinator.replica.merge_repair(keys, winners)
            else:
                coordinator.pending.send_repair(node_id, keys, winners)

    def on_answer(self, group: tuple[ReadGroup, list[bytes]], node_id: str, answer: m.ReadReply) -> None:
        """Take in what a replica holds; to bound the size of its answer it may name only the first of the keys."""
        read_group, keys = group
        if read_group not in self.groups:
            return
        if not answer.records:
            self.on_reject(group, node_id)
            return
        read_group.asked.pop(node_id, None)
        size = sum(map(len, filter(None, answer.records)))
        self._held_bytes += size
        self.coordinator.pending.note_read(size)
        read_group.answers.setdefault(node_id, {}).update(zip(keys, answer.records, strict=False))
        if answer.voteless:
            told = [keys[i] for i in answer.voteless if 0 <= i < len(keys)]
            read_group.voteless.setdefault(node_id, {}).update(dict.fromkeys(told))
        if len(answer.records) < len(keys):
            self._ask(read_group, node_id)
        self._advance(read_group)
        self._settle()

    def on_lost(self, group: tuple[ReadGroup, list[bytes]], node_id: str) -> None:
        """Ask another node instead."""
        if group[0] in self.groups:
            group[0].asked.pop(node_id, None)
            self._advance(group[0])
            self._settle()

    def on_reject(self, group: tuple[ReadGroup, list[bytes]], node_id: str) -> None:
        """Count the answer of a replica that refuses as proof of nothing, so that it is not asked again for ever."""
        read_group, keys = group
        if read_group in self.groups:
            read_group.asked.pop(node_id, None)
            read_group.answers.setdefault(node_id, {}).update(dict.fromkeys(keys))
            read_group.voteless.setdefault(node_id, {}).update(dict.fromkeys(keys))
            self._advance(read_group)
            self._settle()

    def replan(self) -> None:
        """Ask the nodes that own the keys now.

        What was answered under other owners counts no more. A former owner that becomes an owner again drops what it
        held, so its old answer must be dropped here, too.
        """
        open_groups, self.groups = self.groups, []
        for old in open_groups:
            for (owners, former), places in self.coordinator.view.group_by_owners(old.keys).items():
                group = ReadGroup(owners, former, [old.keys[i] for i in places], [old.indices[i] for i in places])
                if (owners, former) == (old.owners, old.former):
                    group.answers = {node_id: dict(answered) for node_id, answered in old.answers.items()}
                self._start_group(group)
        self._settle()

    def on_timer(self) -> None:
        """Ask further owners after HEDGE_S, or end the read at its deadline."""
        if self.coordinator.instant.now < self.deadline:
            for group in self.groups:
                for node_id in self._by_promise(group):
                    self._ask(group, node_id)
            return
        for group in self.groups:
            self._fail(group)
        self.groups = []
        self._settle()

    def _fail(self, group: ReadGroup) -> None:
        received = min(len(group.answers), group.needed - 1)
        for index in group.indices:
            self.results[index] = [int(Code.QUORUM), group.needed, received]

    def _settle(self) -> None:
        if not self.groups and self in self.coordinator.pending.running:
            self.coordinator.pending.end(self)
            self.done(self.results)

    def release(self) -> None:
        """Free what this read keeps, whether it was answered or has failed; calling this again does no harm."""
        held_bytes, self._held_bytes = self._held_bytes, 0
        self.coordinator.pending.note_read(-held_bytes)
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(held_bytes)
