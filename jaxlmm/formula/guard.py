"""Which Python expressions of a formula are evaluated when the formula comes from a file or a command line.

A formula is code: ``I(x + __import__('os').getpid())`` is one. What the user's program says is his own; what
a file or a command line says is evaluated only if every part of it is on the lists below.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from typing import NoReturn

import numpy as np

from jaxlmm.formula.functions import FUNCTIONS
from jaxlmm.formula.text import parse_expression

__all__ = ["UntrustedFormula", "refuse_unknown"]


class UntrustedFormula(ValueError):
    """A formula that is not evaluated unasked; ``formula``, and ``why``, the words that say what is in the way."""

    def __init__(self, formula: str, why: str) -> None:
        super().__init__(
            f"formula '{formula:.200}' comes from the file and {why}; read it, and if you trust the file, give "
            "trust_formula=True to load."
        )
        self.formula, self.why = formula, why


NODES = (
    ast.Expression, ast.Name, ast.Load, ast.Constant, ast.Call, ast.keyword, ast.Attribute, ast.Subscript, ast.Slice,
    ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator, ast.BoolOp, ast.boolop,
    ast.Compare, ast.cmpop, ast.IfExp,
)  # fmt: skip
BUILTINS = frozenset("abs bool divmod float int len list max min pow range round set sorted str sum tuple".split())
# Beside the ufuncs, which compute element by element.
NUMPY = frozenset(
    "abs all any arange around array asarray bool_ clip concatenate cumprod cumsum cumulative_sum diff digitize e "
    "float32 float64 full_like gradient inf int32 int64 interp isin linspace max mean median min nan nan_to_num "
    "nanmax nanmean nanmedian nanmin nanstd nansum nanvar newaxis ones_like percentile pi prod ptp quantile round "
    "searchsorted select std sum unique var where zeros_like".split()
)
# Of columns; none of these reads, writes or calls anything by name.
METHODS = frozenset(
    "abs add all any astype between cat ceil clip codes contains count cummax cummin cumprod cumsum day "
    "day_of_week day_of_year dayofweek dayofyear days days_in_month diff div dt endswith eq fillna floor ge gt "
    "hour is_month_start isin isna kurt le len lower lt max mean median microsecond min minute mod month mul ne "
    "notna nunique pow quantile quarter rank round second seconds sem shift skew startswith std str strip sub sum "
    "to_numpy total_seconds truediv upper values var weekday where year".split()
)
MODULES = ("np", "contr")


def refuse_unknown(expression: str, formula: str, known: Collection[str], given: Collection[str]) -> None:
    """ValueError if an expression does more than compute with what it is given.

    Parameters
    ----------
    expression : str
        Part of ``formula``; Python, with backticks around names that are not Python's.
    formula : str
    known : collection of str
        Names of columns and of values.
    given : collection of str
        Names of what the user gives himself: it may be called, and any public attribute of it.
    """
    # With quotes beside backticks it is not certain that formulaic finds the same names.
    if "`" in expression and re.search("['\"\\\\]", expression):
        _refuse(expression, formula)
    try:
        tree, aliases = parse_expression(expression)
    except (SyntaxError, RecursionError, MemoryError):
        _refuse(expression, formula)
    quoted = set(aliases)
    for name in aliases.values():
        if name not in known:
            _refuse(f"`{name}`", formula)
    names = {*known, *given, *quoted, *BUILTINS, *FUNCTIONS} - (set(MODULES) - {*known, *given})
    of_modules = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        allowed = isinstance(node, NODES)
        if isinstance(node, ast.Name):
            allowed = node.id in names or (node.id in MODULES and id(node) in of_modules)
        elif isinstance(node, ast.Attribute):
            allowed = _attribute(node, known, given)
        elif isinstance(node, ast.Call):
            # By name only what this process has: a column of the file may be called "open".
            called = node.func.id if isinstance(node.func, ast.Name) else None
            allowed = isinstance(node.func, ast.Attribute) or called in {*BUILTINS, *FUNCTIONS, *given}
        elif isinstance(node, ast.keyword):
            allowed = node.arg is not None and not node.arg.startswith("_")
        if not allowed:
            _refuse(ast.unparse(node), formula)


def _attribute(node: ast.Attribute, known: Collection[str], given: Collection[str]) -> bool:
    name, root = node.attr, node.value
    if name.startswith("_"):
        return False
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(root, ast.Name) and root.id in given:
        return True
    if isinstance(node.value, ast.Name) and node.value.id not in known:
        if node.value.id == "np":
            return name in NUMPY or isinstance(getattr(np, name, None), np.ufunc)
        if node.value.id == "contr":
            return True
    return name in METHODS


def _refuse(piece: str, formula: str) -> NoReturn:
    raise UntrustedFormula(formula, f"uses '{piece}', which is not among what is evaluated unasked")
