"""Finding a host that answers, without keeping the event loop waiting: ``sockets/dialling.py``, awaited."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future

from meshcache.sockets.dialling import Host, dial, failure_of, numeric, probe_of


async def reached(address: str) -> Host:
    """Return a host that accepts connections at an address, or raise OSError: ``dialling.reach``, awaited.

    A look-up that hangs delays nobody: the loop does not wait for its thread in the end.
    """
    loop = asyncio.get_running_loop()
    host = numeric(address)
    if host is not None:
        with probe_of(host) as probe:
            await loop.sock_connect(probe, host)
            failure = failure_of(probe)
            if failure is not None:
                raise failure
        return host
    done = asyncio.Event()

    def tell(_: Future[Host]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(done.set)

    found = dial(address)
    found.add_done_callback(tell)
    await done.wait()
    return found.result()
