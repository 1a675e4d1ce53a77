"""Coordinates of labelled arrays as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

try:
    import pandas as pd
    import xarray as xr
except ImportError as error:
    raise ImportError('labelled responses need xarray: pip install "jaxlmm[xarray]"') from error

from jaxlmm.sources.table import plain_column

__all__ = ["coordinate", "coords_along"]


def coords_along(Y: xr.DataArray, dim: Hashable) -> pd.DataFrame:
    """The coordinates of Y that have this dimension alone, a column each; of a MultiIndex its levels.

    Columns keep the type of the coordinate: categories are those of pandas, or what the attribute
    ``categories`` says (see :func:`coordinate`).

    Raises
    ------
    ValueError
        A value that is none of the ``categories``.
    """
    names = [name for name in Y.coords if Y[name].dims == (dim,)]
    if isinstance(Y.indexes.get(dim), pd.MultiIndex):
        names.remove(dim)
    return pd.DataFrame({name: _column(Y[name]) for name in names}, index=pd.RangeIndex(Y.sizes[dim]))


def coordinate(column: pd.Series, dim: Hashable) -> xr.Variable:
    """A column of a table as a coordinate that every store holds, and that :func:`coords_along` reads back.

    Categories are their values; the attribute ``categories`` keeps their order, ``ordered`` whether
    it means something, 1 or 0.
    """
    column = plain_column(column)
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return xr.Variable((dim,), np.asarray(column))
    categories = column.cat.categories.tolist()
    if all(isinstance(v, bool) for v in categories):
        categories = [int(v) for v in categories]  # netCDF has no attributes of bools
    attrs = {"categories": categories, "ordered": int(column.cat.ordered)}
    return xr.Variable((dim,), np.asarray(column), attrs)


def _column(coord: xr.DataArray) -> Any:
    """The values of a coordinate as a column."""
    index = coord.indexes.get(coord.name)
    if isinstance(index, pd.MultiIndex):
        index = index.get_level_values(coord.name)
    values = coord.data if index is None else index.array
    if not isinstance(values, pd.api.extensions.ExtensionArray):
        values = coord.to_numpy()
    if "categories" not in coord.attrs or isinstance(values, pd.Categorical):
        return values
    given = coord.attrs["categories"]
    categories = list(given) if isinstance(given, (list, tuple)) else np.atleast_1d(given).tolist()
    if values.dtype.kind == "b":
        categories = [bool(v) for v in categories]
    lost = np.flatnonzero(~(pd.Series(values).isin(categories) | pd.isna(values)))
    if len(lost):
        raise ValueError(
            f"coordinate {coord.name!r} has the value {values[lost[0]]!r} in row {lost[0]}, which is none of its "
            f"attribute categories, {', '.join(map(repr, categories[:8]))}; mend the attribute, or drop it."
        )
    return pd.Categorical(values, categories=categories, ordered=bool(coord.attrs.get("ordered", False)))
