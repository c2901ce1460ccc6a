"""The client's policy without sockets: a virtual clock, and outcomes that the tests choose."""

from __future__ import annotations

import errno
import math
import random
import time
from collections.abc import Callable
from datetime import timedelta
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

import pytest
from client_world import World, fact, hits, record, welcome

from meshcache.client.arguments import DEFAULT, MISSING, levels, milliseconds, raw_key, raw_keys
from meshcache.client.codec import Codec
from meshcache.client.connection import CALLS_MAX, GREETING, Batch, Call, Connection, Read, Request, Unsendable
from meshcache.client.delivery import allowance_s, pause_s, within
from meshcache.client.failure import (
    CONNECTION_LOST,
    NO_REPLY,
    NO_TIME,
    NOT_CONNECTED,
    NOT_GREETED,
    WRONG_CLUSTER,
    Failure,
    not_connected,
)
from meshcache.client.greetings import GREETING_S
from meshcache.client.locks import Lock
from meshcache.client.parts import ROUND_BYTES_MAX, ROUND_PARTS_MAX, VALUE_MARGIN
from meshcache.client.routing import Routing
from meshcache.client.seeds import parse_seeds
from meshcache.client.session import Session, begin
from meshcache.durations import seconds
from meshcache.errors import (
    ConfigError,
    InvalidKey,
    KeyMissing,
    MeshcacheError,
    NodeUnavailable,
    NotANumber,
    OperationError,
    OperationTimeout,
    Overloaded,
    ProtocolError,
    QuorumNotReached,
    SerializationError,
    ValueTooLarge,
)
from meshcache.protocol.breaker import Breaker
from meshcache.protocol.messages import (
    BATCH_OPS_MAX,
    Clear,
    Code,
    Delete,
    EventKind,
    Get,
    Inspect,
    InvalidateTags,
    Message,
    Refused,
    Reject,
    Reply,
    Set,
    TurnedAway,
    Update,
)
from meshcache.protocol.record import NEVER_MS, Extras, extras_of, tombstone, with_extras
from meshcache.protocol.wire import LARGE_BYTES, decode_frame, encode_frame

# ---- arguments


@pytest.mark.parametrize(
    ("ttl", "expected"),
    [
        (None, 0),
        (DEFAULT, -1),
        (60, 60_000),
        (1.5, 1500),
        (0.0001, 1),
        (timedelta(minutes=1), 60_000),
        (1e300, NEVER_MS),
    ],
)
def test_lifetimes(ttl: Any, expected: int) -> None:
    assert milliseconds(ttl) == expected


@pytest.mark.parametrize("ttl", [0, -1, -0.5, timedelta(0)])
def test_a_lifetime_of_zero_or_less_says_what_to_use(ttl: Any) -> None:
    with pytest.raises(ValueError, match=r"use None for no expiry, or delete\(\)"):
        milliseconds(ttl)


