"""The arithmetic of ``moments`` where all terms lie on one factor and X has few columns, responses last throughout.

Nothing but Q is left beside the eliminated factor, so that A = Q'V^-1 Q (p, p) is all there is to factor. Products of
matrices as small as that, written out over arrays (p, p, c), take a fraction of the time of products of a batch
(c, p, p), where each matrix is a call of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import jax
import jax.numpy as jnp

from jaxlmm.families.base import Moments
from jaxlmm.families.general.dense import last_apply, last_inverse_factor, last_product
from jaxlmm.families.general.eliminated import (
    Entries,
    add,
    blocks,
    changed,
    exchanged,
    first_parameters,
    get,
    groups,
    onto_columns,
    pairings,
    product,
    sandwich,
    times,
    total,
)  # fmt: skip
from jaxlmm.families.general.layout import Core, packed_pairs
from jaxlmm.families.general.moments import Stats

__all__ = ["deviance_parts", "fits", "moments", "own_covariance", "solutions"]

# Columns of X from which on batched products are as fast.
MOST_FIXEF = 8


@dataclass(frozen=True)
class _Factored:
    """The model at given phi: H_g by entries (G, c), log|V1| (c,), A and L^-1 (p, p, c), log diag(L)^2 (p, c)."""

    H: Entries
    logdet1: jax.Array
    A: jax.Array
    inverse: jax.Array
    log_pivots: jax.Array


@dataclass(frozen=True)
class _Solved:
    """Of responses at given phi: pwrss ``s`` (c,), ``u`` by which coefficients rise (p, c), Z'V^-1 r ``z`` (G, c)."""

    s: jax.Array
    u: jax.Array
    z: list[jax.Array]


def fits(core: object) -> TypeGuard[Core]:
    """Whether the design is one of those."""
    return isinstance(core, Core) and not core.second and core.p <= MOST_FIXEF and len(core.pairs) == 1


def moments(core: Core, phi: jax.Array, stats: Stats, *, reml: bool) -> Moments:
    """See ``families.base.Family.moments``."""
    at = _factor(core, phi)
    solved = _solve(core, at, stats)
    s1, s2 = _pwrss_derivatives(core, at, solved)
    l1, l2 = _logdet_derivatives(core, at, reml)
    return Moments(solved.s, s1, s2, _logdet(at, reml), l1, l2)


def deviance_parts(core: Core, phi: jax.Array, stats: Stats, *, reml: bool) -> tuple[jax.Array, jax.Array]:
    """pwrss and log-determinant (c,) alone, at phi (k, c), or (k, 1) for all responses."""
    at = _factor(core, phi)
    return _solve(core, at, stats).s, _logdet(at, reml)


