"""The likelihood of responses that each have a design of their own: weights, or rows that are missing.

Nothing of the spectrum is shared then, so a response is reduced to what groups hold of it (Pinheiro &
Bates 2000, ch. 2; as MixedModels.jl). X is split into the part within groups, with cross-products W, and
the group means: with N_g the (weighted) number of observations of group g, b_g is N_g^(1/2) times the
mean of X, and e_g that of y after X was fitted within groups, which leaves ``rest``. Then

    M(lam)  = X'V^-1 X = W + sum_g b_g b_g' r_g,       r_g = 1 / (1 + lam N_g),
    M delta = sum_g r_g b_g e_g,
    s(lam)  = rest + delta' W delta + sum_g r_g (e_g - b_g' delta)^2,

with delta what the coefficients are beyond those within groups. s is a sum of squares of residuals that
are formed before they are squared: nothing cancels at any lam, however much X or the groups explain, and
an error in delta counts only by its square. The columns of X are first those that vary within groups,
then those that do not, which have nothing in W: so M has nothing of the size of W in the rows of the latter,
where M goes with 1 / lam. With f_g = e_g - b_g' delta and ' for d/dlam

    s' = -sum N r^2 f^2,   s'' = 2 sum N^2 r^3 f^2 - 2 h' C h,   h = sum N r^2 b f,
    C = M^-1,   C' = -C M' C,   K = -C''/2 = C M'' C / 2 - C M' C M' C.

The elimination is written out here. On the CPU, JAX's batched LAPACK calls can wait for ever for
threads of the pool that they hold themselves, as soon as several run at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.engine.blocks import settled
from jaxlmm.optimize.certificate import Candidate, Nodes
from jaxlmm.optimize.search import first_minimum, hessian_in_theta, is_minimum, settle_all
from jaxlmm.optimize.solver import bracketed_minimum
from jaxlmm.runtime import programs

__all__ = [
    "AXES", "CrossFit", "CrossProducts", "cross_curves", "cross_modes", "first_cross_block", "inverse",
    "settle_cross",
]  # fmt: skip


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossProducts:
    """What groups hold of c responses (see the module's docstring); the response axis is first.

    Attributes
    ----------
    N : (c, G)
        (Weighted) number of observations of each group, 0 for a group without any.
    b : (c, G, p)
    e : (c, G)
    W : (c, p, p)
    rest : (c,)
    nu : (c,)
        Degrees of freedom of the method, n - p or n.
    reml : bool scalar
    d_max : scalar
        Largest N_g of the design: the search is in t = log(1 + lam d_max).
    """

    N: jax.Array
    b: jax.Array
    e: jax.Array
    W: jax.Array
    rest: jax.Array
    nu: jax.Array
    reml: jax.Array
    d_max: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossFit:
    """At the optimum of c responses: scalars (c,), ``delta`` (c, p), ``C`` (c, p, p).

    ``total`` is the pwrss at variance ratio 0, the residual sum of squares of least squares.
    """

    lam: jax.Array
    pwrss: jax.Array
    deviance: jax.Array
    hessian: jax.Array
    converged: jax.Array
    delta: jax.Array
    C: jax.Array
    total: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Point:
    """Everything about one response at one lam; ``f`` (G,) are what is left of the group means."""

    s: jax.Array
    s1: jax.Array
    s2: jax.Array
    logdet: jax.Array
    l1: jax.Array
    l2: jax.Array
    delta: jax.Array
    f: jax.Array
    C: jax.Array
    C1: jax.Array
    K: jax.Array


# On the grid: up to this size all lam at once, row by row in the program's text, which is fastest; larger
# matrices one lam after the other, since compiling would take too long and all would not stay in the cache.
UNROLLED = 8
EACH = ("N", "b", "e", "W", "rest", "nu")  # of each response
AXES = CrossProducts(0, 0, 0, 0, 0, 0, None, None)  # type: ignore[arg-type]


def _outer(one: CrossProducts) -> jax.Array:
    """b_g b_g' of every group, (G, p * p)."""
    return (one.b[:, :, None] * one.b[:, None, :]).reshape(len(one.N), one.b.shape[-1] ** 2)


def _positive(pivot: jax.Array) -> jax.Array:
    """The pivot of a positive definite matrix, else NaN, which all that comes after inherits."""
    return jnp.where(pivot > 0, pivot, jnp.nan)


def _solve(M: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log|M| (K,) and M^-1 v (p, K) of M (p, p, K) and v (p, K), by elimination."""
    rows, pivots = [], []
    while len(M):
        pivots.append(_positive(M[0, 0]))
        row, first = M[0, 1:] / pivots[-1], v[0] / pivots[-1]
        rows.append((row, first))
        M, v = M[1:, 1:] - row[:, None] * M[0, 1:], v[1:] - row * v[0]
    found: list[jax.Array] = []
    for row, first in reversed(rows):
        for a, x in zip(row, found, strict=True):
            first = first - a * x
        found.insert(0, first)
    return sum(map(jnp.log, pivots)), jnp.stack(found)  # type: ignore[return-value]


def inverse(M: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inverse of M (p, p) and log|M|, by sweeps (Goodnight 1979, The American Statistician 33, 149-158)."""
    rows = jnp.arange(len(M))

    def sweep(k: int | jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        M, logdet = state
        at, pivot = rows == k, _positive(M[k, k])
        row = jnp.where(at, -1.0, M[k])
        M = jnp.where(at | at[:, None], 0.0, M) - row[:, None] * row * (1 / pivot)
        return M, logdet + jnp.log(pivot)

    M, logdet = jax.lax.fori_loop(0, len(M), sweep, (M, jnp.zeros(())))
    # A bad pivot makes NaN of all after it; what came before it must not pass for a result either.
    return jnp.where(jnp.isnan(logdet), jnp.nan, -M), logdet


def _on_grid(lams: jax.Array, one: CrossProducts) -> tuple[jax.Array, jax.Array]:
    """The pwrss and the log-determinant at K values of lam."""
    p, outer = one.b.shape[-1], _outer(one)
    r = 1 / (1 + one.N[:, None] * lams)
    be = one.b * one.e[:, None]
    if p <= UNROLLED:
        M = one.W[:, :, None] + (outer.T @ r).reshape(p, p, len(lams))
        log_x, delta = _solve(M, be.T @ r)
    else:

        def solve(weight: jax.Array) -> tuple[jax.Array, jax.Array]:
            C, log_x = inverse(one.W + (weight @ outer).reshape(p, p))
            return log_x, C @ (weight @ be)

        log_x, columns = jax.lax.map(solve, r.T)
        delta = columns.T
    f = one.e[:, None] - one.b @ delta
    s = one.rest + jnp.sum(delta * (one.W @ delta), axis=0) + jnp.sum(r * f * f, axis=0)
    return s, -jnp.sum(jnp.log(r), axis=0) + jnp.where(one.reml, log_x, 0.0)


def _point(lam: jax.Array, one: CrossProducts) -> _Point:
    p = one.b.shape[-1]
    r = 1 / (1 + lam * one.N)
    w = one.N * r
    M, M1, M2 = (jnp.stack([r, -w * r, 2 * w * w * r]) @ _outer(one)).reshape(3, p, p)
    C, log_x = inverse(M + one.W)
    delta = C @ ((r * one.e) @ one.b)
    # Once more from what that left: by then an error is far below the residuals' own roundings.
    f = one.e - one.b @ delta
    delta = delta + C @ ((r * f) @ one.b - one.W @ delta)
    f = one.e - one.b @ delta
    rf, wrf = r * f * f, w * r * f
    h = wrf @ one.b
    A, A2 = C @ M1, C @ M2
    reml = jnp.where(one.reml, 1.0, 0.0)
    return _Point(
        s=one.rest + delta @ one.W @ delta + jnp.sum(rf),
        s1=-jnp.sum(w * rf),
        s2=2 * jnp.sum(w * w * rf) - 2 * h @ C @ h,
        logdet=jnp.sum(jnp.log1p(lam * one.N)) + reml * log_x,
        l1=jnp.sum(w) + reml * jnp.trace(A),
        l2=-jnp.sum(w * w) + reml * (jnp.trace(A2) - jnp.sum(A * A.T)),
        delta=delta,
        f=f,
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


def _newton(start: jax.Array, low: jax.Array, high: jax.Array, one: CrossProducts) -> jax.Array:
    return bracketed_minimum(_slope, start, low, high, one.nu, one)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Responses:
    """A ``Problem`` of ``optimize.certificate``."""

    data: CrossProducts

    @property
    def nu(self) -> jax.Array:
        return self.data.nu

    @property
    def d_max(self) -> jax.Array:
        return self.data.d_max

    def newton(self, start: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
        return jax.vmap(_newton, in_axes=(0, 0, 0, AXES))(start, low, high, self.data)

    def evaluate(self, t: jax.Array) -> Candidate:
        at = jax.vmap(_point, in_axes=(0, AXES))(jnp.expm1(t) / self.d_max, self.data)
        return Candidate(t, at, self.nu * jnp.log(at.s) + at.logdet)

    def take(self, index: jax.Array) -> _Responses:
        some = {name: getattr(self.data, name)[index] for name in EACH}
        return _Responses(replace(self.data, **some))


def _nodes(data: CrossProducts, grid: jax.Array) -> Nodes:
    """The grid; the log-determinant is convex in t, so its chords bound its derivative."""
    s, logdet = jax.vmap(_on_grid, in_axes=(None, AXES), out_axes=1)(jnp.expm1(grid) / data.d_max, data)
    zero = jnp.zeros_like(data.nu)
    at = jax.vmap(_point, in_axes=(0, AXES))(zero, data)
    chord = (logdet[1:] - logdet[:-1]) / (grid[1:] - grid[:-1])[:, None]
    low = jnp.concatenate([(at.l1 / data.d_max)[None], chord])
    high = jnp.concatenate([chord, jnp.sum(data.N > 0, axis=1)[None].astype(chord.dtype)])
    return Nodes(grid, s, logdet, low, high, (data.nu * at.s1 / at.s + at.l1) / data.d_max)


@programs.jit
def first_cross_block(data: CrossProducts, grid: jax.Array) -> tuple[CrossFit, jax.Array]:
    """The minimum beside each response's lowest grid point; where (c,) it is undecided that it is the lowest."""
    found, undecided = first_minimum(_Responses(data), _nodes(data, grid))
    return _cross_fit(data, found, ~undecided), undecided


@programs.jit
def _settle_cross_block(data: CrossProducts, grid: jax.Array, lam: jax.Array) -> CrossFit:
    return _cross_fit(data, *settle_all(_Responses(data), _nodes(data, grid), jnp.log1p(lam * data.d_max)))


def settle_cross(data: CrossProducts, grid: jax.Array, found: CrossFit, undecided: jax.Array) -> CrossFit:
    """Global minimum of each response's deviance, from the results of :func:`first_cross_block`."""

    def fit(index: np.ndarray) -> CrossFit:
        some: dict[str, Any] = {name: np.asarray(getattr(data, name))[index] for name in EACH}
        new: CrossFit = _settle_cross_block(replace(data, **some), grid, np.asarray(found.lam)[index])
        return new

    return settled(found, np.asarray(undecided), fit, axis=0)


def _cross_fit(data: CrossProducts, found: Candidate, sure: jax.Array) -> CrossFit:
    at, step = found.at, jnp.exp(found.t) / data.d_max
    first = data.nu * at.s1 / at.s + at.l1
    second = data.nu * (at.s2 / at.s - (at.s1 / at.s) ** 2) + at.l2
    converged = sure & is_minimum(found.t, first * step, second * step**2, data.nu)
    lam = jnp.expm1(found.t) / data.d_max
    s_zero = jax.vmap(_point, in_axes=(None, AXES))(jnp.zeros(()), data).s
    hessian = hessian_in_theta(lam, first, second)
    return CrossFit(lam, at.s, found.deviance, hessian, converged, at.delta, at.C, s_zero)


@programs.jit
def cross_curves(data: CrossProducts, lam: jax.Array) -> tuple[jax.Array, ...]:
    """C, C' and K (c, p, p), T1 = l' and T2 = -l'' (c,) at given lam; see ``estimates``."""
    at = jax.vmap(_point, in_axes=(0, AXES))(lam, data)
    return at.C, at.C1, at.K, at.l1, -at.l2


@programs.jit
def cross_modes(data: CrossProducts, lam: jax.Array) -> jax.Array:
    """Conditional modes (c, G) of the group intercepts at given lam; 0 for a group without an observation."""
    f = jax.vmap(_point, in_axes=(0, AXES))(lam, data).f
    return f * lam[:, None] * jnp.sqrt(data.N) / (1 + lam[:, None] * data.N)
