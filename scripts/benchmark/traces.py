"""Traces: which keys were asked for, in which order. They are read from files, or made from a seed.

  keys    text, one key a line; blank lines are skipped
  arc     text, as published with ARC (.lis): "start count ignored number" a line, for ``count`` keys from ``start`` on
  int32   keys of four bytes each, as published with cache2k (.trc): either byte order, since only equality counts
  int64   keys of eight bytes each

Each may be packed by gzip, bzip2, xz or zstd. Packing is told by the first bytes; the format, where it is not given, by
bytes that are in no text (int32), by the name, or by the lines (arc).
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import random
import shutil
import subprocess
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FORMATS: Final = ("keys", "arc", "int32", "int64")
LINE_BYTES_MAX: Final = 1024
"""A key has no more."""
RANGE_KEYS_MAX: Final = 1_000_000
"""One line of an ARC trace asks for no more."""
SAMPLE_BYTES: Final = 4096
CHUNK_BYTES: Final = 1 << 16
_NO_TEXT: Final = frozenset([*range(9), *range(14, 32)])
_PACKED: Final[tuple[tuple[bytes, Callable[..., Any]], ...]] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
)
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


class TraceError(Exception):
    """A file that is no trace; the text names the file and the place."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Keys are numbered in the order of their first requests: four bytes a request, whatever the keys are."""

    name: str
    requests: array[int]
    keys: int
    is_cut: bool = False
    """Whether there are more requests than were wanted."""


def trace_of(name: str, keys: Iterator[bytes | int], requests_max: int) -> Trace:
    """Number the keys."""
    numbers: dict[bytes | int, int] = {}
    requests = array("I")
    for key in keys:
        if len(requests) == requests_max:
            return Trace(name, requests, len(numbers), is_cut=True)
        requests.append(numbers.setdefault(key, len(numbers)))
    return Trace(name, requests, len(numbers))


def read(path: Path, form: str | None, requests_max: int) -> Trace:
    """Read a file, at most so many requests of it; TraceError if it is not what it should be."""
    try:
        with _opened(path) as file:
            form = form or _form_of(path, file)
            trace = trace_of(path.name, _READERS[form](path, file), requests_max)
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise TraceError(f"{path}: cannot be unpacked: {error}") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not trace.requests:
        raise TraceError(f"{path}: there is no request in it")
    return trace


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file, and unpack it on the way."""
    with path.open("rb") as file:
        start = file.peek(8)
        if start.startswith(_ZSTD):
            with _zstd(path) as unpacked:
                yield unpacked
            return
        for magic, unpack in _PACKED:
            if start.startswith(magic):
                with unpack(file) as unpacked:
                    yield io.BufferedReader(unpacked)
                return
        yield file


@contextlib.contextmanager
def _zstd(path: Path) -> Iterator[io.BufferedReader]:
    """Unpack by the program ``zstd``: the standard library has it from Python 3.14 on only."""
    program = shutil.which("zstd")
    if program is None:
        raise TraceError(f"{path}: is packed by zstd, and there is no program zstd: install it, or unpack the file")
    command = [program, "-dcq", "--", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert isinstance(process.stdout, io.BufferedReader)
        assert process.stderr is not None
        yield process.stdout
        is_read = not process.stdout.read(1)
        process.stdout.close()  # ends a program whose output is no longer wanted
        said = process.stderr.read().decode(errors="replace").strip()
        if process.wait() and is_read:
            raise TraceError(f"{path}: cannot be unpacked: {said}")


def _form_of(path: Path, file: io.BufferedReader) -> str:
    sample = file.peek(SAMPLE_BYTES)[:SAMPLE_BYTES]
    if not _NO_TEXT.isdisjoint(sample):
        return "int32"
    lines = [line.split() for line in sample.split(b"\n")[:-1] if line.strip()]
    if ".lis" in path.suffixes or (lines and all(len(words) == 4 and b"".join(words).isdigit() for words in lines)):
        return "arc"
    return "keys"


def _numbered_lines(path: Path, file: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 2):
        number += 1
        if len(line.rstrip(b"\r\n")) > LINE_BYTES_MAX:
            raise TraceError(f"{path}:{number}: the line has more than {LINE_BYTES_MAX:,} bytes, the most of a key")
        if line := line.strip():
            yield number, line


def _lines(path: Path, file: io.BufferedReader) -> Iterator[bytes]:
    for _, line in _numbered_lines(path, file):
        yield line


def _ranges(path: Path, file: io.BufferedReader) -> Iterator[int]:
    for number, line in _numbered_lines(path, file):
        words = line.split()
        if len(words) != 4 or not (words[0] + words[1]).isdigit():
            raise TraceError(f'{path}:{number}: must be "start count ignored number", is {line[:60]!r}')
        start, count = int(words[0]), int(words[1])
        if not 1 <= count <= RANGE_KEYS_MAX:
            raise TraceError(f"{path}:{number}: count is {count:,}; it must be 1 to {RANGE_KEYS_MAX:,}")
        yield from range(start, start + count)


def _integers(path: Path, file: io.BufferedReader, width: int) -> Iterator[int]:
    at = 0
    while chunk := file.read(CHUNK_BYTES):
        if len(chunk) % width:
            raise TraceError(f"{path}: byte {at + len(chunk) // width * width}: the last key has not all {width} bytes")
        yield from memoryview(chunk).cast("I" if width == 4 else "Q")
        at += len(chunk)


_READERS: Final[dict[str, Callable[[Path, io.BufferedReader], Iterator[bytes | int]]]] = {
    "keys": _lines,
    "arc": _ranges,
    "int32": lambda path, file: _integers(path, file, 4),
    "int64": lambda path, file: _integers(path, file, 8),
}


def _zipf(rng: random.Random, keys: int) -> Iterator[int]:
    """Yield keys of which the n-th is asked for about 1 / n times as often as the first."""
    while True:
        yield int(keys ** rng.random()) - 1


def _zipf_with_scans(rng: random.Random, keys: int) -> Iterator[int]:
    """Yield the same, and now and then a tenth as many keys in a row that are never asked for again."""
    popular, fresh = _zipf(rng, keys), keys
    while True:
        for _ in range(keys):
            yield next(popular)
        yield from range(fresh, fresh + keys // 10)
        fresh += keys // 10


def _loop(rng: random.Random, keys: int) -> Iterator[int]:  # noqa: ARG001  (nothing of it is random)
    """Yield all keys in a row, again and again: what LRU cannot hold a part of."""
    while True:
        yield from range(keys)


def _zigzag(rng: random.Random, keys: int) -> Iterator[int]:  # noqa: ARG001  (nothing of it is random)
    """Yield all keys in a row, and then back: the latest are the next, and a store should hold on to something."""
    while True:
        yield from range(keys)
        yield from reversed(range(keys))


MADE: Final = {"zipf": _zipf, "scans": _zipf_with_scans, "loop": _loop, "zigzag": _zigzag}


def make(kind: str, keys: int, requests: int, seed: int) -> Trace:
    """Make a trace: the same for the same arguments."""
    trace = trace_of(kind, iter(MADE[kind](random.Random(seed), keys)), requests)
    return Trace(kind, trace.requests, trace.keys)
