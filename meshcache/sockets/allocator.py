"""What glibc's allocator does with the memory of large frames, and how it is brought to keep some.

A frame or value of more than glibc's *mmap threshold*, 128 KiB at first, is mapped by itself and given back when it is
freed; and free memory at the end of a heap is given back beyond the *trim threshold*. So each large reply is made of
pages that the kernel must find and clear anew: two thirds of the CPU time that a client spends on reading 1 MB values.

glibc has a cure that needs no setting: when a mapped block of up to 32 MiB is freed, it raises the first threshold to
that block's size and the second to twice that, since blocks of this size seem to come and go (``man 3 mallopt``). Where
a program has only blocks of 1 to 10 MB it stays just too low for all of those that one call needs at once. So one block
of ``SPARE_BLOCK_BYTES`` is allocated and freed, never written to, when the first large frame is seen: not before, so
that a program with small values is left alone. A program that has chosen thresholds of its own, by ``mallopt`` or its
environment, keeps them, and other allocators do not care.

What is retained: at the end of each heap no more than was once in use, and at most twice ``SPARE_BLOCK_BYTES``. The
main thread has a heap, libzmq's thread has one, and so may other threads that read large values: glibc makes 8 for each
core at most.
"""

from __future__ import annotations

from typing import Final

LARGE_FRAME_BYTES: Final = 1 << 16
"""From this size on, a frame is handled as a large one."""
SPARE_BLOCK_BYTES: Final = 16 << 20

_told: list[bool] = []
"""Not empty when the allocator has been told; a process needs that once, and a forked child inherits it."""


def expect_large_blocks() -> None:
    """Have glibc keep the memory of blocks of up to ``SPARE_BLOCK_BYTES`` for the next ones."""
    if not _told:
        _told.append(True)
        bytes(SPARE_BLOCK_BYTES)  # of zeros, which calloc gets from the kernel without touching them
