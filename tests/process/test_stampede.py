"""A crowd of real tasks, threads and processes that miss one key at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults.stampede import run_crowd

import meshcache

pytestmark = pytest.mark.process

CROWD = 20


@pytest.fixture(scope="module")
def mesh() -> Iterator[meshcache.LocalMesh]:
    with meshcache.LocalMesh(nodes=3) as mesh:
        yield mesh


@pytest.mark.parametrize("kind", ["tasks", "threads", "processes"])
def test_one_computes_and_all_get_the_value(mesh: meshcache.LocalMesh, kind: str) -> None:
    told = run_crowd(list(mesh.addresses), kind, CROWD, f"crowd of {kind}")
    (pid,) = told["loads"]
    assert [answer["value"] for answer in told["answers"]] == [f"value of {pid}"] * CROWD


def test_when_the_process_that_computes_is_killed_one_more_computes(mesh: meshcache.LocalMesh) -> None:
    told = run_crowd(list(mesh.addresses), "processes", CROWD, "crowd with a victim", kill=True)
    _, pid = told["loads"]
    assert [answer["value"] for answer in told["answers"]] == [f"value of {pid}"] * (CROWD - 1)
