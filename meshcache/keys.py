"""Keys: the secret key file of a node or a client, and the directory of public keys of those who may connect.

Whoever takes part has a CURVE key pair of its own, and one *secret key file* with all that it needs, in TOML::

    kind = "client"            # or "node", or "mesh"
    name = "web"
    public = "…"               # 40 characters of Z85 (ZeroMQ RFC 32) each
    secret = "…"
    mesh_public = "…"          # of the key pair at which all nodes of the mesh listen
    mesh_secret = "…"          # nodes only

The nodes share one key pair for listening. So a client needs to know one public key, whichever nodes there are, and
nodes may come and go; but each of them could pose as another towards those who dial it. What a node or a client *says*
is bound to its own key: see core/access.py.

The *directory of allowed keys* has any number of files whose names end in ``.pub``. Each line of them allows one key::

    node   node1  <public key>
    client web    <public key>  read,write  prefix=users:

``prefix`` confines a client to the keys that begin so; in it, ``%20`` is a space, as in a URL. Empty lines, and lines
that begin with ``#``, are skipped. A line that is wrong is left out and named, and the others hold.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tomllib
from dataclasses import dataclass
from enum import Flag
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from meshcache import checks
from meshcache.errors import ConfigError
from meshcache.private_files import open_file, read_privately

KEY_FILE_BYTES_MAX: Final = 65_536
PUBLIC_FILE_BYTES_MAX: Final = 1 << 20
PUBLIC_FILES_MAX: Final = 1024
KEYS_MAX: Final = 10_000
PREFIX_BYTES_MAX: Final = 1024
PROBLEMS_MAX: Final = 100
"""So many are named; of further ones only the number."""
KINDS: Final = ("node", "client", "mesh")

_Z85: Final = re.compile(r"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
_NAME_RULE: Final = "must be 1 to 64 letters, digits, dots, dashes or underscores"
_FIELDS: Final = ("kind", "name", "public", "secret", "mesh_public", "mesh_secret")


class Rights(Flag):
    """What a client's key allows."""

    READ = 1
    """To read keys, and what is announced of them."""
    WRITE = 2
    """To change keys, one by one or by tag."""
    ADMIN = 4
    """To drop keys by prefix, and to look at nodes and to send them away."""


RIGHTS: Final = {"read": Rights.READ, "write": Rights.WRITE, "admin": Rights.ADMIN}
ALL_RIGHTS: Final = Rights.READ | Rights.WRITE | Rights.ADMIN


@dataclass(frozen=True, slots=True)
class SecretKey:
    """What is in a secret key file."""

    kind: str
    name: str
    public: str
    secret: str
    mesh_public: str
    mesh_secret: str = ""

    def __repr__(self) -> str:
        """Show it without its secrets: they must get into no log."""
        return f"<secret key of {self.kind} {self.name}>"


@dataclass(frozen=True, slots=True)
class AllowedKey:
    """One who may connect."""

    kind: str
    name: str
    public: str
    rights: Rights
    prefix: bytes
    """A client is confined to keys that begin so."""

    @property
    def is_node(self) -> bool:
        """Tell whether this is a node."""
        return self.kind == "node"

    @property
    def may_follow(self) -> bool:
        """Tell whether this key lets its owner hear of all keys that change."""
        return Rights.READ in self.rights and not self.prefix

    @property
    def line(self) -> str:
        """Return the line of a file that allows this key."""
        if self.is_node:
            return f"node {self.name} {self.public}"
        rights = ",".join(name for name, right in RIGHTS.items() if right in self.rights)
        prefix = f" prefix={quote(self.prefix, safe=':/')}" if self.prefix else ""
        return f"client {self.name} {self.public} {rights}{prefix}"


ANYBODY: Final = AllowedKey("anybody", "", "", ALL_RIGHTS, b"")
"""Who connects without a key, where nobody needs one: it may say that it is a node."""
NOBODY: Final = AllowedKey("nobody", "", "", Rights(0), b"")
"""Whose key is not, or not any more, among those allowed."""


@dataclass(frozen=True, slots=True)
class AllowedKeys:
    """All who may connect, by their public keys; and what is wrong with the files that say so."""

    keys: dict[str, AllowedKey]
    problems: tuple[str, ...]

    @property
    def nodes(self) -> frozenset[str]:
        """The ids of all nodes that may take part."""
        return frozenset(key.name for key in self.keys.values() if key.is_node)


def read_secret_key(path: str | os.PathLike[str], *kinds: str) -> SecretKey:
    """Read a secret key file of one of these kinds. Raises ConfigError that names the file and the reason."""
    where = Path(path)
    text = read_privately(where, KEY_FILE_BYTES_MAX, "security.key_file or key_file=").decode(errors="replace")
    first = text.split(maxsplit=1)[:1]
    if first and first[0] in {"node", "client"}:
        raise ConfigError(f"{where}: is a file of public keys; the secret key file of the same name belongs here")
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: is no secret key file, or was cut off: {error}; make one by keygen") from None
    missing = [name for name in _FIELDS[:-1] if not isinstance(found.get(name), str)]
    if missing:
        raise ConfigError(f"{where}: is no secret key file, or was cut off: {', '.join(missing)} missing")
    # What is no name must not be repeated: it could be a secret at the wrong place.
    if checks.name(found["name"]):
        raise ConfigError(f"{where}: name {_NAME_RULE}")
    wrong = [name for name in _FIELDS[2:] if name in found and not is_key(found[name])]
    if wrong:
        raise ConfigError(f"{where}: {', '.join(wrong)}: a key has 40 characters of Z85")
    key = SecretKey(**{name: found.get(name, "") for name in _FIELDS})
    if key.kind not in kinds:
        needed = " or ".join(f"a {kind}" for kind in kinds)
        raise ConfigError(f"{where}: is the key of a {key.kind!r:.20}; that of {needed} belongs here")
    if key.kind != "client" and not key.mesh_secret:
        raise ConfigError(f"{where}: mesh_secret is missing, which a node needs to listen")
    return key


