"""The only module that touches jaxopt: batched minimisation of the deviance over t >= 0.

1. A grid of t shared by all responses: their pwrss is one matrix product. Its lowest point
   brackets the global minimum.
2. Inside the bracket, Newton steps on the derivative, bisecting where a step would leave it
   (``jaxopt.FixedPointIteration``, vmapped). The alternatives are in benchmarks/solvers.py.
3. If some response has a second valley that could be as deep, that one is polished too.

t = 0 (variance 0) is a minimum like any other: kept exactly 0 where the derivative there is >= 0.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.objective import Terms, deviance, pwrss, ratio, slope

with warnings.catch_warnings():
    # jaxopt says on import that it is no longer developed; nothing a user can act on.
    warnings.filterwarnings("ignore", message=".*JAXopt is no longer maintained.*")
    import jaxopt

__all__ = ["Optimum", "GRID", "minimise"]

# The deviance in t is a sum of functions that change over a unit of t, so steps of 1/2 see every
# valley; the first ones are shorter, for valleys near 0. exp(34) spans the ratios of float64.
GRID = np.concatenate([[0.0, 0.02, 0.05, 0.1, 0.2, 0.35], np.arange(0.5, 10, 0.5), np.arange(10, 35, 1.0)])
MAX_ITER = 60
# Stop when a step moves t (that is, log lam) by less, or the derivative is this part of nu.
TOL_STEP = 1e-11
TOL_SLOPE = 2e-14
# What counts as converged: derivative in log lam, relative to nu.
TOL_CONVERGED = 1e-9


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Optimum:
    """Per response: ``lam``, ``pwrss`` and ``deviance`` at the minimum, ``converged``; all (c,)."""

    lam: jax.Array
    pwrss: jax.Array
    deviance: jax.Array
    converged: jax.Array


def minimise(terms: Terms, u2: jax.Array, rest: jax.Array) -> Optimum:
    """Global minimum of the deviance of c responses.

    Parameters
    ----------
    terms : Terms
    u2 : (J, c)
    rest : (c,)
    """
    value, start = _grid_values(terms, u2, rest)
    best = jnp.argmin(value, axis=0)
    t = _polish(terms, u2, rest, start, best)
    second, doubtful = _second_valley(value, start, best)
    found = jax.vmap(deviance, in_axes=(0, None, 1, 0))(t, terms, u2, rest)

    def polish_second(_: None) -> jax.Array:
        other = _polish(terms, u2, rest, start, jnp.where(doubtful, second, best))
        lower = jax.vmap(deviance, in_axes=(0, None, 1, 0))(other, terms, u2, rest) < found
        return jnp.where(doubtful & lower, other, t)

    t = jax.lax.cond(jnp.any(doubtful), polish_second, lambda _: t, None)
    gradient, curvature = jax.vmap(slope, in_axes=(0, None, 1, 0))(t, terms, u2, rest)
    converged = jnp.where(t == 0, gradient >= 0, jnp.abs(gradient) <= TOL_CONVERGED * terms.nu)
    converged &= (t == 0) | (curvature >= -TOL_CONVERGED * terms.nu)
    return Optimum(
        ratio(t, terms),
        jax.vmap(pwrss, in_axes=(0, None, 1, 0))(t, terms, u2, rest),
        jax.vmap(deviance, in_axes=(0, None, 1, 0))(t, terms, u2, rest),
        converged,
    )


def _grid_values(terms: Terms, u2: jax.Array, rest: jax.Array) -> tuple[jax.Array, jax.Array]:
    grid = jnp.asarray(GRID)
    lam = ratio(grid, terms)[:, None]
    s = (1 / (1 + lam * terms.d[: terms.n_spectrum])) @ u2 + rest
    logdet = jnp.sum(terms.m * jnp.log1p(lam * terms.d), axis=1)
    return terms.nu * jnp.log(s) + logdet[:, None], grid


def _polish(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array, at: jax.Array) -> jax.Array:
    """Minimum between the grid points before and after point ``at`` (c,) of each response."""
    last = len(GRID) - 1
    t, low, high = grid[at], grid[jnp.maximum(at - 1, 0)], grid[jnp.minimum(at + 1, last)]
    at_zero, _ = jax.vmap(slope, in_axes=(0, None, 1, 0))(jnp.zeros_like(t), terms, u2, rest)
    boundary = (at == 0) & (at_zero >= 0)
    high = jnp.where(boundary, 0.0, high)
    t = jnp.where((at == 0) & ~boundary, 0.5 * high, t)
    solver = _newton()
    run = jax.vmap(lambda start, v, r: solver.run(start, terms, v, r).params[0], in_axes=(0, 1, 0))
    return run((t, low, high), u2, rest)


def _newton_step(
    state: tuple[jax.Array, jax.Array, jax.Array], terms: Terms, u2: jax.Array, rest: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One safeguarded Newton step on (t, low, high); a fixed point is a minimum."""
    t, low, high = state
    gradient, curvature = slope(t, terms, u2, rest)
    low = jnp.where(gradient < 0, t, low)
    high = jnp.where(gradient > 0, t, high)
    newton = t - gradient / curvature
    inside = (curvature > 0) & (newton > low) & (newton < high)
    step = jnp.where(inside, newton, 0.5 * (low + high))
    done = jnp.abs(gradient) <= TOL_SLOPE * terms.nu
    return jnp.where(done, t, step), low, high


@functools.cache
def _newton() -> jaxopt.FixedPointIteration:
    # One instance for the process: a solver object is what jit's cache hangs on.
    return jaxopt.FixedPointIteration(
        _newton_step, maxiter=MAX_ITER, tol=TOL_STEP, implicit_diff=False, unroll=False
    )


def _second_valley(value: jax.Array, grid: jax.Array, best: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The next lowest local minimum of the grid values, and whether it could be the global one.

    A parabola through three grid points lies below the lowest of them by at most 1/8 of the rise
    to the higher neighbour; the margin is 1/2 of it.
    """
    k = jnp.arange(len(GRID))[:, None]
    before = jnp.concatenate([jnp.full_like(value[:1], jnp.inf), value[:-1]])
    after = jnp.concatenate([value[1:], jnp.full_like(value[:1], jnp.inf)])
    local = (value <= before) & (value <= after) & (jnp.abs(k - best) > 1)
    rise = jnp.maximum(jnp.where(k == 0, value, before), jnp.where(k == len(GRID) - 1, value, after)) - value
    reachable = jnp.where(local, value - 0.5 * rise - 1e-9, jnp.inf)
    second = jnp.argmin(reachable, axis=0)
    return second, jnp.min(reachable, axis=0) < jnp.min(value, axis=0)
