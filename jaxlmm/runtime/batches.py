"""Batches of responses in few widths, so that compiled code serves a fit of any number of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxlmm.runtime.threads import N_THREADS, by_chunks

__all__ = ["WIDTHS", "in_batches", "padded", "take", "width_for"]

# A batch is padded up to one of these widths.
WIDTHS = (16, 128, 2048)


def width_for(c: int, bytes_per_response: int, most_bytes: int) -> int:
    """The width in which c responses are computed: narrow where they are few or take much memory."""
    most = max(most_bytes // bytes_per_response, WIDTHS[0])
    fits = [width for width in WIDTHS if width <= most]
    share = -(-c // N_THREADS)
    return next((width for width in fits if share <= width), fits[-1])


def padded(rows: slice, width: int, c: int) -> np.ndarray:
    """Positions of ``rows`` among c responses, padded up to ``width`` with what comes next or the last one."""
    return np.minimum(np.arange(rows.start, rows.start + width), c - 1)


def take(tree: Any, index: np.ndarray) -> Any:
    """The responses ``index`` of arrays whose last axis is that of responses."""
    return jax.tree.map(lambda a: np.asarray(a)[..., index], tree)


def in_batches(compute: Callable[[np.ndarray], Any], c: int, width: int) -> Any:
    """``compute(index)`` of c responses, at least one, in all threads; trees of arrays joined on their last axis."""
    parts: dict[int, Any] = {}

    def one(rows: slice) -> None:
        part = compute(padded(rows, width, c))
        parts[rows.start] = jax.tree.map(lambda a: np.asarray(a)[..., : rows.stop - rows.start], part)

    by_chunks(c, width, one)
    ordered = [parts[start] for start in sorted(parts)]
    return jax.tree.map(lambda *a: np.concatenate(a, axis=-1), *ordered)
