"""The random terms of a formula, as lme4 reads them: ``(columns | grouping)``.

Every bar is read into a general form; ``formula.random`` makes columns of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jaxlmm.formula.text import NAME, brackets_and_bars

__all__ = ["Bar", "split_formula"]


@dataclass(frozen=True)
class Bar:
    """One random term.

    Attributes
    ----------
    columns : str
        The formula of the columns that vary by group, such as ``1 + x``.
    grouping : tuple of str
        The columns of the data whose combinations are the groups: ``("g",)``, ``("a", "b")`` for a:b, and
        ``("b", "a")`` for b within a.
    correlated : bool
        False for ``||``: the columns vary independently.
    text : str
        As written; ``(1 | a/b)`` gives two bars of the same text.
    name : str
        Of the groups, as in lme4: "a:b", and "b:a" for b within a.
    """

    columns: str
    grouping: tuple[str, ...]
    correlated: bool
    text: str
    name: str


def split_formula(formula: str) -> tuple[str, tuple[Bar, ...]]:
    """Take the random terms off a formula.

    Returns
    -------
    fixed : str
        The formula without them; "1" in their place if nothing else stands there.
    bars : tuple of Bar
        In order; ``a/b`` after the bar is a and b:a, as in lme4.

    Raises
    ------
    ValueError
        Unbalanced brackets or quotes, and bars that are not terms of their own right of "~". The message
        quotes the piece.
    """
    if not isinstance(formula, str):
        raise ValueError(f"formula must be text such as 'y ~ x + (1 | g)', found {type(formula).__name__}.")
    brackets, bars = brackets_and_bars(formula)
    terms: list[tuple[int, int]] = []
    for at in bars:
        inner = [b for b in brackets if b.start < at < b.end]
        if any(b.call for b in inner):
            continue  # Python's own |, as in C(a | b)
        if not inner:
            piece = _around(formula, at)
            raise ValueError(f"random terms need parentheses: write ({piece}) for '{piece}' in '{formula}'.")
        if len(inner) > 1:
            piece = formula[inner[-1].start : inner[-1].end + 1]
            raise ValueError(f"the random term {piece} must be a term of its own in '{formula}', not in parentheses.")
        if (inner[0].start, inner[0].end) not in terms:
            terms.append((inner[0].start, inner[0].end))
    found = [bar for start, end in terms for bar in _read(formula[start : end + 1])]
    for start, end in reversed(terms):  # from the last, so that positions stay right
        formula = _without(formula, start, end)
    return formula, tuple(found)


def _without(formula: str, start: int, end: int) -> str:
    """The formula less the random term at these positions."""
    piece = formula[start : end + 1]
    before, after = formula[:start].rstrip(), formula[end + 1 :].lstrip()
    if "~" in after:
        raise ValueError(f"the random term {piece} stands left of '~' in '{formula}'; write it on the right.")
    if (before and before[-1] not in "~+") or (after and after[0] not in "+-"):
        raise ValueError(f"the random term {piece} must be a term of its own in '{formula}', joined by '+'.")
    if before.endswith("+"):
        return f"{before[:-1].rstrip()} {after}".rstrip()
    rest = after[1:].lstrip() if after.startswith("+") else f"1 {after}".rstrip()
    return f"{before} {rest}".lstrip()


def _around(text: str, at: int) -> str:
    """The summand that holds position ``at``."""
    start = max(text.rfind(c, 0, at) for c in "~+") + 1
    end = min((k for k in (text.find(c, at) for c in "~+") if k >= 0), default=len(text))
    return text[start:end].strip()


def _read(piece: str) -> list[Bar]:
    """The bars of "(columns | grouping)"."""
    inner = piece[1:-1]
    bars = [at - 1 for at in brackets_and_bars(piece)[1]]
    doubled = len(bars) == 2 and bars[1] == bars[0] + 1
    if len(bars) > 1 and not doubled:
        raise ValueError(f"the random term {piece} has more than one bar; write (1 | group).")
    columns, right = " ".join(inner[: bars[0]].split()), inner[bars[-1] + 1 :].strip()
    right = re.sub(r"/\s*\(([\w.\s]+(?::[\w.\s]+)+)\)", r"/\1", right)  # a/(b:c) is a/b:c
    if "~" in columns:
        raise ValueError(f"the random term {piece} has a '~' before the bar; write the columns alone.")
    if not columns:
        raise ValueError(f"nothing is before the bar in {piece}; write (1 | group) for a random intercept.")
    return [Bar(columns, names, not doubled, piece, name) for names, name in _groupings(right, piece)]


def _groupings(text: str, piece: str) -> list[tuple[tuple[str, ...], str]]:
    """What stands after a bar: columns joined by ":" (their combinations) and "/" (nesting), each with its name."""
    names: list[str] = []
    found: list[tuple[tuple[str, ...], str]] = []
    rest = text
    while True:
        name, rest = _grouping_column(rest, piece)
        names.append(name)
        if not rest or rest[0] == "/":
            own = ":".join(names)
            if found:  # within the groups before
                outer, called = found[-1]
                called = f"({called})" if ":" in called else called
                found.append(((*names, *outer), f"{own}:{called}"))
            else:
                found.append((tuple(names), own))
            names = []
        if not rest:
            return found
        if rest[0] == "*":
            a, b = names[-1], rest[1:].strip()
            raise ValueError(
                f"the random term {piece} groups by '{a}*{b}', which lme4 does not read either; write "
                f"(1 | {a}) + (1 | {b}) + (1 | {a}:{b}), or those of them that are meant."
            )
        if rest[0] not in ":/":
            raise ValueError(
                f"the random term {piece} must group by a column, by a:b or by a/b; found '{rest}'. Make other "
                "groupings a column of the data."
            )
        rest = rest[1:].lstrip()


def _grouping_column(text: str, piece: str) -> tuple[str, str]:
    """The first column of a grouping, and what follows."""
    called = re.match(r"(factor|as\.factor|C|Q)\s*\(", text)
    if called:
        end = next(b.end for b in brackets_and_bars(text)[0] if b.start == called.end() - 1)
        inner, rest = text[called.end() : end].strip(), text[end + 1 :].lstrip()
        quoted = re.fullmatch(r"(['\"])(.+)\1", inner)
        if called[1] == "Q" and quoted:
            return quoted[2], rest
        plain = NAME.fullmatch(inner)
        if called[1] != "Q" and plain:
            return plain["quoted"] or plain["plain"], rest
    found = NAME.match(text)
    if not found:
        raise ValueError(f"the random term {piece} needs the name of a column after the bar, found '{text}'.")
    return found["quoted"] or found["plain"], text[found.end() :].lstrip()
