"""Fits in files: every bit comes back, and what is not in the file is refused in words."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import os
import uuid
import zipfile
import zoneinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import blup_sd, blups, simulate, value_of

import jaxlmm
from jaxlmm.loading.load import load
from jaxlmm.results.results import Fit
from jaxlmm.storage.save import save

SIZES = [3, 5, 4, 6, 3, 5]
CODES = np.random.default_rng(5).permutation(np.repeat(np.arange(6), SIZES))
ROWS = ("coef", "se_gls", "theta", "sigma2", "loglik", "hessian", "status", "n_used")
DERIVED = tuple("se df statistic pvalue vcov icc aic bic rsquared_marginal rsquared_conditional".split())
FROM_Y = ("ranef", "ranef_sd", "fitted", "resid")


def data(dtype: Any = np.float64, missing: bool = True) -> tuple[np.ndarray, np.ndarray]:
    X, Y = simulate(np.random.default_rng(2), CODES, p=3, m=8, ratio=1.0)
    if missing:
        Y[1, 1] = Y[[3, 4, 9, 20], 2] = Y[2, 3] = np.nan
        Y[:, 4] = np.nan
        Y[:, 5] = 1.0
    return X, Y.astype(dtype)


def fitted(groups: Any = CODES, dtype: Any = np.float64, missing: bool = True, **options: Any) -> Fit:
    X, Y = data(dtype, missing)
    return jaxlmm.fit(X, Y, groups, names=["one", "a", "b"], **options)


def assert_same_bits(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same(found: Fit, fit: Fit, derived: tuple[str, ...] = DERIVED) -> None:
    """Stored arrays bit by bit; what is computed from them up to roundings of the linear algebra."""
    for name in ROWS:
        assert_same_bits(getattr(found, name), getattr(fit, name))
    assert_same_bits(found.design.X, fit.design.X)
    assert (found.names, found.response_names) == (fit.names, fit.response_names)
    assert (found.method, found.df_method) == (fit.method, fit.df_method)
    for mine, theirs in zip(found.design.random, fit.design.random, strict=True):
        assert (mine.name, mine.levels) == (theirs.name, theirs.levels)
        assert [type(v) for v in mine.levels] == [type(v) for v in theirs.levels]
        assert_same_bits(mine.codes, theirs.codes)
    for name in derived:
        mine, theirs = (value() if callable(value := value_of(f, name)) else value for f in (found, fit))
        np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-13, err_msg=name)


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {}, {"method": "ML"}, {"df": "kenward-roger"}, {"df": "normal"}, {"missing": "refuse"},
    {"response_names": list("stuvwxyz")}, {"group_name": "site"}, {"weights": np.linspace(0.5, 2, len(CODES))},
    {"groups": None},
], ids=lambda o: next(iter(o), "default"))  # fmt: skip
@pytest.mark.parametrize("include_Y", [False, True])
def test_round_trip(options: dict[str, Any], include_Y: bool, tmp_path: Path) -> None:
    fit = fitted(**options)
    save(fit, tmp_path / "fit.npz", include_Y=include_Y)
    found = load(tmp_path / "fit.npz")
    assert isinstance(found, Fit)
    assert_same(found, fit, DERIVED + FROM_Y if include_Y else DERIVED)
    if options.get("weights") is not None:
        assert_same_bits(found.design.weights, fit.design.weights)
    L = np.array([[0, 1.0, -1.0], [1, 0, 0.5]])
    np.testing.assert_allclose(found.test(L).pvalue, fit.test(L).pvalue, rtol=1e-11)
    np.testing.assert_allclose(found.ftest(L).df_den, fit.ftest(L).df_den, rtol=1e-11)
    np.testing.assert_allclose(found.conf_int(0.9), fit.conf_int(0.9), rtol=1e-10)
    for name, value in fit.variance_se().items():
        np.testing.assert_allclose(found.variance_se()[name], value, rtol=1e-11)
    assert found.summary(1) == fit.summary(1) and found.summary(0) == fit.summary(0)
    other = "residual" if fit.df_method != "residual" else "normal"
    np.testing.assert_allclose(found.with_df(other).pvalue, fit.with_df(other).pvalue, rtol=1e-11)


def test_profile_needs_Y(tmp_path: Path) -> None:
    fit = fitted()
    save(fit, tmp_path / "with", include_Y=True)
    found, expected = load(tmp_path / "with").profile(), fit.profile()
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-9)
    np.testing.assert_allclose(found.group_sd, expected.group_sd, rtol=1e-9)


def test_incomplete_responses_keep_their_patterns(tmp_path: Path) -> None:
    fit = fitted()
    assert fit.incomplete.tolist() == [False, True, True, True, False, False, False, False]
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a")
    for where in ([2], [3, 0, 1], ["y6", "y2"], slice(1, 5), fit.incomplete, ~fit.incomplete):
        assert_same(found.select(where), fit.select(where))
    assert_same(found.select([5, 3, 2, 1]).select([2, 1]), fit.select([2, 3]))
    L = [[0, 1.0, 0], [0, 0, 1.0]]
    np.testing.assert_allclose(found.select([2]).ftest(L).statistic, fit.select([2]).ftest(L).statistic, rtol=1e-11)


def test_many_missing_patterns(tmp_path: Path) -> None:
    """More incomplete responses than are packed at once."""
    rng = np.random.default_rng(0)
    X, Y = simulate(rng, CODES, p=2, m=1100)
    Y[rng.integers(0, len(X), 1100), np.arange(1100)] = np.nan
    fit = jaxlmm.fit(X, Y, CODES)
    save(fit, tmp_path / "a")
    assert_same(load(tmp_path / "a"), fit)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ">f8", "<f8"])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_Y_comes_back_bit_by_bit(dtype: Any, layout: str, tmp_path: Path) -> None:
    X, Y = data(dtype)
    Y = {"C": np.ascontiguousarray, "F": np.asfortranarray, "strided": lambda y: np.repeat(y, 2, axis=1)[:, ::2]}[
        layout
    ](Y)
    fit = jaxlmm.fit(X, Y, CODES)
    save(fit, tmp_path / "a", include_Y=True)
    assert_same_bits(load(tmp_path / "a").Y, fit.Y)
    save(fit, tmp_path / "b")
    assert load(tmp_path / "b", Y=Y).Y is Y


def test_integer_Y(tmp_path: Path) -> None:
    X, Y = data(missing=False)
    Y = (100 * Y).astype(np.int16)
    fit = jaxlmm.fit(X, Y, CODES)
    save(fit, tmp_path / "a")
    assert_same(load(tmp_path / "a"), fit)
    assert_same(load(tmp_path / "a", Y=Y), fit, DERIVED + FROM_Y)


class Colour(enum.Enum):
    RED = 1


LABELS: dict[str, list[Any]] = {
    "text": list("abcdef"),
    "unicode": ["é", "日本", "\ud800", "", "a\nb", '"'],
    "integers": [-1, 0, 2**40, 10**30, 5, 7],
    "floats": [0.1, 1 / 3, 1e300, -5e-324, float("inf"), -0.0],
    "mixed": [1, "1", 2.5, b"1", True + 1, ("a", 1)],
    "tuples": [("a", 1), ("a", 2), ("b", (1, 2.5)), ("b", "x"), (), (datetime.date(2020, 1, 1),)],
    "datetimes": [datetime.datetime(2020, 1, d, 3, 4, 5, 678) for d in range(1, 7)],
    "zones": [
        datetime.datetime(2020, 10, 25, 2, 30, fold=f, tzinfo=z)
        for z in (zoneinfo.ZoneInfo("Europe/Berlin"), datetime.timezone(datetime.timedelta(hours=5, minutes=30)))
        for f in (0, 1)
    ][:3]
    + [datetime.datetime(2021, 1, d, tzinfo=datetime.UTC) for d in range(1, 4)],
    "dates": [datetime.date(2020, 1, d) for d in range(1, 7)],
    "timedeltas": [datetime.timedelta(days=-1, microseconds=d) for d in range(6)],
    "bytes": [bytes([d, 255]) for d in range(6)],
    "complex": [complex(d, -0.0) for d in range(6)],
    "decimals": [decimal.Decimal("0.10") + d for d in range(6)],
    "fractions": [fractions.Fraction(d, 7) for d in range(6)],
    "uuids": [uuid.UUID(int=d) for d in range(6)],
    "frozensets": [frozenset(range(d)) for d in range(6)],
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_groups(kind: str, tmp_path: Path) -> None:
    labels = LABELS[kind]
    fit = fitted([labels[c] for c in CODES], missing=False)
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a")
    assert_same(found, fit)
    assert repr(found.design.random[0].levels) == repr(fit.design.random[0].levels)  # zones, -0.0, fold, ...


def pandas_labels(pd: Any) -> dict[str, Any]:
    return {
        "timestamps": list(pd.date_range("2020-01-01", periods=6, tz="Europe/Berlin")),
        "nanoseconds": [pd.Timestamp("2020-01-01 00:00:00.123456789", tz="UTC") + pd.Timedelta(d) for d in range(6)],
        "offsets": [pd.Timestamp(f"2020-01-01 0{d}:00+02:00") for d in range(6)],
        "periods": list(pd.period_range("2020-01", periods=6, freq="M")),
        "intervals": list(pd.interval_range(0, 6, closed="left")),
        "cut": list(pd.cut(np.arange(0.5, 6), [0, 1, 2, 3, 4, 5, 6.5])),
        "intervals of times": list(pd.interval_range(pd.Timestamp("2020-01-01"), periods=6, freq="D")),
        "intervals of durations": list(pd.interval_range(pd.Timedelta(0), periods=6, freq="h")),
    }


@pytest.mark.parametrize(
    "kind",
    [*"timestamps nanoseconds offsets periods intervals cut".split(), "intervals of times", "intervals of durations"],
)
def test_labels_of_pandas(kind: str, tmp_path: Path) -> None:
    labels = pandas_labels(pytest.importorskip("pandas"))[kind]
    fit = fitted([labels[c] for c in CODES], missing=False)
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a")
    assert_same(found, fit)
    assert repr(found.design.random[0].levels) == repr(fit.design.random[0].levels)


class Text(str):
    pass


class Zone(datetime.tzinfo):
    def utcoffset(self, dt: Any) -> datetime.timedelta:
        return datetime.timedelta(0)

    def dst(self, dt: Any) -> None:
        return None


@pytest.mark.parametrize(
    ("label", "name"),
    [(Colour.RED, "Colour"), (object(), "object"), (Text("x"), "Text"), (("a", Text("x")), "Text"),
     (datetime.datetime(2020, 1, 1, tzinfo=Zone()), "datetime"), (range(3), "range")],
    ids=["enum", "object", "text of another class", "in a tuple", "time zone", "range"],
)  # fmt: skip
def test_labels_that_cannot_be_stored(label: Any, name: str, tmp_path: Path) -> None:
    fit = fitted([label if c == 2 else f"g{c}" for c in CODES], missing=False)
    with pytest.raises(ValueError) as error:
        save(fit, tmp_path / "a")
    assert f"({name}), which cannot be stored without loss" in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("design.random.0.levels.")
    assert list(tmp_path.iterdir()) == []


def test_terms(tmp_path: Path) -> None:
    fit = fitted(terms={"ab": ["a", "b"]}, missing=False)
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a")
    assert [(t.name, t.columns, t.tested) for t in found.design.terms.terms] == [
        (t.name, t.columns, t.tested) for t in fit.design.terms.terms
    ]
    np.testing.assert_allclose(found.anova().pvalue, fit.anova().pvalue, rtol=1e-11)


# -- formulas --------------------------------------------------------------------------------------


def by_formula(formula: str = "cbind(y, z) ~ age * C(sex) + (1 | site)") -> tuple[Any, Any]:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("formulaic")
    rng = np.random.default_rng(0)
    n = len(CODES)
    frame = pd.DataFrame({"age": rng.normal(size=n), "sex": rng.permutation(["f", "m"] * (n // 2)), "site": CODES})
    frame["y"], frame["z"] = rng.normal(size=(2, n)) + rng.normal(size=6)[CODES]
    return jaxlmm.lmm(formula, frame), frame


def test_formula(tmp_path: Path) -> None:
    fit, frame = by_formula()
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a")
    assert found.source.formula == fit.source.formula
    assert_same(found, fit)
    np.testing.assert_allclose(found.anova().statistic, fit.anova().statistic, rtol=1e-11)
    np.testing.assert_allclose(found.emmeans("sex").estimate, fit.emmeans("sex").estimate, rtol=1e-11)
    for new in (frame[["age", "sex"]], fit.design.X):
        np.testing.assert_allclose(found.predict(new), fit.predict(new), rtol=1e-11)


def test_a_formula_is_applied_again_to_the_data(tmp_path: Path) -> None:
    fit, frame = by_formula()
    save(fit, tmp_path / "a")
    save(load(tmp_path / "a"), tmp_path / "b")  # the formula outlives a second file
    found = load(tmp_path / "b", data=frame)
    np.testing.assert_allclose(found.emmeans("sex").estimate, fit.emmeans("sex").estimate, rtol=1e-11)
    new = frame[["age", "sex"]][:5]
    np.testing.assert_allclose(found.predict(new), fit.predict(new), rtol=1e-11)
    whole = load(tmp_path / "b", data=frame, Y=fit.Y)
    np.testing.assert_allclose(whole.predict(frame), fit.predict(frame), rtol=1e-11)
    with pytest.raises(
        ValueError, match=r"data is not what was fitted: formula 'cbind\(y, z\) .*' makes another X of it"
    ):
        load(tmp_path / "b", data=frame.assign(age=frame["age"] + 1))
    with pytest.raises(ValueError, match="data is not what was fitted"):
        load(tmp_path / "b", data=frame[:-2])


def test_functions_of_a_formula(tmp_path: Path) -> None:
    _, frame = by_formula()
    fit = jaxlmm.lmm("y ~ double(age) + (1 | site)", frame, context={"double": lambda x: 2 * x})
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a", data=frame, context={"double": lambda x: 2 * x})
    np.testing.assert_allclose(found.predict(frame[["age"]][:3]), fit.predict(frame[["age"]][:3]))
    with pytest.raises(ValueError, match="uses 'double', which no file can hold"):
        load(tmp_path / "a", data=frame)


def test_data_for_a_fit_without_formula(tmp_path: Path) -> None:
    save(fitted(), tmp_path / "a")
    with pytest.raises(ValueError, match="data was given, but the fit is not by formula; leave it out"):
        load(tmp_path / "a", data={"x": [1]})


# -- without Y -------------------------------------------------------------------------------------

NEEDS_Y = {
    "ranef": lambda fit: blups(fit),
    "ranef_sd": lambda fit: blup_sd(fit),
    "fitted": lambda fit: fit.fitted(),
    "resid": lambda fit: fit.resid(),
    "resid without random": lambda fit: fit.resid(random=False),
    "predict for groups": lambda fit: fit.predict(fit.design.X, CODES),
    "profile": lambda fit: fit.profile(),
    "a selection": lambda fit: fit.select([2, 1]).resid(),
    "rlrt": lambda fit: jaxlmm.rlrt(fit.select([0]), n_sim=10),
    "compare": lambda fit: jaxlmm.compare(fit, fit),
    "bootstrap": lambda fit: fit.bootstrap(2),
    "refit": lambda fit: jaxlmm.fit(fit.design.X, fit.Y),
    "the array": lambda fit: np.asarray(fit.Y),
    "a column": lambda fit: fit.Y[:, 0],
    "saving it": lambda fit: save(fit, os.devnull, include_Y=True, overwrite=True),
}


@pytest.mark.parametrize("what", NEEDS_Y)
def test_what_needs_Y_says_so(what: str, tmp_path: Path) -> None:
    save(fitted(), tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"saved without its responses.*load\(path, Y=\.\.\.\).*include_Y=True"
    ) as error:
        NEEDS_Y[what](load(tmp_path / "a"))
    assert "\n" not in str(error.value)


def test_fitted_values_that_need_no_Y(tmp_path: Path) -> None:
    fit = fitted()
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a")
    np.testing.assert_array_equal(found.fitted(random=False), fit.fitted(random=False))
    np.testing.assert_array_equal(found.predict(fit.design.X), fit.predict(fit.design.X))
    assert repr(found) == repr(fit)
    plain = fitted(groups=None)
    save(plain, tmp_path / "b")
    np.testing.assert_array_equal(load(tmp_path / "b").fitted(), plain.fitted())


def test_what_needs_only_the_missing_cells(tmp_path: Path) -> None:
    """Of random slopes R squared asks which rows a response has, and so do tables of types I and II."""
    xr = pytest.importorskip("xarray")
    X, Y = data()
    fit = jaxlmm.fit(X, Y, random=[jaxlmm.random_term(CODES, X[:, :2])])
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a")
    assert fit.incomplete.any()
    np.testing.assert_array_equal(found.rsquared_conditional, fit.rsquared_conditional)
    assert found.glance().equals(fit.glance())
    xr.testing.assert_allclose(found.to_dataset(), fit.to_dataset(), rtol=1e-9)
    for kind in (1, 2, 3):
        np.testing.assert_allclose(found.anova(kind).pvalue, fit.anova(kind).pvalue, rtol=1e-9)


def test_Y_given_back(tmp_path: Path) -> None:
    fit = fitted()
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a", Y=data()[1])
    assert type(found) is Fit
    assert_same(found, fit, DERIVED + FROM_Y)
    save(fit, tmp_path / "b", include_Y=True)
    assert_same(load(tmp_path / "b", Y=data()[1]), fit, FROM_Y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda Y: Y[:, ::-1], "Y is not what was fitted: 8 responses, the first 'y0', differ"),
        (lambda Y: np.where(np.arange(8) == 6, Y + 1e-12, Y), "1 responses, the first 'y6', differ"),
        (lambda Y: Y.astype(np.float32), "8 responses, the first 'y0', differ in their values or type (now float32)"),
        (lambda Y: Y[:, :5], "Y has 5 columns, the fit has 8 responses"),
        (lambda Y: Y[:7], "Y has 7 rows, X has 26"),
        (lambda Y: Y[::-1], "the first 'y0', differ"),
    ],
    ids=["columns", "a value", "type", "fewer columns", "fewer rows", "rows"],
)
def test_another_Y_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    save(fitted(), tmp_path / "a")
    with pytest.raises(ValueError) as error:
        load(tmp_path / "a", Y=change(data()[1]))
    assert message in str(error.value)


def test_saving_again_without_Y(tmp_path: Path) -> None:
    fit, where = fitted(), [7, 2, 1]
    save(fit, tmp_path / "a")
    save(load(tmp_path / "a").select(where), tmp_path / "b")
    assert_same(load(tmp_path / "b"), fit.select(where))
    assert_same(load(tmp_path / "b", Y=data()[1][:, where]), fit.select(where), DERIVED + FROM_Y)
    with pytest.raises(ValueError, match="the first 'y7', differ"):
        load(tmp_path / "b", Y=data()[1][:, :3])


def test_tables_of_a_loaded_fit(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    from jaxlmm.results.tables import glance, tidy

    fit = fitted()
    save(fit, tmp_path / "a")
    found = load(tmp_path / "a")
    pd.testing.assert_frame_equal(tidy(found, adjust="bh"), tidy(fit, adjust="bh"), rtol=1e-11)
    pd.testing.assert_frame_equal(glance(found), glance(fit), rtol=1e-11)
    with pytest.raises(ValueError, match="saved without its responses"):
        tidy(found, effects="ran_vals")


# -- files -----------------------------------------------------------------------------------------


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.npz exists; give another path, or overwrite=True"):
        save(fitted(), path)
    assert path.read_text() == "mine"
    save(fitted(), str(path), overwrite=True)
    assert load(path).n_responses == 8
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    save(fitted(), path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save(fitted(method="ML"), path, overwrite=True)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    monkeypatch.setattr(os, "fsync", lambda *_: path.write_text("theirs"))
    with pytest.raises(FileExistsError):
        save(fitted(), path)
    assert path.read_text() == "theirs" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_text("old")
    save(fitted(), tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and load(tmp_path / "target").n_responses == 8


def test_missing_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(fitted(), tmp_path / "no" / "a")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "a")


def test_numpy_opens_the_file(tmp_path: Path) -> None:
    fit = fitted()
    save(fit, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["coef"], fit.coef)
        manifest = json.loads(archive["manifest.json"])
    assert manifest["format"] == "jaxlmm fit" and manifest["version"] == [1, 1] and manifest["jaxlmm"]


def rewrite(path: Path, **changes: Any) -> None:
    """Change members of a saved file: arrays by name, manifest={...} to update the manifest.

    None takes an array away, ``...`` an entry of the manifest.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"]) | changes.pop("manifest", {})
    manifest = {name: value for name, value in manifest.items() if value is not ...}
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in members.items():
            if changes.get(name.removesuffix(".npy"), "") is None:
                continue
            with archive.open(name, "w") as member:
                if name.removesuffix(".npy") in changes:
                    np.lib.format.write_array(member, changes[name.removesuffix(".npy")])
                else:
                    member.write(value)


