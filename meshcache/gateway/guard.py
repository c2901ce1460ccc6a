"""Who may ask: programs, and pages of the gateway itself; not pages of other sites.

A browser runs pages of anybody, and reaches what its machine reaches. So that such a page can neither read nor write:

- ``Host`` must be an address, ``localhost`` or a name that the operator gave. A page whose name was made to point here
  (DNS rebinding) has its own name there.
- ``Origin``, which browsers send with every write and with every read across origins that a page can see, must be that
  same host. No answer permits another origin (there are no CORS headers), and a preflight is answered with 405.
- ``Sec-Fetch-Site``, by which browsers tell of images and scripts that a page includes, must not name another site but
  for links that somebody follows; and answers carry ``Cross-Origin-Resource-Policy`` and ``X-Frame-Options``.
- Writes are PUT, DELETE, and POST with ``Content-Type: application/json``. A form can send none of these, and a script
  of another origin only after the preflight.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from meshcache.gateway.asgi import Headers
from meshcache.gateway.refusals import Refusal

PROTECTION: Final[Headers] = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"SAMEORIGIN"),
]
"""On each answer."""
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(:[0-9]{1,5})?")
_ORIGIN: Final = re.compile(r"https?://(.+)")


class Guard:
    """Refuses what a page of another site may have sent."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """``names``: the host names by which clients reach the gateway, beside addresses and localhost."""
        self._names = {"localhost", *[name.lower().rstrip(".") for name in names]}
        self._known: set[str] = set()
        """Values of Host that were found good, for speed; few, and all from here."""

    def check(self, method: str, headers: Headers) -> None:
        """Raise Refusal unless a request with these headers may be answered."""
        host = None
        origin = site = ""
        mode: dict[bytes, bytes] = {}
        for name, value in headers:
            if name == b"host":
                if host is not None:
                    raise Refusal(400, "Invalid Host", "a request has one Host header, not two")
                host = value.decode("latin-1").lower()
            elif name == b"origin":
                origin = value.decode("latin-1").lower()
            elif name == b"sec-fetch-site":
                site = value.decode("latin-1")
            elif name.startswith(b"sec-fetch-"):
                mode[name] = value
        if host not in self._known:
            self._check_host(host)
        if origin and self._authority(origin) != host:
            raise Refusal(403, "Another origin", f"pages of {origin[:80]} may not use this gateway")
        if site not in {"", "none", "same-origin"}:
            follows_link = mode.get(b"sec-fetch-mode") == b"navigate" and mode.get(b"sec-fetch-dest") == b"document"
            if not (follows_link and method in {"GET", "HEAD"}):
                raise Refusal(403, "Another origin", "pages of other sites may not use this gateway")

    def _check_host(self, host: str | None) -> None:
        if not host:
            raise Refusal(400, "Invalid Host", "a request needs a Host header")
        found = _HOST.fullmatch(host)
        name = found[1] if found else ""
        if name not in self._names and not _is_address(name):
            detail = f"this gateway is not {host[:80]!r}: start it with --host NAME to have it answer to a name"
            raise Refusal(421, "Unknown host", detail)
        if len(self._known) < 100:
            self._known.add(host)

    @staticmethod
    def _authority(origin: str) -> str:
        found = _ORIGIN.fullmatch(origin)
        return found[1] if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
