"""Type III hypotheses: lmerTest's tables, the definition by cell means, every coding, and checks of input."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from conftest import REFERENCE, load_reference

from jaxlmm import lmm
from jaxlmm.design.terms import Factor, Part, Term, TermStructure, make_terms_structure, type3_contrasts
from jaxlmm.formula.formula import FormulaDesign, prepare_formula
from jaxlmm.inference.hypotheses import f_test

TABLES = [
    (name, method)
    for name in "sleepstudy orthodont machines hsb82 chickweight co2 ergostool".split()
    for method in ("satterthwaite", "kenward-roger")
    if (name, method) != ("hsb82", "kenward-roger")  # too large for pbkrtest
]


def frame_of(name: str) -> tuple[str, pd.DataFrame]:
    """Formula and data of a reference set; numbers that code groups are text, as R's factors."""
    data = pd.read_csv(REFERENCE / f"{name}.csv")
    if "Diet" in data:
        data["Diet"] = data["Diet"].astype(str)
    return load_reference(name).expected["formula"], data


def contrasts_of(design: FormulaDesign) -> dict[str, np.ndarray]:
    return type3_contrasts(design.structure, design.names)


def same_space(A: np.ndarray, B: np.ndarray) -> bool:
    """Whether the rows of A and of B span the same space, and those of A are independent."""
    ranks = [np.linalg.matrix_rank(M, tol=1e-8) for M in (A, B, np.vstack([A, B]))]
    return ranks == [len(A)] * 3


def crossed(seed: int = 0, extra: int = 9) -> pd.DataFrame:
    """Unbalanced data with all cells of three factors, two covariates, groups, and a response."""
    rng = np.random.default_rng(seed)
    rows = list(itertools.product("pqr", "uv", "klmn", range(2)))
    data = pd.DataFrame(rows, columns=["a", "b", "c", "copy"])
    data = pd.concat([data, data.iloc[rng.choice(len(data), extra, replace=False)]], ignore_index=True)
    n = len(data)
    data["x"], data["z"] = rng.normal(size=n), rng.uniform(1, 3, n)
    data["g"] = rng.integers(0, 9, n)
    data["y"] = rng.normal(size=n) + rng.normal(size=9)[data["g"]] + data["x"] * (data["a"] == "q")
    return data


@pytest.mark.parametrize("name, method", TABLES)
def test_tables_of_lmertest(name: str, method: str) -> None:
    formula, data = frame_of(name)
    expected = load_reference(name).expected[f"anova_{method.replace('-', '_')}"]
    fit = lmm(formula, data, df=method)
    contrasts = contrasts_of(prepare_formula(formula, data))
    assert list(contrasts) == np.atleast_1d(expected["term"]).tolist()
    tests = [f_test(fit.estimates, L, np.zeros(len(L)), method) for L in contrasts.values()]
    for key, found in (
        ("numdf", [t.df_num for t in tests]),
        ("dendf", [t.df_den[0] for t in tests]),
        ("F", [t.statistic[0] for t in tests]),
        ("p", [t.pvalue[0] for t in tests]),
    ):
        np.testing.assert_allclose(found, np.atleast_1d(expected[key]), rtol=1e-4, err_msg=key)


@pytest.mark.parametrize(
    "formula",
    [
        "a*b",
        "b:a + a + b",
        "a*b*c",
        "x*a*b",
        "a*x + b*x + c",
        "C(a, contr.sum)*x*b",
        "C(b, contr.helmert)*C(a, contr.poly) + x:a + x",
        "C(a, contr.treatment('r'))*C(b, contr.sum)*x",
        "C(a, contr.custom([[1, 0], [2, 5], [0, 1]]))*b*x",
    ],
)
def test_averages_of_cell_means(formula: str) -> None:
    """By the rows of X over all cells: slopes and means, averaged, then their interaction contrasts."""
    design = prepare_formula(formula, crossed())
    levels = {v.name: v.levels for v in design.variables if v.factor}
    cells = list(itertools.product(*levels.values()))
    columns = {name: [cell[i] for cell in cells] for i, name in enumerate(levels)}
    at_zero = design.rows({**columns, "x": np.zeros(len(cells))})
    slopes = design.rows({**columns, "x": np.ones(len(cells))}) - at_zero
    checked = 0
    for term, L in contrasts_of(design).items():
        parts = term.split(":")
        inside = {
            name for name in levels if any(part in (name, f"C({name})") or f"({name}," in part for part in parts)
        }
        table = (slopes if "x" in parts else at_zero).reshape(*map(len, levels.values()), -1)
        for axis, name in enumerate(levels):
            if name in inside:
                table = np.diff(table, axis=axis)
            else:
                table = table.mean(axis=axis, keepdims=True)
        assert same_space(L, table.reshape(-1, table.shape[-1])), term
        checked += 1
    assert checked == len(design.structure.terms) - 1  # all but the intercept


