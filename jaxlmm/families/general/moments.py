"""pwrss, log-determinants and their derivatives in phi for any random terms, in JAX (see ``layout``).

V = V1 + Z2 Phi2 Z2' with V1 = I + Z1 Phi1 Z1' block-diagonal. With Lam2 Lam2' = Phi2, Lam = diag(Lam2, I)
and A = D'V1^-1 D the whole of the rest is one small matrix M = Lam' A Lam + diag(I, 0):

    log|V| + log|Q'V^-1 Q| = log|V1| + log|M|,     P = V1^-1 - V1^-1 D X D'V1^-1,    X = Lam M^-1 Lam'

(the leading block of M alone gives log|V|). Only Lam2 enters, never its inverse, so a variance may be 0
and a covariance singular. The first derivatives are tr(P G_s) and -y'P G_s P y, the second
-tr(P G_s P G_t) and 2 y'P G_s P G_t P y; all are sums over blocks of Z'PZ and Z'Py.

Of a response are kept coordinates b1 of y0 = y less the share a2 of the other effects on Z1, and what
[Z, Q] leaves (``reduce``). The residuals y0 + D delta at given phi are formed before they are squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.base import Covariance, Moments
from jaxlmm.families.entries import Entries, add, get
from jaxlmm.families.general.dense import diagonals, inverse_factor, padded
from jaxlmm.families.general.eliminated import (
    blocks,
    changed,
    exchanged,
    first_columns,
    first_parameters,
    groups,
    onto_columns,
    orderings,
    pairings,
    product,
    sandwich,
    times,
    total,
)  # fmt: skip
from jaxlmm.families.general.layout import Core, packed_pairs
from jaxlmm.families.parameters import lower_triangle

__all__ = [
    "Stats",
    "conditional",
    "covariance",
    "estimates",
    "information",
    "moments",
    "node_parts",
    "pwrss_logdet",
]


# Rows of a matrix product at nodes.
NODE_ROWS = 512


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stats:
    """Of c responses: ``rest`` (c,), ``b`` (r1 * G, c), ``a`` (q2, c), ``ols`` (p, c); see ``reduce``."""

    rest: jax.Array
    b: jax.Array
    a: jax.Array
    ols: jax.Array


@dataclass(frozen=True)
class _Factored:
    """The model at given phi: H_g by entries (G, c); A; factors T of Phi2; L^-1 of M and the log of its pivots."""

    Phi1: Entries
    H: Entries
    logdet1: jax.Array
    A: jax.Array
    T: list[Entries]
    inverse: jax.Array
    log_pivots: jax.Array


@dataclass(frozen=True)
class _Solved:
    """Of responses at given phi: pwrss ``s``, solution ``u`` (c, d) of M, D'V^-1 r ``w`` (c, d), Z1'V^-1 r ``z``."""

    s: jax.Array
    u: jax.Array
    w: jax.Array
    z: list[jax.Array]


def moments(core: Core, phi: jax.Array, stats: Stats, *, reml: bool) -> Moments:
    """See ``families.base.Family.moments``."""
    at = factor(core, phi)
    solved = solve(core, at, stats)
    l, l1, l2 = _logdet(core, at, reml)  # noqa: E741
    s1, s2 = _pwrss_derivatives(core, at, solved)
    return Moments(solved.s, s1, s2, l, l1, l2)


def node_parts(core: Core, phi: jax.Array, stats: Stats, *, reml: bool) -> tuple[jax.Array, jax.Array]:
    """pwrss (K, c) and log-determinants (K,) at phi (k, K) that all responses share.

    pwrss is y1'V1^-1 y1 less the squares of L^-1 Lam'D'V1^-1 y1, for y1 = y0 + Z2 a: matrix products. The digits
    that the difference loses do not matter where only the lowest node is looked for.
    """
    q2, n = core.q2, phi.shape[1]
    b, W2 = stats.b, core.W[:, :q2]
    if q2:
        b = b + core.C[:, :q2] @ stats.a
    own = stats.rest + jnp.sum(stats.a * (W2[:q2] @ stats.a), axis=0)
    y1, both = groups(core, b), jnp.concatenate([b, stats.a])
    squares = jnp.concatenate([y1[i] * y1[j] for i, j in packed_pairs(core.r1)])

    def some(phi: jax.Array) -> tuple[jax.Array, jax.Array]:
        at = factor(core, phi)
        H = jnp.concatenate([at.H[i, j] * (1 if i == j else 2) for i, j in packed_pairs(core.r1)])
        HC = times({pair: entry[:, None] for pair, entry in at.H.items()}, groups(core, core.C[:, :, None]))
        onto = jnp.concatenate([jnp.concatenate(HC), jnp.broadcast_to(W2.T[:, :, None], (q2, core.d, phi.shape[1]))])
        rows = at.inverse @ _scale(core, at.T, jnp.transpose(onto, (2, 1, 0)), transpose=True)
        explained = (rows.reshape(-1, len(both)) @ both).reshape(phi.shape[1], core.d, -1)
        return H.T @ squares - jnp.sum(explained * explained, axis=1), _logdet_value(core, at, reml)

    # So many nodes at once that their rows are as many as a product needs to be fast.
    together = max(g for g in (1, 2, 4, 8, 16, 32) if g == 1 or (n % g == 0 and g * core.d <= NODE_ROWS))
    s, l = jax.lax.map(some, jnp.moveaxis(phi.reshape(len(phi), -1, together), 1, 0))  # noqa: E741
    return own + s.reshape(n, -1), l.reshape(n)


def estimates(core: Core, phi: jax.Array, stats: Stats) -> tuple[jax.Array, jax.Array]:
    """pwrss (c,) and coefficients (p, c) of Q."""
    solved = solve(core, factor(core, phi), stats)
    return solved.s, stats.ols + solved.u[:, core.q2 :].T


def pwrss_logdet(core: Core, phi: jax.Array, stats: Stats, *, reml: bool) -> tuple[jax.Array, jax.Array]:
    """pwrss (c,) and log-determinants (c,) at phi (k, c)."""
    at = factor(core, phi)
    return solve(core, at, stats).s, _logdet_value(core, at, reml)


def information(core: Core, phi: jax.Array, *, reml: bool) -> tuple[jax.Array, jax.Array]:
    """First and second derivatives (k, c), (k, k, c) in phi of the log-determinants."""
    return _logdet(core, factor(core, phi), reml)[1:]


# Parameters ----------------------------------------------------------------------------------------


def _second_parameters(core: Core) -> list[tuple[int, int, int, int]]:
    """Position in phi, number among the second terms, row and column of each other parameter."""
    out = []
    for number, t in enumerate(core.second):
        for k, (i, j) in enumerate(zip(*lower_triangle(core.sizes[t]), strict=True)):
            out.append((core.offsets[t] + k, number, int(i), int(j)))
    return out


def singular_cholesky(Phi: Entries, r: int) -> Entries:
    """Lower Cholesky factor of a covariance matrix that may be singular: a pivot of 0 has a column of 0."""
    T: Entries = {}
    for j in range(r):
        pivot = Phi[j, j] - sum((T[j, k] ** 2 for k in range(j)), start=0.0)
        pivot = jnp.where(pivot > 1e-15 * Phi[j, j], pivot, 0.0)
        T[j, j] = jnp.sqrt(pivot)
        for i in range(j + 1, r):
            rest = Phi[i, j] - sum((T[i, k] * T[j, k] for k in range(j)), start=0.0)
            T[i, j] = jnp.where(pivot > 0, rest / jnp.where(pivot > 0, T[j, j], 1.0), 0.0)
    return T


# The eliminated factor -----------------------------------------------------------------------------


def _schur(core: Core, H: Entries) -> jax.Array:
    """sum_g C_g' S_g C_g (c, d, d) for symmetric S_g of entries (G, c)."""
    d = core.d
    if not core.pairs:
        own = groups(core, core.C)
        HC = times({pair: entry.T[:, :, None] for pair, entry in H.items()}, own)
        return add(jnp.swapaxes(row, 0, 1) @ part for row, part in zip(own, HC, strict=True))
    S = jnp.concatenate([H[pair] for pair in packed_pairs(core.r1)])
    if len(core.pairs) == 1:
        return jnp.einsum("wc,wx->cx", S, core.pairs[0]).reshape(-1, d, d)
    values, rows, columns = core.pairs
    flat = jnp.zeros((d * d, S.shape[1]), S.dtype).at[columns].add(values[:, None] * S[rows])
    return flat.T.reshape(-1, d, d)


