"""What `doctor` finds: each fault once, and nothing where all is well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from surveys import SETTINGS, answer, link, silent, survey_of

from meshcache.cli import findings
from meshcache.cli.doctor import findings_text, mesh_findings
from meshcache.cli.findings import Finding, Severity
from meshcache.cli.main import main
from meshcache.cli.survey import NodeAnswer
from meshcache.config import Config
from meshcache.local.terminal import Paint

OTHERS = ("node2", "node3")


def found(*nodes: NodeAnswer) -> list[Finding]:
    given = {node.node_id: node for node in nodes}
    three = [given.get(name) or answer(name) for name in ("node1", *OTHERS)]
    return mesh_findings(survey_of(*three), None, {})


def bad(told: list[Finding]) -> list[Finding]:
    return [finding for finding in told if finding.severity in {Severity.WARNING, Severity.ERROR}]


def test_a_mesh_that_is_well_has_no_faults_and_every_look_is_told() -> None:
    told = found()
    assert bad(told) == []
    looked_at = {finding.check for finding in told}
    assert looked_at == {
        *("members", "ring", "configuration", "quorum", "links", "ports", "clock", "versions", "descriptors", "memory"),
        "native",
        "breakers",
    }


def test_who_runs_without_the_native_module_is_told_with_the_reason() -> None:
    without = answer("node2")
    without.stats["host"]["hot_path"] = "pure Python: not built"
    with_it = answer("node1")
    with_it.stats["host"]["hot_path"] = "native"
    (told,) = findings.of_native([with_it, without, answer("node3")], "native")
    assert (told.severity, told.check) == (Severity.NOTE, "native")
    assert told.what == "without the native module, so slower (node2): pure Python: not built"
    (told,) = findings.of_native([with_it], "native")
    assert (told.severity, told.what) == (Severity.OK, "the native module serves (here, node1)")
    (told,) = findings.of_native([with_it], "pure Python: MESHCACHE_PURE is set")
    assert told.what.startswith("without the native module, so slower (here)")


FULL = {"store": {"max_bytes": 100_000_000, "evictions": 7, "evicted_s_ago": 60.0}}
OTHER_N = {"cluster": SETTINGS["cluster"] | {"replicas": 3}}
HUGE = {"store": {"max_bytes": 9_000_000_000, "evictions": 0, "evicted_s_ago": None}}


@pytest.mark.parametrize(
    ("node", "severity", "says"),
    [
        (silent("node1"), "error", "members: node1 does not answer: no answer in time"),
        (silent("node1", "dead"), "error", "members: node1 is dead"),
        (answer("node1", state="suspect"), "warning", "members: node1 is silent"),
        (answer("node1", status={"ready": False}), "error", "members: node1 does not serve yet"),
        (answer("node1", status={"replicas": 4}), "warning", "members: cluster.replicas is 4, but 3 nodes"),
        (
            answer("node1", status={"ring_digest": "bb"}),
            "error",
            "ring: the nodes do not agree on who owns what: node1",
        ),
        (answer("node1", status={"slots_missing": 7}), "warning", "ring: 7 slots are on the move"),
        (
            answer("node1", stats={"settings": {"cluster": SETTINGS["cluster"] | {"replicas": 3}}}),
            "error",
            "cluster.replicas differs: 3 on",
        ),
        (
            answer("node1", stats={"settings": SETTINGS | {"store": {"max_bytes": 5}}}),
            "warning",
            "configuration: store.max_bytes differs: 5 on node1; 100000000 on node2, node3",
        ),
        (
            answer("node1", stats={"links": {"127.0.0.1:7102": link("", up=False, since_s=75.0)}}),
            "error",
            "links: node1 has had no connection to node2 at 127.0.0.1:7102 for 1m",
        ),
        (
            answer("node1", stats={"links": {"127.0.0.1:7102": link("node2", heard_s_ago=60.0)}}),
            "warning",
            "links: node1 has not heard of node2 for 1m",
        ),
        (answer("node1", ahead_s=2.0), "warning", "clock: the clock of node1 is 2.0 s ahead of the one here"),
        (answer("node1", ahead_s=-9.0), "error", "clock: the clock of node1 is 9.0 s behind the one here"),
        (answer("node1", stats={"host": {"wall_ms": 1_003_000}}), "warning", "machine was set by 3.0 s while it ran"),
        (answer("node1", stats={"node": {"clock_refused": 3}}), "warning", "clock: node1 refused 3 messages"),
        (
            answer("node1", stats={"host": {"libzmq": "4.3.1"}}),
            "warning",
            "versions of libzmq: 4.3.1 on node1; 4.3.5 on",
        ),
        (answer("node1", stats={"host": {"meshcache": "0.9"}}), "warning", "versions of meshcache: 0.9 on node1"),
        (answer("node1", stats={"host": {"files_max": 256}}), "warning", "descriptors: node1 may open 256 descriptors"),
        (answer("node1", stats={"host": {"files_open": 19_000}}), "error", "node1 uses 19,000 of 20,000 descriptors"),
        (answer("node1", status=FULL), "warning", "memory: node1 is full: it dropped 7 entries, the last 1m ago"),
        (answer("node1", status=HUGE), "error", "memory: h (node1, node2, node3) has 8 GB of memory"),
        (answer("node1", stats={"host": {"resident_bytes": 900_000_000}}), "warning", "memory: node1 takes 900 MB"),
        (answer("node1", stats={"host": {"memory_available_bytes": 9}}), "warning", "memory: h has 9 B of 8 GB left"),
        (
            answer("node1", stats={"breakers": {"open": {"node2": 1, "node3": 0}}}),
            "warning",
            "node1 does not ask node2",
        ),
        (answer("node1", stats={"node": {"failed": {"Get": 2}}}), "warning", "failures: node1 dropped 2 messages"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_each_fault_is_found(node: NodeAnswer, severity: str, says: str) -> None:
    told = bad(found(node))
    lines = [f"{finding.check}: {finding.what}" for finding in told if finding.severity == severity]
    assert [line for line in lines if says in line], (told, says)
    assert all(finding.advice for finding in told)


def test_clocks_that_are_off_to_both_sides_of_the_one_here() -> None:
    (told,) = bad(found(answer("node1", ahead_s=0.2), answer("node2", ahead_s=-0.2)))
    assert told.what == "the clocks of node2 and node1 are 0.4 s apart"
    assert bad(found(answer("node1", ahead_s=0.2))) == []


def test_hints_that_get_fewer_are_no_fault() -> None:
    def waiting(count: int) -> NodeAnswer:
        return answer("node1", stats={"hints": {"waiting": {"node2": count}}})

    def hints(before: int, now: int) -> list[Finding]:
        return list(findings.of_hints(survey_of(waiting(now)), survey_of(waiting(before))))

    assert hints(9, 5) == []
    assert hints(0, 5) == []
    (told,) = hints(5, 5)
    assert "node1 keeps 5 writes that node2 has missed" in told.what
    assert list(findings.of_hints(survey_of(waiting(5)), None)) == []


def test_ports_that_can_not_be_reached() -> None:
    told = list(findings.of_ports({("node1", "publish", "h:1"): "no answer", ("node1", "http", "h:2"): "refused"}))
    assert [finding.severity for finding in told] == ["warning", "note"]
    assert "invalidation stream of node1 at h:1 can not be reached from here: no answer" in told[0].what


@pytest.mark.parametrize(
    ("replicas", "write", "read", "warns", "says"),
    [
        (2, 2, 1, 0, "W+R > N, so a read sees every write"),
        (3, 1, 1, 2, "W+R is not greater than N"),
        (3, 1, 3, 1, "W=1: a write is acknowledged when one node has it"),
        (1, 1, 1, 0, "N=1: each key is held by one node"),
    ],
)
def test_quorums_in_words(replicas: int, write: int, read: int, warns: int, says: str) -> None:
    told = list(findings.quorums(replicas, write, read))
    assert len(bad(told)) == warns
    assert any(says in finding.what for finding in told)


def test_a_configuration_that_needs_more_memory_than_there_is() -> None:
    config = Config.from_tables(store={"max_bytes": 10_000_000_000})
    assert [finding.check for finding in bad(list(findings.of_config(config, 8e9)))] == ["memory"]
    assert bad(list(findings.of_config(config, 64e9))) == []


def test_a_file_is_looked_at_without_a_mesh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text("[cluster]\nreplicas = 3\nwrite_quorum = 5\nreadquorum = 1\n")
    assert main(["doctor", "--config", str(path)]) == 2
    out = capsys.readouterr().out
    out = " ".join(out.split())
    assert "cluster.write_quorum: must not be greater than cluster.replicas: 5 and 3" in out
    assert "did you mean cluster.read_quorum?" in out
    assert out.endswith("2 errors")
    path.write_text("[cluster]\nreplicas = 3\nwrite_quorum = 1\n")
    assert main(["doctor", "--config", str(path)]) == 1
    path.write_text("")
    assert main(["doctor", "--config", str(path)]) == 0
    assert main(["doctor", "--config", str(tmp_path / "none.toml")]) == 2


def test_no_mesh_is_an_error_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--at", "127.0.0.1:1", "--timeout", "0.3"]) == 2
    out = capsys.readouterr().out
    assert "the mesh can not be asked" in out
    assert "meshcache up" in out


@pytest.mark.parametrize("width", [40, 80, 120])
def test_findings_fit_the_terminal_and_the_worst_comes_last(width: int) -> None:
    nodes: list[Any] = [answer("node1", ahead_s=2.0), silent("node2", "dead")]
    text = findings_text(found(*nodes), Paint(enabled=False), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("ok ")
    assert lines[-1] == "1 error and 1 warning"
