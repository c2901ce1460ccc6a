"""What travels between a client and one node: calls, how calls share messages, and what the frames that arrive mean.

Pure. A driver owns the socket; this module has everything that the driver must know of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from meshcache.client.failure import Failure
from meshcache.client.frames import frames
from meshcache.client.routing import Routing
from meshcache.errors import ProtocolError
from meshcache.keys import SecretKey
from meshcache.protocol import versions
from meshcache.protocol.messages import (
    BATCH_OPS_MAX,
    PROTOCOL,
    Change,
    ClientOp,
    Code,
    Get,
    Hello,
    Hot,
    Inspect,
    Message,
    Refused,
    Reject,
    Reply,
    Set,
    TurnedAway,
    Unknown,
    Update,
    Welcome,
)
from meshcache.protocol.wire import LARGE_BYTES, Frame, decode_frame, encode_frame

Kind = type[ClientOp]

GREETING: Final = 0
"""The number under which the answer to HELLO is reported; requests are numbered from 1."""


class Unsendable(NamedTuple):
    """The outcome of a call of which no message can be made: nothing was sent, and another attempt would fail, too."""

    error: Exception


class Read(NamedTuple):
    """A result of a GET that is the value already, of type bytes, str or int; else it is the record."""

    value: Any


Outcome = list[Any] | Reject | Failure | Unsendable
"""Results in the order of the call's keys, or the reason why there are none."""

FAIR_SHARE: Final = 0.5
"""If a node had less than this share of an attempt's allowance, its silence does not count against it."""
CALLS_MAX: Final = 256
"""The most calls in one message: all that wait for one answer are woken at once, and delay everything else."""


class Request:
    """What an operation asks of nodes, for one key, many or none; it is the same in all attempts."""

    __slots__ = ("content_bytes", "given", "keys", "kind", "name", "options", "payloads", "reads_values", "repeatable")

    def __init__(
        self,
        name: str,
        kind: Kind,
        options: tuple[Any, ...],
        keys: list[bytes],
        given: list[Any],
        payloads: list[Any] | None = None,
        content_bytes: int = 0,
        repeatable: bool = True,
        reads_values: bool = False,
    ) -> None:
        self.name = name
        """What the user called. With ``given``, the keys as the user wrote them (if there are any), it is for
        errors."""
        self.kind = kind
        self.options = options
        """The fields of the message before its keys, or all of them if it has no keys."""
        self.keys = keys
        self.given = given
        self.payloads = payloads
        """In the order of the keys: contents or changes; None if the message has only keys."""
        self.content_bytes = content_bytes
        """The length of all contents in the payloads."""
        self.repeatable = repeatable
        """Whether executing it twice does no more than executing it once."""
        self.reads_values = reads_values
        """Whether a result may also be a value that was Read, where that saves a copy of the record."""

    def part(self, indices: list[int]) -> Request:
        """Return the same request for these of its keys, in this order."""
        keys, payloads = self.keys, self.payloads
        if indices == list(range(len(keys))):
            return self
        some = None if payloads is None else [payloads[i] for i in indices]
        return Request(
            self.name,
            self.kind,
            self.options,
            [keys[i] for i in indices],
            [],
            some,
            repeatable=self.repeatable,
            reads_values=self.reads_values,
        )

    def on_behalf_of(self, caller: str) -> Request:
        """Return the same request, whose errors name what the user called."""
        return Request(
            caller,
            self.kind,
            self.options,
            self.keys,
            [],
            self.payloads,
            self.content_bytes,
            self.repeatable,
            self.reads_values,
        )

    def may_be_parked(self) -> bool:
        """Tell whether the answer may take long, so that no other call should wait for it."""
        return self.kind is Update and self.payloads is not None and self.payloads[0][0] == Change.LEASE


class Call:
    """One attempt of a request at one node. Calls of equal kind, options and allowance may share a message."""

    __slots__ = ("address", "allowance_s", "request", "size", "until")

    def __init__(self, address: str, request: Request, until: float, allowance_s: float, size: int = 0) -> None:
        self.address = address
        self.request = request
        self.until = until
        """The deadline of the operation, by the session's clock: nobody waits longer."""
        self.allowance_s = allowance_s
        """How long the node may take. It counts from when the request is sent: no earlier delay is the node's."""
        self.size = size
        """The bytes of the keys and payloads."""

    def deadline(self, now: float) -> float:
        """Return the deadline of an attempt that is sent now; the message has it, so that no node executes it late."""
        deadline = now + self.allowance_s
        return deadline if deadline < self.until else self.until  # noqa: FURB136  (every call: min() takes twice as long)

    def is_fair(self, now: float) -> bool:
        """Tell whether an attempt that is sent now leaves the node enough time for its silence to count against it."""
        return self.until - now >= FAIR_SHARE * self.allowance_s


