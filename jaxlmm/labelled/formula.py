"""Formulas for labelled arrays: the variables come from a table, or from the array's own coordinates."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import pandas as pd
import xarray as xr

from jaxlmm.design.rows import check_rows, row_labels
from jaxlmm.formula.data import table_rows, table_weights
from jaxlmm.formula.formula import FormulaDesign, prepare_formula
from jaxlmm.labelled.data import check_dims, coords_along
from jaxlmm.labelled.labelled import fit_dataarray
from jaxlmm.results.results import Fit
from jaxlmm.sources.table import as_frame

__all__ = ["labelled_formula", "lmm_dataarray"]


def lmm_dataarray(
    formula: str, Y: xr.DataArray, data: Any = None, *, obs_dim: Hashable, weights: Any = None, **options: Any
) -> Fit:
    """Fit a formula to every cell of a labelled array; see :func:`jaxlmm.lmm`.

    Parameters
    ----------
    formula : str
        Without a response: ``"age * cond + (1 | subject)"``.
    Y : DataArray
        Dimensions other than ``obs_dim`` are responses.
    data : DataFrame, or what makes one, optional
        The variables, one row an observation, in Y's order. Default: Y's coordinates along
        ``obs_dim``; those with pandas' categories, or with the attribute ``categories``, are
        factors with their levels in that order.
    obs_dim : hashable
        Dimension of the observations.
    weights : str, array-like (n_obs,), or function, optional
        As in :func:`jaxlmm.fit_dataarray`; a text is the name of one of the variables.
    **options
        ``method``, ``df``, ``missing`` as in :func:`jaxlmm.fit`.

    Raises
    ------
    ValueError
        A formula with a response; different numbers of rows; an index of ``data``, or a column
        with the name of ``obs_dim``, that holds the labels of Y in another order; what ``lmm`` and
        ``fit_dataarray`` raise.
    """
    made, weights = labelled_formula(formula, Y, data, obs_dim, weights)
    found = fit_dataarray(
        made.X, Y, random=made.random_terms, obs_dim=obs_dim, weights=weights, names=made.names,
        terms=made.structure, **options,
    )  # fmt: skip
    return dataclasses.replace(found, source=made)


def labelled_formula(
    formula: str, Y: xr.DataArray, data: Any, obs_dim: Hashable, weights: Any = None
) -> tuple[FormulaDesign, Any]:
    """The formula applied to a table, or to Y's coordinates; Y's values are not read. Errors as above.

    Returns
    -------
    design : FormulaDesign
    weights : array-like (n_obs,), function, or None
        In Y's order, without labels of their own.
    """
    check_dims(Y, obs_dim, "jaxlmm.lmm")
    frame = coords_along(Y, obs_dim) if data is None else as_frame(data)
    if len(frame) != Y.sizes[obs_dim]:
        raise ValueError(
            f"data has {len(frame)} rows, Y has {Y.sizes[obs_dim]} along {obs_dim!r}; they must have the same rows."
        )
    if data is not None:
        _check_order(frame, table_rows(data, frame), Y, obs_dim)
    made = prepare_formula(formula, frame)
    if made.response is not None:
        raise ValueError(f"formula '{formula}' names a response, but the responses are Y; leave it out.")
    if weights is not None and not callable(weights):
        check_rows(weights=weights, Y=row_labels(Y, obs_dim))
        weights = table_weights(weights, frame if data is not None else dict(frame))
    return made, weights


def _check_order(frame: Any, rows: Any, Y: xr.DataArray, dim: Hashable) -> None:
    """Refuse a table that says, by its index or a column of labels, that its rows are in another order."""
    labels = row_labels(Y, dim)
    check_rows(data=rows, Y=labels)
    by_index = rows is not None and not isinstance(rows.index, pd.RangeIndex)
    if labels is None or dim not in frame.columns or (by_index and rows.index.equals(labels.index)):
        return
    column = pd.Index(frame[dim])
    if column.is_unique and not column.equals(labels.index) and column.isin(labels.index).all():
        raise ValueError(
            f"column {dim!r} of data holds the labels of Y in another order; give "
            f"data.set_index({dim!r}).loc[Y.indexes[{dim!r}]], or rename the column if rows match by position."
        )
