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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.objective import Moments, Terms, derivatives, logdet, moments, ratio, slope

with warnings.catch_warnings():
    # jaxopt says on import that it is no longer developed; nothing a user can act on.
    warnings.filterwarnings("ignore", message=".*JAXopt is no longer maintained.*")
    import jaxopt

__all__ = ["FAR", "GRID_SIZE", "Optimum", "bracketed_minimum", "bracketed_root", "make_grid", "minimise"]

GRID_SIZE = 36
# exp(34) spans the variance ratios of float64.
T_MAX = 34.0
MAX_ITER = 60
# Stop after a step in t (that is, in log lam) this small: Newton's error is then its square.
TOL_STEP = 1e-7
# Or where the derivative is this part of nu, which is rounding.
TOL_SLOPE = 2e-14
# Roots are of quantities in units of a standard error.
TOL_ROOT = 1e-8
# An upper end of a bracket that says: there is none.
FAR = 1e30
# jaxopt stops on the change of the whole state; so scaled (exactly) the bracket does not count.
HIDDEN = 2.0**-40
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
class _Candidate:
    """A polished minimum of each response."""

    t: jax.Array
    at: Moments
    deviance: jax.Array


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


def minimise(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array) -> Optimum:
    """Global minimum of the deviance of c responses.

    Parameters
    ----------
    terms : Terms
    u2 : (J, c)
    rest : (c,)
    grid : (GRID_SIZE,)
        From :func:`make_grid`.
    """
    value, slope_zero = _grid_values(terms, u2, rest, grid)
    best, n_valleys = _lowest(value, grid)
    second, doubtful = jax.lax.cond(
        jnp.any(n_valleys > 1),
        lambda: _second_valley(value, grid, best),
        lambda: (best, jnp.zeros_like(rest, dtype=bool)),
    )

    def polish(k: int, found: _Candidate) -> _Candidate:
        bracket = jax.tree.map(lambda a, b: jnp.where(k == 0, a, b), best, second)
        t = _polish(terms, u2, rest, bracket, slope_zero)
        at = jax.vmap(moments, in_axes=(0, None, 1, 0))(t, terms, u2, rest)
        new = _Candidate(t, at, terms.nu * jnp.log(at.s) + logdet(t, terms))
        better = (k == 0) | (doubtful & (new.deviance < found.deviance))
        return jax.tree.map(functools.partial(jnp.where, better), new, found)

    # A loop, so that the code is compiled once; its second round is rarely needed.
    nothing = _Candidate(rest, Moments(rest, rest, rest, rest, rest), rest)
    found = jax.lax.fori_loop(0, 1 + jnp.any(doubtful), polish, nothing)
    lam = ratio(found.t, terms)
    first, second_derivative = derivatives(found.at, terms)
    step = lam + 1 / terms.d_max
    gradient = first * step
    converged = jnp.where(found.t == 0, gradient >= 0, jnp.abs(gradient) <= TOL_CONVERGED * terms.nu)
    converged &= (found.t == 0) | (second_derivative * step**2 >= -TOL_CONVERGED * terms.nu)
    return Optimum(lam, found.at.s, found.deviance, second_derivative, converged)


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


def _polish(terms: Terms, u2: jax.Array, rest: jax.Array, at: _Bracket, slope_zero: jax.Array) -> jax.Array:
    """Minimum inside each bracket, from the vertex of a parabola."""
    left, right = at.t - at.low, at.high - at.t
    # At t = 0 the derivative is known and stands in for the missing neighbour.
    first = jnp.where(at.t == 0, slope_zero, (at.value_low - at.value) / jnp.where(left > 0, -left, 1.0))
    second = (at.value_high - at.value) / jnp.where(right > 0, right, 1.0)
    middle = jnp.where(at.t == 0, at.t, 0.5 * (at.low + at.t))
    bend = (second - first) / (0.5 * (at.t + at.high) - middle)
    vertex = middle - first / jnp.where(bend > 0, bend, 1.0)
    start = jnp.where((vertex > at.low) & (vertex < at.high) & (bend > 0), vertex, 0.5 * (at.low + at.high))
    boundary = (at.t == 0) & (slope_zero >= 0)
    start, high = jnp.where(boundary, 0.0, start), jnp.where(boundary, 0.0, at.high)
    run = jax.vmap(
        lambda t, low, high, v, r: bracketed_minimum(slope, t, low, high, terms.nu, terms, v, r),
        in_axes=(0, 0, 0, 1, 0),
    )
    return run(start, at.low, high, u2, rest)


