"""What is in C for the client comes to the same as its twins in Python, for whatever users and nodes send."""

from __future__ import annotations

import math
import os
import random
from collections import OrderedDict
from functools import partial
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import pytest
from comparing import outcome
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshcache import _native
from meshcache.client.arguments import MISSING
from meshcache.client.codec import Codec
from meshcache.client.frames import PURE
from meshcache.client.near_cache import _finder, pure_near_reads
from meshcache.protocol.messages import Hot, Reply, Set
from meshcache.protocol.near_store import USED, NearCache, NearStore
from meshcache.protocol.record import HEADER_BYTES, STAMP_BYTES
from meshcache.protocol.wire import decode_frame, encode_frame

if _native.absent_because:
    pytest.skip(_native.describe(), allow_module_level=True)

NATIVE: Any = _native.compiled
VIEW = b"view of 16 bytes"
WRONG: list[Any] = [None, 1 << 70, "text", [], object()]


class Text(str):
    __slots__ = ()


keys = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="aé\udc80\U0001f600", max_size=8),
    st.binary(max_size=40),
    st.integers(1000, 1030).map(lambda n: "k" * n),
    st.sampled_from(["", b"", None, 1, Text("sub"), bytearray(b"array"), ("t",)]),
)
prefixes = st.sampled_from([b"", b"ns:", "é:".encode(), b"p" * 1020])
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1]),
    st.floats(),
    st.text(),
    st.just("\udc80 lone"),
    st.binary(max_size=300),
    st.builds(bytearray, st.binary()),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
    st.sampled_from([Text("sub"), object(), "x" * 5000]),
)
numbers = st.integers(0, 2**63 - 1)
levels = st.integers(-(2**33), 2**33)


@settings(deadline=None)  # it is about results, on a machine however busy
@given(numbers, numbers, numbers, levels, levels, prefixes, st.lists(keys, max_size=40), st.integers(0, 2000))
def test_a_get_has_the_same_frame(
    number: int, boot: int, deadline_ms: int, r: int, w: int, prefix: bytes, given_keys: list[Any], bytes_max: int
) -> None:
    arguments = (number, boot, deadline_ms, VIEW, r, w, prefix, given_keys, bytes_max)
    assert NATIVE.encode_get(*arguments) == PURE.encode_get(*arguments)


class Reversed:
    """A codec of a user's, for which some values are wrong."""

    def encode(self, value: Any) -> bytes:
        return bytes(reversed(repr(value).encode()))

    def decode(self, data: bytes) -> Any:
        return data


@settings(deadline=None)  # it is about results, on a machine however busy
@given(
    st.lists(st.tuples(keys, values), max_size=20, unique_by=lambda pair: repr(pair[0])),
    prefixes,
    st.sampled_from([Codec(), Codec("pickle"), Codec(Reversed())]),
    st.integers(0, 6000),
    st.integers(0, 6000),
    levels,
    levels,
)
@example([("0", Text("sub"))], b"", Codec(), 0, 0, 0, 0)  # too large by its key alone, and its value has no codec
def test_a_set_has_the_same_frame_or_the_same_error(
    pairs: list[tuple[Any, Any]], prefix: bytes, codec: Codec, value_bytes_max: int, bytes_max: int, w: int, ttl: int
) -> None:
    given_keys, given_values = [key for key, _ in pairs], [value for _, value in pairs]
    how = (codec.encode, codec.encodes_all, value_bytes_max, bytes_max)
    arguments = (5, 1 << 60, 1 << 41, VIEW, w, ttl, prefix, given_keys, given_values, *how)
    assert outcome(NATIVE.encode_set, *arguments) == outcome(PURE.encode_set, *arguments)


