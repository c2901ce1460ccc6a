"""A program that ends may use its clients to the last, and ends without a word."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from meshcache import LocalMesh

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=1) as mesh:
        yield mesh


def run(program: str, mesh: LocalMesh) -> str:
    command = [sys.executable, "-X", "dev", "-c", program, mesh.addresses[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


BEFORE = """
import atexit, asyncio, sys

def last():
    cache.set("last", 1)
    with cache.lock("last", ttl=5):
        print(cache.get("last"), near.get("last"), near.near_statistics().live)
    print(asyncio.run(from_a_loop()))
    for client in (cache, near):
        client.close()
        try:
            client.set("last", 2)
        except meshcache.ClientClosed:
            print("closed")

async def from_a_loop():
    return await other.get("last")

atexit.register(last)

import meshcache
cache = meshcache.Client(sys.argv[1], timeout=30)
near = meshcache.Client(sys.argv[1], timeout=30, near_cache=True)
other = meshcache.AsyncClient(sys.argv[1], timeout=30)
near.subscribe("").close()
near.get("k")
near.subscribe("")
asyncio.run(from_a_loop())
"""


def test_a_function_registered_before_the_first_client_can_still_use_it(mesh: LocalMesh) -> None:
    assert run(BEFORE, mesh) == "1 1 True\n1\nclosed\nclosed\n"


LEFT_OPEN = """
import asyncio, sys, meshcache
cache = meshcache.Client(sys.argv[1], timeout=30, near_cache=True)
cache.subscribe("", lambda event: None)
other = meshcache.AsyncClient(sys.argv[1], timeout=30)

async def main():
    await other.set("k", 1)

asyncio.run(main())
cache.get("k")
cache.lock("left", ttl=1).acquire()
print("end")
"""


def test_clients_that_are_left_open_hold_up_no_program(mesh: LocalMesh) -> None:
    assert run(LEFT_OPEN, mesh) == "end\n"
