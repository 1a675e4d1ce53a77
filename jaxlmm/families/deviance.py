"""The profiled deviance of any family as a function of theta: what an optimiser and the tests of effects need.

    deviance(theta) = nu log s(phi) + l(phi),   phi = phi(theta)

up to a constant, with nu = n - p and l = log|V| + log|Q'V^-1Q| for REML, n and log|V| for ML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.base import Moments
from jaxlmm.families.parameters import phi_from_theta, second_derivatives, theta_gradient, theta_jacobian
from jaxlmm.optimize.trust_region import Evaluation

__all__ = ["Deviance", "in_theta", "phi_derivatives"]


def phi_derivatives(at: Moments, nu: Any) -> tuple[Any, Any]:
    """Gradient (k, c) and Hessian (k, k, c) in phi of the profiled deviance; numpy or JAX."""
    pull = at.s1 / at.s
    return nu * pull + at.l1, nu * (at.s2 / at.s - pull[:, None] * pull[None]) + at.l2


def in_theta(
    value: jax.Array, first: jax.Array, second: jax.Array, theta: jax.Array, sizes: tuple[int, ...]
) -> Evaluation:
    """A function with ``first`` (k, c) and ``second`` (k, k, c) derivatives in phi, at theta (k, c)."""
    if all(r == 1 for r in sizes):
        # phi = theta^2: without products of matrices that are mostly 0.
        slope = 2 * theta
        diagonal = np.eye(len(sizes))[:, :, None] * (2 * first)
        return Evaluation(value, slope * first, slope[:, None] * slope[None] * second + diagonal, first)
    jacobian = theta_jacobian(theta, sizes)
    inner = (second[:, :, None] * jacobian[None]).sum(1)
    curved = jnp.tensordot(second_derivatives(sizes), first, axes=(0, 0))
    hessian = (jacobian[:, :, None] * inner[:, None]).sum(0) + curved
    return Evaluation(value, theta_gradient(first, jacobian), hessian, first)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Deviance:
    """The deviance of a family's responses, as ``optimize.trust_region.Problem``.

    Attributes
    ----------
    family : families.base.Family
        With ``node_parts``, which is cheap where all responses share phi. Its log-determinants are (K,), or (K, c)
        where each response has a design of its own.
    nu : scalar or (c,)
    reml : bool, static
    """

    family: Any
    nu: Any
    reml: bool = field(metadata=dict(static=True))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Columns of each random term."""
        return self.family.sizes

    @property
    def n_levels(self) -> int:
        """The fewest levels of a factor."""
        return self.family.n_levels

    @property
    def reach(self) -> tuple[float, ...]:
        """By how many powers of ten the standard deviations of each term's columns may go beyond moderate values."""
        found: tuple[float, ...] = self.family.reach
        return found

    @property
    def bytes_per_response(self) -> int:
        """Memory that the evaluation of one response takes."""
        return self.family.bytes_per_response

    def evaluate(self, theta: jax.Array, stats: Any) -> Evaluation:
        """Value, gradient and Hessian in theta, and the gradient in phi, at theta (k, c)."""
        at = self.family.moments(phi_from_theta(theta, self.sizes), stats, reml=self.reml)
        return in_theta(self.nu * jnp.log(at.s) + at.l, *phi_derivatives(at, self.nu), theta, self.sizes)

    def at_nodes(self, theta: jax.Array, stats: Any) -> jax.Array:
        """Value (K, c) at theta (k, K) that all responses share."""
        s, l = self.family.node_parts(phi_from_theta(theta, self.sizes), stats, reml=self.reml)  # noqa: E741
        return self.nu * jnp.log(s) + (l if l.ndim == 2 else l[:, None])
