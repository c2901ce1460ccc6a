"""The grammar of memcached's text protocol: which commands the bytes of a connection are.

::

    line      = word *(SP word) [CR] LF          ; any number of spaces between words; a NUL ends the line early
    command   = line / storage-line value CR LF  ; the line says how many bytes the value has

The answers to what is no command are memcached's (1.6.18), to the byte, and so is what is taken for the next command
afterwards: a value that is not taken is thrown away where memcached does that, and read as lines where it does not.

``parse`` takes all that has come of a connection at once. It is called again with what was left and what has come
since; ``needed`` says from how many bytes on that is of use. Where it says that more bytes are used up than there are,
the rest of a value is to be thrown away when it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from meshcache.protocol.memcached import meta, numbers
from meshcache.protocol.memcached.commands import (
    BAD_CHUNK,
    BAD_FORMAT,
    ERROR,
    TOO_LARGE,
    Arithmetic,
    Authenticate,
    Command,
    Delete,
    Flush,
    Meta,
    MetaDebug,
    Quit,
    Retrieve,
    Say,
    Stats,
    Store,
    Touch,
    Unstorable,
)

KEY_BYTES_MAX: Final = 250
LINE_BYTES_MAX: Final = 2048
"""An unfinished line of more bytes than these ends the connection …"""
GET_LINE_BYTES_MAX: Final = 4 << 20
"""… unless it is a ``get`` of many keys: this is enough for 16,000 of the longest."""
COMMANDS_MAX: Final = 1000
"""How many commands are read at once."""
VERSION: Final = b"1.6.18"
"""The memcached whose grammar this is."""

_BAD_LOGIN: Final = b"CLIENT_ERROR bad authentication token format\r\n"
_INT_MAX: Final = (1 << 31) - 1
_SPACES_MAX: Final = 100
_CHECKED_FIRST: Final = frozenset(b"gsacidt")
"""A command with one of these letters is known, or an ERROR; of others the line may be one of HTTP."""


class Parsed(NamedTuple):
    """What has come: commands, how many bytes they are, and how many bytes the next one needs at least (0: unknown)."""

    commands: list[Command]
    used: int
    needed: int


class _Pending(Exception):
    """A value is not there yet."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class _Bytes:
    """What has come of a connection, and how far it is read."""

    __slots__ = ("at", "data", "value_bytes_max")

    def __init__(self, data: bytes, value_bytes_max: int) -> None:
        self.data = data
        self.at = 0
        """Where the line ends that is looked at; and then, where its value does."""
        self.value_bytes_max = value_bytes_max

    def value(self, size: int) -> bytes | None:
        """Take the value after the line; None if it does not end where it should. Raises _Pending."""
        start = self.at
        end = start + size
        if end + 2 > len(self.data):
            raise _Pending(end + 2)
        self.at = end + 2
        return self.data[start:end] if self.data.startswith(b"\r\n", end) else None


def parse(data: bytes, value_bytes_max: int) -> Parsed:
    """Return the commands that are complete, COMMANDS_MAX at most."""
    commands: list[Command] = []
    source = _Bytes(data, value_bytes_max)
    used, needed, length = 0, 0, len(data)
    while used < length and len(commands) < COMMANDS_MAX:
        end = data.find(b"\n", used)
        if end < 0:
            if length - used > LINE_BYTES_MAX and not _may_be_long(data, used):
                commands.append(Quit("line_too_long"))
                used = length
            break
        words = data[used : end - 1 if end - used > 1 and data[end - 1] == 13 else end].split(b" ")
        if b"" in words or b"\0" in data[used:end]:
            words = _words(data[used:end])
        source.at = end + 1
        read, read_value = _LINES.get(words[0]), _WITH_VALUE.get(words[0])
        try:
            if read is not None:
                commands.append(read(words))
            else:
                commands.append(_unknown(words) if read_value is None else read_value(words, source))
        except meta.BadFlags as problem:
            commands.append(Say(problem.line))
        except _Pending as pending:
            needed = pending.needed - used
            break
        used = source.at
        if type(commands[-1]) is Quit:
            break
    return Parsed(commands, used, needed)


