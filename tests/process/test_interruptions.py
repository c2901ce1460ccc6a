"""Exceptions from signal handlers, which may come between any two steps of the main thread: nothing is lost for good.

CPython looks for signals after calls, at the beginning of functions and where loops go back. The tests here raise at
every such place in turn, and then let real signals come by the thousand.
"""

from __future__ import annotations

import contextlib
import dis
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any, cast

import pytest
from fake_node import FakeNode, fake_mesh

from meshcache import Client, LocalMesh, NearCache
from meshcache._native import PURE_VARIABLE
from meshcache.client.blocking.channel import Channel
from meshcache.sockets.waiting import start_thread

pytestmark = [
    # What is interrupted while it is made is left to the collector, which says so.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Interrupted(BaseException):
    """What the handler raises; as KeyboardInterrupt, it is no Exception."""


def interrupted(work: Callable[[], object], place: int) -> bool:
    """Do the work, and raise at this of the places where a signal's handler can run; False if it has not so many."""
    left = place
    before: dict[int, str] = {}
    names: dict[Any, dict[int, str]] = {}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            code = frame.f_code
            if code not in names:
                names[code] = {step.offset: step.opname for step in dis.get_instructions(code)}
            last = before.get(id(frame), "")
            before[id(frame)] = names[code].get(frame.f_lasti, "")
            if last.startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
                left -= 1
                if left < 0:
                    raise Interrupted
        elif event == "return":
            before.pop(id(frame), None)
        return trace

    sys.settrace(trace)
    try:
        work()
    except Interrupted:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=1) as mesh:
        yield mesh


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh() as nodes:
        yield nodes[0]


def at_every_place(work: Callable[[], object], check: Callable[[], None]) -> None:
    """Interrupt the work at each place, and check after each, in this thread and in another one."""
    with ThreadPoolExecutor(1) as another:
        for place in itertools.count():
            more = interrupted(work, place)
            check()
            another.submit(check).result(20)
            if not more:
                break
    assert place > 10


def with_one_channel(address: Any, **options: Any) -> Client:
    """Return a client that is at its end as soon as one channel is lost."""
    client = Client(address, timeout=2, **options)
    pool = client._channels._pool
    assert pool.parking is not None
    pool.channels_max = pool.parking.channels_max = 1
    return client


def test_no_place_in_a_read_loses_its_channel(node: FakeNode) -> None:
    with with_one_channel(node.address) as client:
        client.set("k", "v")

        def check() -> None:
            assert client.get("k") == "v"
            assert client.get_many(["k", "none"]) == {"k": "v"}

        at_every_place(partial(client.get, "k"), check)
        at_every_place(lambda: client.get_many(["k", "none"]), check)
        at_every_place(lambda: client.set("k", "v"), check)


def test_no_place_in_the_first_call_of_a_client_spoils_it(node: FakeNode) -> None:
    clients: list[Client] = []

    def first() -> None:
        with with_one_channel(node.address) as client:
            clients[:] = [client]
            client.set("k", 1)

    def check() -> None:
        with contextlib.suppress(RuntimeError):  # it was interrupted as it closed
            for client in clients:
                client.set("k", 2)
                assert client.get("k") == 2

    for place in range(0, 4000, 7):
        more = interrupted(first, place)
        check()
        for client in clients:
            client.close()
        if not more:
            break
    assert not more


def test_no_place_in_get_or_set_leaves_a_flight_or_a_renewal_behind(node: FakeNode) -> None:
    numbers = itertools.count()
    with with_one_channel(node.address) as client:
        key = ""

        def work() -> None:
            assert client.get_or_set(key, "loaded") == "loaded"

        def check() -> None:
            assert client.get_or_set(f"k{next(numbers)}", lambda: "new") == "new"
            node.leases.clear()  # what the interrupted caller held would expire
            assert client.get_or_set(key, "loaded") == "loaded"

        for place in range(100_000):
            key = f"k{next(numbers)}"
            more = interrupted(work, place)
            check()
            if not more:
                break
        assert not more
        assert not client._renewals._due or all(due.token() is None for due in client._renewals._due.values())


def test_no_place_in_a_call_with_near_copies_closes_a_lock_or_leaves_a_false_copy(mesh: LocalMesh) -> None:
    with Client(mesh.addresses, near_cache=NearCache(ttl=60)) as client, Client(mesh.addresses) as other:
        numbers = itertools.count()
        written = 0
        client.get("k")

        def work() -> None:
            nonlocal written
            written = number = next(numbers)
            client.set("k", number, tags=["t"])
            assert client.get("k") == number

        def check() -> None:
            number = next(numbers)
            client.set("k", number, tags=["t"])
            assert client.get("k") == number
            other.invalidate_tags("t")
            client.invalidate_tags("t")
            assert client.get("k") is None

        with ThreadPoolExecutor(1) as another:
            for place in range(0, 4000, 5):
                more = interrupted(work, place)
                another.submit(check).result(20)
                if not more:
                    break
        assert not more
        assert client._reception._receiver is not None
        thread = client._reception._receiver._thread
        assert thread is not None
        assert thread.is_alive()


