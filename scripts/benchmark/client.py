"""What a call costs its client: CPU time, with the native module and without, beside redis-py.

One thread makes single calls and batches, as most programs do. The contestants take turns in one run, in blocks of a
fraction of a second; what is told is the median of the blocks. "flows" is the same client without its fast path, which
is what it does where there is no native module. CPU time is that of the calling thread: the I/O thread of libzmq, which
every client over ZeroMQ has, is not in it, and neither is what client and server wait for each other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import meshcache
from meshcache import _native

from .measure import say
from .servers import Unavailable, mesh_server, redis_server, zmq_server
from .workload import SMALL_BYTES, batches, key_of, value_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEYS: Final = 400
BATCH: Final = 100
TTL_S: Final = 60
EXAMPLES: Final = """\
examples:
  scripts/bench client                 all contestants, in about half a minute
  scripts/bench client --rounds 3      quickly
"""

Calls = dict[str, tuple["Callable[[Any], Any]", list[Any]]]


def calls_of(cache: Any, set_many: Callable[[Any], Any], get_many: Callable[[Any], Any], ttl: str) -> Calls:
    """Return by row what a client calls, and with what arguments."""
    keys = [key_of(index) for index in range(KEYS)]
    parts = batches(keys, BATCH) * 4
    items = [{key: value_for(key, SMALL_BYTES) for key in part} for part in parts]
    text = value_for(keys[0], SMALL_BYTES)
    return {
        "get": (cache.get, keys),
        "set with TTL": (lambda key: cache.set(key, text, **{ttl: TTL_S}), keys),
        f"get_many({BATCH})": (get_many, parts),
        f"set_many({BATCH}) with TTL": (set_many, items),
    }


def mesh_calls(stack: ExitStack, address: str, *, is_fast: bool) -> Calls:
    """Return the calls of a client of ours, with its fast path or without."""
    cache = stack.enter_context(meshcache.Client(address))
    cache.set_many({key_of(index): value_for(key_of(index), SMALL_BYTES) for index in range(KEYS)}, ttl=None)
    if not is_fast:
        cache._session.fast.is_open = False  # noqa: SLF001  (there is no way for users to shut it, nor need for one)
    return calls_of(cache, lambda items: cache.set_many(items, TTL_S), cache.get_many, "ttl")


def redis_calls(stack: ExitStack) -> Calls:
    """Return the calls of redis-py."""
    import redis  # noqa: PLC0415  (only if it is installed)

    host, port = stack.enter_context(redis_server()).address.split(":")
    cache = redis.Redis(host, int(port))

    def set_many(items: dict[str, Any]) -> None:
        pipeline = cache.pipeline(transaction=False)
        for key, value in items.items():
            pipeline.set(key, value, ex=TTL_S)
        pipeline.execute()

    return calls_of(cache, set_many, cache.mget, "ex")


def echo_calls(stack: ExitStack) -> Calls:
    """Return a bare round trip over ZeroMQ: what remains if a client does nothing itself."""
    import zmq  # noqa: PLC0415  (as the others)

    socket: Any = zmq.Context.instance().socket(zmq.DEALER)
    stack.callback(socket.close, 0)
    socket.connect(f"tcp://{stack.enter_context(zmq_server()).address}")
    frame = bytes(60)

    def ping(_: Any) -> None:
        socket.send(frame)
        socket.recv()

    return {row: (ping, [None] * KEYS) for row in ("get", "set with TTL")}


def block_us(call: Callable[[Any], Any], arguments: list[Any]) -> float:
    """Return the microseconds of CPU that one call takes in the mean over a block."""
    before = time.thread_time_ns()
    for argument in arguments:
        call(argument)
    return (time.thread_time_ns() - before) / len(arguments) / 1e3


def measured(rounds: int) -> dict[str, dict[str, float]]:
    """Return microseconds by row and contestant."""
    with ExitStack() as stack:
        mesh = stack.enter_context(mesh_server()).address
        contestants: dict[str, Calls] = {"zmq": echo_calls(stack)}
        if not _native.absent_because:
            contestants["meshcache"] = mesh_calls(stack, mesh, is_fast=True)
        contestants["meshcache, flows"] = mesh_calls(stack, mesh, is_fast=False)
        try:
            contestants["redis"] = redis_calls(stack)
        except Unavailable as error:
            say(f"redis: {error}")
        found: dict[str, dict[str, list[float]]] = {}
        for _ in range(rounds):
            for name, calls in contestants.items():
                for row, (call, arguments) in calls.items():
                    found.setdefault(row, {}).setdefault(name, []).append(block_us(call, arguments))
        return {row: {name: statistics.median(each) for name, each in by.items()} for row, by in found.items()}


def main(arguments: Sequence[str]) -> int:
    """Measure, and tell."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench client",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="interleaved rounds (15)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON; the text goes to standard error")
    options = parser.parse_args(arguments)
    say(f"meshcache {meshcache.__version__}, {_native.describe()}; CPU of the calling thread, µs a call")
    found = measured(options.rounds)
    for row, by_name in found.items():
        say(f"{row:<24}" + "   ".join(f"{name} {us:7.1f}" for name, us in by_name.items()))
    if options.json:
        print(json.dumps(found))
    return 0
