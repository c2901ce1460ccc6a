"""A PostgreSQL server of one's own: in a temporary directory, on a Unix socket, gone in the end.

The programs are those of Debian's package ``postgresql``, which ``scripts/test`` installs where it may.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 60.0
PAUSE_S = 0.02


class NoPostgres(Exception):
    """There is no server to start here; the text says why."""


def programs() -> Path:
    """Return the directory of the newest server that is installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not found:
        raise NoPostgres("PostgreSQL is not installed: apt-get install postgresql")
    return max(found, key=lambda path: int(path.parent.name))


def _account() -> dict[str, Any]:
    """Say as whom the server runs: it refuses to be root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise NoPostgres("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


@contextmanager
def private_postgres(*, fsync: bool = False) -> Iterator[str]:
    """Run a server; yields how to connect to it (a libpq string). Without fsync, as tests want it, it is quicker."""
    binaries = programs()
    account = _account()
    home = Path(tempfile.mkdtemp(prefix="meshcache-postgres-"))
    try:
        if account:
            os.chown(home, account["user"], account["group"])
        data = home / "data"
        command: list[str | Path] = [
            binaries / "initdb",
            "-D",
            data,
            "-U",
            "meshcache",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        made = subprocess.run(
            [*command, "--locale=C"],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
            **account,
        )
        if made.returncode:
            raise NoPostgres(f"initdb failed: {made.stderr.strip() or made.stdout.strip()}")
        with (home / "log").open("wb") as log:
            settings = ["listen_addresses=", f"unix_socket_directories={home}", f"fsync={'on' if fsync else 'off'}"]
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, *(word for each in settings for word in ("-c", each))],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **account,
            )
        try:
            _wait(binaries, home, server)
            yield f"host={home} user=meshcache dbname=postgres"
        finally:
            server.send_signal(signal.SIGINT)  # "fast": it ends the sessions
            server.wait(timeout=START_TIMEOUT_S)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _wait(binaries: Path, home: Path, server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while subprocess.run([binaries / "pg_isready", "-q", "-h", home], check=False).returncode:
        if server.poll() is not None or time.monotonic() > deadline:
            raise NoPostgres(f"the server does not start: {(home / 'log').read_text(errors='replace')[-2000:]}")
        time.sleep(PAUSE_S)
