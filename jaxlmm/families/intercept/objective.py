"""The REML and ML deviance of one response as pure JAX functions of the variance ratio.

Both are ``nu log s(lam) + sum_k m_k log(1 + lam d_k)`` plus a constant, with ``s`` the pwrss.
REML: nu = n - p and the terms are the spectrum's. ML: nu = n and the log-determinant runs over
the group sizes; its terms are appended with u^2 = 0, and the spectrum's get m_k = 0. So one list
of terms serves both. ``jax.vmap`` over ``u2`` (axis 1) and ``rest`` makes them a batch.

The sums over terms are loops of a few running sums, not sums over an axis: under ``vmap`` no
(J, c) array is then stored, which is several times faster on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.intercept.spectrum import Spectrum, padded

__all__ = [
    "Moments", "Terms", "derivatives", "deviance", "few_moments", "logdet", "make_terms", "moments", "ratio", "slope",
    "slope_in_t",
]  # fmt: skip

# Terms whose factors are multiplied before one logarithm; each lies between exp(-t / 2) and exp(t / 2),
# so that up to t = 176 nothing overflows.
LOG_GROUP = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Terms:
    """What the objective needs of a design.

    Attributes
    ----------
    d, m : (J,)
        Eigenvalue and multiplicity of each term.
    nu, d_max : scalar
    n_spectrum : int, static
        How many leading terms belong to the spectrum.
    log_from, n_unit : int, static
        Terms before ``log_from`` have m = 0; those from there to ``n_unit`` have m = 1 (or d = 0).
    """

    d: jax.Array
    m: jax.Array
    nu: jax.Array
    d_max: jax.Array
    n_spectrum: int = field(metadata=dict(static=True))
    log_from: int = field(metadata=dict(static=True))
    n_unit: int = field(metadata=dict(static=True))


def make_terms(spectrum: Spectrum, n_obs: int, method: str) -> Terms:
    """The terms of ``method`` "REML" or "ML", as numpy arrays."""
    d, m, nu = spectrum.d, spectrum.multiplicity, float(n_obs - len(spectrum.f))
    J, log_from, n_unit = len(d), 0, spectrum.n_single
    if method == "ML":
        nu, log_from, n_unit = float(n_obs), J, J
        extra = np.zeros(padded(len(spectrum.size)) - len(spectrum.size))
        d = np.concatenate([d, spectrum.size, extra])
        m = np.concatenate([np.zeros(J), spectrum.size_count, extra])
    d_max = float(np.max(d)) if np.max(d) > 0 else 1.0
    return Terms(d, m, np.float64(nu), np.float64(d_max), J, log_from, n_unit)  # type: ignore[arg-type]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """``s`` and the first two derivatives in lam of ``s`` and of the log-determinant ``l``."""

    s: jax.Array
    s1: jax.Array
    s2: jax.Array
    l1: jax.Array
    l2: jax.Array


def ratio(t: jax.Array, terms: Terms) -> jax.Array:
    """The variance ratio lam at t = log(1 + lam d_max)."""
    return jnp.expm1(t) / terms.d_max


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
    s = jnp.sum(u2 / (1 + ratio(t, terms) * terms.d[: terms.n_spectrum])) + rest
    return terms.nu * jnp.log(s) + logdet(t, terms)


def logdet(t: jax.Array, terms: Terms) -> jax.Array:
    """sum_k m_k log(1 + lam d_k); factors of m = 1 are multiplied first, to save logarithms."""
    lam, half = ratio(t, terms), jnp.exp(-0.5 * t)
    total = 0.5 * t * (terms.n_unit - min(terms.log_from, terms.n_unit))
    for start in range(terms.log_from, terms.n_unit, LOG_GROUP):
        factor = jnp.ones_like(t)
        for k in range(start, min(start + LOG_GROUP, terms.n_unit)):
            factor = factor * (half + (lam * half) * terms.d[k])
        total = total + jnp.log(factor)

    def one(total, term):  # type: ignore[no-untyped-def]
        d, m = term
        return total + m * jnp.log1p(lam * d), None

    rest = (terms.d[terms.n_unit :], terms.m[terms.n_unit :])
    return jax.lax.scan(one, total, rest)[0]


def moments(t: jax.Array, terms: Terms, u2: jax.Array, rest: jax.Array) -> Moments:
    """All sums over the terms that the derivatives of the deviance need, in one loop."""
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
    carry, _ = jax.lax.scan(both_terms, carry, (terms.d[:J], terms.m[:J], u2))
    carry, _ = jax.lax.scan(logdet_term, carry, (terms.d[J:], terms.m[J:]))
    return Moments(*carry)


def few_moments(t: jax.Array, terms: Terms, u2: jax.Array, rest: jax.Array) -> Moments:
    """As :func:`moments`, by sums over arrays: for few responses, where a loop takes longer."""
    lam = ratio(t, terms)
    r = 1 / (1 + lam * terms.d)
    w = terms.d * r
    v, wv = u2 * r[: terms.n_spectrum], w[: terms.n_spectrum]
    return Moments(
        rest + jnp.sum(v), -jnp.sum(v * wv), 2 * jnp.sum(v * wv * wv), jnp.sum(terms.m * w), -jnp.sum(terms.m * w * w)
    )


def slope(t: jax.Array, terms: Terms, u2: jax.Array, rest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of ``deviance`` in t."""
    return slope_in_t(t, moments(t, terms, u2, rest), terms)


def slope_in_t(t: jax.Array, at: Moments, terms: Terms) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of ``deviance`` in t, from the sums at t."""
    first, second = derivatives(at, terms)
    step = ratio(t, terms) + 1 / terms.d_max  # d lam / dt
    return first * step, (second * step + first) * step


def derivatives(at: Moments, terms: Terms) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of the deviance in lam."""
    first = terms.nu * at.s1 / at.s + at.l1
    second = terms.nu * (at.s2 / at.s - (at.s1 / at.s) ** 2) + at.l2
    return first, second
