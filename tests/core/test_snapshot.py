"""The format of snapshots: what comes back of what was written, and of what was damaged."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from meshcache.config import Config
from meshcache.core.storage import snapshot
from meshcache.core.storage.snapshot import Head, Saved, Unusable, is_mark, load
from meshcache.protocol.messages import EventKind, Floor
from meshcache.protocol.record import NEVER_MS, stamp, tombstone

NOW_MS = 1_800_000_000_000
CONFIG = Config.from_tables(
    node={"id": "n1", "data_dir": "d"},
    cluster={"name": "c", "slots": 16},
    snapshot={"enabled": True},
    store={"max_bytes": 100_000_000},
)
HEAD = Head("c", "n1", 16, b"ring", ("n1", "n2"), NOW_MS << 16, NOW_MS, final=True)


def version(number: int, wall_ms: int = NOW_MS - 1000) -> bytes:
    return (wall_ms << 16 | number).to_bytes(8, "big") + bytes(8)


def record(number: int, value: bytes = b"value", expires_ms: int = NEVER_MS) -> bytes:
    return stamp(version(number), expires_ms) + b"\0\1" + value


def file_of(
    head: Head = HEAD, floors: list[Floor] | None = None, slots: dict[int, dict[bytes, bytes]] | None = None
) -> list[bytes]:
    """The blocks of a snapshot; keys need not belong to their slots for the format's sake."""
    front = [snapshot.head_block(head), snapshot.floors_block(floors or [])]
    parts = [
        snapshot.slot_block(slot, b"", list(held), list(held.values())) for slot, held in (slots or {0: {}}).items()
    ]
    return [*front, *parts, *front, snapshot.end_block(len(parts))]


def read(blocks: list[bytes], now_ms: int = NOW_MS, config: Config = CONFIG) -> Saved:
    return load(b"".join(blocks), config, now_ms)


KEYS = {slot: {b"key%d" % slot: record(slot + 1)} for slot in range(4)}


def test_all_comes_back() -> None:
    floors = [Floor(int(EventKind.CLEAR), b"p", version(5)), Floor(int(EventKind.TAG), b"t", version(6))]
    saved = read(file_of(floors=floors, slots=KEYS))
    assert {key: saved.store.peek(key) for held in KEYS.values() for key in held} == {
        key: record for held in KEYS.values() for key, record in held.items()
    }
    assert saved.floors == floors
    assert saved.head == HEAD
    assert saved.complete
    assert not saved.damaged_blocks


def test_the_clock_is_past_all_that_was_found() -> None:
    later = {b"k": stamp(version(7, NOW_MS + 3000), NEVER_MS) + b"\0\1v"}
    assert read(file_of(slots={0: later})).clock == (NOW_MS + 3000) << 16 | 7
    assert read(file_of(slots=KEYS)).clock == HEAD.clock


def test_what_has_expired_leaves_a_mark_and_what_was_deleted_stays_deleted() -> None:
    held = {b"old": record(1, expires_ms=NOW_MS - 1), b"gone": tombstone(version(2), NOW_MS + 1000), b"kept": record(3)}
    saved = read(file_of(slots={0: held}))
    old = saved.store.peek(b"old")
    assert old is not None
    assert is_mark(old)
    assert old[:16] == version(1)
    assert saved.store.peek(b"gone") == held[b"gone"]
    assert saved.expired == 1
    assert saved.store.statistics().entries == 1


@pytest.mark.parametrize("place", range(7), ids=["head", "floors", "slot 0", "slot 1", "slot 2", "slot 3", "head 2"])
def test_a_damaged_block_is_lost_and_no_other(place: int) -> None:
    blocks = file_of(slots=KEYS)
    for at in (0, 5, 10, len(blocks[place]) - 1):  # start, length, checksum, content
        damaged = list(blocks)
        broken = bytearray(damaged[place])
        broken[at] ^= 0x55
        damaged[place] = bytes(broken)
        saved = read(damaged)
        found = [key for held in KEYS.values() for key in held if saved.store.peek(key) is not None]
        lost = {2: b"key0", 3: b"key1", 4: b"key2", 5: b"key3"}.get(place)
        assert found == [key for held in KEYS.values() for key in held if key != lost], (place, at)
        assert saved.damaged_blocks
        assert saved.damaged
        assert not saved.complete


