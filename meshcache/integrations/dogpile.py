"""A backend for dogpile.cache, which knows it as ``meshcache``.

::

    region = make_region().configure(
        "meshcache",
        expiration_time=60,
        arguments={"seeds": "127.0.0.1:7101", "namespace": "shop:", "distributed_lock": True},
    )

Two times say how long a value lives. The region's ``expiration_time`` is dogpile's: a value that is older is computed
anew by one caller, while the others get the old one. The backend's ``ttl`` is when the mesh drops the value. It should
be the longer one, and is for ever by default, as in dogpile's other backends.

With ``distributed_lock`` one caller computes a value in all processes, else in each. The lock is a lease of
``lock_timeout`` seconds, so that a process that dies does not keep others waiting for longer. A creator that takes
longer loses it: then another one may run at the same time, and the log says so.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from dogpile.cache.api import NO_VALUE, BytesBackend, CacheMutex, SerializedReturnType

from meshcache.client.blocking.client import Client
from meshcache.client.locks import PREFIX, Lock
from meshcache.errors import LockNotOwned
from meshcache.integrations.clients import shared_client
from meshcache.integrations.shared import client_arguments, fitting, set_each, write_or_skip

LOCK_TIMEOUT_S: Final = 30.0
TRY_S: Final = 0.5
"""How long one question for a lock that is not to be waited for may take."""

_log = logging.getLogger(__name__)


class MeshcacheBackend(BytesBackend):
    """A backend of dogpile.cache in a mesh.

    ``arguments``: ``seeds``, ``namespace`` (a prefix of all keys), ``ttl`` (seconds; None is for ever),
    ``distributed_lock`` (False by default), ``lock_timeout`` (30 seconds), ``on_error`` ("raise" by default; "miss":
    while the mesh fails, reads find nothing, writes are left out, and creators run without the lock), and all others of
    ``meshcache.Client``. Unknown ones are named in the log, and ignored, as dogpile wants it. Regions of a process with
    the same settings share connections.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        options = dict(arguments)
        self.ttl: float | timedelta | None = options.pop("ttl", None)
        self.distributed_lock = bool(options.pop("distributed_lock", False))
        self.lock_timeout_s = float(options.pop("lock_timeout", LOCK_TIMEOUT_S))
        namespace = options.pop("namespace", "")
        if unknown := sorted(options.keys() - inspect.signature(Client).parameters.keys()):
            _log.warning("arguments of a dogpile region that its backend does not know: %s", ", ".join(unknown))
        known = {name: value for name, value in options.items() if name not in unknown}
        named = client_arguments(known.pop("seeds", None), known)
        self._skip = named["on_error"] == "miss"
        self.client = shared_client(named).namespace(namespace)

    def has_lock_timeout(self) -> bool:
        """Tell whether a lock can be lost while it is held."""
        return self.distributed_lock

    def get_mutex(self, key: str) -> CacheMutex | None:
        """Return the lock of a key; None: dogpile uses one of this process."""
        if not self.distributed_lock:
            return None
        return MeshMutex(self.client, str(fitting(key)), self.lock_timeout_s, skip=self._skip)

    def get_serialized(self, key: str) -> SerializedReturnType:
        """Return the bytes of a key."""
        found: SerializedReturnType = self.client.get(fitting(key), NO_VALUE)
        return found

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[SerializedReturnType]:
        """Return the bytes of several keys, with one message to each node."""
        names = [fitting(key) for key in keys]
        found = self.client.get_many(names)
        return [found.get(name, NO_VALUE) for name in names]

    def set_serialized(self, key: str, value: bytes) -> None:
        """Store bytes."""
        self._write(lambda: self.client.set(fitting(key), value, self.ttl))

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Store bytes under several keys, with one message to each node."""
        items = {fitting(key): value for key, value in mapping.items()}
        set_each(self.client, items, self.ttl, skip=self._skip)

    def delete(self, key: str) -> None:
        """Delete a key."""
        self._write(lambda: self.client.delete(fitting(key)))

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Delete several keys, with one message to each node."""
        self._write(lambda: self.client.delete_many([fitting(key) for key in keys]))

    def _write(self, write: Callable[[], object]) -> None:
        write_or_skip(self.client, skip=self._skip, write=write, instead=None)


class MeshMutex(CacheMutex):
    """The lock of one key, for all threads and processes.

    dogpile shares the object between threads, and may release it in another thread than the one that acquired it. So
    the locks that were acquired by it wait in a line: there is more than one only if a lease was lost before its
    release.
    """

    def __init__(self, client: Client, key: str, lock_timeout_s: float, *, skip: bool) -> None:
        self._client = client
        self._key = key
        self._lock_timeout_s = lock_timeout_s
        self._skip = skip
        self._held: deque[Lock] = deque()

    def acquire(self, wait: bool = True) -> bool:
        """Acquire the lock; tell whether that was done.

        Waiting ends after two leases: by then others would have lost the lock twice. dogpile then runs the creator
        without it.
        """
        if not wait and self.locked():
            return False
        lock = self._client.lock(self._key, self._lock_timeout_s, timeout=2 * self._lock_timeout_s if wait else TRY_S)
        acquired = write_or_skip(self._client, skip=self._skip, write=lock.acquire, instead=False)
        if acquired:
            self._held.append(lock)
        elif wait:
            _log.warning("the lock of %r can not be had; its creator runs without it", self._key)
        return acquired

    def release(self) -> None:
        """Release the lock. If it was lost, or never acquired, this is only noted: the value was computed."""
        if not self._held:
            return
        try:
            write_or_skip(self._client, skip=self._skip, write=self._held.popleft().release, instead=None)
        except LockNotOwned:
            _log.warning(
                "the creator of %r took longer than lock_timeout, %g s: another one may have run meanwhile",
                self._key,
                self._lock_timeout_s,
            )

    def locked(self) -> bool:
        """Tell whether anybody holds the lock."""
        return self._client.exists(PREFIX + self._key)
