"""Random terms that are refused, by formula and by matrices; docs/bad-input.md describes each by its id here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxlmm
from jaxlmm import Status, random_term

pd = pytest.importorskip("pandas")

TABLE = Path(__file__).parents[2] / "docs" / "bad-input.md"
RNG = np.random.default_rng(6)
N = 60
DATA = pd.DataFrame({
    "y": RNG.normal(size=N),
    "x": RNG.normal(size=N),
    "g": np.repeat([f"s{j}" for j in range(10)], 6),
    "h": np.tile([f"i{j}" for j in range(6)], 10),
    "age": np.repeat(RNG.normal(size=10), 6),
    "sex": np.repeat(["f", "m"], 30),
    "cond": np.tile(["a", "b", "c"], 20),
    "same": ["k"] * N,
    "row": [f"r{j}" for j in range(N)],
})  # fmt: skip
DATA["twice"] = 2 * DATA["x"]
DATA["zero"] = 0.0
ONE, G = np.ones(N), DATA["g"]


def term(*columns: str, groups: Any = G) -> Any:
    """The term by matrices: an intercept and these columns."""
    return random_term(groups, np.column_stack([ONE, *(DATA[c] for c in columns)]), columns=["(Intercept)", *columns])


# The formula's random terms, the term that the message must name, and what makes the same by matrices.
REFUSED: dict[str, list[tuple[str, str, Callable[[], Any] | None]]] = {
    "term-constant": [
        ("(1 + age | g)", "(1 + age | g)", lambda: [term("age")]),
        ("(x + sex | g) + (1 | h)", "(1 + x + sex[T.m] | g)", None),
    ],
    "term-effects": [
        ("(cond * x | g)", "(1 + cond[T.b]", None),
        ("(1 | g:h)", "(1 | g:h)", None),
        ("(1 | h) + (1 | row)", "(1 | row)", lambda: [random_term(DATA["h"]), random_term(DATA["row"])]),
        ("(0 + x | row)", "(0 + x | row)", lambda: [random_term(DATA["row"], DATA["x"], columns=["x"])]),
    ],
    "term-one-level": [
        ("(1 | same)", "(1 | same)", lambda: [random_term(DATA["same"])]),
        ("(1 | g) + (1 + x | same)", "(1 + x | same)", lambda: [random_term(G), term("x", groups=DATA["same"])]),
    ],
    "term-collinear": [
        ("(x + twice | g)", "(1 + x + twice | g)", lambda: [term("x", "twice")]),
    ],
    "term-zero": [
        ("(zero | g)", "(1 + zero | g)", lambda: [term("zero")]),
    ],
    "term-shared": [
        ("(x | g) + (1 | g)", "(1 + x | g) and (1 | g)", lambda: [term("x"), random_term(G)]),
        ("(1 | g) + (1 | g)", "(1 | g) and (1 | g)", lambda: [random_term(G), random_term(G)]),
    ],
    "term-doubled-factor": [
        ("(cond || g)", "(1 | g) and (cond[a] + cond[b] + cond[c] | g)", None),
        ("(1 + x + cond || g)", "(cond[a] + cond[b] + cond[c] | g)", None),
    ],
    "term-apart": [
        ("(0 + sex | g)", "(sex[f] + sex[m] | g)", lambda: [random_term(G, pd.get_dummies(DATA["sex"]) * 1.0)]),
    ],
    "term-unknown-group": [("(1 | nowhere)", "(1 | nowhere)", None), ("(x | g/nowhere)", "(x | g/nowhere)", None)],
    "term-unknown-column": [
        ("(1 + nowhere | g)", "(1 + nowhere | g)", None),
        ("(nowhere || g)", "(nowhere || g)", None),
    ],
    "term-star": [("(1 | g*h)", "(1 | g*h)", None), ("(x | g * h)", "(x | g * h)", None)],
    "term-tilde": [("(y ~ x | g)", "(y ~ x | g)", None)],
    "term-nothing": [("(0 | g)", "(0 | g)", None)],
}  # fmt: skip
CASES = [(key, *case) for key, cases in REFUSED.items() for case in cases]


def documented() -> dict[str, str]:
    rows = re.findall(r"^\| `(term-[\w-]+)` \|.*ValueError: `([^`]+)`", TABLE.read_text(), re.M)
    assert len(dict(rows)) == len(rows)
    return {key: text.replace("\\|", "|") for key, text in rows}


def test_the_table_and_the_tests_have_the_same_ids() -> None:
    assert set(documented()) == set(REFUSED)


def check(message: str, key: str, named: str) -> None:
    assert documented()[key] in message and "\n" not in message
    assert named.replace(" ", "") in message.replace(" ", ""), message


@pytest.mark.parametrize(
    "key, formula, named, matrices", CASES, ids=[f"{key} {formula}" for key, formula, *_ in CASES]
)
def test_refused_by_name(key: str, formula: str, named: str, matrices: Callable[[], Any] | None) -> None:
    with pytest.raises(ValueError) as error:
        jaxlmm.lmm(f"y ~ x + {formula}", DATA)
    check(str(error.value), key, named)
    if matrices is None:
        return
    with pytest.raises(ValueError) as error:
        jaxlmm.fit(np.column_stack([ONE, DATA["x"]]), DATA["y"].to_numpy()[:, None], random=matrices())
    assert "random term" in str(error.value) and " | " in str(error.value)


def test_responses_without_an_optimum_have_a_status_and_leave_the_others_alone() -> None:
    Y = RNG.normal(size=(N, 9)) + RNG.normal(size=(10, 9)).repeat(6, axis=0)
    slope = RNG.normal(size=10).repeat(6) * DATA["x"].to_numpy()
    Y[:, 3] += slope
    good = [0, 3, 8]
    Y[:, 1] = 5.0
    Y[:, 2] = 1 + 2 * DATA["x"]
    Y[7, 4] = np.inf
    Y[:, 5] = np.nan
    Y[4:, 6] = np.nan
    Y[DATA["g"] > "s0", 7] = np.nan  # one level is left
    fit = jaxlmm.lmm("x + (x | g) + (1 | h)", DATA, Y)
    assert [Status(s).name for s in fit.status[[1, 2, 4, 5, 6, 7]]] == [
        "CONSTANT", "CONSTANT", "NONFINITE", "NONFINITE", "TOO_FEW", "TOO_FEW",
    ]  # fmt: skip
    assert not fit.converged[[1, 2, 4, 5, 6, 7]].any() and np.isnan(fit.coef[[1, 2, 4, 5, 6, 7]]).all()
    alone = jaxlmm.lmm("x + (x | g) + (1 | h)", DATA, Y[:, good])
    assert fit.converged[good].all()
    for name in ("coef", "se", "theta", "sigma2", "loglik", "pvalue"):
        np.testing.assert_allclose(getattr(fit, name)[good], getattr(alone, name), rtol=1e-9, atol=1e-12)
