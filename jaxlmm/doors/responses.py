"""Responses as users hold them: one description of them all, before any value is read.

An array, a list, a data frame, a DataArray, a store, a dask array, or the path of an array on disk. Weights of
each response's own are held, and opened, in the same ways.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlmm.design.arrays import distinct, numeric, response_matrix
from jaxlmm.design.dropped import taken
from jaxlmm.design.rows import RowLabels, check_rows, row_labels
from jaxlmm.runtime.arguments import shown
from jaxlmm.runtime.device import DeviceMatrix
from jaxlmm.sources.kept import KeptRows
from jaxlmm.sources.lazy import LazyMatrix, lazy_matrix
from jaxlmm.sources.opening import open_path
from jaxlmm.sources.sources import Source, is_dask, is_dataarray, is_lazy, is_store, open_source
from jaxlmm.sources.weighted import WeightedSource

if TYPE_CHECKING:
    from jaxlmm.tabular.labels import Labels

__all__ = ["Responses", "are_own", "open_responses", "with_weights"]


@dataclass(frozen=True, eq=False)
class Responses:
    """Responses that were opened, but not read.

    Attributes
    ----------
    values : array-like (n_obs, *dims), or DataArray
    obs_dim : hashable or None
        The dimension of the observations, of a DataArray; of all else it is the first axis.
    labels : Labels or None
        Of the responses; None if they are plain columns.
    names : sequence of str or None
        Of plain columns, as given.
    weights : Responses or None
        Of each response's own observations: with the axes of ``values``, and the same order of rows and labels.
    kept : ndarray of int or None
        The observations that are taken, of responses that are read when asked for. None: all.
    stacked : tuple of (tuple, tuple), or None
        Where the observations were several dimensions: these, and all dimensions as they were given.
    """

    values: Any
    obs_dim: Hashable = None
    labels: Labels | None = None
    names: Sequence[str] | None = None
    weights: Responses | None = None
    kept: np.ndarray | None = None
    stacked: tuple[tuple[Hashable, ...], tuple[Hashable, ...]] | None = None

    @property
    def labelled(self) -> bool:
        """Whether the responses are a DataArray."""
        return is_dataarray(self.values)

    @property
    def lazy(self) -> bool:
        """Whether they are computed by dask."""
        return is_dask(self.values)

    @property
    def axis(self) -> int:
        """Position of the observations among the axes."""
        return int(self.values.get_axis_num(self.obs_dim)) if self.labelled else 0

    @property
    def rows(self) -> RowLabels | None:
        """Labels of the observations, if they have some."""
        return row_labels(self.values, self.obs_dim)

    def check_length(self, n_obs: int, of: str) -> None:
        """ValueError unless there are ``n_obs`` observations, as many as ``of`` has rows."""
        shape = tuple(getattr(self.values, "shape", ()))
        if not shape or shape[self.axis] == n_obs:
            return
        n = shape[self.axis]
        if self.labelled:
            raise ValueError(
                f"{of} has {n_obs} rows, Y has {n} along {self.obs_dim!r}; they must have the same rows."
            )
        hint = "they must have the same rows"
        if len(shape) == 2 and shape[1] == n_obs:
            hint = "it looks transposed, try Y.T"
        elif len(shape) == 3 and shape[0] * shape[1] == n_obs:
            hint = f"if it is a list of {n} matrices, one below the other, give numpy.concatenate(Y)"
        elif n_obs in shape:
            j = shape.index(n_obs)
            hint = f"observations must be its first axis, and are axis {j}: give numpy.moveaxis(Y, {j}, 0)"
        elif len(shape) > 2 or is_store(self.values) or self.lazy:
            hint = "observations must be its first axis, and the rows the same"
        raise ValueError(f"Y has {n} rows, {of} has {n_obs}; {hint}.")

    def less(self, offset: np.ndarray) -> Responses:
        """These responses less an offset of the observations, (n_obs,).

        Raises
        ------
        ValueError
            They are not in memory.
        """
        if self.lazy or is_store(self.values) or isinstance(self.values, np.memmap):
            raise ValueError(
                "the formula has an offset, and Y is not in memory; subtract the offset from Y, and leave it out of "
                "the formula: predict then gives values without it."
            )
        values = self.values
        if hasattr(values, "iloc"):
            return dataclasses.replace(self, values=values.astype(np.float64).sub(offset, axis=0))
        array = np.asarray(values.data if self.labelled else values, dtype=np.float64)
        shape = [-1 if j == self.axis else 1 for j in range(array.ndim)]
        array = array - offset.reshape(shape)
        return dataclasses.replace(self, values=values.copy(data=array) if self.labelled else array)

    def take(self, rows: np.ndarray) -> Responses:
        """The observations at some positions; of what is not in memory nothing is read."""
        weights = None if self.weights is None else self.weights.take(rows)
        if is_lazy(self.values) and not self.lazy:
            return dataclasses.replace(self, kept=rows, weights=weights)
        values = self.values
        if isinstance(values, LazyMatrix):
            values = LazyMatrix.make(KeptRows(values.source, rows))
        elif self.labelled:
            # Variables were read before; xarray cannot take rows of pandas' text.
            along = [name for name in values.coords if self.obs_dim in values[name].dims]
            values = values.drop_vars([name for name in along if name not in values.indexes]).isel(
                {self.obs_dim: rows}
            )
        elif self.lazy or hasattr(values, "shape"):
            values = taken(values, rows)
        else:
            values = numeric(values, "Y")[rows]
        return dataclasses.replace(self, values=values, weights=weights)

    def columns(self) -> Any:
        """What :func:`jaxlmm.results.fitting.fit_model` takes, responses in columns."""
        found = self._columns()
        if self.kept is None:
            return found
        if isinstance(found, LazyMatrix):
            return LazyMatrix.make(KeptRows(found.source, self.kept))
        return np.asarray(found)[self.kept]

    def _columns(self) -> Any:
        if self.labelled:
            from jaxlmm.labelled.responses import obs_first

            return obs_first(self.values, self.obs_dim)
        if self.labels is None or len(self.labels.shape) == 1:
            return self.values
        matrix = lazy_matrix(self.values)
        if matrix is not None:
            return matrix
        values = self.values if hasattr(self.values, "reshape") else numeric(self.values, "Y")
        return values.reshape(len(values), -1)

    def source(self, n_obs: int) -> tuple[Source, Labels]:
        """Where to read blocks of responses, and their labels."""
        from jaxlmm.labelled.responses import axis_labels

        values, labels, names = self.values, self.labels, self.names
        made = values.source if isinstance(values, LazyMatrix) else None
        plain = type(values) in (np.ndarray, np.memmap) and values.ndim > 1
        if not (plain or self.labelled or self.lazy or is_store(values) or made is not None):
            if labels is not None:
                values = numeric(values, "Y")
            else:
                values, names = response_matrix(values, n_obs, names)
                values = np.asarray(values) if isinstance(values, DeviceMatrix) else values
        source = open_source(values, self.obs_dim) if made is None else made
        if self.kept is not None:
            source = KeptRows(source, self.kept)
        if self.weights is not None:
            source = WeightedSource(source, self.weights.source(n_obs)[0])
        if labels is None:
            labels = axis_labels(source.shape[1:], coords=_name_coords(names, source.shape[1], "response"))
        return source, labels


def open_responses(
    Y: Any,
    *,
    obs_dim: Hashable = None,
    dims: Any = None,
    coords: Mapping[Hashable, Any] | None = None,
    names: Sequence[str] | None = None,
    n_obs: int | None = None,
    of: str = "X",
    named: Collection[str] = (),
) -> Responses:
    """Find out what Y is.

    Parameters
    ----------
    Y, obs_dim, dims, coords
        As in :func:`jaxlmm.fit`; ``names`` is ``response_names`` there.
    n_obs, of, named
        For the default of ``obs_dim``; see :func:`jaxlmm.labelled.responses.find_obs_dim`.

    Raises
    ------
    ValueError
        Options that do not go with such responses; labels that do not match their shape.
    """
    if isinstance(Y, (str, os.PathLike)):
        try:
            Y = open_path(Y)
        except ValueError as error:
            raise ValueError(f"Y is a path, and {error}") from None
    if is_dataarray(Y):
        return _open_labelled(Y, obs_dim, dims, coords, names, n_obs, of, named)
    if obs_dim is not None:
        raise ValueError(
            f"obs_dim is {shown(obs_dim)}, but Y is no DataArray: its first axis holds the observations."
        )
    if all(hasattr(Y, part) for part in ("obs", "var_names", "layers")):
        raise ValueError("Y is an AnnData; call jaxlmm.lmm(formula, adata), or give Y=adata.X.")
    if hasattr(Y, "data_vars"):
        raise ValueError("Y is an xarray Dataset; give one of its variables, Y['name'], or Y.to_dataarray().")
    if not hasattr(Y, "iloc") and (isinstance(Y, Mapping) or hasattr(Y, "columns")):
        from jaxlmm.sources.table import as_frame

        try:
            Y = as_frame(Y)
        except ValueError as error:
            raise ValueError(f"Y cannot be read as a table: {error}") from None
    if isinstance(Y, (list, tuple)):
        _refuse_uneven(Y)
        Y = numeric(Y, "Y")
    shape = tuple(getattr(Y, "shape", ()))
    dask = is_dask(Y)
    if dask and not shape:
        raise ValueError("Y has no dimension; its first one is the observations.")
    if dask and any(n != n for n in shape):
        raise ValueError("Y has chunks of unknown size; call Y.compute_chunk_sizes() first.")
    stored = open_source(Y).dims if is_store(Y) and len(shape) > 1 else None
    if not (dask or stored or len(shape) > 2 or dims is not None or coords is not None):
        return Responses(Y, names=names)
    from jaxlmm.labelled.responses import axis_labels

    if names is not None and len(shape) != 2:
        raise ValueError(f"response_names is given, but Y has {len(shape)} axes; name these by dims= and coords=.")
    if names is None and len(shape) == 2:
        names = getattr(Y, "columns", None)
    labels = axis_labels(shape[1:], dims, coords, stored)
    if names is not None and labels.dims[0] not in labels.coords:
        known = {**(coords or {}), **_name_coords(names, shape[1], labels.dims[0])}
        labels = axis_labels(shape[1:], labels.dims, known)
    return Responses(Y, labels=labels)


def _refuse_uneven(Y: Sequence[Any]) -> None:
    """ValueError for matrices of different numbers of rows, as of subjects with more or fewer images."""
    shapes = {tuple(getattr(part, "shape", ())) for part in Y}
    if len(shapes) > 1 and {len(shape) for shape in shapes} == {2} and len({shape[1] for shape in shapes}) == 1:
        raise ValueError(
            f"Y is a list of {len(Y)} matrices with different numbers of rows; give numpy.concatenate(Y), one below "
            "the other, and a table of as many rows."
        )


def _open_labelled(
    Y: Any, obs_dim: Any, dims: Any, coords: Any, names: Any, n_obs: int | None, of: str, named: Collection[str]
) -> Responses:
    from jaxlmm.labelled.responses import array_labels, find_obs_dim, stack_observations

    for name, given in (("dims", dims), ("coords", coords), ("response_names", names)):
        if given is not None:
            raise ValueError(f"{name} is given, but Y is a DataArray, which has its own labels; leave it out.")
    if isinstance(obs_dim, (tuple, list)) and not (isinstance(obs_dim, tuple) and obs_dim in Y.dims):
        stacked = (tuple(obs_dim), Y.dims)
        Y, obs_dim = stack_observations(Y, obs_dim)
        return Responses(Y, obs_dim, array_labels(Y, obs_dim), stacked=stacked)
    obs_dim = find_obs_dim(Y, obs_dim, n_obs, of, named)
    return Responses(Y, obs_dim, array_labels(Y, obs_dim))


def _name_coords(names: Sequence[str] | None, m: int, dim: Hashable) -> dict[Hashable, Any]:
    """Names of plain columns as labels of their dimension."""
    return {} if names is None or not len(names) else {dim: list(distinct(names, m, "response_names", "Y"))}


def are_own(weights: Any) -> bool:
    """Whether weights are one for each observation of each response: an array or table of two axes or more."""
    if weights is None or isinstance(weights, str) or callable(weights):
        return False
    if isinstance(weights, Mapping) and not hasattr(weights, "shape"):
        return True
    shape = getattr(weights, "shape", None)
    if shape is None:
        try:
            shape = np.shape(weights)
        except (TypeError, ValueError):
            return False
    return len(shape) > 1


def with_weights(opened: Responses, weights: Any) -> Responses:
    """Responses with weights of each one's own, of the same shape, and of the same labels where both have some.

    Raises
    ------
    ValueError
        Another shape, other labels, or labels in another order.
    """
    try:
        own = _open_weights(opened, weights)
    except ValueError as error:
        raise ValueError(re.sub(r"\bY\b", "weights", str(error))) from None
    check_rows(weights=weights, Y=opened.rows)
    if opened.labelled and own.labelled:
        own = dataclasses.replace(own, values=_aligned(opened.values, own.values))
    else:
        _check_columns(opened.values, weights)
    found, needed = _shape_of(own.values), _shape_of(opened.values)
    if found != needed:
        raise ValueError(
            f"weights has shape {found}, Y has {needed}; need one weight per row, or one for each observation of "
            "each response."
        )
    return dataclasses.replace(opened, weights=own)


def _open_weights(opened: Responses, weights: Any) -> Responses:
    if opened.stacked is not None:
        return _open_stacked_weights(opened, weights)
    if opened.labelled and not is_dataarray(weights):
        import xarray as xr

        values = weights if is_dask(weights) else numeric(weights, "weights")
        if values.shape != opened.values.shape:
            return Responses(values)
        return Responses(xr.DataArray(values, dims=opened.values.dims), opened.obs_dim)
    if is_dataarray(weights) and not opened.labelled:
        weights = weights.data
    return open_responses(weights, obs_dim=opened.obs_dim if is_dataarray(weights) else None)


def _open_stacked_weights(opened: Responses, weights: Any) -> Responses:
    """Weights with the dimensions of Y as these were given, whose observations are combined like Y's."""
    import xarray as xr

    from jaxlmm.labelled.responses import stack_observations

    assert opened.stacked is not None
    dims, whole = opened.stacked
    if not is_dataarray(weights):
        values = weights if is_dask(weights) else numeric(weights, "weights")
        if values.ndim != len(whole):
            raise ValueError(f"weights has shape {values.shape}; give the dimensions of the responses, {whole}.")
        weights = xr.DataArray(values, dims=whole).assign_coords(
            {dim: opened.values[dim].to_index().unique() for dim in dims if dim in opened.values.coords}
        )
    if set(weights.dims) != set(whole):
        raise ValueError(f"weights has the dimensions {weights.dims}; give those of the responses, {whole}.")
    made, dim = stack_observations(weights, dims)
    return Responses(made if dim == opened.obs_dim else made.rename({dim: opened.obs_dim}), opened.obs_dim)


