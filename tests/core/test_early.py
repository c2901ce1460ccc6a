"""Clocks at the bound: what an honest node says there is not lost, and who is no node moves no clock."""

from __future__ import annotations

from typing import Any

import pytest
from lone_node import STRANGER, Lone, record
from test_access import Known, key
from test_hostile import at_the_bound

from meshcache.core.early import EARLY_BYTES_MAX, EARLY_FRAMES_MAX, EARLY_MS_MAX
from meshcache.protocol import messages as m
from meshcache.protocol.clock import LEAD_MS_MAX
from meshcache.protocol.wire import encode_frame


def clock(lone: Lone, beyond_ms: int) -> int:
    """Return a clock that is so far beyond the bound."""
    return (lone.wall_ms + LEAD_MS_MAX + beyond_ms) << 16


def refused(lone: Lone) -> int:
    return lone.core.counters.clock_refused


def write(lone: Lone, name: bytes, beyond_ms: int, value: bytes = b"planted") -> m.Write:
    version = at_the_bound(lone.wall_ms + beyond_ms)
    return m.Write(*lone.head(), False, [name], [record(version, value)])


def test_what_a_node_whose_wall_clock_is_a_little_ahead_writes_at_the_bound_is_stored() -> None:
    lone = Lone()
    assert lone.tell(write(lone, b"k", 3), clock=clock(lone, 3)) == []
    assert lone.core.store.peek(b"k") is None
    assert lone.core.next_deadline() == pytest.approx(lone.now + 0.003)
    (reply,) = lone.answers(lone.turn(0.0035))
    assert isinstance(reply, m.WriteReply)
    assert lone.core.store.peek(b"k") is not None
    assert lone.core.clock.latest >> 16 <= lone.wall_ms + LEAD_MS_MAX
    assert refused(lone) == 0


def test_what_comes_earlier_than_honest_clocks_differ_is_refused() -> None:
    lone = Lone()
    lone.tell(write(lone, b"k", EARLY_MS_MAX + 1), clock=clock(lone, EARLY_MS_MAX + 1))
    assert refused(lone) == 1
    lone.wait(1.0)
    assert lone.core.store.peek(b"k") is None


def test_frames_that_were_kept_are_taken_in_the_order_of_their_clocks() -> None:
    lone = Lone()
    for name, beyond_ms in ((b"late", 9), (b"soon", 2), (b"then", 2)):
        lone.tell(write(lone, name, beyond_ms), clock=clock(lone, beyond_ms))
    replies = lone.answers(lone.turn(0.003))
    assert [reply.request for reply in replies if isinstance(reply, m.WriteReply)] == [2, 3]
    assert len(lone.answers(lone.turn(0.008))) == 1


def test_an_answer_that_is_early_is_taken_later() -> None:
    lone = Lone("127.0.0.1:7102")
    lone.core.link_up("127.0.0.1:7102", lone.now)
    lone.turn()
    welcome = m.Welcome(1, lone.wall_ms, "n2", {"slots": 64, "vnodes": 8, "replicas": 1}, [])
    lone.core.receive_answer("127.0.0.1:7102", encode_frame(clock(lone, 5), [welcome]), lone.now)
    lone.turn()
    assert not lone.core.peers.links["127.0.0.1:7102"].established
    lone.turn(0.006)
    assert lone.core.peers.links["127.0.0.1:7102"].established


def test_one_sender_can_have_only_so_many_frames_kept_and_takes_no_others_place() -> None:
    lone = Lone()
    for _ in range(EARLY_FRAMES_MAX + 1):
        lone.tell(m.Gossip([]), clock=clock(lone, 50))
    assert refused(lone) == 1
    lone.tell(write(lone, b"k", 50), clock=clock(lone, 50), origin=b"honest")
    assert refused(lone) == 1
    lone.wait(0.1)
    assert lone.core.store.peek(b"k") is not None
    lone.tell(write(lone, b"again", 50), clock=clock(lone, 50))
    assert refused(lone) == 1  # those that were taken count no more


def test_what_is_kept_has_only_so_many_bytes_in_all() -> None:
    lone = Lone()
    value = bytes(EARLY_BYTES_MAX // 2)
    for number in range(2):
        lone.tell(write(lone, b"k", 50, value), clock=clock(lone, 50), origin=b"%d" % number)
    assert refused(lone) == 1
    lone.wait(0.1)
    lone.tell(write(lone, b"k", 50, value), clock=clock(lone, 50))
    assert refused(lone) == 1


@pytest.mark.parametrize("beyond_ms", [0, 5, 3_600_000])
def test_the_clock_of_a_clients_key_is_not_heeded(beyond_ms: int) -> None:
    lone = Lone(security={"key_file": "k", "allowed_keys_dir": "d"})
    lone.core.heed(Known(stranger=key("client")))
    latest = lone.core.clock.latest
    (reply,) = lone.tell(m.Inspect(*lone.head(), "view", b""), clock=clock(lone, beyond_ms), origin=STRANGER)
    assert isinstance(reply, m.Reply)
    assert lone.core.clock.latest == latest
    assert refused(lone) == 0


def test_the_clock_of_a_nodes_key_is_heeded() -> None:
    lone = Lone(security={"key_file": "k", "allowed_keys_dir": "d"})
    lone.core.heed(Known(stranger=key("n2")))
    told: Any = clock(lone, 0)
    lone.tell(m.Gossip([]), clock=told, origin=STRANGER)
    assert lone.core.clock.latest == told
