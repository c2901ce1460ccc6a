"""What each command of the command line does. Each takes the parsed options and returns its exit code."""

from __future__ import annotations

import base64
import json
import math
import os
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from meshcache.errors import ConfigError, KeyMissing, MeshcacheError

if TYPE_CHECKING:
    from meshcache.client import Client
    from meshcache.report import Paint

DEFAULT_SEEDS: Final = "127.0.0.1:7101"
MISS: Final = 1


def up(options: Namespace) -> int:
    """Launch a mesh and supervise it."""
    from meshcache import launcher  # noqa: PLC0415

    return launcher.up(
        options.nodes,
        base_port=options.base_port,
        config_path=options.config,
        data_dir=options.data_dir,
        overrides=options.set,
    )


def node(options: Namespace) -> int:
    """Run one node until a signal stops it, or until its parent has ended."""
    from meshcache.config import Config  # noqa: PLC0415

    overrides = list(options.set)
    overrides += [f"node.{key}={value}" for key in ("id", "listen") if (value := getattr(options, key)) is not None]
    if options.seed:
        overrides.append(f"node.seeds={','.join(options.seed)}")
    config = Config.load(options.config, overrides=overrides)
    return _run_node(config, options.parent_pid)


def _run_node(config: Any, parent_pid: int | None) -> int:
    from meshcache import lifeline, log  # noqa: PLC0415
    from meshcache.server import Node  # noqa: PLC0415

    log.configure(config.log)
    running = Node(config)
    signal.signal(signal.SIGINT, lambda *_: running.stop())
    signal.signal(signal.SIGTERM, lambda *_: running.drain())
    if parent_pid is not None:
        lifeline.watch_parent(parent_pid, running.stop)
    try:
        running.run(on_ready=lambda: print("ready", flush=True))
    except ConfigError:
        raise
    except MeshcacheError as error:
        # Not the code of a configuration error, which would tell a supervisor not to try again.
        print(f"meshcache: {error}", file=sys.stderr)
        return 1
    return 0


def open_client(options: Namespace) -> Client:
    """Return a client of the mesh that the options name."""
    from meshcache.client import Client  # noqa: PLC0415 - it brings ZeroMQ, which `--help` can do without

    return Client(options.at, timeout=options.timeout)


def get(options: Namespace) -> int:
    """Print a value: text as text, bytes as they are, all else as JSON where that is possible."""
    with open_client(options) as client:
        item = client.gets(_argument(options.key))
    if item is None:
        return MISS
    if options.json:
        _print_json({"key": options.key, **_json_value(item.value)})
        return 0
    sys.stdout.flush()
    sys.stdout.buffer.write(_shown(item.value))
    return 0


