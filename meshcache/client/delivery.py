"""Getting keys to nodes that serve them: failover, retry and deadlines, for operations on one key or thousands.

A flow is a generator that yields steps and is sent their results; a driver carries the steps out::

    list[Call]   requests to run in parallel    -> a list of outcomes, aligned
    float        a pause in seconds             -> None
    Hedged       one request, and the same to another node if the first takes long -> the outcome that came first
    Parking      the same as a list, but the node may keep the answer back until there is something to say
    Board        take a seat in a flight        -> the table of flights
    Wait         until the seat's caller is told -> None
    Apart        run a flow that goes on when its caller is cancelled, as long as others wait -> its value
    Halt         cancel such a flow             -> None
    Compute      call the caller's function     -> its value

An error while a step is carried out is raised in the flow, also when the caller is cancelled or its thread is
interrupted. The flow may then yield more steps, to clean up; but none on GeneratorExit, because nothing can be waited
for then.

Each round sends every pending key to the best node not yet tried, at most one call a node. Keys whose call failed are
pending again, and that node is avoided until all were tried; then comes a short pause and all are tried again, until
the deadline. A request that may have been executed is repeated only if that is harmless. Retries are bounded beyond
one call: retries.py says how.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Hashable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar
from zlib import crc32

from meshcache.client.connection import Call, Outcome, Request, Unsendable
from meshcache.client.failure import DENIED, WRONG_CLUSTER, Failure
from meshcache.client.flights import Flight, Seat
from meshcache.client.parts import parts_of, value_bytes, weight_of
from meshcache.client.retries import retry_after_s
from meshcache.client.routing import Routing, parse_members
from meshcache.errors import (
    AuthFailed,
    ConfigError,
    KeyMissing,
    MeshcacheError,
    NodeUnavailable,
    NotANumber,
    OperationError,
    OperationTimeout,
    Overloaded,
    ProtocolError,
    QuorumNotReached,
    SerializationError,
    ValueTooLarge,
)
from meshcache.protocol.messages import Code, Get, Inspect, Reject, Set

ATTEMPT_S: Final = 0.25
"""How long an attempt may take, unless a tenth of the whole timeout is longer …"""
S_PER_MIB: Final = 0.1
"""… and how much longer for each MiB."""
UNREACHABLE_S: Final = 2.0
"""After this time without reaching any node, waiting for the deadline is useless."""
PAUSE_MIN_S: Final = 0.005
PAUSE_MAX_S: Final = 0.1
LAG_PAUSES: Final = 3
ALLOWANCE_S_MIN: Final = 0.001
VIEW: Final = ("view", b"")
"""The options of an INSPECT that asks for the members."""


class Parking(list[Call]):
    """Step: calls whose answers may take long, so that other calls must not wait for them."""


class Hedged(list[Call]):
    """Step: one call, and another for the same if it has no outcome after a while. The first answer counts."""

    def __init__(self, call: Call, other: Callable[[Callable[[str], bool]], Call | None], after_s: float) -> None:
        """``other`` returns the second call when it is to be made, or None if it may not be.

        It is given a function that tells whether an address can be asked without delay.
        """
        super().__init__([call])
        self.other = other
        self.after_s = after_s
        self.winner = call
        """The call whose outcome it was. Drivers set it."""


class Board(NamedTuple):
    """Step: take a seat in the flight for a key; see flights.py."""

    seat: Seat
    key: Hashable


class Wait(NamedTuple):
    """Step: wait until the caller in this seat is told, but not longer than this."""

    seat: Seat
    seconds: float


class Apart(NamedTuple):
    """Step: run a flow apart from its caller; while it runs it is the flight's ``load``.

    The step returns None in a driver whose callers cannot be cancelled: then the flow goes on by itself.
    """

    flow: Flow[Any]
    flight: Flight


class Halt(NamedTuple):
    """Step: cancel a flow that runs apart, and wait for its end, but not longer than this."""

    flight: Flight
    seconds: float


class Compute(NamedTuple):
    """Step: have a value computed by the caller's program."""

    load: Any
    """The value, or a function of no argument that returns it."""
    renew: Callable[[], Flow[bool]]
    """The flow to run every ``every_s`` while the value is computed, until it returns False."""
    every_s: float


Step = list[Call] | float | Board | Wait | Apart | Halt | Compute
T = TypeVar("T")
Flow = Generator[Step, Any, T]


def allowance_s(timeout_s: float, size: int) -> float:
    """Return how long an attempt may take that can be repeated."""
    return min(timeout_s, max(ATTEMPT_S, timeout_s / 10) + (size >> 20) * S_PER_MIB)


