"""Profile likelihood intervals of the standard deviations and the fixed effects.

As R's ``confint(fit, method = "profile")``, all by maximum likelihood. For one parameter x held
fixed the deviance is minimised over the others, globally; the limits are where it lies the
chi-square quantile above its minimum. What is left inside is one search over the variance ratio:

    sigma     phi(lam) = s / sigma2 + l
    group sd  phi(lam) = -n log lam + lam s / group_var + l
    coef b_k  phi(lam) = n log(s + (b - beta_k)^2 / C_kk) + l

with s, l, beta and C as functions of lam, which a :class:`Profiled` response knows: on the spectrum that all
responses share (docstrings of ``spectrum`` and ``estimates``), or from cross-products of its own
(``families.own.profile``). By the
envelope theorem the outer derivative needs no more than the inner minimum, so both searches are
safeguarded Newton steps. A standard deviation whose deviance at 0 stays below the quantile has
the lower limit 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxlmm.families.intercept.minimum import minimise
from jaxlmm.families.intercept.objective import Moments, Terms, logdet, moments, ratio
from jaxlmm.optimize.solver import FAR, bracketed_minimum, bracketed_root
from jaxlmm.runtime import programs

__all__ = ["ProfileConstants", "Profiled", "Three", "coefficient_limits", "profile_block", "variance_limits"]

# (value, first, second derivative in lam)
Three = tuple[jax.Array, jax.Array, jax.Array]
# (deviance, its derivative in the parameter)
Two = tuple[jax.Array, jax.Array]


class Profiled(Protocol):
    """One response, its maximum likelihood optimum, and its sums on the grid; a pytree.

    Attributes
    ----------
    grid, s_grid, logdets : (K,)
        Points of t = log(1 + lam d_max), the pwrss and the log-determinant there.
    nu, d_max, cut : scalars
        Observations; the scale of t; the chi-square quantile.
    t, sigma2, minimum : scalars
        The optimum and its deviance.
    """

    @property
    def grid(self) -> jax.Array: ...
    @property
    def s_grid(self) -> jax.Array: ...
    @property
    def logdets(self) -> jax.Array: ...
    @property
    def nu(self) -> jax.Array: ...
    @property
    def d_max(self) -> jax.Array: ...
    @property
    def cut(self) -> jax.Array: ...
    @property
    def t(self) -> jax.Array: ...
    @property
    def sigma2(self) -> jax.Array: ...
    @property
    def minimum(self) -> jax.Array: ...

    def moments(self, t: jax.Array) -> Moments:
        """The pwrss and the derivatives in lam of it and of the log-determinant."""

    def logdet(self, t: jax.Array) -> jax.Array:
        """The log-determinant."""

    def with_coefficient(self, t: jax.Array, k: Any) -> tuple[Moments, Three, Three]:
        """The moments, a coefficient and its variance over sigma2, these with two derivatives in lam."""


class ProfiledCoefficient(Protocol):
    """What one coefficient adds: its estimate and its variance over sigma2 on the grid, (K,)."""

    @property
    def beta_grid(self) -> jax.Array: ...
    @property
    def C_grid(self) -> jax.Array: ...


def _ratio(t: jax.Array, one: Profiled) -> jax.Array:
    """lam at t."""
    return jnp.expm1(t) / one.d_max


def _in_t(first: jax.Array, second: jax.Array, t: jax.Array, one: Profiled) -> Two:
    """Derivatives in lam -> derivatives in t."""
    step = jnp.exp(t) / one.d_max
    return first * step, (second * step + first) * step


# -- derivatives in t of the three inner functions phi, given the parameter x -----------------------


def _sigma_slope(t: jax.Array, x: jax.Array, one: Profiled) -> Two:
    at = one.moments(t)
    return _in_t(at.s1 / x**2 + at.l1, at.s2 / x**2 + at.l2, t, one)


def _group_slope(t: jax.Array, x: jax.Array, one: Profiled) -> Two:
    lam = jnp.maximum(_ratio(t, one), 1e-300)
    at = one.moments(t)
    first = -one.nu / lam + (at.s + lam * at.s1) / x**2 + at.l1
    second = one.nu / lam**2 + (2 * at.s1 + lam * at.s2) / x**2 + at.l2
    return _in_t(first, second, t, one)


def _coef_slope(t: jax.Array, x: jax.Array, one: Profiled, k: ProfiledCoefficient) -> Two:
    at, beta, C = one.with_coefficient(t, k)
    e = (x - beta[0]) / C[0]
    A = at.s + e * e * C[0]
    A1 = at.s1 - 2 * e * beta[1] - e * e * C[1]
    A2 = (
        at.s2 - 2 * e * beta[2] - e * e * C[2]
        + 2 * (beta[1] + e * C[1]) ** 2 / C[0]
    )  # fmt: skip
    return _in_t(one.nu * A1 / A + at.l1, one.nu * (A2 / A - (A1 / A) ** 2) + at.l2, t, one)


# -- the profiled deviance and its derivative in x --------------------------------------------------


def _inner(slope: Callable[..., Two], value: jax.Array, one: Profiled, *args: Any) -> jax.Array:
    """t of the lowest point of phi: the grid's lowest valley, polished."""
    grid, scale = one.grid, one.nu
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