def _dual(core: Core, X: jax.Array) -> Entries:
    """C_g X C_g' of entries (G, c), for symmetric X (c, e, e), e <= d; rows beyond e are 0."""
    c, e, _ = X.shape
    if e < core.d:
        X = jnp.pad(X, ((0, 0), (0, core.d - e), (0, core.d - e)))
    flat, pairs = X.reshape(c, -1), packed_pairs(core.r1)
    if not core.pairs:
        own = groups(core, core.C)
        return {(a, b): jnp.sum((own[a] @ X) * own[b], axis=2).T for a, b in pairs}
    if len(core.pairs) == 1:
        out = jnp.einsum("wx,cx->wc", core.pairs[0], flat)
    else:
        values, rows, columns = core.pairs
        out = jnp.zeros((len(pairs) * core.G, c), X.dtype).at[rows].add(values[:, None] * flat.T[columns])
    parts = out.reshape(len(pairs), core.G, c)
    return {(a, b): parts[k] * (1.0 if a == b else 0.5) for k, (a, b) in enumerate(pairs)}


# The other terms -----------------------------------------------------------------------------------


def _scale(core: Core, T: list[Entries], X: jax.Array, *, transpose: bool) -> jax.Array:
    """Lam X or Lam' X along axis 1 of X (c, d, ...), or of its first q2 rows alone."""
    parts, start = [], 0
    for number, t in enumerate(core.second):
        r, levels, factor = core.sizes[t], core.levels[t], T[number]
        block = X[:, start : start + r * levels]
        start += r * levels
        ones = (1,) * (X.ndim - 2)
        if r == 1:
            parts.append(block * factor[0, 0].reshape(-1, 1, *ones))
            continue
        rows = block.reshape(len(X), levels, r, *X.shape[2:])
        out = []
        for i in range(r):
            used = range(i, r) if transpose else range(i + 1)
            entry = [factor[(j, i) if transpose else (i, j)].reshape(-1, 1, *ones) for j in used]
            out.append(add(e * rows[:, :, j] for e, j in zip(entry, used, strict=True)))
        stacked = jnp.stack(out, axis=2)
        parts.append(stacked.reshape(len(stacked), levels * r, *X.shape[2:]))
    if X.shape[1] > start:
        parts.append(X[:, start:])
    return jnp.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def _both_sides(core: Core, T: list[Entries], X: jax.Array, *, transpose: bool) -> jax.Array:
    """Lam X Lam' or Lam' X Lam for symmetric X (c, e, e)."""
    if not core.second:
        return X
    half = _scale(core, T, X, transpose=transpose)
    return _scale(core, T, jnp.swapaxes(half, 1, 2), transpose=transpose)


