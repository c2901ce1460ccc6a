"""Overload: what can still be answered in time is served first, and the rest costs little."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from meshcache.node import intake
from meshcache.node.connections import Connections
from meshcache.node.intake import RequestInlet
from meshcache.protocol import messages as m
from meshcache.protocol.wire import DeadlinePeek, Frame, decode_frame, encode_frame

BOOT = 1 << 60 | 5
NOW_MS = 1_700_000_000_000
WAIT_MS = 5000


def get(number: int, deadline_ms: int = NOW_MS + 1000) -> bytes:
    return encode_frame(0, [m.Get(number, BOOT, deadline_ms, b"view", 0, 0, False, [b"key"])])


@pytest.mark.parametrize("number", [0, 1, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1])
def test_a_request_tells_its_number_and_whether_it_is_past_without_being_decoded(number: int) -> None:
    peek = DeadlinePeek(BOOT)
    assert peek.past_by(NOW_MS)(get(number, NOW_MS)) is False
    assert peek.past_by(NOW_MS)(get(number, NOW_MS - 1)) is True
    assert peek.past_by(NOW_MS + 1)(get(number, NOW_MS)) is True
    assert peek.number_of(get(number)) == number


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x92",
        b"\x92\0",
        b"\x92\0\x90",
        b"\xff" * 50,
        encode_frame(0, [m.Hello(1, "", None, b"")]),
        encode_frame(5, [m.Read(1, BOOT, NOW_MS, b"", [b"k"])]),
        encode_frame(0, [m.Get(1, 7, 0, b"", 0, 0, False, [])]),
    ],
)
def test_of_any_other_frame_nothing_is_told(frame: bytes) -> None:
    assert DeadlinePeek(BOOT).past_by(NOW_MS)(frame) is None


class Overloaded:
    """A ROUTER that is being shed, the connections to it, and what became of their requests."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.context = context
        self.router = context.socket(zmq.ROUTER)
        self.router.rcvhwm = 0
        self.port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.served: list[int] = []
        self.others: list[Any] = []
        self.turned_away: list[int] = []
        self.hints_ms: list[int] = []
        self.peek = DeadlinePeek(BOOT)
        self.stop_after = 1 << 30
        self.is_large: Callable[[int], bool] = lambda _: False
        self.inlet = RequestInlet(
            self.router,
            Connections(self.port),
            self.take,
            lambda: None,
            lambda: self.peek.past_by(NOW_MS),
            self.turn_away,
        )
        self.inlet._shedding = True
        self.dealers: list[zmq.Socket[bytes]] = []

    def take(self, _origin: bytes, frame: Frame, _now: float) -> bool:
        (message,) = decode_frame(frame)[1]
        if isinstance(message, m.Get):
            self.served.append(message.request)
            if self.is_large(message.request):
                return True
        else:
            self.others.append(message)
        return len(self.served) % self.stop_after == 0

    def turn_away(self, _origin: bytes, frames: list[bytes], retry_after_ms: int) -> None:
        self.turned_away.extend(map(self.peek.number_of, frames))
        self.hints_ms.append(retry_after_ms)

    def connect(self) -> zmq.Socket[bytes]:
        dealer = self.context.socket(zmq.DEALER)
        dealer.sndhwm = 0
        dealer.connect(f"tcp://127.0.0.1:{self.port}")
        self.dealers.append(dealer)
        return dealer

    def fill(self, *frames: bytes) -> None:
        """Have these frames of one connection wait in the ROUTER."""
        send = self.connect().send
        for frame in frames:
            send(frame)
        send(encode_frame(0, [m.Hello(1, f"last of {len(frames)}", None, b"")]))

    def drain(self, hellos: int) -> None:
        """Turn until the last of each connection has come, and nothing waits."""
        more = True
        while len(self.others) < hellos or more:
            if not more:
                assert self.router.poll(WAIT_MS)
            more = self.inlet.drain(0.0)
            self.inlet._shedding = True


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Overloaded]:
    """A slice of a turn is long: no test is about how fast this machine is."""
    monkeypatch.setattr(intake, "SLICE_S", 10.0)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield Overloaded(context)
    context.destroy(linger=0)


