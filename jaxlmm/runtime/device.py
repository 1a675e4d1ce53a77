"""Where things are computed: the devices of this process, and responses that stay on a GPU.

JAX computes with float64 arrays in float32 wherever its global flag is off. So a fit keeps responses
that lie on a GPU in a ``DeviceMatrix``: what is taken from it is fetched, as numpy arrays.
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.runtime import programs

__all__ = ["DeviceMatrix", "compute_devices", "device_matrix", "take_block"]

# Responses in the memory of these are reduced there; those of a CPU are numpy arrays already.
PLATFORMS = frozenset({"gpu", "cuda", "rocm"})
# Columns are fetched in pieces of about this many bytes, the next while this one is used.
FETCH_BYTES = 64 * 2**20


def compute_devices() -> tuple[jax.Device, ...]:
    """The devices that blocks of responses are spread over: all of this process, of JAX's default platform.

    ``CUDA_VISIBLE_DEVICES`` and the like choose among them before JAX starts; inside
    ``jax.default_device(...)`` it is that device alone.
    """
    chosen: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
    if chosen is None:
        return tuple(jax.local_devices())
    return (jax.local_devices(backend=chosen)[0],) if isinstance(chosen, str) else (chosen,)


class DeviceMatrix(np.lib.mixins.NDArrayOperatorsMixin):
    """Responses (n_obs, m) that stay on a device until columns of them are asked for.

    Indexing, arithmetic and ``numpy.asarray`` fetch what they need and give numpy arrays of
    ``dtype``; JAX's small floats become float32, which holds them exactly.

    Attributes
    ----------
    array : jax.Array, (n_obs, m)
        What the user gave.
    parts : tuple of (int, jax.Array)
        Its columns by device: where they begin, and those columns on one device.
    dtype : numpy dtype
    shape : tuple of int
    """

    ndim = 2

    def __init__(self, array: jax.Array, parts: tuple[tuple[int, jax.Array], ...]) -> None:
        self.array, self.parts = array, parts
        self.shape: tuple[int, int] = (array.shape[0], array.shape[1])
        dtype = np.dtype(array.dtype)
        self.dtype = dtype if dtype.kind in "biuf" else np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.shape[0] * self.shape[1]

    def __repr__(self) -> str:
        where = ", ".join(str(part.device) for _, part in self.parts)
        return f"DeviceMatrix(shape={self.shape}, dtype={self.dtype}, device={where})"

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, cols = key if isinstance(key, tuple) and len(key) == 2 else (key, slice(None))
        where = np.asarray(np.arange(self.shape[1])[cols])
        out = np.empty((len(self), where.size), dtype=self.dtype)
        for at, columns in self.fetch(where.reshape(-1)):
            out[:, at] = columns
        # The rest of the indexing is numpy's own.
        return out[rows] if isinstance(cols, slice) else out[rows, np.arange(where.size).reshape(where.shape)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("responses on a device cannot be a numpy array without a copy; use copy=None.")
        found = self[:, :]
        return found if dtype is None else found.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, how: str, *inputs: Any, **options: Any) -> Any:
        host = [np.asarray(v) if isinstance(v, DeviceMatrix) else v for v in inputs]
        return getattr(ufunc, how)(*host, **options)

    def astype(self, dtype: Any, **options: Any) -> np.ndarray:
        """All responses as a numpy array of this type."""
        return np.asarray(self).astype(dtype, **options)

    def fetch(self, where: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The columns ``where`` in pieces: positions in ``where``, and those columns (n_obs, c)."""
        room = FETCH_BYTES // max(len(self) * self.dtype.itemsize, 1)
        width = 2 ** int(np.log2(np.clip(room, 1, 8192)))
        sent = (
            (at[k : k + width], take_columns(part, where[at[k : k + width]] - first, width))
            for first, part in self.parts
            for at in [np.flatnonzero((where >= first) & (where < first + part.shape[1]))]
            for k in range(0, len(at), width)
        )
        waiting = collections.deque(itertools.islice(sent, 1))
        while waiting:
            waiting.extend(itertools.islice(sent, 1))
            at, columns = waiting.popleft()
            yield at, np.asarray(columns)[:, : len(at)].astype(self.dtype, copy=False)


def device_matrix(Y: Any) -> DeviceMatrix | None:
    """``Y`` as a ``DeviceMatrix`` where it is to stay on its device, else None: the one place that decides.

    It stays if it is a real ``jax.Array`` (n_obs,) or (n_obs, m) on a GPU, or on several of this
    process with whole columns on each.
    """
    if isinstance(Y, DeviceMatrix):
        return Y
    if not isinstance(Y, jax.Array) or isinstance(Y, jax.core.Tracer) or Y.ndim not in (1, 2):
        return None
    small_float = Y.dtype.kind == "V" and Y.dtype.itemsize <= 2 if isinstance(Y.dtype, np.dtype) else False
    if not isinstance(Y.dtype, np.dtype) or not (Y.dtype.kind in "biuf" or small_float):
        return None
    if Y.is_deleted() or not Y.is_fully_addressable or {d.platform for d in Y.devices()} - PLATFORMS:
        return None
    if Y.ndim == 1:
        with float64_scope():
            Y = Y[:, None]
    parts: dict[int, jax.Array] = {}
    for shard in Y.addressable_shards:
        first = shard.index[1].start or 0
        if shard.data.shape[0] != Y.shape[0]:
            return None
        parts.setdefault(first, shard.data)
    return DeviceMatrix(Y, tuple(sorted(parts.items(), key=lambda item: item[0])))


def take_columns(array: jax.Array, where: np.ndarray, width: int) -> jax.Array:
    """Columns ``where`` of an array on one device, on their way to the host; padded to ``width``."""
    # One width at most twice over: every other number of columns would be compiled anew.
    width = min(width, max(8, 2 ** int(np.ceil(np.log2(max(len(where), 1))))))
    with float64_scope():
        found = _gather(array, np.pad(where, (0, width - len(where))).astype(np.int32))
    found.copy_to_host_async()
    return found


def take_block(array: jax.Array, first: int, width: int) -> jax.Array:
    """``width`` columns of an array on one device from ``first`` on; zeros where it has fewer."""
    return _slice(array, np.int32(first), width)


@programs.jit
def _gather(array: jax.Array, where: jax.Array) -> jax.Array:
    return jnp.take(array, where, axis=1, mode="clip")


@functools.partial(programs.jit, static_argnums=2)
def _slice(array: jax.Array, first: jax.Array, width: int) -> jax.Array:
    if array.shape[1] < width:
        return jnp.pad(array, ((0, 0), (0, width - array.shape[1])))
    return jax.lax.dynamic_slice_in_dim(array, first, width, axis=1)
