"""Responses with missing observations, or weights, of their own, on a design with random terms: one pass over Y.

All responses of a panel go together, as products of shared columns with their weights (n_obs, c), 0 where an
observation is missing. Of each response are found what ``layout.Core`` holds of a design (R_g, C_g and W, from
sums of weights times products of columns) and the statistics of ``moments``. Combinations of the columns of
D = [Z2, Q] that lie in the span of Z1 row by row do so whatever the rows and weights: W is exactly 0 there.

y is left with the residuals of its own regression before anything is squared: its least squares fit on X is taken
off, then twice (Kahan) the fit on [Z1, D].

What is not clearly a design like the complete one, only smaller, is not ``good`` and is for others to fit: few
levels, a rank that is not obvious from sums of squares, nothing but rounding left.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import scipy.linalg
import scipy.sparse

from jaxlmm.design.random import RandomTerm
from jaxlmm.families.general.layout import Core, Reducer, packed_pairs
from jaxlmm.runtime.batches import take
from jaxlmm.runtime.threads import by_chunks
from jaxlmm.sources.weighted import WeightedMatrix, values_of

__all__ = ["OwnRows", "RowSums"]

# Responses that are reduced together.
PANEL = 64
# Pivots of a level relative to what they were before elimination: below the first a direction is not there, below the
# second that is not clear.
ABSENT, THERE = 1e-13, 1e-7
# Least eigenvalues of what is left of D.
CLEAR = 1e-6
# Squares of a column of X, relative to those of the largest column of D: what rounding leaves of less is not exact.
FAINT = 1e-8
# Of the squares of a random term's column as much must be left by X; a design made alone asks for a tenth of it.
LEFT = 1e-9
# Weights, and responses, whose ratio is larger than this are not for sums.
WIDE = 1e12
# Rounding errors relative to the largest value; sums of squares of some more are not clearly residuals.
NOISE, DOUBT = 4 * np.finfo(np.float64).eps, 64.0


@dataclass(frozen=True, eq=False)
class OwnRows:
    """c responses, the response axis last.

    Attributes
    ----------
    R, C, W : ndarray, (r1, r1, G, c), (r1 * G, d, c), (d, d, c)
        As in ``layout.Core``.
    rest, b, a, ols : ndarray, (c,), (r1 * G, c), (q2, c), (p, c)
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
    a: np.ndarray
    ols: np.ndarray
    scale: np.ndarray
    unit: np.ndarray
    n_used: np.ndarray
    log_w: np.ndarray
    good: np.ndarray

    def take(self, index: np.ndarray) -> OwnRows:
        """Some of the responses."""
        return OwnRows(*take([getattr(self, f.name) for f in fields(self)], index))


