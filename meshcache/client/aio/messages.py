"""The messages of the asyncio driver: what is sent to one node in one turn, and the futures of those who wait for it.

There are two kinds: of calls, which flows have made, and of attempts on the fast path. They are
queued, sent, watched and failed in the same way. An attempt message that does not come to what is usual becomes one of
calls: its callers go on with their flows.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import accumulate
from typing import Any, Final

from meshcache.client.aio.pending import Gathering, Pending
from meshcache.client.connection import CALLS_MAX, FAIR_SHARE, Attempt, Batch, Connection, Outcome, Tried
from meshcache.client.fast_path import GET, SMALL_KEYS
from meshcache.protocol.messages import Get

_KEYS_AT: Final = 3
"""Where an attempt's fields have the list of its keys; in a SET the list of its values follows."""


class Message:
    """A message that is being filled, waits or is under way, and the futures of its calls."""

    __slots__ = ("batch", "deadline", "futures", "key", "line", "sent_at", "waits_since")

    def __init__(self, batch: Batch, future: asyncio.Future[Outcome], key: tuple[Any, ...] = ()) -> None:
        """``key``: what calls must have in common to join it."""
        self.batch = batch
        self.key = key
        self.futures = [future]
        self.line = int(batch.may_be_parked)
        self.waits_since = 0.0
        """Since when it has waited for a connection, in attended time."""
        self.sent_at = self.deadline = 0.0
        """When the attempt was sent, and its deadline."""

    def write(self, connection: Connection, now: float) -> tuple[int, bytes | None]:
        """Return the number and the frame of an attempt that is sent now. Raises what a faulty field causes."""
        call = self.batch.whole()
        self.sent_at, self.deadline = now, call.deadline(now)
        return connection.encode(call, self.deadline)

    def shut(self) -> None:
        """Let nothing join any more: calls join only what the connection has open."""

    @property
    def until(self) -> float:
        """The earliest deadline of all its calls."""
        return self.batch.until

    @property
    def allowance_s(self) -> float:
        """The time that an attempt may take; it is equal for all calls of a message."""
        return self.batch.calls[0].allowance_s

    def is_wanted(self) -> bool:
        """Tell whether anybody still waits for it: callers may have been cancelled while it was queued."""
        return not (self.futures[0].done() and all(future.done() for future in self.futures))

    def parted(self, now: float) -> tuple[Message | None, Message | None]:
        """Return the calls for which hardly any time is left, and the others, each as a message."""
        soon = now + FAIR_SHARE * self.allowance_s
        if self.until >= soon:
            return None, self
        parts: dict[bool, Message] = {}
        for call, future in zip(self.batch.calls, self.futures, strict=True):
            part = parts.get(call.until < soon)
            if part is None:
                parts[call.until < soon] = Message(Batch(call), future, self.key)
            else:
                part.batch.join(call, sys.maxsize)
                part.futures.append(future)
        return parts.get(True), parts.get(False)

    def is_fair(self) -> bool:
        """Tell whether the node had time enough to answer."""
        return self.until - self.sent_at >= FAIR_SHARE * self.allowance_s

    def deliver(self, outcome: Outcome | None) -> list[Any]:
        """Give each caller its part of the outcome, except callers that were cancelled; return whom to wake."""
        assert outcome is not None
        for future, part in zip(self.futures, self.batch.split(outcome), strict=True):
            if not future.done():
                future.set_result(part)  # of asyncio, which wakes them
        return []


