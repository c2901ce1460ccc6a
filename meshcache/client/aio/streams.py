"""The asyncio driver of the invalidation streams: a SUB socket that the event loop reads, as it does in connections.py.

Reception begins when a near cache is first used or a subscription is made; then a timer of 0.1 s runs until the client
or its loop is closed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import weakref
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import zmq

from meshcache.client.aio.dialling import reached
from meshcache.client.closing import Closing
from meshcache.client.connection import Call, Outcome
from meshcache.client.streams import TICK_S, StreamIntake, weak_call
from meshcache.client.subscription import Feed, Invalidation
from meshcache.durations import Timeout, waiting_s
from meshcache.errors import ClientClosed, NodeUnavailable, OperationTimeout
from meshcache.sockets.dealer import state_of
from meshcache.sockets.dialling import numeric
from meshcache.sockets.subscriber import Subscriber

FRAMES_PER_TURN: Final = 256
RESOLVE_AGAIN_S: Final = 1.0

_log = logging.getLogger(__name__)

Post = Callable[[Call], Awaitable[Outcome]]


class _LoopReceiver:
    """The socket in one event loop. It refers to nothing that would keep the client alive."""

    def __init__(self, intake: StreamIntake, post: Callable[[], Post | None], changed: asyncio.Event) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.get_running_loop()
        self.changed = changed
        self._intake = intake
        self._post = post
        self._subscriber = Subscriber(key=intake.routing.key)
        self._fd = int(self._subscriber.socket.getsockopt(zmq.FD))
        self._retry_at: dict[str, float] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._asking = self._closed = False
        self.loop.add_reader(self._fd, self._on_event)
        self._timer = self.loop.call_soon(self._tick)

    def close(self) -> None:
        """Close the socket, if it belongs to this process."""
        if self._closed or self.pid != os.getpid():
            return
        self._closed = True
        if not self.loop.is_closed():
            self._timer.cancel()
            self.loop.remove_reader(self._fd)
            for task in self._tasks:
                task.cancel()
        self._subscriber.close()

    def tick_soon(self) -> None:
        """Run the timer's work now, because something changed."""
        if not self._closed and not self.loop.is_closed():
            self._timer.cancel()
            self._timer = self.loop.call_soon(self._tick)

    def _on_event(self) -> None:
        intake, socket, clock = self._intake, self._subscriber.socket, self._intake.routing.clock
        was_live = intake.live(clock())
        for _ in range(FRAMES_PER_TURN):
            if self._closed or not state_of(socket) & zmq.POLLIN:
                break
            with suppress(zmq.Again):
                intake.receive(socket.recv(zmq.NOBLOCK), clock())
        else:
            self.loop.call_soon(self._on_event)
        if not was_live and intake.live(clock()):
            self.changed.set()

    def _tick(self) -> None:
        if self._closed:
            return
        self._timer = self.loop.call_later(TICK_S, self._tick)
        intake, subscriber = self._intake, self._subscriber
        now = intake.routing.clock()
        calls = intake.tick(now)
        if calls and not self._asking:
            self._asking = True
            self._begin(self._ask(calls[0]))
        for address in intake.to_redial(now):
            subscriber.disconnect(address)
        for address in subscriber.missing(intake.addresses()):
            if now >= self._retry_at.get(address, 0.0):
                self._retry_at[address] = now + RESOLVE_AGAIN_S
                self._begin(self._connect(address))
        self._on_event()
        self.changed.set()

    def _begin(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda _: self._tasks.pop(task, None))

    async def _ask(self, call: Call) -> None:
        post = self._post()
        try:
            if post is not None:
                self._intake.learn(call, await post(call))
        finally:
            self._asking = False

    async def _connect(self, address: str) -> None:
        try:
            found = numeric(address) or await reached(address)
            if not self._closed:
                self._subscriber.connect(address, found)
                self._retry_at.pop(address, None)
                self._on_event()
        except (OSError, ValueError, zmq.ZMQError) as error:
            _log.warning("can not follow the invalidations at %s: %s", address, error)


