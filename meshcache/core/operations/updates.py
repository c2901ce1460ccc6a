"""Atomic updates (add, replace, cas, incr, touch, locks): run at the key's first owner, one at a time per key.

A node that is asked for a key it does not own first passes the update on, once (``hops``). A node that is not the first
owner by its own view refuses an update that was passed on, and the node that passed it on tries again until the views
agree or the time is over. A suspect stays the first owner until it is declared dead, so that no two nodes act as first
owner. A network partition can still cause that: each side has its own first owner, and when it heals, the later version
wins.

At the owner an update reads, computes and stamps without a pause in between where the owner holds the key and R = 1.
Else it reads from a quorum first, and the key is locked until that is done. Writes of one key through its owner are
therefore in one order. A plain ``set`` or ``delete`` that another node coordinates meanwhile is ordered by its version:
beside an update that changes the content it is one of two concurrent writes, and the later one wins. A touch or a mark
changes no value, so it must not win against such a write: its record gets a revision of the version that was read
(``HybridClock.revise``), and any such write is newer than that.

What an entry has besides its value, such as tags, is kept by ``touch`` and ``incr``; a change that stores a value
replaces it.

Changes that are about fill leases are passed on in the same way, and are decided by fill_leases.py. A caller that is
parked there makes its whole batch wait, and so is sent alone.

A lock is an entry whose value is its holder's token (``ACQUIRE``, ``EXTEND``, ``RELEASE``). So a caller that asks
again, because an answer was lost, is recognised: it is given the same version, and the same record is stored once more
where it may be missing. A token that was released is remembered for a while and acquires nothing any more: a question
of a caller that gave up may arrive late, by another way, and must not leave it a lock that it does not know of.

An update that was passed on and whose answer was lost may have been executed: it is answered with Code.QUORUM, and
repeated only by callers that may repeat it safely.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from meshcache.core.operations import quorum
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.reads import QuorumRead
from meshcache.core.operations.writes import QuorumWrite
from meshcache.protocol import messages as m
from meshcache.protocol.clock import clock_of
from meshcache.protocol.messages import Change, Code, EventKind
from meshcache.protocol.record import (
    STAMP_BYTES,
    TOMBSTONE_CONTENT,
    content_of,
    expires_ms_of,
    expiry_bytes,
    is_live,
    split_content,
    version_of,
)

INT_TAG: Final = 2
"""The codec's tag of integers, whose value is decimal ASCII: the one kind of value that a node looks into."""

_INT_FLAGS: Final = bytes((0, INT_TAG))
_INT_DIGITS_MAX: Final = 20
_INT64: Final = range(-(1 << 63), 1 << 63)
_RETRY_S: Final = 0.05
"""How soon an update is sent again to a node that does not see itself as the first owner yet."""

RELEASED_MAX: Final = 4096
"""How many tokens of released locks are remembered. A question that arrives after its deadline is not executed
anyway."""

_LEASE_CHANGES: Final = (Change.LEASE, Change.FILL, Change.HOLD)
_LOCK_CHANGES: Final = (Change.ACQUIRE, Change.EXTEND, Change.RELEASE)
_REVISIONS: Final = (Change.TOUCH, Change.MARK)
_REMOVALS: Final = (Change.DROP, Change.RELEASE)
_TOKEN_FLAGS: Final = bytes((0, 0))
"""To clients the token of a lock is a value of type bytes."""
Computed = tuple[Any, bytes | None, int]
"""What the update answers, the content to store (None: nothing), and its expiry in ms."""


class LeaseChanges(Protocol):
    """The part that serves changes about fill leases; see fill_leases.py."""

    def begin(self, batch: UpdateBatch, index: int) -> None:
        """Serve one change of a batch."""