def _levels(core: Core, number: int, x: jax.Array) -> jax.Array:
    """Part of one term of x (c, q2, ...), as (c, levels, r, ...)."""
    start = sum(core.sizes[t] * core.levels[t] for t in core.second[:number])
    t = core.second[number]
    r, levels = core.sizes[t], core.levels[t]
    return x[:, start : start + r * levels].reshape(len(x), levels, r, *x.shape[2:])


def _spread(core: Core, number: int, i: int, j: int, x: jax.Array) -> jax.Array:
    """E_s x (c, q2, ...) for parameter (i, j) of a term: its columns i and j of x change places, all else is 0."""
    part = _levels(core, number, x)
    r = part.shape[2]
    out = add(padded(part[:, :, b : b + 1], 2, a, r - 1 - a) for a, b in orderings(i, j))
    before = sum(core.sizes[t] * core.levels[t] for t in core.second[:number])
    flat = out.reshape(len(x), -1, *x.shape[2:])
    return padded(flat, 1, before, core.q2 - before - flat.shape[1])


# The solution --------------------------------------------------------------------------------------


def _onto_d(core: Core, x: list[jax.Array]) -> jax.Array:
    """sum_g C_g' x_g, (c, d)."""
    return jnp.einsum("wd,wc->cd", core.C, jnp.concatenate(x))


def _matvec(A: jax.Array, x: jax.Array) -> jax.Array:
    """A x for A (c or 1, i, j) and x (c, j)."""
    if A.shape[0] == 1:
        return x @ A[0].T
    return jnp.matmul(A, x[:, :, None])[:, :, 0]


