"""How the keys that one node is asked for are shared out to requests: the parts of a round, all under way at once.

What is large goes in parts of about 1 MiB. So one part is made or read while another travels and a third is served;
both sides use blocks of this size again and again; and no other request waits long. A round of parts has an end, too: a
node must bear it from many clients at a time.

How long the values of a GET will be nobody knows before. When a reply was too short for all, those that it had tell;
and what one batch had, the client expects of the next one too (``Routing.value_bytes``), as long as its values are
large. So a program that reads large values in batches waits for one round, and not for one more that only finds out. A
batch of small values after such a one takes more requests than it needs, once.

Pure.
"""

from __future__ import annotations

from typing import Any, Final

from meshcache.client.connection import Read, Request
from meshcache.protocol.messages import BATCH_OPS_MAX, Update

ROUND_BYTES_MAX: Final = 16 << 20
"""What a round has for one node, at most, unless it is one value: as much as the largest value, which a node must bear
in any case."""
EXPECTED_REPLY_BYTES: Final = 1024
"""What the reply has for a key, as long as nothing is known of it."""
ROUND_PARTS_MAX: Final = 16
"""A round has so many parts for one node, at most: as many requests of a client may wait at a node that has much to do
(intake.py), and a refusal would make the whole client hold back."""
VALUE_MARGIN: Final = 1.25
"""Where the length of values is only expected, a part has so many times less than fits: values may differ, and a part
that does not fit in a reply takes another round."""


def value_bytes(results: list[Any]) -> int | None:
    """Return how long other values are expected to be, given the results of a reply; None if it had none.

    0: so short that a batch of any number need not be shared out before.
    """
    given = [_length(result) for result in results if type(result) is bytes or type(result) is Read]
    if not given:
        return None
    mean = sum(given) // len(given)
    return mean if mean > EXPECTED_REPLY_BYTES else 0


def _length(result: bytes | Read) -> int:
    value = result.value if type(result) is Read else result
    return len(value) if type(value) in {bytes, str} else 0


def parts_of(
    request: Request, indices: list[int], expected_value_bytes: int, size_max: int
) -> list[tuple[list[int], int]]:
    """Share these keys of a request out to the parts of a round, in their order; the rest is for the next round.

    Returns what each part has, and its bytes: of the keys, the payloads, and the values that are expected for them,
    with a margin. ``size_max``: a part has more only if it is one value.
    """
    if not request.keys:
        return [(indices, 0)]
    expected = int(VALUE_MARGIN * expected_value_bytes)
    margin = expected - expected_value_bytes
    sizes = [len(request.keys[i]) + expected for i in indices]
    if request.payloads is not None and request.kind is not Update:
        sizes = [size + len(request.payloads[i]) for size, i in zip(sizes, indices, strict=True)]
    parts: list[tuple[list[int], int]] = []
    start = size = total = 0
    for end, more in enumerate(sizes):
        if end > start and (size + more > size_max or end - start == BATCH_OPS_MAX):
            parts.append((indices[start:end], size))
            start, size = end, 0
            if total + more - margin > ROUND_BYTES_MAX or len(parts) == ROUND_PARTS_MAX:
                return parts
        size += more
        total += max(more - margin, EXPECTED_REPLY_BYTES)
    return [*parts, (indices[start:], size)]


def weight_of(parts: list[tuple[list[int], int]]) -> int:
    """Return the bytes that parts have and ask for together: each waits for those before it."""
    return sum([max(size, len(part) * EXPECTED_REPLY_BYTES) for part, size in parts])
