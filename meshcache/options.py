"""How one client object works: read from the arguments of a client and from the URL that names its seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshcache.arguments import DEFAULT, Consistency, Timeout, Ttl, levels, milliseconds, namespace_bytes, seconds
from meshcache.codec import Codec, ValueCodec
from meshcache.errors import ConfigError
from meshcache.seeds import Seeds

TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """How one client object works; clients derived from it differ in these."""

    prefix: bytes
    timeout_s: float
    ttl_ms: int
    w: int
    r: int
    codec: Codec


def options_of(
    found: Seeds,
    *,
    timeout: Timeout | None,
    ttl: Ttl,
    consistency: Consistency,
    codec: str | ValueCodec | None,
    namespace: str | bytes,
) -> Options:
    """Return the options of a new client; what is given as an argument counts more than what a URL says."""
    url = found.options
    if ttl is DEFAULT:
        ttl = url.get("ttl", DEFAULT)
    try:
        w, r = levels(url.get("consistency") if consistency is None else consistency)
        return Options(
            prefix=namespace_bytes(namespace or found.namespace or b""),
            timeout_s=seconds(url.get("timeout", TIMEOUT_S) if timeout is None else timeout),
            ttl_ms=milliseconds(ttl),
            w=w,
            r=r,
            codec=Codec(url.get("codec") if codec is None else codec),
        )
    except ValueError as error:
        if url and not isinstance(error, ConfigError):
            raise ConfigError(f"seeds: {error}") from error
        raise
