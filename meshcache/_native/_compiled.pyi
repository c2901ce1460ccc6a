"""Types of the native module."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

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
