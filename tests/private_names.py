"""A name server of the tests' own: names, and the addresses for which they stand now, in one file of JSON.

``install`` has this process resolve them; ``environment`` has a program in Python do so, from its start.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_VARIABLE: Final = "PRIVATE_NAMES"
_START: Final = f"import os, private_names\nprivate_names.install(os.environ[{_VARIABLE!r}])\n"


def write(file: Path, names: Mapping[str, list[str]]) -> None:
    """Replace all names."""
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(names))
    beside.replace(file)


def install(file: str | Path, patch: Any = None) -> None:
    """Resolve the names of the file, and all others as before; ``patch``: what undoes it (monkeypatch)."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        names = json.loads(Path(file).read_text())
        if name not in names:
            return resolve(host, port, *args, **options)
        if not names[name]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found for ip in names[name] for found in resolve(ip, port, *args, **options)]

    if patch is None:
        socket.getaddrinfo = getaddrinfo
    else:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)


def environment(file: Path, folder: Path) -> dict[str, str]:
    """Return the environment of a program that is to resolve them, too; ``folder`` is for what that takes."""
    (folder / "sitecustomize.py").write_text(_START)
    path = os.pathsep.join([str(folder), str(Path(__file__).parent)])
    return dict(os.environ, PYTHONPATH=path, **{_VARIABLE: str(file)})
