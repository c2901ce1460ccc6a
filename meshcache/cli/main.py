"""The command ``meshcache``: reads the command line, and turns outcomes into exit codes.

A miss, or a condition that did not hold, exits 1 with nothing on standard output. An error exits 2 with a line on
standard error that says what to do next. Modules that cost time to import are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeVar

import meshcache
from meshcache.cli import commands, mesh_commands
from meshcache.durations import seconds_of
from meshcache.errors import (
    ConfigError,
    MeshcacheError,
    NodeUnavailable,
    NotANumber,
    OperationTimeout,
    Overloaded,
    QuorumNotReached,
)

EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
EXIT_NO_READER: Final = 128 + signal.SIGPIPE

_ADVICE: Final[tuple[tuple[type[MeshcacheError], str], ...]] = (
    (NodeUnavailable, "is a mesh running there? Start one with `meshcache up`, or name another with --at"),
    (OperationTimeout, "allow more time with --timeout, or see `meshcache status`"),
    (QuorumNotReached, "see `meshcache status` for nodes that are down"),
    (Overloaded, "try again later, or see `meshcache stats`"),
    (NotANumber, "store a number with `meshcache set KEY 5 --as int`"),
)

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        exit_code: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would try to flush once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NO_READER
    except MeshcacheError as error:
        return _report(error)
    except ValueError as error:  # an argument that the client refuses, such as a lifetime of zero
        return _report(error)
    return exit_code


def _report(error: Exception) -> int:
    problems = error.problems if isinstance(error, ConfigError) else [str(error) or type(error).__name__]
    advice = next((f": {text}" for kind, text in _ADVICE if isinstance(error, kind)), "")
    for problem in problems:
        print(f"meshcache: {' '.join(problem.split())}{advice}", file=sys.stderr)
    return EXIT_ERROR


class _Parser(argparse.ArgumentParser):
    """Shows the examples as they are written, and puts usage errors into one line that leads on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"meshcache: {message}: see `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="meshcache", description="A distributed cache: start a mesh, use it, look into it.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"meshcache {meshcache.__version__}")
    _add_mesh_options(parser, top=True)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_launch_commands(subparsers)
    _add_key_commands(subparsers)
    _add_mesh_commands(subparsers)
    _add_running_commands(subparsers)
    return parser


def _add_mesh_options(parser: argparse.ArgumentParser, *, top: bool = False) -> None:
    """Add what every command on a mesh understands, before and after the command's name."""

    def default(value: object) -> object:
        return value if top else argparse.SUPPRESS

    group = parser.add_argument_group("mesh options")
    seeds = os.environ.get("MESHCACHE_SEEDS") or commands.DEFAULT_SEEDS
    group.add_argument("--at", metavar="HOST:PORT[,…]", default=default(seeds), help="some nodes of the mesh")
    group.add_argument(
        "--timeout", metavar="TIME", type=_seconds, default=default(5.0), help="for the whole call (5: seconds)"
    )
    group.add_argument("--json", action="store_true", default=default(False), help="print JSON, for programs")


_Subparsers = argparse._SubParsersAction  # noqa: SLF001 - argparse gives this type no public name


def _add(
    subparsers: _Subparsers[_Parser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    examples: str = "",
    *notes: str,
) -> argparse.ArgumentParser:
    """Add a command. ``notes`` are paragraphs of its help, wrapped to the terminal's width; ``examples`` are not."""
    width = max(40, shutil.get_terminal_size().columns - 2)
    paragraphs = [f"examples:\n{examples}"] if examples else []
    paragraphs += [textwrap.fill(note, width) for note in notes]
    epilog = "\n\n".join(paragraphs) or None
    parser = subparsers.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=epilog
    )
    parser.set_defaults(run=run)
    return parser


def _add_launch_commands(subparsers: _Subparsers[_Parser]) -> None:
    up = _add(
        subparsers, "up", commands.up, "run a mesh of several nodes on this machine",
        "  meshcache up --nodes 5 --set cluster.replicas=3\n"
        "  meshcache up --config configs/local.toml --base-port 7501",
        "Prints `ready` when every node sees every other. A node that dies is started again. Ctrl-C stops all nodes.",
    )  # fmt: skip
    up.add_argument("--nodes", type=_whole, default=3, metavar="N", help="how many (3)")
    up.add_argument(
        "--base-port",
        type=_whole,
        default=7101,
        metavar="PORT",
        help="the first node's port; the next has the next (7101)",
    )
    up.add_argument("--data-dir", metavar="DIR", help="where nodes keep what outlives them, in a directory each")
    node = _add(
        subparsers, "node", commands.node, "run one node in the foreground",
        "  meshcache node --config configs/production.toml \\\n"
        "      --listen 10.0.0.11:7101 --seed 10.0.0.12:7101",
        "Prints `ready` when the node serves. SIGTERM has it hand over what it owns first; Ctrl-C stops it at once.",
    )  # fmt: skip
    node.add_argument("--id", metavar="ID", help="the node's id, unique in the mesh and the same after each restart")
    node.add_argument("--listen", metavar="HOST:PORT", help="where clients and other nodes dial it")
    node.add_argument("--seed", metavar="HOST:PORT", action="append", help="a node to join; may be repeated")
    node.add_argument("--parent-pid", type=_count, metavar="PID", help="stop when this process, the parent, has ended")
    for parser in (up, node):
        parser.add_argument("--config", metavar="FILE", help="a TOML file; see configs/default.toml for every setting")
        parser.add_argument(
            "--set", metavar="TABLE.KEY=VALUE", action="append", default=[], help="change one setting; may be repeated"
        )


