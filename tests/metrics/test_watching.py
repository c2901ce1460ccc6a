"""What watches a mesh asks for metrics and labels that there are; its alerts are tested, and its panels in order."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import watching
import yaml
from watching import Query

from meshcache.contradictions import HTTP_PORT_OFFSET
from meshcache.local.launcher import DEFAULT_BASE_PORT
from meshcache.metrics.families import FAMILIES
from meshcache.node import host

OF_SCRAPES = {"job", "instance", "mesh"}
"""Labels that Prometheus gives to all that it scrapes as prometheus.yml says."""
OF_PROMETHEUS = {"up": OF_SCRAPES, "ALERTS": {*OF_SCRAPES, "alertname", "alertstate", "severity"}}
"""Metrics of its own."""
QUERIES = watching.queries_of_rules() + watching.queries_of_panels()
ALERTS_SEEN = r'ALERTS\{alertname="(\w+)", alertstate="firing"\}'


def metrics() -> dict[str, set[str]]:
    """All that can be asked for, with the labels that it has."""
    found = dict(OF_PROMETHEUS)
    for family in FAMILIES:
        labels = OF_SCRAPES | set(host.build() if family.kind == "info" else family.labels)
        if family.kind == "histogram":
            found |= {f"{family.name}_{part}": labels for part in ("sum", "count")}
            found[f"{family.name}_bucket"] = labels | {"le"}
        else:
            found[family.name] = labels
    recorded = {rule["record"]: rule["expr"] for rule in watching.rules() if "record" in rule}
    return found | {name: watching.grouped_by(query) for name, query in recorded.items()}


METRICS = metrics()


def faults(query: Query) -> list[str]:
    """What a query asks for that is not there."""
    selected = list(watching.selected(query.text))
    unknown = [name for name, _ in selected if name not in METRICS]
    if unknown or not selected:
        return unknown or ["no metric"]
    there = set().union(*[METRICS[name] for name, _ in selected])
    wrong = [f"{name}: {label}" for name, labels in selected for label in labels - METRICS[name]]
    grouped = watching.grouped_by(query.text)
    shown = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*}}", query.legend))
    aggregated = re.search(r"\b(sum|min|max|avg|count)\b", query.text)
    return wrong + sorted(grouped - there) + sorted(shown - (grouped if aggregated else there))


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place.replace(" ", "-"))
def test_queries_ask_for_what_there_is(query: Query) -> None:
    assert faults(query) == []


@pytest.mark.parametrize(
    ("text", "legend", "found"),
    [
        ("cache_entrys > 0", "", ["cache_entrys"]),
        ("vector(1)", "", ["no metric"]),
        ('meshcache_members{kind="dead"}', "", ["meshcache_members: kind"]),
        ("sum by (state) (meshcache_hints)", "", ["state"]),
        ("sum by (job) (meshcache_hints)", "{{ $labels.node }}", ["node"]),
        ("rate(cache_hits_total[5m] offset 1h)", "{{kind}}", ["kind"]),
        ("meshcache_batch_keys", "", ["meshcache_batch_keys"]),
        ('sum by (le) (meshcache_batch_keys_bucket{job=~"a, b"}) > bool 1 or up{instance!=""}', "{{le}}", []),
        ('meshcache_members{state="dead"} unless on (instance) up', "{{ $labels.state }}: {{ $value }}", []),
    ],
)
def test_the_look_at_queries_finds_what_it_looks_for(text: str, legend: str, found: list[str]) -> None:
    assert faults(Query("", text, legend)) == found


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    assert "MeshcacheNodeDown" in watching.alerts()
    assert len(watching.alerts()) == len([rule for rule in watching.rules() if "alert" in rule])
    for name, alert in watching.alerts().items():
        assert alert["labels"] == {"severity": alert["labels"]["severity"]}, name
        assert alert["labels"]["severity"] in {"critical", "warning"}, name
        assert set(alert["annotations"]) == {"summary", "description"}, name
        assert len(alert["annotations"]["summary"]) < len(alert["annotations"]["description"]), name


def test_every_alert_is_seen_firing_and_not_firing() -> None:
    seen: dict[str, set[str]] = {}
    for test in watching.read(watching.ALERTS_TEST)["tests"]:
        for look in test["promql_expr_test"]:
            for name in re.findall(ALERTS_SEEN, look["expr"]):
                assert name == test["name"]
                seen.setdefault(name, set()).add("firing" if look["exp_samples"] else "not firing")
    assert seen == {name: {"firing", "not firing"} for name in watching.alerts()}


def test_the_scrape_file_has_the_nodes_of_a_mesh_on_this_machine() -> None:
    jobs = {job["job_name"]: job["static_configs"] for job in watching.read(watching.SCRAPING)["scrape_configs"]}
    ports = [DEFAULT_BASE_PORT + HTTP_PORT_OFFSET + index for index in range(3)]
    assert jobs["meshcache"] == [{"targets": [f"127.0.0.1:{port}" for port in ports], "labels": {"mesh": "local"}}]
    selected = set(re.findall(r'job="([^"]+)"', watching.ALERTS.read_text(encoding="utf-8")))
    assert selected == set(jobs)


# ---- promtool


def promtool(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", watching.SCRAPING),
        ("check", "rules", watching.ALERTS),
        ("test", "rules", watching.ALERTS_TEST),
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_promtool_finds_nothing(arguments: tuple[str | Path, ...]) -> None:
    done = promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_understands_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    texts = [query.text for query in watching.queries_of_panels()]
    records = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(texts)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    done = promtool("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(records)} rules found" in done.stdout


def test_alerts_that_never_fire_fail_their_tests(tmp_path: Path) -> None:
    shutil.copy(watching.ALERTS_TEST, tmp_path)
    broken = watching.read(watching.ALERTS)
    for rule in [rule for group in broken["groups"] for rule in group["rules"] if "alert" in rule]:
        rule["expr"] = f"({rule['expr']}) and on () vector(1) > 2"
    (tmp_path / watching.ALERTS.name).write_text(yaml.safe_dump(broken))
    done = promtool("test", "rules", tmp_path / watching.ALERTS_TEST.name)
    assert done.returncode == 1
    assert set(re.findall(r'alertname=\\?"(\w+)', done.stdout + done.stderr)) == set(watching.alerts())


# ---- the dashboard


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = watching.panels()
    assert len({panel["id"] for panel in panels}) == len(panels) > 50
    taken: Counter[tuple[int, int]] = Counter()
    for panel in panels:
        at = panel["gridPos"]
        assert at["w"] > 0 < at["h"]
        assert 0 <= at["x"] <= at["x"] + at["w"] <= 24, panel["title"]
        taken.update((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))
    assert [place for place, times in taken.items() if times > 1] == []


def test_panels_say_what_they_show() -> None:
    rows = [panel["title"] for panel in watching.panels() if panel["type"] == "row"]
    assert len(rows) == len(set(rows)) == 8
    for panel in watching.panels():
        if panel["type"] != "row":
            assert panel["title"], panel["id"]
            assert panel["description"].endswith("."), panel["title"]
            assert panel["targets"], panel["title"]
            names = [target["refId"] for target in panel["targets"]]
            assert len(set(names)) == len(names), panel["title"]


def test_the_dashboard_can_be_imported_anywhere() -> None:
    board = watching.dashboard()
    assert "id" not in board
    assert board["schemaVersion"] >= 39
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables == ["datasource", "job", "mesh", "instance"]
    sources = [
        each["datasource"]
        for panel in watching.panels()
        for each in (panel, *panel.get("targets", ()))
        if panel["type"] != "row"
    ]
    assert {source["uid"] for source in sources} == {"${datasource}"}
    for query in board["templating"]["list"][1:]:
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query["definition"])
        assert asked
        assert asked[2] == query["name"]
        assert faults(Query(query["name"], re.sub(r"\$\w+", ".*", asked[1]), f"{{{{{asked[2]}}}}}")) == []
