"""polars frames, and others with ``to_pandas``, in the place of pandas'."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import jaxlmm

pl = pytest.importorskip("polars")
pytest.importorskip("pyarrow")


def columns() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "y": rng.normal(size=120),
        "z": rng.normal(size=120),
        "x": rng.normal(size=120),
        "cond": np.tile(["b", "a", "c"], 40),
        "flag": np.tile([True, False], 60),
        "group": np.repeat([f"s{j}" for j in range(10)], 12),
        "weight": rng.uniform(1, 2, 120),
    }


def same(one: jaxlmm.Fit, other: jaxlmm.Fit) -> None:
    assert one.names == other.names and one.response_names == other.response_names
    np.testing.assert_array_equal(one.design.X, other.design.X)
    np.testing.assert_array_equal(one.coef, other.coef)
    np.testing.assert_array_equal(one.n_used, other.n_used)
    for a, b in zip(one.design.random, other.design.random, strict=True):
        assert a.name == b.name and a.levels == b.levels
        np.testing.assert_array_equal(a.codes, b.codes)


def test_a_formula_on_polars_is_that_on_pandas() -> None:
    data, frame = pd.DataFrame(columns()), pl.DataFrame(columns())
    for formula, options in (
        ("y ~ x * cond + flag + (1 | group)", {}),
        ("cbind(y, z) ~ x + (1 | group)", {"weights": "weight"}),
        ("x + (1 | group:cond)", {"responses": ["y", "z"]}),
        ("x + cond", {"responses": "[yz]"}),
    ):
        ours, theirs = (jaxlmm.lmm(formula, one, **options) for one in (frame, data))
        same(ours, theirs)
        np.testing.assert_array_equal(ours.anova().pvalue, theirs.anova().pvalue)
        np.testing.assert_array_equal(ours.predict(frame.head(5)), theirs.predict(data.head(5)))
    same(
        jaxlmm.lmm("x + (1 | group)", frame, Y=frame.select("y", "z"), weights=frame["weight"]),
        jaxlmm.lmm("x + (1 | group)", data, Y=data[["y", "z"]], weights=data["weight"]),
    )


def test_levels_of_a_categorical_do_not_depend_on_the_order_of_rows() -> None:
    # polars numbers them as they come, in this frame or in any before it; the reference would change with them.
    pl.Series(["later", "c", "b", "a"], dtype=pl.Categorical)
    frame = pl.DataFrame(columns())
    for rows in (frame, frame.reverse()):
        text = jaxlmm.lmm("y ~ cond + (1 | group)", rows)
        made = jaxlmm.lmm("y ~ cond + (1 | group)", rows.cast({"cond": pl.Categorical, "group": pl.Categorical}))
        assert made.names == ("Intercept", "cond[T.b]", "cond[T.c]")
        same(made, text)


def test_an_enum_keeps_its_order() -> None:
    frame = pl.DataFrame(columns()).cast({"cond": pl.Enum(["c", "unused", "a", "b"])})
    assert jaxlmm.lmm("y ~ cond + (1 | group)", frame).names == ("Intercept", "cond[T.a]", "cond[T.b]")


def test_a_dictionary_of_arrow_keeps_its_order() -> None:
    data = pd.DataFrame(columns())
    data["cond"] = pd.Categorical(data["cond"], ["c", "a", "b"])
    import pyarrow

    table = pyarrow.Table.from_pandas(data)
    same(jaxlmm.lmm("y ~ cond * x + (1 | group)", table), jaxlmm.lmm("y ~ cond * x + (1 | group)", data))


def test_frames_of_narwhals_are_what_they_hold() -> None:
    narwhals = pytest.importorskip("narwhals")
    data = pd.DataFrame(columns())
    data["cond"] = pd.Categorical(data["cond"], ["c", "a", "b"])
    frame = pl.DataFrame(columns()).cast({"cond": pl.Categorical})
    for one in (data, frame):
        formula = "y ~ cond * x + (1 | group)"
        same(jaxlmm.lmm(formula, narwhals.from_native(one)), jaxlmm.lmm(formula, one))
    assert data["cond"].cat.categories.tolist() == ["c", "a", "b"]


def with_nulls(name: str, *rows: int) -> Any:
    values = columns()
    values[name] = [None if i in rows else v for i, v in enumerate(values[name].tolist())]
    return pl.DataFrame(values)


def test_nulls_are_missing() -> None:
    frame = with_nulls("y", 3, 70)
    made = jaxlmm.lmm("cbind(y, z) ~ x + (1 | group)", frame)
    assert made.n_used.tolist() == [118, 120]
    rest = jaxlmm.lmm("y ~ x + (1 | group)", frame.drop_nulls("y"))
    np.testing.assert_allclose(made.coef[0], rest.coef[0], rtol=1e-10)
    for name in ("x", "cond", "flag", "group"):
        with pytest.raises(ValueError, match=f"column '{name}' has 2 missing values, the first in row 3;"):
            jaxlmm.lmm("y ~ x + cond + flag + (1 | group)", with_nulls(name, 3, 70), na="refuse")


def test_matrices_of_polars() -> None:
    data, frame = pd.DataFrame(columns()), with_nulls("z", 5)
    data.loc[5, "z"] = np.nan
    ours = jaxlmm.fit(frame.select(pl.lit(1).alias("one"), "x"), frame.select("y", "z"), frame["group"])
    same(ours, jaxlmm.fit(data.assign(one=1)[["one", "x"]], data[["y", "z"]], data["group"]))
    assert ours.names == ("one", "x") and ours.response_names == ("y", "z") and ours.n_used.tolist() == [120, 119]
    assert ours.design.random[0].name == "group"
    one = jaxlmm.fit(np.ones((120, 1)), frame["y"], frame["cond"].cast(pl.Categorical), weights=frame["weight"])
    assert one.response_names == ("y",) and one.design.random[0].levels == ("a", "b", "c")
    new = pl.DataFrame({"one": [1, 1], "x": [0.0, 1.0]})
    np.testing.assert_array_equal(
        ours.predict(new, pl.Series(["s1", "new"])), ours.predict(new.to_numpy(), ["s1", "new"])
    )
    with pytest.raises(ValueError, match=r"groups holds 1 missing labels, the first \(None\) in row 2"):
        jaxlmm.fit(np.ones((120, 1)), frame["y"], with_nulls("group", 2)["group"])
    with pytest.raises(ValueError, match="X must be numeric, found 'b'"):
        jaxlmm.fit(frame.select("x", "cond"), frame["y"])


def test_variables_of_a_labelled_array() -> None:
    frame = pl.DataFrame(columns())
    array = xr.DataArray(np.random.default_rng(1).normal(size=(120, 2, 3)), dims=("trial", "channel", "time"))
    ours, theirs = (
        jaxlmm.lmm("x * cond + (1 | group)", data, array, obs_dim="trial") for data in (frame, frame.to_pandas())
    )
    same(ours, theirs)


def test_a_lazy_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^data is a LazyFrame, which holds no values yet; give data.collect\(\).$"):
        jaxlmm.lmm("y ~ x + (1 | group)", pl.DataFrame(columns()).lazy())


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pl.DataFrame(columns())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"^this DataFrame needs pyarrow \(.*\): pip install pyarrow$"):
        jaxlmm.lmm("y ~ x + (1 | group)", frame)
