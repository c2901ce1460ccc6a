"""What a client does with the invalidation streams, except receiving them: shared by both drivers.

Pure. A driver opens a SUB socket, connects it to ``addresses``, hands each frame to ``receive``, calls ``tick`` at
least every ``TICK_S``, and carries out the calls that ``tick`` returns. All of this happens in one thread or loop; only
``routing.on_members`` and ``attach``/``detach`` are called from others.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Final

from meshcache.client.connection import Call, Outcome
from meshcache.client.delivery import learn, look_up
from meshcache.client.routing import Routing
from meshcache.client.subscription import Feed
from meshcache.errors import ProtocolError
from meshcache.protocol.invalidation import Listener, Streams
from meshcache.protocol.messages import Invalidations
from meshcache.protocol.near_store import NearStore
from meshcache.protocol.wire import Frame, decode_frame

TICK_S: Final = 0.1
ALLOWANCE_S: Final = 0.1
"""How long a node may take to answer for the members; a node that has just shown another ring answers at once."""
REDIAL_S: Final = 5.0
"""A stream that is silent for so long is dialled anew: perhaps its connection only seems to stand."""


class StreamIntake:
    """Takes in the streams of all members, and feeds the client's near cache and subscriptions from them."""

    def __init__(self, routing: Routing, near: NearStore | None) -> None:
        self.routing = routing
        self.near = near
        self.streams = Streams()
        self.feeds: tuple[Feed, ...] = ()
        self.malformed = 0
        self.members_changed = True
        """Whether members changed since the last ``tick``."""
        self._dialled_at: dict[str, float] = {}

    @property
    def needed(self) -> bool:
        """Tell whether a near cache or a subscription needs the streams."""
        wanted = (self.near is not None and self.near.used) or bool(self.feeds)
        return wanted and self.routing.settings.stream

    def on_members(self) -> None:
        """Serve no copies until all members are followed, because members or owners changed."""
        self.members_changed = True
        if self.near is not None:
            self.near.suspend()

    def attach(self, feed: Feed) -> None:
        """Feed a subscription from now on."""
        self.feeds = (*self.feeds, feed)
        self._relisten()

    def detach(self, feed: Feed) -> None:
        """Stop feeding a subscription."""
        self.feeds = tuple([other for other in self.feeds if other is not feed])
        self._relisten()

    def begin_anew(self) -> None:
        """Forget the state of all streams, because nobody received them for a while, or this is another process now."""
        self.streams = Streams()
        self.members_changed = True
        if self.near is not None:
            self.near.suspend()
        self._relisten()

    def end(self) -> None:
        """End the near cache and all subscriptions, because the client is closed."""
        if self.near is not None:
            self.near.suspend()
        for feed in self.feeds:
            feed.close()

    def _relisten(self) -> None:
        listeners: list[Listener] = [] if self.near is None else [self.near]
        self.streams.tell(*listeners, *self.feeds)

    def addresses(self) -> list[str]:
        """Return the addresses to be connected to; they change only in ``tick``."""
        return [stream.address for stream in self.streams.streams.values()]

    def to_redial(self, now: float) -> list[str]:
        """Return the addresses whose connection is to be made anew."""
        streams = self.streams.streams.values()
        dialled = self._dialled_at
        self._dialled_at = {stream.address: dialled.get(stream.address, now) for stream in streams}
        found = [
            stream.address
            for stream in streams
            if now - max(stream.heard_at, self._dialled_at[stream.address]) > REDIAL_S
        ]
        self._dialled_at.update(dict.fromkeys(found, now))
        return found

    def receive(self, frame: Frame, now: float) -> None:
        """Take in a frame that a node published."""
        streams, routing = self.streams, self.routing
        try:
            _, messages = decode_frame(frame)
        except ProtocolError:
            self.malformed += 1
            streams.lose_all(now)
            return
        for message in messages:
            if isinstance(message, Invalidations):
                streams.receive(message, now)
                if message.view != routing.digest:
                    routing.note_view(self._asked_for(message.node_id), message.view)
        self._show_live()

    def tick(self, now: float) -> list[Call]:
        """Notice silent streams and changes of the members; return the request for the members, if one is due."""
        if not self.streams.listeners:
            self._relisten()
        if self.members_changed:
            self.members_changed = False
            members = {node_id: publish for node_id, (publish, _boot) in self.routing.streams.items()}
            self.streams.follow(members, self.routing.digest, now)
        else:
            self.streams.review(now)
        self._show_live()
        return look_up(self.routing, now, ALLOWANCE_S) if self.routing.known else []

    def learn(self, call: Call, outcome: Outcome) -> None:
        """Take in the outcome of a request for the members."""
        learn(self.routing, call, outcome)

    def live(self, now: float) -> bool:
        """Tell whether every known member is followed, and none is silent or works with another ring."""
        return not self.members_changed and now < self.streams.live_until

    def _show_live(self) -> None:
        if self.near is not None and not self.members_changed:
            self.near.follow(self.streams.live_until)

    def _asked_for(self, node_id: str) -> str:
        return self.routing.address_of(node_id) or ""


def weak_call(method: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls the method as long as its object exists."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        found = reference()
        if found is not None:
            found()

    return call
