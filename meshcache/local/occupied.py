"""Which programs use the ports that a launch wants, and where there are free ports.

Usually it is a mesh of the same user, started in another terminal and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from meshcache.contradictions import HTTP_PORT_OFFSET, PUBLISH_PORT_OFFSET
from meshcache.errors import MeshcacheError
from meshcache.local.banner import counted
from meshcache.local.processes import EPHEMERAL_PORTS_FROM, HOST, find_base_port, is_free, ports_of

_ASK_TIMEOUT_S: Final = 3.0
_ASKED_MAX: Final = 3
"""How many ports are asked at most: a program that accepts a connection and says nothing costs the whole timeout."""
_STEP: Final = HTTP_PORT_OFFSET + PUBLISH_PORT_OFFSET
_LISTENING: Final = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def why_taken(taken: Sequence[int], nodes: int, base_port: int, typed_command: str) -> str:
    """Say what uses the ports that ``nodes`` nodes want, how to use or stop it, and which ``--base-port`` is free."""
    free = free_base_port(nodes, base_port)
    status = _mesh_behind(taken)
    if status is None:
        ports = ", ".join(map(str, taken))
        return (
            f"in use by another program: port {ports} of {HOST}; stop it or choose another --base-port: {free} is free"
        )
    up = [member for member in status["members"] if member["state"] == "alive"]
    addresses = ", ".join(sorted(member["address"] for member in up))
    there = f"cluster {status.get('cluster', '?')!r} with {counted(len(up))} at {addresses}"
    use = f"`{typed_command} status --at {status['address']}`"
    return (
        f"a mesh runs there already: {there}. Use it, as with {use}; or stop it, {_how_to_stop(status['address'])}; or "
        f"start another one with --base-port {free}, which is free"
    )


def free_base_port(nodes: int, base_port: int) -> int:
    """Return a base port with room for ``nodes`` nodes: the next round one, else any."""
    for base in range(base_port + _STEP, EPHEMERAL_PORTS_FROM - HTTP_PORT_OFFSET - nodes, _STEP):
        if all(is_free(port) for index in range(nodes) for port in ports_of(base + index)):
            return base
    return find_base_port(nodes)


def _mesh_behind(taken: Iterable[int]) -> dict[str, Any] | None:
    """Return what the node on one of these ports says of itself; None if there is none.

    The port may be any of a node's ports, not only the one for clients.
    """
    from meshcache.client.blocking.client import Client  # noqa: PLC0415  (not needed where the ports are free)

    candidates = [port - offset for port in taken for offset in (0, PUBLISH_PORT_OFFSET, HTTP_PORT_OFFSET)]
    asked = [port for port in dict.fromkeys(candidates) if port > 0 and not is_free(port)]
    for port in asked[:_ASKED_MAX]:
        address = f"{HOST}:{port}"
        with suppress(MeshcacheError), Client([address], timeout=_ASK_TIMEOUT_S) as client:
            status: dict[str, Any] = client.inspect("status", node=address)
            return status
    return None


def _how_to_stop(address: str) -> str:
    pid = _launcher_of(int(address.rpartition(":")[2]))
    return "with Ctrl-C where it runs" + (f" or `kill {pid}`" if pid is not None else "")


def _launcher_of(port: int) -> int | None:
    """Return the process id of the ``up`` whose node listens on a port, if the system tells."""
    for pid in _listening_on(port):
        words = _command_line(pid)
        with suppress(ValueError, IndexError):
            parent = int(words[words.index("--parent-pid") + 1])
            if "up" in _command_line(parent):
                return parent
    return None


def _listening_on(port: int) -> list[int]:
    """Return the processes that listen on a port; the system does not tell of other users' processes."""
    sockets = set()
    with suppress(OSError, IndexError):
        for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            local, state, inode = (line.split()[i] for i in (1, 3, 9))
            if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{inode}]")
    found = []
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        with suppress(OSError):
            if any(str(descriptor.readlink()) in sockets for descriptor in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []
