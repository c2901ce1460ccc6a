"""Write patterns: how a cache and the database of a program are kept together.

``GUIDE.md`` in this folder says which pattern to use when, draws the races of each, and says how old a value can be
that a reader sees. Every pattern takes functions of the program, ``load`` and ``store``; none depends on a database.
"""

from __future__ import annotations

from meshcache.patterns.aio import (
    AsyncCacheAside,
    AsyncInvalidateOnWrite,
    AsyncReadThrough,
    AsyncWriteBehind,
    AsyncWriteThrough,
)
from meshcache.patterns.backlog import Limits
from meshcache.patterns.behind import SetAside, is_outage
from meshcache.patterns.blocking import CacheAside, InvalidateOnWrite, ReadThrough, WriteBehind, WriteThrough
from meshcache.patterns.durable import QueueStatistics
from meshcache.patterns.fences import FenceCounts
from meshcache.patterns.marks import Missing, Write

__all__ = [
    "AsyncCacheAside",
    "AsyncInvalidateOnWrite",
    "AsyncReadThrough",
    "AsyncWriteBehind",
    "AsyncWriteThrough",
    "CacheAside",
    "FenceCounts",
    "InvalidateOnWrite",
    "Limits",
    "Missing",
    "QueueStatistics",
    "ReadThrough",
    "SetAside",
    "Write",
    "WriteBehind",
    "WriteThrough",
    "is_outage",
]
