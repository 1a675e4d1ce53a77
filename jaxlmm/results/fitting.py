"""Responses in memory, or read block by block, to a ``Fit``: the rooms called in order, and the one float64 scope."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlmm._types import Status
from jaxlmm.design.arrays import numeric, response_matrix
from jaxlmm.design.design import make_design
from jaxlmm.design.dropped import DroppedRows
from jaxlmm.design.rows import check_rows
from jaxlmm.design.terms import make_terms_structure
from jaxlmm.engine.finish import empty_results
from jaxlmm.families.known import KnownCurves
from jaxlmm.families.registry import Model, make_family
from jaxlmm.results.options import FitOptions
from jaxlmm.results.results import Fit
from jaxlmm.runtime.device import DeviceMatrix
from jaxlmm.runtime.progress import progress
from jaxlmm.sources.lazy import LazyMatrix
from jaxlmm.sources.sources import open_source
from jaxlmm.sources.weighted import WeightedMatrix, WeightedSource, values_of
from jaxlmm.tabular.labels import Labels

__all__ = ["fit_model", "make_model", "weighted_matrix"]

DEFAULT = FitOptions()
# What an interrupted fit says.
KEPT = "Nothing is kept of it; with out='maps.zarr' a fit that was stopped goes on where it was."


def make_model(
    X: Any,
    groups: Any = None,
    *,
    names: Sequence[str] | None = None,
    group_name: str | None = None,
    weights: Any = None,
    terms: Any = None,
    random: Sequence[Any] | None = None,
    dropped: DroppedRows | None = None,
) -> Model:
    """All the work that depends on X, groups and weights only; parameters and errors as in :func:`jaxlmm.fit`."""
    indexes = check_rows(X=X, groups=groups, weights=weights)
    design = make_design(X, groups, names, weights, random=random)
    if terms is not None:
        constant = np.flatnonzero((design.X == design.X[0]).all(axis=0)).tolist()
        design = dataclasses.replace(design, terms=make_terms_structure(terms, design.names, constant))
    if group_name is not None:
        design = dataclasses.replace(
            design, random=tuple(dataclasses.replace(g, name=str(group_name)) for g in design.random)
        )
    if dropped is not None:
        design = dataclasses.replace(design, dropped=dropped)
    return Model(make_family(design), indexes)


def fit_model(
    model: Model,
    Y: Any,
    options: FitOptions = DEFAULT,
    *,
    response_names: Sequence[str] | None = None,
    labels: Labels | None = None,
    source: Any = None,
    weights: Any = None,
    show: bool | None = False,
) -> Fit:
    """Fit a model to Y, a matrix or what makes one.

    Parameters
    ----------
    model : Model
    Y : array-like, (n_obs,) or (n_obs, m)
        See :func:`jaxlmm.design.arrays.response_matrix`.
    options : FitOptions
    response_names : sequence of str, optional
    labels : Labels, optional
        Dimensions and coordinates of the responses. Default: those of the columns of a matrix.
    source : FormulaDesign, optional
        What X was made with.
    weights : array-like, (n_obs, m), optional
        Of each response's own observations.
    show : bool, optional
        A bar, as :func:`jaxlmm.runtime.progress.progress` takes it.
    """
    known = dict(model.indexes)
    check_rows(X=known.get("X"), Y=Y, groups=known.get("groups"), weights=known.get("weights"))
    matrix, given_names = response_matrix(Y, model.design.n_obs, response_names)
    both: Any = matrix if weights is None else weighted_matrix(matrix, weights)
    with progress("Fit", both.shape[1], "responses", show, kept=KEPT):
        out, kept = _fit_matrix(model, both, options.method, options.missing)
    own = None if weights is None else weights_of(both)
    return Fit(
        design=model.design, method=options.method, df_method=options.df, **out,
        Y=values_of(both), model=Model(model.family), source=source, weights=own,
        labels=Labels.of_matrix(matrix.shape[1], given_names) if labels is None else labels, known=kept,
    )  # fmt: skip


def _fit_matrix(model: Model, Y: Any, method: str, missing: str) -> tuple[dict[str, np.ndarray], KnownCurves | None]:
    """All columns of Y, wherever they are; and what was kept of those that have designs of their own."""
    if isinstance(Y, LazyMatrix):
        sizes = Y.shape[1], model.design.n_fixef, model.family.n_theta
        out, kept = empty_results(*sizes), KnownCurves.empty(*sizes)

        def store(columns: np.ndarray, found: tuple[dict[str, np.ndarray], KnownCurves | None]) -> None:
            for name, value in found[0].items():
                out[name][columns] = value
            if found[1] is not None:
                kept.put(columns, found[1])

        Y.each_block(lambda block: _fit_matrix(model, block, method, missing), store)
        return out, None if np.isnan(kept.l1).all() else kept
    if isinstance(Y, WeightedMatrix):
        out, known = model.family.fit_columns(Y, method, keep=True)
        if missing == "refuse":
            _refuse(out, Y)
        return out, known
    return (
        model.family.fit_columns(Y, method, keep=True) if missing == "drop" else (model.family.fit(Y, method), None)
    )


def _refuse(out: dict[str, np.ndarray], Y: WeightedMatrix) -> None:
    """Take back the results of responses with NaN; a weight of 0 drops its row on purpose."""
    refused = (np.isnan(Y.Y) & ~(np.asarray(Y.weights) == 0)).any(axis=0)
    for array in out.values():
        array[refused] = np.nan if array.dtype.kind == "f" else array[refused]
    out["status"][refused] = Status.NONFINITE


def weighted_matrix(Y: Any, weights: Any) -> WeightedMatrix | LazyMatrix:
    """Responses (n_obs, m) with their weights, checked; read block by block where one of them is.

    Raises
    ------
    ValueError
        Another shape, no numbers, negative or infinite weights.
    """
    if isinstance(Y, DeviceMatrix):
        Y = np.asarray(Y)
    W = weights if isinstance(weights, LazyMatrix) else numeric(weights, "weights")
    if W.ndim == 1:
        W = W[:, None]
    if W.shape != Y.shape:
        raise ValueError(
            f"weights has shape {W.shape}, Y has {Y.shape}; need one weight per row, or one for each observation of "
            "each response."
        )
    if not (isinstance(Y, LazyMatrix) or isinstance(W, LazyMatrix)):
        return WeightedMatrix.make(Y, W)
    parts = [part.source if isinstance(part, LazyMatrix) else open_source(part) for part in (Y, W)]
    if len({part.shape for part in parts}) > 1:  # one of them as a matrix, the other with all its axes
        lazy = next(part for part in parts if len(part.shape) > 2)
        parts = [part if part is lazy else open_source(np.reshape(np.asarray(M), lazy.shape)) for part, M in zip(
            parts, (Y, W), strict=True)]  # fmt: skip
    return LazyMatrix.make(WeightedSource(*parts))


def weights_of(both: Any) -> Any:
    """The weights of :func:`weighted_matrix`, as they were given."""
    return both.weights if isinstance(both, WeightedMatrix) else LazyMatrix(both.source.weights, both.plan)
