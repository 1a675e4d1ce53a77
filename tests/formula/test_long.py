"""Long tables: a response for each combination of columns, and what is refused because it cannot be decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import jaxlmm
from jaxlmm.cli.cli import main

pd = pytest.importorskip("pandas")
pytest.importorskip("formulaic")

FORMULA = "rt ~ cond + (1 | subject)"
BY, OBS = ["electrode", "time"], ["subject", "trial"]
S, T = 6, 8
N = S * T
RNG = np.random.default_rng(0)
WIDE = pd.DataFrame({
    "subject": np.repeat([f"s{i}" for i in range(S)], T),
    "trial": np.tile(np.arange(T), S),
    "cond": np.tile(["a", "b"], N // 2),
    "age": np.repeat(RNG.normal(size=S), T),
})  # fmt: skip
# Electrodes stand in the order of the table, times are sorted.
ELECTRODES, TIMES = ["Pz", "Cz", "Fz"], [0.2, 0.1]
Y = RNG.normal(size=(N, 3, 2)) + RNG.normal(size=(S, 3, 2)).repeat(T, axis=0)


def long(Y: np.ndarray = Y, **columns: Any) -> pd.DataFrame:
    """The table, NaN left out."""
    parts = [
        WIDE.assign(electrode=e, time=t, rt=Y[:, j, k]) for j, e in enumerate(ELECTRODES) for k, t in enumerate(TIMES)
    ]
    return pd.concat(parts, ignore_index=True).dropna(subset="rt").reset_index(drop=True).assign(**columns)


def shuffled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sample(frac=1, random_state=1).reset_index(drop=True)


def expected(Y: np.ndarray = Y, formula: str = "cond + (1 | subject)", **options: Any) -> jaxlmm.Fit:
    """The responses in columns, times sorted."""
    return jaxlmm.lmm(formula, WIDE, Y[:, :, ::-1].reshape(N, -1), **options)


def assert_same(fit: jaxlmm.Fit, other: jaxlmm.Fit) -> None:
    np.testing.assert_allclose(fit.coef, other.coef, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fit.pvalue, other.pvalue, rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(fit.n_used, other.n_used)


def test_a_response_for_each_combination() -> None:
    fit = jaxlmm.lmm(FORMULA, long(), by=BY)
    assert fit.dims == ("electrode", "time") and fit.shape == (3, 2)
    assert fit.labels.coords["electrode"].values.tolist() == ELECTRODES
    assert fit.labels.coords["time"].values.tolist() == [0.1, 0.2]
    assert fit.response_names[1] == "Pz, 0.2" and fit.source.formula == FORMULA
    assert_same(fit, expected())
    assert fit.sel(electrode="Cz", time=0.1).n_responses == 1
    np.testing.assert_allclose(fit.predict(WIDE.head(3)), expected().predict(WIDE.head(3)), rtol=1e-6)
    rows = fit.tidy(adjust="bh")
    assert rows.columns[:3].tolist() == ["electrode", "time", "effect"]


@pytest.mark.parametrize("kind", ["frame", "dict", "Arrow", "polars"])
def test_rows_in_any_order_in_any_table(kind: str) -> None:
    frame = shuffled(long())
    make: dict[str, Callable[[], Any]] = {
        "frame": lambda: frame,
        "dict": lambda: {name: frame[name].to_numpy() for name in frame},
        "Arrow": lambda: pytest.importorskip("pyarrow").Table.from_pandas(frame, preserve_index=False),
        "polars": lambda: pytest.importorskip("polars").from_pandas(frame),
    }
    fit = jaxlmm.lmm(FORMULA, make[kind](), by=BY, obs=OBS)
    same = fit.sel(electrode=ELECTRODES, time=[0.1, 0.2])
    assert_same(same, expected())
    # The observations stand as they first appear.
    assert fit.source.frame["cond"].tolist() == frame.drop_duplicates(OBS)["cond"].tolist()


def test_a_row_that_is_not_there_is_a_missing_observation() -> None:
    holes = Y.copy()
    holes[[3, 17, 40], [0, 1, 2], [1, 0, 1]] = np.nan
    holes[:, 2, 0] = np.nan  # a combination that never occurs
    fit = jaxlmm.lmm(FORMULA, long(holes), by=BY, obs=OBS)
    assert_same(fit, expected(holes))
    assert fit.sel(electrode="Fz", time=0.2).n_used == 0 and not fit.sel(electrode="Fz", time=0.2).converged
    written = long()
    written.loc[written.index[[5, 150]], "rt"] = np.nan  # missing in the table itself
    assert jaxlmm.lmm(FORMULA, written, by=BY).n_used.tolist() == [48, 47, 47, 48, 48, 48]


def test_covariates_and_groups_tell_observations_apart_where_they_do() -> None:
    means = long().groupby(["subject", "cond", *BY], as_index=False, sort=False)["rt"].mean()
    whole = jaxlmm.lmm(FORMULA, shuffled(means), by=BY, obs=["subject", "cond"])
    assert whole.n_obs == 2 * S
    part = jaxlmm.lmm(FORMULA, shuffled(means).drop(index=[3, 30]), by=BY)
    assert part.n_obs == 2 * S and sorted(part.n_used)[:2] == [11, 11]
    # Each combination lacks another: nothing says that these are not other covariates.
    first = means.groupby(BY, sort=False).cumcount() == means.groupby(BY, sort=False).ngroup()
    with pytest.raises(ValueError, match="no combination of 'electrode', 'time' has all 12 sets of values of 'cond'"):
        jaxlmm.lmm(FORMULA, means[~first], by=BY)
    assert set(jaxlmm.lmm(FORMULA, means[~first], by=BY, obs=["subject", "cond"]).n_used) == {11}


def test_rows_that_are_alike_stand_in_the_same_order_everywhere() -> None:
    no_trial = long().drop(columns=["trial", "age"])
    assert_same(jaxlmm.lmm(FORMULA, no_trial, by=BY), expected())
    # In any order of these the fits are the same: they are exchangeable in each response.
    part = no_trial[(no_trial["electrode"] == "Cz") & (no_trial["subject"] == "s0") & (no_trial["cond"] == "a")]
    mixed = no_trial.copy()
    mixed.loc[part.index[:4], "rt"] = part["rt"].to_numpy()[:4][::-1]
    assert_same(jaxlmm.lmm(FORMULA, mixed, by=BY), expected())


def test_weights_are_a_column() -> None:
    w = RNG.uniform(1, 2, N)
    fit = jaxlmm.lmm(FORMULA, long().assign(w=np.tile(w, 6)), by=BY, obs=OBS, weights="w")
    assert fit.weights is None
    assert_same(fit, expected(weights=w))
    W = RNG.uniform(1, 2, (N, 3, 2))
    table = long().assign(w=np.moveaxis(W, 0, -1).reshape(-1))
    assert_same(
        jaxlmm.lmm(FORMULA, table, by=BY, obs=OBS, weights="w"), expected(weights=W[:, :, ::-1].reshape(N, -1))
    )


def test_labels_of_each_kind() -> None:
    kinds = {
        "integers": ([30, 4], [4, 30]),
        "categories": (pd.Categorical(["late", "early"], ["none", "late", "early"]), ["late", "early"]),
        "bools": ([True, False], [False, True]),
        "days": (np.array(["2020-01-02", "2020-01-01"], dtype="datetime64[ns]"), None),
        "text": (["b", "a"], ["b", "a"]),
    }
    for kind, (values, labels) in kinds.items():
        column = pd.Series(values).take(np.repeat([0, 1, 0, 1, 0, 1], N)).array
        fit = jaxlmm.lmm(FORMULA, long().assign(time=column), by=BY, obs=OBS)
        found = fit.labels.coords["time"].values
        assert labels is None or found.tolist() == labels, kind
        assert labels is not None or (found[0] < found[1] and found.dtype.kind == "M")


def test_to_disk_and_a_response_that_is_computed(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    computed = jaxlmm.lmm("I(rt * 2 + 1) ~ cond + (1 | subject)", long(), by=BY)
    np.testing.assert_allclose(computed.coef[:, 1], 2 * expected().coef[:, 1], rtol=1e-6, atol=1e-9)
    named = jaxlmm.lmm("cond + (1 | subject)", long(), by=BY, responses="rt")
    assert_same(named, expected())
    data = jaxlmm.lmm(FORMULA, long(), by=BY, out=tmp_path / "r.zarr", progress=False)
    assert data["coef"].dims == ("term", "electrode", "time")
    np.testing.assert_array_equal(jaxlmm.load(tmp_path / "r.zarr").coef, named.coef)
    named.save(tmp_path / "fit.npz")
    assert jaxlmm.load(tmp_path / "fit.npz").sel(electrode="Cz").dims == ("time",)


REFUSED: dict[str, tuple[Callable[[], pd.DataFrame], dict[str, Any], str]] = {
    "long-twice": (
        lambda: pd.concat([long(), long().iloc[[7]]], ignore_index=True), {"obs": OBS},
        "rows 7 and 288 of data are both observation subject='s0', trial=7 at electrode='Pz', time=0.2",
    ),
    "long-obs-short": (long, {"obs": "trial"}, "obs=['trial', 'subject']"),
    "long-by-short": (long, {"obs": OBS, "by": "electrode"}, "they differ in 'time', or does that belong into by?"),
    "long-covariate-differs": (
        lambda: long(cond=np.where(np.arange(6 * N) == 100, "b", np.tile(WIDE["cond"], 6))), {"obs": OBS},
        "column 'cond' differs between the responses of observation subject='s0', trial=4: 'a' at electrode='Pz'",
    ),
    "long-order": (lambda: shuffled(long()), {}, "not all have them in the same order; say which columns tell"),
    "long-trials-in-another-order": (
        lambda: long(trial=np.r_[np.tile(WIDE["trial"], 5), WIDE["trial"][::-1]]), {},
        "column 'trial' holds the same values in each combination in another order",
    ),
    "long-repeats-missing": (
        lambda: long().iloc[:-5], {}, "not all combinations have as many rows; say which columns tell observations"
    ),
    "long-no-complete": (
        lambda: long(cond=RNG.normal(size=6 * N)), {}, "cannot be told from covariates that differ between",
    ),
    "long-by-in-formula": (
        long, {"formula": "rt ~ electrode + (1 | subject)"}, "uses 'electrode', which by names too",
    ),
    "long-by-unknown": (long, {"by": "electrod"}, "by names 'electrod', which is no column of the data"),
    "long-obs-unknown": (long, {"obs": "trail"}, "did you mean 'trial'"),
    "long-by-missing": (
        lambda: long(electrode=np.where(np.arange(6 * N) == 9, None, "Cz")), {}, "'electrode' of by has 1 missing",
    ),
    "long-obs-missing": (
        lambda: long(trial=np.where(np.arange(6 * N) == 9, np.nan, 1)), {"obs": OBS}, "'trial' of obs has 1 miss",
    ),
    "long-by-roundings": (
        lambda: long(time=np.repeat([0.3, 0.1 + 0.2, 0.3, 0.4, 0.3, 0.4], N)), {}, "which differ by a rounding",
    ),
    "long-by-mixed": (
        lambda: long(time=np.repeat(np.array([1, "b"] * 3, dtype=object), N)), {}, "holds int and str objects",
    ),
    "long-by-reserved": (lambda: long().assign(term=1), {"by": "term"}, "'term', which the results use; rename"),
    "long-whole-column": (
        long, {"formula": "scale(rt) ~ cond + (1 | subject)"}, "is computed of whole columns, which with by=",
    ),
    "long-two-responses": (
        lambda: long().assign(z=1.0), {"formula": "cbind(rt, z) ~ cond"}, "of one column of values, found 2: rt, z",
    ),
    "long-no-response": (long, {"formula": "cond"}, "names no response; write 'y ~ ...'"),
    "long-beside-Y": (long, {"Y": Y}, "Y is given beside by"),
    "long-obs-alone": (long, {"by": None, "obs": "trial"}, "obs is given without by"),
    "long-weights-array": (long, {"weights": np.ones(6 * N)}, "with by= weights is the name of a column"),
    "long-sparse": (
        lambda: long().assign(time=np.arange(6 * N), trial=np.arange(6 * N)), {"obs": "trial"}, "numbers the rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxlmm.formula.long.MOST_BYTES", 10**6)
    make, change, message = REFUSED[case]
    with pytest.raises(ValueError) as caught:
        jaxlmm.lmm(**{"formula": FORMULA, "data": make(), "by": BY} | change)
    assert message in str(caught.value)


def test_every_refusal_is_in_the_table_of_bad_input() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bad-input.md").read_text()
    for case in REFUSED:
        assert f"| `{case}` |" in text


def test_without_by_a_long_table_is_one_response() -> None:
    """That stays the user's to say; the page on long tables does."""
    assert jaxlmm.lmm(FORMULA, long()).n_obs == 6 * N


