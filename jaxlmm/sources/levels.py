"""The order of the levels of text: R's in a language's locale, the same on every machine.

R sorts levels by the rules of the session's language (``control`` before ``Treatment``), and in the C locale
by code point (``Treatment`` before ``control``). Here it is always the former, as the ICU library sorts for
English (Unicode Technical Standard 10): by letters first, whatever their case and accents, then by accents,
then lower case before upper case; spaces, punctuation and symbols come before digits, and these before letters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

__all__ = ["in_level_order"]

# ICU's order of what ASCII has beside digits and letters.
MARKS = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$"


def in_level_order(levels: Iterable[Any]) -> list[Any]:
    """Levels sorted: text as described above, all others (numbers, bools) by value."""
    found = list(levels)
    return sorted(found, key=_key) if all(isinstance(level, str) for level in found) else sorted(found)


def _key(text: str) -> tuple[Any, ...]:
    decomposed = unicodedata.normalize("NFD", text)
    base = "".join(c for c in decomposed if not unicodedata.combining(c))
    accents = tuple(c for c in decomposed if unicodedata.combining(c))
    return tuple(map(_rank, base.casefold())), accents, tuple(c.isupper() for c in base), text


def _rank(character: str) -> tuple[int, int | str]:
    if character in MARKS:
        return 0, MARKS.index(character)
    if character.isdigit():
        return 2, character
    return (3 if character.isalpha() else 1), character
