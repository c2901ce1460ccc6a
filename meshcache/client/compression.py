"""Values made smaller on their way to the nodes, by zstd; off by default.

A client with ``compress="zstd"`` compresses what its codec made of a value, if that has ``compress_min_bytes`` at least
and becomes smaller. Nodes do not notice. The tag of the codec has the bit ``ZSTD`` added then, so every client reads
such a value, whatever its own options are, as long as it has a library for it: Python's own from 3.14 on, else the
package ``backports.zstd``, which is the same for older ones. A program without one gets an error that says what to
install. Integers are never compressed, since nodes count with them.

Hostile values: a few bytes may claim to be, or become, gigabytes. So a zstd frame must say how long its content is,
and that may be no more than a value may have: by the limit of the cluster or, where that is less, ``VALUE_BYTES_MAX``,
since a client that has not been greeted yet goes by it. The window that a frame asks for is bounded by the same. What
is longer than this is not compressed when it is written, and so is judged as without compression.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final, Literal, get_args

from meshcache.errors import ConfigError, SerializationError
from meshcache.protocol.record import CONTENT_FLAG_BYTES, HEADER_BYTES, STAMP_BYTES

Compress = Literal["zstd", "off"]

ZSTD: Final = 0x80
"""Bit of a codec's tag: what follows is a zstd frame; the other bits tell how to read its content."""
VALUE_BYTES_MAX: Final = 1 << 24
"""The limit of values unless a cluster configures another one."""
MIN_BYTES: Final = 1024
_LEVEL: Final = 1
"""A value of 1 MB takes two thirds of the time of level 3, and becomes as small within a few percent."""
_WINDOW_LOG_MIN: Final = 10
_WINDOW_LOG_MAX: Final = 30
_MODULE: Final = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
_INSTALL: Final = f"it needs the module {_MODULE}: pip install 'meshcache[zstd]'"


def compress_of(compress: object) -> Compress:
    """Check the option ``compress``. Raises ConfigError if it is on and there is no library for it."""
    if compress not in get_args(Compress):
        raise ValueError(f'compress must be "zstd" or "off", is {compress!r:.80}')
    if compress == "zstd" and _zstd() is None:
        raise ConfigError(f'compress="zstd": {_INSTALL}')
    return compress  # type: ignore[return-value]  # just checked


def min_bytes_of(min_bytes: object) -> int:
    """Check the option ``compress_min_bytes``."""
    if isinstance(min_bytes, bool) or not isinstance(min_bytes, int):
        raise TypeError(f"compress_min_bytes must be an int, is {min_bytes!r:.80}")
    if min_bytes < 0:
        raise ValueError(f"compress_min_bytes must not be negative, is {min_bytes}")
    return min_bytes


def compressed(content: bytes, min_bytes: int, bytes_max: int) -> bytes:
    """Return a content without extras in its smaller form, or as it is if it is short, too long, or has none."""
    size = len(content) - CONTENT_FLAG_BYTES
    if not min_bytes <= size <= bytes_max:
        return content
    smaller: bytes = _required().compress(memoryview(content)[CONTENT_FLAG_BYTES:], _LEVEL)
    return content if len(smaller) >= size else bytes((content[0], content[1] | ZSTD)) + smaller


def decompressed(record: bytes, bytes_max: int) -> bytes:
    """Return a record without extras as it was before it was compressed. Raises SerializationError."""
    zstd, data = _required(), memoryview(record)[HEADER_BYTES:]
    bytes_max = max(bytes_max, VALUE_BYTES_MAX)
    try:
        size = zstd.get_frame_info(data).decompressed_size
        if size is None or size > bytes_max:
            told = "an unknown number of" if size is None else f"{size:,}"
            raise SerializationError(f"the value takes {told} bytes when decompressed; the limit is {bytes_max:,}")
        window_log = min(max(bytes_max.bit_length(), _WINDOW_LOG_MIN), _WINDOW_LOG_MAX)
        reader = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window_log})
        value = reader.decompress(data, max_length=size)
    except zstd.ZstdError as error:
        raise SerializationError(f"the value can not be decompressed: {error}") from error
    if len(value) != size or not reader.eof or reader.unused_data:
        raise SerializationError(f"the value can not be decompressed: it is not one frame of {size:,} bytes")
    flags = bytes((record[STAMP_BYTES], record[HEADER_BYTES - 1] & ~ZSTD))
    return b"".join((record[:STAMP_BYTES], flags, value))


def _zstd() -> Any:
    """Return the module of zstd; None if there is none. Looked up each time, which costs no more than half a µs."""
    try:
        return importlib.import_module(_MODULE)
    except ImportError:
        return None


def _required() -> Any:
    zstd = _zstd()
    if zstd is None:
        raise SerializationError(f"the value is compressed with zstd; {_INSTALL}")
    return zstd
