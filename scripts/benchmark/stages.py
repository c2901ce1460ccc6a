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

from meshcache.codec import Codec
from meshcache.config import Config
from meshcache.core.messages import DEFAULT_LEVEL, TTL_DEFAULT
from meshcache.core.node import NodeCore
from meshcache.core.wire import decode_frame
from meshcache.link import Batch
from meshcache.routing import Routing
from meshcache.session import Options, Session

from .workload import SMALL_BYTES, batches, key_of, value_for, verify

if TYPE_CHECKING:
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
        self.link = self.session.link(ADDRESS)
        self.core.tick(now)
        self.core.drain()
        self.core.receive_request(ORIGIN, self.link.hello(), now)
        self.link.accept(self.core.drain().replies[0][1])

    def run(self, flows: list[Any]) -> tuple[list[Any], list[int]]:
        """Carry one wave of flows out; return what they came to, and the nanoseconds at the end of each stage."""
        clock, core = time.perf_counter_ns, self.core
        marks = [clock()]
        calls = [next(flow)[0] for flow in flows]
        batch = Batch(calls[0])
        for call in calls[1:]:
            assert batch.join(call, 1 << 20)
        _, request = self.link.encode(batch if len(calls) > 1 else calls[0])
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
        ((_, outcome),) = self.link.accept(reply)
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


def stages_us(keys_per_frame: int) -> dict[str, float]:
    """Return the median microseconds per key of every stage, with so many gets in each frame."""
    exchange = Exchange()
    keys = [key_of(index) for index in range(POPULATION)]
    for key in keys:
        exchange.run([exchange.session.set(key, value_for(key, SMALL_BYTES), None, None)])
    spans: list[list[int]] = [[] for _ in STAGES]
    for wave in itertools.islice(itertools.cycle(batches(keys, keys_per_frame)), EXCHANGES // keys_per_frame + 100):
        answers, marks = exchange.run([exchange.session.get(key, None, None) for key in wave])
        for span, (start, end) in zip(spans, itertools.pairwise(marks), strict=True):
            span.append(end - start)
        verify(wave, answers)
    medians = [statistics.median(span) / 1e3 / keys_per_frame for span in spans]
    medians[2] = max(0.0, medians[2] - medians[1])  # receiving includes decoding
    return dict(zip(STAGES, medians, strict=True))


def profile(results: Results) -> dict[str, dict[str, float]]:
    """Return the stages of a single get and of one among many, and what the row "get" measured around them."""
    single, many = stages_us(1), stages_us(BATCH)
    columns = {
        "one get": {**single, "sum of these": sum(single.values())},
        f"one of {BATCH} in a frame": {**many, "sum of these": sum(many.values())},
    }
    ours, floor = results.median("get", "meshcache"), results.median("get", "zmq")
    if ours is not None and floor is not None:
        columns["one get"]["bare round trip over ZeroMQ (p50 of the row get)"] = floor.p50_us
        columns["one get"]["a real get (p50 of the row get)"] = ours.p50_us
        rest = ours.p50_us - floor.p50_us - sum(single.values())
        columns["one get"]["the rest: threads and event loops"] = rest
    return columns
