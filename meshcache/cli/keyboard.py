"""A terminal whose keys are read one by one, without Enter and without an echo; and which is restored whatever happens.

Ctrl-C stays what it is. SIGTERM and SIGHUP end the program as an exception does, so that whoever has changed something
of the terminal undoes it on the way out.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from types import FrameType
from typing import Any, Final, Self

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
KEYS_BYTES_MAX: Final = 64


class Keyboard:
    """The keys of the terminal at standard input. To be used in the main thread, by ``with``."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._before: list[Any] = []
        self._signals: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        self._signals = {number: signal.signal(number, self._end) for number in _ENDING}
        self._signals[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: self.wake())
        self._signals[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        tty.setcbreak(self._fd, termios.TCSANOW)
        return self

    def __exit__(self, *exc: object) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        for number, handler in self._signals.items():
            signal.signal(number, handler)
        os.close(self._wake_read)
        os.close(self._wake_write)

    @staticmethod
    def _end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def wake(self) -> None:
        """End the wait for a key: the size of the terminal has changed, or there is something to show."""
        try:
            os.write(self._wake_write, b"\0")
        except OSError:  # it is awake, or nobody waits any more
            return

    def keys(self, timeout_s: float) -> str:
        """Return the keys that were pressed; nothing where the wait ended without; Ctrl-D where there are no more."""
        ready = select.select([self._fd, self._wake_read], [], [], timeout_s)[0]
        if self._wake_read in ready:
            os.read(self._wake_read, KEYS_BYTES_MAX)
        if self._fd not in ready:
            return ""
        try:
            pressed = os.read(self._fd, KEYS_BYTES_MAX)
        except OSError:  # the terminal is gone
            pressed = b""
        return pressed.decode("ascii", "replace") if pressed else "\x04"
