"""JSON and arrays in one zip archive, which ``numpy.load`` opens too."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["packed_archive", "read_archive", "write_archive"]

MANIFEST = "manifest.json"


def write_archive(file: Any, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write to a path or a binary file: arrays as ``.npy``, bit by bit, the rest as ``manifest.json``."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_member(MANIFEST), json.dumps(manifest))
        for name, array in arrays.items():
            with archive.open(_member(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def packed_archive(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """What :func:`write_archive` writes, as an array of bytes."""
    file = io.BytesIO()
    write_archive(file, manifest, arrays)
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


def read_archive(file: Any, check: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`write_archive` wrote; ``check(manifest)`` may refuse before arrays are read."""
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        manifest = json.loads(archive.read(MANIFEST))
        check(manifest)
        for name in archive.namelist():
            if name != MANIFEST:
                with archive.open(name) as member:
                    arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    return manifest, arrays


def _member(name: str) -> zipfile.ZipInfo:
    """A file in the archive with no time of its own: the same content is the same archive."""
    return zipfile.ZipInfo(name)