def test_age_by_sex() -> None:
    design = prepare_formula(*frame_of("orthodont"))
    contrasts = contrasts_of(design)
    np.testing.assert_allclose(contrasts["age"], [[0, 1, 0, 0.5]], atol=1e-15)
    np.testing.assert_array_equal(contrasts["Sex"], [[0, 0, 1, 0]])
    np.testing.assert_array_equal(contrasts["age:Sex"], [[0, 0, 0, 1]])


@pytest.mark.parametrize(
    "formula, term, expected",
    [
        # Nested: the means of a, each over its own levels of b.
        ("a + a:b", "a", [[0, 1, 0, -0.5, 0.5, 0], [0, 0, 1, -0.5, 0, 0.5]]),
        ("a + a:b", "a:b", np.eye(6)[3:]),
        ("b + a:b", "b", [[0, 1, -1 / 3, -1 / 3, 1 / 3, 1 / 3]]),
        # A term without the terms it contains tests all of its cells.
        ("1 + a:b", "a:b", np.eye(6)[1:]),
        ("a:x", "a:x", np.eye(4)[1:]),
        ("a + a:x", "a", np.eye(6)[1:3]),
        # The means of a factor are compared without an intercept as with one.
        ("0 + a", "a", [[-1, 1, 0], [-1, 0, 1]]),
        ("0 + a + b", "a", [[-1, 1, 0, 0], [-1, 0, 1, 0]]),
        ("0 + a + b", "b", np.eye(4)[3:]),
        ("0 + a + a:b", "a", [[-1, 1, 0, -0.5, 0.5, 0], [-1, 0, 1, -0.5, 0, 0.5]]),
        ("0 + a*b", "a", [[-1, 1, 0, 0, 0.5, 0], [-1, 0, 1, 0, 0, 0.5]]),
        ("0 + a*b", "b", [[0, 0, 0, 1, 1 / 3, 1 / 3]]),
    ],
)
def test_by_hand(formula: str, term: str, expected: np.ndarray) -> None:
    contrasts = contrasts_of(prepare_formula(formula, crossed()))
    np.testing.assert_allclose(contrasts[term], expected, atol=1e-12)


@pytest.mark.parametrize("method", ["satterthwaite", "kenward-roger"])
@pytest.mark.parametrize("formula", ["{a}*{b}*x", "{a} + {a}:{b}", "0 + {a}", "0 + {a}*{b}", "{a}*poly(x, 2) + {b}"])
def test_same_tests_in_every_coding(formula: str, method: str) -> None:
    data = crossed(1)
    found = []
    for coding in ("contr.treatment", "contr.sum", "contr.helmert", "contr.poly", "contr.treatment('{}')"):
        text = formula.format(a=f"C(a, {coding.format('r')})", b=f"C(b, {coding.format('v')})")
        fit = lmm(f"y ~ {text} + (1 | g)", data, df=method)
        contrasts = contrasts_of(prepare_formula(text, data)).values()
        tests = [f_test(fit.estimates, L, np.zeros(len(L)), method) for L in contrasts]
        found.append([(t.df_num, t.statistic[0], t.df_den[0]) for t in tests])
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-6)


@pytest.mark.parametrize(
    "one, two",
    [
        ("a*b*c", "c*b*a"),
        ("a + b + c + a:b:c", "c + b + a + c:a:b"),
        ("a*b*x", "x*C(b, contr.sum)*C(a, contr.helmert)"),
        ("a + a:b", "C(a, contr.poly) + C(b, contr.sum):C(a, contr.poly)"),
    ],
)
def test_order_and_coding_do_not_matter(one: str, two: str) -> None:
    """Designs that span the same space have the same hypotheses, up to the map of the coefficients."""
    first, second = (prepare_formula(formula, crossed(2)) for formula in (one, two))
    to_second = np.linalg.lstsq(second.X, first.X, rcond=None)[0]
    np.testing.assert_allclose(second.X @ to_second, first.X, atol=1e-10)
    found = {_plain(term): L for term, L in contrasts_of(second).items()}
    for term, L in contrasts_of(first).items():
        assert same_space(L, found[_plain(term)] @ to_second), term


