"""What a labelled array says about a fit without its values."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    import pandas as pd
    import xarray as xr
except ImportError as error:
    raise ImportError('labelled responses need xarray: pip install "jaxlmm[xarray]"') from error

from jaxlmm.design.rows import check_rows, row_labels
from jaxlmm.sources.table import plain_column
from jaxlmm.tabular.dataset import RESERVED
from jaxlmm.tabular.labels import Labels

__all__ = ["LabelledProblem", "check_dims", "coordinate", "coords_along", "labelled_problem"]


@dataclass(frozen=True, eq=False)
class LabelledProblem:
    """All that a labelled Y says about the fit but its values.

    Attributes
    ----------
    X, groups, weights : array-like (n_obs, ...), or None
        As :func:`jaxlmm.prepare` takes them: names of coordinates are looked up, functions called.
    group_name : str or None
    obs_dim : hashable
    axis, n_obs : int
        Position and length of ``obs_dim`` in Y.
    dims, shape : tuple
        Dimensions of the responses and their lengths, in Y's order.
    coords : xarray Coordinates
        All coordinates of the responses.
    units : str or None
        Of the responses.
    """

    X: Any
    groups: Any
    weights: Any
    group_name: str | None
    obs_dim: Hashable
    axis: int
    n_obs: int
    dims: tuple[Hashable, ...]
    shape: tuple[int, ...]
    coords: Any
    units: str | None

    @property
    def labels(self) -> Labels:
        """Of the responses."""
        return Labels.of_coords(self.dims, self.shape, self.coords, self.units)


def labelled_problem(
    X: Any,
    Y: xr.DataArray,
    groups: Any = None,
    *,
    obs_dim: Hashable,
    weights: Any = None,
    group_name: str | None = None,
) -> LabelledProblem:
    """Check the labels of Y against the model; parameters and errors as in :func:`jaxlmm.fit_dataarray`.

    Reads the coordinates of Y, never its values.
    """
    check_dims(Y, obs_dim, "jaxlmm.fit")
    n = Y.sizes[obs_dim]
    along = coords_along(Y, obs_dim)
    group_name = groups if isinstance(groups, str) and group_name is None else group_name
    data = {"X": X, "groups": groups, "weights": weights}
    for what, value in data.items():
        check_rows(**{what: value, "Y": row_labels(Y, obs_dim)})
        data[what] = value = _from_coords(value, what, along, obs_dim)
        if hasattr(value, "__len__") and len(value) != n:
            raise ValueError(
                f"{what} has {len(value)} rows, Y has {n} along {obs_dim!r}; they must have the same rows."
            )
    dims = tuple(dim for dim in Y.dims if dim != obs_dim)
    kept = Y.coords.to_dataset().drop_vars([name for name in Y.coords if obs_dim in Y[name].dims])
    taken = [name for name in (*dims, *kept.coords) if name in RESERVED]
    if taken:
        raise ValueError(f"Y has a dimension or coordinate {taken[0]!r}, which the results use; rename it.")
    axis = Y.get_axis_num(obs_dim)
    assert isinstance(axis, int)  # one dimension, one position
    shape, units = tuple(Y.sizes[dim] for dim in dims), Y.attrs.get("units")
    return LabelledProblem(
        **data, group_name=group_name, obs_dim=obs_dim, axis=axis, n_obs=n, dims=dims, shape=shape,
        coords=kept.coords, units=None if units is None else str(units),
    )  # fmt: skip


def check_dims(Y: Any, obs_dim: Hashable, otherwise: str) -> None:
    """Refuse what is no DataArray with this dimension; ``otherwise`` is the function for plain arrays."""
    if not isinstance(Y, xr.DataArray):
        raise ValueError(f"Y must be an xarray DataArray, found {type(Y).__name__}; arrays go to {otherwise}.")
    if obs_dim not in Y.dims:
        raise ValueError(f"Y has no dimension {obs_dim!r}; its dimensions are {', '.join(map(repr, Y.dims))}.")


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


def _from_coords(value: Any, what: str, along: pd.DataFrame, dim: Hashable) -> Any:
    """What a function makes of the coordinates, or the coordinate of that name; else the value itself."""
    if callable(value):
        return value(along.copy())
    if not isinstance(value, str):
        return value
    if value not in along.columns:
        known = ", ".join(map(repr, along.columns))
        raise ValueError(f"{what} is {value!r}, which is no coordinate of Y along {dim!r}; these are: {known}.")
    column = along[value]
    return column.array if isinstance(column.dtype, pd.CategoricalDtype) else column.to_numpy()
