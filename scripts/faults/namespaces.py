"""A network of its own, on this machine: hosts in network namespaces, on two switches with one cable between them.

Everything, the switches included, is in namespaces with names of their own, so that nothing of the machine's network
is touched, and all of it goes with the namespaces. Needs root and ``ip netns``.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from meshcache.local.processes import STOP_GRACE_S

PORT: Final = 7101
_NETWORK: Final = "10.199.77"
_CLONE_NEWNET: Final = 0x40000000
_CABLE: Final = ("cable0", "cable1")


def why_impossible() -> str | None:
    """Say why there can be no network of our own, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if shutil.which("ip") is None:
        return "there is no ip program (iproute2)"
    name = f"mc{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "ip netns add is refused here"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return None


def enter_namespace(name: str) -> None:
    """Have this process use a network namespace from now on; to be called before it has threads or sockets."""
    with open(f"/run/netns/{name}", "rb") as file:  # noqa: PTH123  (its descriptor is what is needed)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {name}")


class Network:
    """Hosts by side, each with an address; the cable between the two sides can be cut and healed."""

    def __init__(self, sides: tuple[Sequence[str], Sequence[str]]) -> None:
        self._sides = sides
        self._prefix = f"mc{os.getpid()}-"
        self._switch = f"{self._prefix}switch"
        self._stack = ExitStack()
        self.addresses = {host: f"{_NETWORK}.{i + 1}" for i, host in enumerate([*sides[0], *sides[1]])}

    def __enter__(self) -> Self:
        try:
            self._add_namespace(self._switch)
            for side in (0, 1):
                self._ip("link", "add", f"bridge{side}", "type", "bridge")
                self._ip("link", "set", f"bridge{side}", "up")
            self._ip("link", "add", _CABLE[0], "type", "veth", "peer", "name", _CABLE[1])
            for side, end in enumerate(_CABLE):
                self._ip("link", "set", end, "master", f"bridge{side}", "up")
            for side, hosts in enumerate(self._sides):
                for host in hosts:
                    self._add_host(host, side)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def namespace(self, host: str) -> str:
        """Return the name of a host's namespace."""
        return self._prefix + host

    def cut(self) -> None:
        """Drop whatever goes from one side to the other, without a word to anybody."""
        self._ip("link", "set", _CABLE[0], "down")

    def heal(self) -> None:
        """Undo ``cut``."""
        self._ip("link", "set", _CABLE[0], "up")

    def _add_host(self, host: str, side: int) -> None:
        namespace = self.namespace(host)
        self._add_namespace(namespace)
        self._ip("link", "add", f"to-{host}", "type", "veth", "peer", "name", "eth0", "netns", namespace)
        self._ip("link", "set", f"to-{host}", "master", f"bridge{side}", "up")
        self._ip("addr", "add", f"{self.addresses[host]}/24", "dev", "eth0", at=namespace)
        for device in ("lo", "eth0"):
            self._ip("link", "set", device, "up", at=namespace)

    def _add_namespace(self, name: str) -> None:
        _run("ip", "netns", "add", name)
        self._stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)

    def _ip(self, *arguments: str, at: str | None = None) -> None:
        _run("ip", "-n", at or self._switch, *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


class Nodes:
    """A node on each of some hosts of a network."""

    def __init__(self, network: Network, hosts: Sequence[str], overrides: Sequence[str], logs: Path) -> None:
        self.addresses = {host: f"{network.addresses[host]}:{PORT}" for host in hosts}
        self._network = network
        self._overrides = [part for override in overrides for part in ("--set", override)]
        self._logs = logs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            for host in self.addresses:
                self._start(host)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        self._stop()

    def ended(self) -> list[str]:
        """Return the nodes that do not run any more."""
        return [host for host, process in self._processes.items() if process.poll() is not None]

    def log(self, host: str) -> str:
        """Return what a node wrote."""
        return (self._logs / f"{host}.log").read_text(encoding="utf-8", errors="replace")

    def _start(self, host: str) -> None:
        command = ["ip", "netns", "exec", self._network.namespace(host), sys.executable, "-m", "meshcache", "node"]
        command += ["--id", host, "--listen", self.addresses[host], "--parent-pid", str(os.getpid())]
        command += [part for seed in self.addresses.values() for part in ("--seed", seed)]
        command += ["--set", "security.insecure=true", *self._overrides]
        with (self._logs / f"{host}.log").open("ab") as log:
            self._processes[host] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0
            )

    def _stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
            process.kill()
        for process in self._processes.values():
            process.wait(STOP_GRACE_S)
