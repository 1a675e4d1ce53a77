"""Upper tail of the largest of several correlated |t|, for many responses at once.

P(max_i |T_i| > c) for T = Z / s, Z normal with correlations R (q, q) and s^2 df chi-square, as multcomp's single-step
tests and emmeans' "mvt" have it (Hothorn, Bretz & Westfall 2008, Biom J 50:346-363). It is the union of q events of
known probability p, and

    P(union) = p sum_i E[1 / number of j with |T_j| > c, given T_i > c]

(Owen, Maximov & Chertkov 2019, Electron J Stat 13:231-254): the relative error is bounded however small the tail is,
and R may be singular. s is drawn as it is where T_i is about c (s^2 (df + c^2) is chi-square, by Wilson & Hilferty's
cube, with weights for what that lacks), Z_i from the normal tail beyond c s, and the others are R_i Z_i and a normal
residual; all along Richtmyer's lattice, the same for all responses. The result is good to about 1 percent, relative
(tests/inference/test_adjustments.py).
"""

from __future__ import annotations

import numpy as np
import scipy.special

__all__ = ["largest_tail"]

POINTS = 2039
# Values formed at once.
CHUNK = 4_000_000
# Two t that are the same but for rounding exceed c together.
SAME = 1e-9


def largest_tail(c: np.ndarray, R: np.ndarray, df: np.ndarray) -> np.ndarray:
    """P(max |T| > c).

    Parameters
    ----------
    c : ndarray, (m, j)
        Several for each response.
    R : ndarray, (m, q, q)
        Correlations; may be singular.
    df : ndarray, (m, j)
        Degrees of freedom; infinity for a normal distribution.
    """
    out = np.full(c.shape, np.nan)
    good = np.flatnonzero(np.isfinite(R).all(axis=(1, 2)))
    step = max(1, CHUNK // (POINTS * max(R.shape[1], 1)))
    for start in range(0, len(good), step):
        at = good[start : start + step]
        values, vectors = np.linalg.eigh(R[at])
        root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        for j in range(c.shape[1]):
            out[at, j] = _tail(np.abs(c[at, j]), R[at], root, df[at, j])
    return out


def _lattice(q: int) -> np.ndarray:
    """Points in the unit cube (q, n), by Richtmyer's rule with the baker's transformation."""
    primes = [p for p in range(2, 40 * (q + 1)) if all(p % d for d in range(2, int(p**0.5) + 1))]
    steps = np.sqrt(np.array(primes[:q], dtype=float))[:, None] * np.arange(1, POINTS + 1)
    return np.asarray(np.clip(np.abs(2 * (steps % 1) - 1), 1e-12, 1 - 1e-12))


def _tail(c: np.ndarray, R: np.ndarray, root: np.ndarray, df: np.ndarray) -> np.ndarray:
    q = R.shape[1]
    u = _lattice(q + 2)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
        p = np.where(np.isposinf(df), scipy.special.ndtr(-c), scipy.special.stdtr(df, -c))
        s, weight = _scales(c[:, None], df[:, None], scipy.special.ndtri(u[0]))
        alone = -scipy.special.ndtri(u[1] * scipy.special.ndtr(-c[:, None] * s))  # beyond c s, (m, n)
        Z = root @ scipy.special.ndtri(u[2:])  # (m, q, n)
        total = np.zeros(len(c))
        limit = (c[:, None] * s * (1 - SAME))[:, None, :]
        for i in range(q):
            shifted = Z + R[:, :, i, None] * (alone - Z[:, i])[:, None, :]
            beyond = np.sum(np.abs(shifted) > limit, axis=1)
            total += np.sum(weight / np.maximum(beyond, 1), axis=-1)
        found = np.minimum(2 * p * np.clip(total / weight.sum(axis=-1), 1.0, q), 1.0)
    return np.where(np.isinf(c), 0.0, np.where(np.isnan(c) | np.isnan(df), np.nan, found))


def _scales(c: np.ndarray, df: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s given that T_i exceeds c, at normal quantiles z, with their weights."""
    root = np.sqrt(2 / (9 * df))
    a = np.maximum(1 - root**2 + root * z, 0.0)
    x = df * a**3
    s = np.sqrt(x / (df + c * c))
    log_ratio = (df / 2 - 1) * np.log(x / df) - (x - df) / 2 + 2 * np.log(a) + z * z / 2
    weight = np.where(a > 0, np.exp(log_ratio) * scipy.special.erfcx(c * s / np.sqrt(2)), 0.0)
    known = np.isposinf(df)
    return np.where(known, 1.0, s), np.where(known, 1.0, weight)
