"""What a node is asked by other nodes: the replica's side of their reads, writes and drops, and the pages they pull.

These requests are admitted as those of clients are, but not counted against them: another node's work has already been
admitted where its client asked, and must not fail halfway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from meshcache.core.operations.admission import Admission
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.drops import Drops
from meshcache.core.operations.hotkeys import HotKeys
from meshcache.core.operations.surroundings import Past, Serves
from meshcache.core.storage.pages import SLOTS_PER_PAGE, page_of
from meshcache.protocol import messages as m
from meshcache.protocol.clock import clock_of
from meshcache.protocol.messages import Code, EventKind

EARLY_MAX: Final = 4096
"""How many keys of early writes are remembered: those by a ring that is not known here yet. Fewer mean more misses."""

EARLY_S: Final = 10.0
"""For how long: news of members take a second or two."""


class ReplicaRequests:
    """The requests that one node serves for other nodes."""

    def __init__(
        self,
        coordinator: Coordinator,
        admission: Admission,
        drops: Drops,
        hot: HotKeys,
        node: Serves,
        compare: Callable[[m.Compare], m.CompareReply],
        past: Past | None,
    ) -> None:
        """``past``: None where snapshots are off."""
        self._coordinator = coordinator
        self._admit, self._reject = admission.admit, admission.reject
        self._config = coordinator.config
        self._replica = coordinator.replica
        self._instant = coordinator.instant
        self._outbox = coordinator.outbox
        self._store = coordinator.store
        self._view = coordinator.view
        self._drops = drops
        self._hot = hot
        self._node = node
        self._compare = compare
        self._past = past
        self._early: deque[tuple[bytes, bytes, float]] = deque(maxlen=EARLY_MAX)
        """Keys of writes that worked with a ring unknown here, each with the digest of that ring, and when it came."""

    def handlers(self) -> dict[type[Any], Callable[[bytes, Any], None]]:
        """Return the handler of each kind of request; it is called with the connection and the request."""
        return {
            m.Read: self._on_read,
            m.Write: self._on_write,
            m.Sweep: self._on_sweep,
            m.SweepTags: self._on_sweep_tags,
            m.Pull: self._on_pull,
            m.Recall: self._on_recall,
            m.Floors: self._on_floors,
            m.Compare: self._on_compare,
        }

    def _on_read(self, origin: bytes, read: m.Read) -> None:
        if not self._admit(origin, read, from_client=False):
            return
        self._hot.note(read.keys, self._instant.now)
        records = self._store.read(read.keys, self._instant.now_bytes)
        voteless = self._voteless(read.keys)
        self._hide_leftovers(read, voteless, records)
        budget, count = self._config.limits.reply_bytes_max, 0
        for record in records:
            budget -= len(record) if record is not None else 0
            if budget < 0 and count:
                break
            count += 1
        self._outbox.reply(origin, m.ReadReply(read.request, self._view.digest, records[:count], voteless))

    def _hide_leftovers(self, read: m.Read, voteless: list[int], records: list[bytes | None]) -> None:
        """Show nothing that is left over from a time when this node owned the key.

        What came by the reader's ring, before that ring is known here, is not left over. It may have been acknowledged
        because this node has it.
        """
        view = self._view
        places = [i for i in voteless if view.left_over(view.ring.slot_of(read.keys[i]))]
        early = self._early_by(read.view) if places and read.view != view.digest else ()
        for i in places:
            if read.keys[i] not in early:
                records[i] = None

    def _voteless(self, keys: list[bytes]) -> list[int]:
        """Return the indices of the keys of which this node can say nothing for certain."""
        if self._view.holds_all and self._node.ready:
            return []
        if not self._node.ready:
            return list(range(len(keys)))
        held, slot_of = self._view.held, self._view.ring.slot_of
        return [i for i, key in enumerate(keys) if not held[slot_of(key)]]

    def _on_write(self, origin: bytes, write: m.Write) -> None:
        if not self._admit(origin, write, from_client=False):
            return
        keys, records = write.keys, write.records
        if write.view != self._view.digest and not write.repair:
            self._early.extend([(write.view, key, self._instant.now) for key in keys])
            self._pass_on(write)
        if write.repair:
            newer, live = self._replica.merge_repair(keys, records)
        else:
            newer, live = self._replica.take_write(keys, records)
        if write.request:
            self._outbox.reply(origin, m.WriteReply(write.request, self._view.digest, newer, live))

    def _pass_on(self, write: m.Write) -> None:
        """Pass a write on to the owners that a coordinator with a former ring does not know.

        One of them may have pulled the slot from this node already, and asks for nothing after that.
        """
        missing: dict[str, list[int]] = {}
        for i, key in enumerate(write.keys):
            for node_id in self._view.owners_since(write.view, key):
                missing.setdefault(node_id, []).append(i)
        for node_id, places in missing.items():
            keys, records = [write.keys[i] for i in places], [write.records[i] for i in places]
            self._coordinator.keep_hint(node_id, keys, records)

    def written_early(self, digest: bytes) -> list[tuple[bytes, bytes]]:
        """Return the records held of keys that were written by this ring before the ring was known here; once.

        They are not left over from another time, as everything else in slots that this node gains is. They may have
        been acknowledged because this node has them.
        """
        keys = self._early_by(digest)
        kept = [entry for entry in self._early if entry[0] != digest]
        self._early.clear()
        self._early.extend(kept)
        return [(key, record) for key in keys if (record := self._store.peek(key)) is not None]

    def _early_by(self, digest: bytes) -> dict[bytes, None]:
        """Return the keys that were written early by a ring.

        Members that come and go make a ring again that there was before; what is old belongs to that.
        """
        since = self._instant.now - EARLY_S
        return {key: None for view, key, at in self._early if view == digest and at >= since}

    def _on_sweep(self, origin: bytes, sweep: m.Sweep) -> None:
        if self._admit(origin, sweep, from_client=False):
            self._sweep(origin, sweep, EventKind.CLEAR, [sweep.prefix])

    def _on_sweep_tags(self, origin: bytes, sweep: m.SweepTags) -> None:
        if self._admit(origin, sweep, from_client=False):
            self._sweep(origin, sweep, EventKind.TAG, sweep.tags)

    def _sweep(self, origin: bytes, sweep: m.Sweep | m.SweepTags, kind: EventKind, names: list[bytes]) -> None:
        ahead = self._coordinator.clock.latest > clock_of(sweep.version)

        def done(dropped: int) -> None:
            self._outbox.reply(origin, m.SweepReply(sweep.request, self._view.digest, dropped, ahead))

        self._drops.begin(kind, names, sweep.version, done)

    def _on_floors(self, origin: bytes, request: m.Floors) -> None:
        if self._admit(origin, request, from_client=False):
            cursor, floors = self._replica.floors.page(request.cursor)
            self._outbox.reply(origin, m.FloorsReply(request.request, self._view.digest, cursor, floors))

    def _on_pull(self, origin: bytes, pull: m.Pull) -> None:
        if not self._admit(origin, pull, from_client=False):
            return
        if pull.view != self._view.digest:  # a later write by this node might not reach the asker: give it nothing yet
            self._reject(origin, pull, [int(Code.NOT_READY)])
        else:
            slots = [slot for slot in pull.slots[:SLOTS_PER_PAGE] if 0 <= slot < self._view.ring.slots]
            page = page_of(self._store, slots, pull.cursor, self._view.left_over)
            self._outbox.reply(origin, m.PullReply(pull.request, self._view.digest, *page))

    def _on_recall(self, origin: bytes, recall: m.Recall) -> None:
        if not self._admit(origin, recall, from_client=False):
            return
        found = None if self._past is None else self._past.found
        if found is None:
            self._reject(origin, recall, [int(Code.NOT_READY)])
            return
        slots = [slot for slot in recall.slots[:SLOTS_PER_PAGE] if 0 <= slot < self._view.ring.slots]
        page = page_of(found, slots, recall.cursor, lambda _: False)
        self._outbox.reply(origin, m.PullReply(recall.request, self._view.digest, *page))

    def _on_compare(self, origin: bytes, compare: m.Compare) -> None:
        if self._admit(origin, compare, from_client=False):
            self._outbox.reply(origin, self._compare(compare))
