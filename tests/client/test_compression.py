from __future__ import annotations

import contextlib
import importlib
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_node import FakeNode, fake_mesh
from hypothesis import given, settings
from hypothesis import strategies as st

import meshcache
from meshcache.client.codec import BYTES, CUSTOM, INT, MSGPACK, PICKLE, STR, Codec
from meshcache.client.compression import MIN_BYTES, VALUE_BYTES_MAX, ZSTD
from meshcache.client.near_cache import is_unchangeable
from meshcache.errors import ConfigError, SerializationError, ValueTooLarge
from meshcache.protocol.record import CONTENT_FLAG_BYTES, Extras, stamp, with_extras

MODULE = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
zstd: Any = pytest.importorskip(MODULE)
STAMP = stamp(bytes(16), 1)
TEXT = "Das ist das Haus vom Nikolaus. " * 100
NOISE = random.Random(1).randbytes(5000)


def small(**options: Any) -> Codec:
    return Codec(compress="zstd", **options)


class Reversed:
    def encode(self, value: Any) -> bytes:
        return bytes(reversed(value))

    def decode(self, data: bytes) -> Any:
        return bytes(reversed(data))


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(nested, st.integers(1, 500), st.integers(0, 64), st.booleans())
def test_what_comes_out_equals_what_went_in(value: Any, times: int, min_bytes: int, tagged: bool) -> None:
    codec = small(compress_min_bytes=min_bytes)
    for each in (value, [value] * times):
        content = codec.encode(each)
        plain = Codec().encode(each)
        if tagged:
            content = with_extras(content, Extras((b"t",)))
            plain = with_extras(plain, Extras((b"t",)))
        assert len(content) <= len(plain)
        for reader in (codec, Codec()):
            found = reader.decode(STAMP + content)
            assert (found, type(found)) == (each, type(each))


@pytest.mark.parametrize(
    ("tag", "options", "value"),
    [
        (BYTES, {}, TEXT.encode()),
        (STR, {}, TEXT),
        (MSGPACK, {}, [TEXT]),
        (PICKLE, {"codec": "pickle"}, {TEXT}),
        (CUSTOM, {"codec": Reversed()}, TEXT.encode()),
    ],
)
def test_the_tag_tells_how_to_read_what_is_in_it(tag: int, options: dict[str, Any], value: Any) -> None:
    content = small(**options).encode(value)
    assert (content[0], content[1]) == (0, tag | ZSTD)
    assert len(content) < len(TEXT) // 4
    assert Codec(**options).decode(STAMP + content) == value


def test_bytes_like_objects_are_compressed() -> None:
    for value in (bytearray(5000), memoryview(bytes(5000))):
        assert small().encode(value)[1] == BYTES | ZSTD


def test_only_what_becomes_smaller_is_compressed() -> None:
    assert small().encode(NOISE) == Codec().encode(NOISE)
    assert small().encode("x" * (MIN_BYTES - 1)) == Codec().encode("x" * (MIN_BYTES - 1))
    assert small().encode("x" * MIN_BYTES)[1] == STR | ZSTD
    assert small(compress_min_bytes=0).encode(b"") == Codec().encode(b"")


@pytest.mark.parametrize("value", [0, 5, -(1 << 63), (1 << 63) - 1, 1_111_111_111_111_111_111])
def test_numbers_stay_such_that_nodes_can_count(value: int) -> None:
    assert small(compress_min_bytes=0).encode(value) == b"\0\2%d" % value
    assert small(compress_min_bytes=0).encode(value)[1] == INT


def test_a_pickle_or_a_codec_of_its_own_is_refused_when_compressed_too() -> None:
    with pytest.raises(SerializationError, match="a pickle"):
        Codec().decode(STAMP + small(codec="pickle").encode([TEXT]))
    with pytest.raises(SerializationError, match="codec of its own"):
        Codec().decode(STAMP + small(codec=Reversed()).encode(TEXT.encode()))


# ---- hostile values


