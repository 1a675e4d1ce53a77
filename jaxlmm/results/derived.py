"""What a ``Fit`` computes on request, for complete and incomplete responses alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxlmm.engine.incomplete import cross_matrices, cross_modes
from jaxlmm.families.intercept.objective import make_terms
from jaxlmm.families.intercept.reduce import design_reducer
from jaxlmm.families.own.patterns import missing_mask, patterns
from jaxlmm.families.own.reduce import OwnDesign
from jaxlmm.inference import effects
from jaxlmm.inference.estimates import Estimates, Frame, basis_curve, information
from jaxlmm.inference.intervals import Profile, profile_intervals

__all__ = ["fit_estimates", "fit_modes", "fit_profile", "fixed_variance", "group_sizes", "mean_weight"]


def fit_estimates(fit: Any) -> Estimates:
    """``Estimates`` of a ``Fit``."""
    spectrum, reml = fit.reducer.spectrum, fit.method == "REML"
    terms = make_terms(spectrum, fit.n_obs, fit.method)
    shared = Estimates(
        spectrum, terms, fit.names, bool(fit.design.random),
        fit.coef, fit.lam, fit.sigma2, fit.curvature, fit.n_used, reml,
    )  # fmt: skip
    where = np.flatnonzero(fit.incomplete)
    if not len(where):
        return shared
    curve, info, frame = basis_curve(shared), information(shared), Frame.shared(spectrum.basis, fit.n_responses)
    found = cross_matrices(_own(fit), fit.Y, where, fit.lam[where], reml)
    for mine, theirs in zip(
        (curve.value, curve.slope, curve.bend, *info, frame.shift, frame.unit), found, strict=True
    ):
        mine[where] = theirs
    return dataclasses.replace(shared, matrices=curve, info=info, frame=frame)


def fit_modes(fit: Any) -> tuple[np.ndarray, np.ndarray]:
    """Modes of the groups and the groups' sizes, (m, G) each."""
    reml = fit.method == "REML"
    modes = effects.group_modes(fit.reducer, fit.Y, fit.coef, fit.lam)
    sizes = np.broadcast_to(fit.reducer.projection.sizes, modes.shape)
    where = np.flatnonzero(fit.incomplete)
    if len(where) and fit.design.random:
        sizes = sizes.copy()
        modes[where], sizes[where] = cross_modes(_own(fit), fit.Y, where, fit.lam[where], reml)
    return modes, sizes


def fit_profile(fit: Any, level: float) -> Profile:
    """Profile likelihood intervals of a ``Fit``; a design for every pattern of missing observations."""
    out = profile_intervals(fit.reducer, fit.Y, fit.converged & ~fit.incomplete, level)
    where = np.flatnonzero(fit.incomplete)
    for rows, columns in patterns(missing_mask(fit.Y, where)) if len(where) else ():
        at = where[columns]
        reducer = design_reducer(fit.design.take(rows))
        part = profile_intervals(reducer, fit.Y[np.ix_(rows, at)], np.ones(len(at), dtype=bool), level)
        out.group_sd[at], out.sigma[at], out.coef[at] = part.group_sd, part.sigma, part.coef
    return out


def fixed_variance(fit: Any) -> np.ndarray:
    """Variance of the fixed part over the observations that each response has, (m,)."""
    basis, X = fit.reducer.spectrum.basis, fit.design.X
    # What all rows share counts for nothing, and would cost digits.
    coords = basis.coords(fit.coef.T, basis.columns.product(X[:1], fit.coef.T)[0])
    rows = basis.contrast(X)
    fixed = effects.variance_parts(rows, coords.T)
    for i, there in _incomplete(fit):
        fixed[i] = effects.variance_parts(rows[there], coords.T[[i]])[0]
    return fixed


def mean_weight(fit: Any) -> np.ndarray:
    """Mean weight of the observations that each response has, (m,)."""
    w = fit.design.weights
    if w is None:
        return np.ones(fit.n_responses)
    found = np.full(fit.n_responses, np.mean(w))
    for i, there in _incomplete(fit):
        found[i] = np.mean(w[there])
    return found


def group_sizes(fit: Any) -> np.ndarray:
    """How many observations of each group each response was fitted to, (m, G)."""
    if not fit.design.random:
        return np.zeros((fit.n_responses, 0), dtype=np.int64)
    grouping = fit.design.random[0]
    sizes = np.tile(grouping.sizes, (fit.n_responses, 1))
    for i, there in _incomplete(fit):
        sizes[i] = np.bincount(grouping.codes[there], minlength=len(grouping.levels))
    return sizes


def _incomplete(fit: Any) -> Iterator[tuple[int, np.ndarray]]:
    """The incomplete responses, and which observations each has, (n_obs,)."""
    for i in np.flatnonzero(fit.incomplete):
        yield int(i), ~np.isnan(fit.Y[:, i])


def _own(fit: Any) -> OwnDesign:
    return OwnDesign.make(fit.design, fit.reducer)
