"""Covariance matrices of random terms as an optimiser sees them: Cholesky factors, singular ones, the cone they form.

theta (k, c) holds the lower triangles of the factors T of c responses, term by term, column by column; Phi = T T'.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

__all__ = [
    "cone", "factors", "free_parameters", "is_singular", "orientation", "rounded", "semidefinite_factor", "theta_of",
    "triangle",
]  # fmt: skip

# D may be negative by this much of its own size, which is what rounding leaves of 0.
TOL_CONE = 1e-7


@functools.cache
def triangle(r: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the lower triangle of an (r, r) matrix, column by column."""
    column, row = np.triu_indices(r)
    return column, row


def _eigh(M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``numpy.linalg.eigh`` of matrices (c, r, r), which takes long for many small ones."""
    if M.shape[1] == 1:
        return M[:, 0], np.ones_like(M)
    if M.shape[1] > 2:
        values, vectors = np.linalg.eigh(M)
        return values, vectors
    # One of Jacobi's rotations.
    a, b, d = M[:, 0, 0], M[:, 1, 0], M[:, 1, 1]
    ratio = (d - a) / np.where(b == 0, 1.0, 2 * b)
    t = np.where(b == 0, 0.0, np.where(ratio >= 0, 1.0, -1.0) / (np.abs(ratio) + np.hypot(1.0, ratio)))
    cosine = 1 / np.sqrt(1 + t * t)
    sine, values = t * cosine, np.stack([a - t * b, d + t * b], axis=1)
    vectors = np.stack([np.stack([cosine, sine], axis=1), np.stack([-sine, cosine], axis=1)], axis=1)
    order = np.argsort(values, axis=1)
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(vectors, order[:, None], axis=2)


def factors(theta: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """T (c, r, r) of each term."""
    out, start = [], 0
    for r in sizes:
        column, row = triangle(r)
        T = np.zeros((theta.shape[1], r, r))
        T[:, row, column] = theta[start : start + len(row)].T
        start += len(row)
        out.append(T)
    return out


def theta_of(T: np.ndarray) -> np.ndarray:
    """theta (r (r + 1) / 2, c) of T (c, r, r)."""
    column, row = triangle(T.shape[1])
    return np.ascontiguousarray(T[:, row, column].T)


def semidefinite_factor(Phi: np.ndarray, tol: float = 1e-14) -> np.ndarray:
    """Lower factor (c, r, r) of covariance matrices that may be singular: a pivot of 0 has a column of 0."""
    T = np.zeros_like(Phi)
    r = Phi.shape[1]
    for j in range(r):
        pivot = Phi[:, j, j] - np.einsum("ck,ck->c", T[:, j, :j], T[:, j, :j])
        kept = pivot > tol * np.maximum(Phi[:, j, j], 1e-300)
        T[:, j, j] = np.where(kept, np.sqrt(np.where(kept, pivot, 1.0)), 0.0)
        for i in range(j + 1, r):
            rest = Phi[:, i, j] - np.einsum("ck,ck->c", T[:, i, :j], T[:, j, :j])
            T[:, i, j] = np.where(kept, rest / np.where(kept, T[:, j, j], 1.0), 0.0)
    return T


def is_singular(T: np.ndarray) -> np.ndarray:
    return np.asarray(np.any(np.diagonal(T, axis1=1, axis2=2) == 0, axis=1))


def orientation(theta: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Signs (k, c) of the columns of T with which their diagonal is not negative."""
    parts = []
    for T in factors(theta, sizes):
        signs = np.ones(T.shape)
        signs[:] = np.where(np.einsum("cii->ci", T) < 0, -1.0, 1.0)[:, None, :]
        parts.append(theta_of(signs))
    return np.concatenate(parts)


def rounded(theta: np.ndarray, sizes: Sequence[int], near_zero: float) -> tuple[np.ndarray, np.ndarray]:
    """theta with positive diagonals and small eigenvalues of Phi at 0, and which responses had some."""
    parts, close = [], np.zeros(theta.shape[1], bool)
    for T in factors(theta, sizes):
        Phi = T @ T.swapaxes(1, 2)
        values, vectors = _eigh(np.where(np.isfinite(Phi), Phi, 0.0))
        small = values < near_zero * np.maximum(1.0, values[:, -1:] * 1e-4)
        near = np.asarray(small.any(axis=1))
        kept = np.where(small, 0.0, values)
        lower = semidefinite_factor((vectors * kept[:, None, :]) @ vectors.swapaxes(1, 2), tol=1e-12)
        parts.append(theta_of(np.where(near[:, None, None], lower, T)))
        close |= near
    return np.concatenate(parts), close


def free_parameters(theta: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Which parameters move while columns of T that are 0 stay so, (k, c)."""
    parts = []
    for T in factors(theta, sizes):
        moves = np.zeros(T.shape)
        moves[:] = (np.einsum("cii->ci", T) != 0)[:, None, :]
        parts.append(theta_of(moves))
    return np.concatenate(parts)


def cone(theta: np.ndarray, slope: np.ndarray, sizes: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each term the lowest eigenvalue (c,) of D, 0 where it is not below rounding, and its vector (c, r)."""
    out, start = [], 0
    for r in sizes:
        column, row = triangle(r)
        D = np.zeros((theta.shape[1], r, r))
        part = slope[start : start + len(row)].T * np.where(row == column, 1.0, 0.5)
        D[:, row, column] = D[:, column, row] = np.where(np.isfinite(part), part, 0.0)
        start += len(row)
        values, vectors = _eigh(D)
        tolerance = TOL_CONE * (1 + np.abs(values).max(axis=1))
        out.append((np.where(values[:, 0] < -tolerance, values[:, 0], 0.0), vectors[:, :, 0]))
    return out
