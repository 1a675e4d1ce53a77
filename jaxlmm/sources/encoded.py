"""Stored numbers that stand for others, as xarray writes them: scaled, or with a code for missing ones."""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np

__all__ = ["encoding_of"]

# Attributes by which stored numbers differ from what they stand for; xarray applies them.
ENCODED = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")


def encoding_of(array: Any) -> list[str]:
    """What says that the numbers of a Zarr array or an HDF5 dataset stand for others."""
    attrs = array.attrs
    stated = {k: _fill(attrs[k], array.dtype) if k == "_FillValue" else attrs[k] for k in ENCODED if k in attrs}
    found = [k for k, value in stated.items() if not _is_nan(value)]
    # Zarr's format 2 has no attribute for it: xarray, which writes this one, takes the fill value as missing.
    old = getattr(getattr(array, "metadata", None), "zarr_format", None) == 2 and "_ARRAY_DIMENSIONS" in attrs
    if old and array.metadata.fill_value is not None and not _is_nan(array.metadata.fill_value):
        found.append("fill_value")
    return found


def _fill(value: Any, dtype: Any) -> Any:
    """A fill value; for Zarr's format 3 xarray writes that of floats as text: a little-endian float64 in base64."""
    if not isinstance(value, str) or np.dtype(dtype).kind != "f":
        return value
    try:
        return struct.unpack("<d", base64.b64decode(value, validate=True))[0]
    except (ValueError, struct.error):
        return value


def _is_nan(value: Any) -> bool:
    try:
        return bool(np.all(np.isnan(np.asarray(value, dtype=np.float64))))
    except (TypeError, ValueError):
        return False
