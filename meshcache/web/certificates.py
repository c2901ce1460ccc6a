"""TLS from two files, a certificate chain and its private key, in PEM: for whoever accepts connections.

The files may change while they are in use, as they do when a certificate is renewed. Each handshake takes what is in
them then: when the greeting of a client has arrived, OpenSSL asks which context is to serve it (the callback that is
meant for server names, which is called without one, too), and gets the newest.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, NoReturn

from meshcache.errors import ConfigError
from meshcache.private_files import read_privately
from meshcache.web.followed import Followed, Tell

KEY_BYTES_MAX: Final = 65_536


def server_context(cert_path: str, key_path: str, tell: Tell, *settings: str) -> ssl.SSLContext:
    """Return a context that follows the files. ``settings`` name the two. Raises ConfigError.

    ``tell`` takes events for a log, in the thread of a handshake.
    """
    files = Followed((cert_path, key_path), lambda: _read(cert_path, key_path, *settings), tell)
    context = _read(cert_path, key_path, *settings)

    def choose(handshake: ssl.SSLObject, _: str, __: ssl.SSLContext) -> None:
        handshake.context = files.content()

    context.sni_callback = choose
    return context


def _read(cert_path: str, key_path: str, cert_setting: str, key_setting: str) -> ssl.SSLContext:
    key = read_privately(Path(key_path), KEY_BYTES_MAX, key_setting)
    if b"-----BEGIN" not in key or b"-----END" not in key:
        raise ConfigError(f"{key_path}: is no private key in PEM, or was cut off; {key_setting} names it")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])

    def refuse_password() -> NoReturn:  # else OpenSSL would ask for one at the terminal
        raise ConfigError(f"{key_path}: has a passphrase; {key_setting} needs a key without one")

    try:
        context.load_cert_chain(cert_path, key_path, refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{key_path}: is not the key of the certificate in {cert_path}") from None
        why = error.reason or "not PEM"
        raise ConfigError(f"{cert_path}, {key_path}: no certificate with its key, or cut off: {why}") from None
    except OSError as error:
        raise ConfigError(f"{cert_path}: cannot be read: {error.strerror}; {cert_setting} names it") from None
    return context
