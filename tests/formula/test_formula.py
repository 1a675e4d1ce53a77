"""Formulas: the random term, names, factors, responses, new data, and every refusal."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import DATA_SETS, REFERENCE, blups, load_reference

import jaxlmm
from jaxlmm import lmm
from jaxlmm.formula.bars import split_formula
from jaxlmm.formula.formula import prepare_formula
from jaxlmm.formula.text import expression_names


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n = 60
    made = pd.DataFrame({"y": rng.normal(size=n), "y2": rng.uniform(1, 2, n), "x": rng.normal(size=n)})
    made["a"] = rng.choice(list("cba"), n)
    made["k"] = rng.integers(1, 4, n)
    made["flag"] = rng.random(n) < 0.5
    made["g"], made["h"] = np.repeat(np.arange(10), 6), np.tile(list("uvw"), 20)
    made["my col"] = made["x"] + 5
    made["day"] = pd.date_range("2020", periods=n)
    made["gap"] = made["x"].where(made["x"] < made["x"].max())
    made["part"] = made["a"].where(made.index > 2)
    made["same"] = "q"
    for i in range(4):
        made[f"elec_{i}"] = rng.normal(size=n)
    made.index = made.index[::-1] + 100
    return made


# -- the text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "formula, fixed, group",
    [
        ("y ~ x + (1 | g)", "y ~ x", "g"),
        ("y~x+(1|g)", "y~x", "g"),
        ("y ~ (1 | g) + x", "y ~ x", "g"),
        ("y ~ x + ( 1|g ) + z", "y ~ x + z", "g"),
        ("y ~ (1|g)", "y ~ 1", "g"),
        ("(1|g)", "1", "g"),
        ("x + (1|g)", "x", "g"),
        ("y ~ 0 + (1|g) + x", "y ~ 0 + x", "g"),
        ("y ~ x + (1|g) - 1", "y ~ x - 1", "g"),
        ("y ~ (1|g) - 1 + x", "y ~ 1 - 1 + x", "g"),
        ("y ~ x + (1 | a:b)", "y ~ x", "a:b"),
        ("y ~ x + (1 | a : b)", "y ~ x", "a:b"),
        ("y ~ x + (1 | `my group`)", "y ~ x", "my group"),
        ("y ~ x + (1 | my.group)", "y ~ x", "my.group"),
        ("y ~ C(a | b) + (z + x):w", "y ~ C(a | b) + (z + x):w", None),
        ("y ~ x", "y ~ x", None),
        ("y ~ `a | b` + C(x, ['|', '('])", "y ~ `a | b` + C(x, ['|', '('])", None),
        ("y ~ f((a | b)[0 | 1]) + (1 | g)", "y ~ f((a | b)[0 | 1])", "g"),
    ],
)
def test_one_random_intercept(formula: str, fixed: str, group: str | None) -> None:
    found, bars = split_formula(formula)
    assert (found, bars[0].name if bars else None) == (fixed, group)


@pytest.mark.parametrize(
    "formula, fixed, bars",
    [
        ("y ~ x + (1 + x | g) + (1 | h)", "y ~ x", [("1 + x", ("g",), True), ("1", ("h",), True)]),
        ("y ~ (1|g) + x + (0 + x || h)", "y ~ x", [("1", ("g",), True), ("0 + x", ("h",), False)]),
        ("y ~ (1 | a/b/c)", "y ~ 1", [("1", ("a",), True), ("1", ("b", "a"), True), ("1", ("c", "b", "a"), True)]),
        ("y ~ (1 | a/(b:c))", "y ~ 1", [("1", ("a",), True), ("1", ("b", "c", "a"), True)]),
        ("y ~ x + (x | factor(g):C(`my h`))", "y ~ x", [("x", ("g", "my h"), True)]),
        ("y ~ x + (1 | as.factor(g)) + (poly(x, 2) | Q('my h'))", "y ~ x",
         [("1", ("g",), True), ("poly(x, 2)", ("my h",), True)]),
    ],
)  # fmt: skip
def test_bars_are_read_in_general(formula: str, fixed: str, bars: list[tuple[str, tuple[str, ...], bool]]) -> None:
    found, read = split_formula(formula)
    assert found == fixed
    assert [(bar.columns, bar.grouping, bar.correlated) for bar in read] == bars


def test_groups_have_the_names_that_lme4_gives_them() -> None:
    names = [bar.name for bar in split_formula("y ~ (1 | a/b/c) + (1 | d:e) + (1 | d:e/f)")[1]]
    assert names == ["a", "b:a", "c:(b:a)", "d:e", "d:e", "f:(d:e)"]


@pytest.mark.parametrize(
    "formula, message",
    [
        ("y ~ x + (1 | g", "'(' is not closed in '(1 | g'"),
        ("y ~ x + 1 | g)", "')' closes nothing at the end of 'y ~ x + 1 | g)'"),
        ("y ~ x + (1 | g]", "']' closes nothing at the end of 'y ~ x + (1 | g]'"),
        ("y ~ x + 'z", "the quote ' is not closed in ''z'"),
        ("y ~ x + 1 | g", "random terms need parentheses: write (1 | g) for '1 | g'"),
        ("y ~ x + (1 | g | h)", "(1 | g | h) has more than one bar"),
        (
            "y ~ x + (1 | a*b)",
            "(1 | a*b) groups by 'a*b', which lme4 does not read either; write (1 | a) + (1 | b) + (1 | a:b)",
        ),
        ("y ~ x + (1 | f(g))", "(1 | f(g)) must group by a column, by a:b or by a/b; found '(g)'"),
        ("y ~ x + (1 | a:)", "(1 | a:) needs the name of a column after the bar, found ''"),
        ("y ~ x + (1 | )", "(1 | ) needs the name of a column after the bar, found ''"),
        ("y ~ x + (1 | 3)", "needs the name of a column after the bar, found '3'"),
        ("y ~ x + ( | g)", "nothing is before the bar in ( | g)"),
        ("y ~ x * (1 | g)", "(1 | g) must be a term of its own in 'y ~ x * (1 | g)', joined by '+'"),
        ("y ~ x - (1 | g)", "must be a term of its own"),
        ("y ~ x (1 | g)", "must be a term of its own"),
        ("y ~ (1 | g):x", "must be a term of its own"),
        ("y ~ (x + (1 | g))", "(1 | g) must be a term of its own in 'y ~ (x + (1 | g))', not in parentheses"),
        ("(1 | g) ~ x", "(1 | g) stands left of '~'"),
    ],
)
def test_wrong_random_terms(formula: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        split_formula(formula)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_formula_must_be_text() -> None:
    with pytest.raises(ValueError, match=r"formula must be text such as .* found list"):
        split_formula(["y ~ x"])  # type: ignore[arg-type]


def test_expression_names() -> None:
    names, functions = expression_names(
        "np.log(`my col` + x.y.z) + f(w, key=v) + [i for i in u if (lambda t: t)(i)][0]"
    )
    assert names == {"np", "my col", "x", "w", "v", "u"}
    assert functions == {"f"}


# -- the fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATA_SETS)
def test_reference_fits(name: str) -> None:
    reference = load_reference(name)
    table = pd.read_csv(REFERENCE / f"{name}.csv")
    if "Diet" in table:
        table["Diet"] = table["Diet"].astype(str)
    found = lmm(reference.expected["formula"], table)
    np.testing.assert_allclose(found.coef[0], reference.expected["reml"]["coef"], rtol=1e-5)
    np.testing.assert_allclose(found.sigma2[0], reference.expected["reml"]["sigma2"], rtol=1e-5)
    response, group = reference.expected["formula"].split(" ~ ")[0], reference.expected["formula"].split("| ")[1][:-1]
    assert found.response_names == (response,)
    assert found.design.random[0].name == group
    plain = [t.replace("[T.", "").replace("]", "").replace("Intercept", "(Intercept)") for t in found.names]
    assert plain == reference.terms


def test_options_reach_the_fit(data: pd.DataFrame) -> None:
    found = lmm("y ~ x + (1 | g)", data, method="ML", df="residual", response_names=["volts"])
    expected = jaxlmm.fit(
        np.column_stack([np.ones(60), data["x"]]), data["y"], data["g"], method="ML", df="residual"
    )  # fmt: skip
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-10)
    assert (found.method, found.df_method, found.response_names) == ("ML", "residual", ("volts",))


def test_without_random_term_it_is_least_squares(data: pd.DataFrame) -> None:
    found = lmm("y ~ x", data)
    assert found.n_groups == 0
    np.testing.assert_allclose(found.coef[0], np.polyfit(data["x"], data["y"], 1)[::-1], rtol=1e-10)


def test_groups_of_two_columns(data: pd.DataFrame) -> None:
    found = lmm("y ~ x + (1 | g:h)", data)
    codes = data["g"] * 3 + data["h"].map({"u": 0, "v": 1, "w": 2})
    expected = jaxlmm.fit(np.column_stack([np.ones(60), data["x"]]), data["y"], codes)
    assert found.n_groups == 30
    assert found.design.random[0].levels[:4] == ((0, "u"), (0, "v"), (0, "w"), (1, "u"))
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-10)
    np.testing.assert_allclose(blups(found), blups(expected), rtol=1e-8)
    design = prepare_formula("y ~ x + (1 | g:h)", data)
    assert design.random[0].name == "g:h"
    ((codes, Z),) = design.random_rows({"g": [1, 99], "h": ["u", "v"]}, found.design)
    assert codes.tolist() == [3, -1] and Z.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("kind", ["int", "float", "str", "category"])
def test_groups_of_every_type(data: pd.DataFrame, kind: str) -> None:
    found = lmm("y ~ x + (1 | g)", data.astype({"g": kind}))
    np.testing.assert_allclose(found.coef, lmm("y ~ x + (1 | g)", data).coef, rtol=1e-10)


# -- factors and covariates -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, names",
    [
        (lambda c: c, ["v[T.b]", "v[T.c]"]),
        (lambda c: c.astype(object), ["v[T.b]", "v[T.c]"]),
        (lambda c: c.astype("string"), ["v[T.b]", "v[T.c]"]),
        (lambda c: c.astype("category"), ["v[T.b]", "v[T.c]"]),
        (lambda c: pd.Categorical(c, categories=["c", "z", "a", "b"]), ["v[T.a]", "v[T.b]"]),
        (lambda c: c == "b", ["v[T.True]"]),
        (lambda c: (c == "b").astype("boolean"), ["v[T.True]"]),
        (lambda c: (c == "b").astype(object), ["v[T.True]"]),
        (lambda c: c.map({"a": 1, "b": 2, "c": 3}), ["v"]),
        (lambda c: c.map({"a": 1, "b": 2, "c": 3}).astype("Int64"), ["v"]),
        (lambda c: c.map({"a": 1, "b": 2, "c": 3}).astype("Float32"), ["v"]),
        (lambda c: c.map({"a": 1, "b": 2, "c": 3}).astype(object), ["v"]),
    ],
)
def test_columns_of_every_type(data: pd.DataFrame, make: Any, names: list[str]) -> None:
    frame = data.assign(v=make(data["a"]))
    design = prepare_formula("y ~ v", frame)
    assert list(design.names) == ["Intercept", *names]
    values = np.asarray(frame["v"])
    for name, column in zip(names, design.X.T[1:], strict=True):
        expected = values if name == "v" else [str(v) == name[4:-1] for v in values]
        np.testing.assert_array_equal(column, np.asarray(expected, dtype=float))
    np.testing.assert_array_equal(design.rows(frame), design.X)
    np.testing.assert_array_equal(design.rows(frame.iloc[::7]), design.X[::7])


@pytest.mark.parametrize(
    "formula",
    [
        "C(a, contr.sum)*bs(x, df=4)",
        "a*scale(x) + center(k)",
        "poly(x, 3):C(k) + flag",
        "np.exp(`my col`):flag + {x + k}",
        "C(flag) + I(flag * x)",
        "twice(x) + C(a, levels=['b', 'a', 'c'])",
        "a:flag:x + log(y2)",
    ],
)
def test_new_data_are_encoded_alike(data: pd.DataFrame, formula: str) -> None:
    design = prepare_formula(formula, data, context={"twice": lambda v: 2 * v})
    assert design.response is None
    rows = np.random.default_rng(0).choice(60, 25)
    new = data.iloc[rows][[v.name for v in design.variables]]
    np.testing.assert_allclose(design.rows(new), design.X[rows], rtol=1e-10, atol=1e-12)
    one = design.rows({name: [value] for name, value in new.iloc[0].items()})
    np.testing.assert_allclose(one, design.X[rows[:1]], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("formula", ["I(x - x.mean())", "I(x.rank())", "x.cumsum()", "I(x / x.max()) + a"])
def test_formulas_that_say_nothing_about_new_rows(data: pd.DataFrame, formula: str) -> None:
    design = prepare_formula(formula, data)
    with pytest.raises(ValueError, match="computes with whole columns of the data"):
        design.rows(data)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"a": "z"}, "column 'a' has the level 'z' in row 0, unknown to the fit, whose levels are 'a', 'b', 'c'"),
        ({"k": 7}, "column 'k' has the level 7 in row 0, unknown to the fit, whose levels are 1, 2, 3"),
        ({"x": "one"}, "column 'x' holds object, in the data of the fit float64"),
        ({"x": None}, "column 'x' has 1 missing value, the first in row 0"),
        ({"flag": 2}, "column 'flag' has the level 2 in row 0"),
        ({"x": 1e9}, "bs(x, df=4)"),
    ],
)
def test_new_data_that_do_not_fit(data: pd.DataFrame, changes: dict[str, Any], message: str) -> None:
    design = prepare_formula("a + C(k) + bs(x, df=4) + flag", data)
    with pytest.raises(ValueError) as error:
        design.rows({name: [value] for name, value in ({"a": "a", "k": 1, "x": 0.0, "flag": True} | changes).items()})
    assert message in str(error.value)


def test_new_data_without_a_column(data: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="the model needs 'x', which is no column of the data"):
        prepare_formula("x + a", data).rows({"a": ["b"]})
    design = prepare_formula("x + (1 | g:h)", data)
    assert design.random_rows({"x": [1.0]}, lmm("y ~ x + (1 | g:h)", data).design) is None
    found = lmm("y ~ x + (1 | g:h) + (1 | k)", data.assign(k=data["g"] // 2))
    new = {"x": [1.0], "g": [1], "k": [1]}  # no h
    np.testing.assert_allclose(found.predict(new), found.predict({"x": [1.0], "k": [1]}), rtol=1e-12)
    part = found.ranef()["k"]
    effect = part.modes[0, part.levels.index(1), 0]
    np.testing.assert_allclose(found.predict(new) - found.predict({"x": [1.0]}), [[effect]], rtol=1e-9, atol=1e-12)


# -- responses ------------------------------------------------------------------------------------


def test_responses_left_of_the_tilde(data: pd.DataFrame) -> None:
    found = lmm("cbind(y, elec_2) ~ x + (1 | g)", data)
    assert found.response_names == ("y", "elec_2")
    np.testing.assert_allclose(found.coef[1], lmm("elec_2 ~ x + (1 | g)", data).coef[0], rtol=1e-12)
    logged = lmm("log(y2) ~ x + (1 | g)", data)
    assert logged.response_names == ("log(y2)",)
    np.testing.assert_allclose(logged.coef, lmm("v ~ x + (1 | g)", data.assign(v=np.log(data["y2"]))).coef)


@pytest.mark.parametrize(
    "responses, names",
    [
        ("elec_*", ["elec_0", "elec_1", "elec_2", "elec_3"]),
        ("y", ["y"]),
        (["elec_3", "y"], ["elec_3", "y"]),
        (["elec_[12]", "elec_2", "y?"], ["elec_1", "elec_2", "y2"]),
    ],
)
def test_responses_by_name(data: pd.DataFrame, responses: Any, names: list[str]) -> None:
    found = lmm("x + (1 | g)", data, responses=responses)
    assert list(found.response_names) == names
    np.testing.assert_allclose(found.coef[-1], lmm(f"{names[-1]} ~ x + (1 | g)", data).coef[0], rtol=1e-12)


def test_responses_as_array(data: pd.DataFrame) -> None:
    expected = lmm("x + (1 | g)", data, responses="elec_*")
    for Y in (data.filter(like="elec_").to_numpy(), data.filter(like="elec_"), data["elec_0"].tolist()):
        found = lmm("~ x + (1 | g)", data, Y)
        np.testing.assert_allclose(found.coef, expected.coef[: found.n_responses], rtol=1e-12)


def test_missing_responses(data: pd.DataFrame) -> None:
    without = data.dropna(subset=["gap"])
    for response in ("gap", "I(gap + 1)"):
        formula = f"cbind({response}, y) ~ a + (1 | g)"
        found = lmm(formula, data)
        assert found.n_used.tolist() == [59, 60]
        np.testing.assert_allclose(found.coef[0], lmm(f"{response} ~ a + (1 | g)", without).coef[0], rtol=1e-6)
        np.testing.assert_allclose(found.coef[1], lmm("y ~ a + (1 | g)", data).coef[0], rtol=1e-10)
        assert lmm(formula, data, missing="refuse").converged.tolist() == [False, True]


def test_weights(data: pd.DataFrame) -> None:
    found = lmm("y ~ a + (1 | g)", data, weights="y2")
    np.testing.assert_allclose(found.coef, lmm("y ~ a + (1 | g)", data, weights=data["y2"]).coef, rtol=1e-12)
    assert np.all(np.abs(found.coef - lmm("y ~ a + (1 | g)", data).coef) > 1e-6)
    with pytest.raises(ValueError, match="weights names 'w2', which is no column of the data"):
        lmm("y ~ a + (1 | g)", data, weights="w2")


def test_the_fit_knows_the_terms(data: pd.DataFrame) -> None:
    design = lmm("y ~ a*x + (1 | g:h)", data).design
    assert [term.name for term in design.terms.terms] == ["Intercept", "a", "x", "a:x"]
    assert design.random[0].name == "g:h"


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "formula, options, message",
    [
        ("y ~ xx + (1 | g)", {}, "uses 'xx', which is no column of the data; did you mean 'x'?"),
        ("y ~ x + (1 | G)", {}, "groups by 'G', which is no column of the data; did you mean 'g'?"),
        ("elec ~ x", {}, "uses 'elec', which is no column of the data; did you mean 'elec_"),
        ("y ~ log(zzz)", {}, "uses 'zzz', which is no column of the data; the columns are y, y2, x, a,"),
        ("y ~ bar.foo(x)", {}, "uses 'bar', which is no column"),
        ("y ~ lag2(x)", {}, "calls 'lag2', which is no known function (did you mean 'lag'?); write one of numpy"),
        ("y ~ max", {}, "uses 'max', which is no column"),
        ("y ~ x +", {}, "formula 'y ~ x +': Operator `+` has"),
        ("y ~ x $ a", {}, "has '$'; write the name of the column alone"),
        ("y ~ x a", {}, "Missing operator between `x` and `a`, at 'x a'."),
        ("y ~ x ~ a", {}, "has 2 '~'; write one"),
        ("y ~ .", {}, "has '.', R's all other columns; write the terms, such as y2 + x + a + k"),
        ("y ~ log(x, 1, 2, 3)", {}, "Unable to evaluate factor `log(x, 1, 2, 3)`. [TypeError"),
        ("y ~ gap", {"na": "refuse"}, "column 'gap' has 1 missing value, the first in row"),
        ("y ~ part", {"na": "refuse"}, "column 'part' has"),
        ("y ~ x + (1 | part)", {"na": "refuse"}, "column 'part' has"),
        ("y ~ same", {}, "factor 'same' has the single level 'q'"),
        ("y ~ day", {}, "column 'day' holds datetime64"),
        ("y ~ lag(x)", {}, "`lag(x)` contains null values"),
        ("y ~ C(a, levels=['a', 'b'])", {}, "Data has categories outside of the nominated levels"),
        ("y ~ a + C(a)", {}, "X is rank deficient"),
        ("a ~ x", {}, "Y column 'a' must be numeric"),
        ("C(a) ~ x", {}, "formula 'C(a) ~ x': the response 'C(a)' is not numeric"),
        ("x + (1 | g)", {}, "names no response; write 'y ~ ...', or give responses= or Y="),
        ("y ~ x", {"responses": "y2"}, "names the response and responses= is given too"),
        ("x", {"responses": "elek_*"}, "nothing matches the pattern 'elek_*'; did you mean 'elec_"),
        ("x", {"responses": ["y", "elec_7"]}, "nothing matches the column 'elec_7'; did you mean 'elec_"),
        ("x", {"Y": np.zeros((4, 60))}, "Y has 4 rows, data has 60; it looks transposed, try Y.T"),
        ("x", {"responses": np.zeros((60, 4))}, "found ndarray; responses that are no columns of data are Y="),
        (
            "x",
            {"Y": "elec_*"},
            "Y is 'elec_*', which is no file; columns of data are given by name, responses='elec_*'",
        ),
        ("x", {"Y": ["y", "y2"]}, "responses=['y', 'y2']"),
        ("x", {"Y": np.zeros(60), "responses": "y"}, "Y and responses are both given"),
        ("y ~ x", {"Y": np.zeros(60)}, "names a response, but the responses are Y"),
        ("x", {"Y": pd.Series(np.zeros(60))}, "data and Y have different indexes"),
        ("y ~ x", {"method": "MLE"}, "method must be one of 'REML', 'ML'"),
        ("y ~ x", {"df": "kr"}, "df must be one of"),
    ],
)
def test_refusals(data: pd.DataFrame, formula: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        lmm(formula, data, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_missing_values_are_counted(data: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="column 'part' has 3 missing values, the first in row 57; drop"):
        lmm("y ~ part", data.iloc[::-1].assign(part=lambda d: d["a"].where(np.arange(60) < 57)), na="refuse")


def test_columns_of_mixed_objects(data: pd.DataFrame) -> None:
    mixed = data.assign(v=pd.Series(["a", 1] * 30, index=data.index, dtype=object))
    with pytest.raises(ValueError, match="column 'v' holds int and str objects"):
        lmm("y ~ v", mixed)


def test_a_name_of_two_columns(data: pd.DataFrame) -> None:
    twice = pd.concat([data, data[["x"]]], axis=1)
    with pytest.raises(ValueError, match="uses 'x', which is the name of 2 columns"):
        lmm("y ~ x", twice)
    np.testing.assert_allclose(lmm("y ~ k", twice).coef, lmm("y ~ k", data).coef)  # not used, no harm


def test_data_of_other_kinds(data: pd.DataFrame) -> None:
    expected = lmm("y ~ x + (1 | g)", data).coef
    columns = {name: data[name].tolist() for name in ("y", "x", "g")}
    np.testing.assert_allclose(lmm("y ~ x + (1 | g)", columns).coef, expected)

    class Other:
        def to_pandas(self) -> pd.DataFrame:
            return data

    np.testing.assert_allclose(lmm("y ~ x + (1 | g)", Other()).coef, expected)
    with pytest.raises(ValueError, match="data must be a data frame with named columns, found ndarray"):
        lmm("y ~ x", np.zeros((5, 2)))


def test_the_data_are_not_changed(data: pd.DataFrame) -> None:
    before = data.copy()
    prepare_formula("y ~ a*flag*x + (1 | g:h)", data).rows(data)
    pd.testing.assert_frame_equal(data, before)


def test_without_formulaic_the_error_names_the_extra() -> None:
    code = (
        "import sys\nsys.modules['formulaic'] = None\n"
        "try:\n    import jaxlmm.formula.formula\nexcept ImportError as error:\n    print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 'pip install "jaxlmm[formula]"' in found.stdout
