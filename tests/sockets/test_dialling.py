"""Names that stand for several hosts, some of them dead, and name servers that hang."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from fake_node import FakeNode
from timing import eventually

import meshcache
from meshcache import AsyncClient, Client, Node
from meshcache.sockets.dialling import Dials, Host, dial, hosts_of, numeric, race, reach

DEADLINE_S = 30.0
T = TypeVar("T")


class Names:
    """A name server: by name the addresses to tell. It can hang, and counts what it is asked."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()

    def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked += 1
        assert self.answers.wait(DEADLINE_S)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = [socket.AF_INET6 if ":" in ip else socket.AF_INET for ip in self.known[host]]
        where = [(ip, port, 0, 0) if ":" in ip else (ip, port) for ip in self.known[host]]
        return [(family, socket.SOCK_STREAM, 6, "", place) for family, place in zip(families, where, strict=True)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.answers.set()


@pytest.fixture
def node() -> Iterator[FakeNode]:
    node = FakeNode()
    yield node
    node.stop()


@contextlib.contextmanager
def black_hole(port: int = 0, host: str = "127.0.0.3") -> Iterator[Host]:
    """Yield a host that does not answer at all: its queue is full, so the kernel drops whoever knocks."""
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(3):
            filler = opened.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE_S):
            return await main

    return asyncio.run(bounded())


# ---- hosts of a name


def test_families_take_turns_and_each_host_comes_once(names: Names) -> None:
    names.known["mesh.test"] = ["::1", "::2", "::3", "10.0.0.1", "::1", "10.0.0.2", "10.0.0.1"]
    found = hosts_of("mesh.test:5")
    assert found == [("10.0.0.1", 5), ("::1", 5), ("10.0.0.2", 5), ("::2", 5), ("::3", 5)]
    assert numeric("127.0.0.1:5") == ("127.0.0.1", 5)
    assert numeric("[::1]:5") == ("::1", 5)
    assert numeric("mesh.test:5") is None
    with pytest.raises(ValueError, match="as host"):
        hosts_of_real("x" * 100 + ":5")


def hosts_of_real(address: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda host, *_, **__: host.encode("idna"))
        return hosts_of(address)


def test_the_first_host_that_answers_is_taken_and_the_others_come_last(node: FakeNode, names: Names) -> None:
    alive = ("127.0.0.1", node.port)
    with black_hole() as hole:
        assert race([("127.0.0.9", node.port), hole, alive], DEADLINE_S) == alive
        assert race([alive, hole], DEADLINE_S) == alive
        names.known["mesh.test"] = [hole[0], "127.0.0.1"]
        assert hosts_of(f"mesh.test:{hole[1]}") == [("127.0.0.1", hole[1]), hole]
    with pytest.raises(ConnectionRefusedError):
        race([("127.0.0.9", node.port)], DEADLINE_S)
    with pytest.raises(OSError, match=r"127.0.0.9: Connection refused, 127.0.0.8: Connection refused") as caught:
        race([("127.0.0.9", node.port), ("127.0.0.8", node.port)], DEADLINE_S)
    assert caught.value.errno == errno.ECONNREFUSED
    with pytest.raises(OSError, match="no address"):
        race([], 1.0)


def test_silence_ends_with_the_time() -> None:
    with black_hole() as hole, pytest.raises(TimeoutError):
        race([hole], 0.05)


# ---- clients


def test_a_client_finds_the_host_that_is_alive(node: FakeNode, names: Names) -> None:
    with black_hole(node.port) as hole:
        for others in (["127.0.0.9"], ["127.0.0.9", hole[0], "127.0.0.8"], ["::1", hole[0]]):
            for ips in ([*others, "127.0.0.1"], ["127.0.0.1", *others]):
                names.known["mesh.test"] = ips
                with Client(f"mesh.test:{node.port}", timeout=2) as client:
                    client.set("k", 1)
                    assert client.get("k") == 1

                async def main() -> None:
                    async with AsyncClient(f"mesh.test:{node.port}", timeout=2) as cache:
                        assert await cache.get("k") == 1

                run(main())


def test_the_only_host_alive_may_be_of_ipv6(names: Names) -> None:
    try:
        node = FakeNode(host="::1")
    except Exception as error:  # noqa: BLE001  (as libzmq likes)
        pytest.skip(f"no IPv6 here: {error}")
    try:
        names.known["mesh.test"] = ["127.0.0.1", "::1"]
        with Client(f"mesh.test:{node.port}") as client:
            client.set("k", 1)
            assert client.get("k") == 1
    finally:
        node.stop()


def test_a_host_that_never_greets_gives_way_to_the_next(node: FakeNode, names: Names) -> None:
    frozen = FakeNode(host="127.0.0.2", port=node.port)
    frozen.pause()
    names.known["mesh.test"] = ["127.0.0.2", "127.0.0.1"]
    try:
        with Client(f"mesh.test:{node.port}", timeout=20) as client:
            client.set("k", 1)

        async def main() -> None:
            names.known["mesh.test"] = ["127.0.0.2", "127.0.0.1"]
            async with AsyncClient(f"mesh.test:{node.port}", timeout=20) as cache:
                assert await cache.get("k") == 1

        run(main())
    finally:
        frozen.resume()
        frozen.stop()


def test_a_name_is_looked_up_again_for_each_new_connection(names: Names) -> None:
    first = FakeNode()
    port, address = first.port, f"mesh.test:{first.port}"
    names.known["mesh.test"] = ["127.0.0.1"]
    with Client(address, timeout=DEADLINE_S) as client:
        first.members = [first.fact()._replace(address=address)]
        client.set("k", 1)
        first.stop()
        moved = FakeNode(host="127.0.0.2", port=port)
        moved.members = [moved.fact()._replace(address=address)]
        names.known["mesh.test"] = ["127.0.0.2"]
        try:
            eventually(lambda: _answers(client))
            assert moved.hellos
        finally:
            moved.stop()


