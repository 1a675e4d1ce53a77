"""Every random structure, by formula, against lme4, lmerTest and pbkrtest (reference/README.md)."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxlmm

REFERENCE = Path(__file__).parents[1] / "reference"
NAMES = sorted(path.stem for path in REFERENCE.glob("[gs]_*.json"))
# What R's formula is called here.
FORMULAS = {"s_quadratic": "Reaction ~ Days + I(Days^2) + (Days + I(Days^2) | Subject)"}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# lme4 stopped short of the optimum, at a log-likelihood that is lower by 3e-10 and 3e-11.
STOPPED_SHORT = {"s_rats": 1e-5, "s_oxboys": 3e-6}
# pbkrtest takes the residual covariance for the identity, whatever the prior weights are.
WEIGHTED = "weights"


@functools.cache
def load(name: str) -> tuple[dict[str, Any], pd.DataFrame]:
    expected = json.loads((REFERENCE / f"{name}.json").read_text())
    data = pd.read_csv(REFERENCE / f"{name}.csv")
    # Factors that are written as numbers: R's names of their columns end with a level.
    terms = [part for term in listed(expected["terms"]) for part in term.split(":")]
    for column in data.columns:
        levels = {f"{column}{value}" for value in data[column].unique()}
        if column not in terms and levels & set(terms):
            data[column] = data[column].astype(str)
    return expected, data


@functools.cache
def fitted(name: str, method: str = "REML") -> jaxlmm.Fit:
    """The response as it is, at other scales, and far from zero: all must come out the same."""
    expected, data = load(name)
    formula = FORMULAS.get(name, expected["formula"])
    response, right = (part.strip() for part in formula.split("~"))
    y = data[response].to_numpy(dtype=float)
    Y = np.column_stack([y, y * 1e-8, y * 1e8, y + 1e6 * np.std(y)])
    return jaxlmm.lmm(right, data, Y, method=method, weights=expected["weights"] or None)


def tolerance(part: dict[str, Any], name: str) -> float:
    """1e-6, but where lme4's own optimum is poorly determined."""
    for entry in part["varcorr"].values():
        cov = np.array(entry["cov"], dtype=float).reshape(len(listed(entry["names"])), -1)
        sd = np.sqrt(np.diag(cov))
        with np.errstate(invalid="ignore"):  # a variance of 0
            correlation = cov / np.outer(sd, sd) - np.eye(len(sd))
        if not np.abs(correlation).max() <= 0.99 or np.min(sd**2) < 1e-4 * part["sigma2"]:
            return 2e-5
    return STOPPED_SHORT.get(name, 1e-6)


# Of data sets with the same random terms one is fitted by ML too, which takes programs of its own: one factor with a
# slope, two, a factor's, singular or weighted ones; slopes apart and alone; nested, crossed, and slopes among them.
BY_ML = """
g_sleepstudy s_quadratic g_machines_factor g_dyestuff2_slope g_weights g_sleepstudy_double g_sleepstudy_slope_only
g_pastes s_three_nested s_assay g_pixel s_wafer
g_penicillin s_three_crossed s_crossed_weights s_slope_crossed g_maximal g_subj_item_zero
""".split()


