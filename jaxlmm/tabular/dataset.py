"""Results of a fit as arrays by name, and as an xarray Dataset with the labels of the responses."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlmm._types import Status
from jaxlmm.design.design import Design
from jaxlmm.design.random import parameter_labels, term_keys
from jaxlmm.runtime.extras import extra

if TYPE_CHECKING:
    import xarray as xr

    from jaxlmm.tabular.labels import Labels

__all__ = [
    "PER_RESPONSE",
    "PER_TERM",
    "RESERVED",
    "ROWS",
    "STORED",
    "check_no_multiindex",
    "fit_dataset",
    "per_response",
    "result_arrays",
    "result_attrs",
    "results_dataset",
    "stored_arrays",
    "stored_dataset",
    "variable",
]

# Fields of a fit with one row per response: their other dimensions. All that selects, writes or reads them goes by
# this table.
ROWS: dict[str, tuple[str, ...]] = {
    "coef": ("term",), "se_gls": ("term",), "theta": ("theta",), "sigma2": (), "loglik": (),
    "hessian": ("theta", "theta"), "status": (), "n_used": (),
}  # fmt: skip
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
    "singular": ("whether a covariance of random effects is singular: a variance is 0", 0),
    "converged": ("whether the response has a fit to rely on", 0),
    "status": ("what became of the response", 0),
}
# Those that only models of one random intercept, or of none, have.
OF_INTERCEPT = ("group_var", "icc")
# What ``Fit`` needs beside these, in stores: text, power of the response's units, dimensions before the responses'.
STORED: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "se_gls": ("standard error of coef by generalised least squares", 1, ("term",)),
    "theta": ("relative covariance factors of the random effects, as lme4's theta", 0, ("theta_1",)),
    "hessian": ("second derivatives of the deviance in theta", 0, ("theta_1", "theta_2")),
}
MODE = "conditional mode of the group"
RAN_PARS = "standard deviation or correlation of random effects"
SCORES = ("pvalue_adjusted", "zscore", "neglog10p")
RESERVED = {*SCORES, "term", "group", "ranef", "ran_par", "ran_pars", "theta_1", "theta_2", *PER_TERM, *PER_RESPONSE}


def fit_dataset(fit: Any, labels: Labels, level: float, ranef: bool) -> xr.Dataset:
    """All results of a ``Fit``; see :meth:`jaxlmm.Fit.to_dataset`."""
    formula = None if fit.source is None else fit.source.formula
    attrs = result_attrs(fit.design, formula, fit.method, fit.df_method, level)
    arrays = result_arrays(fit, labels.shape, level)
    made = results_dataset(arrays, fit.names, labels.dims, labels.to_coords(), labels.units, attrs)
    return made if not ranef else _with_modes(made, fit, labels)


def _with_modes(made: xr.Dataset, fit: Any, labels: Labels) -> xr.Dataset:
    """The dataset with the conditional modes: of one intercept by (group, *dims), else a variable a term."""
    if not fit.design.random or fit.design.has_one_intercept:
        term = fit.ranef()[term_keys(fit.design.random)[0]] if fit.design.random else None
        modes = np.zeros((fit.n_responses, 0)) if term is None else term.modes[:, :, 0]
        made["ranef"] = variable(_by_level(modes, labels), MODE, 1, labels.units, "group", *labels.dims)
        return made.assign_coords(group=_level_labels(() if term is None else term.levels))
    coords: dict[str, Any] = {}
    for key, part in fit.ranef().items():
        level, effect = f"level_{key}", f"effect_{key}"
        made[f"ranef_{key}"] = variable(
            _by_level(part.modes, labels), f"{MODE} {part.name}", 1, labels.units, level, effect, *labels.dims
        )
        names = [":".join(map(str, label)) if isinstance(label, tuple) else label for label in part.levels]
        coords |= {level: _level_labels(names), effect: list(part.columns)}
    return made.assign_coords(coords)


def _by_level(modes: np.ndarray, labels: Labels) -> np.ndarray:
    """Modes (m, levels, ...) with the dimensions of the responses at the end."""
    found = np.array(np.moveaxis(modes, 0, -1), order="C")
    return found.reshape(*found.shape[:-1], *labels.shape)


def _level_labels(levels: Sequence[Any]) -> Any:
    """Labels of levels as a coordinate; what a file cannot hold, such as tuples, as text."""
    index = extra("pandas", "labelled results").Index(levels, tupleize_cols=False)
    if isinstance(index.dtype, np.dtype) and index.dtype.kind in "biufmM":
        return index.to_numpy()
    return [str(label) for label in index]


def result_arrays(fit: Any, shape: tuple[int, ...], level: float) -> dict[str, np.ndarray]:
    """The results of a fit by the names of the dataset's variables, (p, *shape) or (*shape); copies."""
    low, high = np.moveaxis(fit.conf_int(level), -1, 0)
    arrays = (fit.coef, fit.se, fit.statistic, fit.df, fit.pvalue, low, high)
    made = {name: np.array(a.T, order="C").reshape(-1, *shape) for name, a in zip(PER_TERM, arrays, strict=True)}
    made |= {name: np.array(getattr(fit, name)).reshape(shape) for name in per_response(fit.design)}
    if fit.design.random:
        made["ran_pars"] = np.array(fit.random_parameters.values.T, order="C").reshape(-1, *shape)
    return made


def per_response(design: Design) -> dict[str, tuple[str, int]]:
    """The variables of :data:`PER_RESPONSE` that a model has."""
    general = design.random and not design.has_one_intercept
    return {name: what for name, what in PER_RESPONSE.items() if not (general and name in OF_INTERCEPT)}


def stored_arrays(fit: Any, shape: tuple[int, ...], level: float) -> dict[str, np.ndarray]:
    """:func:`result_arrays` and those of ``STORED``: all from which the fit is made again."""
    more = {}
    for name in STORED:
        array = getattr(fit, name)
        if array.shape[1]:  # without a random effect there is no theta
            more[name] = np.moveaxis(array, 0, -1).reshape(*array.shape[1:], *shape)
    return result_arrays(fit, shape, level) | more


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
        **({} if design.dropped is None else {"n_dropped": len(design.dropped.rows)}),
        "ran_par": list(parameter_labels(design.random)),
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
    here = {name: what for name, what in PER_RESPONSE.items() if name in arrays}
    made |= {name: variable(arrays[name], *what, units, *dims) for name, what in here.items()}
    attrs = dict(attrs)
    labels = attrs.pop("ran_par", [])
    if "ran_pars" in arrays:
        made["ran_pars"] = variable(arrays["ran_pars"], RAN_PARS, 0, units, "ran_par", *dims)
    made["status"].attrs |= {
        "flag_values": np.array([s.value for s in Status], dtype=np.int8),
        "flag_meanings": " ".join(s.name.lower() for s in Status),
    }
    xr = extra("xarray", "labelled results")
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
        if index is not None and index.nlevels > 1:
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
    return extra("xarray", "labelled results").Variable(dims, values, attrs)
