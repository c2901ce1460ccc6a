"""Messages of the asyncio client: who may join one, and that every caller gets its own part of what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from meshcache.client.aio.messages import AttemptMessage
from meshcache.client.aio.pending import Pending
from meshcache.client.connection import Attempt, Tried
from meshcache.client.failure import CONNECTION_LOST
from meshcache.client.fast_path import GET


def attempt(key: str, until: float = 5.0) -> Attempt:
    fields = (0, 0, b"", [key], 1000)
    return Attempt(GET, "127.0.0.1:7101", 0.0, until, 0.25, [key], range(1), fields, (None,))


def pending(loop: asyncio.AbstractEventLoop, key: str) -> Any:
    return Pending(loop, attempt(key), None, 0.0)


def in_loop(run: Callable[[asyncio.AbstractEventLoop], None]) -> None:
    async def main() -> None:
        run(asyncio.get_running_loop())

    asyncio.run(main())


def test_no_attempt_joins_a_message_that_was_made_calls() -> None:
    def run(loop: asyncio.AbstractEventLoop) -> None:
        message = AttemptMessage(attempt("a"), loop)
        joined = [pending(loop, "a"), pending(loop, "b")]
        assert message.join(attempt("a"), joined[0])
        assert message.join(attempt("b"), joined[1])
        assert len(message.batch.calls) == 2
        late = pending(loop, "c")
        assert not message.join(attempt("c"), late)
        assert not late.done()
        assert message.deliver(CONNECTION_LOST) == joined
        tried = [each.result() for each in joined]
        assert [len(each.made) for each in tried if isinstance(each, Tried)] == [1, 1]

    in_loop(run)


def test_to_look_at_the_deadline_of_a_message_does_not_close_it() -> None:
    """A timer looks at what is queued while the turn that fills it is not over."""

    def run(loop: asyncio.AbstractEventLoop) -> None:
        message = AttemptMessage(attempt("a"), loop)
        joined = [pending(loop, "a"), pending(loop, "b")]
        assert message.join(attempt("a"), joined[0])
        assert (message.until, message.allowance_s) == (5.0, 0.25)
        assert message.join(attempt("b", until=4.0), joined[1])
        assert message.until == 4.0
        assert message.batch.until == 4.0
        message.deliver(CONNECTION_LOST)
        assert all(isinstance(each.result(), Tried) for each in joined)

    in_loop(run)
