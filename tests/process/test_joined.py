"""Threads and tasks that wait for one load in a real mesh: their objects, deadlines, errors, and cancellations."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

import meshcache
from meshcache import AsyncClient, Client
from meshcache.protocol.messages import LEASE_S

pytestmark = pytest.mark.process

PATIENCE_S = 60.0
PROMPT_S = LEASE_S - 0.5
"""Less than a lease takes to lapse: so it was given up."""
T = TypeVar("T")


@pytest.fixture(scope="module")
def mesh() -> Iterator[meshcache.LocalMesh]:
    with meshcache.LocalMesh(nodes=3) as mesh:
        yield mesh


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def client(mesh: meshcache.LocalMesh) -> Iterator[Client]:
    with Client(list(mesh.addresses), timeout=PATIENCE_S) as client:
        client.get("warm")
        yield client


@pytest.fixture
def other(mesh: meshcache.LocalMesh) -> Iterator[Client]:
    """What another process has: it shares nothing but the mesh."""
    with Client(list(mesh.addresses), timeout=PATIENCE_S) as client:
        client.get("warm")
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


async def soon(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  (there is no event for it)
            await asyncio.sleep(0.002)


class Gate:
    """A loader that says when it has begun, and waits to be let go."""

    def __init__(self, value: Any = "value", error: BaseException | None = None) -> None:
        self.value = value
        self.error = error
        self.begun = threading.Event()
        self.go = threading.Event()
        self.loads = 0
        self.cancelled = False

    def _end(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value

    def __call__(self) -> Any:
        self.loads += 1
        self.begun.set()
        assert self.go.wait(PATIENCE_S)
        return self._end()

    async def awaited(self) -> Any:
        self.loads += 1
        self.begun.set()
        try:
            await soon(self.go.is_set)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return self._end()


def seats(cache: Client) -> int:
    """How many of a client's threads wait for another one."""
    return sum(len(flight._seats) for flight in list(cache._flights.open.values()))


def waiting(cache: AsyncClient) -> int:
    flights = cache._hub.flights
    return sum(len(flight._seats) for flight in flights.open.values()) if flights is not None else 0


class Held:
    """A key whose value another client is computing, so that all who want it join and wait."""

    def __init__(self, other: Client, key: str, pool: ThreadPoolExecutor) -> None:
        self.gate = Gate(error=InterruptedError())
        self.future = pool.submit(other.get_or_set, key, self.gate)
        assert self.gate.begun.wait(PATIENCE_S)

    def fail(self) -> None:
        self.gate.go.set()
        with pytest.raises(InterruptedError):
            self.future.result(PATIENCE_S)

    def end(self, value: Any) -> None:
        self.gate.error, self.gate.value = None, value
        self.gate.go.set()
        assert self.future.result(PATIENCE_S) == value


@pytest.fixture
def held(other: Client, key: str, pool: ThreadPoolExecutor) -> Iterator[Held]:
    held = Held(other, key, pool)
    yield held
    held.gate.go.set()


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await main

    return asyncio.run(bounded())


@pytest.fixture
def async_client(mesh: meshcache.LocalMesh) -> AsyncClient:
    return AsyncClient(list(mesh.addresses), timeout=PATIENCE_S)


def at_once(other: Client, key: str) -> None:
    """Check that nobody holds the lease of a key."""
    began = time.monotonic()
    assert other.get_or_set(key, lambda: "next") == "next"
    assert time.monotonic() - began < PROMPT_S


# ---- an object for each


@pytest.mark.parametrize("operation", ["get_or_set", "refresh", "cached", "cached.refresh"])
def test_threads_have_objects_of_their_own(client: Client, key: str, pool: ThreadPoolExecutor, operation: str) -> None:
    kept: dict[str, list[str]] = {"may": ["read"]}
    function = client.cached(ttl=60, key=lambda: key)(lambda: kept)
    calls: dict[str, Callable[[], Any]] = {
        "get_or_set": lambda: client.get_or_set(key, lambda: kept),
        "refresh": lambda: client.refresh(key, lambda: kept),
        "cached": function,
        "cached.refresh": function.refresh,
    }
    found = [future.result(PATIENCE_S) for future in [pool.submit(calls[operation]) for _ in range(8)]]
    for value in found:
        assert value == {"may": ["read"]}
        value["may"].append("write")
    assert kept == {"may": ["read"]}
    kept["may"].append("loaders")
    assert calls["cached" if "cached" in operation else "get_or_set"]() == {"may": ["read"]}


