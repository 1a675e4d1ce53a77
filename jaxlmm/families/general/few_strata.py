"""The arithmetic of ``strata_moments`` number by number, where X has few columns.

All that is asked of a response at given phi is sums over the rows of F, and over the strata, of products of a few
numbers. As in ``one_factor`` each set of sums is one ``lax.reduce``, of which XLA makes one loop; matrix products of
such sizes, one after another, take several times as long as their arithmetic. With w_j = 1 / xi_j,

    M = sum_j w_j f_j f_j',     M_t = sum_j lam_jt w_j^2 f_j f_j',     M_tu = sum_j lam_jt lam_ju w_j^3 f_j f_j',

b = M^-1 sum_j w_j f_j h_j and e_j = h_j - f_j'b.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import TypeGuard

import jax
import jax.numpy as jnp

from jaxlmm.families.base import Moments
from jaxlmm.families.entries import Entries, add, dot, get, once, symmetric_product
from jaxlmm.families.general.eliminated import sums
from jaxlmm.families.general.layout import packed_pairs
from jaxlmm.families.general.strata import StrataCore
from jaxlmm.families.general.strata_moments import StrataStats

__all__ = ["fits", "moments"]

# Sums of one loop, from where on it holds too many numbers.
MOST_SUMS = 128

Vector = list[jax.Array]


def fits(core: object) -> TypeGuard[StrataCore]:
    """Whether the design is one of those."""
    if not isinstance(core, StrataCore):
        return False
    k, pairs = core.n_phi, len(packed_pairs(core.p))
    return pairs * (1 + k + len(packed_pairs(k))) <= MOST_SUMS


def moments(core: StrataCore, phi: jax.Array, stats: StrataStats, *, reml: bool) -> Moments:
    """See ``families.base.Family.moments``."""
    k, p = core.n_phi, core.p
    _, w, first, second = _weights(core.row_values, phi)
    F = [core.F[:, i, None] for i in range(p)]
    products = [F[i] * F[j] for i, j in packed_pairs(p)]
    orders = [w, *first, *second] if reml else [w]
    inner = _sums([x * y for x in orders for y in products] + [w * f * stats.h for f in F])
    *products_of, Fh = _in_turn(inner, [len(products)] * len(orders) + [p])
    M, *changes = (dict(zip(packed_pairs(p), part, strict=True)) for part in products_of)
    C, log_M = _inverse(M, p)
    b = once(_times(C, Fh))

    e = stats.h - add(f * x for f, x in zip(F, b, strict=True))
    moved = [x * e for x in first]
    squares = [w * e * e, *(x * e for x in moved), *(x * e * e for x in second)]
    onto = [x * f for x in moved for f in F]  # whose sums are Q'P G_t P y
    *pull, inner = _in_turn(_sums(onto + squares), [p] * k + [len(squares)])
    _, v, v_first, v_second = _weights(core.rest_values, phi)
    rest = _sums([x * stats.rest for x in (v, *v_first, *v_second)])
    s, s_first, s_second = _in_turn([x + y for x, y in zip(inner, rest, strict=True)], [1, k, len(second)])
    carried = [_times(C, x) for x in pull]
    s2 = [2 * (x - dot(pull[t], carried[u])) for x, (t, u) in zip(s_second, packed_pairs(k), strict=True)]
    logdet = _logdet(core, phi)
    value, l1, l2 = _restricted(logdet, C, log_M, changes) if reml else logdet
    at = Moments(s[0], -jnp.stack(s_first), _symmetric(s2, k), value, jnp.stack(l1), _symmetric(l2, k))
    found: Moments = jax.lax.optimization_barrier(at)
    return found


def _weights(values: jax.Array, phi: jax.Array) -> tuple[jax.Array, jax.Array, Vector, Vector]:
    """xi and w = 1 / xi of rows with ``values`` lam (rows, k) at phi (k, c), (rows, c); lam_t w^2, of each t, and
    lam_t lam_u w^3, of each pair."""
    lam = [values[:, t, None] for t in range(len(phi))]
    xi = 1 + add(x * y for x, y in zip(lam, phi, strict=True))
    w = 1 / xi
    return xi, w, [x * w * w for x in lam], [lam[t] * lam[u] * w * w * w for t, u in packed_pairs(len(phi))]


def _logdet(core: StrataCore, phi: jax.Array) -> tuple[jax.Array, Vector, Vector]:
    """log|V| (c,), and its derivatives in each phi_t and in each pair."""
    xi, _, first, second = _weights(core.values, phi)
    dims = core.dims[:, None]
    parts = [dims * jnp.log(xi), *(dims * xi * x for x in first), *(-dims * xi * x for x in second)]
    value, l1, l2 = _in_turn(_sums(parts), [1, len(first), len(second)])
    return value[0], l1, l2


def _restricted(
    logdet: tuple[jax.Array, Vector, Vector], C: Entries, log_M: jax.Array, changes: Sequence[Entries]
) -> tuple[jax.Array, Vector, Vector]:
    """log|V| and its derivatives with those of log|M| added; ``changes`` are M_t of each t, and M_tu of each pair."""
    value, l1, l2 = logdet
    k, p = len(l1), 1 + max(i for i, _ in C)
    turned = [symmetric_product(C, x, p) for x in changes[:k]]
    l1 = [x - add(part[i][i] for i in range(p)) for x, part in zip(l1, turned, strict=True)]
    l2 = [
        x + add((2 if i == j else 4) * C[i, j] * change[i, j] for i, j in C) - _trace(turned[t], turned[u])
        for x, change, (t, u) in zip(l2, changes[k:], packed_pairs(k), strict=True)
    ]
    return value + log_M, l1, l2


# Small matrices by entries -----------------------------------------------------------------------------


def _inverse(M: Entries, p: int) -> tuple[Entries, jax.Array]:
    """M^-1 and log|M| of positive definite M, swept on one pivot after another (Goodnight 1979)."""
    pivots = []
    for j in range(p):
        row, pivot = [get(M, i, j) for i in range(p)], M[j, j]
        scaled = [x / pivot for x in row]
        M = {(a, b): x - row[a] * scaled[b] for (a, b), x in M.items()}
        M |= {(min(i, j), max(i, j)): scaled[i] for i in range(p)} | {(j, j): -1 / pivot}
        pivots.append(pivot)
    log_M = jnp.log(functools.reduce(operator.mul, pivots))
    *entries, log_M = once([*(-x for x in M.values()), log_M])
    return dict(zip(M, entries, strict=True)), log_M


def _times(M: Entries, x: Vector) -> Vector:
    return [add(get(M, i, j) * x[j] for j in range(len(x))) for i in range(len(x))]


def _trace(A: list[Vector], B: list[Vector]) -> jax.Array:
    """tr(A B)."""
    return add(A[i][j] * B[j][i] for i in range(len(A)) for j in range(len(A)))


def _symmetric(values: Vector, k: int) -> jax.Array:
    """(k, k, c) of the entries of ``packed_pairs``."""
    entries = dict(zip(packed_pairs(k), values, strict=True))
    return jnp.stack([jnp.stack([get(entries, t, u) for u in range(k)]) for t in range(k)])


def _sums(parts: Vector) -> Vector:
    """Sums of the rows of arrays (rows, c), in one loop."""
    return once(sums(parts, 0))


def _in_turn(values: Vector, lengths: Sequence[int]) -> list[Vector]:
    """``values`` in parts of such lengths, one after another."""
    rest = iter(values)
    return [[next(rest) for _ in range(n)] for n in lengths]
