"""The commands of one connection, run one after the other; their answers, in that order.

Neighbours that can be one request are: ``get`` after ``get``, and ``set`` after ``set`` with the same lifetime. So a
pipeline costs little more than a batch. Nothing else is put together, since each command may depend on the one before.

A read of keys that this node holds is answered at once, from the store. Everything else is a flow (flows.py), which
may have to wait for other nodes; nothing that came after it is begun before it has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from meshcache.core.counters import MemcachedCounters
from meshcache.core.operations.portions import PORTION_KEYS
from meshcache.node.memcached import flows, meta_flows
from meshcache.node.memcached.asks import FAILED, NO_ANSWER, WAITING, Asks, Refused, check
from meshcache.node.memcached.flows import STORED, Flow
from meshcache.protocol import messages as m
from meshcache.protocol.memcached import values
from meshcache.protocol.memcached.commands import (
    Arithmetic,
    Authenticate,
    Command,
    Delete,
    Flush,
    Meta,
    MetaDebug,
    Quit,
    Retrieve,
    Say,
    Stats,
    Store,
    Touch,
    Unstorable,
)
from meshcache.protocol.memcached.grammar import KEY_BYTES_MAX

_CR: Final = 13
UNSENT_BYTES_MAX: Final = 4 << 20
"""No command is begun while its connection has more to read than these."""
TOGETHER_MAX: Final = min(PORTION_KEYS[m.Get], PORTION_KEYS[m.Set])
"""How many keys neighbours may have together."""

_FLOWS: Final[dict[type[Any], Callable[[Asks, Any], Flow]]] = {
    Retrieve: flows.retrieve,
    Store: flows.store,
    Delete: flows.delete,
    Arithmetic: flows.arithmetic,
    Touch: flows.touch,
    Unstorable: flows.remove,
    Meta: meta_flows.run,
    MetaDebug: meta_flows.debug,
}


class Surroundings:
    """What the commands of all connections share, beside the core."""

    def __init__(
        self,
        flush: Callable[[Flush], Flow],
        stats: Callable[[Stats], bytes],
        is_user: Callable[[bytes, bytes], bool] | None,
        counters: MemcachedCounters,
    ) -> None:
        """``is_user`` checks user and password; None: nobody is asked for them."""
        self.flush = flush
        self.stats = stats
        self.is_user = is_user
        self.counters = counters


class Session:
    """What one connection has asked, and is to be told."""

    __slots__ = (
        "_asks",
        "_flow",
        "_quiet",
        "_request",
        "_shared",
        "ends",
        "is_trusted",
        "name",
        "out",
        "queue",
        "unsent",
    )

    def __init__(self, asks: Asks, shared: Surroundings, name: bytes) -> None:
        self._asks = asks
        self._shared = shared
        self.name = name
        """What the core calls the connection."""
        self.queue: deque[Command] = deque()
        self.out: list[bytes] = []
        self.unsent = 0
        """Bytes that wait for the client to read, by what the connection says."""
        self._flow: Flow | None = None
        self._request = 0
        self._quiet = False
        self.is_trusted = shared.is_user is None
        """Whether it may say anything but its password."""
        self.ends: str | None = None
        """Why the connection is to be closed once all is said; empty: the client asked for it."""

    @property
    def is_free(self) -> bool:
        """Whether all that came is done."""
        return not self.queue and self._flow is None and self.ends is None

    @property
    def waits(self) -> bool:
        """Whether a command waits for other nodes."""
        return self._request != 0

    def run(self) -> None:
        """Run what has come, as far as that goes now."""
        queue = self.queue
        while self.ends is None and not self._request and self._has_room():
            if self._flow is not None:
                self._go_on(None)
                continue
            if not queue:
                return
            command = queue.popleft()
            if isinstance(command, Retrieve) and command.exptime is None:
                self._retrieve(command)
            elif isinstance(command, Store) and command.verb == b"set":
                self._set(command)
            elif isinstance(command, Say):
                self._say(command.line)
            else:
                self._begin(command)

    def take(self, told: list[Any]) -> None:
        """Go on with the command that waits, by what the core has told this connection."""
        try:
            results = self._asks.answer(told, self._request)
        except Refused as refused:
            self._request = 0
            self._go_on(refused)
        else:
            if results is WAITING:
                return
            self._request = 0
            self._go_on(None, results)
        self.run()

    def give_up(self) -> None:
        """End a command that was not answered, long after its time."""
        self._request = 0
        self._go_on(Refused(NO_ANSWER))
        self.run()

    def _has_room(self) -> bool:
        return self.unsent < UNSENT_BYTES_MAX and len(self.out) < UNSENT_BYTES_MAX >> 10

    def _say(self, line: bytes) -> None:
        self._shared.counters.commands += 1
        if line:
            self.out.append(line)
            self.unsent += len(line)
            if b"ERROR" in line[:12]:
                self._shared.counters.errors += 1

    # -- what is usual -------------------------------------------------------------------------------------

    def answer_at_once(self, data: bytes) -> bool:
        """Answer what has come, if that is one usual ``get`` or ``set``. Else do nothing, and return False.

        That is what most connections say most of the time; ``run`` answers the same, by way of the grammar.
        """
        if self.queue or self._flow is not None or self.ends is not None or self.out or not self.is_trusted:
            return False
        if not data.endswith(b"\r\n"):
            return False
        return self._get_at_once(data) if data.startswith(b"get ") else self._set_at_once(data)

    def _set_at_once(self, data: bytes) -> bool:
        """Store a value of flags 0 for ever, or for a relative time of up to 99,999 s."""
        end = data.find(b"\n") + 1
        words = data[: end - 2].split(b" ")
        if len(words) != 5 or words[0] != b"set" or words[2] != b"0" or len(words[3]) > 5 or len(words[4]) > 5:
            return False
        key, exptime, size = words[1], words[3], words[4]
        if not (exptime.isdigit() and size.isdigit() and 1 <= len(key) <= KEY_BYTES_MAX) or b"\0" in key:
            return False
        length = int(size)
        if data[end - 2] != _CR or end + length + 2 != len(data) or length > self._asks.value_bytes_max:
            return False
        self._set(Store(b"set", key, 0, int(exptime), data[end:-2], 0, False))
        return True

    def _get_at_once(self, data: bytes) -> bool:
        """Answer for keys that this node holds."""
        if data.count(b"\n") != 1 or b"\0" in data:
            return False
        keys = data[4:-2].split(b" ")
        if b"" in keys or max(map(len, keys)) > KEY_BYTES_MAX:
            return False
        records = self._asks.read_here(keys)
        if records is None or sum([len(record) for record in records if record]) > flows.BYTES_AT_ONCE:
            return False
        told = values.lines(keys, records, unique=False)
        told.append(b"END\r\n")
        self.out.append(b"".join(told))
        self._shared.counters.commands += 1
        return True

    def _retrieve(self, first: Retrieve) -> None:
        queue, keys, commands = self.queue, first.keys, [first]
        while queue and isinstance(following := queue[0], Retrieve) and following.exptime is None:
            if len(keys) + len(following.keys) > TOGETHER_MAX:
                break
            commands.append(following)
            keys = keys + following.keys
            queue.popleft()
        records = self._asks.read_here(keys)
        if records is None or sum([len(record) for record in records if record]) > flows.BYTES_AT_ONCE:
            queue.extendleft(reversed(commands[1:]))
            self._start(flows.retrieve(self._asks, first))
            return
        start = 0
        out = self.out
        for command in commands:
            end = start + len(command.keys)
            found = records if len(commands) == 1 else records[start:end]
            told = values.lines(command.keys, found, unique=command.unique)
            told.append(b"END\r\n")
            line = b"".join(told)
            out.append(line)
            self.unsent += len(line)
            start = end
        self._shared.counters.commands += len(commands)

    def _set(self, first: Store) -> None:
        ttl_ms = values.ttl_ms(first.exptime, self._asks.instant.wall_ms)
        if ttl_ms is None:
            self._begin(first)
            return
        queue, commands, size = self.queue, [first], len(first.value)
        while queue and isinstance(following := queue[0], Store) and len(commands) < TOGETHER_MAX:
            size += len(following.value)
            if following.verb != b"set" or following.exptime != first.exptime or size > flows.BYTES_AT_ONCE:
                break
            commands.append(following)
            queue.popleft()
        contents = [
            values.content(command.flags, command.value) if command.flags else b"\0\0" + command.value
            for command in commands
        ]
        request = self._asks.set([command.key for command in commands], contents, ttl_ms)
        self._shared.counters.commands += len(commands) - 1
        try:
            results = self._asks.begin(self.name, request)
        except Refused as refused:
            self._say(_refused(commands, refused))
            return
        if results is WAITING:
            self._flow, self._quiet, self._request = _sets(commands), False, request.request
            next(self._flow)  # it waits for the results now
        else:
            self._say(_stored(commands, results))

    # -- flows ---------------------------------------------------------------------------------------------

    def _begin(self, command: Command) -> None:
        if isinstance(command, Quit):
            self.ends = command.why
        elif isinstance(command, Authenticate):
            is_user = self._shared.is_user
            self.is_trusted = is_user is None or is_user(command.user, command.password)
            self._shared.counters.unauthenticated += not self.is_trusted
            self._say(STORED if self.is_trusted else b"CLIENT_ERROR authentication failure\r\n")
        elif isinstance(command, Stats):
            self._say(self._shared.stats(command))
        elif isinstance(command, Flush):
            self._start(self._shared.flush(command), quiet=command.quiet)
        else:
            self._start(_FLOWS[type(command)](self._asks, command), quiet=getattr(command, "quiet", False))

    def _start(self, flow: Flow, *, quiet: bool = False) -> None:
        self._flow, self._quiet = flow, quiet
        self._go_on(None)

    def _go_on(self, refused: Refused | None, results: Any = None) -> None:
        """Let the flow go on until it has to wait, or has something to write, or is done."""
        flow = self._flow
        assert flow is not None, "it waits for something"
        while True:
            try:
                asked = flow.send(results) if refused is None else flow.throw(refused)
            except StopIteration as end:
                self._end(end.value)
                return
            except Refused as problem:
                self._end(problem.line)
                return
            except Exception as error:  # noqa: BLE001  (of whatever kind: it concerns this command)
                self._asks.fail(self.name, error)
                self._end(FAILED)
                return
            refused = None
            if type(asked) is bytes:
                self.out.append(asked)
                self.unsent += len(asked)
                return
            try:
                results = self._asks.begin(self.name, asked)
            except Refused as problem:
                refused = problem
            else:
                if results is WAITING:
                    self._request = asked.request
                    return

    def _end(self, line: bytes) -> None:
        self._flow = None
        self._say(b"" if self._quiet else line)


def _sets(commands: list[Store]) -> Flow:
    try:
        results = yield None
    except Refused as refused:
        return _refused(commands, refused)
    return _stored(commands, results)


def _refused(commands: list[Store], refused: Refused) -> bytes:
    return b"".join([refused.line for command in commands if not command.quiet])


def _stored(commands: list[Store], results: list[Any] | None) -> bytes:
    """Return what is said of sets. ``results``: of each an error, or None; None: there is no error."""
    if results is None:
        return b"".join([STORED for command in commands if not command.quiet])
    return b"".join([_line_of(result) for command, result in zip(commands, results, strict=True) if not command.quiet])


def _line_of(result: Any) -> bytes:
    try:
        check(result)
    except Refused as refused:
        return refused.line
    return STORED
