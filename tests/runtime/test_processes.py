"""Fits in worker processes: what starts afresh works; a fork of a process in which JAX runs says so at once."""

from __future__ import annotations

import importlib.util
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: one that hangs must fail the test, not stop the suite.
SCRIPT = """
import multiprocessing, sys, time
import numpy as np, jaxlmm

rng = np.random.default_rng(0)
codes = np.arange(100) % 9
X = np.column_stack([np.ones(100), rng.normal(size=100)])
Y = rng.normal(size=(100, 12))
Y[3, 5] = np.nan

def job(k):
    return jaxlmm.fit(X, Y + k, codes)

def refused(k):
    try:
        return f"fitted {job(k).loglik}"
    except RuntimeError as error:
        return str(error)

if __name__ == "__main__":
    before, ways = sys.argv[1], sys.argv[2:]
    if before == "jaxlmm":
        expected = [job(k) for k in range(2)]
    elif before == "jax":
        import jax.numpy as jnp
        jnp.zeros(3).block_until_ready()
    for how in ways:
        if how == "joblib":
            import joblib
            found = joblib.Parallel(n_jobs=2)(joblib.delayed(job)(k) for k in range(2))
        else:
            context = multiprocessing.get_context(how)
            start = time.perf_counter()
            with context.Pool(1) as pool:
                found = pool.map(refused if how == "fork" and before != "nothing" else job, range(2))
                took = time.perf_counter() - start
        if how == "fork" and before != "nothing":
            assert all("spawn" in text and "loky" in text and "forked" in text for text in found), found
            assert took < 1, took
        elif before == "jaxlmm":  # a fit comes back whole
            np.testing.assert_allclose([f.pvalue for f in found], [f.pvalue for f in expected], rtol=1e-12)
        else:
            assert all(f.converged.all() for f in found)
        print(how)
"""

# One process that has fitted tries every way to start others.
WAYS = [how for how in ("fork", "spawn", "forkserver") if how in multiprocessing.get_all_start_methods()]
WAYS += ["joblib"] * (importlib.util.find_spec("joblib") is not None)


NO_FORK = pytest.mark.skipif("fork" not in WAYS, reason="no fork here")


@pytest.mark.parametrize(
    ("before", "ways"),
    [("jaxlmm", WAYS), *(pytest.param(before, ["fork"], marks=NO_FORK) for before in ("jax", "nothing"))],
)
def test_fits_in_workers(before: str, ways: list[str], tmp_path: Path) -> None:
    script = tmp_path / "workers.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script), before, *ways], capture_output=True, text=True, timeout=480)
    assert done.returncode == 0 and done.stdout.split() == ways, done.stdout + done.stderr


FORK_WITH_LIMIT = """
import os, threading
from jaxlmm.runtime import threads
import threadpoolctl

def blas():
    return [found["num_threads"] for found in threadpoolctl.threadpool_info() if found["user_api"] == "blas"]

for lib in threads._blas():
    threads._set_threads(lib, 2)
before, inside, leave = blas(), threading.Event(), threading.Event()

def hold():
    with threads.single_threaded_blas(), threads._LIMIT._lock:
        inside.set()
        leave.wait()

holder = threading.Thread(target=hold)
holder.start()
inside.wait()
child = os.fork()
if not child:
    with threads.single_threaded_blas():
        limited = set(blas())
    os._exit(0 if limited == {1} and blas() == before else 1)
_, status = os.waitpid(child, 0)
leave.set()
holder.join()
assert os.waitstatus_to_exitcode(status) == 0 and blas() == before
"""


@NO_FORK
def test_a_fork_inherits_no_limit_of_blas_and_no_lock() -> None:
    """The thread that holds them in the parent is not in the child, which would wait for ever."""
    subprocess.run([sys.executable, "-c", FORK_WITH_LIMIT], check=True, timeout=60)
