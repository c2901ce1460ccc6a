"""The table of metrics is one that Prometheus's conventions know, and the guide has it as it is."""

from __future__ import annotations

import re

import pytest
from benchmark import metric_table

from meshcache.metrics.families import FAMILIES, Family, rows


def test_the_guide_has_the_table_as_it_is() -> None:
    guide = metric_table.GUIDE.read_text(encoding="utf-8")
    assert metric_table.rewritten(guide) == guide, "run: scripts/bench metric-table"
    assert [row.split("`")[1] for row in guide.splitlines() if re.match(r"\| `(cache|meshcache|process)_", row)] == [
        name for name, *_ in rows()
    ]


def test_names_are_unique() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_say_kind_and_unit(family: Family) -> None:
    assert re.fullmatch(r"(cache|meshcache|process)(_[a-z]+)+", family.name)
    assert (family.kind == "counter") == family.name.endswith("_total")
    assert (family.kind == "info") == family.name.endswith("_info")
    assert not re.search(r"_(ms|milliseconds|kb|mb|percent)(_|$)", family.name)
    assert family.text.endswith(".")
    assert family.text[0].isupper() or family.text[0].isdigit()
