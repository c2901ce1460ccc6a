"""One lane of a load: operations one after the other on keys that no other lane writes, each answer checked.

A lane does no I/O: it says what to call next and is told what came of it, so that clients of both kinds can run it.
After a failure it tries the same keys again, so that the time for which a key cannot be had is not made longer than it
is by the lane's having turned to others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from meshcache.errors import MeshcacheError

from .ledger import Floor, Ledger, Verdict, name_of, value_of
from .tally import Tally, latency_class

BATCH: Final = 20
EVIDENCE_MAX: Final = 10


@dataclass(frozen=True)
class Mix:
    """Shares of the operations; the rest are gets."""

    write: float = 0.25
    """Of these, a few delete."""
    delete: float = 0.1
    read_many: float = 0.05
    write_many: float = 0.02
    foreign: float = 0.5
    """Of the reads: how many read a key that another lane writes."""


class Call(NamedTuple):
    """An operation on keys: which method of a client, with what, and what is to be checked by."""

    verb: str
    arguments: tuple[Any, ...]
    keys: list[int]
    floors: list[Floor]
    """For reads: what was certain of each key when it began."""
    numbers: list[int]
    """For changes: the number of each."""


class Lane:
    """Chooses operations for some keys and checks what comes of them."""

    def __init__(self, ledger: Ledger, own: range, mix: Mix, value_bytes: int, seed: int, began: float) -> None:
        self.tally = Tally()
        self._ledger = ledger
        self._own = own
        self._mix = mix
        self._padding = bytes(value_bytes)
        self._random = random.Random(seed)
        self._began = began
        self._seen: dict[int, int] = {}
        self._tried_since: dict[int, float] = {}
        """Keys that could not be had, and when that was tried first."""
        self._retry: tuple[str, list[int]] | None = None

    def fill(self) -> list[Call]:
        """Return what writes every key of this lane once."""
        keys = list(self._own)
        return [self._change("set_many", keys[start : start + 100]) for start in range(0, len(keys), 100)]

    def next(self, *, writing: bool) -> Call:
        """Return the next operation; only reads without ``writing``."""
        if self._retry is not None:
            verb, keys = self._retry
            self._retry = None
            if writing or verb.startswith("get"):
                return self._call(verb, keys)
        dice, mix = self._random.random(), self._mix
        if writing and dice < mix.write:
            verb = "delete" if self._random.random() < mix.delete else "set"
            return self._call(verb, [self._random.choice(self._own)])
        if dice > 1 - mix.read_many:
            return self._call("get_many", self._some(self._readable()))
        if writing and dice > 1 - mix.read_many - mix.write_many:
            return self._call("set_many", self._some(self._own))
        return self._call("get", [self._random.choice(self._readable())])

    def _readable(self) -> range:
        return range(len(self._ledger)) if self._random.random() < self._mix.foreign else self._own

    def _some(self, keys: range) -> list[int]:
        return self._random.sample(keys, min(BATCH, len(keys)))

    def _call(self, verb: str, keys: list[int]) -> Call:
        if not verb.startswith("get"):
            return self._change(verb, keys)
        floors = [self._ledger.floor(key) for key in keys]
        names = [name_of(key) for key in keys]
        return Call(verb, (names if verb == "get_many" else names[0],), keys, floors, [])

    def _change(self, verb: str, keys: list[int]) -> Call:
        numbers = [self._ledger.attempt(key, delete=verb == "delete") for key in keys]
        values = {name_of(key): value_of(key, n, self._padding) for key, n in zip(keys, numbers, strict=True)}
        name = name_of(keys[0])
        arguments: dict[str, tuple[Any, ...]] = {
            "delete": (name,),
            "set": (name, values[name], None),
            "set_many": (values, None),
        }
        return Call(verb, arguments[verb], keys, [], numbers)

    def take(self, call: Call, outcome: Any, begin: float, end: float) -> None:
        """Check and count what came of a call: what it returned, or the error that it raised."""
        at_s = end - self._began
        bucket = self.tally.at(at_s)
        bucket.calls += 1
        bucket.latencies[latency_class(end - begin)] += 1
        self.tally.longest_call_s = max(self.tally.longest_call_s, end - begin)
        if isinstance(outcome, Exception):
            bucket.failed += 1
            text = f"{call.verb}: {type(outcome).__name__}: {outcome}"
            self.tally.errors[_without_key(text)] += 1
            self._note(at_s, text)
            self._retry = (call.verb, call.keys)
            failed = call.keys
        elif call.numbers:
            failed = self._take_change(call, outcome, at_s)
        else:
            failed = []
            for i, key in enumerate(call.keys):
                value = outcome.get(name_of(key)) if call.verb == "get_many" else outcome
                self._check(key, call.floors[i], value, at_s)
        self._follow_availability(call.keys, failed, begin, end)

    def _take_change(self, call: Call, outcome: Any, at_s: float) -> list[int]:
        failed = outcome if call.verb == "set_many" else []
        keys = [key for key in call.keys if name_of(key) in failed]
        if keys:
            self.tally.at(at_s).failed += 1
            self.tally.errors["set_many: some keys failed"] += 1
            self._retry = (call.verb, call.keys)
        for key, number in zip(call.keys, call.numbers, strict=True):
            if key not in keys:
                self._ledger.acknowledge(key, number, delete=call.verb == "delete")
                self.tally.at(at_s).changes += 1
        return keys

    def _check(self, key: int, floor: Floor, value: Any, at_s: float) -> None:
        verdict, number = self._ledger.judge(key, floor, value)
        if verdict is Verdict.HIT:
            if number < self._seen.get(key, 0):
                verdict = Verdict.BACKWARDS
            self._seen[key] = max(number, self._seen.get(key, 0))
        bucket = self.tally.at(at_s)
        if not floor.deleted and verdict is not Verdict.ABSENT:
            bucket.reads += 1
            bucket.hits += verdict is Verdict.HIT
        if verdict in {Verdict.HIT, Verdict.ABSENT}:
            return
        name = verdict.name.lower()
        setattr(bucket, name, getattr(bucket, name) + 1)
        if verdict is Verdict.LOST:
            self.tally.lost_keys.add((key, floor.number))
        what = "own" if key in self._own else "foreign"
        self._note(at_s, f"{name}: {what} {name_of(key)} certain {floor}, read {number or value!r:.100}")

    def _note(self, at_s: float, text: str) -> None:
        if len(self.tally.evidence) < EVIDENCE_MAX:
            self.tally.evidence.append(f"{at_s:.3f} s: {text}")

    def _follow_availability(self, keys: list[int], failed: list[int], begin: float, end: float) -> None:
        for key in keys:
            since = self._tried_since.pop(key, begin)
            if key in failed:
                self._tried_since[key] = since
            elif end - since > self.tally.longest_unavailable_s:
                text = f"{name_of(key)} from {since - self._began:.2f} s to {end - self._began:.2f} s"
                self.tally.note_unavailable(end - since, text)

    def audit(self, get_many: Callable[[list[str]], Any], keys: list[int]) -> None:
        """Read and check keys outside the load."""
        call = self._call("get_many", keys)
        begin = time.monotonic()
        outcome: Any
        try:
            outcome = get_many(*call.arguments)
        except MeshcacheError as error:
            outcome = error
        self.take(call, outcome, begin, time.monotonic())

    def finish(self, now: float) -> None:
        """Count what could not be had to the end."""
        for key, since in self._tried_since.items():
            self.tally.note_unavailable(now - since, f"{name_of(key)} from {since - self._began:.2f} s to the end")


def _without_key(text: str) -> str:
    """Return an error without what differs from key to key, for counting."""
    return " ".join("KEY" if "chaos:" in word else word for word in text.split())
