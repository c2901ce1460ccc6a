"""Write-behind: the backlog on virtual time, the queue with a real file, and all of it with a mesh and databases."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import eventually

import meshcache
from meshcache import MISSING, LocalMesh, OperationTimeout, QueueFull, QueueUnusable
from meshcache.patterns import AsyncWriteBehind, Limits, Missing, ReadThrough, Write, WriteBehind, is_outage
from meshcache.patterns.backlog import Backlog, Entry
from meshcache.patterns.durable import DurableQueue
from meshcache.patterns.journal import Journal

DEADLINE_S = 20.0
QUICK = Limits(linger_s=0.0, attempts=3, pause_min_s=0.01, pause_max_s=0.05)


# ---- the backlog


def backlog(**limits: Any) -> Backlog:
    return Backlog(Limits(**{"linger_s": 0.0, **limits}), random.Random(1))


def entry(sequence: int, key: bytes = b"k", *, released: bool = True) -> Entry:
    return Entry(sequence, key, b"v%d" % sequence, released)


def test_the_last_write_of_a_key_stands_for_those_before() -> None:
    waiting = backlog()
    for sequence, key in enumerate([b"a", b"b", b"a", b"a"]):
        waiting.append(entry(sequence, key), 0.0)
    batch = waiting.take(0.0)
    assert [(each.key, each.sequence) for each in batch] == [(b"a", 3), (b"b", 1)]
    assert waiting.take(0.0) == [], "one batch at a time"
    waiting.append(entry(4, b"a"), 0.0)
    assert waiting.stored(batch[0]) == [0, 2, 3]
    assert waiting.stored(batch[1]) == [1]
    assert waiting.take(0.0) == []
    waiting.returned(batch, 0.0)
    assert [each.sequence for each in waiting.take(0.0)] == [4]
    assert (len(waiting), waiting.oldest) == (1, 4)


def test_writes_linger_until_a_batch_is_full_or_their_time_is_over() -> None:
    waiting = backlog(linger_s=1.0, batch_keys=2)
    waiting.append(entry(0, b"a"), 5.0)
    assert (waiting.due(), waiting.take(5.5)) == (6.0, [])
    assert len(waiting.take(5.5, hurry=True)) == 1
    waiting = backlog(linger_s=1.0, batch_keys=2)
    waiting.append(entry(0, b"a"), 5.0)
    waiting.append(entry(1, b"b"), 5.1)
    waiting.append(entry(2, b"c"), 5.1)
    assert waiting.due() <= 5.1
    assert [each.key for each in waiting.take(5.1)] == [b"a", b"b"]


def test_a_write_is_not_stored_before_all_up_to_it_are_released() -> None:
    waiting = backlog()
    first, second, third = entry(0, released=False), entry(1), entry(2, released=False)
    for each in (first, second, third):
        waiting.append(each, 0.0)
    assert waiting.take(0.0) == []
    waiting.release(first, 1.0)
    assert waiting.take(1.0) == [second], "one whose key is written all the time is stored nevertheless"
    assert waiting.stored(second) == [0, 1]
    waiting.returned([second], 1.0)
    assert waiting.take(1.0) == []
    waiting.release(third, 2.0)
    assert waiting.take(2.0) == [third]


def test_what_is_refused_goes_alone_and_is_set_aside() -> None:
    waiting = backlog(attempts=3, pause_min_s=1.0, pause_max_s=100.0)
    poison, good = entry(0, b"a"), entry(1, b"b")
    waiting.append(poison, 0.0)
    waiting.append(good, 0.0)
    batch = waiting.take(0.0)
    assert not waiting.refused(poison, 0.0)
    waiting.stored(good)
    waiting.returned(batch, 0.0)
    assert waiting.take(0.4) == []
    assert 0.5 <= waiting.due() <= 1.0
    waiting.append(entry(2, b"c"), 0.4)
    assert [each.key for each in waiting.take(0.4)] == [b"c"], "others pass it"
    waiting.returned([], 0.4)
    assert waiting.take(1.0) == [poison], "alone"
    assert not waiting.refused(poison, 1.0)
    waiting.returned([poison], 1.0)
    assert 1.99 < waiting.due() <= 3.0
    assert waiting.take(3.0) == [poison]
    assert waiting.refused(poison, 3.0)
    waiting.returned([poison], 3.0)
    assert [each.sequence for each in waiting.by_sequence.values()] == [2]


def test_setting_aside_the_last_write_leaves_the_one_before() -> None:
    waiting = backlog(attempts=1)
    older, newer = entry(0), entry(1)
    waiting.append(older, 0.0)
    waiting.append(newer, 0.0)
    assert waiting.take(0.0) == [newer]
    assert waiting.refused(newer, 0.0)
    waiting.returned([newer], 0.0)
    assert waiting.take(0.0) == [older]


def test_an_outage_is_nobodys_fault() -> None:
    waiting = backlog(attempts=1, pause_min_s=1.0, pause_max_s=8.0)
    waiting.append(entry(0), 0.0)
    now = 0.0
    pauses = []
    for _ in range(8):
        batch = waiting.take(now)
        assert len(batch) == 1
        waiting.unreachable(now)
        waiting.returned(batch, now)
        assert waiting.take(now) == []
        pauses.append(waiting.due() - now)
        now = waiting.due()
    assert all(longest / 2 <= pause <= longest for pause, longest in zip(pauses, (1, 2, 4, 8, 8, 8, 8, 8), strict=True))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("wwwrtsxou"), st.integers(0, 3)), max_size=80), st.integers(0, 1000))
def test_writes_of_a_key_are_stored_in_order_and_none_is_forgotten(steps: list[tuple[str, int]], seed: int) -> None:
    """Against a model: what is accepted, less what a stored write stands for and what was set aside, still waits."""
    waiting = Backlog(Limits(linger_s=0.5, batch_keys=2, attempts=2, pause_min_s=1.0), random.Random(seed))
    model: dict[int, Entry] = {}
    unreleased: list[Entry] = []
    last_stored: dict[bytes, int] = {}
    out: list[Entry] = []
    returned: list[Entry] = []
    now = 0.0
    sequence = 0

    def store() -> None:
        each = out.pop()
        assert all(
            other.released for other in model.values() if other.key == each.key and other.sequence <= each.sequence
        )
        assert each.sequence > last_stored.get(each.key, -1)
        last_stored[each.key] = each.sequence
        gone = waiting.stored(each)
        assert gone == sorted(s for s, other in model.items() if other.key == each.key and s <= each.sequence)
        for number in gone:
            del model[number]

    def refuse() -> None:
        each = out.pop()
        if waiting.refused(each, now):
            del model[each.sequence]

    def finish() -> None:
        nonlocal returned
        waiting.returned(returned, now)
        returned = []
        out.clear()

    for step, number in steps:
        now += number / 4
        if step == "w":
            model[sequence] = Entry(sequence, b"%d" % number, b"", released=bool(sequence % 3))
            if sequence % 3 == 0:
                unreleased.append(model[sequence])
            waiting.append(model[sequence], now)
            sequence += 1
        elif step == "r" and unreleased:
            waiting.release(unreleased.pop(number % len(unreleased)), now)
        elif step == "t" and not returned:
            returned = waiting.take(now)
            out = list(returned)
            assert len({each.key for each in out}) == len(out) <= 2
        elif step == "s" and out:
            store()
        elif step == "x" and out:
            refuse()
        elif step == "o":
            finish()
        elif step == "u" and returned:
            waiting.unreachable(now)
            finish()
        assert len(waiting) == len(model)
        assert waiting.oldest == min(model, default=None)
        assert waiting.bytes == sum(each.size for each in model.values())
    finish()
    for each in unreleased:
        waiting.release(each, now)
    for _ in range(20 * len(model) + 1):
        if model:
            assert waiting.due() < float("inf"), "something waits that never goes out"
            now = max(now, waiting.due())
        returned = waiting.take(now)
        out = list(returned)
        while out:
            store()
        finish()
    assert not model
    assert (len(waiting), waiting.bytes) == (0, 0)


@pytest.mark.parametrize("wrong", [{"max_entries": 0}, {"batch_keys": 2.5}, {"linger_s": -1}, {"pause_max_s": 1e999}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)


# ---- the queue and its file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def queue(path: Path) -> Iterator[DurableQueue]:
    queue = DurableQueue(path, "normal", Limits(max_entries=4, max_bytes=2000, linger_s=0.0))
    yield queue
    queue.end().result(DEADLINE_S)


def accept(queue: DurableQueue, *keys: bytes, timeout_s: float = DEADLINE_S) -> list[Entry]:
    ticket = queue.append([(key, b"value") for key in keys], timeout_s)
    ticket.done.result(DEADLINE_S)
    queue.release(ticket)
    return ticket.entries


def test_what_is_accepted_is_in_the_file(queue: DurableQueue, path: Path) -> None:
    entries = accept(queue, b"a", b"b")
    assert queue.newest(b"b") is entries[1]
    assert queue.end().result(DEADLINE_S) == 2
    again = DurableQueue(path, "full", Limits())
    batch = again.next_batch().result(DEADLINE_S)
    assert [(each.sequence, each.key, each.value) for each in batch] == [
        (each.sequence, each.key, b"value") for each in entries
    ]
    again.stored(batch)
    again.returned(batch)
    assert accept(again, b"c")[0].sequence > entries[1].sequence
    assert again.end().result(DEADLINE_S) == 1


def test_numbers_grow_even_if_the_file_is_lost(queue: DurableQueue, path: Path) -> None:
    (first,) = accept(queue, b"a")
    queue.end().result(DEADLINE_S)
    for file in path.parent.iterdir():
        file.unlink()
    again = DurableQueue(path, "normal", Limits())
    (second,) = accept(again, b"a")
    again.end().result(DEADLINE_S)
    assert second.sequence > first.sequence


def test_a_full_queue_makes_writers_wait_in_line_and_then_fail(queue: DurableQueue) -> None:
    accept(queue, b"a", b"b", b"c", b"d")
    begun = time.monotonic()
    with pytest.raises(QueueFull, match="4 writes wait") as caught:
        accept(queue, b"e", timeout_s=0.1)
    assert (caught.value.waiting, caught.value.limit) == (4, 4)
    assert 0.1 <= time.monotonic() - begun < DEADLINE_S / 2
    waiting = [queue.append([(key, None)], DEADLINE_S) for key in (b"f", b"g")]
    batch = queue.next_batch().result(DEADLINE_S)
    queue.stored(batch[:1])
    queue.returned(batch)
    waiting[0].done.result(DEADLINE_S)
    assert not waiting[1].done.done()
    assert queue.statistics().waiting == 4
    queue.stop_accepting()
    with pytest.raises(QueueUnusable, match="closed"):
        waiting[1].done.result(DEADLINE_S)
    with pytest.raises(QueueUnusable, match="closed"):
        queue.append([(b"h", None)], 1.0)


def test_a_queue_is_full_by_bytes_and_by_writes_set_aside(queue: DurableQueue) -> None:
    with pytest.raises(ValueError, match="max_bytes=2,000"):
        queue.append([(b"a", bytes(2000))], 1.0)
    with pytest.raises(ValueError, match="max_entries=4"):
        queue.append([(b"a", None)] * 5, 1.0)
    queue.append([(b"a", bytes(1000))], DEADLINE_S).done.result(DEADLINE_S)
    with pytest.raises(QueueFull):
        queue.append([(b"b", bytes(1000))], 0.01).done.result(DEADLINE_S)


def test_what_is_set_aside_takes_room(path: Path) -> None:
    queue = DurableQueue(path, "normal", Limits(max_entries=2, linger_s=0.0, attempts=1))
    accept(queue, b"a")
    batch = queue.next_batch().result(DEADLINE_S)
    assert queue.refused(batch[0], ValueError("bad row"))
    queue.returned(batch)
    assert (queue.statistics().set_aside, queue.statistics().waiting) == (1, 0)
    accept(queue, b"b")
    with pytest.raises(QueueFull, match="set aside"):
        accept(queue, b"c", timeout_s=0.01)
    assert queue.end().result(DEADLINE_S) == 1


def test_one_process_at_a_time(queue: DurableQueue, path: Path) -> None:
    accept(queue, b"a")
    with pytest.raises(QueueUnusable, match="another process has this queue open"):
        DurableQueue(path, "full", Limits())
    program = f"from meshcache.patterns.journal import Journal\nJournal({str(path)!r}, 'full')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "another process has this queue open" in done.stderr
    queue.end().result(DEADLINE_S)
    Journal(path, "full").close()


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE users (id)")
    other.close()
    with pytest.raises(QueueUnusable, match="another program"):
        Journal(tmp_path / "other.db", "full")
    (tmp_path / "text").write_text("no database at all, but a file of some length" * 100)
    with pytest.raises(QueueUnusable, match="not a database"):
        Journal(tmp_path / "text", "full")
    with pytest.raises(QueueUnusable, match="unable to open"):
        Journal(tmp_path / "no such directory" / "queue", "full")
    journal = Journal(tmp_path / "queue", "normal")
    journal._connection.execute("PRAGMA user_version = 9")
    journal.close()
    with pytest.raises(QueueUnusable, match="format 9"):
        Journal(tmp_path / "queue", "full")
    with pytest.raises(ValueError, match="sync"):
        Journal(tmp_path / "queue", "sometimes")  # type: ignore[arg-type]  # the mistake


def test_full_sync_waits_for_the_disk_and_normal_does_not(tmp_path: Path) -> None:
    for number, sync in ((2, "full"), (1, "normal")):
        journal = Journal(tmp_path / sync, sync)  # type: ignore[arg-type]  # both are right
        run = journal._connection.execute
        assert run("PRAGMA synchronous").fetchone() == (number,)
        assert run("PRAGMA journal_mode").fetchone() == ("wal",)
        journal.close()


def test_writers_at_the_same_time_share_commits(path: Path) -> None:
    queue = DurableQueue(path, "full", Limits())
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda index: accept(queue, b"%d" % index), range(320)))
    statistics = queue.statistics()
    assert statistics.accepted == statistics.waiting == 320
    assert statistics.commits < 320
    assert queue.end().result(DEADLINE_S) == 320


def count_calls(journal: Journal) -> list[int]:
    calls = [0]
    commit = journal.commit

    def counting(*arguments: Any) -> None:
        calls[0] += 1
        commit(*arguments)

    journal.commit = counting  # type: ignore[method-assign,assignment]  # to see that it was tried
    return calls


def test_a_disk_that_fails_is_told_and_nothing_is_half_accepted(queue: DurableQueue, path: Path) -> None:
    accept(queue, b"a")
    connection = queue._journal._connection
    connection.execute("PRAGMA query_only = 1")
    with pytest.raises(QueueUnusable, match="readonly"):
        accept(queue, b"b")
    assert queue.newest(b"b") is None
    batch = queue.next_batch().result(DEADLINE_S)
    commits = count_calls(queue._journal)
    queue.stored(batch)
    queue.returned(batch)
    eventually(lambda: commits[0] > 1)
    connection.execute("PRAGMA query_only = 0")
    accept(queue, b"c")
    queue.end().result(DEADLINE_S)
    journal = Journal(path, "full")
    assert [each.key for each in journal.waiting()] == [b"c"], "what was stored meanwhile is removed in the end"
    journal.close()


def test_flush_waits_for_what_is_accepted_and_no_longer_than_it_may(queue: DurableQueue) -> None:
    queue.flush(DEADLINE_S).result(DEADLINE_S)
    accept(queue, b"a")
    with pytest.raises(OperationTimeout, match="1 writes"):
        queue.flush(0.05).result(DEADLINE_S)
    flushed = queue.flush(DEADLINE_S)
    batch = queue.next_batch().result(DEADLINE_S)
    accept(queue, b"b")
    assert not flushed.done()
    queue.stored(batch)
    queue.returned(batch)
    flushed.result(DEADLINE_S)
    assert queue.statistics().waiting == 1


def test_a_child_after_a_fork_is_refused(queue: DurableQueue) -> None:
    accept(queue, b"a")

    def child(pipe: Any) -> None:
        for call in (lambda: queue.append([(b"b", None)], 1.0), lambda: queue.newest(b"a"), lambda: queue.flush(1.0)):
            try:
                call()
            except QueueUnusable as error:
                pipe.send(str(error))

    here, there = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(there,))
    with queue._wake:  # as another thread may, just then
        process.start()
    for _ in range(3):
        assert here.poll(DEADLINE_S)
        assert "after a fork" in here.recv()
    process.join(DEADLINE_S)


# ---- all of it, with a mesh


class Table:
    """A database of one table that refuses what is older than what it has, and can fail."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches: list[list[Write[str, Any]]] = []
        self.error: Callable[[list[Write[str, Any]]], Exception | None] = lambda writes: None
        self.gate = threading.Event()
        self.gate.set()
        with self._connect() as connection:
            connection.execute("CREATE TABLE rows (key TEXT PRIMARY KEY, value TEXT, sequence INTEGER)")
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=DEADLINE_S)

    def load(self, key: str) -> str | Missing:
        connection = self._connect()
        row = connection.execute("SELECT value FROM rows WHERE key = ?", (key,)).fetchone()
        connection.close()
        return row[0] if row and row[0] is not None else MISSING

    def store(self, writes: list[Write[str, str]]) -> None:
        assert self.gate.wait(DEADLINE_S)
        error = self.error(writes)
        if error is not None:
            raise error
        with self._connect() as connection:
            connection.executemany(
                "INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value, "
                "sequence = excluded.sequence WHERE excluded.sequence > rows.sequence",
                [(write.key, None if write.value is MISSING else write.value, write.sequence) for write in writes],
            )
        connection.close()
        self.batches.append(writes)

    async def load_async(self, key: str) -> str | Missing:
        return await asyncio.to_thread(self.load, key)

    async def store_async(self, writes: list[Write[str, str]]) -> None:
        await asyncio.to_thread(self.store, writes)


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=2) as mesh:
        yield mesh


