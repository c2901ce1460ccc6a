from __future__ import annotations

import contextlib
import random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcache.errors import ProtocolError
from meshcache.protocol import facts as facts_rules
from meshcache.protocol import messages as m
from meshcache.protocol import wire
from meshcache.protocol.messages import BATCH_OPS_MAX, KEY_BYTES_MAX, KINDS, Change, Event, Fact
from meshcache.protocol.wire import decode_frame, encode_frame

integers = st.integers(-(1 << 63), (1 << 64) - 1)
counters = st.integers(0, facts_rules.COUNTER_MAX)
texts = st.text(st.characters(categories=["L", "N", "P"]), max_size=20)
names = st.text("abcXYZ019._-", max_size=20).map("n".__add__)
digests = st.binary(max_size=8)
addresses = st.builds("{}:{}".format, st.sampled_from(["127.0.0.1", "a.example", "[::1]"]), st.integers(1, 65535))
keys = st.binary(min_size=1, max_size=40)
contents = st.binary(max_size=20).map(b"\0\1".__add__)
versions = st.binary(min_size=16, max_size=16)
records = st.binary(min_size=24, max_size=60)
anything = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False) | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=10,
)
weights = st.floats(0.001, 1000)
boots, incarnations = st.integers(0, facts_rules.BOOT_MAX), st.integers(0, facts_rules.INCARNATION_MAX)
others = st.just("") | addresses
facts = st.builds(
    Fact, names, addresses, others, others, texts, texts, weights, boots, incarnations, st.integers(0, 3), digests
)
ttls = st.integers(-1, 1 << 48)
numbers = st.integers(-(1 << 63), (1 << 63) - 1)
changes = st.one_of(
    st.tuples(st.just(int(Change.ADD)), contents, ttls),
    st.tuples(st.just(int(Change.REPLACE)), contents, ttls),
    st.tuples(st.just(int(Change.CAS)), contents, ttls, versions),
    st.tuples(st.just(int(Change.INCR)), numbers, st.none() | numbers, ttls),
    st.tuples(st.just(int(Change.TOUCH)), ttls),
).map(list)

FIELDS: dict[wire._Field, st.SearchStrategy[Any]] = {
    wire._INT: integers,
    wire._BOOL: st.booleans(),
    wire._BYTES: st.binary(max_size=40),
    wire._DIGEST: digests,
    wire._CURSOR: st.binary(max_size=40),
    wire._PREFIX: st.binary(max_size=40),
    wire._COUNTER: counters,
    wire._WALL_MS: st.integers(0, facts_rules.WALL_MS_MAX),
    wire._NAME: names,
    wire._VERSION: versions,
    wire._VERSIONS: st.lists(versions, max_size=5),
    wire._TEXT: texts,
    wire._LIST: st.lists(anything, max_size=5),
    wire._SETTINGS: st.dictionaries(texts, integers | texts | st.floats(allow_nan=False), max_size=5),
    wire._KEYS_TO_READ: st.lists(keys, max_size=5),
    wire._KEYS: st.lists(keys, max_size=5),
    wire._CONTENTS: st.lists(contents, max_size=5),
    wire._RECORDS: st.lists(records, max_size=5),
    wire._RECORDS_OR_NONE: st.lists(st.none() | records, max_size=5),
    wire._CHANGES: st.lists(changes, max_size=5),
    wire._FACT_OR_NONE: st.none() | facts,
    wire._FACTS: st.lists(facts, max_size=3),
    wire._RUMOURS: st.lists(st.builds(m.Rumour, facts, st.lists(names, max_size=3)), max_size=3),
    wire._EVENTS: st.lists(st.builds(Event, integers, versions, st.lists(keys, max_size=3)), max_size=3),
    wire._FLOORS: st.lists(
        st.builds(m.Floor, st.sampled_from([0, 4, 5]), st.binary(max_size=40), versions), max_size=5
    ),
    wire._RESULTS: st.none() | st.lists(anything, max_size=5),
    wire._INDICES: st.lists(integers, max_size=5),
    wire._NEWER: st.lists(st.tuples(integers, versions).map(list), max_size=5),
}
"""What passes, for each kind of field."""


