"""JSON and arrays in one zip archive, which ``numpy.load`` opens too."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlmm.storage.codec import KINDS

__all__ = ["packed_archive", "read_archive", "write_archive"]

MANIFEST = "manifest.json"
# Archives are written without compression; one that was compressed since may hold this many times its size.
EXPANSION, SLACK = 20, 64 * 2**20
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


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
    """What :func:`write_archive` wrote; ``check(manifest)`` may refuse before arrays are read.

    What the file says of sizes is compared with its own, before memory is asked for.

    Raises
    ------
    BadZipFile, LookupError, TypeError, ValueError and the like
        No such archive.
    """
    arrays = {}
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        held = sum(member.file_size for member in members)
        if held > SLACK + EXPANSION * size:
            raise ValueError(f"it has {size} bytes and says that it holds {held}")
        manifest = json.loads(archive.read(MANIFEST))
        if not isinstance(manifest, dict):
            raise ValueError(f"its manifest is one {type(manifest).__name__}")
        check(manifest)
        for member in members:
            if member.filename != MANIFEST:
                with archive.open(member) as content:
                    arrays[member.filename.removesuffix(".npy")] = _read_array(content, member)
    return manifest, arrays


def _read_array(content: Any, member: zipfile.ZipInfo) -> np.ndarray:
    """An array in numpy's format, of the size that its header says."""
    version = np.lib.format.read_magic(content)
    if version not in HEADERS:
        raise ValueError(f"{member.filename} is in numpy's format {version}")
    shape, by_columns, dtype = HEADERS[version](content)
    if dtype.kind not in KINDS:
        raise ValueError(f"{member.filename} holds {dtype}")
    count, left = math.prod(shape), member.file_size - content.tell()
    if min(shape, default=1) < 0 or count * dtype.itemsize != left or max(shape, default=0) > SLACK + left:
        raise ValueError(f"{member.filename} has {left} bytes for an array of {shape}")
    flat = np.empty(count, dtype=dtype)
    if left:
        into = flat.view(np.uint8).data
        while into:
            n = content.readinto(into)
            if not n:
                raise EOFError(f"{member.filename} ends too early")
            into = into[n:]
    return flat.reshape(shape, order="F" if by_columns else "C")


def _member(name: str) -> zipfile.ZipInfo:
    """A file in the archive with no time of its own: the same content is the same archive."""
    return zipfile.ZipInfo(name)