def _add_key_commands(subparsers: _Subparsers[_Parser]) -> None:
    get = _add(
        subparsers, "get", commands.get, "print the value of a key", "  meshcache get user:1 || echo 'not cached'"
    )
    store = _add(
        subparsers, "set", commands.store, "store a value",
        "  meshcache set greeting hello --ttl 60\n"
        "  meshcache set visits 5 --as int\n"
        "  meshcache set user:1 ada --tag user:1 --tag team:7\n"
        "  meshcache set page - < page.html        bytes, exactly as they are read",
    )  # fmt: skip
    add = _add(subparsers, "add", commands.add, "store a value if there is no such key; else exit 1")
    delete = _add(subparsers, "delete", commands.delete, "delete keys; exit 1 if there were none")
    incr = _add(
        subparsers, "incr", commands.incr, "add to a number and print the sum",
        "  meshcache incr visits\n  meshcache incr stock -3 --initial 100",
    )  # fmt: skip
    touch = _add(subparsers, "touch", commands.touch, "give a key a new lifetime; exit 1 if there is no such key")
    ttl = _add(subparsers, "ttl", commands.ttl, "print the seconds that a key has left, or never")
    invalidate = _add(
        subparsers, "invalidate", commands.invalidate, "drop keys whose source has changed, also from near caches",
        "  meshcache invalidate user:1 user:2\n"
        "  meshcache invalidate --prefix user:\n"
        "  meshcache invalidate --tag team:7",
    )  # fmt: skip
    invalidate.add_argument("--prefix", metavar="P", help="drop every key that begins so, instead of single keys")
    clear = _add(
        subparsers, "clear", commands.clear, "drop every key, or all that begin with a prefix",
        "  meshcache clear user:\n  meshcache clear --yes       everything, without being asked",
    )  # fmt: skip
    clear.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="only keys that begin so")
    clear.add_argument("--yes", action="store_true", help="do not ask before everything is dropped")
    for parser in (get, store, add, incr, touch, ttl):
        parser.add_argument("key", metavar="KEY")
    for parser in (store, add):
        parser.add_argument("value", metavar="VALUE", help="- reads standard input, as bytes")
        parser.add_argument(
            "--as", dest="kind", choices=["str", "int", "float", "json"], default="str", help="what VALUE is (str)"
        )
    delete.add_argument("keys", metavar="KEY", nargs="+")
    invalidate.add_argument("keys", metavar="KEY", nargs="*")
    for parser, what in ((store, "a tag"), (add, "a tag"), (invalidate, "all with this tag")):
        parser.add_argument("--tag", metavar="TAG", action="append", default=[], help=f"{what}; may be repeated")
    for parser in (store, add, incr, touch):
        parser.add_argument(
            "--ttl",
            type=_lifetime,
            default=argparse.SUPPRESS,
            metavar="TIME",
            help="how long it lives: 90 (seconds), 5m, 1h30m, or never (the mesh's default)",
        )
    incr.add_argument("delta", metavar="DELTA", type=_whole, nargs="?", default=1, help="how much to add (1)")
    first = incr.add_mutually_exclusive_group()
    first.add_argument("--initial", type=_whole, default=0, metavar="N", help="what a missing key counts from (0)")
    first.add_argument("--must-exist", action="store_true", help="exit 1 if there is no such key")
    for parser in (get, store, add, delete, incr, touch, ttl, invalidate, clear):
        _add_mesh_options(parser)


