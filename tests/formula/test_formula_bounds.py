"""A formula from a file that would take any time or memory is refused before anything of it is computed."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

from jaxlmm.formula.formula import prepare_formula, restore_formula  # noqa: E402

FRAME = pd.DataFrame({"x": np.linspace(0.1, 1, 40), "k": np.arange(40), "a": list("abcd") * 10})

LARGE = [
    "I(x + 9**9**9)", "I(9**999999999)", "I(x + 1 << 999999999)", "I(((9**99)**99)**99 + x)",
    "I(pow(9, 99999999) + x)",
    "I(x * 10**400)", "I('a' * 10**9 == a)", "I(len([0] * 10**9) + x)", "I(a * 10**9)", "a.mul(10**9)",
    "I('%999999999d' % 5 == a)", "I(sum(range(10**12)) + x)", "np.isin(k, np.arange(10**12))",
    "np.isin(k, range(10**9))",
    "np.linspace(0, 1, 10**12)", "np.diff(x, 10**9)", "round(5, -999999999) + x", "bs(x, df=10**9)", "poly(x, 10**6)",
    "hashed(a, levels=10**9)", "np.ones_like(x, shape=(10**12,))", "x.astype('O') ** 99", "x.astype('U999999999')",
    "np.array(9, dtype='O') + x", "a.str.contains('(a+)+$')", "a.str.count('(a|a)*b')",
    "x.values[:, None] - x.values",
    "(x + a + k)**40", "(x + a + k)^40", "*".join(f"I(x + {i})" for i in range(40)), " + ".join(["x"] * 9000),
    "I(" + "-" * 5000 + "x)",
]  # fmt: skip
PLAIN = [
    "I(x**2) + a", "(x + a)**2", "bs(x, df=4)", "poly(x, 2)", "x * a + k", "I(x * 1000) + I((x + k)**0.5)",
    "np.isin(k, [1, 2]) + C(a, contr.sum)", "I(x - x.mean())", "np.log(x) + scale(k)",
    "C(a, levels=['d', 'c', 'b', 'a'])",
    "I(a.str.upper().str.len()) + x", "I(a == 'b') + I(2 * x / 10**6)", "np.where(x > 0.5, 1, 0)", "np.round(x, 2)",
]  # fmt: skip


@pytest.mark.parametrize("formula", LARGE)
def test_what_cannot_be_bounded_is_refused_at_once(formula: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"trust_formula=True|formula"):
        restore_formula(formula, FRAME)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("formula", PLAIN)
def test_what_people_write_is_evaluated(formula: str) -> None:
    made: Any = restore_formula(formula, FRAME)
    np.testing.assert_array_equal(made.X, prepare_formula(formula, FRAME).X)
