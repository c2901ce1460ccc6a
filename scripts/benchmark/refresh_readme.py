"""Measure, and write the figures into scripts/benchmark/GUIDE.md, between ``<!-- NAME -->`` and ``<!-- /NAME -->``.

A few rows of the first table stand in README.md, too.

Each section has one command, which is named above its figures. What a command measured is kept in
out/NAME-readme.json, so that ``--reuse`` can write the tables again without measuring. Run it on a quiet machine: it
takes about twenty minutes and 5 GB of memory; with ``--quick`` about one minute, for figures that are no more than a
hint.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent.parent
README: Final = ROOT / "README.md"
CHAPTER: Final = ROOT / "scripts/benchmark/GUIDE.md"
OUT: Final = ROOT / "out"
EXAMPLES: Final = """\
examples:
  scripts/bench refresh-readme                          everything
  scripts/bench refresh-readme --only ring --only near  two sections
  scripts/bench refresh-readme --quick                  is every section still written? Do not keep the figures
  scripts/bench refresh-readme --reuse                  the same figures in tables of another form
"""

BENCH_LEGEND: Final = (
    "Rows are of one node, unless they say 3 nodes. With the native module off it is so in client and nodes. "
    '"vs" is how many times the keys a second meshcache serves, beside '
    "that server; below 1 meshcache is the slower one. A second number is against a tuned client."
)
IN_README: Final = (
    "one get at a time",
    "one set at a time, with a TTL",
    "get_many of 100 values of 100 bytes",
    "set_many of 100 values of 100 bytes",
    "get_many of 10 values of 1 MB",
    "asyncio, 64 tasks that get one by one",
    "8 threads share one client",
    "3 nodes N=2 W=2 R=1: one get at a time",
)
"""Rows of ``bench`` that README.md shows, in the section ``short``."""
PEERS: Final = ("vs redis", "vs memcached", "vs valkey-glide")
CPU_PEERS: Final = {"redis": "redis", "memcached": "memcached", "redis glide": "redis by valkey-glide"}
CPU_ROWS: Final = (
    "get",
    "set",
    "get_many-100x100B",
    "set_many-100x100B",
    "get_many-10x1MB",
    "set_many-10x1MB",
    "async-64-tasks",
    "mesh-get",
    "mesh-set",
    "mesh-get_many-100x100B",
    "mesh-set_many-100x100B",
)
"""Rows of ``bench`` whose CPU time is told, too."""
RING_LEGEND: Final = (
    "Share: the keys of which a node is the first owner, least to greatest, in percent of the fair share. Moved: the "
    "keys whose first owner changes when one node joins or leaves, relative to the fair share of a node, which has to "
    "move. A plain ring is consistent hashing with so many points a node."
)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table, with numbers to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows])


def ratio(row: dict[str, Any], *names: str) -> str:
    """Return how many times as fast as each of these contestants the row's first one is."""
    found = [row["contestants"].get(name, {}).get("first_is_times_as_fast") for name in names]
    return " / ".join(f"{each['value']:.2f}" for each in found if each) or "-"


def microseconds(value: float) -> str:
    """Return a time, in the unit that suits it."""
    return f"{value:,.0f} µs" if value < 10_000 else f"{value / 1000:,.1f} ms"


def bench_rows(result: dict[str, Any]) -> list[list[str]]:
    """Show each row: meshcache beside its peers."""
    rows = []
    for row in result["rows"]:
        name = next(iter(row["contestants"]))
        median = row["contestants"][name]["median"]
        rows.append(
            [
                row["title"],
                f"{median['keys_per_s']:,.0f}",
                f"{microseconds(median['p50_us'])} / {microseconds(median['p99_us'])}",
                ratio(row, "redis", "redis tuned"),
                ratio(row, "memcached"),
                ratio(row, "redis glide"),
            ]
        )
    return rows


