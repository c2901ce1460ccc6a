"""The way of a GET and of a SET through the code is as meshcache/core/GUIDE.md has it: no file more, and none less.

Client and node run here, in one process, each in a thread of its own. Every call is followed from its beginning to its
end, a number of times: what a node does now and then on its own account is no part of the way.
"""

from __future__ import annotations

import math
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from test_readme import CORE, ROOT

from meshcache import Client, Config, Node
from meshcache._native import absent_because
from meshcache.client import fast_path
from meshcache.client.frames import PURE
from meshcache.core.operations import usual
from meshcache.core.storage import choice
from meshcache.local.processes import HOST, find_base_port
from meshcache.node import server

PACKAGE: Final = f"{ROOT / 'meshcache'}/"
CALLS: Final = 40


def told(way: str) -> tuple[list[str], list[str]]:
    """The files of a way, on the client's and on the node's thread, as the chapter lists them."""
    match = re.search(rf"^### {way}$(.*?)(?=^##)", CORE.text, flags=re.DOTALL | re.MULTILINE)
    assert match
    on_client, _, on_node = match[1].partition("On the node's thread:")
    client, node = (re.findall(r"^\d+\. `([^`]+)`: ", part, flags=re.MULTILINE) for part in (on_client, on_node))
    return client, node


class Followed:
    """Which files of the package are entered, by which thread, while ``on``."""

    def __init__(self) -> None:
        self.on = False
        self.entered: dict[int, dict[str, None]] = {}

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if self.on and event == "call" and file.startswith(PACKAGE) and not file.endswith("__init__.py"):
            self.entered.setdefault(threading.get_ident(), {})[str(Path(file).relative_to(ROOT))] = None

    def follow(self, call: Callable[[], object]) -> tuple[list[str], set[str]]:
        """Return what the caller's thread entered, in order, and what all others did."""
        self.entered = {}
        self.on = True
        call()
        self.on = False
        mine = list(self.entered.pop(threading.get_ident()))
        return mine, {file for files in self.entered.values() for file in files}


@pytest.fixture
def followed() -> Iterator[Followed]:
    followed, before, before_here = Followed(), threading.getprofile(), sys.getprofile()
    threading.setprofile(followed)
    sys.setprofile(followed)
    yield followed
    sys.setprofile(before_here)
    threading.setprofile(before)


@pytest.fixture
def cache(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client and a node in pure Python, each with a thread that begins when it is followed."""
    monkeypatch.setattr(choice, "compiled", None)
    monkeypatch.setattr(usual, "compiled", None)
    monkeypatch.setattr(fast_path, "frames", PURE)
    # To be followed makes every turn a slow one on a busy machine; that such turns are counted is no part of the way.
    monkeypatch.setattr(server, "SLOW_TURN_S", math.inf)
    address = f"{HOST}:{find_base_port(1)}"
    config = Config.from_tables(node={"listen": address}, cluster={"replicas": 1, "write_quorum": 1})
    with Node(config), Client(address) as cache:
        yield cache


@pytest.mark.skipif(bool(absent_because), reason="the near cache's twin and that of a wait are steps on the way, too")
@pytest.mark.parametrize("way", ["A GET", "A SET"])
def test_a_call_goes_the_way_that_is_told(way: str, cache: Client, followed: Followed) -> None:
    def get() -> None:
        assert cache.get("key") == "value"

    def put() -> None:
        cache.set("key", "value")

    put()
    get()
    call = get if way == "A GET" else put
    for _ in range(CALLS):  # warm: what is done once has been done
        call()
    on_client, on_node = told(way)
    ways: Counter[tuple[str, ...]] = Counter()
    by_node: Counter[str] = Counter()
    for _ in range(CALLS):
        mine, others = followed.follow(call)
        ways[tuple(mine)] += 1
        by_node.update(others)
    ((most, _),) = ways.most_common(1)
    assert list(most) == on_client
    always = {file for file, count in by_node.items() if count == CALLS}
    mostly = {file for file, count in by_node.items() if count > CALLS / 2}  # the last steps may come after the answer
    assert always <= set(on_node) <= mostly
    assert len(on_node) == len(set(on_node))
