"""Fits by formula in files: the formula works on in another process, without the data; or says why not."""

from __future__ import annotations

import datetime
import enum
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_storage import rewrite

import jaxlmm
from jaxlmm.loading.load import load
from jaxlmm.storage.absent import AbsentFormula
from jaxlmm.storage.save import save

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

from jaxlmm.formula.formula import FormulaDesign  # noqa: E402
from jaxlmm.storage.frame import decode_frame, encode_frame  # noqa: E402

N = 48
LETTERS = np.array(list("bca"))[np.random.default_rng(1).integers(0, 3, N)]


def frame_of(**columns: Any) -> Any:
    rng = np.random.default_rng(0)
    made = pd.DataFrame({"x": rng.normal(size=N), "a": LETTERS, "site": np.repeat(np.arange(8), 6)})
    made["y"], made["z"] = rng.normal(size=(2, N)) + rng.normal(size=8)[made["site"]]
    return made.assign(**columns).set_axis(np.arange(N)[::-1] + 7, axis=0)


def assert_same_bits(a: Any, b: Any) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# -- another process -------------------------------------------------------------------------------

ELSEWHERE = """
import sys
import numpy as np, pandas as pd, jaxlmm
from jaxlmm.results.tables import tidy
for k, by in enumerate(sys.argv[2:]):
    fit = jaxlmm.load(f"{sys.argv[1]}/fit{k}.npz")
    new = pd.read_pickle(f"{sys.argv[1]}/new.pkl")
    means = fit.emmeans("a", by=by or None)
    found = {"rows": fit.source.rows(new), "predict": fit.predict(new), "means": means.estimate, "se": means.se,
             "p": means.pairs().pvalue, "F": fit.anova().statistic, "Fp": fit.anova().pvalue}
    np.savez(f"{sys.argv[1]}/found{k}.npz", **found)
    tidy(fit).to_pickle(f"{sys.argv[1]}/found{k}.tidy")
"""
FORMULAS = [
    ("cbind(y, z) ~ a * bs(x, df=4) + (1 | site)", ""),
    ("cbind(y, z) ~ C(a, contr.sum) * b + scale(x) + I(x**2) + (1 | site)", "b"),
    ("cbind(y, z) ~ np.exp(x) + a:k + poly(`my x`, 2) + (1 | site:b)", ""),
]


