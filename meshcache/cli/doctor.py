"""``meshcache doctor``: looks at a configuration or at a running mesh, and says what is wrong and what to do about it.

What there is to know is gathered here; what follows from it is decided in findings.py.
"""

from __future__ import annotations

import socket
import sys
import threading
from argparse import Namespace
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from meshcache import _native
from meshcache.address import split_address
from meshcache.cli import commands, findings
from meshcache.cli.findings import Finding, Severity
from meshcache.cli.report import wrapped
from meshcache.cli.survey import GONE, Survey, survey
from meshcache.config import Config
from meshcache.errors import ConfigError, MeshcacheError
from meshcache.local.terminal import GREEN, RED, YELLOW, Paint
from meshcache.node.host import host_facts

HINTS_WATCHED_S: Final = 2.0
"""How long hints that wait are watched: a node delivers them within this time."""
DIAL_S: Final = 1.0
DIALLED_AT_A_TIME: Final = 16

_COLOURS: Final = {Severity.OK: GREEN, Severity.WARNING: YELLOW, Severity.ERROR: RED}
_EXIT_CODES: Final = {Severity.WARNING: 1, Severity.ERROR: 2}


def doctor(options: Namespace) -> int:
    """Look, tell, and return how bad the worst of it is: 0 for nothing, 1 for warnings, 2 for errors."""
    found = _of_file(options) if options.config is not None else _of_mesh(options)
    worst = max((_EXIT_CODES.get(finding.severity, 0) for finding in found), default=0)
    if options.json:
        verdict = ("ok", "warnings", "errors")[worst]
        commands.print_json({"verdict": verdict, "findings": [finding.as_dict() for finding in found]})
    else:
        print(findings_text(found, commands.paint(), commands.width()))
    return worst


def findings_text(found: Sequence[Finding], paint: Paint, width: int) -> str:
    """Show findings, the worst last, where the eye is."""
    ranks = list(Severity)
    lines = []
    for finding in sorted(found, key=lambda each: ranks.index(each.severity)):
        said = wrapped(f"{finding.check}: {finding.what}", width, first=f"{finding.severity:<9}", indent=" " * 9)
        lines.append(paint(said[:8], _COLOURS.get(finding.severity)) + said[8:])
        if finding.advice:
            lines.append(wrapped(finding.advice, width, first=" " * 9 + "-> ", indent=" " * 12))
    counts = [sum(each.severity is severity for each in found) for severity in (Severity.ERROR, Severity.WARNING)]
    told = [f"{n} {what}{'' if n == 1 else 's'}" for n, what in zip(counts, ("error", "warning"), strict=True) if n]
    colour = RED if counts[0] else YELLOW if counts[1] else GREEN
    return "\n".join([*lines, "", paint(" and ".join(told) or "nothing is wrong", colour)])


def _of_file(options: Namespace) -> list[Finding]:
    try:
        config = Config.load(options.config)
    except ConfigError as error:
        return [findings.error("configuration", problem, "correct it") for problem in error.problems]
    here = findings.of_native((), _native.describe())
    return [*findings.of_config(config, host_facts().get("memory_bytes")), *here]


def _of_mesh(options: Namespace) -> list[Finding]:
    try:
        with commands.open_client(options) as client:
            found = survey(client, timeout_s=options.timeout)
            earlier = None
            if any((node.stats.get("hints") or {}).get("waiting") for node in found.answering):
                print("meshcache: looking whether hints are delivered …", file=sys.stderr)
                threading.Event().wait(HINTS_WATCHED_S)
                earlier, found = found, survey(client, timeout_s=options.timeout)
            unreachable = unreachable_ports(found, client.inspect("view")["members"])
    except MeshcacheError as error:
        advice = "is a mesh running there? Start one with `meshcache up`, or name another with --at"
        return [findings.error("members", f"the mesh can not be asked: {error}", advice)]
    return mesh_findings(found, earlier, unreachable)


def mesh_findings(
    found: Survey, earlier: Survey | None, unreachable: Mapping[tuple[str, str, str], str]
) -> list[Finding]:
    """Return all there is to say of a mesh."""
    return [
        *findings.of_members(found),
        *findings.of_settings(found.answering),
        *findings.of_links(found),
        *findings.of_breakers(found.answering),
        *findings.of_ports(unreachable),
        *findings.of_clocks(found),
        *findings.of_versions(found.answering),
        *findings.of_native(found.answering, _native.describe()),
        *findings.of_processes(found),
        *findings.of_hints(found, earlier),
        *findings.of_failures(found.answering),
    ]


def unreachable_ports(found: Survey, facts: Sequence[Any]) -> dict[tuple[str, str, str], str]:
    """Dial the further ports of all nodes that answer; return those that can not be reached, and why."""
    up = {node.node_id for node in found.answering if node.state not in GONE}
    places = [
        (str(fact[0]), port, str(address))
        for fact in facts
        if fact[0] in up
        for port, address in (("publish", fact[2]), ("http", fact[3]))
        if address and address != "off"
    ]
    with ThreadPoolExecutor(DIALLED_AT_A_TIME) as pool:
        problems = list(pool.map(lambda place: _dial(place[2]), places))
    return {place: problem for place, problem in zip(places, problems, strict=True) if problem}


def _dial(address: str) -> str:
    """Return why a port can not be reached; nothing if it can."""
    try:
        socket.create_connection(split_address(address), timeout=DIAL_S).close()
    except TimeoutError:
        return "no answer"
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error).lower()
    return ""
