"""What a request gets that is not done: a status, and JSON with ``error``, a few words, and ``detail``, a sentence.

Errors of the mesh are answered with 503 and ``Retry-After``, since the same request may succeed in a moment; a mesh
that is overloaded says itself when. What a write came to is then not known: it may have been done, and its answer never
says that it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, Final

from meshcache.errors import (
    ClientClosed,
    InvalidKey,
    MeshcacheError,
    NodeUnavailable,
    OperationTimeout,
    Overloaded,
    QuorumNotReached,
    SerializationError,
    ValueTooLarge,
)
from meshcache.gateway.answers import json_answer
from meshcache.gateway.asgi import Answer

RETRY_AFTER_S: Final = 1
"""Whole seconds are all that HTTP allows here."""


class Refusal(Exception):
    """A request that is not done, or not known to be done."""

    def __init__(
        self, status: int, error: str, detail: str = "", *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(f"{status} {error}: {detail}")
        self.status = status
        self.headers = dict(headers or {})
        self.content: dict[str, Any] = {"error": error}
        if detail:
            self.content["detail"] = detail
        self.content |= more

    def answer(self) -> Answer:
        """Return what is sent."""
        return json_answer(self.content, self.status, self.headers)


def retry_after(*errors: object) -> dict[str, str]:
    """Return the header that says when to try again what has failed so: the latest that one of these asks for."""
    hints_s = [error.retry_after_s for error in errors if isinstance(error, Overloaded)]
    return {"Retry-After": str(max([RETRY_AFTER_S, *map(ceil, hints_s)]))}


def unavailable(error: str, detail: str, cause: MeshcacheError | None = None, **more: Any) -> Refusal:
    """Return the refusal of what may succeed in a moment."""
    return Refusal(503, error, detail, headers=retry_after(cause), **more)


_REFUSALS: Final[dict[type[MeshcacheError], tuple[int, str]]] = {
    QuorumNotReached: (503, "Quorum not reached"),
    OperationTimeout: (503, "Too few nodes answered in time"),
    NodeUnavailable: (503, "No node answers"),
    Overloaded: (503, "The mesh is overloaded"),
    ClientClosed: (503, "The gateway is stopping"),
    InvalidKey: (400, "Invalid key"),
    ValueTooLarge: (413, "Value too large"),
    SerializationError: (406, "No form for this value"),
}


def refusal_of(error: MeshcacheError) -> Refusal:
    """Return how an error of the client is answered."""
    status, text = _REFUSALS.get(type(error), (503, "The mesh can not answer"))
    if status != 503:
        return Refusal(status, text, str(error))
    quorum = {"successes": error.received, "required": error.needed} if isinstance(error, QuorumNotReached) else {}
    return unavailable(text, str(error), error, **quorum)
