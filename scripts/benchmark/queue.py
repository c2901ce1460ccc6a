"""Measure the queue of write-behind: what it costs to accept a write, and the files it was chosen from.

  journal     SQLite with a write-ahead log: meshcache/patterns/journal.py
  log         one's own append-only file: length, checksum, msgpack; one write and one fdatasync a commit. It removes
              nothing; what it would still need: reading after a crash, compaction, a lock
  delete      SQLite with its rollback journal
  queue       what a caller sees: DurableQueue, with threads that wait for their writes

The files are compared interleaved, in commits of 1, 10 and 100 writes, of 100 bytes each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgpack

from meshcache.patterns.backlog import Entry, Limits
from meshcache.patterns.durable import DurableQueue
from meshcache.patterns.journal import Journal

VALUE = bytes(100)
BATCHES = (1, 10, 100)
THREADS = (1, 16, 64)
EXAMPLES: Final = """\
examples:
  scripts/bench queue                              in less than half a minute, in the temporary directory
  scripts/bench queue --dir /var/lib/app           on the disk that the application would use
  scripts/bench queue --rounds 20 --seconds 0.2    a look
  scripts/bench queue --json | jq '.queue[] | select(.threads == 16)'
"""
Commit = Callable[[Sequence[Entry]], object]


class Log:
    """The append-only file."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._sync = sync

    def commit(self, entries: Sequence[Entry]) -> None:
        """Append."""
        body = msgpack.packb([(entry.sequence, entry.key, entry.value) for entry in entries])
        os.write(self._file, struct.pack("<II", len(body), zlib.crc32(body)) + body)
        if self._sync:
            os.fdatasync(self._file)


def rollback(path: Path, sync: Any) -> Journal:
    """Return a journal in the older mode of SQLite."""
    journal = Journal(path, sync)
    journal._connection.execute("PRAGMA journal_mode = DELETE")  # noqa: SLF001  (what is compared)
    return journal


def files(home: Path, sync: Any) -> dict[str, Commit]:
    """Return the contestants."""
    return {
        "journal": Journal(home / f"journal-{sync}", sync).commit,
        "log": Log(home / f"log-{sync}", sync=sync == "full").commit,
        "delete": rollback(home / f"delete-{sync}", sync).commit,
    }


def measure_files(home: Path, sync: Any, rounds: int) -> list[dict[str, Any]]:
    """Commit batches with each in turns."""
    contestants = files(home, sync)
    sequence = 1
    results = []
    for batch in BATCHES:
        wall: dict[str, list[float]] = {name: [] for name in contestants}
        cpu: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, commit in contestants.items():
                entries = [Entry(sequence + index, b"key:%d" % index, VALUE) for index in range(batch)]
                sequence += batch
                begin, begin_cpu = time.perf_counter(), time.thread_time()
                commit(entries)
                cpu[name].append(time.thread_time() - begin_cpu)
                wall[name].append(time.perf_counter() - begin)
        for name in contestants:
            results.append(  # noqa: PERF401  (a comprehension over three lines of figures is harder to read)
                {
                    "file": name,
                    "sync": sync,
                    "batch": batch,
                    "commit_us": 1e6 * statistics.median(wall[name]),
                    "cpu_us_per_write": 1e6 * statistics.median(cpu[name]) / batch,
                    "times_log": statistics.median(wall[name]) / statistics.median(wall["log"]),
                }
            )
    return results


def measure_queue(home: Path, sync: Any, threads: int, seconds: float) -> dict[str, Any]:
    """Have threads put and wait, while another takes the batches away."""
    queue = DurableQueue(home / f"queue-{sync}-{threads}", sync, Limits())
    times: list[float] = []

    def store() -> None:
        while batch := queue.next_batch().result():
            queue.stored(batch)
            queue.returned(batch)

    def put(thread: int) -> None:
        until = time.perf_counter() + seconds
        key = b"key:%d" % thread
        while (begin := time.perf_counter()) < until:
            ticket = queue.append([(key, VALUE)], 10.0)
            ticket.done.result()
            queue.release(ticket)
            times.append(time.perf_counter() - begin)

    storing = threading.Thread(target=store)
    storing.start()
    begin_cpu = time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(put, range(threads)))
    cpu_s = time.process_time() - begin_cpu
    commits = queue.statistics().commits
    queue.end().result()
    storing.join()
    times.sort()
    return {
        "sync": sync,
        "threads": threads,
        "writes_per_s": len(times) / seconds,
        "p50_us": 1e6 * times[len(times) // 2],
        "p99_us": 1e6 * times[len(times) * 99 // 100],
        "cpu_us": 1e6 * cpu_s / len(times),
        "writes_per_commit": len(times) / commits,
    }


def main(arguments: Sequence[str]) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench queue",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=200, help="commits of each kind (200)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each number of threads (2)")
    parser.add_argument("--dir", type=Path, help="on the disk that is to be measured (the temporary directory)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.dir) as home:
        commits = [row for sync in ("full", "normal") for row in measure_files(Path(home), sync, options.rounds)]
        queues = [
            measure_queue(Path(home), sync, threads, options.seconds)
            for sync in ("full", "normal")
            for threads in THREADS
        ]
    if options.json:
        print(json.dumps({"files": commits, "queue": queues}))
        return 0
    print("| file | sync | writes in a commit | µs a commit, median | times the log | µs of CPU a write |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for row in commits:
        print(
            f"| {row['file']} | {row['sync']} | {row['batch']} | {row['commit_us']:,.0f} | {row['times_log']:.2f} | "
            f"{row['cpu_us_per_write']:.1f} |"
        )
    print("\n| queue | threads | writes/s | p50 / p99 µs | µs of CPU a write | writes a commit |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in queues:
        print(
            f"| {row['sync']} | {row['threads']} | {row['writes_per_s']:,.0f} | {row['p50_us']:,.0f} / "
            f"{row['p99_us']:,.0f} | {row['cpu_us']:.0f} | {row['writes_per_commit']:.1f} |"
        )
    return 0
