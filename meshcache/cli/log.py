"""How the command line writes logs. Only programs call this: as a library, meshcache leaves logging as it finds it."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from meshcache.config import LogSettings


def configure(settings: LogSettings) -> None:
    """Write the package's log to standard error: for people on a terminal, else one JSON object a line."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    on_terminal = sys.stderr.isatty()
    if settings.format == "console" or (settings.format == "auto" and on_terminal):
        shared.pop()  # the console renderer formats exceptions itself
        renderer: Any = structlog.dev.ConsoleRenderer(colors=on_terminal, pad_event_to=0)
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False, default=repr)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logger = logging.getLogger("meshcache")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(settings.level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *(processor for processor in shared if not isinstance(processor, structlog.stdlib.ExtraAdder)),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