def test_another_process_finds_the_same(tmp_path: Path) -> None:
    from jaxlmm.results.tables import tidy

    order = pd.CategoricalDtype(["v", "u", "w"], ordered=True)
    frame = frame_of(b=pd.Categorical(np.tile(["u", "v"], N // 2), dtype=order), k=np.arange(N) % 7)
    frame["my x"] = frame["x"] + 3
    fits = [jaxlmm.lmm(formula, frame) for formula, _ in FORMULAS]
    new = frame[["x", "a", "b", "k", "my x"]].iloc[3:20]
    for k, fit in enumerate(fits):
        save(fit, tmp_path / f"fit{k}.npz")
    new.to_pickle(tmp_path / "new.pkl")
    arguments = [str(tmp_path), *(by for _, by in FORMULAS)]
    subprocess.run([sys.executable, "-W", "error", "-c", ELSEWHERE, *arguments], check=True)
    for k, (fit, (formula, by)) in enumerate(zip(fits, FORMULAS, strict=True)):
        means = fit.emmeans("a", by=by or None)
        expected = {
            "rows": fit.source.rows(new), "predict": fit.predict(new), "means": means.estimate, "se": means.se,
            "p": means.pairs().pvalue, "F": fit.anova().statistic, "Fp": fit.anova().pvalue,
        }  # fmt: skip
        with np.load(tmp_path / f"found{k}.npz") as found:
            assert_same_bits(found["rows"], expected["rows"])
            for name, value in expected.items():
                # numpy sums in an order that depends on where the memory of an array begins
                np.testing.assert_allclose(found[name], value, rtol=1e-13, err_msg=f"{name} of {formula}")
            assert sorted(found) == sorted(expected)
        pd.testing.assert_frame_equal(pd.read_pickle(tmp_path / f"found{k}.tidy"), tidy(fit), rtol=1e-13)


def test_what_is_stored_is_the_columns_of_the_fixed_part(tmp_path: Path) -> None:
    frame = frame_of(secret="s" * 5)
    fit = jaxlmm.lmm("y ~ x + a + (1 | site)", frame)
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a").source
    assert isinstance(found, FormulaDesign)
    assert list(found.frame.columns) == ["x", "a"] and found.group_columns == ("site",)
    assert_same_bits(found.X, fit.source.X)
    assert found.variables and [v.__dict__ for v in found.variables] == [v.__dict__ for v in fit.source.variables]
    assert b"secret" not in (tmp_path / "a").read_bytes() and b"sssss" not in (tmp_path / "a").read_bytes()


def test_the_data_may_change_after_the_fit(tmp_path: Path) -> None:
    frame = frame_of()
    fit = jaxlmm.lmm("y ~ x + a + (1 | site)", frame)
    frame.loc[:, "x"] = 0.0
    frame["x"].to_numpy(copy=False)
    save(fit, tmp_path / "a")
    assert_same_bits(load(tmp_path / "a").source.X, fit.design.X)


def test_a_second_file(tmp_path: Path) -> None:
    frame = frame_of()
    fit = jaxlmm.lmm("y ~ twice(x) + a + (1 | site)", frame, context={"twice": lambda v: 2 * v})
    save(fit, tmp_path / "a")
    save(load(tmp_path / "a"), tmp_path / "b")  # its formula could not be applied, and is not lost
    again = load(tmp_path / "b", context={"twice": lambda v: 2 * v})
    save(again, tmp_path / "c")
    assert_same_bits(load(tmp_path / "c", context={"twice": lambda v: 2 * v}).predict(frame[["x", "a"]]),
                     fit.predict(frame[["x", "a"]]))  # fmt: skip


def test_groups_of_new_data(tmp_path: Path) -> None:
    frame = frame_of()
    fit = jaxlmm.lmm("y ~ x + (1 | site)", frame)
    save(fit, tmp_path / "a", include_Y=True)
    new = frame[["x", "site"]][:9].assign(site=[0, 1, 2, 3, 4, 5, 6, 7, 99])
    assert_same_bits(load(tmp_path / "a").predict(new), fit.predict(new))
    save(fit, tmp_path / "b")
    with pytest.raises(ValueError, match="saved without its responses"):
        load(tmp_path / "b").predict(new)
    assert_same_bits(load(tmp_path / "b").predict(new[["x"]]), fit.predict(new[["x"]]))


def test_without_fixed_columns(tmp_path: Path) -> None:
    fit = jaxlmm.lmm("y ~ 1 + (1 | site)", frame_of())
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a").source
    assert isinstance(found, FormulaDesign) and len(found.frame) == N


# -- every type of column --------------------------------------------------------------------------

INTEGERS = np.arange(N) % 3
DAYS = pd.Series(pd.date_range("2020-01-30", periods=N, freq="9h"))
COLUMNS: dict[str, tuple[str, Any]] = {
    **{f"{dtype}": ("v", (INTEGERS / 7 if "f" in dtype else INTEGERS).astype(dtype))
       for dtype in "f2 f4 f8 i1 i8 i4 u1 u8".split()},
    "signed zeros": ("v", np.where(INTEGERS == 1, -0.0, 0.1 * INTEGERS)),
    "bool": ("v", INTEGERS == 1),
    "bool as number": ("I(v * x)", INTEGERS == 1),
    "text": ("v", LETTERS),
    "odd text": ("v", np.array(["é\n", "日本", "-"], dtype=object)[INTEGERS]),
    "object": ("v", pd.Series(LETTERS.tolist(), dtype=object)),
    "string": ("v", pd.Series(LETTERS.tolist(), dtype="string")),
    "numbers as objects": ("v", pd.Series(INTEGERS.tolist(), dtype=object)),
    "bools as objects": ("v", pd.Series((INTEGERS == 1).tolist(), dtype=object)),
    "Int64": ("v", pd.Series(INTEGERS).astype("Int64")),
    "UInt8": ("v", pd.Series(INTEGERS).astype("UInt8")),
    "Float32": ("v", (pd.Series(INTEGERS) / 7).astype("Float32")),
    "boolean": ("v", pd.Series(INTEGERS == 1).astype("boolean")),
    "category": ("v", pd.Categorical(LETTERS)),
    "ordered": ("v", pd.Categorical(LETTERS, categories=["c", "z", "a", "b"], ordered=True)),
    "category of objects": ("v", pd.Categorical(LETTERS, pd.Index(["b", "a", "c"], dtype=object))),
    "category of integers": ("v", pd.Categorical(INTEGERS, categories=[2, 0, 1])),
    "category of floats": ("v", pd.Categorical(INTEGERS / 7, categories=[2 / 7, 0.0, 1 / 7])),
    "category of bools": ("v", pd.Categorical(INTEGERS == 1, categories=[True, False])),
    "category of intervals": ("v", pd.cut(np.linspace(0, 1, N), 3)),
    "category of times": ("v", pd.Categorical(pd.to_datetime(["2020-01-01", "2020-02-01", "2020-03-01"])[INTEGERS])),
    "category of zones": ("v", pd.Categorical(
        pd.to_datetime(["2020-01-01", "2020-02-01", "2020-03-01"]).tz_localize("Europe/Berlin")[INTEGERS])),
    "category of mixed": ("v", pd.Categorical(np.array([1, "1", 2.5], dtype=object)[INTEGERS],
                                              categories=pd.Index(["1", 2.5, 1], dtype=object))),
    "category of periods": ("v", pd.Categorical(pd.period_range("2020-01", periods=3, freq="M")[INTEGERS])),
    "C of integers": ("C(v)", INTEGERS),
    "C with levels": ("C(v, levels=['c', 'b', 'a'])", LETTERS),
    "times": ("I(v.dt.day_of_year)", DAYS),
    "times in seconds": ("I(v.dt.hour)", DAYS.astype("datetime64[s]")),
    "zoned times": ("I(v.dt.hour)", DAYS.dt.tz_localize("Europe/Berlin")),
    "times of an offset": ("I(v.dt.hour)", DAYS.dt.tz_localize("+05:30")),
    "durations": ("I(v.dt.days)", DAYS - DAYS[0]),
    "periods": ("I(v.dt.day)", DAYS.dt.to_period("D")),
}  # fmt: skip


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_every_type(kind: str, tmp_path: Path) -> None:
    formula, column = COLUMNS[kind]
    fit = jaxlmm.lmm(f"y ~ {formula} + x + (1 | site)", frame_of(v=column))
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a").source
    assert isinstance(found, FormulaDesign), found.why
    pd.testing.assert_series_equal(found.frame["v"], fit.source.frame["v"], check_exact=True)
    assert_same_bits(found.X, fit.source.X)
    assert repr([v.levels for v in found.variables]) == repr([v.levels for v in fit.source.variables])
    new = frame_of(v=column)[["v", "x"]][5:15]
    assert_same_bits(found.rows(new), fit.source.rows(new))


def test_frames_keep_every_bit() -> None:
    arrays: dict[str, np.ndarray] = {}
    numbers = np.array([np.nan, -np.nan, -0.0, np.inf, 5e-324])
    frame = pd.DataFrame({"n": numbers, "": pd.Categorical(list("abcab"), list("cba")), "frame.0": range(5)})
    value = json.loads(json.dumps(encode_frame(frame, arrays, "frame")))
    found = decode_frame(value, arrays)
    pd.testing.assert_frame_equal(found, frame, check_exact=True)
    assert_same_bits(found["n"].to_numpy(), numbers)


class Sex(enum.StrEnum):
    F = "f"
    M = "m"


def test_columns_that_cannot_be_stored(tmp_path: Path) -> None:
    frame = frame_of(s=pd.Series([Sex.F, Sex.M] * (N // 2), dtype=object))
    fit = jaxlmm.lmm("y ~ s + x + (1 | site)", frame)
    with pytest.warns(
        UserWarning, match=r"will not hold the data of the formula: column 's' .*\(Sex\).*load\(path, data"
    ):
        save(fit, tmp_path / "a")
    found = load(tmp_path / "a")
    with pytest.raises(ValueError, match=r"cannot be applied to data: the file does not hold its data: column 's'"):
        found.emmeans("s")
    np.testing.assert_array_equal(found.coef, fit.coef)
    again = load(tmp_path / "a", data=frame)
    assert_same_bits(again.predict(frame[["s", "x"]]), fit.predict(frame[["s", "x"]]))
    with pytest.raises(ValueError, match="context was given, but the file does not hold the data"):
        load(tmp_path / "a", context={"f": abs})


# -- context ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("I(x * w)", 2.5),
        ("I(x * w)", np.float32(0.1)),
        ("I(x * w)", np.linspace(1, 2, N)),
        ("C(a, levels=w)", ["c", "a", "b"]),
        ("bs(x, knots=w)", (-0.5, 0.25)),
        ("I(x.clip(-w, w))", 1),
        ("I(x + w.days)", datetime.timedelta(3)),
    ],
    ids=["number", "float32", "array", "list", "tuple", "integer", "duration"],
)
def test_values_of_the_context(expression: str, value: Any, tmp_path: Path) -> None:
    frame = frame_of()
    fit = jaxlmm.lmm(f"y ~ {expression} + (1 | site)", frame, context={"w": value, "unused": object(), "x": object()})
    assert fit.source.context_names == ("w",)
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a").source
    assert isinstance(found, FormulaDesign), found.why
    assert_same_bits(found.X, fit.source.X)
    assert type(found.context["w"]) is type(value)


def test_functions_must_be_given_again(tmp_path: Path) -> None:
    frame = frame_of()
    context = {"twice": lambda v: 2 * v, "w": 3.0, "more": np.negative}
    fit = jaxlmm.lmm("more(y) ~ twice(x) + I(w * x**2) + (1 | site)", frame, context=context)
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a")
    assert isinstance(found.source, AbsentFormula)
    assert_same_bits(found.coef, fit.coef)
    assert found.anova().pvalue.shape == (1, 2)
    for call in (lambda: found.predict(frame[["x"]]), lambda: found.emmeans("x"), lambda: found.source.variables):
        with pytest.raises(ValueError) as error:
            call()
        assert "uses 'twice', which no file can hold; give it again, as load(path, context={'twice': ...})" in str(
            error.value
        )
    again = load(tmp_path / "a", context={"twice": context["twice"]})
    assert_same_bits(again.predict(frame[["x"]]), fit.predict(frame[["x"]]))
    with pytest.raises(ValueError, match="uses 'twice', which no file can hold"):
        load(tmp_path / "a", context={"thrice": abs})
    with pytest.raises(ValueError, match=r"makes another X, by up to .* of the largest value in column 'twice\(x\)'"):
        load(tmp_path / "a", context={"twice": lambda v: 3 * v})
    with pytest.raises(ValueError, match="makes another X"):
        load(tmp_path / "a", context={"twice": context["twice"], "w": 4.0})
    with pytest.raises(ValueError, match="makes columns other than those of the fit"):
        load(tmp_path / "a", context={"twice": lambda v: (v > 0).astype(str)})


def test_a_name_that_formulaic_knows_too(tmp_path: Path) -> None:
    """The function of the context, not formulaic's own."""
    frame = frame_of()
    fit = jaxlmm.lmm("y ~ exp(x) + (1 | site)", frame, context={"exp": np.square})
    np.testing.assert_array_equal(fit.design.X[:, 1], frame["x"] ** 2)
    save(fit, tmp_path / "a")
    assert "uses 'exp', which no file can hold" in load(tmp_path / "a").source.why
    assert_same_bits(load(tmp_path / "a", context={"exp": np.square}).source.X, fit.source.X)


def test_two_functions(tmp_path: Path) -> None:
    fit = jaxlmm.lmm("y ~ f(x) + g.sin(x) + (1 | site)", frame_of(), context={"f": np.exp, "g": np})
    save(fit, tmp_path / "a")
    assert "uses 'f' and 'g', which no file can hold; give them again" in load(tmp_path / "a").source.why
    assert isinstance(load(tmp_path / "a", context={"f": np.exp, "g": np}).source, FormulaDesign)


# -- other versions --------------------------------------------------------------------------------


def saved(tmp_path: Path, formula: str = "y ~ x + a + (1 | site)") -> tuple[Any, Path]:
    fit = jaxlmm.lmm(formula, frame_of())
    save(fit, tmp_path / "a")
    return fit, tmp_path / "a"


def manifest_of(path: Path) -> dict[str, Any]:
    return json.loads(zipfile.ZipFile(path).read("manifest.json"))


def test_files_without_the_data(tmp_path: Path) -> None:
    """As format 1.0 was."""
    fit, path = saved(tmp_path)
    manifest = manifest_of(path)
    assert manifest["version"] == [1, 1] and manifest["formula"] == ["y ~ x + a + (1 | site)", "site"]
    names = [name for name in np.load(path).files if name.startswith("frame.")]
    assert names == ["frame.0", "frame.1.codes"]
    rewrite(path, manifest={"version": [1, 0], "frame": ...}, **dict.fromkeys(names))
    assert "frame" not in manifest_of(path)
    found = load(path)
    with pytest.raises(ValueError, match=r"saved without the data, so formula 'y .*' cannot be applied; .*data="):
        found.predict(frame_of()[["x", "a"]])
    with pytest.raises(ValueError, match="saved without the data"):
        found.emmeans("a")
    save(found, tmp_path / "b")
    again = load(tmp_path / "b", data=frame_of())
    assert_same_bits(again.emmeans("a").estimate, fit.emmeans("a").estimate)


def test_another_version_of_formulaic(tmp_path: Path) -> None:
    fit, path = saved(tmp_path)
    frame = manifest_of(path)["frame"]
    assert set(frame["versions"]) == {"formulaic", "pandas", "numpy"}
    old = frame | {"versions": {"formulaic": "0.9.7", "pandas": "1.2", "numpy": "1.3"}}
    changed = fit.source.frame["x"].to_numpy().copy()
    changed[4] *= 1 + 1e-8
    rewrite(path, manifest={"frame": old}, **{"frame.0": changed})
    found = load(path)
    np.testing.assert_array_equal(found.coef, fit.coef)
    with pytest.raises(ValueError) as error:
        found.emmeans("a")
    assert "another X, by up to" in str(error.value) and "in column 'x', of the stored data with formulaic " in str(
        error.value
    )
    assert "than when it was saved with formulaic 0.9.7, pandas 1.2, numpy 1.3" in str(error.value)


def test_roundings_are_told(tmp_path: Path) -> None:
    fit, path = saved(tmp_path)
    changed = fit.source.frame["x"].to_numpy().copy()
    changed[4] = np.nextafter(changed[4], 9)
    rewrite(path, **{"frame.0": changed})
    with pytest.warns(UserWarning, match=r"another X, by up to .* 'x', .* differ by roundings") as told:
        found = load(path)
    assert told[0].filename == __file__
    np.testing.assert_allclose(found.emmeans("a").estimate, fit.emmeans("a").estimate, rtol=1e-12)


def test_damaged_data_do_not_hide_the_numbers(tmp_path: Path) -> None:
    fit, path = saved(tmp_path)
    frame = manifest_of(path)["frame"]
    changes: list[dict[str, Any]] = [
        {"frame.0": np.zeros(3)}, {"frame.0": None}, {"frame.1.codes": np.full(N, 7)},
        {"manifest": {"frame": {**frame, "columns": [["x", {"os": "ls"}]]}}}, {"manifest": {"frame": {"rows": 3}}},
    ]  # fmt: skip
    for i, change in enumerate(changes):
        save(fit, tmp_path / f"{i}")
        rewrite(tmp_path / f"{i}", **change)
        found = load(tmp_path / f"{i}")
        np.testing.assert_array_equal(found.coef, fit.coef)
        with pytest.raises(ValueError, match="cannot be applied to data: the data in the file are damaged"):
            found.emmeans("a")


def test_without_formulaic_the_numbers_load(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    code = (
        "import sys\nsys.modules['formulaic'] = None\nimport jaxlmm\n"
        "fit = jaxlmm.load(sys.argv[1])\nprint(fit.anova().pvalue.shape)\n"
        "try:\n    fit.emmeans('a')\nexcept ValueError as error:\n    print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    assert found.stdout.startswith("(1, 2)\n") and 'pip install "jaxlmm[formula]"' in found.stdout


def test_nothing_to_give(tmp_path: Path) -> None:
    save(jaxlmm.fit(np.ones((N, 1)), frame_of()["y"].to_numpy(), np.repeat(np.arange(8), 6)), tmp_path / "a")
    with pytest.raises(ValueError, match="context was given, but the fit is not by formula; leave it out"):
        load(tmp_path / "a", context={"f": abs})


# -- formulas are code -----------------------------------------------------------------------------

TRAP = "I(x + len([__import__('pathlib').Path({path!r}).touch()]))"


def test_a_formula_from_a_file_is_not_run(tmp_path: Path) -> None:
    """The text of a formula is evaluated by formulaic, so a file could hold anything."""
    fit, path = saved(tmp_path, "y ~ I(x + 0) + (1 | site)")
    trap = TRAP.format(path=str(tmp_path / "trapped"))
    rewrite(path, manifest={"formula": [f"y ~ {trap} + (1 | site)", "site"]})
    found = load(path)
    with pytest.raises(
        ValueError, match=r"comes from the file and uses '.*__import__.*', which is not among what is evaluated"
    ):
        found.predict(frame_of()[["x"]])
    for given in ({"data": frame_of()}, {"context": {"f": abs}}):
        with pytest.raises(ValueError, match=r"comes from the file and uses '.*__import__"):
            load(path, **given)
    np.testing.assert_array_equal(found.coef, fit.coef)
    assert not (tmp_path / "trapped").exists()
    with pytest.raises(ValueError, match=r"makes another X, by up to|columns other than those"):
        load(path, trust_formula=True)
    assert (tmp_path / "trapped").exists()  # the trap was a trap


def test_the_left_side_is_not_run_either(tmp_path: Path) -> None:
    fit, path = saved(tmp_path)
    trap = TRAP.format(path=str(tmp_path / "trapped"))
    rewrite(path, manifest={"formula": [f"{trap} ~ x + a + (1 | site)", "site"]})
    assert_same_bits(load(path).predict(frame_of()[["x", "a"]]), fit.predict(frame_of()[["x", "a"]]))
    assert not (tmp_path / "trapped").exists()


def test_a_column_called_open(tmp_path: Path) -> None:
    """A column of the file must not open the door to the function of that name."""
    fit = jaxlmm.lmm("y ~ x + open + (1 | site)", frame_of(open=INTEGERS))
    save(fit, tmp_path / "a")
    assert isinstance(load(tmp_path / "a").source, FormulaDesign)
    rewrite(tmp_path / "a", manifest={"formula": [f"y ~ x + I(open({str(tmp_path)!r})) + (1 | site)", "site"]})
    assert "which is not among what is evaluated" in load(tmp_path / "a").source.why


def test_a_formula_that_is_trusted(tmp_path: Path) -> None:
    frame = frame_of()
    fit = jaxlmm.lmm("y ~ I(x.map(lambda v: v * 2)) + (1 | site)", frame)
    save(fit, tmp_path / "a")
    assert "give trust_formula=True to load" in load(tmp_path / "a").source.why
    found = load(tmp_path / "a", trust_formula=True)
    assert_same_bits(found.predict(frame[["x"]]), fit.predict(frame[["x"]]))