def test_newer_formats(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save(fitted(), path)
    rewrite(path, manifest={"version": [2, 0], "jaxlmm": "9.1"})
    with pytest.raises(
        ValueError, match=r"a was written by jaxlmm 9\.1 in format 2, and this version reads format 1"
    ):
        load(path)
    rewrite(path, manifest={"version": [1, 3]})
    assert load(path).n_responses == 8  # a minor version changes nothing that is read
    fields = json.loads(zipfile.ZipFile(path).read("manifest.json"))["fields"]
    rewrite(path, manifest={"fields": fields | {"slopes": None}})
    with pytest.raises(
        ValueError, match=r"written by jaxlmm 9\.1 and holds 'slopes', which this version does not know"
    ):
        load(path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def a_byte(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"coef.npy") + 300] ^= 1
    path.write_bytes(whole)


def other_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=np.ones(3))


FIELDS = {"coef": {"array": "coef"}}
DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "truncated": truncated,
    "a byte": a_byte,
    "other npz": other_npz,
    "other format": lambda path: rewrite(path, manifest={"format": "kitchen"}),
    "no version": lambda path: rewrite(path, manifest={"version": None}),
    "an array is gone": lambda path: rewrite(path, coef=None),
    "no fields": lambda path: rewrite(path, manifest={"fields": FIELDS}),
    "unknown type": lambda path: rewrite(path, manifest={"fields": FIELDS | {"design": {"os.system": ["ls"]}}}),
    "another X": lambda path: rewrite(path, **{"design.X": fitted().design.X + 1}),
    "another group": lambda path: rewrite(path, **{"design.random.0.codes": CODES[::-1].copy()}),
    "checksum": lambda path: rewrite(path, manifest={"design": "0" * 64}),
    "objects": lambda path: rewrite(path, coef=np.array([None, 1], dtype=object)),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_and_foreign_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    save(fitted(), path)
    DAMAGES[kind](path)
    with pytest.raises(ValueError) as error:
        load(path)
    assert str(error.value).startswith(f"{path} is no file that jaxlmm.save wrote, or it is damaged: ")


