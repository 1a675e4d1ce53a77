"""Marginal means and their pairs: R's emmeans, means by hand, invariances, and the studentized range."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr

from jaxlmm import lmm
from jaxlmm.formula.formula import prepare_formula
from jaxlmm.inference.adjustments import ADJUSTMENTS
from jaxlmm.inference.emmeans import EMMeans, emmeans, marginal_means
from jaxlmm.inference.grid import GridVariable
from jaxlmm.inference.hypotheses import DF_METHODS
from jaxlmm.inference.tukey import range_tail

# Tukey (1977), Exploratory Data Analysis; R's datasets::warpbreaks, 9 looms for each wool and tension.
WARPBREAKS = {
    ("A", "L"): [26, 30, 54, 25, 70, 52, 51, 26, 67],
    ("A", "M"): [18, 21, 29, 17, 12, 18, 35, 30, 36],
    ("A", "H"): [36, 21, 24, 18, 10, 43, 28, 15, 26],
    ("B", "L"): [27, 14, 29, 19, 29, 31, 41, 20, 44],
    ("B", "M"): [42, 26, 19, 16, 39, 28, 21, 39, 29],
    ("B", "H"): [20, 21, 24, 17, 13, 15, 15, 16, 28],
}
# Windels & Windels; emmeans::pigs, plasma leucine by source and percent of protein. Some cells have few pigs.
PIGS = {
    "fish": {9: [27.8, 23.7], 12: [31.5, 28.5, 32.8], 15: [34.0, 28.3], 18: [30.6, 32.7, 33.7]},
    "soy": {9: [39.3, 34.8, 29.8], 12: [39.8, 40.0, 39.1], 15: [38.5, 39.2, 40.0], 18: [42.9]},
    "skim": {9: [40.6, 31.0, 34.6], 12: [42.9, 50.1, 37.4], 15: [59.5, 41.4], 18: [59.8]},
}


def warpbreaks() -> pd.DataFrame:
    rows = [(wool, tension, y) for (wool, tension), values in WARPBREAKS.items() for y in values]
    data = pd.DataFrame(rows, columns=["wool", "tension", "breaks"])
    return data.assign(tension=pd.Categorical(data["tension"], categories=["L", "M", "H"]))


def pigs() -> pd.DataFrame:
    rows = [(s, percent, y) for s, cells in PIGS.items() for percent, values in cells.items() for y in values]
    data = pd.DataFrame(rows, columns=["source", "percent", "conc"])
    return data.assign(source=pd.Categorical(data["source"], categories=["fish", "soy", "skim"]))


def crossed(seed: int = 0, m: int = 3) -> pd.DataFrame:
    """Unbalanced, one cell empty; responses y0, y1, ..."""
    rng = np.random.default_rng(seed)
    n = 90
    data = pd.DataFrame({"a": rng.choice(list("pqr"), n), "b": rng.choice(list("uv"), n), "x": rng.normal(2, 1, n)})
    data["half"] = (rng.random(n) < 0.3).astype(int)
    data["g"] = rng.integers(0, 12, n)
    data = data[~((data["a"] == "r") & (data["b"] == "v"))].reset_index(drop=True)
    for j in range(m):
        data[f"y{j}"] = rng.normal(size=len(data)) + rng.normal(size=12)[data["g"]] + (data["a"] == "q") + data["x"]
    return data


def means(
    formula: str, data: pd.DataFrame, specs: Any, responses: Any = None, df: str = "satterthwaite", **k: Any
) -> EMMeans:
    fit = lmm(formula, data, responses=responses, df=df)
    return emmeans(prepare_formula(formula, data), fit.estimates, df, specs, **k)


# -- R --------------------------------------------------------------------------------------------


def test_warpbreaks_as_in_r() -> None:
    """emmeans(lm(breaks ~ wool * tension), ~ tension | wool) and its pairs, emmeans 1.10."""
    found = means("breaks ~ wool * tension", warpbreaks(), "tension", by="wool")
    assert found.labels == tuple({"tension": t, "wool": w} for w in "AB" for t in "LMH")
    expected = [44.5555555555556, 24, 24.5555555555556, 28.2222222222222, 28.7777777777778, 18.7777777777778]
    np.testing.assert_allclose(found.estimate[0], expected, rtol=1e-12)
    np.testing.assert_allclose(found.se[0], 3.64676134573641, rtol=1e-12)
    np.testing.assert_array_equal(found.df[0], 48)
    np.testing.assert_allclose(found.conf_int()[0, 0], [37.2232504410574, 51.8878606700537], rtol=1e-12)
    pairs = found.pairs()
    assert pairs.labels == ("L - M", "L - H", "M - H") * 2
    assert pairs.by == ({"wool": "A"},) * 3 + ({"wool": "B"},) * 3
    np.testing.assert_allclose(pairs.estimate[0, [0, 4]], [20.5555555555556, 9.44444444444445], rtol=1e-12)
    np.testing.assert_allclose(pairs.se[0], 5.15729935387839, rtol=1e-12)
    np.testing.assert_allclose(pairs.statistic[0, [0, 4]], [3.98572084827641, 1.83127714650538], rtol=1e-11)
    p = [0.000657274459216928, 0.000918548490399629, 0.993623772207969]
    p += [0.99362377220797, 0.170351791505631, 0.138857025416904]
    np.testing.assert_allclose(pairs.pvalue[0], p, rtol=1e-8)


def test_pigs_as_in_r() -> None:
    """emmeans(lm(log(conc) ~ source + factor(percent)), "source") and its pairs, emmeans 1.10."""
    found = means("log(conc) ~ source + C(percent)", pigs(), "source")
    np.testing.assert_allclose(found.estimate[0], [3.39449240955816, 3.6672602536766, 3.79677008859618], rtol=1e-12)
    np.testing.assert_allclose(found.se[0], [0.03668122439188, 0.0374479823382329, 0.0393828343497353], rtol=1e-12)
    np.testing.assert_allclose(found.conf_int()[0, 1], [3.58979320001778, 3.74472730733542], rtol=1e-12)
    pairs = found.pairs()
    assert pairs.labels == ("fish - soy", "fish - skim", "soy - skim")
    np.testing.assert_allclose(
        pairs.statistic[0], [-5.15293142585046, -7.42767663974804, -2.44161020369199], rtol=1e-11
    )
    p = [9.17022680658741e-05, 4.38114336809292e-07, 0.0569563158253614]
    np.testing.assert_allclose(pairs.pvalue[0], p, rtol=1e-8, atol=2e-12)  # R's ptukey is good to 1e-12


# -- the grid -------------------------------------------------------------------------------------


def test_by_hand() -> None:
    design = prepare_formula("a * x + b", crossed())
    x = crossed()["x"].mean()
    # Intercept, a[T.q], a[T.r], x, b[T.v], a[T.q]:x, a[T.r]:x
    expected = [[1, 0, 0, x, 0.5, 0, 0], [1, 1, 0, x, 0.5, x, 0], [1, 0, 1, x, 0.5, 0, x]]
    labels, L = marginal_means(design, "a")
    assert labels == ({"a": "p"}, {"a": "q"}, {"a": "r"})
    np.testing.assert_allclose(L, expected, rtol=1e-12)
    # The cell (r, v) has no data; the model says what it would be.
    labels, L = marginal_means(design, ["b", "a"], at={"x": 10, "a": ["r", "p"]})
    assert labels == tuple({"b": b, "a": a} for a in "rp" for b in "uv")
    np.testing.assert_allclose(L[1], [1, 0, 1, 10, 1, 0, 10], rtol=1e-12)
    np.testing.assert_allclose(L[2], [1, 0, 0, 10, 0, 0, 0], rtol=1e-12)
    # Averages are over the values of at.
    _, L = marginal_means(design, "b", at={"x": [0, 1], "a": ["q"]})
    np.testing.assert_allclose(L, [[1, 1, 0, 0.5, 0, 0.5, 0], [1, 1, 0, 0.5, 1, 0.5, 0]], rtol=1e-12)


def test_the_first_variable_varies_fastest() -> None:
    design = prepare_formula("a + b + half + x", crossed())
    labels, L = marginal_means(design, ["b", "a"], by=["half", "x"], at={"x": [1, 2], "a": ["p", "r"]})
    expected = [
        {"b": b, "a": a, "half": half, "x": x} for x in (1, 2) for half in (0, 1) for a in "pr" for b in "uv"
    ]  # fmt: skip
    assert list(labels) == expected
    rows = [[1, 0, label["a"] == "r", label["b"] == "v", label["half"], label["x"]] for label in labels]
    np.testing.assert_allclose(L, np.array(rows, dtype=float), atol=1e-12)


def test_transforms_are_taken_at_the_mean() -> None:
    data = crossed()
    _, L = marginal_means(prepare_formula("a + I(x**2) + center(x)", data), "a")
    np.testing.assert_allclose(L[0], [1, 0, 0, data["x"].mean() ** 2, 0], atol=1e-12)


def test_a_covariate_with_two_values_keeps_both() -> None:
    """As emmeans (its option cov.keep): the mean of half is not 1/2, the average of the grid is."""
    data = crossed()
    assert abs(data["half"].mean() - 0.5) > 0.1
    design = prepare_formula("a + half", data)
    np.testing.assert_array_equal(marginal_means(design, "a")[1][:, 3], 0.5)
    labels, L = marginal_means(design, "half")
    assert labels == ({"half": 0}, {"half": 1})
    np.testing.assert_allclose(L, [[1, 1 / 3, 1 / 3, 0], [1, 1 / 3, 1 / 3, 1]], rtol=1e-12)


def test_covariates_and_bools_as_specs() -> None:
    data = crossed().assign(flag=lambda d: d["half"] == 1)
    design = prepare_formula("a:x + flag", data)
    labels, _ = marginal_means(design, ["flag", "x"], at={"x": [0, 2.5]})
    assert labels == tuple({"flag": f, "x": x} for x in (0, 2.5) for f in (False, True))
    found = means("y0 ~ a*x + flag", data, ["a", "x"], at={"x": [0, 2.5], "a": ["q"]})
    assert found.names == ("q x0", "q x2.5")
    assert found.pairs("none").labels == ("q x0 - q x2.5",)


def test_balanced_data_give_the_raw_means() -> None:
    data = warpbreaks()
    raw = data.groupby("tension", observed=True)["breaks"].mean()
    for formula in ("breaks ~ tension", "breaks ~ tension * wool", "breaks ~ 0 + C(tension, contr.sum) + wool"):
        np.testing.assert_allclose(means(formula, data, "tension").estimate[0], raw, rtol=1e-12)


@pytest.mark.parametrize("coding", ["contr.treatment", "contr.sum", "contr.helmert", "contr.poly"])
@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_the_coding_does_not_matter(coding: str, df: str) -> None:
    data = crossed()
    expected = means("a*x + b + (1 | g)", data, "a", "y?", df)
    found = means(f"C(a, {coding})*x + C(b, {coding}) + (1 | g)", data, "a", "y?", df)
    for name in ("estimate", "se", "df"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)
    np.testing.assert_allclose(found.pairs().pvalue, expected.pairs().pvalue, rtol=1e-5)


@pytest.mark.parametrize("df", DF_METHODS)
def test_means_are_contrasts_of_the_fit(df: str) -> None:
    data = crossed()
    fit = lmm("a*x + b + (1 | g)", data, responses="y?", df=df)
    found = emmeans(prepare_formula("a*x + b", data), fit.estimates, df, ["a", "b"])
    assert found.estimate.shape == (3, 6)
    np.testing.assert_allclose(found.L.sum(axis=0)[0], 6)  # every mean has the whole intercept
    expected = fit.test(found.L)
    np.testing.assert_allclose(found.estimate, expected.estimate)
    np.testing.assert_allclose(found.se, expected.se)
    np.testing.assert_allclose(found.df, expected.df)
    np.testing.assert_allclose(found.conf_int(0.9), expected.conf_int(0.9))
    pairs = found.pairs("none")
    rows = [found.L[i] - found.L[j] for i, j in itertools.combinations(range(6), 2)]
    expected = fit.test(rows)
    np.testing.assert_allclose(pairs.L, rows)
    np.testing.assert_allclose(pairs.estimate, expected.estimate)
    np.testing.assert_allclose(pairs.se, expected.se)
    np.testing.assert_allclose(pairs.df, expected.df)
    np.testing.assert_allclose(pairs.pvalue, expected.pvalue)


def test_pairs_change_sign_with_the_order() -> None:
    data = crossed()
    forth = means("a + b + (1 | g)", data, "a", "y?", at={"a": ["p", "q", "r"]}).pairs()
    back = means("a + b + (1 | g)", data, "a", "y?", at={"a": ["r", "q", "p"]}).pairs()
    assert back.labels == ("r - q", "r - p", "q - p")
    np.testing.assert_allclose(back.estimate, -forth.estimate[:, ::-1], rtol=1e-12)
    np.testing.assert_allclose(back.pvalue, forth.pvalue[:, ::-1], rtol=1e-8)


# -- adjustments ----------------------------------------------------------------------------------


def test_adjustments() -> None:
    """Each row of p-values, and each level of by, is a family."""
    data = crossed(m=4)
    found = means("a*x + b + (1 | g)", data, "a", "y?", by="b")
    raw = found.pairs("none").pvalue
    assert raw.shape == (4, 6)
    expected = {
        "bonferroni": lambda p: np.minimum(3 * p, 1),
        "sidak": lambda p: 1 - (1 - p) ** 3,
        "holm": lambda p: _step(np.sort(p) * [3, 2, 1], np.maximum.accumulate, p),
        "fdr": lambda p: _step(np.sort(p) * [3, 1.5, 1], lambda v: np.minimum.accumulate(v[::-1])[::-1], p),
    }
    for name, adjust in expected.items():
        pairs = found.pairs(name)
        for row, (i, block) in itertools.product(range(4), enumerate((slice(0, 3), slice(3, 6)))):
            np.testing.assert_allclose(
                pairs.pvalue[row, block], adjust(raw[row, block]), rtol=1e-8, err_msg=f"{name}{i}"
            )


def _step(sorted_values: np.ndarray, accumulate: Any, p: np.ndarray) -> np.ndarray:
    out = np.empty(3)
    out[np.argsort(p)] = np.minimum(accumulate(sorted_values), 1)
    return out


@pytest.mark.parametrize("df", ["kenward-roger", "normal"])
def test_tukey(df: str) -> None:
    data = crossed()
    pairs = means("a + b + (1 | g)", data, "a", "y?", df).pairs()
    expected = scipy.stats.studentized_range.sf(np.sqrt(2) * np.abs(pairs.statistic), 3, pairs.df)
    np.testing.assert_allclose(pairs.pvalue, expected, rtol=1e-6, atol=1e-11)
    assert np.all(pairs.pvalue > pairs.test.pvalue)
    two = means("a + b + (1 | g)", data, "b", "y?", df).pairs()
    np.testing.assert_allclose(two.pvalue, two.test.pvalue, rtol=1e-12)


@pytest.mark.parametrize("k", [2, 3, 5, 9, 120])
def test_range_tail(k: int) -> None:
    q, df = (v.ravel() for v in np.meshgrid([0.3, 1.5, 3.5, 8.0], [1.0, 2.5, 12.0, 300.0]))
    expected = scipy.stats.studentized_range.sf(q, k, df)
    np.testing.assert_allclose(range_tail(q, k, df), expected, rtol=1e-7, atol=2e-11)
    known = range_tail(q, k, np.full(q.shape, np.inf))
    np.testing.assert_allclose(known, scipy.stats.studentized_range.sf(q, k, np.inf), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(range_tail(q, k, np.full(q.shape, 1e10)), known, rtol=1e-7)


def test_range_tail_of_two_is_the_t_test() -> None:
    """Far into the tail too, where scipy's difference from 1 has lost all digits."""
    q, df = (v.ravel() for v in np.meshgrid([1e-8, 1.0, 10.0, 100.0, 1e4], [0.5, 1.5, 4.0, 30.0, 1e4, 1e6]))
    with np.errstate(under="ignore"):
        expected = 2 * scipy.stats.t.sf(q / np.sqrt(2), df)
    np.testing.assert_allclose(range_tail(q, 2, df), expected, rtol=1e-7, atol=1e-280)