def _add_mesh_commands(subparsers: _Subparsers[_Parser]) -> None:
    status = _add(
        subparsers, "status", mesh_commands.status, "show the members of the mesh, and what is wrong with it",
        "  meshcache status\n  until meshcache status >/dev/null; do sleep 1; done    wait until all is well",
        "Exit codes: 0 if all is well, 1 if something is wrong, 2 if the mesh can not be asked.", _WRONG, _STATUS,
    )  # fmt: skip
    status.add_argument("--wide", action="store_true", help="show every column")
    stats = _add(subparsers, "stats", mesh_commands.stats, "show what each node has counted")
    stats.add_argument("--hot", action="store_true", help="show the keys read most instead, and whether they are hot")
    stats.add_argument("--limit", type=_count, metavar="N", help="with --hot: how many keys (20)")
    ring = _add(
        subparsers, "ring", mesh_commands.ring, "show each node's share of the keys, or the owners of one key",
        "  meshcache ring\n  meshcache ring user:1",
    )  # fmt: skip
    ring.add_argument("key", metavar="KEY", nargs="?")
    explain = _add(
        subparsers, "explain", mesh_commands.explain, "show where a key lives and what each replica holds of it"
    )
    explain.add_argument("key", metavar="KEY")
    leave = _add(
        subparsers, "leave", mesh_commands.leave, "have a node hand over what it owns, and stop",
        "  meshcache leave node2", "Waits until the others hold its keys. SIGTERM to the node does the same.",
    )  # fmt: skip
    snapshot = _add(
        subparsers, "snapshot", mesh_commands.snapshot, "have nodes write a snapshot now",
        "  meshcache snapshot\n  meshcache snapshot node2",
        "Without NODE, all nodes that are alive. Needs snapshot.enabled on the nodes.",
    )  # fmt: skip
    snapshot.add_argument("node", metavar="NODE", nargs="?", help="its id or HOST:PORT")
    snapshot.add_argument(
        "--wait", type=_seconds, default=60.0, metavar="TIME", help="how long to wait for each (60: seconds)"
    )
    forget = _add(
        subparsers, "forget", mesh_commands.forget, "have the mesh forget a node that is dead or has left",
        "  meshcache forget node4",
        "No node shows it or dials it any longer. Should it come back, it joins as new. A node that is up is refused. "
        "Under the strict partition policy it counts for no majority any more: do not forget one that is only cut off.",
    )  # fmt: skip
    for parser in (leave, forget):
        parser.add_argument("node", metavar="NODE", help="its id or HOST:PORT")
    leave.add_argument(
        "--wait", type=_seconds, default=60.0, metavar="TIME", help="how long to wait for it (60: seconds)"
    )
    for parser in (status, stats, ring, explain, leave, snapshot, forget):
        _add_mesh_options(parser)


def _add_running_commands(subparsers: _Subparsers[_Parser]) -> None:
    """Add the commands that go on for a while."""
    bench = _add(
        subparsers, "bench", mesh_commands.bench, "put a quick load on a running mesh",
        "  meshcache bench --duration 10 --concurrency 200 --value-bytes 1000 --reads 0.5",
        "Uses keys of its own, which it deletes in the end.",
    )  # fmt: skip
    bench.add_argument("--duration", type=_seconds, default=5.0, metavar="TIME", help="of the load (5: seconds)")
    bench.add_argument("--concurrency", type=_count, default=50, metavar="N", help="operations under way (50)")
    bench.add_argument("--value-bytes", type=_count, default=100, metavar="N", help="size of a value (100)")
    bench.add_argument("--keys", type=_count, default=1000, metavar="N", help="different keys (1000)")
    bench.add_argument(
        "--reads", type=_share, default=0.9, metavar="SHARE", help="share of gets, the rest is sets (0.9)"
    )
    watch = _add(
        subparsers, "watch", commands.watch, "show changes of keys as they happen, until Ctrl-C",
        "  meshcache watch\n  meshcache watch user: --json",
        "A line \"gap\" says that something may have been missed: a node died or joined, or the stream was broken.",
    )  # fmt: skip
    watch.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="only keys that begin so")
    watch.add_argument("--count", type=_count, default=0, metavar="N", help="stop after so many lines")
    for parser in (bench, watch):
        _add_mesh_options(parser)


T = TypeVar("T")


def _in_words(read: Callable[[str], T]) -> Callable[[str], T]:
    """Have argparse say what ``read`` says of a text that it refuses, instead of the name of a function."""

    def reader(text: str) -> T:
        try:
            return read(text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    return reader


@_in_words
def _seconds(text: str) -> float:
    seconds = seconds_of(text)
    if seconds <= 0:
        raise ValueError(f"must be longer than 0, is {text!r}")
    return seconds


@_in_words
def _lifetime(text: str) -> float | None:
    if text == "never":
        return None
    seconds = seconds_of(text)
    if seconds <= 0:
        raise ValueError(f"must be longer than 0, is {text!r}: write never for a key that never expires")
    return seconds


def _number(kind: Callable[[str], T], what: str, text: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"must be {what}, is {text!r:.60}") from None


@_in_words
def _whole(text: str) -> int:
    return _number(int, "a whole number", text)


@_in_words
def _count(text: str) -> int:
    value = _number(int, "a whole number of at least 1", text)
    if value < 1:
        raise ValueError(f"must be at least 1, is {text!r}")
    return value


@_in_words
def _share(text: str) -> float:
    value = _number(float, "a number from 0 to 1", text)
    if not 0 <= value <= 1:
        raise ValueError(f"must be from 0 to 1, is {text!r}")
    return value
