"""What is drawn, compared with the numbers behind the pictures of ggeffects and lattice: ``tests/reference``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats
from conftest import REFERENCE

import jaxlmm

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

FOUND = json.loads((REFERENCE / "ggeffects.json").read_text())
MODELS = {
    "sleepstudy": ("g_sleepstudy", "Reaction ~ Days + (Days | Subject)"),
    "machines": ("machines", "score ~ Machine + (1 | Worker)"),
    "orthodont": ("orthodont", "distance ~ age * Sex + (1 | Subject)"),
    "additive": ("orthodont", "distance ~ age + Sex + (1 | Subject)"),
}
CASES = [f"{case['model']}: {', '.join(case['terms'])}" for case in FOUND["cases"]]


@pytest.fixture(scope="module")
def fits() -> dict[str, jaxlmm.Fit]:
    groups = {"Subject": str, "Worker": str}
    made = {}
    for name, (file, formula) in MODELS.items():
        made[name] = jaxlmm.lmm(formula, pd.read_csv(REFERENCE / f"{file}.csv", dtype=groups))
    return made


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def drawn(ax: Any, numeric: bool, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means and limits in a picture, by level of the colour and along x."""
    if numeric:
        lines = np.array([line.get_ydata() for line in ax.lines[:levels]])
        n = lines.shape[1]
        bands = [band.get_paths()[0].vertices for band in ax.collections[:levels]]
        limits = np.array([np.stack([v[1 : n + 1, 1], v[n + 2 : 2 * n + 2, 1][::-1]]) for v in bands])
        limits.sort(axis=1)
        return lines, limits[:, 0], limits[:, 1]
    means = np.array([line.get_ydata() for line in ax.lines if line.get_marker() not in ("None", None, "")])
    limits = np.array([[segment[:, 1] for segment in c.get_segments()] for c in ax.collections[:levels]])
    return means, limits[..., 0], limits[..., 1]


@pytest.mark.parametrize("case", range(len(CASES)), ids=CASES)
def test_means_and_intervals(case: int, fits: dict[str, jaxlmm.Fit]) -> None:
    one = FOUND["cases"][case]
    names = [term.partition(" ")[0] for term in one["terms"]]
    theirs = one["ggemmeans"]
    at: dict[str, Any] = {}
    for name, column in zip(names, ("x", "group"), strict=False):
        if name in ("Days", "age"):
            at[name] = list(dict.fromkeys(map(float, theirs[column])))
    numeric, levels = names[0] in at, len(set(theirs["group"]))
    order = np.arange(len(theirs["x"])).reshape(-1, levels).T  # R's rows: the groups of each x

    def numbers(source: str, column: str) -> np.ndarray:
        return np.array(one[source][column])[order]

    # ggemmeans averages over other factors, as marginal means do, and takes normal quantiles.
    normal = drawn(fits[one["model"]].with_df("normal").plot.marginal_means(names, at=at or None), numeric, levels)
    for ours, column in zip(normal, ("predicted", "low", "high"), strict=True):
        np.testing.assert_allclose(ours, numbers("ggemmeans", column), rtol=2e-6)
    # ggpredict has other factors at their first level, and quantiles of t with the residual degrees of freedom.
    first = {"Sex": "Female"} if one["model"] == "additive" else {}
    means = fits[one["model"]].emmeans([*names, *first], at=(at | first) or None)
    se, estimate = means.se[0].reshape(levels, -1), means.estimate[0].reshape(levels, -1)
    np.testing.assert_allclose(estimate, numbers("ggpredict", "predicted"), rtol=2e-6)
    np.testing.assert_allclose(se, numbers("ggpredict", "se"), rtol=2e-5)
    half = scipy.stats.t.ppf(0.975, one["df"]) * se
    np.testing.assert_allclose(estimate - half, numbers("ggpredict", "low"), rtol=2e-5)
    # The default is wider: few groups tell little of how people, or machines' workers, differ.
    _, low, high = drawn(fits[one["model"]].plot.marginal_means(names, at=at or None), numeric, levels)
    assert np.all(high - low >= (1 - 1e-6) * (normal[2] - normal[1]))


def test_intervals_of_six_workers_are_wider(fits: dict[str, jaxlmm.Fit]) -> None:
    """Which docs/pictures.md says."""
    means, theirs = fits["machines"].emmeans("Machine"), FOUND["cases"][1]["ggpredict"]
    ratio = np.ptp(means.conf_int()[0], axis=1) / (np.array(theirs["high"]) - theirs["low"])
    text = (REFERENCE.parents[1] / "docs" / "pictures.md").read_text()
    said = re.search(r"intervals are (\d+) % wider", text)
    assert said is not None and np.all(np.round(100 * (ratio - 1)) == int(said[1])), ratio


def test_intervals_of_random_are_those_of_a_new_observation(fits: dict[str, jaxlmm.Fit]) -> None:
    """ggpredict(type = "random") adds the residual variance alone."""
    se = fits["sleepstudy"].emmeans("Days", at={"Days": list(range(10))}).se[0]
    np.testing.assert_allclose(np.hypot(se, FOUND["sigma"]), FOUND["random"]["se"], rtol=1e-6)


def test_lines_of_groups(fits: dict[str, jaxlmm.Fit]) -> None:
    ax = fits["sleepstudy"].plot.group_lines("Days", at={"Days": list(range(10))})
    paths = np.array([segment[:, 1] for segment in ax.collections[0].get_segments()])
    theirs = np.array(FOUND["lines"]["predicted"]).reshape(10, 18)
    assert FOUND["lines"]["group"][:18] == sorted(FOUND["lines"]["group"][:18])  # as ours
    np.testing.assert_allclose(paths, theirs.T, rtol=1e-6)


def test_caterpillar_limits(fits: dict[str, jaxlmm.Fit]) -> None:
    ax = fits["sleepstudy"].plot.caterpillar()
    panels = [child for child in ax.child_axes if child.axison]
    modes = FOUND["modes"]
    table = {
        key: (mode, sd)
        for *key, mode, sd in zip(modes["term"], modes["group"], modes["mode"], modes["sd"], strict=True)
        for key in [tuple(key)]
    }
    groups = [tick.get_text() for tick in panels[0].get_yticklabels()]
    for panel, term in zip(panels, ("(Intercept)", "Days"), strict=True):
        mode, sd = np.array([table[term, group] for group in groups]).T
        limits = np.array([segment[:, 0] for segment in panel.collections[0].get_segments()])
        half = scipy.stats.norm.ppf(0.975) * sd
        np.testing.assert_allclose(panel.lines[0].get_xdata(), mode, atol=2e-5)
        np.testing.assert_allclose(limits, np.stack([mode - half, mode + half], axis=1), atol=2e-4)