def secret_key_text(key: SecretKey) -> str:
    """Return the text of a secret key file."""
    lines = [f'{name} = "{getattr(key, name)}"' for name in _FIELDS if getattr(key, name)]
    return "\n".join(["# A secret of meshcache: only its owner may read this file.", *lines, ""])


def read_allowed_keys(directory: str | os.PathLike[str]) -> AllowedKeys:
    """Read who may connect. Raises ConfigError if the directory itself cannot be read."""
    folder = Path(directory)
    keys: dict[str, AllowedKey] = {}
    problems: list[str] = []
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}; security.allowed_keys_dir names it") from None
    secrets = [path for path in paths if path.suffix == ".secret"]
    problems += [f"{path}: a secret key does not belong among public ones: move it away" for path in secrets]
    files = [path for path in paths if path.suffix == ".pub"]
    if len(files) > PUBLIC_FILES_MAX:
        problems.append(f"{folder}: has {len(files):,} files; only the first {PUBLIC_FILES_MAX:,} count")
    for path in files[:PUBLIC_FILES_MAX]:
        _read_lines(path, keys, problems)
    if len(problems) > PROBLEMS_MAX:
        problems[PROBLEMS_MAX:] = [f"{folder}: {len(problems) - PROBLEMS_MAX:,} more"]
    return AllowedKeys(keys, tuple(problems))


def signature_of(directory: str | os.PathLike[str]) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes when a file of allowed keys does; empty if the directory cannot be read."""
    found = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                about = entry.stat()
                found.append((entry.name, about.st_mtime_ns, about.st_size, about.st_ino))
    return tuple(sorted(found))


def rights_of(text: str) -> Rights:
    """Read rights, separated by commas. Raises ValueError that says which there are."""
    found = Rights(0)
    for name in text.split(","):
        if name not in RIGHTS:
            raise ValueError(f"rights are {', '.join(RIGHTS)}, separated by commas; {name!r:.40} is none")
        found |= RIGHTS[name]
    return found


def is_key(value: object) -> bool:
    """Tell whether this may be a key, as text."""
    return isinstance(value, str) and _Z85.fullmatch(value) is not None


def _read_lines(path: Path, keys: dict[str, AllowedKey], problems: list[str]) -> None:
    """Read the lines of one file."""
    try:
        with open_file(path) as file:
            about = os.fstat(file.fileno())
            if about.st_mode & stat.S_IWOTH:
                problems.append(f"{path}: everybody may write to it: chmod o-w {path}")
                return
            content = file.read(PUBLIC_FILE_BYTES_MAX + 1)
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return
    if len(content) > PUBLIC_FILE_BYTES_MAX:
        problems.append(f"{path}: is longer than {PUBLIC_FILE_BYTES_MAX:,} bytes")
        return
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            _add(_allowed(line.split()), keys)
        except ValueError as problem:
            problems.append(f"{path}:{number}: {problem}")


def _add(key: AllowedKey, keys: dict[str, AllowedKey]) -> None:
    """Add a key to those found so far. Raises ValueError."""
    held = keys.get(key.public, key)
    if held != key:
        raise ValueError(f"this key is that of {held.kind} {held.name}, too")
    if len(keys) >= KEYS_MAX:
        raise ValueError(f"there are more than {KEYS_MAX:,} keys")
    keys[key.public] = key


def _allowed(words: list[str]) -> AllowedKey:
    """Read one line. Raises ValueError, with no part of the line that could be a secret."""
    kind, *rest = words
    if kind not in KINDS[:2]:
        raise ValueError('a line begins with "node" or "client"')
    if len(rest) < 2 or not is_key(rest[1]):
        raise ValueError(f"{kind}: the name and the public key follow")
    if checks.name(rest[0]):
        raise ValueError(f"{kind}: the name {_NAME_RULE}")
    if kind == "node":
        if rest[2:]:
            raise ValueError("a node's line ends with its key")
        return AllowedKey(kind, rest[0], rest[1], ALL_RIGHTS, b"")
    if len(rest) < 3:
        raise ValueError("client: rights are missing, for example read,write")
    prefix = b""
    for word in rest[3:]:
        name, _, value = word.partition("=")
        if name != "prefix" or not value or prefix:
            raise ValueError("client: after the rights, only prefix=… may follow, once")
        prefix = unquote_to_bytes(value)
        if len(prefix) > PREFIX_BYTES_MAX:
            raise ValueError(f"client: the prefix has more than {PREFIX_BYTES_MAX:,} bytes")
    try:
        rights = rights_of(rest[2])
    except ValueError:  # whose text has a part of the line
        raise ValueError(f"client: the rights are {', '.join(RIGHTS)}, separated by commas") from None
    return AllowedKey(kind, rest[0], rest[1], rights, prefix)
