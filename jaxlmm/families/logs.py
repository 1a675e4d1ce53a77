"""Sums of logarithms of many numbers by one logarithm of their product.

On a CPU JAX takes logarithms of float64 one by one, at 8 ns each. A product of mantissas, which are in [1, 2), stays
within the range of float64 for a thousand factors, and exponents are added.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.entries import add

__all__ = ["log_product", "sum_of_logs"]

MANTISSA, ONE, BIAS, BITS = 2**52 - 1, 1023 << 52, 1023, 52
SMALLEST = float(np.finfo(np.float64).tiny)
# So many mantissas are multiplied before a logarithm is taken.
MOST = 512


def log_product(factors: Sequence[jax.Array]) -> jax.Array:
    """Sum of the logarithms of up to ``MOST`` arrays of one shape; NaN where one is not a positive normal number."""
    if not len(factors):
        return jnp.zeros(())
    mantissas, exponents = zip(*(_split(x) for x in factors), strict=True)
    return _log(functools.reduce(operator.mul, mantissas), functools.reduce(operator.add, exponents))


def sum_of_logs(x: jax.Array) -> jax.Array:
    """Sum over the second axis of the logarithms of x (c, n, ...), each within 1e-77 and 1e77."""
    for _ in range(2):
        x = _halved(x)
    mantissa, exponent = _split(x)
    parts = [slice(start, start + MOST) for start in range(0, x.shape[1], MOST)]
    return add(_log(_product(mantissa[:, some]), jnp.sum(exponent[:, some], axis=1)) for some in parts)


def _split(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mantissas in [1, 2), NaN where x is not a positive normal number, and exponents."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int64)
    mantissa = jax.lax.bitcast_convert_type((bits & MANTISSA) | ONE, jnp.float64)
    return jnp.where((x >= SMALLEST) & (x < jnp.inf), mantissa, jnp.nan), ((bits >> BITS) - BIAS).astype(jnp.float64)


def _log(mantissa: jax.Array, exponent: jax.Array) -> jax.Array:
    return jnp.log(mantissa) + np.log(2.0) * exponent


def _product(x: jax.Array) -> jax.Array:
    """Over the second axis, in loops along the last one: the compiler makes vectors of these alone."""
    while x.shape[1] > 1:
        x = _halved(x)
    return x[:, 0]


def _halved(x: jax.Array) -> jax.Array:
    """One half of the second axis times the other, and what is left over."""
    half = x.shape[1] // 2
    both = x[:, :half] * x[:, half : 2 * half]
    return jnp.concatenate([both, x[:, 2 * half :]], axis=1) if x.shape[1] % 2 else both
