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

__all__ = ["LabelledFit", "fit_dataarray", "to_xarray"]

# Variables with dimensions (term, *dims), and those with (*dims), by their names in Fit.
PER_TERM = {
    "coef": "fixed effect",
    "se": "standard error of coef",
    "statistic": "coef / se",
    "df": "degrees of freedom",
    "pvalue": "two-sided p-value of coef = 0",
    "conf_low": "lower limit of coef",
    "conf_high": "upper limit of coef",
}
PER_RESPONSE = {
    "sigma2": "residual variance",
    "group_var": "variance of the group intercepts",
    "icc": "intraclass correlation",
    "loglik": "maximised log-likelihood",
    "aic": "Akaike's criterion",
    "bic": "Bayesian criterion",
    "rsquared_marginal": "share of variance explained by the fixed effects",
    "rsquared_conditional": "share of variance explained by fixed and random effects",
    "n_used": "observations that the response was fitted to",
    "singular": "whether the group variance is estimated as 0",
    "converged": "whether the response has a fit to rely on",
    "status": "what became of the response",
}
UNITLESS = ("statistic", "df", "pvalue")
RESERVED = {"term", "group", "ranef", *PER_TERM, *PER_RESPONSE}


@dataclass(frozen=True, eq=False)
class LabelledFit:
    """A fit whose responses are the cells of a labelled array.

    Attributes
    ----------
    fit : Fit
        One row a response; the last dimension varies fastest. Names of the responses are their
        labels, joined by commas, where these tell them apart.
    dims : tuple of hashable
        Dimensions of the responses.
    shape : tuple of int
        Their lengths.
    coords : xarray Coordinates
        All coordinates of the responses.
    units : str or None
        Units of the responses.
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
            they mean in its attributes (``flag_values``, ``flag_meanings``). The dataset can be
            written as netCDF or Zarr, unless a coordinate is a MultiIndex.

        Raises
        ------
        ValueError
            What :meth:`jaxlmm.Fit.with_df` and :meth:`jaxlmm.Fit.conf_int` raise.
        """
        one = self.fit if df is None else self.fit.with_df(df)
        low, high = np.moveaxis(one.conf_int(level), -1, 0)
        arrays = {"coef": one.coef, "se": one.se, "statistic": one.stat, "df": one.df, "pvalue": one.pvalue}
        arrays |= {"conf_low": low, "conf_high": high}
        made = {name: self._variable(text, arrays[name].T, "term") for name, text in PER_TERM.items()}
        made |= {name: self._variable(text, getattr(one, name)) for name, text in PER_RESPONSE.items()}
        made["status"].attrs |= {
            "flag_values": np.array([s.value for s in Status], dtype=np.int8),
            "flag_meanings": " ".join(s.name.lower() for s in Status),
        }
        coords: dict[Hashable, Any] = {"term": list(one.names)}
        if ranef:
            made["ranef"] = self._variable("conditional mode of the group", one.ranef.T, "group")
            coords["group"] = _level_labels(one)
        if self.units is not None:
            for name, variable in made.items():
                if name in ("sigma2", "group_var"):
                    variable.attrs["units"] = f"{self.units}^2" if self.units.isalnum() else f"({self.units})^2"
                elif "term" in variable.dims and name not in UNITLESS or name == "ranef":
                    variable.attrs["units"] = self.units
        attrs = {
            "formula": _formula(one),
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
        at = np.indices(self.shape).reshape(len(self.dims), -1)
        for dim, size, where in zip(self.dims, self.shape, at, strict=True):
            index = self.coords[dim].to_index() if dim in self.coords else pd.RangeIndex(size)
            if isinstance(index, pd.MultiIndex):
                keys |= {str(name): index.get_level_values(name).to_numpy()[where] for name in index.names}
            else:
                keys[str(dim)] = index.to_numpy()[where]
        return keys

    def tidy(self, **options: Any) -> pd.DataFrame:
        """Long table of the estimates, with a column for each dimension; see :func:`jaxlmm.tables.tidy`."""
        return tables.tidy(self, **options)

    def glance(self) -> pd.DataFrame:
        """Table with a row a response, with a column for each dimension; see :func:`jaxlmm.tables.glance`."""
        return tables.glance(self)

    def _variable(self, text: str, values: np.ndarray, *lead: str) -> xr.Variable:
        """A copy of values ([lead,] m) with the responses' dimensions."""
        whole = np.array(values, order="C").reshape(*values.shape[: len(lead)], *self.shape)
        return xr.Variable((*lead, *self.dims), whole, {"long_name": text})


def fit_dataarray(
    X: Any,
    Y: xr.DataArray,
    groups: Any = None,
    *,
    obs_dim: Hashable,
    method: str = "REML",
    df: str = "satterthwaite",
    weights: Any = None,
    missing: str = "drop",
    names: Sequence[str] | None = None,
    group_name: str | None = None,
    terms: Any = None,
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
    groups, weights : str or array-like, (n_obs,), optional
        A text is the name of a coordinate of Y along ``obs_dim``.
    obs_dim : hashable
        Dimension of the observations.
    method, df, missing, names, group_name, terms
        As in :func:`jaxlmm.fit`. The default ``group_name`` is the coordinate's.

    Raises
    ------
    ValueError
        Y has no dimension ``obs_dim``; lengths differ; an unknown coordinate; X or
        groups are pandas objects whose index holds the labels of Y in another order; a dimension or
        coordinate of the responses has a name that the results use; what :func:`jaxlmm.fit` raises.
    """
    if not isinstance(Y, xr.DataArray):
        raise ValueError(f"Y must be an xarray DataArray, found {type(Y).__name__}; arrays go to jaxlmm.fit.")
    if obs_dim not in Y.dims:
        raise ValueError(f"Y has no dimension {obs_dim!r}; its dimensions are {', '.join(map(repr, Y.dims))}.")
    n = Y.sizes[obs_dim]
    along = _coords_along(Y, obs_dim)
    if callable(X):
        X = X(along.copy())
    group_name = groups if isinstance(groups, str) and group_name is None else group_name
    data = {"X": X, "groups": _coordinate(groups, "groups", along, obs_dim)}
    data["weights"] = _coordinate(weights, "weights", along, obs_dim)
    for what, value in data.items():
        if value is not None:
            _check_rows(value, what, Y, obs_dim)
    dims = tuple(dim for dim in Y.dims if dim != obs_dim)
    kept = Y.coords.to_dataset().drop_vars([name for name in Y.coords if obs_dim in Y[name].dims])
    taken = [name for name in (*dims, *kept.coords) if name in RESERVED]
    if taken:
        raise ValueError(f"Y has a dimension or coordinate {taken[0]!r}, which the results use; rename it.")
    matrix = np.moveaxis(Y.to_numpy(), Y.get_axis_num(obs_dim), 0)  # type: ignore[arg-type]
    labels = _response_names(dims, matrix.shape[1:], kept.coords)
    found = fit_matrix(
        data["X"], matrix.reshape(n, -1), data["groups"], method=method, df=df, weights=data["weights"],
        missing=missing, names=names, response_names=labels, group_name=group_name, terms=terms,
    )  # fmt: skip
    units = Y.attrs.get("units")
    return LabelledFit(found, dims, matrix.shape[1:], kept.coords, None if units is None else str(units))


def to_xarray(
    fit: Fit,
    dims: Sequence[Hashable] | None = None,
    coords: Mapping[Hashable, Any] | None = None,
    *,
    level: float = 0.95,
    df: str | None = None,
    ranef: bool = False,
) -> xr.Dataset:
    """The results of a plain fit as a dataset; see :meth:`LabelledFit.to_dataset`.

    Parameters
    ----------
    fit : Fit
    dims : sequence of hashable, optional
        Dimensions of the responses, the last varying fastest. Default: one, ``response``, labelled
        with the names of the responses.
    coords : mapping, optional
        Labels of the dimensions, as xarray takes them. One dimension may go without.
    level, df, ranef
        As in :meth:`LabelledFit.to_dataset`.

    Raises
    ------
    ValueError
        The dimensions do not make as many cells as there are responses.
    """
    m = fit.n_responses
    coords = dict(coords or {})
    if dims is None:
        dims, coords = ("response",), {"response": list(fit.response_names)} | coords
    dims = (dims,) if isinstance(dims, str) else tuple(dims)
    sizes = xr.Dataset(coords=coords).sizes
    known = int(np.prod([sizes[dim] for dim in dims if dim in sizes]))
    free = [dim for dim in dims if dim not in sizes]
    if len(free) > 1:
        raise ValueError(f"the dimensions {', '.join(map(repr, free))} have no coords; one may go without.")
    if m % known or (not free and known != m):
        raise ValueError(f"dims and coords make {known} cells, but there are {m} responses.")
    shape = tuple(sizes.get(dim, m // known) for dim in dims)
    return LabelledFit(fit, dims, shape, xr.Dataset(coords=coords).coords).to_dataset(level, df=df, ranef=ranef)


# -- inner ----------------------------------------------------------------------------------------


def _coords_along(Y: xr.DataArray, dim: Hashable) -> pd.DataFrame:
    """The coordinates of Y that have this dimension alone, a column each."""
    names = [name for name in Y.coords if Y[name].dims == (dim,) and not _is_multiindex(Y, name)]
    return pd.DataFrame({name: Y[name].to_numpy() for name in names}, index=pd.RangeIndex(Y.sizes[dim]))


def _is_multiindex(Y: xr.DataArray, name: Hashable) -> bool:
    """Whether this is a dimension of tuples, whose parts are coordinates of their own."""
    return name in Y.indexes and name in Y.dims and isinstance(Y.indexes[name], pd.MultiIndex)


def _coordinate(value: Any, what: str, along: pd.DataFrame, dim: Hashable) -> Any:
    """The coordinate of that name, if ``value`` is a text, as an array."""
    if not isinstance(value, str):
        return value
    if value not in along.columns:
        known = ", ".join(map(repr, along.columns)) or "none"
        raise ValueError(f"{what} is {value!r}, which is no coordinate of Y along {dim!r}; these are: {known}.")
    return along[value].to_numpy()


def _check_rows(value: Any, what: str, Y: xr.DataArray, dim: Hashable) -> None:
    """Refuse other lengths, and labels that say that the rows are in another order."""
    n = Y.sizes[dim]
    if hasattr(value, "__len__") and len(value) != n:
        raise ValueError(f"{what} has {len(value)} rows, Y has {n} along {dim!r}; they must be the same observations.")
    index = getattr(value, "index", None)
    if isinstance(index, pd.Index) and not isinstance(index, pd.RangeIndex) and dim in Y.indexes:
        mine = Y.indexes[dim]
        if not index.equals(mine) and index.is_unique and mine.is_unique and index.isin(mine).all():
            raise ValueError(
                f"the index of {what} has the labels of Y along {dim!r} in another order; align them: {what}.loc[...]."
            )


def _response_names(dims: tuple[Hashable, ...], shape: tuple[int, ...], coords: Any) -> list[str] | None:
    """Labels of the responses, joined; None where they do not tell them apart."""
    texts = []
    for dim, size in zip(dims, shape, strict=True):
        labels = coords[dim].to_index().to_numpy() if dim in coords else [f"{dim}{i}" for i in range(size)]
        texts.append([str(label) for label in labels])
    names = list(map(", ".join, itertools.product(*texts)))
    return names if dims and len(set(names)) == len(names) else None


def _level_labels(fit: Fit) -> Any:
    """Labels of the groups as a coordinate that files can hold: what is neither number, text nor time as text."""
    levels = fit.design.random[0].levels if fit.design.random else ()
    plain = all(not isinstance(label, tuple) for label in levels) and pd.api.types.infer_dtype(list(levels))
    if plain in ("string", "integer", "floating", "boolean", "datetime", "datetime64", "timedelta"):
        return pd.Index(list(levels)).to_numpy()
    return [str(label) for label in levels]


def _formula(fit: Fit) -> str:
    random = "".join(f" + (1 | {grouping.name})" for grouping in fit.design.random)
    return f"~ 0 + {' + '.join(fit.names)}{random}"

