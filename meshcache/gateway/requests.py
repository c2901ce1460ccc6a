"""What a request says: its key, its options, its body. Every mistake is answered with what is wrong and what is right.

Keys are read from the path as it was sent, before anybody has decoded it: so ``%2F``, ``%00`` and ``..`` are bytes of a
key and nothing else, ``%252F`` is the key ``%2F``, and no two keys share a path. Only a slash that is not escaped means
the same as one that is.

A body is read within ``BODY_S``, and no further than its limit. All bodies that are being received share one budget.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Collection
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.requests import Request

from meshcache.client.arguments import DEFAULT, LEVELS, Ttl, raw_key, raw_tags
from meshcache.errors import InvalidKey
from meshcache.gateway.refusals import Refusal, unavailable
from meshcache.protocol.record import TAGS_MAX

BODY_S: Final = 20.0
"""What the sending of a body may take."""
JSON_BYTES_MAX: Final = 4 << 20
"""Of a body that is JSON: what it becomes in memory is many times longer."""
ENVELOPE_BYTES: Final = 64 << 10
"""What JSON around a value may take beyond the limit of the value."""
BODIES_BYTES_MAX: Final = 64 << 20
"""What all bodies that are being received may take together."""
TTL_S_MAX: Final = 10 * 365 * 86_400
"""Ten years: a longer lifetime is a mistake in its unit."""

_ESCAPE_BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def key_of(path: str) -> bytes:
    """Return the key that a part of a raw path names."""
    if _ESCAPE_BROKEN.search(path):
        raise Refusal(400, "Invalid key", "in a path, % is followed by two hex digits; a percent sign itself is %25")
    key = unquote_to_bytes(path)
    try:
        return raw_key(b"", key)
    except InvalidKey as error:
        raise Refusal(400, "Invalid key", str(error)) from None


def key_in_body(value: Any, field: str) -> str:
    """Check a key, or the prefix of keys, in a JSON body."""
    if not isinstance(value, str):
        raise Refusal(400, "Invalid key", f"{field} must be a string, is {_briefly(value)}")
    try:
        raw_key(b"", value)
    except InvalidKey as error:
        raise Refusal(400, "Invalid key", f"{field}: {error}") from None
    return value


def options_of(request: Request, allowed: Collection[str]) -> dict[str, str]:
    """Return the options behind the question mark; none may be unknown or stand there twice."""
    text = request.scope["query_string"].decode("latin-1")
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=20, errors="surrogateescape")
    except ValueError:
        raise Refusal(400, "Invalid option", "at most 20 options") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            there_are = f"there are: {', '.join(sorted(allowed))}" if allowed else "this path takes none"
            raise Refusal(400, "Unknown option", f"{name[:80]!r} is no option here; {there_are}")
        if name in found:
            raise Refusal(400, "Invalid option", f"{name} is given twice")
        found[name] = value
    return found


def consistency_of(options: dict[str, str]) -> str | None:
    """Return the consistency asked for; None: as the mesh is configured."""
    name = options.get("consistency")
    if name is not None and name not in LEVELS:
        raise Refusal(400, "Invalid option", f"consistency must be one, quorum or all, is {name[:80]!r}")
    return name


def lifetime_of(fields: dict[str, Any]) -> Ttl:
    """Return the lifetime that ``ttl`` (milliseconds) or ``ttl_s`` (seconds) gives; null: for ever."""
    given = [name for name in ("ttl", "ttl_s") if name in fields]
    if not given:
        return DEFAULT
    if len(given) > 1:
        raise Refusal(400, "Invalid ttl", "give ttl (milliseconds) or ttl_s (seconds), not both")
    name, unit = given[0], "milliseconds" if given[0] == "ttl" else "seconds"
    value = fields[name]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124  (NaN)
        detail = f"{name} must be a number of {unit}, or null for a key that never expires; is {_briefly(value)}"
        raise Refusal(400, "Invalid ttl", detail)
    if value <= 0:
        detail = f"{name} must be greater than 0, is {_briefly(value)}"
        raise Refusal(400, "Invalid ttl", f"{detail}: null is for a key that never expires, and DELETE drops one")
    if value > (TTL_S_MAX * 1000 if name == "ttl" else TTL_S_MAX):
        detail = f"{name} is in {unit} and must be at most ten years, is {_briefly(value)}"
        raise Refusal(400, "Invalid ttl", f"{detail}: null is for a key that never expires")
    return value / 1000 if name == "ttl" else value


def lifetime_in_options(options: dict[str, str]) -> Ttl:
    """Return the same from the options of a request whose body is the value itself."""
    fields: dict[str, Any] = {}
    for name in ("ttl", "ttl_s"):
        if name in options:
            text = options[name]
            try:
                fields[name] = None if text == "null" else float(text)
            except ValueError:
                fields[name] = text
    return lifetime_of(fields)


def tags_of(tags: object, field: str) -> tuple[bytes, ...]:
    """Check tags."""
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise Refusal(400, "Invalid tag", f"{field} must be an array of strings, is {_briefly(tags)}")
    try:
        found = raw_tags(b"", tags)
    except ValueError as error:
        raise Refusal(400, "Invalid tag", f"{field}: {error}") from None
    if len(found) > TAGS_MAX:
        raise Refusal(400, "Invalid tag", f"{field}: an entry has at most {TAGS_MAX} tags, not {len(found)}")
    return found


def tags_in_header(request: Request) -> tuple[bytes, ...]:
    """Return the tags of ``Cache-Tag: user:1, team:7``; a byte that is no ASCII, or a comma, can be escaped with %."""
    text = ",".join(request.headers.getlist("cache-tag"))
    if not text:
        return ()
    tags = [part.strip() for part in text.split(",")]
    if any(_ESCAPE_BROKEN.search(tag) for tag in tags):
        raise Refusal(400, "Invalid tag", "Cache-Tag: % is followed by two hex digits; a percent sign itself is %25")
    raws = [unquote_to_bytes(tag.encode("latin-1")) for tag in tags]
    try:
        found = raw_tags(b"", raws)
    except ValueError as error:
        raise Refusal(400, "Invalid tag", f"Cache-Tag: {error}") from None
    if len(found) > TAGS_MAX:
        raise Refusal(400, "Invalid tag", f"Cache-Tag: an entry has at most {TAGS_MAX} tags, not {len(found)}")
    return found


def media_type(request: Request) -> str:
    """Return the content type without its parameters; "" if there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class Bodies:
    """Receives bodies, within the limits of each and of all."""

    def __init__(self) -> None:
        self.bytes = 0
        """Of all bodies that are being received."""

    async def read(self, request: Request, bytes_max: int) -> bytes:
        """Return a body. It must come in time, and must not be too long."""
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > bytes_max:
            raise _too_large(bytes_max)
        taken = 0
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_S):
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "Body cut short", "the connection ended before the body did")
                    part = message.get("body", b"")
                    taken += len(part)
                    self.bytes += len(part)
                    if taken > bytes_max:
                        raise _too_large(bytes_max)
                    if self.bytes > BODIES_BYTES_MAX:
                        raise unavailable("Too many bodies at once", "the gateway receives more than it has room for")
                    parts.append(part)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(408, "Body too slow", f"a body must arrive within {BODY_S:g} s") from None
        finally:
            self.bytes -= taken

    async def read_json(self, request: Request, bytes_max: int) -> dict[str, Any]:
        """Return a body that is a JSON object, and is said to be JSON: no form of a web page can send that."""
        if media_type(request) != "application/json":
            raise Refusal(415, "Not JSON", "say Content-Type: application/json, and send JSON")
        content = parse_json(await self.read(request, min(bytes_max, JSON_BYTES_MAX)))
        if not isinstance(content, dict):
            raise Refusal(400, "Invalid body", f"the body must be a JSON object, is {_briefly(content)}")
        return content