class AsyncStreamReception:
    """Opens the socket in the running loop when it is needed, and closes it when it is not."""

    def __init__(self, intake: StreamIntake, hub: Any) -> None:
        self.intake = intake
        self._hub = weakref.ref(hub)
        self._receiver: _LoopReceiver | None = None
        self._closing: Closing | None = None
        self._trouble = ""
        """Why the socket could not be opened."""
        self._closed = False
        intake.routing.on_members = weak_call(self._on_members)
        if intake.near is not None:
            intake.near.on_use = weak_call(self.start)
        _receptions.add(self)

    def start(self) -> None:
        """Open the socket, if this loop and process have none; if that fails, the next call tries again."""
        receiver = self._receiver
        if self._closed or (
            receiver is not None and receiver.loop is asyncio.get_running_loop() and receiver.pid == os.getpid()
        ):
            return
        if receiver is not None and self._closing is not None:
            self._closing()
            self.intake.begin_anew()
        self._receiver = self._closing = None
        try:
            self._receiver = _LoopReceiver(self.intake, self._post_of(self._hub), asyncio.Event())
        except OSError as error:
            self._trouble = str(error.strerror or error)
            return
        self._closing = Closing(self, self._receiver.close)

    async def attach(self, feed: Feed, timeout_s: float) -> None:
        """Feed a subscription, and return when it is active.

        Raises OperationTimeout that names the nodes not heard of, and NodeUnavailable if this process cannot open a
        socket.
        """
        if self._closed:
            raise ClientClosed
        intake = self.intake
        clock = intake.routing.clock
        deadline = clock() + timeout_s
        intake.attach(feed)
        self.start()
        if self._receiver is None:
            self.detach(feed)
            raise NodeUnavailable(f"subscribe: {self._trouble}")
        changed = self._receiver.changed
        try:
            while not intake.live(clock()) and clock() < deadline:
                changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(deadline - clock()):
                        await changed.wait()
            feed.standing = intake.live(clock())
            silent = ", ".join(intake.streams.not_live(clock())) or "any node"
        finally:
            if not feed.standing:
                self.detach(feed)
        if not feed.standing:
            raise OperationTimeout(f"subscribe: not heard of {silent} within {timeout_s:.3g} s")

    def detach(self, feed: Feed) -> None:
        """Stop feeding a subscription; without any, and without a near cache, the socket is closed."""
        self.intake.detach(feed)
        if not self.intake.needed and self._closing is not None:
            self._closing()
            self._receiver = None
            self.intake.begin_anew()

    def close(self) -> None:
        """Close the socket, and end all subscriptions."""
        self._closed = True
        if self._closing is not None:
            self._closing()
        self.intake.end()

    def after_fork(self) -> None:
        """Forget the parent's socket and loop."""
        if self._closing is not None:
            self._closing.detach()
        if self._receiver is not None:
            _inherited.append(self._receiver)
        self._receiver = self._closing = None
        if self.intake.near is not None:
            self.intake.near.after_fork(nullcontext())
        self.intake.begin_anew()

    @staticmethod
    def _post_of(hub: weakref.ref[Any]) -> Callable[[], Post | None]:
        def find() -> Post | None:
            found = hub()
            return None if found is None else found.post

        return find

    def _on_members(self) -> None:
        self.intake.on_members()
        if self._receiver is not None:
            self._receiver.tick_soon()


class AsyncSubscription:
    """A subscription: ``async with cache.subscribe(…) as events: async for event in events: …``.

    It is active when ``async with`` enters its body. Iteration ends when the subscription or its client is closed.
    """

    def __init__(
        self,
        reception: AsyncStreamReception,
        namespace: bytes,
        prefix: bytes,
        prepare: Callable[[], Awaitable[float]],
        callback: Callable[[Invalidation], object] | None,
    ) -> None:
        self.feed = Feed(namespace, prefix, self._wake)
        self._reception = reception
        self._prepare = prepare
        self._callback = callback
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, timeout: Timeout | None = None) -> Invalidation | None:  # noqa: ASYNC109  (as of every call)
        """Return the next event; None if none came within ``timeout`` seconds, or the subscription is closed."""
        queue = self.feed.queue
        try:
            async with asyncio.timeout(waiting_s(timeout)):
                while not queue:
                    if self.feed.closed:
                        return None
                    self._ready.clear()
                    await self._ready.wait()
        except TimeoutError:
            return None
        return queue.popleft()

    def close(self) -> None:
        """End the subscription."""
        self._reception.detach(self.feed)
        self.feed.close()

    def _wake(self) -> None:
        self._ready.set()

    async def _call(self, callback: Callable[[Invalidation], object]) -> None:
        task = asyncio.current_task()
        async for event in self:
            try:
                answer = callback(event)
                if inspect.isawaitable(answer):
                    await answer
            except (Exception, asyncio.CancelledError) as error:
                if task is None or task.cancelling():  # the subscription is being closed
                    raise
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a subscription's callback failed", "exception": error, "task": task}
                )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a subscription can not be pickled or copied: pickle the client, and subscribe there")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Invalidation:
        event = await self.wait()
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        await self._reception.attach(self.feed, await self._prepare())
        if self._callback is not None:
            self._task = asyncio.create_task(self._call(self._callback))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._task is not None:
            self._task.cancel()


_inherited: list[_LoopReceiver] = []
"""Inherited over a fork: socket and loop are the parent's, and must not be collected here."""

_receptions: weakref.WeakSet[AsyncStreamReception] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for reception in list(_receptions):
        reception.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
