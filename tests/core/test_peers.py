"""The links that a node dials."""

from __future__ import annotations

import pytest

from meshcache.core.membership.members import State
from meshcache.core.operations.instant import Instant
from meshcache.core.outbox import Outbox
from meshcache.core.peers import Peers
from meshcache.protocol.messages import Fact, Welcome


def fact(number: int, boot: int = 1) -> Fact:
    return Fact(f"n{number}", f"127.0.0.{number}:7101", "", "", "", "", 1.0, boot, 0, int(State.ALIVE), b"")


OWN, OTHER = fact(1), fact(2)


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def peers(outbox: Outbox) -> Peers:
    peers = Peers("meshcache", (), outbox, Instant(0.0, 0))
    peers.dial(OWN, [OWN, OTHER])
    return peers


def test_a_member_is_dialled_once_however_often_that_is_decided_in_one_turn(peers: Peers, outbox: Outbox) -> None:
    peers.on_hello(OTHER)
    peers.redial(OTHER.address)
    peers.dial(OWN, [OWN, OTHER])
    assert outbox.connect == [OTHER.address], "two sockets would fight for one identity"


def test_a_link_that_nobody_wants_any_more_is_not_opened(peers: Peers, outbox: Outbox) -> None:
    peers.dial(OWN, [OWN])
    assert (peers.links, outbox.connect) == ({}, [])


def test_a_link_that_is_down_is_dialled_anew_once_for_each_process_that_says_hello(
    peers: Peers, outbox: Outbox
) -> None:
    for boot in (1, 2):
        outbox.clear()
        peers.on_hello(fact(2, boot))
        peers.on_hello(fact(2, boot))
        assert (outbox.disconnect, outbox.connect) == ([OTHER.address], [OTHER.address])


def test_a_link_that_stands_is_left_alone(peers: Peers, outbox: Outbox) -> None:
    outbox.clear()
    peers.links[OTHER.address].up = True
    peers.on_hello(OTHER)
    assert (outbox.disconnect, outbox.connect) == ([], [])


def test_of_two_processes_with_one_id_the_other_is_found_when_one_is_gone(peers: Peers) -> None:
    impostor = OTHER._replace(address="127.0.1.1:7101", boot=2)
    peers.dial(OWN, [OWN, OTHER, impostor])
    peers.on_welcome(OTHER.address, Welcome(1, 0, "n2", {}, []), 0)
    peers.on_welcome(impostor.address, Welcome(2, 0, "n2", {}, []), 0)
    peers.drop(impostor.address)
    assert peers.by_node["n2"].address == OTHER.address
    peers.drop(OTHER.address)
    assert "n2" not in peers.by_node


def test_what_is_told_of_links(peers: Peers) -> None:
    told = peers.statistics()
    assert list(told) == [OTHER.address]
    assert (told[OTHER.address]["up"], told[OTHER.address]["heard_s_ago"]) == (False, None)
    peers.on_up(OTHER.address, OWN, b"")
    assert peers.statistics()[OTHER.address]["up"] is False, "nobody has answered yet"
    peers.on_welcome(OTHER.address, Welcome(9, 5_000, OTHER.node_id, {}, []), 2_000)
    peers._instant.move(4.0)
    told = peers.statistics()
    assert told[OTHER.address] == {
        "node_id": OTHER.node_id,
        "up": True,
        "since_s": 4.0,
        "heard_s_ago": 2.0,
        "offset_ms": 3_000,
        "protocol": 1,
    }
    peers.on_down(OTHER.address)
    told = peers.statistics()
    assert (told[OTHER.address]["up"], told[OTHER.address]["since_s"]) == (False, 0.0)
    assert told[OTHER.address]["offset_ms"] is None


def test_each_host_of_a_seeds_name_is_dialled_and_none_that_is_no_longer_behind_it(outbox: Outbox) -> None:
    peers = Peers("meshcache", ("mesh:7101", "127.0.0.9:7101"), outbox, Instant(0.0, 0))
    peers.dial(OWN, [OWN])
    assert list(peers.links) == ["mesh:7101", "127.0.0.9:7101"]
    peers.spread("mesh:7101", ["10.0.0.1:7101", "10.0.0.2:7101"])
    assert set(peers.links) == {"10.0.0.1:7101", "10.0.0.2:7101", "127.0.0.9:7101"}
    assert peers.is_seed("10.0.0.2:7101")
    peers.spread("mesh:7101", ["10.0.0.2:7101", "10.0.0.3:7101"])
    peers.dial(OWN, [OWN, OTHER])
    assert set(peers.links) == {"10.0.0.2:7101", "10.0.0.3:7101", "127.0.0.9:7101", OTHER.address}
    assert not peers.is_seed("10.0.0.1:7101")
    assert peers.is_seed("mesh:7101")
    peers.spread("mesh:7101", ["10.0.0.3:7101"])  # one machine: by its name, whose address may change
    assert set(peers.links) == {"mesh:7101", "127.0.0.9:7101", OTHER.address}
