"""Fill leases: of all callers that miss a key at once, one computes its value and the others are parked here.

The table is at the key's first live owner (updates.py sees to that), and is in memory only. When the owner is lost, or
another node becomes first, the table is lost, which costs one more computation.

::

    LOOKING  -- there is a value ------>  it is the answer
    LOOKING  -- nothing -------------->  LOADING: the first caller is granted the lease, at a new version
    LOADING  -- FILL ----------------->  STORING: a quorum write, after which the value is the others' answer
    LOADING  -- RELEASE, or silence -->  LOADING: the next caller is granted it
    LOADING, STORING  -- void -------->  LOOKING

Two rules keep a slow loader from storing an old value:

- **The version.** The value of a fill is stored with the version that was stamped when the lease was granted, through
  the usual quorum write. A delete or write stamped later is newer by itself, even if this node never saw it.
- **The owner.** A write of the key, newer than what was known at the grant, voids the lease when it arrives here, and
  so does a clear of its prefix. The fill is then refused, and no parked caller gets what was loaded before. That is
  true whatever the clocks say.

"Later" is by the nodes' hybrid clocks: a delete that did not reach this node *and* was stamped by a node whose clock
lags behind can lose. A lease never lasts longer than half the time that tombstones are kept, so that the delete that
overruled it is still there when it is filled.

A caller has a token, so that it may ask again when the answer was lost. A lease is named by its version and not by its
holder's token: a question that came late could be granted a second lease while the holder still computes under the
first. Only a caller that gives up before an answer came knows no version. It withdraws by its token, whether it is
parked or was granted the lease. A token that has filled, given up or withdrawn is granted nothing for ENDED_S; else a
repeated question that arrives last would be granted a lease that nobody uses.

The holder renews its lease while its loader runs. LEASE_S after the last renewal the lease ends, and the next caller
gets it (a *takeover*). Callers are parked for as long as they asked, at most until their deadline, and are then told to
ask again. Limits: LEASES_MAX keys, and PARKED_MAX callers; beyond them callers are refused as overload.

Source: leases as in Nishtala et al., Scaling Memcache at Facebook (NSDI 2013); there, callers ask again later; here
they are parked.
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
"""How long the token of a caller that needs no lease any more is remembered."""
STUCK_S: Final = 65.0
"""Longer than any read or write takes: one that has not ended by then has failed without saying so."""
LOOK_S: Final = 0.25
"""How long a caller that does not want to be parked waits for a quorum read."""


class Phase(Enum):
    """What a key in the table waits for."""

    LOOKING = 1
    """To know whether there is a value."""
    LOADING = 2
    """For the holder's loader."""
    STORING = 3
    """For the quorum write of the fill."""
    VOID = 4
    """For nothing: the key is looked up anew in the same turn."""


class Caller:
    """A caller that asked for a value or the lease, and was not answered yet."""

    __slots__ = ("above", "batch", "index", "patient", "token", "until")

    def __init__(self, batch: UpdateBatch, index: int) -> None:
        _, park_ms, self.above, self.token = batch.request.changes[index]
        self.batch = batch
        self.index = index
        self.patient = park_ms > 0
        """Whether it waits while another caller computes the value; else only until this node has looked."""
        self.until = min(batch.coordinator.instant.now + max(park_ms / 1000, LOOK_S), batch.deadline - ANSWER_S)

    def answer(self, result: Any) -> None:
        """Answer the caller."""
        self.batch.settle(self.index, result)

    @property
    def waits(self) -> bool:
        """Tell whether the caller can still be answered."""
        return self.batch in self.batch.coordinator.pending.running


class FillLease:
    """One key of the table: which caller computes its value, and which callers wait for it."""

    __slots__ = ("base", "ends_at", "ends_at_latest", "key", "parked", "phase", "since", "token", "version", "void")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.phase = Phase.LOOKING
        self.parked: deque[Caller] = deque()
        self.token = b""
        """The token of the holder; empty: there is no holder."""
        self.version = b""
        """The version with which the fill will be stored; it names the lease."""
        self.base = b""
        """The newest version of the key that was known when the lease was granted."""
        self.ends_at = self.ends_at_latest = 0.0
        self.since = 0.0
        """When the key was last looked up, or when storing began."""
        self.void = False
        """Whether the lease was voided while the fill is being stored."""


