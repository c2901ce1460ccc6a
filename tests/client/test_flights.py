"""Callers of one process that share a question and what is loaded: on virtual time, and at the table itself."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from story import DEFAULT, STRICT, Story

from meshcache.client.arguments import DO_NOT_CACHE
from meshcache.client.connection import Call
from meshcache.client.flights import Flights, Seat
from meshcache.errors import OperationTimeout, SerializationError
from meshcache.protocol.messages import Update
from meshcache.simulation.clients import Cancelled, ClientHost, Loader

RECORD = b"\1" * 24
PROMPT_S = 0.2
"""Nobody waited for a lease to lapse, or for another one's deadline."""


class Process:
    """A client with several callers, and what became of each: value or error, and when."""

    def __init__(self, story: Story, name: str = "process", client: ClientHost | None = None) -> None:
        self.story = story
        self.client = client or story.mesh.client(name)
        self.loads: list[str] = []
        self.loading: set[str] = set()
        self.most_at_once = 0
        self.ended: dict[str, tuple[Any, float]] = {}
        self._interrupts: dict[str, Callable[[BaseException], None]] = {}

    def ask(
        self,
        name: str,
        value: Any = None,
        *,
        seconds: float = 0.1,
        timeout: float = 20.0,
        key: str = "key",
        session: Any = None,
        operation: str = "get_or_set",
        ttl: float | None = None,
        **options: Any,
    ) -> None:
        began = self.story.mesh.world.now

        def read() -> Any:
            self.loads.append(name)
            self.loading.add(name)
            self.most_at_once = max(self.most_at_once, len(self.loading))
            found = value() if callable(value) else value
            if isinstance(found, Exception):
                raise found
            return found

        def done(found: Any, error: BaseException | None, _: bool) -> None:
            self.loading.discard(name)
            self.ended[name] = (found if error is None else error, self.story.mesh.world.now - began)

        flow = getattr(session or self.client.session, operation)(key, Loader(read, seconds), ttl, timeout, **options)
        self._interrupts[name] = self.client.run(flow, done)

    def cancel(self, name: str) -> None:
        self._interrupts[name](Cancelled())

    def wait(self, *names: str, within_s: float = 40.0) -> list[Any]:
        self.story.mesh.wait_for(lambda: set(names) <= set(self.ended), within_s=within_s)
        return [self.ended[name][0] for name in names]

    def wait_until_loading(self, name: str) -> None:
        self.story.mesh.wait_for(lambda: name in self.loads, within_s=10.0)


@pytest.fixture
def story() -> Story:
    return Story(3)


@pytest.fixture
def process(story: Story) -> Process:
    return Process(story)


def test_every_caller_has_an_object_of_its_own_and_so_has_the_loader(process: Process) -> None:
    kept = {"may": ["read"]}
    for name in ("a", "b", "c"):
        process.ask(name, kept)
    found = process.wait("a", "b", "c")
    assert process.loads == ["a"]
    for value in found:
        assert value == {"may": ["read"]}
        value["may"].append("write")
    process.ask("later")
    process.ask("refreshed", kept, operation="refresh")
    assert process.wait("later", "refreshed") == [{"may": ["read"]}] * 2
    kept["may"].clear()
    process.ended["refreshed"][0]["may"].clear()
    process.ask("last")
    assert process.wait("last") == [{"may": ["read"]}]


def test_values_that_cannot_be_changed_are_passed_on_as_they_are(process: Process) -> None:
    text = str(b"text", "ascii")
    process.ask("a", text)
    assert process.wait("a")[0] is text


def test_each_takes_a_stale_value_for_itself(story: Story, process: Process) -> None:
    process.ask("first", [1], ttl=1.0, stale_ttl=30.0)
    process.wait("first")
    story.mesh.run(1.1)
    process.ask("refreshes", [2], seconds=3.0, ttl=1.0, stale_ttl=30.0)
    process.wait_until_loading("refreshes")
    for name in ("a", "b"):
        process.ask(name, [3], ttl=1.0, stale_ttl=30.0)
    a, b = process.wait("a", "b")
    assert process.ended["a"][1] < PROMPT_S
    a.append("mine")
    assert b == [1]
    assert process.wait("refreshes") == [[2]]


