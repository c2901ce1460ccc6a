"""What greetings tell of a node's clock, and how often and how patiently they are asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from client_world import World, fact, welcome

from meshcache.client.connection import Call, Request
from meshcache.client.greetings import (
    AGAIN_S_MAX,
    GREETING_S,
    GREETING_S_MAX,
    PROMPT_GREETINGS,
    Greeting,
    Greetings,
)
from meshcache.protocol.messages import Get, Reply
from meshcache.protocol.wire import encode_frame


def test_a_greeting_tells_the_clock_to_half_of_the_time_that_it_took() -> None:
    greeting = Greeting()
    assert greeting.is_clock_vague
    greeting.note(7, 5_000_000, asked_at=100.0, now=100.05)
    assert not greeting.is_clock_vague
    assert greeting.wall_ms == pytest.approx(5_000_000 - 100_025)


def test_after_a_slow_greeting_the_clock_is_the_latest_possible() -> None:
    greeting = Greeting()
    greeting.note(7, 5_000_000, asked_at=100.0, now=101.0)
    assert greeting.is_clock_vague
    assert greeting.wall_ms == 5_000_000 - 100_000


def test_a_slow_greeting_that_agrees_confirms_what_is_known() -> None:
    """It comes from a busy node: to believe it would make deadlines late, and to ask again would cost more."""
    greeting = Greeting()
    greeting.note(7, 5_000_000, asked_at=100.0, now=100.02)
    known_ms = greeting.wall_ms
    greeting.is_silent = True
    assert greeting.is_clock_vague
    greeting.note(7, 5_010_500, asked_at=110.0, now=111.0)
    assert greeting.wall_ms == known_ms
    assert not greeting.is_clock_vague


@pytest.mark.parametrize(("boot", "wall_ms"), [(7, 9_000_000), (8, 5_010_500)])
def test_a_clock_that_was_set_or_is_another_process_is_believed(boot: int, wall_ms: int) -> None:
    greeting = Greeting()
    greeting.note(7, 5_000_000, asked_at=100.0, now=100.02)
    greeting.note(boot, wall_ms, asked_at=110.0, now=111.0)
    assert greeting.is_clock_vague
    assert greeting.wall_ms == wall_ms - 110_000


def test_further_greetings_become_ever_more_seldom() -> None:
    greeting, now, asked = Greeting(), 100.0, []
    for _ in range(6000):
        if greeting.may_be_asked_again(now):
            greeting.note_asked_again(now)
            asked.append(now)
        now += 0.01
    pauses = [b - a for a, b in pairwise(asked)]
    assert pauses[: PROMPT_GREETINGS - 1] == pytest.approx([0.01] * (PROMPT_GREETINGS - 1))
    expected = [GREETING_S, 2 * GREETING_S, 4 * GREETING_S, AGAIN_S_MAX, AGAIN_S_MAX]
    assert pauses[PROMPT_GREETINGS - 1 :][:5] == pytest.approx(expected, abs=0.02)
    now = asked[-1] + 2 * AGAIN_S_MAX + 1
    for _ in range(PROMPT_GREETINGS):
        assert greeting.may_be_asked_again(now), "who has asked for none for so long begins anew"
        greeting.note_asked_again(now)
    assert not greeting.may_be_asked_again(now)


def test_a_client_waits_longer_with_each_connection_that_it_replaces_in_vain() -> None:
    greetings = Greetings()
    greeting = greetings.of("a")
    assert greetings.of("a") is greeting
    patience_s = []
    for _ in range(5):
        patience_s.append(greeting.patience_s)
        greeting.note_replaced()
    assert patience_s == [GREETING_S, 2 * GREETING_S, 4 * GREETING_S, GREETING_S_MAX, GREETING_S_MAX]
    greeting.note(7, 5_000_000, 100.0, 100.01)
    assert greeting.patience_s == GREETING_S
    greetings.keep(["b"])
    assert greetings.of("a") is not greeting


def test_all_connections_to_a_node_share_its_clock() -> None:
    world = World(known=False)
    first, second = (world.session.connection("127.0.0.1:7101") for _ in range(2))
    for connection, took_s, wall_ms in ((first, 0.02, 5_000_010), (second, 0.8, 5_000_600)):
        connection.hello()
        world.now += took_s
        connection.accept(encode_frame(0, [welcome(fact(1), wall_ms=wall_ms)]))
    assert not second.is_clock_vague
    assert not second.wants_greeting, "a greeting more would cost a busy node dearly"


def test_a_node_that_answers_has_our_idea_of_its_clock() -> None:
    world = World(known=False)
    connection = world.session.connection("127.0.0.1:7101")
    connection.hello()
    connection.accept(encode_frame(0, [welcome(fact(1))]))
    call = Call(connection.address, Request("get", Get, (0, 0, False), [b"k"], ["k"]), world.now + 1, 0.25)
    connection.forget(connection.encode(call, world.now)[0])
    assert connection.wants_greeting
    number, _ = connection.encode(call, world.now)
    connection.accept(encode_frame(0, [Reply(number, b"", [b""])]))
    assert not connection.wants_greeting
