"""Snapshots: what a node holds as a row of blocks, written a block at a time and read back as far as it is whole.

::

    snapshot = HEAD FLOORS *SLOT HEAD FLOORS END     ; the second HEAD and FLOORS repeat the first: one may be damaged
    block    = start (4)  kind (1)  length (4)  crc32 of kind, length and content (4)  content, in msgpack
    HEAD     = a map: the fields of Head, and the version of the format
    FLOORS   = [[kind, name, version], …]            ; what clears and tag invalidations left, see drop_floors.py
    SLOT     = [slot, eviction floor, [key, …], [record, …]]      ; a part of a slot, and what was forgotten of it
    END      = [number of SLOT blocks]

**What it is a picture of.** Writes go on while it is taken, so its blocks are of different times. Its time is its
*begin*: all that was stored here by then is in it, or was replaced by something newer that is in it. What was stored
later may be in it or not; it bears its own version and overrules nothing that is newer. The floors are those of the
begin, too. A record that one of them forbids may be in a later block, if the sweep is not through yet: it is left out
when the floors are held against it at the load. A clear after the begin is missing in the same way as a delete after it
or a write after it: the snapshot is older than all three, and is treated as that old. What a slot has *evicted* is
taken in one step with a part of its records, so that no block shows an old record beside a gap that its floor does not
know of.

A snapshot that is taken when the node has stopped serving is *final*: nothing that the node has acknowledged is missing
in it. It is final only until the node starts again (node/snapshots.py sees to that).

**What is read.** A block whose checksum does not fit is left out and named; the next one is found by how it starts. A
file is of no use at all without a HEAD and FLOORS (of the records alone nobody could say which were dropped), if it is
another cluster's or node's, of a newer format, older than the grace of deletes, or of a time that has not come yet:
then the clock was set back, and nothing in it could be judged. Values that have expired are not kept; their versions
are, as marks, lest somebody else bring up what they had replaced.

**Other versions.** A later version may add what an older one can do without: fields of HEAD, kinds of blocks, items at
the end of a SLOT, of a floor, of END. They are ignored, and are no damage. What must not be ignored raises the number
of the format: then the file is refused as a whole, the node says so and starts without it. Fields of HEAD that come
later have defaults, so that files of the same format that were written before stay readable.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from zlib import crc32

import msgpack

from meshcache.config import Config
from meshcache.core.storage.charges import Charges
from meshcache.core.storage.choice import store_of
from meshcache.core.storage.store import Store
from meshcache.protocol import messages as m
from meshcache.protocol.clock import LEAD_MS_MAX, clock_of, wall_ms_of
from meshcache.protocol.facts import FACTS_MAX
from meshcache.protocol.record import (
    HEADER_BYTES,
    STAMP_BYTES,
    TOMBSTONE,
    VERSION_BYTES,
    expiry_bytes,
    stamp,
    version_of,
)

FORMAT: Final = 1

BLOCK_ENTRIES: Final = 1000
BLOCK_BYTES: Final = 256 * 1024
"""Of keys and records in one block, or one entry if that is larger: less than a millisecond of work."""
CONTENT_BYTES_MAX: Final = 1 << 30
"""Of a block; what announces more is damaged."""

_START: Final = b"\xf5MC\x01"
_HEADER_BYTES: Final = 13
_MARKED: Final = bytes((TOMBSTONE, 1))
"""The content of a mark. Where it comes to a store it is a tombstone, but one that is not handed on to others."""
_DAMAGED: Final = 0
"""No kind of block, but what stands for one that is damaged."""
_HEAD: Final = 1
_FLOORS: Final = 2
_SLOT: Final = 3
_SLOT_ITEMS: Final = 4
_FLOOR_ITEMS: Final = 3
_END: Final = 4
DAMAGES_TOLD: Final = 10
"""Of the damaged blocks of a file, so many are told one by one."""


@dataclass(frozen=True, slots=True)
class Head:
    """Of what a snapshot is."""

    cluster: str
    node_id: str
    slots: int
    ring: bytes
    """Digest of the ring that the node worked with."""
    members: tuple[str, ...]
    """The members of that ring, and of the former ones that it reckoned with: who may have had what this node had."""
    clock: int
    """The node's clock."""
    wall_ms: int
    """When the snapshot was begun."""
    final: bool
    """Nothing that the node has acknowledged is missing."""


@dataclass(slots=True)
class Saved:
    """What a node finds when it starts. It is not served before recall.py has held it against what others have."""

    head: Head
    store: Store
    """Its records. The floors of this store are what the node had evicted."""
    floors: list[m.Floor]
    clock: int
    """The greatest that was seen."""
    expired: int = 0
    damaged: list[str] = field(default_factory=list)
    """The first few damaged blocks, in words."""
    damaged_blocks: int = 0
    is_final: bool = True
    """The node has not run since, as far as whoever loads it knows."""

    @property
    def complete(self) -> bool:
        """Tell whether nothing that the node has acknowledged is missing."""
        return self.head.final and self.is_final and not self.damaged_blocks


