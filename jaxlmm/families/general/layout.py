"""What a design with any random terms is reduced to, once: the tensors of ``moments`` and the reducer of Y.

The grouping factor with the most effects is eliminated first (all terms on its levels together): its
part of V is block-diagonal. With Z1 its columns, Z_g = Q_g R_g its rows of group g with Q_g
orthonormal, and D = [Z2, Q] everything else (d columns: the other terms, then the basis Q of X), all
that is kept of the design is

    R_g (r1, r1),   C_g = Q_g'D,   W = D'(I - Q1 Q1')D,   and the products of pairs of rows of C_g,

since the Schur complement D'V1^-1 D = W + sum_g C_g' H_g C_g is linear in H_g = (I + R_g Phi1 R_g')^-1:
for all responses together it is one matrix product.

Inside, the columns of each term are whitened (on average over the levels Z_g'Z_g is the identity), so
that phi and theta are free of units: phi = 1 says that a level knows as much of its effect as the
distribution of the effects does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import scipy.linalg
import scipy.sparse

from jaxlmm.design.random import RandomTerm

__all__ = ["Core", "Reducer", "make_core", "packed_pairs", "whitener"]

# Singular values of the rows of a group, and of D off Z1, relative to the columns' norms, that count as 0.
RANK_TOL = 1e-9
# A table of products of pairs with more entries than this is kept sparse where that is much smaller.
DENSE_ENTRIES = 4_000_000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Core:
    """A design's tensors; see the module's docstring.

    Attributes
    ----------
    R : (r1, r1, G)
    C : (r1 * G, d)
        Row a * G + g.
    W : (d, d)
    pairs : tuple of arrays
        Products of rows a <= b of C_g: one array (pairs * G, d * d), or values, rows and columns of its
        entries that are not 0; none where each response has a design of its own.
    W_root : (d, rank)
        Root of the pseudoinverse of W.
    sizes, levels : tuple of int, static
        Columns and levels of each term.
    first, second : tuple of int, static
        The terms of the factor that is eliminated, and the others.
    n_obs, n_rest : int
        ``n_rest`` = n_obs less the rank of [Z, Q]. Not static: designs of any number of observations share what is
        compiled.
    p : int, static
    """

    R: jax.Array
    C: jax.Array
    W: jax.Array
    pairs: tuple[jax.Array, ...]
    W_root: jax.Array
    sizes: tuple[int, ...] = field(metadata=dict(static=True))
    levels: tuple[int, ...] = field(metadata=dict(static=True))
    first: tuple[int, ...] = field(metadata=dict(static=True))
    second: tuple[int, ...] = field(metadata=dict(static=True))
    n_obs: int
    n_rest: int
    p: int = field(metadata=dict(static=True))

    @property
    def r1(self) -> int:
        """Columns of the factor that is eliminated."""
        return sum(self.sizes[t] for t in self.first)

    @property
    def G(self) -> int:
        """Levels of the factor that is eliminated."""
        return self.levels[self.first[0]]

    @property
    def q2(self) -> int:
        """Random effects of the other factors."""
        return sum(self.sizes[t] * self.levels[t] for t in self.second)

    @property
    def d(self) -> int:
        """Columns of D."""
        return self.q2 + self.p

    @property
    def n_phi(self) -> int:
        """Variance parameters beside sigma2."""
        return sum(r * (r + 1) // 2 for r in self.sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each term's parameters begin."""
        counts = [r * (r + 1) // 2 for r in self.sizes]
        return tuple(int(v) for v in np.cumsum([0, *counts[:-1]]))


@dataclass(frozen=True, eq=False)
class Reducer:
    """How Y becomes statistics, in numpy.

    Attributes
    ----------
    Q : ndarray, (n_obs, p)
        Orthonormal basis of X, rows multiplied by the roots of their weights.
    root_w : ndarray, (n_obs,), or None
    Q1, Z2 : sparse arrays, (n_obs, r1 * G) and (n_obs, q2)
    C : ndarray, (r1 * G, d)
    W_pinv : ndarray, (d, d)
    null, null_pinv : ndarrays
        Null space of W (d, k), and the pseudoinverse of C times it.
    n_rest : int
    """

    Q: np.ndarray
    root_w: np.ndarray | None
    Q1: scipy.sparse.csr_array
    Q1t: scipy.sparse.csr_array
    Z2: scipy.sparse.csr_array
    Z2t: scipy.sparse.csr_array
    C: np.ndarray
    W_pinv: np.ndarray
    null: np.ndarray
    null_pinv: np.ndarray
    n_rest: int


def packed_pairs(r: int) -> list[tuple[int, int]]:
    """Pairs a <= b below r."""
    return [(a, b) for a in range(r) for b in range(a, r)]


def whitener(term: RandomTerm, root_w: np.ndarray | None) -> np.ndarray:
    """Lower triangular A (r, r): the columns of Z A have the identity as their average Z_g'Z_g.

    With b = A b' the relative covariance is Phi = A Phi' A' and its Cholesky factor T = A T'.
    """
    Z = term.Z if root_w is None else term.Z * root_w[:, None]
    # The factor of Z'Z with the columns in reverse order is, turned round, upper times lower.
    R: np.ndarray = np.asarray(np.linalg.qr(Z[:, ::-1] / np.sqrt(term.n_levels), mode="r"))
    R = R * np.where(np.diag(R) < 0, -1.0, 1.0)[:, None]
    lower = R[::-1, ::-1]  # Z'Z / levels = lower' lower
    return scipy.linalg.solve_triangular(lower, np.eye(term.size), lower=True)


def make_core(
    Q: np.ndarray, root_w: np.ndarray | None, terms: Sequence[RandomTerm], columns: Sequence[np.ndarray]
) -> tuple[Core, Reducer]:
    """Tensors and reducer of a design.

    Parameters
    ----------
    Q : (n_obs, p)
        Orthonormal; rows multiplied by ``root_w``.
    root_w : (n_obs,) or None
        Roots of the weights.
    terms : sequence of RandomTerm
        At least one.
    columns : sequence of arrays, (n_obs, size)
        Whitened columns of the terms, rows multiplied by ``root_w``.
    """
    n, p = Q.shape
    first, second = _split(terms)
    codes, G = terms[first[0]].codes, terms[first[0]].n_levels
    Q1_rows, R = _group_bases(np.concatenate([columns[t] for t in first], axis=1), codes, G)
    r1, rows = len(R), np.arange(n)
    Q1 = scipy.sparse.csr_array(
        (Q1_rows.ravel(), ((np.repeat(rows, r1)), (np.arange(r1) * G + codes[:, None]).ravel())), shape=(n, r1 * G)
    )
    blocks = [_indicator(terms[t].codes, columns[t], terms[t].n_levels) for t in second]
    Z2 = scipy.sparse.csr_array(scipy.sparse.hstack(blocks)) if blocks else scipy.sparse.csr_array((n, 1))[:, :0]
    D = np.concatenate([Z2.toarray(), Q], axis=1)
    C = np.asarray(Q1.T @ D)
    C[np.abs(C) < 1e-15 * np.sqrt(n)] = 0.0
    within = D - Q1 @ C
    again = Q1.T @ within
    within -= Q1 @ again
    singular, Vt = _svd(within)
    rank = int(np.sum(singular > RANK_TOL * max(np.linalg.norm(D, axis=0).max(initial=0.0), 1e-300)))
    kept, null = Vt[:rank].T, Vt[rank:].T
    W = (kept * singular[:rank] ** 2) @ kept.T
    W_root = kept / singular[:rank]
    n_rest = n - int(np.sum(np.abs(R).sum(axis=1) > 0)) - rank
    null_pinv = np.linalg.pinv(C @ null, rcond=RANK_TOL)
    arrays: dict[str, Any] = dict(R=R, C=C, W=W, pairs=_pair_products(C, r1, G), W_root=W_root)
    sizes, levels = tuple(t.size for t in terms), tuple(t.n_levels for t in terms)
    core = Core(**arrays, sizes=sizes, levels=levels, first=first, second=second, n_obs=n, p=p, n_rest=n_rest)
    Q1t, Z2t = scipy.sparse.csr_array(Q1.T), scipy.sparse.csr_array(Z2.T)
    reducer = Reducer(Q, root_w, Q1, Q1t, Z2, Z2t, C, W_root @ W_root.T, null, null_pinv, n_rest)
    return core, reducer


def _svd(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values (d,) and right vectors (d, d) of a tall matrix."""
    R = np.linalg.qr(A, mode="r") if len(A) > A.shape[1] else A
    _, singular, Vt = np.linalg.svd(R, full_matrices=True)
    return np.pad(singular, (0, A.shape[1] - len(singular))), Vt


def _split(terms: Sequence[RandomTerm]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The terms of the factor with the most effects, and the others."""
    factors: list[list[int]] = []
    for t, term in enumerate(terms):
        for members in factors:
            if np.array_equal(terms[members[0]].codes, term.codes):
                members.append(t)
                break
        else:
            factors.append([t])
    chosen = max(factors, key=lambda members: sum(terms[t].size * terms[t].n_levels for t in members))
    return tuple(chosen), tuple(t for t in range(len(terms)) if t not in chosen)


def _indicator(codes: np.ndarray, Z: np.ndarray, n_levels: int) -> scipy.sparse.csr_array:
    """Z_t (n_obs, levels * r), column level * r + j."""
    n, r = Z.shape
    where = (codes[:, None] * r + np.arange(r)).ravel()
    return scipy.sparse.csr_array((Z.ravel(), (np.repeat(np.arange(n), r), where)), shape=(n, n_levels * r))


def _group_bases(Z: np.ndarray, codes: np.ndarray, G: int) -> tuple[np.ndarray, np.ndarray]:
    """Z_g = Q_g R_g: rows of Q (n_obs, r) and R (r, r, G); a direction that a group lacks is 0 in both."""
    n, r = Z.shape
    R = np.zeros((r, r, G))
    if r == 1:
        R[0, 0] = np.sqrt(np.bincount(codes, weights=Z[:, 0] ** 2, minlength=G))
        return Z / np.where(R[0, 0] > 0, R[0, 0], 1.0)[codes][:, None], R
    Q = np.zeros((n, r))
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(G + 1))
    for g in range(G):
        rows = order[ends[g] : ends[g + 1]]
        U, singular, Vt = np.linalg.svd(Z[rows], full_matrices=False)
        kept = singular > RANK_TOL * max(singular.max(initial=0.0), 1e-300)
        k = int(kept.sum())
        Q[rows, :k] = U[:, :k]
        R[:k, :, g] = singular[:k, None] * Vt[:k]
    return Q, R


def _pair_products(C: np.ndarray, r1: int, G: int) -> tuple[np.ndarray, ...]:
    d = C.shape[1]
    rows = C.reshape(r1, G, d)
    n_pairs = len(packed_pairs(r1))
    if n_pairs * G * d * d > DENSE_ENTRIES and np.count_nonzero(C) < 0.2 * C.size:
        return _sparse_pair_products(rows)
    table = np.empty((n_pairs, G, d * d))
    for k, (a, b) in enumerate(packed_pairs(r1)):
        product = rows[a][:, :, None] * rows[b][:, None, :]
        if a != b:
            product = product + product.transpose(0, 2, 1)
        table[k] = product.reshape(G, d * d)
    return (table.reshape(n_pairs * G, d * d),)


def _sparse_pair_products(rows: np.ndarray) -> tuple[np.ndarray, ...]:
    r1, G, d = rows.shape
    values, at, columns = [], [], []
    for k, (a, b) in enumerate(packed_pairs(r1)):
        for g in range(G):
            used = np.flatnonzero(rows[a, g].astype(bool) | rows[b, g].astype(bool))
            x, y = rows[a, g, used], rows[b, g, used]
            product = np.outer(x, y) if a == b else np.outer(x, y) + np.outer(y, x)
            i, j = np.nonzero(product)
            values.append(product[i, j])
            columns.append(used[i] * d + used[j])
            at.append(np.full(len(i), k * G + g))
    return np.concatenate(values), np.concatenate(at), np.concatenate(columns)
