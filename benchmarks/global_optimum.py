"""Is the lowest minimum of the deviance always found, and what does the proof cost?

    python benchmarks/global_optimum.py [--spectra 1000000] [--seed 0] [--times-only]

Random spectra of three kinds, each against a scan of 1,500 variance ratios whose local minima are refined:
"any" are arbitrary numbers, "model" follow the model, "built" have minima far apart of nearly equal depth (many
small d with most of the sum of squares beside a few large d with little). ``missed`` counts those whose
log-likelihood is more than 1e-7 below the scan's, ``several`` those with more than one minimum.

The times are CPU time, of all threads, of compiled code: the whole search, and grid and Newton steps alone
(``without proof``), in turn in one run, so that the load of the machine falls on both alike.
Writes results/global_optimum.json; with --times-only the times in it are taken anew, and the rest stays.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from common import RESULTS, save, simulate

import jaxlmm
from jaxlmm._types import float64_scope
from jaxlmm.families.intercept.block import BlockFitter
from jaxlmm.families.intercept.minimum import Responses, make_nodes, minimise
from jaxlmm.families.intercept.objective import Terms
from jaxlmm.families.intercept.reduce import Stats, reduce_panel
from jaxlmm.optimize.search import first_minimum, make_grid
from jaxlmm.runtime import programs

J = 8
BATCH = 512
KINDS = ("any", "model", "built")
Spectra = tuple[Terms, np.ndarray, np.ndarray]


def draw(kind: str, rng: np.random.Generator, c: int = BATCH) -> Spectra:
    """One design, and u^2 (J, c) and rest (c,) of c responses on it."""
    d, m, u2 = np.zeros(J), np.zeros(J), np.zeros((J, c))
    if kind == "built":
        few, many, pairs = rng.integers(3, 20), rng.integers(3, 45), rng.integers(1, 10)
        large = np.exp(rng.uniform(np.log(15), np.log(3000)))
        d[:3], m[:3] = [1.0, large, np.exp(rng.uniform(0, np.log(large)))], [many, few, 1]
        u2[0], u2[1] = 1.0, np.exp(rng.uniform(np.log(0.01), np.log(0.6), c))
        u2[2] = np.exp(rng.uniform(-12, -3, c)) * (rng.uniform(size=c) < 0.5)
        rest, nu = np.exp(rng.uniform(np.log(1e-6), np.log(3e-2), c)), m.sum() + pairs
    else:
        n = rng.integers(1, J + 1)
        d[:n], m[:n] = np.exp(rng.uniform(-2, rng.uniform(0, 9), n)), rng.integers(1, 30, n)
        df = float(rng.integers(1, 50))
        nu = m.sum() + df
        if kind == "any":
            u2[:n], rest = np.exp(rng.uniform(-6, 8, (n, c))), np.exp(rng.uniform(-3, 5, c))
        else:
            lam = np.where(rng.uniform(size=c) < 0.3, 0.0, np.exp(rng.uniform(-8, 8, c)))
            u2[:n] = 2 * rng.standard_gamma(m[:n, None] / 2, (n, c)) * (1 + lam * d[:n, None])
            rest = 2 * rng.standard_gamma(df / 2, c)
    return Terms(d, m, np.float64(nu), np.float64(d.max()), J, 0, 0), u2, rest  # type: ignore[arg-type]


def scan(spectra: Spectra) -> tuple[np.ndarray, np.ndarray]:
    """Lowest deviance of each response by a dense scan, refined, and its number of minima; numpy alone."""
    terms, u2, rest = spectra
    d, m, nu, d_max = (np.asarray(a) for a in (terms.d, terms.m, terms.nu, terms.d_max))
    spread = np.log(d_max / d[d > 0].min())
    t = np.concatenate([[0.0], np.geomspace(1e-3, 0.03, 60, endpoint=False), np.linspace(0.03, spread + 20, 1440)])
    lam = np.expm1(t) / d_max
    value = nu * np.log((1 / (1 + lam[:, None] * d)) @ u2 + rest) + (np.log1p(lam[:, None] * d) @ m)[:, None]
    lowest = value.min(axis=0)
    inner = (value[1:-1] < value[:-2]) & (value[1:-1] <= value[2:])
    near, of = np.nonzero(inner & (value[1:-1] < lowest + 0.05 * nu))
    low, high = t[near], t[near + 2]
    for _ in range(2):  # finer and finer around every local minimum that may be the lowest
        x = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 41)
        r = 1 + (np.expm1(x) / d_max)[..., None] * d
        fine = nu * np.log(np.einsum("ikj,ji->ik", 1 / r, u2[:, of]) + rest[of, None]) + np.log(r) @ m
        k = np.clip(fine.argmin(axis=1), 1, 39)
        rows = np.arange(len(of))
        np.minimum.at(lowest, of, fine.min(axis=1))
        low, high = x[rows, k - 1], x[rows, k + 1]
    return lowest, inner.sum(axis=0) + (value[0] < value[1])


def campaign(kind: str, spectra: int, seed: int) -> dict[str, float]:
    """What is missed among so many spectra of one kind."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    solve = programs.jit(minimise)
    worst, missed, several, failed, done = -np.inf, 0, 0, 0, 0
    with float64_scope():
        while done < spectra:
            drawn = draw(kind, rng)
            found = solve(*drawn, make_grid(np.asarray(drawn[0].d)))
            lowest, minima = scan(drawn)
            excess = 0.5 * (np.asarray(found.deviance) - lowest)
            worst, missed = max(worst, float(excess.max())), missed + int(np.sum(~(excess <= 1e-7)))
            several, failed = several + int(np.sum(minima > 1)), failed + int(np.sum(~np.asarray(found.converged)))
            done += len(lowest)
    return {"spectra": done, "several": several, "missed": missed, "not converged": failed, "worst loss": worst}


