"""Somebody within a network of its own, who looks at the mesh and uses it for a program that is outside."""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import meshcache
from meshcache.errors import MeshcacheError

from .ledger import Ledger, name_of
from .load import audit
from .namespaces import enter_namespace
from .tally import Tally
from .watch import Watch, sum_of

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


TIMEOUT_S: Final = 2.0
"""Of the observer's own calls: long enough for a node just cut off to be given up."""


class Change(NamedTuple):
    """What an attempt to change a key came to."""

    begin: float
    end: float
    error: str
    """Empty: it was acknowledged."""


class Observer:
    """A process in a namespace; its methods are those of ``_Eyes``, by name."""

    def __init__(self, namespace: str, addresses: dict[str, str], ledger: Ledger) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_observe, args=(namespace, addresses, ledger, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def call(self, name: str, *arguments: Any) -> Any:
        """Have something done there, and return what it returned."""
        self._pipe.send((name, arguments))
        if not self._pipe.poll(120):
            raise RuntimeError(f"the observer did not answer {name}")
        value = self._pipe.recv()
        if isinstance(value, Exception):
            raise value
        return value


def _observe(namespace: str, addresses: dict[str, str], ledger: Ledger, pipe: Connection) -> None:
    enter_namespace(namespace)
    with Watch(addresses) as watch, meshcache.Client(list(addresses.values()), timeout=TIMEOUT_S) as cache:
        eyes = _Eyes(watch, cache, ledger)
        while True:
            try:
                name, arguments = pipe.recv()
            except EOFError:
                return
            try:
                pipe.send(getattr(eyes, name)(*arguments))
            except Exception as error:  # noqa: BLE001  (it is raised where it was asked for)
                pipe.send(RuntimeError(f"{name}: {type(error).__name__}: {error}"))


class _Eyes:
    """What an observer can do."""

    def __init__(self, watch: Watch, cache: meshcache.Client, ledger: Ledger) -> None:
        self._watch = watch
        self._cache = cache
        self._ledger = ledger

    def settle(self, present: list[str], timeout_s: float, wholly: bool) -> float:
        """As Watch.settle."""
        return self._watch.settle(present, timeout_s, wholly=wholly)

    def counters(self) -> dict[str, float]:
        """Return the sums of the nodes' counters."""
        return sum_of(self._watch.counters(self._watch.addresses))

    def change(self, key: str, value: Any) -> Change:
        """Set a key, or (None) delete it."""
        begin, problem = time.monotonic(), ""
        try:
            if value is None:
                self._cache.delete(key)
            else:
                self._cache.set(key, value, ttl=None)
        except MeshcacheError as error:
            problem = f"{type(error).__name__}: {error}"
        return Change(begin, time.monotonic(), problem)

    def read(self, key: str) -> Any:
        """Get a key."""
        return self._cache.get(key)

    def audit(self) -> Tally:
        """Read and check all keys."""
        return audit(self._cache, self._ledger)

    def disagreements(self, more: list[str], through: str) -> list[str]:
        """Return the keys of which replicas hold different things: those of the load, and more."""
        keys = [name_of(key) for key in range(len(self._ledger))] + more
        return [key for key in keys if self._disagree(key, through)]

    def _disagree(self, key: str, through: str) -> bool:
        replicas = self._watch.ask(through, "explain", key.encode())["replicas"]
        held = {"absent" if replica["tombstone"] else replica["version"] or "absent" for replica in replicas}
        return len(held) > 1 or any(replica["error"] for replica in replicas)
