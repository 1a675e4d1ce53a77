"""Designs whose random terms commute: all that is kept of them is a few strata.

Where each term has one column and the matrices G_t = Z_t Z_t' commute, they have eigenvectors in common, which do not
depend on phi (strata; Nelder 1965, Proc R Soc A 283:147):

    V = sum_S xi_S(phi) E_S,     xi_S = 1 + sum_t phi_t lam_St,     E_S the projector on stratum S

So complete crossed designs with cells of one size, nested factors whose inner levels have one size, and any number of
such terms, need no matrix of levels. A stratum of many dimensions is, for Q and y, a regression on its share of Q: of
U_S an orthonormal basis of the stratum's share E_S Q = U_S F_S are kept F_S, of a response its coordinates
h_S = U_S'y and what is left of it in the stratum, rest_S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import scipy.sparse

from jaxlmm.design.random import RandomTerm

__all__ = ["StrataCore", "StrataReducer", "make_strata"]

# Two products of the matrices G_t that differ by less than this, relative to their size, are the same.
COMMUTES = 1e-10
# Eigenvalues, relative to the largest, that count as 0, and that count as the same.
ZERO = 1e-9
SAME_DECIMALS = 12
# Entries of the eigenvectors, and arithmetic to find them: larger designs are left to ``layout``.
MOST_ENTRIES = 4_000_000
MOST_WORK = 2_000_000_000
# Rows for each level from where on sums over levels are worth it, and a ratio of eigenvalues whose root is what
# coordinates made of such sums may lose in precision.
WORTH_SUMS = 4
MOST_SPREAD = 100.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StrataCore:
    """A design's tensors; see the module's docstring.

    Attributes
    ----------
    F : (J, p)
        The rows of all F_S, one stratum after another.
    pairs : (J, p * p)
        Products of each row with itself.
    row_values : (J, k)
        lam of the stratum of each row.
    values, dims : (S, k), (S,)
        lam of the strata, and their dimensions.
    rest_values, rest_dims : (T, k), (T,)
        Of the strata that hold more than their share of Q, and the dimensions of what they hold beside it.
    sizes, levels : tuple of int, static
        Columns (1) and levels of each term.
    n_obs, n_rest : int
        ``n_rest`` = n_obs less the rank of [Z, Q]. Not static: designs of any number of observations share what is
        compiled.
    p : int, static
    """

    F: jax.Array
    pairs: jax.Array
    row_values: jax.Array
    values: jax.Array
    dims: jax.Array
    rest_values: jax.Array
    rest_dims: jax.Array
    sizes: tuple[int, ...] = field(metadata=dict(static=True))
    levels: tuple[int, ...] = field(metadata=dict(static=True))
    n_obs: int
    n_rest: int
    p: int = field(metadata=dict(static=True))

    @property
    def n_phi(self) -> int:
        """Variance parameters beside sigma2."""
        return len(self.sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each term's parameters begin."""
        return tuple(range(len(self.sizes)))

    @property
    def bytes_per_response(self) -> int:
        """Memory that one response takes while its moments are computed."""
        k, rows = self.n_phi, len(self.F) + len(self.values) + len(self.rest_values)
        return 8 * (rows * (3 + k + k * k) + self.p**2 * (4 + 2 * k + k * k))


