"""What a fit prints, and how its responses are chosen."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import unbalanced

import jaxlmm


@pytest.fixture(scope="module")
def fit() -> jaxlmm.Fit:
    rng = np.random.default_rng(0)
    codes = unbalanced(rng, 9, 20)
    X = np.column_stack([np.ones(len(codes)), rng.normal(size=len(codes))])
    Y = rng.normal(size=(codes.max() + 1, 40))[codes] + rng.normal(size=(len(codes), 40))
    Y[:, :10] += 2 * X[:, [1]]
    Y[:, 38], Y[3, 39] = 1.0, np.nan
    return jaxlmm.fit(X, Y, codes, names=["one", "dose"])


def test_the_overview_counts(fit: jaxlmm.Fit) -> None:
    text = fit.summary()
    row = next(line.split() for line in text.splitlines() if line.startswith("dose"))
    p = fit.pvalue[fit.converged, 1]
    assert int(row[-2]) == (p < 0.05).sum() and int(row[-1]) == (jaxlmm.adjust_pvalues(p, "bh") < 0.05).sum() >= 10
    assert float(row[1]) == pytest.approx(np.median(fit.coef[fit.converged, 1]), abs=1e-4)
    assert "1 CONSTANT" in text and "ICC" in text and "Incomplete responses: 1" in " ".join(text.split())
    assert repr(text) == str(text) and "<pre>" in fit._repr_html_()


def test_the_table_of_one_response(fit: jaxlmm.Fit) -> None:
    assert "Dependent Variable: y3" in " ".join(fit.summary("y3").split())
    assert fit.summary(3) == fit.summary("y3") == fit[3].summary() == fit["y3"].summary()


def test_responses_are_chosen_by_brackets(fit: jaxlmm.Fit) -> None:
    assert len(fit) == 40 and len(fit[3:5]) == 2 and len(list(fit)) == 40
    np.testing.assert_array_equal(fit["y3"].coef[0], fit.coef[3])
    np.testing.assert_array_equal(fit[["y3", "y1"]].coef, fit.coef[[3, 1]])
    np.testing.assert_array_equal(fit[fit.converged].coef, fit.coef[fit.converged])
    np.testing.assert_array_equal(fit[-1].n_used, fit.n_used[-1:])
    with pytest.raises(ValueError, match="no response is named 'Cz'"):
        fit["Cz"]


def test_the_names_of_statsmodels(fit: jaxlmm.Fit) -> None:
    for theirs, ours in {"params": "coef", "bse": "se", "tvalues": "statistic", "pvalues": "pvalue"}.items():
        np.testing.assert_array_equal(getattr(fit, theirs), getattr(fit, ours))
