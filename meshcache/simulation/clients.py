"""The third driver of session.py's flows, beside blocking and asyncio: lines of the virtual network, virtual time.

It also notes what a checker must know and a caller is not told: whether an attempt that brought no answer may have been
executed nevertheless. If so, the outcome of the operation is open, even if a later attempt succeeded.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, NamedTuple

from meshcache.client.arguments import MISSING, levels
from meshcache.client.codec import Codec
from meshcache.client.connection import GREETING, Call, Connection, Outcome
from meshcache.client.delivery import Apart, Board, Compute, Flow, Halt, Hedged, Wait
from meshcache.client.failure import CONNECTION_LOST, NO_GREETING, NO_REPLY, NOT_CONNECTED, Failure
from meshcache.client.flights import Flights
from meshcache.client.options import Options
from meshcache.client.routing import Routing
from meshcache.client.session import Session
from meshcache.client.streams import TICK_S, StreamIntake
from meshcache.errors import ProtocolError
from meshcache.protocol.messages import TTL_NEVER, Code, Get, Inspect, Welcome
from meshcache.protocol.near_store import NearCache, NearStore
from meshcache.simulation.network import Line, Network
from meshcache.simulation.world import World

Report = Callable[[Any], None]
Done = Callable[[Any, Any, bool], None]

CALL_SLACK_S: Final = 0.001
"""An attempt ends so long after its deadline, as with a real socket's timeout."""


class Cancelled(BaseException):
    """Raised in a cancelled caller, as asyncio does."""


class Loader(NamedTuple):
    """A simulated function that computes a value: it reads its source at once, and takes a while."""

    read: Callable[[], Any]
    seconds: float


class _Waiting:
    """A call under way."""

    __slots__ = ("call", "deadline", "done", "number", "report")

    def __init__(self, call: Call, report: Report, now: float) -> None:
        self.call = call
        self.deadline = call.deadline(now)
        self.report = report
        self.number = GREETING
        self.done = False

    def finish(self, outcome: Outcome) -> None:
        if not self.done:
            self.done = True
            self.report(outcome)


class _Wire:
    """A line, the protocol's side of it, and the calls that wait on it."""

    def __init__(self, line: Line, connection: Connection) -> None:
        self.line = line
        self.connection = connection
        self.to_send: list[_Waiting] = []
        self.sent: dict[int, _Waiting] = {}


