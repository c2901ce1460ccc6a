"""``meshcache top``: asks all nodes again and again, and shows what they do.

A thread asks, so that keys are followed at once while a silent node is waited for; the main thread draws. What is shown
is always one survey, with the time at which it was made: nothing of an earlier one is mixed in.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from meshcache.cli import commands
from meshcache.cli.health import health_of
from meshcache.cli.rates import Figures, figures_of
from meshcache.cli.survey import Survey, survey
from meshcache.cli.top_view import Frame, History, Order, frame_of, lost_frame, rich_frame, state_of, text_of_frame
from meshcache.errors import MeshcacheError

if TYPE_CHECKING:
    from meshcache.client.blocking.client import Client

ANSWER_S_MAX: Final = 1.0
"""Who has not answered by then is shown as silent."""
IDLE_S: Final = 60.0
END_OF_INPUT: Final = "\x04"


def top(options: Namespace) -> int:
    """Show the nodes until somebody quits; once, where nobody sits at a terminal."""
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    with suppress(KeyboardInterrupt), commands.open_client(options) as client:  # it ends so when all is well
        if options.json:
            _print_json(client, options)
        elif options.once or not on_terminal:
            _print_once(client, options)
        elif importlib.util.find_spec("rich") is None:
            _print_again_and_again(client, options)
        else:
            _show_live(client, options)
    return 0


def _ask(client: Client, options: Namespace) -> Survey:
    return survey(client, timeout_s=min(options.timeout, ANSWER_S_MAX), hot=True)


def _two_surveys(client: Client, options: Namespace) -> tuple[Survey, Survey]:
    """Return the figures of two times, which rates need."""
    before = _ask(client, options)
    threading.Event().wait(options.every)
    return before, _ask(client, options)


def _print_once(client: Client, options: Namespace) -> None:
    before, now = _two_surveys(client, options)
    width = commands.width()
    print(text_of_frame(frame_of(now, before, Order(options.sort), History(), width), width))


def _print_again_and_again(client: Client, options: Namespace) -> None:
    """Without rich: one plain table after the other."""
    print('meshcache: for the live view: pip install "meshcache[cli]"', file=sys.stderr)
    before, history = None, History()
    while True:
        now = _ask(client, options)
        history.note(now)
        width = commands.width()
        print(f"{text_of_frame(frame_of(now, before, Order(options.sort), history, width), width)}\n", flush=True)
        before = now
        threading.Event().wait(options.every)


def _print_json(client: Client, options: Namespace) -> None:
    """Print an object a line; with ``--once`` one."""
    before, now = _two_surveys(client, options)
    while True:
        commands.print_json(_as_dict(now, before, options))
        sys.stdout.flush()
        if options.once:
            return
        before = now
        threading.Event().wait(options.every)
        now = _ask(client, options)


def _as_dict(now: Survey, before: Survey, options: Namespace) -> dict[str, Any]:
    members = [{**node.status, **node.member, "error": node.error} for node in now.nodes]
    hot = [{**row, "node": node.node_id} for node in now.nodes for row in node.hot]
    return {
        "at": round(now.wall_s, 3),
        "cluster": now.cluster,
        "problems": health_of(members).problems,
        "nodes": [_node_as_dict(each) for each in Order(options.sort).sorted(figures_of(now, before))],
        "hot": sorted(hot, key=lambda row: -row["reads"]),
    }


def _node_as_dict(each: Figures) -> dict[str, Any]:
    node = each.node
    return {
        "node_id": node.node_id,
        "state": state_of(node),
        "error": node.error or None,
        "entries": each.entries,
        "bytes": each.bytes,
        "max_bytes": each.bytes_max,
        "operations_per_s": each.operations_per_s,
        "hit_rate": each.hit_rate,
        "evictions_per_s": each.evictions_per_s,
        "longest_turn_ms": each.longest_turn_ms,
        "clock_ahead_s": node.clock_ahead_s,
        "slots_missing": node.status.get("slots_missing"),
        "hints": node.status.get("hints"),
    }


# -- live --------------------------------------------------------------------------------------------------


class Asker:
    """Makes surveys in a thread of its own, and says so."""

    def __init__(self, ask: Callable[[], Survey], every_s: float, told: Callable[[], None]) -> None:
        self._ask = ask
        self._every_s = every_s
        self._told = told
        self._hurry = threading.Event()
        self._stopped = False
        self.latest: tuple[Survey | None, str] = None, ""
        """The last survey, or why there is none."""
        self._thread = threading.Thread(target=self._run, name="meshcache-top", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def hurry(self) -> None:
        """Ask now."""
        self._hurry.set()

    def stop(self) -> None:
        """Ask no more; a survey that is under way ends within ``ANSWER_S_MAX``, and nobody waits for it."""
        self._stopped = True
        self._hurry.set()

    def _run(self) -> None:
        while not self._stopped:
            try:
                self.latest = self._ask(), ""
            except MeshcacheError as error:
                self.latest = None, str(error)
            except Exception as error:  # noqa: BLE001  (else the view would go on showing what is no longer so)
                self.latest = None, f"{type(error).__name__}: {error}"
            if not self._stopped:
                self._told()
            self._hurry.wait(self._every_s)
            self._hurry.clear()


class _View:
    """What is shown now, and how it came about."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.history = History()
        self.now: Survey | None = None
        self.before: Survey | None = None
        self.lost: tuple[str, float] | None = None
        """Why no node answers, and since when."""

    def take(self, found: Survey | None, why: str) -> None:
        """Take what the last question brought."""
        if found is None:
            self.lost = why, (self.lost[1] if self.lost else time.time())
        elif found is not self.now:
            self.before, self.now, self.lost = (None if self.lost else self.now), found, None
            self.history.note(found)

    def frame(self, width: int) -> Frame | None:
        """Return what is to be shown; None: nothing yet."""
        shown = None
        if self.now is not None:
            shown = frame_of(self.now, self.before, self.order, self.history, width)
        return lost_frame(shown, *self.lost) if self.lost else shown


def _show_live(client: Client, options: Namespace) -> None:
    from rich.console import Console  # noqa: PLC0415  (an extra)
    from rich.live import Live  # noqa: PLC0415

    from meshcache.cli.keyboard import Keyboard  # noqa: PLC0415  (needs a terminal)

    console, view = Console(), _View(Order(options.sort))
    with Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        asker = Asker(lambda: _ask(client, options), options.every, keyboard.wake)
        asker.start()
        try:
            while True:
                width, height = console.size
                view.take(*asker.latest) if asker.latest != (None, "") else None
                frame = view.frame(width)
                live.update(rich_frame(frame, height) if frame else "asking the mesh …", refresh=True)
                for key in keyboard.keys(IDLE_S):
                    if key in {"q", "Q", END_OF_INPUT}:
                        return
                    if key == " ":
                        asker.hurry()
                    view.order.press(key)
        finally:
            asker.stop()
