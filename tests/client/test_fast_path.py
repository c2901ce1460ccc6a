"""The fast path comes to what the flows come to: results, errors, and what is counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from comparing import outcome, text_of
from fake_node import FakeNode, fake_mesh

import meshcache
from meshcache import _native
from meshcache.protocol.messages import Code, Get, Hot, Reject, Reply, Set
from meshcache.protocol.wire import encode_frame

if _native.absent_because:
    pytest.skip(f"no fast path: {_native.describe()}", allow_module_level=True)


def record_of(tag: int, value: bytes, marks: int = 0) -> bytes:
    return (1).to_bytes(8, "big") + bytes(8) + b"\xff" * 6 + bytes((marks, tag)) + value


def answers_of(node: FakeNode) -> dict[str, Any]:
    """Return ways in which a node answers, by what they are."""
    view, reject, silent = node.view, Reject, None
    return {
        "text": lambda m: Reply(m.request, view(), [record_of(1, b"text")] * len(m.keys)),
        "bytes": lambda m: Reply(m.request, view(), [record_of(0, b"text")] * len(m.keys)),
        "number": lambda m: Reply(m.request, view(), [record_of(2, b"-17")] * len(m.keys)),
        "list": lambda m: Reply(m.request, view(), [record_of(3, b"\x91\x01")] * len(m.keys)),
        "undecodable": lambda m: Reply(m.request, view(), [record_of(3, b"\xc1")] * len(m.keys)),
        "no text": lambda m: Reply(m.request, view(), [record_of(1, b"\xff")] * len(m.keys)),
        "pickle": lambda m: Reply(m.request, view(), [record_of(4, b"x")] * len(m.keys)),
        "miss": lambda m: Reply(m.request, view(), [None] * len(m.keys)),
        "deleted": lambda m: Reply(m.request, view(), [record_of(0, b"", 1)] * len(m.keys)),
        "marks": lambda m: Reply(m.request, view(), [record_of(1, b"\0\1\x80text", 2)] * len(m.keys)),
        "no record": lambda m: Reply(m.request, view(), [b"short"] * len(m.keys)),
        "done": lambda m: Reply(m.request, view(), None),
        "too few": lambda m: Reply(m.request, view(), [record_of(1, b"x")] * (len(m.keys) + 1)),
        "codes": lambda m: Reply(m.request, view(), [[int(Code.INVALID), "what"]] * len(m.keys)),
        "quorum": lambda m: Reply(m.request, view(), [[int(Code.QUORUM), 2, 1]] * len(m.keys)),
        "overloaded": lambda m: reject(m.request, view(), [int(Code.OVERLOADED), 1]),
        "not ready": lambda m: reject(m.request, view(), [int(Code.NOT_READY)]),
        "stale boot": lambda m: reject(m.request, view(), [int(Code.STALE_BOOT)]),
        "forbidden": lambda m: reject(m.request, view(), [int(Code.FORBIDDEN), "no"]),
        "other view": lambda m: Reply(m.request, b"other", [record_of(1, b"text")] * len(m.keys)),
        "other number": lambda m: encode_frame(
            7, [Reply(m.request + 99, view(), [None]), Reply(m.request, view(), [None] * len(m.keys))]
        ),
        "silence": lambda m: silent,
        "nonsense": lambda m: b"\xc1",
        "hot": lambda m: encode_frame(
            7, [Reply(m.request, view(), [record_of(1, b"t")] * len(m.keys)), Hot(1000, m.keys)]
        ),
    }


WARM = [b"warm"]
"""What is written first, so that the connection stands; on a busy machine it may be repeated, and come late."""

OPERATIONS: dict[str, Any] = {
    "get": lambda cache: cache.get("a", "default"),
    "get_many": lambda cache: cache.get_many(["a", b"b", "c"]),
    "set": lambda cache: cache.set("a", "text", 5),
    "set list": lambda cache: cache.set("a", [1], 5.5),
    "set_many": lambda cache: cache.set_many({"a": 1, "b": "2", "c": b"3"}, None),
    "bad key": lambda cache: cache.get("\udc80"),
    "long key": lambda cache: cache.set("k" * 2000, 1),
    "bad value": lambda cache: cache.set("a", object()),
    "bad ttl": lambda cache: cache.set("a", 1, -1),
    "large value": lambda cache: cache.set("a", b"x" * (1 << 20) + b"x"),
    "one large value": lambda cache: cache.set_many({"a": 1, "b": b"x" * (1 << 20) + b"x"}),
    "bad batch": lambda cache: cache.get_many(["a", None]),
}


def seen_of(cache: Any, operation: Any) -> Any:
    found = outcome(operation, cache)
    if isinstance(found, dict):
        found = list(found.items())
    return found


def told_of(cache: Any) -> Any:
    told = cache.statistics()
    return told.operations, told.errors, told.retries > 0, told.failed > 0, [n.answered for n in told.nodes.values()]


def timeout_s(answer: str | None) -> float:
    """So long that no attempt is repeated because the machine is busy, but where a node is silent."""
    return 2 if answer == "silence" else 30


NAMES = list(answers_of(FakeNode.__new__(FakeNode)))


@pytest.mark.parametrize("on_error", ["raise", "miss"])
@pytest.mark.parametrize("answer", [None, *NAMES])
def test_fast_and_general_way_come_to_the_same(answer: str | None, on_error: Any) -> None:
    found: list[Any] = []
    for is_fast in (True, False):
        with (
            fake_mesh() as (node,),
            meshcache.Client(node.address, timeout=timeout_s(answer), on_error=on_error) as cache,
        ):
            cache.set("warm", 1)  # the connection stands
            assert cache._session.fast.is_open
            cache._session.fast.is_open = is_fast
            seen = {}
            for name, operation in OPERATIONS.items():
                times = [1]

                def hook(message: Any, times: list[int] = times, node: FakeNode = node) -> Any:
                    if answer is None or type(message) not in {Get, Set} or not times or message.keys == WARM:
                        return FakeNode.PASS
                    times.pop()
                    return answers_of(node)[answer](message)

                node.hook = hook
                before = len(node.of(Get)) + len(node.of(Set))
                seen[name] = seen_of(cache, operation), len(node.of(Get)) + len(node.of(Set)) - before
            found.append((seen, told_of(cache)))
    assert found[0] == found[1]


def test_the_fast_path_is_taken_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would hold the general way against itself."""
    with fake_mesh(2) as nodes, meshcache.Client(nodes[0].address) as cache:
        cache.set_many({f"k{i}": i for i in range(20)})
        while any(cache._session.fast.set("k", 1, None) is None for _ in range(2)):
            cache.get("k0")
        for _ in nodes:
            cache.get_many([f"k{i}" for i in range(20)])  # both are connected
        monkeypatch.setattr(cache._session, "get", None)
        monkeypatch.setattr(cache._session, "set", None)
        monkeypatch.setattr(cache._session, "get_many", None)
        monkeypatch.setattr(cache._session, "set_many", None)
        given_keys = [f"k{i}" for i in range(20)]
        assert cache.set_many({key: [key] for key in given_keys}) == []
        assert list(cache.get_many(given_keys).items()) == [(key, [key]) for key in given_keys]
        cache.set("k1", "text")
        assert cache.get("k1") == "text"
        assert all(node.of(Set) and node.of(Get) for node in nodes)


