"""Every random structure against lme4, lmerTest and pbkrtest on public data (reference/README.md)."""

from __future__ import annotations

import csv
import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from structure import Fits, fit_structure

from jaxlmm.design.random import RandomTerm, make_random_term
from jaxlmm.inference.variance_df import kenward_roger, kenward_roger_f, satterthwaite, satterthwaite_f

REFERENCE = Path(__file__).parents[1] / "reference"
NAMES = sorted(path.stem for path in REFERENCE.glob("[gs]_*.json"))
# lme4's own optimum: its deviance, in extended precision, is 6e-11 above that of ours.
SHORT = {("s_oxboys", False): 3e-6}
# Type III hypotheses of models with interactions.
SLOPE_BY_THREE = {"recipe": [[0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]], "temp": [[0, 0, 0, 1, 1 / 3, 1 / 3]]}
BY_SEX = {"age": [[0, 1, 0, 0.5]], "Sex": [[0, 0, 1, 0]], "age:Sex": [[0, 0, 0, 1]]}
TYPE_THREE: dict[str, dict[str, list[list[float]]]] = {
    "g_oats": {
        "nitro": [[0, 1, 0, 0, 1 / 3, 1 / 3]],
        "Variety": [[0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]],
        "nitro:Variety": [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]],
    },
    "s_assay": {"sample": np.eye(10)[1:6].tolist(), "dilut": np.eye(10)[6:].tolist()},
    "s_cake": {**SLOPE_BY_THREE, "recipe:temp": [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]},
    "s_orthodont": BY_SEX,
    "s_orthodont_double": BY_SEX,
    "s_rats": {
        "Time": [[0, 1, 0, 0, 1 / 3, 1 / 3]],
        "Diet": [[0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]],
        "Time:Diet": [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]],
    },
    "s_three_crossed": {"cond": [[0, 1, 0, 0]], "x": [[0, 0, 1, 0.5]], "cond:x": [[0, 0, 0, 1]]},
}


def type_three(name: str, term: str, p: int) -> np.ndarray:
    """Rows of the type III hypothesis: by hand where there are interactions, else the term's own columns."""
    if name in TYPE_THREE:
        return np.array(TYPE_THREE[name][term], dtype=float)
    expected = load(name)[0]
    own = [j for j, column in enumerate(expected["terms"]) if column == term or is_level(name, column, term)]
    return np.eye(p)[own]


def is_level(name: str, column: str, term: str) -> bool:
    rest = column.removeprefix(term)
    return column.startswith(term) and (term.startswith("poly") or rest in {row.get(term) for row in load(name)[1]}
                                        or rest.isdigit())  # fmt: skip


def listed(value):
    return value if isinstance(value, list) else [value]


def column(rows, name):
    return np.array([row[name] for row in rows])


def random_terms(expected, rows) -> list[RandomTerm]:
    """The terms of lme4's varcorr, in its order; columns made by hand."""
    out = []
    for key, entry in expected["reml"]["varcorr"].items():
        name = re.sub(r"\.\d$", "", key)
        labels = [":".join(row[part] for part in re.split("[:()]+", name) if part) for row in rows]
        levels, codes = np.unique(labels, return_inverse=True)
        names = listed(entry["names"])
        Z = np.column_stack([effect_column(rows, effect) for effect in names])
        out.append(make_random_term(name, levels.tolist(), codes, Z, names))
    return out


def effect_column(rows, effect):
    if effect == "(Intercept)":
        return np.ones(len(rows))
    if effect in rows[0]:
        return column(rows, effect).astype(float)
    if power := re.fullmatch(r"I\((\w+)\^(\d)\)", effect):
        return column(rows, power[1]).astype(float) ** int(power[2])
    name = next(key for key in rows[0] if effect.startswith(key))
    return (column(rows, name) == effect[len(name) :]).astype(float)


@functools.cache
def load(name):
    expected = json.loads((REFERENCE / f"{name}.json").read_text())
    with open(REFERENCE / f"{name}.csv") as file:
        rows = list(csv.DictReader(file))
    X = np.genfromtxt(REFERENCE / f"{name}.X.csv", delimiter=",", skip_header=1).reshape(len(rows), -1)
    y = column(rows, expected["formula"].split("~")[0].strip()).astype(float)
    weights = column(rows, expected["weights"]).astype(float) if expected["weights"] else None
    return expected, rows, X, y, weights


@functools.cache
def fitted(name: str, reml: bool = True) -> Fits:
    expected, rows, X, y, weights = load(name)
    # The same response at other scales and far from zero beside it: all must come out the same.
    Y = np.column_stack([y, y * 1e-8, y * 1e8, y + 1e6 * np.std(y)])
    return fit_structure(X, random_terms(expected, rows), Y, reml=reml, weights=weights)


