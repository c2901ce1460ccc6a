"""The result backend for Celery, with a worker in this process."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chord, group
from celery.contrib.testing.worker import start_worker
from celery.exceptions import TimeoutError as NotReady

from meshcache import Client, Config, Node, NodeUnavailable, ValueTooLarge
from meshcache.integrations.celery import MeshcacheBackend
from meshcache.local.processes import HOST, find_base_port

PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(Config.from_tables(node={"id": "n1", "listen": f"{HOST}:{find_base_port(1)}"})) as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with node.client(namespace="results:") as client:
        client.clear()
        yield client


def app_with(url: str) -> Any:
    app = Celery("tests", broker="memory://", backend=url, set_as_current=False)
    app.conf.update(result_expires=500, result_chord_join_timeout=PATIENCE_S)
    app.conf.broker_transport_options = {"polling_interval": 0.01}
    return app


@pytest.fixture
def app(node: Node, client: Client) -> Any:
    return app_with(f"meshcache://{node.config.node.listen}/results:?timeout=2")


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Put the root logger back as it was: a worker takes it over, and later tests would hear no warnings."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def test_the_backend_is_found_by_its_url(app: Any) -> None:
    assert type(app.backend) is MeshcacheBackend
    assert app.backend.client.with_options()._session.options.timeout_s == 2.0


@pytest.mark.usefixtures("own_logging")
def test_results_come_back_and_chords_go_on(app: Any, client: Client) -> None:
    def add(x: int, y: int) -> int:
        return x + y

    def total(numbers: list[int]) -> int:
        return sum(numbers)

    def fail() -> None:
        raise ValueError("as it should")

    add_task, total_task, fail_task = (app.task(function) for function in (add, total, fail))
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=PATIENCE_S):
        one = add_task.delay(1, 2)
        assert one.get(PATIENCE_S, interval=0.01) == 3
        assert group(add_task.s(n, n) for n in range(5))().get(PATIENCE_S, interval=0.01) == [0, 2, 4, 6, 8]
        assert chord((add_task.s(n, 1) for n in range(4)), total_task.s())().get(PATIENCE_S, interval=0.01) == 10
        with pytest.raises(ValueError, match="as it should"):
            fail_task.delay().get(PATIENCE_S, interval=0.01)
    assert client.ttl(f"celery-task-meta-{one.id}") == pytest.approx(500, abs=PATIENCE_S)
    one.forget()
    assert not client.exists(f"celery-task-meta-{one.id}")


def test_0_seconds_are_for_ever(app: Any, client: Client) -> None:
    app.conf.result_expires = 0
    app.backend.set("a", "x")
    assert app.backend.incr("n") == 1
    assert client.ttl("a") == client.ttl("n") == float("inf")
    app.backend.expire("a", 7)
    assert client.ttl("a") == pytest.approx(7, abs=1)
    app.backend.expire("a", 0)
    assert client.ttl("a") == float("inf")


def test_a_backend_can_be_pickled(app: Any) -> None:
    app.backend.set("a", "x")
    twin = MeshcacheBackend(app, **app.backend.__reduce__()[1][2])
    assert twin.get("a") == "x"
    assert pickle.dumps(app.backend.__reduce__()[1])


def test_an_outage_is_no_pending_result() -> None:
    app = app_with(f"meshcache://{HOST}:{find_base_port(1)}/?timeout=0.2")
    with pytest.raises(NodeUnavailable) as caught:
        app.backend.get("a")
    assert app.backend.exception_safe_to_retry(caught.value)
    assert not app.backend.exception_safe_to_retry(ValueTooLarge(2, 1))


def test_a_result_that_is_not_there_is_waited_for(app: Any) -> None:
    with pytest.raises(NotReady):
        app.AsyncResult("nobody").get(0.05, interval=0.01)
