"""Threads: how many there are, and BLAS kept to one each while they are all at work."""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import threadpoolctl

__all__ = ["N_THREADS", "as_here", "by_chunks", "in_threads", "single_threaded_blas"]

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


def as_here(work: Callable[[], object]) -> Callable[[], object]:
    """``work`` for one other thread, with this one's context variables and device: JAX knows
    ``jax.default_device(...)`` in the thread that entered it alone."""
    device: Any = jax.config.jax_default_device  # type: ignore[attr-defined]

    def go() -> None:
        with jax.default_device(device):
            work()

    return functools.partial(contextvars.copy_context().run, go)


def by_chunks(m: int, chunk: int, work: Callable[[slice], None]) -> None:
    """``work(rows)`` for rows 0 to m in slices of ``chunk``, in all threads if there are several slices."""
    slices = [slice(k, min(k + chunk, m)) for k in range(0, m, chunk)]
    if len(slices) < 2:
        for rows in slices:
            work(rows)
        return
    # Each thread takes the next: a list's iterator gives every element once.
    waiting, errors = iter(slices), list[BaseException]()

    def go() -> None:
        try:
            for rows in waiting:
                work(rows)
                if errors:
                    return
        except BaseException as error:
            errors.append(error)

    with single_threaded_blas():
        # This thread works too: making threads takes as long as many a chunk.
        n_others = min(N_THREADS, len(slices)) - 1
        others = [threading.Thread(target=as_here(go)) for _ in range(n_others)]
        try:
            for thread in others:
                thread.start()
            go()
        finally:
            for thread in others:
                thread.join()
    if errors:
        raise errors[0]


@functools.cache
def _blas() -> list[Any]:
    """Every BLAS of the process; finding them takes milliseconds."""
    return [lib for lib in threadpoolctl.ThreadpoolController().lib_controllers if lib.user_api == "blas"]


def _set_threads(lib: Any, n: int) -> None:
    # From 3.8 on the public method does nothing for a thread that is not the first that ever called it, and says
    # nothing; then one thread could not restore what another one set.
    getattr(lib, "_real_set_num_threads", lib.set_num_threads)(n)


class _Limit:
    """One thread for every BLAS of the process while anybody holds the limit; then what was before.

    Taking and giving may be interrupted anywhere, by Ctrl-C or by the garbage collector that gives
    for a holder that is gone; whichever of them runs to its end leaves things right.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holders: set[int] = set()
        self._before: list[tuple[Any, int]] = []

    def take(self, holder: int) -> None:
        with self._lock:
            self._holders.add(holder)
            if not self._before:
                self._before = [(lib, n) for lib in _blas() if (n := lib.get_num_threads())]
            for lib, _ in self._before:
                if lib.get_num_threads() != 1:
                    _set_threads(lib, 1)

    def give(self, holder: int) -> None:
        with self._lock:
            self._holders.discard(holder)
            if not self._holders:
                for lib, n in self._before:
                    _set_threads(lib, n)
                self._before = []

    def held_by(self, holder: int) -> bool:
        return holder in self._holders

    def after_fork(self) -> None:
        """The threads that held the limit, or the lock, are not in the child of a fork."""
        self._lock = threading.RLock()
        self._holders.clear()
        self.give(0)


_LIMIT = _Limit()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LIMIT.after_fork)


class _Holder(contextlib.AbstractContextManager[None]):
    def __enter__(self) -> None:
        try:
            _LIMIT.take(id(self))
        except BaseException:
            _LIMIT.give(id(self))
            raise

    def __exit__(self, *error: object) -> None:
        try:
            _LIMIT.give(id(self))
        except BaseException:  # an interrupt: what it left is done now
            _LIMIT.give(id(self))
            raise

    def __del__(self) -> None:
        if _LIMIT.held_by(id(self)):  # an interrupt fell between this object and its ``with`` block
            _LIMIT.give(id(self))


def single_threaded_blas() -> contextlib.AbstractContextManager[None]:
    """Context in which a BLAS call stays on its thread; several at once would wait for each other.

    BLAS has one limit a process. It is lifted when no thread is in such a context any more, however
    that came about: errors and interrupts (Ctrl-C) included.
    """
    return _Holder()
