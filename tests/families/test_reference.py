"""Against lme4 on public data sets: estimates, likelihoods, random effects."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Reference, blup_sd, blups, load_reference

import jaxlmm


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_estimates(reference: Reference, method: str) -> None:
    found = jaxlmm.fit(reference.X, reference.y, reference.groups, method=method)
    expected = reference.expected[method.lower()]
    (group_var,) = expected["var_components"].values()
    np.testing.assert_allclose(found.coef[0], expected["coef"], rtol=1e-6)
    np.testing.assert_allclose(found.se[0], expected["se"], rtol=1e-6)
    np.testing.assert_allclose(found.sigma2[0], expected["sigma2"], rtol=1e-6)
    np.testing.assert_allclose(found.group_var[0], group_var, rtol=1e-6)
    np.testing.assert_allclose(found.loglik[0], expected["loglik"], rtol=1e-10)
    np.testing.assert_allclose(found.aic[0], expected["aic"], rtol=1e-10)
    np.testing.assert_allclose(found.bic[0], expected["bic"], rtol=1e-10)
    assert found.converged[0]
    assert found.n_obs == reference.expected["n"]


def test_vcov_and_t(reference: Reference) -> None:
    found = jaxlmm.fit(reference.X, reference.y, reference.groups)
    expected = reference.expected["reml"]
    V = np.reshape(expected["vcov"], found.vcov[0].shape)
    # Off-diagonal entries can be 0 up to rounding: compare on the scale of the diagonal.
    scale = np.sqrt(np.outer(np.diag(V), np.diag(V)))
    np.testing.assert_allclose(found.vcov[0] / scale, V / scale, atol=1e-6)
    np.testing.assert_allclose(found.statistic[0], expected["t"], rtol=1e-6)


def test_random_effects(reference: Reference) -> None:
    found = jaxlmm.fit(reference.X, reference.y, reference.groups)
    (expected,) = reference.expected["ranef"].values()
    assert [str(v) for v in found.design.random[0].levels] == [str(v) for v in expected["level"]]
    largest = np.max(np.abs(expected["blup"]))
    np.testing.assert_allclose(blups(found)[0], expected["blup"], rtol=1e-5, atol=1e-6 * largest)
    np.testing.assert_allclose(blup_sd(found)[0], expected["cond_sd"], rtol=1e-5)


@pytest.mark.parametrize("name", ["dyestuff2", "co2"])
def test_singular_is_exactly_zero_and_flagged(name: str) -> None:
    data = load_reference(name)
    found = jaxlmm.fit(data.X, data.y, data.groups)
    assert found.group_var[0] == 0.0
    assert found.singular[0] and found.converged[0]
    assert found.status[0] == jaxlmm.Status.SINGULAR
    assert not blups(found).any()
    assert "singular" in found.summary(0)
