"""A mesh, an honest client beside the hostile ones, and what must hold when the hostile ones have ended.

The honest client is a process of its own, so that its waiting tells of the nodes and not of this program. It uses so
many keys that it has a connection to every node, and all of them must be there to the end.

Any company costs the client time, since it shares nodes and processors with it: harmless company, too. So three kinds
of moments take turns, and what the client waited is told of each: *hostile* ones; *harmless* ones, in which the same
program says as much over the same kind of connections, and all of it is valid; and *quiet* ones. What a node owes is
that hostile company costs the client little more than harmless company; a busy machine counts in all three alike.

Who keeps the client company comes from other machines in earnest, and does not take the nodes' processors. Here it
does, so it works at a low priority, and at a given rate: what a flood does is a question for ``scripts/chaos``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from keys_made import make_keys, security

import meshcache

QUIET, HARMLESS, HOSTILE = range(3)
"""The kinds of moments."""
MOMENTS_S: Final = ((HOSTILE, 2.0), (QUIET, 0.3), (HARMLESS, 0.5))
"""How long they last."""
GIVE_WAY: Final = 10
"""By so much is the company's priority below that of the nodes and the client."""
BEHIND_S_MAX: Final = 0.01
"""Company that came to nothing for longer than this does not make up for the rest of it."""
MEMORY_BYTES_MAX: Final = 64 << 20
"""So much more than before may a node have afterwards."""
MEMORY_S_MAX: Final = 20.0
P99_S_MAX: Final = 0.25
"""By so much may the honest client's p99 be longer beside hostile company than beside harmless company …"""
P99_RATIO_MAX: Final = 2.0
"""… and by this factor, if it is longer by ``P99_SLACK_S`` and rests on ``CALLS_MIN`` calls in moments of each kind."""
P99_SLACK_S: Final = 0.01
CALLS_MIN: Final = 1000
HONEST_KEYS: Final = 12
"""So many that each node owns some."""
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
NODES: Final = ("node1", "node2", "node3")
END_S: Final = 20.0


class Company(Protocol):
    """Who says things to the nodes while the honest client is served; all in one thread, that of its making."""

    def hostile(self) -> int:
        """Say something hostile; return how many cases that was."""

    def harmless(self) -> int:
        """Say as much of the same kind that is valid."""

    def close(self) -> None:
        """End all connections."""


class Told(NamedTuple):
    """What the honest client saw."""

    took_s: tuple[list[float], list[float], list[float]]
    """How long calls took, by the kind of moment."""
    wrong: list[str]
    errors: list[str]
    unanswered: tuple[int, int, int]
    """Requests without an answer, by the kind of moment: their connection ended, or an attempt took too long. Those of
    quiet moments tell of a machine that had no processor for the nodes or the client."""
    dropped: int
    """Connections that it had in the beginning and not in the end."""


class JudgedMesh(NamedTuple):
    """A mesh, and the keys that its nodes and the honest client have, if any."""

    mesh: meshcache.LocalMesh
    keys: Path | None

    def key_file(self, name: str) -> str:
        """Return the path of somebody's secret key file; empty where there are no keys."""
        return "" if self.keys is None else str(self.keys / f"{name}.secret")


@contextlib.contextmanager
def secured_mesh() -> Iterator[JudgedMesh]:
    """Run three nodes with keys; there are further keys of the node n2, and of the clients reader and honest."""
    with tempfile.TemporaryDirectory(prefix="meshcache-") as directory:
        keys = make_keys(Path(directory), *NODES, "n2", reader="read", honest="read,write")
        with meshcache.LocalMesh(nodes=len(NODES), security=security(keys), log={"format": "json"}) as mesh:
            yield JudgedMesh(mesh, keys)


@contextlib.contextmanager
def open_mesh() -> Iterator[JudgedMesh]:
    """Run three nodes without keys."""
    with meshcache.LocalMesh(nodes=len(NODES)) as mesh:
        yield JudgedMesh(mesh, None)


class Door(NamedTuple):
    """Another process by which the mesh is reached, and which is judged like a node."""

    process: subprocess.Popen[bytes]
    addresses: list[str]
    ask: Callable[[list[str], str, Any, Any, Connection], None]
    """The honest client: it is given where to ask, its key file, the moment, the end, and whom to tell."""


