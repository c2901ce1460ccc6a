"""What people read of the results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .scenario import Check, Result


def table(results: Iterable[Result]) -> str:
    """Return the results as Markdown tables, with the evidence of what went wrong."""
    return "\n".join(line for result in results for line in _lines(result))


def _lines(result: Result) -> Iterator[str]:
    if result.skipped:
        yield f"{result.name}: skipped: {result.skipped}\n"
        return
    verdict = "passed" if result.passed else "FAILED"
    yield f"{result.name}: {result.title}: {verdict}, {result.elapsed_s:.0f} s\n"
    yield "| what | seen | goal | |\n| --- | ---: | ---: | --- |"
    for check in result.checks:
        goal = "" if check.goal is None else _goal(check)
        mark = "" if check.goal is None else ("ok" if check.passed else "**missed**")
        yield f"| {check.name} | {_figure(check.value, check.unit)} | {goal} | {mark} |"
    yield ""
    if result.tally.unavailable and result.tally.longest_unavailable_s > 0.5:
        yield f"longest without: {result.tally.unavailable}"
    for text, count in result.tally.errors.most_common(5):
        yield f"{count} x {text}"
    if not result.passed:
        yield from result.tally.evidence[:10]
    yield ""


def _goal(check: Check) -> str:
    return "0" if check.goal == 0 else f"<= {_figure(check.goal, check.unit)}"


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "none"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"
    return f"{text} {unit}".strip()
