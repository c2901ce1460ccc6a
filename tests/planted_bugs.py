"""Bugs to plant into the core, each of which a checker of the simulation must find.

A checker that cannot fail checks nothing. Each bug here breaks one rule that a module's docstring states, as a careless
change could.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple
from zlib import crc32

import pytest

from meshcache.core import claims
from meshcache.core.membership import members, membership
from meshcache.core.node import NodeCore
from meshcache.core.operations import drops, fill_leases, reads, replica_requests, requests, updates, usual, writes
from meshcache.core.peers import Peers
from meshcache.core.repair import antientropy, hints, movement, recall, saving
from meshcache.core.storage import choice, snapshot, store
from meshcache.core.view import View
from meshcache.protocol import facts
from meshcache.protocol import messages as m
from meshcache.protocol.clock import HybridClock, LocalClock, wall_ms_of
from meshcache.protocol.record import HEADER_BYTES, is_tombstone
from meshcache.simulation.network import Weather
from meshcache.simulation.workload import Mix

Plant = Callable[[pytest.MonkeyPatch], None]


def ack_without_storing(patch: pytest.MonkeyPatch) -> None:
    """A replica acknowledges records that it has not stored."""

    def on_write(self: Any, origin: bytes, write: m.Write) -> None:
        if self._admit(origin, write, from_client=False) and write.request:
            self._outbox.reply(origin, m.WriteReply(write.request, self._view.digest, [], []))

    patch.setattr(usual, "compiled", None)  # what is served natively does not pass here
    patch.setattr(replica_requests.ReplicaRequests, "_on_write", on_write)


def done_at_one_copy_less(patch: pytest.MonkeyPatch) -> None:
    """A write is done at W - 1 copies."""
    start_group = writes.QuorumWrite._ask_missing

    def ask_missing(self: Any, group: Any) -> None:
        group.needed = max(1, group.needed - 1)
        start_group(self, group)

    patch.setattr(usual, "compiled", None)  # what is served natively does not pass here
    patch.setattr(writes.QuorumWrite, "_ask_missing", ask_missing)


def oldest_wins(patch: pytest.MonkeyPatch) -> None:
    """Among the versions that replicas hold the oldest is taken, and written back."""
    judge = reads.QuorumRead._judge

    def oldest(self: Any, group: Any, key: bytes) -> tuple[bool, bytes | None]:
        certain, winner = judge(self, group, key)
        held = [answers[key] for answers in group.answers.values() if answers.get(key) is not None]
        return certain, min(held) if winner is not None else None

    patch.setattr(reads.QuorumRead, "_judge", oldest)


def plant_in_store(patch: pytest.MonkeyPatch, name: str, planted: Any) -> None:
    """Patch a method of the store in Python, which the nodes then have: its native twin cannot be patched."""
    patch.setattr(choice, "compiled", None)
    patch.setattr(store.Store, name, planted)


def drop_key(held: store.Store, key: bytes) -> None:
    """Make a store forget one key, whatever it holds of it."""
    held._replay()
    index = held._tables[crc32(key) & held._mask].get(key)
    if index is not None:
        held._remove(index)


def older_overwrites(patch: pytest.MonkeyPatch) -> None:
    """A store takes the record that arrives last, whatever its version."""
    merge = store.Store.merge

    def overwrite(self: Any, keys: list[bytes], records: list[bytes], now_ms: int) -> Any:
        for key in keys:
            drop_key(self, key)
        return merge(self, keys, records, now_ms)

    plant_in_store(patch, "merge", overwrite)


def wall_clock_stamps(patch: pytest.MonkeyPatch) -> None:
    """Versions are the wall time, and no clock follows another node's."""

    def tick(self: Any, wall_ms: int) -> bytes:
        self.latest = max(self.latest % 65536 + 1, 1) % 65536 | wall_ms << 16
        return bytes(self.latest.to_bytes(8, "big") + self._suffix)

    patch.setattr(usual, "compiled", None)  # what is served natively does not pass here
    patch.setattr(HybridClock, "tick", tick)
    patch.setattr(HybridClock, "merge", lambda self, clock, wall_ms: True)


def superseded_is_done(patch: pytest.MonkeyPatch) -> None:
    """A write that a replica refused as older counts as stored."""
    patch.setattr(writes.QuorumWrite, "_restamp", lambda self, group, newer: None)


