"""A steady load from client processes, which check every answer.

Processes of even number use the client for asyncio, the others the client for threads. The load is open: each lane has
its times to act at, and skips those that it missed, so that a slow answer does not slow down the other lanes.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from queue import Empty
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import meshcache
from meshcache.errors import MeshcacheError, OperationTimeout

from .lane import Call, Lane, Mix
from .ledger import Ledger
from .namespaces import enter_namespace
from .tally import Tally, total_of
from .trees import running

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from multiprocessing.queues import Queue

START_S: Final = 60.0


@dataclass(frozen=True)
class Plan:
    """What a load is like."""

    rate: float = 600.0
    """Calls a second, of all lanes together."""
    workers: int = 2
    lanes: int = 16
    """Of each worker."""
    keys: int = 960
    """Of all lanes together."""
    value_bytes: int = 100
    mix: Mix = field(default_factory=Mix)
    namespaces: tuple[str, ...] = ()
    """Network namespaces; worker i runs in number i modulo their number."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the clients."""
    trees: tuple[Path | None, ...] = (None,)
    """Folders with the code of clients (see trees.py); worker i runs that of number i modulo their number."""


class _Signals:
    """Flags in shared memory."""

    def __init__(self) -> None:
        self.stop = RawValue(ctypes.c_bool, False)
        self.writing = RawValue(ctypes.c_bool, True)
        self.began = RawValue(ctypes.c_double, 0.0)
        """When the load began, on the monotonic clock that all processes share; 0 before that."""


