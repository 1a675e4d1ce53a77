"""A basis of X that suits every variance ratio: columns that vary within groups, then columns that do not.

The generalised singular value decomposition of X's parts within and between groups: in it the cross-products
of either part are diagonal, so that X'V^-1 X is close to diagonal at any variance ratio (and diagonal where
groups are of one size). The first pw columns have norm 1 within groups. The others have nothing there, and norm 1
between groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from jaxlmm.design.columns import Basis, Columns
from jaxlmm.design.exact import residuals
from jaxlmm.families.intercept.crossprod import Projection

__all__ = ["SplitBasis"]


@dataclass(frozen=True, eq=False)
class SplitBasis:
    """Columns that span X, in coordinates of a projection's basis B.

    Attributes
    ----------
    within : ndarray, (pw, pw)
        Orthonormal: the part within groups of the first pw columns, in coordinates on ``Projection.Qw``.
    between : ndarray, (G, p)
        Roots of the groups' sizes times the group means of the columns.
    columns : Columns
    unit : ndarray, (p, p)
        From coefficients of the basis to those of the centred columns of X (not of norm 1).
    logdet : float
        log|X'X| of the user's X, less that of the columns.
    smallest : float
        The least part of a column's norm that lies within groups, of those that count as varying there.
    """

    within: np.ndarray
    between: np.ndarray
    columns: Columns
    unit: np.ndarray
    logdet: float
    smallest: float

    def solve(self, coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least squares of coordinates (G + pw, c) on B: first within groups, then of what that leaves of the means.

        Returns
        -------
        coef : ndarray, (p, c)
            Of this basis.
        left : ndarray, (G, c)
            Of the roots of the groups' sizes times their means.
        """
        G, pw = len(self.between), len(self.within)
        first = self.within.T @ coords[G:]
        left = coords[:G] - self.between[:, :pw] @ first
        last = self.between[:, pw:].T @ left
        return np.concatenate([first, last]), left - self.between[:, pw:] @ last

    def subtract(
        self, y: np.ndarray, projection: Projection, coef: np.ndarray, shift: np.ndarray, level: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take a fit off y (n_obs, c) exactly, so that what is left holds all its digits.

        Parameters
        ----------
        coef : ndarray, (p, c)
            Of this basis.
        shift : ndarray, (c,)
            A constant, 0 if X does not span it.
        level : ndarray, (G, c)
            Of the groups.

        Returns
        -------
        start : ndarray, (p, c)
            The coefficients of the user's X that were taken off: as rounded, so that they are exact.
        left : ndarray, (n_obs, c)
        """
        start = self.columns.user_coef(self.columns.scale[:, None] * (self.unit @ coef), shift)
        return start, residuals(y, projection.X, start, level[projection.codes] if len(level) else 0.0)

    @classmethod
    def make(cls, projection: Projection) -> SplitBasis:
        G, pw = projection.n_groups, projection.n_within
        columns = projection.columns
        Q, R = np.linalg.qr(projection.x_star)
        left, values, right = np.linalg.svd(Q[G:])
        norms = np.ones(len(R))
        norms[:pw] = values[:pw]
        rotation = right.T / norms
        unit = scipy.linalg.solve_triangular(R, rotation, check_finite=False) / columns.scale[:, None]
        logdet = Basis(columns, R).logdet + 2 * float(np.sum(np.log(norms)))
        return cls(left, Q[:G] @ rotation, columns, unit, logdet, float(np.min(norms)))
