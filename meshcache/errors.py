"""Every error that meshcache raises, in one tree.

::

    MeshcacheError
    ├── ConfigError (ValueError)             a setting, or several: all of them are listed
    ├── ProtocolError                        the other side broke the protocol
    ├── UsageError (RuntimeError)            an object is used as it can not be: by another event loop, held already
    │   └── ClientClosed                     the client was closed before
    └── OperationError                       an operation did not succeed
        ├── OperationTimeout (TimeoutError)  its deadline passed
        ├── NodeUnavailable (ConnectionError)  no node could be reached, or the one reached is not ready
        ├── QuorumNotReached                 .needed and .received say how far it got
        ├── Overloaded                       a limit of the node was reached; nothing was done; .retry_after_s
        ├── InvalidKey (ValueError)          not str or bytes, empty, or too long
        ├── ValueTooLarge (ValueError)       .size and .limit, in bytes
        ├── SerializationError (TypeError)   the codec cannot encode or decode the value
        ├── KeyMissing (KeyError)            the operation needs a key that is there
        ├── NotANumber (TypeError)           incr or decr of something else than an integer
        ├── AuthFailed (PermissionError)     the node refused this client
        ├── LockNotOwned                     the lock was lost, or never held
        ├── QueueFull                        write-behind has no room; .waiting and .limit
        └── QueueUnusable                    the file of write-behind is in use, damaged or closed

All can be pickled, as a process pool does with what its workers raise.
A leaf also derives from the builtin that a caller would guess, so ``except TimeoutError`` works.
A miss is no error, and an error is never reported as a miss.
Arguments that make no sense are no errors of this tree, but for the keys, values and settings above: they raise
TypeError or ValueError, as Python's own functions do, before anything was done.
"""

from __future__ import annotations

from typing import Any


class MeshcacheError(Exception):
    """The root: ``except MeshcacheError`` catches whatever meshcache raises, but for arguments that make no sense."""


class ConfigError(MeshcacheError, ValueError):
    """The configuration has mistakes; ``problems`` lists every one of them, each with its dotted path."""

    def __init__(self, problems: str | list[str]) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,), vars(self)


class ProtocolError(MeshcacheError):
    """Bytes from the network that are no message of ours, or a message at the wrong time."""


class UsageError(MeshcacheError, RuntimeError):
    """An object is used as it can not be; the text says what to do instead. It is the program that must change."""


class ClientClosed(UsageError):
    """The client was closed before."""

    def __init__(self, text: str = "this client is closed: make a new one, or close it later") -> None:
        super().__init__(text)


class OperationError(MeshcacheError):
    """An operation on the cache did not succeed."""


class OperationTimeout(OperationError, TimeoutError):
    """The deadline passed. A write may or may not have been applied."""


class NodeUnavailable(OperationError, ConnectionError):
    """No node could be reached, or those reached do not serve yet.

    Nothing was done, unless the text says that it may be: an add, replace, cas or incr whose node went away.
    """


class QuorumNotReached(OperationError):
    """Too few replicas answered in time.

    A write may have reached ``received`` replicas and can still appear. Repeating a set or delete is safe; an incr,
    add, replace or cas may have been applied.
    """

    def __init__(self, needed: int, received: int, what: str = "operation") -> None:
        super().__init__(f"{what}: {received} of {needed} needed replicas answered in time")
        self.needed = needed
        self.received = received
        self._what = what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.needed, self.received, self._what), vars(self)


class Overloaded(OperationError):
    """The nodes have as much pending work as their limits allow; nothing was done.

    ``retry_after_s`` says after how many seconds it is worth calling again. Add a random time to it where many callers
    wait, so that they do not return together.
    """

    def __init__(self, text: str = "too much pending work; nothing was done", retry_after_s: float = 0.05) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.retry_after_s), vars(self)


class InvalidKey(OperationError, ValueError):
    """A key must be str or bytes, of 1 to 1,024 bytes in UTF-8."""


class ValueTooLarge(OperationError, ValueError):
    """The encoded value exceeds the limit of the cluster (``limits.value_bytes_max``)."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the value takes {size:,} bytes when encoded; limits.value_bytes_max is {limit:,}")
        self.size = size
        self.limit = limit

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.size, self.limit), vars(self)


class SerializationError(OperationError, TypeError):
    """The codec can not encode this value, or can not decode what is stored."""


class KeyMissing(OperationError, KeyError):
    """The key is not in the cache and the call gave no initial value."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument: right for a key, wrong for a sentence.
        return str(self.args[0]) if self.args else ""


class NotANumber(OperationError, TypeError):
    """The stored value is no integer, or the sum leaves the signed 64-bit range."""


class AuthFailed(OperationError, PermissionError):
    """The node refused this client: its key, or what it asked for with it. Nothing was done."""


class LockNotOwned(OperationError):
    """The lock expired or is held by another."""


class QueueFull(OperationError):
    """The queue of write-behind had no room in time; the write was not accepted."""

    def __init__(self, waiting: int, limit: int) -> None:
        super().__init__(f"{waiting:,} writes wait for the database or are set aside, and the queue takes {limit:,}")
        self.waiting = waiting
        self.limit = limit

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.waiting, self.limit), vars(self)


class QueueUnusable(OperationError):
    """The queue of write-behind: another process has its file open, it can not be read or written, or it is closed."""
