"""Responses in a sparse matrix of scipy: blocks of columns are made dense when they are read."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from jaxlmm.sources.sources import At, Source

__all__ = ["SparseSource"]


class SparseSource(Source):
    """The columns of a sparse matrix (n_obs, m), kept sorted by columns: no more than a block is ever dense."""

    in_memory = True

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix.tocsc()
        self.shape, self.dtype = tuple(matrix.shape), np.dtype(matrix.dtype)

    def read(self, at: At) -> np.ndarray:
        return np.asarray(self.matrix[:, at[0]].toarray())

    def describe(self) -> str:
        return f"sparse matrix {self.shape}"

    def stamp(self) -> str:
        found = 0
        for part in (self.matrix.indptr, self.matrix.indices, self.matrix.data):
            found = zlib.crc32(np.ascontiguousarray(part).tobytes(), found)
        return str(found)
