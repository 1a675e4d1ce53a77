"""Pictures of labelled fits by formula: means, groups, courses, maps with one scale, scalps, and the list of them."""

from __future__ import annotations

import inspect
import itertools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import same_color
from matplotlib.font_manager import FontProperties

import jaxlmm
from jaxlmm import plots
from jaxlmm.plots.base import CATEGORIES
from jaxlmm.plots.order import row_order
from jaxlmm.plots.words import cut_apart, number_texts, term_text, wrapped

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")
xr = pytest.importorskip("xarray")

TABLE = Path(__file__).parents[2] / "docs" / "bad-input.md"
CHANNELS = ["Fz", "C3", "Cz", "C4"]
TIMES = np.arange(9) / 10 - 0.2
COND = "cond[T.rare]"


def trials() -> tuple[Any, Any]:
    """Trials of 8 subjects in two groups, and responses (trial, channel, time); rare ones differ at Cz from 0.2 s."""
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(8), 8)
    frame = pd.DataFrame(
        {
            "subject": [f"s{k}" for k in subject],
            "cond": np.tile(["frequent", "rare"], 32),
            "group": np.where(subject % 2, "patient", "control"),
            "load": rng.integers(1, 5, 64),
        }
    )
    Y = rng.normal(size=(64, 4, 9)) + rng.normal(size=(8, 4, 9))[subject]
    Y[:, 2, 4:7] += 4.0 * (frame["cond"] == "rare").to_numpy()[:, None]
    coords = {"channel": CHANNELS, "time": ("time", TIMES, {"long_name": "Time", "units": "s"})}
    return frame, xr.DataArray(Y, dims=["trial", "channel", "time"], coords=coords, attrs={"units": "µV"})


@pytest.fixture(scope="module")
def fit() -> jaxlmm.Fit:
    """One response, C3 at 0.1 s, is missing."""
    frame, Y = trials()
    Y[:, 1, 3] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jaxlmm.lmm("cond * load + group + (1 + cond | subject)", frame, Y)


@pytest.fixture(scope="module")
def cz(fit: jaxlmm.Fit) -> jaxlmm.Fit:
    return fit.sel(channel="Cz")


@pytest.fixture(scope="module")
def one(cz: jaxlmm.Fit) -> jaxlmm.Fit:
    return cz.isel(time=5)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def legend_texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


def segments(collection: Any) -> np.ndarray:
    return np.array(collection.get_segments())


def panels(ax: Any) -> list[Any]:
    """Those with something in them: room for titles and legends is made by empty ones."""
    return [child for child in ax.child_axes if child.axison]


