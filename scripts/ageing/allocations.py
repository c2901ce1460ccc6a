"""What a process has allocated, as glibc counts it: it tells a leak from memory that is free and not given back.

Each thread allocates in an arena, and an arena keeps what its largest moment needed. So the resident memory of a
program with many threads may grow for hours while what is allocated does not.

A process can tell that of itself alone. So the nodes of a soak have a thread that does (within/sitecustomize.py) and
leaves what it found in a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import threading
from pathlib import Path
from typing import Final

RESIDENT: Final = "resident_bytes"
ALLOCATED: Final = "allocated_bytes"
MEMORY_DIR: Final = "SOAK_MEMORY_DIR"
"""The environment variable that names the directory of such files."""
MEMORY_S: Final = "SOAK_MEMORY_S"
"""The environment variable that says how often they are written."""


def memory_of_this_process() -> dict[str, float]:
    """Return what is allocated, as far as that is known."""
    allocated = allocated_bytes()
    return {} if allocated is None else {ALLOCATED: allocated}


def keep_telling(directory: Path, interval_s: float) -> None:
    """Write this process's memory into the directory again and again, until the directory is gone."""
    file, pause = directory / f"{os.getpid()}.json", threading.Event()
    with contextlib.suppress(OSError):
        while not pause.wait(interval_s):
            part = file.with_suffix(".part")
            part.write_text(json.dumps(memory_of_this_process()), encoding="ascii")
            part.rename(file)


def memory_told(directory: Path, pid: int) -> dict[str, float]:
    """Return what a process has last written of its memory; nothing if it has not."""
    with contextlib.suppress(OSError):
        told: dict[str, float] = json.loads((directory / f"{pid}.json").read_text(encoding="ascii"))
        return told
    return {}


def allocated_bytes() -> int | None:
    """Return the bytes that are allocated in all arenas, and in blocks of their own; None if it is another libc."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_info") or not hasattr(libc, "open_memstream"):
        return None
    libc.open_memstream.restype = ctypes.c_void_p
    text, size = ctypes.c_char_p(), ctypes.c_size_t()
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(size)))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    told = (text.value or b"").decode()
    libc.free(text)
    _, _, total = told.rpartition("</heap>")
    free = sum(int(each) for each in re.findall(r'<total type="(?:fast|rest)" count="\d+" size="(\d+)"', total))
    taken = re.search(r'<system type="current" size="(\d+)"', total)
    mapped = re.search(r'<total type="mmap" count="\d+" size="(\d+)"', total)
    return int(taken[1]) - free + int(mapped[1]) if taken and mapped else None
