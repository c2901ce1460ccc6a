"""What greetings tell a client of a node's clock, and how often, and how patiently, it asks for them.

*The clock.* Requests carry their deadlines by the node's clock. A greeting says what that clock shows at some moment
between question and answer; so the difference to ours lies between two bounds, and each further greeting that agrees
with those before can only narrow them. One that does not agree is believed, for a clock may have been set. All
connections of a client to one process share what is known.

*Again.* A node that is silent may be one whose clock was set: then it drops all our requests as late. More often it has
too much to do, and a greeting costs it several times what a request does. So further greetings are asked for ever more
seldom, and not at all once it has answered a request.

*Patience.* A greeting may never come: it was lost, or another process has the address now. More often, again, the node
is busy, and a new connection costs it more than many requests. So each connection that is replaced in vain makes the
client twice as patient with the next one to that address.

Pure: time is an argument, in seconds of a monotonic clock. Threads share it without a lock.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Final

GREETING_S: Final = 1.0
"""The first connection that has not been greeted after so long, though it was asked for, is replaced by a new one."""
GREETING_S_MAX: Final = 8.0
PROMPT_GREETINGS: Final = 2
"""So many further greetings are asked for at once, the next one GREETING_S after them …"""
AGAIN_S_MAX: Final = 8.0
"""… and each one after twice as long, up to this. Who has asked for none for twice as long begins anew."""
CLOCK_ERROR_S: Final = 0.1
"""If the bounds are further apart than this, too little is known of the node's clock."""


class Greeting:
    """What one client knows by the greetings of one node."""

    __slots__ = (
        "_again",
        "_again_at",
        "_boot",
        "_high_ms",
        "_is_wide",
        "_low_ms",
        "is_silent",
        "patience_s",
        "wall_ms",
    )

    def __init__(self) -> None:
        self.patience_s = GREETING_S
        """How long to wait for a greeting before connecting anew."""
        self.is_silent = False
        """Whether the node has let a request go by, and answered none since."""
        self.wall_ms = 0.0
        """What the node's wall clock shows more than our monotonic one, exact to half the distance of the bounds.

        If these are far apart, it is the greatest possible: with less, all our requests might be late by that clock.
        """
        self._boot = 0
        self._low_ms, self._high_ms = -math.inf, math.inf
        self._is_wide = True
        self._again = 0
        """How many further greetings were asked for of late, the last at ``_again_at``."""
        self._again_at = -math.inf

    @property
    def is_clock_vague(self) -> bool:
        """Whether our idea of the node's clock may be wrong."""
        return self.is_silent or self._is_wide

    def note(self, boot: int, wall_ms: int, asked_at: float, now: float) -> None:
        """Take in a greeting."""
        self.patience_s, self.is_silent = GREETING_S, False
        low_ms, high_ms = wall_ms - now * 1000, wall_ms - asked_at * 1000
        if boot == self._boot and max(low_ms, self._low_ms) <= min(high_ms, self._high_ms):
            low_ms, high_ms = max(low_ms, self._low_ms), min(high_ms, self._high_ms)
        self._boot, self._low_ms, self._high_ms = boot, low_ms, high_ms
        self._is_wide = high_ms - low_ms > CLOCK_ERROR_S * 1000
        self.wall_ms = high_ms if self._is_wide else (low_ms + high_ms) / 2

    def note_replaced(self) -> None:
        """Take in that a connection is replaced because no greeting came."""
        self.patience_s = min(2 * self.patience_s, GREETING_S_MAX)

    def may_be_asked_again(self, now: float) -> bool:
        """Tell whether a further greeting may be asked for."""
        further = self._again - PROMPT_GREETINGS
        since_s = now - self._again_at
        return further < 0 or since_s >= min(GREETING_S * 2**further, AGAIN_S_MAX)

    def note_asked_again(self, now: float) -> None:
        """Take in that a further greeting is asked for."""
        self._again = 1 if now - self._again_at > 2 * AGAIN_S_MAX else self._again + 1
        self._again_at = now


class Greetings:
    """What one client knows by greetings, by address."""

    def __init__(self) -> None:
        self._of: dict[str, Greeting] = {}

    def of(self, address: str) -> Greeting:
        """Return what is known of the node at an address."""
        return self._of.get(address) or self._of.setdefault(address, Greeting())

    def keep(self, addresses: Container[str]) -> None:
        """Forget the addresses that are not among these: nobody will ask them."""
        for address in [address for address in list(self._of) if address not in addresses]:
            self._of.pop(address, None)
