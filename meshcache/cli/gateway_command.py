"""``meshcache gateway``: the cache by plain HTTP. What it needs is an extra, and is imported when it is asked for."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Final

from meshcache.address import is_loopback, join_address, split_address
from meshcache.errors import ConfigError

if TYPE_CHECKING:
    import ssl

    from meshcache.web.tokens import Tokens

DEFAULT_LISTEN: Final = "127.0.0.1:7180"
INSTALL: Final = "the gateway needs more packages: pip install 'meshcache[gateway]'"


def gateway(options: Namespace) -> int:
    """Serve HTTP until a signal comes."""
    host, port = _address(options.listen, is_open=options.insecure or options.token_file is not None)
    try:
        import asyncio  # noqa: PLC0415  (it costs time to import, and other commands do not need it)

        import uvloop  # noqa: PLC0415

        from meshcache.gateway import server  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"{INSTALL} ({error})") from None
    from meshcache.cli import log  # noqa: PLC0415
    from meshcache.client.aio.client import AsyncClient  # noqa: PLC0415
    from meshcache.config import LogSettings  # noqa: PLC0415

    log.configure(LogSettings())
    tokens, tls = _secured(options)
    listener = server.listen_at(host, port)

    def on_ready() -> None:
        scheme = "http" if tls is None else "https"
        print(f"ready {scheme}://{join_address(host, listener.getsockname()[1])}", flush=True)

    async def serve() -> None:
        async with AsyncClient(options.at, timeout=options.timeout) as client:
            names = [host, *options.host]
            running = server.server_of(
                client, names, on_ready, allow_writes=options.allow_writes, tokens=tokens, tls=tls
            )
            await running.serve([listener])

    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    return 0


def _secured(options: Namespace) -> tuple[Tokens | None, ssl.SSLContext | None]:
    """Return what the options for tokens and TLS come to. Raises ConfigError."""
    from meshcache.gateway.app import tell  # noqa: PLC0415  (as in gateway)
    from meshcache.web.certificates import server_context  # noqa: PLC0415
    from meshcache.web.tokens import Tokens  # noqa: PLC0415

    tokens = None if options.token_file is None else Tokens(options.token_file, "--token-file", tell)
    if (options.tls_cert is None) != (options.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key: each needs the other: a certificate and its private key, in PEM")
    if options.tls_cert is None:
        return tokens, None
    return tokens, server_context(options.tls_cert, options.tls_key, tell, "--tls-cert", "--tls-key")


def _address(listen: str, *, is_open: bool) -> tuple[str, int]:
    """Return where to listen. ``is_open``: it may be reached from other machines."""
    try:
        host, port = split_address(listen)
    except ValueError as problem:
        raise ConfigError(f"--listen: {problem}") from None
    if not is_loopback(host) and not is_open:
        raise ConfigError(
            f"--listen: {host} can be reached from other machines, and whoever reaches it could read and write "
            "everything: give a --token-file, and best --tls-cert and --tls-key, too; or listen at 127.0.0.1; "
            "or say --insecure in a network where you trust everybody"
        )
    return host, port
