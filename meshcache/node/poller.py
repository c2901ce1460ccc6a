"""Waiting for ZeroMQ sockets: an epoll of our own, and the rules that come with it.

``zmq.Poller`` asks every socket for its state, and lists them all, at each call: a tenth of what a single get costs
its node, and 110 µs with 128 peers. Here the kernel says which socket woke, and only that one is looked at.

A socket's file descriptor announces once that its state *may* have changed, and nothing more until that state has been
read; sending reads it in passing, and what it saw is not announced again. So the rule is: whatever was done with a
socket, before the loop sleeps its state is read and found to hold no input. ``Inlet.drain`` ends that way, and who has
sent says ``Inlets.stir``. Every ``RECHECK_S`` all are looked at, whatever the kernel says.

One turn takes a slice of time from each socket, and no more: whoever sends much, or what costs much, waits for the next
turn, and what others sent in between is not far behind.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Container
from typing import Any, Final, Protocol

import zmq

from meshcache.sockets.dealer import receiver

FRAMES_PER_TURN: Final = 256
"""How many frames are taken from one socket before the others have their turn …"""
SLICE_S: Final = 0.002
"""… or for how long; but one always is."""

RECHECK_S: Final = 0.1
WAIT_S_MAX: Final = 60.0
"""No wait is longer, whatever the intervals that were configured: an epoll's milliseconds end at 2^31."""

# As plain numbers: the enumerations of pyzmq cost 0.7 µs for each & and |.
POLLIN: Final = int(zmq.POLLIN)
EVENTS: Final = int(zmq.EVENTS)
RCVMORE: Final = int(zmq.RCVMORE)
DONTWAIT: Final = int(zmq.DONTWAIT)
SNDMORE: Final = int(zmq.SNDMORE)


class Awaited(Protocol):
    """What a loop waits for: an inlet, or something else with input."""

    def has_input(self) -> bool:
        """Tell whether there is input; if there is none, the kernel will announce the next."""

    def drain(self, now: float) -> bool:
        """Take what is there, up to the slice of a turn; True if there is more."""


class Crowd(Awaited, Protocol):
    """One who has many plain descriptors, and is told what the kernel says of which."""

    woken: list[tuple[int, int]]


class Inlet:
    """What arrives at one socket, as messages of one or two parts."""

    __slots__ = ("_excess", "_get", "_pairs", "_recv", "_recv_large", "_refuse", "_take", "fd")

    def __init__(
        self, source: zmq.Socket[bytes], take: Callable[..., object], refuse: Callable[[], None], *, pairs: bool = False
    ) -> None:
        """Call ``take`` with the part, or the two of ``pairs``, and the time; ``refuse`` for what has more parts.

        ``take`` may return True: the turn has enough to answer, and the next part is for the next.
        """
        self.fd = int(source.getsockopt(zmq.FD))
        self._recv = source.recv
        self._recv_large = receiver(source)
        self._get: Callable[[int], Any] = source.getsockopt
        self._take = take
        self._refuse = refuse
        self._pairs = pairs
        self._excess = False
        """Parts of a message with too many are still to be thrown away."""

    def has_input(self) -> bool:
        """Read the socket's state: if there is no input, the kernel will announce the next."""
        return bool(self._get(EVENTS) & POLLIN)

    def take_received(self, part: bytes, more: bool, now: float) -> None:
        """Take what ``UsualTurns`` has received here, and left. ``more``: there are parts that it has not received."""
        if more:
            self._excess = True
            self._refuse()
        else:
            self._take(part, now)

    def drain(self, now: float) -> bool:
        """Take what is there, up to the slice of a turn; True if there is more.

        Messages are taken part by part, which costs a third of recv_multipart. libzmq hands over whole messages only:
        where no input is left, the message at hand was complete, and no question is needed.
        """
        recv, take, clock = self._recv, self._take, time.monotonic
        until = clock() + SLICE_S
        try:
            for _ in range(FRAMES_PER_TURN):
                if self._excess:
                    recv(DONTWAIT)
                    self._excess = bool(self._get(RCVMORE))
                    continue
                first = recv(DONTWAIT) if self._pairs else self._recv_large(DONTWAIT)
                second = self._recv_large(DONTWAIT) if self._pairs else b""
                more = self._get(EVENTS) & POLLIN
                if more and self._get(RCVMORE):
                    self._excess = True
                    self._refuse()
                elif take(first, second, now) if self._pairs else take(first, now):
                    return True
                if not more:
                    return False
                if clock() >= until:
                    return True
        except zmq.Again:
            return False
        return True


