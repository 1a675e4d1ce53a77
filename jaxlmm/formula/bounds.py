"""How much time and memory a formula from a file may take, found before anything of it is computed.

Four kilobytes can ask for 9**9**9 or for 2**40 terms. What a file says is refused where its size cannot
be bounded by a look at it: whole numbers stay below 2**63, terms and lengths are few, and only columns
of numbers are computed with. What the user types is his own.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Collection
from typing import Any, NoReturn

import formulaic.parser
import numpy as np

from jaxlmm.formula.guard import UntrustedFormula
from jaxlmm.formula.text import parse_expression

__all__ = ["is_plain_number", "refuse_large", "refuse_many_terms"]

MAX_LENGTH = 20_000
MAX_TERMS = 10_000
# Whole numbers in a formula, exponents, and numbers that are a size: of ranges, splines, polynomials.
MAX_NUMBER, MAX_EXPONENT, MAX_SIZE = 2**53, 100, 50
# Of formulaic, numpy, Python and pandas: functions of which a number is a size, or a number of steps.
SIZED = frozenset("range bs cc cr cs poly hashed arange linspace diff round around pow".split())
# Functions that make something of any type or shape.
TYPES = re.compile(r"(bool|category|u?int(8|16|32|64)?|float(32|64)?|str|string)")
TEXT_METHODS = frozenset("contains count".split())
QUANTIFIERS = re.compile(r"[*+?{(]")


def refuse_many_terms(fixed: str, formula: str) -> None:
    """ValueError if the fixed part of a formula is too long, or stands for too many terms."""
    if len(formula) > MAX_LENGTH:
        _refuse(formula, f"has {len(formula)} characters")
    root = formulaic.parser.DefaultFormulaParser().get_ast(fixed)
    counts: dict[int, float] = {}
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:  # children first, without recursion
        node, ready = stack.pop()
        children = getattr(node, "args", None)
        if children is None:
            counts[id(node)] = 1
        elif ready:
            counts[id(node)] = _terms(node, [counts[id(child)] for child in children])
        else:
            stack.append((node, True))
            stack += [(child, False) for child in children]
    if counts[id(root)] > MAX_TERMS:
        _refuse(formula, f"stands for up to {counts[id(root)]:.3g} terms")


def _terms(node: Any, of: list[float]) -> float:
    """Upper bound of the terms of a node, given those of what it joins."""
    symbol = node.operator.symbol
    if symbol in ("+", "-", "~", "|"):
        return min(sum(of), math.inf)
    if symbol in ("**", "^"):
        power = str(node.args[1])
        return min(of[0], 1e9) ** int(power) if re.fullmatch(r"\d{1,2}", power) else math.inf
    return math.prod(min(n + 1, 1e9) for n in of)


def is_plain_number(value: Any) -> bool:
    """Whether a value of a file is a number, or an array of numbers, that no arithmetic makes longer."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufmM"
    return isinstance(value, (float, np.number)) or (isinstance(value, int) and abs(value) <= MAX_NUMBER)


def refuse_large(expression: str, formula: str, text: Collection[str]) -> None:
    """ValueError if an expression may take more time or memory than its columns have.

    Parameters
    ----------
    expression : str
        Of which :func:`jaxlmm.formula.guard.refuse_unknown` has seen every part.
    formula : str
    text : collection of str
        Names of columns and values that are not numbers: they may be repeated, or grow, where one computes with them.
    """
    try:
        tree, quoted = parse_expression(expression)
        others = {*text, *(alias for alias, name in quoted.items() if name in text)}
        for node in ast.walk(tree):
            _check(node, others, formula)
    except (RecursionError, MemoryError):
        _refuse(formula, "is nested too deeply")


def _check(node: ast.AST, text: Collection[str], formula: str) -> None:
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value > MAX_NUMBER:
        _refuse(formula, f"has the number {str(node.value)[:20]}...")
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, (ast.Pow, ast.LShift)):
            power = _number(node.right)
            inner = [n for n in ast.walk(node.left) if isinstance(n, ast.BinOp) and isinstance(n.op, type(node.op))]
            whole = _is_number(node.left) and not isinstance(node.left, (ast.Constant, ast.UnaryOp))
            if power is None or abs(power) > MAX_EXPONENT or whole or (inner and _is_number(inner[0])):
                _refuse(formula, f"has the power '{ast.unparse(node)[:60]}'")
        if isinstance(node.op, ast.Mult) and _is_number(node) and sum(1 for _ in ast.walk(node)) > 30:
            _refuse(formula, "has a product of many numbers")
        for side in (node.left, node.right):
            if _is_sequence(side, text):
                _refuse(formula, f"computes with '{ast.unparse(side)[:60]}', which is no number")
    if isinstance(node, ast.Subscript) and any(isinstance(n, ast.Tuple) for n in ast.walk(node.slice)):
        _refuse(formula, f"takes '{ast.unparse(node)[:60]}'")
    if isinstance(node, ast.Call):
        _check_call(node, text, formula)


