"""Values to bytes and back, on the client; nodes never look inside.

What a client stores is a *content*: two flag bytes and the value. The first flag byte belongs to the nodes and is zero
here (if the entry has extras, record.py puts them behind the flags, and marks them in that byte); the second is the tag
that says how to read the value, whichever client wrote it::

    0  bytes       as they are (bytearray and memoryview come back as bytes)
    1  str         UTF-8; lone surrogates survive
    2  int         decimal digits, so that nodes can count; within 64 bits, and no bool
    3  anything    msgpack with tagged types: what comes back equals what went in
    4  anything    pickle: only if both the writer and the reader asked for it by name
    5  anything    the caller's own codec
    +128           the same, compressed: compression.py

plain.py turns the types that msgpack lacks into types that it has; users also register types of their own there.
survey.py finds values that msgpack must not be given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

import msgpack

from meshcache.client.compression import MIN_BYTES, VALUE_BYTES_MAX, ZSTD, Compress, compressed, decompressed
from meshcache.client.plain import MARK, form_of, framed, register, restore, restore_container, translate
from meshcache.client.survey import Plains, survey
from meshcache.errors import ConfigError, SerializationError
from meshcache.protocol.record import EXTRAS, HEADER_BYTES, STAMP_BYTES, without_extras
from meshcache.protocol.wire import LARGE_BYTES, Pieces

__all__ = ["Codec", "ValueCodec", "register"]

BYTES: Final = 0
STR: Final = 1
INT: Final = 2
MSGPACK: Final = 3
PICKLE: Final = 4
CUSTOM: Final = 5

_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 63) - 1


@runtime_checkable
class ValueCodec(Protocol):
    """What ``codec=`` takes: any object with these two methods, inverse to each other."""

    def encode(self, value: Any) -> bytes:
        """Return the bytes to store."""
        ...

    def decode(self, data: bytes) -> Any:
        """Return the value of stored bytes."""
        ...


CODEC_AT: Final = HEADER_BYTES - 1
"""The position of the codec's tag in a record."""


class _Limit:
    """What bounds the values of one client; an object of its own, so that no codec is part of a cycle."""

    __slots__ = ("value_bytes_max",)

    def __init__(self) -> None:
        self.value_bytes_max: Callable[[], int] = lambda: VALUE_BYTES_MAX


