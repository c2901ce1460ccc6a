"""HTTP of real nodes: what they tell is true, also when their loops are stuck, and nothing of it gets in their way."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from test_server import config, free_port
from timing import DELAY_S_MAX, eventually

from meshcache import LocalMesh, Node
from meshcache.errors import ConfigError
from meshcache.metrics.families import FAMILIES
from meshcache.node.endpoints import TELL_WAIT_S, TURN_WAIT_S
from meshcache.protocol.messages import Fact

pytestmark = pytest.mark.process


def ask(port: int, path: str, method: str = "GET", *, host: str = "127.0.0.1", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def tells(port: int, path: str) -> Any:
    return json.loads(ask(port, path)[1])


def samples(port: int) -> dict[str, float]:
    """Return all metrics of a node, by name and labels."""
    return {
        sample.name + "".join(f"|{value}" for value in sample.labels.values()): sample.value
        for family in parse(ask(port, "/metrics")[1])
        for sample in family.samples
    }


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_node_tells_what_it_has_done() -> None:
    port = free_port()
    with Node(config(port, cluster={"replicas": 1})) as node, node.client() as cache:
        cache.set_many({f"k{n}": "v" for n in range(10)})
        cache.get_many([f"k{n}" for n in range(15)])
        cache.incr("n", 1, initial=0)
        cache.delete("k0")
        assert ask(port + 200, "/health")[0] == 200
        assert ask(port + 200, "/ready") == (200, '{"status": "ready"}')
        told = eventually(lambda: (found := tells(port + 200, "/stats"))["entries"] == 10 and found)
        assert (told["hits"], told["misses"], told["hitRate"]) == (10, 6, 0.625)
        assert told["store"]["entries"] == told["entries"]
        assert set(cache.inspect("stats")) < set(told)
        found = eventually(lambda: (found := samples(port + 200))["cache_entries"] == 10 and found)
        assert found["cache_hits_total"] == 10
        assert found["cache_hit_rate"] == 0.625
        for kind in ("get", "set", "update", "delete"):
            assert found[f"meshcache_requests_total|{kind}|answered"] == 1, kind
        assert found["meshcache_batch_keys_sum"] == 10 + 15 + 1 + 1
        assert found["meshcache_members|alive"] == 1
        assert found["meshcache_operation_duration_seconds_count|update"] == 1
        for name in ("requests_in", "answers_out"):
            assert found[f"meshcache_{name}_bytes_total"] > 100, name
        assert found["meshcache_loop_turn_seconds_count"] > 4
        assert 30_000_000 < found["process_resident_memory_bytes"] < 2_000_000_000


def test_every_metric_is_told_and_promtool_finds_nothing(tmp_path: Path) -> None:
    port = free_port()
    plain = config(port)
    node, snapshot = replace(plain.node, data_dir=str(tmp_path)), replace(plain.snapshot, enabled=True)
    door = replace(plain.memcached, listen=f"127.0.0.1:{free_port()}")
    with Node(replace(plain, node=node, snapshot=snapshot, memcached=door)):
        text = ask(port + 200, "/metrics")[1]
    told = {family.name for family in parse(text)}
    wanted = {family.name.removesuffix("_total" if family.kind == "counter" else "") for family in FAMILIES}
    # Nothing has been compared with others yet, and no snapshot was taken.
    assert wanted - told <= {"meshcache_comparison_age_seconds", "meshcache_snapshot_age_seconds"}
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_waiting_for_others_is_told_apart() -> None:
    ports = [free_port()]
    with LocalMesh(nodes=2) as mesh, mesh.client() as cache:
        ports = [int(address.rpartition(":")[2]) + 200 for address in mesh.addresses]
        for n in range(50):
            cache.set(f"k{n}", n)
        found = [samples(port) for port in ports]
        assert sum(one["meshcache_operation_duration_seconds_count|write"] for one in found) == 50
        for one in found:
            taken = one["meshcache_operation_duration_seconds_sum|write"]
            assert 0 < one["meshcache_operation_waiting_seconds_total|write"] <= taken
            assert one["meshcache_links|established"] == 1
            assert one["meshcache_requests_out_bytes_total"] > 0 < one["meshcache_answers_in_bytes_total"]
        assert len({one["meshcache_ring_fingerprint"] for one in found}) == 1
        mesh.kill("node2")
        eventually(lambda: samples(ports[0])["meshcache_members|dead"] == 1)
        found = [samples(ports[0])]
        assert found[0]["meshcache_links_down_total"] >= 1 <= found[0]["meshcache_suspicions_total"]


def test_a_node_that_waits_for_its_seed_is_healthy_and_not_ready() -> None:
    port = free_port()
    node = Node(config(port, seeds=[port + 1], membership={"join_wait_s": 60.0}))
    thread = threading.Thread(target=node.run)
    thread.start()
    try:
        eventually(lambda: not refuses(port + 200))
        assert ask(port + 200, "/health")[0] == 200
        status, text = ask(port + 200, "/ready")
        assert (status, "has not joined" in json.loads(text)["reason"]) == (503, True)
        assert samples(port + 200)["meshcache_ready"] == 0
    finally:
        node.stop()
        thread.join(10)
    assert refuses(port + 200)


def test_a_stuck_loop_is_unhealthy_and_well_again_when_it_turns() -> None:
    port = free_port()
    with Node(config(port, http={"stall_s": 0.5})) as node:
        server, may_go_on = node._server, threading.Event()
        assert server is not None
        tick = server.core.tick

        def stuck(now: float) -> None:
            may_go_on.wait(30)
            tick(now)

        server.core.tick = stuck  # type: ignore[method-assign]
        began = time.monotonic()
        try:
            text = eventually(lambda: (found := ask(port + 200, "/health"))[0] == 503 and found[1])
            assert json.loads(text)["status"] == "unhealthy"
            assert "has not turned" in json.loads(text)["reason"]
            assert ask(port + 200, "/metrics")[0] == ask(port + 200, "/ready")[0] == 503
            assert time.monotonic() - began < 0.5 + TURN_WAIT_S + 2 * TELL_WAIT_S + DELAY_S_MAX / 2
        finally:
            may_go_on.set()
        eventually(lambda: ask(port + 200, "/health")[0] == 200)


def test_an_idle_node_stays_healthy_however_small_the_limit() -> None:
    port = free_port()
    with Node(config(port, http={"stall_s": 0.001})):
        assert [ask(port + 200, "/health")[0] for _ in range(20)] == [200] * 20


def test_it_can_be_off() -> None:
    port = free_port()
    with Node(config(port, node={"http": "off"})), socket.socket() as ours:
        ours.bind(("127.0.0.1", port + 200))
    with LocalMesh(nodes=1, node={"http": "off"}) as mesh:
        assert refuses(int(mesh.addresses[0].rpartition(":")[2]) + 200)


def test_a_default_port_that_is_taken_is_told_and_a_chosen_one_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port + 200)):
        with caplog.at_level(logging.WARNING), Node(config(port)) as node, node.client() as cache:
            cache.set("k", 1)
            (fact,) = cache.inspect("view")["members"]
            assert fact[Fact._fields.index("http")] == ""
        (line,) = [record for record in caplog.records if record.msg == "http_unavailable"]
        assert "node.http" in line.advice  # type: ignore[attr-defined]
        with pytest.raises(ConfigError, match=f"node.http: cannot listen on 127.0.0.1:{port + 200}"):
            Node(config(port, node={"http": f"127.0.0.1:{port + 200}"})).start()
    assert refuses(port + 200)


def test_a_node_that_could_not_be_made_frees_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("planted")

    port = free_port()
    with monkeypatch.context() as patch:
        patch.setattr("meshcache.node.server.NodeCore", fail)
        with pytest.raises(RuntimeError, match="planted"):
            Node(config(port)).start()
    assert refuses(port + 200)
    with Node(config(port)):
        assert ask(port + 200, "/health")[0] == 200
    assert refuses(port + 200)


def test_nodes_of_one_process_tell_each_of_itself() -> None:
    ports = [free_port()]
    with Node(config(ports[0], cluster={"replicas": 1})) as first, first.client() as cache:
        ports.append(free_port())
        with Node(config(ports[1], seeds=[ports[0]], cluster={"replicas": 1})):
            eventually(lambda: all(ask(port + 200, "/ready")[0] == 200 for port in ports))
            cache.set_many({f"k{n}": n for n in range(100)})
            assert {tells(port + 200, "/stats")["node"]["node_id"] for port in ports} == {f"n{port}" for port in ports}
            eventually(lambda: sum(int(tells(port + 200, "/stats")["entries"]) for port in ports) == 100)
