"""Averages of the reference grid over the variables that were not asked for.

With equal weights the mean of a cell is that of Searle, Speed & Milliken (1980, Am Stat 34:216-221). The other
weights are those that R's emmeans knows by the same names.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlmm.inference.grid import Grid
from jaxlmm.runtime.arguments import shown

__all__ = ["WEIGHTS", "average"]

WEIGHTS = ("equal", "proportional", "outer", "cells", "flat")


def average(
    grid: Grid, names: Sequence[str], weights: Any = "equal"
) -> tuple[tuple[dict[str, Any], ...], np.ndarray]:
    """The grid averaged over all variables but ``names``.

    Parameters
    ----------
    grid : Grid
    names : sequence of str
        Of which the first varies fastest.
    weights : {"equal", "proportional", "outer", "cells", "flat"}, or sequence of float
        Of the cells that are averaged: alike; as often as observed over the whole grid; as the product of each
        variable's own frequencies; as often as observed at the levels of ``names``; alike for the cells observed
        there. Numbers: one for each combination of levels of the averaged variables, the first varying fastest. Of a
        factor that is nested in another only the levels within it count.

    Returns
    -------
    labels : tuple of dict
        The levels of ``names``.
    L : ndarray, (k, p_all)
        NaN where all weights are 0.
    """
    order, size = list(grid.levels), grid.rows.shape[-1]
    averaged = [name for name in order if name not in names]
    axes = [order.index(name) for name in [*averaged, *names[::-1]]]
    k = int(np.prod([len(grid.levels[name]) for name in names], dtype=int))
    rows = grid.rows.transpose(*axes, len(order)).reshape(-1, k, size)
    counts = grid.counts.transpose(axes)
    if not counts.any():
        counts = np.ones(counts.shape)
    shape = counts.shape[: len(averaged)]
    w = _weights(weights, counts.reshape(*shape, k), averaged)
    if w.shape[1] == 1 and grid.nested.any():
        w = w * ~grid.nested.transpose(axes).reshape(-1, k)
    with np.errstate(invalid="ignore", divide="ignore"):
        w = w / w.sum(axis=0)
    L = np.einsum("ak,akp->kp", np.broadcast_to(w, rows.shape[:2]), rows)
    cells = itertools.product(*(grid.levels[name] for name in names[::-1]))
    return tuple(dict(zip(names, cell[::-1], strict=True)) for cell in cells), L


def _weights(given: Any, counts: np.ndarray, averaged: Sequence[str]) -> np.ndarray:
    """Weights (a, k) or (a, 1) of the a averaged cells, whose counts have an axis for each variable and one of k."""
    shape = counts.shape[:-1]
    n = int(np.prod(shape, dtype=int))
    if not isinstance(given, str):
        return _numbers(given, shape, averaged)
    found = [word for word in WEIGHTS if given and word.startswith(given.lower())]
    if len(found) != 1:
        raise ValueError(f"weights must be one of {', '.join(map(repr, WEIGHTS))}, or numbers, found {shown(given)}.")
    total = counts.sum(axis=-1)
    match found[0]:
        case "proportional":
            w = total.reshape(n, 1)
        case "outer":
            w = np.ones(shape)
            for j in range(len(shape)):
                margin = total.sum(axis=tuple(i for i in range(len(shape)) if i != j))
                w = w * margin.reshape([-1 if i == j else 1 for i in range(len(shape))])
            w = w.reshape(n, 1)
        case "cells":
            w = counts.reshape(n, -1)
        case "flat":
            w = (counts > 0).reshape(n, -1).astype(float)
        case _:
            w = np.ones((n, 1))
    return w


def _numbers(given: Any, shape: tuple[int, ...], averaged: Sequence[str]) -> np.ndarray:
    n, over = int(np.prod(shape, dtype=int)), ", ".join(averaged) or "no variable"
    try:
        w = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        w = np.full(n, np.nan)
    if w.shape != (n,) or not np.isfinite(w).all() or w.sum() <= 0:
        raise ValueError(
            f"weights must be one of {', '.join(map(repr, WEIGHTS))}, or {n} finite numbers, one for each "
            f"combination of levels that is averaged over ({over}, the first varying fastest); found {shown(given)}."
        )
    return w.reshape(shape[::-1]).transpose().reshape(n, 1)
