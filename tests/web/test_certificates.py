"""Certificates from files: which are taken, and that a renewed one is used from the next connection on."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from web_files import Certificate, certificate, write_privately

from meshcache.errors import ConfigError
from meshcache.web import followed
from meshcache.web.certificates import server_context

WAIT_S = 10.0
SETTINGS = "http.tls_cert_file", "http.tls_key_file"


def context_of(made: Certificate, tell: followed.Tell = lambda *_, **__: None) -> ssl.SSLContext:
    return server_context(str(made.cert_file), str(made.key_file), tell, *SETTINGS)


def shown(context: ssl.SSLContext, client: ssl.SSLContext, name: str | None = "localhost") -> tuple[bytes, str]:
    """Return the certificate that a client is shown, and the version that is spoken."""
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT_S)
    theirs.settimeout(WAIT_S)

    def serve() -> None:
        try:
            with context.wrap_socket(ours, server_side=True) as served:
                served.recv(1)
        except OSError:
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname=name) as asking:
            asking.send(b"x")
            return asking.getpeercert(binary_form=True) or b"", str(asking.version())
    finally:
        theirs.close()
        thread.join(WAIT_S)


def test_a_client_that_trusts_the_signer_is_served(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    cert, version = shown(context_of(made), made.trusting)
    assert (len(cert) > 100, version) == (True, "TLSv1.3")


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    assert context_of(certificate(tmp_path)).minimum_version == ssl.TLSVersion.TLSv1_2


def test_an_expired_certificate_is_served_and_refused_by_its_clients(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    made.renew(expired=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shown(context_of(made), made.trusting)


@pytest.mark.parametrize("name", ["localhost", None])
def test_a_renewed_certificate_is_used_from_the_next_connection_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.setattr(followed, "LOOK_S", 0.0)
    made = certificate(tmp_path)
    events: list[str] = []
    context = context_of(made, lambda event, **_: events.append(event))
    client = made.trusting
    client.check_hostname = name is not None
    first = shown(context, client, name)[0]
    renewed = made.renew()
    assert shown(context, client, name)[0] == renewed != first
    assert shown(context, client, name)[0] == renewed
    assert set(events) == {"http_file_read"}
    made.key_file.unlink()
    assert shown(context, client, name)[0] == renewed
    assert events[-1] == "http_file_refused"


def _cut(path: Path) -> None:
    write_privately(path, path.read_bytes()[:-60])


def _encrypted(made: Certificate) -> None:
    new = made.key_file.with_suffix(".encrypted")
    command = ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", str(made.key_file), "-out", str(new)]
    subprocess.run(command, check=True, capture_output=True, timeout=WAIT_S)
    write_privately(made.key_file, new.read_bytes())


def _of_another(made: Certificate) -> None:
    write_privately(made.key_file, trustme.CA().issue_cert("localhost").private_key_pem.bytes())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda made: made.cert_file.unlink(), "{cert}: cannot be read: No such file"),
        (lambda made: made.key_file.unlink(), "{key}: cannot be read: No such file"),
        (lambda made: made.key_file.chmod(0o644), "{key}: others may read or write it (mode 0644): chmod 600"),
        (lambda made: _cut(made.cert_file), "{cert}, {key}: no certificate with its key, or cut off"),
        (lambda made: _cut(made.key_file), "{key}: is no private key in PEM, or was cut off"),
        (lambda made: write_privately(made.cert_file, b""), "{cert}, {key}: no certificate with its key"),
        (lambda made: write_privately(made.key_file, b""), "{key}: is no private key in PEM"),
        (lambda made: write_privately(made.key_file, b"\xff" * 70_000), "{key}: is longer than 65,536 bytes"),
        (_of_another, "{key}: is not the key of the certificate in {cert}"),
        (_encrypted, "{key}: has a passphrase; http.tls_key_file needs a key without one"),
    ],
)
def test_files_that_are_wrong_are_refused_with_the_reason(
    tmp_path: Path, spoil: Callable[[Certificate], object], says: str
) -> None:
    made = certificate(tmp_path)
    spoil(made)
    with pytest.raises(ConfigError) as refused:
        context_of(made)
    assert str(refused.value).startswith(says.format(cert=made.cert_file, key=made.key_file))