def test_no_place_in_subscribing_ends_the_stream_for_others(mesh: LocalMesh) -> None:
    with Client(mesh.addresses) as client, client.subscribe("k") as standing:

        def work() -> None:
            with client.subscribe("other") as events:
                client.set("other", 1)
                assert events.wait(5) is not None

        for number in itertools.count():
            more = interrupted(work, 7 * number)
            client.set("k", number)
            event = standing.wait(5)
            assert event is not None
            assert event.key == "k"
            while standing.wait(0) is not None:
                pass
            if not more:
                break
        assert len(client._reception.intake.feeds) == 1


def test_no_place_in_starting_to_follow_leaves_a_client_that_never_does(mesh: LocalMesh) -> None:
    for place in range(0, 400, 5):
        with Client(mesh.addresses) as client:
            client.get("k")
            more = interrupted(client._reception.start, place)
            with client.subscribe("k", timeout=5) as events:
                client.set("k", 1)
                assert events.wait(5) is not None
        if not more:
            break
    assert not more


def test_no_place_in_making_a_channel_lets_the_collector_complain(monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", spoiled.append)
    for place in itertools.count():
        if not interrupted(lambda: Channel(cast(Any, None), cast(Any, None)), place):
            break
    assert place > 1
    assert [one.exc_value for one in spoiled if one.exc_type is not Interrupted] == []


def test_no_place_in_starting_a_thread_spoils_it_or_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", spoiled.append)
    for place in itertools.count():
        ran = threading.Event()
        more = interrupted(partial(start_thread, ran.set, "started"), place)
        if not more:
            break
    assert ran.wait(20)
    until = time.monotonic() + 20
    while any(thread.name == "started" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.001)
    assert place > 5
    assert not spoiled


def test_an_event_that_an_exception_may_have_taken_is_told_as_a_gap(mesh: LocalMesh) -> None:
    with Client(mesh.addresses) as client, client.subscribe("k") as events:
        for place in itertools.count():
            client.set("k", place)
            while not events.feed.queue:
                assert client.get("k") == place
            more = interrupted(partial(events.wait, 5), place)
            if not more:
                break
            assert events.wait(5) is not None, place
            while events.wait(0) is not None:
                pass


STOPPED = """
import signal, sys, time, meshcache
cache = meshcache.Client(sys.argv[1], timeout=1)
cache.get("k")
print("ready", flush=True)
sys.stdin.readline()
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.002)
began = time.monotonic()
try:
    cache.get("k")
except meshcache.OperationTimeout:
    print(time.monotonic() - began)
"""


@pytest.mark.process
@pytest.mark.parametrize("pure", ["0", "1"])
def test_a_timer_whose_signals_come_often_lengthens_no_wait(pure: str) -> None:
    """As in a program that is profiled: each signal comes before a slice of the wait is over."""
    with LocalMesh(nodes=1) as mesh:
        child = subprocess.Popen(
            [sys.executable, "-c", STOPPED, mesh.addresses[0]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, PURE_VARIABLE: pure},
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            mesh.pause("node1")
            try:
                out, _ = child.communicate("\n", timeout=20)
            finally:
                child.kill()
                mesh.resume("node1")
        assert 0.9 < float(out) < 10


STORM = """
import itertools, random, signal, sys, time
import meshcache

class Interrupted(Exception): pass
armed = False
hits = 0
def handler(number, frame):
    global armed, hits
    if armed:
        armed = False
        hits += 1
        raise Interrupted
signal.signal(signal.SIGALRM, handler)
rng = random.Random(int(sys.argv[2]))
cache = meshcache.Client(sys.argv[1], timeout=5)
near = meshcache.Client(sys.argv[1], timeout=5, near_cache=True)
cache.set("k", "v")

def hold():
    with cache.lock(f"L{rng.random()}", ttl=1): pass

def follow():
    with near.subscribe("k"): cache.set("k", "v")

works = [lambda: cache.get("k"), lambda: cache.get_many(["k", "l"]), lambda: cache.set("k", "v"), lambda: near.get("k"),
         lambda: near.set("k", "v"), lambda: cache.get_or_set(f"g{rng.random()}", dict), hold, follow]
weights = [8, 2, 4, 6, 2, 3, 1, 1]
until = time.monotonic() + 15
while hits < 4000 and time.monotonic() < until:
    work = rng.choices(works, weights)[0]
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, rng.choice([0.0001, 0.0003, 0.001]) * (0.2 + rng.random()))
        work()
        armed = False
    except Interrupted: pass
    except meshcache.LockNotOwned: pass
signal.setitimer(signal.ITIMER_REAL, 0)
armed = False
# Nothing is lost: all channels are there, each way works, and nobody waits for what never comes.
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(40) as pool:
    jobs = [pool.submit(work) for work in works * 10]
    for job in jobs:
        job.result(10)
assert cache.get("k") == "v" and near.get("k") == "v"
assert not any(channel.busy for channel in cache._channels._pool.channels)
print("interrupted", hits)
cache.close()
near.close()
"""


@pytest.mark.process
@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_real_interruptions_cost_nothing_for_good(mesh: LocalMesh, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STORM, ",".join(mesh.addresses), str(seed)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 500
