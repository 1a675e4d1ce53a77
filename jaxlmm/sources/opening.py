"""Paths of arrays on disk -> arrays that are read when asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["open_path"]

HDF5 = (".h5", ".hdf5", ".hdf", ".nc")


def open_path(path: Any) -> Any:
    """Open an array for reading, none of its values yet.

    Parameters
    ----------
    path : str or path-like
        A ``.npy`` file; a Zarr array, ``x.zarr`` or ``x.zarr/name``; a dataset in an HDF5 file,
        ``x.h5:/name``.

    Returns
    -------
    memmap, Zarr array, or h5py dataset

    Raises
    ------
    ValueError
        Nothing there; not a file of these kinds; a group, not an array (says which arrays it has).
    ImportError
        Names the extra.
    """
    text = os.fspath(path)
    file, colon, name = text.rpartition(":")
    if colon and Path(file).suffix.lower() in HDF5:
        return _open_hdf5(file, name)
    if not os.path.exists(text):
        raise ValueError(f"'{text}' does not exist.")
    if Path(text).suffix.lower() in HDF5:
        return _open_hdf5(text, "")
    if os.path.isdir(text):
        return _open_zarr(text)
    if not text.endswith(".npy"):
        raise ValueError(
            f"'{text}' is not an array that can be read: give a .npy file, a Zarr array, or 'file.h5:/dataset'."
        )
    try:
        return np.load(text, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"'{text}' is not an array of numbers in numpy's format: {error}") from None


def _open_zarr(path: str) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ImportError('Zarr arrays need zarr: pip install "jaxlmm[stream]"') from error

    try:
        found = zarr.open(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"'{path}' is a folder, but not a Zarr array: {error}") from None
    if not isinstance(found, zarr.Array):
        raise ValueError(
            f"'{path}' is a Zarr group; give one of its arrays: {_listed(path + '/', dict(found.arrays()))}."
        )
    return found


def _open_hdf5(path: str, name: str) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError('HDF5 files need h5py: pip install "jaxlmm[stream]"') from error

    if not os.path.exists(path):
        raise ValueError(f"'{path}' does not exist.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"'{path}' is not an HDF5 file: {error}") from None
    arrays: list[str] = []
    file.visititems(lambda key, value: arrays.append(key) if isinstance(value, h5py.Dataset) else None)
    if name.strip("/") not in arrays:
        file.close()
        raise ValueError(f"'{path}' has no dataset '{name}'; give one of {_listed(path + ':/', arrays)}.")
    return file[name]


def _listed(start: str, names: Any) -> str:
    names = sorted(names)
    return ", ".join(f"'{start}{name}'" for name in names[:10]) or "(there is none)"
