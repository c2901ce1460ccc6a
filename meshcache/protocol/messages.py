"""The protocol: every message as a small type, and their grammar.

A frame is one ZeroMQ message part: a msgpack array ``[clock, message, message, …]``, where ``clock`` is the sender's
hybrid logical clock (0 from clients, which have none) and each message is an array ``[kind, field, …]`` in the field
order of its class below. Everything is a batch: a frame carries the messages of one turn, a request carries the keys
of many callers, one operation is a batch of one.

::

    link         = C: HELLO  S: (WELCOME / REFUSED)  *(C: request  S: answer)   ; C dials S; nodes dial each other
    request      = client-op / replica-op / probe                              ; HOT may come with any answer to GET
    client-op    = GET / SET / DELETE / UPDATE / CLEAR / INVALIDATE_TAGS / INSPECT / LEAVE / FORGET   -> REPLY or REJECT
    replica-op   = READ / WRITE / SWEEP / SWEEP_TAGS / PULL / RECALL / FLOORS / COMPARE   each answered by its reply
    probe        = PING / PING_REQ / GOSSIP       answered by ACK, by VOUCH or NACK, and by GOSSIP or nothing

- Answers travel back on the link of the request, and carry its ``request`` number: replies are matched by number and
  never by position. A late answer, for which nobody waits any more, is dropped.
- ``boot`` names the process that is asked. A node drops a request meant for a former process of its id (queued by
  ZeroMQ across a restart) and says so with REJECT(STALE_BOOT): nothing was executed.
- ``deadline_ms`` is in the wall clock of the node asked; WELCOME and ACK tell that clock (``wall_ms``), so that the
  clocks need not agree. A request that arrives after its deadline is dropped unexecuted, and nobody is waiting.
- ``view`` is the digest of the ring that the sender works with; an answer carries that of the node that answers. Where
  they differ, a client asks for the members (INSPECT "view"), and a node gossips.
- Kinds are append-only: a number is never used for something else. What a receiver makes of kinds, fields and settings
  that it does not know, versions.py tells.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from meshcache.protocol import versions
from meshcache.protocol.codes import BATCH_OPS_MAX as BATCH_OPS_MAX
from meshcache.protocol.codes import COARSE_TAGS as COARSE_TAGS
from meshcache.protocol.codes import DEFAULT_LEVEL as DEFAULT_LEVEL
from meshcache.protocol.codes import KEY_BYTES_MAX as KEY_BYTES_MAX
from meshcache.protocol.codes import LEASE_ALWAYS as LEASE_ALWAYS
from meshcache.protocol.codes import LEASE_S as LEASE_S
from meshcache.protocol.codes import LEVEL_ALL as LEVEL_ALL
from meshcache.protocol.codes import LEVEL_ONE as LEVEL_ONE
from meshcache.protocol.codes import LEVEL_QUORUM as LEVEL_QUORUM
from meshcache.protocol.codes import TOKEN_BYTES as TOKEN_BYTES
from meshcache.protocol.codes import TTL_DEFAULT as TTL_DEFAULT
from meshcache.protocol.codes import TTL_NEVER as TTL_NEVER
from meshcache.protocol.codes import Change as Change
from meshcache.protocol.codes import Code as Code
from meshcache.protocol.codes import EventKind as EventKind

PROTOCOL: Final = versions.OLDEST
"""What HELLO says; see versions.py."""


class Fact(NamedTuple):
    """What is said of a member. membership.py says how facts merge."""

    node_id: str
    address: str
    """The host:port of its ROUTER socket, for clients and nodes."""
    publish: str
    """The host:port of its invalidation stream."""
    http: str
    host: str
    zone: str
    weight: float
    """Its share of the slots; 0: it owns none, because it is leaving, or has left after others had all that it held."""
    boot: int
    """Names its process: the wall milliseconds at its start << 16 | random bits."""
    incarnation: int
    """Only the member itself raises it, to refute what is said of it."""
    state: int
    """0 alive, 1 suspect, 2 dead, 3 left, 4 forgotten."""
    synced: bytes = b""
    """The digest of the ring of which this member holds all its slots; see movement.py."""


class Rumour(NamedTuple):
    """A fact that is passed on. ``accusers``: the members that suspect this one by their own experience."""

    fact: Fact
    accusers: list[str]


class Hello(NamedTuple):
    """The first message of a link. ``member`` is the dialling node's own fact; None from a client.

    ``facts`` is the digest of its member table, empty from a client.
    """

    protocol: int
    """The oldest version that the sender speaks."""
    cluster: str
    member: Fact | None
    facts: bytes


class Welcome(NamedTuple):
    """The answer to HELLO: process and wall clock of the node, the settings that clients need, and all facts.

    If the digest in HELLO shows that the other side has the same facts, none are sent.
    """

    boot: int
    wall_ms: int
    node_id: str
    settings: dict[str, int | float | str]
    """slots, vnodes, replicas, value_bytes_max, reply_bytes_max, request_bytes_max; protocol and protocol_oldest: the
    newest and the oldest version that the node speaks."""
    members: list[Fact]


class Refused(NamedTuple):
    """The link is refused: another cluster, another protocol, an id in use. The text says what to do."""

    code: str
    """"cluster", "protocol", "id" or "settings"."""
    text: str


class Ping(NamedTuple):
    """A probe by node ``node_id``. ``facts`` is the digest of its member table.

    ``sync`` asks for the whole table, if it differs. Rumours are sent along; if the sender accuses the member that it
    probes, that rumour is among them.
    """

    sequence: int
    node_id: str
    facts: bytes
    sync: bool
    rumours: list[Rumour]


class Ack(NamedTuple):
    """Answers PING, with rumours; with the whole table if that was asked for and the digests in ``facts`` differ."""

    sequence: int
    wall_ms: int
    facts: bytes
    rumours: list[Rumour]


class PingReq(NamedTuple):
    """Asks a member to ping ``target``, which did not answer the sender. Answered by VOUCH or NACK, or by both."""

    sequence: int
    target: str


class Vouch(NamedTuple):
    """Answers PING_REQ: the target answered."""

    sequence: int


class Nack(NamedTuple):
    """Answers PING_REQ: the target has not answered so far. It shows the asker that the asker's own links work."""

    sequence: int


