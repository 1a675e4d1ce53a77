"""Which linear functions of the columns of a rank deficient X its rows determine.

Where some combination of levels has no row, an interaction has more columns than the rows tell apart. Those that
follow from the columns before them are not fitted, as in R; what the fit says then depends on which they are, unless
it is a function L of all columns that the rows of X make (Searle 1971, Linear Models, section 5.4): one that is
orthogonal to the null space of X.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimable", "dependent_columns"]

# A row counts as estimable where its part in the null space is smaller, relative to the row: R's estimability.
TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Estimable:
    """The columns of X that were fitted, and what its rows determine.

    Attributes
    ----------
    kept : ndarray of int, (p,)
        Positions of the columns that were fitted, among all.
    null : ndarray, (p_all, d)
        Orthonormal basis of the null space of all columns; d is 0 where X has full rank.
    """

    kept: np.ndarray
    null: np.ndarray

    @classmethod
    def whole(cls, p: int) -> Estimable:
        """Of p columns of full rank."""
        return cls(np.arange(p), np.zeros((p, 0)))

    @classmethod
    def without(cls, X: np.ndarray, dropped: Sequence[int]) -> Estimable:
        """Of X (n, p_all) less the columns ``dropped``, each a combination of columns before it."""
        p = X.shape[1]
        kept = np.setdiff1d(np.arange(p), dropped)
        null = np.zeros((p, len(dropped)))
        null[list(dropped), range(len(dropped))] = -1.0
        null[kept] = np.linalg.lstsq(X[:, kept], X[:, list(dropped)], rcond=None)[0]
        return cls(kept, np.linalg.qr(null)[0])

    def rows(self, L: np.ndarray) -> np.ndarray:
        """Whether each row of L (q, p_all) is determined, (q,); one with NaN is not."""
        with np.errstate(invalid="ignore"):
            away = np.sum((L @ self.null) ** 2, axis=1)
            return np.asarray((away <= TOLERANCE * np.sum(L * L, axis=1)) & np.isfinite(L).all(axis=1))

    def weights(self, L: np.ndarray) -> np.ndarray:
        """L (q, p_all) as weights of the coefficients that were fitted, (q, p); NaN in rows not determined."""
        return np.where(self.rows(L)[:, None], L[:, self.kept], np.nan)

    def within(self, L: np.ndarray) -> np.ndarray:
        """Those combinations of the rows of L (q, p_all) that are determined, (r, p_all)."""
        if not self.null.shape[1] or not len(L):
            return L
        left, size, _ = np.linalg.svd(L @ self.null)
        rank = int(np.sum(size > np.sqrt(TOLERANCE) * np.linalg.norm(L)))
        return np.asarray(left[:, rank:].T @ L)


def dependent_columns(X: np.ndarray, candidates: Sequence[int], tol: float) -> list[int]:
    """Those of the ``candidates`` that are combinations of columns before them, as R's ``qr`` finds them."""
    dropped, basis = [], np.zeros((len(X), 0))
    wanted = set(candidates)
    for j, column in enumerate(X.T):
        norm = float(np.linalg.norm(column))
        fresh = column / norm if norm > 0 else column
        for _ in range(2):  # once more, for what rounding left
            fresh = fresh - basis @ (basis.T @ fresh)
        left = float(np.linalg.norm(fresh))
        if left > tol:
            basis = np.column_stack([basis, fresh / left])
        elif j in wanted:
            dropped.append(j)
    return dropped
