"""What clients asked and were answered, and the checks that no answer may fail, made when an operation ends.

Values describe themselves: every write writes a text with its key and its own number, so that a read shows which write
its value is from. An *open* write may have been executed by an attempt that brought no answer; its value may appear at
any time from its start on, also if a later attempt was acknowledged.

Always:

- integrity: a value read under a key was written under that key, by a write that has begun and was not refused
- deadlines: every operation ends, and none later than its timeout
- lifetimes: no value is read after its time to live, except for the granularity of expiry and the difference of clocks

``fresh`` (W + R > N, 2 W > N, stores that need not evict, at most one process lost at a time):

- no read returns what was overwritten or deleted by a write that was acknowledged before the read began. The order of
  two writes is known only if one ended before the other began; so this check never fails wrongly. A value that expired
  hides what was there before it like one that did not
- no read, and no other caller of get_or_set, returns what a loader read before a delete that was acknowledged before
  the read began, however long the loader took: for that there are fill leases
- no touch, replace or cas finds a key that was deleted before it began
- no cas replaces a value that was overwritten by a write that was acknowledged before the cas began
- no read returns a value with a tag, if it was written before an invalidation of the tag began that was acknowledged
  before the read began

With ``stale_s`` above 0 instead, for clients with near caches (``near_staleness``):

- no read returns what was overwritten or deleted more than that long before the read began

``durable`` (as ``fresh``, and W >= R, or W - 1 >= R where a process is lost, so that R copies of what was acknowledged
are left):

- a key whose last write was acknowledged, and no other write may have overtaken, is no miss; nor does touch or replace
  find nothing there

``atomic`` (as ``fresh``, and no process is lost or paused):

- the results of incr are unique for a key, and grow from one that ended to one that began later
- of two adds that succeeded on one key there was a delete between; no version is replaced by cas twice
- no add succeeds after a write that was acknowledged before it began, without a delete after it (W >= R, else fewer
  than R nodes may hold what was written)

Else a miss is always allowed: a cache may forget.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

DEADLINE_SLACK_S: Final = 0.05
"""How much longer than its timeout an operation may take."""

EXPIRY_SLACK_S: Final = 0.25 + 0.05
"""How long after its time to live a value may be read: the granularity of expiry, and a moment."""


class Violation(AssertionError):
    """The mesh broke a promise."""


class Abandoned(Exception):
    """The caller went away."""


@dataclass(slots=True, eq=False)
class Operation:
    """One call of a client."""

    number: int
    client: str
    name: str
    keys: tuple[str, ...]
    start: float
    timeout_s: float
    written: Any = None
    """The value that a write writes; None for a delete."""
    ttl_s: float = math.inf
    load_s: float = 0.0
    """How much longer than its timeout it may take, because it computes a value."""
    expected: bytes = b""
    """The version that a cas replaces."""
    replaced: Any = None
    """The value that a cas replaces."""
    tags: tuple[str, ...] = ()
    """The tags of a set's value, or those of an invalidation."""
    end: float = math.inf
    open: bool = False
    """Whether it may have been executed without an answer."""
    error: Exception | None = None
    result: Any = None

    @property
    def acknowledged(self) -> bool:
        """Tell whether it ended without an error."""
        return self.end < math.inf and self.error is None

    @property
    def settled(self) -> float:
        """The time from which on it can have no further effect."""
        return math.inf if self.open else self.end

    @property
    def stores(self) -> bool:
        """Tell whether it is to leave a value behind: it is no read, no delete, and no touch."""
        return self.written is not None

    def __str__(self) -> str:
        outcome = f"{type(self.error).__name__}: {self.error}" if self.error is not None else repr(self.result)
        written = "" if self.written is None else f" {self.written!r}"
        return (
            f"#{self.number} {self.client} {self.name} {' '.join(self.keys)}{written} "
            f"[{self.start:.6f} .. {self.end:.6f}{' open' if self.open else ''}] {outcome}"
        )


