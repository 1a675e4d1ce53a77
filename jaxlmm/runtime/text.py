"""Layout of printed tables: strings in, one aligned string out."""

from __future__ import annotations

import html
from collections.abc import Sequence

__all__ = ["Text", "number", "summary_layout"]


class Text(str):
    """A text that shows itself: in a terminal, in a notebook, and by ``print``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self)}</pre>"


def number(value: float, digits: int = 4) -> str:
    """A number for a table: fixed point where that shows its digits, else scientific."""
    if value != value:
        return "nan"
    if value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}g}"


def summary_layout(
    title: str,
    pairs: Sequence[tuple[str, str]],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
) -> str:
    """A title, label-value pairs in two columns, a table whose first column is left-aligned, notes."""
    half = -(-len(pairs) // 2)
    left, right = list(pairs[:half]), [*pairs[half:], *[("", "")] * (2 * half - len(pairs))]
    w = [max(map(len, part)) for pair in (left, right) for part in zip(*pair, strict=True)]
    top = [f"{a:<{w[0]}} {b:<{w[1]}}   {c:<{w[2]}} {d:<{w[3]}}" for (a, b), (c, d) in zip(left, right, strict=True)]
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[j]) for row in table) for j in range(len(header))]
    body = [
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{n}}" for cell, n in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
    width = max(map(len, [title, *top, *body]))
    rule, thin = "=" * width, "-" * width
    lines = [f"{title:^{width}}", rule, *top, *([thin] if top else []), body[0], thin, *body[1:], rule, *notes]
    return "\n".join(line.rstrip() for line in lines)