@pytest.mark.parametrize(
    ("ttl", "error"), [(True, TypeError), ("60", TypeError), (math.nan, ValueError), (math.inf, ValueError)]
)
def test_odd_lifetimes_are_refused(ttl: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        milliseconds(ttl)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (math.inf, ValueError),
        (math.nan, ValueError),
        (True, TypeError),
        ("1", TypeError),
    ],
)
def test_odd_timeouts_are_refused(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout"):
        seconds(timeout)


def test_levels() -> None:
    assert [levels(c) for c in (None, "one", "quorum", "all", (2, 1))] == [(0, 0), (-1, -1), (-2, -2), (-3, -3), (2, 1)]
    for wrong in ("most", (0, 1), (True, 1), (1,), 2):
        with pytest.raises(ValueError, match='"one", "quorum", "all"'):
            levels(wrong)


@pytest.mark.parametrize("key", ["", b"", "x" * 1025, "é" * 513, "\ud800", 5, None])
def test_keys_that_are_none(key: Any) -> None:
    with pytest.raises(InvalidKey):
        raw_key(b"", key)
    with pytest.raises(InvalidKey):
        raw_keys(b"", ["fine", key])


def test_the_namespace_counts_towards_the_limit_and_the_error_names_it() -> None:
    assert raw_key(b"n" * 24, "x" * 1000) == b"n" * 24 + b"x" * 1000
    with pytest.raises(InvalidKey, match=r"1,025 bytes.*1,024"):
        raw_key(b"n" * 25, "x" * 1000)
    assert raw_keys(b"p:", ["a", b"a"]) == [b"p:a", b"p:a"]


# ---- seeds


@pytest.mark.parametrize(
    ("seeds", "addresses"),
    [
        ("h:1", ("h:1",)),
        ("h", ("h:7101",)),
        ("h:1, g:2,", ("h:1", "g:2")),
        (["h:1", "h:1"], ("h:1",)),
        ("[::1]:5", ("[::1]:5",)),
        ("[::1]", ("[::1]:7101",)),
        (None, ("127.0.0.1:7101",)),
    ],
)
def test_forms_of_seeds(seeds: Any, addresses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHCACHE_SEEDS", raising=False)
    assert parse_seeds(seeds).addresses == addresses


def test_seeds_from_the_environment_and_from_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHCACHE_SEEDS", "mesh://h1:1,h2/shop?timeout=0.5&consistency=2,1&ttl=never&cluster=c")
    session = begin(None, timeout=None, ttl=DEFAULT, consistency=None, codec=None, namespace="", cluster="")
    assert session.routing.seeds == ("h1:1", "h2:7101")
    assert (session.options.prefix, session.options.timeout_s, session.options.ttl_ms) == (b"shop", 0.5, 0)
    assert (session.options.w, session.options.r, session.cluster) == (2, 1, "c")
    units = begin(
        "mesh://h?timeout=500ms&ttl=1h30m",
        timeout=None,
        ttl=DEFAULT,
        consistency=None,
        codec=None,
        namespace="",
        cluster="",
    )
    assert (units.options.timeout_s, units.options.ttl_ms) == (0.5, 5_400_000)
    session = begin(None, timeout=2, ttl=3, consistency="one", codec=None, namespace="n", cluster="d")
    assert (session.options.prefix, session.options.timeout_s, session.options.ttl_ms) == (b"n", 2.0, 3000)


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ("h:x", "port"),
        ("h:99999", "port"),
        ("a b:1", "a b"),
        ("", "none"),
        ([5], "5"),
        ("http://h:1", "mesh://"),
        ("mesh://h:1?speed=9", "speed"),
        ("mesh://h:1?timeout=fast", "timeout: must be a duration, such as .* is 'fast'"),
        ("mesh://h:1?timeout=-1", "timeout"),
        ("mesh://h:1?consistency=most", "consistency"),
    ],
)
def test_wrong_seeds_are_named(seeds: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHCACHE_SEEDS", "used:1")
    with pytest.raises(ConfigError, match=told):
        begin(seeds, timeout=None, ttl=DEFAULT, consistency=None, codec=None, namespace="", cluster="")


def test_all_mistakes_in_seeds_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_seeds("mesh://h:x,g:0?speed=1&timeout=a")
    assert len(caught.value.problems) == 4


# ---- breaker


def test_the_breaker_opens_at_half_of_ten_calls_and_lets_one_probe_pass() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.succeed(100.0)
    assert [breaker.fail(100.5) for _ in range(5)] == [False] * 4 + [True]
    assert not breaker.admits(130.0)
    assert breaker.admits(130.5)
    assert not breaker.admits(131.0)
    assert not breaker.fail(131.0)
    assert not breaker.admits(160.9)
    assert breaker.admits(161.0)
    assert breaker.succeed(161.0)
    assert breaker.is_closed
    assert breaker.admits(161.0)


def test_the_breaker_forgets_after_ten_seconds_and_needs_ten_calls() -> None:
    breaker = Breaker()
    for i in range(9):
        assert not breaker.fail(100.0 + i / 10)
    assert not breaker.fail(111.0)
    for _ in range(20):
        breaker.succeed(112.0)
    assert not any(breaker.fail(112.0) for _ in range(18))
    assert breaker.fail(112.0)


# ---- routing


def test_a_key_goes_to_its_first_owner_in_one_call() -> None:
    world = World()
    assert world.run(world.session.get("k", None, None), hits) == "v"
    (call,) = world.calls
    assert (call.address, call.request.kind, call.request.keys) == (world.owners(b"k")[0], Get, [b"k"])
    assert call.deadline(100.0) == 100.5


def test_failover_goes_on_to_the_next_owner_and_then_avoids_the_node() -> None:
    world = World()
    first, second = world.owners(b"k")

    def answer(call: Call) -> Any:
        return NOT_CONNECTED if call.address == first else hits(call)

    assert world.run(world.session.get("k", None, None), answer) == "v"
    assert [call.address for call in world.data_calls] == [first, second]
    assert world.run(world.session.get("k", None, None), answer) == "v"
    assert [call.address for call in world.data_calls] == [first, second, second]
    world.now += 1.1
    world.run(world.session.get("k", None, None), hits)
    assert world.data_calls[-1].address == first


def test_a_failure_asks_another_node_for_news_beside_the_next_operation() -> None:
    world = World()
    world.now += 2
    first = world.owners(b"k")[0]
    world.run(world.session.get("k", None, None), lambda c: NO_REPLY if c.address == first else hits(c))
    beside = world.steps[-1]
    assert [call.request.kind for call in beside] == [Get, Inspect]
    assert beside[1].address != first


@pytest.mark.parametrize("seed", range(8))
def test_a_call_outlives_a_split_network_if_its_timeout_allows(seed: int) -> None:
    """Most nodes are silent; the others cannot do without them until they count them dead, which takes a while."""
    world = World(5)
    world.session.rng = random.Random(seed)
    known_at = world.now + 2.5
    here = {"127.0.0.1:7101", "127.0.0.1:7102"}

    def answer(call: Call) -> Any:
        if call.address not in here:
            return NO_REPLY
        if call.request.kind is Inspect:
            states = [0, 0, *[int(world.now >= known_at) * 2] * 3]
            return [{"members": [list(fact(i + 1, state)) for i, state in enumerate(states)]}]
        return hits(call) if call.deadline(world.now) >= known_at else NO_REPLY

    world.now += 0.01
    key = next(key for key in map(str, range(99)) if not here.intersection(world.owners(key.encode())))
    world.run(world.session.get(key, None, None), answer)
    assert world.now < known_at + 1.0


def test_a_node_that_fails_again_and_again_is_doubted_for_longer_until_it_answers() -> None:
    world = World()
    world.now += 2
    peer = world.routing.peers[world.owners(b"k")[0]]
    doubts = []
    for _ in range(4):
        world.now = max(world.now, peer.doubted_until)
        world.routing.failed(peer.address, world.now)
        world.routing.failed(peer.address, world.now)  # of the same failure another call's
        doubts.append(peer.doubted_until - world.now)
    assert doubts == pytest.approx([1.0, 2.0, 4.0, 4.0])
    world.routing.succeeded(peer.address, world.now)
    assert world.routing.first[world.routing.slot_of(b"k")] == peer.address
    world.now += 1
    world.routing.failed(peer.address, world.now)
    assert peer.doubted_until - world.now == pytest.approx(1.0)


def test_when_all_nodes_fail_the_seeds_are_asked_again() -> None:
    world = World()
    world.greet(fact(2), fact(3))
    seen = []

    def answer(call: Call) -> Any:
        seen.append(call.address)
        return hits(call) if call.address == "127.0.0.1:7101" else NOT_CONNECTED

    assert world.run(world.session.get("k", None, None), answer) == "v"
    assert set(seen) == {"127.0.0.1:7101", "127.0.0.1:7102", "127.0.0.1:7103"}


def test_open_breakers_and_suspects_come_last_but_never_fail_an_operation() -> None:
    world = World(nodes=2)
    for peer in world.routing.peers.values():
        for _ in range(10):
            peer.breaker.fail(world.now)
    world.routing.review(world.now)
    assert world.run(world.session.get("k", None, None), hits) == "v"
    assert not world.pauses

    world = World()
    first, second = world.owners(b"k")
    suspect = int(first[-1])
    world.greet(*[fact(i, state=1 if i == suspect else 0) for i in (1, 2, 3)])
    world.run(world.session.get("k", None, None), hits)
    assert world.calls[-1].address == second


def test_a_half_open_breaker_gets_one_probe_and_closes() -> None:
    world = World(nodes=2)
    first, second = world.owners(b"k")
    for _ in range(10):
        world.routing.failed(first, world.now)
    world.now += 2
    world.run(world.session.get("k", None, None), hits)
    assert world.data_calls[-1].address == second
    world.now += 29
    world.run(world.session.get("k", None, None), lambda c: NOT_CONNECTED if c.address == first else hits(c))
    assert [call.address for call in world.data_calls[-2:]] == [first, second]
    world.now += 2
    world.run(world.session.get("k", None, None), hits)
    assert world.data_calls[-1].address == second
    world.now += 30
    world.run(world.session.get("k", None, None), hits)
    world.run(world.session.get("k", None, None), hits)
    assert [call.address for call in world.data_calls[-2:]] == [first, first]


def test_a_new_boot_resets_the_breaker() -> None:
    world = World(nodes=2)
    first = world.owners(b"k")[0]
    for _ in range(10):
        world.routing.failed(first, world.now)
    world.greet(fact(1, boot=7), fact(2, boot=7))
    world.run(world.session.get("k", None, None), hits)
    assert world.data_calls[-1].address != first
    world.greet(fact(1, boot=8), fact(2, boot=8))
    world.run(world.session.get("k", None, None), hits)
    assert world.data_calls[-1].address == first


def test_another_view_in_an_answer_leads_to_one_refresh_a_second() -> None:
    world = World(nodes=1)
    world.now += 2
    world.routing.note_view("127.0.0.1:7101", b"another!")
    world.run(world.session.get("k", None, None), hits)
    assert [call.request.kind for call in world.steps[-1]] == [Get, Inspect]
    assert len(world.routing.peers) == 3
    world.routing.note_view("127.0.0.1:7101", b"another!")
    world.run(world.session.get("k", None, None), hits)
    assert [call.request.kind for call in world.steps[-1]] == [Get]
    world.now += 1
    world.run(world.session.get("k", None, None), hits)
    assert [call.request.kind for call in world.steps[-1]] == [Get, Inspect]


def test_members_are_asked_for_every_thirty_seconds() -> None:
    world = World()
    for step in (29.0, 2.0, 29.0, 2.0):
        world.now += step
        world.run(world.session.get("k", None, None), hits)
    assert [[c.request.kind for c in step] for step in world.steps] == [[Get], [Get, Inspect], [Get], [Get, Inspect]]


def test_a_node_that_is_about_to_leave_owns_nothing_and_is_asked_last() -> None:
    leaving = fact(1)._replace(weight=0.0)
    world = World(nodes=4)
    world.greet(leaving, fact(2), fact(3), fact(4))
    digest = world.routing.digest
    assert leaving.address not in world.routing.first
    assert world.routing.pick(None, set(), world.now) != leaving.address
    assert world.routing.address_of("n1") == leaving.address
    world.greet(fact(2), fact(3), fact(4))
    assert world.routing.digest == digest, "its ring is that of the nodes, from the moment on that it wants to leave"


def test_a_garbled_answer_to_a_refresh_changes_nothing() -> None:
    world = World()
    world.now += 31
    digest = world.routing.digest
    world.run(
        world.session.get("k", None, None), lambda c: [{"members": [[1]]}] if c.request.kind is Inspect else hits(c)
    )
    assert world.routing.digest == digest


# ---- bootstrap


def test_the_first_operation_has_a_seed_greet_us() -> None:
    world = World(known=False)

    def answer(call: Call) -> Any:
        world.greet(fact(1), fact(2), fact(3))
        return hits(call)

    assert world.run(world.session.get("k", None, None), answer) == "v"
    assert [call.request.kind for call in world.calls] == [Inspect, Get]


def test_no_way_to_any_node_is_told_after_two_seconds_with_the_reason() -> None:
    world = World(known=False)
    with pytest.raises(NodeUnavailable, match=r"get 'k'.*7101: too many open files"):
        world.run(world.session.get("k", None, None), lambda c: Failure(False, False, "too many open files"))
    assert 2.0 <= world.now - 100 < 2.2


# ---- outages

REFUSED = not_connected(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("failure", [REFUSED, NOT_GREETED, not_connected(OSError(errno.EHOSTUNREACH, "No route"))])
def test_where_nobody_serves_a_call_asks_each_address_once_and_fails_at_once(failure: Failure, known: bool) -> None:
    world = World(known=known)
    with pytest.raises(NodeUnavailable, match=rf"get 'k': no node serves .*7101: {failure.why}"):
        world.run(world.session.get("k", None, None), lambda c: failure)
    assert not world.pauses
    assert sorted(call.address for call in world.data_calls) == sorted(world.routing.addresses())[: 3 if known else 0]
    asked = len(world.calls)
    with pytest.raises(NodeUnavailable, match=failure.why):
        world.run(world.session.get("k", None, None), lambda c: failure)
    assert len(world.calls) == asked


def test_an_outage_is_looked_into_with_backoff_and_is_over_half_a_second_after_it() -> None:
    world = World(nodes=1)
    routing = world.routing
    asked_at = []

    def answer(call: Call) -> Any:
        asked_at.append(world.now)
        return REFUSED

    while world.now < 110:
        with pytest.raises(NodeUnavailable):
            world.run(world.session.get("k", None, None), answer)
        world.now += 0.001
    gaps = [b - a for a, b in pairwise(sorted(set(asked_at)))]
    assert gaps[:4] == pytest.approx([0.02, 0.04, 0.08, 0.16], abs=0.01)
    assert max(gaps) < 0.51
    assert len(asked_at) < 40
    assert routing.peers

    back_at = world.now
    while True:
        try:
            assert world.run(world.session.get("k", None, None), hits) == "v"
            break
        except NodeUnavailable:
            world.now += 0.001
    assert world.now - back_at <= 0.51
    assert world.run(world.session.get("k", None, None), hits) == "v"


def test_one_call_at_a_time_finds_out_whether_a_node_is_back() -> None:
    world = World(nodes=1)
    with pytest.raises(NodeUnavailable):
        world.run(world.session.get("k", None, None), lambda c: REFUSED)
    world.now += 1
    probe: Any = world.session.get("k", None, None)
    calls = next(probe)
    for _ in range(100):
        with pytest.raises(NodeUnavailable):
            world.run(world.session.get("k", None, None), lambda c: pytest.fail("asked beside the probe"))
    assert world.run(_resumed(probe, [hits(call) for call in calls]), hits) == "v"
    assert world.run(world.session.get("k", None, None), hits) == "v"


def test_a_call_waits_for_a_silent_node_while_the_others_are_shut() -> None:
    world = World(timeout=1.0)
    with pytest.raises(OperationTimeout):
        world.run(world.session.get("k", None, None), lambda c: NO_REPLY if c.address.endswith("7102") else REFUSED)
    assert world.now - 100 == pytest.approx(1.0, abs=0.01)
    assert sum(not call.address.endswith("7102") for call in world.data_calls) < 20


def test_a_node_asked_by_name_is_told_at_once_when_it_is_shut() -> None:
    world = World()
    with pytest.raises(NodeUnavailable, match="leave n2: no node serves"):
        world.run(world.session.leave("n2", None), lambda c: REFUSED)
    assert not world.pauses
    assert world.run(world.session.get("k", None, None), hits) == "v"


def test_another_cluster_is_told_at_once_when_nobody_else_serves() -> None:
    wrong = REFUSED._replace(why="this node belongs to cluster 'a', not 'b'", code=WRONG_CLUSTER)
    for seconds_later in (0.0, 0.001, 1.0):
        world = World(known=False, cluster="b")
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"set 'k': .*cluster= or seeds .*'a', not 'b'"):
                world.run(world.session.set("k", 1, DEFAULT, None), lambda c: wrong)
            assert not any(world.pauses)
            world.now += seconds_later
    world = World()
    strange = {"127.0.0.1:7101"}
    assert world.run(world.session.get("k", None, None), lambda c: wrong if c.address in strange else hits(c)) == "v"
    with pytest.raises(OperationTimeout):  # the others are silent: they may be of the right one
        world.run(world.session.get("k", None, 1.0), lambda c: wrong if c.address in strange else NO_REPLY)


def test_many_callers_ask_a_node_that_is_not_ready_ten_times_a_second() -> None:
    world = World(nodes=1, timeout=60.0)
    ready_at = 105.0
    asked = 0

    def answer(call: Call) -> Any:
        nonlocal asked
        asked += 1
        return hits(call) if world.now >= ready_at else Reject(1, b"", [int(Code.NOT_READY)])

    asleep = [(100.0 + i / 1000, i, world.session.get("k", None, None), None) for i in range(100)]
    heapify(asleep)
    done_at = []
    while asleep:
        world.now, i, flow, sent = heappop(asleep)
        try:
            step: Any = flow.send(sent)
            while isinstance(step, list):
                step = flow.send([answer(call) for call in step])
            heappush(asleep, (world.now + step, i, flow, None))
        except StopIteration:
            done_at.append(world.now)
    assert asked < 100 + 10 * 5 + 100 + 20
    assert max(done_at) < ready_at + 0.25


def _resumed(flow: Any, answer: Any) -> Any:
    try:
        step = flow.send(answer)
    except StopIteration as stop:
        return stop.value
    while True:
        try:
            step = flow.send((yield step))
        except StopIteration as stop:
            return stop.value


def test_levels_are_checked_once_the_cluster_is_known() -> None:
    world = World(known=False, consistency=(3, 1))

    def answer(call: Call) -> Any:
        world.greet(fact(1))
        return hits(call)

    with pytest.raises(ValueError, match=r"write level 3 .* 2 replicas"):
        world.run(world.session.get("k", None, None), answer)
    with pytest.raises(ValueError, match=r"read level 4 .* 2 replicas"):
        World().session.derive(consistency=(1, 4))


def test_levels_travel() -> None:
    world = World(consistency="quorum")
    world.run(world.session.get("k", None, None), hits)
    assert list(world.calls[-1].request.options) == [-2, -2, False]
    world.run(world.session.derive(consistency=(2, 1)).set("k", 1, 5, None), hits)
    assert list(world.calls[-1].request.options) == [2, 5000]
    world.run(world.session.derive(consistency=(2, 1)).get("k", None, None), hits)
    assert list(world.calls[-1].request.options) == [1, 2, False]


# ---- deadlines and what is repeated


def test_silence_everywhere_ends_at_the_deadline() -> None:
    world = World()
    with pytest.raises(OperationTimeout, match="no reply in time"):
        world.run(world.session.get("k", None, None), lambda c: NO_REPLY)
    assert world.now - 100 == pytest.approx(5.0, abs=0.05)
    assert len({call.address for call in world.data_calls}) == 3
    assert all(call.until <= 105.0 for call in world.calls)


def test_more_time_is_given_when_all_were_slow_and_not_to_the_next_node_after_a_silent_one() -> None:
    world = World(nodes=3)
    with pytest.raises(OperationTimeout):
        world.run(world.session.get("k", None, None), lambda c: NO_REPLY)
    assert [round(call.allowance_s, 3) for call in world.data_calls[:6]] == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0]


