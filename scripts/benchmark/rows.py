"""What is measured: a row is one thing to do, and the contestants that can do it.

A row opens a *session* on each contestant (connect, load the keys that will be read), which yields a function that
runs one block. Outside of its timed part, every block compares what the contestant holds with what was stored.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .clients import THREADS_MAX, AsyncCalls, Calls, connect, connect_async, values_of
from .load import ClientPrograms
from .measure import Block, measured
from .workload import (
    SMALL_BYTES,
    around,
    batches,
    gather_waves,
    key_of,
    load,
    loop_tasks,
    time_calls,
    value_for,
    verify,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from .servers import Server

    Run = Callable[[float], Block]

POPULATION: Final = 10_000
"""Keys that single gets go round: enough that none of them is read often enough to be treated as hot."""

POPULATION_BYTES: Final = 10_000_000
VERIFIED_MAX: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(ABC):
    """One thing to do. ``call`` says what p50 and p99 are the time of."""

    name: str
    title: str
    call: str
    contestants: tuple[str, ...]
    quick: bool = True
    full_only: bool = False
    seconds_factor: float = 1.0
    """How much longer than others the blocks are."""

    @abstractmethod
    def session(self, server: Server, contestant: str) -> AbstractContextManager[Run]:
        """Connect and prepare; yield what runs one block of about so many seconds."""


@contextmanager
def connected(server: Server, contestant: str | None = None, *, shared: bool = False) -> Iterator[Calls]:
    """Connect to a store, empty it, and leave it empty behind."""
    calls = connect(server, contestant, shared=shared)
    try:
        calls.clear()
        yield calls
        calls.clear()
    finally:
        calls.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleRow(Row):
    """One program, one key at a time."""

    write: bool = False

    @contextmanager
    def session(self, server: Server, contestant: str) -> Iterator[Run]:
        """Go round the population."""
        keys = [key_of(index) for index in range(POPULATION)]
        echo = server.kind == "zmq"
        with connected(server, contestant) as calls:
            arguments: Iterator[tuple[Any, ...]]
            if self.write:
                call: Callable[..., Any] = calls.set
                arguments = itertools.cycle([(key, value_for(key, SMALL_BYTES)) for key in keys])
            else:
                call, arguments = calls.get, around(keys)
                if not echo:
                    load(calls, keys, SMALL_BYTES)

            def run(seconds: float) -> Block:
                block = Block(keys_per_call=1)
                with measured(block, server.pids):
                    block.calls_ns = time_calls(call, arguments, seconds)
                if not echo:
                    verify(keys[:1], [calls.get(keys[0])])
                return block

            yield run


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyRow(Row):
    """One program, many keys in one call."""

    count: int
    size: int
    write: bool = False

    @contextmanager
    def session(self, server: Server, contestant: str) -> Iterator[Run]:
        """Go round batches of keys; large values have few of them."""
        population = max(self.count, min(POPULATION, POPULATION_BYTES // self.size))
        parts = batches([key_of(index) for index in range(population)], self.count)
        checked = parts[0][:VERIFIED_MAX] if self.write else parts[0]
        with connected(server, contestant) as calls:
            if self.write:
                call: Callable[..., Any] = calls.set_many
                arguments = around([{key: value_for(key, self.size) for key in part} for part in parts])
            else:
                load(calls, [key for part in parts for key in part], self.size)
                call, arguments = calls.get_many, around(parts)

            def run(seconds: float) -> Block:
                block = Block(keys_per_call=self.count)
                with measured(block, server.pids):
                    block.calls_ns = time_calls(call, arguments, seconds)
                verify(checked, values_of(calls.get_many(checked), checked), self.size)
                return block

            yield run


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncRow(Row):
    """One asyncio program with many single gets under way at a time.

    In *waves*, as of ``asyncio.gather``, or by as many *tasks* that each wait for one get after another, as a web
    server's do.
    """

    concurrent: int
    tasks: bool = False

    @contextmanager
    def session(self, server: Server, contestant: str) -> Iterator[Run]:
        """Keep one event loop and one client for all blocks."""
        keys = [key_of(index) for index in range(POPULATION)]
        with connected(server) as loader, asyncio.Runner() as runner:
            load(loader, keys, SMALL_BYTES)
            calls = runner.run(connect_async(server, contestant, self.concurrent))
            try:
                yield lambda seconds: runner.run(self._block(calls, server, keys, seconds))
            finally:
                runner.run(calls.close())

    async def _block(self, calls: AsyncCalls, server: Server, keys: list[str], seconds: float) -> Block:
        block = Block(keys_per_call=1 if self.tasks else self.concurrent)
        waves = batches(keys, self.concurrent)
        with measured(block, server.pids):
            if self.tasks:
                block.calls_ns = await loop_tasks(calls.get, keys, self.concurrent, seconds)
            else:
                block.calls_ns = await gather_waves(calls.get, waves, seconds)
        return block


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadsRow(Row):
    """Threads that share one client, each getting one key at a time."""

    threads: int = THREADS_MAX

    @contextmanager
    def session(self, server: Server, contestant: str) -> Iterator[Run]:
        """Give every thread its own keys."""
        keys = [key_of(index) for index in range(POPULATION)]
        with connected(server, contestant, shared=True) as calls:
            load(calls, keys, SMALL_BYTES)
            yield lambda seconds: self._block(calls, server, keys, seconds)

    def _block(self, calls: Calls, server: Server, keys: list[str], seconds: float) -> Block:
        block = Block(keys_per_call=1)
        ready = threading.Barrier(self.threads + 1)
        failures: list[Exception] = []

        def work(mine: list[str]) -> None:
            try:
                arguments = around(mine)
                ready.wait()
                block.calls_ns.extend(time_calls(calls.get, arguments, seconds))
                verify(mine[:1], [calls.get(mine[0])])
            except Exception as error:  # noqa: BLE001  (raised again in the main thread)
                failures.append(error)

        workers = [threading.Thread(target=partial(work, keys[index :: self.threads])) for index in range(self.threads)]
        for worker in workers:
            worker.start()
        ready.wait()
        with measured(block, server.pids):
            for worker in workers:
                worker.join()
        if failures:
            raise failures[0]
        return block


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramsRow(Row):
    """Another row, done by client programs that are processes of their own, all at the same time.

    By several: what one server really serves. By one: what a client does whose process is as its server is, with the
    native module or without it.
    """

    within: Row
    programs: int

    @contextmanager
    def session(self, server: Server, contestant: str) -> Iterator[Run]:
        """Start the programs once; they wait between the blocks."""
        with ClientPrograms(self.within, server, contestant, self.programs) as programs:
            yield programs.block


ALL: Final = ("meshcache", "redis", "memcached")
BLOCKING: Final = ("meshcache", "redis", "redis glide", "memcached")
WITH_FLOOR: Final = (*BLOCKING, "zmq")
ASYNCIO: Final = ("meshcache", "redis", "redis tuned", "redis glide")
MESH: Final = ("mesh3", "meshcache", "redis")


def _many_rows() -> list[Row]:
    sizes = {"100B": (100, "100 bytes"), "10KB": (10_000, "10 KB"), "1MB": (1_000_000, "1 MB")}
    quick = {(100, "100B"), (1_000, "100B"), (100, "10KB"), (10, "1MB")}
    return [
        ManyRow(
            name=f"{operation}-{count}x{label}",
            title=f"{operation} of {count:,} values of {text}",
            call="batch",
            contestants=BLOCKING,
            count=count,
            size=size,
            write=operation == "set_many",
            quick=(count, label) in quick,
            full_only=count * size > 500_000_000,
        )
        for operation in ("get_many", "set_many")
        for label, (size, text) in sizes.items()
        for count in (10, 100, 1_000)
    ]


def _async_row(name: str, title: str, concurrent: int, *, tasks: bool = False, quick: bool = True) -> AsyncRow:
    call = "get" if tasks else "wave"
    return AsyncRow(
        name=name, title=title, call=call, contestants=ASYNCIO, concurrent=concurrent, tasks=tasks, quick=quick
    )


def _by_two_programs(name: str, title: str, within: Row, *, quick: bool) -> ProgramsRow:
    return ProgramsRow(
        name=name,
        title=title,
        call=within.call,
        contestants=within.contestants,
        within=within,
        programs=2,
        seconds_factor=5,
        quick=quick,
    )


def _one_node_rows() -> list[Row]:
    many = _many_rows()
    hundred = next(row for row in many if row.name == "get_many-100x100B")
    return [
        SingleRow(name="get", title="one get at a time", call="get", contestants=WITH_FLOOR),
        SingleRow(name="set", title="one set at a time, with a TTL", call="set", contestants=WITH_FLOOR, write=True),
        *many,
        _async_row("async-64", "asyncio, waves of 64 gets", 64),
        _async_row("async-64-tasks", "asyncio, 64 tasks that get one by one", 64, tasks=True, quick=False),
        _async_row("async-1000", "asyncio, waves of 1,000 gets", 1_000),
        ThreadsRow(name="threads-8", title="8 threads share one client", call="get", contestants=BLOCKING),
        _by_two_programs(
            "throughput-gets",
            "2 asyncio programs, each with 250 tasks that get one by one",
            _async_row("gets", "250 tasks that get one by one", 250, tasks=True),
            quick=True,
        ),
        _by_two_programs("throughput-many", "2 programs, get_many of 100", hundred, quick=False),
    ]


QUICK_ON_MESH: Final = ("get", "set")
ON_MESH: Final = (
    *QUICK_ON_MESH,
    "get_many-100x100B",
    "get_many-10x1MB",
    "set_many-100x100B",
    "set_many-10x1MB",
    "async-64",
    "async-64-tasks",
    "threads-8",
    "throughput-gets",
    "throughput-many",
)
"""Rows of one node that are done with three nodes, too: at least one of every kind."""


def _on_mesh(row: Row) -> Row:
    """Return the row with three nodes beside one; the peers stay as they are: one server, one copy."""
    title = f"3 nodes N=2 W=2 R=1: {row.title}"
    return replace(row, name=f"mesh-{row.name}", title=title, contestants=MESH, quick=row.name in QUICK_ON_MESH)


QUICK_PURE: Final = ("get", "async-64-tasks")
USUAL_PURE: Final = (*QUICK_PURE, "set", "get_many-100x100B", "set_many-100x100B", "mesh-get", "mesh-set")
PURE: Final = (
    *USUAL_PURE,
    "get_many-1000x100B",
    "get_many-1000x10KB",
    "get_many-10x1MB",
    "set_many-1000x100B",
    "set_many-1000x10KB",
    "set_many-10x1MB",
    "mesh-get_many-100x100B",
    "mesh-set_many-100x100B",
)
"""Rows that are done with the native module off, too, in the client and in the nodes."""


def _pure(row: Row) -> ProgramsRow:
    """Return the row with the native module off, beside it on. Each client is a process, which has it off or on."""
    usual = row.contestants[0]
    peers = [name for name in ("redis", "memcached") if name in row.contestants]
    return ProgramsRow(
        name=f"pure-{row.name}",
        title=f"native module off: {row.title}",
        call=row.call,
        contestants=("pure3" if usual == "mesh3" else "pure", usual, *peers),
        within=row,
        programs=1,
        quick=row.name in QUICK_PURE,
        full_only=row.name not in USUAL_PURE,
    )


def _rows() -> list[Row]:
    one = _one_node_rows()
    three = [_on_mesh(row) for row in one if row.name in ON_MESH]
    return [*one, *three, *[_pure(row) for row in (*one, *three) if row.name in PURE]]


ROWS: Final[list[Row]] = _rows()
"""In the order in which they run. A contestant beyond the kinds of server is a variant of the client."""
