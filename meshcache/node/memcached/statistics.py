"""The answers to ``stats``: what a client of memcached asks, by the names that memcached has for it."""

from __future__ import annotations

import os
from typing import Any, Final

from meshcache.config import MemcachedSettings
from meshcache.core.counters import MemcachedCounters
from meshcache.core.node import NodeCore
from meshcache.protocol.memcached.commands import ERROR
from meshcache.protocol.memcached.grammar import KEY_BYTES_MAX, VERSION

_END: Final = b"END\r\n"


def statistics(about: bytes, core: NodeCore, counters: MemcachedCounters, settings: MemcachedSettings) -> bytes:
    """Return the lines about something; all figures are this node's own."""
    if about == b"":
        told = _general(core, counters)
    elif about == b"settings":
        told = _settings(core, settings)
    elif about == b"items":
        told = _items(core)
    elif about == b"slabs":
        told = {"active_slabs": 0, "total_malloced": core.store.statistics().bytes}
    elif about in {b"sizes", b"conns"}:
        told = {}
    else:
        return ERROR
    return b"".join([f"STAT {name} {value}\r\n".encode() for name, value in told.items()]) + _END


def _general(core: NodeCore, counters: MemcachedCounters) -> dict[str, Any]:
    held, instant, kinds = core.store.statistics(), core.coordinator.instant, core.counters.requests_by_kind
    return {
        "pid": os.getpid(),
        "uptime": (instant.wall_ms - (core.boot >> 16)) // 1000,
        "time": instant.wall_ms // 1000,
        "version": VERSION.decode(),
        "pointer_size": 64,
        "max_connections": core.config.memcached.connections_max,
        "curr_connections": counters.connections,
        "total_connections": counters.accepted,
        "rejected_connections": counters.refused,
        "cmd_get": kinds.answered["Get"],
        "cmd_set": kinds.answered["Set"],
        "get_hits": held.hits,
        "get_misses": held.misses,
        "auth_errors": counters.unauthenticated,
        "bytes_read": counters.in_bytes,
        "bytes_written": counters.out_bytes,
        "limit_maxbytes": core.config.store.max_bytes,
        "threads": 1,
        "bytes": held.bytes,
        "curr_items": held.entries,
        "evictions": held.evictions,
        "expired_unfetched": held.expirations,
        "meshcache_node_id": core.config.node.node_id,
        "meshcache_commands": counters.commands,
        "meshcache_errors": counters.errors,
    }


def _settings(core: NodeCore, settings: MemcachedSettings) -> dict[str, Any]:
    return {
        "maxbytes": core.config.store.max_bytes,
        "maxconns": settings.connections_max,
        "tcpport": settings.listen.rpartition(":")[2],
        "inter": settings.listen.rpartition(":")[0],
        "evictions": "on",
        "cas_enabled": "yes",
        "auth_enabled_ascii": "yes" if settings.password_file else "no",
        "item_size_max": core.config.limits.value_bytes_max,
        "key_size_max": KEY_BYTES_MAX,
        "flush_enabled": "yes",
        "dump_enabled": "no",
        "lru_crawler": "no",
    }


def _items(core: NodeCore) -> dict[str, Any]:
    held = core.store.statistics()
    return {"items:1:number": held.entries, "items:1:evicted": held.evictions} if held.entries else {}
