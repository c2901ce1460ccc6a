"""When entries expire: bookings by entry index, in buckets of 250 ms.

An entry that expires is booked in one bucket. It keeps an earlier booking when it is overwritten with a later expiry,
and is booked anew when that booking is due; an index that becomes free keeps its booking for the next entry that gets
the index. So neither overwriting nor frequent replacement makes the calendar grow. Only an expiry earlier than the one
booked leaves an old booking behind, which is recognised when it is due, within ``HORIZON_MS``.
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush
from typing import Final

from meshcache.protocol.record import expires_ms_of

BUCKET_MS: Final = 250
"""The width of a bucket: how long an expired entry may stay, besides the time between two turns."""

HORIZON_MS: Final = 600_000
"""How far ahead an entry is booked at most; an entry that lives longer is booked again after this time."""


class Calendar:
    """The bookings of one store. It reads no clock: ``now_ms`` is the time of the last ``turn_to``."""

    def __init__(self) -> None:
        self.booked = array("Q")
        """By index, the bucket in which the entry is booked; 0: in none."""
        self.buckets: dict[int, array[int]] = {}
        self.due: list[int] = []
        """A heap of the buckets that exist."""
        self.bookings = 0
        self._expiry = b""
        """The expiry that was booked last, and its bucket."""
        self._bucket = 0
        self._horizon = 0

    def clear(self, indices: int) -> None:
        """Forget all bookings; there are so many indices, none of them booked."""
        self.booked[:] = array("Q", bytes(8 * indices))
        self.buckets.clear()
        self.due.clear()
        self.bookings = 0

    def turn_to(self, now_ms: int) -> None:
        """Set the time from which bookings are made."""
        self._horizon = (now_ms + HORIZON_MS) // BUCKET_MS

    def book(self, index: int, record: bytes) -> None:
        """Have an entry looked at when this record of it expires, or earlier."""
        if record[16:22] != self._expiry:
            # The records of one batch usually have the same expiry.
            self._expiry = record[16:22]
            self._bucket = expires_ms_of(record) // BUCKET_MS
        bucket = min(self._bucket, self._horizon)
        if 0 < self.booked[index] <= bucket:
            return
        self.booked[index] = bucket
        self.bookings += 1
        booking = self.buckets.get(bucket)
        if booking is None:
            booking = self.buckets[bucket] = array("I")
            heappush(self.due, bucket)
        booking.append(index)

    def take(self, now_ms: int, budget: int) -> tuple[list[int], bool]:
        """Return the entries to look at now, and whether there are more; old bookings count towards the budget, too."""
        taken: list[int] = []
        booked, due = self.booked, self.due
        while due and (due[0] + 1) * BUCKET_MS <= now_ms:
            bucket = due[0]
            booking = self.buckets[bucket]
            while booking:
                if not budget:
                    return taken, True
                budget -= 1
                index = booking.pop()
                self.bookings -= 1
                if booked[index] == bucket:
                    booked[index] = 0
                    taken.append(index)
            heappop(due)
            del self.buckets[bucket]
        return taken, False
