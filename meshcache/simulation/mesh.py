"""Nodes and a network to simulate with, used by hand in tests or by a plan drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from meshcache.client.delivery import Flow
from meshcache.config import Config
from meshcache.protocol.record import is_tombstone
from meshcache.simulation.clients import ClientHost
from meshcache.simulation.hosts import NodeHost
from meshcache.simulation.network import CALM, Network, Weather
from meshcache.simulation.world import World

SEED_NUMBERS: Final = (1, 2)
"""The nodes that every other node dials when it starts."""


class Mesh:
    """Node hosts by id (n1, n2, …), not started yet, and the network between them."""

    def __init__(
        self,
        *,
        nodes: int = 3,
        seed: int = 0,
        weather: Weather = CALM,
        trace: Callable[[str], None] | None = None,
        **tables: Mapping[str, Any],
    ) -> None:
        self.world = World(seed, trace)
        self.network = Network(self.world)
        self.network.weather = weather
        self.nodes: dict[str, NodeHost] = {}
        self.clients: list[ClientHost] = []
        self.impostors = 0
        self._tables = tables
        for _ in range(nodes):
            self.add()

    def add(self, **options: Any) -> NodeHost:
        """Make one more node host, without starting it."""
        number = len(self.nodes) + 1
        config = self._config(number, f"127.0.0.{number}:7101")
        host = NodeHost(self.world, self.network, config, **options)
        self.nodes[host.name] = host
        return host

    def impostor(self, host: NodeHost) -> NodeHost:
        """Make a host with the id of another one, at an address of its own."""
        self.impostors += 1
        config = self._config(list(self.nodes).index(host.name) + 1, f"127.0.1.{self.impostors}:7101")
        return NodeHost(self.world, self.network, config, impostor=True)

    def move(self, host: NodeHost) -> None:
        """Let a host that does not run start at another address the next time."""
        number = list(self.nodes).index(host.name) + 1
        port = int(host.address.rpartition(":")[2]) + 1
        host.config = self._config(number, f"127.0.0.{number}:{port}")
        host.address = host.config.node.listen

    def _config(self, number: int, address: str) -> Config:
        seeds = [f"127.0.0.{i}:7101" for i in SEED_NUMBERS if i != number]
        own = {"id": f"n{number}", "listen": address, "host": f"h{number}", "seeds": seeds, "data_dir": f"disk{number}"}
        return Config.from_tables(**{**self._tables, "node": own})

    def start(self, *, settle: bool = True) -> Mesh:
        """Start every node that does not run; wait until all know each other."""
        for host in self.nodes.values():
            if host.core is None:
                host.start()
        if settle:
            self.settle()
        return self

    def settle(self, *, within_s: float = 10.0) -> None:
        """Wait until the running nodes agree on everything."""
        if not self.world.run_until_true(lambda: not self.disagreements(), within_s=within_s, step_s=0.05):
            raise AssertionError(f"not converged within {within_s} s: {'; '.join(self.disagreements())}")

    def wait_for(self, condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
        """Let time pass until a condition holds."""
        if not self.world.run_until_true(condition, within_s=within_s):
            raise AssertionError(f"the condition did not come true within {within_s} s")

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.world.run_until(self.world.now + seconds)

    def disagreements(self, *, transitions: bool = False) -> list[str]:
        """Describe why the running nodes are not one mesh that serves; with ``transitions``: and that is at rest."""
        cores = {host.name: host.core for host in self.nodes.values() if host.core is not None and not host.paused}
        found: list[str] = []
        first = next(iter(cores.values()), None)
        for name, core in cores.items():
            assert first is not None
            others = [other for other in cores if other != name]
            if not core.ready:
                found.append(f"{name} is not ready")
            if core.membership.digest() != first.membership.digest():
                found.append(f"{name} has another member table")
            if core.view.digest != first.view.digest:
                found.append(f"{name} has another ring")
            if [member.node_id for member in core.view.ring.members] != sorted(cores):
                found.append(f"{name} does not have just the running nodes in its ring")
            missing = [other for other in others if other not in core.peers.by_node]
            if missing:
                found.append(f"{name} has no link to {' '.join(missing)}")
            if transitions and core.view.former:
                found.append(f"{name} still works with a former ring")
        return found

    def differences(self) -> list[str]:
        """Describe running owners with different versions of a key. An owner without the key may have forgotten it."""
        cores = {host.name: host.core for host in self.nodes.values() if host.core is not None and not host.paused}
        versions: dict[bytes, dict[str, bytes]] = {}
        for name, core in cores.items():
            for slot, owned in enumerate(core.view.owned):
                for key in core.store.keys_of_slot(slot) if owned else ():
                    record = core.store.peek(key)
                    if record is not None and record[16:22] > core.coordinator.instant.now_bytes:
                        # Each node decides itself when a tombstone may go: a trace depends on what it replaced there.
                        versions.setdefault(key, {})[name] = record[:16] if is_tombstone(record) else record[:22]
        return [
            f"{key.decode()}: " + ", ".join(f"{name} has {version.hex()}" for name, version in held.items())
            for key, held in versions.items()
            if len(dict.fromkeys(held.values())) > 1
        ]

    def cut(self, side: Iterable[str], *, one_way: bool = False) -> None:
        """Cut these hosts off from all other nodes: both ways, or only what these hosts send."""
        inside = dict.fromkeys(side)
        for here in inside:
            for there in self.nodes:
                if there not in inside:
                    self.network.cut(here, there)
                    if not one_way:
                        self.network.cut(there, here)

    def client(self, name: str = "c1", **options: Any) -> ClientHost:
        """Return a new client that knows all nodes by address."""
        seeds = tuple(host.address for host in self.nodes.values())
        client = ClientHost(self.world, self.network, name, seeds, **options)
        self.clients.append(client)
        return client

    def call(self, client: ClientHost, flow: Flow[Any], *, within_s: float = 60.0) -> Any:
        """Run one operation to its end, as a caller of the blocking client would; raises what that would raise."""
        ended: list[tuple[Any, Exception | None]] = []
        client.run(flow, lambda result, error, _: ended.append((result, error)))
        self.wait_for(lambda: bool(ended), within_s=within_s)
        result, error = ended[0]
        if error is not None:
            raise error
        return result

    def owners(self, key: str) -> list[str]:
        """Return the owners of a key, as the first running node sees them."""
        core = next(host.core for host in self.nodes.values() if host.core is not None)
        return list(core.view.ring.preference_list(key.encode()))