class Gossip(NamedTuple):
    """Rumours that nobody asked for: news, or what the receiver was seen to lack. Answered only if it contradicts."""

    rumours: list[Rumour]


class Get(NamedTuple):
    """Results: per key the record (tombstones included), None, or [code, …]. ``meta``: records without their value."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    r: int
    w: int
    """The write level that the caller uses: it decides whether W + R > N, and so whether a missing key has a vote."""
    meta: bool
    keys: list[bytes]


class Set(NamedTuple):
    """Results: None when every key was stored, else per key None or [code, …]."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    w: int
    ttl_ms: int
    keys: list[bytes]
    contents: list[bytes]
    """Per key: two flag bytes and the value."""


class Delete(NamedTuple):
    """Results: per key True if it existed, False, or [code, …]. ``kind`` is EventKind.DELETE or INVALIDATE."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    w: int
    kind: int
    keys: list[bytes]


class Update(NamedTuple):
    """Results: per key the answer of its change, or [code, …]. ``hops`` is 1 when a node passed the request on."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    w: int
    r: int
    hops: int
    keys: list[bytes]
    changes: list[list[Any]]


class Clear(NamedTuple):
    """Delete every key that begins with ``prefix`` (empty: all). Results: [number of entries dropped]."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    prefix: bytes


class InvalidateTags(NamedTuple):
    """Delete every key with one of these tags. Results: [number of entries dropped]."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    tags: list[bytes]


class Inspect(NamedTuple):
    """Ask about the node or the mesh. Results: [a map of plain values].

    ``what``: "view" ({"members": [fact, …]}), "status", "stats", "hot" ({"keys": [map, …]}), "explain" (of ``key``),
    "replica" (of ``key``, here only), "recall" (see recall.py), or "snapshot": begin to write one, and tell the counts.
    """

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    what: str
    key: bytes


class Reply(NamedTuple):
    """Answers a client-op; ``results`` are aligned with the request's keys."""

    request: int
    view: bytes
    results: list[Any] | None


class Hot(NamedTuple):
    """Comes with a REPLY to a GET: these of its keys are read so often that the client should keep copies.

    A copy may be used for ``copy_ttl_ms``; 0: not at all, because reads of this mesh ask several replicas. Reads of
    such a key may go to any of its owners. See hotkeys.py.
    """

    copy_ttl_ms: int
    keys: list[bytes]


class Reject(NamedTuple):
    """The whole request was not executed; ``error`` is [code, detail, …]."""

    request: int
    view: bytes
    error: list[Any]


class TurnedAway(NamedTuple):
    """These requests were not even decoded, because the node has too many: like a REJECT(OVERLOADED) of each."""

    view: bytes
    requests: list[int]


class Read(NamedTuple):
    """A coordinator asks a replica what it holds."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    keys: list[bytes]


class ReadReply(NamedTuple):
    """Per key: the record that the replica holds, tombstones included, or None; perhaps of the first keys only."""

    request: int
    view: bytes
    records: list[bytes | None]
    voteless: list[int]
    """Indices of keys whose slot the replica has not pulled yet: what it says of them proves nothing."""


class Write(NamedTuple):
    """A coordinator asks a replica to store records, each only if newer than its own. ``repair``: not a new write."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    repair: bool
    keys: list[bytes]
    records: list[bytes]


class WriteReply(NamedTuple):
    """Every record is stored, except those in ``newer``: pairs of an index and the greater version held."""

    request: int
    view: bytes
    newer: list[list[Any]]
    live: list[int]
    """Indices of those that replaced a live record, where the write was a tombstone."""