def test_the_newest_is_served_first(node: Overloaded) -> None:
    node.fill(*[get(i) for i in range(100)])
    assert node.router.poll(WAIT_MS)
    while len(node.inlet._waiting.get(next(iter(node.inlet._waiting), b""), ())) < 100:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    node.inlet.drain(0.0)
    assert node.served == list(range(99, -1, -1))


def test_what_is_past_is_dropped_and_counted(node: Overloaded) -> None:
    node.fill(*[get(i, NOW_MS - 1 + i % 2) for i in range(100)])
    node.drain(1)
    assert sorted(node.served) == list(range(1, 100, 2))
    assert node.inlet.late == 50
    assert not node.inlet._count


def test_those_that_came_first_do_not_take_the_room_of_others(
    node: Overloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.inlet, "_waiting_max", 30)
    floods = {b"flood %d" % i: [get(number) for number in range(100)] for i in range(20)}
    node.inlet._keep({**floods, b"honest": [get(100)]})
    assert {origin: len(line) for origin, line in node.inlet._waiting.items()} == dict.fromkeys([*floods, b"honest"], 1)
    assert node.inlet._count == 21
    assert {origin: len(frames) for origin, frames in node.inlet._doomed.items()} == dict.fromkeys(floods, 99)


def test_beyond_the_limit_the_oldest_are_refused(node: Overloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.inlet, "_waiting_max", 10)
    node.fill(*[get(i) for i in range(100)])
    while not node.others:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    assert node.inlet._count == 10
    node.inlet.drain(0.0)
    assert node.turned_away == list(range(90))
    assert sorted(node.served) == list(range(90, 100))


def test_as_many_may_wait_as_are_served_in_time(node: Overloaded) -> None:
    inlet = node.inlet
    inlet._measure(100.0)
    assert inlet._waiting_max == intake.WAITING_MAX
    inlet._served = 500
    inlet._measure(100.0 + intake.MEASURE_S / 2)
    assert inlet._waiting_max == intake.WAITING_MAX, "too early to tell"
    inlet._measure(100.25)
    assert inlet._waiting_max == int(2000 * intake.WAIT_S)
    inlet._measure(101.25)
    assert inlet._waiting_max == int(1000 * intake.WAIT_S), "half of it is the latest measurement, in which nobody was"
    for i in range(2, 12):
        inlet._measure(100.25 + i)
    assert inlet._waiting_max == intake.WAITING_MIN


def test_the_more_are_refused_the_later_they_are_to_come_back(node: Overloaded) -> None:
    inlet, wait_ms = node.inlet, int(intake.WAIT_S * 1000)
    inlet._measure(100.0)
    assert inlet._retry_after_ms == wait_ms
    inlet._served, inlet._refused = 100, 900
    inlet._measure(101.0)
    assert inlet._retry_after_ms == 10 * wait_ms
    inlet._served, inlet._refused = 0, 1_000_000
    inlet._measure(102.0)
    assert inlet._retry_after_ms == intake.RETRY_AFTER_MS_MAX
    inlet._waiting_max = 1
    node.fill(get(1), get(2), get(3))
    while not node.others:
        inlet._take_all(0.0, inlet._past_by_now())
    inlet._shed(0.0)
    assert node.hints_ms[-1] >= wait_ms


def test_one_request_of_a_connection_waits_though_another_has_filled_the_line(node: Overloaded) -> None:
    node.inlet._waiting_max = 10
    node.fill(*[get(1000 + i) for i in range(50)])
    while not node.others:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    assert node.inlet._count == 10
    for number in range(10):
        node.fill(get(number))
    while len(node.others) < 11:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    assert node.inlet._count == 15, "half as many more, and no others"
    node.inlet.drain(0.0)
    assert len([number for number in node.served if number < 10]) == 5
    assert len([number for number in node.turned_away if number < 10]) == 5


def test_connections_take_turns_and_who_floods_waits_by_itself(node: Overloaded) -> None:
    node.stop_after = 4
    node.fill(*[get(1000 + i) for i in range(500)])
    node.fill(get(1))
    while len(node.others) < 2:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    node.inlet.drain(0.0)
    assert len(node.served) == 4
    assert 1 in node.served[:2]


