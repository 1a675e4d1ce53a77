"""Fits whose responses and results are both on disk: read, fitted and written block by block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

try:
    import xarray as xr
except ImportError as error:
    raise ImportError('results on disk need zarr and xarray: pip install "jaxlmm[stream]"') from error

from jaxlmm._types import Status
from jaxlmm.engine.finish import empty_results
from jaxlmm.families.registry import Model
from jaxlmm.fit import check_options, fit_prepared, prepare
from jaxlmm.formula.data import table_weights
from jaxlmm.formula.formula import prepare_formula
from jaxlmm.inference.distributions import check_level
from jaxlmm.labelled.data import labelled_problem
from jaxlmm.labelled.formula import labelled_formula
from jaxlmm.outofcore.resumable import check_content, check_share, open_run, run_blocks
from jaxlmm.outofcore.run_settings import digest, make_settings
from jaxlmm.results.results import Fit
from jaxlmm.sources.opening import open_path
from jaxlmm.sources.plan import make_plan
from jaxlmm.sources.sources import Source, open_source
from jaxlmm.storage.parts import design_parts
from jaxlmm.storage.result_store import ResultStore, packed_missing
from jaxlmm.storage.stored import stored_content
from jaxlmm.storage.zip import packed_archive
from jaxlmm.tabular.dataset import RESERVED, check_no_multiindex, result_attrs, stored_arrays, stored_dataset
from jaxlmm.tabular.labels import Labels

__all__ = ["fit_to_store", "lmm_to_store"]


@dataclass(frozen=True, eq=False)
class Task:
    """A model, where its responses are, and how these are labelled."""

    model: Model
    source: Source
    dims: tuple[Hashable, ...]
    coords: Any
    units: str | None
    formula: Any


def fit_to_store(
    X: Any,
    Y: Any,
    groups: Any = None,
    *,
    out: Any,
    obs_dim: Hashable = None,
    weights: Any = None,
    names: Sequence[str] | None = None,
    group_name: str | None = None,
    terms: Any = None,
    random: Sequence[Any] | None = None,
    dims: Sequence[Hashable] | None = None,
    coords: Mapping[Hashable, Any] | None = None,
    **options: Any,
) -> xr.Dataset | None:
    """Fit responses that need not fit in memory; results go to a Zarr store as they come.

    Parameters
    ----------
    X, groups, weights, names, group_name, terms, random
        As in :func:`jaxlmm.fit`; for a DataArray as in :func:`jaxlmm.fit_dataarray`.
    Y : Zarr array, h5py dataset, dask array, memory map, array, path, or DataArray
        (n_obs, *dims): all axes but the first are responses; of a DataArray all but ``obs_dim``.
        Read in blocks of responses, along the store's chunks. A path is that of a ``.npy`` file, of
        a Zarr array, or of a dataset in an HDF5 file, ``"file.h5:/name"``.
    out : path
        Folder of the results, for ``xarray.open_zarr`` and ``jaxlmm.load``: the variables of
        :meth:`jaxlmm.Fit.to_dataset`, and a few more. It appears when all is done;
        until then ``<out>.part`` holds what is.
    obs_dim : hashable
        Dimension of the observations, if Y is a DataArray.
    dims, coords : optional
        Names and labels of the axes of responses, if Y is no DataArray. Default: those that the
        store has, or ``response``, or ``dim_1``, ``dim_2``, ...
    **options
        ``method``, ``df``, ``missing`` as in :func:`jaxlmm.fit`, and

        - ``level`` (0.95) of the Wald intervals;
        - ``block``, responses read at a time; by default ``jaxlmm.sources.plan.BLOCK_BYTES`` of them;
        - ``resume`` (False): go on with what an earlier call with the same arguments left. The
          results are the same, bit by bit, as if it had not been stopped. "verify": also if the
          files of Y have other times, so long as what was fitted is the same in them;
        - ``overwrite`` (False): replace results at ``out``, once the new ones are complete, and
          unfinished ones at once;
        - ``share``, ``(i, k)``: this process does the i-th of k shares, others do theirs at the
          same time with the same ``out``. Default: as ``jax.distributed`` says, or all;
        - ``progress``: a bar with responses per second and time left; by default on a terminal.

    Returns
    -------
    Dataset or None
        The results, read when asked for. None while other processes still work on their shares.

    Raises
    ------
    ValueError
        Something is at ``out`` or ``<out>.part`` and neither ``resume`` nor ``overwrite`` is given;
        with ``resume``, Y, the design, an option or a version is not what it was; another process
        writes the same share; and what :func:`jaxlmm.fit` raises.
    OSError
        A block of Y cannot be read (says which), results cannot be written, the disk is full. What
        was finished stays, to be resumed.
    """
    formula = options.pop("formula", None)
    if isinstance(Y, (str, os.PathLike)):
        Y = open_path(Y)
    if isinstance(Y, xr.DataArray):
        if dims is not None or coords is not None:
            raise ValueError("dims and coords are given, but Y is a DataArray, which has its own; leave them out.")
        problem = labelled_problem(X, Y, groups, obs_dim=obs_dim, weights=weights, group_name=group_name)
        X, groups, weights, group_name = problem.X, problem.groups, problem.weights, problem.group_name
        source = open_source(Y, obs_dim)
        labels, units = (problem.dims, problem.coords), problem.units
    else:
        if obs_dim is not None:
            raise ValueError("obs_dim is given, but Y is no DataArray; its first axis holds the observations.")
        source, units = open_source(Y), None
        labels = _labels(source, dims, coords)
    model = prepare(X, groups, random=random, names=names, group_name=group_name, weights=weights, terms=terms)
    if source.shape[0] != model.design.n_obs:
        raise ValueError(
            f"Y, {source.describe()}, has {source.shape[0]} rows, X has {model.design.n_obs}; observations must be "
            "its first axis, and the rows the same."
        )
    if not all(source.shape):
        raise ValueError(f"Y has shape {source.shape}, so there is nothing to fit.")
    return _run(Task(model, source, *labels, units, formula), out, **options)


def lmm_to_store(
    formula: str,
    Y: Any,
    data: Any = None,
    *,
    out: Any,
    obs_dim: Hashable = None,
    weights: Any = None,
    **options: Any,
) -> xr.Dataset | None:
    """:func:`fit_to_store` by formula.

    Parameters
    ----------
    formula : str
        Without a response, ``"age * cond + (1 | subject)"``; see :func:`jaxlmm.lmm`.
    data : DataFrame, optional
        The variables, one row an observation in Y's order. Default: the coordinates of a DataArray
        along ``obs_dim``.
    Y, out, obs_dim, weights, **options
        As in :func:`fit_to_store`; ``weights`` may name one of the variables.
    """
    if isinstance(Y, (str, os.PathLike)):
        Y = open_path(Y)
    if isinstance(Y, xr.DataArray):
        made, weights = labelled_formula(formula, Y, data, obs_dim, weights)
    elif data is None:
        raise ValueError("data is missing: give the table of the variables, one row an observation.")
    else:
        made = prepare_formula(formula, data)
        if made.response is not None:
            raise ValueError(f"formula '{formula}' names a response, but the responses are Y; leave it out.")
        weights = table_weights(weights, data)
    return fit_to_store(
        made.X, Y, random=made.random_terms, out=out, obs_dim=obs_dim, weights=weights, names=made.names,
        terms=made.structure, formula=made, **options,
    )  # fmt: skip


def _run(
    task: Task,
    out: Any,
    *,
    method: str = "REML",
    df: str = "satterthwaite",
    missing: str = "drop",
    level: float = 0.95,
    block: int | None = None,
    share: tuple[int, int] | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> xr.Dataset | None:
    check_options(method, df, missing)
    check_level(level)
    design, source = task.model.design, task.source
    target, mine = Path(os.path.abspath(os.fspath(out))), check_share(share)
    labels = Labels.of_coords(task.dims, source.shape[1:], task.coords, task.units)
    manifest, arrays = design_parts(design, method, df, task.formula, labels)
    options = {"method": method, "df": df, "missing": missing, "level": level}
    coords = xr.Dataset(coords=task.coords)
    fixed = {**manifest, "jaxlmm": None, "fields": manifest["fields"]["design"]}
    settings = make_settings(options, digest(fixed, arrays), _label_digest(task, coords), source)
    inside = {"design": packed_archive(manifest, arrays)}
    bytes_each = source.shape[0] * source.dtype.itemsize
    dims = tuple(source.shape[1:])

    def create() -> bool:
        plan = make_plan(dims, bytes_each, source.chunks, block)
        one = stored_arrays(_nothing(task.model, method, df), (1,) * len(dims), level)
        whole = {k: np.broadcast_to(v, (*v.shape[: v.ndim - len(dims)], *dims)) for k, v in one.items()}
        formula = None if task.formula is None else task.formula.formula
        attrs = result_attrs(design, formula, method, df, level)
        template = stored_dataset(whole, design.names, task.dims, task.coords, task.units, attrs)
        return ResultStore.create(target, settings, plan, template, inside)

    def compute(Y: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        fit = fit_prepared(task.model, Y, method=method, df=df, missing=missing)
        return stored_arrays(fit, shape, level) | packed_missing(fit, shape)

    if source.in_memory and resume == "verify":
        resume = True  # its stamp is of its content
    store = open_run(target, settings, mine, resume=resume, overwrite=overwrite, create=create)
    if store is None:
        if resume == "verify" or settings["Y"]["stamp"] is None:
            check_content(source, *stored_content(target))
    else:
        with contextlib.closing(store):
            if not run_blocks(store, source, mine, compute, settings["Y"]["stamp"], resume == "verify", progress):
                return None
    return xr.open_zarr(target, chunks=None)


def _nothing(model: Model, method: str, df: str) -> Fit:
    """A fit of one response that could not be fitted, which has the types and shapes of all."""
    n, p = model.design.n_obs, model.design.n_fixef
    none: dict[str, Any] = {
        name: np.full_like(a, np.nan)
        for name, a in empty_results(1, p, model.family.n_theta).items()
        if a.dtype.kind == "f"
    }
    return Fit(
        design=model.design, method=method, df_method=df, **none, status=np.full(1, Status.NONFINITE, dtype=np.int8),
        n_used=np.full(1, n), Y=np.full((n, 1), np.nan), model=model,
    )  # fmt: skip


def _labels(source: Source, dims: Any, coords: Any) -> tuple[tuple[Hashable, ...], Any]:
    """Names and coordinates of the axes of responses, as given or as the store has them."""
    k = len(source.shape) - 1
    if dims is None:
        dims = source.dims or (("response",) if k == 1 else tuple(f"dim_{i + 1}" for i in range(k)))
    dims = (dims,) if isinstance(dims, str) else tuple(dims)
    if len(dims) != k or len(set(dims)) < k:
        raise ValueError(f"dims must be {k} different names, one an axis of Y after the first; found {dims}.")
    try:
        made = xr.DataArray(np.broadcast_to(np.int8(0), source.shape[1:]), dims=dims, coords=coords).coords
    except ValueError as error:
        raise ValueError(f"coords do not match Y, {source.describe()}, with dims {dims}: {error}") from None
    taken = [name for name in (*dims, *made) if name in RESERVED]
    if taken:
        raise ValueError(f"dims or coords have {taken[0]!r}, which the results use; rename it.")
    return dims, made


def _label_digest(task: Task, coords: xr.Dataset) -> str:
    check_no_multiindex(coords.coords)
    values = {str(name): np.asarray(coord.to_numpy()) for name, coord in coords.coords.items()}
    where = {str(name): list(map(str, coord.dims)) for name, coord in coords.coords.items()}
    return digest([[str(dim) for dim in task.dims], where, task.units], values)
