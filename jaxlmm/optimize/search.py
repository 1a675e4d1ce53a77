"""Global minimum of the deviance over t >= 0, for a batch of responses.

1. A grid of t: its lowest point brackets the global minimum. Where all responses share a design,
   their pwrss on the grid is one matrix product.
2. Inside the bracket, Newton steps from the vertex of a parabola (``solver``).
3. A bound shows that no other minimum is lower, or the rest of t is searched until one does (``certificate``).

t = 0 (variance 0) is a minimum like any other: kept exactly 0 where the derivative there is >= 0.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.optimize.certificate import (
    OF_UNDECIDED,
    TOLERANCE,
    Candidate,
    Nodes,
    Problem,
    Shape,
    is_alone,
    settle,
    thresholds,
)  # fmt: skip

__all__ = [
    "GRID_SIZE", "T_MAX", "Optimum", "first_minimum", "hessian_in_theta", "is_minimum", "lowest_node", "make_grid",
    "newton_start", "search", "settle_all",
]  # fmt: skip

GRID_SIZE = 36
# exp(170) is 6e73: beyond any ratio that the squares of float64 numbers leave, at any spread of the eigenvalues.
T_MAX = 170.0
# The part of the grid with small steps ends here at the latest.
T_FINE = 60.0
# Beyond it, so many points, each step twice the one before.
N_FAR = 6
# Of a grid of fewer points: those of the part with small steps, and those beyond.
FEW_FINE, FEW_FAR = 9, 3
# What counts as converged: derivative in log lam, relative to nu.
TOL_CONVERGED = 1e-9


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Optimum:
    """Per response, at the minimum; all (c,).

    ``lam``, ``pwrss``, ``deviance``, ``hessian`` (second derivative of the deviance in theta = sqrt(lam))
    and ``converged``.
    """

    lam: jax.Array
    pwrss: jax.Array
    deviance: jax.Array
    hessian: jax.Array
    converged: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Bracket:
    """Three neighbouring grid points of each response, the middle one lowest; all (c,).

    At either end of the grid two of the points are the same. Outside of ``first`` to ``last`` no
    point is lower than the grid's.
    """

    low: jax.Array
    t: jax.Array
    high: jax.Array
    value_low: jax.Array
    value: jax.Array
    value_high: jax.Array
    first: jax.Array
    last: jax.Array


def hessian_in_theta(lam: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """Second derivative in theta = sqrt(lam) at a minimum, from the derivatives in lam there."""
    # Inside, the first derivative is 0 but for roundings.
    return jnp.where(lam > 0, 4 * lam * second, 2 * first)


def is_minimum(t: jax.Array, gradient: jax.Array, curvature: jax.Array, nu: jax.Array) -> jax.Array:
    """Whether derivatives in t, relative to nu, are those of a minimum."""
    boundary = t == 0
    flat = jnp.where(boundary, gradient >= 0, jnp.abs(gradient) <= TOL_CONVERGED * nu)
    return flat & (boundary | (curvature >= -TOL_CONVERGED * nu))


def make_grid(d: np.ndarray, *, few: bool = False) -> np.ndarray:
    """Points of t for a design with eigenvalues ``d``; ``few``: fewer, which leave more responses undecided.

    The deviance in t is a sum of functions that change over a unit of t, at t = log(d_max / d_j),
    so steps of a part of a unit up to the last of these see nearly every local minimum (the others are
    found by their bound). Beyond, where every 1 + lam d_j is proportional to lam, any step brackets the
    minimum.
    """
    positive = d[d > 0]
    spread = np.log(positive.max() / positive.min()) if len(positive) else 0.0
    near = np.array([0.0, 0.2] if few else [0.0, 0.02, 0.08, 0.2, 0.35])
    n_far = FEW_FAR if few else N_FAR
    fine = np.linspace(0.5, min(spread + 5.0, T_FINE), FEW_FINE if few else GRID_SIZE - len(near) - n_far)
    far = (2.0 ** np.arange(1, n_far + 1) - 1) / (2.0**n_far - 1)
    return np.concatenate([near, fine, fine[-1] + (T_MAX - fine[-1]) * far])


def search(problem: Problem, nodes: Nodes) -> tuple[Candidate, jax.Array]:
    """Lowest minimum of each response, and whether it is known to be the lowest (c,)."""
    found, undecided = first_minimum(problem, nodes)
    return jax.lax.cond(
        jnp.any(undecided),
        lambda: settle(problem, nodes, found, undecided),
        lambda: (found, jnp.ones_like(undecided)),
    )


def first_minimum(problem: Problem, nodes: Nodes) -> tuple[Candidate, jax.Array]:
    """The minimum beside the lowest grid point, and whether it is undecided (c,) that it is the lowest.

    The first, cheap proof holds for nearly all; ``search`` settles the others.
    """
    at = lowest_node(nodes, problem.nu)
    found = problem.evaluate(problem.newton(*newton_start(at, nodes.slope_zero)))
    reach = jnp.maximum(found.t - at.first, at.last - found.t)
    proved = is_alone(Shape.of(found, problem), reach, found.t == 0) & (found.deviance <= at.value + TOLERANCE)
    return found, ~proved & jnp.isfinite(found.deviance)


def settle_all(problem: Problem, nodes: Nodes, t: jax.Array) -> tuple[Candidate, jax.Array]:
    """As :func:`search`, of responses that :func:`first_minimum` has left undecided at t (c,)."""
    return settle(problem, nodes, problem.evaluate(t), jnp.ones(t.shape, dtype=bool), OF_UNDECIDED)


def lowest_node(nodes: Nodes, nu: jax.Array) -> _Bracket:
    """Bracket of the lowest grid point; one walk over the grid."""
    t, s, value = nodes.t, nodes.s, nu * jnp.log(nodes.s) + nodes.logdet
    # Numpy's: for one of its own JAX would compile a program.
    zero: Any = np.zeros(value.shape[1:], value.dtype)

    def visit(state, at):  # type: ignore[no-untyped-def]
        best, last = state
        low, here, high, value, value_high, left, right, fall, rise = at
        opened = (right < fall * left) & (left < rise * right)
        first = jnp.minimum(best.first, jnp.where(opened, low, np.inf))
        end = jnp.where(opened, here, best.last)
        new = _Bracket(zero + low, zero + here, zero + high, last, value, value_high, first, end)
        best = dataclasses.replace(best, first=first, last=end)
        return (jax.tree.map(functools.partial(jnp.where, value < best.value), new, best), value), None

    nowhere = (zero + np.inf, zero - np.inf)
    start = _Bracket(zero + t[0], zero + t[0], zero + t[1], value[0], value[0], value[1], *nowhere)
    steps = (t[:-1], t[1:], _then_last(t[2:]), value[1:], _then_last(value[2:]), s[:-1], s[1:])
    return jax.lax.scan(visit, (start, value[0]), (*steps, *thresholds(nodes, nu)))[0][0]


def _then_last(values: jax.Array) -> jax.Array:
    """The last one twice."""
    return jnp.concatenate([values, values[-1:]])


def newton_start(at: _Bracket, slope_zero: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
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
