"""What a gateway says while the mesh does not do what it is asked: 503, with the reason, and never that it was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_node import FakeNode, fake_mesh
from http_gateway import Response, RunningGateway, running_gateway
from timing import eventually

from meshcache.protocol.messages import Code, Delete, Get, Inspect, Reject, Reply, Set, Update

FACTS = {"node_id": "n1", "replicas": 2, "write_quorum": 2, "read_quorum": 1, "vnodes": 8, "slots": 64}
MEMBER = {"node_id": "n1", "primary_slots": 64, "copy_slots": 64}
STATUS = {**FACTS, "value_bytes_max": 1 << 20, "members": [MEMBER]}
Behaviour = Callable[[FakeNode, Any], Any]


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh(1) as nodes:
        nodes[0].hook = hook(nodes[0], lambda *_: FakeNode.PASS)
        yield nodes[0]


@pytest.fixture
def gateway(node: FakeNode) -> Iterator[RunningGateway]:
    with running_gateway(node.address, timeout_s=0.6) as running:
        assert running.put("/cache/kept", 1).status == 201
        yield running


def hook(node: FakeNode, behaviour: Behaviour) -> Callable[[Any], Any]:
    def answer(message: Any) -> Any:
        if isinstance(message, Inspect) and message.what == "status":
            return Reply(message.request, node.view(), [STATUS])
        return behaviour(node, message)

    return answer


def too_few(node: FakeNode, message: Any) -> Any:
    if isinstance(message, Get | Set | Delete | Update):
        return Reply(message.request, node.view(), [[int(Code.QUORUM), 2, 1]] * len(message.keys))
    return FakeNode.PASS


def silent(_: FakeNode, message: Any) -> Any:
    return None if isinstance(message, Get | Set | Delete | Update) else FakeNode.PASS


def rejecting(code: Code) -> Behaviour:
    def reject(node: FakeNode, message: Any) -> Any:
        if isinstance(message, Get | Set | Delete | Update):
            return Reject(message.request, node.view(), [int(code)])
        return FakeNode.PASS

    return reject


REQUESTS: list[tuple[str, str, Any, dict[str, str]]] = [
    ("GET", "/cache/kept", None, {}),
    ("PUT", "/cache/kept", {"value": 2}, {}),
    ("PUT", "/cache/new", {"value": 2}, {"If-None-Match": "*"}),
    ("PUT", "/cache/kept", {"value": 2}, {"If-Match": f'"{"0" * 32}"'}),
    ("DELETE", "/cache/kept", None, {}),
    ("POST", "/cache:batch", {"set": [{"key": "a", "value": 1}, {"key": "b", "value": 1, "ttl_s": 1}]}, {}),
    ("POST", "/cache:batch", {"get": ["a"]}, {}),
    ("POST", "/cache:batch", {"delete": ["a"]}, {}),
    ("POST", "/invalidate", {"keys": ["kept"]}, {}),
]


@pytest.mark.parametrize(
    "behaviour",
    [too_few, silent, rejecting(Code.OVERLOADED), rejecting(Code.NOT_READY)],
    ids=["too few", "silent", "overloaded", "not ready"],
)
def test_503_with_its_reason_and_when_to_try_again(
    gateway: RunningGateway, node: FakeNode, behaviour: Behaviour
) -> None:
    node.hook = hook(node, behaviour)
    for method, path, body, headers in REQUESTS:
        response = gateway.ask(method, path, body, headers)
        assert response.status == 503, response
        assert response.headers["retry-after"] == "1"
        assert {"error", "detail"} <= response.json.keys()
        if behaviour is too_few and path.startswith("/cache/"):
            assert (response.json["successes"], response.json["required"]) == (1, 2)


def test_a_batch_says_which_keys_failed(gateway: RunningGateway, node: FakeNode) -> None:
    def fail_b(node: FakeNode, message: Any) -> Any:
        if isinstance(message, Set) and b"b" in message.keys:
            results = [[int(Code.QUORUM), 2, 1] if key == b"b" else None for key in message.keys]
            return Reply(message.request, node.view(), results)
        return FakeNode.PASS

    node.hook = hook(node, fail_b)
    sets = [{"key": key, "value": 1} for key in "abc"]
    response = gateway.ask("POST", "/cache:batch", {"set": sets, "get": ["kept"]})
    assert response.status == 503
    assert response.json["stored"] == ["a", "c"]
    assert list(response.json["failed"]) == ["b"]
    assert response.json["values"] == {"kept": 1}


def test_health_is_the_mesh(gateway: RunningGateway, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def healthy() -> Response:
        return gateway.get("/health")

    assert healthy().status == 200
    monkeypatch.setattr("meshcache.gateway.cluster.CHECK_S", 0.2)
    node.hook = lambda _: None
    sick = healthy()
    assert (sick.status, sick.json["status"]) == (503, "unhealthy")
    assert sick.json["reason"]
    node.hook = hook(node, lambda *_: FakeNode.PASS)
    eventually(lambda: healthy().status == 200)
