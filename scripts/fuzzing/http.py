"""HTTP for a gateway that no honest client says, beside one that writes and reads keys by it.

Each case is a connection of its own, which says something and is then left open, and mostly not read from, until
OPEN_MAX later ones are there: more than the gateway has at a time. What is said is made of requests that are in order,
by damage to their bytes or by what stands in them; or it is what servers of HTTP have fallen for: two lengths, chunks
without end, headers without end, requests in a row, answers that nobody reads. An answer of 500 is a finding, and so is
a traceback in the gateway's log.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, Final

from fuzzing.judging import Door, Told, honest_key, judged, open_mesh, open_sockets
from meshcache.local.processes import HOST, find_base_port

OPEN_MAX: Final = 600
CONNECT_S: Final = 1.0
SEND_S: Final = 0.02
"""What is not taken by then is not said."""
HONEST_S: Final = 5.0
START_S: Final = 30.0
IN_A_ROW: Final = 30
IN_A_ROW_SHARE: Final = 0.02
READ_SHARE: Final = 0.7
"""Of the connections, how many are read from before they are closed."""
ANSWER_BYTES: Final = 1 << 12
PROBLEMS_SHOWN: Final = 3
TRACEBACK: Final = b"Traceback (most recent call last)"
BODY: Final = b'{"value": {"a": [1, 2]}, "ttl": 1000}'
BATCH: Final = json.dumps(
    {"get": ["fuzz:1"], "set": [{"key": "fuzz:2", "value": 1, "ttl": 500}], "delete": ["fuzz:3"]}
).encode()


def request(start: bytes, body: bytes = b"", *headers: bytes) -> bytes:
    """Return a request that is in order, if its parts are."""
    lines = [start + b" HTTP/1.1", b"Host: 127.0.0.1", *headers]
    if body:
        lines += [b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])


JSON: Final = b"Content-Type: application/json"
OCTETS: Final = b"Content-Type: application/octet-stream"
IN_ORDER: Final = (
    request(b"GET /health"),
    request(b"GET /metrics"),
    request(b"GET /"),
    request(b"GET /cache/fuzz:1"),
    request(b"GET /cache/fuzz:1?consistency=quorum"),
    request(b"GET /cache/fuzz:1", b"", b'If-None-Match: "1.2"'),
    request(b"HEAD /cache/fuzz:1"),
    request(b"PUT /cache/fuzz:1", BODY, JSON),
    request(b"PUT /cache/fuzz:2?ttl_s=5", b"\0\1\2" * 100, OCTETS),
    request(b"PUT /cache/fuzz:3", BODY, JSON, b"If-None-Match: *", b"Cache-Tags: fuzz"),
    request(b"DELETE /cache/fuzz:1"),
    request(b"DELETE /cache/fuzz:1", b"", b'If-Match: "1.2"'),
    request(b"POST /cache:batch", BATCH, JSON),
    request(b"POST /invalidate", b'{"keys": ["fuzz:1"], "tags": ["fuzz"]}', JSON),
    request(b"GET /events?prefix=fuzz:"),
    request(b"GET /cluster/status"),
    request(b"GET /cluster/distribution"),
    request(b"GET /cluster/explain/fuzz:1"),
    request(b"OPTIONS /cache/fuzz:1", b"", b"Origin: http://evil.example", b"Access-Control-Request-Method: PUT"),
)
"""They touch keys that begin with ``fuzz:`` only."""
CHUNKED: Final = b"Transfer-Encoding: chunked"
CUNNING: Final = (
    request(b"PUT /cache/fuzz:1", BODY, JSON, CHUNKED),
    request(b"PUT /cache/fuzz:1", b"", JSON, CHUNKED) + b"ffffffffffffffffff\r\n",
    request(b"PUT /cache/fuzz:1", b"", JSON, CHUNKED) + b"1;" + b"x" * 3000 + b"\r\n{\r\n0\r\n\r\n",
    request(b"PUT /cache/fuzz:1", b"", JSON, CHUNKED) + b"1\r\n{\r\n" * 2000,
    request(b"PUT /cache/fuzz:1", b"", JSON, CHUNKED) + b"0\r\n" + b"T: x\r\n" * 3000,
    request(b"PUT /cache/fuzz:1", b"", JSON, b"Content-Length: -1"),
    request(b"PUT /cache/fuzz:1", b"", JSON, b"Content-Length: 99999999999999999999"),
    request(b"PUT /cache/fuzz:1", b"", JSON, b"Content-Length: 1000000") + b"{",
    request(b"PUT /cache/fuzz:1", BODY, JSON, b"Content-Length: 3"),
    request(b"PUT /cache/fuzz:1", BODY, JSON, b"Expect: 100-continue"),
    request(b"PUT /cache/fuzz:1", BODY, JSON, b"Content-Encoding: gzip"),
    request(b"PUT /cache/fuzz:1", b"[" * 60_000, JSON),
    request(b"PUT /cache/fuzz:1", b'{"value": ' + b"9" * 5000 + b"}", JSON),
    request(b"PUT /cache/fuzz:1", b'{"value": 1e999, "ttl": NaN}', JSON),
    request(b"PUT /cache/fuzz:1", b'{"value": "\\ud800", "ttl": -1}', JSON),
    request(b"PUT /cache/fuzz:1?ttl_s=nan", b"x", OCTETS),
    request(b"PUT /cache/fuzz:1?ttl_s=1e400&ttl_s=2", b"x", OCTETS),
    request(b"PUT /cache/fuzz:1", b"x", b"Content-Type: \xff/\xfe"),
    request(b"POST /cache:batch", b'{"get": [' + b'"fuzz:1",' * 5000 + b'"fuzz:1"]}', JSON),
    request(b"POST /cache:batch", b'{"set": [{"key": "fuzz:1"}], "set": [[]]}', JSON),
    request(b"POST /cache:batch", b"null", JSON),
    request(b"POST /invalidate", b'{"keys": [null, 1, {}], "tags": "fuzz"}', JSON),
    request(b"GET /cache/" + b"%00" * 2000),
    request(b"GET /cache/fuzz:%ff%fe%"),
    request(b"GET /cache/../../etc/passwd"),
    request(b"GET http://evil.example/cache/fuzz:1"),
    request(b"GET //evil.example/%2e%2e/"),
    request(b"GET /cache/fuzz:1", b"", b"Host: evil.example"),
    request(b"GET /cache/fuzz:1", b"", b"Range: bytes=0-" + b",0-" * 3000),
    request(b"GET /cache/fuzz:1", b"", b"If-None-Match: " + b'"x",' * 3000),
    request(b"GET /cache/fuzz:1", b"", *[b"X: y"] * 2000),
    request(b"GET /cache/fuzz:1", b"", b"X: " + b"y" * 100_000),
    request(b"GET /cache/fuzz:1", b"", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
    request(b"PRI *") + b"SM\r\n\r\n",
    request(b"CONNECT evil.example:443"),
    request(b"GET /events?prefix=" + b"x" * 3000),
    request(b"GET /cache/fuzz:1") * 100,
    request(b"GET /metrics") * IN_A_ROW,
    b"GET /health HTTP/9.9\r\n\r\n",
    b"GET /cache/fuzz:1\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500),
    b"\r\n" * 5000,
)


class Visitor:
    """Company (see Company) that opens one connection after the other, and says something at each."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self._port = port
        self._rng = rng
        self._open: deque[tuple[socket.socket, bytes]] = deque()
        self.problems: list[str] = []
        """What was answered by 500."""

    def hostile(self) -> int:
        """Open a connection, and say what is wrong."""
        rng, chance = self._rng, self._rng.random()
        if chance < 0.4:
            return self._say(rng.choice(CUNNING))
        said = bytearray(rng.choice(IN_ORDER if chance < 0.8 else CUNNING))
        for _ in range(rng.randint(1, 4)):
            said[rng.randrange(len(said))] ^= 1 << rng.randrange(8)
        return self._say(bytes(said[: rng.randint(1, len(said))] if rng.random() < 0.3 else said))

    def harmless(self) -> int:
        """Open a connection, and say what is right: as often as the hostile do, many requests in a row."""
        said = self._rng.choice(IN_ORDER)
        return self._say(said * IN_A_ROW if self._rng.random() < IN_A_ROW_SHARE else said)

    def _say(self, said: bytes) -> int:
        with contextlib.suppress(OSError):
            dialled = socket.create_connection(("127.0.0.1", self._port), CONNECT_S)
            self._open.append((dialled, said))
            dialled.settimeout(SEND_S)
            while len(self._open) > OPEN_MAX:
                self._end(*self._open.popleft())
            dialled.sendall(said)
            return 1
        return 0

    def _end(self, connection: socket.socket, said: bytes) -> None:
        with connection, contextlib.suppress(OSError):
            if self._rng.random() < READ_SHARE:
                answer = connection.recv(ANSWER_BYTES, socket.MSG_DONTWAIT)
                if answer.startswith(b"HTTP/1.1 500"):
                    self.problems.append(f"{said[:200]!r} was answered {answer[:300]!r}")

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            self._end(*self._open.pop())


