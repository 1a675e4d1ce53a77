"""Observations along several dimensions of a labelled array: subjects x conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxlmm

pd = pytest.importorskip("pandas")
xr = pytest.importorskip("xarray")
pytest.importorskip("formulaic")

S, C = 10, 3
RNG = np.random.default_rng(0)
FORMULA = "age + condition + rt + (1 | subject)"
BOTH = ("subject", "condition")


def array() -> xr.DataArray:
    """Dimensions in an order that is not that of the observations."""
    values = RNG.normal(size=(2, S, 3, C)) + RNG.normal(size=(S, 1, 1))
    coords = {
        "subject": [f"s{i}" for i in range(S)], "condition": ["b", "a", "c"], "time": [0.1, 0.2],
        "age": ("subject", RNG.normal(size=S)), "rt": (BOTH, RNG.normal(size=(S, C))),
    }  # fmt: skip
    made = xr.DataArray(values, dims=("time", "subject", "channel", "condition"), coords=coords)
    made["condition"].attrs["categories"] = ["c", "a", "b"]
    made[1, 4, :, 2] = np.nan  # one cell of one subject was not measured
    return made


Y = array()
TABLE = pd.DataFrame({
    "subject": np.repeat(Y["subject"].to_numpy(), C).astype(object),
    "condition": pd.Categorical(np.tile(["b", "a", "c"], S), ["c", "a", "b"]),
    "age": np.repeat(Y["age"].to_numpy(), C), "rt": Y["rt"].to_numpy().ravel(),
})  # fmt: skip
MATRIX = Y.transpose("subject", "condition", "time", "channel").to_numpy().reshape(S * C, -1)


def expected(**options: Any) -> jaxlmm.Fit:
    return jaxlmm.lmm(FORMULA, TABLE, MATRIX, **options)


def test_combinations_are_observations() -> None:
    fit = jaxlmm.lmm(FORMULA, Y=Y, obs_dim=BOTH)
    assert fit.dims == ("time", "channel") and fit.names == expected().names
    np.testing.assert_allclose(fit.coef, expected().coef, rtol=1e-7)
    assert fit.n_used.tolist() == [30, 30, 30, 29, 29, 29]
    # In either order, by matrices, and with a table that has the rows of Y.
    X = lambda frame: np.column_stack([np.ones(len(frame)), frame["age"]])  # noqa: E731
    by_hand = jaxlmm.fit(X, Y, "subject", obs_dim=list(BOTH[::-1]))
    same = jaxlmm.fit(X(TABLE), MATRIX, TABLE["subject"])
    np.testing.assert_allclose(by_hand.coef, same.coef, rtol=1e-7)
    assert not set(fit.to_dataset().coords) & {"obs", *BOTH}
    np.testing.assert_allclose(jaxlmm.lmm(FORMULA, TABLE, Y, obs_dim=BOTH).coef, fit.coef)
    assert jaxlmm.lmm(FORMULA, Y=Y.rename(time="obs"), obs_dim=BOTH).dims == ("obs", "channel")
    assert jaxlmm.lmm("age", Y=Y.isel(condition=0), obs_dim=("subject",)).n_obs == S


def test_lazy_to_disk_and_weighted(tmp_path: Path) -> None:
    pytest.importorskip("dask")
    whole = jaxlmm.lmm(FORMULA, Y=Y, obs_dim=BOTH)
    lazy = jaxlmm.lmm(FORMULA, Y=Y.chunk(channel=2), obs_dim=BOTH)
    np.testing.assert_allclose(lazy["coef"].to_numpy().reshape(5, -1).T, whole.coef, rtol=1e-9)
    pytest.importorskip("zarr")
    data = jaxlmm.lmm(FORMULA, Y=Y, obs_dim=BOTH, out=tmp_path / "r.zarr", progress=False)
    np.testing.assert_allclose(data["pvalue"].to_numpy().reshape(5, -1).T, whole.pvalue, rtol=1e-9)
    W = Y.copy(data=RNG.uniform(1, 2, Y.shape)).drop_vars(["age", "rt"])
    matrix = W.transpose("subject", "condition", "time", "channel").to_numpy().reshape(S * C, -1)
    for weights in (W, W.to_numpy(), W.transpose("channel", ...)):
        fit = jaxlmm.lmm(FORMULA, Y=Y, obs_dim=BOTH, weights=weights)
        np.testing.assert_allclose(fit.coef, expected(weights=matrix).coef, rtol=1e-7)


def test_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for options, message in (
        ({}, r"are coordinates along 'subject', 'condition'; .* say obs_dim=\('subject', 'condition'\)"),
        ({"obs_dim": ("subject", "cond")}, "obs_dim names 'cond', which is no dimension of Y; these are 'time'"),
        ({"obs_dim": ("subject", "subject")}, "names a dimension twice"),
        ({"obs_dim": ()}, "names no dimension of Y"),
        ({"obs_dim": BOTH, "weights": np.ones((2, 3))}, r"weights has shape \(2, 3\); give the dimensions"),
        ({"obs_dim": BOTH, "weights": Y[0]}, "weights has the dimensions"),
        ({"obs_dim": BOTH, "data": TABLE[::-1]}, "hold the labels of Y's observations in another order"),
        ({"obs_dim": BOTH, "data": TABLE.head(29)}, "data has 29 rows, Y has 30 along 'obs'"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxlmm.lmm(**{"formula": FORMULA, "Y": Y, **options})
    pytest.importorskip("h5netcdf")
    Y.to_netcdf(tmp_path / "y.nc", engine="h5netcdf")
    stored = xr.open_dataarray(tmp_path / "y.nc", engine="h5netcdf")
    assert jaxlmm.lmm(FORMULA, Y=stored, obs_dim=BOTH).n_obs == 30
    monkeypatch.setattr("jaxlmm.sources.lazy.LOAD_BYTES", 100)
    with pytest.raises(ValueError, match="which would be read whole to make observations of several dimensions"):
        jaxlmm.lmm(FORMULA, Y=xr.open_dataarray(tmp_path / "y.nc", engine="h5netcdf"), obs_dim=BOTH)
