"""Who may do what by its key: every kind of message that a node takes, against every kind of key."""

from __future__ import annotations

from typing import Any

import pytest
from lone_node import Lone

from meshcache.core import access
from meshcache.core.access import CHECKS, FOR_ALL
from meshcache.core.membership.members import first_incarnation
from meshcache.core.operations.surroundings import Readers
from meshcache.keys import ALL_RIGHTS, ANYBODY, NOBODY, AllowedKey, Rights
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Change, Code, EventKind, Fact, Rumour
from meshcache.simulation.hosts import EPOCH_MS

HEAD = 1, 1, 1, b""
INSIDE, OUTSIDE = b"users:1", b"orders:1"
BORN = first_incarnation(EPOCH_MS)


def key(name: str, rights: Rights = ALL_RIGHTS, prefix: bytes = b"") -> AllowedKey:
    kind = "node" if name.startswith("n") else "client"
    return AllowedKey(kind, name, name.ljust(40, "-"), rights, prefix)


def fact(node_id: str) -> Fact:
    return Fact(node_id, f"127.0.0.2:{7000 + len(node_id)}", "", "", "h", "", 1.0, EPOCH_MS << 16, BORN, 0)


def update(change: int, name: bytes = INSIDE, hops: int = 0) -> m.Update:
    return m.Update(*HEAD, 0, 0, hops, [name], [[int(change)]])


def taking(change: Change) -> Rights:
    """What tells the value that was there takes the right to read, too."""
    return READ | WRITE if change in {Change.INCR, Change.LEASE} else WRITE


READ, WRITE, ADMIN = Rights.READ, Rights.WRITE, Rights.ADMIN
CLIENTS: list[tuple[str, m.Message, Rights, bool]] = [
    ("get", m.Get(*HEAD, 0, 0, False, [INSIDE]), READ, True),
    ("get outside", m.Get(*HEAD, 0, 0, False, [INSIDE, OUTSIDE]), READ, False),
    ("set", m.Set(*HEAD, 0, 0, [INSIDE], [b"\0\0v"]), WRITE, True),
    ("set outside", m.Set(*HEAD, 0, 0, [INSIDE, OUTSIDE], [b"\0\0v", b"\0\0v"]), WRITE, False),
    ("delete", m.Delete(*HEAD, 0, EventKind.DELETE, [INSIDE]), WRITE, True),
    ("delete outside", m.Delete(*HEAD, 0, EventKind.DELETE, [OUTSIDE]), WRITE, False),
    ("tags", m.InvalidateTags(*HEAD, [INSIDE]), WRITE, True),
    ("tags outside", m.InvalidateTags(*HEAD, [INSIDE, OUTSIDE]), WRITE, False),
    ("clear", m.Clear(*HEAD, b"users:"), ADMIN, True),
    ("clear more", m.Clear(*HEAD, b"user"), ADMIN, False),
    ("clear all", m.Clear(*HEAD, b""), ADMIN, False),
    ("explain", m.Inspect(*HEAD, "explain", INSIDE), ADMIN, True),
    ("explain outside", m.Inspect(*HEAD, "explain", OUTSIDE), ADMIN, False),
    ("replica", m.Inspect(*HEAD, "replica", INSIDE), ADMIN, True),
    ("stats", m.Inspect(*HEAD, "stats", b""), ADMIN, False),
    ("hot keys", m.Inspect(*HEAD, "hot", INSIDE), ADMIN, False),
    ("a snapshot", m.Inspect(*HEAD, "snapshot", INSIDE), ADMIN, False),
    ("what is yet to come", m.Inspect(*HEAD, "x", INSIDE), ADMIN, False),
    ("leave", m.Leave(*HEAD), ADMIN, False),
    ("forget", m.Forget(*HEAD, "n2"), ADMIN, False),
    *[(f"update: {change.name}", update(change), taking(change), True) for change in Change],
    *[(f"update outside: {change.name}", update(change, OUTSIDE), taking(change), False) for change in Change],
]
"""What clients ask for: the rights that it takes, and whether a client that is confined to ``users:`` may."""
NODES: list[m.Message] = [
    m.PingReq(1, "n2"),
    m.Gossip([Rumour(fact("n2"), [])]),
    m.Read(*HEAD, [b"k"]),
    m.Write(*HEAD, False, [b"k"], [bytes(24)]),
    m.Sweep(*HEAD, bytes(16), b""),
    m.SweepTags(*HEAD, bytes(16), [b"t"]),
    m.Pull(*HEAD, [1], b""),
    m.Recall(*HEAD, [1], b""),
    m.Floors(*HEAD, b""),
    m.Compare(*HEAD, [1], [b"digests!"]),
    m.Update(*HEAD, 0, 0, 1, [INSIDE], [[int(Change.TOUCH), m.TTL_NEVER]]),
]
"""What only nodes say to each other."""
SAID: list[m.Message] = [m.Hello(m.PROTOCOL, "meshcache", fact("n2"), b""), m.Ping(1, "n2", b"", False, [])]
"""What names its sender, n2."""
COMBINED = [Rights(number) for number in range(1, ALL_RIGHTS.value + 1)]


