"""A crowd that misses one key at the same moment: tasks, threads, or processes of their own.

A program by itself, so that it can fork before it has threads::

    python crowd.py ADDRESSES KIND COUNT KEY LOAD_S KILL

It prints what happened as JSON. Everybody is connected before all are let go at once. Whoever has to be killed computes
until it is: however busy the machine is, it never ends before.

No wait here can last: a watchdog in each process ends it after LIFE_S, and prints where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import meshcache

TIMEOUT_S = 30.0
LIFE_S = 60.0
Client = meshcache.Client
"""Named here so that it is imported before the fork, and not by each child."""


class Loader:
    """The function that all want to be run once: it notes its process in a file, takes a while, and returns a text."""

    def __init__(self, journal: Path, load_s: float, *, kill: bool = False) -> None:
        """``kill``: the first process that runs it does so until it is killed."""
        self.journal = journal
        self.load_s = load_s
        self.kill = kill

    def _note(self) -> None:
        with self.journal.open("a", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")

    def __call__(self) -> str:
        """Compute the value."""
        self._note()
        is_victim = self.kill and self.loads()[0] == os.getpid()
        time.sleep(LIFE_S if is_victim else self.load_s)
        return f"value of {os.getpid()}"

    async def awaited(self) -> str:
        """The same, as a coroutine function."""
        self._note()
        await asyncio.sleep(self.load_s)
        return f"value of {os.getpid()}"

    def loads(self) -> list[int]:
        """Return which processes ran it, in order."""
        return [int(line) for line in self.journal.read_text(encoding="ascii").splitlines()]


def _timed(ask: Callable[[], Any]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        value: Any = ask()
        error = None
    except Exception as problem:  # noqa: BLE001  (whatever it is, it is told)
        value, error = None, f"{type(problem).__name__}: {problem}"
    return {"value": value, "error": error, "took_s": time.monotonic() - began}


def tasks(addresses: str, count: int, key: str, loader: Loader) -> list[dict[str, Any]]:
    """Tasks that share one AsyncClient."""

    async def run() -> list[dict[str, Any]]:
        async with meshcache.AsyncClient(addresses, timeout=TIMEOUT_S) as cache:
            await cache.get(key)
            began = time.monotonic()
            values = await asyncio.gather(
                *(cache.get_or_set(key, loader.awaited, ttl=60) for _ in range(count)), return_exceptions=True
            )
            took_s = time.monotonic() - began
            failed = [isinstance(value, BaseException) for value in values]
            return [
                {"value": None if bad else value, "error": repr(value) if bad else None, "took_s": took_s}
                for value, bad in zip(values, failed, strict=True)
            ]

    return asyncio.run(run())


def threads(addresses: str, count: int, key: str, loader: Loader) -> list[dict[str, Any]]:
    """Threads that share one Client."""
    barrier = threading.Barrier(count)

    def one(cache: Client) -> dict[str, Any]:
        barrier.wait(LIFE_S)
        return _timed(lambda: cache.get_or_set(key, loader, ttl=60))

    with Client(addresses, timeout=TIMEOUT_S) as cache, ThreadPoolExecutor(count) as pool:
        cache.get(key)
        return list(pool.map(one, [cache] * count))


def _child(addresses: str, key: str, loader: Loader, ready: int, start: int, out: int) -> None:
    faulthandler.dump_traceback_later(LIFE_S, exit=True)
    with Client(addresses, timeout=TIMEOUT_S) as cache:
        cache.get(key)
        os.write(ready, b"r")
        os.close(ready)
        os.read(start, 1)
        told = _timed(lambda: cache.get_or_set(key, loader, ttl=60))
    os.write(out, json.dumps(told).encode() + b"\n")


def processes(addresses: str, count: int, key: str, loader: Loader) -> list[dict[str, Any]]:
    """Processes with a Client each; the first that computes is killed (kill -9), if the loader says so."""
    (ready_in, ready), (start, start_out), (result_in, result) = os.pipe(), os.pipe(), os.pipe()
    children = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            os.close(start_out)
            try:
                _child(addresses, key, loader, ready, start, result)
            finally:
                os._exit(0)
        children.append(pid)
    faulthandler.dump_traceback_later(2 * LIFE_S, exit=True)  # not before the forks: a child could set none of its own
    os.close(ready)
    os.close(result)
    try:
        with os.fdopen(ready_in, "rb") as signs:
            if len(signs.read()) != count:
                raise RuntimeError("some processes could not connect")
        os.close(start_out)  # every child reads the end of it, at once
        if loader.kill:
            while not loader.loads():
                time.sleep(0.005)
            time.sleep(loader.load_s / 2)
            os.kill(loader.loads()[0], signal.SIGKILL)
        with os.fdopen(result_in, encoding="ascii") as lines:
            return [json.loads(line) for line in lines]
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def main(arguments: list[str]) -> None:
    """Run one crowd, and print what came of it."""
    addresses, kind, count, key, load_s, kill = arguments
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory) / "loads"
        journal.touch()
        loader = Loader(journal, float(load_s), kill=kill == "1")
        crowd: Callable[..., list[dict[str, Any]]] = {"tasks": tasks, "threads": threads, "processes": processes}[kind]
        answers = crowd(addresses, int(count), key, loader)
        print(json.dumps({"loads": loader.loads(), "answers": answers}))


if __name__ == "__main__":
    main(sys.argv[1:])
