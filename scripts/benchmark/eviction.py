"""Replay traces: how many reads hit with store.eviction = "lru", with "s3fifo", and at best.

Each request reads a key from a store of meshcache, and writes it if it is not there. The optimum (Belady 1966) knows
what will be asked for, and lets go of what is asked for last: nobody can do better. Stores are limited by entries.
Sizes in percent are of the keys of the trace.

Formats of traces, told apart by themselves unless --format says which: "keys" (text, one key a line), "arc" (.lis files
as published with ARC), "int32" (as published with cache2k, in either byte order) and "int64"; plain, or packed by gzip,
bzip2, xz or zstd. Of long traces only the first --requests are read: that bounds the memory, to about eight bytes a
request, and a hundred for each key and size.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any, Final

from benchmark import traces
from benchmark.traces import Trace, TraceError
from meshcache.core.storage.store import Store
from meshcache.protocol.record import NEVER_MS, expiry_bytes, stamp

SIZES: Final = "1%,2%,5%,10%,20%,40%"
REQUESTS: Final = 5_000_000
WORSE_MAX: Final = 0.5
"""By so many points S3-FIFO may be worse than LRU."""
NOW_MS: Final = 1_700_000_000_000
EXAMPLES: Final = """\
examples:
  scripts/bench eviction OLTP.lis.gz P3.lis          at six sizes each, in about a minute per million requests
  scripts/bench eviction web.trc --sizes 1000,5%     at these
  scripts/bench eviction --make zipf --make scans    traces made for the purpose, without any file
  scripts/bench eviction *.trc --plot hits.png       draw hit ratio against size, too
  scripts/bench eviction web.trc --json | jq '.[] | select(.s3fifo < .lru)'
