"""memcached's text protocol: what bytes are taken for, and how values and their flags are kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.client.codec import Codec
from meshcache.protocol.memcached import meta, numbers, values
from meshcache.protocol.memcached.commands import (
    BAD_CHUNK,
    BAD_FORMAT,
    ERROR,
    TOO_LARGE,
    Arithmetic,
    Authenticate,
    Command,
    Delete,
    Flush,
    Meta,
    Quit,
    Retrieve,
    Say,
    Store,
    Unstorable,
)
from meshcache.protocol.memcached.grammar import (
    COMMANDS_MAX,
    GET_LINE_BYTES_MAX,
    LINE_BYTES_MAX,
    parse,
    parse_authentication,
)
from meshcache.protocol.record import NEVER_MS, STAMP_BYTES, extras_of, stamp

VALUE_BYTES_MAX = 100
VERSION = (1_700_000_000_000 << 16 | 5).to_bytes(8, "big") + b"nodeboot"
DIALOGUE = (
    b"get a bb\r\nset k 5 0 3\r\nabc\r\n gets  k \r\nms k 2 T30 c\r\nhi\r\nmg k v t\r\nset big 0 0 200\r\n"
    + b"x" * 200
    + b"\r\nadd k 0 0 1 noreply\r\n1\r\nnonsense\r\nset k 0 0 2\r\nabcd\r\nincr k 5\r\nmn\r\nquit\r\n"
)


def commands(data: bytes) -> list[Command]:
    return parse(data, VALUE_BYTES_MAX).commands


def plain(command: Command) -> Any:
    """Return what makes two commands the same; flags are compared by what they say."""
    if isinstance(command, Meta):
        return command.verb, command.key, command.value, command.flags.tokens, command.flags.ttl
    return command


@pytest.mark.parametrize(
    ("text", "signed", "unsigned"),
    [
        (b"0", 0, 0),
        (b"-1", -1, None),
        (b"+7", 7, 7),
        (b" \t12", 12, 12),
        (b"12\tabc", 12, 12),
        (b"12abc", None, None),
        (b"", None, None),
        (b"-", None, None),
        (b"2147483648", -(1 << 31), 1 << 31),
        (b"4294967296", 0, 1 << 32),
        (b"9223372036854775808", None, 1 << 63),
        (b"18446744073709551615", None, (1 << 64) - 1),
        (b"18446744073709551616", None, None),
        (b"-18446744073709551615", None, 1),
        (b"9" * 10_000, None, None),
        (b"0" * 10_000 + b"5", 5, 5),
    ],
)
def test_numbers_are_read_as_c_reads_them(text: bytes, signed: int | None, unsigned: int | None) -> None:
    assert numbers.signed(text) == signed
    assert numbers.unsigned_64(text) == unsigned


@pytest.mark.parametrize(
    ("data", "command"),
    [
        (b"get a b\r\n", Retrieve([b"a", b"b"], False, None)),
        (b"gets  a \n", Retrieve([b"a"], True, None)),
        (b"gat -1 a\r\n", Retrieve([b"a"], False, -1)),
        (b"gat 5\r\n", Retrieve([], False, 5)),
        (b"set k 4294967295 -1 2\r\nhi\r\n", Store(b"set", b"k", 4294967295, -1, b"hi", 0, False)),
        (b"cas k 0 0 0 9 noreply\r\n\r\n", Store(b"cas", b"k", 0, 0, b"", 9, True)),
        (b"set k 0 0 1 whatever\r\n1\r\n", Store(b"set", b"k", 0, 0, b"1", 0, False)),
        (b"delete k\r\n", Delete(b"k", False)),
        (b"delete k 0 noreply\r\n", Delete(b"k", True)),
        (b"decr k 18446744073709551615\r\n", Arithmetic(b"k", (1 << 64) - 1, False, False)),
        (b"flush_all noreply\r\n", Flush(0, True)),
        (b"flush_all 10\r\n", Flush(10, False)),
        (b"quit now\r\n", Quit("")),
        (b"\r\n", Say(ERROR)),
        (b"get\0 a\r\n", Say(ERROR)),
        (b"get " + b"k" * 251 + b"\r\n", Say(BAD_FORMAT)),
        (b"get a " + b"k" * 251 + b"\r\n", Say(BAD_FORMAT)),
        (b"set k 0 0 -1\r\n", Say(BAD_FORMAT)),
        (b"set k 0 0 2147483646\r\n", Say(BAD_FORMAT)),
        (b"set k x 0 1 noreply\r\n", Say(b"")),
        (b"set k 0 0 1\r\nabc", Say(BAD_CHUNK)),
        (b"incr k -1\r\n", Say(b"CLIENT_ERROR invalid numeric delta argument\r\n")),
        (b"delete k 5\r\n", Say(BAD_FORMAT[:-2] + b".  Usage: delete <key> [noreply]\r\n")),
        (b"mn\r\n", Say(b"MN\r\n")),
        (b"mg k v v\r\n", Say(b"CLIENT_ERROR duplicate flag\r\n")),
        (b"mg k Z\r\n", Say(b"CLIENT_ERROR invalid flag\r\n")),
        (b"md k v v\r\n", Say(b"CLIENT_ERROR invalid or duplicate flag\r\n")),
        (b"ma k MX\r\n", Say(b"CLIENT_ERROR invalid mode for ma M token\r\n")),
        (b"mg k O" + b"1" * 32 + b"\r\n", Say(b"CLIENT_ERROR opaque token too long\r\n")),
        (b"mg Zm9 b\r\n", Say(b"CLIENT_ERROR error decoding key\r\n")),
        (b"mg a=== b Fx\r\n", Say(b"CLIENT_ERROR error decoding key\r\n")),
        (b"mg k" + b" v" * 18 + b"\r\n", Say(b"CLIENT_ERROR options flags are too long\r\n")),
        (b"GET / HTTP/1.1\r\n", Quit("http")),
        (b"shutdown\r\n", Say(b"ERROR: shutdown not enabled\r\n")),
    ],
)
def test_a_line_is_taken_for_this(data: bytes, command: Command) -> None:
    assert commands(data) == [command]


def test_a_value_that_is_not_taken_is_thrown_away_whole() -> None:
    data = b"set k 0 0 101\r\n" + b"get a\r\n" * 14 + b"xyz\r\nget b\r\n"
    assert commands(data) == [Unstorable(b"k", TOO_LARGE), Retrieve([b"b"], False, None)]
    assert commands(b"ms k 5 Zx\r\nget a\r\nmn\r\n") == [
        Unstorable(b"", b"CLIENT_ERROR invalid flag\r\n"),
        Say(b"MN\r\n"),
    ]


def test_what_is_thrown_away_may_be_still_to_come() -> None:
    parsed = parse(b"set k 0 0 500 noreply\r\nabc", VALUE_BYTES_MAX)
    assert parsed.commands == [Unstorable(b"k", b"")]
    assert parsed.used == len(b"set k 0 0 500 noreply\r\n") + 502


def test_it_says_how_much_of_a_value_is_missing() -> None:
    head = b"set k 0 0 50\r\n"
    assert parse(b"mn\r\n" + head + b"abc", VALUE_BYTES_MAX)[1:] == (4, len(head) + 52)


def test_unfinished_lines_are_bounded() -> None:
    assert parse(b"x" * LINE_BYTES_MAX, VALUE_BYTES_MAX) == ([], 0, 0)
    assert commands(b"x" * (LINE_BYTES_MAX + 1)) == [Quit("line_too_long")]
    assert commands(b"set " + b"x" * LINE_BYTES_MAX) == [Quit("line_too_long")]
    assert commands(b" " * 101 + b"get " + b"x" * LINE_BYTES_MAX) == [Quit("line_too_long")]
    assert commands(b" get " + b"x " * LINE_BYTES_MAX) == []
    assert commands(b"get " + b"x " * (GET_LINE_BYTES_MAX // 2)) == [Quit("line_too_long")]


def test_the_commands_of_one_look_are_bounded() -> None:
    parsed = parse(b"mn\r\n" * (COMMANDS_MAX + 5), VALUE_BYTES_MAX)
    assert len(parsed.commands) == COMMANDS_MAX
    assert parsed.used == 4 * COMMANDS_MAX


@given(st.lists(st.integers(0, len(DIALOGUE)), max_size=8))
def test_it_does_not_matter_where_the_stream_is_cut(cuts: list[int]) -> None:
    ends = [*sorted(cuts), len(DIALOGUE)]
    found: list[Command] = []
    rest, swallow = b"", 0
    for start, end in zip([0, *ends], ends, strict=False):
        came = DIALOGUE[start:end]
        dropped, swallow = came[swallow:], max(0, swallow - len(came))
        rest += dropped
        parsed = parse(rest, VALUE_BYTES_MAX)
        found += parsed.commands
        swallow = swallow or max(0, parsed.used - len(rest))
        rest = rest[parsed.used :]
    assert list(map(plain, found)) == list(map(plain, commands(DIALOGUE)))
    assert len(found) == 13


@given(st.binary(max_size=300))
def test_no_bytes_are_too_much_for_it(data: bytes) -> None:
    parsed = parse(data, VALUE_BYTES_MAX)
    assert parsed.used >= 0
    assert not parsed.needed or parsed.needed > len(data) - parsed.used


@given(
    st.lists(
        st.sampled_from(
            [b"mg", b"ms", b"k", b"Zm9v", b"b", b"T5", b"N-1", b"C9", b"O1", b"q", b"v", b"Fx", b"2", b"MA"]
        )
    )
)
def test_no_flags_are_too_much_for_it(words: list[bytes]) -> None:
    assert len(commands(b" ".join(words) + b"\r\nhi\r\n")) >= 1


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (b"Zm9v", b"foo"),
        (b"Zg==", b"f"),
        (b"Zm8=", b"fo"),
        (b"Z.m9v", b"foo"),
        (b"Zm8=Zm9v", b"fo"),
        (b"Zm9", None),
        (b"====", None),
        (b"Z===", None),
        (b"", None),
    ],
)
def test_base64_is_decoded_as_memcached_does(text: bytes, key: bytes | None) -> None:
    assert meta.from_base64(text) == key


def test_the_last_wrong_flag_but_for_f_has_the_word() -> None:
    for words, line in (
        ([b"Tx", b"Jx"], b"CLIENT_ERROR invalid numeric initial value\r\n"),
        ([b"Jx", b"Fx"], b"CLIENT_ERROR invalid numeric initial value\r\n"),
        ([b"Fx"], BAD_FORMAT),
    ):
        with pytest.raises(meta.BadFlags) as caught:
            meta.read_flags(words, b"k")
        assert caught.value.line == line


def test_the_password_comes_as_a_set() -> None:
    assert parse_authentication(b"set x 0 0 8\r\nada love\r\nget a\r\n")[:2] == ([Authenticate(b"ada", b"love")], 23)
    assert parse_authentication(b"get a\r\n").commands == [Say(b"CLIENT_ERROR unauthenticated\r\n")]
    assert parse_authentication(b"set x 0 0 3\r\nada\r\n").commands == [
        Say(b"CLIENT_ERROR bad authentication token format\r\n")
    ]
    assert parse_authentication(b"set x 0 0 8\r\nada loveXX").commands == [
        Say(b"CLIENT_ERROR bad command line termination\r\n")
    ]
    assert parse_authentication(b"set x 0 0 8\r\nada ") == ([], 0, 23)
    assert parse_authentication(b"x" * 3000).commands == [Quit("line_too_long")]


# ---- values


def record_of(content: bytes) -> bytes:
    return stamp(VERSION, NEVER_MS) + content


FLAGS = st.integers(0, (1 << 32) - 1) | st.sampled_from([0, 2, 4, 16])
VALUES = st.binary(max_size=40) | st.integers().map(lambda number: b"%d" % number)


@given(FLAGS, VALUES)
def test_flags_and_values_come_back(flags: int, value: bytes) -> None:
    record = record_of(values.content(flags, value))
    item = values.Item(record)
    assert (item.flags, item.value) == (flags, value)
    assert b"".join(values.lines([b"k"], [record], unique=True)) == b"VALUE k %d %d %d\r\n%b\r\n" % (
        flags,
        len(value),
        int.from_bytes(VERSION[:8], "big"),
        value,
    )


@pytest.mark.parametrize(
    ("value", "told", "flags"),
    [
        (b"", b"", 0),
        (b"bytes\xff", b"bytes\xff", 0),
        ("text äöü", "text äöü".encode(), 16),
        (0, b"0", 2),
        (-5, b"-5", 2),
        ((1 << 63) - 1, b"9223372036854775807", 2),
    ],
)
def test_both_doors_write_the_same(value: bytes | str | int, told: bytes, flags: int) -> None:
    assert values.content(flags, told) == Codec().encode(value)
    assert Codec().decode(record_of(values.content(flags, told))) == value
    item = values.Item(record_of(Codec().encode(value)))
    assert (item.flags, item.value) == (flags, told)


def test_what_flags_do_not_say_is_bytes_to_the_client() -> None:
    for flags, value in ((16, b"\xff"), (2, b"abc"), (2, b""), (2, b"9" * 19), (1, b"pickle"), (1 << 31, b"x")):
        assert Codec().decode(record_of(values.content(flags, value))) == value
    assert Codec().decode(record_of(values.content(4, b"12"))) == 12
    assert Codec().decode(record_of(values.content(2, b"9 "))) == 9


def test_what_only_the_client_can_express_has_flags_0() -> None:
    assert values.Item(record_of(Codec().encode({"a": 1}))).flags == 0


def test_another_value_keeps_flags_and_tags() -> None:
    item = values.Item(record_of(values.content(5, b"abc", leased=True, soft_expires_ms=1)))
    for keeps in (True, False):
        other = values.Item(record_of(item.with_value(b"abcd", keeps_marks=keeps)))
        assert (other.flags, other.value, other.extras.leased) == (5, b"abcd", keeps)
        assert other.is_stale(2) is keeps


def test_marks_keep_the_value() -> None:
    item = values.Item(record_of(values.content(2, b"12")))
    marked = record_of(item.marked(leased=True, soft_expires_ms=7))
    assert extras_of(marked).leased
    assert (values.Item(marked).flags, values.Item(marked).value) == (2, b"12")
    assert Codec().decode(marked) == 12


@pytest.mark.parametrize(
    ("exptime", "left_ms"),
    [
        (0, 0),
        (1, 1000),
        (-1, None),
        (2_592_000, 2_592_000_000),
        (2_592_001, None),
        (1_700_000_010, 10_000),
        (1_700_000_000, None),
    ],
)
def test_a_lifetime_is_relative_up_to_thirty_days(exptime: int, left_ms: int | None) -> None:
    assert values.ttl_ms(exptime, 1_700_000_000_000) == left_ms


def test_a_tombstone_is_no_value() -> None:
    assert values.lines([b"k", b"l"], [stamp(VERSION, NEVER_MS) + b"\1\0", None], unique=False) == []
    assert values.live(stamp(VERSION, 5) + b"\0\0v", (4).to_bytes(6, "big")) is not None
    assert values.live(stamp(VERSION, 5) + b"\0\0v", (5).to_bytes(6, "big")) is None
    assert STAMP_BYTES == 22
