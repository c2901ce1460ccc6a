"""What tasks wait for on the fast path is the same in C as in Python: to a task, a future that is told with others."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from comparing import outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcache import _native
from meshcache.client.aio import pending as pure
from meshcache.client.arguments import MISSING
from meshcache.client.connection import Attempt
from meshcache.client.fast_path import GET

if _native.absent_because:
    pytest.skip(_native.describe(), allow_module_level=True)

PURE = SimpleNamespace(
    Pending=pure.PurePending, Gathering=pure.PureGathering, Gets=pure.PureGets, wake=pure.pure_wake, name="pure"
)
NATIVE: Any = _native.compiled
ATTEMPT = Attempt(GET, "", 0.0, 5.0, 0.25, [], range(1), (0, 0, b"", [], 0), (MISSING,))


@pytest.fixture(params=[PURE, NATIVE], ids=["pure", "native"])
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


def run(main: Callable[[asyncio.AbstractEventLoop], Coroutine[Any, Any, Any]]) -> Any:
    async def within() -> Any:
        return await main(asyncio.get_running_loop())

    return asyncio.run(within())


def gathering_of(twin: Any, loop: asyncio.AbstractEventLoop, count: int) -> tuple[Any, list[Any]]:
    gathering = twin.Gathering(loop)
    waiting = [twin.Pending(loop, ATTEMPT, f"k{i}", 1.0 + i) for i in range(count)]
    gathering.keys.extend(f"k{i}" for i in range(count))
    gathering.waiting.extend(waiting)
    return gathering, waiting


async def value_of(pending: Any) -> Any:
    return await pending


async def begun(*coroutines: Any) -> list[asyncio.Task[Any]]:
    """Let each of them come to where it waits."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    await asyncio.sleep(0)
    return tasks


def test_each_gets_its_own_answer_and_goes_on_in_order(twin: Any) -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        gathering, waiting = gathering_of(twin, loop, 4)
        seen: list[Any] = []

        async def asker(pending: Any) -> None:
            seen.append(await pending)

        tasks = await begun(*[asker(pending) for pending in waiting])
        answers = [b"a", (b"record",), StopIteration("is a value, too"), MISSING]
        assert [each.done() for each in waiting] == [False] * 4
        told = gathering.tell(answers)
        assert told == waiting
        assert (gathering.keys, gathering.waiting, seen) == ([], [], [])
        assert [each.result() for each in waiting] == answers
        loop.call_soon(twin.wake, told)
        await asyncio.gather(*tasks)
        assert seen == answers
        twin.wake(told)  # nobody waits any more

    run(main)


def test_who_comes_late_need_not_wait_and_an_answer_stays(twin: Any) -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        gathering, (pending,) = gathering_of(twin, loop, 1)
        with pytest.raises(asyncio.InvalidStateError):
            pending.result()
        gathering.tell([7])
        assert (await pending, await pending) == (7, 7)
        assert pending.cancel() is False
        called = loop.create_future()
        pending.add_done_callback(called.set_result)
        assert await called is pending

    run(main)


def test_a_cancelled_caller_gets_no_answer_and_the_others_do(twin: Any) -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        gathering, waiting = gathering_of(twin, loop, 3)
        first, second, third = await begun(*map(value_of, waiting))
        assert second.cancel("why")
        told = gathering.tell([1, 2, 3])
        assert first.cancel()  # it was told, and has not gone on
        loop.call_soon(twin.wake, told)
        done = await asyncio.gather(first, second, third, return_exceptions=True)
        assert [type(each) for each in done] == [asyncio.CancelledError, asyncio.CancelledError, int]
        assert waiting[0].result() == 1
        with pytest.raises(asyncio.CancelledError):
            waiting[1].result()

    run(main)


def test_the_reason_of_a_cancellation_is_passed_on(twin: Any) -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        for reason in ((), ("why",)):
            pending = twin.Pending(loop, ATTEMPT, None, 0.0)
            assert pending.cancel(*reason) is True
            assert pending.cancel() is False
            with pytest.raises(asyncio.CancelledError) as caught:
                await pending
            assert caught.value.args == reason

    run(main)


