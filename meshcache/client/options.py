"""The options of a client, read from its arguments and from the URL that names its seeds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from meshcache.client.arguments import (
    DEFAULT,
    Consistency,
    Ttl,
    consistency_of,
    levels,
    milliseconds,
    namespace_bytes,
    ttl_of,
)
from meshcache.client.codec import Codec, ValueCodec
from meshcache.client.compression import MIN_BYTES, Compress, compress_of, min_bytes_of
from meshcache.client.fallbacks import OnReadError, misses_on_error
from meshcache.client.seeds import KEY_FILE_VARIABLE, Seeds
from meshcache.durations import Timeout, seconds
from meshcache.errors import ConfigError
from meshcache.protocol.messages import DEFAULT_LEVEL
from meshcache.protocol.near_store import NearCache

TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """How one client object works; derived clients have other options."""

    prefix: bytes
    timeout_s: float
    ttl_ms: int
    w: int
    r: int
    codec: Codec
    misses_on_error: bool = False
    """Whether a plain read finds nothing when the cache fails, instead of raising an error."""
    hedge: bool = False
    """Whether a read that takes long is sent to another owner, too."""
    key_file: str = ""
    """The file of the key by which the client proves who it is; empty: it has none."""


def options_of(
    found: Seeds,
    *,
    timeout: Timeout | None,
    ttl: Ttl,
    consistency: Consistency,
    codec: str | ValueCodec | None,
    compress: Compress | None = None,
    compress_min_bytes: int | None = None,
    namespace: str | bytes,
    on_error: OnReadError | None = None,
    hedge: bool | None = None,
    key_file: str | os.PathLike[str] | None = None,
) -> Options:
    """Return the options of a new client; an argument takes precedence over the URL."""
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
            codec=Codec(
                url.get("codec") if codec is None else codec,
                compress_of(url.get("compress", "off") if compress is None else compress),
                min_bytes_of(
                    url.get("compress_min_bytes", MIN_BYTES) if compress_min_bytes is None else compress_min_bytes
                ),
            ),
            misses_on_error=misses_on_error(on_error or url.get("on_error", "raise")),
            hedge=hedge_of(url.get("hedge", False) if hedge is None else hedge),
            key_file=os.fspath(_first(key_file, url.get("key_file"), os.environ.get(KEY_FILE_VARIABLE))),
        )
    except ValueError as error:
        if url and not isinstance(error, ConfigError):
            raise ConfigError(f"seeds: {error}") from error
        raise


def _first(*given: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    """Return the first that was given; an empty one stands for none on purpose."""
    return next((one for one in given if one is not None), "")


def hedge_of(hedge: object) -> bool:
    """Return the option ``hedge``. Raises TypeError if it is no bool: another word for "no" would count as a yes."""
    if not isinstance(hedge, bool):
        raise TypeError(f"hedge must be True or False, is {hedge!r:.80}")
    return hedge


def codec_of(
    old: Codec, codec: str | ValueCodec | None, compress: Compress | None, compress_min_bytes: int | None
) -> Codec:
    """Return the codec of a derived client: as the old one, but for what is given."""
    if codec is None and compress is None and compress_min_bytes is None:
        return old
    return Codec(
        old.chosen if codec is None else codec,
        old.compress if compress is None else compress_of(compress),
        old.compress_min_bytes if compress_min_bytes is None else min_bytes_of(compress_min_bytes),
    )


def arguments_of(
    options: Options, seeds: Iterable[str], cluster: str, near_cache: NearCache | bool | None
) -> dict[str, Any]:
    """Return the arguments that make a client with these options; ``near_cache`` is that of the first client."""
    return {
        "seeds": list(seeds),
        "timeout": options.timeout_s,
        "ttl": ttl_of(options.ttl_ms),
        "consistency": consistency_of(options.w, options.r),
        "codec": options.codec.chosen,
        "compress": options.codec.compress,
        "compress_min_bytes": options.codec.compress_min_bytes,
        "namespace": options.prefix,
        "cluster": cluster,
        "near_cache": near_cache if options.r == DEFAULT_LEVEL else None,
        "key_file": options.key_file,
        "on_error": "miss" if options.misses_on_error else "raise",
        "hedge": options.hedge,
    }
