"""Fits of any random structure, from a design to numbers in the user's units: what the engine does, in little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxlmm.design.random import RandomTerm
from jaxlmm.families.general.family import General, make_general
from jaxlmm.families.general.fitting import GeneralFit, fit_general
from jaxlmm.families.parameters import phi_from_theta, theta_jacobian
from jaxlmm.inference.variance_df import VarianceCurves, observed_inverse


@dataclass(frozen=True, eq=False)
class Fits:
    """m fits; the response axis is last in ``coef``, and first in what tests of effects take."""

    family: General
    found: GeneralFit
    R: np.ndarray
    reml: bool
    coef: np.ndarray
    loglik: np.ndarray
    modes: tuple
    C: np.ndarray  # (m, k?, p, p): covariance over sigma2 and its derivatives, of the user's coefficients
    C1: np.ndarray
    C2: np.ndarray
    l1: np.ndarray
    l2: np.ndarray

    @property
    def theta(self) -> np.ndarray:
        """lme4's theta, (k, m)."""
        return self.found.theta

    @property
    def sigma2(self) -> np.ndarray:
        """(m,)."""
        return self.found.sigma2

    @property
    def se(self) -> np.ndarray:
        """(p, m)."""
        return np.sqrt(np.einsum("mii->im", self.C) * self.sigma2)

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
        nu = np.full(len(self.C), float(self.family.core.n_obs - (self.family.core.p if self.reml else 0)))
        return VarianceCurves(*(L @ C @ L.T for C in (self.C, self.C1, self.C2)), self.l1 / nu[:, None], nu)

    def observed(self) -> np.ndarray:
        """J H^-1 J', (m, k, k)."""
        jacobian = theta_jacobian(self.theta, self.family.sizes)
        return observed_inverse(np.moveaxis(self.found.hessian, -1, 0), np.moveaxis(jacobian, -1, 0))


def fit_structure(
    X: np.ndarray, terms: Sequence[RandomTerm], Y: np.ndarray, *, reml: bool = True, weights: np.ndarray | None = None
) -> Fits:
    """Fit the responses Y (n_obs, m)."""
    root_w = None if weights is None else np.sqrt(weights)
    Q, R = np.linalg.qr(X if root_w is None else root_w[:, None] * X)
    family = make_general(Q, root_w, terms)
    fit = fit_general(family, Y, reml=reml)
    phi = phi_from_theta(fit.theta, family.sizes)
    loglik = fit.loglik - (np.sum(np.log(np.abs(np.diag(R)))) if reml else 0.0)
    curves = family.curves(phi, np.linalg.inv(R))
    information = family.information(phi, reml=reml)
    modes = family.modes(phi, fit.fixef, Y)
    return Fits(family, fit, R, reml, np.linalg.solve(R, fit.fixef), loglik, modes, *curves, *information)
