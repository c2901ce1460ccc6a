"""The time and the random numbers of a simulation: a heap of actions, one generator, and a digest of all events.

Two runs of one seed must be the same to the last event. So everything is decided by ``rng`` and by the order of the
heap, where actions of equal times are run in the order in which they were added. The digest covers every event: two
runs that differ anywhere have different digests.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import Any

from meshcache.core.membership.members import State
from meshcache.errors import ProtocolError
from meshcache.protocol.messages import Ack, Invalidations, Ping
from meshcache.protocol.wire import decode_frame


class World:
    """What all parts of one simulation share."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.events = 0
        self.faults: dict[str, int] = {}
        """How often each fault has happened, by its name in faults.py."""
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._digest = hashlib.sha256()
        self._trace = trace

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        """Do something at a time; if that is over, do it next."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(when, self.now), self._sequence, action, arguments))

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Do something after a delay."""
        self.at(self.now + delay_s, action, *arguments)

    def run_until(self, when: float) -> None:
        """Let time pass."""
        heap = self._heap
        while heap and heap[0][0] <= when:
            self.now, _, action, arguments = heapq.heappop(heap)
            self.events += 1
            action(*arguments)
        self.now = max(self.now, when)

    def run_until_true(self, condition: Callable[[], bool], *, within_s: float, step_s: float = 0.01) -> bool:
        """Let time pass until a condition holds; return False if it did not in time."""
        deadline = self.now + within_s
        while not condition():
            if self.now >= deadline:
                return False
            self.run_until(self.now + step_s)
        return True

    @property
    def digest(self) -> str:
        """The digest of what happened so far; it is equal for equal runs."""
        return self._digest.hexdigest()

    def note(self, text: str) -> None:
        """Add an event to the trace."""
        self._digest.update(f"{self.now:.7f} {text}\n".encode())
        if self._trace is not None:
            self._trace(f"{self.now:10.6f}  {text}")

    def tally(self, fault: str) -> None:
        """Count a fault that the trace shows already, by the mark on a frame or by a host's line."""
        self.faults[fault] = self.faults.get(fault, 0) + 1

    def strike(self, fault: str, text: str = "") -> None:
        """Count a fault, and add it to the trace."""
        self.tally(fault)
        self.note(f"fault: {fault} {text}".rstrip())

    def note_frame(self, what: str, frame: bytes) -> None:
        """Add a frame under way to the trace."""
        self._digest.update(f"{self.now:.7f} {what} ".encode())
        self._digest.update(frame)
        if self._trace is not None:
            self._trace_frame(what, frame)

    def _trace_frame(self, what: str, frame: bytes) -> None:
        assert self._trace is not None
        try:
            messages = decode_frame(frame)[1]
        except ProtocolError as error:
            self._trace(f"{self.now:10.6f}  {what}: {error}")
            return
        for message in messages:
            if isinstance(message, Invalidations) or (isinstance(message, Ping | Ack) and not message.rumours):
                continue
            fields = ", ".join(
                f"{name}={_brief(value)}"
                for name, value in zip(message._fields, message, strict=True)
                if name not in {"boot", "view", "settings"}
            )
            self._trace(f"{self.now:10.6f}  {what}  {type(message).__name__}({fields})")


def _brief(value: Any) -> str:
    """Return a field as people read it: of a record its version and content, of a fact the node and its state."""
    if isinstance(value, tuple) and hasattr(value, "incarnation"):
        return f"<{value[0]} {State(value[9]).name.lower()} @{value[8] % 10_000_000}>"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_brief, value)) + "]"
    if isinstance(value, bytes) and len(value) >= 24:
        kind = "deleted" if value[22] & 1 else repr(value[24:60])
        return f"<{value[2:8].hex()}.{value[14:16].hex()} {kind}>"
    return repr(value)
