"""What a client does without the cache while the cache fails, so that a program can go on.

There are two ways, both chosen by ``on_error``. ``"load"`` is the default of ``get_or_set`` and ``cached``: the
caller's loader runs, and its result is returned, but stored nowhere. ``"miss"`` is an option of a client and off by
default: plain reads find nothing. Neither hides a mistake (a key or a value that no cache takes, another cluster, a
refusal), an error of the loader, or that others are still computing. And no write, counter, compare-and-set or lock is
ever reported as done when it was not. The backends of frameworks may give writes up, where their users chose that.

Every such case is counted, and logged when it begins and once a minute while it lasts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Literal

from meshcache.errors import NodeUnavailable, OperationTimeout, Overloaded, ProtocolError, QuorumNotReached

LOG_EVERY_S: Final = 60.0

OUTAGES: Final = (NodeUnavailable, OperationTimeout, Overloaded, ProtocolError, QuorumNotReached)
"""The errors that mean that the cache fails, and not its caller."""

OnError = Literal["raise", "load"]
OnReadError = Literal["raise", "miss"]

_log = logging.getLogger(__name__)


class Fallbacks:
    """Counts of what a client, and all clients derived from it, did without the cache.

    Threads share it without a lock: adding to a count is one step of the interpreter.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.loads = 0
        """How many loaders ran because the cache failed; their results were not stored."""
        self.misses = 0
        """How many reads found nothing because the cache failed; each key of a batch counts."""
        self.writes = 0
        """How many writes a backend in ``meshcache/integrations`` gave up because the cache failed."""
        self.last_error: Exception | None = None
        """The latest error of the cache."""
        self._clock = clock
        self._log_at = -float("inf")
        self._logged = (0, 0, 0)

    def count(self, error: Exception, *, loads: int = 0, misses: int = 0, writes: int = 0) -> None:
        """Count that the cache failed, and what was done instead."""
        self.loads += loads
        self.misses += misses
        self.writes += writes
        self.last_error = error.with_traceback(None)  # a traceback would keep the caller's variables alive
        now = self._clock()
        if now >= self._log_at:
            self._log_at = now + LOG_EVERY_S
            before, self._logged = self._logged, (self.loads, self.misses, self.writes)
            _log.warning(
                "the cache fails, and the program goes on without it: %d loaders ran, %d reads found nothing and "
                "%d writes were given up since the last such line; the latest error: %s",
                self.loads - before[0],
                self.misses - before[1],
                self.writes - before[2],
                error,
            )

    def __repr__(self) -> str:
        counts = f"{self.loads} loads, {self.misses} misses, {self.writes} writes"
        return f"<Fallbacks: {counts}, last error: {self.last_error!r:.200}>"


def loads_on_error(on_error: object) -> bool:
    """Read the argument of ``get_or_set``; return True if the loader is to run when the cache fails."""
    if on_error not in {"raise", "load"}:
        raise ValueError(f'on_error must be "load" or "raise", is {on_error!r:.80}')
    return on_error == "load"


def misses_on_error(on_error: Any) -> bool:
    """Read the option of a client; return True if a plain read is to find nothing when the cache fails."""
    if on_error not in {"raise", "miss"}:
        also = '; "load" is for get_or_set and cached, where it is the default' if on_error == "load" else ""
        raise ValueError(f'on_error must be "raise" or "miss", is {on_error!r:.80}{also}')
    return bool(on_error == "miss")
