"""What tests share that hold two ways to the same end against each other."""

from __future__ import annotations

import re
from typing import Any


def text_of(error: Exception) -> str:
    """Return what an error says, without the times and ports that differ from run to run."""
    return re.sub(r"within [0-9.]+ s|127\.0\.0\.1:[0-9]+", "…", str(error))


def outcome(function: Any, *arguments: Any) -> Any:
    """Return what a call comes to, an exception by its type and text."""
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001
        return type(error), text_of(error)
