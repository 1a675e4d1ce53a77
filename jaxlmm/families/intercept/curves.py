"""Covariances of contrasts and the log-determinant of one random intercept, with derivatives in the variance ratio.

With lam the variance ratio and C(lam) = (Q'V^-1 Q)^-1 for V = I + lam ZZ' (so vcov = sigma2 C), for
rows L of contrasts of the coefficients of X's basis (see ``spectrum`` for f_j, d_j and F0):

    L C L'   = L L' + lam (L F0)(L F0)' + sum_j (L f_j)(L f_j)' / d_j * lam / (1 + lam d_j)
    L C' L'  = (L F0)(L F0)' + sum_j (L f_j)(L f_j)' / d_j / (1 + lam d_j)^2
    L C'' L' = -2 sum_j (L f_j)(L f_j)' / (1 + lam d_j)^3

and for the log-determinant l(lam) = sum_k m_k log(1 + lam d_k).
"""

from __future__ import annotations

import numpy as np

from jaxlmm.families.base import Curves
from jaxlmm.families.intercept.objective import Terms
from jaxlmm.families.intercept.spectrum import Spectrum
from jaxlmm.runtime.threads import by_chunks

__all__ = ["information", "spectral_curves"]

# Responses whose (J, c) arrays are formed at once.
CHUNK = 4096


def spectral_curves(spectrum: Spectrum, lam: np.ndarray, L: np.ndarray, *, joint: bool) -> Curves:
    """Curves at lam (m,) of contrasts L (q, p) of the coefficients of the basis; k = 1."""
    q, m = len(L), len(lam)
    # Bring products of pairs of contrasts to one axis; it is the diagonal alone if not joint.
    first, second = np.indices((q, q)).reshape(2, -1) if joint else np.tile(np.arange(q), (2, 1))
    constant = np.einsum("ki,ki->k", L[first], L[second])
    Lf, Lf0 = L @ spectrum.f, L @ spectrum.f0
    linear = np.einsum("ki,ki->k", Lf0[first], Lf0[second])
    pairs = Lf[first] * Lf[second]
    d = np.where(spectrum.d > 0, spectrum.d, 1.0)  # where d is 0, f is 0: padding
    value, slope, bend = (np.empty((m, len(first))) for _ in range(3))
    by_d, by_f = np.ascontiguousarray((pairs / d).T), np.ascontiguousarray(-2 * pairs.T)

    def fill(rows: slice) -> None:
        at = lam[rows]
        r = 1 / (1 + at[:, None] * spectrum.d)
        value[rows] = constant + at[:, None] * linear + at[:, None] * (r @ by_d)
        r2 = r * r
        slope[rows] = linear + r2 @ by_d
        bend[rows] = (r2 * r) @ by_f

    by_chunks(m, CHUNK, fill)
    shape = (q, q) if joint else (q,)
    return Curves(value.reshape(m, *shape), slope.reshape(m, 1, *shape), bend.reshape(m, 1, 1, *shape))


def information(terms: Terms, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """l' (m,) and l'' (m,) of the method of ``terms``: sums of m d / (1 + lam d) and -m d^2 / (1 + lam d)^2."""
    d, multiplicity = np.asarray(terms.d), np.asarray(terms.m)
    l1, l2 = np.empty(len(lam)), np.empty(len(lam))

    def fill(rows: slice) -> None:
        w = d / (1 + lam[rows, None] * d)
        l1[rows] = w @ multiplicity
        l2[rows] = -(w * w) @ multiplicity

    by_chunks(len(lam), CHUNK, fill)
    return l1, l2