def test_no_field_is_forgotten(tmp_path: Path) -> None:
    """A field added to Fit or Design is stored, or save says that it cannot."""
    fit = fitted()
    save(fit, tmp_path / "a")
    manifest = json.loads(zipfile.ZipFile(tmp_path / "a").read("manifest.json"))
    assert set(manifest["fields"]) == {f.name for f in dataclasses.fields(Fit)} - {
        "Y",
        "known",
        "model",
        "source",
        "weights",
    }  # these where there are some; what is known of tests is worked out again
    assert set(manifest["fields"]["design"]["Design"]) == {f.name for f in dataclasses.fields(fit.design)}
    odd = dataclasses.replace(fit, method=object())
    with pytest.raises(ValueError, match=r"method holds .*\(object\), which cannot be stored"):
        save(odd, tmp_path / "b")


# -- Zarr stores ----------------------------------------------------------------------------------


@pytest.mark.parametrize("include_Y", [False, True])
def test_a_zarr_store_is_lossless_too(tmp_path: Path, include_Y: bool) -> None:
    xr = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(60, 7))
    Y[3, 2], Y[:, 5] = np.nan, 1.0
    X, groups = np.column_stack([np.ones(60), rng.normal(size=60)]), np.repeat(list("abcdef"), 10)
    fit = jaxlmm.fit(X, Y, groups, df="kenward-roger", response_names=[f"e{j}" for j in range(7)])
    fit.save(tmp_path / "fit.zarr", include_Y=include_Y)
    again = jaxlmm.load(tmp_path / "fit.zarr")
    for name in ("coef", "se_gls", "theta", "sigma2", "loglik", "hessian", "status", "n_used"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fit, name), err_msg=name)
    for name in ("se", "df", "vcov"):  # of incomplete responses they are computed again
        np.testing.assert_allclose(getattr(again, name), getattr(fit, name), rtol=1e-12, err_msg=name)
    assert again.response_names == fit.response_names and again.design.random[0].levels == fit.design.random[0].levels
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit.zarr"]
    opened = xr.open_zarr(tmp_path / "fit.zarr", chunks=None)
    xr.testing.assert_equal(opened.drop_vars(["se_gls", "theta", "hessian"]).load(), fit.to_dataset())
    if include_Y:
        np.testing.assert_array_equal(again.Y, Y)
        np.testing.assert_array_equal(blups(again), blups(fit))
    else:
        np.testing.assert_array_equal(blups(jaxlmm.load(tmp_path / "fit.zarr", Y=Y)), blups(fit))
        with pytest.raises(ValueError, match="is not what was fitted: 1 responses, the first 'e6'"):
            jaxlmm.load(tmp_path / "fit.zarr", Y=np.where(np.arange(7) == 6, Y + 1, Y))
    again.save(tmp_path / "twice.zarr")
    np.testing.assert_array_equal(jaxlmm.load(tmp_path / "twice.zarr").coef, fit.coef)
    with pytest.raises(FileExistsError, match="exists; give another path, or overwrite=True"):
        fit.save(tmp_path / "fit.zarr")
    fit.select(["e1"]).save(tmp_path / "fit.zarr", overwrite=True)
    assert jaxlmm.load(tmp_path / "fit.zarr").response_names == ("e1",)


