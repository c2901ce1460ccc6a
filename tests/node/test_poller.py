"""The loop's waiting: nothing that arrived is slept over, nothing hostile takes more than its share of a turn."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from meshcache.node.poller import DONTWAIT, FRAMES_PER_TURN, RECHECK_S, Inlet, Inlets

WAIT_S = 5.0
"""How long to wait for what must come."""

Sockets = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """A ROUTER and a DEALER that is connected to it."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        router.linger = dealer.linger = 0
        router.rcvhwm = dealer.sndhwm = 0
        dealer.routing_id = b"d"
        port = router.bind_to_random_port("tcp://127.0.0.1")
        dealer.connect(f"tcp://127.0.0.1:{port}")
        dealer.send(b"first")
        router.recv_multipart()
        yield router, dealer


@contextmanager
def watched(*given: Inlet) -> Iterator[Inlets]:
    inlets = Inlets()
    for inlet in given:
        inlets.add(inlet)
    try:
        yield inlets
    finally:
        inlets.close()


def turns(inlets: Inlets, done: Callable[[], bool]) -> None:
    """Do as the node's loop does, until ``done``."""
    while not done():
        woken = inlets.wait(WAIT_S)
        assert woken, "slept over what arrived"
        inlets.drain(woken, 0.0, lambda: False)


class Taken:
    """What an inlet took and refused."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.refused = 0

    def take(self, *arguments: object) -> None:
        frame = arguments[-2]
        assert isinstance(frame, bytes)
        self.frames.append(frame)

    def refuse(self) -> None:
        self.refused += 1


def test_messages_with_more_parts_are_refused_whole_and_the_next_is_taken(sockets: Sockets) -> None:
    router, dealer = sockets
    taken = Taken()
    with watched(Inlet(router, taken.take, taken.refuse, pairs=True)) as inlets:
        dealer.send_multipart([b"part", b"part"])
        dealer.send(b"good")
        dealer.send_multipart([b"part"] * 1000)
        dealer.send(b"better")
        turns(inlets, lambda: len(taken.frames) == 2)
    assert taken.frames == [b"good", b"better"]
    assert taken.refused == 2


def test_a_turn_takes_no_more_than_its_budget_of_messages_or_of_parts(sockets: Sockets) -> None:
    router, dealer = sockets
    taken = Taken()
    inlet = Inlet(router, taken.take, taken.refuse, pairs=True)
    with watched(inlet) as inlets:
        for i in range(2 * FRAMES_PER_TURN):
            dealer.send(b"%d" % i)
        dealer.send_multipart([b"part"] * 3 * FRAMES_PER_TURN)
        counts = []
        while not taken.refused:
            for ready in inlets.wait(WAIT_S):
                before = len(taken.frames)
                if ready.drain(0.0):
                    inlets.stir(ready)
                counts.append(len(taken.frames) - before)
        assert max(counts) <= FRAMES_PER_TURN
        assert taken.frames == [b"%d" % i for i in range(2 * FRAMES_PER_TURN)]
        assert inlet.drain(0.0), "the message of many parts is thrown away at once"


def test_who_has_enough_to_answer_takes_no_more_in_that_turn(sockets: Sockets) -> None:
    router, dealer = sockets
    taken: list[bytes] = []

    def take(_origin: bytes, frame: bytes, _now: float) -> bool:
        taken.append(frame)
        return frame == b"large"

    with watched(Inlet(router, take, lambda: None, pairs=True)) as inlets:
        for frame in (b"small", b"large", b"small", b"large"):
            dealer.send(frame)
        while len(taken) < 4:
            before = len(taken)
            inlets.drain(inlets.wait(WAIT_S), 0.0, lambda: False)
            assert b"large" not in taken[before:-1]
    assert taken == [b"small", b"large"] * 2


class Source:
    """What has input all the time, and fills a turn with each drain."""

    def __init__(self, name: str, drained: list[str]) -> None:
        self.name = name
        self.drained = drained

    def has_input(self) -> bool:
        return True

    def drain(self, _now: float) -> bool:
        self.drained.append(self.name)
        return True


def test_only_one_of_many_fills_a_turn_and_all_take_turns() -> None:
    drained: list[str] = []
    sources = [Source(name, drained) for name in "abc"]
    inlets = Inlets()
    try:
        for source in sources:
            inlets.stir(source)
        for number in range(1, 10):
            inlets.drain(inlets.wait(0.0), 0.0, lambda: True)
            assert len(drained) == number
    finally:
        inlets.close()
    assert drained == list("abc" * 3)


def test_what_arrives_while_sending_is_not_slept_over(sockets: Sockets) -> None:
    router, dealer = sockets
    taken = Taken()
    inlet = Inlet(router, taken.take, taken.refuse, pairs=True)
    with watched(inlet) as inlets:
        dealer.send(b"question")
        turns(inlets, lambda: len(taken.frames) == 1)
        dealer.send(b"next")
        assert router.poll(int(WAIT_S * 1000))  # as a send may do, it reads the state and so takes the announcement
        router.send_multipart([b"d", b"answer"], DONTWAIT)
        inlets.stir(inlet)
        turns(inlets, lambda: len(taken.frames) == 2)


def test_a_lost_announcement_is_made_good_by_the_recheck(sockets: Sockets) -> None:
    router, dealer = sockets
    taken = Taken()
    inlet = Inlet(router, taken.take, taken.refuse, pairs=True)
    with watched(inlet) as inlets:
        inlets.recheck(1.0)
        inlets.wait(0.0)
        dealer.send(b"question")
        assert router.poll(int(WAIT_S * 1000))
        assert inlets.wait(0.0) == []
        inlets.recheck(1.0 + RECHECK_S)
        assert inlets.wait(0.0) == [inlet]


def test_what_is_removed_is_neither_waited_for_nor_looked_at(sockets: Sockets) -> None:
    router, dealer = sockets
    taken = Taken()
    inlet = Inlet(router, taken.take, taken.refuse, pairs=True)
    with watched(inlet) as inlets:
        inlets.remove(inlet)
        dealer.send(b"question")
        assert router.poll(int(WAIT_S * 1000))
        inlets.recheck(1e9)
        assert inlets.wait(0.0) == []