@st.composite
def messages(draw: st.DrawFn, kind: type[m.Message] | None = None) -> m.Message:
    kind = draw(st.sampled_from(list(KINDS))) if kind is None else kind
    fields = [draw(FIELDS[field]) for field in wire._FIELDS[kind]]
    if kind in wire._ALIGNED:
        shortest = min(len(fields[-1]), len(fields[-2]))
        fields[-2:] = [fields[-2][:shortest], fields[-1][:shortest]]
    return kind(*fields)


def test_every_message_has_a_number_and_a_rule_for_each_field() -> None:
    assert set(KINDS) == set(wire._FIELDS)
    assert len(set(KINDS.values())) == len(KINDS)
    for kind, fields in wire._FIELDS.items():
        assert len(fields) == len(kind._fields), kind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_decoded_is_what_was_encoded(kind: type[m.Message]) -> None:
    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, (1 << 64) - 1), messages(kind))
    def check(clock: int, message: m.Message) -> None:
        decoded_clock, (decoded,) = decode_frame(encode_frame(clock, [message]))
        assert (decoded_clock, decoded, type(decoded)) == (clock, message, kind)

    check()


@settings(max_examples=50, deadline=None)
@given(st.lists(messages(), max_size=5))
def test_a_frame_carries_the_messages_of_a_turn_in_order(turn: list[m.Message]) -> None:
    assert decode_frame(encode_frame(1, turn)) == (1, turn)


def refused(frame: bytes) -> str:
    with pytest.raises(ProtocolError) as raised:
        decode_frame(frame)
    return str(raised.value)


def decodes_or_refuses(frame: bytes) -> None:
    """Whatever arrives: messages, or a ProtocolError. Anything else that is raised fails the test."""
    with contextlib.suppress(ProtocolError):
        decode_frame(frame)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.sampled_from([0, 1, wire.LARGE_BYTES - 1, wire.LARGE_BYTES, wire.LARGE_BYTES + 1, 3 * wire.LARGE_BYTES])
        | st.none(),
        min_size=1,
        max_size=20,
    ),
    st.integers(0, (1 << 64) - 1),
)
def test_a_frame_of_large_values_is_the_one_that_msgpack_makes(sizes: list[int | None], clock: int) -> None:
    values: list[Any] = [None if size is None else bytes((size % 251,)) * size for size in sizes]
    for message in (m.Reply(7, b"view", values), m.Write(1 << 40, 2, 3, b"", True, [b"k"] * 20, values)):
        assert encode_frame(clock, [message]) == msgpack.packb((clock, (KINDS[type(message)], *message)))


def test_large_values_are_put_into_their_frame_without_the_packer(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[Any] = []
    pack = wire._pack

    def note(value: Any) -> bytes:
        packed.append(value)
        return pack(value)

    monkeypatch.setattr(wire, "_pack", note)
    encode_frame(0, [m.Reply(7, b"view", [bytes(wire.LARGE_BYTES), b"small", None])])
    assert packed == [0, KINDS[m.Reply], 7, b"view", b"small", None]


def frame_of_set(contents: Any) -> bytes:
    return encode_frame(0, [m.Set(7, 1, 2, b"view", 0, 0, [b"k"] * len(contents), contents)])


@pytest.mark.parametrize("sizes", [(wire.LARGE_BYTES,), (5, wire.LARGE_BYTES), (wire.LARGE_BYTES, 5, 1 << 17), (3, 5)])
def test_contents_in_pieces_make_the_same_frame(sizes: tuple[int, ...]) -> None:
    pieces = [wire.Pieces(b"\0\1", b"x" * (size - 2)) for size in sizes]
    assert [len(one) for one in pieces] == list(sizes)
    assert frame_of_set(pieces) == frame_of_set([bytes(one) for one in pieces])


def test_large_contents_in_pieces_are_not_put_together_before_their_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(self: wire.Pieces) -> bytes:
        raise AssertionError

    monkeypatch.setattr(wire.Pieces, "__bytes__", whole)
    frame_of_set([wire.Pieces(b"\0\0", bytes(wire.LARGE_BYTES))])


def test_a_frame_has_nothing_that_msgpack_does_not_know() -> None:
    with pytest.raises(TypeError, match="a frame has no complex"):
        frame_of_set([1j])


def test_a_large_frame_that_is_there_is_not_copied_to_have_a_later_clock() -> None:
    large = encode_frame(1 << 40, [m.Reply(7, b"view", [bytes(wire.LARGE_BYTES)])])
    assert encode_frame(1 << 41, [large]) is large
    small = encode_frame(1 << 40, [m.Reply(7, b"view", [b"value"])])
    assert decode_frame(encode_frame(1 << 41, [small])) == (1 << 41, decode_frame(small)[1])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_at_worst(frame: bytes) -> None:
    decodes_or_refuses(frame)


@settings(max_examples=200, deadline=None)
@given(st.lists(anything, max_size=6).map(msgpack.packb))
def test_msgpack_of_any_kind_is_refused_at_worst(frame: bytes) -> None:
    decodes_or_refuses(frame)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(KINDS.values())), st.lists(anything, max_size=11))
