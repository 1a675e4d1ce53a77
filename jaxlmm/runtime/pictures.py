"""``result.plot``: pictures of a result, which a room that stands after all results draws.

Results know no picture. The package's ``__init__`` says what makes those of a result, and that is loaded, with
matplotlib, when somebody first asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Pictured", "draw_with"]

_makers: list[Callable[[Any], Any]] = []


def draw_with(maker: Callable[[Any], Any]) -> None:
    """Say what makes the pictures of a result."""
    _makers[:] = [maker]


class Pictured:
    """A result of which there are pictures; no state."""

    @property
    def plot(self) -> Any:
        """The pictures of this result: ``result.plot`` prints what there is, ``result.plot.NAME(...)`` draws it.

        Each takes ``ax``, and returns the matplotlib axes; ``help(result.plot.NAME)`` says all of it.
        """
        return _makers[0](self)
