"""A node stops sending clients' requests to one that fails them, and neither membership nor quorums change by it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from story import DEFAULT, STRICT, Story

from meshcache.core.membership.members import State
from meshcache.core.operations import usual
from meshcache.core.operations.breakers import ANSWER_S, FAIR_S, OPEN_S, STALL_S, Breakers
from meshcache.core.operations.instant import Instant
from meshcache.core.operations.replica_requests import ReplicaRequests
from meshcache.core.operations.requests import Requests
from meshcache.core.outbox import Outbox
from meshcache.errors import MeshcacheError, QuorumNotReached
from meshcache.protocol import messages as m
from meshcache.protocol.breaker import CALLS_MIN, WINDOW_S
from meshcache.protocol.messages import Code
from meshcache.simulation.clients import ClientHost
from meshcache.simulation.hosts import NodeHost


class Bench:
    """The breakers of a node, on a clock that the test moves."""

    def __init__(self) -> None:
        self.instant, self.outbox = Instant(100.0, 1_000_000), Outbox()
        self.states: dict[str, State] = {}
        self.breakers = Breakers(self.instant, self.outbox, lambda node_id: self.states.get(node_id, State.ALIVE))
        self.number = 0

    def send(self, node_id: str = "n2", seconds: float = ANSWER_S, boot: int = 7) -> int:
        self.number += 1
        self.breakers.sent(self.number, node_id, boot, self.instant.now + seconds)
        return self.number

    def wait(self, seconds: float) -> None:
        """Let time pass, and have the breakers look at it as often as a node does."""
        until = self.instant.now + seconds
        while self.instant.now < until:
            self.instant.move(min(until, self.instant.now + STALL_S / 2))
            self.breakers.look()

    def fail(self, count: int = CALLS_MIN, **how: Any) -> None:
        for _ in range(count):
            self.breakers.refused(self.send(**how))

    def admits(self, node_id: str = "n2", boot: int = 7, seconds: float = ANSWER_S) -> bool:
        return self.breakers.admits(node_id, boot, self.instant.now + seconds)

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.outbox.notes]


def test_refusals_and_silence_open_a_breaker_and_it_is_told() -> None:
    bench = Bench()
    bench.fail(CALLS_MIN // 2)
    for _ in range(CALLS_MIN // 2):
        bench.send()
    assert bench.admits()
    bench.wait(ANSWER_S * 1.1)
    assert not bench.admits()
    assert bench.breakers.bars("n2")
    assert bench.outbox.notes == [("breaker_opened", {"node": "n2"})]
    assert bench.breakers.statistics() == {"opened": 1, "open": {"n2": 1}, "state": {"n2": "open"}}


def test_one_probe_goes_out_and_its_answer_closes_the_breaker() -> None:
    bench = Bench()
    bench.fail()
    bench.wait(OPEN_S * 0.9)
    assert not bench.admits()
    bench.wait(OPEN_S * 0.2)
    assert not bench.admits(seconds=FAIR_S / 2), "a probe must have the time to be answered"
    assert bench.admits()
    assert not bench.admits(), "there is one probe at a time"
    bench.breakers.answered(bench.send())
    assert bench.admits()
    assert bench.breakers.are_closed
    assert bench.events == ["breaker_opened", "breaker_half_open", "breaker_closed"]
    assert bench.breakers.statistics()["state"] == {"n2": "closed"}


def test_a_probe_that_fails_keeps_it_open() -> None:
    bench = Bench()
    bench.fail()
    bench.wait(OPEN_S * 1.1)
    assert bench.admits()
    bench.breakers.refused(bench.send())
    bench.wait(OPEN_S * 0.9)
    assert not bench.admits()
    bench.wait(OPEN_S * 0.2)
    assert bench.admits()


def test_more_than_half_must_fail() -> None:
    bench = Bench()
    for _ in range(CALLS_MIN):
        bench.breakers.answered(bench.send())
    bench.fail(CALLS_MIN - 1)
    assert bench.admits()
    bench.fail(1)
    assert not bench.admits()


def test_an_impatient_client_opens_no_breaker() -> None:
    bench = Bench()
    for _ in range(10 * CALLS_MIN):
        bench.send(seconds=FAIR_S * 0.9)
    bench.wait(WINDOW_S / 2)
    assert bench.events == []


def test_the_deadline_counts_if_it_is_earlier_and_no_late_answer_helps() -> None:
    bench = Bench()
    numbers = [bench.send(seconds=FAIR_S * 1.5) for _ in range(CALLS_MIN)]
    bench.wait(FAIR_S * 1.6)
    assert not bench.admits()
    for number in numbers:
        bench.breakers.answered(number)
    assert not bench.admits()


def test_after_a_stall_of_its_own_a_node_blames_nobody() -> None:
    bench = Bench()
    numbers = [bench.send() for _ in range(CALLS_MIN)]
    bench.instant.move(bench.instant.now + 5.0)
    bench.breakers.look()
    for number in numbers:
        bench.breakers.answered(number)
    assert bench.admits()
    bench.instant.move(bench.instant.now + 60.0)  # nothing was under way, so nobody looked at the clock
    for _ in range(CALLS_MIN):
        bench.send()
    bench.wait(ANSWER_S * 1.1)
    assert not bench.admits()


def test_what_has_another_end_counts_neither_way() -> None:
    bench = Bench()
    for _ in range(CALLS_MIN):
        bench.breakers.forget(bench.send())
    bench.wait(ANSWER_S * 2)
    assert bench.events == []


def test_a_suspect_is_asked_and_another_process_begins_anew() -> None:
    bench = Bench()
    bench.fail()
    bench.states["n2"] = State.SUSPECT
    assert bench.admits()
    assert not bench.breakers.bars("n2")
    bench.states["n2"] = State.ALIVE
    assert not bench.admits()
    assert bench.admits(boot=8)
    assert bench.events[-1] == "breaker_closed"


def test_breakers_of_nodes_that_are_gone_are_forgotten() -> None:
    bench = Bench()
    bench.fail()
    bench.states["n2"] = State.DEAD
    bench.send("n3")
    assert bench.breakers.statistics()["state"] == {"n3": "closed"}
    assert bench.breakers.are_closed


# ---- in a mesh


class Deaf:
    """Has one node lose what others ask it for their clients, while it answers all else: a gray failure."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.node_id = ""
        self.lost: Counter[type] = Counter()
        patch.setattr(usual, "compiled", None)  # what is served natively does not pass here
        for of, kind in ((ReplicaRequests, "_on_read"), (ReplicaRequests, "_on_write"), (Requests, "_on_update")):
            patch.setattr(of, kind, self._losing(getattr(of, kind)))

    def _losing(self, handle: Any) -> Any:
        def take(requests: Any, origin: bytes, request: Any) -> None:
            is_passed_on = not isinstance(request, m.Update) or request.hops
            if requests._coordinator.own_id == self.node_id and is_passed_on:
                self.lost[type(request)] += 1
            else:
                handle(requests, origin, request)

        return take


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Deaf:
    return Deaf(monkeypatch)