class Unusable(ValueError):
    """A file that a node must not load, or cannot; the text says why."""


def mark(version: bytes, until_ms: int) -> bytes:
    """Return what stands for a record whose value is not there: nothing older of its key may be taken in."""
    return stamp(version, until_ms) + _MARKED


def is_mark(record: bytes) -> bool:
    """Tell whether this stands for a record, and is none itself."""
    return record[STAMP_BYTES:] == _MARKED


def block(kind: int, content: Any) -> bytes:
    """Return a block, in the bytes of the file."""
    packed: bytes = msgpack.packb(content)
    front = bytes((kind,)) + len(packed).to_bytes(4, "big")
    return b"".join((_START, front, crc32(packed, crc32(front)).to_bytes(4, "big"), packed))


def head_block(head: Head) -> bytes:
    """Return the block that says of what the snapshot is."""
    return block(_HEAD, {"format": FORMAT, **asdict(head)})


def floors_block(floors: list[m.Floor]) -> bytes:
    """Return the block of what was dropped by name."""
    return block(_FLOORS, floors)


def slot_block(slot: int, evicted: bytes, keys: list[bytes], records: list[bytes]) -> bytes:
    """Return a block of records; ``evicted``: the greatest version that was evicted from their slot."""
    return block(_SLOT, (slot, evicted, keys, records))


def end_block(blocks: int) -> bytes:
    """Return the last block; ``blocks``: how many of records there are."""
    return block(_END, [blocks])


def blocks_of(data: Any) -> Generator[tuple[int, Any]]:
    """Return kind and content of every block of a file (bytes, or a map of it) that is whole; of others 0, and where.

    It holds no more than one block in memory beside the file.
    """
    at, size = 0, len(data)
    with memoryview(data) as view:
        while at < size:
            found = _block_at(view, at)
            if found is not None:
                kind, content, at = found
                yield kind, content
                continue
            following = data.find(_START, at + 1)
            end = following if following >= 0 else size
            # Starts inside a damaged block are passed by together with it.
            while following >= 0 and _block_at(view, following) is None:
                following = data.find(_START, following + 1)
                end = following if following >= 0 else size
            yield _DAMAGED, f"bytes {at:,} to {end:,}"
            at = end


def _block_at(view: memoryview, at: int) -> tuple[int, Any, int] | None:
    """Return kind and content of the block here, and where it ends; None if there is none, or it is damaged."""
    if bytes(view[at : at + 4]) != _START:
        return None
    front = view[at + 4 : at + 9]
    length = int.from_bytes(front[1:5], "big")
    start, end = at + _HEADER_BYTES, at + _HEADER_BYTES + length
    if length > CONTENT_BYTES_MAX or end > len(view):
        return None
    if crc32(view[start:end], crc32(front)) != int.from_bytes(view[at + 9 : start], "big"):
        return None
    try:
        content = msgpack.unpackb(view[start:end], strict_map_key=False, max_ext_len=0)
    except Exception:  # noqa: BLE001  (msgpack raises ValueError, OverflowError, UnicodeDecodeError and more)
        return None
    return front[0], content, end


def load(data: Any, config: Config, now_ms: int, charges: Charges | None = None) -> Saved:
    """Return what is in a snapshot that may be used at this wall time. Raises Unusable, which says why not.

    ``charges``: what the entries of its store are charged; see ``store_of``.
    """
    loading = _Loading(config, now_ms, store_of(config, charges))
    with closing(blocks_of(data)) as blocks:  # whatever happens: a map with views of it can not be closed
        for kind, content in blocks:
            loading.take(kind, content)
    return loading.result()