def greetings() -> list[m.Message]:
    return [m.Hello(m.PROTOCOL, "", None, b""), *[m.Inspect(*HEAD, what, b"") for what in FOR_ALL]]


def allows(who: AllowedKey, message: m.Message) -> bool:
    why = CHECKS[type(message)](who, message)
    if why is not None and who is not NOBODY:
        assert f"of {who.kind} {who.name}" in why
    return why is None


def test_every_kind_of_message_that_a_node_takes_has_a_check_and_a_case_here() -> None:
    taken = set(Lone().core._request_handlers())
    assert set(CHECKS) == taken
    assert {type(message) for _, message, *_ in CLIENTS} | {type(message) for message in NODES + SAID} == taken


def test_a_node_whose_message_has_no_check_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    security = {"key_file": "k", "allowed_keys_dir": "d"}
    Lone(security=security)
    monkeypatch.delitem(access.CHECKS, m.Pull)
    with pytest.raises(KeyError):
        Lone(security=security)


@pytest.mark.parametrize("rights", COMBINED, ids=str)
@pytest.mark.parametrize(("message", "wanted"), [case[1:3] for case in CLIENTS], ids=[case[0] for case in CLIENTS])
def test_a_client_needs_the_right_to_what_it_asks_for(message: m.Message, wanted: Rights, rights: Rights) -> None:
    assert allows(key("web", rights), message) == (wanted in rights)


@pytest.mark.parametrize(("message", "within"), [(c[1], c[3]) for c in CLIENTS], ids=[case[0] for case in CLIENTS])
def test_a_confined_client_reaches_only_keys_that_begin_with_its_prefix(message: m.Message, within: bool) -> None:
    assert allows(key("web", prefix=b"users:"), message) == within


@pytest.mark.parametrize("message", NODES, ids=lambda message: type(message).__name__)
def test_what_nodes_say_to_each_other_takes_the_key_of_a_node(message: m.Message) -> None:
    assert allows(key("n3"), message)
    assert allows(ANYBODY, message)
    for who in (NOBODY, key("web"), key("web", prefix=b"k")):
        assert not allows(who, message)


@pytest.mark.parametrize("message", SAID, ids=lambda message: type(message).__name__)
def test_who_names_itself_as_a_node_needs_that_nodes_own_key(message: m.Message) -> None:
    assert allows(key("n2"), message)
    assert allows(ANYBODY, message)
    named_alike = AllowedKey("client", "n2", "x" * 40, ALL_RIGHTS, b"")
    for who in (key("n3"), key("n"), NOBODY, key("web"), named_alike):
        assert not allows(who, message)


@pytest.mark.parametrize("who", [key("n2"), key("web", READ), key("web", ALL_RIGHTS, b"users:"), ANYBODY])
def test_every_key_may_greet_and_learn_the_members(who: AllowedKey) -> None:
    for message in greetings():
        assert allows(who, message)


def test_whose_key_is_gone_may_nothing_at_all() -> None:
    for message in [*[case[1] for case in CLIENTS], *NODES, *SAID, *greetings()]:
        assert not allows(NOBODY, message)


@pytest.mark.parametrize("message", [case[1] for case in CLIENTS] + NODES, ids=lambda message: type(message).__name__)
def test_nodes_and_whoever_needs_no_key_may_everything(message: m.Message) -> None:
    assert allows(key("n2"), message)
    assert allows(ANYBODY, message)


# -- the node that checks ----------------------------------------------------------------------------------