def test_a_damaged_zarr_store_says_where(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    rng = np.random.default_rng(0)
    X, groups = np.ones((40, 1)), np.repeat(list("abcd"), 10)
    for name in ("status", "coef", "theta"):
        jaxlmm.fit(X, rng.normal(size=(40, 5)), groups).save(tmp_path / "fit.zarr", overwrite=True)
        chunk = next(p for p in (tmp_path / "fit.zarr" / name).iterdir() if p.name[0] != ".")
        kept = chunk.read_bytes()
        chunk.unlink()  # Zarr would take it for one that was never written
        with pytest.raises(ValueError, match=r"the results of responses \[0:5\] are not those that were written"):
            jaxlmm.load(tmp_path / "fit.zarr")
        chunk.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
        with pytest.raises(ValueError, match=r"fit\.zarr is no file .* or it is damaged"):
            jaxlmm.load(tmp_path / "fit.zarr")


def test_labels_survive_in_a_zarr_store(tmp_path: Path) -> None:
    xr = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    rng = np.random.default_rng(0)
    Y = xr.DataArray(
        rng.normal(size=(40, 3, 2)), dims=("trial", "channel", "time"), attrs={"units": "uV"},
        coords={"channel": ["Fz", "Cz", "Pz"], "time": [0.1, 0.2], "x": ("channel", [1.0, 2.0, 3.0])},
    )  # fmt: skip
    found = jaxlmm.fit(np.ones((40, 1)), Y, np.repeat(list("abcd"), 10), obs_dim="trial")
    found.save(tmp_path / "maps.zarr")
    again = jaxlmm.load(tmp_path / "maps.zarr")
    xr.testing.assert_identical(again.to_dataset(), found.to_dataset())
    assert again.response_names == found.response_names and again.labels.units == "uV"
    assert again.tidy().equals(found.tidy())
    renamed = jaxlmm.fit(np.ones((40, 1)), Y.rename(channel="theta"), obs_dim="trial")
    with pytest.raises(ValueError, match="dimension or coordinate 'theta', which stores use; rename it"):
        renamed.save(tmp_path / "lam.zarr")
