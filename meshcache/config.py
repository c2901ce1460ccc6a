"""The configuration: one frozen dataclass per TOML table, the defaults in code, every mistake reported at once.

A setting has one dotted path, ``table.key``, and four places that may give it. A later one wins::

    defaults below  <  file (--config)  <  environment (MESHCACHE_TABLE_KEY)  <  overrides (--set table.key=value)

Reading, typing and checking are separate steps, and none of them changes what another one found. Each setting carries
its own check in its type (``Annotated``, checks.py); what concerns two settings is checked in
contradictions.py. What
follows from other settings (the node's id, its further addresses) is a property and never stored a second time.

All durations are in seconds and end in ``_s``; all sizes are in bytes.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import platform
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from meshcache import checks
from meshcache.address import is_one_machine, join_address, split_address
from meshcache.checks import Check
from meshcache.contradictions import HTTP_OFF, HTTP_PORT_OFFSET, PUBLISH_PORT_OFFSET, contradictions
from meshcache.durations import seconds_of
from meshcache.errors import ConfigError

_ENVIRONMENT_PREFIX: Final = "MESHCACHE_"
_ENVIRONMENT_OTHERS: Final = re.compile(r"MESHCACHE_(SEEDS|KEY_FILE|PURE|NATIVE|SERVICE_.*|PORT|PORT_.*)")
"""Variables that are no settings: SEEDS and KEY_FILE belong to clients. The rest is what Kubernetes puts into every
container beside a Service that is called "meshcache"."""


def _http_address(value: str) -> str | None:
    problem = checks.address(value) if value not in {"", HTTP_OFF} else None
    return f'{problem}; for no HTTP at all write "{HTTP_OFF}"' if problem else None


def _dialled_address(value: str) -> str | None:
    problem = checks.address(value)
    if problem is None and not is_one_machine(split_address(value)[0]):
        return f"must be the very address that others dial, is {value!r}"
    return problem


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """``[node]``: what differs from node to node."""

    id: Annotated[str, checks.or_empty(checks.name)] = ""
    listen: Annotated[str, checks.address] = "127.0.0.1:7101"
    advertise: Annotated[str, checks.or_empty(_dialled_address)] = ""
    publish: Annotated[str, checks.or_empty(checks.address)] = ""
    http: Annotated[str, _http_address] = ""
    seeds: Annotated[tuple[str, ...], checks.addresses] = ()
    host: Annotated[str, checks.label] = ""
    zone: Annotated[str, checks.label] = ""
    weight: Annotated[float, checks.weight] = 1.0
    data_dir: str = ""

    @property
    def node_id(self) -> str:
        """``id``, or one made of host name and port: the same after each restart."""
        if self.id:
            return self.id
        host = re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()).lstrip("._-")[:58] or "node"
        return f"{host}-{split_address(self.listen)[1]}"

    @property
    def host_label(self) -> str:
        """``host``, or this machine's name: copies of a key avoid sharing it."""
        return self.host or platform.node() or "localhost"

    @property
    def address(self) -> str:
        """Where others dial this node."""
        return self.advertise or self.listen

    @property
    def publish_dialled(self) -> str:
        """Where others dial the invalidation stream."""
        return self._advertised(self.publish_address)

    @property
    def http_dialled(self) -> str:
        """Where others dial HTTP; empty if it is off."""
        return self._advertised(self.http_address) if self.http_address else ""

    def _advertised(self, bound: str) -> str:
        """Return where others dial what is bound here: at the advertised host, unless it has its own address."""
        host, port = split_address(bound)
        elsewhere = host != split_address(self.listen)[0] and is_one_machine(host)
        if not self.advertise or elsewhere:
            return bound
        return join_address(split_address(self.advertise)[0], port)

    @property
    def publish_address(self) -> str:
        """Where the invalidation stream is bound."""
        return self.publish or self._beside_listen(PUBLISH_PORT_OFFSET)

    @property
    def http_address(self) -> str:
        """Where HTTP is bound; empty if it is off."""
        if self.http == HTTP_OFF:
            return ""
        return self.http or self._beside_listen(HTTP_PORT_OFFSET)

    def _beside_listen(self, offset: int) -> str:
        host, port = split_address(self.listen)
        return join_address(host, port + offset)


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """``[cluster]``: what all nodes of a mesh must agree on."""

    name: Annotated[str, checks.name] = "meshcache"
    replicas: Annotated[int, checks.at_least(1)] = 2
    write_quorum: Annotated[int, checks.at_least(1)] = 2
    read_quorum: Annotated[int, checks.at_least(1)] = 1
    vnodes: Annotated[int, checks.at_least(1)] = 150
    slots: Annotated[int, checks.power_of_two] = 1024
    partition_policy: Annotated[str, checks.one_of("available", "strict")] = "available"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """``[store]``: what one node holds."""

    max_entries: Annotated[int, checks.at_least(1)] = 10_000
    max_bytes: Annotated[int, checks.at_least(1)] = 100_000_000
    default_ttl_s: Annotated[float, checks.lifetime] = 300.0
    eviction: Annotated[str, checks.one_of("lru", "s3fifo")] = "lru"
    tombstone_grace_s: Annotated[float, checks.positive] = 600.0


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """``[membership]``: how soon nodes notice each other coming and going.

    In a cluster of n:

    - a process that is killed is known to all after about ``link_dead_after_s``: its connections break
    - one that falls silent is suspected ``2 * ack_timeout_s`` after somebody probes it, which happens once in each
      ``probe_interval_s`` on average, and declared dead after another
      ``max(dead_after_s, suspicion_multiplier * max(1, log10(n)) * probe_interval_s)``, or up to
      ``suspicion_max_multiplier`` times as late while only one other node says so (core/suspicion.py)
    - news reaches all in about ``gossip_interval_s * log(n) / log(1 + gossip_fanout)``
    """

    probe_interval_s: Annotated[float, checks.positive] = 0.2
    ack_timeout_s: Annotated[float, checks.positive] = 0.2
    indirect_probes: Annotated[int, checks.at_least(0)] = 3
    suspicion_multiplier: Annotated[float, checks.positive] = 6.0
    suspicion_max_multiplier: Annotated[float, checks.at_least(1)] = 3.0
    dead_after_s: Annotated[float, checks.positive] = 1.2
    link_dead_after_s: Annotated[float, checks.positive] = 0.6
    gossip_interval_s: Annotated[float, checks.positive] = 0.1
    gossip_fanout: Annotated[int, checks.at_least(1)] = 3
    sync_interval_s: Annotated[float, checks.positive] = 5.0
    join_wait_s: Annotated[float, checks.positive] = 2.0
    transition_s: Annotated[float, checks.positive] = 1.0
    leave_timeout_s: Annotated[float, checks.positive] = 30.0
    forget_after_s: Annotated[float, checks.positive_or_inf] = 86_400.0


