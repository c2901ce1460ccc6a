"""What the commands about a mesh do, as against those about keys: look into it, put load on it, let nodes go."""

from __future__ import annotations

import sys
import threading
import time
from argparse import Namespace
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from meshcache.cli import commands
from meshcache.cli.commands import print_json
from meshcache.errors import MeshcacheError, NodeUnavailable, OperationTimeout

if TYPE_CHECKING:
    from meshcache.cli.survey import Survey
    from meshcache.client.blocking.client import Client

NOT_WELL: Final = 1
HOT_KEYS_SHOWN: Final = 20

_OWN_COLUMNS: Final = (
    "ready",
    "ring_digest",
    "changing",
    "slots_missing",
    "hints",
    "breakers_open",
    "compared_s_ago",
    "cluster",
    "replicas",
    "store",
)
"""What each node says of itself, and no other can say of it."""


def status(options: Namespace) -> int:
    """Show the members, what each says of itself, and what is wrong; say by the exit code whether anything is."""
    from meshcache.cli import health, report  # noqa: PLC0415

    with commands.open_client(options) as client:
        seen = client.inspect("status")
        members = [member | _own_answer(client, member) for member in _sorted(seen["members"])]
    found = health.health_of(members)
    if options.json:
        well = {"well": not found.problems, "problems": found.problems, "warnings": found.warnings}
        print_json({"asked": seen["node_id"], **well, "members": members})
    else:
        print(report.status_text(members, commands.paint(), commands.width(), everything=options.wide))
    return NOT_WELL if found.problems else 0


def _own_answer(client: Client, member: dict[str, Any]) -> dict[str, Any]:
    if member["state"] != "alive":
        return {}
    try:
        own = client.inspect("status", node=member["address"])
    except MeshcacheError as error:
        return {"error": str(error)}
    return {name: own.get(name) for name in _OWN_COLUMNS}


def leave(options: Namespace) -> int:
    """Have a node hand its slots over and go; show how far it is."""
    with commands.open_client(options) as client:
        if _must_be_asked(client, options.node):
            _ask_to_leave(client, options.node)
            handed_over = _follow_leave(client, options.node, options.wait)
            if handed_over is None:
                text = f"{options.node} has not left after {options.wait:g} s; it goes on handing over"
                print(f"meshcache: {text}", file=sys.stderr)
                return 2
        else:
            handed_over = True
    if options.json:
        print_json({"node": options.node, "left": True, "handed_over": handed_over})
    elif handed_over:
        print(f"{options.node} has handed its slots over and left")
    else:
        print(f"{options.node} has left; the others had not pulled all of its slots when its time was over")
    return 0


def snapshot(options: Namespace) -> int:
    """Have one node or all write a snapshot, and say how large it is; 2 if one could not."""
    written: list[dict[str, Any]] = []
    with commands.open_client(options) as client:
        members = _sorted(client.inspect("status")["members"])
        nodes = [options.node] if options.node else [m["address"] for m in members if m["state"] == "alive"]
        for node in nodes:
            member = _find(members, node)
            written.append({"node": member["node_id"] if member else node, **_save(client, node, options.wait)})
    failed = [each for each in written if each["error"]]
    if options.json:
        print_json({"snapshots": written})
    for each in [] if options.json else written:
        if each["error"]:
            print(f"meshcache: {each['node']}: {each['error']}", file=sys.stderr)
        else:
            print(f"{each['node']}: {each['entries']:,} entries, {each['bytes']:,} bytes, {each['seconds']:g} s")
    return 2 if failed else 0


def _save(client: Client, node: str, wait_s: float) -> dict[str, Any]:
    """Return what became of a node's snapshot; ``error`` says why there is none."""
    try:
        before = client.inspect("snapshot", node=node)
        deadline = time.monotonic() + wait_s
        pause = threading.Event()
        while time.monotonic() < deadline:
            now = client.inspect("stats", node=node)["snapshots"]
            if now["failures"] > before["failures"]:
                return {"error": now["reason"]}
            if now["written"] > before["written"]:
                return {"error": "", **{name: now[name] for name in ("entries", "bytes", "seconds")}}
            pause.wait(0.1)
    except MeshcacheError as error:
        return {"error": str(error)}
    return {"error": f"no snapshot after {wait_s:g} s"}