def test_threads_that_wait_for_one_load_have_objects_of_their_own(
    client: Client, key: str, pool: ThreadPoolExecutor, held: Held
) -> None:
    kept = {"may": ["read"]}
    futures = [pool.submit(client.get_or_set, key, lambda: kept) for _ in range(6)]
    until(lambda: seats(client) == 5)
    held.fail()
    found = [future.result(PATIENCE_S) for future in futures]
    for value in found:
        assert value == {"may": ["read"]}
        value["may"].append("write")
    assert client.get(key) == kept == {"may": ["read"]}


def test_tasks_that_wait_for_one_load_have_objects_of_their_own(async_client: AsyncClient, key: str) -> None:
    async def main() -> None:
        async with async_client as cache:
            loads = []

            async def load() -> dict[str, list[str]]:
                loads.append({"may": ["read"]})
                await asyncio.sleep(0)
                return loads[-1]

            for name in ("get_or_set", "refresh"):
                found = await asyncio.gather(*(getattr(cache, name)(key, load) for _ in range(5)))
                for value in found:
                    assert value == {"may": ["read"]}
                    value["may"].append("write")
                assert await cache.get(key) == {"may": ["read"]}
            assert loads == [{"may": ["read"]}] * 6

    run(main())


# ---- deadlines


@pytest.mark.parametrize("short_first", [True, False])
def test_threads_have_their_own_deadlines(
    client: Client, key: str, pool: ThreadPoolExecutor, held: Held, short_first: bool
) -> None:
    def ask(timeout: float) -> Any:
        return client.get_or_set(key, lambda: "mine", timeout=timeout)

    def short() -> float:
        began = time.monotonic()
        with pytest.raises(meshcache.OperationTimeout):
            ask(0.5)
        return time.monotonic() - began

    if short_first:
        quick = pool.submit(short)
        until(lambda: client._flights.open)
        long = pool.submit(ask, PATIENCE_S)
    else:
        long = pool.submit(ask, PATIENCE_S)
        until(lambda: client._flights.open)
        quick = pool.submit(short)
    assert 0.3 < quick.result(PATIENCE_S) < 3.0
    assert not long.done()
    held.end("theirs")
    assert long.result(PATIENCE_S) == "theirs"


@pytest.mark.parametrize("short_first", [True, False])
def test_tasks_have_their_own_deadlines(async_client: AsyncClient, key: str, held: Held, short_first: bool) -> None:
    async def main() -> None:
        async with async_client as cache:
            timeouts = {"short": 0.5, "long": PATIENCE_S}
            names = list(timeouts) if short_first else list(timeouts)[::-1]
            tasks = {}
            for name in names:
                flow = cache.get_or_set(key, "mine", timeout=timeouts[name])
                tasks[name] = asyncio.create_task(flow)
                await soon(lambda: cache._hub.flights and cache._hub.flights.open)
            with pytest.raises(meshcache.OperationTimeout):
                await tasks["short"]
            assert not tasks["long"].done()
            await asyncio.to_thread(held.end, "theirs")
            assert await tasks["long"] == "theirs"

    run(main())


# ---- loaders that fail

ERRORS = [KeyError, StopIteration, asyncio.CancelledError, SystemExit, KeyboardInterrupt, TimeoutError]


@pytest.mark.parametrize("kind", ERRORS)
def test_each_thread_has_the_error_of_its_own_loader(
    client: Client, other: Client, key: str, pool: ThreadPoolExecutor, held: Held, kind: type[BaseException]
) -> None:
    at_work: list[int] = []
    most: list[int] = []

    def ask(number: int) -> tuple[BaseException, BaseException]:
        error = kind(f"error {number}")

        def load() -> None:
            at_work.append(number)
            most.append(len(at_work))
            at_work.remove(number)
            raise error

        try:
            client.get_or_set(key, load)
        except BaseException as raised:  # noqa: BLE001  (whatever it is)
            return error, raised
        raise AssertionError

    futures = [pool.submit(ask, number) for number in range(5)]
    until(lambda: seats(client) == 4)
    began = time.monotonic()
    held.fail()
    for future in futures:
        own, raised = future.result(PATIENCE_S)
        assert raised is own
    assert time.monotonic() - began < 2 * PROMPT_S
    assert most == [1] * 5
    at_once(other, key)


