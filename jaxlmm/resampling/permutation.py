"""Permutation tests with a refit of the whole mixed model for every permutation."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from jaxlmm.inference.distributions import f_quantile, halfwidth
from jaxlmm.inference.hypotheses import contrast_se_df, f_test
from jaxlmm.resampling.contrast import Tested, find_contrast, make_tested
from jaxlmm.resampling.corrections import SAME, Clusters, Enhanced, Largest, Orientation
from jaxlmm.resampling.draws import Draws, make_draws
from jaxlmm.resampling.journal import Journal, open_journal
from jaxlmm.resampling.maps import make_adjacency
from jaxlmm.resampling.refit import prepare_refits
from jaxlmm.resampling.result import PermutationTest
from jaxlmm.resampling.schemes import Scheme, choose_scheme, refuse_missing
from jaxlmm.runtime.arguments import check_integer, check_option, shown
from jaxlmm.runtime.progress import progress

__all__ = ["permutation_test"]

STATISTICS = ("max", "cluster", "tfce")
TAILS = ("two-sided", "greater", "less")
# Fits between two that a folder keeps: seconds with one random intercept, a minute or two with others.
KEPT_AFTER = 500_000


def permutation_test(
    fit: Any,
    tested: Any,
    n: int = 1000,
    *,
    scheme: str = "auto",
    blocks: Any = None,
    statistic: str = "max",
    tail: str = "two-sided",
    step_down: bool = False,
    threshold: float | None = None,
    threshold_p: float = 0.05,
    mass: str = "sum",
    adjacency: Mapping[Hashable, Any] | Any = None,
    E: float = 0.5,
    H: float = 2.0,
    start: float = 0.0,
    dh: float | None = None,
    seed: int = 0,
    alpha: float = 0.05,
    out: Any = None,
    progress: bool | None = None,
) -> PermutationTest:
    """Test a term for all responses by permutations, each with a refit of the whole mixed model.

    Every draw is the same for all responses, so that their correlation is kept and p-values are corrected over all of
    them without an assumption about it.

    Parameters
    ----------
    fit : Fit
    tested : str, or contrast as :meth:`jaxlmm.Fit.test` takes it
        A term or a coefficient by name, or weights of the coefficients; several rows are tested together, by F.
    n : int
        Number of draws. All that there are, where these are no more.
    scheme : {"auto", "within", "sign-flip", "whole", "whitened"}
        What is drawn under the null hypothesis, from r, the residuals of the model without the tested effect:

        - "within": rows change places within the cells of all grouping factors. For an effect that varies within
          cells, in a model whose random effects do not vary there (random intercepts).
        - "sign-flip": blocks that share no level of any grouping factor (the subjects) change their sign. For any
          effect, and any random effects of the blocks, slopes too; asks that their distribution is symmetric.
        - "whole": blocks change places. For an effect between blocks of one shape.
        - "whitened": rows of V^-1/2 r change places, and the result is correlated again by V^1/2. For crossed
          factors; approximate, as V is that of the fit without the effect.

        "auto" takes the first of "within", "whole" (effects between blocks), "sign-flip" and "whitened" that the
        design allows and that has 20 distinct draws or more. The result's ``scheme.text`` says what was done.
    blocks : array-like, (n_obs,), optional
        Labels of the cells or blocks, instead of those of the design.
    statistic : {"max", "cluster", "tfce"}
        Corrected by the largest statistic of each draw (Westfall & Young 1993; Nichols & Holmes 2002), by the largest
        cluster (Maris & Oostenveld 2007), or by the largest enhanced statistic (Smith & Nichols 2009).
    tail : {"two-sided", "greater", "less"}
        For F statistics "two-sided" alone.
    step_down : bool
        Of "max": compare each response with the largest of those that are no more significant than itself (Westfall
        & Young's step-down), which rejects no less.
    threshold : float, optional
        Of "cluster": t, or F, beyond which responses belong to a cluster.
    threshold_p : float
        The same as a p-value (two-sided for t), by the degrees of freedom of the fit; used without ``threshold``.
    mass : {"sum", "size"}
        A cluster's mass: the sum of its statistics, or its number of responses.
    adjacency : mapping of dimension to matrix, "line" or "none"; or matrix; optional
        Of "cluster" and "tfce": which responses are neighbours. A matrix, such as MNE's of channels, holds those of
        one dimension; "line" are the next and the one before. Dimensions not mentioned are lines where their labels
        are numbers or times, and have no neighbours where they are names. Two responses are neighbours if they are so
        along one dimension and alike in the others.
    E, H, start, dh : float
        Of "tfce": the integral of extent^E h^H over heights h from ``start``; exact by default, or the sum over
        heights ``dh`` apart, as MNE has it.
    seed : int
        Draws are the same for the same seed, whatever the size of blocks or the device.
    alpha : float
        The level at which results will be used: a warning says if ``n`` cannot reach it.
    out : path, optional
        A folder that keeps the statistics of finished responses: a test that was stopped goes on when it is called
        again.
    progress : bool, optional
        A bar with fits per second and time left, once two seconds have passed; by default on a terminal and in a
        notebook.

    Returns
    -------
    PermutationTest

    Raises
    ------
    ValueError
        Unknown term, scheme or dimension; a scheme that the design does not allow, or that has fewer than 20
        distinct draws; a matrix of the wrong size; no response with a fit; the scheme "whitened" and responses that
        miss observations.

    Notes
    -----
    Draws of residuals follow Freedman & Lane (1983) and Winkler et al. (2014, NeuroImage 92:381). Where the other
    columns of X are constant within the cells, "within" permutes the labels of the tested effect, which is exact. The
    statistic of each draw is that of a fit by the method of ``fit``: variances are estimated again.
    """
    n, seed = check_integer("n", n, 1), check_integer("seed", seed, 0)
    statistic = check_option("statistic", statistic, STATISTICS)
    tail = check_option("tail", tail, TAILS)
    mass = check_option("mass", mass, ("sum", "size"))
    if fit.weights is not None:
        raise ValueError(
            "responses with weights of their own are not permuted together, since their rows are not exchangeable; "
            "use tests of the fit, and jaxlmm.adjust_pvalues."
        )
    name, L = find_contrast(fit.design, tested)
    if len(L) > 1 and tail != "two-sided":
        raise ValueError(f"'{name}' has {len(L)} coefficients, and F has no direction; use tail='two-sided'.")
    where = np.flatnonzero(fit.converged)
    if not len(where):
        raise ValueError("no response has a fit, so that there is nothing to test; see status_counts().")
    hypothesis = make_tested(fit.design, name, L)
    signed = tail != "two-sided"
    chosen = choose_scheme(hypothesis, scheme, blocks, signed=signed)
    missing = [fit.response_names[i] for i in np.flatnonzero(fit.incomplete)] if chosen.kind == "whitened" else []
    refuse_missing(hypothesis, chosen, blocks, missing, signed=signed)
    draws = make_draws(chosen, hypothesis, n, seed, signed=signed)
    if not draws.exhaustive and (draws.n + 1) * alpha < 1:
        warnings.warn(
            f"with n={draws.n} the smallest possible p-value is {1 / (draws.n + 1):.3g}, above alpha={alpha:g}; draw "
            f"{int(np.ceil(1 / alpha))} or more.", stacklevel=2,
        )  # fmt: skip
    signs = (1,) if len(L) > 1 or signed else (1, -1)
    orient = Orientation(-1 if tail == "less" else 1, not signed)
    score: Any
    if statistic == "max":
        score = Largest(step_down)
    else:
        neighbours = make_adjacency(fit.labels, adjacency)
        if statistic == "cluster":
            cut = _cut(fit, L, threshold, threshold_p)
            score = Clusters(neighbours, cut, mass == "size", signs)
        else:
            extent, height, first = (_number(*pair, 0.0) for pair in (("E", E), ("H", H), ("start", start)))
            step = None if dh is None else _number("dh", dh, 0.0, above=True)
            score = Enhanced(neighbours, extent, height, first, step, signs)
    most = None if out is None else max(KEPT_AFTER // draws.n, 1)
    settings = dict(
        L=L.tolist(), method=fit.method, n=draws.n, scheme=chosen.kind, seed=seed, responses=len(where), pieces=most,
        random=[term.label for term in fit.design.random],
    )  # fmt: skip
    journal = open_journal(
        out, settings, [] if out is None else [draws.values, fit.design.X, fit.coef, chosen.blocks]
    )
    return _run(fit, hypothesis, chosen, draws, where, score, orient, journal, most, progress, statistic, tail)


def _run(
    fit: Any, hypothesis: Tested, chosen: Scheme, draws: Draws, where: np.ndarray, score: Any, orient: Orientation,
    journal: Journal, most: int | None, show: bool | None, kind: str, tail: str,
) -> PermutationTest:  # fmt: skip
    refits = prepare_refits(hypothesis, chosen, fit.method)
    m = fit.n_responses
    observed = np.full(m, np.nan)
    larger, singular, failed = np.zeros(m, dtype=int), np.zeros(m, dtype=int), np.zeros(m, dtype=int)
    total = np.zeros(m, dtype=int)
    collected = score.collector(draws.n, m)
    pieces = refits.pieces(where, most)
    # A response's own fit, that of the model without the effect, and one for each draw.
    each = draws.n + 1
    call = f"permutation_test(fit, {hypothesis.name!r}, {draws.n}, ..., out='{journal.folder}')"
    with progress(
        "Permutation test", len(where) * (1 + each), "fits", show, kept=lambda: journal.kept(len(pieces), call)
    ) as work:
        observed[where] = refits.observed(fit.Y, where)
        work.reach(len(where))
        size = orient(observed)
        for number, at in enumerate(pieces):
            found = journal.read(number, at)
            if found is not None:
                work.skip(len(at) * each)
            else:
                before = work.done
                found = refits.statistics(fit.Y, at, draws)
                journal.write(number, found)
                work.reach(before + len(at) * each)
            if draws.exhaustive:  # the data themselves come first; a refit agrees to rounding alone
                found.values[0] = observed[at]
            values = orient(found.values)
            with np.errstate(invalid="ignore"):
                larger[at] = np.sum(values >= size[at] * (1 - SAME * np.sign(size[at])), axis=0)
            total[at] = np.sum(~np.isnan(values), axis=0)
            singular[at], failed[at] = found.singular, found.failed
            collected.add(at, found, orient)
    again = 0 if draws.exhaustive else 1
    with np.errstate(invalid="ignore", divide="ignore"):
        alone = np.where(np.isnan(observed), np.nan, (larger + again) / (total + again))
    result = score.result(observed, collected, orient, again)
    return PermutationTest(
        name=hypothesis.name, kind=kind, tail=tail, statistic=observed, score=result["score"],
        pvalue_corrected=result["pvalue"], pvalue=alone, null=result["null"], n=draws.n,
        exhaustive=draws.exhaustive, scheme=chosen, letter="t" if hypothesis.q == 1 else "F",
        neighbours=result.get("neighbours", ""), cluster=result.get("cluster", np.zeros(m, dtype=int)),
        mass=result.get("mass", np.zeros(0)), cluster_pvalue=result.get("cluster_pvalue", np.zeros(0)),
        n_singular=singular, n_failed=failed, step_down=getattr(score, "step_down", False), responses=fit.labels,
    )  # fmt: skip


def _cut(fit: Any, L: np.ndarray, threshold: float | None, p: float) -> np.ndarray:
    """The threshold of each response, (m,)."""
    m = fit.n_responses
    if threshold is not None:
        return np.full(m, _number("threshold", threshold, 0.0, above=True))
    p = _number("threshold_p", p, 0.0, above=True)
    if p >= 1:
        raise ValueError(f"threshold_p must lie between 0 and 1, found {p:g}.")
    if len(L) == 1:
        return np.asarray(halfwidth(1 - p, contrast_se_df(fit.estimates, L, fit.df_method)[1])[:, 0])
    return f_quantile(p, len(L), f_test(fit.estimates, L, np.zeros(len(L)), fit.df_method).df_den)


def _number(name: str, value: Any, least: float, *, above: bool = False) -> float:
    """A finite number of at least ``least``, or above it."""
    good = isinstance(value, numbers.Real) and np.isfinite(float(value))
    if not good or (float(value) <= least if above else float(value) < least):
        raise ValueError(
            f"{name} must be a number {'above' if above else 'of at least'} {least:g}, found {shown(value)}."
        )
    return float(value)
