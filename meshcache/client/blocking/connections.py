"""The blocking driver's I/O, in the caller's thread: no hand-over to another thread, and no lock held while waiting.

ZeroMQ sockets belong to one thread at a time. A *channel* is a set of connections, at most one to each node; a thread
takes a channel for one step of a flow and puts it back. The channel that was used last is taken first, so a single
thread always finds the same open connections.

Where every node has too much to do, fewer threads than there are channels carry out a step at a time (windows.py), and
those take channels that are connected; the other threads wait for them.

An exception may come between any two steps: from a signal handler, or a greenlet's timeout. A channel that was being
taken at that moment is neither free nor busy; it is not counted any more, and another is made. A channel whose step was
interrupted forgets what it asked for; answers that still arrive have unknown numbers and are dropped.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

from meshcache.client.blocking.channel import Channel
from meshcache.client.closing import Closing
from meshcache.client.connection import Attempt, Call, Connection, Outcome, Tried
from meshcache.client.failure import NO_CONNECTION, NO_TIME, Failure
from meshcache.client.routing import Routing
from meshcache.errors import ClientClosed
from meshcache.sockets.context import Context, end_context, open_context
from meshcache.sockets.waiting import Waiters

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")

CHANNELS_MAX: Final = 16
PARKED_MAX: Final = 64
"""How many threads of one process are parked at nodes at a time, each for its own key; others wait for these."""


class _Pool:
    """The channels of one process, and the ZeroMQ context that they use."""

    def __init__(self, channels_max: int = CHANNELS_MAX, *, parking: _Pool | None = None) -> None:
        self.pid = os.getpid()
        self.channels_max = channels_max
        self.parking = parking
        """The channels for calls that may be parked."""
        self.free: list[Channel] = []
        self.channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        """All channels: free, busy, or lost."""
        self.waiters = Waiters()
        """Threads that wait for a free channel."""
        self.closed = False
        self._trouble = ""
        """Why the channel that was last to connect has no connection; empty: it has one."""
        self._lock = threading.RLock()
        self._context: Context | None = None

    def context(self) -> Context:
        """Return the ZeroMQ context; the first connection makes it. Raises OSError."""
        with self._lock:
            if self._context is None:
                self._context = open_context()
            return self._context

    def take(self, connection: Callable[[str], Connection], taken: list[Channel]) -> bool:
        """Put a free channel into ``taken``, or a new one; return False if all are in use and no more may be made.

        Raises ClientClosed.
        """
        if self.closed:
            raise ClientClosed
        try:
            connected = [channel for channel in self.free if channel.is_connected]
            if connected:
                self.free.remove(connected[-1])
            taken.append(connected[-1] if connected else self.free.pop())
        except (IndexError, ValueError):
            with self._lock:
                if len(self.channels) >= self.channels_max:
                    # One may be about to become busy; it does not matter, since it counts again when it is free.
                    lost = [channel for channel in self.channels if not channel.busy and channel not in self.free]
                    self.channels.difference_update(lost)
                if len(self.channels) < self.channels_max and not self._is_connecting():
                    taken.append(Channel(self.context, connection))
                    self.channels.update(taken)
        return bool(taken)

    def _is_connecting(self, but: Channel | None = None) -> bool:
        """Tell whether a channel, ``but`` this one, has yet to connect: then no other is made.

        When calls take longer than usual, every thread wants a channel of its own; and to accept so many connections
        would cost a busy node more than the calls. Channels of calls that may be parked are busy for long anyway.
        """
        channels = list(self.channels) if self.parking is not None else []
        return any(each.busy and each is not but and not each.is_connected for each in channels)

    def note_trouble(self, channel: Channel, outcomes: list[Outcome]) -> None:
        """Remember why a channel has no connection: who waits for one meanwhile and has no time left says so, too."""
        whys = [outcome.why for outcome in outcomes if isinstance(outcome, Failure) and outcome.blame]
        if channel.is_connected:
            self._trouble = ""
        elif whys:
            self._trouble = whys[0]

    def no_channel(self, but: Channel | None = None) -> Failure:
        """Return what comes of a call that waited for channels, ``but`` this one, until no time was left for it."""
        why = self._trouble or (NO_CONNECTION.why if self._is_connecting(but) else NO_TIME.why)
        return NO_TIME._replace(why=why)

    def close(self) -> None:
        """Close all free channels, and the context with the last one; busy ones are closed when they are put back."""
        if self.pid != os.getpid():
            return
        if self.parking is not None:
            self.parking.close()
        self.closed = True
        while self.free:
            channel = self.free.pop()
            channel.close()
            self.channels.discard(channel)
        self.waiters.wake_all()
        with self._lock:
            context = None if self.channels else self._context
            if context is not None:
                self._context = None
                end_context(context)


def _pools() -> _Pool:
    return _Pool(parking=_Pool(PARKED_MAX))


_inherited: list[_Pool] = []
"""Pools inherited over a fork. Their sockets are the parent's, and must be neither closed nor collected here."""


