"""What a node tells of the process and the machine it runs in: versions, memory, descriptors, the system's clock."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import resource
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import zmq

from meshcache import _native
from meshcache.node.memory import resident_bytes


@functools.cache
def _versions() -> dict[str, str]:
    """What does not change while the process runs."""
    try:
        version = metadata.version("meshcache")
    except metadata.PackageNotFoundError:  # run from its source, without being installed
        version = "not installed"
    return {
        "meshcache": version,
        "python": platform.python_version(),
        "pyzmq": zmq.pyzmq_version(),
        "libzmq": zmq.zmq_version(),
        "system": f"{platform.system()} {platform.release()}",
        "hot_path": _native.describe(),
    }


def build() -> dict[str, str]:
    """Return the versions that run, as labels of a metric."""
    versions = _versions()
    hot_path = "pure Python" if _native.absent_because else "native"
    named = {name: versions[name] for name in ("python", "pyzmq", "libzmq")}
    return {"version": versions["meshcache"], **named, "hot_path": hot_path}


def host_facts() -> dict[str, Any]:
    """Return plain facts, as they are now. Asked for by an inspection: costs less than a millisecond."""
    return {
        **_versions(),
        "pid": os.getpid(),
        "wall_ms": int(time.time() * 1000),
        "resident_bytes": resident_bytes(),
        **_memory(),
        "files_open": _files_open(),
        "files_max": _files_max(),
    }


def _memory() -> dict[str, int]:
    """Return what the machine has of memory, and what is available of it; nothing where the system does not say."""
    found = {}
    with contextlib.suppress(OSError, ValueError), Path("/proc/meminfo").open(encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in {"MemTotal", "MemAvailable"}:
                found["memory_bytes" if name == "MemTotal" else "memory_available_bytes"] = int(rest.split()[0]) * 1024
            if len(found) == 2:
                break
    return found


def _files_open() -> int | None:
    """Return how many descriptors are open; None where the system does not say."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (a number, not paths)
    except OSError:
        return None


def _files_max() -> int | None:
    """Return how many descriptors the process may have; None: any number."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
