"""What must not change an answer, and what must change it in a known way."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import blups, dense_deviance, simulate, unbalanced
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxlmm

FEW = settings(max_examples=25, deadline=None)


def case(seed: int, n_groups: int = 9, largest: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = unbalanced(rng, n_groups, largest)
    X, Y = simulate(rng, codes, m=3, ratio=float(rng.choice([0.0, 0.5, 5.0])))
    return X, Y, codes


def same(a: jaxlmm.Fit, b: jaxlmm.Fit, rtol: float = 1e-8) -> None:
    for name in ("coef", "se", "sigma2", "loglik"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(a.lam, b.lam, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(a.status, b.status)


# Few groups take the dense way through the reduction, many the sparse one.
GROUPS = st.sampled_from([9, 110])


@FEW
@given(st.integers(0, 10**6), GROUPS)
def test_row_order_does_not_matter(seed: int, n_groups: int) -> None:
    X, Y, codes = case(seed, n_groups)
    order = np.random.default_rng(seed).permutation(len(codes))
    a, b = jaxlmm.fit(X, Y, codes), jaxlmm.fit(X[order], Y[order], codes[order])
    same(a, b)
    np.testing.assert_allclose(blups(a), blups(b), rtol=1e-6, atol=1e-8)


@FEW
@given(st.integers(0, 10**6))
def test_labels_do_not_matter(seed: int) -> None:
    X, Y, codes = case(seed)
    labels = np.random.default_rng(seed).permutation(codes.max() + 1)
    a, b = jaxlmm.fit(X, Y, codes), jaxlmm.fit(X, Y, [f"s{labels[c]:02d}" for c in codes])
    same(a, b)
    np.testing.assert_allclose(blups(a), blups(b)[:, labels], rtol=1e-6, atol=1e-8)


@FEW
@given(st.integers(0, 10**6), GROUPS, st.sampled_from([1e-8, 1e-3, 7.0, 1e8]))
def test_scaled_response(seed: int, n_groups: int, k: float) -> None:
    X, Y, codes = case(seed, n_groups)
    a, b = jaxlmm.fit(X, Y, codes), jaxlmm.fit(X, k * Y, codes)
    np.testing.assert_allclose(b.coef, k * a.coef, rtol=1e-7, atol=1e-9 * k)
    np.testing.assert_allclose(b.se, k * a.se, rtol=1e-7)
    np.testing.assert_allclose(b.group_var, k**2 * a.group_var, rtol=1e-6, atol=1e-9 * k**2)
    np.testing.assert_allclose(b.statistic, a.statistic, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(b.loglik, a.loglik - (len(X) - X.shape[1]) * np.log(k), rtol=1e-9)
    np.testing.assert_array_equal(a.status, b.status)


@FEW
@given(st.integers(0, 10**6), GROUPS, st.sampled_from([1.0, 1e3, 1e6]))
def test_adding_fixed_effects_shifts_coefficients_only(seed: int, n_groups: int, size: float) -> None:
    X, Y, codes = case(seed, n_groups)
    b = size * np.array([1.0, -0.3, 0.2])
    shifted = Y + (X @ b)[:, None]
    a, c = jaxlmm.fit(X, Y, codes), jaxlmm.fit(X, shifted, codes)
    digits = 1e-15 * size  # the rounding of the shifted data
    np.testing.assert_allclose(c.coef - b, a.coef, rtol=1e-7, atol=1e-9 + 100 * digits)
    np.testing.assert_allclose(c.se, a.se, rtol=1e-7 + 100 * digits)
    np.testing.assert_allclose(c.sigma2, a.sigma2, rtol=1e-8 + 100 * digits)
    np.testing.assert_allclose(blups(c), blups(a), rtol=1e-5, atol=1e-8 + 1000 * digits)


@FEW
@given(st.integers(0, 10**6))
def test_units_of_covariates(seed: int) -> None:
    X, Y, codes = case(seed)
    k = np.array([1.0, 1e-6, 1e7])
    a, b = jaxlmm.fit(X, Y, codes), jaxlmm.fit(X * k, Y, codes)
    np.testing.assert_allclose(b.coef * k, a.coef, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(b.statistic, a.statistic, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(b.loglik, a.loglik - np.sum(np.log(k)), rtol=1e-9)


@FEW
@given(st.integers(0, 10**6))
def test_a_response_does_not_depend_on_its_neighbours(seed: int) -> None:
    X, Y, codes = case(seed)
    together = jaxlmm.fit(X, Y, codes)
    for i in range(Y.shape[1]):
        same(together.select([i]), jaxlmm.fit(X, Y[:, i], codes), rtol=1e-12)


def test_dense_and_sparse_reductions_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxlmm.families.intercept import reduce

    for seed in range(5):
        X, Y, codes = case(seed, 40)
        Y[:, 1] = 1e5 + Y[:, 1]
        dense = jaxlmm.fit(X, Y, codes)
        with monkeypatch.context() as patch:
            patch.setattr(reduce, "DENSE_ROWS", 0)
            sparse = jaxlmm.fit(X, Y, codes)
        assert dense.model.family.reducer.A is not None and sparse.model.family.reducer.A is None
        same(dense, sparse)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("in_order", [True, False])
def test_coordinates_group_by_group_are_those_of_the_dense_product(in_order: bool, weighted: bool) -> None:
    rng = np.random.default_rng(11)
    codes = np.repeat(np.arange(40), rng.integers(1, 20, 40))
    codes = codes if in_order else rng.permutation(codes)
    X = np.column_stack([np.ones(len(codes)), rng.normal(size=(len(codes), 2)), codes % 3 == 0])
    w = rng.uniform(0.1, 3, len(codes)) if weighted else None
    reducer = jaxlmm.prepare(X, codes, weights=w).prepared.family.reducer
    assert 1 < len(reducer.blocks) < 40 and isinstance(reducer.blocks[0][0], slice) == in_order
    y = rng.normal(size=(len(codes), 5))
    y[3, 4] = np.nan
    ours, theirs = reducer.coords(y), reducer.A @ y
    np.testing.assert_allclose(ours[:, :4], theirs[:, :4], atol=1e-13)
    assert np.isnan(ours[:, 4]).all() == np.isnan(theirs[:, 4]).all()


def test_blocks_and_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y, codes = case(0)
    Y = np.random.default_rng(0).normal(size=(len(Y), 4500))
    whole = jaxlmm.fit(X, Y, codes)  # blocks of 2048, 2048 and 404
    same(whole.select(slice(4000, 4100)), jaxlmm.fit(X, Y[:, 4000:4100], codes), rtol=1e-12)
    same(whole.select([2047, 2048, 4499]), jaxlmm.fit(X, Y[:, [2047, 2048, 4499]], codes), rtol=1e-12)


@pytest.mark.parametrize("sizes", [[1, 5, 5], [1, 1, 1, 1, 2], [200, 2, 2, 1], [2] * 30, [3] * 110])
def test_group_sizes(sizes: list[int]) -> None:
    rng = np.random.default_rng(len(sizes))
    codes = np.repeat(np.arange(len(sizes)), sizes)
    X = np.column_stack([np.ones(len(codes)), rng.normal(size=len(codes))])
    Y = rng.normal(size=(len(codes), 3)) + rng.normal(size=(len(sizes), 3))[codes]
    found = jaxlmm.fit(X[:, :1] if len(codes) < 8 else X, Y, codes)
    used = X[:, :1] if len(codes) < 8 else X
    assert found.converged.all()
    for i, y in enumerate(Y.T):
        here = dense_deviance(found.lam[i], used, y, codes)
        np.testing.assert_allclose(-2 * found.loglik[i], here, rtol=1e-9)
        for lam in [0.0, *np.exp(np.linspace(-8, 8, 60))]:
            assert here <= dense_deviance(lam, used, y, codes) + 1e-9 * abs(here)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_float32_input_is_computed_in_float64(offset: float) -> None:
    X, Y, codes = case(3)
    Y32 = (Y + offset).astype(np.float32)
    same(jaxlmm.fit(X, Y32, codes), jaxlmm.fit(X, Y32.astype(np.float64), codes), rtol=1e-12)
    assert jaxlmm.fit(X, Y32, codes).coef.dtype == np.float64


@pytest.mark.parametrize("kind", ["int", "bool", "float16", "fortran", "strided"])
def test_kinds_of_y(kind: str) -> None:
    X, Y, codes = case(4)
    made = {
        "int": np.round(100 * Y).astype(int),
        "bool": Y > 0,
        "float16": Y.astype(np.float16),
        "fortran": np.asfortranarray(Y),
        "strided": np.repeat(np.repeat(Y, 2, axis=0), 2, axis=1)[::2, ::2],
    }[kind]
    same(jaxlmm.fit(X, made, codes), jaxlmm.fit(X, np.array(made, dtype=float), codes), rtol=1e-12)


def test_jax_settings_are_left_alone() -> None:
    import jax
    import jax.numpy as jnp

    assert not jax.config.jax_enable_x64
    X, Y, codes = case(5)
    a = jaxlmm.fit(jnp.asarray(X), jnp.asarray(Y), codes)
    assert a.coef.dtype == np.float64
    assert not jax.config.jax_enable_x64
    assert jnp.asarray(Y).dtype == jnp.float32


def test_input_is_not_changed_and_may_be_read_only() -> None:
    X, Y, codes = case(6)
    before = Y.copy()
    Y.setflags(write=False)
    X.setflags(write=False)
    jaxlmm.fit(X, Y, codes)
    np.testing.assert_array_equal(Y, before)


def test_selection_by_names_positions_and_both() -> None:
    X, Y, codes = case(7)
    fit = jaxlmm.fit(X, Y, codes, response_names=["a", "b", "c"])
    for chosen in (["c", "a"], [2, 0], ["c", 0], np.array(["c", "a"]), [-1, -3]):
        part = fit.select(chosen)
        assert part.response_names == ("c", "a")
        np.testing.assert_array_equal(part.coef, fit.coef[[2, 0]])
    np.testing.assert_array_equal(fit.select(np.array([True, False, True])).lam, fit.lam[[0, 2]])