def within(allowance: float, left_s: float) -> float:
    """Return an allowance that fits into the time left, halved as needed: calls of equal ones may share a message."""
    while allowance > left_s and allowance > ALLOWANCE_S_MIN:
        allowance /= 2
    return allowance


def pause_s(rng: random.Random, attempt: int, lag_s: float = 0.0) -> float:
    """Return how long to wait before the next attempt: at random up to a limit, so that clients do not return together.

    ``lag_s``: the later this program does what is due, the longer the pause, so that many callers leave it time to
    work.
    """
    pause = rng.uniform(PAUSE_MIN_S / 2, min(PAUSE_MAX_S, PAUSE_MIN_S * 2**attempt))
    return pause + rng.uniform(1, LAG_PAUSES) * lag_s


def look_up(routing: Routing, now: float, allowance: float) -> list[Call]:
    """Do what is due in the routing; return the request for the members, if one is due."""
    if now < routing.due:
        return []
    due = routing.take_refresh(now)
    routing.review(now)
    address = routing.whom_to_refresh(now) if due else None
    if address is None:
        return []
    return [Call(address, Request("look up", Inspect, VIEW, [], []), now + allowance, allowance)]


def learn(routing: Routing, call: Call, outcome: Outcome) -> None:
    """Take in the outcome of a request for the members."""
    now = routing.clock()
    if type(outcome) is list:
        # The node is alive, and perhaps only waits for others that are not: do not ask those next.
        routing.woke(call.address)
        routing.succeeded(call.address, call.until - call.allowance_s)
        members = parse_members(outcome)
        if members:
            routing.learn(members, now)
    elif type(outcome) is Failure and outcome.blame:
        note_failure(routing, call.address, outcome)


def note_failure(routing: Routing, address: str, failure: Failure) -> None:
    """Take in that a node did not answer."""
    now = routing.clock()
    if failure.shut:
        routing.rests.begin(address, failure, now)
    else:
        routing.rests.end(address, shut_only=True)  # the node at least accepts connections
    routing.failed(address, now)