def test_a_value_is_encoded_as_its_type_says_and_not_as_a_base_of_it() -> None:
    """Some of the values above come seldom: here every kind is in a frame that is made, and can be read."""
    given_values = [True, 7, -7, 2**63 - 1, -(2**63), 2**63, "é", "\udc80", b"x", b"", [1], None]
    given_keys = [f"k{i}" for i in range(len(given_values))]
    codec = Codec()
    how = (codec.encode, False, 1 << 20, 1 << 20)
    frame = NATIVE.encode_set(1, 2, 3, VIEW, 0, -1, b"", given_keys, given_values, *how)
    _, (message,) = decode_frame(frame)
    assert isinstance(message, Set)
    assert [codec.decode(bytes(STAMP_BYTES) + content) for content in message.contents] == given_values


@settings(deadline=None)  # it is about results, on a machine however busy
@given(prefixes, st.lists(keys, max_size=30), st.sampled_from([1, 2, 64, 1024]), st.booleans())
def test_keys_go_to_the_same_nodes(prefix: bytes, given_keys: list[Any], slots: int, one_is_hot: bool) -> None:
    first = [None if i % 17 == 16 else f"node{i % 3}" for i in range(slots)]
    raw = [
        prefix + (key.encode("utf-8", "replace") if isinstance(key, str) else key)
        for key in given_keys
        if isinstance(key, str | bytes) and len(key) < 3
    ]
    hot = dict.fromkeys(raw, 1.0) if one_is_hot else {}
    assert NATIVE.share_out(prefix, given_keys, first, hot) == PURE.share_out(prefix, given_keys, first, hot)
    for key in given_keys:
        assert NATIVE.owner_of(prefix, key, first, hot) == PURE.owner_of(prefix, key, first, hot)


def test_a_hot_key_and_a_slot_without_a_first_choice_are_unusual() -> None:
    first: list[str | None] = ["node"] * 64
    assert NATIVE.owner_of(b"p:", "k", first, {}) == "node"
    assert NATIVE.owner_of(b"p:", "k", first, {b"p:k": 1.0}) is None
    first[crc32(b"p:k") & 63] = None
    assert NATIVE.owner_of(b"p:", "k", first, {}) is None
    assert NATIVE.share_out(b"p:", ["k"], first, {}) is None


contents = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"12", b"-12", b"-0", b"007", b" 1", b"1_0", b"+1", b"-", b"", b"9" * 18, b"9" * 19, b"\xff"]),
    st.text(max_size=9).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.just("\udc80".encode("utf-8", "surrogatepass")),
)
records = st.builds(
    lambda stamp, marks, tag, content: stamp + bytes((marks, tag)) + content,
    st.binary(min_size=STAMP_BYTES, max_size=STAMP_BYTES),
    st.sampled_from([0, 0, 0, 1, 2, 3, 128]),
    st.integers(0, 6),
    contents,
)
results = st.one_of(records, st.none(), st.sampled_from([[7], 5, "text", bytes(HEADER_BYTES - 1), b"", {}]))
replies = st.builds(
    Reply, st.sampled_from([1, 7, 2**32, 2**63 - 1]), st.sampled_from([VIEW, b""]), st.lists(results, max_size=20)
) | st.just(Reply(7, VIEW, None))


def same(frame: bytes, count: int) -> None:
    """Hold every function that reads against its twin: on a frame that nodes may send, they do the same."""
    given_keys = [f"k{i // 2}" for i in range(count)]
    for number in (1, 7, 2**63 - 1):
        assert NATIVE.decode_value(frame, number, VIEW, MISSING) == PURE.decode_value(frame, number, VIEW, MISSING)
        assert NATIVE.decode_values(frame, number, VIEW, given_keys) == PURE.decode_values(
            frame, number, VIEW, given_keys
        )
        assert NATIVE.decode_done(frame, number, VIEW) == PURE.decode_done(frame, number, VIEW)
    assert NATIVE.decode_reply(frame, VIEW, MISSING) == PURE.decode_reply(frame, VIEW, MISSING)


@settings(deadline=None)  # it is about results, on a machine however busy
@given(replies, st.integers(0, 2**64 - 1), st.booleans())
def test_replies_come_to_the_same(reply: Reply, clock: int, with_news: bool) -> None:
    frame = encode_frame(clock, [reply, Hot(1, [b"k"])] if with_news else [reply])
    same(frame, len(reply.results or ()))
    same(memoryview(frame), len(reply.results or ()))  # type: ignore[arg-type]  # as large frames arrive