class FillLeases:
    """The fill leases of one node."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self.table: dict[bytes, FillLease] = {}
        """By key. Changed in place: ``Replica.watch`` keeps this dict, and reports writes only while it is not
        empty."""
        self._voided: list[FillLease] = []
        self._parked = 0
        """How many callers are parked, at most: each ``run`` counts them anew."""
        self._age_max_s = coordinator.config.store.tombstone_grace_s / 2
        self._ended: dict[bytes, float] = {}
        """By token that is granted nothing any more, until when it is remembered."""
        self._counts = dict.fromkeys(("granted", "filled", "refused", "voided", "lapsed", "overloaded"), 0)
        coordinator.replica.watch(self.table, self.note_written)

    def begin(self, batch: UpdateBatch, index: int) -> None:
        """Serve one change that is about fill leases."""
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
            caller.answer(lease.version)  # the lease was granted before, and the answer was lost
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
        """Return the lease that a change is about, if the sender of the change still holds it."""
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
        """Forget a caller, by its token; return the lease if the caller was granted one without knowing it."""
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
        """Grant nothing to a token any more, since a repeated question with it may still arrive."""
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
        """Find out whether there is a value; that takes a quorum read where this node alone cannot tell."""
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
        held = coordinator.store.peek(lease.key)  # perhaps a write arrived here while the others were asked
        record = max(filter(None, (found, held)), default=None)
        lease.base = b""
        if record is not None:
            lease.base = version_of(record)
            coordinator.clock.merge(clock_of(lease.base), coordinator.instant.wall_ms)
            if is_live(record, coordinator.instant.now_bytes):
                self._serve(lease, record)
        self._grant_next(lease)

    def _serve(self, lease: FillLease, record: bytes) -> None:
        """Answer all callers for which this value is new enough."""
        version = version_of(record)
        parked, lease.parked = lease.parked, deque()
        for caller in parked:
            if caller.above < version:
                caller.answer(record)
            else:
                lease.parked.append(caller)

    def _grant_next(self, lease: FillLease) -> None:
        """Grant the lease to the next caller; without one, end the lease."""
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
        """Void a lease, because what its holder computes may be old: it is not stored, and no caller is given it."""
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
        """Answer the callers that do not want to wait any longer."""
        now = self._coordinator.instant.now
        looking = lease.phase is Phase.LOOKING
        parked, lease.parked = lease.parked, deque()
        for caller in parked:
            if caller.token == lease.token:
                caller.answer(lease.version)  # the holder itself, which asked again
            elif caller.until <= now or not (caller.patient or looking):
                caller.answer(None)
            else:
                lease.parked.append(caller)

    # -- what happens around -----------------------------------------------------------------------------------

    def note_written(self, keys: list[bytes], records: list[bytes]) -> None:
        """Void the leases of keys for which this node was given a record that is newer than the lease knows."""
        for key, record in zip(keys, records, strict=True):
            lease = self.table.get(key)
            if lease is not None and lease.base < version_of(record) != lease.version:
                self._void(lease)

    def note_cleared(self, prefix: bytes) -> None:
        """Void the leases of all keys under a prefix that is cleared."""
        for key, lease in self.table.items():
            if key.startswith(prefix):
                self._void(lease)

    def replan(self) -> None:
        """Give up the keys of which another node is the first owner by the new ring; their callers ask there."""
        coordinator = self._coordinator
        for lease in list(self.table.values()):
            if coordinator.view.ring.preference_list(lease.key)[:1] != (coordinator.own_id,):
                self._drop(lease, [int(Code.NOT_READY)])

    def on_timer(self) -> None:
        """Look up the keys whose leases were voided in this turn."""
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
        """Return what ``meshcache stats`` shows of this part, as plain values."""
        return {"leases": len(self.table), "parked": self._parked, **self._counts}

    # A background part has methods for the answers of other nodes; this one asks none.

    def on_answer(self, group: Any, node_id: str, answer: Any) -> None:
        """Do nothing: this part asks no other node."""

    def on_lost(self, group: Any, node_id: str) -> None:
        """Do nothing: this part asks no other node."""

    def on_reject(self, group: Any, node_id: str) -> None:
        """Do nothing: this part asks no other node."""
