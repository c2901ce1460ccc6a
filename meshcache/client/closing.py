"""Closing what a client holds, when the client is closed or collected."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable


class Closing:
    """Calls ``close`` once: when it is called itself, or when ``owner`` is collected.

    ``weakref.finalize`` would also do so as the program begins to end, and never after that. But a function that was
    registered with ``atexit`` before the client was made is called only then, and may still use the client. Clients
    that are open to the very end are collected when the interpreter takes its modules apart. ``close`` must not refer
    to ``owner``, which would then never be collected.
    """

    def __init__(self, owner: object, close: Callable[[], object]) -> None:
        self._close = close
        self._owner = weakref.ref(owner, self._on_collected)
        _open.add(self)

    def __call__(self) -> None:
        """Close, unless that is done."""
        if self.detach():
            self._close()

    def detach(self) -> bool:
        """Never close, as after a fork: it is the parent's. False if it was closed or detached before."""
        if self not in _open:
            return False
        _open.discard(self)
        return True

    def _on_collected(self, _: object) -> None:
        # What is needed to close may be gone already, when the interpreter takes itself apart.
        with contextlib.suppress(Exception) if sys.is_finalizing() else contextlib.nullcontext():
            self()


_open: set[Closing] = set()
"""Keeps the references alive that tell of an owner's end."""
