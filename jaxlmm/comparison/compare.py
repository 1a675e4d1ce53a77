"""Comparison of nested fits, response by response: likelihood ratio tests, AIC, BIC and their weights.

What R's ``anova`` does with two or more lme4 fits. Errors about fits that cannot be compared are
raised here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special

from jaxlmm.comparison.bootstrap import bootstrap_pvalues
from jaxlmm.comparison.rlrt import mixture_pvalue
from jaxlmm.design.columns import make_columns
from jaxlmm.design.identifiability import RANK_TOL
from jaxlmm.design.random import terms_outside
from jaxlmm.inference.tabular import Table, Tabular
from jaxlmm.results.fitting import fit_model
from jaxlmm.results.options import FitOptions
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import check_integer, check_option, shown
from jaxlmm.runtime.device import DeviceMatrix
from jaxlmm.sources.lazy import LazyMatrix

__all__ = ["Comparison", "compare"]

# Y is compared in full up to this many values; of a larger one, evenly spaced rows and columns.
COMPARED = 2**24


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Tabular):
    """k nested models compared for each of m responses; what :func:`compare` returns.

    Where one of the fits has no result for a response, its row is NaN in every array.

    Attributes
    ----------
    statistic : ndarray, (m,), or (m, k - 1) for k > 2
        Likelihood ratio statistics 2 (loglik_1 - loglik_0) of neighbouring models, >= 0.
    df : int, or tuple of k - 1 int for k > 2
        Parameters that the larger model has more.
    pvalue : ndarray, as ``statistic``
        From chi-square with ``df`` degrees of freedom; where ``boundary``, from the 50:50 mixture
        of chi-square with ``df`` - 1 and ``df``, which is an upper limit if several variances are added.
    boundary : bool, or tuple of k - 1 bool for k > 2
        Whether the larger model adds a variance of random effects: the hypothesis that it is 0 lies
        on the boundary (Self & Liang 1987, Stram & Lee 1994).
    loglik, aic, bic : ndarray, (m, k)
        By the method ``method``.
    aic_weight, bic_weight : ndarray, (m, k)
        Akaike weights exp(-(aic - min) / 2), and the same of ``bic``, scaled to sum 1 (Burnham &
        Anderson 2002, section 2.9).
    n_params : tuple of k int
        Parameters of each model: fixed effects and variances.
    method : {"REML", "ML"}
        Of the log-likelihoods compared.
    n_bootstrap : int
        Simulated responses behind each p-value; 0 for those of the chi-square distribution.
    """

    statistic: np.ndarray
    df: int | tuple[int, ...]
    pvalue: np.ndarray
    boundary: bool | tuple[bool, ...]
    loglik: np.ndarray
    aic: np.ndarray
    bic: np.ndarray
    aic_weight: np.ndarray
    bic_weight: np.ndarray
    n_params: tuple[int, ...]
    method: str
    n_bootstrap: int = 0

    def _table(self, level: float) -> Table:
        m, k = self.loglik.shape
        none = np.full((m, 1), np.nan)
        columns = {
            "n_params": np.array(self.n_params), "aic": self.aic, "bic": self.bic, "loglik": self.loglik,
            "statistic": np.hstack([none, self.statistic.reshape(m, -1)]),
            "df": np.append(np.nan, np.atleast_1d(self.df)),
            "pvalue": np.hstack([none, self.pvalue.reshape(m, -1)]),
            "aic_weight": self.aic_weight, "bic_weight": self.bic_weight,
        }  # fmt: skip
        mixture = ", ".join(str(j + 1) for j in np.flatnonzero(np.atleast_1d(self.boundary)))
        notes = (f"P by the mixture of chi-square distributions: model {mixture}",) if mixture else ()
        if self.n_bootstrap:
            notes = (f"P by {self.n_bootstrap} responses simulated from the smaller model",)
        title = f"Likelihood ratio tests, by {self.method}"
        return Table(title, {"model": [str(j) for j in range(k)]}, columns, {"statistic": "Chisq"}, notes)


def compare(
    *fits: Fit,
    refit: str | None = None,
    method: str = "chisq",
    n: int = 1000,
    seed: int = 0,
    progress: bool | None = None,
) -> Comparison:
    """Compare two or more nested fits of the same responses, the smallest model first.

    Parameters
    ----------
    *fits : Fit
        Each model holds the one before it: its X spans the columns of that one's X, and each of that
        one's random terms is held by one of its own, on the same levels with the same columns or more.
    refit : {None, "ML"}
        "ML" refits by maximum likelihood what is not fitted so, as R's ``anova.merMod`` does;
        None refuses restricted likelihoods that cannot be compared.
    method : {"chisq", "bootstrap"}
        How p-values are found: by the chi-square distribution (and its mixtures), or by the parametric bootstrap:
        responses are simulated from the smaller model and fitted by both, as pbkrtest's ``PBmodcomp``. Responses
        that miss observations or have weights of their own keep these, each simulated and fitted on its own design.
    n, seed : int
        Of the bootstrap: simulated responses for each response, and where random numbers start.
    progress : bool, optional
        Of the bootstrap: a bar, once two seconds have passed; by default on a terminal and in a notebook.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        Less than two fits; fits of other observations, responses, groups or methods; models that
        are not nested, in the wrong order, or identical; REML fits whose X span different
        columns, unless ``refit="ML"``.

    Notes
    -----
    REML fits that differ in the random effect alone are compared by their restricted likelihoods,
    expressed in the columns of the first X. The mixture that gives the p-values of a random effect
    holds for many groups and is conservative for few; :func:`jaxlmm.rlrt` has the exact ones.
    (R's ``anova`` takes chi-square with 1 degree of freedom, which doubles them.)

    Tests of fixed effects by the likelihood ratio reject too often in small samples, the more so
    the more coefficients they test (Pinheiro & Bates 2000, section 2.4.2).
    """
    if refit is not None and not (isinstance(refit, str) and refit.strip().upper() == "ML"):
        raise ValueError(f"refit must be None or 'ML', found {shown(refit)}.")
    refit = None if refit is None else "ML"
    method = check_option("method", method, ("chisq", "bootstrap"))
    n, seed = check_integer("n", n, 1), check_integer("seed", seed, 0)
    _check_same_data(fits, refit)
    fixed_added = [_check_nested(a, b, k) for k, (a, b) in enumerate(itertools.pairwise(fits))]
    if refit is None and fits[0].method == "REML" and any(fixed_added):
        k = int(np.flatnonzero(fixed_added)[0])
        raise ValueError(
            f"fit {k} and fit {k + 1} are REML fits with different fixed effects, and REML likelihoods with "
            "different fixed effects cannot be compared; refit='ML' refits both by maximum likelihood."
        )
    # Only responses that every fit was made of, and of the same observations.
    usable = np.all([fit.converged for fit in fits], axis=0) & np.all(
        [fit.n_used == fits[0].n_used for fit in fits], axis=0
    )
    if refit == "ML":
        fits = tuple(_by_ml(fit) for fit in fits)
    n_params = tuple(fit.n_params for fit in fits)
    df = tuple(b - a for a, b in itertools.pairwise(n_params))
    boundary = tuple(_n_variances(b) > _n_variances(a) for a, b in itertools.pairwise(fits))
    loglik = np.column_stack([fit.loglik for fit in fits])
    if fits[0].method == "REML":
        loglik += 0.5 * np.array([_logdet_xtx(fit, fits[0]) for fit in fits])
    loglik[~(usable & np.all([fit.converged for fit in fits], axis=0))] = np.nan
    stat = np.maximum(2 * np.diff(loglik, axis=1), 0.0)
    for j in np.flatnonzero(np.array(boundary) & ~np.array(fixed_added, dtype=bool)):
        stat[_adds_nothing(fits[j], fits[j + 1]), j] *= 0  # the fits are one and the same; keeps NaN
    columns = zip(stat.T, df, boundary, strict=True)
    pvalue = np.column_stack([mixture_pvalue(s, q - 1) if b else scipy.special.chdtrc(q, s) for s, q, b in columns])
    if method == "bootstrap":
        for k, (small, large) in enumerate(itertools.pairwise(fits)):
            offset = _logdet_xtx(large, fits[0]) - _logdet_xtx(small, fits[0]) if small.method == "REML" else 0.0
            pvalue[:, k] = bootstrap_pvalues(small, large, stat[:, k], offset, n, seed, progress)[0]
    aic = -2 * loglik + 2 * np.array(n_params)
    bic = -2 * loglik + np.log(np.maximum(fits[0].n_used, 1))[:, None] * np.array(n_params)
    rest = dict(
        loglik=loglik, aic=aic, bic=bic, aic_weight=_weights(aic), bic_weight=_weights(bic),
        n_params=n_params, method=fits[0].method, responses=fits[0].labels,
        n_bootstrap=n if method == "bootstrap" else 0,
    )  # fmt: skip
    if len(fits) == 2:
        return Comparison(statistic=stat[:, 0], df=df[0], pvalue=pvalue[:, 0], boundary=boundary[0], **rest)
    return Comparison(statistic=stat, df=df, pvalue=pvalue, boundary=boundary, **rest)


def _by_ml(fit: Fit) -> Fit:
    if fit.method == "ML":
        return fit
    return fit_model(fit.model, fit.Y, FitOptions(method="ML"), weights=fit.weights)


def _n_variances(fit: Fit) -> int:
    """Variances of random effects."""
    return sum(term.size for term in fit.design.random)


def _adds_nothing(small: Fit, large: Fit) -> np.ndarray:
    """Where the covariances of all random terms that the larger fit adds are exactly 0, (m,)."""
    added = terms_outside(large.design.random, small.design.random)
    terms = zip(large.design.random, large.varcorr.values(), strict=True)
    return np.all([(V == 0).all(axis=(1, 2)) for term, V in terms if term in added], axis=0)


def _weights(criterion: np.ndarray) -> np.ndarray:
    relative = np.exp(-0.5 * (criterion - criterion.min(axis=1, keepdims=True)))
    return np.asarray(relative / relative.sum(axis=1, keepdims=True))


def _logdet_xtx(fit: Fit, first: Fit) -> float:
    """log|X'X| relative to the first fit's, where X is another basis of the same columns."""
    if fit is first or np.array_equal(fit.design.X, first.design.X):
        return 0.0
    return fit.model.family.basis.logdet - first.model.family.basis.logdet


def _check_same_data(fits: tuple[Fit, ...], refit: str | None) -> None:
    """Refuse fits that are not of the same Y, groups and method."""
    if len(fits) < 2:
        raise ValueError(f"compare needs two fits or more, found {len(fits)}.")
    for k, fit in enumerate(fits):
        if not isinstance(fit, Fit):
            raise ValueError(f"argument {k} is a {type(fit).__name__}, not a fit; give what jaxlmm.fit returns.")
    first = fits[0]
    for k, fit in enumerate(fits[1:], start=1):
        if fit.n_obs != first.n_obs:
            raise ValueError(
                f"fit 0 has {first.n_obs} observations, fit {k} has {fit.n_obs}; fit the models to the same rows"
                f"{_dropped_hint(first, fit)}."
            )
        if not np.array_equal(first.dropped, fit.dropped):
            raise ValueError(f"fit 0 and fit {k} dropped different rows{_dropped_hint(first, fit)}.")
        if fit.n_responses != first.n_responses:
            raise ValueError(
                f"fit 0 has {first.n_responses} responses, fit {k} has {fit.n_responses}; fit the models to the "
                "same Y, or take the same ones with Fit.select."
            )
        if refit is None and fit.method != first.method:
            raise ValueError(
                f"fit 0 is by {first.method}, fit {k} by {fit.method}; fit both by one method, or give refit='ML'."
            )
        w0, w = (np.ones(f.n_obs) if f.design.weights is None else f.design.weights for f in (first, fit))
        own = [f.weights for f in (first, fit)]
        if (own[0] is None) != (own[1] is None) or (own[0] is not None and not _same_weights(*own)):
            raise ValueError(
                f"fit 0 and fit {k} have different weights of the responses' own; fit the models with the same ones."
            )
        if not np.array_equal(w0, w):
            raise ValueError(f"fit 0 and fit {k} have different weights; fit the models with the same ones.")
        at = _first_difference(first.Y, fit.Y)
        if at is not None:
            raise ValueError(
                f"fit 0 and fit {k} have different Y, first in row {at[0]}, response '{first.response_names[at[1]]}' "
                f"({float(first.Y[at]):.6g} and {float(fit.Y[at]):.6g}); fit the models to the same Y."
            )
    grouped = [(k, fit) for k, fit in enumerate(fits) if fit.design.has_one_intercept]
    for k, fit in grouped[1:]:
        k0, (a, b) = grouped[0][0], (grouped[0][1].design.random[0], fit.design.random[0])
        rows = np.flatnonzero(_by_appearance(a.codes) != _by_appearance(b.codes))
        if len(rows):
            i = int(rows[0])
            raise ValueError(
                f"fit {k0} and fit {k} have different groups ({len(a.levels)} and {len(b.levels)}), first in row {i} "
                f"({a.levels[a.codes[i]]!r} and {b.levels[b.codes[i]]!r}); such models are not nested, so fit "
                "them with the same groups."
            )


def _dropped_hint(a: Fit, b: Fit) -> str:
    """What to do where one of two models dropped rows that the other has."""
    whys = [fit.design.dropped.why for fit in (a, b) if fit.design.dropped is not None]
    if not whys:
        return ""
    return f" (rows are missing: {'; '.join(whys)}): drop the rows that either model misses from the data before"


def _first_difference(a: Any, b: Any) -> tuple[int, int] | None:
    """Where a and b (n_obs, m) differ, NaN being equal to NaN; large arrays are not compared in full."""
    if _same_memory(a, b):
        return None
    step = max(1, -(-a.shape[0] * a.shape[1] // COMPARED))
    # Every step-th column, every step-th row.
    for rows, cols in {(1, min(step, a.shape[1])): None, (min(step, len(a)), 1): None}:
        x, y = a[::rows, ::cols], b[::rows, ::cols]
        different = x != y
        if different.any():
            different &= (x == x) | (y == y)
            for i, j in np.argwhere(different)[:1]:
                return int(i) * rows, int(j) * cols
    return None


def _same_memory(a: Any, b: Any) -> bool:
    same_type = a.dtype == b.dtype and a.shape == b.shape  # responses that are absent refuse here
    if a is b or not same_type:
        return a is b
    if isinstance(a, DeviceMatrix) and isinstance(b, DeviceMatrix):
        return a.array is b.array
    if isinstance(a, LazyMatrix) and isinstance(b, LazyMatrix):
        stamp = a.source.stamp()
        return stamp is not None and stamp == b.source.stamp()
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return False
    return a.strides == b.strides and a.__array_interface__["data"] == b.__array_interface__["data"]


def _by_appearance(codes: np.ndarray) -> np.ndarray:
    """Codes renumbered in order of appearance, so that the names of the groups do not matter."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse])


def _check_nested(a: Fit, b: Fit, k: int) -> int:
    """Refuse unless b, fit k + 1, holds a, fit k, and more; returns how many fixed effects it adds."""
    pair = f"fit {k} and fit {k + 1}"
    outside_b, outside_a = _outside(a, b), _outside(b, a)
    lost, gained = (terms_outside(one.design.random, other.design.random) for one, other in ((a, b), (b, a)))
    more_random = b.model.family.n_theta - a.model.family.n_theta
    if lost and gained:
        raise ValueError(
            f"{pair} are not nested: fit {k + 1} has not the random term {lost[0].label} of fit {k}, which has not "
            f"its {gained[0].label}; compare their aic or bic, from fits by ML."
        )
    if not outside_b and not outside_a and more_random == 0:
        raise ValueError(f"{pair} are the same model, so there is nothing to compare; change one of them.")
    if not outside_b and more_random >= 0:
        return b.design.n_fixef - a.design.n_fixef
    if not outside_a and more_random <= 0:
        raise ValueError(
            f"{pair} are in the wrong order: fit {k} has {a.n_params} parameters and holds fit {k + 1} with "
            f"{b.n_params}; swap them, the smaller model goes first."
        )
    if outside_b and outside_a:
        why = f"fit {k + 1} has not the column {outside_b[0]!r} of fit {k}, which has not its {outside_a[0]!r}"
    else:
        fixed, random = (k, k + 1) if outside_b else (k + 1, k)
        column = (outside_b + outside_a)[0]
        why = f"fit {random} has groups, which fit {fixed} has not, but not the column {column!r} of fit {fixed}"
    raise ValueError(
        f"{pair} are not nested: {why}; add what is missing to the larger model, or compare their aic "
        "or bic, from fits by ML."
    )


def _outside(a: Fit, b: Fit) -> list[str]:
    """Names of the columns of a's X that b's X does not span."""
    Q = np.linalg.qr(make_columns(b.design.X).unit).Q
    X = make_columns(a.design.X)
    # A centred column is in the span if the column and what was subtracted from it are.
    left = X.unit - Q @ (Q.T @ X.unit)
    return [name for name, norm in zip(a.names, np.linalg.norm(left, axis=0), strict=True) if norm > RANK_TOL]


def _same_weights(a: Any, b: Any) -> bool:
    """Whether weights (n_obs, m) are the same."""
    return a is b or (a.shape == b.shape and bool(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)))
