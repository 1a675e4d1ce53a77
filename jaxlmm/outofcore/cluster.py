"""Responses in dask: every chunk is fitted where it is read, by threads, processes or a cluster."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from collections.abc import Hashable
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
from jaxlmm.outofcore.bar import watch
from jaxlmm.results.fitting import fit_model
from jaxlmm.results.options import FitOptions
from jaxlmm.tabular.dataset import PER_TERM, per_response, result_arrays, result_attrs, results_dataset
from jaxlmm.tabular.labels import Labels

__all__ = ["lazy_fit"]

# Types of the results that are not float64; all travel as float64, which holds them exactly.
DTYPES = {
    "n_used": np.dtype(int),
    "singular": np.dtype(bool),
    "converged": np.dtype(bool),
    "status": np.dtype(np.int8),
}


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
    options : FitOptions
    level : float
    """

    model: Any
    axis: int
    dims: tuple[Hashable, ...]
    chunks: tuple[tuple[int, ...], ...]
    options: FitOptions
    level: float


def lazy_fit(
    values: da.Array,
    axis: int,
    labels: Labels,
    design: Design,
    formula: str | None,
    options: FitOptions,
    level: float,
    weights: Any = None,
    show: bool | None = None,
) -> xr.Dataset:
    """Fit the same model to every response of a dask array, when and where dask computes it.

    Parameters
    ----------
    values : dask array
        Its chunks are fitted as a whole, in memory: n_obs x the responses. Where the observations are
        in several chunks they are joined first.
    axis : int
        Of the observations.
    labels : Labels
    design : Design
    formula : str or None
    options : FitOptions
    level : float
        Of the Wald intervals.
    weights : array or dask array, optional
        Of each response's own, with the axes of ``values``.
    show : bool, optional
        Whether a bar is drawn while the result is computed on this machine; default: on a terminal and in a notebook.

    Returns
    -------
    Dataset
        That of ``Fit.to_dataset``, but lazy, in the chunks of ``values``, of which no value is
        read. What is computed in one call is fitted once; a ValueError about values comes from the
        chunk's task, which it names.
    """
    numeric(np.empty(0, values.dtype), "Y")  # for its error
    if 0 in labels.shape:
        raise ValueError("Y has no columns, so there is nothing to fit.")
    if len(values.chunks[axis]) > 1:
        # By tasks: pieces of a chunk are joined where they are read, with no exchange among all workers.
        values = values.rechunk({axis: -1}, method="tasks")
    chunks = tuple(sizes for k, sizes in enumerate(values.chunks) if k != axis)
    if weights is not None:
        weights = da.rechunk(da.asarray(weights), values.chunks)
        numeric(np.empty(0, weights.dtype), "weights")
    plan = Plan(_for_travel(design), axis, labels.dims, chunks, options, level)
    arrays = _lazy_arrays(values, weights, plan, design, show)
    attrs = result_attrs(design, formula, options.method, options.df, level)
    coords = labels.to_coords(numbered=False)
    return results_dataset(arrays, design.names, labels.dims, coords, labels.units, attrs)


def _for_travel(design: Design) -> Design:
    """What the numbers depend on: no labels, whose types the workers may not know, and no terms."""
    random = tuple(dataclasses.replace(g, levels=tuple(range(len(g.levels)))) for g in design.random)
    return dataclasses.replace(design, random=random, terms=None)


def _lazy_arrays(
    values: da.Array, weights: da.Array | None, plan: Plan, design: Design, show: bool | None
) -> dict[str, da.Array]:
    """The results by name, as :func:`result_arrays` gives them, a task a chunk and one more a variable."""
    token = tokenize(
        plan.model.X, plan.model.weights, [(g.codes, g.Z) for g in plan.model.random],
        plan.axis, plan.dims, plan.chunks,
        dataclasses.astuple(plan.options), plan.level, importlib.metadata.version("jaxlmm"),
    )  # fmt: skip
    # One node of the graph, not an argument of every task.
    key = f"jaxlmm-design-{token}"
    prepared = delayed(_prepare_plan, pure=True)(plan, dask_key_name=key)
    watch(key, math.prod(map(sum, plan.chunks)), math.prod(map(len, plan.chunks)), show)
    p, single, K = design.n_fixef, per_response(design), len(parameter_labels(design.random))
    rows = len(PER_TERM) * p + len(single) + K
    both = (values,) if weights is None else (values, weights)
    fitted = da.map_blocks(
        fit_chunk, *both, plan=prepared, drop_axis=plan.axis, new_axis=0,
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


def fit_chunk(values: Any, weights: Any = None, *, plan: Plan, block_id: tuple[int, ...]) -> np.ndarray:
    """The results of a chunk, stacked: (rows, *its shape); a ValueError names the chunk."""
    matrix = np.moveaxis(values, plan.axis, 0)
    shape = matrix.shape[1:]
    starts = [sum(sizes[:k]) for sizes, k in zip(plan.chunks, block_id[1:], strict=True)]
    expected = tuple(sizes[k] for sizes, k in zip(plan.chunks, block_id[1:], strict=True))
    try:
        if shape != expected:
            raise ValueError(f"its responses have the shape {shape}, where Y's chunks say {expected}.")
        matrix = matrix.reshape(len(matrix), -1)
        own = None if weights is None else np.moveaxis(weights, plan.axis, 0).reshape(len(matrix), -1)
        fit = fit_model(plan.model, matrix, plan.options, weights=own)
        arrays = result_arrays(fit, shape, plan.level)
    except ValueError as error:
        ends = zip(plan.dims, starts, expected, strict=True)
        where = ", ".join(f"{dim} {start}:{start + size}" for dim, start, size in ends)
        raise ValueError(f"chunk {block_id[1:]} of Y ({where}): {error}") from error
    return np.concatenate([np.asarray(a, dtype=np.float64).reshape(-1, *shape) for a in arrays.values()])


def result_rows(fitted: np.ndarray, start: int, stop: int | None, dtype: np.dtype[Any]) -> np.ndarray:
    """Some of the stacked results, copied, so that the others need not be kept."""
    return np.array(fitted[start] if stop is None else fitted[start:stop], dtype=dtype)
