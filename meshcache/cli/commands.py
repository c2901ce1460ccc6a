"""What the commands about keys and nodes do. Each takes the parsed options and returns its exit code.

Those about a mesh as a whole are in mesh_commands.py.
"""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from meshcache.errors import ConfigError, KeyMissing, MeshcacheError

if TYPE_CHECKING:
    from meshcache.client.blocking.client import Client
    from meshcache.local.terminal import Paint

DEFAULT_SEEDS: Final = "127.0.0.1:7101"
MISS: Final = 1


def up(options: Namespace) -> int:
    """Launch a mesh and supervise it."""
    from meshcache.local import launcher  # noqa: PLC0415

    return launcher.up(
        options.nodes,
        base_port=options.base_port,
        memcached=options.memcached,
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
    from meshcache.cli import log  # noqa: PLC0415
    from meshcache.local import lifeline  # noqa: PLC0415
    from meshcache.node.memory import prepare_process  # noqa: PLC0415
    from meshcache.node.node import Node  # noqa: PLC0415
    from meshcache.node.notify import Notifier  # noqa: PLC0415

    log.configure(config.log)
    prepare_process()
    running = Node(config, supervised=parent_pid is not None)
    notifier = Notifier.of_environment(os.environ if parent_pid is None else {})

    def end(status: str, how: Callable[[], None]) -> None:
        notifier.stopping(status)
        how()

    def tell_ready() -> None:
        print("ready", flush=True)
        notifier.ready()

    signal.signal(signal.SIGINT, lambda *_: end("stops", running.stop))
    signal.signal(signal.SIGTERM, lambda *_: end("hands over what it holds", running.drain))
    if parent_pid is not None:
        lifeline.watch_parent(parent_pid, running.stop)
    try:
        running.run(on_ready=tell_ready, on_look=notifier.beat)
    except ConfigError:
        raise
    except MeshcacheError as error:
        # Not the code of a configuration error, which would tell a supervisor not to try again.
        print(f"meshcache: {error}", file=sys.stderr)
        return 1
    finally:
        notifier.close()
    return 0


def open_client(options: Namespace) -> Client:
    """Return a client of the mesh that the options name."""
    from meshcache.client.blocking.client import Client  # noqa: PLC0415

    return Client(options.at, timeout=options.timeout)


def get(options: Namespace) -> int:
    """Print a value: text as text, bytes as they are, all else as JSON where that is possible."""
    with open_client(options) as client:
        item = client.gets(argument(options.key))
    if item is None:
        return MISS
    if options.json:
        print_json({"key": options.key, **_json_value(item.value)})
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
        client.set(argument(options.key), _value(options), **_ttl(options), **_tags(options))
    return _done(options, stored=True)


def add(options: Namespace) -> int:
    """Set a key that is not there yet."""
    with open_client(options) as client:
        stored = client.add(argument(options.key), _value(options), **_ttl(options), **_tags(options))
    return _done(options, stored=True) if stored else MISS


def delete(options: Namespace) -> int:
    """Delete keys."""
    with open_client(options) as client:
        deleted = client.delete_many([argument(key) for key in options.keys])
    return _done(options, deleted=deleted) if deleted else MISS


def incr(options: Namespace) -> int:
    """Add to a number."""
    initial = None if options.must_exist else options.initial
    with open_client(options) as client:
        try:
            total = client.incr(argument(options.key), options.delta, initial=initial, **_ttl(options))
        except KeyMissing:
            return MISS
    if options.json:
        return _done(options, value=total)
    print(total)
    return 0


def touch(options: Namespace) -> int:
    """Give a key a new lifetime."""
    with open_client(options) as client:
        touched = client.touch(argument(options.key), **_ttl(options))
    return _done(options, touched=True) if touched else MISS


def ttl(options: Namespace) -> int:
    """Print how long a key has to live."""
    with open_client(options) as client:
        left_s = client.ttl(argument(options.key))
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
            client.invalidate(*map(argument, options.keys))
            return _done(options, invalidated=len(options.keys))
        if options.tag:
            outcome = {"tags": options.tag, "dropped_copies": client.invalidate_tags(*map(argument, options.tag))}
        else:
            outcome = {"prefix": options.prefix, "dropped_copies": client.invalidate_prefix(argument(options.prefix))}
    if options.json:
        print_json(outcome)
    return 0


def clear(options: Namespace) -> int:
    """Drop every key, or all that begin with a prefix; ask first before everything goes."""
    if not options.prefix and not options.yes and not _confirmed(options):
        print("meshcache: nothing was cleared", file=sys.stderr)
        return MISS
    with open_client(options) as client:
        dropped = client.invalidate_prefix(argument(options.prefix)) if options.prefix else client.clear()
    if options.json:
        print_json({"prefix": options.prefix, "dropped_copies": dropped})
    else:
        print(f"{dropped:,} {'copy' if dropped == 1 else 'copies'} went, on all nodes together")
    return 0


def _confirmed(options: Namespace) -> bool:
    """Ask whoever sits at the terminal; ValueError where nobody does."""
    if not sys.stdin.isatty():
        raise ValueError("clear without a PREFIX drops every key: say --yes if that is what you want")
    print(f"Drop every key at {options.at}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def watch(options: Namespace) -> int:
    """Show invalidations as they pass, until Ctrl-C."""
    from meshcache.cli import report  # noqa: PLC0415

    colours, left = paint(), options.count
    try:
        with open_client(options) as client, client.subscribe(argument(options.prefix)) as events:
            for event in events:
                key = os.fsdecode(event.key)
                if options.json:
                    line = {"key": key, "kind": event.kind, "version": event.version.hex(), "node": event.node}
                    print(json.dumps({"at": round(time.time(), 3)} | line), flush=True)
                else:
                    print(report.event_text(event, key, time.time(), colours), flush=True)
                left -= 1
                if left == 0:
                    break
    except KeyboardInterrupt:
        pass  # how it ends when all is well
    return 0


def argument(text: str) -> str | bytes:
    """Return an argument as given: bytes that are no UTF-8 arrive here as surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text


def key_bytes(text: str) -> bytes:
    """Return an argument as the key that travels."""
    return os.fsencode(text) if isinstance(argument(text), bytes) else text.encode("utf-8")


def _value(options: Namespace) -> Any:
    raw = sys.stdin.buffer.read() if options.value == "-" else argument(options.value)
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
    return {"tags": [argument(tag) for tag in options.tag]} if options.tag else {}


def _done(options: Namespace, **outcome: Any) -> int:
    """Say what was done, to those who asked for JSON."""
    if options.json:
        named = {"keys": options.keys} if hasattr(options, "keys") else {"key": options.key}
        print_json(named | outcome)
    return 0


def print_json(value: Any) -> None:
    """Print something for a program."""
    print(json.dumps(value, default=repr))


def width() -> int:
    """Return how many columns there are: the terminal's, else what COLUMNS says, else 80, also in a pipe."""
    return max(20, shutil.get_terminal_size((80, 24)).columns)


def paint() -> Paint:
    """Return what colours text, if that goes to a terminal."""
    from meshcache.local.terminal import Paint  # noqa: PLC0415

    return Paint(enabled=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