def refused(frame: bytes, limit: int = VALUE_BYTES_MAX) -> tuple[str, int]:
    """Return why a frame is refused, and how many bytes were allocated for it at most."""
    codec = Codec()
    codec.limit_by(lambda: limit)
    tracemalloc.start()
    try:
        with pytest.raises(SerializationError) as caught:
            codec.decode(STAMP + bytes((0, BYTES | ZSTD)) + frame)
        return str(caught.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    bomb = zstd.compress(bytes(VALUE_BYTES_MAX + 1))
    assert len(bomb) < 5000
    why, allocated = refused(bomb)
    assert "16,777,217 bytes when decompressed; the limit is 16,777,216" in why
    assert allocated < 1 << 20
    codec = Codec()
    codec.limit_by(lambda: VALUE_BYTES_MAX + 1)
    assert codec.decode(STAMP + bytes((0, BYTES | ZSTD)) + bomb) == bytes(VALUE_BYTES_MAX + 1)


def test_a_limit_below_the_usual_one_does_not_hide_what_was_stored_before_it_was_known() -> None:
    content = small().encode(bytes(1 << 20))
    codec = Codec()
    codec.limit_by(lambda: 1000)
    assert codec.decode(STAMP + content) == bytes(1 << 20)


def test_a_frame_that_does_not_say_how_long_it_is_is_refused() -> None:
    compressor = zstd.ZstdCompressor()
    frame = compressor.compress(bytes(100)) + compressor.compress(bytes(1 << 25)) + compressor.flush()
    assert zstd.get_frame_info(frame).decompressed_size is None
    why, allocated = refused(frame)
    assert "an unknown number of bytes" in why
    assert allocated < 1 << 20


def frame_of(claimed: int) -> bytes:
    """A frame of 1 MiB of zeros that claims another length."""
    frame = bytearray(zstd.compress(bytes(1 << 20)))
    at = frame.index((1 << 20).to_bytes(4, "little"))
    frame[at : at + 4] = claimed.to_bytes(4, "little")
    return bytes(frame)


def test_a_frame_that_lies_about_its_length_is_refused() -> None:
    for claimed in (100, (1 << 20) - 1, (1 << 20) + 1, VALUE_BYTES_MAX):
        why, allocated = refused(frame_of(claimed))
        assert "can not be decompressed" in why
        assert allocated < 2 * VALUE_BYTES_MAX + (1 << 20)


def test_a_window_that_is_larger_than_any_value_is_refused() -> None:
    header = b"\x28\xb5\x2f\xfd" + bytes((0x80, (27 - 10) << 3)) + (100_000).to_bytes(4, "little")
    assert zstd.get_frame_info(header + bytes(8)).decompressed_size == 100_000
    why, _ = refused(header + b"\x01\0\0")
    assert "memory" in why


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_frames_of_any_kind_are_refused_at_worst(data: Any) -> None:
    frame = bytearray(zstd.compress(data.draw(st.sampled_from([TEXT.encode(), NOISE[:300], bytes(3000)]))))
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    tail = data.draw(st.binary(max_size=20))
    with contextlib.suppress(SerializationError):
        Codec().decode(STAMP + bytes((0, BYTES | ZSTD)) + bytes(frame[:cut]) + tail)


def test_a_frame_that_is_cut_short_is_refused() -> None:
    frame = zstd.compress(NOISE)
    for length in (len(frame) - 1, len(frame) // 2, 20):
        assert "not one frame" in refused(frame[:length])[0]


def test_what_follows_a_frame_is_refused() -> None:
    assert "not one frame" in refused(zstd.compress(bytes(5000)) + b"more")[0]


# ---- clients


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh(1) as nodes:
        yield nodes[0]


def stored(node: FakeNode, key: bytes) -> bytes:
    return node.data[key][len(STAMP) :]


def test_clients_with_and_without_it_read_each_other(node: FakeNode) -> None:
    with meshcache.Client(node.address, compress="zstd") as writer, meshcache.Client(node.address) as plain:
        writer.set("a", TEXT)
        writer.set_many({"b": [TEXT], "n": 5}, ttl=60)
        assert writer.add("c", TEXT.encode())
        writer.set("t", TEXT, tags=["x"])
        assert writer.get_or_set("d", lambda: {"k": TEXT}, ttl=60) == {"k": TEXT}
        plain.set("p", TEXT)
        for key in "abcdt":
            assert len(stored(node, key.encode())) < len(TEXT) // 4, key
        assert len(stored(node, b"p")) == len(TEXT) + CONTENT_FLAG_BYTES
        expected = {
            "a": TEXT, "b": [TEXT], "n": 5, "c": TEXT.encode(), "t": TEXT, "d": {"k": TEXT}, "p": TEXT,
        }  # fmt: skip
        for reader in (writer, plain):
            assert reader.get_many(list(expected)) == expected
            assert {key: reader.get(key) for key in expected} == expected
        item = plain.gets("a")
        assert item is not None
        assert writer.cas("a", [1, TEXT], item.version)
        assert plain.get("a") == [1, TEXT]
        assert writer.incr("n", 2) == 7
        with pytest.raises(meshcache.NotANumber):
            writer.incr("c")


def test_a_near_cache_keeps_what_was_compressed() -> None:
    assert is_unchangeable(TEXT, STAMP + small().encode(TEXT))
    assert not is_unchangeable([TEXT], STAMP + small().encode([TEXT]))
    assert not is_unchangeable(TEXT.encode(), STAMP + small(codec=Reversed()).encode(TEXT.encode()))


def test_options_of_all_kinds(node: FakeNode) -> None:
    with meshcache.Client(f"mesh://{node.address}/?compress=zstd&compress_min_bytes=50") as cache:
        cache.set("url", "x" * 50)
        cache.set("short", "x" * 49)
        cache.with_options(compress="off").set("off", "x" * 5000)
        cache.with_options(compress_min_bytes=6000).set("less", "x" * 5000)
        cache.with_options(ttl=5).namespace("n:").set("kept", "x" * 50)
        cache.with_options(codec="pickle").set("pickle", {1} | set("x" * 50), ttl=5)
    tags = {key: stored(node, key.encode())[1] for key in ("url", "short", "off", "less", "n:kept")}
    assert tags == {"url": STR | ZSTD, "short": STR, "off": STR, "less": STR, "n:kept": STR | ZSTD}
    with meshcache.Client(node.address) as cache:
        cache.with_options(compress="zstd").set("derived", TEXT)
        cache.set("plain", TEXT)
    assert [stored(node, key)[1] for key in (b"derived", b"plain")] == [STR | ZSTD, STR]


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"compress": "lz4"}, ValueError, 'compress must be "zstd" or "off", is \'lz4\''),
        ({"compress": True}, ValueError, "compress must be"),
        ({"compress_min_bytes": -1}, ValueError, "compress_min_bytes must not be negative, is -1"),
        ({"compress_min_bytes": 1.5}, TypeError, "compress_min_bytes must be an int, is 1.5"),
        ({"compress_min_bytes": True}, TypeError, "compress_min_bytes must be an int"),
    ],
)
def test_options_that_make_no_sense(options: Any, error: type[Exception], why: str) -> None:
    for make in (meshcache.Client, meshcache.AsyncClient):
        with pytest.raises(error, match=why):
            make("127.0.0.1:1", **options)
        with pytest.raises(error, match=why):
            make("127.0.0.1:1").with_options(**options)