@dataclass(frozen=True, slots=True)
class NearCacheSettings:
    """``[near_cache]``: no settings yet."""


@dataclass(frozen=True, slots=True)
class HotKeySettings:
    """``[hot_keys]``: which keys get copies beyond their replicas."""

    enabled: bool = True
    threshold_reads: Annotated[int, checks.at_least(1)] = 1000
    window_s: Annotated[float, checks.positive] = 60.0
    copy_ttl_s: Annotated[float, checks.positive] = 1.0


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """``[limits]``: a bound on everything that others can make a node hold or do."""

    value_bytes_max: Annotated[int, checks.at_least(1)] = 16_777_216
    request_bytes_max: Annotated[int, checks.at_least(65_536)] = 67_108_864
    reply_bytes_max: Annotated[int, checks.at_least(1024)] = 1_048_576
    pending_max: Annotated[int, checks.at_least(1)] = 10_000
    operation_timeout_s: Annotated[float, checks.positive] = 5.0
    link_queue_max: Annotated[int, checks.at_least(1)] = 2000
    connections_max: Annotated[int, checks.at_least(1)] = 10_000
    in_flight_bytes_max: Annotated[int, checks.at_least(1 << 20)] = 134_217_728
    client_in_flight_bytes_max: Annotated[int, checks.at_least(1 << 20)] = 33_554_432


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """``[http]``: what a node answers to health checks and scrapes, and bounds on what those may take."""

    stall_s: Annotated[float, checks.positive] = 5.0
    connections_max: Annotated[int, checks.at_least(1)] = 64
    request_timeout_s: Annotated[float, checks.positive] = 5.0
    token_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""


