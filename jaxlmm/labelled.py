"""Responses with dimensions and coordinates: xarray in, xarray out."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    import pandas as pd
    import xarray as xr
except ImportError as error:
    raise ImportError('labelled responses need xarray: pip install "jaxlmm[xarray]"') from error

from jaxlmm import tables
from jaxlmm._types import Status
from jaxlmm.fit import fit as fit_matrix
from jaxlmm.results import Fit

__all__ = ["LabelledFit", "coords_along", "fit_dataarray", "to_xarray"]

# Variables with dimensions (term, *dims), and those with (*dims): what they are, and the power of
# the response's units that they are in.
PER_TERM = {
    "coef": ("fixed effect", 1),
    "se": ("standard error of coef", 1),
    "statistic": ("coef / se", 0),
    "df": ("degrees of freedom", 0),
    "pvalue": ("two-sided p-value of coef = 0", 0),
    "conf_low": ("lower limit of coef", 1),
    "conf_high": ("upper limit of coef", 1),
}
PER_RESPONSE = {
    "sigma2": ("residual variance", 2),
    "group_var": ("variance of the group intercepts", 2),
    "icc": ("intraclass correlation", 0),
    "loglik": ("maximised log-likelihood", 0),
    "aic": ("Akaike's criterion", 0),
    "bic": ("Bayesian criterion", 0),
    "rsquared_marginal": ("share of variance explained by the fixed effects", 0),
    "rsquared_conditional": ("share of variance explained by fixed and random effects", 0),
    "n_used": ("observations that the response was fitted to", 0),
    "singular": ("whether the group variance is estimated as 0", 0),
    "converged": ("whether the response has a fit to rely on", 0),
    "status": ("what became of the response", 0),
}
RESERVED = {"term", "group", "ranef", *PER_TERM, *PER_RESPONSE}


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
        low, high = np.moveaxis(one.conf_int(level), -1, 0)
        arrays = (one.coef, one.se, one.stat, one.df, one.pvalue, low, high)
        terms = zip(PER_TERM.items(), arrays, strict=True)
        made = {name: self._variable(*what, array.T, "term") for (name, what), array in terms}
        made |= {name: self._variable(*what, getattr(one, name)) for name, what in PER_RESPONSE.items()}
        made["status"].attrs |= {
            "flag_values": np.array([s.value for s in Status], dtype=np.int8),
            "flag_meanings": " ".join(s.name.lower() for s in Status),
        }
        coords: dict[Hashable, Any] = {"term": list(one.names)}
        if ranef:
            made["ranef"] = self._variable("conditional mode of the group", 1, one.ranef.T, "group")
            index = pd.Index(one.design.random[0].levels if one.design.random else (), tupleize_cols=False)
            # What a file cannot hold, such as tuples, as text.
            plain = isinstance(index.dtype, np.dtype) and index.dtype.kind in "biufmM"
            coords["group"] = index.to_numpy() if plain else [str(label) for label in index]
        formula = " + ".join(["~ 0", *one.names, *(f"(1 | {g.name})" for g in one.design.random)])
        attrs = {
            "formula": formula if one.source is None else one.source.formula,
            "method": one.method,
            "df": one.df_method,
            "level": level,
            "n_obs": one.n_obs,
            "n_groups": one.n_groups,
            "jaxlmm_version": importlib.metadata.version("jaxlmm"),
        }
        return xr.Dataset(made, coords=self.coords, attrs=attrs).assign_coords(coords)

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

    def _variable(self, text: str, power: int, values: np.ndarray, *lead: str) -> xr.Variable:
        """A copy of values ([lead,] m) with the responses' dimensions and units."""
        attrs, units = {"long_name": text}, self.units
        if units is not None and power:
            attrs["units"] = units if power == 1 else f"{units}^2" if units.isalnum() else f"({units})^2"
        whole = np.array(values, order="C").reshape((*values.shape[: len(lead)], *self.shape))
        return xr.Variable((*lead, *self.dims), whole, attrs)