class ClientHost:
    """A process with one client."""

    between_nodes = False

    def __init__(
        self,
        world: World,
        network: Network,
        name: str,
        seeds: tuple[str, ...],
        *,
        timeout_s: float = 2.0,
        consistency: Any = None,
        stray: float = 0.0,
        near_cache: NearCache | None = None,
        hedge: bool = False,
    ) -> None:
        self.world = world
        self.network = network
        self.name = name
        self.routing_id = b""
        """The routing id of the line that was opened last: every socket has an id of its own."""
        rng = random.Random(world.rng.getrandbits(32))
        w, r = levels(consistency)
        options = Options(prefix=b"", timeout_s=timeout_s, ttl_ms=TTL_NEVER, w=w, r=r, codec=Codec(), hedge=hedge)
        near = None if near_cache is None else NearStore(near_cache)
        self.session = Session(Routing(seeds, lambda: world.now), rng, options, near=near)
        self.stray = stray
        """How often a call goes to any node instead of the one that the session chose: every node must serve it."""
        self.killed = False
        """Whether the process was killed: then its loaders never end, and their leases are not renewed."""
        self.flights = Flights(nullcontext())
        self._seeds = seeds
        self._wires: dict[str, _Wire] = {}
        self._sockets = 0
        self.lives = 0
        """How often everything under way was given up."""
        self.intake: StreamIntake | None = None
        if near is not None:
            self.intake = StreamIntake(self.session.routing, near)
            self.session.routing.on_members = self.intake.on_members
            self._follow(self.intake)

    # The invalidation streams

    def on_stream(self, frame: bytes) -> None:
        """See network.Subscriber."""
        assert self.intake is not None
        self.intake.receive(frame, self.world.now)

    def _follow(self, intake: StreamIntake) -> None:
        """Do what is due for the streams, and again after a moment."""
        for call in intake.tick(self.world.now):
            self._post(_Waiting(call, partial(intake.learn, call), self.world.now))
        self.network.subscribe(self, intake.addresses())
        self.world.after(TICK_S, self._follow, intake)

    # Flows

    def run(self, flow: Flow[Any], done: Done) -> Callable[[BaseException], None]:
        """Run a flow. ``done`` gets its result, its error, and whether a failed attempt may have been executed.

        Returns a function that interrupts the flow.
        """
        run = _Run(self, flow, done)
        run.begin()
        return run.interrupt

    def get(self, key: str, timeout_s: float | None) -> Flow[Any]:
        """Return the flow of a get, which looks for a copy first, as the drivers do."""
        copies = self.session.copies
        value = MISSING if copies is None else copies.value(key)
        return value if value is not MISSING else (yield from self.session.get(key, None, timeout_s))

    def abandon(self) -> None:
        """Give up everything under way, like a process that ends: nobody waits for the outcomes or hears of them."""
        self.lives += 1
        self.flights = Flights(nullcontext())
        wires, self._wires = list(self._wires.values()), {}
        for wire in wires:
            wire.line.close()
            for waiting in [*wire.to_send, *wire.sent.values()]:
                waiting.done = True

    def exchange(self, calls: list[Call], done: Callable[[list[Any]], None]) -> None:
        """Carry out the calls of one step."""
        outcomes: list[Any] = [None] * len(calls)
        missing = len(calls)

        def reporter(i: int) -> Report:
            def report(outcome: Any) -> None:
                nonlocal missing
                outcomes[i] = outcome
                missing -= 1
                if not missing:
                    done(outcomes)

            return report

        rng = self.world.rng
        for i, call in enumerate(calls):
            if self.stray and rng.random() < self.stray:
                call.address = rng.choice(self._seeds)
            self._post(_Waiting(call, reporter(i), self.world.now))

    # Calls

    def _post(self, waiting: _Waiting) -> None:
        address = waiting.call.address
        wire = self._wires.get(address)
        if wire is None:
            self._sockets += 1
            self.routing_id = b"\x02%b %d" % (self.name.encode(), self._sockets)
            wire = _Wire(self.network.dial(self, address), self.session.connection(address))
            self._wires[address] = wire
        elif wire.connection.wants_greeting and wire.line.up:
            wire.line.send(wire.connection.hello())
        self.world.at(waiting.deadline + CALL_SLACK_S, self._on_deadline, wire, waiting)
        if wire.connection.ready:
            self._send(wire, waiting)
        else:
            wire.to_send.append(waiting)

    def _send(self, wire: _Wire, waiting: _Waiting) -> None:
        if waiting.done:
            return
        waiting.number, frame = wire.connection.encode(waiting.call, waiting.deadline)
        if wire.line.send(frame):
            wire.sent[waiting.number] = waiting
        else:
            waiting.finish(NOT_CONNECTED)

    def _on_deadline(self, wire: _Wire, waiting: _Waiting) -> None:
        if waiting.done:
            return
        if waiting.number == GREETING:
            wire.to_send = [other for other in wire.to_send if other is not waiting]
            self._drop(wire)
            waiting.finish(NO_GREETING)
        else:
            wire.sent.pop(waiting.number, None)
            wire.connection.forget(waiting.number)
            waiting.finish(NO_REPLY)
            if wire.connection.is_stuck:
                self._drop(wire)

    def _drop(self, wire: _Wire) -> None:
        address = wire.connection.address
        if self._wires.get(address) is wire:
            del self._wires[address]
        wire.line.close()
        sent, wire.sent = wire.sent, {}
        to_send, wire.to_send = wire.to_send, []
        for waiting in sent.values():
            waiting.finish(CONNECTION_LOST)
        for waiting in to_send:
            waiting.finish(NOT_CONNECTED)

    # What the network calls

    def on_up(self, address: str) -> None:
        """See network.Dialler."""
        wire = self._wires[address]
        wire.line.send(wire.connection.hello())

    def on_down(self, address: str) -> None:
        """See network.Dialler."""
        self._drop(self._wires[address])

    def on_refused(self, address: str) -> None:
        """See network.Dialler."""
        self._drop(self._wires[address])

    def on_answer(self, address: str, frame: bytes) -> None:
        """See network.Dialler."""
        wire = self._wires[address]
        for number, outcome in wire.connection.accept(frame):
            if isinstance(outcome, Welcome):
                to_send, wire.to_send = wire.to_send, []
                for waiting in to_send:
                    self._send(wire, waiting)
            elif number == GREETING:
                raise ProtocolError(f"{self.name} was refused: {outcome}")
            else:
                waited = wire.sent.pop(number, None)
                if waited is not None:
                    waited.finish(outcome)


