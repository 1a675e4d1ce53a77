"""Profile limits by Newton steps in the parameter and the variance ratio at once: the fast way for most responses.

A limit is where the deviance D(x, t), minimised over t = log(1 + lam d_max), lies the quantile above its minimum.
Both conditions are solved together, from a start near the answer, which takes some ten evaluations. Where that does
not end, or a point of the grid is lower than the minimum in t that it ended at, the limit is NaN, and the searches
of ``profile``, one inside the other, find it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlmm.families.intercept.profile import Profiled, ProfiledCoefficient
from jaxlmm.optimize.solver import FAR, Surface, crossing_of_minimum

__all__ = ["fast_coefficient_limits", "fast_variance_limits"]

# How much lower a point of the grid may lie, in deviance.
LOWER = 1e-9
# In one step t of the group's standard deviation falls to this part of itself at most: at 0 its deviance is infinite.
LEAST = 0.25


def _surface(
    value: jax.Array,
    v: jax.Array,
    first: jax.Array,
    second: jax.Array,
    mixed: jax.Array,
    t: jax.Array,
    one: Profiled,
) -> Surface:
    """From the deviance, its derivative in v, and derivatives in lam of it and of that one."""
    step = jnp.exp(t) / one.d_max
    return Surface(value - one.minimum, one.cut, v, first * step, (second * step + first) * step, mixed * step)


def _sigma(v: jax.Array, t: jax.Array, unit: jax.Array, one: Profiled) -> Surface:
    x2 = one.sigma2 * jnp.exp(2 * unit * v)
    at, nu = one.moments(t), one.nu
    value = nu * jnp.log(x2) + at.s / x2 + one.logdet(t)
    slope = 2 * unit * (nu - at.s / x2)
    return _surface(value, slope, at.s1 / x2 + at.l1, at.s2 / x2 + at.l2, -2 * unit * at.s1 / x2, t, one)


def _group(v: jax.Array, t: jax.Array, centre: jax.Array, unit: jax.Array, one: Profiled) -> Surface:
    x = centre + unit * v
    lam = jnp.maximum(jnp.expm1(t) / one.d_max, 1e-300)
    at, nu = one.moments(t), one.nu
    value = nu * jnp.log(x**2 / lam) + lam * at.s / x**2 + one.logdet(t)
    pull = at.s + lam * at.s1
    first = -nu / lam + pull / x**2 + at.l1
    second = nu / lam**2 + (2 * at.s1 + lam * at.s2) / x**2 + at.l2
    slope = (2 * nu / x - 2 * lam * at.s / x**3) * unit
    return _surface(value, slope, first, second, -2 * pull / x**3 * unit, t, one)


def _coef(
    v: jax.Array, t: jax.Array, centre: jax.Array, unit: jax.Array, one: Profiled, k: ProfiledCoefficient
) -> Surface:
    at, beta, C = one.with_coefficient(t, k)
    nu, e = one.nu, (centre + unit * v - beta[0]) / C[0]
    A = at.s + e * e * C[0]
    A1 = at.s1 - 2 * e * beta[1] - e * e * C[1]
    A2 = at.s2 - 2 * e * beta[2] - e * e * C[2] + 2 * (beta[1] + e * C[1]) ** 2 / C[0]
    value = nu * (jnp.log(A / nu) + 1) + one.logdet(t)
    mixed = 2 * nu * unit * (-(beta[1] + e * C[1]) / C[0] / A - e * A1 / A**2)
    return _surface(
        value, 2 * nu * unit * e / A, nu * A1 / A + at.l1, nu * (A2 / A - (A1 / A) ** 2) + at.l2, mixed, t, one
    )


def _limit(
    surface: Callable[..., Surface],
    on_grid: Callable[[jax.Array], jax.Array],
    start: tuple[jax.Array, jax.Array, jax.Array, float],
    *args: Any,
) -> jax.Array:
    """v of a limit; NaN where it is not known to be that of the lowest minimum."""
    v, t, reached = crossing_of_minimum(surface, start[0], start[1], start[2], jnp.asarray(start[3]), *args)
    at, one = surface(v, t, *args), args[-1] if not hasattr(args[-1], "beta_grid") else args[-2]
    flat = (jnp.abs(at.t) <= 1e-6 * one.nu) & (at.tt > 0) | ((t == 0) & (at.t >= 0))
    lowest = jnp.min(on_grid(v)) - one.minimum >= at.rise - LOWER
    there = jnp.abs(at.rise - at.level) <= 1e-6
    return jnp.where(reached & flat & lowest & there, v, jnp.nan)


def _sigma_limits(one: Profiled) -> jax.Array:
    scale = 1 / jnp.sqrt(2 * one.nu)
    lam = jnp.expm1(one.t) / one.d_max

    def limit(side: jax.Array) -> jax.Array:
        unit, v = side * scale, jnp.sqrt(one.cut)

        def on_grid(v: jax.Array) -> jax.Array:
            x2 = one.sigma2 * jnp.exp(2 * unit * v)
            return one.nu * jnp.log(x2) + one.s_grid / x2 + one.logdets

        t = jnp.log1p(lam * one.d_max * jnp.exp(-2 * unit * v))  # the group's standard deviation stays what it is
        found = _limit(_sigma, on_grid, (v, t, jnp.full_like(v, FAR), 0.0), unit, one)
        return jnp.sqrt(one.sigma2) * jnp.exp(unit * found)

    return jax.lax.map(limit, jnp.array([-1.0, 1.0]))


def _group_limits(one: Profiled) -> jax.Array:
    lam = jnp.expm1(one.t) / one.d_max
    sd = jnp.sqrt(lam * one.sigma2)
    scale = jnp.maximum(0.3 * sd, 0.3 * jnp.sqrt(one.sigma2 / one.d_max))
    at_zero = one.nu * (jnp.log(one.s_grid[0] / one.nu) + 1)
    to_zero = (at_zero - one.minimum <= one.cut) | (lam == 0)
    lams = jnp.expm1(one.grid[1:]) / one.d_max

    def limit(side: jax.Array) -> jax.Array:
        # Where the lower limit is 0 its search is not needed and does the upper one's work.
        side = jnp.where(to_zero, 1.0, side)
        unit, end = side * scale, jnp.where(side > 0, FAR, sd / scale)
        v = jnp.minimum(jnp.sqrt(one.cut), 0.5 * end)

        def on_grid(v: jax.Array) -> jax.Array:
            x2 = (sd + unit * v) ** 2
            return one.nu * jnp.log(x2 / lams) + lams * one.s_grid[1:] / x2 + one.logdets[1:]

        t = jnp.log1p((sd + unit * v) ** 2 / one.sigma2 * one.d_max)  # sigma stays what it is
        return sd + unit * _limit(_group, on_grid, (v, t, end, LEAST), sd, unit, one)

    limits = jax.lax.map(limit, jnp.array([-1.0, 1.0]))
    return limits.at[0].set(jnp.where(to_zero, 0.0, limits[0]))


def _coef_limits(one: Profiled, k: ProfiledCoefficient) -> jax.Array:
    _, beta, C = one.with_coefficient(one.t, k)
    scale = jnp.sqrt(one.sigma2 * C[0])

    def limit(side: jax.Array) -> jax.Array:
        unit, v = side * scale, jnp.sqrt(one.cut)

        def on_grid(v: jax.Array) -> jax.Array:
            A = one.s_grid + (beta[0] + unit * v - k.beta_grid) ** 2 / k.C_grid
            return one.nu * (jnp.log(A / one.nu) + 1) + one.logdets

        found = _limit(_coef, on_grid, (v, one.t, jnp.full_like(v, FAR), 0.0), beta[0], unit, one, k)
        return beta[0] + unit * found

    return jax.lax.map(limit, jnp.array([-1.0, 1.0]))


def fast_variance_limits(responses: Any, axes: Any) -> tuple[jax.Array, jax.Array]:
    """As ``profile.variance_limits``; NaN where the limit is left to it."""
    sigma = jax.vmap(_sigma_limits, in_axes=(axes,))(responses)
    return jax.vmap(_group_limits, in_axes=(axes,))(responses), sigma


def fast_coefficient_limits(responses: Any, axes: Any, k: Any, k_axes: Any) -> jax.Array:
    """As ``profile.coefficient_limits``; NaN where the limit is left to it."""
    found: jax.Array = jax.vmap(_coef_limits, in_axes=(axes, k_axes))(responses, k)
    return found