class Load:
    """A load, from ``with`` to ``finish``. Entering it returns when every key was written once."""

    def __init__(self, addresses: Sequence[str], plan: Plan) -> None:
        keys_per_lane = max(1, plan.keys // (plan.workers * plan.lanes))
        self.plan = replace(plan, keys=keys_per_lane * plan.workers * plan.lanes)
        self.ledger = Ledger(self.plan.keys)
        self.marks: list[tuple[float, str]] = []
        """What was done to the mesh, and when."""
        self.tallies: list[Tally] = []
        """By worker, after ``finish``."""
        context = multiprocessing.get_context("spawn")
        self._signals = _Signals()
        self._messages: Queue[tuple[int, Tally | str | None]] = context.Queue()
        self._processes: list[SpawnProcess] = [
            context.Process(
                target=_work,
                args=(i, list(addresses), self.plan, self.ledger, self._signals, self._messages),
                daemon=True,
            )
            for i in range(plan.workers)
        ]

    def __enter__(self) -> Self:
        for i, process in enumerate(self._processes):
            with running(self.plan.trees[i % len(self.plan.trees)]):
                process.start()
        try:
            self._receive()
        except BaseException:
            self._end()
            raise
        self._signals.began.value = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def now_s(self) -> float:
        """Seconds since the load began."""
        return float(time.monotonic() - self._signals.began.value)

    def mark(self, text: str) -> float:
        """Note what is done to the mesh, and return the time."""
        at_s = self.now_s
        self.marks.append((at_s, text))
        print(f"{at_s:7.2f} s  {text}", file=sys.stderr, flush=True)
        return at_s

    def run_for(self, seconds: float) -> None:
        """Let the load go on."""
        threading.Event().wait(seconds)
        for process in self._processes:
            if not process.is_alive():
                raise RuntimeError(f"a process of the load ended with code {process.exitcode}")

    def stop_writing(self) -> None:
        """Only read from now on."""
        self._signals.writing.value = False

    def finish(self) -> Tally:
        """Stop, and return what all workers saw."""
        self._signals.stop.value = True
        found = self._receive()
        self.tallies = [tally for tally in found if isinstance(tally, Tally)]
        return total_of(self.tallies)

    def _receive(self) -> list[Tally | str | None]:
        """Wait for one message of each worker."""
        found: dict[int, Tally | str | None] = {}
        deadline = time.monotonic() + START_S
        while len(found) < len(self._processes):
            try:
                number, message = self._messages.get(timeout=0.2)
            except Empty:
                ended = [p.exitcode for i, p in enumerate(self._processes) if i not in found and not p.is_alive()]
                if ended or time.monotonic() > deadline:
                    raise RuntimeError(f"a process of the load did not report; exit codes: {ended}") from None
                continue
            if isinstance(message, str):
                raise RuntimeError(f"worker {number}: {message}")  # noqa: TRY004  (it is what went wrong there)
            found[number] = message
        return [found[i] for i in range(len(self._processes))]

    def _end(self) -> None:
        self._signals.stop.value = True
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()


def _work(
    number: int,
    addresses: list[str],
    plan: Plan,
    ledger: Ledger,
    signals: _Signals,
    messages: Queue[tuple[int, Tally | str | None]],
) -> None:
    """Run one worker process until it is told to stop."""
    if plan.namespaces:
        enter_namespace(plan.namespaces[number % len(plan.namespaces)])
    tree = plan.trees[number % len(plan.trees)]
    if tree is not None and not Path(meshcache.__file__).is_relative_to(tree):
        raise RuntimeError(f"{meshcache.__file__} runs instead of {tree}")
    seeds = addresses[number % len(addresses) :] + addresses[: number % len(addresses)]
    worker = _Worker(number, seeds, plan, ledger, signals)
    try:
        if number % 2:
            worker.run_threads(lambda: messages.put((number, None)))
        else:
            asyncio.run(worker.run_asyncio(lambda: messages.put((number, None))))
    except Exception as error:
        messages.put((number, f"{type(error).__name__}: {error}"))
        raise
    messages.put((number, total_of(lane.tally for lane in worker.lanes)))


class _Worker:
    """The lanes of one process."""

    def __init__(self, number: int, seeds: list[str], plan: Plan, ledger: Ledger, signals: _Signals) -> None:
        self._seeds = seeds
        self._plan = plan
        self._ledger = ledger
        self._signals = signals
        self._number = number
        self._interval_s = plan.workers * plan.lanes / plan.rate
        self.lanes: list[Lane] = []

    def _make_lanes(self, began: float) -> list[Lane]:
        per_lane = self._plan.keys // (self._plan.workers * self._plan.lanes)
        first = self._number * self._plan.lanes
        self.lanes = [
            Lane(
                self._ledger,
                range((first + i) * per_lane, (first + i + 1) * per_lane),
                self._plan.mix,
                self._plan.value_bytes,
                first + i,
                began,
            )
            for i in range(self._plan.lanes)
        ]
        return self.lanes

    def _fills(self) -> list[Call]:
        return [call for lane in self._make_lanes(0.0) for call in lane.fill()]

    def _filled(self, call: Call, failed: list[Any]) -> None:
        if failed:
            raise OperationTimeout(f"could not write {failed[:3]} before the load began")
        for key, number in zip(call.keys, call.numbers, strict=True):
            self._ledger.acknowledge(key, number, delete=False)

    async def run_asyncio(self, report: Any) -> None:
        """Run the lanes as tasks."""
        async with meshcache.AsyncClient(self._seeds, near_cache=False, **self._plan.options) as cache:
            for call in self._fills():
                self._filled(call, await cache.set_many(*call.arguments))
            report()
            while not (began := self._signals.began.value) and not self._signals.stop.value:  # noqa: ASYNC110 (shared memory)
                await asyncio.sleep(0.01)
            async with asyncio.TaskGroup() as tasks:
                for i, lane in enumerate(self._make_lanes(began)):
                    tasks.create_task(self._drive_asyncio(lane, cache, i))

    async def _drive_asyncio(self, lane: Lane, cache: meshcache.AsyncClient, place: int) -> None:
        due = time.monotonic() + self._interval_s * (place + random.random()) / self._plan.lanes
        while not self._signals.stop.value:
            if (wait_s := due - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            begin = time.monotonic()
            call = lane.next(writing=self._signals.writing.value)
            outcome: Any
            try:
                outcome = await getattr(cache, call.verb)(*call.arguments)
            except MeshcacheError as error:
                outcome = error
            end = time.monotonic()
            lane.take(call, outcome, begin, end)
            due = max(due + self._interval_s, end)
        lane.finish(time.monotonic())

    def run_threads(self, report: Any) -> None:
        """Run the lanes as threads, which share one client."""
        with meshcache.Client(self._seeds, near_cache=False, **self._plan.options) as cache:
            for call in self._fills():
                self._filled(call, cache.set_many(*call.arguments))
            report()
            while not (began := self._signals.began.value) and not self._signals.stop.value:
                time.sleep(0.01)
            threads = [
                threading.Thread(target=self._drive_thread, args=(lane, cache, i))
                for i, lane in enumerate(self._make_lanes(began))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _drive_thread(self, lane: Lane, cache: meshcache.Client, place: int) -> None:
        due = time.monotonic() + self._interval_s * (place + random.random()) / self._plan.lanes
        try:
            while not self._signals.stop.value:
                if (wait_s := due - time.monotonic()) > 0:
                    time.sleep(wait_s)
                begin = time.monotonic()
                call = lane.next(writing=self._signals.writing.value)
                outcome: Any
                try:
                    outcome = getattr(cache, call.verb)(*call.arguments)
                except MeshcacheError as error:
                    outcome = error
                end = time.monotonic()
                lane.take(call, outcome, begin, end)
                due = max(due + self._interval_s, end)
            lane.finish(time.monotonic())
        except BaseException:  # noqa: BLE001  (a thread that dies unseen would be a load that checks nothing)
            os._exit(70)


def audit(cache: meshcache.Client, ledger: Ledger, keys: range | None = None) -> Tally:
    """Read all keys (or some), and check them."""
    lane = Lane(ledger, range(0), Mix(), 0, 0, time.monotonic())
    wanted = list(keys if keys is not None else range(len(ledger)))
    for start in range(0, len(wanted), 500):
        lane.audit(cache.get_many, wanted[start : start + 500])
    return lane.tally
