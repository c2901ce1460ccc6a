"""Versions of the protocol: how meshes and clients of two of them work together while one is upgraded.

A side speaks all versions from ``OLDEST`` to ``NEWEST``. HELLO says the oldest, because that is all that nodes of
version 1 understand; WELCOME says both among its settings. The *version of a link* is the newest that both sides speak.
It is known to the side that dialled: clients and nodes ask on links that they dialled, so whoever asks knows what the
other side understands. An answer is of the version of its request. Where the two ranges do not meet, the side that
notices it says which versions it speaks.

What is unknown to a receiver comes from a later version, or from a liar. It costs no more than its own message:

- A *message* of an unknown kind is left out and counted. The other messages of its frame are served.
- *Fields* after the known ones are ignored. Fields that are missing at the end have their default, if they have one:
  so a version may append fields, with defaults. The same holds for facts. A node does not hand on what it ignored, and
  the digest of a member table is made of the first fields only: meshes of two versions agree on their members.
- *Settings* of WELCOME that are unknown are ignored; those that are missing have their default.
- An unknown *event* may mean anything, so a client drops all its copies. An unknown *code* is an error that names the
  number. Both are never taken for something else.
- *Values* in fields are not extended: a field of version 1 keeps the range that it has there. So an unknown change of
  UPDATE is refused with its frame, and an unknown ``what`` of INSPECT by its name: ask for neither on an older link.

Version 1 itself knows none of these rules: it drops a whole frame for one unknown thing in it. So on a link of version
1, and in the invalidation stream while there may be a receiver of version 1, only what version 1 knows is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

OLDEST: Final = 1
NEWEST: Final = 2

SETTING_OLDEST: Final = "protocol_oldest"
SETTING_NEWEST: Final = "protocol"

KIND_MAX: Final = 255
"""No version will have more kinds of messages."""
FIELDS_MORE_MAX: Final = 16
"""How many more fields than known a message or fact may have. A bound, so that no sender hides large lists there."""
_RANGE: Final = f"{OLDEST} to {NEWEST}"


def as_settings() -> dict[str, int | float | str]:
    """Return what WELCOME says of the versions spoken here."""
    return {SETTING_NEWEST: NEWEST, SETTING_OLDEST: OLDEST}


def why_not(oldest: int) -> str | None:
    """Say why the sender of a HELLO cannot be understood here; None if it can."""
    if OLDEST <= oldest <= NEWEST:
        return None
    upgrade = "upgrade this node" if oldest > NEWEST else "upgrade the other side"
    return f"this node speaks versions {_RANGE} of the protocol, the other side none before {oldest}: {upgrade}"


def of_link(settings: Mapping[str, Any]) -> int:
    """Return the newest version that both sides of a link speak, by the settings in WELCOME; 0 if there is none.

    Nodes of version 1 say nothing of it.
    """
    newest, oldest = settings.get(SETTING_NEWEST, 1), settings.get(SETTING_OLDEST, 1)
    if type(newest) is not int or type(oldest) is not int or newest < oldest:
        return 0
    return min(NEWEST, newest) if oldest <= NEWEST and newest >= OLDEST else 0


def why_apart(settings: Mapping[str, Any]) -> str:
    """Say why ``of_link`` is 0."""
    theirs = f"{settings.get(SETTING_OLDEST)!r:.20} to {settings.get(SETTING_NEWEST)!r:.20}"
    return f"the node speaks versions {theirs} of the protocol, this side {_RANGE}: upgrade the older one"


def fitted(cls: Any, fields: list[Any]) -> list[Any] | None:
    """Return the fields that ``cls`` (a NamedTuple) has, without those of later versions and with its defaults.

    None: there are so few or so many that this is no message of any version.
    """
    missing = cls._fields[len(fields) :]
    if len(fields) > len(cls._fields) + FIELDS_MORE_MAX or any(name not in cls._field_defaults for name in missing):
        return None
    return [*fields[: len(cls._fields)], *[cls._field_defaults[name] for name in missing]]