def _plain(term: str) -> frozenset[str]:
    """The factors of a term, without their coding."""
    return frozenset(part[2] if part.startswith("C(") else part for part in term.split(":"))


@pytest.mark.parametrize("spline, k", [("poly(x, 2)", 2), ("bs(x, df=4)", 4), ("x", 1)])
def test_covariates_of_several_columns(spline: str, k: int) -> None:
    design = prepare_formula(f"{spline}*a*poly(z, 2) + b", crossed())
    contrasts = contrasts_of(design)
    assert contrasts[spline].shape == (k, len(design.names))
    names = list(design.names)
    for row, L in enumerate(contrasts[spline]):
        column = spline if k == 1 else f"{spline}[{row + 1}]"
        expected = np.zeros(len(names))
        expected[names.index(column)] = 1
        for level in "qr":  # the average of the three levels' coefficients
            expected[names.index(f"{column}:a[T.{level}]")] = 1 / 3
        np.testing.assert_allclose(L, expected, atol=1e-12)
    both = contrasts[f"{spline}:poly(z, 2)"]
    assert both.shape[0] == 2 * k
    for L, name in zip(both, [n for n in names if "poly(z" in n and spline in n and "a[" not in n], strict=True):
        used = {names[j] for j in np.flatnonzero(L)}
        left, right = name.split(":")
        assert used == {name, *(f"{left}:a[T.{level}]:{right}" for level in "qr")}


def test_a_basis_that_spans_the_constant() -> None:
    """With and without its first column in one formula; the curves and their differences are the same."""
    basis = "bs(x, df=4, include_intercept=True)"
    data = crossed()
    with_1, without = (contrasts_of(prepare_formula(f"{one} + {basis}*a", data)) for one in (1, 0))
    assert [L.shape for L in with_1.values()] == [(3, 12), (2, 12), (6, 12)]
    assert [L.shape for L in without.values()] == [(4, 12), (2, 12), (6, 12)]
    mean_curve = np.eye(12)[:4]
    for j in range(1, 4):  # the first column of the basis has no interaction with a
        mean_curve[j, [5 + j, 8 + j]] = 1 / 3
    names = prepare_formula(f"0 + {basis}*a", data).names
    assert [names[i] for i in np.flatnonzero(mean_curve[1])] == [
        f"{basis}[1]", f"{basis}[1]:a[T.q]", f"{basis}[1]:a[T.r]",
    ]  # fmt: skip
    np.testing.assert_allclose(without[basis], mean_curve, atol=1e-12)


@pytest.mark.parametrize("formula", ["a*b*c", "1 + a:b", "C(a, contr.sum)*C(b, contr.poly) + a:c", "0 + b:a + c"])
def test_codings_make_the_columns_of_X(formula: str) -> None:
    data = crossed()
    design = prepare_formula(formula, data)
    made = np.full(design.X.shape, np.nan)
    for term in design.structure.terms:
        for part in term.parts:
            block = np.ones((len(data), 1))
            for name, coding in part.codings:
                levels = next(f.levels for f in design.structure.factors if f.name == name)
                column = data[name[2] if name.startswith("C(") else name]
                rows = coding[[levels.index(v) for v in column]]
                block = (rows[:, :, None] * block[:, None, :]).reshape(len(data), -1)
            made[:, list(part.columns)] = block
    np.testing.assert_allclose(made, design.X, atol=1e-12)


# -- terms as a user writes them ------------------------------------------------------------------

NAMES = ("(Intercept)", "MachineB", "MachineC", "age", "MachineB:age")


def test_terms_by_name_and_position() -> None:
    structure = make_terms_structure({"Machine": ["MachineB", 2], "slope": "MachineB:age"}, NAMES)
    contrasts = type3_contrasts(structure, NAMES)
    assert list(contrasts) == ["Machine", "age", "slope"]
    np.testing.assert_array_equal(contrasts["Machine"], np.eye(5)[1:3])
    np.testing.assert_array_equal(contrasts["age"], np.eye(5)[[3]])
    np.testing.assert_array_equal(contrasts["slope"], np.eye(5)[[4]])


def test_terms_are_in_the_order_of_their_columns() -> None:
    names = ("z", "one", "b", "a")
    structure = make_terms_structure({"M": ["a", "one"], "L": ["b"]}, names)
    assert list(type3_contrasts(structure, names)) == ["z", "M", "L"]


def test_rows_are_in_the_order_that_the_user_gave() -> None:
    structure = make_terms_structure({"T": [-1, "age"]}, NAMES)
    np.testing.assert_array_equal(type3_contrasts(structure, NAMES)["T"], np.eye(5)[[4, 3]])


