"""A walk through what a mesh does, with real node processes. Each step says what it shows, and checks it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from meshcache.client.blocking.client import Client
from meshcache.errors import MeshcacheError
from meshcache.local.launcher import LocalMesh
from meshcache.protocol.near_store import NearCache, NearStatistics

PROFILES = {f"user:{index}": {"name": f"user {index}", "visits": index} for index in range(100)}
PROFILE_TTL_S = 300


class StepFailed(Exception):
    """What a step was to show is not so."""


def show(text: str) -> None:
    """Print something that was found."""
    print(f"   {text}", flush=True)


def expect(*, holds: bool, what: str) -> None:
    """Print what was to be shown, or fail with it."""
    if not holds:
        raise StepFailed(what)
    show(f"ok: {what}")


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float) -> float:
    """Return how long it took until ``condition`` held."""
    begin = time.monotonic()
    pause = threading.Event()
    while not condition():
        if time.monotonic() - begin > timeout_s:
            raise StepFailed(f"not within {timeout_s:g} s: {what}")
        pause.wait(0.02)
    return time.monotonic() - begin


def set_and_get(_: LocalMesh, cache: Client) -> None:
    """Set and get: values come back as they went in."""
    value = {"name": "Ada", "languages": ("en", "fr"), "admin": True}
    cache.set("user:ada", value)
    expect(holds=cache.get("user:ada") == value, what=f"get returns {value}")
    expect(holds=cache.get("user:nobody") is None, what="a key that was never set is a miss, not an error")
    expect(holds=cache.incr("visits") == 1 and cache.incr("visits", 41) == 42, what="incr counted to 42")


def batch(_: LocalMesh, cache: Client) -> None:
    """A batch: many keys in one message for each node."""
    begin = time.perf_counter()
    failed = cache.set_many(PROFILES, ttl=PROFILE_TTL_S)
    found = cache.get_many(list(PROFILES))
    elapsed_ms = 1000 * (time.perf_counter() - begin)
    expect(holds=not failed and found == PROFILES, what=f"{len(PROFILES)} keys written and read in {elapsed_ms:.0f} ms")


def lifetime(_: LocalMesh, cache: Client) -> None:
    """TTL: a key goes when its time is over."""
    cache.set("session", "token", ttl=1.0)
    left_s = cache.ttl("session")
    # By the node's clock as this client knows it, which is right to some milliseconds.
    expect(holds=left_s is not None and 0 < left_s < 1.1, what=f"ttl says {left_s or 0:.2f} s")
    took_s = wait_until(lambda: cache.get("session") is None, "the key expired", 3.0)
    show(f"ok: gone after {took_s:.2f} s")


def crash(mesh: LocalMesh, cache: Client) -> None:
    """Kill a node as kill -9 does: every key is still there."""
    owners = cache.inspect("explain", key=b"user:ada")["owners"]
    victim = owners[0]
    show(f"user:ada lives on {' and '.join(owners)}; killing {victim} (pid {mesh.pids[victim]})")
    mesh.kill(victim)
    begin = time.perf_counter()
    ada = cache.get("user:ada")
    first_ms = 1000 * (time.perf_counter() - begin)
    expect(holds=ada is not None, what=f"user:ada is read from a copy, after {first_ms:.0f} ms")
    found = cache.get_many(list(PROFILES))
    expect(holds=found == PROFILES, what=f"{len(found)} of {len(PROFILES)} keys of the batch are still read")


def write_while_down(mesh: LocalMesh, cache: Client) -> None:
    """Write while the node is down, once the others have taken over its share."""
    mesh.wait_ready()
    show(f"the others run the mesh: {', '.join(sorted(mesh.pids))}")
    changed: dict[str, Any] = {key: {**profile, "visits": -1} for key, profile in PROFILES.items()}
    failed = cache.set_many(changed, ttl=PROFILE_TTL_S)
    expect(holds=not failed and cache.get_many(list(changed)) == changed, what=f"{len(changed)} keys were overwritten")


def rejoin(mesh: LocalMesh, cache: Client) -> None:
    """The node comes back, empty: nothing old is read, nothing is lost."""
    down = next(iter({"node1", "node2", "node3"} - set(mesh.pids)))
    begin = time.monotonic()
    mesh.start(down)
    mesh.wait_ready()
    show(f"{down} is back (pid {mesh.pids[down]}) and every node sees it, after {time.monotonic() - begin:.1f} s")
    found = cache.get_many(list(PROFILES))
    fresh = sum(profile["visits"] == -1 for profile in found.values())
    expect(holds=fresh == len(PROFILES), what=f"{fresh} of {len(PROFILES)} keys are read, with their newest value")
    alive = [m["node_id"] for m in cache.inspect("status")["members"] if m["state"] == "alive"]
    expect(holds=len(alive) == 3, what=f"alive: {', '.join(sorted(alive))}")


def near_cache(mesh: LocalMesh, cache: Client) -> None:
    """A near cache in a second client hears of what the first one writes."""
    with mesh.client(near_cache=NearCache(ttl=60.0)) as second:
        wait_until(lambda: second.get("user:0") is not None and near(second).live, "every node is followed", 5.0)
        second.get("user:0")
        begin = time.perf_counter()
        for _ in range(1000):
            second.get("user:0")
        hit_us = 1000 * (time.perf_counter() - begin)
        hits = near(second).hits
        expect(holds=hits >= 1000, what=f"{hits} reads of user:0 came from its own process, {hit_us:.1f} µs each")
        begin = time.perf_counter()
        cache.set("user:0", {"name": "user 0", "visits": -2}, ttl=PROFILE_TTL_S)
        while second.get("user:0")["visits"] != -2 and time.perf_counter() - begin < 1:
            time.sleep(0)
        took_ms = 1000 * (time.perf_counter() - begin)
        expect(holds=took_ms < 1000, what=f"it reads the new value {took_ms:.1f} ms after the write was begun")


def near(client: Client) -> NearStatistics:
    """Return what a near cache did so far."""
    found = client.near_statistics()
    assert found is not None
    return found


STEPS: list[Callable[[LocalMesh, Client], None]] = [
    set_and_get,
    batch,
    lifetime,
    crash,
    write_while_down,
    rejoin,
    near_cache,
]


def main() -> int:
    """Walk through all steps; return 1 at the first that fails."""
    begin = time.monotonic()
    print("1. Three node processes become one mesh", flush=True)
    try:
        with ExitStack() as stack:
            mesh = stack.enter_context(LocalMesh(nodes=3))
            cache = stack.enter_context(mesh.client())
            show(f"ok: ready after {time.monotonic() - begin:.1f} s at {', '.join(mesh.addresses)}")
            for number, step in enumerate(STEPS, start=2):
                print(f"{number}. {(step.__doc__ or '').rstrip('.')}", flush=True)
                step(mesh, cache)
    except (StepFailed, MeshcacheError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print(f"All nodes are stopped. Every step held; it took {time.monotonic() - begin:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
