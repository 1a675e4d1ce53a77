"""Blocks of responses that are computed in parts."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxlmm.engine.blocks import in_parts


@pytest.mark.parametrize("n", [0, 1, 4, 5, 12])
@pytest.mark.parametrize("axis", [0, -1])
def test_the_parts_that_are_there_are_computed(n: int, axis: int) -> None:
    x = np.arange(1, 13, dtype=np.float32)

    @jax.jit
    def program(x: jax.Array, n: jax.Array) -> tuple[jax.Array, jax.Array]:
        def part(start: jax.Array) -> tuple[jax.Array, jax.Array]:
            some = jax.lax.dynamic_slice_in_dim(x, start, 4)
            pair = jax.numpy.stack([some, -some], axis=1 if axis == 0 else 0)
            return pair, some > 0

        found: tuple[jax.Array, jax.Array] = in_parts(part, n, 12, 4, axis)
        return found

    pair, there = program(x, np.asarray(n))
    whole = np.where(np.arange(12) < -(-n // 4) * 4, x, 0)
    expected = np.stack([whole, -whole], axis=1 if axis == 0 else 0)
    np.testing.assert_array_equal(pair, expected)
    np.testing.assert_array_equal(there, whole > 0)