@pytest.fixture
def cache(mesh: LocalMesh, request: pytest.FixtureRequest) -> Iterator[meshcache.Client]:
    with mesh.client() as client:
        yield client.namespace(f"{request.node.name}:")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "rows.db")


@pytest.mark.process
def test_writes_are_read_at_once_and_stored_later(cache: meshcache.Client, table: Table, path: Path) -> None:
    elsewhere = ReadThrough(cache, table.load, ttl=60)
    assert elsewhere.get("a") is MISSING
    with WriteBehind(cache, path, table.load, table.store, ttl=60, limits=QUICK) as rows:
        table.gate.clear()
        rows.put("a", "1")
        rows.put_many({"a": "2", "b": "1"})
        rows.put_many({})
        rows.delete("b")
        assert (rows.get("a"), rows.get("b")) == ("2", MISSING)
        assert rows.get_many(["a", "b", "c"]) == {"a": "2"}
        assert (elsewhere.get("a"), elsewhere.get("b")) == ("2", MISSING)
        assert table.load("a") is MISSING
        table.gate.set()
        rows.flush()
        assert (table.load("a"), table.load("b")) == ("2", MISSING)
        statistics = rows.statistics()
        assert (statistics.accepted, statistics.waiting, statistics.unpublished) == (4, 0, 0)
        assert statistics.stored + statistics.superseded == 4
        assert statistics.oldest_s == 0
    assert rows.close() == 0, "once more does no harm"
    with pytest.raises(QueueUnusable, match="closed"):
        rows.put("a", "3")


