"""Drop floors: versions that a clear or a tag invalidation leaves on a node, and that later records must exceed.

A node that drops many keys at once does not know all of them, least of all those that are still on their way: in a
write that was stamped before, a hint, a repair, a page of a slot that moves. So a drop is remembered not by key but by
its name, a prefix or a tag, with the version of the drop. From then on a record under that name is taken only if it is
newer, for as long as an older record could arrive: the tombstone grace, counted from the drop itself, so that it ends
at the same time on all nodes that the floor is passed on to.

The number of floors is bounded. Of prefixes the oldest is forgotten first. Tags may be many, so the oldest tags are not
forgotten but made coarse: tags that fall into the same one of ``BUCKETS`` share the greatest of their versions. That
can only refuse more old records than it should, and so costs misses and never a stale read.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Final
from zlib import crc32

from meshcache.protocol.clock import LEAD_MS_MAX, wall_ms_of
from meshcache.protocol.messages import COARSE_TAGS, EventKind, Floor
from meshcache.protocol.record import EXTRAS, VERSION_BYTES, tags_of

PREFIXES_MAX: Final = 1024
TAGS_MAX: Final = 16_384
"""How many tags are remembered by name: about 4 MB."""
BUCKETS: Final = 16_384
PAGE_FLOORS: Final = 1024
"""How many floors are in one message to a node that joins."""


class Floors:
    """The floors of one node. ``grace_ms``: how long each is kept. It reads no clock: the wall time is an argument."""

    __slots__ = (
        "_coarse",
        "_prefixes",
        "_tags",
        "grace_ms",
        "greatest",
    )

    def __init__(self, grace_ms: int) -> None:
        self.grace_ms = grace_ms
        self._prefixes: OrderedDict[bytes, bytes] = OrderedDict()
        self._tags: OrderedDict[bytes, bytes] = OrderedDict()
        self._coarse: OrderedDict[bytes, bytes] = OrderedDict()
        """Name to version, each in about the order of the versions. A dict from whose front much was deleted takes long
        to find its first item; an OrderedDict does not."""
        self.greatest = b""
        """No floor is above this version: usually, comparing with it is all that a new record needs."""

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self.greatest)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._prefixes) + len(self._tags) + len(self._coarse)

    def set(self, kind: int, name: bytes, version: bytes, now_ms: int) -> bool:
        """Note a drop; return False if it changes nothing: it is known, or over, or from too far in the future."""
        held = self._of(kind)
        age_ms = now_ms - wall_ms_of(version)
        if held.get(name, b"") >= version or not -LEAD_MS_MAX <= age_ms < self.grace_ms:
            return False
        held.pop(name, None)
        held[name] = version
        self.greatest = max(self.greatest, version)
        if len(self._prefixes) > PREFIXES_MAX:
            self._prefixes.popitem(last=False)
        if len(self._tags) > TAGS_MAX:
            oldest, dropped = self._tags.popitem(last=False)
            bucket = bucket_of(oldest)
            self._coarse[bucket] = max(self._coarse.pop(bucket, b""), dropped)
        return True

    def _of(self, kind: int) -> OrderedDict[bytes, bytes]:
        if kind == EventKind.CLEAR:
            return self._prefixes
        return self._tags if kind == EventKind.TAG else self._coarse

    def overruled(self, keys: list[bytes], records: list[bytes], now_ms: int) -> dict[int, bytes]:
        """Return, by index, the version of a drop that forbids a record, because the record is not newer."""
        greatest = self.greatest
        old = [i for i, record in enumerate(records) if record[:VERSION_BYTES] <= greatest]
        if not old:
            return {}
        self._forget(now_ms)
        found: dict[int, bytes] = {}
        prefixes = tuple(self._prefixes)
        for i in old:
            key, record = keys[i], records[i]
            above = [b""]
            if prefixes and key.startswith(prefixes):
                above += [version for prefix, version in self._prefixes.items() if key.startswith(prefix)]
            if record[22] & EXTRAS and (self._tags or self._coarse):
                for tag in tags_of(record):
                    above.append(self._tags.get(tag, b""))
                    above.append(self._coarse.get(bucket_of(tag), b""))
            floor = max(above)
            if floor >= record[:VERSION_BYTES]:
                found[i] = floor
        return found

    def _forget(self, now_ms: int) -> None:
        """Forget the floors that are older than the grace."""
        for held in (self._prefixes, self._tags, self._coarse):
            while held:
                oldest = next(iter(held))
                if now_ms - wall_ms_of(held[oldest]) < self.grace_ms:
                    break
                del held[oldest]
        if not len(self):
            self.greatest = b""

    def page(self, cursor: bytes) -> tuple[bytes, list[Floor]]:
        """Return the floors whose place in a fixed order is after ``cursor``, up to a page, and the last one's place.

        An empty page is the end.
        """
        places = [place for place in self._places() if place > cursor]
        chosen = heapq.nsmallest(PAGE_FLOORS, places) if len(places) > PAGE_FLOORS else sorted(places)
        page = [Floor(place[0], place[1:], self._of(place[0])[place[1:]]) for place in islice(chosen, PAGE_FLOORS)]
        return (chosen[-1] if chosen else cursor), page

    def _places(self) -> Iterator[bytes]:
        for kind in (COARSE_TAGS, int(EventKind.CLEAR), int(EventKind.TAG)):
            front = bytes((kind,))
            for name in self._of(kind):
                yield front + name


def bucket_of(tag: bytes) -> bytes:
    """Return the number of a tag's bucket, as floors name it."""
    return (crc32(tag) % BUCKETS).to_bytes(2, "big")
