"""``cache.lock``: one holder at a time, and a fencing number that grows with every holder.

A lock is an entry like any other, under the key ``lock:NAME``. Its value is a token that its holder draws at random
each time, so a holder that asks again is recognised. Acquiring, extending and releasing therefore take one message
each, which is repeated until there is an answer (``Change.ACQUIRE``, ``EXTEND`` and ``RELEASE``, in updates.py). The
entry is stored by the usual quorum, and so outlives a node. Its version is the fencing number: every later holder's
number is greater, so that a resource that remembers the greatest number can refuse a former holder that does not know
that it lost the lock.

No caller holds a lock without knowing it. If anything but the answer ends ``acquire`` (an error, a cancelled task, an
exception from a signal handler), the token is *given up*: it is released, and never acquires anything any more, not
even by a question that is still under way. That takes up to GIVE_UP_S, and so a cancelled task ends that much later.

Two callers can believe that they hold a lock: in a network partition (each side has a first owner of its own), after
the loss of all copies, or when a holder is paused for longer than the ttl. A program that must be safe from that checks
the fencing number at the resource that the lock protects.

A caller that waits asks again after a random pause, which grows to PAUSE_S_MAX, so that many callers do not ask at
once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, NoReturn, Self

from meshcache.client.arguments import Ttl, milliseconds
from meshcache.client.delivery import Flow
from meshcache.client.session import Session
from meshcache.durations import Timeout, seconds
from meshcache.errors import LockNotOwned, MeshcacheError, OperationError, OperationTimeout, ProtocolError, UsageError
from meshcache.protocol.clock import clock_of
from meshcache.protocol.messages import TOKEN_BYTES, TTL_NEVER, Change
from meshcache.protocol.record import VERSION_BYTES

PAUSE_S_MIN: Final = 0.01
PAUSE_S_MAX: Final = 0.25
PREFIX: Final = "lock:"


GIVE_UP_S: Final = 0.5
"""How long giving up may take at most. After a failure it takes at most a quarter of the call's own time."""


