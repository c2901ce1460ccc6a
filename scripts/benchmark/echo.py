"""Send every message back to where it came from, for ever: ``python -m benchmark.echo PORT``."""

from __future__ import annotations

import sys

import zmq


def echo(port: int) -> None:
    """Serve until the process is ended."""
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(f"tcp://127.0.0.1:{port}")
    while True:
        router.send_multipart(router.recv_multipart())


if __name__ == "__main__":
    echo(int(sys.argv[1]))
