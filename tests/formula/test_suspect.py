"""Columns that are hardly what they seem, by every way in; docs/bad-input.md, row by row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxlmm

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

TABLE = Path(__file__).parents[2] / "docs" / "bad-input.md"
N = 60
RNG = np.random.default_rng(0)
DATA = pd.DataFrame({
    "g": np.repeat([f"s{k}" for k in range(10)], 6), "a": np.tile(["p", "q", "r"], 20), "x": RNG.normal(size=N),
    "k": np.arange(N) % 12, "my column": np.tile(["u", "v"], 30),
})  # fmt: skip
Y = RNG.normal(size=(N, 2)) + RNG.normal(size=(10, 2)).repeat(6, axis=0)
FORMULA = "a + x + (1 | g)"
LONG = pd.concat([DATA.assign(trial=np.arange(N), cell=cell, y=RNG.normal(size=N)) for cell in ("Fz", "Cz")])
CHANGED = DATA.assign(x=DATA["x"].where(DATA.index != 4, np.inf))


def with_text(name: str, text: str) -> Any:
    """The data with a text in row 2 of a column."""
    return DATA.assign(**{name: DATA[name].where(DATA.index != 2, text)})


def lmm(data: Any, formula: str = FORMULA) -> Any:
    return jaxlmm.lmm(formula, data, Y)


def long(cells: Any) -> Any:
    return jaxlmm.lmm("y ~ x + (1 | g)", LONG.assign(cell=cells), by="cell", obs="trial")


REFUSED: dict[str, list[Any]] = {
    "suspect-missing": [
        lambda: lmm(with_text("a", "nan")), lambda: lmm(with_text("g", "")), lambda: lmm(with_text("a", " ")),
        lambda: lmm(with_text("a", "<NA>").astype({"a": "category"})), lambda: lmm(with_text("a", ""), "C(a) + x"),
        lambda: jaxlmm.prepare(FORMULA, with_text("g", "NaT")), lambda: lmm(with_text("a", "nan"), "x + (a | g)"),
    ],
    "suspect-space": [
        lambda: lmm(with_text("a", "p ")), lambda: lmm(with_text("g", " s3")), lambda: long(["Fz"] + ["Fz "] * 119),
        lambda: lmm(with_text("my column", "u\t"), "`my column` + (1 | g)"),
    ],
    "suspect-numbers": [
        lambda: lmm(DATA.assign(x=DATA["x"].astype(str))), lambda: lmm(DATA.assign(x=DATA["x"].astype("string"))),
        lambda: lmm(DATA.assign(x=DATA["x"].map("{:.3f}".format).str.replace(".", ","))),
    ],
    "suspect-few": [lambda: lmm(DATA.assign(k=DATA["k"].astype(str)), "k + (1 | g)")],
    "suspect-many": [lambda: lmm(DATA.assign(a=[f"t{k}" for k in range(N)]))],
    "suspect-mixed": [lambda: lmm(DATA.assign(x=DATA["x"].astype(object).where(DATA.index != 4, "n/a")))],
    "suspect-infinite": [lambda: lmm(CHANGED), lambda: lmm(CHANGED, "a + (x | g)")],
}  # fmt: skip


def rows() -> dict[str, str]:
    section = TABLE.read_text(encoding="utf-8").split("## Columns that are not what they seem")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([\w-]+)` \|.*?(?:ValueError|UserWarning): `([^`]+)`", section, re.M))


def test_the_table_and_the_tests_have_the_same_ids() -> None:
    assert set(rows()) == set(REFUSED)


@pytest.mark.filterwarnings("error")  # a warning is one of the answers
@pytest.mark.parametrize("key, k", [(key, k) for key, calls in REFUSED.items() for k in range(len(calls))])
def test_said_with_what_to_do(key: str, k: int) -> None:
    kind = UserWarning if key == "suspect-few" else ValueError
    with pytest.raises(kind, match=re.escape(rows()[key])) as said:
        REFUSED[key][k]()
    assert "\n" not in str(said.value) and len(str(said.value)) < 400


def test_the_line_that_the_message_gives_works() -> None:
    for change, key in ((DATA.assign(x=DATA["x"].map(str)), 0), (CHANGED, 1)):
        with pytest.raises(ValueError) as error:
            lmm(change)
        line = re.search(r"(data\['x'\] = .*?\))(?:\.$|, which)", str(error.value))
        names = {"data": change.copy(), "pandas": pd, "numpy": np}
        exec(line[1], names)  # type: ignore[index]
        fit = lmm(names["data"])
        assert fit.names == ("Intercept", "a[T.q]", "a[T.r]", "x") and fit.n_obs == N - key
    # Rows that miss a value do not shift the row that is named.
    holes = CHANGED.assign(a=CHANGED["a"].where(CHANGED.index > 1))
    with pytest.raises(ValueError, match="has 1 infinite value, the first in row 4"):
        lmm(holes)


def test_what_is_meant_is_fitted() -> None:
    factor = lmm(DATA.assign(k=DATA["k"].astype(str)), "C(k) + (1 | g)")
    np.testing.assert_allclose(
        factor.coef[:, 0], lmm(DATA.assign(k=DATA["k"].astype("category")), "k + (1 | g)").coef[:, 0]
    )
    numbers = DATA["g"].str[1:]
    assert lmm(DATA.assign(g=numbers)).n_groups == 10  # groups are labels
    unused = pd.Categorical(DATA["a"], ["p", "q", "r", "p ", ""])
    np.testing.assert_array_equal(lmm(DATA.assign(a=unused)).coef, lmm(DATA).coef)
    assert "a[T.NA]" in lmm(with_text("a", "NA")).names or "a[T.p]" in lmm(with_text("a", "NA")).names


def test_a_table_in_another_order_than_the_coordinates_of_its_responses() -> None:
    xr = pytest.importorskip("xarray")
    array = xr.DataArray(Y, dims=("trial", "cell"), coords={"g": ("trial", DATA["g"]), "x": ("trial", DATA["x"])})
    expected = lmm(DATA)
    np.testing.assert_allclose(jaxlmm.lmm(FORMULA, DATA, array).coef, expected.coef)
    shuffled = DATA.sample(frac=1, random_state=1).reset_index(drop=True)
    with pytest.raises(
        ValueError, match="column 'g' of data holds the values of Y's coordinate 'g' in another order"
    ):
        jaxlmm.lmm(FORMULA, shuffled, array)
    assert jaxlmm.lmm(FORMULA, shuffled, array.drop_vars(["g", "x"])).n_obs == N
    renamed = DATA.assign(g=DATA["g"].str.upper(), x=2 * DATA["x"])  # other values, as a column that was mended
    np.testing.assert_allclose(jaxlmm.lmm(FORMULA, renamed, array).coef[:, 3], expected.coef[:, 3] / 2)
    holes = DATA.assign(g=DATA["g"].where(DATA.index > 0))
    missing = array.assign_coords(g=("trial", holes["g"]))
    assert jaxlmm.lmm(FORMULA, holes, missing).n_obs == N - 1
