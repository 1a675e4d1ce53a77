"""A fit as a Zarr store; the layout is that of :mod:`jaxlmm.storage.result_store`, which xarray opens."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxlmm.sources.plan import Plan
from jaxlmm.storage.absent import AbsentWeights, checksums
from jaxlmm.storage.parts import FORMAT, GIVEN, design_parts
from jaxlmm.storage.places import check_name, scratch_folder
from jaxlmm.storage.result_store import ResultStore, build, clean_up, packed_missing
from jaxlmm.storage.stored import check_replaceable, part_of
from jaxlmm.storage.zip import packed_archive
from jaxlmm.tabular.dataset import result_attrs, stored_arrays, stored_dataset

__all__ = ["write_fit"]

LEVEL = 0.95


def write_fit(fit: Any, path: str, include_Y: bool, overwrite: bool) -> None:
    """Write a fit as a Zarr store; see :func:`jaxlmm.Fit.save`.

    Raises
    ------
    FileExistsError
    ValueError
        Something else is at ``path``; labels of a type that cannot be stored.
    """
    labels, out = fit.labels, Path(os.path.abspath(path))
    check_name(str(out))
    clean_up(out)
    if os.path.lexists(part_of(out)):
        raise ValueError(
            f"'{part_of(out)}' is in the way, and was not left by save: an unfinished run with out=, or of "
            "others; finish it, move it, or give another path."
        )
    if os.path.lexists(out):
        if not overwrite:
            raise FileExistsError(f"{out} exists; give another path, or overwrite=True.")
        check_replaceable(out)
    manifest, arrays = design_parts(fit.design, fit.method, fit.df_method, fit.source, labels)
    known = checksums(fit.Y)
    if known is not None:
        arrays["checksums"] = known
    inside = {}
    if isinstance(fit.weights, AbsentWeights):
        manifest["fields"]["weights"] = GIVEN
    elif fit.weights is not None:
        inside["weights"] = np.asarray(fit.weights)
        manifest["fields"]["weights"] = {"array": "weights"}
    inside["design"] = packed_archive(manifest, arrays)
    if include_Y:
        inside["Y"] = np.asarray(fit.Y)
    values = stored_arrays(fit, labels.shape, LEVEL)
    formula = None if fit.source is None else fit.source.formula
    attrs = result_attrs(fit.design, formula, fit.method, fit.df_method, LEVEL)
    template = stored_dataset(values, fit.names, labels.dims, labels.to_coords(flat=True), labels.units, attrs)
    settings = {"format": FORMAT, "Y": {"shape": [fit.n_obs, *labels.shape]}}
    with scratch_folder(out) as made:
        build(made, settings, Plan(labels.shape, labels.shape), template, inside)
        store = ResultStore(out, "save", made)
        with contextlib.closing(store):
            store.write(0, values if include_Y else values | packed_missing(fit, labels.shape))
            store.complete(overwrite=overwrite)