class AttemptMessage:
    """Attempts of one kind and equal options that are sent as one message."""

    __slots__ = ("_answers", "_batch", "_is_of_gets", "_unique", "_values", "deadline", "first", "gathering", "key",
                 "line", "sent_at", "until", "waits_since")  # fmt: skip

    def __init__(self, first: Attempt, loop: asyncio.AbstractEventLoop, key: tuple[Any, ...] = ()) -> None:
        """``first``: what it is begun for, which is still to join; ``key``: what attempts must have in common to join.

        Single gets also join its ``gathering`` by themselves; they all are later than the one that began with it.
        """
        self.first = first
        self.gathering = Gathering(loop)
        self.key = key
        self.line = 0
        self.waits_since = self.sent_at = self.deadline = 0.0
        self.until = first.until
        """The earliest deadline of all its attempts: the message must not be executed later."""
        self._answers: list[Any] | None = None
        self._batch: Batch | None = None
        self._is_of_gets = True
        """Whether each attempt is to get one value."""
        self._values: list[Any] | None = None
        self._unique: set[Any] | None = None
        if first.operation.kind is not Get:
            self._values = []
            self._unique = set()  # as in a batch: of one turn, only one change of a key can win

    @property
    def futures(self) -> list[Any]:
        """Those who wait for it."""
        return self.gathering.waiting  # type: ignore[no-any-return]  # either of two kinds

    @property
    def attempts(self) -> list[Attempt]:
        """All attempts that have joined."""
        return [_attempt_of(pending, self.first.address) for pending in self.futures]

    def has_room(self, keys_count: int) -> bool:
        """Tell whether an attempt for so many keys can join."""
        keys, waiting = self.gathering.keys, self.gathering.waiting
        return self.gathering.is_open and len(waiting) < CALLS_MAX and len(keys) + keys_count <= SMALL_KEYS

    def join(self, attempt: Attempt, pending: Pending) -> bool:
        """Take an attempt in, if there is room and it was not made calls yet; return whether it was."""
        keys, unique = attempt.keys, self._unique
        if not self.has_room(len(keys)):
            return False
        if unique is not None and self._values is not None:
            if not unique.isdisjoint(keys):
                return False
            unique.update(keys)
            self._values += attempt.fields[_KEYS_AT + 1]
        self.gathering.keys.extend(keys)
        self.gathering.waiting.append(pending)
        self._is_of_gets = self._is_of_gets and attempt.operation is GET
        self.until = min(self.until, attempt.until)
        return True

    def shut(self) -> None:
        """Let nothing join any more."""
        self.gathering.is_open = False

    @property
    def allowance_s(self) -> float:
        """The time that an attempt may take; it is equal for all of a message."""
        return self.first.allowance_s

    @property
    def batch(self) -> Batch:
        """The same as calls; once this was asked for, no attempt joins any more."""
        if self._batch is None:
            self.shut()
            calls = [attempt.call() for attempt in self.attempts]
            self._batch = batch = Batch(calls[0])
            batch.calls, batch.count, batch.until = calls, len(self.gathering.keys), self.until
        return self._batch

    def write(self, connection: Connection, now: float) -> tuple[int, bytes | None]:
        """Return the number and the frame of an attempt that is sent now; no frame if anything about it is unusual."""
        first = self.first
        self.sent_at, self.deadline = now, min(now + first.allowance_s, self.until)
        fields = [*first.fields]
        fields[_KEYS_AT] = self.gathering.keys
        if self._values is not None:
            fields[_KEYS_AT + 1] = self._values
        return connection.write(first._replace(fields=tuple(fields)), self.deadline)

    def take(self, values: list[Any] | None) -> bool:
        """Take in what a reply had for the keys, None if it stored them; return whether that is a usual answer."""
        if self._values is not None:
            self._answers = None if values is not None else [True] * len(self.futures)
        elif values is None or len(values) != len(self.gathering.keys):
            self._answers = None
        elif self._is_of_gets:
            self._answers = values
        else:
            attempts = self.attempts
            ends = list(accumulate([len(attempt.keys) for attempt in attempts]))
            parts = [values[end - len(attempt.keys) : end] for attempt, end in zip(attempts, ends, strict=True)]
            self._answers = [
                part[0] if attempt.operation is GET else part for attempt, part in zip(attempts, parts, strict=True)
            ]
        return self._answers is not None

    def is_wanted(self) -> bool:
        """Tell whether anybody still waits for it."""
        futures = self.futures
        return not (futures[0].done() and all(future.done() for future in futures))

    def parted(self, now: float) -> tuple[AttemptMessage | None, AttemptMessage | None]:
        """Return the attempts for which hardly any time is left, and the others, each as a message."""
        soon = now + FAIR_SHARE * self.allowance_s
        if self.until >= soon:
            return None, self
        parts: dict[bool, AttemptMessage] = {}
        for attempt, pending in zip(self.attempts, self.futures, strict=True):
            is_late = attempt.until < soon
            if is_late not in parts:
                first = attempt._replace(fields=self.first.fields)
                parts[is_late] = AttemptMessage(first, self.gathering.loop, self.key)
            parts[is_late].join(attempt, pending)
        return parts.get(True), parts.get(False)

    def is_fair(self) -> bool:
        """Tell whether the node had time enough to answer."""
        return self.until - self.sent_at >= FAIR_SHARE * self.allowance_s

    def deliver(self, outcome: Outcome | None) -> list[Any]:
        """Give each caller its value, or list of values; or else what came of its attempt, None if it was not sent.

        Returns whom to wake.
        """
        answers = self._answers
        if answers is None:
            answers = [Tried(pending.started) for pending in self.futures]
            if outcome is not None:
                batch = self.batch
                for tried, call, part in zip(answers, batch.calls, batch.split(outcome), strict=True):
                    tried.made.append((call, range(len(call.request.keys)), part))
        return self.gathering.tell(answers)  # type: ignore[no-any-return]  # either of two kinds


def _attempt_of(pending: Any, address: str) -> Attempt:
    """Return the attempt for which somebody waits. Equal ones are made only where one of them is looked at."""
    attempt: Attempt = pending.attempt
    if pending.key is None:
        return attempt
    started = pending.started
    return attempt._replace(address=address, started=started, until=started + attempt.until, keys=[pending.key])


def rest_of(attempts: list[Attempt], answers: list[Any]) -> tuple[list[Any], Tried]:
    """Return the keys of the attempts that did not come to what is usual, and what came of them."""
    keys: list[Any] = []
    rest = Tried(attempts[0].started)
    for attempt, answer in zip(attempts, answers, strict=True):
        if isinstance(answer, Tried):
            places = range(len(keys), len(keys) + len(attempt.keys))
            rest.made += [(call, places, outcome) for call, _, outcome in answer.made]
            keys += attempt.keys
    return keys, rest
