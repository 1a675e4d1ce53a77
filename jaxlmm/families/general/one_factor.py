"""The arithmetic of ``moments`` where all terms lie on one factor and X has few columns.

Nothing but Q is left beside the eliminated factor, so that A = Q'V^-1 Q (p, p) is all there is to factor, and all
that is asked of a response is sums over the groups. With H_g = (I + R_g Phi R_g')^-1 they are sums of products of

    K = R'H R (r, r),     Y = R'H C (r, p),     z = R'H (b - C u) (r,)

of each group, a few numbers. They are written out here number by number, and each set of sums is one ``lax.reduce``:
XLA makes one loop of it, in which the numbers of a group stay in registers. As arrays over groups and responses they
would go to memory and back, which takes several times as long as the arithmetic.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.base import Moments
from jaxlmm.families.entries import Entries, add, dot, get, once, symmetric_product
from jaxlmm.families.general.eliminated import first_parameters, groups, orderings
from jaxlmm.families.general.eliminated import sums as sums_of
from jaxlmm.families.general.layout import Core, packed_pairs
from jaxlmm.families.general.moments import Stats

__all__ = [
    "covariance_matrices", "fits", "information", "moments", "node_parts", "own_covariance", "pwrss_logdet",
    "solutions",
]  # fmt: skip

# Columns of X, and of Z, from which on the loops hold too many numbers.
MOST_FIXEF, MOST_RANEF = 8, 4


Vector = list[jax.Array]
Parameter = tuple[int, int]
# What is made of the sums once they are found.
Later = Callable[[list[jax.Array]], jax.Array]


@dataclass(frozen=True)
class _Factored:
    """The model at given phi: log|V1| (c,); A by entries (c,), L^-1 and A^-1 by entries, and log|A| (c,)."""

    logdet1: jax.Array
    A: Entries
    lower: Entries
    inverse: Entries
    log_A: jax.Array


@dataclass(frozen=True)
class _Solved:
    """Of responses at given phi: pwrss ``s`` (c,), and ``u`` (p of (c,)) by which coefficients rise."""

    s: jax.Array
    u: Vector


def fits(core: object) -> TypeGuard[Core]:
    """Whether the design is one of those."""
    return isinstance(core, Core) and not core.second and core.p <= MOST_FIXEF and core.r1 <= MOST_RANEF


def moments(core: Core, phi: jax.Array, stats: Stats, *, reml: bool) -> Moments:
    """See ``families.base.Family.moments``."""
    group, sums = _Group(core, phi), _Sums()
    at, solved = _solve(core, group, stats)
    s1, s2 = _pwrss_derivatives(group, at, solved, stats, sums)
    l1, l2 = _logdet_derivatives(group, at, reml, sums)
    found = sums.found()
    return Moments(solved.s, s1(found), s2(found), _logdet(at, reml), l1(found), l2(found))


def node_parts(core: Core, phi: jax.Array, stats: Stats, *, reml: bool) -> tuple[jax.Array, jax.Array]:
    """pwrss (K, c) and log-determinants (K,) at phi (k, K) that all responses share: two matrix products."""
    group = _Group(core, phi)
    at = _factor(core, group)
    b, r, p, n = groups(core, stats.b), core.r1, core.p, phi.shape[1]
    pairs = packed_pairs(r)
    H = jnp.concatenate([group.H[a, d] * (1 if a == d else 2) for a, d in pairs])
    squares = jnp.concatenate([b[a] * b[d] for a, d in pairs])
    lowered = [[add(at.lower[i, j] * group.HC[a][j] for j in range(i + 1)) for a in range(r)] for i in range(p)]
    rows = jnp.concatenate([jnp.concatenate(row) for row in lowered]).reshape(p, -1, n).transpose(2, 0, 1)
    explained = (rows.reshape(n * p, -1) @ stats.b).reshape(n, p, -1)
    return stats.rest + H.T @ squares - jnp.sum(explained * explained, axis=1), _logdet(at, reml)


def pwrss_logdet(core: Core, phi: jax.Array, stats: Stats, *, reml: bool) -> tuple[jax.Array, jax.Array]:
    """pwrss (c,) and log-determinants (c,) at phi (k, c)."""
    at, solved = _solve(core, _Group(core, phi), stats)
    return solved.s, _logdet(at, reml)


def solutions(core: Core, phi: jax.Array, stats: Stats, L: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """pwrss (c,), coefficients (p, c) of Q, and variances (q, c) over sigma2 of the contrasts L (q, p) of them."""
    at, solved = _solve(core, _Group(core, phi), stats)
    variances = [dot(x, x) for x in (_apply(at.lower, list(row)) for row in L)]
    return solved.s, stats.ols + jnp.stack(solved.u), jnp.stack(variances)


def own_covariance(core: Core, phi: jax.Array, L: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Variances (q, c) of the contrasts L (q, p) over sigma2, and their first derivatives in phi, (k, q, c)."""
    group = _Group(core, phi)
    at, sums = _factor(core, group), _Sums()
    values, first = [], []
    for row in L:
        lowered = _apply(at.lower, list(row))
        values.append(dot(lowered, lowered))
        z = once(_apply_transposed(at.lower, lowered))  # A^-1 L'
        zB = [dot(group.Y[j], z) for j in range(core.r1)]
        first.append([sums.add(add(zB[i] * zB[j] for i, j in orderings(*s))) for s in group.parameters])
    found = sums.found()
    return jnp.stack(values), jnp.stack([jnp.stack([found[n] for n in row]) for row in first], axis=1)