def is_binary(data: bytes) -> bool:
    """Tell whether a connection that begins like this speaks memcached's former protocol, which is not served."""
    return data.startswith(b"\x80")


def parse_authentication(data: bytes) -> Parsed:
    """Return what the first command of a connection says, where that must be a ``set`` of user and password."""
    end = data.find(b"\n")
    if end < 0:
        return Parsed([Quit("line_too_long")], len(data), 0) if len(data) > LINE_BYTES_MAX else Parsed([], 0, 0)
    words = _words(data[:end])
    size = numbers.unsigned_32(words[4]) if len(words) >= 5 and words[0] == b"set" else None
    if size is None:
        return Parsed([Say(b"CLIENT_ERROR unauthenticated\r\n")], end + 1, 0)
    if size > LINE_BYTES_MAX:
        return Parsed([Quit("line_too_long")], len(data), 0)
    stop = end + 1 + size
    if len(data) < stop + 2:
        return Parsed([], 0, stop + 2)
    return Parsed([_authenticate(data[end + 1 : stop + 2])], stop + 2, 0)


def _authenticate(value: bytes) -> Command:
    if not value.endswith(b"\r\n"):
        return Say(b"CLIENT_ERROR bad command line termination\r\n")
    given = _words(value[:-2])
    return Authenticate(given[0], given[1]) if len(given) > 1 else Say(_BAD_LOGIN)


def _words(line: bytes) -> list[bytes]:
    """Return the words of any line; one that is empty if there are none."""
    if len(line) > 1 and line.endswith(b"\r"):
        line = line[:-1]
    return [word for word in line.partition(b"\0")[0].split(b" ") if word] or [b""]


def _may_be_long(data: bytes, start: int) -> bool:
    """Tell whether an unfinished line may still become a ``get`` of many keys."""
    at = start
    while data[at : at + 1] == b" " and at - start <= _SPACES_MAX:
        at += 1
    if at - start > _SPACES_MAX or len(data) - start > GET_LINE_BYTES_MAX:
        return False
    return data.startswith((b"get ", b"gets "), at)


# ---- the classic commands


def _unknown(words: list[bytes]) -> Command:
    verb = words[0]
    if len(verb) < 2 or verb[0] in _CHECKED_FIRST or (verb[0] == ord("m") and len(verb) == 2):
        return Say(ERROR)
    return Quit("http") if words[-1].startswith(b"HTTP/") else Say(ERROR)


def _retrieve(words: list[bytes]) -> Command:
    keys = words[1:]
    if not keys:
        return Say(ERROR)
    if max(map(len, keys)) > KEY_BYTES_MAX:
        return Say(BAD_FORMAT)
    return Retrieve(keys, words[0] == b"gets", None)


def _retrieve_and_touch(words: list[bytes]) -> Command:
    if len(words) < 2:
        return Say(ERROR)
    exptime = numbers.signed(words[1])
    if exptime is None:
        return Say(b"CLIENT_ERROR invalid exptime argument\r\n")
    keys = words[2:]
    if max(map(len, keys), default=0) > KEY_BYTES_MAX:
        return Say(BAD_FORMAT)
    return Retrieve(keys, words[0] == b"gats", exptime)


def _store(words: list[bytes], source: _Bytes) -> Command:
    verb, count = words[0], len(words)
    with_unique = verb == b"cas"
    usual = 6 if with_unique else 5
    if count not in {usual, usual + 1}:
        return Say(ERROR)
    quiet = words[-1] == b"noreply"
    key = words[1]
    flags, exptime, size = numbers.unsigned_32(words[2]), numbers.signed(words[3]), numbers.signed(words[4])
    unique = numbers.unsigned_64(words[5]) if with_unique else 0
    if flags is None or exptime is None or size is None or unique is None or len(key) > KEY_BYTES_MAX:
        return Say(b"" if quiet else BAD_FORMAT)
    if not 0 <= size <= _INT_MAX - 2:
        return Say(b"" if quiet else BAD_FORMAT)
    if size > source.value_bytes_max:
        source.at += size + 2
        return Unstorable(key if verb == b"set" else b"", b"" if quiet else TOO_LARGE)
    value = source.value(size)
    if value is None:
        return Say(b"" if quiet else BAD_CHUNK)
    return Store(verb, key, flags, exptime, value, unique, quiet)


