"""The columns of X as everything inside sees them: centred, and of norm 1.

A covariate far from zero (a time stamp, a year) makes cross-products lose digits as the square of mean / spread. So
x - c stands for x where the constant lies in the span of X, and x - c k where x is nearly c times a column k, as in
the interaction of a time stamp with a factor. Such differences are exact, the span is the same, and

    X = X_c (I + S),      coef = (I - S) coef_c,

with S (p, p) the multiples of other columns that were subtracted; what is subtracted is not centred itself.
An orthonormal basis Q of the columns, X_c = Q R diag(scale), takes it from there (``Basis``): covariances are those
of the coefficients of Q, and a contrast of the user's coefficients becomes one of these by a triangular solve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from jaxlmm.design.exact import add_products
from jaxlmm.runtime.threads import single_threaded_blas

__all__ = ["Basis", "Columns", "make_columns"]

# A column whose spread is a smaller part of its size than this is constant, whatever its last digits say.
CONSTANT_TOL = 1e-13
# Columns are centred by another if they are its multiple but for this part.
NEAR = 1e-2
# How far from 1 a combination of columns may be, to be the constant: it stands for a large shift of a response.
ONE_TOL = 4 * float(np.finfo(np.float64).eps)
# Smaller coefficients of that combination, relative to the largest, are tried as 0.
TIDY_TOL = 1e-9


@dataclass(frozen=True, eq=False)
class Columns:
    """Centred columns of norm 1.

    Attributes
    ----------
    unit : ndarray, (n_obs, p)
        The centred columns over ``scale``; rows are not multiplied by weights.
    scale : ndarray, (p,)
        Norms of the centred columns, in the metric of the weights.
    shift : ndarray, (p, p)
        S: column j is X[:, j] - X S[:, j] before it is scaled.
    constant : ndarray, (p,), or None
        The coefficients a with X a = 1, if the constant lies in the span of X.
    """

    unit: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    constant: np.ndarray | None

    @property
    def far(self) -> bool:
        """Whether any column was centred."""
        return bool(self.shift.any())

    def user_coef(self, unit_coef: np.ndarray, level: np.ndarray | None = None) -> np.ndarray:
        """Coefficients (p, c) of the user's X from those of the columns of norm 1, and a constant ``level`` (c,)."""
        coef = (unit_coef.T / self.scale).T
        if level is None or self.constant is None:
            return add_products(coef, -self.shift, coef)
        # All in one sum: large numbers that cancel are rounded once.
        whole = np.concatenate([coef, level[None]])
        return add_products(coef, np.concatenate([-self.shift, self.constant[:, None]], axis=1), whole)

    def unit_coef(self, coef: np.ndarray, level: np.ndarray | None = None) -> np.ndarray:
        """The inverse of :meth:`user_coef`."""
        if level is None or self.constant is None:
            found = add_products(coef, self.shift, coef)
        else:
            whole, one = np.concatenate([coef, level[None]]), self.constant + self.shift @ self.constant
            found = add_products(coef, np.concatenate([self.shift, -one[:, None]], axis=1), whole)
        return np.asarray((found.T * self.scale).T)

    def unit_contrast(self, L: np.ndarray) -> np.ndarray:
        """Contrasts (q, p) of the coefficients of norm 1 that are L (q, p) of the user's; rows of X are such."""
        return np.asarray(add_products(L.T, -self.shift.T, L.T).T / self.scale)

    def product(self, L: np.ndarray, coef: np.ndarray) -> np.ndarray:
        """L coef (q, c) for rows L (q, p), such as those of X, and coefficients (p, c), all of the user's X."""
        return np.asarray(self.unit_contrast(L) @ self.unit_coef(coef) if self.far else L @ coef)


@dataclass(frozen=True, eq=False)
class Basis:
    """An orthonormal basis Q of X: columns of norm 1 are Q R.

    Attributes
    ----------
    columns : Columns
    R : ndarray, (p, p)
        Upper triangular.
    """

    columns: Columns
    R: np.ndarray

    def coef(self, b: np.ndarray, level: np.ndarray | None = None) -> np.ndarray:
        """Coefficients (p, c) of the user's X from those of Q, and a constant ``level`` (c,)."""
        return self.columns.user_coef(_solve_triangular(self.R, b), level)

    def coords(self, coef: np.ndarray, level: np.ndarray | None = None) -> np.ndarray:
        """The inverse of :meth:`coef`."""
        return np.asarray(self.R @ self.columns.unit_coef(coef, level))

    def contrast(self, L: np.ndarray) -> np.ndarray:
        """Contrasts (q, p) of the coefficients of Q that are L (q, p) of the user's."""
        unit = self.columns.unit_contrast(np.asarray(L, dtype=np.float64))
        return _solve_triangular(self.R, unit.T, trans="T").T

    @property
    def logdet(self) -> float:
        """log|X'X| of the user's X, in the metric of the weights."""
        return 2 * float(np.sum(np.log(np.abs(np.diag(self.R)))) + np.sum(np.log(self.columns.scale)))