def ask(addresses: list[str], _key_file: str, moment: Any, ended: Any, told: Connection) -> None:
    """Write and read keys that nobody else uses by HTTP, on one connection, in a process of its own."""
    took_s: tuple[list[float], list[float], list[float]] = ([], [], [])
    calls, wrong, errors, unanswered = 0, list[str](), list[str](), [0, 0, 0]
    client = http.client.HTTPConnection(addresses[0], timeout=HONEST_S)
    _exchange(client, "PUT", honest_key(0), b"0")
    connections = open_sockets()
    told.send("served")
    while not ended.wait(0.002):
        calls += 1
        key, began, kind = honest_key(calls), time.monotonic(), moment.value
        value = b"%d" % calls
        try:
            wanted = (_exchange(client, "PUT", key, value)[0], *_exchange(client, "GET", key))
            if wanted != (201, 200, value):  # damage does not make another key of one that begins with fuzz:
                wrong.append(f"{wanted} for {calls} of {key}")
        except (OSError, http.client.HTTPException) as error:
            errors.append(repr(error))
            unanswered[max(kind, moment.value)] += 1
            client.close()  # it connects anew by itself
        took_s[max(kind, moment.value)].append(time.monotonic() - began)
    alone, beside_harmless, beside_hostile = unanswered
    dropped = len(connections - open_sockets())
    told.send(Told(took_s, wrong, errors, (alone, beside_harmless, beside_hostile), dropped))