def _delete(words: list[bytes]) -> Command:
    count = len(words)
    if not 2 <= count <= 4:
        return Say(ERROR)
    quiet = words[-1] == b"noreply" and count > 2
    if count > 2:
        holds_zero = words[2] == b"0"
        if not ((count == 3 and (holds_zero or quiet)) or (count == 4 and holds_zero and quiet)):
            return Say(b"" if quiet else BAD_FORMAT[:-2] + b".  Usage: delete <key> [noreply]\r\n")
    return Say(b"" if quiet else BAD_FORMAT) if len(words[1]) > KEY_BYTES_MAX else Delete(words[1], quiet)


def _arithmetic(words: list[bytes]) -> Command:
    if len(words) not in {3, 4}:
        return Say(ERROR)
    quiet = words[-1] == b"noreply"
    if len(words[1]) > KEY_BYTES_MAX:
        return Say(b"" if quiet else BAD_FORMAT)
    delta = numbers.unsigned_64(words[2])
    if delta is None:
        return Say(b"" if quiet else b"CLIENT_ERROR invalid numeric delta argument\r\n")
    return Arithmetic(words[1], delta, words[0] == b"incr", quiet)


def _touch(words: list[bytes]) -> Command:
    if len(words) not in {3, 4}:
        return Say(ERROR)
    quiet = words[-1] == b"noreply"
    if len(words[1]) > KEY_BYTES_MAX:
        return Say(b"" if quiet else BAD_FORMAT)
    exptime = numbers.signed(words[2])
    if exptime is None:
        return Say(b"" if quiet else b"CLIENT_ERROR invalid exptime argument\r\n")
    return Touch(words[1], exptime, quiet)


def _flush(words: list[bytes]) -> Command:
    if len(words) > 3:
        return Say(ERROR)
    quiet = words[-1] == b"noreply"
    exptime: int | None = 0
    if len(words) != (2 if quiet else 1):
        exptime = numbers.signed(words[1])
    if exptime is None:
        return Say(b"" if quiet else b"CLIENT_ERROR invalid exptime argument\r\n")
    return Flush(exptime, quiet)


def _verbosity(words: list[bytes]) -> Command:
    if len(words) not in {2, 3}:
        return Say(ERROR)
    if words[-1] == b"noreply":
        return Say(b"")
    return Say(BAD_FORMAT if numbers.unsigned_32(words[1]) is None else b"OK\r\n")


def _stats(words: list[bytes]) -> Command:
    about = words[1] if len(words) > 1 else b""
    if about == b"cachedump":
        return Say(b"CLIENT_ERROR stats cachedump not allowed\r\n")
    if about == b"detail":
        return Say(b"CLIENT_ERROR usage: stats detail on|off|dump\r\n")
    return Say(b"RESET\r\n") if about == b"reset" else Stats(about)


def _crawler(words: list[bytes]) -> Command:
    refused = len(words) == 3 and words[1] in {b"crawl", b"metadump"}
    return Say(b"CLIENT_ERROR lru crawler disabled\r\n" if refused else ERROR)


def _slabs(words: list[bytes]) -> Command:
    refused = len(words) == 4 and words[1] == b"reassign"
    return Say(b"CLIENT_ERROR slab reassignment disabled\r\n" if refused else ERROR)


