"""Tables in broom.mixed's style: against lme4's numbers, the arrays of Fit, and by hand."""

from __future__ import annotations

import datetime
import functools
import time
from typing import Any

import numpy as np
import pytest
from conftest import Reference, blup_sd, blups, load_reference, simulate

import jaxlmm

pd = pytest.importorskip("pandas")
tables = pytest.importorskip("jaxlmm.results.tables")
tidy, glance, augment = tables.tidy, tables.glance, tables.augment

G = 6
CODES = np.repeat(np.arange(G), [3, 5, 4, 6, 3, 5])


@functools.cache
def fitted(levels: Any = None, m: int = 4, **options: Any) -> jaxlmm.Fit:
    rng = np.random.default_rng(3)
    X, Y = simulate(rng, CODES, p=3, m=m, ratio=1.5)
    Y[2, 1] = np.nan  # fitted to the other rows
    Y[:, 2] = np.nan  # not fitted
    groups = CODES if levels is None else [levels[c] for c in CODES]
    return jaxlmm.fit(X, Y, groups, names=["one", "a", "b"], group_name="site", **options)


# -- tidy -----------------------------------------------------------------------------------------


def test_tidy_is_broom_mixed_of_lme4(reference: Reference) -> None:
    fit = jaxlmm.fit(reference.X, reference.y, reference.groups, names=reference.terms, group_name="G")
    table, expected = tidy(fit), reference.expected["reml"]
    fixed, random = table[table["effect"] == "fixed"], table[table["effect"] == "ran_pars"]
    assert list(fixed["term"]) == reference.terms
    np.testing.assert_allclose(fixed["estimate"], expected["coef"], rtol=1e-6)
    np.testing.assert_allclose(fixed["std.error"], expected["se"], rtol=1e-5)
    np.testing.assert_allclose(fixed["df"], expected["df_satterthwaite"], rtol=1e-4)
    np.testing.assert_allclose(fixed["p.value"], expected["p_satterthwaite"], rtol=1e-4)
    assert list(random["group"]) == ["G", "Residual"]
    assert list(random["term"]) == ["sd__(Intercept)", "sd__Observation"]
    variances = [*expected["var_components"].values(), expected["sigma2"]]
    np.testing.assert_allclose(random["estimate"] ** 2, variances, rtol=1e-5, atol=1e-8)