def test_each_task_has_the_error_of_its_own_loader(async_client: AsyncClient, other: Client, key: str) -> None:
    async def main() -> None:
        async with async_client as cache:
            loads: list[int] = []

            async def ask(number: int) -> Any:
                async def load() -> None:
                    loads.append(number)
                    await asyncio.sleep(0)
                    raise KeyError(number)

                return await cache.get_or_set(key, load)

            found = await asyncio.gather(*(ask(number) for number in range(5)), return_exceptions=True)
            assert [type(error) for error in found] == [KeyError] * 5
            assert [error.args for error in found] == [(number,) for number in range(5)]
            assert loads == [0, 1, 2, 3, 4]

    run(main())
    at_once(other, key)


def test_the_next_task_computes_when_the_first_loader_raises(async_client: AsyncClient, key: str) -> None:
    async def main() -> None:
        async with async_client as cache:
            outcomes: list[Any] = [KeyError("first"), "second", "third"]

            def load() -> Any:
                outcome = outcomes.pop(0)
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

            found = await asyncio.gather(*(cache.get_or_set(key, load) for _ in range(5)), return_exceptions=True)
            assert isinstance(found[0], KeyError)
            assert found[1:] == ["second"] * 4

    run(main())


def test_an_interrupt_in_a_loader_gives_the_lease_up(mesh: meshcache.LocalMesh, other: Client, key: str) -> None:
    program = (
        "import signal, sys, time, meshcache\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a parent in the background ignores it
        "cache = meshcache.Client(sys.argv[1])\n"
        "def load():\n"
        "    print('loading', flush=True)\n"
        "    time.sleep(60)\n"
        "try:\n"
        "    cache.get_or_set(sys.argv[2], load)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, mesh.addresses[0], key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "loading\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        at_once(other, key)
        child.communicate(timeout=PATIENCE_S)


INTERRUPTS = """
import signal, sys, threading, time, meshcache

class Interrupted(BaseException):
    pass

def interrupt(*_):
    global armed, interrupts
    if armed:
        armed = False  # and once only, so that none strikes the loop below
        interrupts += 1
        raise Interrupted

def turn(cache, number):
    key = f"{sys.argv[2]} {number % 3}"
    assert cache.get_or_set(key, lambda: "v", timeout=20) == "v"
    cache.delete(key)

def beside():
    number = 0
    while not stopped.is_set():
        turn(cache, number)
        number += 1

cache = meshcache.Client(sys.argv[1], timeout=20)
stopped, interrupts, number, armed = threading.Event(), 0, 0, False
threads = [threading.Thread(target=beside, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0023)
end = time.monotonic() + 4
while time.monotonic() < end:
    number += 1
    try:
        armed = True
        turn(cache, number)
        armed = False
    except Interrupted:
        pass
armed = False
signal.setitimer(signal.ITIMER_REAL, 0)
stopped.set()
for thread in threads:
    thread.join(30)
    assert not thread.is_alive()
for number in range(3):
    turn(cache, number)
    turn(meshcache.Client(sys.argv[1]), number)
print(interrupts)
"""


def test_interrupts_at_any_moment_leave_nobody_waiting(mesh: meshcache.LocalMesh, key: str) -> None:
    """A thread is interrupted hundreds of times in the middle of anything, beside threads that join it."""
    command = [sys.executable, "-X", "faulthandler", "-c", INTERRUPTS, mesh.addresses[0], key]
    found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert int(found.stdout) > 20


# ---- cancellation


async def by_timeout(call: Awaitable[Any], begun: Callable[[], bool]) -> None:
    async def timed() -> None:
        task = asyncio.ensure_future(call)
        await soon(begun)
        async with asyncio.timeout(0.05):
            await task

    with pytest.raises(TimeoutError):
        await timed()


async def by_wait_for(call: Awaitable[Any], begun: Callable[[], bool]) -> None:
    task = asyncio.ensure_future(call)
    await soon(begun)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(task, 0.05)


async def by_cancel(call: Awaitable[Any], begun: Callable[[], bool]) -> None:
    task = asyncio.ensure_future(call)
    await soon(begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_a_group_that_fails(call: Awaitable[Any], begun: Callable[[], bool]) -> None:
    async def awaited() -> Any:
        return await call

    async def fail() -> None:
        await soon(begun)
        raise ZeroDivisionError

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(awaited())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await both()


WAYS = [by_timeout, by_wait_for, by_cancel, by_a_group_that_fails]


@pytest.mark.parametrize("operation", ["get_or_set", "refresh", "cached"])
@pytest.mark.parametrize("way", WAYS)
def test_a_cancelled_load_gives_its_lease_up_at_once(
    async_client: AsyncClient, other: Client, key: str, way: Any, operation: str
) -> None:
    async def main() -> None:
        async with async_client as cache:
            await cache.get("warm")
            gate = Gate()
            if operation == "cached":
                call = cache.cached(key=lambda: key)(gate.awaited)()
            else:
                call = getattr(cache, operation)(key, gate.awaited)
            await way(call, gate.begun.is_set)
            assert gate.cancelled
            assert not cache._hub.flights or not cache._hub.flights.loads
            if operation != "cached":
                await asyncio.to_thread(at_once, other, key)
            else:
                assert await asyncio.wait_for(cache.cached(key=lambda: key)(gate.awaited).invalidate(), 5) == 0

    run(main())


def test_others_who_wait_keep_the_load_until_the_last_one_goes(
    async_client: AsyncClient, other: Client, key: str
) -> None:
    async def main() -> None:
        async with async_client as cache:
            await cache.get("warm")
            gate = Gate()
            tasks = [asyncio.create_task(cache.get_or_set(key, gate.awaited)) for _ in range(3)]
            await soon(gate.begun.is_set)
            for task in tasks[:2]:
                task.cancel()
                await asyncio.wait([task])
                assert not gate.cancelled
            tasks[2].cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            assert (gate.cancelled, gate.loads) == (True, 1)
            await asyncio.to_thread(at_once, other, key)

    run(main())


def test_a_task_that_comes_while_a_load_runs_keeps_it(async_client: AsyncClient, other: Client, key: str) -> None:
    async def main() -> None:
        async with async_client as cache:
            await cache.get("warm")
            gates = [Gate("first"), Gate("second")]
            first = asyncio.create_task(cache.get_or_set(key, gates[0].awaited))
            await soon(gates[0].begun.is_set)
            second = asyncio.create_task(cache.get_or_set(key, gates[1].awaited))
            await soon(lambda: cache._hub.flights and cache._hub.flights.open)
            first.cancel()
            await asyncio.wait([first])
            assert not gates[0].cancelled
            gates[0].go.set()
            assert await second == "first"
            assert gates[1].loads == 0

    run(main())


def test_a_load_that_will_not_be_cancelled_holds_nobody_up(async_client: AsyncClient, other: Client, key: str) -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def load() -> str:
            begun.set()
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return "late"

        begun = threading.Event()
        async with async_client as cache:
            await cache.get("warm")
            began = time.monotonic()
            await by_cancel(cache.get_or_set(key, load), begun.is_set)
            assert time.monotonic() - began < 10.0
            await asyncio.to_thread(at_once, other, key)
        release.set()

    run(main())
    assert other.get(key) == "next", "what came late is not stored"


def test_a_question_that_was_cancelled_is_granted_no_lease(
    async_client: AsyncClient, client: Client, key: str, held: Held
) -> None:
    async def main() -> None:
        async with async_client as cache:
            await cache.get("warm")
            await by_cancel(cache.get_or_set(key, "mine"), lambda: bool(cache._hub.flights and cache._hub.flights.open))
            await asyncio.to_thread(held.fail)
            await asyncio.to_thread(at_once, client, key)

    run(main())


def test_a_loader_sees_its_callers_context_and_runs_in_a_task_of_its_own(async_client: AsyncClient, key: str) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")

    async def main() -> None:
        async with async_client as cache:
            caller = asyncio.current_task()

            async def load() -> str:
                assert asyncio.current_task() is not caller
                return who.get()

            who.set("Ada")
            assert await cache.get_or_set(key, load) == "Ada"

    run(main())


def test_threads_load_in_the_thread_of_their_call(client: Client, key: str) -> None:
    assert client.get_or_set(key, threading.get_ident) == threading.get_ident()


# ---- the end of a program, and of a client

PROGRAM = """
import asyncio, sys, time, meshcache

address, key = sys.argv[1:]
begun = asyncio.Event()

async def load():
    begun.set()
    await asyncio.sleep(60)

async def calls(cache):
    tasks = [asyncio.create_task(cache.get_or_set(key, load)) for _ in range(3)]
    tasks.append(asyncio.create_task(cache.refresh(key + " anew", load)))
    await begun.wait()
    late = [asyncio.create_task(cache.get_or_set(key, load)) for _ in range(3)]
    for task in late:  # they ask, and are told when the client is closed
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.sleep(0.05)
    return tasks + late

"""
ENDS = {
    "the loop ends": """
async def main():
    await calls(meshcache.AsyncClient(address))
asyncio.run(main())
""",
    "the client is closed": """
async def main():
    async with meshcache.AsyncClient(address) as cache:
        await calls(cache)
asyncio.run(main())
""",
    "the client is closed, and the loop goes on": """
async def main():
    async with meshcache.AsyncClient(address) as cache:
        tasks = await calls(cache)
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
asyncio.run(main())
""",
    "the main task fails": """
async def main():
    async with meshcache.AsyncClient(address) as cache:
        await calls(cache)
        raise ZeroDivisionError
try:
    asyncio.run(main())
except ZeroDivisionError:
    pass
""",
    "a group fails": """
async def main():
    async with meshcache.AsyncClient(address) as cache:
        async with asyncio.TaskGroup() as group:
            group.create_task(cache.get_or_set(key, load))
            group.create_task(cache.get_or_set(key, load))
            await begun.wait()
            raise ZeroDivisionError
try:
    asyncio.run(main())
except* ZeroDivisionError:
    pass
""",
    "a timeout ends it": """
async def main():
    cache = meshcache.AsyncClient(address)
    await cache.get("warm")
    async with asyncio.timeout(0.3):
        await cache.get_or_set(key, load)
try:
    asyncio.run(main())
except TimeoutError:
    pass
""",
    "a loop without asyncio.run": """
async def main():
    cache = meshcache.AsyncClient(address)
    await cache.get("warm")
    try:
        await asyncio.wait_for(cache.get_or_set(key, load), 0.3)
    except TimeoutError:
        pass
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
""",
    "an interrupt": """
import os, signal
async def main():
    await calls(meshcache.AsyncClient(address))
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(60)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_program_that_ends_while_loads_run_prints_nothing_and_holds_nothing(
    mesh: meshcache.LocalMesh, other: Client, end: str, key: str
) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM + ENDS[end], mesh.addresses[0], key]
    found = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": f"{Path(meshcache.__file__).parent.parent}:{Path(__file__).parents[1]}"},
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    at_once(other, key)


def test_a_load_that_runs_while_its_client_is_closed_is_its_callers_alone(
    mesh: meshcache.LocalMesh, other: Client, key: str, pool: ThreadPoolExecutor
) -> None:
    client = Client(list(mesh.addresses))
    gate = Gate("mine")
    future: Future[Any] = pool.submit(client.get_or_set, key, gate)
    assert gate.begun.wait(PATIENCE_S)
    client.close()
    at_once(other, key)
    gate.go.set()
    assert future.result(PATIENCE_S) == "mine"
    assert other.get(key) == "next"


def test_a_load_that_runs_while_its_async_client_is_closed_is_its_callers_alone(
    async_client: AsyncClient, other: Client, key: str
) -> None:
    async def main() -> None:
        gate = Gate("mine")
        task = asyncio.create_task(async_client.get_or_set(key, gate.awaited))
        await soon(gate.begun.is_set)
        await async_client.close()
        await asyncio.to_thread(at_once, other, key)
        gate.go.set()
        assert await task == "mine"
        assert await asyncio.to_thread(other.get, key) == "next"

    run(main())
