"""Programs that have used up their file descriptors: they are told so, they live, and then all works again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from meshcache import LocalMesh

COMMON = """
import asyncio, contextlib, os, resource, sys, time, warnings
import meshcache
from meshcache import AsyncClient, Client, LocalMesh, NodeUnavailable
SEEDS = sys.argv[1]
LIMIT = 128
_, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, HARD))

@contextlib.contextmanager
def only(left):
    '''So many descriptors are left in here.'''
    held = []
    with contextlib.suppress(OSError):
        while True:
            held.append(os.dup(0))
    for _ in range(left):
        os.close(held.pop())
    try:
        yield
    finally:
        for fd in held:
            os.close(fd)

def tried(work):
    '''Whether it did what it should; it may also say in words what is missing.'''
    began = time.monotonic()
    try:
        work()
    except NodeUnavailable as error:
        assert f"RLIMIT_NOFILE is {LIMIT}" in str(error), error
        assert time.monotonic() - began < 2, "it took its time to say so"
        return False
    return True

def at_every_number(make, work, numbers=range(21)):
    done = []
    for left in numbers:
        with only(left):
            client = make()
            done.append(tried(lambda: work(client)))
        work(client)  # there are enough again
        client.close()
    assert not done[0] and done[-1], done
    print("well", done.count(False))
"""

PROGRAMS = {
    "get": """
def work(client):
    client.set("k", 1)
    assert client.get("k") == 1
at_every_number(lambda: Client(SEEDS), work)
""",
    "get_many over several nodes": """
def work(client):
    keys = {f"k{i}": i for i in range(50)}
    client.set_many(keys)
    assert client.get_many(keys) == keys
at_every_number(lambda: Client(SEEDS), work, range(30))
""",
    "near cache": """
def work(client):
    client.set("k", 1)
    for _ in range(5):
        assert client.get("k") == 1
def follows(client):
    deadline = time.monotonic() + 10
    while not client.near_statistics().live:
        work(client)
        assert time.monotonic() < deadline
done = []
for left in range(21):
    client = Client(SEEDS, near_cache=True)
    with only(left):
        done.append(tried(lambda: work(client)))
    follows(client)
    client.close()
assert not done[0] and done[-1]
print("well")
""",
    "subscribe": """
def work(client):
    with client.subscribe("k", timeout=5) as events:
        client.set("k", 1)
        assert events.wait(5) is not None
at_every_number(lambda: Client(SEEDS), work, range(40))
""",
    "get_or_set": """
def work(client):
    key = os.urandom(8)
    assert client.get_or_set(key, lambda: "loaded") == "loaded"
    assert client.get(key) in ("loaded", None)  # while the cache fails, what was loaded is not stored
at_every_number(lambda: Client(SEEDS), work, range(40))
""",
    "lock": """
def work(client):
    with client.lock(os.urandom(4).hex()):
        pass
at_every_number(lambda: Client(SEEDS), work)
""",
    "after a fork": """
parent = Client(SEEDS)
parent.set("k", 1)
for left in range(21):
    with only(left):
        child = os.fork()
        if not child:
            tried(lambda: parent.get("k"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (2 * LIMIT, HARD))
            assert parent.get("k") == 1
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
print("well")
""",
    "links that stand": """
client = Client(SEEDS)
keys = {f"k{i}": i for i in range(50)}
client.set_many(keys)
with only(0):
    assert client.get_many(keys) == keys
    client.set("k1", 2)
    assert client.get("k1") == 2
print("well")
""",
    "asyncio": """
async def main():
    done = []
    for left in range(21):
        client = AsyncClient(SEEDS)
        with only(left):
            try:
                await client.set("k", 1)
                done.append(True)
            except NodeUnavailable as error:
                assert f"RLIMIT_NOFILE is {LIMIT}" in str(error), error
                done.append(False)
        await client.set("k", 2)
        assert await client.get("k") == 2
        await client.close()
    assert not done[0] and done[-1]
asyncio.run(main())
print("well")
""",
    "asyncio near cache and subscription": """
async def main():
    for left in range(0, 30, 2):
        client = AsyncClient(SEEDS, near_cache=True)
        with only(left):
            for work in (client.set("k", 1), client.get("k"), client.get_or_set("l", 1)):
                with contextlib.suppress(NodeUnavailable):
                    await work
            with contextlib.suppress(NodeUnavailable):
                async with client.subscribe("k", timeout=5):
                    pass
        async with client.subscribe("k", timeout=5) as events:
            await client.set("k", 2)
            assert await events.wait(5) is not None
        async with asyncio.timeout(10):
            while not client.near_statistics().live:
                await client.get("k")
        await client.close()
asyncio.run(main())
print("well")
""",
    "starting a mesh": """
def work(_):
    with LocalMesh(nodes=1) as mesh, mesh.client() as client:
        client.set("k", 1)
with only(0):
    assert not tried(lambda: work(None))
work(None)
print("well")
""",
    "a node that comes back meanwhile": """
client = Client(SEEDS, near_cache=True, timeout=2)
def served():
    for number in range(20):
        client.set(f"k{number}", number)
        assert client.get(f"k{number}") == number
served()
client.get("k1")
with only(0):
    print("restart it", flush=True)
    sys.stdin.readline()
    until = time.monotonic() + 1.5  # libzmq tries to connect again in this time, and gets no descriptor
    while time.monotonic() < until:
        with contextlib.suppress(NodeUnavailable, meshcache.OperationTimeout, meshcache.QuorumNotReached):
            served()
until = time.monotonic() + 20
while True:
    try:
        served()
        assert client.near_statistics().live
    except (NodeUnavailable, meshcache.OperationTimeout, meshcache.QuorumNotReached, AssertionError):
        assert time.monotonic() < until
    else:
        break
print("well")
""",
    "making a client": """
with only(0):
    client = Client(SEEDS, near_cache=True)
    other = AsyncClient(SEEDS)
client.set("k", 1)
print("well")
""",
}


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=2) as mesh:
        yield mesh


@pytest.mark.process
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_process_without_descriptors_is_told_so_and_lives(mesh: LocalMesh, name: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMON + PROGRAMS[name], ",".join(mesh.addresses)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        said = program.stdout.readline()
        if said.startswith("restart"):
            mesh.kill("node2")
            mesh.start("node2")
            mesh.wait_ready()
            said, errors = program.communicate("done\n", timeout=60)
        else:
            _, errors = program.communicate(timeout=60)
    assert (program.returncode, said.split()[:1]) == (0, ["well"]), errors
