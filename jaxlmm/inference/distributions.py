"""p-values and quantiles of t, F and normal distributions: arrays in, arrays out."""

from __future__ import annotations

import numbers

import numpy as np
import scipy.special

from jaxlmm.runtime.arguments import shown
from jaxlmm.runtime.threads import in_threads

__all__ = ["check_level", "f_pvalues", "f_quantile", "halfwidth", "pvalues"]


def pvalues(stat: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Two-sided p-values of t statistics; df = inf is the normal distribution."""
    return in_threads(_two_sided, stat, df)


def _two_sided(stat: np.ndarray, df: np.ndarray) -> np.ndarray:
    tail, normal = -np.abs(stat), np.isposinf(df)
    if normal.all():
        return 2 * scipy.special.ndtr(tail)
    with np.errstate(invalid="ignore"):
        p = 2 * scipy.special.stdtr(df, tail)
    return np.where(normal, 2 * scipy.special.ndtr(tail), p) if normal.any() else p


def f_pvalues(stat: np.ndarray, df_num: int, df_den: np.ndarray) -> np.ndarray:
    """Upper tail of F statistics; df_den = inf is chi-square / df_num."""
    with np.errstate(invalid="ignore"):
        chi2 = scipy.special.chdtrc(df_num, df_num * stat)
        return np.where(np.isposinf(df_den), chi2, scipy.special.fdtrc(df_num, df_den, stat))


def f_quantile(p: float, df_num: int, df_den: np.ndarray) -> np.ndarray:
    """F statistics whose upper tail is p."""
    with np.errstate(invalid="ignore"):
        chi2 = scipy.special.chdtri(df_num, p) / df_num
        return np.where(np.isposinf(df_den), chi2, scipy.special.fdtri(df_num, df_den, 1 - p))


def check_level(level: float) -> None:
    """ValueError unless ``level`` is a number between 0 and 1."""
    if not isinstance(level, numbers.Real) or not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, found {shown(level)}; 0.95 gives a 95 % interval.")


def halfwidth(level: float, df: np.ndarray) -> np.ndarray:
    """Quantile that a standard error is multiplied by for an interval of this level."""
    check_level(level)
    tail = 0.5 + level / 2
    if df.size and np.all(df == df.flat[0]):
        df = df.flat[:1]  # one quantile for all

    def quantile(df: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.where(np.isposinf(df), scipy.special.ndtri(tail), scipy.special.stdtrit(df, tail))

    return in_threads(quantile, df)