@pytest.mark.parametrize("name", ["Intercept", "(Intercept)", "const", "Constant"])
def test_the_intercept_is_tested_on_request_only(name: str) -> None:
    assert list(type3_contrasts(make_terms_structure(None, (name, "x")), (name, "x"))) == ["x"]
    asked = make_terms_structure({"level": name}, (name, "x"))
    assert list(type3_contrasts(asked, (name, "x"))) == ["level", "x"]


def test_constant_columns_are_not_tested() -> None:
    assert list(type3_contrasts(make_terms_structure({}, ("one", "x"), constant=[0]), ("one", "x"))) == ["x"]
    assert list(type3_contrasts(make_terms_structure({}, ("one", "x")), ("one", "x"))) == ["one", "x"]


def test_a_structure_is_checked_and_kept() -> None:
    structure = make_terms_structure({}, NAMES)
    assert make_terms_structure(structure, NAMES) is structure
    with pytest.raises(ValueError, match="terms describes 5 columns, X has 2"):
        make_terms_structure(structure, NAMES[:2])
    with pytest.raises(ValueError, match="describe 5 columns, but there are 2 names"):
        type3_contrasts(structure, NAMES[:2])


@pytest.mark.parametrize(
    "terms, message",
    [
        ({"M": ["MachineD"]}, "term 'M' has column 'MachineD', but the columns of X are (Intercept), MachineB"),
        ({"M": [5]}, "term 'M' has column 5, but X has 5 columns"),
        ({"M": [-6]}, "term 'M' has column -6"),
        ({"M": [True]}, "term 'M' has column True"),
        ({"M": 1.5}, "term 'M' has column 1.5"),
        ({"M": [1, "MachineB"]}, "column 'MachineB' is in terms 'M' and 'M'"),
        ({"M": [1], "N": [1, 2]}, "column 'MachineB' is in terms 'M' and 'N'"),
        ({"M": []}, "term 'M' has no columns"),
        ({"age": [1, 2]}, "term 'age' has the name of a column that is not in it"),
        (["MachineB"], "terms must map names of terms to columns"),
        ("MachineB", "terms must map names of terms to columns"),
    ],
)
def test_wrong_terms(terms: object, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make_terms_structure(terms, NAMES)
    assert message in str(error.value)


def test_wrong_structures() -> None:
    with pytest.raises(ValueError, match=r"each in one term; found columns \[0, 0\]"):
        TermStructure((Term("a", (0,)), Term("b", (0,))))
    with pytest.raises(ValueError, match="codings of term 'a' do not make its columns"):
        TermStructure((Term("a", (0, 1), ("a",), (Part((0, 1), (("a", np.eye(3)),)),)),))


def test_no_type3_test_where_a_coding_is_not_known() -> None:
    coded = Term("a", (0,), ("a",), (Part((0,), (("a", np.array([[0.0], [1.0]])),)),))
    unknown = Term("a:h", (1, 2), ("a", "h"))
    structure = TermStructure((coded, unknown), (Factor("a", ("p", "q")), Factor("h", ())))
    with pytest.raises(ValueError, match="term 'a' is part of 'a:h'"):
        type3_contrasts(structure, ("a", "h1", "h2"))
    # A covariate that the other lacks: not contained, so both can be tested.
    slope = TermStructure((coded, unknown), (Factor("a", ("p", "q")), Factor("h")))
    contrasts = type3_contrasts(slope, ("a", "h1", "h2"))
    np.testing.assert_allclose(contrasts["a"], [[1, 0, 0]], atol=1e-15)
    np.testing.assert_array_equal(contrasts["a:h"], np.eye(3)[1:])


@pytest.mark.parametrize("coding", [[[1.0], [0.0]], [[1.0], [-1.0]], [[0.0], [1.0]], [[3.0], [1.0]]])
def test_one_column_without_an_intercept(coding: list[list[float]]) -> None:
    """The test is of that column, though no coding of differences says the same."""
    b, ab = np.array(coding), np.array([[0.0], [1.0]])
    structure = TermStructure(
        (
            Term("b", (0,), ("b",), (Part((0,), (("b", b),)),)),
            Term("a:b", (1,), ("a", "b"), (Part((1,), (("a", ab), ("b", b))),)),
        ),
        (Factor("a", (0, 1)), Factor("b", (0, 1))),
    )
    assert same_space(type3_contrasts(structure, ("b", "ab"))["b"], np.array([[1, 0.5]]))