def test_what_is_no_request_of_a_client_is_served_at_once(node: Overloaded) -> None:
    large = encode_frame(0, [m.Get(7, BOOT, NOW_MS, b"", 0, 0, False, [bytes(1000)] * 8)])
    node.fill(large)
    while not node.others:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    assert node.served == [7]


def test_a_message_with_too_many_parts_is_thrown_away(node: Overloaded) -> None:
    node.connect().send_multipart([get(1)] * 50)
    node.fill(get(2))
    node.drain(1)
    assert node.served == [2]


def test_shedding_begins_when_the_queue_stands_and_ends_when_it_is_empty(
    node: Overloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.inlet._shedding = False
    monkeypatch.setattr(intake, "STANDING_S", 0.0)
    node.stop_after = 1
    node.fill(*[get(i) for i in range(20)])
    shed = []
    while len(node.served) < 20:
        assert node.inlet.has_input() or node.router.poll(WAIT_MS)
        node.inlet.drain(0.0)
        shed.append(node.inlet._shedding)
    while not node.others:
        assert node.inlet.has_input() or node.router.poll(WAIT_MS)
        node.inlet.drain(0.0)
    node.inlet.drain(0.0)
    assert any(shed)
    assert not node.inlet._shedding


def test_a_queue_that_stood_before_a_time_of_rest_does_not_stand_any_more(
    node: Overloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.inlet._shedding = False
    node.inlet._standing_since = 1e-9  # long ago there was more input than a turn takes
    while node.inlet.has_input():
        node.inlet.drain(0.0)
    node.fill(get(1))
    monkeypatch.setattr(intake, "SLICE_S", 0.0)
    assert node.router.poll(WAIT_MS)
    while not node.served:
        node.inlet.drain(0.0)  # it came alone
    node.fill(*[get(i) for i in range(2, 20)])
    assert node.router.poll(WAIT_MS)
    while len(node.served) < 3:
        node.inlet.drain(0.0)
        assert not node.inlet._shedding


def test_large_replies_begin_the_shedding_at_once_where_others_wait(
    node: Overloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ends a turn: in the time in which a queue comes to stand, ten of them would go before who wants little."""
    monkeypatch.setattr(intake, "STANDING_S", 1e9)
    node.inlet._shedding = False
    node.is_large = lambda _: True
    node.fill(*[get(i) for i in range(20)])
    while not node.inlet._shedding:
        assert len(node.served) < 20
        assert node.inlet.has_input() or node.router.poll(WAIT_MS)
        node.inlet.drain(0.0)


def test_after_a_time_of_rest_as_many_may_wait_as_at_the_beginning(
    node: Overloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two waves of large replies is shed; between them few are served, since nobody asks."""
    rest_s = 0.0
    monkeypatch.setattr(intake, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + rest_s))
    monkeypatch.setattr(intake, "MEASURE_S", 30.0)
    node.inlet._shedding = False
    node.is_large = lambda _: True
    count = 3 * intake.WAITING_MIN
    for wave in (1, 2):
        node.fill(*[get(wave * count + i) for i in range(count)])
        while len(node.others) < wave or node.inlet.has_input():
            assert node.inlet.has_input() or node.router.poll(WAIT_MS)
            node.inlet.drain(0.0)
        assert len(node.served) == wave * count
        assert not node.turned_away
        rest_s = 60.0


def test_a_large_reply_with_nobody_waiting_begins_no_shedding(node: Overloaded) -> None:
    node.inlet._shedding = False
    node.is_large = lambda _: True
    dealer = node.connect()
    for number in range(5):
        dealer.send(get(number))
        assert node.router.poll(WAIT_MS)
        node.inlet.drain(0.0)
        node.inlet.has_input()
        assert not node.inlet._shedding
    assert node.served == list(range(5))


def test_who_does_not_read_has_nothing_waiting(node: Overloaded) -> None:
    node.fill(*[get(i) for i in range(50)])
    while not node.others:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    (flooding,) = node.inlet._waiting
    dealer = node.dealers[0]
    node.inlet._connections.deaf.add(flooding)
    dealer.send(get(50))
    dealer.send(encode_frame(0, [m.Hello(1, "", None, b"")]))
    while len(node.others) < 2:
        node.inlet.drain(0.0)
        node.inlet._shedding = True
    assert node.turned_away == list(range(51)), "also what came before it was found to be deaf"
    assert not node.served
    assert not node.inlet._count


def test_what_waits_is_refused_when_less_may_wait_though_nothing_more_comes(node: Overloaded) -> None:
    """Else who comes next would be refused for those who wait in vain."""
    node.fill(*[get(i) for i in range(50)])
    while not node.others:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    node.inlet._waiting_max = 10
    node.inlet._clear(node.inlet._past_by_now())
    assert node.inlet._count == 10
    assert [node.peek.number_of(frame) for frames in node.inlet._doomed.values() for frame in frames] == list(range(40))


def test_a_turn_takes_so_many_only(node: Overloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "TAKEN_PER_TURN", 10)
    node.fill(*[get(i) for i in range(100)])
    counts = []
    while not node.others:
        before = node.inlet._count
        node.inlet._take_all(0.0, node.inlet._past_by_now())
        counts.append(node.inlet._count - before)
    assert max(counts) == 10
    assert sum(counts) == 100


def test_what_becomes_past_while_it_waits_is_dropped_unread(node: Overloaded) -> None:
    node.fill(*[get(i, NOW_MS + i) for i in range(100)])
    while not node.others:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    node.inlet._clear(DeadlinePeek(BOOT).past_by(NOW_MS + 60))
    assert node.inlet.late == 60
    assert node.inlet._count == 40
    node.drain(1)
    assert sorted(node.served) == list(range(60, 100))


def test_who_ends_turns_lets_the_others_go_first_and_is_still_served(node: Overloaded) -> None:
    """Five connections want what fills a turn; one wants little, and must not wait for a turn of each of them."""
    node.is_large = lambda number: number >= 1000
    for large in range(5):
        node.fill(*[get(1000 + 100 * large + i) for i in range(20)])
    while len(node.others) < 5:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    for _ in range(10):  # by now it is known who they are, and each had its share
        node.inlet._shed(0.0)
    served = [number // 100 for number in node.served]
    assert sorted(set(served)) == [10, 11, 12, 13, 14], "a turn that ends must not begin with the same connection again"
    assert len(served) == 10, "the turn ends with a large reply"
    node.fill(*[get(i) for i in range(3)])
    while len(node.others) < 6:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    node.served.clear()
    for _ in range(2):
        node.inlet._shed(0.0)
    small = [number for number in node.served if number < 1000]
    assert small == [2, 1, 0], "it is new, and has few requests waiting"
    assert 1 <= len(node.served) - len(small) <= 2, "one of the large is served in a turn"


def test_who_has_little_waiting_is_served_before_floods_of_which_nothing_is_known(node: Overloaded) -> None:
    node.is_large = lambda number: number >= 1000
    for large in range(5):
        node.fill(*[get(1000 + 100 * large + i) for i in range(50)])
    node.fill(get(1))
    while len(node.others) < 6:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    node.inlet._shed(0.0)
    assert node.served[0] == 1
    assert len(node.served) == 2


def test_who_asked_for_little_and_now_asks_for_much_goes_behind_the_others(node: Overloaded) -> None:
    node.is_large = lambda number: number >= 1000
    changed, little = node.connect(), node.connect()
    hello = encode_frame(0, [m.Hello(1, "", None, b"")])
    for number, dealer in ((1, changed), (2, little)):
        dealer.send(get(number))
        dealer.send(hello)
    node.drain(2)
    node.served.clear()
    for numbers, dealer in (((1000, 1001), changed), ((3, 4), little)):
        for number in numbers:
            dealer.send(get(number))
        dealer.send(hello)
    while len(node.others) < 4:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    while node.inlet._waiting:
        node.inlet._shed(0.0)
    assert node.served.index(1000) > node.served.index(3)


def test_where_there_is_time_for_nothing_who_is_not_known_has_one_request_of_a_turn(node: Overloaded) -> None:
    node.fill(*[get(i) for i in range(10)])
    node.fill(get(100), get(101))
    while len(node.others) < 2:
        node.inlet._take_all(0.0, node.inlet._past_by_now())
    many = max(node.inlet._waiting, key=lambda origin: len(node.inlet._waiting[origin]))
    node.inlet._light.add(many)
    node.inlet._serve(0.0, until=0.0)
    assert node.served == [101]
