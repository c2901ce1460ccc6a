"""The blocking driver of the invalidation streams: one daemon thread for a client and all clients derived from it.

The thread starts when a near cache is first used or a subscription is made, and ends with the client. After a fork the
child has no such thread: its near cache is empty and not live until it starts one of its own, and subscriptions made by
the parent are closed in the child.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import zmq

from meshcache.client.closing import Closing
from meshcache.client.connection import Call, Outcome
from meshcache.client.streams import TICK_S, StreamIntake, weak_call
from meshcache.client.subscription import Feed, Invalidation
from meshcache.durations import Timeout, waiting_s
from meshcache.errors import ClientClosed, NodeUnavailable, OperationTimeout
from meshcache.sockets.descriptors import as_os_error
from meshcache.sockets.dialling import Dials
from meshcache.sockets.subscriber import Subscriber
from meshcache.sockets.waiting import Waiters, pause, start_thread, wait_readable
from meshcache.sockets.wakeup import Wakeup

FRAMES_PER_TURN: Final = 256
RESOLVE_AGAIN_S: Final = 1.0
JOIN_S: Final = 2.0

_log = logging.getLogger(__name__)

Ask = Callable[[list[Call]], list[Outcome]]


class _ReceiverThread:
    """The thread and its socket. It refers to nothing that would keep the client alive."""

    def __init__(self, intake: StreamIntake, ask: Callable[[], Ask | None], changed: Waiters) -> None:
        self.pid = os.getpid()
        self.trouble: OSError | None = None
        """Why it cannot receive now; it tries again."""
        self._intake = intake
        self._ask = ask
        self._changed = changed
        self._stopping = False
        self._wakeup: Wakeup | None = None
        self._retry_at: dict[str, float] = {}
        self._dials = Dials()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = start_thread(self._run, "meshcache-streams")

    def goes_on(self) -> bool:
        """Tell whether it is to receive: it was not stopped, and this is still its process (forks copy greenlets)."""
        return not self._stopping and self.pid == os.getpid()

    def wake(self) -> None:
        """Have the thread look at what changed."""
        wakeup = self._wakeup
        if wakeup is not None:
            wakeup()

    def stop(self) -> None:
        """End the thread, if it belongs to this process."""
        if self.goes_on():
            self._stopping = True
            self.wake()
            thread = self._thread
            if thread is None or thread is threading.current_thread():
                return
            if thread.is_alive() and not sys.is_finalizing():  # while the interpreter ends, no other thread runs
                thread.join(JOIN_S)

    def _run(self) -> None:
        try:
            while self.goes_on():
                try:
                    self._wakeup = wakeup = Wakeup()
                    subscriber = Subscriber(key=self._intake.routing.key)
                except OSError as error:
                    self._fail(as_os_error(error))
                else:
                    self.trouble = None
                    self._listen(subscriber, wakeup)
                finally:
                    ended, self._wakeup = self._wakeup, None
                    if ended is not None:
                        ended.close()
        finally:
            if self.goes_on():  # an unforeseen error: better to end the subscriptions than to be silent for ever
                self._intake.end()

    def _fail(self, error: OSError) -> None:
        if self.trouble is None:
            _log.warning("can not follow the invalidations: %s", error.strerror)
        self.trouble = error
        self._changed.wake_all()
        pause(TICK_S)

    def _listen(self, subscriber: Subscriber, wakeup: Wakeup) -> None:
        descriptors = [wakeup.fd, int(subscriber.socket.getsockopt(zmq.FD))]
        tick_at = 0.0
        try:
            while self.goes_on():
                now = time.monotonic()
                if now >= tick_at or self._intake.members_changed:
                    self._tick(subscriber, now)
                    tick_at = now + TICK_S
                # The descriptor shows a change only once: wait for it only when nothing is left to read.
                if self.goes_on() and not self._receive(subscriber.socket):
                    wait_readable(descriptors, max(0.001, tick_at - time.monotonic()))
                if self.goes_on():
                    wakeup.clear()
        finally:
            if self.pid == os.getpid():
                subscriber.close()
            else:
                _inherited.append(subscriber)

    def _receive(self, socket: zmq.Socket[bytes]) -> bool:
        """Take in what has arrived; return True if there may be more."""
        intake = self._intake
        was_live = intake.live(time.monotonic())
        for _ in range(FRAMES_PER_TURN):
            try:
                frame = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            intake.receive(frame, time.monotonic())
        else:
            return True
        if not was_live and intake.live(time.monotonic()):
            self._changed.wake_all()
        return False

    def _tick(self, subscriber: Subscriber, now: float) -> None:
        intake = self._intake
        calls = intake.tick(now)
        ask = self._ask() if calls else None
        if ask is not None:
            intake.learn(calls[0], ask(calls)[0])
        if not self.goes_on():
            return
        for address in intake.to_redial(now):
            subscriber.disconnect(address)
        for address in subscriber.missing(intake.addresses()):
            if now >= self._retry_at.get(address, 0.0):
                self._connect(subscriber, address, now)
        self._changed.wake_all()

    def _connect(self, subscriber: Subscriber, address: str, now: float) -> None:
        try:
            found = self._dials.look(address)
            if found is not None:
                subscriber.connect(address, found)
                self._retry_at.pop(address, None)
        except (OSError, ValueError, zmq.ZMQError) as error:
            self._retry_at[address] = now + RESOLVE_AGAIN_S
            _log.warning("can not follow the invalidations at %s: %s", address, error)


class StreamReception:
    """Starts the thread when it is needed, and ends it when it is not."""

    def __init__(self, intake: StreamIntake, channels: Any) -> None:
        self.intake = intake
        self._channels = weakref.ref(channels)
        self._changed = Waiters()
        self._lock = threading.RLock()
        self._receiver: _ReceiverThread | None = None
        self._closing: Closing | None = None
        self._closed = False
        intake.routing.on_members = weak_call(self._on_members)
        if intake.near is not None:
            intake.near.on_use = weak_call(self.start)
        _receptions.add(self)

    def start(self) -> None:
        """Start the thread, if this process has none."""
        if self._closed or (self._receiver is not None and self._receiver.goes_on()):
            return
        receiver = _ReceiverThread(self.intake, _exchange_of(self._channels), self._changed)
        try:
            with self._lock:  # not while the thread starts: with greenlets, others run during that
                if self._receiver is not None and self._receiver.goes_on():
                    return
                if self._closing is not None:
                    self._closing.detach()
                self._closing = Closing(self, receiver.stop)
                self._receiver = receiver
            receiver.start()
        except BaseException:
            receiver.stop()
            raise

    def subscribe(self, namespace: bytes, prefix: bytes, timeout_s: float) -> Subscription:
        """Return a subscription that is active.

        Raises OperationTimeout that names the nodes not heard of, and NodeUnavailable if this process cannot open a
        socket.
        """
        if self._closed:
            raise ClientClosed
        subscription = Subscription(self, namespace, prefix)
        deadline = time.monotonic() + timeout_s
        try:
            with self._lock:
                self.intake.attach(subscription.feed)
            self.start()
            if self._receiver is not None:
                self._receiver.trouble = None  # an earlier error
            found = self._changed.wait(self._look, deadline)
            subscription.feed.standing = found is True
            silent = ", ".join(self.intake.streams.not_live(time.monotonic())) or "any node"
        finally:
            if not subscription.feed.standing:
                self.detach(subscription.feed)
        if isinstance(found, OSError):
            raise NodeUnavailable(f"subscribe: {found.strerror or found}")
        if found is None:
            raise OperationTimeout(f"subscribe: not heard of {silent} within {timeout_s:.3g} s")
        return subscription

    def _look(self) -> OSError | bool | None:
        """Return True if all members are heard, an error if that is not possible, and None if it may still come."""
        if self.intake.live(time.monotonic()):
            return True
        return None if self._receiver is None else self._receiver.trouble

    def detach(self, feed: Feed) -> None:
        """Stop feeding a subscription; without any, and without a near cache, the thread ends."""
        with self._lock:
            self.intake.detach(feed)
            receiver = self._receiver
            if self.intake.needed or receiver is None:
                return
        receiver.stop()
        with self._lock:
            if self._receiver is receiver:
                self._receiver = None
                self.intake.begin_anew()
        if self.intake.needed:  # another thread subscribed just now
            self.start()

    def close(self) -> None:
        """End the thread and all subscriptions."""
        self._closed = True
        if self._receiver is not None:
            self._receiver.stop()
        self.intake.end()

    def after_fork(self) -> None:
        """Forget the parent's thread, and whatever lock another thread of the parent may have held."""
        self._changed = Waiters()
        self._lock = threading.RLock()
        if self._closing is not None:
            self._closing.detach()
        if self._receiver is not None:
            _inherited.append(self._receiver)
        self._receiver = self._closing = None
        intake = self.intake
        if intake.near is not None:
            intake.near.after_fork(threading.RLock())
        for feed in intake.feeds:
            feed.closed = True
            intake.detach(feed)
        intake.begin_anew()

    def _on_members(self) -> None:
        self.intake.on_members()
        receiver = self._receiver
        if receiver is not None:
            receiver.wake()


