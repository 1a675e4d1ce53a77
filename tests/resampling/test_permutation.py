"""Permutation tests: what is drawn, what is refitted, and p-values against brute force and MNE."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

import jaxlmm
from jaxlmm.design.design import make_design
from jaxlmm.resampling import maps as neighbours
from jaxlmm.resampling import refit
from jaxlmm.resampling.contrast import find_contrast, make_tested
from jaxlmm.resampling.corrections import exceedances
from jaxlmm.resampling.draws import Draws, make_draws
from jaxlmm.resampling.maps import enhance, find_clusters, largest_clusters, make_adjacency
from jaxlmm.resampling.refit import prepare_refits
from jaxlmm.resampling.schemes import choose_scheme
from jaxlmm.resampling.whitening import make_roots
from jaxlmm.tabular.labels import Labels

SUBJECTS, TRIALS = 6, 6
GROUP = np.repeat(np.arange(SUBJECTS), TRIALS)
COND = np.tile([0.0, 1.0], SUBJECTS * TRIALS // 2)
BETWEEN = (GROUP % 2).astype(float)
AGE = np.sin(1.0 + GROUP)
SLOPE = np.column_stack([np.ones(len(GROUP)), COND])


def data(m: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    Y = rng.normal(size=(len(GROUP), m)) + rng.normal(size=(SUBJECTS, m))[GROUP]
    return Y + 0.7 * COND[:, None] * np.arange(m) / m


def fitted(*columns: np.ndarray, Y: np.ndarray | None = None, **options: Any) -> jaxlmm.Fit:
    X = np.column_stack([np.ones(len(GROUP)), *columns])
    if "random" not in options:
        options.setdefault("groups", GROUP)
    return jaxlmm.fit(X, data() if Y is None else Y, **options)


def slope() -> Any:
    return jaxlmm.random_term(GROUP, SLOPE, name="subject", columns=["(Intercept)", "cond"])


def run(fit: jaxlmm.Fit, tested: Any, n: int = 40, **options: Any) -> jaxlmm.PermutationTest:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jaxlmm.permutation_test(fit, tested, n, progress=False, **options)


def all_statistics(fit: jaxlmm.Fit, tested: Any, draws: Draws, scheme: str = "auto") -> np.ndarray:
    hypothesis = make_tested(fit.design, *find_contrast(fit.design, tested))
    chosen = choose_scheme(hypothesis, scheme, None, signed=False)
    refits = prepare_refits(hypothesis, chosen, fit.method)
    return refits.statistics(fit.Y, np.arange(fit.n_responses), draws).values


# -- the statistic -----------------------------------------------------------------------------------


def test_observed_statistics_are_those_of_the_fit() -> None:
    fit = fitted(COND, AGE)
    np.testing.assert_allclose(run(fit, "x1").statistic, fit.statistic[:, 1], rtol=1e-9)
    L = {"x1": 2, "x2": -1}
    np.testing.assert_allclose(run(fit, L).statistic, fit.test(L).statistic[:, 0], rtol=1e-8)
    several = run(fit, [{"x1": 1}, {"x2": 1}])
    plain = fit.with_df("normal").ftest([{"x1": 1}, {"x2": 1}])
    np.testing.assert_allclose(several.statistic, plain.statistic, rtol=1e-8)
    assert several.letter == "F" and several.name == "x1 and x2"
    Y = data()
    Y[:9, 1], Y[20, 3] = np.nan, np.nan
    fit = fitted(COND, AGE, Y=Y)
    several = run(fit, [{"x1": 1}, {"x2": 1}], n=3, scheme="sign-flip")
    plain = fit.with_df("normal").ftest([{"x1": 1}, {"x2": 1}])
    np.testing.assert_allclose(several.statistic, plain.statistic, rtol=1e-8)


def test_labels_permuted_are_fits_of_permuted_labels() -> None:
    fit = fitted(COND)
    rng = np.random.default_rng(3)
    orders = np.stack(
        [np.concatenate([g * TRIALS + rng.permutation(TRIALS) for g in range(SUBJECTS)]) for _ in range(4)]
    )
    found = all_statistics(fit, "x1", Draws(orders, False))
    for order, values in zip(orders, found, strict=True):
        labels = np.empty_like(COND)
        labels[order] = COND  # row order[i] of Y takes the place of row i, and its label
        np.testing.assert_allclose(values, fitted(labels).statistic[:, 1], rtol=1e-8)


STRUCTURES = {
    "intercept": lambda: fitted(COND, AGE),
    "weights": lambda: fitted(COND, AGE, weights=0.5 + (np.arange(len(GROUP)) % 5)),
    "slope": lambda: fitted(COND, AGE, random=[slope()]),
    "nested": lambda: fitted(COND, AGE, random=[GROUP, GROUP * 2 + (np.arange(len(GROUP)) % TRIALS < 3)]),
    "none": lambda: fitted(COND, AGE, groups=None),
    "ml": lambda: fitted(COND, AGE, method="ML"),
}  # fmt: skip


@pytest.mark.parametrize("structure", STRUCTURES)
def test_signs_by_coordinates_are_signs_of_rows(structure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = STRUCTURES[structure]()
    hypothesis = make_tested(fit.design, *find_contrast(fit.design, "x1"))
    scheme = choose_scheme(hypothesis, "sign-flip", None, signed=False)
    draws = make_draws(scheme, hypothesis, 7, 1, signed=False)
    monkeypatch.setattr(refit, "WORTH_IT", 1e9)
    fast = all_statistics(fit, "x1", draws, "sign-flip")
    monkeypatch.setattr(refit, "WORTH_IT", 0)
    slow = all_statistics(fit, "x1", draws, "sign-flip")
    np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-7)
    # By hand: residuals of the fit without x1, signs of the subjects changed, the whole model fitted.
    reduced = jaxlmm.fit(
        fit.design.X[:, [0, 2]],
        fit.Y,
        random=list(fit.design.random) or None,
        groups=None,
        method=fit.method,
        weights=fit.design.weights,
    )
    residuals = fit.Y - reduced.fitted(random=False)
    again = jaxlmm.fit(
        fit.design.X,
        draws.values[2][scheme.blocks][:, None] * residuals,
        random=list(fit.design.random) or None,
        method=fit.method,
        weights=fit.design.weights,
    )
    np.testing.assert_allclose(fast[2], again.statistic[:, 1], rtol=1e-6, atol=1e-7)


def test_responses_that_miss_observations_are_drawn_with_their_own_rows() -> None:
    Y = data()
    Y[3, 1] = np.nan
    fit = fitted(COND, Y=Y)
    whole, alone = run(fit, "x1", scheme="sign-flip"), run(fit.select([1]), "x1", scheme="sign-flip")
    np.testing.assert_allclose(whole.pvalue[[1]], alone.pvalue)
    rest = run(fitted(COND, Y=Y[:, [0, 2, 3, 4]]), "x1", scheme="sign-flip")
    np.testing.assert_allclose(whole.pvalue[[0, 2, 3, 4]], rest.pvalue)
    with pytest.raises(ValueError, match=r"1 of the responses miss observations, the first 'y1'.*'within' or 'sign"):
        run(fit, "x1", scheme="whitened")


def test_missing_observations_are_refused_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of crossed factors and an effect between subjects there is no other scheme, and none is recommended."""
    Y = data()
    Y[3, 1] = np.nan
    fit = fitted(BETWEEN, Y=Y, random=[GROUP, np.arange(len(GROUP)) % 4])
    monkeypatch.setattr("jaxlmm.resampling.permutation.make_draws", None)
    with pytest.raises(ValueError, match=r"select\(~fit.incomplete\); the design allows no other scheme"):
        run(fit, "x1")


