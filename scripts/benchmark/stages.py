"""Where the microseconds of a get go: the pure parts of client and node, run in one process without sockets.

A session encodes, a NodeCore handles, the session decodes, and every stage is timed by itself. What a real get takes
beyond these stages and beyond a bare round trip over ZeroMQ is spent between threads and in event loops.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from typing import TYPE_CHECKING, Any, Final

from meshcache.client.codec import Codec
from meshcache.client.connection import Batch
from meshcache.client.options import Options
from meshcache.client.routing import Routing
from meshcache.client.session import Session
from meshcache.config import Config
from meshcache.core.node import NodeCore
from meshcache.protocol.messages import DEFAULT_LEVEL, TTL_DEFAULT
from meshcache.protocol.wire import decode_frame

from .clients import values_of
from .workload import SMALL_BYTES, batches, key_of, value_for, verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from .results import Results

ADDRESS: Final = "127.0.0.1:7101"
ORIGIN: Final = bytes(17)
POPULATION: Final = 10_000
EXCHANGES: Final = 5_000
BATCH: Final = 100

STAGES: Final = (
    "client: key, route, encode",
    "node: decode",
    "node: look up, put the reply together",
    "node: timers",
    "node: encode",
    "client: decode, match, value",
)


class Exchange:
    """A client and a node of one process, with nothing between them but frames."""

    def __init__(self) -> None:
        tables: dict[str, Any] = {
            "node": {"id": "node1", "listen": ADDRESS},
            "cluster": {"replicas": 1, "write_quorum": 1, "read_quorum": 1},
            "store": {"max_entries": 2 * POPULATION},
        }
        config = Config.from_tables(**tables)
        now = time.monotonic()
        self.core = NodeCore(config, boot=1, rng=random.Random(1), now=now, wall_ms=int(time.time() * 1000))
        routing = Routing((ADDRESS,), time.monotonic)
        options = Options(
            prefix=b"", timeout_s=5.0, ttl_ms=TTL_DEFAULT, w=DEFAULT_LEVEL, r=DEFAULT_LEVEL, codec=Codec(None)
        )
        self.session = Session(routing, random.Random(1), options)
        self.connection = self.session.connection(ADDRESS)
        self.core.tick(now)
        self.core.drain()
        self.core.receive_request(ORIGIN, self.connection.hello(), now)
        self.connection.accept(self.core.drain().replies[0][1])

    def run(self, flows: list[Any]) -> tuple[list[Any], list[int]]:
        """Carry one wave of flows out; return what they came to, and the nanoseconds at the end of each stage."""
        clock, core = time.perf_counter_ns, self.core
        marks = [clock()]
        calls = [next(flow)[0] for flow in flows]
        batch = Batch(calls[0])
        for call in calls[1:]:
            assert batch.join(call, 1 << 20)
        whole = batch.whole()
        _, request = self.connection.encode(whole, whole.deadline(time.monotonic()))
        marks.append(clock())
        decode_frame(request)  # once more than the node does, to tell its share
        marks.append(clock())
        now = time.monotonic()
        core.receive_request(ORIGIN, request, now)
        marks.append(clock())
        core.tick(now)
        core.next_deadline()
        marks.append(clock())
        reply = core.drain().replies[0][1]
        marks.append(clock())
        ((_, outcome),) = self.connection.accept(reply)
        assert isinstance(outcome, list)
        outcomes = batch.split(outcome) if len(calls) > 1 else [outcome]
        answers = [_end(flow, one) for flow, one in zip(flows, outcomes, strict=True)]
        marks.append(clock())
        return answers, marks


def _end(flow: Any, outcome: Any) -> Any:
    try:
        flow.send([outcome])
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("the flow asks for more than one exchange")


def stages_us(
    flows_of: Callable[[Session, list[str]], list[Any]], keys_per_frame: int, *, check: bool
) -> dict[str, float]:
    """Return the median microseconds per key of every stage.

    ``flows_of`` begins the operations of one frame; ``check``: what they come to are the values.
    """
    exchange = Exchange()
    keys = [key_of(index) for index in range(POPULATION)]
    for part in batches(keys, BATCH):
        exchange.run(_set_many(exchange.session, part))
    spans: list[list[int]] = [[] for _ in STAGES]
    for part in itertools.islice(itertools.cycle(batches(keys, keys_per_frame)), EXCHANGES // keys_per_frame + 200):
        answers, marks = exchange.run(flows_of(exchange.session, part))
        for span, (start, end) in zip(spans, itertools.pairwise(marks), strict=True):
            span.append(end - start)
        if check:
            verify(part, values_of(answers[0], part) if isinstance(answers[0], dict) else answers)
    medians = [statistics.median(span) / 1e3 / keys_per_frame for span in spans]
    medians[2] = max(0.0, medians[2] - medians[1])  # receiving includes decoding
    named = dict(zip(STAGES, medians, strict=True))
    return {**named, "sum of these": sum(medians)}


def _gets(session: Session, keys: list[str]) -> list[Any]:
    return [session.get(key, None, None) for key in keys]


def _get_many(session: Session, keys: list[str]) -> list[Any]:
    return [session.get_many(keys, None)]


def _set_many(session: Session, keys: list[str]) -> list[Any]:
    return [session.set_many({key: value_for(key, SMALL_BYTES) for key in keys}, None, None)]


def profile(results: Results) -> dict[str, dict[str, float]]:
    """Return the stages of a single get and of keys in batches, and what the row "get" measured around them."""
    columns = {
        "one get": stages_us(_gets, 1, check=True),
        f"of {BATCH} gets": stages_us(_gets, BATCH, check=True),
        f"get_many of {BATCH}": stages_us(_get_many, BATCH, check=True),
        f"set_many of {BATCH}": stages_us(_set_many, BATCH, check=False),
    }
    ours, floor = results.median("get", "meshcache"), results.median("get", "zmq")
    if ours is not None and floor is not None:
        one = columns["one get"]
        rest = ours.p50_us - floor.p50_us - one["sum of these"]
        one["a bare round trip over ZeroMQ"] = floor.p50_us
        one["a real get, p50"] = ours.p50_us
        one["the rest: event loop, cold caches"] = rest
    return columns
