"""A response with missing observations is fitted as if these rows had never been there, whatever the data are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from adversarial import oracle
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxlmm
from jaxlmm import Status
from jaxlmm.families.own import incomplete, on_basis, reduce

COLUMNS = ("plain", "outlier", "group", "nearly group", "far", "only here", "varies only here", "one group")


@dataclass(frozen=True)
class Case:
    """A design, responses with missing rows, and how large they are beside the noise."""

    X: np.ndarray
    Y: np.ndarray
    groups: np.ndarray | None
    weights: np.ndarray | None
    ratio: float

    def dropped(self, i: int, method: str) -> jaxlmm.Fit | None:
        """Response i with its rows dropped by hand; None where that is no design."""
        rows = ~np.isnan(self.Y[:, i])
        groups = None if self.groups is None else self.groups[rows]
        weights = None if self.weights is None else self.weights[rows]
        try:
            return jaxlmm.fit(self.X[rows], self.Y[rows, i], groups, weights=weights, method=method)
        except ValueError:
            return None


def column(kind: str, rng: np.random.Generator, codes: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """A covariate; ``gone`` are rows that the first responses miss."""
    n, G = len(codes), codes.max() + 1
    x, level = rng.normal(size=n), rng.normal(size=G)[codes]
    if kind == "outlier":
        x[gone[0]] = rng.choice([1e3, 99999.0, -1e7])
    elif kind == "group":
        x = level
    elif kind == "nearly group":
        x = level + 10.0 ** -rng.integers(2, 6) * x
    elif kind == "far":
        x += 10.0 ** rng.integers(3, 8)
    elif kind == "only here":
        x = np.zeros(n)
        x[gone] = rng.normal(size=len(gone))
    elif kind == "varies only here":
        x = level.copy()
        x[gone] += rng.normal(size=len(gone))
    elif kind == "one group":
        x = (codes == codes[gone[0]]) * 1.0
    return x


def make_case(
    seed: int,
    kinds: list[str],
    intercept: bool,
    grouped: bool,
    weighted: bool,
    signal: float,
    ratio: float,
    scale: float,
) -> Case:
    """``signal`` and ``ratio``: of the fixed effects' and the groups' standard deviation to the noise's."""
    rng = np.random.default_rng(seed)
    G = int(rng.integers(5, 12))
    codes = np.sort(np.r_[np.arange(G), np.arange(G), rng.integers(0, G, rng.integers(G, 5 * G))])
    codes = rng.permutation(codes)
    n, m = len(codes), 6
    gone = rng.choice(n, 2, replace=False)
    columns = [column(kind, rng, codes, gone) for kind in kinds]
    X = np.column_stack([np.ones(n), *columns] if intercept or not columns else columns)
    beta = rng.normal(size=(X.shape[1], m)) / np.maximum(np.abs(np.delete(X, gone, axis=0)).max(axis=0), 1)[:, None]
    Y = rng.normal(size=(n, m)) + signal * X @ beta + ratio * rng.normal(size=(G, m))[codes]
    Y[:, 4] = ratio * rng.normal(size=G)[codes]
    Y[:, 5] = X @ beta[:, 5]
    missing = rng.random((n, m)) < rng.choice([0.0, 0.05, 0.3], m)
    missing[gone] = True
    missing[:, 3] |= codes == codes[gone[0]]
    Y[missing] = np.nan
    weights = rng.uniform(0.2, 5, n) if weighted else None
    return Case(X, scale * Y, codes if grouped else None, weights, max(signal, ratio, 1.0))


def agree(case: Case, found: jaxlmm.Fit, i: int, method: str, at: int | None = None) -> None:
    """Response ``at`` of ``found`` is response i of the case with its rows dropped."""
    at = i if at is None else at
    by_hand = case.dropped(i, method)
    if by_hand is None:
        assert found.status[at] == Status.TOO_FEW, Status(found.status[at]).name
        return
    assert found.status[at] == by_hand.status[0], (Status(found.status[at]).name, Status(by_hand.status[0]).name)
    assert found.n_used[at] == by_hand.n_used[0]
    if not by_hand.converged[0]:
        assert np.isnan(found.coef[at]).all()
        return
    # y itself is known to this part of the noise.
    rounding = 1e-14 * case.ratio
    nu = by_hand.n_used[0]
    np.testing.assert_allclose(found.loglik[at], by_hand.loglik[0], rtol=0, atol=1e-8 + nu * rounding)
    size = by_hand.se[0] * 1e-7 + rounding * np.abs(by_hand.coef[0])
    assert (np.abs(found.coef[at] - by_hand.coef[0]) <= size).all(), (found.coef[at], by_hand.coef[0], by_hand.se[0])
    for name in ("sigma2", "se", "df") if by_hand.lam[0] < 1e8 else ("sigma2",):
        np.testing.assert_allclose(
            getattr(found, name)[at], getattr(by_hand, name)[0], rtol=1e-7 + rounding, err_msg=name
        )
    np.testing.assert_allclose(
        found.group_var[at], by_hand.group_var[0], rtol=1e-7 + rounding, atol=1e-7 * by_hand.sigma2[0]
    )


