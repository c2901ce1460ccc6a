"""What a node answers over HTTP: ``/health``, ``/ready``, ``/stats`` and ``/metrics``.

Health is judged by the last turn of the node's loop, and by nothing that this thread could say of itself: a thread that
answers beside a loop that is stuck tells a lie. A loop whose last turn is too long ago is woken, and gets a moment to
turn. All else the loop tells itself when it is asked (pulse.py); if it does not in time, that is the answer.

With ``http.token_file`` the statistics and the metrics are told to those who bring a token. ``/health`` and ``/ready``
need none: those who restart a process or send it clients often have no place for one, and the answer has no figures.

Whoever reaches the port may ask as often as they like. So what was told is told again for ``FRESH_S``, and the metrics,
of which there are some hundreds, are put into text once in that time, family by family, with a pause after each in
which the loop goes on.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

from meshcache.metrics.exposition import Exposition
from meshcache.node.http import Request, Response, failure
from meshcache.node.pulse import Pulse, Snapshot
from meshcache.web.tokens import CHALLENGE, Tokens

FRESH_S: Final = 0.25
"""What was told is told again for so long."""
TURN_WAIT_S: Final = 0.25
"""How long a loop that stood still is given to turn when it is woken."""
TELL_WAIT_S: Final = 1.0
"""How long the loop is given to tell."""
PAUSE_S: Final = 0.0003
"""Between two families of metrics."""
OPEN_PATHS: Final = frozenset({"/health", "/ready"})
"""They need no token."""


class Endpoints:
    """The answers of one node. To be used by one thread."""

    def __init__(self, pulse: Pulse, stall_s: float, tokens: Tokens | None = None) -> None:
        """``stall_s``: a loop that has not turned for longer is unhealthy. Without ``tokens`` nobody needs one."""
        self._pulse = pulse
        self._stall_s = stall_s
        self._tokens = tokens
        self._answers = {
            "/health": self._health,
            "/ready": self._ready,
            "/stats": self._stats,
            "/metrics": self._metrics,
        }
        self._exposition = Exposition(pause=lambda: time.sleep(PAUSE_S))
        self._rendered: dict[str, tuple[Snapshot, Response]] = {}
        """The metrics by what was asked for, and of which snapshot."""

    def answer(self, request: Request, now: float) -> Response | None:
        """Answer a request; None: not yet, see http.Answer."""
        if self._tokens is not None and request.path not in OPEN_PATHS:
            fault = self._tokens.fault(request.authorization, request.peer)
            if fault is not None:
                return failure(401, "Unauthorized", fault, CHALLENGE)
        answer = self._answers.get(request.path)
        if answer is None:
            return failure(404, "Not found", f"there is no {request.path[:100]}; there are {', '.join(self._answers)}")
        return answer(request, now)

    def _health(self, request: Request, now: float) -> Response | None:
        still_s = self._pulse.still_s()
        if still_s <= self._stall_s:
            return _json(200, {"status": "healthy", "timestamp": int(time.time() * 1000)})
        if now < request.asked_at + TURN_WAIT_S:
            self._pulse.ask()
            return None
        reason = f"the node's loop has not turned for {still_s:.1f} s, and http.stall_s is {self._stall_s:g}"
        return _json(503, {"status": "unhealthy", "reason": reason, "timestamp": int(time.time() * 1000)})

    def _ready(self, request: Request, now: float) -> Response | None:
        snapshot = self._told(request, now)
        if snapshot is None or isinstance(snapshot, Response):
            return snapshot
        waits_for: list[str] = snapshot["ready"]["waits_for"]
        if not waits_for:
            return _json(200, {"status": "ready"})
        return _json(503, {"status": "not ready", "reason": "; ".join(waits_for)})

    def _stats(self, request: Request, now: float) -> Response | None:
        snapshot = self._told(request, now)
        return _json(200, snapshot) if isinstance(snapshot, dict) else snapshot

    def _metrics(self, request: Request, now: float) -> Response | None:
        snapshot = self._told(request, now)
        if snapshot is None or isinstance(snapshot, Response):
            return snapshot
        form = self._exposition.form_of(request.accept)
        rendered_of, response = self._rendered.get(form, (None, None))
        if response is None or rendered_of is not snapshot:
            response = Response(200, *self._exposition.render(snapshot, form))
            self._rendered[form] = snapshot, response
        return response

    def _told(self, request: Request, now: float) -> Snapshot | Response | None:
        """Return what the loop tells; None: not yet; or the answer that it does not."""
        snapshot = self._pulse.since(request.asked_at - FRESH_S)
        if snapshot is None and now >= request.asked_at + TELL_WAIT_S:
            detail = f"the node's loop has not turned for {self._pulse.still_s():.1f} s"
            return failure(503, "The node does not answer", detail)
        if snapshot is None:
            self._pulse.ask()
        return snapshot


def _json(status: int, body: Any) -> Response:
    return Response(status, json.dumps(body).encode())
