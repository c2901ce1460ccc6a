"""Who is let in: what a node answers libzmq, and how it follows its directory of allowed keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zmq
from keys_made import make_keys, security
from timing import eventually
from zmq.utils import z85

from meshcache.config import Config
from meshcache.errors import ConfigError
from meshcache.keys import ANYBODY, NOBODY, read_allowed_keys, read_secret_key
from meshcache.node.authentication import LOOK_S, Authentication, ZapInlet
from meshcache.sockets.context import open_context
from meshcache.sockets.curve import new_pair
from meshcache.sockets.options import REQUESTS_DOMAIN, STREAM_DOMAIN

ADDRESS = "192.0.2.1"
ALLOWED, REFUSED, FAILED = b"200", b"400", b"500"


@dataclass
class Door:
    """An authentication with keys of its own, and what it wrote to the log."""

    keys: Path
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    now: float = 100.0

    def open(self, node_id: str = "n1", **settings: object) -> Authentication:
        config = Config.from_tables(node={"id": node_id}, security=security(self.keys, **settings))
        self.authentication = Authentication(config, lambda event, **fields: self.told.append((event, fields)))
        self.authentication.look(self.now)
        return self.authentication

    def public(self, name: str) -> str:
        return read_secret_key(self.keys / f"{name}.secret", "node", "client").public

    def pub_file(self, name: str) -> Path:
        return self.keys / "allowed" / f"{name}.pub"

    def look(self) -> bool:
        self.now += LOOK_S
        return self.authentication.look(self.now)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.told if event == name]


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(make_keys(tmp_path, "n1", "n2", web="read,write", reader="read", writer="write", users="read users:"))


# -- who is let in -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", [REQUESTS_DOMAIN, STREAM_DOMAIN])
@pytest.mark.parametrize("name", ["n1", "n2", "web", "reader", "writer", "users"])
def test_whose_key_is_allowed_is_let_in_but_not_to_hear_of_keys_that_it_may_not_read(
    door: Door, name: str, domain: bytes
) -> None:
    authentication, public = door.open(), door.public(name)
    status, _, user = authentication.judge(domain, ADDRESS, b"CURVE", public)
    if domain == STREAM_DOMAIN and name in {"writer", "users"}:
        assert (status, user, authentication.refused) == (REFUSED, "", 1)
    else:
        assert (status, user, authentication.refused) == (ALLOWED, public, 0)
        assert authentication.who(user).name == name


@pytest.mark.parametrize("domain", [b"", b"other", b"MESHCACHE", b"meshcache\0", b"\xff" * 255])
@pytest.mark.parametrize("permissive", [False, True])
def test_by_an_unknown_domain_nobody_is_let_in(door: Door, domain: bytes, permissive: bool) -> None:
    authentication = door.open(permissive=permissive)
    for mechanism in (b"CURVE", b"NULL"):
        assert authentication.judge(domain, ADDRESS, mechanism, door.public("n1"))[0] == REFUSED
    assert authentication.refused == 2


@pytest.mark.parametrize("mechanism", [b"", b"NULL", b"PLAIN", b"GSSAPI", b"curve", b"CURVE\0"])
def test_without_curve_nobody_is_let_in(door: Door, mechanism: bytes) -> None:
    authentication = door.open()
    assert authentication.judge(REQUESTS_DOMAIN, ADDRESS, mechanism, door.public("n1"))[0] == REFUSED
    (event,) = door.events("key_refused")
    assert event["why"] == "it brought no key"
    assert event["peer"] == ADDRESS


@pytest.mark.parametrize("mechanism", [b"", b"PLAIN", b"GSSAPI", b"null"])
def test_while_a_mesh_changes_over_who_brings_no_key_is_let_in(door: Door, mechanism: bytes) -> None:
    authentication = door.open(permissive=True)
    assert authentication.judge(REQUESTS_DOMAIN, ADDRESS, mechanism, "")[0] == REFUSED
    assert authentication.judge(REQUESTS_DOMAIN, ADDRESS, b"NULL", "") == (ALLOWED, "", "")
    assert authentication.judge(REQUESTS_DOMAIN, ADDRESS, b"CURVE", new_pair().public)[0] == REFUSED
    assert authentication.refused == 2
    assert authentication.nodes is None
    assert authentication.who("") is ANYBODY
    assert authentication.who(new_pair().public) is NOBODY


def test_a_key_that_is_not_allowed_is_refused_and_named(door: Door) -> None:
    authentication, key = door.open(), new_pair().public
    assert authentication.judge(REQUESTS_DOMAIN, ADDRESS, b"CURVE", key) == (REFUSED, "refused", "")
    assert door.events("key_refused") == [
        {"peer": ADDRESS, "why": "its key is not among those allowed", "key": key},
    ]
    assert authentication.who(key) is authentication.who("") is NOBODY
    assert authentication.nodes == frozenset({"n1", "n2"})


# -- what libzmq asks --------------------------------------------------------------------------------------


@pytest.fixture
def asked(door: Door) -> Iterator[tuple[Door, ZapInlet, zmq.Socket[bytes]]]:
    context = open_context()
    door.open()
    inlet = ZapInlet(context, door.authentication)
    asking = context.socket(zmq.DEALER)
    asking.connect("inproc://zeromq.zap.01")
    yield door, inlet, asking
    context.destroy(linger=0)


def answer(inlet: ZapInlet, asking: zmq.Socket[bytes], *parts: bytes) -> list[bytes]:
    asking.send_multipart([b"", *parts])
    eventually(lambda: inlet.drain(0.0) or asking.poll(0))
    return asking.recv_multipart()[1:]


def question(key: bytes, *, mechanism: bytes = b"CURVE", domain: bytes = REQUESTS_DOMAIN) -> list[bytes]:
    return [b"1.0", b"1", domain, ADDRESS.encode(), b"", mechanism, key]


def test_a_question_is_answered_as_zap_says(asked: tuple[Door, ZapInlet, zmq.Socket[bytes]]) -> None:
    door, inlet, asking = asked
    public = door.public("web")
    raw = z85.decode(public)
    assert answer(inlet, asking, *question(raw)) == [b"1.0", b"1", ALLOWED, b"", public.encode(), b""]
    assert answer(inlet, asking, *question(bytes(32))) == [b"1.0", b"1", REFUSED, b"refused", b"", b""]


def test_whatever_is_wrong_with_a_question_nobody_is_let_in(asked: tuple[Door, ZapInlet, zmq.Socket[bytes]]) -> None:
    door, inlet, asking = asked
    good = question(z85.decode(door.public("web")))
    odd = [good[:length] for length in range(1, len(good))]
    odd += [[*good, b"more"], question(b""), question(b"x"), question(bytes(33)), question(b"\xff" * 31)]
    odd += [question(good[-1], domain=b"\xff"), question(good[-1], mechanism=b"\xff" * 100)]
    for number, parts in enumerate(odd, 1):
        assert answer(inlet, asking, *parts)[2] in {REFUSED, FAILED}, parts
        assert door.authentication.refused == number
    assert answer(inlet, asking, *good)[2] == ALLOWED


def test_an_error_while_judging_lets_nobody_in(
    asked: tuple[Door, ZapInlet, zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    door, inlet, asking = asked

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(door.authentication, "judge", fail)
    assert answer(inlet, asking, *question(z85.decode(door.public("web"))))[2:4] == [FAILED, b"failed"]
    assert door.authentication.refused == 1


# -- the directory -----------------------------------------------------------------------------------------


def test_a_key_may_be_added_and_taken_back_while_the_node_runs(door: Door) -> None:
    authentication = door.open()
    assert not door.look()
    path, public = door.pub_file("web"), door.public("web")
    line = path.read_text()
    path.unlink()
    assert door.look()
    assert authentication.who(public) is NOBODY
    assert authentication.judge(REQUESTS_DOMAIN, ADDRESS, b"CURVE", public)[0] == REFUSED
    path.write_text(line)
    assert door.look()
    assert authentication.judge(REQUESTS_DOMAIN, ADDRESS, b"CURVE", public)[0] == ALLOWED
    assert [(event["gone"], event["new"]) for event in door.events("allow_list_read")] == [
        (["client web"], []),
        ([], ["client web"]),
    ]


def test_changed_rights_hold_from_the_next_look_on(door: Door) -> None:
    authentication = door.open()
    path = door.pub_file("web")
    path.write_text(path.read_text().replace("read,write", "read"))
    assert door.look()
    assert str(authentication.who(door.public("web")).rights) == "Rights.READ"


def test_the_directory_is_not_looked_at_more_often_than_it_must_be(door: Door) -> None:
    authentication = door.open()
    door.pub_file("web").unlink()
    assert not authentication.look(door.now)
    assert not authentication.look(door.now + LOOK_S / 2)
    assert authentication.look(door.now + LOOK_S)


def test_a_broken_line_is_named_and_the_others_hold(door: Door) -> None:
    authentication = door.open()
    door.pub_file("web").write_text("client web\n")
    assert door.look()
    assert authentication.who(door.public("web")) is NOBODY
    assert authentication.who(door.public("reader")).name == "reader"
    (event,) = door.events("allow_line_refused")
    assert f"{door.pub_file('web')}:1: " in event["error"]
    assert len(authentication.allowed.problems) == 1


def test_where_the_directory_is_gone_what_was_read_last_stays_in_force(door: Door) -> None:
    authentication, folder = door.open(), door.keys / "allowed"
    folder.rename(door.keys / "elsewhere")
    for _ in range(3):
        assert not door.look()
    assert authentication.who(door.public("web")).name == "web"
    assert len(door.events("allow_list_unreadable")) == 1
    (door.keys / "elsewhere" / "web.pub").unlink()
    (door.keys / "elsewhere").rename(folder)
    assert door.look()
    assert authentication.who(door.public("web")) is NOBODY


def test_who_may_be_a_member_follows_the_directory(door: Door) -> None:
    authentication = door.open()
    door.pub_file("n2").unlink()
    assert door.look()
    assert authentication.nodes == frozenset({"n1"})


# -- the node's own key ------------------------------------------------------------------------------------


def refusal(door: Door, **settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        door.open(**settings)  # type: ignore[arg-type]  # the id, too
    return str(caught.value)


def test_a_node_with_the_key_of_another_does_not_start(door: Door) -> None:
    told = refusal(door, key_file=str(door.keys / "n2.secret"))
    assert "n2.secret: is the key of node 'n2', and this is 'n1'" in told


def test_a_node_with_the_key_of_a_client_or_the_mesh_does_not_start(door: Door) -> None:
    for name, kind in (("web", "client"), ("mesh", "mesh")):
        assert f"is the key of a '{kind}'" in refusal(door, key_file=str(door.keys / f"{name}.secret"))


def test_a_node_that_its_own_list_does_not_allow_does_not_start_and_says_which_line_is_missing(door: Door) -> None:
    path = door.pub_file("n1")
    line = path.read_text()
    for other in ("", line.replace("n1", "n3"), f"client n1 {door.public('n1')} read\n"):
        path.write_text(other)
        assert f"add this line to a file there: {line.strip()}" in refusal(door)
    path.write_text(line)
    assert read_allowed_keys(door.keys / "allowed").problems == ()
    door.open()


def test_a_node_without_its_key_file_or_its_directory_does_not_start(door: Door) -> None:
    assert "No such file" in refusal(door, key_file="none.secret")
    assert "cannot be read" in refusal(door, allowed_keys_dir=str(door.keys / "none"))
