"""Responses whose observations have weights of their own: beside Y a matrix of the same shape.

A weight of 0 or NaN says that the observation does not count, as NaN in Y does. So that all that knows about
missing observations knows of it, Y is NaN there; where a weight counts, it is positive and finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.runtime.threads import N_THREADS, by_chunks
from jaxlmm.sources.sources import At, Source

__all__ = ["WeightedMatrix", "WeightedSource", "as_columns", "values_of"]

# Responses that are looked at together.
CHUNK = 1024
# Weights that are looked at together, so that they stay in a cache.
PASS_BYTES = 2**18


@dataclass(frozen=True, eq=False)
class WeightedMatrix:
    """Responses and weights, (n_obs, m) each.

    Attributes
    ----------
    Y : ndarray, or a matrix that is read column by column
        NaN where an observation does not count.
    weights : ndarray, or such a matrix
        As given; what they are where Y is NaN is of no matter.
    """

    Y: Any
    weights: Any

    ndim = 2

    @classmethod
    def make(cls, Y: np.ndarray, weights: np.ndarray, of: str = "") -> WeightedMatrix:
        """Of responses and weights in memory, checked; Y is copied only where a weight drops an observation.

        Raises
        ------
        ValueError
            A weight that is negative or infinite: its row and column, of the responses ``of`` if given.
        """
        if _all_count(weights):
            return cls(Y, weights)
        dropped = False
        for start in range(0, Y.shape[1], CHUNK):
            cols = slice(start, start + CHUNK)
            W = weights[:, cols]
            with np.errstate(invalid="ignore"):
                bad = (W < 0) | (W == np.inf)
            if bad.any():
                row, column = (int(k) for k in np.argwhere(bad)[0])
                raise ValueError(
                    f"weights must be finite and not negative, found {W[row, column]} in row {row}, column "
                    f"{start + column}{of} ({int(bad.sum())} such weights there); a weight of 0 drops the row of "
                    "that response."
                )
            drop = ~(W > 0)
            if drop.any():
                if not dropped:
                    Y, dropped = np.array(Y, dtype=Y.dtype if Y.dtype.kind == "f" else np.float64), True
                Y[:, cols][drop] = np.nan
        return cls(Y, weights)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_obs, m)."""
        n, m = self.Y.shape
        return n, m

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the responses."""
        return np.dtype(self.Y.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> WeightedMatrix:
        return WeightedMatrix(self.Y[key], self.weights[key])

    def counting(self) -> np.ndarray:
        """The weights as float64, 0 where an observation does not count; a copy."""
        found = np.array(self.weights, dtype=np.float64)
        found[np.isnan(np.asarray(self.Y))] = 0.0
        return found


class WeightedSource(Source):
    """Responses and weights of which blocks are read: ``read`` gives the responses, NaN where they do not count."""

    def __init__(self, Y: Source, weights: Source) -> None:
        if Y.shape != weights.shape:
            raise ValueError(f"weights have the shape {weights.shape}, Y has {Y.shape}.")
        self.Y, self.weights, self.shape = Y, weights, Y.shape
        self.dtype = Y.dtype if Y.dtype.kind == "f" else np.dtype(np.float64)
        self.chunks, self.dims, self.in_memory = Y.chunks, Y.dims, Y.in_memory and weights.in_memory

    def read(self, at: At) -> np.ndarray:
        Y, weights = self.Y.read(at), self.weights.read(at)
        found: np.ndarray = WeightedMatrix.make(as_columns(Y), as_columns(weights)).Y
        return found.reshape(Y.shape)

    def describe(self) -> str:
        return f"{self.Y.describe()} with weights of {self.weights.describe()}"

    def stamp(self) -> str | None:
        stamps = [self.Y.stamp(), self.weights.stamp()]
        return None if None in stamps else " ".join(map(str, stamps))


def _all_count(weights: np.ndarray) -> bool:
    """Whether all weights are positive and finite: by far most matrices, in one pass."""
    n, m = weights.shape
    step = max(1, PASS_BYTES // max(1, m * weights.itemsize))
    fine = np.ones(-(-n // step), dtype=bool)

    def look(rows: slice) -> None:
        for k in range(rows.start, rows.stop):
            some = weights[k * step : (k + 1) * step]
            # Neither is true of a NaN, which the least and the largest would be.
            fine[k] = some.min() > 0 and some.max() < np.inf

    by_chunks(len(fine), max(1, -(-len(fine) // (4 * N_THREADS))), look)
    return bool(fine.all())


def as_columns(block: np.ndarray) -> np.ndarray:
    """A block (n_obs, *dims) as a matrix."""
    return block.reshape(len(block), -1)


def values_of(Y: Any) -> Any:
    """The responses, whether or not they have weights."""
    return Y.Y if isinstance(Y, WeightedMatrix) else Y
