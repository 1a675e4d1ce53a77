"""What marginal means and contrasts refuse: docs/bad-input.md, row by row."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxlmm

TABLE = Path(__file__).parents[2] / "docs" / "bad-input.md"
RNG = np.random.default_rng(0)
DATA = pd.DataFrame(
    {
        "a": np.tile(list("pqr"), 20), "b": np.tile(list("uv"), 30), "x": RNG.normal(size=60),
        "g": np.repeat(np.arange(6), 10), "y": RNG.normal(size=60),
    }
)  # fmt: skip
FIT = jaxlmm.lmm("y ~ a * x + b + (1 | g)", DATA)
MEANS = FIT.emmeans("a")


def hole() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return jaxlmm.lmm("y ~ a * b + (1 | g)", DATA[(DATA["a"] != "r") | (DATA["b"] != "v")])


REFUSED: dict[str, list[Any]] = {
    "means-unknown": [lambda: FIT.emmeans("z"), lambda: FIT.emmeans("~ a | z"), lambda: FIT.emtrends("z", "x")],
    "means-nothing": [lambda: FIT.emmeans([])],
    "means-both": [lambda: FIT.emmeans(["a", "b"], by="b")],
    "means-formula": [lambda: FIT.emmeans("a |"), lambda: FIT.emmeans("a ~ b ~ x"), lambda: FIT.emmeans("p a ~ b")],
    "means-weights": [lambda: FIT.emmeans("a", weights="even"), lambda: FIT.emmeans("a", weights=[1, 2, 3])],
    "means-matrix": [
        lambda: jaxlmm.fit(np.ones((60, 1)), RNG.normal(size=60)).emmeans("a"),
        lambda: jaxlmm.fit(np.ones((60, 1)), RNG.normal(size=60)).joint_tests(),
    ],
    "trends-factor": [
        lambda: FIT.emtrends("a", "b"), lambda: FIT.emtrends("a", "log(z)"), lambda: FIT.emtrends("a", "x + b"),
    ],
    "contrast-method": [lambda: MEANS.contrast("pairwize"), lambda: FIT.emmeans("pairwize ~ a")],
    "contrast-weights": [lambda: MEANS.contrast([1, -1]), lambda: MEANS.contrast({"one": [1, -1]})],
    "contrast-mean": [
        lambda: MEANS.contrast("trt.vs.ctrl", ref="z"), lambda: MEANS.contrast("trt.vs.ctrl", ref=1),
        lambda: MEANS.contrast({"one": {"p": 1, "z": -1}}),
    ],
    "contrast-ref": [lambda: MEANS.contrast("pairwise", ref="p"), lambda: MEANS.contrast([1, -1, 0], ref="p")],
    "contrast-exclude": [
        lambda: MEANS.contrast("pairwise", exclude="p", include="q"),
        lambda: MEANS.contrast([1, -1, 0], exclude="p"),
        lambda: MEANS.contrast("pairwise", interaction=True, include="p"),
    ],
    "contrast-nothing": [lambda: MEANS.pairs(exclude=["p", "q", "r"]), lambda: MEANS.contrast("eff", include=[])],
    "contrast-by": [lambda: MEANS.pairs(by="b")],
    "contrast-single": [lambda: FIT.emmeans("x").pairs(), lambda: FIT.emmeans("x", by="a").pairs()],
    "contrast-adjust": [lambda: MEANS.pairs("turkey")],
    "joint-nothing": [lambda: FIT.joint_tests(by=["a", "b", "x"])],
    "anova-type": [lambda: FIT.anova(4), lambda: FIT.anova("IV")],
    "anova-empty": [lambda: hole().anova()],
}  # fmt: skip


def rows() -> dict[str, str]:
    """The quoted message of each id of the section."""
    section = TABLE.read_text().split("## Marginal means, slopes and contrasts")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([\w-]+)` \|.*?ValueError: `([^`]+)`", section, re.M))


def test_the_table_and_the_tests_have_the_same_ids() -> None:
    assert set(rows()) == set(REFUSED)


@pytest.mark.parametrize("key, k", [(key, k) for key, calls in REFUSED.items() for k in range(len(calls))])
def test_refused_with_what_to_ask(key: str, k: int) -> None:
    with pytest.raises(ValueError, match=re.escape(rows()[key])) as error:
        REFUSED[key][k]()
    assert "\n" not in str(error.value)
