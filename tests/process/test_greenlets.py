"""Programs whose threads are greenlets, by gevent and eventlet: whatever waits lets others run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from fake_node import FakeNode, fake_mesh

from meshcache import LocalMesh

pytestmark = pytest.mark.process

GEVENT = """
import gevent
from gevent import monkey
def patch(**what): monkey.patch_all(**what)
spawn, sleep = gevent.spawn, gevent.sleep
def join(jobs): return [job.get(timeout=30) for job in jobs]
"""
EVENTLET = """
import warnings; warnings.simplefilter("ignore")
import eventlet
def patch(**what): eventlet.monkey_patch(**what)
spawn, sleep = eventlet.spawn, eventlet.sleep
def join(jobs):
    with eventlet.Timeout(30): return [job.wait() for job in jobs]
"""
COMMON = """
import os, signal, sys, time
SEEDS, PATCH = sys.argv[1], eval(sys.argv[2])
if PATCH is not None: patch(**PATCH)
import threading
import meshcache
from meshcache import Client

NEW = os.urandom(8).hex()  # a key that nobody had before
pauses = []
def watch():
    '''Tell how long other greenlets had to wait.'''
    while True:
        before = time.monotonic()
        sleep(0.001)
        pauses.append(time.monotonic() - before)

def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        sleep(0.005)
"""
DAILY_LIFE = """
near, plain = Client(SEEDS, near_cache=True), Client(SEEDS)
if PATCH is None:  # the clients were there first, with connections, and one follows the streams already
    near.set("k", 1)
    assert plain.get("k") == 1
    deadline = time.monotonic() + 20
    while not (near.get("k") and near.near_statistics().live): assert time.monotonic() < deadline
    patch()
watching = spawn(watch)
near.set("k", 1)
until(lambda: near.get("k") == 1 and near.near_statistics().hits > 10)
for _ in range(2500): assert plain.get("k") == 1
until(lambda: plain.get("k") == 1 and plain.near_statistics() and plain.near_statistics().hits)

events = []
subscription = plain.subscribe("s:", events.append)
near.set("s:1", 1)
until(lambda: events)
subscription.close()
with near.subscribe("s:") as iterated:
    waiting = spawn(iterated.wait, 20)
    sleep(0.01)
    plain.set("s:2", 1)
    while join([waiting])[0].key != "s:2":  # what was on its way may come, too
        waiting = spawn(iterated.wait, 20)

loads = []
def load():
    loads.append(1)
    sleep(0.2)
    return {"loaded": 1}
assert join([spawn(plain.get_or_set, NEW, load) for _ in range(60)]) == [{"loaded": 1}] * 60
assert len(loads) == 1, loads

held = []
def hold(client):
    with client.lock("L", ttl=5, timeout=25):
        held.append(1)
        assert len(held) == 1
        sleep(0.005)
        held.pop()
join([spawn(hold, client) for client in [near, plain] * 5])

def use(number):
    plain.set(f"k{number}", number)
    return plain.get(f"k{number}")
assert join([spawn(use, number) for number in range(300)]) == list(range(300))
assert len(plain._channels._pool.channels) <= 16
near.close()
plain.close()
print("well")
"""
SLOW_ANSWER = """
cache = Client(SEEDS, timeout=1)
cache.set("k", 1)
watching = spawn(watch)
sleep(0.05)
del pauses[:]
def ask():
    try:
        return cache.get("slow")
    except meshcache.OperationTimeout:
        return "late"
began = time.monotonic()
answers = join([spawn(ask) for _ in range(40)])
took = time.monotonic() - began
assert answers == ["late"] * 40, answers
assert len(pauses) > 100 * took, (len(pauses), took)  # nobody waited for the whole of it
assert cache.get("k") == 1
cache.close()
print("well")
"""
RENEWAL = """
first, second = Client(SEEDS, timeout=30), Client(SEEDS, timeout=30)
loads = []
def load():
    loads.append(1)
    sleep(8)
    return 1
assert join([spawn(first.get_or_set, NEW, load), spawn(second.get_or_set, NEW, load)]) == [1, 1]
assert len(loads) == 1
first.close()
second.close()
print("well")
"""
INTERRUPTED = """
cache = Client(SEEDS, timeout=5)
pool = cache._channels._pool
pool.channels_max = pool.parking.channels_max = 2
cache.set("k", "v")
for number in range(200):
    with gevent.Timeout(0.0001 * (number % 20), False):
        cache.get("k")
        cache.get_or_set(f"{NEW}{number}", lambda: 1)
    job = spawn(cache.get, "k")
    sleep(0.0001 * (number % 7))
    job.kill()
