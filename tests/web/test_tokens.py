"""Bearer tokens from a file: which files are taken, who is let in, and that no token is told to anybody."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from web_files import NEW, OLD, WRONG, token_file, write_privately

from meshcache.errors import ConfigError
from meshcache.web import followed, tokens
from meshcache.web.tokens import TOKEN_CHARACTERS_MAX, TOKEN_CHARACTERS_MIN, TOKENS_MAX, Tokens, read_tokens

SETTING = "http.token_file"
PEER = "192.0.2.1"


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (followed, tokens):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


def bearer(token: str, scheme: str = "Bearer") -> bytes:
    return f"{scheme} {token}".encode()


# -- files


def test_each_line_is_a_token_and_space_around_it_is_none(tmp_path: Path) -> None:
    path = write_privately(tmp_path / "t", f"\n  {OLD}\t\r\n\n{NEW}".encode())
    assert read_tokens(str(path), SETTING) == (OLD.encode(), NEW.encode())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty; a token is a line of 16 characters or more"),
        (b" \n\t\n", "is empty"),
        (b"x" * (TOKEN_CHARACTERS_MIN - 1), "line 1 has 15 characters; a token has 16 to 1,024"),
        (OLD.encode() + b"\n" + b"x" * (TOKEN_CHARACTERS_MAX + 1), "line 2 has 1025 characters"),
        (b"two words of a passphrase", "line 1 is no token"),
        (b"\xff\xfe" * 20, "line 1 is no token"),
        (f"{OLD}\n".encode() * (TOKENS_MAX + 1), "has 17 tokens; 16 are the most"),
        (b"x" * 40_000, "is longer than 32,768 bytes"),
    ],
)
def test_what_is_no_token_is_refused_without_telling_it(tmp_path: Path, content: bytes, says: str) -> None:
    path = write_privately(tmp_path / "t", content)
    with pytest.raises(ConfigError) as refused:
        read_tokens(str(path), SETTING)
    assert str(refused.value).startswith(f"{path}: {says}")
    assert OLD not in str(refused.value)
    assert "passphrase" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o644, 0o666])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = token_file(tmp_path, OLD)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"others may read or write it \(mode {mode:04o}\): chmod 600"):
        read_tokens(str(path), SETTING)


@pytest.mark.parametrize(("mode", "is_taken"), [(0o440, True), (0o640, True), (0o660, False), (0o444, False)])
def test_a_file_of_another_user_may_be_read_by_this_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, is_taken: bool
) -> None:
    path = token_file(tmp_path, OLD)
    path.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    if is_taken:
        assert read_tokens(str(path), SETTING) == (OLD.encode(),)
    else:
        with pytest.raises(ConfigError, match="others may read or write it"):
            read_tokens(str(path), SETTING)


def test_a_file_that_is_not_there_is_named_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent: cannot be read: No such file.*; http\.token_file names it"):
        Tokens(str(tmp_path / "absent"), SETTING, Log())


# -- requests


@pytest.mark.parametrize(
    ("authorization", "is_let_in"),
    [
        (bearer(OLD), True),
        (bearer(NEW, "bearer"), True),
        (bearer(f"  {OLD} "), True),
        (b"", False),
        (b"Bearer", False),
        (b"Bearer ", False),
        (OLD.encode(), False),
        (bearer(OLD, "Basic"), False),
        (bearer(OLD[:-1]), False),
        (bearer(OLD + "x"), False),
        (bearer(OLD.upper()), False),
        (bearer(f"{OLD} {NEW}"), False),
        (bearer(f"{OLD}\n{NEW}"), False),
        (b"Bearer \xff\xfe", False),
    ],
)
def test_only_a_token_of_the_file_is_let_in(tmp_path: Path, authorization: bytes, is_let_in: bool) -> None:
    given = Tokens(str(token_file(tmp_path, OLD, NEW)), SETTING, log := Log())
    assert (given.fault(authorization, PEER) is None) == is_let_in
    assert given.refused == (not is_let_in)
    assert OLD not in repr(log.lines)


def test_tokens_are_compared_in_constant_time_and_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    real: Callable[[bytes, bytes], bool] = hmac.compare_digest

    def compare(given: bytes, token: bytes) -> bool:
        compared.append(token)
        return real(given, token)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    given = Tokens(str(token_file(tmp_path, OLD, NEW)), SETTING, Log())
    given.fault(bearer(OLD), PEER)
    assert compared == [OLD.encode(), NEW.encode()]


def test_a_token_is_exchanged_without_a_restart(tmp_path: Path, clock: Clock) -> None:
    given = Tokens(str(token_file(tmp_path, OLD)), SETTING, log := Log())
    assert given.fault(bearer(NEW), PEER)
    for lines, let_in in (((OLD, NEW), (True, True)), ((NEW,), (False, True))):
        token_file(tmp_path, *lines)
        clock.now += followed.LOOK_S
        assert (given.fault(bearer(OLD), PEER) is None, given.fault(bearer(NEW), PEER) is None) == let_in
    assert log.events.count("http_file_read") == 2
    assert not {OLD, NEW} & set(repr(log.lines).split("'"))


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.chmod(0o644), lambda path: path.write_bytes(b"x")])
def test_a_file_that_goes_wrong_changes_nothing_and_is_told(
    tmp_path: Path, clock: Clock, spoil: Callable[[Path], object]
) -> None:
    path = token_file(tmp_path, OLD)
    given = Tokens(str(path), SETTING, log := Log())
    spoil(path)
    for _ in range(3):
        clock.now += followed.LOOK_S
        assert given.fault(bearer(OLD), PEER) is None
        assert given.fault(bearer(WRONG), PEER)
    (line,) = [fields for event, fields in log.lines if event == "http_file_refused"]
    assert str(path) in line["error"]
    token_file(tmp_path, NEW)
    clock.now += followed.LOOK_S
    assert given.fault(bearer(NEW), PEER) is None


def test_the_file_is_not_looked_at_for_each_request(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Tokens(str(token_file(tmp_path, OLD)), SETTING, Log())

    def look(path: str) -> None:
        raise AssertionError(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", look)
        for _ in range(50):
            given.fault(bearer(OLD), PEER)


def test_refusals_are_all_counted_and_told_once_a_second_at_most(tmp_path: Path, clock: Clock) -> None:
    given = Tokens(str(token_file(tmp_path, OLD)), SETTING, log := Log())
    for _ in range(5):
        given.fault(bearer(WRONG), PEER)
    assert given.refused == 5
    clock.now += tokens.REPORT_S
    given.fault(b"", PEER)
    why = "the bearer token is not valid", "the header Authorization: Bearer TOKEN is missing"
    assert log.lines == [
        ("http_refused", {"peer": PEER, "why": why[0], "requests": 1}),
        ("http_refused", {"peer": PEER, "why": why[1], "requests": 5}),
    ]
