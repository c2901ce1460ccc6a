"""What an entry carries besides its value: written by clients, kept by nodes, skipped by readers, bounded."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from story import DEFAULT, Story

from meshcache.client.codec import Codec
from meshcache.core.operations.updates import compute
from meshcache.errors import ProtocolError, SerializationError
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Change, Code
from meshcache.protocol.record import (
    EXTRAS,
    EXTRAS_BYTES_MAX,
    NEVER_MS,
    NO_EXTRAS,
    TAG_BYTES_MAX,
    TAGS_MAX,
    TOMBSTONE,
    Extras,
    check_content,
    extras_of,
    is_tombstone,
    split_content,
    stamp,
    with_extras,
    without_extras,
)
from meshcache.protocol.wire import decode_frame, encode_frame

STAMP = stamp(bytes(range(16)), 1_800_000_000_000)
FULL = Extras((b"user:1", b"team:2"), 1_799_999_999_000, 250)

milliseconds = st.none() | st.integers(0, NEVER_MS)
extras = st.builds(
    Extras,
    st.lists(st.binary(min_size=1, max_size=100), max_size=TAGS_MAX, unique=True).map(tuple),
    milliseconds,
    milliseconds,
)
contents = st.builds(bytes.__add__, st.sampled_from([b"\0\0", b"\0\1", b"\0\2", b"\0\3"]), st.binary(max_size=50))


def packed(said: Any, length: int | None = None, value: bytes = b"v") -> bytes:
    """Return a content with anything at all as its extras."""
    body = msgpack.packb(said)
    return bytes((EXTRAS, 0)) + (len(body) if length is None else length).to_bytes(2, "big") + body + value


@given(contents, extras)
def test_a_content_gives_back_its_extras_and_its_value(content: bytes, said: Extras) -> None:
    both = with_extras(content, said)
    check_content(both)
    assert extras_of(STAMP + both) == said
    assert without_extras(STAMP + both) == STAMP + content
    assert split_content(both)[1] == content[2:]
    assert split_content(both)[0] + split_content(both)[1] == both
    assert not is_tombstone(STAMP + both)


def test_nothing_to_say_takes_not_a_byte() -> None:
    assert with_extras(b"\0\1v", NO_EXTRAS) == b"\0\1v"
    assert extras_of(STAMP + b"\0\1v") is NO_EXTRAS


@pytest.mark.parametrize("value", [b"raw", "text", 7, -(1 << 63), {"a": (1, None)}, "", b""])
def test_a_client_reads_the_value_behind_the_extras(value: Any) -> None:
    codec = Codec()
    assert codec.decode(STAMP + with_extras(codec.encode(value), FULL)) == value


def test_values_of_other_codecs_are_read_behind_the_extras() -> None:
    class Reverse:
        def encode(self, value: bytes) -> bytes:
            return value[::-1]

        def decode(self, data: bytes) -> bytes:
            return data[::-1]

    for codec, value in ((Codec("pickle"), {"a": 1 + 2j}), (Codec(Reverse()), b"abc")):
        assert codec.decode(STAMP + with_extras(codec.encode(value), FULL)) == value


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (Extras(tuple(b"%d" % i for i in range(TAGS_MAX + 1))), f"tags: an entry has at most {TAGS_MAX}, not 33"),
        (Extras((b"",)), "tags: b'' takes 0 bytes"),
        (Extras((b"t" * (TAG_BYTES_MAX + 1),)), "takes 1,025 bytes with its namespace; it may take 1 to 1,024"),
        (Extras(tuple(b"%01000d" % i for i in range(5))), f"the limit is {EXTRAS_BYTES_MAX:,}"),
        (Extras(soft_expires_ms=-1), "soft_expires_ms: must be milliseconds from 0"),
        (Extras(load_ms=NEVER_MS + 1), "load_ms: must be milliseconds from 0"),
    ],
)
def test_a_limit_exceeded_is_told_with_field_and_limit(said: Extras, text: str) -> None:
    with pytest.raises(ValueError, match=text.replace("(", r"\(")):
        with_extras(b"\0\0v", said)


HOSTILE = [
    b"\x02\x00",
    b"\x02\x00\x00",
    b"\x02\x00\x00\x00",
    b"\x02\x00\xff\xff",
    packed({1: [b"a"]}, length=60_000),
    packed({1: [b"a"]}, length=3),
    packed([1, 2]),
    packed(None),
    packed({1: b"a"}),
    packed({1: ["text"]}),
    packed({1: [b""]}),
    packed({1: [b"a"] * (TAGS_MAX + 1)}),
    packed({1: [b"t" * (TAG_BYTES_MAX + 1)]}),
    packed({2: "soon"}),
    packed({2: -1}),
    packed({3: True}),
    packed(dict.fromkeys(range(17), 0)),
    packed({4: b"x" * EXTRAS_BYTES_MAX}),
    packed({4: msgpack.ExtType(1, b"x")}),
    packed({1: {(1, 2): 3}}),
    b"\x02\x00\x01\x00" + b"\x91" * 256,
    packed({1: [b"a"]}, length=len(msgpack.packb({1: [b"a"]})) + 1),
]


@pytest.mark.parametrize("content", HOSTILE)
def test_a_node_takes_no_broken_extras_from_a_client(content: bytes) -> None:
    for request in (
        m.Set(1, 2, 3, b"", 0, 0, [b"k", b"l"], [b"\0\0v", content]),
        m.Update(1, 2, 3, b"", 0, 0, 0, [b"k"], [[int(Change.ADD), content, 0]]),
    ):
        with pytest.raises(ProtocolError, match=r"extras|tags|_ms|take"):
            decode_frame(encode_frame(0, [request]))


@pytest.mark.parametrize("flags", [TOMBSTONE, TOMBSTONE | EXTRAS, 4, 0x82])
def test_of_the_nodes_flags_a_client_sets_only_that_of_extras(flags: int) -> None:
    content = bytes((flags, 0)) + packed({1: [b"a"]})[2:]
    with pytest.raises(ProtocolError, match="first flag byte"):
        decode_frame(encode_frame(0, [m.Set(1, 2, 3, b"", 0, 0, [b"k"], [content])]))


def test_what_a_newer_version_adds_is_kept_and_passed_by() -> None:
    content = packed({1: [b"a"], 9: [1, b"new"]})
    check_content(content)
    assert extras_of(STAMP + content) == Extras((b"a",))
    assert Codec().decode(STAMP + content) == b"v"


@pytest.mark.parametrize("content", HOSTILE)
def test_a_hostile_record_says_nothing_and_breaks_nobody(content: bytes) -> None:
    record = STAMP + content
    assert extras_of(record) == NO_EXTRAS
    for reader in (Codec().decode, Codec("pickle").decode):
        with contextlib.suppress(SerializationError):
            assert isinstance(reader(record), bytes)


@given(st.binary(max_size=80))
def test_no_bytes_at_all_raise_what_is_not_meant(tail: bytes) -> None:
    record = STAMP + bytes((EXTRAS,)) + (tail or b"\0")
    assert isinstance(extras_of(record), Extras)
    with contextlib.suppress(SerializationError):
        Codec().decode(record)
    with contextlib.suppress(ValueError):
        check_content(record[22:])


@pytest.mark.parametrize("content", HOSTILE)
def test_counting_in_a_hostile_record_is_an_answer(content: bytes) -> None:
    core = Story(1, {**DEFAULT, "write_quorum": 1}).node("n1").core
    assert core is not None
    record = STAMP + bytes((EXTRAS, 2)) + content[2:]
    answer, _, _ = compute([Change.INCR, 1, 0, 0], record, core.coordinator)
    assert answer[0] == Code.NOT_A_NUMBER


def test_counting_and_touching_keep_what_an_entry_carries_and_storing_says_it_anew() -> None:
    core = Story(1, {**DEFAULT, "write_quorum": 1}).node("n1").core
    assert core is not None
    held = STAMP + with_extras(b"\0\x0241", FULL)
    assert compute([Change.INCR, 1, 0, 0], held, core.coordinator)[:2] == (42, with_extras(b"\0\x0242", FULL))
    assert compute([Change.TOUCH, 0], held, core.coordinator)[1] == held[22:]
    fresh = with_extras(b"\0\0v", Extras((b"other",)))
    for change in ([Change.REPLACE, fresh, 0], [Change.CAS, fresh, 0, STAMP[:16]]):
        assert compute(change, held, core.coordinator)[1] == fresh


@pytest.mark.parametrize("content", [b"\x02\x00", b"\x02\x00\xff\xff", packed({1: [b"a"]}, length=60_000)])
def test_extras_that_are_cut_short_leave_no_value_to_read(content: bytes) -> None:
    with pytest.raises(SerializationError, match="cut short"):
        Codec().decode(STAMP + content)
