"""Who may do what, where connections are let in by their keys.

The driver tells of each connection by which key it was let in (surroundings.py). What a message asks for, and what it
says of its sender, is held against that key here, before its handler sees it::

    of another node   READ, WRITE, SWEEP, PULL, PING, GOSSIP and so on: only from a node's key
    who says so       HELLO and PING name a node: only with that node's own key
    of a client       read, write or admin, and only keys that begin with the prefix to which it is confined

So a client cannot pose as a node, and a node cannot pose as another. What a node with a key of its own says of *others*
is bound by the list of nodes that have keys (membership.py), by the clocks (claims.py) and by the majority; beyond
that, nodes trust each other. The security chapter of meshcache/node/GUIDE.md says what that means.

A message that is refused was not executed. A request is answered with the reason, a HELLO is refused, and anything else
is dropped. All are counted and logged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from meshcache.core.counters import Counters
from meshcache.core.outbox import Outbox
from meshcache.core.view import View
from meshcache.keys import AllowedKey, Rights
from meshcache.protocol import messages as m
from meshcache.protocol.messages import Change, Code

FOR_ALL: Final = frozenset({"view", "status"})
"""What every key may ask of a node: clients need the members, and people how they are."""
RETURNING: Final = frozenset({Change.INCR, Change.LEASE})
"""Changes that tell what was there."""

Check = Callable[[AllowedKey, Any], str | None]
"""Says why this key does not allow a message; None if it does."""


def _lacks(key: AllowedKey, right: Rights) -> str | None:
    if right in key.rights:
        return None
    return f"the key of {key.kind} {key.name} lacks the right to {str(right.name).lower()}"


def _outside(key: AllowedKey, names: list[bytes], what: str) -> str | None:
    prefix = key.prefix
    if not prefix or all(name.startswith(prefix) for name in names):
        return None
    return f"the key of client {key.name} is confined to {what} that begin with {prefix!r:.80}"


def _from_node(key: AllowedKey, _: Any) -> str | None:
    return None if key.kind in {"node", "anybody"} else f"the key of {key.kind} {key.name} is not that of a node"


def _is_self(key: AllowedKey, node_id: str) -> str | None:
    if key.kind == "anybody" or (key.is_node and key.name == node_id):
        return None
    return f"the key of {key.kind} {key.name} does not belong to node {node_id}"


def _is_allowed(key: AllowedKey) -> str | None:
    """Of a key that was taken back there may be messages that came before its connection was cut."""
    return None if key.rights else "its key is not, or not any more, among those allowed"


def _hello(key: AllowedKey, hello: m.Hello) -> str | None:
    if hello.member is not None:
        return _is_self(key, hello.member.node_id)
    return _is_allowed(key)


def _ping(key: AllowedKey, ping: m.Ping) -> str | None:
    return _is_self(key, ping.node_id)


def _get(key: AllowedKey, get: m.Get) -> str | None:
    return _lacks(key, Rights.READ) or _outside(key, get.keys, "keys")


def _write(key: AllowedKey, request: m.Set | m.Delete) -> str | None:
    return _lacks(key, Rights.WRITE) or _outside(key, request.keys, "keys")


def _update(key: AllowedKey, request: m.Update) -> str | None:
    if request.hops:
        return _from_node(key, request)
    reads = any(change[0] in RETURNING for change in request.changes)
    return _write(key, request) or (_lacks(key, Rights.READ) if reads else None)  # type: ignore[arg-type]  # has keys


def _tags(key: AllowedKey, request: m.InvalidateTags) -> str | None:
    return _lacks(key, Rights.WRITE) or _outside(key, request.tags, "tags")


def _clear(key: AllowedKey, request: m.Clear) -> str | None:
    return _lacks(key, Rights.ADMIN) or _outside(key, [request.prefix], "keys")


def _inspect(key: AllowedKey, request: m.Inspect) -> str | None:
    if request.what in FOR_ALL:
        return _is_allowed(key)
    about = [request.key] if request.what in {"explain", "replica"} else [b""]
    return _lacks(key, Rights.ADMIN) or _outside(key, about, "keys")


def _rule(key: AllowedKey, _: Any) -> str | None:
    return _lacks(key, Rights.ADMIN) or _outside(key, [b""], "keys")


CHECKS: Final[dict[type[Any], Check]] = {
    m.Hello: _hello,
    m.Ping: _ping,
    **dict.fromkeys((m.PingReq, m.Gossip, m.Read, m.Write, m.Sweep, m.SweepTags, m.Pull, m.Recall), _from_node),
    **dict.fromkeys((m.Floors, m.Compare), _from_node),
    m.Get: _get,
    m.Set: _write,
    m.Delete: _write,
    m.Update: _update,
    m.InvalidateTags: _tags,
    m.Clear: _clear,
    m.Inspect: _inspect,
    m.Leave: _rule,
    m.Forget: _rule,
}
"""For every kind of message that a node's ROUTER takes. A kind that is missing here would be open to all."""


Handlers = dict[type[Any], Callable[[bytes, Any], None]]
"""What takes each kind of message, given its origin and the message."""


class Access:
    """The checks of one node, in the form that goes before its handlers."""

    def __init__(self, who: Callable[[bytes], AllowedKey], view: View, outbox: Outbox, counters: Counters) -> None:
        """``who`` returns the key of a connection."""
        self._who = who
        self._view = view
        self._outbox = outbox
        self._counters = counters

    def gated(self, handlers: Handlers) -> Handlers:
        """Return the handlers with their checks put before them."""
        return {kind: self._gated(CHECKS[kind], handle) for kind, handle in handlers.items()}

    def _gated(self, check: Check, handle: Callable[[bytes, Any], None]) -> Callable[[bytes, Any], None]:
        who = self._who

        def gated(origin: bytes, message: Any) -> None:
            key = who(origin)
            why = check(key, message)
            if why is None:
                handle(origin, message)
            else:
                self._refuse(origin, key, message, why)

        return gated

    def _refuse(self, origin: bytes, key: AllowedKey, message: Any, why: str) -> None:
        self._counters.forbidden += 1
        kind = type(message).__name__.lower()
        self._outbox.note("forbidden", key=f"{key.kind} {key.name}", request=kind, why=why)
        if isinstance(message, m.Hello):
            self._outbox.reply(origin, m.Refused("key", why))
        elif hasattr(message, "request"):
            self._counters.requests_by_kind.note_refused(type(message).__name__, Code.FORBIDDEN.name.lower())
            self._outbox.reply(origin, m.Reject(message.request, self._view.digest, [int(Code.FORBIDDEN), why]))