assert join([spawn(cache.get, "k") for _ in range(40)]) == ["v"] * 40
assert join([spawn(cache.get_or_set, f"{NEW}m{i}", lambda: 1) for i in range(40)]) == [1] * 40
cache.close()
print("well")
"""
FORK = """
cache, near = Client(SEEDS), Client(SEEDS, near_cache=True)
cache.set("k", 1)
until(lambda: near.get("k") == 1 and near.near_statistics().hits)
def work():
    while True:
        assert cache.get("k") == 1
        sleep(0)
working = [spawn(work) for _ in range(5)]  # they go on in the child, in the middle of their calls
for _ in range(5):
    sleep(0.01)
    child = os.fork()
    if not child:
        assert cache.get("k") == 1 and cache.get_or_set(NEW, lambda: 2) == 2
        until(lambda: near.get("k") == 1 and near.near_statistics().live)
        sleep(0.2)
        assert not any(job.dead for job in working)
        os._exit(0)
    until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0))
    assert cache.get("k") == 1
    assert near.near_statistics().live
gevent.killall(working)
print("well")
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=2) as mesh:
        yield mesh


def run(program: str, seeds: list[str], patched: str = "{}") -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program, ",".join(seeds), patched],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


@pytest.mark.parametrize(
    "patched",
    ["{}", "{'select': False}", "{'thread': False}", "{'time': False}", "{'socket': False, 'dns': False}", "None"],
)
def test_all_of_a_client_works_under_gevent(mesh: LocalMesh, patched: str) -> None:
    run(GEVENT + COMMON + DAILY_LIFE, mesh.addresses, patched)


@pytest.mark.parametrize(
    ("library", "patched"),
    [(GEVENT, "{}"), (GEVENT, "{'select': False}"), (GEVENT, "{'thread': False}"), (EVENTLET, "{}")],
)
def test_names_are_looked_up_and_dialled_where_greenlets_are(mesh: LocalMesh, library: str, patched: str) -> None:
    named = [address.replace("127.0.0.1", "localhost") for address in mesh.addresses]
    run(library + COMMON + DAILY_LIFE, named, patched)


def test_a_client_that_a_server_forked_and_then_patched_works(mesh: LocalMesh) -> None:
    forked = """
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert near.get("k") == plain.get("k") == 1
        print("well" if not status else status, flush=True)
        os._exit(status >> 8)
    sys.stdout = sys.stderr
    patch()
"""
    run(GEVENT + COMMON + DAILY_LIFE.replace("\n    patch()\n", forked), mesh.addresses, "None")


def test_all_of_a_client_works_under_eventlet(mesh: LocalMesh) -> None:
    run(EVENTLET + COMMON + DAILY_LIFE, mesh.addresses)


@pytest.mark.parametrize("library", [GEVENT, EVENTLET])
def test_a_silent_node_stops_no_other_greenlet(library: str) -> None:
    with fake_mesh() as nodes:
        nodes[0].hook = lambda request: None if getattr(request, "keys", [b""])[:1] == [b"slow"] else FakeNode.PASS
        run(library + COMMON + SLOW_ANSWER, [nodes[0].address])


def test_a_frozen_node_stops_no_other_greenlet() -> None:
    with LocalMesh(nodes=1) as mesh:
        program = SLOW_ANSWER.replace("began =", f"os.kill({mesh.pids['node1']}, signal.SIGSTOP)\nbegan =", 1)
        program = program.replace(
            'assert cache.get("k")', f"os.kill({mesh.pids['node1']}, signal.SIGCONT)\nassert cache.get('k')", 1
        )
        run(GEVENT + COMMON + program, mesh.addresses)


@pytest.mark.parametrize("library", [GEVENT, EVENTLET])
def test_leases_are_renewed_while_a_loader_lets_others_run(mesh: LocalMesh, library: str) -> None:
    run(library + COMMON + RENEWAL, mesh.addresses)


def test_a_mesh_of_processes_can_be_started_and_a_node_inside_is_refused_in_words() -> None:
    program = """
with meshcache.LocalMesh(nodes=1) as mesh, mesh.client() as cache:
    cache.set("k", 1)
    assert cache.get("k") == 1
try:
    meshcache.Node(meshcache.Config()).start()
except meshcache.errors.UsageError as error:
    assert "greenlets" in str(error)
    print("well")
"""
    run(GEVENT + COMMON + program, [])


def test_timeouts_and_kills_of_greenlets_lose_nothing(mesh: LocalMesh) -> None:
    run(GEVENT + COMMON + INTERRUPTED, mesh.addresses)


def test_greenlets_that_a_fork_copied_use_nothing_of_the_parents(mesh: LocalMesh) -> None:
    run(GEVENT + COMMON + FORK, mesh.addresses)
