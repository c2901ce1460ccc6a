"""Random commands to a memcached and to a node's memcached door: the answers must be the same, byte for byte.

Each sequence has a connection of its own on either side, whose first commands delete what an earlier one may have left.
At its end the sending side is shut down and all answers are read, so that nothing needs to be known about where an
answer ends. What is compared has a few parts that no two servers can have in common, or that a mesh does not have:

- cas uniques are other numbers: what is the same for memcached must be the same for the other, too
- seconds (``t`` and ``l`` of meta commands, ``exp`` and ``la`` of ``me``) may differ by two, since clocks tick; how
  long ago an item was over is not looked at
- ``STAT`` lines and the text of ``VERSION`` are left out; of ``me`` the class, the size and the cas
- whether an item was read before (``h``, ``fetch``) is not looked at: a mesh does not note it

A sequence that differs is played three times more. If it differs each time, it is a finding, and is shrunk; if not, a
second may have ended in its midst.
"""

from __future__ import annotations

import base64
import random
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final, NamedTuple, Self

from faults.private_memcached import NoMemcached, private_memcached

import meshcache
from fuzzing.commands import KEYS, NO_UNIQUE, PLAIN, Draw, Step
from fuzzing.shrinking import shrink
from meshcache.local.processes import HOST, find_base_port

ANSWER_S_MAX: Final = 10.0
REFERENCE: Final = ("-m", "256", "-o", "no_lru_maintainer,no_lru_crawler")
"""No thread of its own holds an item just when it is to be counted in place."""
REPORT_S: Final = 5.0
FINDINGS_MAX: Final = 10
"""After so many the rest can wait."""
SECONDS_APART: Final = 2
CLEAN: Final = b"".join(
    b"md %s q\r\n" % key if key in PLAIN else b"md %s b q\r\n" % base64.b64encode(key) for key in KEYS
)

_PARTS: Final = re.compile(
    rb"(?m)^STAT [^\r\n]*\r\n|^VERSION [^\r\n]*|^VALUE [^ \r\n]+ \d+ \d+ \d+(?=\r)"
    rb"|^(?:HD|VA \d+|EN|NF|NS|EX) (?:[^\r\n]|\r(?!\n))*|^ME [^\r\n]*"
)


class Unique(NamedTuple):
    """A cas unique."""

    text: bytes


Comparable = list[bytes | int | Unique]


def comparable(answers: bytes) -> Comparable:
    """Return the answers as bytes that must be equal, seconds that may differ a little, and cas uniques."""
    parts: Comparable = [b""]
    for part in _parts(answers):
        last = parts[-1]
        if isinstance(last, bytes) and isinstance(part, bytes):
            parts[-1] = last + part
        else:
            parts.append(part)
    return parts


def _parts(answers: bytes) -> Iterator[bytes | int | Unique]:
    end = 0
    for found in _PARTS.finditer(answers):
        yield answers[end : found.start()]
        yield from _line(found.group())
        end = found.end()
    yield answers[end:]


def _line(line: bytes) -> Comparable:
    if line.startswith(b"STAT"):
        return []
    if line.startswith(b"VERSION"):
        return [b"VERSION"]
    head, _, rest = line.rpartition(b" ") if line.startswith(b"VALUE") else line.partition(b" ")
    if line.startswith(b"VALUE"):
        return [head, b" ", _unique(rest)]
    if head == b"VA":
        size, _, rest = rest.partition(b" ")
        head += b" " + size
    told: Comparable = [head]
    for word in rest.split(b" "):
        told += [b" ", *(_of_debug(word) if head == b"ME" else _of_meta(word))]
    return told


def _unique(text: bytes) -> bytes | Unique:
    return text if text == b"0" else Unique(text)  # 0: there is no item


def _of_meta(flag: bytes) -> Comparable:
    if re.fullmatch(rb"c\d+", flag):
        return [b"c", _unique(flag[1:])]
    if flag in {b"h0", b"h1"}:
        return [b"h"]
    if re.fullmatch(rb"[tl]-?\d+", flag):
        return [flag[:1], *_seconds(int(flag[1:]))] if flag != b"t0" else [b"t", b"over"]
    return [flag]


def _seconds(number: int) -> Comparable:
    """Return seconds; those since an end that is past memcached tells as 2**32 less so many, and nobody needs them."""
    return [b"over"] if number < -1 or number >= 1 << 31 else [number]


def _of_debug(word: bytes) -> Comparable:
    name, equals, value = word.partition(b"=")
    if name in {b"cas", b"cls", b"size", b"fetch"}:
        return [name]
    if name in {b"exp", b"la"} and equals:
        return [name, *_seconds(int(value))]
    return [word]


def differ(reference: Comparable, other: Comparable) -> bool:
    """Tell whether another server has answered differently than the reference."""
    if len(reference) != len(other):
        return True
    uniques: dict[Unique, Unique] = {}
    for a, b in zip(reference, other, strict=True):
        if isinstance(a, Unique) and isinstance(b, Unique):
            if uniques.setdefault(a, b) != b:
                return True
        elif isinstance(a, int) and isinstance(b, int):
            if abs(a - b) > SECONDS_APART:
                return True
        elif a != b:
            return True
    return False


class Silence(Exception):
    """A server has not answered in time; the text says what it had answered until then."""


