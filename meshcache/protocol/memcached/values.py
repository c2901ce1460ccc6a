"""Values, as memcached's clients give and get them: with 32 bits of flags, a lifetime, and a ``cas unique``.

**Flags.** A client's flags say what its library made the value of. Those of pymemcache, which others share, mean what
the codec of ``Client`` has a tag for: 0 bytes, 16 text, 2 an integer. Such a value is stored with that tag, and so both
doors read what the other wrote. All other flags are kept in the record's extras, and so are 16 and 2 with a value that
is no such text or integer: ``Client`` gets the bytes; an integer of flags 4 (pymemcache's "long") is one to it, too.
What only ``Client`` can express is given with flags 0, as the bytes that are stored.

**cas unique.** It is the first half of the record's version: the hybrid logical clock of the write, 64 bits. It rises
with every write of a key, and a touch does not change it. Two writes of one key that two nodes coordinate within one
millisecond can have the same number, and the later one by the whole version stays; a client that read the other one in
that moment would not be told by its ``cas``. Within the mesh the whole version is compared.

**Stale.** An item that was marked stale is one whose time to be computed anew (``soft_expires_ms``) has come, which is
what it is to ``Client``, too.
"""

from __future__ import annotations

import re
from typing import Final

from meshcache.protocol.record import (
    EXTRAS,
    HEADER_BYTES,
    NEVER_MS,
    NO_EXTRAS,
    STAMP_BYTES,
    TOMBSTONE,
    Extras,
    content_of,
    expires_ms_of,
    extras_of,
    split_content,
    with_extras,
)

FLAGS_BYTES: Final = 0
FLAGS_INT: Final = 2
FLAGS_LONG: Final = 4
FLAGS_TEXT: Final = 16

STALE_FOR_MS: Final = 1000
"""What is marked stale has been so for as long: a client's idea of the node's clock may be a little behind."""
RELATIVE_S_MAX: Final = 60 * 60 * 24 * 30
"""A greater ``exptime`` is a time of day, in seconds since 1970."""
EXPTIME_MAX_MS: Final = (1 << 47) - 1

_TAG_TEXT: Final = 1
_TAG_INT: Final = 2
_INT: Final = re.compile(rb"-?[0-9]{1,19} *\Z")
_INT64: Final = range(-(1 << 63), 1 << 63)
"""Integers to ``Client``. The spaces are what a ``decr`` leaves behind a number that has become shorter."""
_FLAGS_OF_TAG: Final = {_TAG_TEXT: FLAGS_TEXT, _TAG_INT: FLAGS_INT}
_TOLD_FLAGS: Final = [b"%d" % _FLAGS_OF_TAG.get(tag, FLAGS_BYTES) for tag in range(256)]


def ttl_ms(exptime: int, wall_ms: int) -> int | None:
    """Return how long a value lives by its ``exptime``, in milliseconds; 0: for ever; None: it is over already."""
    if exptime == 0:
        return 0
    left_ms = exptime * 1000 - (wall_ms if exptime > RELATIVE_S_MAX else 0)
    return left_ms if left_ms > 0 else None


def content(flags: int, value: bytes, *, leased: bool = False, soft_expires_ms: int | None = None) -> bytes:
    """Return a value with its flags as the content of a record; ``leased`` and ``soft_expires_ms`` as in Extras."""
    tag = 0
    if flags == FLAGS_TEXT:
        tag = _TAG_TEXT if _is_text(value) else 0
    elif flags in {FLAGS_INT, FLAGS_LONG} and _INT.match(value) and int(value) in _INT64:
        tag = _TAG_INT
    plain = bytes((0, tag)) + value
    told = _FLAGS_OF_TAG.get(tag, FLAGS_BYTES) == flags
    if told and not leased and soft_expires_ms is None:
        return plain
    return with_extras(
        plain, Extras(client_flags=None if told else flags, leased=leased, soft_expires_ms=soft_expires_ms)
    )


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


