"""Cholesky factors of a batch of small matrices, (c, d, d), by matrix products alone.

The factor is made by halves: that of the first half, then what it leaves of the second (the Schur
complement). All but the smallest pieces are batched matrix products, which XLA does fast on every
device; its batched LAPACK can wait for ever where several threads call it on a CPU. The smallest
pieces are eliminated by a loop, which compiles in a fraction of the time of written-out code.
"""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["diagonals", "inverse_factor", "padded"]

# Up to this many rows the elimination is written out, and up to this many it is a loop.
WRITTEN = 3
LOOP = 9


def diagonals(M: jax.Array) -> jax.Array:
    """The diagonals (..., d) of square matrices (..., d, d).

    Here and below, constants are numpy's and slices plain: JAX would compile a program of its own for each other one.
    """
    d = M.shape[-1]
    return M.reshape(*M.shape[:-2], d * d)[..., :: d + 1]


def padded(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """x with so many zeros before and after it along an axis."""
    ends = [(before, after, 0) if n == axis else (0, 0, 0) for n in range(x.ndim)]
    return jax.lax.pad(x, np.zeros((), x.dtype), ends)


def inverse_factor(M: jax.Array) -> tuple[jax.Array, jax.Array]:
    """L^-1 (c, d, d) and log diag(L)^2 (c, d) for M = L L', M (c, d, d) positive definite."""
    inverse, diagonal = _factor(M)
    return inverse, 2 * jnp.log(diagonal)


def _factor(M: jax.Array) -> tuple[jax.Array, jax.Array]:
    d = M.shape[-1]
    if d <= WRITTEN:
        return _written_out(M)
    if d <= LOOP:
        return _eliminated(M)
    h = d // 2
    inverse1, diagonal1 = _factor(M[:, :h, :h])
    below = M[:, h:, :h] @ jnp.swapaxes(inverse1, 1, 2)
    inverse2, diagonal2 = _factor(M[:, h:, h:] - below @ jnp.swapaxes(below, 1, 2))
    corner = -(inverse2 @ below) @ inverse1
    inverse = jnp.concatenate([padded(inverse1, 2, 0, d - h), jnp.concatenate([corner, inverse2], axis=2)], axis=1)
    return inverse, jnp.concatenate([diagonal1, diagonal2], axis=1)


def _eliminated(M: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows of [M, I] less multiples of the rows above them, which leaves the pivots, and L^-1 times their roots."""
    d = M.shape[-1]
    below = np.arange(d)

    def step(j: jax.Array, rows: jax.Array) -> jax.Array:
        row = jax.lax.dynamic_index_in_dim(rows, j, 1, keepdims=False)
        column = jax.lax.dynamic_index_in_dim(rows, j, 2, keepdims=False)
        pivot = jax.lax.dynamic_index_in_dim(row, j, 1, keepdims=True)
        factor = jnp.where(below > j, column / pivot, 0.0)
        return rows - factor[:, :, None] * row[:, None, :]

    both = padded(M, 2, 0, d) + np.eye(d, 2 * d, d, dtype=M.dtype)
    rows = jax.lax.fori_loop(0, d, step, both)
    diagonal = jnp.sqrt(diagonals(rows[:, :, :d]))
    return rows[:, :, d:] / diagonal[:, :, None], diagonal


def _written_out(M: jax.Array) -> tuple[jax.Array, jax.Array]:
    d = M.shape[-1]
    L: dict[tuple[int, int], jax.Array] = {}
    for j in range(d):
        for i in range(j, d):
            rest = M[:, i, j]
            for k in range(j):
                rest = rest - L[i, k] * L[j, k]
            L[i, j] = jnp.sqrt(rest) if i == j else rest / L[j, j]
    inverse: dict[tuple[int, int], jax.Array] = {}
    for j in range(d):
        inverse[j, j] = 1 / L[j, j]
        for i in range(j + 1, d):
            inverse[i, j] = -functools.reduce(operator.add, (L[i, k] * inverse[k, j] for k in range(j, i))) / L[i, i]
    zero = np.zeros(len(M), M.dtype)
    rows = [jnp.stack([inverse.get((i, j), zero) for j in range(d)], axis=-1) for i in range(d)]
    return jnp.stack(rows, axis=-2), jnp.stack([L[j, j] for j in range(d)], axis=-1)
