"""Hard random designs against an oracle of 60 digits; ``benchmarks/adversarial.py`` runs more of them."""

from __future__ import annotations

import pytest
from adversarial import KINDS, campaign

# Worst errors allowed: log-likelihood, sigma2 and standard errors relative, coefficients in standard errors.
ALLOWED = {
    "log-likelihood": 1e-6,
    "sigma2": 1e-6,
    "coef, in se": 1e-6,
    "se": 1e-6,
    "log-likelihood below the best of a scan": 1e-6,
}
DESIGNS = 24


@pytest.mark.parametrize("kind", KINDS)
def test_errors_stay_small(kind: str) -> None:
    worst = campaign(DESIGNS, 1, kinds=(kind,))[kind]
    assert worst["responses"] > 2 * DESIGNS
    found = {name: worst[name] for name in ALLOWED}
    assert all(found[name] < bound for name, bound in ALLOWED.items()), found