def covariance_matrices(core: Core, phi: jax.Array, *, second: bool) -> tuple[jax.Array, ...]:
    """A^-1 (c, p, p), the covariance of the coefficients over sigma2, and its first derivatives in phi, (c, k, p, p).

    With ``second`` the second ones alone, (c, k, k, p, p). With N_s the sums of Y'E_s Y over the groups they are
    A^-1 N_s A^-1, and A^-1 (N_s A^-1 N_t + N_t A^-1 N_s - Y'(E_s K E_t + E_t K E_s) Y) A^-1.
    """
    group = _Group(core, phi)
    at, r, p = _factor(core, group), core.r1, core.p
    inverse = jnp.stack([jnp.stack([get(at.inverse, i, j) for j in range(p)], -1) for i in range(p)], -2)
    Y = _by_response([[group.Y[a][i] for i in range(p)] for a in range(r)], phi.shape[1])
    E = np.zeros((len(group.parameters), r, r))
    for s, parameter in enumerate(group.parameters):
        for i, j in orderings(*parameter):
            E[s, i, j] = 1.0
    EY = jnp.einsum("sab,cgbp->csgap", E, Y)
    c, k = EY.shape[:2]
    flat = EY.reshape(c, k, -1, p)
    N = jnp.swapaxes(Y.reshape(c, 1, -1, p), 2, 3) @ flat
    left = inverse[:, None] @ N
    if not second:
        return inverse, left @ inverse[:, None]
    K = _by_response([[get(group.K, a, b) for b in range(r)] for a in range(r)], phi.shape[1])
    carried = (K[:, None] @ EY).reshape(c, k, -1, p)
    Q = jnp.swapaxes(flat, 2, 3)[:, :, None] @ carried[:, None]
    both = N[:, :, None] @ left[:, None] - Q
    return (inverse[:, None, None] @ (both + jnp.swapaxes(both, 1, 2)) @ inverse[:, None, None],)


def _by_response(entries: Sequence[Sequence[jax.Array]], c: int) -> jax.Array:
    """Entries (G, c) or (G, 1) of matrices, as (c, G, rows, columns)."""
    G = entries[0][0].shape[0]
    rows = [jnp.stack([jnp.broadcast_to(x, (G, c)) for x in row], -1) for row in entries]
    return jnp.swapaxes(jnp.stack(rows, -2), 0, 1)


