"""p-values adjusted for the number of tests, along axes of an array; NaN marks a test not made."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import numpy as np

from jaxlmm.runtime.arguments import check_concrete, check_integer, shown

__all__ = ["ADJUSTMENTS", "SYNONYMS", "adjust_pvalues", "adjustment", "threshold"]

# The default of axis=: each effect over all its responses.
FAMILIES = "responses"
# Families of so many tests or fewer are adjusted together, by Hommel's method.
FEW = 64
# How R, statsmodels and others call the same.
SYNONYMS = {"fdr": "bh", "fdr_bh": "bh", "fdr_by": "by", "simes-hochberg": "hochberg"}


def adjust_pvalues(p: Any, method: str = "bh", axis: Any = FAMILIES) -> Any:
    """Adjust p-values for multiple testing, as R's ``p.adjust``.

    Parameters
    ----------
    p : array-like, or xarray DataArray
        p-values, of any shape. NaN stays NaN and does not count as a test.
    method : {"bh" or "fdr", "by", "bonferroni", "holm", "hochberg", "hommel", "none"}, any case
        "bh" controls the false discovery rate under independence or positive dependence
        (Benjamini & Hochberg 1995), "by" under any dependence (Benjamini & Yekutieli 2001);
        "bonferroni" and "holm" (Holm 1979, never less powerful) control the probability of one
        false rejection or more, under any dependence; "hochberg" (Hochberg 1988) and "hommel"
        (Hommel 1988, never less powerful) do so where Simes' test holds: independence, or positive
        dependence; "none" changes nothing. "fdr" (R's name) and "fdr_bh", "fdr_by" (statsmodels')
        are the same as "bh" and "by", and so for its "simes-hochberg".
    axis : int, name of a dimension, several of either, or None; optional
        Entries along it are one family of tests; None: all entries are.

        Default: each effect is a family, over all responses. With p-values (m, p) of m responses
        and p effects that is axis 0. Of a DataArray the dimension "term" tells effects apart, and
        all others together are the family. An array of more dimensions does not say which ones
        hold the responses, so ``axis`` must.

    Returns
    -------
    ndarray, or DataArray
        Adjusted p-values, float64, of the shape of ``p``, with its labels. An entry is at most
        alpha exactly where its test is rejected at level alpha.

    Raises
    ------
    ValueError
        Values that are not numbers in [0, 1], an unknown method, an axis that ``p`` has not, no
        axis for an array of more than two dimensions.
    """
    adjust = ADJUSTMENTS[adjustment(method)]
    if hasattr(p, "data_vars"):
        raise ValueError(f"p is a {type(p).__name__}, found variables {', '.join(map(str, p.data_vars))}; give one.")
    dims = p.dims if hasattr(p, "dims") and hasattr(p, "coords") else None
    values = _pvalues(p)
    axes = _family_axes(axis, values.ndim, dims)
    rest = tuple(k for k in range(values.ndim) if k not in axes)
    moved = values.transpose(*rest, *axes)
    out = _adjust_rows(moved.reshape(math.prod(moved.shape[: len(rest)]), -1), adjust) if values.size else moved
    out = out.reshape(moved.shape).transpose(np.argsort((*rest, *axes)))
    return out if dims is None else p.copy(data=out)


def adjustment(method: Any, known: Collection[str] | None = None, what: str = "method") -> str:
    """The name of an adjustment in its one spelling, whatever software it is spelt after.

    Raises
    ------
    ValueError
        It is not among the ``known`` ones, by default those of :func:`adjust_pvalues`.
    """
    known = ADJUSTMENTS if known is None else known
    name = SYNONYMS.get(method.lower(), method.lower()) if isinstance(method, str) else None
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, known))}, found {shown(method)}.")
    return str(name)


def threshold(n: int, rejected: int, method: str, alpha: float, largest: float | None = None) -> float:
    """A p-value that lies between the ``rejected`` tests of n and the others, in one family at level alpha.

    The last critical value that was passed, or the first where none was: alpha k / n of "bh" with k rejections
    (Benjamini & Hochberg 1995), alpha / (n - k) of "holm", alpha / n of "bonferroni". That of
    "hommel" follows from all p-values: it is the ``largest`` that was rejected.
    """
    if method == "hommel":
        return alpha / n if largest is None else largest
    if method == "hochberg":
        return alpha / max(n - max(rejected, 1) + 1, 1)
    if method == "none":
        return alpha
    if method == "bonferroni":
        return alpha / n
    if method == "holm":
        return alpha / max(n - rejected, 1)
    share = alpha * max(rejected, 1) / n
    return share / float(np.sum(1 / np.arange(1, n + 1))) if method == "by" else share


def _family_axes(axis: Any, ndim: int, dims: Sequence[Hashable] | None) -> tuple[int, ...]:
    """Positions of the axes along which entries are one family."""
    if isinstance(axis, str) and axis == FAMILIES:
        if dims is not None:
            return tuple(k for k, dim in enumerate(dims) if dim != "term")
        if ndim > 2:
            raise ValueError(
                f"p has {ndim} dimensions, of which any may hold the responses; give axis=, those along which tests "
                "are one family, such as (1, 2) for maps (term, channel, time), or None for all."
            )
        return (0,) if ndim else ()
    if axis is None:
        return tuple(range(ndim))
    if ndim == 0:
        return ()
    made = []
    for one in axis if isinstance(axis, (tuple, list)) and axis else (axis,):
        if dims is not None and isinstance(one, Hashable) and one in dims:
            made.append(list(dims).index(one))
        elif dims is not None and isinstance(one, str):
            raise ValueError(f"axis is {one!r}, but the dimensions of p are {', '.join(map(repr, dims))}.")
        else:
            made.append(check_integer("axis", one, -ndim, ndim - 1, f"; p has {ndim} dimensions") % ndim)
    return tuple(dict.fromkeys(made))


def _adjust_rows(rows: np.ndarray, adjust: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Adjusted p-values of families in rows."""
    # Sorting puts NaN last, so that rows with as many tests can be adjusted together.
    order = np.argsort(rows, axis=1, kind="stable")
    n_tests = np.sum(~np.isnan(rows), axis=1)
    out = np.full(rows.shape, np.nan)
    for n in np.unique(n_tests[n_tests > 0]):
        where = np.flatnonzero(n_tests == n)[:, None]
        at = order[where[:, 0], :n]
        out[where, at] = adjust(rows[where, at])
    return out


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