class UpdateBatch:
    """The updates of one request. ``done(results)`` is called once."""

    def __init__(self, updates: Updates, request: m.Update, deadline: float, done: Callable[[list[Any]], None]) -> None:
        self.updates = updates
        self.coordinator = updates.coordinator
        self.request = request
        self.deadline = deadline
        self.done = done
        self.results: list[Any] = [None] * len(request.keys)
        self._open = len(request.keys)
        self._unsent: list[int] = []

    def start(self) -> None:
        """Run the updates of keys that this node owns first, and pass on the others."""
        self.coordinator.pending.begin(self, self.deadline)
        self._unsent = list(range(len(self.request.keys)))
        self._distribute()
        if not self._open:
            self._settle()

    def settle(self, index: int, result: Any) -> None:
        """Note the result of one update; the last one ends the batch."""
        self.results[index] = result
        self._open -= 1
        self._settle()

    def _settle(self) -> None:
        if self._open <= 0 and self in self.coordinator.pending.running:
            self.coordinator.pending.end(self)
            self.done(self.results)

    def _distribute(self) -> None:
        indices, self._unsent = self._unsent, []
        coordinator, request = self.coordinator, self.request
        elsewhere: dict[str, list[int]] = {}
        for index in indices:
            owner = next(iter(coordinator.view.ring.preference_list(request.keys[index])), None)
            if owner is None:  # no node owns the key: all nodes are leaving
                self._unsent.append(index)
            elif owner == coordinator.own_id:
                if request.changes[index][0] in _LEASE_CHANGES:
                    self.updates.fills.begin(self, index)
                else:
                    KeyUpdate(self, index).start()
            elif request.hops:
                self.settle(index, [int(Code.NOT_READY)])
            else:
                elsewhere.setdefault(owner, []).append(index)
        for owner, group in elsewhere.items():
            self._pass_on(owner, group)
        if self._unsent:
            coordinator.pending.wake(self, min(self.deadline, coordinator.instant.now + _RETRY_S))

    def _pass_on(self, owner: str, group: list[int]) -> None:
        asked, keys = self.request, [self.request.keys[i] for i in group]
        changes = [self.request.changes[i] for i in group]
        pending = self.coordinator.pending
        sent = pending.ask_for_caller(
            self,
            group,
            owner,
            self.deadline,
            lambda request, boot, deadline_ms, view: m.Update(
                request, boot, deadline_ms, view, asked.w, asked.r, 1, keys, changes
            ),
        )
        if sent:
            return
        if not pending.are_barred([owner]):
            self._unsent.extend(group)
            return
        for index in group:
            self.settle(index, [int(Code.NOT_READY)])

    def on_answer(self, group: list[int], node_id: str, answer: m.Reply) -> None:
        """Note the owner's results; it may have refused some updates without executing them."""
        results = answer.results or []
        if len(results) != len(group):
            self.on_lost(group, node_id)
            return
        for index, result in zip(group, results, strict=True):
            if result == [Code.NOT_READY]:
                self._unsent.append(index)
            else:
                self.settle(index, result)
        if self._unsent:
            self.coordinator.pending.wake(self, min(self.deadline, self.coordinator.instant.now + _RETRY_S))

    def on_reject(self, group: list[int], node_id: str) -> None:  # noqa: ARG002  (the coordinator says who)
        """Offer the updates again later: they were not executed."""
        self._unsent.extend(group)
        self.coordinator.pending.wake(self, min(self.deadline, self.coordinator.instant.now + _RETRY_S))

    def on_lost(self, group: list[int], node_id: str) -> None:  # noqa: ARG002  (the coordinator says who)
        """Answer that the updates failed: they may have been executed, and must not be repeated."""
        for index in group:
            self.settle(index, [int(Code.QUORUM), 1, 0])

    def replan(self) -> None:
        """Send updates that were not sent yet to the nodes that own the keys now."""
        if self._unsent:
            self._distribute()

    def on_timer(self) -> None:
        """Offer updates again, or give up at the deadline."""
        if self.coordinator.instant.now < self.deadline:
            self.replan()
            return
        for index in self._unsent:
            self.results[index] = [int(Code.NOT_READY)]
        unfinished = self._open - len(self._unsent)
        if unfinished:
            gave_up = set(self._unsent)
            for index, result in enumerate(self.results):
                if result is None and index not in gave_up:
                    self.results[index] = [int(Code.QUORUM), 1, 0]
        self._open = 0
        self._settle()


class KeyUpdate:
    """One update of one key at its first owner."""

    __slots__ = ("batch", "change", "index", "key")

    def __init__(self, batch: UpdateBatch, index: int) -> None:
        self.batch = batch
        self.index = index
        self.key = batch.request.keys[index]
        self.change = batch.request.changes[index]

    def start(self) -> None:
        """Wait for the lock of the key, if another update has it; then read, compute and write."""
        updates = self.batch.updates
        waiting = updates.locked.get(self.key)
        if waiting is not None:
            waiting.append(self)
            return
        coordinator, request = updates.coordinator, self.batch.request
        record = coordinator.store.read([self.key], coordinator.instant.now_bytes)[0]
        if quorum.answers_alone(coordinator.view, coordinator.config.cluster, self.key, record, request.r, request.w):
            self._apply(record)
        else:
            updates.locked[self.key] = deque()
            QuorumRead(coordinator, [self.key], request.r, request.w, self.batch.deadline, self._on_read).start()

    def _on_read(self, results: list[Any]) -> None:
        coordinator = self.batch.coordinator
        found = results[0]
        try:
            if isinstance(found, list):
                self.batch.settle(self.index, found)
            else:
                held = coordinator.store.peek(self.key)  # a write may have arrived here while the others were asked
                self._apply(max(filter(None, (found, held)), default=None))
        finally:
            self._unlock()

    def _unlock(self) -> None:
        """Let the updates go on that wait for this update of the key."""
        waiting = self.batch.updates.locked.pop(self.key, deque())
        while waiting:
            waiting.popleft().start()
            if self.key in self.batch.updates.locked:
                self.batch.updates.locked[self.key].extend(waiting)
                return

    def _apply(self, record: bytes | None) -> None:
        coordinator = self.batch.coordinator
        if record is not None:
            coordinator.clock.merge(clock_of(version_of(record)), coordinator.instant.wall_ms)
            if not is_live(record, coordinator.instant.now_bytes):
                record = None
        kind = self.change[0]
        if kind in _LOCK_CHANGES and not self.batch.updates.admits(self.change):
            self.batch.settle(self.index, None)
            return
        answer, content, expires_ms = compute(self.change, record, coordinator)
        if content is None:
            self.batch.settle(self.index, answer)
            return
        if record is not None and kind in _REVISIONS:
            stamp = coordinator.clock.revise(version_of(record)) + expiry_bytes(expires_ms)
        elif record is not None and kind == Change.ACQUIRE:
            stamp = record[:STAMP_BYTES]  # the lock has this token already: only copies may be missing
        else:
            stamp = coordinator.replica.stamp(expires_ms)
        if kind in {Change.ACQUIRE, Change.EXTEND}:
            answer = version_of(stamp)
        event = EventKind.DELETE if kind in _REMOVALS else EventKind.SET

        def done(errors: dict[int, list[int]], live: set[int]) -> None:  # noqa: ARG001  (of interest to deletes)
            self.batch.settle(self.index, errors.get(0, answer))

        QuorumWrite(
            coordinator,
            [self.key],
            [stamp + content],
            self.batch.request.w,
            self.batch.deadline,
            event,
            done,
            restamp=False,
        ).start()


