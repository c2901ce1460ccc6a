"""``meshcache gateway``: the cache by plain HTTP. What it needs is an extra, and is imported when it is asked for."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from meshcache.address import is_loopback, join_address, split_address
from meshcache.errors import ConfigError

DEFAULT_LISTEN: Final = "127.0.0.1:7180"
INSTALL: Final = "the gateway needs more packages: pip install 'meshcache[gateway]'"


def gateway(options: Namespace) -> int:
    """Serve HTTP until a signal comes."""
    host, port = _address(options.listen, insecure=options.insecure)
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
    listener = server.listen_at(host, port)

    def on_ready() -> None:
        print(f"ready http://{join_address(host, listener.getsockname()[1])}", flush=True)

    async def serve() -> None:
        async with AsyncClient(options.at, timeout=options.timeout) as client:
            names = [host, *options.host]
            running = server.server_of(client, names, on_ready, allow_writes=options.allow_writes)
            await running.serve([listener])

    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    return 0


def _address(listen: str, *, insecure: bool) -> tuple[str, int]:
    try:
        host, port = split_address(listen)
    except ValueError as problem:
        raise ConfigError(f"--listen: {problem}") from None
    if not is_loopback(host) and not insecure:
        raise ConfigError(
            f"--listen: {host} can be reached from other machines, and a gateway has no authentication: "
            "listen at 127.0.0.1, or say --insecure in a network where you trust everybody"
        )
    return host, port
