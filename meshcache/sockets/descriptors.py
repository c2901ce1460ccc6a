"""File descriptors, of which a process may have none left: a check for that, and an error that says so."""

from __future__ import annotations

import errno
import resource
import socket as tcp


class NoDescriptors(OSError):
    """The process, or the system, has too few descriptors left; ``strerror`` says that, and what to do."""


def require_descriptors(count: int) -> None:
    """Raise NoDescriptors if fewer than this many can be opened now."""
    taken: list[tcp.SocketType] = []  # socket objects, which are closed even if an exception interrupts this
    try:
        for _ in range(count):
            taken.append(tcp.SocketType(tcp.AF_UNIX, tcp.SOCK_STREAM))  # noqa: PERF401  (what was opened is closed)
    except OSError as error:
        raise as_os_error(error) from None
    finally:
        for one in taken:
            one.close()


def as_os_error(error: Exception) -> OSError:
    """Return the error of a system call; where no descriptors are left, its text names the limit."""
    number = getattr(error, "errno", None) or 0
    if number == errno.EMFILE:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        words = f"this process has used up its file descriptors: RLIMIT_NOFILE is {limit}"
        return NoDescriptors(number, f"{words}; raise it (ulimit -n), or close files and connections")
    if number == errno.ENFILE:
        return NoDescriptors(number, "the system has used up its file descriptors: raise fs.file-max")
    return error if isinstance(error, OSError) else OSError(number, str(error))
