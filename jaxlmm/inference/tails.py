"""The far tails of t and normal distributions, where p-values are too small for floating point: their logarithms."""

from __future__ import annotations

import numpy as np
import scipy.special

from jaxlmm.inference.distributions import pvalues

__all__ = ["log_pvalues", "neglog10_pvalues", "zscores"]

# Below this p-values lose digits as they come near the smallest numbers; their logarithms are computed from the tail.
FAR = 1e-280
# Steps of the continued fraction, and the change of its value at which it has converged.
STEPS, PRECISION = 2000, 1e-15


def neglog10_pvalues(stat: np.ndarray, df: np.ndarray) -> np.ndarray:
    """-log10 of two-sided p-values of t statistics, right also where these are 0 in floating point."""
    return np.asarray(-log_pvalues(stat, df) / np.log(10.0)) + 0.0  # no -0


def zscores(stat: np.ndarray, df: np.ndarray) -> np.ndarray:
    """The normal deviates with the p-values of t statistics, of their signs."""
    log_half = log_pvalues(stat, df) - np.log(2.0)
    return np.asarray(-np.sign(stat) * scipy.special.ndtri_exp(np.minimum(log_half, -np.log(2.0)))) + 0.0


def log_pvalues(stat: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Natural logarithm of two-sided p-values of t statistics; df = inf is the normal distribution."""
    t, nu = np.broadcast_arrays(np.abs(np.asarray(stat, dtype=np.float64)), np.asarray(df, dtype=np.float64))
    p = pvalues(t, nu)
    with np.errstate(divide="ignore"):
        out = np.array(np.log(p))
    far = (p < FAR) & np.isfinite(t)
    normal = far & np.isposinf(nu)
    out[normal] = np.log(2.0) + scipy.special.log_ndtr(-t[normal])
    far &= ~normal
    if far.any():
        out[far] = _log_beta_tail(t[far], nu[far])
    return out


def _log_beta_tail(t: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """log I_x(nu/2, 1/2) at x = nu / (nu + t^2): the two-sided tail of Student's t.

    By the continued fraction of the incomplete beta function (DLMF 8.17.22), evaluated by Lentz's method in the form
    of Thompson and Barnett (1986); it converges fast here, since x lies far below the mean of the distribution.
    """
    a, b = nu / 2, 0.5
    ratio = 2 * np.log(t) - np.log(nu)  # of t^2 to nu; squares could overflow
    log_x, log_rest = -np.logaddexp(0.0, ratio), -np.logaddexp(0.0, -ratio)
    x = np.exp(log_x)
    front = a * log_x + b * log_rest - np.log(a) - scipy.special.betaln(a, b)
    c = np.ones_like(x)
    d = 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    value = d.copy()
    for m in range(1, STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = np.ones_like(x)
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d)
            c = 1.0 + term / c
            change *= c * d
        value *= change
        if np.all(np.abs(change - 1.0) < PRECISION):
            break
    return np.asarray(front + np.log(value))
