"""Fill leases: of all who miss a key at once, one computes its value and the others are parked here.

The table is at the key's first live owner (updates.py sees to that), and is in memory only: it is lost with the owner,
or when another node becomes first, and then costs one more computation.

::

    LOOKING  -- there is a value ------>  it is the answer
    LOOKING  -- nothing -------------->  LOADING: the first caller is granted the lease, at a new version
    LOADING  -- FILL ----------------->  STORING: a quorum write, after which the value is the others' answer
    LOADING  -- RELEASE, or silence -->  LOADING: the next caller is granted it
    LOADING, STORING  -- void -------->  LOOKING

Why a slow loader cannot store an old value, twice:

- **The version.** What is filled is stored with the version that was stamped when the lease was granted, through the
  usual quorum write. A delete or write stamped later is newer by itself, also where it never came by here.
- **The owner.** A write of the key, newer than what was known at the grant, voids the lease when it arrives here, and
  so does a clear of its prefix. The fill is then refused, and nobody who is parked gets what was loaded before. That
  holds whatever the clocks say.

"Later" is by the nodes' hybrid clocks: a delete that missed this node *and* was stamped by a node whose clock lags
behind, can lose. A lease never lasts longer than half the time that tombstones are kept, so that the delete that
overruled it is still there when it is filled.

A caller has a token: so asking again, when the answer was lost, is harmless. A lease is named by its version and not by
its holder, who could be granted a second one by a question that came late, while still computing under the first. Only
who gives up before an answer came knows no version: it withdraws by its token, whether it is parked or was granted the
lease. A token that has filled, given up or withdrawn is granted nothing for ENDED_S, or a repeated question that comes
last would hold a lease for nobody.

The holder renews it while its loader runs. LEASE_S after the last sign of life it ends, and the next caller gets it (a
*takeover*). Callers are parked for as long as they asked, at most until their deadline, and are then told to ask again.
Limits: LEASES_MAX keys, and PARKED_MAX callers; beyond them callers are refused as overload.

Source: leases as in Nishtala et al., Scaling Memcache at Facebook (NSDI 2013); there callers come back later, here they
are parked.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from meshcache.core.operations import quorum
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.reads import QuorumRead
from meshcache.core.operations.writes import QuorumWrite
from meshcache.protocol.clock import clock_of
from meshcache.protocol.messages import LEASE_ALWAYS, LEASE_S, Change, Code, EventKind
from meshcache.protocol.record import expiry_bytes, is_live, version_of

if TYPE_CHECKING:
    from meshcache.core.operations.updates import UpdateBatch

LEASES_MAX: Final = 4096
PARKED_MAX: Final = 4096
ANSWER_S: Final = 0.1
"""How long before its deadline a parked caller is answered."""
ENDED_MAX: Final = 4096
ENDED_S: Final = 10.0
"""How long the token of who needs no lease any more is remembered."""
STUCK_S: Final = 65.0
"""Longer than any read or write takes: one that has not ended by then failed, and will never say so."""
LOOK_S: Final = 0.25
"""How long a caller that does not want to be parked waits for a quorum read."""


class Phase(Enum):
    """What a key in the table waits for."""

    LOOKING = 1
    """Whether there is a value."""
    LOADING = 2
    """The holder's loader."""
    STORING = 3
    """The quorum write of the fill."""
    VOID = 4
    """Nothing: it is looked up anew in the same turn."""


class Caller:
    """Who asked for a value or the lease, and was not answered yet."""

    __slots__ = ("above", "batch", "index", "patient", "token", "until")

    def __init__(self, batch: UpdateBatch, index: int) -> None:
        _, park_ms, self.above, self.token = batch.request.changes[index]
        self.batch = batch
        self.index = index
        self.patient = park_ms > 0
        """It waits while another one computes the value; else only for this node to look."""
        self.until = min(batch.coordinator.instant.now + max(park_ms / 1000, LOOK_S), batch.deadline - ANSWER_S)

    def answer(self, result: Any) -> None:
        """Tell the caller."""
        self.batch.settle(self.index, result)

    @property
    def waits(self) -> bool:
        """Tell whether it can still be answered."""
        return self.batch in self.batch.coordinator.pending.running


