"""The queue of write-behind: writes are accepted when they are on disk.

One thread, the *committer*, owns the file. While it commits, the writes of other threads and tasks collect, and the
next commit has them all (group commit): so waiting for the disk costs little per write. A caller that waits has a
Future, which both drivers can wait for. Everything else is in memory, in ``backlog.py``; the file is read when it is
opened.

A caller that finds the queue full waits in line until there is room or its time is over. The thread or task that stores
asks for a batch and reports the result.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from meshcache.errors import OperationTimeout, QueueFull, QueueUnusable
from meshcache.patterns.backlog import Backlog, Entry, Limits
from meshcache.patterns.journal import Journal, Refused, Sync

DISK_PAUSE_S: Final = 0.1
"""The pause after a commit that failed."""
_log = logging.getLogger("meshcache.patterns")


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """The state of a write-behind queue, and counts of this process."""

    waiting: int
    """Writes that are on disk and not yet in the database."""
    waiting_bytes: int
    set_aside: int
    """Writes that the database refused too often; they are kept in the file."""
    accepted: int
    stored: int
    """Writes that reached the database …"""
    superseded: int
    """… and those that a later write of their key made unnecessary."""
    commits: int
    """Commits to the file."""
    refusals: int
    outages: int
    unpublished: int
    """How often the cache could not be told of a write."""
    oldest_s: float
    """How long the oldest write has waited, among those that this process accepted."""
    last_error: str


@dataclass(slots=True, eq=False)
class Ticket:
    """Writes that are accepted together, and the future that says so."""

    entries: list[Entry]
    deadline: float
    done: Future[None] = field(default_factory=Future)


@dataclass(slots=True, eq=False)
class _Flush:
    sequence: int
    deadline: float
    done: Future[None]


def _future() -> Future[Any]:
    """Return a future that nobody can cancel: what it reports happens in any case."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


