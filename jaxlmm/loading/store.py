"""A fit from a Zarr store that :mod:`jaxlmm.storage.result_store` wrote, also while others replace it."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

try:
    import xarray as xr  # noqa: F401
    import zarr  # noqa: F401
except ImportError as error:
    raise ImportError('results on disk need zarr and xarray: pip install "jaxlmm[stream]"') from error

from jaxlmm.loading.parts import check_manifest, reading
from jaxlmm.storage.places import at_work, sweep
from jaxlmm.storage.stored import INSIDE, MISSING, is_result_store, part_of, stored_results
from jaxlmm.storage.zip import read_archive
from jaxlmm.tabular.dataset import ROWS

__all__ = ["read_result_store"]

# Columns of the packed bits that are read at once.
CHUNK = 2**16
# Readings of a store that others replace meanwhile, and seconds between them.
TRIES, PAUSE = 250, 0.02


def read_result_store(path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Manifest and arrays of the results in the folder ``path``, for :func:`jaxlmm.loading.parts.from_parts`.

    Raises
    ------
    ValueError
        No finished results there, or not as they were written.
    """
    return _steady(path, _read_fit)


def _steady(path: str, read: Callable[[str], Any]) -> Any:
    """What ``read(path)`` finds in one store: again if another took its place meanwhile."""
    for k in range(TRIES):
        before = _identity(path)
        if before is None and not is_result_store(Path(path)):
            place = Path(os.path.abspath(path))
            if k < 2 or (k < TRIES - 1 and at_work(place)):  # between two renamings of another process
                sweep(place)  # or of one that was killed
                time.sleep(PAUSE)
                continue
            hint = ""
            if os.path.exists(part_of(Path(os.path.abspath(path)))):
                hint = "; its run is not finished: call it again with resume=True"
            found = "holds no results of jaxlmm" if os.path.lexists(path) else "is not there"
            raise ValueError(f"'{path}' {found}{hint}.")
        try:
            with reading(path):
                found = read(path)
        except (ValueError, OSError):
            if _identity(path) == before:
                raise
        else:
            if _identity(path) == before:
                return found
        time.sleep(PAUSE)
    raise OSError(f"'{path}' is replaced again and again while it is read; wait until it is not.")


def _identity(path: str) -> tuple[int, ...] | None:
    """What tells the folder at a path from another that took its place; None if no results are there."""
    try:
        found = os.stat(os.path.join(path, ".zattrs"))
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _read_fit(path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    group, found = stored_results(Path(path))
    content = np.asarray(group[f"{INSIDE}/design"]).tobytes()
    manifest, arrays = read_archive(io.BytesIO(content), check_manifest)
    for name, dims in ROWS.items():
        if name not in found and dims[:1] == ("theta",):  # without a random effect
            arrays[name] = np.zeros((len(arrays["coef"]), *[0] * len(dims)))
            continue
        array = found[name]
        arrays[name] = np.moveaxis(array.reshape(*array.shape[: len(dims)], -1), -1, 0).copy()
    if f"{INSIDE}/weights" in group:
        arrays["weights"] = np.asarray(group[f"{INSIDE}/weights"])
    if f"{INSIDE}/Y" in group:
        arrays["Y"] = np.asarray(group[f"{INSIDE}/Y"])
    else:
        incomplete = (arrays["n_used"] < group.attrs["n_obs"]) & found["converged"].ravel()
        arrays["missing"] = _columns(group[MISSING], incomplete)
    return manifest, arrays


def _columns(missing: Any, wanted: np.ndarray) -> np.ndarray:
    """Columns of an array (rows, *dims) of which only some are wanted, read in parts along the first axis of dims."""
    height, first, inner = missing.shape[0], missing.shape[1], math.prod(missing.shape[2:])
    step, parts = max(CHUNK // inner, missing.chunks[1]), [np.zeros((height, 0), dtype=np.uint8)]
    for k in range(0, first, step):
        mask = wanted[k * inner : (k + step) * inner]
        if mask.any():
            parts.append(np.asarray(missing[:, k : k + step]).reshape(height, -1)[:, mask])
    return np.concatenate(parts, axis=1)
