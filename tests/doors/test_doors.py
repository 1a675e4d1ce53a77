"""One data set through both doors: every kind of responses, in every place, gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxlmm

pd = pytest.importorskip("pandas")
xr = pytest.importorskip("xarray")
pytest.importorskip("formulaic")
da = pytest.importorskip("dask.array")
h5py = pytest.importorskip("h5py")
pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")
zarr = pytest.importorskip("zarr")

N, M = 60, 4
RNG = np.random.default_rng(0)
GROUPS = np.repeat(list("abcdef"), 10)
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
Y = RNG.normal(size=(N, M)) + RNG.normal(size=(6, M)).repeat(10, axis=0)
CUBE = Y.reshape(N, 2, 2)
FORMULA = "x + (1 | g)"
TABLE = pd.DataFrame({"x": X[:, 1], "g": GROUPS, **{f"y{j}": Y[:, j] for j in range(M)}})
COLUMNS = {f"y{j}": Y[:, j] for j in range(M)}


def array(dims: tuple[str, ...] = ("channel", "trial", "time"), **coords: Any) -> Any:
    labels = {"x": ("trial", X[:, 1]), "g": ("trial", GROUPS), "channel": ["Fz", "Cz"]}
    return xr.DataArray(CUBE, dims=("trial", "channel", "time"), coords=labels | coords).transpose(*dims)


def saved(folder: Path, values: np.ndarray = Y) -> Path:
    np.save(folder / "y.npy", values)
    return folder / "y.npy"


def hdf5(folder: Path) -> str:
    with h5py.File(folder / "y.h5", "w") as file:
        file["part/y"] = Y
    return f"{folder / 'y.h5'}:/part/y"


def zarr_array(folder: Path, values: np.ndarray = Y, **options: Any) -> Any:
    return zarr.create_array(folder / "y.zarr", data=values, chunks=values.shape, **options)


# Responses, and the dimensions that the results have; None for plain columns.
KINDS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...] | None]] = {
    "array": (lambda _: Y, None),
    "list": (lambda _: Y.tolist(), None),
    "masked": (lambda _: np.ma.MaskedArray(Y), None),
    "pandas": (lambda _: pd.DataFrame(COLUMNS), None),
    "polars": (lambda _: pl.DataFrame(COLUMNS), None),
    "Arrow": (lambda _: pa.table(COLUMNS), None),
    "dict": (lambda _: COLUMNS, None),
    "path": (saved, None),
    "memory map": (lambda folder: np.load(saved(folder), mmap_mode="r"), None),
    "HDF5": (lambda folder: h5py.File(hdf5(folder).split(":")[0])["part/y"], None),
    "HDF5 path": (hdf5, None),
    "Zarr": (zarr_array, None),
    "Zarr path": (lambda folder: str(zarr_array(folder) and folder / "y.zarr"), None),
    "axes": (lambda _: CUBE, ("dim_1", "dim_2")),
    "lists of lists": (lambda _: CUBE.tolist(), ("dim_1", "dim_2")),
    "path of axes": (lambda folder: saved(folder, CUBE), ("dim_1", "dim_2")),
    "Zarr with names": (
        lambda folder: zarr_array(folder, CUBE, dimension_names=["t", "a", "b"]), ("a", "b")),
    "DataArray": (lambda _: array(), ("channel", "time")),
    "dask": (lambda _: da.from_array(Y, chunks=(20, 3)), ("response",)),
    "dask DataArray": (lambda _: array().chunk(channel=1), ("channel", "time")),
}  # fmt: skip


def numbers(found: Any) -> np.ndarray:
    """p-values (m, p), whatever holds them."""
    if isinstance(found, xr.Dataset):
        return found["pvalue"].to_numpy().reshape(2, -1).T
    return getattr(found, "fit", found).pvalue


def dims_of(found: Any) -> tuple[str, ...]:
    return found["sigma2"].dims if isinstance(found, xr.Dataset) else found.dims


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_responses(kind: str, tmp_path: Path) -> None:
    make, dims = KINDS[kind]
    given, expected = make(tmp_path), jaxlmm.fit(X, Y, GROUPS).pvalue
    out = {"out": tmp_path / "out.zarr", "overwrite": True, "progress": False}
    models = [jaxlmm.prepare(X, GROUPS), jaxlmm.prepare(FORMULA, TABLE)]
    for place in ({}, out):
        ways = [jaxlmm.fit(X, given, GROUPS, **place), jaxlmm.lmm(FORMULA, TABLE, given, **place)]
        for found in (*ways, *(model.fit(given, **place) for model in models)):
            np.testing.assert_allclose(numbers(found), expected, rtol=1e-9)
            assert isinstance(found, xr.Dataset) == (bool(place) or "dask" in kind)
            if dims is not None or place:
                assert dims_of(found) == (dims or ("response",))
            if isinstance(found, xr.Dataset) and not place:
                assert found["coef"].chunks is not None  # nothing is computed yet


def test_columns_of_the_table_and_names() -> None:
    expected = jaxlmm.fit(X, Y, GROUPS).pvalue
    model = jaxlmm.prepare(FORMULA, data=TABLE)
    for found in (
        jaxlmm.lmm(FORMULA, TABLE, responses="y*"),
        jaxlmm.lmm("cbind(y0, y1, y2, y3) ~ " + FORMULA, TABLE),
        model.fit(responses=list(COLUMNS)),
        model.fit(responses=TABLE.columns[2:]),
        jaxlmm.prepare("cbind(y0, y1, y2, y3) ~ " + FORMULA, TABLE).fit(),
        jaxlmm.lmm(FORMULA, TABLE, Y, response_names=list(COLUMNS)),
    ):
        np.testing.assert_allclose(found.pvalue, expected, rtol=1e-9)
        assert found.response_names == tuple(COLUMNS)


def test_names_and_labels_reach_the_disk_and_dask(tmp_path: Path) -> None:
    for place in ({}, {"out": tmp_path / "a.zarr", "progress": False, "overwrite": True}):
        given = Y if place else da.from_array(Y, chunks=(N, 2))
        named = jaxlmm.fit(X, given, GROUPS, response_names=list("pqrs"), **place)
        assert list(named["response"].values) == list("pqrs")
        labelled = jaxlmm.fit(X, given, GROUPS, dims="channel", coords={"channel": list("pqrs")}, **place)
        assert list(labelled["channel"].values) == list("pqrs")
    frame = jaxlmm.fit(X, pd.DataFrame(COLUMNS), GROUPS, out=tmp_path / "b.zarr", progress=False)
    assert list(frame["response"].values) == list(COLUMNS)


def test_the_dimension_of_the_observations_is_found() -> None:
    """By its length, or by the coordinates that are named; where both leave a doubt, the user says it."""
    expected = jaxlmm.fit(X, array(), GROUPS, obs_dim="trial")
    square = xr.DataArray(np.zeros((N, N)), dims=("trial", "voxel"), coords={"g": ("trial", GROUPS)})
    square = square + RNG.normal(size=(N, N))
    for found in (
        jaxlmm.fit(X, array(), GROUPS),
        jaxlmm.fit(lambda coords: np.column_stack([np.ones(N), coords["x"]]), array(), "g"),
        jaxlmm.lmm(FORMULA, Y=array()),
        jaxlmm.lmm(FORMULA, TABLE, array()),
        jaxlmm.prepare(X, GROUPS).fit(array()),
    ):
        assert dims_of(found) == ("channel", "time")
        np.testing.assert_allclose(numbers(found), numbers(expected), rtol=1e-9)
    assert dims_of(jaxlmm.fit(X, square, "g")) == ("voxel",)
    with pytest.raises(ValueError, match=r"Y has 2 dimensions of length 60, the number of rows of X; say which"):
        jaxlmm.fit(X, square, GROUPS)
    assert dims_of(jaxlmm.fit(X, square, GROUPS, obs_dim="voxel")) == ("trial",)


def test_a_model_is_fitted_again_and_again() -> None:
    table = TABLE.assign(w=np.linspace(1, 2, N))
    model = jaxlmm.prepare(FORMULA, table, weights="w")
    for values in (Y, Y[::-1].copy()):
        found, expected = (
            model.fit(values, method="ML"),
            jaxlmm.lmm(FORMULA, table, values, weights="w", method="ML"),
        )
        np.testing.assert_array_equal(found.loglik, expected.loglik)
        np.testing.assert_allclose(found.predict(table.head(3)), expected.fitted()[:3], rtol=1e-9)
    assert model.fit(responses="*").response_names == tuple(COLUMNS)  # neither the formula's nor the weights
    assert repr(model) == "Model('x + (1 | g)', 60 observations, 6 groups, terms ['Intercept', 'x'])"


ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    **{
        name: (lambda given=(name, value): jaxlmm.fit(X, Y, **dict([given])), f"{name} is given without out")
        for name, value in {
            "resume": True, "block": 9, "share": (0, 2), "overwrite": True, "level": 0.9,
        }.items()
    },
    "obs_dim": (lambda: jaxlmm.fit(X, Y, GROUPS, obs_dim="trial"), "obs_dim is 'trial', but Y is no DataArray"),
    "another obs_dim": (lambda: jaxlmm.fit(X, array(), obs_dim="t"), "obs_dim is 't', which is no dimension of Y"),
    "no obs_dim": (lambda: jaxlmm.fit(X[1:], array()), "no dimension of Y has length 59, the number of rows of X"),
    "no rows": (lambda: jaxlmm.lmm(FORMULA, TABLE[1:], array()), "no dimension of Y has length 59, .* of data"),
    "dims": (lambda: jaxlmm.fit(X, array(), dims=("a", "b")), "dims is given, but Y is a DataArray"),
    "names": (lambda: jaxlmm.fit(X, CUBE, response_names=["a"]), "response_names is given, but Y has 3 axes"),
    "Dataset": (lambda: jaxlmm.fit(X, array().to_dataset(name="y")), "Y is an xarray Dataset; give one of its"),
    "path": (lambda: jaxlmm.fit(X, "nothing.npy"), "Y is a path, and 'nothing.npy' does not exist"),
    "DataArray as data": (lambda: jaxlmm.lmm(FORMULA, array()), "data is a DataArray; .* give Y="),
    "no data": (lambda: jaxlmm.lmm(FORMULA, Y=Y), "data is missing"),
    "rows": (lambda: jaxlmm.lmm(FORMULA, TABLE, CUBE[1:]), "Y has 59 rows, data has 60; observations must be"),
    "model without Y": (lambda: jaxlmm.prepare(X).fit(), "Y is missing"),
    "model without a formula": (lambda: jaxlmm.prepare(X).fit(responses="y0"), "a model without a formula"),
    "model and names": (lambda: jaxlmm.prepare(FORMULA, TABLE, names=["a"]), "names is given, but X is a formula"),
    "model and data": (lambda: jaxlmm.prepare(X, data=TABLE), "data is given, but X is no formula"),
    "formula for fit": (lambda: jaxlmm.fit(FORMULA, Y), "X must be a matrix, .*; a formula goes to jaxlmm.lmm"),
}  # fmt: skip


@pytest.mark.parametrize("what", ERRORS)
def test_what_does_not_go_together(what: str) -> None:
    call, message = ERRORS[what]
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_public_names() -> None:
    shown = {name for name in dir(jaxlmm) if not name.startswith("__")}
    assert shown == {*jaxlmm.__all__, "mne_io", "plots"}
    assert all(getattr(jaxlmm, name) is not None for name in shown)
