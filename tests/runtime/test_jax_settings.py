"""Fits under every setting of JAX that a user's program may have, and inside its transformations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import blups

import jaxlmm

RNG = np.random.default_rng(0)
N = 60
CODES = np.arange(N) % 7
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
Y = RNG.normal(size=(N, 5)) + RNG.normal(size=(7, 5))[CODES]
Y[2, 1] = np.nan
COMPLETE = Y[:, [0, 2]]


def numbers() -> dict[str, np.ndarray]:
    """One of everything that enters JAX."""
    fit = jaxlmm.fit(X, Y, CODES, df="kenward-roger")
    whole = jaxlmm.fit(X, COMPLETE, CODES, method="ML")
    profile = whole.profile()
    return {
        "status": fit.status, "coef": fit.coef, "se": fit.se, "loglik": fit.loglik, "df": fit.df, "ranef": blups(fit),
        "profile": np.column_stack([profile.group_sd, profile.sigma, profile.coef[:, 1]]),
        "rlrt": jaxlmm.rlrt(whole, n_sim=100).pvalue,
        "compare": jaxlmm.compare(jaxlmm.fit(X, Y), jaxlmm.fit(X, Y, CODES)).pvalue,
    }  # fmt: skip


EXPECTED: dict[str, np.ndarray] = {}


@pytest.fixture
def expected() -> dict[str, np.ndarray]:
    if not EXPECTED:
        EXPECTED.update(numbers())
    return EXPECTED


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)


@contextlib.contextmanager
def setting(name: str, value: Any) -> Any:
    """A global setting of JAX, as a user's program sets it; nobody may have changed it, or another, meanwhile."""
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    at_start = dict(jax.config.values)
    try:
        yield
        assert dict(jax.config.values) == at_start
    finally:
        jax.config.update(name, before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_disable_jit", True),
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_transfer_guard", "disallow"),
        ("jax_transfer_guard_host_to_device", "disallow_explicit"),
        ("jax_transfer_guard_device_to_host", "disallow_explicit"),
        ("jax_debug_nans", True),
        ("jax_debug_infs", True),
        ("jax_enable_x64", True),
        ("jax_check_tracer_leaks", True),
        ("jax_default_matmul_precision", "bfloat16"),
        ("jax_debug_key_reuse", True),
        ("jax_legacy_prng_key", "error"),
    ],
)
def test_global_settings_change_nothing(name: str, value: Any, expected: dict[str, np.ndarray]) -> None:
    with setting(name, value):
        same(numbers(), expected)


def test_context_managers_change_nothing(expected: dict[str, np.ndarray]) -> None:
    with jax.disable_jit(), jax.numpy_rank_promotion("raise"), jax.transfer_guard("disallow"), jax.debug_nans(True):
        same(numbers(), expected)
        assert jax.config.jax_disable_jit and jax.config.jax_debug_nans  # type: ignore[attr-defined]
    with jax.set_mesh(jax.make_mesh((1,), ("devices",))):
        same(numbers(), expected)


def test_settings_hold_again_after_an_error() -> None:
    before = dict(jax.config.values)
    with pytest.raises(ValueError, match="method"):
        jaxlmm.fit(X, Y, CODES, method="rml")
    with jax.numpy_rank_promotion("raise"):
        fit = jaxlmm.fit(X, Y, CODES)
        with pytest.raises(ValueError, match="rank"):
            jnp.zeros((2, 3)) + jnp.zeros(3)
    assert fit.converged.all() and dict(jax.config.values) == before


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
def test_numpy_data_while_a_transformation_traces(transform: Any, expected: dict[str, np.ndarray]) -> None:
    found = []

    def traced(a: Any) -> Any:
        found.append(numbers())
        return jnp.sum(a) * 2

    transform(traced)(jnp.ones(3) if transform is jax.vmap else 1.0)
    same(found[0], expected)


FIT = jaxlmm.fit(X, COMPLETE, CODES)
TRACED: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "X": (lambda a: jaxlmm.fit(a, COMPLETE, CODES).coef, X),
    "Y": (lambda a: jaxlmm.fit(X, a, CODES).coef, COMPLETE),
    "groups": (lambda a: jaxlmm.fit(X, COMPLETE, a).coef, CODES),
    "weights": (lambda a: jaxlmm.fit(X, COMPLETE, CODES, weights=a).coef, np.ones(N)),
    "X_new": (lambda a: FIT.predict(a), X),
    "groups_new": (lambda a: FIT.predict(X, a), CODES),
    "L": (lambda a: FIT.test(a).pvalue, np.ones(2)),
    "rhs": (lambda a: FIT.test([0.0, 1.0], a).pvalue, np.ones(1)),
    "p": (lambda a: jaxlmm.adjust_pvalues(a), np.ones(4)),
    "responses": (lambda a: FIT.select(a).coef, np.array([0])),
}


@pytest.mark.parametrize("what", TRACED)
def test_what_is_traced_has_no_numbers(what: str) -> None:
    call, value = TRACED[what]
    with pytest.raises(ValueError, match=rf"{what} has no values yet.*outside the traced function"):
        jax.jit(call)(value)
