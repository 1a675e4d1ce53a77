"""What all results of tests share: they print, and become data frames and datasets with the labels of responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import jaxlmm
from jaxlmm.inference.tabular import COLUMNS, Tabular

pd = pytest.importorskip("pandas")
xr = pytest.importorskip("xarray")
pytest.importorskip("formulaic")

N, SUBJECTS = 60, np.repeat(np.arange(10), 6)
DATA = pd.DataFrame(
    {
        "cond": np.tile(list("abc"), 20), "sex": np.repeat(["m", "f"], 30),
        "x": np.random.default_rng(1).normal(size=N), "s": SUBJECTS,
    }
)  # fmt: skip
RESULTS: dict[str, Callable[[Any], Tabular]] = {
    "anova": lambda fit: fit.anova(),
    "emmeans": lambda fit: fit.emmeans("cond"),
    "emmeans by": lambda fit: fit.emmeans("cond", by="sex"),
    "pairs": lambda fit: fit.emmeans("cond").pairs(),
    "pairs by": lambda fit: fit.emmeans("cond", by="sex").pairs(),
    "contrast": lambda fit: fit.emmeans("cond * sex").contrast("consec", by="sex"),
    "products": lambda fit: fit.emmeans("cond * sex").contrast("pairwise", interaction=True),
    "overall": lambda fit: fit.emmeans("1"),
    "emtrends": lambda fit: fit.emtrends("cond", "x"),
    "joint": lambda fit: fit.joint_tests(),
    "joint by": lambda fit: fit.joint_tests(by="sex"),
    "anova II": lambda fit: fit.anova(type=2),
    "test": lambda fit: fit.test([{"x": 1}, {"cond[T.b]": 1, "cond[T.c]": -0.5}], rhs=[0, 0.5]),
    "ftest": lambda fit: fit.ftest([{"x": 1}, {"cond[T.b]": 1}]),
    "profile": lambda fit: fit.profile(),
    "compare": lambda fit: jaxlmm.compare(without(fit), fit),
    "compare three": lambda fit: jaxlmm.compare(without(fit, "1"), without(fit, "cond"), fit, refit="ML"),
    "rlrt": lambda fit: jaxlmm.rlrt(fit, n_sim=99),
}
# The names of a result's own arrays, where they are not those of the columns.
ROWS = {"anova": ["cond", "sex", "x", "cond:sex"], "test": ["x", "cond[T.b] - 0.5 cond[T.c] = 0.5"]}


def responses() -> Any:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(N, 3, 4)) + 0.5 * rng.normal(size=(10, 3, 4))[SUBJECTS]
    values[:, 2, 3] = 1.0  # not fitted
    coords = {"channel": ["Fz", "Cz", "Pz"], "time": [0.1, 0.2, 0.3, 0.4], "region": ("channel", list("fcp"))}
    return xr.DataArray(values, dims=("trial", "channel", "time"), coords=coords, attrs={"units": "uV"})


def fitted(formula: str = "cond * sex + x + (1 | s)", Y: Any = None) -> Any:
    return jaxlmm.lmm(formula, DATA, responses() if Y is None else Y, obs_dim="trial")


def without(fit: Any, fixed: str = "cond * sex + x") -> Any:
    """A smaller model of the same responses."""
    Y = xr.DataArray(fit.Y, dims=("trial", "response"))
    return jaxlmm.lmm(fixed, DATA, Y, obs_dim="trial")


@pytest.fixture(scope="module")
def fit() -> Any:
    return fitted()


@pytest.mark.parametrize("name", RESULTS)
def test_a_dataset_has_the_labels_of_the_responses_in_every_result(name: str, fit: Any) -> None:
    Y = responses()
    result = RESULTS[name](fit)
    if name.startswith("compare"):
        result = jaxlmm.compare(fitted("cond * sex + x"), fit)
    data = result.to_dataset()
    own = [variable for variable in data.values() if "channel" in variable.dims]
    assert own and all(variable.dims[-2:] == ("channel", "time") for variable in own)
    for coord in ("channel", "time", "region"):
        xr.testing.assert_identical(data[coord].variable, Y[coord].variable)
    assert all(variable.attrs["long_name"] for variable in data.values())
    units = {k for k, variable in data.items() if variable.attrs.get("units") in ("uV", "uV / x")}
    assert units == {"estimate", "se", "conf_low", "conf_high"} & set(data)
    assert data.isel(channel=2, time=3)[own[0].name].isnull().all()


@pytest.mark.parametrize("name", RESULTS)
def test_a_data_frame_says_the_same_as_the_dataset(name: str, fit: Any) -> None:
    result = RESULTS[name](fit)
    data, table = result.to_dataset(level=0.9), result.tidy(level=0.9)
    k = len(table) // 12
    keys = ["channel", "time"] if "compare" not in name else ["response"]
    keys = keys if "channel" in table else ["response"]
    assert list(table.columns[: len(keys)]) == keys and len(table) == 12 * k
    axes = [dim for dim in data.dims if dim not in ("channel", "time", "response")]
    for column, variable in data.items():
        whole = data[[column]].broadcast_like(data[next(reversed(list(data)))]) if axes else data[[column]]
        dims = [*(d for d in ("channel", "time", "response") if d in whole[column].dims), *axes]
        expected = whole[column].transpose(*dims).values.ravel()
        if expected.size == len(table):
            np.testing.assert_array_equal(table[COLUMNS[str(column)][2]], expected, err_msg=str(column))
        assert variable.size in (k, 12, 12 * k)
    if name in ROWS:
        assert list(table[axes[0]][:k]) == ROWS[name]


@pytest.mark.parametrize("name", RESULTS)
def test_one_response_prints_as_its_table_and_many_as_an_overview(name: str, fit: Any) -> None:
    result = RESULTS[name](fit)
    text, table = str(result), result.tidy()
    assert repr(result) == text and result._repr_html_().startswith("<pre>")
    assert "Responses: 12" in text and "Without a result: 1" in text
    if "p.value" in table:
        assert "P < 0.05" in text and "FDR < 0.05" in text
    one = result.summary(5)
    lines = one.splitlines()
    k = len(table) // 12
    rules = [i for i, line in enumerate(lines) if set(line) == {"-"}]
    assert len(lines[rules[-1] + 1 :]) >= k and "Responses:" not in one
    last = table["statistic" if "statistic" in table else "conf.low"].to_numpy()[5 * k + k - 1]
    assert f"{last:.4f}" in lines[rules[-1] + k]


def test_counts_of_an_overview(fit: Any) -> None:
    result = fit.anova()
    p = result.tidy(adjust="bh").query("term == 'sex'")
    line = next(line for line in str(result).splitlines() if line.startswith("sex"))
    assert line.split()[-2:] == [str((p["p.value"] < 0.05).sum()), str((p["p.adjusted"] < 0.05).sum())]


def test_results_of_a_selection_are_those_of_the_whole(fit: Any) -> None:
    whole, part = fit.anova().to_dataset(), fit.select([7, 2]).anova().tidy()
    assert list(part.columns[:2]) == ["channel", "time"]
    for _, row in part.iterrows():
        cell = whole.sel(channel=row["channel"], time=row["time"], term=row["term"])
        np.testing.assert_allclose(row["p.value"], cell["pvalue"], rtol=1e-9)


def test_a_level_of_emmeans_is_found_by_name(fit: Any) -> None:
    means = fit.emmeans("cond", by="sex")
    data, table = means.to_dataset(), means.tidy()
    assert data["estimate"].dims == ("sex", "cond", "channel", "time")
    for j, label in enumerate(means.labels):
        cell = data["estimate"].sel(**label)
        np.testing.assert_array_equal(cell.values.ravel(), means.estimate[:, j])
        rows = table[(table["cond"] == label["cond"]) & (table["sex"] == label["sex"])]
        np.testing.assert_array_equal(rows["estimate"], means.estimate[:, j])


def test_pairs_within_levels_are_found_by_name(fit: Any) -> None:
    pairs = fit.emmeans("cond", by=["sex", "x"], at={"x": [0, 1]}).pairs()
    data = pairs.to_dataset()
    for j, (label, by) in enumerate(zip(pairs.labels, pairs.by, strict=True)):
        cell = data["pvalue"].sel(contrast=label, **by)
        np.testing.assert_array_equal(cell.values.ravel(), pairs.pvalue[:, j])


def test_a_variable_that_is_called_like_a_dimension() -> None:
    found = fitted("cond + x + (1 | s)", responses().rename(time="cond")).emmeans("cond")
    data = found.to_dataset()
    assert data["estimate"].dims == ("cond_", "channel", "cond")
    assert list(found.tidy().columns[:3]) == ["channel", "cond", "cond_"]


def test_a_dimension_that_is_called_like_a_column() -> None:
    found = fitted("cond + x + (1 | s)", responses().rename(time="estimate")).emmeans("cond")
    for method in (found.tidy, found.to_dataset):
        with pytest.raises(ValueError, match="the dimension 'estimate' is called like a column of the table; rename"):
            method()


def test_a_value_given_twice(fit: Any) -> None:
    for at in ({"x": [1, 2, 1.0]}, {"cond": ["a", "b", "a"]}):
        with pytest.raises(ValueError, match=f"at gives .* for '{next(iter(at))}' twice; give each value once"):
            fit.emmeans("x", at=at)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.tidy(adjust="x"), "adjust must be one of"),
        (lambda r: r.tidy(level=95), "level must lie between"),
        (lambda r: r.to_dataset(level=0), "level must lie between"),
        (lambda r: r.summary("Oz"), "no response is named 'Oz'"),
        (lambda r: r.summary(12), "response 12 is out of range; there are 12"),
    ],
)
def test_errors(call: Any, message: str, fit: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call(fit.anova())


def test_intervals_alone_have_no_p_values_to_adjust(fit: Any) -> None:
    with pytest.raises(ValueError, match="Profile has no p-values"):
        fit.profile().tidy(adjust="bh")


def test_a_result_made_by_hand_has_responses_of_a_matrix() -> None:
    found = fitted().anova()
    alone = type(found)(found.terms, found.df_num, found.statistic, found.df_den, found.pvalue, found.df_method)
    assert alone.to_dataset()["pvalue"].dims == ("term", "response")
    assert list(alone.tidy()["response"][:5]) == ["y0"] * 4 + ["y1"]
