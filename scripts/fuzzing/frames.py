"""Frames for nodes, drawn at random: most of them nearly valid, since what is wrong in every field gets nowhere.

Each field is drawn by its name and its type as messages.py declares them, so a new message is drawn as soon as it is
declared. A field is mostly plausible (a number that the target waits for, a boot that is its own), now and then at an
edge of its type, and seldom of another type.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from meshcache.errors import ProtocolError
from meshcache.protocol import messages as m
from meshcache.protocol.clock import LEAD_MS_MAX
from meshcache.protocol.messages import KINDS, Change, Fact, Message
from meshcache.protocol.record import NEVER_MS, Extras, with_extras
from meshcache.protocol.wire import decode_frame

EDGES: Final = (
    -(1 << 63),
    -(1 << 31),
    -1,
    0,
    1,
    2,
    255,
    256,
    4096,
    4097,
    (1 << 31) - 1,
    1 << 32,
    (1 << 44) - 1,
    (1 << 48) - 1,
    1 << 52,
    1 << 53,
    (1 << 56) - 1,
    (1 << 62) - 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
KEYS: Final = [b"k%d" % i for i in range(24)]
TAGS: Final = [b"t1", b"t2", b"t3"]
ADDRESSES: Final = [f"127.0.0.{i}:{7000 + i}" for i in range(2, 9)]
ODD_TEXTS: Final = (
    "",
    "garbage",
    "h:0",
    "h:65536",
    "[::1]:1",
    "[::]:1",
    "0.0.0.0:1",
    "224.0.0.1:9",
    "a..b:1",
    "a" * 64 + ":1",
    "\0",
    "\x1b[2J",
    "é",
    "n" * 65,
    "x" * 2000,
    "::1:80",
    "localhost:1",
    "no.such.host.invalid:9",
)
_ACCUSERS: Final[tuple[list[str], ...]] = (*[[]] * 20, *[["n2"]] * 10, *[["n2", "n3"]] * 10, ["n2"] * 9)
DAMAGED: Final = 0.08
NOISE: Final = 0.04
EDGE: Final = 0.06
WRONG_TYPE: Final = 0.02


@dataclass(slots=True)
class Scene:
    """What the frames may refer to: what holds of the target just now."""

    wall_ms: int
    boot: int = 0
    view: bytes = b""
    waiting: list[tuple[str, int, type[Any]]] = field(default_factory=list)
    """Requests that the target has sent: to which address, their number, and the kind of the answer."""
    facts: list[Fact] = field(default_factory=list)
    pinged: list[int] = field(default_factory=list)


class Draw:
    """Draws frames from a source of random numbers."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    # Frames

    def frame(self, kinds: list[type[Message]], scene: Scene) -> bytes:
        """Return a frame with messages of some of these kinds, or what is left of one.

        None has a node leave, as anybody may ask where there are no keys: damage would make such a one now and then.
        """
        rng = self.rng
        while True:
            if rng.random() < NOISE:
                return self._noise()
            clock = 0 if rng.random() < 0.7 else self._clock(scene)
            messages = [self.message(rng.choice(kinds), scene) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
            frame = self.encoded(clock, messages)
            if not has_leave(frame):
                return frame

    def encoded(self, clock: Any, messages: list[list[Any]]) -> bytes:
        """Return a frame of messages in parts, perhaps damaged."""
        try:
            packed: bytes = msgpack.packb([clock, *messages])
        except (OverflowError, ValueError, TypeError):  # what no sender could encode either
            return b""
        return self._damaged(packed) if self.rng.random() < DAMAGED else packed

    def _noise(self) -> bytes:
        rng = self.rng
        if rng.random() < 0.5:
            return rng.randbytes(rng.randint(0, 60))
        packed: bytes = msgpack.packb([self._anything(3) for _ in range(rng.randint(0, 5))])
        return packed

    def _damaged(self, frame: bytes) -> bytes:
        rng, damaged = self.rng, bytearray(frame)
        how = rng.random()
        if how < 0.3:
            return bytes(damaged[: rng.randint(0, len(damaged))])
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(damaged))
            if how < 0.8:
                damaged[place] ^= 1 << rng.randrange(8)
            else:
                damaged[place : place + rng.randint(0, 8)] = rng.randbytes(rng.randint(0, 8))
            if not damaged:
                return b""
        return bytes(damaged)

    def _clock(self, scene: Scene) -> int:
        ahead_ms = self.rng.choice((-60_000, 0, LEAD_MS_MAX - 1, LEAD_MS_MAX, LEAD_MS_MAX + 1, 3_600_000))
        return self.rng.choice(((scene.wall_ms + ahead_ms) << 16, *EDGES))

    # Messages

    def message(self, kind: type[Message], scene: Scene) -> list[Any]:
        """Return a message of this kind, in parts."""
        names: tuple[str, ...] = kind._fields
        fields = [self.field(name, _declared(kind, name), scene) for name in names]
        self._align(kind, fields, scene)
        if self.rng.random() < WRONG_TYPE:
            fields[self.rng.randrange(len(fields)) :] = [self._anything(2)] if fields else []
        return [KINDS[kind], *fields]

    def field(self, name: str, kind: str, scene: Scene) -> Any:
        """Return a value for a field."""
        rng = self.rng
        chance = rng.random()
        if chance < WRONG_TYPE:
            return self._anything(2)
        by_name = _BY_NAME.get(name)
        if by_name is not None and chance > EDGE:
            return by_name(self, scene)
        return _BY_TYPE.get(kind, Draw._anything_of)(self, scene)

    def _align(self, kind: type[Message], fields: list[Any], scene: Scene) -> None:
        """Give lists that belong together one length, mostly."""
        if len(fields) < 2 or self.rng.random() < 0.05:
            return
        first, second = fields[-2:]
        if kind._fields[-1] in {"contents", "changes", "records", "versions", "digests"} and isinstance(first, list):
            kind_of = _declared(kind, kind._fields[-1])
            one = _ELEMENTS.get((kind._fields[-1], kind_of)) or _ELEMENTS[kind._fields[-1], ""]
            if isinstance(second, list):
                fields[-1] = [one(self, scene) for _ in first]

    def _anything_of(self, scene: Scene) -> Any:  # noqa: ARG002  (as all are called)
        return self._anything(2)

    def _anything(self, depth: int) -> Any:
        rng = self.rng
        choices: list[Callable[[], Any]] = [
            lambda: None,
            lambda: rng.random() < 0.5,
            lambda: rng.choice(EDGES),
            lambda: rng.choice((0.0, -1.0, float("inf"), float("nan"), 1e300)),
            lambda: rng.choice(ODD_TEXTS),
            lambda: rng.randbytes(rng.choice((0, 1, 8, 16, 24, 40))),
        ]
        if depth:
            choices += [
                lambda: [self._anything(depth - 1) for _ in range(rng.randint(0, 4))],
                lambda: {rng.choice(ODD_TEXTS): self._anything(depth - 1) for _ in range(rng.randint(0, 3))},
            ]
        return rng.choice(choices)()

    # Fields

    def number(self, scene: Scene) -> int:
        """Return a number at an edge, or a small one."""
        rng = self.rng
        return rng.choice((rng.randint(0, 64), rng.choice(EDGES), *[n for _, n, _ in scene.waiting[-3:]]))

    def deadline_ms(self, scene: Scene) -> int:
        """Return a deadline that is yet to come, mostly."""
        return scene.wall_ms + self.rng.choice((1, 100, 5000, 5000, 5000, 1 << 40))

    def request(self, scene: Scene) -> int:
        """Return the number of something that the target waits for, or any."""
        return self.rng.choice([n for _, n, _ in scene.waiting] or [self.rng.randint(0, 99)])

    def version(self, scene: Scene) -> bytes:
        """Return a version: of now, at the edge of what can be, or beyond."""
        rng = self.rng
        ahead_ms = rng.choice((-600_000, -10_000, 0, 0, 0, LEAD_MS_MAX - 100, LEAD_MS_MAX + 100, 1 << 40))
        clock = ((scene.wall_ms + ahead_ms) << 16 | rng.choice((0, 1, 0xFFFF))) & ((1 << 64) - 1)
        plausible = clock.to_bytes(8, "big") + rng.choice((bytes(8), b"\xff" * 8, rng.randbytes(8)))
        return rng.choice((plausible,) * 6 + (b"\xff" * 16, bytes(16), rng.randbytes(16)))

    def content(self, scene: Scene) -> bytes:  # noqa: ARG002  (as all are called)
        """Return flags and a value, perhaps with extras."""
        rng = self.rng
        values = (b"", b"7", b"-1", b"v" * 40, b"\xff" * 9)
        plain = rng.choice((b"\0\0", b"\0\1", b"\0\2", b"\0\xff")) + rng.choice(values)
        how = rng.random()
        if how < 0.7:
            return plain
        if how < 0.9:
            tags = tuple(rng.sample(TAGS, rng.randint(1, 3)))
            return with_extras(plain, Extras(tags=tags, load_ms=rng.choice((None, 5))))
        return rng.choice((b"\1", b"\2", b"\3", b"\x80")) + rng.randbytes(rng.randint(0, 12))

    def record(self, scene: Scene) -> bytes:
        """Return what a replica could hold, nearly."""
        rng = self.rng
        expires_ms = rng.choice((NEVER_MS, scene.wall_ms + 200, scene.wall_ms + 60_000, scene.wall_ms - 1, 0))
        flags = rng.choice((b"\1\0", b"")) or self.content(scene)
        return self.version(scene) + expires_ms.to_bytes(6, "big") + flags

    def record_or_none(self, scene: Scene) -> bytes | None:
        """Return a record, or that there is none."""
        return None if self.rng.random() < 0.3 else self.record(scene)

    def keys(self, scene: Scene) -> list[bytes]:  # noqa: ARG002  (as all are called)
        """Return some keys; seldom many, or odd ones."""
        rng = self.rng
        if rng.random() < 0.03:
            return [rng.choice((b"", b"k" * 1024, b"k" * 1025, b"\0"))] * rng.choice((1, 2, 4096, 4097))
        return [rng.choice(KEYS) for _ in range(rng.choice((1, 1, 2, 5, 0)))]

    def change(self, scene: Scene) -> list[Any]:
        """Return one change of an UPDATE."""
        rng = self.rng
        ttl_ms = rng.choice((m.TTL_DEFAULT, m.TTL_NEVER, 1, 1000, *EDGES))
        token = rng.choice((b"", b"token", rng.randbytes(16), m.LEASE_ALWAYS, self.version(scene)))
        kind = rng.choice([*Change, 0, 99])
        arguments: dict[int, list[Any]] = {
            Change.ADD: [self.content(scene), ttl_ms],
            Change.REPLACE: [self.content(scene), ttl_ms],
            Change.CAS: [self.content(scene), ttl_ms, token],
            Change.INCR: [rng.choice(EDGES), rng.choice((None, *EDGES)), ttl_ms],
            Change.TOUCH: [ttl_ms],
            Change.LEASE: [rng.choice((0, 1, 1000, *EDGES)), token, rng.choice((b"me", b"you"))],
            Change.FILL: [self.content(scene), ttl_ms, token],
            Change.HOLD: [rng.choice((0, 1)), token],
            Change.DROP: [token],
        }
        return [int(kind), *arguments.get(kind, [])]

    def fact(self, scene: Scene) -> list[Any]:
        """Return what is said of a member: the target, one that it knows, or a new one."""
        rng = self.rng
        known = list(rng.choice(scene.facts)) if scene.facts and rng.random() < 0.7 else None
        number = rng.randint(2, 40)
        said: list[Any] = known or [
            f"n{number}",
            rng.choice(ADDRESSES),
            rng.choice(("", "127.0.0.1:9")),
            "",
            "h",
            "",
            1.0,
            (scene.wall_ms << 16) + number,
            scene.wall_ms << 8,
            0,
            b"",
        ]
        for _ in range(rng.choice((0, 1, 1, 2))):
            place = rng.randrange(len(said))
            said[place] = self._fact_field(place, said[place], scene)
        return said

    def _fact_field(self, place: int, value: Any, scene: Scene) -> Any:
        rng = self.rng
        if rng.random() < 0.03 or not isinstance(value, str | float | bytes | int):
            return self._anything(1)
        if isinstance(value, str):
            return rng.choice((rng.choice(ODD_TEXTS), rng.choice(ADDRESSES), f"n{rng.randint(1, 40)}"))
        if isinstance(value, float):
            return rng.choice((0.0, 0.5, 1, 100.0, 1000.0, 1e9, -1.0, float("nan"), float("inf")))
        if isinstance(value, bytes):
            return rng.choice((b"", scene.view, rng.randbytes(8), rng.randbytes(9)))
        if place == Fact._fields.index("state"):
            return rng.choice((0, 1, 2, 3, 4, -1))
        return rng.choice((value + 1, value + 256, value - 1, (scene.wall_ms + LEAD_MS_MAX) << 8, *EDGES))

    def results(self, scene: Scene) -> Any:
        """Return what an UPDATE or INSPECT that was passed on may bring back, or what may not be."""
        record, version = self.record(scene), self.version(scene)
        return self.rng.choice((None, [None], [True], [1], [record], [version], [[3]], [{}], [self._anything(3)], []))

    def rumours(self, scene: Scene) -> list[Any]:
        """Return rumours: a few mostly, seldom very many."""
        rng = self.rng
        count = rng.choice((0, 1, 1, 1, 2, 3, 10)) if rng.random() < 0.99 else rng.choice((400, 1024, 1025))
        return [[self.fact(scene), rng.choice(_ACCUSERS)] for _ in range(count)]