def _must_be_asked(client: Client, node: str) -> bool:
    """Tell whether a node has yet to leave. MeshcacheError says what is so of one that can not."""
    members = client.inspect("status")["members"]
    member = _find(members, node)
    if member is None:
        known = ", ".join(f"{each['node_id']} ({each['address']})" for each in _sorted(members))
        raise MeshcacheError(f"there is no node {node!r}; the mesh has {known}")
    if member["state"] == "dead":
        raise MeshcacheError(
            f"{node} is dead: it can hand nothing over, and the others have taken over what they hold copies of. Start "
            f"it again, or give it up with `meshcache forget {node}`"
        )
    return bool(member["state"] != "left")


def _ask_to_leave(client: Client, node: str) -> None:
    try:
        client.leave(node)
    except (NodeUnavailable, OperationTimeout) as error:
        raise MeshcacheError(
            f"{node} does not answer, so it can not be asked to leave ({error}). If it is gone, the others declare it "
            f"dead within seconds; then `meshcache forget {node}`"
        ) from None


def _follow_leave(client: Client, node: str, wait_s: float) -> bool | None:
    """Return whether a node that leaves had handed all over when it left; None if it has not left in time."""
    before, deadline = None, time.monotonic() + wait_s
    pause = threading.Event()
    while time.monotonic() < deadline:
        waiting, member = _handover(client, node)
        if member is None or member["state"] == "left":
            return member is None or not member["weight"]
        if member["state"] == "dead":
            raise MeshcacheError(f"{node} died before it had handed over what it owns: see `meshcache status`")
        if waiting != before:
            print(f"{node} is leaving: the others have {waiting:,} slots to pull", file=sys.stderr)
            before = waiting
        pause.wait(0.2)
    return None


def _handover(client: Client, node: str) -> tuple[int, dict[str, Any] | None]:
    """Return how many slots the others still have to pull, and what they say of the node that leaves."""
    members = client.inspect("status")["members"]
    seen, waiting = _find(members, node), 0
    for member in members:
        if member is not seen and member["state"] == "alive":
            with suppress(MeshcacheError):
                waiting += client.inspect("status", node=member["address"])["slots_missing"]
    return waiting, seen


def _find(members: list[dict[str, Any]], node: str) -> dict[str, Any] | None:
    """Return the member with this id, else the one at this address: who is there now, if it has had several."""
    ranks = ("alive", "suspect", "left", "dead")
    found = [member for member in members if member["node_id"] == node]
    found += sorted([m for m in members if m["address"] == node], key=lambda member: ranks.index(member["state"]))
    return found[0] if found else None


def forget(options: Namespace) -> int:
    """Have the mesh show and dial no longer a node that is gone."""
    with commands.open_client(options) as client:
        client.forget(options.node)
    if options.json:
        print_json({"node": options.node, "forgotten": True})
    else:
        print(f"{options.node} is forgotten; should it come back, it joins as new")
    return 0


def stats(options: Namespace) -> int:
    """Show the counters of every node that answers, once or again and again."""
    from meshcache.cli import report  # noqa: PLC0415
    from meshcache.cli.survey import survey  # noqa: PLC0415

    if options.every and options.hot:
        raise ValueError("--hot shows how often keys were read in the last window: --every can not go with it")
    with commands.open_client(options) as client:
        found = survey(client, timeout_s=options.timeout, hot=options.hot)
        if options.json and options.every is None:
            _print_counters_as_json(found, options)
        elif options.hot:
            hot = {node.node_id: {"keys": node.hot} for node in found.answering}
            print(report.hot_text(hot, commands.paint(), options.limit or HOT_KEYS_SHOWN, commands.width()))
        elif options.every is None:
            print(_counters(found, None, options))
        _tell_silent(found)
        if options.every is not None:
            with suppress(KeyboardInterrupt):  # how it ends when all is well
                _follow_counters(client, found, options)
    return 0