def test_time_without_blame_does_not_count_against_a_node() -> None:
    world = World()
    outcomes = [NO_TIME]
    world.run(world.session.get("k", None, None), lambda c: outcomes.pop() if outcomes else hits(c))
    assert len({call.address for call in world.data_calls}) == 1


@pytest.mark.parametrize("failure", [NO_REPLY, CONNECTION_LOST])
def test_what_is_not_safe_to_repeat_is_not_repeated_once_sent(failure: Failure) -> None:
    world = World()
    kind = OperationTimeout if failure.late else NodeUnavailable
    for flow in (
        world.session.incr("k", 1, 0, DEFAULT, None),
        world.session.add("k", 1, DEFAULT, None),
        world.session.replace("k", 1, DEFAULT, None),
        world.session.cas("k", 1, b"v" * 16, DEFAULT, None),
    ):
        before = len(world.data_calls)
        with pytest.raises(kind, match="may or may not"):
            world.run(flow, lambda c: failure if c.request.kind is Update else hits(c))
        assert len(world.data_calls) == before + 1


@pytest.mark.parametrize(
    "failure", [NOT_CONNECTED, Reject(1, b"", [int(Code.STALE_BOOT)]), Reject(1, b"", [int(Code.OVERLOADED)])]
)
def test_what_was_not_executed_is_repeated_whatever_it_is(failure: Any) -> None:
    world = World()
    outcomes = [failure]
    assert world.run(world.session.incr("k", 1, 0, DEFAULT, None), lambda c: outcomes.pop() if outcomes else [5]) == 5
    same_node = len({call.address for call in world.data_calls}) == 1
    assert same_node is (isinstance(failure, Reject) and failure.error[0] == Code.STALE_BOOT)


