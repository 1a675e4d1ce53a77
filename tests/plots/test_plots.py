"""Plots of results: what stands on the axes, where, in which colour, and what they refuse."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats
from conftest import blup_sd, blups, load_reference
from matplotlib.collections import PathCollection
from matplotlib.colors import same_color, to_rgb

import jaxlmm
from jaxlmm import plots
from jaxlmm.inference.bands import normal_band
from jaxlmm.inference.multiplicity import threshold
from jaxlmm.plots.base import ABOVE, BELOW, CATEGORIES, GREY
from jaxlmm.tabular.labels import Labels

GALLERY = pathlib.Path(__file__).parents[2] / "examples" / "gallery.py"
TERMS = ["Intercept", "a", "b"]


def data(m: int = 6, n_groups: int = 10, each: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X, Y and groups g0, g1, ...; the effect of "a" grows with the response from -1 to 1."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_groups), each)
    X = np.column_stack([np.ones(len(codes)), rng.normal(size=(len(codes), 2))])
    Y = rng.normal(size=(len(codes), m)) + rng.normal(size=(n_groups, m))[codes]
    return X, Y + 5 + X[:, [1]] * np.linspace(-1, 1, m), np.array([f"g{k}" for k in codes])


def make_fit(m: int = 6, missing: bool = False, **options: Any) -> jaxlmm.Fit:
    """A fit; ``missing`` makes response 2 all NaN."""
    X, Y, groups = data(m, **options)
    if missing:
        Y[:, 2] = np.nan
    return jaxlmm.fit(X, Y, groups, names=TERMS, group_name="subject")


@pytest.fixture(scope="module")
def fit() -> jaxlmm.Fit:
    return make_fit()


@pytest.fixture(scope="module")
def holed() -> jaxlmm.Fit:
    return make_fit(missing=True)


@pytest.fixture(scope="module")
def singular() -> jaxlmm.Fit:
    """A fit whose group variance is estimated as 0."""
    reference = load_reference("dyestuff2")
    fit = jaxlmm.fit(reference.X, reference.y, reference.groups, response_names=["yield"], group_name="batch")
    assert fit.singular.all()
    return fit


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def ax() -> Any:
    return plt.subplots(figsize=(6, 5))[1]


def lines(ax: Any, style: str) -> list[Any]:
    return [line for line in ax.lines if line.get_linestyle() == style]


def markers(ax: Any) -> list[Any]:
    """Lines that are markers only."""
    return [line for line in ax.lines if line.get_linestyle() == "None"]


def segments(collection: Any) -> np.ndarray:
    return np.array(collection.get_segments())


def legend_texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


def tick_texts(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def boxes_apart(texts: list[Any], direction: str = "y") -> bool:
    """Whether no two of the drawn texts, in order along an axis, overlap."""
    low, high = ("y0", "y1") if direction == "y" else ("x0", "x1")
    boxes = sorted((text.get_window_extent() for text in texts), key=lambda box: getattr(box, low))
    return all(getattr(a, high) <= getattr(b, low) for a, b in itertools.pairwise(boxes))


DRAWINGS: dict[str, Callable[..., Any]] = {
    "forest": lambda fit, ax: plots.forest(fit, ax=ax),
    "stat_map": lambda fit, ax: plots.stat_map(fit.statistic, mask=fit.pvalue < 0.05, ax=ax),
    "volcano": lambda fit, ax: plots.volcano(fit, "a", label_top=2, ax=ax),
    "caterpillar": lambda fit, ax: plots.caterpillar(fit, ax=ax),
    "residual_plot": lambda fit, ax: plots.residual_plot(fit, ax=ax),
    "qq_plot": lambda fit, ax: plots.qq_plot(fit, ax=ax),
    "pvalue_histogram": lambda fit, ax: plots.pvalue_histogram(fit, "a", ax=ax),
    "icc_distribution": lambda fit, ax: plots.icc_distribution(fit, ax=ax),
}


# -- all of them ------------------------------------------------------------------------------


# Of permutation tests and bands; drawn in tests/resampling. Of formulas and labels; drawn in test_pictures.py.
RESAMPLING = ("cluster_map", "null_distribution", "time_course")
LABELLED = ("effect_by_lag", "erp", "group_lines", "marginal_means", "stat_maps", "topomap")


def test_every_plot_is_listed() -> None:
    assert sorted(plots.__all__) == sorted([*DRAWINGS, *RESAMPLING, *LABELLED, "plot_effects", "paper"])


@pytest.mark.parametrize("name", DRAWINGS)
def test_on_given_axes(name: str, fit: jaxlmm.Fit) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    plt.sca(left)
    before = plt.get_fignums()
    assert DRAWINGS[name](fit, right) is right
    assert plt.get_fignums() == before
    assert (right.has_data() or right.child_axes) and not left.has_data()
    right.set_title("A title")
    figure.canvas.draw()
    if right.get_legend():
        assert not right.get_legend().get_window_extent().overlaps(right.title.get_window_extent())


@pytest.mark.parametrize("name", DRAWINGS)
def test_on_a_figure_of_its_own(name: str, fit: jaxlmm.Fit) -> None:
    current = plt.subplots()[1]
    ax = DRAWINGS[name](fit, None)
    assert ax.figure is not current.figure and len(plt.get_fignums()) == 2 and not current.has_data()
    ax.figure.canvas.draw()
    inside, whole = ax.get_tightbbox(), ax.figure.bbox
    assert inside.x0 >= 0 and inside.y0 >= 0 and inside.x1 <= whole.x1 and inside.y1 <= whole.y1


@pytest.mark.parametrize("name", DRAWINGS)
def test_on_a_figure_without_pyplot(name: str, fit: jaxlmm.Fit) -> None:
    ax = matplotlib.figure.Figure().subfigures(1, 2)[1].subplots()
    assert DRAWINGS[name](fit, ax) is ax
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    "draw", [plots.volcano, plots.pvalue_histogram, lambda fit, term: plots.forest(fit, 0, [term])]
)
@pytest.mark.parametrize("term", ["c", "A", 3, -4, True, 1.0])
def test_unknown_term(draw: Any, term: Any, fit: jaxlmm.Fit) -> None:
    with pytest.raises(ValueError, match=r"there is no term .*; the terms are 'Intercept', 'a', 'b'\.$"):
        draw(fit, term)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("draw", [plots.volcano, plots.pvalue_histogram])
def test_no_term_is_the_only_effect(draw: Any, fit: jaxlmm.Fit) -> None:
    with pytest.raises(
        ValueError, match=r"say which effect is to be drawn, term=..., one of 'Intercept', 'a', 'b'\."
    ):
        draw(fit)
    X, Y, groups = data()
    assert " x1" in draw(jaxlmm.fit(X[:, :2], Y, groups, names=["Intercept", "x1"])).get_xlabel()


ONE = [plots.forest, plots.caterpillar, plots.residual_plot, plots.qq_plot]


@pytest.mark.parametrize("draw", ONE)
def test_response_without_a_fit(draw: Any, holed: jaxlmm.Fit) -> None:
    message = jaxlmm.Status(int(holed.status[2])).message
    for response in (2, "y2", -4):
        with pytest.raises(ValueError, match="response 'y2' has no fit") as error:
            draw(holed, response)
        assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no response is named 'speed'"):
        draw(holed, "speed")
    with pytest.raises(ValueError, match="out of range"):
        draw(holed, 6)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    "draw", [plots.caterpillar, plots.icc_distribution, lambda fit: plots.qq_plot(fit, what="ranef")]
)
def test_no_random_effect_to_draw(draw: Any) -> None:
    X, Y, _ = data()
    with pytest.raises(ValueError, match="no random effect"):
        draw(jaxlmm.fit(X, Y))


@pytest.mark.parametrize("draw", [plots.forest, plots.caterpillar])
def test_bad_level(draw: Any, fit: jaxlmm.Fit) -> None:
    with pytest.raises(ValueError, match="level must lie between 0 and 1, found 95"):
        draw(fit, 0, level=95)


def test_colours_differ_for_colour_blind_readers() -> None:
    # Viénot, Brettel & Mollon (1999): linear RGB as protanopes and deuteranopes see it.
    seen = {
        "all": np.eye(3),
        "protan": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
        "deutan": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
    }
    for matrix in seen.values():
        rgb = np.array([to_rgb(color) for color in (ABOVE, BELOW, GREY)]) ** 2.2
        shown = np.clip(rgb @ matrix.T, 0, 1) ** (1 / 2.2)
        distance = np.linalg.norm(shown[:, None] - shown[None], axis=-1)[np.triu_indices(3, 1)]
        assert distance.min() > 0.25
    assert ABOVE in CATEGORIES and BELOW in CATEGORIES and len(set(CATEGORIES)) == len(CATEGORIES)


# -- forest -----------------------------------------------------------------------------------


def test_forest_of_one_response(fit: jaxlmm.Fit, ax: Any) -> None:
    plots.forest(fit, "y1", level=0.9, ax=ax)
    (points,) = markers(ax)
    np.testing.assert_array_equal(points.get_xdata(), fit.coef[1, 1:])  # less the intercept
    np.testing.assert_array_equal(points.get_ydata(), [0, 1])
    limits = fit.conf_int(0.9)[1, 1:]
    np.testing.assert_allclose(segments(ax.collections[0])[:, :, 0], limits, rtol=1e-12)
    np.testing.assert_array_equal(segments(ax.collections[0])[:, :, 1], [[0, 0], [1, 1]])
    assert tick_texts(ax.yaxis) == ["a", "b"] and ax.get_ylim() == (1.5, -0.5)
    assert ax.get_xlabel() == "Effect on y1, 90 % interval" and ax.get_legend() is None
    (zero,) = lines(ax, "--")
    assert list(zero.get_xdata()) == [0, 0]


def test_forest_of_several_responses_on_one_scale(fit: jaxlmm.Fit, ax: Any) -> None:
    plots.forest(fit, ["y4", "y0", "y2"], terms=["b", "Intercept", 1], facet=False, ax=ax)
    rows, columns = [4, 0, 2], [2, 0, 1]
    points = markers(ax)
    assert len(points) == 3
    for i, line in enumerate(points):
        np.testing.assert_array_equal(line.get_xdata(), fit.coef[rows[i], columns])
        np.testing.assert_allclose(line.get_ydata(), np.arange(3) + (i - 1) * 0.25)
        bars = segments(ax.collections[i])
        np.testing.assert_allclose(bars[:, :, 0], fit.conf_int()[rows[i], columns], rtol=1e-12)
        np.testing.assert_allclose(bars[:, 0, 1], line.get_ydata())
        assert same_color(line.get_color(), CATEGORIES[i])
        assert same_color(ax.collections[i].get_color()[0, :3], CATEGORIES[i])
    assert len({line.get_marker() for line in points}) == 3
    assert tick_texts(ax.yaxis) == ["b", "Intercept", "a"]
    assert legend_texts(ax) == ["y4", "y0", "y2"] and ax.get_xlabel() == "Effect, 95 % interval"
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1  # above the axes


def test_forest_has_a_panel_with_its_own_scale_for_each_term(fit: jaxlmm.Fit, ax: Any) -> None:
    scaled = dataclasses.replace(fit, coef=fit.coef * [1, 1, 1000], se_gls=fit.se_gls * [1, 1, 1000])
    plots.forest(scaled, ["y4", "y0", "y2"], ax=ax)
    left, right = ax.child_axes[:2]
    ax.figure.canvas.draw()
    for panel, column, title in ((left, 1, "a"), (right, 2, "b")):
        (found,) = markers(panel)
        np.testing.assert_array_equal(found.get_xdata(), scaled.coef[[4, 0, 2], column])
        np.testing.assert_array_equal(found.get_ydata(), [0, 1, 2])
        bars = segments(panel.collections[0])
        np.testing.assert_allclose(bars[:, :, 0], scaled.conf_int()[[4, 0, 2], column], rtol=1e-12)
        assert panel.get_title() == title and panel.get_ylim() == (2.5, -0.5)
        reach = np.abs(scaled.conf_int()[[4, 0, 2], column]).max()
        assert np.abs(panel.get_xlim()).max() < 1.2 * reach
    assert tick_texts(left.yaxis) == ["y4", "y0", "y2"] and ax.get_xlabel() == "Effect, 95 % interval"
    assert not right.yaxis.get_tick_params()["labelleft"]
    box, other = left.get_window_extent(), right.get_window_extent()
    assert box.x1 < other.x0 and box.y0 == other.y0


def test_forest_of_one_response_with_a_scale_for_each_term(fit: jaxlmm.Fit, ax: Any) -> None:
    plots.forest(fit, 1, facet=True, ax=ax)
    ax.figure.canvas.draw()
    for panel, column in zip(ax.child_axes, (1, 2), strict=True):
        np.testing.assert_array_equal(markers(panel)[0].get_xdata(), fit.coef[[1], column])
        assert tick_texts(panel.yaxis) == [fit.names[column]]
    upper, lower = (panel.get_window_extent() for panel in ax.child_axes)
    assert lower.y1 < upper.y0


def test_forest_of_one_term_lists_the_responses(fit: jaxlmm.Fit, ax: Any) -> None:
    plots.forest(fit, terms="a", ax=ax)
    np.testing.assert_array_equal(markers(ax)[0].get_xdata(), fit.coef[:, 1])
    assert tick_texts(ax.yaxis) == list(fit.response_names) and ax.get_xlabel() == "Effect of a, 95 % interval"


def test_forest_takes_all_responses_that_it_can_show(fit: jaxlmm.Fit, holed: jaxlmm.Fit) -> None:
    assert legend_texts(plots.forest(fit, facet=False)) == list(fit.response_names)
    with pytest.raises(ValueError, match=r"response 'y2' has no fit"):
        plots.forest(holed)
    many = make_fit(61)
    with pytest.raises(ValueError, match="shows 1 to 60 responses, found 61; choose with responses="):
        plots.forest(many)
    with pytest.raises(ValueError, match="shows 1 to 20 responses, found 21"):
        plots.forest(many, slice(21), facet=False)
    with pytest.raises(ValueError, match="shows 1 to 20 responses, found 0"):
        plots.forest(many, [])
    ax = plots.forest(many, slice(20), facet=False)
    styles = {(line.get_color(), line.get_marker()) for line in markers(ax)}
    assert len(styles) == 20  # all told apart
    legend, frame = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert frame.x0 - 1 <= legend.x0 and legend.x1 <= frame.x1 + 1  # as wide as the axes at most
    assert boxes_apart(ax.get_yticklabels())
    with pytest.raises(ValueError, match="terms is empty; the terms are 'Intercept', 'a', 'b'"):
        plots.forest(fit, 0, [])


def test_forest_of_a_model_of_the_mean_shows_it(singular: jaxlmm.Fit) -> None:
    ax = plots.forest(singular)
    assert tick_texts(ax.yaxis) == ["x0"]
    np.testing.assert_array_equal(markers(ax)[0].get_xdata(), singular.coef[0])


# -- stat_map ---------------------------------------------------------------------------------


def mesh(ax: Any) -> Any:
    return ax.collections[0]


def test_map_of_an_array(ax: Any) -> None:
    values = np.array([[1.0, -2.0, 3.0], [0.5, 0.0, -4.0]])
    plots.stat_map(values, x_label="Time (s)", y_label="Channel", value_label="t", ax=ax)
    np.testing.assert_array_equal(mesh(ax).get_array(), values)
    assert mesh(ax).get_clim() == (-4, 4)
    np.testing.assert_array_equal(mesh(ax).get_coordinates()[0, :, 0], [-0.5, 0.5, 1.5, 2.5])
    assert ax.get_xlim() == (-0.5, 2.5)
    assert ax.get_ylim() == (1.5, -0.5)  # the first row at the top
    assert ax.get_xlabel() == "Time (s)" and ax.get_ylabel() == "Channel"
    assert mesh(ax).colorbar.ax.get_ylabel() == "t" and mesh(ax).colorbar.extend == "neither"
    assert mesh(ax).get_cmap().name == "RdBu_r" and ax.get_legend() is None
    below, middle, above = (np.array(mesh(ax).to_rgba(v)[:3]) for v in (-4, 0, 4))
    assert below[2] > 0.3 > below[0] and above[0] > 0.3 > above[2] and middle.min() > 0.9  # blue, white, red
    assert all(float(tick).is_integer() for tick in ax.get_yticks())


def test_map_at_uneven_coordinates(ax: Any) -> None:
    values = np.arange(12.0).reshape(3, 4)
    plots.stat_map(values, x=[1, 2, 4, 8], y=[30, 20, 0], ax=ax)
    coordinates = mesh(ax).get_coordinates()
    np.testing.assert_array_equal(coordinates[0, :, 0], [0.5, 1.5, 3, 6, 10])
    np.testing.assert_array_equal(coordinates[:, 0, 1], [35, 25, 10, -10])
    assert ax.get_xlim() == (0.5, 10) and ax.get_ylim() == (-10, 35)  # numbers rise
    np.testing.assert_array_equal(mesh(ax).get_array(), values)


def test_map_with_names(ax: Any) -> None:
    plots.stat_map(np.ones((2, 3)), x=["p", "q", "r"], y=np.array(["Fz", "Cz"], dtype=object), ax=ax)
    assert tick_texts(ax.xaxis) == ["p", "q", "r"] and list(ax.get_xticks()) == [0, 1, 2]
    assert tick_texts(ax.yaxis) == ["Fz", "Cz"] and ax.get_ylim() == (1.5, -0.5)


def test_map_thins_names_that_would_touch() -> None:
    names = [f"channel {k}" for k in range(200)]
    ax = plots.stat_map(np.ones((200, 200)), x=names, y=names)
    ax.figure.canvas.draw()
    for axis, direction in ((ax.xaxis, "x"), (ax.yaxis, "y")):
        labels = axis.get_ticklabels()
        assert 3 <= len(labels) < 50 and boxes_apart(labels, direction)
        assert [label.get_text() for label in labels] == [names[int(k)] for k in axis.get_ticklocs()]


def border_length(mask: np.ndarray) -> int:
    """Unit edges between True and False, the outside being False."""
    padded = np.pad(mask, 1).astype(int)
    return int(np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum())


def test_contour_of_one_block(ax: Any) -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 2:4] = True
    plots.stat_map(np.ones((4, 5)), mask=mask, mask_label="p < 0.05", ax=ax)
    drawn = {tuple(sorted(map(tuple, line.tolist()))) for line in segments(ax.collections[1])}
    left, right, top, bottom = 1.5, 3.5, 0.5, 2.5
    assert drawn == {
        ((left, top), (right, top)), ((left, bottom), (right, bottom)),
        ((left, top), (left, bottom)), ((right, top), (right, bottom)),
    }  # fmt: skip
    assert legend_texts(ax) == ["p < 0.05"]
    assert same_color(ax.collections[1].get_color()[0], "black")


@pytest.mark.parametrize("seed", range(5))
def test_contour_follows_the_edges_of_cells(seed: int, ax: Any) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 9)) < 0.4
    mask[0, 0] = mask[-1, -1] = True  # at the border of the map
    x, y = np.cumsum(rng.uniform(0.5, 2, 9)), np.cumsum(rng.uniform(0.5, 2, 7))
    plots.stat_map(np.ones(mask.shape), x=x, y=y, mask=mask, ax=ax)
    coordinates = mesh(ax).get_coordinates()
    edges = [coordinates[0, :, 0], coordinates[:, 0, 1]]
    total = 0
    crossings = np.zeros((8, 10, 2), dtype=int)  # unit edges drawn from each corner, rightwards and upwards
    for line in segments(ax.collections[1]):
        # Corners of cells, to the last bit.
        (x0, x1), (y0, y1) = ([int(np.flatnonzero(edges[d] == v)[0]) for v in line[:, d]] for d in (0, 1))
        assert (x0 == x1) != (y0 == y1)
        total += abs(x1 - x0) + abs(y1 - y0)
        if y0 == y1:
            crossings[y0, min(x0, x1) : max(x0, x1), 0] += 1
        else:
            crossings[min(y0, y1) : max(y0, y1), x0, 1] += 1
    padded = np.pad(mask, 1).astype(int)
    np.testing.assert_array_equal(crossings[:, :9, 0], np.abs(np.diff(padded, axis=0))[:, 1:-1])
    np.testing.assert_array_equal(crossings[:7, :, 1], np.abs(np.diff(padded, axis=1))[1:-1])
    assert total == border_length(mask)


def test_contour_of_everything_and_of_nothing(ax: Any) -> None:
    plots.stat_map(np.ones((2, 3)), mask=np.ones((2, 3), dtype=bool), ax=ax)
    assert len(segments(ax.collections[1])) == 4
    other = plots.stat_map(np.ones((2, 3)), mask=np.zeros((2, 3), dtype=bool))
    assert len(other.collections) == 1 and other.get_legend() is None


def test_cells_without_a_value_are_hatched_and_counted(ax: Any) -> None:
    values = np.array([[1.0, np.nan, 3.0], [np.inf, 0.0, -2.0]])
    plots.stat_map(values, ax=ax)
    np.testing.assert_array_equal(mesh(ax).get_array().mask, ~np.isfinite(values))
    assert mesh(ax).get_clim() == (-3, 3)
    (patch,) = ax.patches
    assert patch.get_hatch() and patch.get_zorder() < mesh(ax).get_zorder()
    assert (patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()) == (-0.5, -0.5, 3, 2)
    assert legend_texts(ax) == ["no value: 2"]
    assert ax.get_legend().get_patches()[0].get_hatch() == patch.get_hatch()
    # As pixels: grey where there is no value, the colour of the map elsewhere.
    ax.figure.canvas.draw()
    pixels = np.asarray(ax.figure.canvas.buffer_rgba())[:, :, :3] / 255.0
    for (row, col), value in np.ndenumerate(values):
        x, y = ax.transData.transform([[col - 0.4, row + 0.4], [col + 0.4, row - 0.4]]).T.astype(int)
        cell = pixels[pixels.shape[0] - y[1] : pixels.shape[0] - y[0], x[0] : x[1]].reshape(-1, 3)
        spread = np.ptp(cell, axis=1).max()
        if np.isfinite(value):
            np.testing.assert_allclose(cell, np.tile(mesh(ax).to_rgba(value)[:3], (len(cell), 1)), atol=0.01)
        else:
            assert spread < 0.02 and 0.4 < cell.min() < 0.8 < cell.max() < 0.95


@pytest.mark.parametrize("values", [np.full((2, 2), np.nan), np.zeros((2, 2))])
def test_map_of_nothing(values: np.ndarray, ax: Any) -> None:
    plots.stat_map(values, ax=ax)
    assert mesh(ax).get_clim() == (-1, 1)
    ax.figure.canvas.draw()


def test_map_with_a_limit_says_that_colours_are_cut(ax: Any) -> None:
    plots.stat_map([[1, -9]], limit=2, ax=ax)
    assert mesh(ax).get_clim() == (-2, 2) and mesh(ax).colorbar.extend == "both"
    for limit in (0, -1, np.inf, np.nan):
        with pytest.raises(ValueError, match="limit must be a positive number"):
            plots.stat_map([[1, -9]], limit=limit)


def test_map_of_masked_values_and_of_one_cell(ax: Any) -> None:
    plots.stat_map(np.ma.masked_array([[7.0]], mask=[[False]]), x=[3], y=[2], ax=ax)
    assert ax.get_xlim() == (2.5, 3.5) and ax.get_ylim() == (1.5, 2.5)
    masked = plots.stat_map(np.ma.masked_array([[7.0, 99.0]], mask=[[False, True]]))
    assert mesh(masked).get_clim() == (-7, 7) and legend_texts(masked) == ["no value: 1"]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.ones(3), {}, r"2 dimensions, found shape \(3,\)"),
        (np.ones((2, 2, 2)), {}, "2 dimensions"),
        (np.ones((0, 2)), {}, "2 dimensions"),
        ([["a", "b"]], {}, "must be numbers"),
        (np.ones((2, 3)), {"x": [1, 2]}, r"x has shape \(2,\), values have 3 columns"),
        (np.ones((2, 3)), {"y": [1, 2, 3]}, r"y has shape \(3,\), values have 2 rows"),
        (np.ones((2, 3)), {"x": [1, 3, 2]}, "x must increase or decrease"),
        (np.ones((2, 3)), {"x": [1, 1, 2]}, "x must increase or decrease"),
        (np.ones((2, 3)), {"x": [1, np.nan, 2]}, "x must increase or decrease"),
        (np.ones((2, 3)), {"x": [True, False, True]}, "x must be numbers or names"),
        (np.ones((2, 3)), {"mask": np.ones((3, 2), dtype=bool)}, r"mask has shape \(3, 2\), values \(2, 3\)"),
        (np.ones((2, 3)), {"mask": np.ones((2, 3))}, "mask must be boolean, such as p <= 0.05; found dtype float64"),
    ],
)
def test_maps_that_are_refused(values: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.stat_map(values, **options)
    assert plt.get_fignums() == []


class Labelled:
    """The parts of xarray.DataArray that stat_map may rely on."""

    def __init__(self, values: Any, dims: tuple[str, ...] = (), coords: Any = None, name: Any = None, **attrs: str):
        self.values, self.dims, self.coords, self.name, self.attrs = values, dims, coords or {}, name, attrs

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.values, dtype=dtype)

    def transpose(self, *dims: str) -> Labelled:
        return Labelled(np.transpose(self.values, [self.dims.index(d) for d in dims]), dims)


def data_array(kind: str, *arguments: Any, **attrs: str) -> Any:
    if kind == "stand-in":
        return Labelled(*arguments, **attrs)
    xarray = pytest.importorskip("xarray")
    values, dims, coords, name = arguments
    bare = {key: xarray.Variable((key,), c.values, c.attrs) for key, c in coords.items()}
    return xarray.DataArray(values, bare, dims, name, attrs)


@pytest.mark.parametrize("kind", ["stand-in", "xarray"])
def test_map_of_a_data_array(kind: str, ax: Any) -> None:
    values = np.arange(6.0).reshape(2, 3)
    coords = {
        "time": Labelled(np.array([0.0, 1, 3]), ("time",), long_name="Time", units="ms"),
        "channel": Labelled(np.array(["Fz", "Cz"]), ("channel",)),
    }
    array = data_array(kind, values, ("channel", "time"), coords, "t", units="1")
    mask = data_array(kind, (values > 4).T, ("time", "channel"), {}, None)
    plots.stat_map(array, mask=mask, ax=ax)
    assert ax.get_xlabel() == "Time (ms)" and ax.get_ylabel() == "channel"
    assert mesh(ax).colorbar.ax.get_ylabel() == "t (1)"
    np.testing.assert_array_equal(mesh(ax).get_coordinates()[0, :, 0], [-0.5, 0.5, 2, 4])
    np.testing.assert_array_equal(mesh(ax).get_array(), values)
    assert tick_texts(ax.yaxis) == ["Fz", "Cz"]
    corners = segments(ax.collections[1]).reshape(-1, 2)
    assert corners.min(axis=0).tolist() == [2, 0.5] and corners.max(axis=0).tolist() == [4, 1.5]
    # What is given goes first.
    other = plots.stat_map(array, x=[5, 6, 7], x_label="n", y_label="", value_label="z")
    assert (other.get_xlabel(), other.get_ylabel()) == ("n", "") and other.get_xlim() == (4.5, 7.5)
    assert mesh(other).colorbar.ax.get_ylabel() == "z"
    bare = plots.stat_map(data_array(kind, values, ("channel", "time"), {}, None))
    assert (bare.get_xlabel(), bare.get_ylabel()) == ("time", "channel") and bare.get_xlim() == (-0.5, 2.5)
    with pytest.raises(ValueError, match="2 dimensions"):
        plots.stat_map(data_array(kind, values[0], ("time",), {}, None))


def test_plots_do_not_import_xarray() -> None:
    code = "import sys, jaxlmm.plots; sys.exit(bool({'pandas', 'xarray', 'statsmodels'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- volcano ----------------------------------------------------------------------------------


def with_values(fit: Any, coef: Any, pvalue: Any) -> Any:
    """The parts of a fit that volcano and pvalue_histogram read, with the given numbers for term "a"."""
    coef, pvalue = (np.asarray(v, dtype=np.float64) for v in (coef, pvalue))
    m = len(coef)
    zeros = np.zeros(m)
    return SimpleNamespace(
        names=fit.names,
        response_names=tuple(f"y{j}" for j in range(m)),
        coef=np.column_stack([zeros, coef, zeros]),
        pvalue=np.column_stack([zeros, pvalue, zeros]),
        labels=Labels.of_matrix(m),
        neglog10p=np.full((m, 3), 400.0),  # where p is 0
        converged=~np.isnan(pvalue),
        n_responses=m,
    )


def points(ax: Any) -> list[np.ndarray]:
    return [np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)]


@pytest.mark.parametrize("adjust", ["bh", "none", "Holm"])
def test_volcano(adjust: str, ax: Any) -> None:
    fit = make_fit(40)
    assert plots.volcano(fit, "a", adjust=adjust, alpha=0.01, ax=ax) is ax
    coef, p = fit.coef[:, 1], fit.pvalue[:, 1]
    significant = jaxlmm.adjust_pvalues(p, adjust) <= 0.01
    where = [~significant, significant & (coef < 0), significant & (coef > 0)]
    assert all(w.any() for w in where), "or the colours test nothing"
    for found, w, collection, color in zip(points(ax), where, ax.collections, [GREY, BELOW, ABOVE], strict=True):
        np.testing.assert_array_equal(found[:, 0], coef[w])
        np.testing.assert_allclose(found[:, 1], -np.log10(p[w]), rtol=1e-14)
        assert same_color(collection.get_facecolor()[0, :3], color) and not collection.get_rasterized()
    counts = [int(w.sum()) for w in where]
    said = {"bh": "BH-adjusted", "none": "unadjusted", "Holm": "Holm-adjusted"}[adjust]
    assert legend_texts(ax) == [
        f"above 0: {counts[2]}", f"below 0: {counts[1]}", f"not significant: {counts[0]}", f"{said} p = 0.01",
    ]  # fmt: skip
    (line,) = lines(ax, ":")
    (level,) = set(line.get_ydata())
    assert (-np.log10(p[significant])).min() >= level > (-np.log10(p[~significant])).max()
    k = int(significant.sum())
    assert level == pytest.approx(-np.log10({"bh": 0.01 * k / 40, "none": 0.01, "Holm": 0.01 / (40 - k)}[adjust]))
    assert ax.get_xlabel() == "Effect of a" and "log" in ax.get_ylabel()
    low, high = ax.get_xlim()
    assert low == -high and high > np.abs(coef).max()
    # No point is under the legend.
    top = ax.transData.transform((0, max(f[:, 1].max() for f in points(ax))))[1]
    assert top < ax.get_legend().get_window_extent().y0


def test_volcano_of_p_zero_and_of_missing_responses(fit: jaxlmm.Fit, ax: Any) -> None:
    stub = with_values(fit, [1.0, -2.0, np.nan, 0.1, np.nan], [0.0, 1e-310, np.nan, 0.5, np.nan])
    plots.volcano(stub, "a", ax=ax)
    other, below, above = points(ax)
    np.testing.assert_allclose(above, [[1.0, 400.0]])  # by the logarithm of the tail
    np.testing.assert_allclose(below, [[-2.0, 310]])
    np.testing.assert_allclose(other, [[0.1, -np.log10(0.5)]])
    assert legend_texts(ax)[4:] == ["without a fit: 2"]


def test_volcano_counts_what_did_not_converge_as_missing(fit: jaxlmm.Fit, ax: Any) -> None:
    status = fit.status.copy()
    status[1] = jaxlmm.Status.NOT_CONVERGED  # has numbers, which are not to be used
    partly = dataclasses.replace(fit, status=status)
    assert np.isfinite(partly.pvalue[1]).all()
    plots.volcano(partly, "a", ax=ax)
    shown = np.concatenate(points(ax))[:, 0]
    assert sorted(shown) == sorted(np.delete(fit.coef[:, 1], 1))
    assert legend_texts(ax)[-1] == "without a fit: 1"


def test_volcano_of_no_response(fit: jaxlmm.Fit, ax: Any) -> None:
    plots.volcano(with_values(fit, [np.nan] * 3, [np.nan] * 3), "a", label_top=2, ax=ax)
    assert legend_texts(ax)[-1] == "without a fit: 3" and not ax.texts
    ax.figure.canvas.draw()


def test_volcano_names_the_smallest_p_without_overlap() -> None:
    fit = make_fit(40)
    coef, p = fit.coef[:, 1], fit.pvalue[:, 1]
    ax = plots.volcano(fit, "a", label_top=14)
    ax.figure.canvas.draw()
    smallest = np.argsort(p)[:14]
    assert {text.get_text() for text in ax.texts} == {fit.response_names[j] for j in smallest}
    sides: list[list[Any]] = [[], []]
    for text in ax.texts:
        j = fit.response_names.index(text.get_text())
        assert text.xy == (coef[j], pytest.approx(-np.log10(p[j])))
        sides[int(coef[j] > 0)].append(text)
    assert all(len(side) > 3 for side in sides)
    extents = [[matplotlib.text.Text.get_window_extent(text) for text in side] for side in sides]
    for boxes in extents:
        boxes.sort(key=lambda box: box.y0)
        assert all(a.y1 <= b.y0 for a, b in itertools.pairwise(boxes))
    frame = ax.get_window_extent()
    pixels = ax.transData.transform(np.column_stack([coef, -np.log10(p)]))
    for box in [box for boxes in extents for box in boxes]:
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        assert not any(box.contains(*pixel) for pixel in pixels)
        assert not box.overlaps(ax.get_legend().get_window_extent())


def test_large_volcano_is_fast_and_drawn_as_pixels(fit: jaxlmm.Fit, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    m = 100_000
    stub = with_values(fit, rng.normal(size=m), rng.random(m) ** 8)
    start = time.perf_counter()
    ax = plots.volcano(stub, "a", label_top=10)
    ax.figure.savefig(tmp_path / "volcano.pdf")
    assert time.perf_counter() - start < 5
    assert sum(map(len, points(ax))) == m
    assert all(collection.get_rasterized() for collection in ax.collections)
    assert (tmp_path / "volcano.pdf").stat().st_size < 500_000


def test_bad_arguments_of_volcano(fit: jaxlmm.Fit) -> None:
    with pytest.raises(ValueError, match=r"adjust must be one of 'bh', .*, found 'fwer'"):
        plots.volcano(fit, "a", adjust="fwer")
    with pytest.raises(ValueError, match=r"adjust must be one of .*, found None"):
        plots.volcano(fit, "a", adjust=None)  # type: ignore[arg-type]
    for alpha in (0, 1, 5):
        with pytest.raises(ValueError, match=f"alpha must lie between 0 and 1, found {alpha}"):
            plots.volcano(fit, "a", alpha=alpha)
    with pytest.raises(ValueError, match="label_top must be 0 or more, found -1"):
        plots.volcano(fit, "a", label_top=-1)


@pytest.mark.parametrize("method", ["bh", "by", "bonferroni", "holm", "hochberg", "hommel", "none"])
@pytest.mark.parametrize("power", [1.0, 4.0, 12.0])
def test_the_threshold_lies_between_what_is_rejected_and_the_rest(method: str, power: float) -> None:
    p = np.random.default_rng(3).random(60) ** power
    rejected = jaxlmm.adjust_pvalues(p, method) <= 0.05
    level = threshold(60, int(rejected.sum()), method, 0.05, p[rejected].max() if rejected.any() else None)
    assert np.all(p[rejected] <= level) and np.all(p[~rejected] > level)


def test_volcano_of_tables(fit: jaxlmm.Fit, ax: Any) -> None:
    pytest.importorskip("pandas")
    plots.volcano(fit.tidy(), "a", ax=ax)
    expected = plots.volcano(fit, "a")
    for found, one in zip(points(ax), points(expected), strict=True):
        np.testing.assert_allclose(found, one, rtol=1e-12)
    assert legend_texts(ax) == legend_texts(expected)
    top = plots.volcano(fit.top("a", n=None))
    np.testing.assert_allclose(
        np.sort(np.concatenate(points(top))[:, 0]), np.sort(np.concatenate(points(expected))[:, 0]), rtol=1e-12
    )
    assert top.get_xlabel() == "Estimate"
    np.testing.assert_array_equal(markers(plots.forest(fit.tidy(), terms="b"))[0].get_xdata(), fit.coef[:, 2])
    with pytest.raises(ValueError, match="the table has no column 'statistic': it is no table of effects"):
        plots.volcano(fit.tidy().drop(columns="statistic"), "a")
    with pytest.raises(ValueError, match="was it sorted or cut"):
        plots.volcano(fit.tidy(effects="fixed").sort_values("term"), "a")
    with pytest.raises(ValueError, match=r"fit must be a Fit, or a table such as fit.tidy\(\), found 3"):
        plots.volcano(3, "a")


# -- histograms -------------------------------------------------------------------------------


def bars(ax: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left ends, widths and heights."""
    return tuple(np.array([getattr(p, f"get_{what}")() for p in ax.patches]) for what in ("x", "width", "height"))


