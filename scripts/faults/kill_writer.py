"""Kill a process that writes behind with kill -9, in the middle of it, and look whether anything was lost.

There are a mesh of three nodes, a PostgreSQL, and a process whose threads write through WriteBehind. It tells of each
write that was accepted through a pipe, and is killed at a random moment. The next process opens the queue that was
left, and does nothing but store it; then every write that was told of must be in the database, or a later one of its
key. The one after goes on writing. In the end every key must have its last value, in the database and in the cache.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

import meshcache
from meshcache.patterns import Missing, Write, WriteBehind

from .private_postgres import private_postgres

THREADS: Final = 20
KEYS: Final = 1000
"""A multiple of THREADS: so a key is written by one thread, and its values grow."""
WAIT_S: Final = 300.0
SCRIPTS: Final = Path(__file__).resolve().parent.parent
NAMESPACE: Final = "counters:"
TABLE: Final = "CREATE TABLE counters (key INTEGER PRIMARY KEY, value INTEGER, sequence BIGINT)"
UPSERT: Final = """
INSERT INTO counters VALUES (%s, %s, %s) ON CONFLICT (key) DO UPDATE
SET value = excluded.value, sequence = excluded.sequence WHERE excluded.sequence > counters.sequence
"""


# ---- the process that is killed


def write(connect_to: str, address: str, path: str, sync: Any, begin: list[int], end: int) -> None:
    """Have each thread write its numbers, and tell of each that was accepted; then store everything."""
    connection = psycopg.connect(connect_to)

    def load(key: int) -> int | Missing:
        with psycopg.connect(connect_to) as other:
            row = other.execute("SELECT value FROM counters WHERE key = %s", (key,)).fetchone()
        return row[0] if row else meshcache.MISSING

    def store(writes: list[Write[int, int]]) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(UPSERT, [(each.key, each.value, each.sequence) for each in writes])

    with meshcache.Client(address, namespace=NAMESPACE) as cache:
        rows = WriteBehind(cache, path, load, store, ttl=600, sync=sync)
        os.write(1, b"left %d\n" % rows.statistics().waiting)

        def work(first: int) -> None:
            for number in range(first, end, THREADS):
                rows.put(number % KEYS, number)
                os.write(1, b"%d\n" % number)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, begin))
        if rows.close(WAIT_S) == 0:
            os.write(1, b"drained\n")


# ---- who kills it


@dataclass
class Ledger:
    """What the writers told."""

    accepted: int = 0
    last: dict[int, int] = field(default_factory=dict)
    """By key: the greatest value that was accepted."""
    next: list[int] = field(default_factory=lambda: list(range(THREADS)))
    """By thread: what it writes next."""
    left: int = 0
    drained: bool = False

    def read(self, line: bytes) -> None:
        """Take in a line of the writer."""
        if line.startswith(b"left "):
            self.left = int(line[5:])
        elif line == b"drained\n":
            self.drained = True
        elif line.endswith(b"\n"):
            number = int(line)
            self.accepted += 1
            self.last[number % KEYS] = number
            self.next[number % THREADS] = number + THREADS

    def judge(self, found: dict[int, int]) -> tuple[int, int]:
        """Return how many keys have lost an accepted write, and how many have a value that none wrote."""
        lost = sum(found.get(key, -1) < value for key, value in self.last.items())
        wrong = 0
        for key, value in found.items():
            following = self.next[key % THREADS]  # it may have been accepted without our hearing of it
            wrong += value % KEYS != key or value > max(self.last.get(key, -1), following)
        return lost, wrong


@dataclass
class Row:
    """What was found after a kill, or in the end."""

    what: str
    accepted: int
    left: int
    """Writes in the queue when the next process opened it."""
    lost: int
    wrong: int


class Experiment:
    """A mesh, a database and a queue, and one process after the other."""

    def __init__(self, connect_to: str, address: str, path: Path, sync: str, writes: int) -> None:
        self.ledger = Ledger()
        self._connect_to = connect_to
        self._arguments = [connect_to, address, str(path), sync]
        self._writes = writes

    def run(self, *, until: int | None, writing: bool) -> None:
        """Run a writer to its end, or kill it when so many writes were accepted."""
        self.ledger.drained = False
        environment = {**os.environ, "PYTHONPATH": f"{SCRIPTS}:{os.environ.get('PYTHONPATH', '')}"}
        begin = self.ledger.next if writing else [self._writes] * THREADS
        program = [sys.executable, "-m", __name__, *self._arguments, json.dumps(begin), str(self._writes)]
        with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE) as writer:
            watchdog = threading.Timer(WAIT_S, writer.kill)
            watchdog.start()
            assert writer.stdout is not None
            for line in writer.stdout:
                self.ledger.read(line)
                if until is not None and self.ledger.accepted >= until:
                    writer.kill()
                    until = None
            watchdog.cancel()

    def found(self) -> dict[int, int]:
        """Return what the database has."""
        with psycopg.connect(self._connect_to) as connection:
            return dict(connection.execute("SELECT key, value FROM counters").fetchall())

    def row(self, what: str) -> Row:
        """Hold the database against what was accepted."""
        lost, wrong = self.ledger.judge(self.found())
        return Row(what, self.ledger.accepted, self.ledger.left, lost, wrong)


def experiment(writes: int, kills: int, sync: str, seed: int) -> dict[str, Any]:
    """Run it all; what is returned can be printed as JSON."""
    rng = random.Random(seed)
    moments = sorted(rng.sample(range(writes // 10, writes * 9 // 10), kills))
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="meshcache-queue-") as home,
        private_postgres(fsync=True) as connect_to,
        meshcache.LocalMesh(nodes=3) as mesh,
        mesh.client(namespace=NAMESPACE) as cache,
    ):
        with psycopg.connect(connect_to) as connection:
            connection.execute(TABLE)
        run = Experiment(connect_to, ",".join(mesh.addresses), Path(home) / "queue", sync, writes)
        ledger = run.ledger
        begin = time.monotonic()
        for number, moment in enumerate(moments, start=1):
            run.run(until=moment, writing=True)
            run.run(until=None, writing=False)
            rows.append(run.row(f"kill {number}"))
        run.run(until=None, writing=True)
        rows.append(run.row("the end"))
        took_s = time.monotonic() - begin
        expected = {number % KEYS: number for number in range(writes)}
        in_cache = cache.get_many([str(key) for key in expected])
        stale = sum(in_cache.get(str(key), value) != value for key, value in expected.items())
        right = sum(run.found().get(key) == value for key, value in expected.items())
        return {
            "writes": writes,
            "sync": sync,
            "rows": [asdict(row) for row in rows],
            "keys": len(expected),
            "keys_right": right,
            "keys_cached": len(in_cache),
            "keys_stale_in_cache": stale,
            "drained": ledger.drained,
            "accepted": ledger.accepted,
            "seconds": round(took_s, 1),
        }


def held(result: dict[str, Any]) -> bool:
    """Tell whether everything is as it should be."""
    return (
        all(row["lost"] == row["wrong"] == 0 for row in result["rows"])
        and result["keys_right"] == result["keys"]
        and result["keys_stale_in_cache"] == 0
        and result["drained"]
        and result["accepted"] >= result["writes"]
    )


def table(result: dict[str, Any]) -> str:
    """Return the result for people to read."""
    lines = [
        "| after | writes accepted | left in the queue | keys that lost an accepted write | keys with a wrong value |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['what']} | {row['accepted']:,} | {row['left']:,} | {row['lost']} | {row['wrong']} |"
        for row in result["rows"]
    ]
    summary = (
        f"In the end {result['keys_right']:,} of {result['keys']:,} keys have their last value in the database; of "
        f"{result['keys_cached']:,} in the cache, {result['keys_stale_in_cache']} are old. "
        f'{result["writes"]:,} writes by {THREADS} threads, sync="{result["sync"]}", {result["seconds"]} s in all.'
    )
    return "\n".join([*lines, "", summary])


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], json.loads(sys.argv[5]), int(sys.argv[6]))