def _sigma_deviance(x: jax.Array, one: Profiled) -> Two:
    t = _inner(_sigma_slope, one.s_grid / x**2 + one.logdets, one, x, one)
    s = one.moments(t).s
    deviance = 2 * one.nu * jnp.log(x) + s / x**2 + one.logdet(t)
    return deviance, 2 * one.nu / x - 2 * s / x**3


def _group_deviance(x: jax.Array, one: Profiled) -> Two:
    lams = _ratio(one.grid[1:], one)
    value = -one.nu * jnp.log(lams) + one.s_grid[1:] * lams / x**2 + one.logdets[1:]
    # The first point stands for lam -> 0, where phi is infinite.
    t = _inner(_group_slope, jnp.concatenate([jnp.full(1, jnp.inf), value]), one, x, one)
    lam = _ratio(t, one)
    s = one.moments(t).s
    deviance = one.nu * jnp.log(x**2 / lam) + lam * s / x**2 + one.logdet(t)
    return deviance, 2 * one.nu / x - 2 * lam * s / x**3


def _coef_deviance(x: jax.Array, one: Profiled, k: ProfiledCoefficient) -> Two:
    # The n-th root of the likelihood's inverse: no logarithm for each grid point.
    value = (one.s_grid + (x - k.beta_grid) ** 2 / k.C_grid) * jnp.exp(one.logdets / one.nu)
    t = _inner(_coef_slope, value, one, x, one, k)
    at, beta, C = one.with_coefficient(t, k)
    e = (x - beta[0]) / C[0]
    A = at.s + e * e * C[0]
    deviance = one.nu * (jnp.log(A / one.nu) + 1) + one.logdet(t)
    return deviance, 2 * one.nu * e / A


def _rise(found: Two, unit: jax.Array, one: Profiled) -> Two:
    """Root of the deviance's rise less that of the quantile: nearly linear in the distance."""
    root = jnp.sqrt(jnp.maximum(found[0] - one.minimum, 1e-300))
    return root - jnp.sqrt(one.cut), found[1] * unit / (2 * root)


def _sigma_excess(v: jax.Array, unit: jax.Array, one: Profiled) -> Two:
    x = jnp.sqrt(one.sigma2) * jnp.exp(unit * v)
    value, slope = _sigma_deviance(x, one)
    return _rise((value, slope * x), unit, one)


def _group_excess(v: jax.Array, centre: jax.Array, unit: jax.Array, one: Profiled) -> Two:
    return _rise(_group_deviance(centre + unit * v, one), unit, one)


def _coef_excess(v: jax.Array, centre: jax.Array, unit: jax.Array, one: Profiled, k: ProfiledCoefficient) -> Two:
    return _rise(_coef_deviance(centre + unit * v, one, k), unit, one)


# -- limits: distances in units of about a standard error, so that roots are near 2 ------------------


def _sigma_limits(one: Profiled) -> jax.Array:
    start, scale = jnp.sqrt(one.cut), 1 / jnp.sqrt(2 * one.nu)

    def limit(side: jax.Array) -> jax.Array:
        v, reached = bracketed_root(_sigma_excess, start, 0.0 * start, FAR + start, side * scale, one)
        return jnp.where(reached, jnp.sqrt(one.sigma2) * jnp.exp(side * scale * v), jnp.nan)

    return _both_sides(limit)