def former_owners_forgotten(patch: pytest.MonkeyPatch) -> None:
    """During a ring change only the current owners are written to and read from."""
    patch.setattr(View, "former_owners", lambda self, slot: ())


def owner_sets_mixed(patch: pytest.MonkeyPatch) -> None:
    """During a ring change R holders of the current and the former owners together are enough."""
    patch.setattr(reads.ReadGroup, "sets", lambda self: [tuple(self.targets())])


def slots_gained_with_leftovers(patch: pytest.MonkeyPatch) -> None:
    """A node that becomes an owner votes with records that are left over from an earlier time."""
    patch.setattr(View, "gained", lambda self, ring: [])


def slots_outlive_their_owners(patch: pytest.MonkeyPatch) -> None:
    """The remaining owners of a slot count, although all that acknowledged the last write may be gone."""
    patch.setattr(View, "lose", lambda self, node_ids, write_quorum, read_quorum: [])


def minority_removes(patch: pytest.MonkeyPatch) -> None:
    """Under the strict policy, too, a node that misses members for long enough declares them dead."""
    age = membership.Membership._age

    def age_all(self: Any, now: float) -> None:
        with pytest.MonkeyPatch.context() as for_now:
            for_now.setattr(self, "majority", None)
            age(self, now)

    patch.setattr(membership.Membership, "_age", age_all)


def no_refutation(patch: pytest.MonkeyPatch) -> None:
    """A node does not contradict what is said of it."""
    patch.setattr(membership.Membership, "_refute", lambda self, said, now: False)


def no_gossip(patch: pytest.MonkeyPatch) -> None:
    """Rumours are not passed on, and tables are not compared."""
    patch.setattr(membership.Membership, "_spread", lambda self, news: None)
    patch.setattr(membership.Membership, "on_ack", lambda self, node_id, address, ack, now: self.heard(node_id))


def nothing_moves(patch: pytest.MonkeyPatch) -> None:
    """A node that gains slots is given no records of them, and owners do not repair later what another one lacks."""
    patch.setattr(replica_requests, "page_of", lambda held, slots, cursor, left_over: (len(slots), b"", [], []))
    patch.setattr(antientropy.AntiEntropy, "run", lambda self: None)


def updates_anywhere(patch: pytest.MonkeyPatch) -> None:
    """Any node that is asked for an atomic update runs it."""

    def distribute(self: Any) -> None:
        indices, self._unsent = self._unsent, []
        for index in indices:
            updates.KeyUpdate(self, index).start()

    patch.setattr(updates.UpdateBatch, "_distribute", distribute)


def updates_unlocked(patch: pytest.MonkeyPatch) -> None:
    """Two updates of a key read at the same time, and neither looks again before it writes."""
    start = updates.KeyUpdate.start

    def unlocked(self: Any) -> None:
        self.batch.updates.locked.pop(self.key, None)
        start(self)

    patch.setattr(updates.KeyUpdate, "start", unlocked)
    plant_in_store(patch, "peek", lambda self, key: None)


def answers_mixed_up(patch: pytest.MonkeyPatch) -> None:
    """The answers of a batch are in another order than its keys."""
    reply = requests.Requests._reply_records
    patch.setattr(usual, "compiled", None)  # what is served natively does not pass here
    patch.setattr(
        requests.Requests,
        "_reply_records",
        lambda self, origin, get, found, *how: reply(self, origin, get, found[::-1], *how),
    )


def expiry_ignored(patch: pytest.MonkeyPatch) -> None:
    """Expired records are still served."""
    read = store.Store.read
    plant_in_store(patch, "read", lambda self, keys, now_bytes: read(self, keys, bytes(6)))
    plant_in_store(patch, "expire", lambda self, now_ms, budget: False)


def limits_ignored(patch: pytest.MonkeyPatch) -> None:
    """A full store takes more records."""
    plant_in_store(patch, "_make_room", lambda self, *_: None)


