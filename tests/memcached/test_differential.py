"""Random commands to a memcached and to a node have the same answers. ``scripts/fuzz --target memcached`` does more."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from faults.private_memcached import private_memcached
from fuzzing import memcached as memcached_fuzzing
from fuzzing.memcached import REFERENCE, Door, Search, answers_of, comparable, differ
from fuzzing.program import main

pytestmark = pytest.mark.process

SECONDS = 8.0
SEQUENCES_FOR_A_BUG = 300

Fault = Callable[[bytes], bytes]


def test_a_node_answers_as_memcached_does(memcached: str, door: Door) -> None:
    """As many sequences as there is time for; each time the suite runs, others."""
    search = Search(memcached, door.address, time.time_ns() % 1_000_000)
    search.run(1_000, SECONDS)
    assert search.played > 100
    assert not search.findings


def test_what_is_over_as_it_is_made_was_not_written_long_ago(door: Door) -> None:
    assert answers_of(door.address, [("say", b"mg never l c N-100\r\n")]) == b"HD l0 c0 W\r\n"


def test_a_memcached_does_not_differ_from_another(memcached: str) -> None:
    with private_memcached(*REFERENCE) as other:
        search = Search(memcached, other, 0)
        search.run(300, SECONDS)
    assert not search.findings
    assert search.chances <= 1


def spoil(patch: pytest.MonkeyPatch, fault: Fault) -> str:
    """Let a server answer as another does, but for a fault; return where it seems to be."""
    answers_of = memcached_fuzzing.answers_of
    patch.setattr(
        memcached_fuzzing,
        "answers_of",
        lambda address, steps: (
            answers_of(address, steps)
            if not address.startswith("spoilt ")
            else fault(answers_of(address.removeprefix("spoilt "), steps))
        ),
    )
    return "spoilt "


FAULTS: dict[str, Fault] = {
    "a miss is told as an error": lambda data: data.replace(b"NOT_FOUND", b"ERROR"),
    "a line ends with LF alone": lambda data: data.replace(b"STORED\r\n", b"STORED\n"),
    "blanks behind a number are gone": lambda data: data.replace(b" \r\n", b"\r\n"),
    "meta commands forget opaque": lambda data: data.replace(b" Oabc", b""),
    "a lifetime is forgotten": lambda data: re.sub(rb" t\d+", b" t-1", data),
    "no two answers have the same cas unique": lambda data: re.sub(
        rb"(?m)^(VALUE \S+ \d+ \d+ \d+)\r", lambda found: b"%s%d\r" % (found[1], found.start()), data
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(
    memcached: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search = Search(memcached, spoil(monkeypatch, FAULTS[name]) + memcached, 0, findings_max=1)
    search.run(SEQUENCES_FOR_A_BUG, 20.0)
    assert search.findings
    assert "steps differ" in capsys.readouterr().out


def test_what_no_two_servers_have_in_common_is_no_difference() -> None:
    one = b"VALUE a 0 1 17\r\nx\r\nEND\r\nHD c17 t99 Oc17\r\nVA 1 c18 l0\r\nx\r\nVERSION 1\r\nSTAT pid 1\r\nEND\r\n"
    other = b"VALUE a 0 1 4\r\nx\r\nEND\r\nHD c4 t100 Oc17\r\nVA 1 c9 l1\r\nx\r\nVERSION 2\r\nEND\r\n"
    assert not differ(comparable(one), comparable(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"VALUE a 0 1 4\r\nx\r\nVALUE b 0 1 4\r\nx\r\n", b"VALUE a 0 1 4\r\nx\r\nVALUE b 0 1 5\r\nx\r\n"),
        (b"NF c0\r\n", b"NF c5\r\n"),
        (b"HD c4 c4\r\n", b"HD c4 c5\r\n"),
        (b"HD t100\r\n", b"HD t-1\r\n"),
        (b"HD t100\r\n", b"HD t90\r\n"),
        (b"HD Ot100\r\n", b"HD Ot101\r\n"),
        (b"VA 2\r\nx\r\n", b"VA 1\r\nx\r\n"),
        (b"ME a exp=-1 la=0 cas=1 fetch=no\r\n", b"ME a exp=100 la=0 cas=1 fetch=no\r\n"),
        (b"END\r\n", b"END\r\nEND\r\n"),
        (b"STAT a b\r\nEND\r\n", b"STAT a b\r\n"),
        (b"", b"(silence: no answer)"),
    ],
)
def test_what_differs_differs(one: bytes, other: bytes) -> None:
    assert differ(comparable(one), comparable(other))


def test_the_command_compares_with_any_server(
    memcached: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--target", "memcached", "--frames", "30", "--at"]
    assert main([*arguments, memcached]) == 0
    assert "30 sequences" in capsys.readouterr().out
    assert main([*arguments, spoil(monkeypatch, FAULTS["a miss is told as an error"]) + memcached]) == 1
