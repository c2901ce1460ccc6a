"""A node with its sockets: one thread, one poll loop, around a NodeCore.

::

    clients, peers --ROUTER (bound)--> receive_request        Effects.replies --> the same ROUTER
    peers <--DEALER per address-------  receive_answer        Effects.sends ----> that DEALER
    subscribers <--XPUB (bound)--------                       Effects.publish --> XPUB
    other nodes' XPUB --SUB------------> receive_stream       only while Effects.follow names them: see hotcopies.py

A turn: wait, drain the sockets to a budget, tick, then do what the core wants done, one frame per destination. Nothing
blocks but the wait: sends are DONTWAIT, and what cannot be sent is counted and reported to the core.

One bound ROUTER for input and one DEALER per peer for output (links.py), because two ROUTERs that dial each other can
abort the process or misroute. What decides the options of each socket is said where they are: sockets/options.py.

libzmq bounds neither the bytes of an unfinished message nor those that wait for a slow peer: memory.py and
connections.py do, by cutting who is to blame. Nobody can take over another's connection: the DEALERs of nodes have no
routing id of their own choice, the ROUTER gives each connection a new one, and one that is in use stays with its owner
(no ROUTER_HANDOVER).
"""

from __future__ import annotations

import gc
import random
import resource
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import zmq

from meshcache.address import is_loopback, split_address
from meshcache.config import Config
from meshcache.contradictions import HTTP_OFF
from meshcache.core.counters import SLOW_TURN_S
from meshcache.core.handshake import is_from_node
from meshcache.core.node import NodeCore
from meshcache.core.outbox import Effects
from meshcache.core.peers import LINKS_MAX
from meshcache.core.storage.snapshot import Saved
from meshcache.errors import ConfigError
from meshcache.keys import SecretKey
from meshcache.node import http
from meshcache.node.authentication import Authentication, ZapInlet
from meshcache.node.connections import Connections
from meshcache.node.doorway import Doorway
from meshcache.node.endpoints import Endpoints
from meshcache.node.host import build, host_facts
from meshcache.node.http import HttpServer
from meshcache.node.intake import RequestInlet, SubscriptionInlet
from meshcache.node.journal import Journal
from meshcache.node.links import FILES_PER_LINK, Links
from meshcache.node.memory import Watch, process_statistics
from meshcache.node.poller import DONTWAIT, SNDMORE, Awaited, Inlets
from meshcache.node.pulse import Pulse, Snapshot
from meshcache.node.snapshots import Snapshots
from meshcache.node.usual_turns import usual_turns
from meshcache.protocol.clock import LocalClock
from meshcache.sockets import options
from meshcache.sockets.context import open_context
from meshcache.sockets.curve import listening
from meshcache.sockets.dealer import COPIED_BYTES_MAX, sender
from meshcache.sockets.listener import bind_again, listen, new_listener
from meshcache.web.certificates import server_context
from meshcache.web.tokens import Tokens

if TYPE_CHECKING:
    from meshcache._native._compiled import UsualTurns
    from meshcache.node.memcached.door import Door

BIND_WAIT_S: Final = 1.0
"""How long a starting node waits for a port that is taken."""
EARLY_S: Final = 0.02
"""A look at memory that is due so soon is taken in the turn at hand: half of what an idle node costs are turns."""
HTTP_NOTES_MAX: Final = 64
_DONTWAIT_MORE: Final = DONTWAIT | SNDMORE


@dataclass(frozen=True, slots=True)
class Asked:
    """What a node's owner has asked of it, from whatever thread."""

    to_stop: threading.Event
    to_drain: threading.Event


@dataclass(frozen=True, slots=True)
class _Entrance:
    """Where requests come in: the ROUTER, who is connected to it, and what takes their messages."""

    router: zmq.Socket[bytes]
    send: Callable[..., object]
    connections: Connections
    inlet: RequestInlet
    turns: UsualTurns | None


