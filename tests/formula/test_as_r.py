"""Formulas are read as R reads them (reference/formulas.json, made by formulas.R), or refused with what to write."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REFERENCE

import jaxlmm
from jaxlmm import lmm
from jaxlmm.formula.formula import prepare_formula
from jaxlmm.sources.levels import in_level_order

pd = pytest.importorskip("pandas")

R = json.loads((REFERENCE / "formulas.json").read_text(encoding="utf-8"))
TABLE = Path(__file__).parents[2] / "docs" / "bad-input.md"


@pytest.fixture(scope="module")
def data() -> Any:
    return pd.DataFrame(R["data"])


# -- design columns -------------------------------------------------------------------------------

# R makes more columns than X has rank, and lmer drops the last: the same space, other columns.
DEFICIENT = {"a:b", "a:b + x"}
# formulaic's name of a contrast's column is R's, but for these.
OTHER_NAMES = re.compile(r"poly|bs\(|contr\.|C\(a, |order")


def as_in_r(name: str) -> list[str]:
    """One of our names of columns as R writes it, its factors in alphabetical order."""
    name = name.replace("Intercept", "(Intercept)").replace("[T.", "[")
    name = re.sub(r"\[([^]]*)\]", r"\1", name).replace("True", "TRUE").replace("False", "FALSE")
    return sorted(re.sub(r"[\s`'\"]", "", name).replace("**", "^").split(":"))


@pytest.mark.parametrize("case", R["matrices"], ids=[case["formula"] for case in R["matrices"]])
def test_design_columns(data: Any, case: dict[str, Any]) -> None:
    made, expected = prepare_formula(case["formula"], data), np.array(case["X"], dtype=np.float64)
    if case["formula"] in DEFICIENT:
        rank = np.linalg.matrix_rank(expected)
        assert made.X.shape[1] == rank < expected.shape[1]
        assert np.linalg.matrix_rank(np.column_stack([made.X, expected])) == rank
        return
    np.testing.assert_allclose(made.X, expected, atol=1e-9)
    if not OTHER_NAMES.search(case["formula"]):
        names = [re.sub(r"[\s`'\"]", "", name).replace("as.factor(", "factor(") for name in case["names"]]
        assert [as_in_r(name) for name in made.names] == [sorted(name.split(":")) for name in names]
    np.testing.assert_allclose(made.rows(data.iloc[::-1]), made.X[::-1], atol=1e-9)


@pytest.mark.parametrize("case", R["responses"], ids=[case["formula"] for case in R["responses"]])
def test_left_of_the_tilde(data: Any, case: dict[str, Any]) -> None:
    found = prepare_formula(f"{case['formula']} ~ x + (1 | g)", data).response
    assert list(found.columns) == [case["formula"]]
    np.testing.assert_allclose(found.to_numpy()[:, 0], case["y"], rtol=1e-9)
    fit = lmm(f"{case['formula']} ~ x + (1 | g)", data)
    expected = lmm("v ~ x + (1 | g)", data.assign(v=case["y"]))
    np.testing.assert_allclose(fit.coef, expected.coef, rtol=1e-7)
    np.testing.assert_allclose(fit.se, expected.se, rtol=1e-6)


def test_several_responses(data: Any) -> None:
    found = lmm("cbind(y, change = y - pre, log(pre), `pre`) ~ x + (1 | g)", data)
    assert found.response_names == ("y", "change", "log(pre)", "pre")
    for j, left in enumerate(("y", "y - pre", "log(pre)", "pre")):
        np.testing.assert_allclose(found.coef[j], lmm(f"{left} ~ x + (1 | g)", data).coef[0], rtol=1e-10)


def test_levels_are_sorted_as_r_sorts_them() -> None:
    assert in_level_order(R["levels"][::-1]) == R["levels"]
    assert in_level_order([10, 9, 2.5]) == [2.5, 9, 10]


@pytest.mark.parametrize("dtype", ["object", "string", "str"])
def test_levels_in_every_text_type(data: Any, dtype: str) -> None:
    text = data.assign(arm=data["arm"].astype(dtype))
    expected = ("Intercept", "arm[T.sham]", "arm[T.Treatment]")
    assert prepare_formula("arm", text).names == expected
    assert prepare_formula("arm", text).variables[0].levels == ("control", "sham", "Treatment")
    assert prepare_formula("C(arm)", text).names[1:] == ("C(arm)[T.sham]", "C(arm)[T.Treatment]")
    assert prepare_formula("arm", text.assign(arm=pd.Categorical(text["arm"]))).names == (
        "Intercept", "arm[T.control]", "arm[T.sham]",
    )  # fmt: skip  # a categorical keeps its order, here pandas'


# -- arithmetic in doubles ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "int64", "Int8", "UInt8", "float16", "float32", "float64"]
)
def test_arithmetic_does_not_overflow(data: Any, dtype: str) -> None:
    values = np.arange(60) % 50 + 60
    small = data.assign(v=pd.array(values, dtype=dtype), w=pd.array(values[::-1], dtype=dtype))
    large = data.assign(v=values.astype(float), w=values[::-1].astype(float))
    terms = "I(v^2) + I(v * w) + I(v + w) + I(v - w) + I(-v / w) + I(v^12) + log(v) + np.square(v)"
    np.testing.assert_allclose(prepare_formula(terms, small).X, prepare_formula(terms, large).X, rtol=1e-12)
    for left in ("v - w", "v + w", "v * w", "v^10", "-v", "np.square(v)"):
        found, expected = (np.asarray(prepare_formula(f"{left} ~ x", d).response) for d in (small, large))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_response_that_is_missing_stays_missing(data: Any) -> None:
    counts = pd.array([None, *range(59)], dtype="Int64")
    found = lmm("n - pre ~ x + (1 | g)", data.assign(n=counts))
    assert found.n_used.tolist() == [59]


# -- names ----------------------------------------------------------------------------------------


def test_names_that_are_not_pythons(data: Any) -> None:
    named = data.rename(columns={"x": "reaction time", "g": "the group", "z": 5, "a": "my.factor", "y": "my.y"})
    expected = lmm("y ~ I(x / 100) + a * b + log(z) + (1 | g)", data)
    for quoted in ("`{}`", "Q('{}')", 'Q("{}")'):
        x, g, z = (quoted.format(name) for name in ("reaction time", "the group", "5"))
        found = lmm(f"my.y ~ I({x} / 100) + my.factor * b + log({z}) + (1 | {g})", named)
        np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-10)
        assert found.design.random[0].name == "the group"
        assert found.response_names == ("my.y",)
    assert found.anova().terms == ("I(`reaction time` / 100)", "my.factor", "b", "log(`5`)", "my.factor:b")
    means = found.emmeans("`my.factor`", by="Q('b')", at={"reaction time": 0.0})
    np.testing.assert_allclose(means.estimate, expected.emmeans("a", by="b", at={"x": 0.0}).estimate, rtol=1e-9)
    np.testing.assert_allclose(found.predict(named)[:, 0], expected.predict(data)[:, 0], rtol=1e-9)
    inside = lmm(
        "log(Q('pre it')) ~ scale(my.factor.x) + (1 | g)", data.rename(columns={"pre": "pre it", "x": "my.factor.x"})
    )
    np.testing.assert_allclose(inside.coef, lmm("log(pre) ~ scale(x) + (1 | g)", data).coef, rtol=1e-9)


@pytest.mark.parametrize("grouping", ["factor(g)", "as.factor(g)", "C(g)", "`g`", "Q('g')"])
def test_groups_made_factors(data: Any, grouping: str) -> None:
    found = lmm(f"y ~ x + (1 | {grouping})", data)
    np.testing.assert_array_equal(found.coef, lmm("y ~ x + (1 | g)", data).coef)


# -- type III -------------------------------------------------------------------------------------

# Where lmerTest's test would be at a reference level, or that all means are zero; else lmerTest's.
JOINT = {
    "a / b", "b / a", "a + a:b", "x + a:x", "a * b - a", "0 + a", "0 + a + b", "0 + b + a", "0 + a + x", "a * b - 1",
    "a / b - 1",
}  # fmt: skip
# The answer of lmerTest for the same model with an intercept.
SAME_AS = {"0 + a:b": "a:b", "0 + a + a:x": "a + a:x", "a * x - 1": "a * x"}


@pytest.mark.parametrize("case", R["type3"], ids=[case["formula"] for case in R["type3"]])
def test_type_three(data: Any, case: dict[str, Any]) -> None:
    formula = case["formula"]
    table = lmm(f"y ~ {formula} + (1 | g)", data).anova()
    if formula in SAME_AS:
        case = next(other for other in R["type3"] if other["formula"] == SAME_AS[formula])
    them = case["joint_tests" if formula in JOINT else "lmerTest"]
    wanted = {frozenset(re.split(":", t)): v for t, *v in zip(them["term"], them["df_num"], them["F"], strict=True)}
    assert table.terms
    for j, term in enumerate(table.terms):
        df_num, F = wanted[frozenset(term.split(":"))]
        assert table.df_num[j] == df_num, term
        # joint_tests rounds F to three decimals.
        np.testing.assert_allclose(table.statistic[0, j], F, rtol=2e-5, atol=6e-4 if formula in JOINT else 0)


# -- refusals, tied to the table of the documentation ---------------------------------------------

REFUSED: dict[str, list[str]] = {
    "formula-power": ["y ~ x + x^2", "y ~ x**2", "y ~ x*x", "y ~ a:a", "y ~ x + (x^2 | g)", "y ~ a + (1 + x*x | g)"],
    "formula-number": ["y ~ x / 2", "y ~ 2 * x", "y ~ x - 5", "y ~ 2:x"],
    "formula-offset": ["y ~ a:offset(x)", "y - offset(x) ~ a", "y ~ a + (x + offset(z))", "y ~ a - offset(x)"],
    "formula-dot": ["y ~ .", "y ~ . - x", "y ~ .^2"],
    "formula-in": ["y ~ x %in% a"],
    "formula-percent": ["y ~ I(k %% 2)", "y %/% 2 ~ x", "y ~ I(a %in% c('a1'))"],
    "formula-dollar": ["y ~ d$x", "d$y ~ x"],
    "formula-equals": ["y = x + (1 | g)"],
    "formula-tildes": ["y ~ x ~ z"],
    "formula-no-right": ["y ~"],
    "formula-nothing-fixed": ["y ~ 0 + (1 | g)", "y ~ x - x - 1"],
    "formula-not-python": ["y ~ I(!flag)", "y ~ I(flag && flag2)", "y ~ I(1:3)"],
    "formula-logic": ["y ~ I(x > 1 & z > 2)", "y ~ I(flag & x > 1)", "y ~ ifelse(x > 1 | z > 2, 1, 0)"],
    "formula-unknown-function": ["y ~ frobnicate(x)", "frobnicate(y) ~ x"],
    "formula-r-function": ["y ~ as.numeric(a)", "y ~ I(x - mean(x))", "y ~ cut(x, 3)", "y ~ ns(x, 3)", "y ~ s(x)"],
    "formula-coding": ["y ~ C(a, contr.treatment, base = 2)", "y ~ C(a, contr.sum(3))", "y ~ C(a, contr.sum, 1)"],
    "formula-compare": ["y ~ (x > 0) * a", "y ~ x + (a == 'a1' | g)"],
    "formula-package": ["y ~ stats::poly(x, 2)"],
    "formula-matrix": ["y ~ scale(x)[, 1]"],
    "formula-subtracted": ["y ~ x + z - (z - 1)"],
    "formula-random-call": ["y ~ x + random(g)", "y ~ x + Error(g)"],
    "formula-spline": ["y ~ cr(x, df=3)", "y ~ a + cc(x, df=4)"],
    "formula-response-twice": ["cbind(y, y) ~ x"],
    "formula-response-text": ["factor(a) ~ x", "cbind(y, C(a)) ~ x", "poly(y, 2) ~ x"],
    "formula-random-slope": ["y ~ x + (g | g)", "y ~ x + (1 + g | g) + (1 | a)"],
}  # fmt: skip


def rows() -> dict[str, list[str]]:
    lines = [
        re.split(r"(?<!\\)\|", line.strip().strip("|"))
        for line in TABLE.read_text().splitlines()
        if "| `formula-" in line
    ]
    return {cells[0].strip().strip("`"): [c.strip() for c in cells[1:]] for cells in lines}


def test_the_table_and_the_tests_have_the_same_ids() -> None:
    assert set(rows()) == set(REFUSED) | {
        "formula-index",
        "formula-empty-cells",
        "formula-levels",
        "formula-untrusted",
    }


def quoted(key: str, kind: str = "ValueError") -> str:
    found = re.search(rf"{kind}: `([^`]+)`", " ".join(rows()[key]))
    assert found, key
    return found[1].replace("\\|", "|")


@pytest.mark.parametrize("key, formula", [(key, f) for key, formulas in REFUSED.items() for f in formulas])
def test_refused_with_what_to_write(data: Any, key: str, formula: str) -> None:
    with pytest.raises(ValueError) as error:
        lmm(formula, data)
    assert quoted(key) in str(error.value)
    assert "\n" not in str(error.value)


def test_columns_in_the_index(data: Any) -> None:
    for name in ("g", "x", "y"):
        with pytest.raises(ValueError, match=re.escape(quoted("formula-index"))):
            lmm("y ~ x + (1 | g)", data.set_index(name))
    with pytest.raises(ValueError, match=re.escape(quoted("formula-levels"))):
        lmm("y ~ x", pd.concat({"one": data}, axis=1))


@pytest.mark.parametrize(
    "formula", ["y ~ a * b", "y ~ a * b * x", "y ~ C(a, contr.sum) * b + z", "y ~ a / b", "y ~ a:b"]
)
def test_empty_cells(data: Any, formula: str) -> None:
    hole = data[~((data["a"] == "a3") & (data["b"] == "b2"))]
    with pytest.warns(UserWarning, match=re.escape(quoted("formula-empty-cells", "UserWarning"))) as said:
        found = lmm(f"{formula} + (1 | g)", hole)
    assert re.search(r"\[a3\]:b\[b2\]", str(said[0].message)) and said[0].filename == __file__
    assert found.converged.all() and "Dropped, since some combination of levels has no row" in str(found.summary())
    assert lmm("y ~ a + b + (1 | g)", hole).source.dropped_columns == ()


def test_what_empty_cells_leave_is_the_fit_of_the_cells_there_are(data: Any) -> None:
    hole = data[~((data["a"] == "a3") & (data["b"] == "b2"))]
    with pytest.warns(UserWarning, match="no row has"):
        found = lmm("y ~ a * b + (1 | g)", hole)
    assert found.names == ("Intercept", "a[T.a2]", "a[T.a3]", "b[T.b2]", "a[T.a2]:b[T.b2]")
    cells = lmm("y ~ 0 + cell + (1 | g)", hole.assign(cell=hole["a"] + hole["b"]))
    np.testing.assert_allclose(found.sigma2, cells.sigma2, rtol=1e-6)
    new = pd.DataFrame({"a": ["a3", "a3", "a2"], "b": ["b2", "b1", "b2"], "g": [hole["g"].iloc[0]] * 3})
    predicted = found.predict(new)[:, 0]
    assert np.isnan(predicted).tolist() == [True, False, False]  # no row says anything of the first
    expected = cells.predict(new[1:].assign(cell=["a3b1", "a2b2"]))[:, 0]
    np.testing.assert_allclose(predicted[1:], expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"there is no type III test: .* Use joint_tests\(\), .* anova\(type=2\)"):
        found.anova()


def test_factors_within_factors_have_means_over_their_own_levels(data: Any) -> None:
    """The reference grid has no cell of one factor's levels within those of the other that they are not of."""
    inner = data.assign(c=data["b"].astype(str) + np.where(data["k"] > 1, "x", "y"))
    with pytest.warns(UserWarning, match="no row has"):
        found = lmm("y ~ b / c + (1 | g)", inner)
    cells = lmm("y ~ 0 + c + (1 | g)", inner).emmeans("c").estimate
    np.testing.assert_allclose(found.emmeans("c").estimate, cells, rtol=1e-6)
    np.testing.assert_allclose(found.emmeans("b").estimate[0], cells.reshape(2, 2).mean(axis=1), rtol=1e-6)


