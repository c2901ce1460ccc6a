"""The usual requests, served natively where the native module is there.

They are a GET that this node answers by itself, and a SET that all owners of its keys must store, with what the nodes
say to each other for it. Most requests of most meshes are one of these, and what they cost in Python is the reading of
a frame, some ten checks that all pass, and the writing of a frame. serve.c does that in one call. It does what
requests.py, writes.py, admission.py and wire.py do, which are its specification, and leaves to them whatever is not
usual. It looks at the state of the node where that is, so that there is no second one to be kept in step.

What is usual is decided there for every frame, and once for all here: under the strict partition policy no SET is,
because it asks for a majority when it is done.
"""

from __future__ import annotations

import heapq
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from meshcache._native import compiled
from meshcache.core.counters import Counters
from meshcache.core.operations.admission import Admission
from meshcache.core.operations.coordinator import Coordinator
from meshcache.core.operations.hotcopies import HotCopies
from meshcache.core.operations.hotkeys import HotKeys
from meshcache.core.operations.surroundings import Serves
from meshcache.core.operations.usual_writes import Resumes, UsualWrite
from meshcache.core.operations.writes import Stored
from meshcache.keys import AllowedKey, Rights
from meshcache.protocol import messages as m

if TYPE_CHECKING:
    from meshcache._native._compiled import UsualRequests

_ASKED: Final = Rights.READ | Rights.WRITE


class GoesOn(Resumes, Protocol):
    """What goes on with a request in whose middle something unusual was found; its fields are those of the message."""

    def who(self, origin: bytes) -> AllowedKey:
        """Return by which key a connection was let in."""

    def go_on_with_get(self, origin: bytes, fields: tuple[Any, ...], records: list[bytes | None]) -> None:
        """Go on with a read that is counted, and whose keys were looked up here."""

    def go_on_with_set(
        self, origin: bytes, fields: tuple[Any, ...], so_far: tuple[list[bytes], list[Stored], int]
    ) -> None:
        """Go on with a SET that is counted, and whose records were made and stored here; its contents are in these.

        So far: the records; of the first groups of keys with the same owners, or of all, what came of storing them; and
        the number under which its bytes are counted, or 0.
        """


def usual_requests(
    requests: GoesOn,
    coordinator: Coordinator,
    admission: Admission,
    counters: Counters,
    boot: int,
    node: Serves,
    hot: HotKeys,
    copies: HotCopies,
) -> UsualRequests | None:
    """Return what serves usual frames; None if Python is to serve all.

    Of ``node``, what ``ready`` tells is looked up natively: the parts that it asks are its attributes.
    """
    if compiled is None:
        return None
    config = coordinator.config
    is_guarded = bool(config.security.key_file)
    return compiled.UsualRequests(
        admission=admission,
        answered=counters.requests_by_kind.answered,
        backlog=admission.backlog,
        batches=counters.requests_by_kind.batches,
        breakers=coordinator.pending.breakers,
        clock=coordinator.clock,
        copies=copies,
        counters=counters,
        event=m.Event,
        go_on=requests,
        heappush=heapq.heappush,
        hot=hot,
        instant=coordinator.instant,
        is_node=partial(_is_node, requests) if is_guarded else None,
        is_trusted=partial(_is_trusted, requests) if is_guarded else None,
        node=node,
        outbox=coordinator.outbox,
        peers=coordinator.pending.peers,
        pending=coordinator.pending,
        replica=coordinator.replica,
        reply_kind=m.ANSWERS[m.Write],
        store=coordinator.store,
        view=coordinator.view,
        waits=UsualWrite,
        boot=boot,
        own_id=coordinator.own_id,
        pending_max=config.limits.pending_max,
        reply_bytes_max=config.limits.reply_bytes_max,
        value_bytes_max=config.limits.value_bytes_max,
        reads_one=config.cluster.read_quorum == 1,
        replicas=config.cluster.replicas,
        write_quorum=config.cluster.write_quorum,
        slow_s=config.log.slow_operation_s,
        sets=coordinator.membership.majority is None,
    )


def _is_trusted(requests: GoesOn, origin: bytes) -> bool:
    """Tell whether a connection may read and write every key."""
    key = requests.who(origin)
    return _ASKED in key.rights and not key.prefix


def _is_node(requests: GoesOn, origin: bytes) -> bool:
    """Tell whether a connection is another node's."""
    return requests.who(origin).is_node
