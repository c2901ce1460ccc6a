"""The numbers that messages are made of: results, changes, events, levels, limits.

Numbers are append-only: one is never used for something else.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

KEY_BYTES_MAX: Final = 1024
BATCH_OPS_MAX: Final = 4096
"""How many keys one message may have. It also bounds what a hostile msgpack array can make a node allocate."""

DEFAULT_LEVEL: Final = 0
"""As ``w`` or ``r``: the cluster's configured quorum."""
LEVEL_ONE: Final = -1
LEVEL_QUORUM: Final = -2
LEVEL_ALL: Final = -3

TTL_DEFAULT: Final = -1
"""As ``ttl_ms``: the cluster's default. 0 means never; else milliseconds."""
TTL_NEVER: Final = 0


class Code(IntEnum):
    """Why a request, or one key of it, was not served. In a list of results: ``[code, detail, …]``."""

    QUORUM = 1
    """Detail: needed, received. A write may have reached some replicas."""
    OVERLOADED = 2
    """Nothing was executed: the node has as much pending work as it allows.

    Detail, of a REJECT: in how many milliseconds to come back. Older nodes do not say, and a single key's has none."""
    NOT_READY = 3
    """Nothing was executed: the node has not joined yet, or is leaving."""
    STALE_BOOT = 4
    """Nothing was executed: the request was meant for a former process. Say HELLO again."""
    INVALID = 5
    """Nothing was executed. Detail: text that names the field and the limit."""
    TOO_LARGE = 6
    """Nothing was executed. Detail: size, limit."""
    MORE = 7
    """The reply reached ``limits.reply_bytes_max`` before this key: ask for it again."""
    KEY_MISSING = 8
    NOT_A_NUMBER = 9
    """Detail: text."""
    FORBIDDEN = 10
    """Nothing was executed: the sender's key does not allow it. Detail: text."""


class Change(IntEnum):
    """What UPDATE does to one key, atomically, at the key's first live owner. As a list: ``[change, argument, …]``."""

    ADD = 1
    """[content, ttl_ms] -> bool: True if the key did not exist, and was stored."""
    REPLACE = 2
    """[content, ttl_ms] -> bool: True if the key existed, and was stored."""
    CAS = 3
    """[content, ttl_ms, version] -> bool: True if the key had this version, and was stored."""
    INCR = 4
    """[delta, initial or None, ttl_ms] -> int: the new number; ttl_ms is for a key that was missing."""
    TOUCH = 5
    """[ttl_ms] -> bool: True if the key existed, and its expiry was set."""
    LEASE = 6
    """[park_ms, above, token] -> the record, if there is one above that version; or a version: it names the fill lease
    (fill_leases.py) that the caller holds now; or None: another caller still held it after ``park_ms``. It is sent
    alone."""
    FILL = 7
    """[content, ttl_ms, lease] -> bool: True if the lease was still held, and the content was stored."""
    HOLD = 8
    """[keep, lease] -> bool: True if the lease was held, and was renewed (``keep`` 1) or given up (0). To give up, a
    caller that was not answered yet sends its token instead: it is parked no more."""
    DROP = 9
    """[version] -> bool: True if the key had this version, and was deleted. Not sent by clients: locks have tokens."""
    ACQUIRE = 10
    """[token, ttl_ms] -> the version of the lock, if it was free or this token holds it already; else None."""
    EXTEND = 11
    """[token, ttl_ms] -> the version of the lock, if this token holds it and its expiry was set; else None."""
    RELEASE = 12
    """[token] -> bool: True if this token held the lock, which is free now. The token acquires nothing any more."""
    MARK = 13
    """[content, ttl_ms, version] -> bool: as CAS, for another content of the same value (other extras): like a touch,
    it is no later write, and gets a revision of the version."""


LEASE_S: Final = 2.5
"""How long a fill lease lasts without being renewed."""
LEASE_ALWAYS: Final = b"\xff" * 16
"""As ``above``: no version is new enough, and the present holder of the lease loses it."""
TOKEN_BYTES: Final = 16


class EventKind(IntEnum):
    """What happened to a key, in the invalidation stream."""

    SET = 1
    DELETE = 2
    INVALIDATE = 3
    CLEAR = 4
    """The key is a prefix."""
    TAG = 5
    """The keys are tags."""


COARSE_TAGS: Final = 0
"""As the kind of a drop floor: the name is the number of a bucket of tags."""