class Inlets:
    """The inlets of one loop. Use from its thread only."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._inlets: dict[int, Inlet] = {}
        self._crowds: dict[int, Crowd] = {}
        """Who has a plain descriptor. The kernel says of these what is, and not what has changed: they need no look."""
        self._stirred: dict[Awaited, None] = {}
        """Their state must be read before the next sleep."""
        self._recheck_at = 0.0
        self.called = False
        """The last wait was ended by a descriptor that is watched beside the inlets: somebody wants something else."""

    def close(self) -> None:
        """Close the epoll; the sockets are not touched."""
        self._epoll.close()

    def watch(self, fd: int) -> None:
        """Let this file descriptor end a wait, once for each time that it becomes readable."""
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)

    def add(self, inlet: Inlet) -> None:
        """Wait for this inlet, too."""
        self._inlets[inlet.fd] = inlet
        self._stirred[inlet] = None
        self.watch(inlet.fd)

    def remove(self, inlet: Inlet) -> None:
        """Wait for this one no more. To be called before its socket is closed."""
        self._epoll.unregister(inlet.fd)
        self._inlets.pop(inlet.fd)
        self._stirred.pop(inlet, None)

    def attend(self, fd: int, events: int, crowd: Crowd) -> None:
        """Wait for these events of a plain descriptor, and tell the crowd that it belongs to."""
        self._epoll.register(fd, events)
        self._crowds[fd] = crowd

    def attend_to(self, fd: int, events: int) -> None:
        """Wait for these events instead."""
        self._epoll.modify(fd, events)

    def dismiss(self, fd: int) -> None:
        """Wait for this descriptor no more. To be called before it is closed."""
        self._epoll.unregister(fd)
        del self._crowds[fd]

    def stir(self, inlet: Awaited) -> None:
        """Something was done with this inlet's socket."""
        self._stirred[inlet] = None

    @property
    def fd(self) -> int:
        """The descriptor of the epoll."""
        return self._epoll.fileno()

    def are_still(self, but: Container[Awaited]) -> bool:
        """Tell whether nothing was done with any socket since its state was read, some excepted."""
        return all([each in but for each in self._stirred])  # noqa: C419  (a list is faster than a generator)

    def wait(self, timeout_s: float) -> list[Awaited]:
        """Sleep until something may have arrived, or for ``timeout_s``; return where."""
        ready = [inlet for inlet in self._stirred if inlet.has_input()]
        return self.woken(self._epoll.poll(0 if ready or timeout_s <= 0 else min(timeout_s, WAIT_S_MAX)), ready)

    def woken(self, events_of: list[tuple[int, int]], ready: list[Awaited]) -> list[Awaited]:
        """Return where something may have arrived, given the descriptors that woke: all others were read, or slept."""
        self._stirred.clear()
        self.called = False
        for fd, events in events_of:
            inlet: Awaited | None = self._inlets.get(fd)
            if inlet is None:
                crowd = self._crowds.get(fd)
                if crowd is None:
                    self.called = True
                    continue
                crowd.woken.append((fd, events))
                inlet = crowd
            if inlet not in ready:
                ready.append(inlet)
        return ready

    def drain(self, woken: list[Awaited], now: float, is_enough: Callable[[], bool]) -> None:
        """Have these take what arrived. When a turn has enough to answer, the others come first in the next."""
        waiting = iter(woken)
        for each in waiting:
            more = each.drain(now)
            if is_enough():
                for other in waiting:
                    self.stir(other)
            if more:
                self.stir(each)

    def recheck(self, now: float) -> None:
        """Have the state of all read before the next sleep, if that was not done for a while."""
        if now >= self._recheck_at:
            self._recheck_at = now + RECHECK_S
            self._stirred.update(dict.fromkeys(self._inlets.values()))
