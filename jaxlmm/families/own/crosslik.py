"""The likelihood of responses that each have a design of their own: some observations are missing.

Nothing of the spectrum is shared then, so a response is reduced to its cross-products by group
(Pinheiro & Bates 2000, ch. 2; as MixedModels.jl). With N_g the (weighted) number of observations
of group g and [X, y] in q = p + 1 columns,

    M(lam) = W + sum_g b_g b_g' / (1 + lam N_g),

where W are the cross-products within groups and b_g = N_g^(1/2) times the group's mean of [X, y].
M = [X, y]' V^-1 [X, y], so the pivots of its elimination hold log|X'V^-1 X| and, last, the pwrss.
All terms are positive: nothing cancels at any lam. With v = (-beta, 1) and ' for d/dlam

    s' = v'M'v,   s'' = v'M''v - 2 (M'v)_x' C (M'v)_x,   C = M_xx^-1,   C' = -C M'_xx C,
    K = -C''/2 = C M''_xx C / 2 - C M'_xx C M'_xx C.

The elimination is written out here. On the CPU, JAX's batched LAPACK calls can wait for ever for
threads of the pool that they hold themselves, as soon as several run at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxlmm.optimize.search import Candidate, search
from jaxlmm.optimize.solver import bracketed_minimum

__all__ = ["CrossFit", "CrossProducts", "cross_curves", "fit_cross_block"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossProducts:
    """Cross-products of c responses; the response axis is first.

    Attributes
    ----------
    N : (c, G)
        (Weighted) number of observations of each group, 0 for a group without any.
    b : (c, G, q)
    W : (c, q, q)
    nu : (c,)
        Degrees of freedom of the method, n - p or n.
    reml : bool scalar
    d_max : scalar
        Largest N_g of the design: the search is in t = log(1 + lam d_max).
    """

    N: jax.Array
    b: jax.Array
    W: jax.Array
    nu: jax.Array
    reml: jax.Array
    d_max: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossFit:
    """At the optimum of c responses: scalars (c,), ``beta`` (c, p), ``C`` (c, p, p)."""

    lam: jax.Array
    pwrss: jax.Array
    deviance: jax.Array
    curvature: jax.Array
    converged: jax.Array
    beta: jax.Array
    C: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Point:
    """Everything about one response at one lam."""

    s: jax.Array
    s1: jax.Array
    s2: jax.Array
    logdet: jax.Array
    l1: jax.Array
    l2: jax.Array
    beta: jax.Array
    C: jax.Array
    C1: jax.Array
    K: jax.Array


# Pivots alone: up to this size row by row in the program's text, which is fastest; larger matrices in panels of
# rows, since compiling would take too long.
UNROLLED = 10
PANEL = 8
AXES = CrossProducts(0, 0, 0, 0, None, None)  # type: ignore[arg-type]


def _outer(one: CrossProducts) -> jax.Array:
    """b_g b_g' of every group, (G, q * q)."""
    return (one.b[:, :, None] * one.b[:, None, :]).reshape(len(one.N), one.b.shape[-1] ** 2)


def _positive(pivot: jax.Array) -> jax.Array:
    """The pivot of a positive definite matrix, else NaN, which all that comes after inherits."""
    return jnp.where(pivot > 0, pivot, jnp.nan)


def _pivots(M: jax.Array) -> jax.Array:
    """D of M = L D L', by elimination; (q, q, K) to (q, K)."""
    found = []
    while len(M):
        found.append(_positive(M[0, 0]))
        row = M[0, 1:]
        M = M[1:, 1:] - (row / found[-1])[:, None] * row
    return jnp.stack(found)


def _pivots_by_panels(M: jax.Array) -> jax.Array:
    """As :func:`_pivots`, (q, q) to (q,): some rows first, then what they change in the others."""
    found = []
    while len(M):
        rows = jnp.arange(min(PANEL, len(M)))

        def eliminate(k: int | jax.Array, panel: jax.Array, rows: jax.Array = rows) -> jax.Array:
            below = jnp.where(rows > k, panel[:, k] / _positive(panel[k, k]), 0.0)
            return panel - below[:, None] * panel[k]

        panel = jax.lax.fori_loop(0, len(rows), eliminate, M[: len(rows)])
        found.append(_positive(jnp.diagonal(panel)))
        rest = panel[:, len(rows) :]
        M = M[len(rows) :, len(rows) :] - (rest / found[-1][:, None]).T @ rest
    return jnp.concatenate(found)


