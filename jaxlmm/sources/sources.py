"""Responses that are not in memory: one way to read blocks of them, whatever holds them.

A source has the shape (n_obs, *dims); all axes but the first are responses. Recognised without
importing their packages: Zarr arrays, HDF5 datasets, dask arrays, xarray DataArrays and numpy
arrays, those on memory maps read from their files (:mod:`jaxlmm.sources.maps`).
"""

from __future__ import annotations

import abc
import math
import os
from typing import Any

import numpy as np

from jaxlmm.sources.encoded import encoding_of
from jaxlmm.sources.fingerprint import content_sum, files_stamp
from jaxlmm.sources.maps import MappedFile, mapped_file

__all__ = ["At", "Source", "is_dask", "is_dataarray", "is_lazy", "is_store", "open_source"]

# The part of each response axis that a block takes.
At = tuple[slice, ...]


class Source(abc.ABC):
    """Where responses come from.

    Attributes
    ----------
    shape : tuple of int
        (n_obs, *dims).
    dtype : dtype
    chunks : tuple of int, or None
        Length along each response axis of what the store keeps in one piece.
    dims : tuple of str, or None
        Names of the response axes, where the store has them.
    in_memory : bool
        Whether ``stamp`` is a checksum of all the numbers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None = None
    dims: tuple[str, ...] | None = None
    in_memory = False

    @abc.abstractmethod
    def read(self, at: At) -> np.ndarray:
        """Responses (n_obs, *block) in memory; safe to call from another thread."""

    @abc.abstractmethod
    def describe(self) -> str:
        """What it is, for messages."""

    def stamp(self) -> str | None:
        """What changes when any of the data do; None if reading them all would be the only way to tell."""
        return None


class _Array(Source):
    """A numpy array."""

    in_memory = True

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self, at: At) -> np.ndarray:
        return self.array[(slice(None), *at)]

    def describe(self) -> str:
        return f"array {self.shape}"

    def stamp(self) -> str:
        return str(content_sum(self.array.reshape(len(self.array), -1)))


class _File(Source):
    """An array that lies in a file as it would in memory."""

    def __init__(self, part: MappedFile, dims: tuple[str, ...] | None = None) -> None:
        self.part, self.shape, self.dtype, self.dims = part, part.shape, part.dtype, dims

    def read(self, at: At) -> np.ndarray:
        return self.part.read((slice(None), *at))

    def describe(self) -> str:
        return f"file '{self.part.path}'"

    def stamp(self) -> str:
        return self.part.stamp()


class _Chunked(Source):
    """A Zarr array or an HDF5 dataset."""

    def __init__(self, array: Any, path: str | None, name: str) -> None:
        encoded = encoding_of(array)
        if encoded:
            raise ValueError(
                f"Y, {name}, has the attribute {encoded[0]!r}, so its numbers stand for others; open it with xarray, "
                "which decodes them, and pass the DataArray."
            )
        self.array, self.shape, self.dtype, self.path, self.name = array, array.shape, array.dtype, path, name
        self.chunks = None if array.chunks is None else tuple(array.chunks[1:])

    def read(self, at: At) -> np.ndarray:
        if self.path is not None and not os.path.exists(self.path):
            # Zarr would take a chunk that is not there for one that was never written.
            raise OSError(f"'{self.path}' is gone")
        return np.asarray(self.array[(slice(None), *at)])

    def describe(self) -> str:
        return self.name

    def stamp(self) -> str | None:
        return None if self.path is None else files_stamp(self.path)


class _Zarr(_Chunked):
    def __init__(self, array: Any) -> None:
        root = getattr(array.store, "root", None)
        path = None if root is None else os.path.join(str(root), array.path).rstrip("/")
        super().__init__(array, path, f"Zarr array '{path or array.name}'")
        names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
        if names and all(names[1:]) and len(names) == array.ndim:
            self.dims = tuple(map(str, names[1:]))
        shards = getattr(array, "shards", None)
        if shards is not None:
            self.chunks = tuple(shards[1:])


class _HDF5(_Chunked):
    def __init__(self, array: Any) -> None:
        super().__init__(array, array.file.filename, f"HDF5 dataset '{array.file.filename}:{array.name}'")
        names = [dim.label for dim in array.dims]
        if all(names[1:]):
            self.dims = tuple(map(str, names[1:]))

    def stamp(self) -> str | None:
        if self.array.is_virtual or self.array.external:
            return None  # its numbers lie in other files
        return f"{super().stamp()} {self.array.name}"


class _Dask(Source):
    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        if any(math.isnan(n) for n in array.shape):
            raise ValueError(f"Y is a dask array of unknown lengths {array.shape}; call compute_chunk_sizes() on it.")
        self.chunks = tuple(max(sizes) for sizes in array.chunks[1:])

    def read(self, at: At) -> np.ndarray:
        return np.asarray(self.array[(slice(None), *at)].compute())

    def describe(self) -> str:
        return f"dask array {self.shape}"


class _Labelled(Source):
    """An xarray DataArray, lazily loaded or not, its observations along ``obs_dim``."""

    def __init__(self, array: Any, obs_dim: Any) -> None:
        self.array = array.transpose(obs_dim, ...)
        self.shape, self.dtype = self.array.shape, array.dtype
        self.dims = tuple(map(str, self.array.dims[1:]))
        preferred = array.encoding.get("preferred_chunks") or {}
        if self.array.chunks is not None:
            self.chunks = tuple(max(sizes) for sizes in self.array.chunks[1:])
        elif preferred:
            sizes = zip(self.array.dims[1:], self.shape[1:], strict=True)
            self.chunks = tuple(int(preferred.get(dim, n)) for dim, n in sizes)

    def read(self, at: At) -> np.ndarray:
        return np.asarray(self.array[(slice(None), *at)].to_numpy())

    def describe(self) -> str:
        return f"DataArray {self.array.name or ''} {dict(self.array.sizes)}"


def is_lazy(Y: Any) -> bool:
    """Whether Y is a store, or a view of one, that ``numpy.asarray`` would read whole."""
    kind = _kind(Y)
    if kind == "xarray":
        return Y.chunks is not None or not Y._in_memory or _on_map(Y.variable._data)
    return kind in ("zarr", "h5py", "dask") or (kind == "numpy" and _on_map(Y))


def is_dataarray(Y: Any) -> bool:
    """Whether Y is an xarray DataArray."""
    return _kind(Y) == "xarray"


def is_dask(Y: Any) -> bool:
    """Whether Y is a dask array, or a DataArray that holds one."""
    return _kind(Y) == "dask" or (is_dataarray(Y) and Y.chunks is not None and _kind(Y.data) == "dask")


def is_store(Y: Any) -> bool:
    """Whether Y is a Zarr array or an HDF5 dataset."""
    return _kind(Y) in ("zarr", "h5py")


def open_source(Y: Any, obs_dim: Any = None) -> Source:
    """The source of responses Y (n_obs, *dims).

    Parameters
    ----------
    Y : array, memory map, Zarr array, h5py dataset, dask array, or DataArray
    obs_dim : hashable, optional
        For a DataArray: its dimension of observations, whichever axis that is.

    Raises
    ------
    ValueError
        Not numeric; fewer than two axes; numbers that stand for others.
    """
    kind = _kind(Y)
    dtype = getattr(Y, "dtype", None)
    if kind is not None and (dtype is None or np.dtype(dtype).kind not in "biuf"):
        raise ValueError(f"Y must be numeric, found dtype {dtype}.")
    if kind is not None and Y.ndim < 2:
        raise ValueError(f"Y must have shape (n_obs, m) or (n_obs, *dims), found {Y.shape}.")
    if kind == "xarray":
        part = None
        if isinstance(Y.variable._data, np.ndarray):
            part = mapped_file(np.moveaxis(Y.variable._data, Y.get_axis_num(obs_dim), 0))
        if part is None:
            # Labels are kept elsewhere; xarray cannot take some of pandas' text.
            return _Labelled(Y.reset_coords(drop=True), obs_dim)
        return _File(part, tuple(str(dim) for dim in Y.dims if dim != obs_dim))
    if kind == "zarr":
        return _Zarr(Y)
    if kind == "h5py":
        return _HDF5(Y)
    if kind == "dask":
        return _Dask(Y)
    if kind == "numpy":
        part = mapped_file(Y)
        return _Array(np.asarray(Y)) if part is None else _File(part)
    raise ValueError(
        f"Y is a {type(Y).__name__}; give a numpy array or memory map, a Zarr array, an h5py dataset, a dask array "
        "or an xarray DataArray."
    )


def _kind(Y: Any) -> str | None:
    """Package of an array that can be a source, or None."""
    root, name = type(Y).__module__.split(".")[0], type(Y).__name__
    if isinstance(Y, np.ndarray):
        return None if isinstance(Y, np.ma.MaskedArray) else "numpy"
    known = {("zarr", "Array"), ("h5py", "Dataset"), ("dask", "Array"), ("xarray", "DataArray")}
    return root if (root, name) in known else None


def _on_map(array: Any) -> bool:
    return isinstance(array, np.ndarray) and mapped_file(array) is not None