def without_proof(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array) -> jax.Array:
    nodes = make_nodes(terms, u2, rest, grid)
    return first_minimum(Responses(terms, u2, rest), nodes)[0].deviance


def times(X: np.ndarray, Y: np.ndarray, groups: np.ndarray, method: str) -> dict[str, float]:
    """Microseconds of CPU time per response of the search with and without proof, and of the whole fit."""
    model = jaxlmm.prepare(X, groups)
    stats, m = Stats.empty(model.family.reducer, Y.shape[1]), Y.shape[1]
    reduce_panel(model.family.reducer, Y, slice(0, m), stats)
    constants = BlockFitter.make(model.family.reducer, method, m).constants
    args = constants.terms, jnp.asarray(stats.u**2), jnp.asarray(stats.rest), constants.grid
    proved, plain = programs.jit(minimise), programs.jit(without_proof)
    runs: dict[str, Callable[[], object]] = {
        "with proof": lambda: jax.block_until_ready(proved(*args)),
        "without proof": lambda: jax.block_until_ready(plain(*args)),
        "fit": lambda: model.fit(Y, method=method),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(60):  # in turn, so that whatever else the machine does falls on all alike
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    us = {name: float(np.quantile(all_, 0.1)) / m * 1e6 for name, all_ in taken.items()}
    added = us["with proof"] - us["without proof"]
    return us | {"added to the search": added / us["without proof"], "added to the fit": added / (us["fit"] - added)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--spectra", type=int, default=100_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times-only", action="store_true")
    chosen = parser.parse_args()
    if chosen.times_only:
        rows = json.loads((RESULTS / "global_optimum.json").read_text())["rows"]
    else:
        rows = [{"kind": kind} | campaign(kind, chosen.spectra, chosen.seed) for kind in KINDS]
    m, timed = 2048, []
    cases = {
        "40 unequal groups, n = 1000": simulate(1000, 4, 40, m),
        "25 equal groups, n = 500": simulate(500, 3, 25, m, unequal=False),
        "50 unequal groups, n = 150": simulate(150, 3, 50, m),
        "6 subjects, n = 60": simulate(60, 3, 6, m),
    }
    with float64_scope():
        for case, data in cases.items():
            timed += [{"case": case, "method": method} | times(*data, method) for method in ("REML", "ML")]
    for row in timed:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    save("global_optimum", rows, cpu_us_per_response=timed)


if __name__ == "__main__":
    main()
