"""Write-behind: a write is accepted when it is in a queue on disk, and reaches the database later, in batches.

The steps of a write, and why no write is lost and no old value stays:

1. *accept*: the write is committed to the queue's file. From here on it survives the end of the process.
2. *publish*: the cache gets the value, so that other processes see it. The write is not stored before this was tried:
   else a slow publication could overwrite a later value in the cache, for good.
3. *store*: a batch goes to the database. ``backlog.py`` says what happens if that fails.
4. *publish again*, if no newer write of the key waits. Since step 2 the cache may have evicted the key, and a reader
   may have put back the old row.
5. *forget*: the write leaves the file. A process that dies before this stores the batch twice, which is why each write
   has a sequence number.

Readers of this object look into the queue first, so they read what they wrote. Other readers see the value from step 2
on, except if the cache evicts the key before step 3: then they see the old row until step 4. If the cache fails in all
attempts of step 4, the value that it holds stays until its ``ttl`` is over.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic

from meshcache.client.arguments import MISSING, Key, Ttl
from meshcache.client.codec import Codec, ValueCodec
from meshcache.durations import Timeout, in_seconds, seconds
from meshcache.errors import OperationTimeout
from meshcache.patterns.backlog import Entry, Limits
from meshcache.patterns.durable import DurableQueue
from meshcache.patterns.journal import Refused, Sync
from meshcache.patterns.marks import Cache, K, Missing, Name, V, Write, named, stored
from meshcache.patterns.reading import Reading
from meshcache.patterns.steps import Flow
from meshcache.protocol.record import HEADER_BYTES

PUBLISH_ATTEMPTS: Final = 4
PAUSE_S: Final = 0.05
_HEADER: Final = bytes(HEADER_BYTES - 2)
"""The codec reads values from records; values in the queue have no header except their two flag bytes."""
_CONNECTION_LOST: Final = {"OperationalError", "InterfaceError"}
"""The errors that mean, by PEP 249, that the database fails and not the program."""


@dataclass(frozen=True, slots=True)
class SetAside(Generic[K, V]):
    """A write that the database refused too often, and why."""

    write: Write[K, V]
    error: str
    attempts: int


def is_outage(error: Exception) -> bool:
    """Tell whether the database cannot be reached, as opposed to refusing the write. The default of write-behind.

    OSError, with ConnectionError and TimeoutError below it, is an outage, and so are OperationalError and
    InterfaceError of any driver that follows PEP 249.
    """
    return isinstance(error, OSError) or any(kind.__name__ in _CONNECTION_LOST for kind in type(error).__mro__)


class Behind(Generic[K, V]):
    """The flows of write-behind."""

    def __init__(
        self,
        cache: Cache,
        path: str | os.PathLike[str],
        load: Callable[[K], Any],
        store: Callable[[list[Write[K, V]]], Any],
        *,
        name: Name[K],
        ttl: Ttl,
        absent_ttl: Ttl,
        codec: str | ValueCodec | None,
        sync: Sync,
        limits: Limits,
        full_timeout: Timeout,
        is_outage: Callable[[Exception], bool],
    ) -> None:
        self.reading: Reading[K, V] = Reading(cache, name, ttl, absent_ttl)
        self._cache = cache
        self._load = load
        self._store = store
        self._codec = Codec(codec)
        self._full_timeout_s = seconds(full_timeout)
        self._is_outage = is_outage
        self._rng = random.Random()
        self.queue = DurableQueue(path, sync, limits)

    def put(self, items: Mapping[K, V | Missing], timeout: Timeout | None) -> Flow[None]:
        """Accept writes; return when they are on disk and the cache was told."""
        values = {named(self.reading.name, key): value for key, value in items.items()}
        writes = [(self._codec.encode(key), self._content(value)) for key, value in items.items()]
        if not writes:
            return
        ticket = self.queue.append(writes, self._full_timeout_s if timeout is None else seconds(timeout))
        try:
            yield ticket.done
            yield from self._publish(values, attempts=1)
        finally:
            self.queue.release(ticket)

    def get(self, key: K) -> Flow[V | Missing]:
        """Return the value that waits in the queue, else that of the cache, else that of the database."""
        waiting = self.queue.newest(self._codec.encode(key))
        if waiting is not None:
            return self._value(waiting)
        return (yield from self.reading.get(key, self._load))

    def get_many(self, keys: Iterable[K]) -> Flow[dict[K, V]]:
        """Return the values of the keys that exist."""
        given = list(dict.fromkeys(keys))
        waiting = {key: self.queue.newest(self._codec.encode(key)) for key in given}
        found = yield from self.reading.get_many((key for key in given if waiting[key] is None), self._load)
        for key, entry in waiting.items():
            if entry is not None and (value := self._value(entry)) is not MISSING:
                found[key] = value
        return found

    def store_all(self) -> Flow[None]:
        """Store batch after batch, until the queue is closed."""
        while batch := (yield self.queue.next_batch()):
            try:
                yield from self._deliver(batch)
            finally:
                self.queue.returned(batch)

    def flush(self, timeout: Timeout) -> Flow[None]:
        """Wait until all writes accepted so far are stored or set aside."""
        yield self.queue.flush(seconds(timeout))

    def close(self, timeout: Timeout) -> Flow[int]:
        """Accept nothing more, store what can be stored in time, close the file; return how many writes it has left."""
        if in_seconds(timeout) > 0 and self.queue.accepting:
            flushed = self.queue.flush(seconds(timeout))
            self.queue.stop_accepting()
            with suppress(OperationTimeout):  # the returned number shows it
                yield flushed
        return (yield self.queue.end())  # type: ignore[no-any-return]  # an int

    def set_aside(self) -> list[SetAside[K, V]]:
        """Return the writes that the database refused too often."""
        return [self._refused(each) for each in self.queue.set_aside()]

    def _deliver(self, batch: list[Entry]) -> Flow[bool]:
        """Store a batch; if it is refused, store its halves, to find the write at fault.

        Return False if there is an outage.
        """
        try:
            writes = [self._write(entry) for entry in batch]
            yield lambda: self._store(writes)
        except Exception as error:  # noqa: BLE001  (whatever the user's function raises)
            if self._is_outage(error):
                self.queue.unreachable(error)
                return False
            if len(batch) > 1:
                half = len(batch) // 2
                return (yield from self._deliver(batch[:half])) and (yield from self._deliver(batch[half:]))
            if self.queue.refused(batch[0], error):
                yield from self._withdraw(batch[0])
            return True
        newest = [write for write, entry in zip(writes, batch, strict=True) if self.queue.is_newest(entry)]
        yield from self._publish({named(self.reading.name, write.key): write.value for write in newest})
        self.queue.stored(batch)
        return True

    def _publish(self, values: Mapping[Key, Any], attempts: int = PUBLISH_ATTEMPTS) -> Flow[None]:
        """Give values to the cache; drop a key whose value it does not take, if that is possible."""
        left = dict(values)
        for attempt in range(attempts):
            if attempt:
                yield self._rng.uniform(0, PAUSE_S * 2**attempt)
            for absent in (False, True):
                some = {name: stored(value) for name, value in left.items() if (value is MISSING) is absent}
                ttl = self.reading.absent_ttl if absent else self.reading.ttl
                if some:
                    try:
                        failed = yield partial(self._cache.set_many, some, ttl=ttl)
                    except Exception:  # noqa: BLE001  (a client that was closed, say, must not stop what stores)
                        failed = list(some)
                    left = {name: value for name, value in left.items() if name not in some or name in failed}
            if not left:
                return
        yield from self._invalidate(list(left))

    def _withdraw(self, entry: Entry) -> Flow[None]:
        """Drop a value from the cache that the database refused."""
        try:
            name = named(self.reading.name, self._key(entry.key))
        except Exception:  # noqa: BLE001  (a key that cannot even be read has no name, and nothing in the cache)
            return
        yield from self._invalidate([name])

    def _invalidate(self, names: list[Key]) -> Flow[None]:
        try:
            yield lambda: self._cache.invalidate(*names)
        except Exception:  # noqa: BLE001  (as above)
            self.queue.unpublished()

    # ---- values and bytes

    def _content(self, value: V | Missing) -> bytes | None:
        return None if value is MISSING else self._codec.encode(value)

    def _key(self, content: bytes) -> K:
        return self._codec.decode(_HEADER + content)  # type: ignore[no-any-return]  # what was encoded

    def _value(self, entry: Entry | Refused) -> V | Missing:
        if entry.value is None:
            return MISSING
        return self._codec.decode(_HEADER + entry.value)  # type: ignore[no-any-return]  # what was encoded

    def _write(self, entry: Entry | Refused) -> Write[K, V]:
        return Write(self._key(entry.key), self._value(entry), entry.sequence)

    def _refused(self, each: Refused) -> SetAside[K, V]:
        return SetAside(self._write(each), each.error, each.attempts)
