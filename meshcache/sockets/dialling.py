"""From an address to a host that answers, before libzmq is told to connect.

libzmq does not report a refused connection, and it stalls every socket while a name server hangs. So names are looked
up here, and the kernel connects first.

A name may stand for several hosts, some of them dead. All are tried, in the manner of Happy Eyeballs (RFC 8305): IPv4
and IPv6 take turns, each host has a head start of STAGGER_S over the next one, or until it refuses, and the first that
answers is taken. A host that did not answer in its turn comes last for a while. Nothing else is remembered: each new
connection looks the name up anew.

Where threads are greenlets, waits let others run: waiting.py.

No look-up can be interrupted, so each runs in a daemon thread of its own, for which nobody has to wait. A caller that
wants the same name meanwhile joins that look-up, unless it hangs.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401  (the first look-up imports it; interrupted in that, it would keep the import lock)
import errno
import ipaddress
import os
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from itertools import chain, zip_longest
from typing import Final

from meshcache.address import split_address
from meshcache.sockets.waiting import start_thread, wait_open, wait_writable

CONNECT_S: Final = 2.0
"""How long all hosts of a name may take together, from the end of the look-up."""
STAGGER_S: Final = 0.1
LOOK_UP_S: Final = 5.0
"""A look-up that takes longer counts as hanging: later callers begin another one."""
SHUNNED_S: Final = 30.0
HOSTS_MAX: Final = 32

Host = tuple[str, int]
"""An IP address and a port."""


class _Dial:
    """A look-up, and the race between the hosts that it found, in a thread."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.began = time.monotonic()
        self.found: Future[Host] = Future()

    def start(self) -> None:
        """Start the thread. Raises OSError."""
        try:
            start_thread(self._run, "meshcache-dial")
        except RuntimeError as error:
            self._leave()
            raise OSError(errno.EAGAIN, f"no thread to look the name up: {error}") from None
        except BaseException:  # from a signal handler: perhaps the thread never runs
            self._leave()
            raise

    def _run(self) -> None:
        try:
            host = race(hosts_of(self.address), CONNECT_S)
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is for those who wait)
            self._leave()
            self.found.set_exception(error)
        else:
            self._leave()
            self.found.set_result(host)

    def _leave(self) -> None:
        """Let no caller join any more: the next one begins a new look-up."""
        if _dials.get(self.address) is self:
            del _dials[self.address]


_dials: dict[str, _Dial] = {}
"""The look-ups that are under way in this process, by name."""
_shunned: dict[Host, float] = {}
"""By host, until when it comes last."""


