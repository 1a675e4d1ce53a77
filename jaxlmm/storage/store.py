"""A fit as a Zarr store, and back; the layout is that of :mod:`jaxlmm.storage.result_store`, which xarray opens."""

from __future__ import annotations

import io
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

try:
    import xarray as xr
    import zarr  # noqa: F401
except ImportError as error:
    raise ImportError('results on disk need zarr and xarray: pip install "jaxlmm[stream]"') from error

from jaxlmm.labelled.data import result_attrs, stored_arrays, stored_dataset
from jaxlmm.labelled.labelled import LabelledFit
from jaxlmm.results.results import Fit
from jaxlmm.sources.plan import Plan
from jaxlmm.storage.absent import checksums
from jaxlmm.storage.parts import ROWS, check_manifest, design_parts, from_parts, reading
from jaxlmm.storage.result_store import (
    INSIDE,
    MISSING,
    ResultStore,
    check_replaceable,
    is_result_store,
    packed_missing,
    read_settings,
    stored_results,
)
from jaxlmm.storage.zip import packed_archive, read_archive

__all__ = ["load_labelled", "read_result_store", "write_fit"]

# Columns of the packed bits that are read at once.
CHUNK = 2**16
LEVEL = 0.95
FORMAT = "jaxlmm fit"


def write_fit(labelled: LabelledFit, path: str, include_Y: bool, overwrite: bool) -> None:
    """Write a fit as a Zarr store; see :func:`jaxlmm.storage.save`.

    Raises
    ------
    FileExistsError
    ValueError
        Something else is at ``path``; labels of a type that cannot be stored.
    """
    fit, out = labelled.fit, Path(os.path.abspath(path))
    part = out.with_name(out.name + ".part")
    for place in (out, part):
        if os.path.lexists(place) and not overwrite:
            raise FileExistsError(f"{place} exists; give another path, or overwrite=True.")
    if os.path.lexists(out):
        check_replaceable(out)
    if os.path.lexists(part):
        if not (part / "settings.json").is_file() or read_settings(part)["format"] != FORMAT:
            raise ValueError(f"'{part}' is in the way, and was not left by save; move it, or give another path.")
        shutil.rmtree(part)
    manifest, arrays = design_parts(fit.design, fit.method, fit.df_method, fit.source)
    known = checksums(fit.Y)
    if known is not None:
        arrays["checksums"] = known
    if fit.given_names:
        arrays["given_names"] = np.array(fit.given_names)
    inside = {"design": packed_archive(manifest, arrays)}
    if include_Y:
        inside["Y"] = np.asarray(fit.Y)
    values = stored_arrays(fit, labelled.shape, LEVEL)
    formula = None if fit.source is None else fit.source.formula
    attrs = result_attrs(fit.design, formula, fit.method, fit.df_method, LEVEL)
    template = stored_dataset(values, fit.names, labelled.dims, labelled.coords, labelled.units, attrs)
    settings = {"format": FORMAT, "Y": {"shape": [fit.n_obs, *labelled.shape]}}
    ResultStore.create(out, settings, Plan(labelled.shape, labelled.shape), template, inside)
    store = ResultStore(out, "save")
    store.write(0, values if include_Y else values | packed_missing(fit, labelled.shape))
    store.complete()


def read_result_store(path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Manifest and arrays of the results in the folder ``path``, for :func:`jaxlmm.storage.parts.from_parts`.

    Raises
    ------
    ValueError
        No finished results there, or not as they were written.
    """
    if not is_result_store(Path(path)):
        part = os.path.exists(path.rstrip("/") + ".part")
        hint = "; its run is not finished: call it again with resume=True" if part else ""
        raise ValueError(f"'{path}' holds no results of fit_to_store{hint}.")
    with reading(path):
        group, found = stored_results(Path(path))
        content = np.asarray(group[f"{INSIDE}/design"]).tobytes()
        manifest, arrays = read_archive(io.BytesIO(content), check_manifest)
        for name in ROWS:
            array = found[name]
            by_term = name in ("coef", "se_gls")
            arrays[name] = array.reshape(len(array), -1).T.copy() if by_term else array.ravel()
        if f"{INSIDE}/Y" in group:
            arrays["Y"] = np.asarray(group[f"{INSIDE}/Y"])
        else:
            incomplete = (arrays["n_used"] < group.attrs["n_obs"]) & found["converged"].ravel()
            arrays["missing"] = _columns(group[MISSING], incomplete)
    return manifest, arrays


def load_labelled(path: Any, **options: Any) -> LabelledFit:
    """What :func:`write_fit` or :func:`jaxlmm.fit_to_store` wrote, with its labels; see ``LabelledFit.load``."""
    path = os.fspath(path)
    fit: Fit = from_parts(*read_result_store(path), path, **options)
    with xr.open_zarr(path, chunks=None) as stored:
        one = stored["sigma2"].load()
        coords = one.coords
        units = stored["coef"].attrs.get("units")
    return LabelledFit(fit, one.dims, one.shape, coords, units)


def _columns(missing: Any, wanted: np.ndarray) -> np.ndarray:
    """Columns of an array (rows, *dims) of which only some are wanted, read in parts along the first axis of dims."""
    height, first, inner = missing.shape[0], missing.shape[1], math.prod(missing.shape[2:])
    step, parts = max(CHUNK // inner, missing.chunks[1]), [np.zeros((height, 0), dtype=np.uint8)]
    for k in range(0, first, step):
        mask = wanted[k * inner : (k + step) * inner]
        if mask.any():
            parts.append(np.asarray(missing[:, k : k + step]).reshape(height, -1)[:, mask])
    return np.concatenate(parts, axis=1)
