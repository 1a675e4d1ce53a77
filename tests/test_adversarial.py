"""Hard random designs against an oracle of 60 digits; ``benchmarks/adversarial.py`` runs more of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "adversarial.py"
# Worst errors allowed: log-likelihood, sigma2 and standard errors relative, coefficients in standard errors.
ALLOWED = {
    "log-likelihood": 1e-6,
    "sigma2": 1e-6,
    "coef, in se": 1e-6,
    "se": 1e-6,
    "log-likelihood below the best of a scan": 1e-6,
}
DESIGNS = 33


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("adversarial", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["adversarial"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["complete", "missing", "weights"])
def test_errors_stay_small(kind: str) -> None:
    worst = load().campaign(DESIGNS, seed=1, kinds=(kind,))[kind]
    assert worst["responses"] > 2 * DESIGNS
    found = {name: worst[name] for name in ALLOWED}
    assert all(found[name] < bound for name, bound in ALLOWED.items()), found
