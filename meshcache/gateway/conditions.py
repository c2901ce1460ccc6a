"""ETags, conditions of a request, and what caches on the way are told.

A key's ETag is the version of its value: two answers with the same ETag have the same value, whichever gateway gave
them. So ``If-Match`` is a compare-and-set, and ``If-None-Match`` spares the value that its reader has.

How long an answer may be kept follows from the lifetime of the value: ``Cache-Control: max-age`` counts from when it
was written, and ``Age`` says how long ago that was. Caches on the way hear of no change.
"""

from __future__ import annotations

import math
import re
import time
from typing import Final, NamedTuple

from starlette.requests import Request

from meshcache.client.arguments import Item
from meshcache.gateway.refusals import Refusal

ANY: Final = "*"
NEVER_S: Final = 31_536_000
"""A year: what HTTP has for "never expires"."""

_LIST: Final = re.compile(r'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|$)')
_TAGS_MAX: Final = 32


class Conditions(NamedTuple):
    """What must be so of the present value; each is None, ``*`` or a list of ETags as they stand between the quotes."""

    match: str | list[str] | None
    none_match: str | list[str] | None


def conditions_of(request: Request) -> Conditions:
    """Read the conditions of a request."""
    return Conditions(
        _condition(request, "if-match", weak=False),
        _condition(request, "if-none-match", weak=True),
    )


def _condition(request: Request, name: str, *, weak: bool) -> str | list[str] | None:
    fields = request.headers.getlist(name)
    if not fields:
        return None
    text = ",".join(fields).strip()
    if text == ANY:
        return ANY
    tags: list[str] = []
    at = 0
    while at < len(text):
        found = _LIST.match(text, at)
        if found is None or len(tags) >= _TAGS_MAX:
            detail = f'must be *, or up to {_TAGS_MAX} ETags as they were given: "0123…", in quotes; is {text[:80]!r}'
            raise Refusal(400, "Invalid condition", f"{name.title()} {detail}")
        if weak or not found[1]:  # where bytes must be equal, a weak ETag matches nothing
            tags.append(found[2])
        at = found.end()
    return tags


def etag(version: bytes) -> str:
    """Return the ETag of a version, without its quotes."""
    return version.hex()


def version_in(tags: list[str]) -> list[bytes]:
    """Return the versions that these ETags stand for; what never was an ETag of ours stands for none."""
    return [bytes.fromhex(tag) for tag in tags if re.fullmatch(r"[0-9a-f]{32}", tag)]


def holds(condition: str | list[str], tag: str) -> bool:
    """Tell whether a value with this ETag is among those that a condition names."""
    return condition == ANY or tag in condition


def cache_headers(item: Item) -> dict[str, str]:
    """Return what caches are told of a value."""
    age_s = max(0, int(time.time() - int.from_bytes(item.version[:6], "big") / 1000))
    left_s = NEVER_S if item.ttl == math.inf else int(item.ttl)
    return {
        "ETag": f'"{etag(item.version)}"',
        "Cache-Control": f"max-age={left_s + age_s}",
        "Age": str(age_s),
    }