def test_pvalue_histogram(fit: jaxlmm.Fit, ax: Any) -> None:
    p = np.array([0.0, 0.01, 0.05, 0.12, 0.5, 0.99, 1.0, np.nan, np.nan])
    plots.pvalue_histogram(with_values(fit, p * 0, p), "a", bins=10, ax=ax)
    left, width, height = bars(ax)
    np.testing.assert_allclose(left, np.arange(10) / 10, atol=1e-15)
    np.testing.assert_allclose(width, 0.1)
    np.testing.assert_array_equal(height, [3, 1, 0, 0, 0, 1, 0, 0, 0, 2])
    (level,) = lines(ax, "--")
    np.testing.assert_allclose(level.get_ydata(), 0.7)  # 7 p-values in 10 bins
    assert legend_texts(ax) == ["uniform: no effects", "without a fit: 2"]
    assert ax.get_xlim() == (0, 1) and ax.get_xlabel() == "p-value of a"
    assert ax.transData.transform((0, 3))[1] < ax.get_legend().get_window_extent().y0


def test_pvalue_histogram_of_a_fit(holed: jaxlmm.Fit, ax: Any) -> None:
    plots.pvalue_histogram(holed, 2, ax=ax)
    np.testing.assert_array_equal(bars(ax)[2], np.histogram(np.delete(holed.pvalue[:, 2], 2), 20, (0, 1))[0])
    assert legend_texts(ax)[-1] == "without a fit: 1"
    for bins in (0, -1, 2.5, True, "auto"):
        with pytest.raises(ValueError, match="bins must be a whole number, at least 1"):
            plots.pvalue_histogram(holed, "a", bins=bins)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="bins must be a whole number, at least 1"):
            plots.icc_distribution(holed, bins=bins)  # type: ignore[arg-type]