@pytest.mark.parametrize("answer", [None, *NAMES])
def test_fast_and_general_way_come_to_the_same_in_asyncio(answer: str | None) -> None:
    async def work(node: FakeNode, is_fast: bool) -> Any:
        async with meshcache.AsyncClient(node.address, timeout=timeout_s(answer)) as cache:
            await cache.set("warm", 1)
            cache._session.fast.is_open = is_fast
            times = [1]

            def hook(message: Any) -> Any:
                if answer is None or type(message) not in {Get, Set} or not times or message.keys == WARM:
                    return FakeNode.PASS
                times.pop()
                return answers_of(node)[answer](message)

            seen = []
            for calls in (
                lambda: [
                    cache.get("a", "default"),
                    cache.get(b"a"),
                    cache.get_many(["b", "a", "c"]),
                    cache.get("\udc80"),
                ],
                lambda: [
                    cache.set("a", 1, 5),
                    cache.set("b", "x", 5),
                    cache.set("a", 2, 5),
                    cache.set("c", object(), 5),
                ],
                lambda: [cache.set_many({"a": 1, "b": "x"}), cache.set("d", b"x" * ((1 << 20) + 1)), cache.set("e", 1)],
            ):
                times[:] = [1]
                node.hook = hook
                found = await asyncio.gather(*calls(), return_exceptions=True)
                seen.append([(type(each), text_of(each) if isinstance(each, Exception) else each) for each in found])
            return seen, told_of(cache)

    found = []
    for is_fast in (True, False):
        with fake_mesh() as (node,):
            found.append(asyncio.run(work(node, is_fast)))
    assert found[0] == found[1]


def test_attempts_in_asyncio_are_answered_without_a_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(address: str) -> None:
        async with meshcache.AsyncClient(address) as cache:
            await cache.set("warm", 1)
            monkeypatch.setattr(cache._session, "get", None)
            monkeypatch.setattr(cache._session, "set", None)
            monkeypatch.setattr(cache._session, "get_many", None)
            await asyncio.gather(*[cache.set(f"k{i}", i) for i in range(50)])
            assert await asyncio.gather(*[cache.get(f"k{i}") for i in range(50)]) == list(range(50))
            assert await asyncio.gather(cache.get("k1"), cache.get_many(["k2", "none"])) == [1, {"k2": 2}]

    with fake_mesh() as (node,):
        asyncio.run(work(node.address))
        assert [len(request.keys) for request in node.of(Get)] == [50, 3]