class Updates:
    """What the updates of one node share: which keys are locked, and which updates wait for them."""

    def __init__(self, coordinator: Coordinator, fills: LeaseChanges) -> None:
        self.coordinator = coordinator
        self.fills = fills
        self.locked: dict[bytes, deque[KeyUpdate]] = {}
        self._released: dict[bytes, None] = {}
        """Tokens of released locks, the latest at the end."""

    def admits(self, change: list[Any]) -> bool:
        """Tell whether a change of a lock may run: not if it acquires by a token that was released."""
        token = change[1]
        if change[0] == Change.RELEASE:
            self._released.pop(token, None)
            self._released[token] = None
            if len(self._released) > RELEASED_MAX:
                del self._released[next(iter(self._released))]
        return change[0] != Change.ACQUIRE or token not in self._released


def compute(change: list[Any], record: bytes | None, coordinator: Coordinator) -> Computed:
    """Return what a change makes of the live record (None: there is none). Pure, except that it uses the time."""
    kind = change[0]
    if kind == Change.INCR:
        return _increment(change, record, coordinator)
    if kind == Change.TOUCH:
        if record is None:
            return False, None, 0
        return True, content_of(record), coordinator.replica.expires_ms(change[1])
    if kind in _REMOVALS:
        named = version_of if kind == Change.DROP else _token_of
        dropped = record is not None and named(record) == change[1]
        grace_ms = int(coordinator.config.store.tombstone_grace_s * 1000)
        return dropped, TOMBSTONE_CONTENT if dropped else None, coordinator.instant.wall_ms + grace_ms
    if kind in {Change.ACQUIRE, Change.EXTEND}:
        free = record is None and kind == Change.ACQUIRE
        granted = free or (record is not None and _token_of(record) == change[1])
        return None, _TOKEN_FLAGS + change[1] if granted else None, coordinator.replica.expires_ms(change[2])
    content, ttl_ms = change[1], change[2]
    if kind == Change.ADD:
        granted = record is None
    elif kind == Change.REPLACE:
        granted = record is not None
    else:
        granted = record is not None and version_of(record) == change[3]
    return granted, content if granted else None, coordinator.replica.expires_ms(ttl_ms)


def _token_of(record: bytes) -> bytes | None:
    """Return the token of the holder of a lock; None if the record is not a lock."""
    content = content_of(record)
    return content[len(_TOKEN_FLAGS) :] if content.startswith(_TOKEN_FLAGS) else None


def _increment(change: list[Any], record: bytes | None, coordinator: Coordinator) -> Computed:
    _, delta, initial, ttl_ms = change
    if record is None:
        if initial is None:
            return [int(Code.KEY_MISSING)], None, 0
        head, number, expires_ms = _INT_FLAGS, initial + delta, coordinator.replica.expires_ms(ttl_ms)
    else:
        try:
            head, digits = split_content(content_of(record))
            if head[1] != INT_TAG or len(digits) > _INT_DIGITS_MAX:
                return [int(Code.NOT_A_NUMBER), "the stored value is not an integer of at most 64 bits"], None, 0
            number = int(digits) + delta
        except ValueError:
            return [int(Code.NOT_A_NUMBER), "the stored value is not an integer"], None, 0
        expires_ms = expires_ms_of(record)
    if number not in _INT64:
        return [int(Code.NOT_A_NUMBER), "the sum leaves the signed 64-bit range"], None, 0
    return number, head + b"%d" % number, expires_ms