def test_icc_distribution(ax: Any) -> None:
    X, Y, groups = data(60, each=3)
    # Without differences between groups, about half of the fits are singular.
    Y[:, :40] -= np.array([Y[groups == g, :40].mean(axis=0) for g in groups]) * 0.9
    Y[:, 3] = np.nan
    fit = jaxlmm.fit(X, Y, groups, group_name="subject")
    n_singular, n_fitted = int(fit.singular.sum()), int(fit.converged.sum())
    assert 5 < n_singular < n_fitted == 59
    plots.icc_distribution(fit, bins=12, ax=ax)
    positive = fit.icc[fit.converged & ~fit.singular]
    left, width, height = bars(ax)
    np.testing.assert_array_equal(height, np.histogram(positive, 12, (0, positive.max()))[0])
    assert left[0] == 0 and left[-1] + width[-1] == pytest.approx(positive.max())
    (stem,) = ax.lines
    assert list(stem.get_xdata()) == [0, 0] and list(stem.get_ydata()) == [0, n_singular]
    assert same_color(stem.get_color(), ABOVE) and same_color(ax.patches[0].get_facecolor(), BELOW)
    assert legend_texts(ax) == [
        f"group variance above 0: {len(positive)}",
        f"singular fits, ICC = 0: {n_singular} ({100 * n_singular / 59:.1f} %)",
        "without a fit: 1",
    ]
    assert ax.get_xlabel() == "Intraclass correlation of subject"
    top = ax.transData.transform((0, max(n_singular, height.max())))[1]
    assert top < ax.get_legend().get_window_extent().y0