@dataclass(frozen=True, eq=False)
class RowSums:
    """A design, as the rows of responses are summed.

    Attributes
    ----------
    Q : ndarray, (n_obs, p)
        Basis of X, not weighted.
    Z1, Z2 : sparse arrays, (n_obs, r1 * G) and (n_obs, q2)
        Whitened columns, not weighted; Z1t, Z2t are their transposes.
    products : sparse array, (pairs * G + r1 * G * d + d * d, n_obs)
        Products of pairs of columns of Z1 on each level, of Z1 and D, of D and D.
    kept, null : ndarray, (d, rank), (d, d - rank)
        Orthonormal: combinations of columns of D that lie outside and in the span of Z1.
    weights : ndarray, (n_obs,), or None
        Those of the design.
    most_effects : int
        The largest number of effects of a term.
    second : tuple of slices
        Columns of D of each term that is not in Z1.
    back : tuple of ndarrays, (size, size)
        Take whitened columns to those as given: of Z1, then of each term in ``second``.
    nested : tuple of pairs of sparse arrays, (levels, n_obs) each
        Indicators of a factor and of one whose levels each hold several of its levels whole.
    """

    Q: np.ndarray
    Z1: scipy.sparse.csr_array
    Z1t: scipy.sparse.csr_array
    Z2: scipy.sparse.csr_array
    Z2t: scipy.sparse.csr_array
    products: scipy.sparse.csr_array
    kept: np.ndarray
    null: np.ndarray
    weights: np.ndarray | None
    r: int
    G: int
    most_effects: int
    second: tuple[slice, ...]
    back: tuple[np.ndarray, ...]
    nested: tuple[tuple[scipy.sparse.csr_array, scipy.sparse.csr_array], ...]

    @property
    def d(self) -> int:
        """Columns of D."""
        return len(self.kept)

    @classmethod
    def make(
        cls, core: Core, reducer: Reducer, terms: Sequence[RandomTerm], whiteners: Sequence[np.ndarray]
    ) -> RowSums:
        """Of a design as ``layout.make_core`` has it."""
        root_w, r, G, d = reducer.root_w, core.r1, core.G, core.d
        Q = reducer.Q if root_w is None else reducer.Q / root_w[:, None]
        null = scipy.linalg.orth(reducer.null) if reducer.null.shape[1] else reducer.null
        kept = scipy.linalg.null_space(null.T) if null.shape[1] else np.eye(d)
        # The columns of each row that are not 0: their values, and their numbers among those of Z1 or D.
        columns = [t.Z @ M for t, M in zip(terms, whiteners, strict=True)]
        codes = terms[core.first[0]].codes
        one = [column for t in core.first for column in columns[t].T]
        first = [(column, j * G + codes) for j, column in enumerate(one)]
        second, start, places = [], 0, []
        for t in core.second:
            size = terms[t].size
            places.append(slice(start, start + size * terms[t].n_levels))
            second += [(column, start + terms[t].codes * size + j) for j, column in enumerate(columns[t].T)]
            start += size * terms[t].n_levels
        D = second + [(column, np.full(len(Q), start + i)) for i, column in enumerate(Q.T)]
        pairs = packed_pairs(r)
        made = [(one[a] * one[b], k * G + codes) for k, (a, b) in enumerate(pairs)]
        at = len(pairs) * G
        made += [(u * v, at + i * d + j) for u, i in first for v, j in D]
        at += r * G * d
        made += [(u * v, at + i * d + j) for u, i in D for v, j in D]
        n, at = len(Q), at + d * d
        Z1, Z2 = _sparse(first, (n, r * G)), _sparse(second, (n, core.q2))
        return cls(
            Q, Z1, scipy.sparse.csr_array(Z1.T), Z2, scipy.sparse.csr_array(Z2.T),
            scipy.sparse.csr_array(_sparse(made, (n, at)).T), kept, null, None if root_w is None else root_w**2, r, G,
            max(size * levels for size, levels in zip(core.sizes, core.levels, strict=True)), tuple(places),
            (_inverse(whiteners, core.first), *(_inverse(whiteners, [t]) for t in core.second)), _nested(terms),
        )  # fmt: skip

    def reduce(self, responses: np.ndarray | WeightedMatrix) -> OwnRows:
        """Responses (n_obs, c), NaN where they are missing, with weights of their own or not."""
        Y, W = values_of(responses), responses.counting() if isinstance(responses, WeightedMatrix) else None
        c, p, r, G, d = Y.shape[1], self.Q.shape[1], self.r, self.G, self.d
        out = OwnRows(
            np.zeros((r, r, G, c)), np.zeros((r * G, d, c)), np.zeros((d, d, c)), np.ones(c), np.zeros((r * G, c)),
            np.zeros((d - p, c)), np.zeros((p, c)), np.ones(c), np.ones(c), np.zeros(c, dtype=np.int64), np.zeros(c),
            np.zeros(c, bool),
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

        R, C, DD, ranks, full_rank, clear, gram, onto = self._sums(w)
        p, q2, rank = self.Q.shape[1], self.d - self.Q.shape[1], self.kept.shape[1]
        X2 = DD[q2:, q2:]
        fine = clear & _clear(X2, np.maximum(np.einsum("iic->ic", X2), 1e-300))
        squares = np.einsum("iic->ic", DD)
        fine &= np.all(squares[q2:] > FAINT * squares.max(axis=0, initial=0.0), axis=0)
        before = np.maximum(_squares(self.kept, DD), 1e-300)
        W = _turned(self.kept.T, DD - np.einsum("wic,wjc->ijc", C, C, optimize=True))
        fine &= _clear(W, before)
        good &= fine
        X2[..., ~fine], W[..., ~fine] = np.eye(p)[:, :, None], np.eye(rank)[:, :, None]
        good &= self._not_fixed(gram, onto, DD) & self._differ(there)
        ols = _solve(X2, self.Q.T @ (w * y))
        y -= self.Q @ ols
        y *= there
        size = np.einsum("ij,ij,ij->j", y, w, y)
        a, b = np.zeros((self.d, y.shape[1])), np.zeros((self.r * self.G, y.shape[1]))
        for _ in range(2):  # twice is enough (Kahan), for residuals that are small beside the effects
            y, alpha, first = self._remove(y, w, R, C, W)
            y *= there
            a += alpha
            b += first
        rest = np.einsum("ij,ij,ij->j", y, w, y)

        levels, effects = np.count_nonzero(ranks, axis=0), ranks.sum(axis=0)
        good &= (full_rank > p) & (n_used - effects - rank >= 1)
        good &= (levels * self.r < n_used) & (self.most_effects < n_used)
        noise = w.sum(axis=0) * (DOUBT * rounding * largest / scale) ** 2
        good &= (rest > noise) & (size > noise) & np.isfinite(rest)
        a[q2:] += ols
        b[:, ~good], a[:, ~good], rest[~good] = 0.0, 0.0, 1.0
        again = np.where(good, _power(np.sqrt(np.where(good, size, 1.0) / np.maximum(n_used, 1))), 1.0)
        out.R[..., cols], out.C[..., cols], out.W[..., cols] = R, C, _turned(self.kept, W)
        out.rest[cols], out.b[:, cols] = rest / again**2, b / again
        out.a[:, cols], out.ols[:, cols] = a[:q2] / again, a[q2:] / again
        out.scale[cols], out.unit[cols], out.n_used[cols] = scale * again, unit, n_used
        out.log_w[cols], out.good[cols] = log_w, good

    def _sums(self, w: np.ndarray) -> tuple[np.ndarray, ...]:
        """R (r, r, G, c) and C (r G, d, c) of all levels, D'D (d, d, c); the ranks of the levels (G, c), how many are
        full, and whether all are clear; Z1'Z1 (r, r, c), summed over the levels, and Z1'Q (r, G, p, c)."""
        r, G, d, c = self.r, self.G, self.d, w.shape[1]
        sums, pairs = self.products @ w, packed_pairs(r)
        S = {pair: sums[k * G : (k + 1) * G] for k, pair in enumerate(pairs)}
        at = len(pairs) * G
        T, DD = sums[at : at + r * G * d].reshape(r, G, d, c), sums[at + r * G * d :].reshape(d, d, c)
        gram = np.zeros((r, r, c))
        for (a, b), products in S.items():
            gram[a, b] = gram[b, a] = products.sum(axis=0)
        R, C = np.zeros((r, r, G, c)), np.zeros((r, G, d, c))
        ranks, clear = np.zeros((G, c), dtype=np.intp), np.ones((G, c), bool)
        for a in range(r):
            before = S[a, a]
            pivot = before - sum(R[k, a] ** 2 for k in range(a))
            here = pivot > ABSENT * before
            clear &= (pivot > THERE * before) | ~here
            ranks += here
            root = np.sqrt(np.where(here, pivot, 1.0))
            over = here / root
            R[a, a] = np.where(here, root, 0.0)
            for j in range(a + 1, r):
                R[a, j] = (S[a, j] - sum(R[k, a] * R[k, j] for k in range(a))) * over
            C[a] = (T[a] - sum(R[k, a][:, None] * C[k] for k in range(a))) * over[:, None]
        full = np.sum(ranks == r, axis=0)
        onto = T[:, :, d - self.Q.shape[1] :]
        return R, C.reshape(r * G, d, c), DD, ranks, full, np.all(clear, axis=0), gram, onto

    def _not_fixed(self, gram: np.ndarray, onto: np.ndarray, DD: np.ndarray) -> np.ndarray:
        """Where X does not fit the effects of a column of Z at all levels, (c,); ``gram``, ``onto`` as ``_sums`` has
        them."""
        p, c = self.Q.shape[1], DD.shape[2]
        q2 = self.d - p
        parts = [(gram, onto)]
        for place, A in zip(self.second, self.back[1:], strict=True):
            at = np.arange(place.start, place.stop).reshape(-1, len(A))
            own = DD[at[:, :, None], at[:, None]].sum(axis=0)
            parts.append((own, np.swapaxes(DD[place, q2:].reshape(*at.shape, p, c), 0, 1)))
        out = np.ones(c, dtype=bool)
        inverse = np.moveaxis(np.linalg.inv(np.moveaxis(DD[q2:, q2:], 2, 0)), 0, 2)
        for (squares, products), A in zip(parts, self.back, strict=True):
            fitted = np.einsum("agpc,bgqc,pqc->abc", products, products, inverse, optimize=True)
            whole, inside = (np.einsum("ai,abc,bi->ic", A, M, A, optimize=True) for M in (squares, fitted))
            out &= np.all(whole - inside > LEFT * whole, axis=0)
        return out

    def _differ(self, there: np.ndarray) -> np.ndarray:
        """Where no nested factor (c,) has become the same as that which it is nested in, on the rows ``there``."""
        out = np.ones(there.shape[1], dtype=bool)
        for inner, outer in self.nested:
            n_inner, n_outer = (
                np.count_nonzero(levels @ there.astype(np.float64), axis=0) for levels in (inner, outer)
            )
            out &= n_inner > n_outer
        return out

    def _remove(
        self, y: np.ndarray, w: np.ndarray, R: np.ndarray, C: np.ndarray, W: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """y less its least squares fit; the coefficients (d, c) of D and (r G, c) on Q1."""
        r, G, q2 = self.r, self.G, self.d - self.Q.shape[1]
        wy = w * y
        first = _forward(R, (self.Z1t @ wy).reshape(r, G, -1)).reshape(r * G, -1)
        onto = np.concatenate([self.Z2t @ wy, self.Q.T @ wy]) - np.einsum("wic,wc->ic", C, first)
        alpha = self.kept @ _solve(W, self.kept.T @ onto)
        first -= np.einsum("wic,ic->wc", C, alpha)
        self._give_to_others(C, alpha, first)
        effects = _backward(R, first.reshape(r, G, -1)).reshape(r * G, -1)
        return y - self.Q @ alpha[q2:] - self.Z2 @ alpha[:q2] - self.Z1 @ effects, alpha, first

    def _give_to_others(self, C: np.ndarray, alpha: np.ndarray, first: np.ndarray) -> None:
        """Where the split is not unique, as much as can be goes from ``first`` (r G, c) to ``alpha`` (d, c)."""
        if not self.null.shape[1]:
            return
        inside = np.einsum("wic,ik->kwc", C, self.null, optimize=True)
        gram = np.moveaxis(np.einsum("kwc,lwc->klc", inside, inside, optimize=True), 2, 0)
        onto = np.einsum("kwc,wc->ck", inside, first, optimize=True)
        shared = np.einsum("ckl,cl->kc", np.linalg.pinv(gram, rcond=CLEAR, hermitian=True), onto)
        first -= np.einsum("kwc,kc->wc", inside, shared)
        alpha += self.null @ shared


def _sparse(columns: Sequence[tuple[np.ndarray, np.ndarray]], shape: tuple[int, int]) -> scipy.sparse.csr_array:
    """Of the values (n,) and the numbers (n,) of a column in each row, several times."""
    n = shape[0]
    values = np.concatenate([value for value, _ in columns]) if columns else np.zeros(0)
    numbers = np.concatenate([number for _, number in columns]) if columns else np.zeros(0, dtype=np.intp)
    return scipy.sparse.csr_array((values, (np.tile(np.arange(n), len(columns)), numbers)), shape=shape)


def _inverse(whiteners: Sequence[np.ndarray], terms: Sequence[int]) -> np.ndarray:
    return np.asarray(scipy.linalg.block_diag(*(np.linalg.inv(whiteners[t]) for t in terms)))


def _nested(terms: Sequence[RandomTerm]) -> tuple[tuple[scipy.sparse.csr_array, scipy.sparse.csr_array], ...]:
    """Indicators (levels, n_obs) of pairs of factors: the first is nested in the second, and is not the same."""

    def indicators(term: RandomTerm) -> scipy.sparse.csr_array:
        n = len(term.codes)
        return scipy.sparse.csr_array((np.ones(n), (term.codes, np.arange(n))), shape=(term.n_levels, n))

    found = []
    for inner, outer in itertools.permutations(terms, 2):
        if inner.n_levels > outer.n_levels:
            cells = len(np.unique(inner.codes.astype(np.int64) * outer.n_levels + outer.codes))
            if cells == inner.n_levels:
                found.append((indicators(inner), indicators(outer)))
    return tuple(found)


def _turned(K: np.ndarray, M: np.ndarray) -> np.ndarray:
    """K M K' of M (i, i, c), symmetric."""
    return np.ascontiguousarray(np.moveaxis(K @ np.moveaxis(M, 2, 0) @ K.T, 0, 2))


def _squares(K: np.ndarray, M: np.ndarray) -> np.ndarray:
    """The diagonal of K'M K, (j, c)."""
    return np.asarray(np.einsum("ij,ikc,kj->jc", K, M, K, optimize=True))


def _power(values: np.ndarray) -> np.ndarray:
    """Powers of two next below, so that scaling is exact."""
    return np.asarray(np.exp2(np.floor(np.log2(values))))


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