def failing(story: Story, client: ClientHost, flow: Any) -> MeshcacheError:
    with pytest.raises(MeshcacheError) as caught:
        story.mesh.call(client, flow)
    return caught.value


def breakers(host: NodeHost) -> Breakers:
    assert host.core is not None
    return host.core.coordinator.pending.breakers


def bar(deaf: Deaf, story: Story, client: ClientHost, first: NodeHost, second: NodeHost) -> None:
    """Have the first node bar the second, which hears of no request any more."""
    deaf.node_id = second.name
    for _ in range(CALLS_MIN):
        client.run(client.session.set("key", "value", None, 0.4), lambda *_: None)
    story.mesh.wait_for(lambda: breakers(first).bars(second.name), within_s=3.0)


def test_an_operation_that_needs_a_barred_owner_fails_at_once(deaf: Deaf) -> None:
    story = Story(3, DEFAULT)
    first, second = story.owners("key")
    client = story.at(first)
    story.set("key", "old", client)
    bar(deaf, story, client, first, second)
    story.mesh.run(0.45)
    lost, retries = deaf.lost[m.Write], client.session.routing.retries
    error = failing(story, client, client.session.set("key", "new", None, 0.3))
    assert isinstance(error, QuorumNotReached)
    assert (error.needed, error.received) == (2, 1)
    assert client.session.routing.retries > retries + 3, "an attempt took until its deadline"
    assert deaf.lost[m.Write] == lost, "it was sent, although the breaker was open"
    assert first.core is not None
    assert first.core.membership.state_of(second.name) == State.ALIVE
    deaf.node_id = ""
    story.mesh.run(OPEN_S)
    story.set("key", "new", client, timeout=2.0)
    assert breakers(first).are_closed


def test_a_new_link_begins_anew_without_waiting_for_a_probe(deaf: Deaf) -> None:
    story = Story(3, DEFAULT)
    first, second = story.owners("key")
    client = story.at(first)
    story.set("key", "old", client)
    bar(deaf, story, client, first, second)
    story.mesh.run(0.45)
    assert breakers(first).bars(second.name)
    deaf.node_id = ""
    assert first.core is not None
    peers = first.core.peers
    peers.redial(second.address)
    story.mesh.wait_for(lambda: second.name in peers.by_node, within_s=0.1)
    story.set("key", "new", client, timeout=0.1)
    assert breakers(first).are_closed


