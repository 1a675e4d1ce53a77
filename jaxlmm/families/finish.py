"""From an optimum to results, the same for every kind of design: the user's units, likelihood and status.

The rules of ``Status`` stand here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxlmm._types import Status

__all__ = ["Scaling", "finish"]

# Residual variances outside [SMALLEST, 1 / SMALLEST] are refused.
SMALLEST = 1e-280


class Optimum(Protocol):
    """Per response, at the minimum of the deviance; all (c,)."""

    @property
    def lam(self) -> np.ndarray: ...
    @property
    def pwrss(self) -> np.ndarray: ...
    @property
    def deviance(self) -> np.ndarray: ...
    @property
    def curvature(self) -> np.ndarray: ...
    @property
    def converged(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Scaling:
    """How c responses were shifted and scaled, and what tells those that have no fit; all (c,).

    The optimum is that of (y - shift) / scale. ``finite``: no NaN, no infinity; ``constant``: X leaves
    nothing; ``exact``: X and the groups leave nothing; ``too_few``: the rows that are there make no design.
    """

    shift: np.ndarray
    scale: np.ndarray
    finite: np.ndarray
    constant: np.ndarray
    exact: np.ndarray
    too_few: np.ndarray | bool = False


def finish(
    out: dict[str, np.ndarray],
    at: slice,
    found: Optimum,
    scaling: Scaling,
    *,
    coef: np.ndarray,
    variance: np.ndarray,
    intercept: np.ndarray | None,
    nu: np.ndarray | float,
    logdet: np.ndarray | float,
    random: bool,
) -> None:
    """Write the results of c responses into ``out`` at ``at``, with NaN where there is no fit.

    Parameters
    ----------
    coef, variance : ndarray, (c, p)
        Coefficients of the scaled response in units of the user's X, and their variances over sigma2.
    intercept : ndarray, (p,) or (c, p), or None
        Coefficients that give 1.
    nu : (c,) or float
        n - p (REML) or n (ML).
    logdet : (c,) or float
        What ``found.deviance`` leaves out of the log-determinants.
    random : bool
        Whether there is a random effect.
    """
    with np.errstate(all="ignore"):
        sigma2 = found.pwrss / nu * scaling.scale**2
        coef = coef * scaling.scale[:, None]
        if intercept is not None:
            coef = coef + (scaling.shift * scaling.scale)[:, None] * intercept
        constant = nu * (1 + np.log(2 * np.pi / nu) + 2 * np.log(scaling.scale))
        loglik = -0.5 * (constant + found.deviance + logdet)
        values = dict(
            coef=coef, se_gls=np.sqrt(variance * sigma2[:, None]), lam=found.lam, sigma2=sigma2, loglik=loglik,
            curvature=found.curvature,
        )  # fmt: skip
        # Squares that overflow, or that lose digits among the subnormal numbers, give no fit.
        usable = (sigma2 > SMALLEST) & (sigma2 < 1 / SMALLEST) & np.isfinite(loglik) & np.isfinite(coef).all(axis=1)
    status = np.full(len(sigma2), Status.OK, dtype=np.int8)
    if random:
        status[found.lam == 0] = Status.SINGULAR
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