def test_roots_of_the_covariance() -> None:
    for fit in (STRUCTURES["slope"](), STRUCTURES["weights"]()):
        roots = make_roots(fit.design, fit.theta)
        root_w = roots.root_w[:, 0]
        r = data(seed=5)
        np.testing.assert_allclose(roots.colour(roots.whiten(r)), r, rtol=1e-9, atol=1e-12)
        for j in (0, 3):
            covariance = fit.varcorr[next(iter(fit.varcorr))][j] / fit.sigma2[j]
            Z = np.zeros((len(GROUP), SUBJECTS, len(covariance)))
            Z[np.arange(len(GROUP)), GROUP] = fit.design.random[0].Z
            Z = Z.reshape(len(GROUP), -1) * root_w[:, None]
            V = np.eye(len(GROUP)) + Z @ np.kron(np.eye(SUBJECTS), covariance) @ Z.T
            expected = np.linalg.solve(np.real(scipy.linalg.sqrtm(V)), root_w * r[:, j])
            np.testing.assert_allclose(roots.whiten(r)[:, j], expected, rtol=1e-6, atol=1e-8)


# -- schemes -----------------------------------------------------------------------------------------


def chosen(fit: jaxlmm.Fit, tested: Any, **options: Any) -> Any:
    hypothesis = make_tested(fit.design, *find_contrast(fit.design, tested))
    return choose_scheme(hypothesis, options.pop("scheme", "auto"), options.pop("blocks", None), signed=False)


