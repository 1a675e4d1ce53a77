"""pwrss, log-determinants and their derivatives in phi where the random terms commute, in JAX (see ``strata``).

With w_j = 1 / xi_j of the stratum of row j, M = sum_j w_j f_j f_j', b the solution of M b = sum_j w_j f_j h_j and
e_j = h_j - f_j'b,

    pwrss = sum_S w_S rest_S + sum_j w_j e_j^2,     log|V| + log|Q'V^-1 Q| = sum_S dim_S log xi_S + log|M|.

All terms are positive, and residuals are formed before they are squared. Derivatives of w in phi_t are
-lam_t w^2 and 2 lam_t lam_u w^3.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.base import Covariance, Moments
from jaxlmm.families.general.dense import inverse_factor
from jaxlmm.families.general.strata import StrataCore

__all__ = [
    "StrataStats", "covariance", "estimates", "information", "moments", "node_parts", "simulate",
]  # fmt: skip

# Up to this many columns products of matrices are written out.
WRITTEN = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StrataStats:
    """Of c responses: ``rest`` (T, c), ``h`` (J, c) and ``ols`` (p, c), what was taken off before."""

    rest: jax.Array
    h: jax.Array
    ols: jax.Array


def moments(core: StrataCore, phi: jax.Array, stats: StrataStats, *, reml: bool) -> Moments:
    """See ``families.base.Family.moments``."""
    w, C, log_M = _factor(core, phi)
    s, _, e = _solve(core, phi, w, C, stats)
    rest = stats.rest
    v = 1 / (1 + core.rest_values @ phi)
    once, twice = w * w * e, w * w * w * e * e
    rest2, rest3 = v * v * rest, v * v * v * rest
    s1 = -(core.row_values.T @ (once * e) + core.rest_values.T @ rest2)
    k = core.n_phi
    pull = [core.F.T @ (core.row_values[:, t, None] * once) for t in range(k)]  # Q'P G_t P y
    carried = [_apply(C, x) for x in pull]
    square = _products(core.row_values).T @ twice + _products(core.rest_values).T @ rest3
    inner = jnp.stack([jnp.stack([_total(pull[t] * carried[u]) for u in range(k)]) for t in range(k)])
    s2 = 2 * (square.reshape(k, k, -1) - inner)
    l, l1, l2 = _logdet(core, phi, w, C, log_M, reml)  # noqa: E741
    return Moments(s, s1, s2, l, l1, l2)


def node_parts(core: StrataCore, phi: jax.Array, stats: StrataStats, *, reml: bool) -> tuple[jax.Array, jax.Array]:
    """pwrss (K, c) and log-determinants (K,) at phi (k, K) that all responses share: matrix products."""
    w = 1 / (1 + core.row_values @ phi)
    root, log_M = _root(core, w)
    rows = jnp.einsum("ijn,jr,rn->nir", root, core.F.T, w, optimize=True)
    explained = (rows.reshape(-1, len(w)) @ stats.h).reshape(phi.shape[1], core.p, -1)
    v = 1 / (1 + core.rest_values @ phi)
    s = v.T @ stats.rest + w.T @ (stats.h * stats.h) - jnp.sum(explained * explained, axis=1)
    value = core.dims @ jnp.log1p(core.values @ phi)
    return s, value + log_M if reml else value


def estimates(core: StrataCore, phi: jax.Array, stats: StrataStats) -> tuple[jax.Array, jax.Array]:
    """pwrss (c,) and coefficients (p, c) of Q."""
    w, C, _ = _factor(core, phi)
    s, b, _ = _solve(core, phi, w, C, stats)
    return s, stats.ols + b


def information(core: StrataCore, phi: jax.Array, *, reml: bool) -> tuple[jax.Array, jax.Array]:
    """First and second derivatives (k, c), (k, k, c) in phi of the log-determinants."""
    return _logdet(core, phi, *_factor(core, phi), reml)[1:]


def covariance(core: StrataCore, phi: jax.Array, L: jax.Array) -> Covariance:
    """See ``families.base.Family.covariance``: C_t = C M_t C, C_tu = C (M_t C M_u + M_u C M_t - 2 M_tu) C."""
    k = core.n_phi
    w, C, _ = _factor(core, phi)
    one, two = _changes(core, w)
    right = jnp.tensordot(C, L.T, axes=((1,), (0,)))  # C L', (p, c, q)
    right = jnp.moveaxis(right, 1, 2)
    left = jnp.swapaxes(right, 0, 1)
    value = jnp.moveaxis(jnp.tensordot(left, L.T, axes=((1,), (0,))), 1, 2)
    turned = [_product(x, right) for x in one]  # M_t C L'
    first = jnp.stack([_product(left, x) for x in turned])
    half = [_product(C, x) for x in turned]
    second = []
    for t in range(k):
        row = []
        for u in range(k):
            both = _product(jnp.swapaxes(turned[t], 0, 1), half[u])
            row.append(both + jnp.swapaxes(both, 0, 1) - 2 * _product(left, _product(two[t][u], right)))
        second.append(jnp.stack(row))
    return Covariance(value, first, jnp.stack(second))


def simulate(core: StrataCore, phi: jax.Array, key: jax.Array) -> StrataStats:
    """Statistics of simulated responses, one for each column of phi (k, c), with b = 0 and sigma2 = 1."""
    rows, rest = jax.random.split(key)
    c = phi.shape[1]
    h = jnp.sqrt(1 + core.row_values @ phi) * jax.random.normal(rows, (len(core.F), c), core.F.dtype)
    shape = jnp.broadcast_to(0.5 * core.rest_dims[:, None], (len(core.rest_dims), c))
    squares = 2 * jax.random.gamma(rest, jnp.maximum(shape, 0.5)) * (shape > 0)
    return StrataStats((1 + core.rest_values @ phi) * squares, h, jnp.zeros((core.p, c), core.F.dtype))


# Parts ---------------------------------------------------------------------------------------------


def _total(x: jax.Array) -> jax.Array:
    """Sum over the first axis; a product, which is much faster than a sum over an axis."""
    return np.ones(len(x), x.dtype) @ x  # type: ignore[return-value]


def _product(A: jax.Array, B: jax.Array) -> jax.Array:
    """A B of matrices (i, j, c) and (j, l, c)."""
    if A.shape[1] > WRITTEN:
        return jnp.moveaxis(jnp.moveaxis(A, 2, 0) @ jnp.moveaxis(B, 2, 0), 0, 2)
    out = A[:, 0, None] * B[None, 0]
    for j in range(1, A.shape[1]):
        out = out + A[:, j, None] * B[None, j]
    return out


def _apply(A: jax.Array, x: jax.Array) -> jax.Array:
    """A x of symmetric matrices (p, p, c or 1) and vectors (p, c)."""
    return _product(A, x[:, None])[:, 0]


def _trace(A: jax.Array, B: jax.Array) -> jax.Array:
    """tr(A B) (c,) of matrices (p, p, c)."""
    return _total((A * jnp.swapaxes(B, 0, 1)).reshape(-1, A.shape[2]))


def _products(values: jax.Array) -> jax.Array:
    """lam_t lam_u of each row, (J, k * k)."""
    return (values[:, :, None] * values[:, None]).reshape(len(values), -1)


def _factor(core: StrataCore, phi: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """w (J, c), C = M^-1 (p, p, c) and log|M| (c,)."""
    w = 1 / (1 + core.row_values @ phi)
    root, log_M = _root(core, w)
    return w, _product(jnp.swapaxes(root, 0, 1), root), log_M


def _root(core: StrataCore, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """L^-1 (p, p, c) of M = L L', and log|M| (c,)."""
    M = (core.pairs.T @ w).reshape(core.p, core.p, -1)
    inverse, log_pivots = inverse_factor(jnp.moveaxis(M, 2, 0))
    return jnp.moveaxis(inverse, 0, 2), log_pivots.sum(1)


