"""What a ``Fit`` computes on request, for complete and incomplete responses alike."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxlmm.design.random import parameter_labels
from jaxlmm.design.sequential import is_alone, type12_contrasts
from jaxlmm.design.terms import TermStructure, type3_contrasts
from jaxlmm.families.base import Modes, Provider
from jaxlmm.families.kept import KeptCurves
from jaxlmm.families.patterns import missing_mask, patterns
from jaxlmm.inference import effects
from jaxlmm.inference.anova import Anova, anova
from jaxlmm.inference.estimates import Estimates
from jaxlmm.inference.intervals import Profile, profile_intervals

__all__ = [
    "fit_anova", "fit_estimates", "fit_modes", "fit_profile", "fixed_variance", "group_sizes", "mean_weight",
    "random_part", "random_variance",
]  # fmt: skip

# Responses whose weights are looked at together.
CHUNK = 1024


def fit_estimates(fit: Any) -> Estimates:
    """``Estimates`` of a ``Fit``."""
    family, reml = fit.model.family, fit.method == "REML"
    phi = family.phi(fit.theta)
    where, shared = np.flatnonzero(fit.own_design), np.flatnonzero(~fit.own_design)
    parts: list[tuple[np.ndarray, Provider]] = [(shared, family)] if len(shared) else []
    if len(where):
        parts += _own_parts(fit, where, phi[where])
    return Estimates(
        tuple(parts), family.basis.columns, fit.names, family.sizes, fit.coef, fit.theta, phi, fit.sigma2,
        fit.hessian, fit.n_used, reml,
    )  # fmt: skip


def _own_parts(fit: Any, where: np.ndarray, phi: np.ndarray) -> list[tuple[np.ndarray, Provider]]:
    """Providers of the responses ``where``, which have designs of their own, and phi (len(where), k)."""

    anew, reml = fit.model.family.incomplete, fit.method == "REML"
    known = np.zeros(len(where), dtype=bool)
    if fit.known is not None:
        kept = fit.known.at(where)
        known = (kept.phi == phi).all(axis=1) & np.isfinite(kept.l1).all(axis=1)
    parts: list[tuple[np.ndarray, Provider]] = []
    if known.any():
        some = np.flatnonzero(known)
        value = fit.se_gls[where[some]] ** 2 / fit.sigma2[where[some], None]
        compute = functools.partial(anew, fit.responses, where[some], phi[some], reml=reml)
        parts.append((where[some], KeptCurves(kept.at(some), value, compute)))
    if not known.all():
        some = np.flatnonzero(~known)
        found = anew(fit.responses, where[some], phi[some], reml=reml)
        parts += [(where[some[at]], provider) for at, provider in found]
    return parts


def fit_anova(fit: Any, structure: TermStructure, kind: int) -> Anova:
    """Table of type ``kind`` of a ``Fit`` whose columns of X make these terms.

    Types 1 and 2 ask what a column adds to others, of the rows that a response has; and so does type 3 of one term.
    """
    if kind == 3 and not is_alone(structure):
        return anova(fit.estimates, type3_contrasts(structure, fit.names), fit.df_method, kind)
    X, where = fit.design.X, np.flatnonzero(fit.incomplete)
    shared = type12_contrasts(structure, X, kind)
    found = anova(fit.estimates, shared, fit.df_method, kind)
    if not len(where):
        return found
    own = {name: np.broadcast_to(L, (len(where), *L.shape)).copy() for name, L in shared.items()}
    for rows, columns in patterns(missing_mask(fit.Y, where)):
        for name, L in type12_contrasts(structure, X[rows], kind).items():
            own[name][columns] = L
    part = anova(fit.select(where).estimates, own, fit.df_method, kind)
    for name in ("statistic", "df_den", "pvalue"):
        getattr(found, name)[where] = getattr(part, name)
    return found


def fit_modes(fit: Any) -> tuple[Modes, ...]:
    """Conditional modes of every random term."""
    where = np.flatnonzero(fit.own_design)
    reml = fit.method == "REML"
    return tuple(fit.model.family.modes(fit.responses, fit.coef, fit.theta, incomplete=where, reml=reml))


def fit_profile(fit: Any, level: float) -> Profile:
    """Profile likelihood intervals of a ``Fit``."""
    labels = parameter_labels(fit.design.random)
    where = np.flatnonzero(fit.own_design)
    return profile_intervals(fit.model.family, fit.responses, fit.converged, where, level, labels)


def fixed_variance(fit: Any) -> np.ndarray:
    """Variance of the fixed part over the observations that each response has, (m,)."""
    basis, X = fit.model.family.basis, fit.design.X
    # What all rows share counts for nothing, and would cost digits.
    coords = basis.coords(fit.coef.T, basis.columns.product(X[:1], fit.coef.T)[0])
    rows = basis.contrast(X)
    fixed = effects.variance_parts(rows, coords.T)
    for i, there in _incomplete(fit):
        fixed[i] = effects.variance_parts(rows[there], coords.T[[i]])[0]
    return fixed


def random_variance(fit: Any) -> np.ndarray:
    """Mean of z'Sigma z over the observations of each response, summed over the random terms, (m,).

    Johnson (2014, Methods in Ecology and Evolution 5:944); of an intercept its variance.
    """
    total = np.zeros(fit.n_responses)
    for term, V in zip(fit.design.random, fit.varcorr.values(), strict=True):
        if term.is_intercept:
            total += V[:, 0, 0]
            continue
        gram = np.broadcast_to(term.Z.T @ term.Z / len(term.Z), V.shape).copy()
        for i, there in _incomplete(fit):
            gram[i] = term.Z[there].T @ term.Z[there] / there.sum()
        total += np.einsum("mij,mij->m", V, gram)
    return total


def random_part(modes: np.ndarray, codes: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """Z b of one term for rows with these levels, (rows, m)."""
    out = np.zeros((len(codes), len(modes)))
    for j in range(Z.shape[1]):
        part = modes[:, codes, j].T
        out += part if np.all(Z[:, j] == 1) else Z[:, j, None] * part
    return out


def mean_weight(fit: Any) -> np.ndarray:
    """Mean weight of the observations that each response has, (m,)."""
    if fit.weights is not None:
        return _mean_own_weight(fit)
    w = fit.design.weights
    if w is None:
        return np.ones(fit.n_responses)
    found = np.full(fit.n_responses, np.mean(w))
    for i, there in _incomplete(fit):
        found[i] = np.mean(w[there])
    return found


def _mean_own_weight(fit: Any) -> np.ndarray:
    """As :func:`mean_weight`, of weights of each response's own."""
    found = np.full(fit.n_responses, np.nan)
    responses, where = fit.responses, np.flatnonzero(fit.own_design)
    for start in range(0, len(where), CHUNK):
        at = where[start : start + CHUNK]
        found[at] = responses[:, at].counting().sum(axis=0) / fit.n_used[at]
    return found


def group_sizes(fit: Any) -> np.ndarray:
    """How many observations of each group each response was fitted to, (m, G)."""
    if not fit.design.random:
        return np.zeros((fit.n_responses, 0), dtype=np.int64)
    grouping = fit.design.random[0]
    sizes = np.tile(grouping.counts, (fit.n_responses, 1))
    for i, there in _incomplete(fit):
        sizes[i] = np.bincount(grouping.codes[there], minlength=len(grouping.levels))
    return sizes


def _incomplete(fit: Any) -> Iterator[tuple[int, np.ndarray]]:
    """The incomplete responses, and which observations each has, (n_obs,)."""
    for i in np.flatnonzero(fit.incomplete):
        yield int(i), ~np.isnan(fit.Y[:, i])
