"""Which entries of a store have a tag, so that dropping a tag looks at those entries and at no others.

One dict per slot leads from a tag to the index of the entry that has it or, where several have it, to a dict of their
indices. Looking up a tag therefore takes one look per slot, 0.1 ms for 1,024 slots. In return no dict is ever so large
that its resize would take noticeable time, not even for a tag that every entry has.

The index follows from the records held: ``add`` and ``remove`` are called with every record with tags that enters or
leaves the store, whatever the reason. What an entry is charged for its tags follows from its record, too;
``scripts/bench store`` compares it with the resident memory of a process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from meshcache.protocol.record import tags_of

TAG_OVERHEAD_BYTES: Final = 120
"""What a tag of an entry takes besides its text: its share of a slot's dict, or of a dict of the entries that share it.

Between two and four entries of one slot with the same tag take the most; a tag that many share takes less.
"""


def tag_bytes(tags: Iterable[bytes]) -> int:
    """Return what an entry is charged for its tags."""
    return sum([((len(tag) + 48) & -16) + TAG_OVERHEAD_BYTES for tag in tags])


class TagIndex:
    """Tags and the indices of their entries, by slot."""

    def __init__(self, slots: int) -> None:
        self._tables: list[dict[bytes, int | dict[int, None]]] = [{} for _ in range(slots)]
        self.bearers = 0
        """The number of pairs of an entry and one of its tags."""

    def __len__(self) -> int:
        """Return how many tags the slots know, a tag once for each slot. It looks at every slot."""
        return sum(map(len, self._tables))

    def add(self, slot: int, index: int, record: bytes) -> int:
        """Add a record with extras that has been stored; return what its entry is charged for its tags."""
        table = self._tables[slot]
        tags = tags_of(record)
        for tag in tags:
            held = table.get(tag)
            if held is None:
                table[tag] = index
            elif type(held) is dict:
                held[index] = None
            else:
                table[tag] = {held: None, index: None}  # type: ignore[dict-item]  # an int, as mypy can not tell
        self.bearers += len(tags)
        return tag_bytes(tags)

    def remove(self, slot: int, index: int, record: bytes) -> int:
        """Take out a record that has left the store; return what its entry was charged for its tags."""
        table = self._tables[slot]
        tags = tags_of(record)
        for tag in tags:
            held = table[tag]
            if type(held) is not dict:
                del table[tag]
            else:
                del held[index]
                if len(held) == 1:
                    table[tag] = next(iter(held))
        self.bearers -= len(tags)
        return tag_bytes(tags)

    @staticmethod
    def charge(record: bytes) -> int:
        """Return what an entry with this record is charged for its tags."""
        return tag_bytes(tags_of(record))

    def bearers_of(self, slot: int, tag: bytes) -> Iterable[int]:
        """Return the indices of a slot's entries that have a tag.

        They are out of date once any of the entries changes.
        """
        held = self._tables[slot].get(tag)
        if held is None:
            return ()
        return held if type(held) is dict else (held,)  # type: ignore[return-value]  # as above

    def tags_in(self, slot: int) -> list[bytes]:
        """Return the tags that entries of a slot have."""
        return list(self._tables[slot])

    def clear(self) -> None:
        """Take out everything."""
        for table in self._tables:
            table.clear()
        self.bearers = 0
