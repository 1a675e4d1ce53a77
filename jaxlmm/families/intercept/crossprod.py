"""A design as cross-products: its orthonormal basis of [Z, X], and X in that basis.

The columns of Z N^(-1/2) (Z: group indicators, N: group sizes) and of Qw (an orthonormal basis
of X centred within groups) are orthonormal together and span the columns of [Z, X]. Call their
matrix B (n_obs, G + pw). In the coordinates B'y the model is a regression on B'X with
independent errors of variance sigma2 (1 + lam n_g) and sigma2, and what B leaves of y belongs
to the residual alone. With weights w the same holds after every row is multiplied by the root of
its weight: Z holds the roots, N their sums of squares, that is, sums of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from jaxlmm.design.columns import Columns
from jaxlmm.design.design import Design
from jaxlmm.design.identifiability import orthonormal_basis
from jaxlmm.design.within import centred_within

__all__ = ["Projection", "project_design"]


@dataclass(frozen=True, eq=False)
class Projection:
    """A design's basis B; depends on X and groups alone.

    Attributes
    ----------
    n_obs : int
    X : ndarray, (n_obs, p)
        As the user gave it.
    codes : ndarray of int, (n_obs,)
    sizes : ndarray of float, (G,)
        Numbers of rows, or sums of weights.
    root_w : ndarray, (n_obs,), or None
    columns : Columns
        X with centred columns of norm 1, which stands for X below.
    x_star : ndarray, (G + pw, p)
        B'X.
    x_mean : ndarray, (G, p)
        Group means of X.
    Qw : ndarray, (n_obs, pw)
    Zt : sparse array, (G, n_obs)
        N^(-1/2) Z', for rows multiplied by root_w.
    """

    n_obs: int
    X: np.ndarray
    codes: np.ndarray
    sizes: np.ndarray
    root_w: np.ndarray | None
    columns: Columns
    x_star: np.ndarray
    x_mean: np.ndarray
    Qw: np.ndarray
    Zt: scipy.sparse.csr_array

    @property
    def n_groups(self) -> int:
        """Number of groups, G."""
        return len(self.sizes)

    @property
    def n_within(self) -> int:
        """Rank of X centred within groups, pw."""
        return self.Qw.shape[1]

    @property
    def n_rest(self) -> int:
        """Degrees of freedom that B leaves: n_obs - G - pw."""
        return self.n_obs - len(self.x_star)

    def to_coords(self, V: np.ndarray) -> np.ndarray:
        """B'V, (n_obs, c) -> (G + pw, c)."""
        V = np.ascontiguousarray(V)
        return np.concatenate([self.Zt @ V, self.Qw.T @ V])

    def from_coords(self, C: np.ndarray) -> np.ndarray:
        """B C, (G + pw, c) -> (n_obs, c)."""
        G = self.n_groups
        spread = self.Qw @ C[G:]
        if G:
            rows = (C[:G] / np.sqrt(self.sizes)[:, None])[self.codes]
            spread += self.weighted(rows)
        return spread

    def weighted(self, V: np.ndarray) -> np.ndarray:
        """Rows of V (n_obs, c) multiplied by the roots of their weights."""
        return V if self.root_w is None else V * self.root_w[:, None]


def project_design(design: Design) -> Projection:
    """Build the basis B of a design (see the module's docstring)."""
    n, p = design.X.shape
    root_w, columns = design.root_w, design.columns
    root = np.ones(n) if root_w is None else root_w
    sizes: np.ndarray
    if design.random:
        codes, G = design.random[0].codes, len(design.random[0].levels)
        sizes = np.bincount(codes, weights=root**2, minlength=G)
        x_mean, within = centred_within(columns.unit, codes, G, root_w)
        Zt = scipy.sparse.csr_array((root / np.sqrt(sizes)[codes], (codes, np.arange(n))), shape=(G, n))
    else:
        codes, sizes = np.zeros(n, dtype=np.intp), np.zeros(0)
        x_mean, within = np.zeros((0, p)), root[:, None] * columns.unit
        Zt = scipy.sparse.csr_array((1, n))[:0]
    Qw = orthonormal_basis(within)
    x_star = np.concatenate([np.sqrt(sizes)[:, None] * x_mean, Qw.T @ within])
    return Projection(n, design.X, codes, sizes, root_w, columns, x_star, x_mean, Qw, Zt)