def bars(ax: Any) -> list[list[tuple[float, float]]]:
    """From and to of the spans below a course, row by row."""
    rows = [c for c in ax.collections if isinstance(c, PolyCollection) and c.get_transform() != ax.transData]
    rows = [c for c in rows if (c.get_label() and "p ≤" in str(c.get_label())) or "signif" in str(c.get_label())]
    return [[(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in row.get_paths()] for row in rows]


# -- the list -----------------------------------------------------------------------------------------


def test_a_fit_lists_its_pictures(fit: jaxlmm.Fit, one: jaxlmm.Fit) -> None:
    text = str(fit.plot)
    for name in dir(fit.plot):
        method, draw = getattr(fit.plot, name), getattr(plots, name)
        said = str(inspect.getdoc(draw)).splitlines()[0]
        assert f"{name} " in text and said in text and method.__doc__ == draw.__doc__
        assert list(inspect.signature(method).parameters) == list(inspect.signature(draw).parameters)[1:]
        assert "ax" in inspect.signature(method).parameters
    fits = {name for name in plots.__all__ if "fit" in inspect.signature(getattr(plots, name)).parameters}
    assert set(dir(fit.plot)) == fits
    assert "<pre>" in fit.plot._repr_html_()
    with pytest.raises(AttributeError, match="there is no picture 'violin'; there are volcano, "):
        fit.plot.violin  # noqa: B018
    ax = plt.subplots()[1]
    assert one.plot.qq_plot(ax=ax) is ax
    assert dir(fit.emmeans("cond").plot) == ["erp", "marginal_means"]


# -- texts --------------------------------------------------------------------------------------------


def test_terms_as_people_write_them() -> None:
    assert term_text("cond[T.rare]:age") == "cond[rare] × age"
    assert term_text("C(x, levels=['a:b'])[T.a:b]:z") == "C(x, levels=['a:b'])[a:b] × z"
    assert term_text("plain") == "plain"


def test_numbers_in_few_digits() -> None:
    assert number_texts(np.array([0.30000000000000004, 0.1, -0.2])) == ["0.3", "0.1", "-0.2"]
    assert number_texts(np.array([1000.5, 1000.25])) == ["1000.5", "1000.25"]
    assert number_texts(np.array([0.1 + 0.2, 0.3])) == ["0.30000000000000004", "0.3"]
    assert number_texts(np.array([34.0512])) == ["34.1"]


def test_lines_are_no_longer_than_the_room() -> None:
    lines = wrapped("Effect of treatment[of the new drug] × age (µV)", 100, 8).split("\n")
    assert len(lines) <= 3 and all(len(line) <= 100 / (0.56 * 8) for line in lines)
    assert wrapped("short", 100, 8) == "short"
    assert "…" in wrapped("a" * 200, 100, 8)
    names = [f"gene_{k:02d}_with_a_long_name" for k in range(30)]
    assert len(set(cut_apart(names, 14))) == 30 and all(len(name) <= 14 for name in cut_apart(names, 14))


# -- marginal means ---------------------------------------------------------------------------------


def test_means_of_a_factor(one: jaxlmm.Fit) -> None:
    ax = one.plot.marginal_means("cond", level=0.9)
    expected = one.emmeans("cond")
    (points,) = [line for line in ax.lines if line.get_linestyle() == "None"]
    np.testing.assert_allclose(points.get_ydata(), expected.estimate[0], rtol=1e-12)
    np.testing.assert_array_equal(points.get_xdata(), [0, 1])
    intervals = segments(next(c for c in ax.collections if isinstance(c, LineCollection)))
    np.testing.assert_allclose(intervals[:, :, 1], expected.conf_int(0.9)[0], rtol=1e-12)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["frequent", "rare"]
    assert ax.get_xlabel() == "cond" and ax.get_ylabel() == "Cz, 0.3 (µV)"
    assert legend_texts(ax) == ["mean, 90 % interval"]


def test_an_interaction_has_colours_and_panels(one: jaxlmm.Fit) -> None:
    ax = one.plot.marginal_means(["load", "cond"], "group")
    left, right = panels(ax)
    grid = np.linspace(one.source.values("load").min(), one.source.values("load").max(), 41)
    expected = one.emmeans(["load", "cond"], by="group", at={"load": grid.tolist()})
    at = {(row["cond"], row["group"]): [] for row in expected.labels}
    for row, value in zip(expected.labels, expected.estimate[0], strict=True):
        at[row["cond"], row["group"]].append(value)
    for panel, group in ((left, "control"), (right, "patient")):
        assert panel.get_title() == f"group = {group}"
        for line, cond, color in zip(panel.lines, ("frequent", "rare"), CATEGORIES, strict=False):
            np.testing.assert_allclose(line.get_xdata(), grid)
            np.testing.assert_allclose(line.get_ydata(), at[cond, group], rtol=1e-12)
            assert same_color(line.get_color(), color) and line.get_label() == cond
    assert left.lines[0].get_linestyle() != left.lines[1].get_linestyle()  # told apart without colours, too
    assert left.get_ylim() == right.get_ylim()
    assert legend_texts(ax) == ["frequent", "rare"]
    assert ax.get_legend().get_title().get_text() == "cond; 95 % interval"


def test_a_covariate_as_colour_has_three_values(one: jaxlmm.Fit) -> None:
    ax = one.plot.marginal_means(["cond", "load"])
    load = np.asarray(one.source.values("load"), dtype=float)
    values = [load.mean() - load.std(ddof=1), load.mean(), load.mean() + load.std(ddof=1)]
    expected = one.emmeans(["cond", "load"], at={"load": values}).estimate[0].reshape(3, 2)
    points = [line for line in ax.lines if line.get_linestyle() == "None"]
    for line, row in zip(points, expected, strict=True):
        np.testing.assert_allclose(line.get_ydata(), row, rtol=1e-12)
    assert len({line.get_marker() for line in points}) == 3 and len(legend_texts(ax)) == 3


def test_observations_are_drawn_at_their_levels(one: jaxlmm.Fit) -> None:
    ax = one.plot.marginal_means(["cond", "group"], data=True)
    clouds = [np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets()) > 1]
    assert sum(map(len, clouds)) == 64
    np.testing.assert_allclose(np.sort(np.concatenate(clouds)[:, 1]), np.sort(np.asarray(one.Y)[:, 0]))
    assert set(np.round(np.concatenate(clouds)[:, 0])) == {0, 1}
    assert abs(clouds[0][:, 0].mean() - clouds[1][:, 0].mean()) > 0.1  # side by side