def fit_dataarray(
    X: Any,
    Y: xr.DataArray,
    groups: Any = None,
    *,
    obs_dim: Hashable,
    weights: Any = None,
    group_name: str | None = None,
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
    **options
        Of :func:`jaxlmm.fit`: ``method``, ``df``, ``missing``, ``names``, ``terms``.

    Raises
    ------
    ValueError
        Y has no dimension ``obs_dim``; lengths differ; an unknown coordinate; a pandas index that
        holds the labels of Y in another order; a dimension or coordinate of the responses by a name
        that the results use; what :func:`jaxlmm.fit` raises.
    """
    if not isinstance(Y, xr.DataArray):
        raise ValueError(f"Y must be an xarray DataArray, found {type(Y).__name__}; arrays go to jaxlmm.fit.")
    if obs_dim not in Y.dims:
        raise ValueError(f"Y has no dimension {obs_dim!r}; its dimensions are {', '.join(map(repr, Y.dims))}.")
    n = Y.sizes[obs_dim]
    along = coords_along(Y, obs_dim)
    group_name = groups if isinstance(groups, str) and group_name is None else group_name
    data = {"X": X, "groups": groups, "weights": weights}
    for what, value in data.items():
        _check_order(value, what, Y, obs_dim)
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
    matrix = np.moveaxis(Y.to_numpy(), Y.get_axis_num(obs_dim), 0)
    labels = _response_names(dims, matrix.shape[1:], kept.coords)
    found = fit_matrix(
        data["X"], matrix.reshape(n, -1), data["groups"], weights=data["weights"], group_name=group_name,
        response_names=labels, **options,
    )  # fmt: skip
    units = Y.attrs.get("units")
    return LabelledFit(found, dims, matrix.shape[1:], kept.coords, None if units is None else str(units))


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
    return LabelledFit(fit, dims, shape, made.coords).to_dataset(**options)


def coords_along(Y: xr.DataArray, dim: Hashable) -> pd.DataFrame:
    """The coordinates of Y that have this dimension alone, a column each; of a MultiIndex its levels."""
    names = [name for name in Y.coords if Y[name].dims == (dim,)]
    if isinstance(Y.indexes.get(dim), pd.MultiIndex):
        names.remove(dim)
    return pd.DataFrame({name: Y[name].to_numpy() for name in names}, index=pd.RangeIndex(Y.sizes[dim]))


def _from_coords(value: Any, what: str, along: pd.DataFrame, dim: Hashable) -> Any:
    """What a function makes of the coordinates, or the coordinate of that name; else the value itself."""
    if callable(value):
        return value(along.copy())
    if not isinstance(value, str):
        return value
    if value not in along.columns:
        known = ", ".join(map(repr, along.columns))
        raise ValueError(f"{what} is {value!r}, which is no coordinate of Y along {dim!r}; these are: {known}.")
    return along[value].to_numpy()


def _check_order(value: Any, what: str, Y: xr.DataArray, dim: Hashable) -> None:
    """Refuse labels that say that the rows are in another order."""
    index = getattr(value, "index", None)
    if isinstance(index, pd.Index) and dim in Y.indexes and not index.equals(Y.indexes[dim]):
        if index.is_unique and index.sort_values().equals(Y.indexes[dim].sort_values()):
            raise ValueError(
                f"the index of {what} holds the labels of Y along {dim!r} in another order; sort one like the other, "
                f"or pass {what}.to_numpy() if they match by position."
            )


def _response_names(dims: tuple[Hashable, ...], shape: tuple[int, ...], coords: Any) -> list[str] | None:
    """Labels of the responses, joined; None where they do not tell them apart."""
    texts = []
    for dim, size in zip(dims, shape, strict=True):
        labels = coords[dim].to_index().to_numpy() if dim in coords else [f"{dim}{i}" for i in range(size)]
        texts.append([str(label) for label in labels])
    names = list(map(", ".join, itertools.product(*texts)))
    return names if dims and len(set(names)) == len(names) else None
