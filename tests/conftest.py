"""Shared data and oracles of the tests."""

from __future__ import annotations

import csv
import gc
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import threadpoolctl

# Tests in other processes, and this one's workers, compile the same things: once is enough. Compiling is most of what
# the tests take, so a folder that outlives them (the variable set by whoever runs them) makes the next run fast.
CACHE = tempfile.TemporaryDirectory(prefix="jaxlmm-tests-")
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE.name)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    # Idle threads of OpenBLAS spin for tens of milliseconds, on cores that the other workers need.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    # Programs that are not optimised compile in a third of the time, and in one piece faster where every core has a
    # worker; what whoever runs the tests gives stays.
    for option in ("--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"):
        if option.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {option}".strip()
# JAX keeps millions of objects that are never garbage: Python's default looks through them again and again.
gc.set_threshold(50_000, 20, 50)

from jaxlmm.runtime import programs  # noqa: E402  JAX reads the variables above as it is imported

# Every core has a worker: nothing is compiled beside a search, but in the tests of that.
programs.N_THREADS = 1

REFERENCE = Path(__file__).parent / "reference"
DATA_SETS = "sleepstudy dyestuff dyestuff2 orthodont rail machines hsb82 chickweight co2 ergostool".split()


@dataclass(frozen=True)
class Reference:
    """A public data set and what lme4, lmerTest and pbkrtest found (see reference/README.md)."""

    name: str
    X: np.ndarray
    y: np.ndarray
    groups: list[str]
    expected: dict

    @property
    def terms(self) -> list[str]:
        terms = self.expected["terms"]
        return [terms] if isinstance(terms, str) else terms


def load_reference(name: str) -> Reference:
    expected = json.loads((REFERENCE / f"{name}.json").read_text())
    with open(REFERENCE / f"{name}.csv") as file:
        rows = list(csv.DictReader(file))
    X = np.genfromtxt(REFERENCE / f"{name}.X.csv", delimiter=",", skip_header=1)
    response = expected["formula"].split("~")[0].strip()
    group = expected["formula"].split("|")[1].strip(" )")
    y = np.array([float(row[response]) for row in rows])
    return Reference(name, X.reshape(len(y), -1), y, [row[group] for row in rows], expected)


_ended = 0


def pytest_runtest_logfinish() -> None:
    """Forget all compiled programs, those of oracles and of single operations too, before they need more memory maps
    than Linux gives a process (see jaxlmm.runtime.programs, which knows jaxlmm's own alone), or 5 GB."""
    import jax

    from jaxlmm.runtime.programs import LIMIT, MAPS, n_maps

    global _ended
    _ended += 1
    if _ended % 10 == 0 and MAPS.exists():
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if n_maps() > 0.6 * int(LIMIT.read_text()) or resident > 5e9:
            jax.clear_caches()


@pytest.fixture(params=DATA_SETS)
def reference(request: pytest.FixtureRequest) -> Reference:
    return load_reference(request.param)


def unbalanced(rng: np.random.Generator, n_groups: int, largest: int) -> np.ndarray:
    """Group codes of very unequal sizes, in random order; at least one group has two rows."""
    sizes = rng.integers(1, largest + 1, n_groups)
    sizes[0] = max(sizes[0], 2)
    return rng.permutation(np.repeat(np.arange(n_groups), sizes))


def simulate(
    rng: np.random.Generator, codes: np.ndarray, p: int = 3, m: int = 5, ratio: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """X with an intercept and a covariate constant within groups, and Y with group intercepts."""
    n, G = len(codes), codes.max() + 1
    X = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    if p > 2:
        X[:, -1] = rng.normal(size=G)[codes]
    Y = X @ rng.normal(size=(p, m)) + rng.normal(size=(n, m))
    return X, Y + np.sqrt(ratio) * rng.normal(size=(G, m))[codes]


def dense_deviance(lam: float, X: np.ndarray, y: np.ndarray, codes: np.ndarray, method: str = "REML") -> float:
    """-2 log-likelihood, profiled over coefficients and sigma2, by the n x n covariance matrix."""
    n, p = X.shape
    V = np.eye(n) + lam * (codes[:, None] == codes[None, :])
    L = np.linalg.cholesky(V)
    A, b = (scipy.linalg.solve_triangular(L, part, lower=True) for part in (X, y))
    residual = b - A @ np.linalg.lstsq(A, b, rcond=None)[0]
    nu = n - p if method == "REML" else n
    value = nu * (1 + np.log(2 * np.pi * residual @ residual / nu)) + 2 * np.sum(np.log(np.diag(L)))
    return float(value + (np.linalg.slogdet(A.T @ A)[1] if method == "REML" else 0.0))


def blas() -> list[int]:
    """The limits of all BLAS libraries of this process."""
    return [found["num_threads"] for found in threadpoolctl.threadpool_info() if found["user_api"] == "blas"]


@pytest.fixture
def two_threads() -> Any:
    """A limit of two, so that one thread differs from it on any machine."""
    from jaxlmm.runtime import threads  # not above: JAX reads its cache's folder when it is imported

    libraries = threads._blas()
    before = blas()
    for lib in libraries:
        threads._set_threads(lib, 2)
    if 2 not in blas():
        pytest.skip("this BLAS has one thread")
    yield blas()
    for lib, n in zip(libraries, before, strict=True):
        threads._set_threads(lib, n)


def blups(fit) -> np.ndarray:
    """Conditional modes of the one random intercept, (m, G); (m, 0) without one."""
    parts = list(fit.ranef().values())
    assert len(parts) <= 1 and all(part.columns == ("(Intercept)",) for part in parts)
    return parts[0].modes[:, :, 0] if parts else np.zeros((fit.n_responses, 0))


def blup_sd(fit) -> np.ndarray:
    """Conditional standard deviations of :func:`blups`."""
    parts = list(fit.ranef().values())
    return parts[0].sd[:, :, 0] if parts else np.zeros((fit.n_responses, 0))


def value_of(fit, name: str) -> np.ndarray:
    """A property of a fit by name; "ranef" and "ranef_sd" are those of the one random intercept."""
    made = {"ranef": blups, "ranef_sd": blup_sd}.get(name)
    return getattr(fit, name) if made is None else made(fit)
