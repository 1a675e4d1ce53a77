"""Designs of the benchmarks of random structures, and responses for them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from jaxlmm.design.random import RandomTerm, make_random_term

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "families"))


def term(name: str, codes: np.ndarray, *columns: np.ndarray) -> RandomTerm:
    """A random intercept, or an intercept and slopes."""
    codes = np.unique(codes, return_inverse=True)[1]
    Z = np.column_stack([np.ones(len(codes)), *columns])
    names = ["(Intercept)", *(f"x{j}" for j in range(len(columns)))]
    return make_random_term(name, range(codes.max() + 1), codes, Z, names)


def designs() -> dict[str, tuple[np.ndarray, list[RandomTerm]]]:
    """Name -> X and random terms."""
    rng = np.random.default_rng(0)
    out = {}
    weights = rng.uniform(0.3, 1.7, 40)
    g = np.sort(np.concatenate([np.repeat(np.arange(40), 3), rng.choice(40, 880, p=weights / weights.sum())]))
    a = rng.normal(size=1000)
    X = np.column_stack([np.ones(1000), a, rng.normal(size=(1000, 2))])
    out["(1 + a | g)"] = X, [term("g", g, a)]

    def crossed(subjects: int, items: int, less: int) -> tuple[np.ndarray, np.ndarray]:
        s, i = (v.ravel() for v in np.indices((subjects, items)))
        kept = np.sort(rng.permutation(subjects * items)[less:])
        return s[kept], i[kept]

    s, i = crossed(30, 40, 60)
    out["(1 | s) + (1 | i)"] = np.column_stack([np.ones(len(s)), rng.normal(size=(len(s), 3))]), [
        term("s", s), term("i", i)
    ]  # fmt: skip
    channel = np.repeat(np.arange(93), 2)
    subject = np.sort(np.concatenate([np.arange(18), rng.integers(0, 18, 75)]))[channel]
    out["(1 | s/ch)"] = np.column_stack([np.ones(186), np.tile([0.0, 1.0], 93)]), [
        term("ch:s", channel), term("s", subject)
    ]  # fmt: skip
    s, i = crossed(24, 24, 0)
    out["(1 | s) + (1 | i), balanced"] = np.column_stack([np.ones(len(s)), rng.normal(size=len(s))]), [
        term("s", s), term("i", i)
    ]  # fmt: skip
    s, i = crossed(20, 16, 25)
    c = np.where((s + i) % 2 == 0, 0.5, -0.5)
    out["(1 + c | s) + (1 + c | i)"] = np.column_stack([np.ones(len(s)), c]), [term("s", s, c), term("i", i, c)]
    return out


def responses(X: np.ndarray, terms: list[RandomTerm], m: int, sds: list[float], seed: int = 1) -> np.ndarray:
    """Noise, fixed effects, and random effects of sds drawn from ``sds``."""
    rng = np.random.default_rng(seed)
    Y = rng.normal(size=(len(X), m)) + X @ rng.normal(size=(X.shape[1], m))
    for t in terms:
        effects = rng.normal(size=(t.n_levels, t.size, m)) * rng.choice(sds, size=(t.size, m))
        for j in range(t.size):
            Y += t.Z[:, j : j + 1] * effects[t.codes, j]
    return Y


def small_designs(m: int, count: int = 8) -> list[tuple[np.ndarray, list[RandomTerm], np.ndarray]]:
    """X, a term (1 + x | g), and responses (n, m) with outliers, on 12 to 39 rows in 3 to 7 groups."""
    rng = np.random.default_rng(5)
    out = []
    for number in range(count):
        n, n_groups = int(rng.integers(12, 40)), int(rng.integers(3, 8))
        g = np.sort(np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, n - n_groups)]))
        x = rng.normal(size=n) if number % 2 else rng.standard_t(1.5, size=n)
        X = np.column_stack([np.ones(n), x, rng.normal(size=n)])
        Y = rng.standard_t(2, size=(n, m))
        for column in (np.ones(n), x):
            Y += column[:, None] * rng.normal(size=(n_groups, m))[g] * rng.choice([0, 1, 5], size=m)
        out.append((X, [term("g", g, x)], Y))
    return out