def test_means_and_their_table_draw_the_same(one: jaxlmm.Fit) -> None:
    means = one.emmeans("~ cond | group")
    found = means.plot.marginal_means()
    table = plots.marginal_means(means.tidy(), "cond", "group")
    for ax in (found, table):
        values = [line.get_ydata() for panel in panels(ax) for line in panel.lines]
        np.testing.assert_allclose(np.concatenate(values), means.estimate[0], rtol=1e-12)
        assert [panel.get_title() for panel in panels(ax)] == ["group = control", "group = patient"]


def test_long_names_of_levels_do_not_touch(one: jaxlmm.Fit) -> None:
    levels = [
        "a very long name of a condition",
        "another very long name",
        "short",
        "a name in several words",
        "last one",
    ]
    table = pd.DataFrame({"task": levels, "estimate": range(5), "conf.low": range(5), "conf.high": range(5)})
    table["task"] = pd.Categorical(table["task"], levels)
    with plots.paper():
        ax = plots.marginal_means(table, "task")
        ax.figure.canvas.draw()
    labels = ax.get_xticklabels()
    assert len(labels) == 5 and ax.get_tightbbox().x0 >= 0
    if labels[0].get_rotation() == 0:
        boxes = [label.get_window_extent() for label in labels]
        assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))


# -- groups -------------------------------------------------------------------------------------------


def test_lines_of_groups_are_what_the_model_predicts(one: jaxlmm.Fit) -> None:
    ax = one.plot.group_lines("load", "cond")
    paths = segments_of(ax.collections[0])
    assert len(paths) == 16  # 8 subjects x 2 conditions
    frame, _ = trials()
    seen = frame[(frame["subject"] == "s3") & (frame["cond"] == "rare")]
    new = pd.DataFrame({"load": [seen["load"].min(), seen["load"].max()], "cond": "rare", "subject": "s3"})
    both = [one.predict(new.assign(group=group))[:, 0] for group in ("control", "patient")]
    expected = np.mean(both, axis=0)  # averaged over the groups of the population's mean
    found = paths[8 + 3]
    np.testing.assert_allclose(found[[0, -1], 0], new["load"])
    np.testing.assert_allclose(found[[0, -1], 1], expected, rtol=1e-9)
    means = one.emmeans(["load", "cond"], at={"load": [float(frame["load"].min())]}).estimate[0]
    np.testing.assert_allclose([line.get_ydata()[0] for line in ax.lines[:2]], means, rtol=1e-9)


