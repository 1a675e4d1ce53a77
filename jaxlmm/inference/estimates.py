"""A set of fits as the arrays that tests and intervals work on, whatever their family is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxlmm.design.columns import Columns
from jaxlmm.families.base import Curves, Provider
from jaxlmm.families.parameters import theta_jacobian

__all__ = ["Estimates", "contrast_curves", "information", "observed_inverse", "orthonormal_curves"]

# Eigenvalues of the Hessian of the deviance, in theta or in log theta where theta is above 1, that count as 0:
# lmerTest's tolerance.
FLAT = 1e-8


@dataclass(frozen=True, eq=False)
class Estimates:
    """m fits, as arrays.

    Attributes
    ----------
    parts : tuple of (ndarray of int, Provider)
        Which responses share a design, and what knows the covariances of contrasts on it.
    columns : Columns
        Of the complete design's X.
    names : tuple of str, length p
    sizes : tuple of int
        Columns of each random term.
    coef : ndarray, (m, p)
        In units of the user's X.
    theta : ndarray, (m, k)
    phi : ndarray, (m, k)
        Relative covariances; see ``families.base``.
    sigma2 : ndarray, (m,)
    hessian : ndarray, (m, k, k)
        Of the profiled deviance in theta.
    n_used : ndarray, (m,)
        Observations that each response was fitted to.
    reml : bool
    """

    parts: tuple[tuple[np.ndarray, Provider], ...]
    columns: Columns
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    coef: np.ndarray
    theta: np.ndarray
    phi: np.ndarray
    sigma2: np.ndarray
    hessian: np.ndarray
    n_used: np.ndarray
    reml: bool

    def __len__(self) -> int:
        return len(self.coef)

    @property
    def has_random(self) -> bool:
        """Whether there is a random term."""
        return bool(self.sizes)

    @property
    def df_resid(self) -> np.ndarray:
        """n - p, (m,)."""
        return self.n_used - float(self.coef.shape[1])

    @property
    def nu(self) -> np.ndarray:
        """n - p for REML, n for ML, (m,); NaN without a fit."""
        return np.where(self.fitted, self.df_resid if self.reml else self.n_used, np.nan)

    @property
    def fitted(self) -> np.ndarray:
        """Whether a response has a fit, (m,)."""
        return np.isfinite(self.sigma2)

    def product(self, L: np.ndarray) -> np.ndarray:
        """L coef, (m, q), for contrasts L (q, p)."""
        return self.columns.product(L, self.coef.T).T


def contrast_curves(est: Estimates, L: np.ndarray, *, joint: bool = False) -> Curves:
    """Covariances over sigma2 of the contrasts L (q, p) of the coefficients, with derivatives in phi.

    One by one, (m, q), or all products of two of them if ``joint``, (m, q, q).
    """
    if len(est.parts) == 1 and len(est.parts[0][0]) == len(est):
        return est.parts[0][1].contrasts(est.phi, L, joint=joint)
    found = [(where, provider.contrasts(est.phi[where], L, joint=joint)) for where, provider in est.parts]
    return Curves.joined(len(est), found) if found else Curves.empty(len(est), est.phi.shape[1], len(L), joint)


def orthonormal_curves(est: Estimates, L: np.ndarray) -> tuple[Curves, np.ndarray]:
    """Joint curves of an orthonormal basis O of contrasts L (q, p): nothing is lost where these are nearly parallel.

    Returns
    -------
    curves : Curves, (m, q, q)
        Of O, contrasts of the coefficients of an orthonormal basis of X.
    P : ndarray, (m, q, q)
        Lower triangles with L = P O.
    """
    if len(est.parts) == 1 and len(est.parts[0][0]) == len(est):
        return est.parts[0][1].orthonormal(est.phi, L)
    P, found = np.full((len(est), len(L), len(L)), np.nan), []
    for where, provider in est.parts:
        curves, P[where] = provider.orthonormal(est.phi[where], L)
        found.append((where, curves))
    return Curves.joined(len(est), found) if found else Curves.empty(len(est), est.phi.shape[1], len(L), True), P


def information(est: Estimates) -> tuple[np.ndarray, np.ndarray]:
    """First (m, k) and second derivatives (m, k, k) in phi of the log-determinant of the fits' method."""
    if len(est.parts) == 1 and len(est.parts[0][0]) == len(est):
        return est.parts[0][1].information(est.phi, reml=est.reml)
    m, k = est.phi.shape
    l1, l2 = np.full((m, k), np.nan), np.full((m, k, k), np.nan)
    for where, provider in est.parts:
        l1[where], l2[where] = provider.information(est.phi[where], reml=est.reml)
    return l1, l2


def jacobian(theta: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """d phi_s / d theta_a, (m, k, k), at theta (m, k)."""
    if not theta.shape[1]:
        return np.zeros((*theta.shape, 0))
    return np.moveaxis(theta_jacobian(np.ascontiguousarray(theta.T), sizes), -1, 0)


def observed_inverse(est: Estimates) -> np.ndarray:
    """J H^+ J' (m, k, k): half the covariance of phi, from the Hessian H of the deviance in theta.

    J is d phi / d theta. Directions in which the deviance does not curve count for nothing, as in lmerTest; where a
    covariance is singular, J is 0 along the parameters that are.
    """
    J = jacobian(est.theta, est.sizes)
    if est.theta.shape[1] == 1:
        # One parameter: 4 theta^2 / H, and 0 where theta is.
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(J == 0, 0.0, J * J / est.hessian)
    unit = np.maximum(np.abs(est.theta), 1.0)
    H = est.hessian * unit[:, :, None] * unit[:, None, :]
    good = np.isfinite(H).all(axis=(1, 2))
    values, vectors = np.linalg.eigh(np.where(good[:, None, None], H, 0.0))
    inverse = np.where(values > FLAT, 1 / np.where(values > FLAT, values, 1.0), 0.0)
    turned = (J * unit[:, None, :]) @ vectors
    out = (turned * inverse[:, None, :]) @ np.swapaxes(turned, 1, 2)
    return np.where(good[:, None, None], out, np.nan)