def judged(
    mesh: JudgedMesh,
    make: Callable[[], Company],
    count: int,
    seconds: float,
    rate_per_s: float,
    door: Door | None = None,
) -> tuple[str, list[str]]:
    """Have company say so many hostile things; return what is told of it, and what must not be."""
    nodes = dict(mesh.mesh.pids)
    pids = nodes if door is None else {**nodes, "door": door.process.pid}
    context = multiprocessing.get_context("spawn")
    moment, ended = context.Value("i", QUIET), context.Event()
    mine, theirs = context.Pipe()
    addresses, ask = (mesh.mesh.addresses, _ask) if door is None else (door.addresses, door.ask)
    arguments = (addresses, mesh.key_file("honest"), moment, ended, theirs)
    honest = context.Process(target=ask, args=arguments, daemon=True)
    honest.start()
    mine.poll(END_S) and mine.recv()  # it has been served
    before = {node_id: resident_bytes(pid) for node_id, pid in pids.items()}
    done, began, acted_s = 0, time.monotonic(), 0.0
    with ThreadPoolExecutor(1, initializer=_give_way) as thread:
        company = thread.submit(make).result()
        acts = {QUIET: lambda: 0, HARMLESS: company.harmless, HOSTILE: company.hostile}
        while done < count and time.monotonic() - began < seconds and _live(mesh, nodes, door):
            for kind, lasts_s in MOMENTS_S:
                moment.value, since = kind, time.monotonic()
                said = thread.submit(_act, acts[kind], since + lasts_s, rate_per_s).result()
                if kind == HOSTILE:
                    done += said
                    acted_s += time.monotonic() - since
        moment.value = QUIET
        thread.submit(company.close).result()
    ended.set()
    told = mine.recv() if mine.poll(END_S) else None
    honest.join(END_S)
    try:
        mesh.mesh.wait_ready()
    except meshcache.MeshcacheError as error:
        return f"{done:,} cases", [str(error)]
    if door is not None and door.process.poll() is not None:
        return f"{done:,} cases", [f"the door ended with {door.process.returncode}"]
    if told is None:
        return f"{done:,} cases", ["the honest client never ended"]
    grown = _grown_bytes(pids, before)
    text = f"{done:,} cases, {done / max(acted_s, 0.001):,.0f} a second; processes all live; {_text(told, grown)}"
    return text, faults(told, grown)


def _live(mesh: JudgedMesh, nodes: dict[str, int], door: Door | None) -> bool:
    return mesh.mesh.pids == nodes and (door is None or door.process.poll() is None)


def _act(act: Callable[[], int], until: float, rate_per_s: float) -> int:
    """Act at this rate until this time; return how many cases that was."""
    done, next_at, pause = 0, time.monotonic(), threading.Event()
    while (now := time.monotonic()) < until:
        if now < next_at:
            pause.wait(min(next_at, until) - now)
            continue
        said = act()
        done += said
        next_at = max(next_at, now - BEHIND_S_MAX) + max(1, said) / rate_per_s
    return done


def _give_way() -> None:
    """Lower the priority of the present thread, and of those that it starts (each has its own, on Linux)."""
    os.nice(GIVE_WAY)


def _text(told: Told, grown: dict[str, int]) -> str:
    quiet, harmless, hostile = (p99_s(took_s) for took_s in told.took_s)
    ratios = f"{hostile / quiet:.1f} and {hostile / harmless:.1f} times" if quiet and harmless else "no comparison"
    return (
        f"honest client: {sum(map(len, told.took_s)):,} calls, {len(told.wrong)} wrong, {len(told.errors)} failed, "
        f"unanswered {told.unanswered[HOSTILE]}, {told.unanswered[QUIET]} and {told.unanswered[HARMLESS]}, "
        f"{told.dropped} connections dropped, p99 {1000 * hostile:.1f} ms beside hostile company, "
        f"{1000 * quiet:.1f} ms alone and {1000 * harmless:.1f} ms beside harmless company ({ratios}), "
        f"at most {1000 * max(told.took_s[HOSTILE], default=0):.0f} ms; memory "
        f"{', '.join(f'{bytes_ / 2**20:+.0f}' for bytes_ in grown.values())} MiB"
    )


