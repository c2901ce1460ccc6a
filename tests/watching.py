"""The files that watch a mesh, configs/prometheus and configs/grafana: what they ask Prometheus for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
SCRAPING: Final = ROOT / "configs/prometheus/prometheus.yml"
ALERTS: Final = ROOT / "configs/prometheus/alerts.yml"
ALERTS_TEST: Final = ROOT / "configs/prometheus/alerts_test.yml"
DASHBOARD: Final = ROOT / "configs/grafana/meshcache.json"
RATE_S: Final = 5
"""For Grafana's ``$__rate_interval``, where Prometheus asks nodes once a second."""

_GROUPING: Final = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"
_TEXT_OR_TIME: Final = r"\[[^]]*]|\boffset\s+\w+|\b(?:and|or|unless|bool)\b"
_SELECTOR: Final = r"\b([A-Za-z_:][\w:]*)\b(?!\s*\()\s*(?:\{([^}]*)})?"


class Query(NamedTuple):
    """An expression of PromQL, where it is, and how what it finds is labelled there."""

    place: str
    text: str
    legend: str


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    return [rule for group in read(ALERTS)["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    """All panels, those within folded rows included."""
    return [each for panel in dashboard()["panels"] for each in (panel, *panel.get("panels", ()))]


def queries_of_rules() -> list[Query]:
    return [
        Query(rule.get("alert") or rule["record"], rule["expr"], " ".join(rule.get("annotations", {}).values()))
        for rule in rules()
    ]


def queries_of_panels() -> list[Query]:
    """With every variable of the dashboard filled in, as Grafana does when all is to be shown."""
    values = {"__rate_interval": f"{RATE_S}s", "job": "meshcache", "mesh": ".*", "instance": ".*"}
    return [
        Query(
            f"{panel['title']} {target['refId']}",
            re.sub(r"\$(\w+)", lambda name: values[name[1]], target["expr"]),
            target["legendFormat"],
        )
        for panel in panels()
        for target in panel.get("targets", ())
    ]


def selected(query: str) -> Iterator[tuple[str, set[str]]]:
    """Every metric that a query asks for, with the labels by which it is selected."""
    bare = re.sub(_TEXT_OR_TIME, "", re.sub(_GROUPING, "", re.sub(r'"[^"]*"', '""', query)))
    for name, within in re.findall(_SELECTOR, bare):
        yield name, set(re.findall(r"(\w+)\s*[!=]", within))


def grouped_by(query: str) -> set[str]:
    """Every label by which a query groups or matches."""
    return {label for each in re.findall(_GROUPING, query) for label in re.findall(r"\w+", each)}
