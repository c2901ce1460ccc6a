"""kill -9 of nodes behind clients of memcached, which know all doors and leave out one that does not answer.

The clients are pymemcache's ``HashClient``: each key belongs to one door, as long as that answers; else the client
gives it to another. It tells whoever asked first of the door's failure by an error, and so do we: what is looked at is
that every key can be had at the other doors at once, and that nothing is lost, stale or wrong there.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import Any, Final

import meshcache
from meshcache.errors import NodeUnavailable
from meshcache.local.processes import HOST, find_base_port

from .lane import Lane, Mix
from .ledger import Ledger
from .scenario import Options, Result
from .tally import total_of

CALLERS: Final = 6
KEYS_EACH: Final = 60
VALUE_BYTES: Final = 100
TIMEOUT_S: Final = 5.0
"""A killed node refuses connections at once: what takes longer waits for the mesh behind the door."""
DEAD_S: Final = 2.0
"""For so long a client leaves out a door that did not answer."""
FAILURES_OF_A_KILL: Final = 3
"""Calls of one client: on the connection that is lost, on the one that is refused, and a last try of the door as it
opens. Besides, it tries the door once in DEAD_S."""
UNAVAILABLE_S_MAX: Final = 1.0
AUDIT_BATCH: Final = 100


class HashedDoors:
    """A client with a list of doors; its errors are those that lanes know."""

    def __init__(self, addresses: list[str]) -> None:
        from pymemcache import serde  # noqa: PLC0415  (other scenarios do without the library)
        from pymemcache.client.hash import HashClient  # noqa: PLC0415
        from pymemcache.exceptions import MemcacheError  # noqa: PLC0415

        self._errors = (OSError, MemcacheError)
        self._client = HashClient(
            addresses,
            serde=serde.pickle_serde,
            timeout=TIMEOUT_S,
            connect_timeout=TIMEOUT_S,
            no_delay=True,
            retry_attempts=0,
            dead_timeout=DEAD_S,
            default_noreply=False,
        )

    def call(self, verb: str, arguments: tuple[Any, ...]) -> Any:
        """Do what a lane wants. The lifetime None of ours is 0 there."""
        if verb.startswith("set"):
            arguments = (*arguments[:-1], 0)
        try:
            outcome = getattr(self._client, verb)(*arguments)
        except self._errors as error:
            raise NodeUnavailable(f"{type(error).__name__}: {error}") from error
        if verb == "set" and not outcome:
            raise NodeUnavailable("it was not stored")
        return outcome

    def get_many(self, names: list[str]) -> Mapping[str, Any]:
        """Return what is there of these."""
        found: Mapping[str, Any] = self.call("get_many", (names,))
        return found

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class Callers:
    """Threads, each with a client and a lane of its own."""

    def __init__(self, addresses: list[str], rate: float) -> None:
        self.ledger = Ledger(CALLERS * KEYS_EACH)
        self._began = time.monotonic()
        self._interval_s = CALLERS / rate
        self._ended = threading.Event()
        self._addresses = addresses
        self.lanes = [
            Lane(self.ledger, range(i * KEYS_EACH, (i + 1) * KEYS_EACH), Mix(), VALUE_BYTES, i, self._began)
            for i in range(CALLERS)
        ]
        self.broken: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(lane,), daemon=True) for lane in self.lanes]

    @property
    def now_s(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._began

    def fill(self) -> None:
        """Write every key once."""
        with closing(HashedDoors(self._addresses)) as client:
            for lane in self.lanes:
                for call in lane.fill():
                    failed = client.call(call.verb, call.arguments)
                    if failed:
                        raise NodeUnavailable(f"could not write {failed[:3]} before the load began")
                    for key, number in zip(call.keys, call.numbers, strict=True):
                        self.ledger.acknowledge(key, number, delete=False)

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def run_for(self, seconds: float) -> None:
        """Let them go on."""
        self._ended.wait(seconds)

    def end(self) -> None:
        """Return when no call is under way any more."""
        self._ended.set()
        for thread in self._threads:
            thread.join(10 * TIMEOUT_S)
        if self.broken:
            raise self.broken[0]

    def _run(self, lane: Lane) -> None:
        try:
            with closing(HashedDoors(self._addresses)) as client:
                while not self._ended.wait(self._interval_s * random.random() * 2):
                    self._turn(lane, client)
                lane.finish(time.monotonic())
        except BaseException as error:  # noqa: BLE001  (a thread that dies unseen would check nothing)
            self.broken.append(error)

    def _turn(self, lane: Lane, client: HashedDoors) -> None:
        call = lane.next(writing=True)
        begin = time.monotonic()
        outcome: Any
        try:
            outcome = client.call(call.verb, call.arguments)
        except NodeUnavailable as error:
            outcome = error
        lane.take(call, outcome, begin, time.monotonic())

    def audit(self) -> Lane:
        """Read every key once more; return what checked them."""
        lane = Lane(self.ledger, range(0), Mix(), 0, 0, self._began)
        with closing(HashedDoors(self._addresses)) as client:
            for start in range(0, len(self.ledger), AUDIT_BATCH):
                lane.audit(client.get_many, list(range(start, min(len(self.ledger), start + AUDIT_BATCH))))
        return lane


def hashclient(options: Options) -> Result:
    """Three nodes, N=2 W=2 R=1, with a door each."""
    result = Result("hashclient", "kill -9 behind pymemcache's HashClient, 3 nodes, N=2 W=2 R=1")
    count = options.rounds or int(options.pick(1, 5))
    tables: dict[str, Any] = {"membership": {"transition_s": 1.0}} if options.quick else {}
    with ExitStack() as exits:
        listen = f"{HOST}:{find_base_port(3)}"
        mesh = exits.enter_context(meshcache.LocalMesh(nodes=3, memcached={"listen": listen}, **tables))
        callers = Callers(mesh.memcached_addresses, options.rate)
        callers.fill()
        callers.start()
        exits.callback(callers.end)
        rng = random.Random(options.seed)
        downs_s = [_round(options, mesh, callers, result, rng) for _ in range(count)]
        callers.end()
        result.elapsed_s = callers.now_s
        result.tally = total_of([*(lane.tally for lane in callers.lanes), callers.audit().tally])
    result.check("kills", count)
    result.check_answers(failed_percent=None, unavailable_s=UNAVAILABLE_S_MAX)
    by_client = sum(FAILURES_OF_A_KILL + down_s / DEAD_S for down_s in downs_s)
    result.check("failed calls, by client", result.tally.between().failed / CALLERS, by_client)
    return result


def _round(options: Options, mesh: meshcache.LocalMesh, callers: Callers, result: Result, rng: random.Random) -> float:
    """Kill a node and start it again; return for how long its door was closed, in seconds."""
    callers.run_for(options.pick(0.5, 2))
    victim = rng.choice(sorted(mesh.pids))
    began_s = callers.now_s
    result.marks.append((began_s, f"kill -9 {victim}"))
    mesh.kill(victim)
    callers.run_for(options.pick(1.5, 5))
    result.marks.append((callers.now_s, f"start {victim}"))
    mesh.start(victim)
    mesh.wait_ready()
    down_s = callers.now_s - began_s
    callers.run_for(DEAD_S)  # until all clients have it again
    return down_s
