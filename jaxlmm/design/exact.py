"""Sums of products that are rounded once.

A covariate far from zero has an intercept that is the difference of two large numbers. Formed in twice the working
precision, it is right to its last digit (two-sum and two-product: Ogita, Rump & Oishi 2005, SIAM J Sci Comput
26:1955-1988).
"""

from __future__ import annotations

import numpy as np

__all__ = ["add_products", "residuals"]

SPLIT = 2.0**27 + 1


def add_products(a: np.ndarray, S: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a + S @ b`` for a (k, ...), S (k, p) with few elements that are not zero, and b (p, ...)."""
    out = np.array(a, dtype=np.float64)
    with np.errstate(all="ignore"):  # responses without a fit
        for i in np.flatnonzero(S.any(axis=1)):
            total, below = out[i], np.zeros_like(out[i])
            for j in np.flatnonzero(S[i]):
                product, error = _two_product(S[i, j], b[j])
                total, lost = _two_sum(total, product)
                below = below + (error + lost)
            exact = total + below
            there = np.isfinite(exact)
            out[i] = exact if there.all() else np.where(there, exact, out[i] + np.tensordot(S[i], b, axes=1))
    return out


def residuals(y: np.ndarray, X: np.ndarray, coef: np.ndarray, level: np.ndarray | float = 0.0) -> np.ndarray:
    """``y - level - X coef`` in twice the working precision: y and level (n, c), X (n, p), coef (p, c)."""
    with np.errstate(all="ignore"):  # the caller looks at what is finite
        total, below = _two_sum(y, -np.asarray(level))
        for x, b in zip(X.T, coef, strict=True):
            product, error = _two_product(x[:, None], -b)
            total, lost = _two_sum(total, product)
            below += error + lost
        exact = total + below
        return np.where(np.isfinite(exact), exact, y - level - X @ coef)


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded sum, and what was rounded away (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded product, and what was rounded away (Dekker, Veltkamp)."""
    product = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _split(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    large = SPLIT * a
    high = large - (large - a)
    return high, a - high
