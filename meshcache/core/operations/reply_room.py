"""How many bytes of values a reply to a client has room for, and what is cut to fit.

A reply has no more than ``limits.reply_bytes_max``. While clients have left much unread, it has less, so that a crowd
that asks for much is served in small turns, and all of it. Keys beyond that are answered by ``Code.MORE``: the client
asks for them again. The first key is always given, whatever its size, so that each round gets on.
"""

from __future__ import annotations

from typing import Any, Final

from meshcache.core.operations.admission import Admission
from meshcache.core.outbox import Outbox
from meshcache.protocol.messages import Code

SMALL_REPLY_BYTES: Final = 1 << 16
"""A smaller reply is always given, even if clients have left many bytes of earlier replies unread."""

PRESSED_BYTES_LEFT: Final = 32 << 20
"""While less can be sent until clients have read (see Readers.bytes_left), no reply has more than …"""

PRESSED_REPLY_BYTES: Final = 1 << 20
"""… this many bytes of values, or one value."""


class ReplyRoom:
    """The room that a reply has by now."""

    def __init__(self, reply_bytes_max: int, admission: Admission, outbox: Outbox) -> None:
        self._reply_bytes_max = reply_bytes_max
        self._admission = admission
        self._outbox = outbox

    def bytes_max(self) -> int:
        """Return how many bytes of values it may have."""
        if self._admission.readers.bytes_left - self._outbox.reply_bytes < PRESSED_BYTES_LEFT:
            return min(self._reply_bytes_max, PRESSED_REPLY_BYTES)
        return self._reply_bytes_max

    def first_that_fit(self, keys: list[bytes], expected_bytes: float) -> list[bytes]:
        """Return the first of the keys that there is room for, if all are expected to have so many bytes.

        So that other nodes are not asked for what the reply would be cut by.
        """
        room = self.bytes_max()
        return keys if expected_bytes <= room else keys[: max(1, int(len(keys) * room / expected_bytes))]


def up_to(budget: int, records: list[Any]) -> list[Any]:
    """Replace the records beyond so many bytes by [Code.MORE]; the first record is always given."""
    for i, record in enumerate(records):
        if record is not None:
            budget -= len(record)
            if budget < 0 and i:
                return [*records[:i], *more(len(records) - i)]
    return records


def more(count: int) -> list[Any]:
    """Return what tells of so many keys that they are to be asked for again."""
    return [[int(Code.MORE)]] * count
