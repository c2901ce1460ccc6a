"""Whoever does not get the answer that it holds a lock does not hold it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from fake_node import FakeNode, fake_mesh
from story import DEFAULT, STRICT, Story

import meshcache
from meshcache.client.locks import Lock
from meshcache.errors import LockNotOwned, OperationError, QuorumNotReached
from meshcache.protocol.messages import Change, Clear, Get, Update
from meshcache.protocol.record import content_of

T = TypeVar("T")
KEY = b"lock:L"


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh() as (node,):
        yield node


@pytest.fixture
def cache(node: FakeNode) -> Iterator[meshcache.Client]:
    with meshcache.Client(node.address) as cache:
        cache.get("connect")
        yield cache


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await main

    return asyncio.run(bounded())


def changes(node: FakeNode) -> list[int]:
    return [int(change[0]) for request in node.of(Update) for change in request.changes]


def is_free(node: FakeNode) -> bool:
    return node._live(KEY) is None


# ---- one message each


def test_acquiring_extending_and_releasing_take_one_message_each(node: FakeNode, cache: meshcache.Client) -> None:
    asked = len(node.requests)
    with cache.lock("L", ttl=60) as lock:
        lock.extend(90)
    assert changes(node) == [Change.ACQUIRE, Change.EXTEND, Change.RELEASE]
    assert len(node.requests) == asked + 3


# ---- asyncio


def test_a_task_that_is_cancelled_in_any_turn_of_the_loop_holds_nothing(node: FakeNode) -> None:
    async def main() -> int:
        cancelled = 0
        async with meshcache.AsyncClient(node.address) as cache:
            for turns in itertools.count():
                lock = cache.lock("L", ttl=60)
                task = asyncio.create_task(lock.acquire())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if task.done():
                    assert await task
                    await lock.release()
                    return cancelled
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                cancelled += 1
                assert is_free(node), f"held by nobody after {turns} turns"
                assert await cache.lock("L", ttl=60).acquire(), "another one gets it at once"
                await cache.clear()
        raise AssertionError

    assert run(main()) > 1


def test_a_timeout_around_the_lock_leaves_nothing_behind(node: FakeNode) -> None:
    """The first time also connects, and the node is slow to say what it has done."""

    def slow(request: Any) -> Any:
        if isinstance(request, Update) and request.changes[0][0] == Change.ACQUIRE:
            time.sleep(0.02)  # it is the node that is slow here
        return node.PASS

    async def main() -> list[str]:
        ends = []
        async with meshcache.AsyncClient(node.address) as cache:
            for i in range(20):
                try:
                    async with asyncio.timeout(i * 0.002), cache.lock("L", ttl=60):
                        ends.append("held")
                except TimeoutError:
                    ends.append("cancelled")
                assert is_free(node)
        return ends

    node.hook = slow
    assert "cancelled" in run(main())


def test_who_is_cancelled_while_waiting_for_another_ends_at_once(node: FakeNode) -> None:
    async def main() -> None:
        async with meshcache.AsyncClient(node.address) as cache, cache.lock("L", ttl=60):
            waiting = asyncio.create_task(cache.lock("L", ttl=60, timeout=50).acquire())
            while changes(node).count(Change.ACQUIRE) < 3:  # noqa: ASYNC110  (the node is in another thread)
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not is_free(node), "the holder's is not touched"

    run(main())
    assert is_free(node)


def test_cancelled_in_the_body_while_extending_it_is_released(node: FakeNode) -> None:
    def swallow(request: Any) -> Any:
        if isinstance(request, Update) and request.changes[0][0] == Change.EXTEND:
            node._execute(request)
            extended.append(request)
            return None
        return node.PASS

    async def main() -> None:
        async with meshcache.AsyncClient(node.address) as cache:
            holding = asyncio.create_task(hold(cache))
            while not extended:  # noqa: ASYNC110  (the node is in another thread)
                await asyncio.sleep(0)
            holding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holding
            assert is_free(node)

    async def hold(cache: meshcache.AsyncClient) -> None:
        async with cache.lock("L", ttl=60) as lock:
            await lock.extend(90)

    extended: list[Any] = []
    node.hook = swallow
    run(main())


@pytest.mark.parametrize("cancels", [1, 2, 3])
def test_a_silent_node_delays_a_cancelled_task_little_and_closing_is_silent(
    node: FakeNode, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], cancels: int
) -> None:
    async def main() -> float:
        asyncio.get_running_loop().set_debug(True)
        async with meshcache.AsyncClient(node.address) as cache:
            await cache.get("connect")
            node.pause()
            task = asyncio.create_task(cache.lock("L", ttl=60, timeout=30).acquire())
            await asyncio.sleep(0)
            began = time.monotonic()
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            return time.monotonic() - began

    with caplog.at_level(logging.WARNING):
        assert run(main()) < 10
    node.resume()
    said = [record.getMessage() for record in caplog.records if "Executing" not in record.getMessage()]
    assert (said, capfd.readouterr().err) == ([], "")


# ---- threads


class Stop(BaseException):
    """As KeyboardInterrupt, but nobody's else."""


