"""Profile likelihood limits of responses that each have a design of their own, from their cross-products.

The searches are those of ``families.intercept``. Here are the pwrss, a contrast a'delta and its variance C_aa = a'Ca
as functions of the variance ratio: in the symbols of ``crosslik``, with z = C a, q_g = b_g'z, y = C h and
m = sum N r^2 q b,

    (a'delta)'  = -sum N r^2 f q,      (a'delta)'' = 2 sum N^2 r^3 f q - 2 m'y,
    C_aa'       = sum N r^2 q^2,       C_aa''      = 2 m'C m - 2 sum N^2 r^3 q^2.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.intercept import profile, profile_newton
from jaxlmm.families.intercept.objective import Moments
from jaxlmm.families.intercept.profile import Three
from jaxlmm.families.own.crosslik import AXES, CrossFit, CrossProducts, first_cross, settle_cross
from jaxlmm.families.own.incomplete import Matrix, grid, own_blocks, own_width
from jaxlmm.families.own.reduce import OwnDesign, OwnStats
from jaxlmm.families.own.sweeps import inverse
from jaxlmm.runtime import programs
from jaxlmm.runtime.progress import advance
from jaxlmm.sources.weighted import WeightedMatrix

__all__ = ["own_profile"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Response:
    """See ``families.intercept.profile.Profiled``; ``outer`` (G, p * p) are the b_g b_g'."""

    data: CrossProducts
    outer: jax.Array
    grid: jax.Array
    s_grid: jax.Array
    logdets: jax.Array
    cut: jax.Array
    t: jax.Array
    sigma2: jax.Array
    minimum: jax.Array

    @property
    def nu(self) -> jax.Array:
        return self.data.nu

    @property
    def d_max(self) -> jax.Array:
        return self.data.d_max

    def moments(self, t: jax.Array) -> Moments:
        """The pwrss, and derivatives in lam of it and of the log-determinant."""
        return _Point.at(jnp.expm1(t) / self.d_max, self.data, self.outer).moments(self.data)

    def logdet(self, t: jax.Array) -> jax.Array:
        """log|V|."""
        return jnp.sum(jnp.log1p(jnp.expm1(t) / self.d_max * self.data.N))

    def with_coefficient(self, t: jax.Array, k: _Coefficient) -> tuple[Moments, Three, Three]:
        """The moments, and the contrast k of delta with its variance."""
        at = _Point.at(jnp.expm1(t) / self.d_max, self.data, self.outer)
        return at.moments(self.data), *at.contrast(k.a, self.data)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Coefficient:
    """A contrast a (p,) of delta, and on the grid a'delta and C_aa (K,)."""

    a: jax.Array
    beta_grid: jax.Array
    C_grid: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Point:
    """r, N r, f, delta, C, N r^2 f (see ``crosslik``) and C h of one response at one variance ratio."""

    r: jax.Array
    w: jax.Array
    f: jax.Array
    delta: jax.Array
    C: jax.Array
    wrf: jax.Array
    h: jax.Array
    y: jax.Array

    @classmethod
    def at(cls, lam: jax.Array, one: CrossProducts, outer: jax.Array) -> _Point:
        p = len(one.b)
        r = 1 / (1 + lam * one.N)
        w = one.N * r
        C = inverse((r @ outer).reshape(p, p) + one.W)[0]
        delta = C @ (one.b @ (r * one.e))
        # Once more from what that left, as in ``crosslik``.
        f = one.e - delta @ one.b
        delta = delta + C @ (one.b @ (r * f) - one.W @ delta)
        f = one.e - delta @ one.b
        wrf = w * r * f
        h = one.b @ wrf
        return cls(r, w, f, delta, C, wrf, h, C @ h)

    def pwrss(self, one: CrossProducts) -> jax.Array:
        return one.rest + self.delta @ one.W @ self.delta + jnp.sum(self.r * self.f**2)

    def moments(self, one: CrossProducts) -> Moments:
        w, f = self.w, self.f
        s2 = 2 * jnp.sum(w * self.wrf * f) - 2 * self.h @ self.y
        return Moments(self.pwrss(one), -jnp.sum(self.wrf * f), s2, jnp.sum(w), -jnp.sum(w * w))

    def contrast(self, a: jax.Array, one: CrossProducts) -> tuple[Three, Three]:
        w, z = self.w, self.C @ a
        q = z @ one.b
        wrq = w * self.r * q
        m = one.b @ wrq
        beta = a @ self.delta, -jnp.sum(self.wrf * q), 2 * (jnp.sum(w * self.wrf * q) - m @ self.y)
        return beta, (a @ z, jnp.sum(wrq * q), 2 * (m @ self.C @ m - jnp.sum(w * wrq * q)))


