"""The log of one node: what events there are, how loud each is, and what becomes of one that repeats.

The names of events do not change, and each is told in the table in meshcache/node/GUIDE.md. Every line bears the id of
its node. No line bears a value or a secret; keys are told at the level debug only.

A line that repeats fills disks and hides the others. So of lines with the same event and the same words (numbers may
differ) only ``BURST`` are written in ``WINDOW_S``; those beyond are counted, and when the window is over the last of
them is written after all, with ``left_out``: how many were not.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

import structlog

LEVELS: Final = {
    "allow_line_refused": logging.WARNING,
    "allow_list_read": logging.INFO,
    "allow_list_unreadable": logging.ERROR,
    "alone": logging.INFO,
    "asked_to_leave": logging.WARNING,
    "breaker_closed": logging.INFO,
    "breaker_half_open": logging.DEBUG,
    "breaker_opened": logging.WARNING,
    "connection_cut": logging.WARNING,
    "declared_dead": logging.WARNING,
    "enough_nodes": logging.INFO,
    "evicting": logging.WARNING,
    "failed": logging.WARNING,
    "forbidden": logging.WARNING,
    "http_file_read": logging.INFO,
    "http_file_refused": logging.ERROR,
    "http_open": logging.WARNING,
    "http_refused": logging.WARNING,
    "http_unavailable": logging.WARNING,
    "key_refused": logging.WARNING,
    "leaving": logging.INFO,
    "left": logging.INFO,
    "link_denied": logging.WARNING,
    "link_down": logging.DEBUG,
    "link_up": logging.DEBUG,
    "member": logging.INFO,
    "memcached_closed": logging.WARNING,
    "memcached_unencrypted": logging.WARNING,
    "node_failed": logging.ERROR,
    "recalled": logging.INFO,
    "recalling": logging.INFO,
    "refused": logging.WARNING,
    "rejoined": logging.INFO,
    "ring": logging.INFO,
    "router_reset": logging.ERROR,
    "slow_operation": logging.WARNING,
    "slow_operation_keys": logging.DEBUG,
    "snapshot_damaged": logging.WARNING,
    "snapshot_failed": logging.WARNING,
    "snapshot_loaded": logging.INFO,
    "snapshot_refused": logging.WARNING,
    "snapshot_written": logging.INFO,
    "stalled": logging.WARNING,
    "too_few_nodes": logging.WARNING,
    "voided": logging.INFO,
    "without_key": logging.WARNING,
}
"""Every event of a node."""

BURST: Final = 5
WINDOW_S: Final = 10.0
REPEATS_MAX: Final = 256
"""Different lines that are told apart; what comes beyond is told apart by its event only."""

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("meshcache.node"),
    wrapper_class=structlog.stdlib.BoundLogger,
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.processors.format_exc_info,
        structlog.stdlib.render_to_log_kwargs,
    ],
)


@dataclass(slots=True)
class _Repeats:
    """What of one line was written in the window that runs, and what was not."""

    until: float
    written: int = 0
    left_out: int = 0


class Journal:
    """Writes the events of one node."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._repeats: dict[tuple[str, str], _Repeats] = {}
        self._last: dict[tuple[str, str], dict[str, Any]] = {}
        """The fields of those that were left out last."""

    def tell(self, event: str, /, **fields: object) -> None:
        """Write an event, unless it was written too often just now."""
        line = event, _words(fields)
        if line not in self._repeats and len(self._repeats) >= REPEATS_MAX:
            line = event, ""
        now = time.monotonic()
        repeats = self._repeats.setdefault(line, _Repeats(now + WINDOW_S))
        if repeats.written < BURST:
            repeats.written += 1
            self._write(event, fields)
        else:
            repeats.left_out += 1
            self._last[line] = fields

    def catch_up(self) -> None:
        """Write what was left out in windows that are over, and forget them. To be called now and then."""
        now = time.monotonic()
        over = [line for line, repeats in self._repeats.items() if repeats.until <= now]
        for line in over:
            left_out = self._repeats.pop(line).left_out
            if left_out:
                self._write(line[0], {**self._last.pop(line), "left_out": left_out - 1})

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        log.log(LEVELS[event], event, node_id=self._node_id, **fields)


def _words(fields: dict[str, Any]) -> str:
    """Return what makes two lines the same."""
    return repr([value for value in fields.values() if not isinstance(value, int | float)])[:300]
