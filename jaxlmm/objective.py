"""The REML and ML deviance of one response as pure JAX functions of the variance ratio.

Both are ``nu log s(lam) + sum_k m_k log(1 + lam d_k)`` plus a constant, with ``s`` the pwrss.
REML: nu = n - p and the terms are the spectrum's. ML: nu = n and the log-determinant runs over
the group sizes; its terms are appended with u^2 = 0, and the spectrum's get m_k = 0. So one list
of terms serves both. ``jax.vmap`` over ``u2`` (axis 1) and ``rest`` makes them a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.spectrum import ROUND_NODES, Spectrum

__all__ = ["Terms", "deviance", "make_terms", "pwrss", "ratio", "slope"]

# A loop over this many terms is unrolled whole: it then runs in registers.
UNROLL = 64


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Terms:
    """What the objective needs of a design: ``d``, ``m`` (J,), ``nu`` and ``d_max`` scalars.

    ``n_spectrum`` (static) counts the leading terms that belong to the spectrum.
    """

    d: jax.Array
    m: jax.Array
    nu: jax.Array
    d_max: jax.Array
    n_spectrum: int = field(metadata=dict(static=True))


def make_terms(spectrum: Spectrum, n_obs: int, method: str) -> Terms:
    """The terms of ``method`` "REML" or "ML", as numpy arrays."""
    d, m, nu = spectrum.d, spectrum.multiplicity, float(n_obs - len(spectrum.R))
    J = len(d)
    if method == "ML":
        nu = float(n_obs)
        extra = -(-len(spectrum.size) // ROUND_NODES) * ROUND_NODES - len(spectrum.size)
        d = np.concatenate([d, spectrum.size, np.zeros(extra)])
        m = np.concatenate([np.zeros(J), spectrum.size_count, np.zeros(extra)])
    d_max = float(np.max(d)) if np.max(d) > 0 else 1.0
    return Terms(d, m, np.float64(nu), np.float64(d_max), J)  # type: ignore[arg-type]


def ratio(t: jax.Array, terms: Terms) -> jax.Array:
    """The variance ratio lam at t = log(1 + lam d_max)."""
    return jnp.expm1(t) / terms.d_max


def pwrss(t: jax.Array, terms: Terms, u2: jax.Array, rest: jax.Array) -> jax.Array:
    """Penalised weighted residual sum of squares of one response; ``u2`` is (J,)."""
    d = terms.d[: terms.n_spectrum]
    return jnp.sum(u2 / (1 + ratio(t, terms) * d)) + rest


def deviance(t: jax.Array, terms: Terms, u2: jax.Array, rest: jax.Array) -> jax.Array:
    """Minus twice the profiled log-likelihood of one response, less its constant.

    Parameters
    ----------
    t : scalar
        log(1 + lam d_max).
    terms : Terms
    u2 : (J,)
        Squared coordinates of the response on the spectrum.
    rest : scalar
    """
    logdet = jnp.sum(terms.m * jnp.log1p(ratio(t, terms) * terms.d))
    return terms.nu * jnp.log(pwrss(t, terms, u2, rest)) + logdet


def slope(t: jax.Array, terms: Terms, u2: jax.Array, rest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of ``deviance`` in t, in one loop over the terms.

    The loop carries five running sums, so that under ``vmap`` it never stores a (J, c) array:
    on a CPU this is several times faster than sums over an axis.
    """
    lam = ratio(t, terms)
    zero = jnp.zeros_like(t)

    def logdet_term(carry, term):  # type: ignore[no-untyped-def]
        s, s1, s2, l1, l2 = carry
        d, m = term
        w = d / (1 + lam * d)
        return (s, s1, s2, l1 + m * w, l2 - m * w * w), None

    def both_terms(carry, term):  # type: ignore[no-untyped-def]
        s, s1, s2, l1, l2 = carry
        d, m, v = term
        r = 1 / (1 + lam * d)
        w = d * r
        a = v * r
        b = a * w
        return (s + a, s1 - b, s2 + 2 * b * w, l1 + m * w, l2 - m * w * w), None

    J = terms.n_spectrum
    carry = (zero + rest, zero, zero, zero, zero)
    carry, _ = jax.lax.scan(both_terms, carry, (terms.d[:J], terms.m[:J], u2), unroll=_unroll(J))
    if len(terms.d) > J:
        extra = (terms.d[J:], terms.m[J:])
        carry, _ = jax.lax.scan(logdet_term, carry, extra, unroll=_unroll(len(terms.d) - J))
    s, s1, s2, l1, l2 = carry
    by_lam = terms.nu * s1 / s + l1
    by_lam2 = terms.nu * (s2 / s - (s1 / s) ** 2) + l2
    step = lam + 1 / terms.d_max  # d lam / dt
    return by_lam * step, (by_lam2 * step + by_lam) * step


def _unroll(n: int) -> int:
    return n if n <= UNROLL else 16
