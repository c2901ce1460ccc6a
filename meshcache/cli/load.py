"""A quick load on a running mesh, through the asyncio client: enough to see orders of magnitude.

Each worker awaits one operation after the other, so that ``concurrency`` operations are under way at any time. What is
written lives under a prefix of its own and is deleted in the end; should that not happen, it expires.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from meshcache.cli.report import table
from meshcache.errors import MeshcacheError
from meshcache.local.terminal import RED, Paint

if TYPE_CHECKING:
    from meshcache.client.aio.client import AsyncClient

_BATCH: Final = 500
_TTL_MARGIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and for how long."""

    seeds: str
    timeout_s: float
    duration_s: float
    concurrency: int
    keys: int
    value_bytes: int
    read_share: float


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    elapsed_s: float = 0.0
    get_latencies_s: list[float] = field(default_factory=list)
    set_latencies_s: list[float] = field(default_factory=list)
    misses: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def succeeded(self) -> bool:
        """Whether anything at all worked."""
        return bool(self.get_latencies_s or self.set_latencies_s)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures, for programs."""
        every = self.get_latencies_s + self.set_latencies_s
        return {
            "elapsed_s": round(self.elapsed_s, 3),
            "operations": len(every),
            "operations_per_s": round(len(every) / self.elapsed_s, 1) if self.elapsed_s else 0.0,
            "misses": self.misses,
            "errors": dict(self.errors),
            "get": _latencies_ms(self.get_latencies_s),
            "set": _latencies_ms(self.set_latencies_s),
        }

    def as_text(self, paint: Paint) -> str:
        """Return a table, for people."""
        figures = self.as_dict()
        columns = ["count", "p50_ms", "p99_ms", "max_ms"]
        rows = [[verb, *(figures[verb][column] for column in columns)] for verb in ("get", "set")]
        lines = [
            paint.bold(f"{figures['operations_per_s']:,.0f} operations a second") + f" for {self.elapsed_s:.1f} s",
            table(["", "COUNT", "P50 MS", "P99 MS", "MAX MS"], rows, paint, {}),
        ]
        if self.misses:
            lines.append(f"{self.misses:,} gets missed: something evicts or drops keys")
        lines += [paint(f"{count:,} times {text}", RED) for text, count in self.errors.most_common(5)]
        return "\n".join(lines)


def _latencies_ms(latencies_s: list[float]) -> dict[str, float | int | None]:
    ordered = sorted(latencies_s)

    def quantile_ms(share: float) -> float | None:
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None

    return {"count": len(ordered), "p50_ms": quantile_ms(0.5), "p99_ms": quantile_ms(0.99), "max_ms": quantile_ms(1.0)}


def run(plan: Plan) -> Outcome:
    """Put the load on and return what came of it; MeshcacheError if the mesh can not be reached at all."""
    return asyncio.run(_run(plan))


async def _run(plan: Plan) -> Outcome:
    from meshcache.client.aio.client import AsyncClient  # noqa: PLC0415

    prefix = f"meshcache-bench:{secrets.token_hex(4)}:"
    keys = [f"{prefix}{index}" for index in range(plan.keys)]
    value = random.randbytes(plan.value_bytes)
    ttl_s = plan.duration_s + _TTL_MARGIN_S
    async with AsyncClient(plan.seeds, timeout=plan.timeout_s, near_cache=False) as client:
        try:
            for start in range(0, len(keys), _BATCH):
                await client.set_many(dict.fromkeys(keys[start : start + _BATCH], value), ttl=ttl_s)
            outcome = Outcome()
            begin = time.perf_counter()
            workers = [_work(client, plan, keys, value, outcome) for _ in range(plan.concurrency)]
            await asyncio.gather(*workers)
            outcome.elapsed_s = time.perf_counter() - begin
        finally:
            for start in range(0, len(keys), _BATCH):
                await client.delete_many(keys[start : start + _BATCH])
    return outcome


async def _work(client: AsyncClient, plan: Plan, keys: list[str], value: bytes, outcome: Outcome) -> None:
    end = time.perf_counter() + plan.duration_s
    ttl_s = plan.duration_s + _TTL_MARGIN_S
    now = time.perf_counter()
    while now < end:
        key = random.choice(keys)
        reads = random.random() < plan.read_share
        begin = now
        try:
            if reads:
                outcome.misses += await client.get(key) is None
            else:
                await client.set(key, value, ttl=ttl_s)
        except MeshcacheError as error:
            outcome.errors[f"{type(error).__name__}: {error}"] += 1
            now = time.perf_counter()
            continue
        now = time.perf_counter()
        (outcome.get_latencies_s if reads else outcome.set_latencies_s).append(now - begin)