def test_tidy_modes_are_lme4s() -> None:
    data = load_reference("dyestuff")
    fit = jaxlmm.fit(data.X, data.y, data.groups, group_name="Batch")
    table, expected = tidy(fit, effects="ran_vals"), data.expected["ranef"]["Batch"]
    assert list(table["level"]) == expected["level"]
    assert set(table["group"]) == {"Batch"} and set(table["term"]) == {"(Intercept)"}
    np.testing.assert_allclose(table["estimate"], expected["blup"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table["std.error"], expected["cond_sd"], rtol=1e-5)
    # broom.mixed: qnorm, not a t quantile
    np.testing.assert_allclose(table["conf.high"] - table["estimate"], 1.959963984540054 * table["std.error"])


def test_tidy_columns_and_order_of_rows() -> None:
    fit = fitted()
    table = tidy(fit)
    assert list(table.columns) == [
        "response", "effect", "group", "term", "estimate", "std.error", "statistic", "df", "p.value",
        "conf.low", "conf.high",
    ]  # fmt: skip
    assert list(table.index) == list(range(4 * 5))
    assert list(table["response"]) == [name for name in fit.response_names for _ in range(5)]
    assert list(table["term"]) == ["one", "a", "b", "sd__(Intercept)", "sd__Observation"] * 4
    assert list(table["group"].isna()) == ([True] * 3 + [False] * 2) * 4
    assert all(table[name].dtype == np.float64 for name in table.columns[4:])


def test_tidy_holds_the_arrays_of_the_fit() -> None:
    fit = fitted(df="kenward-roger")
    table = tidy(fit, level=0.8)
    fixed = table[table["effect"] == "fixed"]
    expected = {
        "estimate": fit.coef, "std.error": fit.se, "statistic": fit.statistic, "df": fit.df, "p.value": fit.pvalue,
        "conf.low": fit.conf_int(0.8)[..., 0], "conf.high": fit.conf_int(0.8)[..., 1],
    }  # fmt: skip
    for name, array in expected.items():
        np.testing.assert_array_equal(fixed[name].to_numpy(), array.ravel(), err_msg=name)
    assert fixed["estimate"].isna().tolist() == [False] * 6 + [True] * 3 + [False] * 3


def test_standard_errors_of_standard_deviations() -> None:
    fit = fitted()
    table = tidy(fit, effects="ran_pars").set_index(["term", "response"])
    se = fit.variance_se()
    np.testing.assert_allclose(table.loc["sd__Observation", "estimate"], np.sqrt(fit.sigma2))
    # d var = 2 sd d sd
    np.testing.assert_allclose(
        2 * table.loc["sd__Observation", "estimate"] * table.loc["sd__Observation", "std.error"], se["sigma2"]
    )
    np.testing.assert_allclose(table.loc["sd__(Intercept)", "estimate"], np.sqrt(fit.group_var))
    np.testing.assert_allclose(
        2 * table.loc["sd__(Intercept)", "estimate"] * table.loc["sd__(Intercept)", "std.error"], se["group_var"]
    )
    for name in ("statistic", "df", "p.value", "conf.low", "conf.high"):
        assert table[name].isna().all()


def test_a_singular_sd_is_0_without_standard_error() -> None:
    data = load_reference("dyestuff2")
    table = tidy(jaxlmm.fit(data.X, data.y, data.groups), effects=["ran_pars"])
    assert table["estimate"][0] == 0 and np.isnan(table["std.error"][0])
    assert table["estimate"][1] > 0 and table["std.error"][1] > 0


def test_effects_come_in_one_order_whatever_is_asked() -> None:
    fit = fitted().select([0, 1])
    table = tidy(fit, effects=["ran_vals", "fixed"])
    assert list(table["effect"]) == (["fixed"] * 3 + ["ran_vals"] * G) * 2
    assert list(table.columns[:5]) == ["response", "effect", "group", "level", "term"]
    assert table["level"][:3].isna().all()
    assert list(table["level"][3 : 3 + G]) == list(range(G))
    assert all(type(v) is int for v in table["level"][3 : 3 + G])
    np.testing.assert_array_equal(table["estimate"][3 : 3 + G], blups(fit)[0])
    np.testing.assert_array_equal(table["std.error"][-G:], blup_sd(fit)[1])


@pytest.mark.parametrize(
    "levels",
    [
        list("abcdef"),
        [10, 20, 30, 40, 50, 60],
        [("s", 1), ("s", 2), ("t", 1), ("t", 2), ("u", 1), ("u", 2)],
        [datetime.datetime(2020, 1, d) for d in range(1, 7)],
        [0.5, 1.5, 2.5, 3.5, 4.5, 5.5],
    ],
    ids=["text", "integers", "tuples", "times", "floats"],
)
def test_levels_keep_their_type(levels: list[Any]) -> None:
    fit = fitted(tuple(levels))
    alone = tidy(fit, effects="ran_vals", responses=[0, 3])
    beside = tidy(fit, effects=["fixed", "ran_vals"], responses=[0, 3])
    assert alone["level"].tolist() == levels * 2
    assert beside["level"].dropna().tolist() == levels * 2
    assert augment(fit)["site"].tolist() == [levels[c] for c in CODES]


def test_without_conf_int() -> None:
    table = tidy(fitted(), conf_int=False)
    assert table.columns[-1] == "p.value"
    pd.testing.assert_frame_equal(table, tidy(fitted())[table.columns])


def test_ordinary_least_squares() -> None:
    X, Y = simulate(np.random.default_rng(0), CODES, p=2, m=2)
    fit = jaxlmm.fit(X, Y)
    table = tidy(fit, effects=["fixed", "ran_pars", "ran_vals"])
    assert list(table["term"]) == ["x0", "x1", "sd__Observation"] * 2
    assert table["level"].isna().all()
    assert len(tidy(fit, effects="ran_vals")) == 0
    assert list(tidy(fit, effects="ran_vals").columns) == list(table.columns)
    residual = Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0]
    expected = np.sqrt(np.sum(residual**2, axis=0) / (len(X) - 2))
    np.testing.assert_allclose(table.loc[table["effect"] == "ran_pars", "estimate"], expected)


def test_z_tests_have_infinite_df() -> None:
    table = tidy(fitted(df="normal"), effects="fixed")
    assert np.isposinf(table.loc[table["response"] == "y0", "df"]).all()


# -- tidy: adjusted p-values, chosen responses -----------------------------------------------------


