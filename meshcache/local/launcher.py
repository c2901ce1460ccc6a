"""Meshes of real processes on this machine: ``up`` supervises one for people, ``LocalMesh`` runs one for tests.

``LocalMesh`` does not restart a node by itself: there, a node that is down was stopped by the test.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from meshcache.config import Config, overrides_of
from meshcache.contradictions import HTTP_OFF
from meshcache.durations import Timeout, waiting_s
from meshcache.errors import ConfigError, MeshcacheError, NodeUnavailable, OperationTimeout
from meshcache.local.banner import banner, typed_command
from meshcache.local.log_lines import LogLines
from meshcache.local.occupied import why_taken
from meshcache.local.processes import (
    ASK_INTERVAL_S,
    EXIT_CONFIG,
    NODES_MAX,
    STOP_GRACE_S,
    NodeProcess,
    Survey,
    ending_of,
    find_base_port,
    is_free,
    memcached_addresses,
    ports_of,
    why_unsettled,
)
from meshcache.local.supervisor import Supervisor
from meshcache.sockets.descriptors import NoDescriptors, as_os_error

if TYPE_CHECKING:
    from meshcache.client.blocking.client import Client

DEFAULT_BASE_PORT: Final = 7101
DEFAULT_MEMCACHED: Final = "127.0.0.1:11211"
"""Where the first node of a local mesh has its door for clients of memcached: memcached's own port."""
LEAVE_GRACE_S: Final = 40.0
"""A node that takes longer than this to hand over what it owns is killed."""
_LOG_TAIL_BYTES: Final = 2000


def up(
    nodes: int = 3,
    *,
    base_port: int = DEFAULT_BASE_PORT,
    config_path: str | None = None,
    data_dir: str | None = None,
    overrides: Sequence[str] = (),
    memcached: bool = False,
) -> int:
    """Launch and supervise ``nodes`` nodes; return the exit code. Raises ConfigError if they could not start.

    ``memcached``: give each a door for clients of memcached, also where the configuration has none.
    """
    if not 1 <= nodes <= NODES_MAX:
        raise ConfigError(f"--nodes must be from 1 to {NODES_MAX}, is {nodes}")
    top = 65535 - ports_of(nodes - 1)[-1]
    if not 1 <= base_port <= top:
        raise ConfigError(f"--base-port must be from 1 to {top} for {nodes} nodes, is {base_port}")
    config = Config.load(config_path, overrides=[*overrides, f"node.data_dir={data_dir}"] if data_dir else overrides)
    data_dir = data_dir or config.node.data_dir
    taken = [port for index in range(nodes) for port in ports_of(base_port + index) if not is_free(port)]
    if taken:
        raise ConfigError(why_taken(taken, nodes, base_port, typed_command()))
    options = ["--config", config_path] if config_path else []
    options += [part for override in overrides for part in ("--set", override)]
    options += ["--set", f"node.http={HTTP_OFF}"] if config.node.http == HTTP_OFF else []
    # The logs come into our pipe; the format of our own output is chosen elsewhere.
    options += ["--set", "log.format=json"]
    doors = memcached_addresses(config.memcached.listen or (DEFAULT_MEMCACHED if memcached else ""), nodes)
    launched = []
    for index in range(nodes):
        node_id = f"node{index + 1}"
        own = ["--set", f"node.data_dir={Path(data_dir) / node_id}"] if data_dir else []
        launched.append(NodeProcess(node_id, base_port + index, options + own, doors[index]))
    on_terminal = sys.stderr.isatty()
    lines = LogLines(
        readable=config.log.format == "console" or (config.log.format == "auto" and on_terminal),
        coloured=on_terminal and not os.environ.get("NO_COLOR"),
    )
    advice = banner([node.address for node in launched], config, [door for door in doors if door])
    key_file = key_file_of(config.security.key_file, launched)
    return Supervisor(launched, out=sys.stdout, log=sys.stderr, lines=lines, advice=advice, key_file=key_file).run()


def key_file_of(setting: str, nodes: Iterable[NodeProcess]) -> str:
    """Return the key file of the first node: by its key the others answer, too. Empty: there are no keys."""
    return setting.replace("{id}", next(iter(nodes)).node_id)


