"""Test of the random effect: is the group variance 0? For every response at once.

The statistic is the (restricted) likelihood ratio of the model to the one without groups. As the
hypothesis lies on the boundary, its distribution is not chi-square, and not the 50:50 mixture of
large samples either: its exact finite-sample distribution follows from the design's spectrum alone
(Crainiceanu & Ruppert 2004, Journal of the Royal Statistical Society B 66:165-185). With y ~ N(0, I)
the coordinates u_j are standard normal and ``rest`` is chi-square, and neither their scale nor the
fixed effects matter. So one simulation serves all responses, as in R's ``RLRsim`` (Scheipl,
Greven & Kuechenhoff 2008); here the supremum is found by the solver, not on a grid.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from jaxlmm._types import float64_scope
from jaxlmm.families.intercept.minimum import minimise
from jaxlmm.families.intercept.objective import Terms, make_terms
from jaxlmm.families.intercept.spectrum import Spectrum
from jaxlmm.fit import fit_prepared, prepare
from jaxlmm.inference.tabular import Table, Tabular
from jaxlmm.optimize.search import make_grid
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import check_integer

__all__ = ["RandomEffectTest", "mixture_pvalue", "null_distribution", "rlrt"]

# Simulated responses solved at once. All blocks are this wide, so the code is compiled once a shape.
BLOCK_WIDTH = 2048
# Simulated statistics, at most: some minutes, and 80 MB.
MOST_SIM = 10_000_000


@dataclass(frozen=True, eq=False, repr=False)
class RandomEffectTest(Tabular):
    """Test of group variance = 0 for m responses; what :func:`rlrt` returns.

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
        Simulated statistics, sorted.
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
        Seed of the simulation. All responses share its draws.

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
    reads Y once more.
    """
    if not isinstance(fit, Fit):
        raise ValueError(f"rlrt takes what jaxlmm.fit returns, found a {type(fit).__name__}.")
    if not fit.design.random:
        raise ValueError(
            "the fit has no random effect, so there is nothing to test; fit with groups, and rlrt "
            "compares that with the model without them."
        )
    if fit.incomplete.any():
        raise ValueError(
            f"{int(fit.incomplete.sum())} responses miss observations, so that they do not share the null "
            "distribution; test the others, fit.select(~fit.incomplete), or use jaxlmm.compare."
        )
    null = null_distribution(fit.reducer.spectrum, fit.n_obs, n_sim=n_sim, seed=seed, method=fit.method)
    without = fit_prepared(
        prepare(fit.design.X, names=fit.names, weights=fit.design.weights), fit.Y, method=fit.method
    )
    stat = np.maximum(2 * (fit.loglik - without.loglik), 0.0)
    stat[fit.singular] *= 0  # the fits are one and the same; keeps NaN
    return RandomEffectTest(
        stat,
        _exact_pvalue(stat, null),
        mixture_pvalue(stat, 0),
        null,
        len(null),
        operator.index(seed),
        fit.method,
        responses=fit.labels,
    )


def null_distribution(
    spectrum: Spectrum, n_obs: int, *, n_sim: int = 10_000, seed: int = 0, method: str = "REML"
) -> np.ndarray:
    """Simulate the statistic of :func:`rlrt` where the group variance is 0.

    Parameters
    ----------
    spectrum : Spectrum
        Of a design with groups: ``fit.reducer.spectrum``.
    n_obs : int
        Number of observations.
    n_sim, seed : int
        Number of draws and their seed. The same seed gives the same draws.
    method : {"REML", "ML"}

    Returns
    -------
    ndarray, (n_sim,)
        Sorted. Exactly 0 where the variance is estimated as 0.

    Raises
    ------
    ValueError
        A spectrum without groups, another method, n_sim or seed not a usable integer.

    Notes
    -----
    Crainiceanu & Ruppert (2004), theorem 1 and its REML version (R's ``RLRsim::LRTSim`` and ``RLRTSim``).
    """
    if method not in ("REML", "ML"):
        raise ValueError(f"method must be one of 'REML', 'ML', found {method!r}.")
    n_sim = check_integer("n_sim", n_sim, 1, MOST_SIM, ", which would take hours; pvalue_mixture needs no simulation")
    seed = check_integer("seed", seed, 0)
    if not len(spectrum.size):
        raise ValueError("the design has no groups, so its random effect has no null distribution; give a fit's.")
    terms = make_terms(spectrum, n_obs, method)
    grid = make_grid(np.asarray(terms.d))
    # What [X, Z] leaves: n - p degrees of freedom less those of the spectrum.
    df = np.append(spectrum.multiplicity, n_obs - len(spectrum.f) - spectrum.multiplicity.sum())
    rng = np.random.default_rng(seed)
    found = []
    with float64_scope():
        for _ in range(0, n_sim, BLOCK_WIDTH):
            # Chi-square draws; 0 where there are no degrees of freedom (padding).
            draws = 2 * rng.standard_gamma(df[:, None] / 2, size=(len(df), BLOCK_WIDTH))
            found.append(np.asarray(_statistics(terms, draws[:-1], draws[-1], grid)))
    return np.sort(np.concatenate(found)[:n_sim])


def mixture_pvalue(stat: np.ndarray, n_fixed: int) -> np.ndarray:
    """p-values from the 50:50 mixture of chi-square with ``n_fixed`` and ``n_fixed`` + 1 degrees of freedom.

    The large-sample distribution of a likelihood ratio that sets ``n_fixed`` coefficients and one
    variance to 0 (Self & Liang 1987, Stram & Lee 1994). Chi-square with 0 degrees of
    freedom is the constant 0. NaN stays NaN.
    """
    lower = np.where(stat > 0, 0.0, 1.0) if n_fixed == 0 else scipy.special.chdtrc(n_fixed, stat)
    return np.asarray(0.5 * lower + 0.5 * scipy.special.chdtrc(n_fixed + 1, stat))


@jax.jit
def _statistics(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array) -> jax.Array:
    """Deviance at lam = 0 less its minimum, (c,)."""
    found = minimise(terms, u2, rest, grid)
    at_zero = terms.nu * jnp.log(jnp.sum(u2, axis=0) + rest)
    return jnp.where(found.lam == 0, 0.0, jnp.maximum(at_zero - found.deviance, 0.0))


def _exact_pvalue(stat: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(1 + #{null >= statistic}) / (1 + n_sim) (Davison & Hinkley 1997, section 4.2); ``null`` is sorted."""
    reached = len(null) - np.searchsorted(null, stat, side="left")
    return np.where(np.isnan(stat), np.nan, (1 + reached) / (1 + len(null)))
