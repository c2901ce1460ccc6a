"""A node with its sockets: one thread, one poll loop, around a NodeCore.

::

    clients, peers --ROUTER (bound)--> receive_request        Effects.replies --> the same ROUTER
    peers <--DEALER per address-------  receive_answer        Effects.sends ----> that DEALER
    subscribers <--XPUB (bound)--------                       Effects.publish --> XPUB
    other nodes' XPUB --SUB------------> receive_stream       only while Effects.follow names them: see hotcopies.py

A turn: wait, drain the sockets to a budget, tick, then do what the core wants done, one frame per destination. Nothing
blocks but the wait: sends are DONTWAIT, and what cannot be sent is counted and reported to the core.

What decides the choice of sockets and options: one bound ROUTER for input and one DEALER per peer for output, because
two ROUTERs that dial each other can abort the process or misroute; ROUTER_MANDATORY, or a full pipe drops silently;
IMMEDIATE, or requests queue for a dead process and are executed by the next; no ZMTP heartbeats, which abort libzmq
4.3.5 under back-pressure; a ZAP domain, with which even an unauthenticated ROUTER refuses what is not ZMTP 3. A monitor
on each DEALER tells at once when a connection breaks; it is drained in this loop, since an undrained one stalls libzmq.

libzmq bounds neither the bytes of an unfinished message nor those that wait for a slow peer: memory.py and
connections.py do, by cutting who is to blame. Nobody can take over another's connection: the DEALERs of nodes have no
routing id of their own choice, the ROUTER gives each connection a new one, and one that is in use stays with its owner
(no ROUTER_HANDOVER).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import random
import resource
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import structlog
import zmq

from meshcache.address import join_address, split_address
from meshcache.config import Config
from meshcache.core.node import NodeCore
from meshcache.core.outbox import Effects
from meshcache.core.peers import LINKS_MAX
from meshcache.durations import waiting_s
from meshcache.errors import ConfigError, MeshcacheError, UsageError
from meshcache.node.connections import Connections
from meshcache.node.intake import RequestInlet, SubscriptionInlet
from meshcache.node.memory import Watch
from meshcache.node.poller import DONTWAIT, SNDMORE, Inlet, Inlets
from meshcache.protocol.clock import LocalClock
from meshcache.sockets.context import open_context
from meshcache.sockets.dialling import Host, hosts_of, numeric, shun
from meshcache.sockets.resolver import Resolver
from meshcache.sockets.subscriber import Subscriber
from meshcache.sockets.waiting import threads_are_greenlets

if TYPE_CHECKING:
    from meshcache.client.blocking.client import Client

BIND_WAIT_S: Final = 1.0
"""close() is asynchronous: the port of a socket just closed may be taken for a moment."""

LEAVE_WAIT_S: Final = 0.3
"""How long a stopping node keeps its sockets for its last words."""

DIAL_AGAIN_S: Final = 1.0
"""When to try again what could not even be begun, for want of descriptors, say."""
FILES_PER_LINK: Final = 4
"""Descriptors that a dialled address takes: its socket, the connection, and the two ends of its monitor."""
SUBSCRIPTION_BYTES_MAX: Final = 1024
"""Ours have one byte; the kernel's queue for them is short, too, so that reading them never takes long."""
SUBSCRIPTIONS_QUEUED_MAX: Final = 16
ANSWERS_QUEUED_MAX: Final = 100
"""Frames of another node that wait here: they may be large, and it merges what it has to say in a turn into one."""
_DONTWAIT_MORE: Final = DONTWAIT | SNDMORE
_MONITORED: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED

_LEVELS: Final = {
    "link_up": logging.DEBUG,
    "link_down": logging.DEBUG,
    "asked_to_leave": logging.WARNING,
    "declared_dead": logging.WARNING,
    "evicting": logging.WARNING,
    "failed": logging.WARNING,
    "refused": logging.WARNING,
    "stalled": logging.WARNING,
    "too_few_nodes": logging.WARNING,
}
"""Of the events that the core notes; all others are for information."""