def test_each_term_is_one_family_over_all_responses() -> None:
    fit = fitted(m=12)
    table = tidy(fit, adjust="holm")
    assert list(table.columns[8:10]) == ["p.value", "p.adjusted"]
    for term in fit.names:
        rows = table[table["term"] == term]
        p = rows["p.value"].to_numpy()
        good = np.sort(p[~np.isnan(p)])
        assert len(good) == 11  # the response that is not fitted is no test
        by_hand = np.minimum(np.maximum.accumulate(good * np.arange(11, 0, -1)), 1)
        np.testing.assert_allclose(np.sort(rows["p.adjusted"].dropna()), by_hand)
        assert rows["p.adjusted"].isna().tolist() == np.isnan(p).tolist()
    assert table.loc[table["effect"] == "ran_pars", "p.adjusted"].isna().all()


def test_adjustment_counts_responses_that_are_not_shown() -> None:
    fit = fitted(m=12)
    whole = tidy(fit, adjust="bonferroni")
    part = tidy(fit, adjust="bonferroni", responses=["y7", "y0"])
    expected = pd.concat([whole[whole["response"] == name] for name in ("y7", "y0")], ignore_index=True)
    pd.testing.assert_frame_equal(part, expected)
    assert (part["p.adjusted"].dropna() > part.loc[part["p.adjusted"].notna(), "p.value"]).all()


