"""Addresses as text: ``host:port``, or ``[ipv6]:port``."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_-]{1,63})*\.?")
"""As the resolver has it: what is no host name there must not get that far, since it raises more than OSError."""


def split_address(text: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[ipv6]:port``; ValueError says what is wrong."""
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise ValueError(f"must be host:port, is {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"has no valid IPv6 address between the brackets: {text!r}") from None
    elif ":" in host:
        raise ValueError(f"must have an IPv6 address in brackets, as [::1]:7101, is {text!r}")
    elif not _HOST.fullmatch(host):
        raise ValueError(f"must be host:port, has {host!r} as host")
    if not (port_text.isascii() and port_text.isdigit() and 1 <= int(port_text) <= 65535):
        raise ValueError(f"must have a port from 1 to 65535, is {text!r}")
    return host, int(port_text)


def join_address(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_one_machine(host: str) -> bool:
    """Tell whether ``host`` can be dialled: it is no wildcard and no multicast group. A name may be anything."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    return not (address.is_unspecified or address.is_multicast)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach ``host``; a name other than localhost may be anywhere."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