def test_the_design_chooses_the_scheme() -> None:
    many = np.repeat(np.arange(12), 3)
    between = (many % 2).astype(float)
    assert chosen(fitted(COND), "x1").text == "labels of 'x1' permuted within the levels of group."
    assert chosen(fitted(COND, np.cos(np.arange(len(GROUP)))), "x1").text.startswith("residuals of the model")
    other = (np.arange(len(GROUP)) % TRIALS < 3) * 1.0
    beside = fitted(COND, other)
    assert chosen(beside, "x1").text.startswith("residuals of the model")
    assert chosen(beside, "x1", blocks=2 * GROUP + other).text == "labels of 'x1' permuted within the given blocks."
    X = np.column_stack([np.ones(36), between])
    Y = np.random.default_rng(0).normal(size=(36, 2))
    assert chosen(jaxlmm.fit(X, Y, many), "x1").kind == "whole"
    site = 2 * many + ((np.arange(36) % 3 == 0) ^ (many % 2 == 0))  # in every second block in another order
    nested = make_design(X, None, random=[jaxlmm.random_term(many, name="a"), jaxlmm.random_term(site, name="b")])
    tested = make_tested(nested, *find_contrast(nested, "x1"))
    assert choose_scheme(tested, "auto", None, signed=False).kind == "whole"
    one = jaxlmm.fit(np.column_stack([np.ones(36), GROUP == 0]), Y, GROUP)
    assert chosen(one, "x1").kind == "sign-flip"  # one of six: whole blocks have six distinct orders
    kept = np.arange(36) != 4  # blocks of unequal size
    assert chosen(jaxlmm.fit(X[kept], Y[kept], many[kept]), "x1").kind == "sign-flip"
    assert chosen(fitted(COND, random=[slope()]), "x1").kind == "sign-flip"
    crossed = [GROUP, np.arange(len(GROUP)) % TRIALS]
    assert chosen(fitted(np.cos(np.arange(len(GROUP)) ** 2), random=crossed), "x1").kind == "whitened"
    one_sample = jaxlmm.fit(np.ones((36, 1)), Y, groups=None)
    assert chosen(one_sample, "x0").kind == "sign-flip" and chosen(one_sample, "x0").n_blocks == 36


