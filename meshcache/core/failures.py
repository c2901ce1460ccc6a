"""Failures of one message, one operation or one connection, which stop nothing else.

Failures are counted by kind. Now and then the log is told of a kind: where the message came from, what was raised and
where, and how many failures of that kind there were since the last line.

A message that arrives passes its checks, wire.py (is it well formed), access.py (may its sender ask for that, where
nodes have keys) and claims.py (can it be true by now), and then goes to its handler. An error that a handler raises, or
an answer that cannot be encoded, concerns that one message only: the message is dropped, counted by kind and logged now
and then, its sender gets no answer, and the node goes on serving. An operation that fails ends unanswered, as if its
answers had been lost. A request without an answer may or may not have been executed, so a handler that broke off half
way has promised nothing.

The other kind of error is an ``AssertionError``: this node's own state contradicts itself. It is not caught; it ends
the process, which then starts anew and pulls from others what it held. So after every failure the state is checked
(invariants.py), because a change that was left half done must not be served. And errors in what the node does by
itself, housekeeping and following its members, are not caught at all, because then no message is the cause.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LOG_EVERY_S: Final = 10.0
KINDS_MAX: Final = 256


class Failures:
    """The failures of one node, by kind."""

    def __init__(self, note: Callable[..., None], counts: dict[str, int]) -> None:
        self.counts = counts
        self._note = note
        self._told: dict[str, tuple[float, int]] = {}
        """By kind: when it was last logged, and how many failures there were by then."""

    def add(self, kind: str, origin: object, error: Exception, now: float) -> None:
        """Count a failure, and log it if its kind was not logged for a while."""
        if kind not in self.counts and len(self.counts) >= KINDS_MAX:
            kind = "others"
        count = self.counts[kind] = self.counts.get(kind, 0) + 1
        told_at, told = self._told.get(kind, (-LOG_EVERY_S, 0))
        if now - told_at < LOG_EVERY_S:
            return
        self._told[kind] = now, count
        origin = origin.hex() if isinstance(origin, bytes) else origin
        text = f"{type(error).__name__}: {error}"
        self._note("failed", kind=kind, origin=origin, error=text[:300], at=_place(error), more=count - told - 1)


def _place(error: Exception) -> str:
    """Return where something was raised: file and line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