class Sweep(NamedTuple):
    """Asks a node to drop every key with this prefix and a version not above ``version`` (one step of CLEAR)."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    version: bytes
    prefix: bytes


class SweepTags(NamedTuple):
    """Asks a node to drop every key with one of these tags and a version below ``version`` (for INVALIDATE_TAGS)."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    version: bytes
    tags: list[bytes]


class SweepReply(NamedTuple):
    """Answers SWEEP and SWEEP_TAGS: the sweep is complete on this node."""

    request: int
    view: bytes
    dropped: int
    ahead: bool
    """This node's clock was past the version, and so perhaps what it held was, too."""


class Pull(NamedTuple):
    """A node that gained slots asks a holder for their records, from ``cursor`` on in the first slot."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    slots: list[int]
    cursor: bytes


class Recall(Pull):
    """The same of what a node that has just started found in its snapshot, and does not serve yet; see recall.py."""

    __slots__ = ()


class PullReply(NamedTuple):
    """One page: it completes the first ``finished`` slots; ``cursor`` is the last key sent of the next slot."""

    request: int
    view: bytes
    finished: int
    cursor: bytes
    keys: list[bytes]
    records: list[bytes]


class Floor(NamedTuple):
    """A drop floor: EventKind.CLEAR and a prefix, TAG and a tag, or COARSE_TAGS and a bucket; with a version."""

    kind: int
    name: bytes
    version: bytes


class Floors(NamedTuple):
    """A node that is about to pull asks for the drop floors, from ``cursor`` on."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    cursor: bytes


class FloorsReply(NamedTuple):
    """One page, and the cursor for the next; a page without floors is the end."""

    request: int
    view: bytes
    cursor: bytes
    floors: list[Floor]


class Compare(NamedTuple):
    """One owner asks another one whether both hold the same, slot by slot; see antientropy.py."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    slots: list[int]
    digests: list[bytes]


class CompareReply(NamedTuple):
    """The slots that differ; for the first of them, keys and versions."""

    request: int
    view: bytes
    slots: list[int]
    keys: list[bytes]
    versions: list[bytes]


class Leave(NamedTuple):
    """Asks this node to hand its slots over and leave. Results: [None] at once; its status shows the progress."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes


class Forget(NamedTuple):
    """Show and dial no longer a member that is dead or has left, given by id or address. Results: [None]."""

    request: int
    boot: int
    deadline_ms: int
    view: bytes
    node: str


class Event(NamedTuple):
    """One part of the invalidation stream: what happened to these keys at this version."""

    kind: int
    version: bytes
    keys: list[bytes]


class Invalidations(NamedTuple):
    """What a node publishes in one turn, numbered without gaps within a boot; also sent without events when idle."""

    node_id: str
    boot: int
    sequence: int
    view: bytes
    """The digest of the node's ring: if a receiver's differs, one of them lacks a member or has one too many."""
    events: list[Event]


class Unknown(NamedTuple):
    """Stands for a message of a kind that only later versions know. It is never sent."""

    kind: int


ANSWERS: Final[dict[type[Any], type[Any]]] = {
    Read: ReadReply, Write: WriteReply, Sweep: SweepReply, SweepTags: SweepReply, Pull: PullReply,
    Recall: PullReply, Floors: FloorsReply, Compare: CompareReply, Update: Reply, Inspect: Reply,
}  # fmt: skip
"""How one node answers another."""

ClientOp = Get | Set | Delete | Update | Clear | InvalidateTags | Inspect | Leave | Forget
ReplicaOp = Read | Write | Sweep | SweepTags | Pull | Recall | Floors | Compare
Message = (
    Hello | Welcome | Refused | Ping | Ack | Gossip | PingReq | Vouch | Nack | ClientOp | Reply | Reject | TurnedAway
    | Hot | ReplicaOp | ReadReply | WriteReply | SweepReply | PullReply | FloorsReply | CompareReply | Invalidations
    | Unknown
)  # fmt: skip

KINDS: Final[dict[type[Message], int]] = {
    Hello: 1,
    Welcome: 2,
    Refused: 3,
    Ping: 4,
    Ack: 5,
    Gossip: 6,
    PingReq: 7,
    Vouch: 8,
    Nack: 9,
    Get: 10,
    Set: 11,
    Delete: 12,
    Update: 13,
    Clear: 14,
    Inspect: 15,
    Leave: 16,
    Forget: 17,
    InvalidateTags: 18,
    Reply: 20,
    Reject: 21,
    Hot: 22,
    TurnedAway: 23,
    Read: 30,
    ReadReply: 31,
    Write: 32,
    WriteReply: 33,
    Sweep: 34,
    SweepReply: 35,
    Pull: 36,
    PullReply: 37,
    Compare: 38,
    CompareReply: 39,
    Invalidations: 40,
    SweepTags: 44,
    Floors: 45,
    FloorsReply: 46,
    Recall: 47,
}
"""The number of each message on the wire."""
