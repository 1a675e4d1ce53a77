"""What a model family is: the one seam between a random structure and everything above it.

The model of one response is

    y = Q b + sum_t Z_t b_t + e,     var(e) = sigma2 I,     cov(b_t of one level) = sigma2 Phi_t

with Q (n_obs, p) an orthonormal basis of the columns of X (see ``design.basis``; rows of Q, Z_t and y
are multiplied by the roots of their weights before). The relative covariances of all terms, one after
another, each by the columns of its lower triangle, are the vector ``phi`` (k,): V = I + sum_s phi_s G_s
is linear in it. ``theta`` (k,) are lme4's parameters, the lower triangles of the Cholesky factors of
Phi_t in the same order; ``parameters`` takes one to the other, and derivatives along.

The deviance, up to constants, is nu log s(phi) + l(phi), with s the penalised weighted residual sum of
squares (pwrss) and l = log|V| for ML, log|V| + log|Q'V^-1Q| for REML. A family computes s, l and their
derivatives in phi, and what is left of y, Q and Z at a given phi. Optimum, unscaling, likelihood,
status, tests, intervals and tables stand above and name no family.

Arrays have the response axis last. Everything but ``reduce`` and ``modes`` is pure JAX and traceable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from jaxlmm.families.finish import Scaling

__all__ = ["Covariance", "Family", "Moments"]

# A pytree of arrays with the response axis last: what a family keeps of Y.
Stats = TypeVar("Stats")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """pwrss ``s`` and log-determinants ``l`` at phi, with derivatives in phi.

    ``s``, ``l`` (c,); ``s1``, ``l1`` (k, c); ``s2``, ``l2`` (k, k, c).
    """

    s: jax.Array
    s1: jax.Array
    s2: jax.Array
    l: jax.Array  # noqa: E741
    l1: jax.Array
    l2: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Covariance:
    """L C L' for C = (Q'V^-1Q)^-1 and contrasts L (q, p), with derivatives in phi.

    ``value`` (q, q, c), ``first`` (k, q, q, c), ``second`` (k, k, q, q, c).
    """

    value: jax.Array
    first: jax.Array
    second: jax.Array


class Family(Protocol[Stats]):
    """A random structure on one design; a frozen pytree, so that compiled code serves designs of one shape."""

    @property
    def n_phi(self) -> int:
        """k, the number of variance parameters beside sigma2."""
        ...

    def reduce(self, Y: np.ndarray) -> tuple[Stats, Scaling]:
        """All that is needed of the responses Y (n_obs, c), in numpy."""
        ...

    def moments(self, phi: jax.Array, stats: Stats, *, reml: bool) -> Moments:
        """pwrss and log-determinants at phi (k, c)."""
        ...

    def fixef(self, phi: jax.Array, stats: Stats) -> jax.Array:
        """Generalised least squares estimate (p, c) of b, the coefficients of Q."""
        ...

    def covariance(self, phi: jax.Array, stats: Stats, L: jax.Array) -> Covariance:
        """Covariance of the contrasts L (q, p) of b, over sigma2, with derivatives in phi."""
        ...

    def modes(self, phi: np.ndarray, fixef: np.ndarray, Y: np.ndarray) -> tuple[Any, ...]:
        """For each term its conditional modes (levels, r, c) and their covariances over sigma2 (levels, r, r, c)."""
        ...

    def simulate(self, phi: jax.Array, key: jax.Array) -> Stats:
        """Statistics of simulated responses, one for each column of phi (k, c), with b = 0 and sigma2 = 1."""
        ...