def factor(core: Core, phi: jax.Array) -> _Factored:
    """The model at phi (k, c), or (k, 1) where all responses share it."""
    Phi1, H, logdet1 = blocks(core, phi)
    A = core.W + _schur(core, H)
    T = []
    for t in core.second:
        pairs = list(zip(*lower_triangle(core.sizes[t]), strict=True))
        T.append(singular_cholesky({(int(i), int(j)): phi[core.offsets[t] + k] for k, (i, j) in enumerate(pairs)},
                                   core.sizes[t]))  # fmt: skip
    unit = np.diag(np.repeat([1.0, 0.0], [core.q2, core.p])).astype(A.dtype)
    M = _both_sides(core, T, A, transpose=True) + unit
    inverse, log_pivots = inverse_factor(M)
    return _Factored(Phi1, H, logdet1, A, T, inverse, log_pivots)


def solve(core: Core, at: _Factored, stats: Stats) -> _Solved:
    """The responses at the phi of ``at``."""
    q2, A, H = core.q2, at.A, at.H
    b = groups(core, stats.b)
    Hb = times(H, b)
    base = stats.rest + add(total(x * y) for x, y in zip(b, Hb, strict=True))
    v, a = _onto_d(core, Hb), stats.a.T
    right = v + _matvec(A[:, :, :q2], a) if q2 else v
    right = _scale(core, at.T, right, transpose=True) if q2 else right
    u = _matvec(jnp.swapaxes(at.inverse, 1, 2), _matvec(at.inverse, right))
    u2 = u[:, :q2]
    delta = jnp.concatenate([a - _scale(core, at.T, u2, transpose=False), -u[:, q2:]], axis=1) if q2 else -u
    A_delta = _matvec(A, delta)
    s = base + jnp.sum((2 * v + A_delta) * delta, axis=1) + jnp.sum(u2 * u2, axis=1)
    residual = [x + y for x, y in zip(b, groups(core, core.C @ delta.T), strict=True)]
    return _Solved(s, u, v + A_delta, onto_columns(core, times(H, residual)))


def _logdet_value(core: Core, at: _Factored, reml: bool) -> jax.Array:
    return at.logdet1 + (at.log_pivots if reml else at.log_pivots[:, : core.q2]).sum(1)


def _quadratic(core: Core, at: _Factored, f: list[jax.Array], moved: jax.Array) -> jax.Array:
    """x'P x for all pairs of vectors, (c, v, v): first those with coordinates Q1'x = f, then Z2 times ``moved``.

    ``f`` has r1 arrays (G, vectors, c); ``moved`` is (c, q2, others).
    """
    q2, G, vectors, c = core.q2, *f[0].shape
    H = {pair: entry[:, None] for pair, entry in at.H.items()}
    F, HF = (jnp.concatenate(x).reshape(core.r1 * G, vectors * c) for x in (f, times(H, f)))
    onto = jnp.moveaxis((core.C.T @ HF).reshape(core.d, vectors, c), 2, 0)  # D'V1^-1 x
    F, HF = (jnp.moveaxis(x.reshape(core.r1 * G, vectors, c), 2, 0) for x in (F, HF))
    inner = jnp.swapaxes(F, 1, 2) @ HF
    if q2:
        carried = at.A[:, :, :q2] @ moved
        across = jnp.swapaxes(onto[:, :q2], 1, 2) @ moved
        own = jnp.swapaxes(moved, 1, 2) @ carried[:, :q2]
        top = jnp.concatenate([inner, across], axis=2)
        inner = jnp.concatenate([top, jnp.concatenate([jnp.swapaxes(across, 1, 2), own], axis=2)], axis=1)
        onto = _scale(core, at.T, jnp.concatenate([onto, carried], axis=2), transpose=True)
    lowered = at.inverse @ onto
    return inner - jnp.swapaxes(lowered, 1, 2) @ lowered


def _stacked(coords: list[list[jax.Array]]) -> list[jax.Array]:
    """Coordinates of several sets of vectors as one set."""
    return [jnp.concatenate(parts, axis=1) for parts in zip(*coords, strict=True)]


def _order(core: Core) -> np.ndarray:
    """Where each parameter stands among those of the eliminated factor followed by the others."""
    found = [s for s, *_ in first_parameters(core)] + [s for s, *_ in _second_parameters(core)]
    return np.argsort(found)


