"""Things given in the place of others: the message names the call that was meant. docs/bad-input.md, row by row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxlmm

TABLE = Path(__file__).parents[2] / "docs" / "bad-input.md"
RNG = np.random.default_rng(0)
N = 40
DATA = pd.DataFrame({"y": RNG.normal(size=N), "x": RNG.normal(size=N), "g": np.arange(N) % 5})
X, Y = np.column_stack([np.ones(N), DATA["x"]]), RNG.normal(size=(N, 3))
MAPS = RNG.normal(size=(4, N, 6))


def epochs() -> Any:
    mne = pytest.importorskip("mne")
    return mne.EpochsArray(RNG.normal(size=(N, 2, 5)), mne.create_info(2, 100.0, "eeg"), verbose=False)


# What nibabel and nilearn have, as their images are known: by where they come from.
IMAGE = type("Nifti1Image", (), {"__module__": "nibabel.nifti1", "shape": (2, 2, 2, N)})()
RUNS = [RNG.normal(size=(N // 4, 3)) for _ in range(4)]

SLIPS: dict[str, list[Any]] = {
    "slip-file-table": [lambda: jaxlmm.lmm("y ~ x", "trials.csv"), lambda: jaxlmm.lmm("y ~ x", Path("a.txt"))],
    "slip-swapped": [lambda: jaxlmm.lmm(DATA, "y ~ x + (1 | g)")],
    "slip-array-table": [lambda: jaxlmm.lmm("x + (1 | g)", MAPS), lambda: jaxlmm.lmm("x", X, Y)],
    "slip-formula": [lambda: jaxlmm.fit("y ~ x + (1 | g)", DATA)],
    "slip-file-matrix": [lambda: jaxlmm.fit("X.csv", Y)],
    "slip-3d-matrix": [lambda: jaxlmm.fit(MAPS, X)],
    "slip-axis": [lambda: jaxlmm.fit(X, MAPS, DATA["g"]), lambda: jaxlmm.lmm("x + (1 | g)", DATA, MAPS)],
    "slip-epochs": [
        lambda: jaxlmm.fit(X, epochs(), DATA["g"]), lambda: jaxlmm.fit(epochs(), Y),
        lambda: jaxlmm.lmm("x", epochs()), lambda: jaxlmm.lmm("x", DATA, epochs()),
    ],
    "slip-evokeds": [lambda: jaxlmm.fit(X, [epochs()[i].average() for i in range(2)], DATA["g"])],
    "slip-image": [
        lambda: jaxlmm.fit(X, IMAGE, DATA["g"]), lambda: jaxlmm.lmm("x", DATA, [IMAGE] * N),
        lambda: jaxlmm.lmm("x", DATA, "maps.nii.gz"), lambda: jaxlmm.lmm("x", DATA, pd.Series(["a.nii"] * N)),
        lambda: jaxlmm.prepare("x", DATA).fit([Path("a.NII")] * N), lambda: jaxlmm.lmm("y ~ x", IMAGE),
    ],
    "slip-grouped": [lambda: jaxlmm.lmm("y ~ x", DATA.groupby("g"))],
    "slip-set": [lambda: jaxlmm.lmm("x", DATA, responses={"y"}), lambda: jaxlmm.lmm("y ~ x", DATA, by={"g"})],
    "slip-matrices": [
        lambda: jaxlmm.fit(X, RUNS, DATA["g"]), lambda: jaxlmm.lmm("x", DATA, [RUNS[0][1:], *RUNS]),
    ],
    "slip-column": [lambda: jaxlmm.lmm("x + (1 | g)", DATA, "y")],
}  # fmt: skip


def rows() -> dict[str, str]:
    section = TABLE.read_text().split("## Slips")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([\w-]+)` \|.*?ValueError: `([^`]+)`", section, re.M))


def test_the_table_and_the_tests_have_the_same_ids() -> None:
    assert set(rows()) == set(SLIPS)


@pytest.mark.parametrize("key, k", [(key, k) for key, calls in SLIPS.items() for k in range(len(calls))])
def test_the_call_that_was_meant(key: str, k: int) -> None:
    with pytest.raises(ValueError, match=re.escape(rows()[key])) as error:
        SLIPS[key][k]()
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_words_in_any_case() -> None:
    fit = jaxlmm.fit(X, Y, DATA["g"], method="reml", df="Kenward_Roger", missing="DROP")
    assert (fit.method, fit.df_method) == ("REML", "kenward-roger")
    assert fit.with_df("Satterthwaite").df_method == "satterthwaite"
    assert jaxlmm.fit(X, Y, DATA["g"], method="ml").method == "ML"
    smaller = jaxlmm.fit(X[:, :1], Y, DATA["g"])
    found, expected = (jaxlmm.compare(smaller, fit, refit=word) for word in ("ml", "ML"))
    np.testing.assert_array_equal(found.pvalue, expected.pvalue)


def test_columns_that_tell_the_groups_apart_are_named() -> None:
    data = DATA.assign(age=DATA["g"] * 7 + 20)
    for formula, column in (("y ~ C(age) + (1 | g)", "C(age)"), ("y ~ x + C(g) + (1 | g)", "C(g)")):
        with pytest.raises(
            ValueError, match=re.escape(f"on its own, by '{column}', constant within each 'g', so the")
        ):
            jaxlmm.lmm(formula, data)
    with pytest.raises(ValueError, match=r"the covariate 'age' is constant within all levels of 'g'"):
        jaxlmm.lmm("y ~ age + (age | g)", data)
    with pytest.raises(ValueError, match=r"the factor 'team' is constant within all levels of 'g'"):
        jaxlmm.lmm("y ~ team + (team | g)", data.assign(team=np.where(data["g"] > 2, "a", "b")))