def test_icc_distribution_of_singular_fits_only_and_of_none(singular: jaxlmm.Fit, fit: jaxlmm.Fit) -> None:
    ax = plots.icc_distribution(singular)
    assert bars(ax)[2].sum() == 0 and legend_texts(ax)[1] == "singular fits, ICC = 0: 1 (100 %)"
    assert not fit.singular.any()
    assert not plots.icc_distribution(fit).lines


# -- one response -----------------------------------------------------------------------------


def test_caterpillar(fit: jaxlmm.Fit, ax: Any) -> None:
    plots.caterpillar(fit, "y3", level=0.8, ax=ax)
    order = np.argsort(blups(fit)[3])
    (found,) = markers(ax)
    np.testing.assert_allclose(found.get_xdata(), blups(fit)[3, order], rtol=1e-12)
    np.testing.assert_array_equal(found.get_ydata(), np.arange(10))
    half = scipy.stats.norm.ppf(0.9) * blup_sd(fit)[3, order]
    intervals = segments(ax.collections[0])
    np.testing.assert_allclose(intervals[:, 0, 0], blups(fit)[3, order] - half, rtol=1e-12)
    np.testing.assert_allclose(intervals[:, 1, 0], blups(fit)[3, order] + half, rtol=1e-12)
    np.testing.assert_array_equal(intervals[:, :, 1], np.arange(10)[:, None] * [1, 1])
    assert tick_texts(ax.yaxis) == [fit.design.random[0].levels[k] for k in order]
    assert ax.get_ylabel() == "subject" and ax.get_xlabel() == "y3: random intercept, 80 % interval"
    assert ax.get_legend() is None


