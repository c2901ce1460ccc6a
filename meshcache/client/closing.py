"""Closing what a client holds, when the client is closed or collected."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable


class Closing:
    """Calls ``close`` once: when it is called itself, or when ``owner`` is collected.

    ``weakref.finalize`` would also do so as the program begins to end, and never after that. But a function that was
    registered with ``atexit`` before the client was made is called after that, and may still use the client. A client
    that stays open to the end is collected when the interpreter clears its modules. ``close`` must not refer to
    ``owner``, which would then never be collected.
    """

    def __init__(self, owner: object, close: Callable[[], object]) -> None:
        self._close = close
        self._owner = weakref.ref(owner, self._on_collected)
        _open.add(self)

    def __call__(self) -> None:
        """Close, unless that was done before."""
        if self.detach():
            self._close()

    def detach(self) -> bool:
        """Never close, as after a fork, where the parent has it open.

        Return False if it was closed or detached before.
        """
        if self not in _open:
            return False
        _open.discard(self)
        return True

    def _on_collected(self, _: object) -> None:
        # While the interpreter ends, what ``close`` needs may be gone already.
        with contextlib.suppress(Exception) if sys.is_finalizing() else contextlib.nullcontext():
            self()


_open: set[Closing] = set()
"""Keeps alive the weak references that report the end of an owner."""
