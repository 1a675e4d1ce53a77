"""From an optimum to results, the same for every family: the user's units, likelihood and status.

The rules of ``Status`` stand here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxlmm._types import Status
from jaxlmm.runtime.progress import advance

__all__ = ["Found", "Scaling", "empty_results", "finish"]

# Residual variances outside [SMALLEST, 1 / SMALLEST] are refused.
SMALLEST = 1e-280


@dataclass(frozen=True, eq=False)
class Scaling:
    """How c responses were shifted and scaled, and what tells those that have no fit; all (c,).

    The optimum is that of (y - shift) / scale. ``finite``: no NaN, no infinity; ``constant``: X leaves
    nothing; ``exact``: X and the random effects leave nothing; ``too_few``: the rows that are there make no design.
    """

    shift: np.ndarray
    scale: np.ndarray
    finite: np.ndarray
    constant: np.ndarray
    exact: np.ndarray
    too_few: np.ndarray | bool = False


@dataclass(frozen=True, eq=False)
class Found:
    """c responses at the minimum of the deviance, for scaled data and the user's columns of X and Z.

    Attributes
    ----------
    theta : ndarray, (k, c)
    pwrss, deviance : ndarray, (c,)
        The deviance up to what ``finish`` adds.
    hessian : ndarray, (k, k, c)
        Of the deviance in theta.
    converged, singular : ndarray of bool, (c,)
        ``singular``: a covariance of random effects has a determinant of exactly 0.
    coef, variance : ndarray, (c, p)
        Coefficients of X, and their variances over sigma2.
    """

    theta: np.ndarray
    pwrss: np.ndarray
    deviance: np.ndarray
    hessian: np.ndarray
    converged: np.ndarray
    singular: np.ndarray
    coef: np.ndarray
    variance: np.ndarray


def empty_results(m: int, p: int, k: int) -> dict[str, np.ndarray]:
    """Room for the results of m responses, by the names that ``Fit`` uses: p fixed effects, k parameters theta."""
    out: dict[str, np.ndarray] = {name: np.empty((m, p)) for name in ("coef", "se_gls")}
    out |= {"theta": np.empty((m, k)), "hessian": np.empty((m, k, k))}
    out |= {name: np.empty(m) for name in ("sigma2", "loglik")}
    return out | {"status": np.empty(m, dtype=np.int8), "n_used": np.empty(m, dtype=np.int64)}


def finish(
    out: dict[str, np.ndarray],
    at: slice,
    found: Found,
    scaling: Scaling,
    *,
    intercept: np.ndarray | None,
    nu: np.ndarray | float,
    logdet: np.ndarray | float,
) -> None:
    """Write the results of c responses into ``out`` at ``at``, with NaN where there is no fit.

    Parameters
    ----------
    intercept : ndarray, (p,) or (c, p), or None
        Coefficients that give 1, where ``shift`` is not part of the coefficients yet.
    nu : (c,) or float
        n - p (REML) or n (ML).
    logdet : (c,) or float
        What ``found.deviance`` leaves out of the log-determinants.
    """
    with np.errstate(all="ignore"):
        sigma2 = found.pwrss / nu * scaling.scale**2
        coef = found.coef * scaling.scale[:, None]
        if intercept is not None:
            coef = coef + (scaling.shift * scaling.scale)[:, None] * intercept
        constant = nu * (1 + np.log(2 * np.pi / nu) + 2 * np.log(scaling.scale))
        loglik = -0.5 * (constant + found.deviance + logdet)
        values = dict(
            coef=coef, se_gls=np.sqrt(found.variance * sigma2[:, None]), theta=found.theta.T, sigma2=sigma2,
            loglik=loglik, hessian=np.moveaxis(found.hessian, -1, 0),
        )  # fmt: skip
        # Squares that overflow, or that lose digits among the subnormal numbers, give no fit.
        usable = (sigma2 > SMALLEST) & (sigma2 < 1 / SMALLEST) & np.isfinite(loglik) & np.isfinite(coef).all(axis=1)
    status = np.where(found.singular, Status.SINGULAR, Status.OK).astype(np.int8)
    status[~found.converged] = Status.NOT_CONVERGED
    status[~usable] = Status.NONFINITE
    status[scaling.constant] = Status.CONSTANT
    status[scaling.exact] = Status.NO_RESIDUAL
    status[scaling.too_few] = Status.TOO_FEW
    status[~scaling.finite] = Status.NONFINITE
    failed = status > Status.SINGULAR
    for name, value in values.items():
        out[name][at] = value
        out[name][at][failed] = np.nan
    out["status"][at] = status
    # Those that miss observations are fitted after the others.
    advance(int(np.count_nonzero(scaling.finite)))