def test_the_types_of_values_are_the_same_too() -> None:
    record = bytes(STAMP_BYTES)
    given_records = [record + b"\0\0x", record + b"\0\1x", record + b"\0\2" + b"12", record + b"\1\0", None]
    for twin in (NATIVE, PURE):
        _, found = twin.decode_reply(encode_frame(7, [Reply(7, VIEW, given_records)]), VIEW, MISSING)
        assert found == [b"x", "x", 12, MISSING, MISSING]
        assert list(map(type, found)) == [bytes, str, int, type(MISSING), type(MISSING)]


@pytest.mark.parametrize(
    "digits", [b"12", b"-12", b"-0", b"007", b"9" * 18, b"-" + b"9" * 18, b"9" * 19, b"", b"-", b"+1"]
)
def test_numbers_are_read_as_the_codec_reads_them_or_left_to_it(digits: bytes) -> None:
    record = bytes(STAMP_BYTES) + b"\0\2" + digits
    frame = encode_frame(7, [Reply(7, VIEW, [record])])
    found = NATIVE.decode_value(frame, 7, VIEW, MISSING)
    assert found == PURE.decode_value(frame, 7, VIEW, MISSING)
    if type(found) is not tuple:
        assert found == Codec().decode(record)


def hostile(frame: bytes, rng: random.Random) -> bytes:
    """Return a frame with bytes changed, cut off, repeated or put in."""
    found = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(5):
            case 0:
                del found[at:]
            case 1:
                found[at:at] = rng.randbytes(rng.randint(1, 9))
            case 2:
                found[at : at + 1] = rng.choice(
                    [b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc4"]
                )
            case 3:
                found[at:at] = found[at : at + 8]
            case _ if found:
                found[at % len(found)] ^= 1 << rng.randrange(8)
    return bytes(found)


def some_frame(rng: random.Random) -> tuple[bytes, int]:
    count = rng.choice([1, 1, 2, 5, 40])
    given_records: list[Any] = [
        None if rng.random() < 0.2 else rng.randbytes(STAMP_BYTES) + bytes((0, rng.randrange(4))) + rng.randbytes(9)
        for _ in range(count)
    ]
    reply = Reply(7, VIEW, None if rng.random() < 0.1 else given_records)
    return encode_frame(rng.getrandbits(40), [reply]), count


def read_hostile_replies(count: int, seed: int) -> int:
    """Have frames read that are no replies any more; return how often one still was."""
    rng = random.Random(seed)
    read = 0
    for _ in range(count):
        frame, keys_count = some_frame(rng)
        frame = hostile(frame, rng)
        for name, more in (
            ("decode_value", (7, VIEW, MISSING)),
            ("decode_values", (7, VIEW, list(range(keys_count)))),
            ("decode_done", (7, VIEW)),
            ("decode_reply", (VIEW, MISSING)),
        ):
            found = getattr(NATIVE, name)(frame, *more)
            if found is not None:
                read += 1
                assert found == getattr(PURE, name)(frame, *more), frame
    return read


def test_hostile_replies_are_read_as_in_python_or_left_to_it() -> None:
    """The count is a setting: with sanitizers compiled in, this is to be run with many more frames."""
    count = int(os.environ.get("HOSTILE_FRAMES", "3000"))
    assert read_hostile_replies(count, seed=count) > count / 20, "hardly any was still a reply: that shows little"


@pytest.mark.parametrize("name", ["encode_get", "encode_set", "owner_of", "share_out", "decode_value", "decode_values"])
def test_arguments_of_wrong_types_are_left_to_python(name: str) -> None:
    usual: dict[str, list[Any]] = {
        "encode_get": [1, 2, 3, VIEW, 0, 0, b"", ["k"], 100],
        "encode_set": [1, 2, 3, VIEW, 0, 0, b"", ["k"], ["v"], Codec().encode, False, 100, 100],
        "owner_of": [b"", "k", ["node"], {}],
        "share_out": [b"", ["k"], ["node"], {}],
        "decode_value": [encode_frame(1, [Reply(7, VIEW, [None])]), 7, VIEW, MISSING],
        "decode_values": [encode_frame(1, [Reply(7, VIEW, [None])]), 7, VIEW, ["k"]],
    }
    arguments = usual[name]
    function = getattr(NATIVE, name)
    assert function(*arguments) is not None
    for i in range(len(arguments)):
        for wrong in WRONG:
            if type(wrong) is not type(arguments[i]):
                outcome(function, *arguments[:i], wrong, *arguments[i + 1 :])  # whatever it does, it returns
    with pytest.raises(TypeError, match="takes"):
        function(*arguments, 1)


# ---- the near cache


@settings(deadline=None)  # it is about results, on a machine however busy
@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["read", "void", "keep", "late", "dead", "bytes"])))
)
def test_the_near_cache_is_read_in_the_same_way(steps: list[tuple[str, str]]) -> None:
    seen: list[list[Any]] = []
    for make in (pure_near_reads, NATIVE.NearReads):
        near, now = NearStore(NearCache(3)), [10.0]
        near.live_until = 20.0
        found: dict[Any, Any] = {}
        decode = Codec().decode
        read = make(
            found, near, near.entries, partial(now.__getitem__, 0), decode, _finder(found, near, b"p:"), MISSING
        )
        told: list[Any] = []
        for i, (key, step) in enumerate(steps):
            raw = b"p:" + key.encode()
            if step == "keep":
                record = bytes(STAMP_BYTES) + (b"\0\x03\x91\x01" if i % 3 else b"\0\x03\xc1")
                shared = i % 2
                near.fill(
                    raw,
                    [15.0, key if shared else None, None if shared else record, b"%d" % i, False],
                    near.ticket(),
                    10.0,
                )
            elif step == "void":
                near.on_own_write([raw], now[0])
            elif step == "late":
                now[0] = 16.0 - now[0] + 10.0
            elif step == "dead":
                near.follow(-math.inf if near.live_until > 0 else 20.0)
            told.append(outcome(read, key.encode() if step == "bytes" else key))
            told.append(
                (near.hits, {name: copy[USED] for name, copy in near.entries.items()}, list(near.entries), list(found))
            )
        told.append([outcome(read, wrong) for wrong in (*WRONG, "", "\udc80")])
        seen.append(told)
    assert seen[0] == seen[1]


