"""Threads: how many there are, and BLAS kept to one each while they are all at work."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any

import threadpoolctl

__all__ = ["N_THREADS", "single_threaded_blas"]

N_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _controller() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()  # finding the libraries takes milliseconds


def single_threaded_blas() -> contextlib.AbstractContextManager[Any]:
    """Context in which a BLAS call stays on its thread; several at once would wait for each other."""
    return _controller().limit(limits=1, user_api="blas")