@pytest.mark.process
def test_what_the_cache_evicts_meanwhile_is_still_read_and_the_old_row_does_not_stay(
    cache: meshcache.Client, table: Table, path: Path
) -> None:
    elsewhere = ReadThrough(cache, table.load, ttl=60)
    with WriteBehind(cache, path, table.load, table.store, ttl=60, limits=QUICK) as rows:
        rows.put("a", "old")
        rows.flush()
        table.gate.clear()
        rows.put("a", "new")
        cache.delete("a")  # as an eviction
        assert rows.get("a") == "new", "it reads its own writes"
        assert elsewhere.get("a") == "old", "others see the row that the database has"
        table.gate.set()
        rows.flush()
        eventually(lambda: elsewhere.get("a") == "new")
        assert rows.get("a") == "new"


@pytest.mark.process
def test_a_poison_write_is_set_aside_and_blocks_nobody(cache: meshcache.Client, table: Table, path: Path) -> None:
    table.error = lambda writes: ValueError("bad row") if any(write.value == "poison" for write in writes) else None
    with WriteBehind(cache, path, table.load, table.store, ttl=60, limits=QUICK) as rows:
        rows.put("k7", "good")
        rows.flush()
        rows.put_many({f"k{index}": "poison" if index == 7 else "good" for index in range(20)})
        rows.flush()
        assert [table.load(f"k{index}") for index in range(20)] == ["good"] * 20
        (aside,) = rows.set_aside()
        assert (aside.write.key, aside.write.value, aside.attempts) == ("k7", "poison", 3)
        assert aside.error == "ValueError: bad row"
        eventually(lambda: rows.get("k7") == "good")
        assert rows.statistics().set_aside == 1
    with WriteBehind(cache, path, table.load, table.store, ttl=60, limits=QUICK) as rows:
        assert rows.set_aside() == [aside], "it is kept"
        table.error = lambda writes: None
        rows.retry(aside.write.sequence)
        rows.flush()
        eventually(lambda: table.load("k7") == "poison")
        assert rows.set_aside() == []
        with pytest.raises(KeyError, match="not set aside"):
            rows.retry(aside.write.sequence)
        table.error = lambda writes: ValueError("worse")
        rows.put("k8", "again")
        rows.flush()
        rows.discard(rows.set_aside()[0].write.sequence)
    with WriteBehind(cache, path, table.load, table.store, ttl=60, limits=QUICK) as rows:
        assert (rows.set_aside(), rows.statistics().waiting) == ([], 0)


