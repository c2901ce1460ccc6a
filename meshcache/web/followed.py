"""What is in some files, read again when they change: secrets and certificates are exchanged without a restart.

There is no thread that looks. Whoever needs what is in the files asks for it, and then it is looked, once in ``LOOK_S``
at most, whether they changed. If they cannot be read any more, or are wrong, what was read last stays in force, and
that is told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from meshcache.errors import ConfigError

LOOK_S: Final = 1.0

Tell = Callable[..., object]
"""Takes the name of an event, and fields: a log, or what hands them on to one."""
Content = TypeVar("Content")


class Followed(Generic[Content]):
    """What is in some files. To be used by one thread. Raises ConfigError if they are wrong from the beginning."""

    def __init__(self, paths: tuple[str, ...], read: Callable[[], Content], tell: Tell) -> None:
        """``read`` reads them; its ConfigError says what is wrong."""
        self._paths = paths
        self._read = read
        self._tell = tell
        self._signature = self._look()
        self._content = read()
        self._look_at = time.monotonic() + LOOK_S

    def content(self) -> Content:
        """Return what is in the files."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            signature = self._look()
            if signature != self._signature:
                self._signature = signature
                self._read_again()
        return self._content

    def _read_again(self) -> None:
        files = " ".join(self._paths)
        try:
            self._content = self._read()
        except ConfigError as error:
            self._tell("http_file_refused", file=files, error=str(error))
        else:
            self._tell("http_file_read", file=files)

    def _look(self) -> tuple[Any, ...]:
        """Return what changes when a file does."""
        return tuple(_signature_of(path) for path in self._paths)


def _signature_of(path: str) -> tuple[int, ...]:
    try:
        about = os.stat(path)  # noqa: PTH116  (what Path.stat does, without making a Path each second)
    except OSError:
        return ()
    return about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino, about.st_mode
