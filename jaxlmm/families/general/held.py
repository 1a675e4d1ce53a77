"""The deviance (ML) with one quantity held fixed, as a function of theta: what a profile minimises.

With sigma2 a parameter of its own and the coefficients at their best, the deviance is

    n log sigma2 + s(phi) / sigma2 + l(phi).

A residual standard deviation x sets sigma2 = x^2, a standard deviation x of random effects sigma2 = x^2 / Phi_ii:
both are x^2 / g for g linear in phi. Where nothing of this kind is held, sigma2 = s / n. A correlation rho of two
effects is a linear condition on theta, if their columns are the first of their term: T = [a, 0; rho w, root(1 -
rho^2) w] up to their scales. So one function serves all: theta = B v for the parameters v that are searched,
and M phi(theta) is the phi that the kernel takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxlmm.families.deviance import in_theta
from jaxlmm.families.parameters import phi_from_theta
from jaxlmm.optimize.trust_region import Evaluation

__all__ = ["Held", "HeldDeviance"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Held:
    """Of c responses: their statistics, and what is held fixed.

    Attributes
    ----------
    stats : pytree of arrays
        As the family takes them.
    x2 : (c,)
        sigma2 = ``x2`` / (``g0`` + ``g``'phi); 0 where sigma2 is free.
    g0, g : (c,), (k, c)
    B : (k, k, c)
        theta = B v.
    M : (k, k, c)
        The kernel's phi is M times that of theta.
    """

    stats: Any
    x2: Any
    g0: Any
    g: Any
    B: Any
    M: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HeldDeviance:
    """The deviance of ``Held`` responses, as ``optimize.trust_region.Problem``.

    Attributes
    ----------
    family : General or OwnKernel
    nu : scalar or (c,)
        n.
    """

    family: Any
    nu: Any

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
        """See ``optimize.starts.Shared``."""
        return self.family.reach

    @property
    def bytes_per_response(self) -> int:
        """Memory that the evaluation of one response takes."""
        return self.family.bytes_per_response

    def evaluate(self, v: jax.Array, held: Held) -> Evaluation:
        """Value, gradient and Hessian in v (k, c), and the gradient in phi(B v)."""
        n, B, M, g = self.nu, held.B, held.M, held.g
        theta = (B * v[None]).sum(1)
        phi = phi_from_theta(theta, self.sizes)
        at = self.family.moments((M * phi[None]).sum(1), held.stats, reml=False)
        s1, l1 = _pulled(at.s1, M), _pulled(at.l1, M)
        s2, l2 = _pulled_twice(at.s2, M), _pulled_twice(at.l2, M)
        free = held.x2 == 0
        x2 = jnp.where(free, 1.0, held.x2)
        scale = jnp.where(free, 1.0, held.g0 + (g * phi).sum(0))
        value = jnp.where(free, n * jnp.log(at.s / n) + n, at.s * scale / x2 + n * jnp.log(x2 / scale)) + at.l
        pull, push = s1 / at.s, g / scale
        cross = s1[:, None] * g[None]
        first = jnp.where(free, n * pull, (s1 * scale + at.s * g) / x2 - n * push) + l1
        second = l2 + jnp.where(
            free,
            n * (s2 / at.s - pull[:, None] * pull[None]),
            (s2 * scale + cross + jnp.swapaxes(cross, 0, 1)) / x2 + n * push[:, None] * push[None],
        )
        found = in_theta(value, first, second, theta, self.sizes)
        return Evaluation(value, _pulled(found.gradient, B), _pulled_twice(found.hessian, B), first)

    def at_nodes(self, v: jax.Array, held: Held) -> jax.Array:
        """Value (K, c) where nothing is held, at theta (k, K) that all responses share."""
        s, l = self.family.node_parts(phi_from_theta(v, self.sizes), held.stats, reml=False)  # noqa: E741
        return self.nu * jnp.log(s / self.nu) + self.nu + (l if l.ndim == 2 else l[:, None])


def _pulled(gradient: jax.Array, A: jax.Array) -> jax.Array:
    """A' gradient."""
    return (A * gradient[:, None]).sum(0)


def _pulled_twice(hessian: jax.Array, A: jax.Array) -> jax.Array:
    """A' hessian A, (k, k, c)."""
    half = (hessian[:, :, None] * A[None]).sum(1)
    return (A[:, :, None] * half[:, None]).sum(0)