def test_lines_of_groups_over_a_factor_are_means_of_the_data(one: jaxlmm.Fit) -> None:
    ax = one.plot.group_lines("cond")
    paths = segments_of(ax.collections[0])
    frame, _ = trials()
    y = pd.Series(np.asarray(one.Y)[:, 0])
    expected = y.groupby([frame["subject"], frame["cond"]]).mean().to_numpy().reshape(8, 2)
    np.testing.assert_allclose([path[:, 1] for path in paths], expected, rtol=1e-12)
    np.testing.assert_array_equal([path[:, 0] for path in paths], np.tile([0, 1], (8, 1)))
    assert legend_texts(ax) == ["mean, 95 % interval", "subject: means"]
    fitted = segments_of(one.plot.group_lines("cond", lines="fitted").collections[0])
    effects = next(iter(one.ranef().values())).modes[0]
    mean = one.emmeans("cond").estimate[0]
    np.testing.assert_allclose([path[0, 1] for path in fitted], mean[0] + effects[:, 0], rtol=1e-9)
    np.testing.assert_allclose([path[1, 1] for path in fitted], mean[1] + effects.sum(axis=1), rtol=1e-9)


def segments_of(collection: Any) -> list[np.ndarray]:
    return [path.vertices for path in collection.get_paths()]


def test_random_slopes_have_a_panel_each(one: jaxlmm.Fit) -> None:
    ax = one.plot.caterpillar()
    effects = next(iter(one.ranef().values()))
    order = np.argsort(effects.modes[0, :, 0])
    left, right = panels(ax)
    for k, (panel, title) in enumerate(((left, "(Intercept)"), (right, "cond[rare]"))):
        (found,) = [line for line in panel.lines if line.get_linestyle() == "None"]
        np.testing.assert_allclose(found.get_xdata(), effects.modes[0, order, k], rtol=1e-12)
        assert panel.get_title() == title
    single = one.plot.caterpillar(effects=COND, group="subject")
    assert not panels(single) and "random effect of cond[rare]" in single.get_xlabel().replace("\n", " ")


# -- courses ----------------------------------------------------------------------------------------


def test_erp_has_means_bands_and_spans(cz: jaxlmm.Fit) -> None:
    ax = cz.plot.erp("cond")
    means = cz.emmeans("cond")
    for k, name in enumerate(("frequent", "rare")):
        np.testing.assert_allclose(ax.lines[k].get_ydata(), means.estimate[:, k], rtol=1e-12)
        np.testing.assert_allclose(ax.lines[k].get_xdata(), TIMES)
        band = ax.collections[2 * k + 1].get_paths()[0].vertices
        assert band[:, 1].min() == pytest.approx(means.conf_int()[:, k, 0].min())
        assert band[:, 1].max() == pytest.approx(means.conf_int()[:, k, 1].max())
        assert ax.lines[k].get_label() == name
    p = jaxlmm.adjust_pvalues(cz.ftest(means.L[1] - means.L[0]).pvalue)
    found = np.flatnonzero(p <= 0.05)
    assert found.tolist() == [4, 5, 6]
    ((low, high),) = bars(ax)[0]
    assert (low, high) == (pytest.approx(TIMES[4] - 0.05), pytest.approx(TIMES[6] + 0.05))
    assert legend_texts(ax) == ["frequent", "rare", "BH-adjusted p ≤ 0.05"]
    assert ax.get_xlabel() == "Time (s)" and ax.get_ylabel() == "Mean (µV)"
    dashed = [line for line in ax.lines if line.get_linestyle() == "--" and set(line.get_xdata()) == {0}]
    assert len(dashed) == 1  # the onset
    lowest = min(means.conf_int()[:, :, 0].min(), 0)
    top = ax.transAxes.inverted().transform(ax.transData.transform((0, lowest)))[1]
    assert top > 0.05  # the spans are below all bands