class Operation(NamedTuple):
    """How the frames of one kind of operation are made and read."""

    name: str
    kind: Kind
    write: Callable[..., bytes | None]
    """Given number, boot, deadline and view, and then the attempt's ``fields``."""
    read: Callable[..., Any]
    """Given frame, number and view, and then what the attempt is ``reading``; returns None for an unusual answer."""


class Attempt(NamedTuple):
    """One request on the fast path: all that its frame is made of, and how its answer is read; see fast_path.py."""

    operation: Operation
    address: str
    started: float
    """When the operation began."""
    until: float
    """The deadline of the operation, as of a ``Call``."""
    allowance_s: float
    """How long the node may take, as of a ``Call``."""
    keys: list[Any]
    """The keys as the user wrote them."""
    places: Sequence[int]
    """Their places among all keys of the operation."""
    fields: tuple[Any, ...]
    reading: tuple[Any, ...]

    def call(self) -> Call:
        """Return the same as a call. It is sent already: its keys are only counted."""
        request = Request(self.operation.name, self.operation.kind, (), self.keys, self.keys)
        return Call(self.address, request, self.until, self.allowance_s)


class Tried:
    """Attempts that did not all come to what is usual: the operation's flow goes on with them."""

    __slots__ = ("made", "started")

    def __init__(self, started: float = 0.0) -> None:
        self.started = started
        """When the operation began."""
        self.made: list[tuple[Call, Sequence[int], Outcome]] = []
        """Those that were sent, with the places of their keys, and what came of them."""


class Batch:
    """Calls that are sent as one message."""

    __slots__ = ("_unique", "calls", "count", "may_be_parked", "size", "until")

    def __init__(self, call: Call) -> None:
        request = call.request
        self.calls = [call]
        self.count = len(request.keys)
        self.size = call.size
        self.until = call.until
        """The earliest deadline of all its calls: the message must not be executed later."""
        self.may_be_parked = request.may_be_parked()
        # Of one version, or one turn, only one change of a key can win: further changes go in another message.
        self._unique = None if request.kind is Get else set(request.keys)

    def join(self, call: Call, size_max: int) -> bool:
        """Take the call in, if it fits; return whether it did."""
        calls, request = self.calls, call.request
        keys = request.keys
        if not keys or not self.count:
            if request.kind is not Inspect or calls[0].request.kind is not Inspect:
                return False  # equal calls without keys share one request; others need one each
        else:
            size = self.size + call.size
            count = self.count + len(keys)
            if len(calls) >= CALLS_MAX or size > size_max or count > BATCH_OPS_MAX:
                return False
            if self.may_be_parked or request.may_be_parked():
                return False
            unique = self._unique
            if unique is not None:
                if not unique.isdisjoint(keys):
                    return False
                unique.update(keys)
            self.size = size
            self.count = count
        calls.append(call)
        self.until = min(self.until, call.until)
        return True

    def whole(self) -> Call:
        """Return all calls as one."""
        calls = self.calls
        first = calls[0]
        if len(calls) == 1 or not self.count:
            return first
        requests, one = [call.request for call in calls], first.request
        keys = [key for request in requests for key in request.keys]
        payloads = None
        if one.payloads is not None:
            payloads = [payload for request in requests for payload in request.payloads or ()]
        reads_values = all(request.reads_values for request in requests)
        joined = Request(one.name, one.kind, one.options, keys, [], payloads, reads_values=reads_values)
        return Call(first.address, joined, self.until, first.allowance_s, self.size)

    def split(self, outcome: Outcome) -> list[Outcome]:
        """Give each call its part of the outcome."""
        calls = self.calls
        if len(calls) == 1:
            return [outcome]
        if type(outcome) is not list or not self.count:
            return [outcome] * len(calls)
        if len(calls) == len(outcome):
            return [[result] for result in outcome]
        parts: list[Outcome] = []
        start = 0
        for call in calls:
            end = start + len(call.request.keys)
            parts.append(outcome[start:end])
            start = end
        return parts