def test_all_draws_are_all_that_differ() -> None:
    codes, x = np.repeat([0, 1], 4), np.array([0, 0, 1, 1, 0, 1, 1, 1.0])
    design = make_design(np.column_stack([np.ones(8), x]), codes)
    hypothesis = make_tested(design, *find_contrast(design, "x1"))
    scheme = choose_scheme(hypothesis, "within", None, signed=False)
    assert scheme.n_distinct == 6 * 4
    draws = make_draws(scheme, hypothesis, 100, 0, signed=False)
    assert draws.exhaustive and draws.n == 24
    np.testing.assert_array_equal(draws.values[0], np.arange(8))
    made = set()
    for order in draws.values:
        labels = np.empty(8)
        labels[order] = x
        made.add(tuple(labels))
    every = {p + q for p in itertools.permutations(x[:4]) for q in itertools.permutations(x[4:])}
    assert made == every
    one = make_tested(make_design(np.ones((6, 1))), "x0", np.eye(1))
    flips = make_draws(choose_scheme(one, "sign-flip", None, signed=False), one, 100, 0, signed=False)
    assert flips.exhaustive and flips.n == 32 and len({tuple(d) for d in flips.values}) == 32


def test_exhaustive_p_values_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(2)
    codes, x = np.repeat(np.arange(3), 4), np.tile([0, 0, 1, 1.0], 3)
    Y = rng.normal(size=(12, 3)) + rng.normal(size=(3, 3))[codes] + 0.8 * x[:, None]
    fit = jaxlmm.fit(np.column_stack([np.ones(12), x]), Y, codes)
    found = run(fit, "x1", 1000)
    ways = sorted(set(itertools.permutations([0, 0, 1, 1.0])))
    null = np.array([
        jaxlmm.fit(np.column_stack([np.ones(12), np.concatenate(labels)]), Y, codes).statistic[:, 1]
        for labels in itertools.product(ways, repeat=3)
    ])  # fmt: skip
    size = np.abs(fit.statistic[:, 1])
    assert found.n == 216 and found.exhaustive
    np.testing.assert_allclose(found.pvalue, np.mean(np.abs(null) >= size * (1 - 1e-9), axis=0))
    largest = np.abs(null).max(axis=1)
    np.testing.assert_allclose(found.pvalue_corrected, np.mean(largest[:, None] >= size * (1 - 1e-9), axis=0))
    assert np.all((found.pvalue_corrected <= 0.05) == (found.score >= found.critical(0.05)))


def test_the_data_are_one_of_all_draws_whatever_the_variance_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    Y = np.concatenate([data(4), data(4) + np.repeat([1e4, 3e7], 2) * rng.normal(size=(SUBJECTS, 4))[GROUP]], axis=1)
    found = run(fitted(COND, Y=Y), "x1", 40, scheme="sign-flip")
    assert found.exhaustive and found.n == 32
    assert found.pvalue.min() >= 1 / 32 and found.pvalue_corrected.min() >= 1 / 32
    assert np.all((found.pvalue_corrected <= 0.2) == (found.score >= found.critical(0.2)))
    monkeypatch.setattr(refit, "WORTH_IT", 0)
    rows = run(fitted(COND, Y=Y), "x1", 40, scheme="sign-flip")
    np.testing.assert_array_equal(found.pvalue, rows.pvalue)
    np.testing.assert_allclose(found.null, rows.null, rtol=1e-6)


# -- corrections -------------------------------------------------------------------------------------


def test_step_down_is_between_uncorrected_and_single_step() -> None:
    fit = fitted(COND)
    single, stepwise = run(fit, "x1", 99), run(fit, "x1", 99, step_down=True)
    np.testing.assert_array_equal(single.pvalue, stepwise.pvalue)
    assert np.all(stepwise.pvalue_corrected <= single.pvalue_corrected)
    assert np.all(stepwise.pvalue_corrected >= stepwise.pvalue)
    order = np.argsort(-stepwise.score)
    assert np.all(np.diff(stepwise.pvalue_corrected[order]) >= 0)
    assert stepwise.pvalue_corrected[order[0]] == single.pvalue_corrected[order[0]]
    assert "at 0.05 or below, step by step." in str(stepwise) and "on." in str(single)