def test_where_enough_owners_are_left_the_one_left_out_gets_a_hint(deaf: Deaf) -> None:
    story = Story(3, STRICT)
    first, second, third = story.owners("key")
    client = story.at(first)
    story.set("key", "old", client)
    deaf.node_id = second.name
    for _ in range(CALLS_MIN):
        story.set("key", "old", client)
    story.mesh.wait_for(lambda: breakers(first).bars(second.name), within_s=3.0)
    lost, began = deaf.lost.copy(), story.mesh.world.now
    story.set("key", "new", client)
    assert story.get("key", client) == "new"
    assert story.mesh.world.now - began < 0.05
    assert deaf.lost == lost
    assert story.held("key")[third.name] == b"new"
    deaf.node_id = ""
    story.mesh.wait_for(lambda: story.held("key")[second.name] == b"new", within_s=3.0)


def test_a_change_that_must_be_passed_on_is_refused_at_once_and_not_done(deaf: Deaf) -> None:
    story = Story(3, DEFAULT)
    first, second = story.owners("key")
    other = next(host for host in story.mesh.nodes.values() if host not in (first, second))
    client = story.at(other)
    assert story.mesh.call(client, client.session.incr("key", 1, 0, None, None)) == 1
    deaf.node_id = first.name
    for _ in range(CALLS_MIN):
        client.run(client.session.incr("key", 1, 0, None, 0.4), lambda *_: None)
    story.mesh.wait_for(lambda: breakers(other).bars(first.name), within_s=3.0)
    lost, retries = deaf.lost.copy(), client.session.routing.retries
    failing(story, client, client.session.incr("key", 1, 0, None, 0.2))
    assert client.session.routing.retries > retries + 3, "it was not refused at once, and as not executed"
    assert deaf.lost == lost
    deaf.node_id = ""
    story.mesh.run(OPEN_S)
    assert story.mesh.call(client, client.session.incr("key", 1, 0, None, 2.0)) == 2


def test_a_read_that_needs_a_barred_owner_fails_at_once_and_others_go_on(deaf: Deaf) -> None:
    story = Story(3, STRICT)
    first, second, _ = story.owners("key")
    story.set("key", "value")
    client = story.at(first)
    story.get("key", client)
    bar(deaf, story, client, first, second)
    lost = deaf.lost[m.Read]
    assert story.get("key", client) == "value"
    every = client.session.derive(consistency="all")
    retries = client.session.routing.retries
    assert isinstance(failing(story, client, every.get("key", None, 0.3)), QuorumNotReached)
    assert client.session.routing.retries > retries + 3
    assert deaf.lost[m.Read] == lost


def test_membership_and_repair_are_not_barred(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(3, DEFAULT)
    first, second = story.owners("key")
    story.set("key", "value", story.at(first))
    assert first.core is not None
    assert second.core is not None
    story.put(first, "key", "new", 9000)
    bars = breakers(first)
    for _ in range(CALLS_MIN):
        bars.sent(-1, second.name, second.core.boot, first.clock() + 1)
        bars.refused(-1)
    monkeypatch.setattr(Breakers, "admits", lambda *_: False)
    story.mesh.wait_for(lambda: story.held("key")[second.name] == b"new", within_s=60.0)
    assert bars.bars(second.name)
    assert first.core.membership.state_of(second.name) == State.ALIVE
    told = first.core.account()["breakers"]
    assert (told["opened"], told["open"][second.name], told["state"][second.name]) == (1, 1, "open")
    asked = story.at(first)
    assert story.mesh.call(asked, asked.session.inspect("status", "", None, None))["breakers_open"] == [second.name]


def test_an_overloaded_refusal_counts_and_not_ready_does_not() -> None:
    story = Story(3, DEFAULT)
    first, second = story.owners("key")
    assert first.core is not None
    pending = first.core.coordinator.pending
    for code, is_open in ((Code.NOT_READY, False), (Code.OVERLOADED, True)):
        for _ in range(CALLS_MIN):
            pending.number += 1
            number = pending.number
            pending.breakers.sent(number, second.name, 1, first.core._instant.now + 1)
            pending.waiting[number] = (first, None, second.name, m.WriteReply)  # type: ignore[assignment]
            pending.on_answer(second.name, m.Reject(number, b"", [int(code)]))
        assert pending.breakers.bars(second.name) is is_open
