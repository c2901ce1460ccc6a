"""The command ``keygen``: makes key pairs, and the files that nodes and clients need."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

from meshcache import checks
from meshcache.cli.commands import print_json
from meshcache.errors import ConfigError
from meshcache.keys import (
    ALL_RIGHTS,
    PREFIX_BYTES_MAX,
    AllowedKey,
    SecretKey,
    read_secret_key,
    rights_of,
    secret_key_text,
)


def keygen(options: Namespace) -> int:
    """Make the key pair of a node or a client, and that of the mesh if there is none yet."""
    directory = Path(options.dir)
    allowed = _allowed_key(options)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mesh = _mesh_key(directory / "mesh.secret")
        made = [] if allowed is None else _write_pair(directory, allowed, mesh)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or directory}: {error.strerror}; choose another directory with --dir"
        ) from None
    if options.json:
        print_json({"files": [str(path) for path in made], "public": mesh.public if allowed is None else _public(made)})
    elif not made:
        print(f"{directory / 'mesh.secret'}: the key of the mesh; make others with `meshcache keygen NAME`")
    else:
        print(f"{made[0]}: secret, for {options.name} alone")
        print(f"{made[1]}: public, for {directory / 'allowed'} of every node")
    return 0


def _allowed_key(options: Namespace) -> AllowedKey | None:
    """Read who the key is for; None: only the mesh's own is wanted. Raises ConfigError."""
    if options.name is None:
        for option in ("node", "rights", "prefix"):
            if getattr(options, option):
                raise ConfigError(f"--{option}: NAME is missing, of the one whose key this will be")
        return None
    problem = checks.name(options.name)
    if problem or options.name == "mesh":
        raise ConfigError(f"NAME {problem or 'must not be mesh, whose key is made by itself'}")
    if options.node:
        if options.rights or options.prefix is not None:
            raise ConfigError("--node: a node has all rights; leave --rights and --prefix out")
        return AllowedKey("node", options.name, "", ALL_RIGHTS, b"")
    try:
        rights = rights_of(options.rights or "read,write")
    except ValueError as error:
        raise ConfigError(f"--rights: {error}") from None
    prefix = b"" if options.prefix is None else os.fsencode(options.prefix)
    if options.prefix == "":
        raise ConfigError("--prefix: is empty, which would confine the client to nothing; leave it out to mean that")
    if len(prefix) > PREFIX_BYTES_MAX:
        raise ConfigError(f"--prefix: must have at most {PREFIX_BYTES_MAX:,} bytes, has {len(prefix):,}")
    return AllowedKey("client", options.name, "", rights, prefix)


def _mesh_key(path: Path) -> SecretKey:
    """Return the key at which all nodes of a mesh listen; make it if there is none yet."""
    from meshcache.sockets.curve import new_pair, require_curve  # noqa: PLC0415

    if path.exists():
        key = read_secret_key(path, "mesh")
        require_curve(key, str(path))
        return key
    pair = new_pair()
    key = SecretKey("mesh", "mesh", pair.public, pair.secret, pair.public, pair.secret)
    _write(path, secret_key_text(key), 0o600)
    return key


def _write_pair(directory: Path, allowed: AllowedKey, mesh: SecretKey) -> list[Path]:
    """Write the secret file and the public one; return their paths."""
    from meshcache.sockets.curve import new_pair  # noqa: PLC0415

    pair = new_pair()
    secret = SecretKey(
        allowed.kind, allowed.name, pair.public, pair.secret, mesh.public, mesh.secret if allowed.is_node else ""
    )
    line = AllowedKey(allowed.kind, allowed.name, pair.public, allowed.rights, allowed.prefix).line
    paths = [directory / f"{allowed.name}.secret", directory / "allowed" / f"{allowed.name}.pub"]
    paths[1].parent.mkdir(mode=0o755, exist_ok=True)
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path}: is there already; delete it to replace this key, or choose another name")
    _write(paths[0], secret_key_text(secret), 0o600)
    _write(paths[1], line + "\n", 0o644)
    return paths


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file that nobody else could read at any moment, if ``mode`` says so."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123  (a descriptor)
        os.fchmod(descriptor, mode)
        file.write(text)


def _public(made: list[Path]) -> str:
    return made[1].read_text().split()[2]
