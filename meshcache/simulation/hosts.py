"""A node's process in the simulation: the driver of a NodeCore, like server.py, with crashes and pauses.

What arrives waits until the next *turn* of the process: then all of it is handled, the core ticks, and its effects are
carried out. A slow process has late turns, and so more to do in each. A paused one (SIGSTOP) has none; its connections
stand, and it finds the whole backlog when it goes on. A crash (SIGKILL) loses everything in memory. An *ambush* is a
crash while the core is doing a certain thing: in the first turn in which it does, or in one of the next, and after only
a part of what that turn sends was sent.

Each host has its own clocks: monotonic time that runs a little fast or slow, and wall time that is wrong by some
amount. While a machine is suspended its monotonic time stands still, and its wall time is right again afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from meshcache.address import split_address
from meshcache.config import Config
from meshcache.core.node import NodeCore
from meshcache.core.storage.charges import PYTHON
from meshcache.protocol.clock import LocalClock
from meshcache.protocol.wire import decode_frame
from meshcache.simulation.disks import Disk
from meshcache.simulation.history import Violation
from meshcache.simulation.network import Line, Network
from meshcache.simulation.world import World

EPOCH_MS: Final = 1_800_000_000_000
"""The wall time at which simulations begin."""

_CLOCK_START: Final = 1000.0

LONG_PAUSE_S: Final = 3.0
"""With the default settings, a process that was stopped for longer than this is certainly counted dead."""

RESTART_S: Final = 1.0
"""After how long a process that was refused is started again."""

LEAVE_S: Final = 0.3
"""How long a leaving process still runs, so that others hear of it."""


class NodeHost:
    """A process that runs a node, has run it, or will run it."""

    between_nodes = True

    def __init__(
        self,
        world: World,
        network: Network,
        config: Config,
        *,
        wall_offset_ms: int = 0,
        rate: float = 1.0,
        turn_s: float = 0.0002,
        impostor: bool = False,
    ) -> None:
        self.world = world
        self.network = network
        self.config = config
        self.name = config.node.node_id
        self.address = config.node.listen
        self.routing_id = b""
        self.core: NodeCore | None = None
        self.paused = False
        self.wall_offset_ms = wall_offset_ms
        self.rate = rate
        self.turn_s = turn_s
        """How long a frame that arrives waits for a turn."""
        self.impostor = impostor
        """Whether its id belongs to another node, so that it must be refused."""
        self.refused = 0
        self.starts = 0
        self.on_turn: Callable[[NodeHost], None] | None = None
        """Called after each turn, for checkers."""
        self.disk: Disk | None = None
        """Where it keeps snapshots, if they are on."""
        self.lines: dict[str, Line] = {}
        self._inbox: list[tuple[Any, ...]] = []
        self._turn_at: float | None = None
        self._paused_at = 0.0
        self._stood_still_s = 0.0
        """How long the machine was suspended so far."""
        self._clock = LocalClock(0.0, 0.0)
        self._suspended_at: float | None = None
        self._ambush: tuple[str, Callable[[NodeCore], bool], int] | None = None

    @property
    def running(self) -> bool:
        """Tell whether there is a process that is not paused."""
        return self.core is not None and not self.paused

    def clock(self) -> float:
        """Return this process's monotonic time."""
        return self._clock.read(self._monotonic(), self.wall_s())

    def _monotonic(self) -> float:
        return _CLOCK_START + self.world.now * self.rate - self._stood_still_s

    def wall_s(self) -> float:
        """Return the wall time of this host."""
        return (EPOCH_MS + self.wall_offset_ms) / 1000 + self.world.now * self.rate

    def _world_time(self, clock: float) -> float:
        """Return at which time of the world this host's clock will show a time."""
        return (clock - self._clock.stood_still_s + self._stood_still_s - _CLOCK_START) / self.rate

    # What happens to the process

    def start(self) -> None:
        """Start a process, with an empty memory and a new boot id."""
        assert self.core is None
        self.starts += 1
        wall_ms = int(self.wall_s() * 1000)
        boot = wall_ms << 16 | self.world.rng.getrandbits(16)
        rng = type(self.world.rng)(boot)
        self._clock = LocalClock(self._monotonic(), self.wall_s())
        self.routing_id = b"\x01%b %d" % (self.name.encode(), boot)
        saved = None if self.disk is None else self.disk.load(self.config, self.world.now, wall_ms)
        # A seed gives the same run whichever store there is: so both charge by the same figures.
        self.core = NodeCore(
            self.config, boot=boot, rng=rng, now=self.clock(), wall_ms=wall_ms, saved=saved, charges=PYTHON
        )
        self.paused = False
        self._inbox = []
        self.network.listen(self.address, self)
        self.world.note(f"{self.name} starts")
        self._plan_turn(self.world.now)

    def crash(self) -> None:
        """Kill the process; its memory is lost."""
        assert self.core is not None
        self.world.note(f"{self.name} crashes")
        self.core = None
        self.paused = False
        self._suspended_at = self._ambush = None
        self._turn_at = None
        lines = list(self.lines.values())
        self.lines = {}
        self.network.vanish(self.address, lines)

    def pause(self) -> None:
        """Stop the process without killing it."""
        self.world.note(f"{self.name} is paused")
        self.paused = True
        self._paused_at = self.world.now
        self._turn_at = None

    def resume(self) -> None:
        """Let a paused process go on; everything that arrived meanwhile is there at once."""
        if self.paused:
            self.world.note(f"{self.name} goes on")
            if self.world.now - self._paused_at > LONG_PAUSE_S:
                self.world.tally("long pause")
            if self._suspended_at is not None:
                self._stood_still_s += (self.world.now - self._suspended_at) * self.rate
                self._suspended_at = None
            self.paused = False
            self._plan_turn(self.world.now)

    def suspend(self) -> None:
        """Pause the whole machine: the process will not see that time has passed."""
        self.pause()
        self._suspended_at = self.world.now

    def ambush(self, fault: str, at_it: Callable[[NodeCore], bool], turns: int) -> None:
        """Let the process crash in a turn in which the core is doing something; not in the first such turn."""
        self._ambush = fault, at_it, turns

    def call_off(self) -> None:
        """Cancel an ambush."""
        self._ambush = None

    def retire(self) -> None:
        """Let the process hand over what it holds, leave, and end."""
        assert self.core is not None
        self.world.note(f"{self.name} retires")
        self.core.retire(self.clock())
        self._plan_turn(self.world.now)

    def leave(self) -> None:
        """Let the process leave the mesh at once, and end; nothing is handed over."""
        assert self.core is not None
        self.world.note(f"{self.name} leaves")
        self.core.leave(self.clock())
        self._plan_turn(self.world.now)
        self.world.after(LEAVE_S, self._end, self.core)

    def _end(self, core: NodeCore) -> None:
        if self.core is core:
            if self.disk is not None:
                self.disk.finish(core)
            self.crash()

    # What the network calls

    def on_up(self, address: str) -> None:
        """See network.Dialler."""
        self._arrive("link_up", address)

    def on_down(self, address: str) -> None:
        """See network.Dialler."""
        self._arrive("link_down", address)

    def on_refused(self, address: str) -> None:
        """See network.Dialler."""
        membership = None if self.core is None else self.core.membership
        if membership is not None and (membership.suspicions or len(membership.newcomers)):
            self._arrive("link_refused", address)

    def on_answer(self, address: str, frame: bytes) -> None:
        """See network.Dialler."""
        self._arrive("receive_answer", address, frame)

    def on_request(self, origin: bytes, frame: bytes) -> None:
        """See network.Listener."""
        self._arrive("receive_request", origin, frame)

    def _arrive(self, *event: Any) -> None:
        if self.core is not None:
            self._inbox.append(event)
            self._plan_turn(self.world.now + self.turn_s)

    # Turns

    def _plan_turn(self, when: float) -> None:
        if not self.paused and (self._turn_at is None or when < self._turn_at):
            self._turn_at = when
            self.world.at(when, self._turn, when)

    def _turn(self, when: float) -> None:
        core = self.core
        if core is None or self.paused or self._turn_at != when:
            return
        self._turn_at = None
        try:
            self._take_turn(core)
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"exit: the process of {self.name} ends: {type(error).__name__}: {error}") from error

    def _take_turn(self, core: NodeCore) -> None:
        now = self.clock()
        inbox, self._inbox = self._inbox, []
        for name, *arguments in inbox:
            if name in {"link_down", "link_refused", "receive_answer"} and arguments[0] not in self.lines:
                continue  # the socket was closed in the meantime
            getattr(core, name)(*arguments, now)
        was_gone = core.gone
        core.tick(now)
        if self._is_ambushed(core):
            self._perform(core, now, partly=True)
            self.crash()
            return
        self._perform(core, now)
        if core.fatal is not None:
            self._end_refused(core.fatal)
            return
        if core.gone and not was_gone:
            self.world.after(LEAVE_S, self._end, core)
        if self.disk is not None:
            self.disk.take_turn(core, self.world.now)
        if self.on_turn is not None:
            self.on_turn(self)
        self._plan_turn(max(self.world.now + self.turn_s, self._world_time(core.next_deadline())))

    def _is_ambushed(self, core: NodeCore) -> bool:
        if self._ambush is None:
            return False
        fault, at_it, turns = self._ambush
        if not at_it(core):
            return False
        self._ambush = fault, at_it, turns - 1
        if not turns:
            self.world.strike(fault, self.name)
        return not turns

    def _end_refused(self, reason: str) -> None:
        """End a process whose id is taken. If it is no impostor, a supervisor starts it again."""
        self.world.note(f"{self.name} refuses to run: {reason}")
        self.refused += 1
        self.crash()
        if not self.impostor:
            self.world.after(RESTART_S, self._start_again, self.starts)

    def _start_again(self, starts: int) -> None:
        if self.core is None and self.starts == starts:
            self.start()

    def _perform(self, core: NodeCore, now: float, *, partly: bool = False) -> None:
        effects = core.drain()
        if partly:
            del effects.sends[self.world.rng.randint(0, len(effects.sends)) :]
            del effects.replies[self.world.rng.randint(0, len(effects.replies)) :]
        for address in effects.disconnect:
            line = self.lines.pop(address, None)
            if line is not None:
                line.close()
        for address in effects.connect:
            split_address(address)  # must be valid, as a real socket requires
            self.lines[address] = self.network.dial(self, address)
        for address, frame in effects.sends:
            line = self.lines.get(address)
            if line is None or not line.send(frame):
                core.undeliverable(address, now)
        for origin, frame in effects.replies:
            if not self.network.reply(self.address, origin, frame):
                core.counters.undeliverable += 1
        for frame in effects.publish:
            decode_frame(frame)  # must be well formed, whether anybody subscribes or not
            self.network.publish(self.config.node.publish_address, self.name, frame)
