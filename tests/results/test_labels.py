"""Responses by name, position and label: selections are the fits of the same selections of Y; fits put together."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import jaxlmm
from jaxlmm.tabular.labels import Labels

xr = pytest.importorskip("xarray")
pd = pytest.importorskip("pandas")

N, CODES = 30, np.repeat(np.arange(6), 5)
X = np.column_stack([np.ones(N), np.random.default_rng(3).normal(size=N)])
ARRAYS = ("coef", "se", "theta", "sigma2", "df", "pvalue", "n_used", "status", "loglik")


def responses() -> Any:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(N, 3, 4)) + rng.normal(size=(6, 3, 4))[CODES]
    values[2, 1, 1] = np.nan
    values[:, 2, 3] = 1.0
    coords = {
        "channel": ["Fz", "Cz", "Pz"], "time": [0.1, 0.2, 0.3, 0.4], "region": ("channel", ["f", "c", "p"]),
        "latency": (("channel", "time"), np.arange(12).reshape(3, 4)), "session": 7,
    }  # fmt: skip
    return xr.DataArray(values, dims=("trial", "channel", "time"), coords=coords, attrs={"units": "uV"})


def fitted(Y: Any = None, **options: Any) -> Any:
    Y = responses() if Y is None else Y
    return jaxlmm.fit(
        X, Y, CODES, names=["one", "x"], **({"obs_dim": "trial"} if hasattr(Y, "dims") else {}), **options
    )


@pytest.fixture(scope="module")
def fit() -> Any:
    return fitted()


def assert_same(found: Any, expected: Any) -> None:
    assert (found.dims, found.shape, found.response_names) == (expected.dims, expected.shape, expected.response_names)
    xr.testing.assert_identical(found.coords.to_dataset(), expected.coords.to_dataset())
    assert found.labels.units == expected.labels.units
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(found.Y, expected.Y)


# -- by label --------------------------------------------------------------------------------------


SELECTIONS: list[tuple[str, dict[str, Any]]] = [
    ("sel", {"channel": "Cz"}),
    ("sel", {"channel": "Cz", "time": slice(0.2, 0.4)}),
    ("sel", {"time": 0.21, "method": "nearest"}),
    ("sel", {"channel": ["Pz", "Fz"], "time": [0.3]}),
    ("sel", {"time": 0.3, "drop": True}),
    ("sel", {"channel": "Fz", "time": 0.1}),
    ("sel", {}),
    ("isel", {"channel": -1}),
    ("isel", {"time": slice(None, None, -2), "channel": [0, 2]}),
    ("isel", {"channel": np.array([True, False, True])}),
]


@pytest.mark.parametrize(("method", "how"), SELECTIONS, ids=str)
def test_a_selection_is_the_fit_of_the_selected(method: str, how: dict[str, Any], fit: Any) -> None:
    assert_same(getattr(fit, method)(**how), fitted(getattr(responses(), method)(**how)))


def test_points_of_a_map_are_selected_as_xarray_does(fit: Any) -> None:
    at = {"channel": xr.DataArray([0, 2], dims="point"), "time": xr.DataArray([3, 1], dims="point")}
    assert_same(fit.isel(at), fitted(responses().isel(at)))


def test_a_multiindex_is_selected_by_its_levels() -> None:
    stacked = responses().stack(cell=("channel", "time"))
    found = fitted(stacked)
    assert_same(found.sel(channel="Cz"), fitted(stacked.sel(channel="Cz")))
    assert_same(found.sel(cell=("Cz", 0.2)), fitted(stacked.sel(cell=("Cz", 0.2))))
    assert_same(found.select([7, 1]), fitted(stacked.isel(cell=[7, 1])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda fit: fit.sel(channel="Oz"),
            r"sel\(channel='Oz'\): .*'channel'.*dimensions of the responses are 'channel': 3",
        ),
        (lambda fit: fit.sel(freq=3), r"sel\(freq=3\): .*freq.*are 'channel': 3, 'time': 4"),
        (lambda fit: fit.sel(time=0.21), r"sel\(time=0.21\): "),
        (lambda fit: fit.isel(time=9), r"isel\(time=9\): .*out of bounds"),
        (
            lambda fit: fit["Cz"],
            r"no response is named 'Cz', which is a label of 'channel': call sel\(channel='Cz'\)",
        ),
        (lambda fit: fit["Oz"], "no response is named 'Oz'; the names begin 'Fz, 0.1'"),
        (lambda fit: fit.summary("Cz"), r"call sel\(channel='Cz'\)"),
        (lambda fit: fit[12], "response 12 is out of range; there are 12"),
    ],
)
def test_labels_that_are_not_there(call: Any, message: str, fit: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call(fit)


# -- by name and position --------------------------------------------------------------------------


def test_responses_of_a_matrix_by_name() -> None:
    Y = responses().values.reshape(N, -1)
    named = fitted(Y, response_names=list("abcdefghijkl"))
    assert named["c"].response_names == ("c",) and named[2].response_names == ("c",)
    np.testing.assert_array_equal(named["c"].coef, named.coef[[2]])
    assert_same(named.sel(response=["c", "a"]), named.select(["c", "a"]))
    plain = fitted(Y)
    assert plain[3].response_names == ("y3",) and plain[[5, 3]]["y3"].response_names == ("y3",)
    assert_same(plain.sel(response="y3"), plain.isel(response=3))
    assert plain.sel(response="y3").dims == () and plain.sel(response="y3").response_names == ("y3",)


@pytest.mark.parametrize(
    "rows", [[7, 2], [5], [], slice(1, 9, 3), np.arange(12) % 5 == 0, ["Cz, 0.2", "Fz, 0.1"]], ids=str
)
def test_some_cells_of_a_map_keep_their_labels(rows: Any, fit: Any) -> None:
    part = fit[rows]
    assert part.dims == ("response",)
    flat = responses().stack(cell=("channel", "time"))
    where = [list(fit.response_names).index(name) for name in part.response_names]
    np.testing.assert_array_equal(part.Y, flat.values[:, where])
    assert part.coords.to_dataset().sizes["response"] == len(where)
    for name in ("channel", "time", "region", "latency"):
        np.testing.assert_array_equal(part.coords[name].values, flat[name].values[where])
    assert int(part.coords["session"]) == 7
    if len(where):
        keys = part.tidy()[["channel", "time"]].drop_duplicates()
        assert [f"{c}, {t}" for c, t in keys.to_numpy()] == list(part.response_names)
        again = part.sel(channel=part.coords["channel"].values[0])
        assert set(again.coords["time"].values) <= {0.1, 0.2, 0.3, 0.4}


def test_names_of_unlabelled_dimensions_stay_under_selections() -> None:
    found = fitted(responses().drop_vars(["channel", "time", "region", "latency"]))
    assert found.response_names[5] == "channel1, time1"
    assert found[5].response_names == ("channel1, time1",) and found["channel1, time1"].shape == (1,)


def test_length_and_iteration(fit: Any) -> None:
    assert len(fit) == 12 and [one.response_names[0] for one in fit] == list(fit.response_names)


def test_one_response_without_dimensions(fit: Any) -> None:
    one = fit.isel(channel=0, time=0)
    assert one.dims == () and len(one) == 1 and one[0].dims == () and one[[0, 0]].dims == ("response",)
    assert one.response_names[0].startswith("Fz, ") and "0.1" in one.response_names[0]
    assert one.anova().to_dataset()["pvalue"].dims == ("term",)
    assert list(one.tidy(effects="fixed")["term"]) == ["one", "x"]


# -- every method keeps the labels ------------------------------------------------------------------


def test_methods_keep_the_labels(fit: Any) -> None:
    for found in (fit.with_df("kenward-roger"), pickle.loads(pickle.dumps(fit))):
        assert (found.dims, found.shape) == (fit.dims, fit.shape)
        xr.testing.assert_identical(found.coords.to_dataset(), fit.coords.to_dataset())
    expected = responses().isel(trial=0, drop=True).coords.to_dataset()
    for result in (fit.anova(), fit.test({"x": 1}), fit.ftest([{"x": 1}]), fit.profile()):
        coords = result.to_dataset().drop_attrs(deep=False).coords.to_dataset()
        xr.testing.assert_identical(coords[list(expected.coords)], expected)
    expected = expected.assign_attrs(fit.to_dataset().attrs)
    xr.testing.assert_identical(fit.to_dataset().coords.to_dataset()[list(expected.coords)], expected)


def test_labels_of_another_number_of_responses(fit: Any) -> None:
    import dataclasses

    with pytest.raises(ValueError, match="labels are of 3 responses, the fit has 12"):
        dataclasses.replace(fit, labels=Labels.of_matrix(3))


# -- put together ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", ["channel", "time"])
def test_parts_put_together_are_the_whole(dim: str, fit: Any) -> None:
    parts = [fit.isel({dim: slice(0, 1)}), fit.isel({dim: slice(1, None)})]
    assert_same(jaxlmm.concat(parts, dim=dim), fit)


def test_a_new_dimension(fit: Any) -> None:
    one, two = responses(), responses().assign_coords(session=8) * 2
    found = jaxlmm.concat([fitted(one), fitted(two.assign_attrs(one.attrs))], dim="session")
    whole = fitted(xr.concat([one, two.assign_attrs(one.attrs)], dim="session").transpose("trial", "session", ...))
    assert_same(found, whole)


def test_columns_of_matrices_put_together() -> None:
    Y, names = responses().values.reshape(N, -1), list("abcdefghijkl")
    parts = [fitted(Y[:, :5], response_names=names[:5]), fitted(Y[:, 5:], response_names=names[5:])]
    assert_same(jaxlmm.concat(parts), fitted(Y, response_names=names))
    assert_same(jaxlmm.concat([fitted(Y[:, :5]), fitted(Y[:, 5:])]), fitted(Y))
    assert_same(jaxlmm.concat([parts[0]]), parts[0])
    with pytest.raises(ValueError, match="two fits have the label 'a' along 'response'; rename it"):
        jaxlmm.concat([parts[0], parts[0]])


def test_fits_from_files_put_together(tmp_path: Any) -> None:
    Y = responses().values.reshape(N, -1)
    for k, part in enumerate([fitted(Y[:, 4:]), fitted(Y[:, :4])]):
        part.save(tmp_path / f"{k}.npz")
    found = jaxlmm.concat([jaxlmm.load(tmp_path / "1.npz"), jaxlmm.load(tmp_path / "0.npz")])
    np.testing.assert_allclose(found.se, fitted(Y).se, rtol=1e-9)
    np.testing.assert_allclose(found.rsquared_marginal, fitted(Y).rsquared_marginal, rtol=1e-9)
    with pytest.raises(ValueError, match="have and lack their responses"):
        jaxlmm.concat([found, fitted(Y)])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda Y: fitted(Y, method="ML"), "fit 0 has method='REML', fit 1 has 'ML'"),
        (lambda Y: fitted(Y, df="residual"), "fit 0 has df_method='satterthwaite', fit 1 has 'residual'"),
        (lambda Y: fitted(Y, weights=np.linspace(1, 2, N)), r"have different designs \(weights\)"),
        (lambda Y: jaxlmm.fit(X, Y, CODES % 5, names=["one", "x"], obs_dim="trial"), r"different designs \(random\)"),
        (lambda Y: jaxlmm.fit(X + 1, Y, CODES, names=["one", "x"], obs_dim="trial"), r"different designs \(X\)"),
        (lambda Y: fitted(Y.assign_attrs(units="V")), "fit 0 is in units 'uV', fit 1 in 'V'"),
        (lambda Y: fitted(Y.isel(time=[0, 1])), "cannot be put together along 'channel'"),
        (lambda Y: "fit", "argument 1 is a str"),
    ],
)
def test_fits_that_do_not_belong_together(other: Any, message: str, fit: Any) -> None:
    Y = responses().assign_coords(channel=["A", "B", "C"])
    with pytest.raises(ValueError, match=message):
        jaxlmm.concat([fit, other(Y)], dim="channel")


def test_nothing_put_together() -> None:
    with pytest.raises(ValueError, match="concat needs at least one fit, found none"):
        jaxlmm.concat([])
