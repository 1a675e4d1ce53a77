"""Satterthwaite and Kenward-Roger against lmerTest and pbkrtest, and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Reference

import jaxlmm


def test_satterthwaite(reference: Reference) -> None:
    found = jaxlmm.fit(reference.X, reference.y, reference.groups)
    expected = reference.expected["reml"]
    np.testing.assert_allclose(found.df[0], expected["df_satterthwaite"], rtol=1e-4)
    np.testing.assert_allclose(found.pvalue[0], expected["p_satterthwaite"], rtol=1e-4)


def test_kenward_roger(reference: Reference) -> None:
    if "kenward_roger" not in reference.expected:
        pytest.skip("no Kenward-Roger reference for this set")
    found = jaxlmm.fit(reference.X, reference.y, reference.groups, df="kenward-roger")
    expected = reference.expected["kenward_roger"]
    np.testing.assert_allclose(found.se[0], expected["se"], rtol=1e-6)
    np.testing.assert_allclose(found.df[0], expected["df"], rtol=1e-4)
    np.testing.assert_allclose(found.stat[0], expected["t"], rtol=1e-6)
    np.testing.assert_allclose(found.pvalue[0], expected["p"], rtol=1e-4)
    np.testing.assert_allclose(np.sqrt(np.diag(found.vcov[0])), found.se[0], rtol=1e-12)
