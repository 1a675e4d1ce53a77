"""Whether responses are those of a fit from a file."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxlmm.design.arrays import numeric, response_matrix
from jaxlmm.design.dropped import taken
from jaxlmm.inference.estimates import contrast_curves
from jaxlmm.results.fitting import weighted_matrix
from jaxlmm.results.results import Fit
from jaxlmm.sources.weighted import values_of
from jaxlmm.storage.absent import AbsentWeights, AbsentY, checksums

__all__ = ["check_responses", "check_weights"]

# Responses that are read at once.
CHUNK = 1024
# What counts as zero, relative to the residuals, and to the values that are subtracted for them.
RELATIVE, ROUNDING = 1e-6, 1e-12


def check_responses(Y: Any, fit: Fit, known: np.ndarray | None) -> Fit:
    """The fit with its responses.

    Parameters
    ----------
    Y : array-like, (n_obs, m)
    fit : Fit
        With its responses, or without.
    known : ndarray, (m,), or None
        Checksums of the responses. With them ``Y`` must be the same bit by bit. Without, every
        fitted response must miss the same observations and solve the equations of its fit: with the
        stored coefficients and variance ratio, X'W(y - Xb - Zu) = 0, and the residual variance is
        the stored one. Another response with the very same estimates (rows exchanged that have the
        same covariates and group) passes, and those that were not fitted are not looked at.

    Raises
    ------
    ValueError
        Another shape; responses that are not what was fitted.

    References
    ----------
    The equations: Henderson (1950), Ann Math Stat 21:309-310.
    """
    matrix = response_matrix(_kept(Y, fit), fit.n_obs)[0]
    if matrix.shape[1] != fit.n_responses:
        raise ValueError(
            f"Y has {matrix.shape[1]} columns, the fit has {fit.n_responses} responses; give the same array."
        )
    if fit.weights is not None and not isinstance(fit.weights, AbsentWeights):
        matrix = values_of(weighted_matrix(matrix, fit.weights))
    whole = Fit(**{field.name: getattr(fit, field.name) for field in dataclasses.fields(fit)} | {"Y": matrix})
    if known is not None:
        same = checksums(matrix) == known
    else:
        starts = range(0, fit.n_responses, CHUNK)
        same = np.concatenate([_solved(whole, fit.Y, np.arange(k, min(k + CHUNK, fit.n_responses))) for k in starts])
    different = np.flatnonzero(~same)
    if len(different):
        type_ = "" if known is None else f" or type (now {matrix.dtype})"
        raise ValueError(
            f"Y is not what was fitted: {len(different)} responses, the first '{fit.response_names[different[0]]}', "
            f"differ in their values{type_}; give the same array."
        )
    return whole


def check_weights(weights: Any, fit: Fit) -> Fit:
    """The fit with the weights of each response's own.

    Raises
    ------
    ValueError
        The responses have none; another shape; weights that do not give the standard errors of the fit.
    """
    if fit.weights is None:
        raise ValueError("weights are given, but the responses of this fit have none of their own; leave them out.")
    W = np.asarray(numeric(_kept(weights, fit), "weights"))
    W = W[:, None] if W.ndim == 1 else W.reshape(len(W), -1)
    if W.shape != (fit.n_obs, fit.n_responses):
        raise ValueError(
            f"weights has shape {W.shape}, the fit has {fit.n_obs} observations of {fit.n_responses} responses; give "
            "the same array."
        )
    whole = dataclasses.replace(fit, weights=W)
    C = contrast_curves(whole.estimates, np.eye(fit.design.n_fixef)).value
    with np.errstate(invalid="ignore"):
        error = np.abs(np.sqrt(C * fit.sigma2[:, None]) - fit.se_gls)
        different = np.flatnonzero(fit.converged & ~(error <= RELATIVE * fit.se_gls).all(axis=1))
    if len(different):
        raise ValueError(
            f"weights are not what was fitted: {len(different)} responses, the first "
            f"'{fit.response_names[different[0]]}', have other standard errors; give the same array."
        )
    return whole


def _kept(values: Any, fit: Fit) -> Any:
    """The rows of the design, of values for all rows that were given."""
    dropped = fit.design.dropped
    if dropped is None or not hasattr(values, "__len__") or len(values) != dropped.n_given:
        return values
    return taken(values, dropped.kept)


def _solved(whole: Fit, stored: Any, where: np.ndarray) -> np.ndarray:
    """Whether each of some responses gives its fit, (len(where),)."""
    part = whole.select(where)
    values = np.asarray(part.Y, dtype=np.float64)
    absent = np.isnan(values)
    same = ~part.converged
    fitted = np.flatnonzero(part.converged & (absent.sum(axis=0) == part.n_obs - part.n_used))
    if isinstance(stored, AbsentY):
        alike = np.ones(len(where), dtype=bool)
        for j in fitted[part.incomplete[fitted]]:
            bits = np.unpackbits(stored.bits[:, stored.column[where[j]]], count=part.n_obs)
            alike[j] = np.array_equal(bits.astype(bool), absent[:, j])
        fitted = fitted[alike[fitted]]
    if not len(fitted):
        return same
    part, values, absent = part.select(fitted), values[:, fitted], absent[:, fitted]
    X, weights = part.design.X, part.design.weights
    W = np.where(absent, 0.0, 1.0 if weights is None else weights[:, None])
    if part.weights is not None:
        W = np.where(absent, 0.0, np.asarray(part.weights, dtype=np.float64))
    values = np.where(absent, 0.0, values)
    fixed = X @ part.coef.T
    marginal = values - fixed
    residual = np.where(absent, 0.0, part.resid())
    size = np.abs(values) + np.abs(X) @ np.abs(part.coef).T
    gradient, scale = X.T @ (W * residual), np.abs(X).T @ (W * (RELATIVE * np.abs(residual) + ROUNDING * size))
    n_free = part.n_used - (part.design.n_fixef if part.method == "REML" else 0)
    variance = (W * marginal * residual).sum(axis=0) / n_free
    slack = RELATIVE * part.sigma2 + ROUNDING * (W * size * np.abs(residual)).sum(axis=0) / n_free
    same[fitted] = (np.abs(gradient) <= scale).all(axis=0) & (np.abs(variance - part.sigma2) <= slack)
    return same
