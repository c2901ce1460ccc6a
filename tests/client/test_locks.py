"""Locks: one holder, growing numbers, and what is said when it was lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fake_node import FakeNode, fake_mesh
from story import DEFAULT, STRICT, Story

import meshcache
from meshcache.client.locks import Lock
from meshcache.errors import LockNotOwned, OperationTimeout
from meshcache.protocol.messages import Change, Update


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_mesh() as (node,):
        yield node


@pytest.fixture
def cache(node: FakeNode) -> Iterator[meshcache.Client]:
    with meshcache.Client(node.address) as cache:
        yield cache


def test_one_at_a_time_and_each_with_a_greater_number(cache: meshcache.Client) -> None:
    inside = 0
    tokens: list[int] = []

    def work(_: int) -> None:
        nonlocal inside
        with cache.lock("job", ttl=30, timeout=20) as lock:
            inside += 1
            assert inside == 1
            tokens.append(lock.token)
            time.sleep(0.001)  # a chance for another thread to be where it must not be
            inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(20)))
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 20


def test_who_waits_gets_it_when_it_is_released_or_gives_up_in_time(cache: meshcache.Client) -> None:
    holder = cache.lock("job", ttl=30)
    assert holder.acquire() is True
    began = time.monotonic()
    assert cache.lock("job", timeout=0.3).acquire() is False
    assert 0.25 < time.monotonic() - began < 2.0
    with pytest.raises(OperationTimeout, match="others held it"), cache.lock("job", timeout=0.1):
        pass
    timer = threading.Timer(0.1, holder.release)
    timer.start()
    with cache.lock("job", timeout=20):
        pass
    timer.join()


def test_a_lock_that_was_lost_says_so(node: FakeNode, cache: meshcache.Client) -> None:
    lock = cache.lock("job", ttl=30)
    with pytest.raises(LockNotOwned, match="not acquired"):
        _ = lock.token
    with pytest.raises(LockNotOwned):
        lock.release()
    with pytest.raises(LockNotOwned, match="expired, or another"), lock:
        node.data.clear()
    with pytest.raises(ZeroDivisionError), lock:
        _ = [node.data.popitem(), 1 // 0]
    lock.acquire()
    node.data.clear()
    with pytest.raises(LockNotOwned):
        lock.extend()
    with pytest.raises(LockNotOwned):
        lock.release()


def test_who_comes_late_does_not_release_the_lock_of_the_next(node: FakeNode, cache: meshcache.Client) -> None:
    late, following = cache.lock("job", ttl=30), cache.lock("job", ttl=30)
    late.acquire()
    node.data.clear()  # as if it had expired
    following.acquire()
    with pytest.raises(LockNotOwned):
        late.release()
    with pytest.raises(LockNotOwned):
        late.extend(30)
    assert following.token > late.token
    following.extend(60)
    following.release()


def test_extending_keeps_the_number_and_gives_more_time(cache: meshcache.Client) -> None:
    with cache.lock("job", ttl=5) as lock:
        token = lock.token
        lock.extend(50)
        left = cache.ttl("lock:job")
        assert left is not None
        assert 40 < left < 50.5  # by the node's clock, as far as the client knows it
        lock.extend()
        left = cache.ttl("lock:job")
        assert left is not None
        assert left < 5.5
        assert lock.token == token
    assert not cache.exists("lock:job")


def test_a_lock_whose_answer_was_lost_is_held_all_the_same(node: FakeNode, cache: meshcache.Client) -> None:
    def swallow(request: Any) -> Any:
        if isinstance(request, Update) and request.changes[0][0] == Change.ACQUIRE:
            node._execute(request)
            node.hook = None
            return None
        return node.PASS

    cache.get("connect")
    node.hook = swallow
    with cache.lock("job", ttl=30, timeout=0.6) as lock:
        assert lock.token > 0


@pytest.mark.parametrize("ttl", [None, 0, -1, meshcache.DEFAULT])
def test_a_lock_must_expire(cache: meshcache.Client, ttl: Any) -> None:
    with pytest.raises(ValueError, match="ttl must be"):
        cache.lock("job", ttl=ttl)


def test_mistakes_are_told(cache: meshcache.Client) -> None:
    with pytest.raises(TypeError, match="name must be str"):
        cache.lock(7)  # type: ignore[arg-type]  # the mistake in question
    lock = cache.lock("job")
    with lock, pytest.raises(RuntimeError, match="holds it already"):
        lock.acquire()


def test_for_asyncio_it_is_the_same_awaited(node: FakeNode) -> None:
    async def run() -> list[int]:
        tokens: list[int] = []
        inside = 0
        async with meshcache.AsyncClient(node.address) as cache:

            async def work() -> None:
                nonlocal inside
                async with cache.lock("job", ttl=30, timeout=20) as lock:
                    inside += 1
                    assert inside == 1
                    tokens.append(lock.token)
                    await lock.extend()
                    inside -= 1

            await asyncio.gather(*(work() for _ in range(10)))
            lock = cache.lock("job", timeout=0.1)
            assert await lock.acquire()
            with pytest.raises(OperationTimeout):
                async with cache.lock("job", timeout=0.1):
                    pass
            await lock.release()
            with pytest.raises(LockNotOwned):
                async with lock:
                    node.data.clear()
        return tokens

    tokens = asyncio.run(run())
    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("cluster", [DEFAULT, STRICT])
def test_numbers_grow_and_the_lock_is_kept_when_its_first_owner_dies(cluster: dict[str, Any]) -> None:
    story = Story(4, cluster)
    client = story.client

    def lock(ttl: float, timeout: float = 5.0) -> Lock:
        return Lock(story.call, client.session, "job", ttl, timeout)

    first = lock(3.0)
    assert first.acquire()
    story.owners("lock:job")[0].crash()
    assert not lock(3.0, timeout=1.0).acquire()
    second = lock(3.0, timeout=8.0)
    assert second.acquire(), "it expires"
    assert second.token > first.token
    with pytest.raises(LockNotOwned):
        first.release()
    second.release()
    third = lock(3.0)
    assert third.acquire()
    assert third.token > second.token
