"""Looking up names: in a bounded number of threads, for as long as they are wanted, whatever the names are."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from timing import eventually

from meshcache.address import split_address
from meshcache.sockets import resolver as resolving
from meshcache.sockets.resolver import THREADS_MAX, Resolver


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    made = Resolver(lambda: None)
    yield made
    made.close()


def test_what_is_found_is_told_once(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "find_host", lambda _: ("127.0.0.1", 1))
    resolver.want("name:1")
    eventually(lambda: resolver.found)
    assert list(resolver.found) == [("name:1", ("127.0.0.1", 1))]


def test_hundreds_of_names_take_no_more_threads_than_there_may_be(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, at_once, most = threading.Event(), threading.Semaphore(0), []
    lock = threading.Lock()
    under_way = 0

    def slow(address: str) -> str:
        nonlocal under_way
        with lock:
            under_way += 1
            most.append(under_way)
        at_once.release()
        go.wait(20)
        with lock:
            under_way -= 1
        return address

    monkeypatch.setattr(resolving, "find_host", slow)
    for i in range(400):
        resolver.want(f"name{i}:1")
    for _ in range(THREADS_MAX):
        assert at_once.acquire(timeout=20)
    for i in range(200):
        resolver.forget(f"name{i}:1")
    go.set()
    eventually(lambda: len(resolver.found) == 200)
    assert max(most) <= THREADS_MAX
    assert {address for address, _ in resolver.found} == {f"name{i}:1" for i in range(200, 400)}, "what is still wanted"


@pytest.mark.parametrize("error", [OSError("no such host"), UnicodeError("label too long")], ids=repr)
def test_a_name_that_is_not_found_is_tried_again_and_keeps_no_other_waiting(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(resolving, "AGAIN_S", 0.02)
    tries: list[str] = []

    def sometimes(address: str) -> str:
        tries.append(address)
        if address == "bad:1" and tries.count(address) < 4:
            raise error
        return address

    monkeypatch.setattr(resolving, "find_host", sometimes)
    resolver.want("bad:1")
    resolver.want("good:1")
    eventually(lambda: len(resolver.found) == 2)
    assert tries.count("bad:1") == 4


@pytest.mark.parametrize(
    "address", ["a..b:1", ".a:1", "a" * 64 + ":1", ".".join(["a" * 63] * 4) + ":1", "-a:1", "a b:1", "a/b:1", "é:1"]
)
def test_what_no_resolver_takes_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="as host"):
        split_address(address)


@pytest.mark.parametrize("address", ["a:1", "a.b-c_d.example:65535", "localhost.:1", "a" * 63 + ".b:1", "1a:1"])
def test_what_a_resolver_takes_is_an_address(address: str) -> None:
    assert split_address(address)[0] == address.rpartition(":")[0]