def information(core: Core, phi: jax.Array, *, reml: bool) -> tuple[jax.Array, jax.Array]:
    """First and second derivatives (k, c), (k, k, c) in phi of the log-determinants."""
    group, sums = _Group(core, phi), _Sums()
    l1, l2 = _logdet_derivatives(group, _factor(core, group), reml, sums)
    found = sums.found()
    return l1(found), l2(found)


# A group, number by number -----------------------------------------------------------------------------


class _Group:
    """The numbers of each group at phi (k, c), as arrays (G, c), or (G, 1) where they do not depend on phi."""

    def __init__(self, core: Core, phi: jax.Array) -> None:
        r, p = core.r1, core.p
        rows = core.C.reshape(r, core.G, *core.C.shape[1:])
        self.r, self.p, self.core = r, p, core
        self.parameters: list[Parameter] = [(i, j) for _, i, j in sorted(first_parameters(core))]
        self.R = [[_each(core.R[a, j]) for j in range(r)] for a in range(r)]
        self.C = [[_each(rows[a, :, i]) for i in range(p)] for a in range(r)]
        Phi = {(i, j): phi[s] for s, i, j in first_parameters(core)}
        RPhi = [
            [add(self.R[a][i] * get(Phi, i, j) for i in range(r) if (i, j) in Phi or (j, i) in Phi) for j in range(r)]
            for a in range(r)
        ]
        M = {(a, b): float(a == b) + add(RPhi[a][j] * self.R[b][j] for j in range(r)) for a, b in packed_pairs(r)}
        lower, pivots = _inverse_factor(M, r)
        self.H = _crossed(lower, r)
        self.logdet = jnp.log(functools.reduce(operator.mul, pivots))

    def times(self, x: Vector) -> Vector:
        """H x."""
        return [add(get(self.H, a, b) * x[b] for b in range(self.r)) for a in range(self.r)]

    def onto(self, x: Vector) -> Vector:
        """R'x: from coordinates on Q1 to sums over the columns of Z1."""
        return [add(self.R[a][j] * x[a] for a in range(self.r)) for j in range(self.r)]

    @functools.cached_property
    def HC(self) -> list[Vector]:
        """H C (r, p)."""
        columns = [self.times([self.C[a][i] for a in range(self.r)]) for i in range(self.p)]
        return [[columns[i][a] for i in range(self.p)] for a in range(self.r)]

    @functools.cached_property
    def K(self) -> Entries:
        """R'H R."""
        columns = [self.onto(self.times([self.R[a][j] for a in range(self.r)])) for j in range(self.r)]
        return {(i, j): columns[j][i] for i, j in packed_pairs(self.r)}

    @functools.cached_property
    def Y(self) -> list[Vector]:
        """R'H C (r, p)."""
        columns = [self.onto([self.HC[a][i] for a in range(self.r)]) for i in range(self.p)]
        return [[columns[i][j] for i in range(self.p)] for j in range(self.r)]


def _each(numbers: jax.Array) -> jax.Array:
    """Numbers of each group (G,), which all responses share, or (G, c)."""
    return numbers[:, None] if numbers.ndim == 1 else numbers


class _Sums:
    """Sums over the groups, all found in one loop."""

    def __init__(self) -> None:
        self._parts: list[jax.Array] = []

    def add(self, values: jax.Array) -> int:
        """The number of the sum of ``values`` (G, c)."""
        self._parts.append(values)
        return len(self._parts) - 1

    def found(self) -> Vector:
        """All sums (c,), by number."""
        return once(sums_of(self._parts, 0))


def _exchanged(z: Vector, parameter: Parameter) -> dict[int, jax.Array]:
    """E_s z for parameter (i, j) of Phi: z_j in row i and z_i in row j, nothing elsewhere."""
    i, j = parameter
    return {i: z[j], j: z[i]}


# Parts -------------------------------------------------------------------------------------------------


def _factor(core: Core, group: _Group) -> _Factored:
    """The model without responses."""
    sums = _Sums()
    logdet, numbers = sums.add(group.logdet), _add_products(group, sums)
    return _factored(core, sums.found(), logdet, numbers)


