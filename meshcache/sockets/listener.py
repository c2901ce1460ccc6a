"""Sockets that listen: bound to a numeric host, with a few attempts where the port is still taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import zmq

from meshcache.address import join_address
from meshcache.errors import ConfigError
from meshcache.sockets.context import Context
from meshcache.sockets.dialling import hosts_of, numeric
from meshcache.sockets.options import Options, set_options

RETRY_S: Final = 0.05


def listen(
    context: Context, kind: int, address: str, options: Options, *, wait_s: float, pause: Callable[[float], object]
) -> zmq.Socket[bytes]:
    """Return a socket of this kind that is bound to an address; ``pause`` sleeps between attempts.

    A socket is closed asynchronously: after that its port may be taken for a moment, ``wait_s`` at most. Raises
    ConfigError if binding fails.
    """
    bound = context.socket(kind)
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