def test_range_tail_at_the_ends() -> None:
    q, df = (
        np.array([[0.0, np.inf, 3, 3], [np.nan, 3, np.inf, 0]]),
        np.array([[5, 5, np.nan, 0.0], [5, -1, np.inf, np.inf]]),
    )
    found = range_tail(q, 3, df)
    np.testing.assert_allclose(found, [[1, 0, np.nan, np.nan], [np.nan, np.nan, 0, 1]], rtol=1e-9)
    assert range_tail(np.zeros((0, 3)), 3, np.zeros((0, 3))).shape == (0, 3)


def test_range_tail_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    q, df = rng.uniform(0, 6, (7, 5)), rng.uniform(1, 90, (7, 5))
    whole = range_tail(q, 4, df)
    monkeypatch.setattr("jaxlmm.inference.tukey.CHUNK", 1)
    np.testing.assert_allclose(range_tail(q, 4, df), whole, rtol=1e-8)


def test_responses_without_a_fit_have_nan() -> None:
    data = crossed().assign(y1=np.nan)
    found = means("a + b + (1 | g)", data, "a", "y?")
    for adjust in ADJUSTMENTS:
        p = found.pairs(adjust).pvalue
        assert np.isnan(p).all(axis=1).tolist() == [False, True, False], adjust
        assert np.isfinite(p[[0, 2]]).all(), adjust
    assert np.isnan(found.conf_int()[1]).all()


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_responses_with_missing_observations(df: str) -> None:
    data = crossed()
    data.loc[data.index[::7], "y1"] = np.nan
    found = means("a + b + (1 | g)", data, "a", "y?", df)
    alone = means("a + b + (1 | g)", data.dropna(), "a", "y1", df)
    for name in ("estimate", "se", "df"):
        np.testing.assert_allclose(getattr(found, name)[1], getattr(alone, name)[0], rtol=1e-5)
    np.testing.assert_allclose(found.pairs().pvalue[1], alone.pairs().pvalue[0], rtol=1e-4)


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"specs": "z"}, "specs names 'z'; the variables of the model are a, b, x."),
        ({"specs": "a", "by": "q"}, "by names 'q'; the variables"),
        ({"specs": "a", "at": {"age": 3}}, "at names 'age'; the variables"),
        ({"specs": []}, "specs names no variable; give one or more of a, b, x."),
        ({"specs": "a", "by": "a"}, "specs and by must name different variables, found a, a"),
        ({"specs": "a", "at": {"a": "z"}}, "at gives 'z' for 'a', whose levels are 'p', 'q', 'r'"),
        ({"specs": "a", "at": {"x": "z"}}, "at gives 'z' for the covariate 'x'; give finite numbers"),
        ({"specs": "a", "at": {"x": [0, np.nan]}}, "for the covariate 'x'; give finite numbers"),
        ({"specs": "a", "at": {"x": []}}, "at gives no value for 'x'"),
        ({"specs": "a", "at": {"x": range(500_000)}}, "the reference grid has 3000000 rows"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        marginal_means(prepare_formula("a + b + x", crossed()), **options)
    assert message in str(error.value)


def test_wrong_pairs() -> None:
    found = means("y0 ~ a + x + (1 | g)", crossed(), "a")
    with pytest.raises(ValueError, match=r"adjust must be one of 'tukey', 'dunnettx'.* found 'turkey'"):
        found.pairs("turkey")
    with pytest.raises(ValueError, match="x has a single marginal mean, so there is nothing to compare"):
        means("y0 ~ a + x + (1 | g)", crossed(), "x").pairs()
    with pytest.raises(ValueError, match="nothing to compare"):
        means("y0 ~ a + x + (1 | g)", crossed(), "x", by="a").pairs()


# -- contrasts ------------------------------------------------------------------------------------


def test_the_same_contrast_in_many_words() -> None:
    found = means("y0 ~ a + x + (1 | g)", crossed(), "a")
    expected = found.contrast("trt.vs.ctrl", ref="q", adjust="none")
    assert expected.labels == ("p - q", "r - q")
    for other in (
        found.contrast("trt_vs_ctrl", ref=["q"], adjust="NONE"),
        found.contrast({"p - q": {"p": 1, "q": -1}, "r - q": [0, -1, 1]}),
        found.contrast(np.array([[1, -1, 0], [0, -1, 1]])),
        found.contrast(pd.DataFrame([[1, -1, 0], [0, -1, 1]], index=["p - q", "r - q"])),
    ):
        np.testing.assert_allclose(other.estimate, expected.estimate)
        np.testing.assert_allclose(other.pvalue, expected.pvalue)
    turned = found.contrast("trt.vs.ctrl", ref="q", reverse=True)
    assert turned.labels == ("q - p", "q - r")
    np.testing.assert_allclose(turned.estimate, -expected.estimate)
    averaged = found.contrast("trt.vs.ctrl", ref=["p", "q"])
    assert averaged.labels == ("r - avg(p,q)",)
    np.testing.assert_allclose(averaged.L[0], found.L[2] - found.L[:2].mean(axis=0))
    of_all = found.test().estimate
    np.testing.assert_array_equal(of_all, found.estimate)


def test_contrasts_of_contrasts() -> None:
    data = crossed()
    data = data[data["a"] != "r"]
    fit = lmm("y0 ~ a * b + x + (1 | g)", data)
    found = fit.emmeans(["a", "b"]).contrast("pairwise", interaction=True)
    assert list(found.axes) == ["b_pairwise", "a_pairwise"] and found.labels == ("p - q, u - v",)
    expected = fit.test({"a[T.q]:b[T.v]": 1})
    np.testing.assert_allclose(found.estimate, expected.estimate)
    np.testing.assert_allclose(found.pvalue, expected.pvalue, rtol=1e-6)
    assert list(found.tidy()["a_pairwise"]) == ["p - q"]


def test_names_with_a_minus_stand_in_brackets() -> None:
    data = crossed().replace({"a": {"p": "pre-test"}})
    found = means("y0 ~ a + (1 | g)", data, "a")
    assert found.pairs().labels[0] == "(pre-test) - q"
    np.testing.assert_array_equal(
        found.contrast("trt.vs.ctrl", ref="pre-test").estimate, found.contrast("trt.vs.ctrl").estimate
    )


def test_tukey_of_what_are_no_pairs_is_sidak_and_says_so() -> None:
    found = means("y0 ~ a + (1 | g)", crossed(), "a").contrast("eff", adjust="tukey")
    assert found.adjust == "sidak" and "tukey is for one set of pairwise differences" in str(found)


def test_weights_as_numbers() -> None:
    data = crossed()
    fit = lmm("y0 ~ a + b + half + (1 | g)", data)
    by_number = fit.emmeans("a", weights=[0, 1, 0, 0]).estimate  # v at half = 0
    np.testing.assert_allclose(by_number, fit.emmeans("a", at={"b": "v", "half": 0}).estimate)
    np.testing.assert_allclose(fit.emmeans("a", weights="PROP").L, fit.emmeans("a", weights="proportional").L)


def test_what_averages_are_over_is_said() -> None:
    found = means("y0 ~ a * b + x + (1 | g)", crossed(1).query("a != 'r'"), "a")
    assert "Averaged over b\n" in str(found) and "The variables interact with others" in str(found)
    assert "Averaged" not in str(means("y0 ~ a + x + (1 | g)", crossed(), "a"))


def test_slopes_have_units_of_both() -> None:
    Y = xr.DataArray(crossed()[["y0", "y1"]].to_numpy(), dims=("obs", "channel"), attrs={"units": "uV"})
    fit = lmm("a * x + (1 | g)", crossed(), Y, obs_dim="obs")
    trends = fit.emtrends("a", "x")
    assert trends.to_dataset()["estimate"].attrs["units"] == "uV / x"
    assert trends.pairs().to_dataset()["estimate"].attrs["units"] == "uV / x"
    assert "Slopes of x" in str(trends)
    np.testing.assert_allclose(trends.estimate[0, 0], fit.coef[0, fit.names.index("x")], rtol=1e-9)


def test_a_model_without_variables() -> None:
    with pytest.raises(ValueError, match=r"specs names 'a'; the variables of the model are \(none\)\."):
        marginal_means(prepare_formula("1", crossed()), "a")


def test_grid_variables() -> None:
    data = crossed().assign(flag=lambda d: d["x"] > 2)
    found = prepare_formula("b + a:x + C(half) + flag + log(g + 1)", data).variables
    expected = {
        "b": GridVariable("b", ("u", "v"), True),
        "a": GridVariable("a", ("p", "q", "r"), True),
        "x": GridVariable("x", (data["x"].mean(),), False),
        "half": GridVariable("half", (0, 1), True),
        "flag": GridVariable("flag", (False, True), True),
        "g": GridVariable("g", (data["g"].mean(),), False),
    }
    assert {v.name: v.factor for v in found} == {name: v.factor for name, v in expected.items()}
    for variable in found:
        levels = expected[variable.name].levels
        assert variable.levels == levels if variable.factor else variable.levels == pytest.approx(levels, rel=1e-14)