def test_tails() -> None:
    fit = fitted(COND)
    two, up, down = (run(fit, "x1", 99, tail=tail) for tail in ("two-sided", "greater", "less"))
    mirrored = run(fitted(COND, Y=-data()), "x1", 99, tail="greater")
    np.testing.assert_array_equal(down.pvalue, mirrored.pvalue)
    np.testing.assert_array_equal(down.pvalue_corrected, mirrored.pvalue_corrected)
    np.testing.assert_allclose(two.score, np.abs(up.score))
    with pytest.raises(ValueError, match="F has no direction"):
        run(fitted(COND, AGE), [{"x1": 1}, {"x2": 1}], tail="less")


def test_exceedances_count_ties() -> None:
    np.testing.assert_array_equal(
        exceedances(np.array([1.0, 2.0, 2.0, 3.0]), np.array([0.5, 2.0, 2.0 * (1 + 1e-8), 3.1])), [4, 3, 3, 0]
    )


# -- neighbours, clusters, enhancement against MNE ----------------------------------------------------

SHAPE = (5, 6, 7)


@pytest.fixture(scope="module")
def sample() -> tuple[np.ndarray, np.ndarray]:
    """Eight observations of a map with an effect, and a matrix of neighbours of its first dimension."""
    rng = np.random.default_rng(4)
    Y = rng.normal(size=(8, *SHAPE)) + rng.normal(size=(8, *SHAPE[:1], 1, 1))
    Y[:, 1:3, 2:5, 1:4] += 1.5
    Y[:, 4, :2, 5:] -= 1.3
    near = np.zeros((5, 5))
    for a, b in ((0, 1), (1, 2), (2, 4), (0, 3)):
        near[a, b] = near[b, a] = 1
    return Y, near


def one_sample(Y: np.ndarray) -> jaxlmm.Fit:
    return jaxlmm.fit(np.ones((len(Y), 1)), Y, groups=None, names=["mean"], dims=["channel", "frequency", "time"])


def mne_test(Y: np.ndarray, near: np.ndarray, threshold: Any, tail: int = 0) -> Any:
    adjacency = mne.stats.combine_adjacency(scipy.sparse.coo_array(near), *SHAPE[1:])
    return mne.stats.permutation_cluster_1samp_test(
        Y, threshold=threshold, n_permutations=1024, tail=tail, adjacency=adjacency, out_type="mask",
        verbose="error", seed=0,
    )  # fmt: skip


def test_clusters_and_their_p_values_are_those_of_mne(sample: Any) -> None:
    Y, near = sample
    fit = one_sample(Y)
    found = run(fit, "mean", 1024, statistic="cluster", threshold=2.0, adjacency={"channel": near})
    t, clusters, p, _ = mne_test(Y, near, 2.0)
    np.testing.assert_allclose(found.statistic.reshape(SHAPE), t, rtol=1e-9)
    assert found.exhaustive and found.n == 128 and len(clusters) == len(found.mass)
    mine = {}
    for k in range(len(found.mass)):
        mine[np.flatnonzero(found.cluster == k + 1).tobytes()] = (found.mass[k], found.cluster_pvalue[k])
    for mask, pvalue in zip(clusters, p, strict=True):
        mass, own = mine[np.flatnonzero(np.ravel(mask)).tobytes()]
        np.testing.assert_allclose(mass, t[mask].sum(), rtol=1e-9)
        np.testing.assert_allclose(own, pvalue, rtol=1e-9)
    table = found.clusters()
    assert list(table["size"]) == list(found.size) and set(table) >= {"mass", "peak channel", "time from", "time to"}


