"""Whom the asyncio driver tells of outcomes, and when: a limited number of callers in one turn of the loop.

Answers, and even more failures, wake tasks that take the loop's time. So what is too much for one turn waits here for
the next. Calls of flows have futures of asyncio, which wake by themselves whom they are told; those who wait for
attempts on the fast path are woken here, all of a message together (pending.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from meshcache.client.aio.messages import AttemptMessage, Message
from meshcache.client.aio.pending import Pending, wake
from meshcache.client.connection import Outcome
from meshcache.client.failure import Failure

CALLS_PER_TURN: Final = 256
"""How many calls get their outcomes in one turn of the loop. Few enough, too, that the objects which are made and freed
for them stay below the garbage collector's threshold of 700: with 10,000 tasks it would walk through everything that
they hold again and again, in half of the time."""

AnyMessage = Message | AttemptMessage


class Outcomes:
    """The outcomes of one loop's messages."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answers: deque[tuple[AnyMessage, Outcome | None]] = deque()
        self._failures: deque[tuple[AnyMessage, Outcome | None]] = deque()
        """Outcomes that wait for the next turn, because this one has woken enough tasks. Failures and answers take
        turns: else many failed calls would be told of that before any call learns that the node is back."""
        self._failure_is_next = False
        self._woken = 0
        """How many calls got their outcomes in this turn."""
        self._told: deque[list[Pending]] = deque()
        """Those who were told what their attempts came to, and were not woken yet."""
        self._is_waking = False
        """Whether they will be, as soon as nothing else is under way here."""

    def deliver(self, message: AnyMessage, outcome: Outcome | None) -> None:
        """Give callers their outcomes; in a later turn if this one has woken enough tasks already."""
        if not self._has_turn(message):
            if not self._has_landed():
                self._loop.call_soon(self._deliver_landed)
            (self._failures if isinstance(outcome, Failure) else self._answers).append((message, outcome))
        else:
            self._give(message, outcome)

    def fail(self, messages: Iterable[AnyMessage], failure: Failure) -> None:
        """Tell callers that they get no answer; when the loop is closed, there are none."""
        if not self._loop.is_closed():
            for message in messages:
                self.deliver(message, failure)

    def begin_turn(self) -> None:
        """Note that this is another turn, and the tasks that were woken before have gone on."""
        if not self._has_landed():
            self._woken = 0

    def take_in(self, receive: Callable[[], object]) -> None:
        """Receive, and have those go on who were told then. Only a callback of the loop may do this, and no task."""
        if self._is_waking:
            receive()
            return
        self._is_waking = True
        try:
            receive()
        finally:
            self._wake()

    def end(self) -> None:
        """Deliver all that waits: no turn is to come."""
        while self._has_landed() and not self._loop.is_closed():
            self._deliver_next()

    def _give(self, message: AnyMessage, outcome: Outcome | None) -> None:
        self._woken += len(message.futures)
        told = message.deliver(outcome)
        if told:
            self._told.append(told)
            if not self._is_waking:
                self._is_waking = True
                self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._is_waking = False
        told = self._told
        while told:
            waiting = told.popleft()
            try:
                wake(waiting)
            except BaseException:  # one of them ends the program, as it says; the others go on if it does not
                told.appendleft(waiting)
                self._is_waking = True
                self._loop.call_soon(self._wake)
                raise

    def _has_landed(self) -> bool:
        return bool(self._answers or self._failures)

    def _deliver_landed(self) -> None:
        self._woken = 0
        while self._has_landed() and self._has_turn(self._next_landed()[0][0]):
            self._deliver_next()
        if self._has_landed():
            self._loop.call_soon(self._deliver_landed)

    def _has_turn(self, message: AnyMessage) -> bool:
        """Tell whether the callers of a message may be woken in this turn: one message may, however many they are."""
        return not self._woken or self._woken + len(message.futures) <= CALLS_PER_TURN

    def _next_landed(self) -> deque[tuple[AnyMessage, Outcome | None]]:
        is_failure = bool(self._failures) and (self._failure_is_next or not self._answers)
        return self._failures if is_failure else self._answers

    def _deliver_next(self) -> None:
        landed = self._next_landed()
        self._failure_is_next = landed is self._answers
        message, outcome = landed.popleft()
        self._give(message, outcome)
