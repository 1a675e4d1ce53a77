"""Which observations responses miss, and which responses share a design: the same rows, with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxlmm.runtime.threads import by_chunks
from jaxlmm.sources.weighted import WeightedMatrix, values_of

__all__ = ["MIN_SHARED", "cells", "columns_at", "misses_some", "missing_mask", "patterns", "probed", "shared_designs"]

# Patterns with at least so many responses are worth a design of their own.
MIN_SHARED = 1024
# Responses whose weights are compared at a time.
COMPARED = 1024
# Weights that are compared before all of them are, and rows in which missing observations are looked for first.
PROBES, PROBED_ROWS = 4, 128
HASHED_ROWS = 32


def columns_at(where: np.ndarray) -> Any:
    """Numbers of columns as a slice if they follow each other: a view of them is no copy."""
    if len(where) and where[-1] - where[0] == len(where) - 1 and bool(np.all(np.diff(where) == 1)):
        return slice(int(where[0]), int(where[-1]) + 1)
    return where


def cells(Y: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Some rows (a mask) of some columns of Y: first the columns, then the rows, which is far faster than both at
    once."""
    return np.asarray(Y[:, columns_at(columns)][rows])


def missing_mask(Y: Any, where: np.ndarray, step: int = 1) -> np.ndarray:
    """Where the columns ``where`` of Y are NaN, (n_obs, c), or in each ``step``-th row of it.

    The columns are not copied together.
    """
    Y = values_of(Y) if step == 1 else values_of(Y)[::step]
    mask = np.empty((len(Y), len(where)), dtype=bool)

    def look(cols: slice) -> None:
        np.isnan(Y[:, columns_at(where[cols])], out=mask[:, cols])

    by_chunks(len(where), COMPARED, look)
    return mask


def probed(Y: Any, where: np.ndarray) -> np.ndarray:
    """The :func:`missing_mask` of the rows that are looked at first; of all where some are no faster to read."""
    return missing_mask(Y, where, max(len(Y) // PROBED_ROWS, 1) if isinstance(values_of(Y), np.ndarray) else 1)


def misses_some(Y: Any, where: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Which of the columns ``where`` of Y are NaN anywhere, (c,): all rows are looked at where the ``few`` that are
    :func:`probed` do not tell."""
    out = np.asarray(few.any(axis=0))
    if len(few) < len(Y):
        left = np.flatnonzero(~out)
        for start in range(0, len(left), COMPARED):
            some = left[start : start + COMPARED]
            out[some] = missing_mask(Y, where[some]).any(axis=0)
    return out


def patterns(missing: np.ndarray, least: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Columns of a mask (n_obs, c) that are the same: pairs of (rows that are there, columns).

    Only patterns that ``least`` columns or more have.
    """
    for columns in _alike(_hashes(missing), least):
        some = missing[:, columns]
        # Where hashes are the same but columns are not, they are compared whole.
        same = bool((some == some[:, :1]).all())
        for part in [np.arange(len(columns))] if same else _equal_rows(np.ascontiguousarray(some.T), least):
            yield ~some[:, part[0]], columns[part]


def _hashes(mask: np.ndarray) -> np.ndarray:
    """A number for each column of a mask (n_obs, c): sums of whole numbers, exact in any order."""
    n = len(mask)
    factors = np.random.default_rng(0).integers(1, 2**52 // max(n, 1), n).astype(np.float64)
    out = np.zeros(mask.shape[1])

    def add(some: slice) -> None:
        for start in range(0, n, HASHED_ROWS):  # as many as stay in a cache as numbers
            rows = slice(start, start + HASHED_ROWS)
            out[some] += factors[rows] @ mask[rows, some].astype(np.float64)

    by_chunks(len(out), COMPARED, add)
    return out


def _alike(keys: np.ndarray, least: int) -> Iterator[np.ndarray]:
    """Numbers of the elements of ``keys`` that are the same, where these are ``least`` or more."""
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    order, ends = np.argsort(which, kind="stable"), np.cumsum(counts)
    for k in np.flatnonzero(counts >= least):
        yield order[ends[k] - counts[k] : ends[k]]


def shared_designs(
    Y: Any, where: np.ndarray, least: int = 1, few: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray]]:
    """Which of the columns ``where`` of Y are of one design: (rows that are there, their weights, columns).

    The weights (rows,) are None where Y has none of its own. Only designs that ``least`` columns or more share.
    ``few``: the rows of Y that are :func:`probed`, if that was done.
    """
    if not isinstance(Y, WeightedMatrix):
        if len(where) < least:
            return
        some, mask = np.arange(len(where)), few
        if mask is None:
            mask = missing_mask(Y, where) if least == 1 else probed(Y, where)
        if len(mask) < len(Y):
            some = _with_others(mask, least)
            mask = missing_mask(Y, where[some])
        for rows, columns in patterns(mask, least):
            yield rows, None, some[columns]
        return
    for some in _candidates(Y, where, least):
        weights = np.ascontiguousarray(Y[:, columns_at(where[some])].counting().T)
        for columns in _equal_rows(weights, least):
            w = weights[columns[0]]
            yield w > 0, w[w > 0], some[columns]


def _with_others(few: np.ndarray, least: int) -> np.ndarray:
    """Which columns may share their pattern with so many: in a mask of a few rows they do."""
    if least == 1:
        return np.arange(few.shape[1])
    return np.sort(np.concatenate([np.zeros(0, dtype=np.intp), *_alike(_hashes(few), least)]))


def _candidates(Y: WeightedMatrix, where: np.ndarray, least: int) -> Iterator[np.ndarray]:
    """Columns whose weights may be the same: those of a few rows are."""
    if least == 1:
        # Few at a time, since all their weights are looked at together.
        for start in range(0, len(where), COMPARED):
            yield np.arange(start, min(start + COMPARED, len(where)))
        return
    probes = np.unique(np.linspace(0, len(Y) - 1, PROBES).astype(int))
    if len(where) >= least:
        yield from _equal_rows(np.ascontiguousarray(Y[np.ix_(probes, where)].counting().T), least)


def _equal_rows(values: np.ndarray, least: int) -> Iterator[np.ndarray]:
    """Numbers of the rows of a matrix that are the same, bit by bit, where these are ``least`` or more."""
    yield from _alike(values.view(np.dtype((np.void, values.dtype.itemsize * values.shape[1]))).reshape(-1), least)
