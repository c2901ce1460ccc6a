"""Reads from other nodes run a few at a time, since nobody knows beforehand how many bytes they bring.

What is read from another node comes over the one link to it, and all other answers of that node wait behind it. So the
reads of all connections together are bounded by their keys, and the large reads also by their bytes. How much a key
brings is guessed from the last reads of the same connection or, for a new connection, of all others. Small reads never
wait for large ones. Connections take turns.

A read can end as it begins: that of a connection which is served no more, say. Thousands that wait may do so, and the
first that ends would set off all others. So one turn of the node begins ``BEGUN_PER_TURN`` at most.

A connection has no more reads wait than can be read while its callers wait. A client that asks for megabytes thousands
of times, and reads none of them, is refused after the first ones have ended, long before it is known not to read.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

READ_KEYS_MAX: Final = 64
"""How many keys of reads from other nodes run at a time; one read counts for at most ``KEYS_COUNTED_MAX`` keys."""
KEYS_COUNTED_MAX: Final = 16
READ_KEYS_OF_ONE_MAX: Final = 32
"""How many of these keys may belong to one connection."""
SMALL_BYTES: Final = 64 << 10
"""A read that is expected to bring more bytes than this is large."""
LARGE_KEYS_MAX: Final = 48
"""How many keys of large reads run at a time; the rest is left to small reads."""
LARGE_BYTES_MAX: Final = 4 << 20
"""How many bytes the large reads that run may bring together; a single large read may always run."""
READ_BYTES_MAX: Final = 16 << 20
"""No further read begins while this many bytes have been read and cannot be answered yet."""
WAITING_BYTES_MAX: Final = 64 << 20
"""How many bytes the reads that wait of one connection may be expected to bring, once a read of it has ended: more
could not be read while their callers wait, nor be sent while they do not read. One read may always wait."""
READS_WAITING_MAX: Final = 1024
"""How many reads of one connection may wait; more are refused …"""
READS_WAITING_MANY: Final = 2048
"""… and if so many of all connections wait …"""
READS_WAITING_SHARE: Final = 64
"""… only so many of each: what waits is also what the collector of garbage looks through."""
BEGUN_PER_TURN: Final = 128
"""How many reads one turn may begin: a few milliseconds of work, and twice of what runs at a time."""
KEY_BYTES_AT_FIRST: Final = 128 << 10
"""The guess of what a key brings, before anything was read."""
LATEST_WEIGHT: Final = 0.5
"""The weight of the latest read in a guess."""
GUESSES_MAX: Final = 4096


class _Line:
    """The reads that wait of one connection."""

    __slots__ = ("keys", "reads")

    def __init__(self) -> None:
        self.reads: deque[tuple[int, Callable[[float], None]]] = deque()
        """For each its keys, and what begins it."""
        self.keys = 0
        """Of all of them."""


class RemoteReads:
    """The reads from other nodes that one node runs, by the connection that asked."""

    def __init__(self, held_bytes: Callable[[], int]) -> None:
        """``held_bytes`` returns how many bytes were read and cannot be answered yet."""
        self._held_bytes = held_bytes
        self._running: Counter[bytes] = Counter()
        """Keys of the reads that run, by connection."""
        self._total = 0
        self._large_bytes = 0.0
        """How many bytes the large reads that run are expected to bring."""
        self.waiting: dict[bytes, _Line] = {}
        """The reads that wait, by connection; the first connection is next."""
        self._guesses: dict[bytes, float] = {}
        """By connection, the guess of how many bytes a key brings."""
        self._guess = float(KEY_BYTES_AT_FIRST)
        """The guess for a connection of which nothing is known yet."""
        self._count = 0
        """How many reads wait."""
        self.refused = 0
        """How many were too many to wait."""
        self._beginning = False
        self._left = BEGUN_PER_TURN
        """How many more this turn may begin."""

    @property
    def is_more(self) -> bool:
        """Tell whether reads wait only because this turn has begun enough of them."""
        return bool(self.waiting) and not self._left

    def run(self) -> None:
        """Begin what may be begun in another turn. The node calls this once in each while reads wait."""
        is_more, self._left = self.is_more, BEGUN_PER_TURN
        if is_more:
            self._begin()

    def knows(self, origin: bytes) -> bool:
        """Tell whether this connection has read before, so that the guess of what a key brings is its own."""
        return origin in self._guesses

    def start(self, origin: bytes, keys: int, begin: Callable[[float], None]) -> bool:
        """Begin a read now or when others have ended; return False if too many wait.

        ``begin`` is called with the bytes that the read is expected to bring, and must pass them to ``ended``, once for
        each read. ``begin`` must raise nothing: it may be called while another read ends.
        """
        line = self.waiting.get(origin)
        if line is None:
            line = self.waiting[origin] = _Line()
        elif self._is_full(origin, line, keys):
            self.refused += 1
            return False
        line.reads.append((keys, begin))
        line.keys += keys
        self._count += 1
        if len(line.reads) == 1:  # for the one before it there was no room, and that has not changed
            self._begin()
        return True

    def _is_full(self, origin: bytes, line: _Line, keys: int) -> bool:
        if len(line.reads) >= (READS_WAITING_MAX if self._count < READS_WAITING_MANY else READS_WAITING_SHARE):
            return True
        return (line.keys + keys) * self._guesses.get(origin, 0.0) > WAITING_BYTES_MAX

    def ended(self, origin: bytes, keys: int, keys_read: int, expected_bytes: float, read_bytes: int) -> None:
        """Note that a read of this connection has ended and what its keys brought, and begin reads that wait.

        ``keys_read``: of how many of the keys it was; where a reply has no room for all of them, not of all. 0: nothing
        was read, and nothing is learnt.
        """
        count = min(keys, KEYS_COUNTED_MAX)
        self._total -= count
        self._running[origin] -= count
        if not self._running[origin]:
            del self._running[origin]
        if expected_bytes > SMALL_BYTES:
            self._large_bytes -= expected_bytes
        if keys_read:
            self._learn(origin, read_bytes / keys_read)
        if self.waiting:
            self._begin()

    def _learn(self, origin: bytes, key_bytes: float) -> None:
        before = self._guesses.pop(origin, key_bytes)
        self._guesses[origin] = before + LATEST_WEIGHT * (key_bytes - before)
        self._guess += LATEST_WEIGHT * (key_bytes - self._guess)
        if len(self._guesses) > GUESSES_MAX:
            del self._guesses[next(iter(self._guesses))]

    def _begin(self) -> None:
        """Begin reads that may run. A read can end before its ``begin`` returns, and then calls this again."""
        if self._beginning:
            return
        self._beginning = True
        try:
            while self._begin_next():
                pass
        finally:
            self._beginning = False

    def _begin_next(self) -> bool:
        """Begin the next read of each connection that has room; return False if none has."""
        begun = False
        for origin in tuple(self.waiting):
            if not self._left:
                return False
            keys, begin = self.waiting[origin].reads[0]
            expected_bytes = keys * self._guesses.get(origin, self._guess)
            if self._has_room(origin, min(keys, KEYS_COUNTED_MAX), expected_bytes):
                self._leave_line(origin)
                count = min(keys, KEYS_COUNTED_MAX)
                self._running[origin] += count
                self._total += count
                if expected_bytes > SMALL_BYTES:
                    self._large_bytes += expected_bytes
                begun = True
                self._left -= 1
                begin(expected_bytes)
        return begun

    def _leave_line(self, origin: bytes) -> None:
        line = self.waiting.pop(origin)
        keys, _ = line.reads.popleft()
        line.keys -= keys
        self._count -= 1
        if line.reads:
            self.waiting[origin] = line  # behind the other connections

    def _has_room(self, origin: bytes, count: int, expected_bytes: float) -> bool:
        if not self._total:
            return True
        is_large = expected_bytes > SMALL_BYTES
        room = (LARGE_KEYS_MAX if is_large else READ_KEYS_MAX) - self._total
        if count > room or self._running.get(origin, 0) + count > READ_KEYS_OF_ONE_MAX:
            return False
        if not is_large or not self._large_bytes:
            return True
        return self._large_bytes + expected_bytes <= LARGE_BYTES_MAX and self._held_bytes() < READ_BYTES_MAX
