"""The command line's grammar: every command, its arguments, and what its help says.

Commands are in four groups: those that launch nodes, those about keys, those that look into a mesh, and those that go
on until they are stopped. Each group is added by a function here, and says which function runs it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import meshcache
from meshcache import _native
from meshcache.cli import commands, completion, gateway_command, keygen_command, mesh_commands
from meshcache.cli.argument_types import count, lifetime, seconds, share, whole

EXIT_ERROR: Final = 2
SORTS: Final = ("node", "entries", "memory", "ops", "hits", "evictions")
"""Columns that `top` can sort by."""

_EPILOG: Final = """\
examples:
  meshcache up                           three nodes on this machine
  meshcache set greeting hello --ttl 5m  store a string for five minutes
  meshcache get greeting                 print it; exit code 1 if there is none
  meshcache status                       who is in the mesh, and is it well?
  meshcache explain greeting             where it lives, and who holds what

A mesh is named by --at, or by MESHCACHE_SEEDS, or else it is 127.0.0.1:7101.
A TIME is a number of seconds, or has units: 250ms, 90s, 5m, 1h30m, 2d.
Exit codes: 0 done, 1 a miss, 2 an error, 130 interrupted; `status` exits with 1
if something is wrong. `meshcache COMMAND --help` tells more.
"""

_WRONG: Final = """\
Wrong are: a node that is dead or silent, or does not serve; nodes that do not agree on the ring; copies that are not
yet where they belong. A node that has left is not wrong. Nor is what is shown as a warning: that a node is full and
drops entries, and that there are fewer nodes than cluster.replicas."""

_STATUS: Final = """\
ENTRIES and BYTES are what a node holds, beside what it may hold; PULLING counts the slots that it owns and has not
copied yet. --wide also shows EVICTED, entries dropped for a limit; HINTS, writes kept for other nodes; COMPARED, how
long ago it had compared all its slots with their other owners; RING, equal where nodes agree on who owns what; and
INCARNATION, which grows when a node refutes what is said of it. What is too wide for the terminal is folded."""

_FORGET: Final = """\
No node shows it or dials it any longer. Should it come back, it joins as new. A node that is up is refused. Under the
strict partition policy it counts for no majority any more: do not forget one that is only cut off."""

_TOP: Final = """\
Keys: q quits, n e m o h v sort by node, entries, memory, operations, hits and evictions, r reverses, space asks at
once. HITS is the share of lookups that found something; TURN the longest that a node's loop was busy at once since it
started; CLOCK by how much its clock is ahead of the one here. Nodes that do not answer have no figures. In a pipe, or
with --once, it is one table. The live view needs the extra "cli": pip install "meshcache[cli]"."""

_DOCTOR: Final = """\
Looks at: members and ring, settings and quorums, the connections between nodes as each node sees them, ports as they
are reached from here, clocks, versions, descriptors, memory, and hints that are not delivered."""


class Parser(argparse.ArgumentParser):
    """Shows the examples as they are written, and puts usage errors into one line that leads on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Exit with what is wrong."""
        self.exit(EXIT_ERROR, f"meshcache: {message}: see `{self.prog} --help`\n")


_Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001 - argparse gives this type no public name


def make_parser() -> Parser:
    """Return what reads the command line."""
    parser = Parser(
        prog="meshcache", description="A distributed cache: start a mesh, use it, look into it.", epilog=_EPILOG
    )
    version = f"meshcache {meshcache.__version__} ({_native.describe()})"
    parser.add_argument("--version", action="version", version=version)
    _add_mesh_options(parser, top=True)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_launch_commands(subparsers)
    _add_key_commands(subparsers)
    _add_mesh_commands(subparsers)
    _add_running_commands(subparsers)
    _add_keygen(subparsers)
    _add_completion(subparsers, parser)
    return parser


def _add_mesh_options(parser: argparse.ArgumentParser, *, top: bool = False) -> None:
    """Add what every command on a mesh understands, before and after the command's name."""

    def default(value: object) -> object:
        return value if top else argparse.SUPPRESS

    group = parser.add_argument_group("mesh options")
    seeds = os.environ.get("MESHCACHE_SEEDS") or commands.DEFAULT_SEEDS
    group.add_argument("--at", metavar="HOST:PORT[,…]", default=default(seeds), help="some nodes of the mesh")
    group.add_argument(
        "--timeout", metavar="TIME", type=seconds, default=default(5.0), help="for the whole call (5: seconds)"
    )
    group.add_argument(
        "--key-file",
        metavar="FILE",
        default=default(None),
        help="your key, if the mesh asks for one (MESHCACHE_KEY_FILE)",
    )
    group.add_argument("--json", action="store_true", default=default(False), help="print JSON, for programs")


