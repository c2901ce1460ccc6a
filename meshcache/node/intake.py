"""What arrives at a node's bound sockets: requests at the ROUTER, subscriptions at the XPUB.

**Overload.** Requests that come faster than they can be served wait in libzmq and in the kernel, the oldest first. If
all wait longer than their callers do, every one is served too late, and nothing is of use to anybody. So when the
ROUTER has had more input for ``STANDING_S`` on end, the node *sheds*: it takes what there is, much in each turn, which
costs a tenth of serving it, and serves from each connection in turn the newest. Those whose deadline has passed are
dropped. As many may wait as are served in ``WAIT_S``, by the rate of late: more would all be served later than their
callers wait. Each connection has its share of these, and where it has more, its oldest are refused as overloaded, at
once, so that its caller may still go elsewhere. A connection that floods its node only crowds out its own requests, and
of one that does not read what it is sent (connections.py) none wait at all. Nearly all that a flood costs is to receive
it, and whoever asks meanwhile waits for that; so it is received natively, many requests at once (``gather``).

A large reply ends the turn; so twenty connections that ask for those would make each other one wait for twenty turns.
Therefore the node sheds from the first large reply on that others wait behind, or the first request for more than can
be read from other nodes (core/operations/remote_reads.py). Those go first that are known to ask for less; then, one of
a turn at least, the others, and among these who has few requests waiting before who has thousands. What comes from
other nodes is always taken in its order.

Sources: Maurer and Huang, "Fail at Scale" (2015) for the newest first; CoDel (Nichols and Jacobson 2012) for taking a
queue that does not empty, rather than its length, as the sign of overload, and for a bound in time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import zmq

from meshcache.keys import ANYBODY
from meshcache.node.connections import Connection, Connections
from meshcache.node.poller import DONTWAIT, EVENTS, FRAMES_PER_TURN, POLLIN, RCVMORE, SLICE_S, Inlet
from meshcache.protocol.wire import DeadlinePeek, Frame

STANDING_S: Final = 0.05
TAKEN_PER_TURN: Final = 1024
"""Requests taken from the ROUTER in one turn while shedding: about a millisecond of work. It is no time: of that,
too much would go to others who want the processor, and the rest is served for at least as long as this takes."""
WAIT_S: Final = 0.08
"""For about so long may a request wait while shedding: clients make an attempt of a quarter of a second …"""
WAITING_MIN: Final = 16
"""… but so many may wait at any rate, …"""
WAITING_MAX: Final = 32_768
"""… and no more than these."""
RETRY_AFTER_MS_MAX: Final = 2000
MEASURE_S: Final = 0.05
"""The rate of serving is measured over so long at least."""
LATEST_WEIGHT: Final = 0.5
"""The weight of the latest measurement in the rate."""
LIGHT_MAX: Final = 4096
"""How many connections are known to ask for little; beyond that, those are forgotten that have nothing waiting."""
SHED_BYTES_MAX: Final = 2048
"""A larger request is served at once: few of them would fill the memory."""
SUBSCRIPTIONS_MAX: Final = 16
"""Of one connection. Ours has one, to everything."""

Take = Callable[[bytes, Frame, float], bool]
"""Serves a frame; True if the turn must end, since it has enough to answer."""


Gather = Callable[[int, int, bytes], tuple[dict[bytes, list[bytes]], tuple[bytes] | tuple[bytes, bytes] | None]]
"""See UsualTurns.gather."""


IsPast = Callable[[Frame], bool | None]
"""Tells of a client's request whether its deadline is over; None of any other frame."""


