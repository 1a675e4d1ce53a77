"""Responses that each have observations, or weights, of their own, reduced to what ``crosslik`` needs.

All responses of a block go together, as matrix products with their weights (n_obs, c), 0 where an
observation is missing. Weights of a response's own are divided by a power of two, so that its largest group
weighs about as much as the complete design's: their unit is of no matter. X is replaced by the ``SplitBasis``
of the complete design. y is left with the residuals of its own regression within groups, formed explicitly and
twice (Kahan: twice is enough) before anything is squared. Where they are small beside y, what was fitted is taken
off in twice the working precision (``design.exact``), and the rest reduced again.

That basis is far from orthonormal on the rows of a response where these differ in kind from the complete
design's: a covariate's outlier is missing, or all rows in which it varies. Such a response gets a design
and a basis of its own (``Design.take``), and so the checks of a design.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import scipy.sparse

from jaxlmm.design.design import Design
from jaxlmm.design.identifiability import pivoted
from jaxlmm.families.intercept.crossprod import Projection, project_design
from jaxlmm.families.intercept.reduce import FAINT, NOISE, Reducer
from jaxlmm.families.own.basis import SplitBasis
from jaxlmm.families.patterns import columns_at, patterns
from jaxlmm.sources.weighted import WeightedMatrix, values_of

__all__ = ["OwnDesign", "OwnStats", "reduce_own"]

# Responses are handled in panels of about this many bytes, to stay in cache.
PANEL_BYTES = 2**20
# The shared basis serves a response if every pivot of its cross-products is at least this part of a column's
# square: three digits are lost at most, and the tolerances of a design's checks are far away.
MIN_PIVOT = 1e-3
# And if the complete design itself stays clear of those tolerances, which are 1e-7 or less.
MIN_NORM = 1e-4


@dataclass(frozen=True, eq=False)
class OwnDesign:
    """A complete design, as responses that use some of its rows need it.

    Attributes
    ----------
    design : Design
    reducer : Reducer
    basis : SplitBasis
    B : ndarray, (n_obs, pw)
        The part within groups of the basis, on the rows of X (not times the roots of weights).
    q_mean : ndarray, (G, p)
        Group means of the basis.
    weights : ndarray, (n_obs,), or None
    Z, ZB : sparse array, (G, n_obs) and (G * pw, n_obs)
        Sums by group, of one variable and of every column of B times one.
    clear : bool
        Whether the complete design is well clear of the tolerances of its checks.
    """

    design: Design
    reducer: Reducer
    basis: SplitBasis
    B: np.ndarray
    q_mean: np.ndarray
    weights: np.ndarray | None
    Z: scipy.sparse.csr_array
    ZB: scipy.sparse.csr_array
    clear: bool

    @classmethod
    def make(cls, design: Design, reducer: Reducer) -> OwnDesign:
        projection, basis = reducer.projection, SplitBasis.make(reducer.projection)
        n, G, pw = design.n_obs, projection.n_groups, projection.n_within
        B = projection.Qw @ basis.within
        if projection.root_w is not None:
            B = B / projection.root_w[:, None]
        q_mean = basis.between / np.sqrt(projection.sizes)[:, None]
        Z = scipy.sparse.csr_array((np.ones(n), (projection.codes, np.arange(n))), shape=(max(G, 1), n))[:G]
        at = (np.repeat(projection.codes, pw) * pw + np.tile(np.arange(pw), n), np.repeat(np.arange(n), pw))
        ZB = scipy.sparse.csr_array((B.reshape(-1), at), shape=(max(G, 1) * max(pw, 1), n))[: G * pw]
        R = pivoted(projection.weighted(projection.columns.unit))[1]
        clear = bool(min(np.min(np.abs(np.diag(R))), basis.smallest) > MIN_NORM)
        return cls(design, reducer, basis, B, q_mean, design.weights, Z, ZB, clear)

    @property
    def n_groups(self) -> int:
        """Number of groups of the complete design."""
        return len(self.q_mean)

    @property
    def n_fixef(self) -> int:
        """Number of columns of X."""
        return self.q_mean.shape[1]


@dataclass(frozen=True, eq=False)
class OwnStats:
    """What is needed of c responses, of (y - shift) / scale; see ``crosslik`` for N, b, e, W and rest.

    Attributes
    ----------
    base : ndarray, (c, p)
        Coefficients, on the response's basis, that ``e`` and ``rest`` are residuals of.
    start : ndarray, (c, p)
        Coefficients of the user's X that were taken off the response before; 0 for most.
    centring, unit : ndarray, (c, p, p)
        From coefficients b on the response's basis to those of the user's X: a - centring a with a = unit b.
    logdet : ndarray, (c,)
        log|X'X| of the user's X less that of the basis.
    log_w : ndarray, (c,)
        Sum of the logarithms of the weights.
    constant : ndarray, (c, p)
        Coefficients of the user's X that give 1; 0 where ``shift`` is.
    n_used : ndarray of int, (c,)
    shift, scale, noise : ndarray, (c,)
        Sums of squares up to ``noise`` are rounding.
    unit_w : ndarray, (c,)
        What the weights were divided by: the variance ratio here is ``unit_w`` times that of the weights as given.
    finite, too_few : ndarray of bool, (c,)
    """

    N: np.ndarray
    b: np.ndarray
    e: np.ndarray
    W: np.ndarray
    rest: np.ndarray
    base: np.ndarray
    start: np.ndarray
    centring: np.ndarray
    unit: np.ndarray
    logdet: np.ndarray
    log_w: np.ndarray
    constant: np.ndarray
    n_used: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    noise: np.ndarray
    unit_w: np.ndarray
    finite: np.ndarray
    too_few: np.ndarray

    @classmethod
    def join(cls, parts: list[OwnStats]) -> OwnStats:
        """Several panels as one."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def reduce_own(design: OwnDesign, Y: np.ndarray | WeightedMatrix, where: np.ndarray) -> OwnStats:
    """Reduce the columns ``where`` of Y (n_obs, any) on the rows where they are not NaN.

    Weights of the responses' own stand for the design's.
    """
    width = int(np.clip(PANEL_BYTES // (8 * design.design.n_obs), 4, 512))
    return OwnStats.join(
        [
            _reduce_panel(design, Y[:, columns_at(where[start : start + width])])
            for start in range(0, len(where), width)
        ]
    )


def _reduce_panel(design: OwnDesign, panel: np.ndarray | WeightedMatrix) -> OwnStats:
    """As :func:`reduce_own`, of all columns (n_obs, c)."""
    Y, weights = values_of(panel), panel.counting() if isinstance(panel, WeightedMatrix) else None
    rounding = max(0.5 * np.finfo(Y.dtype).eps if Y.dtype.kind == "f" else 0.0, NOISE)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        y = Y.astype(np.float64, order="C")
    missing = np.isnan(y)
    n_used, unit_w = len(y) - missing.sum(axis=0), np.ones(y.shape[1])
    if weights is not None:
        unit_w = _unit_of(design, weights)
        w = weights / unit_w
    else:
        w = (~missing).astype(np.float64)
        if design.weights is not None:
            w *= design.weights[:, None]
    np.copyto(y, 0.0, where=missing)
    largest = np.maximum(y.max(axis=0), -y.min(axis=0))
    finite = np.isfinite(largest) & (n_used > 0)
    if not finite.all():
        y[:, ~finite], largest[~finite] = 0.0, 0.0
    scale = np.ones(y.shape[1])
    extreme = (largest > 1e100) | ((largest < 1e-100) & (largest > 1e-300))
    if extreme.any():
        # A power of two, so that scaling is exact.
        scale[extreme] = np.exp2(np.floor(np.log2(largest[extreme])))
        y /= scale
    noise = w.sum(axis=0) * (rounding * largest / scale) ** 2
    weighted = weights is not None or design.weights is not None
    stats, good, explained = _shared_basis(design, y, w, weighted, missing, n_used, scale, noise, finite)
    faint = np.flatnonzero(finite & good & (stats.rest < FAINT * explained))
    if len(faint):
        root = np.sqrt(stats.N[faint])
        level = stats.e[faint] / np.where(root > 0, root, 1.0)
        start, left = design.basis.subtract(
            y[:, faint], design.reducer.projection, stats.base[faint].T, stats.shift[faint], level.T
        )
        np.copyto(left, 0.0, where=missing[:, faint])
        numbers = (a[faint] for a in (n_used, scale, noise, finite))
        second, _, _ = _shared_basis(design, left, w[:, faint], weighted, missing[:, faint], *numbers)
        stats.start[faint], stats.e[faint] = start.T, second.e + root * level
        stats.base[faint], stats.rest[faint], stats.shift[faint] = second.base, second.rest, second.shift
    stats.unit_w[:] = unit_w
    p = design.n_fixef
    rank_left = n_used > p
    stats.too_few[finite & ~rank_left] = True
    again = np.flatnonzero(finite & rank_left & ~(good & design.clear))
    if weights is None:
        for rows, columns in patterns(missing[:, again]) if len(again) else ():
            _own_basis(design, y, rows, again[columns], None, stats)
    else:
        for k in again:
            _own_basis(design, y, w[:, k] > 0, np.array([k]), w[:, k], stats)
    if design.n_groups:
        groups = np.sum(stats.N > 0, axis=1)
        pw = np.sum(np.einsum("cjj->cj", stats.W) > 0, axis=1)
        few = (groups < 2) | (groups + pw <= p) | (n_used - groups - pw < 1)
        stats.too_few[:] |= few & finite
    return stats


def _unit_of(design: OwnDesign, weights: np.ndarray) -> np.ndarray:
    """A power of two (c,): the largest group weighs, over it, at most as much as the complete design's, and half at
    least; without groups all rows."""
    if design.n_groups:
        heaviest, most = (design.Z @ weights).max(axis=0), design.reducer.projection.sizes.max()
    else:
        heaviest, most = weights.sum(axis=0), float(len(weights))
    found: np.ndarray = np.exp2(np.ceil(np.log2(np.where(heaviest > 0, heaviest, most) / most)))
    return found


def _shared_basis(
    design: OwnDesign,
    y: np.ndarray,
    w: np.ndarray,
    weighted: bool,
    missing: np.ndarray,
    n_used: np.ndarray,
    scale: np.ndarray,
    noise: np.ndarray,
    finite: np.ndarray,
) -> tuple[OwnStats, np.ndarray, np.ndarray]:
    """Statistics of y (n_obs, c) with weights w on the complete design's basis, and for whom that is good enough.

    Also returns the sum of squares of what is fitted beside ``rest``, within a digit.
    """
    projection, B, Z = design.reducer.projection, design.B, design.Z
    c, p, pw, G = y.shape[1], design.n_fixef, B.shape[1], design.n_groups
    shift, constant = np.zeros(c), np.zeros(p)
    if projection.columns.constant is not None:
        # The difference of close numbers is exact, so the first row is as good as the mean.
        shift = y[np.argmin(missing, axis=0), np.arange(c)]
        constant = projection.columns.constant
    y = y - shift
    N = Z @ w
    safe = np.where(N > 0, N, 1.0)
    sums = (design.ZB @ w).reshape(G, pw, c)
    W = np.empty((c, pw, pw))
    i, j = np.tril_indices(pw)
    W[:, i, j] = W[:, j, i] = ((B[:, i] * B[:, j]).T @ w).T
    before = np.einsum("cjj->cj", W).copy()
    half = (sums / np.sqrt(safe)[:, None, :]).transpose(2, 0, 1)
    W -= half.transpose(0, 2, 1) @ half
    good = np.all(np.einsum("cjj->cj", W) > MIN_PIVOT * np.maximum(before, 1.0), axis=1)
    good &= _smallest_pivot(W) > MIN_PIVOT
    W[~good] = np.eye(pw)

    means = _centre(y, w, Z, safe, projection.codes)
    first = np.linalg.solve(W, (B.T @ (w * y)).T[..., None])[..., 0]
    explained = np.einsum("gc,gc->c", N, means**2) + np.einsum("ci,cij,cj->c", first, W, first)
    y -= B @ first.T
    means += _centre(y, w, Z, safe, projection.codes)
    wy = w * y
    left = (B.T @ wy).T
    second = np.linalg.solve(W, left[..., None])[..., 0]
    rest = np.maximum(np.einsum("ij,ij->j", wy, y) - np.einsum("ci,ci->c", left, second), 0.0)

    root = np.sqrt(N).T
    own = (sums / safe[:, None, :]).transpose(2, 0, 1) + design.q_mean[:, :pw]
    b = np.empty((c, G, p))
    b[:, :, :pw] = root[:, :, None] * own
    b[:, :, pw:] = root[:, :, None] * design.q_mean[:, pw:]
    e = means.T - first @ design.q_mean[:, :pw].T - np.einsum("cgj,cj->cg", own, second)
    e *= root
    whole = np.zeros((c, p, p))
    whole[:, :pw, :pw] = W
    gram = b.transpose(0, 2, 1) @ b
    good &= _smallest_pivot(whole + gram) > MIN_PIVOT
    good &= np.all(np.einsum("cjj->cj", gram[:, pw:, pw:]) > MIN_PIVOT, axis=1)
    gram[~good] = np.eye(p)
    base = np.concatenate([first + second, _fit_between(b, e, gram, pw)], axis=1)
    log_w = np.log(np.where(w > 0, w, 1.0)).sum(axis=0) if weighted else np.zeros(c)

    def each(a: np.ndarray) -> np.ndarray:
        return np.broadcast_to(a, (c, *a.shape)).copy()

    stats = OwnStats(
        np.ascontiguousarray(N.T), b, e, whole, rest, base, np.zeros((c, p)), each(projection.columns.shift),
        each(design.basis.unit), np.full(c, design.basis.logdet), log_w, each(constant), n_used, shift, scale, noise,
        np.ones(c), finite, np.zeros(c, dtype=bool),
    )  # fmt: skip
    return stats, good, explained


def _centre(
    y: np.ndarray, w: np.ndarray, Z: scipy.sparse.csr_array, safe: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Subtract from y, in place, its weighted group means (G, c), and return them."""
    if not Z.shape[0]:
        return np.zeros((0, y.shape[1]))
    means: np.ndarray = (Z @ (w * y)) / safe
    y -= np.take(means, codes, axis=0)
    return means


def _fit_between(b: np.ndarray, e: np.ndarray, gram: np.ndarray, pw: int) -> np.ndarray:
    """Fit e (c, G), in place, to the columns of b from pw on; returns their coefficients (c, p - pw)."""
    between = b[:, :, pw:]
    moment = np.einsum("cgj,cg->cj", between, e)
    found: np.ndarray = np.linalg.solve(gram[:, pw:, pw:], moment[..., None])[..., 0]
    e -= np.einsum("cgj,cj->cg", between, found)
    return found


def _smallest_pivot(M: np.ndarray) -> np.ndarray:
    """The least pivot (c,) in the elimination of M (c, p, p), at a diagonal of 1; -inf where there is none."""
    least, M = np.full(len(M), np.inf), M.copy()
    with np.errstate(all="ignore"):
        d = 1 / np.sqrt(np.einsum("cjj->cj", M))
        M *= d[:, :, None] * d[:, None, :]
        for k in range(M.shape[1]):
            pivot = M[:, k, k].copy()
            least = np.minimum(least, np.where(pivot > 0, pivot, -np.inf))
            M[:, k + 1 :, k + 1 :] -= (M[:, k + 1 :, k] / pivot[:, None])[:, :, None] * M[:, None, k, k + 1 :]
    return np.where(np.isnan(least), -np.inf, least)


def _own_basis(
    design: OwnDesign, y: np.ndarray, rows: np.ndarray, cols: np.ndarray, weights: np.ndarray | None, stats: OwnStats
) -> None:
    """Statistics of the columns ``cols`` of y (scaled), which have these ``rows``, on a design of their own."""
    whole = design.design
    try:
        own = whole.take(rows, None if weights is None else weights[rows])
    except ValueError:
        stats.too_few[cols] = True
        return
    projection = project_design(own)
    basis = SplitBasis.make(projection)
    pw = projection.n_within
    part = y[np.ix_(rows, cols)]
    shift, base, e, rest, explained = _on_basis(projection, basis, part)
    start, faint = np.zeros_like(base), rest < FAINT * explained
    if faint.any():
        root = np.sqrt(projection.sizes)[:, None]
        level = e[:, faint] / root
        start[:, faint], left = basis.subtract(part[:, faint], projection, base[:, faint], shift[faint], level)
        shift[faint], base[:, faint], e[:, faint], rest[faint], _ = _on_basis(projection, basis, left)
        e[:, faint] += root * level
    present = np.unique(whole.random[0].codes[rows]) if whole.random else np.zeros(0, dtype=np.intp)
    for array in (stats.N, stats.b, stats.e, stats.W):
        array[cols] = 0.0
    at = np.ix_(cols, present)
    stats.N[at], stats.b[at], stats.e[at] = projection.sizes, basis.between, e.T
    stats.W[cols] = np.diag(np.arange(own.n_fixef) < pw).astype(np.float64)
    stats.rest[cols], stats.start[cols], stats.base[cols] = rest, start.T, base.T
    stats.logdet[cols], stats.shift[cols] = basis.logdet, shift
    stats.centring[cols], stats.unit[cols] = basis.columns.shift, basis.unit
    stats.constant[cols] = 0.0 if basis.columns.constant is None else basis.columns.constant


def _on_basis(projection: Projection, basis: SplitBasis, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Shift (c,), coefficients (p, c), residuals of the groups (G, c), ``rest`` and explained squares (c,) of y."""
    shift = y[0].copy() if projection.columns.constant is not None else np.zeros(y.shape[1])
    left = projection.weighted(y - shift)
    coords = projection.to_coords(left)
    left -= projection.from_coords(coords)
    more = projection.to_coords(left)
    left -= projection.from_coords(more)
    coef, e = basis.solve(coords + more)
    return shift, coef, e, np.einsum("ij,ij->j", left, left), np.einsum("ij,ij->j", coords, coords)
