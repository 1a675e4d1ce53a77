"""Formulas and names as text: the random term, the variables of an expression, patterns and near misses."""

from __future__ import annotations

import ast
import difflib
import fnmatch
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "category_column",
    "expression_names",
    "match_columns",
    "near_misses",
    "one_line",
    "parse_random",
    "split_formula",
]

QUOTES = "'\"`"
CLOSING = {")": "(", "]": "[", "}": "{"}
NAME = re.compile(r"`(?P<quoted>[^`]+)`|(?P<plain>[^\W\d][\w.]*)")


def parse_random(formula: str) -> tuple[str, str | None]:
    """Take the random term off a formula.

    Returns
    -------
    fixed : str
        The formula without it; "1" in its place if nothing else stands there.
    group : str or None
        The grouping column, "a:b" for the combinations of two; None without a random term.

    Raises
    ------
    ValueError
        Unbalanced brackets or quotes, and random terms other than one ``(1 | g)`` or ``(1 | a:b)``.
        The message quotes the piece.
    """
    fixed, groups = split_formula(formula)
    return fixed, ":".join(groups) or None


def split_formula(formula: str) -> tuple[str, tuple[str, ...]]:
    """As :func:`parse_random`, with the names of the grouping columns, none without a random term."""
    if not isinstance(formula, str):
        raise ValueError(f"formula must be text such as 'y ~ x + (1 | g)', found {type(formula).__name__}.")
    brackets, bars = _scan(formula)
    random: list[_Bracket] = []
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
        if inner[0] not in random:
            random.append(inner[0])
    pieces = [formula[b.start : b.end + 1] for b in random]
    if len(random) > 1:
        raise ValueError(
            f"the formula has {len(random)} random terms, {' and '.join(pieces)}; more than one is not yet supported."
        )
    if not random:
        return formula, ()
    term, piece = random[0], pieces[0]
    before, after = formula[: term.start].rstrip(), formula[term.end + 1 :].lstrip()
    if "~" in after:
        raise ValueError(f"the random term {piece} stands left of '~' in '{formula}'; write it on the right.")
    if (before and before[-1] not in "~+") or (after and after[0] not in "+-"):
        raise ValueError(f"the random term {piece} must be a term of its own in '{formula}', joined by '+'.")
    groups = _groups(piece)
    if before.endswith("+"):
        return f"{before[:-1].rstrip()} {after}".rstrip(), groups
    rest = after[1:].lstrip() if after.startswith("+") else f"1 {after}".rstrip()
    return f"{before} {rest}".lstrip(), groups


@dataclass(frozen=True)
class _Bracket:
    """Positions of a pair of brackets; ``call`` if it follows a name, or is not round."""

    start: int
    end: int
    call: bool


def _scan(text: str) -> tuple[list[_Bracket], list[int]]:
    """All pairs of brackets, outermost first, and the positions of all bars; none within quotes."""
    brackets: list[_Bracket] = []
    bars: list[int] = []
    stack: list[int] = []
    i = 0
    while i < len(text):
        c = text[i]
        if c in QUOTES:
            end = text.find(c, i + 1)
            if end < 0:
                raise ValueError(f"the quote {c} is not closed in '{text[i:]}' at the end of the formula.")
            i = end
        elif c in "([{":
            stack.append(i)
        elif c in CLOSING:
            if not stack or text[stack[-1]] != CLOSING[c]:
                raise ValueError(f"'{c}' closes nothing at the end of '{text[: i + 1]}'; check the brackets.")
            start = stack.pop()
            previous = text[:start][-1:]
            brackets.append(_Bracket(start, i, c != ")" or previous.isalnum() or previous in ("_", "`", ")", "]")))
        elif c == "|":
            bars.append(i)
        i += 1
    if stack:
        raise ValueError(f"'{text[stack[-1]]}' is not closed in '{text[stack[-1] :]}'; check the brackets.")
    return sorted(brackets, key=lambda b: b.start), bars


def _around(text: str, at: int) -> str:
    """The summand that holds position ``at``."""
    start = max(text.rfind(c, 0, at) for c in "~+") + 1
    end = min((k for k in (text.find(c, at) for c in "~+") if k >= 0), default=len(text))
    return text[start:end].strip()


