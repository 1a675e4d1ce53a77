"""Missing covariates and groups: rows are dropped as lme4 drops them, by every route, or refused."""

from __future__ import annotations

import json
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
xr = pytest.importorskip("xarray")

REFERENCE = Path(__file__).parents[1] / "reference"
FORMULA = "age * cond + (1 | subject)"
N, M = 60, 4
RNG = np.random.default_rng(3)
FRAME = pd.DataFrame({
    "age": RNG.normal(size=N),
    "cond": np.tile(["a", "b", "c"], N // 3).astype(object),
    "subject": np.repeat([f"s{i}" for i in range(10)], 6).astype(object),
    "w": RNG.uniform(1, 2, N),
})  # fmt: skip
Y = RNG.normal(size=(N, M)) + RNG.normal(size=(10, M)).repeat(6, axis=0)
Y[20, 1] = np.nan  # a missing response beside them
DROPPED = [3, 17, 41]
KEPT = np.delete(np.arange(N), DROPPED)


def holes() -> pd.DataFrame:
    """A covariate, a factor and a group that miss a value each."""
    frame = FRAME.copy()
    frame.loc[3, "age"], frame.loc[17, "cond"], frame.loc[41, "subject"] = np.nan, None, None
    return frame


def expected(**options: Any) -> jaxlmm.Fit:
    """The rows left out by hand."""
    return jaxlmm.lmm(FORMULA, FRAME.iloc[KEPT].reset_index(drop=True), Y[KEPT], **options)


def arrays(found: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if isinstance(found, jaxlmm.Fit):
        return found.coef, found.pvalue, found.n_used
    p = found.sizes["term"]
    return (*(found[k].values.reshape(p, -1).T for k in ("coef", "pvalue")), found["n_used"].values.reshape(-1))


def assert_same(found: Any, other: jaxlmm.Fit) -> None:
    for one, two in zip(arrays(found), arrays(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-9)


def labelled(frame: pd.DataFrame | None = None) -> xr.DataArray:
    made = xr.DataArray(Y.reshape(N, 2, 2), dims=("trial", "channel", "time"), coords={"trial": np.arange(N) + 7})
    return made if frame is None else made.assign_coords({k: ("trial", frame[k].to_numpy()) for k in frame})


def epochs(frame: pd.DataFrame) -> xr.DataArray:
    mne = pytest.importorskip("mne")
    info = mne.create_info(["Fz", "Cz"], 100.0, "eeg")
    made = mne.EpochsArray(Y.reshape(N, 2, 2), info, metadata=frame.drop(columns="w"), verbose=False)
    return jaxlmm.mne_io.epochs_to_dataarray(made)


def with_responses(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.join(pd.DataFrame(Y, columns=[f"y{j}" for j in range(M)]))


def command(frame: pd.DataFrame, folder: Path, name: str, *options: str) -> Any:
    table = folder / name
    (with_responses(frame).to_parquet if name.endswith("parquet") else with_responses(frame).to_csv)(
        table, index=False
    )
    np.save(folder / "y.npy", Y)
    out = folder / ("r.zarr" if options else "r.npz")
    more = ["--out", str(folder / "r.csv"), "--save", str(out), "--responses", "y*"]
    arguments = [o.replace("FOLDER", str(folder)) for o in options] + ["--out", str(out)] if options else more
    result = CliRunner().invoke(main, ["fit", str(table), "--formula", FORMULA, *arguments])
    if result.exit_code:
        raise ValueError(result.output)
    assert "3 of 60 rows dropped" in result.output or "3 rows dropped" in result.output
    return jaxlmm.load(out)


def npy(folder: Path) -> Path:
    np.save(folder / "big.npy", Y.reshape(N, 2, 2))
    return folder / "big.npy"


def dask_array() -> Any:
    return pytest.importorskip("dask.array").from_array(Y, (9, 2))


def zarr_array(folder: Path) -> str:
    zarr = pytest.importorskip("zarr")
    zarr.create_array(folder / "y.zarr", data=Y.reshape(N, 2, 2), chunks=(N, 1, 2))
    return str(folder / "y.zarr")


Route = Callable[[pd.DataFrame, Path], Any]
ROUTES: dict[str, Route] = {
    "frame": lambda f, d: jaxlmm.lmm(FORMULA, f, Y),
    "columns": lambda f, d: jaxlmm.lmm(FORMULA, with_responses(f), responses="y*"),
    "cbind": lambda f, d: jaxlmm.lmm(f"cbind(y0, y1 * 1, y2, y3) ~ {FORMULA}", with_responses(f)),
    "dict": lambda f, d: jaxlmm.lmm(FORMULA, {k: f[k].to_numpy() for k in f}, Y),
    "polars": lambda f, d: jaxlmm.lmm(FORMULA, pytest.importorskip("polars").from_pandas(f), Y),
    "Arrow": lambda f, d: jaxlmm.lmm(FORMULA, pytest.importorskip("pyarrow").Table.from_pandas(f), Y),
    "list": lambda f, d: jaxlmm.lmm(FORMULA, f, Y.tolist()),
    "frame of responses": lambda f, d: jaxlmm.lmm(FORMULA, f, pd.DataFrame(Y)),
    "DataArray and a table": lambda f, d: jaxlmm.lmm(FORMULA, f, labelled(), obs_dim="trial"),
    "coordinates": lambda f, d: jaxlmm.lmm(FORMULA, Y=labelled(f)),
    "MNE": lambda f, d: jaxlmm.lmm(FORMULA, Y=epochs(f), obs_dim="trial"),
    "dask": lambda f, d: jaxlmm.lmm(FORMULA, Y=labelled(f).chunk(time=1), obs_dim="trial").compute(),
    "dask array": lambda f, d: jaxlmm.lmm(FORMULA, f, dask_array()).compute(),
    "memory map": lambda f, d: jaxlmm.lmm(FORMULA, f, npy(d)),
    "Zarr": lambda f, d: jaxlmm.lmm(FORMULA, f, zarr_array(d)),
    "to a store": lambda f, d: jaxlmm.lmm(FORMULA, f, Y, out=d / "r.zarr", progress=False),
    "from a store to a store": lambda f, d: jaxlmm.lmm(FORMULA, f, zarr_array(d), out=d / "r.zarr", progress=False),
    "weights of their own": lambda f, d: jaxlmm.lmm(FORMULA, f, Y, weights=np.ones_like(Y)),
    "weights of their own, dask": lambda f, d: jaxlmm.lmm(
        FORMULA, f, labelled().chunk(time=1), obs_dim="trial", weights=np.ones((N, 2, 2))).compute(),
    "prepared": lambda f, d: jaxlmm.prepare(FORMULA, f).fit(Y),
    "csv": lambda f, d: command(f, d, "t.csv"),
    "parquet and a store": lambda f, d: command(f, d, "t.parquet", "--array", "FOLDER/y.npy"),
}  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
def test_rows_are_dropped_by_every_route(route: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxlmm.sources.lazy.LOAD_BYTES", 100)  # what is small is read in blocks too
    found = ROUTES[route](holes(), tmp_path)
    assert_same(found, expected())
    if isinstance(found, jaxlmm.Fit):
        assert found.dropped.tolist() == DROPPED and found.design.n_given == N
        assert dict(found.design.dropped.missing) == {"age": 1, "cond": 1, "subject": 1}
    else:
        assert found.attrs["n_dropped"] == 3 and found.attrs["n_obs"] == N - 3


def test_matrices_refuse_unless_told_otherwise() -> None:
    X = np.column_stack([np.ones(N), FRAME["age"]])
    X[3, 1] = np.nan
    groups = FRAME["subject"].copy()
    groups[41] = None
    whole = jaxlmm.fit(X[KEPT2], Y[KEPT2], FRAME["subject"].to_numpy()[KEPT2])
    for make in (lambda: X, lambda: pd.DataFrame(X, columns=["one", "age"])):
        found = jaxlmm.fit(make(), Y, groups, na="drop")
        assert_same(found, whole)
        assert found.dropped.tolist() == [3, 41] and found.design.dropped.missing[-1] == ("subject", 1)
    term = jaxlmm.random_term(FRAME["subject"])
    assert_same(jaxlmm.fit(X, Y, random=[term], na="drop"), jaxlmm.fit(*left_out(X, [3]), random=[term.take(ROWS3)]))
    assert_same(jaxlmm.fit(X, Y, random=[groups.tolist()], na="drop"), whole)
    w = FRAME["w"].to_numpy(copy=True)
    w[5] = np.nan
    assert jaxlmm.fit(X, Y, groups, weights=w, na="drop").dropped.tolist() == [3, 5, 41]
    assert_same(jaxlmm.prepare(X, groups, na="drop").fit(Y), whole)
    with pytest.raises(ValueError, match="column 'x1'; drop these rows from X, Y and groups, or say na='drop'"):
        jaxlmm.fit(X, Y, FRAME["subject"])
    with pytest.raises(ValueError, match="in row 41; drop these rows from X, Y and groups, or say na='drop'"):
        jaxlmm.fit(X[:, :1], Y, groups)
    X[7, 1] = np.inf
    with pytest.raises(ValueError, match="X holds 1 NaN or infinite values"):
        jaxlmm.fit(X, Y, groups, na="drop")


KEPT2 = np.delete(np.arange(N), [3, 41])
ROWS3 = np.delete(np.arange(N), [3])


def left_out(X: np.ndarray, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.delete(X, rows, axis=0), np.delete(Y, rows, axis=0)


def test_shared_weights_and_labels_of_rows() -> None:
    frame = holes()
    frame.loc[5, "w"] = np.nan
    fit = jaxlmm.lmm(FORMULA, frame, Y, weights="w")
    assert fit.dropped.tolist() == [3, 5, 17, 41] and fit.design.dropped.missing[-1] == ("weights", 1)
    rows = np.delete(np.arange(N), fit.dropped)
    assert_same(fit, jaxlmm.lmm(FORMULA, FRAME.iloc[rows], Y[rows], weights=FRAME["w"].to_numpy()[rows]))
    # All rows are compared, those dropped too.
    ids = np.arange(100, 100 + N)
    jaxlmm.lmm(FORMULA, holes().set_index(ids), pd.DataFrame(Y, index=ids))
    with pytest.raises(ValueError, match="index"):
        jaxlmm.lmm(FORMULA, holes().set_index(ids[::-1]), pd.DataFrame(Y, index=ids))
    with pytest.raises(ValueError, match="Y has 57 rows, data has 60"):
        jaxlmm.lmm(FORMULA, holes(), Y[KEPT])


def test_long_tables() -> None:
    parts = [holes().assign(trial=np.arange(N), cell=j, y=Y[:, j]) for j in range(M)]
    fit = jaxlmm.lmm(f"y ~ {FORMULA}", pd.concat(parts, ignore_index=True), by="cell", obs="trial")
    assert_same(fit, expected())
    assert fit.dropped.tolist() == DROPPED
    other = pd.concat(parts, ignore_index=True)
    other.loc[3, "age"] = 1.0
    with pytest.raises(ValueError, match="column 'age' differs between the responses of observation trial=3"):
        jaxlmm.lmm(f"y ~ {FORMULA}", other, by="cell", obs="trial")


def test_what_a_fit_says_of_them() -> None:
    fit = jaxlmm.lmm(FORMULA, holes(), Y)
    assert "57 observations (3 rows dropped), 10 groups" in repr(fit)
    note = "3 of 60 rows dropped, in which values are missing (age in 1, cond in 1, subject in 1)."
    assert note in fit.summary() and note in fit.summary(2)
    assert fit.fitted().shape == (57, M) and len(expected().dropped) == 0 and "dropped" not in repr(expected())
    assert fit.to_dataset().attrs["n_dropped"] == 3


def test_predict_and_augment_have_every_row() -> None:
    fit, whole = jaxlmm.lmm(FORMULA, holes(), Y), expected()
    predicted = fit.predict(holes())
    assert np.flatnonzero(np.isnan(predicted[:, 0])).tolist() == [3, 17]
    np.testing.assert_allclose(predicted[KEPT], whole.fitted(), rtol=1e-6)
    # A row without a group has the population's prediction, as one of a new group.
    population = whole.predict(FRAME.iloc[[41]].drop(columns="subject"))
    np.testing.assert_allclose(predicted[41], population[0], rtol=1e-6)
    slopes = jaxlmm.lmm("cond + (0 + age | subject)", holes(), Y)
    assert np.flatnonzero(np.isnan(slopes.predict(holes())[:, 0])).tolist() == [3, 17]
    rows = fit.augment(2, data=holes())
    assert len(rows) == N and rows.index[rows[".fitted"].isna()].tolist() == DROPPED
    np.testing.assert_allclose(rows[".resid"].to_numpy()[KEPT], whole.resid()[:, 2], rtol=1e-5, atol=1e-9)
    assert fit.augment(2).index.tolist() == KEPT.tolist()
    assert fit.augment(2, data=holes().iloc[KEPT])[".fitted"].notna().all()
    with pytest.raises(ValueError, match="data has 58 rows, the fit has 57 observations"):
        fit.augment(2, data=holes().head(58))


def test_they_are_kept_in_files(tmp_path: Path) -> None:
    fit = jaxlmm.lmm(FORMULA, holes(), Y)
    for name in ("fit.npz", "fit.zarr"):
        fit.save(tmp_path / name)
        again = jaxlmm.load(tmp_path / name, Y=Y, data=holes())
        assert again.dropped.tolist() == DROPPED and again.design.dropped.why == fit.design.dropped.why
        np.testing.assert_array_equal(again.fitted(), fit.fitted())
        assert jaxlmm.load(tmp_path / name, Y=Y[KEPT]).n_obs == 57
        with pytest.raises(ValueError, match="Y"):
            jaxlmm.load(tmp_path / name, Y=Y[:58])
    jaxlmm.lmm(FORMULA, holes(), Y, out=tmp_path / "out.zarr", progress=False)
    assert jaxlmm.load(tmp_path / "out.zarr", Y=Y).dropped.tolist() == DROPPED
    frame = holes()
    frame.loc[20, "age"] = np.nan
    with pytest.raises(ValueError, match=r"the design .* is another"):
        jaxlmm.lmm(FORMULA, frame, Y, out=tmp_path / "out.zarr", progress=False, resume=True)


def test_models_that_dropped_other_rows_are_not_compared() -> None:
    fit, small = jaxlmm.lmm(FORMULA, holes(), Y), jaxlmm.lmm("cond + (1 | subject)", holes(), Y)
    with pytest.raises(ValueError, match=r"fit 0 has 58 observations.*drop the rows that either model misses"):
        jaxlmm.compare(small, fit, refit="ML")
    a, b = (FRAME.assign(z=np.where(np.arange(N) == k, np.nan, FRAME["age"])) for k in (3, 4))
    with pytest.raises(ValueError, match="fit 0 and fit 1 dropped different rows"):
        jaxlmm.compare(
            jaxlmm.lmm("z + (1 | subject)", a, Y), jaxlmm.lmm("z + cond + (1 | subject)", b, Y), refit="ML"
        )


def _all_missing() -> pd.DataFrame:
    return FRAME.assign(age=np.nan)


def _one_level() -> pd.DataFrame:
    return FRAME.assign(age=np.where(FRAME["cond"] == "a", FRAME["age"], np.nan))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "na-refuse": ({"na": "refuse"}, "column 'subject' has 1 missing value, the first in row 41; drop these rows"),
    "na-unknown": ({"na": "omit"}, "na must be one of 'drop', 'refuse', found 'omit'"),
    "na-all": ({"data": _all_missing()}, "all 60 rows miss a value (age in 60), so there is nothing to fit"),
    "na-level-lost": ({"data": _one_level()}, "factor 'cond' has the single"),
    "na-Y-without": ({"Y": Y[KEPT]}, "Y has 57 rows, data has 60; they must have the same rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(ValueError) as caught:
        jaxlmm.lmm(**{"formula": FORMULA, "data": holes(), "Y": Y} | change)
    assert message in str(caught.value)
    assert f"| `{case}` |" in (Path(__file__).parents[2] / "docs" / "bad-input.md").read_text()


def test_the_command_line_refuses_if_told(tmp_path: Path) -> None:
    holes().join(pd.DataFrame({"y": Y[:, 0]})).to_csv(tmp_path / "t.csv", index=False)
    arguments = ["fit", tmp_path / "t.csv", "--formula", f"y ~ {FORMULA}", "--out", tmp_path / "r.csv"]
    result = CliRunner().invoke(main, [*map(str, arguments), "--incomplete", "refuse"])
    assert result.exit_code == 1 and "column 'subject' has 1 missing value" in result.output


def test_as_lme4() -> None:
    """Numbers of reference/na.R: rows with NA in a covariate, a factor or a group, beside a missing response."""
    found = json.loads((REFERENCE / "na.json").read_text())
    data = pd.read_csv(REFERENCE / "na.csv")
    fit = jaxlmm.lmm(found["formula"], data)
    assert fit.n_used[0] == found["nobs"] and fit.n_obs - fit.n_used[0] == found["missing_responses"]
    np.testing.assert_allclose(fit.coef[0], found["coef"], rtol=1e-6)
    np.testing.assert_allclose(fit.se[0], found["se"], rtol=1e-5)
    np.testing.assert_allclose(fit.df[0], found["df"], rtol=1e-3)
    np.testing.assert_allclose(fit.loglik[0], found["loglik"], rtol=1e-9)
    rows = fit.augment(0, data=data)  # as na.exclude, which has NA where the response is missing too
    np.testing.assert_allclose(rows[".resid"], np.array(found["resid"], dtype=float), rtol=1e-4, atol=1e-6)