def test_fields_of_any_type_are_refused_at_worst(kind: int, fields: list[Any]) -> None:
    decodes_or_refuses(msgpack.packb([0, [kind, *fields]]))


@settings(max_examples=150, deadline=None)
@given(messages(), st.integers(0, 11), anything)
def test_one_field_of_another_type_is_refused_at_worst(message: m.Message, place: int, intruder: Any) -> None:
    fields: list[Any] = list(message)
    fields[place % len(fields)] = intruder
    decodes_or_refuses(msgpack.packb([0, [KINDS[type(message)], *fields]]))


@settings(max_examples=100, deadline=None)
@given(messages())
def test_a_frame_cut_short_is_refused(message: m.Message) -> None:
    frame = encode_frame(7, [message])
    for length in range(len(frame)):
        refused(frame[:length])
    refused(frame + b"\0")


def test_flipped_bits_are_refused_at_worst() -> None:
    rng = random.Random(1)
    message = m.Write(1, 2, 3, b"view", False, [b"key", b"other"], [bytes(24), bytes(30)])
    frame = encode_frame(9, [message, m.Ping(1, "n1", b"digest", True, [])])
    for _ in range(3000):
        damaged = bytearray(frame)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        decodes_or_refuses(bytes(damaged))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\xdd\xff\xff\xff\xff",  # an array of 4 billion
        b"\xdd\x7f\xff\xff\xff" + b"\xc0" * 100,
        b"\xdf\xff\xff\xff\xff",  # a map of 4 billion
        b"\xdb\xff\xff\xff\xff",  # text of 4 GiB
        b"\xc6\xff\xff\xff\xff",  # bytes of 4 GiB
        b"\x92\x00\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,  # nested
        b"\x92\x00" * 50_000,
        b"\x81" * 10_000,
        b"\x92\x00\xd4\x00\x00",  # an extension
        b"\x92\x00\xc7\xff\x01",
        msgpack.packb([-1]),
        msgpack.packb([1 << 63, []]),
        msgpack.packb(["0"]),
        msgpack.packb([True]),
        msgpack.packb([0, []]),
        msgpack.packb([0, [999]]),
        msgpack.packb([0, ["4", 1, "n1", b""]]),
        msgpack.packb([0, [KINDS[m.Ping], 1, "n1"]]),
        msgpack.packb([0, [KINDS[m.Ping], 1, "n1", b"", b""]]),
        msgpack.packb([0, [KINDS[m.Vouch], 1, *[0] * 17]]),
        msgpack.packb([0, {}]),
    ],
    ids=range(25),
)
def test_hostile_frames_are_refused(frame: bytes) -> None:
    refused(frame)


