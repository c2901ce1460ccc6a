"""Answers in JSON, and how values that JSON lacks are written in it.

What JSON has is written as JSON has it; tuples are arrays, and keys of a dict that are numbers are text. All else is
written as ``{"$type": name, "value": text or array}``, so that its reader sees what it is:

    bytes                          value is base64
    float, where it is no number   "nan", "inf", "-inf"
    set, frozenset, deque, range   an array
    dict with other keys           an array of [key, value]
    everything else                the text that Python shows of it: a datetime in ISO 8601, a Decimal, a UUID, …

This is a form for readers. Put back, it is stored as the dict that it is.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Mapping
from datetime import date, datetime, time
from json.encoder import JSONEncoder
from typing import Any, Final

from meshcache.gateway.asgi import Answer

JSON: Final = "application/json"
_NESTED_MAX: Final = 200
"""Levels of containers in a value that is written the long way."""


def shown_key(key: bytes | str) -> dict[str, str]:
    """Return how an answer names a key: as text; where it is no UTF-8, its bytes stand beside that as base64."""
    if isinstance(key, str):
        return {"key": key}
    try:
        return {"key": key.decode()}
    except UnicodeDecodeError:
        return {"key": key.decode(errors="replace"), "keyBase64": base64.b64encode(key).decode()}


def _tagged(value: Any) -> Any:
    """Return what stands for a value that JSON lacks; its parts are written by the encoder in turn."""
    match value:
        case bytes():
            return {"$type": "bytes", "value": base64.b64encode(value).decode()}
        case datetime() | date() | time():
            return {"$type": type(value).__name__, "value": value.isoformat()}
        case set() | frozenset():
            return {"$type": type(value).__name__, "value": sorted(value, key=repr)}
        case deque() | range():
            return {"$type": type(value).__name__, "value": list(value)}
    return {"$type": type(value).__name__, "value": str(value)}


_encode: Final = JSONEncoder(allow_nan=False, default=_tagged, separators=(",", ":")).encode


def _spelt(value: Any, depth: int = 0) -> Any:
    """Return the same value, made of what JSON has alone: for those that the encoder refuses."""
    if depth > _NESTED_MAX:
        raise RecursionError
    match value:
        case float() if not math.isfinite(value):
            return {"$type": "float", "value": str(value)}
        case dict() if all(isinstance(key, str) for key in value):
            return {key: _spelt(each, depth + 1) for key, each in value.items()}
        case dict():
            pairs = [[_spelt(key, depth + 1), _spelt(each, depth + 1)] for key, each in value.items()]
            return {"$type": "dict", "value": pairs}
        case list() | tuple():
            return [_spelt(each, depth + 1) for each in value]
        case None | bool() | int() | float() | str():
            return value
    return _spelt(_tagged(value), depth + 1)


def json_bytes(content: Any) -> bytes:
    """Return JSON for anything that the cache can hold. Raises RecursionError for what is nested too deep."""
    try:
        text = _encode(content)
    except (TypeError, ValueError):
        text = _encode(_spelt(content))
    return text.encode()


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer that nobody may keep, unless its headers say otherwise."""
    body = json_bytes(content)
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    given = {"Cache-Control": "no-store"} if headers is None else {"Cache-Control": "no-store", **headers}
    fields += [(name.encode(), text.encode("latin-1", "replace")) for name, text in given.items()]
    return Answer(body, status, fields)
