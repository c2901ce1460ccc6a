"""Snapshots on disk: files in ``node.data_dir``, written while the node serves, and read before it does.

::

    data_dir/lock                      held by the process that runs here; it says which one
    data_dir/NUMBER.snapshot           taken while the node served
    data_dir/NUMBER.final.snapshot     taken when it had stopped to; renamed to the above when the next process starts
    data_dir/NUMBER.new                being written, or left over by a process that was killed meanwhile

The loop takes the blocks (core/repair/saving.py), a few a turn within ``STEP_S``; a thread computes nothing and writes
them, since a disk may be slow at any time. It renames the file to its name when all of it is on the disk, and only then
removes older ones, down to ``snapshot.keep``. So whatever ends the process, the newest complete file is whole.

Whatever fails (no space, no permission, no directory) is told in the log and counted, and the node serves on; the next
try is after ``snapshot.interval_s``. Only a directory in which another process runs ends the start: two that load and
overwrite each other's files would both serve what is not theirs.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from meshcache.config import Config
from meshcache.core.repair.saving import Saving
from meshcache.core.storage.snapshot import Saved, Unusable, load
from meshcache.errors import ConfigError

STEP_S: Final = 0.002
"""What the blocks of a turn may take; one is a fraction of that."""
PAUSE_S: Final = 0.002
"""From one turn with blocks to the next, for others who want the processor."""
DISK_S: Final = 0.05
"""How often the loop looks whether the file is on the disk."""
QUEUED_BLOCKS_MAX: Final = 16
"""Blocks that wait for the disk: about 4 MB."""
LOCK_WAIT_S: Final = 2.0
"""How long a process waits for the one before it to end."""
LOCK_INTERVAL_S: Final = 0.05

_END: Final = None

Log = Callable[..., None]
"""Takes an event and its fields."""


class _Writer:
    """The thread that writes one file, and puts it in its place."""

    def __init__(self, path: Path, put_in_place: Callable[[], None]) -> None:
        """``put_in_place`` is called by the thread when all of the file is on the disk; it may raise OSError."""
        self.error: OSError | None = None
        self.size = 0
        self.done = False
        self._path = path
        self._put_in_place = put_in_place
        self._given_up = False
        self._blocks: queue.Queue[bytes | None] = queue.Queue(QUEUED_BLOCKS_MAX)
        self._thread = threading.Thread(target=self._run, name="meshcache-snapshot", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Tell whether the disk is behind."""
        return self._blocks.full()

    def put(self, block: bytes | None) -> None:
        """Write a block, or finish the file; it waits while the disk is behind."""
        self._blocks.put(block)

    def wait(self) -> None:
        """Return when the file is in its place, or has failed."""
        self._thread.join()

    def give_up(self) -> None:
        """Have no file, and return when the thread has ended."""
        self._given_up = True
        self._blocks.put(_END)
        self._thread.join()

    def _run(self) -> None:
        blocks = iter(self._blocks.get, _END)
        try:
            self._write(blocks)
            if not self._given_up:
                self._put_in_place()
        except OSError as error:
            self.error = error
        if self._given_up or self.error is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        self.done = True
        for _ in blocks:  # whoever gives them must not wait for ever
            pass

    def _write(self, blocks: Iterator[bytes | None]) -> None:
        with open(self._path, "wb", opener=_private) as file:
            for block in blocks:
                if block is not None:
                    file.write(block)
                    self.size += len(block)
            file.flush()
            os.fsync(file.fileno())