@pytest.mark.parametrize("padding", [0, 2 * wire._SHORT_FRAME_BYTES], ids=["short", "long"])
@pytest.mark.parametrize(
    ("hostile", "limit"),
    [
        (msgpack.ExtType(1, b""), None),
        ([None] * (m.BATCH_OPS_MAX + 1), None),
        ([None] * (m.BATCH_OPS_MAX + 2), "exceeds max_array_len"),
        ({str(i): 0 for i in range(1025)}, "exceeds max_map_len"),
        ("t" * ((1 << 16) + 1), "exceeds max_str_len"),
        (msgpack.ExtType(1, b"x"), "exceeds max_ext_len"),
    ],
    ids=["empty extension", "array", "long array", "long map", "long text", "extension"],
)
def test_the_limits_of_msgpack_hold_at_every_length(hostile: Any, limit: str | None, padding: int) -> None:
    text = refused(msgpack.packb([0, [KINDS[m.Reply], 1, b"", [hostile, b"p" * padding]], []]))
    assert limit in text if limit else text == "not a message: it must be an array that begins with its kind"


def set_message(**changed: Any) -> bytes:
    fields = m.Set(1, 2, 3, b"", 0, 0, [b"k"], [b"\0\0v"])._replace(**changed)
    return bytes(msgpack.packb([0, [KINDS[m.Set], *fields]]))


def test_what_is_refused_is_named() -> None:
    assert "Set.keys: a key takes 1 to 1024 bytes" in refused(set_message(keys=[b""]))
    assert "Set.keys" in refused(set_message(keys=[b"k" * (KEY_BYTES_MAX + 1)]))
    assert "Set.keys" in refused(set_message(keys=["text"]))
    assert "Set.contents" in refused(set_message(contents=[b"\0"]))
    assert "Set.contents: the first flag byte" in refused(set_message(contents=[b"\1\0"]))
    assert "Set: 1 keys, but 2 contents" in refused(set_message(contents=[b"\0\0v", b"\0\0w"]))
    assert "Set.request" in refused(set_message(request=True))
    assert "Set.w" in refused(set_message(w=1.0))
    assert decode_frame(set_message(keys=[b"k" * KEY_BYTES_MAX]))


@pytest.mark.parametrize(
    "change",
    [
        [],
        [99, b"\0\0v", 0],
        [int(Change.ADD), b"\0\0v"],
        [int(Change.ADD), b"\0\0v", 0, 0],
        [int(Change.ADD), "v", 0],
        [int(Change.ADD), b"\1\0v", 0],
        [int(Change.INCR), 1, "0", 0],
        [int(Change.INCR), True, 0, 0],
        [int(Change.TOUCH), None],
        [[1], b"\0\0v", 0],
        "add",
    ],
)
def test_unknown_changes_are_refused(change: Any) -> None:
    fields = m.Update(1, 2, 3, b"", 0, 0, 0, [b"k"], [change])
    assert "Update.changes" in refused(msgpack.packb([0, [KINDS[m.Update], *fields]]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"node_id": ""},
        {"node_id": "n" * 65},
        {"node_id": "n 1"},
        {"node_id": "n\n1"},
        {"address": ""},
        {"address": "garbage"},
        {"address": "h"},
        {"address": "h:0"},
        {"address": "h:65536"},
        {"address": "h:-1"},
        {"address": "h:1 "},
        {"address": "h:\u0661"},
        {"address": "a..b:1"},
        {"address": "a" * 64 + ":1"},
        {"address": ".".join(["a" * 60] * 5) + ":1"},
        {"address": "::1:1"},
        {"address": "[::1:1"},
        {"address": "[x]:1"},
        {"address": "tcp://h:1"},
        {"address": "0.0.0.0:1"},
        {"address": "[::]:1"},
        {"address": "224.0.0.1:1"},
        {"address": b"h:1"},
        {"address": None},
        {"publish": "garbage"},
        {"http": "h:0"},
        {"host": "h\0"},
        {"host": "h" * 256},
        {"boot": 1 << 62},
        {"boot": 1.0},
        {"boot": True},
        {"incarnation": (1 << 64) - 1},
        {"incarnation": 1 << 56},
        {"state": True},
        {"synced": bytes(9)},
        {"synced": "x"},
        {"weight": float("nan")},
        {"weight": float("inf")},
        {"weight": -1.0},
        {"weight": "1"},
        {"state": 5},
        {"state": -1},
        {"boot": -1},
        {"incarnation": -1},
        {"zone": "z" * 2000},
    ],
    ids=str,
)
def test_facts_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    fact = Fact("n1", "h:1", "", "", "", "", 1.0, 1, 1, 0)
    assert decode_frame(encode_frame(0, [m.Gossip([m.Rumour(fact, [])])]))
    wrong_fact = fact._replace(**wrong)
    (field,) = wrong
    assert f"Gossip.rumours: {field} " in refused(encode_frame(0, [m.Gossip([m.Rumour(wrong_fact, [])])]))
    refused(encode_frame(0, [m.Ping(1, "n1", b"", False, [m.Rumour(wrong_fact, [])])]))
    refused(encode_frame(0, [m.Ack(1, 1, b"", [m.Rumour(wrong_fact, [])])]))
    refused(encode_frame(0, [m.Hello(m.PROTOCOL, "", wrong_fact, b"")]))
    refused(encode_frame(0, [m.Welcome(1, 1, "n1", {}, [wrong_fact])]))