def short_text(result: dict[str, Any]) -> str:
    """Show the few rows that README.md has."""
    rows = {title: [title, rate, *ratios] for title, rate, _, *ratios in bench_rows(result)}
    shown = [rows[title] for title in IN_README if title in rows]
    return table(["what", "meshcache, keys/s", *PEERS], shown)


def cpu_rows(result: dict[str, Any]) -> list[list[str]]:
    """Show the CPU time of servers and clients, for the rows where one program waits for one call after another."""
    rows = []
    for row in result["rows"]:
        first = next(iter(row["contestants"]))
        if row["name"] in CPU_ROWS:
            medians = [row["contestants"].get(name, {}).get("median") for name in (first, *CPU_PEERS)]
            rows.append([row["title"], *[cpu(median) if median else "-" for median in medians]])
    return rows


def cpu(median: dict[str, float]) -> str:
    """Return the microseconds that a key costs the server, and the client."""
    return f"{median['server_us_per_key']:,.1f} + {median['client_us_per_key']:,.1f}"


def bench_text(result: dict[str, Any]) -> str:
    """Show meshcache beside its peers, row by row, and the memory that entries take."""
    rows, header = bench_rows(result), result["header"]
    servers = [f"{name} {header[key]}" for name in ("redis", "memcached") if (key := f"server {name}") in header]
    memory = [
        [name, f"{found['resident']:,.0f}", "-" if found["accounted"] is None else f"{found['accounted']:,.0f}"]
        for name, found in result["memory_bytes_per_entry"].items()
    ]
    entries = next(iter(result["memory_bytes_per_entry"].values()), {"entries": 0})["entries"]
    return "\n".join(
        [
            f"{header['machine']}; {header['versions']}; {'; '.join(servers)}.",
            "",
            table(["what", "meshcache, keys/s", "p50 / p99 of a call", *PEERS], rows),
            "",
            BENCH_LEGEND,
            "",
            table(["µs of CPU a key, server + client", "meshcache", *CPU_PEERS.values()], cpu_rows(result)),
            "",
            f"Memory per entry beyond its 16-byte key and 100-byte value ({entries:,} entries with a TTL):",
            "",
            table(["server", "resident bytes", "by its own account"], memory),
        ]
    )


def spread(values: list[float]) -> str:
    """Return least and greatest load in percent of the fair share."""
    return f"{100 * values[0]:.0f} % to {100 * values[1]:.0f} %"


def ring_text(result: dict[str, Any]) -> str:
    """Show how even the shares are, and how much moves."""
    loads = {(row["nodes"], row["ring"]): row for row in result["evenness"]}
    moves = {(row["nodes"], row["ring"]): row for row in result["movement"]}
    rows = [
        [
            f"{nodes} nodes, {ring}",
            spread(load["primary_keys"]),
            *[f"{moves[nodes, ring]['primaries'][i]:.2f}" if (nodes, ring) in moves else "-" for i in (0, -1)],
        ]
        for (nodes, ring), load in loads.items()
    ]
    head = ["ring", "share of the keys", "moved, mean", "moved, most"]
    return "\n".join(
        [
            table(head, rows),
            "",
            RING_LEGEND,
        ]
    )


def store_text(results: list[dict[str, Any]]) -> str:
    """Show what an entry takes, and what a key costs."""
    memory = {
        (each["variant"], each["value_bytes"]): each
        for each in results
        if each["experiment"] == "memory" and not each["mixed"]
    }
    names = {"native": "the native store", "store": "the store in Python", "ordereddict": "one OrderedDict"}
    sizes = [
        [
            names[variant],
            f"{size:,}",
            f"{each['churn_overhead_per_entry']:,}",
            f"{each['churn_resident_to_accounted']:.2f}",
        ]
        for (variant, size), each in sorted(memory.items())
        if variant in {"native", "store"}
    ]
    times = [
        [f"{names[each['variant']]}, {each['entries']:,} entries"]
        + [f"{each[column]:.2f}" for column in ("read_us", "overwrite_us", "evict_us")]
        for each in results
        if each["experiment"] == "speed" and each["variant"] in names
    ]
    return "\n".join(
        [
            table(["", "value bytes", "bytes beyond key and value", "resident / accounted"], sizes),
            "",
            table(["µs of CPU a key, in batches of 100", "read", "overwrite", "write that evicts"], times),
            "",
            pauses_text(results),
            "",
            "The OrderedDict only looks up and keeps the order: no byte limit, no expiry calendar, no tombstones.",
        ]
    )


