"""Rests: addresses that are not asked for a moment, because asking again at once is useless.

An address rests for one of two reasons: it refuses this client (*shut*: the connection or the greeting is refused), or
the node says that it is not ready yet. Each rest is twice as long as the one before, up to a limit, and rests end as
soon as the node answers. When the time of a rest is over, one call asks; all others go on avoiding the address until
that call has an outcome. So the limit bounds how often a client asks in vain, however many threads or tasks it has, and
also for how long after a node is back a call can still fail without having asked.

Pure: time is an argument, in seconds of a monotonic clock. Threads may share the rests without a lock: at worst one
question too many is asked.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Final

from meshcache.client.failure import Failure

SHUT_S: Final = 0.02
SHUT_S_MAX: Final = 0.5
UNREADY_S: Final = 0.01
UNREADY_S_MAX: Final = 0.1
FORGET_S: Final = 5.0
"""A rest that ended so long ago does not make the next one longer."""


class _Rest:
    __slots__ = ("asked", "failure", "pause_s", "until")

    def __init__(self, failure: Failure, pause_s: float, until: float) -> None:
        self.failure = failure
        self.pause_s = pause_s
        self.until = until
        self.asked = False
        """Whether a call is under way that finds out whether the address answers."""


class Rests:
    """The addresses of one client that rest, and why."""

    def __init__(self) -> None:
        self._rests: dict[str, _Rest] = {}

    def begin(self, address: str, failure: Failure, now: float) -> None:
        """Let an address rest, longer than the last time."""
        pause_s, pause_s_max = (SHUT_S, SHUT_S_MAX) if failure.shut else (UNREADY_S, UNREADY_S_MAX)
        old = self._rests.get(address)
        if old is not None and old.failure.shut is failure.shut and now < old.until + FORGET_S:
            if now < old.until and not old.asked:
                return  # one of many calls that failed for the same reason
            pause_s = min(2 * old.pause_s, pause_s_max)
        self._rests[address] = _Rest(failure, pause_s, now + pause_s)

    def end(self, address: str, *, shut_only: bool = False) -> bool:
        """End a rest, since the node answers again; return True if there was one.

        ``shut_only``: the node accepts connections, but may not be ready; end the rest only if it was for that.
        """
        rest = self._rests.get(address)
        if rest is None or (shut_only and not rest.failure.shut):
            return False
        self._rests.pop(address, None)
        return True

    def keep(self, addresses: Container[str]) -> None:
        """Forget the addresses that are not among these: nobody will ask them."""
        for address in [address for address in list(self._rests) if address not in addresses]:
            self._rests.pop(address, None)

    def __contains__(self, address: str) -> bool:
        """Tell whether an address has not answered since its rest began, whether its time is over or not."""
        return address in self._rests

    def current(self, now: float) -> set[str]:
        """Return the addresses that must not be asked now."""
        if not self._rests:
            return set()
        return {address for address, rest in list(self._rests.items()) if now < rest.until}

    def ask(self, addresses: Iterable[str], now: float) -> None:
        """Note calls to these addresses: where a rest is over, no other call follows until this one has an outcome."""
        for address in addresses if self._rests else ():
            rest = self._rests.get(address)
            if rest is not None and now >= rest.until:
                rest.until = now + rest.pause_s
                rest.asked = True

    def failures(self, addresses: Iterable[str]) -> dict[str, Failure]:
        """Return why addresses rest, of those that do or did until a moment ago."""
        found = {address: self._rests.get(address) for address in addresses}
        return {address: rest.failure for address, rest in found.items() if rest is not None}