def _shown(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass") + b"\n"
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _json_value(value: Any) -> dict[str, Any]:
    if isinstance(value, bytes):
        return {"value_base64": base64.b64encode(value).decode("ascii")}
    try:
        json.dumps(value, default=repr, allow_nan=False)
    except (TypeError, ValueError):
        value = repr(value)
    return {"value": value}


def store(options: Namespace) -> int:
    """Set a key."""
    with open_client(options) as client:
        client.set(_argument(options.key), _value(options), **_ttl(options), **_tags(options))
    return _done(options, stored=True)


def add(options: Namespace) -> int:
    """Set a key that is not there yet."""
    with open_client(options) as client:
        stored = client.add(_argument(options.key), _value(options), **_ttl(options), **_tags(options))
    return _done(options, stored=True) if stored else MISS


def delete(options: Namespace) -> int:
    """Delete keys."""
    with open_client(options) as client:
        deleted = client.delete_many([_argument(key) for key in options.keys])
    return _done(options, deleted=deleted) if deleted else MISS


def incr(options: Namespace) -> int:
    """Add to a number."""
    initial = None if options.must_exist else options.initial
    with open_client(options) as client:
        try:
            total = client.incr(_argument(options.key), options.delta, initial=initial, **_ttl(options))
        except KeyMissing:
            return MISS
    if options.json:
        return _done(options, value=total)
    print(total)
    return 0


def touch(options: Namespace) -> int:
    """Give a key a new lifetime."""
    with open_client(options) as client:
        touched = client.touch(_argument(options.key), **_ttl(options))
    return _done(options, touched=True) if touched else MISS


def ttl(options: Namespace) -> int:
    """Print how long a key has to live."""
    with open_client(options) as client:
        left_s = client.ttl(_argument(options.key))
    if left_s is None:
        return MISS
    never = left_s == math.inf
    if options.json:
        return _done(options, ttl_s=None if never else round(left_s, 3))
    print("never" if never else f"{left_s:.3f}")
    return 0


def invalidate(options: Namespace) -> int:
    """Drop keys whose source has changed, all under a prefix, or all that bear a tag."""
    if sum(map(bool, (options.keys, options.prefix is not None, options.tag))) != 1:
        raise ValueError("give keys, or --prefix, or --tag, and only one of these")
    with open_client(options) as client:
        if options.keys:
            client.invalidate(*map(_argument, options.keys))
            return _done(options, invalidated=len(options.keys))
        if options.tag:
            outcome = {"tags": options.tag, "dropped_copies": client.invalidate_tags(*map(_argument, options.tag))}
        else:
            outcome = {"prefix": options.prefix, "dropped_copies": client.invalidate_prefix(_argument(options.prefix))}
    if options.json:
        _print_json(outcome)
    return 0


def watch(options: Namespace) -> int:
    """Show invalidations as they pass, until Ctrl-C."""
    from meshcache import report  # noqa: PLC0415

    paint, left = _paint(), options.count
    try:
        with open_client(options) as client, client.subscribe(_argument(options.prefix)) as events:
            for event in events:
                key = os.fsdecode(event.key)
                if options.json:
                    line = {"key": key, "kind": event.kind, "version": event.version.hex(), "node": event.node}
                    print(json.dumps({"at": round(time.time(), 3)} | line), flush=True)
                else:
                    print(report.event_text(event, key, time.time(), paint), flush=True)
                left -= 1
                if left == 0:
                    break
    except KeyboardInterrupt:
        pass  # how it ends when all is well
    return 0


def status(options: Namespace) -> int:
    """Show the members, and what each says of itself."""
    from meshcache import report  # noqa: PLC0415

    with open_client(options) as client:
        seen = client.inspect("status")
        members = [member | _own_answer(client, member) for member in _sorted(seen["members"])]
    if options.json:
        _print_json({"asked": seen["node_id"], "members": members})
    else:
        print(report.status_text(members, _paint()))
    return 0


_OWN_COLUMNS: Final = ("ready", "ring_digest", "changing", "slots_missing", "hints", "compared_s_ago")
"""What each node says of itself, and no other can say of it."""


def _own_answer(client: Client, member: dict[str, Any]) -> dict[str, Any]:
    if member["state"] in {"dead", "left"}:
        return {}
    try:
        own = client.inspect("status", node=member["address"])
    except MeshcacheError as error:
        return {"error": str(error)}
    return {name: own.get(name) for name in _OWN_COLUMNS}


def leave(options: Namespace) -> int:
    """Have a node hand its slots over and go; show how far it is."""
    with open_client(options) as client:
        client.leave(options.node)
        before, deadline = None, time.monotonic() + options.wait
        pause = threading.Event()
        while time.monotonic() < deadline:
            waiting, member = _handover(client, options.node)
            if member is None or member["state"] in {"left", "dead"}:
                print(f"{options.node} has handed its slots over and left")
                return 0
            if waiting != before:
                print(f"{options.node} is leaving: the others have {waiting:,} slots to pull", file=sys.stderr)
                before = waiting
            pause.wait(0.2)
    print(f"meshcache: {options.node} has not left after {options.wait:g} s; it goes on handing over", file=sys.stderr)
    return 2


def _handover(client: Client, node: str) -> tuple[int, dict[str, Any] | None]:
    """Return how many slots the others still have to pull, and what they say of the node that leaves."""
    waiting, seen = 0, None
    for member in client.inspect("status")["members"]:
        if node in {member["node_id"], member["address"]}:
            seen = member
        elif member["state"] == "alive":
            with suppress(MeshcacheError):
                waiting += client.inspect("status", node=member["address"])["slots_missing"]
    return waiting, seen


def stats(options: Namespace) -> int:
    """Show the counters of every node that answers."""
    from meshcache import report  # noqa: PLC0415

    what = "hot" if options.hot else "stats"
    counters, problems = {}, []
    with open_client(options) as client:
        for member in _sorted(client.inspect("status")["members"]):
            if member["state"] in {"dead", "left"}:
                continue
            try:
                told = client.inspect(what, node=member["address"])
                for row in told["keys"] if options.hot else ():
                    row["key"] = row["key"].decode("utf-8", "backslashreplace")
                counters[member["node_id"]] = told
            except MeshcacheError as error:
                problems.append(f"{member['node_id']} does not answer: {error}")
    if options.json:
        _print_json(counters)
    else:
        print((report.hot_text if options.hot else report.stats_text)(counters, _paint()))
    for problem in problems:
        print(f"meshcache: {problem}", file=sys.stderr)
    return 0


def ring(options: Namespace) -> int:
    """Show the shares of all nodes, or the owners of one key."""
    from meshcache import report  # noqa: PLC0415

    with open_client(options) as client:
        if options.key is not None:
            explained = client.inspect("explain", key=_key_bytes(options.key))
            found: Any = {"key": options.key, "slot": explained["slot"], "owners": explained["owners"]}
            text = report.preference_text(explained, _paint())
        else:
            members = _sorted(client.inspect("status")["members"])
            columns = ("node_id", "primary_slots", "copy_slots")
            found = [{column: member[column] for column in columns} for member in members]
            text = report.ring_text(members, _paint())
    if options.json:
        _print_json(found)
    else:
        print(text)
    return 0


def explain(options: Namespace) -> int:
    """Show what each replica holds of a key."""
    from meshcache import report  # noqa: PLC0415

    with open_client(options) as client:
        explained = client.inspect("explain", key=_key_bytes(options.key))
    if options.json:
        _print_json({**explained, "key": options.key})
    else:
        print(report.explain_text(options.key, explained, time.time(), _paint()))
    return 0


def bench(options: Namespace) -> int:
    """Put load on a mesh and show how it did."""
    from meshcache import load  # noqa: PLC0415

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
        _print_json(outcome.as_dict())
    else:
        print(outcome.as_text(_paint()))
    return 0 if outcome.succeeded else 2


def _argument(text: str) -> str | bytes:
    """Return an argument as given: bytes that are no UTF-8 arrive here as surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text


def _key_bytes(text: str) -> bytes:
    return os.fsencode(text) if isinstance(_argument(text), bytes) else text.encode("utf-8")


def _value(options: Namespace) -> Any:
    raw = sys.stdin.buffer.read() if options.value == "-" else _argument(options.value)
    if options.kind == "str":
        return raw
    readers: dict[str, tuple[Callable[[Any], Any], str]] = {
        "int": (int, "a whole number"),
        "float": (float, "a number"),
        "json": (json.loads, "JSON"),
    }
    read, what = readers[options.kind]
    try:
        return read(raw)
    except json.JSONDecodeError as error:
        raise ValueError(f"VALUE must be {what}, is {raw!r:.60}: {error}") from None
    except ValueError:
        raise ValueError(f"VALUE must be {what}, is {raw!r:.60}") from None


def _ttl(options: Namespace) -> dict[str, Any]:
    """Return the lifetime as an argument, if one was given: None is one."""
    return {"ttl": options.ttl} if hasattr(options, "ttl") else {}


def _tags(options: Namespace) -> dict[str, Any]:
    """Return the tags as an argument, if any were given."""
    return {"tags": [_argument(tag) for tag in options.tag]} if options.tag else {}


def _done(options: Namespace, **outcome: Any) -> int:
    """Say what was done, to those who asked for JSON."""
    if options.json:
        named = {"keys": options.keys} if hasattr(options, "keys") else {"key": options.key}
        _print_json(named | outcome)
    return 0


def _print_json(value: Any) -> None:
    print(json.dumps(value, default=repr))


def _sorted(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(members, key=lambda member: str(member["node_id"]))


def _paint() -> Paint:
    from meshcache.report import Paint  # noqa: PLC0415

    return Paint(enabled=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
