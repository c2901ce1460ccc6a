"""Sockets that listen: bound to a numeric host, with a few attempts where the port is still taken."""

from __future__ import annotations

import ctypes
import secrets
import time
from collections.abc import Callable
from typing import Final

import zmq

from meshcache.address import join_address, split_address
from meshcache.errors import ConfigError
from meshcache.sockets.context import Context
from meshcache.sockets.dialling import Host, hosts_of, numeric
from meshcache.sockets.options import Options, set_options

RETRY_S: Final = 0.05


def new_listener(context: Context, kind: int) -> zmq.Socket[bytes]:
    """Return a socket that is to listen.

    A ROUTER numbers the connections that choose no name of their own. libzmq 4.3.5 ends the process when somebody has
    chosen the very name that is next in turn; and it takes the first number from the C library's ``rand``, which begins
    alike in every process. So that one is given a seed first that nobody can guess.
    """
    ctypes.CDLL(None).srand(ctypes.c_uint(secrets.randbits(32)))
    return context.socket(kind)


def bind_again(bound: zmq.Socket[bytes], options: Options) -> Host:
    """Have a socket listen at one more address, of this machine alone, with these options; return that address.

    libzmq gives each address at which a socket listens the options that are set at that moment.
    """
    set_options(bound, options)
    bound.bind("tcp://127.0.0.1:*")
    return split_address(bound.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode().removeprefix("tcp://"))  # type: ignore[union-attr]  # this option is bytes


def listen(
    context: Context, kind: int, address: str, options: Options, *, wait_s: float, pause: Callable[[float], object]
) -> zmq.Socket[bytes]:
    """Return a socket of this kind that is bound to an address; ``pause`` sleeps between attempts.

    A socket is closed asynchronously: after that its port may be taken for a moment, ``wait_s`` at most. Raises
    ConfigError if binding fails.
    """
    bound = new_listener(context, kind)
    set_options(bound, options)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            bound.bind(f"tcp://{join_address(*(numeric(address) or hosts_of(address)[0]))}")
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE and time.monotonic() < deadline:
                pause(RETRY_S)
                continue
            bound.close(0)
            reason = "the port is in use" if error.errno == zmq.EADDRINUSE else str(error)
            raise ConfigError(f"cannot listen on {address}: {reason}; choose another address") from None
        except OSError as error:
            bound.close(0)
            raise ConfigError(f"cannot listen on {address}: {error}") from None
        return bound
