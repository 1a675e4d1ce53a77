"""Global minimum of the deviance over t >= 0, for a batch of responses.

1. A grid of t: its lowest point brackets the global minimum. Where all responses share a design,
   their pwrss on the grid is one matrix product.
2. Inside the bracket, Newton steps from the vertex of a parabola (``solver``).
3. If some response has a second valley that could be as deep, that one is polished too.

t = 0 (variance 0) is a minimum like any other: kept exactly 0 where the derivative there is >= 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.intercept.objective import Terms, derivatives, logdet, moments, ratio, slope
from jaxlmm.optimize.solver import bracketed_minimum

__all__ = ["GRID_SIZE", "Candidate", "Optimum", "make_grid", "minimise", "search"]

GRID_SIZE = 36
# exp(34) spans the variance ratios of float64.
T_MAX = 34.0
# What counts as converged: derivative in log lam, relative to nu.
TOL_CONVERGED = 1e-9


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Optimum:
    """Per response, at the minimum; all (c,).

    ``lam``, ``pwrss``, ``deviance``, ``curvature`` (second derivative of the deviance in lam)
    and ``converged``.
    """

    lam: jax.Array
    pwrss: jax.Array
    deviance: jax.Array
    curvature: jax.Array
    converged: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Bracket:
    """Three neighbouring grid points of each response, the middle one lowest; all (c,).

    At either end of the grid two of the points are the same.
    """

    low: jax.Array
    t: jax.Array
    high: jax.Array
    value_low: jax.Array
    value: jax.Array
    value_high: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Candidate:
    """A polished minimum of each response: ``t`` and ``deviance`` (c,), and what the caller keeps ``at`` it."""

    t: jax.Array
    at: Any
    deviance: jax.Array

    def settled(self, gradient: jax.Array, curvature: jax.Array, nu: jax.Array) -> jax.Array:
        """Whether it is a minimum: derivatives in t, relative to nu."""
        boundary = self.t == 0
        flat = jnp.where(boundary, gradient >= 0, jnp.abs(gradient) <= TOL_CONVERGED * nu)
        return flat & (boundary | (curvature >= -TOL_CONVERGED * nu))


def make_grid(d: np.ndarray) -> np.ndarray:
    """Points of t for a design with eigenvalues ``d``.

    The deviance in t is a sum of functions that change over a unit of t, at t = log(d_max / d_j),
    so half steps up to the last of these see every valley. Beyond, where every 1 + lam d_j is
    proportional to lam, the deviance is convex in t and any step brackets its minimum.
    """
    positive = d[d > 0]
    spread = np.log(positive.max() / positive.min()) if len(positive) else 0.0
    near = np.array([0.0, 0.02, 0.08, 0.2, 0.35])
    fine = np.arange(0.5, min(spread + 6.0, T_MAX - 4), 0.5)
    room = GRID_SIZE - len(near) - 6
    if len(fine) > room:
        fine = np.linspace(0.5, fine[-1], room)
    far = np.linspace(fine[-1], T_MAX, GRID_SIZE - len(near) - len(fine) + 1)[1:]
    return np.concatenate([near, fine, far])


def search(
    value: jax.Array,
    grid: jax.Array,
    slope_zero: jax.Array,
    polish: Callable[[jax.Array, jax.Array, jax.Array], Candidate],
) -> Candidate:
    """Lowest minimum of each response.

    Parameters
    ----------
    value : (K, c)
        Deviance on the grid.
    grid : (K,)
    slope_zero : (c,)
        Derivative of the deviance in t at t = 0.
    polish : callable
        From starts, lower and upper ends of brackets (c,) to the minima inside.
    """
    best, n_valleys = _lowest(value, grid)
    second, doubtful = jax.lax.cond(
        jnp.any(n_valleys > 1),
        lambda: _second_valley(value, grid, best),
        lambda: (best, jnp.zeros_like(slope_zero, dtype=bool)),
    )

    def visit(k: int, found: Candidate) -> Candidate:
        new = polish(*_start(jax.tree.map(lambda a, b: jnp.where(k == 0, a, b), best, second), slope_zero))
        better = (k == 0) | (doubtful & (new.deviance < found.deviance))

        def choose(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b)

        return jax.tree.map(choose, new, found)

    # A loop, so that the code is compiled once; its second round is rarely needed.
    shapes = jax.eval_shape(polish, slope_zero, slope_zero, slope_zero)
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return jax.lax.fori_loop(0, 1 + jnp.any(doubtful), visit, nothing)


def minimise(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array) -> Optimum:
    """Global minimum of the deviance of c responses on one spectrum.

    Parameters
    ----------
    terms : Terms
    u2 : (J, c)
    rest : (c,)
    grid : (GRID_SIZE,)
        From :func:`make_grid`.
    """
    value, slope_zero = _grid_values(terms, u2, rest, grid)

    def newton(t: jax.Array, low: jax.Array, high: jax.Array, v: jax.Array, r: jax.Array) -> jax.Array:
        return bracketed_minimum(slope, t, low, high, terms.nu, terms, v, r)

    def polish(start: jax.Array, low: jax.Array, high: jax.Array) -> Candidate:
        t = jax.vmap(newton, in_axes=(0, 0, 0, 1, 0))(start, low, high, u2, rest)
        at = jax.vmap(moments, in_axes=(0, None, 1, 0))(t, terms, u2, rest)
        return Candidate(t, at, terms.nu * jnp.log(at.s) + logdet(t, terms))

    found = search(value, grid, slope_zero, polish)
    lam = ratio(found.t, terms)
    first, second = derivatives(found.at, terms)
    step = lam + 1 / terms.d_max
    return Optimum(lam, found.at.s, found.deviance, second, found.settled(first * step, second * step**2, terms.nu))


def _grid_values(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Deviance at the grid points (K, c), and its derivative in t at 0 (c,): one matrix product."""
    lam = ratio(grid, terms)[:, None]
    d = terms.d[: terms.n_spectrum]
    sums = jnp.concatenate([1 / (1 + lam * d), d[None]]) @ u2
    s = sums[:-1] + rest
    log_dets = jnp.sum(terms.m * jnp.log1p(lam * terms.d), axis=1)
    slope_zero = (jnp.sum(terms.m * terms.d) - terms.nu * sums[-1] / s[0]) / terms.d_max
    return terms.nu * jnp.log(s) + log_dets[:, None], slope_zero


