"""The bootstrap: simulated coordinates are those of simulated responses, intervals cover, replicates are refits."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np
import pytest

import jaxlmm
from jaxlmm.design.design import make_design
from jaxlmm.families.general.model import RandomTerms
from jaxlmm.families.registry import make_family
from jaxlmm.resampling import bootstrap as boot
from jaxlmm.resampling.bootstrap import simulate_responses
from jaxlmm.resampling.schemes import block_rows

GROUP = np.repeat(np.arange(8), 6)
X = np.column_stack([np.ones(48), np.tile([0.0, 1.0], 24), np.sin(np.arange(48.0) ** 2)])


def data(m: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(48, m)) + rng.normal(size=(8, m))[GROUP] + X @ rng.normal(size=(3, m))


def fitted(Y: np.ndarray | None = None, **options: Any) -> jaxlmm.Fit:
    options.setdefault("groups", None if "random" in options else GROUP)
    return jaxlmm.fit(X, data() if Y is None else Y, **options)


def slope() -> Any:
    return jaxlmm.random_term(GROUP, X[:, :2], name="g", columns=["(Intercept)", "x"])


STRUCTURES = {
    "intercept": lambda: fitted(),
    "weights": lambda: fitted(weights=0.5 + np.arange(48) % 4),
    "slope": lambda: fitted(random=[slope()]),
    "none": lambda: fitted(groups=None),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_coordinates_are_simulated_as_responses_are(structure: str) -> None:
    fit = STRUCTURES[structure]()
    family = fit.model.family
    basis = boot._simulated_basis(family)
    assert basis is not None and basis.n_rest == 48 - np.linalg.matrix_rank(
        np.column_stack([X, *(np.eye(8)[GROUP] * z[:, None] for t in fit.design.random for z in t.Z.T)])
    )
    # The covariance of simulated coordinates is that of the coordinates of simulated responses, exactly.
    one = fit.select([1])
    weights = fit.design.weights if fit.design.weights is not None else np.ones(48)
    V = np.diag(1 / weights)
    relative = [v[0] / one.sigma2[0] for v in one.varcorr.values()]
    for term, Phi in zip(fit.design.random, relative, strict=True):
        Z = (np.eye(8)[GROUP][:, :, None] * term.Z[:, None, :]).reshape(48, -1)
        V += Z @ np.kron(np.eye(8), Phi) @ Z.T
    A = family.coordinates(np.eye(48))
    expected = A @ V @ A.T
    made = basis.noise @ basis.noise.T
    for columns, Phi in zip(basis.random, relative, strict=True):
        flat = columns.reshape(len(columns), -1)
        made += flat @ np.kron(np.eye(8), Phi) @ flat.T
    np.testing.assert_allclose(made, expected, atol=1e-8 * np.abs(expected).max())
    # And a fit of given coordinates is the fit of the responses that have them.
    Y = simulate_responses(fit, fit.design, np.arange(4), np.random.default_rng(3))
    coordinates = family.coordinates(Y)
    rest = (weights[:, None] * Y**2).sum(0) - family.explained(coordinates)
    found = family.fit_coordinates(coordinates, rest, "REML")
    direct = family.fit(Y, "REML")
    for name in ("coef", "se_gls", "sigma2", "loglik"):
        np.testing.assert_allclose(found[name], direct[name], rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(found["status"], direct["status"])


def test_parametric_replicates_have_the_distribution_of_the_estimates() -> None:
    fit = fitted()
    found = fit.bootstrap(2000, seed=1, progress=False)
    assert found.coef.shape == (2000, 4, 3) and found.n_failed.sum() == 0
    np.testing.assert_allclose(found.standard_error(), fit.se, rtol=0.1)
    mean = found.coef.mean(axis=0)
    assert np.all(np.abs(mean - fit.coef) < 4 * fit.se / np.sqrt(2000))
    np.testing.assert_allclose(found.sigma2.mean(axis=0), fit.sigma2, rtol=0.03)
    limits = found.conf_int()
    np.testing.assert_allclose(limits, fit.with_df("normal").conf_int(), atol=0.25 * float(fit.se.max()))
    again = fit.select([2, 3]).bootstrap(50, seed=1, progress=False)
    assert again.coef.shape == (50, 2, 3)
    np.testing.assert_array_equal(fit.bootstrap(20, seed=1, progress=False).coef, found.coef[:20])


def test_intervals_are_those_of_the_definitions() -> None:
    fit = fitted()
    found = fit.bootstrap(199, seed=2, progress=False)
    values, estimate = found.replicates([{"x1": 1, "x2": -1}])
    ordered = np.sort(values[:, 0, 0])
    low, high = found.conf_int([{"x1": 1, "x2": -1}], level=0.9)[0, 0]
    assert (low, high) == pytest.approx((ordered[9], ordered[189]))  # ranks 0.05 and 0.95 of 200
    basic = found.conf_int([{"x1": 1, "x2": -1}], level=0.9, method="basic")[0, 0]
    np.testing.assert_allclose(basic, [2 * estimate[0, 0] - high, 2 * estimate[0, 0] - low])
    bca = found.conf_int("icc", method="bca")
    plain = found.conf_int("icc")
    assert bca.shape == (4, 2) and np.all(bca[:, 0] < bca[:, 1]) and not np.allclose(bca, plain)
    np.testing.assert_array_equal(found.conf_int("sd")[:, 0], found.conf_int(lambda f: np.sqrt(f.group_var)))
    np.testing.assert_allclose(found.replicates("rsquared_marginal")[1], fit.rsquared_marginal)


def test_wild_and_cases_keep_the_correlation_between_responses() -> None:
    Y = data()
    Y[:, 1] = Y[:, 0] + 1e-3 * Y[:, 1]
    fit = fitted(Y)
    for kind in ("wild", "cases"):
        found = fit.bootstrap(60, kind=kind, progress=False)
        t = (found.coef[:, :, 1] - fit.coef[:, 1]) / found.se[:, :, 1]
        assert np.corrcoef(t[:, 0], t[:, 1])[0, 1] > 0.99 > abs(np.corrcoef(t[:, 0], t[:, 2])[0, 1])
        band = found.band("x1")
        q = np.sort(np.abs(t).max(axis=1))[[56, 57]] @ [0.05, 0.95]  # rank 0.95 of 61, from 1
        np.testing.assert_allclose(band[:, 1] - fit.coef[:, 1], q * fit.se_gls[:, 1])
        np.testing.assert_allclose(band.mean(axis=1), fit.coef[:, 1])
        inside = np.all(np.abs(found.coef[:, :, 1] - fit.coef[:, 1]) <= q * found.se[:, :, 1], axis=1)
        assert 0.93 < inside.mean() < 0.97
        np.testing.assert_allclose(found.band({"x1": -2}), -2 * band[:, ::-1])
    with pytest.raises(ValueError, match="simulated one by one in a parametric bootstrap"):
        fit.bootstrap(5, progress=False).band("x1")


@pytest.mark.parametrize("structure", ["weights", "slope", "missing", "own weights"])
def test_wild_replicates_flip_the_residuals_of_fits_without_each_block(structure: str) -> None:
    Y, options = data(), {}
    if structure == "missing":
        Y[[3, 17], 2] = np.nan
    if structure == "own weights":
        options["weights"] = np.exp(0.3 * np.sin(np.arange(48.0 * 4))).reshape(48, 4)
    fit = STRUCTURES[structure]() if structure in STRUCTURES else fitted(Y, **options)
    found = fit.bootstrap(3, kind="wild", seed=4, progress=False)
    signs = np.random.default_rng(4).integers(0, 2, (3, 8)) * 2.0 - 1.0
    drawn = np.tile(X @ fit.coef.T, (3, 1, 1))
    for block in range(8):
        rows = GROUP == block
        others = {"weights": fit.weights[~rows] if fit.weights is not None else None}
        if fit.design.weights is not None:
            others = {"weights": fit.design.weights[~rows]}
        if structure == "slope":
            others |= {"random": [jaxlmm.random_term(GROUP[~rows], X[~rows, :2], columns=["(Intercept)", "x"])]}
        else:
            others |= {"groups": GROUP[~rows]}
        without = jaxlmm.fit(X[~rows], Y[~rows], **others)
        drawn[:, rows] += signs[:, block, None, None] * (Y[rows] - X[rows] @ without.coef.T)
    options |= {"random": [slope()]} if structure == "slope" else {"groups": GROUP}
    options |= {"weights": fit.design.weights} if structure == "weights" else {}
    for i in range(3):
        expected = jaxlmm.fit(X, drawn[i], **options)
        np.testing.assert_allclose(found.coef[i], expected.coef, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found.sigma2[i], expected.sigma2, rtol=1e-6)


def test_wild_replicates_of_effects_that_one_block_alone_tells_keep_its_residuals() -> None:
    only = np.column_stack([X[:, :2], GROUP == 3])  # without block 3 its column is 0
    fit = jaxlmm.fit(only, data(), GROUP)
    found = fit.bootstrap(20, kind="wild", progress=False)
    assert np.isfinite(found.coef).all() and found.n_failed.sum() == 0


def test_cases_are_fits_of_blocks_that_were_drawn() -> None:
    fit = fitted()
    found = fit.bootstrap(2, kind="cases", seed=5, progress=False)
    rng = np.random.default_rng(5)
    for i in range(2):
        drawn = rng.integers(0, 8, 8)
        rows = np.concatenate([np.flatnonzero(GROUP == j) for j in drawn])
        one = jaxlmm.fit(X[rows], fit.Y[rows], np.repeat(np.arange(8), 6))
        np.testing.assert_allclose(found.coef[i], one.coef, rtol=1e-9)
        np.testing.assert_allclose(found.sigma2[i], one.sigma2, rtol=1e-9)


def unequal() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subjects of 5 to 9 rows, the sites within them (2 or 3), and a covariate."""
    subject = np.repeat(np.arange(7), [5, 9, 6, 8, 7, 9, 5])
    site = 3 * subject + np.arange(len(subject)) % (2 + subject % 2)
    return subject, site, np.sin(np.arange(len(subject)) ** 2)