cases = st.builds(
    make_case,
    seed=st.integers(0, 2**32 - 1),
    kinds=st.lists(st.sampled_from(COLUMNS), max_size=3),
    intercept=st.booleans(),
    grouped=st.sampled_from([True, True, True, False]),
    weighted=st.sampled_from([False, False, True]),
    signal=st.sampled_from([0.0, 1.0, 1e2, 1e4, 1e6]),
    ratio=st.sampled_from([0.0, 0.5, 1e2, 1e4, 1e6]),
    scale=st.sampled_from([1.0, 1e-90, 1e90]),
)


@settings(max_examples=12, deadline=None)
@given(case=cases, method=st.sampled_from(["REML", "ML"]))
def test_every_kind_of_design(case: Case, method: str) -> None:
    try:
        found = jaxlmm.fit(case.X, case.Y, case.groups, weights=case.weights, method=method)
    except ValueError:
        return
    for i in range(case.Y.shape[1]):
        agree(case, found, i, method)


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("intercept", [True, False])
def test_each_kind_of_column(kind: str, intercept: bool) -> None:
    case = make_case(1, ["plain", kind], intercept, True, False, 1e3, 1e2, 1.0)
    found = jaxlmm.fit(case.X, case.Y, case.groups)
    for i in range(case.Y.shape[1]):
        agree(case, found, i, "REML")