@pytest.mark.parametrize(("name", "labelled"), [("sleepstudy", True), ("orthodont", True), ("hsb82", False)])
def test_caterpillar_names_groups_where_there_is_room(name: str, labelled: bool) -> None:
    reference = load_reference(name)
    fit = jaxlmm.fit(reference.X, reference.y, reference.groups, group_name="unit")
    ax = plots.caterpillar(fit)
    ax.figure.canvas.draw()
    labels = ax.get_yticklabels()
    if labelled:
        assert len(labels) == fit.n_groups and boxes_apart(labels) and ax.get_ylabel() == "unit"
    else:
        assert not labels and ax.get_ylabel() == "unit (160, sorted)"
    assert len(markers(ax)[0].get_xdata()) == fit.n_groups


def test_caterpillar_makes_names_smaller_before_it_drops_them() -> None:
    fit = make_fit(n_groups=20, each=3)
    sizes, counts = [], []
    for height in (5.4, 4.4, 3.7, 2.0):  # inches; the axes take 0.77 of it
        ax = plots.caterpillar(fit, ax=plt.subplots(figsize=(4, height))[1])
        ax.figure.canvas.draw()
        labels = ax.get_yticklabels()
        assert boxes_apart(labels)
        sizes += [label.get_fontsize() for label in labels[:1]]
        counts.append(len(labels))
    assert counts == [20, 20, 20, 0] and sizes[0] == 10 and sizes[0] > sizes[1] > sizes[2] > 6


