"""The only module that touches jaxopt: one minimum, or one root, inside a bracket.

Both are safeguarded Newton steps (bisecting where a step would leave the bracket) run by
``jaxopt.FixedPointIteration``; callers ``vmap`` them over responses. The other solvers of jaxopt
that were tried are in benchmarks/solvers.py.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

with warnings.catch_warnings():
    # jaxopt says on import that it is no longer developed; nothing a user can act on.
    warnings.filterwarnings("ignore", message=".*JAXopt is no longer maintained.*")
    import jaxopt

__all__ = [
    "FAR", "Surface", "bracketed_minima", "bracketed_minimum", "bracketed_root", "crossing_of_minimum",
    "iteration_step",
]  # fmt: skip

MAX_ITER = 60
# Stop after a step in t (that is, in log lam) this small: Newton's error is then its square.
TOL_STEP = 1e-7
# Where a step costs a pass over all responses of a batch: the square of this is small enough, too.
TOL_STEPS = 4e-6
# Or where the derivative is this part of its terms, which is rounding.
TOL_SLOPE = 2e-14
# Roots are of quantities in units of a standard error, of nearly linear functions: Newton's error
# after a step this small is far below it.
TOL_ROOT = 1e-6
# An upper end of a bracket that says: there is none.
FAR = 1e30
# jaxopt stops on the change of the whole state; so scaled (exactly) the bracket does not count.
HIDDEN = 2.0**-40


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
    return _iteration(_newton_step, slope, TOL_STEP).run(init, scale, *args).params[0]


def bracketed_minima(
    slope: Callable[..., tuple[jax.Array, jax.Array]],
    start: jax.Array,
    low: jax.Array,
    high: jax.Array,
    scale: jax.Array,
    *args: Any,
) -> jax.Array:
    """As :func:`bracketed_minimum`, of c functions together, for a ``slope`` that takes and gives arrays (c,)."""
    init = (start, low * HIDDEN, high * HIDDEN, jnp.zeros_like(start))
    return _iteration(_newton_steps, slope, TOL_STEPS).run(init, scale, *args).params[0]


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
    found = _iteration(_root_step, value_slope, TOL_ROOT).run(init, *args)
    return found.params[0], found.state.error <= TOL_ROOT


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Surface:
    """A function of (v, t) above the level that its minimum over t is to cross, and derivatives.

    ``rise`` above the function's lowest value; ``level``; ``v``, ``t``, ``tt``, ``vt`` the derivatives.
    """

    rise: jax.Array
    level: jax.Array
    v: jax.Array
    t: jax.Array
    tt: jax.Array
    vt: jax.Array


def crossing_of_minimum(
    surface: Callable[..., Surface],
    v: jax.Array,
    t: jax.Array,
    v_end: jax.Array,
    t_least: jax.Array,
    *args: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """v > 0 at which the minimum over t >= 0 of one ``surface(v, t, *args)`` rises to its level, that t, and success.

    Newton steps in both at once, from (v, t): no search for t inside one for v. It ends at a local minimum in t,
    which is for the caller to compare with others. ``v_end`` is never reached; in one step t falls to ``t_least``
    times itself at most, or to 0 for 0.
    """
    found = _iteration(_crossing_step, surface, TOL_ROOT).run((v, t), v_end, t_least, *args)
    return *found.params, found.state.error <= TOL_ROOT


def _crossing_step(
    surface: Callable[..., Surface],
    state: tuple[jax.Array, jax.Array],
    v_end: jax.Array,
    t_least: jax.Array,
    *args: Any,
) -> tuple[jax.Array, jax.Array]:
    """One Newton step on (v, t), of limited length."""
    v, t = state
    at = surface(v, t, *args)
    # At t = 0 with a function that rises from there, or where it does not curve upwards, v moves alone.
    free = (at.tt > 0) & ~((t <= 0) & (at.t >= 0))
    curvature = jnp.where(at.tt > 0, at.tt, 1.0)
    least = jnp.where(free, at.rise - 0.5 * at.t**2 / curvature, at.rise)
    slope = jnp.where(free, at.v - at.vt * at.t / curvature, at.v)
    root = jnp.sqrt(jnp.maximum(least, 1e-300))
    newton = v - (root - jnp.sqrt(at.level)) * 2 * root / slope
    newton = jnp.where(slope > 0, newton, 2 * v)
    moved = jnp.clip(newton, v / 3, jnp.minimum(3 * v, 0.5 * (v + v_end)))
    shift = jnp.where(free, -(at.t + at.vt * (moved - v)) / curvature, -jnp.sign(at.t) * (t > 0))
    # At 0 a function that falls sends t away from there.
    shift = jnp.where((t <= 0) & (at.t >= 0), 0.0, jnp.clip(shift, -2.0, 2.0))
    return moved, jnp.maximum(t + shift, t_least * t)


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


def _newton_steps(
    slope: Callable[..., tuple[jax.Array, jax.Array]],
    state: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    scale: jax.Array,
    *args: Any,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """As :func:`_newton_step`; a response that is through (the last of the state) stays where it is."""
    t, low, high, through = state
    moved, low, high = _newton_step(slope, (t, low, high), scale, *args)
    # One that is not a number must not end the loop of all others.
    moved = jnp.where((through > 0) | jnp.isnan(moved), t, moved)
    return moved, low, high, jnp.where(jnp.abs(moved - t) <= TOL_STEPS, HIDDEN, through)


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
def _iteration(step: Callable[..., Any], function: Callable[..., Any], tol: float) -> jaxopt.FixedPointIteration:
    step = functools.partial(step, function)
    return jaxopt.FixedPointIteration(step, maxiter=MAX_ITER, tol=tol, implicit_diff=False, unroll=False)


@functools.cache
def iteration_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """One iteration of ``step(state, *args) -> state`` on a whole batch, under jaxopt.

    For steps whose fixed points are the solutions, and that leave a solved response as it is. The caller
    owns the loop, and so may leave the solved responses out of it.
    """
    solver = jaxopt.FixedPointIteration(step, maxiter=MAX_ITER, tol=0.0, implicit_diff=False, unroll=False)

    def advance(state: Any, *args: Any) -> Any:
        return solver.update(state, solver.init_state(state, *args), *args).params

    return advance
