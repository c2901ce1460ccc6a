"""A memcached of one's own: on a loopback port, gone in the end.

The program is that of Debian's package ``memcached``, which ``scripts/test`` installs where it may.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from meshcache.local.processes import HOST, find_base_port

START_TIMEOUT_S: Final = 20.0
PAUSE_S: Final = 0.01


class NoMemcached(Exception):
    """There is no server to start here; the text says why."""


@contextmanager
def private_memcached(*options: str) -> Iterator[str]:
    """Run a server with one thread, and these options of its own; yields its ``host:port``."""
    program = shutil.which("memcached")
    if program is None:
        raise NoMemcached("memcached is not installed: apt-get install memcached")
    port = find_base_port(1)
    command = [program, "-l", HOST, "-p", str(port), "-U", "0", "-t", "1", *options]
    command += ["-u", "nobody"] if os.geteuid() == 0 else []
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait(port, server)
        yield f"{HOST}:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=START_TIMEOUT_S)


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise NoMemcached(f"memcached does not start on port {port}: {error}") from error
            time.sleep(PAUSE_S)
        else:
            return