def test_the_near_cache_counts_hits_and_marks_what_is_read() -> None:
    entries: OrderedDict[bytes, Any] = OrderedDict()
    near: Any = SimpleNamespace(live_until=math.inf, hits=0, entries=entries, entries_max=3)
    for name in (b"a", b"b"):
        entries[name] = [1.0, name, None, b"", False]
    found: dict[Any, Any] = {}
    read = NATIVE.NearReads(found, near, entries, lambda: 0.0, bytes, _finder(found, near, b""), MISSING)
    assert read("a") == b"a"
    assert (near.hits, [copy[USED] for copy in entries.values()]) == (1, [True, False])


@pytest.mark.parametrize("make", [pure_near_reads, NATIVE.NearReads])
def test_no_copy_is_read_past_its_own_time_or_that_of_the_streams(make: Any) -> None:
    entries: OrderedDict[bytes, Any] = OrderedDict({b"a": [5.0, "value", None, b"", False]})
    near: Any = SimpleNamespace(live_until=7.0, hits=0, entries=entries, entries_max=3)
    found: dict[Any, Any] = {}
    now = [1.0]
    read = make(found, near, entries, partial(now.__getitem__, 0), bytes, _finder(found, near, b""), MISSING)
    assert read("a") == "value"
    now[0] = 5.0
    assert read("a") is MISSING
    entries[b"a"][0] = 9.0
    assert read("a") == "value"
    now[0] = 7.0
    assert read("a") is MISSING
    assert near.hits == 2
