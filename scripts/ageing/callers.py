"""Processes with clients: two that live as long as the soak, one of each kind, and others that are killed.

Those that live tell at intervals how large the tables in their clients are, and at the end what they saw.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.sharedctypes import RawValue
from queue import Empty
from typing import TYPE_CHECKING, Any, Final, Self

from faults.lane import Lane, Mix
from faults.ledger import Ledger

import meshcache

from .allocations import memory_of_this_process
from .census import census
from .errands import NEAR_TTL_S, Caller, Errand, Pause, meshes_client, run_in_task, run_in_thread

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from multiprocessing.queues import Queue

LANES: Final = 4
"""Of each process that lives, and so many loops of errands."""
KEYS_PER_LANE: Final = 50
VALUE_BYTES: Final = 100
KINDS: Final = ("threads", "asyncio")
END_S: Final = 30.0

Report = dict[str, float]


class Callers:
    """All processes with clients. ``with``: those that live have started."""

    def __init__(
        self, addresses: Sequence[str], *, rate: float, ttl_s_max: float, warming_s: float, sample_s: float
    ) -> None:
        """``rate``: errands and checked calls a second, of all that live together."""
        self._context = multiprocessing.get_context("spawn")
        self.ledger = Ledger(len(KINDS) * LANES * KEYS_PER_LANE)
        self._stop = RawValue(ctypes.c_bool, False)
        self._reports: Queue[tuple[str, Report, Any]] = self._context.Queue()
        self._options = (rate / (2 * LANES * len(KINDS)), ttl_s_max, warming_s, sample_s)
        self._addresses = list(addresses)
        self.living: dict[str, SpawnProcess] = {}
        self._passing: list[SpawnProcess] = []
        self._latest: dict[str, Report] = {}
        self.ends: dict[str, Any] = {}
        self._started = 0

    def __enter__(self) -> Self:
        for number, kind in enumerate(KINDS):
            self.living[kind] = self._start(kind, number)
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.value = True
        for process in [*self.living.values(), *self._passing]:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def _start(self, kind: str, number: int) -> SpawnProcess:
        arguments = (kind, number, self._addresses, self._options, self.ledger, self._stop, self._reports)
        process = self._context.Process(target=_call, args=arguments, daemon=True)
        process.start()
        return process

    def come(self) -> None:
        """Start a process that will be killed."""
        self._started += 1
        self._passing.append(self._start(KINDS[self._started % len(KINDS)], len(KINDS) + self._started))

    def kill_one(self) -> None:
        """Kill the process that came first."""
        process = self._passing.pop(0)
        process.kill()
        process.join()

    @property
    def passing(self) -> int:
        """How many there are that will be killed."""
        return len(self._passing)

    def reports(self) -> dict[str, Report]:
        """Return what those that live told last."""
        with suppress(Empty):
            while True:
                kind, report, end = self._reports.get_nowait()
                self._latest[kind] = report
                if end is not None:
                    self.ends[kind] = end
        for kind, process in self.living.items():
            if not process.is_alive() and kind not in self.ends:
                raise RuntimeError(f"the process with {kind} ended with code {process.exitcode}")
        return self._latest

    def finish(self) -> dict[str, Any]:
        """Have all end, and return by kind what those saw that lived."""
        self._stop.value = True
        deadline = time.monotonic() + END_S
        pause = threading.Event()
        while len(self.ends) < len(KINDS):
            self.reports()
            if time.monotonic() > deadline:
                for kind, process in self.living.items():
                    if kind not in self.ends and process.pid is not None:
                        os.kill(process.pid, signal.SIGUSR1)
                pause.wait(1)
                raise RuntimeError(f"of the processes with clients only {sorted(self.ends)} came to an end")
            pause.wait(0.1)
        return self.ends


def _call(
    kind: str,
    number: int,
    addresses: list[str],
    options: tuple[float, float, float, float],
    ledger: Ledger,
    stop: Any,
    reports: Queue[tuple[str, Report, Any]],
) -> None:
    faulthandler.register(signal.SIGUSR1)  # a process that does not come to its end is asked where it is
    rate, ttl_s_max, warming_s, sample_s = options
    make = meshes_client(kind)

    def caller_of(cache: Any, near: Any) -> Caller:
        return Caller(
            cache,
            near,
            make,
            addresses,
            ledger,
            ttl_s_max,
            warming_s,
            time.monotonic(),
            lambda: bool(stop.value),
            f"{os.getpid()}",
        )

    lives = number < len(KINDS)
    work = _Work(number, 1 / rate, sample_s, (lambda report, end: reports.put((kind, report, end))) if lives else None)
    seeds = addresses[number % len(addresses) :] + addresses[: number % len(addresses)]
    near_cache = meshcache.NearCache(max_entries=300, ttl=NEAR_TTL_S)
    if kind == "asyncio":
        asyncio.run(_run_tasks(work, caller_of, seeds, near_cache))
        return
    with meshcache.Client(seeds, near_cache=False) as cache, meshcache.Client(seeds, near_cache=near_cache) as near:
        caller = caller_of(cache, near)
        threads = [threading.Thread(target=_in_thread, args=(errand,)) for errand in work.loops(caller)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        work.tell_end(caller)


def _in_thread(errand: Errand) -> None:
    try:
        run_in_thread(errand)
    except BaseException:  # noqa: BLE001  (a thread that dies unseen would be a load that checks nothing)
        traceback.print_exc()
        os._exit(70)


async def _run_tasks(work: _Work, caller_of: Any, seeds: list[str], near_cache: meshcache.NearCache) -> None:
    async with (
        meshcache.AsyncClient(seeds, near_cache=False) as cache,
        meshcache.AsyncClient(seeds, near_cache=near_cache) as near,
    ):
        caller = caller_of(cache, near)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _print_tasks)
        async with asyncio.TaskGroup() as tasks:
            for errand in work.loops(caller):
                tasks.create_task(run_in_task(errand))
        work.tell_end(caller)


def _print_tasks() -> None:
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


class _Work:
    """The loops of one process."""

    def __init__(self, number: int, interval_s: float, sample_s: float, report: Any) -> None:
        """``report``: None in a process that will be killed."""
        self._number = number
        self._interval_s = interval_s
        self._sample_s = sample_s
        self._report = report

    def loops(self, caller: Caller) -> list[Errand]:
        """Return all that runs at the same time."""
        if self._report is None:
            lane = Lane(caller.ledger, range(0), Mix(write=0, write_many=0, foreign=1.0), 0, self._number, caller.began)
            return [
                caller.follow_lane(lane, self._interval_s),
                caller.run_errands(self._interval_s),
                caller.follow_stream(),
            ]
        loops = [caller.read_near(), caller.follow_stream(), self._tell(caller)]
        for place in range(LANES):
            start = (self._number * LANES + place) * KEYS_PER_LANE
            own = range(start, start + KEYS_PER_LANE)
            lane = Lane(caller.ledger, own, Mix(), VALUE_BYTES, start, caller.began)
            loops += [caller.follow_lane(lane, self._interval_s), caller.run_errands(self._interval_s)]
        return loops

    def _tell(self, caller: Caller) -> Errand:
        while not caller.stopped():
            yield Pause(self._sample_s)
            self._report(self._sizes(caller), None)

    def _sizes(self, caller: Caller) -> Report:
        tables = census(caller.cache, "client") | census(caller.near, "near client")
        return {"objects": len(gc.get_objects()), **memory_of_this_process(), **tables}

    def tell_end(self, caller: Caller) -> None:
        """Report what the process saw."""
        if self._report is None:
            return
        total = caller.totals.between()
        near = caller.near.near_statistics()
        self._report(
            self._sizes(caller),
            {
                "calls": total.calls,
                "failed": total.failed,
                "wrong": total.wrong,
                "stale": total.stale,
                "backwards": total.backwards,
                "missed": total.lost,
                "p99_ms": total.quantile_ms(0.99),
                "errands": caller.others,
                "near_reads": caller.near_reads,
                "near_hits": near.hits if near else 0,
                "near_stale": caller.near_stale,
                "events": caller.events,
                "errors": dict(caller.totals.errors.most_common(10)),
                "evidence": caller.totals.evidence[:10],
            },
        )
