"""What a labelled array, or a store with names of its axes, says about the responses without their values."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from jaxlmm.design.rows import RowLabels, check_rows, row_labels
from jaxlmm.labelled.data import coords_along
from jaxlmm.runtime.arguments import shown
from jaxlmm.sources.lazy import lazy_matrix
from jaxlmm.sources.maps import in_memory
from jaxlmm.sources.table import plain_column
from jaxlmm.tabular.dataset import RESERVED
from jaxlmm.tabular.labels import Labels

__all__ = [
    "array_labels", "axis_labels", "check_order", "coordinate_values", "find_obs_dim", "obs_first",
    "stack_observations",
]  # fmt: skip

# The dimension of observations that lie along several.
STACKED = "obs"


def find_obs_dim(
    Y: xr.DataArray, obs_dim: Hashable, n_obs: int | None, of: str = "X", named: Collection[str] = ()
) -> Hashable:
    """The dimension of the observations.

    Parameters
    ----------
    Y : DataArray
    obs_dim : hashable, or None
        As the user says.
    n_obs : int or None
        Observations of what Y is fitted to, which ``of`` names, if known.
    named : collection of str
        Names that are those of coordinates along the observations, if they are names of coordinates.

    Raises
    ------
    ValueError
        No such dimension; without ``obs_dim``, none or several that can be meant.
    """
    lengths = ", ".join(f"{dim!r} ({size})" for dim, size in Y.sizes.items()) or "none"
    if obs_dim is not None:
        if obs_dim not in Y.dims:
            raise ValueError(f"obs_dim is {shown(obs_dim)}, which is no dimension of Y; these are {lengths}.")
        return obs_dim
    along = {Y[name].dims[0] for name in named if name in Y.coords and Y[name].ndim == 1}
    if len(along) == 1:
        return along.pop()
    if len(along) > 1:
        several = ", ".join(repr(dim) for dim in Y.dims if dim in along)
        raise ValueError(
            f"the names in the formula are coordinates along {several}; if the observations are their combinations, "
            f"say obs_dim=({several}), else which dimension holds them."
        )
    found = [dim for dim in Y.dims if n_obs is None or Y.sizes[dim] == n_obs]
    if len(found) == 1:
        return found[0]
    if n_obs is not None and not found:
        raise ValueError(
            f"no dimension of Y has length {n_obs}, the number of rows of {of}; its dimensions are {lengths}."
        )
    which = "" if n_obs is None else f" of length {n_obs}, the number of rows of {of}"
    raise ValueError(
        f"Y has {len(found)} dimensions{which}; say which holds the observations, obs_dim=...; the dimensions of Y "
        f"are {lengths}."
    )


def stack_observations(Y: xr.DataArray, dims: Sequence[Hashable]) -> tuple[xr.DataArray, Hashable]:
    """Y with the combinations of several dimensions as observations, the last of them varying fastest.

    Coordinates along any of them, or several, become coordinates along the observations, and so do their labels. Y is
    copied, but for a dask array, which stays one.

    Returns
    -------
    Y : DataArray
    dim : hashable
        The new dimension.

    Raises
    ------
    ValueError
        No such dimension, one twice; a store that is larger than what is read at once.
    """
    dims = tuple(dims)
    lengths = ", ".join(f"{dim!r} ({size})" for dim, size in Y.sizes.items()) or "none"
    unknown = [dim for dim in dims if dim not in Y.dims]
    if unknown or not dims:
        named = f"names {unknown[0]!r}, which is no dimension" if unknown else "names no dimension"
        raise ValueError(f"obs_dim {named} of Y; these are {lengths}.")
    if len(set(dims)) < len(dims):
        raise ValueError(f"obs_dim names a dimension twice: {shown(dims)}; leave one out.")
    if len(dims) == 1:
        return Y, dims[0]
    if Y.chunks is None and lazy_matrix(Y, dims[0]) is not None:
        raise ValueError(
            f"Y is a store of {Y.nbytes / 2**30:.2g} GB, which would be read whole to make observations of several "
            "dimensions; open it with dask, xarray.open_zarr(path, chunks={}), or rearrange it before."
        )
    multi = [dim for dim in dims if isinstance(Y.indexes.get(dim), pd.MultiIndex)]
    new: Hashable = STACKED
    while new in Y.dims or new in Y.coords:
        new = f"{new}_"
    stacked = Y.reset_index(multi).stack({new: dims}) if multi else Y.stack({new: dims})
    for name in Y.coords:
        if name in stacked.coords:
            stacked[name].attrs.update(Y[name].attrs)
    return stacked, new


def array_labels(Y: xr.DataArray, obs_dim: Hashable) -> Labels:
    """Labels of all dimensions but that of the observations; ValueError for names that the results use."""
    dims = tuple(dim for dim in Y.dims if dim != obs_dim)
    kept = Y.coords.to_dataset().drop_vars([name for name in Y.coords if obs_dim in Y[name].dims])
    taken = [name for name in (*dims, *kept.coords) if name in RESERVED]
    if taken:
        raise ValueError(f"Y has a dimension or coordinate {taken[0]!r}, which the results use; rename it.")
    units = Y.attrs.get("units")
    shape = tuple(Y.sizes[dim] for dim in dims)
    return Labels.of_coords(dims, shape, kept.coords, None if units is None else str(units))


def axis_labels(
    shape: Sequence[int],
    dims: Any = None,
    coords: Mapping[Hashable, Any] | None = None,
    stored: Sequence[str] | None = None,
) -> Labels:
    """Labels of the axes of responses, of lengths ``shape``.

    Parameters
    ----------
    dims, coords : optional
        As the user gives them. Default: the names ``stored`` with Y, or ``response``, or ``dim_1``,
        ``dim_2``, ...
    """
    shape = tuple(shape)
    if dims is None:
        dims = stored or (("response",) if len(shape) == 1 else tuple(f"dim_{i + 1}" for i in range(len(shape))))
    listed = isinstance(dims, (list, tuple)) and all(isinstance(dim, Hashable) for dim in dims)
    names = tuple(dims) if listed else (dims,)
    if not (listed or isinstance(dims, str)) or len(names) != len(shape) or len(set(names)) < len(names):
        raise ValueError(
            f"dims must be {len(shape)} different names, one for each axis of Y after the first; found {shown(dims)}."
        )
    dims = names
    if coords is not None and not isinstance(coords, Mapping):
        raise ValueError(f"coords must be a mapping of names to labels, as xarray takes it, found {shown(coords)}.")
    try:
        made = xr.DataArray(np.broadcast_to(np.int8(0), shape), dims=dims, coords=coords).coords
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"coords do not match Y, whose responses have the shape {shape} and dims {dims}: {error}"
        ) from None
    taken = [name for name in (*dims, *made) if name in RESERVED]
    if taken:
        raise ValueError(f"dims or coords have {taken[0]!r}, which the results use; rename it.")
    return Labels.of_coords(dims, shape, made)


def coordinate_values(value: Any, what: str, along: pd.DataFrame, Y: xr.DataArray, dim: Hashable) -> Any:
    """What a function makes of the coordinates along ``dim``, or the coordinate of that name; or the value itself.

    Raises
    ------
    ValueError
        No such coordinate; a function that changes the order of the rows.
    """
    if callable(value):
        made = value(along.copy())
        if not isinstance(made, (pd.DataFrame, pd.Series)):
            return made
        if made.index.equals(along.index):  # its rows are Y's, whatever labels these have
            labels = row_labels(Y, dim)
            return made if labels is None else made.set_axis(labels.index, axis=0)
        if len(made) == len(along) and made.index.isin(along.index).all():
            raise ValueError(
                f"{what}, as the function makes it, has the rows in another order than Y; keep their order."
            )
        return made
    if not isinstance(value, str):
        return value
    if value not in along.columns:
        known = ", ".join(map(repr, along.columns)) or "none"
        raise ValueError(f"{what} is {value!r}, which is no coordinate of Y along {dim!r}; these are: {known}.")
    column = along[value]
    return column.array if isinstance(column.dtype, pd.CategoricalDtype) else column.to_numpy()


def check_order(frame: pd.DataFrame, rows: RowLabels | None, Y: xr.DataArray, dim: Hashable) -> None:
    """Refuse a table that says, by its index, labels or coordinates, that its rows are in another order than Y's."""
    labels = row_labels(Y, dim)
    check_rows(data=rows, Y=labels)
    if labels is not None and labels.index.nlevels > 1:
        _check_levels(frame, labels.index)
    _check_coordinates(frame, Y, dim)
    by_index = rows is not None and not isinstance(rows.index, pd.RangeIndex)
    if (
        labels is None
        or dim not in frame.columns
        or (rows is not None and by_index and rows.index.equals(labels.index))
    ):
        return
    column = pd.Index(frame[dim])
    if column.is_unique and not column.equals(labels.index) and column.isin(labels.index).all():
        raise ValueError(
            f"column {dim!r} of data holds the labels of Y in another order; give "
            f"data.set_index({dim!r}).loc[Y.indexes[{dim!r}]], or rename the column if rows match by position."
        )