@dataclass(frozen=True, eq=False)
class StrataReducer:
    """How Y becomes statistics, in numpy.

    Attributes
    ----------
    Q : ndarray, (n_obs, p)
        Orthonormal basis of X, rows multiplied by the roots of their weights.
    root_w : ndarray, (n_obs,), or None
    basis : ndarray, (n_obs, b)
        Orthonormal: all strata but that of the residuals, and in it its share of Q.
    sums : csr array, (levels, n_obs), or None
        Of y over the levels of each factor. They give the coordinates on the columns of ``basis`` that the factors
        span with far fewer products; None where there is little to gain, or digits to lose.
    turn : ndarray, (b', levels)
        From ``sums`` to the coordinates on the first b' columns of ``basis``.
    rows : ndarray of int, (J,)
        The columns of ``basis`` that span the shares of Q.
    rest : ndarray, (T', b)
        1 where a column belongs to what a stratum holds beside its share of Q, all but that of the residuals.
    n_rest : int
    """

    Q: np.ndarray
    root_w: np.ndarray | None
    basis: np.ndarray
    sums: scipy.sparse.csr_array | None
    turn: np.ndarray
    rows: np.ndarray
    rest: np.ndarray
    n_rest: int

    def onto_basis(self, y: np.ndarray) -> np.ndarray:
        """Coordinates (b, c) of y (n_obs, c) on ``basis``, in one pass."""
        if self.sums is None:
            return np.asarray(self.basis.T @ y)
        return np.concatenate([self.turn @ (self.sums @ y), self.basis[:, len(self.turn) :].T @ y])


def make_strata(
    Q: np.ndarray, root_w: np.ndarray | None, terms: Sequence[RandomTerm], columns: Sequence[np.ndarray]
) -> tuple[StrataCore, StrataReducer] | None:
    """Tensors and reducer of a design, or None where its terms do not commute (or it is too large to find out).

    Parameters
    ----------
    Q : (n_obs, p)
        Orthonormal; rows multiplied by ``root_w``.
    root_w : (n_obs,) or None
    terms : sequence of RandomTerm
    columns : sequence of arrays, (n_obs, size)
        Whitened columns of the terms, rows multiplied by ``root_w``.
    """
    (n, p), q = Q.shape, sum(t.n_levels for t in terms)
    if not p or any(t.size > 1 for t in terms) or n * q > MOST_ENTRIES or n * q * min(n, q) > MOST_WORK:
        return None
    Z = [
        scipy.sparse.csr_array((column[:, 0], (np.arange(n), t.codes)), shape=(n, t.n_levels))
        for t, column in zip(terms, columns, strict=True)
    ]
    if not _commute(Z) or (found := _eigenvectors(Z)) is None:
        return None
    strata = _strata(Q, *found)
    starts = np.cumsum([0, *(s.basis.shape[1] for s in strata)])
    rows = [start + np.arange(len(s.F)) for start, s in zip(starts, strata, strict=False)]
    inner, residual = [j for j, s in enumerate(strata[:-1]) if s.rest_dim], strata[-1]
    indicator = np.zeros((len(inner), starts[-1]))
    for row, j in zip(indicator, inner, strict=True):
        row[starts[j] + len(strata[j].F) : starts[j + 1]] = 1.0
    with_rest = [strata[j] for j in inner] + [residual]
    F = np.concatenate([s.F for s in strata])
    arrays: dict[str, Any] = dict(
        F=F,
        pairs=(F[:, :, None] * F[:, None]).reshape(-1, p * p),
        row_values=np.concatenate([np.tile(s.value, (len(s.F), 1)) for s in strata]),
        values=np.stack([s.value for s in strata]),
        dims=np.array([float(len(s.F) + s.rest_dim) for s in strata]),
        rest_values=np.stack([s.value for s in with_rest]),
        rest_dims=np.array([float(s.rest_dim) for s in with_rest]),
    )
    levels, n_rest = tuple(t.n_levels for t in terms), residual.rest_dim
    core = StrataCore(**arrays, sizes=(1,) * len(Z), levels=levels, n_obs=n, p=p, n_rest=n_rest)
    basis = np.hstack([s.basis for s in strata])
    reducer = StrataReducer(Q, root_w, basis, *_by_sums(Z, strata[:-1]), np.concatenate(rows), indicator, n_rest)
    return core, reducer


@dataclass(frozen=True, eq=False)
class _Stratum:
    """lam (k,); an orthonormal basis (n, b), its share of Q first; F (rank, p); the dimensions beside that share."""

    value: np.ndarray
    basis: np.ndarray
    F: np.ndarray
    rest_dim: int


