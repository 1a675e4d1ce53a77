"""Fits in several threads at once: none waits for ever, all agree with one thread's, BLAS gets its threads back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import blas

from jaxlmm._types import float64_scope
from jaxlmm.families.logs import log_product
from jaxlmm.families.own import quick, sweeps
from jaxlmm.runtime.threads import single_threaded_blas

# In a process of its own: one that hangs must fail the test, not stop the suite.
FITS = """
import os, sys, threading
import numpy as np, jaxlmm
if sys.argv[1] == "one core":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

def problem(p, seed):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(9), 8)
    X = np.column_stack([np.ones(72), rng.normal(size=(72, p - 1))])
    Y = rng.normal(size=(72, 700)) + rng.normal(size=(9, 700))[codes]
    Y[rng.random(Y.shape) < 0.05] = np.nan
    return jaxlmm.prepare(X, codes), Y

def numbers(model, Y):
    fit = model.fit(Y)
    return [np.asarray(getattr(fit, name)) for name in ("status", "n_used", "coef", "se", "loglik", "df", "pvalue")]

problems = [problem(p, seed) for seed, p in enumerate((2, 9))]
found = [[None] * 3 for _ in problems]
errors = []

def work(k):
    try:
        for turn in range(3):
            which = (k + turn) % len(problems)
            found[which][turn] = numbers(*problems[which])
    except BaseException as error:
        errors.append(error)

threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not errors, errors
for one, several in zip(problems, found):
    expected = numbers(*one)
    assert (expected[0] <= 1).all()
    for again in several:
        for a, b in zip(again, expected):
            np.testing.assert_allclose(a, b, rtol=1e-12)
"""


@pytest.mark.parametrize("cores", ["all cores", "one core"])
def test_concurrent_fits_with_missing_observations(cores: str) -> None:
    if cores == "one core" and not hasattr(os, "sched_setaffinity"):
        pytest.skip("no sched_setaffinity")
    subprocess.run([sys.executable, "-W", "error", "-c", FITS, cores], check=True, timeout=240)


def in_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_the_last_one_out_restores_blas(two_threads: list[int]) -> None:
    other = contextlib.ExitStack()
    with single_threaded_blas():
        assert set(blas()) == {1}
        in_thread(lambda: other.enter_context(single_threaded_blas()))
    assert set(blas()) == {1}  # the other thread still wants it
    in_thread(other.close)
    assert blas() == two_threads
    with single_threaded_blas():  # and again
        assert set(blas()) == {1}
    assert blas() == two_threads


def test_nested_limits_and_errors_restore_blas(two_threads: list[int]) -> None:
    with single_threaded_blas():
        with pytest.raises(KeyError), single_threaded_blas():
            raise KeyError
        assert set(blas()) == {1}
    assert blas() == two_threads
    with pytest.raises(KeyError), single_threaded_blas():
        raise KeyError
    assert blas() == two_threads


def test_many_overlapping_limits_restore_blas(two_threads: list[int]) -> None:
    seen: list[set[int]] = []

    def work() -> None:
        for _ in range(50):
            with single_threaded_blas():
                seen.append(set(blas()))

    several = [threading.Thread(target=work) for _ in range(6)]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert len(seen) == 300 and all(found == {1} for found in seen)
    assert blas() == two_threads


@pytest.mark.parametrize("q", [3, 13])
@pytest.mark.parametrize("bad", ["first", "last", "zero"])
def test_a_matrix_that_is_not_positive_definite_leaves_no_number(q: int, bad: str) -> None:
    """The elimination that stands for LAPACK's says no as Cholesky's does, wherever the bad pivot is."""
    A = np.random.default_rng(q).normal(size=(q, 2 * q))
    good = A @ A.T
    M = good.copy()
    if bad == "zero":
        M[:, 1] = M[1] = 0
    else:
        at = 0 if bad == "first" else q - 1
        M[at, at] *= -1
    v = np.arange(1.0, q + 1)
    with float64_scope():
        (C, logdet), (logdet_too, solved) = eliminated(M, v)
        assert np.isnan(C).all() and np.isnan([logdet, logdet_too]).all() and np.isnan(solved).any()
        (C, logdet), (logdet_too, solved) = eliminated(good, v)
    np.testing.assert_allclose([logdet, logdet_too], np.linalg.slogdet(good)[1], rtol=1e-10)
    np.testing.assert_allclose(C, np.linalg.inv(good), rtol=1e-8)
    np.testing.assert_allclose(solved, np.linalg.solve(good, v), rtol=1e-8)


def eliminated(M: np.ndarray, v: np.ndarray) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """M^-1 and log|M| by sweeps; log|M|, and M^-1 v from the corner v' M^-1 v, by elimination; in a float64 scope."""
    inverse, logdet, logdet_too, solved = _eliminated(M, v)
    return (inverse, logdet), (logdet_too, solved)


@jax.jit
def _eliminated(M: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
    rows, columns = np.tril_indices(len(M) + 1)

    def corner(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        whole = jnp.block([[M, v[:, None]], [v[None], jnp.zeros((1, 1))]])
        none = jnp.zeros((*M.shape, 1, 1)), jnp.zeros((1, 1))
        s, logdet, _ = quick.at_nodes(whole[rows, columns][:, None, None], *none)
        return -0.5 * s[0, 0], logdet[0, 0]

    solved, logdet = jax.grad(corner, has_aux=True)(v)
    inverse, pivots = sweeps.inverse(M)
    return inverse, log_product([*pivots]), logdet, solved
