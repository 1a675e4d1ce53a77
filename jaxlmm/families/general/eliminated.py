"""The arithmetic of the eliminated factor: small symmetric matrices of each group, as entries (G, c).

See ``moments``. H_g = (I + R_g Phi1 R_g')^-1 and what is made of it has r1 x r1 entries for each group, each an array
over groups and responses.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.entries import Entries, add, get
from jaxlmm.families.general.dense import inverse_factor
from jaxlmm.families.general.layout import Core, packed_pairs
from jaxlmm.families.parameters import lower_triangle

__all__ = [
    "blocks", "changed", "exchanged", "first_columns", "first_parameters", "groups", "onto_columns", "orderings",
    "pairings", "product", "sandwich", "sums", "times", "total",
]  # fmt: skip


def first_columns(core: Core) -> list[int]:
    """Where the columns of each eliminated term begin among those of Z1."""
    starts, at = [], 0
    for t in core.first:
        starts.append(at)
        at += core.sizes[t]
    return starts


def first_parameters(core: Core) -> list[tuple[int, int, int]]:
    """Position in phi, row and column in Phi1 of each parameter of the eliminated factor."""
    out = []
    for t, start in zip(core.first, first_columns(core), strict=True):
        for k, (i, j) in enumerate(zip(*lower_triangle(core.sizes[t]), strict=True)):
            out.append((core.offsets[t] + k, start + int(i), start + int(j)))
    return out


def orderings(i: int, j: int) -> list[tuple[int, int]]:
    """The elements of a symmetric matrix that the parameter (i, j) stands for."""
    return [(i, j)] if i == j else [(i, j), (j, i)]


def total(values: jax.Array) -> jax.Array:
    """Sum over the groups, (G, c) -> (c,); a product, which is much faster than a sum over an axis."""
    return np.ones(len(values), values.dtype) @ values  # type: ignore[return-value]


def sums(parts: Sequence[jax.Array], axis: int) -> list[jax.Array]:
    """Sums of several arrays of one shape over an axis, in one loop: what makes the arrays does not go to memory."""

    def plus(x: Sequence[jax.Array], y: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        return tuple(a + b for a, b in zip(x, y, strict=True))

    zeros = tuple(np.zeros((), x.dtype) for x in parts)
    return list(jax.lax.reduce(tuple(parts), zeros, plus, (axis,)))


def blocks(core: Core, phi: jax.Array) -> tuple[Entries, Entries, jax.Array]:
    """Phi1 (c,), H_g = (I + R_g Phi1 R_g')^-1 (G, c) and log|V1| (c,)."""
    r, R = core.r1, core.R
    Phi = {(i, j): phi[s] for s, i, j in first_parameters(core)}
    if r == 1:
        x = R[0, 0][:, None] ** 2 * Phi[0, 0]
        return Phi, {(0, 0): 1 / (1 + x)}, total(jnp.log1p(x))
    RPhi: Entries = {}
    for a in range(r):
        for j in range(r):
            RPhi[a, j] = add(R[a, i][:, None] * get(Phi, i, j) for i in range(r) if (i, j) in Phi or (j, i) in Phi)
    M = {(a, b): float(a == b) + add(RPhi[a, j] * R[b, j][:, None] for j in range(r)) for a, b in packed_pairs(r)}
    if r == 2:
        pivot = M[1, 1] - M[0, 1] ** 2 / M[0, 0]
        H01 = -M[0, 1] / (M[0, 0] * pivot)
        H00 = (1 - M[0, 1] * H01) / M[0, 0]
        return Phi, {(0, 0): H00, (0, 1): H01, (1, 1): 1 / pivot}, total(jnp.log(M[0, 0] * pivot))
    G, c = M[0, 0].shape
    whole = jnp.stack([jnp.stack([get(M, a, b) for b in range(r)], -1) for a in range(r)], -2)
    inverse, log_pivots = inverse_factor(whole.reshape(G * c, r, r))
    H = (jnp.swapaxes(inverse, 1, 2) @ inverse).reshape(G, c, r, r)
    return Phi, {(a, b): H[:, :, a, b] for a, b in packed_pairs(r)}, total(log_pivots.sum(1).reshape(G, c))


def times(H: Entries, x: list[jax.Array]) -> list[jax.Array]:
    """H_g x_g, entries (G, c)."""
    r = len(x)
    return [add(get(H, a, b) * x[b] for b in range(r)) for a in range(r)]


def onto_columns(core: Core, x: list[jax.Array]) -> list[jax.Array]:
    """R_g'x_g: from coordinates on Q1 to sums over the columns of Z1, r1 arrays (G, ..., c) each."""
    R = core.R.reshape(*core.R.shape, *[1] * (x[0].ndim - 1))
    return [add(R[a, j] * x[a] for a in range(core.r1)) for j in range(core.r1)]


def sandwich(L: list[list[jax.Array]], S: Entries) -> Entries:
    """L S L' for symmetric S; entries that broadcast to (G, c)."""
    r, rows = len(L), len(L)
    LS = [[add(L[a][b] * get(S, b, j) for b in range(r)) for j in range(r)] for a in range(rows)]
    return {(a, b): add(LS[a][j] * L[b][j] for j in range(r)) for a, b in packed_pairs(rows)}


def product(A: Entries, R: jax.Array, r: int) -> list[list[jax.Array]]:
    """A_g R_g for symmetric A_g."""
    return [[add(get(A, a, b) * R[b, j][:, None] for b in range(r)) for j in range(r)] for a in range(r)]


@functools.cache
def pairings(r: int, parameters: tuple[tuple[int, int], ...]) -> np.ndarray:
    """How tr(E_s B E_t B) for symmetric B (r, r) is made of products of B's entries, (k1, k1, pairs, pairs)."""
    number = {pair: n for n, pair in enumerate(packed_pairs(r))}
    k = len(parameters)
    out = np.zeros((k, k, len(number), len(number)))
    for m, n in np.ndindex(k, k):
        for a, b in orderings(*parameters[m]):
            for f, g in orderings(*parameters[n]):
                out[m, n, number[min(b, f), max(b, f)], number[min(g, a), max(g, a)]] += 1
    return out


def groups(core: Core, flat: jax.Array) -> list[jax.Array]:
    """Coordinates on Q1, (r1 * G, ...), as r1 arrays (G, ...)."""
    return list(flat.reshape(core.r1, core.G, *flat.shape[1:]))


def exchanged(core: Core, z: list[jax.Array], i: int, j: int) -> list[jax.Array]:
    """R_g E_s z_g for parameter (i, j) of Phi1: E_s z has z_j in row i and z_i in row j; z holds (G, vectors, c)."""
    R = core.R[:, :, :, None, None]
    return [R[a, i] * z[j] + (0 if i == j else R[a, j] * z[i]) for a in range(core.r1)]


def changed(HR: list[list[jax.Array]], i: int, j: int) -> Entries:
    """H R E_s R'H, by which the Schur complement falls as parameter (i, j) of Phi1 rises."""
    return {
        (a, b): (HR[a][i] * HR[b][j] + HR[a][j] * HR[b][i]) * (0.5 if i == j else 1.0)
        for a, b in packed_pairs(len(HR))
    }
