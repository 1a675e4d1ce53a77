"""Small symmetric matrices, written out entry by entry: half of them is enough, and each is an array of any shape."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

__all__ = ["Entries", "add", "dot", "get", "once", "symmetric_product"]

Entries = dict[tuple[int, int], jax.Array]


def get(entries: Entries, i: int, j: int) -> jax.Array:
    """Element (i, j) of symmetric matrices."""
    return entries[(i, j) if (i, j) in entries else (j, i)]


def add(parts: Iterable[jax.Array]) -> jax.Array:
    """Sum of arrays; 0 of none."""
    first, *others = [*parts] or [jnp.zeros(())]
    return functools.reduce(operator.add, others, first)


def dot(x: Sequence[jax.Array], y: Sequence[jax.Array]) -> jax.Array:
    """Sum of products of arrays."""
    return add(a * b for a, b in zip(x, y, strict=True))


def symmetric_product(A: Entries, B: Entries, p: int) -> list[list[jax.Array]]:
    """A B of symmetric matrices (p, p)."""
    return [[add(get(A, i, n) * get(B, n, j) for n in range(p)) for j in range(p)] for i in range(p)]


def once(values: Sequence[jax.Array]) -> list[jax.Array]:
    """``values``, which the compiler is not to work out again in each loop that uses them."""
    return list(jax.lax.optimization_barrier(tuple(values)))
