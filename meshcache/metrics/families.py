"""The metrics of a node: one table, from which they are exported and the documentation is made.

Each family says where its figures are in what the node tells of itself (``/stats``): a path of names. At its end is a
number; or, where there are labels, a map of values by label, within one another for several; or a histogram, as its
``bounds``, its ``counts`` by class and the ``sum``. No label holds a key or a client: each has a few values that are
fixed in code, or the nodes of the mesh.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram", "info"]


class Family(NamedTuple):
    """Metrics of one name."""

    name: str
    """As it is exported: counters end in ``_total``."""
    kind: Kind
    text: str
    """What it tells, for HELP and for people."""
    path: str
    """Where it is in ``/stats``: names, with dots between them."""
    labels: tuple[str, ...] = ()
    scale: float = 1.0
    """What is told times this is in base units: seconds, bytes."""

    def find(self, snapshot: dict[str, Any]) -> Any:
        """Return what is at the path; None if nothing is."""
        found: Any = snapshot
        for name in self.path.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found


MS: Final = 0.001

FAMILIES: Final = (
    # Named by the original design.
    Family("cache_entries", "gauge", "Entries that the node holds.", "entries"),
    Family("cache_memory_bytes", "gauge", "Bytes that the entries are charged.", "memoryBytes"),
    Family("cache_hits_total", "counter", "Keys that reads at this node found.", "hits"),
    Family("cache_misses_total", "counter", "Keys that reads at this node did not find.", "misses"),
    Family("cache_hit_rate", "gauge", "Hits among all reads since the node started, from 0 to 1.", "hitRate"),
    Family("cache_evictions_total", "counter", "Entries that went because a limit was reached.", "evictions"),
    Family("cache_expirations_total", "counter", "Entries that went because their lifetime was over.", "expirations"),
    # What it may hold.
    Family("meshcache_entries_limit", "gauge", "Entries that it may hold: store.max_entries.", "maxEntries"),
    Family(
        "meshcache_memory_limit_bytes", "gauge", "Bytes that entries may be charged: store.max_bytes.", "maxMemoryBytes"
    ),
    # Which entries go, under store.eviction = "s3fifo".
    Family(
        "meshcache_small_queue_evictions_total",
        "counter",
        "Of the evictions, those of entries that were not read since they came; s3fifo only.",
        "store.small_evictions",
    ),
    Family(
        "meshcache_ghost_hits_total",
        "counter",
        "Entries that were written again soon after such an eviction; s3fifo only.",
        "store.ghost_hits",
    ),
    # The node and its process.
    Family("meshcache_build_info", "info", "The versions that run; always 1.", "build"),
    Family("meshcache_ready", "gauge", "1 if the node serves and holds what it owns, else 0.", "ready.is_ready"),
    Family("process_resident_memory_bytes", "gauge", "Resident memory of the process.", "process.resident_bytes"),
    Family("process_cpu_seconds_total", "counter", "Processor time of the process.", "process.cpu_s"),
    Family("process_start_time_seconds", "gauge", "When the process started, in Unix time.", "process.started_at_s"),
    # What is asked of it.
    Family(
        "meshcache_requests_total",
        "counter",
        "Requests by kind and outcome; failed: some key of it was not served in time.",
        "operations.requests",
        ("kind", "outcome"),
    ),
    Family(
        "meshcache_requests_refused_total",
        "counter",
        "Requests that were not executed, by reason.",
        "operations.refused_for",
        ("reason",),
    ),
    Family("meshcache_requests_late_total", "counter", "Requests that came after their deadline.", "node.late"),
    Family("meshcache_keys_total", "counter", "Keys in the requests of clients.", "node.keys"),
    Family("meshcache_batch_keys", "histogram", "Keys in one request of a client.", "operations.batch_keys"),
    Family(
        "meshcache_operation_duration_seconds",
        "histogram",
        "Time of operations for which the node had to ask others, by kind.",
        "operations.duration_s",
        ("kind",),
    ),
    Family(
        "meshcache_operation_waiting_seconds_total",
        "counter",
        "Of the time of these operations, what was waiting for other nodes, by kind.",
        "operations.waiting_s",
        ("kind",),
    ),
    Family("meshcache_operations_pending", "gauge", "Operations under way.", "coordinator.pending"),
    Family(
        "meshcache_operations_lingering",
        "gauge",
        "Operations that are answered and wait for slower copies.",
        "coordinator.lingering",
    ),
    Family(
        "meshcache_breaker_open",
        "gauge",
        "1 while another node is not asked for clients, because it failed too often, else 0.",
        "breakers.open",
        ("node",),
    ),
    Family("meshcache_breakers_opened_total", "counter", "Times that began.", "breakers.opened"),
    Family("meshcache_frames_malformed_total", "counter", "Frames that were none of ours.", "node.malformed"),
    Family(
        "meshcache_messages_unknown_total",
        "counter",
        "Messages of kinds that only later versions know.",
        "node.unknown",
    ),
    Family("meshcache_messages_failed_total", "counter", "Messages whose handling failed.", "node.failed", ("kind",)),
    Family(
        "meshcache_clock_refused_total",
        "counter",
        "Messages refused because their clock is too far ahead of this node's.",
        "node.clock_refused",
    ),
    Family("meshcache_forbidden_total", "counter", "Messages that the sender's key does not allow.", "node.forbidden"),
    Family("meshcache_keys_refused_total", "counter", "Connections that were not let in.", "node.keys_refused"),
    Family(
        "meshcache_without_key_total",
        "counter",
        "Connections without a key that were let in, while a mesh changes over.",
        "node.without_key",
    ),
    Family("meshcache_http_refused_total", "counter", "HTTP requests without a valid token.", "node.http_refused"),
    Family(
        "meshcache_memcached_connections", "gauge", "Connections of clients of memcached now.", "memcached.connections"
    ),
    Family(
        "meshcache_memcached_connections_refused_total",
        "counter",
        "Such connections that were too many.",
        "memcached.refused",
    ),
    Family(
        "meshcache_memcached_unauthenticated_total",
        "counter",
        "Wrong passwords of such clients.",
        "memcached.unauthenticated",
    ),
    Family("meshcache_memcached_commands_total", "counter", "Commands of such clients.", "memcached.commands"),
    Family("meshcache_memcached_errors_total", "counter", "Of them answered with an error.", "memcached.errors"),
    Family(
        "meshcache_memcached_closed_slow_total",
        "counter",
        "Such connections closed because they did not read their answers.",
        "memcached.closed_slow",
    ),
    Family(
        "meshcache_memcached_closed_half_total",
        "counter",
        "Such connections closed because the rest of a command did not come.",
        "memcached.closed_half",
    ),
    Family(
        "meshcache_memcached_closed_malformed_total",
        "counter",
        "Such connections closed because what came is not the protocol.",
        "memcached.closed_malformed",
    ),
    Family("meshcache_undeliverable_total", "counter", "Frames that could not be sent.", "node.undeliverable"),
    Family("meshcache_connections_cut_total", "counter", "Connections that took too much.", "node.connections_cut"),
    Family(
        "meshcache_connections_refused_total",
        "counter",
        "Connections cut because there were too many.",
        "node.connections_refused",
    ),
    # Its loop and its traffic.
    Family("meshcache_loop_turn_seconds", "histogram", "Length of the turns of the node's loop.", "loop.turn_s"),
    Family(
        "meshcache_loop_lag_seconds",
        "gauge",
        "The latest that the loop came to what was due, in the last 10 to 20 seconds.",
        "loop.lag_s",
    ),
    Family("meshcache_requests_in_bytes_total", "counter", "Bytes of requests received.", "node.requests_in_bytes"),
    Family("meshcache_answers_in_bytes_total", "counter", "Bytes that other nodes answered.", "node.answers_in_bytes"),
    Family("meshcache_answers_out_bytes_total", "counter", "Bytes of answers sent.", "node.answers_out_bytes"),
    Family(
        "meshcache_requests_out_bytes_total",
        "counter",
        "Bytes of requests and gossip sent to other nodes.",
        "node.requests_out_bytes",
    ),
    Family("meshcache_published_bytes_total", "counter", "Bytes of invalidations sent.", "node.published_bytes"),
    # The mesh as the node sees it.
    Family("meshcache_members", "gauge", "Members by state, this node included.", "mesh.members", ("state",)),
    Family("meshcache_members_behind", "gauge", "Owners that do not hold all of this ring yet.", "mesh.members_behind"),
    Family("meshcache_ring_members", "gauge", "Members that own keys.", "mesh.ring_members"),
    Family("meshcache_replicas", "gauge", "Copies that each key is to have: cluster.replicas.", "mesh.replicas"),
    Family(
        "meshcache_ring_fingerprint",
        "gauge",
        "A number made of the ring: nodes that work with one ring tell the same.",
        "mesh.ring_fingerprint",
    ),
    Family("meshcache_ring_changes_total", "counter", "Changes of the owners of keys.", "node.ring_changes"),
    Family("meshcache_ring_changing", "gauge", "1 while former owners still take part, else 0.", "mesh.ring_changing"),
    Family("meshcache_rejoins_total", "counter", "Times others had declared the node dead.", "node.rejoins"),
    Family("meshcache_links", "gauge", "Connections to other nodes by state.", "mesh.links", ("state",)),
    Family("meshcache_links_up_total", "counter", "Connections to other nodes that were made.", "node.links_up"),
    Family("meshcache_links_down_total", "counter", "Connections to other nodes that broke.", "node.links_down"),
    Family("meshcache_probes_total", "counter", "Probes of other nodes.", "membership.probes"),
    Family("meshcache_probes_failed_total", "counter", "Probes without an answer.", "membership.probes_failed"),
    Family(
        "meshcache_suspicions_total",
        "counter",
        "Times the node suspected another one by its own experience.",
        "membership.suspicions",
    ),
    Family("meshcache_suspects", "gauge", "Members that are suspected now.", "membership.suspects"),
    Family(
        "meshcache_clock_offset_seconds",
        "gauge",
        "The greatest difference to the clock of another node, its delay included.",
        "mesh.clock_offset_ms_max",
        scale=MS,
    ),
    # How copies come to agree.
    Family("meshcache_slots_owned", "gauge", "Parts of the keys that the node owns a copy of.", "mesh.slots_owned"),
    Family("meshcache_slots_missing", "gauge", "Those that it does not hold yet.", "movement.slots_missing"),
    Family("meshcache_pulled_keys_total", "counter", "Keys taken over from other owners.", "movement.pulled_keys"),
    Family("meshcache_pulled_bytes_total", "counter", "Bytes taken over from other owners.", "movement.pulled_bytes"),
    Family("meshcache_hints", "gauge", "Writes kept for nodes that missed them.", "hints.waiting", ("node",)),
    Family("meshcache_hints_kept_total", "counter", "Writes that were kept for others.", "hints.kept"),
    Family("meshcache_hints_delivered_total", "counter", "Kept writes that were delivered.", "hints.delivered"),
    Family("meshcache_hints_dropped_total", "counter", "Kept writes that were given up.", "hints.dropped"),
    Family("meshcache_snapshot_age_seconds", "gauge", "Since the last snapshot was taken.", "snapshots.age_s"),
    Family("meshcache_snapshot_size_bytes", "gauge", "Size of the last snapshot.", "snapshots.bytes"),
    Family("meshcache_snapshot_duration_seconds", "gauge", "What the last snapshot took.", "snapshots.seconds"),
    Family("meshcache_snapshots_written_total", "counter", "Snapshots written.", "snapshots.written"),
    Family("meshcache_snapshot_failures_total", "counter", "Snapshots that could not be.", "snapshots.failures"),
    Family("meshcache_compared_slots_total", "counter", "Slots compared with others.", "anti_entropy.compared_slots"),
    Family("meshcache_differing_slots_total", "counter", "Those that differed.", "anti_entropy.differing_slots"),
    Family("meshcache_fetched_keys_total", "counter", "Keys that a comparison brought.", "anti_entropy.fetched"),
    Family("meshcache_sent_keys_total", "counter", "Keys that a comparison took to others.", "anti_entropy.sent"),
    Family(
        "meshcache_comparison_age_seconds",
        "gauge",
        "Time since all slots were compared; absent before that.",
        "anti_entropy.pass_age_s",
    ),
    Family(
        "meshcache_read_repairs_total", "counter", "Copies written to nodes that lacked them.", "coordinator.repairs"
    ),
    Family("meshcache_restamps_total", "counter", "Writes stamped anew, past a newer copy.", "coordinator.restamps"),
    Family("meshcache_slots_voided_total", "counter", "Slots dropped with their last copies.", "node.slots_voided"),
    Family("meshcache_tombstones", "gauge", "Deletes that are remembered.", "store.tombstones"),
    Family("meshcache_tombstone_bytes", "gauge", "Bytes that they are charged.", "store.tombstone_bytes"),
    Family(
        "meshcache_tombstones_dropped_total",
        "counter",
        "Deletes forgotten before their time, for lack of room.",
        "store.tombstones_dropped",
    ),
    Family("meshcache_store_refused_total", "counter", "Records larger than the whole store.", "store.refused"),
    # Hot keys, invalidations, leases.
    Family("meshcache_hot_keys", "gauge", "Keys that are hot now.", "hot_keys.hot"),
    Family("meshcache_hot_keys_found_total", "counter", "Times a key became hot.", "hot_keys.found"),
    Family("meshcache_hot_copies", "gauge", "Copies of hot keys of other nodes.", "hot_keys.copies"),
    Family("meshcache_hot_copy_hits_total", "counter", "Reads that such a copy served.", "hot_keys.copy_hits"),
    Family("meshcache_hot_copy_misses_total", "counter", "Reads of hot keys that none served.", "hot_keys.copy_misses"),
    Family("meshcache_streams_followed", "gauge", "Streams of other nodes that it reads.", "hot_keys.streams_followed"),
    Family(
        "meshcache_stream_subscriptions",
        "gauge",
        "Subscriptions to its invalidations: near caches, listeners and nodes.",
        "mesh.stream_subscriptions",
    ),
    Family("meshcache_published_total", "counter", "Frames of invalidations published.", "node.published"),
    Family("meshcache_leases", "gauge", "Values that somebody computes at this moment.", "fills.leases"),
    Family("meshcache_callers_parked", "gauge", "Callers that wait for such a value.", "fills.parked"),
    Family("meshcache_leases_granted_total", "counter", "Leases given to compute a value.", "fills.granted"),
    Family("meshcache_leases_filled_total", "counter", "Leases that brought a value.", "fills.filled"),
    Family("meshcache_leases_lapsed_total", "counter", "Leases whose holder was not heard of.", "fills.lapsed"),
    Family("meshcache_leases_voided_total", "counter", "Leases that a change of the key ended.", "fills.voided"),
)


def rows() -> list[tuple[str, str, str, str]]:
    """Return the table for people: name, kind, labels, what it tells."""
    return [(family.name, family.kind, ", ".join(family.labels), family.text) for family in FAMILIES]