@pytest.mark.parametrize(("first_s", "second_s"), [(20.0, 0.5), (0.5, 20.0)])
def test_each_caller_has_its_own_deadline(story: Story, process: Process, first_s: float, second_s: float) -> None:
    other = Process(story, "another process")
    other.ask("computes", "v", seconds=4.0)
    other.wait_until_loading("computes")
    process.ask("first", timeout=first_s)
    story.mesh.run(0.05)
    process.ask("second", timeout=second_s)
    process.wait("first", "second")
    short, long = ("first", "second") if first_s < second_s else ("second", "first")
    error, took_s = process.ended[short]
    assert isinstance(error, OperationTimeout)
    assert took_s == pytest.approx(0.5, abs=0.1)
    assert process.ended[long][0] == "v"
    assert 3.0 < process.ended[long][1] < 4.5
    assert process.loads == []


def test_one_that_waits_for_a_load_has_its_own_deadline_too(process: Process) -> None:
    process.ask("computes", "v", seconds=4.0)
    process.ask("short", timeout=0.5)
    process.ask("long", timeout=20.0)
    (error,) = process.wait("short")
    assert isinstance(error, OperationTimeout)
    assert "0.5 s" in str(error)
    assert process.ended["short"][1] == pytest.approx(0.5, abs=0.1)
    assert process.wait("computes", "long") == ["v", "v"]
    assert process.loads == ["computes"]


def test_when_loaders_raise_each_caller_has_its_own_error_and_one_computes_at_a_time(process: Process) -> None:
    names = [f"caller {i}" for i in range(5)]
    errors = [KeyError(name) for name in names]
    for name, error in zip(names, errors, strict=True):
        process.ask(name, error)
    assert process.wait(*names) == errors
    assert process.loads == names
    assert process.most_at_once == 1
    assert process.ended["caller 4"][1] < 1.5, "no lease had to lapse"


def test_when_a_loader_raises_the_next_one_computes_for_the_others(process: Process) -> None:
    process.ask("a", KeyError("a"))
    for name in ("b", "c", "d"):
        process.ask(name, name)
    assert isinstance(process.wait("a")[0], KeyError)
    assert process.wait("b", "c", "d") == ["b"] * 3
    assert process.loads == ["a", "b"]


def test_what_is_not_to_be_kept_is_its_callers_alone(story: Story, process: Process) -> None:
    names = ["one", "two", "three"]
    for name in names:
        process.ask(name, lambda: DO_NOT_CACHE("not kept"))
    assert process.wait(*names) == ["not kept"] * 3
    assert process.loads == names
    assert process.most_at_once == 1
    assert story.get("key") is None


def test_the_seat_of_a_call_that_is_dropped_is_gone_at_once(story: Story) -> None:
    """Or its flight would be led by nobody, until the garbage collector comes by."""
    gc.disable()
    try:
        fill = story.client.session._fill("get_or_set", "key", 1, None, 1.0)
        seat = weakref.ref(fill._seat)
        del fill
        assert seat() is None
    finally:
        gc.enable()


def test_who_came_while_a_load_ran_leads_those_too_whose_load_failed(story: Story, process: Process) -> None:
    process.ask("a", KeyError("a"), seconds=1.0)
    process.ask("b", "b")
    process.wait_until_loading("a")
    process.ask("c", "c")
    story.mesh.run(0.2)
    assert process.wait("b", "c") == ["c", "c"]
    assert process.loads == ["a", "c"]


def test_the_callers_of_another_process_take_their_turn(story: Story, process: Process) -> None:
    other = Process(story, "another process")
    process.ask("a", KeyError("a"), seconds=1.0)
    process.wait_until_loading("a")
    other.ask("b", "b")
    assert other.wait("b") == ["b"]
    assert other.ended["b"][1] < 1.0 + 0.1 + PROMPT_S