def faults(told: Told, grown: dict[str, int]) -> list[str]:
    """Return what must not be."""
    found = [
        f"{node_id} keeps {bytes_ >> 20} MiB more" for node_id, bytes_ in grown.items() if bytes_ > MEMORY_BYTES_MAX
    ]
    if told.wrong:
        found.append(f"the honest client was told something wrong {len(told.wrong)} times: {told.wrong[:3]}")
    if told.errors or any(told.unanswered):
        found.append(
            f"the honest client was not served: {told.unanswered[HOSTILE]} requests beside hostile company, "
            f"{told.unanswered[QUIET]} alone and {told.unanswered[HARMLESS]} beside harmless company, {told.errors[:3]}"
        )
    if told.dropped:
        found.append(f"{told.dropped} connections of the honest client were dropped")
    if not all(told.took_s):
        found.append("the honest client had no answer in moments of one kind")
    elif waited_too_long(told.took_s[HOSTILE], told.took_s[HARMLESS]):
        found.append("the honest client waited too long")
    return found


def waited_too_long(hostile_s: list[float], harmless_s: list[float]) -> bool:
    """Tell whether hostile company costs the client much more than harmless company."""
    hostile, harmless = p99_s(hostile_s), p99_s(harmless_s)
    many = min(len(hostile_s), len(harmless_s)) >= CALLS_MIN
    return hostile > harmless + P99_S_MAX or (many and hostile > max(P99_RATIO_MAX * harmless, harmless + P99_SLACK_S))


def p99_s(took_s: list[float]) -> float:
    """Return how long 99 of 100 took at most."""
    return sorted(took_s)[int(len(took_s) * 0.99)] if took_s else 0.0


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES


def _grown_bytes(pids: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """Return how much more memory nodes have than before, as soon as that is little enough or time is over."""
    deadline, pause = time.monotonic() + MEMORY_S_MAX, threading.Event()
    while True:
        grown = {node_id: resident_bytes(pid) - before[node_id] for node_id, pid in pids.items()}
        if max(grown.values()) <= MEMORY_BYTES_MAX or time.monotonic() > deadline:
            return grown
        pause.wait(0.2)


def _ask(addresses: list[str], key_file: str, moment: Any, ended: Any, told: Connection) -> None:
    """Write and read keys that nobody else uses, in a process of its own."""
    took_s: tuple[list[float], list[float], list[float]] = ([], [], [])
    calls, wrong, errors, unanswered = 0, [], [], [0, 0, 0]
    with meshcache.Client(addresses, key_file=key_file or None, timeout=5.0) as cache:
        cache.set_many(dict.fromkeys(map(honest_key, range(HONEST_KEYS)), 0), ttl=None)
        connections = open_sockets()
        told.send("served")
        while not ended.wait(0.002):
            calls += 1
            key, began, kind = honest_key(calls), time.monotonic(), moment.value
            try:
                cache.set(key, calls, ttl=None)
                read = cache.get(key)
                if read not in {calls, None}:  # whoever has a node's key may sweep all
                    wrong.append(f"{read} for {calls} of {key}")
            except meshcache.MeshcacheError as error:
                errors.append(repr(error))
            kind = max(kind, moment.value)  # beside whoever was there at its beginning or its end
            took_s[kind].append(time.monotonic() - began)
            unanswered[kind] += cache.statistics().failed - sum(unanswered)
        alone, beside_harmless, beside_hostile = unanswered
        dropped = len(connections - open_sockets())
        told.send(Told(took_s, wrong, errors, (alone, beside_harmless, beside_hostile), dropped))


def honest_key(number: int) -> str:
    """Return one of the keys that the honest client alone uses."""
    return f"honest{number % HONEST_KEYS}"


def open_sockets() -> set[str]:
    """Return the names that the kernel has for this process's sockets; no other gets the name of one that is closed."""
    names = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # it was that of the directory
            names.add(str(fd.readlink()))
    return {name for name in names if name.startswith("socket:")}
