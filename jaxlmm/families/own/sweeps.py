"""Small symmetric matrices of many responses, swept (Goodnight 1979, The American Statistician 33, 149-158).

The responses are the last axis. Up to UNROLLED rows a matrix is written out entry by entry in the program's text, its
lower triangle alone, which is fastest; for larger ones compiling would take too long.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.entries import Entries, add, get

__all__ = [
    "UNROLLED", "apply", "diagonal", "inverse", "plus", "positive", "sweep", "triangle", "unpacked",
]  # fmt: skip

UNROLLED = 8


def positive(pivot: jax.Array) -> jax.Array:
    """The pivot of a positive definite matrix, else NaN, which all that comes after inherits."""
    return jnp.where(pivot > 0, pivot, jnp.nan)


def triangle(S: jax.Array, n: int) -> Entries:
    """The entries of lower triangles (n (n + 1) / 2, ...), row by row."""
    return {(int(i), int(j)): S[k] for k, (i, j) in enumerate(zip(*np.tril_indices(n), strict=True))}


def plus(A: Entries, W: jax.Array) -> Entries:
    """A and, in its first rows and columns, W (p, p, ...)."""
    return {(i, j): value + W[i, j] if i < len(W) else value for (i, j), value in A.items()}


def sweep(A: Entries, k: int) -> Entries:
    """A swept on row k: of all rows that are swept, the inverse of their block stands there, times -1."""
    inverse = 1 / positive(A[k, k])
    out = {}
    for i, j in A:
        if i == j == k:
            out[i, j] = -inverse
        elif k in (i, j):
            out[i, j] = A[i, j] * inverse
        else:
            out[i, j] = A[i, j] - get(A, i, k) * get(A, j, k) * inverse
    return out


def inverse(M: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inverses of M (p, p, ...), and their pivots (p, ...); NaN where M is not positive definite."""
    p = len(M)
    if not p:
        return M, jnp.reshape(M, (0, *M.shape[2:]))
    found, pivots = _written_out(M) if p <= UNROLLED else _in_a_loop(M)
    # A bad pivot makes NaN of all after it; what came before it must not pass for a result either.
    return jnp.where(jnp.isnan(pivots[-1]), jnp.nan, found), pivots


def _written_out(M: jax.Array) -> tuple[jax.Array, jax.Array]:
    p, pivots = len(M), []
    A = {(i, j): M[i, j] for i in range(p) for j in range(i + 1)}
    for k in range(p):
        pivots.append(positive(A[k, k]))
        A = sweep(A, k)
    rows = [jnp.stack([-get(A, i, j) for j in range(p)]) for i in range(p)]
    return jnp.stack(rows), jnp.stack(pivots)


def _in_a_loop(M: jax.Array) -> tuple[jax.Array, jax.Array]:
    numbers = np.arange(len(M)).reshape(-1, *[1] * (M.ndim - 2))

    def one(k: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        M, pivots = state
        at, pivot = numbers == k, positive(M[k, k])
        row = jnp.where(at, -1.0, M[k])
        M = jnp.where(at | at[:, None], 0.0, M) - row[:, None] * row * (1 / pivot)
        return M, jnp.where(at, pivot, pivots)

    M, pivots = jax.lax.fori_loop(0, len(M), one, (M, jnp.zeros_like(M[0])))
    return -M, pivots


def unpacked(S: jax.Array, p: int) -> jax.Array:
    """Symmetric matrices (p, p, ...) from their lower triangles (p (p + 1) / 2, ...), row by row."""
    index = np.zeros((p, p), dtype=np.intp)
    rows, columns = np.tril_indices(p)
    index[rows, columns] = index[columns, rows] = np.arange(len(rows))
    if p > UNROLLED:
        return S[index]
    if not p:
        return jnp.reshape(S, (0, 0, *S.shape[1:]))
    return jnp.stack([S[k] for k in index.ravel()]).reshape(p, p, *S.shape[1:])


def apply(A: jax.Array, x: jax.Array) -> jax.Array:
    """A x of matrices (i, j, c) and vectors (j, c)."""
    return add(A[:, j] * x[j] for j in range(len(x))) if len(x) else jnp.sum(A * x, axis=1)


def diagonal(M: jax.Array) -> jax.Array:
    """The diagonals (p, ...) of M (p, p, ...)."""
    return jnp.stack([M[j, j] for j in range(len(M))]) if len(M) else jnp.reshape(M, (0, *M.shape[2:]))
