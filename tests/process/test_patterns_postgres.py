"""PostgreSQL tells the cache: triggers, NOTIFY, and a worker that may lose its connection."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from timing import eventually

import meshcache
from meshcache import MISSING, LocalMesh
from meshcache.patterns import Missing, ReadThrough
from meshcache.patterns.postgres import NotifyWorker, quoted, trigger_sql

psycopg = pytest.importorskip("psycopg", reason="the driver psycopg is not installed")

DEADLINE_S = 20.0
IDLE_S = 0.1
WORKER = """
import sys
import psycopg
import meshcache
from meshcache.patterns.postgres import NotifyWorker

with meshcache.Client(sys.argv[1]) as client:
    worker = NotifyWorker(client.namespace("users:"), lambda: psycopg.connect(sys.argv[2], autocommit=True))
    worker.run()
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=2) as mesh:
        yield mesh


@pytest.fixture
def cache(mesh: LocalMesh) -> Iterator[meshcache.Client]:
    with mesh.client() as client:
        client.clear()
        yield client


@pytest.fixture
def database(postgres: str) -> Iterator[Any]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS users")
        connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute(trigger_sql("public.users", "id"))
        yield connection


@pytest.fixture
def names(cache: meshcache.Client, database: Any) -> ReadThrough[int, str]:
    def load(key: int) -> str | Missing:
        row = database.execute("SELECT name FROM users WHERE id = %s", (key,)).fetchone()
        return row[0] if row else MISSING

    return ReadThrough(cache.namespace("users:"), load, ttl=600)


@contextmanager
def running(worker: NotifyWorker) -> Iterator[NotifyWorker]:
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


@pytest.fixture
def worker(cache: meshcache.Client, postgres: str, database: Any) -> Iterator[NotifyWorker]:
    def connect() -> Any:
        return psycopg.connect(postgres, autocommit=True, application_name="worker")

    with running(NotifyWorker(cache.namespace("users:"), connect, idle=IDLE_S)) as worker:
        eventually(lambda: worker.counts.connections == 1)
        yield worker


@pytest.mark.process
def test_whoever_writes_the_cache_hears_of_it(
    worker: NotifyWorker, database: Any, names: ReadThrough[int, str]
) -> None:
    assert names.get(1) is MISSING
    database.execute("INSERT INTO users VALUES (1, 'Ada'), (2, 'Grace')")
    eventually(lambda: names.get(1) == "Ada")
    assert names.get(2) == "Grace"
    with database.transaction():
        database.execute("UPDATE users SET name = 'Ada L.' WHERE id = 1")
        database.execute("UPDATE users SET id = 3 WHERE id = 2")
    eventually(lambda: names.get_many([1, 2, 3]) == {1: "Ada L.", 3: "Grace"})
    database.execute("DELETE FROM users WHERE id = 1")
    eventually(lambda: names.get(1) is MISSING)
    assert worker.counts.cleared == 0
    database.execute("TRUNCATE users")
    eventually(lambda: names.get(3) is MISSING)
    assert (worker.counts.cleared, worker.counts.connections, worker.counts.failures) == (1, 1, 0)


@pytest.mark.process
def test_a_transaction_that_is_rolled_back_is_not_heard_of(
    worker: NotifyWorker, database: Any, names: ReadThrough[int, str]
) -> None:
    with database.transaction(force_rollback=True):
        database.execute("INSERT INTO users VALUES (1, 'Ada')")
    database.execute("INSERT INTO users VALUES (2, 'Grace')")
    eventually(lambda: worker.counts.notifications == 1)


@pytest.mark.process
def test_after_a_lost_connection_the_namespace_is_dropped(
    worker: NotifyWorker, cache: meshcache.Client, database: Any, names: ReadThrough[int, str]
) -> None:
    database.execute("INSERT INTO users VALUES (1, 'Ada')")
    eventually(lambda: names.get(1) == "Ada")
    cache.set("orders:1", "of another table")
    with database.transaction():
        # The worker is cut off, and does not hear of what commits at the same time.
        database.execute("SET LOCAL session_replication_role = replica")
        database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'worker'")
        database.execute("UPDATE users SET name = 'Ada L.' WHERE id = 1")
    eventually(lambda: worker.counts.connections == 2)
    assert names.get(1) == "Ada L."
    assert cache.get("orders:1") == "of another table"
    assert worker.counts.failures == 1
    database.execute("UPDATE users SET name = 'Countess' WHERE id = 1")
    eventually(lambda: names.get(1) == "Countess")


@pytest.mark.process
def test_a_process_that_only_publishes(
    cache: meshcache.Client, mesh: LocalMesh, postgres: str, database: Any, names: ReadThrough[int, str]
) -> None:
    cache.set("users:0", "from before the worker")
    worker = subprocess.Popen([sys.executable, "-c", WORKER, ",".join(mesh.addresses), postgres])
    try:
        eventually(lambda: cache.get("users:0") is None)
        assert names.get(1) is MISSING
        database.execute("INSERT INTO users VALUES (1, 'Ada')")
        eventually(lambda: names.get(1) == "Ada")
    finally:
        worker.kill()
        worker.wait()


# ---- without a server


class Script:
    """A connection that hands out what it is told to, and then breaks."""

    def __init__(self, batches: list[list[str]], *, autocommit: bool = True) -> None:
        self.batches = batches
        self.autocommit = autocommit
        self.statements: list[bytes] = []
        self.closed = False

    def execute(self, query: bytes) -> None:
        self.statements.append(query)

    def notifies(self, *, timeout: float | None, stop_after: int | None) -> Iterator[Any]:
        if not self.batches:
            raise ConnectionError("the server went away")
        for payload in self.batches.pop(0):
            yield type("Notify", (), {"payload": payload})()

    def close(self) -> None:
        self.closed = True


class Told:
    """A cache that notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.failing = 0

    def clear(self) -> None:
        if self.failing:
            self.failing -= 1
            raise meshcache.NodeUnavailable("no node")
        self.calls.append("clear")

    def invalidate(self, *keys: str) -> None:
        self.calls.append(keys)


def test_it_drops_everything_after_it_listens_and_tries_again_until_it_can() -> None:
    cache = Told()
    cache.failing = 2
    scripts = [Script([]), Script([]), Script([["a", "b", "a"], [], ["c", ""]]), Script([])]
    given = iter(scripts)

    def connect() -> Script:
        try:
            return next(given)
        except StopIteration:
            listener.stop()
            raise ConnectionError("enough") from None

    listener = NotifyWorker(cache, connect)  # type: ignore[arg-type]  # what is used of a Client
    listener.run()
    assert cache.calls == ["clear", ("a", "b"), "clear", "clear"]
    assert scripts[2].statements == [b'LISTEN "meshcache"', b"SELECT 1"]
    assert all(script.closed for script in scripts)
    assert (listener.counts.connections, listener.counts.failures, listener.counts.notifications) == (2, 5, 5)


def test_a_connection_with_transactions_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    cache = Told()

    def connect() -> Script:
        listener.stop()
        return Script([], autocommit=False)

    listener = NotifyWorker(cache, connect)  # type: ignore[arg-type]  # what is used of a Client
    listener.run()
    assert cache.calls == []
    assert "autocommit" in caplog.text


def test_names_are_quoted() -> None:
    assert quoted('a"b') == '"a""b"'
    sql = trigger_sql("shop.us;ers", "i d", channel="it's")
    assert '"shop"."us;ers"' in sql
    assert 'OLD."i d"::text' in sql
    assert "'it''s'" in sql
    with pytest.raises(ValueError, match="name"):
        trigger_sql("", "id")