def _check_call(node: ast.Call, text: Collection[str], formula: str) -> None:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    given = [*node.args, *(k.value for k in node.keywords)]
    if name in SIZED:
        for value in given:
            number = _number(value)
            column = isinstance(value, ast.Name) or not (_is_number(value) or number is not None)
            if (number is None and not column) or (number is not None and abs(number) > MAX_SIZE):
                _refuse(formula, f"calls {name} with '{ast.unparse(value)[:60]}'")
    if name in ("range", "arange", "linspace") and any(_number(value) is None for value in given):
        _refuse(formula, f"calls {name} with what is no number")
    if name == "arange" and any(isinstance(_number(value), float) for value in given):
        _refuse(formula, "calls arange with fractions")
    if name in ("mul", "pow", "multiply", "power", "left_shift", "add", "cumsum", "cumprod", "sum", "prod"):
        parts = [*given, *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
        if any(_is_sequence(value, text) for value in parts if not isinstance(value, (ast.List, ast.Tuple))):
            _refuse(formula, f"calls {name} with what is no number")
    types = [k.value for k in node.keywords if k.arg == "dtype"] + (node.args[:1] if name == "astype" else [])
    for kind in types:
        known = kind.value if isinstance(kind, ast.Constant) else ast.unparse(kind).removeprefix("np.")
        if not (isinstance(known, str) and TYPES.fullmatch(known)):
            _refuse(formula, f"makes the type '{ast.unparse(kind)[:60]}'")
    if any(k.arg == "shape" for k in node.keywords):
        _refuse(formula, f"calls {name} with a shape")
    if name in TEXT_METHODS and isinstance(node.func, ast.Attribute):
        for value in given:
            if not isinstance(value, ast.Constant) or QUANTIFIERS.search(str(value.value)):
                _refuse(formula, f"searches for '{ast.unparse(value)[:60]}'")


def _number(node: ast.AST) -> float | None:
    """A number as it stands, with or without a sign."""
    if isinstance(node, ast.UnaryOp):
        return _number(node.operand)
    found = node.value if isinstance(node, ast.Constant) else None
    return found if isinstance(found, (int, float)) else None


def _is_number(node: ast.AST) -> bool:
    """Whether an expression is made of numbers alone, so that it is computed in whole numbers of any length."""
    return not any(isinstance(n, ast.Name) for n in ast.walk(node)) and not _is_sequence(node, ())


def _is_sequence(node: ast.AST, text: Collection[str]) -> bool:
    """Whether an expression may be a text or a list, or hold some."""
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, (int, float, complex))
    if isinstance(node, ast.Name):
        return node.id in text
    if isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
        return True
    if isinstance(node, ast.BinOp):
        return _is_sequence(node.left, text) or _is_sequence(node.right, text)
    if isinstance(node, ast.IfExp):
        return _is_sequence(node.body, text) or _is_sequence(node.orelse, text)
    if isinstance(node, ast.BoolOp):
        return any(_is_sequence(value, text) for value in node.values)
    if isinstance(node, ast.Subscript):
        return _is_sequence(node.value, text)
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("list", "tuple", "set", "sorted", "str", "range", "divmod", "upper", "lower", "strip"):
            return True
        if name == "astype":
            return "str" in ast.unparse(node) or "category" in ast.unparse(node)
        if name in ("I", "max", "min", "sum", "abs", "where", "fillna", "array", "asarray", "concatenate", "select"):
            values = [v for v in node.args if not isinstance(v, (ast.List, ast.Tuple))]
            listed = [e for v in node.args if isinstance(v, (ast.List, ast.Tuple)) for e in v.elts]
            return any(_is_sequence(v, text) for v in [*values, *listed])
    return False


def _refuse(formula: str, why: str) -> NoReturn:
    raise UntrustedFormula(formula, f"{why}, so it may take any time and memory")
