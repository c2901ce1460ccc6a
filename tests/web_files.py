"""Files for HTTP with tokens and TLS: as an operator would make them, in a directory of the test."""

from __future__ import annotations

import datetime as dt
import os
import ssl
import time
from pathlib import Path
from typing import NamedTuple

import trustme

OLD = "an-old-token-of-26-letters"
NEW = "a-new-token-of-26-letters."
WRONG = "a-wrong-token-of-some-length"


class Certificate(NamedTuple):
    """A certificate of 127.0.0.1 and localhost, its key, and who signed it."""

    authority: trustme.CA
    cert_file: Path
    key_file: Path

    @property
    def trusting(self) -> ssl.SSLContext:
        """What a client uses that trusts the signer."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def renew(self, *, expired: bool = False) -> bytes:
        """Write another certificate, as a program that renews it would: whole files take the place of the old ones.

        Return the certificate as a client is shown it.
        """
        end = dt.datetime.now(dt.UTC) - dt.timedelta(days=1) if expired else None
        made = self.authority.issue_cert("127.0.0.1", "localhost", not_after=end)
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        write_privately(self.key_file, made.private_key_pem.bytes())
        write_privately(self.cert_file, chain)
        return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())


def certificate(directory: Path) -> Certificate:
    """Make a signer and a certificate."""
    made = Certificate(trustme.CA(), directory / "http.cert.pem", directory / "http.key.pem")
    made.renew()
    return made


def write_privately(path: Path, content: bytes, mode: int = 0o600) -> Path:
    """Put a file in the place of another, with a time of change that differs however soon that is."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(mode)
    os.utime(new, ns=(time.time_ns(), time.time_ns()))
    return new.replace(path)


def token_file(directory: Path, *tokens: str) -> Path:
    """Write a file of tokens."""
    return write_privately(directory / "http.token", "".join(f"{token}\n" for token in tokens).encode())
