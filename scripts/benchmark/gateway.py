"""Measure the gateway: single GETs over HTTP, beside a mesh of three nodes on this machine.

The load comes from a process of its own, which does as little as it can: each connection sends a request that is
written already, and looks for the end of the answer by the length that it has. What it takes of the processor is told,
too: on few cores it competes with what is measured.

With ``--slow N`` so many connections beside the load send a header a byte at a time and never finish it. What is then
told is when the last of them was cut, and whether ``/health`` was answered meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import meshcache
from benchmark.servers import free_port, mesh3_server, module_environment, process

KEYS: Final = 6000
"""So many that none of them is read often enough to be hot, and every read goes to the mesh."""
VALUE_BYTES: Final = 100
WARM_UP_S: Final = 1.0
EXAMPLES: Final = """\
examples:
  scripts/bench gateway                            64 connections for 10 seconds
  scripts/bench gateway --connections 8 --seconds 3
  scripts/bench gateway --keys 100                 of hot keys, which the gateway answers from copies
  scripts/bench gateway --slow 200                 beside 200 connections that never finish a request
  scripts/bench gateway --json | jq .requests_per_s
"""


class Connection(asyncio.Protocol):
    """One connection that asks for one key after the other."""

    def __init__(self, requests: list[bytes], times: list[float], until: float) -> None:
        self._requests = requests
        self._times = times
        self._until = until
        self._next = id(self) % len(requests)
        self._left = b""
        self._began = 0.0
        self._transport: asyncio.Transport | None = None
        self.errors = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        self._next = (self._next + 1) % len(self._requests)
        self._began = time.perf_counter()
        self._transport.write(self._requests[self._next])

    def data_received(self, data: bytes) -> None:
        """Look whether the answer is whole, and ask again."""
        data = self._left + data if self._left else data
        head, end, body = data.partition(b"\r\n\r\n")
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if not end or len(body) < int(length or 0):
            self._left = data
            return
        self._left = b""
        now = time.perf_counter()
        self._times.append(now - self._began)
        self.errors += not head.startswith(b"HTTP/1.1 200 ")
        if now < self._until:
            self._ask()
        elif not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """It was cut."""
        del exc
        if not self.done.done():
            self.errors += 1
            self.done.set_result(None)


async def _load(port: int, connections: int, seconds: float, keys: int) -> dict[str, Any]:
    loop, times = asyncio.get_running_loop(), list[float]()
    requests = [f"GET /cache/key:{i} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode() for i in range(keys)]
    began, began_cpu = time.perf_counter(), time.process_time()
    until = began + seconds
    made = [await loop.create_connection(lambda: Connection(requests, times, until), "127.0.0.1", port)
            for _ in range(connections)]  # fmt: skip
    protocols = [protocol for _, protocol in made]
    await asyncio.wait([protocol.done for protocol in protocols])
    took_s = time.perf_counter() - began
    for transport, _ in made:
        transport.close()
    times.sort()
    return {
        "requests": len(times),
        "requests_per_s": len(times) / took_s,
        "p50_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[len(times) * 99 // 100],
        "errors": sum(protocol.errors for protocol in protocols),
        "load_cpu_us": 1e6 * (time.process_time() - began_cpu) / len(times),
    }


async def _slow(port: int, count: int) -> dict[str, Any]:
    """Open connections that send a byte in half a second; tell when the last was cut, and how ``/health`` did."""
    began = time.perf_counter()
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]

    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
        reading = asyncio.create_task(reader.read())
        text = iter(b"GET /cache/key:1 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"x" * 200)
        while not reading.done():
            writer.write(bytes([next(text)]))
            await asyncio.wait([reading], timeout=0.5)
        return time.perf_counter() - began

    slow = asyncio.gather(*[dawdle(*stream) for stream in streams])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    health = (await asyncio.wait_for(reader.read(), 10)).split(b"\r\n", 1)[0].decode()
    health_ms = 1000 * (time.perf_counter() - began)
    async with asyncio.timeout(60):
        return {"slow_cut_after_s": max(await slow), "health": health, "health_ms": health_ms}


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123  (a path of the kernel's)
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _run_load(port: int, connections: int, seconds: float, keys: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmark.gateway", str(port), str(connections), str(seconds), str(keys)]
    done = subprocess.run(command, env=module_environment(), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(connections: int, seconds: float, slow: int, keys: int) -> dict[str, Any]:
    """Start a mesh and a gateway, and put load on them."""
    port = free_port()
    with mesh3_server() as mesh:
        with meshcache.Client(mesh.address) as client:
            client.set_many({f"key:{i}": "x" * VALUE_BYTES for i in range(keys)}, ttl=None)
        command = [sys.executable, "-m", "meshcache", "gateway", "--listen", f"127.0.0.1:{port}", "--at", mesh.address]
        with process(command, stdout=subprocess.PIPE) as gateway:
            assert gateway.stdout is not None
            if not gateway.stdout.readline().startswith("ready"):
                raise RuntimeError("the gateway did not start")
            _run_load(port, connections, WARM_UP_S, keys)
            slowly: dict[str, Any] = {}
            dawdlers = None
            if slow:
                command = [sys.executable, "-m", "benchmark.gateway", str(port), str(slow), "slow", "0"]
                dawdlers = subprocess.Popen(command, env=module_environment(), stdout=subprocess.PIPE, text=True)
            before, before_mesh = _cpu_s(gateway.pid), sum(map(_cpu_s, mesh.pids))
            found = _run_load(port, connections, seconds, keys)
            cpu_s, mesh_cpu_s = _cpu_s(gateway.pid) - before, sum(map(_cpu_s, mesh.pids)) - before_mesh
            if dawdlers is not None:
                slowly = json.loads(dawdlers.communicate()[0])
    requests = found["requests"]
    return {**found, "gateway_cpu_us": 1e6 * cpu_s / requests, "mesh_cpu_us": 1e6 * mesh_cpu_s / requests, **slowly}


def main(arguments: Sequence[str]) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench gateway",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--connections", type=int, default=64, help="at a time (64)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the load (10)")
    parser.add_argument("--keys", type=int, default=KEYS, metavar="N", help=f"different keys ({KEYS:,})")
    parser.add_argument("--slow", type=int, default=0, metavar="N", help="connections that never finish a request (0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    found = measure(options.connections, options.seconds, options.slow, options.keys)
    if options.json:
        print(json.dumps(found))
        return 0
    for name, value in found.items():
        print(f"{name:16} {value:,.2f}" if isinstance(value, float) else f"{name:16} {value}")
    return 1 if found["errors"] else 0


if __name__ == "__main__":  # the process that is the load
    _port, _count, _how, _keys = sys.argv[1:]
    _, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_most, _most))
    _work = (
        _slow(int(_port), int(_count)) if _how == "slow" else _load(int(_port), int(_count), float(_how), int(_keys))
    )
    print(json.dumps(asyncio.run(_work)))
