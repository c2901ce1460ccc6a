"""What ``up`` prints when it is ready: where the mesh is, how much it can hold, and what can be typed next."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from meshcache.config import Config
from meshcache.local.terminal import quantity

_WIDTH: Final = 80
_DEFAULT_ADDRESS: Final = "127.0.0.1:7101"


def banner(addresses: Sequence[str], config: Config, memcached: Sequence[str] = ()) -> str:
    """Return what is printed once the mesh is ready. ``memcached``: the doors for clients of memcached."""
    command = typed_command()
    at = "" if addresses[0] == _DEFAULT_ADDRESS and not os.environ.get("MESHCACHE_SEEDS") else f" --at {addresses[0]}"
    nodes = counted(len(addresses))
    paragraphs = [f"{nodes} at {', '.join(addresses)}.", _limits(len(addresses), config)]
    if memcached:
        paragraphs.append(f"For clients of memcached: {', '.join(memcached)}.")
    if len(addresses) < config.cluster.replicas:
        paragraphs.append(
            f"warning: cluster.replicas is {config.cluster.replicas}, but the mesh has {nodes}: a key has only as many "
            "copies as there are nodes."
        )
    return "\n".join(
        [textwrap.fill(text, _WIDTH, break_on_hyphens=False) for text in paragraphs]
        + ["Try, in another terminal:"]
        + [f"    {command} {words}" for words in (f"set{at} greeting hello", f"get{at} greeting", f"status{at}")]
        + ["Ctrl-C stops all nodes."]
    )


def _limits(nodes: int, config: Config) -> str:
    store, copies = config.store, min(nodes, config.cluster.replicas)
    keys = store.max_entries * nodes // copies
    copied = f", each on {copies} nodes" if copies > 1 else ""
    lives = "for ever" if math.isinf(store.default_ttl_s) else f"for {store.default_ttl_s:g} s"
    return (
        f"A node holds up to {store.max_entries:,} entries and {quantity(store.max_bytes)}B (store.max_entries, "
        f"store.max_bytes), so the mesh holds up to {keys:,} keys{copied}. When it is full, those not used for longest "
        f"go. Keys live {lives}, unless a write says otherwise (store.default_ttl_s)."
    )


def counted(nodes: int) -> str:
    """Return a number of nodes in words."""
    return "1 node" if nodes == 1 else f"{nodes} nodes"


def typed_command() -> str:
    """Return the command that starts this program, for a terminal without our environment.

    The plain name is enough only if it is found without an activated virtual environment; else it is the whole path.
    """
    beside = Path(sys.executable).parent / "meshcache"
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m meshcache"
    found = shutil.which("meshcache")
    if found is not None and Path(found).resolve() == beside.resolve() and not _is_activated(Path(found)):
        return "meshcache"
    return shlex.quote(str(beside))


def _is_activated(found: Path) -> bool:
    """Tell whether a program is found only because its virtual environment is active here."""
    return sys.prefix != sys.base_prefix and found.absolute().is_relative_to(sys.prefix)
