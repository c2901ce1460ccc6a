"""meshcache/integrations/GUIDE.md is true: see tests/test_readme.py for how claims are written.

The settings of Django are global, so its examples are run by this file as a program, with the settings that the first
of them shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Final

import pytest
from test_readme import INTEGRATIONS, Block, blocks, checked, code_spans, raised, shown, tables

from meshcache import Client, LocalMesh
from meshcache.integrations import django as backend
from meshcache.local.processes import HOST

DJANGO: Final = ("## Django", "## Coming from Django's other backends")
"""Where its examples are: their headings, and those below them."""


def under(*headings: str) -> list[Block]:
    """Return the examples under headings of the second level."""
    lines = INTEGRATIONS.text.splitlines()

    def heading(block: Block) -> str:
        return next(line for line in reversed(lines[: block.line]) if line.startswith("## "))

    return [block for block in blocks("python", document=INTEGRATIONS) if heading(block) in headings]


def run_django(addresses: dict[str, str]) -> None:
    """Run the examples for Django in this process."""
    import django  # noqa: PLC0415
    from django.conf import settings  # noqa: PLC0415

    first, *others = under(*DJANGO)
    names: dict[str, Any] = {"__name__": "guide", "_shown": shown, "_raised": raised}
    exec(checked(first, addresses)[0], names)
    names["CACHES"]["old"] = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    settings.configure(**{name: value for name, value in names.items() if name.isupper()})
    django.setup()
    claims = 0
    for block in others:
        code, count = checked(block, addresses)
        exec(code, names)
        claims += count
    print(claims)


@pytest.mark.process
def test_the_examples_for_django_do_what_they_say() -> None:
    with LocalMesh(nodes=2) as mesh:
        addresses = {f"{HOST}:{7101 + index}": address for index, address in enumerate(mesh.addresses)}
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-W", "error", __file__, json.dumps(addresses)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_the_options_are_those_that_there_are() -> None:
    told = [name for cell, *_ in tables("Option", INTEGRATIONS) for name in code_spans(cell)]
    assert sorted(told) == sorted(backend.OPTIONS)


def test_the_methods_are_those_that_there_are() -> None:
    told = [name for cell, *_ in tables("Method", INTEGRATIONS) for name in code_spans(cell)]
    assert len(told) > 10
    for name in told:
        assert name in vars(backend.MeshCache) or name == "decr", name
    for name in ("fallbacks", "lock", "invalidate_tags"):
        assert hasattr(Client, name)
        assert name in INTEGRATIONS.text


if __name__ == "__main__":
    run_django(json.loads(sys.argv[1]))