def test_spans_of_several_tests_have_a_row_each(cz: jaxlmm.Fit) -> None:
    mask = np.zeros(9, dtype=bool)
    mask[[0, 1, 8]] = True
    ax = cz.plot.erp("cond", test={"F": "holm", "mine": mask})
    first, second = bars(ax)
    assert len(first) == 1 and len(second) == 2
    assert second[0] == (pytest.approx(TIMES[0] - 0.05), pytest.approx(TIMES[1] + 0.05))
    assert legend_texts(ax)[2:] == ["F: Holm-adjusted p ≤ 0.05", "mine: significant"]
    assert not bars(cz.plot.erp("cond", test=None))
    assert not bars(cz.plot.erp("cond", test=~np.ones(9, dtype=bool)))


def test_courses_with_gaps_and_of_one_response(fit: jaxlmm.Fit) -> None:
    c3 = fit.sel(channel="C3")
    ax = c3.plot.time_course(COND, test="none")
    assert np.isnan(ax.lines[0].get_ydata()[3]) and np.isfinite(np.delete(ax.lines[0].get_ydata(), 3)).all()
    erp = c3.plot.erp("cond")
    assert np.isnan(erp.lines[0].get_ydata()[3])
    alone = fit.sel(channel="Cz").isel(time=[5])
    for ax in (alone.plot.time_course(COND), alone.plot.erp("cond"), alone.plot.effect_by_lag(COND)):
        ax.figure.canvas.draw()
        assert ax.get_xlim()[0] < TIMES[5] < ax.get_xlim()[1]
    interval = segments(alone.plot.time_course(COND).collections[0])
    np.testing.assert_allclose(interval[0, :, 1], alone.conf_int()[0, 1], rtol=1e-12)


def test_erp_of_an_interaction_and_of_means(cz: jaxlmm.Fit) -> None:
    ax = cz.plot.erp(["cond", "group"])
    assert [line.get_label() for line in ax.lines[:4]] == [
        "frequent, control", "rare, control", "frequent, patient", "rare, patient",
    ]  # fmt: skip
    same = cz.emmeans(["cond", "group"]).plot.erp()
    for a, b in zip(ax.lines[:4], same.lines[:4], strict=True):
        np.testing.assert_array_equal(a.get_ydata(), b.get_ydata())


def test_effects_by_lag_fill_what_is_significant(cz: jaxlmm.Fit) -> None:
    ax = cz.plot.effect_by_lag(COND)
    line, filled, empty = ax.lines[:3]
    found = jaxlmm.adjust_pvalues(cz.pvalue[:, 1]) <= 0.05
    np.testing.assert_array_equal(line.get_ydata(), cz.coef[:, 1])
    np.testing.assert_array_equal(filled.get_ydata(), cz.coef[found, 1])
    np.testing.assert_array_equal(empty.get_ydata(), cz.coef[~found, 1])
    assert found.any() and same_color(empty.get_markerfacecolor(), "white")
    np.testing.assert_allclose(segments(ax.collections[0])[:, :, 1], cz.conf_int()[:, 1], rtol=1e-12)
    assert legend_texts(ax) == ["BH-adjusted p ≤ 0.05", "not significant"]
    assert ax.get_ylabel().replace("\n", "") == "Effect of cond[rare] (µV)"
    several = cz.plot.effect_by_lag()
    assert legend_texts(several)[:2] == ["cond[rare]", "load"]
    assert len({line.get_xdata()[0] for line in several.lines if len(line.get_xdata()) == 9}) == 4  # side by side


def test_effects_by_lag_of_names_and_of_a_table(cz: jaxlmm.Fit, fit: jaxlmm.Fit) -> None:
    ax = plots.effect_by_lag(cz.tidy(), COND)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), TIMES)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), cz.coef[:, 1])
    named = fit.isel(time=5).plot.effect_by_lag(COND)
    assert [tick.get_text() for tick in named.get_xticklabels()] == CHANNELS