def _group_limits(one: Profiled) -> jax.Array:
    lam = _ratio(one.t, one)
    sd = jnp.sqrt(lam * one.sigma2)
    # For lam near 0 a step by which lam d_max goes up to about 1; beyond, a part of the estimate.
    scale = jnp.maximum(0.3 * sd, 0.3 * jnp.sqrt(one.sigma2 / one.d_max))
    at_zero = one.nu * (jnp.log(one.s_grid[0] / one.nu) + 1)
    to_zero = (at_zero - one.minimum <= one.cut) | (lam == 0)

    def limit(side: jax.Array) -> jax.Array:
        # Where the lower limit is 0 its search is not needed and does the upper one's work.
        side = jnp.where(to_zero, 1.0, side)
        farthest = jnp.where(side > 0, FAR, sd / scale)
        start = jnp.minimum(jnp.sqrt(one.cut), 0.5 * farthest)
        v, reached = bracketed_root(_group_excess, start, 0.0 * start, farthest, sd, side * scale, one)
        return jnp.where(reached, sd + side * scale * v, jnp.nan)

    limits = _both_sides(limit)
    return limits.at[0].set(jnp.where(to_zero, 0.0, limits[0]))


def _coef_limits(one: Profiled, k: ProfiledCoefficient) -> jax.Array:
    start = jnp.sqrt(one.cut)
    _, beta, C = one.with_coefficient(one.t, k)
    scale = jnp.sqrt(one.sigma2 * C[0])

    def limit(side: jax.Array) -> jax.Array:
        v, reached = bracketed_root(_coef_excess, start, 0.0 * start, FAR + start, beta[0], side * scale, one, k)
        return jnp.where(reached, beta[0] + side * scale * v, jnp.nan)

    return _both_sides(limit)


def _both_sides(limit: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Lower and upper limit (2,); one after the other, so that the search is compiled once."""
    return jax.lax.map(limit, jnp.array([-1.0, 1.0]))


def variance_limits(responses: Any, axes: Any) -> tuple[jax.Array, jax.Array]:
    """Limits of group sd and sigma (c, 2) of c :class:`Profiled` responses, a pytree with the axes ``axes``."""
    sigma = jax.vmap(_sigma_limits, in_axes=(axes,))(responses)
    return jax.vmap(_group_limits, in_axes=(axes,))(responses), sigma


def coefficient_limits(responses: Any, axes: Any, k: Any, k_axes: Any) -> jax.Array:
    """Limits (c, 2) of one coefficient."""
    found: jax.Array = jax.vmap(_coef_limits, in_axes=(axes, k_axes))(responses, k)
    return found


# -- on the spectrum that all responses share ------------------------------------------------------


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
    """A ``Profiled`` response on the spectrum: what all share, and its own statistics u (J,) and rest."""

    const: ProfileConstants
    u: jax.Array
    rest: jax.Array
    t: jax.Array
    sigma2: jax.Array
    minimum: jax.Array
    s_grid: jax.Array

    @property
    def grid(self) -> jax.Array:
        return self.const.grid

    @property
    def logdets(self) -> jax.Array:
        return self.const.logdets

    @property
    def nu(self) -> jax.Array:
        return self.const.terms.nu

    @property
    def d_max(self) -> jax.Array:
        return self.const.terms.d_max

    @property
    def cut(self) -> jax.Array:
        return self.const.cut

    def moments(self, t: jax.Array) -> Moments:
        return moments(t, self.const.terms, self.u**2, self.rest)

    def logdet(self, t: jax.Array) -> jax.Array:
        return logdet(t, self.const.terms)

    def with_coefficient(self, t: jax.Array, k: _Coefficient) -> tuple[Moments, Three, Three]:
        """A loop of running sums, as in ``objective``."""
        terms = self.const.terms
        lam = ratio(t, terms)
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

        sums, _ = jax.lax.scan(add, (zero,) * 6, (terms.d[: terms.n_spectrum], self.u, k.f))
        g0, g1, g2, h0, h1, h2 = sums
        return self.moments(t), (k.ols - lam * g0, -g1, 2 * g2), (k.a + lam * (k.limit + h0), k.limit + h1, -2 * h2)


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
    responses = _Response(const, u, rest, t, found.pwrss / terms.nu, minimum, s_grid)
    axes = _Response(None, 1, 0, 0, 0, 0, 1)  # type: ignore[arg-type]
    group, sigma = variance_limits(responses, axes)

    def coefficient(k: tuple[jax.Array, ...]) -> jax.Array:
        f, a, limit, ols_k = k
        beta_grid = ols_k - (lam * r * f) @ u
        C_grid = a + lam[:, 0] * (limit + r @ (f * f / jnp.where(d > 0, d, 1.0)))
        each = _Coefficient(f, a, limit, ols_k, beta_grid, C_grid)
        each_axes = _Coefficient(None, None, None, 0, 1, None)  # type: ignore[arg-type]
        return coefficient_limits(responses, axes, each, each_axes)

    # One coefficient after another: the code is compiled once.
    each = (const.f, const.xtx_inv, const.limit, ols)
    return group, sigma, jax.lax.map(coefficient, each)