@pytest.mark.parametrize("kind", ["plain", "outlier", "varies only here", "only here"])
def test_by_every_route(kind: str) -> None:
    """Alone, in a block, and as one of the many responses of a pattern."""
    case = make_case(2, [kind], True, True, False, 10.0, 1.0, 1.0)
    Y = np.repeat(case.Y[:, :1], 1100, axis=1) + np.linspace(0, 1, 1100)
    many, alone = jaxlmm.fit(case.X, Y, case.groups), jaxlmm.fit(case.X, case.Y[:, 0], case.groups)
    agree(case, many, 0, "REML", 0)
    agree(case, alone, 0, "REML", 0)
    agree(case, jaxlmm.fit(case.X, case.Y, case.groups), 0, "REML", 0)
    assert (many.status == many.status[0]).all()
    np.testing.assert_allclose(many.sigma2, alone.sigma2[0], rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("far", [0.0, 1e6])
@pytest.mark.parametrize(
    ("signal", "ratio"), [(1.0, 1.0), (1e4, 1.0), (1e6, 0.0), (1.0, 1e3), (1.0, 1e5), (1.0, 1e6), (1e4, 1e6)]
)
def test_against_sixty_digits(signal: float, ratio: float, far: float, weighted: bool) -> None:
    """X = [1, x, z, v]: x with an outlier that is missing, z constant within groups, v nearly so."""
    rng = np.random.default_rng(int(signal + ratio))
    codes = rng.permutation(np.r_[np.arange(8), rng.integers(0, 8, 40)])
    n, z, v = len(codes), rng.normal(size=8)[codes], rng.normal(size=8)[codes]
    X = np.column_stack([np.ones(n), far + z + rng.normal(size=n), z, v + 1e-3 * rng.normal(size=n)])
    X[5, 1] = 1e7
    w = rng.uniform(0.2, 5, n) if weighted else np.ones(n)
    Y = (
        rng.normal(size=(n, 3))
        + signal * X[:, [2]]
        + signal * (X[:, [1]] - far)
        + ratio * rng.normal(size=(8, 3))[codes]
    )
    Y[5], Y[rng.choice(n, 4, replace=False), 0], Y[codes == 2, 1] = np.nan, np.nan, np.nan
    found = jaxlmm.fit(X, Y, codes, weights=w if weighted else None)
    assert found.converged.all()
    for i, y in enumerate(Y.T):
        rows = ~np.isnan(y)
        loglik, sigma2, beta, se = oracle(X[rows], codes[rows], y[rows], found.lam[i], w[rows]).floats()
        np.testing.assert_allclose(found.loglik[i], loglik, rtol=0, atol=1e-8)
        np.testing.assert_allclose((found.coef[i] - beta) / se, 0.0, atol=1e-8)
        np.testing.assert_allclose(found.se[i], se, rtol=1e-8)
        np.testing.assert_allclose(found.sigma2[i], sigma2, rtol=1e-9)


def test_weights_of_each_response() -> None:
    """Weights of each response's own may be the same for all: a design that is made for them is only faster."""
    case = make_case(3, ["plain", "outlier", "group"], True, True, True, 1.0, 1.0, 1.0)
    assert case.weights is not None
    shared = jaxlmm.fit(case.X, case.Y, case.groups, weights=case.weights)
    each = jaxlmm.fit(case.X, case.Y, case.groups, weights=np.repeat(case.weights[:, None], case.Y.shape[1], axis=1))
    np.testing.assert_array_equal(each.status, shared.status)
    np.testing.assert_array_equal(each.n_used, shared.n_used)
    # The last two have nothing but roundings for residuals.
    for name in ("loglik", "coef", "se", "sigma2", "df"):
        np.testing.assert_allclose(getattr(each, name)[:4], getattr(shared, name)[:4], rtol=1e-7, err_msg=name)


def test_group_counts_are_those_of_the_rows_used(tmp_path: Path) -> None:
    case = make_case(4, ["plain"], True, True, False, 1.0, 1.0, 1.0)
    assert case.groups is not None
    found = jaxlmm.fit(case.X, case.Y, case.groups)
    rows = ~np.isnan(case.Y[:, 3])
    sizes = np.bincount(case.groups[rows])
    assert (sizes == 0).sum() == 1
    assert found.n_groups_used.tolist() == [len(np.unique(case.groups[~np.isnan(y)])) for y in case.Y.T]
    by_hand = case.dropped(3, "REML")
    assert by_hand is not None
    texts = [str(found.summary(3)), str(by_hand.summary(0))]
    for line in ("No. Observations:", "No. Groups:", "Min. group size:", "Max. group size:", "Mean group size:"):
        assert texts[0].split(line)[1].split()[0] == texts[1].split(line)[1].split()[0], line
    assert found.glance()["ngroups"].tolist() == found.n_groups_used.tolist()
    found.save(tmp_path / "fit.npz", include_Y=False)
    loaded = jaxlmm.load(tmp_path / "fit.npz")
    assert str(loaded.summary(3)) == texts[0]
    case.Y[case.groups > 0, 0] = np.nan  # one group: too few to be fitted
    text = str(jaxlmm.fit(case.X, case.Y, case.groups).summary(0))
    assert text.split("No. Groups:")[1].split()[0] == text.split("Mean group size:")[1].split()[0] == "-"
    assert f"No. Observations: {np.sum(~np.isnan(case.Y[:, 0]))} " in text and "in too few groups" in text
    assert loaded.glance()["ngroups"].tolist() == found.n_groups_used.tolist()


def test_designs_share_compiled_code() -> None:
    """Few numbers of groups and columns are compiled."""
    shapes = set()
    for G in range(5, 33):
        for p in range(1, 9):
            shapes.add(reduce.padded_shape(G, p))
    assert len(shapes) <= 20
    assert all(g >= 5 and p >= 1 for g, p in shapes)


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_of_any_width(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are full, spread over threads, or cut short give each response what it has alone."""
    rng = np.random.default_rng(8)
    codes, m = np.repeat(np.arange(6), 8), 75
    X = np.column_stack([np.ones(48), rng.normal(size=(48, 2))])
    Y = rng.normal(size=(48, m)) + rng.normal(size=(6, m))[codes]
    Y[rng.random(Y.shape) < 0.1] = np.nan
    Y[:, 5], Y[3, 20] = np.nan, np.inf
    Y[:, 33] = 1e6 * X[:, 1] + 1e-3 * Y[:, 33]
    weights = rng.uniform(0.2, 3.0, Y.shape) if weighted else None
    expected = jaxlmm.fit(X, Y, codes, weights=weights)
    assert np.flatnonzero(~expected.converged).tolist() == [5, 20]
    monkeypatch.setattr(incomplete, "WIDTHS", (8, 16, 32))
    monkeypatch.setattr(incomplete, "AT_ONCE", 8)
    monkeypatch.setattr(on_basis, "AT_ONCE", 8)
    monkeypatch.setattr(reduce, "WIDTHS", (8, 16))
    for threads, k in ((1, m), (2, m), (2, 31), (3, 32), (3, 33), (1, 9)):
        monkeypatch.setattr(incomplete, "N_THREADS", threads)
        some = slice(m - k, m)
        found = jaxlmm.fit(X, Y[:, some], codes, weights=None if weights is None else weights[:, some])
        for name in ("coef", "se_gls", "theta", "sigma2", "loglik", "status", "n_used"):
            a, b = getattr(found, name), getattr(expected, name)[some]
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=f"{name}, {threads} threads, {k}")


def test_no_responses_have_no_blocks() -> None:
    codes = np.repeat(np.arange(5), 4)
    design = jaxlmm.prepare(np.ones((20, 1)), codes).family.own
    blocks = incomplete.own_blocks(design, np.ones((20, 3)), np.zeros(0, dtype=np.intp), True, lambda *_: None)
    assert not list(blocks)