def deadline_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A write that never reaches its quorum waits for ever."""
    patch.setattr(writes.QuorumWrite, "on_timer", lambda self: None)


def deletes_leave_nothing(patch: pytest.MonkeyPatch) -> None:
    """A replica forgets a key on delete, instead of keeping the tombstone."""
    merge = store.Store.merge

    def forget(self: Any, keys: list[bytes], records: list[bytes], now_ms: int) -> Any:
        outcome = merge(self, keys, records, now_ms)
        for key, record in zip(keys, records, strict=True):
            if len(record) == HEADER_BYTES and is_tombstone(record):
                drop_key(self, key)
        return outcome

    plant_in_store(patch, "merge", forget)


def touch_counts_as_a_write(patch: pytest.MonkeyPatch) -> None:
    """A touched record gets a new version, as if its content were new."""
    patch.setattr(HybridClock, "revise", lambda self, version: self.tick(wall_ms_of(version)))


def cas_compares_nothing(patch: pytest.MonkeyPatch) -> None:
    """A compare-and-set replaces whatever is there."""
    compute = updates.compute

    def careless(change: list[Any], record: bytes | None, coordinator: Any) -> Any:
        if change[0] == m.Change.CAS and record is not None:
            change = [*change[:3], record[:16]]
        return compute(change, record, coordinator)

    patch.setattr(updates, "compute", careless)


def add_and_replace_look_at_nothing(patch: pytest.MonkeyPatch) -> None:
    """Add and replace store the value whether the key exists or not."""
    compute = updates.compute

    def careless(change: list[Any], record: bytes | None, coordinator: Any) -> Any:
        if change[0] in {m.Change.ADD, m.Change.REPLACE}:
            return True, change[1], coordinator.replica.expires_ms(change[2])
        return compute(change, record, coordinator)

    patch.setattr(updates, "compute", careless)


def one_id_for_two(patch: pytest.MonkeyPatch) -> None:
    """A process with the id of a member that is alive is accepted."""
    patch.setattr(members.MemberTable, "conflict", lambda self, newcomer: None)


def gone_before_all_is_handed_over(patch: pytest.MonkeyPatch) -> None:
    """A node that retires does not wait until the others have what it holds."""
    patch.setattr(NodeCore, "settled", True)


def suspension_unnoticed(patch: pytest.MonkeyPatch) -> None:
    """On a machine that was suspended, no time has passed."""
    patch.setattr(LocalClock, "read", lambda self, monotonic, wall: monotonic)


def missed_writes_stay_missed(patch: pytest.MonkeyPatch) -> None:
    """No hint is kept for an owner that missed a write, and owners do not compare what they hold."""
    patch.setattr(hints.Hints, "add", lambda self, node_id, keys, records: None)
    patch.setattr(antientropy.AntiEntropy, "run", lambda self: None)


def lease_not_voided(patch: pytest.MonkeyPatch) -> None:
    """The owner ignores writes of a key while a lease for it is held."""
    patch.setattr(fill_leases.FillLeases, "note_written", lambda self, keys, records: None)


def invalidated_here_only(patch: pytest.MonkeyPatch) -> None:
    """The node that is asked to invalidate a tag drops the entries with it, and no other node does."""

    def replan(self: Any) -> None:
        self._through |= {member.node_id: self.coordinator.view.digest for member in self.coordinator.view.ring.members}
        self._through.pop(self.coordinator.own_id)

    patch.setattr(drops.Drop, "replan", replan)


def tombstones_of_the_drop(patch: pytest.MonkeyPatch) -> None:
    """What a dropped tag leaves behind has the version of the drop, not that of what it replaces."""
    bury = store.Store.bury

    def bury_deeper(self: Any, slot: int, tag: bytes, version: bytes, **limits: int) -> Any:
        with pytest.MonkeyPatch.context() as for_now:
            for_now.setattr(store, "past_revisions", lambda _: version)
            return bury(self, slot, tag, version, **limits)

    plant_in_store(patch, "bury", bury_deeper)


def tombstones_of_the_dropped(patch: pytest.MonkeyPatch) -> None:
    """What a dropped tag leaves behind beats nothing that an owner which leaves may still hold."""
    patch.setattr(choice, "compiled", None)  # the native store has a function of its own for that
    patch.setattr(store, "past_revisions", lambda version: version)


def dropped_below_the_clock_of_others(patch: pytest.MonkeyPatch) -> None:
    """No node tells the coordinator of an invalidation that its clock lags behind what is to be dropped."""
    patch.setattr(replica_requests, "clock_of", lambda version: 1 << 64)


def facts_unchecked(patch: pytest.MonkeyPatch) -> None:
    """Every fact about a member is taken as it comes, also its address; and a node that is told of counts as there."""
    for field in facts._RULES:
        patch.setitem(facts._RULES, field, lambda _: None)


def incarnations_unbounded(patch: pytest.MonkeyPatch) -> None:
    """Any incarnation is believed, however great."""
    patch.setitem(facts._RULES, "incarnation", lambda _: None)
    patch.setattr(membership, "latest_incarnation", lambda wall_ms: 1 << 80)


def ghosts_own(patch: pytest.MonkeyPatch) -> None:
    """A node that others call a member is one, before it has answered at its address."""
    patch.setattr(Peers, "answers", lambda self, fact: True)


def versions_of_any_time(patch: pytest.MonkeyPatch) -> None:
    """Messages that arrive are not checked against the clock."""
    for kind in list(claims.GATES):
        patch.delitem(claims.GATES, kind)


def clocks_of_any_time(patch: pytest.MonkeyPatch) -> None:
    """A node's clock follows any other, however far ahead."""

    def merge(self: Any, clock: int, wall_ms: int) -> bool:
        self.latest = max(self.latest, clock)
        return True

    patch.setattr(usual, "compiled", None)  # what is served natively does not pass here
    patch.setattr(HybridClock, "merge", merge)


