from __future__ import annotations

from collections.abc import Iterator

import pytest
from http_gateway import RunningGateway, running_gateway

from meshcache import Client, Config, Node
from meshcache.local.processes import HOST, find_base_port

VALUE_BYTES_MAX = 100_000


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    config = Config.from_tables(
        node={"id": "n1", "listen": f"{HOST}:{find_base_port(1)}"},
        limits={"value_bytes_max": VALUE_BYTES_MAX},
        hot_keys={"threshold_reads": 20},
    )
    with Node(config) as node:
        yield node


@pytest.fixture(scope="module")
def gateway(node: Node) -> Iterator[RunningGateway]:
    with running_gateway(node.config.node.listen, ("cache.example",)) as running:
        yield running


@pytest.fixture(scope="module")
def cache(node: Node) -> Iterator[Client]:
    with node.client() as client:
        yield client