def _groups(piece: str) -> tuple[str, ...]:
    """Names of the grouping columns of "(1 | g)"."""
    inner = piece[1:-1]
    if "||" in inner:
        raise ValueError(f"random slopes are not yet supported, found {piece}; only (1 | group) is.")
    if inner.count("|") > 1:
        raise ValueError(f"the random term {piece} has more than one bar; write (1 | group).")
    left, right = (side.strip() for side in inner.split("|"))
    if left != "1":
        what = (
            f"random slopes are not yet supported, found {piece}" if left else f"nothing is before the bar in {piece}"
        )
        raise ValueError(f"{what}; only (1 | group) is fitted.")
    names: list[str] = []
    rest = right
    while True:
        found = NAME.match(rest)
        if not found:
            raise ValueError(f"the random term {piece} needs the name of a column after the bar, found '{rest}'.")
        names.append(found["quoted"] or found["plain"])
        rest = rest[found.end() :].lstrip()
        if not rest:
            return tuple(names)
        if rest[0] == "/":
            raise ValueError(f"nested groups, two random terms in one, are not yet supported, found {piece}.")
        if rest[0] != ":":
            raise ValueError(f"the random term {piece} must group by one column, or by a:b; found '{rest}'.")
        rest = rest[1:].lstrip()


def expression_names(expression: str) -> tuple[set[str], set[str]]:
    """Names of the variables and of the functions that a Python expression uses.

    Backticks quote names that are not Python's. A dotted function is known by its first name.
    """
    quoted: dict[str, str] = {}

    def alias(match: re.Match[str]) -> str:
        return quoted.setdefault(match[1], f"_quoted_{len(quoted)}_")

    tree = ast.parse(re.sub(r"`([^`]+)`", alias, expression).strip(), mode="eval")
    names = {value: key for key, value in quoted.items()}
    called: set[ast.AST] = set()
    functions: set[str] = set()
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func)
            functions.add(node.func.id)
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n not in called} - bound
    return {names.get(name, name) for name in used}, functions - bound


def category_column(expression: str) -> str | None:
    """The column that "C(column, ...)" makes a factor of; None for other expressions."""
    found = re.match(rf"C\(\s*(?:{NAME.pattern})\s*[,)]", expression)
    return (found["quoted"] or found["plain"]) if found else None


def match_columns(patterns: str | Sequence[str], columns: Sequence[str]) -> list[int]:
    """Positions of the columns that names or patterns such as "elec_*" stand for, each once.

    Raises
    ------
    ValueError
        A name or pattern that matches no column; close matches are shown.
    """
    found: dict[int, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        exact = [j for j, name in enumerate(columns) if name == pattern]
        at = exact or [j for j, name in enumerate(columns) if fnmatch.fnmatchcase(name, pattern)]
        if not at:
            kind = "pattern" if set(pattern) & set("*?[") else "column"
            raise ValueError(f"responses: nothing matches the {kind} {pattern!r}; {near_misses(pattern, columns)}")
        found.update(dict.fromkeys(at))
    return list(found)


def near_misses(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'a' or 'b'?" for the closest of the known names, else what there is."""
    known = [str(k) for k in known]
    lowered: dict[str, str] = {k.lower(): k for k in reversed(known)}
    close = [lowered[k] for k in difflib.get_close_matches(name.lower().strip("*?"), lowered, n=3, cutoff=0.6)]
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"the columns are {', '.join(known[:8])}{', ...' if len(known) > 8 else '.'}"


def one_line(message: str, formula: str) -> str:
    """A message of formulaic on one line, with the piece that it marks quoted."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", message)
    marked = re.search(r"⧛(.*?)⧚", plain, flags=re.DOTALL)
    head = plain.strip().splitlines()[0].strip().rstrip(".") if plain.strip() else "not understood"
    head = textwrap.shorten(head, 240, placeholder=" ...")
    where = f", at '{marked[1]}'" if marked and "⧛" not in head else ""
    return f"formula '{formula}': {head.replace('⧛', '').replace('⧚', '')}{where}."