# -- maps -------------------------------------------------------------------------------------------


def test_maps_share_one_limit(fit: jaxlmm.Fit) -> None:
    ax = fit.plot.stat_maps([COND, "load"])
    left, right = panels(ax)
    largest = np.nanmax(np.abs(fit.statistic[:, 1:3]))
    for k, panel in ((1, left), (2, right)):
        mesh = panel.collections[0]
        np.testing.assert_array_equal(mesh.get_array().filled(np.nan), fit.statistic[:, k].reshape(4, 9))
        assert mesh.get_clim() == (-largest, largest)
        onset = [line for line in panel.lines if line.get_linestyle() == "--"]
        assert [set(line.get_xdata()) for line in onset] == [{0}]
    assert left.get_title() == "cond[rare]" and right.get_title() == "load"
    significant = (jaxlmm.adjust_pvalues(fit.pvalue[:, 1]) <= 0.05).reshape(4, 9)
    assert significant[2, 4:7].all() and len(left.collections) == 2
    assert legend_texts(ax) == ["BH-adjusted p ≤ 0.05", "no value: 2"]
    assert ax.get_xlabel() == "Time (s)" and left.get_ylabel() == "channel"


def test_maps_of_a_third_dimension(fit: jaxlmm.Fit) -> None:
    _, Y = trials()
    cube = xr.concat([Y, 2 * Y], "freq").assign_coords(freq=("freq", [4.0, 8.0], {"units": "Hz"}))
    made = jaxlmm.fit(fit.design.X[:, :2], cube.transpose("trial", "freq", "channel", "time"), obs_dim="trial")
    ax = made.plot.stat_maps(1, variable="coef", mask=None)
    assert [panel.get_title() for panel in panels(ax)] == ["4 Hz", "8 Hz"]
    np.testing.assert_array_equal(
        panels(ax)[1].collections[0].get_array().filled(np.nan), made.coef[:, 1].reshape(2, 4, 9)[1]
    )
    with pytest.raises(ValueError, match="of responses with three dimensions one term is drawn"):
        made.plot.stat_maps()
    with pytest.raises(ValueError, match="panels is 'trial'; the dimensions are 'freq', 'channel', 'time'"):
        made.plot.stat_maps(1, panels="trial")


PLACES = {"Fz": (0.0, 0.07, 0.05), "C3": (-0.06, 0.0, 0.05), "Cz": (0.001, 0, 0.09), "C4": (0.06, 0.0, 0.05)}


def test_channels_in_a_given_order_and_in_that_of_the_scalp(fit: jaxlmm.Fit) -> None:
    values = fit.statistic[:, 1].reshape(4, 9)
    ax = plots.stat_map(values, y=CHANNELS, x=TIMES, mask=np.abs(values) > 3, order=["C4", "Fz"])
    np.testing.assert_array_equal(ax.collections[0].get_array().filled(np.nan), values[[3, 0]])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["C4", "Fz"]
    scalp = fit.plot.stat_maps(COND, order=PLACES)
    assert [tick.get_text() for tick in scalp.get_yticklabels()] == ["C3", "Fz", "Cz", "C4"]
    np.testing.assert_array_equal(scalp.collections[0].get_array().filled(np.nan), values[[1, 0, 2, 3]])
    between = [line.get_ydata()[0] for line in scalp.lines if line.get_linestyle() == "-"]
    assert between == [0.5, 2.5]  # left, midline, right
    rows, breaks = row_order(["a", "b", "c"], {"a": (1, 0, 0), "b": (1, 1, 0), "c": (-1, 0, 0)})
    assert rows.tolist() == [2, 1, 0] and breaks == (1,)


