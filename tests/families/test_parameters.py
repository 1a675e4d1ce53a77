"""From Cholesky factors to covariances of random terms, and derivatives along."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlmm._types import float64_scope
from jaxlmm.families.parameters import (
    lower_triangle,
    phi_from_theta,
    theta_gradient,
    theta_hessian,
    theta_jacobian,
)

SIZES = [(1,), (2,), (1, 2, 3), (4,)]


def n_theta(sizes: tuple[int, ...]) -> int:
    return sum(r * (r + 1) // 2 for r in sizes)


@pytest.mark.parametrize("sizes", SIZES)
def test_phi_is_the_covariance_of_each_term(sizes: tuple[int, ...]) -> None:
    theta = np.random.default_rng(0).normal(size=(n_theta(sizes), 3))
    phi, start = phi_from_theta(theta, sizes), 0
    for r in sizes:
        rows, columns = lower_triangle(r)
        part = slice(start, start + len(rows))
        start += len(rows)
        T = np.zeros((r, r, 3))
        T[rows, columns] = theta[part]
        np.testing.assert_allclose(phi[part], np.einsum("ilc,jlc->ijc", T, T)[rows, columns], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("sizes", SIZES)
def test_derivatives_follow_the_chain_rule(sizes: tuple[int, ...]) -> None:
    k = n_theta(sizes)
    theta = np.random.default_rng(1).normal(size=(k, 2))
    weight = np.arange(1.0, k + 1)

    def function(one: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(phi_from_theta(one[:, None], sizes)[:, 0]) * weight)

    phi = phi_from_theta(theta, sizes)
    hessian = np.zeros((k, k, 2))
    hessian[range(k), range(k)] = -np.sin(phi) * weight[:, None]
    gradient, jacobian = np.cos(phi) * weight[:, None], theta_jacobian(theta, sizes)
    with float64_scope():
        found, curved = theta_gradient(gradient, jacobian), theta_hessian(gradient, hessian, jacobian, sizes)
        by_jax = jax.jit(lambda one: (jax.grad(function)(one), jax.hessian(function)(one)))
        for c in range(2):
            first, second = by_jax(theta[:, c])
            np.testing.assert_allclose(found[:, c], first, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(curved[:, :, c], second, rtol=1e-9, atol=1e-10)
