"""Types of the native module."""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable
from typing import Any, Self, TypeVar

from meshcache.core.storage.charges import Charges
from meshcache.core.storage.tags import TagIndex

_T = TypeVar("_T")

built_from: str
"""The digest of the C sources that it was built from; see build_hook.py."""

def encode_get(
    number: int,
    boot: int,
    deadline_ms: int,
    view: bytes,
    r: int,
    w: int,
    prefix: bytes,
    keys: list[Any],
    bytes_max: int,
    /,
) -> bytes | None:
    """Twins of all these functions are in client/frames.py."""

def encode_set(
    number: int,
    boot: int,
    deadline_ms: int,
    view: bytes,
    w: int,
    ttl_ms: int,
    prefix: bytes,
    keys: list[Any],
    values: list[Any],
    encode: Callable[[Any], bytes],
    encode_all: bool,
    value_bytes_max: int,
    bytes_max: int,
    /,
) -> bytes | None: ...
def owner_of(prefix: bytes, key: Any, first: list[str | None], hot: dict[bytes, float], /) -> str | None: ...
def share_out(
    prefix: bytes, keys: list[Any], first: list[str | None], hot: dict[bytes, float], /
) -> dict[str, list[int]] | None: ...
def decode_value(frame: bytes | memoryview, number: int, view: bytes, missing: object, /) -> Any: ...
def decode_values(
    frame: bytes | memoryview, number: int, view: bytes, keys: list[Any], /
) -> tuple[dict[Any, Any], list[Any]] | None: ...
def decode_done(frame: bytes | memoryview, number: int, view: bytes, /) -> bool | None: ...
def decode_reply(frame: bytes | memoryview, view: bytes, missing: object, /) -> tuple[int, list[Any] | None] | None: ...
def receive_when_there(
    zmq_getsockopt: int, socket: int, descriptor: int, timeout_ms: int, recv: Callable[[int], _T], flags: int, /
) -> _T:
    """See ``waiting_receiver`` in sockets/dealer.py."""

def socket_state(zmq_getsockopt: int, socket: int, ask: Callable[[], int], /) -> int:
    """See ``state_reader`` in sockets/dealer.py."""

def wake(waiting: list[Any], /) -> None: ...

class Pending:
    """The twin of ``PurePending`` in client/aio/pending.py, where the twins of what follows are, too."""

    attempt: Any
    key: Any
    started: float
    def __new__(cls, loop: Any, attempt: Any, key: Any, started: float, /) -> Self: ...
    def __await__(self) -> Generator[Any, None, Any]: ...
    def done(self) -> bool: ...

class Gathering:
    is_open: bool
    loop: Any
    keys: list[Any]
    waiting: list[Any]
    def __new__(cls, loop: Any, /) -> Self: ...
    def tell(self, answers: list[Any], /) -> list[Any]: ...

class Gets:
    def __new__(
        cls,
        copy_of: Callable[[Any], Any],
        missing: object,
        fast: Any,
        routing: Any,
        prefix: bytes,
        attempt: Any,
        begin: Callable[[Any, str, float], Any],
        full: Callable[[str], object],
        most: tuple[int, int],
        running_loop: Callable[[], Any],
        /,
    ) -> Self: ...
    def __call__(self, key: Any, /) -> Any: ...

class NearReads:
    """The twin of ``pure_near_reads`` in client/near_cache.py."""

    def __init__(
        self,
        found: dict[Any, Any],
        near: Any,
        entries: OrderedDict[bytes, Any],
        clock: Callable[[], float],
        decode: Callable[[bytes], Any],
        find: Callable[[Any], bool],
        missing: object,
        /,
    ) -> None: ...
    def __call__(self, key: Any, /) -> Any: ...

class UsualRequests:
    """See serve.c, and core/operations/usual.py for what it is given."""

    def __new__(cls, **parts: Any) -> Self: ...
    def serve(self, origin: bytes, frame: bytes | memoryview, /) -> bool | None:
        """Serve a frame, if it is usual. True: that was done; None: Python went on with it; False: nothing was done."""
    def take(self, address: str, frame: bytes | memoryview, /) -> bool | None:
        """Take a frame from another node that this one asked, if it is a usual answer. The same is returned."""

class UsualTurns:
    """See turns.c, and node/usual_turns.py for what it is given."""

    def __new__(cls, **parts: Any) -> Self: ...
    def serve(
        self, deadline: float, stood_still_s: float, ahead_s_max: float, peers: tuple[tuple[int, int, str, Any], ...], /
    ) -> list[tuple[int, int]]:
        """Serve what is usual, until there is something else to do: return as epoll's poll what woke.

        ``deadline``: when that is at the latest, by the monotonic clock. ``peers``: see Links.lines.
        """
    def gather(
        self, most: int, size_max: int, head: bytes, /
    ) -> tuple[dict[bytes, list[bytes]], tuple[bytes] | tuple[bytes, bytes] | None]:
        """Receive frames of ``size_max`` bytes at most that begin with ``head``, so many at most, until another comes.

        Returns them by connection, and what else came: its connection, with its frame if the connection is known; or
        None. More parts of that frame may be left to receive.
        """

class Entries:
    """What a store holds; see meshcache/core/storage/native.py. Most methods are those of Store."""

    max_entries: int
    max_bytes: int
    @property
    def slots(self) -> int: ...
    @property
    def tags(self) -> TagIndex: ...
    @property
    def floors(self) -> list[bytes]: ...
    @property
    def charges(self) -> Charges: ...
    @property
    def digests(self) -> list[bytes]:
        """By slot, the digest that was computed last."""
    def __new__(
        cls,
        slots: int,
        max_entries: int,
        max_bytes: int,
        tombstone_bytes_max: int,
        grace_ms: int,
        is_s3fifo: bool,
        charges: Charges,
        tags: TagIndex,
        /,
    ) -> Self: ...
    def __contains__(self, key: bytes, /) -> bool: ...
    def read(self, keys: list[bytes], now_bytes: bytes, /) -> list[bytes | None]: ...
    def peek(self, key: bytes, /) -> bytes | None: ...
    def merge(
        self, keys: list[bytes], records: list[bytes], now_ms: int, /
    ) -> tuple[list[list[int | bytes]], list[int]]: ...
    def expire(self, now_ms: int, budget: int, /) -> bool: ...
    def keys_of_slot(self, slot: int, /) -> list[bytes]: ...
    def keys_of_ring(self, ring: int, /) -> list[bytes]: ...
    def drop_slot(self, slot: int, /) -> int: ...
    def sweep(self, slot: int, prefix: bytes, version: bytes, /) -> int: ...
    def clear(self) -> None: ...
    def slot_of(self, key: bytes, /) -> int: ...
    def versioned_keys(self, slot: int, /) -> list[bytes]:
        """Return a slot's keys, each followed by its version."""
    def count_of_slot(self, slot: int, /) -> int:
        """Return how many keys a slot has."""
    def is_changed(self, slot: int, /) -> bool:
        """Tell whether a slot has changed since ``take_changed``."""
    def take_changed(self, slot: int, /) -> bool:
        """Tell the same, and begin anew."""
    def bury_entries(
        self, indices: Iterable[int], version: bytes, until_ms: int, now_ms: int, limit: int, /
    ) -> dict[bytes, bool]:
        """Do as Store.bury with the entries at these indices."""
    def counts(self) -> tuple[int, ...]:
        """Return the fields of StoreStatistics, but for those on tags."""
    def sizes(self) -> tuple[int, int, int]:
        """Return how many keys, indices and free indices there are."""