class LocalMesh:
    """A mesh of real node processes on this machine, for tests and development.

    ::

        with LocalMesh(nodes=3, cluster={"replicas": 3}, store={"max_entries": 1000}) as mesh:
            cache = mesh.client()
            mesh.kill("node2")

    Entering it returns when every node sees every other. Tables of the configuration are keyword arguments, and
    ``node={...}`` applies to each node. No node is restarted by itself, and no process outlives this one.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        base_port: int | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        **tables: Mapping[str, Any],
    ) -> None:
        """``base_port=None``: free ports.

        With ``memcached={"listen": "host:port"}`` each node has a door for clients of memcached, at this port and those
        that follow, or at the next that are free.

        ``data_dir`` keeps the nodes' logs, and their snapshots if these are on; by default both go with the mesh.
        """
        if not 1 <= nodes <= NODES_MAX:
            raise ConfigError(f"nodes must be from 1 to {NODES_MAX}, is {nodes}")
        Config.from_tables(**{**tables, "node": {"data_dir": "one for each", **tables.get("node", {})}})
        self._options = [part for override in overrides_of(tables) for part in ("--set", override)]
        self._memcached = str(tables.get("memcached", {}).get("listen", ""))
        self._key_file = str(tables.get("security", {}).get("key_file", ""))
        self._count = nodes
        self._fixed_base_port = base_port
        self._nodes: dict[str, NodeProcess] = {}
        self._paused: set[str] = set()
        self._down: set[str] = set()
        self._clients: list[Client] = []
        self._data_dir = Path(data_dir) if data_dir is not None else None
        self._log_dir: Path | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a LocalMesh can not be pickled or copied: pickle its addresses, or a client: mesh.client()")

    def __enter__(self) -> Self:
        attempts = 1 if self._fixed_base_port is not None else 5
        try:
            while True:
                attempts -= 1
                self._plan()
                self.start()
                try:
                    self.wait_ready()
                except ConfigError:
                    if not (self._stop_all() and attempts):
                        raise
                else:
                    return self
        except BaseException as error:
            self.close()
            known = as_os_error(error) if isinstance(error, OSError) else None
            if isinstance(known, NoDescriptors):
                raise NodeUnavailable(f"the mesh could not be started: {known.strerror}") from error
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def addresses(self) -> list[str]:
        """``host:port`` of every node, running or not, in the order in which they were made."""
        return [node.address for node in self._nodes.values()]

    @property
    def memcached_addresses(self) -> list[str]:
        """``host:port`` of each node's door for clients of memcached, in the same order; empty where it has none."""
        return [node.memcached for node in self._nodes.values()]

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each node that runs, paused ones included."""
        return {node_id: node.pid for node_id, node in self._nodes.items() if node.running and node.pid is not None}

    def client(self, **options: Any) -> Client:
        """Return a new client of this mesh, which is closed with the mesh at the latest.

        Where nodes have keys, it has the first node's, and with it all rights, unless ``key_file`` names another.
        """
        from meshcache.client.blocking.client import Client  # noqa: PLC0415  (a launch without a client needs no ZeroMQ)

        options.setdefault("key_file", key_file_of(self._key_file, self._nodes.values()))
        client = Client(self.addresses, **options)
        self._clients.append(client)
        return client

    def log(self, node_id: str) -> str:
        """Return what a node has written so far, in all its starts."""
        path = self._log_path(self._node(node_id))
        return path.read_text(encoding="utf-8", errors="backslashreplace") if path.exists() else ""

    def start(self, node_id: str | None = None) -> None:
        """Start a node again at its old address; without an id, start all that do not run."""
        nodes = [self._node(node_id)] if node_id else [node for node in self._nodes.values() if not node.running]
        for node in nodes:
            self._paused.discard(node.node_id)
            self._down.discard(node.node_id)
            node.start(self.addresses, log_path=self._log_path(node))

    def stop(self, node_id: str) -> None:
        """Let a node hand over what it owns and leave; return when it is gone."""
        node = self._node(node_id)
        node.terminate(hand_over=True)
        node.wait(LEAVE_GRACE_S)
        self._down.add(node_id)

    def restart(self, node_id: str) -> None:
        """Stop a node in good order, and start it again."""
        self.stop(node_id)
        self.start(node_id)

    def kill(self, node_id: str) -> None:
        """End a node at once, as kill -9 does, and return when it is gone."""
        self._node(node_id).kill()
        self._down.add(node_id)

    def pause(self, node_id: str) -> None:
        """Freeze a node, as SIGSTOP does."""
        self._node(node_id).pause()
        self._paused.add(node_id)

    def resume(self, node_id: str) -> None:
        """Let a paused node go on."""
        self._node(node_id).signal(signal.SIGCONT)
        self._paused.discard(node_id)

    def add(self) -> str:
        """Start one more node, which joins the others; return its id."""
        port = max(node.port for node in self._nodes.values()) + 1
        while not all(is_free(each) for each in ports_of(port)):
            port += 1
        door = memcached_addresses(self._memcached, 1)[0]
        node = self._process(f"node{len(self._nodes) + 1}", port, door)
        self._nodes[node.node_id] = node
        self.start(node.node_id)
        return node.node_id

    def wait_ready(self, timeout: Timeout = 30.0) -> None:
        """Return when every running node sees every other, and none counts on one that is down.

        Paused nodes are ignored.

        OperationTimeout says what was still missing; NodeUnavailable quotes the log of a node that ended by itself.
        """
        present = {
            node_id: node.address
            for node_id, node in self._nodes.items()
            if node_id not in self._down and node_id not in self._paused
        }
        if not present:
            return
        timeout_s = waiting_s(timeout) or 0.0
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        with Survey(key_file_of(self._key_file, self._nodes.values())) as survey:
            while missing := why_unsettled(survey, present, self._down):
                for node_id in present:
                    self._raise_if_ended(self._nodes[node_id])
                if time.monotonic() > deadline:
                    raise OperationTimeout(f"the mesh was not ready after {timeout_s:g} s: {missing}")
                pause.wait(ASK_INTERVAL_S)

    def close(self) -> None:
        """Stop every node and forget the mesh. Closing twice does nothing."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self._stop_all()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _plan(self) -> None:
        base_port = self._fixed_base_port or find_base_port(self._count)
        if self._data_dir is None and self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="meshcache-")
        self._log_dir = self._data_dir or Path(self._temporary.name if self._temporary else ".")
        self._log_dir.mkdir(parents=True, exist_ok=True)
        names = [f"node{index + 1}" for index in range(self._count)]
        doors = memcached_addresses(self._memcached, self._count)
        self._nodes = {name: self._process(name, base_port + i, doors[i]) for i, name in enumerate(names)}

    def _process(self, node_id: str, port: int, door: str) -> NodeProcess:
        assert self._log_dir is not None, "it was planned"
        return NodeProcess(node_id, port, [*self._options, "--set", f"node.data_dir={self._log_dir / node_id}"], door)

    def _stop_all(self) -> bool:
        """Stop every node; tell whether one had ended because another program took its port first."""
        refused = [node for node in self._nodes.values() if node.returncode == EXIT_CONFIG]
        for node in self._nodes.values():
            node.terminate()
        deadline = time.monotonic() + STOP_GRACE_S
        for node in self._nodes.values():
            node.wait(max(0.0, deadline - time.monotonic()))
        self._paused.clear()
        self._down = set(self._nodes)
        return any(not is_free(port) for node in refused for port in ports_of(node.port))

    def _node(self, node_id: str) -> NodeProcess:
        if node_id not in self._nodes:
            raise MeshcacheError(f"no node {node_id!r} in this mesh; there are: {', '.join(self._nodes) or 'none yet'}")
        return self._nodes[node_id]

    def _log_path(self, node: NodeProcess) -> Path:
        assert self._log_dir is not None, "a node comes from _plan"
        return self._log_dir / f"{node.node_id}.log"

    def _raise_if_ended(self, node: NodeProcess) -> None:
        if node.returncode is None:
            return
        tail = self.log(node.node_id)[-_LOG_TAIL_BYTES:].strip() or "(it wrote nothing)"
        text = f"{node.node_id} {ending_of(node.returncode)}; the end of its log:\n{tail}"
        raise ConfigError(text) if node.returncode == EXIT_CONFIG else NodeUnavailable(text)
