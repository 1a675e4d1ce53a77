"""Widths of blocks of responses, so that few shapes are compiled; and how a block is spread over devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = [
    "AXIS", "BLOCK_WIDTHS", "GPU_BYTES", "GPU_WIDTHS", "SETTLED_WIDTHS", "block_width", "in_parts", "mesh",
    "placement", "settled",
]  # fmt: skip

# Blocks are padded up to one of these, so that a last or a small block compiles nothing new.
BLOCK_WIDTHS = (8, 128, 512, 2048)
# A GPU does thousands of responses in the time of one.
GPU_WIDTHS = (128, 2048, 16384)
# Statistics of a block in the memory of a GPU.
GPU_BYTES = 256 * 2**20
AXIS = "responses"
# Undecided responses that are settled at a time.
SETTLED_WIDTHS = (8, 128)

Tree = TypeVar("Tree")


def block_width(m: int, widths: Sequence[int] = BLOCK_WIDTHS) -> int:
    """Width of the blocks in which m responses are computed: the least of ``widths`` that holds them, or the last."""
    return next((w for w in widths if m <= w), widths[-1])


def in_parts(compute: Callable[[jax.Array], Tree], n: jax.Array, width: int, at_once: int, axis: int) -> Tree:
    """``compute(start)`` of ``at_once`` responses after the other until the first n of ``width`` are through.

    What they need at a time stays in a CPU's cache. The results have the responses along ``axis``, and are 0 after
    the first n. ``width`` is a multiple of ``at_once``.
    """
    part = jax.jit(compute)  # traced once, if all starts are of one type
    n = jax.lax.convert_element_type(n, np.int32)

    def widened(one: jax.ShapeDtypeStruct) -> jax.Array:
        shape = list(one.shape)
        shape[axis] = width
        # Of n, and so part of the program: zeros of their own JAX would compile a program for.
        return jnp.broadcast_to(jax.lax.convert_element_type(0 * n, one.dtype), shape)

    def add(k: jax.Array, out: Tree) -> Tree:
        def put(whole: jax.Array, some: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(whole, some, k * at_once, axis % whole.ndim)

        return jax.tree.map(put, out, part(k * at_once))

    empty = jax.tree.map(widened, jax.eval_shape(part, jax.ShapeDtypeStruct((), np.int32)))
    return jax.lax.fori_loop(0, (n + at_once - 1) // at_once, add, empty)


@functools.cache
def mesh(devices: tuple[jax.Device, ...]) -> Mesh:
    """The devices along the axis of the responses."""
    return Mesh(np.array(devices), (AXIS,))


def placement(devices: tuple[jax.Device, ...], *axes: str | None) -> Any:
    """Where arrays go: cut along ``axes`` if there are several devices, and the same on each without axes."""
    return devices[0] if len(devices) == 1 else NamedSharding(mesh(devices), PartitionSpec(*axes))


def settled(found: Tree, undecided: np.ndarray, fit: Callable[[np.ndarray], Tree], *, axis: int) -> Tree:
    """Results of a block, with those of the responses ``undecided`` (c,) replaced.

    Whether a minimum is the lowest is nearly always seen at once. The search that settles the others is long to
    compile, and slow, so that it is a program of its own, for as many responses as need it.

    Parameters
    ----------
    found : tree of arrays
        The responses lie along ``axis``.
    fit : callable
        Results, of the same tree, of the responses at some positions, which may repeat.
    """
    where = np.flatnonzero(undecided)
    if not len(where):
        return found
    found = jax.tree.map(np.array, found)
    width = block_width(len(where), SETTLED_WIDTHS)
    for start in range(0, len(where), width):
        part = where[start : start + width]
        for old, new in zip(jax.tree.leaves(found), jax.tree.leaves(fit(np.resize(part, width))), strict=True):
            np.moveaxis(old, axis, 0)[part] = np.moveaxis(np.asarray(new), axis, 0)[: len(part)]
    return found
