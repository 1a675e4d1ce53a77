"""The labels around a fit: what a labelled array says without its values, and results with its labels."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

try:
    import pandas as pd
    import xarray as xr
except ImportError as error:
    raise ImportError('labelled responses need xarray: pip install "jaxlmm[xarray]"') from error

from jaxlmm._types import Status
from jaxlmm.design.design import Design
from jaxlmm.results.results import Fit
from jaxlmm.sources.table import plain_column

__all__ = [
    "PER_RESPONSE",
    "PER_TERM",
    "check_no_multiindex",
    "coordinate",
    "coords_along",
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
# What ``Fit`` needs beside these, in stores: text, power of the response's units, by term.
STORED = {
    "se_gls": ("standard error of coef by generalised least squares", 1, True),
    "lam": ("variance ratio group_var / sigma2", 0, False),
    "curvature": ("second derivative of the deviance in lam", 0, False),
}
RESERVED = {"term", "group", "ranef", *PER_TERM, *PER_RESPONSE}


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
    return made | {name: np.array(getattr(fit, name)).reshape(shape) for name in PER_RESPONSE}


def stored_arrays(fit: Fit, shape: tuple[int, ...], level: float) -> dict[str, np.ndarray]:
    """:func:`result_arrays` and those of ``STORED``: all from which the fit is made again."""
    extra = {name: getattr(fit, name).T.reshape(*[-1] * by_term, *shape) for name, (*_, by_term) in STORED.items()}
    return result_arrays(fit, shape, level) | extra


def result_attrs(design: Design, formula: str | None, method: str, df: str, level: float) -> dict[str, Any]:
    """Attributes of the dataset; without a formula the columns of X make one."""
    columns = " + ".join(["~ 0", *design.names, *(f"(1 | {g.name})" for g in design.random)])
    return {
        "formula": columns if formula is None else formula,
        "method": method,
        "df": df,
        "level": level,
        "n_obs": design.n_obs,
        "n_groups": design.n_groups,
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
    made |= {name: variable(arrays[name], *what, units, *dims) for name, what in PER_RESPONSE.items()}
    made["status"].attrs |= {
        "flag_values": np.array([s.value for s in Status], dtype=np.int8),
        "flag_meanings": " ".join(s.name.lower() for s in Status),
    }
    return xr.Dataset(made, coords=coords, attrs=attrs).assign_coords({"term": list(names)})


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
    for name, (text, power, by_term) in STORED.items():
        made[name] = variable(arrays[name], text, power, units, *["term"] * by_term, *dims)
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
