"""``cache.lock``: one holder at a time, with a number that tells the latest one.

A lock is an entry like any other, under the key ``lock:NAME``: it is *added* with the holder's own token as value, so
that one caller succeeds; extended by ``cas`` and released by *drop*, both only if it is still the entry that was added.
It is stored by the usual quorum, and so outlives a node. Its version is the fencing number: every later holder's is
greater, so that a resource that remembers the greatest it has seen can refuse a holder that was late and does not know.

What it does not do: keep two from believing that they hold it, in a network partition (each side has a first owner of
its own), after the loss of all copies, or when a holder is stopped for longer than the ttl. Who must be safe from that
checks the number where the effect is.

Who waits asks again after a pause, which grows to PAUSE_S_MAX, at random, so that those who wait do not come as one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

from meshcache.arguments import Item, Timeout, Ttl, milliseconds, seconds
from meshcache.core.clock import clock_of
from meshcache.core.messages import TOKEN_BYTES, TTL_NEVER, Change
from meshcache.delivery import Flow
from meshcache.errors import (
    LockNotOwned,
    NodeUnavailable,
    OperationError,
    OperationTimeout,
    Overloaded,
    QuorumNotReached,
)
from meshcache.session import Session

PAUSE_S_MIN: Final = 0.01
PAUSE_S_MAX: Final = 0.25
PREFIX: Final = "lock:"


class _Held:
    """A lock's state at one caller, and its flows."""

    def __init__(self, session: Session, name: str, ttl: Ttl, timeout: Timeout | None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a lock's name must be str, is {name!r:.80}")
        self.name = name
        self._session = session
        self._key = PREFIX + name
        self._ttl = _finite(ttl)
        self._timeout_s = session.options.timeout_s if timeout is None else seconds(timeout)
        self._owner = b""
        self._version = b""
        self._number = 0

    @property
    def token(self) -> int:
        """The fencing number: greater than that of every holder before. Raises LockNotOwned before it was acquired."""
        if not self._owner:
            raise LockNotOwned(f"lock {self.name!r}: it was not acquired")
        return self._number

    def _acquire(self) -> Flow[bool]:
        session = self._session
        if self._version:
            raise RuntimeError(f"lock {self.name!r}: this object holds it already; each caller needs one of its own")
        now = session.routing.clock
        by = now() + self._timeout_s
        owner = session.rng.randbytes(TOKEN_BYTES)
        pause_s = PAUSE_S_MIN
        while True:
            item = yield from self._try(owner, max(PAUSE_S_MIN, by - now()))
            if item is not None:
                self._owner, self._version = owner, item.version
                self._number = clock_of(item.version)
                return True
            if now() >= by:
                return False
            yield min(session.rng.uniform(pause_s / 2, pause_s), max(0.0, by - now()))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _try(self, owner: bytes, left_s: float) -> Flow[Item | None]:
        """Add the entry; then it tells its version, and also what became of an addition without an answer."""
        session = self._session
        added: bool | None
        try:
            added = yield from session.add(self._key, owner, self._ttl, left_s)
        except (OperationTimeout, NodeUnavailable, QuorumNotReached, Overloaded) as error:
            added, failure = None, error
        if added is False:
            return None
        try:
            item = yield from session.gets(self._key, left_s)
        except OperationError:
            item = None
        if item is None and added is None:
            raise failure
        return item if item is not None and item.value == owner else None

    def _extend(self, ttl: Ttl) -> Flow[None]:
        session = self._session
        ttl = self._ttl if ttl is None else _finite(ttl)
        done = bool(self._version) and (
            yield from session.cas(self._key, self._owner, self._version, ttl, self._timeout_s)
        )
        item = (yield from session.gets(self._key, self._timeout_s)) if done else None
        if item is None or item.value != self._owner:
            self._version = b""
            raise LockNotOwned(f"lock {self.name!r}: it has expired, or another one holds it")
        self._version = item.version

    def _release(self) -> Flow[None]:
        version, self._version = self._version, b""
        change = [int(Change.DROP), version]
        dropped = bool(version) and (
            yield from self._session.update(self._key, change, 0, self._timeout_s, repeatable=False)
        )
        if not dropped:
            raise LockNotOwned(f"lock {self.name!r}: it has expired, or another one holds it")

    def _not_in_time(self) -> OperationTimeout:
        return OperationTimeout(f"lock {self.name!r}: others held it for {self._timeout_s:.3g} s")


class Lock(_Held):
    """A lock for threads and processes: ``with cache.lock("job") as lock:``. An object is for one caller."""

    def __init__(
        self, run: Callable[[Flow[Any]], Any], session: Session, name: str, ttl: Ttl, timeout: Timeout | None
    ) -> None:
        super().__init__(session, name, ttl, timeout)
        self._run = run

    def acquire(self) -> bool:
        """Wait for the lock, for the lock's ``timeout`` at most; False if it was not to be had."""
        return bool(self._run(self._acquire()))

    def extend(self, ttl: Ttl = None) -> None:
        """Hold it for ``ttl`` seconds from now (None: as at first). Raises LockNotOwned if it was lost."""
        self._run(self._extend(ttl))

    def release(self) -> None:
        """Give it up. Raises LockNotOwned if it was lost before."""
        self._run(self._release())

    def __enter__(self) -> Self:
        if not self.acquire():
            raise self._not_in_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except OperationError:
            if error is None:  # else that is what the caller must hear of
                raise


class AsyncLock(_Held):
    """A lock for tasks and processes: ``async with cache.lock("job") as lock:``. An object is for one caller."""

    def __init__(
        self, run: Callable[[Flow[Any]], Awaitable[Any]], session: Session, name: str, ttl: Ttl, timeout: Timeout | None
    ) -> None:
        super().__init__(session, name, ttl, timeout)
        self._run = run

    async def acquire(self) -> bool:
        """Wait for the lock, for the lock's ``timeout`` at most; False if it was not to be had."""
        return bool(await self._run(self._acquire()))

    async def extend(self, ttl: Ttl = None) -> None:
        """Hold it for ``ttl`` seconds from now (None: as at first). Raises LockNotOwned if it was lost."""
        await self._run(self._extend(ttl))

    async def release(self) -> None:
        """Give it up. Raises LockNotOwned if it was lost before."""
        await self._run(self._release())

    async def __aenter__(self) -> Self:
        if not await self.acquire():
            raise self._not_in_time()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.release()
        except OperationError:
            if error is None:  # else that is what the caller must hear of
                raise


def _finite(ttl: Ttl) -> Ttl:
    """Check a lock's lifetime: one that never expires is never free again when its holder dies."""
    if milliseconds(ttl) <= TTL_NEVER:
        raise ValueError(f"a lock's ttl must be a number of seconds, is {ttl!r}")
    return ttl