def _exchange(
    client: http.client.HTTPConnection, method: str, key: str, body: bytes | None = None
) -> tuple[int, bytes]:
    headers = {} if body is None else {"Content-Type": "application/octet-stream"}
    client.request(method, f"/cache/{key}", body, headers)
    with client.getresponse() as response:
        return response.status, response.read()


@contextlib.contextmanager
def gateway_over(seeds: list[str], log: IO[bytes]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a gateway; yields it, and where it listens."""
    listen = f"{HOST}:{find_base_port(1)}"
    command = [sys.executable, "-m", "meshcache", "gateway", "--listen", listen, "--at", ",".join(seeds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            if not line.startswith("ready http://"):
                raise RuntimeError(f"the gateway did not start: {line!r}")
            yield process, line.split("http://")[1].strip()
        finally:
            process.terminate()
            process.wait(START_S)


def browse(count: int, seconds: float, seed: int, rate_per_s: float) -> int:
    """Open so many connections to a gateway; 1 if what must not be has been."""
    rng, visitors = random.Random(f"fuzz {seed}"), list[Visitor]()
    with tempfile.TemporaryDirectory(prefix="meshcache-") as directory, open_mesh() as mesh:
        path = Path(directory) / "gateway.log"
        with path.open("wb") as log, gateway_over(mesh.mesh.addresses, log) as (process, address):
            port = int(address.rpartition(":")[2])

            def make() -> Visitor:
                visitors.append(Visitor(port, rng))
                return visitors[0]

            door = Door(process, [address], ask)
            text, found = judged(mesh, make, count, seconds, rate_per_s, door)
        found += problems_of(visitors[0].problems, path.read_bytes())
    print(f"seed {seed}: {text}")
    for one in found:
        print(f"finding: {one}", file=sys.stderr)
    return int(bool(found))


def problems_of(failed: list[str], log: bytes) -> list[str]:
    """Return what must not be, of what was answered by 500 and of the gateway's log."""
    found = failed[:PROBLEMS_SHOWN]
    at = log.find(TRACEBACK)
    if at >= 0:
        found.append(f"the gateway's log has {log.count(TRACEBACK)} tracebacks: {log[at : at + 3000].decode()}")
    return found