def _add(
    subparsers: _Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    examples: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Add a command. ``notes`` are paragraphs of its help, wrapped to the terminal's width; ``examples`` are not."""
    width = max(40, shutil.get_terminal_size().columns - 2)
    paragraphs = ["\n".join(["examples:", *(f"  {example}" for example in examples)])] if examples else []
    paragraphs += [textwrap.fill(note, width) for note in notes]
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="\n\n".join(paragraphs) or None,
    )
    parser.set_defaults(run=run)
    return parser


# -- launching ---------------------------------------------------------------------------------------------


def _add_launch_commands(subparsers: _Subparsers) -> None:
    up, node = _add_up(subparsers), _add_node(subparsers)
    for parser in (up, node):
        parser.add_argument("--config", metavar="FILE", help="a TOML file; see configs/default.toml for every setting")
        parser.add_argument(
            "--set", metavar="TABLE.KEY=VALUE", action="append", default=[], help="change one setting; may be repeated"
        )


def _add_up(subparsers: _Subparsers) -> argparse.ArgumentParser:
    up = _add(
        subparsers,
        "up",
        commands.up,
        "run a mesh of several nodes on this machine",
        [
            "meshcache up --nodes 5 --set cluster.replicas=3",
            "meshcache up --config configs/local.toml --base-port 7501",
        ],
        ["Prints `ready` when every node sees every other. A node that dies is started again. Ctrl-C stops all nodes."],
    )
    up.add_argument("--nodes", type=whole, default=3, metavar="N", help="how many (3)")
    up.add_argument(
        "--base-port",
        type=whole,
        default=7101,
        metavar="PORT",
        help="the first node's port; the next has the next (7101)",
    )
    up.add_argument(
        "--memcached",
        action="store_true",
        help="a port on each node for clients of memcached, from 11211 on, or from that of memcached.listen",
    )
    up.add_argument("--data-dir", metavar="DIR", help="where nodes keep what outlives them, in a directory each")
    return up


def _add_node(subparsers: _Subparsers) -> argparse.ArgumentParser:
    node = _add(
        subparsers,
        "node",
        commands.node,
        "run one node in the foreground",
        [
            "meshcache node --config configs/production.toml \\",
            "    --listen 10.0.0.11:7101 --seed 10.0.0.12:7101",
        ],
        ["Prints `ready` when the node serves. SIGTERM has it hand over what it owns first; Ctrl-C stops it at once."],
    )
    node.add_argument("--id", metavar="ID", help="the node's id, unique in the mesh and the same after each restart")
    node.add_argument("--listen", metavar="HOST:PORT", help="where clients and other nodes dial it")
    node.add_argument("--seed", metavar="HOST:PORT", action="append", help="a node to join; may be repeated")
    node.add_argument("--parent-pid", type=count, metavar="PID", help="stop when this process, the parent, has ended")
    return node


# -- keys --------------------------------------------------------------------------------------------------


def _add_key_commands(subparsers: _Subparsers) -> None:
    get = _add(
        subparsers, "get", commands.get, "print the value of a key", ["meshcache get user:1 || echo 'not cached'"]
    )
    store = _add(
        subparsers,
        "set",
        commands.store,
        "store a value",
        [
            "meshcache set greeting hello --ttl 60",
            "meshcache set visits 5 --as int",
            "meshcache set user:1 ada --tag user:1 --tag team:7",
            "meshcache set page - < page.html        bytes, exactly as they are read",
        ],
    )
    add = _add(subparsers, "add", commands.add, "store a value if there is no such key; else exit 1")
    delete = _add(subparsers, "delete", commands.delete, "delete keys; exit 1 if there were none")
    incr = _add(
        subparsers,
        "incr",
        commands.incr,
        "add to a number and print the sum",
        ["meshcache incr visits", "meshcache incr stock -3 --initial 100"],
    )
    touch = _add(subparsers, "touch", commands.touch, "give a key a new lifetime; exit 1 if there is no such key")
    ttl = _add(subparsers, "ttl", commands.ttl, "print the seconds that a key has left, or never")
    for parser in (get, store, add, incr, touch, ttl):
        parser.add_argument("key", metavar="KEY")
    delete.add_argument("keys", metavar="KEY", nargs="+")
    invalidate, clear = _add_invalidate(subparsers), _add_clear(subparsers)
    for parser in (store, add):
        _add_value(parser)
    for parser, what in ((store, "a tag"), (add, "a tag"), (invalidate, "all with this tag")):
        parser.add_argument("--tag", metavar="TAG", action="append", default=[], help=f"{what}; may be repeated")
    for parser in (store, add, incr, touch):
        _add_lifetime(parser)
    _add_number(incr)
    for parser in (get, store, add, delete, incr, touch, ttl, invalidate, clear):
        _add_mesh_options(parser)