def test_a_load_is_cancelled_with_the_last_who_waits_and_gives_its_lease_up_at_once(
    story: Story, process: Process
) -> None:
    process.ask("a", "a", seconds=30.0)
    process.ask("b", "b")
    process.wait_until_loading("a")
    other = Process(story, "another process")
    other.ask("c", "c", seconds=0.0)
    process.cancel("a")
    story.mesh.run(1.0)
    assert [*process.ended, *other.ended] == ["a"], "b waits for the load that a began"
    process.cancel("b")
    assert other.wait("c") == ["c"]
    assert other.ended["c"][1] < 1.0 + PROMPT_S
    assert isinstance(process.ended["a"][0], Cancelled)
    assert isinstance(process.ended["b"][0], Cancelled)
    assert process.loads == ["a"]


def test_others_who_wait_keep_a_load_whose_caller_is_cancelled(process: Process) -> None:
    process.ask("a", "a", seconds=3.0)
    process.ask("b", "b")
    process.wait_until_loading("a")
    process.cancel("a")
    assert process.wait("b") == ["a"]
    assert process.loads == ["a"]


def test_who_came_while_a_load_ran_keeps_it_too(story: Story, process: Process) -> None:
    process.ask("a", "a", seconds=3.0)
    process.wait_until_loading("a")
    process.ask("b", "b")
    story.mesh.run(0.3)
    process.cancel("a")
    assert process.wait("b") == ["a"]
    assert process.loads == ["a"]


def test_a_load_ends_with_the_last_of_those_who_came_while_it_ran(story: Story, process: Process) -> None:
    process.ask("a", "a", seconds=30.0)
    process.wait_until_loading("a")
    process.ask("b", "b")
    process.ask("c", "c", timeout=1.0)
    story.mesh.run(0.3)
    process.cancel("a")
    process.cancel("b")
    assert isinstance(process.wait("c")[0], OperationTimeout)
    other = Process(story, "another process")
    other.ask("d", "d", seconds=0.0)
    assert other.wait("d") == ["d"]
    assert other.ended["d"][1] < PROMPT_S
    assert process.loads == ["a"]


def test_a_load_that_was_overruled_ends_when_those_who_came_while_it_ran_load_anew(
    story: Story, process: Process
) -> None:
    process.ask("a", "old", seconds=30.0)
    process.wait_until_loading("a")
    process.ask("b", "new", seconds=1.0)
    story.mesh.run(0.3)
    process.cancel("a")
    (orphan,) = [flight for flights in process.client.flights._kept.values() for flight in flights]
    story.call(story.client.session.delete("key", None))
    assert process.wait("b") == ["new"]
    story.mesh.run(0.5)
    assert orphan.over


def test_when_the_last_who_waits_runs_out_of_time_the_load_that_nobody_wants_is_cancelled(
    story: Story, process: Process
) -> None:
    process.ask("a", "a", seconds=30.0)
    process.ask("b", "b", timeout=1.0)
    process.wait_until_loading("a")
    process.cancel("a")
    assert isinstance(process.wait("b")[0], OperationTimeout)
    assert process.ended["b"][1] == pytest.approx(1.0, abs=0.1)
    other = Process(story, "another process")
    other.ask("c", "c", seconds=0.0)
    assert other.wait("c") == ["c"]
    assert other.ended["c"][1] < PROMPT_S


def test_a_question_that_nobody_waits_for_is_withdrawn(story: Story, process: Process) -> None:
    other, third = Process(story, "another process"), Process(story, "a third one")
    other.ask("computes", KeyError("no"), seconds=1.0)
    other.wait_until_loading("computes")
    process.ask("a", "a")
    story.mesh.run(0.3)
    third.ask("c", "c", seconds=0.0)
    process.cancel("a")
    assert third.wait("c") == ["c"]
    assert third.ended["c"][1] < 1.0 + PROMPT_S, "the lease is not granted to who has gone"
    assert process.loads == []


def test_a_lease_granted_to_who_was_cancelled_before_it_heard_of_it_is_given_up(story: Story, process: Process) -> None:
    process.ask("a", "a")
    owner = story.owners("key")[0]
    assert owner.core is not None
    fills = owner.core.fills
    for _ in range(50_000):  # in steps that are shorter than any message takes
        if any(lease.version for lease in fills.table.values()):
            break
        story.mesh.run(0.0001)
    assert process.loads == []
    process.cancel("a")
    other = Process(story, "another process")
    other.ask("b", "b", seconds=0.0)
    assert other.wait("b") == ["b"]
    assert other.ended["b"][1] < PROMPT_S


