"""What HTTP beside a node's loop costs those who use the cache, in three parts.

Rates: two nodes, one with HTTP that is scraped once in each block, one without. Blocks of both alternate; ratios are
those of the medians. Scrapes: a node in this process with many entries, under load from another one: the processor time
of the thread that answers ``/metrics``, and the longest turn of the node's loop in moments with a scrape and without.
Slow: 200 connections that never finish a request, on a node that others read from; blocks with them and without.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import meshcache

from .measure import percentile, say
from .servers import free_port, process

WORKER: Final = Path(__file__).resolve().parent / "worker.py"
KEYS: Final = [f"key:{i}" for i in range(1000)]
BATCH: Final = KEYS[:100]
VALUE: Final = "v" * 100
SLOW: Final = 200
SCRAPER: Final = """
import sys, urllib.request
for line in sys.stdin: print(len(urllib.request.urlopen(sys.argv[1]).read()), flush=True)
"""
CROWD: Final = """
import select, socket, sys, time
where, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
crowd = {}
print("ready", flush=True)
while True:
    try:
        while len(crowd) < count:
            one = socket.create_connection(where)
            one.sendall(b"GET /metrics HTTP/1.1\\r\\nX: ")
            crowd[one.fileno()] = one
        for fd in select.select(list(crowd), [], [], 0.05)[0]:
            crowd.pop(fd).close()
        for one in list(crowd.values())[::20]:
            one.send(b"x")
    except OSError:
        crowd = {fd: one for fd, one in crowd.items() if one.fileno() >= 0}
        time.sleep(0.01)
"""
EXAMPLES: Final = """\
examples:
  scripts/bench http                            all, with a million entries
  scripts/bench http --only rates --blocks 20   get and get_many with scrapes and without
  scripts/bench http --only scrapes --entries 100000
"""


@contextmanager
def node(*settings: str) -> Iterator[str]:
    """Run a node of its own process; return its address."""
    address = f"127.0.0.1:{free_port()}"
    options = [
        "hot_keys.enabled=false",
        "store.max_entries=50000",
        "cluster.replicas=1",
        "cluster.write_quorum=1",
        "log.level=error",
        *settings,
    ]
    command = [sys.executable, "-m", "meshcache", "node", "--id", "n", "--listen", address]
    command += [part for option in options for part in ("--set", option)]
    with process(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise SystemExit("the node did not start")
        yield address


def http_of(address: str) -> str:
    """Return the address of a node's HTTP."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + 200}"


