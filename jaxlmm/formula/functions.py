"""What the expressions of a formula may call beside formulaic's functions: R's, with R's meaning."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from formulaic.transforms import TRANSFORMS

__all__ = ["FUNCTIONS", "number", "power", "response"]


def number(value: Any) -> Any:
    """An operand of arithmetic as R takes it: whole and logical numbers are computed as doubles.

    Else int8 columns would overflow at 127, and the sum of two logical columns would be logical.
    """
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype) and dtype.categories.dtype == bool:
        return value.astype(bool).astype(np.float64)
    if dtype is None or isinstance(dtype, pd.CategoricalDtype) or not pd.api.types.is_any_real_numeric_dtype(dtype):
        logical = dtype is not None and pd.api.types.is_bool_dtype(dtype)
        return value.astype(np.float64) if logical and not isinstance(dtype, pd.CategoricalDtype) else value
    if isinstance(value, pd.Series) and isinstance(dtype, pd.api.extensions.ExtensionDtype):
        return pd.Series(value.to_numpy(np.float64, na_value=np.nan), value.index, name=value.name)
    return value.astype(np.float64)


def power(base: Any, exponent: Any) -> Any:
    """R's ``base^exponent``, in doubles: NaN where there is no real number."""
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        return base**exponent
    base, exponent = (np.float64(v) if isinstance(v, (bool, int, float)) else number(v) for v in (base, exponent))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return base**exponent


def response(value: Any) -> Any:
    """The values of a response that is computed: numbers, one per row."""
    value = getattr(value, "__wrapped__", value)
    value = number(value)
    dtype = getattr(value, "dtype", None)
    if dtype is None or isinstance(dtype, pd.CategoricalDtype) or not pd.api.types.is_any_real_numeric_dtype(dtype):
        raise ValueError("is not numeric")
    if np.ndim(value) != 1:
        raise ValueError("is no column; write cbind(a, b) for several responses")
    return np.asarray(value, dtype=np.float64)


def _log(x: Any, base: Any = None) -> Any:
    """R's log: natural, or to a base."""
    return np.log(x) if base is None else np.log(x) / np.log(base)


def _factor(data: Any, levels: Any = None, labels: Any = None, ordered: bool = False) -> Any:
    """R's factor(x, levels): a factor with treatment coding, or polynomials if its levels are ordered."""
    if labels is not None:
        raise ValueError("labels are not taken here; name the levels in the data")
    return TRANSFORMS["C"](data, TRANSFORMS["contr"].poly if ordered else None, levels=levels)


def _ordered(x: Any, levels: Any = None, labels: Any = None) -> Any:
    """R's ordered(x, levels)."""
    return _factor(x, levels, labels, ordered=True)


def _relevel(x: Any, ref: Any) -> Any:
    """R's relevel: a factor whose reference is ``ref``."""
    return TRANSFORMS["C"](x, TRANSFORMS["contr"].treatment(base=ref))


def _c(*values: Any) -> list[Any]:
    """R's c: a list."""
    return list(values)


# formulaic's exp10 computes x**10. Names as in R.
FUNCTIONS: Mapping[str, Any] = {
    **TRANSFORMS,
    "exp10": lambda x: np.power(10.0, x),
    "log": _log,
    "factor": _factor,
    "ordered": _ordered,
    "relevel": _relevel,
    "c": _c,
    "sqrt": np.sqrt,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "floor": np.floor,
    "ceiling": np.ceil,
    "trunc": np.trunc,
    "pmax": lambda *values: functools.reduce(np.maximum, values),
    "pmin": lambda *values: functools.reduce(np.minimum, values),
    "sign": np.sign,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "atan": np.arctan,
    "tanh": np.tanh,
    "ifelse": np.where,
    "TRUE": True,
    "FALSE": False,
    "NULL": None,
    "pi": np.pi,
}
