"""The pages of the documentation: their code runs, and the numbers beside it are what it gives."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxlmm

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ALL = sorted(path.name for path in DOCS.glob("*.md"))
# Characters of a line of code that the site shows without scrolling.
COLUMN = 88
NUMBER = r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.S | re.M)


PAGES = [name for name in ALL if blocks(name, "python")]


def half_a_digit(number: str) -> float:
    """Half a unit of the last digit that is written, and a little for what lies between two."""
    digits, _, power = number.partition("e")
    return 0.5001 * 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def check(value: Any, comment: str, code: str) -> bool:
    """Whether the comment states a value, and nothing else; it must be that of the code then."""
    try:
        stated = ast.literal_eval(comment)
    except (SyntaxError, ValueError):
        return False
    numbers = re.findall(NUMBER, comment)
    given = np.ravel(np.asarray(stated))
    if given.dtype.kind not in "if":
        assert value == stated, code
        return True
    found = np.ravel(np.asarray(value, dtype=np.float64))
    assert len(numbers) == len(given) == len(found), f"{code}: {found}"
    for one, other in zip(numbers, found, strict=True):
        assert abs(float(one) - other) <= half_a_digit(one), f"{code}: {other}, not {one}"
    return True


def run(name: str, names: dict[str, Any]) -> int:
    """Run the code of a page statement by statement; how many values in comments were right."""
    checked = 0
    for code in blocks(name, "python"):
        lines = code.splitlines()
        for node in ast.parse(code).body:
            if not isinstance(node, ast.Expr):
                exec(compile(ast.Module([node], []), name, "exec"), names)
                continue
            value = eval(compile(ast.Expression(node.value), name, "eval"), names)
            last = lines[int(node.end_lineno or node.lineno) - 1]
            checked += check(value, last[node.end_col_offset :].strip().removeprefix("#").strip(), last)
    return checked


def usage(names: dict[str, Any], folder: Path) -> None:
    assert names["fit"].n_responses == 64 and names["labelled"].n_responses == 400
    assert len(names["table"]) == 64 * 6 and np.array_equal(names["again"].coef, names["fit"].coef)
    assert names["ax"].get_xlabel() and (folder / "effects.csv").exists()


def mne(names: dict[str, Any], folder: Path) -> None:
    assert names["fit"].converged.all() and names["fit"].n_responses == 32 * 61
    assert names["evoked"].ch_names == names["info"].ch_names
    np.testing.assert_array_equal(names["evoked"].data, names["t"].values)


def from_lme4(names: dict[str, Any], folder: Path) -> None:
    at_40, fit = names["at_40"], names["fit"]
    assert at_40.estimate.shape == (50, 1)
    # fit is the one with missing values by now, so only the others are as they were
    rest = np.arange(50) != 2
    np.testing.assert_allclose(at_40.estimate[rest, 0], (fit.coef[:, 1] + 40 * fit.coef[:, 3])[rest])


def large(names: dict[str, Any], folder: Path) -> None:
    assert names["fit"].names == ("Intercept", "age") and (folder / "maps.zarr").is_dir()
    assert names["again"].identical(names["maps"]) and not (folder / "maps.zarr.part").exists()


def report(names: dict[str, Any], folder: Path) -> None:
    """The sentences that the page shows are those that its code prints."""
    shown = re.findall(r"(?:^> .*\n)+", page("report.md"), re.M)
    assert [quote.replace("> ", "").split() for quote in shown] == [names["methods"].split(), names["one"].split()]


def index(names: dict[str, Any], folder: Path) -> None:
    assert names["fit"].n_responses == 10_000 and names["t"].shape == (100, 100)


def install(names: dict[str, Any], folder: Path) -> None:
    assert names["jax"].devices()


def pictures(names: dict[str, Any], folder: Path) -> None:
    """All pictures there are, less those that other pages show."""
    from jaxlmm import plots

    drawn = set(re.findall(r"\.plot\.(\w+)\(", page("pictures.md")))
    others = {"pvalue_histogram", "icc_distribution", "stat_map", "plot_effects", "paper"}
    assert drawn | others == set(plots.__all__)
    assert names["fit"].n_responses == 32 * 60 and names["clusters"].cluster_pvalue[0] == 0.005


# What a page's code must have made, beside the values in its comments, which are at least so many.
AFTER = {
    "large.md": large, "usage.md": usage, "mne.md": mne, "from-lme4.md": from_lme4, "report.md": report,
    "index.md": index, "install.md": install, "pictures.md": pictures,
}  # fmt: skip
VALUES = {
    "large.md": 5, "from-lme4.md": 11, "from-statsmodels.md": 10, "mne.md": 6, "permutation.md": 2, "ieeg.md": 2,
    "random-effects.md": 8, "sleepstudy.md": 25, "from-others.md": 2,
    "usage.md": 8, "long.md": 6, "quickstart.md": 7, "fmri.md": 4, "genes.md": 8, "degrees-of-freedom.md": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_the_code_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {
        "pandas": "pandas",
        "formulaic": r"lmm\w*\(",
        "xarray": "xarray|dataarray",
        "mne": "mne",
        "statsmodels": "statsmodels",
        "zarr": "zarr",
        "dask": "lazy",
    }
    for package, sign in needs.items():
        if re.search(sign, "".join(blocks(name, "python"))):
            pytest.importorskip(package)
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert run(name, names) >= VALUES.get(name, 0)
    assert name in AFTER or name in VALUES, "say what this page's code must make"
    if name in AFTER:
        AFTER[name](names, tmp_path)
    for figure in re.findall(r"savefig\(\"([\w-]+\.png)\"", page(name)):
        assert (tmp_path / figure).stat().st_size > 5000
        assert (DOCS / "figures" / figure).exists() and f"figures/{figure}" in page(name), figure
    import matplotlib.pyplot as plt

    plt.close("all")


def test_a_wrong_value_is_seen() -> None:
    assert check(np.array([[251.40510485, 10.4672]]), "251.4051, 10.467", "fit.coef")
    assert check(6.41260137e-27, "6.413e-27", "p") and check(("a", "b"), "('a', 'b')", "names")
    assert not check(1.0, "the table of one", "x") and not check(1.0, "", "x") and not check(1, "0.05 level", "x")
    for value, comment in (
        (10.4672, "10.468"),
        ([1.0, 2.0], "1.0"),
        (6.41e-27, "6.413e-27"),
        ("a", "'b'"),
        (True, "False"),
    ):
        with pytest.raises(AssertionError):
            check(value, comment, "x")


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers_in(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers_in(part)]
    return [float(value)] if isinstance(value, (int, float)) else []


def test_numbers_of_r_in_the_worked_example_are_those_of_the_reference() -> None:
    folder = ROOT / "tests" / "reference"
    one, both = (json.loads((folder / f"{name}.json").read_text()) for name in ("sleepstudy", "g_sleepstudy"))
    V = np.array(both["reml"]["varcorr"]["Subject"]["cov"])
    reference = [*numbers_in(one), *numbers_in(both), *np.sqrt(np.diag(V)), V[0, 1] / np.sqrt(V[0, 0] * V[1, 1])]
    seen = 0
    for code in blocks("sleepstudy.md", "r"):
        for comment in re.findall(r"#(.*)$", code, re.M):
            for number in re.findall(NUMBER, re.sub(r"<2e-16|[\d.]+ %", "", comment)):
                assert any(abs(float(number) - one) <= half_a_digit(number) for one in reference), number
                seen += 1
    assert seen >= 30


RESULTS = ROOT / "benchmarks" / "results"


def measured() -> list[tuple[str, str]]:
    """Figures of the page of benchmarks, and the file that each is said to be of."""
    return re.findall(r"^\|.*\| ([^|]+) \| `(\w+\.json)` \|$", page("benchmarks.md"), re.M)


def test_benchmarks_are_what_was_measured() -> None:
    assert len(measured()) > 35
    for cell, file in measured():
        text = (RESULTS / file).read_text()
        known = [*numbers_in(json.loads(text)), *(float(share) for share in re.findall(r'"([\d.]+)%"', text))]
        # Shares are written in percent, times of 1,000,000 responses in seconds.
        known += [100 * value for value in known]
        figures = re.findall(NUMBER, re.sub(r"(?<=\d)%", " ", cell))
        assert figures, cell
        for figure in figures:
            digits = figure.rstrip("0") if "." not in figure and "e" not in figure else figure
            half = half_a_digit(figure) * 10.0 ** (len(figure) - len(digits))
            assert any(abs(float(figure) - value) <= half for value in known), f"{figure} of {cell}, {file}"


def test_the_table_of_rejections_is_what_was_measured() -> None:
    rows = json.loads((RESULTS / "type_one_error.json").read_text())["rows"]
    kinds = ("normal", "residual", "satterthwaite", "kenward-roger")
    expected = {
        (f"{row['subjects']}", f"{row['icc']:g}", row["effect"], *(f"{100 * row[kind]:.2f} %" for kind in kinds))
        for row in rows
    }
    found = re.findall(
        r"^\| (\d+) \| ([\d.]+) \| (\w+) \|" + r" ([\d.]+ %) \|" * 4, page("degrees-of-freedom.md"), re.M
    )
    assert set(found) == expected and len(found) == len(rows)


def test_the_table_of_hard_designs_is_what_was_measured() -> None:
    rows = json.loads((RESULTS / "adversarial.json").read_text())["rows"]
    errors = ("log-likelihood", "sigma2", "se", "coef, in se", "log-likelihood below the best of a scan")
    for row in rows:
        numbers = " | ".join(f"{row[error]:.1e}" for error in errors)
        assert f"| {row['kind']} | {row['responses']} | {numbers} |" in page("method.md")


def test_the_table_of_permutation_errors_is_what_was_measured() -> None:
    rows = json.loads((RESULTS / "permutation_error.json").read_text())["rows"]
    kinds = ("max", "cluster", "tfce", "BLUPs subtracted once, max")
    for row in rows:
        cells = " | ".join(f"{row[f'{kind} %']:.1f} % ({row[f'{kind} limits']})" for kind in kinds)
        assert f"| {row['design']} | {row['subjects']} | `{row['scheme']}` | {cells} |" in page("permutation.md")
    assert len(re.findall(r"^\| \w+ \| \d+ \| `", page("permutation.md"), re.M)) == len(rows)


def test_the_table_of_bands_is_what_was_measured() -> None:
    rows = json.loads((RESULTS / "band_coverage.json").read_text())["rows"]
    for row in rows:
        cells = f"{row['sets']} | {row['band %']:.1f} % ({row['band limits']}) | {row['pointwise %']:.1f} %"
        assert f"| {row['design']} | {row['subjects']} | `{row['kind']}` | {cells} |" in page("ieeg.md")
    assert len(re.findall(r"^\| \w+ \| \d+ \| `", page("ieeg.md"), re.M)) == len(rows)


def test_the_table_of_errors_with_items_is_what_was_measured() -> None:
    rows = json.loads((RESULTS / "type_one_error_items.json").read_text())["rows"]
    kinds = ("normal", "satterthwaite", "kenward-roger", "singular")
    for row in rows:
        model, cells = row["model"].replace("|", "\\|"), " | ".join(f"{100 * row[kind]:.1f} %" for kind in kinds)
        assert f"| {row['subjects']} | {row['slope sd']} | `{model}` | {cells} |" in page("random-effects.md")
    assert len(re.findall(r"^\| \d+ \| [\d.]+ \| `", page("random-effects.md"), re.M)) == len(rows)


def test_every_page_is_in_the_menu_once() -> None:
    trees = [tree for name in ALL for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", page(name), re.S | re.M)]
    entries = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(["index.md", *(f"{entry}.md" for entry in entries)]) == ALL


@pytest.mark.parametrize("name", ALL)
def test_code_fits_into_the_column(name: str) -> None:
    """As a browser shows it on a screen 1,440 pixels wide."""
    for code in re.findall(r"^```\w+\n(.*?)^```", page(name), re.S | re.M):
        for line in code.splitlines():
            assert len(line) <= COLUMN, line


@pytest.mark.parametrize("name", [*ALL, "../README.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = page(name)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or ((DOCS / name).parent / target).exists(), target
    for path in re.findall(r"`((?:tests|benchmarks|examples|docs)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


def test_the_reference_names_everything() -> None:
    from jaxlmm import plots

    words = set(re.findall(r"\w+", page("api.md")))
    public = {name for name in dir(jaxlmm.Fit) if not name.startswith("_")} | set(jaxlmm.Fit.__dataclass_fields__)
    missing = (set(jaxlmm.__all__) | public | set(plots.__all__)) - words
    assert not missing, missing
    for name in re.findall(r"`jaxlmm\.(\w+)`", page("api.md")):
        assert hasattr(jaxlmm, name), name


def test_docstrings_of_all_public_names_are_on_one_page() -> None:
    from jaxlmm import plots
    from jaxlmm.labelled import mne_io

    pages = "".join(page(name) for name in ALL if name.startswith("api-"))
    named = re.findall(r"^\.\. auto\w+:: (jaxlmm\.[\w.]+)$", pages, re.M)
    assert len(named) == len(set(named))
    for path in named:
        assert importable(path), path
    missing = {*jaxlmm.__all__, *plots.__all__, *mne_io.__all__} - {path.split(".")[-1] for path in named}
    assert not missing, missing
    # The attributes of a fit are in the docstring of its class.
    members = {name for name in dir(jaxlmm.Fit) if not name.startswith("_")} - set(jaxlmm.Fit.__dataclass_fields__)
    assert not members - {path.removeprefix("jaxlmm.Fit.") for path in named}


def importable(path: str) -> bool:
    """Whether ``path`` is that of a module and names in it."""
    words = path.split(".")
    for n in range(len(words), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(words[:n]))
        except ImportError:
            continue
        for word in words[n:]:
            found = getattr(found, word, None)
        return found is not None
    return False
