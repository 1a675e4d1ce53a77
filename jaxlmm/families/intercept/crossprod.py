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
import scipy.linalg
import scipy.sparse

from jaxlmm.design.design import Design

__all__ = ["Projection", "project_design"]


@dataclass(frozen=True, eq=False)
class Projection:
    """A design's basis B; depends on X and groups alone.

    Attributes
    ----------
    n_obs : int
    codes : ndarray of int, (n_obs,)
    sizes : ndarray of float, (G,)
        Numbers of rows, or sums of weights.
    root_w : ndarray, (n_obs,), or None
    x_scale : ndarray, (p,)
        Norms of X's columns; inside, X has unit columns.
    x_star : ndarray, (G + pw, p)
        B'X, with unit columns of X.
    x_mean : ndarray, (G, p)
        Group means of X, with unit columns of X.
    Qw : ndarray, (n_obs, pw)
    intercept : ndarray, (p,), or None
        Coefficients a with X a = 1 for unit columns of X, if the constant is in the span of X.
    Zt : sparse array, (G, n_obs)
        N^(-1/2) Z', for rows multiplied by root_w.
    """

    n_obs: int
    codes: np.ndarray
    sizes: np.ndarray
    root_w: np.ndarray | None
    x_scale: np.ndarray
    x_star: np.ndarray
    x_mean: np.ndarray
    Qw: np.ndarray
    intercept: np.ndarray | None
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
    w = np.ones(n) if design.weights is None else design.weights
    root_w = np.sqrt(w)
    x_scale = np.linalg.norm(root_w[:, None] * design.X, axis=0)
    X = design.X / x_scale
    rows = np.arange(n)
    sizes: np.ndarray
    if design.random:
        codes, G = design.random[0].codes, len(design.random[0].levels)
        sizes = np.bincount(codes, weights=w, minlength=G)
        # Differences to the group's first row are exactly 0 for a group-level covariate.
        first = np.full(G, n)
        np.minimum.at(first, codes, rows)
        delta = X - X[first[codes]]
        indicator = scipy.sparse.csr_array((w, (codes, rows)), shape=(G, n))
        delta_mean = (indicator @ delta) / sizes[:, None]
        x_mean = X[first] + delta_mean
        within = root_w[:, None] * (delta - delta_mean[codes])
        Zt = scipy.sparse.csr_array((root_w / np.sqrt(sizes)[codes], (codes, rows)), shape=(G, n))
    else:
        codes, sizes = np.zeros(n, dtype=np.intp), np.zeros(0)
        x_mean, within = np.zeros((0, p)), root_w[:, None] * X
        Zt = scipy.sparse.csr_array((1, n))[:0]
    Qw = _orthonormal_basis(within)
    x_star = np.concatenate([np.sqrt(sizes)[:, None] * x_mean, Qw.T @ within])
    intercept = np.linalg.lstsq(X, np.ones(n), rcond=None)[0]
    if np.max(np.abs(X @ intercept - 1)) > 1e-9:
        intercept = None
    kept_w = None if design.weights is None else root_w
    return Projection(n, codes, sizes, kept_w, x_scale, x_star, x_mean, Qw, intercept, Zt)


def _orthonormal_basis(W: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the columns of W; a column below its own rounding errors counts as 0."""
    n = W.shape[0]
    norms = np.linalg.norm(W, axis=0)
    kept = norms > 8 * np.finfo(np.float64).eps * np.sqrt(n)
    if not kept.any():
        return np.zeros((n, 0))
    Q, R, _ = scipy.linalg.qr(W[:, kept] / norms[kept], mode="economic", pivoting=True, check_finite=False)
    rank = int(np.sum(np.abs(np.diag(R)) > 1e-9))
    return np.ascontiguousarray(Q[:, :rank])