def tolerance(part) -> float:
    """1e-6, but where lme4's own optimum is poorly determined."""
    for entry in part["varcorr"].values():
        cov = np.array(entry["cov"], dtype=float).reshape(len(listed(entry["names"])), -1)
        sd = np.sqrt(np.diag(cov))
        if np.min(sd**2) < 1e-4 * part["sigma2"]:
            return 2e-5
        if np.abs(cov / np.outer(sd, sd) - np.eye(len(sd))).max() > 0.99:
            return 2e-5
    return 1e-6


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_estimates(name: str, reml: bool) -> None:
    expected = load(name)[0]
    part = expected["reml" if reml else "ml"]
    fit, rtol = fitted(name, reml), SHORT.get((name, reml), tolerance(part))
    assert fit.found.converged.all()
    np.testing.assert_allclose(fit.loglik[0], part["loglik"], rtol=1e-9)
    np.testing.assert_allclose(fit.sigma2[0], part["sigma2"], rtol=rtol)
    np.testing.assert_allclose(fit.se[:, 0], listed(part["se"]), rtol=rtol)
    coef = np.array(listed(part["coef"]))
    np.testing.assert_allclose(fit.coef[:, 0], coef, atol=rtol * np.abs(fit.se[:, 0]).max(), rtol=rtol)
    for t, entry in enumerate(part["varcorr"].values()):
        cov = np.array(entry["cov"], dtype=float).reshape(fit.varcorr(t).shape[:2])
        # lme4's zeros are of 1e-19.
        largest = max(np.diag(cov).max(), 1e-6 * part["sigma2"])
        np.testing.assert_allclose(fit.varcorr(t)[..., 0], cov, atol=2 * rtol * largest, rtol=2 * rtol)
    if reml:
        np.testing.assert_allclose(
            np.abs(fit.theta[:, 0]), np.abs(listed(part["theta"])), rtol=10 * rtol, atol=10 * rtol
        )


@pytest.mark.parametrize("name", NAMES)
def test_scale_and_mean_of_y_change_nothing(name: str) -> None:
    fit = fitted(name)
    for other, scale, rtol in ((1, 1e-8, 1e-9), (2, 1e8, 1e-9), (3, 1.0, 1e-7)):
        np.testing.assert_allclose(fit.sigma2[other], fit.sigma2[0] * scale**2, rtol=rtol)
        np.testing.assert_allclose(fit.theta[:, other], fit.theta[:, 0], rtol=10 * rtol, atol=10 * rtol)
        np.testing.assert_allclose(fit.coef[1:, other], fit.coef[1:, 0] * scale, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("name", NAMES)
def test_modes_and_their_conditional_sds(name: str) -> None:
    expected, rows, *_ = load(name)
    fit, terms = fitted(name), random_terms(expected, rows)
    for factor, entry in expected["ranef"].items():
        blup = np.array(entry["blup"], dtype=float).reshape(len(listed(entry["level"])), -1)
        sd = np.array(entry["cond_sd"], dtype=float).reshape(blup.shape)
        at = 0
        for term, (modes, spread) in zip(terms, fit.modes, strict=True):
            if term.name != factor:
                continue
            order = [term.levels.index(str(level)) for level in listed(entry["level"])]
            for j in range(term.size):
                sigma = np.sqrt(fit.sigma2[0])  # lme4's zeros are of 1e-18 sigma
                scale = max(np.abs(blup[:, at]).max(), 1e-6 * sigma)
                np.testing.assert_allclose(modes[order, j, 0], blup[:, at], atol=1e-5 * scale)
                ours = np.sqrt(spread[order, j, j, 0] * fit.sigma2[0])
                np.testing.assert_allclose(ours, sd[:, at], rtol=1e-5, atol=1e-8 * sigma)
                at += 1
        assert at == blup.shape[1]


@pytest.mark.parametrize("name", NAMES)
def test_t_tests(name: str) -> None:
    expected = load(name)[0]
    fit = fitted(name)
    p = len(fit.R)
    curves = fit.curves(np.eye(p))
    df = satterthwaite(curves, fit.observed())
    np.testing.assert_allclose(df[0], listed(expected["reml"]["df_satterthwaite"]), rtol=1e-3)
    if "kenward_roger" in expected:
        adjusted, df = kenward_roger(curves, fit.l2)
        se = np.sqrt(np.einsum("mqq->mq", adjusted) * fit.sigma2[:, None])
        np.testing.assert_allclose(se[0], listed(expected["kenward_roger"]["se"]), rtol=tolerance(expected["reml"]))
        np.testing.assert_allclose(df[0], listed(expected["kenward_roger"]["df"]), rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_type_three_tables(name: str) -> None:
    expected = load(name)[0]
    fit = fitted(name)
    for table in ("anova_satterthwaite", "anova_kenward_roger"):
        if table not in expected:
            continue
        entry = {key: listed(value) for key, value in expected[table].items()}
        for k, term in enumerate(entry["term"]):
            L = type_three(name, term, len(fit.R))
            assert len(L) == entry["numdf"][k]
            curves = fit.curves(L)
            delta = (L @ fit.coef / np.sqrt(fit.sigma2)).T
            if table == "anova_satterthwaite":
                F, den = satterthwaite_f(curves, delta, fit.observed())
            else:
                F, den = kenward_roger_f(curves, delta, fit.l2)
            np.testing.assert_allclose(F[0], entry["F"][k], rtol=2e-5)
            np.testing.assert_allclose(den[0], entry["dendf"][k], rtol=1e-3)
