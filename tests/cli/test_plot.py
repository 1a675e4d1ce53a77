"""The command line draws what ``jaxlmm fit`` wrote: every kind of picture, of every kind of file that is enough."""

from __future__ import annotations

import inspect
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

import jaxlmm
from jaxlmm import plots
from jaxlmm.cli.cli import main, plot
from jaxlmm.cli.kinds import IN_PYTHON, KINDS

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")
xr = pytest.importorskip("xarray")
pytest.importorskip("zarr")

TABLE = Path(__file__).parents[2] / "docs" / "bad-input.md"
CHANNELS = ["Fz", "C3", "Pz", "O2"]
TIMES = np.arange(5) / 10 - 0.1
RARE = "cond[T.rare]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that ``jaxlmm fit`` writes of a long table, and the responses as an array."""
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(8), 8)
    frame = pd.DataFrame({
        "subject": [f"s{k}" for k in subject], "cond": np.tile(["frequent", "rare"], 32),
        "age": rng.integers(20, 60, 64).astype(float),
    })  # fmt: skip
    Y = rng.normal(size=(64, 4, 5)) + rng.normal(size=(8, 4, 5))[subject]
    Y[:, 2, 3] += 4.0 * (frame["cond"] == "rare").to_numpy()
    made = tmp_path_factory.mktemp("plot")
    parts = [
        frame.assign(trial=np.arange(64), channel=c, time=t, y=Y[:, j, k])
        for j, c in enumerate(CHANNELS) for k, t in enumerate(TIMES)
    ]  # fmt: skip
    pd.concat(parts).to_csv(made / "long.csv", index=False)
    code, text = run(
        "fit", made / "long.csv", "--formula", "y ~ cond * age + (1 | subject)", "--by", "channel", "--by", "time",
        "--obs", "trial", "--out", made / "r.csv", "--save", made / "fit.npz", "--no-progress",
    )  # fmt: skip
    assert code == 0, text
    fit = jaxlmm.load(made / "fit.npz")
    fit.save(made / "r.zarr")
    np.save(made / "y.npy", Y)
    np.save(made / "other.npy", Y + 1)
    peak = fit.sel(channel="Pz").sel(time=0.2, method="nearest")
    peak.emmeans("cond").tidy().to_csv(made / "means.csv", index=False)
    return made


