"""Fits of any random structure, from a design to numbers in the user's units: what the engine does, in little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.design.random import RandomTerm
from jaxlmm.families.base import Moments, Scaling
from jaxlmm.families.deviance import Deviance
from jaxlmm.families.general.family import General, make_general
from jaxlmm.families.general.moments import Stats
from jaxlmm.families.parameters import phi_from_theta, theta_jacobian
from jaxlmm.inference.variance_df import VarianceCurves, observed_inverse
from jaxlmm.optimize.several import SeveralOptimum, minimise_several


@dataclass(frozen=True, eq=False)
class Fits:
    """m fits; the response axis is last but for ``Y``'s own."""

    family: General
    stats: Stats
    scaling: Scaling
    optimum: SeveralOptimum
    R: np.ndarray
    phi: np.ndarray
    moments: Moments
    nu: float
    coef: np.ndarray
    vcov: np.ndarray
    sigma2: np.ndarray
    loglik: np.ndarray
    modes: tuple

    @property
    def theta(self) -> np.ndarray:
        """lme4's theta, (k, m)."""
        return self.family.to_user(self.optimum.theta)

    def varcorr(self, t: int) -> np.ndarray:
        """(r, r, m) of one term."""
        sizes = self.family.sizes
        start = sum(r * (r + 1) // 2 for r in sizes[:t])
        column, row = np.triu_indices(sizes[t])
        T = np.zeros((sizes[t], sizes[t], self.theta.shape[1]))
        T[row, column] = self.theta[start : start + len(row)]
        return np.einsum("ijc,kjc->ikc", T, T) * self.sigma2

    def curves(self, L: np.ndarray) -> VarianceCurves:
        """C of the contrasts L of the user's coefficients."""
        with float64_scope():
            unit = jnp.asarray(L @ np.linalg.inv(self.R))
            at = jax.jit(General.covariance)(self.family, jnp.asarray(self.phi), self.stats, unit)
        nu = np.full(self.phi.shape[1], self.nu)
        return VarianceCurves.make(*(np.asarray(a) for a in (at.value, at.first, at.second, self.moments.l1)), nu)

    def observed(self) -> np.ndarray:
        """J H^-1 J', (m, k, k)."""
        jacobian = theta_jacobian(self.optimum.theta, self.family.sizes)
        return observed_inverse(np.moveaxis(self.optimum.hessian, -1, 0), np.moveaxis(jacobian, -1, 0))


def fit_structure(
    X: np.ndarray, terms: Sequence[RandomTerm], Y: np.ndarray, *, reml: bool = True, weights: np.ndarray | None = None
) -> Fits:
    """Fit the responses Y (n_obs, m)."""
    n, p = X.shape
    root_w = None if weights is None else np.sqrt(weights)
    Q, R = np.linalg.qr(X if root_w is None else root_w[:, None] * X)
    family = make_general(Q, root_w, terms)
    stats, scaling = family.reduce(Y)
    nu = float(n - p if reml else n)
    optimum = minimise_several(Deviance(family, nu, reml), stats)
    with float64_scope():
        phi = phi_from_theta(jnp.asarray(optimum.theta), family.sizes)
        moments = jax.jit(General.moments, static_argnames="reml")(family, phi, stats, reml=reml)
        b = np.asarray(jax.jit(General.fixef)(family, phi, stats)) * scaling.scale
        C = jax.jit(General.covariance)(family, phi, stats, jnp.linalg.inv(R)).value
    moments = jax.tree.map(np.asarray, moments)
    sigma2 = moments.s / nu * scaling.scale**2
    logdet = 2 * np.sum(np.log(np.abs(np.diag(R)))) if reml else 0.0
    log_w = 0.0 if weights is None else np.sum(np.log(weights))
    constant = nu * (1 + np.log(2 * np.pi / nu) + 2 * np.log(scaling.scale)) + logdet - log_w
    return Fits(
        family, stats, scaling, optimum, R, np.asarray(phi), moments, nu, np.linalg.solve(R, b),
        np.asarray(C) * sigma2, sigma2, -0.5 * (constant + optimum.value), family.modes(np.asarray(phi), b, Y),
    )  # fmt: skip
