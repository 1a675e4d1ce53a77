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

from jaxlmm.design.identifiability import rounding

__all__ = ["Basis", "Columns", "make_columns"]

# A column whose spread is a smaller part of its size than this is constant, whatever its last digits say.
CONSTANT_TOL = 1e-13
# Columns are centred by another if they are its multiple but for this part.
NEAR = 1e-2
# How far from 1 a combination of columns may be, to be the constant.
ONE_TOL = 1e-9


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

    def user_coef(self, unit_coef: np.ndarray) -> np.ndarray:
        """Coefficients (p, ...) of the user's X from those of the columns of norm 1."""
        coef = (unit_coef.T / self.scale).T
        return np.asarray(coef - np.tensordot(self.shift, coef, axes=1))

    def unit_coef(self, coef: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`user_coef`."""
        return np.asarray(((coef + np.tensordot(self.shift, coef, axes=1)).T * self.scale).T)

    def unit_contrast(self, L: np.ndarray) -> np.ndarray:
        """Contrasts (q, p) of the coefficients of norm 1 that are L (q, p) of the user's."""
        return np.asarray((L - L @ self.shift) / self.scale)


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

    def coef(self, b: np.ndarray) -> np.ndarray:
        """Coefficients (p, ...) of the user's X from those of Q."""
        flat = scipy.linalg.solve_triangular(self.R, b.reshape(len(b), -1), check_finite=False)
        return self.columns.user_coef(flat.reshape(b.shape))

    def contrast(self, L: np.ndarray) -> np.ndarray:
        """Contrasts (q, p) of the coefficients of Q that are L (q, p) of the user's."""
        unit = self.columns.unit_contrast(np.asarray(L, dtype=np.float64))
        return np.asarray(scipy.linalg.solve_triangular(self.R, unit.T, trans="T", check_finite=False).T)

    @property
    def logdet(self) -> float:
        """log|X'X| of the user's X, in the metric of the weights."""
        return 2 * float(np.sum(np.log(np.abs(np.diag(self.R)))) + np.sum(np.log(self.columns.scale)))


def make_columns(X: np.ndarray, root_w: np.ndarray | None = None) -> Columns:
    """Centre and scale the columns of X (n_obs, p), in the metric of the squares of ``root_w``."""
    n, p = X.shape
    w = np.ones(n) if root_w is None else root_w
    largest = np.max(np.abs(X), axis=0)
    constant = _constant(X, largest)
    shift, unit = np.zeros((p, p)), X / largest
    for column, (other, multiple) in _neighbours(X, largest).items():
        shift[other, column] = multiple
        unit[:, column] = _difference(X[:, column], multiple * X[:, other]) / largest[column]
    if constant is not None:
        # What makes up the constant, or is subtracted from others, stays as it is; the rest can be centred.
        free = (constant == 0) & ~shift.any(axis=0) & ~shift.any(axis=1)
        mean = np.clip(np.mean(unit, axis=0), -1.0, 1.0) * largest
        # A mean within the column's own spread gains nothing, and costs roundings.
        for j in np.flatnonzero(free & (np.abs(mean) > np.max(np.abs(X - mean), axis=0))):
            shift[:, j] = mean[j] * constant
            unit[:, j] = _difference(X[:, j], mean[j]) / largest[j]
    norms = np.linalg.norm(w[:, None] * unit, axis=0)
    safe = np.where(norms > 0, norms, 1.0)
    return Columns(unit / safe, safe * largest, shift, constant)


def _difference(x: np.ndarray, near: np.ndarray | float) -> np.ndarray:
    """x less what it is near to, 0 where that is the whole of it but for roundings."""
    left = x - near
    return left if np.max(np.abs(left)) > CONSTANT_TOL * np.max(np.abs(x)) else np.zeros_like(x)


def _neighbours(X: np.ndarray, largest: np.ndarray) -> dict[int, tuple[int, float]]:
    """Columns j that are nearly c times a column k of values 0 and +-v: {j: (k, c)}."""
    size = np.abs(X) / largest
    steady = np.array([np.min(s[s > 0]) > 1 - NEAR for s in size.T])  # not zero, then nearly the same
    even = np.array([bool(np.all((s == 0) | (s == 1))) for s in size.T])
    found: dict[int, tuple[int, float]] = {}
    for j in np.flatnonzero(steady & ~even):
        for k in np.flatnonzero(even):
            there = X[:, k] != 0
            if np.array_equal(there, X[:, j] != 0):
                ratio = X[there, j] / X[there, k]
                if np.ptp(ratio) < NEAR * np.max(np.abs(ratio)):
                    found[int(j)] = int(k), float(ratio[0] + np.mean(ratio - ratio[0]))
                    break
    return found


def _constant(X: np.ndarray, largest: np.ndarray) -> np.ndarray | None:
    """The coefficients a with X a = 1, exact where a column is constant or the columns are indicators; else None."""
    n, p = X.shape
    same = np.flatnonzero((X == X[0]).all(axis=0))
    a = np.zeros(p)
    if len(same):
        a[same[0]] = 1 / X[0, same[0]]
        return a
    unit = X / largest
    found = np.linalg.lstsq(unit, np.ones(n), rcond=None)[0]
    if np.max(np.abs(unit @ found - 1)) > ONE_TOL:
        return None
    # Columns that have no part in it have roundings for coefficients, which a large shift would bring to light.
    found[np.abs(found) < max(rounding(n), ONE_TOL) * np.max(np.abs(found))] = 0.0
    for digits in (0, 6, 12):
        tidy = np.round(found / largest, digits)
        if np.max(np.abs(X @ tidy - 1)) <= 4 * np.finfo(float).eps:
            return np.asarray(tidy)
    return np.asarray(found / largest)
