"""Profile likelihood intervals of the standard deviations and the fixed effects.

As R's ``confint(fit, method = "profile")``, all by maximum likelihood. For one parameter x held
fixed the deviance is minimised over the others, globally; the limits are where it lies the
chi-square quantile above its minimum. What is left inside is one search over the variance ratio:

    sigma     phi(lam) = s / sigma2 + l
    group sd  phi(lam) = -n log lam + lam s / group_var + l
    coef b_k  phi(lam) = n log(s + (b - beta_k)^2 / C_kk) + l

with s, l, beta and C as functions of lam (docstrings of ``spectrum`` and ``estimates``). By the
envelope theorem the outer derivative needs no more than the inner minimum, so both searches are
safeguarded Newton steps. A standard deviation whose deviance at 0 stays below the quantile has
the lower limit 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxlmm.families.intercept.minimum import minimise
from jaxlmm.families.intercept.objective import Terms, logdet, moments, ratio
from jaxlmm.optimize.solver import FAR, bracketed_minimum, bracketed_root
from jaxlmm.runtime import programs

__all__ = ["ProfileConstants", "profile_block"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ProfileConstants:
    """What the compiled code needs of a design; ``terms`` are those of ML.

    ``xtx_inv`` and ``limit`` (p,) are the diagonals of (X'X)^-1 and of the limit of (X'V^-1 X)^-1 / lam, ``cut`` is
    the chi-square quantile, ``logdets`` the log-determinant on the grid (K,).
    """

    terms: Terms
    grid: jax.Array
    f: jax.Array
    xtx_inv: jax.Array
    limit: jax.Array
    cut: jax.Array
    logdets: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Response:
    """One response: statistics, maximum likelihood optimum, and its sums on the grid (K,)."""

    u: jax.Array
    rest: jax.Array
    t: jax.Array
    sigma2: jax.Array
    minimum: jax.Array
    s_grid: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Coefficient:
    """What one coefficient adds: f_k (J,), a = (X'X)^-1_kk, the limit, and on the grid beta and C (K,)."""

    f: jax.Array
    a: jax.Array
    limit: jax.Array
    ols: jax.Array
    beta_grid: jax.Array
    C_grid: jax.Array


# (value, first, second derivative in lam)
Three = tuple[jax.Array, jax.Array, jax.Array]
# (deviance, its derivative in the parameter)
Two = tuple[jax.Array, jax.Array]


def _beta_C(lam: jax.Array, one: _Response, k: _Coefficient, d: jax.Array) -> tuple[Three, Three]:
    """beta_k and C_kk with two derivatives; a loop of running sums, as in ``objective``."""
    zero = jnp.zeros_like(lam)

    def add(carry, term):  # type: ignore[no-untyped-def]
        g0, g1, g2, h0, h1, h2 = carry
        d, u, f = term
        r = 1 / (1 + lam * d)
        fur, ffr = f * u * r, f * f * r
        safe = jnp.where(d > 0, d, 1.0)
        return (
            g0 + fur, g1 + fur * r, g2 + fur * r * r * d,
            h0 + ffr / safe, h1 + ffr * r / safe, h2 + ffr * r * r,
        ), None  # fmt: skip

    sums, _ = jax.lax.scan(add, (zero,) * 6, (d, one.u, k.f))
    g0, g1, g2, h0, h1, h2 = sums
    return (k.ols - lam * g0, -g1, 2 * g2), (k.a + lam * (k.limit + h0), k.limit + h1, -2 * h2)


def _in_t(first: jax.Array, second: jax.Array, t: jax.Array, terms: Terms) -> Two:
    """Derivatives in lam -> derivatives in t."""
    step = ratio(t, terms) + 1 / terms.d_max
    return first * step, (second * step + first) * step


# -- derivatives in t of the three inner functions phi, given the parameter x -----------------------


def _sigma_slope(t: jax.Array, x: jax.Array, one: _Response, terms: Terms) -> Two:
    at = moments(t, terms, one.u**2, one.rest)
    return _in_t(at.s1 / x**2 + at.l1, at.s2 / x**2 + at.l2, t, terms)


def _group_slope(t: jax.Array, x: jax.Array, one: _Response, terms: Terms) -> Two:
    lam = jnp.maximum(ratio(t, terms), 1e-300)
    at = moments(t, terms, one.u**2, one.rest)
    first = -terms.nu / lam + (at.s + lam * at.s1) / x**2 + at.l1
    second = terms.nu / lam**2 + (2 * at.s1 + lam * at.s2) / x**2 + at.l2
    return _in_t(first, second, t, terms)


def _coef_slope(t: jax.Array, x: jax.Array, one: _Response, terms: Terms, k: _Coefficient) -> Two:
    at = moments(t, terms, one.u**2, one.rest)
    beta, C = _beta_C(ratio(t, terms), one, k, terms.d[: terms.n_spectrum])
    e = (x - beta[0]) / C[0]
    A = at.s + e * e * C[0]
    A1 = at.s1 - 2 * e * beta[1] - e * e * C[1]
    A2 = (
        at.s2 - 2 * e * beta[2] - e * e * C[2]
        + 2 * (beta[1] + e * C[1]) ** 2 / C[0]
    )  # fmt: skip
    return _in_t(terms.nu * A1 / A + at.l1, terms.nu * (A2 / A - (A1 / A) ** 2) + at.l2, t, terms)


# -- the profiled deviance and its derivative in x --------------------------------------------------


def _inner(slope: Callable[..., Two], value: jax.Array, const: ProfileConstants, *args: Any) -> jax.Array:
    """t of the lowest point of phi: the grid's lowest valley, polished."""
    grid, scale = const.grid, const.terms.nu
    at = jnp.argmin(value)
    low, high = grid[jnp.maximum(at - 1, 0)], grid[jnp.minimum(at + 1, len(grid) - 1)]
    boundary = (at == 0) & (slope(jnp.zeros_like(high), *args)[0] >= 0)
    # Vertex of the parabola through three grid points.
    here, below, above = value[at], value[jnp.maximum(at - 1, 0)], value[jnp.minimum(at + 1, len(grid) - 1)]
    left, right = grid[at] - low, high - grid[at]
    rise, fall = (above - here) * left, (below - here) * right
    vertex = grid[at] + 0.5 * (fall * right - rise * left) / jnp.where(rise + fall > 0, rise + fall, 1.0)
    inside = (at > 0) & (vertex > low) & (vertex < high)
    start = jnp.where(at == 0, 0.5 * high, jnp.where(inside, vertex, grid[at]))
    t = bracketed_minimum(slope, start, low, jnp.where(boundary, 0.0, high), scale, *args)
    return jnp.where(boundary, 0.0, t)


def _sigma_deviance(x: jax.Array, one: _Response, const: ProfileConstants) -> Two:
    terms = const.terms
    t = _inner(_sigma_slope, one.s_grid / x**2 + const.logdets, const, x, one, terms)
    s = moments(t, terms, one.u**2, one.rest).s
    deviance = 2 * terms.nu * jnp.log(x) + s / x**2 + logdet(t, terms)
    return deviance, 2 * terms.nu / x - 2 * s / x**3


def _group_deviance(x: jax.Array, one: _Response, const: ProfileConstants) -> Two:
    terms = const.terms
    lams = ratio(const.grid[1:], terms)
    value = -terms.nu * jnp.log(lams) + one.s_grid[1:] * lams / x**2 + const.logdets[1:]
    # The first point stands for lam -> 0, where phi is infinite.
    t = _inner(_group_slope, jnp.concatenate([jnp.full(1, jnp.inf), value]), const, x, one, terms)
    lam = ratio(t, terms)
    s = moments(t, terms, one.u**2, one.rest).s
    deviance = terms.nu * jnp.log(x**2 / lam) + lam * s / x**2 + logdet(t, terms)
    return deviance, 2 * terms.nu / x - 2 * lam * s / x**3


def _coef_deviance(x: jax.Array, one: _Response, const: ProfileConstants, k: _Coefficient) -> Two:
    terms = const.terms
    # The n-th root of the likelihood's inverse: no logarithm for each grid point.
    value = (one.s_grid + (x - k.beta_grid) ** 2 / k.C_grid) * jnp.exp(const.logdets / terms.nu)
    t = _inner(_coef_slope, value, const, x, one, terms, k)
    s = moments(t, terms, one.u**2, one.rest).s
    beta, C = _beta_C(ratio(t, terms), one, k, terms.d[: terms.n_spectrum])
    e = (x - beta[0]) / C[0]
    A = s + e * e * C[0]
    deviance = terms.nu * (jnp.log(A / terms.nu) + 1) + logdet(t, terms)
    return deviance, 2 * terms.nu * e / A


def _rise(found: Two, unit: jax.Array, one: _Response, const: ProfileConstants) -> Two:
    """Root of the deviance's rise less that of the quantile: nearly linear in the distance."""
    root = jnp.sqrt(jnp.maximum(found[0] - one.minimum, 1e-300))
    return root - jnp.sqrt(const.cut), found[1] * unit / (2 * root)


def _sigma_excess(v: jax.Array, unit: jax.Array, one: _Response, const: ProfileConstants) -> Two:
    x = jnp.sqrt(one.sigma2) * jnp.exp(unit * v)
    value, slope = _sigma_deviance(x, one, const)
    return _rise((value, slope * x), unit, one, const)


def _group_excess(v: jax.Array, centre: jax.Array, unit: jax.Array, one: _Response, const: ProfileConstants) -> Two:
    return _rise(_group_deviance(centre + unit * v, one, const), unit, one, const)


def _coef_excess(
    v: jax.Array, centre: jax.Array, unit: jax.Array, one: _Response, const: ProfileConstants, k: _Coefficient
) -> Two:
    return _rise(_coef_deviance(centre + unit * v, one, const, k), unit, one, const)


# -- limits: distances in units of about a standard error, so that roots are near 2 ------------------


def _sigma_limits(one: _Response, const: ProfileConstants) -> jax.Array:
    start, scale = jnp.sqrt(const.cut), 1 / jnp.sqrt(2 * const.terms.nu)

    def limit(side: jax.Array) -> jax.Array:
        v, reached = bracketed_root(_sigma_excess, start, 0.0 * start, FAR + start, side * scale, one, const)
        return jnp.where(reached, jnp.sqrt(one.sigma2) * jnp.exp(side * scale * v), jnp.nan)

    return _both_sides(limit)


def _group_limits(one: _Response, const: ProfileConstants) -> jax.Array:
    terms = const.terms
    lam = ratio(one.t, terms)
    sd = jnp.sqrt(lam * one.sigma2)
    # For lam near 0 a step by which lam d_max goes up to about 1; beyond, a part of the estimate.
    scale = jnp.maximum(0.3 * sd, 0.3 * jnp.sqrt(one.sigma2 / terms.d_max))
    at_zero = terms.nu * (jnp.log(one.s_grid[0] / terms.nu) + 1)
    to_zero = (at_zero - one.minimum <= const.cut) | (lam == 0)

    def limit(side: jax.Array) -> jax.Array:
        # Where the lower limit is 0 its search is not needed and does the upper one's work.
        side = jnp.where(to_zero, 1.0, side)
        farthest = jnp.where(side > 0, FAR, sd / scale)
        start = jnp.minimum(jnp.sqrt(const.cut), 0.5 * farthest)
        v, reached = bracketed_root(_group_excess, start, 0.0 * start, farthest, sd, side * scale, one, const)
        return jnp.where(reached, sd + side * scale * v, jnp.nan)

    limits = _both_sides(limit)
    return limits.at[0].set(jnp.where(to_zero, 0.0, limits[0]))


def _coef_limits(one: _Response, const: ProfileConstants, k: _Coefficient) -> jax.Array:
    terms, start = const.terms, jnp.sqrt(const.cut)
    beta, C = _beta_C(ratio(one.t, terms), one, k, terms.d[: terms.n_spectrum])
    scale = jnp.sqrt(one.sigma2 * C[0])

    def limit(side: jax.Array) -> jax.Array:
        v, reached = bracketed_root(
            _coef_excess, start, 0.0 * start, FAR + start, beta[0], side * scale, one, const, k
        )
        return jnp.where(reached, beta[0] + side * scale * v, jnp.nan)

    return _both_sides(limit)


def _both_sides(limit: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Lower and upper limit (2,); one after the other, so that the search is compiled once."""
    return jax.lax.map(limit, jnp.array([-1.0, 1.0]))


@programs.jit
def profile_block(
    const: ProfileConstants, ols: jax.Array, u: jax.Array, rest: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Limits of group sd (c, 2), sigma (c, 2) and coefficients (p, c, 2), of scaled data and unit columns.

    Parameters
    ----------
    const : ProfileConstants
    ols, u, rest : (p, c), (J, c), (c,)
        As in ``reduce.Stats``.
    """
    terms = const.terms
    found = minimise(terms, u * u, rest, const.grid)
    lam = ratio(const.grid, terms)[:, None]
    d = terms.d[: terms.n_spectrum]
    r = 1 / (1 + lam * d)
    s_grid = r @ (u * u) + rest
    minimum = found.deviance + terms.nu * (1 - jnp.log(terms.nu))
    t = jnp.log1p(found.lam * terms.d_max)
    one = _Response(u, rest, t, found.pwrss / terms.nu, minimum, s_grid)
    one_axes = _Response(1, 0, 0, 0, 0, 1)  # type: ignore[arg-type]
    sigma = jax.vmap(_sigma_limits, in_axes=(one_axes, None))(one, const)
    group = jax.vmap(_group_limits, in_axes=(one_axes, None))(one, const)

    def coefficient(k: tuple[jax.Array, ...]) -> jax.Array:
        f, a, limit, ols_k = k
        beta_grid = ols_k - (lam * r * f) @ u
        C_grid = a + lam[:, 0] * (limit + r @ (f * f / jnp.where(d > 0, d, 1.0)))
        each = _Coefficient(f, a, limit, ols_k, beta_grid, C_grid)
        axes = _Coefficient(None, None, None, 0, 1, None)  # type: ignore[arg-type]
        return jax.vmap(_coef_limits, in_axes=(one_axes, None, axes))(one, const, each)

    # One coefficient after another: the code is compiled once.
    each = (const.f, const.xtx_inv, const.limit, ols)
    return group, sigma, jax.lax.map(coefficient, each)