def test_enhancement_is_that_of_mne(sample: Any) -> None:
    Y, near = sample
    fit = one_sample(Y)
    found = run(fit, "mean", 1024, statistic="tfce", dh=0.2, adjacency={"channel": near})
    score, _, p, _ = mne_test(Y, near, dict(start=0, step=0.2))
    np.testing.assert_allclose(found.score.reshape(SHAPE), score, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.pvalue_corrected, p, rtol=1e-9)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_exact_enhancement_is_the_integral(start: float, sample: Any) -> None:
    Y, near = sample
    fit = one_sample(Y)
    adjacency = make_adjacency(fit.labels, {"channel": near})
    values = fit.statistic[:, 0].copy()
    values[3] = np.nan
    # Between two heights that occur, the cluster of a response has one extent.
    expected = np.zeros(len(values))
    for sign in (1, -1):
        height = np.where(np.isnan(values), -np.inf, sign * values)
        levels = np.concatenate([[start], np.unique(height[height > start])])
        for low, high in itertools.pairwise(levels):
            inside = height > low
            extent = np.bincount(adjacency.labels(inside)[1])[adjacency.labels(inside)[1]]
            expected[inside] += sign * extent**0.5 * (high**3 - low**3) / 3
    expected[3] = np.nan
    found = enhance(values, adjacency, E=0.5, H=2.0, start=start, dh=None, signs=(1, -1))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_neighbours() -> None:
    labels = Labels(("channel", "time"), (3, 4))
    line = make_adjacency(labels, {"channel": "none"})
    assert len(line.first) == 3 * 3 and line.text == "channel: no neighbours; time: next to each other"
    both = make_adjacency(labels, None)
    assert len(both.first) == 3 * 3 + 2 * 4
    label, mass = find_clusters(
        np.array([3.0, -3, np.nan, 3, 3, 0, 0, 3, 0, 0, 0, 0]), np.full(12, 2.0), both, size=True, signs=(1, -1)
    )
    np.testing.assert_array_equal(label, [0, 2, -1, 1, 0, -1, -1, 1, -1, -1, -1, -1])
    np.testing.assert_array_equal(mass, [2, 2, -1])