# -- the command line ----------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    return result.exit_code, result.output


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxlmm.cli.run.CHUNK", 4)
    table = tmp_path / "long.csv"
    shuffled(long()).to_csv(table, index=False)
    common = ["fit", table, "--formula", FORMULA, "--by", "electrode", "--by", "time"]
    code, text = run(*common, "--out", tmp_path / "a.csv")
    assert code == 1 and "say which columns tell observations apart" in text
    common += ["--obs", "subject", "--obs", "trial"]
    code, text = run(*common, "--out", tmp_path / "a.csv", "--save", tmp_path / "fit.npz", "--adjust", "bh")
    assert code == 0 and text.startswith("6 responses ("), text
    rows = pd.read_csv(tmp_path / "a.csv")
    assert rows.columns[:3].tolist() == ["electrode", "time", "effect"]
    fit = jaxlmm.load(tmp_path / "fit.npz")
    same = fit.tidy(adjust="bh")
    for name in ("electrode", "time"):
        assert rows[name].tolist() == same[name].tolist()
    np.testing.assert_allclose(rows["p.adjusted"], same["p.adjusted"], rtol=1e-9)
    code, text = run(*common, "--out", tmp_path / "b.csv", "--what", "glance")
    assert code == 0 and len(pd.read_csv(tmp_path / "b.csv")) == 6, text
    pytest.importorskip("zarr")
    code, text = run(*common, "--out", tmp_path / "c.zarr", "--no-progress")
    assert code == 0, text
    np.testing.assert_allclose(jaxlmm.load(tmp_path / "c.zarr").coef, fit.coef, rtol=1e-9)
    np.save(tmp_path / "y.npy", Y)
    code, text = run(*common, "--array", tmp_path / "y.npy", "--out", tmp_path / "d.csv")
    assert code == 1 and "--by and --array are both given" in text
    code, text = run("fit", table, "--formula", FORMULA, "--obs", "trial", "--out", tmp_path / "e.csv")
    assert code == 1 and "obs is given without by" in text
