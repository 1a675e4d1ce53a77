"""Checksums of all that a store holds, in one place: what is damaged, lost or of another store is seen."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["check_held", "check_seal", "make_seal", "read_seal"]

# Where in the attributes of the store's own group they stand.
SEAL = "seal"
# Bytes that an array may have beyond what lies on disk: one that is not written is of its fill value.
SLACK = 2**16
# Attributes that say what the numbers of an array stand for.
MEANING = ("_ARRAY_DIMENSIONS", "units", "calendar", "dtype", "_FillValue", "scale_factor", "add_offset")


def make_seal(group: Any, inside: str, names: Iterable[str], settings: Any) -> None:
    """Put the checksums of arrays of a store, by name, into its group ``inside``."""
    parts = {name: _checksum(group[name]) for name in sorted(names)}
    group[inside].attrs[SEAL] = {"settings": _of_json(settings), "parts": parts}


def read_seal(folder: Path) -> dict[str, Any]:
    """What :func:`make_seal` wrote into the group in ``folder``.

    Raises
    ------
    OSError, LookupError, TypeError, ValueError
        It is not what was written.
    """
    found: dict[str, Any] = json.loads((folder / ".zattrs").read_text())[SEAL]
    if not isinstance(found["parts"], dict):
        raise ValueError("its list of checksums is damaged")
    return found


def check_seal(seal: Mapping[str, Any], group: Any, folder: Path, settings: Any) -> None:
    """ValueError if an array of the store in ``folder`` is not what was sealed."""
    if _of_json(settings) != seal["settings"]:
        raise ValueError("its settings are not those that were written")
    for name, known in seal["parts"].items():
        if name not in group:
            raise ValueError(f"'{name}' is gone")
        check_held(folder / name, group[name])
        if _checksum(group[name]) != known:
            raise ValueError(f"'{name}' is not what was written")


def check_held(folder: Path, array: Any) -> None:
    """ValueError if an array says that it is larger than what lies on disk: before memory is asked for.

    The arrays of a store are written without compression, but for those that may be missing altogether.
    """
    if not folder.is_dir():
        raise ValueError(f"'{folder.name}' is gone")
    with os.scandir(folder) as entries:  # closed, too, if another process removes one meanwhile
        held = sum(entry.stat().st_size for entry in entries if not entry.name.startswith("."))
    # Of text only the places are known.
    each = array.dtype.itemsize if array.dtype.kind in "biufcSUmM" else 4
    if math.prod(array.shape) * max(each, 1) > held + SLACK or getattr(array, "compressors", ()):
        raise ValueError(f"'{array.path}' has the shape {array.shape} and {held} bytes")


def _checksum(array: Any) -> int:
    values = np.asarray(array[...])
    meaning = {key: array.attrs[key] for key in MEANING if key in array.attrs}
    start = _of_json([values.dtype.str, values.shape, meaning])
    content = repr(values.tolist()).encode() if values.dtype.kind not in "biufcSUmM" else values.tobytes()
    return zlib.crc32(content, start)


def _of_json(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode())