class _Run:
    """One flow under way."""

    def __init__(self, client: ClientHost, flow: Flow[Any], done: Done) -> None:
        self.client = client
        self.flow = flow
        self.done = done
        self.open = False
        self.life = client.lives
        self.failed = False
        """Whether an attempt brought no answer."""
        self._steps = 0
        """How many steps were begun: the result of an earlier step is late."""

    def begin(self) -> None:
        """Carry out the first step."""
        self._go_on(self.flow.send, None)

    def interrupt(self, error: BaseException) -> None:
        """Let the step under way fail, as when a task is cancelled."""
        self._go_on(self.flow.throw, error)

    def _go_on(self, how: Callable[[Any], Any], what: Any) -> None:
        """Give the flow the result of its last step, and carry out the next step."""
        if self.life != self.client.lives:
            return
        self._steps += 1
        try:
            step = how(what)
        except StopIteration as stop:
            self.done(stop.value, None, self.open)
        except (Exception, Cancelled) as error:  # noqa: BLE001  (an answer of the operation, like its value)
            self.done(None, error, self.open)
        else:
            self._carry_out(step, self._resumer())

    def _resumer(self) -> Report:
        steps = self._steps

        def resume(outcome: Any) -> None:
            if self._steps == steps:
                self._go_on(self.flow.send, outcome)

        return resume

    def _carry_out(self, step: Any, resume: Report) -> None:
        client, world = self.client, self.client.world
        match step:
            case float():
                world.after(step, resume, None)
            case Hedged():
                self._hedge(step, resume)
            case list():
                if self.failed:
                    world.tally("retry")
                client.exchange(step, partial(self._on_outcomes, step, resume))
            case Board():
                resume(client.flights.board(step.seat, step.key))
            case Wait():
                step.seat.wake = lambda: world.after(0.0, resume, None)
                world.after(0.0 if step.seat.told else step.seconds, resume, None)
            case Apart():
                self._apart(step, resume)
            case Halt():
                step.flight.load.interrupt(Cancelled())
                resume(None)
            case Compute():
                self._compute(step, resume)
            case _:
                raise TypeError(f"a simulated client has no program that could carry out {step!r}")

    def _hedge(self, step: Hedged, resume: Report) -> None:
        """Make a call, and after a while another one for the same; go on with the first answer."""
        client, under_way = self.client, list(step)

        def report(call: Call, outcomes: list[Any]) -> None:
            under_way.remove(call)
            if isinstance(outcomes[0], list) or not under_way:
                step.winner = call
                self._on_outcomes([call], resume, outcomes)

        def ask_other() -> None:
            other = step.other(lambda _: True) if under_way else None
            if other is not None:
                under_way.append(other)
                client.exchange([other], partial(report, other))

        client.exchange(list(step), partial(report, step[0]))
        if not math.isinf(step.after_s):
            client.world.after(step.after_s, ask_other)

    def _apart(self, step: Apart, resume: Report) -> None:
        def done(loaded: Any, error: BaseException | None, is_open: bool) -> None:
            self.open = self.open or is_open
            if error is not None:
                raise error
            resume(loaded)

        step.flight.load = _Run(self.client, step.flow, done)
        step.flight.load.begin()

    def _compute(self, step: Compute, resume: Report) -> None:
        """Run a loader, which reads its source at once.

        If the process is killed meanwhile, it neither ends nor is renewed.
        """
        client, world, steps = self.client, self.client.world, self._steps
        assert isinstance(step.load, Loader)
        value: Any = None
        failure: Exception | None = None
        try:
            value = step.load.read()
        except Exception as error:  # noqa: BLE001  (of whatever kind: it is for who asked)
            failure = error

        def loaded() -> None:
            if client.killed or self._steps != steps:
                return
            if failure is None:
                resume(value)
            else:
                self.interrupt(failure)

        def renew() -> None:
            if not client.killed and self._steps == steps:
                _Run(client, step.renew(), again).begin()

        def again(keep: Any, error: BaseException | None, is_open: bool) -> None:  # noqa: ARG001  (as it is called)
            if keep:
                world.after(step.every_s, renew)

        world.after(step.load.seconds, loaded)
        world.after(step.every_s, renew)

    def _on_outcomes(self, calls: list[Call], resume: Report, outcomes: list[Any]) -> None:
        self.failed = any(isinstance(outcome, Failure) for outcome in outcomes)
        for call, outcome in zip(calls, outcomes, strict=True):
            if call.request.kind not in {Get, Inspect} and _may_be_executed(outcome):
                self.open = True
        resume(outcomes)


def _may_be_executed(outcome: Any) -> bool:
    if isinstance(outcome, Failure):
        return outcome.sent
    return isinstance(outcome, list) and any(
        isinstance(result, list) and result[:1] == [int(Code.QUORUM)] for result in outcome
    )
