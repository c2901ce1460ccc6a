"""What a call comes to that got no answer: why, and what that says of the node and of asking again.

Pure: drivers make these, and the policy in delivery.py and routing.py reads them.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple


class Failure(NamedTuple):
    """A call without an answer."""

    sent: bool
    """It may have been executed; else it certainly was not."""
    late: bool
    """Its time was over; else the connection is gone, or never was."""
    why: str
    blame: bool = True
    """It speaks against the node. Else, and if it is not late, this process lacks what it takes to connect."""
    shut: bool = False
    """Nobody serves this client there: nobody listens, or the greeting was refused. The next try fares no better."""
    code: str = ""
    """Of a greeting that was refused: why."""


NO_REPLY: Final = Failure(sent=True, late=True, why="no reply in time")
CONNECTION_LOST: Final = Failure(sent=True, late=False, why="the connection broke before the reply")
NOT_CONNECTED: Final = Failure(sent=False, late=False, why="the connection is down")
NO_GREETING: Final = Failure(sent=False, late=True, why="connected, but no greeting in time")
NO_CONNECTION: Final = Failure(sent=False, late=True, why="no name server or host answered in time")
NOT_GREETED: Final = Failure(sent=False, late=False, why="the connection broke before the greeting", shut=True)
NOT_READY: Final = Failure(sent=False, late=False, why="not ready")
NO_TIME: Final = Failure(sent=False, late=True, why="no time was left to send it", blame=False)
NO_TIME_TO_ANSWER: Final = Failure(sent=True, late=True, why="hardly any time was left to answer it", blame=False)

WRONG_CLUSTER: Final = "cluster"
"""The code of a greeting that was refused because the node belongs to another cluster."""
_OWN_TROUBLE: Final = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM}
"""What the system says if it is not the other side that is to blame."""


def not_connected(error: OSError) -> Failure:
    """Return what came of a call for which no connection could be opened."""
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return Failure(sent=False, late=False, why=error.strerror or str(error), blame=False)
    late = isinstance(error, TimeoutError)
    unsaid = "no name server or host answered in time" if late else type(error).__name__
    why = (error.strerror or str(error) or unsaid).lower()
    return Failure(sent=False, late=late, why=why, shut=not late and error.errno not in _OWN_TROUBLE)