def test_groups_without_observations_are_left_out() -> None:
    X, Y, groups = data()
    Y[groups == "g4", 1] = np.nan
    Y[0, 1] = np.nan
    fit = jaxlmm.fit(X, Y, groups)
    assert fit.converged[1]
    keep = [k for k, level in enumerate(fit.design.random[0].levels) if level != "g4"]
    expected = np.sort(blups(fit)[1, keep])
    ax = plots.caterpillar(fit, 1)
    np.testing.assert_array_equal(markers(ax)[0].get_xdata(), expected)
    sd = blup_sd(fit)[1, keep][np.argsort(blups(fit)[1, keep])]
    assert np.ptp(sd) > 0.001  # group g0 has an observation less
    widths = np.ptp(segments(ax.collections[0])[:, :, 0], axis=1)
    np.testing.assert_allclose(widths, 2 * scipy.stats.norm.ppf(0.975) * sd, rtol=1e-12)
    assert sorted(tick_texts(ax.yaxis)) == sorted(set(groups) - {"g4"})
    np.testing.assert_array_equal(points(plots.qq_plot(fit, 1, what="ranef"))[0][:, 1], expected)
    resid = fit.resid()[:, 1]
    known = np.isfinite(resid)
    assert known.sum() == len(X) - 9
    np.testing.assert_allclose(points(plots.qq_plot(fit, 1))[0][:, 1], np.sort(resid[known]), rtol=1e-12)
    np.testing.assert_allclose(points(plots.residual_plot(fit, 1))[0][:, 1], resid[known], rtol=1e-12)