def test_empty_cells_of_three_factors_are_counted(data: Any) -> None:
    data = data.assign(c=np.repeat(["c1", "c2"], 30), d=np.tile(["d1", "d2"], 30))
    hole = data[(data["a"] == "a1") | (data["c"] == "c1")]
    with pytest.warns(UserWarning, match=r"no row has a\[a2\]:c\[c2\] and a\[a3\]:c\[c2\], so 'a\[T.a2\]:c"):
        lmm("y ~ a * c", hole)


def test_one_group_of_a_spline_without_an_intercept(data: Any) -> None:
    assert lmm("y ~ 0 + cr(z, df=3)", data).converged.all()
    centred = lmm("y ~ cr(z, df=3, constraints='center')", data)
    assert centred.names[0] == "Intercept" and len(centred.names) == 4


def test_the_users_own_functions_come_first(data: Any) -> None:
    own = {"mean": lambda v: v * 0 + 2.0, "sqrt": lambda v: -v}
    made = prepare_formula("I(x - mean(x)) + sqrt(z)", data, context=own)
    np.testing.assert_allclose(made.X[:, 1:], np.column_stack([data["x"] - 2, -data["z"]]))


@pytest.mark.parametrize("specs, names, by", [
    ("~ a", ["a"], []), ("a | b", ["a"], ["b"]), ("~a|b", ["a"], ["b"]), ("~ a * b", ["a", "b"], []),
    ("a:b", ["a", "b"], []), ("~ `a` + b", ["a", "b"], []), ("~ 1", [], []), ("1 | b", [], ["b"]),
])  # fmt: skip
def test_formulas_of_emmeans(data: Any, specs: str, names: list[str], by: list[str]) -> None:
    fit = lmm("y ~ a * b + (1 | g)", data)
    found, expected = fit.emmeans(specs), fit.emmeans(names or "1", by=by)
    assert (found.specs, found.by) == (tuple(names), tuple(by))
    np.testing.assert_array_equal(found.estimate, expected.estimate)