def _add_invalidate(subparsers: _Subparsers) -> argparse.ArgumentParser:
    invalidate = _add(
        subparsers,
        "invalidate",
        commands.invalidate,
        "drop keys whose source has changed, also from near caches",
        [
            "meshcache invalidate user:1 user:2",
            "meshcache invalidate --prefix user:",
            "meshcache invalidate --tag team:7",
        ],
    )
    invalidate.add_argument("--prefix", metavar="P", help="drop every key that begins so, instead of single keys")
    invalidate.add_argument("keys", metavar="KEY", nargs="*")
    return invalidate


def _add_clear(subparsers: _Subparsers) -> argparse.ArgumentParser:
    clear = _add(
        subparsers,
        "clear",
        commands.clear,
        "drop every key, or all that begin with a prefix",
        ["meshcache clear user:", "meshcache clear --yes       everything, without being asked"],
    )
    clear.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="only keys that begin so")
    clear.add_argument("--yes", action="store_true", help="do not ask before everything is dropped")
    return clear


def _add_value(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("value", metavar="VALUE", help="- reads standard input, as bytes")
    parser.add_argument(
        "--as", dest="kind", choices=["str", "int", "float", "json"], default="str", help="what VALUE is (str)"
    )


def _add_lifetime(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ttl",
        type=lifetime,
        default=argparse.SUPPRESS,
        metavar="TIME",
        help="how long it lives: 90 (seconds), 5m, 1h30m, or never (the mesh's default)",
    )


def _add_number(incr: argparse.ArgumentParser) -> None:
    incr.add_argument("delta", metavar="DELTA", type=whole, nargs="?", default=1, help="how much to add (1)")
    first = incr.add_mutually_exclusive_group()
    first.add_argument("--initial", type=whole, default=0, metavar="N", help="what a missing key counts from (0)")
    first.add_argument("--must-exist", action="store_true", help="exit 1 if there is no such key")


# -- the mesh ----------------------------------------------------------------------------------------------


def _add_mesh_commands(subparsers: _Subparsers) -> None:
    status = _add(
        subparsers,
        "status",
        mesh_commands.status,
        "show the members of the mesh, and what is wrong with it",
        ["meshcache status", "until meshcache status >/dev/null; do sleep 1; done    wait until all is well"],
        [
            "Exit codes: 0 if all is well, 1 if something is wrong, 2 if the mesh can not be asked.",
            _WRONG,
            _STATUS,
        ],
    )
    status.add_argument("--wide", action="store_true", help="show every column")
    stats, doctor = _add_stats(subparsers), _add_doctor(subparsers)
    ring = _add(
        subparsers,
        "ring",
        mesh_commands.ring,
        "show each node's share of the keys, or the owners of one key",
        ["meshcache ring", "meshcache ring user:1"],
    )
    ring.add_argument("key", metavar="KEY", nargs="?")
    explain = _add(
        subparsers, "explain", mesh_commands.explain, "show where a key lives and what each replica holds of it"
    )
    explain.add_argument("key", metavar="KEY")
    departures = _add_departures(subparsers)
    for parser in (status, stats, doctor, ring, explain, *departures):
        _add_mesh_options(parser)


def _add_stats(subparsers: _Subparsers) -> argparse.ArgumentParser:
    stats = _add(
        subparsers,
        "stats",
        mesh_commands.stats,
        "show what each node has counted since it started",
        [
            "meshcache stats",
            "meshcache stats --every 2     how fast counters grow, until Ctrl-C",
            "meshcache stats --hot",
        ],
        ["Counters that are zero on all nodes are not shown, unless you ask for --all. --json has all by their names."],
    )
    stats.add_argument("--all", action="store_true", help="also show counters that are zero on all nodes")
    stats.add_argument("--every", type=seconds, metavar="TIME", help="show rates, again and again, until Ctrl-C")
    stats.add_argument("--count", type=count, default=0, metavar="N", help="with --every: stop after so many times")
    stats.add_argument("--hot", action="store_true", help="show the keys read most instead, and whether they are hot")
    stats.add_argument("--limit", type=count, metavar="N", help="with --hot: how many keys (20)")
    return stats


def _add_doctor(subparsers: _Subparsers) -> argparse.ArgumentParser:
    doctor = _add(
        subparsers,
        "doctor",
        mesh_commands.doctor,
        "say what is wrong with the mesh, or with a configuration, and what to do",
        ["meshcache doctor", "meshcache doctor --config configs/production.toml"],
        [
            "Exit codes: 0 if nothing is wrong, 1 for warnings, 2 for errors.",
            _DOCTOR,
        ],
    )
    doctor.add_argument("--config", metavar="FILE", help="look at this file instead of the running mesh")
    return doctor


def _add_departures(subparsers: _Subparsers) -> Sequence[argparse.ArgumentParser]:
    leave = _add(
        subparsers,
        "leave",
        mesh_commands.leave,
        "have a node hand over what it owns, and stop",
        ["meshcache leave node2"],
        ["Waits until the others hold its keys. SIGTERM to the node does the same."],
    )
    snapshot = _add(
        subparsers,
        "snapshot",
        mesh_commands.snapshot,
        "have nodes write a snapshot now",
        ["meshcache snapshot", "meshcache snapshot node2"],
        ["Without NODE, all nodes that are alive. Needs snapshot.enabled on the nodes."],
    )
    snapshot.add_argument("node", metavar="NODE", nargs="?", help="its id or HOST:PORT")
    snapshot.add_argument(
        "--wait", type=seconds, default=60.0, metavar="TIME", help="how long to wait for each (60: seconds)"
    )
    forget = _add(
        subparsers,
        "forget",
        mesh_commands.forget,
        "have the mesh forget a node that is dead or has left",
        ["meshcache forget node4"],
        [_FORGET],
    )
    for parser in (leave, forget):
        parser.add_argument("node", metavar="NODE", help="its id or HOST:PORT")
    leave.add_argument(
        "--wait", type=seconds, default=60.0, metavar="TIME", help="how long to wait for it (60: seconds)"
    )
    return leave, snapshot, forget


# -- what goes on for a while ------------------------------------------------------------------------------


def _add_running_commands(subparsers: _Subparsers) -> None:
    bench = _add(
        subparsers,
        "bench",
        mesh_commands.bench,
        "put a quick load on a running mesh",
        ["meshcache bench --duration 10 --concurrency 200 --value-bytes 1000 --reads 0.5"],
        ["Uses keys of its own, which it deletes in the end."],
    )
    bench.add_argument("--duration", type=seconds, default=5.0, metavar="TIME", help="of the load (5: seconds)")
    bench.add_argument("--concurrency", type=count, default=50, metavar="N", help="operations under way (50)")
    bench.add_argument("--value-bytes", type=count, default=100, metavar="N", help="size of a value (100)")
    bench.add_argument("--keys", type=count, default=1000, metavar="N", help="different keys (1000)")
    bench.add_argument(
        "--reads", type=share, default=0.9, metavar="SHARE", help="share of gets, the rest is sets (0.9)"
    )
    watch = _add(
        subparsers,
        "watch",
        commands.watch,
        "show changes of keys as they happen, until Ctrl-C",
        ["meshcache watch", "meshcache watch user: --json"],
        ['A line "gap" says that something may have been missed: a node died or joined, or the stream was broken.'],
    )
    watch.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="only keys that begin so")
    watch.add_argument("--count", type=count, default=0, metavar="N", help="stop after so many lines")
    top = _add_top(subparsers)
    gateway = _add_gateway(subparsers)
    for parser in (bench, watch, top, gateway):
        _add_mesh_options(parser)


