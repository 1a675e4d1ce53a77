"""Likelihood ratios of responses simulated under the smaller model (parametric bootstrap)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxlmm._types import Status
from jaxlmm.families.base import Family
from jaxlmm.resampling.bootstrap import simulate_responses
from jaxlmm.results.results import Fit
from jaxlmm.runtime.progress import progress

__all__ = ["bootstrap_pvalues"]

# Responses that are simulated together, and memory of what is.
WIDTH, BYTES = 4096, 256 * 2**20


def bootstrap_pvalues(
    small: Fit, large: Fit, statistic: np.ndarray, offset: float, n: int, seed: int, show: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """p-values of likelihood ratios, and how many replicates each is made of.

    Parameters
    ----------
    small, large : Fit
        By one method.
    statistic : ndarray, (m,)
        2 (loglik of large - loglik of small); NaN stays NaN.
    offset : float
        What is added to the statistic where X of the two are different bases of one space.
    n, seed : int
    show : bool, optional
        A bar, as :func:`jaxlmm.runtime.progress.progress` takes it.

    Returns
    -------
    pvalue, used : ndarray, (m,)
        (1 + replicates at least as large) / (1 + replicates that both models fit), as pbkrtest's ``PBmodcomp``
        (Halekoh & Hojsgaard 2014).
    """
    m, method = len(statistic), small.method
    larger, used = np.zeros(m, dtype=int), np.zeros(m, dtype=int)
    where = np.flatnonzero(~np.isnan(statistic))
    with progress("Bootstrap", 2 * n * len(where), "fits", show, kept="Nothing is kept of it."):
        for families, chunk, at in _chunks(small, large, where):
            several = max(1, BYTES // (8 * small.n_obs * len(at)))
            for first in range(0, n, several):
                streams = [np.random.default_rng([seed, i, *chunk]) for i in range(first, min(first + several, n))]
                drawn = [simulate_responses(small, families[0].design, at, rng) for rng in streams]
                Y = np.concatenate(drawn, axis=1)
                fits = [family.fit(Y, method) for family in families]
                good = np.all([found["status"] <= Status.SINGULAR for found in fits], axis=0).reshape(-1, len(at))
                ratio = np.maximum(2 * (fits[1]["loglik"] - fits[0]["loglik"]) + offset, 0.0).reshape(-1, len(at))
                # Ratios that differ by rounding alone are the same: 0 where the larger model is the smaller one.
                with np.errstate(invalid="ignore"):
                    larger[at] += np.sum(good & (ratio >= statistic[at] - 1e-8 * (1 + statistic[at])), axis=0)
                used[at] += good.sum(axis=0)
    p = np.full(m, np.nan)
    p[where] = (1 + larger[where]) / (1 + used[where])
    return p, used


def _chunks(
    small: Fit, large: Fit, where: np.ndarray
) -> Iterator[tuple[tuple[Family, Family], tuple[int, ...], np.ndarray]]:
    """Both models on one design, the number of a stream of random numbers, and those responses ``where`` on it."""
    own = small.own_design[where]
    complete, others = where[~own], where[own]
    for chunk, start in enumerate(range(0, len(complete), WIDTH)):
        yield (small.model.family, large.model.family), (chunk,), complete[start : start + WIDTH]
    if not len(others):
        return
    parts = zip(*(fit.model.family.designs(fit.responses, others) for fit in (small, large)), strict=True)
    for (columns, _, first), (_, _, second) in parts:
        at = others[columns]
        yield (first, second), (0, 1 + int(at[0])), at
