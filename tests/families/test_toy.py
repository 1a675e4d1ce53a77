"""A new family needs no other file: docs/architecture.md says how, ``toy.py`` does it."""

from __future__ import annotations

import numpy as np
import pytest
from toy import Kinship

import jaxlmm
from jaxlmm.families.registry import Model
from jaxlmm.results.fitting import fit_model
from jaxlmm.results.options import FitOptions

RNG = np.random.default_rng(7)
CODES = np.repeat(np.arange(9), [3, 4, 5, 6, 3, 4, 5, 6, 4])
N = len(CODES)
X = np.column_stack([np.ones(N), RNG.normal(size=N), RNG.normal(size=9)[CODES]])
Y = X @ [1.0, 2.0, 0.5] + 1.0 * RNG.normal(size=(4, 9))[:, CODES] + RNG.normal(size=(4, N))
Y = Y.T.copy()
noise = RNG.normal(size=N)
Y[:, 3] = X @ [1.0, 2.0, 0.5] + noise - np.array([noise[CODES == g].mean() for g in range(9)])[CODES]


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_groups_as_a_kinship_matrix_give_the_random_intercept(method: str) -> None:
    K = (CODES[:, None] == CODES).astype(float)
    toy = fit_model(Model(Kinship.make(X, ["one", "age", "dose"], K)), Y, FitOptions(method=method))
    fit = jaxlmm.fit(X, Y, CODES, names=["one", "age", "dose"], method=method)
    assert fit.singular.tolist() == toy.singular.tolist() == [False, False, False, True]
    for name in ("coef", "se", "sigma2", "theta", "loglik", "df", "pvalue", "icc", "vcov", "rsquared_conditional"):
        np.testing.assert_allclose(getattr(toy, name), getattr(fit, name), rtol=2e-5, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(toy.fitted(), fit.fitted(), rtol=1e-4, atol=1e-5)
    L = np.eye(3)[1:]
    np.testing.assert_allclose(toy.ftest(L).pvalue, fit.ftest(L).pvalue, rtol=1e-4)
    if method == "REML":
        one, other = toy.with_df("kenward-roger"), fit.with_df("kenward-roger")
        np.testing.assert_allclose(one.se, other.se, rtol=1e-5)
        np.testing.assert_allclose(one.df, other.df, rtol=1e-4)


def test_tables_files_and_missing_observations(tmp_path) -> None:
    K = np.exp(-np.abs(np.subtract.outer(np.arange(N), np.arange(N))) / 3.0)
    with_nan = Y.copy()
    with_nan[[2, 5], 1] = np.nan
    toy = fit_model(Model(Kinship.make(X, ["one", "age", "dose"], K)), with_nan)
    there = np.delete(np.arange(N), [2, 5])
    alone = fit_model(
        Model(Kinship.make(X[there], ["one", "age", "dose"], K[np.ix_(there, there)])), Y[there][:, [1]]
    )
    assert toy.converged.all() and toy.n_used.tolist() == [N, N - 2, N, N]
    for name in ("coef", "se", "df", "loglik"):
        np.testing.assert_allclose(getattr(toy, name)[1], getattr(alone, name)[0], rtol=1e-9)
    table = toy.tidy(effects=("fixed", "ran_pars"))
    assert list(table["term"][:5]) == ["one", "age", "dose", "sd__(Intercept)", "sd__Observation"]
    assert "kinship" in str(toy.summary(0)) and toy.glance()["converged"].all()
    assert toy.anova().statistic.shape == (4, 2) and np.isfinite(toy.anova().pvalue).all()