class Item:
    """A live record, as memcached has an item."""

    __slots__ = ("expires_ms", "extras", "flags", "record", "unique", "value")

    def __init__(self, record: bytes) -> None:
        self.record = record
        self.unique = unique_of(record)
        self.expires_ms = expires_ms_of(record)
        self.extras = extras_of(record)
        self.value = value_of(record)
        own = self.extras.client_flags
        self.flags = _FLAGS_OF_TAG.get(record[HEADER_BYTES - 1], FLAGS_BYTES) if own is None else own

    def is_stale(self, wall_ms: int) -> bool:
        """Tell whether it was marked stale, or its value is to be computed anew."""
        soft_expires_ms = self.extras.soft_expires_ms
        return soft_expires_ms is not None and soft_expires_ms <= wall_ms

    def ttl_ms(self, wall_ms: int) -> int:
        """Return what is left of its life, for another record; 0: for ever."""
        return 0 if self.expires_ms == NEVER_MS else max(1, self.expires_ms - wall_ms)

    def ttl_told(self, wall_ms: int) -> bytes:
        """Return the seconds that are left of its life, as they are told."""
        return b"-1" if self.expires_ms == NEVER_MS else b"%d" % -(-(self.expires_ms - wall_ms) // 1000)

    def age_s(self, wall_ms: int) -> int:
        """Return how long ago it was written, in whole seconds; 0 where it was over at once, and so was not."""
        return max(0, wall_ms - (self.unique >> 16)) // 1000 if self.unique else 0

    def marked(self, *, leased: bool, soft_expires_ms: int | None) -> bytes:
        """Return its content with other marks."""
        extras = self.extras
        plain = bytes((0, self.record[HEADER_BYTES - 1])) + self.value
        return with_extras(
            plain, Extras(extras.tags, soft_expires_ms, extras.load_ms, extras.client_flags, leased=leased)
        )

    def with_value(self, value: bytes, *, keeps_marks: bool) -> bytes:
        """Return the content of another value that is of the same kind to its clients, flags and tags included."""
        extras = self.extras
        fresh = content(self.flags, value)
        own = extras_of(bytes(STAMP_BYTES) + fresh) if fresh[0] else NO_EXTRAS
        kept = Extras(
            extras.tags,
            extras.soft_expires_ms if keeps_marks else None,
            extras.load_ms,
            own.client_flags,
            leased=extras.leased and keeps_marks,
        )
        if self.record[HEADER_BYTES - 1] not in {0, _TAG_TEXT, _TAG_INT}:
            return split_content(content_of(self.record))[0] + value
        return with_extras(bytes((0, fresh[1])) + value, kept)


def live(record: bytes | None, now_bytes: bytes) -> bytes | None:
    """Return a record if there is one, and a reader may see its value."""
    if record is None or record[16:22] <= now_bytes or record[STAMP_BYTES] & TOMBSTONE:
        return None
    return record


def unique_of(record: bytes) -> int:
    """Return the ``cas unique`` of a record."""
    return int.from_bytes(record[:8], "big")


def value_of(record: bytes) -> bytes:
    """Return the value of a record, without extras."""
    if not record[STAMP_BYTES] & EXTRAS:
        return record[HEADER_BYTES:]
    try:
        return split_content(content_of(record))[1]
    except ValueError:  # cut short, and so ignored
        return record[HEADER_BYTES:]


def lines(keys: list[bytes], records: list[bytes | None], *, unique: bool) -> list[bytes]:
    """Return what a ``get`` or ``gets`` is answered, without the END. Records that have expired are not among these."""
    told = _TOLD_FLAGS
    if unique:
        return [_line(key, record, b" %d" % unique_of(record)) for key, record in zip(keys, records, strict=True)
                if record is not None and not record[22] & TOMBSTONE]  # fmt: skip
    return [
        b"VALUE %b %b %d\r\n%b\r\n" % (key, told[record[23]], len(record) - 24, record[24:])
        if not record[22]
        else _line(key, record, b"")
        for key, record in zip(keys, records, strict=True)
        if record is not None and not record[22] & TOMBSTONE
    ]


def _line(key: bytes, record: bytes, unique: bytes) -> bytes:
    item = Item(record)
    return b"VALUE %b %d %d%b\r\n%b\r\n" % (key, item.flags, len(item.value), unique, item.value)
