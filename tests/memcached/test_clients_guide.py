"""The examples for clients of memcached in meshcache/integrations/GUIDE.md do what they say."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Final

import pytest
from test_readme import INTEGRATIONS, Block, blocks, checked, raised, shown

from meshcache import LocalMesh
from meshcache.local.processes import HOST, find_base_port

HEADING: Final = "## By the memcached door"
LIBRARIES: Final = ("pymemcache", "aiocache", "limits", "celery")


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    with LocalMesh(nodes=2, memcached={"listen": f"{HOST}:{find_base_port(2)}"}) as mesh:
        yield {f"{HOST}:{11211 + index}": address for index, address in enumerate(mesh.memcached_addresses)}


def examples() -> list[Block]:
    first = INTEGRATIONS.text.splitlines().index(HEADING)
    return [block for block in blocks("python", document=INTEGRATIONS) if block.line > first]


def library_of(block: Block) -> str:
    return next(name for name in LIBRARIES if f"from {name}" in block.text)


def apart(address: str) -> str:
    """Return an address as aiocache wants it."""
    host, _, port = address.rpartition(":")
    return f'endpoint="{host}", port={port}'


@pytest.mark.process
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # limits and Celery close nothing
@pytest.mark.parametrize("block", examples(), ids=library_of)
def test_an_example_does_what_it_says(block: Block, addresses: dict[str, str]) -> None:
    pytest.importorskip(library_of(block))
    text = block.text
    for shown_there, address in addresses.items():
        text = text.replace(shown_there, address).replace(apart(shown_there), apart(address))
    code, claims = checked(block._replace(text=text), {})
    names = {"__name__": "guide", "_shown": shown, "_raised": raised}
    exec(code, names)
    assert claims > 0
    names.clear()
    gc.collect()  # here, where it is known whose connections are not closed


def test_there_is_an_example_for_each_library() -> None:
    assert sorted(map(library_of, examples())) == sorted(LIBRARIES)
