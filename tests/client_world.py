"""A client's policy without sockets: a session on a virtual clock, and outcomes that a test chooses."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from meshcache.client.arguments import DEFAULT
from meshcache.client.connection import Call
from meshcache.client.delivery import Board
from meshcache.client.failure import NO_REPLY
from meshcache.client.flights import Flights
from meshcache.client.session import begin
from meshcache.protocol.messages import Fact, Get, Inspect, Set, Welcome
from meshcache.protocol.record import NEVER_MS, stamp

SETTINGS: dict[str, int | float | str] = {
    "slots": 64,
    "vnodes": 8,
    "replicas": 2,
    "value_bytes_max": 1000,
    "reply_bytes_max": 10_000,
    "request_bytes_max": 4000,
}
Answer = Callable[[Call], Any]


def fact(i: int, state: int = 0, boot: int = 7) -> Fact:
    return Fact(f"n{i}", f"127.0.0.1:710{i}", "", "", "", "", 1.0, boot, 0, state)


def record(content: bytes = b"\0\1v", expires_ms: int = NEVER_MS) -> bytes:
    return stamp(b"v" * 16, expires_ms) + content


def welcome(*facts: Fact, wall_ms: int = 1_000_000) -> Welcome:
    return Welcome(7, wall_ms, "n1", SETTINGS, list(facts))


class World:
    """A session, a clock, and a driver that asks ``answer`` for the outcome of each call."""

    def __init__(self, nodes: int = 3, *, known: bool = True, **options: Any) -> None:
        self.now = 100.0
        arguments: dict[str, Any] = {
            "timeout": 5.0,
            "ttl": DEFAULT,
            "consistency": None,
            "codec": None,
            "namespace": "",
            "cluster": "",
        }
        self.session = begin("127.0.0.1:7101", **(arguments | options), clock=lambda: self.now)
        self.routing = self.session.routing
        self.session.rng = random.Random(1)
        self.flights = Flights(nullcontext())
        self.steps: list[list[Call]] = []
        self.pauses: list[float] = []
        if known:
            self.greet(*[fact(i + 1) for i in range(nodes)])

    @property
    def calls(self) -> list[Call]:
        return [call for step in self.steps for call in step]

    @property
    def data_calls(self) -> list[Call]:
        return [call for call in self.calls if call.request.kind is not Inspect]

    def greet(self, *facts: Fact) -> None:
        greeting = welcome(*facts)
        self.routing.welcome(facts[0].address, greeting, greeting.wall_ms - self.now * 1000, self.now)

    def run(self, flow: Any, answer: Answer) -> Any:
        sent: Any = None
        while True:
            try:
                step = flow.send(sent)
            except StopIteration as stop:
                return stop.value
            if isinstance(step, Board):
                sent = self.flights.board(step.seat, step.key)
                continue
            if isinstance(step, float):
                self.pauses.append(step)
                self.now += step
                sent = None
                continue
            self.steps.append(step)
            sent = [answer(call) for call in step]
            late = [call.deadline(self.now) for call, outcome in zip(step, sent, strict=True) if outcome is NO_REPLY]
            self.now = max([self.now + 0.001, *late])

    def owners(self, key: bytes) -> list[str]:
        return [self.routing.address_of(node) or "" for node in self.routing.ring.preference_list(key)]


def hits(call: Call) -> Any:
    if call.request.kind is Inspect:
        return [{"members": [list(fact(i)) for i in (1, 2, 3)]}]
    if call.request.kind is Get:
        return [record() for _ in call.request.keys]
    return [None if call.request.kind is Set else True for _ in call.request.keys]