class DurableQueue:
    """The queue; see the module. Every method may be called from any thread."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        sync: Sync,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Open the file and read the writes in it. Raises QueueUnusable."""
        self._journal = Journal(path, sync)
        self._limits = limits
        self._clock = clock
        self._pid = os.getpid()
        self._wake = threading.Condition()
        self._backlog = Backlog(limits, rng or random.Random())
        now = clock()
        for entry in self._journal.waiting():
            self._backlog.append(entry, now)
        self._set_aside = OrderedDict((each.sequence, each) for each in self._journal.refused())
        self._sequence = self._journal.first_sequence()
        self._accepted_at: deque[tuple[int, float]] = deque()
        self._staged: list[Ticket] = []
        self._staged_entries = 0
        self._staged_bytes = 0
        self._line: deque[Ticket] = deque()
        self._removed: list[int] = []
        self._refused: list[Refused] = []
        self._taken_back: list[int] = []
        self._flushes: list[_Flush] = []
        self._wanted: Future[list[Entry]] | None = None
        self._accepting = True
        self._ending = False
        self._not_before = -math.inf
        self._sleeps_until = -math.inf
        self._ended: Future[int] = _future()
        self._counts = dict.fromkeys(
            ("accepted", "stored", "superseded", "commits", "refusals", "outages", "unpublished"), 0
        )
        self._last_error = ""
        self._committer = threading.Thread(target=self._commit_forever, name="meshcache-queue", daemon=True)
        self._committer.start()

    # ---- for writers and readers

    def append(self, writes: Sequence[tuple[bytes, bytes | None]], timeout_s: float) -> Ticket:
        """Accept writes, all or none; the ticket is done when they are on disk.

        The ticket fails with QueueFull if there is no room in time, and with QueueUnusable. Its writes are not stored
        before they are released.
        """
        entries = [Entry(0, key, value) for key, value in writes]
        size = sum(entry.size for entry in entries)
        if len(entries) > self._limits.max_entries or size > self._limits.max_bytes:
            raise ValueError(
                f"{len(entries):,} writes of {size:,} bytes at once; the queue takes "
                f"max_entries={self._limits.max_entries:,} and max_bytes={self._limits.max_bytes:,}"
            )
        self._check_process()
        ticket = Ticket(entries, self._clock() + timeout_s, _future())
        with self._wake:
            self._check_open()
            if len(self._line) >= self._limits.max_entries:
                raise self._full()
            self._line.append(ticket)
            self._admit()
            self._wake.notify()
        return ticket

    def release(self, ticket: Ticket) -> None:
        """Allow writes to be stored."""
        with self._wake:
            now = self._clock()
            for entry in ticket.entries:
                self._backlog.release(entry, now)
            if self._wanted is not None and self._backlog.due() < self._sleeps_until:
                self._wake.notify()

    def newest(self, key: bytes) -> Entry | None:
        """Return the last write of a key that is on disk and not yet in the database."""
        self._check_process()
        with self._wake:
            return self._backlog.newest(key)

    def flush(self, timeout_s: float) -> Future[None]:
        """Return a future that is done when all writes accepted so far are in the database, or set aside."""
        self._check_process()
        flush = _Flush(0, self._clock() + timeout_s, _future())
        with self._wake:
            self._check_open()
            flush.sequence = self._sequence - 1
            self._flushes.append(flush)
            self._wake.notify()
        return flush.done

    def statistics(self) -> QueueStatistics:
        """Return the counts and the state of the queue."""
        with self._wake:
            self._prune()
            return QueueStatistics(
                waiting=len(self._backlog),
                waiting_bytes=self._backlog.bytes,
                set_aside=len(self._set_aside),
                oldest_s=self._clock() - self._accepted_at[0][1] if self._accepted_at else 0.0,
                last_error=self._last_error,
                **self._counts,
            )

    def set_aside(self) -> list[Refused]:
        """Return the writes that the database refused too often."""
        with self._wake:
            return list(self._set_aside.values())

    def take_back(self, sequences: Iterable[int], *, again: bool) -> None:
        """Store writes that were set aside once more, with their old sequence numbers, or drop them."""
        self._check_process()
        with self._wake:
            self._check_open()
            chosen = list(dict.fromkeys(sequences))
            if unknown := [sequence for sequence in chosen if sequence not in self._set_aside]:
                raise KeyError(f"not set aside: {', '.join(map(str, unknown))}")
            for sequence in chosen:
                held = self._set_aside.pop(sequence)
                self._taken_back.append(sequence)
                if again:
                    entry = Entry(sequence, held.key, held.value, released=True)
                    self._stage(Ticket([entry], math.inf, _future()))
            self._wake.notify()

    def stop_accepting(self) -> None:
        """Refuse further writes, also those that wait in line for room."""
        with self._wake:
            self._accepting = False
            line, self._line = self._line, deque()
        for ticket in line:
            ticket.done.set_exception(QueueUnusable(f"{self._journal.path}: the queue is closed"))

    @property
    def accepting(self) -> bool:
        """Whether writes are accepted."""
        return self._accepting

    def end(self) -> Future[int]:
        """Close the file; the future's result is how many writes are left in it."""
        with self._wake:
            self._accepting = False
            self._ending = True
            self._wake.notify()
        return self._ended

    # ---- for the thread or task that stores

    def next_batch(self) -> Future[list[Entry]]:
        """Return a future of the next batch; an empty batch means the end."""
        with self._wake:
            self._wanted = wanted = _future()
            if self._ending:
                self._wanted = None
                wanted.set_result([])
            self._wake.notify()
        return wanted

    def is_newest(self, entry: Entry) -> bool:
        """Tell whether no later write of its key waits."""
        with self._wake:
            return self._backlog.newest(entry.key) is entry

    def stored(self, batch: Iterable[Entry]) -> None:
        """Note that writes are in the database."""
        with self._wake:
            for entry in batch:
                gone = self._backlog.stored(entry)
                self._removed += gone
                self._counts["stored"] += 1
                self._counts["superseded"] += len(gone) - 1

    def refused(self, entry: Entry, error: Exception) -> bool:
        """Note that the database refused a write; return True if the write is set aside now."""
        with self._wake:
            self._counts["refusals"] += 1
            self._last_error = f"{type(error).__name__}: {error}"
            if not self._backlog.refused(entry, self._clock()):
                return False
            held = Refused(entry.sequence, entry.key, entry.value, self._last_error, entry.refusals)
            self._set_aside[entry.sequence] = held
            self._removed.append(entry.sequence)
            self._refused.append(held)
        _log.error("set aside write %d after %d attempts: %s", held.sequence, held.attempts, held.error)
        return True

    def unreachable(self, error: Exception) -> None:
        """Note that the database cannot be reached."""
        with self._wake:
            self._counts["outages"] += 1
            self._last_error = f"{type(error).__name__}: {error}"
            self._backlog.unreachable(self._clock())

    def returned(self, batch: list[Entry]) -> None:
        """End a batch."""
        with self._wake:
            self._backlog.returned(batch, self._clock())
            self._wake.notify()

    def unpublished(self) -> None:
        """Count that the cache could not be told of a write."""
        with self._wake:
            self._counts["unpublished"] += 1

    # ---- the committer

    def _commit_forever(self) -> None:
        while True:
            with self._wake:
                settle = self._turn()
                while not (settle or self._has_work() or self._ending):
                    self._sleeps_until = self._until()
                    pause_s = self._sleeps_until - self._clock()
                    if pause_s > 0:
                        self._wake.wait(None if pause_s == math.inf else pause_s)
                    self._sleeps_until = -math.inf
                    settle = self._turn()
                work = self._staged, self._removed, self._refused, self._taken_back
                if not settle:
                    self._staged, self._removed, self._refused, self._taken_back = [], [], [], []
            if settle:
                for settled in settle:
                    settled()
            elif any(work):
                self._commit(*work)
            else:
                break
        self._close()

    def _has_work(self) -> bool:
        work = self._staged or self._removed or self._refused or self._taken_back
        return bool(work) and (self._ending or self._clock() >= self._not_before)

    def _turn(self) -> list[Callable[[], None]]:
        """Give room to writes in line, and return the futures to complete, which is done without the lock."""
        now = self._clock()
        self._admit()
        settle: list[Callable[[], None]] = []
        for ticket in [ticket for ticket in self._line if ticket.deadline <= now]:
            self._line.remove(ticket)
            settle.append(_failing(ticket.done, self._full()))
        oldest = self._backlog.oldest
        staged = self._staged[0].entries[0].sequence if self._staged else None
        for flush in list(self._flushes):
            if all(first is None or first > flush.sequence for first in (oldest, staged)):
                self._flushes.remove(flush)
                settle.append(_setting(flush.done, None))
            elif flush.deadline <= now or self._ending:
                self._flushes.remove(flush)
                late = OperationTimeout(f"flush: {len(self._backlog):,} writes are not in the database yet")
                settle.append(_failing(flush.done, late))
        if self._wanted is not None:
            batch = [] if self._ending else self._backlog.take(now, hurry=bool(self._flushes))
            if batch or self._ending:
                settle.append(_setting(self._wanted, batch))
                self._wanted = None
        return settle

    def _until(self) -> float:
        """Return when there is something to do, if nothing else happens before."""
        times = [flush.deadline for flush in self._flushes]
        times += [ticket.deadline for ticket in self._line]
        if self._wanted is not None:
            times.append(self._backlog.due())
        if self._staged or self._removed or self._refused or self._taken_back:
            times.append(self._not_before)
        return min(times, default=math.inf)

    def _admit(self) -> None:
        """Number those writes for which there is room, in the order in which they came."""
        while self._line:
            ticket = self._line[0]
            size = sum(entry.size for entry in ticket.entries)
            entries = len(self._backlog) + len(self._set_aside) + self._staged_entries + len(ticket.entries)
            if (
                entries > self._limits.max_entries
                or self._backlog.bytes + self._staged_bytes + size > self._limits.max_bytes
            ):
                return
            self._line.popleft()
            for entry in ticket.entries:
                entry.sequence = self._sequence
                self._sequence += 1
            self._stage(ticket)

    def _stage(self, ticket: Ticket) -> None:
        self._staged.append(ticket)
        self._staged_entries += len(ticket.entries)
        self._staged_bytes += sum(entry.size for entry in ticket.entries)

    def _commit(self, tickets: list[Ticket], removed: list[int], refused: list[Refused], taken_back: list[int]) -> None:
        entries = [entry for ticket in tickets for entry in ticket.entries]
        failure: QueueUnusable | None = None
        try:
            self._journal.commit(entries, removed, refused, taken_back)
        except Exception as error:  # noqa: BLE001  (whatever it is, nobody must wait for ever)
            failure = QueueUnusable(f"{self._journal.path}: {error}")
        with self._wake:
            now = self._clock()
            self._staged_entries -= len(entries)
            self._staged_bytes -= sum(entry.size for entry in entries)
            if failure is None:
                for entry in entries:
                    self._backlog.append(entry, now)
                if entries:
                    self._accepted_at.append((entries[-1].sequence, now))
                    self._prune()
                self._counts["accepted"] += len(entries)
                self._counts["commits"] += 1
            else:
                self._last_error = str(failure)
                if not self._ending:
                    self._removed[:0], self._refused[:0], self._taken_back[:0] = removed, refused, taken_back
                    self._not_before = now + DISK_PAUSE_S
        for ticket in tickets:
            if failure is None:
                ticket.done.set_result(None)
            else:
                ticket.done.set_exception(failure)

    def _prune(self) -> None:
        """Forget the times at which writes were accepted that no longer wait."""
        oldest = self._backlog.oldest
        while self._accepted_at and (oldest is None or self._accepted_at[0][0] < oldest):
            self._accepted_at.popleft()

    def _close(self) -> None:
        self.stop_accepting()
        self._journal.close()
        with self._wake:
            left = len(self._backlog)
        self._ended.set_result(left)

    def _full(self) -> QueueFull:
        return QueueFull(len(self._backlog) + len(self._set_aside), self._limits.max_entries)

    def _check_process(self) -> None:
        """Refuse to work after a fork: the file is the parent's, and the lock may be.

        Call it without holding the lock.
        """
        if os.getpid() != self._pid:
            raise QueueUnusable(
                f"{self._journal.path}: this queue belongs to process {self._pid}; after a fork, make another with a "
                "file of its own"
            )

    def _check_open(self) -> None:
        if not self._accepting:
            raise QueueUnusable(f"{self._journal.path}: the queue is closed")


def _setting(future: Future[Any], value: Any) -> Callable[[], None]:
    return lambda: future.set_result(value)


def _failing(future: Future[Any], error: Exception) -> Callable[[], None]:
    return lambda: future.set_exception(error)