def test_no_more_facts_are_taken_from_one_message_than_a_mesh_has_members() -> None:
    fact = Fact("n1", "h:1", "", "", "", "", 1.0, 1, 1, 0)
    most = [m.Rumour(fact, [])] * facts_rules.FACTS_MAX
    assert decode_frame(encode_frame(0, [m.Gossip(most)]))
    assert "Gossip.rumours" in refused(encode_frame(0, [m.Gossip([*most, most[0]])]))
    assert "accusers" in refused(encode_frame(0, [m.Gossip([m.Rumour(fact, ["n"] * 9)])]))
    assert "accusers" in refused(encode_frame(0, [m.Gossip([m.Rumour(fact, ["n\n"])])]))


@pytest.mark.parametrize(
    "message",
    [
        m.Ping(1 << 63, "n1", b"", False, []),
        m.Ping(-1, "n1", b"", False, []),
        m.Ping(1, "", b"", False, []),
        m.Ping(1, "n1", bytes(9), False, []),
        m.Ack(1, 1 << 45, b"", []),
        m.Ack(1, -1, b"", []),
        m.Vouch(-1),
        m.Nack((1 << 64) - 1),
        m.PingReq(1, "no name"),
        m.Welcome(1, 1 << 63, "n1", {}, []),
        m.Welcome(-1, 1, "n1", {}, []),
        m.Welcome(1, 1, "\x1b[2J", {}, []),
        m.Refused("id", "\x1b[2J"),
        m.SweepReply(1, b"", (1 << 64) - 1, False),
        m.Invalidations("n1", 1, -1, b"", []),
        m.Write(1, 2, 3, bytes(9), False, [b"k"], [bytes(24)]),
        m.Clear(1, 2, 3, b"", bytes(KEY_BYTES_MAX + 1)),
        m.Sweep(1, 2, 3, b"", bytes(16), bytes(KEY_BYTES_MAX + 1)),
        m.Pull(1, 2, 3, b"", [1], bytes(KEY_BYTES_MAX + 2)),
        m.PullReply(1, b"", 0, bytes(KEY_BYTES_MAX + 2), [], []),
    ],
    ids=repr,
)
def test_numbers_names_and_digests_out_of_bounds_are_refused(message: m.Message) -> None:
    assert f"{type(message).__name__}." in refused(encode_frame(0, [message]))


def test_a_batch_has_a_greatest_size() -> None:
    read = m.Read(1, 2, 3, b"", [b"k"] * BATCH_OPS_MAX)
    assert decode_frame(encode_frame(0, [read]))[1] == [read]
    refused(encode_frame(0, [read._replace(keys=[b"k"] * (BATCH_OPS_MAX + 2))]))
