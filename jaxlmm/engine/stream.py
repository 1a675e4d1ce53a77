"""Responses in blocks: threads read and reduce the next block while JAX computes and this one is stored."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.runtime.threads import N_THREADS, single_threaded_blas

__all__ = ["stream_blocks"]

Raw = TypeVar("Raw")
Stats = TypeVar("Stats")


class Reducer(Protocol[Stats]):
    """How a design turns responses into statistics."""

    def room(self, c: int) -> Stats:
        """Room for the statistics of c responses."""
        ...

    def panels(self, c: int) -> list[slice]:
        """Split c responses into panels that fit in a cache."""
        ...

    def reduce_panel(self, Y: np.ndarray, cols: slice, stats: Stats) -> None:
        """Statistics of the columns ``cols`` of Y (n_obs, c) into ``stats``."""
        ...


def stream_blocks(
    reducer: Reducer[Stats],
    Y: np.ndarray,
    width: int,
    start: Callable[[Stats], Raw],
    store: Callable[[slice, Stats, Raw], None],
) -> None:
    """Run ``store(columns, stats, start(stats))`` for blocks of ``width`` columns of Y (n_obs, m), in order.

    ``start`` should send work to JAX and return at once; ``store`` waits for it. All in float64.
    """
    m = Y.shape[1]
    blocks = iter([slice(k, min(k + width, m)) for k in range(0, m, width)])
    reading: collections.deque[tuple[slice, Stats, list[concurrent.futures.Future[None]]]] = collections.deque()
    computing: collections.deque[tuple[slice, Stats, Raw]] = collections.deque()
    with float64_scope(), single_threaded_blas(), concurrent.futures.ThreadPoolExecutor(N_THREADS) as pool:

        def read_next() -> None:
            for cols in blocks:
                view, stats = Y[:, cols], reducer.room(cols.stop - cols.start)
                jobs = [
                    pool.submit(reducer.reduce_panel, view, part, stats) for part in reducer.panels(view.shape[1])
                ]
                reading.append((cols, stats, jobs))
                return

        read_next()
        while reading:
            read_next()
            cols, stats, jobs = reading.popleft()
            for job in jobs:
                job.result()
            computing.append((cols, stats, start(stats)))
            if len(computing) > 1:
                store(*computing.popleft())
        for block in computing:
            store(*block)