class Delivery:
    """One operation while it is delivered.

    ``results`` are in the order of its keys; ``errors`` has final failures by index.
    """

    def __init__(
        self,
        routing: Routing,
        rng: random.Random,
        request: Request,
        started: float,
        timeout_s: float,
        node: str | None = None,
        park_s: float = 0.0,
    ) -> None:
        """Without keys it is one request, to any node. ``node``: only to this address.

        ``park_s``: how long a node may keep its answer back.
        """
        self.results: list[Any] = [None] * (len(request.keys) or 1)
        self.errors: dict[int, Exception] = {}
        self._routing = routing
        self._rng = rng
        self._request = request
        self._deadline = started + timeout_s
        self._timeout_s = timeout_s
        self._node = node
        self._park_s = park_s
        self._pending = list(range(len(self.results)))
        self._started = self._asked_at = started
        self._avoid: set[str] = set()
        self._greeted_again: set[str] = set()
        self._has_asked = False
        self._reached = False
        self._late = False
        """Whether some node took longer than it had: it may be slow only, and answer later."""
        self._short = False
        """Whether this process lacks the means to connect: if no connection is left to try, waiting is useless."""
        self._quorum_missing = False
        self._attempt = 0
        self._patience = 1
        self._notes: dict[int, Exception] = {}
        self._whys: dict[str, str] = {}
        self._last: Failure | Reject | None = None
        self._retry_after_s: float | None = None
        """What the node said that was overloaded last."""
        self._value_bytes = routing.value_bytes if request.kind is Get and len(request.keys) > 1 else 0
        """How long a value is expected to be; 0: not known, or short."""
        self._charged: set[int] = set()
        """Indices of pending keys whose next attempt is charged to the client's retries."""
        self._may_be_applied = False
        """Whether an attempt may have been executed that brought no answer."""

    def resume(self, call: Call, indices: Sequence[int], outcome: Outcome) -> None:
        """Take in an attempt at these keys that was made before."""
        self._has_asked = True
        tried = set(indices).difference(self._accept(call, list(indices), outcome))
        self._pending = [i for i in self._pending if i not in tried]

    def run(self) -> Flow[None]:
        """Deliver all keys that are pending."""
        return self.run_until(lambda: not self._pending)

    def run_until(self, done: Callable[[], bool]) -> Flow[None]:
        """Deliver the pending keys, or stop when ``done`` says that this is no longer needed."""
        routing = self._routing
        while not done():
            if self._quorum_missing:
                self._quorum_missing = False
                yield self._pause(routing.clock())
            self._asked_at = now = routing.clock()
            refresh = self._look_up(now)
            plan = self._plan(now) if now < self._deadline else []
            if not plan:
                if now >= self._deadline or self._short or self._is_hopeless(now):
                    if not self._has_asked:  # a task that only tries again must not keep its loop from other work
                        yield 0.0
                    self._give_up(now)
                    return
                self._avoid.clear()
                if self._late:  # perhaps all nodes are slow; the silence of one says nothing about the next
                    self._patience *= 2
                yield max(self._pause(now), self._free_at(now) - now)
                continue
            if self._charged and not self._affords(plan, now):
                if not self._pending:
                    return
                continue
            calls = [call for call, _ in plan] + refresh
            routing.rests.ask([call.address for call in calls], now)
            routing.retries += self._has_asked
            self._has_asked = True
            outcomes = yield Parking(calls) if self._park_s else calls
            waiting = set(self._pending).difference(*[indices for _, indices in plan])
            pending = [i for i in self._pending if i in waiting] if waiting else []
            for (call, indices), outcome in zip(plan, outcomes, strict=False):
                pending += self._accept(call, indices, outcome)
            self._pending = pending
            if refresh:
                learn(self._routing, refresh[0], outcomes[-1])

    def check(self) -> None:
        """Raise the error of what failed, and forget it here, because its traceback leads to this object.

        Such a circle would be left to the garbage collector, and thousands of failing calls would keep that busy.
        """
        if self.errors:
            self._routing.errors += 1
            raise self.errors.pop(min(self.errors))

    # ---- a round

    def _look_up(self, now: float) -> list[Call]:
        """Do what is due in the routing; return the request for the members to send along, if one is due."""
        return look_up(self._routing, now, min(ATTEMPT_S, self._deadline - now))

    def _plan(self, now: float) -> list[tuple[Call, list[int]]]:
        """Group the pending keys by the node to ask."""
        routing = self._routing
        keys = self._request.keys
        avoid = self._avoid | routing.rests.current(now)
        if self._has_asked:
            avoid |= routing.holds.current(now)
        if not keys or self._node is not None:
            address = self._node or routing.pick(None, avoid, now)
            usable = address is not None and address not in avoid
            return self._calls(address, self._pending, now) if usable and address else []
        is_batch = self._request.kind is Set and len(keys) > 1
        first = routing.first_of_batch(self._request.options[0]) if is_batch else routing.first
        mask = len(first) - 1
        groups: dict[str | None, list[int]] = {}
        for i, address in zip(self._pending, [first[crc32(keys[i]) & mask] for i in self._pending], strict=True):
            if address is None or address in avoid:
                address = routing.pick(crc32(keys[i]) & mask, avoid, now)  # noqa: PLW2901  (the second choice)
            if address in groups:
                groups[address].append(i)
            else:
                groups[address] = [i]
        plan: list[tuple[Call, list[int]]] = []
        for address, indices in groups.items():
            if address is not None:
                plan += self._calls(address, indices, now)
        return plan

    def _calls(self, address: str, indices: list[int], now: float) -> list[tuple[Call, list[int]]]:
        """Make calls for as many of these keys as a round may have for one node; the others wait for the next round.

        A node that has too much to do gets one call in a round, as its window is for whole operations.
        """
        request, routing = self._request, self._routing
        parts = parts_of(request, indices, self._value_bytes, routing.settings.small_bytes)
        if routing.windows.limit(address) < math.inf:
            del parts[1:]
        allowance = self._timeout_s
        if request.repeatable:
            patience = max(self._patience, routing.patience(address, now))
            allowance = allowance_s(self._timeout_s, weight_of(parts)) * patience + self._park_s
        allowance = within(allowance, self._deadline - now)
        return [
            (Call(address, request.part(part) if request.keys else request, self._deadline, allowance, size), part)
            for part, size in parts
        ]

    def _affords(self, plan: list[tuple[Call, list[int]]], now: float) -> bool:
        """Charge the retries of a round; if the client may make no more, give up the keys that need them."""
        charged = self._charged
        retries = len({call.address for call, indices in plan if not charged.isdisjoint(indices)})
        if not retries:
            return True
        if not self._routing.affords(retries, now):
            self._give_up(now, charged)
            return False
        charged.difference_update(*[indices for _, indices in plan])
        return True

    def _is_hopeless(self, now: float) -> bool:
        """Tell whether no node is to be expected to serve this call before its deadline."""
        return self._is_shut_out(now) or self._is_unreached(now) or self._free_at(now) >= self._deadline

    def _free_at(self, now: float) -> float:
        """Return when the first node may be asked again, if all that could serve are overloaded."""
        resting = self._routing.rests.failures(self._addresses())
        holds = self._routing.holds
        return min([holds.until(each, now) for each in self._addresses() if each not in resting], default=now)

    def _is_unreached(self, now: float) -> bool:
        """Tell whether no node was reached for so long that waiting for the deadline is useless."""
        if not self._reached:
            resting = self._routing.rests.failures(self._addresses())
            self._reached = not all(failure.shut for failure in resting.values())  # another call learned that
        return not self._reached and now - self._started >= UNREACHABLE_S

    def _is_shut_out(self, now: float) -> bool:
        """Tell whether no node serves this client, as this call or another one has just learned."""
        addresses = self._addresses()
        failures = self._routing.rests.failures(addresses)
        if not self._routing.known and any(failure.code == WRONG_CLUSTER for failure in failures.values()):
            return True
        told = self._avoid | self._routing.rests.current(now)
        return all(address in told and address in failures and failures[address].shut for address in addresses)

    def _addresses(self) -> set[str]:
        """Return every address that may be asked."""
        return self._routing.addresses() if self._node is None else {self._node}

    def _pause(self, now: float) -> float:
        self._attempt += 1
        return max(0.0, min(pause_s(self._rng, self._attempt, self._routing.lag_s), self._deadline - now))

    # ---- outcomes

    def _accept(self, call: Call, indices: list[int], outcome: Outcome) -> list[int]:
        """Take in the outcome of a call; return the indices that are still pending."""
        if type(outcome) is list:
            self._reached = True
            self._routing.woke(call.address)
            self._routing.succeeded(call.address, self._asked_at)
            if list not in set(map(type, outcome)):
                if self._value_bytes:
                    self._expect_values_like(outcome)
                for i, result in zip(indices, outcome, strict=True):
                    self.results[i] = result
                return []
            pairs = zip(indices, outcome, strict=True)
            pending = [i for i, result in pairs if not self._accept_one(call.address, i, result)]
            if pending and self._request.kind is Get:
                self._expect_values_like(outcome)
            self._routing.unfinished += bool(pending) or not self.errors.keys().isdisjoint(indices)
            return pending
        if type(outcome) is Reject:
            return self._rejected(call.address, indices, outcome)
        if type(outcome) is Failure:
            return self._failed(call.address, indices, outcome)
        if type(outcome) is Unsendable:
            for i in indices:
                self.errors[i] = SerializationError(f"{self._name(i)}: no message can be made of it: {outcome.error}")
            return []
        raise TypeError(outcome)

    def _expect_values_like(self, results: list[Any]) -> None:
        """Note how long the values of a reply are: the next ones, and those of the next batch, may be like them."""
        found = value_bytes(results)
        if found is not None:
            self._value_bytes = self._routing.value_bytes = found

    def _accept_one(self, address: str, i: int, result: Any) -> bool:
        """Take in the result of one key; return False if the key is to be asked for again."""
        if type(result) is not list:
            self.results[i] = result
            return True
        code = result[0] if result else None
        if code == Code.MORE and self._request.kind is Get:
            return False
        if code in {Code.OVERLOADED, Code.NOT_READY}:
            self._whys[address] = _reason(code)
            self._avoid.add(address)
            self._last = Reject(0, b"", result)
            if code == Code.OVERLOADED:
                self._hold(address, [i], result)
            return False
        error = _error(result, self._name(i))
        if code == Code.QUORUM and self._request.repeatable:
            self._notes[i] = error
            self._quorum_missing = True
            self._charged.add(i)
            return False
        self.errors[i] = error
        return True

    def _hold(self, address: str, indices: list[int], error: list[Any]) -> None:
        """Take in that a node is overloaded."""
        self._retry_after_s = retry_after_s(error)
        self._routing.holds.begin(address, self._retry_after_s, self._routing.clock(), self._rng)
        self._charged.update(indices)

    def _rejected(self, address: str, indices: list[int], reject: Reject) -> list[int]:
        code = reject.error[0]
        self._reached = True
        self._last = reject
        self._whys[address] = _reason(code)
        if code == Code.NOT_READY:
            self._routing.not_ready(address, self._routing.clock())
            self._avoid.add(address)
        elif code == Code.OVERLOADED:
            self._avoid.add(address)
            self._hold(address, indices, reject.error)
        elif code == Code.STALE_BOOT:
            if address in self._greeted_again:
                self._avoid.add(address)
            self._greeted_again.add(address)
        else:
            for i in indices:
                self.errors[i] = _error(reject.error, self._name(i))
            return []
        return indices

    def _failed(self, address: str, indices: list[int], failure: Failure) -> list[int]:
        self._last = failure
        self._late = self._late or failure.late
        if not failure.late or address not in self._whys:  # lateness is the least informative reason
            self._whys[address] = failure.why
        if failure.blame:
            note_failure(self._routing, address, failure)
            self._avoid.add(address)
        elif not failure.late:
            self._short = True
            self._avoid.add(address)
        if failure.late or failure.sent:
            self._reached = True
        if failure.sent:
            self._may_be_applied = self._request.kind not in {Get, Inspect}
            if failure.blame:
                self._charged.update(indices)
        if failure.sent and not self._request.repeatable:
            kind = OperationTimeout if failure.late else NodeUnavailable
            for i in indices:
                self.errors[i] = kind(f"{self._name(i)}: {address}: {failure.why}; it may or may not be applied")
            return []
        return indices

    def _give_up(self, now: float, indices: set[int] | None = None) -> None:
        """Fail what is pending; or only these, because the client may not try them again."""
        resting = self._routing.rests.failures(self._addresses())
        told = {address: failure.why for address, failure in resting.items()} | self._whys
        whys = "; ".join(f"{address}: {why}" for address, why in told.items()) or "no node answered"
        make: Callable[[str], MeshcacheError]
        if indices is not None:
            make, what = self._kind_of_delay(resting, now), "not tried again, since too many calls of this client fail"
        elif not self._is_shut_out(now):
            make, what = self._kind_of_delay(resting, now), f"not done within {now - self._started:.3g} s"
        elif any(failure.code == WRONG_CLUSTER for failure in resting.values()):
            make, what = ConfigError, "this client's cluster= or seeds are wrong"
        elif resting and all(failure.code == DENIED for failure in resting.values()):
            make, what = AuthFailed, "no node lets this client in"
        else:
            make, what = NodeUnavailable, "no node serves"
        doubt = "; it may or may not be applied" if self._may_be_applied else ""
        for i in self._pending if indices is None else indices.intersection(self._pending):
            text = f"{self._name(i)}: {what} ({whys}){doubt}"
            self.errors[i] = self._notes.pop(i) if i in self._notes else make(text)
        self._pending = [] if indices is None else [i for i in self._pending if i not in indices]
        self._charged.clear()

    def _kind_of_delay(self, resting: dict[str, Failure], now: float) -> Callable[[str], MeshcacheError]:
        last = self._last
        is_overload = type(last) is Reject and last.error[0] == Code.OVERLOADED
        if self._retry_after_s is None and now < self._deadline <= self._free_at(now):
            # The nodes have told that to other calls.
            is_overload, self._retry_after_s = True, self._free_at(now) - now
        if is_overload and not self._may_be_applied:
            return partial(Overloaded, retry_after_s=self._retry_after_s or 0.0)
        if type(last) is Reject:
            return NodeUnavailable
        return NodeUnavailable if not self._late and (last or resting) else OperationTimeout

    def _name(self, i: int) -> str:
        return f"{self._request.name} {self._request.given[i]!r:.80}" if self._request.given else self._request.name


