"""A mesh with keys, an honest client beside the hostile ones, and what must hold when the hostile ones have ended.

The honest client is a process of its own, so that its waiting tells of the nodes and not of this program. Hostile and
quiet moments take turns, and what the client waited is told of both, so that a busy machine counts in both alike.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

from keys_made import make_keys, security

import meshcache

HOSTILE_S: Final = 1.0
QUIET_S: Final = 0.5
"""How long hostile and quiet moments last."""
MEMORY_BYTES_MAX: Final = 64 << 20
"""So much more than before may a node have afterwards."""
MEMORY_S_MAX: Final = 20.0
P99_S_MAX: Final = 0.25
"""By so much may the honest client's p99 be longer beside hostile input."""
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
NODES: Final = ("node1", "node2", "node3")
END_S: Final = 20.0


class Told(NamedTuple):
    """What the honest client saw; the waiting is in seconds."""

    beside: list[float]
    alone: list[float]
    wrong: int
    errors: list[str]
    unanswered: int
    """Requests without an answer: their connection ended, or time was over."""


class Secured(NamedTuple):
    """A mesh whose nodes have keys."""

    mesh: meshcache.LocalMesh
    keys: Path

    def key_file(self, name: str) -> str:
        """Return the path of somebody's secret key file."""
        return str(self.keys / f"{name}.secret")


@contextlib.contextmanager
def secured_mesh() -> Iterator[Secured]:
    """Run three nodes with keys; there are further keys of the node n2, and of the clients reader and honest."""
    with tempfile.TemporaryDirectory(prefix="meshcache-") as directory:
        keys = make_keys(Path(directory), *NODES, "n2", reader="read", honest="read,write")
        with meshcache.LocalMesh(nodes=len(NODES), security=security(keys), log={"format": "json"}) as mesh:
            yield Secured(mesh, keys)


def judged(secured: Secured, hostile: Callable[[float], int], count: int, seconds: float) -> tuple[str, list[str]]:
    """Have ``hostile`` act until a time, again and again; return what is told of it, and what must not be."""
    mesh, pids = secured.mesh, dict(secured.mesh.pids)
    context = multiprocessing.get_context("spawn")
    is_hostile, ended = context.Value("b", 0), context.Event()
    mine, theirs = context.Pipe()
    arguments = (mesh.addresses, secured.key_file("honest"), is_hostile, ended, theirs)
    honest = context.Process(target=_ask, args=arguments, daemon=True)
    honest.start()
    mine.poll(END_S) and mine.recv()  # it has been served
    before = {node_id: resident_bytes(pid) for node_id, pid in pids.items()}
    done, began, acted_s, pause = 0, time.monotonic(), 0.0, threading.Event()
    while done < count and time.monotonic() - began < seconds and mesh.pids == pids:
        is_hostile.value = 1
        since = time.monotonic()
        done += hostile(since + HOSTILE_S)
        acted_s += time.monotonic() - since
        is_hostile.value = 0
        pause.wait(QUIET_S)
    ended.set()
    told = mine.recv() if mine.poll(END_S) else None
    honest.join(END_S)
    if told is None or mesh.pids != pids:
        return f"{done:,} cases", [
            "the honest client never ended" if told is None else f"{set(pids) - set(mesh.pids)} ended"
        ]
    mesh.wait_ready()
    grown = _grown_bytes(pids, before)
    text = (
        f"{done:,} cases, {done / max(acted_s, 0.001):,.0f} a second; processes all live; honest client: "
        f"{len(told.beside) + len(told.alone):,} calls, {told.wrong} wrong, {len(told.errors)} failed, "
        f"{told.unanswered} unanswered, p99 {1000 * p99_s(told.beside):.1f} ms beside and "
        f"{1000 * p99_s(told.alone):.1f} ms without, at most {1000 * max(told.beside, default=0):.0f} ms; memory "
        f"{', '.join(f'{bytes_ / 2**20:+.0f}' for bytes_ in grown.values())} MiB"
    )
    return text, faults(told, grown)


def faults(told: Told, grown: dict[str, int]) -> list[str]:
    """Return what must not be."""
    found = [
        f"{node_id} keeps {bytes_ >> 20} MiB more" for node_id, bytes_ in grown.items() if bytes_ > MEMORY_BYTES_MAX
    ]
    if told.wrong:
        found.append(f"the honest client was told something wrong {told.wrong} times")
    if told.errors or told.unanswered:
        found.append(f"the honest client was not served: {told.unanswered} requests, {told.errors[:3]}")
    if not told.beside or not told.alone:
        found.append("the honest client had no answer beside the hostile ones, or without them")
    elif p99_s(told.beside) > p99_s(told.alone) + P99_S_MAX:
        found.append("the honest client waited too long")
    return found


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


def _ask(addresses: list[str], key_file: str, is_hostile: Any, ended: Any, told: Connection) -> None:
    """Write and read a key that nobody else uses, in a process of its own."""
    took_s: tuple[list[float], list[float]] = ([], [])
    calls, wrong, errors = 0, 0, []
    with meshcache.Client(addresses, key_file=key_file, timeout=5.0) as cache:
        cache.set("honest", 0, ttl=None)
        told.send("served")
        while not ended.wait(0.002):
            calls += 1
            began, moment = time.monotonic(), is_hostile.value
            try:
                cache.set("honest", calls, ttl=None)
                wrong += cache.get("honest") not in {calls, None}  # whoever has a node's key may sweep all
            except meshcache.MeshcacheError as error:
                errors.append(repr(error))
            took_s[not (moment or is_hostile.value)].append(time.monotonic() - began)
        told.send(Told(*took_s, wrong, errors, cache.statistics().failed))
