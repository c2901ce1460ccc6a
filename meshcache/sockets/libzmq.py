"""Where the functions of libzmq are, for the native module, which calls the libzmq that pyzmq has loaded."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def addresses(*names: str) -> tuple[int, ...] | None:
    """Return where these functions are; None if that cannot be told.

    Looked up once: each time would leave a class to the garbage collector, and every new connection asks.
    """
    try:
        from zmq.backend.cython import _zmq  # noqa: PLC0415  (pyzmq may have another backend)

        # What is loaded already is only looked up; and names are looked for in what a library was linked with, too.
        library = ctypes.CDLL(_zmq.__file__)
        return tuple(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names)
    except (ImportError, OSError, AttributeError):
        return None
