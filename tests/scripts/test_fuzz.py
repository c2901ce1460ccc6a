"""A while of fuzzing, and whether the fuzzer finds what is there to be found. ``scripts/fuzz`` does more of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from fuzzing import frames
from fuzzing.episodes import STEPS, TARGETS, Finding, play, run
from fuzzing.frames import Draw, Scene, has_leave
from fuzzing.program import THREE_STEPS, main
from fuzzing.shrinking import kind_of, shrink

from meshcache.core import claims
from meshcache.core.membership.membership import Membership
from meshcache.core.membership.newcomers import Newcomers
from meshcache.protocol import facts, wire
from meshcache.protocol import messages as m
from meshcache.protocol.messages import KINDS

SECONDS = {"one": 14.0, "three": 8.0}
EPISODES_FOR_A_BUG = 60


@pytest.mark.parametrize("name", SECONDS)
def test_nothing_is_found(name: str) -> None:
    """As many episodes as there is time for; each time the suite runs, others."""
    target, first = TARGETS[name], time.time_ns() % 1_000_000
    deadline, seed, frames = time.monotonic() + SECONDS[name], first, 0
    while time.monotonic() < deadline or seed == first:
        episode = run(target, seed, STEPS if name == "one" else THREE_STEPS)
        frames += episode.frames
        assert not episode.finding, f"{episode.finding}\nreplay: scripts/fuzz --target {name} --seed {seed} --frames 1"
        seed += 1
    assert frames > 50


def unchecked_facts(patch: pytest.MonkeyPatch) -> None:
    """Addresses, names and numbers of members are taken as they come."""
    for rule in facts._RULES:
        patch.setitem(facts._RULES, rule, lambda _: None)


def versions_of_any_time(patch: pytest.MonkeyPatch) -> None:
    """What comes in is not held against the clock."""
    for kind in list(claims.GATES):
        patch.delitem(claims.GATES, kind)


def answers_of_any_kind(patch: pytest.MonkeyPatch) -> None:
    """Whatever has the number of a request is its answer."""

    def on_answer(self: Any, node_id: str, answer: Any) -> bool:
        waiting = self.waiting.pop(answer.request, None)
        if waiting is not None and self._knows(waiting[0]):
            waiting[0].on_answer(waiting[1], node_id, answer)
        return True

    patch.setattr("meshcache.core.operations.pending.Pending.on_answer", on_answer)


def an_unchecked_field(patch: pytest.MonkeyPatch) -> None:
    """The changes of an UPDATE are of any form."""
    schema = wire._SCHEMAS[13]
    patch.setitem(wire._SCHEMAS, 13, schema._replace(checks=schema.checks[:-1]))


def a_stumbling_handler(patch: pytest.MonkeyPatch) -> None:
    """A handler fails on a value that is well formed."""
    on_ping = Membership.on_ping

    def stumble(self: Any, ping: Any, wall_ms: int, now: float) -> Any:
        assert self is not None
        return on_ping(self, ping._replace(sequence=[][ping.sequence] if ping.sync else 1), wall_ms, now)

    patch.setattr(Membership, "on_ping", stumble)


BUGS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    unchecked_facts: "",
    versions_of_any_time: "immortal",
    answers_of_any_kind: "failed",
    an_unchecked_field: "failed",
    a_stumbling_handler: "failed",
}
"""And what the finding says."""


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(EPISODES_FOR_A_BUG):
        episode = run(TARGETS["one"], seed)
        if BUGS[plant] in episode.finding and episode.finding:
            assert play(TARGETS["one"], episode.steps) == episode.finding, "the same steps do the same"
            return
    pytest.fail(f"{plant.__doc__} No episode showed it.")


def test_shrinking_leaves_what_is_needed_and_nothing_else() -> None:
    steps = [(number,) for number in range(100)]
    needed = {(3,), (4,), (77,)}
    assert shrink(steps, lambda fewer: needed <= {*fewer}) == sorted(needed)


def test_a_finding_is_shrunk_to_the_steps_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    a_stumbling_handler(monkeypatch)
    target = TARGETS["one"]
    episode = next(found for seed in range(EPISODES_FOR_A_BUG) if (found := run(target, seed)).finding)
    kind = kind_of(episode.finding)
    fewest = shrink(episode.steps, lambda fewer: kind_of(play(target, fewer)) == kind)
    assert len(fewest) < len(episode.steps)
    assert kind_of(play(target, fewest)) == kind


def test_the_command_tells_what_it_found_and_how_to_get_there_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--frames", "300"]) == 0
    assert "findings: none" in capsys.readouterr().out
    a_stumbling_handler(monkeypatch)
    assert main(["--frames", "3000", "--seed", "5"]) == 1
    printed = capsys.readouterr().out
    assert "seed " in printed
    assert "Ping(" in printed


def test_what_a_frame_moves_beyond_its_bounds_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS["one"]
    monkeypatch.setattr(Newcomers, "__len__", lambda self: 1 << 20)
    played = target.make()
    with pytest.raises(Finding, match="limits"):
        played.play(("pass", 0.1))


def test_no_frame_that_is_drawn_has_a_node_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage turns a request to drop tags into one to leave: a single bit of its kind."""
    asked = m.InvalidateTags(1, 2, 3, b"", [b"t1"])
    frame = wire.encode_frame(0, [asked])
    kind_at = frame.index(KINDS[m.InvalidateTags])
    damaged = frame[:kind_at] + bytes([KINDS[m.Leave]]) + frame[kind_at + 1 :]
    assert not has_leave(frame)
    assert has_leave(damaged)
    assert not has_leave(b"noise")
    drawn = iter([damaged, damaged, frame])
    monkeypatch.setattr(Draw, "encoded", lambda *_: next(drawn))
    monkeypatch.setattr(frames, "NOISE", 0.0)
    assert Draw(random.Random(1)).frame([m.InvalidateTags], Scene(0, 1)) == frame