def test_a_file_that_ends_early_is_read_up_to_there() -> None:
    blocks = file_of(slots=KEYS)
    whole = b"".join(blocks[:4])
    for cut in (len(whole), len(whole) + 3, len(whole) + len(blocks[4]) - 1):
        saved = load(b"".join(blocks)[:cut], CONFIG, NOW_MS)
        assert saved.store.statistics().entries == 2
        assert not saved.complete
        assert "missing" in saved.damaged[-1]


def test_without_any_head_or_floors_nothing_can_be_said() -> None:
    head, floors, *rest = file_of(slots=KEYS)
    for kept in ([*rest[:4], floors], [head, *rest[:4]], [b"x" * 1000], [b"\xf5MC\x01" * 50]):
        with pytest.raises(Unusable, match="damaged"):
            read(kept)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cluster": "other"}, "another cluster: 'other'"),
        ({"node_id": "n2"}, "another node: 'n2'"),
        ({"slots": 32}, "another number of slots: 32"),
        ({"wall_ms": NOW_MS - 601_000}, "601 s old"),
        ({"wall_ms": NOW_MS + 60_000}, "ahead of this machine's clock"),
        ({"clock": (NOW_MS + 60_000) << 16}, "ahead of this machine's clock"),
    ],
)
def test_what_is_of_another_mesh_or_time_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(Unusable, match=text):
        read(file_of(replace(HEAD, **change)))


def test_a_newer_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(snapshot, "FORMAT", snapshot.FORMAT + 1)
        blocks = file_of(slots=KEYS)
    with pytest.raises(Unusable, match="newer"):
        read(blocks)


def test_a_record_from_the_future_is_refused_with_its_file() -> None:
    ahead = stamp(version(1, NOW_MS + 60_000), NEVER_MS) + b"\0\1v"
    with pytest.raises(Unusable, match="was the clock set back"):
        read(file_of(slots={0: {b"k": ahead}}))


@pytest.mark.parametrize(
    "content", [(99, b"", [], []), (0, b"short", [], []), (0, b"", [b"k"], []), (0, b"", [b""], [bytes(24)]), (0,)]
)
def test_a_block_that_makes_no_sense_counts_as_damaged(content: tuple[Any, ...]) -> None:
    front = file_of()[:2]
    saved = read([*front, snapshot.block(3, content), snapshot.slot_block(1, b"", [b"k"], [record(1)])])
    assert saved.store.statistics().entries == 1
    assert saved.damaged_blocks == 2  # this one, and that there is no end


def test_a_store_that_became_smaller_takes_what_it_has_room_for() -> None:
    small = Config.from_tables(
        node={"id": "n1", "data_dir": "d"}, cluster={"name": "c", "slots": 16}, store={"max_entries": 2}
    )
    saved = read(file_of(slots=KEYS), config=small)
    assert saved.store.statistics().entries == 2


GOLDEN = Path(__file__).parent / "snapshots" / "format1.hex"
GOLDEN_FLOORS = [Floor(int(EventKind.CLEAR), b"p", version(5)), Floor(int(EventKind.TAG), b"t", version(6))]
GOLDEN_SLOTS = {
    0: {b"key0": record(1), b"gone": tombstone(version(2), NOW_MS + 1000)},
    3: {b"key3": record(3, b"\xf5MC\x01 as a block starts", NOW_MS + 60_000)},
}


def test_a_file_of_this_format_that_was_written_once_stays_readable() -> None:
    saved = load(bytes.fromhex(GOLDEN.read_text()), CONFIG, NOW_MS)
    assert saved.head == HEAD
    assert saved.floors == GOLDEN_FLOORS
    expected = {key: held for slot in GOLDEN_SLOTS.values() for key, held in slot.items()}
    assert {key: saved.store.peek(key) for key in expected} == expected
    assert saved.complete


def test_what_a_later_version_adds_is_ignored_and_is_no_damage() -> None:
    front = [
        snapshot.block(1, {"format": snapshot.FORMAT, **asdict(HEAD), "later": {"more": [1]}}),
        snapshot.block(2, [[*floor, b"later"] for floor in GOLDEN_FLOORS]),
    ]
    slots = [
        snapshot.block(3, (slot, b"", list(held), list(held.values()), b"later")) for slot, held in GOLDEN_SLOTS.items()
    ]
    saved = read([*front, snapshot.block(77, {"later": 1}), *slots, *front, snapshot.block(4, [len(slots), "later"])])
    expected = {key: held for slot in GOLDEN_SLOTS.values() for key, held in slot.items()}
    assert {key: saved.store.peek(key) for key in expected} == expected
    assert saved.floors == GOLDEN_FLOORS
    assert saved.complete