class Connection:
    """The protocol's side of one connection to one node: greeted once, then requests by number.

    A driver sends ``hello()`` first, and no request while ``ready`` is false. It sends another one whenever
    ``wants_greeting``, and goes on with requests meanwhile: it may be that the node is silent because our idea of its
    clock is wrong, and then they are dropped, or because it is overloaded, and then whoever waited for the greeting
    first would make it do more for less. It gives every frame to ``accept``. It replaces this object when the
    connection breaks, or ``is_stuck``: it must never outlive the process at the other end.
    """

    __slots__ = (
        "_asked_at",
        "_boot",
        "_cluster",
        "_expected",
        "_number",
        "address",
        "greeting",
        "is_asked",
        "ready",
        "routing",
    )

    def __init__(self, address: str, cluster: str, routing: Routing) -> None:
        self.address = address
        self.ready = False
        self.is_asked = False
        """Whether a greeting is under way."""
        self.greeting = routing.greetings.of(address)
        """What this client knows by the node's greetings."""
        self._cluster = cluster
        self.routing = routing
        self._number = GREETING
        self._expected: dict[int, Call] = {}
        self._boot = 0
        self._asked_at = 0.0

    @property
    def key(self) -> SecretKey | None:
        """By which this client proves to the node who it is."""
        return self.routing.key

    @property
    def is_needless(self) -> bool:
        """Whether nothing is expected over it, and its address is none of a member or a seed: its node has left."""
        return not self._expected and self.address not in self.routing.addresses()

    @property
    def is_clock_vague(self) -> bool:
        """Whether our idea of the node's clock may be wrong: no greeting was fast enough, or the node is silent."""
        return self.greeting.is_clock_vague

    @property
    def wants_greeting(self) -> bool:
        """Whether the node should be asked for its greeting now, for the first time or again."""
        if self.is_asked or not self.ready:
            return not self.is_asked
        return self.greeting.is_clock_vague and self.greeting.may_be_asked_again(self.routing.clock())

    @property
    def is_stuck(self) -> bool:
        """Whether the greeting was asked for, and has not come in time. True only if all that arrived was accepted."""
        return self.is_asked and self.routing.clock() - self._asked_at >= self.greeting.patience_s

    def hello(self) -> bytes:
        """Return the frame that opens the connection, or asks for the node's clock again."""
        self._asked_at = self.routing.clock()
        self.is_asked = True
        if self.ready:
            self.greeting.note_asked_again(self._asked_at)
        return encode_frame(0, [Hello(PROTOCOL, self._cluster, None, b"")])

    def encode(self, call: Call, deadline: float) -> tuple[int, bytes]:
        """Return the request's number and its frame. If a field is at fault, raise and change nothing."""
        number, request = self._number + 1, call.request
        keys = request.keys
        if request.payloads is not None:
            lists: tuple[list[Any], ...] = (keys, request.payloads)
        else:
            lists = (keys,) if keys else ()
        deadline_ms = int(deadline * 1000 + self.greeting.wall_ms)
        make: Callable[..., Any] = request.kind
        message = make(number, self._boot, deadline_ms, self.routing.digest, *request.options, *lists)
        frame = encode_frame(0, [message])
        self._number = number
        self._expected[number] = call
        return number, frame

    def write(self, attempt: Attempt, deadline: float) -> tuple[int, bytes | None]:
        """Return the number of an attempt on the fast path, and its frame; None if it is not to be sent this way.

        Its answer is not expected here: ``read`` takes it, or ``expect`` says that the attempt has become a call.
        """
        number, deadline_ms = self._number + 1, int(deadline * 1000 + self.greeting.wall_ms)
        frame = attempt.operation.write(number, self._boot, deadline_ms, self.routing.digest, *attempt.fields)
        if frame is not None:
            self._number = number
        return number, frame

    def read(self, attempt: Attempt, number: int, frame: Frame) -> Any:
        """Return what an attempt comes to by this answer; None if that is not usual, and ``accept`` must have it."""
        routing = self.routing
        answer = attempt.operation.read(frame, number, routing.digest, *attempt.reading)
        if routing.windows.narrow and answer is not None:
            routing.windows.note_answer(self.address)
        return answer

    def expect(self, number: int, call: Call) -> None:
        """Wait for the answer to a call that was sent as an attempt."""
        self._expected[number] = call

    def can_encode(self, call: Call, deadline: float) -> bool:
        """Tell whether a message can be made of a call."""
        try:
            number, _ = self.encode(call, deadline)
        except Exception:  # noqa: BLE001  (whatever it is, it can not)
            return False
        self._expected.pop(number, None)
        return True

    def forget(self, number: int, *, silent: bool = True) -> None:
        """Stop waiting for an answer. If the node was ``silent``, our idea of its clock may be wrong."""
        self._expected.pop(number, None)
        self.greeting.is_silent = self.greeting.is_silent or silent

    def give_up(self, number: int, sent_at: float, *, is_fair: bool) -> None:
        """Stop waiting for an answer that did not come in time; ``is_fair``: the node had enough of it."""
        self.forget(number, silent=is_fair)
        if is_fair:
            self.routing.note_silence(self.address, sent_at)

    def forget_all(self) -> None:
        """Stop waiting for all answers: the thread that waited was interrupted."""
        self._expected.clear()

    def accept(self, frame: Frame) -> list[tuple[int, Outcome | Welcome]]:
        """Return what the frame answers, by number. After a ProtocolError the connection cannot be used any more."""
        values = self._values_in(frame) if len(frame) >= LARGE_BYTES else None
        if values is not None:
            return values
        try:
            _clock, messages = decode_frame(frame)
        except ProtocolError as error:
            decode_frame(frame)
            # The frame is good: a signal handler raised the error while it was decoded.
            raise (error.__context__ or error) from None
        found: list[tuple[int, Outcome | Welcome]] = []
        for message in messages:
            if type(message) is not Reply:
                found += self._told(message)
                continue
            call = self._expected.pop(message.request, None)
            if call is None:
                continue
            self.greeting.is_silent = False
            self.routing.windows.note_answer(self.address)
            if message.view != self.routing.digest:
                self.routing.note_view(self.address, message.view)
            results = message.results
            if results is None or len(results) != (len(call.request.keys) or 1):
                results = _aligned(results, call)
            found.append((message.request, results))
        return found

    def _values_in(self, frame: Frame) -> list[tuple[int, Outcome | Welcome]] | None:
        """Return what a large frame answers, if that is values that can be read from it; None: it is to be decoded."""
        if not all(call.request.reads_values for call in self._expected.values()):
            return None
        answer = frames.decode_reply(frame, self.routing.digest, None)
        call = None if answer is None else self._expected.get(answer[0])
        if call is None or answer[1] is None or len(answer[1]) != len(call.request.keys):
            return None
        number, values = answer
        del self._expected[number]
        self.greeting.is_silent = False
        self.routing.windows.note_answer(self.address)
        return [(number, [_result(value) for value in values])]

    def _told(self, message: Message) -> list[tuple[int, Outcome | Welcome]]:
        """Return what any message except a REPLY answers, by number."""
        match message:
            case Reject():
                return [(message.request, self._rejected(message))] if self._is_expected(message.request) else []
            case TurnedAway():
                reject = partial(Reject, view=message.view, error=[int(Code.OVERLOADED)])
                return [(n, self._rejected(reject(n))) for n in message.requests if self._is_expected(n)]
            case Welcome():
                return [(GREETING, self._greeted(message))]
            case Refused():
                why = f"refused ({message.code}): {message.text}"
                return [(GREETING, Failure(sent=False, late=False, why=why, shut=True, code=message.code))]
            case Hot() | Unknown():
                if isinstance(message, Hot):
                    self.routing.note_hot(message.keys, message.copy_ttl_ms / 1000)
                return []
        raise ProtocolError(f"{type(message).__name__} is nothing that a client receives")

    def _greeted(self, welcome: Welcome) -> Welcome | Failure:
        """Take in what a node says of itself; or say why it is of no use."""
        if not versions.of_link(welcome.settings):
            why = f"refused (protocol): {versions.why_apart(welcome.settings)}"
            return Failure(sent=False, late=False, why=why, shut=True, code="protocol")
        now = self.routing.clock()
        self.greeting.note(welcome.boot, welcome.wall_ms, self._asked_at, now)
        self.routing.welcome(self.address, welcome, self.greeting.wall_ms, now)
        self._boot = welcome.boot
        self.ready, self.is_asked = True, False
        return welcome

    def _is_expected(self, number: int) -> bool:
        """Tell whether this answer was waited for, and stop waiting for it."""
        return self._expected.pop(number, None) is not None

    def _rejected(self, reject: Reject) -> Reject:
        if not reject.error or type(reject.error[0]) is not int:
            raise ProtocolError(f"REJECT without a code: {reject.error!r}")
        if reject.error[0] == Code.OVERLOADED:
            self.routing.windows.note_overload(self.address, self.routing.clock())
        if reject.error[0] == Code.STALE_BOOT:
            self.ready = False
        elif reject.view != self.routing.digest:
            self.routing.note_view(self.address, reject.view)
        return reject


def _result(value: Any) -> Any:
    """Return a result in the form of ``decode_reply`` as an outcome has it."""
    return value[0] if type(value) is tuple else None if value is None else Read(value)


def _aligned(results: list[Any] | None, call: Call) -> list[Any]:
    """Return one result for each key; None as the result of a SET means that every key succeeded."""
    expected = len(call.request.keys) or 1
    if results is None and call.request.kind is Set:
        return [None] * expected
    if results is None or len(results) != expected:
        raise ProtocolError(f"{len(results or ())} results for {expected} keys")
    return results