def _reason(code: Any) -> str:
    return Code(code).name.lower().replace("_", " ") if code in set(Code) else f"code {code!r}"


def _error(result: list[Any], name: str) -> Exception:  # noqa: PLR0911  (a table in the form of a match)
    """Make the exception for one key from a node's error code."""
    match result:
        case [Code.QUORUM, int(needed), int(received), *_]:
            return QuorumNotReached(needed, received, name)
        case [Code.OVERLOADED, *_]:
            text = f"{name}: the node has too much pending work; nothing was done"
            return Overloaded(text, retry_after_s(result))
        case [Code.NOT_READY, *_]:
            return NodeUnavailable(f"{name}: the node is not ready; nothing was done")
        case [Code.TOO_LARGE, int(size), int(limit), *_]:
            return ValueTooLarge(size, limit)
        case [Code.KEY_MISSING, *_]:
            return KeyMissing(f"{name}: there is no such key, and no initial value")
        case [Code.NOT_A_NUMBER, *details]:
            return NotANumber(f"{name}: {details[0] if details else 'not a number'}")
        case [Code.FORBIDDEN, *details]:
            return AuthFailed(f"{name}: {details[0] if details else 'not allowed'}")
        case [Code.INVALID, *details]:
            return ValueError(f"{name}: {details[0] if details else 'invalid'}")
        case [int(code), *details]:
            return OperationError(f"{name}: {_reason(code)} {details}")
    return ProtocolError(f"{name}: the node answered {result!r:.200}")
