"""The kernel of the general family fitted by itself, without status and without the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxlmm.families.base import Scaling
from jaxlmm.families.deviance import Deviance
from jaxlmm.families.general.family import General
from jaxlmm.optimize.several import minimise_several

__all__ = ["GeneralFit", "fit_general"]


@dataclass(frozen=True, eq=False)
class GeneralFit:
    """m fits, in units of Y and of the columns of Z as given; NaN where a response has none.

    Attributes
    ----------
    theta : ndarray, (k, m)
        lme4's theta, with exact zeros where a covariance is singular.
    hessian : ndarray, (k, k, m)
        Of the profiled deviance (-2 log-likelihood) in theta.
    sigma2 : ndarray, (m,)
    fixef : ndarray, (p, m)
        Coefficients of Q.
    loglik : ndarray, (m,)
        Log-likelihood of the responses. A restricted one lacks -log det(R) for X = QR (rows of X multiplied by the
        roots of their weights), the only part that depends on how the columns of X were written.
    converged : ndarray of bool, (m,)
    singular : ndarray of bool, (terms, m)
        Whose covariance is singular.
    scaling : Scaling
        With the flags ``finite``, ``constant`` and ``exact`` of responses that have no fit.
    """

    theta: np.ndarray
    hessian: np.ndarray
    sigma2: np.ndarray
    fixef: np.ndarray
    loglik: np.ndarray
    converged: np.ndarray
    singular: np.ndarray
    scaling: Scaling


def fit_general(family: General, Y: np.ndarray, *, reml: bool = True) -> GeneralFit:
    """Fit the responses Y (n_obs, m), real of any type."""
    core = family.core
    stats, scaling = family.reduce(Y)
    nu = float(core.n_obs - core.p if reml else core.n_obs)
    problem = Deviance(family, nu, reml)
    optimum = minimise_several(problem, stats, windows=family.windows(nu, reml, Y.shape[1]))
    pwrss, fixef = family.estimates(optimum.theta, stats)
    bad = ~scaling.finite | scaling.constant | scaling.exact
    scale = np.where(bad, np.nan, scaling.scale)
    assert family.reducer is not None
    root_w = family.reducer.root_w
    log_w = 0.0 if root_w is None else 2 * np.sum(np.log(root_w))
    deviance = optimum.value + nu * (1 + np.log(2 * np.pi / nu) + 2 * np.log(scale)) - log_w
    blank = np.where(bad, np.nan, 1.0)
    return GeneralFit(
        theta=family.to_user(optimum.theta) * blank,
        hessian=family.hessian_to_user(optimum.hessian) * blank,
        sigma2=pwrss / nu * scale**2,
        fixef=fixef * scale,
        loglik=-0.5 * deviance,
        converged=optimum.converged & ~bad,
        singular=optimum.singular & ~bad,
        scaling=scaling,
    )