@pytest.mark.process
def test_an_outage_is_waited_out(cache: meshcache.Client, table: Table, path: Path) -> None:
    outages = iter(range(10))
    table.error = lambda writes: ConnectionError("no database") if next(outages, None) is not None else None
    with WriteBehind(cache, path, table.load, table.store, ttl=60, limits=QUICK) as rows:
        rows.put_many({"a": "1", "b": "1"})
        rows.flush()
        statistics = rows.statistics()
        assert (statistics.outages, statistics.set_aside, statistics.refusals) == (10, 0, 0)
        assert statistics.last_error == "ConnectionError: no database"
    assert (table.load("a"), table.load("b")) == ("1", "1")


def test_errors_of_drivers_are_told_apart() -> None:
    class OperationalError(Exception): ...

    class SerializationFailure(OperationalError): ...

    assert is_outage(SerializationFailure())
    assert is_outage(TimeoutError())
    assert is_outage(sqlite3.OperationalError())
    assert not is_outage(sqlite3.IntegrityError())
    assert not is_outage(ValueError())


@pytest.mark.process
def test_close_leaves_in_the_file_what_it_cannot_store(cache: meshcache.Client, table: Table, path: Path) -> None:
    table.error = lambda writes: ConnectionError("no database")
    rows = WriteBehind(cache, path, table.load, table.store, ttl=60, limits=QUICK)
    rows.put_many({"a": "1", "b": "2"})
    assert rows.close(timeout=0.1) == 2
    rows = WriteBehind(cache, path, table.load, table.store, ttl=60, limits=QUICK)
    assert rows.get("a") == "1"
    assert rows.close(timeout=0) == 2
    table.error = lambda writes: None
    with WriteBehind(cache, path, table.load, table.store, ttl=60, limits=QUICK) as rows:
        rows.flush()
    assert (table.load("a"), table.load("b")) == ("1", "2")


