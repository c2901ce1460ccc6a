"""Seeds whose names stand for many nodes, and for others later."""

from __future__ import annotations

import threading

import pytest
from timing import eventually

from meshcache.sockets import seed_names
from meshcache.sockets.seed_names import SeedNames, of_one_family

ONE, TWO = ("10.0.0.1", 7101), ("10.0.0.2", 7101)


class Names:
    """A name server of our own."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[tuple[str, int]]] = {}
        self.asked = 0

    def look_up(self, address: str) -> list[tuple[str, int]]:
        self.asked += 1
        if address not in self.hosts:
            raise OSError("no such name")
        return self.hosts[address]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(seed_names, "hosts_of", names.look_up)
    monkeypatch.setattr(seed_names, "AGAIN_S", 0.01)
    monkeypatch.setattr(seed_names, "AGAIN_FAILED_S", 0.01)
    return names


def test_all_hosts_of_a_name_are_told_and_again_when_they_change(names: Names) -> None:
    woken = threading.Event()
    seeds = SeedNames(["mesh:7101", "127.0.0.1:7101"], woken.set)
    seeds.start()
    try:
        eventually(lambda: names.asked > 2)
        assert not seeds.found, "there is no such name yet"
        names.hosts["mesh:7101"] = [TWO, ONE]
        assert woken.wait(10)
        assert seeds.found.popleft() == ("mesh:7101", ["10.0.0.1:7101", "10.0.0.2:7101"])
        names.hosts["mesh:7101"] = [ONE, TWO]  # name servers take turns
        asked = names.asked
        eventually(lambda: names.asked > asked + 2)
        del names.hosts["mesh:7101"]
        asked = names.asked
        eventually(lambda: names.asked > asked + 2)
        assert not seeds.found
        names.hosts["mesh:7101"] = [TWO]
        assert eventually(lambda: seeds.found and seeds.found.popleft()) == ("mesh:7101", ["10.0.0.2:7101"])
    finally:
        seeds.close()
    eventually(lambda: "meshcache-seeds" not in {thread.name for thread in threading.enumerate()})


def test_seeds_without_names_are_not_looked_up(names: Names) -> None:
    seeds = SeedNames(["127.0.0.1:7101", "[::1]:7101"], lambda: None)
    seeds.start()
    assert "meshcache-seeds" not in {thread.name for thread in threading.enumerate()}


def test_a_machine_with_an_address_of_each_family_counts_once() -> None:
    assert of_one_family([ONE, ("fd00::1", 7101)]) == ["10.0.0.1:7101"]
    assert of_one_family([("fd00::2", 7101), ("fd00::1", 7101)]) == ["[fd00::1]:7101", "[fd00::2]:7101"]