def test_who_waits_goes_on_when_the_one_that_asks_is_cancelled(story: Story, process: Process) -> None:
    other = Process(story, "another process")
    other.ask("computes", KeyError("no"), seconds=1.0)
    other.wait_until_loading("computes")
    process.ask("a", "a")
    story.mesh.run(0.2)
    process.ask("b", "b")
    process.ask("c", "c")
    story.mesh.run(0.2)
    process.cancel("a")
    assert process.wait("b", "c") == ["b", "b"]
    assert process.loads == ["b"]
    assert process.ended["b"][1] < 1.0 + 0.1 + PROMPT_S


def test_who_comes_after_a_change_is_not_given_an_answer_of_before(
    story: Story, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: list[Callable[[], None]] = []
    exchange = process.client.exchange

    def slow(calls: list[Call], done: Callable[[list[Any]], None]) -> None:
        if calls[0].request.kind is Update:
            exchange(calls, lambda outcomes: under_way.append(lambda: done(outcomes)))
        else:
            exchange(calls, done)

    other = Process(story, "another process")
    other.ask("computes", "old", seconds=1.0)
    other.wait_until_loading("computes")
    with monkeypatch.context() as patch:
        patch.setattr(process.client, "exchange", slow)
        process.ask("a")
        story.mesh.wait_for(lambda: bool(under_way), within_s=5.0)
    story.call(story.client.session.delete("key", None))
    process.ask("b", "new")
    story.mesh.run(0.1)
    under_way.pop()()
    assert process.wait("a", "b") == ["old", "new"]


@pytest.mark.parametrize("change", ["delete", "invalidate_tags"])
def test_who_waited_for_a_load_that_was_overruled_has_the_new_value(
    story: Story, process: Process, change: str
) -> None:
    process.ask("a", "old", seconds=1.0, tags=["t"])
    process.ask("b", "new", tags=["t"])
    process.wait_until_loading("a")
    session = story.client.session
    story.call(session.delete("key", None) if change == "delete" else session.invalidate_tags(["t"], None))
    assert process.wait("a", "b") == ["old", "new"]


def test_when_the_nodes_fail_to_store_it_all_who_waited_have_the_value(story: Story, process: Process) -> None:
    process.ask("a", ["v"], seconds=0.3, timeout=1.0)
    process.ask("b", timeout=5.0)
    process.wait_until_loading("a")
    for host in story.mesh.nodes.values():
        host.pause()
    assert process.wait("a", "b") == [["v"], ["v"]]
    assert process.ended["a"][0] is not process.ended["b"][0]
    assert process.loads == ["a"]


def test_what_may_be_joined(story: Story, process: Process) -> None:
    session = process.client.session
    process.ask("first", "v", seconds=1.0, ttl=60.0)
    for i, options in enumerate(
        ({"ttl": 5.0}, {"ttl": 5.0, "stale_ttl": 9.0}, {"tags": ["t"]}, {"early": 1.0, "ttl": 9})
    ):
        process.ask(f"joins {i}", **options)  # type: ignore[arg-type]  # mypy takes the union of all
    process.ask("other levels", "w", session=session.derive(consistency="all"), seconds=0.0)
    process.ask("other timeout", session=session.derive(timeout=0.5))
    process.ask("other key", "k", key="another")
    names = [f"joins {i}" for i in range(4)]
    assert process.wait("first", *names, "other timeout", "other levels") == ["v"] * 7
    assert process.wait("other key") == ["k"]
    assert sorted(process.loads) == ["first", "other key"]
    assert 58.0 < story.call(session.ttl("key", None)) <= 60.0, "the terms are those of who computed"


def test_each_reads_with_its_own_codec(process: Process) -> None:
    class Upper:
        def encode(self, value: Any) -> bytes:
            return str(value).encode()

        def decode(self, data: bytes) -> Any:
            return data.decode().upper()

    session = process.client.session
    process.ask("writes", "v", session=session.derive(codec=Upper()), seconds=0.5)
    process.ask("same", session=session.derive(codec=Upper()))
    process.ask("other")
    assert process.wait("writes", "same") == ["V", "V"], "also who wrote it has what others read"
    assert isinstance(process.wait("other")[0], SerializationError), "as if it had found it in the cache"


def test_namespaces_are_kept_apart(process: Process) -> None:
    session = process.client.session
    for name in ("x:", "y:"):
        process.ask(name, name, session=session.derive(prefix=name))
    assert process.wait("x:", "y:") == ["x:", "y:"]


@pytest.mark.parametrize("cluster", [DEFAULT, STRICT])
def test_however_callers_come_and_go_each_ends_in_its_time_and_the_lease_is_free(cluster: dict[str, Any]) -> None:
    """Chance decides who comes, from which process, raises, is cancelled or has little time."""
    story = Story(3, cluster)
    rng = story.mesh.world.rng
    processes = [Process(story, f"process {i}") for i in range(3)]
    limits: dict[tuple[int, str], float] = {}
    for number in range(150):
        which = rng.randrange(3)
        name, timeout = f"caller {number}", rng.choice((0.4, 2.0, 20.0))
        seconds = rng.choice((0.0, 0.1, 0.7))
        value: Any = KeyError(name) if rng.random() < 0.4 else name
        processes[which].ask(name, value, seconds=seconds, timeout=timeout)
        limits[which, name] = timeout + seconds
        story.mesh.run(rng.random() * 0.2)
        if rng.random() < 0.3:
            process = rng.choice(processes)
            pending = [name for name in process._interrupts if name not in process.ended]
            if pending:
                process.cancel(rng.choice(pending))
        if rng.random() < 0.2:
            story.call(story.client.session.delete("key", None))
    for which, process in enumerate(processes):
        process.wait(*process._interrupts)
        for name, (found, took_s) in process.ended.items():
            assert took_s <= limits[which, name] + 1.5, f"{name} took {took_s:.3f} s: {found!r}"
            assert not isinstance(found, OperationTimeout) or took_s < limits[which, name] + PROMPT_S
            assert not isinstance(found, KeyError) or found.args == (name,), "an error is its own caller's"
        assert not process.client.flights.open
    story.mesh.run(0.5)
    for host in story.mesh.nodes.values():
        assert host.core is not None
        assert not host.core.fills.table
        assert host.core.coordinator.pending.background["fills"].statistics()["lapsed"] == 0


# ---- the table


@pytest.fixture
def flights() -> Flights:
    return Flights(nullcontext())


TOKENS = itertools.count()


def board(flights: Flights) -> Seat:
    seat = Seat(b"token %d" % next(TOKENS), lambda *_: None)
    flights.board(seat, "key")
    return seat


def test_an_answer_is_for_those_who_came_before_the_question(flights: Flights) -> None:
    leader, before = board(flights), board(flights)
    flight = leader.flight
    assert flight is not None
    assert (leader.leads, before.leads) == (True, False)
    flight.asked += 1
    after = board(flights)
    flight.answer(RECORD)
    assert (before.found, after.found, after.leads) == (RECORD, None, False)
    assert not leader.leave()
    assert after.leads, "it may have seen a change that the answer has not, and asks anew"


def test_what_was_loaded_is_for_those_who_came_before_the_load(flights: Flights) -> None:
    leader, joined = board(flights), board(flights)
    flight = leader.flight
    assert flight is not None
    flight.asked += 1
    late = board(flights)
    flight.close()
    later = board(flights)
    assert later.leads
    flight.land(RECORD)
    assert [seat.found for seat in (joined, late, later)] == [RECORD, RECORD, None]
    assert not leader.leave()


def test_the_lead_of_who_vanished_is_handed_on(flights: Flights) -> None:
    leader, first, second = board(flights), board(flights), board(flights)
    woken = []
    first.wake = lambda: woken.append("first")
    del leader
    second.check()
    assert (first.leads, second.leads, woken) == (True, False, ["first"])
    del first
    newcomer = board(flights)
    assert second.leads
    assert not newcomer.leads
    del second, newcomer
    assert board(flights).leads


def test_after_a_failed_load_the_owner_is_asked_under_another_name(flights: Flights) -> None:
    leader, second = board(flights), board(flights)
    flight = leader.flight
    assert flight is not None
    flight.close()
    flight.fail()
    assert second.leads
    assert flight.token == second.token
    assert not leader.leave()
    assert second.leads
    assert second.leave(), "nobody is left"
    assert not flights.open
