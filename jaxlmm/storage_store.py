"""A finished result store -> the parts of a fit; see :mod:`jaxlmm.result_store`."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

try:
    import zarr
except ImportError as error:
    raise ImportError('results on disk need zarr and xarray: pip install "jaxlmm[stream]"') from error

from jaxlmm.result_store import INSIDE, MISSING, is_result_store
from jaxlmm.storage_parts import ROWS, check_manifest, reading
from jaxlmm.storage_zip import read_archive

__all__ = ["read_result_store"]

# Columns of the packed bits that are read at once.
CHUNK = 2**16


def read_result_store(path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Manifest and arrays of the results in the folder ``path``, for :func:`jaxlmm.storage_parts.from_parts`.

    Raises
    ------
    ValueError
        No finished results there.
    """
    if not is_result_store(Path(path)):
        part = os.path.exists(path.rstrip("/") + ".part")
        hint = "; its run is not finished: call it again with resume=True" if part else ""
        raise ValueError(f"'{path}' holds no results of fit_to_store{hint}.")
    with reading(path):
        return _parts(zarr.open_group(path, mode="r"))


def _parts(group: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    content = np.asarray(group[f"{INSIDE}/design"]).tobytes()
    manifest, arrays = read_archive(io.BytesIO(content), check_manifest)
    for name in ROWS:
        array = np.asarray(group[name])
        by_term = name in ("coef", "se_gls")
        arrays[name] = array.reshape(len(array), -1).T.copy() if by_term else array.ravel()
    missing = group[MISSING]
    incomplete = (arrays["n_used"] < group.attrs["n_obs"]) & (arrays["status"] <= 1)
    arrays["missing"] = _columns(missing, incomplete)
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
