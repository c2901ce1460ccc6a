"""What the messages of a turn become: frames that the other side accepts, made with no needless copy."""

from __future__ import annotations

from meshcache.core.frames import Frames
from meshcache.protocol import messages as m
from meshcache.protocol.clock import HybridClock
from meshcache.protocol.wire import LARGE_BYTES, decode_frame, encode_frame


def frames() -> Frames:
    def fail(what: str, to: object, error: Exception) -> None:
        raise AssertionError(what, to) from error

    return Frames(HybridClock(1), "node", 1, 1 << 30, fail)


def test_small_messages_for_one_destination_share_a_frame() -> None:
    messages = [m.Reply(i, b"view", [b"value"]) for i in range(100)]
    ((to, frame),) = frames().of({"there": messages})
    assert to == "there"
    assert decode_frame(frame)[1] == messages


def test_a_large_message_has_a_frame_of_its_own_and_is_not_copied_for_that() -> None:
    reject, last = m.Reject(1, b"view", [1]), m.Reject(3, b"view", [1])
    large = encode_frame(0, [m.Reply(2, b"view", [bytes(LARGE_BYTES)])])
    made = [frame for _, frame in frames().of({"there": [reject, large, last]})]
    assert [decode_frame(frame)[1] for frame in made] == [[reject], decode_frame(large)[1], [last]]
    assert made[1] is large