Field = Callable[[Draw, Scene], Any]


def _declared(kind: type[Message], name: str) -> str:
    """Return the type of a field as it is written in messages.py."""
    declared = kind.__annotations__[name]
    return str(getattr(declared, "__forward_arg__", declared))


def _any_of(*choices: Any) -> Field:
    return lambda draw, _: draw.rng.choice(choices)


def _some_of(choices: tuple[Any, ...], counts: tuple[int, ...]) -> Field:
    return lambda draw, _: [draw.rng.choice(choices) for _ in range(draw.rng.choice(counts))]


def _lists_of(counts: tuple[int, ...], *parts: Field) -> Field:
    """Draw a list of lists with these parts."""

    def draw_lists(draw: Draw, scene: Scene) -> list[list[Any]]:
        return [[part(draw, scene) for part in parts] for _ in range(draw.rng.choice(counts))]

    return draw_lists


SETTINGS: Final = {"slots": 64, "vnodes": 8, "replicas": 2}
_NODE_IDS: Final = _any_of(*[f"n{number}" for number in range(1, 9)])
_LEVELS: Final = _any_of(0, 0, 0, -1, -2, -3, 1, 2, 3)
_INDICES: Final = _some_of((0, 1, -1, 1 << 40), (0, 0, 1))

_BY_NAME: Final[dict[str, Field]] = {
    "request": Draw.request,
    "boot": lambda draw, scene: draw.rng.choice((scene.boot,) * 9 + (1,)),
    "deadline_ms": Draw.deadline_ms,
    "wall_ms": lambda draw, scene: scene.wall_ms + draw.rng.choice((0, 0, 0, -100, 5000)),
    "view": lambda draw, scene: draw.rng.choice((scene.view, scene.view, b"", draw.rng.randbytes(8))),
    "facts": _any_of(b"", b"digests!"),
    "sequence": lambda draw, scene: draw.rng.choice(scene.pinged[-20:] or [draw.rng.randint(0, 99)]),
    "protocol": _any_of(*[m.PROTOCOL] * 9, m.PROTOCOL + 2),
    "cluster": _any_of(*["meshcache"] * 9, ""),
    "node_id": _NODE_IDS,
    "target": _NODE_IDS,
    "w": _LEVELS,
    "r": _LEVELS,
    "hops": _any_of(0, 0, 1),
    "what": _any_of("view", "status", "stats", "hot", "explain", "replica", "x"),
    "key": _any_of(*KEYS),
    "prefix": _any_of(b"", b"k", b"k1", b"zzz", b"p" * 1025),
    "cursor": _any_of(b"", b"\4k", *KEYS[:4]),
    "version": Draw.version,
    "tags": _some_of(tuple(TAGS), (0, 1, 3)),
    "slots": _some_of((0, 1, 2, 63, 64, -1), (0, 1, 8, 70)),
    "voteless": _INDICES,
    "live": _INDICES,
    "newer": _lists_of((0, 0, 1, 2), _any_of(0, 1, -1, 9), Draw.version),
    "finished": _any_of(0, 1, 64, -1, 1 << 40),
    "dropped": _any_of(0, 1, (1 << 62) - 1),
    "error": _any_of([], [3], [4], [5, "text"], [4.0], [[4]], ["x"]),
    "settings": _any_of(*[SETTINGS] * 9, {}),
    "events": _lists_of((0, 1, 3), _any_of(1, 2, 3, 4, 5, 99), Draw.version, Draw.keys),
    "floors": _lists_of((0, 1, 3), _any_of(0, 4, 5), _any_of(b"", b"k", b"t1", b"\0\1"), Draw.version),
    "results": Draw.results,
    "members": lambda draw, scene: [draw.fact(scene) for _ in range(draw.rng.choice((0, 1, 3, 8)))],
    "member": lambda draw, scene: draw.rng.choice((None, draw.fact(scene))),
    "records": lambda draw, scene: [draw.record_or_none(scene) for _ in range(draw.rng.choice((0, 1, 2)))],
}
"""What is plausible, by the name of the field."""

