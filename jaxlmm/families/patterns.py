"""Which observations responses miss, and which responses miss the same ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["MIN_SHARED", "missing_mask", "patterns"]

# Patterns with at least so many responses are worth a design of their own.
MIN_SHARED = 1024


def missing_mask(Y: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Where the columns ``where`` of Y are NaN, (n_obs, c); the columns are not copied together."""
    mask = np.empty((len(Y), len(where)), dtype=bool)
    for start in range(0, len(where), 1024):
        np.isnan(Y[:, where[start : start + 1024]], out=mask[:, start : start + 1024])
    return mask


def patterns(missing: np.ndarray, least: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Columns of a mask (n_obs, c) that are the same: pairs of (rows that are there, columns).

    Only patterns that ``least`` columns or more have.
    """
    packed = np.ascontiguousarray(np.packbits(missing, axis=0).T)
    keys = packed.view([("", packed.dtype)] * packed.shape[1]).reshape(-1)
    _, first, which, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    order, ends = np.argsort(which, kind="stable"), np.cumsum(counts)
    for k in np.flatnonzero(counts >= least):
        yield ~missing[:, first[k]], order[ends[k] - counts[k] : ends[k]]
