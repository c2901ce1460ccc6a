"""Bearer tokens (RFC 6750): who sends one of those in a file with a request may ask.

Each line of the file is a valid token. So a token is exchanged without a gap: add the new one as a second line, give it
to all who ask, then delete the old one.

Tokens are compared in constant time: how long a refusal takes tells nothing of how near a guess was. They stand in no
log and in no error.
"""

from __future__ import annotations

import hmac
import re
import time
from pathlib import Path
from typing import Final

from meshcache.errors import ConfigError
from meshcache.private_files import read_privately
from meshcache.web.followed import Followed, Tell

TOKEN_CHARACTERS_MIN: Final = 16
TOKEN_CHARACTERS_MAX: Final = 1024
TOKENS_MAX: Final = 16
FILE_BYTES_MAX: Final = 32_768
CHALLENGE: Final = ("WWW-Authenticate", "Bearer")
"""The header of each refusal."""
REPORT_S: Final = 1.0
"""How often it is told at most that somebody was refused."""

_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


class Tokens:
    """The tokens of a file, and how often somebody came without one. To be used by one thread."""

    def __init__(self, path: str, setting: str, tell: Tell) -> None:
        """``setting`` is what names the file; ``tell`` takes events for a log. Raises ConfigError."""
        self._tokens = Followed((path,), lambda: read_tokens(path, setting), tell)
        self._tell = tell
        self._told_at = -REPORT_S
        self._untold = 0
        self.refused = 0
        """Requests."""

    def fault(self, authorization: bytes, peer: str) -> str | None:
        """Say what is wrong with the value of a header ``Authorization``, empty if there was none; None if nothing is.

        ``peer`` is who sent it, for the log.
        """
        scheme, _, given = authorization.strip().partition(b" ")
        has_token = scheme.lower() == b"bearer"
        given = given.strip()
        # All are compared, so that the time does not tell which one it was.
        matches = [hmac.compare_digest(given, token) for token in self._tokens.content()]
        if has_token and any(matches):
            return None
        fault = "the bearer token is not valid" if has_token else "the header Authorization: Bearer TOKEN is missing"
        self._note_refused(fault, peer)
        return fault

    def _note_refused(self, why: str, peer: str) -> None:
        self.refused += 1
        self._untold += 1
        now = time.monotonic()
        if now >= self._told_at + REPORT_S:
            self._tell("http_refused", peer=peer, why=why, requests=self._untold)
            self._told_at, self._untold = now, 0


def read_tokens(path: str, setting: str) -> tuple[bytes, ...]:
    """Read a file of tokens. Raises ConfigError, which names the file and the line, and tells nothing of the token."""
    content = read_privately(Path(path), FILE_BYTES_MAX, setting)
    lines = [(number, line.strip()) for number, line in enumerate(content.splitlines(), 1)]
    found = [(number, token) for number, token in lines if token]
    if not found:
        raise ConfigError(f"{path}: is empty; a token is a line of {TOKEN_CHARACTERS_MIN} characters or more")
    if len(found) > TOKENS_MAX:
        raise ConfigError(f"{path}: has {len(found)} tokens; {TOKENS_MAX} are the most")
    for number, token in found:
        if not TOKEN_CHARACTERS_MIN <= len(token) <= TOKEN_CHARACTERS_MAX:
            bounds = f"{TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX:,}"
            raise ConfigError(f"{path}: line {number} has {len(token)} characters; a token has {bounds}")
        if not _TOKEN.fullmatch(token):
            raise ConfigError(f"{path}: line {number} is no token: it may have letters, digits, and . _ ~ + / - =")
    return tuple(token for _, token in found)
