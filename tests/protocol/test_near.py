"""The near cache and the streams under it, as pure objects."""

from __future__ import annotations

import math
from typing import Any

import pytest

from meshcache.client.arguments import MISSING
from meshcache.client.codec import Codec
from meshcache.client.near_cache import Copies
from meshcache.client.routing import HOT_S, Routing
from meshcache.client.streams import REDIAL_S, StreamIntake
from meshcache.client.subscription import QUEUE_EVENTS_MAX, Feed, Invalidation, InvalidationKind
from meshcache.protocol import near_store as near_module
from meshcache.protocol.invalidation import SILENCE_S, Streams
from meshcache.protocol.messages import BATCH_OPS_MAX, Event, EventKind, Fact, Invalidations
from meshcache.protocol.near_store import CHANCES_MAX, CLEARS_MAX, RECENT_S, USED, NearCache, NearStore
from meshcache.protocol.record import NEVER_MS, NO_EXTRAS, Extras, stamp, with_extras
from meshcache.protocol.wire import encode_frame

RING = b"ring"


def version(number: int) -> bytes:
    return number.to_bytes(16, "big")


# ---- streams


class Heard:
    """A listener that notes everything in order."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []

    def on_event(self, node_id: str, event: Event, now: float) -> None:
        self.notes.append((node_id, event.keys[0].decode()))

    def on_gap(self, node_id: str, now: float) -> None:
        self.notes.append((node_id, "GAP"))


def said(node_id: str, sequence: int, key: str = "", boot: int = 1, view: bytes = RING) -> Invalidations:
    events = [Event(int(EventKind.SET), version(sequence), [key.encode()])] if key else []
    return Invalidations(node_id, boot, sequence, view, events)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def streams(heard: Heard) -> Streams:
    """Two nodes, a with number 7 and b with number 3, both just heard of at time 0."""
    streams = Streams()
    streams.tell(heard)
    streams.follow({"a": "a:1", "b": "b:1"}, RING, 0.0)
    streams.receive(said("a", 7), 0.0)
    streams.receive(said("b", 3), 0.0)
    heard.notes.clear()
    return streams


def test_streams_are_live_once_all_are_heard_of_and_as_long_as_all_are() -> None:
    streams = Streams()
    streams.follow({}, RING, 0.0)
    assert streams.live_until == -math.inf
    streams.follow({"a": "a:1", "b": "b:1"}, RING, 0.0)
    streams.receive(said("a", 7), 0.0)
    assert streams.live_until == -math.inf
    assert streams.not_live(0.0) == ["b"]
    streams.receive(said("b", 3), 0.2)
    assert streams.live_until == 0.0 + SILENCE_S
    streams.receive(said("a", 7), 0.5)
    assert streams.live_until == 0.2 + SILENCE_S


def test_events_in_order_are_no_gap(streams: Streams, heard: Heard) -> None:
    streams.receive(said("a", 8, "x"), 0.1)
    streams.receive(said("b", 3), 0.2)
    streams.receive(said("a", 8), 0.3)
    streams.receive(said("a", 9, "y"), 0.3)
    assert heard.notes == [("a", "x"), ("a", "y")]
    assert streams.gaps == 0


@pytest.mark.parametrize(
    "message",
    [said("a", 9, "x"), said("a", 8), said("a", 7, "x"), said("a", 6), said("a", 8, "x", boot=2), said("a", 7, boot=2)],
    ids=["one missed", "the last missed", "one twice", "backwards", "a new process", "a new process, idle"],
)
def test_whatever_does_not_follow_is_a_gap_and_told_before_its_events(
    streams: Streams, heard: Heard, message: Invalidations
) -> None:
    streams.receive(message, 0.1)
    assert heard.notes == [("a", "GAP")] + [("a", "x")] * bool(message.events)
    assert streams.gaps == 1
    streams.receive(said("a", message.sequence + 1, "z", boot=message.boot), 0.2)
    assert heard.notes[-1] == ("a", "z")
    assert streams.gaps == 1


def test_silence_is_a_gap_once_and_not_live_until_the_node_speaks_again(streams: Streams, heard: Heard) -> None:
    streams.receive(said("b", 3), 0.7)
    streams.review(SILENCE_S)
    assert heard.notes == []
    streams.review(SILENCE_S + 0.01)
    streams.review(SILENCE_S + 0.02)
    assert heard.notes == [("a", "GAP")]
    assert streams.live_until < 0.8
    assert streams.not_live(0.8) == ["a"]
    streams.receive(said("a", 7), 0.9)
    assert heard.notes == [("a", "GAP")]
    assert streams.live_until == 0.7 + SILENCE_S


def test_another_ring_shows_that_a_member_is_not_followed(streams: Streams) -> None:
    streams.receive(said("a", 7, view=b"other"), 0.1)
    assert streams.live_until == -math.inf
    streams.follow({"a": "a:1", "b": "b:1", "c": "c:1"}, b"other", 0.2)
    assert streams.live_until == -math.inf
    streams.receive(said("c", 1, view=b"other"), 0.2)
    assert streams.live_until == -math.inf
    streams.receive(said("b", 3, view=b"other"), 0.2)
    assert streams.live_until == 0.1 + SILENCE_S


def test_who_leaves_or_moves_may_have_had_a_last_word(streams: Streams, heard: Heard) -> None:
    streams.follow({"a": "a:2"}, RING, 0.1)
    assert heard.notes == [("a", "GAP"), ("b", "GAP")]
    streams.receive(said("b", 4, "x"), 0.1)
    assert heard.notes == [("a", "GAP"), ("b", "GAP")]


# ---- what is kept


def near_store(**options: Any) -> NearStore:
    store = NearStore(NearCache(**options))
    store.live_until = math.inf
    return store


def fill(
    store: NearStore, key: str, number: int, *, ticket: int | None = None, now: float = 0.0, tags: str = ""
) -> bool:
    raw = key.encode()
    refused = store.refused
    copy = [now + 1.0, number, None, version(number), False]
    store.fill(raw, copy, store.ticket() if ticket is None else ticket, now, tuple(tag.encode() for tag in tags))
    return store.refused == refused


def event(kind: EventKind, number: int, *keys: str) -> Event:
    return Event(int(kind), version(number), [key.encode() for key in keys])


def test_what_was_not_used_goes_first_and_what_was_gets_a_second_chance() -> None:
    store = near_store(max_entries=2)
    fill(store, "a", 1)
    fill(store, "b", 1)
    used, unused = store.entries[b"a"], store.entries[b"b"]
    used[USED] = True
    fill(store, "c", 1)
    assert list(store.entries) == [b"a", b"c"]
    assert not used[USED]
    assert unused[0] == -math.inf
    for copy in store.entries.values():
        copy[USED] = True
    fill(store, "d", 1)
    assert list(store.entries) == [b"c", b"d"]


def test_a_fill_gives_a_bounded_number_of_second_chances() -> None:
    store = near_store(max_entries=CHANCES_MAX + 10)
    for number in range(CHANCES_MAX + 10):
        fill(store, f"{number}", 1)
        store.entries[b"%d" % number][USED] = True
    fill(store, "one more", 1)
    assert f"{CHANCES_MAX}".encode() not in store.entries
    assert sum(copy[USED] for copy in store.entries.values()) == 9


@pytest.mark.parametrize("kind", [EventKind.SET, EventKind.DELETE, EventKind.INVALIDATE])
def test_an_event_voids_what_is_older_and_nothing_else(kind: EventKind) -> None:
    store = near_store()
    for key, number in (("a", 4), ("b", 5), ("c", 6), ("d", 1)):
        fill(store, key, number)
    old = store.entries[b"a"]
    store.on_event("n", event(kind, 5, "a", "b", "c"), 0.0)
    assert list(store.entries) == [b"b", b"c", b"d"]
    assert old[0] == -math.inf  # void for whoever still refers to it
    assert store.invalidations == 1


def test_a_clear_voids_what_is_older_under_its_prefix() -> None:
    store = near_store()
    for key, number in (("u:a", 4), ("u:b", 6), ("v:a", 4)):
        fill(store, key, number)
    store.on_event("n", event(EventKind.CLEAR, 5, "u:"), 0.0)
    assert list(store.entries) == [b"u:b", b"v:a"]
    assert not fill(store, "u:c", 4)
    assert fill(store, "u:c", 6)


def test_a_tag_voids_what_bears_it_and_is_older() -> None:
    store = near_store()
    for key, number, tags in (("a", 4, "t"), ("b", 5, "t"), ("c", 6, "tu"), ("d", 4, "u"), ("e", 4, "")):
        fill(store, key, number, tags=tags)
    old = store.entries[b"a"]
    store.on_event("n", event(EventKind.TAG, 5, "t", "none"), 0.0)
    assert list(store.entries) == [b"b", b"c", b"d", b"e"]
    assert old[0] == -math.inf
    assert store.invalidations == 1
    assert not fill(store, "f", 4, tags="ut")
    assert fill(store, "f", 4, tags="u")
    assert fill(store, "f", 5, tags="t")
    store.on_event("n", event(EventKind.TAG, 9, "t", "u"), 0.0)
    assert list(store.entries) == [b"e"]


def test_an_answer_that_bears_a_tag_which_this_client_invalidates_is_refused() -> None:
    store = near_store()
    fill(store, "a", 4, tags="t")
    ticket = store.ticket()
    store.on_own_invalidation([b"t"], 0.0)
    assert not store.entries
    assert not fill(store, "a", 9, tags="t", ticket=ticket)
    assert fill(store, "a", 9, tags="u", ticket=ticket)
    assert fill(store, "a", 9, tags="t")


def test_tags_are_known_of_the_copies_that_are_held_and_of_no_others() -> None:
    store = near_store(max_entries=2)
    for key, tags in (("a", "t"), ("b", "t"), ("b", "u"), ("c", "tu"), ("d", ""), ("c", "u")):
        fill(store, key, 1, tags=tags)
    assert store._tags == {b"c": (b"u",)}
    assert store._bearers == {b"u": {b"c": None}}
    store.on_event("n", event(EventKind.SET, 2, "c"), 0.0)
    assert not store._tags
    assert not store._bearers
    fill(store, "a", 1, tags="t")
    store.on_gap("n", 0.0)
    assert not store._tags
    assert not store._bearers


def test_an_unknown_kind_of_event_voids_everything() -> None:
    store = near_store()
    fill(store, "a", 9)
    ticket = store.ticket()
    store.on_event("n", Event(77, version(1), [b"x"]), 0.0)
    assert not store.entries
    assert not fill(store, "a", 9, ticket=ticket)


def test_an_answer_older_than_what_was_announced_is_refused_for_some_moments() -> None:
    store = near_store()
    store.on_event("n", event(EventKind.SET, 5, "a"), 0.0)
    assert not fill(store, "a", 4)
    assert fill(store, "a", 5)  # the announcement of this very value
    assert not fill(store, "a", 4)
    store.on_event("n", event(EventKind.SET, 9, "b"), RECENT_S + 0.1)  # reminds it to forget
    assert fill(store, "c", 4, now=RECENT_S + 0.1)


def test_an_answer_is_refused_if_everything_was_dropped_since_the_read_began() -> None:
    store = near_store()
    ticket = store.ticket()
    store.on_gap("n", 0.0)
    assert not fill(store, "a", 9, ticket=ticket)
    assert fill(store, "a", 9)


def test_an_answer_is_refused_if_what_was_announced_since_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_module, "RECENT_MAX", 4)
    store = near_store()
    ticket = store.ticket()
    store.on_event("n", event(EventKind.SET, 5, "a"), 0.0)
    store.on_event("n", event(EventKind.SET, 5, "b", "c", "d"), 0.0)
    assert fill(store, "x", 1, ticket=ticket)
    late = store.ticket()
    store.on_event("n", event(EventKind.SET, 5, "e"), 0.0)  # "a" is forgotten
    assert not fill(store, "a", 4, ticket=ticket)
    assert fill(store, "y", 1, ticket=late)
    assert len(store._recent) == 4
    for i in range(2 * CLEARS_MAX):
        store.on_event("n", event(EventKind.CLEAR, 5, f"p{i}"), 0.0)
    assert len(store._clears) == CLEARS_MAX


def test_own_writes_void_the_copy_and_the_answers_under_way_but_not_later_ones() -> None:
    store = near_store()
    fill(store, "a", 1)
    ticket = store.ticket()
    store.on_own_write([b"a"], 0.0)
    assert not store.entries
    assert not fill(store, "a", 9, ticket=ticket)
    assert fill(store, "a", 9)
    ticket = store.ticket()
    store.on_own_clear(b"", 0.0)
    assert not store.entries
    assert not fill(store, "b", 9, ticket=ticket)
    assert fill(store, "b", 9)


def test_nothing_is_kept_while_the_streams_are_not_live() -> None:
    store = near_store()
    fill(store, "a", 1)
    store.suspend()
    assert not store.entries
    assert not fill(store, "a", 1)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_entries": 0}, ValueError, "max_entries must be 1 to"),
        ({"max_entries": True}, TypeError, "max_entries must be an int"),
        ({"ttl": 0}, ValueError, "ttl must be above 0"),
        ({"ttl": math.nan}, ValueError, "ttl must be above 0"),
        ({"ttl": "1"}, TypeError, "ttl must be a number of seconds"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        NearCache(**options)


# ---- values in and out


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def copies_at(clock: Clock, store: NearStore, prefix: bytes = b"") -> Copies:
    routing = Routing(("127.0.0.1:1",), clock)
    routing.learn([Fact("a", "a:1", "a:2", "", "h", "", 1.0, 1, 1, 0)], clock.now)
    routing.peers["a:1"].wall_offset_ms = 0.0
    return Copies(store, routing, prefix, Codec().decode)


def keep(copies: Copies, key: str, value: Any, expires_ms: int = NEVER_MS, extras: Extras = NO_EXTRAS) -> None:
    record = stamp(version(1), expires_ms) + with_extras(Codec().encode(value), extras)
    copies.keep(key.encode(), record, value, copies.begin([key.encode()]))


def test_a_copy_ends_with_its_time_counted_from_the_beginning_of_the_read() -> None:
    clock = Clock()
    copies = copies_at(clock, near_store(ttl=1.0))
    reading = copies.begin([b"k"])
    clock.now += 0.4
    copies.keep(b"k", stamp(version(1), NEVER_MS) + Codec().encode("v"), "v", reading)
    assert copies.value("k") == "v"
    clock.now += 0.599
    assert copies.value("k") == "v"
    clock.now += 0.002
    assert copies.value("k") is MISSING
    reading = copies.begin([b"k"])
    clock.now += 1.1
    copies.keep(b"k", stamp(version(1), NEVER_MS) + Codec().encode("v"), "v", reading)
    assert copies.value("k") is MISSING


def test_a_copy_of_a_hot_key_is_kept_if_it_was_hot_when_its_read_began_and_still_is() -> None:
    clock = Clock()
    store = near_store(ttl=1.0)
    copies = copies_at(clock, store)
    store.only = copies._routing.hot
    record = stamp(version(1), NEVER_MS) + Codec().encode("v")
    began_before = copies.begin([b"k"])
    copies._routing.note_hot([b"k"], 60.0)
    copies.keep(b"k", record, "v", began_before)
    assert copies.value("k") is MISSING, "own writes took no note of it when the read began"
    reading = copies.begin([b"k", b"cold"])
    copies.keep(b"cold", record, "v", reading)
    assert copies.value("cold") is MISSING
    copies.keep(b"k", record, "v", reading)
    assert copies.value("k") == "v"
    clock.now += HOT_S + 0.1
    store.suspend()
    store.live_until = math.inf
    copies.keep(b"k", record, "v", copies.begin([b"k"]))
    assert copies.value("k") is MISSING, "no node has called it hot for a while"


def test_no_copy_is_kept_of_what_came_while_a_node_showed_another_ring() -> None:
    clock = Clock()
    copies = copies_at(clock, near_store(ttl=1.0))
    reading = copies.begin([b"k"])
    copies._routing.note_view("a:1", b"another!")
    copies.keep(b"k", stamp(version(1), NEVER_MS) + Codec().encode("v"), "v", reading)
    assert copies.value("k") is MISSING
    keep(copies, "k", "v")
    assert copies.value("k") == "v"


@pytest.mark.parametrize("stale_after", [False, True])
def test_a_copy_never_outlives_its_key_nor_the_time_when_its_value_is_stale(stale_after: bool) -> None:
    clock = Clock()
    copies = copies_at(clock, near_store(ttl=60.0))
    ends_ms = int(clock.now * 1000) + 250
    if stale_after:
        keep(copies, "k", "v", extras=Extras(soft_expires_ms=ends_ms))
    else:
        keep(copies, "k", "v", expires_ms=ends_ms)
    clock.now += 0.249
    assert copies.value("k") == "v"
    clock.now += 0.002
    assert copies.value("k") is MISSING


def test_a_copy_is_not_served_when_the_streams_stopped() -> None:
    clock = Clock()
    store = near_store(ttl=60.0)
    copies = copies_at(clock, store)
    keep(copies, "k", "v")
    store.live_until = clock.now + 0.5
    clock.now += 0.499
    assert copies.value("k") == "v"
    clock.now += 0.002
    assert copies.value("k") is MISSING


def test_what_a_caller_does_to_a_value_does_not_change_the_copy() -> None:
    copies = copies_at(Clock(), near_store())
    for key, value in (("list", [1]), ("dict", {"a": [1]}), ("tuple", ([1],))):
        keep(copies, key, value)
        first, second = copies.value(key), copies.value(key)
        assert first == second == value
        assert first is not second
    for plain in (b"x" * 50, "x" * 50, None, 1.5):
        keep(copies, "plain", plain)
        assert copies.value("plain") is plain


def test_voided_copies_are_found_by_no_name() -> None:
    store = near_store()
    copies, users = copies_at(Clock(), store), copies_at(Clock(), store, b"user:")
    keep(copies, "user:1", "v")
    assert copies.value("user:1") == copies.value(b"user:1") == users.value("1") == "v"
    store.on_event("n", event(EventKind.SET, 2, "user:1"), 0.0)
    assert copies.value("user:1") is copies.value(b"user:1") is users.value("1") is MISSING
    keep(copies, "user:2", "w")
    assert users.value("2") == "w"
    for odd in (5, bytearray(b"user:2"), "\ud800", None, ["x"]):
        copies.value(odd)  # type: ignore[arg-type]  # says nothing: the operation itself will


def test_names_that_were_asked_for_are_bounded() -> None:
    store = near_store(max_entries=10)
    copies = copies_at(Clock(), store)
    for i in range(100):
        keep(copies, f"k{i}", "v")
        assert copies.value(f"k{i}") == "v"
    assert len(copies._found) <= 10


# ---- subscriptions


def test_a_feed_has_what_is_under_its_prefix_without_the_namespace() -> None:
    feed = Feed(b"ns:", b"u", lambda: None)
    feed.on_event("n", event(EventKind.SET, 5, "ns:u1", "ns:v", "u2"), 0.0)
    feed.on_event("n", Event(int(EventKind.DELETE), version(6), [b"ns:u\xff"]), 0.0)
    feed.on_event("n", event(EventKind.CLEAR, 7, "ns:"), 0.0)
    feed.on_event("n", event(EventKind.CLEAR, 8, ""), 0.0)
    feed.on_event("n", event(EventKind.CLEAR, 9, "ns:user"), 0.0)
    feed.on_event("n", event(EventKind.CLEAR, 9, "ns:v"), 0.0)
    feed.on_event("n", event(EventKind.TAG, 10, "ns:team", "team"), 0.0)
    kind = InvalidationKind
    assert list(feed.queue) == [
        ("u1", kind.SET, version(5), "n"),
        (b"u\xff", kind.DELETE, version(6), "n"),
        ("", kind.CLEAR, version(7), "n"),
        ("", kind.CLEAR, version(8), "n"),
        ("user", kind.CLEAR, version(9), "n"),
        ("team", kind.TAG, version(10), "n"),
    ]


def test_a_feed_that_is_not_read_says_that_it_lost_something_and_stays_bounded() -> None:
    feed = Feed(b"", b"", lambda: None)
    for i in range(QUEUE_EVENTS_MAX + 50):
        feed.on_event("n", event(EventKind.SET, i, f"k{i}"), 0.0)
    assert len(feed.queue) == QUEUE_EVENTS_MAX + 1
    assert feed.queue[-1] == Invalidation("", InvalidationKind.GAP, b"", "")
    feed.queue.clear()
    feed.on_event("n", event(EventKind.SET, 1, "later"), 0.0)
    assert [found.key for found in feed.queue] == ["later"]


def test_an_event_of_a_later_version_of_meshcache_is_a_gap_to_a_subscriber() -> None:
    feed = Feed(b"", b"", lambda: None)
    feed.standing = True
    feed.on_event("n", Event(77, version(1), [b"x"]), 0.0)
    assert [found.kind for found in feed.queue] == [InvalidationKind.GAP]


# ---- all of it


def fact(node_id: str, boot: int = 1) -> Fact:
    return Fact(node_id, f"{node_id}:1", f"{node_id}:2", "", "h", "", 1.0, boot, 1, 0)


def test_following_serves_only_while_the_member_table_is_followed() -> None:
    clock = Clock()
    routing = Routing(("a:1",), clock)
    store = NearStore(NearCache())
    intake = StreamIntake(routing, store)
    routing.on_members = intake.on_members
    routing.learn([fact("a")], clock.now)
    intake.tick(clock.now)
    assert intake.addresses() == ["a:2"]
    intake.receive(encode_frame(1, [said("a", 1, view=routing.digest)]), clock.now)
    assert intake.live(clock.now)
    assert fill(store, "k", 1, now=clock.now)
    routing.learn([fact("a"), fact("b")], clock.now)
    assert not store.entries
    assert not intake.live(clock.now)
    intake.receive(encode_frame(1, [said("a", 1, view=routing.digest)]), clock.now)
    assert not fill(store, "k", 1, now=clock.now)
    intake.tick(clock.now)
    intake.receive(encode_frame(1, [said("b", 1, view=routing.digest)]), clock.now)
    assert fill(store, "k", 1, now=clock.now)
    routing.learn([fact("a"), fact("b", boot=2)], clock.now)
    assert not store.entries


def test_following_asks_for_the_members_when_a_stream_shows_another_ring() -> None:
    clock = Clock()
    routing = Routing(("a:1",), clock)
    intake = StreamIntake(routing, None)
    routing.learn([fact("a")], clock.now)
    assert intake.tick(clock.now) == []
    clock.now += 2.0
    intake.receive(encode_frame(1, [said("a", 1, view=b"other")]), clock.now)
    (call,) = intake.tick(clock.now)
    assert call.address == "a:1"
    intake.learn(call, [{"members": [list(fact("a")), list(fact("b"))]}])
    assert set(routing.streams) == {"a", "b"}


def test_what_can_not_be_read_voids_everything() -> None:
    clock = Clock()
    routing = Routing(("a:1",), clock)
    store = NearStore(NearCache())
    intake = StreamIntake(routing, store)
    routing.learn([fact("a")], clock.now)
    intake.tick(clock.now)
    intake.receive(encode_frame(1, [said("a", 1, view=routing.digest)]), clock.now)
    fill(store, "k", 1, now=clock.now)
    intake.receive(b"\xc1", clock.now)
    assert not store.entries
    assert intake.malformed == 1
    too_many = [Event(1, version(1), [b"k"])] * (BATCH_OPS_MAX + 2)
    intake.receive(encode_frame(1, [Invalidations("a", 1, 2, routing.digest, too_many)]), clock.now)
    assert intake.malformed == 2


def test_a_stream_that_stays_silent_is_dialled_again_now_and_then() -> None:
    clock = Clock()
    routing = Routing(("a:1",), clock)
    intake = StreamIntake(routing, None)
    routing.learn([fact("a")], clock.now)
    intake.tick(clock.now)
    assert intake.to_redial(clock.now) == []
    clock.now += REDIAL_S + 0.1
    assert intake.to_redial(clock.now) == ["a:2"]
    assert intake.to_redial(clock.now + 0.1) == []
