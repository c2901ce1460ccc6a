"""How many requests a client has under way at one node: as many as it likes, until that node has too many.

A node that has more to do than it can serves fewer calls the more of them it is sent: to take each in, to find that its
time is over, or to refuse it, costs a good part of serving it. And all that waits there waits in vain, if it waits for
longer than its callers do. So what a node cannot serve yet waits at its client, where it costs nothing, and where calls
that wait join into one message, which costs the node hardly more than one call.

A node's window is wide, that is without a limit, until it refuses a request as overloaded, or is silent: it lets one go
by and answers none that came later. Then the window is narrow: NARROW requests, half as many at each further sign, and
one at least. Answers widen it again, by one for each WIDEN_AFTER of them. This is how TCP deals with a congested
network.

Sources: Jacobson, "Congestion Avoidance and Control" (1988); for servers, Welsh and Culler, "Adaptive Overload Control
for Busy Internet Servers" (2003).

Pure: time is an argument, in seconds of a monotonic clock. Threads share the windows without a lock: a sign or an
answer that is lost is made up for by the next.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Final

NARROW: Final = 4
"""Each request may carry hundreds of calls."""
WIDEN_AFTER: Final = 32
WIDE: Final = 64
"""A window that has widened so far has no limit any more."""
SIGN_S: Final = 0.1
"""Signs that come within so long are those of one crowd of requests."""


class _Window:
    __slots__ = ("answers", "limit", "sign_at")

    def __init__(self) -> None:
        self.limit = WIDE
        self.answers = 0
        """Since the limit was changed."""
        self.sign_at = -math.inf


class Windows:
    """The windows of one client, by address."""

    def __init__(self) -> None:
        self.narrow: dict[str, _Window] = {}
        """Those that are not wide. To see whether there are any costs a call nothing."""

    def limit(self, address: str) -> float:
        """Return how many requests may be under way at an address."""
        window = self.narrow.get(address)
        return math.inf if window is None else window.limit

    def greatest(self, count: int) -> float:
        """Return how many may be under way at the address that takes most, of so many addresses."""
        narrow = list(self.narrow.values())
        return max([window.limit for window in narrow]) if narrow and len(narrow) >= count else math.inf

    def note_overload(self, address: str, now: float) -> None:
        """Take in that a node has too many requests."""
        window = self.narrow.setdefault(address, _Window())
        if now - window.sign_at >= SIGN_S:
            window.sign_at = now
            window.answers = 0
            window.limit = min(NARROW, max(1, window.limit // 2))

    def note_answer(self, address: str) -> None:
        """Take in that a node has answered a request."""
        window = self.narrow.get(address)
        if window is None:
            return
        window.answers += 1
        if window.answers >= WIDEN_AFTER:
            window.answers = 0
            window.limit += 1
            if window.limit >= WIDE:
                self.narrow.pop(address, None)

    def keep(self, addresses: Container[str]) -> None:
        """Forget the addresses that are not among these: nobody will ask them."""
        for address in [address for address in list(self.narrow) if address not in addresses]:
            self.narrow.pop(address, None)