@pytest.mark.process
def test_a_cache_that_is_away_does_not_stop_writes(table: Table, path: Path) -> None:
    with meshcache.Client("127.0.0.1:1", timeout=0.1) as nowhere:
        rows = WriteBehind(nowhere, path, table.load, table.store, limits=QUICK)
        rows.put("a", "1")
        assert rows.get("a") == "1"
        rows.flush()
        assert table.load("a") == "1"
        assert rows.statistics().unpublished >= 1
        assert rows.close() == 0


@pytest.mark.process
def test_a_cache_client_that_was_closed_does_not_stop_it_either(mesh: LocalMesh, table: Table, path: Path) -> None:
    cache = mesh.client(namespace="closed:")
    rows = WriteBehind(cache, path, table.load, table.store, ttl=60, limits=QUICK)
    table.gate.clear()
    rows.put("a", "1")
    cache.close()
    rows.put("a", "2")
    table.gate.set()
    assert rows.close() == 0
    assert table.load("a") == "2"


@pytest.mark.process
def test_writers_of_one_key_leave_the_same_in_queue_cache_and_database(
    cache: meshcache.Client, table: Table, path: Path
) -> None:
    with WriteBehind(cache, path, table.load, table.store, ttl=60, limits=QUICK) as rows:

        def work(writer: int) -> None:
            for index in range(40):
                rows.put("a", f"{writer}.{index}")

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        last = rows.get("a")
        rows.flush()
        eventually(lambda: rows.statistics().waiting == 0)
        assert cache.get("a") == table.load("a") == rows.get("a")
        assert rows.get("a") == last
        assert rows.statistics().superseded > 0
    sequences = [write.sequence for batch in table.batches for write in batch]
    assert sequences == sorted(sequences)


