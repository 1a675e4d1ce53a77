"""The likelihood of ``crosslik`` from sums over groups alone, which is what its search asks for again and again.

With a_g = (b_g, e_g) and A_k = sum_g r_g w_g^k a_g a_g', w_g = N_g r_g, all follows from A_0, A_1 and A_2, a small
product each for every response. Let (W + A_0) be swept on the columns of b (Goodnight 1979, The American
Statistician 33, 149-158): that leaves C = M^-1, delta and, in the corner of e, s less ``rest``. With d = (-delta, 1),

    s' = -d' A_1 d,    s'' = 2 d' A_2 d - 2 h' C h,    h = (A_1 d), the rows of b,
    (log|M|)' = -tr(C A_1),    (log|M|)'' = 2 tr(C A_2) - tr(C A_1 C A_1),    A_1 and A_2 the rows and columns of b.

Here the squares of residuals are differences of sums of squares. What was fitted before ``crosslik`` is left out of
e, so that little is subtracted; ``whole / s`` tells how much. Where that is more than LOSS the search goes by
residuals instead, as do all results.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxlmm.families.entries import Entries, add, dot, get, symmetric_product
from jaxlmm.families.logs import log_product
from jaxlmm.families.own.sweeps import plus, positive, sweep, triangle

__all__ = ["LOSS", "at_nodes", "derivatives"]

# Sums of squares that differ by no more than this factor lose no digits that matter in their difference.
LOSS = 32


def at_nodes(A: jax.Array, W: jax.Array, rest: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The pwrss, log|M| and the sums of squares before anything is fitted, all (c, K).

    Parameters
    ----------
    A : ((p + 1) (p + 2) / 2, c, K)
        Lower triangles of A_0 at K variance ratios, row by row; e is last.
    W : (p, p, c, 1)
    rest : (c, 1)
    """
    p = len(W)
    left = plus(triangle(A, p + 1), W)
    pivots: list[jax.Array] = []
    whole = rest + left[p, p]
    for k in range(p):
        pivots.append(positive(left[k, k]))
        for i in range(k + 1, p + 1):
            factor = left[i, k] / pivots[-1]
            for j in range(k + 1, i + 1):
                left[i, j] = left[i, j] - factor * left[j, k]
    return rest + left[p, p], jnp.zeros_like(whole) + log_product(pivots), whole


def derivatives(A: Sequence[jax.Array], W: jax.Array, rest: jax.Array) -> tuple[jax.Array, ...]:
    """The pwrss and its derivatives in lam, and those of log|M|, all (c,).

    Parameters
    ----------
    A : three of ((p + 1) (p + 2) / 2, c)
        Lower triangles of A_0, A_1 and A_2.
    W : (p, p, c)
    rest : (c,)
    """
    p = len(W)
    A0, A1, A2 = (triangle(one, p + 1) for one in A)
    swept = plus(A0, W)
    for k in range(p):
        swept = sweep(swept, k)
    C = {(i, j): -value for (i, j), value in swept.items() if i < p}
    d = [*(-swept[p, i] for i in range(p)), jnp.ones_like(rest)]
    first, second = _times(A1, d), _times(A2, d)
    h = first[:p]
    s1, s2 = -dot(d, first), 2 * dot(d, second) - 2 * dot(h, _times(C, h))
    B = symmetric_product(C, A1, p)
    l1 = -add(B[i][i] for i in range(p))
    l2 = 2 * add(get(C, i, j) * get(A2, i, j) for i in range(p) for j in range(p))
    l2 = l2 - add(B[i][j] * B[j][i] for i in range(p) for j in range(p))
    zero = jnp.zeros_like(rest)
    return rest + swept[p, p], s1, s2, l1 + zero, l2 + zero


def _times(A: Entries, d: list[jax.Array]) -> list[jax.Array]:
    return [dot([get(A, i, j) for j in range(len(d))], d) for i in range(len(d))]
