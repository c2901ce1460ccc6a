"""Reads that other nodes are asked for, a few at a time: nobody knows beforehand how much they bring.

What is read elsewhere comes over the one link to its node, and whatever else that node answers waits behind it. So the
reads of all connections together are bounded by their keys, and the large among them by their bytes as well: how much
a key brings is guessed from what the last ones of the same connection brought, or of all others, if it is new. Small
reads never wait for large ones. Connections take turns.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

READ_KEYS_MAX: Final = 64
"""Keys of reads from other nodes that run at a time; a read counts for ``KEYS_COUNTED_MAX`` of them at most …"""
KEYS_COUNTED_MAX: Final = 16
READ_KEYS_OF_ONE_MAX: Final = 32
"""… and those of one connection for so many."""
SMALL_BYTES: Final = 64 << 10
"""A read that is expected to bring more is large …"""
LARGE_KEYS_MAX: Final = 48
"""… and large ones have room for so many keys, and leave the rest to the small …"""
LARGE_BYTES_MAX: Final = 4 << 20
"""… and those that run at a time may bring so much; one always may …"""
READ_BYTES_MAX: Final = 16 << 20
"""… and no other begins while so much has been read that cannot be answered yet."""
READS_WAITING_MAX: Final = 1024
"""Of one connection; more are refused."""
KEY_BYTES_AT_FIRST: Final = 128 << 10
"""The guess before anything was read."""
LATEST_WEIGHT: Final = 0.5
"""Of the read that ended last in a guess."""
GUESSES_MAX: Final = 4096


class RemoteReads:
    """The reads of one node, by the connection that they came on."""

    def __init__(self, held_bytes: Callable[[], int]) -> None:
        """``held_bytes``: what was read and cannot be answered yet."""
        self._held_bytes = held_bytes
        self._running: Counter[bytes] = Counter()
        """Keys, by connection."""
        self._total = 0
        self._large_bytes = 0.0
        """What the large reads that run are expected to bring."""
        self._waiting: dict[bytes, deque[tuple[int, Callable[[float], None]]]] = {}
        """In the order of whose turn it is."""
        self._guesses: dict[bytes, float] = {}
        """Bytes that a key of a connection brings."""
        self._guess = float(KEY_BYTES_AT_FIRST)
        """The same of connections that nothing is known of."""
        self._beginning = False

    def start(self, origin: bytes, keys: int, begin: Callable[[float], None]) -> bool:
        """Begin a read now or when others have ended; False if too many wait.

        ``begin`` is given what the read is expected to bring, to hand it to ``ended``, which is called once for each.
        It raises nothing: it may be called because another's read has ended.
        """
        line = self._waiting.setdefault(origin, deque())
        if len(line) >= READS_WAITING_MAX:
            return False
        line.append((keys, begin))
        self._begin()
        return True

    def ended(self, origin: bytes, keys: int, expected_bytes: float, read_bytes: int) -> None:
        """A read of this connection has ended, and brought so much: others may begin."""
        count = min(keys, KEYS_COUNTED_MAX)
        self._total -= count
        self._running[origin] -= count
        if not self._running[origin]:
            del self._running[origin]
        if expected_bytes > SMALL_BYTES:
            self._large_bytes -= expected_bytes
        self._learn(origin, read_bytes / max(1, keys))
        if self._waiting:
            self._begin()

    def _learn(self, origin: bytes, key_bytes: float) -> None:
        before = self._guesses.pop(origin, key_bytes)
        self._guesses[origin] = before + LATEST_WEIGHT * (key_bytes - before)
        self._guess += LATEST_WEIGHT * (key_bytes - self._guess)
        if len(self._guesses) > GUESSES_MAX:
            del self._guesses[next(iter(self._guesses))]

    def _begin(self) -> None:
        """Begin what may; a read can end before its beginning returns, and then calls this again."""
        if self._beginning:
            return
        self._beginning = True
        try:
            while self._begin_next():
                pass
        finally:
            self._beginning = False

    def _begin_next(self) -> bool:
        """Begin the next read of each connection that has room; False if none has."""
        begun = False
        for origin in tuple(self._waiting):
            keys, begin = self._waiting[origin][0]
            expected_bytes = keys * self._guesses.get(origin, self._guess)
            if self._has_room(origin, min(keys, KEYS_COUNTED_MAX), expected_bytes):
                self._leave_line(origin)
                count = min(keys, KEYS_COUNTED_MAX)
                self._running[origin] += count
                self._total += count
                if expected_bytes > SMALL_BYTES:
                    self._large_bytes += expected_bytes
                begun = True
                begin(expected_bytes)
        return begun

    def _leave_line(self, origin: bytes) -> None:
        line = self._waiting.pop(origin)
        line.popleft()
        if line:
            self._waiting[origin] = line  # behind the others

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