def pauses_text(results: list[dict[str, Any]]) -> str:
    """Say what the longest call was, of everything that was done to a large store."""
    pauses = [each for each in results if each["experiment"] == "pauses" and each["frozen"]]
    if not any(each["variant"] == "store" for each in pauses):
        return ""
    said = [
        f"{max(each['longest_wall_ms'].values()):.0f} ms on "
        + (
            "one OrderedDict"
            if each["variant"] == "ordereddict"
            else f"{'the native store' if each['variant'] == 'native' else 'the store in Python'} with "
            f"{each['entries']:,} entries and {each['accounted_mb']:,} MB"
        )
        for each in pauses
    ]
    return f"The longest call of filling, replacing, expiring and dropping in batches took {', '.join(said)}."


def near_text(result: dict[str, Any]) -> str:
    """Show what a copy in the client costs and saves, and how soon it is void."""
    text, tree = result["hit_ns"].values()
    rows = [[name, f"{text[name]:,.0f} ns", f"{tree[name]:,.0f} ns"] for name in text]
    void = result["void"]
    heard = (
        f"From the acknowledgement of a write until the copies of {void['readers']:.0f} other processes are void: half "
        f"of them within {void['p50_ms']:.1f} ms, 99 % within {void['p99_ms']:.1f} ms."
    )
    return "\n".join([table(["CPU time of a hit", "a str", "a dict, which each reader gets anew"], rows), "", heard])


def compression_text(rows: list[dict[str, Any]]) -> str:
    """Show what compression costs and saves."""
    shown = [
        [
            f"{row['count']} of {row['size']:,} bytes of {row['kind']}",
            row["compress"],
            f"{row['charged']:,.0f}",
            f"{row['set_client_us']:,.1f} / {row['set_node_us']:,.1f}",
            f"{row['get_client_us']:,.1f} / {row['get_node_us']:,.1f}",
        ]
        for row in rows
    ]
    head = [
        "values in a batch",
        "`compress`",
        "bytes charged for one",
        "set, µs of client / node",
        "get, µs of client / node",
    ]
    return table(head, shown)


def scale_text(result: dict[str, Any]) -> str:
    """Show the work that a node does for a key, by the number of nodes."""
    points = {(each["title"], each["copies"], each["nodes"]): each for each in result["points"]}
    sizes = sorted({nodes for _, _, nodes in points})
    rows = [
        [
            f"{title}, N={copies}",
            f"{points[title, copies, sizes[0]]['keys_per_node_cpu_s']:,.0f}",
            *[f"{points[title, copies, nodes]['efficiency']:.2f}" for nodes in sizes[1:]],
        ]
        for title, copies in dict.fromkeys((title, copies) for title, copies, _ in points)
    ]
    head = ["keys a second of the nodes' CPU time", f"{sizes[0]} node", *[f"{nodes} nodes" for nodes in sizes[1:]]]
    rest = ", ".join(f"{float(share):.1%} of {nodes}" for nodes, share in result["rest"].items())
    legend = (
        f"Nodes are pinned round {result['cores']} cores. The first column is a rate, the others are parts of it: 1.00 "
        f"would be as many keys for the same CPU time. Without any client, nodes use of one core: {rest}."
    )
    return "\n".join([table(head, rows), "", legend])


