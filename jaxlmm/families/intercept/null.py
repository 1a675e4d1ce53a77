"""The likelihood ratio of group variance 0 where that is true, simulated from the spectrum alone.

Crainiceanu & Ruppert (2004): with y ~ N(0, I) the coordinates u_j are standard normal and ``rest`` is chi-square.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.families.intercept.minimum import minimise
from jaxlmm.families.intercept.objective import Terms, make_terms
from jaxlmm.families.intercept.spectrum import Spectrum
from jaxlmm.optimize.search import make_grid
from jaxlmm.runtime import programs

__all__ = ["null_distribution"]

# Simulated responses solved at once. All blocks are this wide, so the code is compiled once per shape.
BLOCK_WIDTH = 2048


def null_distribution(
    spectrum: Spectrum, n_obs: int, *, n_sim: int = 10_000, seed: int = 0, method: str = "REML"
) -> np.ndarray:
    """Simulate the likelihood ratio of group variance 0, where it is 0.

    Parameters
    ----------
    spectrum : Spectrum
        Of a design with groups.
    n_obs : int
        Number of observations.
    n_sim, seed : int
        Number of draws and their seed. The same seed gives the same draws.
    method : {"REML", "ML"}

    Returns
    -------
    ndarray, (n_sim,)
        Sorted. Exactly 0 where the variance is estimated as 0.

    Notes
    -----
    Crainiceanu & Ruppert (2004), theorem 1 and its REML version (R's ``RLRsim::LRTSim`` and ``RLRTSim``).
    """
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


@programs.jit
def _statistics(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array) -> jax.Array:
    """Deviance at lam = 0 less its minimum, (c,)."""
    found = minimise(terms, u2, rest, grid)
    at_zero = terms.nu * jnp.log(jnp.sum(u2, axis=0) + rest)
    return jnp.where(found.lam == 0, 0.0, jnp.maximum(at_zero - found.deviance, 0.0))
