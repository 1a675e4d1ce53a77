"""Responses with dimensions and coordinates: xarray in, xarray out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    import pandas as pd
    import xarray as xr
except ImportError as error:
    raise ImportError('labelled responses need xarray: pip install "jaxlmm[xarray]"') from error

from jaxlmm.fit import fit as fit_matrix
from jaxlmm.labelled.data import labelled_problem, result_arrays, result_attrs, results_dataset, variable
from jaxlmm.results import tables
from jaxlmm.results.exports import edge
from jaxlmm.results.results import Fit
from jaxlmm.sources.lazy import lazy_matrix
from jaxlmm.sources.maps import in_memory

__all__ = ["LabelledFit", "as_labelled", "fit_dataarray", "to_xarray"]


@dataclass(frozen=True, eq=False)
class LabelledFit:
    """A fit whose responses are the cells of a labelled array.

    Attributes
    ----------
    fit : Fit
        One row a response, the last dimension varying fastest; named by their labels, as "Fz, 0.1".
    dims, shape : tuple
        Dimensions of the responses and their lengths.
    coords : xarray Coordinates
        All coordinates of the responses.
    units : str or None
        Of the responses.
    """

    fit: Fit
    dims: tuple[Hashable, ...]
    shape: tuple[int, ...]
    coords: Any
    units: str | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim}: {size}" for dim, size in zip(self.dims, self.shape, strict=True))
        return f"LabelledFit({sizes}; {self.fit!r})"

    def to_dataset(self, level: float = 0.95, *, df: str | None = None, ranef: bool = False) -> xr.Dataset:
        """All results, with the dimensions and coordinates of the responses.

        Parameters
        ----------
        level : float
            Of the Wald intervals ``conf_low`` to ``conf_high``.
        df : str, optional
            Another way to find degrees of freedom; see :func:`jaxlmm.fit`.
        ranef : bool
            Whether to add ``ranef`` (group, *dims), the conditional modes; this needs Y.

        Returns
        -------
        Dataset
            ``coef``, ``se``, ``statistic``, ``df``, ``pvalue``, ``conf_low``, ``conf_high`` with
            dimensions (term, *dims), all others with (*dims). ``status`` holds numbers, and what
            they mean in its attributes. It can be written as netCDF or Zarr, but for a MultiIndex.
        """
        one = self.fit if df is None else self.fit.with_df(df)
        source = one.source
        attrs = result_attrs(one.design, None if source is None else source.formula, one.method, one.df_method, level)
        arrays = result_arrays(one, self.shape, level)
        made = results_dataset(arrays, one.names, self.dims, self.coords, self.units, attrs)
        if not ranef:
            return made
        parts = list(one.ranef().values())
        if len(parts) > 1 or (parts and parts[0].modes.shape[2] > 1):
            raise ValueError("a dataset holds the modes of one random intercept; see fit.ranef() for others.")
        modes = np.moveaxis(parts[0].modes[:, :, 0], 0, -1) if parts else np.zeros((0, one.n_responses))
        modes = np.array(modes, order="C").reshape(-1, *self.shape)
        made["ranef"] = variable(modes, "conditional mode of the group", 1, self.units, "group", *self.dims)
        index = pd.Index(one.design.random[0].levels if one.design.random else (), tupleize_cols=False)
        # What a file cannot hold, such as tuples, as text.
        plain = isinstance(index.dtype, np.dtype) and index.dtype.kind in "biufmM"
        return made.assign_coords(group=index.to_numpy() if plain else [str(label) for label in index])

    def response_keys(self) -> dict[str, np.ndarray]:
        """What tells the responses apart: for each dimension the label of every response, (m,).

        A dimension without coordinate is numbered; one with a MultiIndex gives its levels.
        """
        keys: dict[str, np.ndarray] = {}
        at = np.indices(self.shape).reshape(len(self.dims), -1) if self.dims else ()
        for dim, size, where in zip(self.dims, self.shape, at, strict=True):
            index = self.coords[dim].to_index() if dim in self.coords else pd.RangeIndex(size, name=dim)
            keys |= {str(name): index.get_level_values(name).to_numpy()[where] for name in index.names}
        return keys

    def tidy(self, **options: Any) -> pd.DataFrame:
        """Long table of the estimates, with a column for each dimension; see :func:`jaxlmm.tables.tidy`."""
        return tables.tidy(self, **options)

    def glance(self) -> pd.DataFrame:
        """Table with a row a response, with a column for each dimension; see :func:`jaxlmm.tables.glance`."""
        return tables.glance(self)

    def save(self, path: Any, *, include_Y: bool = False, overwrite: bool = False) -> None:
        """Write to a Zarr store that :meth:`load` and ``xarray.open_zarr`` read; see :func:`jaxlmm.storage.save`."""
        edge("storage.store", "write_fit")(self, os.fspath(path), include_Y, overwrite)

    @classmethod
    def load(cls, path: Any, **options: Any) -> LabelledFit:
        """What :meth:`save` or :func:`jaxlmm.fit_to_store` wrote; options as of :func:`jaxlmm.load`."""
        found: LabelledFit = edge("storage.store", "load_labelled")(path, **options)
        return found


def fit_dataarray(
    X: Any,
    Y: xr.DataArray,
    groups: Any = None,
    *,
    obs_dim: Hashable,
    weights: Any = None,
    group_name: str | None = None,
    random: Sequence[Any] | None = None,
    **options: Any,
) -> LabelledFit:
    """Fit the same model to every cell of a labelled array; see :func:`jaxlmm.fit`.

    Parameters
    ----------
    X : array-like (n_obs, p), DataFrame, or function
        Fixed-effects matrix. A function is given a DataFrame of Y's coordinates along ``obs_dim``,
        one row an observation, and returns the matrix.
    Y : DataArray
        Dimensions other than ``obs_dim`` are responses, in Y's order. Not copied where the
        responses lie regularly in memory, as they do if ``obs_dim`` is the first or the last.
    groups, weights : str, array-like (n_obs,), or function, optional
        A text is the name of a coordinate of Y along ``obs_dim``; a function is as for X.
    obs_dim : hashable
        Dimension of the observations.
    group_name : str, optional
        Default: the name of the coordinate or of ``groups``, else "group".
    random : sequence of random terms, optional
        As in :func:`jaxlmm.fit`.
    **options
        Of :func:`jaxlmm.fit`: ``method``, ``df``, ``missing``, ``names``, ``terms``.

    Raises
    ------
    ValueError
        Y has no dimension ``obs_dim``; lengths differ; an unknown coordinate; a pandas index that
        holds the labels of Y in another order; a dimension or coordinate of the responses by a name
        that the results use; what :func:`jaxlmm.fit` raises.
    """
    problem = labelled_problem(X, Y, groups, obs_dim=obs_dim, weights=weights, group_name=group_name)
    matrix: Any = lazy_matrix(Y, obs_dim)
    if matrix is None:
        matrix = np.moveaxis(in_memory(Y.to_numpy()), problem.axis, 0).reshape(problem.n_obs, -1)
    found = fit_matrix(
        problem.X, matrix, problem.groups, random=random, weights=problem.weights,
        group_name=problem.group_name, response_names=_response_names(problem.dims, problem.shape, problem.coords),
        **options,
    )  # fmt: skip
    return LabelledFit(found, problem.dims, problem.shape, problem.coords, problem.units)


def to_xarray(
    fit: Fit,
    dims: Sequence[Hashable] | None = None,
    coords: Mapping[Hashable, Any] | None = None,
    **options: Any,
) -> xr.Dataset:
    """The results of a plain fit as a dataset; see :meth:`LabelledFit.to_dataset`.

    Parameters
    ----------
    fit : Fit
    dims : sequence of hashable, optional
        Dimensions of the responses, the last varying fastest. Default: one, ``response``, labelled
        with the names of the responses.
    coords : mapping, optional
        Labels of the dimensions, as xarray takes them.
    **options
        ``level``, ``df``, ``ranef`` as in :meth:`LabelledFit.to_dataset`.

    Raises
    ------
    ValueError
        The dimensions do not make as many cells as there are responses.
    """
    return as_labelled(fit, dims, coords).to_dataset(**options)


def as_labelled(
    fit: Fit, dims: Sequence[Hashable] | None = None, coords: Mapping[Hashable, Any] | None = None
) -> LabelledFit:
    """A plain fit with labels; parameters and errors as in :func:`to_xarray`."""
    coords = dict(coords or {})
    if dims is None:
        dims, coords = ("response",), {"response": list(fit.response_names)} | coords
    dims = (dims,) if isinstance(dims, str) else tuple(dims)
    made = xr.Dataset(coords=coords)
    for dim in dims:
        if dim not in made.sizes:
            raise ValueError(f"coords has no labels of the dimension {dim!r}; give its labels, or its numbers.")
    shape = tuple(made.sizes[dim] for dim in dims)
    if np.prod(shape) != fit.n_responses:
        raise ValueError(f"dims and coords make {np.prod(shape)} cells, but there are {fit.n_responses} responses.")
    return LabelledFit(fit, dims, shape, made.coords)


def _response_names(dims: tuple[Hashable, ...], shape: tuple[int, ...], coords: Any) -> list[str] | None:
    """Labels of the responses, joined; None where they do not tell them apart."""
    texts = []
    for dim, size in zip(dims, shape, strict=True):
        labels = coords[dim].to_index().to_numpy() if dim in coords else [f"{dim}{i}" for i in range(size)]
        texts.append([str(label) for label in labels])
    names = list(map(", ".join, itertools.product(*texts)))
    return names if dims and len(set(names)) == len(names) else None