class FillLease:
    """One key of the table: who computes its value, and who waits for that."""

    __slots__ = ("base", "ends_at", "ends_at_latest", "key", "parked", "phase", "since", "token", "version", "void")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.phase = Phase.LOOKING
        self.parked: deque[Caller] = deque()
        self.token = b""
        """Of the holder; empty: there is none."""
        self.version = b""
        """What the fill will be stored with; the lease is named by it."""
        self.base = b""
        """The newest version of the key that was known when the lease was granted."""
        self.ends_at = self.ends_at_latest = 0.0
        self.since = 0.0
        """When it was last looked up, or began to be stored."""
        self.void = False
        """Overruled while the fill is being stored."""


class FillLeases:
    """The fill leases of one node."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self.table: dict[bytes, FillLease] = {}
        """By key. Empty mostly, and then nobody need tell what is written. Changed in place."""
        self._voided: list[FillLease] = []
        self._parked = 0
        """How many callers are parked, at most; counted anew with each ``run``."""
        self._age_max_s = coordinator.config.store.tombstone_grace_s / 2
        self._ended: dict[bytes, float] = {}
        """Until when to remember tokens whose questions, should one still be under way, are granted nothing."""
        self._counts = dict.fromkeys(("granted", "filled", "refused", "voided", "lapsed", "overloaded"), 0)
        coordinator.replica.watch(self.table, self.note_written)

    def begin(self, batch: UpdateBatch, index: int) -> None:
        """Serve one change that is about leases."""
        kind = batch.request.changes[index][0]
        if kind == Change.LEASE:
            self._ask(batch, index)
        elif kind == Change.FILL:
            self._fill(batch, index)
        else:
            self._hold(batch, index)

    # -- what callers ask --------------------------------------------------------------------------------------

    def _ask(self, batch: UpdateBatch, index: int) -> None:
        caller = Caller(batch, index)
        key = batch.request.keys[index]
        lease = self.table.get(key)
        if caller.token in self._ended:
            caller.answer(None)
        elif lease is None:
            if len(self.table) >= LEASES_MAX:
                self._refuse(caller)
                return
            lease = self.table[key] = FillLease(key)
            lease.parked.append(caller)
            self._look(lease)
        elif lease.phase is Phase.LOADING and caller.token == lease.token:
            caller.answer(lease.version)  # it was granted already, and the answer was lost
        elif caller.above >= LEASE_ALWAYS and lease.phase is Phase.LOADING:
            lease.parked.appendleft(caller)
            self._void(lease)
        elif not caller.patient and lease.phase is not Phase.LOOKING:
            caller.answer(None)
        elif self._parked >= PARKED_MAX:
            self._refuse(caller)
        else:
            self._parked += 1
            lease.parked.append(caller)

    def _refuse(self, caller: Caller) -> None:
        self._counts["overloaded"] += 1
        caller.answer([int(Code.OVERLOADED)])

    def _held(self, batch: UpdateBatch, index: int) -> FillLease | None:
        """Return the lease that a change is about, if its sender still holds it."""
        lease = self.table.get(batch.request.keys[index])
        if lease is None or lease.phase is not Phase.LOADING or lease.version != batch.request.changes[index][-1]:
            return None
        return lease

    def _hold(self, batch: UpdateBatch, index: int) -> None:
        _, keep, name = batch.request.changes[index]
        lease = self._held(batch, index)
        if lease is not None and keep:
            lease.ends_at = min(self._coordinator.instant.now + LEASE_S, lease.ends_at_latest)
        elif lease is not None:
            self._end(lease.token)
            self._grant_next(lease)
        elif not keep:
            lease = self._withdraw(batch.request.keys[index], name)
        batch.settle(index, lease is not None)

    def _withdraw(self, key: bytes, token: bytes) -> FillLease | None:
        """Forget a caller, by its token; return the lease that it held, if it did without knowing."""
        self._end(token)
        lease = self.table.get(key)
        if lease is None:
            return None
        parked, lease.parked = lease.parked, deque()
        for caller in parked:
            if caller.token == token:
                caller.answer(None)
            else:
                lease.parked.append(caller)
        if lease.phase is not Phase.LOADING or lease.token != token:
            return None
        self._grant_next(lease)
        return lease

    def _end(self, token: bytes) -> None:
        """Grant nothing to a token any more: a question that was repeated may come last."""
        self._ended[token] = self._coordinator.instant.now + ENDED_S
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]

    def _fill(self, batch: UpdateBatch, index: int) -> None:
        lease = self._held(batch, index)
        if lease is None:
            self._counts["refused"] += 1
            batch.settle(index, False)
            return
        coordinator = self._coordinator
        _, content, ttl_ms, _ = batch.request.changes[index]
        record = lease.version + expiry_bytes(coordinator.replica.expires_ms(ttl_ms)) + content
        lease.phase, lease.void, lease.since = Phase.STORING, False, coordinator.instant.now

        def done(errors: dict[int, list[int]], live: set[int]) -> None:  # noqa: ARG001  (of interest to deletes)
            batch.settle(index, errors.get(0, not lease.void))
            self._on_stored(lease, record, stored=not errors and not lease.void)

        QuorumWrite(
            coordinator, [lease.key], [record], batch.request.w, batch.deadline, EventKind.SET, done, restamp=False
        ).start()

    def _on_stored(self, lease: FillLease, record: bytes, *, stored: bool) -> None:
        self._counts["filled" if stored else "refused"] += 1
        if self.table.get(lease.key) is not lease:
            return
        if stored:
            self._end(lease.token)
            lease.base = lease.version
            self._serve(lease, record)
            self._grant_next(lease)
        else:
            self._look(lease)

    # -- what becomes of a lease -------------------------------------------------------------------------------

    def _look(self, lease: FillLease) -> None:
        """Find out whether there is a value; it takes a quorum where this node alone cannot tell."""
        coordinator = self._coordinator
        lease.phase, lease.token, lease.since = Phase.LOOKING, b"", coordinator.instant.now
        while lease.parked and not lease.parked[0].waits:
            lease.parked.popleft()
        if not lease.parked:
            del self.table[lease.key]
            return
        batch = lease.parked[0].batch
        request = batch.request
        record = coordinator.store.read([lease.key], coordinator.instant.now_bytes)[0]
        if quorum.answers_alone(coordinator.view, coordinator.config.cluster, lease.key, record, request.r, request.w):
            self._decide(lease, record)
        else:
            QuorumRead(
                coordinator,
                [lease.key],
                request.r,
                request.w,
                batch.deadline,
                lambda results: self._on_found(lease, results[0]),
            ).start()

    def _on_found(self, lease: FillLease, found: Any) -> None:
        if self.table.get(lease.key) is not lease:
            return
        if isinstance(found, list):
            self._drop(lease, found)
        else:
            self._decide(lease, found)

    def _decide(self, lease: FillLease, found: bytes | None) -> None:
        coordinator = self._coordinator
        held = coordinator.store.peek(lease.key)  # perhaps written here while the others were asked
        record = max(filter(None, (found, held)), default=None)
        lease.base = b""
        if record is not None:
            lease.base = version_of(record)
            coordinator.clock.merge(clock_of(lease.base), coordinator.instant.wall_ms)
            if is_live(record, coordinator.instant.now_bytes):
                self._serve(lease, record)
        self._grant_next(lease)

    def _serve(self, lease: FillLease, record: bytes) -> None:
        """Answer all for whom this value is new enough."""
        version = version_of(record)
        parked, lease.parked = lease.parked, deque()
        for caller in parked:
            if caller.above < version:
                caller.answer(record)
            else:
                lease.parked.append(caller)

    def _grant_next(self, lease: FillLease) -> None:
        """Have the next caller compute the value; without one the lease is over."""
        coordinator = self._coordinator
        while lease.parked:
            caller = lease.parked.popleft()
            if not caller.waits:
                continue
            lease.phase = Phase.LOADING
            lease.token = caller.token
            lease.version = coordinator.clock.tick(coordinator.instant.wall_ms)
            lease.ends_at_latest = coordinator.instant.now + self._age_max_s
            lease.ends_at = min(coordinator.instant.now + LEASE_S, lease.ends_at_latest)
            self._counts["granted"] += 1
            caller.answer(lease.version)
            self._end_waits(lease)
            return
        del self.table[lease.key]

    def _void(self, lease: FillLease) -> None:
        """What the holder computes may be old: it must not be stored, and nobody may be given it."""
        if lease.phase is Phase.STORING:
            lease.void = True
        elif lease.phase is Phase.LOADING:
            self._counts["voided"] += 1
            lease.phase = Phase.VOID
            self._voided.append(lease)
            self._coordinator.pending.wake(self, self._coordinator.instant.now)

    def _drop(self, lease: FillLease, error: list[Any]) -> None:
        del self.table[lease.key]
        for caller in lease.parked:
            caller.answer(error)
        lease.parked.clear()

    def _end_waits(self, lease: FillLease) -> None:
        """Answer who does not want to wait any longer."""
        now = self._coordinator.instant.now
        looking = lease.phase is Phase.LOOKING
        parked, lease.parked = lease.parked, deque()
        for caller in parked:
            if caller.token == lease.token:
                caller.answer(lease.version)  # the same caller, who asked again
            elif caller.until <= now or not (caller.patient or looking):
                caller.answer(None)
            else:
                lease.parked.append(caller)

    # -- what happens around -----------------------------------------------------------------------------------

    def note_written(self, keys: list[bytes], records: list[bytes]) -> None:
        """This node was given records: a lease is void if one of them is new to it."""
        for key, record in zip(keys, records, strict=True):
            lease = self.table.get(key)
            if lease is not None and lease.base < version_of(record) != lease.version:
                self._void(lease)

    def note_cleared(self, prefix: bytes) -> None:
        """Every key under a prefix is being deleted."""
        for key, lease in self.table.items():
            if key.startswith(prefix):
                self._void(lease)

    def replan(self) -> None:
        """The ring changed: give up what another node decides now. Its callers ask there."""
        coordinator = self._coordinator
        for lease in list(self.table.values()):
            if coordinator.view.ring.preference_list(lease.key)[:1] != (coordinator.own_id,):
                self._drop(lease, [int(Code.NOT_READY)])

    def on_timer(self) -> None:
        """Look up what was voided in this turn."""
        voided, self._voided = self._voided, []
        for lease in voided:
            if self.table.get(lease.key) is lease and lease.phase is Phase.VOID:
                self._look(lease)

    def run(self) -> None:
        """End waits and leases whose time is over."""
        for lease in list(self.table.values()):
            self._end_waits(lease)
            if lease.phase in {Phase.LOOKING, Phase.STORING} and self._coordinator.instant.now - lease.since > STUCK_S:
                self._drop(lease, [int(Code.NOT_READY)])
            elif lease.phase is Phase.LOADING and lease.ends_at <= self._coordinator.instant.now:
                self._counts["lapsed"] += 1
                self._grant_next(lease)
        self._parked = sum(len(lease.parked) for lease in self.table.values())
        while self._ended and self._ended[next(iter(self._ended))] <= self._coordinator.instant.now:
            del self._ended[next(iter(self._ended))]

    def statistics(self) -> dict[str, Any]:
        """Return what there is to tell, as plain values."""
        return {"leases": len(self.table), "parked": self._parked, **self._counts}

    # Of a background part, what asks others; this one does not.

    def on_answer(self, group: Any, node_id: str, answer: Any) -> None:
        """Nothing: see above."""

    def on_lost(self, group: Any, node_id: str) -> None:
        """Nothing: see above."""

    def on_reject(self, group: Any, node_id: str) -> None:
        """Nothing: see above."""
