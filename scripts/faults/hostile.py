"""What one program can do to a node by messages and connections alone, and what an honest client notices of it.

Each attack (attacker.py) meets a fresh mesh that has settled. Beside it one client reads a key all the time: the
longest that it waited for an answer is the gap, and its p99 is compared with that beside a program that starts, greets
the node and does no more. The memory is that of the node attacked, above what it had before: at most, and afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import meshcache
from meshcache.errors import MeshcacheError

from .attacker import ATTACKS, HARMLESS, KEYS
from .scenario import Options, Result

ATTACKER: Final = Path(__file__).with_name("attacker.py")
GAP_S_MAX: Final = 0.25
UNREAD: Final = "unread-flood"
"""Of this attack others are to notice less: by their longest gap, and by their p99, in times of that beside a harmless
program."""
UNREAD_GAP_S_MAX: Final = 0.1
UNREAD_P99_TIMES_MAX: Final = 1.5
LOST_GOODPUT_MAX: Final = 0.2
PEAK_MIB_MAX: Final = 128
LEFT_MIB_MAX: Final = 64
SAMPLE_S: Final = 0.01
"""How often the node's memory is looked at."""
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Witness:
    """An honest client: one get after the other, all the time."""

    address: str
    took_s: list[float] = field(default_factory=list)
    failed: int = 0

    def watch(self, stop: threading.Event) -> None:
        """Read until told to stop; only what is answered ends a gap."""
        with meshcache.Client(self.address, timeout=2.0, near_cache=False) as cache:
            since = time.monotonic()
            while not stop.is_set():
                try:
                    assert cache.get("witness") == "here"
                except (MeshcacheError, AssertionError):
                    self.failed += 1
                    continue
                now = time.monotonic()
                self.took_s.append(now - since)
                stop.wait(0.002)
                since = time.monotonic()

    def quantile_s(self, share: float) -> float:
        """Return how long so many of the calls took at most."""
        ordered = sorted(self.took_s) or [9.0]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def begin_anew(self) -> None:
        """Forget how long the calls took so far."""
        self.took_s, self.failed = [], 0


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    return 0


def processor_s(pid: int) -> float:
    """Return the processor time of a process and its threads."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def attack_once(name: str, nodes: int, seconds: float) -> dict[str, Any]:
    """Start a mesh, have its first node attacked, and return the figures."""
    store = {"max_entries": 100_000, "max_bytes": 400_000_000}
    with meshcache.LocalMesh(nodes=nodes, cluster={"replicas": min(2, nodes)}, store=store) as mesh:
        address, pid = mesh.addresses[0], mesh.pids["node1"]
        with mesh.client() as cache:
            cache.set("witness", "here", ttl=None)
            cache.set_many({key: os.urandom(1_000_000) for key in KEYS}, ttl=None)
            cache.set_many({b"small:%d" % i: os.urandom(100) for i in range(4096)}, ttl=None)
            members = cache.inspect("view")["members"]
            _settle(cache, mesh.addresses)
        publish = next(fact[2] for fact in members if fact[1] == address)
        before, stop, witness = resident_bytes(pid), threading.Event(), Witness(address)
        watching = threading.Thread(target=witness.watch, args=(stop,))
        watching.start()

        def attack_by(attack: str) -> tuple[Any, int]:
            witness.begin_anew()
            command = [sys.executable, str(ATTACKER), address, publish, attack, str(seconds)]
            return _attack(command, pid, time.monotonic() + seconds + 60)

        attack_by(HARMLESS)
        harmless_p99_s = witness.quantile_s(0.99)
        began_s, began = processor_s(pid), time.monotonic()
        attack, peak = attack_by(name)
        busy = (processor_s(pid) - began_s) / (time.monotonic() - began)
        left = _settled_bytes(pid, before)
        stop.set()
        watching.join()
        ended = sum(pid_of not in set(mesh.pids.values()) for pid_of in (pid,)) + nodes - len(mesh.pids)
        logs = {
            name: mesh.log(name)[-1500:] for name in sorted({f"node{i + 1}" for i in range(nodes)} - set(mesh.pids))
        }
        return {
            "logs": logs,
            "told": attack,
            "ended": ended,
            "gap_s": max(witness.took_s, default=9.0),
            "harmless_p99_s": harmless_p99_s,
            "p99_s": witness.quantile_s(0.99),
            "reads": len(witness.took_s),
            "failed": witness.failed,
            "peak_mib": (peak - before) / 2**20,
            "left_mib": (left - before) / 2**20,
            "busy": busy,
        }


def _attack(command: Sequence[str], pid: int, deadline: float) -> tuple[Any, int]:
    """Run an attack to its end; return what it told and the most memory that the node had meanwhile.

    The memory is looked at here, and not where the witness has its answer: it may have none while it grows.
    """
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as attack:
        while attack.poll() is None:
            peak = max(peak, resident_bytes(pid))
            if time.monotonic() > deadline:
                attack.kill()
            time.sleep(SAMPLE_S)
        told, problem = attack.communicate()
    return (json.loads(told) if attack.returncode == 0 else problem[-500:]), peak


def _settle(cache: meshcache.Client, nodes: Sequence[str]) -> None:
    """Wait until the start is over for all nodes: while their ring changes each read goes to more of them."""
    deadline = time.monotonic() + 10
    while any(cache.inspect("status", node=node)["changing"] for node in nodes) and time.monotonic() < deadline:
        time.sleep(0.05)


def _settled_bytes(pid: int, before: int) -> int:
    """Return the memory after the attack, when it is back or ten seconds are over."""
    deadline = time.monotonic() + 10
    while (now := resident_bytes(pid)) > before + LEFT_MIB_MAX * 2**20 and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def hostile(options: Options) -> Result:
    """Run every attack against one node, and against one of three."""
    result = Result("hostile", "what messages and connections of a stranger do to a node")
    began = time.monotonic()
    only = options.attacks
    for name in [name for name in ATTACKS if name in only] or ATTACKS:
        for nodes in (1, 3):
            found = attack_once(name, nodes, options.pick(2, 5))
            what = f"{name}, {nodes} node{'s' * (nodes > 1)}"
            print(
                f"   {what}: "
                + ", ".join(f"{k} {v:.3g}" if type(v) is float else f"{k} {v}" for k, v in found.items()),
                file=sys.stderr,
                flush=True,
            )
            result.check(f"{what}: processes ended", found["ended"], 0)
            gap_s_max, times_max = (UNREAD_GAP_S_MAX, UNREAD_P99_TIMES_MAX) if name == UNREAD else (GAP_S_MAX, None)
            result.check(f"{what}: longest gap", found["gap_s"], gap_s_max, "s")
            result.check(f"{what}: p99, times the harmless", found["p99_s"] / found["harmless_p99_s"], times_max, "x")
            result.check(f"{what}: failed reads", found["failed"], 0)
            result.check(f"{what}: memory at most", found["peak_mib"], PEAK_MIB_MAX, "MiB")
            result.check(f"{what}: memory afterwards", found["left_mib"], LEFT_MIB_MAX, "MiB")
            if name == "open-loop" and nodes == 1:
                share = found["told"]["goodput_share"]
                result.check(f"{what}: share of the peak that is lost", 1 - share, LOST_GOODPUT_MAX, "x")
    result.elapsed_s = time.monotonic() - began
    return result
