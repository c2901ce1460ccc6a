"""Fixtures for pytest: ``mesh``, real nodes for the whole run, and ``cache``, an empty namespace for each test.

::

    def test_prices(cache):
        cache.set("tea", 3)
        assert cache.get("tea") == 3

The nodes start with the first test that asks for them, and end with the run. ``--mesh-nodes`` says how many there are,
and the fixture ``mesh_options``, which a conftest.py may define anew, what else ``LocalMesh`` is given. With
``--mesh-fault=kill`` or ``pause`` each test with ``cache`` begins as a node has just been killed or frozen, another one
each time; after the test it is back. So a test shows that a program stands that.

Nothing of meshcache but this module is imported before a test asks for a fixture.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from meshcache.client.blocking.client import Client
    from meshcache.local.launcher import LocalMesh

NODES: Final = 3
FAULTS: Final = ("kill", "pause")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("meshcache")
    group.addoption("--mesh-nodes", type=int, default=NODES, metavar="N", help=f"nodes of `mesh` (default: {NODES})")
    group.addoption("--mesh-fault", choices=FAULTS, help="do this to a node as each test with `cache` begins")


@pytest.fixture(scope="session")
def mesh_options() -> dict[str, Any]:
    """What LocalMesh is given beside the number of nodes: ``{"cluster": {"replicas": 3}}``, for example."""
    return {}


@pytest.fixture(scope="session")
def mesh(request: pytest.FixtureRequest, mesh_options: dict[str, Any]) -> Iterator[LocalMesh]:
    """Real nodes on free ports of this machine, for the whole run."""
    from meshcache.local.launcher import LocalMesh  # noqa: PLC0415  (only who uses the fixture pays for it)

    nodes = request.config.getoption("--mesh-nodes")
    if nodes < 2 and request.config.getoption("--mesh-fault"):
        raise pytest.UsageError("--mesh-fault needs a node that goes on: --mesh-nodes=2 at least")
    with LocalMesh(nodes, **mesh_options) as mesh:
        yield mesh


@pytest.fixture(scope="session")
def _mesh_fault(request: pytest.FixtureRequest, mesh: LocalMesh) -> Callable[[], Any]:
    """Return a function that makes a context with a fault, for the next node each time; or with none."""
    fault = request.config.getoption("--mesh-fault")
    names = list(mesh.pids)

    @contextmanager
    def during() -> Iterator[None]:
        if not fault:
            yield
            return
        names.append(name := names.pop(0))
        begin, end = (mesh.kill, mesh.start) if fault == "kill" else (mesh.pause, mesh.resume)
        begin(name)
        try:
            yield
        finally:
            end(name)
            mesh.wait_ready()

    return during


@pytest.fixture(scope="session")
def _mesh_client(mesh: LocalMesh) -> Client:
    return mesh.client()


@pytest.fixture
def cache(_mesh_client: Client, _mesh_fault: Callable[[], Any]) -> Iterator[Client]:
    """A client of ``mesh`` in a namespace of this test alone, so that it is empty."""
    with _mesh_fault():
        yield _mesh_client.namespace(f"test-{uuid.uuid4().hex}:")
