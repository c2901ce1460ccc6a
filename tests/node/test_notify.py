"""What a node tells systemd: to the right socket, when there is one, and nothing that could stop the node."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meshcache.node.notify import NAME_BYTES_MAX, Notifier


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Return the name of a supervisor's socket, as the environment has it, and the socket."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@meshcache-test-{os.getpid()}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(name.replace("@", "\0") if name.startswith("@") else name)
        listener.settimeout(5)
        yield name, listener


def test_a_supervisor_is_told(supervisor: tuple[str, socket.socket]) -> None:
    name, listener = supervisor
    with closing(Notifier.of_environment({"NOTIFY_SOCKET": name})) as notifier:
        notifier.ready()
        assert listener.recv(1000) == b"READY=1\nSTATUS=serves"
        notifier.stopping("hands over")
        assert listener.recv(1000) == b"STOPPING=1\nSTATUS=hands over"


def test_the_beat_comes_at_half_of_what_the_supervisor_waits(
    supervisor: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, listener = supervisor
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}
    beats = []
    with closing(Notifier.of_environment(environ)) as notifier:
        listener.setblocking(False)
        for tenth in range(60):
            now = 100.0 + tenth / 10
            notifier.beat()
            try:
                assert listener.recv(1000) == b"WATCHDOG=1"
            except BlockingIOError:
                continue
            beats.append(now)
    assert beats == [100.0, 102.0, 104.0]


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},  # it waits for another process
    ],
)
def test_where_no_beat_is_waited_for_there_is_none(
    supervisor: tuple[str, socket.socket], environ: dict[str, str]
) -> None:
    name, listener = supervisor
    with closing(Notifier.of_environment({"NOTIFY_SOCKET": name, **environ})) as notifier:
        notifier.beat()
        notifier.ready()
        assert listener.recv(1000).startswith(b"READY=1")


@pytest.mark.parametrize("name", ["", "relative", "/nowhere/at/all", "/" + "x" * NAME_BYTES_MAX, "@"])
def test_a_supervisor_that_is_not_there_stops_no_node(name: str) -> None:
    with closing(Notifier.of_environment({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000"})) as notifier:
        notifier.beat()
        notifier.ready()
        notifier.stopping("stops")


def test_a_supervisor_that_does_not_read_holds_nobody_up(supervisor: tuple[str, socket.socket]) -> None:
    name, listener = supervisor
    with closing(Notifier.of_environment({"NOTIFY_SOCKET": name})) as notifier:
        for _ in range(1000):  # more than the kernel queues
            notifier.ready()
    assert listener.recv(1000)
