"""Responses of a store as a matrix of which columns are read when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.runtime.overlap import overlapped
from jaxlmm.sources.plan import Plan, make_plan
from jaxlmm.sources.sources import Source, is_lazy, open_source
from jaxlmm.sources.weighted import WeightedMatrix, WeightedSource, as_columns

__all__ = ["LazyMatrix", "lazy_matrix", "read_block", "read_responses"]

# What is smaller is read at once.
LOAD_BYTES = 256 * 2**20


def lazy_matrix(Y: Any, obs_dim: Any = None) -> LazyMatrix | None:
    """``Y`` (n_obs, *dims) as a ``LazyMatrix`` if it is a store of more than ``LOAD_BYTES``, else None."""
    if isinstance(Y, LazyMatrix):
        return Y
    if not is_lazy(Y) or Y.ndim < 2:
        return None
    if math.prod(Y.shape) * Y.dtype.itemsize <= LOAD_BYTES:
        if hasattr(Y, "attrs") and not hasattr(Y, "coords"):  # Zarr, HDF5
            open_source(Y)  # refuses numbers that stand for others, however few
        return None
    return LazyMatrix.make(open_source(Y, Y.dims[0] if obs_dim is None and hasattr(Y, "dims") else obs_dim))


def read_block(source: Source, at: tuple[slice, ...]) -> np.ndarray:
    """A block of responses as columns, (n_obs, c).

    Raises
    ------
    OSError
        The store could not read it; says which responses, and why.
    """
    try:
        block = source.read(at)
    except Exception as error:  # whatever a store's codec or a dask task may raise
        where = ", ".join(f"{s.start}:{s.stop}" for s in at)
        raise OSError(f"responses [{where}] of {source.describe()} cannot be read: {error}") from error
    return as_columns(block)


def read_responses(source: Source, at: tuple[slice, ...]) -> np.ndarray | WeightedMatrix:
    """As :func:`read_block`, with the weights of the responses if they have some.

    Raises
    ------
    OSError
        As there.
    ValueError
        Weights that are negative or infinite.
    """
    if not isinstance(source, WeightedSource):
        return read_block(source, at)
    Y, weights = read_block(source.Y, at), read_block(source.weights, at)
    where = ", ".join(f"{s.start}:{s.stop}" for s in at)
    return WeightedMatrix.make(Y, weights, f" of the responses [{where}]")


@dataclass(frozen=True, eq=False)
class LazyMatrix(np.lib.mixins.NDArrayOperatorsMixin):
    """Responses (n_obs, m) that stay where they are; the last of the source's axes varies fastest.

    ``Y[:, columns]`` reads these columns, ``Y[rows, columns]`` too; ``numpy.asarray`` reads all.
    """

    source: Source
    plan: Plan

    @classmethod
    def make(cls, source: Source, block: int | None = None) -> LazyMatrix:
        """Of a source; ``block`` is how many responses are read at a time."""
        shape = source.shape
        return cls(source, make_plan(shape[1:], shape[0] * source.dtype.itemsize, source.chunks, block))

    @property
    def shape(self) -> tuple[int, int]:
        """(n_obs, m)."""
        return self.source.shape[0], math.prod(self.plan.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers."""
        return self.source.dtype

    ndim = 2

    def __len__(self) -> int:
        return self.shape[0]

    def numbers(self, at: tuple[slice, ...]) -> np.ndarray:
        """Numbers of the columns that a block holds."""
        return np.ravel_multi_index(np.ix_(*(np.arange(s.start, s.stop) for s in at)), self.plan.dims).ravel()

    def each_block(self, compute: Callable[[Any], Any], store: Callable[[np.ndarray, Any], None]) -> None:
        """``store(columns, compute(block))`` for all blocks; reading goes on meanwhile."""
        overlapped(
            self.plan.blocks(),
            lambda at: read_responses(self.source, at),
            lambda at, block: compute(block),
            lambda at, made: store(self.numbers(at), made),
        )

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        if isinstance(rows, np.ndarray) and rows.ndim == 2:  # numpy.ix_
            return self._take(np.asarray(columns).ravel())[rows.ravel()]
        wanted = np.arange(self.shape[1])[columns]
        if np.ndim(wanted):
            return self._take(wanted)[rows]
        return self._take(wanted[None])[rows, 0]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._take(np.arange(self.shape[1])).astype(dtype or self.dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, how: str, *inputs: Any, **options: Any) -> Any:
        host = [np.asarray(v) if isinstance(v, LazyMatrix) else v for v in inputs]
        return getattr(ufunc, how)(*host, **options)

    def _take(self, columns: np.ndarray) -> np.ndarray:
        out = np.empty((self.shape[0], len(columns)), dtype=self.dtype)
        for at, where, inside in self._parts(columns):
            out[:, where] = read_block(self.source, at)[:, inside]
        return out

    def _parts(self, columns: np.ndarray) -> Iterator[tuple[tuple[slice, ...], np.ndarray, np.ndarray]]:
        """Smallest parts of blocks that hold the columns: the part, which of the columns, where inside."""
        places = np.unravel_index(columns, self.plan.dims)
        blocks = [place // b for place, b in zip(places, self.plan.block, strict=True)]
        numbers = np.ravel_multi_index(blocks, self.plan.grid) if len(columns) else columns
        for number in np.unique(numbers):
            where = np.flatnonzero(numbers == number)
            inner = [place[where] for place in places]
            at = tuple(slice(int(i.min()), int(i.max()) + 1) for i in inner)
            shape = tuple(s.stop - s.start for s in at)
            yield at, where, np.ravel_multi_index([i - s.start for i, s in zip(inner, at, strict=True)], shape)