class _Loading:
    """One file on its way into a store."""

    def __init__(self, config: Config, now_ms: int, store: Store) -> None:
        self._config = config
        self._now_ms = now_ms
        self._now_bytes = expiry_bytes(now_ms)
        self._until_ms = now_ms + int(config.store.tombstone_grace_s * 1000)
        self._store = store
        self._head: Head | None = None
        self._floors: list[m.Floor] | None = None
        self._clock = b""
        self._expired = 0
        self._damaged: list[str] = []
        self._lost = self._blocks = 0
        self._announced: int | None = None

    def take(self, kind: int, content: Any) -> None:
        """Take a block, or the place of a damaged one."""
        try:
            if kind == _HEAD:
                self._head = self._head or _head(content, self._config, self._now_ms)
            elif kind == _FLOORS:
                self._floors = self._floors or [m.Floor(*_floor(item)) for item in content]
            elif kind == _SLOT:
                self._blocks += 1
                self._take_slot(*content[:_SLOT_ITEMS])
            elif kind == _END:
                self._announced = int(content[0])
            elif kind == _DAMAGED:
                self._note_damage(str(content))
        except Unusable:
            raise
        except Exception as error:  # noqa: BLE001  (the checksum fits, and yet it makes no sense: it is damaged)
            self._note_damage(f"block {self._blocks}: {type(error).__name__}: {error}")

    def _note_damage(self, what: str) -> None:
        self._lost += 1
        if len(self._damaged) < DAMAGES_TOLD:
            self._damaged.append(what)

    def _take_slot(self, slot: int, evicted: bytes, keys: list[bytes], records: list[bytes]) -> None:
        if not 0 <= slot < self._config.cluster.slots or len(evicted) not in {0, VERSION_BYTES}:
            raise ValueError(f"slot {slot!r:.40}")
        if len(keys) != len(records) or min(map(len, records), default=HEADER_BYTES) < HEADER_BYTES:
            raise ValueError("keys and records do not fit together")
        if not all(1 <= len(key) <= m.KEY_BYTES_MAX for key in keys):
            raise ValueError("a key is empty, or too long")
        newest = max(map(version_of, records), default=b"")
        if newest and wall_ms_of(newest) > self._now_ms + LEAD_MS_MAX:
            raise Unusable(_set_back(wall_ms_of(newest) - self._now_ms))
        self._clock = max(self._clock, newest, evicted)
        self._store.floors[slot] = max(self._store.floors[slot], evicted)
        overdue = [i for i, record in enumerate(records) if record[16:22] <= self._now_bytes]
        for i in overdue:
            if not records[i][22] & TOMBSTONE:
                self._expired += 1
                records[i] = mark(version_of(records[i]), self._until_ms)
        self._store.merge(keys, records, self._now_ms)

    def result(self) -> Saved:
        """Return what was read. Raises Unusable."""
        if self._head is None:
            raise Unusable("its head is damaged, or it is no snapshot")
        if self._floors is None:
            raise Unusable("what says which keys were dropped is damaged")
        if self._announced is None or self._announced > self._blocks:
            missing = "an unknown number" if self._announced is None else self._announced - self._blocks
            self._note_damage(f"the end: {missing} of blocks are missing")
        clock = max(self._head.clock, clock_of(self._clock) if self._clock else 0)
        return Saved(
            self._head, self._store, self._floors, clock, self._expired, self._damaged, damaged_blocks=self._lost
        )


def _floor(item: list[Any]) -> tuple[int, bytes, bytes]:
    kind, name, version = item[:_FLOOR_ITEMS]
    if type(kind) is not int or type(name) is not bytes or type(version) is not bytes or len(version) != VERSION_BYTES:
        raise ValueError("a floor makes no sense")
    return kind, name, version


def _head(content: dict[str, Any], config: Config, now_ms: int) -> Head:
    """Return the head of a snapshot. Raises Unusable if this node must not load what follows."""
    version = content.pop("format")
    if version != FORMAT:
        relation = "newer" if version > FORMAT else "older"
        raise Unusable(f"it has format {version}, which is {relation} than {FORMAT}, the one that this version reads")
    head = Head(**{name: value for name, value in content.items() if name in Head.__dataclass_fields__})
    mismatches = (
        ("cluster", head.cluster, config.cluster.name),
        ("node", head.node_id, config.node.node_id),
        ("number of slots", head.slots, config.cluster.slots),
    )
    for what, theirs, ours in mismatches:
        if theirs != ours:
            raise Unusable(f"it is of another {what}: {theirs!r:.80}, not {ours!r}")
    if type(head.clock) is not int or type(head.wall_ms) is not int or len(head.members) > FACTS_MAX:
        raise ValueError("the head makes no sense")
    if max(head.wall_ms, head.clock >> 16) > now_ms + LEAD_MS_MAX:
        raise Unusable(_set_back(max(head.wall_ms, head.clock >> 16) - now_ms))
    age_s, grace_s = (now_ms - head.wall_ms) / 1000, config.store.tombstone_grace_s
    if age_s >= grace_s:
        raise Unusable(
            f"it is {age_s:,.0f} s old, and deletes are remembered for store.tombstone_grace_s = {grace_s:,g} s only"
        )
    return Head(**{**asdict(head), "members": tuple(map(str, head.members)), "final": head.final is True})


def _set_back(ahead_ms: int) -> str:
    return f"it is of a time {ahead_ms / 1000:,.1f} s ahead of this machine's clock: was the clock set back?"