# Silent until the application configures logging: a library must not write to stdout.
logging.getLogger("meshcache").addHandler(logging.NullHandler())
_log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("meshcache.node"),
    wrapper_class=structlog.stdlib.BoundLogger,
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.processors.format_exc_info,
        structlog.stdlib.render_to_log_kwargs,
    ],
)


@dataclass(slots=True)
class _Dealer:
    """The socket of one dialled address, and its monitor."""

    host: Host
    socket: zmq.Socket[bytes]
    inlet: Inlet
    monitor: zmq.Socket[bytes]
    events: Inlet


class Node:
    """A node of the mesh, in a thread of this process (``start``) or in the calling thread (``run``).

    Raises ConfigError where it cannot run: a port or the node's id is in use, another cluster answers at a seed.
    """

    def __init__(self, config: Config | None = None, *, supervised: bool = False) -> None:
        self.config = config or Config()
        self.supervised = supervised
        """Another process looks after this one, and starts it again if it dies; it then says who had it leave."""
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._draining = threading.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._dealers: dict[str, _Dealer] = {}
        self._dialled: dict[str, None] = {}
        """Addresses that the core wants dialled, some still being resolved."""
        self._dial_again: dict[str, float] = {}
        """By address, when to try again what failed."""
        self._resolver = Resolver(self._wake)
        self._followed: dict[str, None] = {}
        """Addresses whose streams the core wants to hear."""
        self._subscriber: Subscriber | None = None
        """Made when there is one for the first time."""
        self._core: NodeCore | None = None

    # -- for applications ----------------------------------------------------------------------------------

    def start(self, *, timeout_s: float = 10.0) -> Node:
        """Run in a thread; return when the node serves, after ``timeout_s`` at the latest.

        A program that ends while its node runs has it leave the mesh as ``stop`` does.
        Raises UsageError if it was started before: a node runs once; and where threads are greenlets, of gevent or
        eventlet: a node would stop all others.
        """
        if self._thread is not None:
            raise UsageError("this node was started before: make another Node of the same configuration")
        if threads_are_greenlets():
            raise UsageError(
                "a node can not run in this program, whose threads are greenlets: start it as a process of its own,"
                " with `meshcache node`, `meshcache up`, or meshcache.LocalMesh"
            )
        self._thread = threading.Thread(target=self._run_guarded, name=f"meshcache-{self.config.node.node_id}")
        self._thread.daemon = True
        self._thread.start()
        atexit.register(self.stop)  # else the others would miss it, and call it dead
        limit_s = waiting_s(timeout_s)
        self._ready.wait(limit_s)
        if self._failure is not None:
            self._thread.join(limit_s)
            raise self._failure
        return self

    def run(self, on_ready: Callable[[], None] | None = None) -> None:
        """Run in the calling thread until ``stop`` is called; ``on_ready`` is called once, when the node has joined."""
        try:
            self._run(on_ready)
        finally:
            os.close(self._wake_fd)

    def drain(self, *, timeout_s: float | None = None) -> None:
        """Hand over what this node owns, then leave and stop. Callable from any thread, and from a signal handler.

        Of a node that was started in a thread it waits for the end of that, ``timeout_s`` at most.
        """
        self._ask_to(self._draining, timeout_s)

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Leave the mesh at once and close the sockets. Callable as ``drain`` is."""
        self._ask_to(self._stopping, timeout_s)

    def _ask_to(self, what: threading.Event, timeout_s: float | None) -> None:
        what.set()
        self._wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(waiting_s(timeout_s))

    def _wake(self) -> None:
        """End the loop's sleep. Callable from any thread."""
        with contextlib.suppress(OSError):  # already stopped
            os.eventfd_write(self._wake_fd, 1)

    def client(self, **options: Any) -> Client:
        """Return a client of this node's mesh; the caller closes it. ``options`` are those of ``Client``."""
        from meshcache.client.blocking.client import Client  # noqa: PLC0415  (a node process needs no client)

        return Client(self.config.node.listen, **options)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a node can not be pickled or copied: pickle its config, or a client of it: node.client()")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- the thread ----------------------------------------------------------------------------------------

    def _run_guarded(self) -> None:
        try:
            self.run(self._ready.set)
        except BaseException as error:  # noqa: BLE001  (start() raises it in the caller's thread)
            self._failure = error
            if not isinstance(error, MeshcacheError):
                _log.exception("node_failed")
        finally:
            self._ready.set()
            atexit.unregister(self.stop)

    def _run(self, on_ready: Callable[[], None] | None) -> None:
        # A link takes its own socket, and the two ends of its monitor.
        self._context = context = open_context(sockets_max=3 * LINKS_MAX + 64)
        self._inlets = Inlets()
        try:
            self._router = self._bind(zmq.ROUTER, self.config.node.listen)
            self._xpub = self._bind(zmq.XPUB, self.config.node.publish_address)
            self._start_core()
            self._loop(on_ready)
            self._say_goodbye()
        finally:
            self._resolver.close()
            for address in list(self._dealers):
                self._disconnect(address)
            if self._subscriber is not None:
                self._subscriber.close()
            self._inlets.close()
            context.destroy(linger=0)

    def _start_core(self) -> None:
        now, wall = time.monotonic(), time.time()
        wall_ms = int(wall * 1000)
        boot = wall_ms << 16 | secrets.randbits(16)
        self._clock = LocalClock(now, wall)
        self._core = NodeCore(
            self.config, boot=boot, rng=random.Random(boot), now=now, wall_ms=wall_ms,
            supervised=self.supervised, processor_s=time.thread_time, links_max=_links_max(),
        )  # fmt: skip
        self._inlets.watch(self._wake_fd)
        self._listeners = Connections(split_address(self.config.node.publish_address)[1])
        self._xpub_inlet = SubscriptionInlet(self._xpub, self._listeners, self._on_subscription)
        self._inlets.add(self._xpub_inlet)
        self._take_requests(self._core)
        self._core.note_subscribers(present=False)
        self._subscriptions = 0
        # The store's lists grow to millions of entries, all of them atoms: the collector need never look at them.
        gc.collect()
        gc.freeze()
        stored_bytes = partial(_stored_bytes, self._core)
        self._watch = Watch(lambda: (self._askers, self._listeners), stored_bytes, self._wake_fd)

    def _loop(self, on_ready: Callable[[], None] | None) -> None:
        core = self._core
        assert core is not None
        inlets, clock, watch = self._inlets, self._clock, self._watch
        while not self._stopping.is_set() and not core.gone:
            deadline = min(core.next_deadline(), watch.next_at)
            woken = inlets.wait(deadline - clock.stood_still_s - time.monotonic())
            began = clock.read(time.monotonic(), time.time())
            for inlet in woken:
                if inlet.drain(began):
                    inlets.stir(inlet)
            if self._resolver.found or self._dial_again:
                self._connect_resolved(began)
            core.tick(began)
            if self._draining.is_set():
                core.retire(began)
            effects = core.drain()
            self._perform(effects)
            if on_ready is not None and core.ready:
                on_ready()
                on_ready = None
            if effects.notes and core.fatal is not None:  # that is noted, too
                raise ConfigError(core.fatal)
            ended = time.monotonic() + clock.stood_still_s
            if ended - began > core.counters.longest_turn_ms / 1000:
                core.counters.longest_turn_ms = (ended - began) * 1000
            inlets.recheck(ended)
            if ended >= watch.next_at:
                self._look_after(core, ended)

    def _look_after(self, core: NodeCore, now: float) -> None:
        """See to memory, descriptors, and connections that do not read."""
        excess_bytes = self._watch.run(now)
        core.counters.connections_cut = self._askers.cut + self._listeners.cut
        core.counters.late += self._router_inlet.late
        self._router_inlet.late = 0
        if excess_bytes and not self._router.closed:
            self._close_router(core, excess_bytes)
        if self._router.closed:
            self._bind_router_anew(core)

    def _take_requests(self, core: NodeCore) -> None:
        self._askers = Connections(split_address(self.config.node.listen)[1])
        core.heed(self._askers)
        self._router_inlet = RequestInlet(
            self._router, self._askers, core.receive_request, self._refuse, core.past_by_now, core.turn_away
        )
        self._inlets.add(self._router_inlet)

    def _refuse(self) -> None:
        """Count a message with more parts than any of ours."""
        assert self._core is not None
        self._core.counters.malformed += 1

    def _on_subscription(self, frame: bytes) -> None:
        """Count the subscriptions: without any, nobody reads the stream."""
        assert self._core is not None
        if frame:
            self._subscriptions += 1 if frame[0] else -1
        self._core.note_subscribers(present=self._subscriptions > 0)

    def _perform(self, effects: Effects) -> None:
        core = self._core
        assert core is not None
        for event, fields in effects.notes:
            _log.log(_LEVELS.get(event, logging.INFO), event, node_id=core.membership.own_id, **fields)
        for address in effects.disconnect:
            self._disconnect(address)
        for address in effects.connect:
            self._connect(address)
        if effects.follow is not None:
            self._follow(effects.follow)
        stir = self._inlets.stir
        for address, frame in effects.sends:
            dealer = self._dealers.get(address)
            try:
                if dealer is None:
                    raise zmq.Again  # still being resolved: as good as not connected
                dealer.socket.send(frame, DONTWAIT)
                stir(dealer.inlet)
            except zmq.ZMQError:
                core.undeliverable(address, time.monotonic() + self._clock.stood_still_s)
        if effects.replies:
            self._reply(core, effects.replies)
        for frame in effects.publish:
            self._xpub.send(frame, DONTWAIT)
            stir(self._xpub_inlet)
            for name in tuple(self._listeners.known):
                self._listeners.hand(name, len(frame))

    def _reply(self, core: NodeCore, replies: list[tuple[bytes, bytes]]) -> None:
        send, hand = self._router.send, self._askers.hand
        for origin, frame in replies:
            try:
                send(origin, _DONTWAIT_MORE)  # two sends cost half of a send_multipart
                send(frame, DONTWAIT)
            except zmq.ZMQError:  # gone (EHOSTUNREACH), not reading (EAGAIN) or closed; its deadline will tell it
                core.counters.undeliverable += 1
            else:
                hand(origin, len(frame))
        if not self._router.closed:
            self._inlets.stir(self._router_inlet)

    def _say_goodbye(self) -> None:
        """Tell the others that this node leaves, and give the sockets a moment to say it."""
        core = self._core
        assert core is not None
        if not core.gone:
            core.leave(time.monotonic() + self._clock.stood_still_s)
        effects = core.drain()
        for address, frame in effects.sends:
            dealer = self._dealers.get(address)
            if dealer is not None:
                with contextlib.suppress(zmq.Again):
                    dealer.socket.send(frame, DONTWAIT)
                dealer.socket.linger = int(LEAVE_WAIT_S * 1000)
        for dealer in list(self._dealers.values()):
            dealer.socket.disable_monitor()
            dealer.monitor.close(0)
            dealer.socket.close()
        self._dealers.clear()

    # -- sockets -------------------------------------------------------------------------------------------

    def _bind(self, kind: int, address: str, wait_s: float = BIND_WAIT_S) -> zmq.Socket[bytes]:
        assert self._context is not None
        bound = self._context.socket(kind)
        options = {
            zmq.LINGER: 0, zmq.SNDHWM: self.config.limits.link_queue_max, zmq.RCVHWM: 1000,
            zmq.MAXMSGSIZE: self.config.limits.request_bytes_max, zmq.HANDSHAKE_IVL: 3000, zmq.BACKLOG: 512,
            zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 10, zmq.TCP_KEEPALIVE_INTVL: 3, zmq.TCP_KEEPALIVE_CNT: 3,
            zmq.TCP_MAXRT: 5000, zmq.IPV6: int(":" in split_address(address)[0]),
        }  # fmt: skip
        if kind == zmq.ROUTER:
            options[zmq.ROUTER_MANDATORY] = 1
        else:
            options[zmq.XPUB_VERBOSER] = 1  # tell of every subscriber, not of each topic's first
            options[zmq.MAXMSGSIZE] = SUBSCRIPTION_BYTES_MAX
            options[zmq.RCVHWM] = SUBSCRIPTIONS_QUEUED_MAX
        for option, value in options.items():
            bound.setsockopt(option, value)
        bound.setsockopt(zmq.ZAP_DOMAIN, b"meshcache")
        deadline = time.monotonic() + wait_s
        while True:
            try:
                bound.bind(f"tcp://{join_address(*(numeric(address) or hosts_of(address)[0]))}")
            except zmq.ZMQError as error:
                if error.errno == zmq.EADDRINUSE and time.monotonic() < deadline:
                    self._stopping.wait(0.05)
                    continue
                bound.close(0)
                reason = "the port is in use" if error.errno == zmq.EADDRINUSE else str(error)
                raise ConfigError(f"cannot listen on {address}: {reason}; choose another address") from None
            except OSError as error:
                bound.close(0)
                raise ConfigError(f"cannot listen on {address}: {error}") from None
            return bound

    def _connect(self, address: str) -> None:
        """Dial an address. libzmq would stall all connections while it looks a name up, so that is done in a thread."""
        self._dialled[address] = None
        self._resolve_for(address)

    def _follow(self, addresses: list[str]) -> None:
        """Receive these streams, and no others."""
        assert self._context is not None
        assert self._core is not None
        if self._subscriber is None:
            self._subscriber = Subscriber(self._context)
            self._inlets.add(Inlet(self._subscriber.socket, self._core.receive_stream, self._refuse))
        for address in self._followed:
            if address not in addresses and address not in self._dialled:
                self._resolver.forget(address)
        self._followed = dict.fromkeys(addresses)
        for address in self._subscriber.missing(addresses):
            self._resolve_for(address)

    def _resolve_for(self, address: str) -> None:
        if not address:  # a member that publishes nothing
            return
        host = numeric(address)
        if host is not None:
            self._connect_to(address, host)
        else:
            self._resolver.want(address)

    def _resolve_again(self, address: str) -> None:
        """A connection to a name broke, or did not come about: perhaps another host answers to it by now."""
        if address in self._dialled and numeric(address) is None and self._resolver.want_again(address):
            dealer = self._dealers.get(address)
            if dealer is not None:
                shun(dealer.host)

    def _connect_resolved(self, now: float) -> None:
        """Connect to what was looked up, and once more to what failed a while ago."""
        while self._resolver.found:
            self._connect_to(*self._resolver.found.popleft())
        for address, at in list(self._dial_again.items()):
            if now >= at:
                del self._dial_again[address]
                self._resolve_for(address)

    def _connect_to(self, address: str, host: Host) -> None:
        """Open what is wanted at an address. It may be one that cannot be dialled, or there may be no descriptors."""
        core = self._core
        assert core is not None
        try:
            dealer = self._dealers.get(address)
            if address in self._dialled and (dealer is None or dealer.host != host):
                self._close_dealer(address)
                self._open(address, host)
            if address in self._followed and self._subscriber is not None:
                self._subscriber.connect(address, host)
        except (zmq.ZMQError, OSError, ValueError) as error:
            core.fail("connecting", address, error)
            self._dial_again[address] = time.monotonic() + self._clock.stood_still_s + DIAL_AGAIN_S

    def _open(self, address: str, host: Host) -> None:
        assert self._context is not None
        dealer = self._context.socket(zmq.DEALER)
        try:
            self._set_up(dealer, address, host)
        except BaseException:
            dealer.disable_monitor()
            dealer.close(0)
            raise

    def _set_up(self, dealer: zmq.Socket[bytes], address: str, host: Host) -> None:
        queue_max = self.config.limits.link_queue_max
        options = {
            zmq.LINGER: 0, zmq.IMMEDIATE: 1, zmq.SNDHWM: queue_max, zmq.RCVHWM: ANSWERS_QUEUED_MAX,
            zmq.RECONNECT_IVL: 100, zmq.RECONNECT_IVL_MAX: 1000, zmq.CONNECT_TIMEOUT: 2000, zmq.HANDSHAKE_IVL: 3000,
            zmq.MAXMSGSIZE: self.config.limits.request_bytes_max, zmq.TCP_MAXRT: 5000,
            zmq.IPV6: int(":" in host[0]),
        }  # fmt: skip
        for option, value in options.items():
            dealer.setsockopt(option, value)
        monitor = dealer.get_monitor_socket(_MONITORED)
        dealer.connect(f"tcp://{join_address(*host)}")
        core = self._core
        assert core is not None
        events = Inlet(monitor, partial(self._on_event, address), self._refuse, pairs=True)
        inlet = Inlet(dealer, partial(core.receive_answer, address), self._refuse)
        self._inlets.add(events)
        self._inlets.add(inlet)
        self._dealers[address] = _Dealer(host, dealer, inlet, monitor, events)

    def _disconnect(self, address: str) -> None:
        self._dialled.pop(address, None)
        self._dial_again.pop(address, None)
        if address not in self._followed:
            self._resolver.forget(address)
        self._close_dealer(address)

    def _close_dealer(self, address: str) -> None:
        dealer = self._dealers.pop(address, None)
        if dealer is not None:
            self._inlets.remove(dealer.inlet)
            self._inlets.remove(dealer.events)
            dealer.socket.disable_monitor()
            dealer.monitor.close(0)
            dealer.socket.close(0)

    def _on_event(self, address: str, event: bytes, endpoint: bytes, now: float) -> None:  # noqa: ARG002  (as told)
        """Take what libzmq tells of a connection: two bytes that say what, and more."""
        assert self._core is not None
        number = int.from_bytes(event[:2], "little")
        if number == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._core.link_up(address, now)
        elif number == zmq.EVENT_DISCONNECTED:
            self._core.link_down(address, now)
            self._resolve_again(address)
        elif number == zmq.EVENT_CLOSED:  # an attempt to connect failed
            self._core.link_refused(address, now)
            self._resolve_again(address)

    def _close_router(self, core: NodeCore, excess_bytes: int) -> None:
        """Free what connections have piled up: honest ones connect again by themselves."""
        core.counters.router_resets += 1
        _log.error("router_reset", excess_bytes=excess_bytes)
        self._inlets.remove(self._router_inlet)
        self._router.close(0)

    def _bind_router_anew(self, core: NodeCore) -> None:
        """Listen again. Where that fails (its port is not free yet, say), the next look tries it once more."""
        try:
            self._router = self._bind(zmq.ROUTER, self.config.node.listen, wait_s=0)
        except (ConfigError, zmq.ZMQError) as error:
            core.fail("listening", self.config.node.listen, error)
            return
        self._take_requests(core)
        self._watch.was_reset()


def _links_max() -> int:
    """Half of the descriptors are for links that this node dials, the others for those that dial it."""
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files_max == resource.RLIM_INFINITY:
        return LINKS_MAX
    return min(LINKS_MAX, max(1, files_max // 2 // FILES_PER_LINK))


def _stored_bytes(core: NodeCore) -> int:
    return core.store.statistics().bytes
