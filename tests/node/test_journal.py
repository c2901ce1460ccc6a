"""The log of a node: its id on every line, and no line again and again."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from meshcache.node import journal
from meshcache.node.journal import BURST, LEVELS, REPEATS_MAX, WINDOW_S, Journal


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(journal, "time", clock)
    return clock


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    caplog.set_level(logging.DEBUG, "meshcache")
    return lambda: caplog.records


def test_every_line_bears_the_id_of_its_node(told: Callable[[], list[logging.LogRecord]], clock: Clock) -> None:
    Journal("node7").tell("refused", reason="why")
    (record,) = told()
    assert (record.getMessage(), record.levelno) == ("refused", logging.WARNING)
    assert (vars(record)["node_id"], vars(record)["reason"]) == ("node7", "why")


def test_a_line_that_repeats_is_left_out_and_counted(told: Callable[[], list[logging.LogRecord]], clock: Clock) -> None:
    book = Journal("node1")
    for count in range(BURST + 7):
        book.tell("stalled", seconds=count)
    assert len(told()) == BURST
    book.catch_up()
    assert len(told()) == BURST, "the window is not over"
    clock.now += WINDOW_S
    book.catch_up()
    assert len(told()) == BURST + 1
    last = vars(told()[-1])
    assert (last["seconds"], last["left_out"]) == (BURST + 6, 6)
    book.tell("stalled", seconds=1)
    book.catch_up()
    clock.now += WINDOW_S
    book.catch_up()
    assert len(told()) == BURST + 2, "nothing was left out of the second window"


def test_lines_with_other_words_are_told_apart(told: Callable[[], list[logging.LogRecord]], clock: Clock) -> None:
    book = Journal("node1")
    for count in range(3 * BURST):
        book.tell("refused", reason=f"reason {count}")
    assert len(told()) == 3 * BURST


def test_what_is_remembered_of_lines_is_bounded(told: Callable[[], list[logging.LogRecord]], clock: Clock) -> None:
    book = Journal("node1")
    for count in range(10 * REPEATS_MAX):
        book.tell("refused", reason=f"reason {count}")
    assert len(told()) == REPEATS_MAX + BURST
    assert len(book._repeats) == REPEATS_MAX + 1


def test_keys_are_told_at_the_level_debug_only() -> None:
    assert [event for event, level in LEVELS.items() if "keys" in event] == ["slow_operation_keys"]
    assert LEVELS["slow_operation_keys"] == logging.DEBUG


def test_the_library_configures_no_logging() -> None:
    program = """
import logging
before = logging.getLogger().handlers[:], logging.getLogger().level, logging.lastResort
import meshcache, meshcache.node.node, meshcache.cli.main, structlog
with_node = meshcache.Node(meshcache.Config.from_tables(node={"listen": "127.0.0.1:1"}))
logger = logging.getLogger("meshcache")
assert (logging.getLogger().handlers, logging.getLogger().level, logging.lastResort) == before
assert [type(handler) for handler in logger.handlers] == [logging.NullHandler], logger.handlers
assert (logger.level, logger.propagate, structlog.is_configured()) == (logging.NOTSET, True, False)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
