"""The replay of traces: every format, every mistake in a file, and an optimum that is one."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import random
import shutil
import struct
import subprocess
from array import array
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from benchmark import eviction, traces
from benchmark.traces import TraceError, make, read

KEYS = [7, 300, 7, 8, 70_000, 300]
NUMBERED = [0, 1, 0, 2, 3, 1]
BY_FORMAT = {
    "keys": b"7\n300\r\n\n7\n8\n70000\n300",
    "arc": b"7 1 0 0\n300 1 0 1\n7 2 0 2\n70000 1 0 3\n300 1 0 4\n",
    "int32": struct.pack(">6I", *KEYS),
    "little": struct.pack("<6I", *KEYS),
    "int64": struct.pack(">6Q", *KEYS),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: subprocess.run(["zstd", "-cq"], input=data, stdout=subprocess.PIPE, check=True).stdout,
}


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", BY_FORMAT)
def test_every_format_is_read(tmp_path: Path, name: str) -> None:
    trace = read(written(tmp_path / "trace", BY_FORMAT[name]), "int64" if name == "int64" else None, 100)
    assert list(trace.requests) == NUMBERED
    assert (trace.keys, trace.is_cut) == (4, False)


@pytest.mark.parametrize("packing", PACKERS)
def test_packed_files_are_unpacked_whatever_they_are_called(tmp_path: Path, packing: str) -> None:
    if packing == "zst" and shutil.which("zstd") is None:
        pytest.skip("there is no program zstd")
    path = written(tmp_path / "a.lis.packed", PACKERS[packing](BY_FORMAT["arc"]))
    assert list(read(path, None, 100).requests) == NUMBERED
    broken = written(tmp_path / "broken", path.read_bytes()[:-9])
    with pytest.raises(TraceError, match=r"broken: cannot be (unpacked|read)"):
        read(broken, "arc", 100)


def test_no_more_is_read_than_was_wanted(tmp_path: Path) -> None:
    path = written(tmp_path / "long.lis.gz", gzip.compress(b"0 1000000 0 0\n" * 1000))
    trace = read(path, None, 5)
    assert (list(trace.requests), trace.is_cut) == ([0, 1, 2, 3, 4], True)
    if shutil.which("zstd"):
        assert read(written(tmp_path / "long.zst", PACKERS["zst"](b"0 99 0 0\n" * 10**6)), None, 5).is_cut


@pytest.mark.parametrize(
    ("data", "form", "says"),
    [
        (b"1 2 0 0\n\n1 2 3\n", "arc", r'broken:3: must be "start count ignored number", is b\'1 2 3\''),
        (b"1 2 0 0\n1 -2 0 0\n", "arc", "broken:2: must be"),
        (b"1 0 0 0\n", "arc", "broken:1: count is 0; it must be 1 to 1,000,000"),
        (b"1 1000001 0 0\n", "arc", "broken:1: count is 1,000,001"),
        (b"a\n" + b"b" * 1025 + b"\n", "keys", "broken:2: the line has more than 1,024 bytes"),
        (b"b" * 5000, "keys", "broken:1: the line has more"),
        (b"\0" * 9, None, "broken: byte 8: the last key has not all 4 bytes"),
        (b"\0" * 12, "int64", "broken: byte 8: the last key has not all 8 bytes"),
        (b"", None, "broken: there is no request in it"),
        (b"\n \n", None, "broken: there is no request in it"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_its_place(tmp_path: Path, data: bytes, form: str, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        read(written(tmp_path / "broken", data), form, 10**6)


def test_the_longest_key_is_read(tmp_path: Path) -> None:
    assert len(read(written(tmp_path / "trace", b"k" * 1024 + b"\r\n" + b"k" * 1024), None, 10).requests) == 2


def best(requests: list[int], entries: int) -> int:
    """The most hits, by trying all that a cache can do."""

    @cache
    def hits(position: int, held: frozenset[int]) -> int:
        if position == len(requests):
            return 0
        number = requests[position]
        grown = held | {number}
        choices = [grown] if len(grown) <= entries else [grown - {each} for each in grown]
        return (number in held) + max(hits(position + 1, choice) for choice in choices)

    return hits(0, frozenset())


def test_nothing_is_better_than_the_optimum_and_something_is_as_good() -> None:
    rng = random.Random(1)
    for _, entries in itertools.product(range(40), (1, 2, 3)):
        requests = [rng.randrange(6) for _ in range(20)]
        assert eviction.optimum(array("I", requests), entries) == best(requests, entries) / 20


def test_the_optimum_forgets_what_is_over() -> None:
    """Long enough for its heap to be cleared of requests that are over."""
    requests = array("I", [number % 3 for number in range(5000)])
    assert eviction.optimum(requests, 3) == 4997 / 5000


@pytest.mark.parametrize("policy", ["lru", "s3fifo"])
def test_a_replay_counts_the_hits_of_a_store_that_is_filled_by_misses(policy: str) -> None:
    requests = array("I", [0, 0, 1, 2, 0, 1, 9, 0])
    assert eviction.POLICIES[policy](requests, 100) == 4 / 8
    assert eviction.POLICIES[policy](array("I", [0, 1] * 50), 1) == 0


def test_s3fifo_keeps_more_than_lru_where_scans_pass_and_the_optimum_most() -> None:
    requests = make("scans", 2000, 30_000, 1).requests
    lru, s3fifo, optimum = (measure(requests, 100) for measure in eviction.POLICIES.values())
    assert lru + 0.03 < s3fifo < optimum


def gain(requests: array[int], entries: int) -> float:
    return 100 * (eviction.POLICIES["s3fifo"](requests, entries) - eviction.POLICIES["lru"](requests, entries))


@pytest.mark.parametrize("percent", [1, 5, 10, 20, 40])
def test_s3fifo_is_not_half_a_point_worse_than_lru_in_sweeps_to_and_fro(percent: int) -> None:
    assert gain(make("zigzag", 1000, 26_000, 1).requests, 10 * percent) > -eviction.WORSE_MAX


@pytest.mark.parametrize("percent", [5, 10, 20, 40])
def test_s3fifo_is_far_better_than_lru_in_loops(percent: int) -> None:
    assert gain(make("loop", 1000, 20_000, 1).requests, 10 * percent) > 0.4 * percent


def test_s3fifo_learns_anew_when_what_is_asked_for_changes() -> None:
    """By each half alone it is 0 (zigzag), 4 (scans) and 3.6 points better."""
    zigzag, loop, scans = (make(kind, 1000, 20_000, 1).requests for kind in ("zigzag", "loop", "scans"))
    for first, second, least in ((zigzag, scans, 3), (scans, zigzag, 3), (loop, zigzag, 2.5)):
        requests = first + array("I", [number + 10_000 for number in second])
        assert gain(requests, 100) > least


def test_traces_that_are_made_are_the_same_for_a_seed() -> None:
    for kind in traces.MADE:
        assert make(kind, 50, 300, 1) == make(kind, 50, 300, 1)
        assert len(make(kind, 50, 300, 1).requests) == 300
    assert make("zipf", 50, 300, 1) != make("zipf", 50, 300, 2)
    assert list(make("loop", 3, 7, 1).requests) == [0, 1, 2, 0, 1, 2, 0]
    assert list(make("zigzag", 3, 8, 1).requests) == [0, 1, 2, 2, 1, 0, 0, 1]


def test_sizes_are_entries_or_percent_of_the_keys() -> None:
    assert eviction.sizes_of("100, 5%,0.1%", 1000) == [1, 50, 100]
    for text in ("", "x", "5%%", "-1", "0", "0%", "nan%", "inf%", "2e9", "9999999999"):
        with pytest.raises(ValueError, match="is no size"):
            eviction.sizes_of(text, 1000)


def test_the_command_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "web.trc", BY_FORMAT["int32"])
    assert eviction.main([str(path), "--sizes", "2,50%", "--jobs", "1"]) == 0
    table = capsys.readouterr().out
    assert "web.trc               2" in table
    assert "6 requests for 4 keys" in table
    assert eviction.main([str(path), "--make", "loop", "--keys", "10", "--sizes", "5", "--jobs", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["trace"], row["requests"], row["keys"], row["entries"]) for row in rows] == [
        ("web.trc", 6, 4, 5),
        ("loop", 200, 10, 5),
    ]
    assert rows[0]["lru"] == rows[0]["s3fifo"] == rows[0]["optimum"] == 0.333333
    assert rows[1]["lru"] == 0 < rows[1]["s3fifo"] <= rows[1]["optimum"]


def test_a_mistake_ends_the_command_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert eviction.main([str(tmp_path / "none")]) == 2
    assert (
        capsys.readouterr().err
        == f"scripts/bench eviction: {tmp_path}/none: cannot be read: No such file or directory\n"
    )
    assert eviction.main([str(tmp_path)]) == 2
    for wrong in ([], ["a", "--sizes", "x"], ["a", "--jobs", "0"]):
        with pytest.raises(SystemExit):
            eviction.main(wrong)


def test_the_summary_says_where_it_is_worse() -> None:
    def row(entries: int, s3fifo: float) -> eviction.Row:
        return {"trace": "t", "entries": entries, "lru": 0.5, "s3fifo": s3fifo}

    assert eviction.summary([row(1, 0.6)]) == "s3fifo hits more than lru in 1 of 1 rows."
    assert eviction.summary([row(1, 0.6), row(2000, 0.48), row(3, 0.499)]) == (
        "s3fifo hits more than lru in 1 of 3 rows, less in 2, by more than 0.5 points in 1; "
        "at worst -2.00: t with 2,000 entries."
    )


def test_a_plot_has_a_panel_for_each_trace(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    rows = [{"trace": name, "entries": n, "lru": 0.1, "s3fifo": 0.2, "optimum": 0.3} for name in "ab" for n in (1, 9)]
    eviction.plot(rows, tmp_path / "hits.svg")
    assert (tmp_path / "hits.svg").read_text().count('id="axes_') == 2