class Snapshots:
    """The snapshots of one node: what it finds when it starts, and what it leaves."""

    def __init__(self, config: Config, tell: Log) -> None:
        """Take the directory; raises ConfigError if another process has it. ``tell`` writes events."""
        self._config = config
        self._tell = tell
        self._directory = Path(config.node.data_dir)
        self._lock: int | None = None
        self._number = 0
        self._writer: _Writer | None = None
        self._blocks: Iterator[bytes] | None = None
        """Those that are still to be handed over; None: all are."""
        self._began = 0.0
        self._asked = 0
        self._failed_at_start = 0
        self._step_at = 0.0
        self._due_at = time.monotonic() + config.snapshot.interval_s
        try:
            self._take_directory()
        except OSError as error:
            self._failed_at_start += 1
            self._tell_failure(error)

    # -- the directory -------------------------------------------------------------------------------------

    def _take_directory(self) -> None:
        """Make the directory if it is not there, and keep others out."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
                    os.close(fd)
                    raise ConfigError(
                        f"node.data_dir: {self._directory} is in use by another process (pid {holder}): give each node"
                        " a directory of its own"
                    ) from None
                time.sleep(LOCK_INTERVAL_S)
            except BaseException:
                os.close(fd)
                raise
            else:
                break
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock = fd
        for path in self._directory.glob("*.new"):
            path.unlink()
        self._number = max(map(_number_of, self._files()), default=0)

    def _files(self) -> list[Path]:
        """Return all complete snapshots, the newest first."""
        found = [path for path in self._directory.glob("*.snapshot") if _number_of(path)]
        return sorted(found, key=_number_of, reverse=True)

    def load(self, wall_ms: int) -> Saved | None:
        """Return what the newest file holds that may be used; None if there is none."""
        if self._lock is None:
            return None
        for place, path in enumerate(self._files()):
            began = time.monotonic()
            try:
                is_final, current = self._make_ordinary(path)
                saved = _read(current, self._config, wall_ms)
            except (OSError, Unusable) as problem:
                self._failed_at_start += isinstance(problem, OSError)
                self._tell("snapshot_refused", file=str(path), reason=str(problem))
                continue
            saved.is_final = is_final and place == 0
            if saved.damaged_blocks:
                self._tell("snapshot_damaged", file=str(current), blocks=saved.damaged_blocks, damaged=saved.damaged)
            self._tell(
                "snapshot_loaded",
                file=str(current),
                entries=saved.store.statistics().entries,
                expired=saved.expired,
                age_s=round((wall_ms - saved.head.wall_ms) / 1000, 1),
                seconds=round(time.monotonic() - began, 2),
            )
            return saved
        return None

    def _make_ordinary(self, path: Path) -> tuple[bool, Path]:
        """Have a final snapshot be final no more: this process will acknowledge things. OSError if it can not."""
        if not path.name.endswith(".final.snapshot"):
            return False, path
        current = path.with_name(path.name.replace(".final", ""))
        path.rename(current)
        self._sync_directory()
        return True, current

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- taking them ---------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """Return when ``run`` is to be called, by the monotonic clock."""
        return self._due_at if self._writer is None else self._step_at

    def run(self, saving: Saving) -> None:
        """Go on with the snapshot under way, or begin one if it is time."""
        now = time.monotonic()
        if self._failed_at_start:
            saving.on_failed("the directory could not be used")
            self._failed_at_start = 0
        if self._writer is None:
            if now >= self._due_at or saving.asked > self._asked:
                self._asked = saving.asked
                self._begin(saving, now, final=False)
        elif now >= self._step_at:
            self._step(saving, self._writer, now)

    def _begin(self, saving: Saving, now: float, *, final: bool) -> None:
        self._due_at = now + self._config.snapshot.interval_s
        try:
            if self._lock is None or not self._directory.is_dir():
                self._give_up_lock()
                self._take_directory()
        except (OSError, ConfigError) as error:
            self._fail(saving, error)
            return
        self._number += 1
        self._began = self._step_at = now
        self._blocks = saving.blocks(final=final)
        path = self._directory / f"{self._number:010d}.new"
        self._writer = _Writer(path, partial(self._put_in_place, path, final=final))

    def _step(self, saving: Saving, writer: _Writer, now: float) -> None:
        """Hand over the blocks of a turn; when the writer has ended, see how it went."""
        if writer.done:
            self._finish(saving, writer, final=False)
            return
        end = now + STEP_S
        while self._blocks is not None and now < end and not writer.full:
            block = next(self._blocks, _END)
            writer.put(block)
            before, now = now, time.monotonic()
            saving.on_step(now - before)
            if block is _END:
                self._blocks = None
        self._step_at = now + (PAUSE_S if self._blocks is not None else DISK_S)

    def _put_in_place(self, path: Path, *, final: bool) -> None:
        """Give a file that is complete its name, and let older ones go. To remove one takes longer than a turn may."""
        path.rename(path.with_suffix(".final.snapshot" if final else ".snapshot"))
        self._sync_directory()
        for older in self._files()[self._config.snapshot.keep :]:
            older.unlink()

    def _finish(self, saving: Saving, writer: _Writer, *, final: bool) -> None:
        self._writer = None
        if writer.error is not None:
            if self._blocks is not None:
                writer.put(_END)  # its thread waits for the rest
            self._fail(saving, writer.error)
            return
        seconds = time.monotonic() - self._began
        saving.on_written(writer.size, seconds, self._began)
        self._tell("snapshot_written", bytes=writer.size, seconds=round(seconds, 3), final=final)

    def finish(self, saving: Saving) -> None:
        """Take the last snapshot, of a node that has stopped to serve, at full speed."""
        if self._writer is not None:  # it is out of date
            self._writer.give_up()
            self._writer = None
        self._begin(saving, time.monotonic(), final=True)
        writer: Any = self._writer
        if writer is None:
            return
        for block in self._blocks or ():
            writer.put(block)
        writer.put(_END)
        self._blocks = None
        writer.wait()
        self._finish(saving, writer, final=True)

    def close(self) -> None:
        """Let the directory go, and what is being written."""
        if self._writer is not None:
            self._writer.give_up()
            self._writer = None
        self._give_up_lock()

    def _give_up_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _fail(self, saving: Saving, error: Exception) -> None:
        saving.on_failed(str(error))
        self._tell_failure(error)

    def _tell_failure(self, error: Exception) -> None:
        self._tell("snapshot_failed", directory=str(self._directory), reason=str(error))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _number_of(path: Path) -> int:
    """Return the number of a snapshot, by its name; 0 if it is none of ours."""
    number = path.name.partition(".")[0]
    return int(number) if number.isdigit() else 0


def _read(path: Path, config: Config, wall_ms: int) -> Saved:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise Unusable("it is empty")
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            return load(data, config, wall_ms)