def _check_coordinates(frame: pd.DataFrame, Y: xr.DataArray, dim: Hashable) -> None:
    """Refuse a table with a column that holds the values of the coordinate of this name in another order."""
    along = coords_along(Y, dim)
    for name in along.columns:
        if name == dim or name not in frame.columns:
            continue
        both = [pd.Series(np.asarray(plain_column(one[name]), dtype=object)) for one in (frame, along)]
        try:
            codes = pd.factorize(pd.concat(both, ignore_index=True), use_na_sentinel=False)[0].reshape(2, -1)
        except TypeError:  # of what cannot be compared
            continue
        other = np.flatnonzero(codes[0] != codes[1])
        if len(other) and np.array_equal(np.sort(codes[0]), np.sort(codes[1])):
            first, second = (shown(one[other[0]]) for one in both)
            raise ValueError(
                f"column {name!r} of data holds the values of Y's coordinate {name!r} in another order, in row "
                f"{other[0]} {first} for {second}, so their rows do not match; bring them into one order, leave data "
                f"out, or give Y.drop_vars({name!r}) if it is the coordinate that is wrong."
            )


def _check_levels(frame: pd.DataFrame, index: pd.MultiIndex) -> None:
    """Refuse a table whose columns say that its rows are the combinations of several dimensions in another order."""
    names = list(index.names)
    if not set(names) <= set(frame.columns):
        return
    found = pd.MultiIndex.from_frame(frame[names])
    if found.is_unique and not found.equals(index) and found.isin(index).all():
        listed = ", ".join(map(repr, names))
        raise ValueError(
            f"the columns {listed} of data hold the labels of Y's observations in another order, which vary the last "
            f"fastest; give data.sort_values([{listed}]) if Y's labels are sorted, or leave data out and make "
            "coordinates of Y of its columns."
        )


def obs_first(Y: xr.DataArray, obs_dim: Hashable) -> Any:
    """Y as a matrix (n_obs, m), the last dimension varying fastest; a ``LazyMatrix`` if it is a large store.

    Not copied where the responses lie regularly in memory.
    """
    matrix = lazy_matrix(Y, obs_dim)
    if matrix is not None:
        return matrix
    return np.moveaxis(in_memory(Y.to_numpy()), Y.get_axis_num(obs_dim), 0).reshape(Y.sizes[obs_dim], -1)