def parse_json(body: bytes) -> Any:
    """Return what a body says in JSON."""
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError:
        raise Refusal(400, "Invalid JSON", "the body is no UTF-8") from None
    except RecursionError:
        raise Refusal(400, "Invalid JSON", "the body has too many levels of arrays and objects in each other") from None
    except ValueError as error:
        raise Refusal(400, "Invalid JSON", str(error)[:200]) from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond what a 64-bit number can say")
    return number


def checked_fields(content: dict[str, Any], allowed: Collection[str], what: str = "the body") -> dict[str, Any]:
    """Return an object of a JSON body, which may have no other fields."""
    unknown = [name for name in content if name not in allowed]
    if unknown:
        detail = f"{what} has the unknown field {unknown[0][:80]!r}; there are: {', '.join(sorted(allowed))}"
        raise Refusal(400, "Unknown field", detail)
    return content


def listed(content: dict[str, Any], name: str, count_max: int, check: Callable[[Any, str], Any]) -> list[Any]:
    """Return a field of a JSON body that is an array, each of its elements checked; empty if it is not there."""
    given = content.get(name, [])
    if not isinstance(given, list):
        raise Refusal(400, "Invalid body", f"{name} must be an array, is {_briefly(given)}")
    if len(given) > count_max:
        raise Refusal(400, "Invalid body", f"{name} has {len(given):,} elements; at most {count_max:,} go at once")
    return [check(each, f"{name}[{i}]") for i, each in enumerate(given)]


def _too_large(bytes_max: int) -> Refusal:
    return Refusal(413, "Body too large", f"the body may take {bytes_max:,} bytes")


def _briefly(value: Any) -> str:
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
