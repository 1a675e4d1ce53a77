"""Responses with dimensions and coordinates: xarray in and out, and between MNE and xarray."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import blups

import jaxlmm

pd = pytest.importorskip("pandas")
xr = pytest.importorskip("xarray")

N, C, T, G = 30, 3, 4, 6
CHANNELS, TIMES = ["Fz", "Cz", "Pz"], [-0.1, 0.0, 0.1, 0.2]
DAYS = list(np.arange("2020-01-01", "2020-01-07", dtype="M8[D]").astype("M8[us]"))
PER_TERM = {
    "coef": "coef", "se": "se", "statistic": "statistic", "df": "df", "pvalue": "pvalue",
}  # fmt: skip
PER_RESPONSE = (
    "sigma2 group_var icc loglik aic bic rsquared_marginal rsquared_conditional n_used singular converged status"
).split()


def responses(order: tuple[str, ...] = ("trial", "channel", "time")) -> Any:
    """An array in memory in this order of dimensions, with coordinates of all kinds."""
    rng = np.random.default_rng(1)
    subject = np.repeat(np.arange(G), N // G)
    values = rng.normal(size=(N, C, T)) + rng.normal(size=(G, C, T))[subject]
    values[4, 0, 1] = np.nan
    values[:, 2, 3] = np.nan
    whole = xr.DataArray(
        values,
        dims=("trial", "channel", "time"),
        coords={
            "trial": np.arange(N) + 100,
            "subject": ("trial", np.array(list("abcdef"))[subject]),
            "age": ("trial", rng.normal(size=N)),
            "precision": ("trial", rng.uniform(0.5, 2, size=N)),
            "channel": CHANNELS,
            "region": ("channel", ["front", "middle", "back"]),
            "time": TIMES,
            "latency": (("channel", "time"), np.arange(C * T).reshape(C, T)),
            "trial_noise": (("trial", "time"), np.zeros((N, T))),
            "session": 7,
        },
        attrs={"units": "uV", "other": 1},
    )
    return whole.transpose(*order).copy(data=np.ascontiguousarray(whole.transpose(*order).values))


def design(coords: Any) -> Any:
    return pd.DataFrame({"one": 1.0, "age": coords["age"]})


def matrix(Y: Any) -> np.ndarray:
    return Y.transpose("trial", "channel", "time").values.reshape(N, C * T)


def plain(Y: Any, **options: Any) -> jaxlmm.Fit:
    X = np.column_stack([np.ones(N), Y["age"].values])
    return jaxlmm.fit(X, matrix(Y), Y["subject"].values, names=["one", "age"], **options)


# -- labelled responses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order", [("trial", "channel", "time"), ("channel", "time", "trial"), ("time", "trial", "channel")]
)
def test_every_cell_is_the_fit_of_its_column(order: tuple[str, ...]) -> None:
    Y = responses(order)
    found, expected = jaxlmm.fit(design, Y, "subject", obs_dim="trial"), plain(Y)
    assert found.dims == tuple(dim for dim in order if dim != "trial")
    data = found.to_dataset()
    for name, attribute in PER_TERM.items():
        array = data[name].transpose("term", "channel", "time").values
        np.testing.assert_allclose(array.reshape(2, -1).T, getattr(expected, attribute), rtol=1e-9, err_msg=name)
    for name in PER_RESPONSE:
        array = data[name].transpose("channel", "time").values
        np.testing.assert_allclose(array.ravel(), getattr(expected, name), rtol=1e-9, err_msg=name)
    for k, name in enumerate(("conf_low", "conf_high")):
        array = data[name].transpose("term", "channel", "time").values
        np.testing.assert_allclose(array.reshape(2, -1).T, expected.conf_int()[..., k], rtol=1e-9)
    one = data.sel(channel="Cz", time=0.1, term="age")
    np.testing.assert_allclose(one["coef"], plain(Y).select([1 * T + 2]).coef[0, 1], rtol=1e-9)


@pytest.mark.parametrize(("order", "copied"), [
    (("trial", "channel", "time"), False),
    (("channel", "time", "trial"), False),
    (("time", "trial", "channel"), True),
])  # fmt: skip
def test_responses_are_not_copied_where_they_need_not_be(order: tuple[str, ...], copied: bool) -> None:
    Y = responses(order)
    found = jaxlmm.fit(design, Y, "subject", obs_dim="trial")
    assert np.shares_memory(found.Y, Y.values) is not copied


@pytest.mark.parametrize(
    "X",
    [
        design,
        lambda coords: np.column_stack([np.ones(len(coords)), coords["age"]]),
        design(responses().to_dataset(name="y").drop_dims(["channel", "time"]).to_dataframe()),
        np.column_stack([np.ones(N), responses()["age"]]),
        np.column_stack([np.ones(N), responses()["age"]]).tolist(),
    ],
    ids=["function", "function-array", "frame", "array", "list"],
)
def test_ways_to_give_X(X: Any) -> None:
    found = jaxlmm.fit(X, responses(), "subject", obs_dim="trial", names=["one", "age"])
    np.testing.assert_array_equal(found.design.X, np.column_stack([np.ones(N), responses()["age"]]))
    assert found.names == ("one", "age")


def test_names_are_those_of_the_frame() -> None:
    assert jaxlmm.fit(design, responses(), obs_dim="trial").names == ("one", "age")


def test_a_function_gets_the_coordinates_of_the_observations() -> None:
    Y, seen = responses(), []
    jaxlmm.fit(lambda coords: seen.append(coords) or design(coords), Y, obs_dim="trial")
    assert sorted(seen[0].columns) == ["age", "precision", "subject", "trial"]
    assert list(seen[0]["trial"]) == list(range(100, 100 + N))


def test_ways_to_give_groups() -> None:
    Y = responses()
    by_name = jaxlmm.fit(design, Y, "subject", obs_dim="trial")
    assert by_name.design.random[0].name == "subject"
    assert by_name.design.random[0].levels == tuple("abcdef")
    renamed = jaxlmm.fit(design, Y, "subject", obs_dim="trial", group_name="person")
    assert renamed.design.random[0].name == "person"
    by_array = jaxlmm.fit(design, Y, Y["subject"].values, obs_dim="trial")
    assert by_array.design.random[0].name == "group"
    by_coordinate = jaxlmm.fit(design, Y, Y["subject"], obs_dim="trial")
    assert by_coordinate.design.random[0].name == "subject"
    pairs = [(s, "x") for s in Y["subject"].values]
    by_tuples = jaxlmm.fit(design, Y, pairs, obs_dim="trial")
    for other in (renamed, by_array, by_coordinate, by_tuples):
        np.testing.assert_allclose(other.coef, by_name.coef, rtol=1e-9)
    assert jaxlmm.fit(design, Y, obs_dim="trial").n_groups == 0


def test_options_reach_the_fit() -> None:
    Y = responses()
    found = jaxlmm.fit(
        design, Y, "subject", obs_dim="trial", weights="precision", method="ML", df="residual", missing="refuse"
    )
    expected = plain(Y, weights=Y["precision"].values, method="ML", df="residual", missing="refuse")
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-9)
    np.testing.assert_array_equal(found.df, expected.df)
    assert found.method == "ML" and not found.converged[1]


def test_a_multiindex_of_observations_and_groups_from_its_level() -> None:
    Y = responses().drop_vars("trial").set_index(trial=["subject", "precision"])
    found = jaxlmm.fit(design, Y, "subject", obs_dim="trial")
    np.testing.assert_allclose(found.coef, plain(responses()).coef, rtol=1e-9)
    with pytest.raises(ValueError, match="these are: 'age', 'subject', 'precision'"):
        jaxlmm.fit(design, Y, "trial", obs_dim="trial")


# -- coordinates, attributes, names ----------------------------------------------------------------


def test_coordinates_are_kept() -> None:
    Y = responses()
    data = jaxlmm.fit(design, Y, "subject", obs_dim="trial").to_dataset()
    assert set(data.coords) == {"term", "ran_par", "channel", "time", "region", "latency", "session"}
    for name in ("channel", "time", "region", "latency", "session"):
        xr.testing.assert_identical(data[name].variable, Y[name].variable)
    assert list(data["term"].values) == ["one", "age"]
    assert list(data["coef"].sel(channel="Pz")["region"].values.reshape(1)) == ["back"]


def test_attributes() -> None:
    Y = responses()
    data = jaxlmm.fit(design, Y, "subject", obs_dim="trial").to_dataset(0.9, df="residual", ranef=True)
    assert data.attrs.pop("jaxlmm_version")
    assert data.attrs == {
        "formula": "~ 0 + one + age + (1 | subject)", "method": "REML", "df": "residual", "level": 0.9,
        "n_obs": N, "n_groups": G,
    }  # fmt: skip
    units = {name: variable.attrs.get("units") for name, variable in data.data_vars.items()}
    assert {name for name, unit in units.items() if unit == "uV"} == {"coef", "se", "conf_low", "conf_high", "ranef"}
    assert {name for name, unit in units.items() if unit == "uV^2"} == {"sigma2", "group_var"}
    assert {name for name, unit in units.items() if unit is None} == set(units) - {
        "coef", "se", "conf_low", "conf_high", "ranef", "sigma2", "group_var",
    }  # fmt: skip
    assert all(variable.attrs["long_name"] for variable in data.data_vars.values())


def test_units_that_are_not_one_word() -> None:
    Y = responses().assign_attrs(units="T/m")
    assert jaxlmm.fit(design, Y, obs_dim="trial").to_dataset()["sigma2"].attrs["units"] == "(T/m)^2"
    without = responses()
    without.attrs = {}
    assert "units" not in jaxlmm.fit(design, without, obs_dim="trial").to_dataset()["coef"].attrs


def test_level_and_df_of_the_dataset() -> None:
    found = jaxlmm.fit(design, responses(), "subject", obs_dim="trial")
    data = found.to_dataset(0.5, df="kenward-roger")
    expected = found.with_df("kenward-roger")
    np.testing.assert_array_equal(data["se"].values.reshape(2, -1).T, expected.se)
    np.testing.assert_array_equal(data["conf_low"].values.reshape(2, -1).T, expected.conf_int(0.5)[..., 0])
    with pytest.raises(ValueError, match="level must lie between"):
        found.to_dataset(50)
    with pytest.raises(ValueError, match="df must be one of"):
        found.to_dataset(df="kr")


def test_status_says_what_its_numbers_mean() -> None:
    status = jaxlmm.fit(design, responses(), "subject", obs_dim="trial").to_dataset()["status"]
    assert status.dtype == np.int8 and status.attrs["flag_values"].dtype == np.int8
    meanings = dict(zip(status.attrs["flag_values"].tolist(), status.attrs["flag_meanings"].split(), strict=True))
    assert meanings == {s.value: s.name.lower() for s in jaxlmm.Status}
    assert meanings[int(status.sel(channel="Pz", time=0.2))] == "nonfinite"


def test_random_effects() -> None:
    found = jaxlmm.fit(design, responses(), "subject", obs_dim="trial")
    data = found.to_dataset(ranef=True)
    assert data["ranef"].dims == ("group", "channel", "time") and list(data["group"].values) == list("abcdef")
    np.testing.assert_array_equal(data["ranef"].values.reshape(G, -1).T, blups(found))
    assert "ranef" not in found.to_dataset() and "group" not in found.to_dataset().dims


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, 1, 2, 5, 4, 6], [1, 2, 3, 4, 5, 6]),
        ([(1, "a"), (1, "b"), (2, "a"), (2, "b"), (3, "a"), (3, "b")],
         ["(1, 'a')", "(1, 'b')", "(2, 'a')", "(2, 'b')", "(3, 'a')", "(3, 'b')"]),
        (["a", 1, 2, 3, 4, 5], ["a", "1", "2", "3", "4", "5"]),
        (DAYS, DAYS),
    ],
    ids=["integers", "tuples", "mixed", "times"],
)  # fmt: skip
def test_labels_of_groups(labels: list[Any], expected: list[Any], tmp_path: Any) -> None:
    groups = [labels[k] for k in np.repeat(np.arange(G), N // G)]
    data = jaxlmm.fit(design, responses(), groups, obs_dim="trial").to_dataset(ranef=True)
    assert list(data["group"].values) == expected
    pytest.importorskip("h5netcdf")
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    xr.testing.assert_equal(xr.load_dataset(tmp_path / "a.nc", engine="h5netcdf"), data)


def test_results_do_not_share_memory_with_the_fit() -> None:
    found = jaxlmm.fit(design, responses(), "subject", obs_dim="trial")
    before = found.coef.copy()
    data = found.to_dataset()
    data["coef"][:] = 0
    data["sigma2"][:] = 0
    np.testing.assert_array_equal(found.coef, before)
    assert np.nanmin(found.sigma2) > 0


def test_names_of_responses() -> None:
    Y = responses()
    found = jaxlmm.fit(design, Y, obs_dim="trial")
    assert found.response_names[:5] == ("Fz, -0.1", "Fz, 0.0", "Fz, 0.1", "Fz, 0.2", "Cz, -0.1")
    assert jaxlmm.fit(design, Y.drop_vars("time"), obs_dim="trial").response_names[1] == "Fz, time1"
    twice = Y.assign_coords(channel=["Fz", "Fz", "Pz"])
    assert jaxlmm.fit(design, twice, obs_dim="trial").response_names[0] == "y0"
    assert "channel: 3, time: 4" in repr(found) and "12 responses" in repr(found)


def test_one_response() -> None:
    Y = responses()
    found = jaxlmm.fit(design, Y.sel(channel="Cz", time=0.1), "subject", obs_dim="trial")
    data = found.to_dataset(ranef=True)
    assert found.dims == () and data["coef"].dims == ("term",) and data["sigma2"].dims == ()
    np.testing.assert_allclose(data["coef"], plain(Y).coef[1 * T + 2], rtol=1e-9)
    assert data["channel"].item() == "Cz" and data["ranef"].dims == ("group",)
    assert list(found.tidy(effects="fixed")["term"]) == ["one", "age"] and "channel" not in found.tidy()


def test_a_multiindex_of_responses() -> None:
    Y = responses().stack(cell=("channel", "time"))
    found = jaxlmm.fit(design, Y, "subject", obs_dim="trial")
    data = found.to_dataset()
    assert data["coef"].dims == ("term", "cell") and isinstance(data.indexes["cell"], pd.MultiIndex)
    expected = jaxlmm.fit(design, responses(), "subject", obs_dim="trial").to_dataset()
    assert float(data["coef"].sel(channel="Cz", time=0.1, term="age")) == pytest.approx(
        float(expected["coef"].sel(channel="Cz", time=0.1, term="age")), rel=1e-9
    )
    unstacked = data["se"].drop_vars(["region", "latency"]).unstack("cell").transpose(*expected["se"].dims)
    xr.testing.assert_allclose(unstacked, expected["se"].drop_vars(["region", "latency"]))
    table = found.glance()
    assert list(table.columns[:2]) == ["channel", "time"] and list(table["time"][:5]) == [*TIMES, TIMES[0]]


def test_dimensions_without_coordinates() -> None:
    Y = xr.DataArray(matrix(responses()).reshape(N, C, T), dims=("obs", "a", "b"))
    found = jaxlmm.fit(np.ones((N, 1)), Y, obs_dim="obs")
    assert dict(found.to_dataset().sizes) == {"term": 1, "a": C, "b": T}
    assert list(found.to_dataset().coords) == ["term"]
    assert list(found.glance()["b"]) == list(range(T)) * C


# -- tables ----------------------------------------------------------------------------------------


def test_tables_have_a_column_for_each_dimension() -> None:
    found = jaxlmm.fit(design, responses(), "subject", obs_dim="trial")
    table, data = found.tidy(effects="fixed", adjust="bh"), found.to_dataset()
    assert list(table.columns[:3]) == ["channel", "time", "effect"]
    for _, row in table.iterrows():
        cell = data.sel(channel=row["channel"], time=row["time"], term=row["term"])
        np.testing.assert_array_equal(row["estimate"], cell["coef"])
        np.testing.assert_array_equal(row["p.value"], cell["pvalue"])
    part = found.tidy(effects="fixed", responses=["Cz, 0.1", "Fz, -0.1"])
    assert list(part["channel"]) == ["Cz", "Cz", "Fz", "Fz"] and list(part["time"]) == [0.1, 0.1, -0.1, -0.1]
    glance = found.glance().set_index(["channel", "time"])
    np.testing.assert_array_equal(glance.loc[("Pz", 0.1), "logLik"], data["loglik"].sel(channel="Pz", time=0.1))


def test_a_dimension_by_the_name_of_a_column_of_the_table() -> None:
    found = jaxlmm.fit(design, responses().rename(channel="level"), "subject", obs_dim="trial")
    assert list(found.tidy().columns[:2]) == ["level", "time"]
    with pytest.raises(ValueError, match="dimension 'level' is called like a column of the table; rename it"):
        found.tidy(effects="ran_vals")


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs_dim": "epoch"}, "obs_dim is 'epoch', which is no dimension of Y; these are 'trial' (30)"),
        ({"Y": matrix(responses())}, "obs_dim is 'trial', but Y is no DataArray: its first axis holds"),
        ({"X": np.ones((7, 1))}, "X has 7 rows, Y has 30 along 'trial'; they must have the same rows."),
        ({"X": lambda coords: np.ones((7, 1))}, "X has 7 rows, Y has 30 along 'trial'"),
        ({"groups": ["a", "b"]}, "groups has 2 rows, Y has 30 along 'trial'"),
        ({"weights": np.ones(31)}, "weights has 31 rows, Y has 30 along 'trial'"),
        (
            {"groups": "person"},
            "groups is 'person', which is no coordinate of Y along 'trial'; "
            "these are: 'trial', 'subject', 'age', 'precision'.",
        ),
        ({"groups": "region"}, "groups is 'region', which is no coordinate of Y along 'trial'"),
        ({"groups": "trial_noise"}, "groups is 'trial_noise', which is no coordinate of Y along 'trial'"),
        ({"weights": "w"}, "weights is 'w', which is no coordinate of Y along 'trial'"),
        ({"Y": responses().rename(time="term")}, "Y has a dimension or coordinate 'term', which the results use"),
        ({"Y": responses().rename(session="group")}, "dimension or coordinate 'group', which the results use"),
        ({"Y": responses().rename(region="coef")}, "dimension or coordinate 'coef', which the results use"),
        ({"method": "GLS"}, "method must be one of 'REML', 'ML', found 'GLS'"),
        ({"Y": responses().isel(time=slice(0))}, "Y has no columns"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)  # fmt: skip
def test_errors(change: dict[str, Any], message: str) -> None:
    arguments = {"X": design, "Y": responses(), "groups": "subject", "obs_dim": "trial"} | change
    with pytest.raises(ValueError) as error:
        jaxlmm.fit(**arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_coordinate_of_the_observations_may_have_any_name() -> None:
    Y = responses().rename(age="coef", subject="group")
    found = jaxlmm.fit(lambda c: c[["coef"]], Y, "group", obs_dim="trial")
    assert "coef" in found.to_dataset(ranef=True).data_vars


def test_rows_in_another_order_are_refused() -> None:
    Y = responses()
    frame = pd.DataFrame({"one": 1.0, "age": Y["age"].values}, index=Y["trial"].values)
    jaxlmm.fit(frame, Y, obs_dim="trial")
    with pytest.raises(ValueError, match=r"the index of X holds the labels of Y along 'trial' in another order"):
        jaxlmm.fit(frame[::-1], Y, obs_dim="trial")
    with pytest.raises(ValueError, match=r"the index of groups holds the labels of Y along 'trial' in another"):
        jaxlmm.fit(frame, Y, Y["subject"].to_series()[::-1], obs_dim="trial")
    # Labels of another kind say nothing of the order, nor does a copy of the coordinates in it.
    jaxlmm.fit(frame.reset_index(drop=True), Y, obs_dim="trial")
    shuffled = Y.assign_coords(trial=np.random.default_rng(0).permutation(N))
    jaxlmm.fit(design, shuffled, "subject", obs_dim="trial")
    with pytest.raises(ValueError, match="X, as the function makes it, has the rows in another order than Y"):
        jaxlmm.fit(lambda coords: design(coords.sort_values("age")), Y, "subject", obs_dim="trial")


def test_a_multiindex_survives_a_file(tmp_path: Path) -> None:
    found = jaxlmm.fit(design, responses().stack(cell=("channel", "time")), "subject", obs_dim="trial")
    for name in ("a.npz", "a.zarr"):
        found.save(tmp_path / name)
        loaded, expected = jaxlmm.load(tmp_path / name).to_dataset(), found.to_dataset()
        # Degrees of freedom of incomplete responses, and so p-values, are worked out again.
        again = ["df", "pvalue", "conf_low", "conf_high"]
        xr.testing.assert_identical(loaded.drop_vars(again), expected.drop_vars(again))
        xr.testing.assert_allclose(loaded, expected, rtol=1e-12)
        part = jaxlmm.load(tmp_path / name).sel(channel="Cz")
        assert part.dims == ("time",) and part.response_names[2] == "0.1"
    opened = xr.open_zarr(tmp_path / "a.zarr", chunks=None)
    assert opened["channel"].dims == ("cell",) and "cell" not in opened.coords


# -- fits of a matrix --------------------------------------------------------------------------------


def test_a_fit_of_a_matrix_as_dataset() -> None:
    fit = plain(responses(), response_names=[f"r{j}" for j in range(C * T)])
    data = fit.to_dataset(level=0.5, ranef=True)
    assert data["coef"].dims == ("term", "response") and list(data["response"].values) == list(fit.response_names)
    np.testing.assert_array_equal(data["conf_high"].values.T, fit.conf_int(0.5)[..., 1])
    np.testing.assert_array_equal(data["ranef"].values.T, blups(fit))
    assert list(plain(responses()).to_dataset()["response"].values[:2]) == ["y0", "y1"]
    assert (fit.dims, fit.shape) == (("response",), (C * T,))


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf", "zarr"])
def test_datasets_survive_files(engine: str, tmp_path: Any) -> None:
    pytest.importorskip({"netcdf4": "netCDF4"}.get(engine, engine))
    data = jaxlmm.fit(design, responses(), "subject", obs_dim="trial").to_dataset(ranef=True)
    if engine == "zarr":
        # Version 3 of the format warns that text is not in its standard yet; older zarr knows only 2.
        options = {"zarr_format": 2} if sys.modules["zarr"].__version__ >= "3" else {}
        data.to_zarr(tmp_path / "a.zarr", **options)
        read = xr.open_zarr(tmp_path / "a.zarr", chunks=None).load()
    else:
        data.to_netcdf(tmp_path / "a.nc", engine=engine)
        read = xr.load_dataset(tmp_path / "a.nc", engine=engine)
    xr.testing.assert_equal(read, data)
    assert read.attrs == data.attrs and read["status"].attrs["flag_meanings"] == data["status"].attrs["flag_meanings"]
    assert read["coef"].attrs == data["coef"].attrs and read["singular"].dtype == bool


# -- MNE -------------------------------------------------------------------------------------------


def epochs(types: Any = "eeg", metadata: Any = True) -> Any:
    mne = pytest.importorskip("mne")
    mne.set_log_level("ERROR")
    info = mne.create_info(CHANNELS, 100.0, types)
    rng = np.random.default_rng(0)
    events = np.column_stack([np.arange(N), np.zeros(N, int), np.tile([1, 2], N // 2)])
    table = pd.DataFrame({"subject": np.repeat(list("abcdef"), N // G), "age": rng.normal(size=N)})
    made = mne.EpochsArray(
        rng.normal(size=(N, C, 5)) * 1e-6, info, events, tmin=-0.02, event_id={"standard": 1, "deviant": 2},
        metadata=table if metadata is True else metadata,
    )  # fmt: skip
    return made.drop([3, 4])


def test_epochs_become_responses() -> None:
    from jaxlmm.labelled.mne_io import epochs_to_dataarray

    given = epochs()
    Y = epochs_to_dataarray(given)
    assert Y.dims == ("trial", "channel", "time") and Y.attrs == {"units": "V"}
    np.testing.assert_array_equal(Y.values, given.get_data(copy=False))
    assert list(Y["trial"].values) == [0, 1, 2, *range(5, N)]
    assert list(Y["event"].values[:4]) == ["standard", "deviant", "standard", "deviant"]
    assert list(Y["subject"].values) == list(given.metadata["subject"])
    np.testing.assert_array_equal(Y["age"], given.metadata["age"])
    assert list(Y["channel"].values) == CHANNELS and list(Y["channel_type"].values) == ["eeg"] * 3
    np.testing.assert_allclose(Y["time"], [-0.02, -0.01, 0, 0.01, 0.02])
    found = jaxlmm.fit(design, Y, "subject", obs_dim="trial").to_dataset()
    assert found["coef"].attrs["units"] == "V" and list(found["coef"]["channel"].values) == CHANNELS


def test_channels_of_several_types_have_units_of_their_own() -> None:
    from jaxlmm.labelled.mne_io import epochs_to_dataarray

    Y = epochs_to_dataarray(epochs(["mag", "grad", "misc"], None))
    assert list(Y["units"].values) == ["T", "T/m", ""] and "units" not in Y.attrs
    assert "subject" not in Y.coords
    assert "units" not in epochs_to_dataarray(epochs("misc", None)).attrs


def test_metadata_by_the_name_of_a_coordinate() -> None:
    from jaxlmm.labelled.mne_io import epochs_to_dataarray

    with pytest.raises(ValueError, match="the metadata have a column 'time', the name of a coordinate; rename it"):
        epochs_to_dataarray(epochs(metadata=pd.DataFrame({"time": np.arange(N)})))


def test_a_map_becomes_evoked_data() -> None:
    from jaxlmm.labelled.mne_io import epochs_to_dataarray, map_to_evoked

    given = epochs()
    data = jaxlmm.fit(design, epochs_to_dataarray(given), "subject", obs_dim="trial").to_dataset()
    one = data["statistic"].sel(term="age")
    evoked = map_to_evoked(one, given.info)
    assert evoked.ch_names == CHANNELS and evoked.comment == "statistic age" and evoked.kind == "average"
    np.testing.assert_array_equal(evoked.data, one.values)
    np.testing.assert_allclose(evoked.times, one["time"])
    shuffled = map_to_evoked(one.sel(channel=["Pz", "Fz"]).transpose("time", "channel"), given.info, comment="age")
    assert shuffled.ch_names == ["Fz", "Pz"] and shuffled.comment == "age"
    np.testing.assert_array_equal(shuffled.data, one.values[[0, 2]])
    assert map_to_evoked(one[:, :1].rename(None), given.info).comment == "map age"
    part = map_to_evoked(one[:, 1:4], given.info)
    np.testing.assert_allclose(part.times, [-0.01, 0, 0.01])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.expand_dims("term"), "has the dimensions 'channel' and 'time', found 'term', 'channel', 'time'"),
        (lambda a: a[0], "found 'time'; select"),
        (lambda a: a[0, 0], "found none"),
        (lambda a: a.drop_vars("time"), "the map has no coordinate 'time'"),
        (lambda a: a.drop_vars("channel"), "the map has no coordinate 'channel'"),
        (lambda a: a.assign_coords(channel=["Fz", "Oz", "Pz"]), "info has no channel 'Oz'"),
        (lambda a: a[:, ::2], "the times are not spaced by 1 / sfreq = 0.01 s"),
        (lambda a: a[:, ::-1], "the times are not spaced by"),
    ],
)
def test_maps_that_are_none(change: Any, message: str) -> None:
    from jaxlmm.labelled.mne_io import map_to_evoked

    given = epochs()
    data = xr.DataArray(np.zeros((C, 5)), dims=("channel", "time"), coords={"channel": CHANNELS, "time": given.times})
    with pytest.raises(ValueError) as error:
        map_to_evoked(change(data), given.info)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_without_mne(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxlmm.labelled.mne_io import map_to_evoked

    monkeypatch.setitem(sys.modules, "mne", None)
    with pytest.raises(ImportError, match=r'pip install "jaxlmm\[mne\]"'):
        map_to_evoked(xr.DataArray(np.zeros((1, 1)), dims=("channel", "time")), None)
