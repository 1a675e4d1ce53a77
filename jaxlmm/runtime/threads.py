"""Threads: how many there are, and BLAS kept to one each while they are all at work."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import threadpoolctl

__all__ = ["N_THREADS", "by_chunks", "in_threads", "single_threaded_blas"]

N_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Below this many elements threads cost more than they save.
WORTH_IT = 50_000


def in_threads(function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """``function(*arrays)`` of an elementwise function, by rows in all threads if the arrays are large.

    The arrays have one shape; scipy's special functions let go of Python's lock.
    """
    m = len(arrays[0])
    if arrays[0].size < WORTH_IT or N_THREADS == 1:
        return function(*arrays)
    out = np.empty(arrays[0].shape)
    step = -(-m // N_THREADS)

    def part(start: int) -> None:
        rows = slice(start, start + step)
        out[rows] = function(*(a[rows] for a in arrays))

    with concurrent.futures.ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(part, range(0, m, step)))
    return out


def by_chunks(m: int, chunk: int, work: Callable[[slice], None]) -> None:
    """``work(rows)`` for rows 0 to m in slices of ``chunk``, in all threads if there are several slices."""
    slices = [slice(k, min(k + chunk, m)) for k in range(0, m, chunk)]
    if len(slices) < 2:
        for rows in slices:
            work(rows)
        return
    with single_threaded_blas(), concurrent.futures.ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(work, slices))


@functools.cache
def _blas() -> list[Any]:
    """Every BLAS of the process; finding them takes milliseconds."""
    return [lib for lib in threadpoolctl.ThreadpoolController().lib_controllers if lib.user_api == "blas"]


def _set_threads(lib: Any, n: int) -> None:
    # From 3.8 on the public method does nothing for a thread that is not the first that ever called it, and says
    # nothing; then one thread could not restore what another one set.
    getattr(lib, "_real_set_num_threads", lib.set_num_threads)(n)


class _OneThread(contextlib.AbstractContextManager[None]):
    """A limit that is the process's: the first who wants it sets it, the last one restores what was before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._before: list[tuple[Any, int]] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._holders == 0:
                self._before = [(lib, n) for lib in _blas() if (n := lib.get_num_threads())]
                for lib, _ in self._before:
                    _set_threads(lib, 1)
            self._holders += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                for lib, n in self._before:
                    _set_threads(lib, n)


_ONE_THREAD = _OneThread()


def single_threaded_blas() -> contextlib.AbstractContextManager[None]:
    """Context in which a BLAS call stays on its thread; several at once would wait for each other.

    BLAS has one limit a process. It is lifted when no thread is in such a context any more.
    """
    return _ONE_THREAD