def _aligned(Y: Any, weights: Any) -> Any:
    """A DataArray of weights with its axes in Y's order, if its labels are Y's."""
    if set(weights.dims) != set(Y.dims):
        raise ValueError(f"weights has the dimensions {weights.dims}, Y has {Y.dims}; they must have the same.")
    for dim in Y.dims:
        a, b = weights.indexes.get(dim), Y.indexes.get(dim)
        if a is not None and b is not None and not a.equals(b):
            raise ValueError(
                f"weights and Y have different labels along {dim!r}, or the same in another order; give "
                f"weights.sel({dim}=Y[{dim!r}]), or weights.drop_vars({dim!r}) if they match by position."
            )
    return weights.transpose(*Y.dims)


def _check_columns(Y: Any, weights: Any) -> None:
    """ValueError if two tables have other columns."""
    a, b = (None if not hasattr(frame, "iloc") else getattr(frame, "columns", None) for frame in (Y, weights))
    if a is None or b is None or list(a) == list(b):
        return
    order = " in another order" if len(a) == len(b) and set(a) == set(b) else ""
    raise ValueError(
        f"weights and Y have different columns{order}; give weights[Y.columns], or weights.to_numpy() if they match "
        "by position."
    )


def _shape_of(values: Any) -> tuple[int, ...]:
    """The shape of responses, (n_obs, 1) for one."""
    shape = tuple(getattr(values, "shape", None) or np.shape(values))
    return (*shape, 1) if len(shape) == 1 else shape
