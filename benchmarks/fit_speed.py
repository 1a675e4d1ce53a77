"""How fast is a fit, against one pass of numpy over the same data and against statsmodels?

    python benchmarks/fit_speed.py [--responses 100000] [--million] [--against FOLDER]

1. n = 1000, p = 4, 40 unequal groups, m responses, float64: one ``np.sum`` over Y, statsmodels on
   a few responses (skipped with a message where it is missing), jaxlmm from numpy arrays to coef,
   se, statistic, df, pvalue, variances, likelihoods and status. First call (compiles) and later calls.
2. Time against the number of groups: n = 20,000, m = 1000, G = 40, 500, 5000.
3. Peak memory of a fit over that of Y, and the first call of a small fit, each in a fresh process.
4. --million: n = 3,000,000 rows in 1,000,000 groups, once.
5. --against FOLDER, a checkout of another version (``git worktree add FOLDER COMMIT``): only the fits of 1 and 2,
   here and there in turn, each in a process of its own, so that the load of the machine falls on both alike.

Writes results/fit_speed.json, with --against results/fit_speed_against.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from common import best_time, save, simulate

import jaxlmm

MEMORY = """
import sys
sys.path.insert(0, {here!r})
from common import added_memory, simulate
import jaxlmm
X, Y, groups = simulate(1000, 4, 40, 4096)
jaxlmm.fit(X, Y, groups).pvalue
X, Y, groups = simulate(1000, 4, 40, {m})
print(added_memory(lambda: jaxlmm.fit(X, Y, groups).pvalue) / Y.nbytes)
"""

FIRST = """
import time
start = time.perf_counter()
import jaxlmm
imported = time.perf_counter()
from jaxlmm.cli.demo import load_sleepstudy
import numpy as np
days, y, subject = load_sleepstudy()
X = np.column_stack([np.ones(len(days)), days])
{cache}
start_fit = time.perf_counter()
jaxlmm.fit(X, y, subject).pvalue
first = time.perf_counter() - start_fit
start_fit = time.perf_counter()
jaxlmm.fit(X, y, subject).pvalue
print(imported - start, first, time.perf_counter() - start_fit)
"""


TIMES = """
import json, sys, time
sys.path.insert(0, {here!r})
from common import simulate
import jaxlmm
times = {{}}
for n, G, m in {sizes}:
    X, Y, groups = simulate(n, 4, G, m)
    runs = []
    for _ in range({repeats} + 1):
        start, cpu = time.perf_counter(), time.process_time()
        found = jaxlmm.fit(X, Y, groups)
        _ = found.statistic, found.df, found.pvalue, found.group_var, found.icc, found.aic, found.bic
        runs.append((time.perf_counter() - start, time.process_time() - cpu))
    times[f"n = {{n}}, m = {{m}}, {{G}} groups"] = [min(times) for times in zip(*runs[1:])] + [runs[0][0]]
