"""What ends the sleep of a loop: it never writes to a descriptor that is another's by now."""

from __future__ import annotations

import os
import select
import threading

import pytest

from meshcache.sockets.wakeup import Wakeup


def test_it_wakes_until_it_is_closed() -> None:
    wakeup = Wakeup()
    wakeup()
    assert select.select([wakeup.fd], [], [], 0)[0]
    wakeup.clear()
    assert not select.select([wakeup.fd], [], [], 0)[0]
    fd = wakeup.fd
    wakeup.close()
    other = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        assert other == fd, "the lowest number that is free"
        wakeup()
        wakeup.close()
        assert not select.select([other], [], [], 0)[0]
    finally:
        os.close(other)


def test_a_thread_that_is_about_to_wake_finds_no_other_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    wakeup, write = Wakeup(), os.eventfd_write
    closing = threading.Thread(target=wakeup.close)
    written: list[int] = []

    def write_late(fd: int, value: int) -> None:
        closing.start()
        closing.join(0.05)
        write(fd, value)  # raises OSError if it was closed in between
        written.append(fd)

    monkeypatch.setattr(os, "eventfd_write", write_late)
    fd = wakeup.fd
    wakeup()
    assert written == [fd]
    closing.join(5)
    assert wakeup.fd == -1
