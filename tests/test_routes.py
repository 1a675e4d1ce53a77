"""One data set, one answer: every kind of column by every way into the package."""

from __future__ import annotations

import datetime
import decimal
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import blups

import jaxlmm
from jaxlmm.cli.cli import main
from jaxlmm.sources.levels import in_level_order

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")
da = pytest.importorskip("dask.array")
mne = pytest.importorskip("mne")
nw = pytest.importorskip("narwhals")
pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")
xr = pytest.importorskip("xarray")
pytest.importorskip("zarr")

N, M = 60, 4
FORMULA = "v + (1 | subject)"
RNG = np.random.default_rng(0)
CODES = RNG.permutation(np.tile([0, 1, 2], N // 3))
SUBJECT = np.repeat([f"s{i}" for i in range(10)], 6)
Y = RNG.normal(size=(N, M)) + RNG.normal(size=(10, M)).repeat(6, axis=0) + 0.5 * CODES[:, None]


def of(values: list[Any]) -> np.ndarray:
    """Three values, one for each code, as objects."""
    made = np.empty(3, dtype=object)
    made[:] = values
    return made[CODES]


def arrow(values: list[Any], kind: Any) -> Any:
    return pd.array(of(values), dtype=pd.ArrowDtype(kind))


def categorical(values: list[Any], categories: list[Any], ordered: bool = False) -> Any:
    return pd.Categorical(of(values), categories=categories, ordered=ordered)


WORDS, ORDER = ["mid", "low", "high"], ["low", "mid", "high"]
DICTIONARY = pa.DictionaryArray.from_arrays(pa.array(CODES.astype(np.int8)), pa.array(WORDS))
# Columns, and the levels of the factors that they are; None for covariates.
KINDS: dict[str, tuple[Any, list[Any] | None]] = {
    "int": (np.array([3, 1, 2])[CODES], None),
    "int8": (np.array([100, 1, 2], dtype=np.int8)[CODES], None),
    "uint8": (np.array([200, 1, 2], dtype=np.uint8)[CODES], None),
    "uint64": (np.array([2**63 + 2**12, 1, 2], dtype=np.uint64)[CODES] // np.uint64(2**10), None),
    "float": (np.array([0.5, 1.0, -2.5])[CODES], None),
    "float32": (np.array([0.1, 1.0, -2.5], dtype=np.float32)[CODES], None),
    "bool": (CODES == 0, [False, True]),
    "text": (of(WORDS), sorted(WORDS)),
    "text of numbers and letters": (of(["1", "a", "NA"]), ["1", "a", "NA"]),
    "levels NA and None": (of(["None", "NA", "EU"]), ["EU", "NA", "None"]),
    "string": (pd.array(of(WORDS), dtype="string"), sorted(WORDS)),
    "str": (pd.Series(of(WORDS).tolist()).array, sorted(WORDS)),
    "Int64": (pd.array(of([3, 1, 2]), dtype="Int64"), None),
    "Float64": (pd.array(of([0.5, 1, 2]), dtype="Float64"), None),
    "boolean": (pd.array(CODES == 0, dtype="boolean"), [False, True]),
    "Arrow int": (arrow([3, 1, 2], pa.int16()), None),
    "Arrow float": (arrow([0.5, 1.0, 2.0], pa.float64()), None),
    "Arrow bool": (arrow([True, False, True], pa.bool_()), [False, True]),
    "Arrow text": (arrow(WORDS, pa.string()), sorted(WORDS)),
    "Arrow decimal": (arrow([decimal.Decimal(v) for v in ("0.50", "1.25", "-2.00")], pa.decimal128(5, 2)), None),
    "Arrow dictionary": (pd.arrays.ArrowExtensionArray(DICTIONARY), WORDS),
    "categories": (categorical(WORDS, ORDER), ORDER),
    "ordered categories": (categorical(WORDS, ORDER, True), ORDER),
    "unused categories": (categorical(WORDS, ["none", *ORDER, "other"]), ORDER),
    "integer categories": (categorical([3, 1, 2], [2, 3, 1]), [2, 3, 1]),
    "float categories": (categorical([0.5, 1.5, 2.5], [1.5, 0.5, 2.5]), [1.5, 0.5, 2.5]),
    "bool categories": (pd.Categorical(CODES == 0, categories=[True, False]), [True, False]),
    "objects: int": (of([3, 1, 2]), None),
    "objects: int and float": (of([3, 1.5, 2]), None),
    "objects: bool": ((CODES == 0).astype(object), [False, True]),
    "objects: decimal": (of([decimal.Decimal("0.5"), decimal.Decimal(1), decimal.Decimal(2)]), None),
    "sparse": (pd.arrays.SparseArray(np.array([0.0, 1.0, -2.5])[CODES]), None),
}  # fmt: skip
TIMES: dict[str, Any] = {
    "datetime64": np.array(["2020-01-03", "2020-01-01", "2021-05-02"], dtype="datetime64[ns]")[CODES],
    "dates with a zone": pd.to_datetime(pd.Series(["2020-01-03", "2020-01-01", "2021-05-02"])[CODES])
    .dt.tz_localize("UTC")
    .array,
    "date": of([datetime.date(2020, 1, d) for d in (3, 1, 2)]),
    "Arrow date": arrow([datetime.date(2020, 1, d) for d in (3, 1, 2)], pa.date32()),
    "timedelta64": np.array([3, 1, 2], dtype="timedelta64[s]")[CODES],
}
Answer = tuple[list[str], np.ndarray, np.ndarray]


def table(column: Any) -> pd.DataFrame:
    """The data set."""
    return pd.DataFrame({"v": column, "subject": SUBJECT})


# -- routes: the frame to the names of the terms, coefficients and p-values (m, p) ---------------------


def from_fit(fit: jaxlmm.Fit) -> Answer:
    return list(fit.names), fit.coef, fit.pvalue


def from_dataset(data: xr.Dataset) -> Answer:
    p = data.sizes["term"]
    return [str(t) for t in data["term"].values], *(data[k].values.reshape(p, -1).T for k in ("coef", "pvalue"))


def as_polars(frame: pd.DataFrame) -> pl.DataFrame:
    """Text that has categories is an Enum, which alone has an order in polars."""
    made = pl.from_arrow(pa.Table.from_pandas(frame.astype({"subject": object}), preserve_index=False))
    v = frame["v"]
    if not isinstance(made.schema["v"], (pl.Categorical, pl.Enum)) and not isinstance(v.dtype, pd.CategoricalDtype):
        return made
    categories = v.cat.categories if isinstance(v.dtype, pd.CategoricalDtype) else WORDS
    enum = pl.Enum([str(c) for c in categories])
    return made.with_columns(pl.Series("v", [str(x) for x in v.tolist()], dtype=enum))


TABLES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "frame": lambda frame: frame,
    "dict": lambda frame: {name: frame[name].array for name in frame},
    "Arrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    "Arrow without pandas' notes": lambda frame: pa.Table.from_pandas(frame).replace_schema_metadata(None),
    "polars": as_polars,
    "narwhals": lambda frame: nw.from_native(as_polars(frame), eager_only=True),
}


def labelled(frame: pd.DataFrame | None = None) -> xr.DataArray:
    """The responses as an array, with the variables as coordinates."""
    made = xr.DataArray(Y.reshape(N, 2, 2), dims=("trial", "channel", "time"), coords={"trial": np.arange(N) + 7})
    if frame is None:
        return made
    values = {k: frame[k] for k in frame}
    # xarray has no coordinates of these types.
    values = {k: v.astype(object) if str(v.dtype) in ("string", "str") else v for k, v in values.items()}
    return made.assign_coords({k: ("trial", v.array) for k, v in values.items()})


def epochs(frame: pd.DataFrame) -> xr.DataArray:
    info = mne.create_info(["Fz", "Cz"], 100.0, "eeg")
    return jaxlmm.mne_io.epochs_to_dataarray(mne.EpochsArray(Y.reshape(N, 2, 2), info, metadata=frame, verbose=False))


def netcdf(frame: pd.DataFrame, folder: Path) -> xr.DataArray:
    epochs(frame).to_netcdf(folder / "epochs.nc", engine="h5netcdf")
    return xr.load_dataarray(folder / "epochs.nc", engine="h5netcdf")


def stored(folder: Path, *given: Any, **options: Any) -> Answer:
    return from_dataset(jaxlmm.lmm(FORMULA, *given, out=folder / "r.zarr", progress=False, **options))


def command(frame: pd.DataFrame, folder: Path, name: str, *options: str) -> Answer:
    both = pd.concat([frame, pd.DataFrame(Y, columns=[f"y{j}" for j in range(M)])], axis=1)
    (both.to_parquet if name.endswith("parquet") else both.to_csv)(folder / name, index=False)
    np.save(folder / "y.npy", Y)
    out = folder / ("r.zarr" if "--array" in options else "r.csv")
    options = options or ("--responses", "y*")
    arguments = ["fit", str(folder / name), "--formula", FORMULA, "--out", str(out), *options]
    result = CliRunner().invoke(main, [o.replace("FOLDER", str(folder)) for o in arguments])
    if result.exit_code:
        raise ValueError(result.output)
    if out.suffix == ".zarr":
        return from_dataset(xr.open_zarr(out))
    rows = pd.read_csv(out, keep_default_na=False)
    rows = rows[rows["effect"] == "fixed"]
    names = list(rows["term"][rows["response"] == "y0"])
    return names, *(rows[k].astype(float).to_numpy().reshape(M, -1) for k in ("estimate", "p.value"))


lmm = functools.partial(jaxlmm.lmm, FORMULA)
Route = Callable[[pd.DataFrame, Path], Answer]
ROUTES: dict[str, Route] = {
    **{k: lambda f, d, make=make: from_fit(lmm(make(f), Y)) for k, make in TABLES.items()},
    "DataArray and a table": lambda f, d: from_dataset(lmm(f, labelled(), obs_dim="trial").to_dataset()),
    "DataArray and polars": lambda f, d: from_fit(lmm(as_polars(f), labelled(), obs_dim="trial")),
    "coordinates": lambda f, d: from_fit(lmm(Y=labelled(f), obs_dim="trial")),
    "MNE": lambda f, d: from_fit(lmm(Y=epochs(f), obs_dim="trial")),
    "MNE and netCDF": lambda f, d: from_fit(lmm(Y=netcdf(f, d), obs_dim="trial")),
    "dask and a table": lambda f, d: from_dataset(lmm(f, labelled().chunk(time=1), obs_dim="trial").compute()),
    "dask and MNE": lambda f, d: from_dataset(lmm(Y=epochs(f).chunk(time=1), obs_dim="trial").compute()),
    "store and a table": lambda f, d: stored(d, f, Y),
    "store and Arrow": lambda f, d: stored(d, TABLES["Arrow"](f), labelled(), obs_dim="trial"),
    "store and coordinates": lambda f, d: stored(d, Y=labelled(f), obs_dim="trial"),
    "parquet": lambda f, d: command(f, d, "t.parquet"),
    "parquet and a store": lambda f, d: command(f, d, "t.parquet", "--array", "FOLDER/y.npy"),
}  # fmt: skip
TEXT_ROUTES: dict[str, Route] = {
    "csv": lambda f, d: command(f, d, "t.csv"),
    "compressed": lambda f, d: command(f, d, "t.csv.gz"),
    "csv and a store": lambda f, d: command(f, d, "t.csv", "--array", "FOLDER/y.npy"),
}


def by_hand(column: pd.Series, levels: list[Any] | None) -> Answer:
    """The model written out as a matrix."""
    if levels is None:
        X, names = column.astype(float).to_numpy()[:, None], ["v"]
    else:
        values = np.asarray(column, dtype=object)
        X = np.column_stack([[value == level for value in values] for level in levels[1:]])
        names = [f"v[T.{level}]" for level in levels[1:]]
    fit = jaxlmm.fit(np.column_stack([np.ones(N), X]), Y, SUBJECT, names=["Intercept", *names])
    return from_fit(fit)


def assert_same(found: Answer, expected: Answer) -> None:
    assert found[0] == expected[0]
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_column_by_every_route(kind: str, route: str, tmp_path: Path) -> None:
    column, levels = KINDS[kind]
    frame = table(column)
    if kind == "sparse" and ("Arrow" in route or "polars" in route or "parquet" in route or route == "narwhals"):
        pytest.skip("Arrow has no sparse columns")
    if "parquet" in route and kind in ("integer categories", "float categories", "bool categories"):
        with pytest.raises(
            ValueError, match=r"column 'v' of .* was categories of .*, whose order Parquet does not keep"
        ):
            ROUTES[route](frame, tmp_path)
        return
    assert_same(ROUTES[route](frame, tmp_path), by_hand(frame["v"], levels))


@pytest.mark.parametrize("route", [*ROUTES, *TEXT_ROUTES])
def test_levels_in_mixed_case(route: str, tmp_path: Path) -> None:
    frame = table(of(["b", "A", "a"]))
    assert_same((ROUTES | TEXT_ROUTES)[route](frame, tmp_path), from_fit(lmm(frame, Y)))


@pytest.mark.parametrize("route", TEXT_ROUTES)
@pytest.mark.parametrize("kind", [*KINDS, "datetime64", "date"])
def test_a_text_file_has_no_types(kind: str, route: str, tmp_path: Path) -> None:
    """Columns of numbers are covariates, whatever they were; all others are factors with sorted levels."""
    column, levels = KINDS.get(kind, (TIMES.get(kind), ["2020-01-01"]))
    frame = table(column)
    if levels is not None and "integer" not in kind and "float" not in kind:
        frame["v"] = frame["v"].astype(str)
        levels = in_level_order(frame["v"].unique())
    else:
        levels = None
    assert_same(TEXT_ROUTES[route](frame, tmp_path), by_hand(frame["v"], levels))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", TIMES)
def test_times_are_refused_by_every_route(kind: str, route: str, tmp_path: Path) -> None:
    if route == "MNE and netCDF" and kind in ("date", "dates with a zone", "timedelta64"):
        pytest.skip("netCDF holds no such objects")
    with pytest.raises(ValueError, match=r"column 'v' holds .*; make (it )?numbers"):
        ROUTES[route](table(TIMES[kind]), tmp_path)


def test_small_integers_do_not_wrap_around() -> None:
    frame = table(np.array([100, 1, 2], dtype=np.int8)[CODES])
    fit = jaxlmm.lmm("I(v**2) + (1 | subject)", frame, Y)
    np.testing.assert_array_equal(fit.design.X[:, 1], np.array([10000.0, 1, 4])[CODES])
    frame["y"] = frame["v"]
    response = jaxlmm.lmm("I(y * 2) ~ 1", frame)
    np.testing.assert_array_equal(response.Y[:, 0], np.array([200.0, 2, 4])[CODES])


# -- what else the routes share ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["categories", "integer categories", "Arrow dictionary", "Int64", "text"])
@pytest.mark.parametrize("route", ["frame", "dict", "Arrow", "coordinates", "MNE"])
def test_groups(kind: str, route: str) -> None:
    """Their levels have an order too, and their names are looked up in predictions."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"v": KINDS[kind][0], "subject": rng.normal(size=N)})  # v groups, subject is the covariate
    formula = "subject + (1 | v)"
    if route in TABLES:
        data = TABLES[route](frame)
        fit = jaxlmm.lmm(formula, data, Y)
    else:
        data = frame
        array = labelled(frame) if route == "coordinates" else epochs(frame)
        fit = jaxlmm.lmm(formula, Y=array, obs_dim="trial")
    expected = jaxlmm.lmm(formula, frame, Y)
    assert [str(v) for v in fit.design.random[0].levels] == [str(v) for v in expected.design.random[0].levels]
    np.testing.assert_allclose(blups(fit), blups(expected), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fit.predict(data), expected.fitted(), rtol=1e-9)


@pytest.mark.parametrize("container", TABLES)
@pytest.mark.parametrize("kind", KINDS)
def test_predict_and_augment_take_what_lmm_takes(kind: str, container: str) -> None:
    frame = table(KINDS[kind][0])
    if kind == "sparse" and container not in ("frame", "dict"):
        pytest.skip("Arrow has no sparse columns")
    fit, data = jaxlmm.lmm(FORMULA, frame, Y), TABLES[container](frame)
    if container in ("polars", "narwhals") and kind in ("integer categories", "float categories", "bool categories"):
        with pytest.raises(ValueError, match=r"column 'v' has the level '.*' in row 0, unknown to the fit"):
            fit.predict(data)  # polars' categories are text
        return
    np.testing.assert_allclose(fit.predict(data), fit.fitted(), rtol=1e-9)
    augmented = fit.augment(data=data)
    np.testing.assert_allclose(augmented[".fitted"], fit.fitted()[:, 0])
    assert list(augmented.columns[1:3]) == ["v", "subject"]


def test_new_data_may_have_0_and_1_for_bools() -> None:
    fit = lmm(table(CODES == 0), Y)
    np.testing.assert_allclose(fit.predict(table((CODES == 0).astype(int))), fit.fitted(), rtol=1e-9)
    np.testing.assert_allclose(fit.predict(table(KINDS["boolean"][0])), fit.fitted(), rtol=1e-9)


def test_record_arrays() -> None:
    frame = table(np.arange(N) / 7)
    fit = lmm(frame, Y)
    for records in (frame.to_records(index=False), np.array(frame.astype({"subject": "U2"}).to_records(index=False))):
        assert_same(from_fit(lmm(records, Y)), from_fit(fit))
        np.testing.assert_allclose(fit.predict(records), fit.fitted(), rtol=1e-9)
        assert fit.augment(data=records).shape == (N, 7)


@pytest.mark.parametrize("route", ["frame", "dict", "polars", "coordinates", "table", "lazy", "store", "csv"])
def test_weights_are_a_column_of_the_table(route: str, tmp_path: Path) -> None:
    w = np.random.default_rng(2).uniform(0.5, 2, N)
    frame = table(CODES).assign(w=w)
    expected = from_fit(
        jaxlmm.fit(np.column_stack([np.ones(N), CODES]), Y, SUBJECT, names=["Intercept", "v"], weights=w)
    )
    options: dict[str, Any] = {"obs_dim": "trial", "weights": "w"}
    if route in TABLES:
        found = from_fit(lmm(TABLES[route](frame), Y, weights="w"))
    elif route == "coordinates":
        found = from_fit(lmm(Y=labelled(frame), **options))
    elif route == "table":
        found = from_fit(lmm(frame, labelled(), **options))
    elif route == "lazy":
        found = from_dataset(lmm(frame, labelled().chunk(time=1), **options).compute())
    elif route == "store":
        found = stored(tmp_path, Y=labelled(frame), **options)
    else:
        found = command(frame, tmp_path, "t.csv", "--responses", "y*", "--weights", "w")
    assert_same(found, expected)


def test_patterns_of_responses_leave_the_formulas_columns_out() -> None:
    frame = table(CODES).assign(w=1.5, a=Y[:, 0], b=Y[:, 1])
    fit = jaxlmm.lmm(FORMULA, frame, responses="*", weights="w")
    assert fit.response_names == ("a", "b")
    assert jaxlmm.lmm("v + C(a > 0)", frame.drop(columns="subject"), responses=["*"]).response_names == ("w", "b")
    with pytest.raises(ValueError, match="the pattern 's\\*' matches only columns that the formula uses"):
        jaxlmm.lmm(FORMULA, frame, responses="s*")


# -- rows and their labels -----------------------------------------------------------------------------

IDS = np.arange(100, 100 + N)


def by_labels(formula: str, data: Any, ids: Any = IDS, route: str = "dataarray") -> np.ndarray:
    array = xr.DataArray(Y, dims=("trial", "channel"), coords={"trial": ids})
    if route == "dataarray":
        return jaxlmm.lmm(formula, data, array, obs_dim="trial").coef
    if route == "lazy":
        return jaxlmm.lmm(formula, data, array.chunk(channel=1), obs_dim="trial")["coef"].values.T
    if route == "lmm":
        return jaxlmm.lmm(formula, data, array).coef
    frame = jaxlmm.lmm(formula, data, pd.DataFrame(Y, index=ids))
    return frame.coef


@pytest.mark.parametrize("formula", ["v", FORMULA])
@pytest.mark.parametrize("route", ["dataarray", "lazy", "lmm", "frames"])
def test_rows_in_another_order_are_refused(route: str, formula: str) -> None:
    frame = table(CODES * 1.0).set_index(IDS)
    expected = by_labels(formula, frame, route=route)
    np.testing.assert_allclose(expected, jaxlmm.lmm(formula, frame.reset_index(drop=True), Y).coef, rtol=1e-8)
    for other in (frame[::-1], frame.set_index(IDS + 5)):
        with pytest.raises(ValueError, match=r"index"):
            by_labels(formula, other, route=route)
    shuffled = frame.sample(frac=1, random_state=0)
    np.testing.assert_array_equal(by_labels(formula, shuffled.loc[IDS], route=route), expected)


@pytest.mark.parametrize("formula", ["v", FORMULA])
@pytest.mark.parametrize("route", ["dataarray", "lazy"])
def test_a_column_of_labels_in_another_order_is_refused(route: str, formula: str) -> None:
    frame = table(CODES * 1.0).assign(trial=IDS)
    expected = by_labels(formula, frame, route=route)
    for make in TABLES.values():
        with pytest.raises(ValueError, match="column 'trial' of data holds the labels of Y in another order"):
            by_labels(formula, make(frame[::-1].reset_index(drop=True)), route=route)
    again = frame[::-1].set_index("trial").loc[IDS]  # what the message says
    np.testing.assert_array_equal(by_labels(formula, again, route=route), expected)
    within = frame.assign(trial=np.tile(np.arange(6), 10))  # a number within subjects is no label
    np.testing.assert_array_equal(by_labels(formula, within, route=route), expected)


def test_labels_that_say_nothing_of_the_order() -> None:
    frame = table(CODES * 1.0)
    expected = by_labels(FORMULA, frame)
    for other in (frame.set_index(np.array([f"r{i}" for i in range(N)])), {k: frame[k].array for k in frame}):
        np.testing.assert_array_equal(by_labels(FORMULA, other), expected)
    # Numbers of trials, some of which were dropped, beside a table that was numbered anew.
    np.testing.assert_array_equal(by_labels(FORMULA, frame, np.arange(N) * 2), expected)
    # In the array's own coordinates rows are its own, whatever its labels.
    array = labelled(frame).assign_coords(trial=np.random.default_rng(3).permutation(N))
    np.testing.assert_array_equal(jaxlmm.lmm(FORMULA, Y=array, obs_dim="trial").coef, expected)
    with pytest.raises(ValueError, match=r"in another order; .*Y.drop_vars\('trial'\) if they match by position"):
        by_labels(FORMULA, frame, np.random.default_rng(3).permutation(N))


@pytest.mark.parametrize("what", ["X", "groups", "weights"])
def test_labels_of_matrices(what: str) -> None:
    array = xr.DataArray(Y, dims=("trial", "channel"), coords={"trial": IDS})
    given = {
        "X": pd.DataFrame({"one": 1.0, "v": CODES * 1.0}, index=IDS),
        "groups": pd.Series(SUBJECT, index=IDS),
        "weights": pd.Series(np.linspace(1, 2, N), index=IDS),
    }
    jaxlmm.fit(Y=array, **given)
    for one in (given[what][::-1], given[what][::-1].to_xarray() if what != "X" else given[what][::-1]):
        wrong = given | {what: one}
        with pytest.raises(ValueError, match="index"):
            jaxlmm.fit(Y=array, **wrong)
        with pytest.raises(ValueError, match="index"):
            jaxlmm.prepare(**wrong).fit(array)


# -- categories as attributes --------------------------------------------------------------------------


def test_categories_as_an_attribute_of_a_coordinate() -> None:
    array = labelled(table(of(WORDS)))
    array["v"].attrs["categories"] = ORDER
    assert jaxlmm.lmm(FORMULA, Y=array, obs_dim="trial").names == ("Intercept", "v[T.mid]", "v[T.high]")
    part = array.isel(trial=slice(40)).sortby("trial", ascending=False)
    assert jaxlmm.lmm(FORMULA, Y=part, obs_dim="trial").names == ("Intercept", "v[T.mid]", "v[T.high]")
    array["v"].attrs["categories"] = ["low", "high"]
    with pytest.raises(ValueError, match=r"coordinate 'v' has the value 'mid' in row .*attribute categories"):
        jaxlmm.lmm(FORMULA, Y=array, obs_dim="trial")
