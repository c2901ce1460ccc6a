"""HTTP of a node, without the node: what each request gets, and what those get who keep no rule."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from meshcache.config import HttpSettings
from meshcache.errors import ConfigError
from meshcache.metrics.exposition import OPENMETRICS, PLAIN, Exposition
from meshcache.metrics.families import FAMILIES, rows
from meshcache.node import http
from meshcache.node.endpoints import Endpoints
from meshcache.node.http import HttpServer, Request, Response
from meshcache.node.pulse import Pulse

WAIT_S = 10.0
HOST = "127.0.0.1"
SNAPSHOT: dict[str, Any] = {"entries": 3, "hits": 5, "ready": {"is_ready": True, "waits_for": []}}


def eventually(condition: Callable[[], Any]) -> Any:
    """Return the first true value of ``condition``; fail if there is none in time."""
    deadline, pause = time.monotonic() + WAIT_S, threading.Event()
    while time.monotonic() < deadline:
        if value := condition():
            return value
        pause.wait(0.01)
    raise AssertionError("it did not come true in time")


def echo(request: Request, now: float) -> Response:
    return Response(200, json.dumps({"path": request.path, "accept": request.accept}).encode())


def listener() -> socket.socket:
    bound = socket.create_server((HOST, 0))
    bound.setblocking(False)
    return bound


@contextlib.contextmanager
def serving(answer: http.Answer = echo, **settings: Any) -> Iterator[HttpServer]:
    served = HttpServer(listener(), HttpSettings(**settings), answer, "http")
    served.start()
    try:
        yield served
    finally:
        served.close()


class Visitor:
    """A connection that says bytes, and reads answers."""

    def __init__(self, served: HttpServer, *said: bytes) -> None:
        host, _, port = served.address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=WAIT_S)
        self.file = self.socket.makefile("rb")
        for part in said:
            self.socket.sendall(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()
        self.socket.close()

    def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Read one answer: status, headers and body."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, self.file.read(int(headers["content-length"])) if has_body else b""

    def is_cut(self) -> bool:
        """Wait for the end of the connection."""
        try:
            return self.file.read(1) == b""
        except ConnectionError:
            return True


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


# -- requests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/a/b", "/a/b?c=d", "http://elsewhere/a/b"])
def test_a_request_is_answered_by_its_path(target: str) -> None:
    with serving() as served, Visitor(served, get(target, "Accept: text/html")) as visitor:
        status, headers, body = visitor.answer()
        assert (status, json.loads(body)) == (200, {"path": "/a/b", "accept": "text/html"})
        assert headers["content-type"] == "application/json"
        assert headers["cache-control"] == "no-store"
        assert not [name for name in headers if name.startswith("access-control")]


def test_a_connection_serves_one_request_after_the_other() -> None:
    with serving() as served, Visitor(served) as visitor:
        for number in range(3):
            visitor.socket.sendall(get(f"/{number}"))
            assert json.loads(visitor.answer()[2])["path"] == f"/{number}"
        assert served.answered == {200: 3}


def test_requests_sent_at_once_are_answered_in_their_order_however_many() -> None:
    count = 300
    with serving() as served, Visitor(served, b"".join(get(f"/{n}") for n in range(count))) as visitor:
        assert [json.loads(visitor.answer()[2])["path"] for _ in range(count)] == [f"/{n}" for n in range(count)]


def test_a_request_may_come_in_pieces() -> None:
    with serving() as served, Visitor(served) as visitor:
        for byte in get("/slowly"):
            visitor.socket.sendall(bytes([byte]))
        assert json.loads(visitor.answer()[2])["path"] == "/slowly"


def test_head_is_get_without_a_body() -> None:
    with serving() as served, Visitor(served, get("/a", method="HEAD"), get("/bc")) as visitor:
        head = visitor.answer(has_body=False)
        whole = visitor.answer()
        assert (head[0], int(head[1]["content-length"]) + 1) == (200, len(whole[2]))


def test_a_connection_ends_where_the_request_says_so_or_is_of_http_1_0() -> None:
    for said in (get("/", "Connection: close"), b"GET / HTTP/1.0\r\n\r\n"):
        with serving() as served, Visitor(served, said) as visitor:
            assert visitor.answer()[0] == 200
            assert visitor.is_cut()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
def test_another_method_is_refused_and_told_which_there_are(method: str) -> None:
    with serving() as served, Visitor(served, get("/health", method=method)) as visitor:
        status, headers, body = visitor.answer()
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        assert set(json.loads(body)) == {"error", "detail"}
        assert method in json.loads(body)["detail"]


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        get("http://[x/"),
        get("/", "Content-Length: x"),
    ],
    ids=["noise", "no target", "no host", "no url", "no length"],
)
def test_what_is_no_request_gets_400_and_an_end(said: bytes) -> None:
    with serving() as served, Visitor(served, said) as visitor:
        status, _, body = visitor.answer()
        assert (status, set(json.loads(body))) == (400, {"error", "detail"})


@pytest.mark.parametrize(
    "said",
    [
        get("/", *[f"X-{n}: {'a' * 100}" for n in range(1000)]),
        get("/" + "a" * 100_000),
        b"GET / HTTP/1.1\r\nHost: " + b"a" * 100_000,
    ],
    ids=["headers", "target", "endless header"],
)
def test_a_head_that_is_too_long_gets_431_and_an_end(said: bytes) -> None:
    with serving() as served, Visitor(served) as visitor:
        with contextlib.suppress(ConnectionError):
            visitor.socket.sendall(said)
        assert visitor.answer()[0] == 431
        assert visitor.is_cut()


@pytest.mark.parametrize("how", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
def test_a_body_is_not_waited_for(how: str) -> None:
    with serving() as served, Visitor(served, get("/", how)) as visitor:
        status, headers, _ = visitor.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert visitor.is_cut()


def test_what_cannot_be_answered_yet_is_answered_when_it_is_told() -> None:
    may = threading.Event()

    def answer(request: Request, now: float) -> Response | None:
        return echo(request, now) if request.path == "/at_once" or may.is_set() else None

    with serving(answer) as served, Visitor(served, get("/later")) as first, Visitor(served, get("/at_once")) as second:
        assert second.answer()[0] == 200
        may.set()
        assert json.loads(first.answer()[2])["path"] == "/later"


# -- bounds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"GET / HT", get("/")[:-2]], ids=["line", "headers"])
def test_who_does_not_end_a_request_gets_408_and_is_cut(said: bytes) -> None:
    with serving(request_timeout_s=0.2) as served, Visitor(served, said) as visitor:
        began = time.monotonic()
        assert visitor.answer()[0] == 408
        assert time.monotonic() - began >= 0.15
        assert visitor.is_cut()
        assert eventually(lambda: served.cut) == 1


def test_bytes_that_trickle_win_no_time() -> None:
    with serving(request_timeout_s=0.3) as served, Visitor(served) as visitor:
        with contextlib.suppress(ConnectionError):
            eventually(lambda: (visitor.socket.sendall(b"G"), served.cut)[1])  # type: ignore[func-returns-value]
        assert served.cut == 1


def test_who_says_nothing_is_cut() -> None:
    with serving(request_timeout_s=0.2) as served, Visitor(served) as visitor:
        assert visitor.is_cut()
        assert served.answered == {}


def test_who_does_not_read_its_answer_is_cut() -> None:
    large = Response(200, b"x" * 30_000_000)
    with serving(lambda *_: large, request_timeout_s=0.2) as served, Visitor(served, get("/")):
        assert eventually(lambda: served.cut) == 1


def test_beyond_the_bound_the_one_goes_that_kept_it_waiting_longest() -> None:
    with serving(connections_max=3) as served, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Visitor(served, b"GET")) for _ in range(3)]
        eventually(lambda: len(served._connections) == 3 and all(one.began for one in served._connections))
        with Visitor(served, get("/")) as honest:
            assert honest.answer()[0] == 200
            assert slow[0].is_cut()
            for other in slow[1:]:
                other.socket.sendall(b" / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert other.answer()[0] == 200


def test_two_hundred_that_never_end_their_requests_keep_nobody_out() -> None:
    with serving(request_timeout_s=1.0) as served, contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(Visitor(served, b"GET / HTTP/1.1\r\nX: ")) for _ in range(200)]
        with Visitor(served, get("/health")) as honest:
            assert honest.answer()[0] == 200
        assert len(served._connections) <= HttpSettings().connections_max
        eventually(lambda: served.cut == len(crowd))


def test_those_who_wait_for_the_node_are_not_cut_for_others() -> None:
    with serving(lambda *_: None, connections_max=2) as served, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Visitor(served, get("/")))
        eventually(lambda: sum(not one.owes for one in served._connections) == 2)
        before = list(served._connections)
        with Visitor(served, get("/")) as third:
            assert third.is_cut()
            assert list(served._connections) == before
            assert served.cut == 1


def test_it_rests_after_its_work() -> None:
    def answer(request: Request, now: float) -> Response:
        until = time.thread_time() + 0.002
        while time.thread_time() < until:
            pass
        return echo(request, now)

    count = 30
    with serving(answer) as served, Visitor(served, get("/") * count) as visitor:
        began = time.monotonic()
        for _ in range(count):
            visitor.answer()
        assert time.monotonic() - began > (count - 1) * 0.002 / http.WORK_SHARE * 0.9


def test_its_port_is_free_when_it_is_closed_whether_it_began_or_not() -> None:
    served = HttpServer(listener(), HttpSettings(), echo, "http")
    with pytest.raises(ConfigError, match=r"node.http: cannot listen on .*in use"):
        http.listen(served.address)
    served.close()
    again = HttpServer(http.listen(served.address), HttpSettings(), echo, "http")
    again.start()
    with Visitor(again, get("/")) as visitor:
        assert visitor.answer()[0] == 200
        again.close()
        assert visitor.is_cut()
    http.listen(served.address).close()


# -- endpoints --------------------------------------------------------------------------------------------


class Mesh:
    """The endpoints of a node whose loop does what the test says."""

    def __init__(self, stall_s: float = 5.0) -> None:
        self.asked = 0
        self.pulse = Pulse(self._woken)
        self.endpoints = Endpoints(self.pulse, stall_s)
        self.on_wake: Callable[[], None] = lambda: None
        self.snapshot: dict[str, Any] = SNAPSHOT

    def _woken(self) -> None:
        self.asked += 1
        self.on_wake()

    def tell(self) -> None:
        self.pulse.turned_at = time.monotonic()
        self.pulse.tell(lambda: dict(self.snapshot))

    def get(self, path: str, accept: str = "", waited_s: float = 0.0) -> tuple[int, Any] | None:
        now = time.monotonic()
        response = self.endpoints.answer(Request(path, accept, now - waited_s), now)
        if response is None:
            return None
        is_json = response.content_type == "application/json"
        return response.status, json.loads(response.body) if is_json else response.body.decode()


def test_health_is_that_of_the_loop_and_not_of_the_thread() -> None:
    mesh = Mesh(stall_s=1.0)
    status, body = mesh.get("/health") or (0, {})
    assert (status, body["status"]) == (200, "healthy")
    assert abs(body["timestamp"] - time.time() * 1000) < 60_000
    assert mesh.asked == 0
    mesh.pulse.turned_at -= 1.5
    assert mesh.get("/health") is None
    assert mesh.asked == 1
    status, body = mesh.get("/health", waited_s=1.0) or (0, {})
    assert (status, body["status"]) == (503, "unhealthy")
    assert "1.5 s" in body["reason"]


def test_a_loop_that_slept_with_its_process_is_healthy_once_it_turns() -> None:
    mesh = Mesh(stall_s=1.0)
    mesh.pulse.turned_at -= 100
    assert mesh.get("/health") is None
    mesh.tell()
    assert (mesh.get("/health") or (0,))[0] == 200


@pytest.mark.parametrize("path", ["/ready", "/stats", "/metrics"])
def test_a_loop_that_does_not_tell_is_not_waited_for_for_long(path: str) -> None:
    mesh = Mesh()
    assert mesh.get(path) is None
    assert mesh.asked == 1
    status, body = mesh.get(path, waited_s=2.0) or (0, {})
    assert (status, set(body)) == (503, {"error", "detail"})


def test_what_was_told_is_told_again_for_a_moment_only() -> None:
    mesh = Mesh()
    mesh.tell()
    assert mesh.get("/stats") == (200, SNAPSHOT)
    assert mesh.asked == 0
    assert mesh.pulse.told is not None
    mesh.pulse.told = mesh.pulse.told._replace(at=mesh.pulse.told.at - 1)
    assert mesh.get("/stats") is None
    assert mesh.asked == 1


def test_ready_says_what_it_waits_for() -> None:
    mesh = Mesh()
    mesh.tell()
    assert mesh.get("/ready") == (200, {"status": "ready"})
    mesh.snapshot = {"ready": {"is_ready": False, "waits_for": ["this", "that"]}}
    mesh.tell()
    assert mesh.get("/ready") == (503, {"status": "not ready", "reason": "this; that"})


def test_metrics_are_put_into_text_once_for_a_snapshot_and_a_form() -> None:
    mesh, rendered = Mesh(), list[str]()
    mesh.tell()
    render = mesh.endpoints._exposition.render

    def counted(snapshot: dict[str, Any], form: str) -> tuple[bytes, str]:
        rendered.append(form)
        return render(snapshot, form)

    mesh.endpoints._exposition.render = counted  # type: ignore[method-assign]
    for _ in range(3):
        for accept in ("", "application/openmetrics-text; version=1.0.0", "application/openmetrics-text;version=1.0.1"):
            mesh.get("/metrics", accept)
    assert rendered == [PLAIN, OPENMETRICS]
    mesh.tell()
    assert "cache_entries 3.0" in (mesh.get("/metrics") or (0, ""))[1]
    assert len(rendered) == 3


@pytest.mark.parametrize(
    "path", ["", "/", "/healthz", "/health/", "//health", "/../health", "/%68ealth", "/metrics%00"]
)
def test_another_path_is_not_found(path: str) -> None:
    status, body = Mesh().get(path) or (0, {})
    assert (status, set(body)) == (404, {"error", "detail"})


# -- metrics ----------------------------------------------------------------------------------------------


def test_each_form_is_given_to_who_asks_for_it() -> None:
    exposition = Exposition()
    for accept in ("", "*/*", "text/plain", "text/html, text/plain;version=0.0.4", "application/openmetrics", "=;,;="):
        text, kind = exposition.render(SNAPSHOT, exposition.form_of(accept))
        assert kind.startswith("text/plain; version=0.0.4")
        assert {family.name for family in parse(text.decode())} >= {"cache_entries", "cache_hits"}
    for accept in ("application/openmetrics-text", "application/openmetrics-text; version=x, text/plain"):
        text, kind = exposition.render(SNAPSHOT, exposition.form_of(accept))
        assert kind.startswith("application/openmetrics-text")
        found = list(parse_openmetrics(text.decode()))  # type: ignore[no-untyped-call]
        assert {family.name for family in found} >= {"cache_entries", "cache_hits"}


def test_others_may_have_the_interpreter_after_each_family() -> None:
    pauses: list[int] = []
    text, _ = Exposition(pause=lambda: pauses.append(1)).render(SNAPSHOT, PLAIN)
    assert len(pauses) == text.count(b"# TYPE") > 2


def test_a_histogram_is_cumulative_and_labels_lead_to_it() -> None:
    told = {"duration_s": {"read": {"bounds": [0.1, 1.0], "counts": [4, 2, 1], "sum": 3.5}}}
    text, _ = Exposition().render({"operations": told}, PLAIN)
    (family,) = parse(text.decode())
    samples = {(sample.name.rpartition("_")[2], sample.labels.get("le")): sample.value for sample in family.samples}
    assert samples == {
        ("bucket", "0.1"): 4,
        ("bucket", "1.0"): 6,
        ("bucket", "+Inf"): 7,
        ("sum", None): 3.5,
        ("count", None): 7,
    }
    assert {sample.labels["kind"] for sample in family.samples} == {"read"}


def test_names_follow_the_conventions() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names) == len(rows())
    for family in FAMILIES:
        assert family.name.startswith(("cache_", "meshcache_", "process_")), family
        assert family.name.endswith("_total") == (family.kind == "counter"), family
        assert not family.name.endswith(("_ms", "_us", "_s", "_kb", "_mb")), family
        assert family.text.endswith("."), family
