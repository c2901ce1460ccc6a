"""Sockets that listen: what must not be guessed about them."""

from __future__ import annotations

import subprocess
import sys

import pytest

FIRST_NAME = """
import zmq
from meshcache.sockets.context import open_context
from meshcache.sockets.listener import new_listener
context = open_context()
router = new_listener(context, zmq.ROUTER)
router.bind("tcp://127.0.0.1:*")
dealer = context.socket(zmq.DEALER)
dealer.connect(router.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\\0").decode())
dealer.send(b"")
assert router.poll(10_000)
print(router.recv_multipart()[0].hex())
context.destroy(0)
"""


@pytest.mark.process
def test_nobody_can_know_by_which_names_a_node_calls_its_connections() -> None:
    """Whoever knows the next one could claim it, and libzmq would end the process."""
    names = {subprocess.check_output([sys.executable, "-c", FIRST_NAME], timeout=30) for _ in range(2)}
    assert len(names) == 2