def test_cases_of_unequal_blocks_are_fits_of_blocks_that_were_drawn() -> None:
    """Also where draws have other numbers of levels, and share what is compiled."""
    subject, site, x = unequal()
    X = np.column_stack([np.ones(len(x)), x])
    rng = np.random.default_rng(3)
    Y = rng.normal(size=(len(x), 4)) + rng.normal(size=(7, 4))[subject] + rng.normal(size=(21, 4))[site]
    random = [jaxlmm.random_term(site, name="site"), jaxlmm.random_term(subject, name="subject")]
    found = jaxlmm.fit(X, Y, random=random).bootstrap(3, kind="cases", seed=2, progress=False)
    rng, counts = np.random.default_rng(2), set()
    for i in range(3):
        drawn = rng.integers(0, 7, 7)
        rows = np.concatenate([np.flatnonzero(subject == j) for j in drawn])
        copy = np.repeat(np.arange(7), [np.sum(subject == j) for j in drawn])
        again = [jaxlmm.random_term(100 * copy + site[rows], name="site"), jaxlmm.random_term(copy, name="subject")]
        one = jaxlmm.fit(X[rows], Y[rows], random=again)
        counts.add(one.design.random[0].n_levels)
        for name in ("coef", "sigma2", "theta"):
            ours, theirs = getattr(found, name)[i], getattr(one, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7 * np.abs(theirs).max())
    assert len(counts) > 1