def test_touch_is_repeated() -> None:
    world = World()
    outcomes = [NO_REPLY]
    assert world.run(world.session.touch("k", 5, None), lambda c: outcomes.pop() if outcomes else [True])
    assert world.calls[0].request.payloads == [[5, 5000]]


def test_rejection_everywhere_is_repeated_until_the_deadline() -> None:
    for code, kind in (
        (Code.NOT_READY, NodeUnavailable),
        (Code.OVERLOADED, Overloaded),
        (Code.STALE_BOOT, NodeUnavailable),
    ):
        world = World(timeout=1.0)
        reject = Reject(1, b"", [int(code)])
        with pytest.raises(kind):
            world.run(world.session.get("k", None, None), lambda c: reject)  # noqa: B023  (used at once)
        assert world.now - 100 == pytest.approx(1.0, abs=0.01)
        assert world.pauses
        assert max(world.pauses) <= 0.1
        assert len(world.calls) < 300


def test_a_missing_quorum_is_asked_for_again_only_where_that_is_safe() -> None:
    world = World(timeout=1.0)
    missing = [[int(Code.QUORUM), 2, 1]]
    outcomes: list[Any] = [missing, missing]
    assert world.run(world.session.get("k", None, None), lambda c: outcomes.pop() if outcomes else hits(c)) == "v"
    assert len(world.pauses) == 2
    with pytest.raises(QuorumNotReached) as caught:
        world.run(world.session.set("k", 1, DEFAULT, None), lambda c: missing)
    assert (caught.value.needed, caught.value.received) == (2, 1)
    calls = len(world.calls)
    with pytest.raises(QuorumNotReached):
        world.run(world.session.incr("k", 1, 0, DEFAULT, None), lambda c: missing)
    assert len(world.calls) == calls + 1


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ([int(Code.KEY_MISSING)], KeyMissing),
        ([int(Code.NOT_A_NUMBER), "no"], NotANumber),
        ([int(Code.TOO_LARGE), 9, 5], ValueTooLarge),
        ([int(Code.INVALID), "ttl"], ValueError),
        ([99], MeshcacheError),
        ([], ProtocolError),
        (["x"], ProtocolError),
    ],
)
def test_what_a_node_says_of_a_key_is_raised(result: list[Any], kind: type[Exception]) -> None:
    world = World()
    with pytest.raises(kind):
        world.run(world.session.incr("k", 1, None, DEFAULT, None), lambda c: [result])
    assert len(world.calls) == 1


# ---- meaning of answers


def test_a_tombstone_is_a_miss_and_garbage_is_an_error() -> None:
    world = World()
    for wanted in (None, tombstone(b"v" * 16, 5)):
        assert world.run(world.session.get("k", MISSING, None), lambda c: [wanted]) is MISSING  # noqa: B023
        assert world.run(world.session.gets("k", None), lambda c: [wanted]) is None  # noqa: B023
        assert world.run(world.session.ttl("k", None), lambda c: [wanted]) is None  # noqa: B023
        assert world.run(world.session.exists("k", None), lambda c: [wanted]) is False  # noqa: B023
        assert world.run(world.session.get_many(["k"], None), lambda c: [wanted]) == {}  # noqa: B023
    for garbage in (b"short", "text", 5):
        with pytest.raises(ProtocolError):
            world.run(world.session.get("k", None, None), lambda c: [garbage])  # noqa: B023
        with pytest.raises(ProtocolError):
            world.run(world.session.get_many(["k"], None), lambda c: [garbage])  # noqa: B023


