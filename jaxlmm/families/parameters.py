"""theta and phi: Cholesky factors and covariances of the random terms, and derivatives from one to the other.

For a term of r columns, theta holds the lower triangle of T by columns (lme4's order) and phi that of
Phi = T T'. So phi is quadratic in theta: its Jacobian is linear and its second derivatives are constants.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

__all__ = [
    "lower_triangle",
    "phi_from_theta",
    "second_derivatives",
    "theta_gradient",
    "theta_hessian",
    "theta_jacobian",
]


def lower_triangle(r: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the lower triangle of an (r, r) matrix, column by column."""
    column, row = np.triu_indices(r)
    return row, column


@functools.cache
def _second_derivatives(sizes: tuple[int, ...]) -> np.ndarray:
    k = sum(r * (r + 1) // 2 for r in sizes)
    D = np.zeros((k, k, k))
    start = 0
    for r in sizes:
        rows, columns = lower_triangle(r)
        at = {(i, j): start + n for n, (i, j) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True))}
        for (i, j), s in at.items():
            # Phi[i, j] = sum_l T[i, l] T[j, l] over l <= j <= i
            for l in range(j + 1):  # noqa: E741
                a, b = at[i, l], at[j, l]
                D[s, a, b] += 1
                D[s, b, a] += 1
        start += len(at)
    return D


def second_derivatives(sizes: Sequence[int]) -> np.ndarray:
    """d2 phi_s / d theta_a d theta_b, (k, k, k), for terms of ``sizes`` columns."""
    return _second_derivatives(tuple(int(r) for r in sizes))


def phi_from_theta(theta: Any, sizes: Sequence[int]) -> Any:
    """phi (k, c) of theta (k, c), numpy or JAX."""
    D = second_derivatives(sizes)
    # Products of pairs of theta, summed: phi is a sum of squares and products, so nothing is lost.
    return _quadratic(D, theta)


def _quadratic(D: np.ndarray, theta: Any) -> Any:
    parts = []
    for matrix in D:
        total = 0.0 * theta[0]
        for a, b in np.argwhere(np.triu(matrix)):
            total = total + (0.5 if a == b else 1.0) * float(matrix[a, b]) * theta[a] * theta[b]
        parts.append(total)
    if isinstance(theta, np.ndarray):
        return np.stack(parts)
    return jnp.stack(parts)


def theta_jacobian(theta: Any, sizes: Sequence[int]) -> Any:
    """d phi_s / d theta_a, (k, k, c)."""
    if len(theta) == 1:
        return 2.0 * theta[None]
    D = second_derivatives(sizes)
    xp: Any = np if isinstance(theta, np.ndarray) else jnp
    return xp.tensordot(D, theta, axes=(2, 0))


def theta_gradient(gradient: Any, jacobian: Any) -> Any:
    """Gradient in theta (k, c) of a function with ``gradient`` in phi (k, c)."""
    return (gradient[:, None] * jacobian).sum(0)


def theta_hessian(gradient: Any, hessian: Any, jacobian: Any, sizes: Sequence[int]) -> Any:
    """Hessian in theta (k, k, c) of a function with ``gradient`` (k, c) and ``hessian`` (k, k, c) in phi."""
    D = second_derivatives(sizes)
    k = len(D)
    inner = [[sum(hessian[s, t] * jacobian[t, b] for t in range(k)) for b in range(k)] for s in range(k)]
    out = [
        [
            sum(jacobian[s, a] * inner[s][b] for s in range(k)) + sum(D[s, a, b] * gradient[s] for s in range(k))
            for b in range(k)
        ]
        for a in range(k)
    ]
    if isinstance(gradient, np.ndarray):
        return np.array(out)
    return jnp.stack([jnp.stack(row) for row in out])