def _lowest(value: jax.Array, grid: jax.Array) -> tuple[_Bracket, jax.Array]:
    """Bracket of the lowest grid point, and the number of local minima; one walk over the grid."""
    zero = jnp.zeros_like(value[0])
    k = jnp.arange(len(grid))
    before, after = jnp.maximum(k - 1, 0), jnp.minimum(k + 1, len(grid) - 1)

    def visit(state, at):  # type: ignore[no-untyped-def]
        best, last, falling, valleys = state
        k, low, high = at
        here = _Bracket(zero + grid[low], zero + grid[k], zero + grid[high], last, value[k], value[high])
        best = jax.tree.map(functools.partial(jnp.where, value[k] < best.value), here, best)
        rising = value[k] > last
        return (best, value[k], ~rising, valleys + (falling & rising)), None

    first = _Bracket(zero + grid[0], zero + grid[0], zero + grid[1], value[0], value[0], value[1])
    start = (first, value[0], jnp.ones_like(zero, dtype=bool), jnp.zeros_like(zero, dtype=jnp.int32))
    (best, _, falling, valleys), _ = jax.lax.scan(visit, start, (k[1:], before[1:], after[1:]))
    return best, valleys + falling


def _start(at: _Bracket, slope_zero: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where to begin in each bracket (the vertex of a parabola), and the bracket's ends."""
    left, right = at.t - at.low, at.high - at.t
    # At t = 0 the derivative is known and stands in for the missing neighbour.
    first = jnp.where(at.t == 0, slope_zero, (at.value_low - at.value) / jnp.where(left > 0, -left, 1.0))
    second = (at.value_high - at.value) / jnp.where(right > 0, right, 1.0)
    middle = jnp.where(at.t == 0, at.t, 0.5 * (at.low + at.t))
    bend = (second - first) / (0.5 * (at.t + at.high) - middle)
    vertex = middle - first / jnp.where(bend > 0, bend, 1.0)
    start = jnp.where((vertex > at.low) & (vertex < at.high) & (bend > 0), vertex, 0.5 * (at.low + at.high))
    boundary = (at.t == 0) & (slope_zero >= 0)
    return jnp.where(boundary, 0.0, start), at.low, jnp.where(boundary, 0.0, at.high)


def _second_valley(value: jax.Array, grid: jax.Array, best: _Bracket) -> tuple[_Bracket, jax.Array]:
    """The next lowest valley of the grid, and whether it could hold the global minimum.

    A parabola through three grid points lies below the lowest of them by at most 1/8 of the rise
    to the higher neighbour; the margin is 1/2 of it.
    """
    K = len(grid)
    edge = jnp.full_like(value[:1], jnp.inf)
    before, after = jnp.concatenate([edge, value[:-1]]), jnp.concatenate([value[1:], edge])
    local = (value <= before) & (value <= after) & (grid[:, None] != best.t)
    k = jnp.arange(K)[:, None]
    rise = jnp.maximum(jnp.where(k == 0, value, before), jnp.where(k == K - 1, value, after)) - value
    reachable = jnp.where(local, value - 0.5 * rise - 1e-9, jnp.inf)
    at = jnp.argmin(reachable, axis=0)
    three = [jnp.clip(at + step, 0, K - 1) for step in (-1, 0, 1)]
    values = [jnp.take_along_axis(value, j[None], axis=0)[0] for j in three]
    return _Bracket(*[grid[j] for j in three], *values), jnp.min(reachable, axis=0) < best.value