def _answers(client: Client) -> bool:
    try:
        client.get("k")
    except meshcache.OperationError:
        return False
    return True


def test_an_unknown_name_is_told_at_once(names: Names) -> None:
    with Client("nowhere.test:7101", timeout=60) as client:
        with pytest.raises(meshcache.NodeUnavailable, match=r"nowhere.test:7101: name or service not known"):
            client.get("k")
        assert client.get_or_set("k", lambda: 1) == 1
    assert names.asked <= 3


def test_a_refused_connection_leaves_nothing_to_the_collector() -> None:
    """A client tries again every second as long as its nodes are away."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                with pytest.raises(ConnectionRefusedError):
                    race([unused.getsockname()], 1.0)
            assert gc.collect() < 20
        finally:
            gc.enable()


def test_a_name_server_that_hangs_costs_no_more_than_the_timeout(names: Names, node: FakeNode) -> None:
    names.known["mesh.test"] = ["127.0.0.1"]
    names.answers.clear()
    with Client(f"mesh.test:{node.port}", timeout=0.3) as client:
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(client.get, "k") for _ in range(8)]
            for future in asked:
                with pytest.raises(meshcache.OperationTimeout, match=r"no.* name server"):
                    future.result(DEADLINE_S)
        assert time.monotonic() - began < 3.0
        assert names.asked == 1, "who wants the same name joins"
        names.answers.set()
        eventually(lambda: _answers(client))


def test_a_loop_does_not_wait_for_a_name_server_that_hangs(names: Names, node: FakeNode) -> None:
    """Neither its calls, nor other tasks, nor its end."""
    names.known["mesh.test"] = ["127.0.0.1"]
    names.answers.clear()
    turns = 0

    async def main() -> None:
        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.001)
                turns += 1

        turning = asyncio.create_task(turn())
        async with AsyncClient(f"mesh.test:{node.port}", timeout=0.3) as cache:
            with pytest.raises(meshcache.OperationTimeout):
                await cache.get("k")
        turning.cancel()

    began = time.monotonic()
    run(main())
    assert time.monotonic() - began < 5.0
    assert turns > 20
    names.answers.set()


def test_a_look_up_that_hangs_is_not_joined_for_ever(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshcache.sockets.dialling.LOOK_UP_S", 0.0)
    names.answers.clear()
    first = dial("hung.test:5")
    assert dial("hung.test:5") is not first
    names.answers.set()


def test_who_waits_for_nothing_looks_from_time_to_time(names: Names, node: FakeNode) -> None:
    dials = Dials()
    assert dials.look("127.0.0.1:5") == ("127.0.0.1", 5)
    names.answers.clear()
    names.known["mesh.test"] = ["127.0.0.9", "127.0.0.1"]
    address = f"mesh.test:{node.port}"
    assert dials.look(address) is None
    names.answers.set()
    found: dict[Host | None, None] = {}
    eventually(lambda: found.setdefault(dials.look(address)) is not None or len(found) > 1)
    assert set(found) == {None, ("127.0.0.1", node.port)}
    assert reach(address, DEADLINE_S) == ("127.0.0.1", node.port)


# ---- nodes


def config(port: int, host: str = "127.0.0.1", **node: Any) -> meshcache.Config:
    security = {"insecure": host == "mesh.test"}
    return meshcache.Config.from_tables(node={"id": f"n{port}", "listen": f"{host}:{port}", **node}, security=security)


def free_ports(count: int) -> list[int]:
    """Return ports whose neighbours for streams and health are free, too; all below those that the kernel hands out."""
    found: list[int] = []
    for port in range(21000, 30000, 7):
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            for each in (port, port + 100, port + 200):
                opened.enter_context(socket.create_server(("127.0.0.1", each)))
            found.append(port)
        if len(found) == count:
            break
    return found


def test_nodes_find_a_seed_by_a_name_with_dead_hosts(names: Names) -> None:
    first, second = free_ports(2)
    names.known["mesh.test"] = ["127.0.0.9", "127.0.0.1"]
    with Node(config(first)), Node(config(second, seeds=[f"mesh.test:{first}"])) as joined, joined.client() as client:
        eventually(lambda: len(client.inspect("view")["members"]) == 2)


def test_nodes_look_a_name_up_again_until_somebody_answers(names: Names) -> None:
    """The seed came up later, and at another address than the one that the name stood for at first."""
    first, second = free_ports(2)
    names.known["mesh.test"] = ["127.0.0.9"]
    with Node(config(second, seeds=[f"mesh.test:{first}"])) as joining, joining.client() as client:
        names.known["mesh.test"] = ["127.0.0.9", "127.0.0.1"]
        with Node(config(first)):
            eventually(lambda: len(client.inspect("view")["members"]) == 2)


def test_streams_are_followed_by_a_name_with_dead_hosts(names: Names) -> None:
    (port,) = free_ports(1)
    names.known["mesh.test"] = ["127.0.0.1"]
    options = config(port, host="mesh.test")
    with Node(options), Client(f"mesh.test:{port}", timeout=DEADLINE_S) as client:
        names.known["mesh.test"] = ["127.0.0.9", "127.0.0.1"]
        with client.subscribe() as events:
            client.set("k", 1)
            event = events.wait(DEADLINE_S)
            assert event is not None
            assert event.key == "k"

        async def main() -> None:
            async with AsyncClient(f"mesh.test:{port}", timeout=DEADLINE_S) as cache, cache.subscribe() as events:
                await cache.set("k", 2)
                event = await events.wait(DEADLINE_S)
                assert event is not None
                assert event.key == "k"

        run(main())