def bracketed_minimum(
    slope: Callable[..., tuple[jax.Array, jax.Array]],
    start: jax.Array,
    low: jax.Array,
    high: jax.Array,
    scale: jax.Array,
    *args: Any,
) -> jax.Array:
    """Minimum in [low, high] of one function with derivatives ``slope(t, *args)``.

    ``scale`` is the size of the first derivative's terms, that is, what its rounding goes with.
    """
    init = (start, low * HIDDEN, high * HIDDEN)
    return _newton(slope).run(init, scale, *args).params[0]


def bracketed_root(
    value_slope: Callable[..., tuple[jax.Array, jax.Array]],
    start: jax.Array,
    low: jax.Array,
    high: jax.Array,
    *args: Any,
) -> tuple[jax.Array, jax.Array]:
    """Root in [low, high] of one increasing function, and whether it was reached.

    ``value_slope(x, *args)`` gives the function and its derivative. ``high`` may be ``FAR``: then
    the search doubles x until the function is positive. x is to be scaled to about 1.
    """
    init = (start, low * HIDDEN, high * HIDDEN)
    found = _rootfinder(value_slope).run(init, *args)
    return found.params[0], found.state.error <= TOL_ROOT


def _newton_step(
    slope: Callable[..., tuple[jax.Array, jax.Array]],
    state: tuple[jax.Array, jax.Array, jax.Array],
    scale: jax.Array,
    *args: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One safeguarded Newton step on (t, low, high); a fixed point is a minimum."""
    t, low, high = state[0], state[1] / HIDDEN, state[2] / HIDDEN
    gradient, curvature = slope(t, *args)
    low = jnp.where(gradient < 0, t, low)
    high = jnp.where(gradient > 0, t, high)
    newton = t - gradient / curvature
    inside = (curvature > 0) & (newton > low) & (newton < high)
    step = jnp.where(inside, newton, 0.5 * (low + high))
    done = jnp.abs(gradient) <= TOL_SLOPE * scale
    return jnp.where(done, t, step), low * HIDDEN, high * HIDDEN


def _root_step(
    value_slope: Callable[..., tuple[jax.Array, jax.Array]],
    state: tuple[jax.Array, jax.Array, jax.Array],
    *args: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One safeguarded Newton step on (x, low, high); a fixed point is a root."""
    x, low, high = state[0], state[1] / HIDDEN, state[2] / HIDDEN
    value, derivative = value_slope(x, *args)
    low = jnp.where(value < 0, x, low)
    high = jnp.where(value > 0, x, high)
    newton = x - value / derivative
    # Far from the root a step may leave for where nothing is known: at most thrice as far.
    inside = (derivative > 0) & (newton > low) & (newton < jnp.minimum(high, 3 * jnp.maximum(x, 1e-3)))
    step = jnp.where(inside, newton, jnp.where(high < FAR, 0.5 * (low + high), 2 * x))
    return jnp.where(value == 0, x, step), low * HIDDEN, high * HIDDEN


# One solver for each function and process: a solver object is what jit's cache hangs on.
@functools.cache
def _newton(slope: Callable[..., Any]) -> jaxopt.FixedPointIteration:
    step = functools.partial(_newton_step, slope)
    return jaxopt.FixedPointIteration(step, maxiter=MAX_ITER, tol=TOL_STEP, implicit_diff=False, unroll=False)


@functools.cache
def _rootfinder(value_slope: Callable[..., Any]) -> jaxopt.FixedPointIteration:
    step = functools.partial(_root_step, value_slope)
    return jaxopt.FixedPointIteration(step, maxiter=MAX_ITER, tol=TOL_ROOT, implicit_diff=False, unroll=False)


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