class Subscription:
    """A subscription: iterate over its invalidations, in as many threads as you like.

    Iteration waits for the next one, and ends when the subscription or its client is closed.
    """

    def __init__(self, reception: StreamReception, namespace: bytes, prefix: bytes) -> None:
        self._reception = reception
        self._ready = Waiters()
        self.feed = Feed(namespace, prefix, weak_call(self._wake))
        # An exception may have taken it from its owner, so that nobody can close it: end it when it is collected.
        weakref.finalize(self, reception.detach, self.feed).atexit = False

    def wait(self, timeout: Timeout | None = None) -> Invalidation | None:
        """Return the next event; None if none came within ``timeout`` seconds, or the subscription is closed."""
        queue, feed = self.feed.queue, self.feed
        taking = False

        def look() -> Invalidation | bool:  # True: there will be none
            nonlocal taking
            taking = True
            try:
                return queue.popleft()
            except IndexError:
                taking = False
                return feed.closed

        limit_s = waiting_s(timeout)
        deadline = math.inf if limit_s is None else time.monotonic() + limit_s
        try:
            found: Invalidation | bool = self._ready.wait(look, deadline)
        except BaseException:
            if taking:  # an event may have been lost on its way to the caller
                feed.on_gap("", time.monotonic())
            raise
        return None if found is True or found is False else found

    def call(self, callback: Callable[[Invalidation], object]) -> None:
        """Give every event to a function, in a thread of its own.

        An error of the function goes to ``threading.excepthook``, and the next event still goes to the function.
        """
        start_thread(partial(self._call, callback), "meshcache-subscription")

    def close(self) -> None:
        """End the subscription."""
        self._reception.detach(self.feed)
        self.feed.close()

    def _wake(self) -> None:
        if self.feed.closed:
            self._ready.wake_all()
        else:
            self._ready.wake()

    def _call(self, callback: Callable[[Invalidation], object]) -> None:
        for event in self:
            try:
                callback(event)
            except BaseException as error:  # noqa: BLE001  (whatever it is, the next event may fare better)
                _report(error)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a subscription can not be pickled or copied: pickle the client, and subscribe there")

    def __iter__(self) -> Iterator[Invalidation]:
        return self

    def __next__(self) -> Invalidation:
        event = self.wait()
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _report(error: BaseException) -> None:
    """Pass an error of a callback to the hook for errors in threads."""
    if isinstance(error, SystemExit):  # the hook ignores it
        error = RuntimeError("a subscription's callback raised SystemExit, which ends no program from a thread")
        error.__cause__ = sys.exception()
    try:
        threading.excepthook(
            threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
        )
    except Exception:  # noqa: BLE001  (the program's own hook; its failure must not end the subscription)
        sys.__excepthook__(*sys.exc_info())


def _exchange_of(channels: weakref.ref[Any]) -> Callable[[], Ask | None]:
    def find() -> Ask | None:
        found = channels()
        return None if found is None else found.exchange

    return find


_inherited: list[_ReceiverThread | Subscriber] = []
"""Inherited over a fork: their sockets are the parent's, and must not be collected here."""

_receptions: weakref.WeakSet[StreamReception] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for reception in list(_receptions):
        reception.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