class Known(Readers):
    """Connections by the names of their keys."""

    def __init__(self, **keys: AllowedKey) -> None:
        self.keys = {name.encode(): key for name, key in keys.items()}

    def who(self, origin: bytes) -> AllowedKey:
        return self.keys.get(origin, NOBODY)


@pytest.fixture
def node() -> Lone:
    lone = Lone(security={"key_file": "k", "allowed_keys_dir": "d"})
    lone.core.allow(frozenset({"n1", "n2"}), lone.now)
    lone.core.heed(
        Known(client=key("client"), reader=key("reader", READ), web=key("web", prefix=b"users:"), n2=key("n2"))
    )
    lone.wait(1.0)
    return lone


def forbidden(lone: Lone) -> int:
    return lone.core.counters.forbidden


def test_a_request_that_is_refused_is_not_executed_and_answered_counted_and_logged(node: Lone) -> None:
    assert node.set(b"k", b"v")
    before = forbidden(node)
    request = m.Set(*node.head(), m.DEFAULT_LEVEL, m.TTL_NEVER, [b"k"], [b"\0\0planted"])
    (reply,) = node.tell(request, origin=b"reader")
    assert isinstance(reply, m.Reject)
    assert reply.request == request.request
    assert reply.error[0] == Code.FORBIDDEN
    assert "the key of client reader lacks the right to write" in reply.error[1]
    assert node.get(b"k") == b"v"
    assert forbidden(node) == before + 1
    assert node.notes[-1][0] == "forbidden"
    assert node.notes[-1][1]["key"] == "client reader"
    assert node.stats()["node"]["forbidden"] == before + 1


def test_a_batch_that_reaches_out_is_refused_as_a_whole(node: Lone) -> None:
    request = m.Set(*node.head(), m.DEFAULT_LEVEL, m.TTL_NEVER, [INSIDE, OUTSIDE], [b"\0\0planted"] * 2)
    (reply,) = node.tell(request, origin=b"web")
    assert isinstance(reply, m.Reject)
    assert "confined to keys that begin with b'users:'" in reply.error[1]
    assert node.get(INSIDE) is None
    assert node.get(OUTSIDE) is None


def test_a_client_that_greets_as_a_node_is_refused_and_changes_no_table(node: Lone) -> None:
    (reply,) = node.tell(m.Hello(m.PROTOCOL, "meshcache", fact("n2"), b""), origin=b"client")
    assert isinstance(reply, m.Refused)
    assert reply.code == "key"
    assert node.members() == ["n1"]
    assert list(node.dialled) == []


def test_a_node_may_greet_as_itself_but_not_as_another(node: Lone) -> None:
    (reply,) = node.tell(m.Hello(m.PROTOCOL, "meshcache", fact("n1")._replace(boot=5), b""), origin=b"n2")
    assert isinstance(reply, m.Refused)
    (reply,) = node.tell(m.Hello(m.PROTOCOL, "meshcache", fact("n2"), b""), origin=b"n2")
    assert isinstance(reply, m.Welcome)
    assert list(node.dialled) == [fact("n2").address]


@pytest.mark.parametrize("message", NODES, ids=lambda message: type(message).__name__)
def test_a_client_that_speaks_as_a_node_changes_nothing(node: Lone, message: Any) -> None:
    if hasattr(message, "request"):
        message = type(message)(*node.head(), *message[4:])
    members, version, before = node.core.membership.facts(), node.core.view.digest, forbidden(node)
    node.tell(message, origin=b"client")
    assert (node.core.membership.facts(), node.core.view.digest) == (members, version)
    assert list(node.dialled) == []
    assert forbidden(node) == before + 1


def test_a_clients_welcome_says_whether_it_may_hear_of_all_keys(node: Lone) -> None:
    for who, told in ((b"client", 1), (b"reader", 1), (b"web", 0)):
        (welcome,) = node.tell(m.Hello(m.PROTOCOL, "", None, b""), origin=who)
        assert isinstance(welcome, m.Welcome)
        assert welcome.settings["stream"] == told


def test_from_whoever_has_no_key_any_more_nothing_is_taken(node: Lone) -> None:
    assert isinstance(node.tell(m.Hello(m.PROTOCOL, "", None, b""), origin=b"gone")[0], m.Refused)
    (reply,) = node.tell(m.Inspect(*node.head(), "status", b""), origin=b"gone")
    assert isinstance(reply, m.Reject)
