"""Marginal means, contrasts, trends, joint tests and tables of type I to III against R: tests/reference/emmeans.R."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jaxlmm import lmm

FOUND = json.loads((Path(__file__).parents[1] / "reference" / "emmeans.json").read_text())
CASES: dict[str, list[Any]] = {kind: [] for kind in ("means", "joint", "anova", "mixed")}
for case in FOUND["cases"]:
    CASES[case["kind"]].append(case)
# Of estimates, standard errors, df and log p: the optimum of lme4 is good to about 1e-7 in the variance ratio, and
# its derivatives to 1e-4.
LOOSE = {"estimate": 2e-6, "se": 2e-5, "df": 2e-3}


@functools.cache
def data(name: str) -> pd.DataFrame:
    return pd.DataFrame(FOUND["data"][name]).astype({"y2": float})


@functools.cache
def fitted(name: str, formula: str, weighted: bool) -> Any:
    with warnings.catch_warnings():
        if name == "hole":
            warnings.filterwarnings("ignore", "formula .* no row has a.r.:b.v.", UserWarning)
        return lmm(formula, data(name), responses=["y1", "y2"], weights="w" if weighted else None)


def fit_of(case: Any) -> Any:
    return fitted(case["data"], case["formula"], case["weighted"]).with_df(case["df"])


def described(case: Any) -> str:
    words = [case["data"], case["formula"].replace(" ", ""), *case.get("specs", []), "by", *case.get("by", [])]
    return " ".join([*words, *(str(case[k]) for k in ("var", "average", "type", "df") if case.get(k))])


def close(found: np.ndarray, expected: list[Any], tolerance: float, atol: float = 1e-7) -> None:
    np.testing.assert_allclose(found, np.array(expected, dtype=float), rtol=tolerance, atol=atol)


@pytest.mark.parametrize("case", CASES["means"], ids=described)
def test_means_and_trends(case: Any) -> None:
    fit = fit_of(case)
    options = {"by": case["by"], "at": case["at"], "weights": case["average"]}
    specs, var = case["specs"], case["var"]
    means = fit.emtrends(specs, var, **options) if var else fit.emmeans(specs, **options)
    for i, expected in enumerate(case["found"]):
        for name, tolerance in LOOSE.items():
            close(getattr(means, name)[i], expected[name], tolerance)
        scale = np.nanmax(np.abs(means.se[i]))
        close(means.conf_int()[i, :, 0], expected["low"], 1e-4, 1e-4 * scale)
        close(means.conf_int()[i, :, 1], expected["high"], 1e-4, 1e-4 * scale)
        for one, wanted in zip(case["contrasts"], expected["contrasts"], strict=True):
            compare_contrasts(means, one, wanted, i)


def compare_contrasts(means: Any, asked: dict[str, Any], wanted: dict[str, Any], i: int) -> None:
    method, options = asked["method"], {"by": asked["by"]} if "by" in asked else {}
    for name in {"ref", "exclude", "include"} & set(asked):  # R's are positions
        options[name] = [means.names[k - 1] for k in np.atleast_1d(asked[name])]
    default = means.contrast(method, **options)
    assert list(default.labels) == wanted["name"]
    r_default = wanted["default"].lower().replace("fdr", "bh")
    assert default.adjust == (r_default if len(default.labels) > len(default.families) else "none")
    for adjust in asked["adjust"] if isinstance(asked["adjust"], list) else [asked["adjust"]]:
        found = means.contrast(method, adjust=adjust, **options)
        for name, tolerance in LOOSE.items():
            close(getattr(found, name)[i], wanted[name], tolerance, 1e-6)
        p = np.array(wanted["p"][adjust], dtype=float)
        # R's mvt is random, good to 1e-3, and with df rounded down; its dunnettx intervals are
        # good to 5e-4; beside a contrast that is not estimable its Tukey rounds df to whole numbers.
        loose = {"mvt": (1e-2, 2e-3, 2e-2), "dunnettx": (1e-4, 1e-7, 1e-3)}.get(adjust, (1e-4, 1e-7, 1e-4))
        if adjust == "tukey" and np.isnan(p).any():
            loose = (1e-2, 1e-7, 1e-3)
        seen = p > 1e-4 if adjust == "mvt" else np.isfinite(p)
        np.testing.assert_allclose(found.pvalue[i][seen], p[seen], rtol=loose[0], atol=loose[1], err_msg=adjust)
        np.testing.assert_array_equal(np.isnan(found.pvalue[i]), np.isnan(p))
        limits = np.array(wanted["limits"][adjust], dtype=float).reshape(2, -1)
        half = (limits[1] - limits[0]) / 2
        mine = np.diff(found.conf_int()[i], axis=-1)[:, 0] / 2
        np.testing.assert_allclose(mine, half, rtol=loose[2], err_msg=adjust)


@pytest.mark.parametrize("case", CASES["joint"], ids=described)
def test_joint_tests(case: Any) -> None:
    found = fit_of(case).joint_tests(by=case["by"])
    for i, expected in enumerate(case["found"]):
        there = found.df_num > 0
        assert [term for term, one in zip(found.terms, there, strict=True) if one] == expected["term"]
        np.testing.assert_array_equal(found.df_num[there], expected["df_num"])
        # R rounds F to three decimals, and the denominators to two; what is confounded is made of rounded ones.
        close(found.statistic[i][there], expected["F"], 1e-5, 6e-4 if "(confounded)" not in found.terms else 2e-3)
        close(found.df_den[i][there], expected["df_den"], 2e-3, 6e-3)
        close(np.log(found.pvalue[i][there]), np.log(expected["p"]).tolist(), 1e-3, 1e-5)


@pytest.mark.parametrize("case", CASES["anova"], ids=described)
def test_tables_of_each_type(case: Any) -> None:
    found = fit_of(case).anova(type=case["type"])
    names = [term.replace("^", " ** ").split(":") for term in case["found"][0]["term"]]
    assert [set(term.split(":")) for term in found.terms] == [set(name) for name in names]
    for i, expected in enumerate(case["found"]):
        np.testing.assert_array_equal(found.df_num, expected["df_num"])
        close(found.statistic[i], expected["F"], 2e-4)
        close(found.df_den[i], expected["df_den"], 2e-3)
        close(np.log(found.pvalue[i]), np.log(expected["p"]).tolist(), 1e-3, 1e-4)


@pytest.mark.parametrize("case", CASES["mixed"], ids=lambda case: case["response"])
def test_type_iii_with_an_empty_cell_is_refused_for_what_lmertest_tests(case: Any) -> None:
    """lmerTest tests contrasts that mix cells, with weights that follow from which are filled: by ``ftest`` here."""
    fit = fitted("hole", "a * b + x + (1 | g)", False).select([case["response"]])
    with pytest.raises(
        ValueError, match=r"so there is no type III test: .* does not compare means then.* joint_tests"
    ):
        fit.anova()
    assert list(fit.names) == ["Intercept", "a[T.q]", "a[T.r]", "b[T.v]", "x", "a[T.q]:b[T.v]"]
    assert np.array(case["L"]["a"])[1].tolist() == [0, 0, 1, 0, 0, 0.25]  # nothing of the means at b = v
    for k, L in enumerate(case["L"].values()):
        found = fit.ftest(np.atleast_2d(L))
        close(found.statistic, [case["F"][k]], 2e-4)
        close(found.df_den, [case["df"][k]], 2e-3)