@pytest.mark.parametrize(("name", "method"), [*((name, "REML") for name in NAMES), *((name, "ML") for name in BY_ML)])
def test_estimates(name: str, method: str) -> None:
    part = load(name)[0][method.lower()]
    fit, rtol = fitted(name, method), tolerance(part, name)
    assert fit.converged.all() and fit.singular.all() == part.get("singular", fit.singular.all())
    np.testing.assert_allclose(fit.loglik[0], part["loglik"], rtol=1e-9)
    assert fit.loglik[0] > part["loglik"] - 1e-7
    np.testing.assert_allclose(fit.sigma2[0], part["sigma2"], rtol=rtol)
    np.testing.assert_allclose(fit.se[0], listed(part["se"]), rtol=rtol)
    np.testing.assert_allclose(fit.coef[0], listed(part["coef"]), rtol=rtol, atol=rtol * fit.se[0].max())
    assert sorted(fit.varcorr) == sorted(part["varcorr"])
    for key, entry in part["varcorr"].items():
        cov = np.array(entry["cov"], dtype=float).reshape(fit.varcorr[key].shape[1:])
        atol = 2 * rtol * max(np.diag(cov).max(), part["sigma2"])
        np.testing.assert_allclose(fit.varcorr[key][0], cov, rtol=2 * rtol, atol=atol)
    for other, scale, digits in ((1, 1e-8, 1e-9), (2, 1e8, 1e-9), (3, 1.0, 1e-7)):
        np.testing.assert_allclose(fit.sigma2[other], fit.sigma2[0] * scale**2, rtol=digits)
        np.testing.assert_allclose(fit.theta[other], fit.theta[0], rtol=10 * digits, atol=10 * digits)
        slopes = fit.coef[:, 1:]
        np.testing.assert_allclose(
            slopes[other], slopes[0] * scale, rtol=digits, atol=10 * digits * fit.se[other].max()
        )


@pytest.mark.parametrize("name", NAMES)
def test_t_tests(name: str) -> None:
    expected = load(name)[0]
    fit = fitted(name)
    np.testing.assert_allclose(fit.df[0], listed(expected["reml"]["df_satterthwaite"]), rtol=1e-3)
    if "kenward_roger" in expected and WEIGHTED not in name:
        adjusted = fit.with_df("kenward-roger")
        rtol = tolerance(expected["reml"], name)
        np.testing.assert_allclose(adjusted.se[0], listed(expected["kenward_roger"]["se"]), rtol=rtol)
        np.testing.assert_allclose(adjusted.df[0], listed(expected["kenward_roger"]["df"]), rtol=1e-3)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FORMULAS])
def test_type_three_tables(name: str) -> None:
    expected = load(name)[0]
    for key, df in (("anova_satterthwaite", "satterthwaite"), ("anova_kenward_roger", "kenward-roger")):
        if key not in expected or not expected[key].get("term") or (df != "satterthwaite" and WEIGHTED in name):
            continue
        entry = {column: listed(value) for column, value in expected[key].items()}
        table = fitted(name).with_df(df).anova()
        at = [[_plain(term) for term in table.terms].index(_plain(term)) for term in entry["term"]]
        np.testing.assert_array_equal(table.df_num[at], entry["numdf"])
        np.testing.assert_allclose(table.statistic[0, at], entry["F"], rtol=2e-5)
        np.testing.assert_allclose(table.df_den[0, at], entry["dendf"], rtol=1e-3)


def _plain(term: str) -> str:
    return term.replace("**", "^").replace(" ", "")


@pytest.mark.parametrize("name", [name for name in NAMES if "ranef" in load(name)[0]])
def test_modes_and_their_conditional_sds(name: str) -> None:
    expected = load(name)[0]
    fit = fitted(name)
    for factor, entry in expected["ranef"].items():
        levels = [str(level) for level in listed(entry["level"])]
        blup = np.array(entry["blup"], dtype=float).reshape(len(levels), -1)
        sd = np.array(entry["cond_sd"], dtype=float).reshape(blup.shape)
        parts = [part for part in fit.ranef().values() if part.name == factor]
        at = 0
        for part in parts:
            labels = [":".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in part.levels]
            order = [labels.index(level) for level in levels]
            for j in range(len(part.columns)):
                # lme4's own theta is not exactly 0 where the variance is.
                least = 1e-7 * np.sqrt(fit.sigma2[0])
                atol = max(1e-5 * np.abs(blup[:, at]).max(), least)
                np.testing.assert_allclose(part.modes[0, order, j], blup[:, at], rtol=1e-5, atol=atol)
                np.testing.assert_allclose(part.sd[0, order, j], sd[:, at], rtol=1e-5, atol=least)
                at += 1
        assert at == blup.shape[1]