"""
Row = dict[str, Any]
Say = Callable[[str], None]


def replay(requests: array[int], eviction: str, entries: int) -> float:
    """Return the part of the requests that hit in a store."""
    store = Store(slots=1024, max_entries=entries, max_bytes=1 << 50, eviction=eviction)
    record = stamp(bytes(15) + b"\1", NEVER_MS) + b"\0\0value"
    now_bytes = expiry_bytes(NOW_MS)
    for number in requests:
        keys = [b"key:%d" % number]
        if store.read(keys, now_bytes)[0] is None:
            store.merge(keys, [record], NOW_MS)
    return store.statistics().hits / len(requests)


def next_requests(requests: array[int]) -> array[int]:
    """Return, for each request, the position of the next one for its key; if there is none, the number of requests."""
    count = len(requests)
    following = array("I", bytes(4 * count))
    seen = array("I", [count]) * (max(requests) + 1)
    for position in range(count - 1, -1, -1):
        number = requests[position]
        following[position] = seen[number]
        seen[number] = position
    return following


def optimum(requests: array[int], entries: int) -> float:
    """Return the greatest part of the requests that can hit: what is asked for last of all goes, or does not come."""
    following = next_requests(requests)
    count, hits, held = len(requests), 0, 0
    is_held = bytearray(max(requests) + 1)
    farthest: list[int] = []
    """A heap of the next requests of what is held, negative: the last comes first. Those that are over stay in it."""
    for position, number in enumerate(requests):
        hits += is_held[number]
        held -= is_held[number]
        is_held[number] = 0
        if following[position] == count:
            continue
        heappush(farthest, -following[position])
        is_held[number] = 1
        held += 1
        if held > entries:
            is_held[requests[-heappop(farthest)]] = 0
            held -= 1
        if len(farthest) > 2 * held + 1000:
            farthest = [each for each in farthest if -each > position]
            heapify(farthest)
    return hits / count


POLICIES: Final[dict[str, Callable[[array[int], int], float]]] = {
    "lru": lambda requests, entries: replay(requests, "lru", entries),
    "s3fifo": lambda requests, entries: replay(requests, "s3fifo", entries),
    "optimum": optimum,
}
_present: list[array[int]] = []
"""In a process of its own: the trace it replays."""


def _take_up(requests: array[int]) -> None:
    _present[:] = [requests]


def _measure(policy: str, entries: int) -> float:
    return POLICIES[policy](_present[0], entries)


def sizes_of(text: str, keys: int) -> list[int]:
    """Return sizes in entries, the smallest first; ValueError says what is wrong."""
    sizes = set()
    for each in text.split(","):
        number = each.strip().removesuffix("%")
        try:
            entries = float(number) / 100 * keys if "%" in each else int(number)
        except ValueError:
            raise ValueError(f"{each!r} is no size: write entries, as 1000, or percent of the keys, as 5%") from None
        if not 0 < entries <= 1e9:
            raise ValueError(f"{each!r} is no size: a store has 1 to 1,000,000,000 entries")
        sizes.add(max(1, int(entries)))
    return sorted(sizes)


def measure(trace: Trace, sizes: list[int], jobs: int) -> Iterator[Row]:
    """Replay a trace at all sizes with all policies, in so many processes."""
    todo = [(policy, entries) for entries in sizes for policy in POLICIES]
    with ProcessPoolExecutor(min(jobs, len(todo)), initializer=_take_up, initargs=(trace.requests,)) as pool:
        ratios = iter(pool.map(_measure, *zip(*todo, strict=True)))
        for entries in sizes:
            about = {"trace": trace.name, "requests": len(trace.requests), "keys": trace.keys, "is_cut": trace.is_cut}
            yield {**about, "entries": entries, **{policy: round(next(ratios), 6) for policy in POLICIES}}


def points(row: Row) -> float:
    """Return by how many points S3-FIFO hits more than LRU."""
    return round(100 * (float(row["s3fifo"]) - float(row["lru"])), 2)


def summary(rows: Sequence[Row]) -> str:
    """Say in a sentence which is better."""
    gains = [points(row) for row in rows]
    text = f"s3fifo hits more than lru in {sum(gain > 0 for gain in gains)} of {len(gains)} rows"
    worst = min(gains)
    if worst < 0:
        row = rows[gains.index(worst)]
        text += f", less in {sum(gain < 0 for gain in gains)}, by more than {WORSE_MAX} points in "
        text += f"{sum(gain < -WORSE_MAX for gain in gains)}; at worst {worst:+.2f}: "
        text += f"{row['trace']} with {row['entries']:,} entries"
    return f"{text}."


def report(found: Sequence[Trace], options: argparse.Namespace, say: Say) -> list[Row]:
    """Measure, and say each row as soon as it is there."""
    width = max(12, *(len(trace.name) for trace in found))
    say(f"{'trace':{width}} {'entries':>10} {'lru':>8} {'s3fifo':>8} {'optimum':>8}  s3fifo - lru")
    rows: list[Row] = []
    for trace in found:
        for row in measure(trace, sizes_of(options.sizes, trace.keys), options.jobs):
            rows.append(row)
            ratios = " ".join(f"{100 * row[policy]:7.2f}%" for policy in POLICIES)
            say(f"{trace.name:{width}} {row['entries']:10,} {ratios}  {points(row):+.2f} points")
        more = ", the first of more" if trace.is_cut else ""
        say(f"{'':{width}} {len(trace.requests):,} requests{more} for {trace.keys:,} keys")
    say(summary(rows))
    return rows


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw hit ratio against size, a panel for each trace. Imports matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415  (it costs most of a second, and is optional)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    names = list(dict.fromkeys(row["trace"] for row in rows))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(4.5 * columns, 3.2 * lines), squeeze=False)
    for panel, name in zip(panels.flat, names, strict=False):
        mine = [row for row in rows if row["trace"] == name]
        for policy, style in zip(POLICIES, ("o-", "s-", "k--"), strict=True):
            panel.plot([row["entries"] for row in mine], [100 * row[policy] for row in mine], style, label=policy)
        panel.set(title=name, xscale="log", xlabel="entries", ylabel="hits, %")
        panel.grid(alpha=0.3)
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    panels.flat[0].legend()
    figure.tight_layout()
    figure.savefig(path)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench eviction",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("traces", nargs="*", type=Path, metavar="FILE", help="traces")
    parser.add_argument("--make", action="append", default=[], choices=traces.MADE, help="make this trace")
    parser.add_argument("--format", choices=traces.FORMATS, help="of the files, instead of what they look like")
    parser.add_argument(
        "--sizes", default=SIZES, help=f"of the stores: entries, or percent of the keys ({SIZES})".replace("%", "%%")
    )
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"of each trace, at most ({REQUESTS:,})")
    parser.add_argument("--keys", type=int, default=20_000, help="of a trace that is made (20,000)")
    parser.add_argument("--seed", type=int, default=1, help="of a trace that is made (1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (one a core)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw, as PNG, SVG or PDF")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if not options.traces and not options.make:
        parser.error("name a trace, or say --make zipf")
    for name in ("requests", "keys", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    try:
        sizes_of(options.sizes, 1000)
    except ValueError as error:
        parser.error(f"--sizes: {error}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Replay, and print."""
    options = parsed(arguments)
    made_requests = min(options.requests, 20 * options.keys)
    try:
        found = [traces.read(path, options.format, options.requests) for path in options.traces]
    except TraceError as error:
        print(f"scripts/bench eviction: {error}", file=sys.stderr)
        return 2
    found += [traces.make(kind, options.keys, made_requests, options.seed) for kind in options.make]
    rows = report(found, options, (lambda _: None) if options.json else lambda text: print(text, flush=True))
    if options.json:
        print(json.dumps(rows))
    if options.plot:
        try:
            plot(rows, options.plot)
        except ImportError:
            print("no plot: matplotlib is not installed (pip install '.[bench]')", file=sys.stderr)
            return 1
        except (OSError, ValueError) as error:
            print(f"scripts/bench eviction: --plot {options.plot}: {error}", file=sys.stderr)
            return 1
    return 0