@pytest.mark.parametrize("draw", [plots.caterpillar, lambda fit: plots.qq_plot(fit, what="ranef")])
def test_singular_fits_are_noted(draw: Any, singular: jaxlmm.Fit) -> None:
    ax = draw(singular)
    assert legend_texts(ax)[-1] == "singular fit: group variance 0"
    ax.figure.canvas.draw()


def test_residual_plot(fit: jaxlmm.Fit, ax: Any) -> None:
    plots.residual_plot(fit, "y2", ax=ax)
    fitted, resid = fit.fitted()[:, 2], fit.resid()[:, 2]
    np.testing.assert_allclose(points(ax)[0], np.column_stack([fitted, resid]), rtol=1e-12)
    (mean,) = lines(ax, "-")
    order = np.argsort(fitted).reshape(8, 10)  # 80 observations in 8 bins
    np.testing.assert_allclose(mean.get_xdata(), fitted[order].mean(axis=1))
    np.testing.assert_allclose(mean.get_ydata(), resid[order].mean(axis=1))
    assert same_color(mean.get_color(), ABOVE)
    assert ax.get_xlabel() == "Fitted y2" and ax.get_ylabel() == "Residual"
    (zero,) = lines(ax, "--")
    assert list(zero.get_ydata()) == [0, 0]
    assert legend_texts(ax) == ["mean of bins"]
    assert ax.transData.transform((0, resid.max()))[1] < ax.get_legend().get_window_extent().y0


