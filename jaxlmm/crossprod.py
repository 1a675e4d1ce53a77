"""One pass over Y: every response becomes its coordinates on [Z, X] and one sum of squares.

The columns of Z N^(-1/2) (Z: group indicators, N: group sizes) and of Qw (an orthonormal basis
of X centred within groups) are orthonormal together and span the columns of [Z, X]. Call their
matrix B (n_obs, G + pw). Then ``B'y`` and ``rest = ||y - BB'y||^2`` are sufficient: in these
coordinates the model is a regression of B'y on B'X with independent errors of variance
sigma2 (1 + lam n_g) and sigma2. ``rest`` comes from a projection and never from a difference of
large numbers, so neither a huge mean nor a huge variance ratio costs digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse

from jaxlmm.design import Design

__all__ = ["Projection", "Stats", "project", "project_design"]

# Up to this many groups B is applied as a dense matrix; above, the indicators stay sparse.
DENSE_GROUPS = 96
# rest = y'y - ||B'y||^2 loses log10(MAX_LOSS) digits at most; past it the residuals are formed.
MAX_LOSS = 1e3
# Responses are handled in panels of about this many bytes, to stay in cache.
PANEL_BYTES = 16 * 2**20
# What is below this many roundings of the largest value is taken as zero.
NOISE = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Projection:
    """A design as its orthonormal basis; depends on X and groups alone.

    Attributes
    ----------
    sizes : ndarray, (G,)
    x_scale : ndarray, (p,)
        Norms of X's columns; inside, X has unit columns.
    x_star : ndarray, (G + pw, p)
        B'X, with unit columns of X.
    x_mean : ndarray, (G, p)
        Group means of X, with unit columns of X.
    n_within : int
        pw, the columns of Qw.
    ones : ndarray, (G + pw,)
        B'1.
    intercept : ndarray, (p,), or None
        Coefficients a with X a = 1, if the constant is in the span of X.
    apply, spread : callable
        V -> B'V (G + pw, c) and C -> BC (n_obs, c).
    """

    n_obs: int
    sizes: np.ndarray
    x_scale: np.ndarray
    x_star: np.ndarray
    x_mean: np.ndarray
    n_within: int
    ones: np.ndarray
    intercept: np.ndarray | None
    apply: Callable[[np.ndarray], np.ndarray]
    spread: Callable[[np.ndarray], np.ndarray]

    @property
    def n_rest(self) -> int:
        """Degrees of freedom of ``rest``: n_obs - G - pw."""
        return self.n_obs - self.x_star.shape[0]


@dataclass(frozen=True)
class Stats:
    """Sufficient statistics of c responses; the response axis is last.

    ``coords`` (G + pw, c) is B'(y - shift)/scale and ``rest`` (c,) belongs to the same scaled
    response; ``finite``, ``constant`` and ``exact_within`` (c,) tell the responses that cannot
    be fitted. ``shift`` is 0 unless the constant lies in the span of X.
    """

    coords: np.ndarray
    rest: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    finite: np.ndarray
    constant: np.ndarray
    exact_within: np.ndarray


def project_design(design: Design) -> Projection:
    """Build the basis B of a design (see the module's docstring)."""
    n, p = design.X.shape
    x_scale = np.linalg.norm(design.X, axis=0)
    X = design.X / x_scale
    if design.random:
        codes, sizes = design.random[0].codes, design.random[0].sizes
        # Differences to the group's first row are exactly 0 for a group-level covariate.
        first = np.full(len(sizes), n)
        np.minimum.at(first, codes, np.arange(n))
        delta = X - X[first[codes]]
        indicator = scipy.sparse.csr_array((np.ones(n), (codes, np.arange(n))), shape=(len(sizes), n))
        delta_mean = (indicator @ delta) / sizes[:, None]
        x_mean = X[first] + delta_mean
        within = delta - delta_mean[codes]
    else:
        codes, sizes = np.zeros(n, dtype=np.intp), np.zeros(0, dtype=np.intp)
        x_mean, within = np.zeros((0, p)), X
    Qw = _orthonormal_basis(within)
    root = np.sqrt(sizes.astype(np.float64))
    x_star = np.concatenate([root[:, None] * x_mean, Qw.T @ within])
    apply, spread = _operators(codes, root, Qw)
    intercept = np.linalg.lstsq(X, np.ones(n), rcond=None)[0]
    if np.max(np.abs(X @ intercept - 1)) > 1e-9:
        intercept = None
    return Projection(
        n, sizes, x_scale, x_star, x_mean, Qw.shape[1], apply(np.ones((n, 1)))[:, 0], intercept, apply, spread
    )


def project(projection: Projection, Y: np.ndarray) -> Stats:
    """Reduce responses ``Y`` (n_obs, c), float32 or float64, to their statistics."""
    c = Y.shape[1]
    k = projection.x_star.shape[0]
    stats = Stats(
        np.empty((k, c)), np.empty(c), np.zeros(c), np.ones(c),
        np.ones(c, dtype=bool), np.zeros(c, dtype=bool), np.zeros(c, dtype=bool),
    )  # fmt: skip
    width = int(np.clip(PANEL_BYTES // (8 * projection.n_obs), 4, 2048))
    for start in range(0, c, width):
        cols = slice(start, min(start + width, c))
        _project_panel(projection, Y[:, cols], cols, stats)
    return stats


def _project_panel(projection: Projection, panel: np.ndarray, cols: slice, stats: Stats) -> None:
    """One pass; the responses that it would cost digits, or that are bad, go the careful way."""
    panel = panel.astype(np.float64, copy=False)
    with np.errstate(all="ignore"):
        coords = projection.apply(panel)
        total = np.einsum("ij,ij->j", panel, panel)
        rest = total - np.einsum("ij,ij->j", coords, coords)
        safe = (rest * MAX_LOSS > total) & (total > 1e-200) & (total < 1e200)
    stats.coords[:, cols] = coords
    stats.rest[cols] = rest
    careful = np.flatnonzero(~safe)
    if len(careful):
        _project_careful(projection, panel[:, careful], careful + cols.start, stats)


def _project_careful(projection: Projection, y: np.ndarray, where: np.ndarray, stats: Stats) -> None:
    """Shift, scale, and form residuals twice (Kahan: twice is enough) before squaring."""
    finite = np.isfinite(y).all(axis=0)
    y = np.where(finite, y, 0.0)
    largest = np.max(np.abs(y), axis=0)
    # A power of two, so that scaling is exact; subnormal responses are taken as 0.
    scale = np.where(largest > 1e-300, np.exp2(np.floor(np.log2(np.maximum(largest, 1e-300)))), 1.0)
    y = y / scale
    largest = largest / scale
    # The difference of close numbers is exact, so the first row is as good as the mean.
    shift = y[0].copy()
    y = y - shift
    coords = projection.apply(y)
    y = y - projection.spread(coords)
    again = projection.apply(y)
    coords = coords + again
    y = y - projection.spread(again)
    rest = np.einsum("ij,ij->j", y, y) if projection.n_rest else np.zeros(y.shape[1])
    if projection.intercept is None:
        coords = coords + projection.ones[:, None] * shift
        shift = np.zeros_like(shift)
    noise = projection.n_obs * (NOISE * largest) ** 2
    off_x = coords - _fitted_star(projection.x_star, coords)
    total = np.einsum("ij,ij->j", off_x, off_x) + rest
    stats.coords[:, where] = coords
    stats.rest[where] = rest
    stats.shift[where] = shift
    stats.scale[where] = scale
    stats.finite[where] = finite
    stats.constant[where] = finite & (total <= noise)
    # Without degrees of freedom within groups rest is 0 by construction, which says nothing.
    stats.exact_within[where] = finite & (rest <= noise) & (total > noise) & (projection.n_rest > 0)


def _fitted_star(x_star: np.ndarray, coords: np.ndarray) -> np.ndarray:
    Q, _ = np.linalg.qr(x_star)
    fitted = Q @ (Q.T @ coords)
    return fitted + Q @ (Q.T @ (coords - fitted))


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


def _operators(
    codes: np.ndarray, root: np.ndarray, Qw: np.ndarray
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """B'V and BC, dense for few groups, with sparse indicators for many."""
    n, G = len(codes), len(root)
    if G <= DENSE_GROUPS:
        Bt = np.zeros((G + Qw.shape[1], n))
        if G:
            Bt[codes, np.arange(n)] = 1 / root[codes]
        Bt[G:] = Qw.T
        return (lambda V: Bt @ V), (lambda C: Bt.T @ C)
    Zt = scipy.sparse.csr_array((1 / root[codes], (codes, np.arange(n))), shape=(G, n))
    Z = Zt.T.tocsr()
    Qt = np.ascontiguousarray(Qw.T)

    def apply(V: np.ndarray) -> np.ndarray:
        V = np.ascontiguousarray(V)
        return np.concatenate([Zt @ V, Qt @ V])

    def spread(C: np.ndarray) -> np.ndarray:
        return Z @ np.ascontiguousarray(C[:G]) + Qw @ C[G:]

    return apply, spread
