"""The file of write-behind: SQLite, opened by one process at a time.

SQLite's write-ahead log has the right properties: a commit appends to it, a process that is killed loses nothing that
was committed, and the space of deleted rows is used again. Since a commit waits for the disk, an append-only log of our
own would be no faster (``scripts/bench queue``). ``sync="full"`` waits for the disk at each commit, and so survives the
loss of power; ``"normal"`` leaves that to the operating system, and survives only the end of the process, also by kill
-9.

The lock is SQLite's: taken when the file is opened, kept until it is closed, and gone with the process.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from meshcache.errors import QueueUnusable
from meshcache.patterns.backlog import Entry

Sync = Literal["full", "normal"]
APPLICATION_ID: Final = 0x6D636862
"""Stands in the file's header, so that another program's database is not mistaken for a queue."""
FORMAT: Final = 1
SCHEMA: Final = """
CREATE TABLE writes (sequence INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB);
CREATE TABLE refused (
    sequence INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB, error TEXT NOT NULL, attempts INTEGER NOT NULL
);
CREATE TABLE counter (last INTEGER NOT NULL);
INSERT INTO counter VALUES (0);
"""


@dataclass(frozen=True, slots=True)
class Refused:
    """A write that the database refused too often, as the file has it."""

    sequence: int
    key: bytes
    value: bytes | None
    error: str
    attempts: int


class Journal:
    """The file. One thread at a time may use it."""

    def __init__(self, path: str | os.PathLike[str], sync: Sync) -> None:
        """Open the file, or create it. Raises QueueUnusable if another process has it open, or it is no queue."""
        if sync not in {"full", "normal"}:
            raise ValueError(f'sync must be "full" or "normal", is {sync!r}')
        self.path = Path(path)
        try:
            self._connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise QueueUnusable(f"{self.path}: {error}") from error
        try:
            self._open(sync)
        except sqlite3.Error as error:
            self._connection.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise QueueUnusable(f"{self.path}: another process has this queue open") from error
            raise QueueUnusable(f"{self.path}: {error}") from error
        except BaseException:
            self._connection.close()
            raise

    def _open(self, sync: Sync) -> None:
        run = self._connection.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        application, format_ = (run(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        new = not application and not run("SELECT 1 FROM sqlite_master").fetchone()
        if not new and application != APPLICATION_ID:
            raise QueueUnusable(f"{self.path}: is a database of another program")
        if not new and format_ != FORMAT:
            raise QueueUnusable(f"{self.path}: has format {format_}, this version of meshcache reads {FORMAT}")
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {sync}")
        run("BEGIN EXCLUSIVE")
        if new:
            for statement in SCHEMA.split(";"):
                run(statement)
            run(f"PRAGMA application_id = {APPLICATION_ID}")
            run(f"PRAGMA user_version = {FORMAT}")
        run("COMMIT")

    def waiting(self) -> list[Entry]:
        """Return the writes that wait, in their order."""
        rows = self._connection.execute("SELECT sequence, key, value FROM writes ORDER BY sequence")
        return [Entry(sequence, key, value, released=True) for sequence, key, value in rows]

    def refused(self) -> list[Refused]:
        """Return the writes that were set aside, in their order."""
        rows = self._connection.execute("SELECT sequence, key, value, error, attempts FROM refused ORDER BY sequence")
        return [Refused(*row) for row in rows]

    def first_sequence(self) -> int:
        """Return a sequence number above all that were ever given.

        It follows the clock: if the file of a queue was lost, the new numbers are still above those that the database
        has seen.
        """
        (last,) = self._connection.execute("SELECT last FROM counter").fetchone()
        return max(int(last) + 1, time.time_ns() // 1000)

    def commit(
        self,
        appended: Sequence[Entry] = (),
        removed: Iterable[int] = (),
        set_aside: Iterable[Refused] = (),
        taken_back: Iterable[int] = (),
    ) -> None:
        """Do all of this in one transaction, or nothing."""
        run, run_many = self._connection.execute, self._connection.executemany
        run("BEGIN")
        try:
            run_many("DELETE FROM writes WHERE sequence = ?", ((sequence,) for sequence in removed))
            run_many(
                "INSERT INTO refused VALUES (?, ?, ?, ?, ?)",
                ((each.sequence, each.key, each.value, each.error, each.attempts) for each in set_aside),
            )
            run_many("DELETE FROM refused WHERE sequence = ?", ((sequence,) for sequence in taken_back))
            run_many(
                "INSERT INTO writes VALUES (?, ?, ?)", ((each.sequence, each.key, each.value) for each in appended)
            )
            if appended:
                run("UPDATE counter SET last = max(last, ?)", (appended[-1].sequence,))
            run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                run("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file; another process may open it then."""
        self._connection.close()
