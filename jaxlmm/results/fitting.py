"""Responses in memory, or read block by block, to a ``Fit``: the rooms called in order, and the one float64 scope."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlmm._types import Status, float64_scope
from jaxlmm.design.arrays import response_matrix
from jaxlmm.design.design import make_design
from jaxlmm.design.rows import check_rows
from jaxlmm.design.terms import make_terms_structure
from jaxlmm.engine.block import BlockFitter, Model, empty_results
from jaxlmm.engine.incomplete import fit_incomplete
from jaxlmm.engine.stream import stream_blocks
from jaxlmm.engine.stream_device import fit_on_device
from jaxlmm.families.intercept.reduce import design_reducer
from jaxlmm.families.own.patterns import MIN_SHARED, missing_mask, patterns
from jaxlmm.families.own.reduce import OwnDesign
from jaxlmm.results.options import FitOptions
from jaxlmm.results.results import Fit
from jaxlmm.runtime.device import DeviceMatrix
from jaxlmm.sources.lazy import LazyMatrix

__all__ = ["fit_model", "make_model"]

# Columns of one pattern that are copied together.
COLUMNS_AT_ONCE = 8192
DEFAULT = FitOptions()


def make_model(
    X: Any,
    groups: Any = None,
    *,
    names: Sequence[str] | None = None,
    group_name: str | None = None,
    weights: Any = None,
    terms: Any = None,
    random: Any = None,
) -> Model:
    """All the work that depends on X, groups and weights only; parameters and errors as in :func:`jaxlmm.fit`."""
    if random is not None:
        raise ValueError("random must be None: what is fitted so far is one random intercept; give groups.")
    indexes = check_rows(X=X, groups=groups, weights=weights)
    design = make_design(X, groups, names, weights)
    if terms is not None:
        constant = np.flatnonzero((design.X == design.X[0]).all(axis=0)).tolist()
        design = dataclasses.replace(design, terms=make_terms_structure(terms, design.names, constant))
    if group_name is not None:
        design = dataclasses.replace(
            design, random=tuple(dataclasses.replace(g, name=str(group_name)) for g in design.random)
        )
    return Model(design, design_reducer(design), indexes)


def fit_model(
    model: Model,
    Y: Any,
    options: FitOptions = DEFAULT,
    *,
    response_names: Sequence[str] | None = None,
    source: Any = None,
) -> Fit:
    """Fit a model to Y, a matrix or what makes one.

    Parameters
    ----------
    model : Model
    Y : array-like, (n_obs,) or (n_obs, m)
        See :func:`jaxlmm.design.arrays.response_matrix`.
    options : FitOptions
    response_names : sequence of str, optional
    source : FormulaDesign, optional
        What X was made with.
    """
    known = dict(model.indexes)
    check_rows(X=known.get("X"), Y=Y, groups=known.get("groups"), weights=known.get("weights"))
    matrix, given_names = response_matrix(Y, model.design.n_obs, response_names)
    out = _fit_matrix(model, matrix, options.method, options.missing)
    return Fit(
        design=model.design, method=options.method, df_method=options.df, **out,
        Y=matrix, reducer=model.reducer, given_names=given_names, source=source,
    )  # fmt: skip


def _fit_matrix(model: Model, Y: Any, method: str, missing: str) -> dict[str, np.ndarray]:
    """All columns of Y, wherever they are."""
    if isinstance(Y, LazyMatrix):
        m = Y.shape[1]
        out = empty_results(m, model.design.n_fixef) | {"n_used": np.empty(m, dtype=int)}

        def store(columns: np.ndarray, part: dict[str, np.ndarray]) -> None:
            for name, value in part.items():
                out[name][columns] = value

        Y.each_block(lambda block: _fit_matrix(model, block, method, missing), store)
        return out
    out = _fit_columns(model, Y, method)
    out["n_used"] = np.full(Y.shape[1], model.design.n_obs)
    if missing == "drop":
        _fit_incomplete(model, Y, method, out)
    return out


def _fit_columns(model: Model, Y: np.ndarray | DeviceMatrix, method: str) -> dict[str, np.ndarray]:
    """All columns of Y on one design; a column with NaN is not fitted."""
    out = empty_results(Y.shape[1], model.design.n_fixef)
    if isinstance(Y, DeviceMatrix):
        left = np.flatnonzero(fit_on_device(model, Y, method, out))
        for at, columns in Y.fetch(left):
            for name, value in _fit_columns(model, columns, method).items():
                out[name][left[at]] = value
        return out
    with float64_scope():
        fitter = BlockFitter.make(model, method, Y.shape[1])
    stream_blocks(model.reducer, Y, fitter.width, fitter.start, functools.partial(fitter.store, out))
    return out


def _fit_incomplete(model: Model, Y: np.ndarray, method: str, out: dict[str, np.ndarray]) -> None:
    """Fit the columns that hold NaN, each to the rows it has, into ``out``."""
    where = np.flatnonzero(out["status"] == Status.NONFINITE) if Y.dtype.kind == "f" else np.zeros(0, dtype=int)
    if not len(where):
        return
    absent = missing_mask(Y, where)
    some = absent.any(axis=0)
    if not some.any():
        return
    if not some.all():
        where, absent = where[some], absent[:, some]
    alone = np.ones(len(where), dtype=bool)
    for rows, columns in patterns(absent, MIN_SHARED):
        if not rows.any():
            continue
        alone[columns] = False
        try:
            design = model.design.take(rows)
            shared = Model(design, design_reducer(design))
        except ValueError:
            out["status"][where[columns]] = Status.TOO_FEW
        else:
            for start in range(0, len(columns), COLUMNS_AT_ONCE):
                at = where[columns[start : start + COLUMNS_AT_ONCE]]
                part = _fit_columns(shared, Y[np.ix_(rows, at)], method)
                for name, value in part.items():
                    out[name][at] = value
        out["n_used"][where[columns]] = rows.sum()
    rest = where[alone]
    if len(rest):
        found = fit_incomplete(OwnDesign.make(model.design, model.reducer), Y, rest, method == "REML")
        for name, value in found.items():
            out[name][rest] = value