class Channels:
    """Carries out steps over channels, from any thread and after any fork."""

    def __init__(self, connection: Callable[[str], Connection], routing: Routing) -> None:
        self._connection = connection
        self._routing = routing
        self._pool = _pools()
        self._closing = Closing(self, self._pool.close)
        _all_channels.add(self)

    def exchange(self, calls: list[Call], *, parked: bool = False) -> list[Outcome]:
        """Carry out the calls of one step; if no channel becomes free in time, that is a failure like any other.

        Calls that may be ``parked`` have channels of their own: else callers that wait for a value could take all
        channels, and none would be left for the callers that bring it.
        """
        pool = self._pool
        if parked or pool.pid != os.getpid():
            pool = self._pool_for(parked)
        try:
            # Threads are served in the order in which they came, so that every one has its turn.
            channel = None if pool.waiters.queue or self._routing.windows.narrow else pool.free.pop()
        except IndexError:
            channel = None
        if channel is None:
            return self._exchange_later(pool, calls, parked)
        return self._use(pool, channel, channel.exchange, calls)

    def ask(self, attempts: list[Attempt]) -> list[Any] | Tried:
        """Make attempts over a channel that is free, if there is any: else nothing is sent."""
        pool = self._pool
        if pool.pid != os.getpid() or pool.waiters.queue or not self._may_begin(pool):
            return Tried()
        try:
            channel = pool.free.pop()
        except IndexError:
            return Tried()
        return self._use(pool, channel, channel.ask, attempts)

    def _use(
        self, pool: _Pool, channel: Channel, step: Callable[[list[_Asked]], _Answer], asked: list[_Asked]
    ) -> _Answer:
        """Carry out a step of a channel that was free, and put the channel back."""
        channel.busy = True
        try:
            # Not returned from here: an exception between that and the first step of ``finally`` would skip both.
            answer = step(asked)
        except BaseException:
            channel.forget()
            raise
        finally:
            channel.busy = False
            pool.free.append(channel)
            if pool.waiters.queue or pool.closed:
                self._returned(pool)
        return answer

    def close(self) -> None:
        """Close every connection; later calls fail."""
        self._pool.close()
        self._closing.detach()

    def after_fork(self) -> _Pool:
        """Begin anew in a child process, without touching anything of the parent's."""
        old = self._pool
        if old.pid != os.getpid():
            _inherited.append(old)
            self._closing.detach()
            self._pool = _pools()
            self._pool.closed = old.closed
            if self._pool.parking is not None:
                self._pool.parking.closed = old.closed
            self._closing = Closing(self, self._pool.close)
        return self._pool

    def _pool_for(self, parked: bool) -> _Pool:
        pool = self.after_fork()
        if not parked:
            return pool
        assert pool.parking is not None
        return pool.parking

    def _exchange_later(self, pool: _Pool, calls: list[Call], parked: bool) -> list[Outcome]:
        """Carry out the calls of a step over a channel that must be made or waited for."""
        has_connected = False
        taken: list[Channel] = []  # a channel is in here from the first moment on, and so is always put back

        def take() -> bool:
            nonlocal pool
            pool = self._pool_for(parked)  # looked up each time: a greenlet that waits here goes on after a fork
            return (parked or self._may_begin(pool)) and pool.take(self._connection, taken)

        try:
            if not pool.waiters.wait(take, min(call.until for call in calls)):
                return [pool.no_channel()] * len(calls)
            (channel,) = taken
            channel.busy, was_connected = True, channel.is_connected
            outcomes = channel.exchange(calls)
            has_connected = channel.is_connected and not was_connected
            outcomes = [pool.no_channel(but=channel) if outcome is NO_TIME else outcome for outcome in outcomes]
            pool.note_trouble(channel, outcomes)
        except BaseException:
            for channel in taken:
                channel.forget()
            raise
        finally:
            for channel in taken:
                channel.busy = False
            pool.channels.update(taken)
            pool.free += taken
            if pool.waiters.queue or pool.closed:
                self._returned(pool)
            if has_connected:  # one thread takes this channel, and another may make the next
                pool.waiters.wake()
        return outcomes

    def _may_begin(self, pool: _Pool) -> bool:
        """Tell whether one more step may begin: not while every node has enough to do for this client.

        Steps are counted, not the requests of each: where one node has too many, the threads are needed for the others.
        """
        windows = self._routing.windows
        if not windows.narrow:
            return True
        return sum([channel.busy for channel in pool.channels]) < windows.greatest(len(self._routing.peers))

    def _returned(self, pool: _Pool) -> None:
        if pool.closed:
            pool.close()
        else:
            pool.waiters.wake()


_all_channels: weakref.WeakSet[Channels] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for channels in list(_all_channels):
        channels.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