def _add_products(group: _Group, sums: _Sums) -> dict[tuple[int, int], int]:
    """The numbers of the sums C'H C."""
    return {
        (i, j): sums.add(add(group.C[a][i] * group.HC[a][j] for a in range(group.r)))
        for i, j in packed_pairs(group.p)
    }


def _factored(core: Core, found: Vector, logdet: int, numbers: dict[tuple[int, int], int]) -> _Factored:
    A = {(i, j): core.W[i, j] + found[n] for (i, j), n in numbers.items()}
    lower, pivots = _inverse_factor(A, core.p)
    log_A = add(jnp.log(x) for x in pivots)
    kept = [*lower.values(), log_A]
    *kept, log_A = once(kept)
    lower = dict(zip(lower, kept, strict=True))
    inverse = _crossed(lower, core.p)
    return _Factored(found[logdet], A, lower, dict(zip(inverse, once(list(inverse.values())), strict=True)), log_A)


def _solve(core: Core, group: _Group, stats: Stats) -> tuple[_Factored, _Solved]:
    b, sums = groups(core, stats.b), _Sums()
    Hb = group.times(b)
    logdet, numbers = sums.add(group.logdet), _add_products(group, sums)
    square = sums.add(dot(b, Hb))
    onto = [sums.add(add(group.C[a][i] * Hb[a] for a in range(core.r1))) for i in range(core.p)]
    found = sums.found()
    at, v = _factored(core, found, logdet, numbers), [found[n] for n in onto]
    u = once(_apply_transposed(at.lower, _apply(at.lower, v)))
    # What rounding has left of A u = v is not lost.
    left = [2 * x - add(get(at.A, i, j) * u[j] for j in range(core.p)) for i, x in enumerate(v)]
    return at, _Solved(stats.rest + found[square] - dot(left, u), u)


def _pwrss_derivatives(
    group: _Group, at: _Factored, solved: _Solved, stats: Stats, sums: _Sums
) -> tuple[Later, Later]:
    """s1 (k, c) and s2 (k, k, c): x_s = G_s P y, s1 = -y'P x_s, s2 = 2 x_s'P x_t."""
    k, p = len(group.parameters), group.p
    # The residuals are formed before they are squared.
    b = groups(group.core, stats.b)
    residual = [x - dot(group.C[a], solved.u) for a, x in enumerate(b)]
    z = group.onto(group.times(residual))
    moved = [_exchanged(z, s) for s in group.parameters]
    carried = [[add(get(group.K, a, b) * x for b, x in part.items()) for a in range(group.r)] for part in moved]
    squares = [sums.add(add(z[a] * x for a, x in part.items())) for part in moved]
    inner = {(s, t): sums.add(add(x * carried[t][a] for a, x in moved[s].items())) for s, t in _lower_pairs(k)}
    onto = [[sums.add(add(group.Y[a][i] * x for a, x in part.items())) for i in range(p)] for part in moved]

    def second(found: Vector) -> jax.Array:
        lowered = [_apply(at.lower, [found[n] for n in row]) for row in onto]
        return _symmetric({(s, t): 2 * (found[n] - dot(lowered[s], lowered[t])) for (s, t), n in inner.items()}, k)

    return lambda found: -jnp.stack([found[n] for n in squares]), second


def _logdet(at: _Factored, reml: bool) -> jax.Array:
    return at.logdet1 + at.log_A if reml else at.logdet1