@dataclass(slots=True)
class _Ended:
    """The operations on one key that ended, in that order, with the running maximum of a number."""

    ends: list[float] = field(default_factory=list)
    maxima: list[tuple[float, Operation]] = field(default_factory=list)

    def add(self, operation: Operation, number: float) -> None:
        self.ends.append(operation.end)
        if self.maxima and self.maxima[-1][0] >= number:
            self.maxima.append(self.maxima[-1])
        else:
            self.maxima.append((number, operation))

    def forget(self, since: float) -> None:
        """Forget those that ended since then."""
        place = bisect_left(self.ends, since)
        del self.ends[place:], self.maxima[place:]

    def greatest_before(self, when: float) -> tuple[float, Operation] | None:
        """Return the greatest number among the operations that ended before a time, and its operation."""
        place = bisect_left(self.ends, when)
        return self.maxima[place - 1] if place else None

    def first_above(self, number: float) -> Operation | None:
        """Return the operation that ended first among those with a greater number."""
        place = bisect_right(self.maxima, number, key=itemgetter(0))
        return self.maxima[place][1] if place < len(self.maxima) else None


class History:
    """All operations of one simulation, checked against the promises."""

    def __init__(
        self,
        *,
        fresh: bool,
        atomic: bool,
        durable: bool = False,
        holds: bool = False,
        skew_s: float = 0.0,
        stale_s: float = 0.0,
    ) -> None:
        self.fresh = fresh
        self.holds = holds
        """Whether R nodes always include one of any W nodes that took a write: W >= R."""
        self.stale_s = stale_s
        """How old a value may be that a near cache serves."""
        self.stalest_s = 0.0
        """The greatest age seen: how long before a read its value had certainly been overwritten."""
        self.durable = durable
        self.atomic = atomic
        self.operations: list[Operation] = []
        self.pending: dict[Operation, None] = {}
        self.reads = self.hits = self.errors = 0
        self._skew_s = skew_s
        self._writers: dict[str, Operation] = {}
        """The write that wrote each value."""
        self._writes: dict[str, _Ended] = {}
        """By key, the acknowledged writes, with the time of their start as number."""
        self._short_lived: dict[str, None] = {}
        """Keys that some write gave a time to live."""
        self._attempts: dict[str, list[Operation]] = {}
        """By key, all writes that were begun, whatever their outcome."""
        self._invalidations: dict[str, _Ended] = {}
        """By tag, the acknowledged invalidations, with the time of their start as number."""
        self._tries: dict[str, list[Operation]] = {}
        """By tag, all invalidations that were begun, whatever their outcome."""
        self._increments: dict[str, _Ended] = {}
        self._counts: dict[tuple[str, int], Operation] = {}
        self._adds: dict[str, list[Operation]] = {}
        self._deletes: dict[str, list[Operation]] = {}
        self._touches: dict[str, list[Operation]] = {}
        self._replaced: dict[tuple[str, bytes], Operation] = {}

    def begin(self, operation: Operation) -> None:
        """Note that an operation begins."""
        self.operations.append(operation)
        self.pending[operation] = None
        if isinstance(operation.written, str):
            self._writers[operation.written] = operation
        elif isinstance(operation.written, dict):
            self._writers.update(dict.fromkeys(operation.written.values(), operation))
        if operation.ttl_s < math.inf:
            self._short_lived[operation.keys[0]] = None
        if operation.written is not None or operation.name == "delete":
            for key in operation.keys:
                self._attempts.setdefault(key, []).append(operation)
        if operation.name == "invalidate":
            for tag in operation.tags:
                self._tries.setdefault(tag, []).append(operation)
        if operation.name == "delete":
            for key in operation.keys:
                self._deletes.setdefault(key, []).append(operation)
        if operation.name == "touch":
            self._touches.setdefault(operation.keys[0], []).append(operation)

    def load(self, operation: Operation, value: str, now: float) -> None:
        """Note that the loader of a get_or_set reads its source: from now on the value of now may be in the cache."""
        loaded = Operation(operation.number, operation.client, "load", operation.keys, now, 0.0, value)
        loaded.end = now
        self._writers[value] = loaded

    def end(self, operation: Operation, now: float, result: Any, error: Exception | None, is_open: bool) -> None:
        """Check an operation that ended against all that is known."""
        del self.pending[operation]
        operation.end, operation.result, operation.error, operation.open = now, result, error, is_open
        if now > operation.start + operation.timeout_s + operation.load_s + DEADLINE_SLACK_S:
            raise Violation(f"deadline: {operation} took {now - operation.start:.3f} s of {operation.timeout_s} s")
        if error is not None:
            self.errors += 1
            return
        check = getattr(self, f"_end_{operation.name}")
        check(operation)

    def abandon(self, operation: Operation, now: float) -> None:
        """Note that nobody waits for an operation any more: it may be executed, now or later."""
        del self.pending[operation]
        operation.end, operation.error, operation.open = now, Abandoned(), True
        self.errors += 1

    def lose(self, since: float) -> None:
        """Note that what was acknowledged since then is lost with the only node that had it.

        What these writes and invalidations hid may show again. Nothing else is forgiven.
        """
        for ended in (*self._writes.values(), *self._invalidations.values()):
            ended.forget(since)

    def finish(self) -> None:
        """Check at the end of the simulation that nothing is pending."""
        for operation in self.pending:
            raise Violation(f"deadline: never answered: {operation}")

    # Writes

    def _end_set(self, operation: Operation) -> None:
        for key in operation.keys:
            self._writes.setdefault(key, _Ended()).add(operation, operation.start)

    _end_delete = _end_set

    def _end_invalidate(self, operation: Operation) -> None:
        for tag in operation.tags:
            self._invalidations.setdefault(tag, _Ended()).add(operation, operation.start)

    def _end_set_many(self, operation: Operation) -> None:
        if not operation.result:  # else some keys failed, and the write as a whole was not acknowledged
            self._end_set(operation)
        else:
            operation.open = True

    def _end_add(self, operation: Operation) -> None:
        if not operation.result:
            operation.open = True  # this may be the answer to a repeated request, after the first had succeeded
        else:
            (key,) = operation.keys
            if self.atomic:
                self._check_added(operation, key)
            self._adds.setdefault(key, []).append(operation)
            self._end_set(operation)

    def _check_added(self, add: Operation, key: str) -> None:
        for other in self._adds.get(key, ()):
            if not self._deleted_between(key, other, add):
                raise Violation(f"atomic: two adds without a delete between:\n  {other}\n  {add}")
        newest = self._newest(key, add.start) if self.holds else None
        if newest is not None and newest.stores and not self._deleted_between(key, newest, add):
            raise Violation(f"atomic: {add}\n  added what was there:\n  {newest}")

    def _deleted_between(self, key: str, first: Operation, second: Operation) -> bool:
        deletes = self._deletes.get(key, ())
        return any(delete.start < second.end and delete.settled > first.start for delete in deletes)

    def _newest(self, key: str, before: float) -> Operation | None:
        """Return the acknowledged write that began last among those that ended before a time."""
        ended = self._writes.get(key)
        newest = ended.greatest_before(before) if ended is not None else None
        return None if newest is None else newest[1]

    def _end_replace(self, operation: Operation) -> None:
        if not operation.result:
            operation.open = True  # as above
            self._check_miss(operation, operation.keys[0])
        else:
            self._check_found(operation)
            self._end_set(operation)

    def _end_touch(self, operation: Operation) -> None:
        if operation.result:
            self._check_found(operation)
        else:
            self._check_miss(operation, operation.keys[0])

    def _check_found(self, update: Operation) -> None:
        """Check that a key which an update found cannot have been deleted for certain."""
        (key,) = update.keys
        newest = self._newest(key, update.start) if self.fresh else None
        if newest is None or newest.stores or key in self._short_lived:
            return
        attempts = [other for other in self._attempts[key] if other is not update]
        if not any(other.stores and other.settled > newest.start for other in attempts):
            raise Violation(f"fresh: {update}\n  found what was deleted: {newest}")

    def _end_cas(self, operation: Operation) -> None:
        if not operation.result:
            operation.open = True  # as above
        else:
            (key,) = operation.keys
            other = self._replaced.setdefault((key, operation.expected), operation)
            if other is not operation and self.atomic:
                raise Violation(f"atomic: two cas replaced one version:\n  {other}\n  {operation}")
            self._check_found(operation)
            former = self._writers.get(operation.replaced)
            newest = self._newest(key, operation.start) if self.fresh else None
            if newest is not None and former is not None and former.settled < newest.start:
                raise Violation(f"fresh: {operation}\n  replaced what {former} wrote,\n  but there was {newest}")
            self._end_set(operation)

    def _end_incr(self, operation: Operation) -> None:
        (key,) = operation.keys
        count: int = operation.result
        if type(operation.result) is not int or count < 1:
            raise Violation(f"integrity: {operation}")
        if not self.atomic:
            return
        other = self._counts.setdefault((key, count), operation)
        if other is not operation:
            raise Violation(f"atomic: one result twice:\n  {other}\n  {operation}")
        ended = self._increments.setdefault(key, _Ended())
        before = ended.greatest_before(operation.start)
        if before is not None and before[0] > count:
            raise Violation(f"atomic: a counter went back:\n  {before[1]}\n  {operation}")
        ended.add(operation, count)

    # Reads

    def _end_get(self, operation: Operation) -> None:
        self._check_value(operation, operation.keys[0], operation.result)

    _end_get_or_set = _end_get

    def _end_gets(self, operation: Operation) -> None:
        item = operation.result
        self._check_value(operation, operation.keys[0], None if item is None else item.value)

    def _end_get_many(self, operation: Operation) -> None:
        for key in operation.keys:
            self._check_value(operation, key, operation.result.get(key))

    def _end_count(self, operation: Operation) -> None:
        self.reads += 1
        if operation.result is None:
            return
        self.hits += 1
        if not isinstance(operation.result, int):
            raise Violation(f"integrity: a counter holds {operation.result!r}: {operation}")
        ended = self._increments.get(operation.keys[0]) if self.atomic else None
        before = ended.greatest_before(operation.start) if ended is not None else None
        if before is not None and operation.result < before[0]:
            raise Violation(f"fresh: {operation} is older than\n  {before[1]}")

    def _check_value(self, read: Operation, key: str, value: Any) -> None:
        self.reads += 1
        if value is None:
            self._check_miss(read, key)
            return
        self.hits += 1
        writer = self._writers.get(value) if isinstance(value, str) else None
        if writer is None or key not in writer.keys or not value.startswith(f"{key}="):
            raise Violation(f"integrity: {key} holds {value!r}, which nobody wrote there: {read}")
        if writer.end < math.inf and not writer.acknowledged and not writer.open:
            raise Violation(f"integrity: {read} shows what was refused:\n  {writer}")
        if read.start > self._expires(writer, key) + EXPIRY_SLACK_S + self._skew_s:
            raise Violation(f"lifetime: {read} shows what had expired:\n  {writer} ttl {writer.ttl_s}")
        for tag in writer.tags if self.fresh and not self.stale_s else ():
            latest = self._invalidations.get(tag, _Ended()).greatest_before(read.start)
            if latest is not None and writer.settled < latest[0]:
                raise Violation(f"tags: {read}\n  shows what {writer} wrote,\n  but of {tag} there was {latest[1]}")
        ended = self._writes.get(key) if self.fresh else None
        if ended is not None and self.stale_s:
            self._check_age(read, writer, ended)
            return
        newest = ended.greatest_before(read.start) if ended is not None else None
        if newest is not None and writer.settled < newest[0]:
            raise Violation(f"fresh: {read}\n  shows what {writer} wrote,\n  but before it there was {newest[1]}")

    def _expires(self, writer: Operation, key: str) -> float:
        """Return when a value has certainly expired: a touch that may have come in time sets the expiry anew."""
        expires = writer.settled + writer.ttl_s
        for touch in self._touches.get(key, ()):
            if touch.start <= expires + EXPIRY_SLACK_S + self._skew_s:
                expires = max(expires, touch.settled + touch.ttl_s)
        return expires

    def _check_age(self, read: Operation, writer: Operation, ended: _Ended) -> None:
        overwritten = ended.first_above(writer.settled)
        if overwritten is None or overwritten.end >= read.start:
            return
        age_s = read.start - overwritten.end
        self.stalest_s = max(self.stalest_s, age_s)
        if age_s > self.stale_s:
            raise Violation(
                f"near_staleness: {read}\n  shows what {writer} wrote,\n  {age_s:.3f} s after {overwritten} was done;"
                f" {self.stale_s:.3f} s is the bound"
            )

    def _check_miss(self, read: Operation, key: str) -> None:
        ended = self._writes.get(key) if self.durable and key not in self._short_lived else None
        newest = ended.greatest_before(read.start) if ended is not None else None
        if newest is None or newest[1].written is None or newest[1].open:
            return
        own = (newest[1], read)
        others = self._attempts[key] + [other for tag in newest[1].tags for other in self._tries.get(tag, ())]
        rivals = [other for other in others if other not in own and other.settled > newest[0]]
        if not rivals:
            raise Violation(f"durable: {read}\n  missed {key}, though there was {newest[1]}")
