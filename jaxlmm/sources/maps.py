"""Memory maps: arrays on them, read from their files.

A page of a map that its file no longer has ends the process with a signal (SIGBUS), which no program
can catch, and pages that were touched count as memory in use. So numbers on a map are read from the
file, where a file that was cut short is an OSError.
"""

from __future__ import annotations

import concurrent.futures
import mmap
import os
from typing import Any

import numpy as np

from jaxlmm.sources.fingerprint import files_stamp

__all__ = ["MappedFile", "in_memory", "mapped_file"]

# Threads that read one block.
N_READERS = 4
# Numbers of a memory map that are compared with its file.
SAMPLE = 256


class MappedFile:
    """An array that lies in a file as it would in memory.

    Parameters
    ----------
    path : str
    offset : int
        Position in the file of the byte with the lowest address.
    shape : tuple of int
    strides : tuple of int
        In bytes; negative along axes that run backwards.
    dtype : dtype
    """

    def __init__(
        self, path: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.path, self.offset, self.shape, self.strides, self.dtype = path, offset, shape, strides, dtype
        self.file = open(path, "rb", buffering=0)
        # Axes from the slowest to the fastest in the file.
        self.order = sorted(range(len(shape)), key=lambda k: (-abs(strides[k]), k))

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in this process or another, opens the file again: no descriptor is closed twice."""
        return MappedFile, (self.path, self.offset, self.shape, self.strides, self.dtype)

    def read(self, at: tuple[slice, ...]) -> np.ndarray:
        """A part, without steps, in memory.

        Raises
        ------
        OSError
            The file ends before it.
        """
        strides = [abs(s) for s in self.strides]
        back = [s < 0 for s in self.strides]
        parts = []
        for s, n, backwards in zip(at, self.shape, back, strict=True):
            start, stop, _ = s.indices(n)
            parts.append(range(n - stop, n - start) if backwards else range(start, stop))
        lengths = [len(parts[k]) for k in self.order]
        out = np.empty(lengths, dtype=self.dtype)
        if out.size:
            # The last axes, as far as they lie without gaps, are read in one piece.
            run, split = self.dtype.itemsize, len(lengths)
            while split and strides[self.order[split - 1]] == run:
                split -= 1
                run *= lengths[split]
                if lengths[split] < self.shape[self.order[split]]:
                    break
            start = self.offset + sum(part.start * stride for part, stride in zip(parts, strides, strict=True))
            steps = np.zeros(1, dtype=np.int64)
            for axis in self.order[:split]:
                steps = (steps[:, None] + np.arange(len(parts[axis])) * strides[axis]).ravel()
            self._read_runs(start + steps, run, out.reshape(-1).view(np.uint8).data)
        turned = out.transpose(np.argsort(self.order))
        return turned[tuple(slice(None, None, -1 if backwards else 1) for backwards in back)]

    def _read_runs(self, positions: np.ndarray, run: int, target: memoryview) -> None:
        def fetch(first: int, last: int) -> None:
            for i in range(first, last):
                self._fetch(int(positions[i]), target[i * run : (i + 1) * run])

        if len(positions) < N_READERS:
            fetch(0, len(positions))
            return
        edges = [len(positions) * k // N_READERS for k in range(N_READERS + 1)]
        with concurrent.futures.ThreadPoolExecutor(N_READERS) as pool:
            list(pool.map(fetch, edges[:-1], edges[1:]))

    def _fetch(self, position: int, into: memoryview) -> None:
        while into:
            n = os.preadv(self.file.fileno(), [into], position)
            if not n:
                raise _cut_short(self.path, position + len(into))
            position, into = position + n, into[n:]

    def stamp(self) -> str:
        """What changes when the file does."""
        return f"{files_stamp(self.path)} {self.offset} {self.strides}"


def in_memory(array: np.ndarray) -> np.ndarray:
    """The array itself, or, of one on a memory map, its numbers read from the file.

    Raises
    ------
    OSError
        The file was cut short.
    """
    part = mapped_file(array)
    return array if part is None else part.read((slice(None),) * array.ndim)


def mapped_file(array: np.ndarray) -> MappedFile | None:
    """Where an array on a memory map, or a view of one, lies in its file.

    None for other arrays, and for maps that must be read as they are: they hold what the file does
    not (copy-on-write), or another file has taken the name of theirs.

    Raises
    ------
    OSError
        The map must be read as it is, and its file was cut short.
    """
    base: Any = array
    while isinstance(base, np.ndarray) and not isinstance(getattr(base, "_mmap", None), mmap.mmap):
        base = base.base
    plain = base.obj if isinstance(base, memoryview) else base
    owner = plain if isinstance(plain, mmap.mmap) else getattr(base, "_mmap", None)
    if owner is None or not array.size:
        return None
    low, high = _bounds(array)
    first = np.frombuffer(owner, dtype=np.uint8).__array_interface__["data"][0]
    if not isinstance(base, np.memmap) or base.filename is None:
        _check_length(owner, high - first, "the file of a memory map")
        return None
    origin = base.offset - base.offset % mmap.ALLOCATIONGRANULARITY - first
    path = os.fspath(base.filename)
    there = base.mode != "c" and os.path.exists(path) and hasattr(os, "preadv")
    # Of a map whose file is shorter no number may be touched; reading the file says so.
    if there and os.path.getsize(path) < origin + high:
        return MappedFile(path, origin + low, array.shape, array.strides, array.dtype)
    _check_length(owner, origin + high, f"'{path}'")
    if not there:
        return None
    part = MappedFile(path, origin + low, array.shape, array.strides, array.dtype)
    return part if _same_file(array, part) else None


def _bounds(array: np.ndarray) -> tuple[int, int]:
    """Lowest address of an array, and the first one past it."""
    low = high = array.__array_interface__["data"][0]
    for n, stride in zip(array.shape, array.strides, strict=True):
        low, high = low + min((n - 1) * stride, 0), high + max((n - 1) * stride, 0)
    return low, high + array.itemsize


def _check_length(owner: mmap.mmap, needed: int, name: str) -> None:
    """OSError if the mapped file, whatever its name is now, ends before byte ``needed``."""
    try:
        length = owner.size()
    except (OSError, ValueError):  # of no file
        return
    if length < needed:
        raise _cut_short(name.strip("'"), needed)


def _cut_short(path: str, byte: int) -> OSError:
    return OSError(f"'{path}' ends before byte {byte}: it was cut short")


def _same_file(array: np.ndarray, part: MappedFile) -> bool:
    """Whether the file is the one that is mapped, and not another that took its name."""
    places = np.unravel_index(np.linspace(0, array.size - 1, SAMPLE).astype(np.int64), array.shape)
    position = part.offset + array.__array_interface__["data"][0] - _bounds(array)[0]
    positions = sum(
        (at * stride for at, stride in zip(places, array.strides, strict=True)), np.full(SAMPLE, position)
    )
    found = [os.pread(part.file.fileno(), array.itemsize, int(at)) for at in positions]
    return b"".join(found) == np.asarray(array)[places].tobytes()
