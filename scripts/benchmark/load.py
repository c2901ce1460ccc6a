"""Processes beside the benchmark itself: the echo over ZeroMQ, and the client programs of the throughput rows.

``python -m benchmark.load echo PORT``, or ``… load '{"server": …}'``, a program that connects, says ``ready``, and for
each line with a number of seconds on its standard input reads keys for so long and answers with one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

from .clients import connect, connect_async, values_of
from .measure import Block, cpu_seconds
from .servers import Server, module_environment, process
from .workload import around, batches, key_of, loop_tasks, time_calls, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class LoadPrograms:
    """The client programs of one contestant, seen from the benchmark."""

    def __init__(
        self, server: Server, contestant: str, mode: str, concurrent: int, programs: int, population: int
    ) -> None:
        self._server = server
        self._spec = {
            "server": asdict(server),
            "contestant": contestant,
            "mode": mode,
            "concurrent": concurrent,
            "population": population,
        }
        self._programs = programs
        self._keys_per_call = 1 if mode == "gets" else concurrent
        self._stack = ExitStack()
        self._children: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmark.load", json.dumps(self._spec)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": module_environment()}
        with ExitStack() as stack:
            self._children = [stack.enter_context(process(command, **pipes)) for _ in range(self._programs)]
            for child in self._children:
                self._line_of(child)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @staticmethod
    def _line_of(child: subprocess.Popen[str]) -> str:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"a client program ended with status {child.wait()}")
        return line

    def block(self, seconds: float) -> Block:
        """Let all programs read for so long at the same time."""
        before = cpu_seconds(self._server.pids)
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(f"{seconds}\n")
            child.stdin.flush()
        answers = [json.loads(self._line_of(child)) for child in self._children]
        block = Block(self._keys_per_call)
        block.server_cpu_s = cpu_seconds(self._server.pids) - before
        block.keys = sum(answer["keys"] for answer in answers)
        block.client_cpu_s = sum(answer["cpu_s"] for answer in answers)
        block.elapsed_s = max(answer["elapsed_s"] for answer in answers)
        block.calls_ns = [call_ns for answer in answers for call_ns in answer["calls_ns"]]
        return block


def echo(port: int) -> None:
    """Send every message back to where it came from, for ever."""
    import zmq  # noqa: PLC0415  (the client programs do without)

    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(f"tcp://127.0.0.1:{port}")
    while True:
        router.send_multipart(router.recv_multipart())


def run_program(spec: dict[str, Any]) -> None:
    """Connect, then read for as long as each line on the standard input says."""
    server = Server(**spec["server"])
    keys = [key_of(index) for index in range(spec["population"])]
    concurrent = spec["concurrent"]
    if spec["mode"] == "gets":
        with asyncio.Runner() as runner:
            get = runner.run(connect_async(server, spec["contestant"], concurrent)).get
            serve(lambda seconds: runner.run(loop_tasks(get, keys, concurrent, seconds)), 1)
    else:
        client = connect(server)
        parts = batches(keys, concurrent)
        arguments = around(parts)

        def read_for(seconds: float) -> list[int]:
            calls_ns = time_calls(client.get_many, arguments, seconds)
            verify(parts[0], values_of(client.get_many(parts[0]), parts[0]))
            return calls_ns

        serve(read_for, concurrent)


def serve(read_for: Callable[[float], list[int]], keys_per_call: int) -> None:
    """Answer each line of the standard input."""
    print("ready", flush=True)
    for line in sys.stdin:
        cpu, start = time.process_time(), time.perf_counter()
        calls_ns = read_for(float(line))
        report = {
            "keys": len(calls_ns) * keys_per_call,
            "calls_ns": calls_ns,
            "elapsed_s": time.perf_counter() - start,
            "cpu_s": time.process_time() - cpu,
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(int(sys.argv[2]))
    else:
        run_program(json.loads(sys.argv[1]))
