"""Text for a terminal: colour, and numbers that are short enough to be read."""

from __future__ import annotations

from typing import Final

RED: Final = 31
GREEN: Final = 32
YELLOW: Final = 33


class Paint:
    """Colours text, or leaves it as it is."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    def __call__(self, text: str, colour: int | str | None) -> str:
        """Return ``text`` in a colour of the terminal."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self._enabled and colour is not None else text

    def bold(self, text: str) -> str:
        """Return ``text`` in bold, as a heading."""
        return self(text, 1)


def quantity(number: float) -> str:
    """Return a number in at most six characters: exact while it is small, else in thousands, millions and so on."""
    if number < 100_000 and number == int(number) and number % 1000:
        return f"{number:,.0f}"
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.0f}{unit}" if number >= 99.5 or number == int(number) else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:,.0f}T"
