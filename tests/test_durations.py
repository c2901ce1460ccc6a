"""Durations as people write them."""

from __future__ import annotations

import pytest

from meshcache.durations import seconds_of, text_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        (" 7 ", 7.0),
        ("-3", -3.0),
        ("250ms", 0.25),
        ("5s", 5.0),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        ("2d", 172_800.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1d2h3m4s5ms", 93_784.005),
        ("90m", 5400.0),
        ("0s", 0.0),
        ("5 m", 300.0),
    ],
)
def test_what_is_understood(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "soon",
        "5x",
        "5M",
        "5min",
        "m",
        "5m1h",
        "5m5m",
        "1h30",
        "inf",
        "nan",
        "-5m",
        "1,5",
        "5m!",
        "٣",
        "1e999",
        ".",
    ],
)
def test_what_is_not_is_refused_with_examples(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"must be a duration, such as 30 \(seconds\), 250ms, 5m or 1h30m, is"
    ) as raised:
        seconds_of(text)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (0.9, "0s"), (59.9, "59s"), (60, "1m"), (7200, "2h"), (200_000, "2d")]
)
def test_how_it_is_shown(seconds: float, text: str) -> None:
    assert text_of(seconds) == text
