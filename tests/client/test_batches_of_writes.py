"""Whom a client asks for a batch of writes: one owner for all keys of the same nodes, where all must store them."""

from __future__ import annotations

from typing import Any

import pytest
from client_world import SETTINGS, World, fact, hits, welcome

from meshcache.client.connection import Call
from meshcache.client.failure import NO_REPLY
from meshcache.protocol.coordinators import coordinators

ITEMS = {f"key{i}": i for i in range(100)}
KEYS = [key.encode() for key in ITEMS]
ALL_STORE: dict[str, Any] = {"write_quorum": 2}


def world(settings: dict[str, Any] = ALL_STORE, **options: Any) -> World:
    found = World(known=False, **options)
    greeting = welcome(*[fact(i) for i in (1, 2, 3)])._replace(settings=SETTINGS | settings)
    found.routing.welcome(fact(1).address, greeting, greeting.wall_ms - found.now * 1000, found.now)
    return found


def first_owners(found: World) -> dict[bytes, str]:
    return {key: found.owners(key)[0] for key in KEYS}


def gathered(found: World) -> dict[bytes, str]:
    chosen = coordinators(found.routing.ring)
    return {key: found.routing.address_of(chosen[found.routing.slot_of(key)]) or "" for key in KEYS}


def asked(found: World) -> dict[bytes, str]:
    """Return whom each key was sent to, the last time."""
    return {key: call.address for call in found.data_calls for key in call.request.keys}


@pytest.mark.parametrize(
    ("settings", "consistency", "gathers"),
    [
        (ALL_STORE, None, True),
        (ALL_STORE, "quorum", True),
        (ALL_STORE, "all", True),
        (ALL_STORE, (2, 1), True),
        (ALL_STORE, "one", False),
        (ALL_STORE, (1, 1), False),
        ({"write_quorum": 1}, None, False),
        ({"write_quorum": 1}, "all", True),
        ({}, None, False),  # an older node does not say
        ({"replicas": 3, "write_quorum": 2}, None, False),
        ({"replicas": 3, "write_quorum": 2}, "quorum", False),
        ({"replicas": 3, "write_quorum": 2}, "all", True),
    ],
)
def test_keys_are_gathered_where_all_owners_must_store_them(
    settings: dict[str, Any], consistency: Any, gathers: bool
) -> None:
    found = world(settings, consistency=consistency)
    assert found.run(found.session.set_many(ITEMS, None, None), hits) == []
    assert asked(found) == (gathered(found) if gathers else first_owners(found))
    if settings == ALL_STORE:
        assert gathered(found) != first_owners(found)


def test_only_batches_of_writes_are_gathered() -> None:
    found = world()
    found.run(found.session.get_many(list(ITEMS), None), hits)
    assert asked(found) == first_owners(found)
    found = world()
    found.run(found.session.delete_many(list(ITEMS), None), hits)
    assert asked(found) == first_owners(found)
    found = world()
    for key, value in ITEMS.items():
        found.run(found.session.set(key, value, None, None), hits)
    assert asked(found) == first_owners(found)


def test_the_fast_path_asks_the_same_nodes() -> None:
    found = world()
    fast = found.session.fast
    fast.is_open = True
    attempts = fast.set_many(list(ITEMS), list(ITEMS.values()), None)
    assert attempts is not None
    places = {KEYS[place]: attempt.address for attempt in attempts for place in attempt.places}
    assert places == gathered(found)


@pytest.mark.parametrize("trouble", ["suspect", "silent"])
def test_without_a_coordinator_the_batch_goes_to_the_first_owners_that_are_well(trouble: str) -> None:
    found = world()
    if trouble == "suspect":
        found.routing.learn([fact(1), fact(2, state=1), fact(3)], found.now)
    else:
        found.routing.failed(fact(2).address, found.now)
    before = gathered(found)
    found.run(found.session.set_many(ITEMS, None, None), hits)
    usable = {key: next(one for one in found.owners(key) if one != fact(2).address) for key in KEYS}
    assert asked(found) == {key: usable[key] if before[key] == fact(2).address else before[key] for key in KEYS}


def test_a_batch_whose_coordinator_is_silent_goes_to_the_other_owners() -> None:
    found = world()
    silent = fact(2).address

    def answer(call: Call) -> Any:
        return NO_REPLY if call.address == silent else hits(call)

    assert found.run(found.session.set_many(ITEMS, None, None), answer) == []
    for key, address in asked(found).items():
        assert address != silent
        assert address in found.owners(key)
