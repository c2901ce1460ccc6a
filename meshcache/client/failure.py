"""Why a call got no answer, and what that means for the node and for asking again.

Pure: drivers make these objects, and the policy in delivery.py and routing.py reads them.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple


class Failure(NamedTuple):
    """A call without an answer."""

    sent: bool
    """Whether it may have been executed; if False, it certainly was not."""
    late: bool
    """Whether its time was over; if False, the connection is gone, or never existed."""
    why: str
    blame: bool = True
    """Whether it counts against the node. If neither this nor ``late``, this process lacks the means to connect."""
    shut: bool = False
    """Whether the address refuses this client: its connection or its greeting. Another try at once would fail, too."""
    code: str = ""
    """The reason of a refused greeting."""


NO_REPLY: Final = Failure(sent=True, late=True, why="no reply in time")
CONNECTION_LOST: Final = Failure(sent=True, late=False, why="the connection broke before the reply")
NOT_CONNECTED: Final = Failure(sent=False, late=False, why="the connection is down")
NO_GREETING: Final = Failure(sent=False, late=True, why="connected, but no greeting in time")
NO_CONNECTION: Final = Failure(sent=False, late=True, why="no name server or host answered in time")
NOT_GREETED: Final = Failure(sent=False, late=False, why="the connection broke before the greeting", shut=True)
NOT_READY: Final = Failure(sent=False, late=False, why="not ready")
NO_TURN: Final = Failure(sent=False, late=True, why="silent, and had enough to answer already")
NO_TIME: Final = Failure(sent=False, late=True, why="no time was left to send it", blame=False)
NO_TIME_TO_ANSWER: Final = Failure(sent=True, late=True, why="hardly any time was left to answer it", blame=False)

FORKED: Final = Failure(sent=True, late=True, why="the process was forked meanwhile", blame=False)
"""In the child, nothing of a greenlet's connection may be used, and nothing is known against the node."""
FORKED_UNSENT: Final = FORKED._replace(sent=False)

DENIED: Final = "key"
"""The code of a connection, or a greeting, that was refused because of this client's key, or for want of one."""
WRONG_CLUSTER: Final = "cluster"
"""The code of a greeting that was refused because the node belongs to another cluster."""
_OWN_TROUBLE: Final = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM}
"""The system's errors that are the fault of this process and not of the other side."""


def denied(why: str) -> Failure:
    """Return the failure of a call whose connection did not get through its handshake."""
    return Failure(sent=False, late=False, why=why, shut=True, code=DENIED)


def not_connected(error: OSError) -> Failure:
    """Return the failure of a call for which no connection could be opened."""
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return Failure(sent=False, late=False, why=error.strerror or str(error), blame=False)
    late = isinstance(error, TimeoutError)
    unsaid = "no name server or host answered in time" if late else type(error).__name__
    why = (error.strerror or str(error) or unsaid).lower()
    return Failure(sent=False, late=late, why=why, shut=not late and error.errno not in _OWN_TROUBLE)
