"""The asyncio driver of the invalidation streams: the SUB socket on the loop's readers, as connections.py has its own.

It starts when a near cache is first used or something is subscribed to, and one timer of 0.1 s runs until the client
is closed or its loop is.
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

from meshcache.client.aio.connections import reached
from meshcache.client.closing import Closing
from meshcache.client.connection import Call, Outcome
from meshcache.client.streams import TICK_S, Following, weak_call
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


class _LoopEar:
    """The socket in one event loop. It holds nothing that would keep the client alive."""

    def __init__(self, following: Following, post: Callable[[], Post | None], changed: asyncio.Event) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.get_running_loop()
        self.changed = changed
        self._following = following
        self._post = post
        self._subscriber = Subscriber()
        self._fd = int(self._subscriber.socket.getsockopt(zmq.FD))
        self._retry_at: dict[str, float] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._asking = self._closed = False
        self.loop.add_reader(self._fd, self._on_event)
        self._timer = self.loop.call_soon(self._tick)

    def close(self) -> None:
        """Close the socket, if it is of this process."""
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
        """Look at what changed."""
        if not self._closed and not self.loop.is_closed():
            self._timer.cancel()
            self._timer = self.loop.call_soon(self._tick)

    def _on_event(self) -> None:
        following, socket, clock = self._following, self._subscriber.socket, self._following.routing.clock
        was_live = following.live(clock())
        for _ in range(FRAMES_PER_TURN):
            if self._closed or not state_of(socket) & zmq.POLLIN:
                break
            with suppress(zmq.Again):
                following.receive(socket.recv(zmq.NOBLOCK), clock())
        else:
            self.loop.call_soon(self._on_event)
        if not was_live and following.live(clock()):
            self.changed.set()

    def _tick(self) -> None:
        if self._closed:
            return
        self._timer = self.loop.call_later(TICK_S, self._tick)
        following, subscriber = self._following, self._subscriber
        now = following.routing.clock()
        calls = following.tick(now)
        if calls and not self._asking:
            self._asking = True
            self._begin(self._ask(calls[0]))
        for address in following.to_redial(now):
            subscriber.disconnect(address)
        for address in subscriber.missing(following.addresses()):
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
                self._following.learn(call, await post(call))
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


class AsyncFollower:
    """Opens the socket in the running loop when it is needed, and waits for it."""

    def __init__(self, following: Following, hub: Any) -> None:
        self.following = following
        self._hub = weakref.ref(hub)
        self._ear: _LoopEar | None = None
        self._closing: Closing | None = None
        self._trouble = ""
        """Why the socket could not be opened."""
        self._closed = False
        following.routing.on_members = weak_call(self._on_members)
        if following.near is not None:
            following.near.on_use = weak_call(self.start)
        _everyone.add(self)

    def start(self) -> None:
        """Open the socket, if there is none in this loop and process, and if that can be: else the next call tries."""
        ear = self._ear
        if self._closed or (ear is not None and ear.loop is asyncio.get_running_loop() and ear.pid == os.getpid()):
            return
        if ear is not None and self._closing is not None:
            self._closing()
            self.following.begin_anew()
        self._ear = self._closing = None
        try:
            self._ear = _LoopEar(self.following, self._post_of(self._hub), asyncio.Event())
        except OSError as error:
            self._trouble = str(error.strerror or error)
            return
        self._closing = Closing(self, self._ear.close)

    async def attach(self, feed: Feed, timeout_s: float) -> None:
        """Feed a subscription, and return when it stands.

        Raises OperationTimeout that names the nodes not heard of, and NodeUnavailable if this process can not listen.
        """
        if self._closed:
            raise ClientClosed
        following = self.following
        clock = following.routing.clock
        deadline = clock() + timeout_s
        following.attach(feed)
        self.start()
        if self._ear is None:
            self.detach(feed)
            raise NodeUnavailable(f"subscribe: {self._trouble}")
        changed = self._ear.changed
        try:
            while not following.live(clock()) and clock() < deadline:
                changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(deadline - clock()):
                        await changed.wait()
            feed.standing = following.live(clock())
            silent = ", ".join(following.streams.not_live(clock())) or "any node"
        finally:
            if not feed.standing:
                self.detach(feed)
        if not feed.standing:
            raise OperationTimeout(f"subscribe: not heard of {silent} within {timeout_s:.3g} s")

    def detach(self, feed: Feed) -> None:
        """Feed a subscription no more; without any, and without a near cache, nothing is followed."""
        self.following.detach(feed)
        if not self.following.needed and self._closing is not None:
            self._closing()
            self._ear = None
            self.following.begin_anew()

    def close(self) -> None:
        """Close the socket, and end all subscriptions."""
        self._closed = True
        if self._closing is not None:
            self._closing()
        self.following.end()

    def after_fork(self) -> None:
        """Forget the parent's socket and loop."""
        if self._closing is not None:
            self._closing.detach()
        if self._ear is not None:
            _graveyard.append(self._ear)
        self._ear = self._closing = None
        if self.following.near is not None:
            self.following.near.after_fork(nullcontext())
        self.following.begin_anew()

    @staticmethod
    def _post_of(hub: weakref.ref[Any]) -> Callable[[], Post | None]:
        def find() -> Post | None:
            found = hub()
            return None if found is None else found.post

        return find

    def _on_members(self) -> None:
        self.following.on_members()
        if self._ear is not None:
            self._ear.tick_soon()


class AsyncSubscription:
    """Invalidations as they come: ``async with cache.subscribe(…) as events: async for event in events: …``.

    It stands when ``async with`` enters its body. Iteration ends when the subscription or its client is closed.
    """

    def __init__(
        self,
        follower: AsyncFollower,
        namespace: bytes,
        prefix: bytes,
        prepare: Callable[[], Awaitable[float]],
        callback: Callable[[Invalidation], object] | None,
    ) -> None:
        self.feed = Feed(namespace, prefix, self._wake)
        self._follower = follower
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
        self._follower.detach(self.feed)
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
        await self._follower.attach(self.feed, await self._prepare())
        if self._callback is not None:
            self._task = asyncio.create_task(self._call(self._callback))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._task is not None:
            self._task.cancel()


_graveyard: list[_LoopEar] = []
"""Inherited over a fork: socket and loop are the parent's, and not ours to collect."""

_everyone: weakref.WeakSet[AsyncFollower] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for follower in list(_everyone):
        follower.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
