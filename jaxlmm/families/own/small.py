"""Systems of a few equations for many responses at once, the response axis last: loops over the equations alone."""

from __future__ import annotations

import numpy as np

__all__ = ["full", "least_pivot", "products", "solved"]


def full(triangles: np.ndarray, p: int) -> np.ndarray:
    """Symmetric matrices (p, p, c) from lower triangles (p (p + 1) / 2, c), row by row."""
    out = np.empty((p, p, triangles.shape[1]))
    i, j = np.tril_indices(p)
    out[i, j] = out[j, i] = triangles
    return out


def products(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Lower triangles (p (p + 1) / 2, c) of the symmetric products over groups of A and B (p, G, c)."""
    i, j = np.tril_indices(len(A))
    if not A.shape[1]:
        return np.zeros((len(i), A.shape[2]))
    return np.stack([np.einsum("gc,gc->c", A[a], B[b]) for a, b in zip(i, j, strict=True)]) if len(i) else np.zeros(
        (0, A.shape[2])
    )  # fmt: skip


def least_pivot(M: np.ndarray) -> np.ndarray:
    """The least pivot (c,) in the elimination of M (p, p, c), at a diagonal of 1; -inf where there is none."""
    least, M = np.full(M.shape[2], np.inf), _unit_diagonal(M)[0]
    with np.errstate(all="ignore"):
        for k in range(len(M)):
            pivot = M[k, k].copy()
            np.minimum(least, np.where(pivot > 0, pivot, -np.inf), out=least)
            M[k + 1 :, k + 1 :] -= (M[k + 1 :, k] / pivot)[:, None] * M[k, k + 1 :]
    return np.where(np.isnan(least), -np.inf, least)


def solved(M: np.ndarray, v: np.ndarray) -> np.ndarray:
    """M^-1 v (p, c) for positive definite M (p, p, c) and v (p, c)."""
    M, d = _unit_diagonal(M)
    x = v * d
    with np.errstate(all="ignore"):
        for k in range(len(M)):
            factor = M[k + 1 :, k] / M[k, k]
            M[k + 1 :, k + 1 :] -= factor[:, None] * M[k, k + 1 :]
            x[k + 1 :] -= factor * x[k]
        for k in reversed(range(len(M))):
            x[k] = (x[k] - np.einsum("jc,jc->c", M[k, k + 1 :], x[k + 1 :])) / M[k, k]
    return x * d


def _unit_diagonal(M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M (p, p, c) scaled to a diagonal of 1, and the factors (p, c) of its rows and columns."""
    with np.errstate(all="ignore"):
        d = 1 / np.sqrt(np.einsum("jjc->jc", M))
        return M * d[:, None] * d, d