@pytest.fixture(scope="module")
def fit(folder: Path) -> jaxlmm.Fit:
    return jaxlmm.load(folder / "fit.npz")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Figures that are written."""
    kept: list[Any] = []
    save = Figure.savefig

    def keep(self: Any, *args: Any, **options: Any) -> None:
        kept.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    yield kept
    assert plt.get_fignums() == []


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def draw(folder: Path, name: str, kind: str, *more: object) -> tuple[int, str]:
    return run("plot", folder / name, "--kind", kind, *more, "--out", folder / "p.png", "--overwrite")


def axes(figure: Any) -> Any:
    return figure.axes[0]


# -- what is there ----------------------------------------------------------------------------------------


def test_the_help_says_of_each_kind_what_it_takes() -> None:
    code, text = run("plot", "--help")
    assert code == 0 and max(map(len, text.splitlines())) <= 80
    listed = text[text.index("Kinds, and") :]
    for name, kind in KINDS.items():
        said = re.search(rf"^    {name} .*(?:\n {{17}}.*)*", listed, re.M)
        assert said, name
        options = re.findall(r"--([a-z]+)(\.\.\.)?", said[0])
        implied = {"response"} if kind.takes.get("response") == "response" else set()
        assert {option for option, _ in options} | implied == set(kind.takes), name
        assert {option for option, dots in options if dots} == set(kind.several), name
    choices = next(p.type.choices for p in plot.params if p.name == "kind")  # type: ignore[attr-defined]
    assert list(choices) == [*KINDS, *IN_PYTHON]
    known = {str(p.name) for p in plot.params}
    assert {option for kind in KINDS.values() for option in kind.takes} <= known


def test_every_picture_of_a_fit_has_a_kind(fit: jaxlmm.Fit) -> None:
    assert {kind.picture for kind in KINDS.values()} == set(dir(fit.plot))
    for kind in KINDS.values():
        assert set(kind.takes.values()) <= set(inspect.signature(getattr(plots, kind.picture)).parameters)


# -- every kind, of every file that is enough ---------------------------------------------------------------

AT = ("--at", "channel=Pz", "--at", "time=0.2")
DRAWN: dict[str, tuple[Any, ...]] = {
    "volcano": ("--term", RARE, "--top", 2), "forest": ("--at", "time=0.2", "--term", RARE), "map": ("--term", RARE),
    "topomap": ("--term", RARE, "--positions", "biosemi32"), "pvalues": ("--term", RARE, "--bins", 5), "icc": (),
    "course": ("--term", RARE, "--at", "channel=Pz"), "lags": ("--at", "channel=Pz"),
    "erp": ("--variable", "cond", "--at", "channel=Pz", "--at", "age=30"),
    "means": ("--variable", "age", "--variable", "cond", *AT), "groups": ("--variable", "age", "--by", "cond", *AT),
    "caterpillar": AT, "residuals": AT, "qq": AT,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_drawn(kind: str, folder: Path, figures: list[Any]) -> None:
    if kind == "topomap":
        pytest.importorskip("mne")
    names = ["fit.npz", *([] if KINDS[kind].responses else ["r.zarr"]), *(["r.csv"] if KINDS[kind].tables else [])]
    pixels = set()
    for name in names:
        code, text = draw(folder, name, kind, *DRAWN[kind])
        assert code == 0 and text == f"{kind} -> {folder / 'p.png'}\n", text
        data = (folder / "p.png").read_bytes()
        assert len(data) > 5000
        pixels.add(struct.unpack(">II", data[16:24]))
    assert len(pixels) == 1  # of whatever file
    assert pixels.pop()[0] == int(85 / 25.4 * 300)  # a column
    if KINDS[kind].responses:
        code, text = draw(folder, "r.zarr", kind, *DRAWN[kind], "--array", folder / "y.npy")
        assert code == 0 and len(figures) == 2, text
        code, text = draw(folder, "r.zarr", kind, *DRAWN[kind], "--array", folder / "other.npy")
        assert code == 1 and "Y is not what was fitted" in text, text


def test_numbers_are_those_of_the_fit(fit: jaxlmm.Fit, folder: Path, figures: list[Any]) -> None:
    pz = fit.sel(channel="Pz")
    peak = pz.sel(time=0.2, method="nearest")
    draw(folder, "r.csv", "course", *DRAWN["course"], "--level", "0.9")
    np.testing.assert_allclose(axes(figures[-1]).lines[0].get_ydata(), pz.coef[:, 1], rtol=1e-9)
    texts = [text.get_text() for text in axes(figures[-1]).get_legend().get_texts()]
    assert texts == ["cond[rare]", "90 % interval, pointwise", "BH-adjusted p ≤ 0.05"]
    draw(folder, "r.zarr", "erp", *DRAWN["erp"])
    means = pz.emmeans("cond", at={"age": 30})
    for k in (0, 1):
        np.testing.assert_allclose(axes(figures[-1]).lines[k].get_ydata(), means.estimate[:, k], rtol=1e-9)
    draw(folder, "fit.npz", "means", "--variable", "cond", *AT, "--at", "age=25")
    found = peak.emmeans("cond", at={"age": 25}).estimate[0]
    np.testing.assert_allclose(axes(figures[-1]).lines[-1].get_ydata(), found, rtol=1e-9)
    draw(folder, "fit.npz", "qq", *AT, "--group", "subject")
    dots = axes(figures[-1]).collections[-1].get_offsets()[:, 1]
    np.testing.assert_allclose(dots, np.sort(peak.ranef()["subject"].modes[0, :, 0]), rtol=1e-9)
    code, text = draw(folder, "means.csv", "means")
    assert code == 0, text
    estimate = peak.emmeans("cond").estimate[0]
    np.testing.assert_allclose(axes(figures[-1]).lines[-1].get_ydata(), estimate, rtol=1e-9)


def test_a_label_may_be_given_more_than_once(fit: jaxlmm.Fit, folder: Path, figures: list[Any]) -> None:
    for name in ("fit.npz", "r.csv"):
        code, text = draw(
            folder, name, "forest", "--term", RARE, "--at", "time=0.19", "--at", "channel=O2", "--at", "channel=Fz"
        )
        assert code == 0, text
        found = fit.sel(channel=["O2", "Fz"]).sel(time=0.2, method="nearest").coef[:, 1]
        np.testing.assert_allclose(axes(figures[-1]).lines[0].get_xdata(), found, rtol=1e-9)


def test_the_first_response_is_drawn_and_named(folder: Path) -> None:
    code, text = draw(folder, "fit.npz", "residuals")
    assert code == 0 and text.startswith("residuals of 'Fz, -0.1', the first of 20 -> "), text
    code, text = draw(folder, "fit.npz", "residuals", "--response", "C3, 0.0")
    assert code == 0 and text.startswith("residuals -> "), text


# -- size, limits, labels -----------------------------------------------------------------------------------


def test_size_limits_and_units(folder: Path, figures: list[Any]) -> None:
    code, text = draw(
        folder, "fit.npz", "residuals", *AT, "--width", 120, "--height", 60, "--size", 7, "--units", "µV",
        "--xlim", -2, 8, "--ylim", 5, -5,
    )  # fmt: skip
    assert code == 0, text
    made = axes(figures[-1])
    np.testing.assert_allclose(figures[-1].get_size_inches(), np.array([120, 60]) / 25.4)
    assert made.get_xlim() == (-2, 8) and made.get_ylim() == (5, -5)
    assert made.get_xlabel().endswith("(µV)") and made.xaxis.label.get_fontsize() == 7
    code, text = draw(folder, "r.csv", "forest", "--at", "time=0.2", "--xlim", -3, 3)
    panels = [child for child in axes(figures[-1]).child_axes if child.axison]
    assert code == 0 and len(panels) == 3 and all(panel.get_xlim() == (-3, 3) for panel in panels)


def test_maps_show_any_value_with_colours_that_suit_it(fit: jaxlmm.Fit, folder: Path, figures: list[Any]) -> None:
    for value, ends in (
        ("statistic", None), ("coef", None), ("se", (0, fit.se[:, 1].max())), ("pvalue", (0, 1)),
        ("pvalue_adjusted", (0, 1)), ("neglog10p", (0, fit.neglog10p[:, 1].max())),
    ):  # fmt: skip
        code, text = draw(folder, "r.csv", "map", "--term", RARE, "--value", value)
        assert code == 0, text
        mesh = axes(figures[-1]).collections[0]
        largest = np.abs(mesh.get_array()).max()
        np.testing.assert_allclose(mesh.get_clim(), ends or (-largest, largest), rtol=1e-9)
    code, text = draw(folder, "fit.npz", "map", "--by", "cond")
    assert code == 1 and "--by is a dimension of responses with three" in text


# -- what is refused ------------------------------------------------------------------------------------------

BAD: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "kind of a permutation test": ("r.zarr", ("null", "--term", "age"), "is of a permutation test"),
    "table for residuals": ("r.csv", ("qq",), "needs more than a table of effects"),
    "table for means": ("r.csv", ("means", "--variable", "cond"), "or results in .zarr"),
    "results without responses": ("r.zarr", ("caterpillar",), "add --array with the file"),
    "observations that are not there": ("r.zarr", ("means", "--variable", "age", "--data"), "which --data needs"),
    "array beside a table": ("r.csv", ("volcano", "--array", "y.npy"), "--array goes with results in .zarr"),
    "no term of several": ("fit.npz", ("volcano",), "--kind volcano needs --term, one of Intercept"),
    "no variable": ("fit.npz", ("means",), "--kind means needs --variable, one of cond, age"),
    "unknown variable": ("fit.npz", ("means", "--variable", "dose"), "--variable names 'dose'"),
    "option of another kind": ("fit.npz", ("icc", "--term", "age"), "--kind icc takes no --term"),
    "several for one": ("fit.npz", ("volcano", "--term", "age", "--term", RARE), "--kind volcano takes one --term"),
    "several responses for one": (
        "fit.npz", ("qq", "--response", "Fz, 0.0", "--response", "Fz, 0.1"), "--kind qq takes one --response",
    ),
    "course of two dimensions": ("r.csv", ("course", "--term", "age"), "needs responses of one dimension"),
    "map of one dimension": ("r.csv", ("map", "--at", "time=0"), "needs responses of two dimensions"),
    "unknown dimension": ("r.csv", ("volcano", "--term", "age", "--at", "freq=3"), "of the dimensions channel, time"),
    "unknown label": ("fit.npz", ("qq", "--at", "channel=Xz"), "the labels of channel are Fz, C3, Pz, O2"),
    "label that is no number": ("fit.npz", ("qq", "--at", "time=early"), "the labels of time are numbers"),
    "unknown level": ("fit.npz", ("means", "--variable", "age", "--at", "cond=odd"), "its levels are frequent, rare"),
    "level that is no number": ("fit.npz", ("means", "--variable", "cond", "--at", "age=old"), "age is a number"),
    "scalp without positions": ("r.csv", ("topomap", "--term", "age"), "--kind topomap needs --positions"),
    "unknown montage": (
        "r.csv", ("topomap", "--term", "age", "--positions", "standard_2020"), "no file and no montage of MNE",
    ),
    "montage without a channel": (
        "r.csv", ("topomap", "--term", "age", "--positions", "GSN-HydroCel-32"), "has no channel 'Fz'",
    ),
    "unknown response": ("fit.npz", ("forest", "--term", RARE, "--response", "Fz, 9"), "no response is named"),
    "unknown random term": ("fit.npz", ("caterpillar", "--group", "item"), "there is no random term 'item'"),
    "limits that are one number": ("fit.npz", ("qq", "--xlim", 1, 1), "give two different numbers"),
    "units of a table of means": ("means.csv", ("means", "--units", "mV"), "does not go with a table of"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str, folder: Path, tmp_path: Path) -> None:
    name, (kind, *more), message = BAD[what]
    if "montage" in what:
        pytest.importorskip("mne")
    code, text = run("plot", folder / name, "--kind", kind, *more, "--out", tmp_path / "p.png")
    assert code == 1 and message in text and text.count("\n") == 1, text
    assert not list(tmp_path.iterdir()) and plt.get_fignums() == []
    section = TABLE.read_text().split("## The command jaxlmm plot\n")[1].split("\n## ")[0]
    row = next((row for row in section.splitlines() if what in row.partition(" | ")[0][2:].split(", ")), "")
    assert f"`{message}`" in row, "say so in docs/bad-input.md"


def test_the_call_for_a_permutation_test_draws(folder: Path, fit: jaxlmm.Fit) -> None:
    code, text = draw(folder, "fit.npz", "null", "--term", "age")
    call = re.search(r"in Python, (.*)\.\n", text)
    assert code == 1 and call, text
    assert call[1] == f"jaxlmm.permutation_test(jaxlmm.load('{folder / 'fit.npz'}'), 'age').plot.null_distribution()"
    test, method = call[1].removeprefix("jaxlmm.").partition("(")[0], call[1].rpartition(".")[2].removesuffix("()")
    assert callable(getattr(jaxlmm, test)) and callable(getattr(plots, method))


def test_where_the_picture_goes(folder: Path) -> None:
    for out, message in (
        ("p.xyz", "must end in .png, .pdf, .svg, .jpg"), ("no/p.png", "does not exist; make it first"),
        ("r.png", "add --overwrite"),
    ):  # fmt: skip
        (folder / "r.png").touch()
        code, text = run("plot", folder / "fit.npz", "--kind", "qq", "--out", folder / out)
        assert code == 1 and message in text and text.count("\n") == 1, text


def test_a_formula_in_a_file_is_code(folder: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(folder / "long.csv").query("channel == 'Fz' and time == 0.0")
    made = jaxlmm.lmm("y ~ cond + np.broadcast_to(age, 64) + (1 | subject)", frame)
    made.save(tmp_path / "f.npz", include_Y=True)
    code, text = draw(tmp_path, "f.npz", "means", "--variable", "cond")
    assert code == 1 and text.endswith("if you trust the file, give --trust-formula.\n"), text
    code, text = draw(tmp_path, "f.npz", "means", "--variable", "cond", "--trust-formula")
    assert "computes with whole columns" in text  # it was evaluated