def _solve(
    core: StrataCore, phi: jax.Array, w: jax.Array, C: jax.Array, stats: StrataStats
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """pwrss (c,), b (p, c) and residuals e (J, c)."""
    b = _apply(C, core.F.T @ (w * stats.h))
    e = stats.h - core.F @ b
    v = 1 / (1 + core.rest_values @ phi)
    return _total(v * stats.rest) + _total(w * e * e), b, e


def _changes(core: StrataCore, w: jax.Array) -> tuple[list[jax.Array], list[list[jax.Array]]]:
    """M_t = -dM / dphi_t, and M_tu, half the second derivatives of M; (p, p, c) each."""
    k, p, lam = core.n_phi, core.p, core.row_values
    one = [(core.pairs.T @ (lam[:, t, None] * w * w)).reshape(p, p, -1) for t in range(k)]
    two: list[list[jax.Array]] = [[w] * k for _ in range(k)]
    for t in range(k):
        for u in range(t + 1):
            both = (lam[:, t] * lam[:, u])[:, None] * w * w * w
            two[t][u] = two[u][t] = (core.pairs.T @ both).reshape(p, p, -1)
    return one, two


def _logdet(
    core: StrataCore, phi: jax.Array, w: jax.Array, C: jax.Array, log_M: jax.Array, reml: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    k, x = core.n_phi, core.values @ phi
    v = 1 / (1 + x)
    value = core.dims @ jnp.log1p(x)
    weighted = core.dims[:, None] * core.values
    l1 = weighted.T @ v
    l2 = -((core.dims[:, None] * _products(core.values)).T @ (v * v)).reshape(k, k, -1)
    if not reml:
        return value, l1, l2
    one, two = _changes(core, w)
    turned = [_product(C, x) for x in one]
    l1 = l1 - jnp.stack([_total(jnp.stack([x[i, i] for i in range(core.p)])) for x in turned])
    more = [[2 * _trace(C, two[t][u]) - _trace(turned[t], turned[u]) for u in range(k)] for t in range(k)]
    return value + log_M, l1, l2 + jnp.stack([jnp.stack(row) for row in more])
