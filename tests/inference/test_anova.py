"""Type III tables, marginal means and predictions through formulas, against lmerTest and pbkrtest."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import REFERENCE, blups, load_reference, simulate, unbalanced

import jaxlmm

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

SETS = ["sleepstudy", "orthodont", "machines", "hsb82", "chickweight", "co2", "ergostool"]


def frame(name: str) -> pd.DataFrame:
    data = pd.read_csv(REFERENCE / f"{name}.csv")
    group = load_reference(name).expected["formula"].split("|")[1].strip(" )")
    data[group] = data[group].astype(str)
    if name == "chickweight":
        data["Diet"] = data["Diet"].astype(str)
    return data


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
@pytest.mark.parametrize("name", SETS)
def test_type_three_tables(name: str, df: str) -> None:
    expected = load_reference(name).expected
    key = "anova_" + df.replace("-", "_")
    if key not in expected:
        pytest.skip("no such table for this set")
    table = jaxlmm.lmm(expected["formula"], frame(name), df=df).anova()
    want = {k: np.atleast_1d(v) for k, v in expected[key].items()}
    assert list(table.terms) == list(want["term"])
    np.testing.assert_array_equal(table.df_num, want["numdf"])
    np.testing.assert_allclose(table.df_den[0], want["dendf"], rtol=1e-4)
    np.testing.assert_allclose(table.statistic[0], want["F"], rtol=1e-5)
    np.testing.assert_allclose(table.pvalue[0], want["p"], rtol=1e-4)
    assert all(term in table.summary() for term in table.terms)


def test_terms_of_columns() -> None:
    data = load_reference("machines")
    names = ["Intercept", "B", "C"]
    found = jaxlmm.fit(data.X, data.y, data.groups, names=names, terms={"Machine": ["B", "C"]}).anova()
    by_formula = jaxlmm.lmm(data.expected["formula"], frame("machines")).anova()
    assert found.terms == ("Machine",)
    np.testing.assert_allclose(found.pvalue, by_formula.pvalue, rtol=1e-9)
    each = jaxlmm.fit(data.X, data.y, data.groups, names=names)
    assert each.anova().terms == ("B", "C")
    np.testing.assert_allclose(each.anova().pvalue[0], each.pvalue[0, 1:], rtol=1e-8)


def test_predictions_of_new_data() -> None:
    data = frame("orthodont")
    fit = jaxlmm.lmm("distance ~ age * Sex + (1 | Subject)", data)
    new = pd.DataFrame({"age": [10.0, 12.0], "Sex": ["Male", "Female"], "Subject": ["M01", "nobody"]})
    X = np.array([[1, 10, 1, 10], [1, 12, 0, 0.0]])
    modes = [blups(fit)[0, fit.design.random[0].levels.index("M01")], 0.0]
    np.testing.assert_allclose(fit.predict(new)[:, 0], X @ fit.coef[0] + modes, rtol=1e-9)
    population = fit.predict(new[["age", "Sex"]])[:, 0]
    np.testing.assert_allclose(population, X @ fit.coef[0], rtol=1e-9)
    np.testing.assert_allclose(fit.predict(data)[:, 0], fit.fitted()[:, 0], rtol=1e-9)


def test_marginal_means_and_many_responses() -> None:
    data = frame("machines")
    rng = np.random.default_rng(0)
    Y = np.column_stack([data["score"], rng.normal(size=(len(data), 3))])
    fit = jaxlmm.lmm("Machine + (1 | Worker)", data, Y)
    means = fit.emmeans("Machine")
    np.testing.assert_allclose(
        means.estimate[0], data.groupby("Machine")["score"].mean().to_numpy(), rtol=1e-9
    )  # balanced
    pairs = means.pairs(adjust="none")
    np.testing.assert_allclose(pairs.estimate[:, 0], means.estimate[:, 0] - means.estimate[:, 1], rtol=1e-9)
    np.testing.assert_allclose(pairs.pvalue[:, 0], fit.pvalue[:, 1], rtol=1e-8)
    assert (means.pairs().pvalue >= pairs.pvalue).all()


def test_emmeans_needs_a_formula() -> None:
    rng = np.random.default_rng(0)
    codes = unbalanced(rng, 6, 6)
    X, Y = simulate(rng, codes)
    with pytest.raises(ValueError, match=r"fit with jaxlmm.lmm\(formula, data\)"):
        jaxlmm.fit(X, Y, codes).emmeans("a")