class Codec:
    """What one client does with values.

    ``encode`` makes contents of values. ``readers`` has a table by the first flag byte, and in that a function by the
    second one which reads a record: a record without extras so needs no further check.
    """

    __slots__ = (
        "_encoders",
        "_fallback",
        "_limit",
        "chosen",
        "compress",
        "compress_min_bytes",
        "encodes_all",
        "readers",
    )

    def __init__(
        self, codec: str | ValueCodec | None = None, compress: Compress = "off", compress_min_bytes: int = MIN_BYTES
    ) -> None:
        """``codec``: None or "msgpack", "pickle", or an object with encode and decode, which then gets every value."""
        self.chosen = codec
        self.compress = compress
        self.compress_min_bytes = compress_min_bytes
        self._limit = limit = _Limit()
        readers: list[Callable[[bytes], Any]] = [_refuse] * 256
        skipping = [lambda record: readers[record[HEADER_BYTES - 1]](without_extras(record))] * 256
        self.readers = [skipping if flags & EXTRAS else readers for flags in range(256)]
        readers[:4] = [_read_bytes, _read_str, _read_int, _read_msgpack]
        self._encoders: dict[type, Callable[[Any], bytes]] = {
            bytes: b"\0\0".__add__,
            str: _encode_str,
            int: _encode_int,
            bytearray: _encode_buffer,
            memoryview: _encode_buffer,
        }
        self._fallback: Callable[[Any], bytes] = _encode_msgpack
        self.encodes_all = compress == "zstd"
        """Whether each value is to be encoded here, also bytes, str and int: else those may be made contents of by who
        knows how."""
        if codec == "pickle":
            import pickle  # noqa: PLC0415  (asked for by name, which says that the network is trusted)

            self._fallback = lambda value: b"\0\4" + pickle.dumps(value, protocol=5)
            readers[PICKLE] = lambda record: pickle.loads(record[HEADER_BYTES:])  # noqa: S301  (as above)
        elif codec is not None and not isinstance(codec, str):
            if not isinstance(codec, ValueCodec):
                raise ConfigError(f"codec: must have the methods encode and decode, {type(codec).__name__} has not")
            own = codec
            self._encoders = {}
            self.encodes_all = True
            self._fallback = lambda value: b"\0\5" + own.encode(value)
            readers[CUSTOM] = lambda record: own.decode(record[HEADER_BYTES:])
        elif codec not in {None, "msgpack"}:
            raise ConfigError(f'codec: must be "msgpack", "pickle" or an object with encode and decode, is {codec!r}')

        def read_compressed(record: bytes) -> Any:
            plain = decompressed(record, limit.value_bytes_max())
            return readers[plain[CODEC_AT]](plain)

        readers[ZSTD : ZSTD + CUSTOM + 1] = [read_compressed] * (CUSTOM + 1)
        if compress == "zstd":
            self._encoders = {kind: self._then_compressed(encode) for kind, encode in self._encoders.items()}
            self._fallback = self._then_compressed(self._fallback)

    def limit_by(self, value_bytes_max: Callable[[], int]) -> None:
        """Have what tells the limit of values, as far as it is known, bound what is compressed and decompressed."""
        self._limit.value_bytes_max = value_bytes_max

    def encode(self, value: Any) -> bytes:
        """Return the content of a value. Raises SerializationError that names the type and where it is."""
        encoder = self._encoders.get(type(value), self._fallback)
        try:
            return encoder(value)
        except SerializationError:
            raise
        except Exception as error:
            if succeeds(encoder, value):
                raise
            raise SerializationError(f"can not encode {type(value).__qualname__}: {error}") from error

    def content(self, value: Any) -> bytes | Pieces:
        """Return the same as ``encode`` for a request of its own, in pieces where a copy is worth it."""
        if type(value) is bytes and len(value) >= LARGE_BYTES and not self.encodes_all:
            return Pieces(b"\0\0", value)
        return self.encode(value)

    def decode(self, record: bytes) -> Any:
        """Return the value of a live record. Raises SerializationError, and nothing else."""
        try:
            return self.readers[record[STAMP_BYTES]][record[HEADER_BYTES - 1]](record)
        except SerializationError:
            raise
        except Exception as error:
            if succeeds(lambda: self.readers[record[STAMP_BYTES]][record[HEADER_BYTES - 1]](record)):
                raise
            size = len(record) - HEADER_BYTES
            why = f"{type(error).__name__}: {error}"
            raise SerializationError(f"can not decode the {size:,} bytes stored: {why}") from error

    def _then_compressed(self, encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
        min_bytes, limit = self.compress_min_bytes, self._limit

        def encode_smaller(value: Any) -> bytes:
            content = encode(value)
            if content[1] == INT:
                return content
            return compressed(content, min_bytes, limit.value_bytes_max())

        return encode_smaller

    def hits(self, keys: list[Any], records: list[Any], is_visible: Callable[[bytes], bool]) -> dict[Any, Any]:
        """Return the values of the keys that have a record; a record with any mark only if ``is_visible``.

        Raises anything that a malformed record can cause.
        """
        readers = self.readers
        return {
            key: readers[flags][record[CODEC_AT]](record)
            for key, record in zip(keys, records, strict=False)
            if record is not None and (not (flags := record[STAMP_BYTES]) or is_visible(record))
        }


def succeeds(work: Callable[..., Any], *given: Any) -> bool:
    """Tell whether work that has just failed succeeds now: then the error came from a signal handler during it."""
    try:
        work(*given)
    except Exception:  # noqa: BLE001  (as it was caught before)
        return False
    return True


# ---- encoding


def _encode_str(value: str) -> bytes:
    return b"\0\1" + value.encode("utf-8", "surrogatepass")


def _encode_int(value: int) -> bytes:
    if _INT_MIN <= value <= _INT_MAX:
        return b"\0\2%d" % value
    return _encode_msgpack(value)


def _encode_buffer(value: bytearray | memoryview) -> bytes:
    return b"\0\0" + bytes(value)


def _encode_msgpack(value: Any) -> bytes:
    plains = survey(value)
    default = _translate_with(plains) if plains else translate
    packed: bytes = msgpack.packb(value, default=default, strict_types=True, unicode_errors="surrogatepass")
    return b"\0\3" + packed


def _translate_with(plains: Plains) -> Callable[[Any], Any]:
    def translate_known(value: Any) -> Any:
        if id(value) in plains and (form := form_of(type(value))) is not None:
            return framed(form, plains[id(value)])
        return translate(value)

    return translate_known


# ---- decoding


def _read_bytes(record: bytes) -> bytes:
    return record[HEADER_BYTES:]


def _read_str(record: bytes) -> str:
    return record[HEADER_BYTES:].decode("utf-8", "surrogatepass")


def _read_int(record: bytes) -> int:
    return int(record[HEADER_BYTES:])


def _read_msgpack(record: bytes) -> Any:
    """Decode nested values. msgpack bounds each length by the bytes that are there, and the depth by 1,024."""
    data = record[HEADER_BYTES:]
    return msgpack.unpackb(
        data,
        ext_hook=restore,
        list_hook=restore_container if MARK in data else None,
        strict_map_key=False,
        unicode_errors="surrogatepass",
    )


def _refuse(record: bytes) -> Any:
    tag = record[HEADER_BYTES - 1]
    if tag == PICKLE:
        raise SerializationError('the value is a pickle: only a client with codec="pickle" reads those')
    if tag == CUSTOM:
        raise SerializationError("the value was stored by a client with a codec of its own; give this one the same")
    raise SerializationError(f"the value has the unknown codec tag {tag}; was it stored by a newer version?")
