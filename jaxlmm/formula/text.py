"""Formulas and names as text: brackets and quotes, the variables of an expression, patterns and near misses."""

from __future__ import annotations

import ast
import difflib
import fnmatch
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "Bracket",
    "brackets_and_bars",
    "category_column",
    "expression_names",
    "match_columns",
    "near_misses",
    "one_line",
    "outside_quotes",
    "parse_expression",
    "unparse_expression",
]

QUOTES = "'\"`"
CLOSING = {")": "(", "]": "[", "}": "{"}
NAME = re.compile(r"`(?P<quoted>[^`]+)`|(?P<plain>[^\W\d][\w.]*)")


@dataclass(frozen=True)
class Bracket:
    """Positions of a pair of brackets; ``call`` if it follows a name, or is not round."""

    start: int
    end: int
    call: bool


def brackets_and_bars(text: str) -> tuple[list[Bracket], list[int]]:
    """All pairs of brackets, outermost first, and the positions of all bars; none within quotes."""
    brackets: list[Bracket] = []
    stack: list[int] = []
    bare = outside_quotes(text)
    for i, c in enumerate(bare):
        if c in "([{":
            stack.append(i)
        elif c in CLOSING:
            if not stack or text[stack[-1]] != CLOSING[c]:
                raise ValueError(f"'{c}' closes nothing at the end of '{text[: i + 1]}'; check the brackets.")
            start = stack.pop()
            previous = text[:start][-1:]
            brackets.append(Bracket(start, i, c != ")" or previous.isalnum() or previous in ("_", "`", ")", "]")))
    if stack:
        raise ValueError(f"'{text[stack[-1]]}' is not closed in '{text[stack[-1] :]}'; check the brackets.")
    return sorted(brackets, key=lambda b: b.start), [i for i, c in enumerate(bare) if c == "|"]


def outside_quotes(text: str) -> str:
    """The text with all that stands in quotes or backticks, and these, replaced by the character NUL.

    Raises
    ------
    ValueError
        A quote that is not closed.
    """
    found, i = list(text), 0
    while i < len(text):
        if text[i] in QUOTES:
            end = i + 1
            while end < len(text) and text[end] != text[i]:
                end += 2 if text[end] == "\\" and text[i] != "`" else 1
            if end >= len(text):
                raise ValueError(f"the quote {text[i]} is not closed in '{text[i:]}' at the end of the formula.")
            found[i : end + 1] = "\0" * (end + 1 - i)
            i = end
        i += 1
    return "".join(found)


def parse_expression(expression: str) -> tuple[ast.Expression, dict[str, str]]:
    """A Python expression with backticks around names that are not Python's -> its tree, and what was quoted.

    Returns
    -------
    tree : ast.Expression
    quoted : dict
        The names in backticks, by the names that stand for them in the tree.
    """
    aliases: dict[str, str] = {}

    def alias(match: re.Match[str]) -> str:
        return aliases.setdefault(match[1], f"_quoted_{len(aliases)}_")

    tree = ast.parse(re.sub(r"`([^`]+)`", alias, expression).strip(), mode="eval")
    return tree, {name: original for original, name in aliases.items()}


def unparse_expression(node: ast.AST, quoted: Mapping[str, str]) -> str:
    """The text of a tree of :func:`parse_expression`."""
    made = ast.unparse(ast.fix_missing_locations(node))
    return re.sub(r"_quoted_\d+_", lambda m: f"`{quoted[m[0]]}`" if m[0] in quoted else m[0], made)


def expression_names(expression: str) -> tuple[set[str], set[str]]:
    """Names of the variables and of the functions that a Python expression uses.

    Backticks quote names that are not Python's. A dotted function is known by its first name.
    """
    tree, names = parse_expression(expression)
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
    """The column that "C(column, ...)", or R's factor, ordered and relevel, make a factor of; None for others."""
    found = re.match(rf"(?:C|factor|ordered|relevel)\(\s*(?:{NAME.pattern})\s*[,)]", expression)
    return (found["quoted"] or found["plain"]) if found else None


def match_columns(patterns: str | Sequence[str], columns: Sequence[str], taken: Collection[str] = ()) -> list[int]:
    """Positions of the columns that names or patterns such as "elec_*" stand for, each once.

    Patterns leave out the columns that are ``taken``.

    Raises
    ------
    ValueError
        A name or pattern that matches no column; close matches are shown.
    """
    found: dict[int, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        exact = [j for j, name in enumerate(columns) if name == pattern]
        at = exact or [j for j, name in enumerate(columns) if fnmatch.fnmatchcase(name, pattern)]
        if not exact and at:
            at = [j for j in at if columns[j] not in taken]
            if not at:
                raise ValueError(f"responses: the pattern {pattern!r} matches only columns that the formula uses.")
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
    if not known:
        return "it has no columns."
    return f"the columns are {', '.join(known[:8])}{', ...' if len(known) > 8 else '.'}"


def one_line(message: str, formula: str) -> str:
    """A message of formulaic on one line, with the piece that it marks quoted."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", message)
    marked = re.search(r"⧛(.*?)⧚", plain, flags=re.DOTALL)
    head = plain.strip().splitlines()[0].strip().rstrip(".") if plain.strip() else "not understood"
    head = textwrap.shorten(head, 240, placeholder=" ...")
    where = f", at '{marked[1]}'" if marked and "⧛" not in head else ""
    return f"formula '{formula}': {head.replace('⧛', '').replace('⧚', '')}{where}."
