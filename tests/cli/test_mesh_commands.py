"""Commands about a mesh: what they show at any width, what they call wrong, and how nodes are let go."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_client import FakeClient, member

from meshcache.cli import commands
from meshcache.cli import main as cli
from meshcache.cli.health import health_of
from meshcache.cli.report import explain_text, flatten, hot_text, ring_text, stats_text, status_text, table
from meshcache.errors import NodeUnavailable, OperationTimeout
from meshcache.local.terminal import Paint, quantity
from meshcache.protocol.record import NEVER_MS

PLAIN = Paint(enabled=False)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(commands, "open_client", lambda _: fake)
    monkeypatch.delenv("COLUMNS", raising=False)
    return fake


def run(capsysbinary: pytest.CaptureFixture[bytes], *arguments: str) -> tuple[int, bytes, str]:
    exit_code = cli.main(arguments)
    out, err = capsysbinary.readouterr()
    return exit_code, out, err.decode()


# Status


def test_status_asks_every_member(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    client.members.append(member("node3", state="dead"))
    client.answers["inspect status 127.0.0.1:7102"] = OperationTimeout("no answer")
    code, out, _ = run(capsysbinary, "status")
    lines = out.decode().splitlines()
    assert lines[0].split() == ["NODE", "ADDRESS", "STATE", "READY", "ENTRIES", "BYTES", "PULLING"]
    assert lines[1].split() == ["node1", "127.0.0.1:7101", "alive", "yes", "9,871/10k", "8.1M/100M", "0"]
    assert lines[3].split() == ["node3", "127.0.0.1:7103", "dead", "-", "-", "-", "-"]
    assert lines[5:] == [
        "node2 does not answer: no answer",
        "node3 is dead: start it again, or give it up with `meshcache forget node3`",
    ]
    assert code == 1
    code, out, _ = run(capsysbinary, "status", "--json")
    told = json.loads(out)
    assert [(each["node_id"], each.get("ready")) for each in told["members"]] == [
        ("node1", True),
        ("node2", None),
        ("node3", None),
    ]
    assert (code, told["well"], len(told["problems"]), told["warnings"]) == (1, False, 2, [])


def test_status_of_a_mesh_that_is_well(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    client.members.append(member("node3", state="left"))
    code, out, _ = run(capsysbinary, "status")
    assert code == 0
    assert out.decode().splitlines()[-1] == FINE.format(2)
    told = json.loads(run(capsysbinary, "status", "--json")[1])
    assert (told["well"], told["problems"], told["warnings"]) == (True, [], [])


def test_status_of_no_mesh_is_an_error(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    client.answers["inspect status None"] = NodeUnavailable("nobody there")
    assert run(capsysbinary, "status")[0] == 2


FINE = "all {} nodes serve, agree on the ring and hold what they own"


def well(node_id: str, **fields: Any) -> dict[str, Any]:
    return member(node_id, ready=True, ring_digest="aa", slots_missing=0, replicas=2) | fields


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"state": "dead"}, "node2 is dead: start it again, or give it up with `meshcache forget node2`"),
        ({"state": "suspect"}, "node2 is silent: unless it is heard of soon, the others declare it dead"),
        ({"error": "no reply"}, "node2 does not answer: no reply"),
        ({"ready": False}, "node2 does not serve yet"),
        ({"ring_digest": "bb"}, "the nodes do not agree on the ring yet"),
        ({"slots_missing": 1200}, "copies are on the move, 1,200 slots to go"),
        ({"synced": False}, "copies are on the move, 0 slots to go"),
    ],
)
def test_what_is_wrong(fields: dict[str, Any], says: str) -> None:
    found = health_of([well("node1"), well("node2") | fields, well("node3")])
    assert (found.problems, found.warnings) == ([says], [])


def test_a_node_that_left_is_not_wrong() -> None:
    found = health_of([well("node1"), well("node2"), member("node3", state="left", weight=0.0)])
    assert (found.problems, found.warnings) == ([], [])


def test_fewer_nodes_than_copies_are_a_warning() -> None:
    found = health_of([well("node1") | {"replicas": 3}, well("node2") | {"replicas": 3}])
    assert found.problems == []
    (warning,) = found.warnings
    assert warning.startswith("cluster.replicas is 3, but the mesh has 2 nodes to hold them: each key has 2 copies")
    (warning,) = health_of([well("node1")]).warnings
    assert "1 node to hold them: each key has 1 copy." in warning
    assert health_of([well("node1"), member("node2", state="suspect")]).warnings == [], "it may be back in a moment"
    leaving = well("node2", weight=0.0)
    assert health_of([well("node1"), leaving]).warnings, "who is leaving holds nothing"
    assert health_of([well("node1"), well("node2")]).warnings == []


def store(**fields: Any) -> dict[str, Any]:
    return {
        "entries": 10,
        "max_entries": 10_000,
        "bytes": 1000,
        "max_bytes": 100_000,
        "evictions": 0,
        "evicted_s_ago": None,
    } | fields


def test_a_node_that_evicts_is_a_warning_that_says_what_to_set() -> None:
    full = store(entries=10_000, evictions=12_345, evicted_s_ago=2.0)
    found = health_of([well("node1", store=full), well("node2", store=full), well("node3", store=store())])
    assert found.problems == []
    (warning,) = found.warnings
    assert warning.startswith(
        "node1, node2 have dropped 24,690 entries for want of room, the last 2s ago: those not used"
    )
    assert "Raise store.max_entries (now 10,000), add nodes" in warning
    heavy = store(bytes=99_000, evictions=1, evicted_s_ago=0.0)
    (warning,) = health_of([well("node1", store=heavy), well("node2")]).warnings
    assert warning.startswith("node1 has dropped 1 entries for want of room, the last 0s ago")
    assert "Raise store.max_bytes (now 100,000)" in warning


def test_evictions_of_a_while_ago_are_told_as_such() -> None:
    once = store(evictions=500, evicted_s_ago=7300.0)
    (warning,) = health_of([well("node1", store=once), well("node2")]).warnings
    assert warning.startswith("node1 has dropped 500 entries for want of room, the last 2h ago")
    long_ago = store(evictions=500, evicted_s_ago=2 * 86_400.0)
    assert health_of([well("node1", store=long_ago), well("node2")]).warnings == []


LARGE = {
    "store": store(entries=987_654, max_entries=1_000_000, bytes=1_999_999_999, max_bytes=2_000_000_000),
    "hints": 123_456,
    "compared_s_ago": 1234.5,
    "incarnation": 2**60,
}
MESHES = {
    "usual": [well(f"node{i}", store=store(entries=9871)) for i in range(1, 4)],
    "production": [
        well(f"cache{i}", address=f"10.20.30.{i}:7101", host=f"db{i}.example.org", zone=f"eu-west-{i}", **LARGE)
        for i in range(101, 104)
    ],
    "pods": [
        well(
            f"cache-{i}.cache.production.svc.cluster.local-7101",
            address=f"cache-{i}.cache.production.svc.cluster.local:7101",
            **LARGE,
        )
        for i in range(3)
    ],
    "hurt": [
        well("node1", error="inspect: not done within 5 s (127.0.0.1:7101: connected, but no greeting in time)"),
        member("node2", state="dead"),
        well("node3", store=store(entries=10_000, evictions=10**9, evicted_s_ago=1.0), replicas=3),
    ],
}


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("width", [60, 72, 80, 100, 132, 200])
@pytest.mark.parametrize("mesh", MESHES)
def test_status_fits_any_width(mesh: str, width: int, everything: bool) -> None:
    text = status_text(MESHES[mesh], PLAIN, width, everything=everything)
    assert max(map(len, text.splitlines())) <= width


def test_the_wide_status_tells_whom_a_node_does_not_ask_because_it_fails() -> None:
    mesh = [well("node1", breakers_open=["node2", "node3"]), well("node2"), well("node3")]
    text = status_text(mesh, PLAIN, 400, everything=True)
    assert "NOT ASKED" in text
    assert [line.split()[0] for line in text.splitlines() if "node2 node3" in line] == ["node1"]
    assert "NOT ASKED" not in status_text(mesh, PLAIN, 400)


def test_the_usual_status_is_not_folded_at_eighty_columns() -> None:
    for mesh in ("usual", "production"):
        assert status_text(MESHES[mesh], PLAIN, 80).count("NODE") == 1
    assert status_text(MESHES["usual"], PLAIN, 60).count("NODE") == 2


def test_in_a_pipe_there_are_eighty_columns_or_as_many_as_asked_for(
    client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.members += [member(f"node{i}", host="h" * 50) for i in (3, 4)]
    for columns in (None, 60, 200):
        if columns is not None:
            monkeypatch.setenv("COLUMNS", str(columns))
        for arguments in (["status"], ["status", "--wide"], ["stats"], ["stats", "--hot"], ["ring"], ["explain", "k"]):
            out = run(capsysbinary, *arguments)[1].decode()
            assert max(map(len, out.splitlines())) <= (columns or 80), arguments


def test_tables_fold_and_cut_where_they_must() -> None:
    headings, rows = ["NAME", "ONE", "TWO", "THREE"], [["a", 1, 22, 333], ["b" * 30, 4, 5, 6]]
    assert table(headings, rows, PLAIN, {}, width=22).splitlines() == [
        "NAME          ONE  TWO",
        "a               1   22",
        "bbbbbb…bbbbb    4    5",
        "",
        "NAME          THREE",
        "a               333",
        "bbbbbb…bbbbb      6",
    ]
    first_line = table(headings, rows, PLAIN, {}, width=36, gives_way=0).splitlines()[0]
    assert (len(first_line), first_line.split()) == (36, headings)
    assert max(map(len, table(headings, rows, PLAIN, {}).splitlines())) == 47


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1k"),
        (1234, "1,234"),
        (9871, "9,871"),
        (10_000, "10k"),
        (15_617, "15,617"),
        (99_999, "99,999"),
        (123_456, "123k"),
        (999_950, "1.0M"),
        (1_000_000, "1M"),
        (1_234_567, "1.2M"),
        (100_000_000, "100M"),
        (2_500_000_000, "2.5G"),
        (10**13, "10T"),
    ],
)
def test_quantities_are_short(number: int, text: str) -> None:
    assert quantity(number) == text


# Nodes that go


def test_leave_of_a_dead_node_says_what_is_true(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    client.members.append(member("node3", state="dead"))
    for name in ("node3", "127.0.0.1:7103"):
        code, out, error = run(capsysbinary, "leave", name)
        assert (code, out, error.count("\n")) == (2, b"", 1)
        assert error.startswith(f"meshcache: {name} is dead: it can hand nothing over")
        assert f"`meshcache forget {name}`" in error
        assert "is a mesh running there" not in error
    assert all(call[0] != "leave" for call in client.calls)


def test_leave_of_a_stranger_names_the_members(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    code, _, error = run(capsysbinary, "leave", "node9")
    says = "there is no node 'node9'; the mesh has node1 (127.0.0.1:7101), node2 (127.0.0.1:7102)"
    assert (code, error) == (2, f"meshcache: {says}\n")


def test_leave_of_a_silent_node_says_so(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    client.answers["leave"] = NodeUnavailable("leave: not done within 5 s")
    code, _, error = run(capsysbinary, "leave", "node2")
    assert code == 2
    assert error.startswith("meshcache: node2 does not answer, so it can not be asked to leave")
    assert "is a mesh running there" not in error


@pytest.mark.parametrize(
    ("end", "code", "out", "error"),
    [
        ({"state": "left", "weight": 0.0}, 0, "node2 has handed its slots over and left\n", ""),
        ({"state": "left", "weight": 1.0}, 0, "node2 has left; the others had not pulled all of its slots", ""),
        ({"state": "dead"}, 2, "", "node2 died before it had handed over what it owns"),
        ({"state": "alive", "weight": 0.0}, 2, "", "node2 has not left after 0.5 s"),
    ],
)
def test_how_leaving_ends(
    client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes], end: dict[str, Any], code: int, out: str, error: str
) -> None:
    client.on_call["leave"] = lambda: client.members[1].update(end)
    got = run(capsysbinary, "leave", "node2", "--wait", "500ms")
    assert got[0] == code
    assert got[1].decode().startswith(out)
    assert error in got[2]


def test_who_has_left_need_not_leave(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    client.members.append(member("node3", state="left"))
    assert run(capsysbinary, "leave", "node3")[0] == 0
    assert all(call[0] != "leave" for call in client.calls)


def test_at_an_address_the_one_who_is_up_is_meant(client: FakeClient) -> None:
    client.members.insert(0, member("older", address="127.0.0.1:7102", state="dead"))
    client.on_call["leave"] = lambda: client.members[2].update(state="left", weight=0.0)
    assert cli.main(["leave", "127.0.0.1:7102"]) == 0
    assert ("leave", ("127.0.0.1:7102",), {}) in client.calls


def test_forget(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(capsysbinary, "forget", "node3")[:2] == (
        0,
        b"node3 is forgotten; should it come back, it joins as new\n",
    )
    assert client.calls[0] == ("forget", ("node3",), {})
    assert json.loads(run(capsysbinary, "forget", "node3", "--json")[1]) == {"node": "node3", "forgotten": True}
    client.answers["forget"] = ValueError("forget: node2 is alive: have it leave first")
    code, out, error = run(capsysbinary, "forget", "node2")
    assert (code, out, error) == (2, b"", "meshcache: forget: node2 is alive: have it leave first\n")


# Counters, keys and the ring


def test_stats_has_a_column_for_each_node(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    lines = run(capsysbinary, "stats")[1].decode().splitlines()
    assert lines == [
        "STORE           node1  node2    all",
        "keys found      1,000  1,000  2,000",
        "keys not found      2      2      4",
    ]
    client.answers["inspect stats 127.0.0.1:7102"] = OperationTimeout("no answer")
    exit_code, out, err = run(capsysbinary, "stats", "--json")
    assert (exit_code, json.loads(out)) == (0, {"node1": {"store": {"hits": 1000, "misses": 2}}})
    assert err == "meshcache: node2 does not answer: no answer\n"


def test_stats_hot_shows_the_keys_read_most(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    lines = run(capsysbinary, "stats", "--hot")[1].decode().splitlines()
    assert [line.split() for line in lines] == [
        ["KEY", "NODE", "READS", "STATE"],
        ["user:1", "node1", "5,000", "hot"],
        ["b", "node2", "4,000", "-"],
        ["\\xff", "node1", "3", "-"],
    ]
    found = json.loads(run(capsysbinary, "stats", "--hot", "--json")[1])
    assert found["node2"] == {"keys": [{"key": "b", "reads": 4000, "hot": False}]}


def test_hot_keys_are_the_first_twenty_or_as_many_as_asked_for(
    client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    client.hot = [(b"key %d" % i, 1000 - i, False) for i in range(100)]
    lines = run(capsysbinary, "stats", "--hot")[1].decode().splitlines()
    assert len(lines) == 1 + 20 + 2
    assert lines[-1] == "180 more are shown with --limit 200"
    lines = run(capsysbinary, "stats", "--hot", "--limit", "200")[1].decode().splitlines()
    assert len(lines) == 1 + 200
    told = json.loads(run(capsysbinary, "stats", "--hot", "--json")[1])
    assert [len(each["keys"]) for each in told.values()] == [100, 100]
    told = json.loads(run(capsysbinary, "stats", "--hot", "--json", "--limit", "3")[1])
    assert [len(each["keys"]) for each in told.values()] == [3, 3]


def test_a_long_key_does_not_break_the_table_of_hot_keys() -> None:
    rows = [{"key": "k" * 500 + "\x1b[2J", "reads": 10, "hot": True}]
    text = hot_text({"node1": {"keys": rows}}, PLAIN, 20, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_counters_become_flat_and_may_be_missing_on_a_node() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": 2}, "e": 3}) == {"a.b.c": 1, "a.d": 2, "e": 3}
    assert stats_text({"n1": {"a": 1, "id": "n1"}, "n2": {"b": 2}}, PLAIN).splitlines()[1:] == [
        "a         1   -",
        "b         -   2",
    ]


def test_ring_shows_shares_as_bars() -> None:
    lines = ring_text([member("node1", primary_slots=600), member("node2", primary_slots=300)], PLAIN).splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["66.7%", "33.3%"]
    assert [line.count("█") for line in lines[1:]] == [30, 15]


def test_ring_of_a_key_is_its_preference_list(client: FakeClient, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    lines = run(capsysbinary, "ring", "user:1")[1].decode().splitlines()
    assert [line.split() for line in lines] == [
        ["slot", "7"],
        ["ROLE", "NODE"],
        ["primary", "node2"],
        ["copy", "node1"],
    ]
    out = run(capsysbinary, "ring", "user:1", "--json")[1]
    assert json.loads(out) == {"key": "user:1", "slot": 7, "owners": ["node2", "node1"]}
    assert ("inspect", ("explain", b"user:1", None), {}) in client.calls


def test_explain_tells_what_each_replica_holds() -> None:
    def replica(node_id: str, **fields: Any) -> dict[str, Any]:
        nothing = {"version": None, "expires_ms": None, "tombstone": False, "value_bytes": 0, "error": None}
        return {"node_id": node_id, "state": "alive"} | nothing | fields

    version = f"{1_700_000_000_000:012x}0001" + "00" * 8
    explained = {
        "slot": 7,
        "owners": ["n1", "n2"],
        "replicas": [
            replica("n1", version=version, value_bytes=5000, expires_ms=1_700_000_060_000),
            replica("n2", version=version, tombstone=True, expires_ms=NEVER_MS),
            replica("n3"),
            replica("n4", state="suspect", error="timed out"),
        ],
    }
    lines = explain_text("user:1", explained, 1_700_000_050.0, PLAIN).splitlines()
    assert lines[0] == "user:1: slot 7, owners n1, n2"
    assert "5,000 bytes" in lines[3]
    assert "2023-11-14 22:13:20 UTC" in lines[3]
    assert "in 10.0 s" in lines[3]
    assert "a delete" in lines[4]
    assert "never" in lines[4]
    assert "nothing" in lines[5]
    assert "no answer: timed out" in lines[6]