class RequestInlet(Inlet):
    """The requests that arrive at a ROUTER, each with its connection."""

    def __init__(
        self,
        router: zmq.Socket[bytes],
        connections: Connections,
        take: Take,
        refuse: Callable[[], None],
        past_by_now: Callable[[], IsPast],
        turn_away: Callable[[bytes, list[bytes], int], None],
        is_from_node: Callable[[Frame], bool] = lambda _: False,
        take_unusual: Take | None = None,
    ) -> None:
        """``past_by_now`` returns what tells of a request if its time is over.

        ``turn_away`` refuses requests for overload, and says after how many milliseconds to come back.
        ``is_from_node`` tells of the first frame of a connection whether a node dialled: nodes are never too many.
        ``take_unusual`` serves what ``UsualTurns`` has left.
        """
        super().__init__(router, take, refuse, pairs=True)
        self._connections = connections
        self._take_unusual = take_unusual or take
        self._router = router
        self._past_by_now = past_by_now
        self._turn_away = turn_away
        self._is_from_node = is_from_node
        self._waiting: dict[bytes, deque[bytes]] = {}
        """While shedding, by connection."""
        self._doomed: dict[bytes, list[bytes]] = {}
        """The same, of those that are to be refused."""
        self._light: set[bytes] = set()
        """Connections whose latest request, while shedding, did not end the turn."""
        self._count = 0
        self._waiting_max = WAITING_MAX
        """How many may wait now."""
        self._served = 0
        """Since the rate of serving was measured, at ``_measured_at``; 0: it has not been, since shedding began."""
        self._refused = 0
        """The same of those refused."""
        self._measured_at = 0.0
        self._rate_per_s = 0.0
        self._retry_after_ms = 0
        """When those refused had better come back: the later, the more there are of them."""
        self._standing_since = 0.0
        """Since when there has been more input after every turn; 0: there was none."""
        self._is_full = False
        """The last turn ended with a large reply, and others wait."""
        self._shedding = False
        self._alone = False
        """Of late there was one request at a time. To look for the next, which costs two calls of the system, can then
        wait until the loop does so before it sleeps."""
        self.late = 0
        """Requests dropped because their time was over."""
        self.gather: Gather | None = None
        """Receives many small requests of clients at once, natively; None: Python receives them one by one."""
        self.in_hand: tuple[bytes] | tuple[bytes, Connection, Frame] | None = None
        """What ``UsualTurns`` has left: a request, or only the origin of one."""

    def is_at_ease(self) -> bool:
        """Tell whether nothing waits here, so that ``UsualTurns`` may receive."""
        return not (self._shedding or self._waiting or self._excess or self._standing_since)

    def has_input(self) -> bool:
        """See Inlet; what was taken and waits is input too."""
        more = bool(self._waiting or self._get(EVENTS) & POLLIN)
        self._alone = not more
        if not more:  # what was measured holds no longer: idle time is no sign that few can be served
            self._standing_since = self._measured_at = 0.0
            self._shedding = False
        return more

    def drain(self, now: float) -> bool:
        """See Inlet."""
        if self.in_hand is not None:
            return self._take_in_hand(now)
        more = self._shed(now) if self._shedding else self._drain(now)
        if self._alone:
            self._alone = False
        elif more or self._standing_since:
            moment = time.monotonic()
            self._standing_since = (self._standing_since or moment) if more else 0.0
            stands = self._is_full or moment - self._standing_since > STANDING_S
            self._shedding = more and (self._shedding or stands)
        return more

    def _take_in_hand(self, now: float) -> bool:
        """Go on with what came alone and was received already; True: look for more before the next sleep."""
        in_hand, self.in_hand = self.in_hand, None
        assert in_hand is not None
        origin, connection, frame = in_hand if len(in_hand) == 3 else (in_hand[0], *self._meet(in_hand[0]))
        connection.take(len(frame))
        if self._get(RCVMORE):
            self._excess = True
            self._refuse()
        else:
            (self._take_unusual if len(in_hand) == 3 else self._take)(origin, frame, now)
        return True

    def _drain(self, now: float) -> bool:
        recv, recv_large, take, clock = self._recv, self._recv_large, self._take, time.monotonic
        known, until = self._connections.known, 0.0
        self._is_full = False
        try:
            for _ in range(FRAMES_PER_TURN):
                if self._excess:
                    recv(DONTWAIT)
                    self._excess = bool(self._get(RCVMORE))
                    continue
                origin = recv(DONTWAIT)
                connection = known.get(origin)
                if connection is None:
                    connection, frame = self._meet(origin)
                else:
                    frame = recv_large(DONTWAIT)
                size = len(frame)
                connection.taken_bytes += size + 2 if size < 256 else size + 9  # as Connection.take, without a call
                more = self._alone or self._get(EVENTS) & POLLIN
                if more and self._get(RCVMORE):
                    self._excess = True
                    self._refuse()
                elif take(origin, frame, now):
                    self._is_full = bool(self._get(EVENTS) & POLLIN)
                    return True
                elif self._alone:
                    return True
                if not more:
                    return False
                if not until:  # where one frame is all there is, the clock need not be read
                    until = clock() + SLICE_S
                elif clock() >= until:
                    return True
        except zmq.Again:
            return False
        return True

    def _meet(self, origin: bytes) -> tuple[Connection, Frame]:
        """Take the first frame of a connection, which tells its descriptor."""
        part = self._router.recv(DONTWAIT, copy=False)
        connection, frame = self._connections.meet(origin, descriptor_of(part), user_of(part)), part.bytes
        if self._connections.are_too_many() and not self._is_node(connection, frame):
            self._connections.refuse(origin)
        return connection, frame

    def _is_node(self, connection: Connection, frame: Frame) -> bool:
        """Tell whether a node dialled: by its key, or where there are none by what it says first."""
        return connection.key.is_node or (connection.key is ANYBODY and self._is_from_node(frame))

    def _shed(self, now: float) -> bool:
        began, is_past = time.monotonic(), self._past_by_now()
        self._measure(began)
        self._clear(is_past)
        more = self._take_all(now, is_past)
        for origin, frames in self._doomed.items():
            self._turn_away(origin, frames, self._retry_after_ms)
            self._refused += len(frames)
        self._doomed.clear()
        ended = time.monotonic()
        # At least as long as the taking took: else there would be no time for serving.
        until = ended + max(SLICE_S, ended - began)
        more = self._serve(now, until) or more or bool(self._waiting)
        if not more:
            self._measured_at = 0.0
        return more

    def _measure(self, moment: float) -> None:
        """Work out from the rate of serving how many may wait."""
        passed_s = moment - self._measured_at
        if not self._measured_at:
            self._measured_at, self._served, self._refused = moment, 0, 0
            self._rate_per_s, self._waiting_max, self._retry_after_ms = 0.0, WAITING_MAX, int(WAIT_S * 1000)
        elif passed_s >= MEASURE_S:
            rate_per_s = self._served / passed_s
            weight = LATEST_WEIGHT if self._rate_per_s else 1.0
            self._rate_per_s += weight * (rate_per_s - self._rate_per_s)
            self._waiting_max = max(WAITING_MIN, min(WAITING_MAX, int(self._rate_per_s * WAIT_S)))
            self._retry_after_ms = min(
                RETRY_AFTER_MS_MAX, int(WAIT_S * 1000 * (1 + self._refused / max(1, self._served)))
            )
            self._measured_at, self._served, self._refused = moment, 0, 0

    def _serve(self, now: float, until: float) -> bool:
        """Serve what waits, until this time; True if the turn must end."""
        waiting, light = self._waiting, self._light
        while waiting and time.monotonic() < until:
            known = [origin for origin in waiting if origin in light]
            for origin in known:
                if self._serve_newest(origin, now):
                    light.discard(origin)
                    return True
            if not known and self._serve_others(now, until):
                return True
        if len(light) > LIGHT_MAX:
            light.intersection_update(waiting)
        return bool(waiting) and self._serve_others(now, 0.0)

    def _serve_others(self, now: float, until: float) -> bool:
        """Serve one connection at least of those that are not known to ask for little; True if the turn must end."""
        waiting, light = self._waiting, self._light
        others = [origin for origin in waiting if origin not in light]
        others.sort(key=lambda origin: len(waiting[origin]).bit_length())  # about as many: those that waited longest
        for origin in others:
            if self._serve_newest(origin, now):
                return True
            light.add(origin)
            if time.monotonic() >= until:
                break
        return False

    def _serve_newest(self, origin: bytes, now: float) -> bool:
        """Serve the newest request of a connection; True if the turn must end."""
        line = self._waiting.pop(origin)
        frame = line.pop()
        self._count -= 1
        self._served += 1
        if line:
            self._waiting[origin] = line  # behind the others: the next turn must not begin with it again
        return bool(self._take(origin, frame, now))

    def _clear(self, is_past: IsPast) -> None:
        """Of what waits, drop what is of use to nobody any more, and refuse what is more than may wait by now."""
        waiting, deaf = self._waiting, self._connections.deaf
        share = self._share()
        for origin, line in list(waiting.items()):
            before = len(line)
            while line and is_past(line[0]):
                line.popleft()
                self.late += 1
            excess = len(line) - (0 if origin in deaf else share)
            self._count -= before - len(line)
            self._shorten(origin, line, excess)
            if not line:
                del waiting[origin]

    def _share(self) -> int:
        """Return how many requests of one connection may wait."""
        return max(1, self._waiting_max // max(1, len(self._waiting)))

    def _take_all(self, now: float, is_past: IsPast) -> bool:
        """Take some of what is there; serve at once what cannot wait."""
        get, clock, taken = self._get, time.monotonic, 0
        until = clock() + SLICE_S
        try:
            while taken < TAKEN_PER_TURN:
                taken += 1
                if self._excess:
                    self._recv(DONTWAIT)
                    self._excess = bool(get(RCVMORE))
                    continue
                count, in_hand = self._take_many(self.gather, now, is_past) if self.gather else (0, None)
                taken += count
                origin, frame = self._receive(in_hand)
                if get(RCVMORE):
                    self._excess = True
                    self._refuse()
                elif len(frame) > SHED_BYTES_MAX or (past := is_past(frame)) is None:
                    if self._take(origin, frame, now) or clock() >= until:
                        return True
                elif past:
                    self.late += 1
                else:
                    self._keep({origin: [bytes(frame)]})
        except zmq.Again:
            return False
        return True

    def _take_many(self, gather: Gather, now: float, is_past: IsPast) -> tuple[int, Any]:
        """Take many small requests at once; return how many, and what else came, see UsualTurns.gather."""
        gathered, other = gather(TAKEN_PER_TURN, SHED_BYTES_MAX, DeadlinePeek.HEAD)
        count = 0
        kept: dict[bytes, list[bytes]] = {}
        for origin, frames in gathered.items():
            connection, kept[origin] = self._connections.known[origin], (in_time := [])
            for frame in frames:
                connection.take(len(frame))
                past = is_past(frame)
                if past is None:  # meant for a former process, or malformed
                    self._take(origin, frame, now)
                elif past:
                    self.late += 1
                else:
                    in_time.append(frame)
            count += len(frames)
        self._keep(kept)
        return count, other

    def _receive(self, in_hand: tuple[bytes] | tuple[bytes, bytes] | None) -> tuple[bytes, Frame]:
        """Receive a message, or the rest of one that is in hand. Raises zmq.Again if there is none."""
        origin = in_hand[0] if in_hand else self._recv(DONTWAIT)
        connection = self._connections.known.get(origin)
        if connection is None:
            connection, frame = self._meet(origin)
        elif in_hand is not None and len(in_hand) == 2:
            frame = in_hand[1]
        else:
            frame = self._recv_large(DONTWAIT)
        connection.take(len(frame))
        return origin, frame

    def _keep(self, requests: dict[bytes, list[bytes]]) -> None:
        """Have requests wait for their turn; where a connection has more than its share, refuse its oldest.

        One request may wait of each connection, until half as many more wait as may; none of those that do not read.
        """
        waiting, deaf = self._waiting, self._connections.deaf
        for origin, frames in requests.items():
            if origin in deaf:  # as in Admission.admit, for a twentieth of the time
                self._doom(origin, frames)
            else:
                waiting.setdefault(origin, deque()).extend(frames)
                self._count += len(frames)
        lines = [(origin, waiting[origin]) for origin in requests if origin in waiting]
        share = self._share()  # of all that ask: else those that come first would take the room of the others
        for origin, line in lines:
            self._shorten(origin, line, len(line) - share)
        for origin, line in lines:
            self._shorten(origin, line, min(len(line), self._count - self._waiting_max * 3 // 2))
            if not line:
                del waiting[origin]

    def _shorten(self, origin: bytes, line: deque[bytes], count: int) -> None:
        """Refuse the oldest requests that wait of a connection."""
        if count > 0:
            self._doom(origin, [line.popleft() for _ in range(count)])
            self._count -= count

    def _doom(self, origin: bytes, frames: list[bytes]) -> None:
        self._doomed.setdefault(origin, []).extend(frames)


class SubscriptionInlet(Inlet):
    """The subscriptions that arrive at an XPUB, each with its connection, which has its descriptor for a name."""

    def __init__(self, xpub: zmq.Socket[bytes], connections: Connections, take: Callable[[bytes], None]) -> None:
        super().__init__(xpub, take, lambda: None)
        self._xpub = xpub
        self._connections = connections

    def drain(self, now: float) -> bool:  # noqa: ARG002  (as every inlet)
        """See Inlet."""
        try:
            for _ in range(FRAMES_PER_TURN):
                part = self._xpub.recv(DONTWAIT, copy=False)
                frame = part.bytes
                self._take(frame)
                if frame[:1] == b"\x01":
                    self._note(descriptor_of(part), user_of(part), len(frame))
        except zmq.Again:
            return False
        return True

    def _note(self, fd: int, user: str, size: int) -> None:
        """Note that a connection subscribed to something."""
        connections = self._connections
        connection = connections.known.get(fd)
        if connection is None or not connections.is_still(connection):
            connection = connections.meet(fd, fd, user)
        connection.take(size)
        connection.subscriptions += 1
        if connection.subscriptions > SUBSCRIPTIONS_MAX:
            connections.shut(fd, f"has more than {SUBSCRIPTIONS_MAX} subscriptions")


def descriptor_of(part: Any) -> int:
    """Return the descriptor of the connection on which a part arrived; -1 if that is not known."""
    try:
        return int(part.get(zmq.SRCFD))
    except (zmq.ZMQError, TypeError, ValueError):
        return -1


def user_of(part: Any) -> str:
    """Return who the connection on which a part arrived was let in as; empty if nobody asked for that."""
    try:
        return str(part.get("User-Id"))
    except (zmq.ZMQError, TypeError, ValueError):
        return ""
