"""naplib's interface: agreement with statsmodels, labels, errors, the plot, the tutorial."""

from __future__ import annotations

import pathlib
import runpy
import subprocess
import sys
import warnings
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
import pytest
import scipy.stats

import jaxlmm
from jaxlmm.naplib import LinearMixedEffectsModel
from jaxlmm.plots import plot_effects

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TUTORIAL = pathlib.Path(__file__).parent.parent / "examples" / "tutorial.py"
RED, BLUE, GREY = (255 / 255, 44 / 255, 0), (97 / 255, 164 / 255, 205 / 255), (0.5, 0.5, 0.5)


def make_data(seed: int = 0, m: int = 1, k: int = 3, n_groups: int = 6, group_sd: float = 1.0) -> tuple[Any, ...]:
    """Unbalanced data: X (n, k), Y (n, m), groups (n,)."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), rng.integers(5, 25, n_groups))
    X = rng.normal(size=(len(groups), k)) * [1.0, 5.0, 0.2][:k] + rng.normal(size=n_groups)[groups, None]
    effects = np.array([1.0, -0.3, 0.0])[:k]
    Y = (X @ effects)[:, None] + group_sd * rng.normal(size=(n_groups, m))[groups] + rng.normal(size=(len(groups), m))
    return X, Y, groups


def statsmodels_fit(X: np.ndarray, y: np.ndarray, groups: Any) -> Any:
    """MixedLM through formulas, as naplib calls it."""
    smf = pytest.importorskip("statsmodels.formula.api")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"feature{j}" for j in range(X.shape[1])])
    frame["y"], frame["Group"] = y, groups
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = smf.mixedlm("y ~ " + " + ".join(frame.columns[:-2]), frame, groups="Group", re_formula="1")
        return model.fit(gtol=1e-8)


@pytest.fixture
def ax() -> Any:
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def effect_lines(axes: Any) -> tuple[list[Any], list[Any]]:
    """Interval lines and markers of a plot."""
    markers = [line for line in axes.lines if line.get_marker() == "o"]
    intervals = [line for line in axes.lines if line.get_marker() != "o" and line.get_linestyle() == "-"]
    return intervals, markers


# -- agreement with statsmodels ---------------------------------------------------------------


@pytest.mark.parametrize("zscore_x", [False, True])
@pytest.mark.parametrize(("seed", "alpha"), [(0, 0.05), (1, 0.1), (2, 0.01)])
def test_agrees_with_statsmodels(seed: int, alpha: float, zscore_x: bool) -> None:
    X, Y, groups = make_data(seed)
    y = Y[:, 0]
    model = LinearMixedEffectsModel(alpha, zscore_x).fit(X, y, groups)
    theirs = statsmodels_fit((X - X.mean(0)) / X.std(0) if zscore_x else X, y, groups)

    # On loglik their optimum cannot beat ours; the rest may differ by how far they stopped from it.
    assert model.result.loglik[0] >= theirs.llf - 1e-11 * abs(theirs.llf)
    np.testing.assert_allclose(model.result.loglik[0], theirs.llf, rtol=1e-9)
    assert list(model.params.index) == list(theirs.params.index)
    np.testing.assert_allclose(model.params, theirs.params, rtol=1e-5)
    features = model.params.index[:-1]
    limits = theirs.conf_int(alpha)
    assert list(model.conf_int.columns) == list(limits.columns) == [0, 1]
    # They invert the Hessian of effects and variance together, so that their standard errors are a
    # little larger. Generalised least squares at their variances must give ours.
    design = np.column_stack([np.ones(len(X)), (X - X.mean(0)) / X.std(0) if zscore_x else X])
    V = theirs.scale * np.eye(len(X)) + theirs.cov_re.iloc[0, 0] * (groups[:, None] == groups)
    se = np.sqrt(np.diag(np.linalg.inv(design.T @ np.linalg.solve(V, design))))
    np.testing.assert_allclose(se, model.result.se[0], rtol=1e-6)
    assert np.all(theirs.bse_fe >= se * (1 - 1e-6)) and np.all(theirs.bse_fe <= 1.1 * se)
    np.testing.assert_allclose(
        model.pvalues[features], 2 * scipy.stats.norm.sf(np.abs(theirs.fe_params) / se), rtol=1e-4
    )
    half = scipy.stats.norm.isf(alpha / 2) * se
    ours = model.conf_int.loc[features].to_numpy()
    np.testing.assert_allclose(ours, np.stack([theirs.fe_params - half, theirs.fe_params + half], axis=1), rtol=1e-5)
    rsquared = 1 - np.sum(np.square(theirs.resid)) / np.sum(np.square(y - y.mean()))
    np.testing.assert_allclose(model.rsquared, rsquared, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_pvalues_and_intervals_agree_with_statsmodels_where_variance_and_effects_are_orthogonal(alpha: float) -> None:
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(8), 12)
    X = rng.normal(size=(8, 12, 2))
    X = (X - X.mean(axis=1, keepdims=True)).reshape(-1, 2)
    y = 0.3 * X[:, 0] + rng.normal(size=8)[groups] + rng.normal(size=len(groups))
    model, theirs = LinearMixedEffectsModel(alpha).fit(X, y, groups), statsmodels_fit(X, y, groups)
    np.testing.assert_allclose(model.pvalues[:-1], theirs.pvalues[:-1], rtol=1e-5)
    np.testing.assert_allclose(model.conf_int[:-1], theirs.conf_int(alpha)[:-1], rtol=1e-5)


def test_variance_zero_as_statsmodels() -> None:
    for seed in range(20):
        X, Y, groups = make_data(seed, group_sd=0.0)
        model = LinearMixedEffectsModel().fit(X, Y[:, 0], groups)
        if model.result.singular[0]:
            break
    assert model.params["Group Var"] == 0
    theirs = statsmodels_fit(X, Y[:, 0], groups)
    assert model.result.loglik[0] >= theirs.llf - 1e-9 * abs(theirs.llf)
    np.testing.assert_allclose(model.params[:-1], theirs.params[:-1], rtol=1e-3, atol=1e-4)


def test_without_random_effect_features_are_those_of_naplib() -> None:
    X, Y, _ = make_data()
    model = LinearMixedEffectsModel().fit(X, Y[:, 0])
    # naplib makes all rows one group here; the intercept alone is then another one.
    theirs = statsmodels_fit(X, Y[:, 0], np.ones(len(X)))
    assert list(model.params.index) == list(theirs.params.index)
    np.testing.assert_allclose(model.params[:-1], theirs.params[:-1], rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(model.pvalues[1:-1], theirs.pvalues[1:-1], rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(model.conf_int[1:-1], theirs.conf_int()[1:-1], rtol=1e-4, atol=1e-6)
    rsquared = 1 - np.sum(np.square(theirs.resid)) / np.sum(np.square(Y[:, 0] - Y[:, 0].mean()))
    np.testing.assert_allclose(model.rsquared, rsquared, rtol=1e-6)
    assert model.params["Group Var"] == 0


# -- labels and shapes ------------------------------------------------------------------------


def test_labels_of_one_response() -> None:
    pandas = pytest.importorskip("pandas")
    X, Y, groups = make_data()
    model = LinearMixedEffectsModel()
    assert model.fit(X, Y[:, 0], groups) is model
    terms = ["Intercept", "feature0", "feature1", "feature2", "Group Var"]
    for table in (model.params, model.pvalues):
        assert isinstance(table, pandas.Series)
        assert list(table.index) == terms
    assert isinstance(model.conf_int, pandas.DataFrame)
    assert list(model.conf_int.index) == terms and list(model.conf_int.columns) == [0, 1]
    assert model.varnames == ["feature-0", "feature-1", "feature-2", "y"]
    assert model.result.names == ("Intercept", "feature-0", "feature-1", "feature-2")
    assert model.params["Group Var"] == model.result.lam[0] > 0
    assert np.isnan(model.pvalues["Group Var"]) and model.conf_int.loc["Group Var"].isna().all()
    assert model.pvalues[:-1].notna().all() and model.conf_int[:-1].notna().all(axis=None)
    assert isinstance(model.rsquared, float)
    assert isinstance(model.result, jaxlmm.Fit) and model.mixedlm_results is model.result


@pytest.mark.parametrize("random", [True, False])
def test_many_responses_equal_single_fits(random: bool) -> None:
    pandas = pytest.importorskip("pandas")
    X, Y, groups = make_data(m=4)
    groups = groups if random else None
    model = LinearMixedEffectsModel(alpha=0.2).fit(X, Y, groups)
    numbers = model.get_model_params()
    assert {name: a.shape for name, a in numbers.items()} == {
        "params": (4, 3),
        "pvalues": (4, 3),
        "conf_int": (4, 3, 2),
    }
    assert model.params.shape == model.pvalues.shape == (4, 5)
    assert isinstance(model.conf_int.index, pandas.MultiIndex) and model.conf_int.index.names == ["response", "term"]
    assert model.conf_int.shape == (20, 2) and list(model.conf_int.columns) == [0, 1]
    assert model.rsquared.shape == (4,)
    for j in range(4):
        one = LinearMixedEffectsModel(alpha=0.2).fit(X, Y[:, j], groups)
        single = one.get_model_params()
        assert {name: a.shape for name, a in single.items()} == {"params": (3,), "pvalues": (3,), "conf_int": (3, 2)}
        for name, values in single.items():
            np.testing.assert_allclose(numbers[name][j], values, rtol=1e-7, atol=1e-12)
        pandas.testing.assert_series_equal(model.params.loc[f"y{j}"], one.params, check_names=False, rtol=1e-6)
        pandas.testing.assert_series_equal(model.pvalues.loc[f"y{j}"], one.pvalues, check_names=False, rtol=1e-6)
        pandas.testing.assert_frame_equal(model.conf_int.loc[f"y{j}"], one.conf_int, check_names=False, rtol=1e-6)
        np.testing.assert_allclose(model.rsquared[j], one.rsquared, rtol=1e-7)


def test_get_model_params_are_the_features_only() -> None:
    X, Y, groups = make_data()
    model = LinearMixedEffectsModel(alpha=0.1).fit(X, Y[:, 0], groups)
    numbers = model.get_model_params()
    np.testing.assert_array_equal(numbers["params"], model.params[1:-1])
    np.testing.assert_array_equal(numbers["pvalues"], model.pvalues[1:-1])
    np.testing.assert_array_equal(numbers["conf_int"], model.conf_int[1:-1])
    np.testing.assert_array_equal(numbers["conf_int"], model.result.conf_int(0.9)[0, 1:])


@pytest.mark.parametrize(
    ("varnames", "label", "dependent"),
    [
        (["pitch height", "x-2", "c", "hga"], "Group Var", "hga"),
        (["pitch height", "x-2", "c", "sub ject-id", "hga"], "subjectid Var", "hga"),
        (np.array(["pitch height", "x-2", "c", "sub ject-id", "hga"]), "subjectid Var", "hga"),
        (None, "Group Var", "y"),
    ],
)
def test_varnames(varnames: Any, label: str, dependent: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    X, Y, groups = make_data()
    model = LinearMixedEffectsModel().fit(X, Y[:, 0], groups, varnames)
    features = ["feature-0", "feature-1", "feature-2"] if varnames is None else ["pitch height", "x-2", "c"]
    assert model.varnames == [*features, dependent]
    stripped = [name.replace(" ", "").replace("-", "") for name in features]
    assert list(model.params.index) == ["Intercept", *stripped, label]
    assert list(model.pvalues.index) == list(model.conf_int.index) == list(model.params.index)
    assert model.summary() is None
    printed = capsys.readouterr().out
    assert ("Group Var" if label == "Group Var" else "sub ject-id Var") in printed
    assert all(name in printed for name in (*features, dependent))


def test_varnames_without_random_effect_and_of_many_responses() -> None:
    X, Y, groups = make_data(m=2)
    model = LinearMixedEffectsModel().fit(X, Y[:, 0], varnames=["a", "b", "c", "hga"])
    assert model.varnames == ["a", "b", "c", "hga"]
    model.fit(X, Y, groups, ["a", "b", "c", "hga"])
    assert model.result.response_names == ("hga0", "hga1")
    pandas = pytest.importorskip("pandas")
    model.fit(X, pandas.DataFrame(Y, columns=["left", "right"]), groups)
    assert list(model.params.index) == ["left", "right"]


@pytest.mark.parametrize(
    "relabel",
    [
        lambda g: g[:, None],
        lambda g: g * 10 - 3.5,
        lambda g: np.array([f"subject {v}" for v in g]),
        lambda g: [f"subject {v}" for v in g],
        lambda g: [("ward", int(v)) for v in g],
        lambda g: np.array([f"subject {v}" for v in g], dtype=object)[:, None],
    ],
)
def test_only_the_grouping_of_labels_matters(relabel: Any) -> None:
    X, Y, groups = make_data()
    expected = LinearMixedEffectsModel().fit(X, Y[:, 0], groups).result
    found = LinearMixedEffectsModel().fit(X, Y[:, 0], relabel(groups)).result
    assert found.n_groups == 6
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-9)
    np.testing.assert_allclose(found.lam, expected.lam, rtol=1e-7)


def test_zscore_uses_the_population_std_and_leaves_X_alone() -> None:
    X, Y, groups = make_data()
    before = X.copy()
    z = LinearMixedEffectsModel(zscore_x=True).fit(X, Y[:, 0], groups).get_model_params()["params"]
    raw = LinearMixedEffectsModel().fit(X, Y[:, 0], groups).get_model_params()["params"]
    np.testing.assert_allclose(z, raw * X.std(axis=0, ddof=0), rtol=1e-6)
    np.testing.assert_array_equal(X, before)


def test_degrees_of_freedom_are_handed_on() -> None:
    X, Y, groups = make_data()
    normal = LinearMixedEffectsModel().fit(X, Y[:, 0], groups)
    assert np.all(np.isinf(normal.result.df))
    residual = LinearMixedEffectsModel(df="residual").fit(X, Y[:, 0], groups)
    assert np.all(residual.result.df == len(X) - 4)
    assert np.all(residual.get_model_params()["pvalues"] > normal.get_model_params()["pvalues"])


def test_summary_of_a_chosen_response(capsys: pytest.CaptureFixture[str]) -> None:
    X, Y, groups = make_data(m=3)
    model = LinearMixedEffectsModel().fit(X, Y, groups)
    model.summary(response=2)
    assert capsys.readouterr().out == model.result.summary(2) + "\n"


def test_rsquared_of_known_residuals_and_of_bad_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y, groups = make_data(m=7)
    Y[3, 2], Y[:, 4] = np.inf, 5.0
    model = LinearMixedEffectsModel().fit(X, Y, groups)
    good = [0, 1, 3, 5, 6]
    resid = model.result.select(good).resid()
    expected = 1 - np.sum(resid**2, axis=0) / np.sum((Y[:, good] - Y[:, good].mean(axis=0)) ** 2, axis=0)
    for at_once in (2**23, 2 * len(X), 1):
        monkeypatch.setattr("jaxlmm.naplib.RESIDUALS_AT_ONCE", at_once)
        np.testing.assert_allclose(model.rsquared[good], expected, rtol=1e-12)
        assert np.isnan(model.rsquared[[2, 4]]).all()


def test_refit_replaces_and_a_refused_fit_keeps_the_results() -> None:
    X, Y, groups = make_data(m=2)
    model = LinearMixedEffectsModel().fit(X, Y, groups)
    model.fit(X[:, :2], Y[:, 0])
    assert model.get_model_params()["params"].shape == (2,)
    result = model.result
    with pytest.raises(ValueError, match="X has"):
        model.fit(X, Y[:-1], groups)
    assert model.result is result and model.varnames == ["feature-0", "feature-1", "y"]
    assert model.get_model_params()["params"].shape == (2,)


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.get_model_params(),
        lambda model: model.params,
        lambda model: model.pvalues,
        lambda model: model.conf_int,
        lambda model: model.rsquared,
        lambda model: model.result,
        lambda model: model.mixedlm_results,
        lambda model: model.summary(),
        lambda model: model.plot_effects(),
    ],
)
def test_before_fit(use: Any) -> None:
    model = LinearMixedEffectsModel()
    assert model.varnames == []
    with pytest.raises(RuntimeError, match="call fit first"):
        use(model)


def test_one_random_effect_only() -> None:
    X, Y, groups = make_data()
    with pytest.raises(ValueError, match="for 2 random effects give a list of label arrays"):
        LinearMixedEffectsModel().fit(X, Y[:, 0], np.stack([groups, groups], axis=1))


@pytest.mark.parametrize(
    ("with_random", "length", "message"),
    [
        (True, 3, "expected 4 names, or 5 .* got 3"),
        (True, 6, "expected 4 names, or 5 .* got 6"),
        (False, 3, "expected 4 names for .* got 3"),
        (False, 5, "expected 4 names for .* got 5"),
    ],
)
def test_wrong_number_of_varnames(with_random: bool, length: int, message: str) -> None:
    X, Y, groups = make_data()
    with pytest.raises(ValueError, match=message):
        LinearMixedEffectsModel().fit(X, Y[:, 0], groups if with_random else None, list("abcdef")[:length])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.1])
def test_zscore_names_a_constant_column(value: float) -> None:
    X, Y, groups = make_data()
    X[:, 1] = value
    with pytest.raises(ValueError, match=r"constant.*: feature-1;"):
        LinearMixedEffectsModel(zscore_x=True).fit(X, Y[:, 0], groups)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("zscore_x", [False, True])
def test_a_bad_value_of_X_is_located(bad: float, zscore_x: bool) -> None:
    X, Y, groups = make_data()
    X[7, 1] = bad
    with pytest.raises(ValueError, match="1 NaN or infinite values, the first in row 7, column 'feature-1'"):
        LinearMixedEffectsModel(zscore_x=zscore_x).fit(X, Y[:, 0], groups)


def test_other_bad_arguments() -> None:
    X, Y, groups = make_data()
    with pytest.raises(ValueError, match=r"X\[:, None\]"):
        LinearMixedEffectsModel().fit(X[:, 0], Y[:, 0], groups)
    with pytest.raises(ValueError, match=r"y must have shape"):
        LinearMixedEffectsModel().fit(X, Y[:, :, None], groups, ["a", "b", "c", "y"])
    for alpha in (0, 1, 95):
        with pytest.raises(ValueError, match=f"alpha must lie between 0 and 1, found {alpha}"):
            LinearMixedEffectsModel(alpha=alpha)
    with pytest.raises(ValueError, match="df must be one of"):
        LinearMixedEffectsModel(df="guess").fit(X, Y[:, 0], groups)


def test_data_frames_that_do_not_match() -> None:
    pandas = pytest.importorskip("pandas")
    X, Y, groups = make_data()
    frame, series = pandas.DataFrame(X), pandas.Series(Y[:, 0])
    expected = LinearMixedEffectsModel().fit(X, Y[:, 0], groups).result.coef
    found = LinearMixedEffectsModel().fit(frame, series, pandas.DataFrame({"subject": groups})).result.coef
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    with pytest.raises(ValueError, match="X and y have different indexes"):
        LinearMixedEffectsModel().fit(frame, series.iloc[::-1], groups)


def test_pandas_is_needed_for_tables_only(monkeypatch: pytest.MonkeyPatch, ax: Any) -> None:
    X, Y, groups = make_data()
    monkeypatch.setitem(sys.modules, "pandas", None)
    model = LinearMixedEffectsModel().fit(X, Y[:, 0], groups)
    model.summary()
    model.plot_effects(ax)
    assert model.get_model_params()["params"].shape == (3,) and 0 < model.rsquared < 1
    for table in ("params", "pvalues", "conf_int"):
        with pytest.raises(ImportError, match=r'pip install "jaxlmm\[pandas\]"'):
            getattr(model, table)


def test_import_brings_neither_pandas_nor_statsmodels() -> None:
    code = "import sys, jaxlmm.naplib; sys.exit(bool({'pandas', 'statsmodels'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the plot ---------------------------------------------------------------------------------


def test_plot_of_a_model(ax: Any) -> None:
    X, Y, groups = make_data()
    model = LinearMixedEffectsModel().fit(X, Y[:, 0], groups, ["up", "down", "none", "y"])
    assert model.plot_effects(ax=ax) is ax
    numbers = model.get_model_params()
    assert np.all(numbers["conf_int"][0] > 0) and np.all(numbers["conf_int"][1] < 0), "or the colours test nothing"
    assert numbers["conf_int"][2, 0] < 0 < numbers["conf_int"][2, 1]

    intervals, markers = effect_lines(ax)
    assert len(intervals) == len(markers) == 3 and len(ax.lines) == 7
    for row, color in enumerate([RED, BLUE, GREY]):
        np.testing.assert_allclose(intervals[row].get_xdata(), numbers["conf_int"][row])
        np.testing.assert_allclose(intervals[row].get_ydata(), row)
        np.testing.assert_allclose(markers[row].get_xdata(), numbers["params"][row])
        np.testing.assert_allclose(markers[row].get_ydata(), row)
        assert matplotlib.colors.to_rgb(intervals[row].get_color()) == color
        assert matplotlib.colors.to_rgb(markers[row].get_markerfacecolor()) == color
        assert intervals[row].get_alpha() == 0.6 and markers[row].get_markersize() == 8
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert len(dashed) == 1 and list(dashed[0].get_xdata()) == [0, 0]

    low, high = ax.get_xlim()
    assert low == -high and high > np.abs(numbers["conf_int"]).max()
    assert ax.get_ylim() == (-0.5, 2.5)
    assert list(ax.get_yticks()) == [0, 1, 2]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["up", "down", "none"]
    assert all(label.get_visible() for label in ax.get_yticklabels())
    assert {side for side, spine in ax.spines.items() if not spine.get_visible()} == {"left", "right", "top"}


def test_plot_options_and_chosen_response(ax: Any) -> None:
    X, Y, groups = make_data(m=3)
    model = LinearMixedEffectsModel(alpha=0.3).fit(X, Y, groups)
    model.plot_effects(ax, ["green", "purple"], 0.25, 3, center_zero=False, print_ylabels=False, response="y2")
    intervals, markers = effect_lines(ax)
    np.testing.assert_allclose([line.get_xdata() for line in intervals], model.get_model_params()["conf_int"][2])
    assert intervals[0].get_color() == "green" and intervals[1].get_color() == "purple"
    assert intervals[0].get_alpha() == 0.25 and markers[0].get_markersize() == 3
    low, high = ax.get_xlim()
    assert low != -high and low < min(line.get_xdata()[0] for line in intervals)
    ax.figure.canvas.draw()
    assert not any(label.get_visible() for label in ax.get_yticklabels())


def test_plot_on_the_current_axes(ax: Any) -> None:
    plt.sca(ax)
    assert plot_effects([1.0], [0.5], [2.0], ["a"]) is ax


@pytest.mark.parametrize(
    ("values", "color"),
    [((1, 0.5, 2), RED), ((-1, -2, -0.5), BLUE), ((1, -0.5, 2), GREY), ((-1, -2, 0.5), GREY), ((1, 0, 2), GREY)],
)
def test_colour_says_whether_the_interval_leaves_out_zero(values: tuple[float, ...], color: Any, ax: Any) -> None:
    plot_effects(*([v] for v in values), ["a"], ax=ax)
    assert matplotlib.colors.to_rgb(effect_lines(ax)[1][0].get_color()) == color
    low, high = ax.get_xlim()
    assert low == -high and high > np.max(np.abs(values))


def test_a_second_plot_keeps_the_first_in_view() -> None:
    figure, (left, right) = plt.subplots(1, 2, sharex=True)
    for axes in (left, right, left):
        plot_effects([-9.0], [-10.0], [-8.0], ["a"], ax=left)
        plot_effects([0.1], [0.0], [0.2], ["a"], ax=axes)
        assert axes.get_xlim() == (-11, 11)
    plt.close(figure)


def test_effects_that_were_not_fitted_are_left_out(ax: Any) -> None:
    nan = np.nan
    plot_effects([nan, 1.0], [nan, 0.5], [nan, 2.0], ["bad", "good"], ax=ax)
    assert ax.get_xlim() == (-2.2, 2.2)
    assert len(ax.get_yticks()) == 2
    figure, empty = plt.subplots()
    plot_effects([nan], [nan], [nan], ["bad"], ax=empty)
    assert empty.get_xlim() == (-1, 1)
    plt.close(figure)


@pytest.mark.parametrize("arguments", [([1, 2], [0, 1], [2, 3], ["a"]), ([1], [0, 1], [2], ["a"]), ([], [], [], [])])
def test_plot_of_arrays_that_do_not_match(arguments: Any, ax: Any) -> None:
    with pytest.raises(ValueError, match="one common length"):
        plot_effects(*arguments, ax=ax)


# -- the tutorial -----------------------------------------------------------------------------


def test_tutorial_as_a_script(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, str(TUTORIAL), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "OLS" in done.stdout and "Random intercept" in done.stdout and "subject Var" in done.stdout
    assert "1000 responses in one call" in done.stdout
    height, width, _ = plt.imread(tmp_path / "effects.png").shape
    assert width > height > 200


def test_tutorial_without_argument(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(TUTORIAL)])
    done = runpy.run_path(str(TUTORIAL))
    assert (tmp_path / "effects.png").exists()
    # What the tutorial tells its reader must be what its numbers say.
    low, high = (done[name].get_model_params()["conf_int"][1] for name in ("with_subject", "without"))
    assert low.max() < 0 < high.min()
    assert low[0] < done["true_effects"][1] < low[1]
    significant = done["significant"]
    assert significant[::2].mean() > 0.9 and significant[1::2].mean() < 0.01


def test_several_random_effects() -> None:
    rng = np.random.default_rng(5)
    subject, item = (a.ravel() for a in np.meshgrid(np.arange(12), np.arange(9)))
    X = rng.normal(size=(108, 2))
    y = X[:, 0] + rng.normal(size=12)[subject] + 0.5 * rng.normal(size=9)[item] + rng.normal(size=108)
    names = ["pitch", "onset", "subject", "item", "hg"]
    model = LinearMixedEffectsModel().fit(X, y, random_effect=[subject, item], varnames=names)
    terms = [jaxlmm.random_term(subject, name="subject"), jaxlmm.random_term(item, name="item")]
    expected = jaxlmm.fit(np.column_stack([np.ones(108), X]), y, random=terms, df="normal")
    assert list(model.params.index) == ["Intercept", "pitch", "onset", "subject Var", "item Var"]
    np.testing.assert_allclose(model.params[:3], expected.coef[0], rtol=1e-9)
    ratios = [expected.varcorr[name][0, 0, 0] / expected.sigma2[0] for name in ("subject", "item")]
    np.testing.assert_allclose(model.params[3:], ratios, rtol=1e-6)
    assert model.pvalues[3:].isna().all() and model.varnames == ["pitch", "onset", "hg"]
    assert model.rsquared > 0.3
    with pytest.raises(ValueError, match="3 names, or 5 with 2 for the random effects before y's"):
        LinearMixedEffectsModel().fit(X, y, random_effect=[subject, item], varnames=names[1:])
