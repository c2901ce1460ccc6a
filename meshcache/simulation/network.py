"""A virtual network that behaves like ZeroMQ's DEALER and ROUTER over TCP, or worse if asked to.

A *line* is a dialled connection, like that of a DEALER with IMMEDIATE=1: it connects by itself again and again, takes
no frame while it is not connected, and tells when it comes up and goes down. Answers come back on the line of the
request, found by the dialler's routing id. When a line goes down all frames on it are lost.

TCP neither loses nor doubles nor reorders within a connection; here a *weather* may do so to any frame, so that the
protocol cannot come to rely on it. Cuts are directed: a host may be heard while it hears nothing. Frames that go
through a *clog* arrive, but not before it is over.

A line takes only so many frames that are still under way, like ZeroMQ's high-water marks: beyond that, a dialler is
told that its frame was refused, and a listener's answer is dropped.

In the trace a frame ``->`` arrives, ``=>`` arrives as a copy, ``~>`` arrives at the next process at that address,
``-x`` is lost, and ``-|`` finds the line full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from meshcache.simulation.world import World

RECONNECT_S: Final = 0.1
"""About how long a line waits before it dials again."""

RESET_S: Final = 0.005
"""The longest time until a dialler learns that the process at the other end is gone."""


STREAM: Final = " stream"
"""Put behind the name of a node, it names the node's stream, which can be cut off by itself."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to frames: all rates per frame."""

    delay_s: float = 0.001
    """The mean delay, of an exponential distribution."""
    delay_min_s: float = 0.0002
    loss: float = 0.0
    duplication: float = 0.0
    """Only between nodes: for a node, a client's request that arrives twice is two requests."""
    in_order: bool = True
    """Whether each line keeps the order of its frames."""
    stale: float = 0.0
    """How often a frame that was under way when its line broke is given to the next process at that address."""
    pipe_frames: int = 0
    """How many frames can be under way on a line, in each direction; 0: any number."""


CALM: Final = Weather()


class Dialler(Protocol):
    """A process that opens lines."""

    name: str
    routing_id: bytes
    between_nodes: bool

    def on_up(self, address: str) -> None:
        """Note that the line is connected."""

    def on_down(self, address: str) -> None:
        """Note that the line broke; it dials again."""

    def on_refused(self, address: str) -> None:
        """Note that nobody listens at the address; the line dials again."""

    def on_answer(self, address: str, frame: bytes) -> None:
        """Take a frame that arrived on the line."""


class Subscriber(Protocol):
    """A process that follows invalidation streams."""

    name: str

    def on_stream(self, frame: bytes) -> None:
        """Take a frame that a node has published."""


class Listener(Protocol):
    """A process that listens at an address."""

    name: str
    paused: bool

    def on_request(self, origin: bytes, frame: bytes) -> None:
        """Take a frame that arrived from a dialler."""


class Line:
    """One dialled connection; ``up`` while it stands."""

    def __init__(self, network: Network, dialler: Dialler, address: str) -> None:
        self.network = network
        self.dialler = dialler
        self.address = address
        self.routing_id = dialler.routing_id
        self.listener: Listener | None = None
        self.up = False
        self.closed = False
        self.epoch = 0
        """Counts the connections: a frame of a former one is lost."""
        self.ready_at = [0.0, 0.0]
        """When the last frame of each direction arrives."""
        self.under_way = [0, 0]
        """Frames of each direction that have not arrived yet."""

    def send(self, frame: bytes) -> bool:
        """Send a frame to the listener; return False if the line is not connected, or full."""
        if not self.up:
            return False
        assert self.listener is not None
        if self.network.is_full(self, 0):
            self.network.world.tally("pipe full")
            self.network.world.note_frame(f"{self.dialler.name} -| {self.listener.name}", frame)
            return False
        self.network.transmit(self, 0, self.dialler.name, self.listener.name, frame)
        return True

    def close(self) -> None:
        """Close the line for good; frames under way are lost."""
        self.closed = True
        self._disconnect()

    def break_down(self) -> None:
        """Break the connection; the line dials again."""
        if self.up and not self.closed:
            self._disconnect()
            self.dialler.on_down(self.address)
            self.network.redial(self)

    def _disconnect(self) -> None:
        if self.up:
            self.network.forget(self)
        self.up = False
        self.listener = None
        self.epoch += 1


