"""A process that writes behind is killed -9: nothing it had accepted is lost. And the judge of that finds a fault."""

from __future__ import annotations

import pytest
from faults.kill_writer import KEYS, THREADS, Ledger, experiment, held, table


@pytest.mark.process
@pytest.mark.parametrize("sync", ["full", "normal"])
def test_nothing_is_lost_when_the_writer_is_killed(postgres: str, sync: str) -> None:
    result = experiment(writes=1000, kills=1, sync=sync, seed=7)
    assert held(result), table(result)
    assert [row["lost"] for row in result["rows"]] == [0, 0]
    assert "| kill 1 |" in table(result)


def ledger(*numbers: int) -> Ledger:
    ledger = Ledger()
    for number in numbers:
        ledger.read(b"%d\n" % number)
    return ledger


def test_a_lost_write_is_noticed() -> None:
    told = ledger(3, 3 + KEYS, 4)
    assert (told.accepted, told.next[3]) == (3, 3 + KEYS + THREADS)
    assert told.judge({3: 3 + KEYS, 4: 4}) == (0, 0)
    assert told.judge({3: 3, 4: 4}) == (1, 0)
    assert told.judge({3: 3 + KEYS}) == (1, 0)


def test_a_wrong_value_is_noticed() -> None:
    told = ledger(3)
    assert told.judge({3: 3, 23: 23}) == (0, 0), "accepted, and killed before it could tell"
    assert told.judge({3: 4}) == (0, 1), "of another key"
    assert told.judge({3: 3 + KEYS}) == (0, 1), "never written"


def test_lines_that_were_cut_off_count_for_nothing() -> None:
    told = ledger(3)
    told.read(b"1")
    told.read(b"left 5\n")
    told.read(b"drained\n")
    assert (told.accepted, told.left, told.drained) == (1, 5, True)
