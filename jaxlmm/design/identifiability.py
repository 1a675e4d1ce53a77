"""What counts as zero: one rule for designs, for the rows that a response has, and for bases.

A column counts as a combination of others where, at norm 1, it adds less than ``RANK_TOL`` to them. That is
the tolerance of lme4 (``chkRank.drop.cols``, ``rankMatrix`` by QR), so the same designs are accepted; at that
distance the coefficients still have half of their digits. Columns are centred first where X spans the constant
(see ``columns``): a time stamp does not count as constant for standing far from zero.

What is below ``rounding(n)`` of a column of norm 1 is the rounding of n products, and no direction of its own.
Everything above is kept, so that nothing which X identifies is dropped on the way.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

__all__ = ["RANK_TOL", "orthonormal_basis", "pivoted", "rounding"]

RANK_TOL = 1e-7


def rounding(n: int) -> float:
    """What rounding makes of a zero sum of n products of a column of norm 1."""
    return float(8 * np.finfo(np.float64).eps * np.sqrt(n))


def pivoted(unit: np.ndarray, tol: float = RANK_TOL) -> tuple[int, np.ndarray, np.ndarray]:
    """Rank of columns of norm 1, with the pivoted triangular factor R and the order of the columns in it."""
    R, order = scipy.linalg.qr(unit, mode="r", pivoting=True, check_finite=False)
    R = R[: unit.shape[1]]
    return int(np.sum(np.abs(np.diag(R)) > tol)), R, order


def orthonormal_basis(part: np.ndarray) -> np.ndarray:
    """Orthonormal basis (n, rank) of parts (n, p) of columns of norm 1; what is below rounding counts as 0."""
    n = part.shape[0]
    kept = np.linalg.norm(part, axis=0) > rounding(n)
    if not kept.any():
        return np.zeros((n, 0))
    Q, R, _ = scipy.linalg.qr(part[:, kept], mode="economic", pivoting=True, check_finite=False)
    rank = int(np.sum(np.abs(np.diag(R)) > rounding(n)))
    return np.ascontiguousarray(Q[:, :rank])
