"""What a node dials: a DEALER to each peer, and one SUB for the streams that it follows.

Names are looked up in a thread, since libzmq would stall all connections meanwhile. What could not even be begun is
tried again after ``DIAL_AGAIN_S``. A monitor on each DEALER tells at once when a connection stands or breaks; it is
drained in the node's loop, since one that nobody reads stalls libzmq.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import zmq

from meshcache.address import join_address
from meshcache.config import LimitSettings
from meshcache.core.node import NodeCore
from meshcache.keys import SecretKey
from meshcache.node.poller import DONTWAIT, Awaited, Inlet, Inlets
from meshcache.protocol.clock import LocalClock
from meshcache.sockets.context import Context
from meshcache.sockets.curve import FAILURES, HANDSHAKE_FAILED, dialling
from meshcache.sockets.dealer import sender
from meshcache.sockets.dialling import Host, numeric, shun
from meshcache.sockets.options import node_dealer, set_options
from meshcache.sockets.resolver import Resolver
from meshcache.sockets.seed_names import SeedNames
from meshcache.sockets.subscriber import Subscriber

DIAL_AGAIN_S: Final = 1.0
"""When to try again what could not even be begun, for want of descriptors, say."""
FILES_PER_LINK: Final = 4
"""Descriptors that a dialled address takes: its socket, the connection, and the two ends of its monitor."""
LEAVE_WAIT_S: Final = 0.3
"""How long a stopping node keeps its sockets for its last words."""
_MONITORED: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | HANDSHAKE_FAILED


@dataclass(slots=True)
class _Dealer:
    """The socket of one dialled address, and its monitor."""

    host: Host
    socket: zmq.Socket[bytes]
    send: Callable[[bytes, int], object]
    inlet: Inlet
    monitor: zmq.Socket[bytes]
    events: Inlet


class Links:
    """The sockets that one node dials. Use from its loop's thread only."""

    def __init__(
        self,
        core: NodeCore,
        context: Context,
        inlets: Inlets,
        clock: LocalClock,
        limits: LimitSettings,
        wake: Callable[[], None],
        refuse: Callable[[], None],
        key: SecretKey | None,
        *,
        permissive: bool = False,
    ) -> None:
        """``wake`` ends the loop's sleep: some name was looked up; ``refuse`` counts a message with too many parts.

        ``key``: by which this node proves to others who it is; ``permissive``: those who do not ask for it will do.
        """
        self.dealers: dict[str, _Dealer] = {}
        self.inlets: dict[Awaited, None] = {}
        """Where answers arrive."""
        self.lines: tuple[tuple[int, int, str, Inlet], ...] = ()
        """What ``UsualTurns`` must know of the sockets: descriptor, where libzmq has it, address and inlet of each."""
        self._core = core
        self._context = context
        self._inlets = inlets
        self._clock = clock
        self._limits = limits
        self._refuse = refuse
        self._key = key
        self._permissive = permissive
        self._plainly: set[str] = set()
        """Addresses that are dialled without a key, though this node has one: there nobody has changed over yet."""
        self._anew: set[str] = set()
        """Those of ``dial_again`` whose socket is there, and of no use."""
        self._resolver = Resolver(wake)
        self.found = self._resolver.found
        """Addresses that were looked up."""
        self._seed_names = SeedNames(core.config.node.seeds, wake)
        self.seeds_found = self._seed_names.found
        """Seeds, and the addresses for which their names stand."""
        self._seed_names.start()
        self._dialled: dict[str, None] = {}
        """Addresses that the core wants dialled, some still being resolved."""
        self.dial_again: dict[str, float] = {}
        """By address, when to try again what failed."""
        self._followed: dict[str, None] = {}
        """Addresses whose streams the core wants to hear."""
        self._subscriber: Subscriber | None = None
        """Made when there is one for the first time."""

    def send(self, address: str, frame: bytes) -> None:
        """Send to a peer; tell the core if that cannot be done now."""
        dealer = self.dealers.get(address)
        try:
            if dealer is None:
                raise zmq.Again  # still being resolved: as good as not connected
            dealer.send(frame, DONTWAIT)
            self._inlets.stir(dealer.inlet)
        except zmq.ZMQError:
            self._core.undeliverable(address, time.monotonic() + self._clock.stood_still_s)

    def say_goodbye(self, sends: list[tuple[str, bytes]]) -> None:
        """Send last words, and give the sockets a moment to say them."""
        for address, frame in sends:
            dealer = self.dealers.get(address)
            if dealer is not None:
                with contextlib.suppress(zmq.Again):
                    dealer.socket.send(frame, DONTWAIT)
        for dealer in self.dealers.values():
            dealer.socket.disable_monitor()
            dealer.monitor.close(0)
            dealer.socket.close(int(LEAVE_WAIT_S * 1000))
        self.dealers.clear()

    def close(self) -> None:
        """Close every socket."""
        self._seed_names.close()
        self._resolver.close()
        for address in list(self.dealers):
            self.disconnect(address)
        if self._subscriber is not None:
            self._subscriber.close()

    def connect(self, address: str) -> None:
        """Dial an address. libzmq would stall all connections while it looks a name up, so that is done in a thread."""
        self._dialled[address] = None
        self._resolve_for(address)

    def disconnect(self, address: str) -> None:
        """Dial an address no more; what is queued for it is lost on purpose."""
        self._dialled.pop(address, None)
        self.dial_again.pop(address, None)
        self._plainly.discard(address)
        self._anew.discard(address)
        if address not in self._followed:
            self._resolver.forget(address)
        self._close_dealer(address)

    def follow(self, addresses: list[str]) -> None:
        """Receive these streams, and no others."""
        if self._subscriber is None:
            self._subscriber = Subscriber(self._context, self._key)
            self._inlets.add(Inlet(self._subscriber.socket, self._core.receive_stream, self._refuse))
        for address in self._followed:
            if address not in addresses and address not in self._dialled:
                self._resolver.forget(address)
        self._followed = dict.fromkeys(addresses)
        for address in self._subscriber.missing(addresses):
            self._resolve_for(address)

    def connect_found(self, now: float) -> None:
        """Take in what was looked up and connect to it, and once more to what failed a while ago."""
        while self.seeds_found:
            self._core.peers.spread(*self.seeds_found.popleft())
        while self.found:
            self._connect_to(*self.found.popleft())
        for address, at in list(self.dial_again.items()):
            if now >= at:
                del self.dial_again[address]
                if address in self._anew:
                    self._anew.discard(address)
                    self._close_dealer(address)
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
            dealer = self.dealers.get(address)
            if dealer is not None:
                shun(dealer.host)

    def _connect_to(self, address: str, host: Host) -> None:
        """Open what is wanted at an address. It may be one that cannot be dialled, or there may be no descriptors."""
        core = self._core
        try:
            dealer = self.dealers.get(address)
            if address in self._dialled and (dealer is None or dealer.host != host):
                self._close_dealer(address)
                self._open(address, host)
            if address in self._followed and self._subscriber is not None:
                self._subscriber.connect(address, host)
        except (zmq.ZMQError, OSError, ValueError) as error:
            core.fail("connecting", address, error)
            self.dial_again[address] = time.monotonic() + self._clock.stood_still_s + DIAL_AGAIN_S

    def _open(self, address: str, host: Host) -> None:
        dealer = self._context.socket(zmq.DEALER)
        try:
            self._set_up(dealer, address, host)
        except BaseException:
            dealer.disable_monitor()
            dealer.close(0)
            raise

    def _set_up(self, dealer: zmq.Socket[bytes], address: str, host: Host) -> None:
        limits = self._limits
        how = node_dealer(host[0], limits.link_queue_max, limits.request_bytes_max)
        set_options(dealer, {**how, **dialling(None if address in self._plainly else self._key)})
        monitor = dealer.get_monitor_socket(_MONITORED)
        dealer.connect(f"tcp://{join_address(*host)}")
        core = self._core
        events = Inlet(monitor, partial(self._on_event, address), self._refuse, pairs=True)
        inlet = Inlet(dealer, partial(core.receive_answer, address), self._refuse)
        self._inlets.add(events)
        self._inlets.add(inlet)
        self.dealers[address] = _Dealer(host, dealer, sender(dealer), inlet, monitor, events)
        self._list_lines()

    def _close_dealer(self, address: str) -> None:
        dealer = self.dealers.pop(address, None)
        if dealer is not None:
            self._list_lines()
            self._inlets.remove(dealer.inlet)
            self._inlets.remove(dealer.events)
            dealer.socket.disable_monitor()
            dealer.monitor.close(0)
            dealer.socket.close(0)

    def _list_lines(self) -> None:
        self.inlets = dict.fromkeys(dealer.inlet for dealer in self.dealers.values())
        dealers = self.dealers.items()
        self.lines = tuple((each.inlet.fd, each.socket.underlying, address, each.inlet) for address, each in dealers)

    def _on_event(self, address: str, event: bytes, endpoint: bytes, now: float) -> None:  # noqa: ARG002  (as told)
        """Take what libzmq tells of a connection: two bytes that say what, and more."""
        number = int.from_bytes(event[:2], "little")
        if number == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._core.link_up(address, now)
        elif number == zmq.EVENT_DISCONNECTED:
            self._core.link_down(address, now)
            if address in self._plainly:
                self._change_over(address, now)  # whoever comes back may ask for a key by now
            else:
                self._resolve_again(address)
        elif number == zmq.EVENT_CLOSED:  # an attempt to connect failed
            self._core.link_refused(address, now)
            self._resolve_again(address)
        elif number in FAILURES and self._permissive:
            self._change_over(address, now)
        elif number in FAILURES:
            self._core.link_denied(address, FAILURES[number])

    def _change_over(self, address: str, now: float) -> None:
        """Dial an address anew in the other way: with this node's key, or without."""
        self._plainly ^= {address}
        self._anew.add(address)
        self.dial_again[address] = now
