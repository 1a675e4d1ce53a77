"""Responses in blocks: threads read and reduce the next block while JAX computes and this one is stored."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.families.intercept.reduce import Reducer, Stats, reduce_panel
from jaxlmm.runtime.threads import N_THREADS, single_threaded_blas

__all__ = ["stream_blocks"]

Raw = TypeVar("Raw")


def stream_blocks(
    reducer: Reducer,
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
                view, stats = Y[:, cols], Stats.empty(reducer, cols.stop - cols.start)
                jobs = [
                    pool.submit(reduce_panel, reducer, view, part, stats) for part in reducer.panels(view.shape[1])
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
