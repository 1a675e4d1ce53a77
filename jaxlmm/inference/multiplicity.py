"""p-values adjusted for the number of tests, along one axis of an array; NaN marks a test not made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxlmm.runtime.arguments import check_concrete, check_integer, shown

__all__ = ["ADJUSTMENTS", "adjust_pvalues"]


def adjust_pvalues(p: Any, method: str = "bh", axis: int | None = 0) -> np.ndarray:
    """Adjust p-values for multiple testing, as R's ``p.adjust``.

    Parameters
    ----------
    p : array-like
        p-values, of any shape. NaN stays NaN and does not count as a test.
    method : {"bh" or "fdr", "by", "bonferroni", "holm", "none"}, any case
        "bh" controls the false discovery rate under independence or positive dependence
        (Benjamini & Hochberg 1995), "by" under any dependence (Benjamini & Yekutieli 2001);
        "bonferroni" and "holm" (Holm 1979, never less powerful) control the probability of one
        false rejection or more, under any dependence; "none" changes nothing.
    axis : int or None
        Entries along this axis are one family of tests. With p-values (m, p) of m responses and p
        effects, 0 corrects each effect over the responses. None: all entries are one family.

    Returns
    -------
    ndarray
        Adjusted p-values, float64, of the shape of ``p``. An entry is at most alpha exactly where
        its test is rejected at level alpha.

    Raises
    ------
    ValueError
        Values that are not numbers in [0, 1], an unknown method, an axis that ``p`` has not.
    """
    adjust = ADJUSTMENTS.get(method.lower()) if isinstance(method, str) else None
    if adjust is None:
        raise ValueError(f"method must be one of {', '.join(map(repr, ADJUSTMENTS))}, found {shown(method)}.")
    values = _pvalues(p)
    if axis is not None and values.ndim:
        axis = check_integer("axis", axis, -values.ndim, values.ndim - 1, f"; p has {values.ndim} dimensions")
    # Families in rows; a scalar is a family of its own.
    flat = values.reshape(-1) if axis is None or values.ndim == 0 else np.moveaxis(values, axis, -1)
    rows = np.atleast_2d(flat.reshape(-1, flat.shape[-1])) if flat.size else flat.reshape(0, 0)
    # Sorting puts NaN last, so that rows with as many tests can be adjusted together.
    order = np.argsort(rows, axis=1, kind="stable")
    n_tests = np.sum(~np.isnan(rows), axis=1)
    out = np.full(rows.shape, np.nan)
    for n in np.unique(n_tests[n_tests > 0]):
        where = np.flatnonzero(n_tests == n)[:, None]
        at = order[where[:, 0], :n]
        out[where, at] = adjust(rows[where, at])
    out = out.reshape(flat.shape)
    return out.reshape(values.shape) if axis is None or values.ndim == 0 else np.moveaxis(out, -1, axis)


def _pvalues(given: Any) -> np.ndarray:
    """``given`` as a new float64 array, NaN where masked, checked."""
    check_concrete(given, "p")
    try:
        array = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"p cannot be made into an array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"p must be numeric, found dtype {array.dtype}; make floats of it, NaN where missing.")
    p = np.array(array, dtype=np.float64)
    if isinstance(given, np.ma.MaskedArray):
        p[np.ma.getmaskarray(given)] = np.nan
    bad = np.argwhere((p < 0) | (p > 1))
    if len(bad):
        first = tuple(int(k) for k in bad[0])
        where = f", the first at index {first[0] if len(first) == 1 else first}" if first else ""
        raise ValueError(
            f"p holds {len(bad)} value{'s' * (len(bad) > 1)} outside [0, 1]{where}: {p[first]:.6g}; give p-values."
        )
    return p


# Each takes the sorted p-values of c families of n tests, (c, n).


def _false_discovery(method: str) -> Callable[[np.ndarray], np.ndarray]:
    def adjust(p: np.ndarray) -> np.ndarray:
        from scipy.stats import false_discovery_control  # slow to import, and rarely needed

        return np.asarray(false_discovery_control(p, axis=1, method=method))

    return adjust


def _bonferroni(p: np.ndarray) -> np.ndarray:
    return np.minimum(p * p.shape[1], 1.0)


def _holm(p: np.ndarray) -> np.ndarray:
    n = p.shape[1]
    return np.minimum(np.maximum.accumulate(p * (n - np.arange(n)), axis=1), 1.0)


ADJUSTMENTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bh": _false_discovery("bh"),
    "fdr": _false_discovery("bh"),
    "by": _false_discovery("by"),
    "bonferroni": _bonferroni,
    "holm": _holm,
    "none": np.copy,
}