def _in_order(core: Core, values: jax.Array, axis: int) -> jax.Array:
    """``values`` of those of the eliminated factor followed by the others, in the order of the parameters."""
    order = _order(core)
    if np.array_equal(order, np.arange(len(order))):
        return values
    return jnp.stack([jax.lax.index_in_dim(values, int(s), axis, keepdims=False) for s in order], axis)


def _pwrss_derivatives(core: Core, at: _Factored, solved: _Solved) -> tuple[jax.Array, jax.Array]:
    """s1 (k, c) and s2 (k, k, c): x_s = G_s P y, s1 = -y'P x_s, s2 = 2 x_s'P x_t."""
    w2, z = solved.w[:, : core.q2], [part[:, None] for part in solved.z]
    s1, coords, effects = [], [], []
    for _, i, j in first_parameters(core):
        s1.append(-total(solved.z[i] * solved.z[j]) * (1 if i == j else 2))
        coords.append(exchanged(core, z, i, j))
    for _, number, i, j in _second_parameters(core):
        part = _levels(core, number, w2)
        s1.append(-jnp.sum(part[:, :, i] * part[:, :, j], axis=1) * (1 if i == j else 2))
        effects.append(_spread(core, number, i, j, w2))
    s2 = 2 * _quadratic(core, at, _stacked(coords), jnp.stack(effects, axis=2) if effects else w2)
    return _in_order(core, jnp.stack(s1), 0), _in_order(core, _in_order(core, jnp.moveaxis(s2, 0, -1), 0), 1)


def _complement(core: Core, at: _Factored, reml: bool) -> jax.Array:
    """X = Lam M^-1 Lam' (c, e, e): of all of D for REML, of Z2 alone for ML."""
    e = core.d if reml else core.q2
    inverse = at.inverse[:, :e, :e]
    X = jnp.swapaxes(inverse, 1, 2) @ inverse
    return _both_sides(core, at.T, X, transpose=False) if e else X


def _gram(B: Entries, r: int) -> jax.Array:
    """Products of pairs of entries (G, c), summed over the groups: (c, pairs, pairs)."""
    stacked = jnp.moveaxis(jnp.stack([B[pair] for pair in packed_pairs(r)]), 2, 0)
    return stacked @ jnp.swapaxes(stacked, 1, 2)