def _add_gateway(subparsers: _Subparsers) -> argparse.ArgumentParser:
    gateway = _add(
        subparsers,
        "gateway",
        gateway_command.gateway,
        "serve the cache by plain HTTP, and a dashboard, until Ctrl-C",
        [
            "meshcache gateway",
            "meshcache gateway --listen 127.0.0.1:8080 --at 10.0.0.11:7101,10.0.0.12:7101",
            "meshcache gateway --listen 10.0.0.5:7180 --token-file token \\",
            "    --tls-cert cert.pem --tls-key key.pem",
            "curl http://127.0.0.1:7180/cache/greeting",
        ],
        [
            "Prints `ready` and its address. SIGTERM and Ctrl-C have it answer the requests at hand, and stop.",
            "Needs `pip install 'meshcache[gateway]'`.",
        ],
    )
    listen = gateway_command.DEFAULT_LISTEN
    gateway.add_argument("--listen", metavar="HOST:PORT", default=listen, help=f"where it answers ({listen})")
    gateway.add_argument(
        "--host", metavar="NAME", action="append", default=[], help="a host name that it answers to; may be repeated"
    )
    gateway.add_argument("--insecure", action="store_true", help="reach beyond this machine without a token")
    gateway.add_argument("--token-file", metavar="FILE", help="bearer tokens, one a line, of which a request needs one")
    gateway.add_argument("--tls-cert", metavar="FILE", help="certificate chain in PEM, for HTTPS")
    gateway.add_argument("--tls-key", metavar="FILE", help="its private key in PEM")
    gateway.add_argument("--allow-writes", action="store_true", help="let the dashboard delete keys")
    return gateway