def _swept(M: jax.Array) -> tuple[jax.Array, jax.Array]:
    """M (q, q) swept on all rows but the last, and the pivots D (q,).

    That is -C, beta in the last row and column, and s in the corner (Goodnight 1979, The American
    Statistician 33, 149-158).
    """
    q = len(M)
    rows = jnp.arange(q)

    def sweep(k: int | jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        M, D = state
        at, pivot = rows == k, _positive(M[k, k])
        row = jnp.where(at, -1.0, M[k])
        M = jnp.where(at | at[:, None], 0.0, M) - row[:, None] * row * (1 / pivot)
        return M, jnp.where(at, pivot, D)

    M, D = jax.lax.fori_loop(0, q - 1, sweep, (M, jnp.zeros(q)))
    D = D.at[-1].set(_positive(M[-1, -1]))
    # A bad pivot makes NaN of all after it; what came before it must not pass for a result either.
    return jnp.where(D[-1] > 0, M, jnp.nan), D


def _deviances(lams: jax.Array, one: CrossProducts) -> jax.Array:
    """Deviance at K values of lam."""
    q, outer = one.b.shape[-1], _outer(one)
    r = 1 / (1 + one.N[:, None] * lams)
    if q <= UNROLLED:
        D = _pivots(one.W[:, :, None] + (outer.T @ r).reshape(q, q, len(lams)))
    else:  # one lam after the other: all at once would not stay in the cache
        D = jax.lax.map(lambda weight: _pivots_by_panels(one.W + (weight @ outer).reshape(q, q)), r.T).T
    logs = jnp.log(D)
    logdet = -jnp.sum(jnp.log(r), axis=0) + jnp.where(one.reml, jnp.sum(logs[:-1], axis=0), 0.0)
    return one.nu * logs[-1] + logdet


def _point(lam: jax.Array, one: CrossProducts) -> _Point:
    p = one.b.shape[-1] - 1
    r = 1 / (1 + lam * one.N)
    w = one.N * r
    M, M1, M2 = (jnp.stack([r, -w * r, 2 * w * w * r]) @ _outer(one)).reshape(3, p + 1, p + 1)
    swept, D = _swept(M + one.W)
    beta, C = swept[p, :p], -swept[:p, :p]
    v = jnp.concatenate([-beta, jnp.ones(1)])
    Mv = M1 @ v
    A, A2 = C @ M1[:p, :p], C @ M2[:p, :p]
    reml = jnp.where(one.reml, 1.0, 0.0)
    log_x = jnp.sum(jnp.log(D[:p]))
    return _Point(
        s=D[p],
        s1=v @ Mv,
        s2=v @ M2 @ v - 2 * Mv[:p] @ C @ Mv[:p],
        logdet=jnp.sum(jnp.log1p(lam * one.N)) + reml * log_x,
        l1=jnp.sum(w) + reml * jnp.trace(A),
        l2=-jnp.sum(w * w) + reml * (jnp.trace(A2) - jnp.sum(A * A.T)),
        beta=beta,
        C=C,
        C1=-A @ C,
        K=A2 @ C / 2 - A @ A @ C,
    )


def _slope(t: jax.Array, one: CrossProducts) -> tuple[jax.Array, jax.Array]:
    """Derivatives of the deviance in t."""
    at = _point(jnp.expm1(t) / one.d_max, one)
    first = one.nu * at.s1 / at.s + at.l1
    second = one.nu * (at.s2 / at.s - (at.s1 / at.s) ** 2) + at.l2
    step = jnp.exp(t) / one.d_max
    return first * step, (second * step + first) * step


def _polish(start: jax.Array, low: jax.Array, high: jax.Array, one: CrossProducts) -> jax.Array:
    return bracketed_minimum(_slope, start, low, high, one.nu, one)


@jax.jit
def fit_cross_block(data: CrossProducts, grid: jax.Array) -> CrossFit:
    """Global minimum of each response's deviance."""
    lams = jnp.expm1(grid) / data.d_max
    value = jax.vmap(_deviances, in_axes=(None, AXES), out_axes=1)(lams, data)
    slope_zero = jax.vmap(_slope, in_axes=(None, AXES))(jnp.zeros(()), data)[0]

    def polish(start: jax.Array, low: jax.Array, high: jax.Array) -> Candidate:
        t = jax.vmap(_polish, in_axes=(0, 0, 0, AXES))(start, low, high, data)
        at = jax.vmap(_point, in_axes=(0, AXES))(jnp.expm1(t) / data.d_max, data)
        return Candidate(t, at, data.nu * jnp.log(at.s) + at.logdet)

    found = search(value, grid, slope_zero, polish)
    at, step = found.at, jnp.exp(found.t) / data.d_max
    first = data.nu * at.s1 / at.s + at.l1
    second = data.nu * (at.s2 / at.s - (at.s1 / at.s) ** 2) + at.l2
    converged = found.settled(first * step, second * step**2, data.nu)
    return CrossFit(jnp.expm1(found.t) / data.d_max, at.s, found.deviance, second, converged, at.beta, at.C)


@jax.jit
def cross_curves(data: CrossProducts, lam: jax.Array) -> tuple[jax.Array, ...]:
    """C, C' and K (c, p, p), T1 = l' and T2 = -l'' (c,) at given lam; see ``estimates``."""
    at = jax.vmap(_point, in_axes=(0, AXES))(lam, data)
    return at.C, at.C1, at.K, at.l1, -at.l2