def test_draws_of_cases_share_compiled_code() -> None:
    subject, site, x = unequal()
    terms = [jaxlmm.random_term(site, name="site"), jaxlmm.random_term(subject, name="subject")]
    design = make_design(np.column_stack([np.ones(len(x)), x]), None, random=terms)
    rows, rng, shapes, sizes = block_rows(subject), np.random.default_rng(0), set(), set()
    steps = [boot._step(term, rows) for term in design.random]
    for _ in range(40):
        drawn = rng.integers(0, 7, 7)
        copy = np.repeat(np.arange(7), [len(rows[j]) for j in drawn])
        one = boot._resampled(design, np.concatenate([rows[j] for j in drawn]), copy)
        made = make_family(boot._filled(one, steps))
        assert isinstance(made, RandomTerms)
        leaves, structure = jax.tree.flatten(made.kernel.core)
        shapes.add((structure, tuple(np.shape(leaf) for leaf in leaves)))
        sizes.add((one.n_obs, one.random[0].n_levels))
    assert len(shapes) <= 5 and len(sizes) > 20


def test_responses_without_a_fit_and_blocks_that_cannot_be_left_out() -> None:
    Y = data()
    Y[:, 2] = 5.0
    only = (GROUP == 0) * X[:, 1]  # of one group alone
    fit = jaxlmm.fit(np.column_stack([X, only]), Y, GROUP)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit.bootstrap(30, progress=False)
        limits, se = found.conf_int(method="bca"), found.standard_error()
    good = [0, 1, 3]
    assert np.isnan(limits[2]).all() and np.isnan(se[2]).all()
    assert np.all(limits[good, :, 0] < limits[good, :, 1])
    np.testing.assert_allclose(se[good], np.std(found.coef[:, good], axis=0, ddof=1))
    a = found._acceleration("coef")
    left = np.stack([
        jaxlmm.fit(np.column_stack([X, only])[GROUP != g], Y[GROUP != g], GROUP[GROUP != g]).coef for g in range(1, 8)
    ])  # fmt: skip
    off = (left.mean(axis=0) - left)[:, good]
    np.testing.assert_allclose(a[good], (off**3).sum(0) / (6 * (off**2).sum(0) ** 1.5), rtol=1e-6, atol=1e-9)