def numeric(address: str) -> Host | None:
    """Return the host of an address that needs no name server; None for a name."""
    host, port = split_address(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return host, port


def hosts_of(address: str) -> list[Host]:
    """Look up the hosts of an address, in the order of trying. It blocks as long as the name servers take."""
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(errno.EINVAL, f"no valid name: {error}") from None
    addresses = dict.fromkeys((family, str(where[0])) for family, _, _, _, where in found)
    ipv4 = [(ip, port) for family, ip in addresses if family == socket.AF_INET]
    ipv6 = [(ip, port) for family, ip in addresses if family == socket.AF_INET6]
    turns = [each for each in chain.from_iterable(zip_longest(ipv4, ipv6)) if each is not None]
    now = time.monotonic()
    return sorted(turns[:HOSTS_MAX], key=lambda each: _shunned.get(each, 0.0) > now)


def race(hosts: list[Host], timeout_s: float) -> Host:
    """Return the first host that accepts a connection. Raises OSError: the error of the only host, or one for all."""
    found = _winner(hosts, timeout_s)
    if isinstance(found, OSError):
        try:
            raise found
        finally:
            del found  # this frame, which is in the error's traceback, must not hold the error: a circle each time
    return found


def _winner(hosts: list[Host], timeout_s: float) -> Host | OSError:
    by = time.monotonic() + timeout_s
    waiting = deque(hosts)
    whys: dict[str, OSError] = {}
    under_way: dict[int, tuple[socket.socket, Host]] = {}
    with contextlib.ExitStack() as opened:
        next_at = 0.0
        while waiting or under_way:
            now = time.monotonic()
            if now >= by:
                return TimeoutError(errno.ETIMEDOUT, "no host answered in time")
            if waiting and (now >= next_at or not under_way):
                host = waiting.popleft()
                next_at = now + STAGGER_S
                try:
                    probe = opened.enter_context(probe_of(host))
                    with contextlib.suppress(BlockingIOError):
                        probe.connect(host)
                except OSError as error:
                    whys[host[0]] = error
                    next_at = 0.0
                else:
                    under_way[probe.fileno()] = probe, host
                continue
            for descriptor in wait_writable(list(under_way), min(by, next_at if waiting else by) - now):
                probe, host = under_way.pop(descriptor)
                failure = failure_of(probe)
                if failure is None:
                    for _, slow in under_way.values():
                        shun(slow)
                    return host
                whys[host[0]] = failure
                next_at = 0.0
    return _summary(whys)


def shun(host: Host) -> None:
    """Try this host after the others of its name for a while, because it did not answer in its turn."""
    now = time.monotonic()
    if len(_shunned) > HOSTS_MAX:
        for other in [other for other, until in list(_shunned.items()) if until <= now]:
            _shunned.pop(other, None)
    _shunned[host] = now + SHUNNED_S


def dial(address: str) -> Future[Host]:
    """Return a future of the host that answers at a name. Raises OSError if the look-up cannot even begin."""
    under_way = _dials.get(address)
    if under_way is None or time.monotonic() >= under_way.began + LOOK_UP_S:
        under_way = _dials[address] = _Dial(address)
        under_way.start()
    return under_way.found


def reach(address: str, timeout_s: float) -> Host:
    """Return a host that accepts connections at an address. Raises OSError, or TimeoutError when the time is over."""
    host = numeric(address)
    if host is not None:
        return race([host], timeout_s)
    found = dial(address)
    gate = threading.Lock()
    gate.acquire()
    found.add_done_callback(lambda _: gate.release())
    wait_open(gate, timeout_s)  # not in the future, where no other greenlet could run
    if not found.done():
        raise TimeoutError(errno.ETIMEDOUT, "neither name server nor host answered in time")
    return found.result()


class Dials:
    """Look-ups for a caller that checks from time to time and never waits."""

    def __init__(self) -> None:
        self._found: dict[str, Future[Host]] = {}

    def look(self, address: str) -> Host | None:
        """Return the host at an address; None while it is unknown.

        Raises OSError, and then begins anew the next time.
        """
        host = numeric(address)
        if host is not None:
            return host
        found = self._found.get(address)
        if found is None:
            found = self._found[address] = dial(address)
        if not found.done():
            return None
        del self._found[address]
        return found.result()


def probe_of(host: Host) -> socket.socket:
    """Return a socket that is connecting to a host, without waiting for it."""
    probe = socket.socket(socket.AF_INET6 if ":" in host[0] else socket.AF_INET, socket.SOCK_STREAM)
    probe.setblocking(False)
    return probe


def failure_of(probe: socket.socket) -> OSError | None:
    """Return why a connection failed; None if it did not."""
    code = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        return OSError(code, os.strerror(code))
    if probe.getsockname() == probe.getpeername():
        return ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself: nobody listens")
    return None


def _summary(whys: dict[str, OSError]) -> OSError:
    """Return one error for all hosts of a name."""
    if len(whys) == 1:
        return next(iter(whys.values()))
    if not whys:
        return OSError(errno.EADDRNOTAVAIL, "the name stands for no address")
    last = list(whys.values())[-1]
    return OSError(last.errno, ", ".join(f"{ip}: {why.strerror or why}" for ip, why in whys.items()))


def _after_fork_in_child() -> None:
    _dials.clear()  # their threads are the parent's


os.register_at_fork(after_in_child=_after_fork_in_child)
