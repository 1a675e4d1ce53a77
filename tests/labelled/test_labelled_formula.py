"""A formula for a labelled array is the formula for its cells."""

from __future__ import annotations

import numpy as np
import pytest

import jaxlmm

pd = pytest.importorskip("pandas")
xr = pytest.importorskip("xarray")
pytest.importorskip("formulaic")


def epochs() -> xr.DataArray:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 60, 3))
    values[1, 5, 2] = np.nan
    coords = {
        "channel": list("abcd"), "time": [0.1, 0.2, 0.3],
        "subject": ("trial", np.repeat([f"s{i}" for i in range(6)], 10)),
        "cond": ("trial", np.tile(["x", "y", "z"], 20)), "age": ("trial", rng.normal(size=60)),
    }  # fmt: skip
    return xr.DataArray(values, dims=("channel", "trial", "time"), coords=coords)


def test_coordinates_and_a_table_give_the_fit_of_the_cells() -> None:
    Y = epochs()
    table = pd.DataFrame({name: Y[name].values for name in ("subject", "cond", "age")})
    found = jaxlmm.lmm("cond * age + (1 | subject)", Y=Y, obs_dim="trial", df="kenward-roger")
    same = jaxlmm.lmm("cond * age + (1 | subject)", table, Y, obs_dim="trial", df="kenward-roger")
    matrix = Y.transpose("trial", "channel", "time").values.reshape(60, -1)
    cells = jaxlmm.lmm("cond * age + (1 | subject)", table, matrix, df="kenward-roger")
    for fit in (found, same):
        np.testing.assert_allclose(fit.pvalue, cells.pvalue, rtol=1e-9)
    maps = found.to_dataset()
    assert maps["pvalue"].dims == ("term", "channel", "time")
    np.testing.assert_allclose(
        maps["coef"].sel(term="age", channel="c", time=0.2).item(), cells.coef[2 * 3 + 1, cells.names.index("age")]
    )
    assert maps["n_used"].sel(channel="b", time=0.3).item() == 59
    np.testing.assert_allclose(found.anova().pvalue, cells.anova().pvalue, rtol=1e-9)
    np.testing.assert_allclose(found.emmeans("cond").estimate, cells.emmeans("cond").estimate, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"obs_dim": "trials"},
            "obs_dim is 'trials', which is no dimension of Y; these are 'channel' (4), 'trial' (60), 'time' (3)",
        ),
        ({"data": pd.DataFrame({"cond": ["x"], "subject": ["s"]})}, "data has 1 rows, Y has 60 along 'trial'"),
        ({"formula": "y ~ cond + (1 | subject)"}, "y"),
        ({"formula": "age ~ cond + (1 | subject)"}, "names a response, but the responses are Y"),
        ({"formula": "cnd + (1 | subject)"}, "did you mean 'cond'"),
        ({"Y": np.zeros((60, 3))}, "obs_dim is 'trial', but Y is no DataArray"),
    ],
)
def test_errors(change: dict, message: str) -> None:
    options = {"formula": "cond + (1 | subject)", "Y": epochs(), "obs_dim": "trial"} | change
    with pytest.raises(ValueError) as caught:
        jaxlmm.lmm(**options)
    assert message in str(caught.value)
