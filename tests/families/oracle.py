"""What the general family computes, by n x n matrices and one response at a time."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.design.random import RandomTerm, make_random_term
from jaxlmm.families.general.family import General, make_general
from jaxlmm.families.parameters import lower_triangle


@dataclass(frozen=True, eq=False)
class Case:
    """A design, its matrices G_s and whitened family."""

    X: np.ndarray
    root_w: np.ndarray
    terms: list[RandomTerm]
    Q: np.ndarray
    family: General
    G: np.ndarray  # (k, n, n), of the whitened columns
    Z: list[np.ndarray]  # (n, levels * r), of the whitened columns

    def V(self, phi):  # type: ignore[no-untyped-def]
        return jnp.eye(len(self.Q)) + jnp.tensordot(phi, self.G, 1)

    def deviance_parts(self, phi, y, reml):  # type: ignore[no-untyped-def]
        """pwrss s (c,) and log-determinants l (c,) at phi (k, c) for y (n, c), with gradients and Hessians in phi."""
        k, G = len(phi), filled(self.G)
        value, first, second = by_columns(lambda p, v: deviance_derivatives(p, v, G, self.Q), filled(phi), y)
        parts = value, first[:k], second[:k, :k]
        return [part[..., 0, :] for part in parts], [part[..., 1, :] + reml * part[..., 2, :] for part in parts]

    def covariance(self, phi, L):  # type: ignore[no-untyped-def]
        """L C L' (q, q, c) at phi (k, c), C = (Q'V^-1 Q)^-1, with first and second derivatives in phi."""
        k, G = len(phi), filled(self.G)
        value, first, second = by_columns(lambda p: covariance_derivatives(p, G, self.Q, L), filled(phi))
        return value, first[:k], second[:k, :k]


# Of all the structures below: with zeros for what a structure lacks, one compiled program serves them all.
MOST_PHI = 8


def filled(array):  # type: ignore[no-untyped-def]
    return np.concatenate([array, np.zeros((MOST_PHI - len(array), *array.shape[1:]))])


def derivatives(function):  # type: ignore[no-untyped-def]
    """Value, gradient and Hessian in the first argument, compiled, the axes of that argument first."""

    def of_one(phi, *given):  # type: ignore[no-untyped-def]
        first = jax.jacfwd(function)(phi, *given)
        second = jax.jacfwd(jax.jacrev(function))(phi, *given)
        return function(phi, *given), jnp.moveaxis(first, -1, 0), jnp.moveaxis(second, (-2, -1), (0, 1))

    return jax.jit(of_one)


def dense_parts(phi, y, G, Q):  # type: ignore[no-untyped-def]
    """pwrss, log|V| and log|Q'V^-1 Q| of one response."""
    V = jnp.eye(len(Q)) + jnp.tensordot(phi, G, 1)
    Vinv = jnp.linalg.inv(V)
    M = Q.T @ Vinv @ Q
    r = y - Q @ jnp.linalg.solve(M, Q.T @ Vinv @ y)
    return jnp.stack([r @ Vinv @ r, jnp.linalg.slogdet(V)[1], jnp.linalg.slogdet(M)[1]])


def dense_covariance(phi, G, Q, L):  # type: ignore[no-untyped-def]
    V = jnp.eye(len(Q)) + jnp.tensordot(phi, G, 1)
    return L @ jnp.linalg.inv(Q.T @ jnp.linalg.solve(V, Q)) @ L.T


deviance_derivatives, covariance_derivatives = derivatives(dense_parts), derivatives(dense_covariance)


def by_columns(function, *columns):  # type: ignore[no-untyped-def]
    """One response after another: XLA's batches of LAPACK calls may wait for each other for ever on a CPU."""
    found = [function(*each) for each in zip(*(array.T for array in columns), strict=True)]
    return [np.stack(parts, axis=-1) for parts in zip(*found, strict=True)]


def make_case(X, terms, weights=None) -> Case:  # type: ignore[no-untyped-def]
    n = len(X)
    root_w = np.ones(n) if weights is None else np.sqrt(weights)
    Q = np.linalg.qr(root_w[:, None] * X)[0]
    family = make_general(Q, None if weights is None else root_w, terms)
    G, Zs = [], []
    for term, A in zip(terms, family.whiteners, strict=True):
        Z = root_w[:, None] * term.Z @ A
        r, L = term.size, term.n_levels
        full = np.zeros((n, L, r))
        full[np.arange(n), term.codes] = Z
        Zs.append(full.reshape(n, L * r))
        for i, j in zip(*lower_triangle(r), strict=True):
            E = np.zeros((r, r))
            E[i, j] = E[j, i] = 1
            G.append(np.einsum("nlr,rs,mls->nm", full, E, full))
    return Case(X, root_w, list(terms), Q, family, np.array(G), Zs)


def intercept(name, codes):  # type: ignore[no-untyped-def]
    return make_random_term(name, range(codes.max() + 1), codes)


def slope(name, codes, *columns, one=True):  # type: ignore[no-untyped-def]
    Z = np.column_stack(([np.ones(len(codes))] if one else []) + list(columns))
    names = (["(Intercept)"] if one else []) + [f"z{j}" for j in range(len(columns))]
    return make_random_term(name, range(codes.max() + 1), codes, Z, names)


def structures(rng, n=70):  # type: ignore[no-untyped-def]
    """Name -> terms and weights, for one X (n, 3); those of "balanced" and "even" commute if n is 70."""
    g = np.concatenate([np.arange(12), rng.integers(0, 12, n - 12)])
    h = np.concatenate([np.arange(7), rng.integers(0, 7, n - 7)])[rng.permutation(n)]
    half = rng.integers(0, 2, n)
    nested = np.unique(g * 2 + half, return_inverse=True)[1]
    x, z = rng.normal(size=n), rng.normal(size=n)
    f = rng.integers(0, 3, n)
    dummies = [(f == k).astype(float) for k in range(3)]
    X = np.column_stack([np.ones(n), x, z])
    w = rng.uniform(0.2, 3, n)
    terms = {
        "intercept": [intercept("g", g)],
        "slope": [slope("g", g, x)],
        "double": [intercept("g", g), slope("g", g, x, one=False)],
        "factor": [slope("g", g, *dummies, one=False)],
        "nested": [intercept("nested", nested), intercept("g", g)],
        "crossed": [intercept("h", h), intercept("g", g)],
        "maximal": [slope("g", g, x), slope("h", h, x)],
        "mixed": [slope("h", h, x, z), intercept("g", g), slope("g", g, z, one=False)],
        "three": [intercept("g", g), intercept("h", h), intercept("f", f)],
        "outer slope": [slope("g", g, x), intercept("nested", nested)],
        "balanced": [intercept("row", np.arange(n) // 10), intercept("column", np.arange(n) % 10)],
        "weighted": [slope("g", g, z, one=False)],
        "even": [
            intercept("pair", np.arange(n) // 2),
            intercept("pairs", np.sort(rng.integers(0, 6, n // 2))[np.arange(n) // 2]),
        ],
    }
    return X, w, terms


def random_phi(rng, sizes, c):  # type: ignore[no-untyped-def]
    theta = []
    for r in sizes:
        theta += [rng.normal(size=(r * (r + 1) // 2, c))]
    return np.concatenate(theta)
