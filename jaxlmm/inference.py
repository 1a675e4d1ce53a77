"""From the optimum to estimates, standard errors, tests: arrays in, arrays out.

The first three functions use arithmetic and matrix products only, so they take numpy and JAX
arrays alike; the response axis is last in them. Formulas: the docstring of ``spectrum``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.special

from jaxlmm.spectrum import Spectrum

__all__ = [
    "DF_METHODS",
    "coef_unit",
    "df_values",
    "halfwidth",
    "pvalues",
    "se2_weights",
    "vcov_unit",
    "weights",
]

DF_METHODS = ("residual", "normal")


def weights(lam: Any, d: Any) -> Any:
    """lam / (1 + lam d_j), (J, c)."""
    return lam / (1 + lam * d[:, None])


def coef_unit(w: Any, ols: Any, u: Any, f: Any) -> Any:
    """Generalised least squares estimate (p, c), for X with unit columns."""
    return ols - f @ (w * u)


def se2_weights(spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, C) with diag vcov / sigma2 = a + lam b + C w, for X with unit columns."""
    return np.diag(spectrum.xtx_inv), np.diag(spectrum.c0), spectrum.f**2 / _divisor(spectrum.d)


def vcov_unit(spectrum: Spectrum, lam: np.ndarray) -> np.ndarray:
    """vcov / sigma2 (c, p, p), for X with unit columns."""
    p = len(spectrum.R)
    pairs = (spectrum.f[:, None, :] * spectrum.f[None, :, :] / _divisor(spectrum.d)).reshape(p * p, -1)
    varying = (pairs @ weights(lam, spectrum.d)).T.reshape(-1, p, p)
    return spectrum.xtx_inv + lam[:, None, None] * spectrum.c0 + varying


def df_values(method: str, n_obs: int, n_fixef: int, shape: tuple[int, ...]) -> np.ndarray:
    """Degrees of freedom of the t tests: n - p for "residual", infinity for "normal"."""
    return np.full(shape, float(n_obs - n_fixef) if method == "residual" else np.inf)


def pvalues(stat: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Two-sided p-values of t statistics; df = inf is the normal distribution."""
    tail = -np.abs(stat)
    if np.all(np.isposinf(df)):
        return 2 * scipy.special.ndtr(tail)
    with np.errstate(invalid="ignore"):
        return 2 * np.where(np.isposinf(df), scipy.special.ndtr(tail), scipy.special.stdtr(df, tail))


def halfwidth(level: float, df: np.ndarray) -> np.ndarray:
    """Quantile that a standard error is multiplied by for an interval of this level."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, found {level}; 0.95 gives a 95 % interval.")
    tail = 0.5 + level / 2
    with np.errstate(invalid="ignore"):
        return np.where(np.isposinf(df), scipy.special.ndtri(tail), scipy.special.stdtrit(df, tail))


def _divisor(d: np.ndarray) -> np.ndarray:
    return np.where(d > 0, d, 1.0)  # where d is 0, f is 0: padding
