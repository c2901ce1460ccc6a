"""Seeds: the addresses at which a client begins, and the options in their URL, read from text in several forms."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from meshcache.address import join_address, split_address
from meshcache.durations import seconds_of
from meshcache.errors import ConfigError

DEFAULT_PORT: Final = 7101
SEEDS_VARIABLE: Final = "MESHCACHE_SEEDS"
KEY_FILE_VARIABLE: Final = "MESHCACHE_KEY_FILE"

_URL_OPTIONS: Final = (
    "timeout",
    "ttl",
    "consistency",
    "cluster",
    "codec",
    "compress",
    "compress_min_bytes",
    "on_error",
    "hedge",
    "key_file",
)


class Seeds(NamedTuple):
    """The addresses to begin with, and the options that the URL gave."""

    addresses: tuple[str, ...]
    namespace: str | None
    options: dict[str, Any]


def parse_seeds(seeds: str | Iterable[str] | None) -> Seeds:
    """Read what ``Client(seeds)`` takes; ConfigError lists everything that is wrong with it."""
    name = "seeds"
    if seeds is None:
        seeds = os.environ.get(SEEDS_VARIABLE, "")
        name = SEEDS_VARIABLE
        if not seeds.strip():
            seeds = f"127.0.0.1:{DEFAULT_PORT}"
    if isinstance(seeds, str):
        if "://" in seeds:
            return _parse_url(seeds, name)
        seeds = seeds.split(",")
    return Seeds(_addresses(seeds, name), None, {})


def _addresses(texts: Iterable[Any], name: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    problems: list[str] = []
    for text in texts:
        if not isinstance(text, str):
            problems.append(f"{name}: must be host:port as str, is {text!r}")
            continue
        stripped = text.strip()
        if not stripped:
            continue
        has_port = stripped.rpartition("]")[2].find(":") >= 0
        try:
            found[join_address(*split_address(stripped if has_port else f"{stripped}:{DEFAULT_PORT}"))] = None
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if not found and not problems:
        problems.append(f"{name}: there is none; give at least one host:port")
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _parse_url(url: str, name: str) -> Seeds:
    parts = urlsplit(url)
    if parts.scheme != "mesh":
        raise ConfigError(f"{name}: the scheme must be mesh://, is {parts.scheme}:// in {url!r}")
    problems: list[str] = []
    options: dict[str, Any] = {}
    for key, text in parse_qsl(parts.query, keep_blank_values=True):
        if key not in _URL_OPTIONS:
            problems.append(f"{name}: unknown option {key!r}; there are {', '.join(_URL_OPTIONS)}")
            continue
        try:
            options[key] = _option(key, text)
        except ValueError as error:
            problems.append(f"{name}: {key}: {error}")
    try:
        addresses = _addresses(parts.netloc.split(","), name)
    except ConfigError as error:
        raise ConfigError(error.problems + problems) from None
    if problems:
        raise ConfigError(problems)
    return Seeds(addresses, unquote(parts.path[1:]) or None, options)


def _option(key: str, text: str) -> Any:
    if key == "timeout" or (key == "ttl" and text != "never"):
        return seconds_of(text)
    if key == "ttl":
        return None
    if key == "compress_min_bytes":
        if not text.isdecimal():
            raise ValueError(f"must be a number of bytes, is {text!r}")
        return int(text)
    if key == "hedge":
        if text not in {"true", "false"}:
            raise ValueError(f"must be true or false, is {text!r}")
        return text == "true"
    if key == "consistency" and "," in text:
        try:
            w, r = (int(part) for part in text.split(","))
        except ValueError:
            raise ValueError(f"must be two numbers W,R, is {text!r}") from None
        return (w, r)
    return text