def test_a_timeout_ends_the_wait(twin: Any) -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await twin.Pending(loop, ATTEMPT, None, 0.0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(value_of(twin.Pending(loop, ATTEMPT, None, 0.0)), 0.001)

    run(main)


def test_each_task_goes_on_in_its_own_context_and_as_the_current_task(twin: Any) -> None:
    name = contextvars.ContextVar[str]("name")

    async def main(loop: asyncio.AbstractEventLoop) -> None:
        gathering, waiting = gathering_of(twin, loop, 2)

        async def asker(pending: Any, own: str) -> Any:
            name.set(own)
            await pending
            return name.get(), asyncio.current_task()

        tasks = await begun(asker(waiting[0], "a"), asker(waiting[1], "b"))
        loop.call_soon(twin.wake, gathering.tell([1, 2]))
        assert await asyncio.gather(*tasks) == [("a", tasks[0]), ("b", tasks[1])]
        assert name.get(None) is None

    run(main)


def test_only_one_can_wait_and_only_in_its_loop(twin: Any) -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        pending = twin.Pending(loop, ATTEMPT, None, 0.0)
        await begun(value_of(pending))
        with pytest.raises(RuntimeError, match="waits for it already"):
            pending.add_done_callback(print)
        other = asyncio.new_event_loop()
        with pytest.raises(RuntimeError, match="different loop"):
            await asyncio.create_task(value_of(twin.Pending(other, ATTEMPT, None, 0.0)))
        other.close()

    run(main)


def test_one_that_ends_the_program_does_not_keep_the_others_from_going_on(twin: Any) -> None:
    loop = asyncio.new_event_loop()
    gathering, waiting = gathering_of(twin, loop, 3)
    seen = []

    async def asker(pending: Any) -> None:
        answer = await pending
        seen.append(answer)
        if answer == 2:
            raise SystemExit(answer)

    tasks = [loop.create_task(asker(pending)) for pending in waiting]
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    told = gathering.tell([1, 2, 3])
    with pytest.raises(SystemExit):
        twin.wake(told)
    assert seen == [1, 2]
    twin.wake(told)
    assert seen == [1, 2, 3]
    assert isinstance(tasks[1].exception(), SystemExit)
    loop.run_until_complete(tasks[2])
    loop.close()


def test_an_answer_for_each_is_needed(twin: Any) -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        gathering, _ = gathering_of(twin, loop, 2)
        with pytest.raises(ValueError, match=r".*"):
            gathering.tell([1])

    run(main)


def test_what_is_not_waited_for_is_let_go_of(twin: Any) -> None:
    class Loop:
        pass

    loop = Loop()
    gathering, waiting = gathering_of(twin, loop, 2)  # type: ignore[arg-type]  # any object will do
    loop.gathering = gathering  # type: ignore[attr-defined]  # a circle
    waiting[0].add_done_callback(gathering.tell)
    gone = weakref.ref(loop)
    del loop, gathering, waiting
    gc.collect()
    assert gone() is None


# ---- single gets


class Side:
    """A message's side of ``Gets``, which notes what it is asked."""

    def __init__(self, twin: Any, loop: Any, callers_max: int = 3, keys_max: int = 5) -> None:
        self.now = 10.0
        self.copies: dict[Any, Any] = {"near": (1, 2)}
        self.routing = SimpleNamespace(
            clock=lambda: self.now, due=20.0, first=["one", "two", "one", None], hot={b"p:hot": 1.0}
        )
        self.fast = SimpleNamespace(is_open=True)
        self.log: list[Any] = []
        self.gatherings: list[Any] = []
        self.loop = loop
        self.refuses = False
        self._twin = twin
        self.gets = twin.Gets(
            lambda key: self.copies.get(key, MISSING) if isinstance(key, str) else MISSING,
            MISSING,
            self.fast,
            self.routing,
            b"p:",
            ATTEMPT,
            self.begin,
            lambda address: self.log.append(("full", address)),
            (callers_max, keys_max),
            lambda: self.loop,
        )

    def begin(self, attempt: Any, address: str, started: float) -> Any:
        self.log.append(("begin", attempt is ATTEMPT, address, started))
        if self.refuses:
            return None
        self.gatherings.append(self._twin.Gathering(self.loop))
        return self.gatherings[-1]

    def ask(self, key: Any) -> Any:
        found = outcome(self.gets, key)
        if type(found) is not self._twin.Pending:
            return found
        return "pending", found.key, found.started, found.attempt is ATTEMPT, found.get_loop() is self.loop

    def seen(self) -> Any:
        return self.log, [(each.is_open, each.keys, [p.key for p in each.waiting]) for each in self.gatherings]


keys = st.sampled_from(["a", b"b", "c", "d", "e", "near", "hot", "", "k" * 1023, "\udc80", None, 5, ["list"], "é"])
steps = st.lists(
    keys.map(lambda key: ("ask", key))
    | st.sampled_from([("shut", 0), ("late", 0), ("closed", 0), ("loop", 0), ("refuse", 0), ("many", 0), ("time", 0)]),
    max_size=30,
)


@settings(deadline=None)  # it is about results, on a machine however busy
@given(steps)
def test_single_gets_join_the_same_messages(given_steps: list[tuple[str, Any]]) -> None:
    seen = []
    loops = [object(), object()]
    for twin in (PURE, NATIVE):
        side = Side(twin, loops[0])
        told: list[Any] = []
        for step, key in given_steps:
            match step:
                case "ask":
                    told.append(side.ask(key))
                case "shut" if side.gatherings:
                    side.gatherings[-1].is_open = False
                case "late":
                    side.routing.due = 30.0 - side.routing.due
                case "closed":
                    side.fast.is_open = not side.fast.is_open
                case "loop":
                    side.loop = loops[side.loop is loops[0]]
                case "refuse":
                    side.refuses = not side.refuses
                case "many" if side.gatherings:
                    side.gatherings[-1].keys.extend(["x", "y"])
                case "time":
                    side.now += 1.5
        seen.append((told, side.seen()))
    assert seen[0] == seen[1]


def test_single_gets_join_until_a_message_is_full(twin: Any) -> None:
    side = Side(twin, object())
    assert side.ask("near") == (1, 2)
    for key in ("a", b"a", "a", "a"):
        assert side.ask(key) == ("pending", key, 10.0, True, True)
    (address,) = {entry[1] for entry in side.log if entry[0] == "full"}
    assert side.log == [("begin", True, address, 10.0), ("full", address), ("begin", True, address, 10.0)]
    assert [each.keys for each in side.gatherings] == [["a", b"a", "a"], ["a"]]
    assert side.ask("hot") is MISSING
    assert side.ask(5) is MISSING


def test_no_more_gatherings_are_kept_than_there_may_be_addresses(twin: Any) -> None:
    side = Side(twin, object())
    for i in range(pure.ADDRESSES_MAX + 1):
        side.routing.first = [f"node{i}"]
        side.ask("a")
    kept = side.gatherings[0]
    before = len(gc.get_referrers(kept))
    side.gatherings.clear()
    assert len(gc.get_referrers(kept)) < before
    side.routing.first = ["node0"]
    side.ask("a")
    assert side.log[-1] == ("begin", True, "node0", 10.0)  # it was let go of


def test_wrong_arguments_are_refused() -> None:
    for wrong in (None, 5, "text", [None, object()], (1,)):
        for call in (NATIVE.wake, NATIVE.Gathering(None).tell, NATIVE.Pending, NATIVE.Gets):
            outcome(call, wrong)  # whatever it does, it returns
    with pytest.raises(TypeError):
        Side(NATIVE, object()).gets("a", "b")