def _memory_limit(words: list[bytes]) -> Command:
    refused = len(words) in {2, 3} and numbers.unsigned_32(words[1]) is not None
    return Say(b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n" if refused else ERROR)


def _says(line: bytes) -> Callable[[list[bytes]], Command]:
    return lambda _: Say(line)


# ---- the meta commands


def _meta(words: list[bytes]) -> Command:
    """``mg``, ``md``, ``ma``: all that have no value. Raises BadFlags."""
    verb = words[0]
    if len(words) < 2:
        return Say(ERROR)
    if len(words[1]) > KEY_BYTES_MAX:
        return Say(BAD_FORMAT)
    if len(words) >= meta.TOKENS_MAX:
        return Say(b"CLIENT_ERROR options flags %stoo long\r\n" % (b"are " if verb == b"mg" else b""))
    try:
        flags, key = meta.read_flags(words[2:], words[1])
    except meta.BadFlags as problem:
        return Say(problem.line if verb == b"mg" else b"CLIENT_ERROR invalid or duplicate flag\r\n")
    if verb == b"ma":
        meta.check_mode(flags, _ARITHMETIC_MODES, b"CLIENT_ERROR invalid mode for ma M token\r\n")
    meta.check_opaque(flags)
    return Meta(verb, key, flags, b"")


def _meta_set(words: list[bytes], source: _Bytes) -> Command:
    if len(words) < 2:
        return Say(ERROR)
    if len(words[1]) > KEY_BYTES_MAX or len(words) == 2:
        return Say(BAD_FORMAT)
    if len(words) >= meta.TOKENS_MAX:
        return Say(b"CLIENT_ERROR options flags too long\r\n")
    size = numbers.signed(words[2])
    if size is None or not 0 <= size <= _INT_MAX - 2:
        return Say(BAD_FORMAT)
    return _meta_with_value(words, size, source)


def _meta_with_value(words: list[bytes], size: int, source: _Bytes) -> Command:
    """Read the flags of an ``ms``, and take its value, or throw it away."""
    after = source.at + size + 2
    try:
        flags, key = meta.read_flags(words[3:], words[1])
        meta.check_mode(flags, _STORE_MODES, b"CLIENT_ERROR invalid mode for ms M token\r\n")
        meta.check_opaque(flags)
    except meta.BadFlags as problem:
        source.at = after
        return Unstorable(b"", problem.line)
    if size > source.value_bytes_max:
        source.at = after
        return Unstorable(key, TOO_LARGE)
    value = source.value(size)
    return Say(BAD_CHUNK) if value is None else Meta(b"ms", key, flags, value)


def _meta_debug(words: list[bytes]) -> Command:
    if len(words) < 2 or len(words[1]) > KEY_BYTES_MAX:
        return Say(BAD_FORMAT)
    key: bytes | None = words[1]
    if len(words) >= 3 and words[2] == b"b":
        key = meta.from_base64(words[1])
    return Say(BAD_FORMAT) if key is None else MetaDebug(key, words[1])


_ARITHMETIC_MODES: Final = frozenset((b"", b"I", b"+", b"D", b"-"))
_STORE_MODES: Final = frozenset((b"", b"E", b"A", b"P", b"R", b"S"))

_WITH_VALUE: Final[dict[bytes, Callable[[list[bytes], _Bytes], Command]]] = {
    **dict.fromkeys((b"set", b"add", b"replace", b"append", b"prepend", b"cas"), _store),
    b"ms": _meta_set,
}
_LINES: Final[dict[bytes, Callable[[list[bytes]], Command]]] = {
    b"get": _retrieve,
    b"gets": _retrieve,
    b"bget": _retrieve,
    b"gat": _retrieve_and_touch,
    b"gats": _retrieve_and_touch,
    b"delete": _delete,
    b"incr": _arithmetic,
    b"decr": _arithmetic,
    b"touch": _touch,
    b"flush_all": _flush,
    b"verbosity": _verbosity,
    b"stats": _stats,
    b"version": _says(b"VERSION " + VERSION + b"\r\n"),
    b"quit": lambda _: Quit(""),
    b"shutdown": _says(b"ERROR: shutdown not enabled\r\n"),
    b"watch": _says(b"CLIENT_ERROR watch commands not allowed\r\n"),
    b"cache_memlimit": _memory_limit,
    b"lru_crawler": _crawler,
    b"slabs": _slabs,
    b"mn": _says(b"MN\r\n"),
    b"mg": _meta,
    b"md": _meta,
    b"ma": _meta,
    b"me": _meta_debug,
}
