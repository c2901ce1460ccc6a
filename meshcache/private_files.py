"""Files with secrets in them: they are read only if nobody but their owner could have read or changed them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from meshcache.errors import ConfigError


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError, also for what is no file: to open a pipe would wait for its writer."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no file")
    return file


def read_privately(path: Path, bytes_max: int, setting: str) -> bytes:
    """Read a file that only its owner may read. Raises ConfigError; ``setting`` is what names the file.

    A file of another user that this process may read by its group is accepted: that is how Kubernetes hands out
    secrets.
    """
    try:
        with open_file(path) as file:
            about = os.fstat(file.fileno())
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; {setting} names it") from None
    refused = stat.S_IRWXO | stat.S_IWGRP | (stat.S_IRGRP if about.st_uid == os.geteuid() else 0)
    if about.st_mode & refused:
        mode = stat.S_IMODE(about.st_mode)
        raise ConfigError(f"{path}: others may read or write it (mode {mode:04o}): chmod 600 {path}")
    if len(content) > bytes_max:
        raise ConfigError(f"{path}: is longer than {bytes_max:,} bytes, so it is not what {setting} needs")
    return content
