"""A mesh with keys, as real processes: who is kept out, from what, and that all else works as without keys."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq
from keys_made import make_keys, security
from test_server import Caller, free_port
from timing import DELAY_S_MAX, eventually

from meshcache import AsyncClient, AuthFailed, Client, Config, ConfigError, LocalMesh, MeshcacheError, Node
from meshcache.core.membership.members import first_incarnation
from meshcache.keys import SecretKey, read_secret_key
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Code, Fact
from meshcache.protocol.wire import encode_frame
from meshcache.sockets.curve import dialling, new_pair
from meshcache.sockets.options import set_options

pytestmark = pytest.mark.process

CONNECT_S = 2.0
LARGE = 1 << 20


@dataclass
class Secured:
    """A mesh of three nodes with keys, and a client with all rights."""

    mesh: LocalMesh
    keys: Path
    admin: Client

    def path(self, name: str) -> str:
        return str(self.keys / f"{name}.secret")

    def client(self, name: str, **options: Any) -> Client:
        return self.mesh.client(key_file=self.path(name), **options)

    def log(self) -> list[dict[str, Any]]:
        lines = [line for node_id in self.mesh.pids for line in self.mesh.log(node_id).splitlines()]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def events(self, name: str, **fields: object) -> list[dict[str, Any]]:
        return [one for one in self.log() if one["event"] == name and fields.items() <= one.items()]

    def counted(self, name: str) -> int:
        """A counter of all nodes together."""
        told = [self.admin.inspect("stats", node=address) for address in self.mesh.addresses]
        return sum(int(one["node"][name]) for one in told)

    def members(self) -> list[str]:
        """The ids of those who are in the mesh."""
        members = self.admin.inspect("status")["members"]
        return sorted(one["node_id"] for one in members if one["state"] in {"alive", "suspect"})


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    clients = {
        "admin": "read,write,admin",
        "reader": "read",
        "writer": "write",
        "web": "read,write",
        "users": "read,write,admin users:",
        "revoked": "read,write",
    }
    keys = make_keys(tmp_path_factory.mktemp("secured"), "node1", "node2", "node3", "node4", **clients)
    tables: dict[str, Any] = {"security": security(keys), "log": {"format": "json"}}
    with LocalMesh(nodes=3, **tables) as made:
        yield Secured(made, keys, made.client(key_file=str(keys / "admin.secret")))


def is_refused(call: Callable[[], object]) -> str:
    """Have a call refused by its type, in no more time than a connection may take; return the reason."""
    began = time.monotonic()
    with pytest.raises(AuthFailed) as caught:
        call()
    assert isinstance(caught.value, PermissionError)
    assert time.monotonic() - began < CONNECT_S + DELAY_S_MAX
    return str(caught.value)


def is_refused_awaited(seeds: list[str], call: Callable[[AsyncClient], Any], key_file: str) -> str:
    async def run() -> None:
        async with AsyncClient(seeds, key_file=key_file) as cache:
            await call(cache)

    return is_refused(lambda: asyncio.run(run()))


# -- who is not let in -------------------------------------------------------------------------------------


@pytest.fixture
def strange(mesh: Secured, tmp_path: Path) -> str:
    """A key of the right form that no node knows."""
    known = read_secret_key(mesh.path("web"), "client")
    pair = new_pair()
    path = tmp_path / "strange.secret"
    text = Path(mesh.path("web")).read_text().replace(known.public, pair.public).replace(known.secret, pair.secret)
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def test_without_a_key_nobody_is_served(mesh: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHCACHE_KEY_FILE", raising=False)
    with Client(mesh.mesh.addresses) as cache:
        assert "key" in is_refused(lambda: cache.get("k"))
    assert "key" in is_refused_awaited(mesh.mesh.addresses, lambda cache: cache.get("k"), "")


def test_by_a_key_that_is_not_allowed_nobody_is_served(mesh: Secured, strange: str) -> None:
    before = mesh.counted("keys_refused")
    with Client(mesh.mesh.addresses, key_file=strange) as cache:
        assert "not among its allowed keys" in is_refused(lambda: cache.set("k", 1))
    assert "allowed keys" in is_refused_awaited(mesh.mesh.addresses, lambda cache: cache.set("k", 1), strange)
    eventually(lambda: mesh.counted("keys_refused") >= before + 2)
    public = read_secret_key(strange, "client").public
    assert mesh.events("key_refused", key=public, why="its key is not among those allowed")


def test_by_a_key_of_another_mesh_nobody_is_served(mesh: Secured, tmp_path: Path) -> None:
    other = make_keys(tmp_path, web="read,write")
    with Client(mesh.mesh.addresses, key_file=other / "web.secret") as cache:
        assert "another mesh key" in is_refused(lambda: cache.get("k"))


def test_a_key_that_is_taken_back_ends_open_connections_and_lets_nobody_in_again(mesh: Secured) -> None:
    cache, path = mesh.client("revoked"), mesh.keys / "allowed" / "revoked.pub"
    for number in range(20):
        cache.set(f"k{number}", 1)
    cut = mesh.counted("connections_cut")
    path.rename(path.with_suffix(".off"))
    began = time.monotonic()

    def is_out() -> bool:
        try:
            for number in range(20):
                cache.get(f"k{number}")
        except AuthFailed:
            return True
        except MeshcacheError:
            return False  # cut at some nodes, not yet at all
        return False

    eventually(is_out)
    assert time.monotonic() - began < 2.0 + DELAY_S_MAX
    assert mesh.events("connection_cut", why="its key is allowed no more")
    eventually(lambda: mesh.counted("connections_cut") > cut)  # counters are brought up to date a moment later
    path.with_suffix(".off").rename(path)
    eventually(lambda: served(cache))


def served(cache: Client) -> bool:
    try:
        cache.set("k", 1)
    except MeshcacheError:
        return False
    return True


# -- who says that it is a node ----------------------------------------------------------------------------


class Raw(Caller):
    """A client made of one bare DEALER, with a key."""

    def __init__(self, address: str, key: SecretKey) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        set_options(self.socket, dialling(key))
        self.socket.connect(f"tcp://{address}")
        self.number = 0
        self.welcome = self.exchange(m.Hello(m.PROTOCOL, "", None, b""))


def member(node_id: str) -> Fact:
    wall_ms = time.time_ns() // 1_000_000
    return Fact(node_id, "127.0.0.1:9", "", "", "h", "", 1.0, wall_ms << 16, first_incarnation(wall_ms), 0)


@pytest.mark.parametrize(("name", "says"), [("admin", "node4"), ("admin", "x"), ("node4", "node2"), ("node4", "x")])
def test_nobody_is_a_node_but_by_that_nodes_own_key(mesh: Secured, name: str, says: str) -> None:
    raw = Raw(mesh.mesh.addresses[0], read_secret_key(mesh.path(name), "client", "node"))
    members = mesh.members()
    before = mesh.counted("forbidden")
    refused = raw.exchange(m.Hello(m.PROTOCOL, "meshcache", member(says), b""))
    assert isinstance(refused, m.Refused)
    assert refused.code == "key"
    raw.socket.send(encode_frame(0, [m.Ping(1, says, b"", True, [])]))
    raw.socket.send(encode_frame(0, [m.Gossip([m.Rumour(member("ghost"), [])])]))
    reply = raw.exchange(m.Read(*raw.head(), [b"k"]))
    if name == "admin":
        assert isinstance(reply, m.Reject)
        assert reply.error[0] == Code.FORBIDDEN
    raw.close()
    assert mesh.counted("forbidden") - before >= 2
    assert mesh.events("forbidden", request="hello")
    assert mesh.members() == members


# -- rights ------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("reader", "write", lambda cache: cache.set("k", 1)),
    ("reader", "write", lambda cache: cache.delete("k")),
    ("reader", "write", lambda cache: cache.incr("n")),
    ("reader", "write", lambda cache: cache.add("k", 1)),
    ("reader", "write", lambda cache: cache.touch("k", ttl=5)),
    ("reader", "write", lambda cache: cache.invalidate("k")),
    ("reader", "write", lambda cache: cache.invalidate_tags("t")),
    ("reader", "write", lambda cache: cache.lock("job", ttl=5).acquire()),
    ("reader", "admin", lambda cache: cache.clear()),
    ("web", "admin", lambda cache: cache.clear()),
    ("web", "admin", lambda cache: cache.inspect("explain", "k")),
    ("web", "admin", lambda cache: cache.inspect("stats")),
    ("writer", "read", lambda cache: cache.get("k")),
    ("writer", "read", lambda cache: cache.get_many(["k"])),
    ("writer", "read", lambda cache: cache.incr("n")),
    ("users", "confined", lambda cache: cache.get("orders:1")),
    ("users", "confined", lambda cache: cache.get_many(["users:1", "orders:1"])),
    ("users", "confined", lambda cache: cache.set("orders:1", 1)),
    ("users", "confined", lambda cache: cache.delete("orders:1")),
    ("users", "confined", lambda cache: cache.incr("orders:n")),
    ("users", "confined", lambda cache: cache.invalidate_tags("orders")),
    ("users", "confined", lambda cache: cache.clear()),
    ("users", "confined", lambda cache: cache.namespace("user").clear()),
]


@pytest.mark.parametrize(("name", "why", "call"), REFUSED)
def test_what_a_key_does_not_allow_is_refused_by_its_type_counted_and_logged(
    mesh: Secured, name: str, why: str, call: Callable[[Any], Any]
) -> None:
    mesh.admin.set_many({"k": "kept", "orders:1": "kept", "n": 5})
    before = mesh.counted("forbidden")
    assert why in is_refused(lambda: call(mesh.client(name)))
    assert why in is_refused_awaited(mesh.mesh.addresses, call, mesh.path(name))
    assert mesh.counted("forbidden") >= before + 2
    assert mesh.events("forbidden", key=f"client {name}")
    assert mesh.admin.get_many(["k", "orders:1", "n"]) == {"k": "kept", "orders:1": "kept", "n": 5}


def test_a_batch_that_may_not_be_written_is_refused_as_a_whole(mesh: Secured) -> None:
    with pytest.raises(AuthFailed):
        mesh.client("reader").set_many({"refused1": 1, "refused2": 2})
    assert mesh.admin.get_many(["refused1", "refused2"]) == {}


def test_who_may_not_hear_of_all_keys_is_told_so(mesh: Secured) -> None:
    for name in ("users", "writer"):
        assert "subscribe" in is_refused(lambda name=name: mesh.client(name).subscribe("users:").__enter__())  # type: ignore[misc]


def test_what_a_key_allows_is_done(mesh: Secured) -> None:
    users, reader, writer = mesh.client("users"), mesh.client("reader"), mesh.client("writer")
    users.set("users:1", "Ada", tags=["users:all"])
    assert users.get("users:1") == reader.get("users:1") == "Ada"
    writer.set("users:2", "Bob")
    assert users.get_many(["users:1", "users:2"]) == {"users:1": "Ada", "users:2": "Bob"}
    users.invalidate_tags("users:all")
    assert reader.get("users:1") is None
    users.namespace("users:").clear()
    assert reader.get("users:2") is None


# -- all else works as without keys ------------------------------------------------------------------------


def test_near_copies_streams_loaders_locks_and_large_batches_work(mesh: Secured) -> None:
    near = mesh.client("web", near_cache=True)
    writer = mesh.client("web")
    writer.set("near", 1)
    assert near.get("near") == near.get("near") == 1
    writer.set("near", 2)
    eventually(lambda: near.get("near") == 2)
    with mesh.client("reader").subscribe("seen:") as events:
        writer.set("seen:1", 1)
        assert next(iter(events)).key == "seen:1"
    assert writer.get_or_set("loaded", lambda: 7) == 7
    with writer.lock("job", ttl=5):
        assert not mesh.client("web").lock("job", ttl=5, timeout=0.2).acquire()
    values = {f"large{number}": os.urandom(LARGE) for number in range(8)}
    assert writer.set_many(values) == []
    assert writer.get_many(list(values)) == values


def test_the_command_line_takes_a_key_file(mesh: Secured) -> None:
    def run(*arguments: str, key_file: str | None = None) -> tuple[int, str, str]:
        environ = {key: value for key, value in os.environ.items() if key != "MESHCACHE_KEY_FILE"}
        environ |= {"MESHCACHE_KEY_FILE": key_file} if key_file else {}
        command = [sys.executable, "-m", "meshcache", "--at", ",".join(mesh.mesh.addresses), *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, done.stdout, done.stderr

    mesh.admin.set("shell", "yes")
    assert run("--key-file", mesh.path("reader"), "get", "shell") == (0, "yes\n", "")
    assert run("get", "shell", key_file=mesh.path("reader")) == (0, "yes\n", "")
    code, out, err = run("get", "shell")
    assert (code, out) == (2, "")
    assert "--key-file" in err
    code, out, err = run("set", "shell", "no", key_file=mesh.path("reader"))
    assert (code, out) == (2, "")
    assert "lacks the right to write" in err
    assert mesh.admin.get("shell") == "yes"


# -- nodes -------------------------------------------------------------------------------------------------


def node_config(keys: Path, seeds: list[str], node_id: str = "node4", **settings: object) -> Config:
    node = {"id": node_id, "listen": f"127.0.0.1:{free_port()}", "seeds": seeds}
    # It must not begin alone, as it would where its seeds are slow to refuse it.
    return Config.from_tables(node=node, security=security(keys, **settings), membership={"join_wait_s": 30.0})


def test_a_node_whose_key_nobody_allows_ends_with_the_reason(mesh: Secured, tmp_path: Path) -> None:
    """It allows itself, and has the right mesh key; the others do not know it."""
    path = mesh.keys / "allowed" / "node4.pub"
    own = tmp_path / "allowed"
    own.mkdir()
    (own / "all.pub").write_text("".join(file.read_text() for file in path.parent.glob("*.pub")))
    before = len(mesh.events("allow_list_read", keys=10))
    without = len(mesh.events("allow_list_read", keys=9))
    path.rename(path.with_suffix(".off"))
    eventually(lambda: len(mesh.events("allow_list_read", keys=9)) >= without + 3)
    config = node_config(mesh.keys, mesh.mesh.addresses, allowed_keys_dir=str(own))
    with pytest.raises(ConfigError, match="not among its allowed keys"):
        Node(config).start()
    path.with_suffix(".off").rename(path)
    eventually(lambda: len(mesh.events("allow_list_read", keys=10)) >= before + 3)


def test_a_node_of_another_mesh_ends_with_the_reason(mesh: Secured, tmp_path: Path) -> None:
    other = make_keys(tmp_path, "node4")
    with pytest.raises(ConfigError, match="another mesh key"):
        Node(node_config(other, mesh.mesh.addresses)).start()


def test_a_node_in_a_program_has_a_client_with_its_key_and_who_is_revoked_is_no_member(mesh: Secured) -> None:
    path = mesh.keys / "allowed" / "node4.pub"

    with Node(node_config(mesh.keys, mesh.mesh.addresses)) as node, node.client() as cache:
        mesh.admin.set("for all", 1)
        assert cache.get("for all") == 1
        eventually(lambda: mesh.members() == ["node1", "node2", "node3", "node4"])
        path.rename(path.with_suffix(".off"))
        eventually(lambda: mesh.members() == ["node1", "node2", "node3"])
        path.with_suffix(".off").rename(path)
        eventually(lambda: mesh.members() == ["node1", "node2", "node3", "node4"], timeout_s=20)
        eventually(lambda: served(cache))
    mesh.mesh.wait_ready()


def test_where_nobody_answers_who_may_come_in_nobody_comes_in(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "node4", web="read,write")
    with Node(node_config(keys, [])) as node:
        with node.client() as cache:
            cache.set("k", 1)
        assert node._server is not None
        (zap,) = [one for one in node._server._inlets._inlets.values() if type(one).__name__ == "ZapInlet"]
        done = threading.Event()
        looked = node._server.authentication.look  # type: ignore[union-attr]

        def close_it(now: float) -> bool:
            """In the node's own thread: a socket belongs to one."""
            if not done.is_set():
                node._server._inlets.remove(zap)  # type: ignore[union-attr]
                zap.socket.close(0)  # type: ignore[attr-defined]
                done.set()
            return looked(now)

        node._server.authentication.look = close_it  # type: ignore[union-attr,method-assign]
        assert done.wait(10)
        for name in ("web", "node4"):
            path = keys / f"{name}.secret"
            with Client(node.config.node.listen, key_file=path, timeout=1.0) as cache, pytest.raises(MeshcacheError):
                cache.get("k")


