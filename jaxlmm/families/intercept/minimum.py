"""Global minimum of the deviance of responses that share one spectrum."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxlmm.families.intercept.objective import (
    Moments,
    Terms,
    derivatives,
    few_moments,
    logdet,
    moments,
    ratio,
    slope,
    slope_in_t,
)  # fmt: skip
from jaxlmm.optimize.certificate import Candidate, Nodes
from jaxlmm.optimize.search import Optimum, first_minimum, hessian_in_theta, is_minimum, search, settle_all
from jaxlmm.optimize.solver import bracketed_minimum

__all__ = ["Responses", "first_optimum", "make_nodes", "minimise", "settle_optimum"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Responses:
    """Squared coordinates ``u2`` (J, c) and ``rest`` (c,): a ``Problem`` of ``optimize.certificate``.

    ``few``: so few responses that sums are taken over arrays, not one term after the other.
    """

    terms: Terms
    u2: jax.Array
    rest: jax.Array
    few: bool = field(default=False, metadata=dict(static=True))

    @property
    def nu(self) -> jax.Array:
        return self.terms.nu

    @property
    def d_max(self) -> jax.Array:
        return self.terms.d_max

    def newton(self, start: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
        function = _few_slope if self.few else slope

        def one(t: jax.Array, low: jax.Array, high: jax.Array, v: jax.Array, r: jax.Array) -> jax.Array:
            return bracketed_minimum(function, t, low, high, self.nu, self.terms, v, r)

        return jax.vmap(one, in_axes=(0, 0, 0, 1, 0))(start, low, high, self.u2, self.rest)

    def evaluate(self, t: jax.Array) -> Candidate:
        function = few_moments if self.few else moments
        at = jax.vmap(function, in_axes=(0, None, 1, 0))(t, self.terms, self.u2, self.rest)
        if self.few:
            logdets = jnp.log1p(ratio(t, self.terms)[:, None] * self.terms.d) @ self.terms.m
        else:
            logdets = logdet(t, self.terms)
        return Candidate(t, at, self.nu * jnp.log(at.s) + logdets)

    def take(self, index: jax.Array) -> Responses:
        return Responses(self.terms, self.u2[:, index], self.rest[index], few=True)


def _few_slope(t: jax.Array, terms: Terms, u2: jax.Array, rest: jax.Array) -> tuple[jax.Array, jax.Array]:
    return slope_in_t(t, few_moments(t, terms, u2, rest), terms)


def minimise(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array) -> Optimum:
    """Global minimum of the deviance of c responses on one spectrum.

    Parameters
    ----------
    terms : Terms
    u2 : (J, c)
    rest : (c,)
    grid : (GRID_SIZE,)
        From ``optimize.search.make_grid``.
    """
    found, sure = search(Responses(terms, u2, rest), make_nodes(terms, u2, rest, grid))
    return _optimum(found, sure, terms)


def first_optimum(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array) -> tuple[Optimum, jax.Array]:
    """The same by the first proof alone, which is short to compile; and for which responses it fails (c,)."""
    found, undecided = first_minimum(Responses(terms, u2, rest), make_nodes(terms, u2, rest, grid))
    return _optimum(found, ~undecided, terms), undecided


def settle_optimum(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array, lam: jax.Array) -> Optimum:
    """Global minimum of responses for which the first proof fails, from where it fails (c,)."""
    problem, nodes = Responses(terms, u2, rest, few=True), make_nodes(terms, u2, rest, grid)
    return _optimum(*settle_all(problem, nodes, jnp.log1p(lam * terms.d_max)), terms)


def _optimum(found: Candidate, sure: jax.Array, terms: Terms) -> Optimum:
    at: Moments = found.at
    lam = ratio(found.t, terms)
    first, second = derivatives(at, terms)
    step = lam + 1 / terms.d_max
    converged = sure & is_minimum(found.t, first * step, second * step**2, terms.nu)
    return Optimum(lam, at.s, found.deviance, hessian_in_theta(lam, first, second), converged)


def make_nodes(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array) -> Nodes:
    """The pwrss on the grid, as one matrix product, and the log-determinant, which all responses share."""
    lam = ratio(grid, terms)[:, None]
    d = terms.d[: terms.n_spectrum]
    sums = jnp.concatenate([1 / (1 + lam * d), d[None]]) @ u2
    s = sums[:-1] + rest
    logdets = jnp.sum(terms.m * jnp.log1p(lam * terms.d), axis=1, keepdims=True)
    step = lam + 1 / terms.d_max
    slopes = jnp.sum(terms.m * terms.d * step / (1 + lam * terms.d), axis=1, keepdims=True)
    slope_zero = slopes[0] - terms.nu * sums[-1] / s[0] / terms.d_max
    return Nodes(grid, s, logdets, slopes, slopes, slope_zero)