def _hochberg(p: np.ndarray) -> np.ndarray:
    n = p.shape[1]
    return np.minimum(np.minimum.accumulate((p * (n - np.arange(n)))[:, ::-1], axis=1)[:, ::-1], 1.0)


def _hommel(p: np.ndarray) -> np.ndarray:
    """The closed test by Simes' tests: p_k becomes the largest min(i p_k, s_i) over i = 1 ... n, s_i the p-value of
    Simes' test of the i largest (Meijer, Krebs & Goeman 2019, Stat Appl Genet Mol Biol 18(1))."""
    n = p.shape[1]
    number = np.arange(1, n + 1)
    simes = _simes_few(p) if n <= FEW else np.stack([_simes_many(row) for row in p])
    if n <= FEW:
        return np.asarray(np.minimum(p[:, :, None] * number, simes[:, None, :]).max(axis=2))
    # i p_k grows with i, so that of later i the largest s_i counts, which falls; they cross where s_i / i passes p_k.
    simes = np.maximum.accumulate(simes[:, ::-1], axis=1)[:, ::-1]
    out = np.empty_like(p)
    for row, s, made in zip(p, simes, out, strict=True):
        i = np.searchsorted(-s / number, -row, side="right")
        made[:] = np.maximum(i * row, s[np.minimum(i, n - 1)] * (i < n))
    return out


def _simes_few(p: np.ndarray) -> np.ndarray:
    """Simes' p-values (c, n) of the 1, 2, ... n largest of each row."""
    n = p.shape[1]
    return np.stack([i * np.min(p[:, n - i :] / np.arange(1, i + 1), axis=1) for i in range(1, n + 1)], axis=1)


def _simes_many(p: np.ndarray) -> np.ndarray:
    """The same of one row. s_i / i is the least slope from (n - i, 0) to the points (k, p_k) beyond it: a tangent of
    their lower hull, whose point of contact moves left with n - i, so that each point is passed by once."""
    n = len(p)
    hull: collections.deque[tuple[int, float]] = collections.deque()
    out = np.empty(n)
    for a in range(n - 1, -1, -1):
        new = (a + 1, float(p[a]))
        while len(hull) > 1 and (hull[0][1] - new[1]) * (hull[1][0] - new[0]) >= (hull[1][1] - new[1]) * (
            hull[0][0] - new[0]
        ):
            hull.popleft()
        hull.appendleft(new)
        while len(hull) > 1 and hull[-2][1] * (hull[-1][0] - a) <= hull[-1][1] * (hull[-2][0] - a):
            hull.pop()
        out[n - 1 - a] = (n - a) * hull[-1][1] / (hull[-1][0] - a)
    return out


ADJUSTMENTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bh": _false_discovery("bh"),
    "fdr": _false_discovery("bh"),
    "by": _false_discovery("by"),
    "bonferroni": _bonferroni,
    "holm": _holm,
    "hochberg": _hochberg,
    "hommel": _hommel,
    "none": np.copy,
}
