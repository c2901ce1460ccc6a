"""HTTP that no honest client says, to a gateway over three nodes. ``scripts/fuzz --target gateway`` says more of it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from fuzzing import judging
from fuzzing.http import PROBLEMS_SHOWN, TRACEBACK, problems_of
from fuzzing.judging import Door, judged, open_mesh
from fuzzing.program import main

from meshcache.gateway.server import Outlet

pytestmark = pytest.mark.process


def test_a_gateway_serves_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = main(["--target", "gateway", "--frames", "1500", "--seconds", "8", "--rate", "300"])
    told = capsys.readouterr()
    assert found == 0, told.err
    assert "processes all live" in told.out


def test_failures_of_the_gateway_are_found() -> None:
    assert problems_of([], b"all is well\n") == []
    assert problems_of(["one was answered 500"], b"") == ["one was answered 500"]
    assert len(problems_of(["x"] * 100, b"")) == PROBLEMS_SHOWN
    (found,) = problems_of([], b"well\n" + TRACEBACK + b": it failed\n" + TRACEBACK)
    assert "2 tracebacks" in found


class Broken:
    """A transport of uvloop whose connection has broken, which nobody was told yet."""

    def __init__(self, *, closing: bool) -> None:
        self.closing, self.written = closing, b""

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        if self.closing:
            raise RuntimeError("the handler is closed")
        self.written += data


def test_what_is_written_to_a_connection_that_has_broken_is_dropped() -> None:
    whole, broken = Broken(closing=False), Broken(closing=True)
    for transport in (whole, broken):
        given: Any = transport
        outlet = Outlet(given)
        outlet.write(b"answer")
        assert outlet.is_closing() is transport.closing
    assert (whole.written, broken.written) == (b"answer", b"")


def test_a_door_that_ends_is_found() -> None:
    class Nobody:
        def __init__(self) -> None:
            self.door = door

        def hostile(self) -> int:
            self.door.process.kill()
            return 1

        harmless = hostile

        def close(self) -> None:
            """Nothing is open."""

    with open_mesh() as mesh, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        door = Door(process, mesh.mesh.addresses, judging._ask)
        _, found = judged(mesh, Nobody, 1 << 30, 30.0, 10.0, door)
    assert found == ["the door ended with -9"]