@dataclass(frozen=True, slots=True)
class MemcachedSettings:
    """``[memcached]``: the door for clients of memcached, and bounds on what those may take."""

    listen: Annotated[str, checks.or_empty(checks.address)] = ""
    connections_max: Annotated[int, checks.at_least(1)] = 1024
    in_flight_bytes_max: Annotated[int, checks.at_least(1 << 20)] = 33_554_432
    stall_s: Annotated[float, checks.positive] = 10.0
    password_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """``[security]``: who may connect. With a key file, all connections are encrypted, and by keys that are allowed."""

    insecure: bool = False
    permissive: bool = False
    key_file: str = ""
    allowed_keys_dir: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotSettings:
    """``[snapshot]``: what a node holds, written to ``node.data_dir`` so that it outlives the process."""

    enabled: bool = False
    interval_s: Annotated[float, checks.positive] = 60.0
    keep: Annotated[int, checks.at_least(1)] = 2


@dataclass(frozen=True, slots=True)
class LogSettings:
    """``[log]``: what goes to standard error."""

    level: Annotated[str, checks.one_of("debug", "info", "warning", "error")] = "info"
    format: Annotated[str, checks.one_of("auto", "json", "console")] = "auto"
    slow_operation_s: Annotated[float, checks.threshold] = 1.0


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a node. ``load`` and ``from_tables`` check them; constructing one by hand does not."""

    node: NodeSettings = field(default_factory=NodeSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    membership: MembershipSettings = field(default_factory=MembershipSettings)
    near_cache: NearCacheSettings = field(default_factory=NearCacheSettings)
    hot_keys: HotKeySettings = field(default_factory=HotKeySettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    memcached: MemcachedSettings = field(default_factory=MemcachedSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    snapshot: SnapshotSettings = field(default_factory=SnapshotSettings)
    log: LogSettings = field(default_factory=LogSettings)

    @property
    def key_path(self) -> str:
        """``security.key_file`` with this node's id in it; empty: there are no keys."""
        return self.security.key_file.replace("{id}", self.node.node_id)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        overrides: Iterable[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> Config:
        """Read a file, the environment (``os.environ`` if not given) and overrides; ConfigError lists all mistakes."""
        draft = _Draft()
        if path is not None:
            draft.add_tables(_read_file(Path(path)), f" (in {path})")
        draft.add_environment(os.environ if environ is None else environ)
        draft.add_overrides(overrides)
        return draft.finish()

    @classmethod
    def from_tables(cls, **tables: Mapping[str, Any]) -> Config:
        """Make a configuration from one mapping per table, as ``store={"max_entries": 1000}``; nothing else is read."""
        draft = _Draft()
        draft.add_tables(tables, "")
        return draft.finish()


def overrides_of(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return tables as overrides (``table.key=value``), which is how they reach another process."""

    def text(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return [f"{table}.{key}={text(value)}" for table, keys in tables.items() for key, value in keys.items()]


@dataclass(frozen=True, slots=True)
class _Setting:
    """One setting as declared: its type, default and check."""

    kind: Any
    default: Any
    check: Check | None


@functools.cache
def _table_types() -> dict[str, Any]:
    hints = get_type_hints(Config)
    return {table.name: hints[table.name] for table in fields(Config)}


@functools.cache
def _settings() -> dict[str, _Setting]:
    """Every setting by its dotted path, in the order of declaration."""
    found = {}
    for table, table_type in _table_types().items():
        hints = get_type_hints(table_type, include_extras=True)
        for key in fields(table_type):
            hint = hints[key.name]
            kind, check = get_args(hint) if get_origin(hint) is Annotated else (hint, None)
            found[f"{table}.{key.name}"] = _Setting(kind, key.default, check)
    return found


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _suggested_path(path: str) -> str:
    """Look for a similar path, then for the very key in another table."""
    key = path.rpartition(".")[2]
    elsewhere = [known for known in _settings() if known.endswith(f".{key}")]
    return f"; did you mean {elsewhere[0]}?" if len(elsewhere) == 1 else _suggestion(path, _settings())


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the file must be UTF-8 text: {error.reason} at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


_KIND_NAMES: Final[dict[Any, str]] = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def _typed(kind: Any, value: Any) -> Any:
    """Return ``value`` as ``kind``; TypeError names the type that is needed. A whole number may stand for a float."""
    if kind is float and type(value) is int:
        return float(value)
    if kind in _KIND_NAMES:
        if type(value) is not kind or value != value:  # noqa: PLR0124 - NaN is the one number unequal to itself
            raise TypeError(f"must be {_KIND_NAMES[kind]}, is {value!r}")
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"must be a list of strings, is {value!r}")
    return tuple(value)


def _checked(setting: _Setting, value: Any) -> Any:
    """Return ``value`` in the setting's type; TypeError or ValueError says what is wrong with it."""
    typed = _typed(setting.kind, value)
    problem = setting.check(typed) if setting.check else None
    if problem:
        raise ValueError(problem)
    return typed


def _parsed(path: str, kind: Any, text: str) -> Any:
    """Return the value that ``text``, from outside a TOML file, stands for; unreadable text is returned as it is."""
    text = text.strip()
    if kind is float and path.endswith("_s"):
        with contextlib.suppress(ValueError):
            return seconds_of(text)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in {int, float}:
        try:
            return kind(text)
        except ValueError:
            return text
    if kind is str:
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


class _Draft:
    """A configuration in the making: the values given so far, where each came from, and the mistakes found."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._origins: dict[str, str] = {}
        self._problems: list[str] = []

    def add_tables(self, tables: Mapping[str, Any], origin: str) -> None:
        """Take in mappings by table. ``origin`` ends the sentence that reports a mistake."""
        for table, keys in tables.items():
            if table not in _table_types():
                suggestion = _suggestion(table, _table_types()) or _suggested_path(table)
                self._problems.append(f"{table}: no such table{suggestion}{origin}")
            elif not isinstance(keys, Mapping):
                self._problems.append(f"{table}: must be a table, is {keys!r}{origin}")
            else:
                for key, value in keys.items():
                    self._give(f"{table}.{key}", value, origin)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Take in the variables that begin with our prefix."""
        names = {_ENVIRONMENT_PREFIX + path.replace(".", "_").upper(): path for path in _settings()}
        for name in sorted(environ):
            if name in names:
                path = names[name]
                self._give(path, _parsed(path, _settings()[path].kind, environ[name]), f" (from {name})")
            elif name.startswith(_ENVIRONMENT_PREFIX) and not _ENVIRONMENT_OTHERS.fullmatch(name):
                self._problems.append(f"{name}: no such setting in the environment{_suggestion(name, names)}")

    def add_overrides(self, overrides: Iterable[str]) -> None:
        """Take in ``table.key=value`` texts."""
        for override in overrides:
            path, equals, text = override.partition("=")
            path = path.strip()
            if not equals:
                self._problems.append(f"{override}: an override must be table.key=value")
                continue
            setting = _settings().get(path)
            self._give(path, _parsed(path, setting.kind, text) if setting else text, " (from --set)")

    def _give(self, path: str, value: Any, origin: str) -> None:
        if path not in _settings():
            self._problems.append(f"{path}: no such setting{_suggested_path(path)}{origin}")
            return
        self._values[path] = value
        self._origins[path] = origin

    def finish(self) -> Config:
        """Type and check what was given; ConfigError if anything at all was wrong."""
        values = {path: setting.default for path, setting in _settings().items()}
        for path, setting in _settings().items():
            if path in self._values:
                try:
                    values[path] = _checked(setting, self._values[path])
                except (TypeError, ValueError) as error:
                    self._problems.append(f"{path}: {error}{self._origins[path]}")
        # A default gives way to a bound that was given: replicas = 1 alone is no contradiction.
        for path, bound in (
            ("cluster.write_quorum", "cluster.replicas"),
            ("limits.value_bytes_max", "store.max_bytes"),
        ):
            if path not in self._values:
                values[path] = min(values[path], values[bound])
        self._problems += contradictions(values)
        if self._problems:
            raise ConfigError(self._problems)
        tables: dict[str, dict[str, Any]] = {table: {} for table in _table_types()}
        for path, value in values.items():
            table, _, key = path.partition(".")
            tables[table][key] = value
        return Config(**{table: table_type(**tables[table]) for table, table_type in _table_types().items()})