@pytest.mark.parametrize("query", ["compress=lz4", "compress_min_bytes=1e3", "compress_min_bytes=-1"])
def test_a_url_that_makes_no_sense(query: str) -> None:
    with pytest.raises(ConfigError, match=query.partition("=")[0]):
        meshcache.Client(f"mesh://127.0.0.1:1/?{query}")


def test_what_is_too_large_is_too_large_however_small_it_would_become(node: FakeNode) -> None:
    limit = int(node.settings["value_bytes_max"])
    with meshcache.Client(node.address, compress="zstd") as cache:
        cache.set("k", bytes(limit))
        with pytest.raises(ValueTooLarge) as caught:
            cache.set("k", bytes(limit + 1))
        assert caught.value.size == limit + 1
        assert cache.get("k") == bytes(limit)


@pytest.fixture
def without_zstd(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def take_away() -> None:
        monkeypatch.setitem(sys.modules, MODULE, None)

    return take_away


def test_a_program_without_the_library_is_told_what_to_install(
    node: FakeNode, without_zstd: Callable[[], None]
) -> None:
    with meshcache.Client(node.address, compress="zstd") as cache:
        cache.set_many({"k": TEXT, "n": 5})
    without_zstd()
    with pytest.raises(ImportError):
        importlib.import_module(MODULE)
    for make in (meshcache.Client, meshcache.AsyncClient):
        with pytest.raises(ConfigError, match=r"pip install 'meshcache\[zstd\]'"):
            make(node.address, compress="zstd")
    with meshcache.Client(node.address) as cache:
        cache.set("plain", TEXT)
        assert cache.get_many(["plain", "n"]) == {"plain": TEXT, "n": 5}
        for read in (lambda: cache.get("k"), lambda: cache.get_many(["plain", "k"]), lambda: cache.gets("k")):
            with pytest.raises(
                SerializationError, match=r"'k': .*compressed with zstd; .*pip install 'meshcache\[zstd\]'"
            ):
                read()


def test_the_library_is_not_loaded_where_nothing_is_compressed() -> None:
    script = (
        "import sys, meshcache; from meshcache.client.codec import Codec; codec = Codec();"
        "assert codec.decode(bytes(22) + codec.encode('x' * 5000)) == 'x' * 5000;"
        f"assert {MODULE!r} not in sys.modules; Codec(compress='zstd').encode('x' * 5000);"
        f"assert {MODULE!r} in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
