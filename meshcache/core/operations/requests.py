"""What clients ask a node for; replica_requests.py has what other nodes ask for.

Every request is admitted first, see admission.py. Then it becomes an object of reads.py, writes.py,
updates.py or drops.py, whose ``done`` puts the answer into the outbox; a large batch becomes several of these, see
portions.py. The usual GET (this node owns the keys and one holder is enough) is answered here at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final
from zlib import crc32

from meshcache.core.counters import Counters
from meshcache.core.operations import inspection, quorum
from meshcache.core.operations.admission import Admission
from meshcache.core.operations.backlog import COUNTED_BYTES_MIN
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.drops import Drop, Drops
from meshcache.core.operations.fill_leases import FillLeases
from meshcache.core.operations.hotcopies import HotCopies
from meshcache.core.operations.hotkeys import HotKeys
from meshcache.core.operations.notices import Notices
from meshcache.core.operations.pending import Operation
from meshcache.core.operations.portions import PORTION_KEYS, Portions
from meshcache.core.operations.portions import Done as DoneWithBatch
from meshcache.core.operations.reads import QuorumRead
from meshcache.core.operations.remote_reads import RemoteReads
from meshcache.core.operations.replica_requests import ReplicaRequests
from meshcache.core.operations.reply_room import SMALL_REPLY_BYTES, ReplyRoom, more, up_to
from meshcache.core.operations.slow import SlowOperations
from meshcache.core.operations.surroundings import Past, Readers, Serves
from meshcache.core.operations.updates import UpdateBatch, Updates
from meshcache.core.operations.usual import usual_requests
from meshcache.core.operations.writes import QuorumWrite, Stored, WriteDone
from meshcache.keys import AllowedKey
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Code, EventKind
from meshcache.protocol.record import tombstone, without_value

HOT_KEYS_TOLD: Final = 100
"""How many keys INSPECT "hot" names."""

ENDED_BY_S: Final = 1.0
"""A change that is not answered so long after its deadline never will be: it has failed."""

HINTED_MAX: Final = 8
"""So many requests of a connection are told, when they are turned away, when to come back: more would cost too much."""

_FAILURES: Final = frozenset({int(Code.QUORUM), int(Code.OVERLOADED), int(Code.NOT_READY), int(Code.STALE_BOOT)})
"""Results that say: not done, or not for certain."""

Done = Callable[[list[Any]], None]
"""Takes the results of an operation."""
Wrap = Callable[[list[bytes], Done], Done]


class Requests:
    """The requests that one node serves: those of clients, and with ``replicas`` those of other nodes."""

    def __init__(
        self,
        coordinator: Coordinator,
        drops: Drops,
        fills: FillLeases,
        hot: HotKeys,
        copies: HotCopies,
        counters: Counters,
        boot: int,
        node: Serves,
        in_majority: Callable[[], bool],
        retire: Callable[[bytes], None],
        compare: Callable[[m.Compare], m.CompareReply],
        past: Past | None,
        sections: Callable[[], dict[str, Any]],
    ) -> None:
        """``past``: None where snapshots are off. ``sections`` returns what else belongs into the statistics."""
        self._node = node
        self._in_majority = in_majority
        self._retire = retire
        self._sections = sections
        self._past = past
        self._coordinator = coordinator
        self._replica = coordinator.replica
        self._instant = coordinator.instant
        self._config = coordinator.config
        self._read_quorum = self._config.cluster.read_quorum
        self._outbox = coordinator.outbox
        self._store = coordinator.store
        self._view = coordinator.view
        self._drops = drops
        self._updates = Updates(coordinator, fills)
        self.portions = Portions(coordinator.fail, lambda: coordinator.pending.lingering_bytes)
        self._remote_reads = RemoteReads(lambda: coordinator.pending.read_bytes)
        self._admission = admission = Admission(coordinator, counters, boot, node)
        self._admit, self._reject = admission.admit, admission.reject
        self._reply, self._deadline = admission.reply, admission.deadline
        self._backlog = admission.backlog
        self._room = ReplyRoom(self._config.limits.reply_bytes_max, admission, coordinator.outbox)
        self.replicas = ReplicaRequests(coordinator, admission, drops, hot, node, compare, past)
        self._counters = counters
        self._by_kind = counters.requests_by_kind
        self._answered, self._failed = self._by_kind.answered, self._by_kind.failed
        self._batches = self._by_kind.batches
        self.hot = hot
        self.copies = copies
        self.notices = Notices(self._config, self._store, self._view, self._outbox, self._instant)
        self._slow = SlowOperations(self._config.log.slow_operation_s, self._outbox, self._instant)
        self.usual = usual_requests(self, coordinator, admission, counters, boot, node, hot, copies)
        """Serves usual frames natively, where that can be done; see usual.py."""
        self.leave_asked_by = ""
        """The connection on which this node was asked to leave; empty: not asked, or by its own process."""

    def heed(self, readers: Readers) -> None:
        """Use from now on what the driver knows of the connections that ask."""
        self._admission.heed(readers)

    def who(self, origin: bytes) -> AllowedKey:
        """Return by which key a connection was let in."""
        return self._admission.readers.who(origin)

    def handlers(self) -> dict[type[Any], Callable[[bytes, Any], None]]:
        """Return the handler of each kind of request; it is called with the connection and the request."""
        return {
            m.Get: self._on_get,
            m.Set: self._on_set,
            m.Delete: self._on_delete,
            m.Update: self._on_update,
            m.Clear: self._on_clear,
            m.InvalidateTags: self._on_invalidate_tags,
            m.Inspect: self._on_inspect,
            **self.replicas.handlers(),
            m.Leave: self._on_leave,
            m.Forget: self._on_forget,
        }

    def _level_refused(self, origin: bytes, request: Any, *levels: int) -> bool:
        replicas = self._config.cluster.replicas
        for level in levels:
            if level > replicas or level < m.LEVEL_ALL:
                text = f"consistency asks for {level} replicas; cluster.replicas is {replicas}"
                self._reject(origin, request, [int(Code.INVALID), text])
                return True
        return False

    def _on_get(self, origin: bytes, get: m.Get) -> None:
        if not self._admit(origin, get) or (
            (get.r > 0 or get.w > 0) and self._level_refused(origin, get, get.r, get.w)
        ):
            return
        keys = get.keys
        count = len(keys)
        self._counters.keys += count
        self._batches[(count - 1).bit_length()] += 1
        self.hot.note(keys, self._instant.now)
        if count > PORTION_KEYS[m.Get]:
            self._get_in_portions(origin, get)
        else:
            self._answer_get(origin, get, self._held(get))

    def read_here(self, keys: list[bytes]) -> list[bytes | None] | None:
        """Do at once, and without an answer, the usual GET of somebody who is served in this process.

        Return the records held here, where they are all that a GET would be answered; None: ask by a GET.
        """
        admission, view = self._admission, self._view
        if self._read_quorum > 1 or view.former or len(keys) > PORTION_KEYS[m.Get] or not admission.admits_more():
            return None
        if not (view.holds_all or self._holds(keys)):
            return None
        records = self._store.read(keys, self._instant.now_bytes)
        if None in records and self._must_ask_others(m.DEFAULT_LEVEL):
            return None
        counters, count = self._counters, len(keys)
        counters.requests += 1
        counters.keys += count
        self._batches[(count - 1).bit_length()] += 1
        self._answered["Get"] += 1
        self.hot.note(keys, self._instant.now)
        return records

    def _answer_get(self, origin: bytes, get: m.Get, records: list[bytes | None] | None) -> None:
        """Answer a read with the records held here, if these are all."""
        if records is not None and None not in records:
            self._reply_records(origin, get, records, self._answered)
        else:
            self._get_elsewhere(origin, get, records, self._answer_later(origin, get))

    def go_on_with_get(self, origin: bytes, fields: tuple[Any, ...], records: list[bytes | None]) -> None:
        """Go on with a read that is counted, and whose keys were looked up here: see usual.py."""
        self._answer_get(origin, m.Get(*fields), records)

    def _get_in_portions(self, origin: bytes, get: m.Get) -> None:
        number = self._take_on(origin, get, sum(map(len, get.keys)))
        answer = self._answer_later(origin, get)

        def done(records: list[Any]) -> None:
            self._backlog.end(number)
            answer(records)

        if number:
            self._run_in_portions(origin, get, partial(self._get, origin), done, number)

    def _take_on(self, origin: bytes, request: Any, size: int) -> int:
        """Count the bytes of a request until it is answered: return its number for that, or 0 if it is refused."""
        number = self._backlog.begin(origin, size, self._deadline(request) + ENDED_BY_S)
        if not number:
            self._admission.reject_overloaded(origin, request, self.portions.waiting_us)
        return number

    def _answer_later(self, origin: bytes, get: m.Get) -> Done:
        """Return what answers a read that cannot be answered in this turn, or perhaps not."""
        began = self._instant.now

        def done(records: list[Any]) -> None:
            self._slow.look(origin, get, began)
            self._reply_read(origin, get, records)

        return done

    def _held(self, get: m.Get) -> list[bytes | None] | None:
        """Return the records in the usual case: this node holds the slots of the keys, and one holder is enough."""
        view, keys = self._view, get.keys
        if self._reads_one(get.r) and not view.former and (view.holds_all or self._holds(keys)):
            return self._store.read(keys, self._instant.now_bytes)
        return None

    def _get(self, origin: bytes, get: m.Get, done: Done) -> None:
        records = self._held(get)
        if records is not None and None not in records:
            done(records)
        else:
            self._get_elsewhere(origin, get, records, done)

    def _get_elsewhere(self, origin: bytes, get: m.Get, records: list[bytes | None] | None, done: Done) -> None:
        """Read from other nodes what this node lacks, or everything if ``records`` is None."""
        keys = get.keys
        if records is not None:
            if self._must_ask_others(get.w):
                self._read_absent(origin, get, records, done)
            else:
                done(records)
        elif (copies := self.copies.read(get)) is None:
            self._read(origin, get, keys, done)
        elif None not in copies:
            done(copies)
        else:
            self._read_absent(origin, get, copies, done, self.copies.keeping)

    def _read(self, origin: bytes, get: m.Get, keys: list[bytes], done: Done) -> None:
        def checked(results: list[Any]) -> None:
            # On the losing side of a partition: the majority may have newer values by now.
            done(results if self._in_majority() else [[int(Code.NOT_READY)]] * len(keys))

        if not self._remote_reads.start(origin, len(keys), partial(self._begin_read, origin, get, keys, checked)):
            done([[int(Code.OVERLOADED)]] * len(keys))

    def _begin_read(self, origin: bytes, get: m.Get, keys: list[bytes], done: Done, expected_bytes: float) -> None:
        """Begin a read.

        If that fails, the read ends unanswered: this may be called while another request is handled.
        """
        if origin in self._admission.readers.deaf:
            self._drop_read(origin, keys, done, expected_bytes)
            return
        reads = self._remote_reads
        wanted = self._room.first_that_fit(keys, expected_bytes) if reads.knows(origin) else keys
        left_out = more(len(keys) - len(wanted))

        def extended(results: list[Any]) -> None:
            done([*results, *left_out] if left_out else results)

        ended = partial(reads.ended, origin, len(keys), len(wanted), expected_bytes)
        read = QuorumRead(self._coordinator, wanted, get.r, get.w, self._deadline(get), extended, ended)
        try:
            read.start()
        except Exception as error:  # noqa: BLE001  (of whatever kind: it concerns this read)
            self._coordinator.pending.end(read)
            read.release()
            self._coordinator.fail(type(read).__name__, origin, error)

    def _drop_read(self, origin: bytes, keys: list[bytes], done: Done, expected_bytes: float) -> None:
        """Refuse a read that has waited, of a connection that is served no more; see ``_begin_read``."""
        self._remote_reads.ended(origin, len(keys), 0, expected_bytes, 0)
        try:
            done([[int(Code.OVERLOADED)]] * len(keys))
        except Exception as error:  # noqa: BLE001  (see _begin_read)
            self._coordinator.fail(QuorumRead.__name__, origin, error)

    def _read_absent(
        self, origin: bytes, get: m.Get, records: list[Any], done: Done, wrap: Wrap = lambda _, done: done
    ) -> None:
        """Ask other owners for the keys that this one lacks."""
        absent = [i for i, record in enumerate(records) if record is None]

        def fill(found: list[Any]) -> None:
            for i, record in zip(absent, found, strict=True):
                records[i] = record
            done(records)

        keys = [get.keys[i] for i in absent]
        self._read(origin, get, keys, wrap(keys, fill))

    def _run_in_portions(
        self, origin: bytes, request: Any, run: Callable[[Any, Any], None], done: Any, number: int
    ) -> None:
        if not self.portions.add(origin, request, run, done):
            self._backlog.end(number)
            self._admission.reject_overloaded(origin, request, self.portions.waiting_us)

    def _change(self, origin: bytes, request: Any, run: Callable[[Any, DoneWithBatch], None], size: int = 0) -> None:
        """Run a change of keys, and answer. ``size``: the bytes of its values.

        On the losing side of a partition the answer says that it may be lost.

        While the change was stored, the majority may have gone on without the nodes that stored it.
        """
        keys, number = request.keys, 0
        is_large = len(keys) > PORTION_KEYS[type(request)]
        if is_large:
            size += sum(map(len, keys))
        if size >= COUNTED_BYTES_MIN and not (number := self._take_on(origin, request, size)):
            return
        self._counters.keys += len(keys)
        self._batches[(len(keys) - 1).bit_length()] += 1
        done = self._answer_change(origin, request, number)
        if is_large:
            self._run_in_portions(origin, request, run, done, number)
        else:
            run(request, done)

    def _answer_change(self, origin: bytes, request: Any, number: int, began_at: float | None = None) -> DoneWithBatch:
        """Return what answers a change. ``number``: the one under which its bytes are counted, or 0.

        ``began_at``: when the change began, if not now.
        """
        began = self._instant.now if began_at is None else began_at

        def done(results: list[Any] | None) -> None:
            if number:
                self._backlog.end(number)
            if self._instant.now - began >= self._slow.threshold_s:  # mostly not, and a call takes longer to find out
                self._slow.look(origin, request, began)
            certain = results if self._in_majority() else [[int(Code.QUORUM), 1, 0]] * len(request.keys)
            self._outcome(certain)[type(request).__name__] += 1
            self._reply(origin, request.request, certain)

        return done

    def _reads_one(self, level: int) -> bool:
        configured = self._read_quorum
        if level == m.DEFAULT_LEVEL and configured == 1:  # the usual case
            return True
        return quorum.level(level, configured, min(self._config.cluster.replicas, self._size())) == 1

    def _must_ask_others(self, write_level: int) -> bool:
        """Tell whether a missing key proves nothing: there are other owners, and W + 1 > N."""
        cluster = self._config.cluster
        owners = min(cluster.replicas, self._size())
        return owners > 1 and quorum.holders_only(1, quorum.level(write_level, cluster.write_quorum, owners), owners)

    def _size(self) -> int:
        return len(self._view.ring.members)

    def _holds(self, keys: list[bytes]) -> bool:
        held, mask = self._view.held, self._view.ring.slots - 1
        return all([held[crc32(key) & mask] for key in keys])  # noqa: C419  (a list is faster than a generator)

    def _outcome(self, results: list[Any] | None) -> dict[str, int]:
        """Return where a request with these results is counted: among those answered, or those that failed."""
        if results is None or not any([type(result) is list and _is_failure(result) for result in results]):  # noqa: C419  (see _holds)
            return self._answered
        return self._failed

    def _reply_read(self, origin: bytes, get: m.Get, records: list[Any]) -> None:
        self._reply_records(origin, get, records, self._outcome(records))

    def _reply_records(self, origin: bytes, get: m.Get, records: list[Any], outcome: dict[str, int]) -> None:
        if self.hot.until and (hot := self.hot.among(get.keys)):
            # Before the reply, so that the client that reads the reply knows what to keep.
            copy_ttl_ms = self.hot.copy_ttl_ms if self._config.cluster.read_quorum == 1 else 0
            self._outbox.reply(origin, m.Hot(copy_ttl_ms, hot))
        if get.meta:
            records = [without_value(r) if type(r) is bytes else r for r in records]
        else:
            size = len(records[0] or b"") if len(records) == 1 else sum(map(len, filter(None, records)))
            if size > SMALL_REPLY_BYTES:
                budget, bytes_left = self._room.bytes_max(), self._admission.readers.bytes_left
                if self._outbox.count_values(min(size, budget)) > bytes_left:
                    self._admission.reject_overloaded(origin, get)
                    return
                if size > budget:
                    records = up_to(budget, records)
        outcome["Get"] += 1
        self._reply(origin, get.request, records)

    def turn_away(self, origin: bytes, numbers: list[int], retry_after_ms: int) -> None:
        """Refuse, by their numbers, requests of a client for which there is no time; few of them with a hint."""
        self._counters.requests += len(numbers)
        self._counters.refused += len(numbers)
        self._by_kind.note_refused("unknown", Code.OVERLOADED.name.lower(), len(numbers))
        if len(numbers) <= HINTED_MAX:
            error = [int(Code.OVERLOADED), retry_after_ms]
            for number in numbers:
                self._outbox.reply(origin, m.Reject(number, self._view.digest, error))
            return
        for start in range(0, len(numbers), m.BATCH_OPS_MAX):
            part = numbers[start : start + m.BATCH_OPS_MAX]
            self._outbox.reply(origin, m.TurnedAway(self._view.digest, part))

    def _on_set(self, origin: bytes, request: m.Set) -> None:
        if not self._admit(origin, request) or self._level_refused(origin, request, request.w):
            return
        size, limit = max(map(len, request.contents), default=2) - 2, self._config.limits.value_bytes_max
        if size > limit:
            self._reject(origin, request, [int(Code.TOO_LARGE), size, limit])
            return
        self._change(origin, request, self._set, size if len(request.keys) == 1 else sum(map(len, request.contents)))

    def _set(self, request: m.Set, answer: DoneWithBatch) -> None:
        keys, contents, replica = request.keys, request.contents, self._replica
        expires_ms = replica.expires_ms(request.ttl_ms)
        stamp = replica.stamp(expires_ms)
        if len(keys) == 1 or len(dict.fromkeys(keys)) == len(keys):
            records = [stamp + content for content in contents]
        else:  # if a key is in a batch twice, the later content must have the greater version
            records = [replica.stamp(expires_ms) + content for content in contents]
        self._write(request, records, answer)

    def _write(
        self, request: m.Set, records: list[bytes], answer: DoneWithBatch, stored: Iterable[Stored] = ()
    ) -> None:
        coordinator, deadline, done = self._coordinator, self._deadline(request), self._done_with_set(request, answer)
        QuorumWrite(coordinator, request.keys, records, request.w, deadline, EventKind.SET, done).start(stored)

    def _done_with_set(self, request: m.Set, answer: DoneWithBatch) -> WriteDone:
        """Return what takes the outcome of a SET's write."""
        keys = request.keys

        def done(errors: dict[int, list[int]], live: set[int]) -> None:  # noqa: ARG001  (of interest to deletes)
            answer([errors.get(i) for i in range(len(keys))] if errors else None)

        return done

    def go_on_with_set(
        self, origin: bytes, fields: tuple[Any, ...], so_far: tuple[list[bytes], list[Stored], int]
    ) -> None:
        """Go on with a SET that is counted, and whose records were stored here: see usual.py."""
        request, (records, stored, number) = m.Set(*fields), so_far
        self._write(request, records, self._answer_change(origin, request, number), stored)

    def resumed(
        self, operation: Operation, origin: bytes, fields: tuple[Any, ...], kept: int
    ) -> tuple[Coordinator, WriteDone]:
        """Return what a SET needs that is under way, to be an operation as others are: see usual_writes.py."""
        request, began = m.Set(*fields), self._coordinator.pending.running[operation]
        return self._coordinator, self._done_with_set(request, self._answer_change(origin, request, kept, began))

    def _on_delete(self, origin: bytes, request: m.Delete) -> None:
        if self._admit(origin, request) and not self._level_refused(origin, request, request.w):
            self._change(origin, request, self._delete)

    def _delete(self, request: m.Delete, answer: DoneWithBatch) -> None:
        keys, coordinator = request.keys, self._coordinator
        version = coordinator.clock.tick(coordinator.instant.wall_ms)
        grace_ms = int(self._config.store.tombstone_grace_s * 1000)
        record = tombstone(version, coordinator.instant.wall_ms + grace_ms)

        def done(errors: dict[int, list[int]], live: set[int]) -> None:
            answer([errors.get(i, i in live) for i in range(len(keys))])

        kind = EventKind.INVALIDATE if request.kind == EventKind.INVALIDATE else EventKind.DELETE
        records = [record] * len(keys)
        QuorumWrite(coordinator, keys, records, request.w, self._deadline(request), kind, done).start()

    def _on_update(self, origin: bytes, request: m.Update) -> None:
        if not self._admit(origin, request) or self._level_refused(origin, request, request.w, request.r):
            return
        limit = self._config.limits.value_bytes_max
        total = 0
        for change in request.changes:
            if type(change[1]) is bytes:
                size = len(change[1])
                total += size
                if size - 2 > limit:
                    self._reject(origin, request, [int(Code.TOO_LARGE), size - 2, limit])
                    return
        self._change(origin, request, self._update, total)

    def _update(self, request: m.Update, done: DoneWithBatch) -> None:
        UpdateBatch(self._updates, request, self._deadline(request), done).start()

    def _on_clear(self, origin: bytes, request: m.Clear) -> None:
        if self._admit(origin, request):
            self._drop(origin, request, EventKind.CLEAR, [request.prefix])

    def _on_invalidate_tags(self, origin: bytes, request: m.InvalidateTags) -> None:
        if self._admit(origin, request):
            self._drop(origin, request, EventKind.TAG, list(dict.fromkeys(request.tags)))

    def _drop(self, origin: bytes, request: m.Clear | m.InvalidateTags, kind: EventKind, names: list[bytes]) -> None:
        began = self._instant.now

        def done(results: list[Any]) -> None:
            self._slow.look(origin, request, began)
            self._outcome(results)[type(request).__name__] += 1
            self._reply(origin, request.request, results)

        Drop(self._coordinator, self._drops, kind, names, self._deadline(request), done).start()

    def _on_inspect(self, origin: bytes, request: m.Inspect) -> None:
        if not self._admit(origin, request, from_client=False):
            return
        coordinator = self._coordinator
        if request.what == "explain":
            done = partial(self._reply, origin, request.request)
            inspection.Explain(coordinator, request.key, self._deadline(request), done).start()
            return
        makers: dict[str, Callable[[], dict[str, Any]]] = {
            "view": lambda: inspection.view(coordinator),
            "status": lambda: (
                inspection.status(coordinator, self.notices, ready=self._node.ready)
                | {"leave_asked_by": self.leave_asked_by}
            ),
            "stats": self.statistics,
            "hot": lambda: {"keys": self.hot.top(HOT_KEYS_TOLD)},
            "replica": lambda: inspection.replica(coordinator, request.key),
        }
        if self._past is not None:
            makers |= {"recall": self._past.status, "snapshot": self._past.save}
        make = makers.get(request.what)
        if make is None:
            text = f"inspect knows view, status, stats, hot, explain and replica, not {request.what!r}"
            if request.what in {"snapshot", "recall"}:
                text = f"snapshot.enabled is false on {coordinator.own_id}"
            self._reject(origin, request, [int(Code.INVALID), text])
        else:
            self._reply(origin, request.request, [make()])

    @property
    def reads_refused(self) -> int:
        """How many reads from other nodes were refused, because too many of their connection wait."""
        return self._remote_reads.refused

    @property
    def is_more(self) -> bool:
        """Tell whether something waits that can be done at once in another turn."""
        reads, portions = self._remote_reads, self.portions
        return (bool(reads.waiting) and reads.is_more) or (bool(portions.lines) and portions.may_run())

    def run(self) -> None:
        """Go on with what waits for its turn."""
        if self._remote_reads.waiting:
            self._remote_reads.run()
        if self.portions.lines:
            self.portions.run(self._coordinator.instant.wall_ms)

    def keep_house(self, now: float) -> None:
        """Do what is not urgent to the millisecond."""
        self._backlog.run()
        self.hot.count(now)
        self.copies.run()
        self.notices.run()

    def statistics(self) -> dict[str, Any]:
        """Return all counters of this node, by part, as plain values that nobody changes any more."""
        hot_keys = self.hot.statistics() | self.copies.statistics()
        return inspection.statistics(self._coordinator, self._counters, hot_keys) | self._sections()

    def _on_leave(self, origin: bytes, leave: m.Leave) -> None:
        if self._admit(origin, leave):
            self._reply(origin, leave.request, [None])
            self.leave_asked_by = origin.hex()
            self._retire(origin)

    def _on_forget(self, origin: bytes, forget: m.Forget) -> None:
        if not self._admit(origin, forget, from_client=False):
            return
        coordinator = self._coordinator
        try:
            coordinator.membership.dismiss(forget.node, coordinator.instant.now)
        except ValueError as problem:
            self._reject(origin, forget, [int(Code.INVALID), str(problem)])
        else:
            self._reply(origin, forget.request, [None])


def _is_failure(result: list[Any]) -> bool:
    """Tell whether a list says that a key failed. Another node may have answered with a list that says nothing."""
    return bool(result) and type(result[0]) is int and result[0] in _FAILURES
