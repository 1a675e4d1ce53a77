"""Formulas for labelled arrays: the variables come from a table, or from the array's own coordinates."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import xarray as xr

from jaxlmm.formula.formula import FormulaDesign, prepare_formula
from jaxlmm.labelled.data import check_dims, coords_along
from jaxlmm.labelled.labelled import LabelledFit, fit_dataarray

__all__ = ["labelled_formula", "lmm_dataarray"]


def lmm_dataarray(
    formula: str, Y: xr.DataArray, data: Any = None, *, obs_dim: Hashable, **options: Any
) -> LabelledFit:
    """Fit a formula to every cell of a labelled array; see :func:`jaxlmm.lmm`.

    Parameters
    ----------
    formula : str
        Without a response: ``"age * cond + (1 | subject)"``.
    Y : DataArray
        Dimensions other than ``obs_dim`` are responses.
    data : DataFrame, optional
        The variables, one row an observation, in Y's order. Default: Y's coordinates along
        ``obs_dim``.
    obs_dim : hashable
        Dimension of the observations.
    **options
        ``method``, ``df``, ``weights``, ``missing`` as in :func:`jaxlmm.fit`.

    Raises
    ------
    ValueError
        A formula with a response; different numbers of rows; what ``lmm`` and ``fit_dataarray``
        raise.
    """
    made = labelled_formula(formula, Y, data, obs_dim)
    found = fit_dataarray(
        made.X, Y, made.groups, obs_dim=obs_dim, group_name=made.group_name, names=made.names,
        terms=made.structure, **options,
    )  # fmt: skip
    return dataclasses.replace(found, fit=dataclasses.replace(found.fit, source=made))


def labelled_formula(formula: str, Y: xr.DataArray, data: Any, obs_dim: Hashable) -> FormulaDesign:
    """The formula applied to a table, or to Y's coordinates; Y's values are not read. Errors as above."""
    check_dims(Y, obs_dim, "jaxlmm.lmm")
    frame = coords_along(Y, obs_dim) if data is None else data
    if len(frame) != Y.sizes[obs_dim]:
        raise ValueError(
            f"data has {len(frame)} rows, Y has {Y.sizes[obs_dim]} along {obs_dim!r}; they must have the same rows."
        )
    made = prepare_formula(formula, frame)
    if made.response is not None:
        raise ValueError(f"formula '{formula}' names a response, but the responses are Y; leave it out.")
    return made