def test_topomap_in_one_call(fit: jaxlmm.Fit) -> None:
    mne = pytest.importorskip("mne")
    info = mne.create_info(CHANNELS, 10, "eeg", verbose=False)
    info.set_montage(mne.channels.make_dig_montage(PLACES, coord_frame="head"))
    ax = fit.plot.topomap(info, COND, [0.0, 0.3])
    maps = panels(ax)
    assert [panel.get_title() for panel in maps] == ["0 s", "0.3 s"]
    shown = fit.statistic[:, 1].reshape(4, 9)[:, [2, 5]]
    limits = {panel.images[0].get_clim() for panel in maps}
    assert limits == {(-np.abs(shown).max(), np.abs(shown).max())}
    found = jaxlmm.adjust_pvalues(fit.pvalue[:, 1]).reshape(4, 9)[:, 5] <= 0.05
    marks = [line for line in maps[1].lines if line.get_marker() == "o"]
    assert sum(len(line.get_xdata()) for line in marks) == found.sum() == 1
    assert legend_texts(ax) == ["BH-adjusted p ≤ 0.05"]
    assert len(panels(fit.plot.topomap(info, COND, 3))) == 3
    alone = fit.isel(time=5).plot.topomap(info, COND, adjust=None)
    assert len(panels(alone)) == 1 and not legend_texts(alone)