def _add_top(subparsers: _Subparsers) -> argparse.ArgumentParser:
    top = _add(
        subparsers,
        "top",
        mesh_commands.top,
        "show the nodes of the mesh live: what they hold, and how much they do",
        ["meshcache top", "meshcache top --every 5 --sort ops", "meshcache top --once --json"],
        [_TOP],
    )
    top.add_argument("--every", type=seconds, default=2.0, metavar="TIME", help="how often to ask (2: seconds)")
    top.add_argument("--once", action="store_true", help="show it once, with rates over one --every, and exit")
    top.add_argument("--sort", choices=SORTS, default="node", metavar="COLUMN", help=f"{', '.join(SORTS)} (node)")
    return top


def _add_keygen(subparsers: _Subparsers) -> None:
    keygen = _add(
        subparsers,
        "keygen",
        keygen_command.keygen,
        "make a key pair for a node or a client",
        [
            "meshcache keygen node1 --node",
            "meshcache keygen web --rights read,write --prefix users:",
            "meshcache --key-file keys/web.secret get users:1",
        ],
        [
            "Writes DIR/NAME.secret, for its owner alone, and DIR/allowed/NAME.pub, by which nodes know it.",
            "The first call makes DIR/mesh.secret, too. No node reads it: keep it where you make keys.",
            "To take a key back, delete its .pub file. Without NAME only the mesh's own key is made.",
        ],
    )
    keygen.add_argument("name", nargs="?", metavar="NAME", help="of the client, or the id of the node")
    keygen.add_argument("--node", action="store_true", help="the key of a node, with all rights")
    keygen.add_argument(
        "--rights",
        metavar="RIGHT[,…]",
        help="read, write, admin (read,write); admin drops keys by prefix and rules nodes",
    )
    keygen.add_argument("--prefix", metavar="TEXT", help="confine the client to keys that begin so")
    keygen.add_argument("--dir", metavar="DIR", default="keys", help="where the files go (keys)")


def _add_completion(subparsers: _Subparsers, grammar: Parser) -> None:
    def print_script(options: argparse.Namespace) -> int:
        print(completion.script(options.shell, grammar), end="")
        return 0

    parser = _add(
        subparsers,
        "completion",
        print_script,
        "print a script that completes this command line in a shell",
        [
            "meshcache completion zsh > ~/.zfunc/_meshcache       a directory of $fpath",
            "meshcache completion fish > ~/.config/fish/completions/meshcache.fish",
            "source <(meshcache completion bash)                  for instance in ~/.bashrc",
        ],
    )
    parser.add_argument("shell", metavar="SHELL", choices=completion.SHELLS, help="bash, zsh or fish")