print(json.dumps(times))
"""


def against(folder: Path, m: int, rounds: int = 5) -> None:
    """Times of this checkout and of the one in a folder, in turn; medians over the rounds of each one's ratio."""
    code = TIMES.format(
        here=str(Path(__file__).parent), repeats=5, sizes=[(1000, 40, m), (20_000, 500, 1000), (20_000, 5000, 1000)]
    )
    found: dict[str, list[dict[str, list[float]]]] = {"here": [], "there": []}
    for _ in range(rounds):
        for name, place in (("there", folder), ("here", Path(__file__).parent.parent)):
            environment = {**os.environ, "PYTHONPATH": str(place.resolve())}
            out = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment, cwd=place)
            found[name].append(json.loads(out))
    rows = []
    for what in found["here"][0]:
        here, there = (np.array([run[what] for run in found[name]]) for name in ("here", "there"))
        count = int(what.split("m = ")[1].split(",")[0])
        row: dict[str, Any] = {"what": what}
        for j, kind in enumerate(("wall", "CPU")):
            row[f"{kind} us per response here"] = float(np.median(here[:, j]) / count * 1e6)
            row[f"{kind} us per response there"] = float(np.median(there[:, j]) / count * 1e6)
            row[f"{kind} here over there"] = float(np.median(here[:, j] / there[:, j]))
        rows.append(
            {**row, "first call s here": float(np.median(here[:, 2])), "there": float(np.median(there[:, 2]))}
        )
    commit = subprocess.check_output(["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], text=True).strip()
    save("fit_speed_against", rows, against=commit, rounds=rounds)


def fit_all(X: np.ndarray, Y: np.ndarray, groups: np.ndarray, **options: Any) -> jaxlmm.Fit:
    """Everything that is made without being asked for one by one."""
    found = jaxlmm.fit(X, Y, groups, **options)
    _ = found.statistic, found.df, found.pvalue, found.group_var, found.icc, found.aic, found.bic
    return found


def statsmodels_seconds(X: np.ndarray, Y: np.ndarray, groups: np.ndarray) -> float | None:
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM
    except ImportError:
        print("statsmodels is not installed: skipped")
        return None
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for y in Y.T:
            MixedLM(y, X, groups).fit()
    return (time.perf_counter() - start) / Y.shape[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--responses", type=int, default=100_000)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--against", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    m = options.responses
    if options.against:
        return against(options.against, m)
    rows: list[dict[str, Any]] = []

    def row(what: str, seconds: float, count: int, one_pass: float) -> None:
        rows.append(
            {"what": what, "seconds": seconds, "us per response": seconds / count * 1e6, "passes": seconds / one_pass}
        )

    X, Y, groups = simulate(1000, 4, 40, m)
    one_pass = best_time(lambda: np.sum(Y))
    row(f"np.sum over Y, n = 1000, m = {m}", one_pass, m, one_pass)
    start = time.perf_counter()
    fit_all(X, Y, groups)
    row("jaxlmm, 40 groups, first call", time.perf_counter() - start, m, one_pass)
    jaxlmm_seconds = best_time(lambda: fit_all(X, Y, groups), 7)
    row("jaxlmm, 40 groups, later calls", jaxlmm_seconds, m, one_pass)
    Y += 1000.0
    row("jaxlmm, the same with mean 1000", best_time(lambda: fit_all(X, Y, groups), 3), m, one_pass)
    each = statsmodels_seconds(X, Y[:, :10] - 1000.0, groups)
    ratio = None
    if each is not None:
        rows.append({"what": "statsmodels, 10 responses", "seconds": each * 10, "us per response": each * 1e6})
        ratio = each / (jaxlmm_seconds / m)
    del Y
    for G in (40, 500, 5000):
        X, Y, groups = simulate(20_000, 4, G, 1000)
        one = best_time(lambda Y=Y: np.sum(Y))
        fit_all(X, Y, groups)
        model = jaxlmm.prepare(X, groups)
        model.fit(Y)
        row(f"n = 20,000, m = 1000, {G} groups", best_time(lambda d=(X, Y, groups): fit_all(*d), 3), 1000, one)
        row("  of it the design", best_time(lambda d=(X, groups): jaxlmm.prepare(*d), 3), 1000, one)
    if options.million:
        X, Y, groups = simulate(3_000_000, 3, 1_000_000, 20, unequal=True)
        one = best_time(lambda: np.sum(Y))
        start = time.perf_counter()
        found = fit_all(X, Y, groups)
        row("n = 3,000,000, m = 20, 1,000,000 groups, first call", time.perf_counter() - start, 20, one)
        assert found.converged.all()
        del X, Y, groups, found

    here = str(Path(__file__).parent)
    code = MEMORY.format(here=here, m=min(m, 100_000))
    added = float(subprocess.check_output([sys.executable, "-c", code]))
    first: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, cache in (
            ("no cache", ""),
            ("cache, filling it", f"jaxlmm.enable_compile_cache({folder!r})"),
            ("cache, filled", f"jaxlmm.enable_compile_cache({folder!r})"),
        ):
            out = subprocess.check_output([sys.executable, "-c", FIRST.format(cache=cache)], text=True)
            first[name] = dict(zip(("import s", "first fit s", "second fit s"), map(float, out.split()), strict=True))
    save(
        "fit_speed",
        rows,
        statsmodels_over_jaxlmm=ratio,
        peak_memory_over_Y=1 + added,
        first_fit_of_sleepstudy=first,
    )


if __name__ == "__main__":
    main()
