"""What a process has allocated, as glibc counts it: it tells a leak from memory that is free and not given back.

Each thread allocates in an arena, and an arena keeps what its largest moment needed. So the resident memory of a
program with many threads may grow for hours while what is allocated does not.
"""

from __future__ import annotations

import ctypes
import re
from typing import Final

ALLOCATED: Final = "allocated_bytes"


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
