"""Random designs built to be hard, against an oracle of 60 digits: python benchmarks/adversarial.py --designs 2000

Complete responses, responses with missing observations, weighted ones, and those with both. Designs have few or many
groups of very unequal sizes, covariates that vary within groups, between groups or hardly within them, that stand up
to 1e8 times their spread from zero or have an outlier; responses have scales from 1e-8 to 1e8, means up to 1e8 times
the noise, fixed effects up to 1e10 times it, and variance ratios from 1e-4 to 1e14, or 0. The oracle evaluates the
restricted likelihood of the same float64 numbers, at the variance ratio that was found, in 60 digits; a dense scan of
the variance ratio, in float64 on the oracle's residuals, says whether another optimum is better.
tests/test_adversarial.py runs a few on every change.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mpmath as mp
import numpy as np

import jaxlmm
from jaxlmm.design.columns import make_columns

KINDS = ("complete", "missing", "weights", "missing and weights")
DIGITS = 60
RESPONSES = 3
# Designs of each kind after which results are written, so that a long run may be stopped.
ROUND = 100
COUNTS = ("responses", "not fitted", "designs refused")
# Variance ratios of the scan, times the mean group size.
SCAN = np.concatenate([[0.0], np.geomspace(1e-9, 1e16, 3000)])


@dataclass(frozen=True)
class Case:
    """A design and its responses."""

    X: np.ndarray
    codes: np.ndarray
    weights: np.ndarray | None
    Y: np.ndarray


def covariate(rng: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """A covariate of one of several awkward kinds."""
    n, G = len(codes), codes.max() + 1
    within, between = rng.normal(size=n), rng.normal(size=G)[codes]
    kind = rng.integers(7)
    values = [
        within, between, between + 10.0 ** rng.uniform(-9, 0) * within, within + 10.0 ** rng.uniform(2, 8),
        np.where(np.arange(n) == rng.integers(n), 10.0 ** rng.uniform(2, 5), within), np.sign(within),
        10.0 ** rng.uniform(-8, 8) * (within + between),
    ]  # fmt: skip
    return np.asarray(values[kind])


def draw(rng: np.random.Generator, kind: str) -> Case:
    """A random design with responses."""
    G = int(rng.choice([2, 3, 5, 8, 15, 24]))
    sizes = rng.integers(1, rng.choice([3, 6, 12]), size=G) + (rng.random(G) < 0.2) * rng.integers(0, 20)
    sizes[:2] = np.maximum(sizes[:2], 3)
    codes = rng.permutation(np.repeat(np.arange(G), sizes))
    n, p = len(codes), int(rng.integers(1, 5))
    # Without an intercept a mean far from zero is a variance between groups of 1e16 and more: not drawn here.
    intercept = rng.random() < 0.85
    X = np.column_stack([np.ones(n), *(covariate(rng, codes) for _ in range(p - 1))])
    if not intercept:
        X = rng.normal(size=(n, p))
    spread = np.maximum(X.std(axis=0), 1e-12 * np.abs(X).max(axis=0))
    weights = 10.0 ** rng.uniform(-1.5, 1.5, size=n) if "weights" in kind else None
    noise = rng.normal(size=(n, RESPONSES)) / (1.0 if weights is None else np.sqrt(weights)[:, None])
    ratio = np.where(rng.random(RESPONSES) < 0.25, 0.0, 10.0 ** rng.uniform(-4, 14, size=RESPONSES))
    Y = noise + np.sqrt(ratio) * rng.normal(size=(G, RESPONSES))[codes]
    slopes = rng.normal(size=(p, RESPONSES)) / spread[:, None]
    Y = Y + (X - X.mean(axis=0)) @ slopes * 10.0 ** rng.uniform(-1, 10, size=RESPONSES)
    Y = (Y + intercept * 10.0 ** rng.uniform(-2, 8, size=RESPONSES)) * 10.0 ** rng.uniform(-8, 8, size=RESPONSES)
    if "missing" in kind:
        Y[rng.random(Y.shape) < rng.choice([0.02, 0.1, 0.3])] = np.nan
    return Case(X, codes, weights, Y)


@dataclass(frozen=True)
class Exact:
    """What a fit should give, in :data:`DIGITS` digits; ``coef`` and ``se`` are lists of length p.

    ``residuals`` (n_obs,) are y - X coef, rounded once.
    """

    loglik: mp.mpf
    sigma2: mp.mpf
    coef: list[mp.mpf]
    se: list[mp.mpf]
    residuals: np.ndarray

    def floats(self) -> tuple[float, float, np.ndarray, np.ndarray]:
        """Log-likelihood, sigma2, coefficients and standard errors, rounded once."""
        coef, se = (np.array([float(v) for v in values]) for values in (self.coef, self.se))
        return float(self.loglik), float(self.sigma2), coef, se


def oracle(X: np.ndarray, codes: np.ndarray, y: np.ndarray, lam: float, w: np.ndarray | None = None) -> Exact:
    """The REML fit of the float64 numbers given, at the variance ratio ``lam``."""
    with mp.workdps(DIGITS):
        return _oracle(X, codes, y, mp.mpf(float(lam)), np.ones(len(y)) if w is None else w)


def _oracle(X: np.ndarray, codes: np.ndarray, y: np.ndarray, ratio: mp.mpf, w: np.ndarray) -> Exact:
    (n, p), logdet, M = X.shape, mp.mpf(0), mp.matrix(X.shape[1] + 1)
    for group in np.unique(codes):
        rows = np.flatnonzero(codes == group)
        weights = [mp.mpf(float(w[i])) for i in rows]
        values = [[mp.mpf(float(v)) for v in (*X[i], y[i])] for i in rows]
        size = mp.fsum(weights)
        logdet += mp.log(1 + ratio * size) - mp.fsum(mp.log(v) for v in weights)
        shrink = ratio / (1 + ratio * size)
        sums = [mp.fdot(weights, [row[a] for row in values]) for a in range(p + 1)]
        for a in range(p + 1):
            for b in range(a + 1):
                products = mp.fsum(v * row[a] * row[b] for v, row in zip(weights, values, strict=True))
                M[a, b] += products - shrink * sums[a] * sums[b]
                M[b, a] = M[a, b]
    C = M[:p, :p] ** -1
    beta = C * M[:p, p]
    nu = n - p
    sigma2 = (M[p, p] - mp.fsum(beta[i] * M[i, p] for i in range(p))) / nu
    deviance = nu * (1 + mp.log(2 * mp.pi * sigma2)) + logdet + mp.log(mp.det(M[:p, :p]))
    left = [
        float(mp.mpf(float(value)) - mp.fdot([mp.mpf(float(v)) for v in x], beta))
        for x, value in zip(X, y, strict=True)
    ]
    se = [mp.sqrt(C[i, i] * sigma2) for i in range(p)]
    return Exact(-deviance / 2, sigma2, list(beta), se, np.array(left))


def lost(X: np.ndarray, codes: np.ndarray, residuals: np.ndarray, lam: float, w: np.ndarray) -> float:
    """How much higher the log-likelihood is at the best variance ratio of a dense scan than at ``lam``."""
    root = np.sqrt(w)
    Q = np.linalg.qr(root[:, None] * make_columns(X, root).unit).Q

    def remove(v: np.ndarray) -> np.ndarray:
        for _ in range(2):
            v = v - Q @ (Q.T @ v)
        return v

    Z = root[:, None] * (codes[:, None] == np.unique(codes))
    U, values, _ = np.linalg.svd(remove(Z), full_matrices=False)
    U = U[:, values > 1e-12 * values.max()]
    d, residual = values[: U.shape[1]] ** 2, remove(root * residuals)
    u = U.T @ residual
    rest = np.sum((residual - U @ u) ** 2)

    def deviance(ratios: np.ndarray) -> np.ndarray:
        r = 1 + np.outer(ratios, d)
        return (len(residual) - X.shape[1]) * np.log((u**2 / r).sum(axis=1) + rest) + np.log(r).sum(axis=1)

    return float(deviance(np.array([lam]))[0] - deviance(SCAN / w.sum() * len(np.unique(codes))).min()) / 2


def compare(case: Case) -> Iterator[dict[str, float]]:
    """Errors of each response that was fitted."""
    fit = jaxlmm.fit(case.X, case.Y, case.codes, weights=case.weights)
    for j in np.flatnonzero(fit.converged):
        there = ~np.isnan(case.Y[:, j])
        w = np.ones(there.sum()) if case.weights is None else case.weights[there]
        X, codes = case.X[there], case.codes[there]
        right = oracle(X, codes, case.Y[there, j], fit.lam[j], w)
        with mp.workdps(DIGITS):
            errors = [
                abs(mp.mpf(float(a)) - b) / s for a, b, s in zip(fit.coef[j], right.coef, right.se, strict=True)
            ]
            # What a coefficient can lose by being stored.
            stored = [4 * np.finfo(float).eps * abs(b) / s for b, s in zip(right.coef, right.se, strict=True)]
            yield {
                "log-likelihood": float(abs(mp.mpf(float(fit.loglik[j])) - right.loglik)),
                "sigma2": float(abs(mp.mpf(float(fit.sigma2[j])) / right.sigma2 - 1)),
                "coef, in se": float(max(max(e - s, 0) for e, s in zip(errors, stored, strict=True))),
                "se": float(max(abs(mp.mpf(float(a)) / s - 1) for a, s in zip(fit.se[j], right.se, strict=True))),
                "log-likelihood below the best of a scan": max(lost(X, codes, right.residuals, fit.lam[j], w), 0.0),
            }


Worst = dict[str, float]


def campaign(n_designs: int, *seed: int, kinds: Sequence[str] = KINDS) -> dict[str, Worst]:
    """Worst error of each quantity by kind, with the numbers of responses compared and of designs refused."""
    found = {}
    for kind in kinds:
        rng = np.random.default_rng([*seed, KINDS.index(kind)])
        worst: Worst = dict.fromkeys(COUNTS, 0)
        for _ in range(n_designs):
            case = draw(rng, kind)
            try:
                errors = list(compare(case))
            except ValueError:  # too few rows or groups, or columns that are too close
                worst["designs refused"] += 1
                continue
            worst["responses"] += len(errors)
            worst["not fitted"] += RESPONSES - len(errors)
            for error in errors:
                worst = join(worst, error)
        found[kind] = worst
    return found


def join(a: Worst, b: Worst) -> Worst:
    """Worst errors of both, counts together."""
    names = dict.fromkeys([*a, *b])
    return {n: (a.get(n, 0) + b.get(n, 0)) if n in COUNTS else max(a.get(n, 0.0), b.get(n, 0.0)) for n in names}


def main() -> None:
    from common import save

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--designs", type=int, default=200, help="designs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found: dict[str, Worst] = {kind: {} for kind in KINDS}
    for done in range(0, options.designs, ROUND):
        more = min(ROUND, options.designs - done)
        new = campaign(more, options.seed, done)
        found = {kind: join(found[kind], new[kind]) for kind in KINDS}
        save("adversarial", [{"kind": k, **w} for k, w in found.items()], designs=done + more, seed=options.seed)


if __name__ == "__main__":
    main()