def _on_grid(lams: jax.Array, one: CrossProducts, outer: jax.Array) -> tuple[jax.Array, ...]:
    """pwrss, log-determinant (K,), delta (K, p) and C (K, p, p)."""

    def node(lam: jax.Array) -> tuple[jax.Array, ...]:
        at = _Point.at(lam, one, outer)
        return at.pwrss(one), jnp.sum(jnp.log1p(lam * one.N)), at.delta, at.C

    found: tuple[jax.Array, ...] = jax.lax.map(node, lams)
    return found


@functools.partial(programs.jit, static_argnames="nested")
def _limits(
    data: CrossProducts,
    found: CrossFit,
    points: jax.Array,
    cut: jax.Array,
    *,
    nested: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Limits of group sd and sigma (c, 2), and of the part of the user's coefficients that delta is, (p, c, 2)."""
    nu = data.nu
    outer = jnp.einsum("cig,cjg->cgij", data.b, data.b).reshape(*data.N.shape, data.b.shape[1] ** 2)
    lams = jnp.expm1(points) / data.d_max
    s_grid, logdets, deltas, Cs = jax.vmap(_on_grid, in_axes=(None, AXES, 0))(lams, data, outer)
    responses = _Response(
        data, outer, points, s_grid, logdets, cut, jnp.log1p(found.lam * data.d_max), found.pwrss / nu,
        found.deviance + nu * (1 - jnp.log(nu)),
    )  # fmt: skip
    axes = _Response(AXES, 0, None, 0, 0, None, 0, 0, 0)  # type: ignore[arg-type]
    variances = profile.variance_limits if nested else profile_newton.fast_variance_limits
    coefficients = profile.coefficient_limits if nested else profile_newton.fast_coefficient_limits
    group, sigma = variances(responses, axes)

    def coefficient(a: jax.Array) -> jax.Array:
        each = _Coefficient(a, jnp.einsum("ckp,cp->ck", deltas, a), jnp.einsum("ckpq,cp,cq->ck", Cs, a, a))
        return coefficients(responses, axes, each, _Coefficient(0, 0, 0))  # type: ignore[arg-type]

    # One coefficient after another: the code is compiled once.
    return group, sigma, jax.lax.map(coefficient, jnp.moveaxis(data.rows, 1, 0))


def own_profile(
    design: OwnDesign, Y: Matrix, where: np.ndarray, cut: float, *, nested: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Limits of the columns ``where`` of Y, which all have a fit; see ``families.base.Family.profile``.

    ``nested``: by the slow searches, which the others are left to.
    """
    m, p = len(where), design.n_fixef
    random, sigma, coef = np.empty((m, 1, 2)), np.empty((m, 2)), np.empty((m, p, 2))
    points = grid(design, weighted=isinstance(Y, WeightedMatrix))
    # The last block is filled up with a response that is there: others might slow the searches of all.
    width = own_width(design, m)
    filled = where[np.minimum(np.arange(-(-m // width) * width), m - 1)]

    def compute(_: slice, __: OwnStats, data: CrossProducts) -> tuple[jax.Array, ...]:
        fit = settle_cross(data, points, *first_cross(data, points))  # compiled already, for the fits
        return _limits(data, fit, points, jnp.asarray(float(cut)), nested=nested)

    for cols, stats, _, raw in own_blocks(design, Y, filled, False, compute):
        found = [a[..., : len(stats.unit), :] for a in raw]
        c = min(cols.stop, m) - cols.start
        at = slice(cols.start, cols.start + c)
        random[at, 0] = (found[0] * stats.scale[:, None])[:c]
        sigma[at] = (found[1] * (stats.scale * np.sqrt(stats.unit_w))[:, None])[:c]
        coef[at] = _coefficients(stats, found[2])[:c]
        advance(0 if nested else c)
    random = random[:, : int(design.n_groups > 0)]
    if not nested:
        limits = np.concatenate([random, sigma[:, None], coef], axis=1)
        left = np.flatnonzero(np.isnan(limits).any(axis=(1, 2)))
        if len(left):
            again = own_profile(design, Y, where[left], cut, nested=True)
            random[left], sigma[left], coef[left] = again
    return random, sigma, coef


def _coefficients(stats: OwnStats, limits: np.ndarray) -> np.ndarray:
    """Limits (c, p, 2) of the user's coefficients, from those of contrasts of delta (p, c, 2)."""
    limits = limits[: stats.unit.shape[1]]
    base = np.einsum("cij,cj->ci", stats.unit, stats.base)
    base -= np.einsum("cij,cj->ci", stats.centring, base)
    level = stats.shift[:, None] * stats.constant
    found: np.ndarray = base[:, :, None] + np.moveaxis(limits, 0, 1) + level[:, :, None]
    return found * stats.scale[:, None, None]
