"""The files of snapshots: what the node's loop does for them is short, and nothing that fails ever holds it up."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from timing import eventually

from meshcache.config import Config
from meshcache.node import snapshots
from meshcache.node.snapshots import Snapshots


class Blocks:
    """What the core says of its snapshots: some blocks, and how it went."""

    def __init__(self, count: int = 100) -> None:
        self.asked = 0
        self.count = count
        self.written = 0
        self.reasons: list[str] = []

    def blocks(self, *, final: bool) -> Iterator[bytes]:
        del final
        for number in range(self.count):
            yield b"%099d\n" % number

    def on_step(self, _seconds: float) -> None:
        pass

    def on_written(self, size: int, _seconds: float, _taken_at: float) -> None:
        assert size == 100 * self.count
        self.written += 1

    def on_failed(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Snapshots]:
    monkeypatch.setattr(snapshots, "PAUSE_S", 0.0)
    monkeypatch.setattr(snapshots, "DISK_S", 0.0)
    config = Config.from_tables(
        node={"id": "node1", "data_dir": str(tmp_path)}, snapshot={"enabled": True, "interval_s": 3600.0, "keep": 1}
    )
    made = Snapshots(config, lambda *_, **__: None)
    yield made
    made.close()


def take(node: Snapshots, saving: Any) -> None:
    """Have the loop take one snapshot, to its end."""
    ended = saving.written + len(saving.reasons)
    saving.asked += 1

    def has_ended() -> bool:
        node.run(saving)
        return bool(saving.written + len(saving.reasons) > ended)

    eventually(has_ended)


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "meshcache-snapshot"]


def files(node: Snapshots) -> list[str]:
    return sorted(path.name for path in node._directory.iterdir() if path.name != "lock")


def test_only_the_newest_is_there_and_it_is_whole(node: Snapshots) -> None:
    saving = Blocks()
    for number in range(1, 4):
        take(node, saving)
        assert files(node) == [f"{number:010d}.snapshot"]
    assert (node._directory / files(node)[0]).read_bytes() == b"".join(saving.blocks(final=False))
    node.finish(saving)  # type: ignore[arg-type]  # as the core's
    assert files(node) == ["0000000004.final.snapshot"]


def test_the_loop_waits_for_no_disk(node: Snapshots, monkeypatch: pytest.MonkeyPatch) -> None:
    """To remove the file before takes 10 ms for 150 MB, and to sync may take any time."""
    saving = Blocks()
    take(node, saving)
    threads: set[int] = set()

    def note(module: Any, name: str) -> None:
        does = getattr(module, name)

        def noted(*arguments: Any, **more: Any) -> Any:
            threads.add(threading.get_ident())
            return does(*arguments, **more)

        monkeypatch.setattr(module, name, noted)

    for name in ("fsync", "unlink", "rename"):
        note(os, name)
        if name != "fsync":
            note(Path, name)
    take(node, saving)
    assert files(node) == ["0000000002.snapshot"]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("fails_at", ["first block", "last", "sync", "name"])
def test_what_fails_leaves_no_thread_and_no_file_and_the_next_succeeds(
    node: Snapshots, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    """A full disk may show itself at any moment, also when all blocks were handed over."""
    full = OSError(28, "No space left on device")

    def refuse(*_: Any, **__: Any) -> None:
        raise full

    with monkeypatch.context() as patch:
        if fails_at == "sync":
            patch.setattr(os, "fsync", refuse)
        elif fails_at == "name":
            patch.setattr(Path, "rename", refuse)
        else:
            write = snapshots._Writer._write

            def fail_at_once(*_: Any) -> None:
                raise full

            def fail_late(writer: Any, blocks: Iterator[bytes | None]) -> None:
                write(writer, blocks)
                raise full

            patch.setattr(snapshots._Writer, "_write", fail_at_once if fails_at == "first block" else fail_late)
        saving = Blocks()
        take(node, saving)
        assert saving.reasons == [str(full)]
        node.finish(saving)  # type: ignore[arg-type]  # as the core's
        assert saving.reasons == [str(full)] * 2
    eventually(lambda: not writers())
    assert not files(node)
    take(node, saving)
    assert saving.written == 1


def test_one_that_is_given_up_leaves_nothing(node: Snapshots) -> None:
    saving = Blocks(10_000)
    saving.asked += 1
    node.run(saving)  # type: ignore[arg-type]  # as the core's
    assert writers()
    node.close()
    assert not writers()
    assert not files(node)
