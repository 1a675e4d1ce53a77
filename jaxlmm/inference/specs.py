"""Which means are wanted, as R's emmeans is asked: names, or "~ a | b", "a * b", "pairwise ~ a | b"."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jaxlmm.inference.grid import known_variable
from jaxlmm.runtime.arguments import name_list

__all__ = ["OVERALL", "Specs", "names_of", "read_specs"]

# A name in backticks, or as Q('a name').
QUOTED = re.compile(r"^(?:`([^`]+)`|Q\((['\"])(.+)\2\))$")
# The same anywhere in a text, and what stands between names.
PIECE = re.compile(r"`[^`]+`|Q\((?:'[^']+'|\"[^\"]+\")\)|[~|+*:]|[^\s~|+*:]+")
# The mean over everything, R's "~ 1".
OVERALL = "1"


@dataclass(frozen=True)
class Specs:
    """Variables at whose levels means are wanted, those that divide them, and what compares them, if anything."""

    specs: tuple[str, ...]
    by: tuple[str, ...]
    method: str | None


def names_of(names: Any, what: str) -> tuple[str, ...]:
    """Names of variables; in backticks or as Q('a name') too, as in a formula."""
    return tuple(_plain(name) for name in name_list(names, what))


def read_specs(specs: Any, by: Any, known: Collection[str]) -> Specs:
    """What is wanted, as names of variables of the model.

    Parameters
    ----------
    specs : str or sequence of str
        Names, or R's formula as text.
    by : str or sequence of str, optional
    known : collection of str
        The variables of the model.

    Raises
    ------
    ValueError
        Unknown variables, none, one in both, what is no formula.
    """
    listed, outer, method = names_of(specs, "specs"), names_of(by, "by"), None
    written = specs if isinstance(specs, str) else None
    if written is not None and listed[0] not in known and re.search(r"[~|+*:]", written):
        listed, own, method = _formula(written)
        outer = tuple(name for name in dict.fromkeys((*own, *outer)) if name not in listed)
    if not listed:
        raise ValueError(f"specs names no variable; give one or more of {', '.join(known) or '(none)'}.")
    if len(set(listed + outer)) < len(listed + outer):
        raise ValueError(f"specs and by must name different variables, found {', '.join(listed + outer)}.")
    for what, names in (("specs", listed), ("by", outer)):
        for name in names:
            if name != OVERALL or what == "by":
                known_variable(name, known, what)
    return Specs(tuple(name for name in listed if name != OVERALL), outer, method)


def _formula(text: str) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    """R's "method ~ a * b | c": the names before and after the bar, and the method."""
    pieces = PIECE.findall(text)
    if pieces.count("~") > 1 or pieces.count("|") > 1:
        raise ValueError(f"specs is {text!r}; write it as '~ a | b': means of a at each level of b.")
    left = pieces[: pieces.index("~")] if "~" in pieces else []
    right = pieces[pieces.index("~") + 1 :] if "~" in pieces else pieces
    if len(left) > 1:
        raise ValueError(f"specs is {text!r}; left of '~' stands one way to compare, as in 'pairwise ~ a'.")
    at = right.index("|") if "|" in right else len(right)
    inner, outer = (tuple(_plain(p) for p in side if p not in "+*:") for side in (right[:at], right[at + 1 :]))
    if not inner or ("|" in right and not outer):
        raise ValueError(f"specs is {text!r}, which names no variable {'after' if inner else 'before'} the bar.")
    return tuple(dict.fromkeys(inner)), tuple(dict.fromkeys(outer)), left[0] if left else None


def _plain(name: str) -> str:
    return QUOTED.sub(lambda m: m[1] or m[3], name)
