"""Nodes and clients of other versions of the protocol: one ahead, which says more, and the one before, which is strict.

The doubles stand between the real sides of a simulated mesh: whatever a side sends, they extend as a later version may,
or hold against what a node of version 1 takes.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from lone_node import Lone
from story import STRICT, Story

from meshcache.client import connection
from meshcache.client.connection import GREETING, Connection
from meshcache.client.failure import Failure
from meshcache.client.routing import Routing, parse_members
from meshcache.core import frames
from meshcache.core.membership.members import State
from meshcache.core.repair.recall import PASSED, WAITING, _Status
from meshcache.protocol import messages as m
from meshcache.protocol import versions
from meshcache.protocol.messages import KINDS, Fact
from meshcache.protocol.wire import decode_frame, encode_frame
from meshcache.simulation.hosts import EPOCH_MS

LATER_KIND = 200
LATER = versions.NEWEST + 1
KINDS_BY_FIELDS = {
    1: (6, 8, 9),
    2: (3, 7, 22, 23),
    3: (20, 21),
    4: (1, 5, 16, 31, 33, 35, 46),
    5: (2, 4, 14, 17, 18, 30, 39, 40, 45),
    6: (15, 34, 36, 37, 38, 44),
    7: (12, 32),
    8: (10, 11),
    9: (13,),
}
FIELDS_OF_VERSION_1 = {kind: count for count, kinds in KINDS_BY_FIELDS.items() for kind in kinds}
"""By kind; written down from the last commit of version 1, whose nodes drop a frame with any other number."""
FACT_ITEMS_OF_VERSION_1 = 11


def fact(node_id: str) -> Fact:
    return Fact(node_id, f"127.0.0.1:71{node_id[1:]:0>2}", "", "", "", "", 1.0, EPOCH_MS << 16, 0, State.ALIVE)


def later(value: Any) -> Any:
    """Return a field as a later version may write it: with more items in facts."""
    if isinstance(value, Fact):
        return [*value, b"later", ["more"]]
    if isinstance(value, m.Rumour):
        return [later(value.fact), value.accusers]
    if isinstance(value, list) and value and isinstance(value[0], Fact | m.Rumour):
        return [later(item) for item in value]
    return value


def ahead(clock: int, messages: list[m.Message]) -> bytes:
    """Encode a frame as a version ahead does."""
    parts: list[Any] = [[LATER_KIND, {"what": [1, 2]}, b""]]
    for message in messages:
        if isinstance(message, m.Welcome):
            settings = {**message.settings, "later": "more", versions.SETTING_NEWEST: LATER}
            fields: m.Message = message._replace(settings=settings)
        else:
            fields = message
        parts.append([KINDS[type(message)], *map(later, fields), {"later": 1}, None])
    return bytes(msgpack.packb([clock, *parts, [LATER_KIND]]))


def strict(clock: int, messages: list[m.Message]) -> bytes:
    """Encode a frame as ever, and hold it against what version 1 takes."""
    frame = encode_frame(clock, messages)
    for kind, *fields in msgpack.unpackb(frame)[1:]:
        assert len(fields) == FIELDS_OF_VERSION_1[kind], (kind, fields)
        if kind == KINDS[m.Hello]:
            assert fields[0] == 1
            assert fields[2] is None or len(fields[2]) == FACT_ITEMS_OF_VERSION_1
        if kind == KINDS[m.Welcome]:
            assert {type(value) for value in fields[3].values()} <= {int, float, str}
            assert {len(said) for said in fields[4]} <= {FACT_ITEMS_OF_VERSION_1}
        if kind in {KINDS[m.Ping], KINDS[m.Ack], KINDS[m.Gossip]}:
            assert {len(said) for said, _ in fields[-1]} <= {FACT_ITEMS_OF_VERSION_1}
    return frame


@pytest.mark.parametrize("double", [ahead, strict])
def test_a_mesh_whose_sides_hear_another_version_serves_and_agrees(
    double: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "encode_frame", double)
    monkeypatch.setattr(connection, "encode_frame", double)
    story = Story(3, STRICT)
    for i in range(20):
        story.set(f"key{i}", str(i))
    story.owners("key0")[0].crash()
    story.mesh.settle()
    assert [story.get(f"key{i}") for i in range(20)] == [str(i) for i in range(20)]
    cores = [host.core for host in story.mesh.nodes.values() if host.core is not None]
    assert len({core.membership.digest() for core in cores}) == 1
    assert {core.counters.malformed for core in cores} == {0}
    assert all((core.counters.unknown > 0) is (double is ahead) for core in cores)
    links = [link for core in cores for link in core.peers.links.values() if link.established]
    assert {link.protocol for link in links} == {versions.NEWEST}


def test_a_frame_with_an_unknown_message_is_served_without_it() -> None:
    lone = Lone()
    hello = [KINDS[m.Hello], 1, "", None, b""]
    lone.core.receive_request(b"later", msgpack.packb([0, [LATER_KIND, 1], hello]), lone.now)
    (welcome,) = lone.answers(lone.turn())
    assert isinstance(welcome, m.Welcome)
    assert (lone.core.counters.unknown, lone.core.counters.malformed) == (1, 0)


@pytest.mark.parametrize("oldest", [LATER, 0, -1])
def test_a_hello_without_a_version_in_common_is_refused_with_both(oldest: int) -> None:
    (refused,) = Lone().tell(m.Hello(oldest, "", None, b""))
    assert isinstance(refused, m.Refused)
    assert refused.code == "protocol"
    assert f"{versions.OLDEST} to {versions.NEWEST}" in refused.text
    assert str(oldest) in refused.text


def test_a_hello_that_may_mean_any_known_version_is_welcome() -> None:
    for oldest in range(versions.OLDEST, versions.NEWEST + 1):
        (welcome,) = Lone().tell(m.Hello(oldest, "", None, b""))
        assert isinstance(welcome, m.Welcome)
        assert welcome.settings[versions.SETTING_NEWEST] == versions.NEWEST


@pytest.mark.parametrize(
    ("settings", "version"),
    [
        ({}, 1),
        ({"protocol": 1, "protocol_oldest": 1}, 1),
        ({"protocol": LATER, "protocol_oldest": 1}, versions.NEWEST),
        ({"protocol": LATER, "protocol_oldest": LATER}, 0),
        ({"protocol": 1, "protocol_oldest": 2}, 0),
        ({"protocol": "2"}, 0),
    ],
)
def test_the_version_of_a_link_is_the_newest_of_both(settings: dict[str, Any], version: int) -> None:
    assert versions.of_link(settings) == version


def test_a_node_does_not_join_a_seed_that_is_too_new() -> None:
    lone = Lone("127.0.0.1:7102")
    settings: dict[str, Any] = {"slots": 64, "vnodes": 8, "replicas": 1, "protocol": LATER, "protocol_oldest": LATER}
    lone.core.link_up("127.0.0.1:7102", lone.now)
    lone.answer("127.0.0.1:7102", m.Welcome(EPOCH_MS << 16 | 2, EPOCH_MS, "n2", settings, [fact("n2")]))
    assert f"versions {LATER} to {LATER}" in str(lone.core.fatal)


def greeted(message: m.Message, *, double: Any = encode_frame) -> list[tuple[int, Any]]:
    opened = Connection("127.0.0.1:7102", "", Routing(("127.0.0.1:7102",), lambda: 1.0))
    opened.hello()
    return list(opened.accept(double(0, [message])))


def test_a_client_understands_a_node_ahead_and_refuses_one_too_far_ahead() -> None:
    settings: dict[str, Any] = {"slots": 64, "vnodes": 8, "replicas": 1}
    welcome = m.Welcome(1, 1, "n2", settings, [fact("n2")])
    ((number, found),) = greeted(welcome, double=ahead)
    assert number == GREETING
    assert found.members == [fact("n2")]
    settings |= {"protocol": LATER, "protocol_oldest": LATER}
    ((number, failure),) = greeted(welcome)
    assert isinstance(failure, Failure)
    assert failure.code == "protocol"
    assert f"{LATER} to {LATER}" in failure.why


def test_a_client_reads_members_with_more_items() -> None:
    assert parse_members([{"members": [later(fact("n1")), list(fact("n2"))]}]) == [fact("n1"), fact("n2")]


def test_types_of_known_fields_hold_whatever_follows_them() -> None:
    for frame in (
        [KINDS[m.Ping], "1", "n1", b"", False, [], 1],  # a wrong type
        [KINDS[m.Ping], 1, "n1", b""],  # too few
        [KINDS[m.Ping], 1, "n1", b"", False, [], *[0] * (versions.FIELDS_MORE_MAX + 1)],  # too many
        [KINDS[m.Ping], 1, "n1", b"", False, [[[*fact("n1")[:9]], []]]],  # a fact that lacks its state
        [versions.KIND_MAX + 1],
    ):
        lone = Lone()
        lone.core.receive_request(b"later", msgpack.packb([0, frame]), lone.now)
        assert (lone.core.counters.malformed, lone.core.counters.unknown) == (1, 0), frame


def test_fields_that_are_missing_at_the_end_have_their_defaults() -> None:
    said = fact("n2")._replace(synced=b"")
    frame = msgpack.packb([0, [KINDS[m.Hello], 1, "meshcache", list(said)[:-1], b""]])
    assert decode_frame(frame)[1] == [m.Hello(1, "meshcache", said, b"")]


def test_what_a_later_node_says_of_its_snapshot_is_taken_as_far_as_it_is_known() -> None:
    told = {**PASSED, "state": WAITING}
    assert _Status.of({**told, "later": [1]}) == _Status.of(told)
    assert _Status.of(told).state == WAITING
    assert _Status.of({"later": 1}) == _Status.of(PASSED), "an older node says that it knows no such thing"