_BY_TYPE: Final[dict[str, Field]] = {
    "int": Draw.number,
    "bool": _any_of(False, True),
    "bytes": _any_of(b"", b"8 bytes!", b"9 bytes!!", b"x" * 2000),
    "str": _any_of(*ODD_TEXTS),
    "list[bytes]": Draw.keys,
    "list[Rumour]": Draw.rumours,
    "Fact | None": Draw.fact,
    "list[list[Any]]": lambda draw, scene: [draw.change(scene) for _ in range(draw.rng.choice((0, 1, 1, 2)))],
    "list[Fact]": lambda draw, scene: [draw.fact(scene)] * draw.rng.choice((1, 2, 1025)),
    "list[int]": _some_of(EDGES, (0, 1, 5)),
}
"""Edges, by the declared type of the field."""

_ELEMENTS: Final[dict[tuple[str, str], Field]] = {
    ("contents", ""): Draw.content,
    ("changes", ""): Draw.change,
    ("records", ""): Draw.record,
    ("records", "list[bytes | None]"): Draw.record_or_none,
    ("versions", ""): Draw.version,
    ("digests", ""): _any_of(b"", b"digests!"),
}
"""Of lists that go with a list of keys, by name, and type where it matters."""


def has_leave(frame: bytes) -> bool:
    """Tell whether a frame has a node leave."""
    try:
        return any(isinstance(message, m.Leave) for message in decode_frame(frame)[1])
    except ProtocolError:
        return False