def test_acceleration_with_own_weights_is_that_of_fits_without_each_block() -> None:
    W = np.random.default_rng(1).uniform(0.5, 2, (48, 4))
    W[3, 1] = 0
    found = fitted(weights=W).bootstrap(1, progress=False)
    left = np.stack([
        jaxlmm.fit(X[GROUP != g], data()[GROUP != g], GROUP[GROUP != g], weights=W[GROUP != g]).coef for g in range(8)
    ])  # fmt: skip
    off = left.mean(axis=0) - left
    np.testing.assert_allclose(found._acceleration("coef"), (off**3).sum(0) / (6 * (off**2).sum(0) ** 1.5), rtol=1e-6)


def test_what_replicates_do_not_keep_is_nan() -> None:
    found = fitted().bootstrap(2, progress=False)
    assert np.isnan(found.replicates("aic")[0]).all()
    df = found.replicates("df")[0]  # 45 where singular, without a look at the curvature
    np.testing.assert_array_equal(np.isnan(df[:, :, 0]), found.theta[:, :, 0] > 0)
    assert np.isfinite(found.replicates("vcov")[0]).all()


BAD = {
    "kind": (lambda f: f.bootstrap(5, kind="jackknife"), "kind must be one of 'parametric', 'wild', 'cases'"),
    "n": (lambda f: f.bootstrap(0), "n must be at least 1, found 0"),
    "memory": (lambda f: f.bootstrap(10**9), "replicates of 4 responses take"),
    "few blocks": (
        lambda f: fitted(random=[GROUP, np.arange(48) % 6]).bootstrap(5, kind="wild", progress=False),
        "has 1, fewer than 5; use kind='parametric'",
    ),
    "acceleration": (
        lambda f: fitted(random=[GROUP, np.arange(48) % 6]).bootstrap(2, progress=False).conf_int(method="bca"),
        "method='bca' leaves out independent blocks of observations, of which .* has 1, fewer than 5; use method='p",
    ),
    "method": (
        lambda f: f.bootstrap(5, progress=False).conf_int(method="exact"),
        "method must be one of 'percentile'",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str) -> None:
    call, message = BAD[what]
    with pytest.raises(ValueError, match=message) as raised:
        call(fitted())
    assert "\n" not in str(raised.value)