def test_topomap_says_how_to_install_mne(fit: jaxlmm.Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mne", None)
    with pytest.raises(ImportError, match=r'scalp maps need mne: pip install "jaxlmm\[mne\]"'):
        fit.plot.topomap(None, COND)


# -- figures for a paper ------------------------------------------------------------------------------


def test_a_figure_of_a_paper_is_a_column_wide_with_text_of_one_size(fit: jaxlmm.Fit, one: jaxlmm.Fit) -> None:
    cz = fit.sel(channel="Cz")
    draw = [
        lambda: fit.plot.volcano(COND, label_top=3), lambda: fit.plot.stat_maps(), lambda: cz.plot.erp("cond"),
        lambda: cz.plot.forest(), lambda: one.plot.caterpillar(), lambda: one.plot.marginal_means(["cond", "group"]),
        lambda: one.plot.qq_plot(), lambda: one.plot.group_lines("load"), lambda: cz.plot.effect_by_lag(),
    ]  # fmt: skip
    before = dict(plt.rcParams)
    for one_ in draw:
        with plots.paper():
            ax = one_()
            figure = ax.get_figure(root=True)
            figure.canvas.draw()
            box = figure.get_tightbbox()
        assert figure.get_figwidth() == 3.35
        texts = [
            text for text in figure.findobj(matplotlib.text.Text) if text.get_text().strip() and text.get_visible()
        ]
        sizes = {round(text.get_fontsize(), 3) for text in texts} - {8.0}
        assert not sizes or sizes <= {6.8, 5.6}  # names of rows may be smaller
        assert box.x0 > -0.02 and box.x1 < 3.35 + 0.02  # nothing is cut
    assert dict(plt.rcParams) == before
    assert FontProperties(size="medium").get_size_in_points() == 10


def test_paper_takes_a_width_and_a_size(one: jaxlmm.Fit) -> None:
    with plots.paper(width=7, size=9):
        ax = one.plot.qq_plot()
        assert ax.figure.get_figwidth() == 7 and ax.xaxis.label.get_fontsize() == 9
    for bad in (0, -1, "wide", True):
        with pytest.raises(ValueError, match="width must be a positive number, found"), plots.paper(width=bad):
            pass


# -- bad input ----------------------------------------------------------------------------------------


def line_of_channels() -> Any:
    mne = pytest.importorskip("mne")
    info = mne.create_info(CHANNELS, 100.0, "eeg")
    places = {name: np.array([0.0, 0.02 * k, 0.1]) for k, name in enumerate(CHANNELS)}
    return info.set_montage(
        mne.channels.make_dig_montage(places, nasion=[0, 0.1, 0], lpa=[-0.1, 0, 0], rpa=[0.1, 0, 0])
    )


BAD: dict[str, tuple[Any, str]] = {
    "no specs": (lambda f: f.isel(time=5).plot.marginal_means(), "say which variables are to be drawn"),
    "unknown variable": (lambda f: f.isel(time=5).plot.marginal_means("dose"), "the variables of the model are"),
    "too many colours": (
        lambda f: f.plot.marginal_means(["cond", "load"], at={"load": list(range(9))}),
        "colours tell at most 8 apart",
    ),
    "no formula": (
        lambda f: jaxlmm.fit(f.design.X, f.Y[:, :1]).plot.marginal_means("cond"),
        "needs the variables behind X",
    ),
    "table of something else": (
        lambda f: plots.marginal_means(f.tidy(effects="ran_pars", conf_int=False), "term"),
        "it holds no means",
    ),
    "several rows for one mean": (
        lambda f: plots.marginal_means(f.emmeans("cond").tidy(), "cond"),
        "several rows for one combination",
    ),
    "no random term": (
        lambda f: jaxlmm.lmm("cond", f.source.frame, f.Y[:, :1]).plot.group_lines("cond"),
        "no random effect to draw",
    ),
    "unknown random term": (lambda f: f.plot.group_lines("cond", group="item"), "there is no random term 'item'"),
    "unknown random effect": (lambda f: f.plot.caterpillar(effects="load"), "there is no random effect 'load'"),
    "lines of something": (lambda f: f.plot.group_lines("cond", lines="raw"), "lines must be one of"),
    "course of two dimensions": (lambda f: f.plot.erp("cond"), "an ERP needs one dimension, the responses have 2"),
    "course over names": (lambda f: f.isel(time=5).plot.time_course(COND), "needs labels that are numbers"),
    "test of another length": (
        lambda f: f.sel(channel="Cz").plot.erp("cond", test=np.ones(3, dtype=bool)),
        "test must be of as many",
    ),
    "test of numbers": (
        lambda f: f.sel(channel="Cz").plot.erp("cond", test=np.ones(9)),
        "test must be booleans such as p <= 0.05",
    ),
    "maps of one dimension": (
        lambda f: f.sel(channel="Cz").plot.stat_maps(),
        "maps need responses with two dimensions",
    ),
    "mask of another shape": (lambda f: f.plot.stat_maps(mask=np.ones(4, bool)), "mask must be an adjustment"),
    "variable that is no statistic": (lambda f: f.plot.stat_maps(variable="loglik"), "variable must be one of"),
    "order with an unknown name": (
        lambda f: f.plot.stat_maps(order=["Oz"]),
        "order names 'Oz', which no row is called",
    ),
    "order with a name twice": (lambda f: f.plot.stat_maps(order=["Cz", "Cz"]), "order names 'Cz' twice"),
    "order without a position": (lambda f: f.plot.stat_maps(order={"Cz": (0, 0, 1)}), "no position of channel 'Fz'"),
    "order of rows without names": (
        lambda f: plots.stat_map(np.ones((2, 2)), order=["a", "b"]),
        "order is of rows with names",
    ),
    "scalp of other dimensions": (
        lambda f: f.sel(channel="Cz").plot.topomap(None, COND),
        "scalp maps need the dimensions 'channel' and 'time'",
    ),
    "scalp of one line": (
        lambda f: f.plot.topomap(line_of_channels(), COND),
        "the channels lie on one line or circle",
    ),
    "alpha beyond 1": (lambda f: f.plot.stat_maps(alpha=5), "alpha must lie between 0 and 1, found 5"),
    "level beyond 1": (lambda f: f.plot.qq_plot(level=95), "level must lie between 0 and 1"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str, fit: jaxlmm.Fit) -> None:
    if what.startswith("scalp"):
        pytest.importorskip("mne")
    call, message = BAD[what]
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        call(fit)
    assert "\n" not in str(raised.value)
    assert plt.get_fignums() == []
    assert f"`{message}`" in TABLE.read_text(), "say so in docs/bad-input.md"
