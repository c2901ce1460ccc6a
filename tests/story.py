"""A mesh and a client in the simulator, with the steps of which tests by hand are made."""

from __future__ import annotations

from typing import Any

from meshcache.client.delivery import Flow
from meshcache.protocol.record import NEVER_MS, stamp, tombstone
from meshcache.simulation.clients import ClientHost
from meshcache.simulation.hosts import EPOCH_MS, NodeHost
from meshcache.simulation.mesh import Mesh

STRICT = {"replicas": 3, "write_quorum": 2, "read_quorum": 2, "slots": 16, "vnodes": 8}
DEFAULT = {"replicas": 2, "write_quorum": 2, "read_quorum": 1, "slots": 16, "vnodes": 8}
SINGLE = {"replicas": 1, "write_quorum": 1, "read_quorum": 1, "slots": 16, "vnodes": 8}
LOOSE = {"replicas": 2, "write_quorum": 1, "read_quorum": 1, "slots": 16, "vnodes": 8}


class Story:
    """A mesh and a client, with the steps of which tests are made."""

    def __init__(self, nodes: int = 3, cluster: dict[str, Any] = DEFAULT, **tables: Any) -> None:
        self.mesh = Mesh(nodes=nodes, cluster=cluster, **tables).start()
        self.mesh.run(7.0)  # every transition of the start is over
        self.client = self.mesh.client()

    def node(self, node_id: str) -> NodeHost:
        return self.mesh.nodes[node_id]

    def owners(self, key: str) -> list[NodeHost]:
        return [self.mesh.nodes[node_id] for node_id in self.mesh.owners(key)]

    def put(self, host: NodeHost, key: str, value: str | None, clock_ms: int = 0, ttl_ms: int | None = None) -> bytes:
        """Let a node hold a value (None: a tombstone) written ``clock_ms`` after the simulation's begin."""
        core = host.core
        assert core is not None
        now_ms = core.coordinator.instant.wall_ms
        version = ((EPOCH_MS + clock_ms) << 16).to_bytes(8, "big") + bytes(8)
        expires_ms = NEVER_MS if ttl_ms is None else now_ms + ttl_ms
        record = tombstone(version, now_ms + 60_000) if value is None else stamp(version, expires_ms) + b"\0\1"
        core.store.merge([key.encode()], [record + (value or "").encode()], now_ms)
        return version

    def held(self, key: str) -> dict[str, bytes | None]:
        """Return the value that each running node holds."""
        found = {}
        for host in self.mesh.nodes.values():
            if host.core is not None:
                record = host.core.store.peek(key.encode())
                found[host.name] = record[24:] if record is not None else None
        return found

    def call(self, flow: Flow[Any]) -> Any:
        return self.mesh.call(self.client, flow)

    def get(self, key: str, client: ClientHost | None = None, timeout: float | None = None) -> Any:
        client = client or self.client
        return self.mesh.call(client, client.get(key, timeout))

    def set(self, key: str, value: Any, client: ClientHost | None = None, timeout: float | None = None) -> None:
        client = client or self.client
        self.mesh.call(client, client.session.set(key, value, None, timeout))

    def at(self, host: NodeHost) -> ClientHost:
        """Return a client that asks this node and no other."""
        client = self.mesh.client(f"at {host.name} {self.mesh.world.now}", stray=1.0)
        client._seeds = (host.address,)
        return client