def _strata(Q: np.ndarray, U: np.ndarray, values: np.ndarray) -> list[_Stratum]:
    """The strata spanned by the eigenvectors U (n, rank) with ``values`` (rank, k), and that of the residuals, which
    has a basis of its share of Q alone."""
    n, least = len(Q), 8 * np.finfo(np.float64).eps * np.sqrt(len(Q))
    labels, which = np.unique(np.round(values / values.max(), SAME_DECIMALS), axis=0, return_inverse=True)
    out = []
    for s in range(len(labels)):
        members = U[:, which.reshape(-1) == s]
        turn, singular, Vt = np.linalg.svd(members.T @ Q, full_matrices=True)
        rank = int(np.sum(singular > least))
        value = values[which.reshape(-1) == s].mean(axis=0)
        out.append(_Stratum(value, members @ turn, singular[:rank, None] * Vt[:rank], members.shape[1] - rank))
    within = Q - U @ (U.T @ Q)
    within -= U @ (U.T @ within)
    share, singular, Vt = np.linalg.svd(within, full_matrices=False)
    rank = int(np.sum(singular > least))
    F = singular[:rank, None] * Vt[:rank]
    return [*out, _Stratum(np.zeros(values.shape[1]), share[:, :rank], F, n - U.shape[1] - rank)]


def _by_sums(
    Z: Sequence[scipy.sparse.csr_array], strata: Sequence[_Stratum]
) -> tuple[scipy.sparse.csr_array | None, np.ndarray]:
    """``sums`` and ``turn`` of a reducer: U_S is Z Z'U_S over sum_t lam_St, of all columns Z of the factors."""
    columns = scipy.sparse.hstack(Z, format="csr")
    total = np.concatenate([np.full(s.basis.shape[1], s.value.sum()) for s in strata])
    if columns.shape[1] * WORTH_SUMS > len(strata[0].basis) or total.max() > MOST_SPREAD * total.min():
        return None, np.zeros((0, 0))
    turn = (columns.T @ np.hstack([s.basis for s in strata]) / total).T
    made = columns @ turn.T
    turn -= 0.5 * (made.T @ made - np.eye(len(turn))) @ turn  # rounding of U_S, which now counts for more
    return scipy.sparse.csr_array(columns.T), np.ascontiguousarray(turn)


def _commute(Z: Sequence[scipy.sparse.csr_array]) -> bool:
    """Whether all Z_t Z_t' commute, seen on random vectors, on which matrices that do not differ for certain."""
    x = np.random.default_rng(0).standard_normal((Z[0].shape[0], 3))
    once = [z @ (z.T @ x) for z in Z]
    for t in range(len(Z)):
        for u in range(t):
            one, other = Z[t] @ (Z[t].T @ once[u]), Z[u] @ (Z[u].T @ once[t])
            if np.abs(one - other).max() > COMMUTES * max(np.abs(one).max(), np.abs(other).max()):
                return False
    return True


def _eigenvectors(Z: Sequence[scipy.sparse.csr_array]) -> tuple[np.ndarray, np.ndarray] | None:
    """Common eigenvectors (n, rank) of all Z_t Z_t', but for those on which all are 0, and their eigenvalues."""
    # Of a sum with factors of which no ratio is that of small numbers, so that it tells the terms apart.
    weights = np.sqrt(1 + np.pi * np.arange(len(Z)))
    U, singular, _ = np.linalg.svd(np.hstack([w * z.toarray() for w, z in zip(weights, Z, strict=True)]), False)
    U = U[:, singular > ZERO * singular.max()]
    moved = [z @ (z.T @ U) for z in Z]
    values = np.stack([np.einsum("nj,nj->j", U, m) for m in moved], axis=1)
    largest = values.max()
    if any(np.abs(m - U * v).max() > ZERO * largest for m, v in zip(moved, values.T, strict=True)):
        return None
    return U, np.where(values > ZERO * largest, values, 0.0)
