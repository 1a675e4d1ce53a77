"""Fits whose responses and results are both on disk: read, fitted and written block by block."""

from __future__ import annotations

import contextlib
import dataclasses
import os
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
from jaxlmm.outofcore.place import LEVEL, Place
from jaxlmm.outofcore.resumable import check_content, check_share, interrupted, open_run, run_blocks
from jaxlmm.outofcore.run_settings import digest, make_settings
from jaxlmm.results.fitting import fit_model
from jaxlmm.results.options import FitOptions
from jaxlmm.results.results import Fit
from jaxlmm.sources.plan import make_plan
from jaxlmm.sources.sources import Source
from jaxlmm.sources.weighted import WeightedMatrix, WeightedSource, values_of
from jaxlmm.storage.parts import GIVEN, design_parts
from jaxlmm.storage.result_store import ResultStore, packed_missing
from jaxlmm.storage.stored import stored_content
from jaxlmm.storage.zip import packed_archive
from jaxlmm.tabular.dataset import check_no_multiindex, result_attrs, stored_arrays, stored_dataset
from jaxlmm.tabular.labels import Labels

__all__ = ["Task", "fit_to_disk"]


@dataclass(frozen=True, eq=False)
class Task:
    """A model, where its responses are, how these are labelled, and the formula of the model if there is one."""

    model: Model
    source: Source
    labels: Labels
    formula: Any = None


def fit_to_disk(task: Task, options: FitOptions, place: Place) -> xr.Dataset | None:
    """Fit responses that need not fit in memory; results go to a Zarr store as they come.

    The store at ``place.out``, for ``xarray.open_zarr`` and ``jaxlmm.load``, holds the variables of
    ``Fit.to_dataset``, and a few more. It appears when all is done; until then ``<out>.part``
    holds what is.

    Returns
    -------
    Dataset or None
        The results, read when asked for. None while other processes still work on their shares.

    Raises
    ------
    ValueError
        Something is at ``out`` or ``<out>.part`` and neither ``resume`` nor ``overwrite`` is given;
        with ``resume``, Y, the design, an option or a version is not what it was; another process
        writes the same share.
    OSError
        A block of Y cannot be read (says which), results cannot be written, the disk is full. What
        was finished stays, to be resumed.
    """
    design, source, labels = task.model.design, task.source, task.labels
    if not all(source.shape):
        raise ValueError(f"Y has shape {source.shape}, so there is nothing to fit.")
    level, resume = LEVEL if place.level is None else place.level, place.resume
    target, mine = Path(os.path.abspath(os.fspath(place.out))), check_share(place.share)
    manifest, arrays = design_parts(design, options.method, options.df, task.formula)
    coords = xr.Dataset(coords=labels.to_coords(numbered=False))
    fixed = {**manifest, "jaxlmm": None, "fields": manifest["fields"]["design"]}
    asked = dataclasses.asdict(options) | {"level": level}
    settings = make_settings(asked, digest(fixed, arrays), _label_digest(labels, coords), source)
    labelled, more = design_parts(design, options.method, options.df, task.formula, labels)
    if isinstance(source, WeightedSource):
        labelled["fields"]["weights"] = GIVEN
    inside = {"design": packed_archive(labelled, more)}
    bytes_each = source.shape[0] * source.dtype.itemsize
    dims = tuple(source.shape[1:])

    def create() -> bool:
        plan = make_plan(dims, bytes_each, source.chunks, place.block)
        one = stored_arrays(_nothing(task.model, options), (1,) * len(dims), level)
        whole = {k: np.broadcast_to(v, (*v.shape[: v.ndim - len(dims)], *dims)) for k, v in one.items()}
        formula = None if task.formula is None else task.formula.formula
        attrs = result_attrs(design, formula, options.method, options.df, level)
        template = stored_dataset(whole, design.names, labels.dims, coords.coords, labels.units, attrs)
        return ResultStore.create(target, settings, plan, template, inside)

    def compute(Y: np.ndarray | WeightedMatrix, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        own = Y.weights if isinstance(Y, WeightedMatrix) else None
        fit = fit_model(task.model, values_of(Y), options, weights=own)
        return stored_arrays(fit, shape, level) | packed_missing(fit, shape)

    if source.in_memory and resume == "verify":
        resume = True  # its stamp is of its content
    store = open_run(target, settings, mine, resume=resume, overwrite=place.overwrite, create=create)
    if store is None:
        if resume == "verify" or settings["Y"]["stamp"] is None:
            check_content(source, *stored_content(target))
    else:
        verify = resume == "verify"
        with contextlib.closing(store):
            try:
                if not run_blocks(store, source, mine, compute, settings["Y"]["stamp"], verify, place.progress):
                    return None
            except KeyboardInterrupt as stop:
                stop.add_note(interrupted(store, mine, place.overwrite))
                raise
    return xr.open_zarr(target, chunks=None)


def _nothing(model: Model, options: FitOptions) -> Fit:
    """A fit of one response that could not be fitted, which has the types and shapes of all."""
    n, p = model.design.n_obs, model.design.n_fixef
    empty = empty_results(1, p, model.family.n_theta)
    none: dict[str, Any] = {name: np.full_like(a, np.nan) for name, a in empty.items() if a.dtype.kind == "f"}
    return Fit(
        design=model.design, method=options.method, df_method=options.df, **none,
        status=np.full(1, Status.NONFINITE, dtype=np.int8),
        n_used=np.full(1, n), Y=np.full((n, 1), np.nan), model=model,
    )  # fmt: skip


def _label_digest(labels: Labels, coords: xr.Dataset) -> str:
    check_no_multiindex(coords.coords)
    values = {str(name): np.asarray(coord.to_numpy()) for name, coord in coords.coords.items()}
    where = {str(name): list(map(str, coord.dims)) for name, coord in coords.coords.items()}
    return digest([[str(dim) for dim in labels.dims], where, labels.units], values)
