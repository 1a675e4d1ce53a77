"""Responses with missing observations, or weights, of their own, on a design with one grouping factor.

All responses of a panel go together, as products of shared columns with their weights (n_obs, c), 0 where an
observation is missing. Of each response are found what ``layout.Core`` holds of a design (R_g, C_g and W, from
sums of weights times products of columns) and the statistics of ``moments``. X is replaced by an orthonormal basis
of the complete design whose last columns lie in the span of Z1 row by row, whatever the rows and weights: their
part off Z1 is exactly 0.

y is left with the residuals of its own regression before anything is squared: its least squares fit on X is taken
off, then twice (Kahan) the fit on [Z1, X].

What is not clearly a design like the complete one, only smaller, is not ``good`` and is for others to fit: few
levels, a rank that is not obvious from sums of squares, nothing but rounding left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse

from jaxlmm.design.random import RandomTerm
from jaxlmm.families.general.layout import Core, Reducer, packed_pairs
from jaxlmm.runtime.threads import by_chunks

__all__ = ["OwnRows", "RowSums"]

# Responses that are reduced together.
PANEL = 64
# Pivots relative to what they were before elimination: below the first a direction is not there, below the second
# that is not clear, and neither is a column of X of which less than that is left.
ABSENT, CLEAR = 1e-13, 1e-6
# Weights, and responses, whose ratio is larger than this are not for sums.
WIDE = 1e12
# Rounding errors relative to the largest value; sums of squares of some more are not clearly residuals.
NOISE, DOUBT = 4 * np.finfo(np.float64).eps, 64.0


@dataclass(frozen=True, eq=False)
class OwnRows:
    """c responses, the response axis last.

    Attributes
    ----------
    R, C, W : ndarray, (r1, r1, G, c), (r1 * G, p, c), (p, p, c)
        As in ``layout.Core``.
    rest, b, ols : ndarray, (c,), (r1 * G, c), (p, c)
        As in ``moments.Stats``; of y / ``scale`` with weights / ``unit``.
    scale, unit : ndarray, (c,)
        Powers of two.
    n_used, log_w : ndarray, (c,)
        Numbers of observations, and sums of the logarithms of their weights / ``unit``.
    good : ndarray of bool, (c,)
        Which are to be used.
    """

    R: np.ndarray
    C: np.ndarray
    W: np.ndarray
    rest: np.ndarray
    b: np.ndarray
    ols: np.ndarray
    scale: np.ndarray
    unit: np.ndarray
    n_used: np.ndarray
    log_w: np.ndarray
    good: np.ndarray


@dataclass(frozen=True, eq=False)
class RowSums:
    """A design with one grouping factor, as the rows of responses are summed.

    Attributes
    ----------
    A : ndarray, (n_obs, p)
        Basis of X, not weighted; the last columns lie in the span of Z1.
    rotation : ndarray, (p, p)
        Coefficients of Q are ``rotation`` times those of A.
    pw : int
        Columns of A that do not lie there.
    Z, Zt : sparse arrays, (n_obs, r1 * G) and its transpose
    products : sparse array, ((pairs + r1 p) G, n_obs)
        Products of pairs of columns of Z, then of Z and A, of each level.
    squares : ndarray, (pairs of p, n_obs)
    weights : ndarray, (n_obs,), or None
        Those of the design.
    """

    A: np.ndarray
    rotation: np.ndarray
    pw: int
    Z: scipy.sparse.csr_array
    Zt: scipy.sparse.csr_array
    products: scipy.sparse.csr_array
    squares: np.ndarray
    weights: np.ndarray | None
    r: int
    G: int

    @classmethod
    def make(
        cls, core: Core, reducer: Reducer, terms: Sequence[RandomTerm], whiteners: Sequence[np.ndarray]
    ) -> RowSums:
        """Of a design whose terms have one grouping factor."""
        root_w = reducer.root_w
        Q = reducer.Q if root_w is None else reducer.Q / root_w[:, None]
        inside = scipy.linalg.orth(reducer.null) if reducer.null.shape[1] else reducer.null
        outside = scipy.linalg.null_space(inside.T) if inside.shape[1] else np.eye(core.p)
        rotation = np.concatenate([outside, inside], axis=1)
        A, columns = Q @ rotation, np.concatenate([t.Z @ M for t, M in zip(terms, whiteners, strict=True)], axis=1)
        n, r, G, codes = len(A), columns.shape[1], core.G, terms[0].codes
        made = [columns[:, a] * columns[:, b] for a, b in packed_pairs(r)]
        made += [columns[:, a] * A[:, i] for a in range(r) for i in range(core.p)]
        rows = (np.arange(len(made))[:, None] * G + codes).ravel()
        at = np.tile(np.arange(n), len(made))
        products = scipy.sparse.csr_array((np.concatenate(made), (rows, at)), shape=(len(made) * G, n))
        where = (np.arange(r) * G + codes[:, None]).ravel()
        Z = scipy.sparse.csr_array((columns.ravel(), (np.repeat(np.arange(n), r), where)), shape=(n, r * G))
        squares = np.stack([A[:, i] * A[:, j] for i, j in packed_pairs(core.p)])
        weights = None if root_w is None else root_w**2
        return cls(A, rotation, outside.shape[1], Z, scipy.sparse.csr_array(Z.T), products, squares, weights, r, G)

    def reduce(self, Y: np.ndarray, W: np.ndarray | None) -> OwnRows:
        """Responses Y (n_obs, c), NaN where they are missing, with weights W of their own if given."""
        c, p, r, G = Y.shape[1], self.A.shape[1], self.r, self.G
        out = OwnRows(
            np.zeros((r, r, G, c)), np.zeros((r * G, p, c)), np.zeros((p, p, c)), np.ones(c), np.zeros((r * G, c)),
            np.zeros((p, c)), np.ones(c), np.ones(c), np.zeros(c, dtype=np.int64), np.zeros(c), np.zeros(c, bool),
        )  # fmt: skip
        rounding = max(0.5 * np.finfo(Y.dtype).eps if Y.dtype.kind == "f" else 0.0, NOISE)

        def panel(cols: slice) -> None:
            with np.errstate(all="ignore"):
                self._panel(Y[:, cols].astype(np.float64), None if W is None else W[:, cols], cols, out, rounding)

        by_chunks(c, PANEL, panel)
        return out

    def _panel(self, y: np.ndarray, W: np.ndarray | None, cols: slice, out: OwnRows, rounding: float) -> None:
        there = ~np.isnan(y)
        if W is not None:
            w = np.where(there, W, 0.0)
        else:
            w = there * (1.0 if self.weights is None else self.weights[:, None])
        np.copyto(y, 0.0, where=~there)
        largest, n_used = np.abs(y).max(axis=0), np.count_nonzero(there, axis=0)
        heaviest, lightest = w.max(axis=0), np.where(there, w, np.inf).min(axis=0)
        good = np.isfinite(largest) & (largest > 1 / WIDE**8) & (largest < WIDE**8) & (n_used > 0)
        good &= (heaviest < WIDE * lightest) & (heaviest < WIDE**8) & (lightest > 1 / WIDE**8)
        y[:, ~good], w[:, ~good] = 0.0, 1.0
        scale, unit = _power(np.where(good, largest, 1.0)), np.ones(len(good))
        y /= scale
        if W is not None or self.weights is not None:
            unit = _power(np.where(good, heaviest, 1.0))
            w /= unit
        log_w = np.log(np.where(there & good, w, 1.0)).sum(axis=0)

        triangle = self.squares @ w
        X2 = _full(triangle, self.A.shape[1])
        fine = _clear(X2, np.maximum(np.einsum("iic->ic", X2), 1e-300))
        X2[..., ~fine] = np.eye(len(X2))[:, :, None]
        good &= fine
        first = _solve(X2, self.A.T @ (w * y))
        y -= self.A @ first
        y *= there
        size = np.einsum("ij,ij,ij->j", y, w, y)

        R, C, full_rank, clear = self._groups(w)
        Wk = X2 - np.einsum("aic,ajc->ijc", C, C)
        pw = self.pw
        Wk[pw:], Wk[:, pw:] = 0.0, 0.0
        good &= clear & _clear(Wk[:pw, :pw], np.einsum("iic->ic", X2)[:pw])
        Wk[:pw, :pw, ~good] = np.eye(pw)[:, :, None]
        a, b = first, np.zeros((self.r * self.G, y.shape[1]))
        for _ in range(2):  # twice is enough (Kahan), for residuals that are small beside the effects
            y, more, own = self._remove(y, w, R, C, Wk)
            y *= there
            a[:pw] += more
            b += own
        rest = np.einsum("ij,ij,ij->j", y, w, y)

        ranks = np.count_nonzero(np.einsum("aagc->agc", R), axis=0)
        levels, effects = np.count_nonzero(ranks, axis=0), ranks.sum(axis=0)
        good &= (full_rank > self.A.shape[1]) & (n_used - effects - pw >= 1) & (levels * self.r < n_used)
        noise = w.sum(axis=0) * (DOUBT * rounding * largest / scale) ** 2
        good &= (rest > noise) & (size > noise) & np.isfinite(rest)
        b[:, ~good], a[:, ~good], rest[~good] = 0.0, 0.0, 1.0
        again = np.where(good, _power(np.sqrt(np.where(good, size, 1.0) / np.maximum(n_used, 1))), 1.0)
        out.R[..., cols], out.C[..., cols], out.W[..., cols] = R, C, Wk
        out.rest[cols], out.b[:, cols], out.ols[:, cols] = rest / again**2, b / again, a / again
        out.scale[cols], out.unit[cols], out.n_used[cols] = scale * again, unit, n_used
        out.log_w[cols], out.good[cols] = log_w, good

    def _groups(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """R (r, r, G, c) and C (r G, p, c) of all levels; how many have full rank, whether all ranks are clear."""
        r, G, p, c = self.r, self.G, self.A.shape[1], w.shape[1]
        sums = (self.products @ w).reshape(-1, G, c)
        pairs = packed_pairs(r)
        S = {pair: sums[k] for k, pair in enumerate(pairs)}
        T = sums[len(pairs) :].reshape(r, p, G, c)
        R, C = np.zeros((r, r, G, c)), np.zeros((r, G, p, c))
        full_rank, clear = np.ones((G, c), bool), np.ones((G, c), bool)
        for a in range(r):
            pivot = S[a, a] - sum(R[k, a] ** 2 for k in range(a))
            before = S[a, a]
            here = pivot > ABSENT * before
            clear &= (pivot > CLEAR * before) | ~here
            full_rank &= here
            root = np.sqrt(np.where(here, pivot, 1.0))
            over = here / root
            R[a, a] = np.where(here, root, 0.0)
            for j in range(a + 1, r):
                R[a, j] = (S[a, j] - sum(R[k, a] * R[k, j] for k in range(a))) * over
            for i in range(p):
                C[a, :, i] = (T[a, i] - sum(R[k, a] * C[k, :, i] for k in range(a))) * over
        return R, C.reshape(r * G, p, c), full_rank.sum(axis=0), np.asarray(clear.all(axis=0))

    def _remove(
        self, y: np.ndarray, w: np.ndarray, R: np.ndarray, C: np.ndarray, W: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """y less its least squares fit; the coefficients (pw, c) of the first columns of A and (r G, c) on Q1."""
        r, G, pw = self.r, self.G, self.pw
        wy = w * y
        onto = self.A[:, :pw].T @ wy
        first = _forward(R, (self.Zt @ wy).reshape(r, G, -1)).reshape(r * G, -1)
        alpha = _solve(W[:pw, :pw], onto - np.einsum("aic,ac->ic", C[:, :pw], first))
        first -= np.einsum("aic,ic->ac", C[:, :pw], alpha)
        effects = _backward(R, first.reshape(r, G, -1)).reshape(r * G, -1)
        return y - self.A[:, :pw] @ alpha - self.Z @ effects, alpha, first


def _power(values: np.ndarray) -> np.ndarray:
    """Powers of two next below, so that scaling is exact."""
    return np.asarray(np.exp2(np.floor(np.log2(values))))


def _full(triangle: np.ndarray, p: int) -> np.ndarray:
    """Symmetric (p, p, c) of pairs (pairs, c)."""
    out = np.empty((p, p, triangle.shape[1]))
    for k, (i, j) in enumerate(packed_pairs(p)):
        out[i, j] = out[j, i] = triangle[k]
    return out


def _clear(M: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Whether symmetric M (p, p, c), rows and columns over the roots of ``before`` (p, c), is far from singular."""
    if not len(M):
        return np.ones(M.shape[2], dtype=bool)
    root = np.sqrt(before)
    unit = np.moveaxis(M / root[:, None] / root[None], 2, 0)
    bad = ~np.isfinite(unit).all(axis=(1, 2))
    unit[bad] = 0.0
    return np.asarray(np.linalg.eigvalsh(unit)[:, 0] > CLEAR)


def _solve(M: np.ndarray, v: np.ndarray) -> np.ndarray:
    """M^-1 v of M (p, p, c) and v (p, c)."""
    if not len(M):
        return v.copy()
    return np.ascontiguousarray(np.linalg.solve(np.moveaxis(M, 2, 0), v.T[:, :, None])[:, :, 0].T)


def _forward(R: np.ndarray, v: np.ndarray) -> np.ndarray:
    """R'^-1 v (r, G, c) with upper triangles R; 0 where R lacks a direction."""
    x = np.zeros_like(v)
    for a in range(len(v)):
        rest = v[a] - sum(R[k, a] * x[k] for k in range(a))
        x[a] = _over(rest, R[a, a])
    return x


def _backward(R: np.ndarray, v: np.ndarray) -> np.ndarray:
    """R^-1 v (r, G, c); 0 where R lacks a direction."""
    x = np.zeros_like(v)
    for a in reversed(range(len(v))):
        rest = v[a] - sum(R[a, k] * x[k] for k in range(a + 1, len(v)))
        x[a] = _over(rest, R[a, a])
    return x


def _over(values: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    return np.asarray(np.where(pivot > 0, values / np.where(pivot > 0, pivot, 1.0), 0.0))