OPERATIONS: dict[str, Callable[[Session], Any]] = {
    "get 'k'": lambda s: s.get("k", None, 1.0),
    "get b'k'": lambda s: s.get(b"k", None, 1.0),
    "gets 'k'": lambda s: s.gets("k", 1.0),
    "get_many 'k'": lambda s: s.get_many(["k"], 1.0),
    "set 'k'": lambda s: s.set("k", 1, DEFAULT, 1.0),
    "delete 'k'": lambda s: s.delete("k", 1.0),
    "delete_many 'k'": lambda s: s.delete_many(["k"], 1.0),
    "invalidate 'k'": lambda s: s.delete_many(["k"], 1.0, EventKind.INVALIDATE),
    "add 'k'": lambda s: s.add("k", 1, DEFAULT, 1.0),
    "replace 'k'": lambda s: s.replace("k", 1, DEFAULT, 1.0),
    "cas b'k'": lambda s: s.cas(b"k", 1, b"v" * 16, DEFAULT, 1.0),
    "incr 'k'": lambda s: s.incr("k", 1, 0, DEFAULT, 1.0),
    "decr 'k'": lambda s: s.incr("k", -1, 0, DEFAULT, 1.0, "decr"),
    "touch 'k'": lambda s: s.touch("k", DEFAULT, 1.0),
    "exists 'k'": lambda s: s.exists("k", 1.0),
    "ttl 'k'": lambda s: s.ttl("k", 1.0),
    "get_or_set 'k'": lambda s: s.get_or_set("k", 1, DEFAULT, 1.0),
    "refresh 'k'": lambda s: s.refresh("k", 1, DEFAULT, 1.0),
    "clear": lambda s: s.clear(1.0),
    "invalidate_prefix 'k'": lambda s: s.clear(1.0, "k"),
    "invalidate_tags": lambda s: s.invalidate_tags(["k"], 1.0),
    "inspect explain": lambda s: s.inspect("explain", "k", None, 1.0),
    "leave 127.0.0.1:7101": lambda s: s.leave("127.0.0.1:7101", 1.0),
    "lock 'k'": lambda s: Lock(lambda flow: flow, s, "k", 10, 1.0)._acquire(),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("outcome", [Reject(1, b"", [int(Code.NOT_READY)]), NO_REPLY, CONNECTION_LOST])
@pytest.mark.parametrize("named", OPERATIONS)
def test_errors_name_what_the_user_called_and_the_key_as_it_was_given(named: str, outcome: Any, known: bool) -> None:
    world = World(known=known, namespace="shop:")
    with pytest.raises(OperationError) as caught:
        world.run(OPERATIONS[named](world.session), lambda c: outcome)
    assert str(caught.value).startswith(f"{named}: ")
    assert "shop:" not in str(caught.value)


@pytest.mark.parametrize("named", ["get_or_set 'k'", "lock 'k'"])
def test_errors_of_a_later_step_name_it_too(named: str) -> None:
    """The read is answered, and the change that follows is not."""
    world = World(namespace="shop:")
    with pytest.raises(OperationError) as caught:
        world.run(OPERATIONS[named](world.session), lambda c: [None] if c.request.kind is Get else NOT_CONNECTED)
    assert str(caught.value).startswith(f"{named}: ")


def test_an_undecodable_value_is_an_error_that_names_the_key() -> None:
    world = World()
    with pytest.raises(SerializationError, match="'k'"):
        world.run(world.session.get("k", None, None), lambda c: [record(b"\0\3\xc1")])
    with pytest.raises(SerializationError, match="'k'"):
        world.run(world.session.get_many(["k"], None), lambda c: [record(b"\0\3\xc1")])


def test_seconds_left_are_counted_by_the_clock_of_the_mesh() -> None:
    world = World()
    world.now += 10
    answer = record(expires_ms=1_000_000 + 30_000)
    assert world.run(world.session.ttl("k", None), lambda c: [answer]) == pytest.approx(20, abs=0.01)
    assert world.run(world.session.ttl("k", None), lambda c: [record()]) == math.inf
    item = world.run(world.session.gets("k", None), lambda c: [answer])
    assert (item.value, item.version, item.stale) == ("v", b"v" * 16, False)
    assert item.ttl == pytest.approx(20, abs=0.1)


def test_many_keys_go_to_their_owners_in_one_call_each_and_come_back_as_given() -> None:
    world = World()
    keys: list[Any] = [f"k{i}" for i in range(50)] + [b"k1", b"bytes"]

    def answer(call: Call) -> Any:
        return [record(b"\0\0" + key) if key != b"k7" else None for key in call.request.keys]

    found = world.run(world.session.get_many(keys, None), answer)
    assert found == {k: (k if isinstance(k, bytes) else k.encode()) for k in keys if k != "k7"}
    assert len(world.steps) == 1
    assert len({call.address for call in world.calls}) == len(world.calls) == 3
    for call in world.calls:
        assert all(world.owners(key)[0] == call.address for key in call.request.keys)


def test_more_is_asked_for_again_in_parts_that_are_expected_to_fit() -> None:
    world = World(nodes=1)
    world.routing.settings.small_bytes = 1 << 20
    size = int(world.routing.settings.small_bytes / (4 * VALUE_MARGIN))

    def answer(call: Call) -> Any:
        given = [record(b"\0\0" + key + bytes(size - 64)) for key in call.request.keys]
        return [one if i < 4 else [int(Code.MORE)] for i, one in enumerate(given)]

    found = world.run(world.session.get_many([f"k{i}" for i in range(15)], None), answer)
    assert found == {f"k{i}": b"k%d" % i + bytes(size - 64) for i in range(15)}
    assert [[len(call.request.keys) for call in step] for step in world.steps] == [[15], [4, 4, 3]]
    assert not world.pauses
    world.steps.clear()
    found = world.run(world.session.get_many([f"k{i}" for i in range(15)], None), answer)
    assert len(found) == 15
    assert [[len(call.request.keys) for call in step] for step in world.steps] == [[4, 4, 4, 3]]


def test_after_large_values_a_batch_of_small_ones_is_shared_out_once_more_than_it_need_be() -> None:
    world = World(nodes=1)
    world.routing.settings.small_bytes = 1 << 20
    large = world.routing.settings.small_bytes // 2
    answers = {b"k": bytes(large), b"s": b""}

    def answer(call: Call) -> Any:
        given = [record(b"\0\0" + answers[key[:1]]) for key in call.request.keys]
        return [
            one if i < 1 or key[:1] == b"s" else [int(Code.MORE)]
            for i, (one, key) in enumerate(zip(given, call.request.keys, strict=True))
        ]

    world.run(world.session.get_many(["k0", "k1"], None), answer)
    steps = []
    for _ in range(2):
        world.steps.clear()
        world.run(world.session.get_many([f"s{i}" for i in range(6)], None), answer)
        steps.append([[len(call.request.keys) for call in step] for step in world.steps])
    assert steps == [[[1] * 6], [[6]]]


def test_a_round_has_no_more_parts_than_a_busy_node_lets_wait() -> None:
    world = World(nodes=1)
    world.routing.settings.small_bytes = world.routing.value_bytes = 10_000
    items = {f"k{i}": b"%d" % i for i in range(ROUND_PARTS_MAX + 3)}

    def answer(call: Call) -> Any:
        return [record(b"\0\0" + bytes(9_000)) for _ in call.request.keys]

    assert world.run(world.session.get_many(list(items), None), answer).keys() == items.keys()
    assert [[len(call.request.keys) for call in step] for step in world.steps] == [[1] * ROUND_PARTS_MAX, [1] * 3]


def test_one_small_value_says_nothing_of_the_next_batch() -> None:
    world = World(nodes=1)
    world.routing.value_bytes = 5_000
    world.run(world.session.get("k", None, None), hits)
    assert world.routing.value_bytes == 5_000


def test_a_reply_of_one_value_that_has_none_for_the_others_is_asked_for_the_rest() -> None:
    world = World(nodes=1)

    def answer(call: Call) -> Any:
        return [None if i < 3 else [int(Code.MORE)] for i in range(len(call.request.keys))]

    assert not world.run(world.session.get_many([f"k{i}" for i in range(10)], None), answer)
    assert [len(call.request.keys) for call in world.calls] == [10, 7, 4, 1]


def test_values_that_a_driver_has_read_are_returned_beside_records_in_the_order_of_the_keys() -> None:
    world = World(nodes=1)

    def answer(call: Call) -> Any:
        return [record(b"\0\1k1"), Read("k2"), None, Read(b""), Read(0)]

    found = world.run(world.session.get_many(["k1", "k2", "k3", "k4", "k5"], None), answer)
    assert list(found.items()) == [("k1", "k1"), ("k2", "k2"), ("k4", b""), ("k5", 0)]


def test_one_failing_node_fails_over_only_its_keys() -> None:
    world = World()
    bad = world.owners(b"k0")[0]
    keys = [f"k{i}" for i in range(30)]
    found = world.run(world.session.get_many(keys, None), lambda c: NOT_CONNECTED if c.address == bad else hits(c))
    assert len(found) == 30
    sent = [key for call in world.data_calls if call.address != bad for key in call.request.keys]
    assert len(sent) == len(set(sent)) == 30


def test_an_error_of_one_key_is_no_miss_in_a_batch() -> None:
    world = World(nodes=1)
    with pytest.raises(QuorumNotReached):
        world.run(
            world.session.get_many(["a", "b"], 0.3),
            lambda c: [[int(Code.QUORUM), 2, 1] if key == b"a" else record() for key in c.request.keys],
        )


def test_set_many_splits_by_bytes_and_by_count_and_names_what_failed() -> None:
    world = World(nodes=1)
    world.run(world.session.set_many({f"k{i}": b"x" * 900 for i in range(5)}, 5, None), hits)
    assert [len(call.request.keys) for call in world.calls] == [2, 2, 1]
    world = World(nodes=1)
    world.routing.settings.small_bytes = 1 << 20
    world.run(world.session.delete_many([f"k{i}" for i in range(BATCH_OPS_MAX + 1)], None), hits)
    assert [len(call.request.keys) for call in world.calls] == [BATCH_OPS_MAX, 1]
    failed = world.run(
        world.session.set_many({"a": 1, b"b": 2, "c": 3}, 5, 0.2),
        lambda c: [[int(Code.QUORUM), 2, 1] if key in {b"b", b"c"} else None for key in c.request.keys],
    )
    assert failed == [b"b", "c"]


def test_large_values_go_in_parts_all_at_once_but_not_more_than_a_round_may_have() -> None:
    world = World(nodes=1)
    settings = world.routing.settings
    settings.small_bytes, settings.value_bytes_max = 1 << 20, 1 << 24
    third, quarter = bytes(settings.small_bytes // 3), bytes(ROUND_BYTES_MAX // 4 - 64)
    world.run(world.session.set_many({"a": third, "b": third, "c": third, "d": quarter, "e": third}, 5, None), hits)
    assert [call.request.keys for call in world.calls] == [[b"a", b"b"], [b"c"], [b"d"], [b"e"]]
    assert len(world.steps) == 1
    assert len({call.allowance_s for call in world.calls}) == 1  # for all of them: the last waits for the others
    assert world.calls[0].allowance_s > allowance_s(5.0, len(quarter))
    world.steps.clear()
    world.run(world.session.set_many({f"k{i}": quarter for i in range(7)}, 5, None), hits)
    assert [len(step) for step in world.steps] == [4, 3]


def test_a_node_with_too_much_to_do_gets_one_part_at_a_time() -> None:
    world = World(nodes=1)
    (address,) = world.routing.addresses()
    world.routing.windows.note_overload(address, world.now)
    world.run(world.session.set_many({f"k{i}": b"x" * 900 for i in range(5)}, 5, None), hits)
    assert [[len(call.request.keys) for call in step] for step in world.steps] == [[2], [2], [1]]


def test_of_two_names_of_one_key_the_last_is_stored_and_one_delete_counts() -> None:
    world = World(nodes=1)
    world.run(world.session.set_many({"a": 1, b"a": 2}, 5, None), hits)
    assert (world.calls[-1].request.keys, world.calls[-1].request.payloads) == ([b"a"], [b"\0\0022"])
    assert world.run(world.session.delete_many(["a", b"a"], None), hits) == 1


def test_too_large_values_are_not_sent() -> None:
    world = World()
    for flow in (
        world.session.set("k", b"x" * 1001, DEFAULT, None),
        world.session.add("k", b"x" * 1001, DEFAULT, None),
        world.session.set_many({"k": b"x" * 1001}, DEFAULT, None),
    ):
        with pytest.raises(ValueTooLarge) as caught:
            world.run(flow, hits)
        assert (caught.value.size, caught.value.limit) == (1001, 1000)
    assert not world.calls
    world.run(world.session.set("k", b"x" * 1000, DEFAULT, None), hits)


def test_empty_batches_ask_nobody() -> None:
    world = World()
    assert world.run(world.session.get_many([], None), hits) == {}
    assert world.run(world.session.set_many({}, 5, None), hits) == []
    assert world.run(world.session.delete_many([], None), hits) == 0
    assert not world.calls
    with pytest.raises(TypeError, match="iterable of keys"):
        world.run(world.session.get_many("abc", None), hits)


def test_namespaces_nest_and_clear_is_theirs() -> None:
    world = World()
    users = world.session.derive(prefix="users:").derive(prefix=b"7:")
    world.run(users.get("a", None, None), hits)
    assert world.calls[-1].request.keys == [b"users:7:a"]
    assert world.run(users.clear(None), lambda c: [4]) == 4
    assert (world.calls[-1].request.kind, world.calls[-1].request.options) == (Clear, (b"users:7:",))
    with pytest.raises(ProtocolError):
        world.run(users.clear(None), lambda c: ["x"])


def test_inspect_asks_the_node_named() -> None:
    world = World()
    for node in ("n2", "127.0.0.1:7102"):
        assert world.run(world.session.inspect("replica", "k", node, None), lambda c: [{"a": 1}]) == {"a": 1}
        assert (world.calls[-1].address, world.calls[-1].request.options) == ("127.0.0.1:7102", ("replica", b"k"))
    with pytest.raises(NodeUnavailable, match=r"n9.*n1 \(127"):
        world.run(world.session.inspect("status", b"", "n9", None), hits)
    with pytest.raises(NodeUnavailable):
        world.run(world.session.inspect("status", b"", "n2", 0.5), lambda c: NOT_CONNECTED)
    assert {call.address for call in world.calls if call.request.options[0] == "status"} == {"127.0.0.1:7102"}


@pytest.mark.parametrize(("delta", "initial"), [(True, 0), ("1", 0), (1.0, 0), (1, "0")])
def test_counting_wants_ints(delta: Any, initial: Any) -> None:
    world = World()
    with pytest.raises(TypeError, match="must be an int"):
        world.run(world.session.incr("k", delta, initial, DEFAULT, None), hits)
    with pytest.raises(ValueError, match="64 bits"):
        world.run(world.session.incr("k", 1 << 63, 0, DEFAULT, None), hits)


def test_the_default_lifetime_is_the_clients_then_the_clusters() -> None:
    world = World(ttl=7)
    world.run(world.session.set("k", 1, DEFAULT, None), hits)
    world.run(world.session.set("k", 1, None, None), hits)
    assert [call.request.options[1] for call in world.calls] == [7000, 0]
    world = World()
    world.run(world.session.set("k", 1, DEFAULT, None), hits)
    assert [call.request.options[1] for call in world.calls] == [-1]


# ---- connection and batch


def call_to(
    address: str,
    kind: Any,
    options: tuple[Any, ...],
    keys: list[bytes],
    payloads: list[Any] | None,
    until: float,
    allowance_s: float,
    size: int,
) -> Call:
    return Call(address, Request("test", kind, options, keys, [], payloads), until, allowance_s, size)


def connection_to(world: World, took_s: float = 0.1) -> Connection:
    connection = world.session.connection("127.0.0.1:7101")
    connection.hello()
    world.now += took_s
    answers = connection.accept(encode_frame(0, [welcome(fact(1), fact(2), wall_ms=5_000_000)]))
    assert [number for number, _ in answers] == [GREETING]
    return connection


def greet(connection: Connection) -> None:
    connection.accept(encode_frame(0, [welcome(fact(1), fact(2), wall_ms=5_000_000)]))


def get_call(key: bytes = b"k", world: World | None = None) -> Call:
    return call_to("127.0.0.1:7101", Get, (0, 0, False), [key], None, (world.now if world else 100) + 1, 1.0, 1)


def test_requests_carry_boot_view_and_the_deadline_in_the_nodes_clock() -> None:
    world = World(known=False)
    connection = connection_to(world)
    number, frame = connection.encode(get_call(world=world), world.now + 1)
    _, (message,) = decode_frame(frame)
    assert isinstance(message, Get)
    assert (message.request, message.boot, message.view, message.keys) == (number, 7, world.routing.digest, [b"k"])
    assert message.deadline_ms == pytest.approx(5_000_000 + 50 + 1000, abs=2)


def test_after_a_slow_greeting_no_deadline_is_early_and_another_is_asked_for() -> None:
    """Perhaps it was this program that was slow to read it: then the node's clock was read long ago."""
    world = World(known=False)
    connection = connection_to(world, took_s=0.8)
    assert connection.ready
    assert connection.is_clock_vague
    _, (message,) = decode_frame(connection.encode(get_call(world=world), world.now + 0.25)[1])
    assert isinstance(message, Get)
    assert message.deadline_ms == pytest.approx(5_000_000 + 800 + 250, abs=2)
    connection.hello()
    world.now += 0.01
    connection.accept(encode_frame(0, [welcome(fact(1), wall_ms=5_000_010)]))
    assert not connection.is_clock_vague
    _, (message,) = decode_frame(connection.encode(get_call(world=world), world.now + 0.25)[1])
    assert isinstance(message, Get)
    assert message.deadline_ms == pytest.approx(5_000_010 + 5 + 250, abs=2)


@pytest.mark.parametrize(
    ("options", "payloads"),
    [
        ((0, 1 << 70), [b"\0\0"]),
        ((0, 1 << 4000), [b"\0\0"]),
        ((object(), 0), [b"\0\0"]),
        ((0,), [b"\0\0"]),
        ((0, 0), [object()]),
        ((0, 0), ["\ud800"]),
    ],
)
def test_what_can_not_be_encoded_leaves_the_link_as_it_was(options: tuple[Any, ...], payloads: list[Any]) -> None:
    connection = connection_to(World())
    first, _ = connection.encode(get_call(), 101.0)
    with pytest.raises(Exception):  # noqa: B017  (of what kind is for the field to say)
        connection.encode(call_to("a", Set, options, [b"k"], payloads, 200, 1.0, 1), 101.0)
    second, _ = connection.encode(get_call(), 101.0)
    assert second == first + 1
    replies: list[Message] = [Reply(first, b"", [b"1"]), Reply(second, b"", [b"2"])]
    assert connection.accept(encode_frame(0, replies)) == [(first, [b"1"]), (second, [b"2"])]


def test_of_a_large_reply_the_values_are_read_at_once_if_nobody_wants_records() -> None:
    world = World()
    connection, keys = connection_to(world), [b"a", b"b", b"c", b"d"]
    large, tagged = record(b"\0\1" + b"x" * LARGE_BYTES), record(b"\0\3\x91\x01")
    results = [large, None, tagged, record(b"\0\2" + b"7")]
    as_values = [Read("x" * LARGE_BYTES), None, tagged, Read(7)]
    for reads_values, view, given, expected in (
        (True, world.routing.digest, results, as_values),
        (False, world.routing.digest, results, results),
        (True, b"another view", results, results),
        (True, world.routing.digest, [*results[:3], [int(Code.MORE)]], [*results[:3], [int(Code.MORE)]]),
    ):
        request = Request("test", Get, (0, 0, False), keys, [], reads_values=reads_values)
        number, _ = connection.encode(Call("127.0.0.1:7101", request, world.now + 1, 1.0, 4), world.now + 1)
        frame = encode_frame(0, [Reply(number, view, given)])
        assert connection.accept(frame) == [(number, expected)]
        assert connection.accept(frame) == []


def test_a_large_reply_of_the_wrong_length_breaks_the_protocol() -> None:
    world = World()
    connection = connection_to(world)
    request = Request("test", Get, (0, 0, False), [b"a", b"b"], [], reads_values=True)
    number, _ = connection.encode(Call("127.0.0.1:7101", request, world.now + 1, 1.0, 2), world.now + 1)
    large = record(b"\0\0" + bytes(LARGE_BYTES))
    with pytest.raises(ProtocolError, match="1 results for 2 keys"):
        connection.accept(encode_frame(0, [Reply(number, world.routing.digest, [large])]))


def test_a_call_that_makes_no_message_fails_for_good_and_in_words() -> None:
    world = World()
    unsendable = Unsendable(OverflowError("int too big to convert"))
    with pytest.raises(SerializationError, match=r"get 'k'.*int too big"):
        world.run(world.session.get("k", None, None), lambda c: unsendable)
    assert len(world.data_calls) == 1
    assert world.run(world.session.get("k", None, None), hits) == "v"
    with pytest.raises(SerializationError):
        world.run(world.session.get_many(["a", "b"], None), lambda c: unsendable)
    assert set(world.run(world.session.set_many({"a": 1, "b": 2}, DEFAULT, None), lambda c: unsendable)) == {"a", "b"}


def test_answers_meet_their_request_by_number_or_nobody() -> None:
    world = World()
    connection = connection_to(world)
    one, _ = connection.encode(get_call(), 101.0)
    two, _ = connection.encode(get_call(), 101.0)
    replies: list[Message] = [Reply(two, world.routing.digest, [b"2"]), Reply(99, b"", [b"9"]), Reply(one, b"", [b"1"])]
    assert connection.accept(encode_frame(0, replies)) == [(two, [b"2"]), (one, [b"1"])]
    assert connection.accept(encode_frame(0, [replies[0]])) == []
    three, _ = connection.encode(get_call(), 101.0)
    connection.forget(three)
    assert connection.accept(encode_frame(0, [Reply(three, b"", [b"3"])])) == []


def test_a_silent_node_is_asked_for_its_clock_and_requests_go_on() -> None:
    """Perhaps our idea of its clock is wrong; or it is overloaded, and must not be asked for much more."""
    world = World()
    connection = connection_to(world)
    assert not connection.wants_greeting
    number, _ = connection.encode(get_call(), world.now + 1)
    connection.forget(number, silent=False)
    assert not connection.wants_greeting
    connection.forget(number)
    assert connection.ready
    assert connection.wants_greeting
    connection.hello()
    assert not connection.wants_greeting, "one at a time"
    world.now += GREETING_S - 0.01
    assert not connection.is_stuck
    world.now += 0.02
    assert connection.is_stuck
    connection.accept(encode_frame(0, [welcome(fact(1), fact(2), wall_ms=5_001_000)]))  # slowly, but it agrees
    assert not connection.is_stuck
    assert not connection.wants_greeting
    connection.forget(connection.encode(get_call(), world.now)[0])
    assert connection.wants_greeting
    connection.hello()
    world.now += 0.5
    greet(connection)  # so slowly that it tells nothing, and of a clock that was set back
    assert not connection.wants_greeting, "two in a row: the node is busy"
    world.now += GREETING_S
    assert connection.wants_greeting
    connection.hello()
    greet(connection)
    assert not connection.wants_greeting


def test_a_node_that_has_restarted_is_greeted_before_it_is_asked() -> None:
    world = World()
    connection = connection_to(world)
    number, _ = connection.encode(get_call(), world.now + 1)
    connection.accept(encode_frame(0, [Reject(number, world.routing.digest, [int(Code.STALE_BOOT)])]))
    assert not connection.ready
    assert connection.wants_greeting


def test_who_is_turned_away_hears_that_the_node_is_overloaded() -> None:
    world = World()
    connection = connection_to(world)
    one, _ = connection.encode(get_call(), 101.0)
    two, _ = connection.encode(get_call(), 101.0)
    found = connection.accept(encode_frame(0, [TurnedAway(world.routing.digest, [one, two, 99])]))
    assert [(number, outcome.error) for number, outcome in found if isinstance(outcome, Reject)] == [
        (one, [Code.OVERLOADED]),
        (two, [Code.OVERLOADED]),
    ]
    assert connection.ready
    assert connection.accept(encode_frame(0, [Reply(one, b"", [b"1"])])) == []


@pytest.mark.parametrize("results", [[], [None, None], None])
def test_results_that_do_not_align_break_the_link(results: Any) -> None:
    connection = connection_to(World())
    number, _ = connection.encode(get_call(), 101.0)
    with pytest.raises(ProtocolError):
        connection.accept(encode_frame(0, [Reply(number, b"", results)]))


def test_none_stands_for_success_of_a_set_only() -> None:
    connection = connection_to(World())
    number, _ = connection.encode(call_to("a", Set, (0, 0), [b"a", b"b"], [b"\0\0", b"\0\0"], 200, 1.0, 2), 200.0)
    assert connection.accept(encode_frame(0, [Reply(number, b"", None)])) == [(number, [None, None])]


@pytest.mark.parametrize("frame", [b"", b"garbage", encode_frame(0, [Get(1, 1, 1, b"", 0, 0, False, [])])])
def test_what_no_node_sends_breaks_the_link(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        connection_to(World()).accept(frame)


def test_a_stale_boot_or_a_refusal() -> None:
    connection = connection_to(World())
    number, _ = connection.encode(get_call(), 101.0)
    reject = Reject(number, b"", [int(Code.STALE_BOOT)])
    assert connection.accept(encode_frame(0, [reject])) == [(number, reject)]
    assert not connection.ready
    ((number, failure),) = connection.accept(encode_frame(0, [Refused("cluster", "another one")]))
    assert isinstance(failure, Failure)
    assert (number, failure.sent) == (GREETING, False)
    assert "another one" in failure.why


def test_a_batch_merges_what_fits_and_splits_the_results_again() -> None:
    first = get_call(b"a")
    batch = Batch(first)
    assert batch.join(get_call(b"a"), 1000)
    assert batch.join(call_to("a", Get, (0, 0, False), [b"b", b"c"], None, 101, 1.0, 2), 1000)
    assert batch.whole().request.keys == [b"a", b"a", b"b", b"c"]
    assert first.request.keys == [b"a"]
    assert batch.split([1, 2, 3, 4]) == [[1], [2], [3, 4]]
    assert batch.split(NO_REPLY) == [NO_REPLY] * 3
    assert not batch.join(get_call(b"d"), 4)
    assert not batch.join(call_to("a", Get, (0, 0, False), [b"k"] * BATCH_OPS_MAX, None, 101, 1.0, 2), 10**9)


def test_two_changes_of_one_key_do_not_share_a_message() -> None:
    batch = Batch(call_to("a", Set, (0, 0), [b"a"], [b"\0\0001"], 200, 1.0, 2))
    assert not batch.join(call_to("a", Set, (0, 0), [b"a"], [b"\0\0002"], 200, 1.0, 2), 1000)
    assert batch.join(call_to("a", Set, (0, 0), [b"b"], [b"\0\0002"], 200, 1.0, 2), 1000)
    assert batch.whole().request.payloads == [b"\0\0001", b"\0\0002"]


def test_a_batch_is_over_with_its_most_urgent_call() -> None:
    def call(key: bytes, until: float) -> Call:
        return call_to("a", Get, (0, 0, False), [key], None, until, 1.0, 1)

    batch = Batch(call(b"a", 105.0))
    assert batch.join(call(b"b", 103.5), 1000)
    assert batch.join(call(b"c", 104.0), 1000)
    assert batch.whole().deadline(100.0) == 101.0
    assert batch.whole().deadline(103.0) == 103.5


def test_no_more_calls_share_a_message_than_wake_tasks_at_once() -> None:
    batch = Batch(get_call())
    assert sum(batch.join(get_call(), 1 << 20) for _ in range(2 * CALLS_MAX)) == CALLS_MAX - 1


def test_one_question_will_do_for_all_who_ask_the_same() -> None:
    def question() -> Call:
        return call_to("a", Inspect, ("view", b""), [], None, 101, 1.0, 0)

    batch = Batch(question())
    assert all(batch.join(question(), 1000) for _ in range(2 * CALLS_MAX))
    assert batch.whole().request.keys == []
    assert batch.split([{"members": []}]) == [[{"members": []}]] * (2 * CALLS_MAX + 1)
    assert not batch.join(get_call(), 1000)
    assert not Batch(get_call()).join(question(), 1000)


@pytest.mark.parametrize("left_s", [5.0, 1.0, 0.5, 0.49, 0.3, 0.26, 0.1, 0.003])
def test_an_allowance_that_fits_into_what_is_left_is_one_of_a_few(left_s: float) -> None:
    allowance = within(0.5, left_s)
    assert allowance <= left_s < 2 * allowance or allowance == 0.5
    assert allowance in {0.5 / (1 << i) for i in range(10)}


def test_attempts_of_a_program_that_is_too_busy_become_rare() -> None:
    rng = random.Random(1)
    assert max(pause_s(rng, attempt) for attempt in range(20)) <= 0.1
    assert min(pause_s(rng, attempt, lag_s=0.5) for attempt in range(20)) >= 0.5
    world = World()
    world.routing.lag_s = 1.0
    with pytest.raises(OperationTimeout):
        world.run(world.session.get("k", None, 2.0), lambda c: NO_REPLY)
    assert world.now == pytest.approx(102.0, abs=0.05)
    assert len(world.data_calls) <= 6


def test_a_crowd_that_fails_for_one_reason_works_the_routing_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    reviews: list[float] = []
    monkeypatch.setattr(world.routing, "review", reviews.append)
    for _ in range(1000):
        world.routing.failed("127.0.0.1:7101", world.now)
    assert len(reviews) <= 2


def test_what_has_no_keys_travels_alone() -> None:
    batch = Batch(call_to("a", Clear, (b"",), [], None, 200, 1.0, 0))
    assert not batch.join(call_to("a", Clear, (b"",), [], None, 200, 1.0, 0), 1000)
    assert batch.split([5]) == [[5]]


def test_unused_kinds_are_all_asked_for_somewhere() -> None:
    world = World()
    for flow, kind in ((world.session.delete("k", None), Delete), (world.session.exists("k", None), Get)):
        world.run(flow, hits)
        assert world.calls[-1].request.kind is kind


def test_the_real_clock_is_monotonic_by_default() -> None:
    session = begin("h:1", timeout=None, ttl=DEFAULT, consistency=None, codec=None, namespace="", cluster="")
    assert isinstance(session, Session)
    assert isinstance(session.routing, Routing)
    assert session.routing.clock is time.monotonic
    assert isinstance(session.options.codec, Codec)


# ---- tags


@pytest.mark.parametrize(
    ("tags", "error", "text"),
    [
        ("user:1", TypeError, "tags must be an iterable of tags, is the single tag"),
        (7, TypeError, "tags must be an iterable of tags, is int"),
        ([7], TypeError, "a tag must be str or bytes, is int"),
        ([""], ValueError, "a tag must not be empty"),
        (["\ud800"], ValueError, "no valid text"),
        (["t" * 1018], ValueError, "takes 1,025 bytes with its namespace; the limit is 1,024"),
        ([str(i) for i in range(33)], ValueError, "tags: an entry has at most 32, not 33"),
        (["x" * 1000 + str(i) for i in range(5)], ValueError, "the limit is 4,096"),
    ],
)
def test_tags_that_make_no_sense_are_refused_before_anything_is_sent(
    tags: Any, error: type[Exception], text: str
) -> None:
    world = World()
    session = world.session.derive(prefix="users:7")
    for flow in (
        session.set("k", "v", None, None, tags),
        session.set_many({"k": "v"}, None, None, tags),
        session.add("k", "v", None, None, tags),
        session.replace("k", "v", None, None, tags),
        session.cas("k", "v", bytes(16), None, None, tags),
    ):
        with pytest.raises(error, match=text):
            world.run(flow, lambda call: [None])
    assert not [call for call in world.calls if call.request.kind is not Inspect]


def test_a_namespace_is_put_before_tags_as_before_keys_and_each_is_sent_once() -> None:
    world = World()
    session = world.session.derive(prefix="users:")
    world.run(session.set("k", "v", None, None, ["b", b"a", "b"]), lambda call: [None])
    (content,) = world.calls[-1].request.payloads or []
    assert extras_of(bytes(22) + content).tags == (b"users:b", b"users:a")
    assert world.run(session.invalidate_tags(iter(["b", "b"]), None), lambda call: [3]) == 3
    assert (world.calls[-1].request.kind, world.calls[-1].request.options) == (InvalidateTags, ((b"users:b",),))
    with pytest.raises(ProtocolError, match="invalidate_tags"):
        world.run(session.invalidate_tags(["b"], None), lambda call: ["x"])
    with pytest.raises(ValueError, match="at most 4,096, not 4,097"):
        world.run(session.invalidate_tags(map(str, range(4097)), None), lambda call: [0])


def test_values_with_tags_are_read_as_they_were_written_alone_and_in_a_batch() -> None:
    world = World(1)
    bodies = [with_extras(Codec().encode(value), Extras((b"t",))) for value in ("a", 7, [None])]
    stored = dict(zip([b"x", b"y", b"z"], map(record, bodies), strict=True))
    assert world.run(world.session.get("y", None, None), lambda call: [stored[key] for key in call.request.keys]) == 7
    found = world.run(
        world.session.get_many(["x", "y", "z"], None), lambda call: [stored[key] for key in call.request.keys]
    )
    assert found == {"x": "a", "y": 7, "z": [None]}