@pytest.mark.process
def test_the_same_for_asyncio(mesh: LocalMesh, table: Table, path: Path) -> None:
    async def main() -> None:
        async with meshcache.AsyncClient(mesh.addresses, namespace="aio:") as cache:
            async with AsyncWriteBehind(cache, path, table.load_async, table.store_async, ttl=60, limits=QUICK) as rows:
                await asyncio.gather(*(rows.put(f"k{index % 50}", str(index)) for index in range(200)))
                await rows.put_many({"m": "1", "n": "1"})
                await rows.delete("n")
                assert await rows.get("m") == "1"
                assert await rows.get_many(["m", "n"]) == {"m": "1"}
                await rows.flush()
                assert rows.statistics().commits < 150
                assert await rows.get("k3") == table.load("k3") == "153"
                table.error = lambda writes: ValueError("bad row")
                await rows.put("m", "2")
                await rows.flush()
                (aside,) = rows.set_aside()
                rows.retry(aside.write.sequence)
                table.error = lambda writes: None
                await rows.flush()
                assert table.load("m") == "2"
                table.error = lambda writes: ValueError("bad row")
                await rows.put("m", "3")
                await rows.flush()
                rows.discard(rows.set_aside()[0].write.sequence)
            table.error = lambda writes: ConnectionError("no database")
            rows = AsyncWriteBehind(cache, path, table.load_async, table.store_async, limits=QUICK)
            await rows.put("a", "1")
            assert await rows.close(timeout=0.05) == 1
            assert await rows.close() == 1
            rows = AsyncWriteBehind(cache, path, table.load_async, table.store_async, limits=QUICK)
            assert await rows.close(timeout=0) == 1
            with pytest.raises(QueueUnusable, match="closed"):
                await rows.put("a", "2")

    asyncio.run(main())


@pytest.mark.process
def test_a_task_that_is_cancelled_holds_nothing_up(mesh: LocalMesh, table: Table, path: Path) -> None:
    async def main() -> None:
        async with (
            meshcache.AsyncClient(mesh.addresses, namespace="cancelled:") as cache,
            AsyncWriteBehind(cache, path, table.load_async, table.store_async, ttl=60, limits=QUICK) as rows,
        ):
            tasks = [asyncio.create_task(rows.put("a", str(index))) for index in range(20)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(each, asyncio.CancelledError) for each in done] == [True, False] * 10
            await rows.flush()
            assert await rows.get("a") == table.load("a") == "19"
            assert rows.statistics().waiting == 0

    asyncio.run(main())


@pytest.mark.process
def test_coroutine_functions_are_for_the_other_class(cache: meshcache.Client, table: Table, path: Path) -> None:
    with pytest.raises(TypeError, match="begins with Async"):
        WriteBehind(cache, path, table.load, table.store_async)
    assert not os.path.exists(path)  # noqa: PTH110  (nothing was opened)
