"""meshcache/integrations/GUIDE.md is true: see tests/test_readme.py for how claims are written.

The settings of Django are global, so its examples are run by this file as a program, with the settings that the first
of them shows.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
from test_readme import INTEGRATIONS, ROOT, Block, blocks, checked, code_spans, raised, run_pytest, shown, tables

from meshcache import Client, LocalMesh
from meshcache.integrations import django as backend
from meshcache.integrations import dogpile, fastapi, pytest_plugin, shared
from meshcache.local.processes import HOST

DJANGO: Final = ("## Django", "## Coming from Django's other backends")
"""Where its examples are: their headings, and those below them."""


OTHERS: Final = {
    "Flask and cachelib": 5,
    "dogpile.cache": 2,
    "FastAPI and Starlette": 1,
    "Celery": 2,
    "pytest": 1,
    "Moving in": 2,
}
"""The other headings, with how many claims there are below them at least."""


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


@pytest.mark.process
def test_the_other_examples_do_what_they_say(tmp_path: Path) -> None:
    with LocalMesh(nodes=2) as mesh:
        addresses = {f"{HOST}:{7101 + index}": address for index, address in enumerate(mesh.addresses)}
        for heading, claims_min in OTHERS.items():
            names: dict[str, Any] = {"__name__": "guide", "_shown": shown, "_raised": raised}
            claims = 0
            for block in under(f"## {heading}"):
                if "def test_" in block.text:
                    file = tmp_path / "test_example.py"
                    file.write_text(block.text)
                    run_pytest(file)
                    claims += 1
                else:
                    code, count = checked(block, addresses)
                    exec(code, names)
                    claims += count
            assert claims >= claims_min, heading


def test_every_example_is_run() -> None:
    headings = [line for line in INTEGRATIONS.text.splitlines() if line.startswith("## ")]
    by_the_door = ["## By the memcached door"]  # tests/memcached/test_clients_guide.py
    assert headings == [*DJANGO, *(f"## {heading}" for heading in OTHERS), *by_the_door]


def test_the_arguments_of_dogpile_are_those_that_there_are() -> None:
    told = [name for cell, *_ in tables("Argument", INTEGRATIONS) for name in code_spans(cell)]
    source = inspect.getsource(dogpile.MeshcacheBackend.__init__)
    read = set(re.findall(r'\.pop\("(\w+)"', source))
    assert read | {"on_error"} == set(told)
    assert "on_error" in inspect.signature(Client).parameters


def test_what_is_said_of_responses_is_so() -> None:
    assert f"for {fastapi.PASS_S:.0f} seconds, requests for it run side by side" in INTEGRATIONS.text
    assert f"up to `body_bytes_max`, {fastapi.BODY_BYTES_MAX >> 20} MiB" in INTEGRATIONS.text
    assert f"| `lock_timeout` | {dogpile.LOCK_TIMEOUT_S:.0f} s |" in INTEGRATIONS.text
    assert f"Keys over {shared.KEY_BYTES_MAX} bytes" in INTEGRATIONS.text
    assert f"how many nodes there are ({pytest_plugin.NODES})" in INTEGRATIONS.text


def test_each_framework_is_an_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    told = re.findall(r"meshcache\[(\w+)\]", INTEGRATIONS.text)
    assert len(told) == 7
    assert set(told) <= extras.keys()


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
