"""Write patterns: how a cache and the database of a program are kept together.

``GUIDE.md`` beside this file says which pattern to take when, draws the races of each, and says how old a value can be
that a reader sees. Every pattern takes functions of the program, ``load`` and ``store``; none knows a database.
"""

from __future__ import annotations

from meshcache.patterns.aio import AsyncCacheAside, AsyncInvalidateOnWrite, AsyncReadThrough, AsyncWriteThrough
from meshcache.patterns.blocking import CacheAside, InvalidateOnWrite, ReadThrough, WriteThrough
from meshcache.patterns.marks import Missing, Write

__all__ = [
    "AsyncCacheAside",
    "AsyncInvalidateOnWrite",
    "AsyncReadThrough",
    "AsyncWriteThrough",
    "CacheAside",
    "InvalidateOnWrite",
    "Missing",
    "ReadThrough",
    "Write",
    "WriteThrough",
]