def failures_end_the_process(patch: pytest.MonkeyPatch) -> None:
    """Errors of handlers are not caught; and one handler fails at the message of a stranger."""
    on_ping = membership.Membership.on_ping

    def stumble(self: Any, ping: m.Ping, wall_ms: int, now: float) -> m.Ack:
        if ping.node_id not in self.members:
            raise KeyError(ping.node_id)
        return on_ping(self, ping, wall_ms, now)

    def fail(self: Any, kind: str, origin: object, error: Exception) -> None:
        raise error

    patch.setattr(membership.Membership, "on_ping", stumble)
    patch.setattr(NodeCore, "fail", fail)


def found_is_served_at_once(patch: pytest.MonkeyPatch) -> None:
    """What a node finds in its snapshot counts as held as soon as it starts."""
    init, on_view = recall.Recall.__init__, movement.Movement.on_view

    def begin(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        for slot in range(self._coordinator.config.cluster.slots):
            keys = self._found.keys_of_slot(slot)
            self._coordinator.store.merge(keys, [self._found.peek(key) for key in keys], 0)
        self.state = recall.DONE

    def hold_all(self: Any, *, alone: bool) -> None:
        self.coordinator.view.held[:] = self.coordinator.view.owned
        on_view(self, alone=alone)

    patch.setattr(recall.Recall, "__init__", begin)
    patch.setattr(movement.Movement, "on_view", hold_all)


def drops_not_saved(patch: pytest.MonkeyPatch) -> None:
    """A snapshot does not tell what was cleared and which tags were invalidated."""
    patch.setattr(saving.Saving, "_floors", lambda self: [])


def clock_not_restored(patch: pytest.MonkeyPatch) -> None:
    """A node's clock begins anew below what the node had stamped before it was stopped."""
    patch.setattr(HybridClock, "go_past", lambda self, clock: None)


def expired_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What has expired while a node was down is not there, and hides nothing older."""
    take = snapshot._Loading._take_slot

    def take_live(self: Any, slot: int, evicted: bytes, keys: list[bytes], records: list[bytes]) -> None:
        live = [i for i, record in enumerate(records) if record[16:22] > self._now_bytes]
        take(self, slot, evicted, [keys[i] for i in live], [records[i] for i in live])

    patch.setattr(snapshot._Loading, "_take_slot", take_live)


def written_meanwhile_not_marked(patch: pytest.MonkeyPatch) -> None:
    """A node that waits for the others does not remember what was written since it started."""
    patch.setattr(recall.Recall, "_remember", lambda self, keys, records: None)


def nobody_is_waited_for(patch: pytest.MonkeyPatch) -> None:
    """A node takes in what it finds without waiting for those who may be ahead of it."""
    patch.setattr(recall, "RETURN_WAIT_S", 0.0)


def participants_that_were_not_met(patch: pytest.MonkeyPatch) -> None:
    """A node that follows another one's commitment gathers from those whom it knows by then, and misses the others."""
    patch.setattr(recall.Recall, "_has_met", lambda self, participants: True)


def participants_that_others_do_not_know(patch: pytest.MonkeyPatch) -> None:
    """Whoever could commit itself does so, whatever members others know of."""
    patch.setattr(recall.Recall, "_may_be_first", lambda self, statuses: True)


def participants_that_are_gone(patch: pytest.MonkeyPatch) -> None:
    """Who has committed itself names all participants for ever, also those that are gone."""
    patch.setattr(recall.Recall, "_participants_here", lambda self: list(self._participants.values()))


def killed_counts_as_stopped(patch: pytest.MonkeyPatch) -> None:
    """Under the strict policy, too, a snapshot of a node that was killed is taken for the last word."""
    patch.setattr(snapshot.Saved, "complete", True)


HARSH: Final = Weather(delay_s=0.01, loss=0.05, duplication=0.5, in_order=False, stale=0.5)
HOT: Final = Mix(values=2, counters=1, guards=1, think_s=0.02, short_lived=0.0)
SHORT_LIVED: Final = {"skew_ms": 0, "mix": Mix(values=2, think_s=0.3, short_lived=1.0)}
BUSY: Final = {
    "weather": HARSH,
    "mix": HOT,
    "skew_ms": 2000,
    "drift": 5e-4,
    "clients": 4,
    "lanes": 2,
    "stray": 0.5,
    "spares": 0,
    "strikes": ("crash", "crash", "pause", "leave"),
    "clogs": 0.0,
}
TWO_OF_TWO: Final = {**BUSY, "nodes": 4, "replicas": 2, "write_quorum": 2, "read_quorum": 1}
TWO_OF_THREE: Final = {**BUSY, "nodes": 4, "replicas": 3, "write_quorum": 2, "read_quorum": 2}
ONE: Final = {**BUSY, "nodes": 4, "replicas": 1, "write_quorum": 1, "read_quorum": 1}
QUIET: Final = {
    **TWO_OF_TWO,
    "weather": Weather(),
    "clients": 1,
    "lanes": 2,
    "strikes": ("crash",),
    "transition_s": 2.0,
    "mix": Mix(values=12, think_s=0.3, short_lived=0.0, operations=("get", "set"), weights=(0.2, 1)),
}
UPDATES: Final = {
    **TWO_OF_THREE,
    "mix": Mix(
        values=1,
        counters=1,
        guards=1,
        think_s=0.02,
        short_lived=0.0,
        operations=("get", "set", "delete", "touch", "add", "replace", "gets_cas", "drop", "put"),
        weights=(2, 2, 1, 2, 2, 2, 2, 2, 1),
    ),
}
ALONE: Final = {"replicas": 1, "write_quorum": 1, "read_quorum": 1, "slots": 256, "weather": Weather(delay_s=0.1)}
SELDOM: Final = {
    **BUSY,
    "nodes": 4,
    "replicas": 3,
    "write_quorum": 2,
    "read_quorum": 1,
    "mix": Mix(values=1, counters=100, guards=1, think_s=0.1, operations=("incr",), weights=(1,)),
}
PARTED: Final = {
    "nodes": 5,
    "replicas": 3,
    "write_quorum": 2,
    "read_quorum": 2,
    "slots": 16,
    "weather": Weather(),
    "skew_ms": 0,
    "clients": 3,
    "lanes": 2,
    "stray": 0.5,
    "timeout_s": 0.5,
    "mix": Mix(
        values=60, think_s=0.02, short_lived=0.0, operations=("get", "get_many", "set", "delete"), weights=(8, 6, 3, 1)
    ),
}
LOADS: Final = {
    **TWO_OF_THREE,
    "weather": Weather(delay_s=0.001, loss=0.1),
    "skew_ms": 0,
    "lanes": 1,
    "timeout_s": 2.0,
    "stray": 1.0,
    "mix": Mix(values=1, counters=1, guards=1, think_s=0.01),
    "loaded": 1,
    "load_s": 0.1,
}
TAGGED: Final = {
    **TWO_OF_TWO,
    "mix": Mix(
        values=2,
        think_s=0.02,
        short_lived=0.0,
        operations=("get", "set"),
        weights=(4, 3),
        tagged=0.7,
        invalidations=0.1,
    ),
}
FULL: Final = {**TWO_OF_TWO, "max_entries": 2, "max_bytes": 800}


class Trap(NamedTuple):
    """Where a bug shows: under which faults and plan, and to which checker."""

    kind: str
    plan: dict[str, Any]
    checker: str
    seed: int = 0
    """The seed that is tried first: one that shows the bug."""


TRAPS: Final[dict[Plant, Trap]] = {
    ack_without_storing: Trap("single", TWO_OF_TWO, "fresh"),
    done_at_one_copy_less: Trap("weather", TWO_OF_THREE, "fresh"),
    oldest_wins: Trap("weather", TWO_OF_THREE, "fresh"),
    older_overwrites: Trap("weather", TWO_OF_TWO, "fresh", 2),
    wall_clock_stamps: Trap("weather", TWO_OF_TWO, "fresh"),
    superseded_is_done: Trap("weather", TWO_OF_THREE, "fresh", 54),
    former_owners_forgotten: Trap("single", ONE, "fresh", 26),
    owner_sets_mixed: Trap("single", ONE, "fresh", 98),
    slots_gained_with_leftovers: Trap("single", ONE, "fresh", 47),
    slots_outlive_their_owners: Trap("split", PARTED, "fresh", 13),
    minority_removes: Trap("split", PARTED, "fresh", 9),
    no_refutation: Trap("single", TWO_OF_TWO, "fresh", 1),
    no_gossip: Trap("single", TWO_OF_TWO, "convergence", 7),
    nothing_moves: Trap("single", QUIET, "durable", 17),
    updates_anywhere: Trap("weather", TWO_OF_TWO, "atomic"),
    updates_unlocked: Trap("weather", TWO_OF_THREE, "atomic"),
    answers_mixed_up: Trap("weather", TWO_OF_TWO, "integrity"),
    expiry_ignored: Trap("weather", SHORT_LIVED, "lifetime", 1),
    limits_ignored: Trap("chaos", FULL, "memory"),
    deadline_forgotten: Trap("weather", TWO_OF_TWO, "deadline"),
    lease_not_voided: Trap("weather", LOADS, "fresh"),
    deletes_leave_nothing: Trap("weather", TWO_OF_THREE, "fresh", 8),
    invalidated_here_only: Trap("weather", TAGGED, "tags"),
    dropped_below_the_clock_of_others: Trap("weather", TAGGED, "tags", 29),
    touch_counts_as_a_write: Trap("weather", UPDATES, "fresh"),
    cas_compares_nothing: Trap("weather", UPDATES, "atomic"),
    add_and_replace_look_at_nothing: Trap("weather", UPDATES, "atomic"),
    one_id_for_two: Trap("single", {**QUIET, "strikes": ("impostor",)}, "identity"),
    gone_before_all_is_handed_over: Trap("single", {**QUIET, **ALONE, "strikes": ("retire",)}, "durable"),
    suspension_unnoticed: Trap("single", {**TWO_OF_TWO, "skew_ms": 0, "strikes": ("suspend",)}, "fresh"),
    facts_unchecked: Trap("weather", {**TWO_OF_TWO, "lies": ("lying facts",)}, "exit"),
    incarnations_unbounded: Trap("weather", {**TWO_OF_TWO, "lies": ("lying deaths",)}, "convergence"),
    ghosts_own: Trap("weather", {**TWO_OF_TWO, "lies": ("ghosts",)}, "convergence"),
    versions_of_any_time: Trap("weather", {**TWO_OF_TWO, "lies": ("lying versions",)}, "integrity"),
    clocks_of_any_time: Trap("weather", {**TWO_OF_TWO, "lies": ("lying clock",)}, "exit"),
    failures_end_the_process: Trap("weather", {**TWO_OF_TWO, "lies": ("odd pings",)}, "exit"),
    missed_writes_stay_missed: Trap("weather", SELDOM, "agreement"),
}

REST: Final = {"strikes": ("stop rest", "stop all"), "strict": False, "levels": (3, 2, 2), "skew_ms": 0, "jumps": False}
RESTART_TRAPS: Final[dict[Plant, Trap]] = {
    found_is_served_at_once: Trap(
        "", {**REST, "levels": (2, 2, 1), "strikes": ("crash", "leave", "stop rest")}, "fresh"
    ),
    drops_not_saved: Trap("", REST, "fresh"),
    expired_forgotten: Trap("", {**REST, "short_lived": 1.0}, "fresh", 161),
    nobody_is_waited_for: Trap("", REST, "fresh", 4),
    killed_counts_as_stopped: Trap("", {**REST, "strikes": ("kill all",), "strict": True}, "fresh"),
}
"""Where bugs about snapshots show: in a RestartPlan. More are found by stories: tests/core/test_recall.py."""