def _follow_counters(client: Client, before: Survey, options: Namespace) -> None:
    """Show how fast counters grow, every few seconds, until somebody stops it."""
    from meshcache.cli.survey import survey  # noqa: PLC0415

    pause, left = threading.Event(), options.count
    while True:
        pause.wait(options.every)
        now = survey(client, timeout_s=options.timeout)
        if options.json:
            _print_counters_as_json(now, options)
        else:
            clock = datetime.fromtimestamp(now.wall_s, UTC).strftime("%H:%M:%S")
            print(f"{clock} UTC, in a second, over the last {options.every:g} s\n")
            print(f"{_counters(now, before, options) or 'nothing happened'}\n", flush=True)
        _tell_silent(now)
        before, left = now, left - 1
        if left == 0:
            break


def _counters(found: Survey, before: Survey | None, options: Namespace) -> str:
    from meshcache.cli.counters import counters_text  # noqa: PLC0415

    return counters_text(
        found.answering,
        None if before is None else before.nodes,
        commands.paint(),
        commands.width(),
        everything=options.all,
    )


def _print_counters_as_json(found: Survey, options: Namespace) -> None:
    if options.hot:
        told = {node.node_id: {"keys": list(node.hot)} for node in found.answering}
        print_json(_hottest(told, options.limit) if options.limit else told)
    else:
        print_json({node.node_id: node.stats for node in found.answering})
    sys.stdout.flush()


def _tell_silent(found: Survey) -> None:
    for node in found.nodes:
        if node.error:
            print(f"meshcache: {node.node_id} does not answer: {node.error}", file=sys.stderr)


def doctor(options: Namespace) -> int:
    """Say what is wrong with a configuration or a mesh, and what to do about it."""
    from meshcache.cli import doctor as diagnosis  # noqa: PLC0415

    return diagnosis.doctor(options)


def top(options: Namespace) -> int:
    """Show the mesh live."""
    from meshcache.cli.top import top as show  # noqa: PLC0415

    return show(options)


def _hottest(hot: dict[str, dict[str, Any]], limit: int) -> dict[str, dict[str, Any]]:
    """Return the keys read most of each node; nodes tell them in that order."""
    return {node_id: {"keys": told["keys"][:limit]} for node_id, told in hot.items()}


def ring(options: Namespace) -> int:
    """Show the shares of all nodes, or the owners of one key."""
    from meshcache.cli import report  # noqa: PLC0415

    with commands.open_client(options) as client:
        if options.key is not None:
            explained = client.inspect("explain", key=commands.key_bytes(options.key))
            found: Any = {"key": options.key, "slot": explained["slot"], "owners": explained["owners"]}
            text = report.preference_text(explained, commands.paint(), commands.width())
        else:
            members = _sorted(client.inspect("status")["members"])
            columns = ("node_id", "primary_slots", "copy_slots")
            found = [{column: member[column] for column in columns} for member in members]
            text = report.ring_text(members, commands.paint(), commands.width())
    if options.json:
        print_json(found)
    else:
        print(text)
    return 0


def explain(options: Namespace) -> int:
    """Show what each replica holds of a key."""
    from meshcache.cli import report  # noqa: PLC0415

    with commands.open_client(options) as client:
        explained = client.inspect("explain", key=commands.key_bytes(options.key))
    if options.json:
        print_json({**explained, "key": options.key})
    else:
        print(report.explain_text(options.key, explained, time.time(), commands.paint(), commands.width()))
    return 0


def bench(options: Namespace) -> int:
    """Put load on a mesh and show how it did."""
    from meshcache.cli import load  # noqa: PLC0415

    plan = load.Plan(
        seeds=options.at,
        timeout_s=options.timeout,
        duration_s=options.duration,
        concurrency=options.concurrency,
        keys=options.keys,
        value_bytes=options.value_bytes,
        read_share=options.reads,
    )
    outcome = load.run(plan)
    if options.json:
        print_json(outcome.as_dict())
    else:
        print(outcome.as_text(commands.paint()))
    return 0 if outcome.succeeded else 2


def _sorted(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(members, key=lambda member: str(member["node_id"]))