class Network:
    """All listeners and lines."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.weather = CALM
        self.frames = 0
        self._listeners: dict[str, Listener] = {}
        self._lines: dict[tuple[str, bytes], Line] = {}
        """Connected lines by (address, routing id)."""
        self._cuts: dict[tuple[str, str], None] = {}
        self._clogs: dict[tuple[str, str], float] = {}
        """By (from, to), the time until which nothing arrives."""
        self.stream_loss = 0.0
        """How often a published frame does not reach a subscriber; PUB sockets tell nobody."""
        self._audiences: dict[str, dict[Subscriber, float]] = {}
        """By publish address, the subscribers that follow it, and when the last frame arrives at each."""

    # Listeners

    def listen(self, address: str, listener: Listener) -> None:
        """Let a process listen at an address."""
        self._listeners[address] = listener

    def vanish(self, address: str, dialled: list[Line]) -> None:
        """End the process at an address, with its own lines; the processes that dialled it learn of that soon."""
        del self._listeners[address]
        for line in dialled:
            line.close()
        for (there, _), line in list(self._lines.items()):
            if there == address:
                self.world.after(self.world.rng.uniform(0, RESET_S), self._reset, line, line.epoch)

    def _reset(self, line: Line, epoch: int) -> None:
        if line.epoch == epoch:
            line.break_down()

    # Lines

    def dial(self, dialler: Dialler, address: str) -> Line:
        """Open a line."""
        line = Line(self, dialler, address)
        self.world.after(2 * self._delay_s(), self._attempt, line)
        return line

    def redial(self, line: Line) -> None:
        """Dial a line again, after a moment."""
        self.world.after(RECONNECT_S * self.world.rng.uniform(0.5, 1.5), self._attempt, line)

    def _attempt(self, line: Line) -> None:
        if line.closed:
            return
        listener = self._listeners.get(line.address)
        name = line.dialler.name
        if listener is None:
            line.dialler.on_refused(line.address)
            if not line.closed:
                self.redial(line)
        elif listener.paused or self.is_cut(name, listener.name) or self.is_cut(listener.name, name):
            self.redial(line)
        else:
            key = (line.address, line.routing_id)
            former = self._lines.get(key)
            if former is not None:
                former.break_down()  # ROUTER_HANDOVER
            self._lines[key] = line
            line.listener, line.up = listener, True
            line.ready_at = [0.0, 0.0]
            line.under_way = [0, 0]
            self.world.note(f"{name} -> {listener.name} connected")
            line.dialler.on_up(line.address)

    def forget(self, line: Line) -> None:
        """Note that a line is no longer connected."""
        key = (line.address, line.routing_id)
        if self._lines.get(key) is line:
            del self._lines[key]

    def reply(self, address: str, origin: bytes, frame: bytes) -> bool:
        """Send a frame back to the dialler; return False if its line is gone, or full."""
        line = self._lines.get((address, origin))
        if line is None or line.listener is None:
            return False
        if self.is_full(line, 1):
            self.world.tally("answer dropped")
            self.world.note_frame(f"{line.listener.name} -| {line.dialler.name}", frame)
            return False
        self.transmit(line, 1, line.listener.name, line.dialler.name, frame)
        return True

    # Streams

    def subscribe(self, subscriber: Subscriber, addresses: list[str]) -> None:
        """Let a subscriber receive what is published at these addresses, and at no others."""
        for address, audience in self._audiences.items():
            if address not in addresses:
                audience.pop(subscriber, None)
        for address in addresses:
            self._audiences.setdefault(address, {}).setdefault(subscriber, 0.0)

    def publish(self, address: str, source: str, frame: bytes) -> None:
        """Send a frame to all subscribers of this address: in order, or not at all."""
        world = self.world
        audience = self._audiences.get(address, {})
        for subscriber, ready_at in audience.items():
            self.frames += 1
            if world.rng.random() < self.stream_loss or self.is_cut(source + STREAM, subscriber.name):
                world.note_frame(f"{source} -x {subscriber.name}", frame)
                continue
            audience[subscriber] = arrives = max(ready_at, world.now + self._delay_s())
            world.at(arrives, self._deliver_published, subscriber, source, frame)

    def _deliver_published(self, subscriber: Subscriber, source: str, frame: bytes) -> None:
        self.world.note_frame(f"{source} => {subscriber.name}", frame)
        subscriber.on_stream(frame)

    # Cuts

    def cut(self, source: str, target: str) -> None:
        """Lose everything that one host sends to another."""
        self._cuts[source, target] = None

    def mend(self, source: str, target: str) -> None:
        """Undo one cut."""
        self._cuts.pop((source, target), None)

    def clog(self, source: str, target: str, for_s: float) -> None:
        """Hold back what one host sends to another."""
        until = self.world.now + for_s
        self._clogs[source, target] = max(until, self._clogs.get((source, target), 0.0))

    def heal(self) -> None:
        """End all cuts, and hold back nothing that is sent from now on."""
        self._cuts.clear()
        self._clogs.clear()

    def is_full(self, line: Line, direction: int) -> bool:
        """Tell whether a line takes no more frames in this direction."""
        return 0 < self.weather.pipe_frames <= line.under_way[direction]

    def is_cut(self, source: str, target: str) -> bool:
        """Tell whether frames from one host to another are lost."""
        return (source, target) in self._cuts

    # Frames

    def _delay_s(self) -> float:
        weather = self.weather
        return weather.delay_min_s + self.world.rng.expovariate(1.0) * weather.delay_s

    def transmit(self, line: Line, direction: int, source: str, target: str, frame: bytes) -> None:
        """Send a frame."""
        world, weather = self.world, self.weather
        rng = world.rng
        self.frames += 1
        if self._cuts and (source, target) in self._cuts:
            world.note_frame(f"{source} -x {target}", frame)
            return
        if weather.loss and rng.random() < weather.loss:
            world.tally("drop")
            world.note_frame(f"{source} -x {target}", frame)
            return
        self._schedule(line, direction, (source, "->", target), frame)
        if weather.duplication and line.dialler.between_nodes and rng.random() < weather.duplication:
            world.tally("duplicate")
            self._schedule(line, direction, (source, "=>", target), frame)

    def _schedule(self, line: Line, direction: int, way: tuple[str, str, str], frame: bytes) -> None:
        arrives = self.world.now + self._delay_s()
        if self._clogs:
            arrives = max(arrives, self._clogs.get((way[0], way[2]), 0.0))
        if arrives >= line.ready_at[direction]:
            line.ready_at[direction] = arrives
        elif self.weather.in_order:
            arrives = line.ready_at[direction]
        else:
            self.world.tally("reorder")
        line.under_way[direction] += 1
        self.world.at(arrives, self._deliver, line, line.epoch, direction, way, frame)

    def _deliver(self, line: Line, epoch: int, direction: int, way: tuple[str, str, str], frame: bytes) -> None:
        world = self.world
        if line.epoch == epoch:
            line.under_way[direction] -= 1
            world.note_frame(" ".join(way), frame)
            if direction:
                line.dialler.on_answer(line.address, frame)
            elif line.listener is not None:
                line.listener.on_request(line.routing_id, frame)
        elif self.weather.stale and not direction and world.rng.random() < self.weather.stale:
            listener = self._listeners.get(line.address)
            if listener is not None:
                world.tally("stale delivery")
                world.note_frame(f"{way[0]} ~> {way[2]}", frame)
                listener.on_request(line.routing_id, frame)
