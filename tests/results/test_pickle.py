"""Fits in a pickle: small, and the same when they come back."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import jaxlmm

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

N, M = 200, 300


def frame() -> Any:
    rng = np.random.default_rng(0)
    made = {"x": rng.normal(size=N), "c": np.tile(list("ab"), N // 2), "s": np.repeat(np.arange(20), N // 20)}
    return pd.DataFrame(made | {f"e{j}": rng.normal(size=N) + rng.normal(size=20)[made["s"]] for j in range(M)})


@pytest.mark.parametrize("formula", ["x * c + (1 | s)", "x + c", "x + (x | s)"])
def test_one_response_of_many_takes_kilobytes(formula: str) -> None:
    data = frame()
    fit = jaxlmm.lmm(formula, data, responses="e*")
    assert fit.pvalue.shape[0] == M  # what was computed from all responses stays with them
    for one in (fit["e7"], fit.select(["e7"]), fit.sel(response="e7")):
        content = pickle.dumps(one)
        assert len(content) < 40_000  # X, the columns of the formula, y and the groups: 200 rows of some ten numbers
    found = pickle.loads(content)
    for name in ("coef", "se", "df", "pvalue", "theta", "vcov"):
        np.testing.assert_allclose(getattr(found, name), getattr(one, name), rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(found.fitted(), one.fitted(), rtol=1e-9)
    np.testing.assert_allclose(found.predict(data.head(3)), one.predict(data.head(3)), rtol=1e-9)
    variable = "c" if "c" in formula else "x"
    np.testing.assert_allclose(found.emmeans(variable).se, one.emmeans(variable).se, rtol=1e-9)
    assert found.response_names == ("e7",)


def test_a_pickle_grows_with_the_responses_alone() -> None:
    fit = jaxlmm.lmm("x * c + (1 | s)", frame(), responses="e*")
    sizes = [len(pickle.dumps(fit.select(slice(0, m)))) for m in (100, 200, 300)]
    assert abs(sizes[2] - 2 * sizes[1] + sizes[0]) < 2000
    assert (sizes[2] - sizes[1]) / 100 < 8 * N + 300