class _Held:
    """A lock as one caller sees it, and its flows."""

    def __init__(self, session: Session, name: str, ttl: Ttl, timeout: Timeout | None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a lock's name must be str, is {name!r:.80}")
        self.name = name
        self._session = session.on_behalf_of(f"lock {name!r:.80}")
        self._key = PREFIX + name
        self._ttl = _finite(ttl)
        self._timeout_s = session.options.timeout_s if timeout is None else seconds(timeout)
        self._token = b""
        """The token with which the lock is asked for; set before that, until it is refused, released or given up."""
        self._held = False
        self._number = 0

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lock can not be pickled or copied: pickle the client, and call its lock() there")

    @property
    def token(self) -> int:
        """The fencing number: greater than that of every earlier holder. Raises LockNotOwned before it was acquired."""
        if not self._number:
            raise LockNotOwned(f"lock {self.name!r}: it was not acquired")
        return self._number

    def _begin(self) -> None:
        """Check that this object may be used to acquire."""
        if self._token:
            raise UsageError(
                f"lock {self.name!r}: this object holds it already, or waits for it; each caller needs one of its own:"
                " cache.lock() makes another"
            )

    def _acquire(self) -> Flow[bool]:
        session = self._session
        now = session.routing.clock
        by = now() + self._timeout_s
        yield from session.prepare(self._timeout_s)
        ask_by = by - self._reserve_s()
        pause_s = PAUSE_S_MIN
        refused = False
        while True:
            self._token = session.rng.randbytes(TOKEN_BYTES)
            try:
                number = yield from self._change(Change.ACQUIRE, max(PAUSE_S_MIN, ask_by - now()))
            except OperationError as error:
                # Near the deadline an answer may come too late. That does not change earlier answers.
                if not (refused and now() >= ask_by) and not (yield from self._is_another_s()):
                    raise
                yield from self._give_up(error)
                return False
            if number is not None:
                self._number = number
                self._held = True
                return True
            self._token, refused = b"", True
            if now() >= by:
                return False
            yield min(session.rng.uniform(pause_s / 2, pause_s), max(0.0, by - now()))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _is_another_s(self) -> Flow[bool]:
        """Tell whether another caller is seen to hold the lock: then no answer only means that this one must wait."""
        try:
            item = yield from self._session.gets(self._key, self._reserve_s() / 2)
        except OperationError:
            return False
        return item is not None and item.value != self._token

    def _extend(self, ttl: Ttl) -> Flow[None]:
        ttl = self._ttl if ttl is None else _finite(ttl)
        number = (yield from self._change(Change.EXTEND, self._timeout_s, ttl)) if self._held else None
        if number is None:
            self._lost()

    def _release(self) -> Flow[None]:
        if not self._held:
            self._lost()
        timeout_s = self._timeout_s - self._reserve_s()
        change = [int(Change.RELEASE), self._token]
        # Not repeated: the second time the lock would look lost. If there is no answer, the token is given up.
        released = yield from self._session.update("lock", self._key, change, 0, timeout_s, repeatable=False)
        self._forget()
        if not released:
            self._lost()

    def _give_up(self, error: BaseException) -> Flow[None]:
        """Hold nothing, and refuse what may still be granted. If the message does not arrive, that is ignored."""
        if not self._token:
            return
        timeout_s = self._reserve_s() / 2 if isinstance(error, OperationError) else GIVE_UP_S
        change = [int(Change.RELEASE), self._token]
        try:
            yield from self._session.update("lock", self._key, change, 0, timeout_s, repeatable=True)
        except MeshcacheError:
            pass
        finally:
            self._forget()

    def _change(self, kind: Change, timeout_s: float, ttl: Ttl = None) -> Flow[int | None]:
        """Have the lock's entry changed under the token; return its number, or None if another caller holds it."""
        change = [int(kind), self._token, milliseconds(self._ttl if ttl is None else ttl)]
        version = yield from self._session.update("lock", self._key, change, 0, timeout_s, repeatable=True)
        if version is None:
            return None
        if type(version) is not bytes or len(version) != VERSION_BYTES:
            raise ProtocolError(f"lock {self.name!r}: the node answered {version!r:.80}")
        return clock_of(version)

    def _reserve_s(self) -> float:
        """Return how much of a call's time is kept for cleaning up after a failure."""
        return min(GIVE_UP_S, self._timeout_s / 4)

    def _forget(self) -> None:
        self._token, self._held = b"", False

    def _lost(self) -> NoReturn:
        self._forget()
        raise LockNotOwned(f"lock {self.name!r}: it has expired, or another one holds it")

    def _not_in_time(self) -> OperationTimeout:
        return OperationTimeout(f"lock {self.name!r}: others held it for {self._timeout_s:.3g} s")


class Lock(_Held):
    """A lock for threads and processes: ``with cache.lock("job") as lock:``. Each caller needs its own object."""

    def __init__(
        self, run: Callable[[Flow[Any]], Any], session: Session, name: str, ttl: Ttl, timeout: Timeout | None
    ) -> None:
        super().__init__(session, name, ttl, timeout)
        self._run = run

    def acquire(self) -> bool:
        """Wait for the lock, for the lock's ``timeout`` at most; return False if it could not be had.

        If this raises anything, nothing is held. Raises UsageError if this object holds the lock already.
        """
        self._begin()
        try:
            return bool(self._run(self._acquire()))
        except BaseException as error:
            self._run(self._give_up(error))
            raise

    def extend(self, ttl: Ttl = None) -> None:
        """Hold the lock for ``ttl`` seconds from now (None: as at first). Raises LockNotOwned if it was lost."""
        self._run(self._extend(ttl))

    def release(self) -> None:
        """Release the lock.

        Raises LockNotOwned if it was lost before; after any error, it is not held any longer either.
        """
        try:
            self._run(self._release())
        except BaseException as error:
            self._run(self._give_up(error))
            raise

    def __enter__(self) -> Self:
        try:
            acquired = self.acquire()
        except UsageError:
            raise
        except BaseException as error:  # perhaps a signal handler's, after all was done
            self._run(self._give_up(error))
            raise
        if not acquired:
            raise self._not_in_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except OperationError:
            if error is None:  # else the caller must hear of that error
                raise


class AsyncLock(_Held):
    """A lock for tasks and processes: ``async with cache.lock("job") as lock:``. Each caller needs its own object."""

    def __init__(
        self,
        run: Callable[[Flow[Any]], Awaitable[Any]],
        run_to_end: Callable[[Flow[Any]], Awaitable[Any]],
        session: Session,
        name: str,
        ttl: Ttl,
        timeout: Timeout | None,
    ) -> None:
        super().__init__(session, name, ttl, timeout)
        self._run = run
        self._run_to_end = run_to_end

    async def acquire(self) -> bool:
        """Wait for the lock, for the lock's ``timeout`` at most; return False if it could not be had.

        If this raises anything, nothing is held. Raises UsageError if this object holds the lock already.
        """
        self._begin()
        try:
            return bool(await self._run(self._acquire()))
        except BaseException as error:
            await self._abandon(error)
            raise

    async def extend(self, ttl: Ttl = None) -> None:
        """Hold the lock for ``ttl`` seconds from now (None: as at first). Raises LockNotOwned if it was lost."""
        await self._run(self._extend(ttl))

    async def release(self) -> None:
        """Release the lock.

        Raises LockNotOwned if it was lost before; after any error, it is not held any longer either.
        """
        try:
            await self._run(self._release())
        except BaseException as error:
            await self._abandon(error)
            raise

    async def _abandon(self, error: BaseException) -> None:
        """Give up the token, also if the caller is cancelled once more meanwhile."""
        if self._token and not isinstance(error, GeneratorExit):  # after that nothing can be awaited any more
            await self._run_to_end(self._give_up(error))

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
            if error is None:  # else the caller must hear of that error
                raise


def _finite(ttl: Ttl) -> Ttl:
    """Check a lock's lifetime: a lock that never expires would stay locked when its holder dies."""
    if milliseconds(ttl) <= TTL_NEVER:
        raise ValueError(f"a lock's ttl must be a number of seconds, is {ttl!r}")
    return ttl
