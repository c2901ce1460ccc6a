"""A client that gives the answers which a test has prepared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self

OWN: Final[dict[str, Any]] = {
    "ready": True,
    "ring_digest": "0123456789abcdef",
    "slots_missing": 0,
    "replicas": 2,
    "store": {
        "entries": 9871,
        "max_entries": 10_000,
        "bytes": 8_123_456,
        "max_bytes": 100_000_000,
        "evictions": 0,
        "evicted_s_ago": None,
    },
}
"""What a node answers about itself."""


def member(node_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "address": f"127.0.0.1:710{node_id[-1]}",
        "state": "alive",
        "incarnation": 0,
        "boot": 1,
        "host": "h",
        "zone": "",
        "weight": 1.0,
        "primary_slots": 512,
        "copy_slots": 256,
    } | fields


class FakeClient:
    """Answers from what the test has put in ``answers``, and notes what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.members = [member("node1"), member("node2")]
        self.on_call: dict[str, Callable[[], object]] = {}
        """By command, what happens when it is called."""
        self.hot: list[tuple[bytes, int, bool]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.calls.append(("close", (), {}))

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            self.on_call.get(name, bool)()
            answer = self.answers.get(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    def inspect(
        self, what: str, key: bytes = b"", node: str | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        self.calls.append(("inspect", (what, key, node), {}))
        if isinstance(answer := self.answers.get(f"inspect {what} {node}"), Exception):
            raise answer
        if what == "status":
            return OWN | {"node_id": "node1", "members": self.members}
        if what == "stats":
            return {"store": {"hits": 1000, "misses": 2}}
        if what == "hot":
            rows = self.hot
            if rows is None:
                rows = (
                    [(b"user:1", 5000, True), (b"\xff", 3, False)]
                    if node == "127.0.0.1:7101"
                    else [(b"b", 4000, False)]
                )
            return {"keys": [{"key": key, "reads": reads, "hot": hot} for key, reads, hot in rows]}
        return {
            "key": "user:1",
            "slot": 7,
            "owners": ["node2", "node1"],
            "replicas": [
                {
                    "node_id": "node2",
                    "state": "alive",
                    "version": "018bcfe568000001" + "00" * 8,
                    "expires_ms": None,
                    "tombstone": False,
                    "value_bytes": 5000,
                    "error": None,
                }
            ],
        }
