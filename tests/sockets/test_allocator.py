from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest
from fake_node import fake_mesh

import meshcache
from meshcache.sockets import allocator
from meshcache.sockets.allocator import LARGE_FRAME_BYTES
from meshcache.sockets.dealer import receiver


def has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, AttributeError):
        return False


FAULTS = """
import resource, sys
from meshcache.sockets.allocator import expect_large_blocks

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [bytearray(8 << 20) for _ in range(3)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
expect_large_blocks()
faults()
print(before, faults())
"""
PAGES = 10 * 3 * (8 << 20) // os.sysconf("SC_PAGE_SIZE")


def faults(**environment: str) -> tuple[int, int]:
    """Count the page faults of ten times three blocks of 8 MiB, before and after the allocator is told."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "PYTHONMALLOC"))}
    told = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    before, after = map(int, told.stdout.split())
    return before, after


@pytest.mark.skipif(not has_glibc(), reason="only glibc has these thresholds")
def test_large_blocks_are_made_of_pages_that_are_there() -> None:
    before, after = faults()
    assert before > PAGES // 2
    assert after < PAGES // 100


@pytest.mark.skipif(not has_glibc(), reason="only glibc has these thresholds")
def test_thresholds_that_a_program_has_chosen_stay() -> None:
    assert min(faults(MALLOC_MMAP_THRESHOLD_="131072")) > PAGES // 2


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What notes that the allocator was told, as in a new process."""
    fresh: list[bool] = []
    monkeypatch.setattr(allocator, "_told", fresh)
    return fresh


def test_who_sends_a_large_value_tells_it(told: list[bool]) -> None:
    small, large = bytes(LARGE_FRAME_BYTES // 2), bytes(LARGE_FRAME_BYTES)
    with fake_mesh(1) as (node,), meshcache.Client(node.address) as cache:
        cache.set("k", small)
        assert not told
        cache.set("k", large)
        assert told == [True]
        told.clear()

        async def main() -> None:
            async with meshcache.AsyncClient(node.address) as cache:
                await cache.set("k", small)
                assert not told
                await cache.set("k", large)

        asyncio.run(main())
        assert told == [True]


def test_who_receives_a_large_value_tells_it(told: list[bool]) -> None:
    with fake_mesh(1) as (node,), meshcache.Client(node.address) as cache:
        cache.set("small", bytes(LARGE_FRAME_BYTES // 2))
        cache.set("large", bytes(LARGE_FRAME_BYTES))
        told.clear()
        cache.get("small")
        assert not told
        cache.get("large")
        assert told == [True]


def test_the_allocator_is_told_once(told: list[bool]) -> None:
    class Source:
        def recv(self, flags: int, copy: bool = True) -> Any:
            frame = bytes(LARGE_FRAME_BYTES)
            return frame if copy else type("Frame", (), {"buffer": memoryview(frame)})

    receive = receiver(Source())  # type: ignore[arg-type]  # as much of a socket as is used
    for _ in range(3):
        assert len(receive(0)) == LARGE_FRAME_BYTES
    assert told == [True]
