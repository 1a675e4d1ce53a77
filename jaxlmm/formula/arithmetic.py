"""Expressions of a formula computed as R computes them; formulaic's materializer with three differences.

- Arithmetic is done in doubles: see :func:`jaxlmm.formula.functions.number`.
- What is true or false, ``I(x > 5)``, is a factor, as R's logical columns are; so is text that a function makes.
- Levels of text are in the order of :mod:`jaxlmm.sources.levels`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from formulaic import ModelSpec
from formulaic.materializers import PandasMaterializer
from formulaic.materializers.types import FactorValues
from interface_meta import override

from jaxlmm.formula.functions import FUNCTIONS, number, power, response
from jaxlmm.formula.text import parse_expression, unparse_expression
from jaxlmm.sources.levels import in_level_order

__all__ = ["MATERIALIZER", "compute_response"]

MATERIALIZER = "jaxlmm"
INNER = {"_jaxlmm_number": number, "_jaxlmm_power": power, "_jaxlmm_response": response}
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)
# numpy's functions of the same kind.
UFUNCS = frozenset("add subtract multiply power square negative".split())


def compute_response(expression: str, frame: Any, context: Mapping[str, Any]) -> np.ndarray:
    """The values of an expression left of "~", (n_obs,); NaN where a column is missing.

    Raises whatever the expression raises; ValueError if it makes no column of numbers.
    """
    tree, quoted = parse_expression(expression)
    called = _call("_jaxlmm_response", tree.body)
    maker = _RMaterializer(frame, context)
    values = maker._evaluate(unparse_expression(called, quoted), {}, ModelSpec([]))[0]
    if len(values) != len(frame):
        raise ValueError(f"has {len(values)} values for {len(frame)} rows")
    return np.asarray(values)


def _widened(column: Any) -> Any:
    """Numbers of fewer than 64 bits in 64, so that no function computes in fewer; nullable ones as numpy's."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype) or not pd.api.types.is_any_real_numeric_dtype(dtype):
        return column
    if isinstance(dtype, pd.api.extensions.ExtensionDtype):
        whole = pd.api.types.is_integer_dtype(dtype) and not column.isna().any()
        return pd.Series(column.to_numpy(np.int64 if whole else np.float64, na_value=np.nan), column.index)
    narrow = dtype.itemsize < 8
    return column.astype(np.int64 if dtype.kind in "iu" else np.float64) if narrow else column


class _RMaterializer(PandasMaterializer):  # type: ignore[misc]
    REGISTER_NAME = MATERIALIZER
    REGISTER_INPUTS = ()

    def __init__(self, data: Any, context: Mapping[str, Any] | None = None, **params: Any) -> None:
        wide = {name: _widened(column) for name, column in data.items()}
        super().__init__(pd.DataFrame(wide, index=data.index), {**FUNCTIONS, **(context or {}), **INNER}, **params)

    @override  # type: ignore[untyped-decorator, unused-ignore]
    def _evaluate(self, expr: str, metadata: Any, spec: Any) -> tuple[Any, set[Any]]:
        tree, quoted = parse_expression(expr)
        as_r = unparse_expression(_InDoubles().visit(tree).body, quoted)
        value, variables = super()._evaluate(as_r, metadata, spec)
        return value, {v for v in variables if str(v) not in INNER}

    @override  # type: ignore[untyped-decorator, unused-ignore]
    def _is_categorical(self, values: Any) -> bool:
        kind = getattr(getattr(values, "dtype", None), "kind", "")
        if isinstance(getattr(values, "dtype", None), np.dtype) and kind in "bOU":
            return True
        return bool(super()._is_categorical(values))

    @override  # type: ignore[untyped-decorator, unused-ignore]
    def _evaluate_factor(self, factor: Any, spec: Any, drop_rows: Any) -> Any:
        known = factor.expr in self.factor_cache
        found = super()._evaluate_factor(factor, spec, drop_rows)
        if known or found.metadata.kind.value != "categorical":
            return found
        values = found.values
        while isinstance(values, FactorValues):
            values = values.__wrapped__
        if np.ndim(values) != 1 or isinstance(values.dtype, pd.CategoricalDtype):
            return found
        column = pd.Series(values)
        if not pd.api.types.is_object_dtype(column.dtype) and not pd.api.types.is_string_dtype(column.dtype):
            made = column
        else:
            levels = in_level_order(column.unique().tolist())
            made = pd.Series(pd.Categorical(column, categories=levels), column.index)
        self.factor_cache[factor.expr] = found.replace(values=FactorValues(made, metadata=found.metadata))
        return self.factor_cache[factor.expr]


class _InDoubles(ast.NodeTransformer):
    """Operands of arithmetic become doubles; functions within the expression, which work on values, stay."""

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_Lambda  # type: ignore[assignment]

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Pow):
            return _call("_jaxlmm_power", node.left, node.right)
        if isinstance(node.op, ARITHMETIC):
            node.left, node.right = _double(node.left), _double(node.right)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, (ast.UAdd, ast.USub)):
            node.operand = _double(node.operand)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        function = node.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            if function.value.id == "np" and function.attr in UFUNCS:
                node.args = [_double(argument) for argument in node.args]
        return node


def _double(node: ast.expr) -> ast.expr:
    return node if isinstance(node, ast.Constant) else _call("_jaxlmm_number", node)


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])