def _solve_triangular(R: np.ndarray, b: np.ndarray, trans: str = "N") -> np.ndarray:
    # On one thread: those of LAPACK go on taking time for a while after the smallest system.
    with single_threaded_blas():
        return np.asarray(scipy.linalg.solve_triangular(R, b, trans=trans, check_finite=False))


def make_columns(X: np.ndarray, root_w: np.ndarray | None = None) -> Columns:
    """Centre and scale the columns of X (n_obs, p), in the metric of the squares of ``root_w``."""
    largest = np.max(np.abs(X), axis=0)
    constant = _constant(X, largest)
    shift = _neighbours(X, largest)
    if constant is not None:
        # What makes up the constant, or is subtracted from others, stays as it is; the rest can be centred.
        free = (constant == 0) & ~shift.any(axis=0) & ~shift.any(axis=1)
        mean = np.clip(np.mean(X / largest, axis=0), -1.0, 1.0) * largest
        # A mean within the column's own spread gains nothing, and costs roundings.
        far = free & (np.abs(mean) > np.max(np.abs(X - mean), axis=0))
        shift[:, far] = np.outer(constant, mean[far])
    unit = add_products(X.T, -shift.T, X.T).T / largest
    unit[:, shift.any(axis=0) & (np.max(np.abs(unit), axis=0) <= CONSTANT_TOL)] = 0.0
    norms = np.linalg.norm(unit if root_w is None else root_w[:, None] * unit, axis=0)
    safe = np.where(norms > 0, norms, 1.0)
    return Columns(unit / safe, safe * largest, shift, constant)


def _neighbours(X: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """What to subtract from columns that are nearly a combination of columns of values 0 and +-v; S (p, p)."""
    size = np.abs(X) / largest
    even = np.flatnonzero(np.all((size == 0) | (size == 1), axis=0))
    if not len(even):
        return np.zeros((X.shape[1],) * 2)
    steady = np.array([np.min(s[s > 0]) > 1 - NEAR for s in size.T])  # not zero, then nearly the same
    steady[even] = False
    shift = np.zeros((X.shape[1],) * 2)
    signs = np.sign(X[:, even])
    for j in np.flatnonzero(steady):
        pattern = np.sign(X[:, j])
        # The pattern of one column, or a sum of several: 1 - k for k.
        same = np.flatnonzero(np.all(signs == pattern[:, None], axis=0))
        opposite = np.flatnonzero(np.all(signs == -pattern[:, None], axis=0))
        parts = np.zeros(len(even))
        if len(same) or len(opposite):
            parts[[*same, *opposite][0]] = 1.0 if len(same) else -1.0
        else:
            parts[:] = np.round(np.linalg.lstsq(signs, pattern, rcond=None)[0])
        if np.array_equal(signs @ parts, pattern):
            shift[even, j] = parts * np.mean(size[pattern != 0, j]) * largest[j] / largest[even]
    return shift


def _constant(X: np.ndarray, largest: np.ndarray) -> np.ndarray | None:
    """The coefficients a with X a = 1, exact where a column is constant or the columns are indicators; else None."""
    n, p = X.shape
    same = np.flatnonzero((X == X[0]).all(axis=0))
    a = np.zeros(p)
    if len(same):
        a[same[0]] = 1 / X[0, same[0]]
        return a
    unit = X / largest
    found, *_ = np.linalg.lstsq(unit, np.ones(n), rcond=None)
    found += np.linalg.lstsq(unit, add_products(np.ones((1, n)), -found[None], unit.T)[0], rcond=None)[0]
    # Columns that have no part in it have roundings for coefficients, which a large shift would bring to light.
    tidy = np.where(np.abs(found) < TIDY_TOL * np.max(np.abs(found)), 0.0, found) / largest
    for a in (np.round(tidy), np.round(tidy, 6), np.round(tidy, 12), tidy, found / largest):
        left = add_products(np.full((1, n), -1.0), a[None], X.T)
        if np.max(np.abs(left)) <= ONE_TOL * max(np.max(np.abs(X) @ np.abs(a)), 1.0):
            return np.asarray(a)
    return None
