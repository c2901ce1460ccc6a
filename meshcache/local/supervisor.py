"""Keeps nodes running: passes on what they print, as log_lines.py writes it, and starts again those that die.

It is a loop around one selector: signals, the nodes' output, and deadlines. A node that died is started again at once,
since libzmq aborts the process on some of its own errors; a node that keeps dying is started again after longer and
longer waits.
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final, TextIO

from meshcache.local.log_lines import LogLines
from meshcache.local.processes import (
    ASK_INTERVAL_S,
    EXIT_CONFIG,
    STOP_GRACE_S,
    NodeProcess,
    Survey,
    ending_of,
    why_unsettled,
)

QUICK_DEATH_S: Final = 10.0
"""A process that lived for less died quickly: it will probably die again."""
RESTART_DELAY_MIN_S: Final = 0.1
RESTART_DELAY_MAX_S: Final = 30.0


def restart_delay_s(quick_deaths: int) -> float:
    """Return the wait before a restart, doubling with each quick death in a row; the first restart is prompt."""
    return float(min(RESTART_DELAY_MIN_S * 2 ** min(max(0, quick_deaths - 1), 10), RESTART_DELAY_MAX_S))


@dataclass(slots=True)
class _Supervised:
    """What the supervisor knows of one node."""

    node: NodeProcess
    output: IO[bytes] | None = None
    partial_line: bytes = b""
    started_at: float = 0.0
    restart_at: float | None = None
    quick_deaths: int = 0
    left: bool = False
    """Whether the node handed its slots over and ended on purpose."""


class Supervisor:
    """Runs nodes until a signal comes: passes on what they print, and starts again those that die."""

    def __init__(
        self,
        nodes: Sequence[NodeProcess],
        *,
        out: TextIO,
        log: TextIO,
        lines: LogLines,
        advice: str,
        key_file: str = "",
    ) -> None:
        """``out`` gets the line ``ready``; ``log`` the nodes' output, what happens to them, and then ``advice``.

        ``key_file``: of a key by which the nodes can be asked, where they have keys.
        """
        self._key_file = key_file
        self._supervised = [_Supervised(node) for node in nodes]
        self._addresses = [node.address for node in nodes]
        self._out = out
        self._log = log
        self._lines = lines
        self._advice = advice
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._announced = False
        self._exit_code: int | None = None

    def run(self) -> int:
        """Supervise until SIGINT, SIGTERM or SIGHUP; return the exit code. Only for the main thread."""
        signals = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup has set that
            signals.append(signal.SIGHUP)
        # The handlers do nothing: because they are set, Python writes each signal's number into the pipe.
        former = {number: signal.signal(number, lambda *_: None) for number in signals}
        former_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        questions = threading.Thread(target=self._ask_until_settled, name="meshcache-ready", daemon=True)
        try:
            for supervised in self._supervised:
                self._start(supervised)
            questions.start()
            while self._exit_code is None:
                self._turn()
        finally:
            self._stopping.set()
            self._stop_all()
            signal.set_wakeup_fd(former_wakeup)
            for number, handler in former.items():
                signal.signal(number, handler)
            if questions.ident is not None:
                questions.join()
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
        return self._exit_code

    def _turn(self) -> None:
        """Wait until something happens, and handle all that has."""
        deadlines = [s.restart_at for s in self._supervised if s.restart_at is not None]
        wait_s = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        for key, _ in self._selector.select(wait_s):
            if key.fd == self._wake_read:
                self._on_signals(os.read(self._wake_read, 4096))
            else:
                self._pass_on(key.data)
        now = time.monotonic()
        for supervised in self._supervised:
            if self._exit_code is not None:
                return
            if supervised.left:
                continue
            if supervised.restart_at is None:
                self._bury_if_dead(supervised, now)
            elif supervised.restart_at <= now:
                self._start(supervised)
        if self._settled.is_set() and not self._announced:
            self._announce()

    def _on_signals(self, numbers: bytes) -> None:
        if not {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}.isdisjoint(numbers):
            self._exit_code = 0

    def _start(self, supervised: _Supervised) -> None:
        supervised.restart_at = None
        supervised.started_at = time.monotonic()
        supervised.output = supervised.node.start(self._addresses)
        assert supervised.output is not None
        os.set_blocking(supervised.output.fileno(), False)
        self._selector.register(supervised.output, selectors.EVENT_READ, supervised)

    def _bury_if_dead(self, supervised: _Supervised, now: float) -> None:
        node = supervised.node
        if node.returncode is None:
            return
        self._close_output(supervised)
        if node.returncode == EXIT_CONFIG and not self._settled.is_set():
            self._say("can not start, for the reason above; stopping all nodes", node, "error")
            self._exit_code = EXIT_CONFIG
            return
        if node.returncode == 0 and self._settled.is_set():
            self._say("has left the mesh: a request or a signal told it to, which was not this process", node)
            supervised.left = True
            if all(each.left for each in self._supervised):
                self._say("all nodes have left")
                self._exit_code = 0
            return
        lived_s = now - supervised.started_at
        supervised.quick_deaths = supervised.quick_deaths + 1 if lived_s < QUICK_DEATH_S else 0
        delay_s = restart_delay_s(supervised.quick_deaths)
        supervised.restart_at = now + delay_s
        ending = f"(pid {node.pid}) {ending_of(node.returncode)}; starting it again in {delay_s:.1f} s"
        self._say(ending, node, "error")

    def _pass_on(self, supervised: _Supervised) -> bool:
        """Print the lines that a node has written; return False at the end of its output."""
        if supervised.output is None:
            return False
        try:
            data = os.read(supervised.output.fileno(), 65_536)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(supervised.output)
            supervised.output.close()
            supervised.output = None
        *lines, supervised.partial_line = (supervised.partial_line + data).split(b"\n")
        if not data and supervised.partial_line:
            lines, supervised.partial_line = [supervised.partial_line], b""
        for line in lines:
            text = line.decode("utf-8", "backslashreplace")
            self._write(self._log, self._lines.of_node(supervised.node.node_id, text))
        return bool(data)

    def _close_output(self, supervised: _Supervised) -> None:
        """Print the rest of a node's output.

        A process that the node left behind may still hold the pipe's other end.
        """
        while self._pass_on(supervised):
            pass
        if supervised.output is not None:
            self._selector.unregister(supervised.output)
            supervised.output.close()
            supervised.output = None

    def _stop_all(self) -> None:
        for supervised in self._supervised:
            supervised.node.terminate()
        deadline = time.monotonic() + STOP_GRACE_S
        while any(supervised.node.running for supervised in self._supervised) and time.monotonic() < deadline:
            # A node that cannot write its last lines would not end.
            for key, _ in self._selector.select(0.1):
                if key.fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                else:
                    self._pass_on(key.data)
        for supervised in self._supervised:
            if not supervised.node.wait(0):
                self._say(f"did not stop within {STOP_GRACE_S:.0f} s and was killed", supervised.node, "error")
            self._close_output(supervised)

    def _ask_until_settled(self) -> None:
        present = {supervised.node.node_id: supervised.node.address for supervised in self._supervised}
        with Survey(self._key_file) as survey:
            while not self._stopping.is_set():
                if why_unsettled(survey, present) is None:
                    self._settled.set()
                    os.write(self._wake_write, b"\0")
                    return
                self._stopping.wait(ASK_INTERVAL_S)

    def _announce(self) -> None:
        self._announced = True
        self._write(self._out, "ready")
        self._write(self._log, self._advice)

    def _say(self, text: str, node: NodeProcess | None = None, level: str = "info") -> None:
        """Write a line of the supervisor's own, perhaps about a node."""
        if node is None:
            self._write(self._log, self._lines.of_launcher(text))
        else:
            line = self._lines.of_launcher(f"{node.node_id} {text}", node_id=node.node_id, level=level)
            self._write(self._log, line)

    def _write(self, stream: TextIO, text: str) -> None:
        """Write a line. If its reader is gone, the nodes are supervised nevertheless."""
        with suppress(OSError):
            print(text, file=stream, flush=True)
