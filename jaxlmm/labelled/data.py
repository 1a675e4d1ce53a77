"""The labels around a fit: what a labelled array says without its values, and results with its labels."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    import pandas as pd
    import xarray as xr
except ImportError as error:
    raise ImportError('labelled responses need xarray: pip install "jaxlmm[xarray]"') from error

from jaxlmm._types import Status
from jaxlmm.design.design import Design
from jaxlmm.design.rows import check_rows, row_labels
from jaxlmm.results.results import Fit
from jaxlmm.results.varcorr import parameter_labels
from jaxlmm.sources.table import plain_column

__all__ = [
    "PER_RESPONSE",
    "PER_TERM",
    "LabelledProblem",
    "check_dims",
    "check_no_multiindex",
    "coordinate",
    "coords_along",
    "labelled_problem",
    "result_arrays",
    "result_attrs",
    "results_dataset",
    "stored_arrays",
    "stored_dataset",
    "variable",
]

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
# Those that only models of one random intercept, or of none, have.
OF_INTERCEPT = ("group_var", "icc")
# What ``Fit`` needs beside these, in stores: text, power of the response's units, dimensions before the responses'.
STORED: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "se_gls": ("standard error of coef by generalised least squares", 1, ("term",)),
    "theta": ("relative covariance factors of the random effects, as lme4's theta", 0, ("theta",)),
    "hessian": ("second derivatives of the deviance in theta", 0, ("theta", "theta_")),
}
RAN_PAR = "standard deviation or correlation of random effects"
RESERVED = {"term", "group", "ranef", "ran_par", "ran_pars", "theta_", *PER_TERM, *PER_RESPONSE}


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


def result_arrays(fit: Fit, shape: tuple[int, ...], level: float) -> dict[str, np.ndarray]:
    """The results of a fit by the names of the dataset's variables, (p, *shape) or (*shape); copies."""
    low, high = np.moveaxis(fit.conf_int(level), -1, 0)
    arrays = (fit.coef, fit.se, fit.stat, fit.df, fit.pvalue, low, high)
    made = {name: np.array(a.T, order="C").reshape(-1, *shape) for name, a in zip(PER_TERM, arrays, strict=True)}
    made |= {name: np.array(getattr(fit, name)).reshape(shape) for name in per_response(fit.design)}
    if fit.design.random:
        made["ran_pars"] = np.array(fit.random_parameters.values.T, order="C").reshape(-1, *shape)
    return made


def per_response(design: Design) -> dict[str, tuple[str, int]]:
    """The variables of :data:`PER_RESPONSE` that a model has."""
    general = design.random and not design.has_one_intercept
    return {name: what for name, what in PER_RESPONSE.items() if not (general and name in OF_INTERCEPT)}


def ran_par_labels(design: Design) -> list[str]:
    """Labels of the dimension ``ran_par``."""
    return list(parameter_labels(design.random))


def stored_arrays(fit: Fit, shape: tuple[int, ...], level: float) -> dict[str, np.ndarray]:
    """:func:`result_arrays` and those of ``STORED``: all from which the fit is made again."""
    extra = {}
    for name in STORED:
        array = getattr(fit, name)
        if array.size or not array[0].ndim:  # without a random effect there is no theta
            extra[name] = np.moveaxis(array, 0, -1).reshape(*array.shape[1:], *shape)
    return result_arrays(fit, shape, level) | extra


def result_attrs(design: Design, formula: str | None, method: str, df: str, level: float) -> dict[str, Any]:
    """Attributes of the dataset; without a formula the columns of X make one."""
    columns = " + ".join(["~ 0", *design.names, *(term.label for term in design.random)])
    return {
        "formula": columns if formula is None else formula,
        "method": method,
        "df": df,
        "level": level,
        "n_obs": design.n_obs,
        "n_groups": design.n_groups,
        "ran_par": ran_par_labels(design),
        "jaxlmm_version": importlib.metadata.version("jaxlmm"),
    }


def results_dataset(
    arrays: Mapping[str, Any],
    names: Sequence[str],
    dims: tuple[Hashable, ...],
    coords: Any,
    units: str | None,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """The dataset of the results, of :func:`result_arrays` or of arrays of other kinds with its names and shapes."""
    made = {name: variable(arrays[name], *what, units, "term", *dims) for name, what in PER_TERM.items()}
    made |= {
        name: variable(arrays[name], *what, units, *dims) for name, what in PER_RESPONSE.items() if name in arrays
    }
    attrs, labels = dict(attrs), list(attrs.get("ran_par", []))
    attrs.pop("ran_par", None)
    if "ran_pars" in arrays:
        made["ran_pars"] = variable(arrays["ran_pars"], RAN_PAR, 0, units, "ran_par", *dims)
    made["status"].attrs |= {
        "flag_values": np.array([s.value for s in Status], dtype=np.int8),
        "flag_meanings": " ".join(s.name.lower() for s in Status),
    }
    found = xr.Dataset(made, coords=coords, attrs=attrs).assign_coords({"term": list(names)})
    return found.assign_coords({"ran_par": labels}) if "ran_pars" in arrays else found


def stored_dataset(
    arrays: Mapping[str, Any],
    names: Sequence[str],
    dims: tuple[Hashable, ...],
    coords: Any,
    units: str | None,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """:func:`results_dataset` of :func:`stored_arrays`; ValueError for labels that a store cannot hold."""
    check_no_multiindex(coords)
    names_of = [str(name) for name in (*dims, *coords)]
    slashes = [name for name in names_of if "/" in name or name.startswith("_jaxlmm")]
    if slashes:
        raise ValueError(
            f"the responses have a dimension or coordinate {slashes[0]!r}, which stores cannot hold; rename it."
        )
    taken = [name for name in names_of if name in STORED]
    if taken:
        raise ValueError(f"the responses have a dimension or coordinate {taken[0]!r}, which stores use; rename it.")
    made = results_dataset(arrays, names, dims, coords, units, attrs)
    for name, (text, power, lead) in STORED.items():
        if name in arrays:
            made[name] = variable(arrays[name], text, power, units, *lead, *dims)
    return made


def check_no_multiindex(coords: Any) -> None:
    """ValueError for a dimension with several levels of labels, which no store holds."""
    for name in coords:
        index = coords[name].to_index() if coords[name].dims == (name,) else None
        if isinstance(index, pd.MultiIndex):
            levels = ", ".join(map(str, index.names))
            raise ValueError(
                f"dimension {name!r} has a MultiIndex of {levels}, which a Zarr store cannot hold; fit "
                f"Y.reset_index({name!r}), which keeps {levels} as coordinates, or Y.unstack({name!r})."
            )


def variable(values: Any, text: str, power: int, units: str | None, *dims: Hashable) -> xr.Variable:
    """A variable that says what it is, with the responses' units to this power."""
    attrs = {"long_name": text}
    if units is not None and power:
        attrs["units"] = units if power == 1 else f"{units}^2" if units.isalnum() else f"({units})^2"
    return xr.Variable(dims, values, attrs)


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
