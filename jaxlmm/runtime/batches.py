"""Batches of responses in few widths, so that compiled code serves a fit of any number of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxlmm.runtime.device import compute_devices
from jaxlmm.runtime.threads import N_THREADS, by_chunks

__all__ = ["FULL", "few", "in_batches", "narrower", "on_gpu", "padded", "put", "take", "width_for", "widths"]

# A batch is padded up to one of these widths: on a CPU what stays in the cache of one core, on a GPU, where a
# step takes as long for one response as for thousands, what fills it.
CPU_WIDTHS, CPU_BYTES = (16, 128, 1024), 20 * 2**20
FULL = 128  # fills a CPU
GPU_WIDTHS, GPU_BYTES = (16, 256, 4096, 32768), 4 * 2**30


def on_gpu() -> bool:
    """Whether batches are computed on something else than a CPU."""
    return compute_devices()[0].platform != "cpu"


def widths() -> tuple[int, ...]:
    """The widths of batches on the device that computes."""
    return GPU_WIDTHS if on_gpu() else CPU_WIDTHS


def width_for(c: int, bytes_per_response: int) -> int:
    """The width in which c responses are computed: narrow where they are few or take much memory."""
    gpu = on_gpu()
    all_widths = GPU_WIDTHS if gpu else CPU_WIDTHS
    most = max((GPU_BYTES if gpu else CPU_BYTES) // bytes_per_response, all_widths[0])
    fits = [width for width in all_widths if width <= most]
    share = c if gpu else -(-c // N_THREADS)
    return next((width for width in fits if share <= width), fits[-1])


def narrower(width: int) -> int:
    """The next narrower width, or 0."""
    return max((w for w in widths() if w < width), default=0)


def few(width: int) -> int:
    """How many responses take less in narrower batches than in one of this width; 0 if there are no narrower ones.

    A batch that does not fill the device takes as long as one that does, so that it is not split into several.
    """
    narrow = narrower(width)
    return width // 2 if narrow >= FULL and not on_gpu() else narrow


def padded(rows: slice, width: int, c: int) -> np.ndarray:
    """Positions of ``rows`` among c responses, padded up to ``width`` with what comes next or the last one."""
    return np.minimum(np.arange(rows.start, rows.start + width), c - 1)


def take(tree: Any, index: np.ndarray) -> Any:
    """The responses ``index``, numbers or flags, of arrays whose last axis is that of responses."""
    numbers = np.flatnonzero(index) if index.dtype == bool else index
    # Several times as fast as indexing with numbers.
    return jax.tree.map(lambda a: np.take(a, numbers, axis=-1), tree)


def put(tree: Any, index: np.ndarray, part: Any) -> None:
    """Write the first of ``part``'s responses to the responses ``index``, numbers that rise, of arrays in numpy."""
    n = len(index)
    # Where nothing is left out, which is often so, a slice is many times as fast.
    where: Any = slice(index[0], index[-1] + 1) if n and index[-1] - index[0] == n - 1 else index
    for whole, new in zip(jax.tree.leaves(tree), jax.tree.leaves(part), strict=True):
        whole[..., where] = np.asarray(new)[..., :n]


def in_batches(compute: Callable[[np.ndarray], Any], c: int, width: int) -> Any:
    """``compute(index)`` of c responses, at least one, in all threads; trees of arrays joined on their last axis."""
    parts: dict[int, Any] = {}

    def one(rows: slice) -> None:
        part = compute(padded(rows, width, c))
        parts[rows.start] = jax.tree.map(lambda a: np.asarray(a)[..., : rows.stop - rows.start], part)

    by_chunks(c, width, one)
    ordered = [parts[start] for start in sorted(parts)]
    return jax.tree.map(lambda *a: np.concatenate(a, axis=-1), *ordered)
