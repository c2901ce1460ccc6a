"""Invalidations from PostgreSQL itself, whichever program writes: a trigger notifies, and a worker tells the cache.

For databases that several programs write, psql included, of which not all know of the cache. PostgreSQL delivers a
notification when the transaction commits, once for each key and transaction, in the order of the commits; so what the
worker invalidates can be loaded anew at once.

A notification that nobody listens for is lost. So whenever the worker has connected (again), it must assume that it
missed some, and drops all keys of its client's namespace: give it a client with a namespace of its own for the table.
It does so *after* LISTEN has taken effect: changes that were committed before are covered by the drop, later ones by
notifications. The same happens after any error: an unreachable cache is only another way to miss a notification.

Until a notification arrives, readers see the old value: for a moment usually, and for as long as the worker is away, or
``ttl``, if that is less. This module needs no driver; the connection is one of psycopg 3.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from meshcache.client.blocking.client import Client
from meshcache.durations import Timeout, seconds

CHANNEL: Final = "meshcache"
IDLE_S: Final = 1.0
PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 10.0
_log = logging.getLogger("meshcache.patterns")


class Notification(Protocol):
    """A notification that ``pg_notify`` sent."""

    @property
    def payload(self) -> str:
        """The key; empty: all keys."""
        ...


class Connection(Protocol):
    """The used part of a psycopg connection. It must be in autocommit mode, else nothing is ever delivered."""

    @property
    def autocommit(self) -> bool:
        """Whether each statement is a transaction."""
        ...

    def execute(self, query: bytes, /) -> Any:
        """Run a statement."""
        ...

    def notifies(self, *, timeout: float | None, stop_after: int | None) -> Iterator[Notification]:
        """Wait for notifications."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def quoted(name: str) -> str:
    """Return a name of PostgreSQL quoted for a statement."""
    if not name or "\0" in name:
        raise ValueError(f"{name!r} can not be a name in PostgreSQL")
    return '"' + name.replace('"', '""') + '"'


def trigger_sql(table: str, key_column: str, channel: str = CHANNEL) -> str:
    """Return the statements that make a table notify a channel of each key that changes.

    ``table`` may have a schema before a dot. The key is sent as text, and that text should be its name in the cache.
    PostgreSQL refuses a write whose key has 8,000 bytes or more. Needs PostgreSQL 14.
    """
    where = ".".join(map(quoted, table.split(".")))
    function = quoted(f"meshcache_{table.replace('.', '_')}")
    column = quoted(key_column)
    literal = "'" + channel.replace("'", "''") + "'"
    return f"""\
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $meshcache$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify({literal}, '');
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify({literal}, OLD.{column}::text);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify({literal}, NEW.{column}::text);
    END IF;
    RETURN NULL;
END
$meshcache$;
CREATE OR REPLACE TRIGGER meshcache_rows AFTER INSERT OR UPDATE OR DELETE ON {where}
    FOR EACH ROW EXECUTE FUNCTION {function}();
CREATE OR REPLACE TRIGGER meshcache_truncate AFTER TRUNCATE ON {where}
    FOR EACH STATEMENT EXECUTE FUNCTION {function}();
"""


@dataclass(slots=True)
class WorkerCounts:
    """Counts of what a worker has done."""

    connections: int = 0
    """How often it connected; each time it dropped the namespace."""
    notifications: int = 0
    cleared: int = 0
    failures: int = 0


class NotifyWorker:
    """Listens for notifications, and publishes invalidations. Run it in a process or thread of its own.

    ``connect`` returns a new connection in autocommit mode: ``lambda: psycopg.connect(url, autocommit=True)``. To
    notice a server whose machine vanished, give the connection ``tcp_user_timeout`` and ``keepalives_idle``. ``cache``
    has the namespace of the table: all of it is dropped when notifications may have been missed.
    """

    def __init__(
        self, cache: Client, connect: Callable[[], Connection], channel: str = CHANNEL, *, idle: Timeout = IDLE_S
    ) -> None:
        """``idle``: the seconds without a notification after which the connection is tested."""
        self.counts = WorkerCounts()
        self._cache = cache
        self._connect = connect
        self._listen = f"LISTEN {quoted(channel)}".encode()
        self._idle_s = seconds(idle)
        self._stopping = threading.Event()
        self._rng = random.Random()

    def run(self) -> None:
        """Listen until ``stop`` is called; after an error connect again, after longer and longer pauses."""
        failed = 0
        while not self._stopping.is_set():
            before = self.counts.connections
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001  (of the driver or the cache: the answer is the same)
                failed = 1 if self.counts.connections > before else failed + 1
                self.counts.failures += 1
                pause_s = min(PAUSE_MAX_S, PAUSE_MIN_S * 2 ** min(failed - 1, 16))
                _log.warning("notifications may have been missed, connecting again: %s", error)
                self._stopping.wait(self._rng.uniform(pause_s / 2, pause_s))

    def stop(self) -> None:
        """Let ``run`` return, within ``idle`` seconds."""
        self._stopping.set()

    def _follow(self) -> None:
        connection = self._connect()
        try:
            if not connection.autocommit:
                raise ValueError("the connection must be in autocommit mode, or no notification is delivered")
            connection.execute(self._listen)
            self._cache.clear()
            self.counts.connections += 1
            while not self._stopping.is_set():
                # All that have arrived together.
                keys = [each.payload for each in connection.notifies(timeout=self._idle_s, stop_after=1)]
                if keys:
                    self._invalidate(keys)
                else:
                    connection.execute(b"SELECT 1")
        finally:
            connection.close()

    def _invalidate(self, keys: list[str]) -> None:
        self.counts.notifications += len(keys)
        if all(keys):
            self._cache.invalidate(*dict.fromkeys(keys))
        else:
            self._cache.clear()
            self.counts.cleared += 1