class Conversation:
    """One connection, on which a sequence is played."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=ANSWER_S_MAX)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unsent = b""
        self._heard = b""

    def play(self, steps: list[Step]) -> bytes:
        """Return all answers."""
        with self._socket:
            try:
                self._turn(CLEAN)
                self._heard = b""  # which depends on what was left
                for step in steps:
                    self._take(step)
                self._send()
                self._socket.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError, OSError) as error:
                if isinstance(error, TimeoutError):
                    raise Silence(f"does not read; {self._heard!r:.300}") from error
            while self._hear():
                pass
        return self._heard

    def _take(self, step: Step) -> None:
        if step[0] == "say":
            self._unsent += step[1]
        elif step[0] == "cut":
            self._send()
        elif step[0] in {"turn", "alone"}:
            self._turn(b"")
            self._unsent += b"".join(step[1:])
        else:
            _, key, command = step
            told = self._turn(b"gets %s\r\n" % key)
            uniques = re.findall(rb"(?m)^VALUE %s \d+ \d+ (\d+)\r$" % re.escape(key), told)
            self._unsent += command.replace(b"{cas}", uniques[-1] if uniques else NO_UNIQUE)

    def _turn(self, question: bytes) -> bytes:
        """Send all, and wait until it is answered; return the answers."""
        before = len(self._heard)
        self._unsent += question + b"mn\r\n"
        wanted = before + 4
        self._send()
        while not (len(self._heard) >= wanted and self._heard.endswith(b"MN\r\n")) and self._hear():
            pass
        return self._heard[before:]

    def _send(self) -> None:
        self._socket.sendall(self._unsent)
        self._unsent = b""

    def _hear(self) -> bool:
        try:
            heard = self._socket.recv(1 << 16)
        except TimeoutError as error:
            raise Silence(f"no answer after {ANSWER_S_MAX:g} s; until then {self._heard!r:.300}") from error
        except ConnectionResetError:
            return False
        self._heard += heard
        return bool(heard)


def answers_of(address: str, steps: list[Step]) -> bytes:
    """Play a sequence to a server, beginning with nothing stored; a silence is an answer, too."""
    try:
        return Conversation(address).play(steps)
    except Silence as error:
        return b"(silence: %s)" % str(error).encode()


def difference(reference: str, other: str, steps: list[Step]) -> str:
    """Play a sequence to both; say how they differ; empty: they do not."""
    expected, answered = answers_of(reference, steps), answers_of(other, steps)
    if not differ(comparable(expected), comparable(answered)):
        return ""
    return f"memcached: {expected!r:.2000}\n    the other: {answered!r:.2000}"


def always_differs(reference: str, other: str, steps: list[Step]) -> bool:
    """Tell whether it is no matter of chance."""
    return all(difference(reference, other, steps) for _ in range(3))


class Search:
    """Sequences, one after the other, and what was found."""

    def __init__(self, reference: str, other: str, seed: int, findings_max: int = FINDINGS_MAX) -> None:
        self._reference = reference
        self._other = other
        self._seed = seed
        self._findings_max = findings_max
        self.played = 0
        self.chances = 0
        """Sequences that differed once, and not again."""
        self.findings: dict[str, str] = {}
        """By the commands that lead there."""

    def run(self, sequences: int, seconds: float) -> None:
        """Play so many, as far as time allows."""
        began = reported = time.monotonic()
        while (
            self.played < sequences and time.monotonic() - began < seconds and len(self.findings) < self._findings_max
        ):
            self._play(self._seed + self.played)
            self.played += 1
            if time.monotonic() - reported > REPORT_S:
                reported = time.monotonic()
                print(f"{self.played:,} sequences, findings: {len(self.findings)}", file=sys.stderr, flush=True)

    def _play(self, seed: int) -> None:
        steps = Draw(random.Random(f"memcached {seed}")).sequence()
        if not (first := difference(self._reference, self._other, steps)):
            return
        if not always_differs(self._reference, self._other, steps):
            self.chances += 1
            print(f"seed {seed} differed once:\n    {first}", file=sys.stderr, flush=True)
            return
        fewest = shrink(steps, lambda fewer: always_differs(self._reference, self._other, fewer), within_s=3.0)
        verbs = " ".join(re.sub(rb"[^ -~]", b".", _text(step)[:40]).decode() for step in fewest)
        kind = re.sub(r"\d+", "#", verbs)
        if kind not in self.findings:
            self.findings[kind] = difference(self._reference, self._other, fewest)
            print(f"seed {seed}: {len(fewest)} of {len(steps)} steps differ:")
            for step in fewest:
                print(f"    {step!r:.600}")
            print(f"    {self.findings[kind]}", flush=True)


def _text(step: Step) -> bytes:
    return next((part for part in reversed(step) if isinstance(part, bytes)), b"")


def compare(sequences: int, seconds: float, seed: int, other: str = "") -> int:
    """Compare a memcached with a node, or with the server at ``other``; 1 if they ever differ."""
    with ExitStack() as stack:
        try:
            reference = stack.enter_context(private_memcached(*REFERENCE))
        except NoMemcached as error:
            print(f"nothing to compare with: {error}", file=sys.stderr)
            return 2
        search = Search(reference, other or stack.enter_context(Door()).address, seed)
        began = time.monotonic()
        search.run(sequences, seconds)
    print(
        f"{search.played:,} sequences in {time.monotonic() - began:.0f} s from seed {seed}; "
        f"findings: {len(search.findings) or 'none'}; differed once and not again: {search.chances}"
    )
    return int(bool(search.findings))


class Door:
    """A mesh of one node that is a memcached, too."""

    def __init__(self) -> None:
        self.mesh = meshcache.LocalMesh(
            nodes=1,
            cluster={"replicas": 1, "write_quorum": 1},
            limits={"value_bytes_max": 1_000_000},
            memcached={"listen": f"{HOST}:{find_base_port(1)}"},
        )

    def __enter__(self) -> Self:
        self.mesh.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.mesh.close()

    @property
    def address(self) -> str:
        """Where clients of memcached connect."""
        return self.mesh.memcached_addresses[0]