@pytest.mark.parametrize("specs, method", [("pairwise ~ a | b", "pairwise"), ("trt.vs.ctrl ~ a", "trt.vs.ctrl")])
def test_means_and_contrasts_in_one_formula(data: Any, specs: str, method: str) -> None:
    fit = lmm("y ~ a * b + (1 | g)", data)
    both = fit.emmeans(specs)
    means = fit.emmeans(specs.split("~")[1].strip())
    np.testing.assert_array_equal(both.emmeans.estimate, means.estimate)
    np.testing.assert_array_equal(both.contrasts.pvalue, means.contrast(method).pvalue)
    assert "Estimated marginal means" in str(both) and "Contrasts, P adjusted by" in str(both)
    assert both._repr_html_().startswith("<pre>")


@pytest.mark.parametrize("formula, same", [
    ("y ~ a + offset(x) + (1 | g)", "y - x ~ a + (1 | g)"),
    ("y ~ offset(2 * x + log(z)) + a", "y - 2 * x - log(z) ~ a"),
    ("log(pre) ~ offset(x) + offset(z)", "log(pre) - x - z ~ 1"),
])  # fmt: skip
def test_an_offset_is_subtracted_and_predictions_have_it_again(data: Any, formula: str, same: str) -> None:
    found, expected = lmm(formula, data), lmm(same, data)
    assert found.names == expected.names
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-7, atol=1e-9)
    offset = expected.source.response  # not kept
    assert offset is None
    less = {"y ~ a + offset(x) + (1 | g)": data["x"], "log(pre) ~ offset(x) + offset(z)": data["x"] + data["z"]}
    added = less.get(formula, 2 * data["x"] + np.log(data["z"])).to_numpy()
    np.testing.assert_allclose(found.predict(data)[:, 0], expected.predict(data)[:, 0] + added, rtol=1e-7)
    with pytest.raises(ValueError, match="offset uses 'x', which is no column of the data"):
        found.predict(data.drop(columns="x"))