def test_residual_plot_of_few_distinct_fitted_values(ax: Any) -> None:
    X, Y, groups = data(n_groups=5, each=20)
    fit = jaxlmm.fit(X[:, :1], Y, groups)  # one fitted value per group
    plots.residual_plot(fit, ax=ax)
    (mean,) = lines(ax, "-")
    fitted, resid = fit.fitted()[:, 0], fit.resid()[:, 0]
    values, members = np.unique(fitted, return_inverse=True)
    assert len(values) == 5
    np.testing.assert_allclose(mean.get_xdata(), values)  # equal fitted values share a bin
    np.testing.assert_allclose(mean.get_ydata(), [resid[members == k].mean() for k in range(5)])


def test_residual_plot_of_few_observations_has_no_line(singular: jaxlmm.Fit, ax: Any) -> None:
    assert singular.n_obs == 30
    plots.residual_plot(singular, ax=ax)
    assert not lines(ax, "-") and len(points(ax)[0]) == 30


def test_residuals_of_a_weighted_fit_are_brought_to_one_scale() -> None:
    X, Y, groups = data()
    weights = np.random.default_rng(1).uniform(0.2, 5, len(X))
    fit = jaxlmm.fit(X, Y, groups, weights=weights)
    scaled = fit.resid()[:, 0] * np.sqrt(weights)
    ax = plots.residual_plot(fit)
    np.testing.assert_allclose(points(ax)[0][:, 1], scaled, rtol=1e-12)
    other = plots.qq_plot(fit)
    np.testing.assert_allclose(points(other)[0][:, 1], np.sort(scaled), rtol=1e-12)
    assert ax.get_ylabel() == "Residual × √weight" and other.get_ylabel() == "y0: residual × √weight"


@pytest.mark.parametrize(("what", "n"), [("resid", 80), ("ranef", 10)])
def test_qq_plot(what: str, n: int, fit: jaxlmm.Fit, ax: Any) -> None:
    plots.qq_plot(fit, 1, what=what, ax=ax)
    values = np.sort(fit.resid()[:, 1] if what == "resid" else blups(fit)[1])
    (found,) = points(ax)
    np.testing.assert_allclose(found[:, 1], values, rtol=1e-12)
    # R: ppoints(n) is (1:n - a) / (n + 1 - 2 a), a = 3/8 up to n = 10.
    probability = (np.arange(1, n + 1) - 0.375) / (n + 0.25) if n <= 10 else (np.arange(1, n + 1) - 0.5) / n
    np.testing.assert_allclose(scipy.stats.norm.cdf(found[:, 0]), probability, rtol=1e-12)
    (line,) = ax.lines
    x, y = np.array(line.get_xy1()), line.get_slope()
    for q in (0.25, 0.75):
        at = x[1] + y * (scipy.stats.norm.ppf(q) - x[0])
        assert at == pytest.approx(np.quantile(values, q))
    label = "residual" if what == "resid" else "random intercept, subject"
    assert ax.get_xlabel() == "Normal quantile" and ax.get_ylabel() == f"y1: {label}"
    low, high = normal_band(n)
    band = ax.collections[0].get_paths()[0].vertices
    for limit in (low, high):
        edge = np.column_stack([found[:, 0], x[1] + y * (limit - x[0])])
        assert all(np.abs(band - corner).sum(axis=1).min() < 1e-9 for corner in edge)
    outside = np.sum((values < x[1] + y * (low - x[0])) | (values > x[1] + y * (high - x[0])))
    assert legend_texts(ax) == ["95 % band, simultaneous", f"{outside} of {n} outside"]


def test_qq_plot_counts_what_leaves_the_band(fit: jaxlmm.Fit) -> None:
    Y = np.array(fit.Y)
    Y[3, 0] += 40  # an outlier
    again = jaxlmm.fit(fit.design.X, Y, np.array(fit.design.random[0].levels)[fit.design.random[0].codes])
    assert int(legend_texts(plots.qq_plot(again, 0))[1].split()[0]) >= 1
    assert legend_texts(plots.qq_plot(fit, 0))[1] == "0 of 80 outside"


def test_qq_plot_of_something_else(fit: jaxlmm.Fit) -> None:
    with pytest.raises(ValueError, match="what must be one of 'resid', 'ranef', found 'residuals'"):
        plots.qq_plot(fit, what="residuals")


# -- the gallery ------------------------------------------------------------------------------


def test_gallery(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-W", "error", str(GALLERY), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    pictures = sorted(tmp_path.glob("*.png"))
    committed = sorted((GALLERY.parent.parent / "docs" / "figures").glob("*.png"))
    assert {p.name for p in pictures} <= {p.name for p in committed}
    names = {picture.stem.replace("qq_resid", "qq_plot").replace("qq_ranef", "qq_plot") for picture in pictures}
    assert names == set(DRAWINGS)
    for picture in pictures:
        assert picture.stat().st_size < 100_000
        assert min(plt.imread(picture).shape[:2]) > 200