@pytest.mark.parametrize("responses", [1, "y1", slice(1, 2), [False, True, False, False], [-3]])
def test_choosing_responses(responses: Any) -> None:
    table = tidy(fitted(), responses=responses)
    expected = tidy(fitted())
    pd.testing.assert_frame_equal(table, expected[expected["response"] == "y1"].reset_index(drop=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effects": "random"}, "effects must be some of 'fixed', 'ran_pars', 'ran_vals', found 'random'"),
        ({"effects": ["fixed", "ran_coefs"]}, "found ['fixed', 'ran_coefs']"),
        ({"effects": []}, "effects must be some of"),
        ({"level": 95}, "level must lie between 0 and 1"),
        ({"level": 95, "effects": "ran_pars"}, "level must lie between 0 and 1"),
        ({"adjust": "tukey"}, "adjust must be one of 'bh'"),
        ({"responses": "nobody"}, "no response is named 'nobody'"),
        ({"responses": 9}, "out of range"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        tidy(fitted(), **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_long_tables_are_built_at_once() -> None:
    X, Y = simulate(np.random.default_rng(0), CODES, p=4, m=1)
    fit = jaxlmm.fit(X, Y, CODES)
    wide = fit.select(np.zeros(100_000, dtype=int))
    wide.pvalue, wide.variance_se()  # what the fit computes is not the table's business
    start = time.process_time()
    table = tidy(wide)
    assert len(table) == 600_000
    assert time.process_time() - start < 10  # 0.4 s; a loop over rows takes minutes


# -- glance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "criterion"), [("REML", "REMLcrit"), ("ML", "deviance")])
def test_glance_is_broom_mixed_of_lme4(reference: Reference, method: str, criterion: str) -> None:
    fit = jaxlmm.fit(reference.X, reference.y, reference.groups, method=method)
    table, expected = glance(fit), reference.expected[method.lower()]
    assert list(table.columns) == [
        "response", "nobs", "ngroups", "sigma", "logLik", "AIC", "BIC", criterion, "df.residual", "icc",
        "r2.marginal", "r2.conditional", "singular", "converged", "status", "method",
    ]  # fmt: skip
    row = table.iloc[0]
    n, p = reference.X.shape
    assert row["nobs"] == n == reference.expected["n"]
    assert row["ngroups"] == len(set(reference.groups))
    assert row["df.residual"] == n - p - 2  # lme4: both variances count
    np.testing.assert_allclose(row["sigma"] ** 2, expected["sigma2"], rtol=1e-5)
    np.testing.assert_allclose(
        row[["logLik", "AIC", "BIC"]].astype(float),
        [expected[name] for name in ("loglik", "aic", "bic")], rtol=1e-7,
    )  # fmt: skip
    np.testing.assert_allclose(row[criterion], -2 * expected["loglik"], rtol=1e-7)
    assert row["method"] == method


def test_glance_of_many() -> None:
    fit = fitted(response_names=("w", "x", "y", "z"))
    table = glance(fit)
    assert list(table["response"]) == ["w", "x", "y", "z"]
    assert list(table["nobs"]) == fit.n_used.tolist() and table["nobs"][1] == len(CODES) - 1
    np.testing.assert_array_equal(table["icc"], fit.icc)
    np.testing.assert_array_equal(table["r2.marginal"], fit.rsquared_marginal)
    np.testing.assert_array_equal(table["r2.conditional"], fit.rsquared_conditional)
    assert list(table["converged"]) == [True, True, False, True]
    assert list(table["singular"]) == fit.singular.tolist()
    assert list(table["status"]) == [jaxlmm.Status(s).name for s in fit.status]
    assert table["status"][0] == "OK" and table["status"][2] == "NONFINITE"
    assert table.loc[2, ["sigma", "logLik", "AIC", "icc", "r2.marginal"]].isna().all()


def test_glance_of_ordinary_least_squares() -> None:
    X, Y = simulate(np.random.default_rng(0), CODES, p=3, m=1)
    row = glance(jaxlmm.fit(X, Y)).iloc[0]
    assert row["ngroups"] == 0 and row["df.residual"] == len(X) - 3  # R: df.residual(lm)


# -- augment ---------------------------------------------------------------------------------------


def test_augment() -> None:
    fit = fitted("abcdef")
    table = augment(fit, "y1")
    assert list(table.columns) == ["y1", "one", "a", "b", "site", ".fitted", ".resid", ".fixed", ".group"]
    np.testing.assert_array_equal(table["y1"], fit.Y[:, 1])
    np.testing.assert_array_equal(table[["one", "a", "b"]], fit.design.X)
    assert list(table["site"]) == [list("abcdef")[c] for c in CODES]
    np.testing.assert_allclose(table[".fixed"], fit.design.X @ fit.coef[1])
    np.testing.assert_allclose(table[".group"], blups(fit)[1][CODES])
    np.testing.assert_allclose(table[".fitted"], table[".fixed"] + table[".group"])
    np.testing.assert_allclose(table[".resid"], table["y1"] - table[".fitted"])
    assert table["y1"].isna().tolist() == table[".resid"].isna().tolist()
    assert table["y1"].isna().sum() == 1


def test_augment_copies() -> None:
    fit = fitted()
    table = augment(fit)
    table["y0"] = table["a"] = 0.0
    assert np.any(fit.Y[:, 0] != 0) and np.any(fit.design.X[:, 1] != 0)


def test_augment_of_the_users_data() -> None:
    fit = fitted()
    data = pd.DataFrame({"a": np.arange(len(CODES)), "y0": 7.0, "note": "x"}, index=np.arange(len(CODES)) + 100)
    table = augment(fit, 0, data=data)
    assert list(table.columns) == ["a", "y0", "note", ".fitted", ".resid", ".fixed", ".group"]
    assert table.index.equals(data.index) and list(data.columns) == ["a", "y0", "note"]
    np.testing.assert_allclose(table[".resid"], fit.resid()[:, 0])
    assert list(augment(fit, 1, data=data).columns[:2]) == ["y1", "a"]
    with pytest.raises(ValueError, match="data has 3 rows, the fit has 26 observations"):
        augment(fit, data=data[:3])


def test_augment_where_names_clash() -> None:
    X, Y = simulate(np.random.default_rng(0), CODES, p=3, m=1)
    fit = jaxlmm.fit(X, Y, CODES, names=["one", "group", "y0"])
    table = augment(fit)
    assert list(table.columns[:5]) == ["y0_response", "one", "group", "y0", "group_group"]
    np.testing.assert_array_equal(table["group"], X[:, 1])
    np.testing.assert_array_equal(table["group_group"], CODES)
    np.testing.assert_array_equal(table["y0_response"], Y[:, 0])


def test_augment_of_ordinary_least_squares() -> None:
    X, Y = simulate(np.random.default_rng(0), CODES, p=2, m=1)
    table = augment(jaxlmm.fit(X, Y))
    assert list(table.columns) == ["y0", "x0", "x1", ".fitted", ".resid", ".fixed"]
    np.testing.assert_array_equal(table[".fitted"], table[".fixed"])


def test_augment_of_an_unknown_response() -> None:
    with pytest.raises(ValueError, match="no response is named 'q'"):
        augment(fitted(), "q")


# -- files -----------------------------------------------------------------------------------------


def test_parquet(tmp_path: Any) -> None:
    pytest.importorskip("pyarrow")
    for name, table in {"tidy": tidy(fitted(), adjust="bh"), "glance": glance(fitted())}.items():
        table.to_parquet(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), table)
