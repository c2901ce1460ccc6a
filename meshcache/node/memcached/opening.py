"""Opening the memcached door: its port, and the files that say who may come in, and by which certificate."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meshcache.address import is_loopback, split_address
from meshcache.config import Config
from meshcache.core.node import NodeCore
from meshcache.errors import ConfigError
from meshcache.node import http
from meshcache.node.memcached.door import Door
from meshcache.node.poller import Inlets
from meshcache.private_files import read_privately
from meshcache.web.certificates import server_context
from meshcache.web.followed import Followed, Tell

FILE_BYTES_MAX: Final = 65_536
USERS_MAX: Final = 64
SETTING: Final = "memcached.password_file"


def open_door(
    config: Config, core: NodeCore, inlets: Inlets, tell: Tell, wait_s: float, pause: Callable[[float], object]
) -> Door:
    """Return the door, which listens. Raises ConfigError."""
    settings = config.memcached
    files = (settings.tls_cert_file, settings.tls_key_file)
    names = ("memcached.tls_cert_file", "memcached.tls_key_file")
    tls = server_context(*files, tell, *names) if settings.tls_cert_file else None
    is_user = Passwords(settings.password_file, tell).is_user if settings.password_file else None
    if is_user is not None and tls is None and not is_loopback(split_address(settings.listen)[0]):
        advice = "whoever hears the network learns the password: set memcached.tls_cert_file and tls_key_file"
        tell("memcached_unencrypted", address=settings.listen, advice=advice)
    listener = http.listen(settings.listen, wait_s, pause, setting="memcached.listen")
    try:
        return Door(listener, core, inlets, settings, tell, tls, is_user)
    except BaseException:
        listener.close()
        raise


class Passwords:
    """The users of a file, which may change while it is in use."""

    def __init__(self, path: str, tell: Tell) -> None:
        """Raises ConfigError."""
        self._users = Followed((path,), lambda: read_users(path), tell)

    def is_user(self, user: bytes, password: bytes) -> bool:
        """Tell whether these two are in one line of the file. All lines are compared, in constant time each."""
        given = user + b":" + password
        return any([hmac.compare_digest(given, line) for line in self._users.content()])  # noqa: C419  (see above)


def read_users(path: str) -> list[bytes]:
    """Return the lines of a file, each ``user:password``. Raises ConfigError that names the setting and the line."""
    lines = [line.strip() for line in read_privately(Path(path), FILE_BYTES_MAX, SETTING).splitlines()]
    users = [line for line in lines if line and not line.startswith(b"#")]
    if not 1 <= len(users) <= USERS_MAX:
        raise ConfigError(f"{path}: has {len(users)} lines; {SETTING} needs from 1 to {USERS_MAX} of user:password")
    for number, line in enumerate(lines, 1):
        user, colon, password = line.partition(b":")
        if line in users and not (user and colon and password and b" " not in line):
            raise ConfigError(f"{path}: line {number} is not user:password without spaces; {SETTING} names the file")
    return users
