"""A pattern is a flow, written once; two drivers carry it out, one that blocks and one for asyncio.

A flow is a generator that yields steps and is sent their results, or thrown their errors::

    a function of no argument   call it; the asyncio driver awaits what it returns, if that can be awaited
    a Future                    wait for its result
    a number                    pause for this many seconds

So ``yield lambda: cache.get(key)`` is right for both Client and AsyncClient, and ``yield lambda: load(key)`` for a
plain function and, under asyncio, for a coroutine function.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

Step = Callable[[], Any] | Future[Any] | float
T = TypeVar("T")
Flow = Generator[Step, Any, T]


def run(flow: Flow[T]) -> T:
    """Carry out a flow in the thread of the caller."""
    advance: Callable[[], Step] = partial(flow.send, None)
    while True:
        try:
            step = advance()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # what the flow returns
        try:
            answer: Any = None
            if isinstance(step, Future):
                answer = step.result()
            elif callable(step):
                answer = step()
            else:
                time.sleep(step)
        except BaseException as error:  # noqa: BLE001  (the flow decides what becomes of it)
            advance = partial(flow.throw, error)
        else:
            advance = partial(flow.send, answer)


async def run_async(flow: Flow[T]) -> T:
    """Carry out a flow as a task of the running loop."""
    advance: Callable[[], Step] = partial(flow.send, None)
    while True:
        try:
            step = advance()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # what the flow returns
        try:
            answer: Any = None
            if isinstance(step, Future):
                answer = await asyncio.wrap_future(step)
            elif callable(step):
                answer = step()
                if inspect.isawaitable(answer):
                    answer = await answer
            else:
                await asyncio.sleep(step)
        except BaseException as error:  # noqa: BLE001  (the flow decides what becomes of it, cancellation included)
            advance = partial(flow.throw, error)
        else:
            advance = partial(flow.send, answer)


def must_not_be_coroutine(**functions: object) -> None:
    """Refuse coroutine functions where nothing would await them."""
    for name, function in functions.items():
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004  (not whether, but what)
            raise TypeError(f"{name} is a coroutine function: use the class of the same name that begins with Async")
