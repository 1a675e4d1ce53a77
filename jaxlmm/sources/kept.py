"""Some rows of responses that are not in memory."""

from __future__ import annotations

import zlib

import numpy as np

from jaxlmm.sources.sources import At, Source

__all__ = ["KeptRows"]


class KeptRows(Source):
    """The observations at some positions of a source."""

    def __init__(self, source: Source, rows: np.ndarray) -> None:
        self.whole, self.rows = source, rows
        self.shape, self.dtype = (len(rows), *source.shape[1:]), source.dtype
        self.chunks, self.dims, self.in_memory = source.chunks, source.dims, source.in_memory

    def read(self, at: At) -> np.ndarray:
        return self.whole.read(at)[self.rows]

    def describe(self) -> str:
        return self.whole.describe()

    def stamp(self) -> str | None:
        stamp = self.whole.stamp()
        return None if stamp is None else f"{stamp} rows {zlib.crc32(self.rows.astype(np.int64).tobytes())}"