def block(read: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Return calls a second, and the 99th percentile of how long one took in µs."""
    taken: list[int] = []
    until = time.perf_counter() + seconds
    began = then = time.perf_counter_ns()
    while time.perf_counter() < until:
        read()
        now = time.perf_counter_ns()
        taken.append(now - then)
        then = now
    return len(taken) / (then - began) * 1e9, percentile(sorted(taken), 0.99) / 1e3


def tell(name: str, without: list[tuple[float, float]], within: list[tuple[float, float]]) -> dict[str, float]:
    """Print the ratios of medians, and return them."""
    (rate_0, p99_0), (rate_1, p99_1) = (
        [statistics.median(column) for column in zip(*side, strict=True)] for side in (without, within)
    )
    say(
        f"{name:<22} rate {rate_1 / rate_0:.3f}, p99 {p99_1 / p99_0:.3f}"
        f"   ({rate_0:,.0f} and {rate_1:,.0f} calls/s, {p99_0:,.0f} and {p99_1:,.0f} µs)"
    )
    return {"rate": rate_1 / rate_0, "p99": p99_1 / p99_0}


def reads(cache: meshcache.Client) -> dict[str, Callable[[], object]]:
    """Return what is measured."""
    cache.set_many(dict.fromkeys(KEYS, VALUE), ttl=None)
    keys = itertools.cycle(KEYS)
    return {"get": lambda: cache.get(next(keys)), "get_many(100)": lambda: cache.get_many(BATCH)}


def rates(blocks: int, seconds: float) -> dict[str, Any]:
    """Measure with scrapes beside without HTTP."""
    found = {}
    with ExitStack() as stack:
        off, on = stack.enter_context(node("node.http=off")), stack.enter_context(node())
        off_reads, on_reads = (reads(stack.enter_context(meshcache.Client(address))) for address in (off, on))
        command = [sys.executable, "-c", SCRAPER, f"http://{http_of(on)}/metrics"]
        scraper = stack.enter_context(process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert scraper.stdin is not None
        assert scraper.stdout is not None

        def scraped(read: Callable[[], object]) -> tuple[float, float]:
            assert scraper.stdin is not None
            assert scraper.stdout is not None
            scraper.stdin.write("\n")
            scraper.stdin.flush()
            figures = block(read, seconds)
            scraper.stdout.readline()
            return figures

        for name in off_reads:
            sides: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
            for turn in range(blocks + 1):
                for side in (0, 1) if turn % 2 else (1, 0):
                    sides[side].append(scraped(on_reads[name]) if side else block(off_reads[name], seconds))
            del sides[0][0], sides[1][0]  # to warm up
            found[name] = tell(name, *sides)
    return found


def slow(blocks: int, seconds: float) -> dict[str, Any]:
    """Measure with connections that never finish a request, beside without."""
    answered_s: list[float] = []
    sides: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    with node() as address, meshcache.Client(address) as cache:
        read = reads(cache)["get"]
        host, _, port = http_of(address).rpartition(":")
        for turn in range(2 * blocks + 2):
            with ExitStack() as stack:
                if turn % 2:
                    command = [sys.executable, "-c", CROWD, host, port, str(SLOW)]
                    crowd = stack.enter_context(process(command, stdout=subprocess.PIPE))
                    assert crowd.stdout is not None
                    crowd.stdout.readline()
                    began = time.perf_counter()
                    with urllib.request.urlopen(f"http://{host}:{port}/health", timeout=10) as response:
                        assert response.status == 200
                    answered_s.append(time.perf_counter() - began)
                sides[turn % 2].append(block(read, seconds))
    del sides[0][0], sides[1][0]
    found = tell(f"{SLOW} slow connections", *sides)
    say(f"{'':<22} /health answered among them in {max(answered_s) * 1e3:.1f} ms or less")
    return found


def scrapes(entries: int, count: int) -> dict[str, Any]:
    """Measure what a scrape of a node with many entries takes, and its longest turns."""
    address = f"127.0.0.1:{free_port()}"
    config = meshcache.Config.from_tables(
        node={"id": "n", "listen": address},
        cluster={"replicas": 1},
        store={"max_entries": entries + 5000, "max_bytes": 10**10},
    )
    logging.disable()
    with ExitStack() as stack:
        served = stack.enter_context(meshcache.Node(config))
        with served.client(timeout=60) as cache:
            for start in range(0, entries, 4000):
                cache.set_many({f"e{i}": VALUE for i in range(start, min(entries, start + 4000))}, ttl=None)
        (tid,) = [thread.native_id for thread in threading.enumerate() if thread.name.endswith("-http")]
        command = [sys.executable, "-P", str(WORKER), address]
        load = stack.enter_context(process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        command = [sys.executable, "-c", SCRAPER, f"http://{http_of(address)}/metrics"]
        scraper = stack.enter_context(process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        server = served._server  # noqa: SLF001  (nobody else is told of a single turn)
        assert server is not None
        turns: tuple[list[float], list[float]] = ([], [])
        taken_ms = []
        for turn in range(2 * count + 2):
            order(load, "get_many 0.3")
            time.sleep(0.1)
            server.core.counters.longest_turn_ms = 0.0
            if turn % 2:
                before = thread_ns(tid)
                order(scraper, "")
                size = int(answer(scraper))
                taken_ms.append((thread_ns(tid) - before) / 1e6)
            told = json.loads(answer(load))
            turns[turn % 2].append(server.core.counters.longest_turn_ms)
            assert told["count"]
    taken_ms = sorted(taken_ms[1:])
    without, within = (sorted(side[1:]) for side in turns)
    say(
        f"{entries:,} entries, /metrics of {size:,} bytes: {statistics.median(taken_ms):.2f} ms of processor time,"
        f" {taken_ms[-1]:.2f} at most"
    )
    say(
        f"longest turn with a scrape {statistics.median(within):.2f} ms (at most {within[-1]:.2f}),"
        f" without {statistics.median(without):.2f} ms (at most {without[-1]:.2f})"
    )
    return {"cpu_ms": taken_ms, "turn_ms_with": within, "turn_ms_without": without}


def order(child: subprocess.Popen[str], text: str) -> None:
    """Write a line to a process."""
    assert child.stdin is not None
    child.stdin.write(text + "\n")
    child.stdin.flush()


def answer(child: subprocess.Popen[str]) -> str:
    """Read a line from a process."""
    assert child.stdout is not None
    return child.stdout.readline()


def thread_ns(tid: int | None) -> int:
    """Return the processor time of a thread of this process."""
    return int(Path(f"/proc/self/task/{tid}/schedstat").read_text(encoding="ascii").split()[0])


def main(arguments: Sequence[str]) -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench http",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = ("rates", "scrapes", "slow")
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), help="which parts")
    parser.add_argument("--blocks", type=int, default=10, metavar="N", help="blocks of each side (10)")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="length of a block (1)")
    parser.add_argument("--entries", type=int, default=1_000_000, metavar="N", help="of the node that is scraped")
    parser.add_argument("--json", action="store_true", help="the figures as JSON; the text goes to standard error")
    options = parser.parse_args(arguments)
    say(f"meshcache {meshcache.__version__}, {os.cpu_count()} processors")
    figures: dict[str, Any] = {}
    if "rates" in options.only:
        figures["rates"] = rates(options.blocks, options.seconds)
    if "scrapes" in options.only:
        figures["scrapes"] = scrapes(options.entries, options.blocks)
    if "slow" in options.only:
        figures["slow"] = slow(options.blocks, options.seconds)
    if options.json:
        print(json.dumps(figures))
    return 0
