"""What tells whether data are still the same: of files their sizes and times, of arrays checksums."""

from __future__ import annotations

import hashlib
import os
import zlib

import numpy as np

__all__ = ["array_crc", "content_sum", "files_stamp"]

# Bytes of an array that are summed at a time, twice, so that they come from a cache the second time.
CACHED = 2**18


def files_stamp(path: str) -> str:
    """Checksum of the names, sizes and times of change of a file, or of all files under a folder.

    Not of where it lies, so that it survives a move, and a copy that keeps the times.
    """
    found = hashlib.sha256()
    for name, status in sorted(_files(path, "")):
        found.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return found.hexdigest()


def _files(path: str, name: str) -> list[tuple[str, os.stat_result]]:
    if not os.path.isdir(path):
        return [(name, os.stat(path))]
    found = []
    for entry in os.scandir(path):
        found += _files(entry.path, f"{name}/{entry.name}")
    return found


def array_crc(array: np.ndarray, start: int = 0) -> int:
    """CRC-32 of the values of an array, in its order of axes."""
    return zlib.crc32(np.ascontiguousarray(array).data.cast("B") if array.size else b"", start)


def content_sum(array: np.ndarray) -> int:
    """A checksum of a matrix (n, m) at the speed of memory, several times that of :func:`array_crc`.

    That of the sums of all rows and of all columns, of the numbers' bits as integers. A number that
    changes, and rows or columns that change places, change it.
    """
    array = array if array.dtype.itemsize in (1, 2, 4, 8) else array.astype(np.float64)
    flip = array.strides[0] < array.strides[1]  # along memory, whichever axis that is
    bits = array.T if flip else array
    size = bits.dtype.itemsize
    whole = bits.strides[1] == size and bits.shape[1] * size % 8 == 0  # eight bytes at a time
    bits = bits.view(np.uint64 if whole else f"u{size}")
    down, across = np.zeros(bits.shape[1], dtype=np.uint64), np.empty(len(bits), dtype=np.uint64)
    step = max(CACHED // max(bits.shape[1] * bits.itemsize, 1), 1)
    for start in range(0, len(bits), step):
        part = bits[start : start + step]
        down += part.sum(axis=0, dtype=np.uint64)
        across[start : start + step] = part.sum(axis=1, dtype=np.uint64)
    sums = (across, down) if flip else (down, across)
    return array_crc(sums[1], array_crc(sums[0]))