def interrupt(cache: meshcache.Client, nth: int, before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the client's nth exchange with nodes, before or after it is made."""
    made = itertools.count(1)
    exchange = cache._channels.exchange

    def interrupted(calls: Any, *, parked: bool = False) -> Any:
        number = next(made)
        if number == nth and before:
            raise Stop
        outcomes = exchange(calls, parked=parked)
        if number == nth:
            raise Stop
        return outcomes

    monkeypatch.setattr(cache._channels, "exchange", interrupted)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_thread_that_is_interrupted_while_it_acquires_or_releases_holds_nothing(
    node: FakeNode, cache: meshcache.Client, nth: int, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(cache, nth, before, monkeypatch)
    entered = False
    with pytest.raises(Stop), cache.lock("L", ttl=60):
        entered = True
    assert entered == (nth == 2)
    assert is_free(node)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of sockets; here it is about the lock
def test_an_exception_from_a_signal_handler_at_any_moment_leaves_nothing_behind(node: FakeNode) -> None:
    def stop(*_: Any) -> None:
        raise Stop

    cache = meshcache.Client(node.address)
    cache.get("connect")
    before = signal.signal(signal.SIGALRM, stop)
    interrupted = 0
    try:
        for i in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 20e-6 * (1 + i % 60))
                with cache.lock("L", ttl=60):
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Stop:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert is_free(node), f"held by nobody after {i} rounds"
    finally:
        signal.signal(signal.SIGALRM, before)
        cache.close()
    assert interrupted > 10
    del cache
    gc.collect()  # here, and not in the next test


# ---- failures


def test_an_acquisition_that_failed_does_not_hold_the_lock_for_its_ttl() -> None:
    """The first owner stores it, but the second one is silent; so the caller is told that it failed."""
    story = Story(2, DEFAULT)
    first, second = story.owners("lock:L")
    before = Lock(story.call, story.client.session, "L", 600.0, 5.0)
    assert before.acquire()
    before.release()  # what it leaves lets the first owner grant the lock without asking the second one
    second.crash()
    with pytest.raises(QuorumNotReached):
        Lock(story.call, story.client.session, "L", 600.0, 0.6).acquire()
    assert first.core is not None
    held = first.core.store.peek(KEY)
    assert held is None or content_of(held)[0] & 1, "not there, or deleted"
    assert Lock(story.call, story.client.session, "L", 600.0, 20.0).acquire(), "as soon as the mesh goes on"


def test_a_release_that_failed_does_not_leave_it_held() -> None:
    story = Story(2, DEFAULT)
    lock = Lock(story.call, story.client.session, "L", 600.0, 0.6)
    assert lock.acquire()
    story.owners("lock:L")[1].crash()
    with pytest.raises(OperationError):
        lock.release()
    assert Lock(story.call, story.client.session, "L", 600.0, 20.0).acquire()


@pytest.mark.parametrize("kind", [Change.ACQUIRE, Change.EXTEND])
def test_a_lost_answer_is_asked_for_again_and_the_caller_is_recognised(
    node: FakeNode, cache: meshcache.Client, kind: Change
) -> None:
    def swallow(request: Any) -> Any:
        if isinstance(request, Update) and request.changes[0][0] == kind:
            node._execute(request)
            node.hook = None
            return None
        return node.PASS

    node.hook = swallow
    with cache.lock("L", ttl=30, timeout=3) as lock:
        assert lock.token > 0
        lock.extend(90)
    assert node.hook is None
    assert is_free(node)


def test_others_that_hold_it_are_no_error_also_if_no_owner_answers(node: FakeNode, cache: meshcache.Client) -> None:
    holder = cache.lock("L", ttl=60)
    assert holder.acquire()

    def silent(request: Any) -> Any:
        return None if isinstance(request, Update) else node.PASS

    node.hook = silent
    assert cache.lock("L", timeout=0.4).acquire() is False
    node.hook = None
    holder.release()


def test_what_is_lost_is_not_released_by_its_former_holder(node: FakeNode, cache: meshcache.Client) -> None:
    former, present = cache.lock("L", ttl=60), cache.lock("L", ttl=60)
    former.acquire()
    cache.clear()
    present.acquire()
    for call in (former.extend, former.release):
        with pytest.raises(LockNotOwned):
            call()
    assert not is_free(node)
    present.release()
    assert node.of(Clear)
    assert not [request for request in node.of(Get) if KEY in request.keys]


# ---- at the nodes

TOKEN, OTHER = b"t" * 16, b"o" * 16


@pytest.mark.parametrize("cluster", [DEFAULT, STRICT])
def test_what_nodes_answer_to_tokens(cluster: dict[str, Any]) -> None:
    story = Story(4, cluster)
    ask = asking(story)
    version = ask(Change.ACQUIRE, TOKEN, 60_000)
    assert ask(Change.ACQUIRE, TOKEN, 60_000) == version, "the same one asks again"
    assert ask(Change.ACQUIRE, OTHER, 60_000) is None
    assert ask(Change.EXTEND, OTHER, 60_000) is None
    assert ask(Change.RELEASE, OTHER) is False
    later = ask(Change.EXTEND, TOKEN, 60_000)
    assert later > version
    assert ask(Change.RELEASE, TOKEN) is True
    assert ask(Change.RELEASE, TOKEN) is False
    assert ask(Change.EXTEND, TOKEN, 60_000) is None
    assert ask(Change.ACQUIRE, b"next", 1_000) > later
    story.mesh.run(1.5)
    assert ask(Change.EXTEND, b"next", 1_000) is None, "it has expired"


def test_a_question_that_comes_after_its_token_was_given_up_acquires_nothing() -> None:
    story = Story(3)
    ask = asking(story)
    assert ask(Change.RELEASE, TOKEN) is False
    assert ask(Change.ACQUIRE, TOKEN, 60_000) is None
    assert ask(Change.ACQUIRE, OTHER, 60_000)


def test_a_value_that_is_no_lock_is_not_taken_for_one() -> None:
    story = Story(3)
    ask = asking(story)
    story.set("lock:L", "text")
    assert ask(Change.ACQUIRE, b"text", 60_000) is None
    assert ask(Change.EXTEND, b"text", 60_000) is None
    assert ask(Change.RELEASE, b"text") is False
    assert story.get("lock:L") == "text"


def asking(story: Story) -> Callable[..., Any]:
    return lambda kind, *arguments: story.call(
        story.client.session.update("lock", "lock:L", [int(kind), *arguments], 0, 5.0, repeatable=True)
    )
