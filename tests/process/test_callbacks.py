"""What callbacks of subscriptions raise is reported, and the next event comes all the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshcache import AsyncClient, Client, Invalidation, LocalMesh

pytestmark = pytest.mark.process

ERRORS: dict[str, BaseException] = {
    "ValueError": ValueError("as planned"),
    "KeyboardInterrupt": KeyboardInterrupt("as planned"),
    "BaseException": BaseException("as planned"),
    "SystemExit": SystemExit("as planned"),
}


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=1) as mesh:
        yield mesh


@pytest.fixture
def writer(mesh: LocalMesh) -> Iterator[Client]:
    with Client(mesh.addresses) as client:
        yield client


def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.001)


@pytest.mark.parametrize("name", ERRORS)
def test_in_a_thread_it_goes_to_the_hook_for_exceptions_of_threads(
    writer: Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    found: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def note(event: Invalidation) -> None:
        found.append(event.key)
        if event.key == "bad":
            raise ERRORS[name]

    with writer.subscribe("", note):
        for key in ("bad", "good", "bad", "good"):
            writer.set(key, 1)
        until(lambda: found == ["bad", "good", "bad", "good"])
    assert len(reported) == 2
    error = reported[0].exc_value
    assert ERRORS[name] in {error, error.__cause__}
    assert reported[0].exc_type is type(error) is not SystemExit, "of which the hook would say nothing"
    assert reported[0].thread.name == "meshcache-subscription"
    until(lambda: "meshcache-subscription" not in {thread.name for thread in threading.enumerate()})


def test_a_hook_that_fails_is_reported_itself_and_ends_nothing(
    writer: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Any) -> None:
        raise LookupError("the hook is broken")

    def note(event: Invalidation) -> None:
        found.append(event.key)
        raise ValueError("as planned")

    found: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", broken)
    with writer.subscribe("", note):
        writer.set("a", 1)
        writer.set("b", 1)
        until(lambda: found == ["a", "b"])
        until(lambda: "the hook is broken" in (said := said_so_far(capsys)) and "as planned" in said)


_said: list[str] = []


def said_so_far(capsys: pytest.CaptureFixture[str]) -> str:
    _said.append(capsys.readouterr().err)
    return "".join(_said)


@pytest.mark.parametrize("awaits", [False, True])
@pytest.mark.parametrize("error", [ValueError("as planned"), asyncio.CancelledError("as planned")], ids=repr)
def test_in_asyncio_it_goes_to_the_exception_handler_of_the_loop(
    mesh: LocalMesh, error: BaseException, awaits: bool
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with AsyncClient(mesh.addresses) as client, client.subscribe("", later if awaits else note):
            for key in ("bad", "good", "bad", "good"):
                await client.set(key, 1)
            async with asyncio.timeout(20):
                while found != ["bad", "good", "bad", "good"]:  # noqa: ASYNC110  (nothing tells when)
                    await asyncio.sleep(0.001)

    def note(event: Invalidation) -> None:
        found.append(event.key)
        if event.key == "bad":
            raise error

    async def later(event: Invalidation) -> None:
        await asyncio.sleep(0)
        note(event)

    reported: list[Any] = []
    found: list[Any] = []
    asyncio.run(main())
    assert [context["exception"] for context in reported] == [error, error]
    assert "callback" in reported[0]["message"]


def test_a_callback_under_way_when_the_subscription_ends_is_no_failure(mesh: LocalMesh) -> None:
    async def main() -> None:
        began = asyncio.Event()

        async def endless(_: Invalidation) -> None:
            began.set()
            await asyncio.sleep(3600)

        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with AsyncClient(mesh.addresses) as client, client.subscribe("", endless):
            await client.set("k", 1)
            async with asyncio.timeout(20):
                await began.wait()

    reported: list[Any] = []
    asyncio.run(main())
    assert reported == []


@pytest.mark.parametrize("client", ["Client", "AsyncClient"])
def test_a_program_that_configures_nothing_sees_it(mesh: LocalMesh, client: str) -> None:
    program = PROGRAMS[client].format(address=mesh.addresses[0])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "seen: 2\n"
    assert done.stderr.count("ValueError: as planned") == 2, done.stderr
    assert "Traceback" in done.stderr


PROGRAMS = {
    "Client": """
import threading, meshcache
seen, enough = [], threading.Event()
def note(event):
    seen.append(event)
    if len(seen) == 2:
        enough.set()
    raise ValueError("as planned")
with meshcache.Client("{address}") as cache:
    with cache.subscribe("", note):
        cache.set("a", 1)
        cache.set("b", 1)
        assert enough.wait(20)
    for thread in threading.enumerate():
        if thread.name == "meshcache-subscription":
            thread.join(20)
print("seen:", len(seen))
""",
    "AsyncClient": """
import asyncio, meshcache
seen = []
async def main():
    enough = asyncio.Event()
    def note(event):
        seen.append(event)
        if len(seen) == 2:
            enough.set()
        raise ValueError("as planned")
    async with meshcache.AsyncClient("{address}") as cache, cache.subscribe("", note):
        await cache.set("a", 1)
        await cache.set("b", 1)
        async with asyncio.timeout(20):
            await enough.wait()
        await asyncio.sleep(0)
asyncio.run(main())
print("seen:", len(seen))
""",
}