def test_an_offset_of_responses_of_every_kind(data: Any, tmp_path: Path) -> None:
    formula, rows = "a + offset(x) + (1 | g)", data.assign(x=data["x"].where(data["x"] < 2))
    left = rows["x"].notna().to_numpy()
    expected = lmm("y - x ~ a + (1 | g)", data[left])
    by_name = lmm(formula, rows, responses=["y"])
    by_array = lmm(formula, rows, data[["y", "pre"]].to_numpy())
    for found in (by_name, by_array):
        np.testing.assert_allclose(found.coef[0], expected.coef[0], rtol=1e-7)
    by_array.save(tmp_path / "fit.npz")
    again = jaxlmm.load(tmp_path / "fit.npz")
    population = data.drop(columns="g")  # no effects of groups, which need the responses
    np.testing.assert_allclose(again.predict(population), by_array.predict(population))
    assert "Of the response less its offset" in str(by_array.emmeans("a"))
    with pytest.raises(ValueError, match="Y is not in memory; subtract the offset from Y"):
        np.save(tmp_path / "y.npy", data[["y"]].to_numpy())
        lmm("a + offset(x)", data, tmp_path / "y.npy")


def test_one_name_for_false_discovery(data: Any) -> None:
    fit = lmm("y ~ a * b + (1 | g)", data)
    pairs = fit.emmeans("a").pairs
    np.testing.assert_array_equal(pairs("bh").pvalue, pairs("fdr").pvalue)
    p = fit.pvalue[0]
    np.testing.assert_array_equal(jaxlmm.adjust_pvalues(p, "fdr"), jaxlmm.adjust_pvalues(p, "bh"))
    with pytest.raises(ValueError, match=re.escape("write the weights as a dict, {'b[T.b2]': 1}")):
        fit.test("b[T.b2] = 0")


def test_a_random_intercept_taken_away_in_parentheses(data: Any) -> None:
    """As lme4: ``((x - 1) | g)``, ``((0 + x) | g)``."""
    for bar in ("((x - 1) | g)", "((0 + x) | g)", "(1 + (x - 1) | g)"):
        assert [term.columns for term in jaxlmm.prepare(f"y ~ z + {bar}", data).design.random] == [("x",)]
