"""Test of the random effect: is the group variance 0? For every response at once.

The statistic is the (restricted) likelihood ratio of the model to the one without groups. As the
hypothesis lies on the boundary, its distribution is not chi-square, and not the 50:50 mixture of
large samples either: its exact finite-sample distribution follows from the design's spectrum alone
(Crainiceanu & Ruppert 2004, Journal of the Royal Statistical Society B 66:165-185). With y ~ N(0, I)
the coordinates u_j are standard normal and ``rest`` is chi-square, and neither their scale nor the
fixed effects matter. So one simulation serves all responses on a design, as in R's ``RLRsim`` (Scheipl,
Greven & Kuechenhoff 2008); here the supremum is found by the solver, not on a grid. Responses that miss
observations, or have weights of their own, have designs of their own.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import numpy as np
import scipy.special

from jaxlmm.inference.tabular import Table, Tabular
from jaxlmm.results.fitting import fit_model, make_model
from jaxlmm.results.options import FitOptions
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import check_integer

__all__ = ["RandomEffectTest", "mixture_pvalue", "rlrt"]

# Simulated statistics, at most: some minutes, and 80 MB.
MOST_SIM = 10_000_000


@dataclass(frozen=True, eq=False, repr=False)
class RandomEffectTest(Tabular):
    """Test of group variance = 0 for m responses; what :func:`jaxlmm.rlrt` returns.

    Attributes
    ----------
    statistic : ndarray, (m,)
        2 (loglik - loglik without groups), >= 0, and exactly 0 where the fit is singular. NaN
        where the response has no fit.
    pvalue : ndarray, (m,)
        Monte Carlo p-values from the exact null distribution, (1 + #{null >= statistic}) / (1 + n_sim):
        1 where the statistic is 0, never below 1 / (1 + n_sim).
    pvalue_mixture : ndarray, (m,)
        p-values from the 50:50 mixture of chi-square with 0 and with 1 degree of freedom (Self &
        Liang 1987, Stram & Lee 1994). Right for many groups; with few it is conservative.
    null : ndarray, (n_sim,)
        Simulated statistics, sorted, of the responses that share the design; empty if none does. Those of responses
        with designs of their own are not kept.
    n_sim, seed : int
    method : {"REML", "ML"}
        That of the fit, and so of the test.
    """

    statistic: np.ndarray
    pvalue: np.ndarray
    pvalue_mixture: np.ndarray
    null: np.ndarray = field(repr=False)
    n_sim: int
    seed: int
    method: str

    def _table(self, level: float) -> Table:
        name = "RLRT" if self.method == "REML" else "LRT"
        columns = {"statistic": self.statistic, "pvalue": self.pvalue, "pvalue_mixture": self.pvalue_mixture}
        title = "Exact test of the random effect: group variance = 0"
        note = f"P by {self.n_sim} simulated statistics; none is below {1 / (1 + self.n_sim):.2g}"
        return Table(title, {}, columns, {"statistic": name}, (note,))


def rlrt(fit: Fit, *, n_sim: int = 10_000, seed: int = 0) -> RandomEffectTest:
    """Test whether the group variance is 0, by the exact (restricted) likelihood ratio.

    Parameters
    ----------
    fit : Fit
        A fit with groups. REML gives the restricted likelihood ratio test (R's
        ``RLRsim::exactRLRT``), ML the likelihood ratio test (``RLRsim::exactLRT`` with the same
        fixed effects in both models). The former has more power in small samples.
    n_sim : int
        Simulated statistics. Raise it where p-values are adjusted for many responses: none is
        below 1 / (1 + n_sim).
    seed : int
        Seed of the simulation. All responses share its draws, so that each has the p-value that it has alone.

    Returns
    -------
    RandomEffectTest

    Raises
    ------
    ValueError
        The fit has no random effect; n_sim or seed is not usable.

    Notes
    -----
    Exact for normal errors, up to the simulation. The model without groups is fitted here, which
    reads Y once more. A response that misses observations, or has weights of its own, is tested on its own design, by
    a simulation of its own if its statistic is not 0 (those that share a design, by one): n_sim fits each.
    """
    if not isinstance(fit, Fit):
        raise ValueError(f"rlrt takes what jaxlmm.fit returns, found a {type(fit).__name__}.")
    if not fit.design.random:
        raise ValueError(
            "the fit has no random effect, so there is nothing to test; fit with groups, and rlrt "
            "compares that with the model without them."
        )
    if not fit.design.has_one_intercept:
        raise ValueError(
            "rlrt tests one random intercept, and this model has other random terms; compare it with the fit without "
            "one of them by jaxlmm.compare."
        )
    n_sim = check_integer("n_sim", n_sim, 1, MOST_SIM, ", which would take hours; pvalue_mixture needs no simulation")
    seed = check_integer("seed", seed, 0)
    without = fit_model(
        make_model(fit.design.X, names=fit.names, weights=fit.design.weights),
        fit.Y,
        FitOptions(fit.method),
        weights=fit.weights,
    )
    stat = np.maximum(2 * (fit.loglik - without.loglik), 0.0)
    stat[fit.singular] *= 0  # the fits are one and the same; keeps NaN
    own = np.flatnonzero(fit.own_design)
    null = np.zeros(0)
    if len(own) < np.count_nonzero(fit.converged) or not len(own):
        null = fit.model.family.null_distribution(n_sim, seed, fit.method)
    pvalue = _exact_pvalue(stat, null)
    if len(own):
        for columns, _, family in fit.model.family.designs(fit.responses, own):
            at = own[columns]
            some = family.null_distribution(n_sim, seed, fit.method) if np.any(stat[at] > 0) else np.zeros(n_sim)
            pvalue[at] = _exact_pvalue(stat[at], some)
    return RandomEffectTest(
        stat, pvalue, mixture_pvalue(stat, 0), null, n_sim, operator.index(seed), fit.method, responses=fit.labels,
    )  # fmt: skip


def mixture_pvalue(stat: np.ndarray, n_fixed: int) -> np.ndarray:
    """p-values from the 50:50 mixture of chi-square with ``n_fixed`` and ``n_fixed`` + 1 degrees of freedom.

    The large-sample distribution of a likelihood ratio that sets ``n_fixed`` coefficients and one
    variance to 0 (Self & Liang 1987, Stram & Lee 1994). Chi-square with 0 degrees of
    freedom is the constant 0. NaN stays NaN.
    """
    lower = np.where(stat > 0, 0.0, 1.0) if n_fixed == 0 else scipy.special.chdtrc(n_fixed, stat)
    return np.asarray(0.5 * lower + 0.5 * scipy.special.chdtrc(n_fixed + 1, stat))


def _exact_pvalue(stat: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(1 + #{null >= statistic}) / (1 + n_sim) (Davison & Hinkley 1997, section 4.2); ``null`` is sorted."""
    reached = len(null) - np.searchsorted(null, stat, side="left")
    return np.where(np.isnan(stat), np.nan, (1 + reached) / (1 + len(null)))
