"""Which blocks of responses a long run takes: whole chunks of the store, as many as memory allows."""

from __future__ import annotations

import itertools
import math
import numbers
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BLOCK_BYTES", "Plan", "make_plan"]

# Responses read at a time, in bytes of Y. Three blocks are in memory: read, computed, and one ahead.
BLOCK_BYTES = 128 * 2**20
# A multiple of the widest block that is computed at a time, so that none is padded.
STEP = 2048
# A store's chunk is taken whole up to this many times the size asked for.
MAX_EXCESS = 4


@dataclass(frozen=True)
class Plan:
    """A grid of blocks over the axes of the responses.

    Attributes
    ----------
    dims : tuple of int
        Lengths of the axes.
    block : tuple of int
        Lengths of a block along each; the last ones along an axis may be shorter.
    """

    dims: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return tuple(-(-n // b) for n, b in zip(self.dims, self.block, strict=True))

    def __len__(self) -> int:
        return math.prod(self.grid)

    def blocks(self) -> list[tuple[slice, ...]]:
        """All blocks, the last axis varying fastest."""
        axes = [[slice(k, min(k + b, n)) for k in range(0, n, b)] for n, b in zip(self.dims, self.block, strict=True)]
        return list(itertools.product(*axes))


def make_plan(
    dims: Sequence[int], bytes_each: int, chunks: Sequence[int] | None = None, responses: int | None = None
) -> Plan:
    """Blocks that are multiples of a store's chunks where that is possible.

    Parameters
    ----------
    dims : sequence of int
        Lengths of the axes of the responses.
    bytes_each : int
        Bytes of one response, all observations.
    chunks : sequence of int, optional
        What the store reads in one piece along each axis; None if it reads any part alike.
    responses : int, optional
        Wanted responses in a block. Default: ``BLOCK_BYTES`` of them.

    Raises
    ------
    ValueError
        ``responses`` below 1.
    """
    if responses is not None and (not isinstance(responses, numbers.Integral) or responses < 1):
        raise ValueError(f"block must be a number of responses, 1 or more, found {responses!r}.")
    dims = tuple(dims)
    wanted = responses or max(BLOCK_BYTES // max(bytes_each, 1), 1)
    if responses is None and wanted > STEP:
        wanted -= wanted % STEP
    block = [min(c, n) for c, n in zip(chunks or [1] * len(dims), dims, strict=True)]
    if math.prod(block) > MAX_EXCESS * wanted:
        whole = math.prod(block)
        for axis in range(len(block)):  # the slowest axis first, so that what is read stays in one piece
            others = math.prod(block[:axis]) * math.prod(block[axis + 1 :])
            block[axis] = max(wanted // others, 1)
            if math.prod(block) <= wanted:
                break
        warnings.warn(
            f"Y is stored in chunks of {whole} responses, too many to hold in memory, so each will be read about "
            f"{-(-whole // math.prod(block))} times; store it in chunks of at most {MAX_EXCESS * wanted} responses, "
            "or raise block.",
            stacklevel=2,
        )
        return Plan(dims, tuple(block))
    for axis in reversed(range(len(dims))):
        others = math.prod(block) // block[axis]
        block[axis] = min(dims[axis], block[axis] * max(wanted // (others * block[axis]), 1))
        if block[axis] < dims[axis]:
            break
    return Plan(dims, tuple(block))