class Server:
    """One node, from its sockets to its last words. Raises ConfigError where it cannot listen, or must not run."""

    def __init__(
        self, config: Config, asked: Asked, wake_fd: int, wake: Callable[[], None], *, supervised: bool
    ) -> None:
        """``wake`` makes ``wake_fd`` readable, which ends the loop's sleep; ``supervised``: see NodeCore."""
        self._config = config
        self._asked = asked
        self._supervised = supervised
        self._on_look: Callable[[], None] | None = None
        self.pulse = Pulse(wake)
        self._http: HttpServer | None = None
        self._tokens: Tokens | None = None
        self._door: Door | None = None
        self._http_notes: deque[tuple[str, dict[str, Any]]] = deque(maxlen=HTTP_NOTES_MAX)
        """What the thread of HTTP has for the log, which is written by the loop's."""
        self._journal = Journal(config.node.node_id)
        # A link takes its own socket, and the two ends of its monitor.
        self._context = open_context(sockets_max=3 * LINKS_MAX + 64)
        self._inlets = Inlets()
        self._snapshots: Snapshots | None = None
        self.authentication: Authentication | None = None
        self._doorways: dict[str, Doorway] = {}
        """By address, where peers with and without keys are let in."""
        try:
            self._open_authentication()
            # Before it can be called: to load may take seconds.
            saved = self._open_snapshots()
            router = self._listen(zmq.ROUTER, BIND_WAIT_S)
            self._xpub = self._listen(zmq.XPUB, BIND_WAIT_S)
            self._http = self._listen_http()
            now, wall = time.monotonic(), time.time()
            self._clock = LocalClock(now, wall)
            self.core = self._make_core(now, int(wall * 1000), saved)
            self.links = self._make_links(wake)
            self._inlets.watch(wake_fd)
            self._listeners = self._connections(config.node.publish_address)
            self._xpub_inlet = SubscriptionInlet(self._xpub, self._listeners, self._on_subscription)
            self._inlets.add(self._xpub_inlet)
            self._subscriptions = 0
            self.core.note_subscribers(present=False)
            self.entrance = self._enter(router)
            if config.memcached.listen:
                self._open_door()
            # The store's lists grow to millions of entries, all of them atoms: the collector need never look at them.
            gc.collect()
            gc.freeze()
            self.watch = Watch(
                lambda: (self.entrance.connections, self._listeners),
                self._held_bytes,
                wake_fd,
            )
        except BaseException:  # whatever it was: the ports must be free again
            self._close_sockets()
            raise

    def run(self, on_ready: Callable[[], None] | None, on_look: Callable[[], None] | None) -> None:
        """Serve until asked to stop, or until the node has left.

        ``on_ready`` is called once, when it has joined; ``on_look`` several times a second, from the loop's turns.
        """
        self._on_look = on_look
        if self._http is not None:
            self._http.start()
        self._loop(on_ready)
        self._say_goodbye()
        if self._snapshots is not None and self.core.saving is not None:
            self._snapshots.finish(self.core.saving)

    def close(self) -> None:
        """Close every socket. To be called from the thread that made this."""
        self.links.close()
        self._close_sockets()

    def _close_sockets(self) -> None:
        if self._http is not None:
            self._http.close()
        if self._snapshots is not None:
            self._snapshots.close()
        for doorway in self._doorways.values():
            doorway.close()
        if self._door is not None:
            self._door.close()
        self._inlets.close()
        self._context.destroy(linger=0)

    @property
    def _key(self) -> SecretKey | None:
        return None if self.authentication is None else self.authentication.key

    def _open_authentication(self) -> None:
        """Begin to answer who may connect, where that is asked. This comes before anything is bound."""
        if self._config.security.key_file:
            self.authentication = Authentication(self._config, self._journal.tell)
            self._inlets.add(ZapInlet(self._context, self.authentication))

    def _connections(self, address: str) -> Connections:
        """Return the book of those who connect to an address where this node listens."""
        limit = _clients_max(self._config.limits.connections_max)
        if self.authentication is None:
            return Connections(split_address(address)[1], self._journal.tell, limit)
        # Behind a door, the kernel's figures of a connection are not those of the peer: nobody is cut by them.
        port = 0 if self.authentication.permissive else split_address(address)[1]
        return Connections(port, self._journal.tell, limit, self.authentication.who)

    def _make_links(self, wake: Callable[[], None]) -> Links:
        parts = self.core, self._context, self._inlets, self._clock, self._config.limits, wake, self._count_malformed
        return Links(*parts, self._key, permissive=self._config.security.permissive)

    def _open_snapshots(self) -> Saved | None:
        """Return what there is of this node's former life, if snapshots are on."""
        if not self._config.snapshot.enabled:
            return None
        self._snapshots = Snapshots(self._config, self._journal.tell)
        return self._snapshots.load(int(time.time() * 1000))

    def _loop(self, on_ready: Callable[[], None] | None) -> None:
        core, inlets, clock, watch, links = self.core, self._inlets, self._clock, self.watch, self.links
        pulse, door = self.pulse, self._door
        to_stop, to_drain, snapshots = self._asked.to_stop, self._asked.to_drain, self._snapshots
        while not to_stop.is_set() and not core.gone:
            deadline = min(core.next_deadline(), watch.next_at) - clock.stood_still_s
            if snapshots is not None:
                deadline = min(deadline, snapshots.deadline())
            began = self._serve_until(deadline)
            if links.found or links.seeds_found or links.dial_again:
                links.connect_found(began)
            core.tick(began)
            if to_drain.is_set():
                core.retire(began)
            if door is not None:
                door.collect(began)
            effects = core.drain()
            self._perform(effects)
            if on_ready is not None and core.ready:
                on_ready()
                on_ready = None
            if pulse.asked:
                self._tell()
            ended = self._end_turn(began)
            inlets.recheck(ended)
            if ended >= watch.next_at - EARLY_S:
                self._look_after(ended)
            if snapshots is not None and core.saving is not None:
                snapshots.run(core.saving)

    def _serve_until(self, deadline: float) -> float:
        """Take what arrives, turn after turn; return when the turn began that has more to do than to send replies.

        Most turns of a busy node have not: they serve usual requests, or take usual answers, and what costs them most
        is to look for what might be due besides. ``deadline``: by the monotonic clock, when something is.
        """
        core, inlets, clock, answers = self.core, self._inlets, self._clock, self.links.inlets
        usual: tuple[object, ...] = self.entrance.inlet, self._door
        monotonic, due_at = time.monotonic, deadline + clock.stood_still_s
        wait = inlets.wait
        while True:
            woken = wait(deadline - monotonic())
            began = clock.read(monotonic(), time.time())
            inlets.drain(woken, began, core.outbox.has_enough_to_reply)
            if core.disturbed or began >= due_at or inlets.called or not woken:
                return began
            if not all([each in usual or each in answers for each in woken]):  # noqa: C419  (a list is faster)
                return began
            if core.outbox.events or core.outbox.sends:
                self._perform(core.drain())
            elif core.outbox.replies:
                self._reply(core.replies())
            self._end_turn(began)
            wait = self._serve_natively  # what comes after what was usual mostly is usual, too

    def _serve_natively(self, timeout_s: float) -> list[Awaited]:
        """Sleep as ``Inlets.wait`` does, and return what that returns; take usual turns natively in the meantime."""
        inlets, inlet, turns, clock, links = (
            self._inlets,
            self.entrance.inlet,
            self.entrance.turns,
            self._clock,
            self.links,
        )
        if turns is None or not inlet.is_at_ease() or not inlets.are_still(but={inlet, *links.inlets}):
            return inlets.wait(timeout_s)
        deadline = time.monotonic() + timeout_s
        return inlets.woken(turns.serve(deadline, clock.stood_still_s, clock.ahead_s_max, links.lines), [])

    def _end_turn(self, began: float) -> float:
        """Note that a turn has ended; return when."""
        counters = self.core.counters
        self.pulse.turned_at = moment = time.monotonic()
        ended = moment + self._clock.stood_still_s
        latencies = self.core.coordinator.pending.latencies
        if latencies.ended:
            latencies.end_turn(ended)
        counters.loop.turns += 1
        counters.loop.busy_s += (took_s := ended - began)
        if took_s > SLOW_TURN_S or took_s * 1000 > counters.longest_turn_ms:
            self._note_slow_turn(took_s)
        return ended

    def _look_after(self, now: float) -> None:
        """See to memory, descriptors, and connections that do not read."""
        counters, entrance = self.core.counters, self.entrance
        if self._on_look is not None:
            self._on_look()
        if self.watch.next_at:
            counters.loop.note_lag(now - self.watch.next_at, now)
        excess_bytes = self.watch.run(now)
        counters.connections = len(entrance.connections.known)
        counters.connections_cut = entrance.connections.cut + self._listeners.cut
        counters.connections_refused = entrance.connections.refused
        counters.late += entrance.inlet.late
        entrance.inlet.late = 0
        if self._door is not None:
            self._door.look(now)
        if self._tokens is not None:
            counters.http_refused = self._tokens.refused
        while self._http_notes:
            event, fields = self._http_notes.popleft()
            self._journal.tell(event, **fields)
        self._journal.catch_up()
        if self.authentication is not None:
            self._follow_keys(self.authentication, now)
        if excess_bytes and not entrance.router.closed:
            counters.router_resets += 1
            self._journal.tell("router_reset", excess_bytes=excess_bytes)
            self._inlets.remove(entrance.inlet)
            entrance.router.close(0)
        if entrance.router.closed:
            self._listen_anew()

    def _follow_keys(self, authentication: Authentication, now: float) -> None:
        """Let it hold from now on if the directory of allowed keys has changed."""
        counters = self.core.counters
        counters.keys_refused = authentication.refused
        for doorway in self._doorways.values():
            while doorway.without_key:
                counters.without_key += 1
                self._journal.tell("without_key", peer=doorway.without_key.popleft())
        if authentication.look(now):
            self.core.allow(authentication.nodes, now)
            for connections in (self.entrance.connections, self._listeners):
                connections.follow_keys()

    def _note_slow_turn(self, took_s: float) -> None:
        counters = self.core.counters
        if took_s > SLOW_TURN_S:
            counters.loop.note_slow(took_s)
        counters.longest_turn_ms = max(counters.longest_turn_ms, took_s * 1000)

    def _tell(self) -> None:
        """Answer what another thread has asked. What fails in that concerns nobody but it."""
        try:
            self.pulse.tell(self._account)
        except Exception as error:  # noqa: BLE001  (of whatever kind)
            self.core.fail("telling of itself", "", error)

    def _account(self) -> Snapshot:
        """Return what the node tells of itself, and what its sockets and its process are like."""
        told = self.core.account()
        told["mesh"]["stream_subscriptions"] = self._subscriptions
        told["build"] = build()
        told["process"] = process_statistics()
        return told

    def _perform(self, effects: Effects) -> None:
        for event, fields in effects.notes:
            self._journal.tell(event, **fields)
        if effects.notes and self.core.fatal is not None:  # that is noted, too
            raise ConfigError(self.core.fatal)
        links, stir = self.links, self._inlets.stir
        for address in effects.disconnect:
            links.disconnect(address)
        for address in effects.connect:
            links.connect(address)
        if effects.follow is not None:
            links.follow(effects.follow)
        for address, frame in effects.sends:
            links.send(address, frame)
            self.core.counters.requests_out_bytes += len(frame)
        if effects.replies:
            self._reply(effects.replies)
        for frame in effects.publish:
            self._xpub.send(frame, DONTWAIT)
            stir(self._xpub_inlet)
            for name in tuple(self._listeners.known):
                self._listeners.hand(name, len(frame))
            self.core.counters.published_bytes += len(frame) * len(self._listeners.known)

    def _reply(self, replies: list[tuple[bytes, bytes]]) -> None:
        entrance = self.entrance
        send, hand, out_bytes = entrance.send, entrance.connections.hand, 0
        for origin, frame in replies:
            try:
                send(origin, _DONTWAIT_MORE)  # two sends cost half of a send_multipart
                size = len(frame)
                send(frame, DONTWAIT, size <= COPIED_BYTES_MAX)
            except zmq.ZMQError as error:
                self._note_undelivered(origin, int(error.errno or 0))
            else:
                out_bytes += size
                hand(origin, size)
        self.core.counters.answers_out_bytes += out_bytes
        if not entrance.router.closed:
            self._inlets.stir(entrance.inlet)

    def _note_undelivered(self, origin: bytes, error: int) -> None:
        """A reply could not be sent: closed, or not reading (EAGAIN); its deadline will tell it."""
        self.core.counters.undeliverable += 1
        if error == zmq.EHOSTUNREACH:
            self.entrance.connections.lose(origin)

    def _say_goodbye(self) -> None:
        """Tell the others that this node leaves."""
        if not self.core.gone:
            self.core.leave(time.monotonic() + self._clock.stood_still_s)
        self.links.say_goodbye(self.core.drain().sends)

    # -- listening -----------------------------------------------------------------------------------------

    def _listen(self, kind: int, wait_s: float) -> zmq.Socket[bytes]:
        node, limits = self._config.node, self._config.limits
        address = node.listen if kind == zmq.ROUTER else node.publish_address
        host = split_address(address)[0]
        if kind == zmq.ROUTER:
            how = options.router(host, limits.link_queue_max, limits.request_bytes_max)
        else:
            how = options.publisher(host, limits.link_queue_max)
        if self.authentication is not None and self.authentication.permissive:
            return self._listen_both_ways(kind, address, how, wait_s)
        how = {**how, **listening(self._key)}
        return listen(self._context, kind, address, how, wait_s=wait_s, pause=self._asked.to_stop.wait)

    def _listen_both_ways(self, kind: int, address: str, how: options.Options, wait_s: float) -> zmq.Socket[bytes]:
        """Listen with CURVE and without, behind a door that tells peers apart; see doorway.py."""
        if address in self._doorways:  # only its sockets behind the door are made anew
            self._doorways.pop(address).close()
        setting = "node.listen" if kind == zmq.ROUTER else "node.publish"
        listener = http.listen(address, wait_s, self._asked.to_stop.wait, setting=setting)
        bound = new_listener(self._context, kind)
        plain = bind_again(bound, how)
        encrypted = bind_again(bound, listening(self._key))
        name = f"meshcache-{self._config.node.node_id}-door"
        self._doorways[address] = Doorway(listener, plain, encrypted, name)
        return bound

    def _listen_http(self) -> HttpServer | None:
        """Listen for health checks and scrapes. Only an address that was asked for must be free."""
        node, settings = self._config.node, self._config.http
        if not node.http_address:
            return None
        if settings.token_file:
            self._tokens = Tokens(settings.token_file, "http.token_file", self._note_of_http)
        elif not is_loopback(split_address(node.http_address)[0]):
            advice = "whoever reaches it can read the statistics: set http.token_file, or close the port to strangers"
            self._journal.tell("http_open", address=node.http_address, advice=advice)
        files, names = (settings.tls_cert_file, settings.tls_key_file), ("http.tls_cert_file", "http.tls_key_file")
        tls = server_context(*files, self._note_of_http, *names) if settings.tls_cert_file else None
        try:
            wait_s = BIND_WAIT_S if node.http else 0.0
            listener = http.listen(node.http_address, wait_s, self._asked.to_stop.wait)
        except ConfigError as error:
            if node.http:
                raise
            advice = f'no health checks and no metrics; set node.http to a free address, or to "{HTTP_OFF}"'
            self._journal.tell("http_unavailable", error=str(error), advice=advice)
            # Nobody is to be told that it is there.
            self._config = replace(self._config, node=replace(node, http=HTTP_OFF))
            return None
        endpoints = Endpoints(self.pulse, settings.stall_s, self._tokens)
        served = HttpServer(listener, settings, endpoints.answer, f"meshcache-{node.node_id}-http", tls)
        self.pulse.listen(served.wake)
        return served

    def _open_door(self) -> None:
        """Let in clients of memcached."""
        from meshcache.node.memcached.opening import open_door  # noqa: PLC0415  (nobody else needs it)

        parts = self._config, self.core, self._inlets, self._journal.tell
        self._door = open_door(*parts, BIND_WAIT_S, self._asked.to_stop.wait)

    def _note_of_http(self, event: str, **fields: Any) -> None:
        """Take an event from the thread of HTTP."""
        self._http_notes.append((event, fields))

    def _make_core(self, now: float, wall_ms: int, saved: Saved | None) -> NodeCore:
        boot = wall_ms << 16 | secrets.randbits(16)
        core = NodeCore(
            self._config,
            boot=boot,
            rng=random.Random(boot),
            now=now,
            wall_ms=wall_ms,
            supervised=self._supervised,
            processor_s=time.thread_time,
            links_max=_links_max(),
            host=host_facts,
            saved=saved,
        )
        if self.authentication is not None:
            core.allow(self.authentication.nodes, now)
        return core

    def _enter(self, router: zmq.Socket[bytes]) -> _Entrance:
        """Take the requests that come in by this socket."""
        core = self.core
        connections = self._connections(self._config.node.listen)
        core.heed(connections)
        inlet = RequestInlet(
            router,
            connections,
            core.receive_request,
            self._count_malformed,
            core.past_by_now,
            core.turn_away,
            is_from_node,
            partial(core.receive_request, is_unusual=True),
        )
        self._inlets.add(inlet)
        slow, undelivered = self._note_slow_turn, self._note_undelivered
        turns = usual_turns(router, self._inlets.fd, core, connections, inlet, self.pulse, slow, undelivered)
        inlet.gather = None if turns is None else turns.gather
        return _Entrance(router, sender(router), connections, inlet, turns)

    def _listen_anew(self) -> None:
        """Free what connections have piled up: honest ones connect again by themselves.

        Where that fails (its port is not free yet, say), the next look tries it once more.
        """
        try:
            router = self._listen(zmq.ROUTER, wait_s=0)
        except (ConfigError, zmq.ZMQError) as error:
            self.core.fail("listening", self._config.node.listen, error)
            return
        self.entrance = self._enter(router)
        self.watch.was_reset()

    def _held_bytes(self) -> int:
        recall = self.core.recall
        return self.core.store.statistics().bytes + (0 if recall is None else recall.held_bytes)

    def _count_malformed(self) -> None:
        """Count a message with more parts than any of ours."""
        self.core.counters.malformed += 1

    def _on_subscription(self, frame: bytes) -> None:
        """Count the subscriptions: without any, nobody reads the stream."""
        if frame:
            self._subscriptions += 1 if frame[0] else -1
        self.core.note_subscribers(present=self._subscriptions > 0)


def _clients_max(connections_max: int) -> int:
    """Return how many connections there may be: a quarter of the descriptors is for links, streams and files."""
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return connections_max if files_max == resource.RLIM_INFINITY else min(connections_max, files_max * 3 // 4)


def _links_max() -> int:
    """Half of the descriptors are for links that this node dials, the others for those that dial it."""
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files_max == resource.RLIM_INFINITY:
        return LINKS_MAX
    return min(LINKS_MAX, max(1, files_max // 2 // FILES_PER_LINK))
