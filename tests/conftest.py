from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from faults.private_memcached import NoMemcached, private_memcached
from faults.private_postgres import NoPostgres, private_postgres
from hypothesis import settings

from meshcache import Client, Config, Node
from meshcache.local.processes import HOST, find_base_port

if TYPE_CHECKING:
    from fuzzing.memcached import Door
    from http_gateway import RunningGateway

# An example takes as long as a busy machine lets it: pytest's own limit is for what hangs.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-transcripts", action="store_true", help="write tests/core/transcripts/*.txt anew")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start a real server for the whole run; yields what psycopg.connect() takes."""
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    with ExitStack() as stack:
        try:
            connect_to = stack.enter_context(private_postgres())
        except NoPostgres as error:
            pytest.skip(str(error))
        yield connect_to


@pytest.fixture(scope="session")
def memcached() -> Iterator[str]:
    """A memcached as Debian has it; yields its address."""
    from fuzzing.memcached import REFERENCE  # noqa: PLC0415  (other tests need nothing of the fuzzer)

    with ExitStack() as stack:
        try:
            address = stack.enter_context(private_memcached(*REFERENCE))
        except NoMemcached as error:
            pytest.skip(str(error))
        yield address


@pytest.fixture(scope="session")
def door() -> Iterator[Door]:
    """A node that is a memcached, too."""
    from fuzzing.memcached import Door  # noqa: PLC0415

    with Door() as running:
        yield running


@pytest.fixture(scope="module")
def gateway_node() -> Iterator[Node]:
    """A node that a gateway is in front of, with a limit of values that is soon reached, and keys that are soon hot."""
    config = Config.from_tables(
        node={"id": "n1", "listen": f"{HOST}:{find_base_port(1)}"},
        limits={"value_bytes_max": 100_000},
        hot_keys={"threshold_reads": 20},
    )
    with Node(config) as node:
        yield node


@pytest.fixture(scope="module")
def gateway(gateway_node: Node) -> Iterator[RunningGateway]:
    from http_gateway import running_gateway  # noqa: PLC0415  (other tests do without the packages of the gateway)

    with running_gateway(gateway_node.config.node.listen, ("cache.example",)) as running:
        yield running


@pytest.fixture(scope="module")
def gateway_client(gateway_node: Node) -> Iterator[Client]:
    with gateway_node.client() as client:
        yield client
