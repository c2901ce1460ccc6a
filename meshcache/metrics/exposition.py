"""What a node tells of itself, as text for Prometheus: the table of families.py, filled from one snapshot.

``prometheus_client`` writes the text, in its own format or in that of OpenMetrics, whichever was asked for. Nothing is
counted with it: the node counts by itself, in plain numbers, and this is done when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from meshcache.metrics.families import FAMILIES, Family

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
"""What is asked for where OpenMetrics is welcome …"""
PLAIN: Final = ""
"""… and where it is not."""

Snapshot = dict[str, Any]


class Exposition:
    """Makes the text. To be used by one thread."""

    def __init__(self, pause: Callable[[], object] = lambda: None) -> None:
        """``pause`` is called after each family: others may need the interpreter."""
        self._pause = pause
        self._snapshot: Snapshot = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    @staticmethod
    def form_of(accept: str) -> str:
        """Return the form in which a caller wants it who accepts this: ``OPENMETRICS`` or ``PLAIN``."""
        kinds = [kind.partition(";")[0].strip() for kind in accept.split(",")]
        return OPENMETRICS if OPENMETRICS.partition(";")[0] in kinds else PLAIN

    def render(self, snapshot: Snapshot, form: str) -> tuple[bytes, str]:
        """Return the text of a snapshot, and its content type."""
        self._snapshot = snapshot
        encode, content_type = choose_encoder(form)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Yield the families, as the registry asks for them."""
        for family in FAMILIES:
            metric = metric_of(family, self._snapshot)
            if metric is not None:
                yield metric
                self._pause()


def metric_of(family: Family, snapshot: Snapshot) -> Metric | None:
    """Return a family with its figures; None if the node tells nothing of it."""
    found = family.find(snapshot)
    if found is None:
        return None
    name = family.name.removesuffix({"counter": "_total", "info": "_info"}.get(family.kind, ""))
    metric = Metric(name, family.text, family.kind)
    if family.kind == "info":
        metric.add_sample(family.name, {label: str(value) for label, value in found.items()}, 1)
        return metric
    for labels, value in _leaves(found, family.labels):
        if family.kind == "histogram":
            _add_histogram(metric, labels, value, family.scale)
        else:
            metric.add_sample(family.name, labels, value * family.scale)
    return metric


def _leaves(found: Any, names: tuple[str, ...]) -> Iterator[tuple[dict[str, str], Any]]:
    """Yield what is in maps within one another, with the labels that lead to it."""
    if not names:
        yield {}, found
        return
    for label, within in found.items():
        for labels, value in _leaves(within, names[1:]):
            yield {names[0]: label, **labels}, value


def _add_histogram(metric: Metric, labels: dict[str, str], told: dict[str, Any], scale: float) -> None:
    ends = [*[repr(float(bound * scale)) for bound in told["bounds"]], "+Inf"]
    for end, count in zip(ends, accumulate(told["counts"]), strict=True):
        metric.add_sample(metric.name + "_bucket", {**labels, "le": end}, count)
    metric.add_sample(metric.name + "_sum", labels, told["sum"] * scale)
    metric.add_sample(metric.name + "_count", labels, sum(told["counts"]))
