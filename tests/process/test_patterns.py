"""The patterns that write straight to the database, on a real mesh, with SQLite and with PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
from timing import eventually

import meshcache
from meshcache import MISSING, LocalMesh
from meshcache.patterns import (
    AsyncCacheAside,
    AsyncInvalidateOnWrite,
    AsyncReadThrough,
    AsyncWriteThrough,
    CacheAside,
    InvalidateOnWrite,
    Missing,
    ReadThrough,
    Write,
    WriteThrough,
)
from meshcache.patterns.marks import MARK

pytestmark = pytest.mark.process

DEADLINE_S = 20.0
FENCE_TTL_S = 2.0


class Connection(Protocol):
    def execute(self, sql: str, values: Any = ..., /) -> Any: ...
    def commit(self) -> None: ...
    def close(self) -> None: ...


class Users:
    """A table, and the two functions that a program would write."""

    def __init__(self, connect: Callable[[], Connection], mark: str) -> None:
        self._connect = connect
        self._mark = mark
        self.loads = 0
        self.batches: list[list[Write[int, str]]] = []
        self.after_load: Callable[[], object] = lambda: None
        self.after_commit: Callable[[], object] = lambda: None
        with self._connected() as connection:
            connection.execute("DROP TABLE IF EXISTS users")
            connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")

    def _connected(self) -> Any:
        users = self

        class Connected:
            def __enter__(self) -> Connection:
                self.connection = users._connect()
                return self.connection

            def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
                if kind is None:
                    self.connection.commit()
                self.connection.close()

        return Connected()

    def row(self, key: int) -> str | Missing:
        with self._connected() as connection:
            row = connection.execute(f"SELECT name FROM users WHERE id = {self._mark}", (key,)).fetchone()
        return row[0] if row else MISSING

    def load(self, key: int) -> str | Missing:
        self.loads += 1
        found = self.row(key)
        self.after_load()
        return found

    def store(self, writes: list[Write[int, str]]) -> None:
        with self._connected() as connection:
            for write in writes:
                if write.value is MISSING:
                    connection.execute(f"DELETE FROM users WHERE id = {self._mark}", (write.key,))
                else:
                    upsert = "ON CONFLICT (id) DO UPDATE SET name = excluded.name"
                    connection.execute(
                        f"INSERT INTO users VALUES ({self._mark}, {self._mark}) {upsert}", (write.key, write.value)
                    )
        self.batches.append(writes)
        self.after_commit()

    async def load_async(self, key: int) -> str | Missing:
        return await asyncio.to_thread(self.load, key)

    async def store_async(self, writes: list[Write[int, str]]) -> None:
        await asyncio.to_thread(self.store, writes)


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=2) as mesh:
        yield mesh


@pytest.fixture
def cache(mesh: LocalMesh, request: pytest.FixtureRequest) -> Iterator[meshcache.Client]:
    with mesh.client() as client:
        yield client.namespace(f"{request.node.name}:")


@pytest.fixture(params=["sqlite", "postgres"])
def users(request: pytest.FixtureRequest, tmp_path: Path) -> Users:
    if request.param == "sqlite":
        return Users(lambda: sqlite3.connect(tmp_path / "users.db", timeout=DEADLINE_S), "?")
    import psycopg  # noqa: PLC0415  (where it is installed)

    connect_to = request.getfixturevalue("postgres")
    return Users(lambda: psycopg.connect(connect_to), "%s")


def in_background(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


# ---- reading


def test_cache_aside_loads_once_and_again_when_invalidated(cache: meshcache.Client, users: Users) -> None:
    names: CacheAside[int, str] = CacheAside(cache, ttl=60)
    assert names.get(1, users.load) is MISSING
    assert names.get(1, users.load) is MISSING
    assert users.loads == 1, "that there is no such row is cached, too"
    users.store([Write(1, "Ada")])
    names.invalidate(1)
    assert [names.get(1, users.load) for _ in range(3)] == ["Ada"] * 3
    assert users.loads == 2
    assert cache.get("1") == "Ada", "values keep their form"


def test_read_through_reads_many(cache: meshcache.Client, users: Users) -> None:
    names = ReadThrough(cache, users.load, ttl=60)
    users.store([Write(1, "Ada"), Write(2, "Grace")])
    assert names.get(1) == "Ada"
    assert names.get_many([1, 2, 3]) == {1: "Ada", 2: "Grace"}
    assert users.loads == 3
    assert names.get_many([3, 2, 1]) == {2: "Grace", 1: "Ada"}
    assert names.get_many([]) == {}
    assert users.loads == 3
    names.invalidate(1, 2)
    names.invalidate()
    assert names.get(1) == "Ada"
    assert users.loads == 4


def test_an_absence_can_have_a_lifetime_of_its_own(cache: meshcache.Client, users: Users) -> None:
    names = ReadThrough(cache, users.load, ttl=60, absent_ttl=0.2)
    users.store([Write(1, "Ada")])
    assert (names.get(1), names.get(2)) == ("Ada", MISSING)
    assert (cache.ttl("1") or 0) > 50
    assert (cache.ttl("2") or 0) < 1
    users.store([Write(2, "Grace")])
    eventually(lambda: names.get(2) == "Grace")


def test_what_the_loader_raises_reaches_the_caller_and_is_not_cached(cache: meshcache.Client, users: Users) -> None:
    names = ReadThrough(cache, users.load, ttl=60)

    def fail() -> None:
        raise KeyError("the connection broke")

    users.after_load = fail
    with pytest.raises(KeyError, match="broke"):
        names.get(1)
    users.after_load = lambda: None
    assert names.get(1) is MISSING
    assert users.loads == 2


# ---- writing


@pytest.mark.parametrize("pattern", [WriteThrough, InvalidateOnWrite])
def test_what_was_written_is_read(
    cache: meshcache.Client, users: Users, pattern: type[WriteThrough[int, str] | InvalidateOnWrite[int, str]]
) -> None:
    names = pattern(cache, users.load, users.store, ttl=60)
    assert names.get(1) is MISSING
    names.put(1, "Ada")
    assert (names.get(1), users.row(1)) == ("Ada", "Ada")
    names.put_many({1: "Ada L.", 2: "Grace"})
    names.put_many({})
    assert names.get_many([1, 2]) == {1: "Ada L.", 2: "Grace"}
    names.delete(1)
    assert (names.get(1), users.row(1)) == (MISSING, MISSING)
    assert [len(batch) for batch in users.batches] == [1, 2, 1]
    assert users.batches[2] == [Write(1, MISSING)]
    names.invalidate(2)
    assert cache.get("2") is None
    counts = names.counts
    assert counts.published + counts.dropped == 4
    assert counts.lost == counts.unsettled == counts.unfenced == 0


def test_write_through_needs_no_load_afterwards(cache: meshcache.Client, users: Users) -> None:
    names = WriteThrough(cache, users.load, users.store, ttl=60, absent_ttl=30)
    names.put_many({1: "Ada", 2: "Grace"})
    names.delete(2)
    assert names.get_many([1, 2]) == {1: "Ada"}
    assert users.loads == 0
    # The client knows the node's clock as well as its greeting was quick: beside busy processes not to the millisecond.
    assert 50 < (cache.ttl("1") or 0) < 61
    assert 20 < (cache.ttl("2") or 0) < 31


def test_a_transaction_of_the_users_own(cache: meshcache.Client, users: Users) -> None:
    names = InvalidateOnWrite(cache, users.load, users.store, ttl=60)
    assert names.get_many([1, 2]) == {}
    with names.writing(1, 2):
        assert names.get(1) is MISSING, "readers go to the database meanwhile"
        users.store([Write(1, "Ada"), Write(2, "Grace")])
        assert names.get_many([1, 2]) == {1: "Ada", 2: "Grace"}
    loads = users.loads
    assert names.get_many([1, 2]) == {1: "Ada", 2: "Grace"}
    assert users.loads > loads, "nothing was stored while the transaction was open"
    with pytest.raises(ValueError, match="rolled back"), names.writing(1):
        raise ValueError("rolled back")
    eventually(lambda: cache.get("1") is None)


@pytest.mark.parametrize("pattern", [WriteThrough, InvalidateOnWrite])
def test_a_store_that_fails_after_its_commit_leaves_no_old_value(
    cache: meshcache.Client, users: Users, pattern: type[WriteThrough[int, str] | InvalidateOnWrite[int, str]]
) -> None:
    names = pattern(cache, users.load, users.store, ttl=60)
    names.put(1, "old")
    assert names.get(1) == "old"

    def lose_the_connection() -> None:
        raise ConnectionResetError("after the commit")

    users.after_commit = lose_the_connection
    with pytest.raises(ConnectionResetError):
        names.put(1, "new")
    assert names.get(1) == users.row(1) == "new"


def test_a_reader_between_database_and_cache_sees_the_database(cache: meshcache.Client, users: Users) -> None:
    names = WriteThrough(cache, users.load, users.store, ttl=60)
    names.put(1, "old")
    seen: list[str | Missing] = []
    users.after_commit = lambda: seen.append(names.get(1))
    names.put(1, "new")
    assert seen == ["new"]
    assert names.get(1) == "new"


@pytest.mark.parametrize("pattern", [CacheAside, InvalidateOnWrite, WriteThrough])
def test_what_a_slow_reader_loaded_before_a_write_is_not_stored(
    cache: meshcache.Client, users: Users, pattern: type[Any]
) -> None:
    users.store([Write(1, "old")])
    loaded, go_on = threading.Event(), threading.Event()

    def stall() -> None:
        users.after_load = lambda: None
        loaded.set()
        assert go_on.wait(DEADLINE_S)

    users.after_load = stall
    reader = ReadThrough(cache, users.load, ttl=60)
    seen: list[str | Missing] = []
    slow = in_background(lambda: seen.append(reader.get(1)))
    assert loaded.wait(DEADLINE_S)
    if pattern is CacheAside:
        users.store([Write(1, "new")])
        CacheAside[int, str](cache).invalidate(1)
    else:
        pattern(cache, users.load, users.store, ttl=60).put(1, "new")
    go_on.set()
    slow.join(DEADLINE_S)
    assert seen == ["old"], "it began before the write"
    assert reader.get(1) == "new"


def test_of_two_writers_at_once_none_leaves_its_value(cache: meshcache.Client, users: Users) -> None:
    """They commit in one order and come to the cache in the other."""
    first = WriteThrough(cache, users.load, users.store, ttl=60)
    second = WriteThrough(cache, users.load, users.store, ttl=60)
    first.put(1, "old")
    committed, go_on = threading.Event(), threading.Event()

    def stall() -> None:
        users.after_commit = lambda: None
        committed.set()
        assert go_on.wait(DEADLINE_S)

    users.after_commit = stall
    slow = in_background(lambda: first.put(1, "first"))
    assert committed.wait(DEADLINE_S)
    second.put(1, "second")
    assert first.get(1) == "second"
    go_on.set()
    slow.join(DEADLINE_S)
    assert first.get(1) == users.row(1) == "second"
    assert (first.counts.published, first.counts.dropped, second.counts.dropped) == (1, 1, 1)


def test_a_writer_that_dies_after_its_commit_leaves_nothing_old(cache: meshcache.Client, users: Users) -> None:
    """As kill -9 does: what BaseException interrupts is not tidied up."""
    names = WriteThrough(cache, users.load, users.store, ttl=60, fence_ttl=FENCE_TTL_S)
    names.put(1, "old")

    def die() -> None:
        raise SystemExit

    users.after_commit = die
    with pytest.raises(SystemExit):
        names.put(1, "new")
    assert str(cache.get("1")).startswith(MARK), "the fence is still there"
    loads = users.loads
    assert names.get(1) == "new"
    eventually(lambda: cache.exists("1") is False)
    assert names.get(1) == names.get(1) == "new"
    assert users.loads == loads + 2


def test_many_writers_and_readers_agree_with_the_database_in_the_end(cache: meshcache.Client, users: Users) -> None:
    objects = [WriteThrough(cache, users.load, users.store, ttl=60, fence_ttl=FENCE_TTL_S) for _ in range(4)]

    def work(index: int) -> None:
        for step in range(15):
            objects[index].put(step % 2, f"{index}.{step}")
            objects[index].get(step % 2)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    eventually(lambda: all(cache.get(str(key)) in {None, users.row(key)} for key in (0, 1)))
    assert [objects[0].get(key) for key in (0, 1)] == [users.row(key) for key in (0, 1)]


def reads(names: WriteThrough[int, str], value: str) -> bool:
    return names.get(1) == value


def test_a_near_cache_follows(mesh: LocalMesh, users: Users) -> None:
    with mesh.client(near_cache=True, namespace=f"near{id(users)}:") as near, mesh.client() as plain_client:
        writer = WriteThrough(
            plain_client.namespace(f"near{id(users)}:"), users.load, users.store, ttl=60, fence_ttl=FENCE_TTL_S
        )
        names = WriteThrough(near, users.load, users.store, ttl=60)
        for number in range(5):
            writer.put(1, f"theirs {number}")
            eventually(partial(reads, names, f"theirs {number}"))
            names.put(1, f"ours {number}")
            assert names.get(1) == f"ours {number}", "its own write"
        assert (names.counts.published, names.counts.lost) == (5, 0)


# ---- a cache that fails


def test_nothing_is_written_without_the_cache_unless_asked_for(users: Users) -> None:
    with meshcache.Client("127.0.0.1:1", timeout=0.2) as nowhere:
        with pytest.raises(meshcache.NodeUnavailable):
            WriteThrough(nowhere, users.load, users.store).put(1, "Ada")
        assert users.row(1) is MISSING
        names = InvalidateOnWrite(nowhere, users.load, users.store, if_unfenced="write")
        names.put(1, "Ada")
        assert users.row(1) == "Ada"
        assert (names.counts.unfenced, names.counts.unsettled) == (1, 1)


def test_a_cache_that_fails_after_the_commit_does_not_fail_the_write(users: Users) -> None:
    with LocalMesh(nodes=1) as mesh, mesh.client(timeout=1.0) as cache, mesh.client() as patient:
        patient.set("0", "warm")
        names = WriteThrough(cache, users.load, users.store, ttl=60, fence_ttl=FENCE_TTL_S)
        names.put(1, "old")
        (node,) = mesh.pids
        users.after_commit = lambda: mesh.pause(node)
        names.put(1, "new")
        assert users.row(1) == "new"
        assert names.counts.unsettled == 1
        mesh.resume(node)
        assert ReadThrough(patient, users.load, ttl=60).get(1) == "new"


# ---- mistakes


def test_mistakes_are_told(cache: meshcache.Client, users: Users) -> None:
    with pytest.raises(TypeError, match="begins with Async"):
        ReadThrough(cache, users.load_async)
    with pytest.raises(TypeError, match="store is a coroutine"):
        WriteThrough(cache, users.load, users.store_async)
    with pytest.raises(ValueError, match="ttl"):
        ReadThrough(cache, users.load, ttl=0)
    with pytest.raises(ValueError, match="if_unfenced"):
        WriteThrough(cache, users.load, users.store, if_unfenced="maybe")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ValueError, match="positive"):
        WriteThrough(cache, users.load, users.store, fence_ttl=0)

    def pair(key: tuple[int, int]) -> str:
        return str(key)

    pairs = ReadThrough(cache, pair)
    with pytest.raises(TypeError, match="name="):
        pairs.get((1, 2))
    assert ReadThrough(cache, pair, name=repr).get((1, 2)) == "(1, 2)"
    with pytest.raises(meshcache.InvalidKey):
        WriteThrough(cache, users.load, users.store, name=lambda key: "").put(1, "Ada")
    assert users.batches == []


# ---- asyncio


def test_the_same_for_asyncio(mesh: LocalMesh, users: Users) -> None:
    async def main() -> None:
        async with meshcache.AsyncClient(mesh.addresses, namespace=f"aio{id(users)}:") as cache:
            aside: AsyncCacheAside[int, str] = AsyncCacheAside(cache.namespace("a"), ttl=60)
            through = AsyncReadThrough(cache.namespace("b"), users.load_async, ttl=60)
            assert await aside.get(1, users.load_async) is MISSING
            assert await through.get(1) is MISSING
            for number, pattern in enumerate((AsyncWriteThrough, AsyncInvalidateOnWrite)):
                shared = cache.namespace(f"c{number}")
                names = pattern(shared, users.load_async, users.store_async, ttl=60)
                await names.put(1, "Ada")
                await names.put_many({2: "Grace", 3: "Edsger"})
                await names.delete(3)
                assert await names.get(1) == "Ada"
                assert await names.get_many([1, 2, 3]) == {1: "Ada", 2: "Grace"}
                await names.invalidate(1)
                assert await shared.get("1") is None
                assert names.counts.published + names.counts.dropped == 4
            own = AsyncInvalidateOnWrite(cache.namespace("b"), users.load_async, users.store_async, ttl=60)
            async with own.writing(1):
                await users.store_async([Write(1, "Ada L.")])
            assert await through.get(1) == "Ada L."
            assert await aside.get(1, users.load_async) is MISSING, "nobody told it"
            await aside.invalidate(1)
            assert await aside.get(1, users.load_async) == "Ada L."
            assert await through.get_many([1, 9]) == {1: "Ada L."}
            await through.invalidate(1)

    asyncio.run(main())


def test_a_task_that_is_cancelled_leaves_the_fence(mesh: LocalMesh, users: Users) -> None:
    async def main() -> None:
        async with meshcache.AsyncClient(mesh.addresses, namespace=f"cancel{id(users)}:") as cache:
            stored = asyncio.Event()

            async def store(writes: list[Write[int, str]]) -> None:
                await users.store_async(writes)
                stored.set()
                await asyncio.Event().wait()

            names = AsyncWriteThrough(cache, users.load_async, store, ttl=60)
            task = asyncio.create_task(names.put(1, "Ada"))
            await stored.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert str(await cache.get("1")).startswith(MARK)
            assert await names.get(1) == "Ada"

    asyncio.run(main())