def _logdet(core: Core, at: _Factored, reml: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """l (c,), l1 (k, c) = tr(P G_s) and l2 (k, k, c) = -tr(P G_s P G_t); with V^-1 in the place of P for ML."""
    l1, l2 = (_by_blocks if _blocks_are_cheaper(core) else _by_schur)(core, at, reml)
    k = core.n_phi
    ordered = [jnp.stack([l2[s, t] for t in range(k)]) for s in range(k)]
    return _logdet_value(core, at, reml), jnp.stack([l1[s] for s in range(k)]), jnp.stack(ordered)


def _blocks_are_cheaper(core: Core) -> bool:
    """Whether the whole of Z'PZ takes less arithmetic than the derivatives of the Schur complement (without the table
    of pairs always)."""
    if not core.pairs:
        return True
    d, q1, k1 = core.d, core.r1 * core.G, len(first_parameters(core))
    # A product with the table of pairs, one for all responses, runs at about four times the speed of small ones.
    schur = len(packed_pairs(core.r1)) * core.G * d * d * (1 + k1) / 4 + k1 * d**3 + (k1 + 2) * d * d * core.q2
    return q1 * d * (d + q1 + core.q2) + 2 * core.q2 * d * d < schur


LogdetDerivatives = tuple[dict[int, jax.Array], dict[tuple[int, int], jax.Array]]


def _by_blocks(core: Core, at: _Factored, reml: bool) -> LogdetDerivatives:
    """The derivatives from the pieces of Z'PZ, with P = V1^-1 - (V1^-1 D Lam L^-T)(V1^-1 D Lam L^-T)'."""
    r, q2, G = core.r1, core.q2, core.G
    e = core.d if reml else q2
    HR = product(at.H, core.R, r)
    rows = [core.C[a * G : (a + 1) * G, :e] for a in range(r)]
    F = jnp.concatenate([add(HR[a][j].T[:, :, None] * rows[a] for a in range(r)) for j in range(r)], axis=1)
    lowered = jnp.swapaxes(at.inverse[:, :e, :e], 1, 2)
    lowered = _scale(core, at.T, lowered, transpose=False) if e else lowered  # Lam L^-T
    V1, V2 = F @ lowered, jnp.swapaxes(at.A[:, :e, :q2], 1, 2) @ lowered
    K = sandwich([[core.R[a, j][:, None] for a in range(r)] for j in range(r)], at.H)
    own = jnp.stack([jnp.stack([get(K, i, j) for j in range(r)]) for i in range(r)]).transpose(3, 0, 1, 2)
    B11 = own[:, :, :, :, None] * np.eye(G) - (V1 @ jnp.swapaxes(V1, 1, 2)).reshape(-1, r, G, r, G).swapaxes(2, 3)
    first = [(s, 0, i, j) for s, i, j in first_parameters(core)]
    second = [(s, number + 1, i, j) for s, number, i, j in _second_parameters(core)]
    pieces = {(0, 0): B11}
    if q2:
        B12 = F[:, :, :q2] - V1 @ jnp.swapaxes(V2, 1, 2)
        B22 = at.A[:, :q2, :q2] - V2 @ jnp.swapaxes(V2, 1, 2)
        for a in range(len(core.second)):
            part = jnp.moveaxis(_levels(core, a, jnp.swapaxes(B12, 1, 2)), 3, 1)  # (c, r1 * G, La, ra)
            pieces[0, a + 1] = part.reshape(len(part), r, G, *part.shape[2:]).transpose(0, 1, 4, 2, 3)
            for b in range(a + 1):
                part = _levels(core, b, jnp.moveaxis(_levels(core, a, B22), 3, 1))  # (c, Lb, rb, La, ra)
                pieces[b + 1, a + 1] = part.transpose(0, 2, 4, 1, 3)
    grams = {key: _block_gram(block) for key, block in pieces.items()}
    l1: dict[int, jax.Array] = {}
    l2: dict[tuple[int, int], jax.Array] = {}
    parameters = first + second
    for s, a, i, j in parameters:
        l1[s] = jnp.sum(diagonals(pieces[a, a][:, i, j]), axis=1) * (1 if i == j else 2)
        for t, b, f, g in parameters:
            if (a, b) in grams:
                found = add(grams[a, b][:, x, f2, y, g2] for x, y in orderings(i, j) for f2, g2 in orderings(f, g))
                l2[s, t] = l2[t, s] = -found
    return l1, l2


def _block_gram(block: jax.Array) -> jax.Array:
    """sum over levels of B[i, f] B[j, g] for blocks (c, ra, rb, La, Lb): (c, i, f, j, g)."""
    c, ra, rb, La, Lb = block.shape
    flat = block.reshape(c, ra * rb, La * Lb)
    return (flat @ jnp.swapaxes(flat, 1, 2)).reshape(c, ra, rb, ra, rb)


def _by_schur(core: Core, at: _Factored, reml: bool) -> LogdetDerivatives:
    """The derivatives from those of the Schur complement, for many levels of the eliminated factor."""
    r, q2 = core.r1, core.q2
    e = core.d if reml else q2
    first, second = first_parameters(core), _second_parameters(core)
    HR = product(at.H, core.R, r)
    K = sandwich([[core.R[a, j][:, None] for a in range(r)] for j in range(r)], at.H)
    l1: dict[int, jax.Array] = {}
    l2: dict[tuple[int, int], jax.Array] = {}
    # Blocks of Z1'P Z1 on the diagonal are P1 = K - KB.
    P1 = K
    if e:
        X = _complement(core, at, reml)
        KB = sandwich([[HR[a][j] for a in range(r)] for j in range(r)], _dual(core, X))
        P1 = {pair: K[pair] - KB[pair] for pair in K}
        N = jnp.stack([_schur(core, changed(HR, i, j))[:, :e, :e] for _, i, j in first], axis=1)  # -dA / dphi_s
        XN = X[:, None] @ N
        flat = XN.reshape(*XN.shape[:2], e * e)
        twice = flat @ jnp.moveaxis(XN.swapaxes(2, 3).reshape(*XN.shape[:2], e * e), 1, 2)
    gram = _gram(P1, r) - _gram(KB, r) if e else _gram(P1, r)
    traces = jnp.einsum("mnuv,cuv->cmn", pairings(r, tuple((i, j) for _, i, j in first)), gram)
    traces = traces + twice if e else traces
    for m, (s, i, j) in enumerate(first):
        l1[s] = total(get(P1, i, j)) * (1 if i == j else 2)
        for n, (t, _, _) in enumerate(first):
            l2[s, t] = -traces[:, m, n]
    if q2:
        # By the root of X = U U': where [Z1, Q] explain an effect X is as large as Phi2, and A2'X A2 loses as many
        # digits again.
        U = _scale(core, at.T, jnp.swapaxes(at.inverse[:, :e, :e], 1, 2), transpose=False)  # Lam L^-T
        V = jnp.swapaxes(at.A[:, :e, :q2], 1, 2) @ U
        W = at.A[:, :q2, :q2] - V @ jnp.swapaxes(V, 1, 2)
        J: Any = np.eye(e, q2, dtype=X.dtype) - U @ jnp.swapaxes(V, 1, 2)
        NJ = N @ J[:, None]
        for s, number, i, j in second:
            l1[s] = _trace(core, number, i, j, W)
            products = _trace_product(core, number, i, j, J, NJ)
            for n, (t, _, _) in enumerate(first):
                l2[s, t] = l2[t, s] = -products[:, n]
        _second_second(core, W, l2)
    return l1, l2


def _trace(core: Core, number: int, i: int, j: int, W: jax.Array) -> jax.Array:
    """tr(E_s W) (c,) for symmetric W (c, q2, q2)."""
    start = sum(core.sizes[t] * core.levels[t] for t in core.second[:number])
    t = core.second[number]
    r, levels = core.sizes[t], core.levels[t]
    end = start + r * levels
    return jnp.sum(diagonals(W[:, start + i : end : r, start + j : end : r]), axis=1) * (1 if i == j else 2)


def _trace_product(core: Core, number: int, i: int, j: int, J: jax.Array, NJ: jax.Array) -> jax.Array:
    """tr(E_s J'N_t J) (c, k1) for all N_t J in NJ (c, k1, e, q2)."""
    start = sum(core.sizes[t] * core.levels[t] for t in core.second[:number])
    t = core.second[number]
    r, levels = core.sizes[t], core.levels[t]
    end = start + r * levels
    left, right = J[:, None, :, start + i : end : r], NJ[..., start + j : end : r]
    return jnp.sum(left * right, axis=(2, 3)) * (1 if i == j else 2)


def _second_second(core: Core, W: jax.Array, l2: dict[tuple[int, int], jax.Array]) -> None:
    """-tr(E_s W E_t W) for the parameters of the terms that are not eliminated."""
    parameters = _second_parameters(core)
    for a in range(len(core.second)):
        for b in range(a + 1):
            part = _levels(core, a, W)  # (c, La, ra, q2)
            c, La, ra, _ = part.shape
            part = _levels(core, b, jnp.moveaxis(part, 3, 1))  # (c, Lb, rb, La, ra)
            Lb, rb = part.shape[1:3]
            flat = part.transpose(0, 4, 2, 3, 1).reshape(c, ra * rb, La * Lb)
            gram = flat @ jnp.swapaxes(flat, 1, 2)
            for s, number, i, j in parameters:
                for t, other, m, n in parameters:
                    if number != a or other != b:
                        continue
                    found = add(
                        gram[:, y * rb + f, x * rb + g] for x, y in orderings(i, j) for f, g in orderings(m, n)
                    )
                    l2[s, t] = l2[t, s] = -found


# Coefficients and modes ----------------------------------------------------------------------------


def covariance(core: Core, phi: jax.Array, L: jax.Array) -> Covariance:
    """See ``families.base.Family.covariance``.

    With B = V^-1 Q C L': C_s = B'G_s B, C_st = -B'(G_s P G_t + G_t P G_s)B.
    """
    r, q2, k, q = core.r1, core.q2, core.n_phi, len(L)
    at = factor(core, phi)
    lowered = at.inverse[:, :, q2:] @ L.T  # L^-1 e_Q L', first of all: its products are sums of squares
    value = jnp.swapaxes(lowered, 1, 2) @ lowered
    Y = jnp.swapaxes(at.inverse, 1, 2) @ lowered  # M^-1 e_Q L', (c, d, q)
    Y = _scale(core, at.T, Y, transpose=False) if q2 else Y
    # Z'B by group and by level, for each contrast
    flat = jnp.moveaxis(Y, 0, 2).reshape(core.d, -1)
    HCY = times({pair: entry[:, None] for pair, entry in at.H.items()},
                 list((core.C @ flat).reshape(r, core.G, q, -1)))  # fmt: skip
    zB = onto_columns(core, HCY)
    by_response = [jnp.moveaxis(z, 2, 0) for z in zB]  # (c, G, q)
    wB = at.A[:, :q2] @ Y
    one, coords, effects = [], [], []
    for _, i, j in first_parameters(core):
        one.append(add(jnp.swapaxes(by_response[x], 1, 2) @ by_response[y] for x, y in orderings(i, j)))
        coords.append(exchanged(core, zB, i, j))
    for _, number, i, j in _second_parameters(core):
        moved = _spread(core, number, i, j, wB)
        one.append(jnp.swapaxes(wB, 1, 2) @ moved)
        effects.append(moved)
    both = _quadratic(core, at, _stacked(coords), jnp.concatenate(effects, axis=2) if effects else wB[:, :, :0])
    both = _in_order(core, _in_order(core, both.reshape(-1, k, q, k, q), 1), 3)
    both = both.transpose(1, 3, 2, 4, 0)  # (s, t, m, n)
    first = jnp.moveaxis(_in_order(core, jnp.stack(one), 0), 1, -1)
    return Covariance(jnp.moveaxis(value, 0, -1), first, -(both + jnp.swapaxes(both, 2, 3)))


def conditional(core: Core, phi: jax.Array, stats: Stats) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Modes (levels, r, c) of each term, and their covariances / sigma2 (levels, r, r, c) for known coefficients.

    Of whitened effects. The eliminated factor: (Phi^-1 + S_g)^-1 = T (I + T'S_g T)^-1 T', which bears a
    singular Phi, and what the other effects add to it.
    """
    r, q2 = core.r1, core.q2
    at = factor(core, phi)
    solved = solve(core, at, stats)
    modes: dict[int, jax.Array] = {}
    spread: dict[int, jax.Array] = {}
    Phi, G, c = at.Phi1, core.G, phi.shape[1]
    full = {(i, j): Phi.get((i, j), jnp.zeros(c)) for i in range(r) for j in range(i + 1)}
    T = singular_cholesky(full, r)
    rows = [[T.get((i, j), jnp.zeros(c)) for j in range(r)] for i in range(r)]
    S = {(a, b): add(core.R[k, a] * core.R[k, b] for k in range(r))[:, None] for a, b in packed_pairs(r)}
    turned = [[rows[i][j] for i in range(r)] for j in range(r)]
    M = sandwich(turned, S)
    whole = jnp.stack([jnp.stack([get(M, a, b) for b in range(r)], -1) for a in range(r)], -2) + jnp.eye(r)
    inverse, _ = inverse_factor(whole.reshape(G * c, r, r))
    inner = (jnp.swapaxes(inverse, 1, 2) @ inverse).reshape(G, c, r, r)
    own = sandwich(rows, {(a, b): inner[:, :, a, b] for a, b in packed_pairs(r)})
    if q2:
        X = _complement(core, at, reml=False)
        HR = product(at.H, core.R, r)
        KB = sandwich([[HR[a][j] for a in range(r)] for j in range(r)], _dual(core, X))
        square = [[get(full, max(i, j), min(i, j)) for j in range(r)] for i in range(r)]
        more = sandwich(square, KB)
        own = {pair: own[pair] + more[pair] for pair in own}
    for t, start in zip(core.first, first_columns(core), strict=True):
        size = range(start, start + core.sizes[t])
        modes[t] = jnp.stack(
            [add(get(full, max(i, j), min(i, j)) * solved.z[j] for j in range(r)) for i in size], axis=1
        )  # fmt: skip
        spread[t] = jnp.stack([jnp.stack([get(own, min(i, j), max(i, j)) for j in size], 1) for i in size], 1)
    if q2:
        b = _scale(core, at.T, solved.u[:, :q2], transpose=False)
        for number, t in enumerate(core.second):
            modes[t] = jnp.moveaxis(_levels(core, number, b), 0, -1)
            block = _levels(core, number, jnp.moveaxis(_levels(core, number, X), 3, 1))  # (c, L, r, L, r)
            diagonal = jnp.diagonal(block, axis1=1, axis2=3)  # (c, r, r, L)
            spread[t] = diagonal.transpose(3, 1, 2, 0)
    order = range(len(core.sizes))
    return tuple(modes[t] for t in order), tuple(spread[t] for t in order)
