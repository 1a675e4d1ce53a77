"""Every argument of the public functions, given what it cannot be: a ValueError that names it, no other error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import jaxlmm

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

RNG = np.random.default_rng(0)
N = 24
CODES = np.arange(N) % 4
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
Y = RNG.normal(size=(N, 3))
FRAME = pd.DataFrame(
    {"y": Y[:, 0], "x": X[:, 1], "s": [str(k) for k in CODES], "c": list("ab") * 12, "d": list("pqr") * 8}
)
FIT, OLS = jaxlmm.fit(X, Y, CODES), jaxlmm.fit(X, Y)
BY_FORMULA = jaxlmm.lmm("y ~ c * d + x + (1 | s)", FRAME)
MEANS = BY_FORMULA.emmeans("d")

WRONG: dict[str, Any] = {
    "None": None, "nan": float("nan"), "inf": float("inf"), "minus one": -1, "half": 0.5, "huge": 10**400,
    "minus huge": -(10**400), "10^30": 10**30, "2^62": 2**62, "text": "zz", "no text": "", "empty list": [],
    "empty dict": {}, "object": object(), "matrix": np.ones((2, 2)), "with nan": np.array([np.nan, 1.0]),
    "3d": np.ones((2, 2, 2)), "bytes": b"x", "mixed": ["a", 1], "ragged": [[1], [2, 3]], "complex": 1j,
    "set": {"a", "b"}, "function": len, "fit": FIT, "frame": FRAME, "tuple": (0, 1), "dict of text": {"x1": "a"},
    "dict of None": {"x1": None}, "dict of huge": {"x1": 10**400}, "seven": 7,
}  # fmt: skip
NUMBERS = {"minus one", "half", "10^30", "2^62", "seven"}

# argument -> (the call, part of the message, what it may be)
ARGUMENTS: dict[str, tuple[Callable[[Any], Any], str, set[str]]] = {
    "fit X": (lambda v: jaxlmm.fit(v, Y, CODES), "X", set()),
    "fit Y": (lambda v: jaxlmm.fit(X, v, CODES), "Y", set()),
    "fit groups": (lambda v: jaxlmm.fit(X, Y, v), "groups", {"None"}),
    "fit method": (lambda v: jaxlmm.fit(X, Y, CODES, method=v), "method", set()),
    "fit df": (lambda v: jaxlmm.fit(X, Y, CODES, df=v), "df", set()),
    "fit weights": (lambda v: jaxlmm.fit(X, Y, CODES, weights=v), "weights", {"None"}),
    "fit missing": (lambda v: jaxlmm.fit(X, Y, CODES, missing=v), "missing", set()),
    "fit names": (
        lambda v: jaxlmm.fit(X, Y, CODES, names=v), "names", {"None", "mixed", "set", "tuple", "with nan", "ragged"}),
    "fit response_names": (lambda v: jaxlmm.fit(X, Y, CODES, response_names=v), "response_names", {"None"}),
    "fit random": (lambda v: jaxlmm.fit(X, Y, random=v), "random", {"None", "empty list"}),
    "fit obs_dim": (lambda v: jaxlmm.fit(X, Y, CODES, obs_dim=v), "obs_dim", {"None"}),
    "fit dims": (lambda v: jaxlmm.fit(X, Y, CODES, dims=v), "dims", {"None", "text", "no text"}),
    "fit coords": (lambda v: jaxlmm.fit(X, Y, CODES, coords=v), "coords",
        {"None", "empty dict", "dict of text", "dict of None", "dict of huge"}),
    "fit level": (lambda v: jaxlmm.fit(X, Y, CODES, level=v), "level", {"None"}),
    "fit out": (lambda v: jaxlmm.fit(X, Y, CODES, out=v, share=9), "out|share", set()),
    "fit resume": (lambda v: jaxlmm.fit(X, Y, CODES, resume=v), "resume", {"None"}),
    "lmm data": (lambda v: jaxlmm.lmm("y ~ x", v), "data", {"frame"}),
    "lmm Y": (lambda v: jaxlmm.lmm("x", FRAME, v), "Y", set()),
    "lmm responses": (lambda v: jaxlmm.lmm("x", FRAME, responses=v), "responses", set()),
    "compare fit": (lambda v: jaxlmm.compare(OLS, v), "fit", {"fit"}),
    "compare refit": (lambda v: jaxlmm.compare(OLS, FIT, refit=v), "refit", {"None"}),
    "rlrt fit": (lambda v: jaxlmm.rlrt(v, n_sim=10), "jaxlmm.fit", {"fit"}),
    "rlrt n_sim": (lambda v: jaxlmm.rlrt(FIT, n_sim=v), "n_sim", {"seven"}),
    "rlrt seed": (lambda v: jaxlmm.rlrt(FIT, n_sim=9, seed=v), "seed", {"seven", "huge", "10^30", "2^62"}),
    "adjust_pvalues p": (
        lambda v: jaxlmm.adjust_pvalues(v), "p", {"nan", "half", "empty list", "matrix", "with nan", "tuple"}),
    "adjust_pvalues method": (lambda v: jaxlmm.adjust_pvalues([0.1], v), "method", set()),
    "adjust_pvalues axis": (lambda v: jaxlmm.adjust_pvalues([0.1], axis=v), "axis", {"None", "minus one"}),
    "test L": (lambda v: FIT.test(v).pvalue, "L", {"matrix", "tuple"}),
    "test element of L": (lambda v: FIT.test([v, 1]).pvalue, "L", NUMBERS),
    "test value in L": (lambda v: FIT.test({"x1": v}).pvalue, "L", NUMBERS),
    "test rhs": (lambda v: FIT.test([0, 1], v).pvalue, "rhs", NUMBERS),
    "ftest L": (lambda v: FIT.ftest(v).pvalue, "L|rows", {"tuple"}),
    "ftest rhs": (lambda v: FIT.ftest([0, 1], v).pvalue, "rhs", NUMBERS),
    "conf_int level": (lambda v: FIT.conf_int(v), "level", {"half"}),
    "profile level": (lambda v: FIT.profile(v), "level", {"half"}),
    "summary level": (lambda v: FIT.summary(0, level=v), "level", {"half"}),
    "summary response": (lambda v: FIT.summary(v), "response", {"None", "minus one"}),
    "with_df": (lambda v: FIT.with_df(v), "df", set()),
    "select": (lambda v: FIT.select(v), "response", {"minus one", "empty list", "tuple"}),
    "select element": (lambda v: FIT.select([v]), "response", {"minus one"}),
    "predict X_new": (lambda v: FIT.predict(v), "X_new", {"matrix"}),
    "predict groups_new": (lambda v: FIT.predict(X, v), "groups_new", {"None"}),
    "anova summary": (lambda v: FIT.anova().summary(v), "response", {"None", "minus one"}),
    "emmeans specs": (lambda v: BY_FORMULA.emmeans(v), "specs", set()),
    "emmeans by": (lambda v: BY_FORMULA.emmeans("d", by=v), "by", {"None", "empty list", "empty dict"}),
    "emmeans at": (lambda v: BY_FORMULA.emmeans("d", at=v), "at", {"None", "empty dict"}),
    "emmeans covariate": (lambda v: BY_FORMULA.emmeans("d", at={"x": v}), "at", NUMBERS | {"tuple"}),
    "emmeans factor": (lambda v: BY_FORMULA.emmeans("c", at={"d": v}), "at", set()),
    "emmeans weights": (lambda v: BY_FORMULA.emmeans("d", weights=v), "weights", {"tuple"}),
    "emtrends var": (lambda v: BY_FORMULA.emtrends("d", v), "var", set()),
    "joint_tests by": (lambda v: BY_FORMULA.joint_tests(by=v), "by", {"None", "empty list", "empty dict"}),
    "anova type": (lambda v: BY_FORMULA.anova(v), "type", set()),
    "pairs adjust": (lambda v: MEANS.pairs(v), "adjust", {"None"}),
    "pairs by": (lambda v: MEANS.pairs(by=v), "by", {"None", "empty list", "empty dict"}),
    "contrast method": (lambda v: MEANS.contrast(v), "method|contrast", set()),
    "contrast ref": (lambda v: MEANS.contrast("trt.vs.ctrl", ref=v), "mean", {"None"}),
    "tidy effects": (lambda v: FIT.tidy(effects=v), "effects", set()),
    "tidy level": (lambda v: FIT.tidy(level=v), "level", {"half"}),
    "tidy adjust": (lambda v: FIT.tidy(adjust=v), "adjust", {"None"}),
    "tidy responses": (
        lambda v: FIT.tidy(responses=v), "response", {"None", "minus one", "empty list", "tuple"}),
    "augment data": (lambda v: FIT.augment(data=v), "data", {"None", "frame"}),
}  # fmt: skip


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_what_an_argument_cannot_be(argument: str) -> None:
    call, named, allowed = ARGUMENTS[argument]
    for what, value in WRONG.items():
        if what in allowed:
            call(value)
            continue
        with pytest.raises(ValueError) as raised:
            call(value)
        message = str(raised.value)
        assert any(part in message for part in named.split("|")), f"{what}: {message}"
        assert len(message) < 500 and "ambiguous" not in message, f"{what}: {message}"


def test_a_frame_without_rows() -> None:
    with pytest.raises(ValueError, match="data has no rows"):
        jaxlmm.lmm("y ~ c + (1 | s)", FRAME.iloc[:0])