# -- changing over -----------------------------------------------------------------------------------------


class Load(threading.Thread):
    """Calls without pause, each of which must succeed."""

    def __init__(self, cache: Client) -> None:
        super().__init__(daemon=True)
        self.cache = cache
        self.calls = 0
        self.failed: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.002):
            self.calls += 1
            try:
                self.cache.set("load", self.calls, ttl=None)
                self.cache.get("load")
            except MeshcacheError as error:
                self.failed.append(repr(error))

    def end(self) -> None:
        self.ended.set()
        self.join(10)
        assert self.failed == []
        assert self.calls > 10


def test_a_mesh_changes_over_to_keys_while_it_serves(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "node1", "node2", "node3", web="read,write,admin")
    with LocalMesh(nodes=3, log={"format": "json"}) as mesh:

        def restart_all(**settings: object) -> None:
            options = [f"security.{name}={value}" for name, value in security(keys, **settings).items()]
            for node_id in list(mesh.pids):
                node = mesh._nodes[node_id]
                node._options = ["--set", "log.format=json", *[part for one in options for part in ("--set", one)]]
                mesh.restart(node_id)
                mesh.wait_ready()

        plain = Load(Client(mesh.addresses, key_file=""))
        plain.start()
        restart_all(permissive="true")
        keyed = Load(mesh.client(key_file=str(keys / "web.secret")))
        keyed.start()
        eventually(lambda: keyed.calls > 50)
        eventually(lambda: plain.cache.inspect("stats", node=mesh.addresses[0])["node"]["without_key"])
        plain.end()
        is_refused_later = plain.cache
        mesh._key_file = str(keys / "{id}.secret")  # until now some nodes had no key
        restart_all()
        keyed.end()
        assert "key" in is_refused(lambda: is_refused_later.get("load"))
        plain.cache.close()