def hot_text(result: dict[str, Any]) -> str:
    """Say what handling hot keys brings."""
    rows = [
        ["`hot_keys.enabled = false`", "1.0", f"{result['busiest_off']:.0%}"],
        ["`true`", f"{result['times_as_fast']:.1f}", f"{result['busiest_on']:.0%}"],
    ]
    head = [
        "two processes read one key nine times of ten",
        "times the reads",
        "share of the busiest node in the CPU time",
    ]
    return table(head, rows) + "\n\nThree nodes, N=2 W=2 R=1."


def json_lines(text: str) -> Any:
    """Read one JSON value a line."""
    return [json.loads(line) for line in text.splitlines()]


class Section(NamedTuple):
    """One section of figures: how they are measured, read and shown."""

    command: list[str]
    quick: list[str]
    """What makes the command quick."""
    machine_readable: str
    read: Callable[[str], Any]
    text: Callable[[Any], str]


SECTIONS: Final = {
    "bench": Section(["scripts/bench"], ["--quick"], "--json-only", json.loads, bench_text),
    "scale": Section(
        ["scripts/bench", "scale"], ["--rounds", "2", "--seconds", "0.1"], "--json", json.loads, scale_text
    ),
    "ring": Section(["scripts/bench", "ring"], ["--sets", "20"], "--json", json.loads, ring_text),
    "near": Section(["scripts/bench", "near"], ["--rounds", "3", "--writes", "100"], "--json", json.loads, near_text),
    "compression": Section(["scripts/bench", "compression"], ["--rounds", "2"], "--json", json.loads, compression_text),
    "hot": Section(["scripts/bench", "hotkeys", "--only", "mesh"], ["--rounds", "1"], "--json", json.loads, hot_text),
    "store": Section(["scripts/bench", "store"], ["--quick"], "--json", json_lines, store_text),
}


def measure(name: str, *, quick: bool) -> dict[str, Any]:
    """Run the command of a section, and keep what it says."""
    section = SECTIONS[name]
    command = [*section.command, *(section.quick if quick else [])]
    print(f"{' '.join(command)} …", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, *command, section.machine_readable], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    measured = {"command": " ".join(command), "result": section.read(done.stdout)}
    OUT.mkdir(exist_ok=True)
    kept(name).write_text(json.dumps(measured) + "\n")
    return measured


def kept(name: str) -> Path:
    """Return where the measurements of a section are kept."""
    return OUT / f"{name}-readme.json"


def replaced(text: str, name: str, body: str) -> str:
    """Return ``text`` with ``body`` between the two markers of a section."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"there must be one section between <!-- {name} --> and <!-- /{name} -->")
    return pattern.sub(lambda match: f"{match[1]}\n{body}\n\n{match[2]}", text)


def section_text(name: str, measured: dict[str, Any]) -> str:
    """Return a whole section: the command, then its figures."""
    return f"Measured by `{measured['command']}`:\n\n{SECTIONS[name].text(measured['result'])}"


def main(arguments: Sequence[str]) -> int:
    """Measure what is asked for and rewrite its sections."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench refresh-readme",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="rough figures in about a minute")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="one section; may be repeated")
    parser.add_argument("--reuse", action="store_true", help="do not measure: take what is in out/")
    options = parser.parse_args(arguments)
    for name in options.only or SECTIONS:
        if options.reuse and not kept(name).exists():
            print(f"nothing to reuse for {name}: {kept(name).relative_to(ROOT)} is not there", file=sys.stderr)
            return 2
        measured = json.loads(kept(name).read_text()) if options.reuse else measure(name, quick=options.quick)
        CHAPTER.write_text(replaced(CHAPTER.read_text(), name, section_text(name, measured)))
        print(f"{CHAPTER.relative_to(ROOT)}: {name}", file=sys.stderr)
        if name == "bench":
            README.write_text(replaced(README.read_text(), "short", short_text(measured["result"])))
            print("README.md: short", file=sys.stderr)
    return 0
