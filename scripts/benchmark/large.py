"""Where the time of large values goes: a node beside redis, and beside the least that ZeroMQ takes for the same bytes.

Each contestant is called by a program of its own, because what one does to the allocator of its process holds for the
others, too: the first large frame of a meshcache client lifts glibc's thresholds (meshcache/sockets/allocator.py), and
redis-py then takes less than half of the CPU time that it takes alone. So redis is there twice: alone, and in a program
that has lifted them, as it is beside meshcache in the rows of ``scripts/bench``.

The floor is a DEALER and a ROUTER that exchange the same bytes as messages of one value, all under way at once. Each
side copies a value once, as any client and any store must; there are no keys, no limits and no store.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import zmq

from meshcache.sockets.allocator import expect_large_blocks

from .clients import connect
from .measure import cpu_seconds, say
from .servers import SERVERS, Unavailable, module_environment
from .workload import key_of, value_for

EXAMPLES: Final = """\
examples:
  scripts/bench large                       10 values of 1 MB, and 1,000 of 10 KB
  scripts/bench large --rounds 3            the same, quickly
"""
BATCHES: Final = ((10, 1_000_000), (1_000, 10_000))
"""How many values there are in a batch, and the bytes of each."""
CONTESTANTS: Final = ("meshcache", "redis", "redis lifted", "floor")
CALLS: Final = 15
"""So many are timed in a round."""
STRAY_BYTES: Final = 16
"""A message of so few bytes asks the floor for values, or answers that one has come."""
PART_BYTES: Final = 1 << 20
"""Small values travel together, as in meshcache."""

Calls = dict[str, Callable[[], object]]


def serve_floor(size: int, count: int) -> None:
    """Hand out values and take them in, until the process is ended: the least that a server does."""
    expect_large_blocks()
    router = zmq.Context().socket(zmq.ROUTER)
    print(router.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    stored = bytes(size)
    while True:
        name, frame = router.recv_multipart(copy=False)
        if len(frame.buffer) > STRAY_BYTES:
            stored = bytes(frame.buffer)
            router.send_multipart([name.bytes, b"stored"])
        else:
            for _ in range(count):
                router.send_multipart([name.bytes, stored])


@contextmanager
def floor(size: int, count: int) -> Iterator[tuple[Calls, list[int]]]:
    """Start the least that a server does; yield what calls it, and its process id."""
    each = max(1, PART_BYTES // size)
    size, count = size * each, -(-count // each)
    command = [sys.executable, "-m", f"{__package__}.large", "serve", str(size), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, zmq.Context() as context:
        assert process.stdout is not None
        with context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(f"tcp://127.0.0.1:{int(process.stdout.readline())}")
            value = bytes(size)

            def get() -> None:
                dealer.send(b"get")
                for _ in range(count):
                    bytes(dealer.recv(copy=False).buffer)

            def put() -> None:
                for _ in range(count):
                    dealer.send(value)
                for _ in range(count):
                    dealer.recv()

            yield {"get": get, "set": put}, [process.pid]
        process.kill()


@contextmanager
def store(kind: str, size: int, count: int) -> Iterator[tuple[Calls, list[int]]]:
    """Start a server; yield what calls it, and its process ids."""
    keys = [key_of(index) for index in range(count)]
    items = {key: value_for(key, size) for key in keys}
    with SERVERS[kind]() as server:
        calls = connect(server, kind)
        calls.set_many(items)
        yield {"get": lambda: calls.get_many(keys), "set": lambda: calls.set_many(items)}, server.pids
        calls.close()


def page_faults(pids: Sequence[int]) -> int:
    """Return how many pages the kernel had to find for these processes."""
    return sum(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7]) for pid in pids)


def work(contestant: str, size: int, count: int) -> None:
    """Take orders from standard input: an operation. Tell what a call took, in ms and in page faults."""
    kind, _, lifted = contestant.partition(" ")
    if lifted or kind == "floor":
        expect_large_blocks()
    with floor(size, count) if kind == "floor" else store(kind, size, count) as (calls, pids):
        for call in (*calls.values(), *calls.values()):
            call()
        print("ready", flush=True)
        for line in sys.stdin:
            call = calls[line.strip()]
            call()
            cpu_s, own_s, faults = cpu_seconds(pids), time.process_time(), page_faults(pids)
            own_faults, times_ms = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
            for _ in range(CALLS):
                began = time.perf_counter()
                call()
                times_ms.append((time.perf_counter() - began) * 1e3)
            told = {
                "call_ms": statistics.median(times_ms),
                "client_ms": (time.process_time() - own_s) * 1e3 / CALLS,
                "server_ms": (cpu_seconds(pids) - cpu_s) * 1e3 / CALLS,
                "client_faults": (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - own_faults) / CALLS,
                "server_faults": (page_faults(pids) - faults) / CALLS,
            }
            print(json.dumps(told), flush=True)


@contextmanager
def program(contestant: str, size: int, count: int) -> Iterator[Callable[[str], dict[str, float]]]:
    """Start a contestant's program; yield what has it time an operation."""
    command = [sys.executable, "-m", f"{__package__}.large", "work", contestant, str(size), str(count)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": module_environment()}
    with subprocess.Popen(command, text=True, **pipes) as process:
        orders, answers = process.stdin, process.stdout
        assert orders is not None
        assert answers is not None
        if answers.readline() != "ready\n":
            raise Unavailable(f"the program of {contestant} ended")

        def order(operation: str) -> dict[str, float]:
            orders.write(f"{operation}\n")
            orders.flush()
            told: dict[str, float] = json.loads(answers.readline())
            return told

        yield order
        orders.close()


def measure(size: int, count: int, rounds: int) -> list[dict[str, Any]]:
    """Let the contestants take turns; return for each and each operation the medians over the rounds."""
    told: dict[tuple[str, str], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        programs = {name: stack.enter_context(program(name, size, count)) for name in CONTESTANTS}
        for number in range(rounds):
            for operation in ("get", "set"):
                for name in CONTESTANTS[:: -1 if number % 2 else 1]:
                    told.setdefault((operation, name), []).append(programs[name](operation))
    rows = []
    for (operation, name), rounds_told in sorted(told.items(), key=lambda item: CONTESTANTS.index(item[0][1])):
        medians = {field: statistics.median([one[field] for one in rounds_told]) for field in rounds_told[0]}
        rows.append({"operation": operation, "contestant": name, "size": size, "count": count, **medians})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table, with the rate beside redis's."""
    lines = [
        "| | | a call, ms | CPU of client / server, ms | page faults of client / server | rate beside redis / lifted |"
    ]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
    by_name = {(row["operation"], row["size"], row["contestant"]): row["call_ms"] for row in rows}
    for row in sorted(rows, key=lambda row: (-row["size"], row["operation"])):
        ratios = [by_name[row["operation"], row["size"], name] / row["call_ms"] for name in ("redis", "redis lifted")]
        what = f"{row['operation']} of {row['count']:,} x {row['size'] // 1000:,} KB"
        lines.append(
            f"| {what} | {row['contestant']} | {row['call_ms']:.1f} | {row['client_ms']:.1f} / {row['server_ms']:.1f} "
            f"| {row['client_faults']:,.0f} / {row['server_faults']:,.0f} | {ratios[0]:.2f} / {ratios[1]:.2f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench large",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds, in which all take turns; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(arguments)
    rows = []
    for count, size in BATCHES:
        say(f"{count:,} values of {size:,} bytes")
        try:
            rows += measure(size, count, options.rounds)
        except Unavailable as error:
            say(f"scripts/bench large: {error}")
            return 1
    print(json.dumps(rows) if options.json else table(rows))
    print(f"load: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve_floor(int(sys.argv[2]), int(sys.argv[3]))
    work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
