"""The commands of memcached's text protocol, as the grammar has understood them.

``exptime`` is the number of the command, as it came: see ``values.ttl_ms``. ``quiet``: the client wants no answer.
"""

from __future__ import annotations

from typing import Final, NamedTuple

ERROR: Final = b"ERROR\r\n"
BAD_FORMAT: Final = b"CLIENT_ERROR bad command line format\r\n"
BAD_CHUNK: Final = b"CLIENT_ERROR bad data chunk\r\n"
TOO_LARGE: Final = b"SERVER_ERROR object too large for cache\r\n"
NO_MEMORY: Final = b"SERVER_ERROR out of memory storing object\r\n"


class Retrieve(NamedTuple):
    """``get``, ``gets``; with ``exptime`` also ``gat``, ``gats``. ``unique``: each value with its ``cas unique``."""

    keys: list[bytes]
    unique: bool
    exptime: int | None


class Store(NamedTuple):
    """``set``, ``add``, ``replace``, ``append``, ``prepend``, ``cas``: the verb tells which. ``unique``: of ``cas``."""

    verb: bytes
    key: bytes
    flags: int
    exptime: int
    value: bytes
    unique: int
    quiet: bool


class Delete(NamedTuple):
    """``delete``."""

    key: bytes
    quiet: bool


class Arithmetic(NamedTuple):
    """``incr`` and ``decr``."""

    key: bytes
    delta: int
    rises: bool
    quiet: bool


class Touch(NamedTuple):
    """``touch``."""

    key: bytes
    exptime: int
    quiet: bool


class Flush(NamedTuple):
    """``flush_all``; ``exptime`` says when."""

    exptime: int
    quiet: bool


class Stats(NamedTuple):
    """``stats``, with what it is asked about; empty: the general ones."""

    about: bytes


class Say(NamedTuple):
    """A command whose answer needs no look at the mesh; empty: none. An error is counted as one."""

    line: bytes


class Unstorable(NamedTuple):
    """A value that is not taken, and is thrown away. ``key``: what it would have replaced must go, too; or empty."""

    key: bytes
    line: bytes


class Quit(NamedTuple):
    """The connection ends when all before it is answered. ``why``: for the log, if the client did not ask for it."""

    why: str


class Authenticate(NamedTuple):
    """What the first ``set`` of a connection said, where a password is asked for."""

    user: bytes
    password: bytes


class Meta(NamedTuple):
    """``mg``, ``ms``, ``md``, ``ma``: the verb tells which. ``flags`` in the order in which they are to be answered."""

    verb: bytes
    key: bytes
    flags: MetaFlags
    value: bytes


class MetaDebug(NamedTuple):
    """``me``. ``name``: the key as it is to be told."""

    key: bytes
    name: bytes


class MetaFlags:
    """The flags of a meta command."""

    __slots__ = (
        "client_flags",
        "compares",
        "delta",
        "initial",
        "invalidates",
        "is_binary",
        "mode",
        "quiet",
        "recache",
        "tokens",
        "ttl",
        "unique",
        "vivify",
        "wants_value",
    )

    def __init__(self) -> None:
        self.tokens: list[bytes] = []
        """All of them, in their order."""
        self.is_binary = False
        """The key came in base64, and is told so."""
        self.quiet = self.wants_value = self.invalidates = self.compares = False
        self.vivify: int | None = None
        self.recache: int | None = None
        self.ttl: int | None = None
        self.client_flags = 0
        self.unique = 0
        """What ``cas unique`` the item must have, if it ``compares``."""
        self.mode = b""
        self.delta = 1
        self.initial = 0


Command = (
    Retrieve | Store | Delete | Arithmetic | Touch | Flush | Stats | Say | Unstorable | Quit | Authenticate | Meta
    | MetaDebug
)  # fmt: skip
