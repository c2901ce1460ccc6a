"""The socket of a link: a DEALER that lives as long as one TCP connection."""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import zmq

from meshcache._native import absent_because, compiled
from meshcache.address import join_address
from meshcache.keys import SecretKey
from meshcache.protocol.wire import Frame
from meshcache.sockets.allocator import LARGE_FRAME_BYTES, expect_large_blocks
from meshcache.sockets.curve import HandshakeWatch, dialling
from meshcache.sockets.descriptors import as_os_error
from meshcache.sockets.libzmq import addresses
from meshcache.sockets.options import client_dealer, set_options


def open_dealer(
    context: zmq.Context[zmq.Socket[bytes]], host: str, port: int, *, key: SecretKey | None = None
) -> tuple[zmq.Socket[bytes], HandshakeWatch]:
    """Return a DEALER that connects to a numeric host, and its handshake.

    ``key``: by which it proves who it is. The socket neither queues while there is no connection nor connects again
    after one broke. So what is sent reaches the process that was greeted, or none, and "not writable" means "gone".
    Raises OSError.
    """
    try:
        socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    except zmq.ZMQError as error:
        raise as_os_error(error) from None
    try:
        set_options(socket, {**client_dealer(host), **dialling(key)})
        handshake = HandshakeWatch(socket)
        socket.connect(f"tcp://{join_address(host, port)}")
    except zmq.ZMQError as error:
        socket.disable_monitor()
        socket.close(0)
        raise as_os_error(error) from None
    return socket, handshake


COPIED_BYTES_MAX: Final = 2 << 20
"""A larger frame had better be sent without a copy. That costs 20 µs, and a moment of pyzmq's thread; but a copy of
8 MB is made of pages that the kernel must clear first, which takes 4 ms."""


def sender(socket: zmq.Socket[bytes]) -> Callable[..., object]:
    """Return ``socket.send`` without what pyzmq does first for options that we never give.

    It takes a frame, flags, and whether to copy the frame.
    """
    send: Callable[..., object] = super(zmq.Socket, socket).send
    return send


def receiver(socket: zmq.Socket[bytes]) -> Callable[[int], Frame]:
    """Return a function like ``socket.recv``, given flags, that does not copy a frame if the one before it was large.

    Asking for no copy costs 5 µs, which only a large frame is worth: with 100 kB it halves what a node spends on a SET.
    """
    recv: Callable[..., Any] = socket.recv
    large = False

    def receive(flags: int) -> Frame:
        nonlocal large
        frame: Frame = recv(flags, copy=False).buffer if large else recv(flags)
        large = len(frame) >= LARGE_FRAME_BYTES
        if large:
            expect_large_blocks()
        return frame

    return receive


def state_of(socket: zmq.Socket[bytes]) -> int:
    """Return the present POLLIN and POLLOUT; asking also lets libzmq do what is pending."""
    return socket.getsockopt(EVENTS)  # type: ignore[return-value]  # this option is a number


EVENTS: Final = int(zmq.EVENTS)
NOBLOCK: Final = int(zmq.NOBLOCK)
READABLE: Final = int(zmq.POLLIN)
WRITABLE: Final = int(zmq.POLLOUT)
"""As numbers: to make them of pyzmq's constants each time takes long."""


def state_reader(socket: zmq.Socket[bytes]) -> Callable[[], int]:
    """Return a function that does as ``state_of`` for a socket, in a tenth of the time where it is native.

    The function must not be used once the socket is closed: natively, that can end the process.
    """
    functions = None if absent_because else addresses("zmq_getsockopt")
    ask = partial(state_of, socket)
    return ask if functions is None else partial(compiled.socket_state, functions[0], socket.underlying, ask)


def waiting_receiver(socket: zmq.Socket[bytes], recv: Callable[[int], Frame], timeout_ms: int) -> Callable[[], Frame]:
    """Return a function that receives by ``recv`` as soon as it can, or raises zmq.Again when the time is over.

    Also if a signal came meanwhile. A socket's own receive timeout would do, but pyzmq begins it anew after every
    signal: where a timer's signals come faster, as in a program that is profiled, it would never be over.

    The function must not be used once the socket is closed: natively, that can end the process.
    """
    descriptor = int(socket.getsockopt(zmq.FD))
    functions = None if absent_because else addresses("zmq_getsockopt")
    if functions is not None:
        return partial(
            compiled.receive_when_there, functions[0], socket.underlying, descriptor, timeout_ms, recv, NOBLOCK
        )

    poll: Callable[[int], object] | None = None  # made when it is needed: eventlet takes select.poll away

    def receive() -> Frame:
        nonlocal poll
        if not state_of(socket) & READABLE:
            if poll is None:
                poller = select.poll()
                poller.register(descriptor, select.POLLIN)
                poll = poller.poll
            poll(timeout_ms)
        return recv(NOBLOCK)

    return receive