def solutions(core: Core, phi: jax.Array, stats: Stats, L: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """pwrss (c,), coefficients (p, c) of Q, and variances (q, c) over sigma2 of the contrasts L (q, p) of them."""
    at = _factor(core, phi)
    solved = _solve(core, at, stats)
    lowered = _lowered(at, L)
    return solved.s, stats.ols + solved.u, jnp.sum(lowered * lowered, axis=0)


def own_covariance(core: Core, phi: jax.Array, L: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Variances (q, c) of the contrasts L (q, p) over sigma2, and their first derivatives in phi, (k, q, c)."""
    at, q = _factor(core, phi), len(L)
    lowered = _lowered(at, L)
    Y = last_product(jnp.swapaxes(at.inverse, 0, 1), lowered)  # A^-1 L', (p, q, c)
    CY = groups(core, (core.C @ Y.reshape(core.p, -1)).reshape(len(core.C), q, -1))
    zB = onto_columns(core, times(_spread(at.H), CY))
    first = [zB[i] * zB[j] * (1 if i == j else 2) for i, j in _parameters(core)]
    return jnp.sum(lowered * lowered, axis=0), _totals(jnp.stack(first, axis=1))


def _lowered(at: _Factored, L: jax.Array) -> jax.Array:
    """L^-1 times the contrasts L (q, p), transposed: (p, q, c)."""
    p, _, c = at.inverse.shape
    return jnp.moveaxis((L @ jnp.swapaxes(at.inverse, 0, 1).reshape(p, -1)).reshape(len(L), p, c), 0, 1)


def _factor(core: Core, phi: jax.Array) -> _Factored:
    _, H, logdet1 = blocks(core, phi)
    A = core.W[:, :, None] + _schur(core, H)
    return _Factored(H, logdet1, A, *last_inverse_factor(A))


def _schur(core: Core, S: Entries) -> jax.Array:
    """sum_g C_g' S_g C_g (p, p, ...) for symmetric S_g of entries (G, ...)."""
    stacked = jnp.concatenate([S[pair] for pair in packed_pairs(core.r1)])
    found = core.pairs[0].T @ stacked.reshape(len(stacked), -1)
    return found.reshape(core.p, core.p, *stacked.shape[1:])


def _solve(core: Core, at: _Factored, stats: Stats) -> _Solved:
    b = groups(core, stats.b)
    Hb = times(at.H, b)
    v = core.C.T @ jnp.concatenate(Hb)
    u = last_apply(jnp.swapaxes(at.inverse, 0, 1), last_apply(at.inverse, v))
    # The residuals are formed before they are squared, and what rounding has left of A u = v is not lost.
    s = stats.rest + add(total(x * y) for x, y in zip(b, Hb, strict=True))
    s = s - jnp.sum((2 * v - last_apply(at.A, u)) * u, axis=0)
    residual = [x - y for x, y in zip(b, groups(core, core.C @ u), strict=True)]
    return _Solved(s, u, onto_columns(core, times(at.H, residual)))


def _pwrss_derivatives(core: Core, at: _Factored, solved: _Solved) -> tuple[jax.Array, jax.Array]:
    """s1 (k, c) and s2 (k, k, c): x_s = G_s P y, s1 = -y'P x_s, s2 = 2 x_s'P x_t."""
    z, parameters = [part[:, None] for part in solved.z], _parameters(core)
    squares = [solved.z[i] * solved.z[j] * (-1 if i == j else -2) for i, j in parameters]
    parts = [exchanged(core, z, i, j) for i, j in parameters]
    F = [jnp.concatenate([part[a] for part in parts], axis=1) for a in range(core.r1)]  # (G, k, c)
    HF = times(_spread(at.H), F)
    inner = _totals(add(x[:, :, None] * y[:, None] for x, y in zip(F, HF, strict=True)))
    onto = (core.C.T @ jnp.concatenate(HF).reshape(len(core.C), -1)).reshape(core.p, len(parameters), -1)
    lowered = last_product(at.inverse, onto)
    return _totals(jnp.stack(squares, axis=1)), 2 * (inner - jnp.sum(lowered[:, :, None] * lowered[:, None], axis=0))


def _parameters(core: Core) -> list[tuple[int, int]]:
    """Row and column in Phi of each parameter."""
    return [(i, j) for _, i, j in sorted(first_parameters(core))]


def _spread(H: Entries) -> Entries:
    """Entries (G, c) for arrays (G, ..., c)."""
    return {pair: entry[:, None] for pair, entry in H.items()}


def _totals(values: jax.Array) -> jax.Array:
    """Sums over the groups of (G, ..., c)."""
    return total(values.reshape(len(values), -1)).reshape(values.shape[1:])


def _logdet(at: _Factored, reml: bool) -> jax.Array:
    return at.logdet1 + jnp.sum(at.log_pivots, axis=0) if reml else at.logdet1


def _logdet_derivatives(core: Core, at: _Factored, reml: bool) -> tuple[jax.Array, jax.Array]:
    """l1 (k, c) = tr(P G_s) and l2 (k, k, c) = -tr(P G_s P G_t); with V^-1 in the place of P for ML."""
    r, parameters, pairs = core.r1, _parameters(core), packed_pairs(core.r1)
    HR = product(at.H, core.R, r)
    K = sandwich([[core.R[a, j][:, None] for a in range(r)] for j in range(r)], at.H)
    P1, less = K, None
    if reml:
        X = last_product(jnp.swapaxes(at.inverse, 0, 1), at.inverse)
        KB = sandwich([[HR[a][j] for a in range(r)] for j in range(r)], _dual(core, X))
        P1, less = {pair: K[pair] - KB[pair] for pair in K}, KB
    gram = _gram(P1, less)
    traces = jnp.tensordot(pairings(r, tuple(parameters)), gram, axes=2)
    l1 = _totals(jnp.stack([get(P1, i, j) * (1 if i == j else 2) for i, j in parameters], axis=1))
    if not reml:
        return l1, -traces
    parts = [changed(HR, i, j) for i, j in parameters]
    N = _schur(core, {pair: jnp.stack([part[pair] for part in parts], axis=1) for pair in pairs})  # (p, p, k, c)
    XN = add(X[:, j, None, None] * N[j] for j in range(core.p))
    twice = jnp.sum(XN[:, :, :, None] * jnp.swapaxes(XN, 0, 1)[:, :, None], axis=(0, 1))
    return l1, -traces - twice


def _dual(core: Core, X: jax.Array) -> Entries:
    """C_g X C_g' of entries (G, c), for symmetric X (p, p, c)."""
    pairs = packed_pairs(core.r1)
    out = (core.pairs[0] @ X.reshape(core.p**2, -1)).reshape(len(pairs), core.G, -1)
    return {(a, b): out[n] * (1.0 if a == b else 0.5) for n, (a, b) in enumerate(pairs)}


def _gram(B: Entries, less: Entries | None) -> jax.Array:
    """Products of pairs of entries (G, c), summed over the groups, (pairs, pairs, c); less those of others."""
    one = jnp.stack(list(B.values()), axis=1)
    products = one[:, :, None] * one[:, None]
    if less is not None:
        other = jnp.stack([less[pair] for pair in B], axis=1)
        products = products - other[:, :, None] * other[:, None]
    return _totals(products)
