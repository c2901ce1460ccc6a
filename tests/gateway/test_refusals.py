"""When to try again what was refused."""

import pytest

from meshcache.errors import MeshcacheError, NodeUnavailable, Overloaded, QuorumNotReached
from meshcache.gateway.refusals import refusal_of, retry_after


@pytest.mark.parametrize(
    ("error", "after_s"),
    [
        (Overloaded(retry_after_s=0.05), "1"),
        (Overloaded(retry_after_s=1.0), "1"),
        (Overloaded(retry_after_s=1.01), "2"),
        (Overloaded(retry_after_s=9.5), "10"),
        (NodeUnavailable("no node answers"), "1"),
        (QuorumNotReached(2, 1), "1"),
    ],
)
def test_a_mesh_that_is_overloaded_says_when_to_come_back(error: MeshcacheError, after_s: str) -> None:
    refusal = refusal_of(error)
    assert refusal.status == 503
    assert refusal.headers == {"Retry-After": after_s}


def test_of_several_the_latest_counts() -> None:
    errors = [Overloaded(retry_after_s=2.5), "too few nodes", Overloaded(retry_after_s=0.1), NodeUnavailable("gone")]
    assert retry_after(*errors) == {"Retry-After": "3"}
    assert retry_after() == {"Retry-After": "1"}