@pytest.mark.parametrize("size", [False, True])
@pytest.mark.parametrize("dims", ["line", "three dimensions", "no neighbours"])
def test_clusters_of_many_maps_are_those_of_each(dims: str, size: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    near = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    adjacency = {
        "line": lambda: make_adjacency(Labels(("time",), (24,)), None),
        "three dimensions": lambda: make_adjacency(Labels(("channel", "f", "time"), (3, 2, 4)), {"channel": near}),
        "no neighbours": lambda: make_adjacency(Labels(("time",), (24,)), "none"),
    }[dims]()
    rng = np.random.default_rng(7)
    maps = rng.normal(size=(50, 24))
    maps[rng.random(maps.shape) < 0.1] = np.nan
    maps[3], maps[4] = np.nan, 0.0
    cut = rng.uniform(0.3, 1.0, 24)
    for signs in ((1,), (1, -1)):
        how = dict(size=size, signs=signs)
        each = [np.abs(find_clusters(one, cut, adjacency, **how)[1]).max(initial=0.0) for one in maps]
        assert max(each) > min(each) == 0
        for together in (neighbours.PAIRS, 100):  # all at once, and four
            monkeypatch.setattr(neighbours, "PAIRS", together)
            np.testing.assert_array_equal(largest_clusters(maps, cut, adjacency, **how), each)


# -- the same whatever the way there -------------------------------------------------------------------


def test_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fitted(COND, AGE)
    for scheme in ("sign-flip", "within", "whitened"):
        whole = run(fit, "x1", 30, scheme=scheme)
        monkeypatch.setattr(refit, "BYTES", 8 * len(GROUP) * 9)
        parts = run(fit, "x1", 30, scheme=scheme)
        monkeypatch.undo()
        np.testing.assert_array_equal(whole.pvalue, parts.pvalue)
        np.testing.assert_array_equal(whole.pvalue_corrected, parts.pvalue_corrected)
        np.testing.assert_allclose(whole.null, parts.null, rtol=1e-9)
    assert not np.array_equal(run(fit, "x1", 30, seed=1).null, run(fit, "x1", 30).null)


def test_a_stopped_test_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fitted(COND)
    monkeypatch.setattr(refit, "BYTES", 8 * len(GROUP) * 4)  # a piece for each response
    expected = run(fit, "x1", 30)
    draw, calls = refit.Refits._draw, []

    def stops(self: Any, *args: Any, **options: Any) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(0)
        draw(self, *args, **options)

    monkeypatch.setattr(refit.Refits, "_draw", stops)
    out = tmp_path / "draws"
    with pytest.raises(KeyboardInterrupt):
        run(fit, "x1", 30, out=out)
    assert len(list(out.glob("piece-*.npz"))) == 2
    whole = (out / "piece-000001.npz").read_bytes()
    (out / "piece-000001.npz").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(refit.Refits, "_draw", lambda self, *a, **k: (calls.append(1), draw(self, *a, **k))[1])
    found = run(fit, "x1", 30, out=out)
    assert calls.count(1) == 4  # all but the first
    np.testing.assert_array_equal(found.null, expected.null)
    with pytest.raises(ValueError, match="holds the draws of another test: seed, data differ"):
        run(fit, "x1", 30, out=out, seed=1)
    with pytest.raises(ValueError, match="holds no permutation test"):
        run(fit, "x1", 30, out=tmp_path)


def test_failed_responses_are_left_out() -> None:
    Y = data()
    Y[:, 2] = 1.0
    found = run(fitted(COND, Y=Y), "x1")
    alone = run(fitted(COND, Y=np.delete(Y, 2, axis=1)), "x1")
    assert np.isnan(found.pvalue[2]) and np.isnan(found.pvalue_corrected[2])
    np.testing.assert_array_equal(np.delete(found.pvalue_corrected, 2), alone.pvalue_corrected)
    assert "1 responses have no fit and were left out." in str(found)
    found.n_singular[0] = 3
    assert f"Of {4 * found.n} refits 3 were singular (kept), 0 failed" in str(found)


def test_results_are_labelled() -> None:
    fit = fitted(
        COND,
        Y=data(6).reshape(-1, 2, 3),
        dims=["channel", "time"],
        coords={"channel": ["Fz", "Cz"], "time": [0.1, 0.2, 0.3]},
    )
    found = run(fit, "x1", statistic="cluster", threshold=1.0)
    made = found.to_dataset()
    assert made.pvalue_corrected.dims == ("channel", "time") and list(made.channel.values) == ["Fz", "Cz"]
    assert list(found.tidy().columns) == [
        "channel",
        "time",
        "statistic",
        "p.value",
        "score",
        "p.corrected",
        "cluster",
    ]
    assert "channel: no neighbours; time: next to each other" in str(found)
    assert "permuted within the levels of group" in str(found.summary("Cz, 0.2"))


# -- bad input ---------------------------------------------------------------------------------------

BAD = {
    "unknown term": (
        lambda f: run(f, "nothing"),
        "'nothing' is no term and no coefficient of the model; it has the terms x1",
    ),
    "unknown scheme": (lambda f: run(f, "x1", scheme="bootstrap"), "scheme must be one of 'auto', 'within'"),
    "few distinct draws": (
        lambda f: run(f, "x1", scheme="sign-flip", blocks=GROUP // 2),
        "scheme 'sign-flip' has 4 distinct draws for 'x1', fewer than 20",
    ),
    "term constant in cells": (
        lambda f: run(fitted(BETWEEN), "x1", scheme="within"),
        "'x1' is constant within the levels of group",
    ),
    "slopes not exchangeable": (
        lambda f: run(fitted(COND, random=[slope()]), "x1", scheme="within"),
        "differ in their random effects",
    ),
    "crossed signs": (
        lambda f: run(fitted(COND, random=[GROUP, np.arange(36) % TRIALS]), "x1", scheme="sign-flip"),
        "the grouping factors are crossed",
    ),
    "blocks that share levels": (
        lambda f: run(f, "x1", scheme="sign-flip", blocks=np.arange(36)),
        "the given blocks share levels",
    ),
    "blocks too short": (lambda f: run(f, "x1", blocks=[1, 2]), "one label for each of the 36 observations"),
    "unequal blocks": (
        lambda f: run(f, "x1", scheme="whole", blocks=GROUP * (GROUP > 1)),
        "differ in their number of rows",
    ),
    "unknown dimension": (
        lambda f: run(f, "x1", statistic="cluster", adjacency={"time": "line"}),
        "adjacency names the dimension 'time'; the responses have response",
    ),
    "matrix of another size": (
        lambda f: run(f, "x1", statistic="tfce", adjacency=np.eye(3)),
        r"has shape \(3, 3\), but there are 5",
    ),
    "matrix not symmetric": (
        lambda f: run(f, "x1", statistic="tfce", adjacency=np.triu(np.ones((5, 5)))),
        "is not symmetric",
    ),
    "bad threshold": (
        lambda f: run(f, "x1", statistic="cluster", threshold=-2),
        "threshold must be a number above 0, found -2",
    ),
    "bad step": (lambda f: run(f, "x1", statistic="tfce", dh=0), "dh must be a number above 0, found 0"),
    "no draws": (lambda f: run(f, "x1", 0), "n must be at least 1, found 0"),
    "unknown statistic": (
        lambda f: run(f, "x1", statistic="mean"),
        "statistic must be one of 'max', 'cluster', 'tfce'",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str) -> None:
    call, message = BAD[what]
    with pytest.raises(ValueError, match=message) as raised:
        call(fitted(COND))
    assert "\n" not in str(raised.value)


def test_too_few_draws_for_the_level_are_said() -> None:
    with pytest.warns(UserWarning, match=r"with n=9 the smallest possible p-value is 0.1, above alpha=0.05; draw 20"):
        jaxlmm.permutation_test(fitted(COND), "x1", 9, progress=False)


def test_pictures() -> None:
    pytest.importorskip("xarray")
    import matplotlib.pyplot as plt

    Y = data(6)
    Y[:, :2] += 2 * COND[:, None]
    fit = fitted(COND, Y=Y.reshape(-1, 2, 3), dims=["channel", "time"], coords={"time": [0.1, 0.2, 0.3]})
    found = run(fit, "x1", 99, statistic="cluster", threshold=2.0)
    ax = jaxlmm.plots.cluster_map(found)
    numbers = [text.get_text() for text in ax.texts]
    assert numbers == [str(k + 1) for k in np.flatnonzero(found.cluster_pvalue <= 0.05)] and numbers
    ax = jaxlmm.plots.null_distribution(found)
    assert sum(patch.get_height() for patch in ax.patches) == found.n
    assert {line.get_xdata()[0] for line in ax.lines} == {found.critical(0.05), found.score.max()}
    with pytest.raises(ValueError, match="a map needs two dimensions, the responses have 1: response"):
        jaxlmm.plots.cluster_map(run(fitted(COND), "x1"))
    plt.close("all")


def test_time_course() -> None:
    import matplotlib.pyplot as plt

    fit = fitted(COND, Y=data(6), dims=["time"], coords={"time": np.arange(6) / 10})
    found = run(fit, "x1", 99)
    band = np.column_stack([fit.coef[:, 1] - 1, fit.coef[:, 1] + 1])
    ax = jaxlmm.plots.time_course(fit, "x1", band, test=found)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), fit.coef[:, 1])
    marked = np.isfinite(ax.lines[-1].get_ydata()) if np.any(found.pvalue_corrected <= 0.05) else np.zeros(6, bool)
    np.testing.assert_array_equal(marked, found.pvalue_corrected <= 0.05)
    with pytest.raises(ValueError, match=r"band must be \(6, 2\)"):
        jaxlmm.plots.time_course(fit, "x1", band[:3])
    plt.close("all")
