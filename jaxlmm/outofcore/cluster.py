"""Responses in dask: every chunk is fitted where it is read, by threads, processes or a cluster."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    import dask.array as da
    import xarray as xr
    from dask.base import tokenize
    from dask.delayed import delayed
except ImportError as error:
    raise ImportError('lazy fits need dask and xarray: pip install "jaxlmm[dask]"') from error

from jaxlmm.design.arrays import numeric
from jaxlmm.design.design import Design
from jaxlmm.design.random import parameter_labels
from jaxlmm.families.registry import Model, make_family
from jaxlmm.fit import check_options, fit_prepared, prepare
from jaxlmm.inference.distributions import check_level
from jaxlmm.labelled.data import LabelledProblem, labelled_problem
from jaxlmm.tabular.dataset import PER_TERM, per_response, result_arrays, result_attrs, results_dataset

__all__ = ["fit_lazy", "lmm_lazy"]

# Types of the results that are not float64; all travel as float64, which holds them exactly.
DTYPES = {
    "n_used": np.dtype(int),
    "singular": np.dtype(bool),
    "converged": np.dtype(bool),
    "status": np.dtype(np.int8),
}
OBS = "obs"


@dataclass(frozen=True, eq=False)
class Plan:
    """What every chunk's task needs beside its values; the graph holds it once.

    Attributes
    ----------
    model : Model or Design
        The design while it travels, which is small; prepared by a task of its own.
    axis : int
        Of the observations in a block of Y.
    dims, chunks : tuple
        Dimensions of the responses and the sizes of their chunks.
    method, df, missing, level
        Options of the fit.
    """

    model: Any
    axis: int
    dims: tuple[Hashable, ...]
    chunks: tuple[tuple[int, ...], ...]
    method: str
    df: str
    missing: str
    level: float


def fit_lazy(
    X: Any,
    Y: Any,
    groups: Any = None,
    *,
    obs_dim: Hashable = None,
    weights: Any = None,
    names: Sequence[str] | None = None,
    group_name: str | None = None,
    terms: Any = None,
    random: Sequence[Any] | None = None,
    method: str = "REML",
    df: str = "satterthwaite",
    missing: str = "drop",
    level: float = 0.95,
) -> xr.Dataset:
    """Fit the same model to every cell of a dask array, when and where dask computes it.

    Parameters
    ----------
    X, groups, weights, group_name
        As in :func:`jaxlmm.fit_dataarray`: arrays, functions of Y's coordinates, names of them.
    Y : DataArray that holds a dask array, or dask array
        Dimensions other than ``obs_dim`` are responses. A plain dask array is (n_obs, *responses);
        its responses have the dimension "response", or "dim_1", "dim_2", ... if there are several.
        A chunk is fitted as a whole, in memory: n_obs x its responses. Where the observations are
        in several chunks they are joined first, so chunk the responses for this to fit.
    obs_dim : hashable
        Dimension of the observations; only for a DataArray.
    names, terms, random, method, df, missing
        As in :func:`jaxlmm.fit`.
    level : float
        Of the Wald intervals ``conf_low`` to ``conf_high``.

    Returns
    -------
    Dataset
        That of ``fit_dataarray(...).to_dataset(level)``, but lazy, in Y's chunks. The design is
        checked at once; of Y only shape, type and coordinates are read. ``compute``, ``persist``,
        ``to_zarr`` and the like fit each chunk once, for all variables that they need; what is
        computed in two calls is fitted twice.

    Raises
    ------
    ValueError
        Y holds no dask array or one of unknown size; what ``fit_dataarray`` raises, at once if it
        is about the model and from the chunk's task, which it names, if it is about Y's values.
    """
    array = _labelled(Y, obs_dim)
    obs_dim = array.dims[0] if obs_dim is None else obs_dim
    problem = labelled_problem(X, array, groups, obs_dim=obs_dim, weights=weights, group_name=group_name)
    options: Any = {"method": method, "df": df, "missing": missing, "level": level}
    return _lazy_dataset(array.data, problem, names, terms, None, random, **options)


def lmm_lazy(
    formula: str,
    Y: Any,
    data: Any = None,
    *,
    obs_dim: Hashable = None,
    weights: Any = None,
    method: str = "REML",
    df: str = "satterthwaite",
    missing: str = "drop",
    level: float = 0.95,
) -> xr.Dataset:
    """Fit a formula to every cell of a dask array, when and where dask computes it.

    Parameters
    ----------
    formula, data
        As in :func:`jaxlmm.lmm_dataarray`: without a response; the variables, one row an
        observation. Default: Y's coordinates along ``obs_dim``.
    Y, obs_dim, method, df, missing, level
        As in :func:`fit_lazy`, and so are the result and the errors.
    weights : str, array-like (n_obs,), or function, optional
        As in :func:`jaxlmm.lmm_dataarray`.
    """
    from jaxlmm.labelled.formula import labelled_formula  # needs formulaic

    array = _labelled(Y, obs_dim)
    obs_dim = array.dims[0] if obs_dim is None else obs_dim
    made, weights = labelled_formula(formula, array, data, obs_dim, weights)
    problem = labelled_problem(made.X, array, obs_dim=obs_dim, weights=weights)
    options: Any = {"method": method, "df": df, "missing": missing, "level": level}
    return _lazy_dataset(array.data, problem, made.names, made.structure, made.formula, made.random_terms, **options)


def _labelled(Y: Any, obs_dim: Hashable) -> xr.DataArray:
    """Y as a DataArray that holds a dask array."""
    if isinstance(Y, da.Array):
        if obs_dim is not None:
            raise ValueError(
                f"obs_dim is {obs_dim!r}, but Y is a dask array: its first dimension is the observations."
            )
        if Y.ndim == 0:
            raise ValueError("Y has no dimension; its first one is the observations.")
        if np.isnan(Y.shape).any():
            raise ValueError("Y has chunks of unknown size; call Y.compute_chunk_sizes() first.")
        rest = ("response",) if Y.ndim == 2 else tuple(f"dim_{k}" for k in range(1, Y.ndim))
        return xr.DataArray(Y, dims=(OBS, *rest))
    if not isinstance(Y, xr.DataArray):
        raise ValueError(
            f"Y must be a dask array, or an xarray DataArray that holds one; found {type(Y).__name__}. Arrays in "
            "memory go to jaxlmm.fit."
        )
    if obs_dim is None:
        raise ValueError(f"obs_dim is missing; the dimensions of Y are {', '.join(map(repr, Y.dims))}.")
    if Y.chunks is None or not isinstance(Y.data, da.Array):
        raise ValueError(
            "Y holds no dask array, so there is nothing to compute later: use jaxlmm.fit_dataarray, or make chunks "
            "of responses with Y.chunk(...)."
        )
    return Y


def _lazy_dataset(
    values: da.Array,
    problem: LabelledProblem,
    names: Sequence[str] | None,
    terms: Any,
    formula: str | None,
    random: Sequence[Any] | None,
    *,
    method: str,
    df: str,
    missing: str,
    level: float,
) -> xr.Dataset:
    """All that can be checked without values, and then the graph."""
    check_options(method, df, missing)
    check_level(level)
    numeric(np.empty(0, values.dtype), "Y")  # for its error
    if 0 in problem.shape:
        raise ValueError("Y has no columns, so there is nothing to fit.")
    design = prepare(
        problem.X,
        problem.groups,
        random=random,
        names=names,
        group_name=problem.group_name,
        weights=problem.weights,
        terms=terms,
    ).design
    if len(values.chunks[problem.axis]) > 1:
        # By tasks: pieces of a chunk are joined where they are read, with no exchange among all workers.
        values = values.rechunk({problem.axis: -1}, method="tasks")
    chunks = tuple(sizes for axis, sizes in enumerate(values.chunks) if axis != problem.axis)
    plan = Plan(_for_travel(design), problem.axis, problem.dims, chunks, method, df, missing, level)
    arrays = _lazy_arrays(values, plan, design)
    attrs = result_attrs(design, formula, method, df, level)
    return results_dataset(arrays, design.names, problem.dims, problem.coords, problem.units, attrs)


def _for_travel(design: Design) -> Design:
    """What the numbers depend on: no labels, whose types the workers may not know, and no terms."""
    random = tuple(dataclasses.replace(g, levels=tuple(range(len(g.levels)))) for g in design.random)
    return dataclasses.replace(design, random=random, terms=None)


def _lazy_arrays(values: da.Array, plan: Plan, design: Design) -> dict[str, da.Array]:
    """The results by name, as :func:`result_arrays` gives them, a task a chunk and one more a variable."""
    token = tokenize(
        plan.model.X, plan.model.weights, [(g.codes, g.Z) for g in plan.model.random],
        plan.axis, plan.dims, plan.chunks,
        plan.method, plan.df, plan.missing, plan.level, importlib.metadata.version("jaxlmm"),
    )  # fmt: skip
    # One node of the graph, not an argument of every task.
    prepared = delayed(_prepare_plan, pure=True)(plan, dask_key_name=f"jaxlmm-design-{token}")
    p, single, K = design.n_fixef, per_response(design), len(parameter_labels(design.random))
    rows = len(PER_TERM) * p + len(single) + K
    fitted = da.map_blocks(
        fit_chunk, values, prepared, drop_axis=plan.axis, new_axis=0,
        chunks=((rows,), *plan.chunks), dtype=np.float64, meta=np.empty((0,) * (1 + len(plan.dims))),
    )  # fmt: skip
    made = {}
    several = {name: (k * p, p) for k, name in enumerate(PER_TERM)}
    if K:
        several["ran_pars"] = (rows - K, K)
    for name, (start, size) in several.items():
        made[name] = da.map_blocks(
            result_rows, fitted, start, start + size, np.dtype(float), chunks=((size,), *plan.chunks),
            dtype=np.float64, meta=np.empty((0,) * (1 + len(plan.dims))),
        )  # fmt: skip
    for k, name in enumerate(single, len(PER_TERM) * p):
        dtype = DTYPES.get(name, np.dtype(float))
        made[name] = da.map_blocks(
            result_rows, fitted, k, None, dtype, drop_axis=0, chunks=plan.chunks,
            dtype=dtype, meta=np.empty((0,) * len(plan.dims), dtype),
        )  # fmt: skip
    return made


# -- what the tasks do -----------------------------------------------------------------------------


def _prepare_plan(plan: Plan) -> Plan:
    return dataclasses.replace(plan, model=Model(make_family(plan.model)))


def fit_chunk(values: Any, plan: Plan, block_id: tuple[int, ...]) -> np.ndarray:
    """The results of a chunk, stacked: (rows, *its shape); a ValueError names the chunk."""
    matrix = np.moveaxis(values, plan.axis, 0)
    shape = matrix.shape[1:]
    starts = [sum(sizes[:k]) for sizes, k in zip(plan.chunks, block_id[1:], strict=True)]
    expected = tuple(sizes[k] for sizes, k in zip(plan.chunks, block_id[1:], strict=True))
    try:
        if shape != expected:
            raise ValueError(f"its responses have the shape {shape}, where Y's chunks say {expected}.")
        matrix = matrix.reshape(len(matrix), -1)
        fit = fit_prepared(plan.model, matrix, method=plan.method, df=plan.df, missing=plan.missing)
        arrays = result_arrays(fit, shape, plan.level)
    except ValueError as error:
        ends = zip(plan.dims, starts, expected, strict=True)
        where = ", ".join(f"{dim} {start}:{start + size}" for dim, start, size in ends)
        raise ValueError(f"chunk {block_id[1:]} of Y ({where}): {error}") from error
    return np.concatenate([np.asarray(a, dtype=np.float64).reshape(-1, *shape) for a in arrays.values()])


def result_rows(fitted: np.ndarray, start: int, stop: int | None, dtype: np.dtype[Any]) -> np.ndarray:
    """Some of the stacked results, copied, so that the others need not be kept."""
    return np.array(fitted[start] if stop is None else fitted[start:stop], dtype=dtype)