def _logdet_derivatives(group: _Group, at: _Factored, reml: bool, sums: _Sums) -> tuple[Later, Later]:
    """l1 (k, c) = tr(P G_s) and l2 (k, k, c) = -tr(P G_s P G_t); with V^-1 in the place of P for ML.

    P has the blocks K - Y A^-1 Y' on its diagonal, and tr(P G_s P G_t) = tr(K E_s (K - 2 Y A^-1 Y') E_t) over the
    groups, and tr(A^-1 N_s A^-1 N_t) for the sums N_s of Y'E_s Y.
    """
    k, p, K, Y = len(group.parameters), group.p, group.K, group.Y
    own, other = K, K
    if reml:
        YX = [[dot(row, [get(at.inverse, i, j) for j in range(p)]) for i in range(p)] for row in Y]
        less = {(a, b): dot(YX[a], Y[b]) for a, b in packed_pairs(group.r)}
        own, other = {at: K[at] - less[at] for at in K}, {at: K[at] - 2 * less[at] for at in K}
    first = [sums.add(add(get(own, i, j) for i, j in orderings(*s))) for s in group.parameters]
    traces = {
        (s, t): sums.add(_trace(group.parameters[s], K, group.parameters[t], other)) for s, t in _lower_pairs(k)
    }
    N: list[dict[tuple[int, int], int]] = []
    for s in group.parameters if reml else []:
        N.append({
            (i, j): sums.add(add(Y[a][i] * Y[b][j] for a, b in orderings(*s))) for i, j in packed_pairs(p)
        })  # fmt: skip

    def second(found: Vector) -> jax.Array:
        values = {at: -found[n] for at, n in traces.items()}
        if reml:
            XN = [symmetric_product(at.inverse, {pair: found[n] for pair, n in numbers.items()}, p) for numbers in N]
            for s, t in values:
                values[s, t] = values[s, t] - add(XN[s][i][j] * XN[t][j][i] for i in range(p) for j in range(p))
        return _symmetric(values, k)

    return lambda found: jnp.stack([found[n] for n in first]), second


# Small matrices by entries -----------------------------------------------------------------------------


def _inverse_factor(M: Entries, r: int) -> tuple[Entries, Vector]:
    """L^-1 of symmetric M = L L' by entries i >= j, and the squares of L's diagonal."""
    L: Entries = {}
    roots, pivots = [], []
    for j in range(r):
        for i in range(j, r):
            rest = functools.reduce(lambda x, n: x - L[i, n] * L[j, n], range(j), M[j, i])
            if i == j:
                pivots.append(rest)
                roots.append(1 / jnp.sqrt(rest))
            else:
                L[i, j] = rest * roots[j]
    inverse: Entries = {}
    for j in range(r):
        inverse[j, j] = roots[j]
        for i in range(j + 1, r):
            inverse[i, j] = -add(L[i, n] * inverse[n, j] for n in range(j, i)) * roots[i]
    return inverse, pivots


def _crossed(lower: Entries, r: int) -> Entries:
    """lower' lower, of a lower triangle: the inverse of what ``lower`` is the inverse factor of."""
    return {(i, j): add(lower[n, i] * lower[n, j] for n in range(j, r)) for i, j in packed_pairs(r)}


def _apply(lower: Entries, x: Vector) -> Vector:
    """A lower triangle times x."""
    return [add(lower[i, j] * x[j] for j in range(i + 1)) for i in range(len(x))]


def _apply_transposed(lower: Entries, x: Vector) -> Vector:
    return [add(lower[i, j] * x[i] for i in range(j, len(x))) for j in range(len(x))]


def _trace(s: Parameter, A: Entries, t: Parameter, B: Entries) -> jax.Array:
    """tr(E_s A E_t B) of symmetric matrices, half of it and of the same with A and B exchanged."""
    pairs = [(get(A, j, m), get(B, n, i), get(B, j, m), get(A, n, i))
             for i, j in orderings(*s) for m, n in orderings(*t)]  # fmt: skip
    return 0.5 * add(a * b + c * d for a, b, c, d in pairs)


def _lower_pairs(k: int) -> list[tuple[int, int]]:
    return [(s, t) for s in range(k) for t in range(s + 1)]


def _symmetric(values: dict[tuple[int, int], jax.Array], k: int) -> jax.Array:
    """(k, k, c) of the entries s >= t."""
    return jnp.stack([jnp.stack([values[max(s, t), min(s, t)] for t in range(k)]) for s in range(k)])
