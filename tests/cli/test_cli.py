"""The command line: fits files, writes tables whole, and says in one line what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import REFERENCE, load_reference

import jaxlmm
from jaxlmm.cli import run as fit_file
from jaxlmm.cli.cli import main

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

ORTHODONT = str(REFERENCE / "orthodont.csv")


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    return result.exit_code, result.output


def test_fit_a_column(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    code, text = run("fit", ORTHODONT, "--formula", "distance ~ age * Sex + (1 | Subject)", "--out", out)
    assert code == 0 and "1 responses (1 ok)" in text, text
    table = pd.read_csv(out)
    expected = load_reference("orthodont").expected["reml"]
    fixed = table[table["effect"] == "fixed"]
    np.testing.assert_allclose(fixed["estimate"], expected["coef"], rtol=1e-6)
    np.testing.assert_allclose(fixed["p.value"], expected["p_satterthwaite"], rtol=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.csv"]


def trials(tmp_path: Path, m: int = 12) -> tuple[Path, np.ndarray]:
    rng = np.random.default_rng(0)
    subject = np.repeat([f"s{j}" for j in range(6)], 15)
    Y = rng.normal(size=(90, m))
    Y[3, 2] = np.nan
    frame = pd.DataFrame({"subject": subject, "x": rng.normal(size=90)})
    frame = pd.concat([frame, pd.DataFrame(Y, columns=[f"elec_{j}" for j in range(m)])], axis=1)
    frame.to_csv(tmp_path / "trials.csv", index=False)
    return tmp_path / "trials.csv", Y


def test_a_pattern_of_columns_and_an_array_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxlmm.cli.run.CHUNK", 5)  # several chunks
    table, Y = trials(tmp_path)
    np.save(tmp_path / "y.npy", Y)
    common = ["--formula", "x + (1 | subject)", "--df", "kenward-roger", "--adjust", "bh"]
    code, text = run("fit", table, "--responses", "elec_*", "--out", tmp_path / "a.csv", *common)
    assert code == 0 and text.startswith("12 responses ("), text
    code, text = run("fit", table, "--array", tmp_path / "y.npy", "--out", tmp_path / "b.csv", *common)
    assert code == 0, text
    a, b = pd.read_csv(tmp_path / "a.csv"), pd.read_csv(tmp_path / "b.csv")
    assert a["response"].unique().tolist() == [f"elec_{j}" for j in range(12)]
    np.testing.assert_allclose(a["estimate"], b["estimate"], rtol=1e-9)
    data = pd.read_csv(table)
    fit = jaxlmm.lmm("x + (1 | subject)", data, responses="elec_*", df="kenward-roger")
    rows = a[(a["effect"] == "fixed") & (a["term"] == "x")]
    np.testing.assert_allclose(rows["p.value"], fit.pvalue[:, 1], rtol=1e-9)
    np.testing.assert_allclose(rows["p.adjusted"], jaxlmm.adjust_pvalues(fit.pvalue[:, 1], "bh"), rtol=1e-9)
    assert a.loc[a["effect"] != "fixed", "p.adjusted"].isna().all()


def test_from_a_store_to_a_store(tmp_path: Path) -> None:
    xr, zarr = pytest.importorskip("xarray"), pytest.importorskip("zarr")
    table, Y = trials(tmp_path)
    zarr.create_array(tmp_path / "y.zarr", data=Y.reshape(90, 4, 3), chunks=(90, 2, 3))
    array, out = tmp_path / "y.zarr", tmp_path / "out.zarr"
    model = ["--formula", "x + (1 | subject)"]
    code, text = run("fit", table, "--array", array, "--out", out, *model)
    assert code == 0 and text.startswith("12 responses ("), text
    expected = jaxlmm.lmm("x + (1 | subject)", pd.read_csv(table), Y)
    found = xr.open_zarr(out, chunks=None)
    np.testing.assert_allclose(found.pvalue.values.reshape(2, 12).T, expected.pvalue, rtol=1e-9)
    code, text = run("fit", table, "--array", array, "--out", out, *model)
    assert code == 1 and "exists" in text and text.count("\n") == 1, text
    code, text = run("fit", table, "--array", array, "--out", out, *model, "--resume")
    assert code == 0 and text.startswith("12 responses ("), text
    code, text = run("fit", table, "--array", array, "--out", out, *model, "--overwrite", "--method", "ML")
    assert code == 0 and xr.open_zarr(out, chunks=None).attrs["method"] == "ML", text
    (array / "zarr.json").touch()
    same = ["fit", table, "--array", array, "--out", out, *model, "--method", "ML"]
    assert run(*same, "--resume")[0] == 1 and run(*same, "--verify")[0] == 0
    for arguments, message in (
        (["--array", array, "--out", tmp_path / "r.csv"], "tables take (rows, responses)"),
        (["--array", array, "--out", tmp_path / "r.csv", "--resume"], "go with results that end in .zarr"),
        (["--array", array, "--out", tmp_path / "r.zarr", "--adjust", "bh"], "--adjust does not go with"),
        (["--array", array, "--out", tmp_path / "r.zarr", "--responses", "elec_*"], "both given"),
        (["--responses", "elec_*", "--out", tmp_path / "r.zarr"], "takes its responses from --array"),
        (["--array", tmp_path / "none.h5:/y", "--out", tmp_path / "r.zarr"], "does not exist"),
        (["--array", array, "--out", tmp_path / "r.zarr", "--resume", "--overwrite"], "both given"),
    ):
        code, text = run("fit", table, *arguments, *model)
        assert code == 1 and message in text and text.count("\n") == 1, text


def test_glance_and_overwrite(tmp_path: Path) -> None:
    table, _ = trials(tmp_path)
    arguments = [
        "fit",
        table,
        "--formula",
        "elec_1 ~ x + (1 | subject)",
        "--what",
        "glance",
        "--out",
        tmp_path / "g.csv",
    ]
    assert run(*arguments)[0] == 0
    code, text = run(*arguments)
    assert code == 1 and "exists; add --overwrite" in text
    assert run(*arguments, "--overwrite")[0] == 0
    assert len(pd.read_csv(tmp_path / "g.csv")) == 1


def test_progress_bar_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool | None] = []
    counted = fit_file.progress

    def seen(name: str, total: int, unit: str, show: bool | None) -> Any:
        asked.append(show)
        return counted(name, total, unit, False)

    monkeypatch.setattr(fit_file, "progress", seen)
    table, _ = trials(tmp_path)
    arguments = ["fit", table, "--formula", "elec_1 ~ x + (1 | subject)", "--out", tmp_path / "g.csv", "--overwrite"]
    for option in ([], ["--progress"], ["--no-progress"]):
        assert run(*arguments, *option)[0] == 0
    assert asked == [None, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formula", "distance ~ age + (1 | Subj)"], "did you mean 'Subject'"),
        (["--formula", "distance ~ agee + (1 | Subject)"], "did you mean 'age'"),
        (
            ["--formula", "distance ~ age + (Sex | Subject)"],
            "the factor 'Sex' is constant within all levels of 'Subject'",
        ),
        (["--formula", "distance ~ age + (agee | Subject)"], "did you mean 'age'"),
        (["--formula", "distance ~ age + (1 | Subject) + (1 | Sec)"], "did you mean 'Sex'"),
        (["--formula", "age + (1 | Subject)", "--responses", "elec_*"], "elec_*"),
        (["--formula", "age + (1 | Subject)"], "names no response"),
        (["--formula", "Sex ~ age + (1 | Subject)"], "numeric"),
        (["--formula", "distance ~ age + ("], "("),
        (["--formula", "distance ~ age", "--method", "ML", "--df", "kenward-roger"], "fit with method='REML'"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(tmp_path: Path, arguments: list[str], message: str) -> None:
    code, text = run("fit", ORTHODONT, *arguments, "--out", tmp_path / "r.csv")
    assert code == 1, text
    assert text.startswith("Error: ") and message in text and text.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "formula",
    [
        "distance ~ I(age + __import__('os').getpid()) + (1 | Subject)",
        "open('stolen') ~ age + (1 | Subject)",
        "distance ~ np.fromfile('x') + (1 | Subject)",
        "distance ~ I(age + 9**9**9) + (1 | Subject)",
        "distance ~ np.broadcast_to(age, 108) + (1 | Subject)",
    ],
)
def test_a_formula_is_code(tmp_path: Path, formula: str) -> None:
    rows = (Path(__file__).parents[2] / "docs" / "bad-input.md").read_text().splitlines()
    row = next(row for row in rows if row.startswith("| `formula-untrusted`"))
    said = row.split("ValueError: `")[1].split("`")[0]
    code, text = run("fit", ORTHODONT, "--formula", formula, "--out", tmp_path / "r.csv")
    assert code == 1 and said in text and "--trust-formula" in text and text.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_formula_that_is_trusted(tmp_path: Path) -> None:
    formula = "distance - 1 ~ np.broadcast_to(age, 108) + I(age^2) + (1 | Subject)"
    code, text = run("fit", ORTHODONT, "--formula", formula, "--trust-formula", "--out", tmp_path / "r.csv")
    assert code == 0, text
    plain = "distance - 1 ~ age + I(age**2) + (1 | Subject)"
    assert run("fit", ORTHODONT, "--formula", plain, "--out", tmp_path / "s.csv")[0] == 0
    found, expected = (pd.read_csv(tmp_path / name) for name in ("r.csv", "s.csv"))
    np.testing.assert_allclose(found["estimate"], expected["estimate"], rtol=1e-9)
    assert "--trust-formula" in run("fit", "--help")[1] and "A formula is code" in run("fit", "--help")[1]


def test_bad_files(tmp_path: Path) -> None:
    formula = ["--formula", "age + (1 | Subject)"]
    np.save(tmp_path / "y.npy", np.zeros((3, 2)))
    for arguments, message in (
        (["--array", tmp_path / "y.npy", "--out", tmp_path / "r.csv"], "108"),
        (["--array", ORTHODONT, "--out", tmp_path / "r.csv"], "give a .npy file"),
        (["--responses", "distance", "--out", tmp_path / "r.txt"], "must end in .csv, .parquet or .zarr"),
        (["--responses", "distance", "--out", tmp_path / "no" / "r.csv"], "does not exist"),
        (["--responses", "distance", "--array", tmp_path / "y.npy", "--out", tmp_path / "r.csv"], "both given"),
    ):
        code, text = run("fit", ORTHODONT, *formula, *arguments)
        assert code == 1 and message in text and text.count("\n") == 1, text
    assert run("fit", tmp_path / "none.csv", *formula, "--out", tmp_path / "r.csv")[0] == 2


# -- text files ------------------------------------------------------------------------------------------


def regions() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({
        "s": np.repeat([f"{i:03d}" for i in range(10)], 12), "region": np.tile(["EU", "NA", "None"], 40),
        "x": rng.normal(size=120), "y": rng.normal(size=120),
    })  # fmt: skip


REGION = ("--formula", "y ~ region + x + (1 | s)")


@pytest.mark.parametrize(
    ("name", "written", "options"),
    [
        ("t.csv", {}, []), ("t.tsv", {"sep": "\t"}, []), ("t.csv.gz", {}, []), ("t.tsv.xz", {"sep": "\t"}, []),
        ("t.csv", {"sep": ";"}, ["--sep", ";"]),
        ("t.csv", {"sep": "|"}, ["--sep", "pipe"]), ("t.txt", {"sep": "\t"}, ["--sep", "\\t"]),
        ("t.txt", {"sep": " "}, []), ("t.dat.gz", {"sep": " "}, ["--sep", "space"]),
        ("t.csv", {"sep": ";", "decimal": ","}, ["--sep", ";", "--decimal", ","]),
    ],
)  # fmt: skip
def test_text_files_of_any_kind_keep_every_level(
    name: str, written: dict[str, str], options: list[str], tmp_path: Path
) -> None:
    frame, out = regions(), tmp_path / "r.csv"
    frame.to_csv(tmp_path / name, index=False, **written)
    code, text = run("fit", tmp_path / name, *REGION, *options, "--out", out)
    assert code == 0, text
    fit = jaxlmm.lmm("y ~ region + x + (1 | s)", frame)
    rows = pd.read_csv(out, keep_default_na=False)
    rows = rows[rows["effect"] == "fixed"]
    assert list(rows["term"]) == list(fit.names) == ["Intercept", "region[T.NA]", "region[T.None]", "x"]
    np.testing.assert_allclose(rows["estimate"].astype(float), fit.coef[0], rtol=1e-9)


def test_only_empty_cells_are_missing_unless_told_otherwise(tmp_path: Path) -> None:
    frame = regions()
    codes = frame.astype({"y": object, "x": object})
    codes.loc[[3, 70], "y"] = "NA"
    source, out = tmp_path / "t.csv", tmp_path / "r.csv"
    codes.to_csv(source, index=False)
    code, text = run("fit", source, *REGION, "--out", out)
    assert code == 1 and "column 'y' holds numbers and the text 'NA' in 2 rows; add --na 'NA'" in text
    code, text = run("fit", source, "--formula", "y ~ x + (1 | s)", "--na", "NA", "--what", "glance", "--out", out)
    assert code == 0, text
    assert pd.read_csv(out)["nobs"].item() == 118
    codes.loc[[3, 70], "y"] = None
    codes.loc[[5, 6, 7], "x"] = "."
    codes.to_csv(source, index=False)
    code, text = run("fit", source, *REGION, "--out", out, "--overwrite")
    assert code == 1 and "column 'x' holds numbers and the text '.' in 3 rows" in text
    code, text = run(
        "fit", source, "--formula", "y ~ region + (1 | s)", "--what", "glance", "--out", out, "--overwrite"
    )
    assert code == 0, text  # x is not used; empty cells are missing
    assert pd.read_csv(out)["nobs"].item() == 118


def test_text_files_that_are_read_otherwise_than_written(tmp_path: Path) -> None:
    source, out = tmp_path / "t.csv", tmp_path / "r.csv"
    regions().to_csv(source, index=False, sep=";", decimal=",")
    code, text = run("fit", source, *REGION, "--out", out)
    assert code == 1 and "has one column, 's;region;x;y'; add --sep ';'" in text
    spaced = tmp_path / "t.txt"
    regions().to_csv(spaced, index=False, sep=";", decimal=",")
    code, text = run("fit", spaced, *REGION, "--out", out)
    assert code == 1 and "has one column, 's;region;x;y'; add --sep ';'" in text
    gap = regions()
    gap.loc[4, "x"] = np.nan
    gap.to_csv(spaced, index=False, sep=" ")
    code, text = run("fit", spaced, *REGION, "--out", out)
    assert code == 1 and "has rows with fewer values than columns, the first in line 6" in text
    code, text = run("fit", source, *REGION, "--sep", "", "--out", out)
    assert code == 1 and "--sep is ''; give what stands between the columns" in text
    code, text = run("fit", source, *REGION, "--sep", ";", "--out", out)
    assert code == 1 and "add --decimal , if these are numbers" in text
    code, text = run("fit", tmp_path / "t.csv", "--formula", "y ~ x", "--out", tmp_path / "r.txt")
    assert code == 1 and "must end in" in text


def test_weights_of_a_column_and_responses_by_pattern(tmp_path: Path) -> None:
    frame = regions()[["s", "x", "y"]].assign(w=np.random.default_rng(1).uniform(0.5, 2, 120))
    source, out = tmp_path / "t.csv", tmp_path / "r.csv"
    frame.to_csv(source, index=False)
    options = ["--formula", "x + (1 | s)", "--responses", "*", "--weights", "w", "--adjust", "fdr"]
    code, text = run("fit", source, *options, "--out", out)
    assert code == 0 and "1 responses" in text, text
    fit = jaxlmm.lmm("y ~ x + (1 | s)", frame.astype({"s": int}), weights="w")
    rows = pd.read_csv(out)
    np.testing.assert_allclose(rows["estimate"][rows["effect"] == "fixed"], fit.coef[0], rtol=1e-9)
    code, text = run("fit", source, "--formula", "y ~ x", "--weights", "v", "--out", out, "--overwrite")
    assert code == 1 and "weights names 'v', which is no column" in text
